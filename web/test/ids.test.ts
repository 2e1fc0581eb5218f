import { expect, it } from "vitest";
import { IdSource, uuid7, uuid7Ms } from "../src/wire/ids";

it("a UUIDv7 has the canonical form, its version, variant and time", () => {
  const ms = 1_900_000_000_123;
  for (let i = 0; i < 50; i++) {
    const id = uuid7(ms + i);
    expect(id).toMatch(/^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
    expect(uuid7Ms(id)).toBe(ms + i);
  }
  expect(uuid7Ms("gen_opaque")).toBe(0);
});

it("ids grow although the clock stands still, and follow the id they are given", () => {
  const source = new IdSource(() => 5_000);
  const made = [source.next(), source.next(), source.next(uuid7(9_000)), source.next()];
  expect(made).toEqual([...made].sort());
  expect(uuid7Ms(made[2] ?? "")).toBe(9_001);
});

it("a wrong clock is put right by the server's, also after ids were made from it", () => {
  let now = 1_000_000_000;
  const source = new IdSource(() => now);
  source.next();
  source.learn(900_000_000);
  now += 50;
  const time = uuid7Ms(source.next());
  expect(time).toBeGreaterThanOrEqual(900_000_000);
  expect(time).toBeLessThan(900_000_100);
});
