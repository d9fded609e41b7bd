// Where requests come from: a choropleth whose steps grow by the cube, with the table beside it.

import { geoNaturalEarth1, geoPath } from "d3-geo";
import { useMemo, useState } from "preact/hooks";
import { feature, mesh } from "topojson-client";
import type { GeometryCollection, Topology } from "topojson-specification";
import world from "world-atlas/countries-110m.json";
import type { Row } from "../api";
import { go, toggled, view } from "../filter";
import { count, country, number, percent } from "../format";
import { Sources } from "./attribution";
import { Table } from "./bits";
import { lettersOf, SMALL } from "./countries";

const WIDTH = 960;
const HEIGHT = 452;
const atlas = world as unknown as Topology<{ countries: GeometryCollection<{ name: string }> }>;
const projection = geoNaturalEarth1()
  .scale(178)
  .translate([WIDTH / 2 - 18, HEIGHT / 2 + 30]);
const path = geoPath(projection);
const shapes = feature(atlas, atlas.objects.countries)
  .features.map((shape) => ({
    code: lettersOf(shape.id),
    name: shape.properties.name,
    d: path(shape) ?? "",
  }))
  .filter((shape) => shape.code !== "AQ");
const borders = path(mesh(atlas, atlas.objects.countries, (a, b) => a !== b)) ?? "";
const shaped = new Set(shapes.map((shape) => shape.code));
/** Steps of the scale. */
const STEPS = 6;

/** 0 for nothing, else 1 to 6: by the cube root, since countries differ by orders of magnitude. */
export function level(requests: number, most: number): number {
  if (requests <= 0) return 0;
  if (most <= 1) return STEPS;
  return Math.max(1, Math.min(STEPS, Math.ceil(Math.cbrt(requests / most) * STEPS)));
}

export function WorldMap({ rows, total }: { rows: Row[]; total: number }) {
  const [over, setOver] = useState<string>();
  const [asTable, setAsTable] = useState(false);
  const byCode = useMemo(() => new Map(rows.map((row) => [row.key, row])), [rows]);
  const known = rows.filter((row) => row.key !== "");
  const most = Math.max(1, ...known.map((row) => row.requests));
  const chosen = view.value.conditions.country;
  const shown = over ?? chosen;
  const row = shown ? byCode.get(shown) : undefined;
  const unknown = byCode.get("")?.requests ?? 0;
  const pick = (code: string) => go(toggled("country", code));
  const paint = (code: string | undefined) => {
    const found = code ? byCode.get(code) : undefined;
    const classes = [`land l${level(found?.requests ?? 0, most)}`];
    if (code && code === chosen) classes.push("chosen");
    return { found, className: classes.join(" ") };
  };
  return (
    <section class="panel map" aria-labelledby="map-title">
      <header>
        <h2 id="map-title">Origins</h2>
        <p class="note" aria-live="polite">
          {shown ? (
            <>
              <b>{country(shown)}</b> {number(row?.requests ?? 0)}
              {row ? ` · ${percent(row.requests, total)} · ${number(row.refused)} refused` : ""}
            </>
          ) : (
            <>
              {number(known.length)} {known.length === 1 ? "country" : "countries"}
              {unknown > 0 ? ` · ${percent(unknown, total)} of unknown place` : ""}
            </>
          )}
        </p>
        <button type="button" class="quiet" aria-pressed={asTable} onClick={() => setAsTable(!asTable)}>
          {asTable ? "Map" : "Table"}
        </button>
      </header>
      {asTable ? (
        <Table label="Requests by country" size="tall" heads={["Country", { n: "Requests" }, { n: "Share" }, { n: "Refused" }]}>
          {rows.map((line) => (
            <tr key={line.key}>
              <td>
                {line.key ? (
                  <button type="button" class="link" onClick={() => pick(line.key)}>
                    {country(line.key)}
                  </button>
                ) : (
                  "Unknown"
                )}
              </td>
              <td class="n">{number(line.requests)}</td>
              <td class="n">{percent(line.requests, total)}</td>
              <td class="n">{number(line.refused)}</td>
            </tr>
          ))}
        </Table>
      ) : (
        <>
          {/* The same is in the table and in the list of countries, which the keyboard reaches. */}
          <svg
            viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
            role="img"
            aria-label={`Map of requests by country. Most: ${known
              .slice(0, 3)
              .map((line) => `${country(line.key)} ${number(line.requests)}`)
              .join(", ")}`}
          >
            {shapes.map((shape) => {
              const { found, className } = paint(shape.code);
              return (
                // biome-ignore lint/a11y/noStaticElementInteractions: see the table
                <path
                  key={shape.name}
                  d={shape.d}
                  class={className}
                  data-country={shape.code}
                  data-requests={found?.requests ?? 0}
                  onMouseEnter={() => setOver(shape.code)}
                  onMouseLeave={() => setOver(undefined)}
                  onClick={() => shape.code && pick(shape.code)}
                />
              );
            })}
            <path class="borders" d={borders} />
            {known
              .filter((line) => !shaped.has(line.key) && SMALL[line.key])
              .map((line) => {
                const at = projection(SMALL[line.key] ?? [0, 0]);
                const { className } = paint(line.key);
                return (
                  // biome-ignore lint/a11y/noStaticElementInteractions: see the table
                  <circle
                    key={line.key}
                    cx={at?.[0]}
                    cy={at?.[1]}
                    r="4"
                    class={className}
                    data-country={line.key}
                    onMouseEnter={() => setOver(line.key)}
                    onMouseLeave={() => setOver(undefined)}
                    onClick={() => pick(line.key)}
                  />
                );
              })}
          </svg>
          <div class="scale" aria-hidden="true">
            <span>1</span>
            {Array.from({ length: STEPS }, (_, at) => (
              <i key={at} class={`l${at + 1}`} />
            ))}
            <span>{count(most)}</span>
          </div>
          <Sources />
        </>
      )}
    </section>
  );
}
