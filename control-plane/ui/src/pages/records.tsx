// The records behind the numbers, newest first.

import { useEffect, useState } from "preact/hooks";
import { get, type RequestRecord } from "../api";
import { query, view } from "../filter";
import { bytes, moment, number } from "../format";
import { FilterBar } from "../parts/bar";
import { Address, State, Table, Text, VerdictTag } from "../parts/bits";

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
      <State error={error} loading={loading} has={pages.length > 0} empty={pages.length > 0 && records.length === 0}>
        No record matches. A record arrives about a second after its request.
      </State>
      {records.length > 0 && (
        <Table label="Records" size="wide" class="records" heads={["Time", "Verdict", { n: "Status" }, "Address", "Place", "Request", "By", { n: "Time, ms" }, { n: "Sent" }, "User agent", "Proxy"]}>
          {records.map((record) => (
            <tr key={record.id}>
              <td class="mono">{moment(record.time)}</td>
              <td>
                <VerdictTag verdict={record.verdict} />
              </td>
              <td class="n">{record.status || "–"}</td>
              <td>
                <Address ip={record.ip} />
              </td>
              <td>{[record.city, record.country].filter(Boolean).join(", ")}</td>
              <td class="request">
                <span class="muted">{record.method}</span>{" "}
                <Text class="mono" text={`${record.host}${record.path}${record.query ? `?${record.query}` : ""}`} />
                {record.weight > 1 && <span class="muted"> ×{number(record.weight)}</span>}
              </td>
              <td class="muted">{record.rule ?? (record.decision ? `decision ${record.decision}` : "")}</td>
              <td class="n">{record.duration_ms.toFixed(1)}</td>
              <td class="n">{bytes(record.bytes_out)}</td>
              <td class="agent muted">
                <Text text={record.user_agent} />
              </td>
              <td class="muted">{record.proxy}</td>
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
