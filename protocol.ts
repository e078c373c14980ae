/**
 * What server and client agree on, in two halves. First the contract, all of it
 * pure (no socket, no clock, no console): frames, the ledger of a session, the
 * judgement of a handover, the evidence of a cluster. Then the conventions that
 * both programs follow: numbers, settings, log lines, files, admin port.
 *
 * ```
 * client                                   server
 *   |------------- upgrade ------------------>|
 *   |<------------ HELLO ---------------------|   who you reached
 *   |<============ DATA seq 1.. ==============|   at once, then every interval (2 s)
 *   |============= DATA seq n.. =============>|   at once, then every interval (2 s)
 *   |                                         |   <- SIGTERM
 *   |<------------ SHUTDOWN ------------------|   announces lastSeq: what is still to come
 *   |------------- ACK ---------------------->|   announces the client's lastSeq; it sends no more DATA here
 *   |<============ DATA .. lastSeq ===========|   1-10 remaining messages
 *   |<------------ CLOSE ---------------------|   final counts, once the client's last message is in too
 *   |<=========== close frame 1001 ==========>|   then FIN
 *   |------------- upgrade (elsewhere) ------>|
 * ```
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { existsSync, readFileSync } from "node:fs";
import { createServer, type Server, type ServerResponse } from "node:http";
import { isIPv4 } from "node:net";
import { hostname, networkInterfaces } from "node:os";
import process from "node:process";
import { setFlagsFromString } from "node:v8";
import kleur from "kleur";
import mri from "mri";
import manifest from "./package.json" with { type: "json" };

// ==== The contract ==========================================================================

// ---- Frames: one JSON object per text frame ------------------------------------------------

/** The WebSocket subprotocol (RFC 6455 section 1.9) under which frames are spoken; without it: plain text lines. */
export const SUBPROTOCOL = "graceful-shutdown.v1";

/** Largest message that either side accepts, in bytes; above it the close code is 1009. */
export const MAX_MESSAGE_BYTES = 64 * 1024;

/** Largest padding of a DATA frame, in bytes: the rest of the frame must fit as well. */
export const MAX_PAYLOAD_BYTES = 60_000;

/** Request header that marks a connection as a probe: it gets HELLO and nothing else. */
export const PROBE_HEADER = "graceful-shutdown-probe";

/** One message of the subprotocol. `at` is ISO 8601 with milliseconds, `ack` and `received` are the highest `seq` that came in. */
// deno-fmt-ignore
export type Frame =
  | { type: "HELLO"; server: string; instance: string; session: string; intervalMs: number }
  | { type: "DATA"; seq: number; at: string; ack: number; payload?: string }
  | { type: "SHUTDOWN"; at: string; reason: string; remaining: number; lastSeq: number; intervalMs: number; budgetMs: number }
  | { type: "ACK"; lastSeq: number }
  | { type: "CLOSE"; at: string; sent: number; received: number };

type Check = [holds: (value: unknown) => boolean, rule: string];
const isCount = (value: unknown): boolean => Number.isSafeInteger(value) && (value as number) >= 0;
const isText = (value: unknown): value is string => typeof value === "string";
const ISO_8601 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d)$/;

const COUNT: Check = [isCount, "must be an integer from 0 on"];
const POSITIVE: Check = [(value) => isCount(value) && value !== 0, "must be a positive integer"];
const TEXT: Check = [isText, "must be a string"];
const NAME: Check = [(value) => isText(value) && value !== "", "must be a non-empty string"];
const PADDING: Check = [(value) => value === undefined || isText(value), "must be a string, where there is one"];
const TIME: Check = [(value) => isText(value) && ISO_8601.test(value), "must be an ISO 8601 time with milliseconds"];

const SHAPES: Record<Frame["type"], Record<string, Check>> = {
  HELLO: { server: NAME, instance: NAME, session: NAME, intervalMs: POSITIVE },
  DATA: { seq: POSITIVE, at: TIME, ack: COUNT, payload: PADDING },
  SHUTDOWN: { at: TIME, reason: TEXT, remaining: COUNT, lastSeq: COUNT, intervalMs: COUNT, budgetMs: COUNT },
  ACK: { lastSeq: COUNT },
  CLOSE: { at: TIME, sent: COUNT, received: COUNT },
};

/** The text of one frame, as it goes over the wire. */
export function encode(frame: Frame): string {
  return JSON.stringify(frame);
}

/** The frame in one text message; fields it does not know are ignored. Throws `SyntaxError` naming field, rule and value. */
export function decode(text: string): Frame {
  let value: Record<string, unknown> | null;
  try {
    value = JSON.parse(text);
  } catch {
    throw new SyntaxError(`Cannot decode frame: must be JSON: current value is ${excerpt(text)}`);
  }
  const type = value?.["type"];
  if (!isText(type) || !Object.hasOwn(SHAPES, type)) {
    const known = Object.keys(SHAPES).join(", ");
    throw new SyntaxError(`Cannot decode frame: 'type' must be one of ${known}: current value is ${excerpt(type)}`);
  }
  const shape = SHAPES[type as Frame["type"]];
  for (const field in shape) {
    const [holds, rule] = shape[field]!;
    if (holds(value![field])) continue;
    throw new SyntaxError(
      `Cannot decode ${type} frame: '${field}' ${rule}: current value is ${excerpt(value![field])}`,
    );
  }
  return value as Frame;
}

/** A peer's value in at most 41 characters. It may be nested ten thousand deep: of a structure only its kind is told. */
function excerpt(value: unknown): string {
  if (typeof value === "object" && value !== null) return Array.isArray(value) ? "an array" : "an object";
  const text = isText(value) ? JSON.stringify(value.slice(0, 40)) : String(value);
  return text.length > 40 ? `${text.slice(0, 40)}…` : text;
}

/** A close reason that fits a close frame: at most 123 bytes of UTF-8 (RFC 6455 section 5.5), its last character whole. */
export function closeReason(text: string): string {
  return text.slice(0, new TextEncoder().encodeInto(text, new Uint8Array(123)).read);
}

/** Whether a close code may stand in a close frame (RFC 6455 section 7.4). */
export function isSendableCloseCode(code: number): boolean {
  return (code >= 1000 && code <= 1014 && ![1004, 1005, 1006].includes(code)) || (code >= 3000 && code <= 4999);
}

// ---- Dialects: how an application speaks, as data ----------------------------------------------

/**
 * The parts of a dialect as a file has them (`--dialect my-app.json`). Patterns are regular expressions. A message is its
 * text; a binary one that is no text is `hex:` and its digits, to be sent as to be matched.
 */
export interface DialectParts {
  /** What the upgrade offers, and its headers. */
  subprotocol?: string[];
  headers?: Record<string, string>;
  /** What is said once the connection is open, in order. */
  open?: string[];
  /** The message from which on the session counts; without it: the upgrade. */
  ready?: string;
  /** What to answer to what; `$1` is the pattern's first group. */
  replies?: Record<string, string>;
  /** What we say how often: `TEXT@25s`. */
  heartbeat?: string;
  /** The messages that announce a shutdown, and end one. */
  notice?: string;
  farewell?: string;
  /** One group: a number that rises by one in each session. */
  sequence?: string;
  /** Who answers: one group of a message, or `header:NAME` of the upgrade's answer. */
  server?: string;
  /** Graceful close codes. */
  codes?: number[];
}

interface KnownParts extends DialectParts {
  /** Its messages are frames, and both sides number theirs. */
  isFramed?: true;
  /** A first message from which `auto` knows it. */
  greeting?: string;
  expect?: readonly Rule[];
}

/** Finds something in a message: the match and its groups, or null. */
export type Pattern = (text: string) => readonly (string | undefined)[] | null;

/** A dialect, ready to be spoken. `expect`: the rules that count unless others are asked for. */
export interface Dialect {
  name: string;
  isFramed: boolean;
  subprotocol: readonly string[];
  headers: Readonly<Record<string, string>>;
  open: readonly string[];
  greeting: Pattern | undefined;
  ready: Pattern | undefined;
  replies: readonly (readonly [pattern: Pattern, text: string])[];
  heartbeat: { text: string; everyMs: number } | undefined;
  notice: Pattern | undefined;
  farewell: Pattern | undefined;
  sequence: Pattern | undefined;
  server: Pattern | undefined;
  serverHeader: string | undefined;
  codes: readonly number[];
  expect: readonly Rule[];
}

/** Close codes that are graceful by default: going away, and service restart, with which many drain. */
const GRACEFUL_CODES = [1001, 1012];

/** The dialects that are known by name; docs/your-application.md says of each what a graceful end is. */
// deno-fmt-ignore
const KNOWN_DIALECTS: Record<string, KnownParts> = {
  v1: { isFramed: true, subprotocol: [SUBPROTOCOL], codes: [1001], expect: ["notice", "complete", "farewell", "clean", "moved"] },
  // The words of the program that this one comes from; whoever does not use them is judged by the end of the connection.
  plain: { notice: "^SHUTDOWN$", sequence: "^Final data: .* - (\\d+)$", farewell: "^CLOSE$" },
  "socket.io": {
    greeting: '^0\\{"sid"', replies: { '^0\\{': "40", "^2$": "3" }, ready: "^40", farewell: "^41", codes: [1000, 1001, 1005, 1012],
  },
  "graphql-transport-ws": {
    subprotocol: ["graphql-transport-ws"], open: ['{"type":"connection_init"}'], ready: '"type":"connection_ack"',
    replies: { '"type":"ping"': '{"type":"pong"}' },
  },
  "graphql-ws": { subprotocol: ["graphql-ws"], open: ['{"type":"connection_init","payload":{}}'], ready: '"type":"connection_ack"' },
  signalr: {
    open: ['{"protocol":"json","version":1}\x1e'], ready: "^\\{\\}\x1e", heartbeat: '{"type":6}\x1e@10s',
    // Without allowReconnect it is an error's.
    farewell: '(?:^|\x1e)\\{"type":7,[^\x1e]*"allowReconnect":true', codes: [1000, 1001, 1012],
  },
  actioncable: {
    subprotocol: ["actioncable-v1-json"], greeting: '"type":"welcome"', ready: '"type":"welcome"',
    farewell: '^\\{"type":"disconnect".*"reason":"server_restart"', codes: [1000, 1001, 1012],
  },
  phoenix: { heartbeat: '[null,"1","phoenix","heartbeat",{}]@30s', codes: [1000, 1001, 1012] },
  centrifugo: { open: ['{"id":1,"connect":{}}'], ready: '"connect":', replies: { "^\\{\\}$": "{}" }, codes: [1001, 1012, 3001] },
  sockjs: { greeting: "^o$", ready: "^o$", farewell: "^c\\[", codes: [1000, 1001, 1012] },
  stomp: {
    subprotocol: ["v12.stomp"], open: ["CONNECT\naccept-version:1.2\nhost:/\nheart-beat:10000,10000\n\n\0"],
    ready: "^CONNECTED\r?\n", heartbeat: "\n@5s",
  },
  mqtt: {
    // CONNECT: MQTT 5, clean start, 60 s of keep-alive, no client identifier; PINGREQ; CONNACK that lets in; DISCONNECT 0x8B.
    // CONNACK may come in pieces, as from aedes: then the answer to the ping is what shows that it let in.
    subprotocol: ["mqtt"], open: ["hex:100d00044d5154540502003c000000", "hex:c000"], ready: "^hex:20....00|^hex:d0", heartbeat: "hex:c000@30s",
    farewell: "^hex:e0..8b", codes: [1000, 1001, 1012],
  },
  nats: {
    greeting: "^INFO \\{", open: ['CONNECT {"verbose":false,"pedantic":false,"protocol":1}\r\n', "PING\r\n"], ready: "^PONG",
    replies: { "^PING": "PONG\r\n" }, notice: '"ldm":true', codes: [1000, 1001, 1012],
  },
};

/** The names of all dialects that are known. */
export const DIALECTS: readonly string[] = Object.keys(KNOWN_DIALECTS);

const compiled = new Map<string, Dialect>();

/** A dialect by its name. */
export function dialectNamed(name: string): Dialect {
  const dialect = compiled.get(name) ?? compileDialect(name, KNOWN_DIALECTS[name]!, {}, (source) => {
    const pattern = new RegExp(source, "s"); // ours take linear time: what repeats has but one place to begin
    return (text) => pattern.exec(text);
  });
  compiled.set(name, dialect);
  return dialect;
}

/** Those that a first message may betray. */
export function betrayed(text: string): Dialect | undefined {
  const name = DIALECTS.find((name) => KNOWN_DIALECTS[name]!.greeting && dialectNamed(name).greeting!(text));
  return name === undefined ? undefined : dialectNamed(name);
}

/**
 * A dialect by name, or one of its own (`parts` of a file), with further parts that replace its own. What is asked for by
 * parts is expected as well: who gives a pattern for the notice wants notices. Throws `RangeError` naming part and rule.
 */
export function describeDialect(name: string, parts: DialectParts | undefined, own: DialectParts): Dialect {
  const known: KnownParts = parts ?? KNOWN_DIALECTS[name]!;
  if (parts === undefined && Object.keys(own).length === 0) return dialectNamed(name);
  if (known.isFramed) throw new RangeError(`${Object.keys(own)[0]} cannot be changed in ${name}`);
  return compileDialect(name, known, own, linear, parts === undefined ? own : { ...parts, ...own });
}

function compileDialect(
  name: string,
  known: KnownParts,
  own: DialectParts,
  compile: (source: string) => Pattern,
  asked: DialectParts = {},
): Dialect {
  const parts: KnownParts = { ...known, ...own };
  const pattern = (part: keyof DialectParts | "greeting", groups = 0): Pattern | undefined => {
    const source = parts[part];
    return typeof source === "string" ? checkGroups(part, source, groups, compile) : undefined;
  };
  const expected: Partial<Record<Rule, unknown>> = {
    notice: asked.notice,
    complete: asked.sequence,
    farewell: asked.farewell,
    clean: true,
    moved: true,
  };
  const header = /^header:(.+)$/.exec(parts.server ?? "")?.[1];
  return {
    name,
    isFramed: parts.isFramed ?? false,
    subprotocol: parts.subprotocol ?? [],
    headers: parts.headers ?? {},
    open: (parts.open ?? []).map((text) => checkMessage("open", text)),
    greeting: pattern("greeting"),
    ready: pattern("ready"),
    replies: Object.entries(parts.replies ?? {}).map(([source, text]) => {
      return [checkGroups("replies", source, 0, compile), checkMessage("replies", text)] as const;
    }),
    heartbeat: parts.heartbeat === undefined ? undefined : parseHeartbeat(parts.heartbeat),
    notice: pattern("notice"),
    farewell: pattern("farewell"),
    sequence: pattern("sequence", 1),
    server: header === undefined ? pattern("server", 1) : undefined,
    serverHeader: header?.toLowerCase(),
    codes: parts.codes ?? GRACEFUL_CODES,
    expect: parts.expect ?? RULES.filter((rule) => expected[rule]),
  };
}

/** As long as a message may be to have something found in it: the beginning of a longer one. */
const MATCHED_LENGTH = 8192;

/**
 * A pattern of somebody's own, by V8's engine that takes linear time (flag `l`): a message that makes another one backtrack
 * for ever would stop the witness. It has no back references and no lookahead.
 */
function linear(source: string): Pattern {
  setFlagsFromString("--enable-experimental-regexp-engine");
  let pattern: RegExp;
  try {
    pattern = new RegExp(source, "l");
  } catch (error) {
    const { message } = error as Error;
    throw new RangeError(
      /flags/.test(message)
        ? "needs V8's linear engine: deno run --v8-flags=--enable-experimental-regexp-engine"
        : `must be a regular expression without back references and lookaround (${
          message.slice(message.lastIndexOf(": ") + 2)
        })`,
    );
  }
  return (text) => pattern.exec(text.slice(0, MATCHED_LENGTH));
}

function checkGroups(part: string, source: string, groups: number, compile: (source: string) => Pattern): Pattern {
  let pattern: Pattern;
  try {
    pattern = compile(source);
  } catch (error) {
    throw new RangeError(`'${part}' ${(error as Error).message}: ${excerpt(source)}`);
  }
  if (groups === 0 || new RegExp(`${source}|`).exec("")!.length - 1 === groups) return pattern;
  throw new RangeError(`'${part}' must have one group, which is what it finds: ${excerpt(source)}`);
}

function checkMessage(part: string, text: string): string {
  if (/^hex:(?!([\da-f]{2})*$)/i.test(text)) {
    throw new RangeError(`'${part}' must have two hexadecimal digits a byte after hex: ${excerpt(text)}`);
  }
  return text;
}

function parseHeartbeat(said: string): { text: string; everyMs: number } {
  const [, text, every = ""] = /^(.+)@([^@]+)$/s.exec(said) ?? [];
  if (text === undefined) throw new RangeError(`'heartbeat' must be TEXT@25s: ${excerpt(said)}`);
  try {
    return { text: checkMessage("heartbeat", text), everyMs: milliseconds(10)(every) };
  } catch (error) {
    throw new RangeError(`'heartbeat' must be TEXT@25s, and its duration ${(error as Error).message}`);
  }
}

const isList = (holds: (value: unknown) => boolean) => (value: unknown): boolean =>
  Array.isArray(value) && value.every(holds);
const isTexts = (value: unknown): boolean =>
  typeof value === "object" && value !== null && !Array.isArray(value) && Object.values(value).every(isText);
const TEXTS: Check = [isList(isText), "must be a list of strings"];
const PAIRS: Check = [isTexts, "must be an object whose values are strings"];
const CODES: Check = [
  isList((value) => value === 1005 || isSendableCloseCode(value as number)),
  "must be a list of close codes that may be sent (1000-1014 except 1004-1006, 3000-4999), or 1005",
];

const PARTS: Record<keyof DialectParts, Check> = {
  subprotocol: TEXTS,
  headers: PAIRS,
  open: TEXTS,
  ready: NAME,
  replies: PAIRS,
  heartbeat: NAME,
  notice: NAME,
  farewell: NAME,
  sequence: NAME,
  server: NAME,
  codes: CODES,
};

/** The dialect that a file describes. Throws `RangeError` naming part and rule. */
export function parseDialect(text: string): DialectParts {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new RangeError(`must be JSON: ${(error as Error).message}`);
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new RangeError("must be an object");
  for (const [part, found] of Object.entries(value)) {
    if (!Object.hasOwn(PARTS, part)) {
      throw new RangeError(`has an unknown part ${excerpt(part)}: its parts are ${Object.keys(PARTS).join(", ")}`);
    }
    const [holds, rule] = PARTS[part as keyof DialectParts];
    if (!holds(found)) throw new RangeError(`'${part}' ${rule}: current value is ${excerpt(found)}`);
  }
  return value as DialectParts;
}

/** A binary message as patterns see it: its text where it is one, else `hex:` and its digits. */
export function binaryText(data: Uint8Array): string {
  const text = Buffer.from(data.subarray(0, MATCHED_LENGTH)).toString();
  // deno-lint-ignore no-control-regex
  return /[\0-\x08\x0e-\x1f\ufffd]/.test(text) ? `hex:${Buffer.from(data).toString("hex", 0, MATCHED_LENGTH)}` : text;
}

/** What goes over the wire for a message of a dialect. */
export function wireOf(text: string): string | Uint8Array {
  return text.startsWith("hex:") ? Buffer.from(text.slice(4), "hex") : text;
}

// ---- Ledger: what one session has shown us ---------------------------------------------------

/** Inclusive range of sequence numbers. */
export type Range = [from: number, to: number];

/** How the transport ended: an orderly end, a reset or another socket error, nothing at all; `open`: not yet, when the run ended. */
export type How = "fin" | "reset" | "silence" | "open";

/** Everything that can happen to a session, frames included; `OPEN` and `TEXT` (a message, "" for a pong) are those of other dialects. */
export type SessionEvent =
  | Frame
  | { type: "OPEN"; server?: string | undefined }
  | { type: "TEXT"; text: string }
  | { type: "SENT"; seq: number; again: boolean }
  | { type: "CLOSE_FRAME"; code: number; reason: string }
  | { type: "END"; how: How };

/** What is known of one session, from the client's side. Times are milliseconds of a monotonic clock. */
export class Ledger {
  readonly url: string;
  dialect: Dialect;
  /** Name and instance of the server; where it does not say who it is the URL and "". */
  server: string;
  instance = "";
  session = "";
  /** The pod at the connection's other end, where its address is known. */
  pod: string | undefined;
  /** Longest regular pause between two signs of life; SHUTDOWN changes it. */
  dueMs: number;
  openedAt: number | undefined;
  firstDataAt: number | undefined;
  lastDataAt: number | undefined;
  /** Distinct DATA received, and the highest `seq` among them; in other dialects: all messages, and whether one was numbered. */
  received = 0;
  highest = 0;
  isNumbered = false;
  missing: Range[] = [];
  duplicated: Range[] = [];
  reordered: Range[] = [];
  /** First and last `seq` that we sent on this session (0: none), and how many of them went over another one before. */
  sentFirst = 0;
  sentLast = 0;
  resent = 0;
  /** Highest `ack` from the server, highest of ours, and the `lastSeq` of our ACK. */
  acked = 0;
  ackGiven = 0;
  ackSent: number | undefined;
  noticeAt: number | undefined;
  notice: { remaining: number; lastSeq: number } | undefined;
  /** As SHUTDOWN found them. */
  receivedAtNotice = 0;
  highestAtNotice = 0;
  closeAt: number | undefined;
  close: { sent: number; received: number } | undefined;
  /** Messages after CLOSE, which must be the last one. */
  afterClose = 0;
  /** From the close frame: 1005 for one without a code, undefined where there was none. */
  closeCode: number | undefined;
  closeReason = "";
  endedAt: number | undefined;
  how: How | undefined;
  /** Why we gave the session up, where we did. */
  complaint: string | undefined;

  constructor(url: string, dialect: Dialect | string, dueMs: number) {
    this.url = this.server = url;
    this.dialect = typeof dialect === "string" ? dialectNamed(dialect) : dialect;
    this.dueMs = dueMs;
  }
}

/** Ranges that a ledger keeps: a server that jumps to and fro must not fill our memory. */
const MAX_RANGES = 100;

/** Enters one event, which happened at `at` ms, into the ledger. Throws `SyntaxError` for a frame that has no place here. */
export function observe(ledger: Ledger, event: SessionEvent, at: number): void {
  switch (event.type) {
    case "HELLO":
      if (ledger.openedAt !== undefined) throw misplaced(event, "after HELLO");
      ledger.openedAt = at;
      ledger.isNumbered = true;
      ledger.dueMs = event.intervalMs;
      // No longer than a pod's name can be: they are kept, and shown to people.
      for (const name of ["server", "instance", "session"] as const) ledger[name] = shortened(event[name]);
      break;
    case "DATA":
      if (ledger.openedAt === undefined) throw misplaced(event, "before HELLO");
      ledger.acked = Math.max(ledger.acked, event.ack);
      signOfLife(ledger, at);
      if (ledger.closeAt !== undefined) ledger.afterClose++;
      arrive(ledger, event.seq);
      break;
    case "SHUTDOWN":
      if (ledger.openedAt === undefined) throw misplaced(event, "before HELLO");
      if (ledger.noticeAt !== undefined) throw misplaced(event, "after SHUTDOWN");
      if (ledger.closeAt !== undefined) throw misplaced(event, "after CLOSE");
      ledger.notice = { remaining: event.remaining, lastSeq: event.lastSeq };
      ledger.dueMs = event.intervalMs;
      notice(ledger, at);
      break;
    case "ACK": // ours
      ledger.ackSent = event.lastSeq;
      break;
    case "CLOSE":
      if (ledger.openedAt === undefined) throw misplaced(event, "before HELLO");
      if (ledger.closeAt !== undefined) throw misplaced(event, "after CLOSE");
      ledger.close = { sent: event.sent, received: event.received };
      ledger.closeAt = at;
      break;
    case "OPEN":
      ledger.openedAt = at;
      if (event.server !== undefined) ledger.server = ledger.instance = shortened(event.server);
      break;
    case "TEXT":
      signOfLife(ledger, at);
      if (event.text !== "") hear(ledger, event.text, at); // else a pong
      break;
    case "SENT":
      ledger.sentFirst ||= event.seq;
      ledger.sentLast = event.seq;
      ledger.ackGiven = ledger.highest;
      if (event.again) ledger.resent++;
      break;
    case "CLOSE_FRAME":
      ledger.closeCode = event.code;
      ledger.closeReason = event.reason;
      break;
    case "END":
      ledger.endedAt = at;
      ledger.how = event.how;
  }
}

