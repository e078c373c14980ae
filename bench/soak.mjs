// Rehearses hundreds of times with settings at random, several at a time, and checks that each verdict is the one that its
// settings must give: `make soak`. Prints every wrong verdict with its whole command and log; exit 1 if there was one.
//
//   node bench/soak.mjs --runs 500 --jobs 3 --hogs 2 --seed 42
//
// --runs 500: rehearsals; --jobs 3: how many at a time; --hogs 0: CPU hogs beside them; --seed: draws the same settings again
import { spawn } from "node:child_process";
import mri from "mri";
import { startHogs } from "./hogs.mjs";

/** Every fault with its symptom in the v1 dialect and in the plain one, where the rules `clean` and `moved` count. */
const SYMPTOMS = {
  "none": [null, null],
  "ignore-sigterm": ["CUT_WITHOUT_NOTICE", "CUT_WITHOUT_NOTICE"],
  "exit-at-sigterm": ["CUT_WITHOUT_NOTICE", "CUT_WITHOUT_NOTICE"],
  "crash": ["CUT_WITHOUT_NOTICE", "CUT_WITHOUT_NOTICE"],
  "stall": ["STALLED", "STALLED"],
  "skip-notice": ["NO_NOTICE", null],
  "exit-mid-drain": ["CUT_DURING_DRAIN", "CUT_DURING_DRAIN"],
  "slow-drain": ["CUT_DURING_DRAIN", "CUT_DURING_DRAIN"],
  "drop-data": ["DATA_LOST", null],
  "duplicate-data": ["DATA_DUPLICATED", null],
  "reorder-data": ["DATA_REORDERED", null],
  "lose-upstream": ["UPSTREAM_LOST", null],
  "skip-farewell": ["NO_FAREWELL", null],
  "terminate": ["NO_CLOSE_FRAME", "NO_CLOSE_FRAME"],
  "reset": ["RESET_AFTER_CLOSE", "RESET_AFTER_CLOSE"],
  "no-status": ["WRONG_CLOSE_CODE", "WRONG_CLOSE_CODE"],
};
/** Whose server runs on until it is killed: only these need not wait long for it. */
const ENDLESS = ["ignore-sigterm", "slow-drain"];

const given = mri(process.argv.slice(2), {
  default: { runs: 500, jobs: 3, hogs: 0, seed: Math.floor(Math.random() * 2 ** 31) },
  unknown: (flag) => refuse(`Unknown flag ${flag}: there are --runs, --jobs, --hogs and --seed`),
});
for (const [name, least] of [["runs", 1], ["jobs", 1], ["hogs", 0], ["seed", 0]]) {
  const value = given[name];
  if (!(Number.isInteger(value) && value >= least)) refuse(`--${name} must be an integer from ${least} on: '${value}'`);
}
const { runs, jobs, hogs, seed } = given;

const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGTERM")));
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(130));

console.log(`${runs} rehearsals, ${jobs} at a time beside ${hogs} CPU hogs, seed ${seed}`);
const stopHogs = startHogs(hogs);
const startedAt = performance.now();
const random = randomFrom(seed); // drawn from in the order of the runs' beginnings
const outcomes = {};
let wrong = 0;
let begun = 0;
let done = 0;
await Promise.all(Array.from({ length: jobs }, async () => {
  while (begun < runs) await soakOnce(begun++);
}));
stopHogs();
for (const [outcome, number] of Object.entries(outcomes).sort()) {
  console.log(`${String(number).padStart(5)}  ${outcome}`);
}
console.log(`${runs} rehearsals in ${seconds()} s, ${wrong} wrong verdicts, seed ${seed}`);
process.exitCode = wrong > 0 ? 1 : 0;

async function soakOnce(index) {
  const { fault, flags, symptom } = draw();
  const { code, stdout, stderr } = await rehearse(flags);
  const expected = symptom === null ? "PASS" : `FAIL ${symptom}`;
  const { seen, count } = read(code, stdout);
  const asked = Number(/--sessions=(\d+)/.exec(flags.join(" "))[1]);
  done++;
  const outcome = `${fault}: ${seen}`;
  outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
  // A first dial that failed leaves the victim a session less, which is no fault of the verdict.
  const isRight = seen === expected && code === (symptom === null ? 0 : 1) && count >= 1 && count <= asked;
  if (!isRight) {
    wrong++;
    console.log(`\nWrong, run ${index}: ${seen} with exit ${code} and ${count} of ${asked} sessions, not ${expected}`);
    console.log(`node rehearse.mjs ${flags.join(" ")}\n${stderr}${stdout.slice(0, 20_000)}\n`);
  }
  if (done % 25 === 0) console.log(`${done} of ${runs} after ${seconds()} s, ${wrong} wrong`);
}

/** Settings at random, and the symptom that they must give. */
function draw() {
  const between = (least, most) => least + Math.floor(random() * (most - least + 1));
  const oneOf = (values) => values[between(0, values.length - 1)];
  const fault = oneOf(Object.keys(SYMPTOMS));
  const dialect = oneOf(["auto", "v1", "plain"]);
  const least = between(0, 10);
  const flags = {
    fault,
    dialect,
    sessions: oneOf([1, between(2, 10), between(11, 50)]),
    servers: between(2, 3),
    interval: `${between(100, 1000)}ms`,
    remaining: oneOf([`${least}`, `${least}-${between(least, 10)}`]),
    "remaining-interval": `${between(0, 200)}ms`,
    spread: oneOf(["0", `${between(1, 500)}ms`]),
    payload: oneOf([0, between(1, 4000)]),
    reconnect: oneOf(["after-close", "early"]),
    "probe-interval": oneOf(["0", `${between(50, 500)}ms`]),
    "log-format": oneOf(["pretty", "json"]),
    // Long enough that only a server which waits for it reaches it.
    grace: ENDLESS.includes(fault) ? `${between(3, 6)}s` : "30s",
    ...fault === "stall" && { "silence-timeout": "3s", grace: "8s" },
  };
  const symptom = SYMPTOMS[fault][dialect === "plain" ? 1 : 0];
  return { fault, symptom, flags: ["--json", ...Object.entries(flags).map(([name, value]) => `--${name}=${value}`)] };
}

/** What a rehearsal said: its verdict with every symptom, and how many handovers that were. */
function read(code, stdout) {
  try {
    const { verdict, handovers } = JSON.parse(stdout);
    const symptoms = new Set(handovers.map(({ symptom, verdict }) => symptom ?? verdict));
    if (symptoms.size === 1) symptoms.delete("graceful");
    return { seen: [verdict, ...symptoms].join(" "), count: handovers.length };
  } catch {
    return { seen: `no result, exit ${code}`, count: 0 };
  }
}

function rehearse(flags) {
  return new Promise((resolve) => {
    const env = { PATH: process.env.PATH, HOME: process.env.HOME };
    const child = spawn(process.execPath, ["rehearse.mjs", ...flags], { env, stdio: ["ignore", "pipe", "pipe"] });
    running.add(child);
    let [stdout, stderr] = ["", ""];
    child.stdout.setEncoding("utf8").on("data", (text) => stdout += text);
    child.stderr.setEncoding("utf8").on("data", (text) => stderr += text);
    child.on("close", (code) => {
      running.delete(child);
      resolve({ code, stdout, stderr });
    });
  });
}

/** Numbers from 0 up to 1, the same for the same seed (mulberry32). */
function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6D2B79F5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function seconds() {
  return ((performance.now() - startedAt) / 1000).toFixed(0);
}

function refuse(message) {
  console.error(message);
  process.exit(2);
}
