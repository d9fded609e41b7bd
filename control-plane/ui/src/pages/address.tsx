// All about one address or network.

import { useState } from "preact/hooks";
import {
  type Decision,
  get,
  type Located,
  remove,
  type Stats,
  type SubjectErased,
  type SubjectExport,
  type Suspect,
} from "../api";
import { go, page, query, view } from "../filter";
import { country, number } from "../format";
import { useLoaded } from "../live";
import { FilterBar } from "../parts/bar";
import { attempt, isAdmin, Link, Question, say, State } from "../parts/bits";
import { Chart } from "../parts/chart";
import { Addresses, TopList } from "../parts/tops";
import { Add, Applies, DecisionTable } from "./decisions";
import { RecordTable } from "./records";
import { ReasonView } from "./suspects";

export function AddressPage() {
  const target = view.value.rest.target ?? "";
  return (
    <>
      <form
        class="bar"
        onSubmit={(event) => {
          event.preventDefault();
          const next = String(new FormData(event.currentTarget).get("target") ?? "").trim();
          if (next) go(page("address", { target: next }));
        }}
      >
        <input name="target" value={target} aria-label="Address or network" placeholder="an address or a network" size={28} class="mono" spellcheck={false} />
        <button type="submit">Look up</button>
      </form>
      {target && <About key={target} target={target} />}
    </>
  );
}

/** Records on a page of an export. */
const PAGE = 5_000;

/** Everything that is held on an address as one file: the pages of records are put together. */
async function saveExport(ip: string): Promise<void> {
  const path = `/v1/subjects/${encodeURIComponent(ip)}`;
  const all = await get<SubjectExport>(path, { limit: PAGE });
  while (all.next) {
    const more = await get<SubjectExport>(path, { limit: PAGE, before: all.next });
    all.records.push(...more.records);
    all.next = more.next;
  }
  const file = new Blob([JSON.stringify(all, null, 2)], { type: "application/json" });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = `subject-${ip.replaceAll(":", "-")}.json`;
  link.click();
  URL.revokeObjectURL(link.href);
  say(`${number(all.records.length)} records of ${ip} are in ${link.download}.`);
}

/** 3 records, 1 suspect */
export function whatWasErased(erased: SubjectErased): string {
  const parts: [number, string][] = [
    [erased.records, "record"],
    [erased.suspects, "suspect"],
    [erased.decisions, "decision"],
    [erased.redacted, "mention"],
  ];
  const done = parts.filter(([count]) => count > 0).map(([count, word]) => `${number(count)} ${word}${count === 1 ? "" : "s"}`);
  const left = erased.left.map((part) => `${part.what} (${part.why})`);
  return `${done.join(", ") || "nothing was held"}${left.length > 0 ? `; left: ${left.join(", ")}` : ""}`;
}

