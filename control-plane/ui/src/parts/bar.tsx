// The bar over each page that looks at requests: span of time, comparison, conditions.

import { CONDITIONS, DEFAULT_SPAN, go, LABELS, moved, SPANS, view, without } from "../filter";
import { country, moment, plain, present, shown, unshown } from "../format";

const local = (time: string) => shown(time).toISOString().slice(0, 16);

export function FilterBar({ withCompare = true }: { withCompare?: boolean }) {
  const now = view.value;
  const isFixed = now.until !== undefined || !SPANS.some(([span]) => span === now.since);
  const isHidden = now.conditions.form === "pseudonym" && now.conditions.ip !== undefined;
  // A pseudonym and the word that says that it is one are one condition to people.
  const chosen = CONDITIONS.filter((key) => now.conditions[key] && !(isHidden && key === "form"));
  const fixed = (which: "since" | "until", text: string) => {
    const at = unshown(text);
    if (Number.isNaN(at.getTime())) return;
    const since = which === "since" ? at.toISOString() : now.since;
    const until = which === "until" ? at.toISOString() : now.until;
    if (until && since >= until) return;
    go({ ...now, since, until });
  };
  return (
    <div class="bar" role="search" aria-label="What is looked at">
      <fieldset class="spans">
        <legend class="hidden">Span of time</legend>
        {SPANS.map(([span, label]) => (
          <button
            key={span}
            type="button"
            aria-pressed={!isFixed && now.since === span}
            title={label}
            onClick={() => go({ ...now, since: span, until: undefined })}
          >
            {span}
          </button>
        ))}
        <button
          type="button"
          aria-pressed={isFixed}
          title="From one moment to another; dragging over the chart does the same"
          onClick={() => {
            const until = present();
            go({ ...now, since: new Date(until - 3_600_000).toISOString(), until: new Date(until).toISOString() });
          }}
        >
          from – to
        </button>
      </fieldset>
      {isFixed && /^\d{4}-/.test(now.since) && (
        <span class="fixed">
          <input
            type="datetime-local"
            aria-label="From"
            value={local(now.since)}
            onChange={(event) => fixed("since", event.currentTarget.value)}
          />
          –
          <input
            type="datetime-local"
            aria-label="To"
            value={local(now.until ?? new Date(present()).toISOString())}
            onChange={(event) => fixed("until", event.currentTarget.value)}
          />
          <button type="button" class="quiet" title="The span before" aria-label="The span before" onClick={() => go(moved(-1))}>
            ‹
          </button>
          <button type="button" class="quiet" title="The span after" aria-label="The span after" disabled={!now.until || Date.parse(now.until) > present() - 60_000} onClick={() => go(moved(1))}>
            ›
          </button>
          <button type="button" class="quiet" title="Twice the span" onClick={() => go(moved("out"))}>
            zoom out
          </button>
          <button
            type="button"
            class="quiet"
            title={`${moment(now.since)} to ${now.until ? moment(now.until) : "now"}`}
            onClick={() => go({ ...now, since: DEFAULT_SPAN, until: undefined })}
          >
            back to now
          </button>
        </span>
      )}
      {withCompare && (
        <label class="check">
          <input
            type="checkbox"
            checked={now.compare}
            onChange={(event) => go({ ...now, compare: event.currentTarget.checked })}
          />
          compare
        </label>
      )}
      <form
        class="narrow"
        onSubmit={(event) => {
          event.preventDefault();
          const data = new FormData(event.currentTarget);
          const key = String(data.get("key")) as (typeof CONDITIONS)[number];
          const value = String(data.get("value") ?? "").trim();
          if (value) go({ ...now, conditions: { ...now.conditions, [key]: value } });
          event.currentTarget.reset();
        }}
      >
        <select name="key" aria-label="Narrow by">
          {CONDITIONS.map((key) => (
            <option key={key} value={key}>
              {LABELS[key]}
            </option>
          ))}
        </select>
        <input name="value" aria-label="Value" placeholder="narrow by…" autocomplete="off" spellcheck={false} />
      </form>
      {chosen.length > 0 && (
        <ul class="chips" aria-label="Conditions">
          {chosen.map((key) => {
            const value = now.conditions[key] ?? "";
            return (
              <li key={key}>
                <button
                  type="button"
                  title="Remove this condition"
                  onClick={() => go(without(key))}
                >
                  <span>{isHidden && key === "ip" ? "Pseudonym" : LABELS[key]}</span> {key === "country" ? country(value) : plain(value)} ×
                </button>
              </li>
            );
          })}
          {chosen.length > 1 && (
            <li>
              <button type="button" class="quiet" onClick={() => go({ ...now, conditions: {} })}>
                clear
              </button>
            </li>
          )}
        </ul>
      )}
    </div>
  );
}
