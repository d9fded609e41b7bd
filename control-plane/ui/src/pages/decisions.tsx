// What is blocked and allowed, by whom, until when; what applies to an address.

import { useState } from "preact/hooks";
import { type Checked, type Decision, get, patch, post, remove, upload, type Warning } from "../api";
import { go, page, view } from "../filter";
import { ago, moment, number } from "../format";
import { useLoaded } from "../live";
import { covers } from "../net";
import {
  ActionChoice,
  attempt,
  Choice,
  FormDialog,
  isAdmin,
  Link,
  say,
  shownTarget,
  State,
  Table,
  Text,
} from "../parts/bits";

interface Page {
  total: number;
  decisions: Decision[];
  next: number | null;
}

export function Decisions() {
  const { inside, action, origin, before } = view.value.rest;
  const words = { inside, action, origin, before, limit: 100 };
  const loaded = useLoaded(
    `decisions ${JSON.stringify(words)}`,
    () => get<Page>("/v1/decisions", words),
    10_000,
  );
  const { data, reload } = loaded;
  const [adding, setAdding] = useState(false);
  const [importing, setImporting] = useState(false);
  const narrow = (more: Record<string, string>) => {
    const rest = { ...view.value.rest, ...more };
    delete rest.before;
    if (more.before) rest.before = more.before;
    for (const key of Object.keys(rest)) if (!rest[key]) delete rest[key];
    go({ ...view.value, rest });
  };
  return (
    <>
      <div class="bar">
        <form
          onSubmit={(event) => {
            event.preventDefault();
            narrow({ inside: String(new FormData(event.currentTarget).get("inside") ?? "").trim() });
          }}
        >
          <input name="inside" value={inside} placeholder="inside a network, e.g. 203.0.113.0/24" aria-label="Inside a network" size={32} spellcheck={false} />
        </form>
        <select aria-label="Action" value={action ?? ""} onChange={(event) => narrow({ action: event.currentTarget.value })}>
          <option value="">blocks and allows</option>
          <option value="block">blocks</option>
          <option value="allow">allows</option>
        </select>
        <input
          value={origin}
          placeholder="origin, e.g. manual"
          aria-label="Origin"
          size={18}
          onChange={(event) => narrow({ origin: event.currentTarget.value.trim() })}
        />
        <span class="note">{data ? `${number(data.total)} in force` : ""}</span>
        {isAdmin() && (
          <span class="actions">
            <button type="button" class="primary" onClick={() => setAdding(true)}>
              Add
            </button>
            <button type="button" onClick={() => setImporting(true)}>
              Import
            </button>
          </span>
        )}
      </div>
      <Check />
      <section class="panel">
        <State of={loaded} empty={data?.decisions.length === 0}>
          No decision matches.
        </State>
        {data && data.decisions.length > 0 && <DecisionTable decisions={data.decisions} reload={reload} />}
        {data?.next != null && (
          <p class="more">
            <button type="button" onClick={() => narrow({ before: String(data.next) })}>
              Older
            </button>
          </p>
        )}
      </section>
      <Regions />
      {adding && <Add onClose={() => setAdding(false)} onDone={reload} />}
      {importing && <Import onClose={() => setImporting(false)} onDone={reload} />}
    </>
  );
}

interface Region {
  id: number;
  target: string;
  path: string | null;
  mode: "enforce" | "shadow";
  reason: string;
  expires_at: string | null;
}

