import { describe, expect, it } from "vitest";
import type { Delta, End, GenerationFrame, PartKind, Snapshot } from "../src/wire/frames";
import { detached, fresh, MAX_REPAIRS, reduce, retold, stored, textOf, type Generation } from "../src/wire/generation";

const ID = "gen_1";

function delta(e: number, n: number, d: string, k?: PartKind, i?: number): Delta {
  return { type: "delta", g: ID, e, n, d, ...(k ? { k } : {}), ...(i === undefined ? {} : { i }) };
}

function end(type: End["type"], epoch: number, seq: number): End {
  return {
    type,
    generation_id: ID,
    epoch,
    seq,
    finish_reason: "stop",
    usage: null,
    cost: 0,
    model: "m",
    provider: "p",
    code: null,
    message: null,
  };
}

function snapshot(epoch: number, seq: number, at: number, d: string, more: boolean): Snapshot {
  return { type: "snapshot", generation_id: ID, epoch, seq, at, parts: d ? [{ i: 0, k: "text", d }] : [], more };
}

function play(state: Generation, ...frames: GenerationFrame[]): Generation {
  return frames.reduce((now, frame) => {
    const step = reduce(now, frame);
    expect(step.need).toBe("nothing");
    return step.state;
  }, state);
}

const text = (state: Generation): string => textOf(state.parts);

describe("deltas", () => {
  it("append in order and tell where the text stands", () => {
    const state = play(fresh(ID), delta(0, 0, "Hel"), delta(0, 3, "lo, "), delta(0, 4, "you"));
    expect(text(state)).toBe("Hello, you");
    expect([state.epoch, state.seq, state.status]).toEqual([0, 4, "running"]);
  });

  it("are appended once, however often they come", () => {
    const state = play(fresh(ID), delta(0, 0, "a"), delta(0, 2, "bc"), delta(0, 2, "bc"), delta(0, 0, "a"), delta(0, 3, "d"));
    expect(text(state)).toBe("abcd");
  });

  it("go to the part that they name", () => {
    const state = play(
      fresh(ID),
      delta(0, 0, "let me ", "reasoning", 0),
      delta(0, 1, "The ", "text", 1),
      delta(0, 2, "see", "reasoning", 0),
      delta(0, 3, '{"q":1}', "tool_call", 2),
      delta(0, 4, "end", "text", 1),
    );
    expect(textOf(state.parts, "reasoning")).toBe("let me see");
    expect(text(state)).toBe("The end");
    expect(textOf(state.parts, "tool_call")).toBe('{"q":1}');
    expect(state.parts.map((part) => part.i)).toEqual([0, 1, 2]);
  });

  it("are numbered within their kind", () => {
    const state = play(fresh(ID), delta(0, 0, "let me see", "reasoning"), delta(0, 1, "{}", "tool_call"), delta(0, 2, "Yes."));
    expect(text(state)).toBe("Yes.");
    expect(textOf(state.parts, "reasoning")).toBe("let me see");
    expect(textOf(state.parts, "tool_call")).toBe("{}");
  });

  it("of a greater epoch drop the older text, and those of a smaller one are ignored", () => {
    const state = play(fresh(ID), delta(0, 5, "old"), delta(2, 0, "new"), delta(1, 9, "late"), delta(0, 6, "later"));
    expect(text(state)).toBe("new");
    expect([state.epoch, state.seq]).toEqual([2, 0]);
  });

  it("are ignored while nothing has said where a new connection goes on", () => {
    const state = play(detached(play(fresh(ID), delta(0, 1, "ab"))), delta(0, 9, "hole"));
    expect(text(state)).toBe("ab");
    expect(state.seq).toBe(1);
  });

  it("do not change the state they started from", () => {
    const before = play(fresh(ID), delta(0, 0, "a"));
    reduce(before, delta(0, 1, "b"));
    expect(text(before)).toBe("a");
  });
});

describe("a restart", () => {
  it("drops what was shown, and the new epoch follows", () => {
    const restart = { type: "restart", generation_id: ID, epoch: 3, reason: "router_lost" } as const;
    const state = play(fresh(ID), delta(0, 4, "old"), restart);
    expect(text(state)).toBe("");
    expect(state.status).toBe("waiting");
    expect(text(play(state, delta(0, 5, "dead"), delta(3, 0, "alive")))).toBe("alive");
  });

  it("of an epoch that is known already changes nothing", () => {
    const state = play(fresh(ID), delta(2, 0, "two"), { type: "restart", generation_id: ID, epoch: 1, reason: "x" });
    expect(text(state)).toBe("two");
  });
});

