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
import { createHash } from "node:crypto";
import { accessSync, constants, readFileSync, writeFileSync } from "node:fs";
import type { ClientRequest, IncomingMessage, ServerResponse } from "node:http";
import { dirname } from "node:path";
import process from "node:process";
import type { SecureContextOptions } from "node:tls";
import kleur from "kleur";
import { type ClientOptions, type RawData, WebSocket } from "ws";
// deno-fmt-ignore
import {
  type Answer, backoffMs, byLabel, type Cause, CAUSES, checkCertificates, checkPair, closeCode, closeReason, Cluster, confirmedUpTo, count, createAdmin,
  createLog, createMetrics, decode, diagnose, duration, encode, expectedRules, followFiles, type Frame, grouped,
  type Handover, integer, isEvidenceComplete, isSteady, judge, type KubernetesObject, Ledger, listen, type Log,
  LOG_FORMAT, MAX_MESSAGE_BYTES, MAX_PAYLOAD_BYTES, MAX_TIMER_MS, milliseconds, observe, observeCluster,
  observeMissing, oneOf, parseToken, percentile, type Pod, podOf, PORT, printable, PROBE_HEADER, type Range,
  readSettings, readyEndpoints, type Redial, REMEDIES, type Rule, RULES, run, type SessionEvent, setting, settingList,
  type Stream, SUBPROTOCOL, type Symptom, timestamp, toJson, useColour, UserError, type Values, VERSION,
  wasKilledAtGrace, when,
} from "./protocol.ts";

/** What `--disrupt` can do: nothing, look on, or end pods through the Kubernetes API. */
export const DISRUPTIONS = ["none", "watch", "delete", "evict", "rollout", "scale-in", "force"] as const;

/** Where kubelet mounts a pod's token, renewed as it ages (Kubernetes: Configure Service Accounts for Pods). */
const SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount";

/** Every setting of the client; README's table and --help say the same. */
export const SETTINGS = {
  url: settingList("SERVER_URL", "ws://localhost:8080/ws", serverUrl, "where to connect; repeatable"),
  adminPort: setting("ADMIN_PORT", "9091", PORT, "port for /healthz, /readyz, /metrics, /report; 0 = any free port"),
  allowHost: settingList("ALLOW_HOST", "", String, "further host names that may ask for /report and the page, * = any"),
  sessions: setting("SESSIONS", "1", integer(1, 1_000_000), "sessions to hold"),
  intervalMs: setting("INTERVAL_MS", "2000", milliseconds(1), "ms between DATA"),
  dialect: setting("DIALECT", "auto", oneOf("auto", "v1", "plain"), "auto (v1, else plain), v1, or plain"),
  connectTimeoutMs: setting("CONNECT_TIMEOUT_MS", "5000", milliseconds(1, 100), "ms from dial to HELLO"),
  silenceTimeoutMs: setting("SILENCE_TIMEOUT_MS", "10000", milliseconds(1, 100), "ms without DATA: dead"),
  reconnect: setting("RECONNECT", "after-close", oneOf("after-close", "early"), "after-close; early: at SHUTDOWN"),
  backoffBaseMs: setting("BACKOFF_BASE_MS", "100", milliseconds(0), "redial n waits at random up to this × 2ⁿ"),
  backoffCapMs: setting("BACKOFF_CAP_MS", "5000", milliseconds(0), "longest wait before a redial, in ms"),
  maxReconnectMs: setting("MAX_RECONNECT_MS", "5000", milliseconds(0, 100), "ms that a reconnect may be delayed"),
  expect: settingList("EXPECT", "", oneOf(...RULES), "rules that count, by commas; default: all; plain: clean,moved"),
  expectCode: settingList("EXPECT_CODE", "1001", closeCode(1005), "clean close codes; 1005: a frame without one"),
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
    "in a pod: watch the cluster, or end pods by its API as well",
  ),
  targetDeployment: setting("TARGET_DEPLOYMENT", "server-deployment", nonEmpty, "the Deployment to roll or to scale"),
  targetSelector: setting("TARGET_SELECTOR", "app=server", nonEmpty, "the label selector of its pods"),
  serviceAccount: setting("SERVICE_ACCOUNT", SERVICE_ACCOUNT, nonEmpty, "folder of the API's token and namespace"),
  report: settingList(
    "REPORT",
    "",
    reportFile,
    "write the result to this .json, .html, .xml (JUnit) or .md; -.md: stdout; repeatable",
  ),
  logFormat: LOG_FORMAT,
};

type Settings = Values<typeof SETTINGS>;

/** At most so many dials at a time: a herd of reconnects takes turns. */
const MAX_DIALS = 50;
/** Messages without the server's word on them at which production pauses. */
const MAX_UNCONFIRMED = 1000;
/** Unsent bytes of a session at which production pauses. */
const MAX_BUFFER_BYTES = 2 ** 20;
/** Time for the closing handshake, of the server's close (its FIN) and of our own. */
const CLOSE_TIMEOUT_MS = 3000;
/** Handovers that the report keeps in full, at least; of older ones it keeps the counts. */
const KEPT_HANDOVERS = 10_000;
/** Servers of which the client remembers that they are ending. */
const KEPT_ENDINGS = 100;
/** Sessions that a picture shows one by one; handovers that it has in full. */
const SHOWN_SESSIONS = 50;
const SHOWN_HANDOVERS = 200;
/** Browsers that may look on at a time, and how often they get news. */
const MAX_VIEWERS = 8;
const NEWS_INTERVAL_MS = 500;
/** So many dials, and each refused with 401: no token of ours opens this server. */
const MAX_UNAUTHORIZED = 10;
/** How long a drill waits for a workload whose pods are not all ready. */
const SETTLE_TIMEOUT_MS = 120_000;

/** One connection that has said HELLO (plain: that is upgraded). */
interface Session {
  ws: WebSocket;
  ledger: Ledger;
  /** Resolved by the first DATA, by SHUTDOWN, and when the connection is gone. */
  alive: Promise<void>;
  noticed: Promise<void>;
  ended: Promise<void>;
  production: NodeJS.Timeout | undefined;
  /** Whether it has been told, or has ended: its handover is in flight until it is judged. */
  ending: boolean;
}

/** One place that wants to hold a session at all times. */
interface Slot {
  number: number;
  /** Last `seq` used, and up to which the server has confirmed: what is between goes out again on the next session. */
  lastSeq: number;
  confirmed: number;
  current: Session | undefined;
  /** A handover on its way: the way to the next session, and that session once it is open. */
  redial: Redial | undefined;
  next: Session | undefined;
  steady: boolean;
}

/** A dial that led to no session; `kind` is how it is counted. */
class DialError extends Error {
  readonly kind: string;
  /** Whether it may have met a server that is ending. */
  readonly metNobody: boolean;
  constructor(kind: string, message: string, metNobody = false) {
    super(message);
    this.kind = kind;
    this.metNobody = metNobody || kind === "refused";
  }
}

/** How often a symptom was seen, on which servers (the first ten), and the causes that explain it. */
interface SymptomCount {
  count: number;
  servers: string[];
  causes: Partial<Record<Cause, { count: number; evidence: string }>>;
}

/** What the client found out: the one object behind the text, --json, --report and /report. */
export interface Result {
  verdict: "PASS" | "FAIL";
  /** The last line of the text. */
  summary: string;
  version: string;
  startedAt: string;
  durationMs: number;
  sessions: { wanted: number; connected: number; byServer: Record<string, number> };
  /** Those that are open, and the handovers that are on their way (times since the client's start); of more than 50 a sample. */
  open: { slot: number; server: string; openedMs: number }[];
  inFlight: { slot: number; from: string; openedMs: number | null; toldMs: number | null; endedMs: number | null }[];
  messages: { received: number; sent: number; lost: number; duplicated: number; reordered: number; resent: number };
  counts: { graceful: number; failed: number; unfinished: number };
  symptoms: Partial<Record<Symptom, SymptomCount>>;
  reconnect: { p50Ms: number | null; p99Ms: number | null; maxMs: number | null };
  silence: { p50Ms: number | null; p99Ms: number | null; maxMs: number | null };
  failedDials: Record<string, number>;
  probes: { ok: number; refused: number; "503": number; timeout: number; other: number; lastOnEndingMs: number | null };
  /** What `--disrupt` did, and why that was no drill; null where it only looked on. */
  disruption: { kind: string; pod: string | null; atMs: number } | null;
  failure: string | null;
  /** The pods that ended, as the cluster told it. */
  pods: Pod[];
  findings: { name: string; text: string }[];
  settings: Settings;
  handovers: Handover[];
}

async function main(): Promise<void> {
  const settings = readSettings(
    {
      command: "node dist/client.js",
      summary:
        "Holds WebSocket sessions, verifies every message, and judges how each one moves when its server ends.\n" +
        "Exit 0: every handover was graceful; 1: one was not, or too few happened; 2: it could not run.",
      switches: { json: "print the result as one JSON object on stdout" },
    },
    SETTINGS,
  );
  if (settings === undefined) return;
  if ((settings.tlsCert === "") !== (settings.tlsKey === "")) {
    throw new UserError("--tls-cert and --tls-key go together");
  }
  if (settings.switches.has("json") && settings.report.some(isStdout)) {
    throw new UserError("--json has stdout for itself: --report to a file");
  }
  const { result, error } = await hold(settings);
  if (error !== undefined) throw new UserError(error);
  process.exitCode = result.verdict === "PASS" ? 0 : 1;
  let unwritten: string | undefined;
  const [onStdout, files] = [settings.report.filter(isStdout), settings.report.filter((file) => !isStdout(file))];
  kleur.enabled = false; // reports have no colour
  for (const file of onStdout) process.stdout.write(REPORTS[endingOf(file)]!(result));
  for (const file of files) {
    try {
      writeFileSync(file, REPORTS[endingOf(file)]!(result));
    } catch (error) {
      unwritten = `Cannot write --report: ${(error as Error).message}`;
    }
  }
  useColour(process.stdout);
  process.stdout.write(settings.switches.has("json") ? `${toJson(result)}\n` : render(result));
  if (unwritten !== undefined) throw new UserError(unwritten);
}