/** Decisions by country and autonomous system: each refuses at a path, or on the whole site. */
function Regions() {
  const loaded = useLoaded(
    "regions",
    () => get<{ regions: Region[] }>("/v1/regions"),
    10_000,
  );
  const { data, reload } = loaded;
  const [adding, setAdding] = useState(false);
  const change = (region: Region, mode: string) =>
    attempt(async () => {
      const body = { targets: [region.target], path: region.path ?? undefined, whole_site: !region.path };
      await patch("/v1/regions", { ...body, mode });
      say(`${region.target} is in mode ${mode}.`, async () => {
        await patch("/v1/regions", { ...body, mode: region.mode });
        reload();
      });
      reload();
    });
  const lift = (region: Region) =>
    attempt(async () => {
      const { target, path, mode, reason, expires_at } = region;
      const place = { targets: [target], path: path ?? undefined };
      await remove("/v1/regions", place);
      say(`${target} is refused no more.`, async () => {
        await post("/v1/regions", { ...place, whole_site: !path, mode, reason, expires_at: expires_at ?? undefined });
        reload();
      });
      reload();
    });
  return (
    <section class="panel">
      <header>
        <h2>By country and autonomous system</h2>
        {isAdmin() && (
          <button type="button" onClick={() => setAdding(true)}>
            Refuse a region
          </button>
        )}
      </header>
      {adding && <AddRegion onClose={() => setAdding(false)} onDone={reload} />}
      <State of={loaded} empty={data?.regions.length === 0}>
        No region is refused anywhere.
      </State>
      {data && data.regions.length > 0 && (
        <Table label="Decisions by region" size="wide" heads={["Region", "At", "Mode", "Reason", "Ends", { hidden: "Do" }]}>
          {data.regions.map((region) => (
            <tr key={region.id}>
              <td class="mono">{region.target}</td>
              <td class="mono">{region.path ?? "the whole site"}</td>
              <td>
                <span class={`tag ${region.mode === "shadow" ? "shadow" : "blocked"}`}>{region.mode}</span>
              </td>
              <td class="request">
                <Text text={region.reason} />
              </td>
              <td>{region.expires_at ? ago(region.expires_at) : "no end"}</td>
              <td class="n">
                {isAdmin() && (
                  <button
                    type="button"
                    onClick={() => change(region, region.mode === "shadow" ? "enforce" : "shadow")}
                  >
                    {region.mode === "shadow" ? "Enforce" : "To shadow"}
                  </button>
                )}{" "}
                {isAdmin() && (
                  <button type="button" class="quiet" aria-label={`Remove the block of ${region.target}`} onClick={() => lift(region)}>
                    Remove
                  </button>
                )}
              </td>
            </tr>
          ))}
        </Table>
      )}
    </section>
  );
}

const MODES: [string, string][] = [
  ["", "shadow for the whole site, enforce for a path"],
  ["shadow", "shadow: record what it would refuse"],
  ["enforce", "enforce"],
];

function AddRegion({ onClose, onDone }: { onClose: () => void; onDone: () => void }) {
  const add = async (text: (name: string) => string) => {
    const added = await post<{ warnings: string[] }>("/v1/regions", {
      targets: targets(text),
      path: text("path") || undefined,
      whole_site: !text("path"),
      mode: text("mode") || undefined,
      reason: text("reason"),
      for: text("for") || undefined,
    });
    say(["Added.", ...added.warnings].join(" "));
    onDone();
  };
  return (
    <FormDialog title="Refuse a region" word="Refuse" onSubmit={add} onClose={onClose}>
      <label>
        Regions
        <input name="targets" required spellcheck={false} placeholder="country:FR asn:64496" />
      </label>
      <label>
        Path, with all below it
        <input name="path" spellcheck={false} placeholder="/admin; empty for the whole site" />
      </label>
      <Choice label="Mode" name="mode" of={MODES} />
      <Terms />
    </FormDialog>
  );
}

const targets = (text: (name: string) => string) => text("targets").split(/[\s,]+/).filter(Boolean);

/** How long, and why: of whatever is decided. */
const Terms = () => (
  <>
    <label>
      For
      <input name="for" placeholder="4h, 7d; empty for no end" spellcheck={false} />
    </label>
    <label>
      Reason
      <input name="reason" maxLength={1000} />
    </label>
  </>
);

export function DecisionTable({ decisions, reload }: { decisions: Decision[]; reload: () => void }) {
  // An allow wins over every block: who looks at a block must know that it does nothing.
  const allows = useLoaded(
    "allows",
    () => get<Page>("/v1/decisions", { action: "allow", limit: 1000 }),
    10_000,
  );
  const hiding = (decision: Decision) =>
    decision.action === "block"
      ? allows.data?.decisions.find((allow) => covers(allow.target, decision.target))
      : undefined;
  return (
    <Table label="Decisions" size="wide" heads={["Target", "Action", "Origin", "Reason", "Made", "Ends", { hidden: "Do" }]}>
      {decisions.map((decision) => (
        <tr key={decision.id} data-decision={decision.id}>
          <td>
            <Link class="mono" to={page("address", { target: shownTarget(decision.target) })}>
              {shownTarget(decision.target)}
            </Link>
          </td>
          <td>
            <span class={`tag ${decision.action === "block" ? "blocked" : "admitted"}`}>{decision.action}</span>
            {hiding(decision) && (
              <span class="note"> hidden by the allow of {shownTarget(hiding(decision)?.target ?? "")}</span>
            )}
          </td>
          <td>{decision.origin}</td>
          <td class="request">
            <Text text={decision.reason} />
          </td>
          <td title={moment(decision.created_at)}>{ago(decision.created_at)}</td>
          <td title={decision.expires_at ? moment(decision.expires_at) : undefined}>
            {decision.expires_at ? ago(decision.expires_at) : "no end"}
          </td>
          <td class="n">
            {isAdmin() && (
              <button type="button" class="quiet" aria-label={`Remove the ${decision.action} of ${decision.target}`} onClick={() => lift(decision, reload)}>
                Remove
              </button>
            )}
          </td>
        </tr>
      ))}
    </Table>
  );
}

