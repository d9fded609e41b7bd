// Small things that every page uses.

import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { type Form, offline, type Session, type Verdict } from "../api";
import { type Condition, go, href, LABELS, page, toggled, toggledPseudonym, type View, view } from "../filter";
import { plain } from "../format";
import type { Loaded } from "../live";

export const me = signal<Session | undefined>(undefined);
export const isAdmin = () => me.value?.role === "admin";

/** A link inside the dashboard. */
export function Link(props: {
  to: View;
  class?: string;
  title?: string;
  current?: boolean;
  children: ComponentChildren;
}) {
  return (
    <a
      href={href(props.to)}
      class={props.class}
      title={props.title}
      aria-current={props.current ? "page" : undefined}
      onClick={(event) => {
        if (event.metaKey || event.ctrlKey || event.shiftKey || event.button !== 0) return;
        event.preventDefault();
        go(props.to);
      }}
    >
      {props.children}
    </a>
  );
}

/** The network of an address of which the rest was cut off. */
const asNetwork = (ip: string) => (ip.includes("/") ? ip : `${ip}/${ip.includes(":") ? 48 : 24}`);

/** A masked address says so by its length; a whole one leads to its page. */
export const shownTarget = (target: string) => (me.value?.addresses_masked ? asNetwork(target) : target);

/** That what stands here is no address. */
export const Hidden = () => (
  <span class="tag hiddenform" title="Not an address: what stands for one whose time to be kept is over">
    pseudonym
  </span>
);

/** The address of a record or suspect, as what it is: itself, a network, or a pseudonym. */
export function Address({ ip, form = "full" }: { ip: string | null; form?: Form }) {
  if (!ip) return <span class="muted">none</span>;
  if (form === "pseudonym")
    return (
      <>
        <button type="button" class="link mono" onClick={() => go(toggledPseudonym(shownTarget(ip)))}>
          {shownTarget(ip)}
        </button>{" "}
        <Hidden />
      </>
    );
  const target = form === "truncated" ? asNetwork(ip) : shownTarget(ip);
  return (
    <Link class="mono" to={page("address", { target })}>
      {target}
    </Link>
  );
}

export const VerdictTag = ({ verdict }: { verdict: Verdict }) => (
  <span class={`tag ${verdict}`}>{verdict}</span>
);

/** A value that narrows everything to itself by a click; again, and everything is back. */
export function Pick(props: { by: Condition; value: string; class?: string; children: ComponentChildren }) {
  const { by, value, children } = props;
  const isChosen = view.value.conditions[by] === value;
  return (
    <button
      type="button"
      class={props.class ? `pick ${props.class}` : "pick"}
      aria-pressed={isChosen}
      title={`${plain(value)}: ${isChosen ? "show everything again" : `narrow by ${LABELS[by].toLowerCase()}`}`}
      onClick={() => go(toggled(by, value))}
    >
      {children}
    </button>
  );
}

/** What a client sent: never markup, never invisible. */
export const Text = ({ text, class: name }: { text: string; class?: string }) => (
  <span class={name} title={plain(text)}>
    {plain(text) || "–"}
  </span>
);

/** Why there is nothing to see yet, or no more than this; the children say what an empty answer means. */
export function State(props: {
  of: Pick<Loaded<unknown>, "data" | "error" | "loading" | "reload">;
  empty?: boolean;
  children?: ComponentChildren;
}) {
  const { data, error, loading, reload } = props.of;
  if (error && data !== undefined) {
    // Above every page it is said that nothing answers: once is enough.
    if (offline.value) return null;
    return (
      <p class="state bad" role="alert">
        {error}. What is shown is from before.
      </p>
    );
  }
  if (error)
    return (
      <p class="state bad" role="alert">
        {error}{" "}
        <button type="button" onClick={reload} disabled={loading}>
          Try again
        </button>
      </p>
    );
  if (data === undefined && loading) return <p class="state muted">Loading…</p>;
  if (props.empty) return <p class="state muted">{props.children}</p>;
  return null;
}

/** A heading: words; `n` over numbers; `hidden` for a column of buttons, which explain themselves. */
export type Head = string | { n: string } | { hidden: string };

/** A table that scrolls by itself, with the keyboard too; `label` names it. */
export function Table(props: {
  label: string;
  heads: Head[];
  /** `wide` has many columns, `tall` many rows. */
  size?: "wide" | "tall";
  class?: string;
  /** What the columns are is plain: the headings are for screen readers only. */
  isPlain?: boolean;
  children: ComponentChildren;
}) {
  return (
    <div class={props.size ? `scroll ${props.size}` : "scroll"} tabIndex={0} role="region" aria-label={props.label}>
      <table class={props.class}>
        <thead class={props.isPlain ? "hidden" : undefined}>
          <tr>
            {props.heads.map((head) =>
              typeof head === "string" ? (
                <th key={head} scope="col">
                  {head}
                </th>
              ) : "n" in head ? (
                <th key={head.n} scope="col" class="n">
                  {head.n}
                </th>
              ) : (
                <th key={head.hidden} scope="col">
                  <span class="hidden">{head.hidden}</span>
                </th>
              ),
            )}
          </tr>
        </thead>
        <tbody>{props.children}</tbody>
      </table>
    </div>
  );
}

