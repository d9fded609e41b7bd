// What each limit refuses, and what it would refuse in shadow, before anybody switches it on.

import { get, type LimitInForce, patch, type Stats } from "../api";
import { query, view } from "../filter";
import { number } from "../format";
import { useLoaded } from "../live";
import { FilterBar } from "../parts/bar";
import { State, Table, attempt, isAdmin, say } from "../parts/bits";
import { Chart } from "../parts/chart";
import { Addresses, TopList } from "../parts/tops";

export function Limits() {
  const limits = useLoaded("limits", () => get<{ limits: LimitInForce[] }>("/v1/limits"), 5_000);
  const words = { ...query(view.value), compare: view.value.compare || undefined, limit: 8 };
  const conditions = view.value.conditions;
  const stats = useLoaded(
    `limits ${JSON.stringify(words)}`,
    () =>
      get<Stats>("/v1/stats/overview", {
        ...words,
        verdict: conditions.verdict ?? "limited,shadow",
        by: "rule,address,network,pseudonym,pseudonym_network,path",
      }),
    view.value.until ? 0 : 5_000,
  );
  const refused = new Map(stats.data?.tops?.rule?.rows.map((row) => [row.key, row]));
  const total = stats.data?.total.requests ?? 0;
  const tops = stats.data?.tops ?? {};
  const turn = (limit: LimitInForce) =>
    attempt(async () => {
      const to = limit.mode === "shadow" ? "enforce" : "shadow";
      const path = `/v1/limits/${encodeURIComponent(limit.name)}`;
      await patch(path, { mode: to });
      say(`${limit.name} is in mode ${to}.`, async () => {
        await patch(path, { mode: limit.mode });
        limits.reload();
      });
      limits.reload();
    });
  return (
    <>
      <FilterBar />
      <State of={stats} />
      {stats.data && (
        <div class="grid">
          <Chart stats={stats.data} height={160} />
        </div>
      )}
      <section class="panel">
        <State of={limits} empty={limits.data?.limits.length === 0}>
          No limit is in force. Configure some in the plugin, or set one with <code>ipwarden limits set</code>.
        </State>
        {limits.data && limits.data.limits.length > 0 && (
          <Table label="Limits" size="wide" heads={["Limit", "Mode", "Counts by", "Strangers", "Known clients", { n: "Refused" }, { n: "Would refuse" }, "From", "Proxies", { hidden: "Do" }]}>
            {limits.data.limits.map((limit) => {
              const row = refused.get(limit.name);
              return (
                <tr key={`${limit.name} ${limit.proxies.join()}`} data-limit={limit.name}>
                  <td class="mono">{limit.name}</td>
                  <td>
                    <span class={`tag ${limit.mode === "shadow" ? "shadow" : "limited"}`}>{limit.mode}</span>
                  </td>
                  <td>
                    {words_of(limit.limit?.key) || "ip"}
                    {limit.limit?.scope === "fleet" && <span class="muted"> fleet</span>}
                  </td>
                  <td>{rate(limit.limit?.anonymous)}</td>
                  <td>{rate(limit.limit?.authenticated)}</td>
                  <td class="n">{number(row?.refused ?? 0)}</td>
                  <td class="n">{number((row?.requests ?? 0) - (row?.refused ?? 0))}</td>
                  <td class="muted">
                    {limit.overridden ? `changed by ${limit.changed_by ?? "somebody"}` : limit.source.replace("-", " ")}
                  </td>
                  <td class="muted">{limit.proxies.join(", ")}</td>
                  <td class="n">
                    {isAdmin() && (
                      <button type="button" onClick={() => turn(limit)}>
                        {limit.mode === "shadow" ? "Enforce" : "To shadow"}
                      </button>
                    )}
                  </td>
                </tr>
              );
            })}
          </Table>
        )}
      </section>
      <div class="grid">
        <TopList title="Limits" condition="rule" top={tops.rule} total={total} isMono />
        <Addresses tops={tops} total={total} />
        <TopList title="Paths" condition="path" top={tops.path} total={total} isMono />
      </div>
    </>
  );
}

const words_of = (value: unknown) =>
  typeof value === "string" ? value : value ? JSON.stringify(value).replace(/["{}]/g, "") : "";

/** `{"requests": 5, "per": "1m"}` as `5 per 1m`. */
function rate(value: unknown): string {
  const { requests, per } = (value ?? {}) as { requests?: number; per?: string };
  return requests === undefined ? "–" : `${number(requests)} per ${per}`;
}
