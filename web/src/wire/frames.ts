/** The frames of docs/protocol.md as JSON carries them: absent fields are defaults. */

export type PartKind = "text" | "reasoning" | "tool_call" | "citation";
export type EndKind = "done" | "cancelled" | "interrupted" | "failed";

export interface Part {
  readonly i: number;
  readonly k: PartKind;
  readonly d: string;
}

export interface Usage {
  readonly prompt_tokens: number;
  readonly completion_tokens: number;
  readonly estimated?: boolean;
}

export interface Welcome {
  readonly type: "welcome";
  readonly connection_id: string;
  readonly user: string;
  /** The server's clock, milliseconds since 1970. */
  readonly time: number;
  readonly heartbeat_s: number;
  readonly limits: Readonly<Record<string, number>>;
}

export interface Accepted {
  readonly type: "accepted";
  readonly message_id: string;
  readonly generation_id: string;
  readonly duplicate?: boolean;
}

export interface Queued {
  readonly type: "queued";
  readonly generation_id: string;
  readonly position: number;
  readonly eta_s: number;
}

export interface Resumed {
  readonly type: "resumed";
  readonly generation_id: string;
  readonly epoch: number;
  readonly seq: number;
}

export interface Delta {
  readonly type: "delta";
  readonly g: string;
  readonly e: number;
  readonly n: number;
  readonly d: string;
  readonly k?: PartKind;
  readonly i?: number;
}

export interface Snapshot {
  readonly type: "snapshot";
  readonly generation_id: string;
  readonly epoch: number;
  readonly seq: number;
  /** Characters (code points) before this piece. */
  readonly at: number;
  readonly parts: readonly Part[];
  readonly more: boolean;
}

export interface Restart {
  readonly type: "restart";
  readonly generation_id: string;
  readonly epoch: number;
  readonly reason: string;
}

export interface End {
  readonly type: EndKind;
  readonly generation_id: string;
  readonly epoch: number;
  readonly seq: number;
  readonly finish_reason: string;
  readonly usage: Usage | null;
  /** Nano-USD. */
  readonly cost: number;
  readonly model: string;
  readonly provider: string;
  readonly code: string | null;
  readonly message: string | null;
}

export interface ErrorFrame {
  readonly type: "error";
  readonly code: string;
  readonly message: string;
  readonly retryable: boolean;
  readonly message_id?: string | null;
  readonly turn_id?: string | null;
  readonly generation_id?: string | null;
  readonly retry_after_ms?: number | null;
  readonly param?: string | null;
}

export interface Notice {
  readonly type: "notice";
  readonly code: string;
  readonly message: string;
  readonly generation_id?: string;
}

export interface ServerEvent {
  readonly type: "event";
  readonly name: string;
  readonly data: Readonly<Record<string, unknown>>;
}

export interface Pong {
  readonly type: "pong";
  readonly t: unknown;
}

export interface Drain {
  readonly type: "drain";
  readonly reconnect_after_ms: number;
}

/** What changes the state of one answer. */
export type GenerationFrame = Queued | Resumed | Delta | Snapshot | Restart | End;

export type ServerFrame = Welcome | Accepted | GenerationFrame | ErrorFrame | Notice | ServerEvent | Pong | Drain;

/** A frame that opens a turn; it is repeated, identical, until it is answered. */
export type TurnFrame =
  | {
      readonly type: "send";
      readonly message_id: string;
      readonly conversation_id: string;
      readonly content: string;
      readonly parent_id?: string;
      readonly model?: string;
    }
  | { readonly type: "regenerate"; readonly turn_id: string; readonly generation_id: string; readonly model?: string }
  | { readonly type: "continue"; readonly turn_id: string; readonly generation_id: string };

export type ClientFrame =
  | TurnFrame
  | { readonly type: "resume"; readonly generation_id: string; readonly epoch: number; readonly seq: number }
  | { readonly type: "cancel"; readonly generation_id: string }
  | { readonly type: "ping"; readonly t: number };

/** The idempotency key of a frame that opens a turn. */
export function turnId(frame: TurnFrame): string {
  return frame.type === "send" ? frame.message_id : frame.turn_id;
}

export function isEnd(frame: { readonly type: string }): frame is End {
  return frame.type === "done" || frame.type === "cancelled" || frame.type === "interrupted" || frame.type === "failed";
}

/** The answer a frame belongs to, or null for frames of the session. */
export function generationOf(frame: ServerFrame): string | null {
  if (frame.type === "delta") return frame.g;
  if ("generation_id" in frame && typeof frame.generation_id === "string") return frame.generation_id;
  return null;
}
