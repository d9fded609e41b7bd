import { renderToString } from "preact-render-to-string";
import { feature } from "topojson-client";
import { describe, expect, it } from "vitest";
import world from "world-atlas/countries-110m.json";
import type { Stats } from "../src/api";
import { address } from "../src/api";
import { href, moved, parse, toggled, toggledPseudonym, view, without } from "../src/filter";
import {
  ago,
  bytes,
  change,
  clock,
  count,
  country,
  day,
  duration,
  learnClock,
  moment,
  percent,
  plain,
  present,
  showUtc,
  unshown,
  zone,
} from "../src/format";
import { covers } from "../src/net";
import { whatWasErased } from "../src/pages/address";
import { Attribution, safe } from "../src/parts/attribution";
import { Text } from "../src/parts/bits";
import { stacked } from "../src/parts/chart";
import { lettersOf } from "../src/parts/countries";
import { level } from "../src/parts/map";
import { heights } from "../src/parts/spark";
import { Addresses, TopList } from "../src/parts/tops";

describe("the address bar", () => {
  it("holds the whole view and gives it back", () => {
    for (const search of [
      "",
      "?since=24h&compare=true",
      "?since=2026-11-22T16%3A00%3A00.000Z&until=2026-11-22T17%3A00%3A00.000Z&country=FR",
      "?path=%2Fa%26b%3Dc&user_agent=%3Cscript%3E&id=7",
    ]) {
      const found = parse("/suspects", search);
      expect(href(found)).toBe(`/suspects${search}`);
    }
    expect(href(parse("/", "?since=1h"))).toBe("/");
  });

  it("keeps what is no condition apart from conditions", () => {
    const found = parse("/address", "?target=203.0.113.0%2F24&country=FR");
    expect([found.page, found.conditions, found.rest]).toEqual([
      "address",
      { country: "FR" },
      { target: "203.0.113.0/24" },
    ]);
  });

  it("takes a condition away that is chosen twice", () => {
    view.value = parse("/", "?country=FR&path=%2Fa");
    expect(toggled("country", "FR").conditions).toEqual({ path: "/a" });
    expect(toggled("country", "DE").conditions).toEqual({ path: "/a", country: "DE" });
  });
});

describe("pseudonyms", () => {
  it("are a condition together with the word that says what they are", () => {
    view.value = parse("/", "?country=FR");
    view.value = toggledPseudonym("100.115.72.131@5ab1c0de");
    expect(href(view.value)).toBe("/?ip=100.115.72.131&form=pseudonym&country=FR");
    expect(toggledPseudonym("100.115.72.131@5ab1c0de").conditions).toEqual({ country: "FR" });
    expect(without("ip").conditions).toEqual({ country: "FR" });
    view.value = parse("/", "?ip=203.0.113.7&form=full");
    expect(without("ip").conditions).toEqual({ form: "full" });
  });

  it("take the place of addresses in the lists, marked, and stand beside them where there are both", () => {
    view.value = parse("/", "");
    const top = (...keys: string[]) => ({
      rows: keys.map((key) => ({ key, requests: 1, refused: 0 })),
      distinct: keys.length,
      approximate: false,
    });
    const titles = (tops: Record<string, ReturnType<typeof top>>) =>
      [...renderToString(<Addresses tops={tops} total={1} />).matchAll(/<h2>([^<]*)/g)].map((found) => found[1]);
    const hidden = { pseudonym: top("1.2.3.4@5ab1c0de"), pseudonym_network: top("1.2.3.0/24@5ab1c0de") };
    expect(titles({ address: top(), network: top(), ...hidden })).toEqual(["Addresses, hidden", "Networks, hidden"]);
    expect(titles({ address: top("1.2.3.4"), network: top("1.2.3.0/24"), ...hidden })).toEqual([
      "Addresses",
      "Addresses, hidden",
      "Networks",
      "Networks, hidden",
    ]);
    expect(titles({ address: top(), network: top(), pseudonym: top(), pseudonym_network: top() })).toEqual(["Addresses", "Networks"]);
    // A viewer is told of networks only.
    expect(titles({ network: top(), pseudonym_network: hidden.pseudonym_network })).toEqual(["Networks, hidden"]);
  });
});

