// Builds dist/server.js, dist/client.js and the package's command; with --tests also the tests, for Nodes that cannot run
// TypeScript.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { basename, resolve } from "node:path";
import { build, transformSync } from "esbuild";

const tests = process.argv.includes("--tests");

/** The page that draws a result: the client carries it as text, as short as it can be said. */
const REPORT_PAGE = JSON.stringify(
  readFileSync("report.html", "utf8").replace(
    /(?<=<(style|script)>)[^]*?(?=<\/\1>)/g,
    (text, kind) =>
      transformSync(text, {
        loader: kind === "style" ? "css" : "js",
        minify: true,
      }).code,
  ),
);
/** The package's commands, each with what starts it in the command's own process, what it is for, and an example. */
const COMMANDS = {
  rehearse: [
    'import("./rehearse.mjs")',
    "play the end of a pod on this machine, with your own server or with ours",
    "--server 'node my-server.js' --path /socket",
  ],
  drill: [
    'import("./drill.mjs")',
    "disrupt a pod on a cluster, and judge what becomes of its sessions",
    "--disrupt rollout --target deployment/shop-api --url ws://shop-api/socket",
  ],
  report: [
    'require("./protocol.ts").run(require("./report.mjs").main)',
    "show a result as text, page, JUnit or Markdown, or compare two",
    "drill.json -o drill.html",
  ],
  server: [
    "import(`${FOLDER_URL}/server.js`)",
    "stream numbered messages, and drain on SIGTERM as it should be done",
    "--port 8080",
  ],
  client: [
    "import(`${FOLDER_URL}/client.js`)",
    "hold sessions with a server, and judge each handover",
    "--url ws://localhost:8080/ws",
  ],
};
const shared = { bundle: true, platform: "node", target: "node20", charset: "utf8", logLevel: "warning", write: false };
const { name: NAME } = JSON.parse(readFileSync("package.json", "utf8"));
/** Of our own package.json only name and version are wanted. */
const shortManifest = {
  name: "manifest",
  setup: ({ onLoad }) =>
    onLoad({ filter: /package\.json$/ }, ({ path }) => {
      if (path !== resolve("package.json")) return;
      const { name, version } = JSON.parse(readFileSync(path, "utf8"));
      return { contents: JSON.stringify({ name, version }), loader: "json" };
    }),
};
/** What of prom-client nobody here uses: its index takes everything along. */
const unused = {
  name: "unused",
  setup: ({ onLoad }) =>
    onLoad({ filter: /prom-client.lib.(cluster|pushgateway|summary)\.js$/ }, () => ({ contents: "" })),
};
const bundle = {
  ...shared,
  plugins: [shortManifest, unused],
  outdir: "dist",
  legalComments: "none",
  // prom-client asks OpenTelemetry for exemplars, which are off: any module stands in for its 80 KB.
  alias: { "@opentelemetry/api": "node:util" },
  // Without comments and indentation, but with every name, and in lines: stack traces must read.
  minifyWhitespace: true,
  minifySyntax: true,
  lineLimit: 240,
  metafile: true,
};

const roles = await build({
  ...bundle,
  entryPoints: ["server.ts", "client.ts", "protocol.ts"], // the last for report.mjs, where Node reads no TypeScript
  format: "cjs",
  define: {
    // A bundle is always the program itself; in CommonJS import.meta.main would be undefined.
    "import.meta.main": "true",
    "import.meta.url": '""',
    REPORT_PAGE,
  },
  // ws runs without its optional native helpers.
  external: ["bufferutil", "utf-8-validate"],
});

// An ES module, because a tool may await while it loads. Tools look beside themselves for dist/ and deploy/: in the package's
// command they stand where dist/ stands, and take the contract from the bundle.
const loads = Object.entries(COMMANDS).map(([name, [load]]) => `${name}: () => ${load}`);
const commands = await build({
  ...bundle,
  stdin: {
    contents: `(${command})({ ${loads} }, ${JSON.stringify(usage())}, "${NAME}")`,
    sourcefile: "command",
    resolveDir: ".",
  },
  entryNames: "command",
  outExtension: { ".js": ".mjs" },
  format: "esm",
  banner: {
    js: `#!/usr/bin/env node
import { createRequire } from "node:module";
const require = createRequire(import.meta.url);
const FOLDER_URL = new URL(".", import.meta.url).href.slice(0, -1);`,
  },
  define: {
    "import.meta.main": "false",
    "import.meta.url": "FOLDER_URL",
    REPORT_PAGE,
  },
});