function About({ target }: { target: string }) {
  const isOne = !target.includes("/");
  const words = { ...query(view.value), ip: target };
  const stats = useLoaded(
    JSON.stringify([words, view.value.compare]),
    () =>
      get<Stats>("/v1/stats/overview", {
        ...words,
        compare: view.value.compare || undefined,
        by: "path,host,method,status,user_agent,rule,address,pseudonym",
        limit: 8,
      }),
    view.value.until ? 0 : 5_000,
  );
  const geo = useLoaded(`geo ${target}`, () => get<Located>(`/v1/geo/${encodeURIComponent(target.split("/")[0] ?? "")}`));
  const decisions = useLoaded(
    `decisions ${target}`,
    () => get<{ decisions: Decision[] }>("/v1/decisions", { inside: target, limit: 100 }),
    5_000,
  );
  const suspects = useLoaded(
    `suspects ${target}`,
    () => get<{ suspects: Suspect[] }>("/v1/suspects", { target, limit: 20 }),
    5_000,
  );
  const [adding, setAdding] = useState(false);
  const [erasing, setErasing] = useState(false);
  const [exporting, setExporting] = useState(false);
  const exported = (ip: string) => {
    setExporting(true);
    return attempt(() => saveExport(ip)).then(() => setExporting(false));
  };
  const place = geo.data;
  const total = stats.data?.total.requests ?? 0;
  const tops = stats.data?.tops ?? {};
  return (
    <>
      <FilterBar />
      <section class="panel about">
        <header>
          <h2 class="mono">{target}</h2>
          <span class="note">
            {place?.reserved
              ? "reserved, has no place"
              : [place?.city, place?.region, place?.country && country(place.country), place?.asn && `AS${place.asn}`, place?.as_org]
                  .filter(Boolean)
                  .join(" · ") || "place unknown"}
          </span>
          <span class="actions">
            <Link to={{ ...page("records"), conditions: { ip: target } }}>Records</Link>
            {isAdmin() && (
              <>
                <button type="button" onClick={() => setAdding(true)}>
                  Decide
                </button>
                {isOne && (
                  <>
                    <button type="button" disabled={exporting} onClick={() => exported(target)}>
                      {exporting ? "Exporting…" : "Export"}
                    </button>
                    <button type="button" class="danger" onClick={() => setErasing(true)}>
                      Erase
                    </button>
                  </>
                )}
              </>
            )}
          </span>
        </header>
        {isOne && <Applies ip={target} />}
      </section>
      <State of={stats} />
      {stats.data && (
        <div class="grid">
          <Chart stats={stats.data} height={160} />
          <TopList title="Paths" condition="path" top={tops.path} total={total} isMono />
          <TopList title="Status" condition="status" top={tops.status} total={total} isMono />
          <TopList title="User agents" condition="user_agent" top={tops.user_agent} total={total} />
          <TopList title="Limits hit" condition="rule" top={tops.rule} total={total} isMono />
          {!isOne && <Addresses tops={tops} total={total} />}
          <TopList title="Hosts" condition="host" top={tops.host} total={total} isMono />
        </div>
      )}
      <h2>Decisions</h2>
      <section class="panel">
        <State of={decisions} empty={decisions.data?.decisions.length === 0}>
          No decision about it; what covers it is said above.
        </State>
        {decisions.data && decisions.data.decisions.length > 0 && (
          <DecisionTable decisions={decisions.data.decisions} reload={decisions.reload} />
        )}
      </section>
      <h2>Suspects</h2>
      <section class="panel">
        <State of={suspects} empty={suspects.data?.suspects.length === 0}>
          Never flagged, as far as is remembered.
        </State>
        {suspects.data?.suspects.map((suspect) => (
          <article key={suspect.id} class="detail">
            <h3>
              <Link to={page("suspects", { status: suspect.status, id: String(suspect.id) })}>
                Suspect {suspect.id}
              </Link>{" "}
              <span class={`severity ${suspect.severity}`}>{suspect.severity}</span>{" "}
              <span class="note">
                {suspect.status} · score {Math.round(suspect.score * 100)} · {number(suspect.flags)} flags
              </span>
            </h3>
            {suspect.reasons.map((reason) => (
              <ReasonView key={reason.rule} reason={reason} />
            ))}
          </article>
        ))}
      </section>
      <h2>Records</h2>
      <RecordTable words={words} />
      {adding && <Add target={target} onClose={() => setAdding(false)} onDone={decisions.reload} />}
      {erasing && (
        <Question
          title={`Erase what is kept of ${target}?`}
          word="Erase"
          onClose={() => setErasing(false)}
          onYes={async () => {
            const done = await remove<SubjectErased>(`/v1/subjects/${encodeURIComponent(target)}`);
            say(`Erased: ${whatWasErased(done)}.`);
            // Looking at it once more would write it into the audit log once more.
            go(page("address"), true);
          }}
        >
          Its records, also those under a pseudonym, suspects, decisions and what was counted of it are deleted; in the
          audit log a mark stands in its place. This can't be undone.
        </Question>
      )}
    </>
  );
}
