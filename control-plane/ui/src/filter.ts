// What is looked at: page, span of time and conditions, all in the address bar, so that a view
// can be sent to somebody else and the browser's buttons work.

import { signal } from "@preact/signals";
import { present } from "./format";

export const CONDITIONS = [
  "ip",
  "form",
  "country",
  "asn",
  "path",
  "host",
  "method",
  "status",
  "verdict",
  "user_agent",
  "rule",
  "proxy",
] as const;
export type Condition = (typeof CONDITIONS)[number];

export const LABELS: Record<Condition, string> = {
  ip: "Address",
  form: "Form of address",
  country: "Country",
  asn: "AS",
  path: "Path",
  host: "Host",
  method: "Method",
  status: "Status",
  verdict: "Verdict",
  user_agent: "User agent",
  rule: "Limit",
  proxy: "Proxy",
};

/** Spans to choose from, the way the API reads them. */
export const SPANS: [string, string][] = [
  ["15m", "15 min"],
  ["1h", "1 hour"],
  ["6h", "6 hours"],
  ["24h", "24 hours"],
  ["7d", "7 days"],
  ["30d", "30 days"],
];
export const DEFAULT_SPAN = "1h";

export interface View {
  page: string;
  /** `1h`, or a moment. */
  since: string;
  /** A moment; absent for now. */
  until?: string;
  compare: boolean;
  conditions: Partial<Record<Condition, string>>;
  /** What else is in the address: `id` of a suspect, `target` of an address page. */
  rest: Record<string, string>;
}

export function parse(path: string, search: string): View {
  const words = new URLSearchParams(search);
  const view: View = {
    page: path.replace(/^\/+/, "") || "overview",
    since: words.get("since") || DEFAULT_SPAN,
    until: words.get("until") || undefined,
    compare: words.get("compare") === "true",
    conditions: {},
    rest: {},
  };
  for (const [key, value] of words) {
    if ((CONDITIONS as readonly string[]).includes(key)) view.conditions[key as Condition] = value;
    else if (!["since", "until", "compare"].includes(key)) view.rest[key] = value;
  }
  return view;
}

export function href(view: View): string {
  const words = new URLSearchParams();
  if (view.since !== DEFAULT_SPAN || view.until) words.set("since", view.since);
  if (view.until) words.set("until", view.until);
  if (view.compare) words.set("compare", "true");
  for (const key of CONDITIONS) {
    const value = view.conditions[key];
    if (value) words.set(key, value);
  }
  for (const [key, value] of Object.entries(view.rest)) words.set(key, value);
  const text = words.toString();
  const path = view.page === "overview" ? "/" : `/${view.page}`;
  return text ? `${path}?${text}` : path;
}

/** The span and conditions as the API takes them. */
export function query(view: View): Record<string, string | undefined> {
  return { since: view.since, until: view.until, ...view.conditions };
}

export const view = signal<View>(
  typeof location === "undefined" ? parse("/", "") : parse(location.pathname, location.search),
);

export function go(next: View, replace = false): void {
  const target = href(next);
  if (replace) history.replaceState(null, "", target);
  else history.pushState(null, "", target);
  if (next.page !== view.value.page) scrollTo(0, 0);
  view.value = next;
}

/** Another page with the same span and conditions. */
export const page = (name: string, rest: Record<string, string> = {}): View => ({
  ...view.value,
  page: name,
  rest,
});

/** The same page, narrowed; the same value twice takes the condition away. */
export function toggled(key: Condition, value: string): View {
  if (view.value.conditions[key] === value) return without(key);
  return { ...view.value, conditions: { ...view.value.conditions, [key]: value } };
}

/** The same page without a condition. A pseudonym goes with the word that says that it is one. */
export function without(key: Condition): View {
  const conditions = { ...view.value.conditions };
  delete conditions[key];
  if (key === "ip" && conditions.form === "pseudonym") delete conditions.form;
  return { ...view.value, conditions };
}

/** `100.115.72.131@5ab1c0de` without the id of its key, which is no condition. */
export const bare = (pseudonym: string) => pseudonym.split("@")[0] ?? "";

/** Narrowed to a pseudonym, or to a network of them; twice takes it away. */
export function toggledPseudonym(name: string): View {
  const ip = bare(name);
  const { conditions } = view.value;
  if (conditions.ip === ip && conditions.form === "pseudonym") return without("ip");
  return { ...view.value, conditions: { ...conditions, ip, form: "pseudonym" } };
}

/** A span between two moments, moved by its own length, or made wider around its middle. */
export function moved(by: -1 | 1 | "out", now: View = view.value, clock = present()): View {
  const until = now.until ? Date.parse(now.until) : clock;
  const since = Date.parse(now.since);
  if (Number.isNaN(since)) return now;
  const length = until - since;
  const at = (time: number) => new Date(Math.min(time, clock)).toISOString();
  if (by === "out") {
    const end = Math.min(clock, until + length / 2);
    return { ...now, since: at(end - 2 * length), until: at(end) };
  }
  const end = Math.min(clock, until + by * length);
  return { ...now, since: at(end - length), until: at(end) };
}

if (typeof addEventListener !== "undefined") {
  addEventListener("popstate", () => {
    view.value = parse(location.pathname, location.search);
  });
}
