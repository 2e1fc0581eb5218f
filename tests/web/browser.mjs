/** Chromium on the page of a running stack, and the scripted provider behind it. */

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";

const require = createRequire(new URL("../../web/package.json", import.meta.url));
const { chromium } = require("playwright-core");

export const PATIENCE_MS = 15_000;
const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

export function launch(executablePath) {
  return chromium.launch({ executablePath, args: FLAGS });
}

/** One test's pages, each in a context of its own, with what went wrong in them. `target`: {base, mock}. */
export class Session {
  constructor(browser, target) {
    this.browser = browser;
    this.target = target;
    this.problems = [];
    this.contexts = [];
  }

  async close() {
    await Promise.all(this.contexts.map((context) => context.close()));
  }

  /** A page in a context of its own, nobody signed in. */
  async blank(options = {}) {
    const context = await this.browser.newContext({ viewport: { width: 1200, height: 780 }, ...options });
    this.contexts.push(context);
    await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: new URL(this.target.base).origin });
    context.setDefaultTimeout(PATIENCE_MS);
    const page = await context.newPage();
    page.on("pageerror", (error) => this.problems.push(`script error: ${error.message}`));
    page.on("console", (message) => {
      if (/Content.Security.Policy/i.test(message.text())) this.problems.push(`policy: ${message.text()}`);
    });
    page.on("request", (request) => {
      const url = new URL(request.url());
      if (url.protocol.startsWith("http") && url.hostname !== new URL(this.target.base).hostname) {
        this.problems.push(`foreign request: ${request.url()}`);
      }
    });
    return page;
  }

  /** A page with a new account, ready for the first message. */
  async signedIn(options = {}) {
    const page = await this.blank(options);
    const account = { email: `${randomUUID()}@example.org`, password: randomUUID(), name: "Ada Lovelace" };
    const answer = await page.context().request.post(`${this.target.base}/v1/auth/register`, { data: account });
    assert.equal(answer.status(), 201, await answer.text());
    await page.goto(this.target.base);
    await page.waitForSelector(".welcome");
    return page;
  }

  /** What the API says, asked with the page's own session. */
  async api(page, path) {
    const answer = await page.context().request.get(`${this.target.base}${path}`);
    assert.equal(answer.status(), 200, `${path}: ${await answer.text()}`);
    return answer.json();
  }

  /** The stored messages of the conversation that the page shows, newest first. */
  async stored(page) {
    const id = /#\/c\/([0-9a-f-]+)/.exec(page.url())?.[1];
    assert.ok(id, `the address names no conversation: ${page.url()}`);
    return (await this.api(page, `/v1/conversations/${id}/messages`)).data;
  }

  /** The next call of the provider whose message contains `mark` is answered so. */
  async script(mark, script) {
    await this.provider("POST", "/_script", { scripts: [script], contains: mark });
  }

  async atGate(name) {
    await this.provider("GET", `/_gate/${name}?waiting=1`);
  }

  async openGate(name) {
    await this.provider("POST", `/_gate/${name}`);
  }

  async provider(method, path, body) {
    const answer = await fetch(`${this.target.mock}${path}`, {
      method,
      ...(body ? { body: JSON.stringify(body), headers: { "content-type": "application/json" } } : {}),
    });
    const text = await answer.text();
    assert.ok(answer.ok, `${path}: ${answer.status} ${text}`);
    return JSON.parse(text);
  }
}

export const mark = () => `m${randomUUID().slice(0, 8)}`;

export async function send(page, text) {
  await page.fill("#message", text);
  await page.press("#message", "Enter");
}

export function answer(page) {
  return page.locator(".answer").last();
}

export async function ended(page, status) {
  await page.waitForSelector(`.answer[data-status="${status}"]:last-of-type`);
  await page.waitForSelector("#message + .composer-foot [aria-label=Send]");
}

/** The text of the last answer as it is drawn now, words only. */
export async function drawn(page) {
  return words(await answer(page).locator(".markdown").innerText());
}

export function words(text) {
  return text.replace(/\s+/g, " ").trim();
}

/** Waits until the last answer shows more than `length` characters; returns what it shows. */
export async function grownBeyond(page, length) {
  await page.waitForFunction(
    (least) => ([...document.querySelectorAll(".answer .markdown")].at(-1)?.innerText.trim().length ?? 0) > least,
    length,
  );
  return drawn(page);
}

/** The last answer's exact text, by its copy button. */
export async function copied(page) {
  await answer(page).getByRole("button", { name: "Copy", exact: true }).click();
  await answer(page).getByRole("button", { name: "Copied" }).waitFor();
  return page.evaluate(() => navigator.clipboard.readText());
}