describe("resuming", () => {
  const resumed = (epoch: number, seq: number): GenerationFrame => ({ type: "resumed", generation_id: ID, epoch, seq });

  it("goes on from the last delta that was seen", () => {
    const lost = detached(play(fresh(ID), delta(0, 3, "abcd")));
    expect(text(play(lost, resumed(0, 3), delta(0, 5, "ef")))).toBe("abcdef");
  });

  it("from nothing replaces the text that was read over HTTP", () => {
    const read = stored(ID, 1, [{ i: 0, k: "text", d: "half a sen" }]);
    expect(read.seq).toBe(-1);
    expect(text(read)).toBe("half a sen");
    const asked = play(read, resumed(1, -1));
    expect(text(asked)).toBe("half a sen");
    expect(text(play(asked, delta(1, 2, "half a"), delta(1, 7, " sentence")))).toBe("half a sentence");
    expect(text(play(asked, end("interrupted", 1, -1)))).toBe("");
  });

  it("into a newer epoch starts over", () => {
    const lost = detached(play(fresh(ID), delta(0, 3, "abcd")));
    expect(text(play(lost, resumed(1, -1), delta(1, 0, "new")))).toBe("new");
  });

  it("at another place than was asked for asks again, from the start", () => {
    const lost = detached(play(fresh(ID), delta(0, 3, "abcd")));
    const step = reduce(lost, resumed(0, 2));
    expect(step.need).toBe("resume");
    expect([step.state.epoch, step.state.seq, step.state.attached]).toEqual([0, -1, false]);
  });
});

it("an answer that is told again from its start is shown once", () => {
  const state = play(fresh(ID), delta(0, 3, "abcd"));
  expect(text(retold(state))).toBe("abcd");
  expect(text(play(retold(state), delta(0, 6, "abcdefg")))).toBe("abcdefg");
  const over = play(state, end("done", 0, 3));
  expect(retold(over)).toBe(over);
});

describe("a snapshot", () => {
  it("in one piece replaces what is shown", () => {
    const lost = detached(play(fresh(ID), delta(0, 3, "abcd")));
    const state = play(lost, snapshot(0, 9, 0, "everything", false), delta(0, 10, "!"));
    expect(text(state)).toBe("everything!");
  });

  it("may be empty", () => {
    const state = play(detached(play(fresh(ID), delta(0, 3, "abcd"))), snapshot(1, -1, 0, "", false));
    expect(text(state)).toBe("");
    expect([state.epoch, state.seq, state.attached]).toEqual([1, -1, true]);
  });

  it("in pieces is shown when it is complete; characters are counted as code points", () => {
    let state = detached(play(fresh(ID), delta(0, 3, "abcd")));
    state = play(state, snapshot(0, 8, 0, "😀é", true));
    expect(text(state)).toBe("abcd");
    state = play(state, snapshot(0, 8, 2, "xy", true), delta(0, 9, "early"), snapshot(0, 8, 4, "z", false));
    expect(text(state)).toBe("😀éxyz");
    expect(state.seq).toBe(8);
  });

  it("with a piece missing is asked for again", () => {
    const step = reduce(play(detached(fresh(ID)), snapshot(0, 8, 0, "ab", true)), snapshot(0, 8, 4, "ef", false));
    expect(step.need).toBe("resume");
    expect([step.state.seq, step.state.assembly]).toEqual([-1, null]);
  });

  it("whose beginning was lost with the connection is asked for again", () => {
    const begun = play(detached(fresh(ID)), snapshot(0, 8, 0, "ab", true));
    expect(reduce(detached(begun), snapshot(0, 8, 2, "cd", false)).need).toBe("resume");
  });

  it("of an older epoch is ignored", () => {
    const state = play(fresh(ID), delta(2, 0, "two"), snapshot(1, 5, 0, "one", false));
    expect(text(state)).toBe("two");
  });
});

