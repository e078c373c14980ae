// Plays a pod deletion on one machine, with the real programs: servers, one client, SIGTERM to the server in use,
// SIGKILL after the grace period as kubelet does it, and the client's verdict.
//
//   node rehearse.mjs --sessions 100 --fault exit-mid-drain
import { execFileSync, spawn } from "node:child_process";
import { readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import kleur from "kleur";
import mri from "mri";

const OWN = {
  servers: ["SERVERS", "2", "server processes to start"],
  grace: ["GRACE", "30", "seconds from SIGTERM to SIGKILL"],
  fault: ["FAULT", "none", "the promise that the victim breaks"],
  command: ["COMMAND", "node dist/{role}.js", "how to start a program; {role} is server or client"],
};
/** Settings that the rehearsal itself must choose. */
const CHOSEN = ["port", "host", "name", "admin-port", "url", "handovers", "timeout"];
/** Bytes per session mean nothing below this: the noise of a process is larger. */
const SESSIONS_TO_MEASURE_MEMORY = 1000;
const START_TIMEOUT_MS = 120_000;

kleur.enabled = Boolean(process.stderr.isTTY) && process.env.NO_COLOR === undefined;

const children = [];
process.on("exit", () => children.forEach(({ child }) => child.kill("SIGKILL")));
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(130));

process.stderr.on("error", () => {}); // a log that nobody can take must not change the verdict
process.stdout.on("error", ({ code, message }) => {
  if (code === "EPIPE") return; // a reader who has left has seen enough
  console.error(`Cannot write to stdout: ${message}`);
  process.exitCode = 2;
});

class UserError extends Error {}
main().catch((error) => {
  if (!(error instanceof UserError)) console.error(error);
  else if (error.message) console.error(error.message);
  process.exit(2);
});