/** Holds the sessions until there is a result; `error` says why there can be none. */
async function hold(settings: Settings): Promise<{ result: Result; error?: string }> {
  const origin = performance.now();
  const startedAt = new Date().toISOString();
  const payload = settings.payloadBytes > 0 ? { payload: "x".repeat(settings.payloadBytes) } : {};
  const policy = {
    expect: settings.expect,
    expectCode: settings.expectCode,
    maxReconnectMs: settings.maxReconnectMs,
  };
  const slots = Array.from({ length: settings.sessions }, (_, index): Slot => ({
    number: index + 1,
    lastSeq: 0,
    confirmed: 0,
    current: undefined,
    redial: undefined,
    next: undefined,
    steady: false,
  }));
  const open = new Set<Session>();
  const handovers: Handover[] = [];
  /** As they stand in the result. */
  const messages: Result["messages"] = { received: 0, sent: 0, lost: 0, duplicated: 0, reordered: 0, resent: 0 };
  const counts: Result["counts"] = { graceful: 0, failed: 0, unfinished: 0 };
  const tally = { opened: 0, steady: 0, inFlight: 0, lostUp: 0 };
  const symptoms: Result["symptoms"] = {};
  const failedDials: Record<string, number> = {};
  const probes: Result["probes"] = { ok: 0, refused: 0, "503": 0, timeout: 0, other: 0, lastOnEndingMs: null };
  /** Since when instances are known to end, the latest last. */
  const endings = new Map<string, number>();
  const dialling = new Set<WebSocket>();
  const dialGate = createGate(MAX_DIALS);
  const pingIntervalMs = Math.max(1, Math.round(settings.silenceTimeoutMs / 3));
  let probing = 0;
  let probeTurn = 0;
  let signalled = false;
  let stopping = false;
  const stopped = deferred<string>();
  const cluster = new Cluster();
  const api = settings.disrupt === "none" ? undefined : createApi(settings.serviceAccount);
  /** Handovers of which the cluster may still have something to tell. */
  const undiagnosed = new Set<Handover>();
  const drill = {
    disruption: null as Result["disruption"],
    /** What it is waiting for, as long as it is not over. */
    awaiting: settings.disrupt === "none" || settings.disrupt === "watch" ? "" : "the first watch",
    failure: "",
    /** What it must undo, whatever happens. */
    undo: [] as (() => Promise<void>)[],
    /** Dials that met a pod after its deletion. */
    dialsOnEnding: 0,
    lastOnEndingMs: 0,
  };
  /** Why there can be no result. */
  let fatal: string | undefined;

  const sinceStart = () => Math.round((performance.now() - origin) * 10) / 10;
  const since = (at: number | undefined) => at === undefined ? null : Math.round((at - origin) * 10) / 10;
  const judged = () => counts.graceful + counts.failed;
  const isOpen = (session: Session | undefined) => session !== undefined && open.has(session);
  const connected = () => slots.filter(({ current, next }) => isOpen(current) || isOpen(next)).length;
  const status = () => `${grouped(connected())} of ${count(slots.length, "session")} connected`;
  const log = createLog("client", settings.logFormat, status, () => slots.length);
  const security = followSecurity(settings, log);
  process.on("SIGTERM", onSignal);
  process.on("SIGINT", onSignal);
  let metrics: Awaited<ReturnType<typeof createMetrics>> | undefined;
  let measure = (_handover: Handover): void => {};
  const admin = createAdmin({
    "/healthz": () => ({ status: 200, body: "ok\n" }),
    "/readyz": () => ({ status: connected() === slots.length ? 200 : 503, body: `${status()}\n` }),
    "/metrics": () => metrics?.route() ?? { status: 503, body: "starting\n" },
    "/report": () => ({ status: 200, body: `${toJson(makeResult())}\n`, type: "application/json" }),
    "/": () => {
      const body = renderPage();
      return { status: 200, body, type: "text/html; charset=utf-8", headers: securityHeaders(body) };
    },
    "/events": onViewer,
  });
  /** Browsers that look on, and what they were told last. */
  const viewers = new Set<ServerResponse>();
  let told = "";
  setInterval(tellViewers, NEWS_INTERVAL_MS).unref();
  const adminPort = await listen(admin, settings.adminPort, "");
  if (api !== undefined) {
    try {
      await followAll(api, settings.targetSelector, observeWatch, onWatchLost);
    } catch (error) {
      admin.close();
      api.close();
      throw error;
    }
    setInterval(diagnoseAll, 500).unref();
  }
  const where = `${count(slots.length, "session")} to ${settings.url.join(", ")}`;
  log.line("started", `${where}, admin port ${adminPort}`, { sessions: slots.length, adminPort });
  await exportMetrics();
  if (settings.timeoutMs > 0) setTimeout(stopped.resolve, settings.timeoutMs, "--timeout").unref();
  if (settings.probeIntervalMs > 0) setInterval(probe, settings.probeIntervalMs).unref();
  for (const slot of slots) void runSlot(slot);
  if (api !== undefined && drill.awaiting !== "") void runDrill(api);

  const reason = await stopped.promise;
  stopping = true;
  log.line("stopping", `${reason}: closing ${count(open.size, "session")}`, { reason, sessions: open.size });
  await undoAll();
  // What is on its way now is judged before our own closing touches it.
  for (const slot of slots) if (slot.current?.ending) settle(slot, slot.current, slot.next);
  diagnoseAll();
  const result = makeResult();
  tellViewers();
  for (const viewer of viewers) viewer.end();
  await closeAll();
  api?.close();
  log.end();
  if (settings.logFormat === "json") {
    const { verdict } = result;
    const labels = { verdict, handovers: judged(), failed: counts.failed, lost: messages.lost };
    log.line("verdict", result.summary, labels, verdict === "PASS" ? "info" : "error");
  }
  admin.close();
  admin.closeAllConnections();
  if (fatal !== undefined) return { result, error: fatal };
  if (tally.opened > 0) return { result };
  const dials = Object.entries(failedDials).map(([kind, number]) => `${kind} ×${number}`).join(", ") ||
    "no dial finished";
  return { result, error: `Never connected to ${settings.url.join(", ")}: ${dials}` };

  function onViewer(response: ServerResponse): Answer | undefined {
    if (viewers.size >= MAX_VIEWERS) return { status: 503, body: "Too many are looking on\n" };
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    response.on("close", () => viewers.delete(response));
    viewers.add(response);
    told = "";
    tellViewers();
    return undefined;
  }

  /** What has changed since the last time; nothing has as long as these numbers have not. */
  function tellViewers(): void {
    if (viewers.size === 0) return;
    const moments = [...cluster.pods.values()].reduce((sum, pod) => sum + pod.moments.length, 0);
    const state = [
      tally.opened,
      open.size,
      tally.inFlight,
      judged(),
      undiagnosed.size,
      moments,
      drill.awaiting,
      stopping,
    ];
    if (state.join() === told) return;
    told = state.join();
    const text = `data: ${pageData(makeResult(), !stopping)}\n\n`;
    // Who does not read gets the next picture instead of all that it missed.
    for (const viewer of viewers) if (viewer.writableLength === 0) viewer.write(text);
  }

  function onSignal(signal: NodeJS.Signals): void {
    if (signalled) process.exit(1); // whoever asks twice does not want to wait
    signalled = true;
    stopped.resolve(signal);
  }

  async function closeAll(): Promise<void> {
    for (const ws of dialling) ws.terminate();
    for (const { ws, production } of open) {
      clearInterval(production);
      ws.close(1000);
    }
    await Promise.all([...open].map(({ ended }) => ended)); // ws cuts what does not answer in CLOSE_TIMEOUT_MS
  }

  // ---- A slot's life

  async function runSlot(slot: Slot): Promise<void> {
    slot.current = await connect(slot);
    if (slot.current !== undefined) startProducing(slot, slot.current);
    while (slot.current !== undefined && !stopping) {
      const { ledger, ended, noticed } = slot.current;
      await (settings.reconnect === "early" ? Promise.race([noticed, ended]) : ended);
      if (stopping) return;
      const next = await connect(slot);
      if (next === undefined) return;
      await ended;
      slot.confirmed = confirmedUpTo(ledger, slot.confirmed);
      startProducing(slot, next);
      await Promise.race([next.alive, next.ended]); // its first message ends the silence
      if (stopping) return;
      settle(slot, slot.current, next);
      slot.current = next;
      slot.redial = slot.next = undefined;
    }
  }

  /** Dials until a session is open; undefined once the client is stopping. */
  async function connect(slot: Slot): Promise<Session | undefined> {
    const ledger = slot.current?.ledger;
    const redial = newRedial();
    if (ledger !== undefined) slot.redial = redial;
    let refused: string | undefined;
    let refusals = 0;
    for (let attempt = ledger === undefined ? -1 : 0;; attempt++) {
      if (attempt >= 0) {
        const waitMs = backoffMs(attempt, { baseMs: settings.backoffBaseMs, capMs: settings.backoffCapMs });
        if (attempt === 0) redial.chosenMs = waitMs;
        await pause(waitMs);
      }
      await dialGate.enter();
      const url = chooseUrl(ledger?.url, refused);
      try {
        if (stopping) return undefined;
        noteDial(redial, url);
        const session = await dial(url, slot, refusals);
        noteOnEnding(session.ledger.server, redial);
        if (ledger !== undefined) slot.next = session;
        return session;
      } catch (error) {
        if (!(error instanceof DialError)) throw error;
        if (stopping) return undefined;
        refused = url;
        if (error.kind === "401") refusals++;
        redial.failed[error.kind] = (redial.failed[error.kind] ?? 0) + 1;
        failedDials[error.kind] = (failedDials[error.kind] ?? 0) + 1;
        if (error.metNobody) noteOnEnding(undefined, redial);
        const { kind, message } = error;
        if (tally.opened === 0 && failedDials["401"] === sum(failedDials) && sum(failedDials) >= MAX_UNAUTHORIZED) {
          fatal = `${url} refuses every dial with 401: ` +
            (settings.tokenFile === ""
              ? "it needs a token, see --token-file"
              : `see --token-file ${settings.tokenFile}`);
          stopped.resolve("401");
        }
        const labels = { slot: slot.number, url, kind };
        log.each("dial-failed", () => [`slot ${slot.number} to ${url}: ${message}`, labels, "warn"]);
      } finally {
        dialGate.leave();
      }
    }
  }

  /** The first URL first; then any but the one just ended or just refused, as long as there is another. */
  function chooseUrl(ended: string | undefined, refused: string | undefined): string {
    if (ended === undefined && refused === undefined) return settings.url[0]!;
    const others = settings.url.filter((url) => url !== ended && url !== refused);
    const fallback = settings.url.filter((url) => url !== (refused ?? ended));
    const choice = [others, fallback, settings.url].find((urls) => urls.length > 0)!;
    return choice[Math.floor(Math.random() * choice.length)]!;
  }

  function settle(slot: Slot, from: Session, to: Session | undefined): void {
    tally.inFlight--;
    const now = performance.now();
    const redial = slot.redial ?? newRedial();
    const handover = judge(slot.number, from.ledger, to?.ledger, redial, policy, now, origin);
    const { verdict, symptom } = handover;
    counts[verdict]++;
    for (const kind of ["lost", "duplicated", "reordered"] as const) messages[kind] += size(handover[kind]);
    messages.lost += handover.upstreamLost;
    tally.lostUp += handover.upstreamLost;
    measure(handover);
    if (symptom !== null) {
      const { servers } = symptoms[symptom] ??= { count: 0, servers: [], causes: {} };
      symptoms[symptom].count++;
      if (servers.length < 10 && !servers.includes(handover.from)) servers.push(handover.from);
    }
    if (api !== undefined) undiagnosed.add(handover);
    handovers.push(handover);
    const kept = Math.max(KEPT_HANDOVERS, slots.length);
    if (handovers.length >= 2 * kept) handovers.splice(0, kept);
    log.each("handover", () => {
      const { to, code, how, noticeMs, drainMs, reconnectMs, forcedMs, silenceMs } = handover;
      const { session } = from.ledger;
      const times = { noticeMs, drainMs, reconnectMs, forcedMs, silenceMs };
      const labels = { slot: slot.number, verdict, symptom, from: handover.from, to, session, code, how, ...times };
      return [headline(handover), labels, verdict === "failed" ? "warn" : "info"];
    });
    if (settings.handovers > 0 && judged() >= settings.handovers && tally.inFlight === 0 && drill.awaiting === "") {
      void until(() => undiagnosed.size === 0).then(() => stopped.resolve(`--handovers ${settings.handovers}`));
    }
  }

  /** Looks ten times a second: what is waited for here depends on sessions, pods and time. False once the run is stopping. */
  async function until(holds: () => boolean, patienceMs = Infinity): Promise<boolean> {
    const begun = performance.now();
    while (!holds()) {
      if (stopping || performance.now() - begun > patienceMs) return false;
      await Promise.race([pause(100), stopped.promise]);
    }
    return !stopping;
  }

  // ---- A session's life

  /** Opens a connection, for a slot or (without one) as a probe. Resolves at HELLO, plain at the upgrade; rejects with `DialError`. After a 401 (`refusals`) it is the token before: servers may get the new one later than we. */
  function dial(url: string, slot?: Slot, refusals = 0): Promise<Session> {
    const opening = deferred<Session>();
    const alive = deferred<void>();
    const noticed = deferred<void>();
    const ended = deferred<void>();
    const options: ClientOptions & { closeTimeout: number } = {
      perMessageDeflate: false,
      maxPayload: MAX_MESSAGE_BYTES,
      closeTimeout: CLOSE_TIMEOUT_MS,
      ...security.tls,
      headers: {
        ...slot === undefined && { [PROBE_HEADER]: "1" },
        ...security.tokens.length > 0 &&
          { authorization: `Bearer ${security.tokens[refusals % security.tokens.length]}` },
      },
    };
    const ws = new WebSocket(url, settings.dialect === "plain" ? [] : [SUBPROTOCOL], options);
    const session: Session = {
      ws,
      ledger: new Ledger(url, "plain", pingIntervalMs),
      alive: alive.promise,
      noticed: noticed.promise,
      ended: ended.promise,
      production: undefined,
      ending: false,
    };
    const { ledger } = session;
    let fin = false;
    let broken = false;
    let watchdog = setTimeout(onTimeout, settings.connectTimeoutMs);

    dialling.add(ws);
    ws.on("upgrade", onUpgrade);
    ws.on("unexpected-response", onRefusal);
    ws.on("open", () => ledger.dialect === "plain" && receive({ type: "OPEN" }));
    ws.on("message", onMessage);
    ws.on("pong", () => ledger.dialect === "plain" && receive({ type: "TEXT", text: "" }));
    ws.on("error", onError);
    ws.on("close", onClose);
    return opening.promise;

    function onUpgrade({ headers, socket }: IncomingMessage): void {
      // ws swallows socket errors: only the socket tells FIN, reset and silence apart.
      socket.on("end", () => fin = true);
      socket.on("error", () => broken = true);
      const pod = podAt(socket.remoteAddress);
      if (headers["sec-websocket-protocol"] !== undefined) ledger.dialect = "v1";
      else if (pod !== undefined) [ledger.server, ledger.instance] = [pod.name, `${pod.uid} ${pod.restarts}`];
      // ws refuses a server that selects none of the subprotocols on offer; in `auto` that server speaks plain text.
      if (settings.dialect === "auto") headers["sec-websocket-protocol"] ??= SUBPROTOCOL;
    }

    function onRefusal(_request: ClientRequest, { statusCode = 0 }: IncomingMessage): void {
      // In a server's name a proxy answers 502 or 504.
      const metNobody = [502, 503, 504].includes(statusCode);
      const kind = statusCode === 503 || statusCode === 401 ? String(statusCode) : "other";
      fail(kind, `HTTP ${statusCode}`, metNobody);
    }

    function onError(error: Error & { code?: string }): void {
      if (ledger.openedAt === undefined) fail(DIAL_ERRORS[error.code ?? ""] ?? "other", error.message || error.code!);
      else noteInvalid(error.message); // ws closes it
    }

    function fail(kind: string, message: string, metNobody = false): void {
      opening.reject(new DialError(kind, message, metNobody)); // the first failure counts, what follows from it does not
      if (ws.readyState !== ws.CLOSED) ws.terminate();
    }

    function onMessage(data: RawData, isBinary: boolean): void {
      if (ws.readyState !== ws.OPEN) return; // we have closed it
      if (ledger.dialect === "plain") return receive({ type: "TEXT", text: isBinary ? "(binary)" : data.toString() });
      if (isBinary) return complain(1003, "Cannot accept a binary message: frames are JSON text");
      try {
        const frame = decode(data.toString());
        if (frame.type === "ACK") throw new SyntaxError("Cannot accept ACK frame: only the client sends it");
        receive(frame);
      } catch (error) {
        if (!(error instanceof SyntaxError)) throw error;
        complain(1007, error.message);
      }
    }

    function noteInvalid(message: string): void {
      ledger.complaint ??= message;
      log.each("invalid-frame", () => [`${ledger.server}: ${message}`, { server: ledger.server }, "warn"]);
    }

    function complain(code: number, message: string): void {
      noteInvalid(message);
      if (ledger.openedAt === undefined) opening.reject(new DialError("other", message));
      ws.close(code, closeReason(message));
    }

    function receive(event: SessionEvent): void {
      observe(ledger, event, performance.now());
      if (event.type === "HELLO" || event.type === "OPEN") return onOpen();
      if (slot === undefined) return;
      if (event.type === "DATA" || (event.type === "TEXT" && event.text !== "")) messages.received++;
      if (ledger.firstDataAt !== undefined) alive.resolve();
      checkSteady(slot, ledger);
      if (ledger.noticeAt !== undefined && !session.ending) onNotice();
    }

    function onOpen(): void {
      dialling.delete(ws);
      clearTimeout(watchdog);
      opening.resolve(session);
      if (slot === undefined) return ws.close(1000);
      tally.opened++;
      open.add(session);
      if (ledger.dialect === "plain") {
        ws.ping();
        session.production = setInterval(() => ws.ping(), pingIntervalMs);
      }
      watch();
      const { server, session: id, instance, dialect } = ledger;
      const labels = { slot: slot.number, server, session: id, instance };
      log.each("session-opened", () => [`slot ${slot.number} on ${server}, ${dialect}`, labels]);
    }

    function onNotice(): void {
      beginEnding(session);
      noticed.resolve();
      const { server, notice } = ledger;
      log.each("shutdown-notice", () => [
        `slot ${slot!.number} from ${server}` + (notice ? `: ${count(notice.remaining, "message")} to come` : ""),
        { slot: slot!.number, server, session: ledger.session, remaining: notice?.remaining ?? null },
      ]);
      watch(); // another pace, another patience
      if (ledger.dialect === "plain") return;
      clearInterval(session.production);
      send(session, { type: "ACK", lastSeq: ledger.sentLast });
    }

    function onTimeout(): void {
      // After a pause of this process the answer may be here, unread: the sockets' turn comes before this.
      setImmediate(() => {
        if (ledger.openedAt === undefined) fail("timeout", `no HELLO within ${duration(settings.connectTimeoutMs)}`);
      });
    }

    function silentMs(): number {
      return performance.now() - (ledger.lastDataAt ?? ledger.openedAt!);
    }

    function watch(): void {
      const patienceMs = Math.max(settings.silenceTimeoutMs, 3 * ledger.dueMs);
      clearTimeout(watchdog);
      watchdog = setTimeout(() => {
        setImmediate(() => { // as above: what has arrived is read first
          if (ws.readyState !== ws.OPEN) return; // the closing handshake has its own time limit
          if (silentMs() < patienceMs) return watch();
          const silence = `nothing from ${ledger.server} for ${duration(silentMs())}`;
          log.each("session-silent", () => [`slot ${slot!.number}: ${silence}`, {
            slot: slot!.number,
            server: ledger.server,
            session: ledger.session,
          }, "warn"]);
          ws.terminate();
        });
      }, Math.min(MAX_TIMER_MS, Math.max(1, patienceMs - silentMs())));
    }

    function onClose(code: number, reason: Uint8Array): void {
      dialling.delete(ws);
      clearTimeout(watchdog);
      clearInterval(session.production);
      if (ledger.openedAt === undefined) return fail(broken ? "reset" : "other", `closed with ${code} before HELLO`);
      if (!open.delete(session)) return; // a probe
      const now = performance.now();
      if (code !== 1006) observe(ledger, { type: "CLOSE_FRAME", code, reason: reason.toString() }, now);
      // An error after the FIN concerns our own last words, not the server's.
      observe(ledger, { type: "END", how: fin ? "fin" : broken ? "reset" : "silence" }, now);
      const { server, how, received } = ledger;
      log.each("session-closed", () => [
        `slot ${slot!.number} on ${server} with ${code}, ${how}: received ${received}`,
        { slot: slot!.number, server, session: ledger.session, code, how, received, sent: ledger.sentLast },
      ]);
      beginEnding(session);
      ended.resolve();
    }
  }

  function beginEnding(session: Session): void {
    if (session.ending || stopping) return;
    session.ending = true;
    tally.inFlight++;
    const { instance, noticeAt, closeCode } = session.ledger;
    // A cut alone does not say that the server is going.
    if (endings.has(instance) || (noticeAt === undefined && closeCode !== 1001)) return;
    endings.set(instance, performance.now());
    if (endings.size > KEPT_ENDINGS) endings.delete(endings.keys().next().value!);
  }

  function checkSteady(slot: Slot, ledger: Ledger): void {
    if (slot.steady || !isSteady(ledger)) return;
    slot.steady = true;
    if (++tally.steady === slots.length) {
      log.line("steady", `${count(slots.length, "session")} confirmed in both directions`, { sessions: slots.length });
    }
  }

  // ---- Messages to the server

  function send(session: Session, frame: Frame): void {
    if (frame.type === "ACK") observe(session.ledger, frame, performance.now());
    session.ws.send(encode(frame), ignore); // what does not arrive stays unconfirmed, and is sent again
  }

  /** First what the last session left unconfirmed, with its numbers; then a new message at once and one every interval. */
  function startProducing(slot: Slot, session: Session): void {
    const { ledger, ws } = session;
    if (ledger.dialect === "plain" || ledger.noticeAt !== undefined || ws.readyState !== ws.OPEN) return;
    for (let seq = slot.confirmed + 1; seq <= slot.lastSeq; seq++) sendData(session, seq, true);
    produce(slot, session);
    session.production = setInterval(produce, settings.intervalMs, slot, session);
  }

  function produce(slot: Slot, session: Session): void {
    if (session.ws.readyState !== session.ws.OPEN) return;
    if (session.ws.bufferedAmount > MAX_BUFFER_BYTES) return;
    if (slot.lastSeq - confirmedUpTo(session.ledger, slot.confirmed) >= MAX_UNCONFIRMED) return;
    sendData(session, ++slot.lastSeq, false);
    checkSteady(slot, session.ledger);
  }

  function sendData(session: Session, seq: number, again: boolean): void {
    const { ledger } = session;
    observe(ledger, { type: "SENT", seq, again }, performance.now());
    if (again) messages.resent++;
    messages.sent++;
    send(session, { type: "DATA", seq, at: timestamp(), ack: ledger.highest, ...payload });
  }

  // ---- Probes

  /** A fresh connection, as a new user would open it: only these show that new connections still reach an ending server. */
  async function probe(): Promise<void> {
    if (stopping || probing >= MAX_DIALS) return;
    probing++;
    const url = settings.url[probeTurn++ % settings.url.length]!;
    try {
      const { ledger } = await dial(url);
      probes.ok++;
      noteOnEnding(ledger.server);
      noteProbeOnEnding(ledger.instance === "" ? undefined : endings.get(ledger.instance));
    } catch (error) {
      if (!(error instanceof DialError)) throw error;
      if (stopping) return;
      const kind = error.kind === "refused" || error.kind === "503" || error.kind === "timeout" ? error.kind : "other";
      probes[kind]++;
      if (kind === "503") noteProbeOnEnding([...endings.values()].at(-1)); // it does not say who it is
      if (error.metNobody) noteOnEnding();
      log.each("probe-failed", () => [`${url}: ${error.message}`, { url, kind: error.kind }, "warn"]);
    } finally {
      probing--;
    }
  }

  function noteProbeOnEnding(endingSince: number | undefined): void {
    if (endingSince !== undefined) probes.lastOnEndingMs = Math.round(performance.now() - endingSince);
  }

  // ---- The cluster: what it shows, and what the drill does to it

  function observeWatch(stream: Stream, type: WatchType, objects: KubernetesObject[]): void {
    const atMs = sinceStart();
    const news = objects.flatMap((object) => observeCluster(cluster, stream, type, object, atMs));
    if (stream === "pods" && type === "LISTED") news.push(...observeMissing(cluster, objects, atMs));
    for (const [{ name, uid }, { kind, text, code, reason }] of news) {
      const labels = { pod: name, uid, kind };
      if (text.startsWith("endpoint")) log.line("endpoint", `${name}: ${text}`, labels);
      else {
        const level = kind === "prestop-failed" ? "warn" : "info";
        log.line("pod", `${name}: ${text}`, { ...labels, code: code ?? null, reason: reason ?? null }, level);
      }
    }
  }

  function onWatchLost(stream: Stream, { message }: Error): void {
    log.each("watch-lost", () => [`${stream}: ${message}: opening it again`, { stream }, "warn"]);
  }

  function podAt(address: string | undefined): Pod | undefined {
    return [...cluster.pods.values()].find((pod) => pod.address === address && !when(pod, "gone"));
  }

  function noteDial(redial: Redial, url: string): void {
    if (api === undefined) return;
    const ready = readyEndpoints(cluster, new URL(url).hostname.split(".")[0]!);
    redial.readyEndpoints = Math.min(redial.readyEndpoints ?? ready, ready);
  }

  /** A new connection met a pod after its deletion: this one, or (refused, 503) the one that was deleted last. */
  function noteOnEnding(server?: string, redial?: Redial): void {
    const ending = [...cluster.pods.values()]
      .filter((pod) => when(pod, "deleted") && !when(pod, "gone") && (server ?? pod.name) === pod.name)
      .sort((a, b) => when(b, "deleted")!.atMs - when(a, "deleted")!.atMs)[0];
    if (ending === undefined) return;
    const lastMs = Math.round(sinceStart() - when(ending, "deleted")!.atMs);
    drill.dialsOnEnding++;
    drill.lastOnEndingMs = Math.max(drill.lastOnEndingMs, lastMs);
    if (redial !== undefined) redial.lastOnEndingMs = lastMs;
  }

  /** Names the pod of every handover, and the cause of a failed one, as soon as the evidence is in. */
  function diagnoseAll(): void {
    for (const handover of undiagnosed) {
      const pod = podOf(cluster, handover);
      handover.pod = pod?.name ?? null;
      if (!isEvidenceComplete(pod, handover, sinceStart())) continue;
      undiagnosed.delete(handover);
      const found = diagnose(handover, pod);
      if (found === null) continue;
      const { cause, evidence } = Object.assign(handover, found);
      const entry = symptoms[handover.symptom!]!.causes[cause] ??= { count: 0, evidence };
      entry.count++;
      const labels = { slot: handover.slot, symptom: handover.symptom, cause, evidence, pod: handover.pod };
      log.each("diagnosis", () => [`slot ${handover.slot}: ${cause}, ${evidence}`, labels, "warn"]);
    }
  }

  async function runDrill(api: Api): Promise<void> {
    try {
      await disrupt(api);
      if (drill.awaiting === "") stopped.resolve(`${settings.disrupt} is over`);
    } catch (problem) {
      if (api.closed.aborted) return;
      if (!(problem instanceof UserError)) throw problem;
      fatal = problem.message;
      stopped.resolve("the drill failed");
    }
  }

  /** Causes the disruption once every session is steady, and returns when all that it ended has been judged. */
  async function disrupt(api: Api): Promise<void> {
    const { disrupt: kind, targetDeployment, targetSelector } = settings;
    const deployment = `/apis/apps/v1/namespaces/${api.namespace}/deployments/${encodeURIComponent(targetDeployment)}`;
    const living = () => [...cluster.pods.values()].filter((pod) => !pod.finished && !when(pod, "gone"));
    const isCalm = () => tally.steady === slots.length && tally.inFlight === 0 && connected() === slots.length;
    const wait = (what: string, holds: () => boolean, patienceMs?: number) => {
      drill.awaiting = what;
      if (!holds()) log.line("disruption", `waiting for ${what}`);
      return until(holds, patienceMs);
    };

    const scaling = kind === "rollout" || kind === "scale-in";
    const found = scaling ? await api.json("get", "deployments", deployment) as DeploymentObject : undefined;
    const replicas = found?.spec.replicas ?? 1;
    if (found?.spec.paused) throw new UserError(`Cannot roll ${targetDeployment}: it is paused`);
    if (kind === "scale-in" && replicas < 2) {
      throw new UserError(
        `Cannot scale in ${targetDeployment}: it has ${count(replicas, "replica")}, and two are needed`,
      );
    }
    if (!await wait(`${count(slots.length, "session")} to be steady`, isCalm)) return;
    const settled = () => isCalm() && living().every(({ ready }) => ready);
    if (!await wait(`every pod of ${targetSelector} to be ready`, settled, SETTLE_TIMEOUT_MS)) {
      if (stopping) return;
      log.line("disruption", "going on: not every pod is ready", {}, "warn");
      if (!await wait("steady sessions", isCalm)) return;
    }
    const before = living().filter((pod) => !when(pod, "deleted"));
    const held = before.find(({ name }) => name === slots[0]!.current?.ledger.server);
    const victim = held ?? before.find(({ ready }) => ready);
    if (victim === undefined) {
      throw new UserError(`No ready pod matches --target-selector ${targetSelector} in namespace ${api.namespace}`);
    }
    const path = `/api/v1/namespaces/${api.namespace}/pods/${victim.name}`;
    const ownPod = kind === "rollout" ? null : victim.name;

    if (kind === "scale-in") {
      const cost = (value: string | null) =>
        api.json("patch", "pods", path, { metadata: { annotations: { [DELETION_COST]: value } } });
      drill.undo.push(() =>
        cost(null).then(ignore, (problem) => {
          if (!(problem instanceof ApiError && problem.status === 404)) throw problem; // it went with the pod
        })
      );
      await cost("-2147483647");
      // Once our watch has it, the controllers' watches have it too, or are about to.
      if (!await wait("the pod's deletion cost", () => victim.deletionCost !== null)) return;
    }
    drill.disruption = { kind, pod: ownPod, atMs: sinceStart() };
    drill.awaiting = `the ${kind}`;
    log.line("disruption", `${kind} ${ownPod ?? targetDeployment}`, {
      kind,
      pod: ownPod,
      deployment: scaling ? targetDeployment : null,
    });
    switch (kind) {
      case "delete":
      case "force": {
        const options = { preconditions: { uid: victim.uid }, ...kind === "force" ? { gracePeriodSeconds: 0 } : {} };
        await api.json("delete", "pods", path, { apiVersion: "v1", kind: "DeleteOptions", ...options });
        break;
      }
      case "evict":
        if (!await evict(api, victim, path)) return;
        break;
      case "rollout": {
        const annotations = { "kubectl.kubernetes.io/restartedAt": timestamp() };
        await api.json("patch", "deployments", deployment, { spec: { template: { metadata: { annotations } } } });
        break;
      }
      case "scale-in": {
        // Restored only from what we made of it: another hand may have scaled meanwhile.
        const scale = (from: number, to: number) =>
          api.json("patch", "deployments/scale", `${deployment}/scale`, [
            { op: "test", path: "/spec/replicas", value: from },
            { op: "replace", path: "/spec/replicas", value: to },
          ]);
        drill.undo.push(async () => {
          if (!scaled) return;
          const problem = await scale(replicas - 1, replicas).then(ignore, (problem) => problem);
          if (problem instanceof ApiError && problem.status === 422) {
            return log.line("disruption", "another hand has scaled meanwhile: left as it is", {}, "warn");
          }
          if (problem !== undefined) throw problem;
          log.line("disruption", `${targetDeployment} has ${count(replicas, "replica")} again`);
        });
        let scaled = true; // until the API says no
        await scale(replicas, replicas - 1).catch((problem) => {
          if (problem instanceof ApiError && problem.status === 403) scaled = false;
          throw problem;
        });
      }
    }

    const ended = () => disruptedPods().filter((pod) => kind !== "rollout" || before.includes(pod));
    const isOver = (pod: Pod) => {
      const deletedMs = when(pod, "deleted")!.atMs;
      const isPlain = slots.some(({ current }) => current?.ledger.instance === "");
      const ends = pod.moments.filter(({ kind, atMs }) => (kind === "exit" && atMs >= deletedMs) || kind === "gone");
      const end = ends[0]?.atMs ?? Infinity;
      // Who does not say which pod it is may still be silent, and unnoticed.
      return sinceStart() > Math.min(end, deletedMs + pod.graceMs + 5000) + (isPlain ? settings.silenceTimeoutMs : 0);
    };
    const holds = (pod: Pod) => slots.some(({ current }) => isOpen(current) && current!.ledger.server === pod.name);
    const least = kind === "rollout" ? before.length : 1;
    const whose = kind === "rollout"
      ? `${count(least, "pod")} of ${targetDeployment} to be replaced`
      : "the pod to end";
    if (!await wait(whose, () => ended().length >= least && ended().every((pod) => isOver(pod) && !holds(pod)))) return;
    const ready = () => living().filter((pod) => pod.ready && !before.includes(pod)).length;
    if (kind === "rollout" && !await wait("the new ReplicaSet", () => ready() >= replicas)) return;
    if (
      !await wait("every session to be connected again", () => tally.inFlight === 0 && connected() === slots.length)
    ) {
      return;
    }
    if (!await wait("the last evidence", () => undiagnosed.size === 0)) return;
    if (await wait(`${settings.handovers} handovers`, () => judged() >= settings.handovers)) drill.awaiting = "";
  }

  /** Asks until the PodDisruptionBudget allows it; false once the run is stopping. */
  async function evict(api: Api, { name, uid }: Pod, path: string): Promise<boolean> {
    const body = {
      apiVersion: "policy/v1",
      kind: "Eviction",
      metadata: { name, namespace: api.namespace },
      deleteOptions: { preconditions: { uid } },
    };
    while (!stopping) {
      try {
        await api.json("create", "pods/eviction", `${path}/eviction`, body);
        return true;
      } catch (problem) {
        if (!(problem instanceof ApiError) || problem.status !== 429) throw problem;
        drill.awaiting = `the eviction: ${problem.message}`;
        log.line("disruption", `${problem.message}; again in ${duration(problem.retryMs)}`, { pod: name }, "warn");
        await Promise.race([pause(problem.retryMs), stopped.promise]);
      }
    }
    return false;
  }

  /** The pods that ended since the disruption; all that ended, where the client only looks on. */
  function disruptedPods(): Pod[] {
    const { atMs } = drill.disruption ?? { atMs: 0 };
    return [...cluster.pods.values()].filter((pod) => (when(pod, "deleted")?.atMs ?? -1) >= atMs);
  }

  async function undoAll(): Promise<void> {
    for (const step of drill.undo.reverse()) {
      try {
        await step();
      } catch (problem) {
        if (!(problem instanceof UserError)) throw problem;
        drill.failure = `the workload is not as it was: ${problem.message}`;
        log.line("disruption", drill.failure, {}, "error");
      }
    }
  }

  async function exportMetrics(): Promise<void> {
    metrics = await createMetrics("client");
    metrics.gauge("sessions", "Connected sessions", connected);
    metrics.counter("handovers_total", "Handovers by verdict and symptom", ["verdict", "symptom"], () => [
      [{ verdict: "graceful", symptom: "" }, counts.graceful],
      ...Object.keys(REMEDIES).map((symptom): [Record<string, string>, number] => [
        { verdict: "failed", symptom },
        symptoms[symptom as Symptom]?.count ?? 0,
      ]),
    ]);
    metrics.counter(
      "messages_total",
      "Messages by direction",
      ["direction"],
      () => byLabel("direction", { sent: messages.sent, received: messages.received }),
    );
    metrics.counter(
      "messages_lost_total",
      "Lost messages by direction",
      ["direction"],
      () => byLabel("direction", { down: messages.lost - tally.lostUp, up: tally.lostUp }),
    );
    const none = Object.fromEntries(
      ["ok", "503", "401", "other", ...Object.values(DIAL_ERRORS)].map((kind) => [kind, 0]),
    );
    metrics.counter(
      "dials_total",
      "Dials of sessions by result",
      ["result"],
      () => byLabel("result", { ...none, ...failedDials, ok: tally.opened }),
    );
    const reconnect = metrics.histogram("reconnect_seconds", "From a session's end to the next: forced, and in all", [
      { kind: "forced" },
      { kind: "total" },
    ]);
    const silence = metrics.histogram("silence_seconds", "From the last message of a session to the first of the next");
    const notice = metrics.histogram("notice_seconds", "From SHUTDOWN to a session's end");
    measure = ({ to, forcedMs, reconnectMs, silenceMs, noticeMs }) => {
      if (to !== null) {
        reconnect(forcedMs, { kind: "forced" });
        reconnect(reconnectMs, { kind: "total" });
      }
      silence(silenceMs);
      notice(noticeMs);
    };
  }

  // ---- The result

  function makeResult(): Result {
    const tooFew = judged() < settings.handovers;
    const drillFailure = whyNoDrill();
    const verdict = counts.failed > 0 || tooFew || drillFailure !== null || tally.opened === 0 ? "FAIL" : "PASS";
    const durationMs = Math.round(performance.now() - origin);
    const reconnect = spread(handovers.filter(({ to }) => to !== null).map(({ reconnectMs }) => reconnectMs));
    const summary = [
      verdict,
      counts.failed > 0
        ? `${grouped(counts.failed)} of ${count(judged(), "handover")}: ` +
          Object.entries(symptoms).map(([name, { count, servers, causes }]) =>
            `${name} ×${count} (${listed(servers)})` +
            Object.entries(causes).map(([cause, { evidence }]) => `, cause ${cause}: ${evidence}`).join("")
          ).join("; ")
        : drillFailure !== null
        ? drillFailure
        : tooFew
        ? `${judged()} of ${count(settings.handovers, "handover")} happened within ${duration(durationMs)}`
        : `${count(judged(), "handover")}${more(counts.unfinished, "unfinished")}, ${
          count(messages.lost, "message")
        } lost` +
          (reconnect.p99Ms === null ? "" : `, reconnect p99 ${duration(reconnect.p99Ms)}`),
    ].join("  ");
    return {
      verdict,
      summary: printable(summary),
      version: VERSION,
      startedAt,
      durationMs,
      sessions: { wanted: slots.length, connected: connected(), byServer: countServers() },
      open: sample(slots.filter(({ current }) => isOpen(current))).map(({ number, current }) => {
        const { server, openedAt } = current!.ledger;
        return { slot: number, server, openedMs: since(openedAt)! };
      }),
      inFlight: sample(slots.filter(({ current }) => current?.ending)).map(({ number, current }) => {
        const { server, openedAt, noticeAt, endedAt } = current!.ledger;
        return {
          slot: number,
          from: server,
          openedMs: since(openedAt),
          toldMs: since(noticeAt),
          endedMs: since(endedAt),
        };
      }),
      messages: { ...messages },
      counts: { ...counts },
      symptoms,
      reconnect,
      silence: spread(handovers.flatMap(({ silenceMs }) => silenceMs ?? [])),
      failedDials,
      probes,
      disruption: drill.disruption,
      failure: drillFailure,
      pods: [...cluster.pods.values()].filter((pod) => when(pod, "deleted") || when(pod, "exit"))
        .sort((a, b) => a.moments[0]!.atMs - b.moments[0]!.atMs),
      findings: findFindings(),
      settings,
      handovers,
    };
  }

  function countServers(): Record<string, number> {
    const servers: Record<string, number> = {};
    for (const { ledger: { server } } of open) servers[server] = (servers[server] ?? 0) + 1;
    return servers;
  }

  /** Why a drill proves nothing, whatever became of the handovers. */
  function whyNoDrill(): string | null {
    if (drill.failure !== "") return drill.failure;
    if (drill.awaiting !== "") return `${settings.disrupt} is not over: waiting for ${drill.awaiting}`;
    if (drill.disruption === null) return null;
    const names = new Set(disruptedPods().map(({ name }) => name));
    const held = handovers.some(({ pod, verdict }) => verdict !== "unfinished" && pod !== null && names.has(pod));
    return held ? null : `no session was on ${[...names].join(", ")}: nothing to judge`;
  }

  function findFindings(): Result["findings"] {
    const findings: Result["findings"] = [];
    const { lastOnEndingMs } = probes;
    if (drill.dialsOnEnding > 0) {
      const seconds = Math.ceil(drill.lastOnEndingMs / 1000) + 1;
      const preStopMs = Math.max(...disruptedPods().map((pod) => pod.preStopMs));
      const reached = `${count(drill.dialsOnEnding, "new connection")} met a pod after its deletion, the last at ` +
        `+${duration(drill.lastOnEndingMs)}; its preStop.sleep is ${preStopMs / 1000}s`;
      findings.push({
        name: "ENDPOINT_RACE",
        text: preStopMs >= seconds * 1000 ? `${reached}, which covers it` : `${reached}: make it ${seconds}s or more`,
      });
    } else if (api === undefined && lastOnEndingMs !== null && settings.url.length === 1) {
      // With several URLs nobody routes new connections but we ourselves.
      const text = `a new connection still reached the ending server at +${duration(lastOnEndingMs)}`;
      findings.push({ name: "ENDPOINT_RACE", text: `${text}: preStop.sleep longer than that` });
    }
    const failedOn = new Set(handovers.filter(({ verdict }) => verdict === "failed").map(({ pod }) => pod));
    for (const pod of disruptedPods().filter(({ name }) => !failedOn.has(name))) {
      const tell = (name: string, text: string) => findings.push({ name, text: `${pod.name}: ${text}` });
      const hook = when(pod, "prestop-failed");
      if (hook !== undefined) tell("PRESTOP_FAILED", `${hook.text}; ${CAUSES.PRESTOP_FAILED[1]}`);
      if (pod.forced) tell("FORCE_DELETED", "deleted with a grace of 0, and survived by the 2s that kubelet leaves");
      else if (wasKilledAtGrace(pod)) {
        tell(
          "EXIT_HUNG",
          `all its sessions had moved, but it had to be killed after ${pod.graceMs / 1000}s of grace`,
        );
      }
    }
    return findings;
  }
}

