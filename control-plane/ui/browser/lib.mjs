// What the browser's tests and the screenshots share: a Chromium, a login, requests as clients.
import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { request } from "node:http";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { chromium } from "playwright-core";

export const world = JSON.parse(process.env.DASHBOARD_WORLD ?? "{}");

/** Waits until something holds, asking again and again; fails after twenty seconds. */
export async function until(what, holds) {
  const end = Date.now() + 20_000;
  for (;;) {
    const value = await holds();
    if (value) return value;
    if (Date.now() > end) throw new Error(`did not come true: ${what}`);
    await new Promise((again) => setTimeout(again, 50));
  }
}

/** A port on which nobody listens. */
const freePort = () =>
  new Promise((found) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => found(port));
    });
  });

/** Runs the control plane on a data directory while something is done; `profile` is the build. */
export async function serving(profile, data, work) {
  const root = resolve(import.meta.dirname, "../../..");
  const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
  const port = await freePort();
  const service = spawn(
    join(target, profile, "ipwarden"),
    ["serve", "--listen", `127.0.0.1:${port}`, "--data-dir", data, "--log-level", "error"],
    { stdio: ["ignore", "inherit", "inherit"], cwd: data },
  );
  try {
    world.api = `http://127.0.0.1:${port}`;
    const isReady = () => fetch(`${world.api}/readyz`).then((answer) => answer.ok, () => false);
    await until("the control plane answers", isReady);
    world.admin = readFileSync(join(data, "admin.token"), "utf8").trim();
    await work();
  } finally {
    service.kill();
  }
}

export function check(holds, what) {
  if (!holds) throw new Error(`expected: ${what}`);
}

/** Opens a page that is thrown away afterwards, with everything that the console complains of. */
export async function browse(work, options = {}) {
  const profile = mkdtempSync(join(tmpdir(), "dashboard-"));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"].concat([
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ]),
    viewport: { width: 1440, height: 900 },
    ...options,
  });
  const page = context.pages()[0] ?? (await context.newPage());
  const complaints = [];
  page.on("console", (message) => {
    if (message.type() !== "error") return;
    // Answers that say no are the service's to give: nobody is logged in yet, there is no
    // geography, there is no such page.
    if (/status of (401|403|404|503)/.test(message.text())) return;
    complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(String(error)));
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener("securitypolicyviolation", (event) =>
      window.violations.push(`${event.violatedDirective} ${event.blockedURI} ${event.sample}`),
    );
  });
  try {
    return await work(page, complaints, context);
  } catch (error) {
    const text = await page.evaluate(() => document.body.innerText).catch(() => "");
    console.error(`the page says:\n${text.slice(0, 3_000)}\nconsole: ${complaints.join("\n")}`);
    throw error;
  } finally {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
  }
}

export async function login(page, token = world.admin) {
  await page.goto(`${world.api}/`);
  await page.getByLabel("Token").fill(token);
  await page.getByRole("button", { name: "Log in" }).click();
  await page.getByRole("navigation", { name: "Pages" }).waitFor();
}

/** A request through Envoy, as a client; gives the status. */
export function ask(client, path = "/", headers = {}) {
  const site = new URL(world.site);
  return new Promise((resolve, reject) => {
    const asking = request(
      {
        host: site.hostname,
        port: site.port,
        path,
        headers: { host: "shop.example", "user-agent": "Mozilla/5.0 Firefox/140.0", ...headers, "x-forwarded-for": client },
      },
      (answer) => {
        answer.resume();
        answer.on("end", () => resolve(answer.statusCode));
      },
    );
    asking.on("error", reject);
    asking.end();
  });
}

export async function asked(client, count, path = "/") {
  for (let at = 0; at < count; at += 1) await ask(client, path);
}