async function main() {
  const options = readOptions();
  if (options === undefined) return;
  const { own, handedThrough, sessions, remainingIntervalMs, spreadMs, json } = options;
  const reportFile = join(tmpdir(), `rehearsal-${process.pid}.json`);
  process.on("exit", () => rmSync(reportFile, { force: true }));

  // The victim comes first, so that every session starts there; one after the other, so that a bad setting is told once.
  const servers = [];
  const ports = [];
  for (let number = 1; number <= own.servers; number++) {
    const fault = number === 1 ? own.fault : "none";
    const where = ["--host", "127.0.0.1", "--port", "0", "--admin-port", "0"];
    const flags = [...where, "--name", `server-${number}`, "--fault", fault];
    const server = start("server", `server-${number}`, [...flags, ...handedThrough.server], own.command);
    servers.push(server);
    ports.push((await server.says("listening")).match(/:(\d+)\/ws/)[1]);
  }
  const urls = ports.map((port) => `ws://127.0.0.1:${port}/ws`); // thousands of dials need not ask who localhost is
  const victim = servers[0];
  const idleServerBytes = residentBytes(victim);

  const flags = [...urls.flatMap((url) => ["--url", url]), "--admin-port", "0", "--handovers", String(sessions)];
  const theirs = ["--timeout", "0", "--report", reportFile, ...handedThrough.client];
  const client = start("client", "client", [...flags, ...theirs], own.command);
  await client.says("started");
  const idleClientBytes = residentBytes(client);

  // A server that crashes has its say before the client has; whatever ends early is judged as well.
  if (own.fault !== "crash") await Promise.race([client.says("steady"), victim.exited, client.exited]);
  else await victim.exited;
  const cost = { sessions, messages: 0, exitMs: null, scriptedMs: null, overheadMs: null };
  const memory = {
    serverBytesPerSession: perSession(residentBytes(victim) - idleServerBytes, sessions),
    clientBytesPerSession: perSession(residentBytes(client) - idleClientBytes, sessions),
  };

  const signalledAt = performance.now();
  let killed = false;
  victim.child.kill("SIGTERM");
  const kill = setTimeout(() => killed = victim.child.kill("SIGKILL"), own.grace * 1000);
  victim.exited.then(() => clearTimeout(kill));
  // The client gets a chance to give its verdict before its time is up, too.
  const stop = setTimeout(() => client.child.kill("SIGTERM"), own.grace * 1000 + 25_000);
  const giveUp = setTimeout(() => client.child.kill("SIGKILL"), own.grace * 1000 + 29_000);
  const [{ code }, exit] = await Promise.all([client.exited, victim.exited]);
  [stop, giveUp].forEach(clearTimeout);
  for (const { child } of servers) child.kill("SIGTERM");
  if (code !== 0 && code !== 1) throw new UserError(code === 2 ? "" : "The client gave no verdict"); // with 2 it has said why

  const result = JSON.parse(readFileSync(reportFile, "utf8"));
  cost.messages = result.messages.received + result.messages.sent;
  if (exit.at > signalledAt) cost.exitMs = Math.round(exit.at - signalledAt); // else it crashed
  if (cost.exitMs !== null && !killed) {
    cost.scriptedMs = scriptedMs(result.handovers, remainingIntervalMs, spreadMs);
    cost.overheadMs = cost.scriptedMs === null ? null : cost.exitMs - cost.scriptedMs;
  }
  cost.reconnectP50Ms = result.reconnect.p50Ms;
  cost.reconnectP99Ms = result.reconnect.p99Ms;
  Object.assign(cost, memory);
  await Promise.all(servers.map(({ exited }) => exited));

  const findings = [...result.findings];
  if (killed) {
    const name = result.verdict === "PASS" ? "EXIT_HUNG" : "SIGKILL";
    findings.push({ name, text: `server-1 had not exited ${own.grace} s after SIGTERM, and was killed with SIGKILL` });
  }
  const unconfirmed = victim.lines.findLast((line) => line.includes("drain-complete"))?.match(/(\d+) unconfirmed/)?.[1];
  if (unconfirmed) {
    findings.push({ name: "UNCONFIRMED_CLOSE", text: `peers that did not answer the close frame: ${unconfirmed}` });
  }

  const { verdict, handovers } = result;
  const text = json
    ? `${JSON.stringify({ verdict, handovers, cost, findings })}\n`
    : renderText(client.output, cost, findings.slice(result.findings.length));
  await new Promise((resolve) => process.stdout.write(text, resolve));
  process.exit(process.exitCode ?? code);
}

/** Our own settings, and those of the programs, which are handed through to whoever knows them. */
function readOptions() {
  // Both programs are asked for their settings: a list here would drift.
  const { command: asked } = mri(process.argv.slice(2), { string: ["command"] });
  const command = last(asked) || process.env.COMMAND || OWN.command[1];
  const known = { server: settingsOf("server", command), client: settingsOf("client", command) };
  const names = [...Object.keys(OWN), ...Object.keys({ ...known.server, ...known.client }), "json", "help"];
  let unknown;
  const given = mri(process.argv.slice(2), {
    string: names.filter((name) => name !== "json" && name !== "help"),
    boolean: ["json", "help"],
    default: Object.fromEntries(names.map((name) => [name, undefined])),
    unknown: (flag) => unknown = flag,
  });
  if (unknown !== undefined) throw new UserError(`Unknown flag ${unknown}: see --help`);
  if (given._.length > 0) throw new UserError(`Unexpected argument '${given._[0]}': see --help`);
  if (given.help) return void process.stdout.write(usage(known));
  const own = Object.fromEntries(
    Object.entries(OWN).map(([name, [env, fallback]]) => [name, last(given[name]) ?? (process.env[env] || fallback)]),
  );
  for (const name of ["servers", "grace"]) {
    if (!/^[1-9]\d{0,4}$/.test(own[name])) {
      throw new UserError(`--${name} must be an integer from 1 on: current value is '${own[name]}'`);
    }
    own[name] = Number(own[name]);
  }
  for (const [env] of Object.values(OWN)) delete process.env[env]; // FAULT is for the victim alone
  const reports = (process.env.REPORT || "").split(",").filter((file) => file !== "");
  const handedThrough = { server: [], client: reports.map((file) => `--report=${file}`) };
  for (const [name, values] of Object.entries(given)) {
    if (name === "_" || name === "json" || name === "help" || name in OWN || values === undefined) continue;
    if (CHOSEN.includes(name)) throw new UserError(`--${name} is chosen by the rehearsal`);
    for (const role of ["server", "client"]) {
      if (name in known[role]) handedThrough[role].push(...[values].flat().map((value) => `--${name}=${value}`));
    }
  }
  const value = (role, name) =>
    Number(last(given[name]) ?? (process.env[known[role][name].env] || known[role][name].fallback));
  return {
    own,
    handedThrough,
    sessions: value("client", "sessions"),
    remainingIntervalMs: value("server", "remaining-interval"),
    spreadMs: value("server", "spread"),
    json: given.json,
  };
}

