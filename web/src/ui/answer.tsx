import type { JSX } from "preact";
import { useState } from "preact/hooks";
import type { Chat } from "../chat/chat";
import type { Thread } from "../chat/thread";
import type { Row } from "../chat/tree";
import { duration, money, tokens } from "../text/format";
import { textOf, type Generation } from "../wire/generation";
import type { Part } from "../wire/frames";
import { copyText } from "./copy";
import { focusMessage } from "./focus";
import { Icon, IconButton } from "./icons";
import { Markdown } from "./markdown";

interface AnswerProps {
  chat: Chat;
  thread: Thread;
  row: Row;
  last: boolean;
}

/** An answer with the continuations that belong to it, joined into one text. */
export function Answer({ chat, thread, row, last }: AnswerProps): JSX.Element {
  const states = row.chain.map((message) => thread.generation(message.id).value);
  const state = states[states.length - 1] as Generation;
  const parts = states.flatMap((each) => each.parts);
  const text = textOf(parts);
  const running = state.end === null;
  const busy = thread.isBusy.value;
  function again(): void {
    chat.regenerate(thread, row.chain[0]?.id ?? state.id);
    focusMessage();
  }
  function goOn(): void {
    chat.continueAnswer(thread, state.id);
    focusMessage();
  }
  return (
    <article class="answer" aria-busy={running} data-status={state.status} data-generation={state.id}>
      <h3 class="spoken">Answer</h3>
      <Reasoning text={textOf(parts, "reasoning")} open={running && text === ""} />
      {text !== "" && <Markdown text={text} growing={running} />}
      <ToolCalls parts={parts} />
      {running && <Progress state={state} stopping={thread.stopping.value.has(state.id)} silent={text !== ""} />}
      <Outcome state={state} />
      {!running && (
        <div class={last ? "tools tools-shown" : "tools"}>
          <Alternatives chat={chat} thread={thread} row={row} disabled={busy} />
          <CopyButton text={text} />
          <IconButton icon="retry" label="Answer again" disabled={busy} onClick={again} />
          {last && canContinue(state) && (
            <button type="button" class="tool" disabled={busy} onClick={goOn}>
              <Icon name="more" /> Continue
            </button>
          )}
          <Figures state={state} />
        </div>
      )}
    </article>
  );
}

function canContinue(state: Generation): boolean {
  return state.status === "interrupted" || state.status === "cancelled" || state.end?.finish_reason === "length";
}

function Reasoning({ text, open }: { text: string; open: boolean }): JSX.Element | null {
  if (!text) return null;
  return (
    <details class="reasoning" open={open}>
      <summary>{open ? "Thinking…" : "Thoughts"}</summary>
      <p>{text}</p>
    </details>
  );
}

function ToolCalls({ parts }: { parts: readonly Part[] }): JSX.Element {
  return (
    <>
      {parts
        .filter((part) => part.k === "tool_call")
        .map((part) => (
          <figure key={part.i} class="tool-call">
            <figcaption>Tool call</figcaption>
            <pre tabIndex={0}>
              <code>{part.d}</code>
            </pre>
          </figure>
        ))}
    </>
  );
}

function Progress({ state, stopping, silent }: { state: Generation; stopping: boolean; silent: boolean }): JSX.Element | null {
  let words: string | null = null;
  if (stopping) words = "Stopping…";
  else if (state.notice) words = state.notice;
  else if (state.queue) {
    words = `Waiting for capacity: place ${state.queue.position}, about ${duration(state.queue.etaS * 1000)}`;
  }
  if (silent && words === null) return null;
  return (
    <p class="progress">
      <span class="dots" aria-hidden="true">
        <i />
        <i />
        <i />
      </span>
      <span class={words === null ? "spoken" : ""}>{words ?? "Waiting for the answer"}</span>
    </p>
  );
}

function Outcome({ state }: { state: Generation }): JSX.Element | null {
  const { end } = state;
  if (!end) return null;
  if (end.type === "failed") return <Remark strong text={end.message || "There is no answer."} />;
  if (end.type === "interrupted") return <Remark strong text={end.message || "The answer broke off. What came is kept."} />;
  if (end.type === "cancelled") return <Remark text="You stopped this answer." />;
  if (end.finish_reason === "length") return <Remark text="The answer reached its longest length." />;
  return null;
}

function Remark({ text, strong = false }: { text: string; strong?: boolean }): JSX.Element {
  return (
    <p class={strong ? "remark remark-strong" : "remark"} role={strong ? "alert" : undefined}>
      {strong && <Icon name="alert" />}
      {text}
    </p>
  );
}

function Alternatives({ chat, thread, row, disabled }: { chat: Chat; thread: Thread; row: Row; disabled: boolean }): JSX.Element | null {
  const { alternatives, chosen } = row;
  if (alternatives.length < 2) return null;
  const go = (to: number): void => {
    const id = alternatives[to];
    if (id) chat.choose(thread, id);
  };
  return (
    <span class="alternatives">
      <IconButton icon="left" label="Previous answer" disabled={disabled || chosen <= 0} onClick={() => go(chosen - 1)} />
      <span>
        {chosen + 1} / {alternatives.length}
      </span>
      <IconButton
        icon="right"
        label="Next answer"
        disabled={disabled || chosen >= alternatives.length - 1}
        onClick={() => go(chosen + 1)}
      />
    </span>
  );
}

export function CopyButton({ text }: { text: string }): JSX.Element | null {
  const [copied, setCopied] = useState(false);
  if (!text) return null;
  async function copy(): Promise<void> {
    if (!(await copyText(text))) return;
    setCopied(true);
    setTimeout(() => setCopied(false), 1500);
  }
  return <IconButton icon={copied ? "check" : "copy"} label={copied ? "Copied" : "Copy"} onClick={() => void copy()} />;
}

function Figures({ state }: { state: Generation }): JSX.Element | null {
  const { end } = state;
  if (!end) return null;
  const used = end.usage ? `${end.usage.estimated ? "about " : ""}${tokens(end.usage.completion_tokens)}` : "";
  const words = [end.model, used, money(end.cost)].filter(Boolean);
  return words.length > 0 ? <span class="figures">{words.join(" · ")}</span> : null;
}
