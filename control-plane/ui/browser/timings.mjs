// How long a person waits for each view, in a real browser, on the records of a data directory:
//   node browser/timings.mjs DIRECTORY [DAYS]
// Run by `make seed-demo`. A view is there when nothing on its page waits for an answer any more.
import { resolve } from "node:path";
import { browse, login, serving, world } from "./lib.mjs";

const [directory, days = "7"] = process.argv.slice(2);
if (!directory) throw new Error("expected a data directory: node browser/timings.mjs DIRECTORY [DAYS]");
const RUNS = 5;
const data = resolve(directory);
const views = [
  ["overview, 1 h", "/"],
  ["overview, 24 h, compared", "/?since=24h&compare=true"],
  ["overview, everything", `/?since=${days}d`],
  ["overview, everything, one country", `/?since=${days}d&country=FR`],
  ["overview, everything, one path", `/?since=${days}d&path=/login`],
  ["suspects", "/suspects"],
  ["decisions", "/decisions"],
  ["records, everything", `/records?since=${days}d`],
  ["address", `/address?target=45.155.0.3&since=${days}d`],
  ["network /16", `/address?target=45.155.0.0/16&since=${days}d`],
  ["limits, everything", `/limits?since=${days}d`],
  ["fleet", "/fleet"],
  ["settings", "/settings"],
];
const middle = (times) => times.sort((a, b) => a - b)[times.length >> 1];
const ms = (time) => `${Math.round(time)} ms`.padStart(9);

/**
 * When a view is there, asked in the page itself at each frame: what playwright needs is not
 * counted. With a path it goes there as a click on a link would, and counts from then.
 */
const wait = (path) =>
  new Promise((done) => {
    const start = path ? performance.now() : 0;
    const before = document.querySelector("main#main > h1")?.textContent;
    if (path) {
      history.pushState(null, "", path);
      dispatchEvent(new PopStateEvent("popstate"));
    }
    const look = () => {
      const main = document.querySelector("main#main");
      const paint = performance.getEntriesByName("first-contentful-paint")[0];
      const isThere =
        paint &&
        main?.querySelector(".panel") &&
        !(path && main.querySelector("h1")?.textContent === before) &&
        !main.innerText.includes("Loading…") &&
        !main.querySelector('[aria-busy="true"]');
      if (isThere) done({ there: performance.now() - start, paint: paint.startTime });
      else requestAnimationFrame(look);
    };
    look();
  });

await serving("release", data, async () => {
  await browse(async (page) => {
    await login(page);
    console.log(`${"".padEnd(40)}  opened in a new page:          from another page:`);
    console.log(`${"view".padEnd(40)}    paint     there     worst     there     worst`);
    for (const [name, path] of views) {
      const opened = [];
      const switched = [];
      for (let run = 0; run < RUNS; run += 1) {
        await page.goto("about:blank");
        await page.goto(`${world.api}${path}`, { waitUntil: "commit" });
        opened.push(await page.evaluate(wait));
        await page.goto("about:blank");
        await page.goto(`${world.api}${name === "fleet" ? "/settings" : "/fleet"}`, { waitUntil: "commit" });
        await page.evaluate(wait);
        switched.push((await page.evaluate(wait, path)).there);
      }
      const there = opened.map((one) => one.there);
      const figures = [middle(opened.map((one) => one.paint)), middle(there), Math.max(...there), middle(switched), Math.max(...switched)];
      console.log(name.padEnd(40) + figures.map(ms).join(" "));
    }
  });
});