/** Of a flag that was given several times, the last one wins. */
function last(value) {
  return [value].flat().at(-1);
}

/** What a program's --help says of its settings: `{ interval: { env, fallback }, … }`. */
function settingsOf(role, command) {
  const [file, ...args] = commandFor(role, command);
  let text;
  try {
    text = execFileSync(file, [...args, "--help"], { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
  } catch (error) {
    const why = /^\w*Error: .*/m.exec(error.stderr)?.[0] ?? error.message;
    throw new UserError(`Cannot run ${[file, ...args].join(" ")}: ${why}; 'make build' builds the bundles`);
  }
  const rows = text.matchAll(/^ {2}--(\S+) +([A-Z_]+) +(\S*)/gm);
  return Object.fromEntries([...rows].map(([, name, env, fallback]) => [name, { env, fallback }]));
}

/** The default runs the bundles beside this file on this very Node. */
function commandFor(role, command) {
  if (command === OWN.command[1]) return [process.execPath, fileURLToPath(new URL(`dist/${role}.js`, import.meta.url))];
  return command.replaceAll("{role}", role).split(" ");
}

/** Starts one program; its log lines go on to stderr with its name before them. */
function start(role, name, flags, command) {
  const [file, ...rest] = commandFor(role, command);
  // What a program writes comes out of our own streams: they decide on colour.
  const coloured = kleur.enabled && (role === "server" || process.stdout.isTTY);
  const env = { ...process.env, ...coloured ? { FORCE_COLOR: "1" } : {} };
  const child = spawn(file, [...rest, ...flags], { stdio: ["ignore", "pipe", "pipe"], env });
  const program = { child, name, lines: [], output: "", waiting: [] };
  child.stdout.setEncoding("utf8").on("data", (text) => program.output += text);
  createInterface({ input: child.stderr }).on("line", (line) => {
    process.stderr.write(`${kleur.dim(`[${name}]`)} ${line}\n`);
    if (program.lines.push(line) > 1000) program.lines.shift();
    for (const waiter of program.waiting) if (hasAction(line, waiter.action)) waiter.resolve(line);
  });
  program.exited = new Promise((resolve) => {
    let at; // `exit` is the moment, `close` comes when the last line has been read
    child.on("error", (error) => {
      console.error(`Cannot start ${file}: ${error.message}`);
      resolve({ code: 2, at: performance.now() });
    });
    child.on("exit", () => at = performance.now());
    child.on("close", (code, signal) => resolve({ code, signal, at }));
  });
  /** The first line with this action; the end of the rehearsal where the process ends before it. */
  program.says = (action) => {
    const said = program.lines.find((line) => hasAction(line, action));
    if (said !== undefined) return Promise.resolve(said);
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new UserError(`${name} did not say '${action}' in time`)),
        START_TIMEOUT_MS,
      );
      program.waiting.push({ action, resolve: (line) => (clearTimeout(timer), resolve(line)) });
      program.exited.then(({ code }) =>
        reject(new UserError(code === 2 ? "" : `${name} ended before it said '${action}'`)) // with 2 it has said why
      );
    });
  };
  children.push(program);
  return program;
}

