/**
 * The workload: streams numbered messages over WebSocket, and drains on SIGTERM (or misbehaves on purpose).
 * The session is drawn in protocol.ts.
 *
 * ```
 * node dist/server.js --port 8080
 * deno run --allow-net --allow-env --allow-read --allow-sys server.ts
 * ```
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { createHash, randomInt, randomUUID, timingSafeEqual } from "node:crypto";
import { createServer, type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http";
import { createServer as createTlsServer, type Server } from "node:https";
import type { Socket } from "node:net";
import { hostname } from "node:os";
import process from "node:process";
import type { Duplex } from "node:stream";
import { type RawData, type ServerOptions, type WebSocket, WebSocketServer } from "ws";
// deno-fmt-ignore
import {
  byLabel, checkCertificates, checkPair, closeCode, closeReason, count, createAdmin, createLog, createMetrics, decode, duration, encode,
  followFiles, type Frame, grouped, integer, listen, LOG_FORMAT, MAX_MESSAGE_BYTES,
  MAX_PAYLOAD_BYTES, milliseconds, oneOf, parseToken, PORT, PROBE_HEADER, readSettings, run, setting, settingList,
  SUBPROTOCOL, timestamp, UserError, type Values,
} from "./protocol.ts";

/** Promises that the server breaks on demand, so that the judge can be tested and a failure be seen. */
export const FAULTS = [
  "none",
  "ignore-sigterm",
  "exit-at-sigterm",
  "crash",
  "stall",
  "skip-notice",
  "exit-mid-drain",
  "slow-drain",
  "drop-data",
  "duplicate-data",
  "reorder-data",
  "lose-upstream",
  "skip-farewell",
  "terminate",
  "reset",
  "no-status",
] as const;

/** Every setting of the server; README's table and --help say the same. */
export const SETTINGS = {
  port: setting("PORT", "8080", PORT, "port for WebSocket upgrades on /ws; 0 = any free port"),
  host: setting("HOST", "", String, "address to listen on; default: any, IPv4 and IPv6"),
  adminPort: setting("ADMIN_PORT", "9090", PORT, "port for /healthz, /readyz, /metrics; 0 = any free port"),
  name: setting("SERVER_NAME", "", String, "name in HELLO and in reports; default: the host name"),
  intervalMs: setting("INTERVAL_MS", "2000", milliseconds(1), "ms between DATA"),
  remaining: setting("REMAINING", "1-10", range, "messages still to send in a drain: a range or a number"),
  remainingIntervalMs: setting("REMAINING_INTERVAL_MS", "100", milliseconds(0), "ms between those"),
  drainTimeoutMs: setting("DRAIN_TIMEOUT_MS", "25000", milliseconds(1, 100), "ms until stragglers are cut"),
  closeCode: setting("CLOSE_CODE", "1001", closeCode(), "code of the close frame that ends a drain"),
  closeTimeoutMs: setting("CLOSE_TIMEOUT_MS", "3000", milliseconds(1, 100), "ms to wait for a peer's close frame"),
  silenceTimeoutMs: setting(
    "SILENCE_TIMEOUT_MS",
    "30000",
    milliseconds(2, 100),
    "ms without an answer to a ping: dead",
  ),
  spreadMs: setting("SPREAD_MS", "0", milliseconds(0, 100), "start each session's drain at random within these ms"),
  maxSessions: setting("MAX_SESSIONS", "20000", integer(1, 1_000_000), "connections above it get 503"),
  maxBufferBytes: setting("MAX_BUFFER_BYTES", "1048576", integer(0, 2 ** 30), "unsent bytes above which DATA waits"),
  payloadBytes: setting("PAYLOAD_BYTES", "0", integer(0, MAX_PAYLOAD_BYTES), "bytes of padding in each DATA"),
  tlsCert: setting("TLS_CERT", "", String, "certificate chain (PEM): wss:// instead of ws://"),
  tlsKey: setting("TLS_KEY", "", String, "its private key (PEM)"),
  tlsClientCa: setting("TLS_CLIENT_CA", "", String, "CA (PEM) that client certificates must be from"),
  tokenFile: setting("TOKEN_FILE", "", String, "file with the token that clients must bring"),
  tokenOverlapMs: setting(
    "TOKEN_OVERLAP_MS",
    "60000",
    milliseconds(0, 100),
    "ms that the old token is good after a change",
  ),
  allowOrigin: settingList(
    "ALLOW_ORIGIN",
    "",
    String,
    "browser origins let in, * = any; default: any, with a token none",
  ),
  fault: setting("FAULT", "none", oneOf(...FAULTS), "the promise to break, see README"),
  logFormat: LOG_FORMAT,
};