interface Notice {
  id: number;
  text: string;
  isBad: boolean;
  undo?: () => Promise<void>;
}
const notices = signal<Notice[]>([]);
let next = 0;

/** Says what happened, with a way back while it is shown. */
export function say(text: string, undo?: () => Promise<void>, isBad = false): void {
  next += 1;
  const id = next;
  notices.value = [...notices.value, { id, text, isBad, undo }].slice(-3);
  setTimeout(() => dismiss(id), undo ? 20_000 : 6_000);
}
const dismiss = (id: number) => {
  notices.value = notices.value.filter((notice) => notice.id !== id);
};

/** Takes the latest action back. */
export function undoLatest(): void {
  const latest = [...notices.value].reverse().find((notice) => notice.undo);
  if (latest) void undo(latest);
}
async function undo(notice: Notice): Promise<void> {
  dismiss(notice.id);
  try {
    await notice.undo?.();
  } catch (error) {
    say((error as Error).message, undefined, true);
  }
}

/** Does something, and says when it fails. */
export async function attempt(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    say((error as Error).message, undefined, true);
  }
}

export const Notices = () => (
  <div class="notices" role="status" aria-live="polite">
    {notices.value.map((notice) => (
      <p key={notice.id} class={notice.isBad ? "bad" : ""}>
        <span>{notice.text}</span>
        {notice.undo && (
          <button type="button" onClick={() => undo(notice)}>
            Undo
          </button>
        )}
        <button type="button" class="quiet" aria-label="Close" onClick={() => dismiss(notice.id)}>
          ×
        </button>
      </p>
    ))}
  </div>
);

/** A question that keeps the keyboard to itself until it is answered. */
export function Dialog(props: {
  title: string;
  onClose: () => void;
  children: ComponentChildren;
}) {
  const place = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const dialog = place.current;
    if (dialog && !dialog.open) dialog.showModal();
    return () => dialog?.close();
  }, []);
  return (
    <dialog ref={place} aria-labelledby="dialog-title" onClose={props.onClose}>
      <h2 id="dialog-title">{props.title}</h2>
      {props.children}
    </dialog>
  );
}

/** A dialog with fields: closes when they were taken, and says what was wrong with them otherwise. */
export function FormDialog(props: {
  title: string;
  word: string;
  onSubmit: (text: (name: string) => string, data: FormData) => Promise<void>;
  onClose: () => void;
  children: ComponentChildren;
}) {
  const [error, setError] = useState("");
  return (
    <Dialog title={props.title} onClose={props.onClose}>
      <form
        onSubmit={async (event) => {
          event.preventDefault();
          const data = new FormData(event.currentTarget);
          try {
            await props.onSubmit((name) => String(data.get(name) ?? "").trim(), data);
            props.onClose();
          } catch (reason) {
            setError((reason as Error).message);
          }
        }}
      >
        {props.children}
        {error && (
          <p class="bad" role="alert">
            {error}
          </p>
        )}
        <p class="actions">
          <button type="submit" class="primary">
            {props.word}
          </button>
          <button type="button" onClick={props.onClose}>
            Cancel
          </button>
        </p>
      </form>
    </Dialog>
  );
}

/** One of a few; each with the words that explain it. */
export const Choice = ({ label, name, of }: { label: string; name: string; of: [string, string][] }) => (
  <label>
    {label}
    <select name={name}>
      {of.map(([value, words]) => (
        <option key={value} value={value}>
          {words}
        </option>
      ))}
    </select>
  </label>
);

/** What a decision does. */
export const ActionChoice = () => <Choice label="Action" name="action" of={[["block", "block"], ["allow", "allow"]]} />;

/** A question before something that can't be taken back. */
export function Question(props: {
  title: string;
  word: string;
  onYes: () => Promise<void>;
  onClose: () => void;
  children: ComponentChildren;
}) {
  const [isBusy, setBusy] = useState(false);
  return (
    <Dialog title={props.title} onClose={props.onClose}>
      <p>{props.children}</p>
      <p class="actions">
        <button
          type="button"
          class="danger"
          disabled={isBusy}
          onClick={async () => {
            setBusy(true);
            await attempt(async () => {
              await props.onYes();
              props.onClose();
            });
            setBusy(false);
          }}
        >
          {props.word}
        </button>
        <button type="button" onClick={props.onClose}>
          Cancel
        </button>
      </p>
    </Dialog>
  );
}

/** Keys that act on a page, while nobody writes. */
export function useKeys(keys: Record<string, () => void>): void {
  const latest = useRef(keys);
  latest.current = keys;
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      const at = event.target as HTMLElement;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (at.closest("input, textarea, select, dialog")) return;
      const act = latest.current[event.key];
      if (act) {
        event.preventDefault();
        act();
      }
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
}
