import { renderToString } from "preact-render-to-string";
import { feature } from "topojson-client";
import { describe, expect, it } from "vitest";
import world from "world-atlas/countries-110m.json";
import type { Stats } from "../src/api";
import { address } from "../src/api";
import { href, parse, toggled, view } from "../src/filter";
import { ago, bytes, change, count, country, duration, percent, plain } from "../src/format";
import { covers } from "../src/net";
import { Text } from "../src/parts/bits";
import { stacked } from "../src/parts/chart";
import { lettersOf } from "../src/parts/countries";
import { level } from "../src/parts/map";
import { TopList } from "../src/parts/tops";

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

describe("numbers and times", () => {
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
