// The queue: judge one suspect after the other, with the keyboard alone if need be.

import { useState } from "preact/hooks";
import { get, type Judged, post, type Reason, type Suspect } from "../api";
import { go, page, view } from "../filter";
import { ago, country, moment, number } from "../format";
import { useLoaded } from "../live";
import { Address, attempt, Hidden, isAdmin, Link, say, shownTarget, State, Table, Text, useKeys } from "../parts/bits";
import { LastDay } from "../parts/spark";

interface Page {
  total: number;
  suspects: Suspect[];
  next: number | null;
}

const DURATIONS = ["1h", "4h", "24h", "7d", "30d"];
const STATUSES = ["open", "confirmed", "dismissed"];

export function Suspects() {
  const status = view.value.rest.status ?? "open";
  const loaded = useLoaded(
    `suspects ${status}`,
    () => get<Page>("/v1/suspects", { status, limit: 200 }),
    5_000,
  );
  const { data, reload } = loaded;
  const [lifetime, setLifetime] = useState("");
  const suspects = [...(data?.suspects ?? [])].sort((a, b) => weight(b) - weight(a));
  const id = Number(view.value.rest.id ?? suspects[0]?.id);
  const at = suspects.findIndex((suspect) => suspect.id === id);
  const chosen = suspects[at] ?? suspects[0];
  const choose = (suspect: Suspect | undefined) =>
    suspect &&
    go({ ...view.value, rest: { ...view.value.rest, id: String(suspect.id) } }, true);
  const judge = (path: string, word: string, body: object) =>
    attempt(async () => {
      if (!chosen || !isAdmin()) return;
      const judged = await post<Judged>(`/v1/suspects/${chosen.id}/${path}`, body);
      const target = shownTarget(chosen.target);
      const warned = judged.warnings.map((warning) => ` ${warning.message}`).join("");
      say(`${target} ${word}.${warned}`, async () => {
        await post(`/v1/suspects/${chosen.id}/reopen`);
        say(`${target} is open again.`);
        reload();
      });
      choose(suspects[at + 1] ?? suspects[at - 1]);
      reload();
    });
  const block = () => judge("confirm", "blocked", lifetime ? { for: lifetime } : {});
  const dismiss = () => judge("dismiss", "dismissed", {});
  const allow = () => judge("dismiss", "dismissed and allowed", { allow: lifetime || "30d" });
  const isOpen = status === "open";
  useKeys({
    j: () => choose(suspects[Math.min(at + 1, suspects.length - 1)]),
    k: () => choose(suspects[Math.max(at - 1, 0)]),
    ...(isOpen && isAdmin() ? { b: block, d: dismiss, a: allow } : {}),
  });
  return (
    <>
      <div class="bar">
        <fieldset class="spans">
          <legend class="hidden">Status</legend>
          {STATUSES.map((word) => (
            <button
              key={word}
              type="button"
              aria-pressed={status === word}
              onClick={() => go({ ...view.value, rest: { status: word } })}
            >
              {word}
            </button>
          ))}
        </fieldset>
        <span class="note">
          {data ? `${number(data.total)} ${status}` : ""}
          <span class="keys">
            {" "}
            · <kbd>j</kbd> <kbd>k</kbd> move{isOpen && isAdmin() ? <> · <kbd>b</kbd> block · <kbd>d</kbd> dismiss · <kbd>a</kbd> allow · <kbd>u</kbd> undo</> : ""}
          </span>
        </span>
      </div>
      <State of={loaded} empty={!!data && suspects.length === 0}>
        {isOpen ? "Nobody waits to be judged." : `Nobody is ${status}.`}
      </State>
      {chosen && (
        <div class="split">
          <ul class="queue panel" aria-label="Suspects">
            {suspects.map((suspect) => (
              <li key={suspect.id}>
                <button
                  type="button"
                  aria-current={suspect.id === chosen.id}
                  data-suspect={suspect.target}
                  onClick={() => choose(suspect)}
                >
                  <span class={`severity ${suspect.severity}`}>{suspect.severity}</span>
                  <span class="mono target">
                    {shownTarget(suspect.target)} {suspect.form === "pseudonym" && <Hidden />}
                  </span>
                  <span class="n">{Math.round(suspect.score * 100)}</span>
                  <span class="why">
                    {suspect.reasons.map((reason) => reason.rule).join(", ")}
                  </span>
                  <span class="note">{ago(suspect.last_seen)}</span>
                </button>
              </li>
            ))}
          </ul>
          <article class="panel detail" aria-label={`Suspect ${shownTarget(chosen.target)}`}>
            <header>
              <h2 class="mono">
                <Address ip={chosen.target} form={chosen.form} />
              </h2>
              <span class={`severity ${chosen.severity}`}>{chosen.severity}</span>
              <span class="note">
                {[chosen.city, chosen.country && country(chosen.country), chosen.asn && `AS${chosen.asn}`]
                  .filter(Boolean)
                  .join(" · ") || "place unknown"}
              </span>
            </header>
            {isAdmin() && (
              <div class="actions">
                {isOpen ? (
                  <>
                    <label>
                      for{" "}
                      <select
                        value={lifetime}
                        aria-label="How long to block or allow"
                        onChange={(event) => setLifetime(event.currentTarget.value)}
                      >
                        <option value="">as the policy says</option>
                        {DURATIONS.map((word) => (
                          <option key={word}>{word}</option>
                        ))}
                      </select>
                    </label>
                    <button type="button" class="danger" onClick={block}>
                      Block
                    </button>
                    <button type="button" onClick={dismiss}>
                      Dismiss
                    </button>
                    <button type="button" onClick={allow}>
                      Allow
                    </button>
                  </>
                ) : (
                  <button
                    type="button"
                    onClick={() =>
                      attempt(async () => {
                        await post(`/v1/suspects/${chosen.id}/reopen`);
                        say(`${shownTarget(chosen.target)} is open again.`);
                        reload();
                      })
                    }
                  >
                    Take back
                  </button>
                )}
              </div>
            )}
            <dl class="facts">
              <dt>Score</dt>
              <dd>{Math.round(chosen.score * 100)} of 100, from {chosen.reasons.length} {chosen.reasons.length === 1 ? "reason" : "reasons"}</dd>
              <dt>Seen</dt>
              <dd>
                {moment(chosen.first_seen)} to {moment(chosen.last_seen)}
              </dd>
              {chosen.closed_at && (
                <>
                  <dt>Judged</dt>
                  <dd>
                    {chosen.status} {ago(chosen.closed_at)} by {chosen.closed_by}
                  </dd>
                </>
              )}
              {chosen.decision && (
                <>
                  <dt>Decision</dt>
                  <dd>
                    number {chosen.decision}
                    {isOpen ? ", made by the policy" : ""}
                  </dd>
                </>
              )}
            </dl>
            <LastDay key={chosen.target} target={chosen.target} form={chosen.form === "pseudonym" ? chosen.form : undefined} />
            <Before key={chosen.id} suspect={chosen} />
            {chosen.reasons.map((reason) => (
              <ReasonView key={reason.rule} reason={reason} />
            ))}
          </article>
        </div>
      )}
    </>
  );
}

