/** The page's state, and what a user can do with it. */

import { signal } from "@preact/signals";
import { ApiError, type Api, type Model } from "../wire/api";
import { turnId, type ErrorFrame, type ServerFrame, type TurnFrame } from "../wire/frames";
import { IdSource } from "../wire/ids";
import { Link, type Endpoint, type LinkStatus } from "../wire/link";
import { titleOf } from "../text/format";
import { Account } from "./account";
import { Answers } from "./answers";
import { ConversationList, reason } from "./list";
import { recall, remember } from "./memory";
import { Thread, type Refusal } from "./thread";
import { toast } from "./toasts";

const MAX_THREADS = 12;
const MAX_REMADE = 2;
const MAX_UNKNOWN = 4;
const UNATTACHED_CHECK_MS = 10_000;
/** A refusal with a shorter promise than this is not worth the user's attention. */
const SOON_MS = 2_000;
const STALE_MS = 15_000;

export class Chat {
  readonly account: Account;
  readonly models = signal<readonly Model[]>([]);
  readonly model = signal<string>(recall("model") ?? "");
  readonly thread = signal<Thread | null>(null);
  readonly link = signal<LinkStatus>({ kind: "idle" });
  readonly list: ConversationList;
  private readonly ids = new IdSource();
  private readonly threads = new Map<string, Thread>();
  private readonly unknowns = new Map<string, number>();
  readonly answers: Answers;
  private readonly socket: Link;

  constructor(readonly api: Api) {
    this.list = new ConversationList(api);
    this.account = new Account(api);
    this.account.onEntered = () => this.entered();
    this.account.onLeft = () => this.left();
    this.socket = new Link({
      endpoint: (ticketed) => this.endpoint(ticketed),
      authenticate: async () => {
        const renewed = await api.refresh();
        if (!renewed) this.account.left();
        return renewed;
      },
      onStatus: (status) => this.linkChanged(status),
      onFrame: (frame) => this.receive(frame),
      onUnanswered: (frame) =>
        this.refuse(turnId(frame), { code: "unknown", message: "The server did not answer.", retryAt: null }),
    });
    this.answers = new Answers(this.threads, api, this.socket);
    setInterval(() => this.socket.isOpen && this.answers.resumeAll(), UNATTACHED_CHECK_MS);
  }

  // --- the connection

  reconnect(): void {
    this.socket.hurry();
  }

  /** The page is looked at again after a while: other devices may have been busy. */
  wake(): void {
    if (this.account.phase.value !== "chat") return;
    this.socket.hurry();
    const thread = this.thread.value;
    if (thread && Date.now() - thread.loadedAt > STALE_MS) {
      void this.load(thread);
      void this.list.refresh();
    }
  }

  private entered(): void {
    this.socket.start();
    void this.list.refresh();
    void this.api.models().then(
      (models) => (this.models.value = models.data),
      (error: unknown) => toast(`The models could not be listed. ${reason(error)}`),
    );
  }

  private left(): void {
    this.socket.stop();
    this.threads.clear();
    this.unknowns.clear();
    this.thread.value = null;
    this.list.clear();
  }

  private async endpoint(ticketed: boolean): Promise<Endpoint> {
    const config = this.account.config.value ?? (await this.api.config());
    const foreign = new URL(config.ws_url, location.href).hostname !== location.hostname;
    if (!ticketed && !foreign) return { url: config.ws_url, ticket: null };
    const ticket = await this.api.ticket();
    return { url: ticket.url || config.ws_url, ticket: ticket.ticket };
  }

  // --- conversations

  /** Shows a conversation, or an empty page for a new one. */
  open(id: string | null): void {
    const shown = this.thread.value;
    if (id === null) {
      if (!shown || shown.known) this.thread.value = new Thread(this.ids.next(), false);
      return;
    }
    if (shown?.id === id) return;
    const thread = this.threads.get(id) ?? new Thread(id, true);
    this.keep(thread);
    this.thread.value = thread;
    void this.load(thread);
  }

  chooseModel(id: string): void {
    this.model.value = id;
    remember("model", id);
  }

