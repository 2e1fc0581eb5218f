import { useSignal } from "@preact/signals";
import type { JSX } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Chat } from "../chat/chat";
import { Banner, Toasts } from "./banner";
import { Composer } from "./composer";
import { focusMessage } from "./focus";
import { IconButton } from "./icons";
import { Login, Unreachable } from "./login";
import { Sidebar } from "./sidebar";
import { ThreadView } from "./thread-view";

export function App({ chat }: { chat: Chat }): JSX.Element | null {
  switch (chat.account.phase.value) {
    case "loading":
      return <div class="blank" role="status" aria-label="Loading" />;
    case "signed-out":
      return <Login account={chat.account} />;
    case "unreachable":
      return <Unreachable account={chat.account} />;
    case "chat":
      return <Page chat={chat} />;
  }
}

/** The conversation that the address names, or null for a new one. */
function addressed(): string | null {
  return /^#\/c\/([0-9a-f-]{36})$/.exec(location.hash)?.[1] ?? null;
}

function Page({ chat }: { chat: Chat }): JSX.Element {
  const draft = useSignal("");
  const drawer = useSignal(false);
  const menu = useRef<HTMLButtonElement>(null);
  const thread = chat.thread.value;
  const title = (thread && chat.list.find(thread.id)?.title) || "New conversation";

  function newChat(): void {
    drawer.value = false;
    if (addressed()) location.hash = "#/";
    else chat.open(null);
    focusMessage();
  }

  function openDrawer(): void {
    drawer.value = true;
    requestAnimationFrame(() => document.querySelector<HTMLElement>(".sidebar .new-chat")?.focus());
  }

  useEffect(() => {
    const follow = (): void => chat.open(addressed());
    follow();
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);

  useEffect(() => {
    function onKey(event: KeyboardEvent): void {
      const key = event.key.toLowerCase();
      if ((key === "k" && (event.ctrlKey || event.metaKey)) || (event.code === "KeyN" && event.altKey)) {
        event.preventDefault();
        newChat();
      } else if (key === "escape" && drawer.value) {
        drawer.value = false;
        menu.current?.focus();
      } else if (key === "escape" && chat.thread.value) chat.answers.stop(chat.thread.value);
    }
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);

  useEffect(() => {
    document.title = thread?.known ? `${title} · Parley` : "Parley";
  }, [thread, title]);

  return (
    <div class={drawer.value ? "page drawer-open" : "page"}>
      <a class="skip" href="#message" onClick={skip}>
        Skip to the message box
      </a>
      <Sidebar chat={chat} onNew={newChat} onLeave={() => (drawer.value = false)} />
      <div class="shade" onClick={() => (drawer.value = false)} />
      <main>
        <header class="top">
          <button
            ref={menu}
            type="button"
            class="icon-button only-phone"
            aria-label="Conversations"
            aria-expanded={drawer.value}
            onClick={openDrawer}
          >
            <span class="bars" />
          </button>
          <h1>{title}</h1>
          <IconButton icon="plus" label="New chat" class="only-phone" onClick={newChat} />
        </header>
        <Banner chat={chat} />
        {thread && <ThreadView key={thread.id} chat={chat} thread={thread} onEdit={(text) => (draft.value = text)} />}
        {thread && <Composer chat={chat} thread={thread} draft={draft} />}
      </main>
      <Toasts />
    </div>
  );
}

function skip(event: Event): void {
  event.preventDefault();
  document.getElementById("message")?.focus();
}
