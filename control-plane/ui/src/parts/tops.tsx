// Top lists: each row narrows everything else by a click.

import type { ComponentChildren } from "preact";
import type { Top } from "../api";
import { bare, type Condition, go, toggled, toggledPseudonym, type View, view } from "../filter";
import { change, count, number, percent, plain } from "../format";

export function TopList(props: {
  title: string;
  condition: Condition;
  top?: Top;
  total: number;
  label?: (key: string) => string;
  isMono?: boolean;
  /** What the rows are, where that is not plain. */
  note?: string;
  /** The value of the condition that a row stands for, where it is not its name. */
  value?: (key: string) => string;
  /** What a click does, where it is more than a condition. */
  choose?: (key: string) => View;
  children?: ComponentChildren;
}) {
  const { title, condition, top, total, label = (key) => plain(key), value = (key) => key } = props;
  const choose = props.choose ?? ((key: string) => toggled(condition, key));
  const most = Math.max(1, ...(top?.rows ?? []).map((row) => row.requests));
  const chosen = view.value.conditions[condition];
  const rows = top?.rows.filter((row) => row.key !== "" || condition === "user_agent") ?? [];
  return (
    <section class="panel top" data-top={condition}>
      <header>
        <h2>{title}</h2>
        {props.note && <span class="note">{props.note}</span>}
        {top && top.distinct > 0 && (
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
                aria-pressed={chosen === value(row.key)}
                title={`${label(row.key)}: ${number(row.requests)} requests, ${number(row.refused)} refused`}
                onClick={() => row.key !== "" && go(choose(row.key))}
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

/** Addresses; where their time to be kept is over, the pseudonyms that stand for them, marked. */
export function Addresses({ tops, total }: { tops: Record<string, Top>; total: number }) {
  const lists: [string, Top | undefined, Top | undefined][] = [
    ["Addresses", tops.address, tops.pseudonym],
    ["Networks", tops.network, tops.pseudonym_network],
  ];
  return (
    <>
      {lists.map(([title, open, hidden]) => {
        const isHidden = (hidden?.distinct ?? 0) > 0;
        // Said once where it is the same of all, as it is but for some days after a new key.
        const keys = new Set(hidden?.rows.map((row) => row.key.split("@")[1] ?? ""));
        const key = keys.size === 1 ? [...keys][0] : undefined;
        return (
          <>
            {open && !(isHidden && open.distinct === 0) && (
              <TopList key={title} title={title} condition="ip" top={open} total={total} isMono />
            )}
            {isHidden && (
              <TopList
                key={`${title} hidden`}
                title={`${title}, hidden`}
                note={key ? `pseudonyms of key ${key}` : "pseudonyms"}
                label={(name) => plain(key ? bare(name) : name)}
                condition="ip"
                top={hidden}
                total={total}
                value={bare}
                choose={toggledPseudonym}
                isMono
              />
            )}
          </>
        );
      })}
    </>
  );
}
