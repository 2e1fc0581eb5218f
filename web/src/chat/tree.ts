/** A conversation is a tree of messages; what is shown is the path from a leaf to its root. */

import type { Message } from "../wire/api";

export interface Entry {
  readonly message: Message;
  /** Later messages have greater numbers; only the order counts. */
  readonly order: number;
}

export type Entries = ReadonlyMap<string, Entry>;

export interface Row {
  readonly message: Message;
  /** The answer and the continuations that are shown joined with it; for a user's message only itself. */
  readonly chain: readonly Message[];
  /** The alternatives at this place, in order, with the chosen one's index. */
  readonly alternatives: readonly string[];
  readonly chosen: number;
}

export function newest(entries: Entries): string | null {
  let found: Entry | null = null;
  for (const entry of entries.values()) if (!found || entry.order > found.order) found = entry;
  return found?.message.id ?? null;
}

/** From a message down to the newest leaf under it. */
export function leafUnder(entries: Entries, id: string): string {
  let at = id;
  for (let steps = 0; steps <= entries.size; steps++) {
    const below = children(entries, at).at(-1);
    if (!below) return at;
    at = below.message.id;
  }
  return at;
}

export function rowsTo(entries: Entries, leaf: string | null): readonly Row[] {
  const path: Message[] = [];
  for (let at = leaf; at !== null && path.length <= entries.size; ) {
    const message = entries.get(at)?.message;
    if (!message) break;
    path.push(message);
    at = message.parent_id;
  }
  path.reverse();
  const rows: Row[] = [];
  for (const message of path) {
    const above = rows.at(-1);
    if (above && isContinuation(above.message, message)) {
      rows[rows.length - 1] = { ...above, message, chain: [...above.chain, message] };
    } else {
      const alternatives = siblings(entries, message);
      rows.push({ message, chain: [message], alternatives, chosen: alternatives.indexOf(message.id) });
    }
  }
  return rows;
}

function isContinuation(above: Message, message: Message): boolean {
  return above.role === "assistant" && message.role === "assistant";
}

function siblings(entries: Entries, message: Message): readonly string[] {
  if (message.parent_id === null || message.role !== "assistant") return [message.id];
  return children(entries, message.parent_id)
    .filter((entry) => entry.message.role === message.role)
    .map((entry) => entry.message.id);
}

function children(entries: Entries, id: string): Entry[] {
  const found: Entry[] = [];
  for (const entry of entries.values()) if (entry.message.parent_id === id) found.push(entry);
  return found.sort((a, b) => a.order - b.order);
}
