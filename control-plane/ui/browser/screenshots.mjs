// A picture of each page, light and dark, desktop and phone, into screenshots/: on synthetic
// records, with suspects as detectors flag them; then of the states that nobody likes to see: no
// data yet, huge numbers and long texts, an error, nothing answers, the session ended. Run by
// `make screenshots`; names of pages or states as arguments choose.
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { browse, login, serving, until, world } from "./lib.mjs";

const root = resolve(import.meta.dirname, "../../..");
const out = resolve(import.meta.dirname, "../screenshots");
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const profile = process.env.PROFILE ?? "debug";
const records = process.env.RECORDS ?? "250000";
const only = process.argv.slice(2);

const data = mkdtempSync(join(tmpdir(), "screenshots-"));
const seeded = spawnSync(join(target, profile, "examples/seed_demo"), [data, records, "5", "--suspects"], {
  stdio: ["ignore", "ignore", "inherit"],
});
if (seeded.status !== 0) throw new Error("the records could not be made");

const pages = [
  ["overview", "/?since=24h&compare=true"],
  ["week", "/?since=7d"],
  ["suspects", "/suspects"],
  ["decisions", "/decisions"],
  ["records", "/records?since=24h"],
  ["address", "/address?target=45.155.0.3&since=24h"],
  ["limits", "/limits?since=24h"],
  ["fleet", "/fleet"],
  ["settings", "/settings"],
];

/** Answers of the service, changed on their way. */
const change = (page, path, with_) =>
  page.route(path, async (route) => {
    const answer = await route.fetch();
    const body = await answer.json();
    await route.fulfill({ response: answer, json: with_(body) ?? body });
  });
const times = (value, by) =>
  typeof value === "number" ? value * by : Array.isArray(value) ? value.map((part) => times(part, by)) : value && typeof value === "object"
    ? Object.fromEntries(Object.entries(value).map(([key, part]) => [key, key === "step_seconds" ? part : times(part, by)]))
    : value;
const long = `/${"a-very-long-path-of-somebody/".repeat(80)}?${"q=%20&".repeat(200)}`;

const states = {
  async empty(page) {
    await change(page, "**/v1/stats/overview?*", (body) => ({
      ...body,
      total: { requests: 0, refused: 0, verdicts: {} },
      before: undefined,
      series: { step_seconds: 60, verdicts: {} },
      tops: Object.fromEntries(Object.keys(body.tops).map((by) => [by, { rows: [], distinct: 0, approximate: false }])),
    }));
    await change(page, "**/v1/status", (body) => ({ ...body, records_stored: 0, suspects_open: 0 }));
    await page.goto(`${world.api}/`);
    await page.getByText("No request was stored yet").waitFor();
  },
  async huge(page) {
    await change(page, "**/v1/stats/overview?*", (body) => {
      const huge = times(body, 7_654_321);
      for (const row of huge.tops.path.rows.slice(0, 3)) row.key = long;
      for (const row of huge.tops.user_agent.rows.slice(0, 2)) row.key = "Mozilla/5.0 ".repeat(90);
      return huge;
    });
    await page.goto(`${world.api}/?since=24h&compare=true&country=DE`);
    await page.locator(".plot canvas").waitFor();
  },
  async long(page) {
    await change(page, "**/v1/requests?*", (body) => {
      for (const record of body.records.slice(0, 5)) Object.assign(record, { path: long, host: "h".repeat(250), weight: 98_765, duration_ms: 123_456.789 });
    });
    await page.goto(`${world.api}/records?since=24h`);
    await page.locator("main tbody tr").first().waitFor();
  },
  async error(page) {
    await page.route("**/v1/stats/overview?*", (route) =>
      route.fulfill({ status: 503, contentType: "application/problem+json", body: JSON.stringify({ detail: "the store is unavailable for the moment" }) }),
    );
    await page.goto(`${world.api}/`);
    await page.getByText("the store is unavailable").waitFor();
  },
  async bad_filter(page) {
    await page.goto(`${world.api}/?ip=300.1.2.3`);
    await page.locator("main .bad").first().waitFor();
  },
  async down(page) {
    await page.goto(`${world.api}/?since=24h`);
    await page.locator(".plot canvas").waitFor();
    await page.route("**/v1/**", (route) => route.abort());
    await page.getByText("The control plane can't be reached since").waitFor();
  },
  async ended(page, context) {
    await page.goto(`${world.api}/records`);
    await page.locator("main .panel").first().waitFor();
    await context.clearCookies();
    await page.getByText("The session has ended").waitFor();
  },
  async dialog(page) {
    await page.goto(`${world.api}/decisions`);
    await page.getByRole("button", { name: "Add", exact: true }).click();
    await page.getByRole("dialog").waitFor();
  },
  async tables(page) {
    await page.goto(`${world.api}/?since=24h&compare=true`);
    await page.locator(".map").getByRole("button", { name: "Table" }).click();
    await page.locator(".chart").getByRole("button", { name: "Table" }).click();
  },
  async zoomed(page) {
    const until = Date.now() - 6 * 3_600_000;
    const at = (ms) => new Date(ms).toISOString();
    await page.goto(`${world.api}/?since=${at(until - 7_200_000)}&until=${at(until)}&compare=true`);
    await page.locator(".plot canvas").waitFor();
  },
};

