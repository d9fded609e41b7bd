// Data that stays fresh: loading, errors and refreshing in one place; the stream of records.

import { useEffect, useRef, useState } from "preact/hooks";
import { address, type RequestRecord } from "./api";

export interface Loaded<T> {
  data?: T;
  error?: string;
  loading: boolean;
  /** What is shown answers the question before: the next answer is on its way. */
  stale: boolean;
  reload: () => void;
}

/**
 * Loads when `key` changes and again every `every` milliseconds while the page is seen. What was
 * loaded stays while the next is on its way; an answer that comes too late is dropped.
 */
export function useLoaded<T>(key: string, load: () => Promise<T>, every = 0): Loaded<T> {
  const [state, set] = useState<{ key?: string; data?: T; error?: string; loading: boolean }>({
    loading: true,
  });
  const turn = useRef(0);
  const loader = useRef(load);
  loader.current = load;
  const run = () => {
    turn.current += 1;
    const mine = turn.current;
    set((old) => ({ ...old, loading: true }));
    loader.current().then(
      (data) => mine === turn.current && set({ key, data, loading: false }),
      (error: Error) =>
        mine === turn.current && set((old) => ({ ...old, error: error.message, loading: false })),
    );
  };
  useEffect(() => {
    run();
    if (!every) return;
    const timer = setInterval(() => {
      if (document.visibilityState === "visible") run();
    }, every);
    return () => clearInterval(timer);
  }, [key, every]);
  const stale = state.data !== undefined && state.key !== key;
  return { data: state.data, error: state.error, loading: state.loading, stale, reload: run };
}

export type Connection = "connecting" | "live" | "paused";

/** Records as they are stored, newest first; reconnects by itself, slower each time. */
export function useRecords(
  conditions: Record<string, string | undefined>,
  most: number,
  isOn: boolean,
): { records: RequestRecord[]; missed: number; connection: Connection } {
  const [records, setRecords] = useState<RequestRecord[]>([]);
  const [missed, setMissed] = useState(0);
  const [connection, setConnection] = useState<Connection>("connecting");
  const path = address("/v1/requests/live", conditions);
  useEffect(() => {
    setRecords([]);
    setMissed(0);
    if (!isOn) {
      setConnection("paused");
      return;
    }
    let source: EventSource | undefined;
    let wait = 1_000;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let waiting: RequestRecord[] = [];
    // A flood of records is shown a few times a second, not record by record.
    const flush = setInterval(() => {
      if (waiting.length === 0) return;
      const fresh = waiting.reverse();
      waiting = [];
      setRecords((old) => [...fresh, ...old].slice(0, most));
    }, 250);
    const open = () => {
      source = new EventSource(path);
      source.onopen = () => {
        wait = 1_000;
        setConnection("live");
      };
      source.addEventListener("record", (event) => {
        waiting.push(JSON.parse((event as MessageEvent<string>).data));
        if (waiting.length > most) waiting = waiting.slice(-most);
      });
      source.addEventListener("lagged", (event) => {
        const { missed: more } = JSON.parse((event as MessageEvent<string>).data);
        setMissed((old) => old + more);
      });
      source.onerror = () => {
        source?.close();
        setConnection("connecting");
        timer = setTimeout(open, wait);
        wait = Math.min(wait * 2, 30_000);
      };
    };
    open();
    return () => {
      source?.close();
      clearTimeout(timer);
      clearInterval(flush);
    };
  }, [path, isOn, most]);
  return { records, missed, connection };
}