/** Enters what a message says in its dialect. */
function hear(ledger: Ledger, text: string, at: number): void {
  const { dialect } = ledger;
  if (ledger.closeAt !== undefined) ledger.afterClose++;
  const name = serverIn(dialect, text);
  if (name !== undefined && ledger.instance === "") ledger.server = ledger.instance = name;
  const seq = Number(dialect.sequence?.(text)?.[1] ?? NaN);
  if (isCount(seq)) {
    if (!ledger.isNumbered) ledger.highest = seq - 1; // a session may begin with any
    ledger.isNumbered = true;
    arrive(ledger, seq);
  } else if (isMessage(dialect, text)) ledger.received++;
  if (dialect.notice?.(text)) notice(ledger, at);
  if (dialect.farewell?.(text)) ledger.closeAt ??= at;
}

/** The name by which a message tells who sends it. */
export function serverIn({ server }: Dialect, text: string): string | undefined {
  const name = server?.(text)?.[1];
  return name ? shortened(name) : undefined;
}

/** A copy: a slice would keep the whole message in memory. */
function shortened(name: string): string {
  return Buffer.from(name.slice(0, 253)).toString();
}

function misplaced(event: SessionEvent, place: string): SyntaxError {
  return new SyntaxError(`Cannot accept ${event.type} frame: it came ${place}`);
}

/** The HELLO that a text is, if it is one: only that tells a server that speaks v1 from one that selects whatever is offered. */
export function helloIn(text: string): Frame | undefined {
  try {
    const frame = decode(text);
    return frame.type === "HELLO" ? frame : undefined;
  } catch {
    return undefined;
  }
}

/** Whether a text is a message, and not a pong or one of the dialect's own words for a shutdown. */
export function isMessage({ notice, farewell }: Dialect, text: string): boolean {
  return text !== "" && !notice?.(text) && !farewell?.(text);
}

function signOfLife(ledger: Ledger, at: number): void {
  ledger.firstDataAt ??= at;
  ledger.lastDataAt = at;
}

function notice(ledger: Ledger, at: number): void {
  if (ledger.noticeAt !== undefined) return;
  ledger.noticeAt = at;
  ledger.receivedAtNotice = ledger.received;
  ledger.highestAtNotice = ledger.highest;
}

function arrive(ledger: Ledger, seq: number): void {
  if (seq > ledger.highest) {
    if (seq > ledger.highest + 1) ledger.missing.push([ledger.highest + 1, seq - 1]);
    ledger.highest = seq;
    ledger.received++;
    return checkRanges(ledger);
  }
  const gap = ledger.missing.findIndex(([from, to]) => from <= seq && seq <= to);
  if (gap < 0) {
    extend(ledger.duplicated, seq);
  } else {
    const [from, to] = ledger.missing[gap]!;
    const rest: Range[] = [[from, seq - 1], [seq + 1, to]];
    ledger.missing.splice(gap, 1, ...rest.filter(([first, last]) => first <= last));
    ledger.received++;
    extend(ledger.reordered, seq);
  }
  checkRanges(ledger);
}

function extend(ranges: Range[], seq: number): void {
  const last = ranges.at(-1);
  if (last?.[1] === seq - 1) last[1] = seq;
  else ranges.push([seq, seq]);
}

function checkRanges(ledger: Ledger): void {
  if (ledger.missing.length + ledger.duplicated.length + ledger.reordered.length > MAX_RANGES) {
    throw new SyntaxError(`Cannot accept DATA frame: more than ${MAX_RANGES} gaps, repeats and late messages`);
  }
}

/** Up to which `seq` the session's messages reach the server for certain: what is above must be sent again elsewhere. */
export function confirmedUpTo(ledger: Ledger, before: number): number {
  // An `ack` speaks of its own session only; CLOSE has the last word, even when it takes an `ack` back.
  const claimed = ledger.close?.received ?? ledger.acked;
  if (ledger.sentFirst === 0) return before;
  return Math.max(ledger.sentFirst - 1, Math.min(claimed, ledger.sentLast));
}

/** Whether both sides have confirmed a message of the other (other dialects: whether the server has shown life). */
export function isSteady({ dialect, firstDataAt, acked, ackGiven }: Ledger): boolean {
  return dialect.isFramed ? acked > 0 && ackGiven > 0 : firstDataAt !== undefined;
}

// ---- Judgement: one verdict per handover -----------------------------------------------------

/** The five promises that a handover is judged by. */
export const RULES = ["notice", "complete", "farewell", "clean", "moved"] as const;
/** One of the five rules. */
export type Rule = (typeof RULES)[number];
/** What a rule says of a handover. */
export type Mark = "pass" | "fail" | "n/a";

/** The rules that count: those that were asked for, else what the dialect expects: all five, or `clean` and `moved`. */
export function expectedRules(asked: readonly Rule[], dialect: Dialect | string): readonly Rule[] {
  if (asked.length > 0) return asked;
  return (typeof dialect === "string" ? dialectNamed(DIALECTS.includes(dialect) ? dialect : "plain") : dialect).expect;
}

/** What counts as a pass. `expect` and `expectCode` empty: what the dialect has by default. */
export interface Policy {
  expect: readonly Rule[];
  expectCode: readonly number[];
  maxReconnectMs: number;
  /** Evidence will tell whether the pod was ending: then code and words alone do not say that a server turned us away. */
  isWatched?: boolean;
}

/** How the way to the next session went. Times in ms of the ledgers' clock. */
export interface Redial {
  /** When the search began: at the session's end, with `--reconnect early` at its notice. */
  startedAt: number;
  /** From there to the first dial: the wait that the client chose, and the one for a place among its own dials. */
  chosenMs: number;
  /** When the last dial that failed was over: until then it is proven that there was no way. */
  downUntil?: number | undefined;
  /** When the dial began that is on its way, or has led to the next session. */
  dialledAt?: number | undefined;
  /** Failed dials by kind. */
  failed: Record<string, number>;
  /** On a cluster: the fewest ready endpoints that a dial found; the last dial that met a pod after its deletion, ms after. */
  readyEndpoints: number | null;
  lastOnEndingMs: number | null;
}

/** For how many ms between two times (of the ledgers' clock) the client itself was late, and saw nothing. */
export type LateBetween = (from: number, to: number) => number;

/** One session's end and the next one's start, judged. Durations in ms; null where there is nothing to say. */
export type Handover = ReturnType<typeof judge>;

/**
 * Judges the handover from `ended` to `next` (undefined: there is none yet) as of `now`; `origin` is the client's start.
 * Total: a failed handover has exactly one symptom.
 */
export function judge(
  slot: number,
  ended: Ledger,
  next: Ledger | undefined,
  redial: Redial,
  policy: Policy,
  now: number,
  origin: number,
  lateBetween: LateBetween = () => 0,
) {
  const endedAt = ended.endedAt ?? now;
  const openedAt = next?.openedAt ?? now;
  const reconnectMs = Math.max(0, openedAt - endedAt);
  const forced = forcedDelay(endedAt, openedAt, redial, lateBetween);
  const reconnect = measure(forced.ms, forced.lateMs, policy.maxReconnectMs);
  const lastDataAt = ended.lastDataAt ?? ended.openedAt ?? endedAt;
  const silence = measure(endedAt - lastDataAt, lateBetween(lastDataAt, endedAt), ended.dueMs + 1000);
  const abrupt = ended.closeAt === undefined && ended.closeCode === undefined;
  const stoodStillMs = lateBetween(endedAt - STANDSTILL_WITHIN_MS, endedAt);
  const facts: Facts = {
    ended,
    abrupt,
    overdue: silence.above,
    turnedAway: !policy.isWatched && ended.noticeAt === undefined && ended.closeAt === undefined &&
      ended.complaint === undefined &&
      answerTo(ended.closeCode, ended.closeReason, codesOf(ended, policy.expectCode)) !== undefined,
    lost: lostRanges(ended),
    upstreamLost: upstreamLost(ended),
    sameServer: ended.instance !== "" && ended.instance === next?.instance,
    late: reconnect.above,
    open: next === undefined,
  };
  let rules = applyRules(facts, policy);
  // What was read right after a standstill of our own came at an unknown time, and may have been the answer to our silence.
  const unseen = stoodStillMs >= STANDSTILL_MS && rules.clean === "fail" && ended.complaint === undefined &&
    (ended.how === "fin" || ended.how === "reset");
  const failed = expectedRules(policy.expect, ended.dialect).filter((rule) => rules[rule] === "fail");
  // Still going on, or gone in order and on the way, not late yet: neither graceful nor failed.
  const unfinished = ended.endedAt === undefined || unseen || (facts.open && failed.length === 0);
  if (unfinished) rules = { notice: "n/a", complete: "n/a", farewell: "n/a", clean: "n/a", moved: "n/a" };
  const named = SYMPTOMS.find(([, rules, when]) => rules.some((rule) => failed.includes(rule)) && when(facts, failed));
  return {
    slot,
    verdict: (unfinished ? "unfinished" : failed.length > 0 ? "failed" : "graceful") as
      | "unfinished"
      | "failed"
      | "graceful",
    symptom: unfinished ? null : named?.[0] ?? null,
    /** The pod at the connection's other end, where its address was known. */
    reached: ended.pod ?? null,
    /** On a cluster: the pod that held the session, why the handover failed, and what shows it. */
    pod: null as string | null,
    cause: null as Cause | null,
    evidence: null as string | null,
    /** Where no cause is certain: those that the evidence does not rule out. */
    suspects: null as Cause[] | null,
    dialect: ended.dialect.name,
    /** The way that its sessions take to the pods, where there are several. */
    path: null as string | null,
    from: ended.server,
    to: next?.server ?? null,
    /** Beginning and end of the session, since the client's start. */
    openedMs: elapsed(origin, ended.openedAt),
    endedMs: elapsed(origin, ended.endedAt),
    /** The last sign of life, since the client's start. */
    lastDataMs: elapsed(origin, ended.lastDataAt),
    /** From SHUTDOWN to the session's end, and to CLOSE. */
    noticeMs: elapsed(ended.noticeAt, endedAt),
    drainMs: elapsed(ended.noticeAt, ended.closeAt),
    remaining: ended.noticeAt === undefined ? null : {
      announced: ended.notice?.remaining ?? null,
      received: ended.received - ended.receivedAtNotice,
      intervalMs: ended.notice === undefined ? null : ended.dueMs,
    },
    received: ended.received,
    /** Whether what came was numbered: without numbers loss cannot be seen. */
    isNumbered: ended.isNumbered,
    sent: ended.sentFirst === 0 ? 0 : ended.sentLast - ended.sentFirst + 1,
    /** The last `seq` sent on this session, 0 if none; and how many went over an earlier one as well. */
    lastSent: ended.sentLast,
    resent: ended.resent,
    /** What CLOSE said. */
    close: ended.close ?? null,
    lost: unfinished ? [] : facts.lost,
    duplicated: ended.duplicated,
    reordered: ended.reordered,
    upstreamLost: facts.upstreamLost,
    code: ended.closeCode ?? null,
    reason: ended.closeReason,
    how: ended.how ?? null,
    complaint: ended.complaint ?? null,
    /** From the session's end to the next HELLO = chosen + forced. */
    reconnectMs: tenths(reconnectMs),
    chosenMs: tenths(reconnectMs - forced.ms),
    forcedMs: tenths(forced.ms),
    failedDials: redial.failed,
    readyEndpoints: redial.readyEndpoints,
    lastOnEndingMs: redial.lastOnEndingMs,
    /** From the last DATA of the old session to the first of the new one. */
    silenceMs: elapsed(ended.lastDataAt, next?.firstDataAt),
    /** When the next session opened, since the client's start. */
    arrivedMs: elapsed(origin, next?.openedAt),
    /** What the client itself was late, where that decided: without it a limit would have been exceeded. */
    lateMs: tenths(Math.max(reconnect.forgivenMs, abrupt ? silence.forgivenMs : 0)),
    /** Whether the end came while the client itself stood still: then it is not judged. */
    unseen,
    rules,
  };
}

/**
 * A standstill of our own, just before an end, after which nobody can tell whose end it was: as long as servers leave a ping
 * unanswered at the least.
 */
const STANDSTILL_MS = 5000;
const STANDSTILL_WITHIN_MS = STANDSTILL_MS + 1000;

/**
 * How long there was no way to a next session. Our own waits count only as far as a dial that failed after them proves that
 * they cost nothing; what counts further is the time that the dial took which got through, or is on its way.
 */
function forcedDelay(endedAt: number, openedAt: number, redial: Redial, lateBetween: LateBetween) {
  const begunAt = Math.max(endedAt, redial.startedAt + redial.chosenMs);
  const { downUntil, dialledAt = downUntil === undefined ? begunAt : openedAt } = redial;
  const spans = [[begunAt, downUntil ?? begunAt], [Math.max(endedAt, dialledAt), openedAt]] as const;
  const counted = spans.filter(([from, to]) => to > from);
  return {
    ms: counted.reduce((sum, [from, to]) => sum + to - from, 0),
    lateMs: counted.reduce((sum, [from, to]) => sum + lateBetween(from, to), 0),
  };
}

/** A duration against its limit: lateness of our own above a tenth of the limit is taken off before it is judged. */
function measure(ms: number, lateMs: number, limitMs: number) {
  const offMs = lateMs > limitMs / 10 ? lateMs : 0;
  const above = ms - offMs > limitMs;
  return { above, forgivenMs: ms > limitMs && !above ? offMs : 0 };
}

const tenths = (ms: number): number => Math.round(ms * 10) / 10;

function elapsed(from: number | undefined, to: number | undefined): number | null {
  return from === undefined || to === undefined ? null : tenths(Math.max(0, to - from));
}

interface Facts {
  ended: Ledger;
  /** Neither CLOSE nor a close frame. */
  abrupt: boolean;
  /** The last sign of life was older at the end than the due interval + 1 s. */
  overdue: boolean;
  /** Closed for a reason of its own, which is no shutdown. */
  turnedAway: boolean;
  lost: Range[];
  upstreamLost: number;
  sameServer: boolean;
  /** Not back within the limit, or already beyond it. */
  late: boolean;
  /** There is no next session yet. */
  open: boolean;
}

function applyRules(facts: Facts, { expectCode }: Policy): Record<Rule, Mark> {
  const { ended, ended: { dialect }, abrupt, lost } = facts;
  const mark = (passes: boolean): Mark => passes ? "pass" : "fail";
  const has = (words: unknown, passes: boolean): Mark => dialect.isFramed || words !== undefined ? mark(passes) : "n/a";
  // With a complaint the close was ours, and its code as well.
  const closed = ended.complaint === undefined && codesOf(ended, expectCode).includes(ended.closeCode ?? NaN);
  const whole = lost.length === 0 && ended.duplicated.length === 0 && ended.reordered.length === 0;
  const agrees = dialect.isFramed ? countsAgree(ended) : ended.closeAt !== undefined;
  return {
    notice: has(dialect.notice, isNoticed(ended)),
    complete: abrupt || !ended.isNumbered ? "n/a" : mark(whole),
    farewell: has(dialect.farewell, ended.afterClose === 0 && agrees),
    clean: mark(closed && ended.how === "fin" && !facts.turnedAway),
    moved: facts.open && !facts.late ? "n/a" : mark(!facts.sameServer && !facts.late),
  };
}

/** The close codes that are graceful: those that were asked for, else the dialect's own. */
export function codesOf({ dialect }: Pick<Ledger, "dialect">, expectCode: readonly number[]): readonly number[] {
  return expectCode.length > 0 ? expectCode : dialect.codes;
}

/**
 * Why a server turns somebody away although nothing is ending, told by the close code (IANA's registry; 44xx as HTTP's) or by
 * the reason's words; and the setting that answers it.
 */
// deno-fmt-ignore
const TURNED_AWAY: [codes: number[], words: RegExp, answer: string][] = [
  [[1010, 4406], /sub-?protocol/i, "it wants another subprotocol: --subprotocol, or --dialect"],
  [[4400, 4408], /\binit|handshake|greeting|\bhello\b|not connected/i, "it wants a greeting: --dialect, or --say"],
  [[3000, 3003, 4401, 4403], /\bauth|unauthori[sz]ed|forbidden|denied|token|cookie|credential|\bkey\b|origin/i, "it wants to know who is there: --header, --token-file, or --say"],
  [[3008], /heart-?beat|\bpings?\b|\bpongs?\b|keep-?alive/i, "it wants its heartbeat answered: --dialect, --reply, or --heartbeat"],
  [[], /\bidle|inactiv|no activity|timed? ?-?out/i, "it ends who is silent: --heartbeat, or --say"],
  [[], /(max\w*|age|life) ?-?(connection )?(age|life|duration|time|limit)|expired|lifetime/i, "it limits the age of a connection: drill within that age"],
  [[4429], /\brate|too many|quota/i, "it limits what a client may do: fewer --sessions"],
  [[1002, 1003, 1007, 1008], /policy|protocol|invalid|unsupported|not allowed/i, "it does not understand, or want, what this client says: --dialect, --subprotocol, or --header"],
];
/** Words of a shutdown: then whatever else is said is no reason. */
const SHUTDOWN_WORDS =
  /shut|restart|going (away|down)|drain|deploy|maintenance|stopp|terminating|sigterm|evict|scal(e|ing)|upgrad|rebalanc|replac|migrat|leaving/i;

/** What answers an end by which a server turned this client away; undefined where it may be a shutdown. */
export function answerTo(code: number | undefined, reason: string, expected: readonly number[]): string | undefined {
  if (code === undefined) return undefined;
  const byWords = SHUTDOWN_WORDS.test(reason) ? undefined : TURNED_AWAY.find(([, words]) => words.test(reason));
  const byCode = expected.includes(code) ? undefined : TURNED_AWAY.find(([codes]) => codes.includes(code));
  return (byWords ?? byCode)?.[2];
}

/** Whether SHUTDOWN came, and before the messages that it announces: after the last of them it is none. */
function isNoticed({ noticeAt, notice, highestAtNotice }: Ledger): boolean {
  return noticeAt !== undefined &&
    (notice === undefined || notice.remaining === 0 || highestAtNotice < notice.lastSeq);
}

function lastSeq({ notice, close, highest }: Ledger): number {
  return notice?.lastSeq ?? close?.sent ?? highest;
}

function lostRanges(ledger: Ledger): Range[] {
  const last = lastSeq(ledger);
  const ranges = ledger.missing.filter(([from]) => from <= last).map(([from, to]): Range => [from, Math.min(to, last)]);
  if (ledger.highest < last) ranges.push([ledger.highest + 1, last]);
  return ranges;
}

/** How many of the messages that went over this session the server lacks, although our ACK or its own `ack` names them. */
function upstreamLost({ close, ackSent, acked, sentFirst }: Ledger): number {
  if (close === undefined) return 0;
  return Math.max(0, Math.max(ackSent ?? 0, acked) - Math.max(close.received, sentFirst - 1));
}

function countsAgree(ledger: Ledger): boolean {
  const { close } = ledger;
  return close !== undefined && close.sent === ledger.received && close.sent === lastSeq(ledger) &&
    close.received <= ledger.sentLast && upstreamLost(ledger) === 0;
}

/** What a failed handover looked like. */
export type Symptom = (typeof SYMPTOMS)[number][0];

type Predicate = (facts: Facts, failed: readonly Rule[]) => boolean;
const symptom = <S extends string>(name: S, rules: readonly Rule[], when: Predicate) => [name, rules, when] as const;

/** Every symptom, the rules by whose failure it can be named, and when it is; the first that matches names the failure. */
// deno-fmt-ignore
const SYMPTOMS = [
  // What we ended for our own limits is not the server's doing.
  symptom("WITNESS_ENDED", ["notice", "complete", "farewell", "clean"], ({ ended }) => ended.complaint !== undefined),
  // Nor is what it ends for a reason of its own a shutdown.
  symptom("TURNED_AWAY", ["notice", "farewell", "clean"], ({ turnedAway }) => turnedAway),
  symptom("STALLED", ["notice", "farewell", "clean"], isStalled),
  symptom("CUT_WITHOUT_NOTICE", ["notice", "farewell", "clean"], ({ abrupt, ended }) => abrupt && ended.noticeAt === undefined),
  symptom("NO_NOTICE", ["notice"], ({ abrupt }) => !abrupt),
  symptom("CUT_DURING_DRAIN", ["notice", "farewell", "clean"], ({ abrupt }) => abrupt),
  symptom("DATA_LOST", ["complete"], ({ lost }) => lost.length > 0),
  symptom("DATA_DUPLICATED", ["complete"], ({ ended }) => ended.duplicated.length > 0),
  symptom("DATA_REORDERED", ["complete"], () => true),
  symptom("UPSTREAM_LOST", ["farewell"], ({ upstreamLost }) => upstreamLost > 0),
  // Without a close frame it is NO_CLOSE_FRAME, unless nobody asked for one.
  symptom("NO_FAREWELL", ["farewell"], ({ ended }, failed) => ended.closeCode !== undefined || !failed.includes("clean")),
  symptom("NO_CLOSE_FRAME", ["clean"], ({ ended }) => ended.closeCode === undefined),
  symptom("NO_FIN", ["clean"], ({ ended }) => ended.how === "silence"),
  symptom("RESET_AFTER_CLOSE", ["clean"], ({ ended }) => ended.how !== "fin"),
  symptom("WRONG_CLOSE_CODE", ["clean"], () => true),
  symptom("SAME_SERVER", ["moved"], ({ sameServer }) => sameServer),
  symptom("SLOW_RECONNECT", ["moved"], () => true),
] as const;

function isStalled({ ended, abrupt, overdue }: Facts): boolean {
  const givenUp = ended.how === "silence" && ended.closeCode === undefined;
  return givenUp || (abrupt && overdue);
}

/** What each symptom means; and how to mend it, or what to suspect where the client alone cannot tell. */
// deno-fmt-ignore
export const REMEDIES: Record<Symptom, readonly [meaning: string, remedy: string | readonly Cause[]]> = {
  WITNESS_ENDED: ["this client ended the session: a frame or a size that it does not accept", "mend the frame that the log names, or raise --max-message"],
  TURNED_AWAY: ["the server ended the session by itself, although nothing was ending", "the log and the findings quote its code and reason: give it what it wants, see docs/your-application.md"],
  STALLED: ["the connection stayed open, but the server had fallen silent", ["SIGTERM_IGNORED", "INTERMEDIARY_CUT", "NO_POD_EVENT"]],
  CUT_WITHOUT_NOTICE: ["the connection ended with no SHUTDOWN, no CLOSE and no close frame",
    ["EXITED_AT_SIGTERM", "SIGTERM_IGNORED", "CRASHED", "OOM_KILLED", "FORCE_DELETED", "INTERMEDIARY_CUT", "NO_POD_EVENT"]],
  NO_NOTICE: ["closed in order, but nobody was told beforehand", "on SIGTERM send SHUTDOWN first, then what remains"],
  CUT_DURING_DRAIN: ["SHUTDOWN came, then the connection ended with neither CLOSE nor a close frame",
    ["SIGKILL_AT_GRACE", "EXIT_BEFORE_FLUSH", "PRESTOP_FAILED", "FORCE_DELETED", "INTERMEDIARY_CUT"]],
  DATA_LOST: ["a message that was announced or counted never came", "give send() a callback: after close() it drops in silence"],
  DATA_DUPLICATED: ["a message came twice", "let one place produce: stop the regular timer before the drain begins"],
  DATA_REORDERED: ["a message came after a later one", "number messages where they are sent, one after the other"],
  UPSTREAM_LOST: ["the server counted fewer of our messages than it got", "read on until the last one is in, then send CLOSE"],
  NO_FAREWELL: ["CLOSE is missing or not the last message, or its counts are wrong", "send CLOSE with the final counts before the close frame"],
  NO_CLOSE_FRAME: ["CLOSE came, but no close frame", "close(1001) and wait: terminate() and destroy() skip the handshake"],
  NO_FIN: ["a close frame, then no FIN within 3 s", "after the closing handshake end the connection: the server closes TCP first (RFC 6455 7.1.1)"],
  RESET_AFTER_CLOSE: ["a close frame, then a socket error", "wait for the sockets to close before exiting"],
  WRONG_CLOSE_CODE: ["a close frame with another code, or none (1005)", "close(1001), or say --expect-code"],
  SAME_SERVER: ["the next session landed on the server that was ending", ["ENDPOINT_RACE"]],
  SLOW_RECONNECT: ["no next session within --max-reconnect", ["NO_READY_PEER", "ENDPOINT_RACE"]],
};

