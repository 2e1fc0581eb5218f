/**
 * Markdown cut into top-level blocks while it grows.
 *
 * Only the last block can still change, so only it is read again when text arrives: the cost of an answer is linear in
 * its length, not quadratic.
 */

import { Lexer } from "marked";

export interface Blocks {
  /** Length of the source that `closed` covers. */
  readonly closedLength: number;
  readonly closed: readonly string[];
  readonly open: string;
  /** Link definitions met so far; a block that refers to one needs it to render. */
  readonly definitions: string;
  readonly source: string;
}

export const EMPTY: Blocks = { closedLength: 0, closed: [], open: "", definitions: "", source: "" };

/** The blocks of `text`, continuing from those of a prefix of it; anything else starts over. */
export function advance(previous: Blocks, text: string): Blocks {
  const source = text.includes("\r") ? text.replace(/\r\n?/g, "\n") : text;
  if (source === previous.source) return previous;
  const from = source.startsWith(previous.source) ? previous : EMPTY;
  const tokens = new Lexer().blockTokens(source.slice(from.closedLength), []);
  let last = tokens.length - 1;
  while (last > 0 && tokens[last]?.type === "space") last -= 1;
  const closed = from.closed.slice();
  let { closedLength, definitions } = from;
  for (const token of tokens.slice(0, last)) {
    closedLength += token.raw.length;
    if (token.type === "def") definitions += `${token.raw.trim()}\n`;
    if (token.type === "space" && closed.length > 0) closed[closed.length - 1] += token.raw;
    else closed.push(token.raw);
  }
  return { closedLength, closed, open: source.slice(closedLength), definitions, source };
}
