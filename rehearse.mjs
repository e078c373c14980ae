// Plays a pod deletion on one machine, with the real programs: servers, one client, SIGTERM to the server in use,
// SIGKILL after the grace period as kubelet does it, and the client's verdict on the sessions that this server held.
//
//   node rehearse.mjs --sessions 100 --fault exit-mid-drain
//   node rehearse.mjs --server 'node my-server.js' --path /socket
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { connect, createServer } from "node:net";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import kleur from "kleur";
import mri from "mri";

const OWN = {
  servers: ["SERVERS", "2", "server processes to start"],
  grace: ["GRACE", "30s", "from SIGTERM to SIGKILL: 30s, 2m, 500ms; a bare number is seconds"],
  fault: ["FAULT", "none", "the promise that the victim breaks"],
  server: ["SERVER", "", "your own server's command instead; its port is PORT, and {port} in the command"],
  path: ["SERVER_PATH", "/", "with --server: the path of its WebSocket URL"],
  "start-timeout": ["START_TIMEOUT", "60s", "with --server: how long it may take to listen"],
  command: ["COMMAND", "node dist/{role}.js", "another build of this project: {role} is server or client"],
};
/** Settings that the rehearsal itself must choose. */
const CHOSEN = ["port", "host", "name", "admin-port", "url", "handovers", "timeout", "disrupt", "evidence"];
/** Settings without which there is no rehearsal: a program that does not have them is another one. */
const NEEDED = {
  server: ["port", "host", "admin-port", "name", "fault", "remaining-interval", "spread"],
  client: ["url", "admin-port", "sessions", "handovers", "timeout", "report"],
};
/** Bytes per session mean nothing below this: the noise of a process is larger. */
const SESSIONS_TO_MEASURE_MEMORY = 1000;
const HELP_TIMEOUT_MS = 10_000;
const START_TIMEOUT_MS = 120_000;
/** After the grace: when the client must judge what it has, and when it is killed; the end comes within 30 s. */
const STOP_AFTER_GRACE_MS = 25_000;
const KILL_AFTER_GRACE_MS = 29_000;
const POLL_INTERVAL_MS = 50;
/** From the last session of somebody's own server to the signal. */
const OWN_SETTLE_MS = 1500;
/** What is kept of a program's stdout, in characters. */
const MAX_OUTPUT = 2 ** 24;
const MAX_TIMER_MS = 2 ** 31 - 1;

kleur.enabled = Boolean(process.stderr.isTTY) && process.env.NO_COLOR === undefined;

process.stderr.on("error", () => {}); // a log that nobody can take must not change the verdict
process.stdout.on("error", ({ code, message }) => {
  if (code === "EPIPE") return; // a reader who has left has seen enough
  console.error(`Cannot write to stdout: ${message}`);
  process.exitCode = 2;
});
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(130));

/** A mistake of the user: one line on stderr, exit 2; none where a program has said it already. */
class UserError extends Error {}

