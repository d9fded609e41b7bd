import { defineConfig } from "vite";

// No inlined assets and no preload helper: the page's policy allows neither inline script nor
// data URLs that run.
export default defineConfig({
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "dist",
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: "es2022",
    chunkSizeWarningLimit: 400,
  },
  server: { proxy: { "/v1": { target: "http://127.0.0.1:8088", changeOrigin: false } } },
});
