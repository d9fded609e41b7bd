// The records behind the numbers, newest first.

import { useEffect, useState } from "preact/hooks";
import { get, type RequestRecord } from "../api";
import { query, view } from "../filter";
import { bytes, moment, number, plain } from "../format";
import { FilterBar } from "../parts/bar";
import { Address, Pick, State, Table, Text, VerdictTag } from "../parts/bits";

interface Page {
  records: RequestRecord[];
  next: number | null;
}

export function Records() {
  return (
    <>
      <FilterBar withCompare={false} />
      <RecordTable words={query(view.value)} />
    </>
  );
}

export function RecordTable({ words }: { words: Record<string, string | undefined> }) {
  const [pages, setPages] = useState<Page[]>([]);
  const [error, setError] = useState<string>();
  const [loading, setLoading] = useState(true);
  const key = JSON.stringify(words);
  const load = (before: number | undefined, kept: Page[]) => {
    setLoading(true);
    get<Page>("/v1/requests", { ...words, limit: 100, before })
      .then((page) => {
        setPages([...kept, page]);
        setError(undefined);
      })
      .catch((reason: Error) => setError(reason.message))
      .finally(() => setLoading(false));
  };
  useEffect(() => {
    setPages([]);
    load(undefined, []);
  }, [key]);
  const records = pages.flatMap((page) => page.records);
  const next = pages.at(-1)?.next;
  return (
    <section class="panel">
      <State
        of={{ error, loading, data: pages[0], reload: () => load(undefined, []) }}
        empty={pages.length > 0 && records.length === 0}
      >
        No record matches. A record arrives about a second after its request.
      </State>
      {records.length > 0 && (
        <Table label="Records" size="wide" class="records" heads={["Time", "Verdict", { n: "Status" }, "Address", "Place", "Request", "By", { n: "Time, ms" }, { n: "Sent" }, "User agent", "Proxy"]}>
          {records.map((record) => (
            <tr key={record.id}>
              <td class="mono">{moment(record.time)}</td>
              <td>
                <Pick by="verdict" value={record.verdict}>
                  <VerdictTag verdict={record.verdict} />
                </Pick>
              </td>
              <td class="n">
                {record.status ? (
                  <Pick by="status" value={String(record.status)}>
                    {record.status}
                  </Pick>
                ) : (
                  "–"
                )}
              </td>
              <td>
                <Address ip={record.ip} form={record.form} />
              </td>
              <td>
                {record.country && (
                  <Pick by="country" value={record.country}>
                    {[record.city, record.country].filter(Boolean).join(", ")}
                  </Pick>
                )}
              </td>
              <td class="request">
                <div class="line">
                  <span class="muted">{record.method}</span>
                  <Pick by="host" class="host" value={record.host}>
                    <Text class="mono" text={record.host} />
                  </Pick>
                  <Pick by="path" class="path" value={record.path}>
                    <Text class="mono" text={record.path} />
                  </Pick>
                  {record.query && <Text class="mono muted path" text={`?${record.query}`} />}
                  {record.weight > 1 && <span class="muted"> ×{number(record.weight)}</span>}
                </div>
              </td>
              <td class="muted">
                {record.rule ? (
                  <Pick by="rule" value={record.rule}>
                    <Text text={record.rule} />
                  </Pick>
                ) : (
                  record.decision && `decision ${record.decision}`
                )}
              </td>
              <td class="n">{record.duration_ms.toFixed(1)}</td>
              <td class="n">{bytes(record.bytes_out)}</td>
              <td class="agent muted">
                <Pick by="user_agent" value={record.user_agent}>
                  <Text text={record.user_agent} />
                </Pick>
              </td>
              <td class="muted">
                <Pick by="proxy" value={record.proxy}>
                  {plain(record.proxy)}
                </Pick>
              </td>
            </tr>
          ))}
        </Table>
      )}
      {next != null && (
        <p class="more">
          <button type="button" disabled={loading} onClick={() => load(next, pages)}>
            Older
          </button>
        </p>
      )}
    </section>
  );
}
