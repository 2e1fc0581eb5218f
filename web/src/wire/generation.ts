/**
 * What one answer shows, as a pure function of the frames about it.
 *
 * `(epoch, seq)` is the address of the last text held. A greater epoch drops the older text, a smaller one is ignored;
 * within an epoch only what lies beyond `seq` is appended. After a connection was lost nothing is appended until
 * `resumed` or a complete snapshot has said where the text stands.
 */

import { isEnd, type Delta, type End, type EndKind, type GenerationFrame, type Part, type Resumed, type Snapshot } from "./frames";

export type Status = "waiting" | "queued" | "running" | EndKind;

interface Assembly {
  readonly epoch: number;
  readonly parts: readonly Part[];
  readonly characters: number;
}

export interface Generation {
  readonly id: string;
  readonly epoch: number;
  readonly seq: number;
  readonly parts: readonly Part[];
  readonly status: Status;
  /** Whether frames of the present connection follow on from `(epoch, seq)`. */
  readonly attached: boolean;
  readonly queue: { readonly position: number; readonly etaS: number } | null;
  readonly notice: string | null;
  readonly end: End | null;
  /** The text shown is about to be sent again from its start; it stays until the first piece of that comes. */
  readonly stale: boolean;
  /** A snapshot that has begun; shown only when it is complete. */
  readonly assembly: Assembly | null;
  /** How often the text was asked for again since it last grew. */
  readonly repairs: number;
}

/** What must be done beside showing the new state: nothing, ask by `resume`, or read the stored answer over HTTP. */
export type Need = "nothing" | "resume" | "read";

export interface Step {
  readonly state: Generation;
  readonly need: Need;
}

export const MAX_REPAIRS = 3;

/** A new answer, followed from its first delta. */
export function fresh(id: string): Generation {
  return {
    id,
    epoch: 0,
    seq: -1,
    parts: [],
    status: "waiting",
    attached: true,
    queue: null,
    notice: null,
    end: null,
    stale: false,
    assembly: null,
    repairs: 0,
  };
}

/** A running answer read from a list: its stored text is shown until the socket has sent it again from the start. */
export function stored(id: string, epoch: number, parts: readonly Part[]): Generation {
  return { ...fresh(id), epoch, parts, status: parts.length > 0 ? "running" : "waiting", attached: false };
}

/** The connection is gone. */
export function detached(state: Generation): Generation {
  return state.attached || state.assembly ? { ...state, attached: false, assembly: null } : state;
}

/** The server begins to tell this answer from its start, as it does after each `accepted`. */
export function retold(state: Generation): Generation {
  return isOver(state) ? state : { ...state, seq: -1, attached: true, stale: true, assembly: null };
}

export function isOver(state: Generation): boolean {
  return state.end !== null;
}

/** All text of one kind, parts in order. */
export function textOf(parts: readonly Part[], kind: Part["k"] = "text"): string {
  let text = "";
  for (const part of parts) if (part.k === kind) text += part.d;
  return text;
}

export function reduce(state: Generation, frame: GenerationFrame): Step {
  if (isOver(state)) return still(state);
  if (isEnd(frame)) return ended(state, frame);
  switch (frame.type) {
    case "queued":
      return still({ ...state, status: "queued", queue: { position: frame.position, etaS: frame.eta_s } });
    case "delta":
      return grown(state, frame);
    case "resumed":
      return resumed(state, frame);
    case "snapshot":
      return assembled(state, frame);
    case "restart":
      return frame.epoch > state.epoch ? still(emptied(state, frame.epoch)) : still(state);
    default:
      // A frame of a later version of the protocol.
      return still(state);
  }
}

function still(state: Generation): Step {
  return { state, need: "nothing" };
}

function emptied(state: Generation, epoch: number): Generation {
  return { ...state, epoch, seq: -1, parts: [], status: "waiting", attached: true, queue: null, stale: false, assembly: null };
}

/** The text is not what the server takes it for: ask for it, a bounded number of times, then read it over HTTP. */
function repaired(state: Generation, epoch: number, seq: number): Step {
  if (state.repairs >= MAX_REPAIRS) return { state: { ...detached(state), repairs: 0 }, need: "read" };
  const asked = { ...state, epoch, seq, attached: false, assembly: null, repairs: state.repairs + 1 };
  return { state: asked, need: "resume" };
}

function grown(state: Generation, frame: Delta): Step {
  if (!state.attached || frame.e < state.epoch) return still(state);
  const base = frame.e > state.epoch ? emptied(state, frame.e) : state;
  if (frame.n <= base.seq || base.assembly) return still(base);
  const piece: Part = { i: frame.i ?? 0, k: frame.k ?? "text", d: frame.d };
  return still({
    ...base,
    seq: frame.n,
    parts: joined(base.stale ? [] : base.parts, [piece]),
    status: "running",
    queue: null,
    stale: false,
    repairs: 0,
  });
}

function resumed(state: Generation, frame: Resumed): Step {
  if (frame.epoch < state.epoch) return still(state);
  if (frame.seq === -1) {
    if (frame.epoch > state.epoch) return still(emptied(state, frame.epoch));
    return still(retold(state));
  }
  if (frame.epoch === state.epoch && frame.seq === state.seq) return still({ ...state, attached: true, assembly: null });
  return repaired(state, frame.epoch, -1);
}

function assembled(state: Generation, frame: Snapshot): Step {
  if (frame.epoch < state.epoch) return still(state);
  const before: Assembly =
    frame.at === 0 || state.assembly?.epoch !== frame.epoch ? { epoch: frame.epoch, parts: [], characters: 0 } : state.assembly;
  if (before.characters !== frame.at) return repaired(state, frame.epoch, -1);
  const parts = joined(before.parts, frame.parts);
  if (frame.more) {
    const characters = before.characters + frame.parts.reduce((sum, part) => sum + codePoints(part.d), 0);
    return still({ ...state, assembly: { epoch: frame.epoch, parts, characters } });
  }
  return still({
    ...state,
    epoch: frame.epoch,
    seq: frame.seq,
    parts,
    status: parts.length > 0 ? "running" : "waiting",
    attached: true,
    queue: null,
    stale: false,
    assembly: null,
  });
}

function ended(state: Generation, frame: End): Step {
  if (frame.epoch < state.epoch) return still(state);
  const complete = frame.epoch === state.epoch && frame.seq === state.seq;
  if (!complete && frame.seq !== -1) {
    const known = frame.epoch === state.epoch && state.seq < frame.seq ? state.seq : -1;
    return repaired(state, frame.epoch, known);
  }
  return still({
    ...state,
    epoch: frame.epoch,
    seq: frame.seq,
    parts: frame.seq === -1 ? [] : state.parts,
    status: frame.type,
    attached: true,
    queue: null,
    notice: null,
    stale: false,
    assembly: null,
    end: frame,
  });
}

/** `parts` with pieces appended, each to the part of its kind and number; the first piece of one makes it. */
function joined(parts: readonly Part[], pieces: readonly Part[]): readonly Part[] {
  const out = parts.slice();
  for (const piece of pieces) {
    const at = out.findIndex((part) => part.k === piece.k && part.i === piece.i);
    const found = out[at];
    if (found) out[at] = { ...found, d: found.d + piece.d };
    else out.push(piece);
  }
  return out.sort((a, b) => a.i - b.i);
}

function codePoints(text: string): number {
  let count = 0;
  for (const _ of text) count += 1;
  return count;
}
