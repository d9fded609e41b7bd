// Talks to the control plane. The session's cookie goes along by itself; what changes something
// carries a header that pages of other sites can't send.

import { signal } from "@preact/signals";
import { learnClock } from "./format";

export interface Session {
  name: string;
  role: "admin" | "viewer" | "proxy";
  addresses_masked: boolean;
  expires_at: string | null;
  version: string;
}

export type Verdict =
  | "admitted"
  | "blocked"
  | "limited"
  | "shadow"
  | "unready"
  | "redirected"
  | "unseen";

export interface Counts {
  requests: number;
  refused: number;
  verdicts: Partial<Record<Verdict, number>>;
}

export interface Row {
  key: string;
  requests: number;
  refused: number;
  before?: number;
}

export interface Top {
  rows: Row[];
  distinct: number;
  approximate: boolean;
}

export interface Stats {
  since: string;
  until: string;
  total: Counts;
  before?: Counts;
  series?: {
    step_seconds: number;
    verdicts: Partial<Record<Verdict, number[]>>;
    before?: number[];
  };
  tops?: Record<string, Top>;
}

export interface RequestRecord {
  id: number;
  time: string;
  ip: string | null;
  method: string;
  host: string;
  path: string;
  query: string | null;
  status: number;
  verdict: Verdict;
  decision: number | null;
  rule: string | null;
  weight: number;
  duration_ms: number;
  bytes_in: number;
  bytes_out: number;
  flags: string | null;
  user_agent: string;
  request_id: string;
  country: string | null;
  city: string | null;
  asn: number | null;
  proxy: string;
  form: Form;
  key: string | null;
}

/** What an address is: as it came, cut to its network, or a pseudonym. */
export type Form = "full" | "truncated" | "pseudonym";

export interface Decision {
  id: number;
  target: string;
  action: "block" | "allow";
  origin: string;
  reason: string;
  created_at: string;
  expires_at: string | null;
}

export interface Warning {
  target: string;
  message: string;
  decision: Decision;
}

export interface Evidence {
  time: string;
  method: string;
  path: string;
  status: number;
  matched?: string;
}

export interface Reason {
  rule: string;
  severity: Severity;
  source: "streaming" | "hourly";
  detail: string;
  first_seen: string;
  last_seen: string;
  count: number;
  score: number;
  evidence?: Evidence[];
  features?: Record<string, number>;
}

export type Severity = "low" | "medium" | "high" | "critical";

export interface Suspect {
  id: number;
  target: string;
  /** Absent for an address as it came. */
  form?: Form;
  key?: string;
  status: "open" | "confirmed" | "dismissed";
  severity: Severity;
  score: number;
  first_seen: string;
  last_seen: string;
  country: string | null;
  city: string | null;
  asn: number | null;
  reasons: Reason[];
  decision: number | null;
  closed_at: string | null;
  closed_by: string | null;
  flags: number;
}

export interface Judged {
  suspect: Suspect;
  decision: Decision | null;
  unblocked: Decision[];
  warnings: Warning[];
}

export interface Checked {
  ip: string;
  verdict: string;
  decision: Decision | null;
  hidden: { decision: Decision; why: string }[];
}

export interface LimitInForce {
  name: string;
  mode: "enforce" | "shadow";
  source: string;
  overridden: boolean;
  limit: Record<string, unknown> | null;
  proxies: string[];
  changed_at: string | null;
  changed_by: string | null;
}

export interface ProxyView {
  name: string;
  version: string;
  last_seen: string;
  revision: number;
  revision_lag: number;
  requests_seen: number;
  requests_stored: number;
  requests_lost: number;
  requests_skipped: number;
  clock_offset_ms: number;
  workers: number;
}

export interface Token {
  id: number;
  name: string;
  role: string;
  created_at: string;
  last_used_at: string | null;
}

export interface Located {
  ip: string;
  network: string;
  reserved?: boolean;
  country?: string;
  region?: string;
  city?: string;
  timezone?: string;
  asn?: number;
  as_org?: string;
}

