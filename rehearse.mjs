// Plays a pod deletion on one machine, with the real programs: servers, one client, SIGTERM to the server in use,
// SIGKILL after the grace period as kubelet does it, and the client's verdict on the sessions that this server held.
//
//   node rehearse.mjs --sessions 100 --fault exit-mid-drain
//   node rehearse.mjs --server 'node my-server.js' --path /socket
//   node rehearse.mjs --service --disrupt rollout --pre-stop 5s
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { get as httpGet } from "node:http";
import { constants, tmpdir } from "node:os";
import { join } from "node:path";
import { connect, createServer } from "node:net";
import { monitorEventLoopDelay } from "node:perf_hooks";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import kleur from "kleur";
import mri from "mri";
import { builtHelp, checkReports, protocol, settingsIn, writeReports } from "./report.mjs";

const { called, joinValues, redactUrl, run, toJson, UserError, withoutSecrets } = protocol;

const OWN = {
  servers: ["SERVERS", "2", "server processes to start"],
  grace: ["GRACE", "30s", "from the deletion to SIGKILL: 30s, 2m, 500ms; a bare number is seconds"],
  fault: ["FAULT", "none", "the promise that the victim breaks"],
  server: ["SERVER", "", "your own server's command instead; its port is PORT, and {port} in the command"],
  path: ["SERVER_PATH", "/", "with --server: the path of its WebSocket URL"],
  "start-timeout": ["START_TIMEOUT", "60s", "with --server: how long it may take to listen"],
  service: ["SERVICE", "", "a switch: one address in between, which spreads new connections over the ready instances"],
  disrupt: ["DISRUPT", "delete", "with --service: delete, rollout or scale-in"],
  replace: ["REPLACE", "", "a switch, with --service: another instance is ready before one is deleted"],
  "pre-stop": ["PRE_STOP", "0s", "with --service: from the deletion to SIGTERM; it is part of the grace"],
  propagation: [
    "PROPAGATION",
    "1s",
    "with --service: how long a change takes to reach those who route new connections",
  ],
  command: ["COMMAND", "node dist/{role}.js", "another build of this project: {role} is server or client"],
};
/** Those that are on or off. */
const SWITCHES = ["service", "replace"];
/** Those that mean nothing without --service. */
const OF_SERVICE = ["disrupt", "replace", "pre-stop", "propagation"];
/** Settings that the rehearsal itself must choose. */
const CHOSEN = ["port", "host", "name", "admin-port", "url", "handovers", "timeout", "evidence"];
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
/** To answer, a client looks at each of its sessions: it is asked less often the more it has. */
const POLL_INTERVAL_MS_PER_SESSION = 0.05;
/** What the Service in between is late by less than this decides nothing. */
const LATE_MS = 500;
/** What kubelet leaves at the least from SIGTERM to SIGKILL, also where preStop has taken all the grace. */
const LEAST_KILL_MS = 2000;
/** A connection that is younger may be a probe's, or a session that does not count yet. */
const LIFE_MS = 1500;
/** A pod is not ready before: it is scheduled, its sandbox made, its first probe answered. */
const LEAST_READY_MS = 2000;
/** A move that takes longer than --max-reconnect has failed by then, however late a dial is. */
const AFTER_RECONNECT_MS = 1000;
/** So many probes must have led elsewhere before the client says that a race is over. */
const PROBES_AFTER_RACE = 6;
/** Every dial of so many, for so long, was refused by the server itself: it is not starting any more. */
const REFUSED_DIALS = 3;
const REFUSED_MS = 5000;
/** From the last session of somebody's own server to the signal. */
const OWN_SETTLE_MS = 1500;
/** What is kept of a program's stdout, in characters. */
const MAX_OUTPUT = 2 ** 24;
const MAX_TIMER_MS = 2 ** 31 - 1;

kleur.enabled = Boolean(process.stderr.isTTY) && process.env.NO_COLOR === undefined;

process.stderr.on("error", () => {}); // a log that nobody can take must not change the verdict
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => process.exit(130));

async function main() {
  const guard = new Guard();
  const options = await readOptions(guard);
  if (options === undefined) return;
  const { own, sessions } = options;
  // Our own programs say at once what is wrong with their settings, but somebody's server may take a while to listen.
  if (own.server !== "") {
    await checkClient(guard, options);
    notes.show();
  }

  // Start. One server after the other, so that a bad setting is told once.
  const deployment = new Deployment(guard, options);
  for (let number = 1; number <= own.servers; number++) await deployment.start();
  const [victim] = deployment.instances;
  const service = own.service ? await Service.open(deployment.instances, own.propagationMs) : undefined;
  const idleServerBytes = victim.residentBytes();
  const client = new Client(guard, options, addressesOf(deployment, service));
  const { graceMs, preStopMs } = own;
  const watches = new Watches({ client, service, graceMs, preStopMs });
  const kubelet = new Kubelet({ watches, service, graceMs, preStopMs });
  for (const server of deployment.instances) kubelet.run(server);
  await client.start();
  notes.show();
  const idleClientBytes = client.residentBytes();

  // Wait, until every session has been acknowledged in both directions; of somebody's own server, until all are connected,
  // for as long as sessions must live to count. Whatever ends early is judged as well.
  const steady = own.server === "" ? client.says("steady") : client.holds(own.startTimeoutMs);
  await Promise.race([steady, victim.exited, client.exited]);
  if (client.hasExited && (await client.exited).code === 2) throw new UserError(); // it has said why
  const memory = {
    // Behind a Service one server does not have them all.
    serverBytesPerSession: service ? null : perSession(victim.residentBytes() - idleServerBytes, sessions),
    clientBytesPerSession: perSession(client.residentBytes() - idleClientBytes, sessions),
  };

  // Disrupt, and wait until the sessions of all that ended have been judged.
  const endings = await disrupt({ own, deployment, kubelet, client, service });
  const graceAt = Math.max(...endings.map(({ deletedAt }) => deletedAt + own.graceMs));
  // One that takes another's place may have come later than the grace.
  const lastAt = Math.max(graceAt, own.service ? performance.now() : 0);
  const code = await client.judges(lastAt, async () => {
    await service?.settle(options.probeIntervalMs);
    return service?.isDeserted ? options.maxReconnectMs + AFTER_RECONNECT_MS : undefined;
  });
  if (code === 2) throw new UserError(); // it has said why
  if (code !== 0 && code !== 1) throw new UserError("The client gave no verdict");
  await deployment.end();

  await print(client, verdictOn(client.result(), endings, service, options, memory), options);
}

