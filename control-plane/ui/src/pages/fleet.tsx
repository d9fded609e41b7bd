// The proxies: whether each follows, and whether anything of what it saw is missing.

import { get, type ProxyView } from "../api";
import { ago, count, number, present } from "../format";
import { useLoaded } from "../live";
import { State, Table } from "../parts/bits";

/** Heard of less recently, a proxy counts as gone. */
const GONE_MS = 90_000;

export function Fleet() {
  const loaded = useLoaded(
    "fleet",
    () => get<{ revision: number; proxies: ProxyView[] }>("/v1/proxies"),
    3_000,
  );
  const { data } = loaded;
  const proxies = data?.proxies ?? [];
  const isGone = (proxy: ProxyView) => present() - new Date(proxy.last_seen).getTime() > GONE_MS;
  const lost = proxies.reduce((sum, proxy) => sum + proxy.requests_lost, 0);
  return (
    <>
      {data && (
      <dl class="tiles">
        <div>
          <dt>Proxies</dt>
          <dd>{number(proxies.filter((proxy) => !isGone(proxy)).length)}</dd>
          <dd class="note">{number(proxies.filter(isGone).length)} not heard of</dd>
        </div>
        <div>
          <dt>Revision</dt>
          <dd>{number(data.revision)}</dd>
          <dd class="note">{number(proxies.filter((proxy) => proxy.revision_lag > 0).length)} behind</dd>
        </div>
        <div>
          <dt>Requests seen</dt>
          <dd>{count(proxies.reduce((sum, proxy) => sum + proxy.requests_seen, 0))}</dd>
          <dd class="note">since the workers started</dd>
        </div>
        <div>
          <dt>Records lost</dt>
          <dd class={lost > 0 ? "bad" : ""}>{number(lost)}</dd>
          <dd class="note">as the proxies report</dd>
        </div>
      </dl>
      )}
      <section class="panel">
        <State of={loaded} empty={!!data && proxies.length === 0}>
          No proxy was heard of yet. <code>make run</code> starts one.
        </State>
        {proxies.length > 0 && (
          <Table label="Proxies" size="wide" heads={["Proxy", "Heard of", "Version", { n: "Workers" }, { n: "Revision" }, { n: "Behind" }, { n: "Seen" }, { n: "Stored" }, { n: "Left out" }, { n: "Lost" }, { n: "Clock, ms" }]}>
            {proxies.map((proxy) => (
              <tr key={proxy.name}>
                <td class="mono">{proxy.name}</td>
                <td class={isGone(proxy) ? "bad" : ""}>{ago(proxy.last_seen)}</td>
                <td class="mono">{proxy.version}</td>
                <td class="n">{proxy.workers}</td>
                <td class="n">{number(proxy.revision)}</td>
                <td class={proxy.revision_lag > 0 ? "n bad" : "n"}>{number(proxy.revision_lag)}</td>
                <td class="n">{number(proxy.requests_seen)}</td>
                <td class="n">{number(proxy.requests_stored)}</td>
                <td class="n">{number(proxy.requests_skipped)}</td>
                <td class={proxy.requests_lost > 0 ? "n bad" : "n"}>{number(proxy.requests_lost)}</td>
                <td class="n">{number(proxy.clock_offset_ms)}</td>
              </tr>
            ))}
          </Table>
        )}
      </section>
    </>
  );
}
