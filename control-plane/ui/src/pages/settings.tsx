// Tokens, how long what is kept, how old the geography is, who did what.

import { useState } from "preact/hooks";
import { type AuditEntry, get, type Hook, post, type Retention, remove, type Status, type Token } from "../api";
import { ago, bytes, duration, moment, number, showUtc, utc, zone } from "../format";
import { useLoaded } from "../live";
import { attempt, Choice, Dialog, FormDialog, isAdmin, me, Question, say, State, Table, Text } from "../parts/bits";
import { Attribution } from "../parts/attribution";
import { Feeds } from "./feeds";

export function Settings() {
  const status = useLoaded("settings", () => get<Status>("/v1/status"), 10_000);
  const data = status.data;
  return (
    <div class="columns">
      <section class="panel">
        <header>
          <h2>Service</h2>
        </header>
        <State of={status} />
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
            <dt>Rules</dt>
            <dd>{number(data.rules)} for detection</dd>
            <dt>Times</dt>
            <dd>
              are shown in {zone()}{" "}
              {(utc.value || zone() !== "UTC") && (
                <button type="button" class="link" onClick={() => showUtc(!utc.value)}>
                  {utc.value ? "show your own zone" : "show UTC"}
                </button>
              )}
            </dd>
            <dt>Viewers</dt>
            <dd>
              {me.value?.addresses_masked
                ? "addresses are shown to you as their networks"
                : "you see whole addresses; viewers see networks unless dashboard.viewers_see_addresses is set"}
            </dd>
          </dl>
        )}
      </section>
      <Kept />
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
                    <span class="muted">
                      <Attribution of={file.data.attribution} />
                    </span>
                  </>
                )}
              </p>
            )}
          </div>
        ))}
        <p class="note">Map: Natural Earth, through world-atlas (public domain).</p>
      </section>
      <Feeds />
      <Notify />
      {isAdmin() && <Tokens />}
      <Audit />
    </div>
  );
}

/** How long what is kept, and what the last run of it did. */
function Kept() {
  const loaded = useLoaded("retention", () => get<Retention>("/v1/retention"), 5_000);
  const { data, reload } = loaded;
  const last = data?.last;
  const running = data?.running;
  const run = () =>
    attempt(async () => {
      await post("/v1/retention/run", {});
      say("The run begins.");
      reload();
    });
  return (
    <section class="panel">
      <header>
        <h2>Privacy and retention</h2>
        {isAdmin() && (
          <button type="button" disabled={!!running} onClick={run}>
            Run now
          </button>
        )}
      </header>
      <State of={loaded} />
      {data && (
        <dl class="facts">
          <dt>Addresses</dt>
          <dd>
            as they came for {duration(data.raw_for_s)}, then{" "}
            {data.address === "pseudonym" ? "a pseudonym" : "cut to their networks"}
          </dd>
          <dt>Records</dt>
          <dd>
            admitted {duration(data.admitted_s)}, refused {duration(data.refused_s)}, of sensitive paths{" "}
            {duration(data.sensitive_s)}
            {data.max_store != null && <>; at most {bytes(data.max_store)}</>}
          </dd>
          <dt>Suspects</dt>
          <dd>{duration(data.suspects_s)} after they were judged</dd>
          <dt>Audit log</dt>
          <dd>{duration(data.audit_s)}</dd>
          <dt>Last run</dt>
          <dd>
            {running ? (
              <>
                under way: {running.phase}, {number(running.done)}
                {running.total != null && <> of {number(running.total)}</>} rows
              </>
            ) : last ? (
              <>
                {ago(last.finished_at)}: {number(last.hidden)} addresses hidden,{" "}
                {number(last.admitted + last.refused + last.sensitive + last.all)} records deleted
                {last.capped > 0 && <>, {number(last.capped)} of them before their time: the log was full</>}
                {last.error && <span class="bad"> · {last.error}</span>}
              </>
            ) : (
              "none since the service started; it runs every hour"
            )}
          </dd>
          <dt>Visitors</dt>
          <dd>
            are told all this on <a href="/privacy">the privacy page</a>
          </dd>
        </dl>
      )}
    </section>
  );
}

/** Who is told of suspects, and whether they are. */
function Notify() {
  const loaded = useLoaded("notify", () => get<{ hooks: Hook[] }>("/v1/notify"), 10_000);
  const { data, reload } = loaded;
  const test = (hook: string) =>
    attempt(async () => {
      const { results } = await post<{ results: { ok: boolean; problem: string | null }[] }>("/v1/notify/test", { hook });
      const bad = results.find((result) => !result.ok);
      say(bad ? `${hook}: ${bad.problem ?? "it was not taken"}` : `${hook} took the test.`, undefined, !!bad);
      reload();
    });
  return (
    <section class="panel wide">
      <header>
        <h2>Notifications</h2>
      </header>
      <State of={loaded} empty={data?.hooks.length === 0}>
        Nobody is told of suspects: <code>[[notify]]</code> in the configuration names a webhook.
      </State>
      {data && data.hooks.length > 0 && (
        <Table label="Notifications" heads={["Hook", "To", "Sent", { n: "Waiting" }, { n: "Dropped" }, "State", { hidden: "Do" }]}>
          {data.hooks.map((hook) => (
            <tr key={hook.name}>
              <td class="mono">{hook.name}</td>
              <td class="mono muted">
                {hook.kind} {hook.to}
              </td>
              <td>{ago(hook.sent_at)}</td>
              <td class="n">{number(hook.waiting)}</td>
              <td class={hook.dropped > 0 ? "n bad" : "n"}>{number(hook.dropped)}</td>
              <td class={hook.problem ? "agent bad" : "agent"}>
                {hook.problem ? <Text text={`failing since ${hook.failing_since ? ago(hook.failing_since) : "now"}: ${hook.problem}`} /> : "fine"}
              </td>
              <td class="n">
                {isAdmin() && (
                  <button type="button" class="quiet" aria-label={`Test ${hook.name}`} onClick={() => test(hook.name)}>
                    Test
                  </button>
                )}
              </td>
            </tr>
          ))}
        </Table>
      )}
    </section>
  );
}

const ROLES: [string, string][] = [
  ["viewer", "viewer: reads"],
  ["proxy", "proxy: an Envoy"],
  ["bouncer", "bouncer: reads what is refused"],
  ["admin", "admin: everything"],
];

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
      <State of={tokens} />
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
        <FormDialog
          title="Make a token"
          word="Make"
          onClose={() => setMaking(false)}
          onSubmit={async (text) => {
            const made = await post<{ secret: string }>("/v1/tokens", { name: text("name"), role: text("role") });
            setSecret(made.secret);
            tokens.reload();
          }}
        >
          <label>
            Name
            <input name="name" required maxLength={64} pattern="[A-Za-z0-9._\-]+" />
          </label>
          <Choice label="Role" name="role" of={ROLES} />
        </FormDialog>
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
        <Question
          title={`Revoke ${revoking}?`}
          word="Revoke"
          onClose={() => setRevoking(undefined)}
          onYes={async () => {
            await remove(`/v1/tokens/${encodeURIComponent(revoking)}`);
            say(`${revoking} is revoked.`);
            tokens.reload();
          }}
        >
          Whoever uses it is refused from then on, and logged out.
        </Question>
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
      <State of={audit} />
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
