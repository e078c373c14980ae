/**
 * The witness and judge: holds sessions, verifies every message, reconnects, prints the verdict.
 * The session is drawn in protocol.ts.
 *
 * ```
 * node dist/client.js --url ws://localhost:8080/ws --handovers 1
 * deno run --allow-net --allow-env --allow-read --allow-sys client.ts
 * ```
 *
 * @module
 */
import { createReadStream, readFileSync } from "node:fs";
import { type IncomingMessage, type Server, type ServerResponse, validateHeaderValue } from "node:http";
import type { Socket } from "node:net";
import { basename } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import type { SecureContextOptions } from "node:tls";
import { type ClientOptions, type RawData, WebSocket } from "ws";
// deno-fmt-ignore
import {
  type Answer, answerTo, backoffMs, betrayed, binaryText, byLabel, called, type Cause, CAUSES, checkCertificates, checkPair,
  CLOSED, closeCode, closeReason, Cluster, codesOf, companyOf, confirmedUpTo, count, createAdmin, createLog, createMetrics, cutWith, decode,
  describeDialect, diagnose, type Dialect, dialectNamed, type DialectParts, DIALECTS, differenceInWords, duration, encode, END_LATE_MS,
  followFiles, type Frame, grouped, type Handover, helloIn, integer, isEvidenceComplete, isMessage, isOnLivingPod, isProven, isSteady, judge,
  type KubernetesObject, Ledger, listen, type Log, LOG_FORMAT, MAX_MESSAGE_BYTES, MAX_PAYLOAD_BYTES, MAX_TIMER_MS,
  milliseconds, type Moment, type Moved, observe, observeCluster, observeMissing, oneOf, openFilesLimit, parseDialect, parseToken, type PathDifference, pathDifferences,
  type Pod, podOf, type PodReport, PORT, printable, PROBE_HEADER, readSettings, readyEndpoints, redactUrl, type Redial,
  REMEDIES, reportPod, type Rollout, rolloutFindings, rolloutOf, type Rule, RULES, run, serverIn, type SessionEvent, setting, settingList, type Stream, SUBPROTOCOL,
  suspects, type Symptom, timestamp, toJson, useColour, UserError, type Values, VERSION, wasKilledAtGrace, when, wireOf,
  // What a drill's target is, and what its objects foretell.
  type BudgetObject, cameTrue, highestOrdinal, inspect, type Inspection, parseObjects, parseTarget, type Prediction, refusalOf, rolledPods, rolloutLeft,
  selectorInWords, type ServiceObject, type Target, targetInWords, withoutSecrets, type WorkloadObject, WORKLOADS,
  workloadsIn,
} from "./protocol.ts";
// deno-fmt-ignore
import {
  checkReport, endingOf, endingsOf, headline, isStdout, kinds, listed, more, pageData, RECORD, render, renderCheck, renderPage,
  REPORTS, sample, securityHeaders, size, spread, writeReports, writeWhole,
} from "./report.mjs";

declare global {
  /** Put there by build.mjs: a bundle carries the page of report.mjs as text. */
  var REPORT_PAGE: string | undefined;
}

/** What `--disrupt` can do: nothing, look on, end pods through the Kubernetes API, or only foretell what that would show. */
export const DISRUPTIONS = [
  "none",
  "watch",
  "delete",
  "evict",
  "rollout",
  "scale-in",
  "force",
  "drain",
  "check",
] as const;

/** Where kubelet mounts a pod's token, renewed as it ages (Kubernetes: Configure Service Accounts for Pods). */
const SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount";

/** Values that may have commas in them, and that no error shows. */
const SECRETS = { separator: "\n", secret: true };

/** The one that `deploy/` has. */
const DEFAULT_TARGET = "deployment/server-deployment";

/** Every setting of the client; the table of docs/settings.md and --help say the same. */
export const SETTINGS = {
  url: settingList("SERVER_URL", "ws://localhost:8080/ws", serverUrl, "where to connect; repeatable"),
  via: settingList(
    "VIA",
    "",
    viaPath,
    "NAME=URL: another way to the same pods, sessions are spread over all; repeatable",
  ),
  adminPort: setting("ADMIN_PORT", "9091", PORT, "port for /healthz, /readyz, /metrics, /report; 0 = any free port"),
  allowHost: settingList("ALLOW_HOST", "", String, "further host names that may ask for /report and the page, * = any"),
  sessions: setting("SESSIONS", "1", integer(1, 1_000_000), "sessions to hold"),
  intervalMs: setting("INTERVAL_MS", "2000", milliseconds(1), "ms between DATA"),
  dialect: setting(
    "DIALECT",
    "auto",
    dialectName,
    "auto (v1 once HELLO comes, else what the first message betrays, else plain), a name, or a .json file",
  ),
  subprotocol: settingList(
    "SUBPROTOCOL",
    "",
    subprotocol,
    "subprotocols to offer instead of the dialect's; repeatable",
  ),
  header: settingList(
    "HEADER",
    "",
    header,
    "'Name: value' for the upgrade; repeatable; @FILE as the value reads it from there",
    SECRETS,
  ),
  say: settingList(
    "DIALECT_SAY",
    "",
    fileOrText,
    "what to say once open, in order; repeatable; hex: for binary; @FILE",
    SECRETS,
  ),
  ready: setting(
    "DIALECT_READY",
    "",
    String,
    "pattern of the message from which on a session counts; default: the upgrade",
  ),
  reply: settingList(
    "DIALECT_REPLY",
    "",
    reply,
    "'REGEX=TEXT': what to answer to what; $1 is its group; repeatable",
    SECRETS,
  ),
  heartbeat: setting("DIALECT_HEARTBEAT", "", String, "'TEXT@25s': what to say how often"),
  notice: setting(
    "DIALECT_NOTICE",
    "",
    String,
    "pattern of the message that announces a shutdown: then it is expected",
  ),
  farewell: setting("DIALECT_FAREWELL", "", String, "pattern of the message that ends one: then it is expected"),
  sequence: setting(
    "DIALECT_SEQUENCE",
    "",
    String,
    "pattern with one group, a number that rises by one: then none may be missing",
  ),
  serverName: setting("DIALECT_SERVER_NAME", "", String, "pattern with one group, or header:NAME: who answers"),
  pingIntervalMs: setting(
    "PING_INTERVAL_MS",
    "",
    pingInterval,
    "not v1: ms between pings; default: a third of --silence-timeout; 0 = none",
  ),
  maxMessageBytes: setting(
    "MAX_MESSAGE_BYTES",
    "1048576",
    integer(1024, 2 ** 30),
    "largest message that other dialects take; v1 has 64 KiB",
  ),
  connectTimeoutMs: setting("CONNECT_TIMEOUT_MS", "5000", milliseconds(1, 100), "ms from dial to HELLO"),
  silenceTimeoutMs: setting("SILENCE_TIMEOUT_MS", "10000", milliseconds(1, 100), "ms without DATA: dead"),
  reconnect: setting("RECONNECT", "after-close", oneOf("after-close", "early"), "after-close; early: at SHUTDOWN"),
  backoffBaseMs: setting("BACKOFF_BASE_MS", "100", milliseconds(0), "redial n waits at random up to this × 2ⁿ"),
  backoffCapMs: setting("BACKOFF_CAP_MS", "5000", milliseconds(0), "longest wait before a redial, in ms"),
  maxReconnectMs: setting("MAX_RECONNECT_MS", "5000", milliseconds(0, 100), "ms that a reconnect may be delayed"),
  expect: settingList(
    "EXPECT",
    "",
    oneOf(...RULES),
    "rules that count, by commas; default: all; others than v1: clean,moved and those with a pattern",
  ),
  expectCode: settingList(
    "EXPECT_CODE",
    "",
    closeCode(1005),
    "clean close codes; default: the dialect's (v1: 1001; plain: 1001,1012); 1005: a frame without one",
  ),
  handovers: setting("HANDOVERS", "0", integer(0, 1_000_000_000), "stop when so many were judged; 0 = never"),
  timeoutMs: setting("TIMEOUT_MS", "0", milliseconds(0, 1000), "stop after so many ms; 0 = never"),
  probeIntervalMs: setting("PROBE_INTERVAL_MS", "0", milliseconds(0), "ms between fresh connections; 0 = none"),
  payloadBytes: setting("PAYLOAD_BYTES", "0", integer(0, MAX_PAYLOAD_BYTES), "bytes of padding in each DATA"),
  tlsCa: setting("TLS_CA", "", String, "CA (PEM) that the server's certificate must be from; default: the public ones"),
  tlsCert: setting("TLS_CERT", "", String, "our own certificate chain (PEM), for a server that asks for one"),
  tlsKey: setting("TLS_KEY", "", String, "its private key (PEM)"),
  tokenFile: setting("TOKEN_FILE", "", String, "file with the token to bring: Authorization: Bearer"),
  disrupt: setting(
    "DISRUPT",
    "none",
    oneOf(...DISRUPTIONS),
    "in a pod: watch the cluster; delete, evict, rollout, scale-in, force, drain: end pods by its API; check its objects",
  ),
  target: setting("TARGET", DEFAULT_TARGET, target, "what to disrupt: deployment/, statefulset/ or daemonset/NAME"),
  targetDeployment: setting(
    "TARGET_DEPLOYMENT",
    "",
    (text) => text === "" ? "" : target(`deployment/${text}`),
    "the older way to name a Deployment; counts where --target is not given",
  ),
  evidence: setting(
    "EVIDENCE",
    "",
    String,
    "with --disrupt watch: a file of watch events, line by line (-: stdin), instead of a cluster",
  ),
  targetSelector: setting("TARGET_SELECTOR", "", String, "the label selector of its pods; default: the target's own"),
  check: setting("CHECK", "", String, "check the objects in this file of JSON (-: stdin), without a cluster"),
  serviceAccount: setting("SERVICE_ACCOUNT", SERVICE_ACCOUNT, nonEmpty, "folder of the API's token and namespace"),
  report: settingList(
    "REPORT",
    "",
    reportFile,
    `write the result to this ${endingsOf(REPORTS)} (.xml: JUnit); -.md: stdout; repeatable`,
  ),
  logFormat: LOG_FORMAT,
};

type Settings = Values<typeof SETTINGS>;

/** The name of the path that `--url` is. */
const DIRECT = "direct";
/** A path on which each of its sessions has failed so many dials, and none ever connected, is given up. */
const DEAD_DIALS = 10;
/** At most so many dials at a time: a herd of reconnects takes turns. */
const MAX_DIALS = 50;
/** Messages without the server's word on them at which production pauses. */
const MAX_UNCONFIRMED = 1000;
/** Unsent bytes of a session at which production pauses. */
const MAX_BUFFER_BYTES = 2 ** 20;
/** Time for the closing handshake, of the server's close (its FIN) and of our own. */
const CLOSE_TIMEOUT_MS = 3000;
/** How long a server that selected our subprotocol may take for HELLO: some select whatever is offered. */
const HELLO_PATIENCE_MS = 1000;
/** Pauses between a plain server's messages that must be alike to tell its pace, and how much they may differ. */
const PACE_OF = 5;
const PACE_SPREAD = 3;
/** How long a new session must stay open to count as one: some servers upgrade first, and then say that they are going. */
const LIFE_MS = 1000;
/** Open files of this process that are no sessions: dials, probes, viewers, watches, and its own. */
const OTHER_FILES = 150;
/** How often lateness is measured, from when on it is some, and how many spans of it are remembered. */
const LATENESS_TICK_MS = 50;
const LATENESS_NOISE_MS = 20;
const KEPT_SPANS = 1000;
/** The kinds of failed dials that say nothing of the server, and what we ran out of. */
const OWN_LIMITS = new Map<string, (openFiles?: number) => string>([
  ["descriptors", (most) => `this client could open no more files, ulimit -n is ${most ?? "unknown"}`],
  ["ports", () => "this machine had no address or port left to dial from (net.ipv4.ip_local_port_range)"],
]);
/** Handovers that the report keeps in full, at least; of older ones it keeps the counts. */
const KEPT_HANDOVERS = 10_000;
/** Servers of which the client remembers that they are ending. */
const KEPT_ENDINGS = 100;
/** Browsers that may look on at a time, and how often they get news. */
const MAX_VIEWERS = 8;
const NEWS_INTERVAL_MS = 500;
/** So many dials, and each refused with 401: no token of ours opens this server. */
const MAX_UNAUTHORIZED = 10;
/** How long after a pod has gone its address may still be dialled. */
const STALE_ADDRESS_MS = 30_000;
/** So many dials in a row that led elsewhere end an endpoint race. */
const ELSEWHERE = 5;
/** How many cuts are remembered, to see which came at once. */
const KEPT_CUTS = 200;
/** So many sessions of one slot in a row, as old as each other within this factor, were turned away; with a graceful code this. */
const TURNED_AWAY = 3;
const EVEN = 1.3;
const SAME = 1.05;

/** How long a drill waits for a workload whose pods are not all ready. */
const SETTLE_TIMEOUT_MS = 120_000;
/** How often a rollout's state is asked for. */
const ROLLOUT_INTERVAL_MS = 1000;
/** How long a drain waits for sessions, once no node takes the pod that they could move to. */
const NOWHERE_MS = 30_000;

/** How often a symptom was seen, on which servers (the first ten), and the causes that explain it. */
interface SymptomCount {
  count: number;
  servers: string[];
  causes: Partial<Record<Cause, { count: number; evidence: string }>>;
  /** Those that the evidence rules out for none of the rest; absent where there is no evidence, or nothing is open. */
  suspects?: Cause[];
}

/** What the client found out: the one object behind the text, --json, --report and /report. */
export interface Result {
  verdict: "PASS" | "FAIL";
  /** The last line of the text. */
  summary: string;
  version: string;
  startedAt: string;
  durationMs: number;
  /** `had`: how many were ever connected. */
  sessions: { wanted: number; had: number; connected: number; byServer: Record<string, number> };
  /** Those that are open, and the handovers that are on their way (times since the client's start); of more than 50 a sample. */
  open: { slot: number; server: string; openedMs: number }[];
  inFlight: { slot: number; from: string; openedMs: number | null; toldMs: number | null; endedMs: number | null }[];
  /** `lost` is null where nothing was numbered: then loss cannot be seen. */
  messages: {
    received: number;
    sent: number;
    lost: number | null;
    duplicated: number;
    reordered: number;
    resent: number;
  };
  counts: { graceful: number; failed: number; unfinished: number };
  symptoms: Partial<Record<Symptom, SymptomCount>>;
  /** The rules that count where none were asked for, by the dialects that were met. */
  expected: Record<string, readonly Rule[]>;
  reconnect: { p50Ms: number | null; p99Ms: number | null; maxMs: number | null };
  silence: { p50Ms: number | null; p99Ms: number | null; maxMs: number | null };
  failedDials: Record<string, number>;
  probes: { ok: number; refused: number; "503": number; timeout: number; other: number; lastOnEndingMs: number | null };
  /** The same by path, where there are several. */
  paths: PathResult[];
  /** How the sessions moved; null where none did. */
  rollout: Rollout | null;
  /** How late the client's own event loop was, at most and in all. */
  witness: { maxLateMs: number; totalLateMs: number };
  /** What `--disrupt` did, to which pod or on which node, and why that was no drill; null where it only looked on. */
  disruption: { kind: string; pod: string | null; node?: string; atMs: number } | null;
  failure: string | null;
  /** The pods that ended, as the cluster told it. */
  pods: PodReport[];
  findings: { name: string; text: string }[];
  /** What the check before the drill foretold, and how often each came true; and what it could not look at. */
  predictions: (Prediction & { came: number })[];
  unseen: string[];
  settings: Settings;
  handovers: Handover[];
}

/** The numbers of one path to the pods. */
export interface PathResult
  extends Pick<Result, "counts" | "messages" | "symptoms" | "reconnect" | "silence" | "failedDials" | "probes"> {
  name: string;
  urls: string[];
  sessions: { wanted: number; had: number; connected: number };
}

async function main(): Promise<void> {
  const settings = readSettings(
    {
      command: called("client", "dist/client.js"),
      summary:
        "Holds WebSocket sessions, verifies every message, and judges how each one moves when its server ends.\n" +
        "Exit 0: every handover was graceful; 1: one was not, or too few happened; 2: it could not run.",
      switches: { json: "print the result as one JSON object on stdout" },
    },
    SETTINGS,
  );
  if (settings === undefined) return;
  checkTogether(settings);
  if (settings.switches.has("check-settings")) return void chooseDialect(settings);
  if (settings.disrupt === "check" || settings.check !== "") return await check(settings);
  const { result, error } = await new Run(settings).hold();
  if (error !== undefined) throw new UserError(error);
  process.exitCode = result.verdict === "PASS" ? 0 : 1;
  writeReports(settings.report, result);
  useColour(process.stdout);
  process.stdout.write(settings.switches.has("json") ? `${toJson(result)}\n` : render(result));
  setTimeout(() => process.exit(), 5000).unref(); // nothing is left but, at worst, output that nobody takes
}

/** Only the check: foretells what a drill would show, opens no session and disturbs nothing. Exit 1 where something is foretold. */
async function check(settings: Settings): Promise<void> {
  const { switches, report } = settings;
  const checked = checkResult(settings.check === "" ? [await inspectCluster(settings)] : await inspectFile(settings));
  process.exitCode = checked.verdict === "PASS" ? 0 : 1;
  const json = `${toJson(checked)}\n`;
  for (const file of report) {
    if (endingOf(file) !== "json") throw new UserError(`--report ${file}: a check is written as .json only`);
    if (isStdout(file)) process.stdout.write(json);
    else writeWhole(file, json);
  }
  useColour(process.stdout);
  process.stdout.write(switches.has("json") ? json : renderCheck(checked));
}

/** What a check found out, of one workload or of several. */
export interface CheckResult {
  verdict: "PASS" | "FAIL";
  summary: string;
  version: string;
  inspections: Inspection[];
}

function checkResult(inspections: Inspection[]): CheckResult {
  const all = inspections.flatMap(({ predictions }) => predictions);
  const names = [...new Set(all.flatMap(({ foretells }) => foretells[0]!))];
  const verdict = all.length === 0 ? "PASS" : "FAIL";
  const whose = inspections.map(({ target }) => target).join(", ");
  const what = all.length === 0 ? "nothing is foretold" : `${all.length} foretold: ${names.join(", ")}`;
  return { verdict, summary: printable(`${verdict}  ${whose}: ${what}`), version: VERSION, inspections };
}

/** Throws `UserError` with verb, resource and namespace where something could not be looked at. */
async function inspectCluster(settings: Settings): Promise<Inspection> {
  const api = new Api(settings.serviceAccount);
  const target = targetOf(settings);
  const inspection = await lookAt(api, target, await readTarget(api, target), settings);
  if (inspection.unseen.length > 0) throw new UserError(inspection.unseen[0]!);
  return inspection;
}

