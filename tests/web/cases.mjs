/** What the page must do, each against the real stack. */

import assert from "node:assert/strict";
import { answer, copied, drawn, ended, grownBeyond, mark, send, words } from "./browser.mjs";

const TEXT = Array.from({ length: 60 }, (_, n) => `number ${n}`).join(", ") + ".";

/** Sends a message whose answer stops at a gate after some deltas; returns once the first of them are drawn. */
async function halfway(session, page) {
  const name = mark();
  await session.script(name, { text: TEXT, gate: name, gate_after: 12 });
  await send(page, `Please count. ${name}`);
  await session.atGate(name);
  return { name, text: await grownBeyond(page, 10) };
}

async function sameAsStored(session, page) {
  const [newest] = await session.stored(page);
  assert.equal(newest.role, "assistant");
  assert.equal(await copied(page), newest.content);
  return newest;
}

export const cases = {
  async "the printed link signs in once"(session, { link }) {
    const page = await session.blank();
    const addresses = [];
    page.on("request", (request) => addresses.push(request.url()));
    await page.goto(link);
    await page.waitForSelector(".welcome");
    assert.ok(!page.url().includes("code"), page.url());
    assert.ok(!addresses.some((address) => new URL(address).search.includes("code")), "the code stands in no request");
    const other = await session.blank();
    await other.goto(link);
    await other.waitForSelector("form.card");
    assert.match(await other.locator(".problem").innerText(), /link/i);
    assert.ok(!other.url().includes("code"), other.url());
    await page.reload();
    await page.waitForSelector(".welcome");
  },

  async "the printed link, a question, an answer"(session, { link }) {
    const page = await session.blank();
    await page.goto(link);
    await page.waitForSelector(".welcome");
    await send(page, "Hi");
    await grownBeyond(page, 0);
    await ended(page, "done");
    const stored = await sameAsStored(session, page);
    assert.ok(stored.usage.completion_tokens > 0);
  },

  async "an account is made, left and entered by the form"(session) {
    const page = await session.blank();
    const email = `${mark()}@example.org`;
    await page.goto(session.target.base);
    await page.getByRole("button", { name: "Create an account" }).click();
    await page.getByLabel("Name").fill("Grace Hopper");
    await page.getByLabel("Email").fill(email);
    await page.getByLabel("Password").fill("correct horse battery");
    await page.getByRole("button", { name: "Create account" }).click();
    await page.waitForSelector(".welcome");
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByLabel("Email").fill(email);
    await page.getByLabel("Password").fill("wrong horse battery");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.waitForSelector(".problem:not(:empty)");
    await page.getByLabel("Password").fill("correct horse battery");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.waitForSelector(".welcome");
  },

  async "an answer streams"(session) {
    const page = await session.signedIn();
    const { name, text } = await halfway(session, page);
    assert.equal(await answer(page).getAttribute("aria-busy"), "true");
    await session.openGate(name);
    const more = await grownBeyond(page, text.length);
    assert.ok(more.startsWith(text), "the text grows at its end");
    await ended(page, "done");
    const stored = await sameAsStored(session, page);
    assert.equal(stored.status, "done");
    assert.equal(stored.content, TEXT);
    assert.equal(await drawn(page), TEXT);
    assert.match(await page.locator(".figures").innerText(), /\d+ tokens/);
    assert.match(await page.locator(".conversation.shown").innerText(), /^Please count/);
  },

  async "a reload in the middle goes on"(session) {
    const page = await session.signedIn();
    const { name, text } = await halfway(session, page);
    await page.reload();
    await grownBeyond(page, 10);
    await page.waitForFunction((start) => document.querySelector(".answer .markdown")?.innerText.startsWith(start), text.slice(0, 10));
    await session.openGate(name);
    await ended(page, "done");
    assert.equal(await drawn(page), TEXT);
    await sameAsStored(session, page);
  },

  async "a lost connection comes back by itself"(session) {
    const page = await session.blank();
    const routes = [];
    await page.routeWebSocket(/./, (route) => {
      routes.push(route);
      route.connectToServer();
    });
    const email = `${mark()}@example.org`;
    const made = await page.context().request.post(`${session.target.base}/v1/auth/register`, {
      data: { email, password: "correct horse battery" },
    });
    assert.equal(made.status(), 201);
    await page.goto(session.target.base);
    await page.waitForSelector(".welcome");
    const { name, text } = await halfway(session, page);
    await routes[0].close({ code: 4408, reason: "heartbeat missed" });
    await session.openGate(name);
    await ended(page, "done");
    assert.equal(routes.length, 2);
    assert.ok(TEXT.startsWith(text));
    assert.equal(await drawn(page), TEXT);
    await sameAsStored(session, page);
  },

  async "stop ends the answer and keeps its text"(session) {
    const page = await session.signedIn();
    const name = mark();
    await session.script(name, { endless: true, delay_ms: 20 });
    await send(page, `Never stop. ${name}`);
    await grownBeyond(page, 30);
    await page.getByRole("button", { name: "Stop", exact: true }).click();
    await ended(page, "cancelled");
    const stored = await sameAsStored(session, page);
    assert.equal(stored.status, "cancelled");
    assert.ok(await page.getByRole("button", { name: "Continue" }).isVisible());
  },

  async "a stopped answer is continued, and another one made beside it"(session) {
    const page = await session.signedIn();
    const name = mark();
    await session.script(name, { endless: true, delay_ms: 20 });
    await send(page, `Never stop. ${name}`);
    await grownBeyond(page, 30);
    await page.keyboard.press("Escape");
    await ended(page, "cancelled");
    const begun = await copied(page);
    await session.script(name, { text: "And that was all." });
    await page.getByRole("button", { name: "Continue" }).click();
    await ended(page, "done");
    assert.equal(await copied(page), `${begun}And that was all.`);
    assert.equal(await page.locator(".answer").count(), 1);
    await session.script(name, { text: "Another answer." });
    await page.getByRole("button", { name: "Answer again" }).click();
    await page.getByText("Another answer.").waitFor();
    await ended(page, "done");
    assert.equal(words(await page.locator(".alternatives").innerText()), "2 / 2");
    await page.getByRole("button", { name: "Previous answer" }).click();
    assert.equal(await copied(page), `${begun}And that was all.`);
    await page.reload();
    await page.waitForSelector(".answer");
    assert.equal(await copied(page), `${begun}And that was all.`);
  },

  async "the keyboard is enough"(session) {
    const page = await session.signedIn();
    const name = mark();
    await session.script(name, { text: "First answer." });
    assert.equal(await page.evaluate(() => document.activeElement?.id), "message");
    await page.keyboard.type(`Line one ${name}`);
    await page.keyboard.press("Shift+Enter");
    await page.keyboard.type("line two");
    await page.keyboard.press("Enter");
    await ended(page, "done");
    assert.equal(await page.locator(".bubble").innerText(), `Line one ${name}\nline two`);
    await page.keyboard.press("Alt+n");
    await page.waitForSelector(".welcome");
    await session.script(`${name}b`, { endless: true, delay_ms: 20 });
    await page.keyboard.type(`Second ${name}b`);
    await page.keyboard.press("Enter");
    await grownBeyond(page, 10);
    await page.keyboard.press("Escape");
    await ended(page, "cancelled");
    await page.evaluate(() => document.activeElement?.blur());
    for (let i = 0; i < 30; i++) {
      await page.keyboard.press("Tab");
      const focus = await page.evaluate(() => {
        const at = document.activeElement;
        if (!at || at === document.body) return { text: "", outline: "none" };
        return { text: at.textContent || at.getAttribute("aria-label") || at.tagName, outline: getComputedStyle(at).outlineStyle };
      });
      if (focus.text === "") continue;
      assert.notEqual(focus.outline, "none", `no visible focus on “${focus.text}”`);
      if (focus.text.startsWith("Line one")) break;
    }
    await page.keyboard.press("Enter");
    await page.getByText("First answer.").waitFor();
    await page.keyboard.press("Control+k");
    await page.waitForSelector(".welcome");
  },

  async "conversations are renamed, deleted and restored"(session) {
    const page = await session.signedIn();
    const name = mark();
    await session.script(name, { text: "Yes." });
    await send(page, `Is ${name} a name?`);
    await ended(page, "done");
    await page.locator(".conversation.shown").hover();
    await page.locator(".conversation.shown").getByRole("button", { name: /^Rename/ }).click();
    await page.getByLabel("Title of the conversation").fill("A better title");
    await page.keyboard.press("Enter");
    await page.getByRole("link", { name: "A better title" }).waitFor();
    await page.reload();
    await page.locator(".conversation.shown").hover();
    assert.equal(await page.locator(".conversation.shown a").innerText(), "A better title");
    await page.locator(".conversation.shown").getByRole("button", { name: /^Delete/ }).click();
    await page.waitForSelector(".welcome");
    assert.equal((await session.api(page, "/v1/conversations")).data.length, 0);
    await page.getByRole("button", { name: "Undo" }).click();
    await page.getByRole("link", { name: "A better title" }).click();
    await page.getByText("Yes.", { exact: true }).waitFor();
  },

  async "Markdown is drawn, and can do no harm"(session) {
    const page = await session.signedIn();
    const name = mark();
    const text = [
      "# Title",
      "A [link](https://example.org/) and [a trap](javascript:alert(1)).",
      "![pixel](https://tracker.example/pixel.png)",
      "| a | b |\n|---|---|\n| 1 | 2 |",
      "```python\nprint('<b>hi</b>')\n```",
      '<img src="https://tracker.example/p.png" onerror="document.title=\'owned\'">',
      "<script>document.title='owned'</script>",
      '<iframe src="https://tracker.example/"></iframe>',
      '<a href="https://example.org/" onclick="document.title=\'owned\'" style="position:fixed">x</a>',
      "The end.",
    ].join("\n\n");
    await session.script(name, { text });
    await send(page, `Draw this ${name}`);
    await ended(page, "done");
    const box = answer(page);
    assert.equal(await box.locator("h1").innerText(), "Title");
    assert.equal(await box.locator("td").count(), 2);
    assert.equal(await box.locator("img, iframe, script, [onclick], [onerror], [style], [href^=javascript]").count(), 0);
    const links = await box.locator("a[href]").evaluateAll((all) => all.map((link) => [link.target, link.rel]));
    assert.ok(links.length >= 2);
    for (const [target, rel] of links) {
      assert.equal(target, "_blank");
      assert.match(rel, /noopener noreferrer/);
    }
    await box.getByRole("button", { name: "Copy code" }).click();
    await box.getByText("Copied", { exact: true }).waitFor();
    assert.equal((await page.evaluate(() => navigator.clipboard.readText())).trim(), "print('<b>hi</b>')");
    assert.ok(!(await page.title()).includes("owned"));
  },

  async "thoughts and tool calls stand beside the text"(session) {
    const page = await session.signedIn();
    const name = mark();
    await session.script(name, {
      reasoning: "Let me think about that.",
      text: "It is four.",
      chunks: 3,
      tool_calls: [{ name: "add", arguments: '{"a":2,"b":2}' }],
    });
    await send(page, `Two and two? ${name}`);
    await ended(page, "done");
    const check = async () => {
      assert.equal(await drawn(page), "It is four.");
      assert.equal(await answer(page).locator(".reasoning p").textContent(), "Let me think about that.");
      assert.match(await answer(page).locator(".tool-call code").innerText(), /add/);
    };
    await check();
    await sameAsStored(session, page);
    await page.reload();
    await page.waitForSelector(".answer .markdown");
    await check();
  },

  async "a failed answer says so and is made again"(session) {
    const page = await session.signedIn();
    const name = mark();
    await session.script(name, { status: 400, message: "This prompt is refused." });
    await send(page, `Fail please ${name}`);
    await ended(page, "failed");
    assert.ok((await answer(page).getByRole("alert").innerText()).length > 5);
    await session.script(name, { text: "Now it works." });
    await page.getByRole("button", { name: "Answer again" }).click();
    await page.getByText("Now it works.").waitFor();
    await ended(page, "done");
  },

  async "a phone has room for everything"(session) {
    const page = await session.signedIn({
      viewport: { width: 375, height: 667 },
      isMobile: true,
      hasTouch: true,
      deviceScaleFactor: 2,
    });
    const name = mark();
    const text = `${"long".repeat(60)}\n\n\`\`\`\n${"wide ".repeat(60)}\n\`\`\`\n\n| ${"column | ".repeat(12)}\n|${"---|".repeat(12)}\n`;
    await session.script(name, { text });
    await page.fill("#message", `On the way ${name}`);
    await page.tap("[aria-label=Send]");
    await ended(page, "done");
    const overflow = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
    assert.ok(overflow <= 0, `the page is ${overflow} px too wide`);
    const list = page.locator(".sidebar");
    assert.ok(!(await list.isVisible()));
    await page.tap("header [aria-label=Conversations]");
    await list.waitFor({ state: "visible" });
    await page.locator(".conversation a").first().tap();
    await list.waitFor({ state: "hidden" });
    const small = await page.locator("button:visible").evaluateAll((all) =>
      all
        .map((button) => [button.getAttribute("aria-label") ?? button.textContent, button.getBoundingClientRect().height])
        .filter(([, height]) => height < 24),
    );
    assert.deepEqual(small, [], "every button can be hit with a thumb");
  },

  async "dark and light follow the system until one is chosen"(session) {
    const page = await session.signedIn({ colorScheme: "dark" });
    const brightness = () =>
      page.evaluate(() => Math.max(...getComputedStyle(document.body).backgroundColor.match(/\d+/g).slice(0, 3).map(Number)));
    assert.ok((await brightness()) < 60);
    await page.emulateMedia({ colorScheme: "light" });
    assert.ok((await brightness()) > 200);
    const toggle = page.getByRole("button", { name: /^Theme/ });
    await toggle.click();
    await toggle.click();
    assert.ok((await brightness()) < 60);
    await page.reload();
    await page.waitForSelector(".welcome");
    assert.ok((await brightness()) < 60, "the choice is remembered");
  },
};
