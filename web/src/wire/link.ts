/**
 * The WebSocket that is there again by itself: reconnects by the close-code table, keeps frames that open a turn until
 * they are answered and repeats them, identical, on the next connection; sends heartbeats; leaves a draining server.
 */

import { turnId, type ClientFrame, type Drain, type ErrorFrame, type ServerFrame, type TurnFrame, type Welcome } from "./frames";
import { afterClose, spread, type Verdict } from "./policy";

export type LinkStatus =
  | { readonly kind: "idle" }
  | { readonly kind: "connecting" }
  | { readonly kind: "open" }
  | { readonly kind: "waiting"; readonly until: number; readonly why: string }
  | { readonly kind: "stopped"; readonly why: string };

export interface Endpoint {
  readonly url: string;
  readonly ticket: string | null;
}

export interface LinkHost {
  /** Where to connect. `ticketed` asks for a single-use ticket because a handshake by cookie was refused. */
  endpoint(ticketed: boolean): Promise<Endpoint>;
  /** Renews the session; false when the user must sign in. Throws when nothing could be learned. */
  authenticate(): Promise<boolean>;
  onStatus(status: LinkStatus): void;
  onFrame(frame: ServerFrame): void;
  /** A frame that opens a turn was repeated as often as is sensible and never answered. */
  onUnanswered(frame: TurnFrame): void;
}

export interface Platform {
  open(url: string, protocols: string[]): WebSocket;
  now(): number;
  random(): number;
}

const BROWSER: Platform = {
  open: (url, protocols) => new WebSocket(url, protocols),
  now: () => Date.now(),
  random: () => Math.random(),
};

const WELCOME_DEADLINE_MS = 10_000;
const ANSWER_DEADLINE_MS = 8_000;
const MAX_REPEATS = 4;
const MAX_UNANSWERED = 16;
const TICK_MS = 1_000;
const CLOSED_BY_US = 4000;

interface Unanswered {
  readonly frame: TurnFrame;
  sentAt: number;
  repeats: number;
}

export class Link {
  private socket: WebSocket | null = null;
  private welcome: Welcome | null = null;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private ticker: ReturnType<typeof setInterval> | undefined;
  private attempt = 0;
  private ticketed = false;
  private retryAfterMs: number | null = null;
  private draining = false;
  private lastSent = 0;
  private lastHeard = 0;
  private status: LinkStatus = { kind: "idle" };
  private readonly unanswered = new Map<string, Unanswered>();

  constructor(
    private readonly host: LinkHost,
    private readonly platform: Platform = BROWSER,
  ) {}

  start(): void {
    if (this.status.kind === "idle" || this.status.kind === "stopped") void this.connect();
  }

  /** Closes for good; nothing is repeated any more. */
  stop(): void {
    this.unanswered.clear();
    this.drop(1000);
    this.tell({ kind: "idle" });
  }

  /** Cuts a wait short: the user asks, the network came back, the page was woken. */
  hurry(): void {
    if (this.status.kind === "waiting" || this.status.kind === "stopped") {
      this.attempt = 0;
      void this.connect();
    } else if (this.status.kind === "open") this.tick();
  }

  get isOpen(): boolean {
    return this.status.kind === "open";
  }

  /** Sends now or, without a connection, not at all: resumes and cancels are made again from state. */
  send(frame: ClientFrame): boolean {
    if (!this.isOpen || this.socket?.readyState !== WebSocket.OPEN) return false;
    this.socket.send(JSON.stringify(frame));
    this.lastSent = this.platform.now();
    return true;
  }

  /** Sends a frame that opens a turn, now and on every later connection, until it is answered. False: too many wait. */
  submit(frame: TurnFrame): boolean {
    const id = turnId(frame);
    if (!this.unanswered.has(id) && this.unanswered.size >= MAX_UNANSWERED) return false;
    this.unanswered.set(id, { frame, sentAt: this.platform.now(), repeats: 0 });
    this.send(frame);
    return true;
  }

  /** The frame with this id is not repeated any more. */
  answered(id: string): void {
    this.unanswered.delete(id);
  }

  private tell(status: LinkStatus): void {
    this.status = status;
    this.host.onStatus(status);
  }

  private async connect(): Promise<void> {
    this.drop(CLOSED_BY_US);
    this.tell({ kind: "connecting" });
    const mine = this.status;
    let endpoint: Endpoint;
    try {
      endpoint = await this.host.endpoint(this.ticketed);
    } catch {
      if (this.status === mine) this.follow(this.lost(1006, ""));
      return;
    }
    if (this.status !== mine) return;
    const protocols = endpoint.ticket ? ["parley.v1", `parley.ticket.${endpoint.ticket}`] : ["parley.v1"];
    const socket = this.platform.open(endpoint.url, protocols);
    this.socket = socket;
    this.timer = setTimeout(() => this.fail(socket), WELCOME_DEADLINE_MS);
    let opened = false;
    socket.onopen = () => {
      opened = true;
    };
    socket.onmessage = (event) => {
      if (socket === this.socket && typeof event.data === "string") this.receive(event.data);
    };
    socket.onclose = (event) => {
      if (socket !== this.socket) return;
      // A browser does not tell why a handshake was refused. The ticket is fetched over HTTP, which does.
      this.ticketed = !opened;
      this.follow(this.lost(event.code, event.reason));
    };
  }