/** What became of the same target before. */
function Before({ suspect }: { suspect: Suspect }) {
  const { data } = useLoaded(`before ${suspect.target}`, () =>
    get<Page>("/v1/suspects", { target: suspect.target, limit: 6 }),
  );
  // A pseudonym and an address that looks like it are two.
  const before = data?.suspects.filter(
    (other) => other.id !== suspect.id && other.target === suspect.target && other.form === suspect.form,
  );
  if (!before?.length) return null;
  return (
    <dl class="facts">
      <dt>Before</dt>
      {before.slice(0, 5).map((other) => (
        <dd key={other.id}>
          <Link to={page("suspects", { status: other.status, id: String(other.id) })}>{other.status}</Link>{" "}
          {other.closed_at ? `${ago(other.closed_at)} by ${other.closed_by}` : ago(other.last_seen)}:{" "}
          {other.reasons.map((reason) => reason.rule).join(", ")}
        </dd>
      ))}
    </dl>
  );
}

const SEVERITIES = ["low", "medium", "high", "critical"];
const weight = (suspect: Suspect) => SEVERITIES.indexOf(suspect.severity) + suspect.score;

export function ReasonView({ reason }: { reason: Reason }) {
  const features = Object.entries(reason.features ?? {}).sort((a, b) => b[1] - a[1]);
  const most = Math.max(1e-9, ...features.map(([, value]) => value));
  return (
    <section class="reason">
      <h3>
        <span class="mono">{reason.rule}</span> <span class={`severity ${reason.severity}`}>{reason.severity}</span>
        <span class="note">
          {reason.source} · {number(reason.count)} requests · {Math.round(reason.score * 100)}
        </span>
      </h3>
      <p>
        <Text text={reason.detail} />
      </p>
      {features.length > 0 && (
        <dl class="features" aria-label="What made the score">
          {features.map(([name, value]) => (
            <div key={name}>
              <dt>{name.replaceAll("_", " ")}</dt>
              <dd>
                <svg viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">
                  <rect width={(100 * value) / most} height="1" />
                </svg>
                <span class="n">{value.toFixed(2)}</span>
              </dd>
            </div>
          ))}
        </dl>
      )}
      {reason.evidence && reason.evidence.length > 0 && (
        <Table label={`Evidence of ${reason.rule}`} class="records" heads={["Time", { n: "Status" }, "Request", "Matched"]}>
          {reason.evidence.map((seen) => (
            <tr key={`${seen.time}${seen.path}`}>
              <td class="mono">{moment(seen.time)}</td>
              <td class="n">{seen.status || "–"}</td>
              <td class="request">
                <span class="muted">{seen.method}</span> <Text class="mono" text={seen.path} />
              </td>
              <td>{seen.matched ? <Text class="mono" text={seen.matched} /> : ""}</td>
            </tr>
          ))}
        </Table>
      )}
    </section>
  );
}
