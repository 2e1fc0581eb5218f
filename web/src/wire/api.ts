/** HTTP: JSON in and out, the session cookie, its CSRF token, one refresh when the session has expired. */

import type { End, Part, Usage } from "./frames";

export interface User {
  readonly id: string;
  readonly email: string;
  readonly name?: string | null;
  readonly role?: string;
}

export interface Config {
  readonly ws_url: string;
  readonly limits: Readonly<Record<string, number>>;
  readonly features: Readonly<Record<string, unknown>>;
  readonly version: string;
}

export interface Conversation {
  readonly id: string;
  readonly title: string | null;
  readonly leaf_id?: string | null;
  readonly created_at?: string | number;
  readonly updated_at?: string | number;
}

export interface Message {
  readonly id: string;
  readonly role: "user" | "assistant" | "system";
  readonly parent_id: string | null;
  readonly content: string;
  readonly status: string;
  readonly kind?: string;
  readonly generation_id?: string | null;
  readonly parts?: readonly Part[] | null;
  readonly epoch?: number;
  readonly seq?: number;
  readonly finish_reason?: string | null;
  readonly usage?: Usage | null;
  readonly cost?: number | null;
  readonly model?: string | null;
  readonly provider?: string | null;
  readonly code?: string | null;
  readonly message?: string | null;
}

export interface StoredGeneration {
  readonly id: string;
  readonly status: string;
  readonly epoch: number;
  readonly seq: number;
  readonly text: string;
  readonly parts: readonly Part[];
  readonly end: End | null;
}

export interface Model {
  readonly id: string;
  readonly name?: string;
}

export interface Page<T> {
  readonly data: readonly T[];
  readonly next_cursor: string | null;
}

export interface Ticket {
  readonly ticket: string;
  readonly url: string;
}

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly retryAfterMs: number | null = null,
    readonly requestId: string | null = null,
  ) {
    super(message);
  }

  /** Nothing was heard from the server at all. */
  get offline(): boolean {
    return this.status === 0;
  }
}

const DEADLINE_MS = 15_000;

function csrfToken(): string | null {
  for (const pair of document.cookie.split("; ")) {
    const at = pair.indexOf("=");
    const name = pair.slice(0, at);
    if (name === "__Host-parley_csrf" || name === "parley_csrf") return decodeURIComponent(pair.slice(at + 1));
  }
  return null;
}

async function refusal(response: Response): Promise<ApiError> {
  const requestId = response.headers.get("x-request-id");
  try {
    const { error } = (await response.json()) as {
      error: { code: string; message: string; retry_after_ms?: number | null; request_id?: string | null };
    };
    return new ApiError(response.status, error.code, error.message, error.retry_after_ms ?? null, error.request_id ?? requestId);
  } catch {
    const message = `The server answered ${response.status} ${response.statusText}`.trim() + ".";
    return new ApiError(response.status, "internal", message, null, requestId);
  }
}

async function attempt(method: string, path: string, body?: unknown): Promise<unknown> {
  const headers: Record<string, string> = { accept: "application/json" };
  if (body !== undefined) headers["content-type"] = "application/json";
  if (method !== "GET") {
    const token = csrfToken();
    if (token) headers["x-csrf-token"] = token;
  }
  let response: Response;
  try {
    response = await fetch(path, {
      method,
      headers,
      credentials: "same-origin",
      cache: "no-store",
      signal: AbortSignal.timeout(DEADLINE_MS),
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
  } catch {
    throw new ApiError(0, "offline", "The server cannot be reached.");
  }
  if (!response.ok) throw await refusal(response);
  return response.status === 204 ? null : response.json();
}

export class Api {
  /** Called once the session is gone for good: the user must sign in. */
  onSignedOut: () => void = () => undefined;
  private refreshing: Promise<boolean> | null = null;

  config = (): Promise<Config> => attempt("GET", "/v1/config") as Promise<Config>;
  redeem = (code: string): Promise<{ user: User }> =>
    attempt("POST", "/v1/auth/login", { code }) as Promise<{ user: User }>;
  login = (email: string, password: string): Promise<{ user: User }> =>
    attempt("POST", "/v1/auth/login", { email, password }) as Promise<{ user: User }>;
  register = (email: string, password: string, name: string): Promise<{ user: User }> =>
    attempt("POST", "/v1/auth/register", { email, password, ...(name ? { name } : {}) }) as Promise<{ user: User }>;
  logout = (): Promise<unknown> => attempt("POST", "/v1/auth/logout");
  me = (): Promise<User> => this.call<User>("GET", "/v1/me");
  ticket = (): Promise<Ticket> => this.call("POST", "/v1/ws/tickets");
  models = (): Promise<{ data: readonly Model[] }> => this.call("GET", "/v1/models");

  conversations = (cursor: string | null, limit = 40): Promise<Page<Conversation>> =>
    this.call("GET", `/v1/conversations?${page(limit, cursor)}`);
  conversation = (id: string): Promise<Conversation> => this.call("GET", `/v1/conversations/${id}`);
  createConversation = (id: string, title: string): Promise<Conversation> =>
    this.call("POST", "/v1/conversations", { id, title });
  rename = (id: string, title: string): Promise<Conversation> => this.call("PATCH", `/v1/conversations/${id}`, { title });
  remove = (id: string): Promise<unknown> => this.call("DELETE", `/v1/conversations/${id}`);
  restore = (id: string): Promise<Conversation> => this.call("POST", `/v1/conversations/${id}/restore`);
  messages = (id: string, cursor: string | null, limit = 50): Promise<Page<Message>> =>
    this.call("GET", `/v1/conversations/${id}/messages?${page(limit, cursor)}`);
  chooseBranch = (id: string, leafId: string): Promise<unknown> =>
    this.call("PUT", `/v1/conversations/${id}/branch`, { leaf_id: leafId });
  generation = (id: string): Promise<StoredGeneration> => this.call("GET", `/v1/generations/${encodeURIComponent(id)}`);

  /** One refresh for all calls that found the session expired at once. Network trouble is no verdict and is thrown. */
  refresh(): Promise<boolean> {
    this.refreshing ??= attempt("POST", "/v1/auth/refresh")
      .then(
        () => true,
        (error: unknown) => {
          if (error instanceof ApiError && (error.status === 401 || error.status === 403)) return false;
          throw error;
        },
      )
      .finally(() => {
        this.refreshing = null;
      });
    return this.refreshing;
  }

  private async call<T>(method: string, path: string, body?: unknown): Promise<T> {
    try {
      return (await attempt(method, path, body)) as T;
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 401) throw error;
      if (await this.refresh()) return (await attempt(method, path, body)) as T;
      this.onSignedOut();
      throw error;
    }
  }
}

function page(limit: number, cursor: string | null): string {
  const query = new URLSearchParams({ limit: String(limit) });
  if (cursor) query.set("cursor", cursor);
  return query.toString();
}