  async load(thread: Thread): Promise<void> {
    if (thread.loading.value || !thread.known) return;
    thread.loading.value = true;
    try {
      const [page, conversation] = await Promise.all([
        this.api.messages(thread.id, null),
        this.list.find(thread.id) ?? this.api.conversation(thread.id),
      ]);
      thread.showNewest(page.data, page.next_cursor, conversation.leaf_id ?? null);
      thread.loadedAt = Date.now();
      thread.loaded.value = true;
      thread.problem.value = null;
      this.answers.resumeIn(thread);
    } catch (error) {
      const gone = error instanceof ApiError && error.status === 404;
      thread.problem.value = gone ? "This conversation does not exist or has been deleted." : reason(error);
    } finally {
      thread.loading.value = false;
    }
  }

  async loadOlder(thread: Thread): Promise<void> {
    const cursor = thread.olderCursor.value;
    if (!cursor || thread.loading.value) return;
    thread.loading.value = true;
    try {
      const page = await this.api.messages(thread.id, cursor);
      thread.showOlder(page.data, page.next_cursor);
    } catch (error) {
      toast(`Older messages could not be read. ${reason(error)}`);
    } finally {
      thread.loading.value = false;
    }
  }

  async remove(id: string): Promise<void> {
    const shown = this.thread.value?.id === id;
    if (!(await this.list.remove(id))) return;
    this.threads.delete(id);
    if (shown && this.thread.value?.id === id) location.hash = "#/";
  }

  choose(thread: Thread, id: string): void {
    const leaf = thread.choose(id);
    this.api.chooseBranch(thread.id, leaf).catch((error: unknown) => toast(`The choice was not kept. ${reason(error)}`));
  }

  // --- turns

  send(thread: Thread, content: string): void {
    const parent = thread.leaf.value;
    const model = this.chosenModel();
    const frame: TurnFrame = {
      type: "send",
      message_id: this.ids.next(this.latestTurn(thread)),
      conversation_id: thread.id,
      content,
      ...(parent ? { parent_id: parent } : {}),
      ...(model ? { model } : {}),
    };
    thread.outgoing.value = { frame, refusal: null, remade: 0 };
    void this.dispatch(thread);
  }

  regenerate(thread: Thread, generationId: string): void {
    const model = this.chosenModel();
    const turn_id = this.ids.next(this.latestTurn(thread));
    const frame: TurnFrame = { type: "regenerate", turn_id, generation_id: generationId, ...(model ? { model } : {}) };
    thread.outgoing.value = { frame, refusal: null, remade: 0 };
    void this.dispatch(thread);
  }

  continueAnswer(thread: Thread, generationId: string): void {
    const turn_id = this.ids.next(this.latestTurn(thread));
    thread.outgoing.value = { frame: { type: "continue", turn_id, generation_id: generationId }, refusal: null, remade: 0 };
    void this.dispatch(thread);
  }

  /** Sends a refused turn again, under its own id. */
  retry(thread: Thread): void {
    const outgoing = thread.outgoing.value;
    if (!outgoing) return;
    thread.outgoing.value = { ...outgoing, refusal: null };
    this.unknowns.delete(turnId(outgoing.frame));
    void this.dispatch(thread);
  }

  /** Gives up a refused turn; returns the text of its message. */
  discard(thread: Thread): string {
    const outgoing = thread.outgoing.value;
    thread.outgoing.value = null;
    if (!outgoing) return "";
    this.socket.answered(turnId(outgoing.frame));
    return outgoing.frame.type === "send" ? outgoing.frame.content : "";
  }

  private chosenModel(): string | null {
    return this.models.value.some((model) => model.id === this.model.value) ? this.model.value : null;
  }

  private latestTurn(thread: Thread): string {
    return thread.rows.value.findLast((row) => row.message.role === "user")?.message.id ?? "";
  }

  private async dispatch(thread: Thread): Promise<void> {
    const outgoing = thread.outgoing.value;
    if (!outgoing) return;
    const title = outgoing.frame.type === "send" ? titleOf(outgoing.frame.content) : null;
    try {
      if (!thread.known) {
        this.list.touch(await this.api.createConversation(thread.id, title ?? ""));
        thread.known = true;
        this.keep(thread);
        if (this.thread.value === thread) history.pushState(null, "", `#/c/${thread.id}`);
      } else if (title && !this.list.find(thread.id)?.title && thread.entries.value.size === 0) {
        void this.list.rename(thread.id, title);
      }
    } catch (error) {
      const wait = error instanceof ApiError ? error.retryAfterMs : null;
      const retryAt = wait === null ? null : Date.now() + wait;
      const code = error instanceof ApiError ? error.code : "internal";
      this.refuse(turnId(outgoing.frame), { code, message: reason(error), retryAt });
      return;
    }
    if (thread.outgoing.value !== outgoing) return;
    if (!this.socket.submit(outgoing.frame)) {
      this.refuse(turnId(outgoing.frame), { code: "busy", message: "Too many messages wait for the server.", retryAt: null });
    }
  }

