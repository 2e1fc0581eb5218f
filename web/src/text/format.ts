/** Figures and dates as people read them. */

/** Nano-USD as dollars with the digits that matter; empty for nothing. */
export function money(nanoUsd: number | null | undefined): string {
  if (!nanoUsd || nanoUsd < 0) return "";
  const usd = nanoUsd / 1e9;
  if (usd >= 0.01) return `$${usd.toFixed(2)}`;
  return `$${Number(usd.toPrecision(2)).toFixed(Math.min(9, 1 - Math.floor(Math.log10(usd))))}`;
}

export function tokens(count: number): string {
  return `${count.toLocaleString("en-US")} ${count === 1 ? "token" : "tokens"}`;
}

/** A wait in words: `8 s`, `2 min`, `3 h`. */
export function duration(ms: number): string {
  const seconds = Math.max(0, Math.ceil(ms / 1000));
  if (seconds < 100) return `${seconds} s`;
  if (seconds < 5400) return `${Math.ceil(seconds / 60)} min`;
  return `${Math.ceil(seconds / 3600)} h`;
}

/** Milliseconds since 1970 of a time told as a number or as ISO text; 0 where it is neither. */
export function millis(time: string | number | null | undefined): number {
  if (typeof time === "number") return time;
  return time ? Date.parse(time) || 0 : 0;
}

/** The heading under which a conversation stands in the list. */
export function period(ms: number, now: number): string {
  const midnight = new Date(now).setHours(0, 0, 0, 0);
  const day = 86_400_000;
  if (ms >= midnight) return "Today";
  if (ms >= midnight - day) return "Yesterday";
  if (ms >= midnight - 7 * day) return "Previous 7 days";
  if (ms >= midnight - 30 * day) return "Previous 30 days";
  return "Older";
}

/** A title from a first message: its first words, on one line. */
export function titleOf(content: string, longest = 48): string {
  const line = content.replace(/[`*_#>]+/g, " ").replace(/\s+/g, " ").trim();
  const points = [...line];
  if (points.length <= longest) return line || "New conversation";
  const cut = points.slice(0, longest).join("");
  const space = cut.lastIndexOf(" ");
  return `${(space > longest / 2 ? cut.slice(0, space) : cut).replace(/[\s,.;:–-]+$/, "")}…`;
}