/** What can stand behind a symptom that the client alone cannot explain. */
export type Cause = keyof typeof CAUSES;

/** Every cause: what happened, and how to mend it. */
// deno-fmt-ignore
export const CAUSES = {
  ENDPOINT_RACE: ["new connections still reached the ending server", "a preStop.sleep longer than the last such dial, plus a margin"],
  OOM_KILLED: ["a container ran out of memory", "raise that container's memory limit, or hold less"],
  CRASHED: ["the process died by itself", "not a shutdown: fix the crash"],
  LIVENESS_KILLED: ["kubelet killed the container for its probe", "loosen liveness, and let it succeed during a drain"],
  EVICTED: ["the node or the scheduler wanted the pod gone", "requests and limits, priority, the node's graceful shutdown"],
  FORCE_DELETED: ["the pod was deleted with a grace of 0, or again with 1 (--now)", "do not force: kubelet leaves about 2 s, nothing longer survives"],
  GRACE_SHORTENED: ["killed at the end of less grace than the specification gives", "whoever deletes must leave the grace: delete without --grace-period"],
  SIGKILL_AT_GRACE: ["the drain outlived the grace period", "raise terminationGracePeriodSeconds, or shorten the drain"],
  SIGTERM_IGNORED: ["it ran on until SIGKILL", "PID 1 has no handler (npm, sh, bare Node), swallows the signal, or waits for sessions that nobody closes"],
  SIDECAR_ENDED: ["a sidecar ended before the application", "make it a native sidecar: an init container with restartPolicy: Always"],
  PRESTOP_FAILED: ["the preStop hook failed, so SIGTERM came early", "look at the hook's command: distroless has no shell; to wait, native preStop.sleep"],
  EXITED_AT_SIGTERM: ["the process exited without a drain", "install a SIGTERM handler that drains; HTTP servers that close in order leave upgraded connections out"],
  EXIT_BEFORE_FLUSH: ["the process exited amid the drain", "wait for every socket's close event before exiting, or give the application's own drain deadline more time"],
  CUT_AT_SIGTERM: ["cut at SIGTERM, while the process ran on", "the application destroyed its sockets, or a proxy heard the same signal: connect past the proxy to tell"],
  INTERMEDIARY_CUT: ["something in between cut it", "a proxy's drain or idle timeout must be longer than the pod's; its reload must not cut"],
  NO_READY_PEER: ["there was nowhere to go", "replicas ≥ 2, maxUnavailable: 0, a readiness probe that tells the truth"],
  NO_POD_EVENT: ["no pod ended at all", "look at the proxy, load balancer, mesh, CNI or node in between, or a worker inside the container"],
} as const;

// ---- Evidence: what a cluster has shown of its pods ----------------------------------------------

/**
 * What can happen to a pod. `deleted`: somebody asked for its end, or asked again for an earlier one; `evicted`: the node or
 * the scheduler wants it gone; `liveness`: kubelet kills a container for its probe; `gone`: the API has forgotten it.
 */
export type MomentKind =
  | "deleted"
  | "evicted"
  | "unhealthy"
  | "liveness"
  | "node-lost"
  | "terminating"
  | "not-serving"
  | "endpoint-gone"
  | "prestop-failed"
  | "exit"
  | "gone";

/** One moment in a pod's life, in ms since the client's start: when we were told of it, or earlier where its stamp says so. */
export interface Moment {
  atMs: number;
  kind: MomentKind;
  text: string;
  /** When it happened by the cluster's clock, which tells whole seconds: ms of the epoch. */
  stampMs?: number;
  /** Of a deletion: how long it leaves the pod. */
  graceMs?: number;
  /** Whose exit it is, or whose probe failed. */
  container?: string;
  /** Of an exit. */
  code?: number;
  reason?: string;
}

/** What runs before SIGTERM; `ms` is null where nobody can tell how long. */
export interface Hook {
  kind: "sleep" | "exec" | "httpGet";
  ms: number | null;
  text: string;
}

/** What the watches have shown of one pod. */
export class Pod {
  readonly name: string;
  readonly uid: string;
  address = "";
  node = "";
  /** No node takes it. */
  unschedulable = false;
  /** From the first deletion, before that from the specification. */
  graceMs: number;
  readonly specifiedGraceMs: number;
  /** The application's container. */
  container = "";
  preStop: Hook | null = null;
  /** How long after the deletion SIGTERM comes; null where the hook's length is not known. */
  preStopMs: number | null = 0;
  memoryLimit: string | null = null;
  ready = false;
  /** Since when it is ready, as far as we were told: ms since the client's start. */
  readyMs = 0;
  /** `Succeeded` or `Failed`: it will never be ready again. */
  finished = false;
  /** Of the application's container. */
  restarts = 0;
  /** A deletion came with a grace of 0 while a container ran. */
  forced = false;
  deletionCost: string | null = null;
  readonly moments: Moment[] = [];
  readonly #clock: Clock;
  readonly #containers: Container[];
  readonly #default: string | undefined;
  readonly #ports = new Set<number>();

  constructor({ metadata, spec }: KubernetesObject, clock: Clock) {
    this.name = metadata.name;
    this.uid = metadata.uid;
    this.#clock = clock;
    this.specifiedGraceMs = this.graceMs = (spec?.terminationGracePeriodSeconds ?? 30) * 1000;
    this.#containers = spec?.containers ?? [];
    this.#default = metadata.annotations?.["kubectl.kubernetes.io/default-container"];
    this.learnPorts([]);
  }

  /** Ports that a Service targets: the container that has one of them is the application's; else the annotated, else the first. */
  learnPorts(ports: readonly number[]): void {
    for (const port of ports) this.#ports.add(port);
    const main = mainContainer(this.#containers, [...this.#ports], this.#default);
    this.container = main?.name ?? "";
    this.preStop = hookOf(main);
    this.preStopMs = this.preStop === null ? 0 : this.preStop.ms;
    this.memoryLimit = this.limitOf(this.container);
  }

  limitOf(container: string): string | null {
    return this.#containers.find(({ name }) => name === container)?.resources?.limits?.memory ?? null;
  }

  /** The containers beside the application's that may end before it; native sidecars do not. */
  get sidecars(): string[] {
    return this.#containers.map(({ name }) => name).filter((name) => name !== this.container);
  }

  /** From when to when a moment can have been. */
  span({ atMs, stampMs }: Pick<Moment, "atMs" | "stampMs">): [earliestMs: number, latestMs: number] {
    return stampMs === undefined ? [atMs, atMs] : this.#clock.span(stampMs, atMs);
  }

  /** Whether what a moment tells of can have been by then; only what has no stamp may have been told late. */
  wasBy(moment: Moment, ms: number): boolean {
    return this.span(moment)[0] <= ms + (moment.stampMs === undefined ? READ_LATE_MS : INSTANT_MS);
  }

  /** When SIGTERM came, at the earliest; null where nobody can tell, or there was none. */
  get sigterm(): { atMs: number; text: string } | null {
    const [deleted, failed] = [when(this, "deleted"), when(this, "prestop-failed")];
    if (deleted === undefined || this.forced) return null;
    if (failed !== undefined) return { atMs: failed.atMs, text: "SIGTERM: the preStop hook has failed" };
    if (this.preStopMs === null) return null;
    const hook = this.preStop === null ? "" : `: preStop.${this.preStop.kind} is over`;
    return { atMs: deleted.atMs + Math.min(this.preStopMs, this.graceMs), text: `SIGTERM at the earliest${hook}` };
  }
}

/** Names of ports beside the application's. */
const SIDE_PORT = /metric|prom|stats|admin|health|probe|debug/i;

/**
 * The application's container: that which has one of these ports, by number or name; of several the annotated one, else one
 * whose port is not named as an exporter's. Where none has one it is the annotated one, else the first.
 */
function mainContainer<C extends Container>(
  containers: readonly C[],
  ports: readonly (number | string)[],
  annotated: string | undefined,
): C | undefined {
  const has = ({ name, containerPort }: { name?: string; containerPort: number }) =>
    ports.includes(containerPort) || (name !== undefined && ports.includes(name));
  const serving = containers.filter((one) => one.ports?.some(has));
  const isAnnotated = ({ name }: C) => name === annotated;
  return serving.find(isAnnotated) ??
    serving.find((one) => one.ports!.some((port) => has(port) && !SIDE_PORT.test(port.name ?? ""))) ??
    serving[0] ?? containers.find(isAnnotated) ?? containers[0];
}

/** A pod as a result shows it. */
export type PodReport = Pick<Pod, (typeof SHOWN)[number]>;

const SHOWN = [
  ...["name", "uid", "address", "container", "graceMs", "specifiedGraceMs", "preStop", "preStopMs", "sigterm"] as const,
  ...["memoryLimit", "ready", "finished", "restarts", "forced", "deletionCost", "moments"] as const,
] as const;

/** What a result shows of a pod. */
export function reportPod(pod: Pod): PodReport {
  return Object.fromEntries(SHOWN.map((name) => [name, pod[name]])) as unknown as PodReport;
}

interface Container {
  name: string;
  restartPolicy?: string;
  ports?: { name?: string; containerPort: number }[];
  lifecycle?: {
    preStop?: { sleep?: { seconds: number }; exec?: { command?: string[] }; httpGet?: { path?: string } };
  };
  resources?: { limits?: { memory?: string } };
}

/** The part of a Kubernetes object that is read here: a core/v1 Pod or Event, a discovery.k8s.io/v1 EndpointSlice. */
export interface KubernetesObject {
  metadata: {
    name: string;
    uid: string;
    resourceVersion: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
    deletionTimestamp?: string;
    deletionGracePeriodSeconds?: number;
  };
  spec?: {
    terminationGracePeriodSeconds?: number;
    nodeName?: string;
    containers: Container[];
    initContainers?: Container[];
  };
  status?: {
    phase?: string;
    reason?: string;
    message?: string;
    podIP?: string;
    conditions?: {
      type: string;
      status: string;
      reason?: string;
      message?: string;
      lastTransitionTime?: string | null;
    }[];
    containerStatuses?: ContainerStatus[];
    initContainerStatuses?: ContainerStatus[];
  };
  endpoints?: {
    conditions?: { ready?: boolean | null; serving?: boolean | null; terminating?: boolean | null };
    targetRef?: { uid?: string };
  }[] | null;
  ports?: { port?: number | null }[] | null;
  reason?: string;
  message?: string;
  count?: number;
  lastTimestamp?: string | null;
  eventTime?: string | null;
  involvedObject?: { uid?: string; fieldPath?: string };
}

interface ContainerStatus {
  name: string;
  restartCount: number;
  state?: { running?: { startedAt?: string }; terminated?: Termination };
  lastState?: { terminated?: Termination };
}

interface Termination {
  exitCode: number;
  reason?: string;
  containerID?: string;
  finishedAt?: string | null;
}

interface Endpoint {
  ready: boolean;
  serving: boolean;
  terminating: boolean;
}

/** Everything that the watches have shown, entered by `observeCluster`. */
export class Cluster {
  /** By uid, in the order of their first appearance. */
  readonly pods = new Map<string, Pod>();
  /** The endpoints of each slice by the uid of their pods, the slice's Service, and the ports that this leads to. */
  readonly slices = new Map<string, { service: string; ports: number[]; endpoints: Map<string, Endpoint> }>();
  /** Containers whose exit is known, and events that have been told: each status and each event comes again. */
  readonly told = new Set<string>();
  readonly clock = new Clock();
}

/**
 * How the cluster's clock lies to ours. Its stamps are whole seconds, and come late: the truth is near those that came
 * soonest, and the more of these there are, the nearer.
 */
class Clock {
  /** By stamp, of the soonest only: from the stamp to our being told. */
  readonly #gaps = new Map<number, number>();
  #leastMs = Infinity;

