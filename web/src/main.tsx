import { render } from "preact";
import { Chat } from "./chat/chat";
import "./style/base.css";
import "./style/page.css";
import "./style/thread.css";
import "./style/markdown.css";
import "./style/forms.css";
import { App } from "./ui/app";
import { Api } from "./wire/api";

/** The single-use code of the link that `parley up` prints; gone from the address before anything else happens. */
function takeCode(): string | null {
  const code = /^#code=([\w.~-]{1,200})$/.exec(location.hash)?.[1] ?? null;
  if (location.hash.startsWith("#code=")) history.replaceState(null, "", location.pathname + location.search);
  return code;
}

const code = takeCode();
const root = document.getElementById("app");
if (root) {
  const chat = new Chat(new Api());
  render(<App chat={chat} />, root);
  addEventListener("online", () => chat.reconnect());
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") chat.wake();
  });
  void chat.account.start(code);
}
