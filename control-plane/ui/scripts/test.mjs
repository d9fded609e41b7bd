// Runs the unit tests and ends with a line that .ci/test adds up.
import { startVitest } from "vitest/node";

const vitest = await startVitest("test", [], { run: true, watch: false });
const states = vitest.state
  .getTestModules()
  .flatMap((module) => [...module.children.allTests()])
  .map((test) => test.result().state);
const count = (state) => states.filter((found) => found === state).length;
const broken = vitest.state.getUnhandledErrors().length + vitest.state.getTestModules().filter((module) => !module.ok()).length;
const failed = Math.max(count("failed"), broken);
console.log(`test result: ${failed ? "FAILED" : "ok"}. ${count("passed")} passed; ${failed} failed; ${count("skipped")} ignored;`);
await vitest.close();
process.exit(failed ? 1 : 0);
