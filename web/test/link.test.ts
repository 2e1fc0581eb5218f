import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { ClientFrame, ServerFrame, TurnFrame } from "../src/wire/frames";
import { Link, type LinkStatus } from "../src/wire/link";

/** The browser's side of a WebSocket, driven by the test instead of a network. */
class Wire {
  readyState = 0;
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  readonly sent: ClientFrame[] = [];

  constructor(
    readonly url: string,
    readonly protocols: string[],
  ) {}

  send(data: string): void {
    this.sent.push(JSON.parse(data) as ClientFrame);
  }

  close(code: number): void {
    if (this.readyState < 2) this.lose(code);
  }

  open(): void {
    this.readyState = 1;
    this.onopen?.();
    this.hear({ type: "welcome", connection_id: "c", user: "u", time: Date.now(), heartbeat_s: 10, limits: {} });
  }

  hear(frame: ServerFrame): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }

  lose(code: number, reason = ""): void {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }
}

const SEND: TurnFrame = { type: "send", message_id: "m1", conversation_id: "c1", content: "hello" };

describe("the link", () => {
  let wires: Wire[];
  let statuses: LinkStatus[];
  let heard: ServerFrame[];
  let unanswered: TurnFrame[];
  let renewals: (boolean | Error)[];
  let tickets: number;
  let link: Link;
  const wire = (): Wire => wires.at(-1) as Wire;
  const status = (): string => statuses.at(-1)?.kind ?? "none";
  const settle = (): Promise<void> => vi.advanceTimersByTimeAsync(0) as unknown as Promise<void>;

  beforeEach(async () => {
    vi.useFakeTimers();
    vi.stubGlobal("WebSocket", { OPEN: 1 });
    [wires, statuses, heard, unanswered, renewals, tickets] = [[], [], [], [], [], 0];
    link = new Link(
      {
        endpoint: async (ticketed) => ({ url: "ws://host/v1/ws", ticket: ticketed ? `t${++tickets}` : null }),
        authenticate: async () => {
          const renewal = renewals.shift() ?? false;
          if (renewal instanceof Error) throw renewal;
          return renewal;
        },
        onStatus: (now) => statuses.push(now),
        onFrame: (frame) => heard.push(frame),
        onUnanswered: (frame) => unanswered.push(frame),
      },
      {
        open: (url, protocols) => {
          wires.push(new Wire(url, protocols));
          return wire() as unknown as WebSocket;
        },
        now: () => Date.now(),
        random: () => 0,
      },
    );
    link.start();
    await settle();
    wire().open();
  });

  afterEach(() => {
    link.stop();
    vi.useRealTimers();
    vi.unstubAllGlobals();
  });

  it("is open once it is welcome, with no secret in its address", () => {
    expect(status()).toBe("open");
    expect([wire().url, wire().protocols]).toEqual(["ws://host/v1/ws", ["parley.v1"]]);
    expect(heard[0]?.type).toBe("welcome");
  });

  it("comes back after a loss and repeats, identical, what was not answered", async () => {
    link.submit(SEND);
    wire().lose(1006);
    expect(status()).toBe("waiting");
    await vi.advanceTimersByTimeAsync(1_000);
    expect(wires.length).toBe(2);
    wire().open();
    expect(wire().sent).toEqual([SEND]);
    wire().hear({ type: "accepted", message_id: "m1", generation_id: "g1", duplicate: true });
    wire().lose(1001);
    await vi.advanceTimersByTimeAsync(2_000);
    wire().open();
    expect(wire().sent).toEqual([]);
  });

  it("repeats an unanswered frame on an open connection, a bounded number of times", async () => {
    link.submit(SEND);
    for (let i = 0; i < 300; i++) {
      await vi.advanceTimersByTimeAsync(1_000);
      wire().hear({ type: "pong", t: 0 });
    }
    expect(wires.length).toBe(1);
    expect(wire().sent.filter((frame) => frame.type === "send").length).toBe(5);
    expect(unanswered).toEqual([SEND]);
  });

  it("does not repeat a frame that was refused", async () => {
    link.submit(SEND);
    wire().hear({ type: "error", message_id: "m1", code: "rate_limited", message: "", retryable: true, retry_after_ms: 100 });
    wire().lose(1006);
    await vi.advanceTimersByTimeAsync(1_000);
    wire().open();
    expect(wire().sent).toEqual([]);
  });

  it("sends a heartbeat when it has sent nothing for that long", async () => {
    await vi.advanceTimersByTimeAsync(9_000);
    expect(wire().sent).toEqual([]);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(wire().sent.map((frame) => frame.type)).toEqual(["ping"]);
  });

  it("takes a server for lost that answers no heartbeat", async () => {
    await vi.advanceTimersByTimeAsync(27_000);
    expect(wires.length).toBe(2);
    expect(wires[0]?.readyState).toBe(3);
  });

  it("takes a server for lost that never welcomes it", async () => {
    wire().lose(1006);
    await vi.advanceTimersByTimeAsync(300);
    expect(wires.length).toBe(2);
    await vi.advanceTimersByTimeAsync(10_500);
    expect(wires.length).toBe(3);
  });

  it("asks for a ticket when a handshake by cookie was refused", async () => {
    wire().lose(1006);
    await vi.advanceTimersByTimeAsync(300);
    expect(wire().protocols).toEqual(["parley.v1"]);
    wire().lose(1006);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(wire().protocols).toEqual(["parley.v1", "parley.ticket.t1"]);
    expect(wire().url).not.toContain("t1");
  });

  it("keeps the delay that was promised before the close", async () => {
    wire().hear({ type: "error", code: "overloaded", message: "", retryable: true, retry_after_ms: 5_000 });
    wire().lose(1013);
    await vi.advanceTimersByTimeAsync(4_900);
    expect(wires.length).toBe(1);
    await vi.advanceTimersByTimeAsync(200);
    expect(wires.length).toBe(2);
  });

  it("leaves a draining server when it is told to", async () => {
    wire().hear({ type: "drain", reconnect_after_ms: 700 });
    await vi.advanceTimersByTimeAsync(600);
    expect(wires.length).toBe(1);
    await vi.advanceTimersByTimeAsync(200);
    expect(wires.length).toBe(2);
    expect(wires[0]?.readyState).toBe(3);
  });

  it("keeps what a draining server did not take for the next one", async () => {
    wire().hear({ type: "drain", reconnect_after_ms: 700 });
    link.submit(SEND);
    wire().hear({ type: "error", message_id: "m1", code: "unavailable", message: "", retryable: true, retry_after_ms: 100 });
    await vi.advanceTimersByTimeAsync(800);
    wire().open();
    expect(wire().sent).toEqual([SEND]);
    expect(heard.some((frame) => frame.type === "error")).toBe(false);
  });

  it("renews the session at 4401 and comes back, or leaves it to the user", async () => {
    renewals.push(true);
    wire().lose(4401);
    await settle();
    expect(wires.length).toBe(2);
    wire().open();
    renewals.push(false);
    wire().lose(4401);
    await settle();
    expect([wires.length, status()]).toEqual([2, "idle"]);
  });

  it("tries again when nothing could be learned about the session", async () => {
    renewals.push(new Error("offline"));
    wire().lose(4401);
    await settle();
    expect(status()).toBe("waiting");
  });

  it("stays away after 4403 until the user asks", async () => {
    link.submit(SEND);
    wire().lose(4403);
    await vi.advanceTimersByTimeAsync(120_000);
    expect([wires.length, status()]).toEqual([1, "stopped"]);
    expect(unanswered).toEqual([SEND]);
    link.hurry();
    await settle();
    expect(wires.length).toBe(2);
  });

  it("cuts a wait short", async () => {
    for (let i = 0; i < 8; i++) {
      wire().lose(1006);
      await vi.advanceTimersByTimeAsync(21_000);
    }
    wire().lose(1006);
    const before = wires.length;
    link.hurry();
    await settle();
    expect(wires.length).toBe(before + 1);
  });

  it("holds a bounded number of unanswered frames", () => {
    const taken = Array.from({ length: 40 }, (_, i) => link.submit({ ...SEND, message_id: `m${i}` }));
    expect(taken.filter(Boolean).length).toBe(16);
  });

  it("is silent once it is stopped", async () => {
    link.submit(SEND);
    link.stop();
    await vi.advanceTimersByTimeAsync(60_000);
    expect([wires.length, status()]).toEqual([1, "idle"]);
  });
});
