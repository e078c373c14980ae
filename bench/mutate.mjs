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
import { build, transform } from "esbuild";

/** The headings of the sections that are pure. */
const SECTIONS = new RegExp(
  process.argv[2] ?? "^(Frames|Dialects|Ledger|Judgement|Evidence|Diagnosis|Rollouts|Workloads|The check|Numbers)",
);
/** The files whose tests judge; left out are tests that take a context, by which they end what they start, and this suite. */
const TESTS = ["protocol", "diagnosis", "inspect", "kubernetes", "paths"].map((name) => `test/${name}.test.ts`);
const PROCESSES = ["a drill"];
/** Least share of the mutants that must be noticed. */
const LEAST_KILLED = 0.9;
/** Longest time for the true file, in ms, and how many times what it took a mutant may take: some run for ever. */
const PATIENCE_MS = 300_000;
const PATIENCE = 5;
/** Tests that have noticed something lately are asked sooner: neighbouring changes are noticed by the same ones. */
const LATELY = 20;

/** Changes that change nothing, by the line's text and the change, and why. */
const EQUIVALENTS = JSON.parse(readFileSync("bench/equivalents.json", "utf8"));

const source = readFileSync("protocol.ts", "utf8");

/** The source with comments, and the contents of texts and regular expressions, blanked: what is left is code. */
function codeOf(text) {
  const blank = (found) => found.replace(/[^\n]/g, " ");
  const parts =
    /\/\*[^]*?\*\/|\/\/[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`|(?<=[(=,:]\s*|return )\/(?:\\.|\[(?:\\.|[^\]\\])*\]|[^/\\\n[])+\/[a-z]*/g;
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

/** Every mutant: where, and what is there then. */
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
          mutants.push({ part: heading[1].split(":")[0], line, text, change, at, was, is });
        }
      }
    }
  }
  return mutants;
}

/**
 * Runs in a thread: node:test's stand-in takes the pure tests anew for each protocol, runs the quickest first, sooner still
 * those that have noticed something lately, and ends at the first failure.
 */
const HARNESS = `
  const { workerData, parentPort } = require("node:worker_threads");
  const { tests, left } = workerData;
  const ignore = () => {};
  const NO_PROCESSES = { spawnSync: () => ({ status: 1 }) };
  process.on("unhandledRejection", ignore);
  const program = (code) => new Function("require", "module", "exports", code);
  const load = (run, known) => {
    const module = { exports: {} };
    run((name) => known[name] ?? require(name), module, module.exports);
    return module.exports;
  };
  const suites = program(tests);
  const judge = async ({ protocol, lately, cost }) => {
    const taken = [];
    const test = (name, ...rest) => void (rest.at(-1).length === 0 && taken.push([name, rest.at(-1)]));
    const describe = (name, ...rest) => left.includes(name) || rest.at(-1)();
    const harness = { test, it: test, describe, after: ignore, before: ignore, afterEach: ignore };
    try {
      load(suites, { "node:test": harness, "node:child_process": NO_PROCESSES, "protocol": load(program(protocol), {}) });
    } catch (error) {
      return { killedBy: "its start", error: String(error) };
    }
    const rank = (name) => (cost[name] ?? 0) / (lately.includes(name) ? 20 : 1);
    taken.sort(([a], [b]) => rank(a) - rank(b));
    const times = {};
    for (const [name, run] of taken) {
      const startedAt = performance.now();
      try {
        await run({ after: ignore });
      } catch (error) {
        return { killedBy: name, error: String(error) };
      }
      times[name] = performance.now() - startedAt;
    }
    return { times };
  };
  parentPort.on("message", async (task) => parentPort.postMessage(await judge(task)));
`;

/** The program text of protocol.ts, with a change if there is one; undefined where it is none. */
async function programOf({ at, was, is } = { at: 0, was: "", is: "" }) {
  const contents = source.slice(0, at) + is + source.slice(at + was.length);
  try {
    return (await transform(contents, { loader: "ts", format: "cjs", logLevel: "silent" })).code;
  } catch {
    return undefined;
  }
}

/** The tests, which ask for "protocol" when they run. */
const { outputFiles: [tests] } = await build({
  bundle: true,
  write: false,
  platform: "node",
  format: "cjs",
  logLevel: "silent",
  external: ["prom-client", "bufferutil", "utf-8-validate"],
  stdin: { contents: TESTS.map((file) => `import "./${file}";`).join("\n"), resolveDir: process.cwd(), loader: "ts" },
  define: { "import.meta.main": "false", "import.meta.url": '""', REPORT_PAGE: '""' },
  plugins: [{
    name: "protocol",
    setup: (builder) => builder.onResolve({ filter: /\/protocol\.ts$/ }, () => ({ path: "protocol", external: true })),
  }],
});

/** A thread that tests one protocol after another; it is replaced where one of them runs for ever or breaks it. */
class Judge {
  #worker;
  #settle;

  /** Runs the tests on a protocol: `{ times }` where all pass, else what failed. */
  async judge(task, patienceMs) {
    this.#worker ??= this.#start();
    this.#worker.postMessage(task);
    const timer = setTimeout(() => this.#breakOff("time"), patienceMs);
    const outcome = await new Promise((resolve) => this.#settle = resolve);
    clearTimeout(timer);
    return outcome;
  }

  #start() {
    const worker = new Worker(HARNESS, {
      eval: true,
      workerData: { tests: tests.text, left: PROCESSES },
      env: { ...process.env, FUZZ_FRAMES: "300", HISTORIES: "3000" },
      stdout: true,
      stderr: true,
    });
    worker.on("message", (outcome) => this.#settle(outcome));
    worker.on("error", (error) => worker === this.#worker && this.#breakOff("its start", String(error)));
    worker.on("exit", () => worker === this.#worker && this.#breakOff("its exit"));
    return worker;
  }

  #breakOff(killedBy, error) {
    this.end();
    this.#settle({ killedBy, error });
  }

  end() {
    void this.#worker?.terminate();
    this.#worker = undefined;
  }
}

/** Judges protocol.ts as it is, which must pass. */
async function judgeTruth(judge) {
  const truth = await judge.judge({ protocol: await programOf(), lately: [], cost: {} }, PATIENCE_MS);
  if (truth.times !== undefined) return truth;
  console.error(`The tests fail on protocol.ts as it is: ${truth.killedBy}: ${truth.error ?? ""}`);
  process.exit(2);
}

const first = new Judge();
const begunAt = performance.now();
const truth = await judgeTruth(first);
const patienceMs = PATIENCE * (performance.now() - begunAt);
first.end();

const mutants = mutantsOf().sort((a, b) => a.line - b.line);
const isEquivalent = (mutant, { text, change }) => mutant.text.includes(text) && mutant.change === change;
for (const equivalent of EQUIVALENTS) {
  const { length } = mutants.filter((mutant) => isEquivalent(mutant, equivalent));
  if (length > 1 || (length === 0 && process.argv[2] === undefined)) {
    console.log(`  equivalents.json: ${length} mutants are  ${equivalent.change}  |  ${equivalent.text}`);
  }
}
console.log(`${mutants.length} mutants, ${Object.keys(truth.times).length} tests`);
const startedAt = performance.now();
/** By part: how many mutants were noticed and not, changed nothing, or were no program. */
const tallies = {};
const queue = [...mutants];
/** The next mutant; its program is made while another one is judged. */
const take = () => {
  const mutant = queue.shift();
  return mutant && { mutant, made: programOf(mutant) };
};
await Promise.all(Array.from({ length: availableParallelism() }, async () => {
  const judge = new Judge();
  let lately = [];
  for (let next = take(); next !== undefined;) {
    const { mutant, made } = next;
    next = take();
    const tally = tallies[mutant.part] ??= { killed: 0, survived: 0, equivalent: 0, invalid: 0 };
    if (EQUIVALENTS.some((equivalent) => isEquivalent(mutant, equivalent))) {
      tally.equivalent++;
      continue;
    }
    const protocol = await made;
    if (protocol === undefined) {
      tally.invalid++;
      continue;
    }
    const { killedBy } = await judge.judge({ protocol, lately, cost: truth.times }, patienceMs);
    if (killedBy !== undefined) {
      tally.killed++;
      lately = [killedBy, ...lately.filter((name) => name !== killedBy)].slice(0, LATELY);
      continue;
    }
    tally.survived++;
    console.log(`  protocol.ts:${mutant.line}  ${mutant.change}  |  ${mutant.text}`);
  }
  await judgeTruth(judge); // no mutant has spoilt the thread for those after it
  judge.end();
}));

const share = ({ killed, survived }) => killed / (killed + survived);
const summary = (name, tally) =>
  `${name.padEnd(10)} ${tally.killed} killed, ${tally.survived} survived (${
    (100 * share(tally)).toFixed(1)
  } % killed), ` +
  `${tally.equivalent} equivalent, ${tally.invalid} no program`;
for (const [part, tally] of Object.entries(tallies)) console.log(summary(part, tally));
const all = Object.values(tallies).reduce((sum, tally) =>
  Object.fromEntries(Object.entries(sum).map(([kind, count]) => [kind, count + tally[kind]]))
);
console.log(`${summary("All", all)}, in ${((performance.now() - startedAt) / 1000).toFixed(0)} s`);
process.exitCode = share(all) < LEAST_KILLED ? 1 : 0;