describe("a span", () => {
  const at = (since: string, until: string) => parse("/", `?since=${since}&until=${until}`);
  const end = Date.parse("2026-11-22T20:00:00Z");
  const span = (found: ReturnType<typeof moved>) => [found.since, found.until];

  it("moves by its length, and never beyond now", () => {
    const now = at("2026-11-22T16:00:00.000Z", "2026-11-22T17:00:00.000Z");
    expect(span(moved(-1, now, end))).toEqual(["2026-11-22T15:00:00.000Z", "2026-11-22T16:00:00.000Z"]);
    expect(span(moved(1, now, end))).toEqual(["2026-11-22T17:00:00.000Z", "2026-11-22T18:00:00.000Z"]);
    const late = at("2026-11-22T18:30:00.000Z", "2026-11-22T19:30:00.000Z");
    expect(span(moved(1, late, end))).toEqual(["2026-11-22T19:00:00.000Z", "2026-11-22T20:00:00.000Z"]);
  });

  it("doubles around its middle, or as far as there is time", () => {
    const now = at("2026-11-22T16:00:00.000Z", "2026-11-22T17:00:00.000Z");
    expect(span(moved("out", now, end))).toEqual(["2026-11-22T15:30:00.000Z", "2026-11-22T17:30:00.000Z"]);
    const late = at("2026-11-22T19:00:00.000Z", "2026-11-22T20:00:00.000Z");
    expect(span(moved("out", late, end))).toEqual(["2026-11-22T18:00:00.000Z", "2026-11-22T20:00:00.000Z"]);
    expect(moved("out", parse("/", "?since=24h"), end)).toEqual(parse("/", "?since=24h"));
  });
});

describe("numbers and times", () => {
  it("are in UTC when that is asked for, and an input's time is read the same way", () => {
    showUtc(true);
    expect([moment("2026-11-22T23:30:05Z"), clock("2026-11-22T23:30:05Z"), day("2026-11-22T23:30:05Z"), zone()]).toEqual([
      "2026-11-22 23:30:05",
      "23:30:05",
      "22 Nov",
      "UTC",
    ]);
    expect(unshown("2026-11-22T23:30").toISOString()).toBe("2026-11-22T23:30:00.000Z");
    showUtc(false);
    const here = new Date(2026, 10, 22, 23, 30, 5);
    expect(moment(here.getTime())).toBe("2026-11-22 23:30:05");
    expect(unshown("2026-11-22T23:30").getTime()).toBe(here.getTime() - 5_000);
  });

  it("go by the service's clock when the reader's is wrong", () => {
    learnClock(new Date(Date.now() + 3_600_000).toUTCString());
    expect(Math.abs(present() - Date.now() - 3_600_000)).toBeLessThan(5_000);
    learnClock("nonsense");
    expect(present() - Date.now()).toBeGreaterThan(3_500_000);
    learnClock(new Date().toUTCString());
    expect(Math.abs(present() - Date.now())).toBeLessThan(50);
  });

  it("are short without lying", () => {
    expect([count(99_999), count(1_234_567), bytes(0), bytes(1536), percent(0, 0)]).toEqual([
      "99,999",
      "1.2M",
      "0 B",
      "1.5 KiB",
      "–",
    ]);
    expect([percent(1, 10_000), percent(1, 3), percent(2, 3), percent(0, 9)]).toEqual([
      "<0.1%",
      "33%",
      "67%",
      "0.0%",
    ]);
  });

  it("say how much changed", () => {
    expect([change(112, 100), change(97, 100), change(5, 0), change(0, 0), change(5, undefined)]).toEqual([
      "+12%",
      "−3%",
      "new",
      "",
      "",
    ]);
  });

  it("say how long ago and how long still", () => {
    const now = Date.parse("2026-11-22T16:00:00Z");
    expect([
      ago("2026-11-22T15:59:30Z", now),
      ago("2026-11-22T20:00:00Z", now),
      ago("2026-11-15T16:00:00Z", now),
      ago(null, now),
      duration(90),
    ]).toEqual(["30s ago", "in 4h", "7d ago", "never", "2m"]);
  });

  it("name countries, and leave what is none as it is", () => {
    expect([country("FR"), country(""), country("<b>")]).toEqual(["France", "Unknown", "<b>"]);
  });
});