describe("an end", () => {
  it.each(["done", "cancelled", "interrupted", "failed"] as const)("%s is shown on complete text", (type) => {
    const state = play(fresh(ID), delta(0, 3, "abcd"), end(type, 0, 3));
    expect([state.status, text(state)]).toEqual([type, "abcd"]);
    expect(state.end?.model).toBe("m");
  });

  it("told twice changes nothing, nor does anything after it", () => {
    const over = play(fresh(ID), delta(0, 3, "abcd"), end("done", 0, 3));
    expect(play(over, end("cancelled", 0, 3), delta(0, 4, "e"), delta(1, 0, "f"), snapshot(1, 1, 0, "g", false))).toBe(over);
  });

  it("before its text has come asks for the rest and is not shown", () => {
    const step = reduce(play(fresh(ID), delta(0, 3, "abcd")), end("done", 0, 7));
    expect(step.need).toBe("resume");
    expect([step.state.end, step.state.epoch, step.state.seq]).toEqual([null, 0, 3]);
    const tail = { type: "resumed", generation_id: ID, epoch: 0, seq: 3 } as const;
    const state = play(step.state, tail, delta(0, 7, "efgh"), end("done", 0, 7));
    expect([state.status, text(state)]).toEqual(["done", "abcdefgh"]);
  });

  it("of a later epoch asks for that epoch's text from its start", () => {
    const step = reduce(play(fresh(ID), delta(0, 3, "abcd")), end("interrupted", 2, 1));
    expect([step.need, step.state.epoch, step.state.seq]).toEqual(["resume", 2, -1]);
  });

  it("without any text empties what is shown", () => {
    const state = play(fresh(ID), delta(0, 3, "abcd"), end("failed", 1, -1));
    expect([state.status, text(state)]).toEqual(["failed", ""]);
  });

  it("of a dead epoch is ignored", () => {
    const state = play(fresh(ID), delta(1, 0, "b"), end("interrupted", 0, 3));
    expect(state.end).toBeNull();
  });

  it("that never fits leads to reading the answer over HTTP, after a bounded number of questions", () => {
    let state = play(fresh(ID), delta(0, 3, "abcd"));
    for (let i = 0; i < MAX_REPAIRS; i++) {
      const step = reduce(state, end("done", 0, 9));
      expect(step.need).toBe("resume");
      state = step.state;
    }
    expect(reduce(state, end("done", 0, 9)).need).toBe("read");
  });
});

describe("a queue", () => {
  it("is told until the first text comes", () => {
    const queued = play(fresh(ID), { type: "queued", generation_id: ID, position: 3, eta_s: 12 });
    expect([queued.status, queued.queue]).toEqual(["queued", { position: 3, etaS: 12 }]);
    const running = play(queued, delta(0, 0, "a"));
    expect([running.status, running.queue]).toEqual(["running", null]);
  });
});

it("a frame of a later version changes nothing", () => {
  const state = play(fresh(ID), delta(0, 0, "a"));
  expect(reduce(state, { type: "sparkle", generation_id: ID } as never)).toEqual({ state, need: "nothing" });
});

it("any mix of losses, repeats and coalescing ends at the stored text", () => {
  const words = Array.from({ length: 40 }, (_, n) => `w${n} `);
  for (let seed = 1; seed <= 300; seed++) {
    let rng = seed * 2654435761;
    const pick = (below: number): number => {
      rng = (Math.imul(rng ^ (rng >>> 15), 2246822519) + 0x9e3779b9) >>> 0;
      return rng % below;
    };
    let state = fresh(ID);
    let sent = -1;
    while (!state.end) {
      const what = pick(10);
      if (what === 0) {
        state = detached(state);
        const known = state.seq;
        state = reduce(state, { type: "resumed", generation_id: ID, epoch: 0, seq: known }).state;
        sent = known;
      } else if (what === 1) {
        state = reduce(detached(state), snapshot(0, sent, 0, words.slice(0, sent + 1).join(""), false)).state;
      } else if (what === 2 && sent >= 0) {
        state = reduce(state, delta(0, sent, words[sent] ?? "")).state;
      } else if (sent < words.length - 1) {
        const upto = Math.min(words.length - 1, sent + 1 + pick(4));
        state = reduce(state, delta(0, upto, words.slice(sent + 1, upto + 1).join(""))).state;
        sent = upto;
      } else state = reduce(state, end("done", 0, words.length - 1)).state;
    }
    expect(text(state)).toBe(words.join(""));
  }
});
