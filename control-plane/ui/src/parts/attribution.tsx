// Whose data places are from: their licences ask that it is said where they are shown.

import { type GeoDatabase, get, type Status } from "../api";
import { useLoaded } from "../live";

type Given = NonNullable<NonNullable<GeoDatabase["data"]>["attribution"]>;

/** A link only where it leads to a site, whatever a file says. */
export const safe = (url: unknown) => (typeof url === "string" && /^https?:\/\//.test(url) ? url : undefined);

export function Attribution({ of }: { of: Given }) {
  const url = safe(of.url);
  const license = typeof of.license === "string" ? ` (${of.license})` : "";
  return (
    <>
      {url ? (
        <a href={url} rel="noreferrer noopener" target="_blank">
          {of.text ?? url}
        </a>
      ) : (
        of.text
      )}
      {license}
    </>
  );
}

/** All of them in one line. */
export function Sources() {
  const { data } = useLoaded("sources", () => get<Status>("/v1/status"));
  const given = (data?.geo.databases ?? [])
    .map((file) => file.data?.attribution)
    .filter((one): one is Given => !!one);
  // One source has a file for each family of addresses.
  const each = [...new Map(given.map((one): [string | undefined, Given] => [one.text ?? one.url, one])).values()];
  if (each.length === 0) return null;
  return (
    <p class="sources">
      {each.map((one, at) => (
        <span key={one.text ?? one.url}>
          {at > 0 && " · "}
          <Attribution of={one} />
        </span>
      ))}
    </p>
  );
}
