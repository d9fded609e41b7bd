import { useState } from "preact/hooks";
import { post, type Session } from "../api";
import { me } from "../parts/bits";

/** `why`: what brought somebody here who did not ask for it. */
export function Login({ why }: { why: string }) {
  const [error, setError] = useState("");
  const [busy, setBusy] = useState(false);
  return (
    <main class="login">
      <form
        onSubmit={async (event) => {
          event.preventDefault();
          const token = String(new FormData(event.currentTarget).get("token") ?? "").trim();
          setBusy(true);
          setError("");
          try {
            me.value = await post<Session>("/v1/session", { token });
          } catch (reason) {
            setError((reason as Error).message);
          }
          setBusy(false);
        }}
      >
        <h1>
          <svg viewBox="0 0 32 32" width="26" height="26" aria-hidden="true">
            <path d="M16 2 4 7v8c0 7.500 5 12.600 12 15 7-2.400 12-7.500 12-15V7z" />
          </svg>
          ipwarden
        </h1>
        {why && <p role="status">{why}</p>}
        <label for="token">Token</label>
        <input
          id="token"
          name="token"
          type="password"
          autocomplete="current-password"
          required
          placeholder="ipw_…"
          aria-describedby="token-help"
        />
        {error && (
          <p class="bad" role="alert">
            {error}
          </p>
        )}
        <button type="submit" class="primary" disabled={busy}>
          Log in
        </button>
        <p id="token-help" class="muted">
          A token of the role viewer or admin. The first start wrote one to <code>admin.token</code> in
          the data directory; <code>ipwarden token create</code> makes more.
        </p>
      </form>
    </main>
  );
}
