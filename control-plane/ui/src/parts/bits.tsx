// Small things that every page uses.

import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import type { Session, Verdict } from "../api";
import { go, href, page, type View } from "../filter";
import { plain } from "../format";

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

/** A masked address says so by its length; a whole one leads to its page. */
export const shownTarget = (target: string) =>
  me.value?.addresses_masked && !target.includes("/")
    ? `${target}/${target.includes(":") ? 48 : 24}`
    : target;

export function Address({ ip }: { ip: string | null }) {
  if (!ip) return <span class="muted">none</span>;
  const target = shownTarget(ip);
  return (
    <Link class="mono" to={page("address", { target })}>
      {target}
    </Link>
  );
}

export const VerdictTag = ({ verdict }: { verdict: Verdict }) => (
  <span class={`tag ${verdict}`}>{verdict}</span>
);

/** What a client sent: never markup, never invisible. */
export const Text = ({ text, class: name }: { text: string; class?: string }) => (
  <span class={name} title={plain(text)}>
    {plain(text) || "–"}
  </span>
);

export function State(props: { error?: string; loading: boolean; has: boolean; empty?: boolean; children?: ComponentChildren }) {
  if (props.error)
    return (
      <p class="state bad" role="alert">
        {props.error}
      </p>
    );
  if (!props.has && props.loading) return <p class="state muted">Loading…</p>;
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