try {
  await serving(profile, data, pictures);
  console.log(`pictures are in ${out}`);
} finally {
  rmSync(data, { recursive: true, force: true });
}

async function pictures() {
  const act = (path, body) =>
    fetch(`${world.api}${path}`, {
      method: "POST",
      headers: { authorization: `Bearer ${world.admin}`, "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  await act("/v1/decisions", { targets: ["45.155.0.0/22"], action: "block", reason: "scanners of one hoster", for: "7d" });
  await act("/v1/decisions", { targets: ["198.51.100.0/24"], action: "allow", reason: "our monitoring" });
  await act("/v1/decisions", { targets: ["198.51.100.7", "203.0.113.9", "2001:db8:7::/48"], action: "block", reason: "scraping", for: "4h" });
  await act("/v1/tokens", { name: "on-call", role: "viewer" });
  mkdirSync(out, { recursive: true });
  for (const [size, viewport] of [
    ["desktop", { width: 1440, height: 1000 }],
    ["phone", { width: 390, height: 844 }],
  ]) {
    for (const colorScheme of ["light", "dark"]) {
      await browse(
        async (page, complaints, context) => {
          await page.goto(`${world.api}/`);
          await page.getByLabel("Token").waitFor();
          await page.screenshot({ path: join(out, `login-${size}-${colorScheme}.png`) });
          await login(page);
          for (const [name, path] of pages) {
            if (only.length > 0 && !only.includes(name)) continue;
            await page.goto(`${world.api}${path}`);
            await page.locator("main .panel").first().waitFor();
            await until("it is loaded", async () => (await page.getByText("Loading…").count()) === 0);
            if (name === "overview") await page.locator(".plot canvas").waitFor();
            await page.screenshot({ path: join(out, `${name}-${size}-${colorScheme}.png`), fullPage: true });
          }
          // Each state once wide and light, once narrow and dark.
          const isShown = (size === "desktop") === (colorScheme === "light");
          for (const [name, show] of isShown ? Object.entries(states) : []) {
            if (only.length > 0 && !only.includes(name)) continue;
            await show(page, context);
            await page.screenshot({ path: join(out, `${name}-${size}-${colorScheme}.png`), fullPage: size === "desktop" });
            await page.unrouteAll({ behavior: "ignoreErrors" });
            if (name === "ended") await login(page);
          }
          const own = complaints.filter((text) => !/net::ERR_FAILED|status of (400|503)/.test(text));
          if (own.length > 0) throw new Error(`the console complains: ${own}`);
        },
        { viewport, colorScheme, deviceScaleFactor: size === "phone" ? 2 : 1, isMobile: size === "phone", hasTouch: size === "phone", reducedMotion: "reduce" },
      );
    }
  }
}
