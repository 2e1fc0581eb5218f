import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import type { Chat } from "../chat/chat";
import type { Conversation } from "../wire/api";
import { millis, period } from "../text/format";
import { Icon, IconButton, Mark } from "./icons";
import { nextTheme, theme } from "./theme";

const UNTITLED = "New conversation";
const THEMES = { auto: "Theme: as the system", light: "Theme: light", dark: "Theme: dark" } as const;

interface SidebarProps {
  chat: Chat;
  onNew: () => void;
  onLeave: () => void;
}

export function Sidebar({ chat, onNew, onLeave }: SidebarProps): JSX.Element {
  const { list } = chat;
  const user = chat.account.user.value;
  const name = user?.name || user?.email || "";
  return (
    <aside class="sidebar" aria-label="Conversations">
      <div class="sidebar-head">
        <div class="brand">
          <Mark />
          <span>Parley</span>
        </div>
        <IconButton icon="close" label="Close the list" class="only-phone" onClick={onLeave} />
      </div>
      <button type="button" class="new-chat" onClick={onNew} aria-keyshortcuts="Alt+N Control+K Meta+K">
        <Icon name="plus" /> New chat
      </button>
      <nav class="conversations" aria-label="Conversations">
        {list.problem.value && (
          <p class="list-note" role="alert">
            {list.problem.value}{" "}
            <button type="button" class="link" onClick={() => void list.refresh()}>
              Try again
            </button>
          </p>
        )}
        {list.loaded.value && list.items.value.length === 0 && !list.problem.value && (
          <p class="list-note">Your conversations will stand here.</p>
        )}
        <Groups chat={chat} onLeave={onLeave} />
        {list.cursor.value && (
          <button type="button" class="link older" onClick={() => void list.more()}>
            Show older
          </button>
        )}
      </nav>
      <div class="account">
        <span class="avatar" aria-hidden="true">
          {(name[0] ?? "?").toUpperCase()}
        </span>
        <span class="account-name" title={user?.email}>
          {name}
        </span>
        <IconButton
          icon={theme.value === "auto" ? "auto" : theme.value === "light" ? "sun" : "moon"}
          label={THEMES[theme.value]}
          onClick={nextTheme}
        />
        <IconButton icon="out" label="Sign out" onClick={() => void chat.account.signOut()} />
      </div>
    </aside>
  );
}

function Groups({ chat, onLeave }: { chat: Chat; onLeave: () => void }): JSX.Element {
  const now = Date.now();
  const groups: { name: string; items: Conversation[] }[] = [];
  for (const item of chat.list.items.value) {
    const name = period(millis(item.updated_at ?? item.created_at), now);
    const last = groups.at(-1);
    if (last?.name === name) last.items.push(item);
    else groups.push({ name, items: [item] });
  }
  return (
    <>
      {groups.map((group) => (
        <section key={group.name}>
          <h2>{group.name}</h2>
          <ul>
            {group.items.map((item) => (
              <Item key={item.id} chat={chat} item={item} onLeave={onLeave} />
            ))}
          </ul>
        </section>
      ))}
    </>
  );
}

function Item({ chat, item, onLeave }: { chat: Chat; item: Conversation; onLeave: () => void }): JSX.Element {
  const [editing, setEditing] = useState(false);
  const shown = chat.thread.value?.id === item.id;
  const title = item.title || UNTITLED;
  if (editing) {
    return (
      <li class="conversation">
        <TitleField
          title={item.title ?? ""}
          onDone={(changed) => {
            setEditing(false);
            if (changed && changed !== item.title) void chat.list.rename(item.id, changed);
          }}
        />
      </li>
    );
  }
  return (
    <li class={shown ? "conversation shown" : "conversation"}>
      <a href={`#/c/${item.id}`} aria-current={shown ? "page" : undefined} title={title} onClick={onLeave} onDblClick={() => setEditing(true)}>
        {title}
      </a>
      <span class="conversation-actions">
        <IconButton icon="edit" label={`Rename “${title}”`} onClick={() => setEditing(true)} />
        <IconButton icon="trash" label={`Delete “${title}”`} onClick={() => void chat.remove(item.id)} />
      </span>
    </li>
  );
}

function TitleField({ title, onDone }: { title: string; onDone: (changed: string | null) => void }): JSX.Element {
  const field = useRef<HTMLInputElement>(null);
  const done = useRef(false);
  useEffect(() => field.current?.select(), []);
  function finish(changed: string | null): void {
    if (done.current) return;
    done.current = true;
    onDone(changed);
  }
  return (
    <input
      ref={field}
      class="title-field"
      aria-label="Title of the conversation"
      defaultValue={title}
      maxLength={200}
      onKeyDown={(event) => {
        if (event.key === "Enter") finish(event.currentTarget.value.trim());
        if (event.key === "Escape") {
          event.stopPropagation();
          finish(null);
        }
      }}
      onBlur={(event) => finish(event.currentTarget.value.trim())}
    />
  );
}
