// Builds dist/server.js and dist/client.js; with --tests also the tests, for Nodes that cannot run TypeScript.
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { build, transformSync } from "esbuild";

const tests = process.argv.includes("--tests");
rmSync("dist", { recursive: true, force: true });
mkdirSync("dist");

// CommonJS, because a file that stands alone is CommonJS to Node; in this folder package.json says otherwise.
writeFileSync("dist/package.json", '{ "type": "commonjs" }\n');

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
const shared = { bundle: true, platform: "node", target: "node20", charset: "utf8", logLevel: "warning" };

const { metafile } = await build({
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
writeFileSync("dist/LICENSES.txt", licences.join(`\n${"-".repeat(80)}\n\n`));

if (tests) {
  await build({
    ...shared,
    entryPoints: readdirSync("test").filter((name) => name.endsWith(".test.ts")).map((name) => `test/${name}`),
    outdir: "dist/test",
    outExtension: { ".js": ".mjs" },
    format: "esm",
    packages: "external",
    define: { "import.meta.main": "false", REPORT_PAGE },
  });
}