type Settings = Values<typeof SETTINGS>;

/** The pace of fault `slow-drain`: longer than any grace period. */
const SLOW_INTERVAL_MS = 3_600_000;

/** What some faults need to be seen at all. */
const LEAST_REMAINING: Partial<Record<(typeof FAULTS)[number], number>> = {
  "exit-mid-drain": 2,
  "slow-drain": 1,
  "drop-data": 2,
  "duplicate-data": 2,
  "reorder-data": 2,
};

/** One WebSocket connection. Only what a session needs while it is idle: there are thousands. */
interface Session {
  id: string;
  ws: WebSocket;
  socket: Socket;
  plain: boolean;
  /** Highest `seq` that we sent, and that we received; and how many messages that were. */
  sent: number;
  received: number;
  frames: number;
  /** The client's ACK: the last `seq` that it sent here. */
  ack: number | undefined;
  /** `closing`: the farewell is said, the peer's close frame is awaited. `over`: refused or cut. */
  state: "open" | "draining" | "closing" | "over";
  /** Messages that SHUTDOWN announced, and those of them still to send. */
  announced: number;
  remaining: number;
  missedPings: number;
  production: NodeJS.Timeout | undefined;
  heartbeat: NodeJS.Timeout | undefined;
}

async function main(): Promise<void> {
  const settings = readSettings(
    {
      command: "node dist/server.js",
      summary: "Streams messages to WebSocket clients on /ws; on SIGTERM tells them, sends what remains, closes.",
      switches: {},
    },
    SETTINGS,
  );
  if (settings === undefined) return;
  const { spreadMs, remaining, remainingIntervalMs, drainTimeoutMs } = settings;
  const scriptMs = spreadMs + remaining.most * remainingIntervalMs;
  if (scriptMs >= drainTimeoutMs) {
    throw new UserError(
      `--drain-timeout must be above --spread + largest --remaining × --remaining-interval = ${scriptMs}: ` +
        `current value is '${drainTimeoutMs}'`,
    );
  }
  if ((settings.tlsCert === "") !== (settings.tlsKey === "")) {
    throw new UserError("--tls-cert and --tls-key go together");
  }
  if (settings.tlsClientCa !== "" && settings.tlsCert === "") throw new UserError("--tls-client-ca needs --tls-cert");
  await serve({ ...settings, name: settings.name || hostname() });
}

