/** Short messages at the edge of the page, each with at most one action. */

import { signal } from "@preact/signals";

export interface Toast {
  readonly id: number;
  readonly text: string;
  readonly action: { readonly label: string; readonly run: () => void } | null;
}

const SHOWN_MS = 8_000;
const MOST = 3;

export const toasts = signal<readonly Toast[]>([]);
let count = 0;

export function toast(text: string, action: Toast["action"] = null): void {
  const id = ++count;
  const others = toasts.value.filter((other) => other.text !== text);
  toasts.value = [...others.slice(-(MOST - 1)), { id, text, action }];
  setTimeout(() => dismiss(id), SHOWN_MS);
}

export function dismiss(id: number): void {
  toasts.value = toasts.value.filter((other) => other.id !== id);
}
