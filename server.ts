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
import {
  createServer,
  type IncomingMessage,
  type Server as HttpServer,
  type ServerResponse,
  STATUS_CODES,
} from "node:http";
import { createServer as createTlsServer, type Server as HttpsServer } from "node:https";
import type { Socket } from "node:net";
import { hostname, networkInterfaces } from "node:os";
import process from "node:process";
import type { Duplex } from "node:stream";
import { type RawData, type ServerOptions, type WebSocket, WebSocketServer } from "ws";
// deno-fmt-ignore
import {
  byLabel, called, checkCertificates, checkPair, closeCode, closeReason, count, createAdmin, createLog, createMetrics, decode, duration, encode,
  followFiles, type Frame, grouped, integer, listen, type Log, LOG_FORMAT, MAX_MESSAGE_BYTES,
  MAX_PAYLOAD_BYTES, milliseconds, oneOf, parseToken, PATIENCE, PORT, PROBE_HEADER, readSettings, run, setting, settingList,
  SUBPROTOCOL, timestamp, UserError, type Values,
} from "./protocol.ts";

/** What the server does at each step that a fault can spoil; this is how it is done without one. */
const HONEST = {
  /** Whether a signal begins the drain. */
  heeds: (_signal: NodeJS.Signals): boolean => true,
  /** When the first of all sessions has opened. */
  firstOpened: (): void => {},
  /** Whether sessions are told at all, or fall silent. */
  answersSignal: true,
  hasDeadline: true,
  leastRemaining: 0,
  remainingIntervalMs: (asked: number): number => asked,
  /** Whether SHUTDOWN goes out; only to who has been told is there an ACK to wait for. */
  givesNotice: true,
  /** Whether the `nth` of the remaining messages may go out. */
  goesOn: (_nth: number): boolean => true,
  sendRemaining: (session: Session, seq: number, _nth: number): void => session.sendData(seq),
  /** After each round of remaining messages. */
  afterRound: (_sessions: ReadonlySet<Session>): void => {},
  /** What CLOSE says was received. */
  receivedAtClose: (received: number): number => received,
  saysClose: true,
  end: (session: Session): void => session.close(),
};
type Conduct = typeof HONEST;

/** Promises that the server breaks on demand, so that the judge can be tested and a failure be seen: what each does else. */
const CONDUCTS = {
  "none": {},
  "ignore-sigterm": { heeds: (signal) => signal !== "SIGTERM" },
  "exit-at-sigterm": { heeds: () => process.exit(0) },
  "crash": { firstOpened: () => void setTimeout(() => process.abort(), 3000) },
  "stall": { answersSignal: false },
  "skip-notice": { givesNotice: false },
  "exit-mid-drain": {
    leastRemaining: 2,
    goesOn: (nth) => nth === 1,
    // Once every session has had its first: each is cut in the middle of its drain.
    afterRound: (sessions) => {
      for (const session of sessions) if (session.isUntouched) return;
      setImmediate(() => process.exit(0));
    },
  },
  // Longer than any grace period.
  "slow-drain": { leastRemaining: 1, remainingIntervalMs: () => 3_600_000, hasDeadline: false },
  "drop-data": { leastRemaining: 2, sendRemaining: (session, seq, nth) => void (nth !== 1 && session.sendData(seq)) },
  "duplicate-data": {
    leastRemaining: 2,
    sendRemaining: (session, seq, nth) => {
      session.sendData(seq);
      if (nth === 1) session.sendData(seq);
    },
  },
  "reorder-data": {
    leastRemaining: 2,
    sendRemaining: (session, seq, nth) => session.sendData(nth === 1 ? seq + 1 : nth === 2 ? seq - 1 : seq),
  },
  "lose-upstream": { receivedAtClose: (received) => Math.max(0, received - 1) },
  "skip-farewell": { saysClose: false },
  "terminate": { end: (session) => session.cutOnceSaid() },
  "reset": { end: (session) => session.closeAndReset() },
  "no-status": { end: (session) => session.closeWithoutCode() },
} satisfies Record<string, { [Step in keyof Conduct]?: Conduct[Step] }>;

type Fault = keyof typeof CONDUCTS;

/** The faults by name; `none` is the first. */
export const FAULTS = Object.keys(CONDUCTS) as [Fault, ...Fault[]];

/** How a server with this fault behaves: honestly, but for the steps that the fault replaces. */
export function conductOf(fault: Fault): Conduct {
  return { ...HONEST, ...CONDUCTS[fault] };
}

/** Every setting of the server; the table of docs/settings.md and --help say the same. */
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
  fault: setting("FAULT", "none", oneOf(...FAULTS), "the promise to break, see docs/verdict.md"),
  logFormat: LOG_FORMAT,
};

/** What the table above says, converted. */
export type Settings = Values<typeof SETTINGS>;