/** The client's word on its settings, before anything is started; an older build says it once it is. */
async function checkClient(guard, options) {
  const addresses = Array(options.own.servers).fill("ws://127.0.0.1/");
  const command = clientCommand(options, addresses, options.reports);
  const { code, output } = await ask(guard, [...command, "--check-settings"]);
  if (code === 2 && !output.includes("Unknown flag --check-settings")) throw new Refused(output.trimEnd());
}

function serverCommand({ own, handedThrough }, name, fault) {
  const where = ["--host", "127.0.0.1", "--port", "0", "--admin-port", "0"];
  const who = ["--name", name, "--fault", fault];
  return [...commandFor("server", own.command), ...where, ...who, ...handedThrough.server];
}

function clientCommand({ own, handedThrough, knowsEvidence }, addresses, reports) {
  const urls = addresses.flatMap((url) => ["--url", url]);
  const files = reports.map((file) => `--report=${file}`);
  const flags = [...urls, "--admin-port", "0", "--handovers", "0", "--timeout", "0", ...files];
  // An older build knows no evidence, and names no cause.
  if (knowsEvidence) flags.push("--disrupt", "watch", "--evidence=-");
  return [...commandFor("client", own.command), ...flags, ...handedThrough.client];
}

/** What a program answers to --help or the like, once it has ended. */
async function ask(guard, command) {
  const program = new Program(guard, undefined, command);
  const timer = setTimeout(() => program.kill(), HELP_TIMEOUT_MS);
  const end = await program.exited;
  clearTimeout(timer);
  return { ...end, output: program.output };
}

/** Where the client dials: the Service, or every instance, the victim's first, so that every session starts there. */
function addressesOf({ instances }, service) {
  return service === undefined ? instances.map(({ url }) => url) : [service.url];
}

/** Ends instances in one of the ways of `DISRUPTIONS`; how each of them ended, once it has. */
async function disrupt({ own, deployment, kubelet, client, service }) {
  const [victim, ...others] = deployment.instances;
  const heldBefore = await client.heldOn(victim, service);
  if (own.fault === "crash" && heldBefore > 0) {
    await Promise.race([victim.exited, client.exited, pause(START_TIMEOUT_MS)]);
  }
  const begin = (instance) => {
    const held = instance === victim ? heldBefore : service.heldOn(instance);
    const deletedAt = performance.now();
    // It has ended by itself: nobody deletes it, or brings another.
    const over = instance.hasExited ? instance.exited.then((exit) => ({ exit })) : kubelet.delete(instance);
    return over.then((end) => ({ instance, held, deletedAt, killedMs: null, signalledAt: null, ...end }));
  };
  const start = async () => {
    const [instance] = await Promise.all([deployment.start(), pause(LEAST_READY_MS)]);
    kubelet.run(instance);
  };
  const how = victim.hasExited ? "scale-in" : own.disrupt;
  return await DISRUPTIONS[how]({ victim, all: [victim, ...others], begin, start, isReplacedFirst: own.replace });
}

/** What becomes of the instances, as their controllers have it. `begin` deletes one, and resolves once it has ended. */
const DISRUPTIONS = {
  /** Nobody takes its place. */
  "scale-in": async ({ victim, begin }) => [await begin(victim)],
  /** The ReplicaSet brings another once one is being deleted. */
  delete: async ({ victim, begin, start, isReplacedFirst }) => {
    if (isReplacedFirst) await start();
    const [ending] = await Promise.all([begin(victim), isReplacedFirst ? undefined : start()]);
    return [ending];
  },
  /** maxSurge 1, maxUnavailable 0: one is deleted once the next is ready, and nobody waits for its end. */
  rollout: async ({ all, begin, start }) => {
    const endings = [];
    for (const instance of all) {
      await start();
      endings.push(begin(instance));
    }
    return await Promise.all(endings);
  },
};

