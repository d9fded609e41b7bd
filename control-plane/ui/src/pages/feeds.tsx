// Lists that are fetched from elsewhere: how each is doing, and what of it has no effect.

import { useState } from "preact/hooks";
import { get, post, put, type Refused, remove } from "../api";
import { page } from "../filter";
import { ago, moment, number } from "../format";
import { useLoaded } from "../live";
import {
  ActionChoice,
  attempt,
  Choice,
  FormDialog,
  isAdmin,
  Link,
  Question,
  say,
  State,
  Table,
  Text,
} from "../parts/bits";

interface Feed {
  name: string;
  state: "new" | "ok" | "withheld" | "failing" | "stale";
  location: string;
  format: string;
  action: "block" | "allow";
  every: string;
  entries: number;
  succeeded_at: string | null;
  changed_at: string | null;
  next_at: string | null;
  problem: string | null;
  withheld: string | null;
  left_out: Record<string, number>;
  overlaps: number;
  attribution: string | null;
}

/** How a feed's state looks. */
const LOOKS: Record<Feed["state"], string> = {
  new: "unseen",
  ok: "admitted",
  withheld: "limited",
  failing: "limited",
  stale: "blocked",
};

/** 3 rejected, 12 duplicates; what is none is left out. */
export const leftOut = (counts: Record<string, number>) =>
  Object.entries(counts)
    .filter(([, count]) => count > 0)
    .map(([what, count]) => `${number(count)} ${what}`)
    .join(", ");

export function Feeds() {
  const loaded = useLoaded(
    "feeds",
    () =>
      get<{ feeds: Feed[] }>("/v1/feeds").catch((reason: Refused) => {
        // A service of before there were feeds has none.
        if (reason.status === 404) return { feeds: [] };
        throw reason;
      }),
    10_000,
  );
  const { data, reload } = loaded;
  const [adding, setAdding] = useState(false);
  const [removing, setRemoving] = useState<Feed>();
  const refresh = (feed: Feed, accept = false) =>
    attempt(async () => {
      const path = `/v1/feeds/${encodeURIComponent(feed.name)}/refresh`;
      const now = await post<Feed>(accept ? `${path}?accept=true` : path);
      const bad = now.problem ?? now.withheld;
      say(bad ? `${feed.name}: ${bad}` : `${feed.name} has ${number(now.entries)} entries.`, undefined, !!bad);
      reload();
    });
  return (
    <section class="panel wide">
      <header>
        <h2>Feeds</h2>
        {isAdmin() && (
          <button type="button" onClick={() => setAdding(true)}>
            Add a feed
          </button>
        )}
      </header>
      <State of={loaded} empty={data?.feeds.length === 0}>
        No list is fetched from elsewhere.
      </State>
      {data && data.feeds.length > 0 && (
        <Table
          label="Feeds"
          size="wide"
          heads={["Feed", "State", "From", "Does", { n: "Entries" }, { n: "No effect" }, "Fetched", "Next", { hidden: "Do" }]}
        >
          {data.feeds.map((feed) => (
            <tr key={feed.name}>
              <td class="mono">
                <Link to={page("decisions", { origin: `feed:${feed.name}` })}>{feed.name}</Link>
              </td>
              <td class="agent">
                <span class={`tag ${LOOKS[feed.state]}`}>{feed.state}</span>{" "}
                {(feed.problem ?? feed.withheld) && <Text class="bad" text={feed.problem ?? feed.withheld ?? ""} />}
              </td>
              <td class="agent muted">
                <Text class="mono" text={feed.location} />
                {feed.attribution && (
                  <>
                    <br />
                    <Text text={feed.attribution} />
                  </>
                )}
              </td>
              <td>
                {feed.action}, every {feed.every}
              </td>
              <td class="n" title={leftOut(feed.left_out) && `left out: ${leftOut(feed.left_out)}`}>
                {number(feed.entries)}
              </td>
              <td class="n" title="Entries that an allow covers, in whole or in part">
                {number(feed.overlaps)}
              </td>
              <td title={feed.succeeded_at ? moment(feed.succeeded_at) : undefined}>{ago(feed.succeeded_at)}</td>
              <td>{feed.next_at ? ago(feed.next_at) : ""}</td>
              <td class="n">
                {isAdmin() && (
                  <>
                    {feed.withheld && (
                      <button type="button" onClick={() => refresh(feed, true)}>
                        Take it
                      </button>
                    )}
                    <button type="button" class="quiet" aria-label={`Fetch ${feed.name} now`} onClick={() => refresh(feed)}>
                      Fetch
                    </button>
                    <button type="button" class="quiet" aria-label={`Remove ${feed.name}`} onClick={() => setRemoving(feed)}>
                      Remove
                    </button>
                  </>
                )}
              </td>
            </tr>
          ))}
        </Table>
      )}
      {adding && <Add onClose={() => setAdding(false)} onDone={reload} />}
      {removing && (
        <Question
          title={`Remove the feed ${removing.name}?`}
          word="Remove"
          onClose={() => setRemoving(undefined)}
          onYes={async () => {
            await remove(`/v1/feeds/${encodeURIComponent(removing.name)}`);
            say(`${removing.name} is removed.`);
            reload();
          }}
        >
          Its {number(removing.entries)} decisions go with it.
        </Question>
      )}
    </section>
  );
}

const FORMATS: [string, string][] = [
  ["list", "a target a line"],
  ["json-lines", "a JSON object a line"],
  ["json", "JSON"],
  ["csv", "CSV"],
];

function Add({ onClose, onDone }: { onClose: () => void; onDone: () => void }) {
  const add = async (text: (name: string) => string) => {
    await put(`/v1/feeds/${encodeURIComponent(text("name"))}`, {
      location: text("location"),
      format: text("format"),
      action: text("action"),
      every: text("every") || undefined,
      attribution: text("attribution") || undefined,
    });
    say(`${text("name")} is added, and fetched soon.`);
    onDone();
  };
  return (
    <FormDialog title="Add a feed" word="Add" onSubmit={add} onClose={onClose}>
      <label>
        Name
        <input name="name" required maxLength={64} spellcheck={false} />
      </label>
      <label>
        Location
        <input name="location" required spellcheck={false} placeholder="https://lists.example/drop.netset" />
      </label>
      <Choice label="Format" name="format" of={FORMATS} />
      <ActionChoice />
      <label>
        Every
        <input name="every" spellcheck={false} placeholder="6h; 1h if empty" />
      </label>
      <label>
        Whose work it is
        <input name="attribution" placeholder="where the list does not say" />
      </label>
      <p class="muted">
        <code>ipwarden feeds add</code> knows more: fields, keys, signatures, a CrowdSec.
      </p>
    </FormDialog>
  );
}
