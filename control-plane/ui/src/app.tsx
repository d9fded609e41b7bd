// The frame around every page: who is logged in, where to go, how the service is.

import { useEffect, useState } from "preact/hooks";
import { get, offline, type Refused, remove, type Session, type Status, session, UNREACHED } from "./api";
import { page, view } from "./filter";
import { clock, number, showUtc, utc, zone } from "./format";
import { type Loaded, useLoaded } from "./live";
import { AddressPage } from "./pages/address";
import { Decisions } from "./pages/decisions";
import { Fleet } from "./pages/fleet";
import { Limits } from "./pages/limits";
import { Login } from "./pages/login";
import { Overview } from "./pages/overview";
import { Records } from "./pages/records";
import { Settings } from "./pages/settings";
import { Suspects } from "./pages/suspects";
import { Link, me, Notices, say, undoLatest, useKeys } from "./parts/bits";

const PAGES: [string, string, () => preact.JSX.Element][] = [
  ["overview", "Overview", Overview],
  ["suspects", "Suspects", Suspects],
  ["decisions", "Decisions", Decisions],
  ["records", "Records", Records],
  ["limits", "Limits", Limits],
  ["fleet", "Fleet", Fleet],
  ["settings", "Settings", Settings],
];

export function App() {
  // Who is logged in, as far as the service said.
  const [asked, setAsked] = useState<"waiting" | "answered" | "unreached">("waiting");
  const [ended, setEnded] = useState("");
  const ask = () =>
    get<Session>("/v1/session").then(
      (found) => {
        me.value = found;
        setAsked("answered");
      },
      (reason: Refused) => setAsked(reason.status === UNREACHED ? "unreached" : "answered"),
    );
  useEffect(() => {
    session.ended = () => {
      if (me.value) setEnded("The session has ended. Log in again, and this page is back.");
      me.value = undefined;
    };
    void ask();
  }, []);
  useEffect(() => {
    if (asked !== "unreached") return;
    const timer = setInterval(ask, 3_000);
    return () => clearInterval(timer);
  }, [asked]);
  if (asked === "waiting") return <p class="state muted">Loading…</p>;
  if (asked === "unreached")
    return (
      <p class="state bad" role="alert">
        The control plane can't be reached. This page goes on as soon as it answers.
      </p>
    );
  const logOut = () =>
    remove("/v1/session").then(
      () => {
        me.value = undefined;
        setEnded("");
      },
      (reason: Error) => say(reason.message, undefined, true),
    );
  return (
    <>
      {me.value ? <Frame logOut={logOut} /> : <Login why={ended} />}
      <Notices />
    </>
  );
}

/** What somebody should know whatever page they look at. */
function Banners({ status }: { status: Loaded<Status> }) {
  const { data, error } = status;
  const banners = [
    offline.value
      ? `The control plane can't be reached since ${clock(offline.value)}. What is shown is from before; it is tried again.`
      : error,
    data?.blocks_withheld != null &&
      `The brake acts: ${number(data.blocks_withheld)} automatic blocks were withheld. Look at the suspects.`,
    data?.rules_problem && `The detection rules as they are now can't be used, those before stay: ${data.rules_problem}`,
    data?.retention_error && `The last run of retention did not end: ${data.retention_error}`,
  ];
  return (
    <>
      {banners.map(
        (text, at) =>
          text && (
            <p key={at} class="banner" role="alert">
              {text}
            </p>
          ),
      )}
    </>
  );
}

function Frame({ logOut }: { logOut: () => void }) {
  const now = view.value;
  const status = useLoaded("status", () => get<Status>("/v1/status"), 10_000);
  useKeys({ u: undoLatest });
  const Page =
    now.page === "address" ? AddressPage : PAGES.find(([name]) => name === now.page)?.[2];
  const open = status.data?.suspects_open ?? 0;
  const title = PAGES.find(([name]) => name === now.page)?.[1] ?? "Address";
  useEffect(() => {
    document.title = `${open > 0 ? `(${open > 999 ? "999+" : open}) ` : ""}${title} · ipwarden`;
  }, [title, open]);
  return (
    <div class="frame">
      <a class="skip" href="#main">
        Skip to content
      </a>
      <nav aria-label="Pages">
        <p class="brand">
          <svg viewBox="0 0 32 32" width="20" height="20" aria-hidden="true">
            <path d="M16 2 4 7v8c0 7.5 5 12.600 12 15 7-2.400 12-7.500 12-15V7z" />
          </svg>
          ipwarden
        </p>
        <ul>
          {PAGES.map(([name, label]) => (
            <li key={name}>
              <Link to={page(name)} current={now.page === name}>
                {label}
                {name === "suspects" && open > 0 && (
                  <span class="badge">
                    {open > 999 ? "999+" : open}
                    <span class="hidden"> open</span>
                  </span>
                )}
              </Link>
            </li>
          ))}
        </ul>
        <div class="who">
          <span title={`Role ${me.value?.role}`}>
            {me.value?.name} · {me.value?.role}
          </span>
          <button
            type="button"
            class="quiet zone"
            aria-pressed={utc.value}
            title={utc.value ? "Show times in your own zone" : "Show times in UTC"}
            onClick={() => showUtc(!utc.value)}
          >
            {zone()}
          </button>
          <button type="button" class="quiet" onClick={logOut}>
            Log out
          </button>
        </div>
      </nav>
      <main id="main" tabIndex={-1}>
        <h1 class={now.page === "overview" ? "hidden" : ""}>{title}</h1>
        <Banners status={status} />
        {Page ? <Page /> : <p class="state">There is no such page.</p>}
      </main>
    </div>
  );
}
