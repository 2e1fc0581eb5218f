/** The list of conversations: pages of it, and changes shown at once and taken back when the server refuses. */

import { signal } from "@preact/signals";
import { ApiError, type Api, type Conversation } from "../wire/api";
import { toast } from "./toasts";

export class ConversationList {
  readonly items = signal<readonly Conversation[]>([]);
  readonly cursor = signal<string | null>(null);
  readonly problem = signal<string | null>(null);
  readonly loaded = signal(false);
  private loading = false;

  constructor(private readonly api: Api) {}

  /** Reads the newest page again; older pages that were read stay. */
  async refresh(): Promise<void> {
    try {
      const page = await this.api.conversations(null);
      const fresh = new Set(page.data.map((item) => item.id));
      const oldest = page.data.at(-1)?.id;
      const kept = this.loaded.value && page.next_cursor && oldest ? this.after(oldest, fresh) : [];
      this.items.value = [...page.data, ...kept];
      if (kept.length === 0) this.cursor.value = page.next_cursor;
      this.loaded.value = true;
      this.problem.value = null;
    } catch (error) {
      this.problem.value = reason(error);
    }
  }

  async more(): Promise<void> {
    if (this.loading || !this.cursor.value) return;
    this.loading = true;
    try {
      const page = await this.api.conversations(this.cursor.value);
      const known = new Set(this.items.value.map((item) => item.id));
      this.items.value = [...this.items.value, ...page.data.filter((item) => !known.has(item.id))];
      this.cursor.value = page.next_cursor;
    } catch (error) {
      toast(reason(error));
    } finally {
      this.loading = false;
    }
  }

  clear(): void {
    this.items.value = [];
    this.cursor.value = null;
    this.loaded.value = false;
  }

  find(id: string): Conversation | undefined {
    return this.items.value.find((item) => item.id === id);
  }

  /** Something happened in it: to the top. */
  touch(conversation: Conversation): void {
    const found = this.find(conversation.id);
    const item = { ...found, ...conversation, updated_at: Date.now() };
    this.items.value = [item, ...this.items.value.filter((other) => other.id !== conversation.id)];
  }

  async rename(id: string, title: string): Promise<void> {
    const before = this.items.value;
    this.items.value = before.map((item) => (item.id === id ? { ...item, title } : item));
    try {
      await this.api.rename(id, title);
    } catch (error) {
      this.items.value = before;
      toast(`The title was not changed. ${reason(error)}`);
    }
  }

  async remove(id: string): Promise<boolean> {
    const before = this.items.value;
    this.items.value = before.filter((item) => item.id !== id);
    try {
      await this.api.remove(id);
      toast("Conversation deleted.", { label: "Undo", run: () => void this.restore(id) });
      return true;
    } catch (error) {
      this.items.value = before;
      toast(`The conversation was not deleted. ${reason(error)}`);
      return false;
    }
  }

  private async restore(id: string): Promise<void> {
    try {
      await this.api.restore(id);
      await this.refresh();
    } catch (error) {
      toast(`The conversation was not restored. ${reason(error)}`);
    }
  }

  private after(id: string, fresh: ReadonlySet<string>): readonly Conversation[] {
    const at = this.items.value.findIndex((item) => item.id === id);
    return at < 0 ? [] : this.items.value.slice(at + 1).filter((item) => !fresh.has(item.id));
  }
}

export function reason(error: unknown): string {
  return error instanceof ApiError ? error.message : "Something unexpected went wrong on this page.";
}