async function main() {
  const guard = new Guard();
  const options = await readOptions(guard);
  if (options === undefined) return;
  const { own, handedThrough, sessions, json } = options;
  const reportFile = join(guard.folder, "result.json");

  // Start. The victim comes first, so that every session starts there; one after the other, so that a bad setting is
  // told once.
  const servers = [];
  for (let number = 1; number <= own.servers; number++) {
    if (own.server !== "") {
      servers.push(await startOwn(guard, `server-${number}`, own));
      continue;
    }
    const where = ["--host", "127.0.0.1", "--port", "0", "--admin-port", "0"];
    const who = ["--name", `server-${number}`, "--fault", number === 1 ? own.fault : "none"];
    const command = [...commandFor("server", own.command), ...where, ...who, ...handedThrough.server];
    const server = new Program(guard, `server-${number}`, command, colours(process.stderr));
    const port = portIn(await server.says("listening"), /:(\d+)\/ws/, server);
    server.url = `ws://127.0.0.1:${port}/ws`; // thousands of dials need not ask who localhost is
    servers.push(server);
  }
  const [victim, ...others] = servers;
  const idleServerBytes = victim.residentBytes();

  const urls = servers.flatMap(({ url }) => ["--url", url]);
  const flags = [...urls, "--admin-port", "0", "--handovers", "0", "--timeout", "0", "--report", reportFile];
  // An older build knows no evidence, and names no cause.
  if (options.knowsEvidence) flags.push("--disrupt", "watch", "--evidence=-");
  const command = [...commandFor("client", own.command), ...flags, ...handedThrough.client];
  const client = new Program(guard, "client", command, colours(process.stdout));
  const kubelet = new Kubelet((line) => options.knowsEvidence && client.hear(line), own.graceMs);
  for (const server of servers) kubelet.run(server);
  const adminPort = portIn(await client.says("started"), /admin port (\d+)|"adminPort":(\d+)/, client);
  const ask = (path) => get(`http://127.0.0.1:${adminPort}${path}`);
  const idleClientBytes = client.residentBytes();

  // Wait, until every session has been acknowledged in both directions; of somebody's own server, until all are connected,
  // for as long as sessions must live to count. Whatever ends early is judged as well.
  const steady = own.server === "" ? client.says("steady") : untilHeld(client, ask, own.startTimeoutMs);
  await Promise.race([steady, victim.exited, client.exited]);
  const memory = {
    serverBytesPerSession: perSession(victim.residentBytes() - idleServerBytes, sessions),
    clientBytesPerSession: perSession(client.residentBytes() - idleClientBytes, sessions),
  };
  const held = sessionsOn(victim, await ask("/report"));
  if (own.fault === "crash" && held > 0) await Promise.race([victim.exited, client.exited, pause(START_TIMEOUT_MS)]);

  // Signal, as kubelet does it: SIGTERM to the process, and when the grace is over SIGKILL to all that it started.
  const crashed = victim.hasExited;
  const signalledAt = performance.now();
  let killed = false;
  if (!crashed) kubelet.delete(victim);
  victim.terminate();
  const kill = setTimeout(() => killed = victim.kill(), own.graceMs);
  victim.exited.then(() => clearTimeout(kill));
  // The client gets a chance to give its verdict before its time is up, too.
  const stop = setTimeout(() => client.terminate(), own.graceMs + STOP_AFTER_GRACE_MS);
  const giveUp = setTimeout(() => client.kill(), own.graceMs + KILL_AFTER_GRACE_MS);

  // Wait, until the victim's sessions have been judged.
  const exit = await victim.exited;
  kubelet.end(victim, exit);
  await untilSettled(client, ask);
  client.terminate();
  const { code } = await client.exited;
  [stop, giveUp].forEach(clearTimeout);
  if (code === 2) throw new UserError(); // it has said why
  if (code !== 0 && code !== 1) throw new UserError("The client gave no verdict");
  others.forEach((server) => server.terminate());
  await Promise.race([Promise.all(servers.map(({ exited }) => exited)), pause(1000)]);

  // Judge: the verdict is the client's, if it has seen what was to be seen.
  const result = parseResult(existsSync(reportFile) ? readFileSync(reportFile, "utf8") : "");
  const findings = [];
  const unjudged = whyUnjudged(result.handovers, victim, held);
  if (unjudged !== null) findings.push({ name: "NOT_JUDGED", text: unjudged });
  if (killed && !result.findings.some(({ name }) => name === "EXIT_HUNG")) {
    const name = result.verdict === "PASS" ? "EXIT_HUNG" : "SIGKILL";
    const text = `${victim.name} had not exited ${own.graceMs / 1000} s after SIGTERM, and was killed with SIGKILL`;
    findings.push({ name, text });
  }
  const unconfirmed = victim.said("drain-complete")?.match(/(\d+) unconfirmed/)?.[1];
  if (unconfirmed) {
    findings.push({ name: "UNCONFIRMED_CLOSE", text: `peers that did not answer the close frame: ${unconfirmed}` });
  }
  const verdict = unjudged === null ? result.verdict : "FAIL";
  const exitMs = crashed ? null : Math.round(exit.at - signalledAt);
  const isScripted = exitMs !== null && !killed && own.server === "";
  const scripted = isScripted ? scriptedMs(result.handovers, options) : null;
  const cost = {
    sessions,
    messages: result.messages.received + result.messages.sent,
    exitMs,
    scriptedMs: scripted,
    overheadMs: scripted === null ? null : exitMs - scripted,
    reconnectP50Ms: result.reconnect.p50Ms,
    reconnectP99Ms: result.reconnect.p99Ms,
    lateMaxMs: result.witness?.maxLateMs ?? null,
    lateTotalMs: result.witness?.totalLateMs ?? null,
    ...memory,
  };

  // Print.
  const lastLine = verdict === result.verdict ? undefined : `${verdict}  ${unjudged}`;
  const text = json
    ? `${JSON.stringify({ verdict, handovers: result.handovers, cost, findings: [...result.findings, ...findings] })}\n`
    : renderText(client.output, cost, findings, lastLine);
  await new Promise((resolve) => process.stdout.write(text, resolve));
  process.exit(process.exitCode ?? (verdict === "PASS" ? 0 : 1));
}

