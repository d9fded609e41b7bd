// Top lists: each row narrows everything else by a click.

import type { ComponentChildren } from "preact";
import type { Top } from "../api";
import { type Condition, go, toggled, view } from "../filter";
import { change, count, number, percent, plain } from "../format";

export function TopList(props: {
  title: string;
  condition: Condition;
  top?: Top;
  total: number;
  label?: (key: string) => string;
  isMono?: boolean;
  children?: ComponentChildren;
}) {
  const { title, condition, top, total, label = (key) => plain(key) } = props;
  const most = Math.max(1, ...(top?.rows ?? []).map((row) => row.requests));
  const chosen = view.value.conditions[condition];
  const rows = top?.rows.filter((row) => row.key !== "" || condition === "user_agent") ?? [];
  return (
    <section class="panel top" data-top={condition}>
      <header>
        <h2>{title}</h2>
        {top && (
          <span class="note">
            {top.approximate ? "over " : ""}
            {number(top.distinct)}
          </span>
        )}
      </header>
      {rows.length === 0 ? (
        <p class="state muted">none</p>
      ) : (
        <ol>
          {rows.map((row) => (
            <li key={row.key}>
              <button
                type="button"
                aria-pressed={chosen === row.key}
                title={`${label(row.key)}: ${number(row.requests)} requests, ${number(row.refused)} refused`}
                onClick={() => row.key !== "" && go(toggled(condition, row.key))}
              >
                <svg class="bar" viewBox="0 0 100 1" preserveAspectRatio="none" aria-hidden="true">
                  <rect class="all" width={(100 * row.requests) / most} height="1" />
                  <rect class="bad" width={(100 * row.refused) / most} height="1" />
                </svg>
                <span class={props.isMono ? "key mono" : "key"}>{label(row.key) || "(none)"}</span>
                <span class="n">{count(row.requests)}</span>
                <span class="n share">
                  {row.before === undefined
                    ? percent(row.requests, total)
                    : change(row.requests, row.before) || "–"}
                </span>
              </button>
            </li>
          ))}
        </ol>
      )}
      {props.children}
    </section>
  );
}
