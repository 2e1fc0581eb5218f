/** One block of Markdown as sanitised DOM. Nothing in it can run, load or post anything by itself. */

import DOMPurify from "dompurify";
import { Marked } from "marked";

/** Tags that stand for themselves in Markdown; any other HTML is shown as the text that it is. */
const PLAIN_TAG = /^<\/?(?:b|br|del|em|i|kbd|mark|s|small|strong|sub|sup)\s*\/?>$/i;

const marked = new Marked({
  gfm: true,
  breaks: false,
  renderer: {
    // A picture would tell its host who reads the answer: it becomes a link that the reader may follow.
    image: ({ href, text }) => `<a href="${escaped(href)}">${escaped(text || href)}</a>`,
    html: ({ text, ...token }) => {
      if (PLAIN_TAG.test(text.trim())) return text;
      return "block" in token && token.block ? `<p>${escaped(text.trim())}</p>` : escaped(text);
    },
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
  },
});

const SANITISE = {
  ALLOWED_TAGS: [
    "a", "b", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "i", "kbd", "li",
    "mark", "ol", "p", "pre", "s", "small", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["href", "title", "start", "align", "class"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_DOM_FRAGMENT: true,
} as const;

function escaped(text: string): string {
  return text.replace(/[&<>"']/g, (char) => `&#${char.charCodeAt(0)};`);
}

/** `source` rendered; `definitions` are link definitions that stand elsewhere in the same answer. */
export function renderBlock(source: string, definitions = ""): DocumentFragment {
  const text = definitions && source.includes("[") ? `${source}\n\n${definitions}` : source;
  const html = marked.parse(text, { async: false });
  const fragment = DOMPurify.sanitize(html, { ...SANITISE, ALLOWED_TAGS: [...SANITISE.ALLOWED_TAGS], ALLOWED_ATTR: [...SANITISE.ALLOWED_ATTR] });
  for (const link of fragment.querySelectorAll("a")) secure(link);
  for (const pre of fragment.querySelectorAll("pre")) frame(pre);
  for (const table of fragment.querySelectorAll("table")) wrap(table, "table-scroll");
  return fragment;
}

function secure(link: HTMLAnchorElement): void {
  link.target = "_blank";
  link.rel = "noopener noreferrer nofollow";
}

function wrap(element: Element, className: string): HTMLElement {
  const box = document.createElement("div");
  box.className = className;
  element.replaceWith(box);
  box.append(element);
  return box;
}

/** A code block gets a head with its language and a copy button; one listener of the thread serves all buttons. */
function frame(pre: HTMLPreElement): void {
  const language = /language-([\w+#.-]{1,24})/.exec(pre.firstElementChild?.className ?? "")?.[1] ?? "";
  const box = wrap(pre, "code");
  pre.tabIndex = 0;
  const head = document.createElement("div");
  head.className = "code-head";
  const label = document.createElement("span");
  label.textContent = language;
  const button = document.createElement("button");
  button.type = "button";
  button.dataset["copy"] = "";
  button.textContent = "Copy";
  button.setAttribute("aria-label", "Copy code");
  head.append(label, button);
  box.prepend(head);
}