// The licences of what is bundled go wherever the bundles go.
const bundled = { ...roles.metafile.inputs, ...commands.metafile.inputs };
const inputs = Object.keys(bundled).map((path) => /^node_modules\/([^@/]+|@[^/]+\/[^/]+)/.exec(path)?.[1]);
const packages = [...new Set(inputs)].filter((name) => name !== undefined).sort();
const licences = packages.map((name) => {
  const { version } = JSON.parse(readFileSync(`node_modules/${name}/package.json`, "utf8"));
  const file = readdirSync(`node_modules/${name}`).find((entry) => /^licen[cs]e/i.test(entry));
  return `${name} ${version}\n\n${readFileSync(`node_modules/${name}/${file}`, "utf8").trim()}\n`;
});
// What each program says to --help: rehearse.mjs and drill.mjs hand its settings through, and need not start it to know them;
// nor does a build of what has not changed.
const help = ["server", "client"].map((role) => {
  const { text: input } = roles.outputFiles.find(({ path }) => basename(path) === `${role}.js`);
  const [program, said] = [`dist/${role}.js`, `dist/${role}.txt`];
  const isKnown = existsSync(program) && existsSync(said) && readFileSync(program, "utf8") === input;
  const text = isKnown
    ? readFileSync(said, "utf8")
    : execFileSync(process.execPath, ["-", "--help"], { input, encoding: "utf8" });
  return { path: `${role}.txt`, text };
});
publish("dist", [
  ...roles.outputFiles,
  ...help,
  ...commands.outputFiles,
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

function usage() {
  const rows = Object.entries(COMMANDS);
  return `Usage: ${NAME} COMMAND [settings]

Tells, with a verdict and numbers, whether long-lived connections survive the end of a pod.

${rows.map(([name, [, purpose]]) => `  ${name.padEnd(10)} ${purpose}`).join("\n")}

  --help     print this and exit (-h); after a command: its settings
  --version  print the version and exit

${rows.map(([name, [, , example]]) => `  ${NAME} ${name} ${example}`).join("\n")}

Exit 0: every handover was graceful; 1: one was not; 2: it could not run.
`;
}

/**
 * The package's command itself; only its text is used here. What the first word names runs in this very process: its exit
 * code and its signals are the program's own.
 */
function command(loads, usage, name) {
  const [word] = process.argv.slice(2);
  if (Object.hasOwn(loads, word)) {
    process.argv.splice(1, 2, name); // so that its help says how it was called
    if (process.env.npm_command === "exec") hearThroughNpx();
    loads[word]();
  } else if (word === undefined || word === "--help" || word === "-h") {
    process.stdout.write(usage);
  } else if (word === "--version") {
    process.stdout.write(`${require("./protocol.ts").VERSION}\n`);
  } else {
    const what = word.startsWith("-") ? "flag" : "command";
    process.stderr.write(`Unknown ${what} ${JSON.stringify(word)}: see --help\n`);
    process.exitCode = 2;
  }

  /**
   * A terminal's Ctrl-C reaches this process, and npx, which sends it again: that is one signal, not a second one. And a
   * SIGTERM to npx may end but the shell between: who has lost that has been told to end.
   */
  function hearThroughNpx() {
    const { emit, ppid } = process;
    const heardAt = {};
    process.emit = (name, ...values) => {
      if (name === "SIGINT" || name === "SIGTERM") {
        const last = heardAt[name] ?? -Infinity;
        heardAt[name] = performance.now();
        if (heardAt[name] - last < 500) return true;
        process.on(name, () => {}); // once nobody listens any more, the second one would end the process
      }
      return emit.call(process, name, ...values);
    };
    const watch = setInterval(() => {
      if (process.ppid === ppid) return;
      clearInterval(watch);
      if (Object.keys(heardAt).length === 0) process.kill(process.pid, "SIGTERM");
    }, 100);
    watch.unref();
  }
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