  private receive(data: string): void {
    this.lastHeard = this.platform.now();
    const frame = JSON.parse(data) as ServerFrame;
    // A draining server takes no new turn; the next connection repeats it.
    if (frame.type === "error" && this.draining && frame.code === "unavailable") return;
    if (frame.type === "welcome") this.opened(frame);
    else if (frame.type === "drain") this.leave(frame);
    else if (frame.type === "accepted") this.answered(frame.message_id);
    else if (frame.type === "error") this.refused(frame);
    if (frame.type !== "pong") this.host.onFrame(frame);
  }

  private opened(welcome: Welcome): void {
    clearTimeout(this.timer);
    this.welcome = welcome;
    this.lastSent = this.platform.now();
    this.attempt = 0;
    this.ticketed = false;
    this.draining = false;
    this.retryAfterMs = null;
    this.tell({ kind: "open" });
    for (const entry of this.unanswered.values()) this.repeat(entry);
    clearInterval(this.ticker);
    this.ticker = setInterval(() => this.tick(), TICK_MS);
  }

  private refused(frame: ErrorFrame): void {
    const id = frame.message_id ?? frame.turn_id;
    if (id) this.answered(id);
    else if (!frame.generation_id) this.retryAfterMs = frame.retry_after_ms ?? this.retryAfterMs;
  }

  private leave(frame: Drain): void {
    const socket = this.socket;
    this.draining = true;
    const delay = spread(frame.reconnect_after_ms, this.platform.random());
    this.timer = setTimeout(() => {
      if (socket === this.socket) void this.connect();
    }, delay);
  }

  private tick(): void {
    const now = this.platform.now();
    const beat = (this.welcome?.heartbeat_s ?? 25) * 1000;
    if (now - this.lastHeard > 2 * beat + 5_000) {
      if (this.socket) this.fail(this.socket);
      return;
    }
    if (now - this.lastSent >= beat) this.send({ type: "ping", t: now });
    for (const entry of [...this.unanswered.values()]) {
      if (now - entry.sentAt >= ANSWER_DEADLINE_MS * 2 ** entry.repeats) this.repeat(entry);
    }
  }

  private repeat(entry: Unanswered): void {
    entry.repeats += 1;
    entry.sentAt = this.platform.now();
    if (entry.repeats <= MAX_REPEATS) {
      this.send(entry.frame);
      return;
    }
    this.answered(turnId(entry.frame));
    this.host.onUnanswered(entry.frame);
  }

  private fail(socket: WebSocket): void {
    if (socket !== this.socket) return;
    this.follow(this.lost(1006, ""));
  }

  private lost(code: number, reason: string): Verdict {
    this.drop(CLOSED_BY_US);
    const { retryAfterMs, attempt } = this;
    this.attempt += 1;
    this.retryAfterMs = null;
    return afterClose({ code, reason, retryAfterMs, attempt, random: this.platform.random() });
  }

  private follow(verdict: Verdict): void {
    if (verdict.kind === "stop") this.give(verdict.why);
    else if (verdict.kind === "authenticate") void this.renew();
    else this.wait(verdict.delayMs, verdict.why);
  }

  /** What waits for an answer may be what the server refuses: it is not repeated when the user reconnects. */
  private give(why: string): void {
    this.tell({ kind: "stopped", why });
    const left = [...this.unanswered.values()];
    this.unanswered.clear();
    for (const entry of left) this.host.onUnanswered(entry.frame);
  }

  private wait(delayMs: number, why: string): void {
    this.tell({ kind: "waiting", until: this.platform.now() + delayMs, why });
    this.timer = setTimeout(() => void this.connect(), delayMs);
  }

  private async renew(): Promise<void> {
    this.tell({ kind: "connecting" });
    const mine = this.status;
    const renewed = await this.host.authenticate().catch(() => null);
    if (this.status !== mine) return;
    if (renewed === null) this.follow(this.lost(1006, ""));
    else if (renewed) void this.connect();
    else this.tell({ kind: "idle" });
  }

  private drop(code: number): void {
    clearTimeout(this.timer);
    clearInterval(this.ticker);
    const socket = this.socket;
    this.socket = null;
    this.welcome = null;
    if (socket && socket.readyState <= WebSocket.OPEN) socket.close(code);
  }
}
