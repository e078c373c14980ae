// Builds dist/server.js and dist/client.js; with --tests also the tests, for Nodes that cannot run TypeScript.
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename } from "node:path";
import { build, transformSync } from "esbuild";

const tests = process.argv.includes("--tests");

/** The page that draws a result: the client carries it as text, without comments and indentation. */
const REPORT_PAGE = JSON.stringify(
  readFileSync("report.html", "utf8").replace(
    /(?<=<(style|script)>)[^]*?(?=<\/\1>)/g,
    (text, kind) =>
      transformSync(text, {
        loader: kind === "style" ? "css" : "js",
        minify: kind === "style",
        minifyWhitespace: true,
        minifySyntax: true,
      }).code,
  ),
);
const shared = { bundle: true, platform: "node", target: "node20", charset: "utf8", logLevel: "warning", write: false };

const { metafile, outputFiles } = await build({
  ...shared,
  entryPoints: ["server.ts", "client.ts", "protocol.ts"], // the last for report.mjs, where Node reads no TypeScript
  outdir: "dist",
  format: "cjs",
  define: {
    // A bundle is always the program itself; in CommonJS import.meta.main would be undefined.
    "import.meta.main": "true",
    "import.meta.url": '""',
    REPORT_PAGE,
  },
  // ws runs without its optional native helpers.
  external: ["bufferutil", "utf-8-validate"],
  legalComments: "none",
  // prom-client asks OpenTelemetry for exemplars, which are off: any module stands in for 67 KB.
  alias: { "@opentelemetry/api": "node:util" },
  // Without comments and indentation, but with every name, and in lines: stack traces must read.
  minifyWhitespace: true,
  minifySyntax: true,
  lineLimit: 120,
  metafile: true,
});

// The licences of what is bundled go wherever the bundles go.
const inputs = Object.keys(metafile.inputs).map((path) => /^node_modules\/([^@/]+|@[^/]+\/[^/]+)/.exec(path)?.[1]);
const packages = [...new Set(inputs)].filter((name) => name !== undefined).sort();
const licences = packages.map((name) => {
  const { version } = JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8"));
  const file = readdirSync(`node_modules/${name}`).find((entry) => /^licen[cs]e/i.test(entry));
  return `${name} ${version}\n\n${readFileSync(`node_modules/${name}/${file}`, "utf8").trim()}\n`;
});
publish("dist", [
  ...outputFiles,
  { path: "LICENSES.txt", text: licences.join(`\n${"-".repeat(80)}\n\n`) },
  // CommonJS, because a file that stands alone is CommonJS to Node; in this folder package.json says otherwise.
  { path: "package.json", text: '{ "type": "commonjs" }\n' },
]);

if (tests) {
  const { outputFiles } = await build({
    ...shared,
    entryPoints: readdirSync("test").filter((name) => name.endsWith(".test.ts")).map((name) => `test/${name}`),
    outdir: "dist/test",
    outExtension: { ".js": ".mjs" },
    format: "esm",
    packages: "external",
    define: { "import.meta.main": "false", REPORT_PAGE },
  });
  publish("dist/test", outputFiles);
}

/**
 * Makes these the files of a folder. Programs that run from it, and another build at the same time, must not notice: what
 * has changed is written beside its place and renamed.
 */
function publish(folder, files) {
  mkdirSync(folder, { recursive: true });
  const before = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isFile()).map(({ name }) => name);
  const names = files.map(({ path }) => basename(path));
  for (const [index, { text }] of files.entries()) {
    const [place, beside] = [`${folder}/${names[index]}`, `${folder}/.${names[index]}.${process.pid}`];
    if (before.includes(names[index]) && readFileSync(place, "utf8") === text) continue;
    writeFileSync(beside, text);
    renameSync(beside, place);
  }
  // What begins with a dot is another build's, which is about to rename it.
  const stale = before.filter((name) => !names.includes(name) && !name.startsWith("."));
  for (const name of stale) rmSync(`${folder}/${name}`, { force: true });
}