  private waiting(id: string): Thread | null {
    const all = this.thread.value ? [this.thread.value, ...this.threads.values()] : [...this.threads.values()];
    return all.find((thread) => thread.outgoing.value && turnId(thread.outgoing.value.frame) === id) ?? null;
  }

  private refuse(id: string, refusal: Refusal): void {
    const thread = this.waiting(id);
    const outgoing = thread?.outgoing.value;
    if (thread && outgoing) thread.outgoing.value = { ...outgoing, refusal };
  }

  // --- frames

  private linkChanged(status: LinkStatus): void {
    this.link.value = status;
    if (status.kind !== "open") this.answers.detach();
    else if (this.thread.value?.outgoing.value?.refusal?.code === "offline") this.retry(this.thread.value);
  }

  private receive(frame: ServerFrame): void {
    switch (frame.type) {
      case "welcome":
        this.ids.learn(frame.time);
        this.answers.resumeAll();
        return;
      case "accepted": {
        const thread = this.waiting(frame.message_id);
        this.unknowns.delete(frame.message_id);
        if (thread?.outgoing.value) thread.accept(thread.outgoing.value, frame);
        else this.answers.retell(frame.generation_id);
        if (thread) this.list.touch(this.list.find(thread.id) ?? { id: thread.id, title: null });
        return;
      }
      case "error":
        this.erred(frame);
        return;
      case "notice":
        this.answers.noticed(frame);
        return;
      case "event":
        this.changed(frame.name, frame.data);
        return;
      case "drain":
      case "pong":
        return;
      default:
        this.answers.apply(frame);
    }
  }

  private erred(frame: ErrorFrame): void {
    const id = frame.message_id ?? frame.turn_id;
    const thread = id ? this.waiting(id) : null;
    const outgoing = thread?.outgoing.value;
    if (!id || !thread || !outgoing) {
      if (!this.answers.refused(frame)) toast(frame.message);
      return;
    }
    if (frame.code === "id_out_of_order" && outgoing.remade < MAX_REMADE) {
      const made = this.ids.next(this.latestTurn(thread));
      const again: TurnFrame =
        outgoing.frame.type === "send" ? { ...outgoing.frame, message_id: made } : { ...outgoing.frame, turn_id: made };
      thread.outgoing.value = { frame: again, refusal: null, remade: outgoing.remade + 1 };
      this.socket.submit(again);
      return;
    }
    const unknowns = (this.unknowns.get(id) ?? 0) + 1;
    const soon = frame.retryable && frame.retry_after_ms != null && frame.retry_after_ms <= SOON_MS;
    if ((frame.code === "unknown" || soon) && unknowns <= MAX_UNKNOWN) {
      this.unknowns.set(id, unknowns);
      const delay = Math.max(frame.retry_after_ms ?? 0, 250 * 2 ** unknowns);
      setTimeout(() => thread.outgoing.value === outgoing && this.socket.submit(outgoing.frame), delay);
      return;
    }
    const retryAt = frame.retry_after_ms == null ? null : Date.now() + frame.retry_after_ms;
    this.refuse(id, { code: frame.code, message: frame.message, retryAt });
  }

  private changed(name: string, data: Readonly<Record<string, unknown>>): void {
    void this.list.refresh();
    const id = data["conversation_id"];
    for (const thread of this.threads.values()) {
      // Where events were left out, each of them may have changed.
      if ((thread.id === id || name === "missed") && thread.outgoing.value === null) void this.load(thread);
    }
    if (name.startsWith("quota") && typeof data["message"] === "string") toast(data["message"]);
  }

  private keep(thread: Thread): void {
    this.threads.delete(thread.id);
    this.threads.set(thread.id, thread);
    for (const [id, old] of this.threads) {
      if (this.threads.size <= MAX_THREADS) break;
      if (old !== this.thread.value && old.running().length === 0 && !old.outgoing.value) this.threads.delete(id);
    }
  }
}
