import type { JSX } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import type { Chat } from "../chat/chat";
import type { Outgoing, Thread } from "../chat/thread";
import { duration } from "../text/format";
import { Answer } from "./answer";
import { copyText } from "./copy";
import { useCountdown } from "./countdown";
import { Icon, Mark } from "./icons";
import { memo } from "./memo";

/** Closer to the end than this, in pixels, the page follows the text. */
const NEAR_END = 64;
const NEAR_START = 240;

interface ThreadViewProps {
  chat: Chat;
  thread: Thread;
  onEdit: (text: string) => void;
}

export function ThreadView({ chat, thread, onEdit }: ThreadViewProps): JSX.Element {
  const box = useRef<HTMLDivElement>(null);
  const { away, toEnd, onScroll } = useFollowing(box, chat, thread);
  const rows = thread.rows.value;
  const outgoing = thread.outgoing.value;
  const empty = rows.length === 0 && !outgoing;
  return (
    <div class="thread-frame">
      <div
        ref={box}
        class="thread"
        role="log"
        aria-live="polite"
        aria-label="Messages"
        tabIndex={0}
        onScroll={onScroll}
        onClick={copyCode}
      >
        <div class="column">
          {thread.olderCursor.value && <p class="list-note">Reading older messages…</p>}
          {thread.problem.value && <Problem chat={chat} thread={thread} />}
          {empty && !thread.problem.value && (thread.loaded.value ? <Welcome chat={chat} thread={thread} /> : <Skeleton />)}
          {rows.map((row, index) =>
            row.message.role === "user" ? (
              <Question key={row.message.id} text={row.message.content} />
            ) : (
              <Answer key={row.chain[0]?.id} chat={chat} thread={thread} row={row} last={index === rows.length - 1} />
            ),
          )}
          {outgoing && <OnItsWay chat={chat} thread={thread} outgoing={outgoing} onEdit={onEdit} />}
        </div>
      </div>
      {away && (
        <button type="button" class="to-end" onClick={toEnd} aria-label="To the newest text" title="To the newest text">
          <Icon name="down" />
        </button>
      )}
    </div>
  );
}

/** Follows the growing text until the reader scrolls away from its end, and again once they are back there. */
function useFollowing(
  box: { readonly current: HTMLDivElement | null },
  chat: Chat,
  thread: Thread,
): { away: boolean; toEnd: () => void; onScroll: () => void } {
  const following = useRef(true);
  const before = useRef({ top: 0, height: 0 });
  const [away, setAway] = useState(false);
  function toEnd(): void {
    following.current = true;
    if (box.current) box.current.scrollTop = box.current.scrollHeight;
  }
  function onScroll(): void {
    const at = box.current;
    if (!at) return;
    const left = at.scrollHeight - at.clientHeight - at.scrollTop;
    if (left < NEAR_END) following.current = true;
    else if (at.scrollTop < before.current.top) following.current = false;
    before.current = { top: at.scrollTop, height: at.scrollHeight };
    setAway(left > NEAR_END * 3);
    if (at.scrollTop < NEAR_START && thread.olderCursor.value) void chat.loadOlder(thread);
  }
  useEffect(() => {
    const at = box.current;
    const column = at?.firstElementChild;
    if (!at || !column) return undefined;
    const observer = new ResizeObserver(() => {
      if (following.current) at.scrollTop = at.scrollHeight;
    });
    observer.observe(column);
    observer.observe(at);
    return () => observer.disconnect();
  }, [thread]);
  useEffect(() => {
    following.current = true;
    setAway(false);
  }, [thread]);
  const sending = thread.outgoing.value;
  useEffect(() => {
    if (sending) toEnd();
  }, [sending !== null]);
  // Older messages come in above: what is being read stays where it is.
  const first = thread.rows.value[0]?.message.id;
  useLayoutEffect(() => {
    const at = box.current;
    if (at && !following.current && before.current.height > 0) {
      at.scrollTop = before.current.top + (at.scrollHeight - before.current.height);
    }
  }, [first]);
  return { away, toEnd, onScroll };
}

async function copyCode(event: MouseEvent): Promise<void> {
  const button = event.target instanceof Element ? event.target.closest<HTMLButtonElement>("[data-copy]") : null;
  const code = button?.closest(".code")?.querySelector("code");
  if (!button || !code || !(await copyText(code.textContent ?? ""))) return;
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

const Question = memo(function Question({ text, pending = false }: { text: string; pending?: boolean }): JSX.Element {
  return (
    <article class={pending ? "question pending" : "question"}>
      <h3 class="spoken">You said</h3>
      <div class="bubble">{text}</div>
    </article>
  );
});

interface OnItsWayProps {
  chat: Chat;
  thread: Thread;
  outgoing: Outgoing;
  onEdit: (text: string) => void;
}

function OnItsWay({ chat, thread, outgoing, onEdit }: OnItsWayProps): JSX.Element {
  const { frame, refusal } = outgoing;
  const left = useCountdown(refusal?.retryAt ?? null);
  return (
    <>
      {frame.type === "send" && <Question text={frame.content} pending={refusal === null} />}
      {refusal ? (
        <div class="refusal" role="alert">
          <Icon name="alert" />
          <p>
            {refusal.message}
            {left > 0 && ` Try again in ${duration(left)}.`}
          </p>
          <span>
            <button type="button" class="tool" disabled={left > 0} onClick={() => chat.retry(thread)}>
              Try again
            </button>
            <button
              type="button"
              class="tool"
              onClick={() => {
                const text = chat.discard(thread);
                if (text) onEdit(text);
              }}
            >
              {frame.type === "send" ? "Edit" : "Dismiss"}
            </button>
          </span>
        </div>
      ) : (
        <p class="progress">
          <span class="dots" aria-hidden="true">
            <i />
            <i />
            <i />
          </span>
          <span class="spoken">Sending</span>
        </p>
      )}
    </>
  );
}

function Problem({ chat, thread }: { chat: Chat; thread: Thread }): JSX.Element {
  return (
    <div class="refusal" role="alert">
      <Icon name="alert" />
      <p>{thread.problem.value}</p>
      <button type="button" class="tool" onClick={() => void chat.load(thread)}>
        Try again
      </button>
    </div>
  );
}

function Skeleton(): JSX.Element {
  return (
    <div class="skeleton" aria-label="Reading the conversation">
      <i />
      <i />
      <i />
    </div>
  );
}

const SUGGESTIONS = [
  "Explain how a rainbow forms, in three sentences.",
  "Write a short poem about the sea at night.",
  "List five questions to ask before adopting a cat.",
];

function Welcome({ chat, thread }: { chat: Chat; thread: Thread }): JSX.Element {
  return (
    <div class="welcome">
      <Mark />
      <h1>What is on your mind?</h1>
      <ul>
        {SUGGESTIONS.map((text) => (
          <li key={text}>
            <button type="button" onClick={() => chat.send(thread, text)}>
              {text}
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}
