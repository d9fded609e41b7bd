// The frame around every page: who is logged in, where to go, how the service is.

import { useEffect, useState } from "preact/hooks";
import { get, remove, type Session, session, type Status } from "./api";
import { page, view } from "./filter";
import { useLoaded } from "./live";
import { AddressPage } from "./pages/address";
import { Decisions } from "./pages/decisions";
import { Fleet } from "./pages/fleet";
import { Limits } from "./pages/limits";
import { Login } from "./pages/login";
import { Overview } from "./pages/overview";
import { Records } from "./pages/records";
import { Settings } from "./pages/settings";
import { Suspects } from "./pages/suspects";
import { Link, me, Notices, undoLatest, useKeys } from "./parts/bits";

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
  const [asked, setAsked] = useState(false);
  useEffect(() => {
    session.ended = () => {
      me.value = undefined;
    };
    get<Session>("/v1/session")
      .then((found) => {
        me.value = found;
      })
      .catch(() => {})
      .finally(() => setAsked(true));
  }, []);
  if (!asked) return <p class="state muted">Loading…</p>;
  return (
    <>
      {me.value ? <Frame /> : <Login />}
      <Notices />
    </>
  );
}

function Frame() {
  const now = view.value;
  const status = useLoaded("status", () => get<Status>("/v1/status"), 10_000);
  useKeys({ u: undoLatest });
  const Page =
    now.page === "address" ? AddressPage : PAGES.find(([name]) => name === now.page)?.[2];
  const title = PAGES.find(([name]) => name === now.page)?.[1] ?? "Address";
  useEffect(() => {
    document.title = `${title} · ipwarden`;
  }, [title]);
  const open = status.data?.suspects_open ?? 0;
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
            class="quiet"
            onClick={() => remove("/v1/session").finally(() => session.ended())}
          >
            Log out
          </button>
        </div>
      </nav>
      <main id="main" tabIndex={-1}>
        <h1 class={now.page === "overview" ? "hidden" : ""}>{title}</h1>
        {status.error && (
          <p class="banner" role="alert">
            {status.error}
          </p>
        )}
        {status.data?.blocks_withheld != null && (
          <p class="banner" role="alert">
            The brake acts: {status.data.blocks_withheld} automatic blocks were withheld. Look at the
            suspects.
          </p>
        )}
        {Page ? <Page /> : <p class="state">There is no such page.</p>}
      </main>
    </div>
  );
}
