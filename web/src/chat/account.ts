/** Who uses the page: in by the printed link, by the session cookie, or by the form; out again. */

import { batch, signal } from "@preact/signals";
import { ApiError, type Api, type Config, type User } from "../wire/api";
import { reason } from "./list";
import { toast } from "./toasts";

export type Phase = "loading" | "signed-out" | "chat" | "unreachable";

export class Account {
  readonly phase = signal<Phase>("loading");
  readonly user = signal<User | null>(null);
  readonly config = signal<Config | null>(null);
  readonly problem = signal<string | null>(null);
  onEntered: () => void = () => undefined;
  onLeft: () => void = () => undefined;

  constructor(private readonly api: Api) {
    api.onSignedOut = () => this.left();
  }

  async start(code: string | null): Promise<void> {
    this.phase.value = "loading";
    try {
      if (code && (await this.redeem(code))) return;
      await this.entered(await this.api.me());
    } catch (error) {
      const refused = error instanceof ApiError && error.status >= 400 && error.status < 500;
      if (!refused) this.problem.value = reason(error);
      this.phase.value = refused ? "signed-out" : "unreachable";
    }
  }

  async signIn(email: string, password: string, name: string | null): Promise<void> {
    this.problem.value = null;
    try {
      const answer = await (name === null ? this.api.login(email, password) : this.api.register(email, password, name));
      await this.entered(answer.user);
    } catch (error) {
      this.problem.value = reason(error);
    }
  }

  async signOut(): Promise<void> {
    try {
      await this.api.logout();
    } catch (error) {
      if (error instanceof ApiError && error.offline) {
        toast(`You are still signed in. ${error.message}`);
        return;
      }
    }
    this.left();
  }

  left(): void {
    batch(() => {
      this.user.value = null;
      this.phase.value = "signed-out";
      this.onLeft();
    });
  }

  /** False where the code is not good any more; a session that exists already may still be. */
  private async redeem(code: string): Promise<boolean> {
    try {
      await this.entered((await this.api.redeem(code)).user);
      return true;
    } catch (error) {
      if (!(error instanceof ApiError) || error.status < 400 || error.status >= 500) throw error;
      this.problem.value = "This link has been used already or has expired. Sign in, or start Parley again for a new link.";
      return false;
    }
  }

  private async entered(user: User): Promise<void> {
    this.config.value = await this.api.config();
    batch(() => {
      this.user.value = user;
      this.problem.value = null;
      this.phase.value = "chat";
    });
    this.onEntered();
  }
}