/** The verdict is the client's, if it has seen what was to be seen; with it what the run cost. */
function verdictOn(result, endings, service, options, memory) {
  const unjudged = whyUnjudged(result.handovers, endings, service);
  const added = findingsOf(result, endings, options.own);
  if (unjudged !== null) added.unshift({ name: "NOT_JUDGED", text: unjudged });
  if (service?.lateMs > LATE_MS) {
    const text =
      `for up to ${service.lateMs} ms the Service in between handed nothing on: that is not the server's silence`;
    added.push({ name: "SERVICE_SLOW", text });
  }
  const verdict = unjudged === null ? result.verdict : "FAIL";
  return { result, verdict, unjudged, added, cost: costOf(result, endings, options, memory) };
}

function findingsOf(result, endings, { preStopMs }) {
  return endings.flatMap(({ instance, killedMs }) => {
    const findings = [];
    if (killedMs !== null && !result.findings.some(({ name }) => name === "EXIT_HUNG")) {
      const name = result.verdict === "PASS" ? "EXIT_HUNG" : "SIGKILL";
      const since = preStopMs === 0 ? "SIGTERM" : "its deletion";
      const text = `${instance.name} had not exited ${killedMs / 1000} s after ${since}, and was killed with SIGKILL`;
      findings.push({ name, text });
    }
    const unconfirmed = instance.said("drain-complete")?.match(/(\d+) unconfirmed/)?.[1];
    if (unconfirmed) {
      findings.push({ name: "UNCONFIRMED_CLOSE", text: `peers that did not answer the close frame: ${unconfirmed}` });
    }
    return findings;
  });
}