/** What proves who we are and who the server is, as the files have it now. */
function followSecurity(settings: Settings, log: Log): { tls: SecureContextOptions; tokens: string[] } {
  const { tlsCa, tlsCert, tlsKey, tokenFile } = settings;
  const security = { tls: { minVersion: "TLSv1.2" } as SecureContextOptions, tokens: [] as string[] };
  const refused = (file: string) => (message: string) =>
    log.line("tls-refused", `${message}: the old one stays`, { file }, "error");
  if (tlsCa !== "") {
    followFiles({ "tls-ca": tlsCa }, ([ca]) => {
      checkCertificates(ca!);
      security.tls = { ...security.tls, ca };
    }, refused(tlsCa));
  }
  if (tlsCert !== "") {
    followFiles({ "tls-cert": tlsCert, "tls-key": tlsKey }, ([cert, key]) => {
      checkPair(cert!, key!);
      security.tls = { ...security.tls, cert, key };
    }, refused(tlsCert));
  }
  if (tokenFile !== "") {
    const use = ([text]: string[]) => {
      security.tokens = [parseToken(text!), ...security.tokens].slice(0, 2);
      log.line("token-loaded", tokenFile, { file: tokenFile });
    };
    const stays = (message: string) =>
      log.line("token-refused", `${message}: the old one stays`, { file: tokenFile }, "error");
    followFiles({ "token-file": tokenFile }, use, stays);
  }
  return security;
}

