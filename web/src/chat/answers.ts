/** Answers in the making: frames applied to them, and their places asked for again after a loss. */

import type { Api } from "../wire/api";
import { generationOf, isEnd, type ErrorFrame, type GenerationFrame, type Notice } from "../wire/frames";
import { detached, isOver, reduce, retold, type Generation } from "../wire/generation";
import type { Link } from "../wire/link";
import { reason } from "./list";
import type { Thread } from "./thread";
import { toast } from "./toasts";

export class Answers {
  constructor(
    private readonly threads: ReadonlyMap<string, Thread>,
    private readonly api: Api,
    private readonly socket: Link,
  ) {}

  apply(frame: GenerationFrame): void {
    const id = generationOf(frame);
    for (const [thread, state] of this.holding(id)) {
      const step = reduce(state.value, frame);
      state.value = step.state;
      if (isEnd(frame) && isOver(step.state)) thread.stopped(step.state.id);
      if (step.need === "resume") this.resume(step.state);
      else if (step.need === "read") void this.read(thread, step.state.id);
    }
  }

  /** The connection is gone: nothing is appended until a later one says where it goes on. */
  detach(): void {
    for (const thread of this.threads.values()) {
      for (const state of thread.generations.values()) state.value = detached(state.value);
    }
  }

  resumeAll(): void {
    for (const thread of this.threads.values()) this.resumeIn(thread);
  }

  resumeIn(thread: Thread): void {
    for (const state of thread.running()) {
      if (!state.attached && !state.assembly) this.resume(state);
      if (thread.stopping.value.has(state.id)) this.socket.send({ type: "cancel", generation_id: state.id });
    }
  }

  stop(thread: Thread): void {
    for (const state of thread.running()) {
      thread.wishStop(state.id);
      this.socket.send({ type: "cancel", generation_id: state.id });
    }
  }

  /** A repeated frame was accepted once more: the answer comes from its start again. */
  retell(id: string): void {
    for (const [, state] of this.holding(id)) state.value = retold(state.value);
  }

  /** A `resume` or `cancel` was refused. What may help later is asked again by itself; else history is read. */
  refused(frame: ErrorFrame): boolean {
    const [found] = this.holding(frame.generation_id ?? null);
    if (!found || isOver(found[1].value)) return false;
    if (!frame.retryable) void this.read(found[0], found[1].value.id);
    return true;
  }

  noticed(frame: Notice): void {
    const [found] = this.holding(frame.generation_id ?? null);
    if (found && !isOver(found[1].value)) found[1].value = { ...found[1].value, notice: frame.message };
    else toast(frame.message);
  }

  private holding(id: string | null): [Thread, { value: Generation }][] {
    const found: [Thread, { value: Generation }][] = [];
    for (const thread of this.threads.values()) {
      const state = id === null ? undefined : thread.generations.get(id);
      if (state) found.push([thread, state]);
    }
    return found;
  }

  private resume(state: Generation): void {
    this.socket.send({ type: "resume", generation_id: state.id, epoch: state.epoch, seq: state.seq });
  }

  private async read(thread: Thread, id: string): Promise<void> {
    try {
      const state = thread.overwrite(await this.api.generation(id));
      if (!isOver(state)) this.resume(state);
    } catch (error) {
      toast(`The answer could not be read. ${reason(error)}`);
    }
  }
}
