import { expect, it } from "vitest";
import { leafUnder, newest, rowsTo, type Entries } from "../src/chat/tree";
import type { Message } from "../src/wire/api";

function entries(...rows: [id: string, role: Message["role"], parent: string | null][]): Entries {
  return new Map(
    rows.map(([id, role, parent_id], order) => [id, { message: { id, role, parent_id, content: id, status: "done" }, order }]),
  );
}

const shape = (all: Entries, leaf: string): string[][] => rowsTo(all, leaf).map((row) => row.chain.map((message) => message.id));

it("the path from a leaf to the root is shown", () => {
  const all = entries(["u1", "user", null], ["a1", "assistant", "u1"], ["u2", "user", "a1"], ["a2", "assistant", "u2"]);
  expect(shape(all, "a2")).toEqual([["u1"], ["a1"], ["u2"], ["a2"]]);
  expect(newest(all)).toBe("a2");
});

it("answers to the same message are alternatives", () => {
  const all = entries(["u1", "user", null], ["a1", "assistant", "u1"], ["b1", "assistant", "u1"], ["u2", "user", "a1"]);
  const rows = rowsTo(all, "b1");
  expect(rows.map((row) => [row.message.id, row.alternatives, row.chosen])).toEqual([
    ["u1", ["u1"], 0],
    ["b1", ["a1", "b1"], 1],
  ]);
  expect(leafUnder(all, "a1")).toBe("u2");
});

it("a continuation is joined with the answer that it goes on from", () => {
  const all = entries(["u1", "user", null], ["a1", "assistant", "u1"], ["c1", "assistant", "a1"], ["c2", "assistant", "c1"]);
  expect(shape(all, "c2")).toEqual([["u1"], ["a1", "c1", "c2"]]);
});

it("a page whose older messages were not read yet starts where they are missing", () => {
  const all = entries(["u9", "user", "a8"], ["a9", "assistant", "u9"]);
  expect(shape(all, "a9")).toEqual([["u9"], ["a9"]]);
});

it("a ring of parents, which no server makes, does not hang the page", () => {
  const all = entries(["x", "user", "y"], ["y", "user", "x"]);
  expect(rowsTo(all, "x").length).toBeLessThanOrEqual(3);
  expect(["x", "y"]).toContain(leafUnder(all, "x"));
});