// ---- The Kubernetes API, as a pod reaches it

type WatchType = "LISTED" | "ADDED" | "MODIFIED" | "DELETED";
type Api = ReturnType<typeof createApi>;
interface DeploymentObject {
  spec: { replicas?: number; paused?: boolean };
}

/** ReplicaSet: a lower cost goes first (Kubernetes reference, well-known annotations). */
const DELETION_COST = "controller.kubernetes.io/pod-deletion-cost";
/** How long the API server keeps a watch open: a connection that died unnoticed is replaced soon after. */
const WATCH_SECONDS = 60;
/** How long one call may take, and how often it is tried when the server cannot answer it. */
const CALL_TIMEOUT_MS = 10_000;
const CALL_ATTEMPTS = 4;

/** An answer that is none; `status` 0 where none came. */
class ApiError extends UserError {
  readonly status: number;
  readonly retryMs: number;
  constructor(status: number, message: string, retryMs = 5000) {
    super(message);
    this.status = status;
    this.retryMs = retryMs;
  }
}

/** Plain fetch with the mounted token. Throws `UserError` where there is no service account. */
function createApi(folder: string) {
  const { KUBERNETES_SERVICE_HOST: host, KUBERNETES_SERVICE_PORT: port } = process.env;
  if (!host || !port) {
    throw new UserError("--disrupt works in a pod: KUBERNETES_SERVICE_HOST and _PORT are not set here");
  }
  const base = `https://${host.includes(":") ? `[${host}]` : host}:${port}`;
  const read = (file: string): string => {
    try {
      return readFileSync(`${folder}/${file}`, "utf8").trim();
    } catch (error) {
      throw new UserError(`--disrupt needs a service account: ${(error as Error).message}`);
    }
  };
  const namespace = read("namespace");
  const closed = new AbortController();

  /** Verb and resource as RBAC names them. Throws `ApiError`. */
  async function call(verb: string, resource: string, path: string, body?: unknown): Promise<Response> {
    const method = { delete: "DELETE", create: "POST", patch: "PATCH" }[verb] ?? "GET";
    const patch = Array.isArray(body) ? "json-patch" : "merge-patch";
    const contentType = verb === "patch" ? `application/${patch}+json` : "application/json";
    const patienceMs = CALL_TIMEOUT_MS + (verb === "watch" ? WATCH_SECONDS * 1000 : 0);
    for (let attempt = 1;; attempt++) {
      const signal = AbortSignal.any([closed.signal, AbortSignal.timeout(patienceMs)]);
      // Read each time: kubelet renews it.
      const headers = { authorization: `Bearer ${read("token")}`, "content-type": contentType };
      let problem: ApiError;
      try {
        const response = await fetch(base + path, {
          method,
          headers,
          signal,
          ...body === undefined ? {} : { body: JSON.stringify(body) },
        });
        if (response.ok) return response;
        const text = await response.text();
        const seconds = Number(response.headers.get("retry-after"));
        const what = `Cannot ${verb} ${resource} in namespace ${namespace}: HTTP ${response.status}, ${reasonIn(text)}`;
        problem = new ApiError(response.status, what, seconds > 0 ? seconds * 1000 : undefined);
      } catch (error) {
        closed.signal.throwIfAborted();
        const { cause, message } = error as Error & { cause?: { code?: string; message?: string } };
        problem = new ApiError(0, `Cannot ${verb} ${resource} at ${base}: ${cause?.code ?? cause?.message ?? message}`);
      }
      if (attempt === CALL_ATTEMPTS || (problem.status !== 0 && problem.status < 500)) throw problem;
      await pause(backoffMs(attempt, { baseMs: 200, capMs: 5000 }));
    }
  }

  return {
    namespace,
    call,
    /** The body of the answer; that of a pod which is gone already is null to a delete. */
    json: async (verb: string, resource: string, path: string, body?: unknown): Promise<unknown> => {
      try {
        return JSON.parse(await (await call(verb, resource, path, body)).text());
      } catch (error) {
        if (verb === "delete" && error instanceof ApiError && error.status === 404) return null;
        if (error instanceof SyntaxError) {
          throw new ApiError(0, `Cannot ${verb} ${resource} at ${base}: what came is no JSON`);
        }
        throw error;
      }
    },
    closed: closed.signal,
    close: () => closed.abort(),
  };
}

