/** Puts the cursor into the message box, except where that would raise a keyboard over the page. */
export function focusMessage(): void {
  if (matchMedia("(hover: hover)").matches) document.getElementById("message")?.focus({ preventScroll: true });
}
