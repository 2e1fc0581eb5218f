/** UUIDv7 for what this client names, dated by the server's clock. */

export function uuid7(ms: number, random: Uint8Array = crypto.getRandomValues(new Uint8Array(10))): string {
  const bytes = new Uint8Array(16);
  let rest = ms;
  for (let i = 5; i >= 0; i--) {
    bytes[i] = rest % 256;
    rest = Math.floor(rest / 256);
  }
  bytes.set(random.subarray(0, 10), 6);
  bytes[6] = 0x70 | ((bytes[6] ?? 0) & 0x0f);
  bytes[8] = 0x80 | ((bytes[8] ?? 0) & 0x3f);
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-${hex.slice(12, 16)}-${hex.slice(16, 20)}-${hex.slice(20)}`;
}

/** The milliseconds since 1970 that a UUIDv7 carries, or 0 where the text is none. */
export function uuid7Ms(id: string): number {
  return /^[0-9a-f]{8}-[0-9a-f]{4}-7/.test(id) ? parseInt(id.slice(0, 8) + id.slice(9, 13), 16) : 0;
}

/** Makes ids that grow, by the server's time once a `welcome` has told it. */
export class IdSource {
  private offsetMs = 0;
  private lastMs = 0;

  constructor(private readonly now: () => number = Date.now) {}

  learn(serverMs: number): void {
    this.offsetMs = serverMs - this.now();
    // Ids made by a clock that was ahead must not push the next ones ahead too.
    this.lastMs = Math.min(this.lastMs, serverMs);
  }

  /** A new id, later than `after` (another UUIDv7) where one is given. */
  next(after = ""): string {
    this.lastMs = Math.max(this.now() + this.offsetMs, this.lastMs + 1, uuid7Ms(after) + 1);
    return uuid7(this.lastMs);
  }
}
