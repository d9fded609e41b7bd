// Tokens, how long what is kept, how old the geography is, who did what.

import { useState } from "preact/hooks";
import { type AuditEntry, get, post, remove, type Status, type Token } from "../api";
import { ago, bytes, duration, moment, number } from "../format";
import { useLoaded } from "../live";
import { Dialog, State, Table, Text, attempt, isAdmin, me, say } from "../parts/bits";

export function Settings() {
  const status = useLoaded("settings", () => get<Status>("/v1/status"), 10_000);
  const data = status.data;
  return (
    <div class="columns">
      <section class="panel">
        <header>
          <h2>Service</h2>
        </header>
        <State error={status.error} loading={status.loading} has={!!data} />
        {data && (
          <dl class="facts">
            <dt>Version</dt>
            <dd class="mono">{data.version}</dd>
            <dt>Running</dt>
            <dd>since {moment(data.started_at)}</dd>
            <dt>Data</dt>
            <dd class="mono">{data.data_dir}</dd>
            <dt>Store</dt>
            <dd>
              {bytes(data.log_bytes)} of records, {bytes(data.state_bytes)} of state
              {data.disk_free_bytes != null && <>, {bytes(data.disk_free_bytes)} free</>}
            </dd>
            <dt>Requests</dt>
            <dd>{number(data.records_stored)} stored</dd>
            <dt>Viewers</dt>
            <dd>
              {me.value?.addresses_masked
                ? "addresses are shown to you as their networks"
                : "you see whole addresses; viewers see networks unless dashboard.viewers_see_addresses is set"}
            </dd>
          </dl>
        )}
      </section>
      <Privacy />
      <section class="panel">
        <header>
          <h2>Geography</h2>
        </header>
        {data?.geo.problem && <p class="state bad">{data.geo.problem}</p>}
        {data && data.geo.databases.length === 0 && (
          <p class="state muted">
            No data: <code>ipwarden geo update</code> brings some, free and without an account.
          </p>
        )}
        {data?.geo.databases.map((file) => (
          <div key={file.file} class="geo">
            <h3 class="mono">{file.file}</h3>
            {file.problem && <p class="bad">{file.problem}</p>}
            {file.data && (
              <p>
                {file.data.built_at
                  ? `data of ${moment(file.data.built_at).slice(0, 10)}, ${duration(file.data.age_seconds ?? 0)} old`
                  : "of unknown age"}{" "}
                · {bytes(file.data.bytes)}
                {file.data.attribution && (
                  <>
                    <br />
                    <span class="muted">{attribution(file.data.attribution)}</span>
                  </>
                )}
              </p>
            )}
          </div>
        ))}
        <p class="note">Map: Natural Earth, through world-atlas (public domain).</p>
      </section>
      {isAdmin() && <Tokens />}
      <Audit />
    </div>
  );
}

const attribution = (value: Record<string, unknown>) =>
  Object.values(value)
    .filter((part) => typeof part === "string")
    .join(" · ");

/** What the privacy page says of the configuration in force. */
function Privacy() {
  const policy = useLoaded("policy", async () => {
    const response = await fetch("/privacy", { headers: { accept: "application/json" } });
    if (!response.ok || !response.headers.get("content-type")?.startsWith("application/json")) return null;
    return (await response.json()) as Record<string, unknown>;
  });
  const lines = Object.entries(policy.data ?? {}).filter(([, value]) => typeof value !== "object");
  return (
    <section class="panel">
      <header>
        <h2>Privacy and retention</h2>
      </header>
      {lines.length > 0 ? (
        <dl class="facts">
          {lines.map(([key, value]) => (
            <>
              <dt key={key}>{key.replaceAll("_", " ")}</dt>
              <dd key={`${key}=`}>{String(value)}</dd>
            </>
          ))}
        </dl>
      ) : (
        <p class="state">
          What is kept of clients, in what form and for how long, is in <a href="/privacy">the privacy page</a>,
          which this service makes of its configuration.
        </p>
      )}
    </section>
  );
}

