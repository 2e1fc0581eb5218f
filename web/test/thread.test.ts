import { describe, expect, it } from "vitest";
import { Thread, type Outgoing } from "../src/chat/thread";
import type { Message } from "../src/wire/api";
import { isOver, textOf } from "../src/wire/generation";

function question(id: string, parent: string | null): Message {
  return { id, role: "user", parent_id: parent, content: `say ${id}`, status: "done" };
}

function answer(id: string, parent: string, status = "done", content = `said ${id}`): Message {
  return { id, role: "assistant", parent_id: parent, content, status, epoch: 0, seq: 3, model: "m" };
}

const PAGE = [answer("a2", "u2"), question("u2", "a1"), answer("a1", "u1"), question("u1", null)];

const shown = (thread: Thread): string[] => thread.rows.value.map((row) => row.message.id);
const send = (id: string, parent: string): Outgoing => ({
  frame: { type: "send", message_id: id, conversation_id: "c", content: "hello", parent_id: parent },
  refusal: null,
  remade: 0,
});

describe("a thread", () => {
  it("shows the newest page in order, and older ones before it", () => {
    const thread = new Thread("c", true);
    thread.showNewest(PAGE.slice(0, 2), "older", null);
    expect([shown(thread), thread.olderCursor.value]).toEqual([["u2", "a2"], "older"]);
    thread.showOlder(PAGE.slice(2), null);
    expect([shown(thread), thread.olderCursor.value]).toEqual([["u1", "a1", "u2", "a2"], null]);
  });

  it("shows the branch that was chosen", () => {
    const thread = new Thread("c", true);
    thread.showNewest([answer("b1", "u1"), ...PAGE], null, "a1");
    expect(shown(thread)).toEqual(["u1", "a1", "u2", "a2"]);
    expect(thread.choose("b1")).toBe("b1");
    expect(shown(thread)).toEqual(["u1", "b1"]);
  });

  it("waits for the text of an answer that still runs, showing what is stored", () => {
    const thread = new Thread("c", true);
    thread.showNewest([answer("a1", "u1", "running", "half"), question("u1", null)], null, null);
    expect(thread.isRunning.value).toBe(true);
    const [running] = thread.running();
    expect([running?.seq, running?.attached, textOf(running?.parts ?? [])]).toEqual([-1, false, "half"]);
  });

  it("puts an accepted turn at the end of what is shown", () => {
    const thread = new Thread("c", true);
    thread.showNewest(PAGE, null, null);
    const outgoing = send("u3", "a2");
    thread.outgoing.value = outgoing;
    expect([thread.isBusy.value, thread.isRunning.value]).toEqual([true, false]);
    thread.accept(outgoing, { type: "accepted", message_id: "u3", generation_id: "a3" });
    expect(shown(thread).slice(-2)).toEqual(["u3", "a3"]);
    expect([thread.isBusy.value, thread.isRunning.value, thread.outgoing.value]).toEqual([true, true, null]);
  });

  it("puts a regenerated answer beside the old one, a continuation after it", () => {
    const thread = new Thread("c", true);
    thread.showNewest(PAGE.slice(2), null, null);
    const accepted = (id: string) => ({ type: "accepted", message_id: "t", generation_id: id }) as const;
    thread.accept(
      { frame: { type: "regenerate", turn_id: "t", generation_id: "a1" }, refusal: null, remade: 0 },
      accepted("b1"),
    );
    expect(thread.rows.value.at(-1)?.alternatives).toEqual(["a1", "b1"]);
    thread.accept({ frame: { type: "continue", turn_id: "t", generation_id: "b1" }, refusal: null, remade: 0 }, accepted("c1"));
    expect(thread.rows.value.at(-1)?.chain.map((message) => message.id)).toEqual(["b1", "c1"]);
  });

  it("takes from history what ended elsewhere, and keeps what is being told here", () => {
    const thread = new Thread("c", true);
    thread.showNewest([answer("a1", "u1", "running", "half"), question("u1", null)], null, null);
    const before = thread.generation("a1").value;
    thread.showNewest([answer("a1", "u1", "running", "half more"), question("u1", null)], null, null);
    expect(thread.generation("a1").value).toBe(before);
    thread.showNewest([answer("a1", "u1", "cancelled", "half more"), question("u1", null)], null, null);
    const after = thread.generation("a1").value;
    expect([isOver(after), after.status, textOf(after.parts)]).toEqual([true, "cancelled", "half more"]);
    expect(thread.isRunning.value).toBe(false);
  });

  it("shows messages that another device has added", () => {
    const thread = new Thread("c", true);
    thread.showNewest(PAGE.slice(2), null, null);
    thread.showNewest(PAGE, null, null);
    expect(shown(thread)).toEqual(["u1", "a1", "u2", "a2"]);
  });

  it("is put right by the stored answer where frames could not", () => {
    const thread = new Thread("c", true);
    thread.showNewest([answer("a1", "u1", "running", "half"), question("u1", null)], null, null);
    const end = {
      type: "done",
      generation_id: "a1",
      epoch: 2,
      seq: 9,
      finish_reason: "stop",
      usage: null,
      cost: 0,
      model: "m",
      provider: "p",
      code: null,
      message: null,
    } as const;
    thread.overwrite({ id: "a1", status: "done", epoch: 2, seq: 9, text: "whole", parts: [], end });
    const state = thread.generation("a1").value;
    expect([isOver(state), state.epoch, state.seq, textOf(state.parts)]).toEqual([true, 2, 9, "whole"]);
  });

  it("remembers a wish to stop until the answer has ended", () => {
    const thread = new Thread("c", true);
    thread.wishStop("a1");
    expect(thread.stopping.value.has("a1")).toBe(true);
    thread.stopped("a1");
    expect(thread.stopping.value.size).toBe(0);
  });
});
