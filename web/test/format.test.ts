import { expect, it } from "vitest";
import { duration, millis, money, period, titleOf } from "../src/text/format";

it("money shows the digits that matter", () => {
  expect(money(0)).toBe("");
  expect(money(null)).toBe("");
  expect(money(1_234_000_000)).toBe("$1.23");
  expect(money(75_030)).toBe("$0.000075");
  expect(money(3)).toBe("$0.000000003");
  expect(money(9_000_000)).toBe("$0.0090");
});

it("waits are told in the unit that fits", () => {
  expect([duration(400), duration(59_100), duration(150_000), duration(7_200_000)]).toEqual(["1 s", "60 s", "3 min", "2 h"]);
});

it("times come as numbers or ISO text", () => {
  expect(millis("1970-01-01T00:00:01Z")).toBe(1000);
  expect(millis(7)).toBe(7);
  expect(millis(undefined)).toBe(0);
});

it("a title is the first words, on one line, cut between words", () => {
  expect(titleOf("  What is\n`x`?  ")).toBe("What is x ?");
  expect(titleOf("Explain how a rainbow forms, with the maths in Python.")).toBe("Explain how a rainbow forms, with the maths in…");
  expect(titleOf("😀".repeat(60))).toBe(`${"😀".repeat(48)}…`);
  expect(titleOf("###")).toBe("New conversation");
});

it("the list's headings follow the calendar", () => {
  const noon = new Date(2030, 4, 20, 12).getTime();
  const day = 86_400_000;
  const names = [0, 1, 3, 20, 90].map((days) => period(noon - days * day, noon));
  expect(names).toEqual(["Today", "Yesterday", "Previous 7 days", "Previous 30 days", "Older"]);
});