/** Removes a decision, and makes it again when that was a mistake. */
export const lift = (decision: Decision, reload: () => void) =>
  attempt(async () => {
    await remove("/v1/decisions", { ids: [decision.id] });
    say(`The ${decision.action} of ${decision.target} is removed.`, async () => {
      const { target, action, origin, reason, expires_at } = decision;
      await post("/v1/decisions", { targets: [target], action, origin, reason, expires_at });
      reload();
    });
    reload();
  });

const told = (warnings: Warning[]) => warnings.slice(0, 3).map((warning) => ` ${warning.message}`).join("");

export function Add({ onClose, onDone, target }: { onClose: () => void; onDone: () => void; target?: string }) {
  const add = async (text: (name: string) => string) => {
    const added = await post<{ decisions: Decision[]; warnings: Warning[] }>("/v1/decisions", {
      targets: targets(text),
      action: text("action"),
      reason: text("reason"),
      for: text("for") || undefined,
    });
    const ids = added.decisions.map((decision) => decision.id);
    say(`${added.decisions.length} added.${told(added.warnings)}`, async () => {
      await remove("/v1/decisions", { ids });
      onDone();
    });
    onDone();
  };
  return (
    <FormDialog title="Add a decision" word="Add" onSubmit={add} onClose={onClose}>
      <label>
        Targets
        <textarea name="targets" rows={3} required spellcheck={false} placeholder="203.0.113.7 or 203.0.113.0/24, several apart by spaces">
          {target}
        </textarea>
      </label>
      <ActionChoice />
      <Terms />
    </FormDialog>
  );
}

function Import({ onClose, onDone }: { onClose: () => void; onDone: () => void }) {
  const load = async (text: (name: string) => string, data: FormData) => {
    const file = data.get("file") as File;
    const lines = file?.size ? await file.text() : text("lines");
    const query = new URLSearchParams({ action: text("action") });
    if (text("reason")) query.set("reason", text("reason"));
    if (text("for")) query.set("for", text("for"));
    const done = await upload<{ added: number; replaced: number; warnings: Warning[] }>(
      `/v1/decisions/import?${query}`,
      lines,
    );
    say(`${number(done.added)} added, ${number(done.replaced)} replaced.${told(done.warnings)}`);
    onDone();
  };
  return (
    <FormDialog title="Import decisions" word="Import" onSubmit={load} onClose={onClose}>
      <label>
        File, one target a line
        <input type="file" name="file" accept="text/plain,.txt,.netset,.csv" />
      </label>
      <label>
        or lines
        <textarea name="lines" rows={5} spellcheck={false} />
      </label>
      <ActionChoice />
      <Terms />
    </FormDialog>
  );
}

function Check() {
  const [ip, setIp] = useState("");
  return (
    <section class="panel check">
      <form
        onSubmit={(event) => {
          event.preventDefault();
          setIp(String(new FormData(event.currentTarget).get("ip") ?? "").trim());
        }}
      >
        <label for="check-ip">What applies to</label>
        <input id="check-ip" name="ip" placeholder="an address" spellcheck={false} autocomplete="off" />
        <button type="submit">Check</button>
      </form>
      {ip && <Applies ip={ip} />}
    </section>
  );
}

export function Applies({ ip }: { ip: string }) {
  const loaded = useLoaded(`check ${ip}`, () => get<Checked>("/v1/decisions/check", { ip }), 5_000);
  const { data } = loaded;
  return (
    <>
      <State of={loaded} />
      {data && (
        <div class="applies" data-verdict={data.verdict}>
          <p>
            <b class="mono">{shownTarget(data.ip)}</b> is{" "}
            <span class={`tag ${data.verdict === "blocked" ? "blocked" : "admitted"}`}>{data.verdict}</span>
            {data.decision ? (
              <>
                {" "}
                by the {data.decision.action} of <b class="mono">{shownTarget(data.decision.target)}</b> ({data.decision.origin}
                {data.decision.reason ? ": " : ""}
                <Text text={data.decision.reason} />)
                {data.decision.expires_at ? `, which ends ${ago(data.decision.expires_at)}` : ", without an end"}
              </>
            ) : (
              ": no decision covers it"
            )}
          </p>
          {data.hidden.length > 0 && (
            <ul>
              {data.hidden.map(({ decision, why }) => (
                <li key={decision.id}>
                  hidden: the {decision.action} of <span class="mono">{shownTarget(decision.target)}</span> ({decision.origin}) · {why}
                </li>
              ))}
            </ul>
          )}
        </div>
      )}
    </>
  );
}
