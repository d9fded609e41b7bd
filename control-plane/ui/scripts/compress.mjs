// Compressed forms beside each built file, made once, with all the time it takes.
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, gzipSync, constants } from "node:zlib";

const LIMIT = 300 * 1024;
let sum = 0;
const walk = (directory) => {
  for (const name of readdirSync(directory)) {
    const path = join(directory, name);
    if (statSync(path).isDirectory()) walk(path);
    else if (/\.(html|js|css|svg|json)$/.test(name)) {
      const bytes = readFileSync(path);
      const gzip = gzipSync(bytes, { level: 9 });
      const brotli = brotliCompressSync(bytes, {
        params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: bytes.length },
      });
      writeFileSync(`${path}.gz`, gzip);
      writeFileSync(`${path}.br`, brotli);
      sum += gzip.length;
    }
  }
};
walk("dist");
console.log(`dashboard: ${(sum / 1024).toFixed(1)} KiB gzip in all (at most ${LIMIT / 1024})`);
if (sum > LIMIT) process.exit(1);