/** Of several that ended, the exit is the slowest's. */
function costOf(result, endings, options, memory) {
  const exits = endings.filter(({ signalledAt }) => signalledAt !== null);
  const exitMs = exits.length === 0
    ? null
    : Math.round(Math.max(...exits.map(({ exit, signalledAt }) => exit.at - signalledAt)));
  const isScripted = endings.length === 1 && exitMs !== null && endings[0].killedMs === null &&
    options.own.server === "";
  const scripted = isScripted ? scriptedMs(result.handovers, options) : null;
  return {
    sessions: options.sessions,
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
}

async function print(client, { result, verdict, unjudged, added, cost }, { own, reports, json }) {
  const lastLine = verdict === result.verdict ? undefined : `${verdict}  ${unjudged}`;
  const shown = shownSettings(own);
  const settings = { ...shown, ...result.settings, ...shown, report: reports };
  const findings = [...result.findings, ...added];
  const whole = { ...result, verdict, summary: lastLine ?? result.summary, cost, findings, settings };
  writeReports(reports, whole);
  const text = json
    ? `${toJson(whole)}\n`
    : renderText(client.output, whole, findings.slice(result.findings.length), lastLine);
  await new Promise((resolve) => process.stdout.write(text, resolve));
  process.exit(process.exitCode ?? (verdict === "PASS" ? 0 : 1));
}

/** Our own settings, as a report shows them beside the client's: the path stands in its URLs. */
function shownSettings({ servers, graceMs, fault, server, startTimeoutMs, service, ...own }) {
  const { disrupt, replace, preStopMs, propagationMs } = own;
  return {
    servers,
    graceMs,
    ...server === "" ? { fault } : { server: commandWithoutSecrets(server), startTimeoutMs },
    ...service ? { service, disrupt, replace, preStopMs, propagationMs } : {},
  };
}

/** A command without the values of its environment, of flags that are named as secrets are, and of its URLs. */
function commandWithoutSecrets(command) {
  const secret = /((?:^|[\s;&|(])[a-z_]\w*=|--?[\w-]*(?:token|secret|pass|key|auth)[\w-]*[= ])("[^"]*"|'[^']*'|\S+)/gi;
  return redactUrl(command.replace(secret, "$1…"));
}

/** The instances of the server, the victim first: each a process with a port of its own. */
class Deployment {
  /** All that were started and are ready, those that have ended included. */
  instances = [];
  #guard;
  #options;

  constructor(guard, options) {
    this.#guard = guard;
    this.#options = options;
  }

  /** The next one, once it is ready. */
  async start() {
    const number = this.instances.length + 1;
    const { own } = this.#options;
    const instance = own.server === ""
      ? await this.#startOurs(`server-${number}`, this.#isFaulty(number) ? own.fault : "none")
      : await startOwn(this.#guard, `server-${number}`, own);
    this.instances.push(instance);
    return instance;
  }

  /** A rollout takes the fault away, everywhere; else it is the victim's. */
  #isFaulty(number) {
    const { own } = this.#options;
    return number <= (own.disrupt === "rollout" ? own.servers : 1);
  }

  async #startOurs(name, fault) {
    const command = serverCommand(this.#options, name, fault);
    const server = new Program(this.#guard, name, command, colours(process.stderr));
    const port = portIn(await server.says("listening"), /:(\d+)\/ws/, server);
    server.url = `ws://127.0.0.1:${port}/ws`; // thousands of dials need not ask who localhost is
    return server;
  }

  /** Ends what is still there. */
  async end() {
    for (const instance of this.instances) instance.terminate();
    await Promise.race([Promise.all(this.instances.map(({ exited }) => exited)), pause(1000)]);
  }
}

/** Somebody's own server, up once its port accepts; a `UserError` where it does not. */
async function startOwn(guard, name, { server: command, path, startTimeoutMs }) {
  const port = await freePort();
  const filled = command.replaceAll("{port}", String(port));
  // As a container's PID 1 gets its signals, and no shell before it, where the command needs none. A shell that is PID 1
  // does not die of SIGTERM, nor does it hand it on.
  const hasSettings = /^\s*[a-z_]\w*=/i.test(filled);
  const script = /[;&|<>()]/.test(filled) ? `trap : TERM; ${filled}` : `exec ${hasSettings ? "env " : ""}${filled}`;
  const server = new Program(guard, name, ["sh", "-c", script], { PORT: String(port) }, true);
  const startedAt = performance.now();
  const shown = commandWithoutSecrets(filled);
  while (!await accepts(port)) {
    if (server.hasExited) {
      const { code, signal } = await server.exited;
      throw new UserError(`${name} ended with ${code ?? signal} and never listened on port ${port}: ${shown}`);
    }
    if (performance.now() - startedAt > startTimeoutMs) {
      throw new UserError(`${name} did not listen on port ${port} in time (PORT, or {port} in the command): ${shown}`);
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
class Watches {
  #client;
  #graceMs;
  #preStopMs;
  /** Of the Service, where there is one. */
  #slice;
  #pods = new Map();

  constructor({ client, graceMs, preStopMs, service }) {
    this.#client = client;
    this.#graceMs = graceMs;
    this.#preStopMs = preStopMs;
    if (service === undefined) return;
    const labels = { "kubernetes.io/service-name": "server-service" };
    const metadata = { name: "server-service-1", uid: "server-service-1", resourceVersion: "", labels };
    this.#slice = { metadata, endpoints: [], ports: [] };
  }

  run({ name, url }) {
    const lifecycle = { preStop: { sleep: { seconds: this.#preStopMs / 1000 } } };
    const container = { name: "server", ...this.#preStopMs === 0 ? {} : { lifecycle } };
    const status = { name: "server", restartCount: 0, state: { running: {} } };
    this.#pods.set(name, {
      metadata: { name, uid: name, resourceVersion: "" },
      spec: { terminationGracePeriodSeconds: this.#graceMs / 1000, containers: [container] },
      status: {
        phase: "Running",
        podIP: new URL(url).host,
        conditions: [{ type: "Ready", status: "True" }],
        containerStatuses: [status],
      },
    });
    this.#show(name, "ADDED");
    this.#slice?.endpoints.push({ targetRef: { uid: name }, conditions: { ready: true, serving: true } });
    this.#showSlice();
  }

  delete({ name }) {
    const { metadata } = this.#pods.get(name);
    metadata.deletionTimestamp = new Date(Date.now() + this.#graceMs).toISOString();
    metadata.deletionGracePeriodSeconds = this.#graceMs / 1000;
    this.#show(name, "MODIFIED");
    this.#changeEndpoint(name, { ready: false, terminating: true });
  }

  /** The process has ended: as a container runtime says it, with 128 + the signal that ended it. */
  end({ name }, { code, signal }) {
    const { status } = this.#pods.get(name);
    const exitCode = code ?? 128 + constants.signals[signal];
    const terminated = { exitCode, reason: exitCode === 0 ? "Completed" : "Error", containerID: name };
    Object.assign(status, { phase: exitCode === 0 ? "Succeeded" : "Failed", conditions: [] });
    status.containerStatuses[0].state = { terminated };
    this.#show(name, "MODIFIED");
    this.#changeEndpoint(name, { ready: false, serving: false });
  }

  #show(name, type) {
    this.#tell({ stream: "pods", type, object: this.#pods.get(name) });
  }

  #changeEndpoint(name, change) {
    const endpoint = this.#slice?.endpoints.find(({ targetRef }) => targetRef.uid === name);
    if (endpoint === undefined) return;
    Object.assign(endpoint.conditions, change);
    this.#showSlice();
  }

  #showSlice() {
    if (this.#slice !== undefined) this.#tell({ stream: "endpointslices", type: "MODIFIED", object: this.#slice });
  }

  #tell(event) {
    this.#client.learn(JSON.stringify(event));
  }
}

/** Ends pods as kubelet does: preStop, SIGTERM, and SIGKILL when the grace is over. It does not wait for the Service. */
class Kubelet {
  #watches;
  #service;
  #graceMs;
  #preStopMs;

  constructor({ watches, service, graceMs, preStopMs }) {
    this.#watches = watches;
    this.#service = service;
    this.#graceMs = graceMs;
    this.#preStopMs = preStopMs;
  }

  /** From now on its end is told, whatever ends it. */
  run(instance) {
    this.#watches.run(instance);
    this.#service?.add(instance);
    void instance.exited.then((exit) => {
      this.#watches.end(instance, exit);
      this.#service?.remove(instance);
    });
  }

  /** How the process has ended, once it has. */
  async delete(instance) {
    this.#watches.delete(instance);
    this.#service?.retire(instance);
    const termMs = Math.min(this.#preStopMs, this.#graceMs);
    const killMs = Math.max(this.#graceMs, termMs === 0 ? 0 : termMs + LEAST_KILL_MS);
    const end = { signalledAt: null, killedMs: null };
    const signal = () => {
      end.signalledAt = performance.now();
      instance.terminate();
    };
    // SIGTERM goes to the process, SIGKILL to all that it started.
    const kill = () => end.killedMs = instance.kill() ? killMs : null;
    const timers = [];
    if (termMs === 0) signal();
    else timers.push(setTimeout(signal, termMs));
    timers.push(setTimeout(kill, killMs));
    const exit = await instance.exited;
    timers.forEach(clearTimeout);
    return { exit, ...end };
  }
}

/**
 * A Service: one address, from where each new connection goes to one of the ready instances. To which is left to chance,
 * as kube-proxy leaves it (iptables, nftables): so what is uneven on a cluster is uneven here. It learns of everything
 * `propagationMs` late, as every node's kube-proxy does. Where none is ready those that are ending get them (Kubernetes
 * 1.28 and newer), and where nobody is left they are refused.
 */
class Service {
  url;
  #propagationMs;
  #port = 0;
  #listener;
  /** Whom new connections are for, as far as the news has come: instances by whether they are ready. */
  #routes = new Map();
  #connections = new Set();
  #hasBegun = false;
  #news = [];
  #delay = monitorEventLoopDelay();

  /** Of instances that are ready already. */
  static async open(instances, propagationMs) {
    const service = new Service();
    service.#propagationMs = propagationMs;
    for (const instance of instances) service.#routes.set(instance, true);
    await service.#listen();
    service.#delay.enable();
    service.url = Object.assign(new URL(instances[0].url), { port: service.#port }).href;
    return service;
  }

  add(instance) {
    if (!this.#routes.has(instance)) this.#hear(() => this.#routes.set(instance, true));
  }

  /** It is terminating. */
  retire(instance) {
    this.#hear(() => this.#routes.has(instance) && this.#routes.set(instance, false));
  }

  remove(instance) {
    this.#hear(() => this.#routes.delete(instance));
  }

  /** Nobody is left who could take a connection. */
  get isDeserted() {
    return this.#candidates().length === 0;
  }

  /** For how long it has handed on nothing, at the most: this process was busy, or stopped. */
  get lateMs() {
    return Math.round(this.#delay.max / 1e6);
  }

  /** How many sessions an instance holds, at the least. */
  heldOn(instance) {
    const now = performance.now();
    return [...this.#connections].filter((one) => one.instance === instance && now - one.since > LIFE_MS).length;
  }

  /** Until all news has come; with probes until so many have come after it that they tell. */
  async settle(probeIntervalMs) {
    await Promise.all(this.#news);
    await pause(Math.min(PROBES_AFTER_RACE * probeIntervalMs, STOP_AFTER_GRACE_MS / 2));
  }

  #hear(change) {
    this.#news.push(
      pause(this.#propagationMs).then(() => {
        const before = this.#candidates().join();
        change();
        if (this.#candidates().join() !== before) this.#follow();
      }),
    );
  }

  #candidates() {
    const ready = [...this.#routes].filter(([, isReady]) => isReady);
    return (ready.length > 0 ? ready : [...this.#routes]).map(([instance]) => instance);
  }

  /** With nobody behind it there is no listener: the system refuses. */
  #follow() {
    const names = this.#candidates().map(String);
    notes.add(
      "service",
      names.length === 0 ? "new connections are refused" : `new connections go to ${names.join(", ")}`,
    );
    if (names.length > 0 && this.#listener === undefined) void this.#listen();
    if (names.length > 0 || this.#listener === undefined) return;
    this.#listener.close();
    this.#listener = undefined;
  }

  async #listen() {
    const options = { allowHalfOpen: true, noDelay: true };
    const listener = this.#listener = createServer(options, (client) => this.#route(client));
    const address = { port: this.#port, host: "127.0.0.1", backlog: 4096 };
    // While nobody listened the port may have been taken for somebody's own dial.
    listener.on(
      "error",
      () => setTimeout(() => this.#listener === listener && listener.listen(address), POLL_INTERVAL_MS),
    );
    listener.listen(address);
    await new Promise((resolve) => listener.once("listening", resolve));
    this.#port = listener.address().port;
  }

  #route(client) {
    const candidates = this.#candidates();
    // The first of all connections, which is session 1's, goes to the instance that is to end.
    const index = this.#hasBegun ? Math.floor(Math.random() * candidates.length) : 0;
    this.#hasBegun = true;
    const instance = candidates[index];
    if (instance === undefined) return reset(client.on("error", () => {}));
    const connection = { instance, since: performance.now() };
    this.#connections.add(connection);
    client.once("close", () => this.#connections.delete(connection));
    const where = { port: Number(new URL(instance.url).port), host: "127.0.0.1" };
    // Nothing more is read than can be handed on: a reset would throw it away.
    const server = connect({ ...where, allowHalfOpen: true, noDelay: true, readableHighWaterMark: 1 });
    handOn(client, server);
    handOn(server, client);
  }
}

/** Whatever one socket brings goes to the other: bytes at the other's pace, a FIN after them, and a reset as a reset. */
function handOn(from, to) {
  from.on("data", (chunk) => {
    if (!to.write(chunk)) from.pause();
  });
  to.on("drain", () => from.resume());
  from.on("end", () => {
    // Where a reset is read together with the bytes before it, Node up to 24 says end: writing nothing tells.
    if (!from.writable || from.writableLength > 0) to.end();
    else from.write("", (error) => error || to.end());
  });
  from.on("error", () => reset(to));
}

/** An RST once all is written, and no FIN before it, as `resetAndDestroy` alone would send. */
function reset(socket) {
  socket._final = (done) => done();
  socket.resetAndDestroy();
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
      else if (name === undefined) this.kill(); // no answer is so long
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

  show(line) {
    notes.add(this.name, line);
  }

  #onLine(line) {
    this.show(line);
    if (this.#lines.push(line) > 1000) this.#lines.shift();
    for (const check of this.#waiting) check(line);
  }

  toString() {
    return this.name;
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
        if (code === 2) reject(new Refused(notes.areShown ? "" : this.#lines.at(-1))); // it has said why
        reject(new UserError(`${this.name} ended before it said '${action}'`));
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

/** A program does not take its settings, and has said why: nothing else is of interest. */
class Refused extends UserError {}

/** What is played, on stderr; kept until all that was to be started runs, or did not. */
class Notes {
  areShown = false;
  #kept = [];

  add(name, text) {
    const line = `${kleur.dim(`[${name}]`)} ${text}\n`;
    if (this.areShown) process.stderr.write(line);
    else this.#kept.push(line);
  }

  show() {
    if (!this.areShown) process.stderr.write(this.#kept.join(""));
    this.areShown = true;
  }
}
const notes = new Notes();

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

// ---- The client: what is asked of it, and what of its answers counts

/** The witness: it holds the sessions, is told what becomes of the servers, and judges. */
class Client extends Program {
  #knowsEvidence;
  #reportFile;
  #pollIntervalMs;
  #admin = "";

  constructor(guard, options, addresses) {
    const reportFile = join(guard.folder, "result.json");
    super(guard, "client", clientCommand(options, addresses, [reportFile]), colours(process.stdout));
    this.#knowsEvidence = options.knowsEvidence;
    this.#pollIntervalMs = Math.max(POLL_INTERVAL_MS, POLL_INTERVAL_MS_PER_SESSION * options.sessions);
    this.#reportFile = reportFile;
  }

  /** Until it can be asked. */
  async start() {
    const port = portIn(await this.says("started"), /admin port (\d+)|"adminPort":(\d+)/, this);
    this.#admin = `http://127.0.0.1:${port}`;
  }

  /** Here the URLs are not the user's, but their path is. */
  show(line) {
    super.show(line.replace("another path in --url", "another --path"));
  }

  /** One event of a watch. */
  learn(line) {
    if (this.#knowsEvidence) this.hear(line);
  }

  /** How many sessions an instance holds; null where that is not known. */
  async heldOn(instance, service) {
    const report = await get(`${this.#admin}/report`);
    const { name, url } = instance;
    if (report?.status !== 200) return service?.heldOn(instance) ?? null;
    const { byServer } = parseResult(report.body).sessions;
    // In the plain dialect a server has no other name than its URL, and behind a Service none.
    return byServer[name] ?? service?.heldOn(instance) ?? byServer[url] ?? 0;
  }

  /** Until every session is connected, and has been for a while; where that is not in time it is ended, and says why. */
  async holds(patienceMs) {
    const late = setTimeout(() => this.terminate(), patienceMs);
    await Promise.race([this.#settles(), this.#isRefused()]);
    clearTimeout(late);
    await pause(OWN_SETTLE_MS);
  }

  /** Ends it where no session ever came, and the server answers nothing but 4xx: no patience helps. */
  async #isRefused() {
    let [others, since, before] = [-1, 0, 0];
    while (!this.hasExited) {
      const report = await get(`${this.#admin}/report`);
      const { sessions, failedDials } = report?.status === 200 ? parseResult(report.body) : {};
      if (sessions === undefined || sessions.had > 0) return await this.exited;
      const dials = Object.entries(failedDials);
      const sum = (some) => some.reduce((all, [, number]) => all + number, 0);
      const refused = sum(dials.filter(([kind]) => /^4\d\d$/.test(kind)));
      const now = performance.now();
      // What else there was may have been its start: from then on.
      if (refused === 0 || sum(dials) !== refused + others) {
        [others, since, before] = [sum(dials) - refused, now, refused];
      }
      if (now - since > REFUSED_MS && refused - before >= REFUSED_DIALS) this.terminate();
      await pause(POLL_INTERVAL_MS);
    }
  }

  /**
   * Its exit code, once all is judged, or its time is up: it gets a chance to give its verdict even then. `isOver` resolves
   * when nothing changes any more, perhaps with how long the sessions have from then on.
   */
  async judges(lastAt, isOver) {
    const leftMs = lastAt - performance.now();
    const timers = [
      setTimeout(() => this.terminate(), leftMs + STOP_AFTER_GRACE_MS),
      setTimeout(() => this.kill(), leftMs + KILL_AFTER_GRACE_MS),
    ];
    const patienceMs = await Promise.race([isOver(), this.exited.then(() => undefined)]);
    if (patienceMs !== undefined) timers.push(setTimeout(() => this.terminate(), patienceMs));
    await this.#settles();
    this.terminate();
    const { code } = await this.exited;
    timers.forEach(clearTimeout);
    return code;
  }

  result() {
    return parseResult(existsSync(this.#reportFile) ? readFileSync(this.#reportFile, "utf8") : "");
  }

  /** Until every session is connected and every handover judged, or it has ended. */
  async #settles() {
    // The first such answer may have overtaken the news of a cut: what was there before it has been read by the second.
    for (let calm = 0; calm < 2 && !this.hasExited;) {
      await pause(this.#pollIntervalMs);
      const ready = await get(`${this.#admin}/readyz`);
      calm = ready?.status === 200 && ready.body.includes(", 0 handovers in flight") ? calm + 1 : 0;
    }
  }
}

/** What an admin path answers; undefined where nobody does. */
function get(url) {
  return new Promise((resolve) => {
    httpGet(url, async (response) => {
      try {
        resolve({ status: response.statusCode, body: (await response.setEncoding("utf8").toArray()).join("") });
      } catch {
        resolve(undefined);
      }
    }).on("error", () => resolve(undefined));
  });
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

/** Why the handovers say nothing, or not enough, of those that ended; null where they do. `held`: null if not known. */
function whyUnjudged(handovers, endings, service) {
  const names = endings.map(({ instance }) => instance.name);
  const addresses = [service?.url, ...endings.map(({ instance }) => instance.url)];
  // An application may have names of its own, and behind a Service it has no address.
  const isTheirs = ({ from, pod }) =>
    names.includes(from) || names.includes(pod) || (pod === null && addresses.includes(from));
  const judged = handovers.filter((handover) => isTheirs(handover) && handover.verdict !== "unfinished").length;
  const held = endings.reduce((sum, { held }) => sum + held, 0);
  const whose = names.join(", ");
  if (judged === 0 && held === 0) return `no session was on ${whose}: nothing to judge`;
  if (judged >= held) return null;
  return `${judged} of ${held} session${held === 1 ? "" : "s"} that ${whose} held could be judged`;
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
  const { command: asked, server: foreign } = mri(process.argv.slice(2), { string: ["command", "server"] });
  const command = last(asked) || process.env.COMMAND || OWN.command[1];
  const isForeign = (last(foreign) || process.env.SERVER || "") !== "";
  const roles = isForeign ? ["client"] : ["client", "server"];
  const [client, server = {}] = await Promise.all(roles.map((role) => settingsOf(guard, role, command)));
  const known = { server, client };
  const names = [...Object.keys(OWN), ...Object.keys({ ...server, ...client }), "json", "help"];
  const boolean = ["json", "help", ...SWITCHES];
  let unknown;
  const flags = names.filter((name) => !boolean.includes(name));
  const given = mri(joinValues(process.argv.slice(2), flags), {
    string: flags,
    boolean,
    alias: { h: "help" },
    default: Object.fromEntries(names.map((name) => [name, undefined])),
    unknown: (flag) => unknown = flag,
  });
  if (unknown !== undefined) throw new UserError(`Unknown flag ${unknown}: see --help`);
  if (given._.length > 0) throw new UserError(`Unexpected argument '${given._[0]}': see --help`);
  if (given.help) return void process.stdout.write(usage(known));
  const empty = flags.find((name) => [given[name]].flat().some((value) => value === "" || value === false));
  if (empty !== undefined) throw new UserError(`--${empty} needs a value: see --help`);
  const own = { ...readOwn(given), command };
  for (const [env] of Object.values(OWN)) delete process.env[env]; // FAULT is for the victim alone
  const reports = [given.report ?? (process.env.REPORT || "").split(",").filter((file) => file !== "")].flat();
  checkReports(reports, given.json);
  const handedThrough = { server: [], client: [] };
  for (const [name, values] of Object.entries(given)) {
    if (["_", "json", "help", "report"].includes(name) || name in OWN || values === undefined) continue;
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
    reports,
    sessions: Number(value("client", "sessions")),
    knowsEvidence: Object.hasOwn(client, "evidence"),
    remainingIntervalMs: serverMs("remaining-interval"),
    spreadMs: serverMs("spread"),
    probeIntervalMs: durationMs(value("client", "probe-interval"), "ms"),
    maxReconnectMs: durationMs(value("client", "max-reconnect"), "ms"),
    json: given.json,
  };
}

/** Our own settings, checked. */
function readOwn(given) {
  const own = Object.fromEntries(
    Object.entries(OWN).map(([name, [env, fallback]]) => [
      name,
      SWITCHES.includes(name) ? isOn(name, given[name], env) : last(given[name]) ?? (process.env[env] || fallback),
    ]),
  );
  if (!/^[1-9]\d{0,4}$/.test(own.servers)) {
    throw new UserError(`--servers must be an integer from 1 on: current value is '${own.servers}'`);
  }
  own.servers = Number(own.servers);
  for (const [name, { field, example, leastMs, spareMs = 0 }] of Object.entries(DURATIONS)) {
    own[field] = durationMs(own[name], "s");
    if (own[field] >= leastMs && own[field] + spareMs <= MAX_TIMER_MS) continue;
    throw new UserError(`--${name} must be a duration such as ${example}: current value is '${own[name]}'`);
  }
  if (own.server !== "" && own.fault !== "none") {
    throw new UserError("--fault is for this project's own server, not for --server");
  }
  if (own.server === "" && given.path !== undefined) throw new UserError("--path needs --server");
  if (!own.path.startsWith("/")) {
    throw new UserError(`--path must begin with /: current value is '${withoutSecrets(own.path)}'`);
  }
  checkService(own, given);
  return own;
}

/** What a duration may be, and where it is kept in ms. */
const DURATIONS = {
  grace: { field: "graceMs", example: "30s, 2m or 500ms", leastMs: 1, spareMs: KILL_AFTER_GRACE_MS },
  "start-timeout": { field: "startTimeoutMs", example: "60s", leastMs: 1 },
  "pre-stop": { field: "preStopMs", example: "5s, or 0s", leastMs: 0 },
  propagation: { field: "propagationMs", example: "1s or 500ms", leastMs: 0 },
};

/** A switch, by its flag or by its environment. */
function isOn(name, given, env) {
  const value = given ?? (process.env[env] || "0");
  if ([true, "1", "true", "yes"].includes(value)) return true;
  if ([false, "0", "false", "no"].includes(value)) return false;
  throw new UserError(`${env} must be 1 or 0, as --${name} is a switch: current value is '${value}'`);
}

/** What goes together in a rehearsal with a Service; without one nobody brings another instance. */
function checkService(own, given) {
  if (!own.service) {
    const isGiven = (name) => SWITCHES.includes(name) ? own[name] : given[name] ?? process.env[OWN[name][0]];
    const stray = OF_SERVICE.find((name) => isGiven(name));
    if (stray !== undefined) throw new UserError(`--${stray} needs --service`);
    own.disrupt = "scale-in";
    return;
  }
  if (!Object.hasOwn(DISRUPTIONS, own.disrupt)) {
    throw new UserError(`--disrupt must be one of delete, rollout, scale-in: current value is '${own.disrupt}'`);
  }
  if (own.replace && own.disrupt === "scale-in") {
    throw new UserError("--replace starts an instance, --disrupt scale-in means that none is started: leave out one");
  }
  if (own.fault === "crash" && (own.replace || own.disrupt === "rollout")) {
    const other = own.replace ? "--replace" : "--disrupt rollout";
    throw new UserError(`--fault crash needs nobody to end the instance: ${other} does not go with it`);
  }
  if (own.preStopMs >= own.graceMs) {
    const [graceS, leftS] = [own.graceMs / 1000, LEAST_KILL_MS / 1000];
    const what = `SIGTERM at ${graceS} s, SIGKILL ${leftS} s later: a drain that takes longer is SIGKILL_AT_GRACE`;
    notes.add("rehearsal", `--pre-stop ${own["pre-stop"]} takes all of --grace ${own.grace}, so ${what}`);
  }
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

/** The settings that a program lists: a list here would drift. */
async function settingsOf(guard, role, command) {
  if (command === OWN.command[1]) return settingsIn(builtHelp(role));
  const asked = [...commandFor(role, command), "--help"];
  const { code, signal, error, output } = await ask(guard, asked);
  const settings = settingsIn(output);
  const missing = NEEDED[role].filter((name) => !Object.hasOwn(settings, name));
  if (missing.length === 0 && code === 0) return settings;

  const why = error?.message ?? /^\w*Error: .*/m.exec(output)?.[0] ??
    (output.length >= MAX_OUTPUT
      ? `it wrote more than ${MAX_OUTPUT / 2 ** 20} MB`
      : signal === "SIGKILL"
      ? `it was still running after ${HELP_TIMEOUT_MS / 1000} s`
      : missing.length > 0
      ? `it does not list ${missing.map((name) => `--${name}`).join(", ")}`
      : `it ended with ${code ?? signal}`);
  const whatFor = "--command is for another build of this project's own server and client ({role})";
  throw new UserError(`Cannot run ${asked.join(" ")}: ${why}; ${whatFor}`);
}

/** The default runs the bundles beside this file on this very Node. */
function commandFor(role, command) {
  if (command === OWN.command[1]) return [process.execPath, fileURLToPath(new URL(`dist/${role}.js`, import.meta.url))];
  return command.replaceAll("{role}", role).split(" ").filter((word) => word !== "");
}

// ---- Text

/** The client's report with what the rehearsal adds before the verdict, which is the client's unless `lastLine` is given. */
function renderText(output, { cost, messages }, findings, lastLine) {
  const [verdict, ...body] = output.trimEnd().split("\n").reverse();
  const ms = (value) => value === null ? "n/a" : `${Math.round(value)} ms`;
  const kb = (bytes) => `${(bytes / 1024).toFixed(1)} KB`;
  const checked = messages.lost === null ? ", not numbered" : " verified";
  const { serverBytesPerSession: server, clientBytesPerSession: client } = cost;
  const memory = server === null || client === null
    ? `n/a (it takes ${SESSIONS_TO_MEASURE_MEMORY} sessions, and a server that is still there)`
    : `server ${kb(server)}, client ${kb(client)} a session`;
  return [
    ...body.reverse(),
    ...findings.flatMap(({ name, text }) => [`${name}  ${text}`, ""]),
    `Cost         ${cost.sessions} session${cost.sessions === 1 ? "" : "s"}, ${cost.messages} messages${checked}`,
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
  const rows = [
    ...own,
    ["--json", "", "", "print the result as one JSON object on stdout"],
    ["--help", "", "", "print this and exit (-h)"],
  ];
  const flags = [...new Set([...Object.keys(known.server), ...Object.keys(known.client)])].filter((name) =>
    !(name in OWN) && !CHOSEN.includes(name)
  );
  return `Usage: ${called("rehearse", "rehearse.mjs")} [settings]\n\n` +
    "Plays a pod deletion on this machine and judges it.\n\n" +
    rows.map(([flag, env, fallback, meaning]) =>
      `  ${flag.padEnd(15)} ${env.padEnd(13)} ${fallback.padEnd(19)} ${meaning}\n`
    ).join("") +
    `\nHanded through to servers and client, see their --help:\n\n  ${flags.map((flag) => `--${flag}`).join(" ")}\n`;
}

run(() =>
  main().catch((error) => {
    if (!(error instanceof Refused)) notes.show();
    setImmediate(() => process.exit()); // the programs may still run
    throw error;
  })
);