async function serve(settings: Settings): Promise<void> {
  const { fault } = settings;
  const remainingIntervalMs = fault === "slow-drain" ? SLOW_INTERVAL_MS : settings.remainingIntervalMs;
  const instance = randomUUID();
  const sessions = new Set<Session>();
  const probes = new Set<WebSocket>();
  const payload = settings.payloadBytes > 0 ? { payload: "x".repeat(settings.payloadBytes) } : {};
  /** Changed by `shutDown` alone. */
  let phase: "serving" | "draining" | "closed" = "serving";
  let signalledAt = 0;
  /** How many the drain began with: the last of them are as many as the first. */
  let crowd = 0;
  let allGone = (): void => {};
  const tally = {
    opened: 0,
    probes: 0,
    refused: { draining: 0, full: 0, unauthorized: 0, bad_request: 0 },
    lastRefusedMs: 0,
    drainsBegun: 0,
    drained: 0,
    terminated: 0,
    closedByPeer: 0,
    /** On sessions that have ended. */
    sent: 0,
    received: 0,
    unconfirmed: 0,
    gaps: 0,
    repeats: 0,
    unsent: 0,
  };

  const log = createLog(
    "server",
    settings.logFormat,
    () => `${phase}, ${count(sessions.size, "session")} open`,
    () => Math.max(sessions.size, crowd),
  );
  const options: ServerOptions & { closeTimeout: number } = {
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false, // buffers of its own for each session, for messages of 100 bytes
    maxPayload: MAX_MESSAGE_BYTES,
    closeTimeout: settings.closeTimeoutMs,
    handleProtocols: (offered) => offered.has(SUBPROTOCOL) ? SUBPROTOCOL : false,
  };
  const wss = new WebSocketServer(options);
  const badVersion = "Sec-WebSocket-Version: 13, 8";
  wss.on("wsClientError", (error, socket) => refuse(socket, "bad_request", 400, error.message, badVersion));

  // Who connects and says nothing is let go within about ten seconds.
  const patience = { headersTimeout: 10_000, requestTimeout: 10_000, connectionsCheckingInterval: 1000 };
  const isTls = settings.tlsCert !== "";
  const tls = { minVersion: "TLSv1.2", requestCert: settings.tlsClientCa !== "" } as const;
  const tlsServer = isTls ? createTlsServer({ ...patience, ...tls }, onRequest) : undefined;
  const server = tlsServer ?? createServer(patience, onRequest);
  server.on("upgrade", onUpgrade);
  /** What TLS runs over, by the peer's port: a TLS socket cannot send a reset. */
  const tcpSockets = new Map<number | undefined, Socket>();
  if (isTls && fault === "reset") server.on("connection", (socket) => tcpSockets.set(socket.remotePort, socket));
  server.on("tlsClientError", (error) => {
    tally.refused.bad_request++;
    log.each("upgrade-refused", () => [`TLS: ${error.message}`, { reason: error.message }]);
  });
  if (tlsServer !== undefined) followCertificate(tlsServer);
  /** The token's digest; and the one before it, with its last moment. */
  let token: Buffer | undefined;
  let oldToken: { digest: Buffer; until: number } | undefined;
  if (settings.tokenFile !== "") followToken();
  const admin = createAdmin({
    "/healthz": () => ({ status: 200, body: "ok\n" }),
    "/readyz": () => phase === "serving" ? { status: 200, body: "ready\n" } : { status: 503, body: `${phase}\n` },
    "/metrics": () => metrics?.route() ?? { status: 503, body: "starting\n" },
  });
  let metrics: Awaited<ReturnType<typeof createMetrics>> | undefined;
  let observeDrain = (_ms: number): void => {};

  // A signal in the window before listen() must find its handler.
  process.on("SIGTERM", onSignal);
  process.on("SIGINT", onSignal);
  try {
    const adminPort = await listen(admin, settings.adminPort, settings.host);
    const port = await listen(server, settings.port, settings.host);
    if (phase !== "serving") return release(); // it came in that window
    const host = settings.host.includes(":") ? `[${settings.host}]` : settings.host || "localhost";
    const where = `${settings.name} on ${isTls ? "wss" : "ws"}://${host}:${port}/ws, admin port ${adminPort}`;
    const labels = { server: settings.name, instance, port, adminPort, fault };
    log.line("listening", fault === "none" ? where : `${where}, fault ${fault}`, labels);
    await exportMetrics();
  } catch (error) {
    release();
    throw error;
  }

  // ---- What is renewed while it runs, and what is measured

  function followCertificate(server: Server): void {
    const { tlsCert, tlsKey, tlsClientCa } = settings;
    const files = { "tls-cert": tlsCert, "tls-key": tlsKey, ...tlsClientCa && { "tls-client-ca": tlsClientCa } };
    const use = ([cert, key, ca]: string[]) => {
      checkPair(cert!, key!);
      if (ca !== undefined) checkCertificates(ca);
      server.setSecureContext({ ...tls, cert, key, ca });
      log.line("tls-loaded", tlsCert, { file: tlsCert });
    };
    followFiles(
      files,
      use,
      (message) => log.line("tls-refused", `${message}: the old one stays`, { file: tlsCert }, "error"),
    );
  }

  function followToken(): void {
    const file = settings.tokenFile;
    const use = ([text]: string[]) => {
      const digest = digestOf(parseToken(text!));
      if (token !== undefined) oldToken = { digest: token, until: performance.now() + settings.tokenOverlapMs };
      token = digest;
      log.line("token-loaded", file, { file });
    };
    const refused = (message: string) => log.line("token-refused", `${message}: the old one stays`, { file }, "error");
    followFiles({ "token-file": file }, use, refused);
  }

  async function exportMetrics(): Promise<void> {
    metrics = await createMetrics("server");
    metrics.gauge("sessions", "Open sessions", () => sessions.size);
    metrics.gauge("draining", "1 from the signal on", () => phase === "serving" ? 0 : 1);
    metrics.counter(
      "sessions_total",
      "Ended sessions by outcome",
      ["outcome"],
      () =>
        byLabel("outcome", {
          drained: tally.drained,
          closed_by_peer: tally.closedByPeer,
          terminated: tally.terminated,
        }),
    );
    metrics.counter("messages_total", "Messages by direction", ["direction"], () => {
      const sum = { sent: tally.sent, received: tally.received };
      for (const { sent, frames } of sessions) [sum.sent, sum.received] = [sum.sent + sent, sum.received + frames];
      return byLabel("direction", sum);
    });
    metrics.counter(
      "refused_upgrades_total",
      "Refused upgrades by reason",
      ["reason"],
      () => byLabel("reason", tally.refused),
    );
    observeDrain = metrics.histogram("drain_seconds", "From the signal to the end of each drained session");
  }

  // ---- Connections

  function onRequest(_request: IncomingMessage, response: ServerResponse): void {
    response.writeHead(426, { "content-type": "text/plain", connection: "close, upgrade", upgrade: "websocket" });
    response.end("This port speaks WebSocket on /ws; health checks are on the admin port.\n");
  }

  function onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on("error", ignore);
    if (request.url?.split("?")[0] !== "/ws") return refuse(socket, "bad_request", 404, "WebSocket is on /ws");
    const { authorization, origin } = request.headers;
    if (!isAuthorized(authorization)) {
      return refuse(socket, "unauthorized", 401, "a token is needed", "WWW-Authenticate: Bearer");
    }
    if (!isAllowed(origin)) return refuse(socket, "unauthorized", 403, "this origin is not let in");
    if (phase !== "serving") {
      tally.lastRefusedMs = Math.round(performance.now() - signalledAt);
      return refuse(socket, "draining", 503, `draining for ${duration(tally.lastRefusedMs)}`, "Retry-After: 1");
    }
    if (sessions.size + probes.size >= settings.maxSessions) {
      return refuse(socket, "full", 503, "full", "Retry-After: 1");
    }
    wss.handleUpgrade(request, socket, head, (ws) => {
      if (request.headers[PROBE_HEADER] === undefined) openSession(ws, request);
      else openProbe(ws);
    });
  }

  function isAuthorized(authorization = ""): boolean {
    if (token === undefined) return true;
    // Digests are of one length, which is what a comparison in constant time needs.
    const digest = digestOf(/^Bearer +(\S+)$/i.exec(authorization)?.[1] ?? "");
    const isOld = oldToken !== undefined && performance.now() < oldToken.until &&
      timingSafeEqual(digest, oldToken.digest);
    return timingSafeEqual(digest, token) || isOld;
  }

  /** A browser does not ask before it opens a WebSocket, but says whose page it is. */
  function isAllowed(origin: string | undefined): boolean {
    const { allowOrigin } = settings;
    if (origin === undefined || allowOrigin.includes("*")) return true;
    return allowOrigin.length > 0 ? allowOrigin.includes(origin) : token === undefined;
  }

  function refuse(
    socket: Duplex,
    kind: keyof typeof tally.refused,
    status: number,
    reason: string,
    ...headers: string[]
  ): void {
    tally.refused[kind]++;
    log.each("upgrade-refused", () => [`${status}: ${reason}`, { status, reason }]);
    const body = `${reason}\n`;
    const head = [
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
      "Connection: close",
      "Content-Type: text/plain",
      `Content-Length: ${Buffer.byteLength(body)}`,
      ...headers,
    ];
    socket.once("finish", () => socket.destroy());
    socket.end(`${head.join("\r\n")}\r\n\r\n${body}`);
  }

  /** A probe only asks who is here: it is no session, is not drained, and has its own count. */
  function openProbe(ws: WebSocket): void {
    tally.probes++;
    probes.add(ws);
    const limit = setTimeout(() => ws.terminate(), settings.silenceTimeoutMs);
    ws.on("error", ignore);
    ws.on("close", () => {
      clearTimeout(limit);
      probes.delete(ws);
    });
    if (ws.protocol === SUBPROTOCOL) ws.send(encode(hello(randomUUID())), onSent);
  }

  function openSession(ws: WebSocket, request: IncomingMessage): void {
    const session: Session = {
      id: randomUUID(),
      ws,
      socket: request.socket,
      plain: ws.protocol !== SUBPROTOCOL,
      sent: 0,
      received: 0,
      frames: 0,
      ack: undefined,
      state: "open",
      announced: 0,
      remaining: 0,
      missedPings: 0,
      production: undefined,
      heartbeat: undefined,
    };
    sessions.add(session);
    tally.opened++;
    ws.on("message", (data, isBinary) => onMessage(session, data, isBinary));
    ws.on("pong", () => session.missedPings = 0);
    ws.on("error", (error) => noteInvalid(session, error.message));
    ws.on("close", (code) => onClose(session, code));
    const { remoteAddress } = request.socket;
    const dialect = session.plain ? "plain" : "v1";
    const { id } = session;
    log.each("session-opened", () => [`${brief(id)} from ${remoteAddress}, ${dialect}`, { session: id, dialect }]);
    session.heartbeat = setInterval(checkPulse, settings.silenceTimeoutMs / 2, session);
    if (!session.plain) send(session, hello(session.id));
    produce(session);
    session.production = setInterval(produce, settings.intervalMs, session);
    if (fault === "crash" && tally.opened === 1) setTimeout(() => process.abort(), 3000);
  }

  function hello(session: string): Frame {
    return { type: "HELLO", server: settings.name, instance, session, intervalMs: settings.intervalMs };
  }

  function onMessage(session: Session, data: RawData, isBinary: boolean): void {
    session.missedPings = 0;
    if (session.state === "closing" || session.state === "over") return; // CLOSE has given the final counts
    if (session.plain) return void (session.frames = ++session.received);
    if (isBinary) return reject(session, 1003, "Cannot accept a binary message: frames are JSON text");
    try {
      const frame = decode(data.toString());
      if (frame.type === "DATA") {
        session.frames++;
        if (frame.seq <= session.received) tally.repeats++;
        else if (session.received > 0 && frame.seq > session.received + 1) tally.gaps++;
        session.received = Math.max(session.received, frame.seq);
      } else if (frame.type === "ACK") {
        session.ack = frame.lastSeq;
      } else {
        throw new SyntaxError(`Cannot accept ${frame.type} frame: only the server sends it`);
      }
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      return reject(session, 1007, error.message);
    }
    if (session.state === "draining") sayFarewell(session);
  }

  function reject(session: Session, code: number, reason: string): void {
    noteInvalid(session, reason);
    end(session, "over");
    session.ws.close(code, closeReason(reason));
  }

  function noteInvalid({ id }: Session, reason: string): void {
    log.each("invalid-frame", () => [`${brief(id)}: ${reason}`, { session: id }, "warn"]);
  }

  /** Nothing more is sent or counted on this session. */
  function end(session: Session, state: "closing" | "over"): void {
    session.state = state;
    clearTimeout(session.production);
  }

  function onClose(session: Session, code: number): void {
    if (session.state === "closing") {
      tally.drained++;
      if (code === 1006) tally.unconfirmed++;
      observeDrain(performance.now() - signalledAt);
    } else if (session.state === "over") tally.terminated++;
    else tally.closedByPeer++;
    tally.sent += session.sent;
    tally.received += session.frames;
    end(session, "over");
    clearInterval(session.heartbeat);
    sessions.delete(session);
    const { id, sent, received } = session;
    log.each("session-closed", () => [
      `${brief(id)} with ${code}: sent ${sent}, received ${received}`,
      { session: id, code, sent, received },
    ]);
    if (sessions.size === 0) allGone();
  }

  /** Twice in a silence timeout: two pings without any sign of life are the end. */
  function checkPulse(session: Session): void {
    if (session.missedPings < 2) {
      session.missedPings++;
      if (session.ws.readyState === session.ws.OPEN) session.ws.ping(onSent);
      return;
    }
    // After a pause of this process the answer may be here, unread: the sockets' turn comes before this.
    setImmediate(() => {
      if (session.missedPings < 2) return;
      const { id } = session;
      log.each("session-silent", () => [`${brief(id)} answers no ping: terminated`, { session: id }, "warn"]);
      end(session, "over");
      session.ws.terminate();
    });
  }

  // ---- Messages

  function send(session: Session, frame: Frame | string): void {
    session.ws.send(Buffer.from(typeof frame === "string" ? frame : encode(frame)), { binary: false }, onSent);
  }

  /** Without this callback, ws drops what comes after close() in silence. */
  function onSent(error?: Error | null): void {
    if (error) tally.unsent++;
  }

  function isFull(session: Session): boolean {
    return session.ws.bufferedAmount > settings.maxBufferBytes;
  }

  /** The regular message; a peer that does not read skips its turn, and no number is used. */
  function produce(session: Session): void {
    if (isFull(session) || session.ws.readyState !== session.ws.OPEN) return;
    session.sent++;
    if (session.plain) send(session, `Business data: ${clock()}`);
    else sendData(session, session.sent);
  }

  function sendData(session: Session, seq: number): void {
    send(session, { type: "DATA", seq, at: timestamp(), ack: session.received, ...payload });
  }

  // ---- The drain

  function onSignal(signal: NodeJS.Signals): void {
    if (fault === "ignore-sigterm" && signal === "SIGTERM") return;
    if (fault === "exit-at-sigterm") process.exit(0);
    if (phase !== "serving") {
      log.line("forced", `second signal, ${count(sessions.size, "session")} open: exit 1 at once`, {
        sessions: sessions.size,
      }, "error");
      process.exit(1); // whoever asks twice does not want to wait
    }
    void shutDown(signal);
  }

  async function shutDown(signal: NodeJS.Signals): Promise<void> {
    // 1. From here on /readyz and new upgrades answer 503; the listener stays open, because until the endpoint's
    //    removal has reached every node, clients are still sent here, and a refusal with words beats a closed port.
    phase = "draining";
    signalledAt = performance.now();
    const total = crowd = sessions.size;
    log.line("shutdown-signal", `${signal}: draining ${count(total, "session")}`, { signal, sessions: total });

    if (fault === "stall") return fallSilent();

    // 2. One timer bounds all that follows, and it is set before anything can take long.
    const deadline = fault === "slow-drain" ? undefined : setTimeout(cutStragglers, settings.drainTimeoutMs);

    // 3. Every session drains by itself; the last one to go ends the wait.
    if (total > 0) {
      const gone = new Promise<void>((resolve) => allGone = resolve);
      if (settings.spreadMs === 0) drainTogether([...sessions], signalledAt);
      else for (const session of sessions) drainLater(session);
      await gone;
    }
    clearTimeout(deadline);

    // 4. Nobody is left to be told anything: let go of both ports, and of connections that never said a word.
    phase = "closed";
    for (const probe of probes) probe.terminate();
    release();
    const seconds = ((performance.now() - signalledAt) / 1000).toFixed(2);
    const notes = [
      tally.drained < total && `${grouped(total - tally.drained)} left or cut before the end`,
      tally.unconfirmed > 0 && `${tally.unconfirmed} unconfirmed`,
      tally.refused.draining > 0 &&
      `${count(tally.refused.draining, "new connection")} refused, the last at +${duration(tally.lastRefusedMs)}`,
      tally.unsent > 0 && `${count(tally.unsent, "message")} unsent`,
      tally.gaps + tally.repeats > 0 &&
      `client sequence: ${count(tally.gaps, "gap")}, ${count(tally.repeats, "repeat")}`,
    ].filter(Boolean);
    log.end();
    log.line("drain-complete", [`drained ${count(tally.drained, "session")} in ${seconds} s`, ...notes].join(", "), {
      sessions: total,
      seconds: Number(seconds),
      drained: tally.drained,
      opened: tally.opened,
      probes: tally.probes,
      unconfirmed: tally.unconfirmed,
      refusedDraining: tally.refused.draining,
      lastRefusedMs: tally.lastRefusedMs,
    }, tally.drained < total ? "warn" : "info");
    setTimeout(() => process.exit(), 1000).unref(); // nothing is left but, at worst, log lines that nobody reads
  }

  function release(): void {
    for (const listener of [server, admin]) {
      listener.close();
      listener.closeAllConnections();
    }
  }

  function cutStragglers(): void {
    process.exitCode = 1;
    for (const session of sessions) {
      const state = `${session.state}, ${session.remaining} remaining, ACK ${session.ack ?? "missing"}`;
      log.line("session-cut", `${brief(session.id)} not drained in time: ${state}`, {
        session: session.id,
        remaining: session.remaining,
      }, "error");
      end(session, "over");
      session.ws.terminate();
    }
  }

  function fallSilent(): void {
    for (const session of sessions) {
      end(session, "over");
      clearInterval(session.heartbeat);
      session.ws.pause();
    }
  }

  function drainLater(session: Session): void {
    const delayMs = randomInt(settings.spreadMs);
    setTimeout(() => drainTogether([session], signalledAt + delayMs), delayMs).unref(); // the session may leave first
  }

  /** Drains sessions that start together, with one timer for all: thousands of timers and closures cost as much as the messages. */
  function drainTogether(group: Session[], startAt: number): void {
    let draining = group.filter(announce);
    // Due times count from the planned start: neither late timers nor the time to tell thousands of peers adds up.
    let dueAt = startAt;
    const waitForNext = (): void => {
      dueAt += remainingIntervalMs;
      // Sessions keep the process alive, not this timer: they may all leave before it fires.
      if (draining.length > 0) setTimeout(sendNext, Math.max(0, dueAt - performance.now())).unref();
    };
    const sendNext = (): void => {
      draining = draining.filter(sendRemaining);
      waitForNext();
    };
    waitForNext();
  }

  /** Tells a session that the end has begun; whether anything remains to be sent. */
  function announce(session: Session): boolean {
    if (session.state !== "open") return false;
    session.state = "draining";
    clearInterval(session.production);
    const { least, most } = settings.remaining;
    const remaining = Math.max(randomInt(least, most + 1), LEAST_REMAINING[fault] ?? 0);
    session.announced = session.remaining = remaining;
    if (fault !== "skip-notice") {
      send(
        session,
        session.plain ? "SHUTDOWN" : {
          type: "SHUTDOWN",
          at: timestamp(),
          reason: "server is shutting down",
          remaining,
          lastSeq: session.sent + remaining,
          intervalMs: remainingIntervalMs,
          budgetMs: Math.max(0, Math.round(signalledAt + settings.drainTimeoutMs - performance.now())),
        },
      );
    }
    if (remaining === 0) sayFarewell(session);
    return remaining > 0;
  }

  /** Sends one of the remaining messages; whether there are more. */
  function sendRemaining(session: Session): boolean {
    if (session.state !== "draining") return false;
    if (isFull(session)) return true; // a slow reader gets its messages later
    if (fault === "exit-mid-drain" && session.remaining < session.announced) return true;
    const nth = session.announced - --session.remaining;
    // The last message, CLOSE and the close frame leave in one write: with thousands of sessions, system calls count.
    session.socket.cork();
    session.sent++;
    if (session.plain) send(session, `Final data: ${clock()} - ${nth}`);
    else sendRemainingData(session, session.sent, nth);
    if (session.remaining === 0) sayFarewell(session);
    session.socket.uncork();
    // Once every session has had its first: each is cut in the middle of its drain.
    if (fault === "exit-mid-drain" && ++tally.drainsBegun >= sessions.size) setImmediate(() => process.exit(0));
    return session.remaining > 0;
  }

  function sendRemainingData(session: Session, seq: number, nth: number): void {
    if (fault === "drop-data" && nth === 1) return;
    if (fault === "reorder-data" && nth <= 2) return sendData(session, nth === 1 ? seq + 1 : seq - 1);
    sendData(session, seq);
    if (fault === "duplicate-data" && nth === 1) sendData(session, seq);
  }

  /** In the same breath as what was written before; TLS hands that on a moment later. */
  function resetTogether(socket: Socket): void {
    const tcpSocket = tcpSockets.get(socket.remotePort);
    if (tcpSocket === undefined) socket.resetAndDestroy();
    else setImmediate(() => tcpSocket.resetAndDestroy());
  }

  /** CLOSE and the close frame, once: when the last message is out and the client's last one is in. */
  function sayFarewell(session: Session): void {
    if (session.remaining > 0) return;
    const awaitsAck = !session.plain && fault !== "skip-notice";
    if (awaitsAck && (session.ack === undefined || session.received < session.ack)) return; // onMessage comes back here
    end(session, "closing");
    if (fault === "lose-upstream") session.received = Math.max(0, session.received - 1);
    if (fault !== "skip-farewell") {
      const { sent, received } = session;
      send(session, session.plain ? "CLOSE" : { type: "CLOSE", at: timestamp(), sent, received });
    }
    if (fault === "terminate" || fault === "reset") session.socket.uncork(); // what came before must be out by then
    if (fault === "terminate") return session.ws.terminate();
    if (fault === "no-status") return session.ws.close();
    session.ws.close(settings.closeCode, "server is shutting down");
    if (fault === "reset") resetTogether(session.socket);
    session.socket.once("finish", destroy); // the peer has answered and our FIN is out: nothing more is to come
  }
}

function digestOf(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}

/** Enough of an id for people to tell sessions apart; the labels have all of it. */
function brief(id: string): string {
  return id.slice(0, 8);
}

/** HH:MM:SS, as the plain dialect has it. */
function clock(): string {
  return new Date().toTimeString().slice(0, 8);
}

function destroy(this: Socket): void {
  this.destroy();
}

/** For errors of sockets whose end is told elsewhere, by their close event. */
function ignore(): void {}

function range(text: string): { least: number; most: number } {
  const [, least, most = least] = /^(\d{1,4})(?:-(\d{1,4}))?$/.exec(text) ?? [];
  if (least === undefined || Number(least) > Number(most)) {
    throw new RangeError("must be a number, or a range such as 1-10, from 0 to 9999");
  }
  return { least: Number(least), most: Number(most) };
}

if (import.meta.main) run(main);
