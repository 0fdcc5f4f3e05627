/* One script with what the page draws of plotly.js, minified, and compressed ahead for browsers that take Brotli. */
import { build } from "esbuild";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { brotliCompressSync, constants } from "node:zlib";

const folder = new URL("../static/built/", import.meta.url);
const { version } = JSON.parse(readFileSync(new URL("node_modules/plotly.js/package.json", import.meta.url)));

mkdirSync(folder, { recursive: true });
const { outputFiles } = await build({
  entryPoints: ["plotly.cjs"],
  bundle: true,
  minify: true,
  write: false,
  outdir: "built",
  format: "iife",
  globalName: "Plotly",
  target: "es2020",
  define: { global: "window" },
  loader: { ".css": "empty" },
  legalComments: "none",
  banner: { js: `/* plotly.js v${version}, part of it; MIT licence, Copyright Plotly, Inc. */` },
});
const script = Buffer.from(outputFiles[0].contents);
const packed = brotliCompressSync(script, {
  params: { [constants.BROTLI_PARAM_QUALITY]: 11, [constants.BROTLI_PARAM_SIZE_HINT]: script.length },
});
writeFileSync(new URL("plotly.min.js", folder), script);
writeFileSync(new URL("plotly.min.js.br", folder), packed);
console.log(`static/built/plotly.min.js: plotly.js ${version}, ${script.length} bytes, ${packed.length} with Brotli`);
