// Requests over time: stacked by verdict, zoomed by dragging, with a table for who can't see it.

import { useEffect, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import type { Stats, Verdict } from "../api";
import { go, toggled, view } from "../filter";
import { clock, count, day, moment, number, utc } from "../format";
import { Table } from "./bits";

/** In the order in which they are stacked, the lowest first. */
export const STACK: Verdict[] = [
  "admitted",
  "redirected",
  "shadow",
  "limited",
  "blocked",
  "unready",
  "unseen",
];

export interface Stacked {
  verdicts: Verdict[];
  /** Unix seconds. */
  times: number[];
  /** What each verdict counts. */
  values: number[][];
  /** Each with all below it, the highest first: drawn from back to front. */
  sums: number[][];
  before?: (number | null)[];
}

/** Columns of a stacked chart out of an answer. */
export function stacked(stats: Stats): Stacked {
  const series = stats.series;
  const start = new Date(stats.since).getTime() / 1000;
  const end = new Date(stats.until).getTime() / 1000;
  const step = series?.step_seconds ?? 60;
  const length = Math.max(0, Math.ceil((end - start) / step));
  const times = Array.from({ length }, (_, at) => start + at * step);
  const verdicts = STACK.filter((verdict) => series?.verdicts[verdict]);
  const values = verdicts.map((verdict) => series?.verdicts[verdict] ?? []);
  const sums: number[][] = [];
  const sum = new Array<number>(length).fill(0);
  for (const column of values) {
    for (let at = 0; at < length; at += 1) sum[at] = (sum[at] ?? 0) + (column[at] ?? 0);
    sums.unshift([...sum]);
  }
  // The last bucket is often not over: nothing to compare yet.
  const before = series?.before?.map((value, at) =>
    at === length - 1 && (end - start) % step !== 0 ? null : value,
  );
  return { verdicts, times, values, sums, before };
}

const color = (name: string) =>
  getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function Chart({ stats, height = 220 }: { stats: Stats; height?: number }) {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const shape = useRef("");
  const [asTable, setAsTable] = useState(false);
  const [over, setOver] = useState<number>();
  const data = stacked(stats);
  const step = stats.series?.step_seconds ?? 60;
  const latest = useRef(data);
  latest.current = data;

  useEffect(() => {
    const element = place.current;
    if (!element || asTable) return;
    const columns = [
      data.times,
      ...data.sums,
      ...(data.before ? [data.before.slice(0, data.times.length)] : []),
    ] as uPlot.AlignedData;
    const wanted = `${data.verdicts.join()}|${data.before ? 1 : 0}|${step}|${height}|${utc.value}`;
    if (plot.current && shape.current === wanted) {
      plot.current.setData(columns);
      return;
    }
    plot.current?.destroy();
    shape.current = wanted;
    const bars = uPlot.paths.bars?.({ size: [0.86, 26], gap: 0 });
    plot.current = new uPlot(
      {
        width: element.clientWidth,
        height,
        padding: [8, 16, 0, 0],
        tzDate: (seconds) => (utc.value ? uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC") : new Date(seconds * 1000)),
        legend: { show: false },
        cursor: { y: false, points: { show: false }, drag: { x: true, y: false, setScale: false } },
        scales: {
          x: { range: (_, min, max) => [min - step / 2, max + step / 2] },
          y: { range: (_, __, max) => [0, Math.max(4, (max ?? 0) * 1.08)] },
        },
        axes: [
          {
            stroke: () => color("--muted"),
            grid: { show: false },
            ticks: { stroke: () => color("--line"), width: 1, size: 4 },
            font: "11px system-ui, sans-serif",
            space: 70,
            size: 26,
            values: (_, splits, __, ___, gap) =>
              splits.map((at) => {
                const time = clock(at * 1000);
                if (gap >= 86_400 || time === "00:00:00") return day(at * 1000);
                return gap < 60 ? time : time.slice(0, 5);
              }),
          },
          {
            stroke: () => color("--muted"),
            grid: { stroke: () => color("--grid"), width: 1 },
            ticks: { show: false },
            font: "11px system-ui, sans-serif",
            size: 46,
            space: 34,
            values: (_, splits) => splits.map((value) => (value % 1 ? "" : count(value))),
          },
        ],
        series: [
          {},
          ...[...data.verdicts].reverse().map((verdict) => ({
            label: verdict,
            fill: () => color(`--${verdict}`),
            width: 0,
            paths: bars,
            points: { show: false },
          })),
          ...(data.before
            ? [
                {
                  label: "before",
                  stroke: () => color("--text"),
                  width: 1.25,
                  dash: [4, 4],
                  points: { show: false },
                },
              ]
            : []),
        ],
        hooks: {
          setCursor: [(u) => setOver(u.cursor.idx ?? undefined)],
          setSelect: [
            (u) => {
              if (u.select.width < 6) return;
              const from = u.posToVal(u.select.left, "x");
              const to = u.posToVal(u.select.left + u.select.width, "x");
              u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
              const at = (seconds: number) => new Date(Math.round(seconds) * 1000).toISOString();
              if (to - from >= 10) go({ ...view.value, since: at(from), until: at(to) });
            },
          ],
        },
      },
      columns,
      element,
    );
  });

  useEffect(() => {
    const element = place.current;
    if (!element) return;
    const resize = new ResizeObserver(() =>
      plot.current?.setSize({ width: element.clientWidth, height }),
    );
    resize.observe(element);
    const scheme = matchMedia("(prefers-color-scheme: dark)");
    const repaint = () => plot.current?.redraw(false);
    scheme.addEventListener("change", repaint);
    return () => {
      resize.disconnect();
      scheme.removeEventListener("change", repaint);
      plot.current?.destroy();
      plot.current = undefined;
    };
  }, [height, asTable]);

  const at = over !== undefined && over < data.times.length ? over : undefined;
  return (
    <section class="panel chart" aria-labelledby="chart-title">
      <header>
        <h2 id="chart-title">Requests</h2>
        <ul class="legend">
          {data.verdicts.map((verdict, column) => (
            <li key={verdict}>
              <button
                type="button"
                aria-pressed={view.value.conditions.verdict === verdict}
                title={`Only ${verdict} requests`}
                onClick={() => go(toggled("verdict", verdict))}
              >
                <i class={`dot ${verdict}`} />
                {verdict}{" "}
                <b>
                  {at === undefined
                    ? count(stats.total.verdicts[verdict] ?? 0)
                    : number(data.values[column]?.[at] ?? 0)}
                </b>
              </button>
            </li>
          ))}
          {data.before && (
            <li>
              <i class="dash" />
              period before{" "}
              <b>{at === undefined ? count(stats.before?.requests ?? 0) : number(data.before[at] ?? 0)}</b>
            </li>
          )}
        </ul>
        <span class="note when">{at === undefined ? "" : moment((data.times[at] ?? 0) * 1000)}</span>
        <button type="button" class="quiet" aria-pressed={asTable} onClick={() => setAsTable(!asTable)}>
          {asTable ? "Chart" : "Table"}
        </button>
      </header>
      {asTable ? (
        <Table label="Requests over time" size="tall" heads={["From", ...data.verdicts.map((n) => ({ n }))]}>
          {data.times.map((time, line) => (
            <tr key={time}>
              <td>{moment(time * 1000)}</td>
              {data.verdicts.map((verdict, column) => (
                <td key={verdict} class="n">
                  {number(data.values[column]?.[line] ?? 0)}
                </td>
              ))}
            </tr>
          ))}
        </Table>
      ) : (
        <div ref={place} class="plot" data-total={stats.total.requests} aria-hidden="true" />
      )}
    </section>
  );
}