  see(stampMs: number, atMs: number): void {
    const gapMs = atMs - stampMs;
    if (!(gapMs < (this.#gaps.get(stampMs) ?? this.#leastMs + 1000))) return;
    this.#gaps.set(stampMs, gapMs);
    if (gapMs >= this.#leastMs) return;
    this.#leastMs = gapMs;
    for (const [stamp, gap] of this.#gaps) if (gap >= gapMs + 1000) this.#gaps.delete(stamp);
  }

  /** Whether there is anything to go by. */
  get isSet(): boolean {
    return this.#gaps.size > 0;
  }

  /** From when to when, by our clock, that can have been which was told at `atMs`. */
  span(stampMs: number, atMs: number): [earliestMs: number, latestMs: number] {
    // Of n times at random within their seconds the earliest is about 1/(n + 1) s after its second began.
    const doubtMs = Math.max(100, 2000 / (this.#gaps.size + 1));
    const begunMs = stampMs + this.#leastMs;
    return [Math.min(atMs, begunMs - doubtMs), Math.min(atMs, begunMs + 1000)];
  }
}

/** Pods that are remembered after they have gone. */
const KEPT_PODS = 1000;

/** The kinds of objects that are watched. */
export type Stream = "pods" | "endpointslices" | "events";

/** Enters one event of a watch, or one object of a list (`LISTED`); returns what is new, with the pod that it happened to. */
export function observeCluster(
  cluster: Cluster,
  stream: Stream,
  type: "LISTED" | "ADDED" | "MODIFIED" | "DELETED",
  object: KubernetesObject,
  atMs: number,
): [Pod, Moment][] {
  if (stream === "pods") return observePod(cluster, type, object, atMs);
  if (stream === "endpointslices") return observeSlice(cluster, type, object, atMs);
  return type === "DELETED" ? [] : observeEvent(cluster, type, object, atMs);
}

/** What the events tell of that no object shows. "Stopping container" comes with every deletion, and tells of nothing. */
const EVENTS: [reason: RegExp, message: RegExp, kind: MomentKind][] = [
  [/^FailedPreStopHook$/, /^/, "prestop-failed"],
  [/^Killing$/, /failed (liveness|startup) probe/, "liveness"],
  [/^Unhealthy$/, /^(Liveness|Startup) probe/, "unhealthy"],
  [/^(Evicted|Preempt(ed|ing)|TaintManagerEviction|NodeShutdown)$/, /^(?!Cancelling)/, "evicted"],
  [/^NodeNotReady$/, /^/, "node-lost"],
];

function observeEvent(cluster: Cluster, type: string, object: KubernetesObject, atMs: number): [Pod, Moment][] {
  const { reason = "", message = "", involvedObject, lastTimestamp, eventTime, metadata, count: times = 1 } = object;
  const stamp = stamped(lastTimestamp ?? eventTime);
  if (stamp.stampMs !== undefined && type !== "LISTED") cluster.clock.see(stamp.stampMs, atMs);
  const pod = cluster.pods.get(involvedObject?.uid ?? "");
  const kind = EVENTS.find(([reasons, messages]) => reasons.test(reason) && messages.test(message))?.[2];
  if (pod === undefined || kind === undefined || isTold(cluster, `${metadata.uid} ${times}`)) return [];
  // Of what every attempt repeats the first counts, of probes that fail the latest as well; a list has old ones, too.
  if (kind !== "liveness" && kind !== "unhealthy" && when(pod, kind)) return [];
  const [earliestMs, latestMs] = pod.span({ atMs, ...stamp });
  if (type === "LISTED" && kind !== "prestop-failed" && !(cluster.clock.isSet && earliestMs > 0)) return [];
  const container = /\{(.+)\}$/.exec(involvedObject?.fieldPath ?? "")?.[1];
  const whose = container === undefined ? {} : { container };
  const [, latest] = kind === "unhealthy" ? pod.moments.filter((one) => one.kind === kind) : [];
  if (latest !== undefined) pod.moments.splice(pod.moments.indexOf(latest), 1);
  return [enter(pod, { atMs: latestMs, kind, text: `${reason}: ${message}`, ...stamp, ...whose })];
}

/** Whether this has been told; from now on it has. */
function isTold({ told }: Cluster, key: string): boolean {
  const isKnown = told.has(key);
  told.add(key);
  if (told.size > 2 * KEPT_PODS) told.delete(told.values().next().value!);
  return isKnown;
}

function parseTime(text: string | null | undefined): number | undefined {
  const ms = Date.parse(text ?? "");
  return Number.isFinite(ms) ? ms : undefined;
}

function enter(pod: Pod, moment: Moment): [Pod, Moment] {
  if (pod.moments.push(moment) > 100) pod.moments.shift(); // it crashes on and on
  return [pod, moment];
}

/** The first moment of a kind. */
export function when(pod: Pick<Pod, "moments">, kind: MomentKind): Moment | undefined {
  return pod.moments.find((moment) => moment.kind === kind);
}

/** Somebody asked for the pod's end: each time that it was asked for. */
function deletionsOf(pod: Pod): Moment[] {
  return pod.moments.filter(({ kind }) => kind === "deleted");
}

function observePod(cluster: Cluster, type: string, object: KubernetesObject, atMs: number): [Pod, Moment][] {
  const { metadata, status } = object;
  const natives = new Set(
    (object.spec?.initContainers ?? []).flatMap((one) => one.restartPolicy === "Always" ? one.name : []),
  );
  const statuses = [
    ...status?.containerStatuses ?? [],
    ...(status?.initContainerStatuses ?? []).filter(({ name }) => natives.has(name)),
  ];
  if (type !== "LISTED") { for (const stampMs of stampsOf(object, statuses)) cluster.clock.see(stampMs, atMs); }
  let pod = cluster.pods.get(metadata.uid);
  if (pod === undefined) {
    pod = new Pod(object, cluster.clock);
    cluster.pods.set(pod.uid, pod);
    for (const { ports, endpoints } of cluster.slices.values()) if (endpoints.has(pod.uid)) pod.learnPorts(ports);
    if (cluster.pods.size > KEPT_PODS) {
      const oldest = [...cluster.pods.values()].find((other) => when(other, "gone"));
      if (oldest !== undefined) cluster.pods.delete(oldest.uid);
    }
    for (const { lastState, state } of statuses) {
      isTold(cluster, lastState?.terminated?.containerID ?? "");
      if (type === "LISTED") isTold(cluster, state?.terminated?.containerID ?? "");
    }
  }
  const news: [Pod, Moment][] = [];
  const tell = (moment: Omit<Moment, "atMs">) => {
    // The API itself tells of a deletion at once; kubelet of an exit when it gets round to it.
    const toldMs = moment.kind === "deleted" ? atMs : pod.span({ atMs, ...moment })[1];
    news.push(enter(pod, { atMs: toldMs, ...moment }));
  };
  const holds = (condition: string) => status?.conditions?.find(({ type }) => type === condition);

  pod.address = status?.podIP ?? pod.address;
  pod.node = object.spec?.nodeName ?? pod.node;
  pod.unschedulable = holds("PodScheduled")?.status === "False";
  pod.finished = status?.phase === "Succeeded" || status?.phase === "Failed";
  const wasReady = pod.ready;
  pod.ready = holds("Ready")?.status === "True" && metadata.deletionTimestamp === undefined && type !== "DELETED";
  if (pod.ready && !wasReady) pod.readyMs = atMs;
  pod.deletionCost = metadata.annotations?.["controller.kubernetes.io/pod-deletion-cost"] ?? null;

  const target = holds("DisruptionTarget");
  const disrupted = target?.status === "True" && target.reason ? target : undefined;
  const lost = holds("Ready")?.reason === "NodeNotReady" ? "NodeNotReady" : status?.reason === "NodeLost" && "NodeLost";
  if (lost && !when(pod, "node-lost")) tell({ kind: "node-lost", text: `${lost}: its node is not heard of` });
  // An eviction through the API is a deletion like any other. What the node, the scheduler or a taint does is none.
  const byNode = disrupted !== undefined && disrupted.reason !== "EvictionByEvictionAPI" ? disrupted : undefined;
  const ended = ["Evicted", "Preempting", "Terminated", "NodeShutdown", "Shutdown"].includes(status?.reason ?? "");
  if ((byNode !== undefined || ended) && !when(pod, "evicted")) {
    const { reason = "", message = "" } = ended ? status! : byNode!;
    tell({
      kind: "evicted",
      text: message === "" ? reason : `${reason}: ${message}`,
      ...stamped(byNode?.lastTransitionTime),
    });
  }
  if (metadata.deletionTimestamp !== undefined) {
    // The last events of every pod say 0: that is kubelet's own delete, of a pod whose containers have ended.
    const askedMs = (metadata.deletionGracePeriodSeconds ?? 0) * 1000;
    const running = statuses.some(({ state }) => state?.running !== undefined);
    const before = deletionsOf(pod).at(-1);
    if (before === undefined || (running && askedMs < before.graceMs!)) {
      const isOwn = askedMs === 0 && !running;
      pod.forced = askedMs === 0 && running;
      if (before === undefined && !isOwn) pod.graceMs = askedMs;
      const why = before !== undefined ? " again" : disrupted === undefined ? "" : ` (${disrupted.reason})`;
      const stampMs = parseTime(metadata.deletionTimestamp);
      const stamp = before === undefined && !isOwn && stampMs !== undefined ? { stampMs: stampMs - askedMs } : {};
      const text = `deleted${why}, ${askedMs / 1000}s of grace`;
      tell({ kind: "deleted", text, graceMs: isOwn ? pod.graceMs : askedMs, ...stamp });
    }
  }
  for (const { name, state, lastState, restartCount } of statuses) {
    if (name === pod.container) pod.restarts = restartCount;
    for (const exit of [lastState?.terminated, state?.terminated]) {
      if (exit?.containerID === undefined || isTold(cluster, exit.containerID)) continue;
      const { exitCode: code, reason = "" } = exit;
      const whose = name === pod.container ? "" : `${name}: `;
      const text = `${whose}exit ${code}${reason && ` (${reason})`}`;
      tell({ kind: "exit", text, container: name, code, reason, ...stamped(exit.finishedAt) });
    }
  }
  if (type === "DELETED" && !when(pod, "gone")) tell({ kind: "gone", text: "gone from the API" });
  return news;
}

function stamped(text: string | null | undefined): Pick<Moment, "stampMs"> {
  const stampMs = parseTime(text);
  return stampMs === undefined ? {} : { stampMs };
}

/** What an update tells of when things happened; the deletion's own stamp is when the pod is to be gone. */
function stampsOf({ metadata, status }: KubernetesObject, statuses: readonly ContainerStatus[]): number[] {
  const { deletionTimestamp, deletionGracePeriodSeconds = 0 } = metadata;
  const deletionMs = parseTime(deletionTimestamp);
  const times = [
    ...(status?.conditions ?? []).map(({ lastTransitionTime }) => lastTransitionTime),
    ...statuses.flatMap(({ state, lastState }) => [state, lastState].map((one) => one?.terminated?.finishedAt)),
    ...statuses.map(({ state }) => state?.running?.startedAt),
  ];
  const stamps = [deletionMs && deletionMs - deletionGracePeriodSeconds * 1000, ...times.map(parseTime)];
  return stamps.flatMap((stampMs) => stampMs ?? []);
}

/** The hook of a container, and how long it takes: of a command as long as it says that it sleeps. */
function hookOf(container: Container | undefined): Hook | null {
  const { sleep, exec, httpGet } = container?.lifecycle?.preStop ?? {};
  if (sleep !== undefined) return { kind: "sleep", ms: sleep.seconds * 1000, text: `sleep ${sleep.seconds}s` };
  if (httpGet !== undefined) return { kind: "httpGet", ms: null, text: `httpGet ${httpGet.path ?? "/"}` };
  if (exec === undefined) return null;
  const command = (exec.command ?? []).join(" ");
  const sleeps = [...command.matchAll(/(?:^|[\s;&|/"'(])sleep\s+(\d+(?:\.\d+)?)([smh]?)/g)];
  const seconds = sleeps.reduce(
    (sum, [, number, unit]) => sum + Number(number) * (({ m: 60, h: 3600 } as Record<string, number>)[unit!] ?? 1),
    0,
  );
  return { kind: "exec", ms: sleeps.length === 0 ? null : seconds * 1000, text: command };
}

/** Enters that a list does not have these pods any more: their DELETED event was missed. */
export function observeMissing(cluster: Cluster, listed: readonly KubernetesObject[], atMs: number): [Pod, Moment][] {
  const uids = new Set(listed.map(({ metadata }) => metadata.uid));
  const missing = [...cluster.pods.values()].filter((pod) => !uids.has(pod.uid) && !when(pod, "gone"));
  return missing.map((pod) => {
    pod.ready = false;
    return enter(pod, { atMs, kind: "gone", text: "gone from the API, unseen" });
  });
}

function observeSlice(cluster: Cluster, type: string, object: KubernetesObject, atMs: number): [Pod, Moment][] {
  const { uid, labels } = object.metadata;
  const before = endpointsOf(cluster);
  cluster.slices.delete(uid);
  if (type !== "DELETED") {
    const endpoints = (object.endpoints ?? []).map(({ targetRef, conditions }): [string, Endpoint] => {
      // An unknown condition counts as ready; a terminating endpoint is never ready, but may serve (EndpointConditions).
      const { ready, serving, terminating } = conditions ?? {};
      return [targetRef?.uid ?? "", {
        ready: ready ?? true,
        serving: serving ?? ready ?? true,
        terminating: terminating ?? false,
      }];
    });
    const service = labels?.["kubernetes.io/service-name"] ?? "";
    const ports = (object.ports ?? []).flatMap(({ port }) => port ?? []);
    cluster.slices.set(uid, { service, ports, endpoints: new Map(endpoints) });
    for (const [uid] of endpoints) cluster.pods.get(uid)?.learnPorts(ports);
  }
  if (type === "LISTED") return [];
  const after = endpointsOf(cluster);
  return [...cluster.pods.values()].flatMap((pod) => {
    const [was, is] = [before.get(pod.uid), after.get(pod.uid)];
    const tell = (kind: MomentKind, text: string) => [enter(pod, { atMs, kind, text })];
    if (was === undefined) return [];
    if (is === undefined) return tell("endpoint-gone", "endpoint gone");
    if (is.terminating && !was.terminating) {
      return tell("terminating", `endpoint terminating, ${is.serving ? "still serving" : "not serving"}`);
    }
    if (was.serving && !is.serving) return tell("not-serving", "endpoint no longer serving");
    return [];
  });
}

function endpointsOf({ slices }: Cluster): Map<string, Endpoint> {
  return new Map([...slices.values()].flatMap(({ endpoints }) => [...endpoints]));
}

/**
 * How many of the watched pods new connections can reach: through the Service of this name, else (something stands before
 * it) through any; pods without a Service count by themselves.
 */
export function readyEndpoints({ slices, pods }: Cluster, service: string): number {
  const all = [...slices.values()].flatMap(({ service, endpoints }) =>
    [...endpoints].filter(([uid]) => pods.has(uid)).map(([uid, { ready }]) => ({ service, uid, ready }))
  );
  const own = all.filter((endpoint) => endpoint.service === service);
  const known = own.length > 0 ? own : all;
  if (known.length === 0) return [...pods.values()].filter(({ ready }) => ready).length;
  return new Set(known.filter(({ ready }) => ready).map(({ uid }) => uid)).size;
}

// ---- Diagnosis: from a failed handover and what its pod has shown to a cause ----------------------

/** Within this time of each other two things can be one: a process closes its sockets, and has ended. */
const INSTANT_MS = 1000;
/** So long after a process's end its sockets are gone, also behind a proxy that hands on what it reads. */
const LONG_GONE_MS = 5000;
/** A watch tells as late as this without anything being the matter; a busy node as late as that. */
const READ_LATE_MS = 2500;
const TOLD_LATE_MS = 15_000;
/** A probe that failed longer ago has nothing to do with an exit: by default the third failure kills, 10 s apart, and with its grace. */
const UNHEALTHY_MS = 120_000;
/** SIGKILL comes 2 s after SIGTERM at the earliest, also where preStop has taken all the grace. */
const KILL_LATE_MS = 5000;
/** After the end of its grace a busy node may take so long to tell of a pod's end; a lost node so long to be missed. */
export const END_LATE_MS = 30_000;
const NODE_LATE_MS = 60_000;

/** The pod that held a handover's session: the one that the server named, else the one that was ending when it ended. */
export function podOf(cluster: Cluster, handover: Handover): Pod | undefined {
  const { from, reached, dialect, endedMs, lastDataMs, how } = handover;
  if (endedMs === null) return undefined;
  const openedMs = openingOf(handover);
  // A StatefulSet's next pod has the name of the one before it.
  const pods = [...cluster.pods.values()].filter((pod) => {
    const exit = when(pod, "deleted") && ownExitsOf(pod, 0).at(-1);
    return Math.min(exit?.atMs ?? Infinity, when(pod, "gone")?.atMs ?? Infinity) > openedMs;
  });
  const named = pods.find(({ name }) => name === from || name === reached);
  if (named !== undefined || dialect === "v1") return named; // who has frames has a name
  // A session may outlive its pod by the silence that it takes to notice.
  const aliveMs = how === "silence" ? lastDataMs ?? openedMs : endedMs;
  const distance = (pod: Pod) => {
    const end = ownExitsOf(pod, openedMs)[0] ?? when(pod, "gone");
    const begun = when(pod, "deleted") ?? end;
    const begunMs = begun && (begun.kind === "deleted" ? begun.atMs : pod.span(begun)[0]);
    if (begunMs === undefined || begunMs > endedMs + TOLD_LATE_MS / 3) return Infinity;
    if ((end?.atMs ?? Infinity) < aliveMs - INSTANT_MS) return Infinity;
    // Whose end is still to be seen may be the nearest.
    return end === undefined ? -1 : Math.abs(end.atMs - endedMs);
  };
  const nearest = pods.sort((a, b) => distance(a) - distance(b))[0];
  return nearest !== undefined && distance(nearest) < Infinity ? nearest : undefined;
}

const openingOf = ({ openedMs }: Handover): number => openedMs ?? 0;

const exitsOf = (pod: Pod, sinceMs: number): Moment[] =>
  pod.moments.filter((moment) => moment.kind === "exit" && pod.span(moment)[1] >= sinceMs);

/** Those of the application's container. */
const ownExitsOf = (pod: Pod, sinceMs: number): Moment[] =>
  exitsOf(pod, sinceMs).filter(({ container }) => container === pod.container);

/** Whether the cluster has nothing more to say of a session's end, or has had the time for it. */
export function isEvidenceComplete(pod: Pod | undefined, handover: Handover, nowMs: number): boolean {
  const { endedMs, how } = handover;
  if (endedMs === null) return true;
  const patienceMs = how === "silence" ? NODE_LATE_MS : TOLD_LATE_MS;
  if (pod === undefined) return nowMs > endedMs + TOLD_LATE_MS;
  const [exit] = ownExitsOf(pod, openingOf(handover));
  const deleted = deletionsOf(pod).at(-1);
  if (when(pod, "gone") || (exit !== undefined && (deleted !== undefined || pod.wasBy(exit, endedMs)))) return true;
  return nowMs > (deleted === undefined ? endedMs + patienceMs : deleted.atMs + pod.graceMs + END_LATE_MS);
}

/** Whether SIGKILL ended the pod because its grace was over. */
export function wasKilledAtGrace(pod: Pod): boolean {
  return pod.moments.some((moment) => moment.container === pod.container && killedBy(pod, moment) !== undefined);
}

/** The deletion at the end of whose grace SIGKILL came. A repeated one counts only where the end came then. */
function killedBy(pod: Pod, exit: Moment): Moment | undefined {
  if (exit.code !== 137) return undefined;
  return deletionsOf(pod).find((deleted, index) => {
    if (isBefore(pod, exit, deleted)) return false;
    const lastedMs = betweenMs(deleted, exit);
    // Kubelet is a few seconds late at the most; how late we are told is another thing, and the stamps do not know it.
    const isKnown = index > 0 || (exit.stampMs !== undefined && deleted.stampMs !== undefined);
    return lastedMs >= deleted.graceMs! - 1000 && (!isKnown || lastedMs <= deleted.graceMs! + KILL_LATE_MS);
  });
}

/** From a moment to another; what is told late is as late at least as the stamps say, where both have one. */
function betweenMs(from: Moment, to: Moment): number {
  const stampedMs = from.stampMs === undefined || to.stampMs === undefined ? 0 : to.stampMs - from.stampMs;
  return Math.max(to.atMs - from.atMs, stampedMs);
}

/** Whether a pod was ending, or had just ended, at a time. */
export function isEnding(pod: Pod, ms: number, lateMs = TOLD_LATE_MS): boolean {
  return pod.moments.some((moment) =>
    ["deleted", "exit", "evicted", "liveness", "gone", "node-lost"].includes(moment.kind) &&
    pod.span(moment)[0] <= ms + lateMs
  );
}

/** How other sessions ended in the same instant: how many, and how many of them on pods that were not ending. */
export interface Company {
  together: number;
  elsewhere: number;
  /** Without names: all sessions that there are, more than one pod of several is likely to hold. */
  everybody: boolean;
  /** Sessions of the same pod's end that another path brought to a graceful one. */
  difference?: PathDifference | undefined;
}

const ALONE: Company = { together: 1, elsewhere: 0, everybody: false };

/** Sessions that are cut within this are cut at once. */
const AT_ONCE_MS = 250;
/** Less likely than this, it is not taken for chance. */
const UNLIKELY = 0.01;

/** What an end with a close frame can be called whatever its reason: whether a FIN or a reset is behind it is chance. */
export const CLOSED: readonly Symptom[] = ["NO_FIN", "RESET_AFTER_CLOSE", "WRONG_CLOSE_CODE"];

/**
 * Whether a session was closed in order although its pod was not ending, as far as all evidence tells: then its server turned
 * it away. Where no pod is known at all nothing is told.
 */
export function isOnLivingPod(cluster: Cluster, handover: Handover, pod: Pod | undefined): boolean {
  const { symptom, code, noticeMs, drainMs, endedMs } = handover;
  if (cluster.pods.size === 0 || code === null || endedMs === null) return false;
  if (noticeMs !== null || drainMs !== null || (symptom !== null && !CLOSED.includes(symptom))) return false;
  return pod === undefined || !isEnding(pod, endedMs, INSTANT_MS);
}

/** The handover itself, and those of the others that were cut at once with it. */
export function cutWith(handover: Handover, cuts: readonly Handover[]): Handover[] {
  const isNear = ({ endedMs }: Handover) => Math.abs(endedMs! - handover.endedMs!) <= AT_ONCE_MS;
  return [handover, ...cuts.filter((other) => other !== handover && isNear(other))];
}

/** What the sessions that were cut at once with one, of so many in all, say of its end. */
export function companyOf(
  cluster: Cluster,
  handover: Handover,
  cuts: readonly Handover[],
  sessions: number,
  differences: readonly PathDifference[] = [],
): Company {
  const difference = differences.find(({ cuts }) => cuts.has(handover));
  const together = cutWith(handover, cuts);
  const elsewhere = together.filter((other) => {
    const pod = podOf(cluster, other);
    return other.dialect === "v1" && pod !== undefined && !isEnding(pod, other.endedMs!);
  });
  // Without names: how likely is it that all were on the one pod of several?
  const endings = [...cluster.pods.values()].filter((pod) => isEnding(pod, handover.endedMs!));
  const others = [...endpointsOf(cluster)].filter(([uid, { ready }]) =>
    ready && !endings.some((pod) => pod.uid === uid)
  );
  const everybody = handover.dialect !== "v1" && together.length >= sessions &&
    (1 + others.length) ** (1 - together.length) < UNLIKELY;
  // Where no pod was ending none of them is cleared by the others.
  return {
    together: together.length,
    elsewhere: elsewhere.length % together.length,
    everybody,
    ...difference && { difference },
  };
}

/** One pod's end, graceful for the sessions of one path and a cut for those of another. */
export interface PathDifference {
  pod: string;
  path: string;
  cut: number;
  sessions: number;
  /** The path that fared better. */
  other: string;
  graceful: number;
  otherSessions: number;
  /** How likely chance alone cuts so many on that path (Fisher's exact test, one-sided). */
  chance: number;
  /** Those that were cut, and until when the pod was still closing others in order. */
  cuts: ReadonlySet<Handover>;
  gracefulUntilMs: number;
}

/** The pod that held a session, by its name; null where nobody has told it. */
const podNameOf = ({ pod, from }: Handover): string | null => pod ?? (isAddress(from) ? null : from);

const isCutOff = ({ verdict, code, symptom }: Handover): boolean =>
  verdict === "failed" && code === null && symptom !== "WITNESS_ENDED";

/** Where the same pod's end was graceful on one path and a cut on another: what is on that other path did it. */
export function pathDifferences(handovers: readonly Handover[]): PathDifference[] {
  return endsOf(handovers.filter(({ path }) => path !== null)).flatMap((own) => {
    const paths = [...new Set(own.map(({ path }) => path!))].map((path) => {
      const sessions = own.filter((handover) => handover.path === path);
      const graceful = sessions.filter(({ verdict }) => verdict === "graceful");
      return { path, sessions, graceful, cuts: sessions.filter(isCutOff) };
    });
    return paths.flatMap(({ path, sessions, cuts }) => {
      const share = (one: (typeof paths)[number]) => one.graceful.length / one.sessions.length - one.cuts.length;
      const [best] = paths.filter((one) => one.path !== path && one.graceful.length > 0).sort((a, b) =>
        share(b) - share(a)
      );
      if (best === undefined || cuts.length === 0) return [];
      const chance = chanceOfDifference(cuts.length, sessions.length, best.cuts.length, best.sessions.length);
      if (best.cuts.length > 0 && chance >= UNLIKELY) return [];
      return [{
        pod: podNameOf(own[0]!)!,
        path,
        cut: cuts.length,
        sessions: sessions.length,
        other: best.path,
        graceful: best.graceful.length,
        otherSessions: best.sessions.length,
        chance,
        cuts: new Set(cuts),
        gracefulUntilMs: Math.max(...best.graceful.map(({ endedMs }) => endedMs!)),
      }];
    });
  });
}

/** The sessions of each pod's end: a StatefulSet's next pod has the name of the one before it, and holds later sessions. */
function endsOf(handovers: readonly Handover[]): Handover[][] {
  const ends = new Map<string, Handover[][]>();
  const ordered = handovers.filter(({ endedMs, verdict }) => endedMs !== null && verdict !== "unfinished")
    .sort((a, b) => a.endedMs! - b.endedMs!);
  for (const handover of ordered) {
    const name = podNameOf(handover);
    if (name === null) continue;
    const own = ends.get(name) ?? [];
    ends.set(name, own);
    const last = own.at(-1);
    const untilMs = last?.at(-1)?.endedMs ?? -Infinity;
    const isNext = openingOf(handover) >= untilMs ||
      handover.endedMs! - (handover.noticeMs ?? 0) - untilMs > CALM_MS;
    if (isNext) own.push([handover]);
    else last!.push(handover);
  }
  return [...ends.values()].flat();
}

/** The chance that at least `cut` of `all` are among the cut ones, of those and of `otherCut` in `otherAll` together. */
function chanceOfDifference(cut: number, all: number, otherCut: number, otherAll: number): number {
  const logFactorials = [0];
  for (let number = 1; number <= all + otherAll; number++) logFactorials.push(logFactorials.at(-1)! + Math.log(number));
  const choices = (from: number, number: number) =>
    logFactorials[from]! - logFactorials[number]! - logFactorials[from - number]!;
  let chance = 0;
  for (let number = cut; number <= Math.min(all, cut + otherCut); number++) {
    const rest = cut + otherCut - number;
    chance += Math.exp(choices(all, number) + choices(otherAll, rest) - choices(all + otherAll, cut + otherCut));
  }
  return chance;
}

/** Whether it is no chance, and the pod outlived a cut at this time: it closed others in order after it. */
export function isProven({ chance, gracefulUntilMs }: PathDifference, cutMs: number): boolean {
  return chance < UNLIKELY && cutMs < gracefulUntilMs;
}

/** The difference with both numbers, and how much it says. */
export function differenceInWords(difference: PathDifference): string {
  const { pod, path, cut, sessions, other, graceful, otherSessions, chance } = difference;
  const weak = chance < UNLIKELY
    ? ""
    : `; that few may be chance (1 in ${Math.round(1 / chance)}): more --sessions tell`;
  return `at the end of ${pod} ${cut} of ${count(sessions, "session")} were cut on the path ${path}, ` +
    `${graceful} of ${otherSessions} graceful on ${other}: ${path} (its proxy) is to blame, not the pod${weak}`;
}

/** What the evidence says around one session's end; what it does not say is undefined, and is the ground of nothing. */
interface Ending {
  pod: Pod;
  cutMs: number;
  openedMs: number;
  /** Fell silent: when the end came is not known. */
  silent: boolean;
  noticed: boolean;
  handover: Handover;
  deleted: Moment | undefined;
  /** There is a deletion of which nobody can tell whether it came before the cut. */
  unsure: boolean;
  /** The application's end, where it can be the session's end as well; and where it surely came later, how much. */
  exit: Moment | undefined;
  ranOnMs: number;
  /** Another container's end, which can be the session's end. */
  other: Moment | undefined;
  sigtermMs: number | null;
  company: Company;
}

function endingOf(handover: Handover, pod: Pod, company: Company): Ending {
  const { endedMs, symptom, noticeMs } = handover;
  const [cutMs, openedMs, silent] = [endedMs!, openingOf(handover), symptom === "STALLED"];
  const first = when(pod, "deleted");
  // Without a stamp its beginning was missed, and nobody can tell when it was.
  const isRead = first?.stampMs !== undefined && first.atMs <= cutMs + READ_LATE_MS && pod.wasBy(first, cutMs);
  const deleted = isRead ? first : undefined;
  const unsure = first !== undefined && !isRead &&
    (first.atMs <= cutMs + TOLD_LATE_MS || pod.wasBy(first, cutMs) || first.stampMs === undefined);
  const [own] = ownExitsOf(pod, openedMs);
  const ranOnMs = own === undefined || silent ? 0 : pod.span(own)[0] - cutMs;
  // What a process held goes with it: a cut long after its exit was another's.
  const isLong = own !== undefined && !silent && pod.span(own)[1] < cutMs - LONG_GONE_MS;
  const isEnd = (exit: Moment) =>
    silent ||
    (exit.stampMs === undefined && deleted === undefined
      ? exit.atMs <= cutMs + 2 * READ_LATE_MS
      : middle(pod.span(exit)) <= cutMs + INSTANT_MS);
  const other = exitsOf(pod, openedMs).find((exit) =>
    exit.container !== pod.container && isEnd(exit) && pod.span(exit)[1] >= cutMs - INSTANT_MS / 2
  );
  const ending = {
    pod,
    cutMs,
    openedMs,
    silent,
    noticed: noticeMs !== null,
    handover,
    deleted,
    unsure,
    ranOnMs,
    other,
    sigtermMs: pod.sigterm?.atMs ?? null,
    company,
  };
  // It surely lived on after a cut before SIGTERM; it surely died at the grace's end, however late we were told.
  const outlived = deleted !== undefined && isBeforeSigterm(ending, true) && ranOnMs > INSTANT_MS / 5;
  const killed = own && killedBy(pod, own);
  const atGrace = killed !== undefined && cutMs >= killed.atMs + killed.graceMs! - INSTANT_MS;
  const exit = own !== undefined && !isLong && ((isEnd(own) && !outlived) || atGrace) ? own : undefined;
  return { ...ending, exit };
}

/** Signals by which a process ends itself, by the exit code that they leave (128 + signal); 2 is what a Go panic leaves. */
const CRASHES: Record<number, string> = {
  2: "an uncaught panic, or the application's own",
  132: "SIGILL",
  134: "SIGABRT",
  135: "SIGBUS",
  136: "SIGFPE",
  139: "SIGSEGV",
};

/** The evidence for a cause; null: it cannot be told, and nothing that follows is certain either; undefined: not this one. */
type Row = [cause: Cause, evidence: (ending: Ending) => string | null | undefined];

/** Section by section of what can end a session: the first that matches names the cause. */
const DIAGNOSES: Row[] = [
  ["INTERMEDIARY_CUT", ({ company: { difference }, cutMs, silent, ranOnMs }) => {
    if (difference === undefined || silent || difference.chance >= UNLIKELY) return undefined;
    return isProven(difference, cutMs) || ranOnMs > INSTANT_MS ? differenceInWords(difference) : undefined;
  }],
  [
    "INTERMEDIARY_CUT",
    ({ company: { together, elsewhere, everybody } }) =>
      elsewhere === 0
        ? (everybody ? null : undefined)
        : `${together} sessions were cut at once, ${elsewhere} of them on pods that were not ending`,
  ],
  ["ENDPOINT_RACE", ({ pod, deleted, openedMs, exit, handover }) => {
    if (deleted === undefined || openedMs <= deleted.atMs) return undefined;
    // It may have been on another: of the same name, or of those that have none.
    if (openedMs > deleted.atMs + pod.graceMs || (handover.dialect !== "v1" && exit === undefined)) return null;
    return `opened ${duration(openedMs - deleted.atMs)} after its pod's deletion`;
  }],
  ["OOM_KILLED", ({ pod, exit, other }) => {
    const killed = [exit, other].find((one) => one?.reason === "OOMKilled");
    if (killed === undefined) return undefined;
    // The reason stays, whichever process of the container it was, and whenever: only SIGKILL ends one for it.
    if (killed.code !== 137 || killedBy(pod, killed) !== undefined) return null;
    const limit = pod.limitOf(killed.container!);
    return `${killed.text}${limit === null ? "" : `, the limit is ${limit}`}${
      killed === exit ? `, restart ${pod.restarts}` : ""
    }`;
  }],
  ["CRASHED", ({ exit, deleted, noticed }) => {
    const signal = exit && CRASHES[exit.code!];
    if (signal === undefined) return undefined;
    // With 2 a Go program without a handler leaves as well, where it is PID 1: the kernel keeps SIGTERM from it.
    if (exit!.code === 2 && deleted !== undefined && !noticed) return null;
    return `${exit!.text}, ${signal}${deleted ? ` ${sinceDeletion(deleted, exit!.atMs)}` : ""}`;
  }],
  ["LIVENESS_KILLED", (ending) => livenessKill(ending)?.text],
  ["EVICTED", (ending) => evictionOf(ending)?.text],
  ["CRASHED", ({ pod, exit, other, deleted }) => {
    const ended = exit ?? other;
    if (ended === undefined || (deleted !== undefined && !isBefore(pod, ended, deleted))) return undefined;
    const asked = when(pod, "deleted");
    if (asked !== undefined && !isBefore(pod, ended, asked)) return null; // told late, or asked for since
    // With these codes it may have been told to end: kubelet's kill for a probe, of which an event tells, or did not.
    if (ended === exit && [0, 143].includes(exit.code!)) return null;
    return `${ended.text} without a deletion${ended === exit ? `, restart ${pod.restarts}` : ""}`;
  }],
  ["NO_POD_EVENT", ({ pod, deleted, unsure, exit, openedMs, cutMs }) => {
    if (deleted !== undefined) return undefined;
    // What is told late may still have been the end.
    const isLate = (moment: Moment) => pod.span(moment)[0] <= cutMs + TOLD_LATE_MS;
    const ended = exitsOf(pod, Math.max(openedMs, cutMs - INSTANT_MS)).some(isLate);
    const ending = pod.moments.some((one) =>
      isLate(one) && (one.kind === "terminating" || one.kind === "gone" ||
        (["prestop-failed", "evicted", "liveness"].includes(one.kind) && one.atMs >= openedMs))
    );
    if (unsure || ended || ending || exit !== undefined) return null;
    return `${pod.name} was neither deleted nor restarted${nearestTo(pod, cutMs)}`;
  }],
  ["FORCE_DELETED", ({ pod, cutMs, exit }) => {
    const deletions = deletionsOf(pod);
    const by = exit === undefined ? undefined : killedBy(pod, exit);
    const forced = deletions.find((one, index) =>
      one.graceMs === 0 || (index > 0 && one === by && one.graceMs! <= 1000)
    );
    if (forced === undefined || (exit !== undefined && by === undefined) || forced.atMs > cutMs + READ_LATE_MS) {
      return undefined;
    }
    if (forced.atMs > cutMs + INSTANT_MS / 2) return null;
    const times = deletions.length > 1 ? "deleted again" : "deleted";
    return `${times} with a grace of ${forced.graceMs! / 1000}`;
  }],
  ["GRACE_SHORTENED", ({ pod, exit }) => {
    const by = exit && killedBy(pod, exit);
    if (by === undefined || by.graceMs! >= pod.specifiedGraceMs) return undefined;
    const [left, all] = [by.graceMs! / 1000, pod.specifiedGraceMs / 1000];
    return `${exit!.text} at the end of ${left}s of grace; the specification says ${all}s`;
  }],
  ["SIGKILL_AT_GRACE", (ending) => {
    const { pod, exit, deleted, noticed, handover: { endedMs, noticeMs, remaining } } = ending;
    if (exit === undefined || killedBy(pod, exit) === undefined) return undefined;
    const grace = `${pod.graceMs / 1000}s`;
    if (noticed) {
      const { announced, intervalMs } = remaining ?? {};
      const needs = announced && intervalMs ? `drain needs ${duration(announced * intervalMs)}, ` : "";
      const leftMs = pod.graceMs - Math.max(0, endedMs! - noticeMs! - deleted!.atMs);
      return `${needs}preStop left ${duration(Math.max(0, leftMs))} of ${grace}`;
    }
    if (tookAllGrace(pod)) return `preStop (${pod.preStop?.text}) took all ${grace} of grace`;
    const heard = heardSigterm(pod, exit);
    return heard &&
      `stopped serving ${sinceDeletion(deleted!, heard.atMs)}, not ended after ${grace} of grace`;
  }],
  ["SIGTERM_IGNORED", ({ pod, exit }) => {
    if (exit === undefined || killedBy(pod, exit) === undefined) return undefined;
    if (pod.preStopMs === null && !when(pod, "prestop-failed")) return null; // the hook may have taken it all
    return `${exit.text} after ${duration(pod.graceMs)} of grace`;
  }],
  ["SIDECAR_ENDED", ({ pod, exit, other, ranOnMs, deleted, cutMs }) => {
    if (other === undefined || !pod.sidecars.includes(other.container!)) return undefined;
    const own = exit ?? ownExitsOf(pod, cutMs)[0];
    const after = `${other.text} ${sinceDeletion(deleted!, other.atMs)}`;
    if (ranOnMs > INSTANT_MS / 5) return `${after}, ${pod.container} ran on`;
    if (own?.stampMs === undefined || other.stampMs === undefined) return undefined;
    // In one second of the stamps each may have been the first.
    return own.stampMs > other.stampMs
      ? `${after}, ${pod.container} later`
      : own.stampMs < other.stampMs
      ? undefined
      : null;
  }],
  ["PRESTOP_FAILED", ({ pod, noticed, cutMs, deleted, exit, ranOnMs }) => {
    const failed = when(pod, "prestop-failed");
    if (failed === undefined || pod.preStop === null || tookAllGrace(pod) || !pod.wasBy(failed, cutMs)) {
      return undefined;
    }
    // Who exits at SIGTERM would have done so after the hook as well, unless the hook is what drains: it does not only sleep.
    const { ms, text } = pod.preStop;
    if (exit === undefined ? ranOnMs <= INSTANT_MS / 5 : noticed || ms !== null) return undefined;
    return cutMs < deleted!.atMs + (ms ?? Infinity) ? `${failed.text} (${text})` : undefined;
  }],
  // It ended in order on another path: that its process ended with it need not be why this one was cut.
  ["INTERMEDIARY_CUT", ({ company: { difference }, exit }) => difference && exit ? null : undefined],
  ["EXITED_AT_SIGTERM", (ending) => {
    const { noticed, exit, deleted, pod } = ending;
    if (noticed || exit === undefined || isBeforeSigterm(ending, true)) return undefined;
    // Killed, and not for its grace; or perhaps before SIGTERM, and perhaps not its end.
    if (exit.code === 137 || isOpen(ending, exit)) return null;
    const heard = when(pod, "not-serving");
    const closed = heard !== undefined && exit.atMs - heard.atMs > 2 * INSTANT_MS
      ? ", its upgraded connections with it"
      : "";
    return `${exit.text} ${sinceDeletion(deleted!, exit.atMs)}${closed}`;
  }],
  ["EXIT_BEFORE_FLUSH", (ending) => {
    const { noticed, exit, deleted } = ending;
    if (!noticed || exit === undefined) return undefined;
    if (exit.code === 137 || isOpen(ending, exit)) return null;
    return `${exit.text} ${sinceDeletion(deleted!, exit.atMs)}, amid the drain`;
  }],
  ["CUT_AT_SIGTERM", ({ sigtermMs, cutMs, ranOnMs, company: { difference } }) => {
    const afterMs = cutMs - (sigtermMs ?? Infinity);
    if (ranOnMs <= INSTANT_MS || Math.abs(afterMs) > INSTANT_MS) return undefined;
    if (difference !== undefined) return null; // too few to tell the application from a proxy
    return `cut ${duration(Math.max(0, afterMs))} after SIGTERM; the process ran on for ${duration(ranOnMs)}`;
  }],
  ["INTERMEDIARY_CUT", (ending) => {
    const { pod, deleted, sigtermMs, cutMs, openedMs, ranOnMs } = ending;
    if (sigtermMs === null || cutMs >= deleted!.atMs + pod.graceMs) return undefined;
    // However late the deletion was read: SIGTERM came so much earlier.
    const early = isBeforeSigterm(ending, true) && cutMs < sigtermMs - (deleted!.atMs - pod.span(deleted!)[0]);
    if (cutMs < sigtermMs && !early) return null;
    if (ranOnMs <= (early ? INSTANT_MS / 5 : INSTANT_MS)) return undefined;
    // Not sure either: a deletion that was told after the cut, a hook that may have failed, a sidecar's end that nobody saw.
    const isSeen = (name: string) => exitsOf(pod, openedMs).some(({ container }) => container === name);
    const mayFail = early && pod.preStop !== null && pod.preStop.kind !== "sleep";
    if (cutMs < deleted!.atMs - INSTANT_MS / 2 || mayFail || !pod.sidecars.every(isSeen)) return null;
    return `cut ${sinceDeletion(deleted!, cutMs)}; the pod ran on for ${duration(ranOnMs)}`;
  }],
];

/** How long after the deletion, in words; whole seconds of another clock may place a moment before it. */
const sinceDeletion = (deleted: Moment, atMs: number): string =>
  `${duration(Math.max(0, atMs - deleted.atMs))} after the deletion`;

const middle = ([earliestMs, latestMs]: readonly [number, number]): number => (earliestMs + latestMs) / 2;

/** Whether an exit came before a deletion: it was told by an object that was not being deleted, or its stamp says so. */
function isBefore(pod: Pod, exit: Moment, deleted: Moment): boolean {
  return isToldBefore(pod, exit, deleted) || exit.stampMs! < deleted.stampMs!;
}

function isToldBefore(pod: Pod, one: Moment, other: Moment): boolean {
  return pod.moments.find((moment) => moment === one || moment === other) === one;
}

/** Whether the session ended before SIGTERM came: as it looks; or surely, however late the deletion was read. */
function isBeforeSigterm(
  { pod, deleted, sigtermMs, cutMs, silent }: Omit<Ending, "exit">,
  surely: boolean,
): boolean {
  if (silent || sigtermMs === null) return false;
  return cutMs < sigtermMs - Math.max(INSTANT_MS / 2, surely ? readLateMs(pod, deleted!) : 0);
}

/** Whether an exit looks too late for a session that looks too early for SIGTERM. */
function isOpen(ending: Ending, exit: Moment): boolean {
  return isBeforeSigterm(ending, false) && exit.atMs - ending.cutMs >= INSTANT_MS;
}

/** How late a deletion can have been read. */
function readLateMs(pod: Pod, deleted: Moment): number {
  return Math.min(READ_LATE_MS, deleted.atMs - pod.span(deleted)[0]);
}

/** Kubelet's kill for a failed probe; where only the probe's failures were seen, an exit as a kill leaves it says the rest. */
function livenessKill({ pod, exit, deleted, openedMs, cutMs }: Ending): Moment | undefined {
  const isOwn = ({ container = pod.container }: Moment) => container === pod.container;
  const kill = pod.moments.find((one) =>
    one.kind === "liveness" && isOwn(one) && one.atMs > openedMs && pod.wasBy(one, cutMs)
  );
  if (kill !== undefined) return deleted === undefined || kill.atMs < deleted.atMs ? kill : undefined;
  if (deleted !== undefined || exit === undefined || ![0, 137, 143].includes(exit.code!)) return undefined;
  return pod.moments.findLast((one) =>
    one.kind === "unhealthy" && isOwn(one) && pod.wasBy(one, cutMs) && exit.atMs - one.atMs <= UNHEALTHY_MS
  );
}

function evictionOf({ pod, cutMs, exit }: Ending): Moment | undefined {
  const isBeforeExit = (one: Moment) => exit !== undefined && isToldBefore(pod, one, exit);
  return pod.moments.find((one) => one.kind === "evicted" && (pod.wasBy(one, cutMs) || isBeforeExit(one)));
}

/** Whether the hook was still running when the grace was over: it is as long, or died there. */
function tookAllGrace(pod: Pod): boolean {
  const [deleted, failed] = [when(pod, "deleted")!, when(pod, "prestop-failed")];
  if (failed !== undefined) return betweenMs(deleted, failed) >= pod.graceMs - 1500;
  return (pod.preStopMs ?? 0) >= pod.graceMs;
}

/** What shows that SIGTERM was heard: readiness went down long before the end. */
function heardSigterm(pod: Pod, exit: Moment): Moment | undefined {
  return pod.moments.find(({ kind, atMs }) =>
    kind === "not-serving" && atMs >= when(pod, "deleted")!.atMs - READ_LATE_MS && atMs < exit.atMs - 2 * INSTANT_MS
  );
}

/** What happened nearest to a cut, and can have to do with it: the endpoint went before it, a node is missed after it. */
function nearestTo(pod: Pod, cutMs: number): string {
  const awayMs = ({ kind, atMs }: Moment) =>
    kind === "node-lost" || kind === "unhealthy" || (/endpoint|serving/.test(kind) && atMs <= cutMs)
      ? Math.abs(atMs - cutMs)
      : Infinity;
  const [nearest] = pod.moments.toSorted((a, b) => awayMs(a) - awayMs(b));
  if (nearest === undefined || awayMs(nearest) > NODE_LATE_MS) return "";
  return `; ${duration(awayMs(nearest))} ${nearest.atMs <= cutMs ? "before" : "after"}: ${nearest.text}`;
}

/** Why a handover failed, and the numbers that show it; null where the evidence does not decide. The first match wins. */
export function diagnose(
  handover: Handover,
  pod: Pod | undefined,
  company: Company = ALONE,
): { cause: Cause; evidence: string } | null {
  const { symptom, code, dialect, endedMs, readyEndpoints, lastOnEndingMs } = handover;
  if (symptom === null || endedMs === null) return null;
  if (symptom === "SLOW_RECONNECT" || symptom === "SAME_SERVER") {
    if (symptom === "SLOW_RECONNECT" && readyEndpoints === 0) {
      return { cause: "NO_READY_PEER", evidence: "no ready endpoint to dial" };
    }
    if (lastOnEndingMs === null) return null;
    return {
      cause: "ENDPOINT_RACE",
      evidence: `last dial that reached the ending pod at +${duration(lastOnEndingMs)}`,
    };
  }
  const isCut = isAbrupt(symptom) || (dialect !== "v1" && code === null && symptom !== "WITNESS_ENDED");
  if (!isCut) return null;
  // Without numbers a session that no pod's end explains has an explanation; a pod that nobody knows is none.
  if (pod === undefined) return dialect === "v1" ? null : { cause: "NO_POD_EVENT", evidence: "no pod was ending" };
  const ending = endingOf(handover, pod, company);
  for (const [cause, evidenceOf] of DIAGNOSES) {
    const evidence = evidenceOf(ending);
    if (evidence === null) return null;
    if (evidence !== undefined) return { cause, evidence };
  }
  return null;
}

const isAbrupt = (symptom: Symptom | null): boolean =>
  ["STALLED", "CUT_WITHOUT_NOTICE", "CUT_DURING_DRAIN"].includes(symptom!);

/** What is certainly not the cause, although no other is known; `seen` is the application's end, if anybody saw it. */
const RULED_OUT: Partial<Record<Cause, (ending: Ending, seen: Moment | undefined) => boolean>> = {
  ENDPOINT_RACE: ({ pod, unsure, openedMs }) =>
    openedMs <= (when(pod, "deleted")?.atMs ?? Infinity) - (unsure ? TOLD_LATE_MS : 0),
  OOM_KILLED: (_ending, seen) => seen !== undefined,
  CRASHED: ({ deleted }, seen) => seen !== undefined && seen.code !== 137 && deleted !== undefined,
  LIVENESS_KILLED: ({ deleted }) => deleted !== undefined,
  FORCE_DELETED: ({ pod }, seen) => seen !== undefined || !pod.forced,
  GRACE_SHORTENED: (ending, seen) => isNotKilled(ending, seen) || !isShortened(ending),
  SIGKILL_AT_GRACE: (ending, seen) => isNotKilled(ending, seen) || isShortened(ending),
  SIGTERM_IGNORED: (ending, seen) => ending.noticed || isNotKilled(ending, seen) || isShortened(ending),
  SIDECAR_ENDED: ({ pod }) => pod.sidecars.length === 0,
  PRESTOP_FAILED: ({ pod }) => pod.preStop === null || when(pod, "prestop-failed") === undefined,
  EXITED_AT_SIGTERM: (ending, seen) => ending.noticed || seen?.code === 137 || isBeforeIts(ending),
  EXIT_BEFORE_FLUSH: (ending, seen) => !ending.noticed || seen?.code === 137 || isBeforeIts(ending),
  CUT_AT_SIGTERM: (ending) => {
    const { sigtermMs, cutMs, silent } = ending;
    return silent || isBeforeIts(ending) || (sigtermMs !== null && cutMs > sigtermMs + INSTANT_MS);
  },
  INTERMEDIARY_CUT: ({ pod, deleted, cutMs }) => deleted !== undefined && cutMs >= deleted.atMs + pod.graceMs,
  NO_READY_PEER: () => true,
  NO_POD_EVENT: ({ deleted, exit }) => deleted !== undefined || exit !== undefined,
};

/** Whether the session ended before its pod's deletion, or before SIGTERM. */
function isBeforeIts(ending: Ending): boolean {
  return ending.deleted === undefined ? !ending.unsure : isBeforeSigterm(ending, true);
}

function isShortened({ pod }: Ending): boolean {
  return pod.moments.some(({ graceMs = Infinity }) => graceMs > 0 && graceMs < pod.specifiedGraceMs);
}

/** Whether it was not SIGKILL at the end of a grace. */
function isNotKilled({ pod, deleted, unsure, cutMs, silent }: Ending, seen: Moment | undefined): boolean {
  if (seen !== undefined && seen.code !== 137) return true;
  if (deleted === undefined) return !unsure;
  if (seen !== undefined) return killedBy(pod, seen) === undefined;
  return !silent && cutMs < deleted.atMs + pod.graceMs - 2 * INSTANT_MS;
}

/** Where no cause is certain: those of which the evidence rules out none; null where there is no evidence. */
export function suspects(handover: Handover, pod: Pod | undefined): Cause[] | null {
  const { symptom, endedMs } = handover;
  if (endedMs === null || pod === undefined || !isAbrupt(symptom)) return null;
  const ending = endingOf(handover, pod, ALONE);
  const [seen] = ownExitsOf(pod, ending.openedMs);
  return (Object.keys(CAUSES) as Cause[]).filter((cause) => !RULED_OUT[cause]?.(ending, seen));
}

// ---- Rollouts: how often sessions moved, how many came at once, and where they are afterwards -----

/** Ends of sessions with so much calm between them are two disruptions, as the page draws them in two pictures. */
const CALM_MS = 30_000;
/** With so many new sessions in a second each has less than 10 ms of a core for its handshake, login and first answer. */
const STORM = 100;
const STORM_MS = 1000;
/** Sessions that no pod's end has ended. */
const NO_POD_ENDED: readonly (string | null)[] = ["TURNED_AWAY", "WITNESS_ENDED", "NO_POD_EVENT", "INTERMEDIARY_CUT"];

/** How the sessions of a run moved. */
export interface Rollout {
  /** How many disruptions there were: ends of sessions, or of pods, without 30 s of calm between them. */
  disruptions: number;
  /** Sessions by how often they moved within one disruption, each by the one in which it moved most; 1 is the least. */
  moves: Record<string, number>;
  /** The most sessions that moved to one server within a second, and when that second began; null where none moved. */
  peak: { server: string; sessions: number; atMs: number } | null;
  /** What `UNEVEN` looks at: the sessions of each server that can have some; empty where servers have no names. */
  held: Record<string, number>;
}

/** A server that takes new sessions, and since when. */
export interface Taker {
  name: string;
  readyMs: number;
}

/** What a rollout did to sessions, and where they are. */
export interface Moved {
  handovers: readonly Handover[];
  /** When a rollout was begun by ourselves: all that follows is one disruption. */
  rolledMs: number | null;
  /** Of the pods that ended or began: when something happened to them. */
  podsMs: readonly number[];
  /** Sessions by server, as they are held now. */
  held: Record<string, number>;
  /** The pods that are ready; null where nobody tells. */
  ready: readonly Taker[] | null;
}

/** For each handover that a pod's end caused: which move of its session in its disruption it is, and which disruption. */
export function movesOf({ handovers, rolledMs, podsMs }: Pick<Moved, "handovers" | "rolledMs" | "podsMs">) {
  const moves = new Map<Handover, { move: number; disruption: number }>();
  const ends = handovers.flatMap((handover) => {
    const { symptom, cause, endedMs, noticeMs, reconnectMs, to } = handover;
    if (endedMs === null || to === null || [symptom, cause].some((name) => name && NO_POD_ENDED.includes(name))) {
      return [];
    }
    return [{ handover, fromMs: endedMs - (noticeMs ?? 0), toMs: endedMs + reconnectMs }];
  });
  const stretches = [...ends, ...podsMs.map((atMs) => ({ handover: undefined, fromMs: atMs, toMs: atMs }))];
  const before = new Map<number, number>();
  let [disruption, busyMs] = [0, -Infinity];
  for (const { handover, fromMs, toMs } of stretches.sort((a, b) => a.fromMs - b.fromMs)) {
    const isRolled = rolledMs !== null && fromMs >= rolledMs;
    if (isRolled ? busyMs < rolledMs : fromMs - busyMs > CALM_MS) {
      disruption++;
      before.clear();
    }
    busyMs = Math.max(busyMs, toMs, isRolled ? rolledMs : toMs);
    if (handover === undefined) continue;
    const move = (before.get(handover.slot) ?? 0) + 1;
    before.set(handover.slot, move);
    moves.set(handover, { move, disruption });
  }
  return moves;
}

/** The numbers of what moved; null where nothing did. */
export function rolloutOf(moved: Moved): Rollout | null {
  const moves = movesOf(moved);
  if (moves.size === 0) return null;
  const most = new Map<number, number>();
  for (const [{ slot }, { move }] of moves) most.set(slot, Math.max(move, most.get(slot) ?? 0));
  const bySize: Record<string, number> = {};
  for (const move of most.values()) bySize[move] = (bySize[move] ?? 0) + 1;
  return {
    disruptions: new Set([...moves.values()].map(({ disruption }) => disruption)).size,
    moves: bySize,
    peak: peakOf([...moves.keys()]),
    held: takersOf(moved),
  };
}

function peakOf(handovers: readonly Handover[]): Rollout["peak"] {
  const arrivals = new Map<string, number[]>();
  for (const { to, arrivedMs } of handovers) {
    if (arrivedMs === null) continue;
    const times = arrivals.get(to!);
    if (times === undefined) arrivals.set(to!, [arrivedMs]);
    else times.push(arrivedMs);
  }
  let peak: Rollout["peak"] = null;
  for (const [server, times] of arrivals) {
    times.sort((a, b) => a - b);
    let first = 0;
    for (const [last, atMs] of times.entries()) {
      while (atMs - times[first]! >= STORM_MS) first++;
      const sessions = last - first + 1;
      if (sessions > (peak?.sessions ?? 0)) peak = { server, sessions, atMs: times[first]! };
    }
  }
  return peak;
}

/** A server that has not said who it is goes by its address, behind which there may be many. */
const isAddress = (server: string): boolean => /^wss?:/i.test(server);

/** The sessions of each server that takes some; {} where it cannot be told which those are. */
function takersOf({ held, ready }: Pick<Moved, "held" | "ready">): Record<string, number> {
  if (Object.keys(held).some(isAddress)) return {};
  return ready === null ? held : Object.fromEntries(ready.map(({ name }) => [name, held[name] ?? 0]));
}

/**
 * How likely it is that chance alone, with which a Service spreads connections, fills one server as much as the fullest,
 * or another as little as the emptiest (the less likely of the two; a binomial tail for each server).
 */
export function chanceOf(counts: readonly number[]): number {
  const [all, share] = [counts.reduce((sum, one) => sum + one, 0), 1 / counts.length];
  if (counts.length < 2) return 1;
  const [least, most] = [Math.min(...counts), Math.max(...counts)];
  let [logarithm, upper, lower] = [all * Math.log(1 - share), 0, 0];
  for (let number = 0; number <= all; number++) {
    if (number <= least) lower += Math.exp(logarithm);
    if (number >= most) upper += Math.exp(logarithm);
    logarithm += Math.log((all - number) / (number + 1)) + Math.log(share / (1 - share));
  }
  return Math.min(1, counts.length * Math.min(upper, lower));
}

/** What is worth knowing of how sessions moved: never a failure. */
export function rolloutFindings(rollout: Rollout | null, moved: Moved): { name: string; text: string }[] {
  if (rollout === null) return [];
  return [movedAgain(rollout), storm(rollout), uneven(rollout, moved)].flatMap((finding) => finding ?? []);
}

const TIMES = ["never", "once", "twice"];
/** "once", "twice", "3 times". */
const times = (number: number): string => TIMES[number] ?? `${number} times`;

function movedAgain({ moves }: Rollout) {
  const again = Object.entries(moves).filter(([move]) => Number(move) > 1);
  if (again.length === 0) return undefined;
  const all = Object.values(moves).reduce((sum, number) => sum + number, 0);
  const said = again.map(([move, number], index) =>
    `${grouped(number)}${index === 0 ? ` of the ${count(all, "session")} that moved` : ""} moved ${times(Number(move))}`
  );
  const text =
    `${said.join(", ")} in one disruption (once is the least): they went to servers that were to end them next; ` +
    "have the new pods ready before the old ones go (maxSurge up to 100%, minReadySeconds), and spread the drain over that time";
  return { name: "MOVED_AGAIN", text };
}

function storm({ peak }: Rollout) {
  if (peak === null || peak.sessions < STORM) return undefined;
  const { server, sessions, atMs } = peak;
  const seconds = Math.ceil(sessions / STORM);
  const text =
    `${grouped(sessions)} sessions moved ${isAddress(server) ? "through" : "to"} ${server} within one second, at ` +
    `${duration(atMs)}: ${
      duration(STORM_MS / sessions)
    } of a core for each; spread the drain over ${seconds}s or more ` +
    "(--spread, or the application's own), let clients wait longer at random, or have more pods to take them";
  return { name: "RECONNECT_STORM", text };
}

function uneven({ held }: Rollout, { handovers, ready }: Moved) {
  const servers = Object.entries(held).sort(([, a], [, b]) => b - a);
  const chance = chanceOf(servers.map(([, number]) => number));
  if (chance >= UNLIKELY) return undefined;
  const lastMs = handovers.reduce((most, { arrivedMs }) => Math.max(most, arrivedMs ?? most), 0);
  const late = new Map(
    (ready ?? []).filter(({ readyMs }) => readyMs > lastMs).map(({ name, readyMs }) => [name, readyMs]),
  );
  const rest = servers.filter(([name]) => !late.has(name));
  const [[fullest, most], [emptiest, least]] = [servers[0]!, servers.at(-1)!];
  const all = servers.reduce((sum, [, number]) => sum + number, 0);
  const numbers = `${fullest} has ${grouped(most)} of ${count(all, "session")}, ${emptiest} ${grouped(least)}, ` +
    `${servers.length} pods are ready: by chance less than once in ${
      grouped(Math.floor(Math.min(1e6, 1 / chance)))
    } runs`;
  const newest = [...late].at(-1);
  const why = newest !== undefined && chanceOf(rest.map(([, number]) => number)) >= UNLIKELY
    ? `${newest[0]} became ready ${
      duration(newest[1] - lastMs)
    } after the last session had moved, and nothing moves by itself: have new ` +
      "pods ready before old ones go (maxSurge, minReadySeconds)"
    : "whoever balances does not spread new connections evenly, or they came while few pods were ready";
  return { name: "UNEVEN", text: `${numbers}; ${why}, or end sessions at an age limit with some jitter` };
}

// ==== The conventions =======================================================================

// ---- Workloads: what a drill can disrupt as a whole ------------------------------------------------

/** The kinds that can be a target: how the API calls them, and the names by which kubectl knows them as well. */
export const WORKLOADS = {
  deployment: { kind: "Deployment", resource: "deployments", names: ["deployments", "deploy"] },
  statefulset: { kind: "StatefulSet", resource: "statefulsets", names: ["statefulsets", "sts"] },
  daemonset: { kind: "DaemonSet", resource: "daemonsets", names: ["daemonsets", "ds"] },
} as const;

export type WorkloadKind = keyof typeof WORKLOADS;

/** A workload by kind and name. */
export interface Target {
  kind: WorkloadKind;
  name: string;
}

/** Reads `deployment/NAME`, `statefulset/NAME`, `daemonset/NAME`, as kubectl does; a name alone is a Deployment's. Throws `RangeError` with the rule. */
export function parseTarget(text: string): Target {
  const [, said = "deployment", name = ""] = /^(?:([^/]*)\/)?([a-z0-9](?:[-a-z0-9.]*[a-z0-9])?)$/.exec(text) ?? [];
  const kind = (Object.keys(WORKLOADS) as WorkloadKind[]).find((one) =>
    one === said.toLowerCase() || (WORKLOADS[one].names as readonly string[]).includes(said.toLowerCase())
  );
  if (kind !== undefined && name !== "") return { kind, name };
  throw new RangeError(
    "must be deployment/NAME, statefulset/NAME or daemonset/NAME; pods of another kind (an Argo Rollout, a ReplicaSet, " +
      "bare pods) can only be looked at: --disrupt watch with --target-selector",
  );
}

/** A target as kubectl would have it. */
export const targetInWords = ({ kind, name }: Target): string => `${kind}/${name}`;

/** How Kubernetes selects by labels (meta/v1 LabelSelector). */
export interface LabelSelector {
  matchLabels?: Record<string, string> | null;
  matchExpressions?: { key: string; operator: string; values?: string[] | null }[] | null;
}

type IntOrPercent = number | string;

/** The part of a Deployment, StatefulSet or DaemonSet (apps/v1) that is read here. */
export interface WorkloadObject {
  metadata: { name: string; generation?: number };
  spec: {
    replicas?: number;
    paused?: boolean;
    selector?: LabelSelector;
    /** Of a Deployment. */
    strategy?: UpdateStrategy;
    /** Of the others. */
    updateStrategy?: UpdateStrategy;
    ordinals?: { start?: number };
    template: { metadata?: { labels?: Record<string, string>; annotations?: Record<string, string> }; spec: PodSpec };
  };
  status?: {
    observedGeneration?: number;
    replicas?: number;
    updatedReplicas?: number;
    readyReplicas?: number;
    availableReplicas?: number;
    currentRevision?: string;
    updateRevision?: string;
    desiredNumberScheduled?: number;
    updatedNumberScheduled?: number;
    numberAvailable?: number;
  };
}

interface UpdateStrategy {
  type?: string;
  rollingUpdate?: { maxUnavailable?: IntOrPercent; maxSurge?: IntOrPercent; partition?: number } | null;
}

/** A label selector as a query has it. */
export function selectorInWords({ matchLabels, matchExpressions }: LabelSelector): string {
  const operators: Record<string, (key: string, values: string) => string> = {
    In: (key, values) => `${key} in (${values})`,
    NotIn: (key, values) => `${key} notin (${values})`,
    Exists: (key) => key,
    DoesNotExist: (key) => `!${key}`,
  };
  return [
    ...Object.entries(matchLabels ?? {}).map(([key, value]) => `${key}=${value}`),
    ...(matchExpressions ?? []).map(({ key, operator, values }) => operators[operator]!(key, (values ?? []).join())),
  ].join();
}

/** Whether labels are selected; by an empty selector all are. */
export function isSelected(selector: LabelSelector, labels: Record<string, string> = {}): boolean {
  const has = (key: string) => Object.hasOwn(labels, key);
  const operators: Record<string, (key: string, values: readonly string[]) => boolean> = {
    In: (key, values) => has(key) && values.includes(labels[key]!),
    NotIn: (key, values) => !(has(key) && values.includes(labels[key]!)),
    Exists: has,
    DoesNotExist: (key) => !has(key),
  };
  return Object.entries(selector.matchLabels ?? {}).every(([key, value]) => labels[key] === value) &&
    (selector.matchExpressions ?? []).every(({ key, operator, values }) =>
      operators[operator]?.(key, values ?? []) ?? false
    );
}

/** A number of pods, or a share of them ("25%"), rounded as the field says; undefined where it is neither. */
export function podsOf(value: IntOrPercent, all: number, round: "up" | "down"): number | undefined {
  if (typeof value === "number") return value;
  const percent = /^(\d+)%$/.exec(value)?.[1];
  if (percent === undefined) return undefined;
  return (round === "up" ? Math.ceil : Math.floor)(all * Number(percent) / 100);
}

const SUFFIXES: Record<string, number> = {
  ...{ n: 1e-9, u: 1e-6, m: 1e-3, "": 1, k: 1e3, M: 1e6, G: 1e9, T: 1e12, P: 1e15, E: 1e18 },
  ...{ Ki: 2 ** 10, Mi: 2 ** 20, Gi: 2 ** 30, Ti: 2 ** 40, Pi: 2 ** 50, Ei: 2 ** 60 },
};

/** A resource quantity (`500m`, `128Mi`, `1e3`) as a number; NaN where it is none. */
export function quantity(text: number | string): number {
  const [, number, suffix = ""] =
    /^([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([numkMGTPE]|[KMGTPE]i)?$/.exec(`${text}`) ??
      [];
  return Number(number) * SUFFIXES[suffix]!;
}

/** How many pods a workload is to have; of a DaemonSet the nodes decide, so its status says it. */
export function wantedPods({ kind }: Target, { spec, status }: WorkloadObject): number | undefined {
  return kind === "daemonset" ? status?.desiredNumberScheduled : spec.replicas ?? 1;
}

/** The lowest ordinal that a rollout of a StatefulSet replaces counts from here. */
const partitionOf = ({ spec }: WorkloadObject): number => spec.updateStrategy?.rollingUpdate?.partition ?? 0;

/** How many pods a rollout replaces; undefined where nobody can tell. */
export function rolledPods(target: Target, object: WorkloadObject): number | undefined {
  const pods = wantedPods(target, object);
  return pods === undefined ? undefined : Math.max(0, pods - partitionOf(object));
}

/** What a rollout still waits for, by the fields that `kubectl rollout status` reads; "" once it is over. */
export function rolloutLeft(target: Target, object: WorkloadObject): string {
  const { metadata: { generation = 0 }, status = {} } = object;
  if ((status.observedGeneration ?? 0) < generation) return "the controller to see it";
  const all = wantedPods(target, object) ?? 0;
  const updated = status.updatedReplicas ?? status.updatedNumberScheduled ?? 0;
  const wanted = rolledPods(target, object) ?? 0;
  if (updated < wanted) return `${updated} of ${count(wanted, "pod")} updated`;
  if (target.kind === "deployment" && (status.replicas ?? 0) > updated) {
    return `${count(status.replicas! - updated, "old pod")} to end`;
  }
  const { currentRevision, updateRevision } = status;
  // With a partition the revisions stay two.
  if (target.kind === "statefulset" && wanted === all && currentRevision !== updateRevision) {
    return `revision ${updateRevision} to become the current one`;
  }
  const ready = {
    deployment: "availableReplicas",
    statefulset: "readyReplicas",
    daemonset: "numberAvailable",
  } as const;
  const has = status[ready[target.kind]] ?? 0;
  return has < all ? `${has} of ${count(all, "pod")} available` : "";
}

/** Why a workload cannot be rolled, scaled in or drained, in words; undefined where it can. */
export function refusalOf(disruption: string, target: Target, object: WorkloadObject): string | undefined {
  const { kind } = target;
  const { spec } = object;
  const pods = wantedPods(target, object);
  const cannot = (verb: string, why: string) => `Cannot ${verb} ${targetInWords(target)}: ${why}`;
  if (disruption === "rollout") {
    if (spec.paused) return cannot("roll", "it is paused");
    if (spec.updateStrategy?.type === "OnDelete") {
      return cannot(
        "roll",
        "its updateStrategy is OnDelete, which replaces a pod once somebody deletes it: disrupt delete",
      );
    }
    if (pods === 0) return cannot("roll", "it has no pods");
    if (rolledPods(target, object) === 0) {
      return cannot("roll", `its partition ${partitionOf(object)} leaves out every pod`);
    }
  }
  if (disruption === "scale-in") {
    if (kind === "daemonset") {
      return cannot("scale in", "a DaemonSet has a pod on each node, and no replicas: delete or watch");
    }
    if (pods! < 2) return cannot("scale in", `it has ${count(pods!, "replica")}, and two are needed`);
  }
  return disruption === "drain" && kind === "daemonset"
    ? cannot("drain", "kubectl drain leaves a DaemonSet's pods where they are: delete or watch")
    : undefined;
}

/** The pod that a StatefulSet gives up first: that with the highest ordinal. */
export function highestOrdinal({ name }: Target, { spec: { replicas = 1, ordinals } }: WorkloadObject): string {
  return `${name}-${(ordinals?.start ?? 0) + replicas - 1}`;
}

// ---- The check: from the objects to what a drill will show -------------------------------------------

/** The part of a pod's specification that is read here. */
export interface PodSpec {
  containers: ContainerSpec[];
  initContainers?: ContainerSpec[];
  terminationGracePeriodSeconds?: number;
  shareProcessNamespace?: boolean;
  nodeName?: string;
}

interface ContainerSpec extends Container {
  image?: string;
  command?: string[];
  args?: string[];
  env?: { name: string; value?: string }[];
  envFrom?: { configMapRef?: { name?: string } }[];
  ports?: { name?: string; containerPort: number }[];
  readinessProbe?: ProbeSpec;
  livenessProbe?: ProbeSpec;
  resources?: { requests?: Record<string, IntOrPercent>; limits?: Record<string, IntOrPercent> & { memory?: string } };
}

interface ProbeSpec {
  exec?: { command?: string[] };
  httpGet?: { path?: string; port: IntOrPercent };
}

/** The part of a Service (v1) that is read here. */
export interface ServiceObject {
  metadata: { name: string };
  spec?: {
    selector?: Record<string, string> | null;
    ports?: { port: number; targetPort?: IntOrPercent }[];
    sessionAffinity?: string;
    publishNotReadyAddresses?: boolean;
  };
}

/** The part of a PodDisruptionBudget (policy/v1) that is read here. */
export interface BudgetObject {
  metadata: { name: string };
  spec?: { minAvailable?: IntOrPercent; maxUnavailable?: IntOrPercent; selector?: LabelSelector | null };
  status?: { disruptionsAllowed?: number; currentHealthy?: number; expectedPods?: number };
}

/** What there is to be looked at; of what is undefined nothing can be said. */
export interface Workload {
  target: Target;
  object: WorkloadObject;
  pods?: KubernetesObject[] | undefined;
  services?: ServiceObject[] | undefined;
  budgets?: BudgetObject[] | undefined;
  slices?: KubernetesObject[] | undefined;
  events?: KubernetesObject[] | undefined;
  configMaps?: { metadata: { name: string }; data?: Record<string, string> }[] | undefined;
  /** The first labels of the host names that are dialled: where one is a Service's, that one counts. */
  hosts?: readonly string[];
}

/** What is foretold: which symptoms, causes or findings, by which field, and what would mend it. */
export interface Prediction {
  rule: string;
  foretells: readonly string[];
  /** Whether the objects alone decide it. */
  certain: boolean;
  field: string;
  value: string;
  fix: string;
  text: string;
}

/** What a look at one workload brought. */
export interface Inspection {
  target: string;
  predictions: Prediction[];
  notes: string[];
  /** What could not be looked at, and why. */
  unseen: string[];
}

/** A place in an application's container that a rule reads, and what is wrong there. */
type Hit = Pick<Prediction, "field" | "value" | "fix" | "text"> & { certain?: boolean };

/** What the rules look at. */
interface View extends Workload {
  pod: PodSpec;
  main: ContainerSpec;
  /** Where the application's container stands. */
  place: string;
  hook: Hook | null;
  graceS: number;
  /** How many pods there are to be; undefined where nobody can tell. */
  wanted: number | undefined;
  annotations: Record<string, string>;
  /** The Services that lead to the pods. */
  leading: ServiceObject[];
  /** The budgets that are theirs; undefined where it is not known which there are. */
  own: BudgetObject[] | undefined;
}

/** A preStop.sleep that covers the endpoint's removal on an ordinary cluster; shorter than the least it covers nothing. */
const USUAL_PRESTOP_S = 5;
const LEAST_PRESTOP_MS = 2000;
/** A drain that must do with less is likely to be cut. */
const LEAST_DRAIN_S = 10;
/** What the cluster autoscaler leaves a pod at most (--max-graceful-termination-sec). */
const AUTOSCALER_GRACE_S = 600;

const TEMPLATE = "spec.template.spec";
const NO_SHELL = /distroless|cgr\.dev\/chainguard|(^|\/)(scratch|static)([:@]|$)/;
const SHELLS = /^(\/(usr\/)?bin\/)?(sh|bash|ash|dash|sleep|kill|curl|wget|cat|test)$/;
const WRAPPERS = /^(\S*\/)?(npm|npx|yarn|pnpm|bun)$/;
const PROXIES = /istio-proxy|proxyv2|envoy|linkerd|haproxy|nginx|traefik|oauth2-proxy|cloud-?sql-proxy|caddy/;

/** Every rule: what it foretells, and how it finds that. The table of docs/kubernetes.md says what each looks at. */
export const INSPECTIONS: readonly {
  rule: string;
  foretells: readonly (Cause | Symptom | "RECONNECT_STORM" | "UNEVEN")[];
  find: (view: View) => Hit[];
}[] = [
  {
    rule: "grace-zero",
    foretells: ["FORCE_DELETED"],
    find: ({ graceS }) =>
      graceS > 0 ? [] : [{
        field: `${TEMPLATE}.terminationGracePeriodSeconds`,
        value: "0",
        fix: "60",
        text: "kubelet leaves about 2s, whatever the application needs",
        certain: true,
      }],
  },
  {
    rule: "grace-too-short",
    foretells: ["SIGKILL_AT_GRACE"],
    find: (view) => {
      const { graceS, hook } = view;
      if (graceS === 0 || (hook !== null && hook.ms === null)) return [];
      const preStopS = (hook?.ms ?? 0) / 1000;
      const leftS = graceS - preStopS;
      const drainS = knownDrainS(view);
      const text = leftS <= 0
        ? `preStop takes all of it: SIGTERM comes when the time is over`
        : drainS === undefined
        ? `at most ${leftS}s left for the drain: preStop takes ${preStopS}s`
        : `${leftS}s left for the drain, which may take ${drainS}s: preStop takes ${preStopS}s`;
      if (leftS > (drainS ?? LEAST_DRAIN_S - 0.001)) return [];
      return [{
        field: `${TEMPLATE}.terminationGracePeriodSeconds`,
        value: String(graceS),
        fix: `${Math.ceil(preStopS + (drainS ?? 25)) + 5} or more: preStop + drain, and a margin`,
        text,
        certain: leftS <= 0 || drainS !== undefined,
      }];
    },
  },
  {
    rule: "prestop-missing",
    foretells: ["ENDPOINT_RACE"],
    find: ({ hook, place }) => {
      if (hook !== null && (hook.ms === null || hook.ms >= LEAST_PRESTOP_MS)) return [];
      return [{
        field: `${place}.lifecycle.preStop`,
        value: hook?.text ?? "none",
        fix: `sleep: { seconds: ${USUAL_PRESTOP_S} }`,
        text: "new connections still come after SIGTERM",
      }];
    },
  },
  {
    rule: "prestop-without-shell",
    foretells: ["PRESTOP_FAILED"],
    find: ({ hook, main, place, events = [], pods = [] }) => {
      if (hook?.kind !== "exec") return [];
      const uids = pods.map(({ metadata }) => metadata.uid);
      const failed = events.find(({ reason, involvedObject }) =>
        reason === "FailedPreStopHook" && uids.includes(involvedObject?.uid ?? "")
      );
      const [program = ""] = main.lifecycle?.preStop?.exec?.command ?? [];
      const isBare = NO_SHELL.test(main.image ?? "") && !/debug|-dev\b/.test(main.image ?? "") && SHELLS.test(program);
      if (failed === undefined && !isBare) return [];
      return [{
        field: `${place}.lifecycle.preStop.exec.command`,
        value: hook.text,
        fix: `sleep: { seconds: ${Math.ceil((hook.ms ?? USUAL_PRESTOP_S * 1000) / 1000)} }`,
        text: failed?.message ?? `${main.image} is likely to have no ${program}: then SIGTERM comes at once`,
        certain: failed !== undefined,
      }];
    },
  },
  {
    rule: "one-replica",
    foretells: ["NO_READY_PEER"],
    find: ({ target: { kind }, object: { spec }, wanted }) => {
      if (kind === "daemonset" || wanted === undefined || wanted > 1) return [];
      return [{
        field: "spec.replicas",
        value: spec.replicas === undefined ? "1 (the default)" : String(wanted),
        fix: "2 or more",
        text: kind === "statefulset"
          ? "its pod ends before the next one is made"
          : "whatever ends it, but a rollout that surges, leaves no ready pod",
        certain: kind === "statefulset",
      }];
    },
  },
  {
    rule: "rollout-without-peer",
    foretells: ["NO_READY_PEER", "RECONNECT_STORM"],
    find: ({ target, object: { spec }, wanted }) => findUnavailable(target, spec, wanted),
  },
  {
    rule: "no-budget",
    foretells: ["NO_READY_PEER"],
    find: ({ target: { kind }, wanted, own }) => {
      if (own === undefined || own.length > 0 || kind === "daemonset" || wanted === 0) return [];
      return [{
        field: "PodDisruptionBudget",
        value: "none selects these pods",
        fix: "maxUnavailable: 1",
        text: "whoever evicts need not wait for another to be ready",
      }];
    },
  },
  {
    rule: "budget-allows-nothing",
    foretells: ["FORCE_DELETED"],
    find: ({ own = [], wanted }) => findForbidden(own, wanted),
  },
  {
    rule: "no-readiness",
    foretells: ["NO_READY_PEER", "SLOW_RECONNECT"],
    find: ({ main, place }) =>
      main.readinessProbe !== undefined ? [] : [{
        field: `${place}.readinessProbe`,
        value: "none",
        fix: "httpGet on a path that fails at its start and in a drain",
        text: "a new pod counts as ready before it listens",
      }],
  },
  {
    rule: "readiness-exec",
    foretells: ["NO_READY_PEER"],
    find: ({ main: { readinessProbe }, place }) =>
      readinessProbe?.exec === undefined ? [] : [{
        field: `${place}.readinessProbe.exec.command`,
        value: (readinessProbe.exec.command ?? []).join(" "),
        fix: "httpGet on the same question",
        text: "under load it times out, and the endpoint goes",
      }],
  },
  {
    rule: "liveness-like-readiness",
    foretells: ["LIVENESS_KILLED"],
    find: ({ main: { livenessProbe: liveness, readinessProbe: readiness, ports = [] }, place }) => {
      const asked = questionOf(liveness, ports);
      if (asked === undefined || asked !== questionOf(readiness, ports)) return [];
      return [{
        field: `${place}.livenessProbe`,
        value: asked,
        fix: "a path of its own, which succeeds in a drain",
        text: "once it is not ready, in a drain or under load, kubelet restarts it",
      }];
    },
  },
  {
    rule: "sidecar-ends-first",
    foretells: ["SIDECAR_ENDED"],
    find: (view) =>
      sidecarsOf(view).map(({ container, field }) => ({
        field,
        value: `container ${container.name}`,
        fix: "a native sidecar: an init container with restartPolicy: Always",
        text: "connections through it end with it",
      })),
  },
  {
    rule: "pid-1-swallows",
    foretells: ["SIGTERM_IGNORED"],
    find: ({ main, pod, place }) => {
      const words = [...main.command ?? [], ...main.args ?? []];
      const field = `${place}.${main.command === undefined ? "args" : "command"}`;
      const [program = "", flag = "", script = ""] = words;
      const isShell = /^(\S*\/)?(ba|da|a|z)?sh$/.test(program) && /^-\w*c$/.test(flag) &&
        !/(^|[;&|]\s*|\n\s*)exec\s/.test(script);
      if (pod.shareProcessNamespace || !(WRAPPERS.test(program) || isShell)) return [];
      return [{
        field,
        value: words.join(" "),
        fix: isShell ? "exec before the last command" : "the program itself",
        text: `${program} is PID 1 and may not hand the signal on`,
      }];
    },
  },
  {
    rule: "session-affinity",
    foretells: ["ENDPOINT_RACE", "SAME_SERVER", "UNEVEN"],
    find: ({ leading }) =>
      leading.filter(({ spec }) => spec?.sessionAffinity === "ClientIP").map(({ metadata: { name } }) => ({
        field: `service/${name} spec.sessionAffinity`,
        value: "ClientIP",
        fix: "None",
        text: "clients behind one address share a pod, and redial the ending one",
      })),
  },
  {
    rule: "evicted-first",
    foretells: ["EVICTED"],
    find: ({ main: { resources = {} }, place }) => {
      const { requests = {}, limits = {} } = resources;
      if (quantity(requests["memory"] ?? limits.memory ?? 0) > 0) return [];
      const isNothing = Object.keys({ ...requests, ...limits }).length === 0;
      return [{
        field: `${place}.resources.requests.memory`,
        value: isNothing ? "none: BestEffort" : "none",
        fix: "what it uses when it is busy",
        text: "a node short of memory evicts it first",
      }];
    },
  },
  {
    rule: "service-leads-elsewhere",
    foretells: ["NO_READY_PEER"],
    find: (view) => findLostServices(view),
  },
  {
    rule: "target-port",
    foretells: ["NO_READY_PEER"],
    find: ({ leading, pod }) => findLostPorts(leading, pod),
  },
  {
    rule: "publishes-not-ready",
    foretells: ["ENDPOINT_RACE"],
    find: ({ leading }) =>
      leading.filter(({ spec }) => spec?.publishNotReadyAddresses).map(({ metadata: { name } }) => ({
        field: `service/${name} spec.publishNotReadyAddresses`,
        value: "true",
        fix: "false; for peers a headless Service of their own",
        text: "an ending pod stays among the addresses",
      })),
  },
  {
    rule: "autoscaler",
    foretells: ["GRACE_SHORTENED", "NO_READY_PEER"],
    find: ({ annotations, graceS, own }) => {
      const safe = annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"];
      const place = 'spec.template.metadata.annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"]';
      const hits: Hit[] = [];
      if (graceS > AUTOSCALER_GRACE_S && safe !== "false") {
        hits.push({
          field: place,
          value: safe ?? "none",
          fix: `"false", or a grace of ${AUTOSCALER_GRACE_S} at most`,
          text:
            `of the grace of ${graceS}s the cluster autoscaler leaves ${AUTOSCALER_GRACE_S}s (--max-graceful-termination-sec)`,
        });
      }
      if (safe === "true" && own?.length === 0) {
        hits.push({
          field: place,
          value: "true",
          fix: "a PodDisruptionBudget, or no annotation",
          text: "the autoscaler may take all pods of a node at once",
        });
      }
      return hits;
    },
  },
];

/** What the objects foretell of a workload, rule by rule; `unseen` says what is missing. */
export function inspect(workload: Workload, unseen: string[] = []): Inspection {
  const view = viewOf(workload);
  const predictions = INSPECTIONS.flatMap(({ rule, foretells, find }) =>
    find(view).map(({ certain = false, ...hit }) => ({ rule, foretells, certain, ...hit }))
  );
  const { graceS, hook } = view;
  const preStop = hook === null ? "no preStop" : `preStop is ${hook.text}`;
  const leftS = hook !== null && hook.ms === null
    ? "less than " + graceS
    : Math.max(0, graceS - (hook?.ms ?? 0) / 1000);
  return {
    target: targetInWords(workload.target),
    predictions,
    notes: [
      `left for the drain: ${hook !== null && hook.ms === null ? "" : "at most "}${leftS}s of ${graceS}s, ${preStop}`,
    ],
    unseen,
  };
}

function viewOf(workload: Workload): View {
  const { target, object, services = [], hosts = [], budgets } = workload;
  const { metadata: { labels, annotations = {} } = {}, spec: pod } = object.spec.template;
  const dialled = services.filter(({ metadata: { name } }) => hosts.includes(name));
  const selecting = (dialled.length > 0 ? dialled : services).filter(({ spec }) => leadsTo(spec?.selector, labels));
  const ports = selecting.flatMap(({ spec }) => spec?.ports ?? []).map(({ port, targetPort }) => targetPort ?? port);
  const main = mainContainer(pod.containers, ports, annotations["kubectl.kubernetes.io/default-container"]);
  if (main === undefined) throw new UserError(`${targetInWords(target)} has no containers`);
  return {
    ...workload,
    pod,
    main,
    place: `${TEMPLATE}.containers[${pod.containers.indexOf(main)}]`,
    hook: hookOf(main),
    graceS: pod.terminationGracePeriodSeconds ?? 30,
    wanted: wantedPods(target, object),
    annotations,
    leading: selecting,
    own: budgets?.filter(({ spec }) => spec?.selector != null && isSelected(spec.selector, labels)),
  };
}

/** A Service's selector; without one it leads where somebody else says. */
function leadsTo(selector: Record<string, string> | null | undefined, labels: Record<string, string> = {}): boolean {
  const pairs = Object.entries(selector ?? {});
  return pairs.length > 0 && pairs.every(([key, value]) => labels[key] === value);
}

/** How long a drain may take, where the settings of this project's server say it. */
function knownDrainS({ main, configMaps = [] }: View): number | undefined {
  const names = (main.envFrom ?? []).map(({ configMapRef }) => configMapRef?.name);
  const given = configMaps.filter(({ metadata }) => names.includes(metadata.name)).map(({ data }) => data ?? {});
  const own = (main.env ?? []).flatMap(({ name, value }) => value === undefined ? [] : [[name, value]]);
  const settings = Object.assign({}, ...given, Object.fromEntries(own)) as Record<string, string>;
  const { DRAIN_TIMEOUT_MS: drain, CLOSE_TIMEOUT_MS: close = "0" } = settings;
  if (drain === undefined) return undefined;
  try {
    return (milliseconds(0)(drain) + milliseconds(0)(close)) / 1000;
  } catch {
    return undefined; // another application's word for something else
  }
}

/** What a probe asks, in words; undefined where it is no HTTP question. */
function questionOf(probe: ProbeSpec | undefined, ports: NonNullable<ContainerSpec["ports"]>): string | undefined {
  if (probe?.httpGet === undefined) return undefined;
  const { path = "/", port } = probe.httpGet;
  return `httpGet ${path} on ${ports.find(({ name }) => name === port)?.containerPort ?? port}`;
}

function findUnavailable({ kind }: Target, spec: WorkloadObject["spec"], wanted: number | undefined): Hit[] {
  const strategy = kind === "deployment" ? spec.strategy : spec.updateStrategy;
  const name = kind === "deployment" ? "strategy" : "updateStrategy";
  if (wanted === undefined || wanted === 0) return [];
  if (strategy?.type === "Recreate") {
    return [{
      field: `spec.${name}.type`,
      value: "Recreate",
      fix: "RollingUpdate with maxUnavailable: 0",
      text: "a rollout ends all before it makes a new one",
      certain: true,
    }];
  }
  if (strategy?.type === "OnDelete" || (kind === "statefulset" && wanted === 1)) return [];
  const { maxUnavailable, maxSurge } = strategy?.rollingUpdate ?? {};
  const [usual, usualSurge, round] = kind === "deployment" ? ["25%", "25%", "down"] as const : [1, 0, "up"] as const; // apps/v1: StatefulSet and DaemonSet round up
  const surge = podsOf(maxSurge ?? usualSurge, wanted, "up") ?? 0;
  const asked = podsOf(maxUnavailable ?? usual, wanted, round) ?? 0;
  // Kubernetes does not stand still where both come to 0.
  const gone = Math.min(wanted, surge === 0 && kind !== "statefulset" ? Math.max(1, asked) : asked);
  const left = wanted - gone;
  if (gone === 0 || left > 1) return [];
  // A StatefulSet, and a DaemonSet without surge, cannot do better than one at a time: two pods leave one.
  if (left === 1 && gone === 1 && kind !== "deployment") return [];
  return [{
    field: `spec.${name}.rollingUpdate.maxUnavailable`,
    value: `${maxUnavailable ?? `${usual} (the default)`}: ${gone} of ${count(wanted, "pod")}`,
    fix: kind === "deployment" ? "0, with maxSurge: 1" : "fewer, or more pods",
    text: left === 0 ? "a rollout may end all pods at once" : "a rollout leaves one pod for all sessions",
    certain: left === 0,
  }];
}

function findForbidden(budgets: readonly BudgetObject[], wanted: number | undefined): Hit[] {
  if (budgets.length > 1) {
    return [{
      field: "PodDisruptionBudget",
      value: budgets.map(({ metadata }) => metadata.name).join(", "),
      fix: "one for these pods",
      text: "the API refuses to evict a pod of two budgets",
      certain: true,
    }];
  }
  return budgets.flatMap(({ metadata: { name }, spec = {}, status }) => {
    const { minAvailable, maxUnavailable } = spec;
    const all = wanted ?? status?.expectedPods;
    if (all === undefined || all === 0) return [];
    // policy/v1: both are rounded up.
    const [key, value] = maxUnavailable === undefined
      ? ["minAvailable", minAvailable]
      : ["maxUnavailable", maxUnavailable];
    if (value === undefined) return [];
    const pods = podsOf(value, all, "up");
    const allowed = pods === undefined ? undefined : key === "maxUnavailable" ? pods : all - pods;
    const isStuck = status?.disruptionsAllowed === 0 && (status.currentHealthy ?? 0) >= all;
    if ((allowed === undefined || allowed > 0) && !isStuck) return [];
    return [{
      field: `poddisruptionbudget/${name} spec.${key}`,
      value: `${value}, of ${count(all, "pod")}`,
      fix: all > 1 ? "maxUnavailable: 1" : "maxUnavailable: 1, and 2 replicas or more",
      text: "no eviction is ever allowed: a node's drain waits until somebody forces it",
    }];
  });
}

/** The containers beside the application's through which its connections may run, of the template and of what was put into its pods. */
function sidecarsOf({ pod, main, hook, pods = [] }: View): { container: ContainerSpec; field: string }[] {
  const [living] = pods.filter(({ metadata }) => metadata.deletionTimestamp === undefined);
  const known = pod.containers.map(({ name }) => name);
  const injected = ((living?.spec?.containers ?? []) as ContainerSpec[])
    .filter(({ name }) => !known.includes(name))
    .map((container) => ({ container, field: `pod/${living!.metadata.name} spec.containers` }));
  const own = pod.containers.map((container, index) => ({ container, field: `${TEMPLATE}.containers[${index}]` }));
  return [...own, ...injected].filter(({ container }) => {
    const { name, image = "", ports = [], env = [] } = container;
    if (name === main.name) return false;
    const its = hookOf(container);
    const outlives = its !== null && (its.ms === null || its.ms > (hook?.ms ?? Infinity));
    const waits = env.some(({ name, value }) => name === "EXIT_ON_ZERO_ACTIVE_CONNECTIONS" && value === "true");
    return (PROXIES.test(`${name} ${image}`) || ports.length > 0) && !outlives && !waits;
  });
}

function findLostServices({ services, hosts = [], leading, slices, wanted, object, pods = [] }: View): Hit[] {
  if (services === undefined || services.length === 0 || wanted === 0) return [];
  const labels = Object.entries(object.spec.template.metadata?.labels ?? {}).map((pair) => pair.join("=")).join();
  if (leading.length === 0) {
    const dialled = services.find(({ metadata: { name }, spec }) => hosts.includes(name) && spec?.selector != null);
    return [{
      field: dialled === undefined ? "Service" : `service/${dialled.metadata.name} spec.selector`,
      value: dialled === undefined ? "none selects these pods" : JSON.stringify(dialled.spec?.selector),
      fix: `labels of the pods: ${labels || "they have none"}`,
      text: "what is dialled does not lead here",
      certain: dialled !== undefined,
    }];
  }
  const isUp = pods.some(({ status }) =>
    status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True")
  );
  return slices === undefined || !isUp ? [] : leading.flatMap(({ metadata: { name } }) => {
    const own = slices.filter(({ metadata }) => metadata.labels?.["kubernetes.io/service-name"] === name);
    const ready = own.flatMap(({ endpoints }) => endpoints ?? []).filter(({ conditions }) => conditions?.ready ?? true);
    if (ready.length > 0) return [];
    return [{
      field: `endpointslices of service/${name}`,
      value: "no ready endpoint, though a pod is ready",
      fix: "selector and targetPort as the pods have them",
      text: "there is nowhere to go",
      certain: true,
    }];
  });
}

function findLostPorts(leading: readonly ServiceObject[], { containers, initContainers = [] }: PodSpec): Hit[] {
  const ports = [...containers, ...initContainers].flatMap(({ ports = [] }) => ports);
  return leading.flatMap(({ metadata: { name }, spec }) =>
    (spec?.ports ?? []).flatMap(({ port, targetPort = port }, index) => {
      const isNamed = typeof targetPort === "string";
      const isThere = ports.some((one) => isNamed ? one.name === targetPort : one.containerPort === targetPort);
      // A container may listen on a port that it does not declare; of a name nobody else knows.
      if (isThere || (!isNamed && ports.length === 0)) return [];
      return [{
        field: `service/${name} spec.ports[${index}].targetPort`,
        value: String(targetPort),
        fix: ports.map(({ name, containerPort }) => name ?? containerPort).join(" or ") || "a port of that name",
        text: isNamed ? "no container has a port of this name" : "no container declares this port",
        certain: isNamed,
      }];
    })
  );
}

/** How often a prediction came true: the failed handovers with one of its symptoms or causes, and the findings. */
export function cameTrue(
  { foretells }: Pick<Prediction, "foretells">,
  handovers: readonly Pick<Handover, "verdict" | "symptom" | "cause">[],
  findings: readonly { name: string }[],
): number {
  const failed = handovers.filter(({ verdict, symptom, cause }) =>
    verdict === "failed" && [symptom, cause].some((name) => name !== null && foretells.includes(name))
  );
  return failed.length + findings.filter(({ name }) => foretells.includes(name)).length;
}

/**
 * The workloads among a file's objects, each with what stands beside it: the one that is asked for, else those that a
 * Service leads to, else all. Throws `UserError` where there is none.
 */
export function workloadsIn(
  objects: readonly FileObject[],
  asked: Target | undefined,
  hosts: readonly string[],
): Workload[] {
  const all = (Object.keys(WORKLOADS) as WorkloadKind[]).flatMap((kind) =>
    objects.filter((object) => object.kind === WORKLOADS[kind].kind).map((object) =>
      workloadAmong(objects, { kind, name: object.metadata.name }, object, hosts)
    )
  );
  const isAsked = ({ target: { kind, name } }: Workload) => kind === asked?.kind && name === asked.name;
  const behind = all.filter(({ services, object }) =>
    services?.some(({ spec }) => leadsTo(spec?.selector, object.spec.template.metadata?.labels))
  );
  const chosen = asked !== undefined ? all.filter(isAsked) : behind.length > 0 ? behind : all;
  if (chosen.length > 0) return chosen;
  const there = all.map(({ target }) => targetInWords(target));
  const kinds = [...new Set(objects.map(({ kind }) => kind))];
  const what = printable((there.length > 0 ? there : kinds).join(", ")) || "nothing";
  const needs = asked === undefined ? "a Deployment, a StatefulSet or a DaemonSet" : targetInWords(asked);
  throw new UserError(`--check needs ${needs}: what came is ${what}`);
}

function workloadAmong(
  objects: readonly FileObject[],
  target: Target,
  workload: FileObject,
  hosts: readonly string[],
): Workload {
  const object = workload as unknown as WorkloadObject;
  const of = <T>(kind: string) =>
    objects.filter(({ metadata, ...other }) =>
      other.kind === kind && metadata.namespace === workload.metadata.namespace
    ) as unknown as T[];
  /** A cluster has some of these always: then the file is only silent. */
  const known = <T>(all: T[]) => all.length > 0 ? all : undefined;
  return {
    target,
    object,
    hosts,
    services: known(of<ServiceObject>("Service")),
    budgets: of<BudgetObject>("PodDisruptionBudget"),
    slices: known(of<KubernetesObject>("EndpointSlice")),
    events: of<KubernetesObject>("Event"),
    configMaps: of("ConfigMap"),
    pods: of<KubernetesObject>("Pod").filter(({ metadata }) => isSelected(object.spec.selector ?? {}, metadata.labels)),
  };
}

/** An object of a file, as far as all have it. */
export interface FileObject {
  kind: string;
  metadata: { name: string; namespace?: string };
}

/** The objects in a text of JSON: one, a List, an array, or several one after the other. Throws `UserError` that says what it is instead. */
export function parseObjects(text: string): FileObject[] {
  const values = documentsIn(text).map((document) => {
    try {
      return JSON.parse(document, (_, value) => value ?? undefined) as unknown; // null: as if it were not there
    } catch {
      const [line = ""] = document.trim().split("\n");
      const hint = /^(---|apiVersion:|kind:|#)/.test(line)
        ? "of this YAML `kubectl label --local --dry-run=client -o json -f - checked=yes` makes some"
        : line === ""
        ? "nothing came"
        : `'${printable(line.slice(0, 40))}' is none`;
      throw new UserError(`--check reads objects as JSON: ${hint}`);
    }
  });
  const objects = values.flatMap(function itemsOf(value): unknown[] {
    if (Array.isArray(value)) return value.flatMap(itemsOf);
    const items = (value as { items?: unknown } | null)?.items;
    return Array.isArray(items) ? items.flatMap(itemsOf) : [value];
  });
  for (const object of objects) {
    const problem = problemOf(object, OBJECT, "object") ??
      problemOf(object, SHAPES_OF[(object as FileObject).kind] ?? {}, "");
    if (problem === undefined) continue;
    const { kind, metadata } = (object ?? {}) as Partial<FileObject>;
    const name = [kind, metadata?.name].filter(isText).join("/");
    throw new UserError(`--check cannot read ${printable(name) || "an object"}: ${printable(problem)}`);
  }
  return objects as FileObject[];
}

/** The JSON documents of a text, one after the other; all of it where it does not begin like one. */
function documentsIn(text: string): string[] {
  if (!/^\s*[[{]/.test(text)) return [text];
  const documents: string[] = [];
  let begin = 0;
  let depth = 0;
  // Only brackets outside of strings count.
  for (const { 0: token, index } of text.matchAll(/"(?:[^"\\]|\\.)*"|[[\]{}]/g)) {
    if (token.length > 1) continue;
    depth += token === "{" || token === "[" ? 1 : -1;
    if (depth !== 0) continue;
    documents.push(text.slice(begin, index + 1));
    begin = index + 1;
  }
  return text.slice(begin).trim() === "" ? documents : [...documents, text.slice(begin)];
}

/** What a field must be: of this kind, a map of texts, a list of such, or an object with fields (`!`: it must be there). */
type FieldShape = "text" | "number" | "boolean" | "number or text" | "map" | [FieldShape] | {
  [field: string]: FieldShape;
};

const KEPT: Record<string, (value: unknown) => boolean> = {
  text: isText,
  number: (value) => typeof value === "number",
  boolean: (value) => typeof value === "boolean",
  "number or text": (value) => isText(value) || typeof value === "number",
  map: (value) => isRecord(value) && Object.values(value).every((one) => isText(one) || typeof one === "number"),
};

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** What is wrong with an object's shape, in words; undefined where nothing is. */
function problemOf(value: unknown, shape: FieldShape, place: string): string | undefined {
  if (typeof shape === "string") return KEPT[shape]!(value) ? undefined : `${place} must be a ${shape}`;
  if (Array.isArray(shape)) {
    if (!Array.isArray(value)) return `${place} must be a list`;
    return firstProblem(value.map((item, index) => () => problemOf(item, shape[0], `${place}[${index}]`)));
  }
  if (!isRecord(value)) return `${place} must be an object`;
  return firstProblem(
    Object.entries(shape).map(([key, inner]) => () => {
      const field = key.replace("!", "");
      const path = place === "" || place === "object" ? field : `${place}.${field}`;
      if (value[field] === undefined) return key === field ? undefined : `${path} is missing`;
      return problemOf(value[field], inner, path);
    }),
  );
}

function firstProblem(looks: readonly (() => string | undefined)[]): string | undefined {
  return looks.reduce<string | undefined>((problem, look) => problem ?? look(), undefined);
}

const OBJECT: FieldShape = {
  "kind!": "text",
  "metadata!": { "name!": "text", namespace: "text", labels: "map", annotations: "map" },
};
const SELECTOR: FieldShape = {
  matchLabels: "map",
  matchExpressions: [{ "key!": "text", "operator!": "text", values: ["text"] }],
};
const PROBE: FieldShape = { exec: { command: ["text"] }, httpGet: { path: "text", "port!": "number or text" } };
const CONTAINERS: FieldShape = [{
  "name!": "text",
  image: "text",
  command: ["text"],
  args: ["text"],
  env: [{ "name!": "text", value: "text" }],
  envFrom: [{ configMapRef: { name: "text" } }],
  ports: [{ name: "text", "containerPort!": "number" }],
  readinessProbe: PROBE,
  livenessProbe: PROBE,
  lifecycle: { preStop: { sleep: { "seconds!": "number" }, exec: { command: ["text"] }, httpGet: { path: "text" } } },
  resources: { requests: "map", limits: "map" },
}];
const POD: FieldShape = {
  "containers!": CONTAINERS,
  initContainers: CONTAINERS,
  terminationGracePeriodSeconds: "number",
  shareProcessNamespace: "boolean",
};
const STRATEGY: FieldShape = {
  type: "text",
  rollingUpdate: { maxUnavailable: "number or text", maxSurge: "number or text", partition: "number" },
};
const WORKLOAD: FieldShape = {
  "spec!": {
    replicas: "number",
    selector: SELECTOR,
    strategy: STRATEGY,
    updateStrategy: STRATEGY,
    "template!": { metadata: { labels: "map", annotations: "map" }, "spec!": POD },
  },
  status: { desiredNumberScheduled: "number" },
};

/** By kind, what is read of it. */
const SHAPES_OF: Record<string, FieldShape> = {
  Deployment: WORKLOAD,
  StatefulSet: WORKLOAD,
  DaemonSet: WORKLOAD,
  Pod: {
    spec: POD,
    metadata: { uid: "text", deletionTimestamp: "text" },
    status: { conditions: [{ "type!": "text", "status!": "text" }] },
  },
  Service: {
    spec: {
      selector: "map",
      ports: [{ "port!": "number", targetPort: "number or text" }],
      sessionAffinity: "text",
      publishNotReadyAddresses: "boolean",
    },
  },
  PodDisruptionBudget: {
    spec: { minAvailable: "number or text", maxUnavailable: "number or text", selector: SELECTOR },
    status: { disruptionsAllowed: "number", currentHealthy: "number", expectedPods: "number" },
  },
  EndpointSlice: { endpoints: [{ conditions: { ready: "boolean" } }] },
  Event: { reason: "text", message: "text", involvedObject: { uid: "text" } },
  ConfigMap: { data: "map" },
};

// ---- Numbers as people read them -----------------------------------------------------------------

let lastMs = 0;
let lastTimestamp = "";
/** The wall clock as ISO 8601; made once a millisecond, for thousands of frames. */
export function timestamp(): string {
  const now = Date.now();
  if (now !== lastMs) [lastMs, lastTimestamp] = [now, new Date(now).toISOString()];
  return lastTimestamp;
}

/** The wait before redial `attempt` = 0, 1, …: random in 0 … min(cap, base × 2^attempt), which is full jitter. */
export function backoffMs(
  attempt: number,
  { baseMs, capMs }: { baseMs: number; capMs: number },
  random = Math.random(),
) {
  return random * Math.min(capMs, baseMs * 2 ** attempt);
}

/** The nearest-rank percentile of numbers; null of none. */
export function percentile(numbers: readonly number[], percent: number): number | null {
  const sorted = [...numbers].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(sorted.length * percent / 100) - 1)] ?? null;
}

/** 9000 as 9,000 (toLocaleString would load 20 ms of ICU data, in the middle of a drain). */
export function grouped(number: number): string {
  return String(number).replace(/\B(?=(\d{3})+$)/g, ",");
}

/** "1 session", "2 sessions", "9,000 sessions". */
export function count(number: number, noun: string): string {
  return `${grouped(number)} ${noun}${number === 1 ? "" : "s"}`;
}

/** A duration with two or three significant digits: 0.4ms, 41ms, 1.23s, 31.4s, 2m05s. */
export function duration(ms: number): string {
  if (ms < 9.95) return `${tenths(ms)}ms`;
  if (ms < 999.5) return `${Math.round(ms)}ms`;
  if (ms < 59_950) return `${(ms / 1000).toFixed(ms < 9950 ? 2 : 1)}s`;
  const seconds = Math.round(ms / 1000);
  return `${Math.floor(seconds / 60)}m${String(seconds % 60).padStart(2, "0")}s`;
}

// ---- Settings: flag over environment over default ----------------------------------------------

/** A mistake of the user: one line on stderr, exit 2. */
export class UserError extends Error {}

/** One row of a settings table, its flag derived: DRAIN_TIMEOUT_MS is --drain-timeout, DIALECT_SAY is --say. `parse` throws `RangeError` with the rule. */
export function setting<T>(env: string, fallback: string, parse: (text: string) => T, meaning: string) {
  const flag = env.replace(/^(SERVER|DIALECT)_|_(MS|BYTES)$/g, "").toLowerCase().replaceAll("_", "-");
  return { flag, env, fallback, parse, meaning, many: false, separator: ",", secret: false, each: undefined };
}

/**
 * A row whose flag may be repeated; in the environment its values are separated by commas, or as it says. No error shows a
 * secret, and its flag's value is taken as it is.
 */
export function settingList<T>(
  env: string,
  fallback: string,
  parse: (text: string) => T,
  meaning: string,
  { separator = ",", secret = false } = {},
) {
  const list = (text: string): T[] => text === "" ? [] : text.split(separator).map((part) => parse(part.trim()));
  return { ...setting(env, fallback, list, meaning), many: true, separator, secret, each: secret ? parse : undefined };
}

type SettingRow = Omit<ReturnType<typeof setting<unknown>>, "each"> & { each: ((text: string) => unknown) | undefined };
type Table = Record<string, SettingRow>;
/** The values of a settings table, and the switches that were given. */
export type Values<T extends Table> = { [K in keyof T]: ReturnType<T[K]["parse"]> } & { switches: Set<string> };

/** Longest timer that Node keeps, in ms: a longer one fires at once. */
export const MAX_TIMER_MS = 2 ** 31 - 1;

/** Parses a whole number within bounds. */
export const integer = (least: number, most: number) => (text: string): number => {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= least && value <= most) return value;
  throw new RangeError(`must be an integer from ${least} to ${most}`);
};

/** Parses a port number. */
export const PORT = integer(0, 65535);

const UNITS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000 };

/**
 * Parses a duration: plain ms, or a number with a unit (500ms, 1.5s, 2m, 1h); from `least` ms on. A bare number other than 0
 * below `plausible` is refused: `--timeout 30` means 30 seconds to whoever types it.
 */
export const milliseconds = (least: number, plausible = 0) => (text: string): number => {
  const [, number = "", unit] = /^(\d+|\d+\.\d+(?=[a-z]))(ms|s|m|h)?$/.exec(text) ?? [];
  const value = Math.round(Number(number) * UNITS[unit ?? "ms"]!);
  if (number === "" || value < least || value > MAX_TIMER_MS) {
    throw new RangeError(`must be ms from ${least} to ${MAX_TIMER_MS}, or a duration with its unit (500ms, 30s, 2m)`);
  }
  if (unit === undefined && value > 0 && value < plausible) {
    throw new RangeError(`must carry a unit when it is below ${plausible}: ${number}s or ${number}ms`);
  }
  return value;
};

/** Parses a close code that may be sent (`isSendableCloseCode`), or one of some others. */
export const closeCode = (...others: readonly number[]) => (text: string): number => {
  const code = Number(text);
  if (/^\d{4}$/.test(text) && (isSendableCloseCode(code) || others.includes(code))) return code;
  const also = others.map((other) => `, or ${other}`).join("");
  throw new RangeError(`must be a close code that may be sent: 1000-1014 except 1004-1006, or 3000-4999${also}`);
};

/** Parses one of some names. */
export const oneOf = <T extends string>(...names: readonly T[]) => (text: string): T => {
  if (names.includes(text as T)) return text as T;
  throw new RangeError(`must be one of ${names.join(", ")}`);
};

/** The setting that both programs share. */
export const LOG_FORMAT = setting("LOG_FORMAT", "pretty", oneOf("pretty", "json"), "log lines for people, or ECS JSON");

/** The program's version, from package.json. */
export const VERSION: string = manifest.version;

/** How a program is called: by its file, or, where build.mjs has put it into the package's command, by that. */
export const called = (word: string, file: string): string =>
  process.argv[1] === manifest.name ? `${manifest.name} ${word}` : `node ${file}`;

interface Program {
  command: string;
  summary: string;
  switches: Record<string, string>;
}

/** Reads a program's settings. Prints and returns undefined for --help and --version; throws `UserError` for a bad value. */
export function readSettings<T extends Table>(
  program: Program,
  table: T,
  argv = process.argv.slice(2),
): Values<T> | undefined {
  const switches = {
    ...program.switches,
    "check-settings": "check the settings and exit",
    help: "print this and exit (-h)",
    version: "print the version and exit",
  };
  const flags = Object.values(table).map(({ flag }) => flag);
  let unknown: string | undefined;
  const given = mri<Record<string, unknown>>(joinValues(argv, flags), {
    string: flags, // else mri turns 007 into 7
    boolean: Object.keys(switches),
    alias: { h: "help" },
    default: Object.fromEntries([...flags, ...Object.keys(switches)].map((flag) => [flag, undefined])),
    unknown: (flag) => void (unknown = flag),
  }) ?? { _: [] };
  if (unknown !== undefined) throw new UserError(`Unknown flag ${unknown}: see --help`);
  if (given._.length > 0) throw new UserError(`Unexpected argument '${withoutSecrets(given._[0]!)}': see --help`);
  if (given["help"]) return void process.stdout.write(usage(program, table, switches));
  if (given["version"]) return void process.stdout.write(`${VERSION}\n`);

  const values: Record<string, unknown> = { switches: new Set(Object.keys(switches).filter((name) => given[name])) };
  for (const [key, { flag, env, fallback, parse, many, separator, secret, each }] of Object.entries(table)) {
    const flagged = Array.isArray(given[flag]) && !many ? given[flag].at(-1) : given[flag]; // the last one wins
    if (flagged === false || [flagged].flat().includes("")) throw new UserError(`--${flag} needs a value: see --help`);
    const text = flagged === undefined ? process.env[env] || fallback : [flagged].flat().join(separator);
    try {
      values[key] = each !== undefined && flagged !== undefined ? [flagged].flat().map(each) : parse(text);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      const name = flagged === undefined ? env : `--${flag}`;
      const shown = secret ? "" : `: current value is '${withoutSecrets(text)}'`;
      throw new UserError(`${name} ${error.message}${shown}`);
    }
  }
  return values as Values<T>;
}

/** Joins a flag and a value that begins with a dash (`--report -.json`, `--check -`), which mri would take for a flag of its own. */
export function joinValues(argv: readonly string[], flags: readonly string[]): string[] {
  const joined: string[] = [];
  for (const word of argv) {
    const before = joined.at(-1) ?? "";
    const takesIt = before.startsWith("--") && flags.includes(before.slice(2));
    if (takesIt && /^-([^-]|$)/.test(word)) joined.push(`${joined.pop()}=${word}`);
    else joined.push(word);
  }
  return joined;
}

function usage({ command, summary }: Program, table: Table, switches: Record<string, string>): string {
  const rows = [
    ...Object.values(table).map(({ flag, env, fallback, meaning }) => [`--${flag}`, env, fallback, meaning]),
    ...Object.entries(switches).map(([flag, meaning]) => [`--${flag}`, "", "", meaning]),
  ];
  const widths = [0, 1, 2].map((column) => Math.max(...rows.map((row) => row[column]!.length)));
  const line = (row: string[]) => `  ${row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ")}\n`;
  return `Usage: ${command} [settings]\n\n${summary}\n\n` +
    "A flag beats its environment variable beats the default; durations are ms, or carry a unit (500ms, 30s, 2m):\n\n" +
    rows.map(line).join("");
}

/** How many files, sockets among them, this process may have open at a time; undefined where that cannot be known. */
export function openFilesLimit(): number | undefined {
  try {
    const limits = existsSync("/proc/self/limits")
      ? /^Max open files +(\d+|unlimited)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1]
      : (process.report.getReport() as { userLimits?: { open_files?: { soft?: unknown } } }).userLimits?.open_files
        ?.soft;
    return limits === "unlimited" ? Infinity : Number(limits) || undefined;
  } catch {
    return undefined; // Windows knows no limit, Deno has no reports and may not let us read
  }
}

/**
 * Runs a program: a `UserError`, or what the system refuses, becomes one line on stderr and exit 2. So does a bug, with its
 * stack: 1, as Node has it, would be a verdict.
 */
export function run(main: () => Promise<void>): void {
  process.stdout.on("error", (error: Error & { code?: string }) => {
    if (error.code === "EPIPE") return; // a reader who has left has seen enough
    process.stderr.write(`Cannot write to stdout: ${error.message}\n`);
    process.exitCode = 2;
  });
  process.on("uncaughtException", (error) => {
    process.stderr.write(`${redactUrl(error instanceof Error ? error.stack ?? error.message : String(error))}\n`);
    process.exit(2);
  });
  main().catch((error) => {
    if (!(error instanceof UserError) && (error as { syscall?: string }).syscall === undefined) throw error;
    if (error.message !== "") process.stderr.write(`${redactUrl(printable(error.message))}\n`);
    process.exitCode = 2;
  });
}

// ---- Log lines: one vocabulary, two formats ------------------------------------------------------

/** Every action that a log line can tell of (event.action), with the labels that it may carry. */
// deno-fmt-ignore
export const ACTIONS = {
  "listening": ["server", "instance", "port", "adminPort", "fault"],
  "started": ["sessions", "adminPort"],
  "session-opened": ["slot", "server", "session", "instance", "dialect"],
  "session-closed": ["slot", "server", "session", "code", "how", "sent", "received"],
  "session-silent": ["slot", "server", "session"],
  "session-cut": ["session", "remaining"],
  "invalid-frame": ["server", "session"],
  "upgrade-refused": ["status", "reason"],
  "dial-failed": ["slot", "url", "kind"],
  "probe-failed": ["url", "kind"],
  "steady": ["sessions"],
  "shutdown-signal": ["signal", "sessions"],
  "shutdown-notice": ["slot", "server", "session", "remaining"],
  "drain-complete": ["sessions", "seconds", "drained", "unconfirmed", "refusedDraining", "lastRefusedMs", "opened", "probes"],
  "forced": ["sessions"],
  "handover": ["slot", "verdict", "symptom", "from", "to", "session", "code", "how", "noticeMs", "drainMs", "reconnectMs", "forcedMs", "silenceMs"],
  "diagnosis": ["slot", "symptom", "cause", "evidence", "pod", "session"],
  "foretold": ["rule", "field", "value"],
  "disruption": ["kind", "pod", "target"],
  "pod": ["pod", "uid", "kind", "code", "reason"],
  "endpoint": ["pod", "uid", "kind"],
  "watch-lost": ["stream"],
  "tls-loaded": ["file"],
  "tls-refused": ["file"],
  "token-loaded": ["file"],
  "token-refused": ["file"],
  "progress": [],
  "stopping": ["reason", "sessions"],
  "verdict": ["verdict", "handovers", "failed", "lost"],
} as const;

/** One of the actions. */
export type Action = keyof typeof ACTIONS;
/** What a line carries for machines. */
export type Labels<A extends Action> = Partial<Record<(typeof ACTIONS)[A][number], string | number | null | undefined>>;

/** How urgent a log line is. */
export type Level = "info" | "warn" | "error";
/** Writes one line: an action of the shared vocabulary, a sentence, and labels for machines. */
export type LogLine = <A extends Action>(action: A, message: string, labels?: Labels<A>, level?: Level) => void;

export interface Log {
  line: LogLine;
  /** For what can come by the thousand: above a limit it is counted unspoken, and the counts are a line a second. */
  each: <A extends Action>(action: A, say: () => [message: string, labels?: Labels<A>, level?: Level]) => void;
  /** Writes what has been counted and stops the clock. */
  end: () => void;
}

/** Lines a second, and sessions, up to which `each` prints every line. */
export const CROWD = 50;

/** A log on stderr. `status` says where things stand; `sessions` how many there are. */
export function createLog(
  service: "server" | "client",
  format: "pretty" | "json",
  status: () => string,
  sessions: () => number,
): Log {
  const live = format === "pretty" && process.stderr.isTTY;
  let counted: Record<string, number> = {};
  let printed = 0;
  // A log that nobody can take (full disk, closed pipe) must not end the sessions it tells of.
  process.stderr.on("error", () => {});

  const line: LogLine = (action, message, labels = {}, level = "info") => {
    const text = format === "json"
      ? toJson({ ...ecsFields(service, action, level), message: redactUrl(message), labels: redactLabels(labels) })
      : `${live ? CLEAR_LINE : ""}${pretty(action, message, level)}`;
    process.stderr.write(`${text}\n`);
  };
  const each: Log["each"] = (action, say) => {
    if (sessions() > CROWD || printed >= CROWD) return void (counted[action] = (counted[action] ?? 0) + 1);
    printed++;
    line(action, ...say());
  };
  const summarize = () => {
    printed = 0;
    if (Object.keys(counted).length === 0) return;
    const news = Object.entries(counted).map(([action, number]) => `${grouped(number)} ${action}`);
    const message = `${status()}; in the last second: ${news.join(", ")}`;
    // Cut to the terminal's width: a wrapped line could not be cleared.
    const room = (process.stderr.columns || 80) - PRETTY_PREFIX - 1;
    if (live) process.stderr.write(`${CLEAR_LINE}${pretty("progress", message.slice(0, Math.max(0, room)), "info")}`);
    else line("progress", message, counted as Labels<"progress">); // the counts by their actions
    counted = {};
  };
  const timer = setInterval(summarize, 1000);
  timer.unref();
  const end = () => {
    clearInterval(timer);
    summarize();
    if (live) process.stderr.write(CLEAR_LINE);
  };
  return { line, each, end };
}

const CLEAR_LINE = "\r\x1b[K";
/** Columns of time and action before a pretty line's message. */
const PRETTY_PREFIX = 29;

/** Actions that succeed unless their line is a warning. */
const DEEDS: readonly Action[] = ["handover", "drain-complete", "verdict"];

/** The fields of the Elastic Common Schema (ECS 8) that every line has; kubelet tells a pod where the API is. */
function ecsFields(service: string, action: Action, level: Level) {
  const outcome = level !== "info" ? "failure" : DEEDS.includes(action) ? "success" : undefined;
  return {
    "@timestamp": new Date().toISOString(),
    "log.level": level,
    "ecs.version": "8.11.0",
    "service.name": `${manifest.name}-${service}`,
    "service.version": VERSION,
    "event.action": action,
    ...outcome && { "event.outcome": outcome },
    ...process.env["KUBERNETES_SERVICE_HOST"] && {
      "orchestrator.type": "kubernetes",
      "kubernetes.pod.name": hostname(),
    },
  };
}

function pretty(action: string, message: string, level: Level): string {
  useColour(process.stderr);
  const paint = { info: kleur.cyan, warn: kleur.yellow, error: kleur.red }[level];
  return `${kleur.dim(new Date().toISOString().slice(11, 23))} ${paint(action.padEnd(15))} ${
    printable(redactUrl(message))
  }`;
}

function redactLabels(labels: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(labels).map(([name, value]) => [name, typeof value === "string" ? redactUrl(value) : value]),
  );
}

/** A text in which the URLs keep no secret: credentials and query values become `…`. */
export function redactUrl(text: string): string {
  if (!/[?@]/.test(text)) return text; // as most, and this is asked at every dial
  return text.replace(/(wss?|https?):\/\/[^\s"<>`]+/gi, (url) => {
    // A sentence's own punctuation is none of the URL's.
    const end = url.length - /[.,;:!?')\]]{0,3}$/.exec(url)![0].length;
    return withoutSecrets(url.slice(0, end)) + url.slice(end);
  });
}

/** The same of a text that is a URL as a whole, or was meant as one; it may be a relative one. */
export function withoutSecrets(url: string): string {
  const [address = "", ...query] = url.split("?");
  const open = address.replace(/^(\w+:\/\/)?[^/:@]*:[^/]*@/, "$1…@");
  if (query.length === 0) return open;
  return `${open}?${query.join("?").replace(/([^&=]*=)[^&]*|[^&]+/g, "$1…")}`;
}

/** Names and reasons come from peers: their control characters must not reach a terminal or begin a line. */
export function printable(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.replace(/[\x00-\x1f\x7f-\x9f]/g, "�");
}

/** JSON on one line, in which the control characters that JSON allows (DEL and C1) are escaped as well. */
export function toJson(value: unknown): string {
  return JSON.stringify(value).replace(/[\x7f-\x9f]/g, (character) => `\\u00${character.charCodeAt(0).toString(16)}`);
}

/** Turns colour on or off as this stream wants it (kleur by itself looks at stdout only). */
export function useColour(stream: NodeJS.WriteStream): void {
  const { FORCE_COLOR, NO_COLOR } = process.env;
  kleur.enabled = FORCE_COLOR !== undefined ? FORCE_COLOR !== "0" : NO_COLOR === undefined && Boolean(stream.isTTY);
}

// ---- Files that are renewed while the program runs: certificates, keys, tokens ---------------------

/** How often they are looked at: a Secret's files change by a symlink swap, of which not every watch tells. */
const FILES_INTERVAL_MS = 1000;

/**
 * Hands the contents of files to `use`, now and whenever they have changed. What `use` refuses is a `UserError` now; later
 * it is told to `refused`, once it has stayed (a key and its certificate may change one after the other), and the old stays.
 */
export function followFiles(
  flags: Record<string, string>,
  use: (texts: string[]) => void,
  refused: (message: string) => void,
): void {
  const names = Object.keys(flags).map((flag) => `--${flag}`).join(", ");
  let used = "";
  const look = (): void => {
    const texts = Object.entries(flags).map(([flag, file]) => {
      try {
        const text = readFileSync(file, "utf8");
        if (text.trim() !== "") return text;
      } catch (error) {
        throw new UserError(`Cannot read --${flag}: ${(error as Error).message}`);
      }
      throw new UserError(`Cannot use --${flag}: ${file} is empty`);
    });
    if (texts.join("\0") === used) return;
    try {
      use(texts);
    } catch (error) {
      throw new UserError(`Cannot use ${names}: ${(error as Error).message}`);
    }
    used = texts.join("\0");
  };
  look();
  let problem = "";
  let times = 0;
  setInterval(() => {
    try {
      look();
      problem = "";
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      times = error.message === problem ? times + 1 : 1;
      problem = error.message;
      if (times === 2) refused(problem);
    }
  }, FILES_INTERVAL_MS).unref();
}

/** Checks certificates (PEM): throws for one that is none, or that is not valid today. */
export function checkCertificates(pem: string): void {
  for (const [text] of pem.matchAll(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g)) {
    const { subject, validFrom, validTo } = new X509Certificate(text);
    if (Date.now() > Date.parse(validTo)) throw new Error(`the certificate of ${subject} expired on ${validTo}`);
    if (Date.now() < Date.parse(validFrom)) {
      throw new Error(`the certificate of ${subject} is valid from ${validFrom} on`);
    }
  }
  if (!pem.includes("-----BEGIN CERTIFICATE-----")) throw new Error("there is no certificate in it");
}

/** Checks a certificate chain (PEM) and its private key: throws where they are not a pair. */
export function checkPair(cert: string, key: string): void {
  checkCertificates(cert);
  let parsed: KeyObject;
  try {
    parsed = createPrivateKey(key);
  } catch {
    throw new Error("there is no private key that can be read without a passphrase");
  }
  if (!new X509Certificate(cert).checkPrivateKey(parsed)) throw new Error("certificate and key are not a pair");
}

/** The token in a file's text (RFC 6750 section 2.1), without the line break that editors and `echo` leave behind it. */
export function parseToken(text: string): string {
  const token = text.trimEnd();
  if (/^[A-Za-z0-9._~+/-]+=*$/.test(token)) return token;
  throw new Error("a token is one line of letters, digits and -._~+/ only");
}

// ---- Admin port: plain HTTP for kubelet and people -------------------------------------------------

/** What an admin path answers. */
export interface Answer {
  status: number;
  body: string;
  type?: string;
  headers?: Record<string, string>;
}

/** Makes the answer of an admin path; nothing where it goes on to write the response by itself. */
export type Route = (response: ServerResponse) => Answer | undefined | Promise<Answer>;

/** Timeouts of an HTTP server: who connects and says nothing is let go within about ten seconds. */
export const PATIENCE = { headersTimeout: 10_000, requestTimeout: 10_000, connectionsCheckingInterval: 1000 };

/** Paths that answer whatever else goes on: kubelet would restart a pod for a 503. */
const PROBES: readonly string[] = ["/healthz", "/readyz"];
/** Answers, other than to probes, that may be on their way at a time: each is kept in memory until it is taken. */
const MAX_ANSWERS = 8;

/** Which paths of an admin port show data to browsers, and by which further names they may be asked for; `*`: by any. */
export interface Guard {
  paths: readonly string[];
  names: readonly string[];
}

/**
 * The server of the admin port: GET on its routes, 404 and 405 for the rest, 403 on a guarded path for a name that is not
 * this machine's, 503 while too many answers are not taken yet. One that is not taken within `takeMs` is cut off.
 */
export function createAdmin(
  routes: Record<string, Route>,
  guard: Guard = { paths: [], names: [] },
  takeMs = 30_000,
): Server {
  const held = new Set<ServerResponse>();
  return createServer(PATIENCE, async (request, response) => {
    const path = request.url?.split("?")[0] ?? "";
    if (!Object.hasOwn(routes, path)) {
      return send(response, { status: 404, body: `Not found; there is ${Object.keys(routes).join(", ")}\n` });
    }
    if (request.method !== "GET" && request.method !== "HEAD") {
      return send(response, { status: 405, body: "Only GET\n" });
    }
    if (guard.paths.includes(path) && !isOwnName(request.headers.host, guard.names)) {
      return send(response, { status: 403, body: "This host name is not let in: --allow-host allows it\n" });
    }
    if (PROBES.includes(path)) return send(response, await routes[path]!(response));
    if (held.size >= MAX_ANSWERS) return send(response, { status: 503, body: "Too many answers are not taken yet\n" });
    held.add(response);
    const timer = setTimeout(() => response.destroy(), takeMs).unref();
    const release = () => {
      clearTimeout(timer);
      held.delete(response);
    };
    response.once("finish", release).once("close", release);
    const answer = await routes[path]!(response);
    if (answer === undefined) return release(); // what it writes by itself, it bounds by itself
    send(response, answer);
  });
}

function send(response: ServerResponse, answer: Answer | undefined): void {
  if (answer === undefined) return;
  const { status, body, type = "text/plain; charset=utf-8", headers = {} } = answer;
  response.writeHead(status, { ...headers, "content-type": type, "content-length": Buffer.byteLength(body) }).end(body);
}

/**
 * Whether a Host header (RFC 9110 section 7.2) names this machine: else a page of somebody else's, whose name has been bound
 * to our address (DNS rebinding), could read what is shown here.
 */
function isOwnName(host: string | undefined, allowed: readonly string[]): boolean {
  const nameOf = (text: string) => text.toLowerCase().replace(/(?<=\]|^[^:]*):\d*$/, "").replace(/^\[|\]$/g, "");
  const name = nameOf(host ?? "");
  if (name === "") return false;
  if (allowed.includes("*") || name === "localhost" || isIPv4(name) && name.startsWith("127.")) return true;
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? []).map(({ address }) => address);
  return [...allowed, hostname(), "::1", ...addresses].some((own) => nameOf(own) === name);
}

/** Values of a metric with the labels of each. */
type Reading = [labels: Record<string, string>, value: number][];

/** A record as the reading of a metric with one label. */
export function byLabel(label: string, values: Record<string, number>): Reading {
  return Object.entries(values).map(([name, value]) => [{ [label]: name }, value]);
}

/**
 * The metrics of a program, by prom-client. What is counted stays plain numbers, read when it is scraped. To be loaded once
 * the program listens: it takes 10 ms.
 */
export async function createMetrics(role: "server" | "client") {
  const { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } = await import("prom-client");
  const registry = new Registry();
  collectDefaultMetrics({ register: registry });
  // Gauges by nature, which is not what their names say: promtool refuses them.
  for (const kind of ["handles", "requests", "resources"]) registry.removeSingleMetric(`nodejs_active_${kind}_total`);
  const common = (name: string, help: string, labelNames: string[]) => ({
    name: `graceful_shutdown_${role}_${name}`,
    help,
    labelNames,
    registers: [registry],
  });
  return {
    gauge: (name: string, help: string, read: () => number): void => {
      new Gauge({
        ...common(name, help, []),
        collect() {
          this.set(read());
        },
      });
    },
    counter: (name: string, help: string, labels: string[], read: () => Reading): void => {
      new Counter({
        ...common(name, help, labels),
        collect() {
          this.reset();
          for (const [values, number] of read()) this.inc(values, number);
        },
      });
    },
    /** Takes ms, as the program counts, and gives seconds, as Prometheus does. Every set of labels is there from the start. */
    histogram: (name: string, help: string, sets: Record<string, string>[] = [{}]) => {
      const labels = Object.keys(sets[0]!);
      const histogram = new Histogram({ ...common(name, help, labels), buckets: SECONDS_BUCKETS });
      for (const set of sets) histogram.zero(set);
      return (ms: number | null, set: Record<string, string> = {}): void => {
        if (ms !== null) histogram.observe(set, ms / 1000);
      };
    },
    route: async (): Promise<Answer> => ({ status: 200, type: registry.contentType, body: await registry.metrics() }),
  };
}

/** From 1 ms to 60 s: reconnects, silences, drains. */
const SECONDS_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60];

/** Listens, on any address where `host` is "". Resolves to the port; throws `UserError` where it cannot. */
export function listen(server: Server, port: number, host: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const failed = (error: Error) => reject(new UserError(`Cannot listen on port ${port}: ${error.message}`));
    server.once("error", failed);
    // A rollout brings everybody back at once: the default backlog of 511 would drop some of them.
    server.listen({ port, backlog: 4096, ...(host === "" ? {} : { host }) }, () => {
      server.off("error", failed);
      resolve((server.address() as { port: number }).port);
    });
  });
}