export interface Status {
  version: string;
  started_at: string;
  now: string;
  revision: number;
  decisions: number;
  data_dir: string;
  state_bytes: number;
  log_bytes: number;
  disk_free_bytes: number | null;
  records_stored: number;
  suspects_open: number;
  rules: number;
  rules_problem: string | null;
  retention_error: string | null;
  retention_capped: number;
  blocks_withheld: number | null;
  geo: { dir: string; databases: GeoDatabase[]; problem: string | null };
}

export interface GeoDatabase {
  file: string;
  data: {
    type_name?: string;
    type?: string;
    built_at: string | null;
    age_seconds: number | null;
    bytes: number;
    source: string | null;
    attribution: { text?: string; url?: string; [key: string]: unknown } | null;
  } | null;
  problem: string | null;
}

export interface RetentionRun {
  started_at: string;
  finished_at: string;
  hidden: number;
  admitted: number;
  refused: number;
  sensitive: number;
  all: number;
  capped: number;
  reclaimed_bytes: number;
  error: string | null;
}

export interface Retention {
  raw_for_s: number;
  address: "pseudonym" | "truncate";
  admitted_s: number;
  refused_s: number;
  sensitive_s: number;
  suspects_s: number;
  audit_s: number;
  max_store: number | null;
  running: { started_at: string; phase: string; done: number; total: number | null } | null;
  last: RetentionRun | null;
}

export interface Hook {
  name: string;
  kind: string;
  to: string;
  waiting: number;
  dropped: number;
  sent_at: string | null;
  failures: number;
  failing_since: string | null;
  problem: string | null;
}

export interface SubjectExport {
  ip: string;
  held: { form: Form; key: string | null; records: number }[];
  records: unknown[];
  next: string | null;
  [more: string]: unknown;
}

export interface SubjectErased {
  records: number;
  hours: number;
  suspects: number;
  decisions: number;
  texts: number;
  redacted: number;
  settled: boolean;
  left: { what: string; why: string }[];
}

export interface AuditEntry {
  id: number;
  time: string;
  actor: string;
  action: string;
  subject: string;
  detail: string;
}

/** An answer that is no success, in the service's own words. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** Called when a session has ended. */
export const session = { ended: () => {} };
/** Since when nothing answers; undefined while something does. */
export const offline = signal<number | undefined>(undefined);
/** Of a refusal: the service was not reached at all. */
export const UNREACHED = 0;

type Values = Record<string, string | number | boolean | undefined | null>;

export function address(path: string, query: Values = {}): string {
  const words = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") words.set(key, String(value));
  }
  const text = words.toString();
  return text ? `${path}?${text}` : path;
}

async function call<T>(method: string, path: string, body?: unknown, type?: string): Promise<T> {
  const headers: Record<string, string> = {};
  if (method !== "GET") headers["x-ipwarden-dashboard"] = "1";
  if (body !== undefined) headers["content-type"] = type ?? "application/json";
  const response = await fetch(path, {
    method,
    headers,
    body: body === undefined ? undefined : type ? (body as string) : JSON.stringify(body),
    credentials: "same-origin",
    cache: "no-store",
  }).catch(() => {
    offline.value ??= Date.now();
    throw new Refused(UNREACHED, "the control plane can't be reached");
  });
  offline.value = undefined;
  learnClock(response.headers.get("date"));
  if (response.status === 401 && path !== "/v1/session") session.ended();
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    const faults = (problem.errors ?? []) as { place: string; message: string }[];
    const more = faults.map((fault) => `${fault.place}: ${fault.message}`).join("; ");
    throw new Refused(response.status, more || problem.detail || `status ${response.status}`);
  }
  return (response.status === 204 ? undefined : await response.json()) as T;
}

export const get = <T>(path: string, query?: Values) => call<T>("GET", address(path, query));
export const post = <T>(path: string, body?: unknown) => call<T>("POST", path, body);
export const put = <T>(path: string, body?: unknown) => call<T>("PUT", path, body);
export const patch = <T>(path: string, body?: unknown) => call<T>("PATCH", path, body);
export const remove = <T>(path: string, body?: unknown) => call<T>("DELETE", path, body);
export const upload = <T>(path: string, text: string) => call<T>("POST", path, text, "text/plain");
