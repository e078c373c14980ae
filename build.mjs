// Builds dist/server.js and dist/client.js; with --tests also the tests, for Nodes that cannot run TypeScript.
import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { build } from "esbuild";

const tests = process.argv.includes("--tests");
rmSync("dist", { recursive: true, force: true });
mkdirSync("dist");

// CommonJS, because a file that stands alone is CommonJS to Node; in this folder package.json says otherwise.
writeFileSync("dist/package.json", '{ "type": "commonjs" }\n');

const shared = { bundle: true, platform: "node", target: "node20", charset: "utf8", logLevel: "warning" };

await build({
  ...shared,
  entryPoints: ["server.ts", "client.ts"],
  outdir: "dist",
  format: "cjs",
  // A bundle is always the program itself; in CommonJS import.meta.main would be undefined.
  define: { "import.meta.main": "true" },
  // ws runs without its optional native helpers.
  external: ["bufferutil", "utf-8-validate"],
  legalComments: "none",
});

if (tests) {
  await build({
    ...shared,
    entryPoints: readdirSync("test").filter((name) => name.endsWith(".test.ts")).map((name) => `test/${name}`),
    outdir: "dist/test",
    outExtension: { ".js": ".mjs" },
    format: "esm",
    packages: "external",
    define: { "import.meta.main": "false" },
  });
}
