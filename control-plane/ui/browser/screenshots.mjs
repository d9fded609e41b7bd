// A picture of each page, light and dark, desktop and phone, into screenshots/: on synthetic
// records, with suspects that real detectors flagged. Run by `make screenshots`.
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { browse, login, until, world } from "./lib.mjs";

const root = resolve(import.meta.dirname, "../../..");
const out = resolve(import.meta.dirname, "../screenshots");
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const records = process.env.RECORDS ?? "250000";
const only = process.argv.slice(2);

const data = mkdtempSync(join(tmpdir(), "screenshots-"));
const port = await new Promise((found) => {
  const server = createServer().listen(0, "127.0.0.1", () => {
    const { port } = server.address();
    server.close(() => found(port));
  });
});
const seeded = spawnSync(join(target, "debug/examples/seed_demo"), [data, records, "2", "--suspects"], {
  stdio: ["ignore", "ignore", "inherit"],
});
if (seeded.status !== 0) throw new Error("the records could not be made");
const service = spawn(
  join(target, "debug/ipwarden"),
  ["serve", "--listen", `127.0.0.1:${port}`, "--data-dir", data, "--log-level", "error"],
  { stdio: ["ignore", "inherit", "inherit"], cwd: data },
);

const pages = [
  ["overview", "/?since=24h&compare=true"],
  ["suspects", "/suspects"],
  ["decisions", "/decisions"],
  ["records", "/records?since=24h"],
  ["address", "/address?target=45.155.0.3&since=24h"],
  ["limits", "/limits?since=24h"],
  ["fleet", "/fleet"],
  ["settings", "/settings"],
];

try {
  world.api = `http://127.0.0.1:${port}`;
  await until("the control plane answers", () => fetch(`${world.api}/readyz`).then((answer) => answer.ok).catch(() => false));
  world.admin = readFileSync(join(data, "admin.token"), "utf8").trim();
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
        async (page, complaints) => {
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
          if (complaints.length > 0) throw new Error(`the console complains: ${complaints}`);
        },
        { viewport, colorScheme, deviceScaleFactor: size === "phone" ? 2 : 1, isMobile: size === "phone", hasTouch: size === "phone", reducedMotion: "reduce" },
      );
    }
  }
  console.log(`pictures are in ${out}`);
} finally {
  service.kill();
  rmSync(data, { recursive: true, force: true });
}
