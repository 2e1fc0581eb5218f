import type { JSX } from "preact";
import { useEffect, useLayoutEffect, useRef } from "preact/hooks";
import type { Chat } from "../chat/chat";
import type { Thread } from "../chat/thread";
import type { Signal } from "@preact/signals";
import { focusMessage } from "./focus";
import { Icon } from "./icons";

/** Where the server tells no limit: what fits a frame of 64 KiB beside its other fields, with room for escapes. */
const LONGEST_BYTES = 60 * 1024;
const TALLEST = 240;

interface ComposerProps {
  chat: Chat;
  thread: Thread;
  draft: Signal<string>;
}

export function Composer({ chat, thread, draft }: ComposerProps): JSX.Element {
  const field = useRef<HTMLTextAreaElement>(null);
  const running = thread.isRunning.value;
  const tooLong = bytes(draft.value) > LONGEST_BYTES;
  const ready = !thread.isBusy.value && thread.loaded.value && !tooLong && draft.value.trim() !== "";

  useLayoutEffect(() => {
    const at = field.current;
    if (!at) return;
    at.style.height = "auto";
    at.style.height = `${Math.min(TALLEST, at.scrollHeight)}px`;
  }, [draft.value]);
  useEffect(() => {
    focusMessage();
  }, [thread]);

  function send(): void {
    if (!ready) return;
    const text = draft.value.trim();
    draft.value = "";
    chat.send(thread, text);
  }

  function stop(): void {
    chat.answers.stop(thread);
    focusMessage();
  }

  return (
    <form
      class="composer"
      onSubmit={(event) => {
        event.preventDefault();
        send();
      }}
    >
      <label class="spoken" for="message">
        Message
      </label>
      <textarea
        ref={field}
        id="message"
        rows={1}
        placeholder="Write a message…"
        value={draft.value}
        aria-describedby="composer-help"
        onInput={(event) => (draft.value = event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          send();
        }}
      />
      <div class="composer-foot">
        <ModelPicker chat={chat} />
        <span id="composer-help" class={tooLong ? "help too-long" : "help"} role={tooLong ? "alert" : undefined}>
          {tooLong && `Too long by ${Math.ceil((bytes(draft.value) - LONGEST_BYTES) / 1024)} KiB`}
          {!tooLong && (running ? "Esc to stop" : "Enter to send, Shift+Enter for a new line")}
        </span>
        {running ? (
          <button type="button" class="round stop" aria-label="Stop" title="Stop (Esc)" aria-keyshortcuts="Escape" onClick={stop}>
            <span class="square" />
          </button>
        ) : (
          <button type="submit" class="round" aria-label="Send" title="Send (Enter)" disabled={!ready}>
            <Icon name="send" />
          </button>
        )}
      </div>
    </form>
  );
}

function ModelPicker({ chat }: { chat: Chat }): JSX.Element | null {
  const models = chat.models.value;
  if (models.length < 2) return null;
  const chosen = models.some((model) => model.id === chat.model.value) ? chat.model.value : models[0]?.id;
  return (
    <label class="model">
      <span class="spoken">Model</span>
      <select value={chosen} onChange={(event) => chat.chooseModel(event.currentTarget.value)}>
        {models.map((model) => (
          <option key={model.id} value={model.id}>
            {model.name || model.id}
          </option>
        ))}
      </select>
    </label>
  );
}

function bytes(text: string): number {
  return text.length * 3 <= LONGEST_BYTES ? text.length : new TextEncoder().encode(text).length;
}
