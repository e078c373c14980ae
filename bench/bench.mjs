// Prints what a rehearsal costs, beside the same script over raw TCP (floor.mjs), all in one run: `make bench`.
//
//   BENCH_SESSIONS=1,100,1000,9000  a row for each
//   BENCH_RUNS=5                    runs of the largest: its row has their medians
//   BENCH_SLOW=1                    the largest as on a slow machine, too: all on one core, then beside a CPU hog as well
import { spawn, spawnSync } from "node:child_process";
import { readFileSync, statSync } from "node:fs";
import { createInterface } from "node:readline";
import { startHogs } from "./hogs.mjs";

const SIZES = (process.env.BENCH_SESSIONS || "1,100,1000,9000").split(",").map(Number);
const RUNS = Number(process.env.BENCH_RUNS || 5);
const LARGEST = Math.max(...SIZES);
const STARTS = 3 * RUNS;
const children = new Set();
process.on("exit", () => children.forEach((child) => child.kill("SIGKILL")));

const COLUMNS = [
  ["machine", 16],
  ["sessions", 8],
  ["runs", 4],
  ["passed", 6],
  ["lost", 5],
  ["exit ms", 8],
  ["scripted", 8],
  ["overhead", 8],
  ["TCP exit", 8],
  ["ratio", 6],
  ["ws exit", 7],
  ["ratio", 6],
  ["reconnect p99", 13],
  ["TCP p99", 7],
  ["ratio", 6],
  ["ws p99", 7],
  ["ratio", 6],
  ["late max", 8],
  ["late in all", 11],
  ["server B", 8],
  ["client B", 8],
];

console.log(
  "Rehearsals: SIGTERM to exit of the victim, while its clients redial; beside it the same script over raw TCP,\n" +
    "and over the WebSocket library alone, without JSON and judgement.\n" +
    `The row of ${LARGEST} sessions has the medians of its runs.\n`,
);
print(COLUMNS.map(([name]) => name));
for (const sessions of SIZES) await row("this one", sessions, sessions === LARGEST ? RUNS : 1);
if (process.env.BENCH_SLOW === "1") await slowRows();

const [listening, nodeListening] = await startUp();
console.log(
  `\nStart to listening: ${listening.toFixed(0)} ms; node -e with an HTTP listener: ${nodeListening.toFixed(0)} ms; ` +
    `ratio ${(listening / nodeListening).toFixed(2)} (medians of ${STARTS} starts each)`,
);
for (const bundle of ["dist/server.js", "dist/client.js"]) {
  console.log(`${bundle}: ${(statSync(bundle).size / 1000).toFixed(0)} KB`);
}

/** Both servers, the client and the rehearsal share one core; then with somebody who never lets go of it. */
async function slowRows() {
  const core = process.platform === "linux" &&
    /^Cpus_allowed_list:\s*(\d+)/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1];
  const pinned = ["taskset", "-c", String(core)];
  const { error, status } = spawnSync(pinned[0], [...pinned.slice(1), "true"]);
  if (!core || error || status !== 0) {
    return console.log(`one core: skipped, there is no taskset that can pin (${error?.message ?? process.platform})`);
  }
  await row("one core", LARGEST, RUNS, pinned);
  const stop = startHogs(1, pinned);
  await row("one core and hog", LARGEST, RUNS, pinned);
  stop();
}

/** Rehearses so many times, behind `prefix`, and prints the medians. */
async function row(machine, sessions, times, prefix = []) {
  const runs = [];
  for (let time = 0; time < times; time++) {
    // The floors right before the rehearsal: the machine's mood is then the same for all.
    const tcp = await measureFloor("tcp", sessions, prefix);
    const ws = await measureFloor("ws", sessions, prefix);
    const { verdict, handovers, cost } = rehearse(sessions, prefix);
    const lost = handovers.reduce((sum, { lost, upstreamLost }) => sum + size(lost) + upstreamLost, 0);
    runs.push({ ...cost, tcp, ws, lost, passed: verdict === "PASS" });
  }
  const middle = (read, digits = 0) => {
    const values = runs.map(read).filter((value) => Number.isFinite(value)).sort((a, b) => a - b);
    return values.length === 0 ? "n/a" : values[Math.floor(values.length / 2)].toFixed(digits);
  };
  // Each script draws its lengths at random: only among many sessions is the longest surely the same.
  const ratio = (read) => sessions < 100 ? "n/a" : middle(read, 2);
  print([
    machine,
    sessions,
    times,
    runs.filter(({ passed }) => passed).length,
    runs.reduce((sum, { lost }) => sum + lost, 0),
    middle(({ exitMs }) => exitMs),
    middle(({ scriptedMs }) => scriptedMs),
    middle(({ overheadMs }) => overheadMs),
    middle(({ tcp }) => tcp.exitMs),
    ratio(({ exitMs, tcp }) => exitMs / tcp.exitMs),
    middle(({ ws }) => ws.exitMs),
    ratio(({ exitMs, ws }) => exitMs / ws.exitMs),
    middle(({ reconnectP99Ms }) => reconnectP99Ms),
    middle(({ tcp }) => tcp.reconnectP99Ms),
    ratio(({ reconnectP99Ms, tcp }) => reconnectP99Ms / tcp.reconnectP99Ms),
    middle(({ ws }) => ws.reconnectP99Ms),
    ratio(({ reconnectP99Ms, ws }) => reconnectP99Ms / ws.reconnectP99Ms),
    middle(({ lateMaxMs }) => lateMaxMs),
    middle(({ lateTotalMs }) => lateTotalMs),
    middle(({ serverBytesPerSession }) => serverBytesPerSession),
    middle(({ clientBytesPerSession }) => clientBytesPerSession),
  ]);
}

