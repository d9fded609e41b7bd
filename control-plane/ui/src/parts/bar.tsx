// The bar over each page that looks at requests: span of time, comparison, conditions.

import { CONDITIONS, DEFAULT_SPAN, go, LABELS, SPANS, view } from "../filter";
import { country, moment, plain } from "../format";

const local = (time: string) => {
  const date = new Date(time);
  date.setMinutes(date.getMinutes() - date.getTimezoneOffset());
  return date.toISOString().slice(0, 16);
};

export function FilterBar({ withCompare = true }: { withCompare?: boolean }) {
  const now = view.value;
  const isFixed = now.until !== undefined || !SPANS.some(([span]) => span === now.since);
  const shown = CONDITIONS.filter((key) => now.conditions[key]);
  const fixed = (which: "since" | "until", text: string) => {
    const at = new Date(text);
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
            const until = new Date();
            const since = new Date(until.getTime() - 3_600_000);
            go({ ...now, since: since.toISOString(), until: until.toISOString() });
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
            value={local(now.until ?? new Date().toISOString())}
            onChange={(event) => fixed("until", event.currentTarget.value)}
          />
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
      {shown.length > 0 && (
        <ul class="chips" aria-label="Conditions">
          {shown.map((key) => {
            const value = now.conditions[key] ?? "";
            return (
              <li key={key}>
                <button
                  type="button"
                  title="Remove this condition"
                  onClick={() => {
                    const conditions = { ...now.conditions };
                    delete conditions[key];
                    go({ ...now, conditions });
                  }}
                >
                  <span>{LABELS[key]}</span> {key === "country" ? country(value) : plain(value)} ×
                </button>
              </li>
            );
          })}
          {shown.length > 1 && (
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