/** Somebody's own server, up once its port accepts; a `UserError` where it does not. */
async function startOwn(guard, name, { server: command, path, startTimeoutMs }) {
  const port = await freePort();
  const filled = command.replaceAll("{port}", String(port));
  // As a container's PID 1 gets its signals, and no shell before it, where the command needs none.
  const script = /[;&|<>()]/.test(filled) ? filled : `exec ${filled}`;
  const server = new Program(guard, name, ["sh", "-c", script], { PORT: String(port) }, true);
  const startedAt = performance.now();
  while (!await accepts(port)) {
    if (server.hasExited) {
      const { code, signal } = await server.exited;
      throw new UserError(`${name} ended with ${code ?? signal} and never listened on port ${port}: ${filled}`);
    }
    if (performance.now() - startedAt > startTimeoutMs) {
      throw new UserError(`${name} did not listen on port ${port} in time (PORT, or {port} in the command): ${filled}`);
    }
    await pause(POLL_INTERVAL_MS);
  }
  server.url = `ws://127.0.0.1:${port}${path}`;
  return server;
}

/** A port that was free a moment ago. */
function freePort() {
  return new Promise((resolve) => {
    const server = createServer().listen(0, "127.0.0.1", () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

function accepts(port) {
  return new Promise((resolve) => {
    const socket = connect({ port, host: "127.0.0.1" });
    socket.once("error", () => resolve(false)).once("connect", () => {
      socket.destroy();
      resolve(true);
    });
  });
}

/** Sees to it that nothing outlives this process, however it ends: neither the programs that it started nor its files. */
class Guard {
  /** For files of this run: nobody else can look into it, or know its name beforehand. */
  folder = mkdtempSync(join(tmpdir(), "rehearsal-"));
  #groups = new Set();
  #survivor;

  constructor() {
    // A SIGKILL leaves no time for anything, but it closes the pipe. Each line that comes through it is all the process
    // groups that there are; detached, because a terminal's Ctrl-C must not end it before us.
    const script =
      'all=; while read -r groups; do all=$groups; done; [ -z "$all" ] || kill -s KILL -- $all; rm -rf "$0"';
    const stdio = ["pipe", "ignore", "ignore"];
    this.#survivor = spawn("sh", ["-c", script, this.folder], { detached: true, stdio });
    this.#survivor.on("error", ({ message }) => {
      console.error(`Cannot start sh: ${message}`);
      process.exit(2);
    });
    this.#survivor.stdin.on("error", () => {}); // somebody has killed it: the exit handler is left
    this.#survivor.stdin.unref();
    this.#survivor.unref();
    process.on("exit", () => {
      for (const group of this.#groups) killGroup(group);
      rmSync(this.folder, { recursive: true, force: true });
    });
  }

  /** A process that leads a group of its own. */
  add(pid) {
    this.#groups.add(pid);
    this.#tell();
  }

  /** Its leader has ended: what is left of the group ends with it, as in a container. */
  remove(pid) {
    killGroup(pid);
    this.#groups.delete(pid);
    this.#tell();
  }

  #tell() {
    this.#survivor.stdin.write(`${[...this.#groups].map((pid) => -pid).join(" ")}\n`);
  }
}

function killGroup(pid) {
  try {
    process.kill(-pid, "SIGKILL");
    return true;
  } catch {
    return false; // nobody is left in it
  }
}

/** Tells the client what a cluster's watches would tell of the servers: each is a pod with one container. */
class Kubelet {
  #tell;
  #graceMs;
  #pods = new Map();

  constructor(tell, graceMs) {
    this.#tell = tell;
    this.#graceMs = graceMs;
  }

  run({ name, url }) {
    const status = { name: "server", restartCount: 0, state: { running: {} } };
    this.#pods.set(name, {
      metadata: { name, uid: name, resourceVersion: "" },
      spec: { terminationGracePeriodSeconds: this.#graceMs / 1000, containers: [{ name: "server" }] },
      status: {
        phase: "Running",
        podIP: new URL(url).host,
        conditions: [{ type: "Ready", status: "True" }],
        containerStatuses: [status],
      },
    });
    this.#show(name, "ADDED");
  }

  delete({ name }) {
    const { metadata } = this.#pods.get(name);
    metadata.deletionTimestamp = new Date(Date.now() + this.#graceMs).toISOString();
    metadata.deletionGracePeriodSeconds = this.#graceMs / 1000;
    this.#show(name, "MODIFIED");
  }

  /** The process has ended: as a container runtime says it, with 128 + the signal that ended it. */
  end({ name }, { code, signal }) {
    const { status } = this.#pods.get(name);
    const exitCode = code ?? 128 + constants.signals[signal];
    const terminated = { exitCode, reason: exitCode === 0 ? "Completed" : "Error", containerID: name };
    Object.assign(status, { phase: exitCode === 0 ? "Succeeded" : "Failed", conditions: [] });
    status.containerStatuses[0].state = { terminated };
    this.#show(name, "MODIFIED");
  }

  #show(name, type) {
    this.#tell(JSON.stringify({ stream: "pods", type, object: this.#pods.get(name) }));
  }
}

/** A program that the rehearsal runs; where it has a name, its log lines go on to stderr with it before them. */
class Program {
  name;
  /** What it wrote to stdout. */
  output = "";
  /** Settles when it has ended and its last line is read; `at` is performance.now() of its exit, `error` why it never ran. */
  exited;
  hasExited = false;
  #child;
  #isTold = false;
  #lines = [];
  #waiting = new Set();

  /** With `isForeign` what it says on stdout are log lines as well. */
  constructor(guard, name, [file, ...args], env = {}, isForeign = false) {
    this.name = name;
    const options = { detached: true, stdio: ["pipe", "pipe", "pipe"], env: { ...process.env, ...env } };
    this.#child = spawn(file, args, options);
    const { pid, stdin, stdout, stderr } = this.#child;
    stdin.on("error", () => {}); // it has ended, or does not listen
    if (pid !== undefined) guard.add(pid);
    const keep = (text) => {
      if (this.output.length < MAX_OUTPUT) this.output += text;
    };
    if (isForeign) createInterface({ input: stdout }).on("line", (line) => this.#onLine(line));
    else stdout.setEncoding("utf8").on("data", keep);
    if (name === undefined) stderr.setEncoding("utf8").on("data", keep);
    else createInterface({ input: stderr }).on("line", (line) => this.#onLine(line));
    this.exited = new Promise((resolve) => {
      let at; // `exit` is the moment, `close` comes when the last line has been read
      this.#child.on("error", (error) => resolve({ code: 2, at: performance.now(), error }));
      this.#child.on("exit", () => {
        at = performance.now();
        guard.remove(pid);
        // Who has left the group may hold the pipes for ever.
        setTimeout(() => [stdout, stderr].forEach((stream) => stream.destroy()), 5000).unref();
      });
      this.#child.on("close", (code, signal) => resolve({ code, signal, at }));
    });
    this.exited.then(() => this.hasExited = true);
  }

  #onLine(line) {
    process.stderr.write(`${kleur.dim(`[${this.name}]`)} ${line}\n`);
    if (this.#lines.push(line) > 1000) this.#lines.shift();
    for (const check of this.#waiting) check(line);
  }

  /** The last line with this action, so far. */
  said(action) {
    return this.#lines.findLast((line) => hasAction(line, action));
  }

  /** The line with this action; a `UserError` where the program ends before it, or does not say it in time. */
  says(action) {
    const said = this.said(action);
    if (said !== undefined) return Promise.resolve(said);
    return new Promise((resolve, reject) => {
      const late = () => reject(new UserError(`${this.name} did not say '${action}' in time`));
      const timer = setTimeout(late, START_TIMEOUT_MS);
      const check = (line) => {
        if (!hasAction(line, action)) return;
        clearTimeout(timer);
        this.#waiting.delete(check);
        resolve(line);
      };
      this.#waiting.add(check);
      this.exited.then(({ code, error }) => {
        if (error !== undefined) reject(new UserError(`Cannot start ${this.name}: ${error.message}`));
        reject(new UserError(code === 2 ? "" : `${this.name} ended before it said '${action}'`)); // with 2 it has said why
      });
    });
  }

  /** A line for its stdin. */
  hear(line) {
    this.#child.stdin.write(`${line}\n`);
  }

  /** SIGTERM, once, to the process alone: kubelet signals a container's PID 1. */
  terminate() {
    if (!this.#isTold) this.#child.kill("SIGTERM");
    this.#isTold = true;
  }

  /** SIGKILL, to all that it started as well; whether anybody was there. */
  kill() {
    return !this.hasExited && killGroup(this.#child.pid);
  }

  /** Resident memory, from /proc on Linux and ps elsewhere; NaN of a process that is gone. */
  residentBytes() {
    const { pid, exitCode, signalCode } = this.#child;
    if (exitCode !== null || signalCode !== null) return NaN;
    const text = process.platform === "linux"
      ? /VmRSS:\s*(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]
      : execFileSync("ps", ["-o", "rss=", "-p", String(pid)], { encoding: "utf8" });
    return Number(text) * 1024;
  }
}

function hasAction(line, action) {
  return line.includes(`"event.action":"${action}"`) || new RegExp(`^\\S+ \\S*${action}\\b`).test(line);
}

function portIn(line, pattern, { name }) {
  const [, ...ports] = pattern.exec(line) ?? [];
  const port = ports.find((port) => port !== undefined);
  if (port === undefined) throw new UserError(`${name} did not say its port: ${line}`);
  return port;
}

/** What a program writes comes out of our own streams: they decide on colour. */
function colours(stream) {
  return kleur.enabled && stream.isTTY ? { FORCE_COLOR: "1" } : {};
}

// ---- What is asked of the client, and what of its answers counts

/** What an admin path answers; undefined where nobody does. */
async function get(url) {
  try {
    const response = await fetch(url);
    return { status: response.status, body: await response.text() };
  } catch {
    return undefined;
  }
}

/** How many sessions a server holds, by the client's report; null where that is not known. */
function sessionsOn({ name, url }, report) {
  if (report?.status !== 200) return null;
  const { byServer } = parseResult(report.body).sessions;
  return (byServer[name] ?? 0) + (byServer[url] ?? 0); // in the plain dialect a server has no other name than its URL
}

/** Until every session is connected and every handover judged, or the client has ended. */
async function untilSettled(client, ask) {
  // The first such answer may have overtaken the news of a cut: what was there before it has been read by the second.
  for (let calm = 0; calm < 2 && !client.hasExited;) {
    await pause(POLL_INTERVAL_MS);
    const ready = await ask("/readyz");
    calm = ready?.status === 200 && ready.body.includes(", 0 handovers in flight") ? calm + 1 : 0;
  }
}

/** Until every session is connected, and has been for a while; a client that is not in time is ended, and says why. */
async function untilHeld(client, ask, patienceMs) {
  const late = setTimeout(() => client.terminate(), patienceMs);
  await untilSettled(client, ask);
  clearTimeout(late);
  await pause(OWN_SETTLE_MS);
}

function pause(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** The client's result; a `UserError` where it is none of ours. */
function parseResult(text) {
  let result;
  try {
    result = JSON.parse(text);
  } catch {
    // as below
  }
  const { sessions, messages, reconnect, findings, handovers } = result ?? {};
  const lists = [findings, handovers].every(Array.isArray);
  if (lists && [sessions?.byServer, messages, reconnect].every((part) => part instanceof Object)) return result;
  throw new UserError("The client's result is not one of this project's client: see --command");
}

/** Why the handovers say nothing, or not enough, of the victim; null where they do. `held`: null if that is not known. */
function whyUnjudged(handovers, { name, url }, held) {
  const judged = handovers.filter(({ from, verdict }) => (from === name || from === url) && verdict !== "unfinished");
  if (judged.length === 0 && !held) return `no session was on ${name}: nothing to judge`;
  if (judged.length >= held) return null;
  return `${judged.length} of ${held} session${held === 1 ? "" : "s"} that ${name} held could be judged`;
}

function perSession(bytes, sessions) {
  return sessions < SESSIONS_TO_MEASURE_MEMORY || Number.isNaN(bytes) ? null : Math.round(bytes / sessions);
}

/** The time that the drain is meant to take: the longest session's remaining messages, and when its turn came. */
function scriptedMs(handovers, { remainingIntervalMs, spreadMs }) {
  const drains = handovers.filter(({ remaining }) => remaining !== null).map(({ remaining, endedMs, noticeMs }) => ({
    told: spreadMs === 0 ? 0 : endedMs - noticeMs,
    ms: (remaining.announced ?? remaining.received) * remainingIntervalMs,
    whole: remaining.received >= (remaining.announced ?? 0),
  }));
  if (drains.length === 0 || !drains.every(({ whole }) => whole)) return null; // it did not play its script
  const first = drains.reduce((least, { told }) => Math.min(least, told), Infinity);
  return Math.round(drains.reduce((most, { told, ms }) => Math.max(most, told - first + ms), 0));
}

// ---- Settings: our own, and those of the programs, which are handed through to whoever knows them

/** What was asked for; undefined where that was help. */
async function readOptions(guard) {
  // Both programs are asked for their settings: a list here would drift.
  const { command: asked, server: foreign } = mri(process.argv.slice(2), { string: ["command", "server"] });
  const command = last(asked) || process.env.COMMAND || OWN.command[1];
  const isForeign = (last(foreign) || process.env.SERVER || "") !== "";
  const roles = isForeign ? ["client"] : ["client", "server"];
  const [client, server = {}] = await Promise.all(roles.map((role) => settingsOf(guard, role, command)));
  const known = { server, client };
  const names = [...Object.keys(OWN), ...Object.keys({ ...server, ...client }), "json", "help"];
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
  if (!/^[1-9]\d{0,4}$/.test(own.servers)) {
    throw new UserError(`--servers must be an integer from 1 on: current value is '${own.servers}'`);
  }
  own.servers = Number(own.servers);
  own.command = command;
  own.graceMs = durationMs(own.grace, "s");
  if (!(own.graceMs > 0 && own.graceMs + KILL_AFTER_GRACE_MS <= MAX_TIMER_MS)) {
    throw new UserError(`--grace must be a duration such as 30s, 2m or 500ms: current value is '${own.grace}'`);
  }
  own.startTimeoutMs = durationMs(own["start-timeout"], "s");
  if (!(own.startTimeoutMs > 0)) {
    throw new UserError(`--start-timeout must be a duration such as 60s: current value is '${own["start-timeout"]}'`);
  }
  if (isForeign && own.fault !== "none") {
    throw new UserError("--fault is for this project's own server, not for --server");
  }
  if (!own.path.startsWith("/")) throw new UserError(`--path must begin with /: current value is '${own.path}'`);
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
  const value = (role, name) => last(given[name]) ?? (process.env[known[role][name].env] || known[role][name].fallback);
  const serverMs = (name) => isForeign ? 0 : durationMs(value("server", name), "ms");
  return {
    own,
    handedThrough,
    sessions: Number(value("client", "sessions")),
    knowsEvidence: Object.hasOwn(client, "evidence"),
    remainingIntervalMs: serverMs("remaining-interval"),
    spreadMs: serverMs("spread"),
    json: given.json,
  };
}

/** Of a flag that was given several times, the last one wins. */
function last(value) {
  return [value].flat().at(-1);
}

/** A duration with or without its unit, in ms; NaN of what is none. */
function durationMs(text, unitOfBare) {
  const [, number, unit = unitOfBare] = /^(\d+(?:\.\d+)?)(ms|s|m|h)?$/.exec(text) ?? [];
  return Number(number) * { ms: 1, s: 1000, m: 60_000, h: 3_600_000 }[unit];
}

/** What a program's --help says of its settings: `{ interval: { env, fallback }, … }`. */
async function settingsOf(guard, role, command) {
  const asked = [...commandFor(role, command), "--help"];
  const program = new Program(guard, undefined, asked);
  const timer = setTimeout(() => program.kill(), HELP_TIMEOUT_MS);
  const { code, signal, error } = await program.exited;
  clearTimeout(timer);
  const rows = program.output.matchAll(/^ {2}--(\S+) +([A-Z_]+) +(\S*)/gm);
  const settings = Object.fromEntries([...rows].map(([, name, env, fallback]) => [name, { env, fallback }]));
  const missing = NEEDED[role].filter((name) => !Object.hasOwn(settings, name));
  if (missing.length === 0 && code === 0) return settings;

  const why = error?.message ?? /^\w*Error: .*/m.exec(program.output)?.[0] ??
    (signal === "SIGKILL"
      ? `it was still running after ${HELP_TIMEOUT_MS / 1000} s`
      : missing.length > 0
      ? `it does not list ${missing.map((name) => `--${name}`).join(", ")}`
      : `it ended with ${code ?? signal}`);
  const whatFor = command === OWN.command[1]
    ? "'make build' builds the bundles"
    : "--command is for another build of this project's own server and client ({role})";
  throw new UserError(`Cannot run ${asked.join(" ")}: ${why}; ${whatFor}`);
}

/** The default runs the bundles beside this file on this very Node. */
function commandFor(role, command) {
  if (command === OWN.command[1]) return [process.execPath, fileURLToPath(new URL(`dist/${role}.js`, import.meta.url))];
  return command.replaceAll("{role}", role).split(" ").filter((word) => word !== "");
}

// ---- Text

/** The client's report with what the rehearsal adds before the verdict, which is the client's unless `lastLine` is given. */
function renderText(output, cost, findings, lastLine) {
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
    lastLine ?? verdict,
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
      `  ${flag.padEnd(15)} ${env.padEnd(13)} ${fallback.padEnd(19)} ${meaning}\n`
    ).join("") +
    `\nHanded through to servers and client, see their --help:\n\n  ${flags.map((flag) => `--${flag}`).join(" ")}\n`;
}

main().catch((error) => {
  if (!(error instanceof UserError)) console.error(error);
  else if (error.message) console.error(error.message);
  process.exit(2);
});
