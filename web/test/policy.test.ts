import { describe, expect, it } from "vitest";
import { afterClose, backoff, promisedDelay, spread } from "../src/wire/policy";

const closing = { reason: "", retryAfterMs: null, attempt: 0, random: 0.5 };

describe("after a close", () => {
  it.each([1001, 1005, 1006, 1011, 1012, 4408])("%d reconnects", (code) => {
    expect(afterClose({ ...closing, code }).kind).toBe("reconnect");
  });

  it.each([1009, 4400, 4403])("%d does not reconnect, and says why", (code) => {
    const verdict = afterClose({ ...closing, code });
    expect(verdict.kind).toBe("stop");
    expect(verdict.kind === "stop" && verdict.why.length).toBeGreaterThan(10);
  });

  it("4401 asks for new credentials", () => {
    expect(afterClose({ ...closing, code: 4401 })).toEqual({ kind: "authenticate" });
  });

  it.each([1013, 4429])("%d keeps the delay that an error frame promised", (code) => {
    const verdict = afterClose({ ...closing, code, retryAfterMs: 4_000 });
    expect(verdict).toMatchObject({ kind: "reconnect", delayMs: 4_500 });
  });

  it("the close reason promises too, and the frame before it has priority", () => {
    expect(promisedDelay("overloaded retry_after_ms=1500")).toBe(1500);
    expect(promisedDelay('{"retry_after_ms": 250}')).toBe(250);
    expect(promisedDelay("draining")).toBeNull();
    expect(afterClose({ ...closing, code: 1013, reason: "retry_after_ms=9000", random: 0 })).toMatchObject({ delayMs: 9000 });
    const both = { ...closing, code: 1013, reason: "retry_after_ms=9000", retryAfterMs: 100, random: 0 };
    expect(afterClose(both)).toMatchObject({ delayMs: 100 });
  });
});

describe("delays", () => {
  it("grow, are bounded and never zero", () => {
    const middle = Array.from({ length: 20 }, (_, attempt) => backoff(attempt, 0.5));
    expect(middle).toEqual([...middle].sort((a, b) => a - b));
    expect(backoff(0, 0)).toBeGreaterThanOrEqual(200);
    expect(backoff(1_000, 1)).toBe(20_000);
  });

  it("are spread, and a promised one is never cut short", () => {
    expect(backoff(3, 0)).toBeLessThan(backoff(3, 0.9));
    expect(spread(1000, 0)).toBe(1000);
    expect(spread(1000, 1)).toBe(1250);
  });
});
