import type { JSX } from "preact";
import { useRef, useState } from "preact/hooks";
import type { Account } from "../chat/account";
import { Mark } from "./icons";

export function Login({ account }: { account: Account }): JSX.Element {
  const [registering, setRegistering] = useState(false);
  const [busy, setBusy] = useState(false);
  const form = useRef<HTMLFormElement>(null);
  const problem = account.problem.value;

  async function submit(event: Event): Promise<void> {
    event.preventDefault();
    if (!form.current || busy) return;
    const data = new FormData(form.current);
    setBusy(true);
    await account.signIn(String(data.get("email")).trim(), String(data.get("password")), registering ? String(data.get("name")).trim() : null);
    setBusy(false);
  }

  return (
    <main class="login">
      <form ref={form} class="card" onSubmit={(event) => void submit(event)}>
        <div class="brand">
          <Mark />
          <span>Parley</span>
        </div>
        <h1>{registering ? "Create your account" : "Welcome back"}</h1>
        {registering && (
          <label>
            Name
            <input name="name" autocomplete="name" maxLength={100} />
          </label>
        )}
        <label>
          Email
          <input name="email" type="email" autocomplete="username" required autofocus />
        </label>
        <label>
          Password
          <input
            name="password"
            type="password"
            autocomplete={registering ? "new-password" : "current-password"}
            required
          />
        </label>
        <p class="problem" role="alert">
          {problem}
        </p>
        <button class="primary" type="submit" disabled={busy}>
          {busy ? "One moment…" : registering ? "Create account" : "Sign in"}
        </button>
        <p class="switch">
          {registering ? "Already have an account?" : "New here?"}{" "}
          <button
            type="button"
            class="link"
            onClick={() => {
              account.problem.value = null;
              setRegistering(!registering);
            }}
          >
            {registering ? "Sign in" : "Create an account"}
          </button>
        </p>
      </form>
    </main>
  );
}

export function Unreachable({ account }: { account: Account }): JSX.Element {
  return (
    <main class="login">
      <div class="card">
        <div class="brand">
          <Mark />
          <span>Parley</span>
        </div>
        <h1>Parley cannot be reached</h1>
        <p role="alert">{account.problem.value}</p>
        <button class="primary" type="button" onClick={() => void account.start(null)}>
          Try again
        </button>
      </div>
    </main>
  );
}
