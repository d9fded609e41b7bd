// A day at a glance: one line of bars, for where a chart would be too much.

import { type Stats, get } from "../api";
import { moment, number } from "../format";
import { useLoaded } from "../live";
import { State } from "./bits";

/** Heights of bars of a hundred: what is there at all can be seen. */
export function heights(values: number[]): number[] {
  const most = Math.max(1, ...values);
  return values.map((value) => (value > 0 ? Math.max(4, (100 * value) / most) : 0));
}

/** The last day of a target, with what was refused of it. */
export function LastDay({ target, form }: { target: string; form?: string }) {
  const loaded = useLoaded(`day ${target} ${form}`, () =>
    get<Stats>("/v1/stats/series", { ip: target, form, since: "24h", step: "30m" }),
  );
  const { data } = loaded;
  const series = data?.series;
  const columns = Object.values(series?.verdicts ?? {});
  const length = Math.max(0, ...columns.map((column) => column.length));
  const all = Array.from({ length }, (_, at) => columns.reduce((sum, column) => sum + (column[at] ?? 0), 0));
  const tall = heights(all);
  const width = 100 / Math.max(1, length);
  const start = Date.parse(data?.since ?? "");
  return (
    <>
      <State of={loaded} />
      {data && (
        <p class="spark">
          <svg
            viewBox="0 0 100 100"
            preserveAspectRatio="none"
            role="img"
            aria-label={`${number(data.total.requests)} requests in 24 hours, ${number(data.total.refused)} refused`}
          >
            {tall.map((height, at) => (
              <rect key={at} x={at * width} y={100 - height} width={width * 0.8} height={height}>
                <title>{`${number(all[at] ?? 0)} from ${moment(start + at * (series?.step_seconds ?? 0) * 1000)}`}</title>
              </rect>
            ))}
          </svg>
          <span class="note">
            {number(data.total.requests)} requests in 24 h, {number(data.total.refused)} refused
          </span>
        </p>
      )}
    </>
  );
}
