import { describe, expect, it } from "vitest";
import { advance, EMPTY, type Blocks } from "../src/text/blocks";

const SAMPLE = [
  "# Title",
  "",
  "A paragraph",
  "over two lines with a [link][ref].",
  "",
  "1. one",
  "2. two",
  "",
  "   still two",
  "3. three",
  "",
  "```python",
  "# not a heading",
  "",
  "print('x')",
  "```",
  "",
  "> quoted",
  "lazily",
  "",
  "| a | b |",
  "|---|---|",
  "| 1 | 2 |",
  "",
  "Setext",
  "======",
  "",
  "[ref]: https://example.org",
  "",
  "    indented code",
  "",
  "- a",
  "  - b",
  "",
  "---",
  "The end",
].join("\n");

const all = (blocks: Blocks): string[] => [...blocks.closed, blocks.open];

describe("blocks", () => {
  it("together are the text", () => {
    expect(all(advance(EMPTY, SAMPLE)).join("")).toBe(SAMPLE);
  });

  it("are the same whether the text comes whole or in pieces of any size", () => {
    const whole = all(advance(EMPTY, SAMPLE));
    for (const size of [1, 2, 3, 7, 20, 64]) {
      let blocks = EMPTY;
      for (let upto = size; upto < SAMPLE.length + size; upto += size) {
        blocks = advance(blocks, SAMPLE.slice(0, upto));
        expect(all(blocks).join("")).toBe(SAMPLE.slice(0, upto));
      }
      expect(all(blocks)).toEqual(whole);
    }
  });

  it("that are closed are never read again", () => {
    const before = advance(EMPTY, "one\n\ntwo\n\nthr");
    const after = advance(before, "one\n\ntwo\n\nthree\n\nfour");
    expect(after.closed.slice(0, 2)).toEqual(before.closed);
    expect(after.closedLength).toBeGreaterThan(before.closedLength);
  });

  it("start over when the text is another one", () => {
    const before = advance(EMPTY, "one\n\ntwo\n\nthree");
    expect(all(advance(before, "other\n\ntext"))).toEqual(["other\n\n", "text"]);
  });

  it("collect link definitions for blocks that refer to them", () => {
    expect(advance(EMPTY, SAMPLE).definitions).toBe("[ref]: https://example.org\n");
  });

  it("take all line ends for one", () => {
    expect(all(advance(EMPTY, "a\r\n\r\nb\rc"))).toEqual(["a\n\n", "b\nc"]);
  });

  it("cost linear time: 60,000 characters in 2,500 pieces", () => {
    const paragraph = "Some words of a paragraph, **bold** and `code`, that goes on for a while. ".repeat(6) + "\n\n";
    const text = paragraph.repeat(Math.ceil(60_000 / paragraph.length));
    const started = performance.now();
    let blocks = EMPTY;
    for (let upto = 0; upto <= text.length; upto += 24) blocks = advance(blocks, text.slice(0, upto));
    expect(blocks.closed.length).toBeGreaterThan(100);
    expect(performance.now() - started).toBeLessThan(2_000);
  });
});