function Tokens() {
  const tokens = useLoaded("tokens", () => get<{ tokens: Token[] }>("/v1/tokens"), 30_000);
  const [making, setMaking] = useState(false);
  const [secret, setSecret] = useState<string>();
  const [revoking, setRevoking] = useState<string>();
  return (
    <section class="panel wide">
      <header>
        <h2>Tokens</h2>
        <button type="button" onClick={() => setMaking(true)}>
          Make one
        </button>
      </header>
      <State error={tokens.error} loading={tokens.loading} has={!!tokens.data} />
      {tokens.data && (
        <Table label="Tokens" heads={["Name", "Role", "Made", "Used", { hidden: "Do" }]}>
          {tokens.data.tokens.map((token) => (
            <tr key={token.id}>
              <td class="mono">{token.name}</td>
              <td>{token.role}</td>
              <td>{ago(token.created_at)}</td>
              <td>{ago(token.last_used_at)}</td>
              <td class="n">
                <button type="button" class="quiet" aria-label={`Revoke ${token.name}`} onClick={() => setRevoking(token.name)}>
                  Revoke
                </button>
              </td>
            </tr>
          ))}
        </Table>
      )}
      {making && (
        <Dialog title="Make a token" onClose={() => setMaking(false)}>
          <form
            onSubmit={(event) => {
              event.preventDefault();
              const form = new FormData(event.currentTarget);
              attempt(async () => {
                const made = await post<{ secret: string }>("/v1/tokens", {
                  name: form.get("name"),
                  role: form.get("role"),
                });
                setMaking(false);
                setSecret(made.secret);
                tokens.reload();
              });
            }}
          >
            <label>
              Name
              <input name="name" required maxLength={64} pattern="[A-Za-z0-9._\-]+" />
            </label>
            <label>
              Role
              <select name="role">
                <option value="viewer">viewer: reads</option>
                <option value="proxy">proxy: an Envoy</option>
                <option value="admin">admin: everything</option>
              </select>
            </label>
            <p class="actions">
              <button type="submit" class="primary">
                Make
              </button>
              <button type="button" onClick={() => setMaking(false)}>
                Cancel
              </button>
            </p>
          </form>
        </Dialog>
      )}
      {secret && (
        <Dialog title="The token's secret" onClose={() => setSecret(undefined)}>
          <p>It is shown this once.</p>
          <p class="mono secret">{secret}</p>
          <p class="actions">
            <button type="button" onClick={() => setSecret(undefined)}>
              Done
            </button>
          </p>
        </Dialog>
      )}
      {revoking && (
        <Dialog title={`Revoke ${revoking}?`} onClose={() => setRevoking(undefined)}>
          <p>Whoever uses it is refused from then on, and logged out.</p>
          <p class="actions">
            <button
              type="button"
              class="danger"
              onClick={() =>
                attempt(async () => {
                  await remove(`/v1/tokens/${encodeURIComponent(revoking)}`);
                  say(`${revoking} is revoked.`);
                  setRevoking(undefined);
                  tokens.reload();
                })
              }
            >
              Revoke
            </button>
            <button type="button" onClick={() => setRevoking(undefined)}>
              Cancel
            </button>
          </p>
        </Dialog>
      )}
    </section>
  );
}

function Audit() {
  const audit = useLoaded("audit", () => get<{ entries: AuditEntry[] }>("/v1/audit", { limit: 50 }), 30_000);
  return (
    <section class="panel wide">
      <header>
        <h2>Who did what</h2>
        <span class="note">the latest 50</span>
      </header>
      <State error={audit.error} loading={audit.loading} has={!!audit.data} />
      <Table label="Audit log" size="tall" class="records" heads={["Time", "Who", "What", "On", "Detail"]}>
        {audit.data?.entries.map((entry) => (
          <tr key={entry.id}>
            <td class="mono">{moment(entry.time)}</td>
            <td>{entry.actor}</td>
            <td class="mono">{entry.action}</td>
            <td class="request mono">
              <Text text={entry.subject} />
            </td>
            <td class="agent muted">
              <Text text={entry.detail} />
            </td>
          </tr>
        ))}
      </Table>
    </section>
  );
}
