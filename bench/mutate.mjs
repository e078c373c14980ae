/**
 * Tests the tests: changes one place of protocol.ts's pure parts at a time (a comparison, a constant, a condition, a
 * statement) and runs the pure tests on it. A change that no test notices is a test that is missing, unless it changes nothing.
 *
 * ```
 * node bench/mutate.mjs [pattern of section headings]
 * ```
 *
 * @module
 */
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import process from "node:process";
import { Worker } from "node:worker_threads";
import { build } from "esbuild";

/** The headings of the sections that are pure. */
const SECTIONS = new RegExp(process.argv[2] ?? "^(Frames|Ledger|Judgement|Evidence|Diagnosis|Numbers)");
/** The files whose tests judge; those of their suites that start processes are left out. */
const TESTS = ["test/protocol.test.ts", "test/kubernetes.test.ts"];
const PROCESSES = ["a drill"];
/** Least share of the mutants that must be noticed. */
const LEAST_KILLED = 0.9;
/** Longest time for one mutant, in ms: some run for ever. It is many times that of the tests on the true file. */
const PATIENCE_MS = 20_000;

/** Changes that change nothing, by the line's text and the change, and why. */
const EQUIVALENTS = JSON.parse(readFileSync("bench/equivalents.json", "utf8"));

const source = readFileSync("protocol.ts", "utf8");

/** The source with comments, and the contents of texts and regular expressions, blanked: what is left is code. */
function codeOf(text) {
  const blank = (found) => found.replace(/[^\n]/g, " ");
  const parts =
    /\/\*[^]*?\*\/|\/\/[^\n]*|"(?:\\.|[^"\\\n])*"|`(?:\\.|[^`\\])*`|(?<=[(=,:]\s*|return )\/(?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\\n[])+\/[a-z]*/g;
  return text.replace(parts, (found) => {
    if (found[0] !== "`") return blank(found);
    // What a template computes is code, too.
    return found.replace(/\$\{[^{}]*\}|[^]/g, (part) => part.length > 1 ? `  ${part.slice(2, -1)} ` : blank(part));
  });
}