function print(cells) {
  console.log(cells.map((cell, column) => String(cell).padStart(COLUMNS[column][1])).join(" "));
}

/** What the rehearsal printed, whatever its verdict; an outcome that is none ends the bench. */
function rehearse(sessions, prefix) {
  const [file, ...args] = [...prefix, process.execPath, "rehearse.mjs", "--json", "--sessions", String(sessions)];
  const { stdout, stderr, status } = spawnSync(file, args, {
    encoding: "utf8",
    maxBuffer: 2 ** 30,
    env: { PATH: process.env.PATH, HOME: process.env.HOME },
  });
  if (status === 0 || status === 1) return JSON.parse(stdout);
  throw new Error(`the rehearsal of ${sessions} sessions exited with ${status}: ${stderr.slice(-500)}`);
}

/** A server of floor.mjs with so many clients that redial to another: SIGTERM to exit, and the redials' 99th percentile. */
async function measureFloor(transport, sessions, prefix) {
  const spawnFloor = (...args) => spawnNode(prefix, "bench/floor.mjs", transport, ...args);
  const servers = [spawnFloor("server"), spawnFloor("server")];
  const ports = await Promise.all(servers.map(({ line }) => line("")));
  const client = spawnFloor("client", ...ports, String(sessions));
  await client.line("open");
  await new Promise((resolve) => setTimeout(resolve, 2500)); // as the rehearsal: a full interval, both ways
  const signalledAt = performance.now();
  const exited = new Promise((resolve) =>
    servers[0].child.once("exit", () => resolve(performance.now() - signalledAt))
  );
  servers[0].child.kill("SIGTERM");
  const [exitMs, moved] = await Promise.all([exited, client.line("moved")]);
  servers[1].child.kill("SIGKILL");
  return { exitMs, reconnectP99Ms: Number(moved.split(" ")[1]) };
}

function spawnNode(prefix, ...args) {
  const [file, ...rest] = [...prefix, process.execPath, ...args];
  const child = spawn(file, rest, { stdio: ["ignore", "pipe", "inherit"] });
  children.add(child);
  child.once("exit", () => children.delete(child));
  const lines = createInterface({ input: child.stdout });
  const line = (start) =>
    new Promise((resolve) => {
      const onLine = (text) => {
        if (!text.startsWith(start)) return;
        lines.off("line", onLine);
        resolve(text);
      };
      lines.on("line", onLine);
    });
  return { child, line };
}

/** Median ms from spawn to the first sign of listening: our server, and the least that Node can do; taken in turns. */
async function startUp() {
  const bare = ["-e", "require('http').createServer().listen(0,()=>console.error('listening'))"];
  const ours = ["dist/server.js", "--port", "0", "--admin-port", "0"];
  const times = [[], []];
  for (let round = 0; round < STARTS; round++) {
    for (const [index, args] of [ours, bare].entries()) {
      const startedAt = performance.now();
      const child = spawn(process.execPath, args, { stdio: ["ignore", "ignore", "pipe"] });
      await new Promise((resolve) => child.stderr.once("data", resolve));
      times[index].push(performance.now() - startedAt);
      child.kill("SIGKILL");
    }
  }
  return times.map((list) => list.sort((a, b) => a - b)[Math.floor(STARTS / 2)]);
}

function size(ranges) {
  return ranges.reduce((sum, [from, to]) => sum + to - from + 1, 0);
}