/** The message of a Status object, or the beginning of what came instead. */
function reasonIn(text: string): string {
  try {
    return String(JSON.parse(text).message);
  } catch {
    return text.slice(0, 200);
  }
}

/** Opens the three watches; resolves when the last one is open, and keeps them open until the API is closed. */
async function followAll(
  api: Api,
  selector: string,
  observe: (stream: Stream, type: WatchType, objects: KubernetesObject[]) => void,
  lost: (stream: Stream, error: Error) => void,
): Promise<void> {
  const namespace = `namespaces/${api.namespace}`;
  const failed = encodeURIComponent("reason=FailedPreStopHook");
  await Promise.all([
    follow("pods", `/api/v1/${namespace}/pods?labelSelector=${encodeURIComponent(selector)}`),
    follow("endpointslices", `/apis/discovery.k8s.io/v1/${namespace}/endpointslices?`),
    follow("events", `/api/v1/${namespace}/events?fieldSelector=${failed}`),
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
          const { body } = await api.call("watch", stream, `${path}&${options}`);
          isOpen = true;
          opened.resolve();
          for await (const line of linesOf(body!)) {
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

// ---- The result as text

/** Pods whose timeline the text shows. */
const SHOWN_PODS = 10;

/** The result for people: what happened, each handover or the telling ones, what to do; the verdict is the last line. */
export function render(result: Result): string {
  const { handovers, messages, counts, reconnect, silence, failedDials, probes, settings: { expect } } = result;
  const failed = handovers.filter(({ verdict }) => verdict === "failed");
  // A few are shown each; of many, one of every symptom.
  const shown = handovers.length <= 5
    ? handovers
    : failed.filter(({ symptom }, index) => failed.findIndex((other) => other.symptom === symptom) === index);
  const dials = Object.entries(failedDials).map(([kind, number]) => `${kind} ×${number}`);
  const probed = Object.entries(probes).filter(([kind, number]) => kind !== "lastOnEndingMs" && number);
  const facts: [string, string | false][] = [
    ["Disruption", result.disruption !== null && describe(result.disruption)],
    ["Handovers", `${counts.graceful} graceful, ${counts.failed} failed` + more(counts.unfinished, "unfinished")],
    [
      "Messages",
      `${grouped(messages.received)} received, ${grouped(messages.sent)} sent, ${messages.lost} lost` +
      more(messages.duplicated, "duplicated") + more(messages.reordered, "reordered") +
      more(messages.resent, "sent again"),
    ],
    ["Reconnect", percentiles(reconnect)],
    ["Silence", percentiles(silence)],
    ["Failed dials", dials.length > 0 && dials.join(", ")],
    ["Probes", probed.length > 0 && probed.map(([kind, number]) => `${kind} ×${number}`).join(", ")],
  ];
  const paint = result.verdict === "PASS" ? kleur.green : kleur.red;
  return [
    "",
    ...facts.flatMap(([name, text]) => text === false ? [] : [`${kleur.bold(name.padEnd(12))} ${text}`]),
    ...shown.flatMap((handover) => renderHandover(handover, expectedRules(expect, handover.dialect))),
    ...failed.length > shown.length
      ? ["", `${count(failed.length - shown.length, "more failed handover")} like these`]
      : [],
    ...Object.entries(result.symptoms).flatMap(([name, entry]) => renderSymptom(name as Symptom, entry)),
    ...result.pods.slice(0, SHOWN_PODS).flatMap((pod) => renderPod(pod, result)),
    ...result.pods.length > SHOWN_PODS ? ["", `${count(result.pods.length - SHOWN_PODS, "more pod")}: see --json`] : [],
    ...result.findings.map(({ name, text }) => `\n${kleur.yellow(name)}  ${text}`),
    "",
    paint(kleur.bold(result.summary)),
    "",
  ].join("\n");
}

function renderHandover(handover: Handover, expected: readonly Rule[]): string[] {
  if (handover.verdict === "unfinished") return ["", printable(headline(handover))];
  const { rules, noticeMs, remaining, code, reason, how, complaint, reconnectMs, chosenMs, forcedMs, silenceMs } =
    handover;
  const dials = Object.entries(handover.failedDials).map(([kind, number]) => `, ${kind} ×${number}`).join("");
  const came = remaining === null
    ? ""
    : remaining.announced === null
    ? `, ${count(remaining.received, "message")} after it`
    : `, ${remaining.received} of ${remaining.announced} remaining messages came`;
  const end = code === null ? "no close frame" : `close frame ${code}${reason && ` "${reason}"`}`;
  const said: Record<Rule, string> = {
    notice: noticeMs === null ? "no SHUTDOWN" : `SHUTDOWN ${duration(noticeMs)} before the end${came}`,
    complete: `${count(handover.received, "message")}${renderDisorder(handover)}`,
    farewell: renderFarewell(handover),
    clean: complaint === null ? `${end}, ${HOW[how ?? "silence"]}` : `we gave it up: ${complaint}`,
    moved: handover.to === null
      ? `nowhere after ${duration(reconnectMs)}${dials}`
      : `${duration(reconnectMs)} = ${duration(chosenMs)} chosen + ${duration(forcedMs)} forced${dials}` +
        (silenceMs === null ? "" : `; silence ${duration(silenceMs)}`),
  };
  const marks = { pass: kleur.green("pass"), fail: kleur.red("FAIL"), "n/a": kleur.dim("n/a ") };
  const mark = (rule: Rule) =>
    rules[rule] === "fail" && !expected.includes(rule) ? kleur.dim("no  ") : marks[rules[rule]];
  return [
    "",
    printable(headline(handover)),
    ...RULES.map((rule) => `  ${rule.padEnd(9)} ${mark(rule)}  ${printable(said[rule])}`),
    ...handover.cause === null ? [] : [printable(`  cause     ${handover.cause}: ${handover.evidence}`)],
  ];
}

/** What happened to a pod and to its sessions, from its deletion (or its first exit) on. */
export function timeline(pod: Pod, { handovers, disruption }: Result): { atMs: number; text: string }[] {
  const zero = (when(pod, "deleted") ?? when(pod, "exit"))?.atMs ?? 0;
  const own = handovers.filter((handover) => handover.pod === pod.name && (handover.endedMs ?? 0) >= zero - 1000);
  const sessions = (what: string, times: (number | null)[]) => {
    const known = times.filter((atMs) => atMs !== null).sort((a, b) => a - b);
    if (known.length === 0) return [];
    const lastMs = known.at(-1)! - zero;
    const until = lastMs - (known[0]! - zero) > 100 ? `, the last at ${signed(lastMs)}` : "";
    return [{ atMs: known[0]!, text: `${what}: ${count(known.length, "session")}${until}` }];
  };
  const noticed = own.filter(({ noticeMs }) => noticeMs !== null);
  const toldMs = ({ endedMs, noticeMs }: Handover) => endedMs! - noticeMs!;
  const deleted = when(pod, "deleted");
  const sigterm = deleted === undefined || pod.forced ? [] : [{
    atMs: deleted.atMs + pod.preStopMs,
    text: pod.preStopMs > 0 ? `SIGTERM at the earliest: preStop.sleep is over` : "SIGTERM at the earliest",
  }];
  return [
    ...disruption === null || disruption.pod !== pod.name ? [] : [{ atMs: disruption.atMs, text: disruption.kind }],
    ...pod.moments,
    ...sigterm,
    ...sessions("SHUTDOWN", noticed.map(toldMs)),
    ...sessions("CLOSE", noticed.map((handover) => handover.drainMs && toldMs(handover) + handover.drainMs)),
    ...sessions("ended", own.map(({ endedMs }) => endedMs)),
    ...sessions("reconnected", own.map(({ endedMs, reconnectMs, to }) => to === null ? null : endedMs! + reconnectMs)),
  ].map(({ atMs, text }) => ({ atMs: atMs - zero, text })).sort((a, b) => a.atMs - b.atMs);
}

function renderPod(pod: Pod, result: Result): string[] {
  return [
    "",
    kleur.bold(printable(pod.name)),
    ...timeline(pod, result).map(({ atMs, text }) => printable(`  ${signed(atMs).padStart(8)}  ${text}`)),
  ];
}

const signed = (ms: number): string => `${ms < 0 ? "-" : "+"}${duration(Math.abs(ms))}`;

function describe({ kind, pod, atMs }: NonNullable<Result["disruption"]>): string {
  return `${kind}${pod === null ? "" : ` of ${pod}`}, ${duration(atMs)} after the start`;
}

function renderDisorder({ dialect, lost, duplicated, reordered }: Handover): string {
  if (dialect === "plain") return " without numbers";
  const kinds = [["lost", lost], ["twice", duplicated], ["late", reordered]] as const;
  const disorder = kinds.filter(([, list]) => list.length > 0).map(([kind, list]) => `, ${kind} seq ${ranges(list)}`);
  return disorder.join("") || ", none lost, duplicated or late";
}

function renderFarewell({ close, drainMs, received, lastSent, rules }: Handover): string {
  if (close === null) return drainMs === null ? "no CLOSE" : "CLOSE";
  const said = `CLOSE counts ${close.sent} sent, up to seq ${close.received} received`;
  return rules.farewell === "fail" ? `${said}; here ${received} came, up to seq ${lastSent} went` : said;
}

const HOW = { fin: "FIN", reset: "a socket error", silence: "no FIN" };

function headline({ slot, from, to, verdict, symptom }: Handover): string {
  return `slot ${slot}: ${from} → ${to ?? "nowhere"}  ${symptom ?? verdict}`;
}

function renderSymptom(name: Symptom, { causes }: SymptomCount): string[] {
  const [meaning, remedy] = REMEDIES[name];
  const known = Object.entries(causes).map(([cause, { count, evidence }]) => {
    const [what, fix] = CAUSES[cause as Cause];
    return `  Cause: ${cause} ×${count}, ${evidence}\n    ${what} → ${fix}`;
  });
  const advice = typeof remedy === "string" ? [`  Fix: ${remedy}`] : known.length > 0 ? [] : [
    "  Candidate causes, and what to do:",
    ...remedy.map((cause) => `    ${cause.padEnd(18)} ${CAUSES[cause].join(" → ")}`),
  ];
  return ["", `${kleur.yellow(name)}  ${meaning}`, ...known, ...advice];
}

// ---- The result as a page, for CI systems, as JSON

/** How a report is written, by the ending of its file. */
const REPORTS: Record<string, (result: Result) => string> = {
  json: (result) => `${toJson(result)}\n`,
  html: renderPage,
  xml: renderJunit,
  md: renderMarkdown,
};

/** Put there by build.mjs: the bundle carries the page as text. */
declare const REPORT_PAGE: string | undefined;

/** The page that draws a result; without one it draws what `/events` tells. */
export function renderPage(result?: Result): string {
  const data = result === undefined ? "" : pageData(result);
  return readPage().replace('id="result"></script>', () => `id="result">${data}</script>`);
}

function readPage(): string {
  return typeof REPORT_PAGE === "string" ? REPORT_PAGE : readFileSync(new URL("report.html", import.meta.url), "utf8");
}

/** The page may run its own script, have its own style, and ask `/events`: nothing else, from nowhere else. */
function securityHeaders(page: string): Record<string, string> {
  const hashOf = (pattern: RegExp) =>
    `'sha256-${createHash("sha256").update(pattern.exec(page)?.[1] ?? "").digest("base64")}'`;
  const [script, style] = [hashOf(/<script>([^]*?)<\/script>/), hashOf(/<style>([^]*?)<\/style>/)];
  const own = `script-src ${script}; style-src ${style}; connect-src 'self'; img-src data:`;
  return {
    "content-security-policy":
      `default-src 'none'; ${own}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
    "x-content-type-options": "nosniff",
  };
}

/** What of a handover the picture needs: one row of numbers for each, since there may be thousands. */
const ROW_FIELDS = [
  ...["slot", "from", "to", "openedMs", "endedMs", "lastDataMs", "noticeMs", "drainMs"],
  ...["reconnectMs", "forcedMs", "silenceMs", "verdict", "symptom"],
];

/** The result as the page reads it: a few handovers in full, all as rows, and the advice; JSON that may stand in HTML. */
export function pageData(result: Result, running = false): string {
  const servers = new Map<string, number>();
  const symptoms = new Map<string, number>();
  const place = (names: Map<string, number>, name: string | null): number | null => {
    if (name === null) return null;
    if (!names.has(name)) names.set(name, names.size);
    return names.get(name)!;
  };
  const verdicts = ["graceful", "failed", "unfinished"];
  const values = result.handovers.map((handover) => [
    handover.slot,
    place(servers, handover.from),
    place(servers, handover.to),
    handover.openedMs,
    handover.endedMs,
    handover.lastDataMs,
    handover.noticeMs,
    handover.drainMs,
    handover.reconnectMs,
    handover.forcedMs,
    handover.silenceMs,
    verdicts.indexOf(handover.verdict),
    place(symptoms, handover.symptom),
  ]);
  const failed = result.handovers.filter(({ verdict }) => verdict === "failed");
  const others = result.handovers.filter(({ verdict }) => verdict !== "failed");
  const data = {
    ...result,
    running,
    handovers: [...failed, ...others].slice(0, SHOWN_HANDOVERS),
    rows: { servers: [...servers.keys()], symptoms: [...symptoms.keys()], fields: ROW_FIELDS, values },
    advice: { ...REMEDIES, ...CAUSES },
  };
  return toJson(data).replace(
    /[<\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

/** Why a handover failed and what to do, in one line. */
function advise({ symptom, cause, evidence }: Handover): string {
  if (symptom === null) return "";
  const [meaning, remedy] = REMEDIES[symptom];
  const fix = cause !== null
    ? CAUSES[cause][1]
    : typeof remedy === "string"
    ? remedy
    : `it may be ${remedy.join(", ")}`;
  return `${symptom}: ${meaning}${cause === null ? "" : `; cause ${cause}: ${evidence}`}. What to do: ${fix}`;
}

/** JUnit's XML, as Jenkins and GitLab read it: a test case for each handover, and one for the run. */
export function renderJunit(result: Result): string {
  const text = (value: string) =>
    // deno-lint-ignore no-control-regex
    value.replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]/gu, "�")
      .replace(/[<>&"'\t\n\r]/g, (character) => `&#${character.charCodeAt(0)};`);
  const seconds = (ms: number) => (ms / 1000).toFixed(3);
  const testCase = (className: string, name: string, ms: number, outcome: string) =>
    `    <testcase classname="${text(className)}" name="${text(name)}" time="${seconds(ms)}">${outcome}</testcase>`;
  const failure = (type: string, message: string, body: string) =>
    `<failure type="${text(type)}" message="${text(message)}">${text(body)}</failure>`;
  const runFailed = result.verdict === "FAIL" && result.counts.failed === 0;
  const cases = result.handovers.map((handover) => {
    const { slot, from, to, verdict, symptom, reconnectMs, dialect } = handover;
    const rules = expectedRules(result.settings.expect, dialect).map((rule) => `${rule} ${handover.rules[rule]}`).join(
      ", ",
    );
    const name = `slot ${slot}: ${from} to ${to ?? "nowhere"} (${rules})`;
    const outcome = verdict === "unfinished"
      ? `<skipped message="on its way when the run ended"/>`
      : verdict === "failed"
      ? failure(symptom!, advise(handover), renderHandover(handover, RULES).join("\n"))
      : "";
    return testCase(`handover.${from}`, name, reconnectMs, outcome);
  });
  cases.push(
    testCase("run", "verdict", result.durationMs, runFailed ? failure("FAIL", result.summary, result.summary) : ""),
  );
  const failures = result.handovers.filter(({ verdict }) => verdict === "failed").length + (runFailed ? 1 : 0);
  const skipped = result.handovers.filter(({ verdict }) => verdict === "unfinished").length;
  const totals = `tests="${cases.length}" failures="${failures}" errors="0"`;
  const time = `time="${seconds(result.durationMs)}"`;
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    `<testsuites name="graceful shutdown" ${totals} ${time}>`,
    `  <testsuite name="handovers" ${totals} skipped="${skipped}" ${time} timestamp="${
      result.startedAt.slice(0, 19)
    }">`,
    ...cases,
    "  </testsuite>",
    "</testsuites>",
    "",
  ].join("\n");
}

/** A summary for the page of a CI job: verdict, numbers, the telling handovers, and a timeline that Mermaid draws. */
export function renderMarkdown(result: Result): string {
  // In code spans nothing is markup but the back tick, and in a table the bar.
  const code = (text: string) => `\`${printable(text).replace(/[`|]/g, "'")}\``;
  const telling = [...result.handovers].sort((a, b) => Number(b.verdict === "failed") - Number(a.verdict === "failed"));
  const shown = telling.slice(0, SHOWN_SESSIONS);
  const rows = shown.map((handover) => {
    const { slot, from, to, verdict, symptom, cause, reconnectMs, silenceMs } = handover;
    const silence = silenceMs === null ? "" : duration(silenceMs);
    return `| ${slot} | ${code(from)} | ${code(to ?? "nowhere")} | ${verdict} | ${symptom ?? ""} | ${cause ?? ""} | ` +
      `${duration(reconnectMs)} | ${silence} |`;
  });
  const { messages, reconnect, silence } = result;
  const advice = [...new Set(result.handovers.filter(({ verdict }) => verdict === "failed").map(advise))];
  return [
    `## ${result.verdict === "PASS" ? "✅" : "❌"} ${code(result.summary)}`,
    "",
    `${grouped(messages.received)} messages received, ${grouped(messages.sent)} sent, ${messages.lost} lost. ` +
    `Reconnect ${percentiles(reconnect) || "n/a"}. Silence ${percentiles(silence) || "n/a"}.`,
    ...advice.length > 0 ? ["", ...advice.slice(0, 10).map((line) => `- ${code(line)}`)] : [],
    ...result.findings.length > 0 ? ["", ...result.findings.map(({ name, text }) => `- ${name}: ${code(text)}`)] : [],
    ...rows.length > 0
      ? [
        "",
        "| slot | from | to | verdict | symptom | cause | reconnect | silence |",
        "|---|---|---|---|---|---|---|---|",
        ...rows,
      ]
      : [],
    ...telling.length > shown.length ? ["", `and ${grouped(telling.length - shown.length)} more`] : [],
    ...rows.length > 0 ? ["", "```mermaid", ...renderGantt(shown.slice(0, 10)), "```"] : [],
    "",
  ].join("\n");
}

/** Where each of some sessions was, and its silence, as a Gantt chart in Mermaid's words. */
function renderGantt(handovers: Handover[]): string[] {
  const name = (text: string) => text.replace(/[^\w.-]/g, "-").slice(0, 60);
  const ended = handovers.flatMap(({ endedMs }) => endedMs ?? []);
  const startMs = Math.max(0, Math.round(Math.min(...ended) - 3000));
  const untilMs = Math.round(
    Math.max(...handovers.map(({ endedMs, reconnectMs }) => (endedMs ?? 0) + reconnectMs)) + 2000,
  );
  const bar = (text: string, kind: string, fromMs: number, toMs: number) =>
    `    ${name(text)} :${kind}${Math.round(fromMs - startMs)}, ${Math.round(Math.max(toMs, fromMs + 1) - startMs)}`;
  return [
    "gantt",
    "    dateFormat x",
    "    axisFormat %S.%L",
    ...handovers.flatMap(({ slot, from, to, openedMs, endedMs, noticeMs, reconnectMs }) => {
      if (endedMs === null) return [];
      const toldMs = endedMs - (noticeMs ?? 0);
      const backMs = endedMs + reconnectMs;
      return [
        `    section slot ${slot}`,
        bar(from, "", Math.max(startMs, Math.min(openedMs ?? 0, toldMs)), toldMs),
        ...noticeMs === null ? [] : [bar("drain", "active, ", toldMs, endedMs)],
        bar("away", "crit, ", endedMs, backMs),
        ...to === null ? [] : [bar(to, "", backMs, untilMs)],
      ];
    }),
  ];
}

/** As many as a picture shows, evenly taken from all. */
const sample = <T>(all: T[]): T[] =>
  all.filter((_, index) => all.length <= SHOWN_SESSIONS || index % Math.ceil(all.length / SHOWN_SESSIONS) === 0);
const sum = (counts: Record<string, number>): number => Object.values(counts).reduce((all, one) => all + one, 0);
const size = (ranges: readonly Range[]): number => ranges.reduce((sum, [from, to]) => sum + to - from + 1, 0);
const more = (number: number, what: string): string => number === 0 ? "" : `, ${grouped(number)} ${what}`;
const listed = (names: string[]): string => names.slice(0, 3).join(", ") + (names.length > 3 ? ", …" : "");

function ranges(list: readonly Range[]): string {
  const names = list.slice(0, 5).map(([from, to]) => from === to ? `${from}` : `${from}-${to}`);
  return names.join(", ") + (list.length > 5 ? ", …" : "");
}

function spread(numbers: number[]): Result["reconnect"] {
  return { p50Ms: percentile(numbers, 50), p99Ms: percentile(numbers, 99), maxMs: percentile(numbers, 100) };
}

function percentiles({ p50Ms, p99Ms, maxMs }: Result["reconnect"]): string | false {
  return maxMs !== null && `p50 ${duration(p50Ms!)}, p99 ${duration(p99Ms!)}, max ${duration(maxMs)}`;
}

// ---- Small things

/** How socket and resolver errors are counted; whatever is not here is `other`. */
const DIAL_ERRORS: Record<string, string> = {
  ECONNREFUSED: "refused",
  ENOTFOUND: "dns",
  EAI_AGAIN: "dns",
  ECONNRESET: "reset",
  EPIPE: "reset",
  ETIMEDOUT: "timeout",
};

function deferred<T>() {
  let resolve!: (value: T) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<T>((yes, no) => [resolve, reject] = [yes, no]);
  return { promise, resolve, reject };
}

/** A gate that lets so many in at a time, in the order of their coming. */
function createGate(most: number) {
  let inside = 0;
  const waiting: (() => void)[] = [];
  return {
    enter: (): Promise<void> | void => {
      if (inside >= most) return new Promise<void>((resolve) => waiting.push(resolve));
      inside++;
    },
    /** Who waits longest takes the place; without one it is free. */
    leave: (): void => {
      const next = waiting.shift();
      if (next === undefined) inside--;
      else next();
    },
  };
}

function ignore(): void {}

function pause(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms).unref());
}

function newRedial(): Redial {
  return { startedAt: performance.now(), chosenMs: 0, failed: {}, readyEndpoints: null, lastOnEndingMs: null };
}

function nonEmpty(text: string): string {
  if (text !== "") return text;
  throw new RangeError("must not be empty");
}

function serverUrl(text: string): string {
  // Without credentials, too: URLs stand in log lines and reports.
  if (URL.canParse(text) && /^wss?:\/\/[^#@]+$/i.test(text)) return text;
  throw new RangeError("must be a ws:// or wss:// URL without credentials or a fragment");
}

/** A report named - goes to stdout, before the text: from a pod there is no other way out. */
function isStdout(file: string): boolean {
  return file.startsWith("-.");
}

function endingOf(file: string): string {
  return file.slice(file.lastIndexOf(".") + 1);
}

function reportFile(text: string): string {
  if (!Object.hasOwn(REPORTS, endingOf(text))) throw new RangeError("must end in .json, .html, .xml or .md");
  if (isStdout(text)) return text;
  try {
    accessSync(dirname(text), constants.W_OK);
  } catch {
    throw new RangeError("must be in a folder that can be written to");
  }
  return text;
}

if (import.meta.main) run(main);