/** What is replaced by what. Operators stand between spaces, which the formatter sees to; so types are left alone. */
const CHANGES = [
  [/ <= /g, [" < ", " > "]],
  [/ >= /g, [" > ", " < "]],
  [/ < /g, [" <= ", " >= "]],
  [/ > /g, [" >= ", " <= "]],
  [/ === /g, [" !== "]],
  [/ !== /g, [" === "]],
  [/ && /g, [" || "]],
  [/ \|\| /g, [" && "]],
  [/ \?\? /g, [" && "]],
  [/ \+ (?=[\w(])/g, [" - "]],
  [/ - (?=[\w(])/g, [" + "]],
  [/ \* /g, [" / "]],
  [/ \/ /g, [" * "]],
  [/(?<=[\w\]])\+\+/g, ["--"]],
  [/ \+= /g, [" -= "]],
  [/ (\|\||\?\?)= /g, [" = "]],
  [/\bMath\.max\(/g, ["Math.min("]],
  [/\bMath\.min\(/g, ["Math.max("]],
  [/\btrue\b/g, ["false"]],
  [/\bfalse\b/g, ["true"]],
  [/(?<![\w.[-])\d[\d_]*(?![\w.:])/g, [(number) => String(Number(number.replaceAll("_", "")) + 1)]],
  [/(?<=[(\s])!(?=[\w(])/g, [""]],
  [/\.(some|every)\(/g, [(name) => name === ".some(" ? ".every(" : ".some("]],
  [/\.filter\(/g, [".filter(() => true, "]],
  [/\bif \((?=[^]*?\))/g, ["if (true || ", "if (false && "]],
  [/(?<=\n +)[\w.]+(?:\.\w+)*(?:\(| (?:=|\+=|\?\?=|\|\|=) )[^\n]*;(?=\n)/g, [
    (line) => `/*${line.replaceAll("*/", "")}*/;`,
  ]],
  [/(?<=\n +)(?:throw|continue|break|return)\b[^\n]*;(?=\n)/g, [(line) => `/*${line.replaceAll("*/", "")}*/;`]],
];

/** Every mutant: where, and what the file is then. */
function mutantsOf() {
  const code = codeOf(source);
  const mutants = [];
  const headings = [...source.matchAll(/^\/\/ ---- (.*?)(?: -+)?$/gm)];
  for (const [index, heading] of headings.entries()) {
    if (!SECTIONS.test(heading[1])) continue;
    const [from, to] = [heading.index, headings[index + 1]?.index ?? source.length];
    for (const [pattern, replacements] of CHANGES) {
      for (const found of code.slice(from, to).matchAll(pattern)) {
        const at = from + found.index;
        const was = source.slice(at, at + found[0].length);
        for (const replacement of replacements) {
          const is = typeof replacement === "string" ? replacement : replacement(was);
          const line = source.slice(0, at).split("\n").length;
          const text = source.split("\n")[line - 1].trim();
          const change = is.startsWith("/*") ? "removed" : `${was.trim()} → ${is.trim() || "nothing"}`;
          mutants.push({ line, text, change, source: source.slice(0, at) + is + source.slice(at + was.length) });
        }
      }
    }
  }
  return mutants;
}

/** Runs in a thread: node:test's stand-in takes the pure tests, runs the quickest first, and ends at the first failure. */
const HARNESS = `
  const { workerData, parentPort } = require("node:worker_threads");
  const { protocol, tests, left, cost } = workerData;
  const taken = [];
  const test = (name, ...rest) => void taken.push([name, rest.at(-1)]);
  const describe = (name, ...rest) => left.includes(name) || rest.at(-1)();
  const ignore = () => {};
  const harness = { test, it: test, describe, after: ignore, before: ignore, afterEach: ignore };
  const load = (code, known) => {
    const module = { exports: {} };
    new Function("require", "module", "exports", code)((name) => known[name] ?? require(name), module, module.exports);
    return module.exports;
  };
  load(tests, { "node:test": harness, "protocol": load(protocol, {}) });
  taken.sort(([a], [b]) => (cost[a] ?? 0) - (cost[b] ?? 0));
  (async () => {
    const times = {};
    for (const [name, run] of taken) {
      const startedAt = performance.now();
      try {
        await run({ after: ignore });
      } catch (error) {
        return parentPort.postMessage({ killedBy: name, error: String(error) });
      }
      times[name] = performance.now() - startedAt;
    }
    parentPort.postMessage({ times });
  })();
`;

const shared = {
  bundle: true,
  write: false,
  platform: "node",
  format: "cjs",
  logLevel: "silent",
  external: ["prom-client", "bufferutil", "utf-8-validate"],
};

/** The program text of protocol.ts; undefined where it is none. */
async function bundle(contents) {
  try {
    const stdin = { contents, resolveDir: process.cwd(), loader: "ts" };
    return (await build({ ...shared, stdin })).outputFiles[0].text;
  } catch {
    return undefined;
  }
}

/** The tests, which ask for "protocol" when they run. */
const { outputFiles: [tests] } = await build({
  ...shared,
  stdin: { contents: TESTS.map((file) => `import "./${file}";`).join("\n"), resolveDir: process.cwd(), loader: "ts" },
  define: { "import.meta.main": "false", "import.meta.url": '""', REPORT_PAGE: '""' },
  plugins: [{
    name: "protocol",
    setup: (builder) => builder.onResolve({ filter: /\/protocol\.ts$/ }, () => ({ path: "protocol", external: true })),
  }],
});

/** Runs the tests on a protocol: `{ times }` where all pass, else what failed. */
function judge(protocol, cost) {
  return new Promise((resolve) => {
    const worker = new Worker(HARNESS, {
      eval: true,
      workerData: { protocol, tests: tests.text, left: PROCESSES, cost },
      env: { ...process.env, FUZZ_FRAMES: "300", HISTORIES: "3000" },
      stdout: true,
      stderr: true,
    });
    const settle = (outcome) => {
      clearTimeout(timer);
      resolve(outcome);
      void worker.terminate();
    };
    const timer = setTimeout(settle, PATIENCE_MS, { killedBy: "time" });
    worker.once("message", settle);
    worker.once("error", (error) => settle({ killedBy: "its start", error: String(error) }));
    worker.once("exit", () => settle({ killedBy: "its exit" }));
  });
}

const truth = await judge(await bundle(source), {});
if (truth.times === undefined) {
  console.error(`The tests fail on protocol.ts as it is: ${truth.killedBy}: ${truth.error ?? ""}`);
  process.exit(2);
}
const mutants = mutantsOf();
console.log(`${mutants.length} mutants, ${Object.keys(truth.times).length} tests`);
const tally = { killed: 0, survived: 0, equivalent: 0, invalid: 0 };
const queue = [...mutants];
const startedAt = performance.now();
await Promise.all(Array.from({ length: availableParallelism() }, async () => {
  for (let mutant = queue.shift(); mutant !== undefined; mutant = queue.shift()) {
    if (EQUIVALENTS.some(({ text, change }) => mutant.text.includes(text) && mutant.change === change)) {
      tally.equivalent++;
      continue;
    }
    const code = await bundle(mutant.source);
    if (code === undefined) {
      tally.invalid++;
      continue;
    }
    const { killedBy } = await judge(code, truth.times);
    if (killedBy !== undefined) {
      tally.killed++;
      continue;
    }
    tally.survived++;
    console.log(`  protocol.ts:${mutant.line}  ${mutant.change}  |  ${mutant.text}`);
  }
}));
const share = tally.killed / (tally.killed + tally.survived);
console.log(
  `${tally.killed} killed, ${tally.survived} survived (${(100 * share).toFixed(1)} % killed), ` +
    `${tally.equivalent} equivalent, ${tally.invalid} no program, in ${
      ((performance.now() - startedAt) / 1000).toFixed(0)
    } s`,
);
process.exitCode = share < LEAST_KILLED ? 1 : 0;
