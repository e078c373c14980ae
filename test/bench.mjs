// Prints what a rehearsal costs, beside the same script over raw TCP (floor.mjs), all in one run: `make bench`.
import { spawn, spawnSync } from "node:child_process";
import { statSync } from "node:fs";
import { createInterface } from "node:readline";

const SIZES = (process.env.BENCH_SESSIONS || "1,100,1000,9000").split(",").map(Number);

console.log(
  "Rehearsals: SIGTERM to exit of the victim, while its clients redial; beside it the same script over raw TCP\n",
);
row(
  "sessions",
  "verdict",
  "lost",
  "exit ms",
  "scripted",
  "overhead",
  "TCP exit",
  "ratio",
  "reconnect p99",
  "server B",
  "client B",
);
for (const sessions of SIZES) {
  // The floor right before the rehearsal: the machine's mood is then the same for both.
  const floorMs = await floor(sessions);
  const { verdict, handovers, cost } = rehearse(sessions);
  const lost = handovers.reduce((sum, { lost, upstreamLost }) => sum + size(lost) + upstreamLost, 0);
  const { exitMs, scriptedMs, overheadMs, reconnectP99Ms, serverBytesPerSession, clientBytesPerSession } = cost;
  row(
    sessions,
    `${verdict} ${handovers.filter((handover) => handover.verdict === "graceful").length}`,
    lost,
    exitMs,
    scriptedMs,
    overheadMs,
    floorMs.toFixed(0),
    // Each script draws its lengths at random: only among many sessions is the longest surely the same.
    sessions < 100 ? "n/a" : (exitMs / floorMs).toFixed(2),
    reconnectP99Ms === null ? "n/a" : `${reconnectP99Ms.toFixed(0)} ms`,
    serverBytesPerSession ?? "n/a",
    clientBytesPerSession ?? "n/a",
  );
}

const [listening, nodeListening] = await startUp();
console.log(
  `\nStart to listening: ${listening.toFixed(0)} ms; node -e with an HTTP listener: ${nodeListening.toFixed(0)} ms; ` +
    `ratio ${(listening / nodeListening).toFixed(2)} (medians of 15 starts each)`,
);
for (const bundle of ["dist/server.js", "dist/client.js"]) {
  console.log(`${bundle}: ${(statSync(bundle).size / 1000).toFixed(0)} KB`);
}

function row(...cells) {
  const widths = [8, 10, 5, 8, 9, 9, 9, 6, 14, 9, 9];
  console.log(cells.map((cell, column) => String(cell).padStart(widths[column])).join(" "));
}

/** What the rehearsal printed, whatever its verdict; an outcome that is none ends the bench. */
function rehearse(sessions) {
  const { stdout, stderr, status } = spawnSync(process.execPath, [
    "rehearse.mjs",
    "--json",
    "--sessions",
    String(sessions),
  ], {
    encoding: "utf8",
    maxBuffer: 2 ** 30,
    env: { PATH: process.env.PATH, HOME: process.env.HOME },
  });
  if (status === 0 || status === 1) return JSON.parse(stdout);
  throw new Error(`the rehearsal of ${sessions} sessions exited with ${status}: ${stderr.slice(-500)}`);
}

/** SIGTERM to exit of a raw TCP server with so many clients that redial to another, in ms. */
async function floor(sessions) {
  const servers = [spawnNode("test/floor.mjs", "server"), spawnNode("test/floor.mjs", "server")];
  const ports = await Promise.all(servers.map(({ line }) => line("")));
  const client = spawnNode("test/floor.mjs", "client", ...ports, String(sessions));
  await client.line("open");
  await new Promise((resolve) => setTimeout(resolve, 2500)); // as the rehearsal: a full interval, both ways
  const signalledAt = performance.now();
  const exited = new Promise((resolve) =>
    servers[0].child.once("exit", () => resolve(performance.now() - signalledAt))
  );
  servers[0].child.kill("SIGTERM");
  const [exitMs] = await Promise.all([exited, client.line("moved")]);
  servers[1].child.kill("SIGKILL");
  return exitMs;
}

function spawnNode(...args) {
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
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
  for (let round = 0; round < 15; round++) {
    for (const [index, args] of [ours, bare].entries()) {
      const startedAt = performance.now();
      const child = spawn(process.execPath, args, { stdio: ["ignore", "ignore", "pipe"] });
      await new Promise((resolve) => child.stderr.once("data", resolve));
      times[index].push(performance.now() - startedAt);
      child.kill("SIGKILL");
    }
  }
  return times.map((list) => list.sort((a, b) => a - b)[7]);
}

function size(ranges) {
  return ranges.reduce((sum, [from, to]) => sum + to - from + 1, 0);
}