async function inspectFile(settings: Settings): Promise<Inspection[]> {
  const { check: file, url } = settings;
  let text = "";
  try {
    const input = file === "-" ? process.stdin : createReadStream(file);
    for await (const part of input.setEncoding("utf8")) text += part;
  } catch (error) {
    throw new UserError(`Cannot read --check ${file}: ${(error as Error).message}`);
  }
  const target = targetOf(settings);
  const asked = targetInWords(target) === DEFAULT_TARGET ? undefined : target; // nobody named it
  return workloadsIn(parseObjects(text), asked, serviceNames(url)).map((workload) => inspect(workload));
}

/** What is to be disrupted: the older setting counts where the newer one is not given. */
function targetOf({ target, targetDeployment }: Pick<Settings, "target" | "targetDeployment">): Target {
  return parseTarget(targetDeployment !== "" && target === DEFAULT_TARGET ? targetDeployment : target);
}

/** The names that Services would have which these URLs lead to. */
function serviceNames(urls: readonly string[]): string[] {
  return urls.map((url) => new URL(url).hostname.split(".")[0]!);
}

/** Throws `UserError` for settings that each are right, and together cannot work. */
function checkTogether(
  { tlsCert, tlsKey, switches, report, sessions, reconnect, via, check, disrupt }: Settings,
): void {
  if (check !== "" && disrupt !== "none" && disrupt !== "check") {
    throw new UserError(`--check looks at a file, --disrupt ${disrupt} at a cluster: one of them`);
  }
  if ((tlsCert === "") !== (tlsKey === "")) throw new UserError("--tls-cert and --tls-key go together");
  if (switches.has("json") && report.some(isStdout)) {
    throw new UserError("--json has stdout for itself: --report to a file");
  }
  const names = [DIRECT, ...via.map(({ name }) => name)];
  const twice = names.find((name, index) => names.indexOf(name) < index);
  if (twice !== undefined) {
    const rule = twice === DIRECT ? `must not be ${DIRECT}, which is --url's` : "must be given once";
    throw new UserError(`--via: the name of a path ${rule}: current value is '${twice}'`);
  }
  if (sessions < names.length) {
    throw new UserError(
      `--sessions must be at least ${names.length}, one for each path: current value is '${sessions}'`,
    );
  }
  const most = Math.floor(((openFilesLimit() ?? Infinity) - OTHER_FILES) / (reconnect === "early" ? 2 : 1));
  if (sessions > most && !switches.has("check-settings")) { // they may be another machine's
    throw new UserError(
      `--sessions must be at most ${Math.max(0, most)} with the open files that this process may have (ulimit -n): ` +
        `current value is '${sessions}'`,
    );
  }
}

// ---- The run: owns the slots and what watches them, decides when it is over, makes the result

/** One run of the client, from its first dial to its result. */
export class Run {
  readonly #settings: Settings;
  readonly #origin = performance.now();
  readonly #startedAt = new Date().toISOString();
  readonly #lateness = new Lateness();
  readonly #journal = new Journal();
  /** Read while files can still be opened. */
  readonly #openFiles = openFilesLimit();
  readonly #ways: Way[];
  readonly #slots: Slot[];
  readonly #log: Log;
  readonly #page: LivePage;
  #api: Api | undefined;
  #watch: ClusterWatch | undefined;
  #workload: FoundWorkload | undefined;
  #drill: Drill | undefined;
  /** What the cluster's objects foretell; nothing without a cluster. */
  #inspection: Pick<Inspection, "predictions" | "unseen"> = { predictions: [], unseen: [] };
  #metrics: Metrics | undefined;
  readonly #evenLives: EvenLives;
  /** URLs that are dialled without an offer from now on. */
  readonly #refusesOffer = new Set<string>();
  readonly #stop = new AbortController();
  #steady = 0;
  /** Why there can be no result. */
  #fatal: string | undefined;