describe("what clients send", () => {
  it("is shown as text, with nothing invisible in it", () => {
    expect(plain("a\u0000b\u202ec\u009f\ufeff")).toBe("a\\x00b\\u202ec\\x9f\\ufeff");
    const hostile = `<script>alert(1)</script>"'><img src=x onerror=alert(1)>`;
    const shown = renderToString(<Text text={hostile} />);
    expect(shown).not.toContain("<script");
    expect(shown).not.toContain("<img");
    const top = { rows: [{ key: hostile, requests: 2, refused: 1 }], distinct: 1, approximate: false };
    const list = renderToString(<TopList title="Paths" condition="path" top={top} total={2} />);
    expect(list).not.toContain("<script");
    expect(list).not.toContain("<img");
    expect(list).not.toMatch(/style=/);
  });

  it("is escaped in addresses of the API", () => {
    expect(address("/v1/requests", { path: "/a?b&c=d", ip: undefined, limit: 5 })).toBe(
      "/v1/requests?path=%2Fa%3Fb%26c%3Dd&limit=5",
    );
  });
});

describe("a source of data", () => {
  it("is a link only where it leads to a site", () => {
    expect([safe("https://db-ip.com"), safe("javascript:alert(1)"), safe("//evil.example"), safe(7)]).toEqual([
      "https://db-ip.com",
      undefined,
      undefined,
      undefined,
    ]);
    const shown = renderToString(<Attribution of={{ text: "<b>X", url: "javascript:alert(1)", license: "CC0" }} />);
    expect(shown).toBe("&lt;b>X (CC0)");
  });
});

describe("networks", () => {
  it("cover what lies in them, and nothing of the other family", () => {
    expect(covers("203.0.113.0/24", "203.0.113.7")).toBe(true);
    expect(covers("203.0.113.0/24", "203.0.113.0/24")).toBe(true);
    expect(covers("203.0.113.0/24", "203.0.112.0/23")).toBe(false);
    expect(covers("203.0.113.7", "203.0.113.8")).toBe(false);
    expect(covers("0.0.0.0/0", "2001:db8::1")).toBe(false);
    expect(covers("2001:db8::/32", "2001:db8:7::/48")).toBe(true);
    expect(covers("2001:db8::/48", "2001:db8:7::1")).toBe(false);
    for (const bad of ["", "a", "1.2.3", "1.2.3.256", "1::2::3", "1.2.3.4/33", "<b>"]) {
      expect(covers(bad, bad)).toBe(false);
    }
  });
});

describe("the map", () => {
  it("knows the letters of every shape with a number", () => {
    const atlas = world as unknown as Parameters<typeof feature>[0];
    const shapes = feature(atlas, (atlas.objects as never as { countries: never }).countries) as unknown as {
      features: { id?: string; properties: { name: string } }[];
    };
    const nameless = shapes.features
      .filter((shape) => !lettersOf(shape.id))
      .map((shape) => shape.properties.name);
    expect(nameless.sort()).toEqual(["Kosovo", "N. Cyprus", "Somaliland"]);
  });

  it("paints by powers, something for every request, nothing for none", () => {
    expect([level(0, 1000), level(1, 1_000_000), level(1_000_000, 1_000_000), level(1, 1)]).toEqual([0, 1, 6, 6]);
    const levels = [1, 10, 100, 1_000, 10_000].map((requests) => level(requests, 10_000));
    expect([...levels].sort()).toEqual(levels);
  });
});

describe("what is told after an erasure", () => {
  it("counts what was there and says what was left", () => {
    const erased = { records: 1, hours: 3, suspects: 2, decisions: 0, texts: 4, redacted: 0, settled: true, left: [] };
    expect(whatWasErased(erased)).toBe("1 record, 2 suspects");
    const left = [{ what: "a block", why: "privacy.keep_security" }];
    expect(whatWasErased({ ...erased, records: 0, suspects: 0, left })).toBe(
      "nothing was held; left: a block (privacy.keep_security)",
    );
  });
});

describe("a line of bars", () => {
  it("shows the least of requests, and nothing for none", () => {
    expect(heights([0, 1, 1_000_000])).toEqual([0, 4, 100]);
    expect(heights([])).toEqual([]);
  });
});

describe("the chart", () => {
  const stats: Stats = {
    since: "2026-11-22T16:00:00Z",
    until: "2026-11-22T16:00:30Z",
    total: { requests: 7, refused: 3, verdicts: { admitted: 4, blocked: 3 } },
    series: { step_seconds: 10, verdicts: { blocked: [1, 2, 0], admitted: [1, 1, 2] } },
  };

  it("stacks what is refused upon what is admitted", () => {
    const data = stacked(stats);
    expect(data.verdicts).toEqual(["admitted", "blocked"]);
    expect(data.sums).toEqual([
      [2, 3, 2],
      [1, 1, 2],
    ]);
    expect(data.times.map((time) => time - (data.times[0] ?? 0))).toEqual([0, 10, 20]);
  });
});
