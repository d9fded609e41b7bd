// The weekly look, and the one at 3 a.m.: what comes in, from where, and what becomes of it.

import { useState } from "preact/hooks";
import { get, type Stats, type Status } from "../api";
import { page, query, view } from "../filter";
import { change, clock, count, country, number, percent } from "../format";
import { useLoaded, useRecords } from "../live";
import { FilterBar } from "../parts/bar";
import { Address, Link, Pick, State, Table, Text, VerdictTag } from "../parts/bits";
import { Chart } from "../parts/chart";
import { WorldMap } from "../parts/map";
import { Addresses, TopList } from "../parts/tops";

/** How often a view that ends now is asked for again. */
const REFRESH = 3_000;

export function Overview() {
  const now = view.value;
  const words = { ...query(now), compare: now.compare || undefined, limit: 8 };
  const key = JSON.stringify(words);
  const isLive = !now.until;
  const loaded = useLoaded(
    key,
    () => get<Stats>("/v1/stats/overview", words),
    isLive ? REFRESH : 0,
  );
  const { data, stale } = loaded;
  const total = data?.total.requests ?? 0;
  const tops = data?.tops ?? {};
  return (
    <>
      <FilterBar />
      <State of={loaded} />
      {data && (
        <div class={stale ? "grid stale" : "grid"} aria-busy={stale}>
          <Tiles stats={data} />
          {total === 0 && <Nothing />}
          <Chart stats={data} />
          <WorldMap rows={tops.country?.rows ?? []} total={total} />
          <StatusMix stats={data} />
          <Addresses tops={tops} total={total} />
          <TopList title="Autonomous systems" condition="asn" top={tops.asn} total={total} label={(asn) => `AS${asn}`} isMono />
          <TopList
            title="Countries"
            condition="country"
            top={{ ...(tops.country ?? { distinct: 0, approximate: false }), rows: (tops.country?.rows ?? []).filter((row) => row.key).slice(0, 8) }}
            total={total}
            label={country}
          />
          <TopList title="Paths" condition="path" top={tops.path} total={total} isMono />
          <TopList title="User agents" condition="user_agent" top={tops.user_agent} total={total} />
          <TopList title="Hosts" condition="host" top={tops.host} total={total} isMono />
          <TopList title="Limits and rules" condition="rule" top={tops.rule} total={total} isMono />
        </div>
      )}
      {isLive && <Ticker />}
    </>
  );
}

/** Why there are only zeros. */
function Nothing() {
  const { data } = useLoaded("nothing", () => get<Status>("/v1/status"), 10_000);
  if (!data) return null;
  const isNarrow = Object.keys(view.value.conditions).length > 0;
  return (
    <p class="panel state nothing">
      {data.records_stored === 0 ? (
        <>
          No request was stored yet. A proxy that has the filter shows in <Link to={page("fleet")}>Fleet</Link> within
          seconds, and its requests here.
        </>
      ) : isNarrow ? (
        "No request meets all conditions in this span."
      ) : (
        "No request in this span."
      )}
    </p>
  );
}

function Tiles({ stats }: { stats: Stats }) {
  const { total, before } = stats;
  const seconds = (new Date(stats.until).getTime() - new Date(stats.since).getTime()) / 1000;
  const of = (verdict: keyof typeof total.verdicts) => total.verdicts[verdict] ?? 0;
  const past = (verdict: keyof typeof total.verdicts) =>
    before ? (before.verdicts[verdict] ?? 0) : undefined;
  const rate = total.requests / Math.max(1, seconds);
  const tiles: [string, number, number | undefined, string, string][] = [
    ["Requests", total.requests, before?.requests, `${rate < 10 ? rate.toFixed(1) : count(rate)} a second`, ""],
    ["Admitted", of("admitted"), past("admitted"), percent(of("admitted"), total.requests), "admitted"],
    ["Blocked", of("blocked"), past("blocked"), percent(of("blocked"), total.requests), "blocked"],
    ["Limited", of("limited"), past("limited"), percent(of("limited"), total.requests), "limited"],
    ["Shadow", of("shadow"), past("shadow"), percent(of("shadow"), total.requests), "shadow"],
  ];
  return (
    <dl class="tiles">
      {tiles.map(([name, value, was, note, verdict]) => (
        <div key={name}>
          <dt>
            {verdict && <i class={`dot ${verdict}`} />}
            {name}
          </dt>
          <dd title={number(value)} data-tile={name.toLowerCase()}>
            {verdict ? (
              <Pick by="verdict" value={verdict}>
                {count(value)}
              </Pick>
            ) : (
              count(value)
            )}
          </dd>
          <dd class="note">
            {was === undefined ? note : `${change(value, was) || "±0%"} · ${count(was)} before`}
          </dd>
        </div>
      ))}
    </dl>
  );
}

function StatusMix({ stats }: { stats: Stats }) {
  const rows = stats.tops?.status?.rows ?? [];
  const total = Math.max(1, stats.total.requests);
  const classes = ["2", "3", "4", "5"].map((digit) => ({
    digit,
    sum: rows
      .filter((row) => row.key.startsWith(digit) && row.key.length === 3)
      .reduce((all, row) => all + row.requests, 0),
  }));
  let left = 0;
  return (
    <section class="panel status">
      <header>
        <h2>Status</h2>
      </header>
      <svg viewBox="0 0 100 4" preserveAspectRatio="none" class="mix" role="img"
        aria-label={classes.map((part) => `${part.digit}xx ${percent(part.sum, total)}`).join(", ")}>
        {classes.map(({ digit, sum }) => {
          const width = (100 * sum) / total;
          left += width;
          return <rect key={digit} x={left - width} width={width} height="4" class={`s${digit}`} />;
        })}
      </svg>
      <TopList title="Codes" condition="status" top={stats.tops?.status} total={stats.total.requests} isMono />
      <TopList title="Methods" condition="method" top={stats.tops?.method} total={stats.total.requests} isMono />
    </section>
  );
}

function Ticker() {
  const [isOn, setOn] = useState(true);
  const { records, missed, connection } = useRecords(view.value.conditions, 60, isOn);
  return (
    <section class="panel ticker" aria-labelledby="ticker-title">
      <header>
        <h2 id="ticker-title">Live</h2>
        <span class={`note ${connection}`} data-connection={connection}>
          {connection === "live" ? "as it is stored" : connection}
          {missed > 0 ? ` · ${number(missed)} not shown` : ""}
        </span>
        <button type="button" class="quiet" onClick={() => setOn(!isOn)}>
          {isOn ? "Pause" : "Follow"}
        </button>
      </header>
      <Table
        label="Live records"
        class="records"
        isPlain
        heads={["Time", "Verdict", "Status", "Address", "Place", "Request", "User agent"]}
      >
        {records.map((record) => (
          <tr key={record.id}>
            <td class="mono muted">{clock(record.time)}</td>
            <td>
              <VerdictTag verdict={record.verdict} />
            </td>
            <td class="mono">{record.status || "–"}</td>
            <td>
              <Address ip={record.ip} form={record.form} />
            </td>
            <td class="muted" title={record.city ?? undefined}>
              {record.country ?? ""}
            </td>
            <td class="request">
              <span class="muted">{record.method}</span> <Text class="mono" text={`${record.host}${record.path}`} />
              {record.weight > 1 && <span class="muted"> ×{number(record.weight)}</span>}
            </td>
            <td class="agent muted">
              <Text text={record.user_agent} />
            </td>
          </tr>
        ))}
      </Table>
      {records.length === 0 && <p class="state muted">No request since this page was opened.</p>}
    </section>
  );
}
