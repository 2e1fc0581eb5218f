/** What follows the loss of a connection: the table of close codes, and jittered delays. */

export type Verdict =
  | { readonly kind: "reconnect"; readonly delayMs: number; readonly why: string }
  | { readonly kind: "authenticate" }
  | { readonly kind: "stop"; readonly why: string };

const FIRST_DELAY_MS = 400;
const LONGEST_DELAY_MS = 20_000;
const LOST = "The connection was lost.";

/** A delay before attempt `attempt` (0 for the first): exponential, bounded, spread so that clients do not return at once. */
export function backoff(attempt: number, random: number): number {
  const ceiling = Math.min(LONGEST_DELAY_MS, FIRST_DELAY_MS * 2 ** Math.min(attempt, 16));
  return Math.round(ceiling / 2 + (ceiling / 2) * random);
}

/** A promised delay is kept, with up to a quarter more. */
export function spread(promisedMs: number, random: number): number {
  return Math.round(promisedMs * (1 + random / 4));
}

/** The delay a close reason promises (`retry_after_ms=1500`), or null. */
export function promisedDelay(reason: string): number | null {
  const found = /retry_after_ms\D{0,3}(\d{1,9})/.exec(reason);
  return found ? Number(found[1]) : null;
}

export interface Closing {
  readonly code: number;
  readonly reason: string;
  /** From a `drain` or `error` frame just before the close, or null. */
  readonly retryAfterMs: number | null;
  /** Connections lost in a row. */
  readonly attempt: number;
  readonly random: number;
}

export function afterClose(closing: Closing): Verdict {
  const promised = closing.retryAfterMs ?? promisedDelay(closing.reason);
  const delayMs = promised === null ? backoff(closing.attempt, closing.random) : spread(promised, closing.random);
  switch (closing.code) {
    case 1009:
      return { kind: "stop", why: "The message was larger than the server takes." };
    case 4400:
      return { kind: "stop", why: "The server could not read what this page sent. Reload the page to get its newest version." };
    case 4401:
      return { kind: "authenticate" };
    case 4403:
      return { kind: "stop", why: "The server refuses this page or this account." };
    case 1001:
      return { kind: "reconnect", delayMs, why: "The server is restarting." };
    case 1013:
      return { kind: "reconnect", delayMs, why: "The server is overloaded." };
    case 4429:
      return { kind: "reconnect", delayMs, why: "Too many messages or open pages." };
    default:
      return { kind: "reconnect", delayMs, why: LOST };
  }
}
