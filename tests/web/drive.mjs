/**
 * Runs cases in one browser: `node drive.mjs BROWSER` reads a line `{"case", "base", "mock", "link"?}` for each and
 * answers `{"failed": null}` or what went wrong. `node drive.mjs` lists the cases.
 */

import assert from "node:assert/strict";
import { createInterface } from "node:readline";
import { launch, Session } from "./browser.mjs";
import { cases } from "./cases.mjs";

const CASE_MS = 80_000;

async function run(browser, target) {
  const work = cases[target.case];
  assert.ok(work, `there is no case “${target.case}”`);
  const session = new Session(browser, target);
  let late;
  const timeout = new Promise((_, reject) => {
    late = setTimeout(() => reject(new Error(`not within ${CASE_MS / 1000} s`)), CASE_MS);
  });
  try {
    await Promise.race([work(session, target), timeout]);
    assert.deepEqual(session.problems, []);
  } finally {
    clearTimeout(late);
    await session.close();
  }
}

if (process.argv.length < 3) {
  console.log(JSON.stringify(Object.keys(cases)));
} else {
  const browser = await launch(process.argv[2]);
  for await (const line of createInterface({ input: process.stdin })) {
    const failed = await run(browser, JSON.parse(line)).then(
      () => null,
      (error) => error.stack ?? String(error),
    );
    console.log(JSON.stringify({ failed }));
  }
  await browser.close();
}