  constructor(settings: Settings) {
    this.#settings = settings;
    this.#log = createLog("client", settings.logFormat, () => this.#status(), () => settings.sessions);
    const access = followAccess(settings, this.#log);
    const dialect = chooseDialect(settings);
    this.#evenLives = new EvenLives((name, code) => {
      const spoken = name === dialect.name ? dialect : dialectNamed(name);
      return codesOf({ dialect: spoken }, settings.expectCode).includes(code);
    });
    const said = [...Object.entries(dialect.headers), ...settings.header];
    const own = Object.fromEntries(said.map(([name, value]) => [name.toLowerCase(), value]));
    const dial: Dial = (url, owner, headers, refusals = 0, cookies) =>
      new Session({
        url,
        owner,
        settings,
        dialect,
        isAuto: settings.dialect === "auto",
        lateness: this.#lateness,
        access: { ...access.tls, headers: { ...own, ...headers, ...access.authorization(refusals) } },
        podAt: (socket) => this.#watch?.podAt(socket),
        offers: !this.#refusesOffer.has(url),
        ...cookies === undefined ? {} : { cookies },
      });
    const context: SlotContext = {
      settings,
      dial,
      gate: new Gate(MAX_DIALS),
      lateness: this.#lateness,
      journal: this.#journal,
      path: null,
      urls: settings.url,
      log: this.#log,
      origin: this.#origin,
      watch: () => this.#watch,
      onSteady: () => this.#onSteady(),
      onFailedDial: (kind, url) => this.#onFailedDial(kind, url),
      onJudged: (handover) => this.#onJudged(handover),
    };
    this.#ways = this.#openWays(context);
    this.#slots = Array.from({ length: settings.sessions }, (_, index) => {
      const way = this.#ways[index % this.#ways.length]!;
      const path = this.#ways.length === 1 ? null : way.name;
      const slot = new Slot(index + 1, { ...context, journal: way.journal, path, urls: way.urls });
      way.slots.push(slot);
      return slot;
    });
    this.#page = new LivePage(() => this.#newsKey(), () => pageData(this.#result(), !this.#stop.signal.aborted));
  }

  /** The ways that the settings name; probes take turns on them. */
  #openWays({ dial, log, watch }: SlotContext): Way[] {
    const { url, via, probeIntervalMs } = this.#settings;
    const named = [{ name: DIRECT, urls: url }, ...via.map(({ name, url }) => ({ name, urls: [url] }))];
    return named.map(({ name, urls }, index) => {
      const journal = named.length === 1 ? this.#journal : new Journal(this.#journal);
      const times = { firstMs: probeIntervalMs * (index + 1), intervalMs: probeIntervalMs * named.length };
      return new Way({ name, urls, journal, probe: new Probe({ urls, ...times, dial, journal, log, watch }) });
    });
  }

  /** Holds the sessions until there is a result; `error` says why there can be none. Throws `UserError` where it cannot begin. */
  async hold(): Promise<{ result: Result; error?: string }> {
    const { sessions, url, timeoutMs, disrupt, evidence, logFormat } = this.#settings;
    if (evidence !== "" && disrupt !== "watch") throw new UserError("--evidence needs --disrupt watch");
    let isSignalled = false;
    const onSignal = (signal: string) => {
      if (isSignalled) process.exit(1); // whoever asks twice does not want to wait
      isSignalled = true;
      this.#stop.abort(signal);
    };
    process.on("SIGTERM", onSignal);
    process.on("SIGINT", onSignal);

    // 1. Eyes first: the admin port, and on a cluster the watches, before anything can happen that they should see.
    const admin = this.#createAdmin();
    const adminPort = await listen(admin, this.#settings.adminPort, "");
    if (disrupt !== "none") {
      try {
        this.#watch = await this.#openWatch();
      } catch (error) {
        admin.close();
        throw error;
      }
    }
    const urls = [...url, ...this.#settings.via.map(({ url }) => url)];
    const where = `${count(sessions, "session")} to ${urls.join(", ")}`;
    this.#log.line("started", `${where}, admin port ${adminPort}`, { sessions, adminPort });
    this.#metrics = await exportMetrics(this.#journal, () => this.#countConnected());

    // 2. Everybody dials; what ends the run is a count, a time, a signal or the drill.
    if (timeoutMs > 0) setTimeout(() => this.#stop.abort("--timeout"), timeoutMs).unref();
    for (const { probe } of this.#ways) probe.start();
    for (const slot of this.#slots) void slot.hold();
    if (this.#api !== undefined) void this.#disrupt(this.#watch!, this.#api, this.#workload!);
    await aborted(this.#stop.signal);

    // 3. What was done to the workload is undone, and what is on its way is judged, before our own closing touches it.
    const { reason } = this.#stop.signal;
    const open = this.#countConnected();
    this.#log.line("stopping", `${reason}: closing ${count(open, "session")}`, { reason, sessions: open });
    await this.#drill?.undo();
    for (const slot of this.#slots) slot.stop();
    this.#watch?.diagnoseRest();
    if (this.#watch === undefined) this.#comparePaths();
    const result = this.#result();

    // 4. Leave in order, and let go of all that would keep the process.
    this.#page.end();
    await Promise.all([...this.#ways.map(({ probe }) => probe.leave()), ...this.#slots.map((slot) => slot.leave())]);
    this.#watch?.close();
    this.#api?.close();
    this.#lateness.end();
    this.#log.end();
    if (logFormat === "json") {
      const { verdict, counts: { graceful, failed }, messages: { lost } } = result;
      const labels = { verdict, handovers: graceful + failed, failed, lost };
      this.#log.line("verdict", result.summary, labels, verdict === "PASS" ? "info" : "error");
    }
    admin.close();
    admin.closeAllConnections();
    process.off("SIGTERM", onSignal).off("SIGINT", onSignal);
    if (this.#fatal !== undefined) return { result, error: this.#fatal };
    if (this.#journal.opened > 0) return { result };
    const dials = this.#journal.dialsInWords() || "no dial finished";
    const { refusal } = this.#journal;
    const why = refusal === undefined ? "" : `; ${printable(refusal.message)}: ${refusal.answer}`;
    return { result, error: `Never connected to ${urls.join(", ")}: ${dials}${why}` };
  }

  // ---- What the slots, the drill and the page ask or tell

  #onSteady(): void {
    const sessions = this.#slots.length;
    if (++this.#steady < sessions) return;
    this.#log.line("steady", `${count(sessions, "session")} confirmed in both directions`, { sessions });
  }

  #onFailedDial(kind: string, url: string): void {
    if (kind === "400") this.#refusesOffer.add(url); // some refuse a subprotocol that they do not know (RFC 6455 4.2.2)
    const { failedDials, opened } = this.#journal;
    const why = OWN_LIMITS.get(kind)?.(this.#openFiles);
    if (why !== undefined && failedDials[kind] === 1) this.#log.line("dial-failed", why, { kind }, "error");
    const dials = sum(failedDials);
    if (opened > 0 || dials < MAX_UNAUTHORIZED || failedDials["401"] !== dials) return;
    const { tokenFile } = this.#settings;
    const advice = tokenFile === "" ? REFUSALS["401"] : `see --token-file ${tokenFile}`;
    this.#fatal = `${url} refuses every dial with 401: ${advice}`;
    this.#stop.abort("401");
  }

  #onJudged(handover: Handover): void {
    const evidence = this.#api !== undefined ? "watched" : this.#watch !== undefined ? "played" : "none";
    const why = this.#evenLives.note(handover, evidence);
    if (why !== undefined) {
      this.#fatal = why;
      this.#stop.abort("turned away");
    }
    this.#metrics?.measure(handover);
    this.#watch?.diagnose(handover);
    void this.#stopWhenEnough();
  }

  async #stopWhenEnough(): Promise<void> {
    const { handovers } = this.#settings;
    const isDone = () => this.#journal.judged >= handovers && this.#countInFlight() === 0 && !this.#drill?.awaiting;
    if (handovers === 0 || !isDone()) return;
    // Of these the causes are awaited; where sessions end without end, further ones are not.
    const open = this.#watch?.open() ?? [];
    await until(() => open.every((handover) => !this.#watch!.isOpen(handover)), this.#stop.signal);
    this.#stop.abort(`--handovers ${handovers}`);
  }

  /** Follows a cluster through its API, or what somebody writes who plays one. */
  async #openWatch(): Promise<ClusterWatch> {
    const { evidence, serviceAccount, sessions, url } = this.#settings;
    const watch = new ClusterWatch({
      log: this.#log,
      origin: this.#origin,
      sessions,
      // With several URLs we choose, not a Service: whom our dials meet says nothing of its endpoints.
      isRouted: evidence === "" || url.length === 1,
      // Whatever stands before the Service, the endpoints are the Service's.
      serviceUrl: (dialled) => this.#settings.via.some(({ url }) => url === dialled) ? url[0]! : dialled,
      differences: () => this.#ways.length === 1 ? [] : pathDifferences(this.#journal.handovers),
      // What fared better on another path may still be on its way.
      isComparable: () => this.#ways.length === 1 || this.#countInFlight() === 0,
      onDiagnosed: (handover) => this.#journalOf(handover).explain(handover),
      onOpen: (handover) => this.#journalOf(handover).suspect(handover),
      onTurnedAway: (handover) => this.#journal.turnAway(handover),
    });
    const observer = {
      observe: watch.observe.bind(watch),
      lost: (stream: Stream | "evidence", { message }: Error) => {
        if (stream !== "evidence") watch.lost(stream);
        this.#log.each("watch-lost", () => [`${stream}: ${message}`, { stream }, "warn"]);
      },
      heard: watch.heard.bind(watch),
    };
    try {
      if (evidence === "") {
        const api = this.#api = new Api(serviceAccount);
        this.#workload = await this.#findWorkload(api);
        await followAll(api, this.#workload.selector, observer);
      } else followLines(evidence, observer, this.#stop.signal);
    } catch (error) {
      watch.close();
      this.#api?.close();
      throw error;
    }
    return watch;
  }

  #journalOf({ path }: Handover): Journal {
    return this.#ways.find(({ name }) => name === path)?.journal ?? this.#journal;
  }

  /** Without a cluster to ask, the sessions of another path may still prove who cut these. */
  #comparePaths(): void {
    if (this.#ways.length === 1) return;
    for (const difference of pathDifferences(this.#journal.handovers)) {
      for (const handover of difference.cuts) {
        const { slot, symptom, endedMs, how } = handover;
        if (handover.cause !== null || how === "silence" || !isProven(difference, endedMs!)) continue;
        const [cause, evidence] = ["INTERMEDIARY_CUT", differenceInWords(difference)] as const;
        this.#journalOf(handover).explain(Object.assign(handover, { cause, evidence }));
        const labels = { slot, symptom, cause, evidence, pod: handover.pod };
        this.#log.each("diagnosis", () => [`slot ${slot}: ${cause}, ${evidence}`, labels, "warn"]);
      }
    }
  }

  /** The slots of the ways that are not given up: a drill does not wait for the others. */
  #living(): Slot[] {
    if (this.#journal.opened === 0) return this.#slots;
    return this.#ways.flatMap((way) => way.isDead ? [] : way.slots);
  }

  /** The target, as far as it is needed: a selector that was given does without. */
  async #findWorkload(api: Api): Promise<FoundWorkload> {
    const { targetSelector: given } = this.#settings;
    const target = targetOf(this.#settings);
    try {
      const object = await readTarget(api, target);
      return { target, object, selector: given === "" ? selectorInWords(object.spec.selector ?? {}) : given };
    } catch (problem) {
      if (given === "" || !(problem instanceof UserError)) throw problem;
      return { target, problem, selector: given };
    }
  }

  /** What the objects foretell, before anything is done to them; what cannot be looked at does not keep a drill from beginning. */
  async #foretell(api: Api, { target, object, problem }: FoundWorkload): Promise<void> {
    if (object === undefined) this.#inspection.unseen.push(problem!.message);
    else this.#inspection = await lookAt(api, target, object, this.#settings);
    const { predictions, unseen } = this.#inspection;
    for (const { rule, foretells, field, value, text } of predictions) {
      this.#log.line("foretold", `${foretells[0]}: ${field} is ${value}; ${text}`, { rule, field, value }, "warn");
    }
    for (const message of unseen) this.#log.line("foretold", `not looked at: ${message}`, {}, "warn");
  }

  async #disrupt(watch: ClusterWatch, api: Api, workload: FoundWorkload): Promise<void> {
    const { sessions, handovers, disrupt } = this.#settings;
    const isSettled = () => this.#living().every((slot) => slot.isConnected) && this.#countInFlight() === 0;
    if (disrupt !== "watch") {
      this.#drill = new Drill({
        settings: this.#settings,
        watch,
        api,
        workload,
        log: this.#log,
        signal: this.#stop.signal,
        sessions,
        isCalm: () => isSettled() && this.#living().every((slot) => slot.isSteady),
        isSettled,
        holders: () => this.#slots.flatMap(({ ledger }) => ledger ?? []),
        isEnough: () => this.#journal.judged >= handovers,
      });
    }
    try {
      await this.#foretell(api, workload);
      await this.#drill?.run();
      if (this.#drill?.awaiting === "") this.#stop.abort(`${disrupt} is over`);
    } catch (problem) {
      if (api.closed.aborted) return;
      if (!(problem instanceof UserError)) throw problem;
      this.#fatal = problem.message;
      this.#stop.abort("the drill failed");
    }
  }

  #countInFlight(): number {
    return this.#slots.filter((slot) => slot.isMoving).length;
  }

  #countConnected(): number {
    return this.#slots.filter((slot) => slot.isConnected).length;
  }

  #isAllConnected(): boolean {
    return this.#slots.every((slot) => slot.isConnected);
  }

  #status(): string {
    return `${grouped(this.#countConnected())} of ${count(this.#slots.length, "session")} connected`;
  }

  /** Changes when there is something new to show. */
  #newsKey(): string {
    const { opened, judged } = this.#journal;
    const { undiagnosed = 0, moments = 0 } = this.#watch ?? {};
    const counts = [opened, this.#countConnected(), this.#countInFlight(), judged, undiagnosed, moments];
    return [...counts, this.#drill?.awaiting, this.#stop.signal.aborted].join();
  }

  // ---- What it shows while it runs

  #createAdmin(): Server {
    return createAdmin({
      "/healthz": () => ({ status: 200, body: "ok\n" }),
      "/readyz": () => {
        const flying = this.#countInFlight() + (this.#watch?.undiagnosed ?? 0);
        const body = `${this.#status()}, ${count(flying, "handover")} in flight\n`;
        return { status: this.#isAllConnected() ? 200 : 503, body };
      },
      "/metrics": () => this.#metrics?.route() ?? { status: 503, body: "starting\n" },
      "/report": () => ({ status: 200, type: "application/json", body: `${toJson(this.#result())}\n` }),
      "/": () => {
        const body = renderPage();
        return { status: 200, body, type: "text/html; charset=utf-8", headers: securityHeaders(body) };
      },
      "/events": (response) => this.#page.admit(response),
    }, { paths: ["/", "/events", "/report"], names: this.#settings.allowHost });
  }

  // ---- The result

  #result(): Result {
    const { counts, messages, symptoms, handovers, failedDials, opened } = this.#journal;
    const { sessions: wanted, handovers: wantedHandovers, url } = this.#settings;
    const durationMs = Math.round(performance.now() - this.#origin);
    const { reconnect, silence } = timesOf(handovers);
    const had = this.#ways.reduce((sum, way) => sum + way.had, 0);
    const failure = this.#drill?.whyNoDrill(handovers) ?? null;
    const never = this.#neverConnected();
    const where = never.length === 0 ? "" : `, none on the path ${never.map(({ name }) => name).join(", ")}`;
    const problem = this.#journal.failureInWords() ?? failure ??
      (had < wanted
        ? `only ${grouped(had)} of ${count(wanted, "session")} ever connected${where}: ${this.#journal.dialsInWords()}`
        : null) ??
      (this.#journal.witness.unseen > 0
        ? `${count(this.#journal.witness.unseen, "session")} ended while this client itself stood still: not judged`
        : null) ??
      (this.#journal.judged < wantedHandovers
        ? `${this.#journal.judged} of ${count(wantedHandovers, "handover")} happened within ${duration(durationMs)}`
        : null);
    const verdict = problem !== null || opened === 0 ? "FAIL" : "PASS";
    const since = (at: number | undefined) => at === undefined ? null : Math.round((at - this.#origin) * 10) / 10;
    const moved = this.#moved();
    const rollout = rolloutOf(moved);
    const findings = [...this.#findings(had), ...rolloutFindings(rollout, moved)];
    return {
      verdict,
      summary: printable(`${verdict}  ${problem ?? this.#journal.successInWords(reconnect.p99Ms)}`),
      version: VERSION,
      startedAt: this.#startedAt,
      durationMs,
      sessions: { wanted, had, connected: this.#countConnected(), byServer: this.#countServers() },
      open: sample(this.#slots.filter((slot) => slot.isHeld)).map(({ number, ledger }) => {
        const { server, openedAt } = ledger!;
        return { slot: number, server, openedMs: since(openedAt)! };
      }),
      inFlight: sample(this.#slots.filter((slot) => slot.isMoving)).map(({ number, ledger }) => {
        const { server, openedAt, noticeAt, endedAt } = ledger!;
        return {
          slot: number,
          from: server,
          openedMs: since(openedAt),
          toldMs: since(noticeAt),
          endedMs: since(endedAt),
        };
      }),
      messages,
      counts: { ...counts },
      symptoms,
      expected: this.#journal.expected,
      reconnect,
      silence,
      failedDials,
      probes: this.#countProbes(),
      paths: this.#ways.length === 1 ? [] : this.#ways.map((way) => way.result()),
      rollout,
      witness: { maxLateMs: Math.round(this.#lateness.maxMs), totalLateMs: Math.round(this.#lateness.totalMs) },
      disruption: this.#drill?.disruption ?? null,
      failure,
      pods: (this.#watch?.endedPods() ?? []).map(reportPod),
      findings,
      predictions: this.#inspection.predictions.map((prediction) => ({
        ...prediction,
        came: cameTrue(prediction, handovers, findings),
      })),
      unseen: this.#inspection.unseen,
      settings: {
        ...this.#settings,
        url: url.map(redactUrl),
        via: this.#settings.via.map(({ name, url }) => ({ name, url: redactUrl(url) })),
        header: this.#settings.header.map(([name]): [string, string] => [name, "…"]),
        say: this.#settings.say.map(() => "…"),
        reply: this.#settings.reply.map(([pattern]): [string, string] => [pattern, "…"]),
        heartbeat: this.#settings.heartbeat && "…",
      },
      handovers,
    };
  }

  #countProbes(): Result["probes"] {
    const all = this.#ways.map(({ probe }) => probe.counts);
    const total = (kind: "ok" | "refused" | "503" | "timeout" | "other") =>
      all.reduce((sum, one) => sum + one[kind], 0);
    const lastMs = all.flatMap(({ lastOnEndingMs }) => lastOnEndingMs ?? []);
    return {
      ok: total("ok"),
      refused: total("refused"),
      "503": total("503"),
      timeout: total("timeout"),
      other: total("other"),
      lastOnEndingMs: lastMs.length === 0 ? null : Math.max(...lastMs),
    };
  }

  /** What is known of how sessions moved and where they are. */
  #moved(): Moved {
    const { url } = this.#settings;
    const disruption = this.#drill?.disruption ?? null;
    const pods = this.#watch?.pods ?? [];
    return {
      handovers: this.#journal.handovers,
      rolledMs: disruption?.kind === "rollout" ? disruption.atMs : null,
      podsMs: pods.flatMap(({ moments, readyMs }) => [...moments.map(({ atMs }) => atMs), readyMs]).filter((atMs) =>
        atMs > 0
      ),
      // With several URLs we choose, not a Service: who has how many is nobody's fault.
      held: url.length > 1 ? {} : this.#countServers(),
      ready: this.#watch === undefined
        ? null
        : url.length > 1
        ? []
        : pods.filter((pod) => pod.ready && !when(pod, "gone")),
    };
  }

  #neverConnected(): Way[] {
    if (this.#ways.length === 1) return [];
    return this.#ways.filter(({ had }) => had === 0);
  }

  #countServers(): Record<string, number> {
    const servers: Record<string, number> = {};
    for (const { server } of this.#slots.flatMap((slot) => slot.openLedgers)) {
      servers[server] = (servers[server] ?? 0) + 1;
    }
    return servers;
  }

  #findings(had: number): Result["findings"] {
    const { url, sessions } = this.#settings;
    const { witness, failedDials, handovers } = this.#journal;
    const findings: Result["findings"] = [];
    if (witness.decided > 0) {
      const text = `this client itself was late by up to ${duration(witness.maxMs)}: taken off, which decided ` +
        `${count(witness.decided, "handover")}; give it more CPU, or fewer sessions`;
      findings.push({ name: "WITNESS_SLOW", text });
    }
    if (witness.unseen > 0) {
      const ended = `${count(witness.unseen, "session")} that ended then cannot be judged`;
      const text = `this client itself stood still for up to ${duration(this.#lateness.maxMs)}, and a server may cut ` +
        `who answers no ping: ${ended}; give it more CPU, and do not pause it`;
      findings.push({ name: "WITNESS_SLOW", text });
    }
    findings.push(...this.#evenLives.findings());
    const away = handovers.find(({ symptom }) => symptom === "TURNED_AWAY");
    if (away !== undefined) {
      const { from, code, reason, openedMs, endedMs } = away;
      const answer = answerTo(code ?? undefined, reason, []) ?? "nothing was being shut down";
      const text = `${from} ended a session by itself with ${`${code} ${reason}`.trimEnd()} after ` +
        `${duration((endedMs ?? 0) - (openedMs ?? 0))}: ${answer}`;
      findings.push({ name: "TURNED_AWAY", text });
    }
    for (const [kind, why] of OWN_LIMITS) {
      if (failedDials[kind] === undefined) continue;
      const text = `${grouped(had)} of ${count(sessions, "session")} connected: ${why(this.#openFiles)}`;
      findings.push({ name: "WITNESS_LIMIT", text });
    }
    for (const { name, slots, journal } of this.#neverConnected()) {
      const dials = journal.dialsInWords() || "no dial finished";
      const text = `${name}: none of its ${
        count(slots.length, "session")
      } ever connected (${dials}); the others are judged`;
      findings.push({ name: "PATH_DOWN", text });
    }
    if (this.#ways.length > 1) {
      const differences = pathDifferences(handovers);
      findings.push(...differences.map((one) => ({ name: "INTERMEDIARY_CUT", text: differenceInWords(one) })));
    }
    const { lastOnEndingMs } = this.#countProbes();
    if (this.#watch !== undefined) findings.push(...this.#watch.findings(this.#drill?.disruption ?? null, handovers));
    else if (lastOnEndingMs !== null && url.length === 1) {
      // With several URLs nobody routes new connections but we ourselves.
      const text = `a new connection still reached the ending server at +${duration(lastOnEndingMs)}`;
      findings.push({ name: "ENDPOINT_RACE", text: `${text}: preStop.sleep longer than that` });
    }
    return findings;
  }
}

/** One way to the pods, with who goes it and its own numbers; a run has one or more. */
class Way {
  readonly name: string;
  readonly urls: readonly string[];
  /** The run's own where there is but one way. */
  readonly journal: Journal;
  readonly probe: Probe;
  readonly slots: Slot[] = [];

  constructor({ name, urls, journal, probe }: Pick<Way, "name" | "urls" | "journal" | "probe">) {
    this.name = name;
    this.urls = urls;
    this.journal = journal;
    this.probe = probe;
  }

  /** How many of its slots ever had a session. */
  get had(): number {
    return this.slots.filter((slot) => slot.hadSession).length;
  }

  /** Whether none of its sessions ever connected, often as each has tried. */
  get isDead(): boolean {
    const { opened, failedDials } = this.journal;
    return opened === 0 && sum(failedDials) >= DEAD_DIALS * this.slots.length;
  }

  result(): PathResult {
    const { counts, messages, symptoms, failedDials, handovers } = this.journal;
    return {
      name: this.name,
      urls: this.urls.map(redactUrl),
      sessions: {
        wanted: this.slots.length,
        had: this.had,
        connected: this.slots.filter((slot) => slot.isConnected).length,
      },
      counts: { ...counts },
      messages,
      symptoms,
      ...timesOf(handovers),
      failedDials,
      probes: this.probe.counts,
    };
  }
}

/**
 * Servers that end one session after the other at the same age: they turn us away, nothing is being shut down. With a graceful
 * code somebody may do so on purpose, as often: that is a finding.
 */
class EvenLives {
  readonly #isGraceful: (dialect: string, code: number) => boolean;
  /** By slot: how its server ended the latest sessions, and how old they were. */
  readonly #ends = new Map<number, { ended: string; livedMs: number[] }>();
  /** A graceful code, but after the same age each time. */
  #alike: { from: string; ended: string; livedMs: number } | undefined;

  constructor(isGraceful: (dialect: string, code: number) => boolean) {
    this.#isGraceful = isGraceful;
  }

  /**
   * Why the run cannot go on, where it cannot. Where a cluster is `watched` its evidence decides, where somebody `plays` one it
   * does of graceful ends.
   */
  note(handover: Handover, evidence: "watched" | "played" | "none"): string | undefined {
    const { slot, symptom, verdict, dialect, code, reason, openedMs, endedMs, noticeMs, from, to, failedDials } =
      handover;
    const ended = `${code} ${printable(reason)}`.trimEnd();
    // A wrong code is no shutdown's. A right one may be one's: then nothing may have been down, and the ages must be the same.
    const isWrong = symptom === "TURNED_AWAY" ||
      (symptom !== null && CLOSED.includes(symptom) && code !== null && !this.#isGraceful(dialect, code));
    const isOdd = verdict === "graceful" && dialect !== "v1" && noticeMs === null && from === to;
    // To be turned away at once is to be turned away; all else that fails may be a shutdown.
    const { bounced = 0 } = isWrong ? failedDials : {};
    if (sum(failedDials) > bounced || !(isWrong || isOdd) || code === null || openedMs === null || endedMs === null) {
      this.#ends.delete(slot);
      return;
    }
    const before = this.#ends.get(slot);
    const livedMs = [...before?.ended === ended ? before.livedMs : [], endedMs - openedMs].slice(-TURNED_AWAY);
    this.#ends.set(slot, { ended, livedMs });
    const [shortest, longest] = [Math.min(...livedMs), Math.max(...livedMs)];
    if (livedMs.length < TURNED_AWAY || longest > (isWrong ? EVEN : SAME) * shortest) return;
    if (evidence === "watched" || (!isWrong && evidence === "played")) return;
    if (!isWrong) {
      this.#alike = { from, ended, livedMs: longest };
      return;
    }
    const answer = answerTo(code, reason, []) ??
      "it may want a subprotocol (--subprotocol), a header (--header), or a greeting or answer (--dialect, --say, --reply)";
    return `${from} ends every session by itself with ${ended}, after ${duration(livedMs.at(-1)!)} each: ${answer}`;
  }

  findings(): Result["findings"] {
    if (this.#alike === undefined) return [];
    const { from, ended, livedMs } = this.#alike;
    const text = `${from} ended ${TURNED_AWAY} sessions in a row with ${ended}, after ${duration(livedMs)} each, and ` +
      "nothing was down between them: where nobody shut it down it limits the age, or wants to hear something";
    return [{ name: "SAME_AGE", text }];
  }
}

/** What is measured while the client runs. */
interface Metrics {
  route: () => Promise<Answer>;
  measure: (handover: Handover) => void;
}

async function exportMetrics(journal: Journal, countConnected: () => number): Promise<Metrics> {
  const metrics = await createMetrics("client");
  metrics.gauge("sessions", "Connected sessions", countConnected);
  metrics.counter("handovers_total", "Handovers by verdict and symptom", ["verdict", "symptom"], () => [
    [{ verdict: "graceful", symptom: "" }, journal.counts.graceful],
    ...Object.keys(REMEDIES).map((symptom): [Record<string, string>, number] => [
      { verdict: "failed", symptom },
      journal.symptoms[symptom as Symptom]?.count ?? 0,
    ]),
  ]);
  metrics.counter("messages_total", "Messages by direction", ["direction"], () => {
    const { sent, received } = journal.messages;
    return byLabel("direction", { sent, received });
  });
  metrics.counter("messages_lost_total", "Lost messages by direction", ["direction"], () => {
    return byLabel("direction", journal.lost);
  });
  const none = Object.fromEntries(
    ["ok", "503", "401", "bounced", "other", ...Object.values(DIAL_ERRORS)].map((kind) => [kind, 0]),
  );
  metrics.counter("dials_total", "Dials of sessions by result", ["result"], () => {
    return byLabel("result", { ...none, ...journal.failedDials, ok: journal.opened });
  });
  const reconnect = metrics.histogram("reconnect_seconds", "From a session's end to the next: forced, and in all", [
    { kind: "forced" },
    { kind: "total" },
  ]);
  const silence = metrics.histogram("silence_seconds", "From the last message of a session to the first of the next");
  const notice = metrics.histogram("notice_seconds", "From SHUTDOWN to a session's end");
  return {
    route: metrics.route,
    measure: ({ to, forcedMs, reconnectMs, silenceMs, noticeMs }) => {
      if (to !== null) {
        reconnect(forcedMs, { kind: "forced" });
        reconnect(reconnectMs, { kind: "total" });
      }
      silence(silenceMs);
      notice(noticeMs);
    },
  };
}

/** How long sessions took to be back, and how long nothing came. */
function timesOf(handovers: readonly Handover[]): Pick<Result, "reconnect" | "silence"> {
  return {
    reconnect: spread(handovers.filter(({ to }) => to !== null).map(({ reconnectMs }) => reconnectMs)),
    silence: spread(handovers.flatMap(({ silenceMs }) => silenceMs ?? [])),
  };
}

/** The numbers of a run and its handovers: what happened, entered by those to whom it happened; it decides nothing. */
export class Journal {
  /** Whose numbers these are a part of. */
  readonly #whole: Journal | undefined;
  /** Sessions that were opened, and lived. */
  opened = 0;
  readonly #messages = { received: 0, sent: 0, duplicated: 0, reordered: 0, resent: 0 };
  #isNumbered = false;
  readonly counts: Result["counts"] = { graceful: 0, failed: 0, unfinished: 0 };
  readonly lost = { down: 0, up: 0 };
  readonly symptoms: Result["symptoms"] = {};
  /** The rules that count by default, by the dialects that were met. */
  readonly expected: Record<string, readonly Rule[]> = {};
  readonly failedDials: Record<string, number> = {};
  #refusal: { message: string; answer: string } | undefined;
  /** In how many handovers our own lateness decided, how large it was at most, and how many were not judged for it. */
  readonly witness = { decided: 0, maxMs: 0, unseen: 0 };
  readonly handovers: Handover[] = [];
  /** Since when instances are known to end, the latest last. */
  readonly #endings = new Map<string, number>();

  constructor(whole?: Journal) {
    this.#whole = whole;
  }

  /** As they stand in the result; `lost` is null as long as nothing was numbered. */
  get messages(): Result["messages"] {
    return { ...this.#messages, lost: this.#isNumbered ? this.lost.down + this.lost.up : null };
  }

  /** What the last failed dial was told, and what may answer it. */
  get refusal(): { message: string; answer: string } | undefined {
    return this.#refusal;
  }

  get judged(): number {
    return this.counts.graceful + this.counts.failed;
  }

  enterOpened(ledger: Ledger): void {
    const { dialect } = ledger;
    this.#whole?.enterOpened(ledger);
    this.opened++;
    this.#isNumbered ||= dialect.expect.includes("complete");
    this.expected[dialect.name] = dialect.expect;
  }

  enterFailedDial(kind: string): void {
    this.#whole?.enterFailedDial(kind);
    this.failedDials[kind] = (this.failedDials[kind] ?? 0) + 1;
  }

  enterRefusal(refusal: { message: string; answer: string }): void {
    this.#whole?.enterRefusal(refusal);
    this.#refusal = refusal;
  }

  enterSent(again: boolean): void {
    this.#whole?.enterSent(again);
    this.#messages.sent++;
    if (again) this.#messages.resent++;
  }

  enterReceived(): void {
    this.#whole?.enterReceived();
    this.#messages.received++;
  }

  /** A session that is ending: it has been told, or has ended. A cut alone does not say that its server is going. */
  enterEnding(ledger: Ledger): void {
    if (this.#whole !== undefined) return this.#whole.enterEnding(ledger); // a server ends on all ways to it
    const { instance, noticeAt, closeCode } = ledger;
    if (this.#endings.has(instance) || (noticeAt === undefined && closeCode !== 1001)) return;
    this.#endings.set(instance, performance.now());
    if (this.#endings.size > KEPT_ENDINGS) this.#endings.delete(this.#endings.keys().next().value!);
  }

  /** Since when an instance is known to end; without one the latest of all. */
  endingSince(instance?: string): number | undefined {
    if (this.#whole !== undefined) return this.#whole.endingSince(instance);
    return instance === undefined ? [...this.#endings.values()].at(-1) : this.#endings.get(instance);
  }

  /** A judged handover; of many the older ones are kept as counts only. */
  enterHandover(handover: Handover, kept: number): void {
    this.#whole?.enterHandover(handover, kept);
    const { verdict, symptom, from, upstreamLost, lateMs, unseen } = handover;
    this.counts[verdict]++;
    if (unseen) this.witness.unseen++;
    this.lost.down += size(handover.lost);
    this.lost.up += upstreamLost;
    this.#messages.duplicated += size(handover.duplicated);
    this.#messages.reordered += size(handover.reordered);
    if (lateMs > 0) {
      this.witness.decided++;
      this.witness.maxMs = Math.max(this.witness.maxMs, lateMs);
    }
    if (symptom !== null) this.#countSymptom(symptom, from);
    this.handovers.push(handover);
    if (this.handovers.length >= 2 * kept) this.handovers.splice(0, kept);
  }

  #countSymptom(symptom: Symptom, from: string): void {
    const entry = this.symptoms[symptom] ??= { count: 0, servers: [], causes: {} };
    entry.count++;
    if (entry.servers.length < 10 && !entry.servers.includes(from)) entry.servers.push(from);
  }

  /** A handover that turned out to be none: its server ended the session, and lived on. */
  turnAway(handover: Handover): void {
    const { symptom, verdict, from, rules } = handover;
    this.counts[verdict]--;
    this.counts.failed++;
    if (symptom !== null && --this.symptoms[symptom]!.count === 0) delete this.symptoms[symptom];
    if (this.#whole !== undefined) this.#whole.turnAway(handover);
    else Object.assign(handover, { verdict: "failed", symptom: "TURNED_AWAY", rules: { ...rules, clean: "fail" } });
    this.#countSymptom("TURNED_AWAY", from);
  }

  /** A handover whose cause has become known. */
  explain(handover: Handover): void {
    const { symptom, cause, evidence } = handover;
    this.#whole?.explain(handover);
    const entry = this.symptoms[symptom!]!.causes[cause!] ??= { count: 0, evidence: evidence! };
    entry.count++;
  }

  /** A handover of which no cause is certain, after all that the cluster had to say. */
  suspect(handover: Handover): void {
    const { symptom, suspects } = handover;
    this.#whole?.suspect(handover);
    const entry = this.symptoms[symptom!]!;
    entry.suspects = [...new Set([...entry.suspects ?? [], ...suspects ?? []])];
  }

  /** "refused ×3, 503 ×1"; "" where every dial got through. */
  dialsInWords(): string {
    return kinds(this.failedDials);
  }

  /** Which symptoms the failed handovers have, where, and why; null where none failed. */
  failureInWords(): string | null {
    if (this.counts.failed === 0) return null;
    const symptoms = Object.entries(this.symptoms).map(([name, { count: all, servers, causes }]) =>
      `${name} ×${all} (${listed(servers)})` +
      Object.entries(causes).map(([cause, { count, evidence }]) =>
        `, cause ${cause}${count === all ? "" : ` of ${count}`}: ${evidence}`
      ).join("")
    );
    return `${grouped(this.counts.failed)} of ${count(this.judged, "handover")}: ${symptoms.join("; ")}`;
  }

  successInWords(reconnectP99Ms: number | null): string {
    const { counts: { unfinished }, messages: { lost, received } } = this;
    return `${count(this.judged, "handover")}${more(unfinished, "unfinished")}, ` +
      (lost === null ? `${count(received, "message")}, not numbered` : `${count(lost, "message")} lost`) +
      (reconnectP99Ms === null ? "" : `, reconnect p99 ${duration(reconnectP99Ms)}`);
  }
}

// ---- A slot: one place that wants to hold a session at all times

/** Opens a connection for its owner; `refusals`: how often in a row it was refused with 401. */
export type Dial = (
  url: string,
  owner: SessionOwner,
  headers?: Record<string, string>,
  refusals?: number,
  cookies?: Cookies,
) => Session;

/** What a slot works with. */
export interface SlotContext {
  settings: Settings;
  dial: Dial;
  gate: Gate;
  lateness: Lateness;
  journal: Journal;
  /** The way to the pods that its sessions take, and keep to; without a name where there is but one. */
  path: string | null;
  urls: readonly string[];
  log: Log;
  /** The client's start, by the monotonic clock. */
  origin: number;
  /** Who knows the pods that dials meet; on a cluster only. */
  watch: () => ClusterWatch | undefined;
  onSteady: () => void;
  onFailedDial: (kind: string, url: string) => void;
  onJudged: (handover: Handover) => void;
}

/** Dials, holds a session, sends through it, and when it ends moves to the next one and judges how that went. */
export class Slot implements SessionOwner {
  readonly number: number;
  readonly #context: SlotContext;
  readonly #cookies = new Cookies();
  /** Last `seq` used, and up to which the server has confirmed: what is between goes out again on the next session. */
  #lastSeq = 0;
  #confirmed = 0;
  #production: NodeJS.Timeout | undefined;
  /** What the production goes to: a session that has bounced may end after the next one has begun. */
  #producing: Session | undefined;
  /** All that are not over, those that are being dialled included, and those of which it is not known yet whether they live. */
  readonly #sessions = new Set<Session>();
  #current: Session | undefined;
  /** A handover on its way: the way to the next session, and that session once it is open. */
  #redial: Redial | undefined;
  #next: Session | undefined;
  #isSteady = false;
  #isStopped = false;
  #look = (): void => {};

  constructor(number: number, context: SlotContext) {
    this.number = number;
    this.#context = context;
  }

  /** The ledger of the session that is held, or is being replaced. */
  get ledger(): Ledger | undefined {
    return this.#current?.ledger;
  }

  get openLedgers(): Ledger[] {
    return [this.#current, this.#next].flatMap((session) => session?.isOpen ? session.ledger : []);
  }

  get hadSession(): boolean {
    return this.#current !== undefined;
  }

  get isHeld(): boolean {
    return this.#current?.isOpen ?? false;
  }

  get isConnected(): boolean {
    return this.isHeld || (this.#next?.isOpen ?? false);
  }

  /** Whether its session has been told or has ended, and is not judged yet. */
  get isMoving(): boolean {
    return !this.#isStopped && this.#current !== undefined && (this.#current.isTold || this.#current.isOver);
  }

  /** Whether messages have once been confirmed in both directions. */
  get isSteady(): boolean {
    return this.#isSteady;
  }

  /** Lives until the slot is stopped. */
  async hold(): Promise<void> {
    const isEarly = this.#context.settings.reconnect === "early";
    let held = this.#current = await this.#connect();
    while (held !== undefined) {
      const from: Session = held;
      await this.#until(() => from.isOver || (isEarly && from.isTold));
      const next = await this.#connect(from);
      if (next === undefined) return;
      // Early, the next one may end before the old one has; the first message of the next one ends the silence.
      await this.#until(() => from.isOver && (next.ledger.firstDataAt !== undefined || next.isOver));
      if (this.#isStopped) return;
      const handover = this.#judge(next);
      held = this.#current = next;
      this.#redial = this.#next = undefined;
      this.#context.onJudged(handover);
    }
  }

  /** The run is over: what is on its way is judged as it is. */
  stop(): void {
    const current = this.#current;
    if (this.isMoving) {
      if (current!.isOpen && this.#isSilent(current!)) current!.giveUp();
      const { onJudged } = this.#context;
      const next = this.#next === undefined || this.#isBounced(this.#next) ? undefined : this.#next;
      onJudged(this.#judge(next));
      if (next?.isOver) { // early, it may end before the old one has
        [this.#current, this.#next, this.#redial] = [next, undefined, undefined];
        onJudged(this.#judge(undefined));
      }
    }
    this.#isStopped = true;
    this.#stopProducing();
    this.#look();
  }

  /** Resolves when its connections are gone. */
  async leave(): Promise<void> {
    await Promise.all([...this.#sessions].map((session) => session.leave()));
  }

  /** Dials until a session lives: the first one, or the one after `from`. Undefined once the slot is stopped. */
  async #connect(from?: Session): Promise<Session | undefined> {
    const { gate, settings, watch, journal } = this.#context;
    const redial = newRedial();
    if (from !== undefined) this.#redial = redial;
    let refused: string | undefined;
    let unauthorized = 0;
    for (let attempt = from === undefined ? -1 : 0; !this.#isStopped; attempt++) {
      if (attempt >= 0) {
        await pause(backoffMs(attempt, { baseMs: settings.backoffBaseMs, capMs: settings.backoffCapMs }));
      }
      await gate.enter();
      const url = chooseUrl(this.#context.urls, from?.ledger.url, refused);
      const session = this.#isStopped ? undefined : await this.#dial(url, redial, unauthorized);
      gate.leave();
      if (session === undefined || this.#isStopped) return undefined;
      const failure = session.failure ?? await this.#findBounce(session, from);
      if (this.#isStopped) return undefined;
      watch()?.noteMeeting(session, failure, redial);
      if (failure === undefined) {
        journal.enterOpened(session.ledger);
        return session;
      }
      this.#noteFailure(url, failure, redial);
      refused = url;
      if (failure.kind === "401") unauthorized++;
    }
    return undefined;
  }

  /** A dial, with what it says of the way to the next session. */
  async #dial(url: string, redial: Redial, unauthorized: number): Promise<Session> {
    this.#context.watch()?.noteDial(redial, url);
    redial.dialledAt = performance.now();
    redial.chosenMs = Math.min(redial.chosenMs, redial.dialledAt - redial.startedAt);
    const session = this.#context.dial(url, this, {}, unauthorized, this.#cookies);
    this.#sessions.add(session);
    await this.#until(() => !session.isDialling);
    return session;
  }

  /** Awaits whether a new session lives: a server may upgrade first and only then say that it is going. */
  async #findBounce(session: Session, from: Session | undefined): Promise<Failure | undefined> {
    if (from !== undefined) this.#next = session;
    const staying = setTimeout(() => this.#look(), LIFE_MS + 5).unref();
    const { ledger } = session;
    // A first session lives once it has said something; a move also counts only when it has stayed.
    if (from === undefined) {
      await this.#until(() =>
        session.isOver || session.hasStayed || ledger.firstDataAt !== undefined || ledger.dialect.isFramed
      );
    } else await this.#until(() => session.isOver || from.isOver);
    if (!session.isOver) this.#produceOn(session, from);
    if (from !== undefined) await this.#until(() => session.isOver || (from.isOver && session.hasStayed));
    clearTimeout(staying);
    if (!this.#isBounced(session) || (from === undefined && ledger.firstDataAt !== undefined)) return undefined;
    this.#next = undefined;
    this.#confirm(session);
    const { closeCode, closeReason } = ledger;
    const how = closeCode === undefined ? "without a close frame" : `with ${closeCode} ${closeReason}`.trimEnd();
    const answer = answerTo(closeCode, closeReason, []);
    return { kind: "bounced", message: `upgraded, and ended at once ${how}`, metNobody: true, answer };
  }

  #isBounced(session: Session): boolean {
    return (session.isOver || session.isClosing) && !session.hasStayed;
  }

  #noteFailure(url: string, { kind, message, answer }: Failure, redial: Redial): void {
    const { journal, log, onFailedDial } = this.#context;
    redial.dialledAt = undefined;
    // What we ourselves could not do proves nothing: it was as good as no dial.
    if (!OWN_LIMITS.has(kind)) redial.downUntil = performance.now();
    else if (redial.downUntil === undefined) redial.chosenMs = Infinity;
    redial.failed[kind] = (redial.failed[kind] ?? 0) + 1;
    journal.enterFailedDial(kind);
    if (answer !== undefined) journal.enterRefusal({ message, answer });
    log.each("dial-failed", () => [
      `slot ${this.number} to ${url}: ${message}`,
      { slot: this.number, url, kind },
      "warn",
    ]);
    onFailedDial(kind, url);
  }

  #judge(next: Session | undefined): Handover {
    const { settings, lateness, journal, log, origin } = this.#context;
    const current = this.#current!;
    const { expect, expectCode, maxReconnectMs } = settings;
    const isWatched = this.#context.watch() !== undefined;
    const handover = judge(
      this.number,
      current.ledger,
      next?.ledger,
      this.#redial ?? newRedial(),
      { expect, expectCode, maxReconnectMs, isWatched },
      performance.now(),
      origin,
      (from, to) => lateness.between(from, to),
    );
    handover.path = this.#context.path;
    journal.enterHandover(handover, Math.max(KEPT_HANDOVERS, settings.sessions));
    log.each("handover", () => {
      const { verdict, symptom, from, to, code, how, noticeMs, drainMs, reconnectMs, forcedMs, silenceMs } = handover;
      const times = { noticeMs, drainMs, reconnectMs, forcedMs, silenceMs };
      const { session } = current.ledger;
      const labels = { slot: this.number, verdict, symptom, from, to, session, code, how, ...times };
      return [headline(handover), labels, verdict === "failed" ? "warn" : "info"];
    });
    return handover;
  }

  /** Told, and then nothing for so long that nobody would wait on. */
  #isSilent(session: Session): boolean {
    const { maxReconnectMs, silenceTimeoutMs } = this.#context.settings;
    if (session.isClosing) return false;
    return session.silentMs > Math.max(maxReconnectMs, Math.min(session.ledger.dueMs + 1000, silenceTimeoutMs));
  }

  /** Resolves as soon as `holds`, which is looked at whenever something happens to one of its sessions; or when it is stopped. */
  #until(holds: () => boolean): Promise<void> {
    return new Promise((resolve) => {
      this.#look = () => {
        if (this.#isStopped || holds()) resolve();
      };
      this.#look();
    });
  }

  // ---- Messages to the server

  /** First what earlier sessions left unconfirmed, with its numbers; then a new message at once and one every interval. */
  #produceOn(session: Session, from: Session | undefined): void {
    if (from !== undefined) this.#confirm(from);
    if (this.#isStopped || !session.ledger.dialect.isFramed || session.isTold || !session.isOpen) return;
    for (let seq = this.#confirmed + 1; seq <= this.#lastSeq; seq++) this.#send(session, seq, true);
    clearInterval(this.#production);
    this.#producing = session;
    // With all that others have to send, as at the Gate.
    setImmediate(() => {
      if (this.#producing !== session) return;
      this.#produce(session);
      this.#production = setInterval(() => this.#produce(session), this.#context.settings.intervalMs);
    });
  }

  #produce(session: Session): void {
    if (!session.canSend) return;
    if (this.#lastSeq - confirmedUpTo(session.ledger, this.#confirmed) >= MAX_UNCONFIRMED) return;
    this.#send(session, ++this.#lastSeq, false);
    this.#checkSteady(session);
  }

  #stopProducing(session = this.#producing): void {
    if (this.#producing !== session) return;
    clearInterval(this.#production);
    this.#producing = undefined;
  }

  #send(session: Session, seq: number, again: boolean): void {
    session.sendData(seq, again);
    this.#context.journal.enterSent(again);
  }

  #confirm(session: Session): void {
    this.#confirmed = confirmedUpTo(session.ledger, this.#confirmed);
  }

  #checkSteady({ ledger }: Session): void {
    if (this.#isSteady || !isSteady(ledger)) return;
    this.#isSteady = true;
    this.#context.onSteady();
  }

  // ---- What its sessions tell

  sessionOnOpen({ ledger }: Session): void {
    const { server, session, instance, dialect: { name: dialect } } = ledger;
    const labels = { slot: this.number, server, session, instance, dialect };
    this.#context.log.each("session-opened", () => [`slot ${this.number} on ${server}, ${dialect}`, labels]);
    this.#look();
  }

  sessionOnMessage(session: Session, isCounted: boolean): void {
    if (isCounted) this.#context.journal.enterReceived();
    this.#checkSteady(session);
    this.#look();
  }

  sessionOnNotice(session: Session): void {
    const { ledger } = session;
    const { journal, log } = this.#context;
    this.#stopProducing(session);
    journal.enterEnding(ledger);
    const { server, notice } = ledger;
    log.each("shutdown-notice", () => [
      `slot ${this.number} from ${server}` + (notice ? `: ${count(notice.remaining, "message")} to come` : ""),
      { slot: this.number, server, session: ledger.session, remaining: notice?.remaining ?? null },
    ]);
    this.#look();
  }

  sessionOnInvalid({ ledger: { server } }: Session, message: string): void {
    this.#context.log.each("invalid-frame", () => [`${server}: ${message}`, { server }, "warn"]);
  }

  sessionOnSilent({ ledger: { server, session }, silentMs }: Session): void {
    const labels = { slot: this.number, server, session };
    const message = `slot ${this.number}: nothing from ${server} for ${duration(silentMs)}`;
    this.#context.log.each("session-silent", () => [message, labels, "warn"]);
  }

  sessionOnOver(ended: Session): void {
    this.#sessions.delete(ended);
    const { ledger, failure } = ended;
    if (failure === undefined) {
      const { journal, log } = this.#context;
      this.#stopProducing(ended);
      journal.enterEnding(ledger);
      const { server, session, closeCode: code = 1006, how, received, sentLast: sent } = ledger;
      log.each("session-closed", () => [
        `slot ${this.number} on ${server} with ${code}, ${how}: received ${received}`,
        { slot: this.number, server, session, code, how, received, sent },
      ]);
    }
    this.#look();
  }
}

function newRedial(): Redial {
  const startedAt = performance.now();
  // All waiting is our own until the first dial begins.
  return { startedAt, chosenMs: Infinity, failed: {}, readyEndpoints: null, lastOnEndingMs: null };
}

/** The first URL first; then any but the one just ended or just refused, as long as there is another. */
export function chooseUrl(urls: readonly string[], ended: string | undefined, refused: string | undefined): string {
  if (ended === undefined && refused === undefined) return urls[0]!;
  const others = urls.filter((url) => url !== ended && url !== refused);
  const fallback = urls.filter((url) => url !== (refused ?? ended));
  const choice = [others, fallback, urls].find((list) => list.length > 0)!;
  return choice[Math.floor(Math.random() * choice.length)]!;
}

/**
 * A gate that lets so many in at a time, in the order of their coming: a herd of reconnects takes turns. Who follows is let
 * in at the end of the event loop's turn: dials one after the other keep the server awake, where each amid other work
 * wakes it anew, which takes this side longer than the dial.
 */
export class Gate {
  #free: number;
  #left = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(most: number) {
    this.#free = most;
  }

  enter(): Promise<void> | void {
    if (this.#free === 0) return new Promise<void>((resolve) => this.#waiting.push(resolve));
    this.#free--;
  }

  /** Who waits longest takes the place; without one it is free. */
  leave(): void {
    if (this.#left++ === 0) setImmediate(() => this.#letIn());
  }

  #letIn(): void {
    for (; this.#left > 0; this.#left--) {
      const next = this.#waiting.shift();
      if (next === undefined) this.#free++;
      else next();
    }
  }
}

// ---- A session: one connection, whose events become events of its ledger

/** A dial that led to no session; `kind` is how it is counted. */
export interface Failure {
  kind: string;
  message: string;
  /** Whether it may have met a server that is ending, which could not say who it is. */
  metNobody: boolean;
  /** What may answer the server's refusal, where it is one. */
  answer?: string | undefined;
}

/** Whom a session tells what happens to it; each is told after the ledger knows. */
export interface SessionOwner {
  /** HELLO came; in the plain dialect it was upgraded. */
  sessionOnOpen(session: Session): void;
  /** A sign of life came; whether it is one of the messages that are counted. */
  sessionOnMessage(session: Session, isCounted: boolean): void;
  sessionOnNotice(session: Session): void;
  /** The server sent what has no place here: the session is being closed. */
  sessionOnInvalid(session: Session, message: string): void;
  /** Nothing came for too long: the session is being cut. */
  sessionOnSilent(session: Session): void;
  /** The connection is gone; with `failure` it never became a session. */
  sessionOnOver(session: Session): void;
}

/** What a session needs to begin. */
export interface SessionOptions {
  url: string;
  owner: SessionOwner;
  settings: Pick<
    Settings,
    "connectTimeoutMs" | "silenceTimeoutMs" | "payloadBytes" | "pingIntervalMs" | "maxMessageBytes"
  >;
  /** What it speaks; with `isAuto` only unless HELLO comes, or the first message betrays another one. */
  dialect: Dialect;
  isAuto?: boolean;
  /** Whether the server may be offered a subprotocol: some refuse the offer itself. */
  offers?: boolean;
  /** The cookies of whoever dials, as a browser keeps them. */
  cookies?: Cookies;
  /** Headers, and what TLS needs. */
  access: ClientOptions;
  lateness: Lateness;
  /** The pod at a socket's other end, where that is known: in the plain dialect it is the server's name. */
  podAt?: (socket: Socket) => Pod | undefined;
}

/** One connection, from its dial to its end. */
export class Session {
  readonly ledger: Ledger;
  /** Why the dial led nowhere, where it did. */
  failure: Failure | undefined;
  readonly #ws: WebSocket;
  readonly #owner: SessionOwner;
  readonly #settings: SessionOptions["settings"];
  readonly #lateness: Lateness;
  readonly dialledAt = performance.now();
  #state: "dialling" | "open" | "over" = "dialling";
  #socket: Socket | undefined;
  /** When the closing handshake began. */
  #closingAt: number | undefined;
  #watchdog: NodeJS.Timeout;
  #pings: NodeJS.Timeout | undefined;
  #heartbeat: NodeJS.Timeout | undefined;
  readonly #dialect: Dialect;
  /** Nothing has come yet that could show another dialect. */
  #isAuto: boolean;
  /** It selected our subprotocol, as many do with whatever is offered: HELLO is still to say that it means it. */
  #isGuess = false;
  /** Whether we have ended it: what still comes does not count. The server's end does, behind which a message may still be inflated. */
  #isLeft = false;
  #upgradedAt = 0;
  readonly #offered: readonly string[];
  readonly #pingsMs: number;
  /** Its name, as the answer to the upgrade or the pods have it. */
  #serverName: string | undefined;
  /** Of a server without frames: when its last message came, the pauses before the latest of them, and whether it answers pings. */
  readonly #pace: { lastAt: number | undefined; pauses: number[]; pongs: boolean } = {
    lastAt: undefined,
    pauses: [],
    pongs: false,
  };

  constructor({ url, owner, settings, dialect, isAuto = false, access, lateness, podAt, ...more }: SessionOptions) {
    const { offers = true, cookies } = more;
    this.#pingsMs = settings.pingIntervalMs ?? Math.max(1, Math.round(settings.silenceTimeoutMs / 3));
    this.ledger = new Ledger(url, dialect, Infinity);
    this.ledger.server = redactUrl(url);
    this.#owner = owner;
    this.#settings = settings;
    this.#dialect = dialect;
    this.#isAuto = isAuto;
    this.#lateness = lateness;
    const options: ClientOptions & { closeTimeout: number } = {
      // As a browser does: whoever compresses may. Our own server does not.
      perMessageDeflate: !dialect.isFramed,
      maxPayload: dialect.isFramed ? MAX_MESSAGE_BYTES : settings.maxMessageBytes,
      closeTimeout: MAX_TIMER_MS, // ours is #watch, which knows how late we are ourselves
      autoPong: false, // of many pings at once, as after a pause of ours, ws's own answers would end the connection
      ...access,
    };
    const address = new URL(url);
    const { hostname } = address;
    const kept = cookies?.for(hostname) ?? "";
    if (kept !== "") {
      // Beside what --header says, as a browser would add to what it has.
      const { cookie, ...others } = { cookie: undefined, ...access.headers } as Record<string, string | undefined>;
      options.headers = { ...others, cookie: cookie ? `${cookie}; ${kept}` : kept } as Record<string, string>;
    }
    const wanted = isAuto && dialect.subprotocol.length === 0 ? [SUBPROTOCOL] : [...dialect.subprotocol];
    const offered = this.#offered = offers ? wanted : [];
    const ws = this.#ws = new WebSocket(address, [...offered], options);
    const keepCookies = ({ headers }: IncomingMessage) => cookies?.enter(hostname, headers["set-cookie"]);
    ws.on("upgrade", (response) => {
      keepCookies(response);
      this.#onUpgrade(response, podAt);
    });
    ws.on("unexpected-response", (_request, response) => {
      keepCookies(response);
      this.#onRefusal(response);
    });
    ws.on("open", () => this.#onUpgraded());
    ws.on("message", (data, isBinary) => this.#onMessage(data, isBinary));
    ws.on("ping", (data) => this.canSend && ws.pong(data));
    ws.on("pong", () => {
      if (this.ledger.dialect.isFramed || !this.isOpen) return;
      this.#pace.pongs = true;
      this.#receive({ type: "TEXT", text: "" });
      this.#learnLife();
    });
    ws.on("error", (error) => this.#onError(error));
    ws.on("close", (code, reason) => this.#onClose(code, reason));
    this.#watchdog = setTimeout(() => this.#watch(), settings.connectTimeoutMs);
  }

  get isDialling(): boolean {
    return this.#state === "dialling";
  }

  get isOpen(): boolean {
    return this.#state === "open";
  }

  get isOver(): boolean {
    return this.#state === "over";
  }

  get isTold(): boolean {
    return this.ledger.noticeAt !== undefined;
  }

  /** Whether a closing handshake has begun. */
  get isClosing(): boolean {
    return this.#closingAt !== undefined;
  }

  /** Whether it was open, before its end began, for as long as a session must be to count as one. */
  get hasStayed(): boolean {
    const { openedAt, endedAt = performance.now() } = this.ledger;
    return openedAt !== undefined && (this.#closingAt ?? endedAt) - openedAt >= LIFE_MS;
  }

  /** Whether another message can be sent now. */
  get canSend(): boolean {
    return this.#ws.readyState === this.#ws.OPEN && this.#ws.bufferedAmount <= MAX_BUFFER_BYTES;
  }

  /** For how many ms nothing has come, while we could have read it. */
  get silentMs(): number {
    const { lastDataAt, openedAt, noticeAt = 0 } = this.ledger;
    return this.#elapsed(Math.max(lastDataAt ?? openedAt ?? this.dialledAt, noticeAt));
  }

  sendData(seq: number, again: boolean): void {
    const { ledger, ledger: { highest: ack } } = this;
    observe(ledger, { type: "SENT", seq, again }, performance.now());
    const { payloadBytes } = this.#settings;
    const payload = payloadBytes > 0 ? { payload: "x".repeat(payloadBytes) } : {};
    this.#send({ type: "DATA", seq, at: timestamp(), ack, ...payload });
  }

  /** Closes with 1000, or gives up the dial; resolves when the connection is gone, which takes 3 s at most. */
  leave(): Promise<void> {
    if (this.#state === "over") return Promise.resolve();
    const gone = new Promise<void>((resolve) => this.#ws.once("close", () => resolve()));
    if (this.#state === "dialling") this.#cut();
    else this.#close(1000);
    return gone;
  }

  /** Enters that the session ended here for us, although its connection is still there. */
  giveUp(): void {
    observe(this.ledger, { type: "END", how: "open" }, performance.now());
  }

  // ---- The way in

  #onUpgrade({ headers, socket }: IncomingMessage, podAt: SessionOptions["podAt"]): void {
    this.#socket = socket;
    const { isFramed, serverHeader = "" } = this.#dialect;
    const pod = podAt?.(socket);
    this.ledger.pod = pod?.name;
    if (pod !== undefined && !isFramed) {
      [this.ledger.server, this.ledger.instance] = [pod.name, `${pod.uid} ${pod.restarts}`];
    }
    this.#serverName = [headers[serverHeader]].flat()[0];
    this.#isGuess = this.#isAuto && headers["sec-websocket-protocol"] === SUBPROTOCOL;
    // ws refuses a server that selects none of the subprotocols on offer; only v1 insists on it.
    if (this.#offered.length > 0 && !isFramed) headers["sec-websocket-protocol"] ??= this.#offered[0]!;
  }

  #onUpgraded(): void {
    this.#upgradedAt = performance.now();
    // After ws's own listener: whether what came began the closing handshake, of which ws does not tell.
    this.#socket!.on("data", () => this.#noteClosing());
    // What was compressed comes later than its bytes, and a close frame behind it as well.
    if (this.#ws.extensions !== "") this.#ws.on("message", () => setImmediate(() => this.#noteClosing()));
    if (this.#isGuess || this.#dialect.isFramed) this.#watch(); // HELLO is to come
    else this.#begin(this.#dialect);
  }

  /** Speaks a dialect from now on; the session counts at once, or from the message on that makes it ready. */
  #begin(dialect: Dialect): void {
    this.#isGuess = false;
    this.ledger.dialect = dialect;
    for (const text of dialect.open) this.#say(text);
    if (dialect.ready === undefined && this.isDialling) this.#open(this.#serverName);
    else this.#watch();
  }

  /** The session counts from now on. */
  #open(server?: string): void {
    const { heartbeat } = this.ledger.dialect;
    // What was waited for HELLO is no wait for this server: without a ready message it was open from the upgrade on.
    const at = this.ledger.dialect.ready === undefined ? this.#upgradedAt : performance.now();
    this.#receive({ type: "OPEN", server }, at);
    this.#learnLife();
    if (heartbeat !== undefined) this.#heartbeat = setInterval(() => this.#say(heartbeat.text), heartbeat.everyMs);
    if (this.#pingsMs === 0) return;
    this.#ws.ping();
    this.#pings = setInterval(() => this.#ws.ping(), this.#pingsMs);
  }

  /** Who reads nothing gets no more answers: they would pile up here. */
  #say(text: string): void {
    if (this.canSend) this.#ws.send(wireOf(text), ignore);
  }

  #onRefusal({ statusCode = 0, headers }: IncomingMessage): void {
    const where = headers.location === undefined ? "" : ` to ${withoutSecrets(headers.location)}`;
    const kind = String(statusCode);
    const answer = statusCode >= 300 && statusCode < 400 ? "--url where it leads" : REFUSALS[kind];
    // In a server's name a proxy answers 502 or 504.
    this.#fail(kind, `HTTP ${statusCode}${where}`, [502, 503, 504].includes(statusCode), answer);
  }

  #onError(error: Error & { code?: string }): void {
    const message = error.message || String(error.code);
    if (this.#state === "dialling") return this.#fail(DIAL_ERRORS[error.code ?? ""] ?? "other", message);
    // A code that nobody may send is still the server's end of the session: Deno's abort sends 1005 itself.
    const code = error.code === "WS_ERR_INVALID_CLOSE_CODE" ? /\d+$/.exec(message)?.[0] : undefined;
    if (code === undefined) this.#noteInvalid(message);
    else observe(this.ledger, { type: "CLOSE_FRAME", code: Number(code), reason: "" }, performance.now());
    this.#noteClosing(); // ws closes it
  }

  /** The first failure counts, what follows from it does not. */
  #fail(kind: string, message: string, metNobody = MET_NOBODY.includes(kind), answer?: string): void {
    this.failure ??= { kind, message, metNobody, answer };
    if (this.#ws.readyState !== this.#ws.CLOSED) this.#cut();
  }

  // ---- What comes

  #onMessage(data: RawData, isBinary: boolean): void {
    if (this.#isLeft) return;
    try {
      if (!this.ledger.dialect.isFramed) this.#hear(isBinary ? binaryText(data as Buffer) : data.toString());
      else this.#accept(data as Buffer, isBinary);
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      this.#complain(1007, error.message);
    }
  }

  /** A frame of v1. */
  #accept(data: Buffer, isBinary: boolean): void {
    if (data.byteLength > MAX_MESSAGE_BYTES) {
      const size = grouped(data.byteLength);
      return this.#complain(1009, `Cannot accept a message of ${size} bytes: v1 has 64 KiB at most`);
    }
    if (isBinary) return this.#complain(1003, "Cannot accept a binary message: frames are JSON text");
    const frame = decode(data.toString());
    if (frame.type === "ACK") throw new SyntaxError("Cannot accept ACK frame: only the client sends it");
    this.#receive(frame);
  }

  /** A message of another dialect; the first one may show which it is. */
  #hear(text: string): void {
    const hello = this.#isGuess ? helloIn(text) : undefined;
    if (hello !== undefined) {
      this.#isAuto = this.#isGuess = false;
      this.ledger.dialect = dialectNamed("v1");
      return this.#receive(hello);
    }
    const other = this.#isAuto ? betrayed(text) : undefined;
    this.#isAuto = false;
    if (other !== undefined || this.#isGuess) this.#begin(other ?? this.#dialect);
    const { dialect } = this.ledger;
    for (const [pattern, answer] of dialect.replies) {
      const found = pattern(text);
      if (found) this.#say(answer.replaceAll("$1", () => found[1] ?? ""));
    }
    if (this.isDialling) {
      this.#serverName ??= serverIn(dialect, text);
      if (!dialect.ready?.(text)) return;
      this.#open(this.#serverName);
    }
    this.#notePace();
    this.#receive({ type: "TEXT", text: text === "" ? "(empty)" : text });
  }

  #receive(event: SessionEvent, at = performance.now()): void {
    const { isTold, ledger } = this;
    observe(ledger, event, at);
    if (event.type === "HELLO" || event.type === "OPEN") {
      this.#state = "open";
      this.#watch(); // another patience
      return this.#owner.sessionOnOpen(this);
    }
    this.#owner.sessionOnMessage(
      this,
      event.type === "DATA" || (event.type === "TEXT" && isMessage(ledger.dialect, event.text)),
    );
    if (isTold || !this.isTold) return;
    this.#watch(); // another pace
    this.#owner.sessionOnNotice(this);
    if (ledger.dialect.isFramed) this.#send({ type: "ACK", lastSeq: ledger.sentLast });
  }

  #send(frame: Frame): void {
    if (frame.type === "ACK") observe(this.ledger, frame, performance.now());
    this.#ws.send(encode(frame), ignore); // what does not arrive stays unconfirmed, and is sent again
  }

  #noteInvalid(message: string): void {
    this.ledger.complaint ??= message;
    this.#owner.sessionOnInvalid(this, message);
  }

  #complain(code: number, message: string): void {
    this.#noteInvalid(message);
    if (this.#state === "dialling") this.failure ??= { kind: "other", message, metNobody: false };
    this.#close(code, closeReason(message));
  }

  // ---- The end

  #close(code: number, reason = ""): void {
    this.#isLeft = true;
    this.#ws.close(code, reason);
    this.#noteClosing();
  }

  #cut(): void {
    this.#isLeft = true;
    this.#ws.terminate();
  }

  #noteClosing(): void {
    if (this.#closingAt !== undefined || this.#ws.readyState !== this.#ws.CLOSING) return;
    this.#closingAt = performance.now();
    this.#watch();
  }

  /** Cuts what has exceeded its patience: the dial, the silence, the closing handshake; else looks again when it would. */
  #watch(): void {
    clearTimeout(this.#watchdog);
    if (this.#state === "over") return;
    const leftMs = this.#patienceLeftMs();
    if (leftMs > 0) this.#watchdog = setTimeout(() => this.#watch(), Math.min(MAX_TIMER_MS, Math.max(1, leftMs)));
    // A timer comes before the sockets: after a pause of this process the answer may be here, unread.
    else setImmediate(() => this.#patienceLeftMs() <= 0 ? this.#giveOver() : this.#watch());
  }

  #patienceLeftMs(): number {
    const { connectTimeoutMs, silenceTimeoutMs } = this.#settings;
    if (this.#closingAt !== undefined) return CLOSE_TIMEOUT_MS - this.#elapsed(this.#closingAt);
    if (this.#state === "dialling" && this.#isGuess) return HELLO_PATIENCE_MS - this.#elapsed(this.#upgradedAt);
    if (this.#state === "dialling") return connectTimeoutMs - this.#elapsed(this.dialledAt);
    const patienceMs = Math.max(silenceTimeoutMs, 3 * this.ledger.dueMs);
    const isPaced = !this.ledger.dialect.isFramed && this.#paceMs() !== undefined; // then a pong says nothing
    return patienceMs - (isPaced ? this.#elapsed(this.#pace.lastAt!) : this.silentMs);
  }

  #notePace(): void {
    const { lastAt, pauses } = this.#pace;
    const now = performance.now();
    if (lastAt !== undefined && pauses.push(now - lastAt) > PACE_OF) pauses.shift();
    this.#pace.lastAt = now;
    this.#learnLife();
  }

  /** The life of a server without frames is its messages where they have a pace, else its pongs; one that has neither lives by its socket. */
  #learnLife(): void {
    const { ledger } = this;
    const before = ledger.dueMs;
    ledger.dueMs = this.#paceMs() ?? (this.#pace.pongs ? this.#pingsMs : Infinity);
    if (ledger.dueMs !== before) this.#watch(); // another patience
  }

  /** The pause between its messages, where it is a regular one. */
  #paceMs(): number | undefined {
    const { pauses } = this.#pace;
    const longestMs = Math.max(...pauses);
    return pauses.length === PACE_OF && longestMs <= PACE_SPREAD * Math.min(...pauses) ? longestMs : undefined;
  }

  /** Since a time, without what this process was late. */
  #elapsed(since: number): number {
    const now = performance.now();
    return now - since - this.#lateness.between(since, now);
  }

  #giveOver(): void {
    if (this.#state === "over") return;
    if (this.#isGuess) return this.#begin(this.#dialect);
    if (this.#state === "dialling") {
      const what = this.#socket !== undefined && this.#dialect.ready !== undefined ? "not ready" : "no HELLO";
      return this.#fail("timeout", `${what} within ${duration(this.#settings.connectTimeoutMs)}`);
    }
    if (this.#closingAt === undefined) this.#owner.sessionOnSilent(this);
    this.#cut();
  }

  #onClose(code: number, reason: Uint8Array): void {
    const now = performance.now();
    clearTimeout(this.#watchdog);
    clearInterval(this.#pings);
    clearInterval(this.#heartbeat);
    // ws swallows socket errors: only the socket tells FIN, reset and silence apart. An error after the FIN concerns our
    // own last words, not the server's.
    const { readableEnded = false, errored = null } = this.#socket ?? {};
    const isReset = !readableEnded && errored !== null;
    if (this.#state === "dialling") this.#onClosedEarly(code, reason.toString(), isReset);
    else {
      if (code !== 1006 && this.ledger.closeCode === undefined) {
        observe(this.ledger, { type: "CLOSE_FRAME", code, reason: reason.toString() }, now);
      }
      observe(this.ledger, { type: "END", how: readableEnded ? "fin" : isReset ? "reset" : "silence" }, now);
    }
    this.#state = "over";
    this.#owner.sessionOnOver(this);
  }

  #onClosedEarly(code: number, reason: string, isReset: boolean): void {
    const isUpgraded = this.#socket !== undefined;
    const kind = isUpgraded ? "bounced" : isReset ? "reset" : "other";
    const before = this.#dialect.ready === undefined ? "HELLO" : "it was ready";
    const said = `${isUpgraded ? "upgraded, then " : ""}closed with ${`${code} ${reason}`.trimEnd()} before ${before}`;
    const greets = isUpgraded && this.#dialect.ready !== undefined;
    const answer = answerTo(code, reason, []) ??
      (greets ? "it did not take the greeting: --say, or --dialect" : undefined);
    this.#fail(kind, said, isUpgraded, answer);
  }
}

// ---- Probes: fresh connections, as a new user would open them

/** Opens a connection again and again: only these show that new connections still reach an ending server. */
export class Probe implements SessionOwner {
  readonly counts: Result["probes"] = { ok: 0, refused: 0, "503": 0, timeout: 0, other: 0, lastOnEndingMs: null };
  readonly #options: ProbeOptions;
  readonly #pending = new Set<Session>();
  #timer: NodeJS.Timeout | undefined;
  #turn = 0;

  constructor(options: ProbeOptions) {
    this.#options = options;
  }

  start(): void {
    const { intervalMs, firstMs = intervalMs } = this.#options;
    if (intervalMs === 0) return;
    this.#timer = setTimeout(() => {
      this.#timer = setInterval(() => this.#probe(), intervalMs).unref();
      this.#probe();
    }, firstMs).unref();
  }

  /** Resolves when its connections are gone. */
  async leave(): Promise<void> {
    clearInterval(this.#timer);
    this.#timer = undefined;
    await Promise.all([...this.#pending].map((session) => session.leave()));
  }

  #probe(): void {
    const { urls, dial } = this.#options;
    if (this.#pending.size < MAX_DIALS) {
      this.#pending.add(dial(urls[this.#turn++ % urls.length]!, this, { [PROBE_HEADER]: "1" }));
    }
  }

  sessionOnOpen(session: Session): void {
    const { journal, watch } = this.#options;
    this.counts.ok++;
    const { instance } = session.ledger;
    watch()?.noteMeeting(session, undefined);
    if (instance !== "") this.#noteEnding(journal.endingSince(instance));
    void session.leave();
  }

  sessionOnOver(session: Session): void {
    this.#pending.delete(session);
    const { failure, ledger: { url } } = session;
    if (failure === undefined || this.#timer === undefined) return; // it has had its say, or we broke it off
    const { kind, message } = failure;
    const { journal, watch, log } = this.#options;
    this.counts[kind === "refused" || kind === "503" || kind === "timeout" ? kind : "other"]++;
    if (kind === "503") this.#noteEnding(journal.endingSince()); // it does not say who it is
    watch()?.noteMeeting(session, failure);
    log.each("probe-failed", () => [`${url}: ${message}`, { url, kind }, "warn"]);
  }

  #noteEnding(since: number | undefined): void {
    if (since !== undefined) this.counts.lastOnEndingMs = Math.round(performance.now() - since);
  }

  sessionOnMessage(): void {}
  sessionOnNotice(): void {}
  sessionOnInvalid(): void {}
  sessionOnSilent(): void {}
}

/** What probes work with. */
export interface ProbeOptions {
  urls: readonly string[];
  /** The time between two, 0: none; and when the first one is due, where probes on several paths take turns. */
  intervalMs: number;
  firstMs?: number;
  dial: Dial;
  journal: Journal;
  log: Log;
  watch: () => ClusterWatch | undefined;
}

/**
 * How late this process's own timers are: for that long it saw nothing, whatever the server did. Measured by a timer of
 * 50 ms; what is below 20 ms is the ordinary business of an event loop.
 */
export class Lateness {
  maxMs = 0;
  totalMs = 0;
  #dueAt = performance.now() + LATENESS_TICK_MS;
  /** The latest of them, in the order of time. */
  readonly #spans: [from: number, to: number][] = [];
  readonly #timer = setInterval(() => this.#tick(), LATENESS_TICK_MS).unref();

  end(): void {
    clearInterval(this.#timer);
  }

  /** For how many of the ms between two times it was late. */
  between(from: number, to: number): number {
    const now = performance.now();
    // The time that is just passing counts as well: whoever asks may be the first that runs after a pause.
    let sum = now - this.#dueAt > LATENESS_NOISE_MS ? overlap([this.#dueAt, now], from, to) : 0;
    for (let index = this.#spans.length - 1; index >= 0 && this.#spans[index]![1] > from; index--) {
      sum += overlap(this.#spans[index]!, from, to);
    }
    return sum;
  }

  #tick(): void {
    const now = performance.now();
    const lateMs = now - this.#dueAt;
    if (lateMs > LATENESS_NOISE_MS) {
      this.#spans.push([this.#dueAt, now]);
      if (this.#spans.length > 2 * KEPT_SPANS) this.#spans.splice(0, KEPT_SPANS);
      this.maxMs = Math.max(this.maxMs, lateMs);
      this.totalMs += lateMs;
    }
    this.#dueAt = now + LATENESS_TICK_MS;
  }
}

function overlap([begin, end]: readonly [number, number], from: number, to: number): number {
  return Math.max(0, Math.min(end, to) - Math.max(begin, from));
}

// ---- The cluster's watch: what the API tells of pods, and what it explains

/** Follows pods, EndpointSlices and events, and names the cause of failed handovers as soon as the evidence is in. */
export class ClusterWatch {
  readonly cluster = new Cluster();
  readonly #log: Log;
  readonly #origin: number;
  readonly #onDiagnosed: (handover: Handover) => void;
  readonly #onOpen: (handover: Handover) => void;
  readonly #onTurnedAway: (handover: Handover) => void;
  readonly #sessions: number;
  readonly #isRouted: boolean;
  readonly #serviceUrl: (url: string) => string;
  readonly #differences: () => PathDifference[];
  readonly #isComparable: () => boolean;
  #isDiagnosing = false;
  /** Handovers of which the cluster may still have something to tell. */
  readonly #undiagnosed = new Set<Handover>();
  /** Until when nothing is to be heard of a stream; `Infinity` while it is lost. */
  readonly #deaf = new Map<Stream, number>();
  readonly #timer = setInterval(() => this.diagnoseAll(), 500).unref();
  /** Dials that met a pod after its deletion, how long after it the last one did, and how many have led elsewhere since. */
  #race = { count: 0, lastMs: 0, elsewhere: 0 };
  /** The latest handovers without a farewell: what cuts sessions of several pods at once is none of these pods. */
  readonly #cuts: Handover[] = [];

  constructor(options: ClusterWatchOptions) {
    const { log, origin, sessions, isRouted, onDiagnosed, onOpen, onTurnedAway } = options;
    this.#serviceUrl = options.serviceUrl ?? ((url) => url);
    this.#differences = options.differences ?? (() => []);
    this.#isComparable = options.isComparable ?? (() => true);
    this.#log = log;
    this.#origin = origin;
    this.#sessions = sessions;
    this.#isRouted = isRouted;
    this.#onDiagnosed = onDiagnosed;
    this.#onOpen = onOpen;
    this.#onTurnedAway = onTurnedAway;
  }

  close(): void {
    clearInterval(this.#timer);
  }

  get undiagnosed(): number {
    return this.#undiagnosed.size;
  }

  /** The handovers of which the cluster may still have something to tell, as of now. */
  open(): Handover[] {
    return [...this.#undiagnosed];
  }

  isOpen(handover: Handover): boolean {
    return this.#undiagnosed.has(handover);
  }

  /** How much has happened to the pods so far. */
  get moments(): number {
    return this.pods.reduce((sum, pod) => sum + pod.moments.length, 0);
  }

  get pods(): Pod[] {
    return [...this.cluster.pods.values()];
  }

  /** Since the client's start, in ms. */
  get nowMs(): number {
    return Math.round((performance.now() - this.#origin) * 10) / 10;
  }

  /** The pod at an address; where all share one (a rehearsal's), it is told with its port. */
  podAt({ remoteAddress, remotePort }: Socket): Pod | undefined {
    const places = [remoteAddress, `${remoteAddress}:${remotePort}`];
    return this.pods.find((pod) => places.includes(pod.address) && !when(pod, "gone"));
  }

  /** The pods that have ended, or are about to, in the order of it. */
  endedPods(): Pod[] {
    return this.pods.filter((pod) => when(pod, "deleted") || when(pod, "exit"))
      .sort((a, b) => a.moments[0]!.atMs - b.moments[0]!.atMs);
  }

  /** The pods that ended since a disruption; all that ended, where there was none. */
  disruptedPods(disruption: Result["disruption"]): Pod[] {
    return this.pods.filter((pod) => (when(pod, "deleted")?.atMs ?? -1) >= (disruption?.atMs ?? 0));
  }

  /** A dial begins: how many endpoints are there for it? */
  noteDial(redial: Redial, url: string): void {
    if (!this.#isRouted) return;
    const ready = this.#countReady(url);
    redial.readyEndpoints = Math.min(redial.readyEndpoints ?? ready, ready);
  }

  #countReady(url: string): number {
    return readyEndpoints(this.cluster, new URL(this.#serviceUrl(url)).hostname.split(".")[0]!);
  }

  /**
   * A new connection may have met a pod after its deletion: the one it is on, or, where nobody answered for it, the one
   * deleted last; its address is dialled on for a while when it has gone. With nowhere else to go it proves nothing.
   */
  noteMeeting({ ledger, dialledAt }: Session, failure: Failure | undefined, redial?: Redial): void {
    if (!this.#isRouted) return;
    const server = failure === undefined || ledger.instance !== "" ? ledger.server : undefined;
    // A dial that nobody answered met whom it met when it began.
    const metAt = failure?.kind === "timeout" ? dialledAt : ledger.openedAt ?? performance.now();
    const atMs = metAt - this.#origin;
    const isThere = (pod: Pod) =>
      (when(pod, "gone")?.atMs ?? Infinity) > atMs - (failure === undefined ? 0 : STALE_ADDRESS_MS);
    const ending = failure?.metNobody === false ? undefined : this.pods
      .filter((pod) => (when(pod, "deleted")?.atMs ?? Infinity) <= atMs && isThere(pod))
      .filter(({ name }) => name === (server ?? name))
      .sort((a, b) => when(b, "deleted")!.atMs - when(a, "deleted")!.atMs)[0];
    if (ending === undefined) {
      if (failure === undefined) this.#race.elsewhere++;
      return;
    }
    if (this.#countReady(ledger.url) === 0) return;
    const lastMs = Math.round(atMs - when(ending, "deleted")!.atMs);
    this.#race = { count: this.#race.count + 1, lastMs: Math.max(this.#race.lastMs, lastMs), elsewhere: 0 };
    if (redial !== undefined) redial.lastOnEndingMs = lastMs;
  }

  /** Takes a handover, to say later which pod held its session and, where it failed, why. */
  diagnose(handover: Handover): void {
    this.#undiagnosed.add(handover);
    if (handover.symptom !== null && handover.code === null && handover.endedMs !== null) this.#cuts.push(handover);
    if (this.#cuts.length > KEPT_CUTS) this.#cuts.shift();
  }

  diagnoseAll(): void {
    const differences = this.#undiagnosed.size > 0 ? this.#differences() : [];
    for (const handover of this.#undiagnosed) {
      const pod = podOf(this.cluster, handover);
      handover.pod = pod?.name ?? null;
      // Of what moved in order only its pod is to be said, which the server has named.
      const isTold = handover.symptom === null && handover.dialect === "v1" && pod !== undefined;
      // Those that were cut together are judged together, once all of them can be.
      if (!isTold && handover.symptom !== null && !this.#isComparable()) continue;
      if (!isTold && !cutWith(handover, this.#cuts).every((other) => this.#isComplete(other))) continue;
      this.#undiagnosed.delete(handover);
      if (!isTold) this.#explain(handover, pod, differences, !this.#isDeaf);
    }
  }

  /** The run is over: what has not been seen by now will not be; but that nothing happened, nobody can say yet. */
  diagnoseRest(): void {
    this.diagnoseAll();
    const differences = this.#differences();
    for (const handover of this.#undiagnosed) {
      this.#explain(handover, podOf(this.cluster, handover), differences, false);
    }
    this.#undiagnosed.clear();
  }

  #explain(
    handover: Handover,
    pod: Pod | undefined,
    differences: readonly PathDifference[],
    isComplete = true,
  ): void {
    if (isComplete && isOnLivingPod(this.cluster, handover, pod)) return this.#onTurnedAway(handover);
    if (handover.symptom === null) return; // it moved in order
    const known = diagnose(handover, pod, companyOf(this.cluster, handover, this.#cuts, this.#sessions, differences));
    const found = known?.cause === "NO_POD_EVENT" && !isComplete ? null : known;
    if (found === null) {
      handover.suspects = suspects(handover, pod);
      if (handover.suspects !== null) this.#onOpen(handover);
      return;
    }
    const { slot, symptom, cause, evidence } = Object.assign(handover, found);
    this.#onDiagnosed(handover);
    const labels = { slot, symptom, cause, evidence, pod: handover.pod };
    this.#log.each("diagnosis", () => [`slot ${slot}: ${cause}, ${evidence}`, labels, "warn"]);
  }

  /** Nothing is to be heard of a stream until it is open again. */
  lost(stream: Stream): void {
    this.#deaf.set(stream, Infinity);
  }

  /** A watch tells what there is; in so many ms at the latest, where it is open again and tells first what it missed. */
  heard(stream: Stream, inMs = 0): void {
    const untilMs = this.nowMs + inMs;
    if (untilMs < (this.#deaf.get(stream) ?? 0)) this.#deaf.set(stream, untilMs);
  }

  /** While a watch is lost, that nothing has come says nothing. */
  get #isDeaf(): boolean {
    return [...this.#deaf.values()].some((untilMs) => untilMs > this.nowMs);
  }

  #isComplete(handover: Handover): boolean {
    if (this.#isDeaf && this.nowMs <= handover.endedMs! + DEAF_MS) return false;
    return isEvidenceComplete(podOf(this.cluster, handover), handover, this.nowMs);
  }

  /** What is worth knowing of the pods, also on a run that passes. */
  findings(disruption: Result["disruption"], handovers: readonly Handover[]): Result["findings"] {
    const pods = this.disruptedPods(disruption);
    const findings: Result["findings"] = [];
    const { count: dials, lastMs, elsewhere } = this.#race;
    if (dials > 0) {
      const seconds = Math.ceil(lastMs / 1000) + 1;
      const reached = `${count(dials, "new connection")} met a pod after its deletion, the last at +${
        duration(lastMs)
      }`;
      const hooks = pods.flatMap(({ preStop }) => preStop ?? []);
      const [hook] = hooks.sort((a, b) => (b.ms ?? Infinity) - (a.ms ?? Infinity));
      const has = hook === undefined
        ? "it has no preStop"
        : hook.kind === "sleep"
        ? `its preStop.sleep is ${hook.ms! / 1000}s`
        : `its preStop.${hook.kind} is ${hook.text}`;
      const covers = hook !== undefined && hook.ms !== null && hook.ms >= seconds * 1000;
      // The last that was seen was the last only where enough have led elsewhere since.
      const least = elsewhere < ELSEWHERE
        ? `at least ${seconds}s, the drill ended before the race did`
        : `${seconds}s or more`;
      const advice = hook?.ms === null ? `it must take ${least}` : covers ? "which covers it" : `make it ${least}`;
      findings.push({ name: "ENDPOINT_RACE", text: `${reached}; ${has}${covers ? ", " : ": "}${advice}` });
    }
    const failedOn = new Set(handovers.filter(({ verdict }) => verdict === "failed").map(({ pod }) => pod));
    for (const pod of pods.filter(({ name }) => !failedOn.has(name))) {
      const tell = (name: string, text: string) => findings.push({ name, text: `${pod.name}: ${text}` });
      const hook = when(pod, "prestop-failed");
      if (hook !== undefined) {
        tell("PRESTOP_FAILED", `${hook.text} (${pod.preStop?.text}); ${CAUSES.PRESTOP_FAILED[1]}`);
      }
      if (pod.forced) tell("FORCE_DELETED", "deleted with a grace of 0, and survived by the 2s that kubelet leaves");
      else if (wasKilledAtGrace(pod)) {
        const grace = `${pod.graceMs / 1000}s of grace`;
        tell("EXIT_HUNG", `all its sessions had moved, but it had to be killed after ${grace}`);
      }
    }
    return findings;
  }

  /** Enters what a watch tells: one event, or a list. */
  observe(stream: Stream, type: WatchType, objects: KubernetesObject[]): void {
    const atMs = this.nowMs;
    const news = objects.flatMap((object) => observeCluster(this.cluster, stream, type, object, atMs));
    if (stream === "pods" && type === "LISTED") news.push(...observeMissing(this.cluster, objects, atMs));
    for (const [{ name, uid }, { kind, text, code, reason }] of news) {
      const labels = { pod: name, uid, kind };
      if (text.startsWith("endpoint")) this.#log.line("endpoint", `${name}: ${text}`, labels);
      else {
        const level = kind === "prestop-failed" ? "warn" : "info";
        this.#log.line("pod", `${name}: ${text}`, { ...labels, code: code ?? null, reason: reason ?? null }, level);
      }
    }
    if (news.length === 0 || this.#isDiagnosing) return;
    this.#isDiagnosing = true;
    setImmediate(() => {
      this.#isDiagnosing = false;
      this.diagnoseAll();
    });
  }
}

/** What the cluster's watch works with. */
export interface ClusterWatchOptions {
  log: Log;
  /** The client's start, by the monotonic clock. */
  origin: number;
  /** How many there are in all. */
  sessions: number;
  /** Whether a Service, or something like it, decides where a dial leads. */
  isRouted: boolean;
  /** The Service's URL behind a URL that is dialled. */
  serviceUrl?: (url: string) => string;
  /** Where one path to a pod cut what another brought to a graceful end; and whether that can be told by now. */
  differences?: () => PathDifference[];
  isComparable?: () => boolean;
  /** Told of each handover whose cause has become known. */
  onDiagnosed: (handover: Handover) => void;
  /** Told of each whose cause stays open, with what remains. */
  onOpen: (handover: Handover) => void;
  /** Told of each session that was closed in order, although its pod was not ending. */
  onTurnedAway: (handover: Handover) => void;
}

// ---- The drill: ends pods, waits until all is over, and leaves the workload as it was

/** What a drill sees of the run. */
export interface DrillOptions {
  settings: Pick<Settings, "disrupt" | "handovers" | "silenceTimeoutMs">;
  watch: ClusterWatch;
  api: Api;
  workload: FoundWorkload;
  log: Log;
  /** Aborted when the run is stopping. */
  signal: AbortSignal;
  sessions: number;
  /** Every session is steady, and none is on its way. */
  isCalm: () => boolean;
  /** Every session is connected, and none is on its way. */
  isSettled: () => boolean;
  /** The ledgers of the sessions that are held, that of slot 1 first. */
  holders: () => Ledger[];
  /** As many handovers were judged as were asked for. */
  isEnough: () => boolean;
}

/** Something that the drill waited for did not come, because the run is stopping. */
class Interrupted extends Error {}

/** Causes one disruption through the Kubernetes API, once every session is steady. */
export class Drill {
  /** What it did, once it has begun to. */
  disruption: Result["disruption"] = null;
  /** What it is waiting for; "" once it is over. */
  awaiting = "the first watch";
  #failure = "";
  readonly #options: DrillOptions;
  /** The target, as kubectl and as the API have it. */
  readonly #target: string;
  readonly #resource: string;
  readonly #path: string;
  /** Since when no node takes one of the pods. */
  #nowhereSince: number | undefined;
  /** What must be undone, whatever happens. */
  readonly #undo: (() => Promise<void>)[] = [];

  constructor(options: DrillOptions) {
    const { workload: { target }, api } = options;
    this.#options = options;
    this.#target = targetInWords(target);
    this.#resource = WORKLOADS[target.kind].resource;
    this.#path = `/apis/apps/v1/namespaces/${api.namespace}/${this.#resource}/${target.name}`;
  }

  /** Resolves when all that was disrupted has been judged, or the run is stopping. Throws `UserError` where it cannot. */
  async run(): Promise<void> {
    try {
      this.#checkTarget();
      await this.#awaitCalm();
      const before = this.#living().filter((pod) => !when(pod, "deleted"));
      const victim = this.#chooseVictim(before);
      const least = await this.#disrupt(victim, before);
      await this.#awaitEnd(before, least);
      this.awaiting = "";
    } catch (problem) {
      if (!(problem instanceof Interrupted)) throw problem;
    }
  }

  /** Takes back what was done to the workload, the last first. */
  async undo(): Promise<void> {
    for (const step of this.#undo.splice(0).reverse()) {
      try {
        await step();
      } catch (problem) {
        if (!(problem instanceof UserError)) throw problem;
        this.#fail(`the workload is not as it was: ${problem.message}`);
      }
    }
  }

  #fail(why: string): void {
    this.#failure = why;
    this.#options.log.line("disruption", why, {}, "error");
  }

  /** Why a drill proves nothing, whatever became of the handovers; null where it does. */
  whyNoDrill(handovers: readonly Handover[]): string | null {
    const { settings: { disrupt }, watch } = this.#options;
    if (this.#failure !== "") return this.#failure;
    if (this.awaiting !== "") return `${disrupt} is not over: waiting for ${this.awaiting}`;
    const names = new Set(watch.disruptedPods(this.disruption).map(({ name }) => name));
    const held = handovers.some(({ pod, verdict }) => verdict !== "unfinished" && pod !== null && names.has(pod));
    return held ? null : `no session was on ${[...names].join(", ")}: nothing to judge`;
  }

  // ---- Before

  /** Throws `UserError` where the target cannot be disrupted in this way. */
  #checkTarget(): void {
    const { settings: { disrupt }, workload: { target, object, problem } } = this.#options;
    if (disrupt !== "rollout" && disrupt !== "scale-in" && disrupt !== "drain") return;
    if (object === undefined) throw problem;
    const refusal = refusalOf(disrupt, target, object);
    if (refusal !== undefined) throw new UserError(refusal);
  }

  async #awaitCalm(): Promise<void> {
    const { sessions, isCalm, log, workload: { selector } } = this.#options;
    await this.#wait(`${count(sessions, "session")} to be steady`, isCalm);
    const settled = () => isCalm() && this.#living().every(({ ready }) => ready);
    if (await this.#wait(`every pod of ${selector} to be ready`, settled, SETTLE_TIMEOUT_MS)) return;
    log.line("disruption", "going on: not every pod is ready", {}, "warn");
    await this.#wait("steady sessions", isCalm);
  }

  /** The pod that session 1 is on; where the server does not say who it is, any ready one. A StatefulSet chooses by itself. */
  #chooseVictim(pods: Pod[]): Pod {
    const { holders, api, settings: { disrupt }, workload: { target, object, selector } } = this.#options;
    if (disrupt === "scale-in" && target.kind === "statefulset") return this.#chooseHighest(pods, object!);
    const held = pods.find(({ name }) => name === holders()[0]?.server);
    const victim = held ?? pods.find(({ ready }) => ready);
    if (victim !== undefined) return victim;
    throw new UserError(`No ready pod of ${this.#target} in namespace ${api.namespace}: its selector is ${selector}`);
  }

  /** The pod that goes, whatever session 1 is on; where it is certain that it holds none, there would be nothing to judge. */
  #chooseHighest(pods: Pod[], object: WorkloadObject): Pod {
    const { holders, sessions, workload: { target } } = this.#options;
    const highest = highestOrdinal(target, object);
    const victim = pods.find(({ name }) => name === highest);
    if (victim === undefined) throw new UserError(`Cannot scale in ${this.#target}: ${highest} is not there`);
    const servers = holders().map(({ server }) => server);
    if (!servers.includes(highest) && servers.every((server) => pods.some(({ name }) => name === server))) {
      throw new UserError(
        `Cannot judge a scale-in of ${this.#target}: it takes ${highest}, the highest ordinal, and of ` +
          `${count(sessions, "session")} none is there: more --sessions`,
      );
    }
    return victim;
  }

  // ---- The disruption

  /** Returns how many pods will end. */
  async #disrupt(victim: Pod, before: Pod[]): Promise<number> {
    const { settings: { disrupt: kind }, watch, api, log, workload: { target, object } } = this.#options;
    const path = `/api/v1/namespaces/${api.namespace}/pods/${victim.name}`;
    if (kind === "scale-in" && target.kind === "deployment") await this.#makeCheapest(victim, path);
    const pod = kind === "rollout" || kind === "drain" ? null : victim.name;
    const ofNode = kind === "drain" ? { node: victim.node } : {};
    this.disruption = { kind, pod, atMs: watch.nowMs, ...ofNode };
    this.awaiting = `the ${kind}`;
    const what = pod ?? (kind === "drain" ? `of node ${victim.node}` : this.#target);
    log.line("disruption", `${kind} ${what}`, { kind, pod, target: this.#target });
    if (kind === "evict") await this.#evict(victim);
    else if (kind === "drain") return await this.#drain(before.filter(({ node }) => node === victim.node));
    else if (kind === "rollout") {
      await this.#roll();
      return Math.min(before.length, rolledPods(target, object!) ?? before.length);
    } else if (kind === "scale-in") await this.#scaleIn(object!.spec.replicas ?? 1);
    else {
      const options = { preconditions: { uid: victim.uid }, ...kind === "force" ? { gracePeriodSeconds: 0 } : {} };
      await api.json("delete", "pods", path, { apiVersion: "v1", kind: "DeleteOptions", ...options });
    }
    return 1;
  }

  async #roll(): Promise<void> {
    const { api, log, workload: { target } } = this.#options;
    if (target.kind === "statefulset") {
      log.line("disruption", "a StatefulSet rolls one pod after the other, from the highest ordinal down");
    }
    const annotations = { "kubectl.kubernetes.io/restartedAt": timestamp() };
    const patch = { spec: { template: { metadata: { annotations } } } };
    await api.json("patch", this.#resource, this.#path, patch);
  }

  /** Evicts all of the target's pods on a node at once, and keeps new ones from it meanwhile, as `kubectl drain` does. */
  async #drain(pods: Pod[]): Promise<number> {
    await this.#cordon(pods[0]!.node);
    const evicted = await Promise.all(pods.map((pod) => this.#evict(pod)));
    const kept = pods.filter((_, index) => !evicted[index]);
    if (kept.length > 0) {
      const names = kept.map(({ name }) => name).join(", ");
      this.#fail(`the budget kept ${names} on the node: no other node takes the pods that are to replace the others`);
    }
    return pods.length - kept.length;
  }

  async #cordon(node: string): Promise<void> {
    const { api, log, signal } = this.#options;
    const path = `/api/v1/nodes/${node}`;
    const { spec } = await api.json("get", "nodes", path).catch(explainDrain) as NodeObject;
    if (signal.aborted) throw new Interrupted();
    if (spec?.unschedulable) return log.line("disruption", `${node} is cordoned already, and stays so`);
    let cordoned = true; // until the API says no
    const asked = api.json("patch", "nodes", path, { spec: { unschedulable: true } });
    this.#undo.push(async () => {
      await Promise.race([asked.catch(ignore), pause(CALL_TIMEOUT_MS)]); // else it could come after this
      if (!cordoned) return;
      await api.json("patch", "nodes", path, { spec: { unschedulable: null } });
      log.line("disruption", `${node} is uncordoned`);
    });
    await asked.catch((problem) => {
      if (problem instanceof ApiError && problem.status === 403) cordoned = false;
      return explainDrain(problem);
    });
    log.line("disruption", `${node} is cordoned`);
  }

  /** Asks until the PodDisruptionBudget allows it. False where it never will, because what it waits for fits on no node. */
  async #evict({ name, uid }: Pod): Promise<boolean> {
    const { api, log, signal } = this.#options;
    const path = `/api/v1/namespaces/${api.namespace}/pods/${name}/eviction`;
    const body = {
      apiVersion: "policy/v1",
      kind: "Eviction",
      metadata: { name, namespace: api.namespace },
      deleteOptions: { preconditions: { uid } },
    };
    while (!signal.aborted) {
      try {
        await api.json("create", "pods/eviction", path, body);
        return true;
      } catch (problem) {
        if (!(problem instanceof ApiError)) throw problem;
        if (problem.status === 404) return true; // it went by itself
        if (problem.status !== 429) throw problem;
        if (this.#isNowhere(SETTLE_TIMEOUT_MS)) return false;
        this.awaiting = `the eviction: ${problem.message}`;
        log.line("disruption", `${problem.message}; again in ${duration(problem.retryMs)}`, { pod: name }, "warn");
        await pause(problem.retryMs, signal);
      }
    }
    throw new Interrupted();
  }

  /** Whether a drain has left a pod of the target without a node for so long. */
  #isNowhere(patienceMs: number): boolean {
    const { settings: { disrupt }, watch: { nowMs } } = this.#options;
    const isStuck = disrupt === "drain" && this.#living().some(({ unschedulable }) => unschedulable);
    this.#nowhereSince = isStuck ? this.#nowhereSince ?? nowMs : undefined;
    return isStuck && nowMs - this.#nowhereSince! >= patienceMs;
  }

  /** Makes a pod the first that a scale-in takes. */
  async #makeCheapest(victim: Pod, path: string): Promise<void> {
    const { api } = this.#options;
    const cost = (value: string | null) =>
      api.json("patch", "pods", path, { metadata: { annotations: { [DELETION_COST]: value } } });
    const before = victim.deletionCost;
    this.#undo.push(() =>
      cost(before).then(ignore, (problem) => {
        if (!(problem instanceof ApiError && problem.status === 404)) throw problem; // it went with the pod
      })
    );
    const cheapest = "-2147483647";
    await cost(cheapest);
    // Once our watch has it, the controllers' watches have it too, or are about to.
    await this.#wait("the pod's deletion cost", () => victim.deletionCost === cheapest);
  }

  async #scaleIn(replicas: number): Promise<void> {
    const { api, log } = this.#options;
    // Restored only from what we made of it: another hand may have scaled meanwhile.
    const scale = (from: number, to: number) =>
      api.json("patch", `${this.#resource}/scale`, `${this.#path}/scale`, [
        { op: "test", path: "/spec/replicas", value: from },
        { op: "replace", path: "/spec/replicas", value: to },
      ]);
    let scaled = true; // until the API says no
    this.#undo.push(async () => {
      if (!scaled) return;
      const problem = await scale(replicas - 1, replicas).then(ignore, (problem) => problem);
      if (problem instanceof ApiError && problem.status === 422) {
        return log.line("disruption", "another hand has scaled meanwhile: left as it is", {}, "warn");
      }
      if (problem !== undefined) throw problem;
      log.line("disruption", `${this.#target} has ${count(replicas, "replica")} again`);
    });
    await scale(replicas, replicas - 1).catch((problem) => {
      const isNo = problem instanceof ApiError && [403, 422].includes(problem.status);
      if (isNo && problem.attempt === 1) scaled = false; // an attempt before may have been heeded, its answer lost
      throw problem;
    });
  }

  // ---- After

  async #awaitEnd(before: Pod[], least: number): Promise<void> {
    const { settings: { disrupt, handovers }, watch, isSettled, isEnough, log } = this.#options;
    const isRollout = disrupt === "rollout";
    const ended = () => watch.disruptedPods(this.disruption).filter((pod) => !isRollout || before.includes(pod));
    const whose = isRollout
      ? `${count(least, "pod")} of ${this.#target} to be replaced`
      : disrupt === "drain"
      ? `${count(least, "pod")} to end`
      : "the pod to end";
    await this.#wait(whose, () => ended().length >= least && ended().every((pod) => this.#isOver(pod)));
    if (isRollout) await this.#awaitRollout();
    const isBack = () => isSettled() || this.#isNowhere(NOWHERE_MS);
    await this.#wait("every session to be connected again", isBack);
    // Those that are still on their way are judged when the run stops.
    if (!isSettled()) log.line("disruption", "going on: no node takes the pods that sessions wait for", {}, "warn");
    await this.#wait("the last evidence", () => watch.undiagnosed === 0);
    await this.#wait(`${handovers} handovers`, () => isEnough() || !isSettled());
  }

  /** Asks for the target's state until its rollout is over, as `kubectl rollout status` does. */
  async #awaitRollout(): Promise<void> {
    const { api, signal, log, workload: { target } } = this.#options;
    for (let said = "";;) {
      const left = rolloutLeft(target, await api.json("get", this.#resource, this.#path) as WorkloadObject);
      if (signal.aborted) throw new Interrupted();
      if (left === "") return;
      this.awaiting = `the rollout: ${left}`;
      if (left !== said) log.line("disruption", `waiting for ${this.awaiting}`);
      said = left;
      await pause(ROLLOUT_INTERVAL_MS, signal);
    }
  }

  /** Whether a deleted pod has ended, and nobody holds a session on it any more. */
  #isOver(pod: Pod): boolean {
    const { watch, holders, settings: { silenceTimeoutMs } } = this.#options;
    const deletedMs = when(pod, "deleted")!.atMs;
    const isEnd = ({ kind, atMs, container }: Moment) =>
      kind === "gone" || (kind === "exit" && container === pod.container && atMs >= deletedMs);
    const ends = pod.moments.filter(isEnd);
    const endMs = Math.min(ends[0]?.atMs ?? Infinity, deletedMs + pod.graceMs + END_LATE_MS);
    // Who does not say which pod it is may still be silent, and unnoticed.
    const patienceMs = holders().some(({ instance }) => instance === "") ? silenceTimeoutMs : 0;
    // What was opened later is on another pod: a StatefulSet gives it the same name.
    const endAt = performance.now() + endMs - watch.nowMs;
    const isHeld = holders().some(({ server, openedAt = 0, endedAt }) =>
      endedAt === undefined && server === pod.name && openedAt <= endAt
    );
    return watch.nowMs > endMs + patienceMs && !isHeld;
  }

  #living(): Pod[] {
    return this.#options.watch.pods.filter((pod) => !pod.finished && !when(pod, "gone"));
  }

  /** False where it did not come in time. Throws `Interrupted` once the run is stopping. */
  async #wait(what: string, holds: () => boolean, patienceMs?: number): Promise<boolean> {
    const { log, signal } = this.#options;
    this.awaiting = what;
    if (!holds()) log.line("disruption", `waiting for ${what}`);
    const came = await until(holds, signal, patienceMs);
    if (signal.aborted) throw new Interrupted();
    return came;
  }
}

/** A drain's own permission comes only when it is asked for. */
function explainDrain(problem: unknown): never {
  if (!(problem instanceof ApiError && problem.status === 403)) throw problem;
  throw new ApiError(403, `${problem.message}: a drain needs what deploy/drill/drain allows`);
}

/** Looks ten times a second: what is waited for here depends on sessions, pods and time. False where it did not come. */
async function until(holds: () => boolean, signal: AbortSignal, patienceMs = Infinity): Promise<boolean> {
  const begun = performance.now();
  while (!holds()) {
    if (signal.aborted || performance.now() - begun > patienceMs) return false;
    await pause(100, signal);
  }
  return !signal.aborted;
}

// ---- The live page: what browsers that look on are told

/** Streams the picture of the run to browsers, whenever there is something new in it. */
export class LivePage {
  readonly #newsKey: () => string;
  readonly #draw: () => string;
  readonly #viewers = new Set<ServerResponse>();
  readonly #timer = setInterval(() => this.#tell(), NEWS_INTERVAL_MS).unref();
  #told = "";

  /** `newsKey` changes when there is news, which `draw` makes. */
  constructor(newsKey: () => string, draw: () => string) {
    this.#newsKey = newsKey;
    this.#draw = draw;
  }

  admit(response: ServerResponse): Answer | undefined {
    if (this.#viewers.size >= MAX_VIEWERS) return { status: 503, body: "Too many are looking on\n" };
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    response.on("close", () => this.#viewers.delete(response));
    this.#viewers.add(response);
    this.#told = "";
    this.#tell();
    return undefined;
  }

  /** Shows the last picture, and lets everybody go. */
  end(): void {
    clearInterval(this.#timer);
    this.#tell();
    for (const viewer of this.#viewers) viewer.end();
  }

  #tell(): void {
    if (this.#viewers.size === 0) return;
    const key = this.#newsKey();
    if (key === this.#told) return;
    this.#told = key;
    const text = `data: ${this.#draw()}\n\n`;
    // Who does not read gets the next picture instead of all that it missed.
    for (const viewer of this.#viewers) if (viewer.writableLength === 0) viewer.write(text);
  }
}

// ---- The Kubernetes API, as a pod reaches it

type WatchType = "LISTED" | "ADDED" | "MODIFIED" | "DELETED";
interface NodeObject {
  spec?: { unschedulable?: boolean };
}

/** ReplicaSet: a lower cost goes first (Kubernetes reference, well-known annotations). */
const DELETION_COST = "controller.kubernetes.io/pod-deletion-cost";
/** How long the API server keeps a watch open: a connection that died unnoticed is replaced soon after. */
const WATCH_SECONDS = 60;
/** How long a watch that is open again may take to tell what it missed; and how long a cause waits for one that is lost. */
const REPLAY_MS = 5000;
const DEAF_MS = 120_000;
/** How long one call may take, and how often it is tried when the server cannot answer it. */
const CALL_TIMEOUT_MS = 10_000;
const CALL_ATTEMPTS = 4;

/** An answer that is none; `status` 0 where none came. */
class ApiError extends UserError {
  readonly status: number;
  readonly retryMs: number;
  /** At which attempt it came: before the first there was no other that may have been heeded. */
  attempt = 1;
  constructor(status: number, message: string, retryMs = 5000) {
    super(message);
    this.status = status;
    this.retryMs = retryMs;
  }
}

/** Plain fetch with the mounted token. Throws `UserError` where there is no service account. */
export class Api {
  readonly namespace: string;
  readonly #folder: string;
  readonly #base: string;
  readonly #closing = new AbortController();

  constructor(folder: string) {
    const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port } = process.env;
    if (!host || !port) {
      throw new UserError("--disrupt works in a pod: KUBERNETES_SERVICE_HOST and _PORT are not set here");
    }
    this.#folder = folder;
    this.#base = `https://${host.includes(":") ? `[${host}]` : host}:${port}`;
    this.namespace = this.#read("namespace");
  }

  get closed(): AbortSignal {
    return this.#closing.signal;
  }

  close(): void {
    this.#closing.abort();
  }

  /** The body of the answer; that of a pod which is gone already is null to a delete. Throws `ApiError`. */
  async json(verb: string, resource: string, path: string, body?: unknown): Promise<unknown> {
    try {
      return JSON.parse(await this.#call(verb, resource, path, body, (response) => response.text()));
    } catch (error) {
      if (verb === "delete" && error instanceof ApiError && error.status === 404) return null;
      if (error instanceof SyntaxError) {
        throw new ApiError(0, `Cannot ${verb} ${resource} at ${this.#base}: what came is no JSON`);
      }
      throw error;
    }
  }

  /** The lines of a watch, as they come. Throws `ApiError`; what they throw is the connection's. */
  async watch(resource: string, path: string): Promise<AsyncIterable<string>> {
    return await this.#call("watch", resource, path, undefined, ({ body }) => linesOf(body!));
  }

  /** Verb and resource as RBAC names them; tried again where the server cannot answer, or its answer breaks off. */
  async #call<T>(
    verb: string,
    resource: string,
    path: string,
    body: unknown,
    read: (response: Response) => T | Promise<T>,
  ): Promise<T> {
    for (let attempt = 1;; attempt++) {
      const answer = await this.#try(verb, resource, path, body, read);
      if (!(answer instanceof ApiError)) return answer;
      answer.attempt = attempt;
      if (attempt === CALL_ATTEMPTS || (answer.status !== 0 && answer.status < 500)) throw answer;
      await pause(backoffMs(attempt, { baseMs: 200, capMs: 5000 }));
    }
  }

  async #try<T>(
    verb: string,
    resource: string,
    path: string,
    body: unknown,
    read: (response: Response) => T | Promise<T>,
  ): Promise<T | ApiError> {
    const method = { delete: "DELETE", create: "POST", patch: "PATCH" }[verb] ?? "GET";
    const patch = Array.isArray(body) ? "json-patch" : "merge-patch";
    const contentType = verb === "patch" ? `application/${patch}+json` : "application/json";
    const patienceMs = CALL_TIMEOUT_MS + (verb === "watch" ? WATCH_SECONDS * 1000 : 0);
    const signal = AbortSignal.any([this.closed, AbortSignal.timeout(patienceMs)]);
    // Read each time: kubelet renews it.
    const headers = { authorization: `Bearer ${this.#read("token")}`, "content-type": contentType };
    const text = body === undefined ? {} : { body: JSON.stringify(body) };
    try {
      const response = await fetch(this.#base + path, { method, headers, signal, ...text });
      if (response.ok) return await read(response);
      const reason = reasonIn(await response.text());
      const seconds = Number(response.headers.get("retry-after"));
      const where = resource === "nodes" ? "" : ` in namespace ${this.namespace}`; // nodes are in none
      const what = `Cannot ${verb} ${resource}${where}: HTTP ${response.status}, ${reason}`;
      return new ApiError(response.status, what, seconds > 0 ? seconds * 1000 : undefined);
    } catch (error) {
      this.closed.throwIfAborted();
      const { cause, message } = error as Error & { cause?: { code?: string; message?: string } };
      return new ApiError(
        0,
        `Cannot ${verb} ${resource} at ${this.#base}: ${cause?.code ?? cause?.message ?? message}`,
      );
    }
  }

  #read(file: string): string {
    try {
      return readFileSync(`${this.#folder}/${file}`, "utf8").trim();
    } catch (error) {
      throw new UserError(`--disrupt needs a service account: ${(error as Error).message}`);
    }
  }
}

/** The message of a Status object, or the beginning of what came instead. */
function reasonIn(text: string): string {
  try {
    return String(JSON.parse(text).message);
  } catch {
    return text.slice(0, 200);
  }
}

/** A drill's target, and what the API says of it; only `selector` is always known. */
export interface FoundWorkload {
  target: Target;
  selector: string;
  object?: WorkloadObject;
  /** Why it could not be read. */
  problem?: UserError;
}

/** Reads a target from the API. Throws `ApiError`; where there is none of that name it says what there may be instead. */
async function readTarget(api: Api, { kind, name }: Target): Promise<WorkloadObject> {
  const { resource } = WORKLOADS[kind];
  try {
    const path = `/apis/apps/v1/namespaces/${api.namespace}/${resource}/${name}`;
    return await api.json("get", resource, path) as WorkloadObject;
  } catch (problem) {
    if (!(problem instanceof ApiError && problem.status === 404)) throw problem;
    throw new ApiError(
      404,
      `${problem.message}: --target takes deployment/, statefulset/ or daemonset/NAME; for others (an Argo Rollout) ` +
        "--disrupt watch with --target-selector",
    );
  }
}

/** What a target's objects foretell; what may not be read, or is not answered, is said beside it. */
async function lookAt(
  api: Api,
  target: Target,
  object: WorkloadObject,
  { url, targetSelector }: Pick<Settings, "url" | "targetSelector">,
): Promise<Inspection> {
  const unseen: string[] = [];
  const selector = targetSelector || selectorInWords(object.spec.selector ?? {});
  const list = async <T>(group: string, resource: string, query = ""): Promise<T[] | undefined> => {
    try {
      const path = `/${group}/namespaces/${api.namespace}/${resource}${query}`;
      return (await api.json("list", resource, path) as { items: T[] }).items;
    } catch (problem) {
      if (!(problem instanceof UserError)) throw problem;
      unseen.push(problem.message);
      return undefined;
    }
  };
  const [pods, services, budgets, slices, events] = await Promise.all([
    list<KubernetesObject>("api/v1", "pods", `?labelSelector=${encodeURIComponent(selector)}`),
    list<ServiceObject>("api/v1", "services"),
    list<BudgetObject>("apis/policy/v1", "poddisruptionbudgets"),
    list<KubernetesObject>("apis/discovery.k8s.io/v1", "endpointslices"),
    list<KubernetesObject>("api/v1", "events", `?fieldSelector=${encodeURIComponent("reason=FailedPreStopHook")}`),
  ]);
  const hosts = serviceNames(url);
  return inspect({ target, object, pods, services, budgets, slices, events, hosts }, unseen);
}

/** Opens the three watches; resolves when the last one is open, and keeps them open until the API is closed. */
async function followAll(
  api: Api,
  selector: string,
  { observe, lost, heard }: {
    observe: (stream: Stream, type: WatchType, objects: KubernetesObject[]) => void;
    lost: (stream: Stream, error: Error) => void;
    heard: (stream: Stream, inMs?: number) => void;
  },
): Promise<void> {
  const namespace = `namespaces/${api.namespace}`;
  const ofPods = encodeURIComponent("involvedObject.kind=Pod"); // several reasons: a field selector has no "or"
  await Promise.all([
    follow("pods", `/api/v1/${namespace}/pods?labelSelector=${encodeURIComponent(selector)}`),
    follow("endpointslices", `/apis/discovery.k8s.io/v1/${namespace}/endpointslices?`),
    follow("events", `/api/v1/${namespace}/events?fieldSelector=${ofPods}`),
  ]);

  /** List, watch from there, watch again from where that ended; list anew when the server has forgotten that point (410). */
  function follow(stream: Stream, path: string): Promise<void> {
    const opened = deferred<void>();
    let version = "";
    let isOpen = false;
    void (async () => {
      for (let failures = 0;;) {
        try {
          if (version === "") {
            const list = await api.json("list", stream, path) as KubernetesList;
            observe(stream, "LISTED", list.items);
            version = list.metadata.resourceVersion;
          }
          const options = `watch=1&allowWatchBookmarks=true&timeoutSeconds=${WATCH_SECONDS}&resourceVersion=${version}`;
          const lines = await api.watch(stream, `${path}&${options}`);
          isOpen = true;
          opened.resolve();
          heard(stream, REPLAY_MS);
          for await (const line of lines) {
            heard(stream);
            const { type, object } = JSON.parse(line) as { type: string; object: KubernetesObject };
            if (type === "ERROR") {
              throw new ApiError((object as { code?: number }).code ?? 0, object.message ?? "ERROR");
            }
            version = object.metadata.resourceVersion;
            if (type !== "BOOKMARK") observe(stream, type as WatchType, [object]);
            failures = 0;
          }
        } catch (error) {
          if (api.closed.aborted) return;
          // Before it was ever open nothing has begun: whoever waits for it gets to know.
          if (!isOpen) return opened.reject(error as Error);
          if (error instanceof ApiError && error.status === 410) version = "";
          lost(stream, error as Error);
        }
        await pause(backoffMs(++failures, { baseMs: 50, capMs: 5000 }));
      }
    })();
    return opened.promise;
  }
}

/** Events of watches, a line each, as `{"stream","type","object"}` or `{"stream","list"}`: from a file, or as stdin brings them. */
function followLines(
  file: string,
  { observe, lost }: {
    observe: (stream: Stream, type: WatchType, objects: KubernetesObject[]) => void;
    lost: (stream: "evidence", error: Error) => void;
  },
  signal: AbortSignal,
): void {
  const input = file === "-" ? process.stdin : createReadStream(file);
  const lines = createInterface({ input });
  signal.addEventListener("abort", () => {
    lines.close();
    input.destroy();
  }, { once: true });
  input.on("error", (error) => lost("evidence", error));
  lines.on("line", (line) => {
    try {
      const { stream, type, list, object } = JSON.parse(line);
      if (list !== undefined) observe(stream, "LISTED", list.items);
      else observe(stream, type, [object]);
    } catch (error) {
      lost("evidence", error as Error);
    }
  });
}

interface KubernetesList {
  metadata: { resourceVersion: string };
  items: KubernetesObject[];
}

/** The lines of a stream; what comes after the last line break was cut off, and is left out. */
async function* linesOf(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  let rest = "";
  const decoder = new TextDecoder();
  for await (const chunk of body) {
    const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
    rest = lines.pop()!;
    yield* lines;
  }
}

/** What proves who we are and who the server is, as the files have it now. */
function followAccess({ tlsCa, tlsCert, tlsKey, tokenFile }: Settings, log: Log) {
  let tokens: string[] = [];
  const access = {
    tls: { minVersion: "TLSv1.2" } as SecureContextOptions,
    /** The token; after every other refusal the one before it: servers may get the new one later than we. */
    authorization: (refusals: number) =>
      tokens.length === 0 ? {} : { authorization: `Bearer ${tokens[refusals % tokens.length]}` },
  };
  const refused = (file: string) => (message: string) =>
    log.line("tls-refused", `${message}: the old one stays`, { file }, "error");
  if (tlsCa !== "") {
    followFiles({ "tls-ca": tlsCa }, ([ca]) => {
      checkCertificates(ca!);
      access.tls = { ...access.tls, ca };
    }, refused(tlsCa));
  }
  if (tlsCert !== "") {
    followFiles({ "tls-cert": tlsCert, "tls-key": tlsKey }, ([cert, key]) => {
      checkPair(cert!, key!);
      access.tls = { ...access.tls, cert, key };
    }, refused(tlsCert));
  }
  if (tokenFile !== "") {
    const use = ([text]: string[]) => {
      tokens = [parseToken(text!), ...tokens].slice(0, 2);
      log.line("token-loaded", tokenFile, { file: tokenFile });
    };
    const stays = (message: string) =>
      log.line("token-refused", `${message}: the old one stays`, { file: tokenFile }, "error");
    followFiles({ "token-file": tokenFile }, use, stays);
  }
  return access;
}

// ---- Small things

const sum = (counts: Record<string, number>): number => Object.values(counts).reduce((all, one) => all + one, 0);

/** How socket and resolver errors are counted; whatever is not here is `other`. */
const DIAL_ERRORS: Record<string, string> = {
  ECONNREFUSED: "refused",
  ENOTFOUND: "dns",
  EAI_AGAIN: "dns",
  ECONNRESET: "reset",
  EPIPE: "reset",
  ETIMEDOUT: "timeout",
  EMFILE: "descriptors",
  ENFILE: "descriptors",
  EADDRNOTAVAIL: "ports",
};

/** What may answer a refusal, by its status. */
const REFUSALS: Record<string, string> = {
  "400": "--subprotocol or --dialect, or another path in --url",
  "401": "it wants to know who is there: --token-file, or --header 'Cookie: …' or 'Authorization: …'",
  "403": "--header 'Origin: …', a cookie, or a token",
  "404": "another path in --url",
  "426": "another path in --url, or --subprotocol",
};

/** Dials of these kinds may have met a pod that is no more. */
const MET_NOBODY: readonly string[] = ["refused", "reset", "timeout"];

function deferred<T>() {
  let resolve!: (value: T) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<T>((yes, no) => [resolve, reject] = [yes, no]);
  return { promise, resolve, reject };
}

function ignore(): void {}

/** Resolves when a signal is aborted, or was. */
function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}

/** Waits; a signal's abort cuts it short. */
function pause(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms).unref();
    signal?.addEventListener("abort", done);
  });
}

function nonEmpty(text: string): string {
  if (text !== "") return text;
  throw new RangeError("must not be empty");
}

function subprotocol(text: string): string {
  if (/^[\w!#$%&'*+.^`|~-]+$/.test(text)) return text;
  throw new RangeError("must be a token (RFC 6455 4.1)");
}

/** A header as name and value; `@FILE` keeps the value out of the arguments. */
function header(text: string): [name: string, value: string] {
  const [, name, said = ""] = /^([^:\s]+): *(.*)$/.exec(text) ?? [];
  if (name === undefined) throw new RangeError("must be 'Name: value'");
  return headerOf(name, said);
}

function headerOf(name: string, said: string): [name: string, value: string] {
  const value = fileOrText(said);
  try {
    if (!/^[\w!#$%&'*+.^`|~-]+$/.test(name)) throw name;
    validateHeaderValue(name, value);
  } catch {
    throw new RangeError(`cannot be used: ${printable(name)} has a character that no header may have`);
  }
  return [name, value];
}

/** Text as it was typed, or what a file has: secrets stay out of arguments. */
function fileOrText(said: string): string {
  if (!said.startsWith("@")) return said;
  try {
    return readFileSync(said.slice(1), "utf8").trim();
  } catch (error) {
    throw new RangeError(`cannot be used: ${(error as Error).message}`);
  }
}

/** A pattern and what answers it. */
function reply(text: string): [pattern: string, answer: string] {
  const at = text.indexOf("=");
  if (at < 1) throw new RangeError("must be 'REGEX=TEXT'");
  return [text.slice(0, at), fileOrText(text.slice(at + 1))];
}

/** `auto`, the name of a dialect, or a file that describes one. */
function dialectName(text: string): string {
  if (text === "auto" || DIALECTS.includes(text)) return text;
  if (!text.endsWith(".json")) throw new RangeError(`must be auto, ${DIALECTS.join(", ")}, or a .json file`);
  readDialect(text);
  return text;
}

function readDialect(file: string): DialectParts {
  try {
    const parts = parseDialect(readFileSync(file, "utf8"));
    return { ...parts, ...parts.open && { open: inPart("open", () => parts.open!.map(fileOrText)) } };
  } catch (error) {
    throw new RangeError(
      `cannot be used: ${/^(must|has) /.test(`${(error as Error).message}`) ? "it " : ""}${(error as Error).message}`,
    );
  }
}

/** What is wrong in a part of a dialect says in which. */
function inPart<T>(part: string, read: () => T): T {
  try {
    return read();
  } catch (error) {
    throw new RangeError(`'${part}' ${(error as Error).message}`);
  }
}

/** The dialect that the settings describe, flags before what its name or file says. Throws `UserError`. */
export function chooseDialect({ dialect: name, ...settings }: Settings): Dialect {
  const { subprotocol, say, ready, reply, heartbeat, notice, farewell, sequence, serverName } = settings;
  const given: DialectParts = {
    ...subprotocol.length > 0 && { subprotocol },
    ...say.length > 0 && { open: say },
    ...ready && { ready },
    ...reply.length > 0 && { replies: Object.fromEntries(reply) },
    ...heartbeat && { heartbeat },
    ...notice && { notice },
    ...farewell && { farewell },
    ...sequence && { sequence },
    ...serverName && { server: serverName },
  };
  try {
    const parts = name.endsWith(".json") ? readDialect(name) : undefined;
    const dialect = describeDialect(name === "auto" ? "plain" : basename(name), parts, given);
    const headers = inPart("headers", () => Object.entries(dialect.headers).map((header) => headerOf(...header)));
    return { ...dialect, headers: Object.fromEntries(headers) };
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    throw new UserError(`--dialect ${name}: ${error.message}`);
  }
}

function target(text: string): string {
  return targetInWords(parseTarget(text));
}

function pingInterval(text: string): number | undefined {
  return text === "" ? undefined : milliseconds(0, 100)(text);
}

/** What a browser would keep of a server's cookies, by host: names and values, until they are taken back. */
export class Cookies {
  readonly #byHost = new Map<string, Map<string, string>>();

  /** Takes what an answer sets (RFC 6265 5.2); of its attributes only those that end a cookie matter to one address. */
  enter(host: string, headers: readonly string[] = []): void {
    const cookies = this.#byHost.get(host) ?? new Map<string, string>();
    for (const line of headers) {
      const [pair = "", ...attributes] = line.split(";").map((part) => part.trim());
      const [, name = "", value = ""] = /^([^=]+)=(.*)$/.exec(pair) ?? [];
      const isOver = attributes.some((one) =>
        /^max-age=(-|0*$)/i.test(one) || Date.parse(/^expires=(.*)/i.exec(one)?.[1] ?? "") < Date.now()
      );
      if (name === "" || pair.length > MAX_COOKIE_BYTES) continue;
      if (isOver) cookies.delete(name);
      else if (cookies.size < MAX_COOKIES || cookies.has(name)) cookies.set(name, value);
    }
    if (cookies.size > 0) this.#byHost.set(host, cookies);
  }

  /** The Cookie header for a host; "" without one. */
  for(host: string): string {
    return [...this.#byHost.get(host) ?? []].map(([name, value]) => `${name}=${value}`).join("; ");
  }
}

/** What RFC 6265 6.1 asks of a browser at least. */
const MAX_COOKIES = 50;
const MAX_COOKIE_BYTES = 4096;

/** Another way to the same pods, by a short name. */
function viaPath(text: string): { name: string; url: string } {
  const [, name = "", url = ""] = /^([^=]*)=(.*)$/.exec(text) ?? [];
  if (!/^[a-z0-9][\w.-]{0,31}$/i.test(name)) {
    throw new RangeError("must be NAME=URL, with a name of up to 32 letters, digits, dots, dashes and underscores");
  }
  try {
    return { name, url: serverUrl(url) };
  } catch (error) {
    throw new RangeError(`must be NAME=URL: the URL ${(error as Error).message}`);
  }
}

function serverUrl(text: string): string {
  // Without credentials, too: URLs stand in log lines and reports.
  // What ends a URL in the middle of a text is written as URLs write it: else what stands behind would not be redacted.
  if (URL.canParse(text) && /^wss?:\/\/[^#@]+$/i.test(text)) {
    return text.replace(/[\s"<>`]/g, (one) => encodeURIComponent(one));
  }
  throw new RangeError("must be a ws:// or wss:// URL without credentials or a fragment");
}

function reportFile(text: string): string {
  if (text !== RECORD) checkReport(text);
  return text;
}

if (import.meta.main) run(main);
