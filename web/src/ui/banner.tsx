import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import type { Chat } from "../chat/chat";
import { dismiss, toasts } from "../chat/toasts";
import { duration } from "../text/format";
import { useCountdown } from "./countdown";
import { IconButton } from "./icons";

/** A connection that comes back within this time is not worth a word. */
const PATIENCE_MS = 1500;

export function Banner({ chat }: { chat: Chat }): JSX.Element | null {
  const status = chat.link.value;
  const troubled = status.kind !== "open" && status.kind !== "idle";
  const [shown, setShown] = useState(false);
  useEffect(() => {
    if (!troubled) {
      setShown(false);
      return undefined;
    }
    const timer = setTimeout(() => setShown(true), PATIENCE_MS);
    return () => clearTimeout(timer);
  }, [troubled]);
  const left = useCountdown(status.kind === "waiting" ? status.until : null);
  if (!shown || !troubled) return null;
  const words = status.kind === "connecting" ? "Connecting…" : status.why;
  return (
    <div class="banner" role="status">
      <span>{words}</span>
      {status.kind === "waiting" && <span aria-hidden="true">Reconnecting in {duration(left)}.</span>}
      {status.kind !== "connecting" && (
        <button type="button" class="link" onClick={() => chat.reconnect()}>
          Reconnect now
        </button>
      )}
    </div>
  );
}

export function Toasts(): JSX.Element {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {toasts.value.map((toast) => (
        <div key={toast.id} class="toast">
          <span>{toast.text}</span>
          {toast.action && (
            <button
              type="button"
              class="link"
              onClick={() => {
                toast.action?.run();
                dismiss(toast.id);
              }}
            >
              {toast.action.label}
            </button>
          )}
          <IconButton icon="close" label="Dismiss" onClick={() => dismiss(toast.id)} />
        </div>
      ))}
    </div>
  );
}
