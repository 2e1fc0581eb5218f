/** One conversation on the page: its messages, its answers as they grow, the turn on its way out. */

import { batch, computed, signal, type ReadonlySignal, type Signal } from "@preact/signals";
import type { Message, StoredGeneration } from "../wire/api";
import { isEnd, type Accepted, type End, type EndKind, type Part, type TurnFrame } from "../wire/frames";
import { fresh, isOver, retold, stored, type Generation } from "../wire/generation";
import { leafUnder, newest, rowsTo, type Entries, type Entry, type Row } from "./tree";

export interface Refusal {
  readonly code: string;
  readonly message: string;
  /** When a retry can succeed, milliseconds since 1970; null where nothing was promised. */
  readonly retryAt: number | null;
}

/** A turn that the server has not accepted yet. */
export interface Outgoing {
  readonly frame: TurnFrame;
  readonly refusal: Refusal | null;
  /** How often its id was made again. */
  readonly remade: number;
}

export class Thread {
  readonly entries: Signal<Entries> = signal(new Map());
  readonly leaf = signal<string | null>(null);
  readonly loading = signal(false);
  /** Whether the newest messages have been read, or there are none to read. */
  readonly loaded: Signal<boolean>;
  readonly problem = signal<string | null>(null);
  readonly olderCursor = signal<string | null>(null);
  readonly outgoing = signal<Outgoing | null>(null);
  readonly rows: ReadonlySignal<readonly Row[]> = computed(() => rowsTo(this.entries.value, this.leaf.value));
  /** Whether an answer of this conversation is being made. */
  readonly isRunning: ReadonlySignal<boolean> = computed(() => this.entries.value.size > 0 && this.running().length > 0);
  /** Whether a turn is on its way or being answered: no other may start. */
  readonly isBusy: ReadonlySignal<boolean> = computed(() => this.outgoing.value !== null || this.isRunning.value);
  readonly generations = new Map<string, Signal<Generation>>();
  /** Answers the user has stopped; the wish is repeated until an end is read. */
  readonly stopping = signal<ReadonlySet<string>>(new Set());
  /** Whether the server knows this conversation. */
  known: boolean;
  loadedAt = 0;
  private latestOrder = 0;
  private oldestOrder = 0;

  constructor(
    readonly id: string,
    known: boolean,
  ) {
    this.known = known;
    this.loaded = signal(!known);
  }

  /** The newest page, first or again. Messages read before stay; their answers take what history says. */
  showNewest(page: readonly Message[], cursor: string | null, leafId: string | null): void {
    batch(() => {
      const first = this.entries.value.size === 0;
      const before = this.leaf.value;
      this.insert([...page].reverse().filter((message) => !this.entries.value.has(message.id)), true);
      for (const message of page) this.adopt(message);
      if (first) this.olderCursor.value = cursor;
      const wanted = leafId && this.entries.value.has(leafId) ? leafId : newest(this.entries.value);
      if (first || before === null) this.leaf.value = wanted && leafUnder(this.entries.value, wanted);
      else this.leaf.value = leafUnder(this.entries.value, before);
    });
  }

  showOlder(page: readonly Message[], cursor: string | null): void {
    batch(() => {
      this.insert(page.filter((message) => !this.entries.value.has(message.id)), false);
      for (const message of page) this.adopt(message);
      this.olderCursor.value = cursor;
    });
  }

  /** The server has the turn: its message and the answer to come take their places. */
  accept(outgoing: Outgoing, accepted: Accepted): void {
    const { frame } = outgoing;
    const added: Message[] = [];
    let parent: string | null;
    if (frame.type === "send") {
      added.push(local(frame.message_id, "user", frame.parent_id ?? null, frame.content));
      parent = frame.message_id;
    } else if (frame.type === "continue") parent = frame.generation_id;
    else parent = this.entries.value.get(frame.generation_id)?.message.parent_id ?? null;
    added.push(local(accepted.generation_id, "assistant", parent, ""));
    batch(() => {
      this.insert(added.filter((message) => !this.entries.value.has(message.id)), true);
      const known = this.generations.get(accepted.generation_id);
      if (known) known.value = retold(known.value);
      else this.generations.set(accepted.generation_id, signal(fresh(accepted.generation_id)));
      this.leaf.value = accepted.generation_id;
      this.outgoing.value = null;
    });
  }

  choose(id: string): string {
    this.leaf.value = leafUnder(this.entries.value, id);
    return this.leaf.value;
  }

  generation(id: string): Signal<Generation> {
    let found = this.generations.get(id);
    if (!found) {
      found = signal(fresh(id));
      this.generations.set(id, found);
    }
    return found;
  }

  /** What HTTP says about an answer that could not be put together from frames. */
  overwrite(answer: StoredGeneration): Generation {
    const parts = partsOf(answer.parts, answer.text);
    const state = answer.end
      ? finished(answer.id, parts, { ...answer.end, type: answer.status as EndKind })
      : stored(answer.id, answer.epoch, parts);
    this.generation(answer.id).value = state;
    return state;
  }

  running(): Generation[] {
    return [...this.generations.values()].map((state) => state.value).filter((state) => !isOver(state));
  }

  wishStop(id: string): void {
    this.stopping.value = new Set([...this.stopping.value, id]);
  }

  stopped(id: string): void {
    if (this.stopping.value.has(id)) this.stopping.value = new Set([...this.stopping.value].filter((other) => other !== id));
  }

  private insert(messages: readonly Message[], later: boolean): void {
    if (messages.length === 0) return;
    const entries = new Map<string, Entry>(this.entries.value);
    for (const message of messages) {
      const order = later ? ++this.latestOrder : --this.oldestOrder;
      entries.set(message.id, { message, order });
    }
    this.entries.value = entries;
  }

  private adopt(message: Message): void {
    if (message.role !== "assistant") return;
    const known = this.generations.get(message.id);
    const parts = partsOf(message.parts, message.content);
    if (isEnd({ type: message.status })) {
      if (!known || !isOver(known.value)) this.generation(message.id).value = finished(message.id, parts, endOf(message));
    } else if (!known) this.generations.set(message.id, signal(stored(message.id, message.epoch ?? 0, parts)));
  }
}

function local(id: string, role: Message["role"], parent: string | null, content: string): Message {
  return { id, role, parent_id: parent, content, status: role === "user" ? "done" : "running" };
}

function partsOf(parts: readonly Part[] | null | undefined, text: string): readonly Part[] {
  if (parts && parts.length > 0) return parts;
  return text ? [{ i: 0, k: "text", d: text }] : [];
}

function finished(id: string, parts: readonly Part[], end: End): Generation {
  return { ...fresh(id), epoch: end.epoch, seq: end.seq, parts, status: end.type, end };
}

function endOf(message: Message): End {
  return {
    type: message.status as EndKind,
    generation_id: message.id,
    epoch: message.epoch ?? 0,
    seq: message.seq ?? -1,
    finish_reason: message.finish_reason ?? "",
    usage: message.usage ?? null,
    cost: message.cost ?? 0,
    model: message.model ?? "",
    provider: message.provider ?? "",
    code: message.code ?? null,
    message: message.message ?? null,
  };
}