async function main(): Promise<void> {
  const settings = readSettings(
    {
      command: called("server", "dist/server.js"),
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
  if (settings.switches.has("check-settings")) return;
  const server = new Server({ ...settings, name: settings.name || hostname() });
  const onSignal = async (signal: NodeJS.Signals) => {
    await server.onSignal(signal);
    // Nothing is left then but, at worst, log lines that nobody reads.
    if (server.phase === "closed") setTimeout(() => process.exit(), 1000).unref();
  };
  // A signal in the window before listen() must find its handler.
  for (const name of ["SIGTERM", "SIGINT"] as const) process.on(name, (signal) => void onSignal(signal));
  await server.start();
}

// ---- Session: one connection

/** Why a session ended without a closing handshake, or by the server's decision: label `how`, and who and what it was. */
const ENDINGS = {
  "ping-flood": "the server: the peer sends pings and leaves 60 pongs unread",
  "silence": "the server: no answer to a ping within --silence-timeout",
  "invalid-frame": "the server: invalid frame",
  "drain-timeout": "the server: not drained within --drain-timeout",
  "close-timeout": "the server: no close frame from the peer within --close-timeout",
  "fault": "the server: --fault",
  "no-close-frame": "the peer: FIN without a close frame",
  "socket-error": "the network or the peer: socket error",
} as const;

type Ending = keyof typeof ENDINGS;

/** What all sessions of a server have in common: one object for thousands of them. */
export interface Common {
  settings: Settings;
  conduct: Conduct;
  log: Log;
  tally: Tally;
  /** What fills DATA up to --payload. */
  padding: { payload?: string };
  /** Name of the server's process, in HELLO. */
  instance: string;
  /** Called when a session is over, with its outcome; by then it is out of `sessions`. */
  onEnded: (outcome: Outcome) => void;
  sessions: Set<Session>;
  /** Resets what a session runs over: a TLS socket cannot do that by itself. */
  reset: (socket: Socket) => void;
}

const OWNER = Symbol("session");
type Owned = WebSocket & { [OWNER]: Session };

/** One WebSocket connection: sends, receives, counts, and drains. Small, for there are thousands: its listeners are shared. */
export class Session {
  readonly id = randomUUID();
  readonly #common: Common;
  readonly #ws: WebSocket;
  readonly #socket: Socket;
  /** Highest `seq` that we sent, and that we received; and how many messages that were. */
  #sent = 0;
  #received = 0;
  #frames = 0;
  /** The client's ACK: the last `seq` that it sent here. */
  #ack: number | undefined;
  /** `closing`: the farewell is said, the peer's close frame is awaited. `over`: refused or cut. */
  #state: "open" | "draining" | "closing" | "over" = "open";
  /** Messages that SHUTDOWN announced, and those of them still to send. */
  #announced = 0;
  #remaining = 0;
  #missedPings = 0;
  #ending: Ending | undefined;
  #production: NodeJS.Timeout;
  #heartbeat: NodeJS.Timeout;

  constructor({ ws, socket, common }: { ws: WebSocket; socket: Socket; common: Common }) {
    const { settings, log } = common;
    this.#common = common;
    this.#ws = ws;
    this.#socket = socket;
    (ws as Owned)[OWNER] = this;
    ws.on("message", Session.#onMessage);
    ws.on("ping", Session.#onPing);
    ws.on("pong", Session.#onPong);
    ws.on("error", Session.#onError);
    ws.on("close", Session.#onClose);
    log.each("session-opened", () => {
      const dialect = this.#isPlain ? "plain" : "v1";
      return [`${brief(this.id)} from ${socket.remoteAddress}, ${dialect}`, { session: this.id, dialect }];
    });
    this.#heartbeat = setInterval(Session.#checkPulse, settings.silenceTimeoutMs / 2, this);
    if (!this.#isPlain) this.#send(encode(helloOf(common, this.id)));
    this.#produce();
    this.#production = setInterval(Session.#onTick, settings.intervalMs, this);
  }

  /** Messages that this session has carried so far. */
  get traffic(): { sent: number; received: number } {
    return { sent: this.#sent, received: this.#frames };
  }

  /** Whether its drain has not shown yet. */
  get isUntouched(): boolean {
    return this.#state === "open" || (this.#state === "draining" && this.#remaining === this.#announced);
  }

  /** Whether all is said: only the peer's close frame is awaited, for as long as that may take. */
  get hasDrained(): boolean {
    return this.#state === "closing";
  }

  /** How it ended: drained to the farewell, cut by the server, or left by the peer. */
  get #outcome(): Outcome {
    return this.#state === "closing" ? "drained" : this.#state === "over" ? "terminated" : "closed_by_peer";
  }

  get #isPlain(): boolean {
    return this.#ws.protocol !== SUBPROTOCOL;
  }

  // ---- What comes in

  static #onMessage(this: WebSocket, data: RawData, isBinary: boolean): void {
    (this as Owned)[OWNER].#receive(data, isBinary);
  }

  /** ws itself terminates who sends pings and leaves the pongs unread: `maxPendingAutoPongs`. */
  static #onPing(this: WebSocket): void {
    if (this.readyState !== this.OPEN) (this as Owned)[OWNER].#noteFlood();
  }

  static #onPong(this: WebSocket): void {
    (this as Owned)[OWNER].#missedPings = 0;
  }

  static #onError(this: WebSocket, error: Error): void {
    const session = (this as Owned)[OWNER];
    session.#noteInvalid(error.message);
    session.#ending ??= "invalid-frame";
    if (session.#state !== "closing") session.#stop("over"); // ws closes it
  }

  static #onClose(this: WebSocket, code: number): void {
    (this as Owned)[OWNER].#conclude(code);
  }

  #receive(data: RawData, isBinary: boolean): void {
    this.#missedPings = 0;
    if (this.#state === "closing" || this.#state === "over") return; // CLOSE has given the final counts
    if (this.#isPlain) return void (this.#frames = ++this.#received);
    if (isBinary) return this.#reject(1003, "Cannot accept a binary message: frames are JSON text");
    try {
      this.#accept(decode(data.toString()));
    } catch (error) {
      if (!(error instanceof SyntaxError)) throw error;
      return this.#reject(1007, error.message);
    }
    if (this.#state === "draining") this.#sayFarewell();
  }

  #accept(frame: Frame): void {
    if (frame.type === "ACK") this.#ack = frame.lastSeq;
    else if (frame.type === "DATA") this.#count(frame.seq);
    else throw new SyntaxError(`Cannot accept ${frame.type} frame: only the server sends it`);
  }

  #count(seq: number): void {
    this.#frames++;
    if (seq <= this.#received) this.#common.tally.repeats++;
    else if (this.#received > 0 && seq > this.#received + 1) this.#common.tally.gaps++;
    this.#received = Math.max(this.#received, seq);
  }

  #reject(code: number, reason: string): void {
    this.#noteInvalid(reason);
    this.#stop("over");
    this.#ending = "invalid-frame";
    this.#ws.close(code, closeReason(reason));
  }

  #noteInvalid(reason: string): void {
    this.#common.log.each("invalid-frame", () => [`${brief(this.id)}: ${reason}`, { session: this.id }, "warn"]);
  }

  #noteFlood(): void {
    if (this.#state === "closing" || this.#state === "over") return;
    this.#stop("over");
    this.#ending ??= "ping-flood";
  }

  // ---- What goes out

  #send(text: string): void {
    this.#ws.send(Buffer.from(text), TEXT, this.#common.tally.onSent);
  }

  /** DATA with this number, as the client awaits it; faults choose others. */
  sendData(seq: number): void {
    this.#send(encode({ type: "DATA", seq, at: timestamp(), ack: this.#received, ...this.#common.padding }));
  }

  /** Whether what was said before still waits for the peer to read. */
  get #isBehind(): boolean {
    return this.#ws.bufferedAmount > 0;
  }

  get #isFull(): boolean {
    return this.#ws.bufferedAmount > this.#common.settings.maxBufferBytes;
  }

  static #onTick(session: Session): void {
    session.#produce();
  }

  /** The regular message; a peer that does not read skips its turn, and no number is used. */
  #produce(): void {
    if (this.#isFull || this.#ws.readyState !== this.#ws.OPEN) return;
    this.#sent++;
    if (this.#isPlain) this.#send(`Business data: ${clock()}`);
    else this.sendData(this.#sent);
  }

  /** Twice in a silence timeout: two pings without any sign of life are the end. */
  static #checkPulse(session: Session): void {
    if (session.#missedPings < 2) {
      session.#missedPings++;
      if (session.#ws.readyState === session.#ws.OPEN && !session.#isFull) {
        session.#ws.ping(session.#common.tally.onSent);
      }
      return;
    }
    // After a pause of this process the answer may be here, unread: the sockets' turn comes before this.
    setImmediate(() => {
      if (session.#missedPings < 2) return;
      const { id } = session;
      session.#common.log.each(
        "session-silent",
        () => [`${brief(id)} answers no ping: terminated`, { session: id }, "warn"],
      );
      session.cut("silence");
    });
  }

  // ---- Its drain, step by step

  /** Tells that the end has begun, at most `budgetMs` from now; whether anything remains to be sent. */
  announce(budgetMs: number): boolean {
    if (this.#state !== "open") return false;
    this.#state = "draining";
    clearInterval(this.#production);
    const { conduct, settings: { remaining: { least, most }, remainingIntervalMs } } = this.#common;
    const remaining = Math.max(randomInt(least, most + 1), conduct.leastRemaining);
    this.#announced = this.#remaining = remaining;
    if (conduct.givesNotice) {
      const lastSeq = this.#sent + remaining;
      const intervalMs = conduct.remainingIntervalMs(remainingIntervalMs);
      const reason = "server is shutting down";
      const notice = { type: "SHUTDOWN", at: timestamp(), reason, remaining, lastSeq, intervalMs, budgetMs } as const;
      this.#send(this.#isPlain ? "SHUTDOWN" : encode(notice));
    }
    if (remaining === 0) this.#sayFarewell();
    return remaining > 0;
  }

  /** Sends one of the remaining messages; whether there are more. */
  sendRemaining(): boolean {
    if (this.#state !== "draining") return false;
    const nth = this.#announced - this.#remaining + 1;
    if (this.#isFull || !this.#common.conduct.goesOn(nth)) return true; // a slow reader gets its messages later
    this.#remaining--;
    const isBehind = this.#isBehind;
    // The last message, CLOSE and the close frame leave in one write: with thousands of sessions, system calls count.
    this.#socket.cork();
    this.#sent++;
    if (this.#isPlain) this.#send(`Final data: ${clock()} - ${nth}`);
    else this.#common.conduct.sendRemaining(this, this.#sent, nth);
    if (this.#remaining === 0) this.#sayFarewell(isBehind);
    this.#socket.uncork();
    return this.#remaining > 0;
  }

  /** CLOSE and the close frame, once: when the last message is out and the client's last one is in. */
  #sayFarewell(isBehind = this.#isBehind): void {
    if (this.#remaining > 0 || this.#state !== "draining") return;
    const { conduct } = this.#common;
    const awaitsAck = !this.#isPlain && conduct.givesNotice;
    if (awaitsAck && (this.#ack === undefined || this.#received < this.#ack)) return; // #receive comes back here
    // The peer's time to answer begins with the close frame: it must not wait behind what a slow reader has yet to read.
    if (isBehind) return void this.#socket.write("", (error) => error || this.#sayFarewell(false));
    this.#stop("closing");
    const sent = this.#sent;
    const received = this.#received = conduct.receivedAtClose(this.#received);
    if (conduct.saysClose) {
      this.#send(this.#isPlain ? "CLOSE" : encode({ type: "CLOSE", at: timestamp(), sent, received }));
    }
    conduct.end(this);
  }

  /** Sends the close frame; the peer's is awaited. */
  close(): void {
    this.#ws.close(this.#common.settings.closeCode, "server is shutting down");
    this.#socket.once("finish", destroy); // the peer has answered and our FIN is out: nothing more is to come
  }

  /** A close frame without a code. */
  closeWithoutCode(): void {
    this.#ws.close();
  }

  /** A close frame, and a reset in the same breath. */
  closeAndReset(): void {
    this.#socket.uncork(); // what came before must be out by then
    this.close();
    this.#ending = "fault";
    this.#common.reset(this.#socket);
  }

  /** Ends it without a close frame, once all that was said before is out: TLS takes a moment for that. */
  cutOnceSaid(): void {
    this.#socket.uncork();
    this.#socket.write("", () => this.cut("fault"));
  }

  /** Ends it without a close frame, and says why. */
  cut(why: Ending): void {
    if (why !== "fault") this.#stop("over");
    this.#ending = why;
    this.#ws.terminate();
  }

  /** Cuts who has not drained in time, by name. */
  cutAsStraggler(): void {
    const state = `${this.#state}, ${this.#remaining} remaining, ACK ${this.#ack ?? "missing"}`;
    const labels = { session: this.id, remaining: this.#remaining };
    this.#common.log.line("session-cut", `${brief(this.id)} not drained in time: ${state}`, labels, "error");
    this.cut("drain-timeout");
  }

  /** Neither sends nor reads any more, and stays open. */
  fallSilent(): void {
    this.#stop("over");
    clearInterval(this.#heartbeat);
    this.#ws.pause();
  }

  // ---- Its end

  /** Nothing more is sent or counted. */
  #stop(state: "closing" | "over"): void {
    this.#state = state;
    clearInterval(this.#production);
  }

  #conclude(code: number): void {
    const { log, tally, sessions, onEnded } = this.#common;
    const how = this.#ending ?? (code === 1006 ? this.#whoCut() : undefined);
    const outcome = this.#outcome;
    tally.ended(outcome, this.traffic, code);
    this.#stop("over");
    clearInterval(this.#heartbeat);
    sessions.delete(this);
    log.each("session-closed", () => {
      const [id, sent, received] = [this.id, this.#sent, this.#received];
      const by = how === undefined ? "" : `; ended by ${ENDINGS[how]}`;
      return [`${brief(id)} with ${code}: sent ${sent}, received ${received}${by}`, {
        session: id,
        code,
        how,
        sent,
        received,
      }];
    });
    onEnded(outcome);
  }

  /** Who ended a connection that had no closing handshake. */
  #whoCut(): Ending {
    if (this.#socket.errored) return "socket-error";
    return this.#state === "closing" && !this.#socket.readableEnded ? "close-timeout" : "no-close-frame";
  }
}

const TEXT = { binary: false };

function helloOf({ settings, instance }: Common, session: string): Frame {
  return { type: "HELLO", server: settings.name, instance, session, intervalMs: settings.intervalMs };
}

// ---- Tally: what a server has counted

type Outcome = "drained" | "closed_by_peer" | "terminated";
type Reason = "draining" | "full" | "unauthorized" | "bad_request";

/** What a server has counted, and says at the end and on /metrics. */
export class Tally {
  opened = 0;
  probes = 0;
  readonly refused: Record<Reason, number> = { draining: 0, full: 0, unauthorized: 0, bad_request: 0 };
  /** When the last upgrade of a drain was refused, from the signal on. */
  lastRefusedMs = 0;
  readonly outcomes: Record<Outcome, number> = { drained: 0, closed_by_peer: 0, terminated: 0 };
  /** On sessions that have ended. */
  #sent = 0;
  #received = 0;
  /** Drained sessions whose peer did not answer the close frame. */
  unconfirmed = 0;
  /** In the clients' numbering. */
  gaps = 0;
  repeats = 0;
  unsent = 0;

  /** For every send: without a callback, ws drops what comes after close() in silence. */
  readonly onSent = (error?: Error | null): void => {
    if (error) this.unsent++;
  };

  ended(outcome: Outcome, { sent, received }: { sent: number; received: number }, code: number): void {
    this.outcomes[outcome]++;
    if (outcome === "drained" && code === 1006) this.unconfirmed++;
    this.#sent += sent;
    this.#received += received;
  }

  /** Messages of all sessions, those that are open included. */
  messages(open: Iterable<Session>): { sent: number; received: number } {
    const sum = { sent: this.#sent, received: this.#received };
    for (const { traffic: { sent, received } } of open) {
      [sum.sent, sum.received] = [sum.sent + sent, sum.received + received];
    }
    return sum;
  }

  /** How a drain of so many sessions went, as people read it. */
  summary(total: number, seconds: string): string {
    const { outcomes: { drained }, unconfirmed, refused, unsent, gaps, repeats } = this;
    const late = duration(this.lastRefusedMs);
    return [
      `drained ${count(drained, "session")} in ${seconds} s`,
      drained < total && `${grouped(total - drained)} left or cut before the end`,
      unconfirmed > 0 && `${unconfirmed} unconfirmed`,
      refused.draining > 0 && `${count(refused.draining, "new connection")} refused, the last at +${late}`,
      unsent > 0 && `${count(unsent, "message")} unsent`,
      gaps + repeats > 0 && `client sequence: ${count(gaps, "gap")}, ${count(repeats, "repeat")}`,
    ].filter(Boolean).join(", ");
  }
}

// ---- Drain: from the signal to the exit

type Phase = "serving" | "draining" | "closed";

/** The end of a server, and the phase it is in. */
export class Drain {
  readonly #common: Common;
  readonly #release: () => void;
  /** Changed by `#shutDown` alone. */
  #phase: Phase = "serving";
  #signalledAt = 0;
  /** How many it began with: the last of them are as many as the first. */
  #total = 0;
  #onAllGone = (): void => {};

  /** `release` lets go of all that is no session. */
  constructor({ common, release }: { common: Common; release: () => void }) {
    this.#common = common;
    this.#release = release;
  }

  get phase(): Phase {
    return this.#phase;
  }

  get total(): number {
    return this.#total;
  }

  /** Since the signal. */
  get elapsedMs(): number {
    return performance.now() - this.#signalledAt;
  }

  /** Called when a session has ended. */
  sessionEnded(): void {
    if (this.#common.sessions.size === 0) this.#onAllGone();
  }

  /** A first signal drains, a second one exits; resolves when all is over. */
  async onSignal(signal: NodeJS.Signals): Promise<void> {
    const { conduct, log, sessions } = this.#common;
    if (!conduct.heeds(signal)) return;
    if (this.#phase === "serving") return await this.#shutDown(signal);
    log.line("forced", `second signal, ${count(sessions.size, "session")} open: exit 1 at once`, {
      sessions: sessions.size,
    }, "error");
    process.exit(1); // whoever asks twice does not want to wait
  }

  async #shutDown(signal: NodeJS.Signals): Promise<void> {
    const { settings, conduct, log, sessions } = this.#common;
    // 1. From here on /readyz and new upgrades answer 503; the listener stays open, because until the endpoint's
    //    removal has reached every node, clients are still sent here, and a refusal with words beats a closed port.
    this.#phase = "draining";
    this.#signalledAt = performance.now();
    this.#total = sessions.size;
    const labels = { signal, sessions: this.#total };
    log.line("shutdown-signal", `${signal}: draining ${count(this.#total, "session")}`, labels);
    if (!conduct.answersSignal) return sessions.forEach((session) => session.fallSilent());

    // 2. One timer bounds all that follows, and it is set before anything can take long.
    const deadline = conduct.hasDeadline ? setTimeout(() => this.#cutStragglers(), settings.drainTimeoutMs) : undefined;

    // 3. Every session drains by itself; the last one to go ends the wait.
    if (this.#total > 0) {
      const gone = new Promise<void>((resolve) => this.#onAllGone = resolve);
      if (settings.spreadMs === 0) this.#drainTogether([...sessions], this.#signalledAt);
      else for (const session of sessions) this.#drainLater(session);
      await gone;
    }
    clearTimeout(deadline);

    // 4. Nobody is left to be told anything: let go of both ports, and of connections that never said a word.
    this.#phase = "closed";
    this.#release();
    this.#report();
  }

  #report(): void {
    const { log, tally } = this.#common;
    const { outcomes: { drained }, opened, probes, unconfirmed, refused, lastRefusedMs } = tally;
    const seconds = (this.elapsedMs / 1000).toFixed(2);
    log.end();
    log.line("drain-complete", tally.summary(this.#total, seconds), {
      sessions: this.#total,
      seconds: Number(seconds),
      drained,
      opened,
      probes,
      unconfirmed,
      refusedDraining: refused.draining,
      lastRefusedMs,
    }, drained < this.#total ? "warn" : "info");
  }

  #cutStragglers(): void {
    const stragglers = [...this.#common.sessions].filter((session) => !session.hasDrained);
    if (stragglers.length > 0) process.exitCode = 1;
    for (const session of stragglers) session.cutAsStraggler();
  }

  #drainLater(session: Session): void {
    const delayMs = randomInt(this.#common.settings.spreadMs);
    const startAt = this.#signalledAt + delayMs;
    setTimeout(() => this.#drainTogether([session], startAt), delayMs).unref(); // the session may leave first
  }

  /** Drains sessions that start together, with one timer for all: thousands of timers and closures cost as much as the messages. */
  #drainTogether(group: Session[], startAt: number): void {
    const { settings, conduct, sessions } = this.#common;
    const intervalMs = conduct.remainingIntervalMs(settings.remainingIntervalMs);
    const budgetMs = () => Math.max(0, Math.round(settings.drainTimeoutMs - this.elapsedMs));
    let draining = group.filter((session) => session.announce(budgetMs()));
    // Due times count from the planned start: neither late timers nor the time to tell thousands of peers adds up.
    let dueAt = startAt;
    const waitForNext = (): void => {
      dueAt += intervalMs;
      // Sessions keep the process alive, not this timer: they may all leave before it fires.
      if (draining.length > 0) setTimeout(sendNext, Math.max(0, dueAt - performance.now())).unref();
    };
    const sendNext = (): void => {
      draining = draining.filter((session) => session.sendRemaining());
      conduct.afterRound(sessions);
      waitForNext();
    };
    waitForNext();
  }
}

// ---- Token: what a client must bring

/** The token in a file, and for a while the one before it. */
export class Token {
  /** Digests are of one length, which is what a comparison in constant time needs. */
  #digest: Buffer | undefined;
  #old: { digest: Buffer; until: number } | undefined;

  /** Follows the file; without one, everybody may come. */
  constructor({ file, overlapMs, log }: { file: string; overlapMs: number; log: Log }) {
    if (file === "") return;
    const use = ([text]: string[]) => {
      const digest = digestOf(parseToken(text!));
      if (this.#digest !== undefined) this.#old = { digest: this.#digest, until: performance.now() + overlapMs };
      this.#digest = digest;
      log.line("token-loaded", file, { file });
    };
    const refused = (message: string) => log.line("token-refused", `${message}: the old one stays`, { file }, "error");
    followFiles({ "token-file": file }, use, refused);
  }

  get isNeeded(): boolean {
    return this.#digest !== undefined;
  }

  /** Whether this Authorization header opens the door. */
  opens(authorization = ""): boolean {
    if (this.#digest === undefined) return true;
    const digest = digestOf(/^Bearer +(\S+)$/i.exec(authorization)?.[1] ?? "");
    const isOld = this.#old !== undefined && performance.now() < this.#old.until &&
      timingSafeEqual(digest, this.#old.digest);
    return timingSafeEqual(digest, this.#digest) || isOld;
  }
}

// ---- Server: listeners, admission, admin port

/** Why an upgrade is refused, and how that is said. */
interface Refusal {
  when: (request: IncomingMessage) => boolean;
  kind: Reason;
  status: number;
  reason: string | (() => string);
  header?: string;
}

/** The two ports, who is let in, and what is measured. */
export class Server {
  readonly #settings: Settings;
  readonly #log: Log;
  readonly #tally = new Tally();
  readonly #sessions = new Set<Session>();
  readonly #probes = new Set<WebSocket>();
  readonly #token: Token;
  readonly #common: Common;
  readonly #drain: Drain;
  readonly #wss: WebSocketServer;
  readonly #listener: HttpServer;
  readonly #admin: HttpServer;
  /** What TLS runs over, by the peer's port. */
  readonly #tcpSockets = new Map<number | undefined, Socket>();
  #metrics: Awaited<ReturnType<typeof createMetrics>> | undefined;
  #observeDrain = (_ms: number): void => {};

  constructor(settings: Settings) {
    const { fault, tokenFile, tokenOverlapMs } = settings;
    this.#settings = settings;
    this.#log = createLog(
      "server",
      settings.logFormat,
      () => `${this.#drain.phase}, ${count(this.#sessions.size, "session")} open`,
      () => Math.max(this.#sessions.size, this.#drain.total),
    );
    this.#common = {
      settings,
      conduct: conductOf(fault),
      log: this.#log,
      tally: this.#tally,
      padding: settings.payloadBytes > 0 ? { payload: "x".repeat(settings.payloadBytes) } : {},
      instance: randomUUID(),
      sessions: this.#sessions,
      onEnded: (outcome) => this.#onEnded(outcome),
      reset: (socket) => this.#reset(socket),
    };
    this.#drain = new Drain({ common: this.#common, release: () => this.#release() });
    this.#wss = this.#createWebSocketServer();
    this.#listener = this.#createListener();
    this.#token = new Token({ file: tokenFile, overlapMs: tokenOverlapMs, log: this.#log });
    this.#admin = this.#createAdmin();
  }

  get phase(): Phase {
    return this.#drain.phase;
  }

  /** A first signal drains, a second one exits; resolves when all is over. */
  onSignal(signal: NodeJS.Signals): Promise<void> {
    return this.#drain.onSignal(signal);
  }

  /** Listens on both ports and says which they are. Throws `UserError` where it cannot. */
  async start(): Promise<{ port: number; adminPort: number }> {
    const { name, host, port: askedPort, adminPort: askedAdminPort, tlsCert, fault } = this.#settings;
    try {
      const adminPort = await listen(this.#admin, askedAdminPort, host);
      const port = await listen(this.#listener, askedPort, host);
      if (this.#drain.phase !== "serving") { // the signal came in that window
        this.#close();
        return { port, adminPort };
      }
      const address = host || podAddress() || "localhost";
      const shown = address.includes(":") ? `[${address}]` : address;
      const where = `${name} on ${tlsCert === "" ? "ws" : "wss"}://${shown}:${port}/ws, admin port ${adminPort}`;
      const labels = { server: name, instance: this.#common.instance, port, adminPort, fault };
      this.#log.line("listening", fault === "none" ? where : `${where}, fault ${fault}`, labels);
      await this.#exportMetrics();
      return { port, adminPort };
    } catch (error) {
      this.#close();
      throw error;
    }
  }

  #createWebSocketServer(): WebSocketServer {
    const options: ServerOptions & { closeTimeout: number } = {
      noServer: true,
      clientTracking: false,
      perMessageDeflate: false, // buffers of its own for each session, for messages of 100 bytes
      maxPayload: MAX_MESSAGE_BYTES,
      closeTimeout: this.#settings.closeTimeoutMs,
      handleProtocols: (offered) => offered.has(SUBPROTOCOL) ? SUBPROTOCOL : false,
    };
    const wss = new WebSocketServer(options);
    wss.on("wsClientError", (error, socket) => {
      this.#refuse(socket, "bad_request", 400, error.message, "Sec-WebSocket-Version: 13, 8");
    });
    return wss;
  }

  #createListener(): HttpServer {
    const { tlsCert, tlsClientCa, fault } = this.#settings;
    const tls = { minVersion: "TLSv1.2", requestCert: tlsClientCa !== "" } as const;
    const tlsServer = tlsCert === "" ? undefined : createTlsServer(
      { ...PATIENCE, handshakeTimeout: PATIENCE.requestTimeout, ...tls },
      onRequest,
    );
    const listener = tlsServer ?? createServer(PATIENCE, onRequest);
    listener.on("upgrade", (request, socket, head) => this.#onUpgrade(request, socket, head));
    if (tlsServer === undefined) return listener;
    if (fault === "reset") tlsServer.on("connection", (socket) => this.#tcpSockets.set(socket.remotePort, socket));
    tlsServer.on("tlsClientError", (error) => {
      this.#tally.refused.bad_request++;
      this.#log.each("upgrade-refused", () => [`TLS: ${error.message}`, { reason: error.message }]);
    });
    this.#followCertificate(tlsServer, tls);
    return listener;
  }

  #followCertificate(server: HttpsServer, tls: { minVersion: "TLSv1.2"; requestCert: boolean }): void {
    const { tlsCert, tlsKey, tlsClientCa } = this.#settings;
    const files = { "tls-cert": tlsCert, "tls-key": tlsKey, ...tlsClientCa && { "tls-client-ca": tlsClientCa } };
    const use = ([cert, key, ca]: string[]) => {
      checkPair(cert!, key!);
      if (ca !== undefined) checkCertificates(ca);
      server.setSecureContext({ ...tls, cert, key, ca });
      this.#log.line("tls-loaded", tlsCert, { file: tlsCert });
    };
    const refused = (message: string) =>
      this.#log.line("tls-refused", `${message}: the old one stays`, { file: tlsCert }, "error");
    followFiles(files, use, refused);
  }

  #createAdmin(): HttpServer {
    return createAdmin({
      "/healthz": () => ({ status: 200, body: "ok\n" }),
      "/readyz": () => {
        const { phase } = this.#drain;
        return phase === "serving" ? { status: 200, body: "ready\n" } : { status: 503, body: `${phase}\n` };
      },
      "/metrics": () => this.#metrics?.route() ?? { status: 503, body: "starting\n" },
    });
  }

  async #exportMetrics(): Promise<void> {
    const metrics = this.#metrics = await createMetrics("server");
    const tally = this.#tally;
    const messages = () => byLabel("direction", tally.messages(this.#sessions));
    const outcomes = () => byLabel("outcome", tally.outcomes);
    const refusals = () => byLabel("reason", tally.refused);
    metrics.gauge("sessions", "Open sessions", () => this.#sessions.size);
    metrics.gauge("draining", "1 from the signal on", () => this.#drain.phase === "serving" ? 0 : 1);
    metrics.counter("sessions_total", "Ended sessions by outcome", ["outcome"], outcomes);
    metrics.counter("messages_total", "Messages by direction", ["direction"], messages);
    metrics.counter("refused_upgrades_total", "Refused upgrades by reason", ["reason"], refusals);
    this.#observeDrain = metrics.histogram("drain_seconds", "From the signal to the end of each drained session");
  }

  // ---- Admission

  /** Who is not let in, and why: the first that holds is told. */
  readonly #refusals: readonly Refusal[] = [
    {
      when: ({ url }) => url?.split("?")[0] !== "/ws",
      kind: "bad_request",
      status: 404,
      reason: "WebSocket is on /ws",
    },
    {
      when: ({ headers }) => !this.#token.opens(headers.authorization),
      kind: "unauthorized",
      status: 401,
      reason: "a token is needed",
      header: "WWW-Authenticate: Bearer",
    },
    {
      when: ({ headers }) => !this.#isAllowed(headers.origin),
      kind: "unauthorized",
      status: 403,
      reason: "this origin is not let in",
    },
    {
      when: () => this.#drain.phase !== "serving",
      kind: "draining",
      status: 503,
      reason: () => `draining for ${duration(this.#tally.lastRefusedMs = Math.round(this.#drain.elapsedMs))}`,
      header: "Retry-After: 1",
    },
    {
      when: () => this.#sessions.size + this.#probes.size >= this.#settings.maxSessions,
      kind: "full",
      status: 503,
      reason: "full",
      header: "Retry-After: 1",
    },
  ];

  /** A browser does not ask before it opens a WebSocket, but says whose page it is. */
  #isAllowed(origin: string | undefined): boolean {
    const { allowOrigin } = this.#settings;
    if (origin === undefined || allowOrigin.includes("*")) return true;
    return allowOrigin.length > 0 ? allowOrigin.includes(origin) : !this.#token.isNeeded;
  }

  #onUpgrade(request: IncomingMessage, socket: Duplex, head: Buffer): void {
    socket.on("error", ignore);
    const refusal = this.#refusals.find(({ when }) => when(request));
    if (refusal !== undefined) {
      const { kind, status, reason, header } = refusal;
      return this.#refuse(socket, kind, status, typeof reason === "string" ? reason : reason(), header);
    }
    this.#wss.handleUpgrade(request, socket, head, (ws) => {
      socket.off("error", ignore); // ws listens from here on
      if (request.headers[PROBE_HEADER] === undefined) this.#openSession(ws, request.socket);
      else this.#openProbe(ws);
    });
  }

  #refuse(socket: Duplex, kind: Reason, status: number, reason: string, header?: string): void {
    this.#tally.refused[kind]++;
    this.#log.each("upgrade-refused", () => [`${status}: ${reason}`, { status, reason }]);
    const body = `${reason}\n`;
    const head = [
      `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
      "Connection: close",
      "Content-Type: text/plain",
      `Content-Length: ${Buffer.byteLength(body)}`,
      ...header === undefined ? [] : [header],
    ];
    socket.once("finish", () => socket.destroy());
    socket.end(`${head.join("\r\n")}\r\n\r\n${body}`);
  }

  #openSession(ws: WebSocket, socket: Socket): void {
    this.#tally.opened++;
    this.#sessions.add(new Session({ ws, socket, common: this.#common }));
    if (this.#tally.opened === 1) this.#common.conduct.firstOpened();
  }

  /** A probe only asks who is here: it is no session, is not drained, and has its own count. */
  #openProbe(ws: WebSocket): void {
    this.#tally.probes++;
    this.#probes.add(ws);
    const limit = setTimeout(() => ws.terminate(), this.#settings.silenceTimeoutMs);
    ws.on("error", ignore);
    ws.on("close", () => {
      clearTimeout(limit);
      this.#probes.delete(ws);
    });
    if (ws.protocol === SUBPROTOCOL) ws.send(encode(helloOf(this.#common, randomUUID())), this.#tally.onSent);
  }

  // ---- Ends

  #onEnded(outcome: Outcome): void {
    if (outcome === "drained") this.#observeDrain(this.#drain.elapsedMs);
    this.#drain.sessionEnded();
  }

  /** In the same breath as what was written before; TLS hands that on a moment later. */
  #reset(socket: Socket): void {
    const tcpSocket = this.#tcpSockets.get(socket.remotePort);
    if (tcpSocket === undefined) return void socket.resetAndDestroy();
    socket.pause(); // at the peer's answer ws would end it in order
    setImmediate(() => tcpSocket.resetAndDestroy());
  }

  #release(): void {
    for (const probe of this.#probes) probe.terminate();
    this.#close();
  }

  #close(): void {
    for (const listener of [this.#listener, this.#admin]) {
      listener.close();
      listener.closeAllConnections();
    }
  }
}

function onRequest(_request: IncomingMessage, response: ServerResponse): void {
  response.writeHead(426, { "content-type": "text/plain", connection: "close, upgrade", upgrade: "websocket" });
  response.end("This port speaks WebSocket on /ws; health checks are on the admin port.\n");
}

function digestOf(token: string): Buffer {
  return createHash("sha256").update(token).digest();
}

/** Enough of an id for people to tell sessions apart; the labels have all of it. */
function brief(id: string): string {
  return id.slice(0, 8);
}

/** Where a pod's server is reached: nobody calls it localhost there. Undefined outside of a cluster. */
function podAddress(): string | undefined {
  if (process.env["KUBERNETES_SERVICE_HOST"] === undefined) return undefined;
  return Object.values(networkInterfaces()).flat().find((one) => one?.internal === false)?.address;
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
