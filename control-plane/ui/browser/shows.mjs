// What the dashboard must do, seen in a real browser, through a real Envoy. Run by
// tests/e2e/tests/browser.rs, one show at a time.
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { createRequire } from "node:module";
import { join } from "node:path";
import { ask, asked, browse, check, login, until, world } from "./lib.mjs";

const PAGES = ["/", "/suspects", "/decisions", "/records", "/address?target=", "/limits", "/fleet", "/settings"];
const SCANNER = "81.2.69.141";

/** Takes many pages in no time: a reason to look, none for the policy to block by itself. */
async function scan(client) {
  for (let at = 0; at < 90; at += 1) await ask(client, `/catalogue/${at}`);
}

const total = (page) => page.locator(".plot").getAttribute("data-total").then(Number);
const requests = (page, country) =>
  page.locator(`path[data-country=${country}]`).first().getAttribute("data-requests").then(Number);

const shows = {
  async from_login_to_undo() {
    await browse(async (page, complaints) => {
      await login(page);
      await asked("81.2.69.160", 1);
      await page.locator(".plot").waitFor();
      await page.evaluate(() => {
        window.sameDocument = true;
      });
      const before = await total(page);
      const painted = () => page.locator("path[data-country=FR]").first().evaluate((land) => getComputedStyle(land).fill);
      const plain = await painted();
      check((await requests(page, "FR")) === 0, "nothing from France yet");
      await asked("81.2.69.160", 5);
      await asked("90.0.0.7", 7);
      await asked("2a02:8100::7", 3);
      await until("the map counts France", async () => (await requests(page, "FR")) === 7);
      await until("the map counts Germany", async () => (await requests(page, "DE")) === 3);
      check((await painted()) !== plain, "France is painted");
      await until("the chart moved", async () => (await total(page)) >= before + 15);
      check(await page.evaluate(() => window.sameDocument), "the page was not loaded again");
      await until("the ticker shows it", async () => (await page.locator(".ticker tbody tr").count()) >= 15);
      // Everything is narrowed by a click, and the address bar says so.
      await page.locator("path[data-country=FR]").first().dispatchEvent("click");
      await until("only France is counted", async () => (await total(page)) === 7);
      check(new URL(page.url()).searchParams.get("country") === "FR", "the filter is in the address");
      await page.goBack();
      await until("everything is counted", async () => (await total(page)) >= before + 15);

      await scan(SCANNER);
      await page.getByRole("link", { name: /Suspects/ }).click();
      const suspect = page.locator(`[data-suspect="${SCANNER}"]`);
      await until("the scanner is a suspect", () => suspect.count());
      await suspect.click();
      check((await ask(SCANNER)) === 200, "it is let in before");
      await page.keyboard.press("b");
      await page.getByRole("button", { name: "Undo" }).waitFor();
      await until("its next request is refused", async () => (await ask(SCANNER)) === 403);
      check((await ask("90.0.0.7")) === 200, "others are not");
      await page.getByRole("button", { name: "Undo" }).click();
      await until("it is let in again", async () => (await ask(SCANNER)) === 200);
      await until("it is open again", () => suspect.count());
      check(complaints.length === 0, `a quiet console: ${complaints}`);
    });
  },

  async hostile_strings_are_only_text() {
    const hostile = "/<script>window.owned=1</script>\"'><img src=x onerror=window.owned=1>";
    const raw = [
      `GET ${encodeURI("/")}<script>window.owned=1</script>"'><img/src=x/onerror=window.owned=1> HTTP/1.1`,
      'host: "><svg/onload=window.owned=1>',
      "user-agent: <script>window.owned=1</script>\u0001\u202e{{7*7}}'\"",
      "x-forwarded-for: 90.0.0.9",
      "connection: close",
    ];
    const send = (lines) =>
      new Promise((resolve) => {
        const site = new URL(world.site);
        const socket = connect(Number(site.port), site.hostname, () => socket.end(`${lines.join("\r\n")}\r\n\r\n`, "latin1"));
        let answer = "";
        socket.on("data", (bytes) => {
          answer += bytes;
        });
        socket.on("close", () => resolve(answer));
        socket.on("error", () => resolve(answer));
      });
    await send(raw);
    // What Envoy's parser refuses is asked again with what it lets through.
    await ask("90.0.0.9", encodeURI("/a").concat("?<script>window.owned=1</script>"), {});
    await ask("90.0.0.9", "/<script>window.owned=1</script>'\"--><img/src=x/onerror=window.owned=1>", {
      host: "x\"'><svg.onload=window.owned=1>",
      "user-agent": "<script>window.owned=1</script>\t{{7*7}}'\"><img src=x onerror=window.owned=1>\u00ff",
    }).catch(() => 0);
    await ask("90.0.0.9", "/<script>window.owned=1</script><img/src=x/onerror=window.owned=1>'\"", { "user-agent": `${hostile}\u0080\u009f` });
    await browse(async (page, complaints) => {
      await login(page);
      // Another proxy in front may let through what Envoy escapes: path and host as they come.
      await page.route("**/v1/requests?*", async (route) => {
        const answer = await route.fetch();
        const body = await answer.json();
        for (const record of body.records ?? []) {
          record.path = `${hostile}\u0000\u001b\u202e`;
          record.host = `"><svg onload=window.owned=1>{{7*7}}`;
          record.rule = hostile;
        }
        await route.fulfill({ response: answer, json: body });
      });
      for (const path of ["/?path=%3Cscript%3Ewindow.owned%3D1%3C%2Fscript%3E", "/records", "/?ip=90.0.0.9", "/address?target=90.0.0.9", "/address?target=%3Cscript%3Ewindow.owned%3D1%3C%2Fscript%3E", "/suspects"]) {
        await page.goto(`${world.api}${path}`);
        await page.locator("main").waitFor();
        await page.waitForLoadState("load");
        if (path === "/records") {
          await until("the record is shown as text", async () =>
            (await page.locator("main").innerText()).includes("<script>window.owned=1</script>"),
          );
          check((await page.locator("main").innerText()).includes("\\x00\\x1b\\u202e"), "control bytes are visible");
        }
        if (path === "/?ip=90.0.0.9") {
          // Envoy escapes a path's brackets; a user agent arrives as it was sent.
          await until("both are in the lists as text", async () => {
            const text = async (list) => page.locator(`[data-top=${list}]`).innerText();
            return (await text("path")).includes("%3Cscript%3E") && (await text("user_agent")).includes("<script>");
          });
        }
        const found = await page.evaluate(() => ({
          owned: window.owned,
          violations: window.violations,
          scripts: [...document.querySelectorAll("main script, main img, main [onerror], main [onload]")].length,
        }));
        check(found.owned === undefined, `nothing ran on ${path}`);
        check(found.violations.length === 0, `no violation on ${path}: ${found.violations}`);
        check(found.scripts === 0, `no markup of a client on ${path}`);
      }
      const own = complaints.filter((text) => !/status of 400/.test(text));
      check(own.length === 0, `a quiet console: ${own}`);
    });
  },

  async what_is_held_on_an_address_is_exported_and_erased() {
    const visitor = "90.0.0.77";
    await asked(visitor, 4, "/of-the-visitor");
    await asked("90.0.0.78", 2, "/of-another");
    await browse(async (page, complaints, context) => {
      await login(page);
      const held = async (ip) => {
        const answer = await context.request.get(`${world.api}/v1/requests?ip=${ip}`);
        return (await answer.json()).records.length;
      };
      await until("both are stored", async () => (await held(visitor)) === 4 && (await held("90.0.0.78")) === 2);
      // More than a page of records, so that pages have to be put together.
      await page.route(/\/v1\/subjects\/.*limit=/, (route) =>
        route.continue({ url: route.request().url().replace(/limit=\d+/, "limit=3") }),
      );
      await page.goto(`${world.api}/address?target=${visitor}`);
      const saved = page.waitForEvent("download");
      await page.getByRole("button", { name: "Export" }).click();
      const file = await saved;
      check(file.suggestedFilename() === `subject-${visitor}.json`, `its name: ${file.suggestedFilename()}`);
      const all = JSON.parse(readFileSync(await file.path(), "utf8"));
      check(all.ip === visitor && all.next === null, "it is whole");
      check(all.records.length === 4, `four records, not ${all.records.length}`);
      check(all.records.every((record) => record.path === "/of-the-visitor"), "of the visitor alone");
      await page.getByRole("button", { name: "Erase" }).click();
      const dialog = page.getByRole("dialog");
      await dialog.getByRole("button", { name: "Cancel" }).click();
      check((await held(visitor)) === 4, "nothing is erased without a yes");
      await page.getByRole("button", { name: "Erase" }).click();
      await dialog.getByRole("button", { name: "Erase" }).click();
      await page.getByText(/Erased: 4 records/).waitFor();
      // The page looks at it no more, which the audit log would note.
      await until("the page is left", () => !page.url().includes(visitor));
      const audit = await (await context.request.get(`${world.api}/v1/audit`)).text();
      check(audit.includes("subject.erase") && !audit.includes(visitor), "the audit log names it no more");
      check((await held(visitor)) === 0, "it is gone");
      check((await held("90.0.0.78")) === 2, "the other one stays");
      check(complaints.length === 0, `a quiet console: ${complaints}`);
    });
  },

  async hidden_addresses_are_counted_as_what_they_are() {
    await asked("90.0.0.7", 5);
    await asked("90.0.1.9", 2);
    await browse(async (page, complaints) => {
      await login(page);
      const list = (title) => page.locator(".top").filter({ has: page.getByRole("heading", { name: title, exact: true }) });
      const rows = list("Addresses, hidden").locator("li");
      await until("two pseudonyms are listed", async () => (await rows.count()) === 2);
      const marked = await list("Addresses, hidden").innerText();
      check(/pseudonyms of key [0-9a-f]{8}/.test(marked), `they are marked: ${marked}`);
      check((await list("Addresses").count()) === 0, "there is no list of addresses");
      check((await list("Networks, hidden").locator("li").count()) === 2, "their networks are told apart");
      check(!(await page.locator("body").innerText()).includes("90.0.0.7"), "no address is shown");
      const name = await rows.first().locator(".key").innerText();
      check(/^[0-9.]+$/.test(name) && name !== "90.0.0.7", `a pseudonym: ${name}`);
      await rows.first().getByRole("button").click();
      await until("only its requests are counted", async () => (await total(page)) === 5);
      const at = new URL(page.url()).searchParams;
      check(at.get("form") === "pseudonym" && at.get("ip") === name, "the filter is in the address");
      await page.getByRole("link", { name: "Records" }).click();
      await until("its records are found", async () => (await page.locator("main tbody tr").count()) === 5);
      check((await page.locator("main tbody tr").first().innerText()).includes("pseudonym"), "they are marked there, too");
      await page.getByRole("button", { name: /^Pseudonym/ }).click();
      await until("all are back", async () => (await page.locator("main tbody tr").count()) === 7);
      check(complaints.length === 0, `a quiet console: ${complaints}`);
    });
  },

  async the_span_is_zoomed_and_compared_and_the_stream_comes_back() {
    await asked("90.0.0.7", 6);
    await browse(async (page, complaints) => {
      await login(page);
      await until("it is counted", async () => (await total(page)) >= 6);
      await page.getByLabel("compare").check();
      await until("the period before is named", async () => (await page.locator(".tiles").innerText()).includes("before"));
      check(new URL(page.url()).searchParams.get("compare") === "true", "comparing is in the address");
      const plot = await page.locator(".plot .u-over").boundingBox();
      await page.mouse.move(plot.x + plot.width * 0.5, plot.y + 40);
      await page.mouse.down();
      await page.mouse.move(plot.x + plot.width - 2, plot.y + 60, { steps: 5 });
      await page.mouse.up();
      const span = () => {
        const at = new URL(page.url()).searchParams;
        return Date.parse(at.get("until")) - Date.parse(at.get("since"));
      };
      await until("the half is looked at", () => Math.abs(span() - 1_800_000) < 120_000);
      const half = span();
      await page.getByRole("button", { name: "zoom out" }).click();
      await until("twice as much is", () => span() === 2 * half);
      await page.goBack();
      await until("the browser goes back", () => span() === half);
      await page.getByRole("button", { name: "back to now" }).click();
      check(!new URL(page.url()).searchParams.has("until"), "it is live again");
      const ticker = page.locator(".ticker");
      await ticker.locator(".live").waitFor();
      // The stream can't be had for a while, as when the service starts anew.
      await page.route("**/v1/requests/live*", (route) => route.abort());
      await ticker.getByRole("button", { name: "Pause" }).click();
      await ticker.getByRole("button", { name: "Follow" }).click();
      await ticker.locator(".connecting").waitFor();
      await page.unroute("**/v1/requests/live*");
      await ticker.locator(".live").waitFor();
      await asked("90.0.0.9", 1, "/after-the-break");
      await ticker.getByText("/after-the-break").waitFor();
      // Nothing answers: it is said once, what was there stays, and it goes on by itself.
      await page.route("**/v1/**", (route) => route.abort());
      await page.getByText("The control plane can't be reached since").waitFor();
      check((await page.locator(".tiles").count()) === 1, "the numbers stay");
      await page.unroute("**/v1/**");
      await until("it is well again", async () => (await page.locator(".banner").count()) === 0);
      const own = complaints.filter((text) => !/net::ERR_FAILED/.test(text));
      check(own.length === 0, `a quiet console: ${own}`);
    });
  },

  async a_feed_is_added_withheld_taken_and_removed() {
    const listed = "90.0.0.7";
    mkdirSync(world.feeds, { recursive: true });
    const publish = (count) =>
      writeFileSync(join(world.feeds, "list.txt"), Array.from({ length: count }, (_, at) => `90.0.${at >> 8}.${at & 255}\n`).join(""));
    publish(400);
    await browse(async (page, complaints) => {
      await login(page);
      await page.goto(`${world.api}/settings`);
      await page.getByRole("button", { name: "Add a feed" }).click();
      const dialog = page.getByRole("dialog");
      const add = async (location) => {
        await dialog.getByLabel("Location").fill(location);
        await dialog.getByRole("button", { name: "Add", exact: true }).click();
      };
      await dialog.getByLabel("Name").fill("drop");
      await dialog.getByLabel("Whose work it is").fill("The Publisher");
      await add("http://127.0.0.1/list.txt");
      await dialog.getByText("127.0.0.1 is a private or reserved address").waitFor();
      await add("file:list.txt");
      const row = page.getByRole("region", { name: "Feeds" }).locator("tbody tr");
      const says = (text) => until(`the feed's row says ${text}`, async () => (await row.innerText()).includes(text));
      await row.waitFor();
      const fetched = row.getByRole("button", { name: "Fetch drop now" });
      await fetched.click();
      await says("400");
      check((await row.innerText()).includes("The Publisher"), "whose work it is");
      await until("who is listed is refused", async () => (await ask(listed)) === 403);
      // Less than half of it: a person is asked.
      publish(10);
      await fetched.click();
      await says("it has 10 entries, the last good one has 400: less than half");
      check((await ask("90.0.1.9")) === 403, "the last good one is in force");
      await row.getByRole("button", { name: "Take it" }).click();
      await until("it is taken", async () => (await row.getByText("withheld").count()) === 0);
      await until("who is listed no more is let in", async () => (await ask("90.0.1.9")) === 200);
      check((await ask(listed)) === 403, "who is still listed is not");
      await row.getByRole("button", { name: "Remove drop" }).click();
      check((await dialog.innerText()).includes("Its 10 decisions go with it."), "what goes with it is said");
      await dialog.getByRole("button", { name: "Remove", exact: true }).click();
      await page.getByText("No list is fetched from elsewhere.").waitFor();
      await until("everybody is let in", async () => (await ask(listed)) === 200);
      const own = complaints.filter((text) => !/status of 422/.test(text));
      check(own.length === 0, `a quiet console: ${own}`);
    });
  },

  async a_session_that_ends_brings_the_login_and_the_page_back() {
    await browse(async (page, _, context) => {
      await login(page);
      await page.goto(`${world.api}/records?since=6h&country=FR`);
      await page.locator("main .panel").first().waitFor();
      await context.clearCookies();
      await page.getByText("The session has ended").waitFor();
      await page.getByLabel("Token").fill(world.admin);
      await page.getByRole("button", { name: "Log in" }).click();
      await page.getByRole("heading", { name: "Records" }).waitFor();
      check(new URL(page.url()).searchParams.get("country") === "FR", "the view is the same");
    });
  },

  async no_serious_accessibility_problem() {
    const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
    await asked("90.0.0.7", 3);
    await scan(SCANNER);
    const seen = [];
    for (const colorScheme of ["light", "dark"]) {
      await browse(
        async (page, _, context) => {
          const look = async (name) => {
            // Through the debugger: the page's own policy forbids it to anybody else.
            const { violations } = await page.evaluate(
              ([code]) => {
                // biome-ignore lint/security/noGlobalEval: the checker itself
                window.eval(code);
                return window.axe.run(document, { resultTypes: ["violations"] });
              },
              [axe],
            );
            const bad = violations.filter((found) => ["serious", "critical"].includes(found.impact));
            seen.push(`${name} ${colorScheme}: ${violations.length} minor`);
            check(
              bad.length === 0,
              `${name} in ${colorScheme} has none, found ${bad
                .map((found) => `${found.id}: ${found.nodes.slice(0, 3).map((node) => `${node.target} ${node.failureSummary}`)}`)
                .join("\n")}`,
            );
          };
          await page.goto(`${world.api}/`);
          await page.getByLabel("Token").waitFor();
          await look("login");
          await login(page);
          await until("a suspect", async () => {
            const answer = await context.request.get(`${world.api}/v1/suspects`);
            return (await answer.json()).total > 0;
          });
          for (const path of PAGES) {
            const target = path.endsWith("=") ? `${path}${SCANNER}` : path;
            await page.goto(`${world.api}${target}`);
            await page.locator("main .panel").first().waitFor();
            await until("it is loaded", async () => (await page.getByText("Loading…").count()) === 0);
            await look(target);
          }
          await page.goto(`${world.api}/`);
          await page.locator(".map").waitFor();
          await page.locator(".map").getByRole("button", { name: "Table" }).click();
          await page.locator(".chart").getByRole("button", { name: "Table" }).click();
          await look("tables");
          await page.goto(`${world.api}/decisions`);
          await page.getByRole("button", { name: "Add" }).click();
          await page.getByRole("dialog").waitFor();
          await look("dialog");
        },
        { colorScheme, bypassCSP: true },
      );
    }
    console.log(seen.join("\n"));
  },

  async a_viewer_looks_and_does_not_touch() {
    await asked("90.0.0.7", 3);
    await scan(SCANNER);
    await browse(async (page, _, context) => {
      // Whatever reaches the browser, shown or not.
      const leaks = [];
      page.on("response", async (response) => {
        if (response.headers()["content-type"]?.startsWith("text/event-stream")) return;
        const text = await response.text().catch(() => "");
        for (const address of ["90.0.0.7", SCANNER]) {
          if (new RegExp(`${address.replaceAll(".", "\\.")}(?![0-9])`).test(text)) leaks.push(`${response.url()} tells ${address}`);
        }
      });
      await login(page, world.viewer);
      await page.locator("[data-top=ip]").first().waitFor();
      await until("records come", async () => {
        await ask("90.0.0.7");
        return (await page.locator(".ticker tbody tr").count()) > 0;
      });
      const id = await until("a suspect", async () => {
        const answer = await context.request.get(`${world.api}/v1/suspects`);
        return (await answer.json()).suspects[0]?.id;
      });
      for (const path of PAGES) {
        await page.goto(`${world.api}${path.endsWith("=") ? `${path}90.0.0.0/24` : path}`);
        await page.locator("main .panel").first().waitFor();
        await until("it is loaded", async () => (await page.getByText("Loading…").count()) === 0);
        // Attributes and what is hidden, too: tooltips, links, names.
        const text = await page.content();
        for (const address of ["90.0.0.7", SCANNER]) {
          check(!text.includes(address), `${path} shows no ${address}`);
        }
        for (const name of ["Block", "Dismiss", "Allow", "Add", "Import", "Remove", "Enforce", "To shadow", "Make one", "Export", "Erase", "Decide", "Refuse a region", "Run now", "Test"]) {
          check((await page.getByRole("button", { name, exact: true }).count()) === 0, `${path} has no ${name}`);
        }
      }
      await page.goto(`${world.api}/records`);
      await page.locator("main tbody tr").first().waitFor();
      check((await page.locator("main").innerText()).includes("90.0.0.0/24"), "the network is shown");
      await page.goto(`${world.api}/suspects`);
      await page.locator("[data-suspect]").first().waitFor();
      await page.keyboard.press("b");
      const refused = await page.evaluate(async (id) => {
        const act = (method, path, body) =>
          fetch(path, {
            method,
            headers: { "x-ipwarden-dashboard": "1", "content-type": "application/json" },
            body: JSON.stringify(body),
          }).then((answer) => answer.status);
        return Promise.all([
          act("POST", `/v1/suspects/${id}/confirm`, {}),
          act("POST", "/v1/decisions", { targets: ["90.0.0.7"], action: "block" }),
          act("PATCH", "/v1/limits/login", { mode: "shadow" }),
          act("POST", "/v1/tokens", { name: "mine", role: "admin" }),
        ]);
      }, id);
      check(refused.every((status) => status === 403), `everything is refused: ${refused}`);
      check((await ask(SCANNER)) === 200, "nobody was blocked");
      const raw = await page.evaluate(() => fetch("/v1/requests?limit=50").then((answer) => answer.text()));
      check(raw.includes("90.0.0.0") && !raw.includes("90.0.0.7"), "the API masks, too");
      const streamed = page.evaluate(async () => {
        const stop = new AbortController();
        const answer = await fetch("/v1/requests/live", { signal: stop.signal });
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        window.streaming = true;
        let text = "";
        while (!text.includes("/for-the-stream")) text += (await reader.read()).value;
        stop.abort();
        return text;
      });
      await until("the stream is followed", () => page.evaluate(() => window.streaming));
      await ask("90.0.0.7", "/for-the-stream");
      const events = await streamed;
      check(events.includes("90.0.0.0") && !events.includes("90.0.0.7"), "the stream masks, too");
      await page.goto(`${world.api}/records`);
      await page.getByRole("link", { name: "90.0.0.0/24" }).first().click();
      await page.locator(".about").waitFor();
      check(decodeURIComponent(page.url()).includes("target=90.0.0.0/24"), "a link leads to the network");
      check(leaks.length === 0, `nothing tells an address: ${leaks}`);
    });
  },
};

const show = shows[process.argv[2]];
if (!show) throw new Error(`no show ${process.argv[2]}: expected one of ${Object.keys(shows)}`);
await show();
