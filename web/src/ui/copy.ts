import { toast } from "../chat/toasts";

/** Puts text on the clipboard; false, and told, where the browser refuses. */
export async function copyText(text: string): Promise<boolean> {
  try {
    // Absent where the page came over plain HTTP from another machine.
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else if (!copyBySelection(text)) throw new Error("refused");
    return true;
  } catch {
    toast("The browser did not let this page use the clipboard.");
    return false;
  }
}

function copyBySelection(text: string): boolean {
  const field = document.createElement("textarea");
  const focused = document.activeElement;
  field.value = text;
  field.className = "spoken";
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  if (focused instanceof HTMLElement) focused.focus();
  return copied;
}