function hasAction(line, action) {
  return line.includes(`"event.action":"${action}"`) || new RegExp(`^\\S+ \\S*${action}\\b`).test(line);
}

/** Resident memory, from /proc on Linux and ps elsewhere; NaN of a process that is gone. */
function residentBytes({ child: { pid, exitCode, signalCode } }) {
  if (exitCode !== null || signalCode !== null) return NaN;
  const text = process.platform === "linux"
    ? /VmRSS:\s*(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]
    : execFileSync("ps", ["-o", "rss=", "-p", String(pid)], { encoding: "utf8" });
  return Number(text) * 1024;
}

function perSession(bytes, sessions) {
  return sessions < SESSIONS_TO_MEASURE_MEMORY || Number.isNaN(bytes) ? null : Math.round(bytes / sessions);
}

/** The time that the drain is meant to take: the longest session's remaining messages, and when its turn came. */
function scriptedMs(handovers, intervalMs, spreadMs) {
  const drains = handovers.filter(({ remaining }) => remaining !== null).map(({ remaining, endedMs, noticeMs }) => ({
    told: spreadMs === 0 ? 0 : endedMs - noticeMs,
    ms: (remaining.announced ?? remaining.received) * intervalMs,
    whole: remaining.received >= (remaining.announced ?? 0),
  }));
  if (drains.length === 0 || !drains.every(({ whole }) => whole)) return null; // it did not play its script
  const first = drains.reduce((least, { told }) => Math.min(least, told), Infinity);
  return Math.round(drains.reduce((most, { told, ms }) => Math.max(most, told - first + ms), 0));
}

function renderText(output, cost, findings) {
  const [verdict, ...body] = output.trimEnd().split("\n").reverse();
  const ms = (value) => value === null ? "n/a" : `${Math.round(value)} ms`;
  const kb = (bytes) => `${(bytes / 1024).toFixed(1)} KB`;
  const { serverBytesPerSession: server, clientBytesPerSession: client } = cost;
  const memory = server === null || client === null
    ? `n/a (it takes ${SESSIONS_TO_MEASURE_MEMORY} sessions, and a server that is still there)`
    : `server ${kb(server)}, client ${kb(client)} a session`;
  return [
    ...body.reverse(),
    ...findings.flatMap(({ name, text }) => [`${name}  ${text}`, ""]),
    `Cost         ${cost.sessions} session${cost.sessions === 1 ? "" : "s"}, ${cost.messages} messages verified`,
    `  exit       ${ms(cost.exitMs)} from SIGTERM = ${ms(cost.scriptedMs)} scripted + ${ms(cost.overheadMs)} overhead`,
    `  reconnect  p50 ${ms(cost.reconnectP50Ms)}, p99 ${ms(cost.reconnectP99Ms)}`,
    `  memory     ${memory}`,
    "",
    verdict,
    "",
  ].join("\n");
}

function usage(known) {
  const own = Object.entries(OWN).map(([name, [env, fallback, meaning]]) => [`--${name}`, env, fallback, meaning]);
  const rows = [...own, ["--json", "", "", "print { verdict, handovers, cost, findings } on stdout"]];
  const flags = [...new Set([...Object.keys(known.server), ...Object.keys(known.client)])].filter((name) =>
    !(name in OWN) && !CHOSEN.includes(name)
  );
  return "Usage: node rehearse.mjs [settings]\n\nPlays a pod deletion on this machine and judges it.\n\n" +
    rows.map(([flag, env, fallback, meaning]) =>
      `  ${flag.padEnd(10)} ${env.padEnd(8)} ${fallback.padEnd(19)} ${meaning}\n`
    ).join("") +
    `\nHanded through to servers and client, see their --help:\n\n  ${flags.map((flag) => `--${flag}`).join(" ")}\n`;
}
