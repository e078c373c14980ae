import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import { EventEmitter, once } from "node:events";
import { spawnSync } from "node:child_process";
import { lstatSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { connect as connectTcp, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { describe, it, type TestContext } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { constants, deflateRawSync } from "node:zlib";
import { type WebSocket, WebSocketServer } from "ws";
import { encode, type Frame, type Handover, PROBE_HEADER, type Symptom, VERSION } from "../protocol.ts";
import { type Result, SETTINGS } from "../client.ts";
import {
  clockMs,
  connect,
  data,
  deadUrl,
  hostileFrame,
  listen,
  run,
  seeded,
  slackMs,
  start,
  startClient,
  startNetwork,
  startPeer,
  startServer,
} from "./helper.ts";

type Of<T extends Frame["type"]> = Extract<Frame, { type: T }>;
type Script = (side: Side) => unknown;

/** A drain, and how it deviates from a correct one with two messages to come. */
interface Drain {
  lastSeq?: number;
  seqs?: number[];
  everyMs?: number;
  /** What SHUTDOWN says of the pace. */
  intervalMs?: number;
  close?: Partial<Of<"CLOSE">> | false;
  end?: Script;
}

/** The server's end of one v1 session; it keeps every promise but those that a test breaks. */
class Side {
  readonly ws: WebSocket;
  readonly socket: Socket;
  readonly name: string;
  readonly index: number;
  readonly frames: Frame[] = [];
  /** The close code that came from the client, once the connection is gone. */
  readonly gone: Promise<number>;
  sent = 0;
  #news = new EventEmitter();
  #regular: NodeJS.Timeout | undefined;

  constructor(ws: WebSocket, socket: Socket, name: string, index: number) {
    [this.ws, this.socket, this.name, this.index] = [ws, socket, name, index];
    ws.on("message", (text) => {
      this.frames.push(JSON.parse(String(text)));
      this.#news.emit("news");
    });
    this.gone = once(ws, "close").then(([code]) => code);
    ws.on("close", () => clearInterval(this.#regular));
  }

  all<T extends Frame["type"]>(type: T): Of<T>[] {
    return this.frames.filter((frame): frame is Of<T> => frame.type === type);
  }

  get seqs(): number[] {
    return this.all("DATA").map(({ seq }) => seq);
  }

  get acks(): number[] {
    return this.all("DATA").map(({ ack }) => ack);
  }

  get received(): number {
    return this.seqs.reduce((most, seq) => Math.max(most, seq), 0);
  }

  until(holds: () => boolean): Promise<void> {
    return until(this.#news, "news", holds);
  }

  /** Waits until so many DATA have come. */
  hears(number: number): Promise<void> {
    return this.until(() => this.seqs.length >= number);
  }

  say(frame: Frame | string | Buffer): void {
    this.ws.send(typeof frame === "string" || Buffer.isBuffer(frame) ? frame : encode(frame));
  }

  hello(fields: Partial<Of<"HELLO">> = {}): void {
    const server = `${this.name}-${this.index}`;
    this.say({ type: "HELLO", server, instance: server, session: server, intervalMs: 100, ...fields });
  }

  data(fields: Partial<Of<"DATA">> = {}): void {
    const frame = { ...data(this.sent + 1, this.received) as Of<"DATA">, ...fields };
    this.sent = Math.max(this.sent, frame.seq);
    this.say(frame);
    this.#news.emit("news");
  }

  open(fields?: Partial<Of<"DATA">>): void {
    this.hello();
    this.data(fields);
  }

  regularly(fields?: Partial<Of<"DATA">>): void {
    // Its client may have gone already: then nobody would ever stop it.
    if (this.ws.readyState === this.ws.OPEN) this.#regular = setInterval(() => this.data(fields), 50);
  }

  live(fields?: Partial<Of<"DATA">>): void {
    this.open(fields);
    this.regularly(fields);
  }

  notice({ lastSeq = this.sent + 2, intervalMs = 50 }: Drain = {}): void {
    clearInterval(this.#regular);
    const remaining = lastSeq - this.sent;
    const at = new Date().toISOString();
    this.say({ type: "SHUTDOWN", at, reason: "test", remaining, lastSeq, intervalMs, budgetMs: 5000 });
  }

  async drain(drain: Drain = {}): Promise<void> {
    const { lastSeq = this.sent + 2, seqs, everyMs = 0, close = {}, end = closeWith(1001) } = drain;
    const due = seqs ?? rising(this.sent + 1, lastSeq - this.sent);
    this.notice(drain);
    for (const seq of due) {
      if (everyMs > 0) await pause(everyMs);
      this.data({ seq });
    }
    await this.until(() => this.received >= (this.all("ACK")[0]?.lastSeq ?? Infinity));
    const at = new Date().toISOString();
    if (close) this.say({ type: "CLOSE", at, sent: lastSeq, received: this.received, ...close });
    await end(this);
  }
}

const rising = (from: number, length: number) => Array.from({ length }, (_, nth) => from + nth);
const closeWith = (code?: number, reason?: string): Script => ({ ws }) => ws.close(code, reason);
const fin: Script = ({ socket }) => socket.end();
const reset: Script = ({ socket }) => socket.resetAndDestroy();
const live: Script = (side) => side.live();
const resetAfterClose: Script = (side) => {
  side.ws.close(1001);
  side.socket.prependOnceListener("data", () => reset(side)); // at the client's answer, before ws sends a FIN
};

/** `make fuzz` runs for longer. */
const HOSTILE_FRAMES = Number(process.env["HOSTILE_FRAMES"] ?? 2000);

/** So many DATA of a client with QUICK settings take more than a second. */
const A_SECOND = 25;

/** Drains every session as soon as the client has spoken and it counts as one, the first `number` of them. */
const drainAtOnce = (number: number): Script => async (side) => {
  side.open();
  await side.hears(side.index === 0 ? 1 : A_SECOND); // a move counts when the new session has lived for a second
  if (side.index < number) await side.drain();
};

/** Goes on with every session but the first; that one says DATA 1, awaits the client's, and is ended by `script`. */
const endFirst = (script: Script): Script => async (side) => {
  if (side.index > 0) return side.live();
  side.open();
  await side.hears(1);
  await script(side);
};

/** A server whose sessions follow a script, each on an `instance` of its own; a probe gets the HELLO of the latest. */
async function startScript(t: TestContext, script: Script, name = "peer") {
  const sides: Side[] = [];
  const probes: Side[] = [];
  const { wss, url } = await startPeer(t, () => {});
  wss.on("connection", (ws, request) => {
    const isProbe = request.headers[PROBE_HEADER] !== undefined;
    const side = new Side(ws, request.socket, name, isProbe ? sides.length - 1 : sides.length);
    (isProbe ? probes : sides).push(side);
    if (isProbe) return side.hello();
    // A script that its client leaves in the middle has nothing to report: the client's result does.
    Promise.all([script(side)].flat()).catch(() => {});
  });
  const session = (index: number) => until(wss, "connection", () => sides.length > index).then(() => sides[index]!);
  const probed = (number: number) => until(wss, "connection", () => probes.length >= number);
  return { wss, url, sides, probes, session, probed };
}

const QUICK = ["--interval=50", "--backoff-base=1", "--timeout=60000"];
const urls = (...peers: { url: string }[]) => peers.map(({ url }) => `--url=${url}`);

/** A client with these servers. */
const startOn = (t: TestContext, peers: { url: string }[], ...flags: string[]) =>
  startClient(t, ...QUICK, ...urls(...peers), ...flags);

/** A client on its way to an end, and what it has judged first. */
async function endOf(client: ReturnType<typeof startClient>) {
  const result = await client.result;
  const { code } = await client.exited;
  return { ...result, code, handover: result.handovers[0]! };
}

async function stop(client: ReturnType<typeof startClient>) {
  client.child.kill("SIGTERM");
  return await endOf(client);
}

/** A client with such a server for its only one. */
async function play(t: TestContext, flags: string[], script: Script) {
  const peer = await startScript(t, script);
  return { peer, client: startOn(t, [peer], ...flags) };
}

/** One handover, from a session that `script` ends to one that goes on. */
async function handOver(t: TestContext, flags: string[], script: Script) {
  const { peer: { sides }, client } = await play(t, ["--handovers=1", ...flags], endFirst(script));
  const result = await endOf(client);
  for (const { ws } of sides) ws.resume();
  await Promise.all(sides.map(({ gone }) => gone));
  return { ...result, sides, lines: client.lines };
}

const startText = (t: TestContext, env: Record<string, string>, ...flags: string[]) =>
  start(t, [process.execPath, "dist/client.js", "--admin-port=0", ...QUICK, ...flags], env);

/** A TCP server, under the URL of a WebSocket server. */
async function startTcp(t: TestContext, onSocket: (socket: Socket) => void) {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket.on("error", () => {}));
    onSocket(socket);
  });
  t.after(() => sockets.forEach((socket) => socket.destroy()));
  return `ws://127.0.0.1:${await listen(t, server)}/ws`;
}

const answerWith = (status: string) => (t: TestContext) =>
  startTcp(t, (socket) => {
    socket.once("data", () => socket.end(`HTTP/1.1 ${status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`));
  });

/** A plain server whose upgrades take so long; it emits "dialled" for each that has begun. */
async function startSlowUpgrades(t: TestContext, ms: number) {
  const peer = await startPeer(t, (ws) => ws.send("hello"), true);
  peer.wss.options.verifyClient = (_info: unknown, answer: (accept: boolean) => void) => {
    peer.wss.emit("dialled");
    setTimeout(answer, ms, true);
  };
  return peer;
}

/** The program that this one was made after: its messages, and a close frame without a code. */
async function startOriginal(t: TestContext, message: string | Buffer = "Business data: 15:04:05", drains = true) {
  return await startPeer(t, (ws, _socket, index) => {
    let sent = 0;
    const timer = setInterval(() => {
      ws.send(message);
      if (++sent < 4 || index > 0 || !drains) return;
      clearInterval(timer);
      for (const text of ["SHUTDOWN", "Final data: 15:04:05 - 1 ✓ <b>\u0000\u001b[2J", "CLOSE"]) ws.send(text);
      ws.close();
    }, 50);
    ws.on("close", () => clearInterval(timer));
  }, true);
}

/** Waits for what an event can bring about; it gives up before the whole suite hangs. */
async function until(emitter: EventEmitter, event: string, holds: () => boolean, patienceMs = 60_000): Promise<void> {
  const signal = AbortSignal.timeout(patienceMs);
  while (!holds()) {
    await once(emitter, event, { signal }).catch(() => {
      throw new Error(`waited in vain for ${holds}`);
    });
  }
}

function assertBetween(value: number | null | undefined, least: number, limit: number, what: string): void {
  const most = /ms\b/i.test(what) ? limit + slackMs() : limit; // of times, not of counts
  assert.ok(value != null && value >= least && value <= most, `${what} is ${value}, not in ${least}-${most}`);
}

function assertSays<T extends object>(actual: T | undefined, says: Partial<T>): void {
  assert.deepEqual(actual, { ...actual, ...says });
}

const SILENCE = { code: null, how: "silence" } as const;

/** How a session ends, and what the handover says of it where it differs from a graceful one. */
const ENDINGS: [title: string, end: Drain | Script, Symptom | null, says?: Partial<Handover>, flags?: string[]][] = [
  ["a drain", {}, null],
  ["a FIN without a close frame", fin, "CUT_WITHOUT_NOTICE", { code: null }],
  ["a reset", reset, "CUT_WITHOUT_NOTICE", { code: null, how: "reset" }],
  ["silence", () => {}, "STALLED", SILENCE, ["--silence-timeout=400"]],
  ["silence amid the drain", { end: () => pause(9999), close: false }, "STALLED", SILENCE, ["--silence-timeout=400"]],
  ["a drain at the pace it announces", { everyMs: 700, intervalMs: 500 }, null, {}, ["--silence-timeout=300"]],
  ["a close frame out of the blue", closeWith(1001), "NO_NOTICE"],
  ["a FIN amid the drain", { close: false, end: fin }, "CUT_DURING_DRAIN", { code: null }],
  ["no CLOSE", { close: false }, "NO_FAREWELL"],
  ["CLOSE with `sent` too low", { close: { sent: 2 } }, "NO_FAREWELL"],
  ["CLOSE with `sent` too high", { close: { sent: 4 } }, "NO_FAREWELL"],
  ["CLOSE with `received` too high", { close: { received: 99 } }, "NO_FAREWELL"],
  ["CLOSE with `received` too low", { close: { received: 0 } }, "UPSTREAM_LOST"],
  ["DATA after CLOSE", { end: (side) => [side.data(), side.ws.close(1001)] }, "NO_FAREWELL"],
  ["no close frame", { end: fin }, "NO_CLOSE_FRAME", { code: null }],
  ["close code 1005", { end: closeWith() }, "WRONG_CLOSE_CODE", { code: 1005 }],
  ["close code 1012", { end: closeWith(1012) }, "WRONG_CLOSE_CODE", { code: 1012 }],
  ["an expected close code", { end: closeWith(1012) }, null, { code: 1012 }, ["--expect-code=1001,1012"]],
  ["lost DATA", { lastSeq: 8, seqs: [2, 5, 6, 8] }, "DATA_LOST", { lost: [[3, 4], [7, 7]] }],
  ["the last DATA lost", { seqs: [2] }, "DATA_LOST", { lost: [[3, 3]] }],
  ["DATA twice", { lastSeq: 4, seqs: [2, 3, 2, 3, 4] }, "DATA_DUPLICATED", { duplicated: [[2, 3]] }],
  ["DATA late", { lastSeq: 5, seqs: [4, 2, 3, 5] }, "DATA_REORDERED", { reordered: [[2, 3]] }],
  ["a reset after the close frame", { end: resetAfterClose }, "RESET_AFTER_CLOSE", { how: "reset" }],
];

/** What a server must not send after HELLO and DATA 1, and with which code and words the client leaves it. */
const NONSENSE: [title: string, script: Script, code: number, complaint: RegExp][] = [
  ["a binary message", (side) => side.say(Buffer.from("{}")), 1003, /Cannot accept a binary message/],
  ["what is not JSON", (side) => side.say("{"), 1007, /must be JSON: current value is "\{"/],
  ["an unknown type", (side) => side.say('{"type":"BYE"}'), 1007, /'type' must be one of HELLO.* value is "BYE"/],
  ["JSON null", (side) => side.say("null"), 1007, /'type' must be one of HELLO/],
  ["a wrong field", (side) => side.data({ ack: -1 }), 1007, /DATA frame: 'ack' must be .* value is -1/],
  ["an ACK", (side) => side.say({ type: "ACK", lastSeq: 1 }), 1007, /Cannot accept ACK frame/],
  ["a second HELLO", (side) => side.hello(), 1007, /Cannot accept HELLO frame: it came after HELLO/],
  ["a second SHUTDOWN", (side) => [side.notice(), side.notice()], 1007, /SHUTDOWN frame: it came after SHUTDOWN/],
  [
    "more than 64 KiB",
    (side) => side.data({ payload: "x".repeat(65_536) }),
    1009,
    /a message of 65,6\d\d bytes: v1 has 64 KiB/,
  ],
  ["thousands of gaps", (side) => rising(2, 3000).forEach((nth) => side.data({ seq: 2 * nth })), 1007, /100 gaps/],
  ["bytes that are no frame", ({ socket }) => socket.write(Buffer.alloc(20, 0xff)), 1002, /Invalid WebSocket frame/],
];

/** Where no session is to be had, and the kind that each failed dial is counted as. */
const DIALS: [title: string, kind: string, url: (t: TestContext) => string | Promise<string>][] = [
  ["a port where nobody listens", "refused", deadUrl],
  ["a server that drains", "503", async (t) => {
    const server = await startServer(t);
    await connect(t, server.url); // never confirms, so the drain goes on
    server.child.kill("SIGTERM");
    await server.line(/shutdown-signal/);
    return server.url;
  }],
  ["a server that accepts and says nothing", "timeout", (t) => startTcp(t, () => {})],
  ["a server that never says HELLO", "timeout", async (t) => (await startPeer(t, () => {})).url],
  ["a name that does not exist", "dns", () => "ws://no.such.host.invalid/ws"],
  ["a server that resets", "reset", (t) => startTcp(t, (socket) => socket.resetAndDestroy())],
  ["HTTP 401", "401", answerWith("401 Unauthorized")],
  ["HTTP 404", "404", answerWith("404 Not Found")],
  ["HTTP 403", "403", answerWith("403 Forbidden")],
  ["a server that upgrades and closes", "bounced", async (t) => (await startPeer(t, (ws) => ws.close(1001), true)).url],
  ["random bytes", "other", (t) => startTcp(t, (socket) => socket.write(randomBytes(10_000)))],
  ["DATA before HELLO", "other", async (t) => (await startScript(t, (side) => side.data())).url],
];

/** Settings that cannot work, and what the one line about them says. */
const REFUSED: [flags: string[], complaint: RegExp, env?: Record<string, string>][] = [
  [["--nonsense"], /^Unknown flag --nonsense/],
  [["nonsense"], /^Unexpected argument 'nonsense'/],
  [["--url=http//x"], /^--url must be a ws:\/\/ or wss:\/\/ URL .*'http\/\/x'$/],
  [["--url"], /^--url needs a value/],
  [[], /^SERVER_URL must be a ws:\/\/ or wss:\/\/ URL .*'nonsense'$/, { SERVER_URL: "nonsense" }],
  [["--expect=typo"], /^--expect must be one of notice, complete, farewell, clean, moved: .*'typo'$/],
  [["--header=Authorization s3cr3t"], /^--header must be 'Name: value'$/],
  [["--header=Authorization: @/no/such/file"], /^--header cannot be used: ENOENT.*no such file/],
  [["--header=X-Bad: a\u0007b"], /^--header cannot be used: X-Bad has a character that no header may have$/],
  [["--subprotocol=a b"], /^--subprotocol must be a token/],
  [["--ping-interval=5"], /^--ping-interval must carry a unit/],
  [["--max-message=10"], /^--max-message must be an integer/],
  [["--dialect=mqtt5"], /^--dialect must be auto, v1, plain, .*, nats, or a \.json file: current value is 'mqtt5'$/],
  [["--dialect=/no/such.json"], /^--dialect cannot be used: ENOENT.*: current value is '\/no\/such.json'$/],
  [
    ["--dialect=package.json"],
    /^--dialect cannot be used: it has an unknown part "name": its parts are .*'package.json'$/,
  ],
  [["--dialect=v1", "--say=hi"], /^--dialect v1: open cannot be changed in v1$/],
  [["--sequence=[0-9]+"], /^--dialect auto: 'sequence' must have one group, which is what it finds: "\[0-9\]\+"$/],
  [
    ["--ready=(a"],
    /^--dialect auto: 'ready' must be a regular expression without back references and lookaround \(.*\): "\(a"$/,
  ],
  [["--reply=x"], /^--reply must be 'REGEX=TEXT'$/],
  [["--heartbeat=ping"], /^--dialect auto: 'heartbeat' must be TEXT@25s: "ping"$/],
  [["--say=@/no/such/file"], /^--say cannot be used: ENOENT.*no such file/],
  [["--evidence=x"], /^--evidence needs --disrupt watch$/],
  [["--expect-code=99"], /^--expect-code must be a close code that may be sent: .*, or 1005: current value is '99'$/],
  [["--expect-code=1001,1006"], /^--expect-code must be a close code .*: current value is '1001,1006'$/],
  [["--timeout=30"], /^--timeout must carry a unit when it is below 1000: 30s or 30ms: current value is '30'$/],
  [["--url=http://a/?access_token=secret"], /^--url must be .*: current value is 'http:\/\/a\/\?access_token=…'$/],
  [["--sessions=1000000"], /^--sessions must be at most \d+ with the open files .*\(ulimit -n\): .*'1000000'$/],
  [["--sessions=0"], /^--sessions must be an integer from 1 .*'0'$/],
  [["--reconnect=never"], /^--reconnect must be one of after-close, early: .*'never'$/],
  [["--report=x.txt"], /^--report must end in .*: current value is 'x.txt'$/],
  [["--report=/no/such/folder/x.json"], /^--report must be in a folder .*'\/no\/such\/folder\/x.json'$/],
];

describe("client", { concurrency: 4, timeout: 600_000 }, () => {
  // ---- A session

  for (const intervalMs of [100, 400]) {
    it(`sends DATA at once and then every ${intervalMs} ms`, async (t) => {
      const { peer } = await play(t, [`--interval=${intervalMs}`], live);
      const side = await peer.session(0);
      const helloAt = Date.now();
      await side.hears(5);
      const times = side.all("DATA").map(({ at }) => Date.parse(at));
      assert.deepEqual(side.seqs.slice(0, 5), rising(1, 5));
      assertBetween(times[0]! - helloAt, -50, 350, "ms from HELLO to the first");
      assertBetween(times[4]! - times[0]!, 4 * intervalMs - 5, 4 * intervalMs + 600, "ms for four more");
    });
  }

  it("acknowledges the highest seq that it has received", async (t) => {
    const { peer } = await play(t, [], (side) => side.open());
    const side = await peer.session(0);
    await side.until(() => side.acks.includes(1));
    for (const seq of [2, 5, 3]) side.data({ seq });
    await side.until(() => side.acks.includes(5));
    await side.hears(side.seqs.length + 2);
    assert.deepEqual(side.acks.slice(-3), [5, 5, 5]);
  });

  it("answers SHUTDOWN with its last seq, and sends no more DATA on that session", async (t) => {
    const drain = { lastSeq: 11, everyMs: 30 };
    const { sides: [side] } = await handOver(t, ["--interval=20"], (side) => side.drain(drain));
    assert.deepEqual(side!.frames.slice(-1), [{ type: "ACK", lastSeq: side!.received }]);
    assert.equal(side!.all("ACK").length, 1);
  });

  it("answers a SHUTDOWN that comes together with HELLO", async (t) => {
    const { peer, client } = await play(t, ["--handovers=1"], (side) => {
      if (side.index > 0) return side.live();
      side.socket.cork(); // in one write, hence in one read
      side.open();
      const drained = side.drain();
      side.socket.uncork();
      return drained;
    });
    assert.equal((await client.result).verdict, "PASS");
    assert.deepEqual(peer.sides[0]!.frames, [{ type: "ACK", lastSeq: 0 }]);
  });

  // ---- What a session leaves unconfirmed

  it("sends again, first and with its numbers, what killed sessions left unconfirmed", async (t) => {
    const { peer, client } = await play(t, ["--handovers=2"], async (side) => {
      if (side.index === 2) return side.live();
      side.open();
      await side.hears(side.index === 1 ? A_SECOND : 5);
      if (side.index === 0) side.data({ ack: 2 });
      await side.until(() => side.acks.includes(side.sent));
      side.ws.terminate();
    });
    const { messages, handovers } = await client.result;
    await peer.sides[2]!.gone;
    const [first, second, third] = peer.sides.map(({ seqs }) => seqs) as [number[], number[], number[]];
    assert.deepEqual(first, rising(1, first.length));
    assert.deepEqual(second, rising(3, second.length));
    assert.deepEqual(third, rising(3, third.length));
    assert.ok(third.length > second.length, `${third} is not more than ${second}`);
    assert.ok(handovers[1]!.resent >= first.length - 2, `${handovers[1]!.resent} sent again on the second`);
    assert.ok(messages.resent >= first.length - 2 + second.length, `${messages.resent} sent again in all`);
  });

  it("does not send again what CLOSE confirms", async (t) => {
    const { sides, messages } = await handOver(t, [], (side) => side.hears(3).then(() => side.drain()));
    assert.deepEqual([sides[1]!.seqs[0], messages.resent], [sides[0]!.received + 1, 0]);
  });

  it("sends again what CLOSE takes back from an earlier ack", async (t) => {
    const { handover, sides } = await handOver(t, [], async (side) => {
      await side.hears(3);
      side.data({ ack: 3 });
      await side.drain({ close: { received: 1 } });
    });
    const { received } = sides[0]!;
    assertSays(handover, { symptom: "UPSTREAM_LOST", upstreamLost: received - 1 });
    assert.deepEqual(sides[1]!.seqs.slice(0, received), rising(2, received));
  });

  it("skips no number, and forgets no message, for an ack of what it never sent", async (t) => {
    const { peer, client } = await play(t, ["--interval=200", "--handovers=1"], async (side) => {
      side.open({ ack: 0 });
      if (side.index === 0) side.data({ ack: 1_000_000 });
      await side.hears(2);
      if (side.index < 2) side.ws.terminate();
    });
    await endOf(client);
    await peer.sides[2]!.gone;
    assert.deepEqual(peer.sides.map(({ seqs }) => seqs.slice(0, 2)), [[1, 2], [3, 4], [3, 4]]);
  });

  it("pauses production at 1,000 unconfirmed messages, and goes on with the next ack", async (t) => {
    const { peer } = await play(t, ["--interval=1"], (side) => side.live({ ack: 0 }));
    const side = await peer.session(0);
    const ticks = (number: number, { sent } = side) => side.until(() => side.sent >= sent + number);
    await side.hears(1000);
    await ticks(10);
    assert.equal(side.seqs.length, 1000);
    side.data({ ack: 700 });
    await side.hears(1700);
    await ticks(6);
    assert.deepEqual(side.seqs, rising(1, 1700));
  });

  // ---- How sessions end

  for (const [title, end, symptom, says, flags = []] of ENDINGS) {
    it(`calls ${title} ${symptom ?? "graceful"}`, async (t) => {
      const script = typeof end === "function" ? end : (side: Side) => side.drain(end);
      const { code, verdict, symptoms, handover, sides } = await handOver(t, flags, script);
      // A busy client may have sent a second message before it has read SHUTDOWN: that server forgets both.
      const upstreamLost = symptom === "UPSTREAM_LOST" ? sides[0]!.received : 0;
      const graceful = { from: "peer-0", to: "peer-1", how: "fin", code: 1001, upstreamLost } as const;
      const inOrder = { lost: [], duplicated: [], reordered: [] };
      assertSays(handover, { ...graceful, ...inOrder, ...says, symptom });
      assert.deepEqual(Object.keys(symptoms), symptom === null ? [] : [symptom]);
      assert.deepEqual([code, verdict], symptom === null ? [0, "PASS"] : [1, "FAIL"]);
    });
  }

  it("waits 3 s for the FIN after a close frame, and calls its absence NO_FIN", async (t) => {
    const end: Script = ({ ws }) => {
      ws.close(1001);
      ws.pause(); // and so it never reads the answer, upon which it would end the connection
    };
    const { handover } = await handOver(t, [], (side) => side.drain({ end }));
    assertSays(handover, { symptom: "NO_FIN", how: "silence", code: 1001 });
    assertBetween(handover.noticeMs! - handover.drainMs!, 2900, 4500, "ms from CLOSE to the end");
  });

  for (const [title, script, code, complaint] of NONSENSE) {
    it(`leaves a server that sends ${title} with ${code}, and moves on`, async (t) => {
      const { handover, sides, lines } = await handOver(t, [], script);
      assert.equal(await sides[0]!.gone, code);
      assert.match(handover.complaint!, complaint);
      assertSays(handover, { verdict: "failed", symptom: "WITNESS_ENDED", to: "peer-1" });
      assert.doesNotMatch(lines.join("\n"), /^ {4}at /m);
    });
  }

  it("does not call a server STALLED that goes on, but never answers our close", async (t) => {
    const { handover } = await handOver(t, [], (side) => {
      side.ws.pause();
      side.say("nonsense");
      side.regularly();
    });
    assert.match(handover.complaint!, /must be JSON/);
    assert.equal(handover.symptom, "WITNESS_ENDED");
  });

  it("takes the pace that SHUTDOWN announces for the one that is due", async (t) => {
    const { client } = await play(t, ["--handovers=1", "--silence-timeout=500"], (side) => {
      if (side.index > 0) return side.live();
      side.hello({ intervalMs: 60_000 });
      side.data();
      side.notice({ intervalMs: 50 });
    });
    const { handover } = await endOf(client);
    assertSays(handover, { symptom: "STALLED", ...SILENCE });
    assertBetween(handover.noticeMs, 495, 1500, "ms from SHUTDOWN to the end");
  });

  // ---- Half-open connections

  for (const [silenceMs, intervalMs] of [[500, 100], [1200, 100], [200, 300], [200, 600]] as const) {
    const deadMs = Math.max(silenceMs, 3 * intervalMs);
    it(`calls a stopped server with ${intervalMs} ms between DATA dead after ${deadMs} ms, and moves`, async (t) => {
      const names = ["--name=stopped", "--name=other"];
      const servers = await Promise.all(names.map((name) => startServer(t, name, `--interval=${intervalMs}`)));
      const client = startOn(t, servers, "--handovers=1", `--silence-timeout=${silenceMs}`);
      await client.line(/ steady /);
      servers[0]!.child.kill("SIGSTOP");
      const { handover } = await endOf(client);
      assertSays(handover, { symptom: "STALLED", ...SILENCE, from: "stopped", to: "other" });
      assertBetween(handover.silenceMs, deadMs, deadMs + 800, "silenceMs");
    });
  }

  it("calls a server behind a network that swallows everything dead, and moves", async (t) => {
    const names = ["--name=near", "--name=far"];
    const servers = await Promise.all(names.map((name) => startServer(t, name, "--interval=100")));
    const network = await startNetwork(t, servers[0]!.port);
    const client = startOn(t, [network, servers[1]!], "--handovers=1", "--silence-timeout=700");
    await client.line(/ steady /);
    network.swallow();
    const { handover } = await endOf(client);
    assertSays(handover, { symptom: "STALLED", ...SILENCE, from: "near", to: "far" });
    assertBetween(handover.silenceMs, 700, 1500, "silenceMs");
  });

  for (const [what, patience] of [["session", "--silence-timeout=400"], ["dial", "--connect-timeout=400"]] as const) {
    it(`does not give a healthy ${what} up because it was paused itself`, async (t) => {
      // In v1: in auto it would take a server without HELLO for a plain one after a second.
      const { peer, client } = await play(t, [patience, "--dialect=v1"], (side) => what === "dial" || side.live());
      const side = await peer.session(0);
      if (what === "session") await client.line(/ steady /);
      client.child.kill("SIGSTOP");
      if (what === "dial") side.live();
      const { sent } = side;
      await side.until(() => side.sent >= sent + 24);
      client.child.kill("SIGCONT");
      await side.until(() => side.acks.at(-1)! >= sent + 24);
      await side.hears(side.seqs.length + 10);
      assertSays(await stop(client), { handovers: [], failedDials: {} });
      assert.equal(peer.sides.length, 1);
    });
  }

  // ---- The way to the next session

  it("calls a return to the ending server SAME_SERVER", async (t) => {
    const { client } = await play(t, ["--handovers=1"], async (side) => {
      side.hello({ instance: "the same" });
      side.data();
      await side.hears(1);
      if (side.index === 0) await side.drain();
    });
    const { handover, code } = await endOf(client);
    assertSays(handover, { symptom: "SAME_SERVER", to: "peer-1", code: 1001 });
    assert.equal(code, 1);
  });

  for (const [maxMs, symptom] of [[200, "SLOW_RECONNECT"], [5000, null]] as const) {
    it(`calls a forced delay of 600 ms ${symptom ?? "graceful"} with --max-reconnect ${maxMs}`, async (t) => {
      const { client } = await play(t, ["--handovers=1", `--max-reconnect=${maxMs}`], async (side) => {
        if (side.index > 0) await pause(600);
        await endFirst(() => side.drain())(side);
      });
      const { handover } = await endOf(client);
      assertSays(handover, { symptom, to: "peer-1" });
      assertBetween(handover.forcedMs, 595, 1500, "forcedMs");
      assertBetween(handover.silenceMs, 595, 1500, "silenceMs");
    });
  }

  for (const [maxMs, verdict, symptom] of [[300, "failed", "SLOW_RECONNECT"], [60_000, "unfinished", null]] as const) {
    it(`calls a handover to nowhere ${verdict} with --max-reconnect ${maxMs}`, async (t) => {
      const peer = await startScript(t, endFirst((side) => [peer.wss.close(), side.drain()]));
      const peers = [peer, { url: deadUrl() }];
      const client = startOn(t, peers, "--timeout=1500", `--max-reconnect=${maxMs}`);
      const { code, counts, handover, failedDials } = await endOf(client);
      assertSays(handover, { verdict, symptom, to: null, failedDials });
      assert.deepEqual(counts, { graceful: 0, failed: 0, unfinished: 0, [verdict]: 1 });
      assert.deepEqual(failedDials, { refused: failedDials["refused"] });
      assertBetween(failedDials["refused"], 3, 20, "refused dials");
      assert.equal(code, verdict === "failed" ? 1 : 0);
    });
  }

  for (const [title, kind, makeUrl] of DIALS) {
    it(`counts a dial to ${title} as ${kind}, and goes on to the next URL`, async (t) => {
      const [url, peer] = await Promise.all([makeUrl(t), startScript(t, live)]);
      // In auto a server without HELLO is another one.
      const dialect = title.includes("HELLO") ? "v1" : "auto";
      const patience = `--connect-timeout=${kind === "timeout" ? 300 : 20_000}`;
      const client = startOn(t, [{ url }, peer], patience, `--dialect=${dialect}`);
      await client.line(/ steady /);
      assertSays(await stop(client), { failedDials: { [kind]: 1 }, verdict: "PASS" });
    });
  }

  for (const timeoutMs of [400, 900]) {
    it(`gives a dial up after --connect-timeout ${timeoutMs}`, async (t) => {
      const accepted = new EventEmitter();
      const url = await startTcp(t, (socket) => accepted.emit("socket", socket.resume()));
      const client = startOn(t, [{ url }], `--connect-timeout=${timeoutMs}`);
      const [socket] = await once(accepted, "socket") as [Socket];
      await once(socket, "close");
      const [from, to] = await Promise.all([client.line(/ started /), client.line(/ dial-failed /)]);
      assertBetween(clockMs(to) - clockMs(from), timeoutMs - 1, timeoutMs + 500, "ms from the start to the dial's end");
    });
  }

  for (const [when, least, most] of [["at --timeout", 300, 3000], ["on SIGTERM", 0, 1000]] as const) {
    const flags = when === "at --timeout" ? ["--timeout=2500ms"] : [];
    it(`exits 2 ${when} where it never got a session, and names URL and failures`, async (t) => {
      const url = deadUrl();
      const client = startText(t, {}, ...urls({ url }), "--json", "--backoff-cap=20", ...flags);
      await client.line(/ dial-failed /);
      const from = performance.now();
      if (when === "on SIGTERM") client.child.kill("SIGTERM");
      const { code, at } = await client.exited;
      assert.deepEqual([code, client.stdout()], [2, ""]);
      assertBetween(at - from, least, most, "ms from the first failure to the exit");
      const told = client.lines.filter((line) => line.startsWith(`Never connected to ${url}: `));
      assert.deepEqual(told, client.lines.slice(-1));
      assert.match(told[0]!, /: refused ×\d+$/);
    });
  }

  it("does not wait for a dial when it stops", async (t) => {
    const url = await startTcp(t, () => {});
    const client = startText(t, {}, ...urls({ url }), "--timeout=500ms");
    await client.line(/ stopping /);
    const from = performance.now();
    const { code, at } = await client.exited;
    assertBetween(at - from, 0, 1000, "ms from stopping to the exit");
    assert.deepEqual([code, client.lines.at(-1)], [2, `Never connected to ${url}: no dial finished`]);
  });

  // Between what the longest waits would give and what is unthinkable; the last two differ in the cap only.
  const dials = [[50, 50, 14, 110], [400, 400, 3, 24], [20, 40, 16, 160], [20, 9999, 4, 20]] as const;
  for (const [baseMs, capMs, least, most] of dials) {
    it(`dials a dead server ${least}-${most} times in 1.5 s with backoff ${baseMs} to ${capMs}`, async (t) => {
      const flags = ["--timeout=1500", `--backoff-base=${baseMs}`, `--backoff-cap=${capMs}`];
      const { lines, exited } = startText(t, {}, ...urls({ url: deadUrl() }), ...flags);
      await exited;
      assertBetween(Number(/ refused ×(\d+)$/.exec(lines.at(-1)!)?.[1]), least, most, lines.at(-1)!);
    });
  }

  for (const [baseMs, handovers] of [[30, 40], [300, 20]] as const) {
    it(`begins at the first URL, and moves to any of the others after up to ${baseMs} ms`, async (t) => {
      let drains = 0;
      const script: Script = (side) => drainAtOnce(drains++ < handovers ? Infinity : 0)(side);
      const peers = await Promise.all(["a", "b", "c"].map((name) => startScript(t, script, name)));
      const result = await startOn(t, peers, "--sessions=10", `--handovers=${handovers}`, `--backoff-base=${baseMs}`)
        .result;
      const moves = result.handovers.map(({ from, to }) => `${from[0]}${to?.[0]}`);
      assert.equal(moves[0]![0], "a");
      assert.deepEqual(moves.filter((move) => move[0] === move[1]), []);
      if (handovers === 40) assert.deepEqual([...new Set(moves)].sort(), ["ab", "ac", "ba", "bc", "ca", "cb"]);
      const chosen = result.handovers.map(({ chosenMs }) => chosenMs).sort((a, b) => a - b);
      // A late timer of the client's adds to its own wait: not to most of them.
      assertBetween(
        chosen[Math.floor(chosen.length * 0.8)],
        baseMs / 2,
        baseMs + 100,
        "the 80th percentile of chosenMs",
      );
      assert.ok(new Set(chosen).size > handovers / 2, `${chosen}`);
    });
  }

  it("dials 50 at a time, and no more", async (t) => {
    let [dialling, most] = [0, 0];
    let fill = () => {};
    const filled = new Promise<void>((resolve) => fill = resolve);
    // In v1: in auto a server that is silent for a second is a plain one, and no dial any more.
    const flags = ["--sessions=200", "--interval=1000", "--dialect=v1", "--connect-timeout=60s"];
    const { peer, client } = await play(t, flags, async (side) => {
      most = Math.max(most, ++dialling);
      if (dialling === 50) fill();
      await filled;
      await pause(200); // who else would come, comes now
      dialling--;
      side.open();
      await side.hears(1);
      side.data();
    });
    await client.line(/ steady /);
    assert.deepEqual([peer.sides.length, most], [200, 50]);
  });

  it("with --reconnect early opens the next session first, and speaks there after the old one's end", async (t) => {
    let before: number[][] = [];
    const { peer: { sides }, client } = await play(t, ["--reconnect=early"], (side) => {
      const end = () => [before = sides.map(({ seqs }) => seqs), side.ws.close(1001)];
      return endFirst(() => side.drain({ lastSeq: 9, everyMs: 40, end }))(side);
    });
    await client.line(/ handover /);
    await sides[1]!.hears(1); // a run that ends with the handover may leave before
    const { handover, verdict } = await stop(client);
    assert.deepEqual([verdict, handover.reconnectMs], ["PASS", 0]);
    assert.deepEqual(before, [sides[0]!.seqs, []]);
    assert.equal(sides[1]!.seqs[0], sides[0]!.received + 1);
  });

  it("with --reconnect early judges also a drain that outlives the next session", async (t) => {
    const { peer, client } = await play(t, ["--handovers=2", "--reconnect=early"], async (side) => {
      side.live();
      await side.hears(1 - side.index); // early, it speaks on the next one only after the old one's end
      if (side.index === 0) side.notice({ lastSeq: side.sent + 999 });
      if (side.index === 0) side.regularly();
      if (side.index === 1) await pause(2500).then(() => side.drain());
    });
    const next = await peer.session(1);
    await next.gone;
    fin(peer.sides[0]!);
    const { verdict, handovers } = await client.result;
    assert.deepEqual(handovers.map(({ from, symptom }) => [from, symptom]), [
      ["peer-0", "CUT_DURING_DRAIN"],
      ["peer-1", null],
    ]);
    assert.equal(verdict, "FAIL");
  });

  it("with --reconnect early judges at its end what became of the next session, too", async (t) => {
    const { peer, client } = await play(t, ["--reconnect=early"], async (side) => {
      side.live();
      if (side.index > 0) return;
      await side.hears(1);
      side.notice({ lastSeq: side.sent + 999 });
      side.regularly();
    });
    const next = await peer.session(1);
    await pause(2500);
    fin(next);
    await client.line(/ session-closed /);
    const { handovers } = await stop(client);
    assert.deepEqual(handovers.map(({ from, verdict, symptom }) => [from, verdict, symptom]), [
      ["peer-0", "unfinished", null],
      ["peer-1", "failed", "CUT_WITHOUT_NOTICE"],
    ]);
  });

  // ---- What is the client's own, and not the server's

  for (const [pauseMs, symptom] of [[6500, null], [1500, "CUT_WITHOUT_NOTICE"]] as const) {
    it(`paused for ${pauseMs} ms, ${symptom ? "judges" : "does not judge"} a cut that came meanwhile`, async (t) => {
      const { peer, client } = await play(t, ["--handovers=1", "--timeout=20s"], (side) => side.live());
      await client.line(/ steady /);
      const [side] = peer.sides as [Side];
      client.child.kill("SIGSTOP");
      side.ws.terminate(); // as servers do with those that answer no ping
      await pause(pauseMs);
      client.child.kill("SIGCONT");
      await client.line(/ handover /);
      const { verdict, summary, findings, handover } = await stop(client);
      assert.deepEqual([verdict, handover.symptom, handover.unseen], ["FAIL", symptom, symptom === null]);
      assert.equal(/1 session ended while this client itself stood still: not judged$/.test(summary), symptom === null);
      const found = findings.filter(({ name, text }) => name === "WITNESS_SLOW" && /stood still/.test(text));
      assert.equal(found.length, symptom === null ? 1 : 0);
    });
  }

  it("answers as many pings as come at once", async (t) => {
    const { peer, client } = await play(t, [], (side) => side.live());
    await client.line(/ steady /);
    const [side] = peer.sides as [Side];
    let pongs = 0;
    const answered = new Promise<void>((resolve) => side.ws.on("pong", () => ++pongs === 200 && resolve()));
    side.socket.write(Buffer.from("8900".repeat(200), "hex"));
    await answered;
    assertSays(await stop(client), { handovers: [] });
  });

  it("answers no more where nobody reads its answers", async (t) => {
    const ANSWERS = 600;
    const peer = await startPeer(t, (ws, socket) => {
      ws.send("hello");
      socket.pause();
      for (let nth = 0; nth < ANSWERS; nth++) ws.send("x");
      ws.send("enough");
    }, true);
    const flags = ["--dialect=plain", `--reply=^x$=${"y".repeat(60_000)}`, "--notice=^enough$"];
    const client = startOn(t, [peer], ...flags);
    await client.line(/ shutdown-notice /);
    const [ws] = peer.wss.clients;
    let answers = 0;
    ws!.on("message", (data) => answers += String(data).startsWith("y") ? 1 : 0);
    const closed = once(ws!, "close");
    (ws as unknown as { _socket: Socket })._socket.resume();
    client.child.kill("SIGTERM");
    await closed;
    assertBetween(answers, 1, ANSWERS / 2, "answers");
  });

  it("does not count the wait for its own 50 dials as forced, with a server that is slow to upgrade", async (t) => {
    const slow = await startSlowUpgrades(t, 1000);
    const end = () => slow.wss.clients.forEach((ws) => ws.close(1001));
    const flags = [
      "--sessions=200",
      "--handovers=200",
      "--dialect=plain",
      "--max-reconnect=3000",
      "--connect-timeout=30s",
    ];
    const client = startClient(t, ...QUICK, ...urls(slow), ...flags);
    await client.line(/ steady /);
    end();
    const { verdict, handovers, failedDials } = await client.result;
    assert.deepEqual([verdict, failedDials], ["PASS", {}]);
    const longest = Math.max(...handovers.map(({ reconnectMs }) => reconnectMs));
    assert.ok(longest > 3000, `they took turns: the last one came back after ${longest} ms`);
    assertBetween(Math.max(...handovers.map(({ forcedMs }) => forcedMs)), 990, 3000, "the longest forcedMs");
  });

  it("does not count its own waits after the last failed dial as forced", async (t) => {
    // Down for as long as it takes to meet three dials; the client's own waits are far longer than that.
    const flags = ["--sessions=60", "--handovers=60", "--dialect=plain", "--max-reconnect=3s", "--backoff-base=3s"];
    const peer = await startPeer(t, (ws) => ws.send("hello"), true);
    const client = startClient(t, "--timeout=60s", ...urls(peer), ...flags);
    await client.line(/ steady /);
    let refusals = 0;
    peer.wss.options.verifyClient = (_info: unknown, answer: (accept: boolean, status?: number) => void) => {
      answer(false, 503);
      peer.wss.emit("refused", ++refusals);
    };
    for (const ws of peer.wss.clients) ws.close(1001);
    await until(peer.wss, "refused", () => refusals >= 3);
    delete peer.wss.options.verifyClient;
    const { verdict, handovers, failedDials } = await client.result;
    assert.equal(verdict, "PASS");
    assert.ok(failedDials["503"]! >= 3, `${failedDials["503"]} dials met the server while it was down`);
    const forced = handovers.map(({ forcedMs }) => forcedMs);
    assertBetween(Math.max(...forced), 0, 1000, "the longest forcedMs");
  });

  it("stopped between a close frame and its FIN, reads the FIN before it calls it missing", async (t) => {
    let endTcp = () => {};
    const { peer, client } = await play(
      t,
      ["--handovers=1"],
      endFirst((side) => {
        endTcp = side.socket.end.bind(side.socket);
        side.socket.end = () => side.socket; // ws would end the connection at the client's answer
        return side.drain();
      }),
    );
    const [side] = [await peer.session(0)];
    await side.until(() => side.all("ACK").length > 0);
    await once(side.socket, "data"); // the client's close frame: it has read ours
    client.child.kill("SIGSTOP");
    endTcp();
    await pause(4000);
    client.child.kill("SIGCONT");
    assertSays((await endOf(client)).handover, { symptom: null, how: "fin", code: 1001 });
  });

  it("stopped on the way to the next session, takes its own sleep for chosen or off the limit, and says so", async (t) => {
    const flags = ["--sessions=5", "--handovers=5", "--backoff-base=200", "--max-reconnect=1000"];
    const { peer, client } = await play(t, flags, (side) => side.live());
    await client.line(/ steady /);
    for (const { ws } of peer.sides) ws.close(1001);
    await client.line(/ session-closed /);
    client.child.kill("SIGSTOP");
    await pause(2500);
    client.child.kill("SIGCONT");
    const { witness, symptoms, handovers } = await client.result;
    assert.deepEqual(Object.keys(symptoms), ["NO_NOTICE"]);
    assert.deepEqual(handovers.map(({ rules }) => rules.moved), Array(5).fill("pass"));
    assertBetween(witness.maxLateMs, 2300, 20_000, "witness.maxLateMs");
  });

  it("takes its own sleep off a dial that it was in, and reports WITNESS_SLOW with the number", async (t) => {
    const slow = await startSlowUpgrades(t, 600);
    const flags = ["--dialect=plain", "--handovers=1", "--max-reconnect=1500", "--backoff-base=1"];
    const client = startClient(t, "--timeout=30000", ...urls(slow), ...flags);
    await client.line(/ steady /);
    const dialled = once(slow.wss, "dialled");
    for (const ws of slow.wss.clients) ws.close(1001);
    await dialled;
    client.child.kill("SIGSTOP");
    await pause(3000);
    client.child.kill("SIGCONT");
    const { verdict, findings, handovers: [handover] } = await client.result;
    assert.equal(verdict, "PASS");
    assert.ok(
      handover!.forcedMs > 1500 && handover!.lateMs > 1500,
      `${handover!.forcedMs} forced, ${handover!.lateMs} late`,
    );
    assert.match(findings.find(({ name }) => name === "WITNESS_SLOW")!.text, /late by up to \d\.\d+s.* 1 handover/);
  });

  // ---- Sessions that do not live

  for (
    const [title, script] of [
      ["upgrades and closes at once", (side: Side) => side.ws.close(1001, "going")],
      ["says HELLO and closes at once", (side: Side) => [side.hello(), side.ws.close(1001, "going")]],
      ["says HELLO and DATA, and is cut at once", (side: Side) => [side.open(), side.ws.terminate()]],
      ["drains every session at once", (side: Side) => [side.open(), side.drain({ lastSeq: side.sent })]],
    ] as const
  ) {
    it(`takes a server that ${title} for one that is down`, async (t) => {
      let isDown = false;
      const { peer, client } = await play(t, [
        "--max-reconnect=1000",
        "--handovers=1",
        "--backoff-base=100",
        "--backoff-cap=300",
      ], (side) => {
        return isDown ? script(side) : side.live();
      });
      await client.line(/ steady /);
      isDown = true;
      await peer.sides[0]!.drain();
      await client.line(/ session-closed /);
      await pause(2500);
      isDown = false;
      const { code, symptoms, counts, failedDials, handover } = await endOf(client);
      assert.deepEqual([code, Object.keys(symptoms)], [1, ["SLOW_RECONNECT"]]);
      assert.equal(counts.failed, 1);
      assertBetween(failedDials["bounced"], 5, 60, "bounced dials in 2.5 s");
      assert.equal(handover.failedDials["bounced"], failedDials["bounced"]);
      assertBetween(handover.forcedMs, 1000, 6000, "forcedMs");
    });
  }

  it("dials ever more slowly where no session lives, and exits 2", async (t) => {
    const peer = await startPeer(t, (ws) => ws.close(1008, "invalid key"), true);
    const client = startText(t, {}, ...urls(peer), "--sessions=5", "--backoff-base=100", "--timeout=3000");
    assert.equal((await client.exited).code, 2);
    const told = /^Never connected to .*: bounced ×(\d+)[^;]*; (.*)$/.exec(client.lines.at(-1)!);
    assert.ok(told, client.lines.join("\n"));
    assert.match(
      told[2]!,
      /^upgraded, (and ended at once|then closed) with 1008 invalid key: .*--header, --token-file/,
    );
    const bounced = told[1];
    assertBetween(Number(bounced), 5, 60, "dials of 5 sessions in 3 s");
    assert.match(client.lines.join("\n"), /dial-failed .*upgraded, and ended at once with 1008 invalid key/);
  });

  // ---- The end of a run

  it("fails a session that was told and then heard nothing more, when the run ends", async (t) => {
    const { client } = await play(
      t,
      ["--timeout=4s", "--silence-timeout=1500", "--max-reconnect=500"],
      async (side) => {
        side.open();
        await side.hears(1);
        side.notice({ lastSeq: 9, intervalMs: 3_600_000 });
      },
    );
    const { code, handover } = await endOf(client);
    assertSays(handover, { verdict: "failed", symptom: "CUT_DURING_DRAIN", how: "open", to: null });
    assert.equal(code, 1);
  });

  it("calls a drain that goes on when the run ends unfinished, and passes", async (t) => {
    const { peer, client } = await play(t, [], (side) => side.live());
    await client.line(/ steady /);
    peer.sides[0]!.notice({ lastSeq: 99 });
    await client.line(/ shutdown-notice /);
    const { code, counts } = await stop(client);
    assert.deepEqual([code, counts], [0, { graceful: 0, failed: 0, unfinished: 1 }]);
  });

  for (
    const [title, end, symptom] of [["a cut", fin, "CUT_WITHOUT_NOTICE"], [
      "no farewell",
      closeWith(1001),
      "NO_NOTICE",
    ]] as const
  ) {
    it(`judges ${title} just before the run ends, though the move is still open`, async (t) => {
      const { peer, client } = await play(t, ["--backoff-base=60000", "--backoff-cap=60000"], (side) => side.live());
      await client.line(/ steady /);
      await end(peer.sides[0]!);
      await client.line(/ session-closed /);
      const { code, handover } = await stop(client);
      assertSays(handover, { verdict: "failed", symptom, to: null });
      assert.deepEqual([code, handover.rules.moved], [1, "n/a"]);
    });
  }

  it("does not pass a run that never had all its sessions, and says why", async (t) => {
    let accepted = 0;
    const peer = await startPeer(t, (ws) => ws.send("hello"), true);
    const refuse = (_info: unknown, answer: (accept: boolean, status?: number) => void) =>
      ++accepted <= 3 ? answer(true) : answer(false, 503);
    peer.wss.options.verifyClient = refuse;
    const client = startOn(t, [peer], "--sessions=5", "--timeout=1500ms");
    const { code, summary, sessions } = await endOf(client);
    assert.equal(code, 1);
    assert.match(summary, /^FAIL {2}only 3 of 5 sessions ever connected: 503 ×\d+$/);
    assertSays(sessions, { wanted: 5, had: 3 });
  });

  it("goes on at --handovers 1 until the other that is in flight has been judged", async (t) => {
    const { peer, client } = await play(t, ["--sessions=2", "--handovers=1"], (side) => side.live());
    await client.line(/ steady /);
    const [first, second] = peer.sides as [Side, Side];
    second.notice({ lastSeq: second.sent + 50 });
    await client.line(/ shutdown-notice /);
    await first.drain();
    await client.line(/ handover /);
    second.ws.terminate();
    const { counts } = await endOf(client);
    assert.deepEqual(counts, { graceful: 1, failed: 1, unfinished: 0 });
  });

  it("counts what the server lost of ours among the lost messages", async (t) => {
    const { messages } = await handOver(
      t,
      [],
      (side) => side.hears(3).then(() => side.drain({ close: { received: 0 } })),
    );
    assert.ok(messages.lost! >= 3, `${messages.lost} lost`);
  });

  it("stops after --handovers 3", async (t) => {
    const { client } = await play(t, ["--handovers=3"], drainAtOnce(3));
    const { code, counts, summary } = await endOf(client);
    assert.deepEqual([code, counts], [0, { graceful: 3, failed: 0, unfinished: 0 }]);
    assert.match(summary, /^PASS {2}3 handovers, 0 messages lost, reconnect p99 \S+$/);
  });

  for (
    const [asked, timeoutMs, code, summary] of [
      [2, 500, 1, /^FAIL {2}0 of 2 handovers happened within \d+ms$/],
      [0, 1000, 0, /^PASS {2}0 handovers, 0 messages lost$/],
    ] as const
  ) {
    it(`exits ${code} at --timeout ${timeoutMs} with ${asked} handovers asked for and none seen`, async (t) => {
      const { client } = await play(t, [`--handovers=${asked}`, `--timeout=${timeoutMs}ms`], live);
      const result = await endOf(client);
      assert.equal(result.code, code);
      assert.match(result.summary, summary);
      assertBetween(result.durationMs, timeoutMs - 1, timeoutMs + 450, "durationMs");
    });
  }

  it("heeds a signal that comes before it has dialled", async (t) => {
    const client = startText(t, {}, ...urls(await startPeer(t, () => {})));
    await client.line(/ started /);
    client.child.kill("SIGTERM");
    assert.notEqual((await client.exited).code, null);
  });

  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    it(`on ${signal} closes its sessions with 1000, reports and exits 0`, async (t) => {
      const { peer, client } = await play(t, ["--sessions=3"], live);
      await client.line(/ steady /);
      client.child.kill(signal);
      assertSays(await endOf(client), { code: 0, verdict: "PASS", handovers: [] });
      assert.deepEqual(await Promise.all(peer.sides.map(({ gone }) => gone)), [1000, 1000, 1000]);
    });
  }

  it(
    "closes with 1000 a session that has said nothing yet, before it says why it ends",
    { timeout: 60_000 },
    async (t) => {
      let session: WebSocket | undefined;
      const peer = await startPeer(t, (ws) => (session = ws).pause(), true); // not even a pong comes
      const client = startText(t, {}, ...urls(peer));
      await client.line(/ session-opened /);
      client.child.kill("SIGTERM");
      await client.line(/ stopping /);
      const gone = once(session!, "close").then(([code]) => code);
      session!.resume();
      assert.equal(await gone, 1000);
      await client.exited;
      assert.ok(!client.lines.slice(0, -1).some((line) => line.startsWith("Never connected")), client.lines.join("\n"));
    },
  );

  /** A client that is stopping, on SIGTERM or by a flag, with a server that never answers its close. */
  async function startStopping(t: TestContext, ...flags: string[]) {
    const { peer, client } = await play(t, flags, live);
    await client.line(/ steady /);
    peer.sides[0]!.ws.pause();
    if (flags.length === 0) client.child.kill("SIGTERM");
    await client.line(/ stopping /);
    return { client, from: performance.now() };
  }

  it("waits 3 s for a server that never answers its close, and reports", async (t) => {
    const { client, from } = await startStopping(t);
    assertSays(await endOf(client), { code: 0, verdict: "PASS" });
    assertBetween((await client.exited).at - from, 2800, 4500, "ms from the signal to the exit");
  });

  it("exits 1 at once on a second signal", async (t) => {
    const { client, from } = await startStopping(t);
    client.child.kill("SIGINT");
    const { code, at } = await client.exited;
    assertBetween(at - from, 0, 1000, "ms from the second signal to the exit");
    assert.deepEqual([code, client.stdout()], [1, ""]);
  });

  it("takes the first signal for the first one while it stops at --timeout", async (t) => {
    const { client } = await startStopping(t, "--timeout=1000");
    client.child.kill("SIGTERM");
    assertSays(await endOf(client), { code: 0, verdict: "PASS" });
  });

  // ---- The plain dialect

  it("judges a move between two servers of the original program", async (t) => {
    const servers = await Promise.all([startOriginal(t), startOriginal(t, "Business data: 15:04:05", false)]);
    const flags = ["--expect=notice,farewell,clean,moved", "--expect-code=1005", "--handovers=1"];
    const { verdict, handover } = await endOf(startOn(t, servers, ...flags));
    assert.equal(verdict, "PASS");
    const said = {
      code: 1005,
      received: 5,
      remaining: { announced: null, received: 1, intervalMs: null },
      how: "fin",
    } as const;
    assertSays(handover, { from: servers[0]!.url, to: servers[1]!.url, ...said });
    assert.deepEqual(Object.values(handover.rules), ["pass", "n/a", "pass", "pass", "pass"]);
  });

  it("by default calls the original program's close WRONG_CLOSE_CODE", async (t) => {
    const servers = await Promise.all([startOriginal(t), startOriginal(t, "Business data: 15:04:05", false)]);
    const { symptoms } = await startOn(t, servers, "--handovers=1").result;
    assert.deepEqual(Object.keys(symptoms), ["WRONG_CLOSE_CODE"]);
  });

  it("with --dialect v1 never connects to a plain server", async (t) => {
    const client = startText(t, {}, ...urls(await startOriginal(t)), "--dialect=v1", "--timeout=500ms");
    assert.equal((await client.exited).code, 2);
    assert.match(client.lines.at(-1)!, /^Never connected to .*: other ×\d+$/);
  });

  it("keeps a silent plain server that answers pings, sent thrice per --silence-timeout", async (t) => {
    let pings = 0;
    const plain = await startPeer(t, (ws) => ws.on("ping", () => plain.wss.emit("ping", ++pings)), true);
    const client = startClient(t, ...urls(plain), "--silence-timeout=300");
    await until(plain.wss, "ping", () => pings >= 12);
    const { handovers, durationMs } = await stop(client);
    assert.deepEqual(handovers, []);
    assertBetween(durationMs, 1090, 2500, "durationMs");
  });

  for (const silenceMs of [300, 900]) {
    it(`calls a plain server that answers no ping any more dead after ${silenceMs} ms`, async (t) => {
      const fallsSilent = (ws: WebSocket) => ws.once("ping", () => ws.pause());
      const plain = await startPeer(t, (ws, _socket, index) => index > 0 || fallsSilent(ws), true);
      const flags = [`--silence-timeout=${silenceMs}`, "--expect=notice", "--handovers=1"];
      const { handover } = await endOf(startOn(t, [plain], ...flags));
      assertSays(handover, { symptom: "STALLED", ...SILENCE });
      assertBetween(handover.silenceMs, silenceMs, silenceMs + 700, "silenceMs");
    });
  }

  it("does not call a plain server dead that has never answered a ping", async (t) => {
    const plain = await startPeer(t, (ws) => {
      ws.pause(); // it reads nothing, so it answers nothing
      ws.send("hello");
      setTimeout(() => {
        ws.resume();
        ws.close(1001);
      }, 2000);
    }, true);
    const client = startOn(t, [plain], "--silence-timeout=300", "--handovers=1");
    const { handover, verdict } = await endOf(client);
    assert.deepEqual([verdict, handover.code], ["PASS", 1001]);
    assertBetween(handover.endedMs! - handover.openedMs!, 1500, 5000, "ms of its life");
  });

  it("calls a plain server dead whose messages had a pace, although a proxy still answers pings for it", async (t) => {
    const plain = await startPeer(t, (ws, _socket, index) => {
      let said = 0;
      const tick = setInterval(() => index === 0 && ++said > 8 ? clearInterval(tick) : ws.send("tick"), 300);
      ws.on("close", () => clearInterval(tick));
    }, true);
    const { handover } = await endOf(startOn(t, [plain], "--silence-timeout=500", "--handovers=1"));
    assertSays(handover, { symptom: "STALLED", ...SILENCE });
    assert.ok(handover.received >= 8, `${handover.received} messages`);
  });

  it("takes a server that selects whatever is offered for a plain one, once its first message is no HELLO", async (t) => {
    const server = await startPeer(t, (ws, _socket, index) => {
      const tick = setInterval(() => ws.send("tick"), 40);
      ws.on("close", () => clearInterval(tick));
      if (index === 0) setTimeout(() => ws.close(1001), 500);
    });
    const client = startOn(t, [server], "--handovers=1");
    await client.line(/ session-opened .*, plain/);
    const { verdict, handover } = await endOf(client);
    assert.deepEqual([verdict, handover.dialect, handover.from], ["PASS", "plain", server.url]);
  });

  it("takes it for a plain one after a second of silence as well, and no sooner", async (t) => {
    let pingedMs = 0;
    const server = await startPeer(t, (ws, _socket, index) => {
      if (index > 0) return;
      const connectedAt = performance.now();
      ws.once("ping", () => {
        pingedMs = performance.now() - connectedAt;
        ws.close(1001);
      });
    });
    const { verdict, handover } = await endOf(startOn(t, [server], "--handovers=1"));
    assert.equal(handover.dialect, "plain");
    assertBetween(pingedMs, 900, 10_000, "from the upgrade to the first ping");
    assert.equal(verdict, "PASS");
  });

  it("dials a server without an offer that refuses the offer itself", async (t) => {
    const offers: (string | undefined)[] = [];
    const server = await startPeer(t, (ws) => ws.send("hello"), true);
    const [listener] = server.wss.listeners("connection");
    assert.ok(listener);
    const { options } = server.wss;
    options.verifyClient = ({ req }, done) => {
      const offer = req.headers["sec-websocket-protocol"];
      offers.push(offer);
      done(offer === undefined, 400);
    };
    const client = startOn(t, [server]);
    await client.line(/ session-opened .*, plain/);
    const { failedDials } = await stop(client);
    assert.deepEqual([offers, failedDials], [["graceful-shutdown.v1", undefined], { "400": 1 }]);
  });

  for (
    const [code, flags, verdict] of [
      [1012, [], "PASS"],
      [1012, ["--expect-code=1001"], "FAIL"],
      [1011, [], "FAIL"],
    ] as const
  ) {
    it(`calls ${code} of a plain server ${verdict} with ${flags.join() || "the default"}`, async (t) => {
      const plain = await startPeer(t, (ws, _socket, index) => {
        ws.send("hello");
        if (index === 0) ws.once("ping", () => ws.close(code));
      }, true);
      const { verdict: found } = await startOn(t, [plain], "--handovers=1", ...flags).result;
      assert.equal(found, verdict);
    });
  }

  it("takes messages of up to --max-message from a plain server, and leaves one that says more with 1009", async (t) => {
    const codes: number[] = [];
    const sends = (bytes: number) =>
      startPeer(t, (ws) => {
        ws.send("x".repeat(bytes));
        ws.on("close", (code) => codes.push(code) && plain.wss.emit("gone"));
      }, true);
    let plain = await sends(1_000_000);
    const client = startOn(t, [plain]);
    await client.line(/ steady /);
    assert.equal((await stop(client)).messages.received, 1);
    plain = await sends(5000);
    const strict = startOn(t, [plain], "--max-message=4000");
    await strict.line(/ invalid-frame .*Max payload size exceeded/);
    await until(plain.wss, "gone", () => codes.includes(1009));
    strict.child.kill("SIGTERM");
    assert.equal((await strict.exited).code, 2); // it never had a session that lived
  });

  it("sends a plain server no ping with --ping-interval 0, and one every 100 ms with 100ms", async (t) => {
    let pings = 0;
    const plain = await startPeer(t, (ws) => {
      ws.on("ping", () => plain.wss.emit("ping", ++pings));
      ws.send("hello");
    }, true);
    const quiet = startOn(t, [plain], "--ping-interval=0", "--silence-timeout=300", "--timeout=1500ms");
    assert.deepEqual([(await quiet.result).handovers, pings], [[], 0]);
    const client = startOn(t, [plain], "--ping-interval=100ms");
    await until(plain.wss, "ping", () => pings >= 10);
    assertBetween((await stop(client)).durationMs, 900, 10_000, "durationMs");
  });

  it("brings back the cookies of its slot beside its own, as a browser does, and a probe brings none of them", async (t) => {
    const brought: (string | undefined)[] = [];
    const probes: (string | undefined)[] = [];
    const plain = await startPeer(t, (ws) => ws.send("hello"), true);
    plain.wss.on("headers", (headers) => {
      headers.push(`Set-Cookie: srv=${brought.length}; Path=/; HttpOnly`, "Set-Cookie: seen=yes");
    });
    plain.wss.on("connection", (ws, { headers }) => {
      const isProbe = headers[PROBE_HEADER] !== undefined;
      (isProbe ? probes : brought).push(headers.cookie);
      if (!isProbe && brought.length === 1) ws.once("ping", () => ws.close(1001));
    });
    await startOn(t, [plain], "--handovers=1", "--probe-interval=50ms", "--header=Cookie: own=1").result;
    assert.deepEqual(brought.slice(0, 2), ["own=1", "own=1; srv=0; seen=yes"]);
    assert.ok(probes.length > 0 && probes.every((cookie) => cookie === "own=1"), probes.join());
  });

  /** An application that wants a greeting and a heartbeat, numbers its messages, and on `shutDown` ends as `end` says. */
  async function startShop(t: TestContext, name: string, end: string[], heard: string[] = []) {
    const shutDown: (() => void)[] = [];
    const server = await startPeer(t, (ws) => {
      let next = 40;
      ws.send("who?");
      ws.on("message", (data, isBinary) => {
        const text = isBinary ? `binary ${(data as Buffer).toString("hex")}` : String(data);
        heard.push(text);
        if (text === "token 7") ws.send(`welcome to ${name}`);
        if (text !== "binary 0102") return;
        ws.send(`tick ${++next}`);
        ws.send("are you there 5?");
      });
      shutDown.push(() => {
        for (const text of end) ws.send(text.replace("N", () => String(++next)).replace("M", () => String(next += 2)));
        ws.close(4000, "restarting");
      });
    }, true);
    return { ...server, shutDown: () => shutDown.forEach((one) => one()) };
  }

  const SHOP = {
    ready: "^welcome",
    replies: { "^are you there (\\d)": "yes $1" },
    heartbeat: "hex:0102@50ms",
    notice: "^closing",
    farewell: "^closed$",
    sequence: "^tick (\\d+)$",
    server: "^welcome to (\\S+)",
    codes: [4000],
  };
  for (
    const [what, end, symptom, code] of [
      ["keeps its promises", ["closing", "tick N", "closed"], undefined, 0],
      ["loses a message", ["closing", "tick M", "closed"], "DATA_LOST", 1],
      ["says nothing beforehand", ["tick N", "closed"], "NO_NOTICE", 1],
      ["says no farewell", ["closing", "tick N"], "NO_FAREWELL", 1],
    ] as const
  ) {
    it(`judges an application that ${what} by all five rules, in its own words`, async (t) => {
      const folder = mkdtempSync(join(tmpdir(), "client-test-"));
      t.after(() => rmSync(folder, { recursive: true }));
      const [file, secret] = [join(folder, "shop.json"), join(folder, "token")];
      writeFileSync(file, JSON.stringify(SHOP));
      writeFileSync(secret, "token 7\n");
      const heard: string[] = [];
      const shops = [await startShop(t, "shop-1", [...end], heard), await startShop(t, "shop-2", [])];
      const client = startOn(t, shops, `--dialect=${file}`, `--say=@${secret}`, "--handovers=1");
      await client.line(/ session-opened +slot 1 on shop-1, shop\.json/);
      while (!heard.includes("yes 5")) await pause(5);
      shops[0]!.shutDown();
      const { handover, ...result } = await endOf(client);
      assert.deepEqual([result.code, handover.symptom ?? undefined], [code, symptom]);
      assert.deepEqual([handover.from, handover.to, handover.dialect], ["shop-1", "shop-2", "shop.json"]);
      assert.deepEqual(result.expected, { "shop.json": ["notice", "complete", "farewell", "clean", "moved"] });
      assert.equal(result.messages.lost, symptom === "DATA_LOST" ? 1 : 0);
      assert.equal(handover.rules.clean, "pass");
      assert.equal(heard[0], "token 7");
      assert.doesNotMatch(JSON.stringify(result) + client.lines.join(), /token 7/);
    });
  }

  it("counts a session from the ready message on, and says where none came", async (t) => {
    const silent = await startPeer(t, (ws) => ws.send("not yet"), true);
    const client = startText(t, {}, ...urls(silent), "--ready=^go$", "--connect-timeout=200ms", "--timeout=2s");
    assert.equal((await client.exited).code, 2);
    assert.match(client.lines.join("\n"), /dial-failed .*: not ready within 200ms/);
    assert.match(client.lines.at(-1)!, /^Never connected to .*: timeout ×\d+$/);
  });

  it("says SAME_SERVER where a header tells who answers", async (t) => {
    const shop = await startPeer(t, (ws) => setTimeout(() => ws.close(1001), 1100), true);
    shop.wss.on("headers", (headers) => headers.push("X-Pod: shop-1"));
    const { handover, code } = await endOf(startOn(t, [shop], "--server-name=header:X-Pod", "--handovers=1"));
    assert.deepEqual([code, handover.from, handover.symptom], [1, "shop-1", "SAME_SERVER"]);
  });

  it("reads an application that compresses", async (t) => {
    const server = new WebSocketServer({ port: 0, perMessageDeflate: { threshold: 0 } });
    t.after(() => server.close());
    server.on("connection", (ws) => ws.send(`bye ${"x".repeat(5000)}`));
    await once(server, "listening");
    const url = `ws://127.0.0.1:${(server.address() as { port: number }).port}/`;
    const client = startOn(t, [{ url }], "--notice=^bye x+$");
    await client.line(/ shutdown-notice /);
    for (const ws of server.clients) ws.terminate();
    await stop(client);
  });

  it("reads what was compressed to its end, although FIN has come by then", async (t) => {
    const server = new WebSocketServer({ port: 0, perMessageDeflate: true });
    t.after(() => {
      server.close();
      for (const ws of server.clients) ws.terminate();
    });
    const farewell = deflateRawSync(`bye ${"x".repeat(1_000_000)}`, { finishFlush: constants.Z_SYNC_FLUSH });
    const bytes = farewell.subarray(0, -4); // RFC 7692, section 7.2.1
    const lastWords = Buffer.concat([
      Buffer.from([0xc1, 126, bytes.length >> 8, bytes.length & 0xff]),
      bytes,
      Buffer.from([0x88, 2, 0x03, 0xe9]),
    ]);
    server.on("connection", (ws, { socket }) => {
      ws.send("hello");
      setTimeout(() => socket.end(lastWords), 1100);
    });
    await once(server, "listening");
    const url = `ws://127.0.0.1:${(server.address() as { port: number }).port}/`;
    const { handover } = await endOf(startOn(t, [{ url }], "--farewell=^bye x+$", "--handovers=1"));
    assert.deepEqual([handover.rules.farewell, handover.code], ["pass", 1001]);
  });

  it("waits no longer for the FIN because the close frame came behind a compressed message", async (t) => {
    const server = new WebSocketServer({ port: 0, perMessageDeflate: true });
    t.after(() => {
      server.close();
      for (const ws of server.clients) ws.terminate();
    });
    const bytes = deflateRawSync("bye ".repeat(100_000), { finishFlush: constants.Z_SYNC_FLUSH }).subarray(0, -4);
    const header = Buffer.from([0xc1, 126, bytes.length >> 8, bytes.length & 0xff]);
    server.on("connection", (ws, { socket }) => {
      ws.send("hello");
      const end = socket.end.bind(socket);
      socket.end = () => socket; // ws would end the connection at the client's answer
      setTimeout(() => {
        socket.write(Buffer.concat([header, bytes, Buffer.from("880203e9", "hex")]));
        setTimeout(end, 6000);
      }, 1100);
    });
    await once(server, "listening");
    const url = `ws://127.0.0.1:${(server.address() as { port: number }).port}/`;
    const { handover } = await endOf(startOn(t, [{ url }], "--handovers=1"));
    assert.deepEqual([handover.symptom, handover.code, handover.how], ["NO_FIN", 1001, "silence"]);
  });

  it("says of a close frame with a code that nobody may send which one it is", async (t) => {
    const server = await startPeer(t, (ws, socket) => {
      ws.send("hello");
      setTimeout(() => socket.end(Buffer.from([0x88, 2, 0x03, 0xed])), 1100); // 1005, as Deno's abort sends it
    }, true);
    const { handover, code } = await endOf(startOn(t, [server], "--handovers=1"));
    assert.deepEqual([code, handover.symptom, handover.code], [1, "WRONG_CLOSE_CODE", 1005]);
  });

  it("does not count as delay what it waits for HELLO itself", async (t) => {
    let sessions = 0;
    const silent = await startPeer(t, (ws) => void (sessions++ === 0 && setTimeout(() => ws.close(1001), 1500)));
    const { handover, code } = await endOf(startOn(t, [silent], "--handovers=1", "--max-reconnect=500ms"));
    assert.deepEqual([code, handover.dialect, handover.symptom], [0, "plain", null]);
    assertBetween(handover.reconnectMs, 0, 900, "reconnectMs");
  });

  it("goes on where a graceful code comes at the same age each time, and says so", async (t) => {
    const server = await startPeer(t, (ws) => {
      ws.send("hello");
      setTimeout(() => ws.close(1001), 1500);
    }, true);
    const { code, findings, counts } = await endOf(startOn(t, [server], "--handovers=4"));
    assert.deepEqual([code, counts.failed], [0, 0]);
    const same = findings.find(({ name }) => name === "SAME_AGE");
    if (same !== undefined) assert.match(same.text, /ended 3 sessions in a row with 1001, after 1\.\d+s each/);
  });

  it("says TURNED_AWAY of a graceful end where the evidence shows that no pod was ending", async (t) => {
    const server = await startPeer(t, (ws) => {
      ws.send("hello");
      setTimeout(() => ws.close(1001), 1500);
    }, true);
    const folder = mkdtempSync(join(tmpdir(), "client-test-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const object = {
      metadata: { name: "shop-1", uid: "1", resourceVersion: "" },
      spec: { containers: [{ name: "app" }] },
      status: { containerStatuses: [{ name: "app", restartCount: 0, state: { running: {} } }] },
    };
    writeFileSync(join(folder, "evidence"), JSON.stringify({ stream: "pods", list: { items: [object] } }));
    const evidence = ["--disrupt=watch", `--evidence=${join(folder, "evidence")}`];
    const begun = performance.now();
    const { handovers, counts, code, findings } = await endOf(startOn(t, [server], "--handovers=1", ...evidence));
    // The evidence of one is awaited, and not that of all which follow.
    assert.ok(performance.now() - begun < 50_000);
    assert.deepEqual([code, handovers[0]!.symptom, handovers[0]!.rules.clean], [1, "TURNED_AWAY", "fail"]);
    const away = handovers.filter(({ symptom }) => symptom === "TURNED_AWAY").length;
    const graceful = handovers.filter(({ verdict }) => verdict === "graceful").length;
    assert.deepEqual([counts.graceful, counts.failed], [graceful, away]);
    const { text } = findings.find(({ name }) => name === "TURNED_AWAY")!;
    assert.match(text, /ended a session by itself with 1001 after [12]\.\d+s: nothing was being shut down/);
  });

  it("brings --header and --subprotocol, and keeps a header's value to itself", async (t) => {
    const folder = mkdtempSync(join(tmpdir(), "client-test-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const secret = join(folder, "secret");
    writeFileSync(secret, "Bearer s3cr3t\n");
    const seen: Record<string, string | string[] | undefined>[] = [];
    const server = await startPeer(t, (ws) => ws.send("hello"));
    server.wss.options.handleProtocols = (names) => [...names].at(-1)!;
    server.wss.on("connection", (_ws, { headers }) => seen.push(headers));
    const headers = [
      `--header=Authorization: @${secret}`,
      "--header=Origin: https://shop.example",
      "--header=X-List: a, b",
    ];
    const client = startOn(t, [server], ...headers, "--subprotocol=chat", "--subprotocol=chat.v2");
    await client.line(/ session-opened .*, plain/);
    const result = await stop(client);
    const { authorization, origin, "x-list": list, "sec-websocket-protocol": offer } = seen[0]!;
    assert.deepEqual([authorization, origin, list, offer], [
      "Bearer s3cr3t",
      "https://shop.example",
      "a, b",
      "chat,chat.v2",
    ]);
    assert.doesNotMatch(JSON.stringify(result) + client.lines.join(), /s3cr3t/);
  });

  it("says that it was turned away by a server that ends every session at the same age, and exits 2", async (t) => {
    const plain = await startPeer(t, (ws) => {
      ws.send("0{}");
      setTimeout(() => ws.close(4408, "Connection initialisation timeout"), 1200);
    }, true);
    const client = startText(t, {}, "--admin-port=0", "--backoff-base=1", ...urls(plain));
    assert.equal((await client.exited).code, 2);
    const told = client.lines.at(-1)!;
    assert.match(
      told,
      /ends every session by itself with 4408 Connection initialisation timeout, after [12]\.\d+s each/,
    );
    assert.match(told, /it wants a greeting: --dialect, or --say$/);
  });

  it("says so as well where some sessions in between are turned away at once", async (t) => {
    const plain = await startPeer(t, (ws, _socket, index) => {
      ws.send("hello");
      setTimeout(() => ws.close(4408, "Connection initialisation timeout"), index % 2 === 0 ? 1200 : 0);
    }, true);
    const client = startText(t, {}, "--admin-port=0", "--backoff-base=1", ...urls(plain));
    assert.equal((await client.exited).code, 2);
    assert.match(client.lines.at(-1)!, /ends every session by itself with 4408 .*, after [12]\.\d+s each.*--say$/);
  });

  it("says so as well where a reset is behind the close frame, and goes on where its code is graceful", async (t) => {
    const resetting = (code: number) =>
      startPeer(t, (ws, socket) => {
        ws.send("hello");
        setTimeout(() => {
          ws.close(code);
          socket.prependOnceListener("data", () => socket.resetAndDestroy()); // before ws answers with a FIN
        }, 1200);
      }, true);
    const client = startText(t, {}, "--admin-port=0", "--backoff-base=1", ...urls(await resetting(4999)));
    assert.equal((await client.exited).code, 2);
    assert.match(client.lines.at(-1)!, /ends every session by itself with 4999, after [12]\.\d+s each/);
    const { code, symptoms } = await endOf(startOn(t, [await resetting(1001)], "--handovers=3"));
    assert.deepEqual([code, Object.keys(symptoms)], [1, ["RESET_AFTER_CLOSE"]]);
  });

  it("does not take it for turned away where ages differ, or codes", async (t) => {
    let lives = 0;
    const plain = await startPeer(t, (ws) => {
      ws.send("hello");
      setTimeout(() => ws.close(4000), 1050 + 600 * lives++);
    }, true);
    const client = startOn(t, [plain], "--handovers=3");
    const { code, symptoms } = await endOf(client);
    assert.deepEqual([code, symptoms.WRONG_CLOSE_CODE?.count], [1, 3]);
  });

  it("accepts binary messages of a plain server", async (t) => {
    const server = await startOriginal(t, Buffer.from([0, 255, 1]));
    const { verdict, handover } = await endOf(startOn(t, [server], "--expect-code=1005", "--handovers=1"));
    assert.deepEqual([verdict, handover.received], ["PASS", 5]);
  });

  // ---- Probes

  it("counts probes by what became of them, and never fails for them", async (t) => {
    const flags = ["--log-format=json", "--interval=100", "--remaining=8", "--remaining-interval=100"];
    const server = start(t, [process.execPath, "dist/server.js", "--port=0", "--admin-port=0", ...flags]);
    const url = `ws://127.0.0.1:${/"port":(\d+)/.exec(await server.line(/"listening"/))![1]}/ws`;
    const client = startOn(t, [{ url }], "--probe-interval=50", "--max-reconnect=60000");
    await client.line(/ steady /);
    server.child.kill("SIGTERM");
    await client.line(/ probe-failed .*ECONNREFUSED/);
    const { probes, findings, ...result } = await stop(client);
    assertSays(result, { verdict: "PASS", counts: { graceful: 0, failed: 0, unfinished: 1 } });
    const { opened, probes: asked } = JSON.parse(await server.line(/drain-complete/)).labels;
    assert.deepEqual([opened, asked], [1, probes.ok]);
    assertBetween(probes["503"], 2, 20, "probes that got 503");
    assertBetween(probes.refused, 1, 50, "refused probes");
    assertBetween(probes.timeout + probes.other, 0, 1, "other probes"); // one can meet the very end of the listener
    assertBetween(probes.lastOnEndingMs, 500 - result.witness.maxLateMs, 1500, "lastOnEndingMs");
    assert.deepEqual(findings.map(({ name }) => name), ["ENDPOINT_RACE"]);
  });

  for (const [title, found] of [["one URL finds", ["ENDPOINT_RACE"]], ["two URLs does not find", []]] as const) {
    it(`with ${title} the endpoint race in a probe that reaches the ending server`, async (t) => {
      let reachedMs = NaN; // after SHUTDOWN, the third probe
      const peer = await startScript(t, (side) => {
        const end = async () => {
          const toldAt = performance.now();
          await peer.probed(peer.probes.length + 3);
          reachedMs = performance.now() - toldAt;
          side.ws.close(1001);
        };
        return endFirst(() => side.drain({ end }))(side);
      });
      const others = found.length > 0 ? [] : [await startScript(t, live, "other")];
      const client = startOn(t, [peer, ...others], "--handovers=1", "--probe-interval=100");
      const { verdict, probes, findings, witness } = await client.result;
      assert.equal(verdict, "PASS");
      // Two intervals at least, unless the client probed late, or read late of the end.
      assertBetween(probes.lastOnEndingMs, Math.min(150, reachedMs) - witness.maxLateMs, 2700, "lastOnEndingMs");
      assert.deepEqual(findings.map(({ name }) => name), found);
      assert.equal(peer.sides.length + (others[0]?.sides.length ?? 0), 2);
      assert.deepEqual(await Promise.all(peer.probes.slice(0, 3).map(({ gone }) => gone)), [1000, 1000, 1000]);
    });
  }

  // ---- The admin port

  it("is ready once every slot is connected, and reports at any time", async (t) => {
    let admit = () => {};
    const admitted = new Promise<void>((resolve) => admit = resolve);
    const { client } = await play(t, ["--sessions=2", "--dialect=v1", "--connect-timeout=60s"], async (side) => {
      if (side.index === 1) await admitted;
      side.live();
    });
    const admin = await client.admin();
    const status = async (path: string, method = "GET") => (await fetch(admin + path, { method })).status;
    await client.line(/ session-opened /);
    assert.deepEqual([await status("/healthz"), await status("/readyz")], [200, 503]);
    admit();
    await client.line(/ steady /);
    assert.deepEqual([await status("/healthz"), await status("/readyz")], [200, 200]);
    const report = await (await fetch(`${admin}/report`)).json() as Result;
    const { wanted, connected, byServer } = report.sessions;
    assert.deepEqual([report.verdict, wanted, connected, Object.values(byServer)], ["PASS", 2, 2, [1, 1]]);
    assert.deepEqual([await status("/nonsense"), await status("/report", "POST")], [404, 405]);
  });

  it("is not ready while one slot holds two sessions and another none", async (t) => {
    const { peer, client } = await play(t, ["--sessions=2", "--reconnect=early"], async (side) => {
      if (side.index === 3) return; // never says HELLO
      side.live();
      if (side.index === 2) return peer.sides[1]!.ws.terminate();
      await client.line(/ steady /);
      if (side.index === 0) side.notice({ lastSeq: 99 });
    });
    await peer.session(3);
    const answer = await fetch(`${await client.admin()}/readyz`);
    assert.deepEqual([answer.status, await answer.text()], [503, "1 of 2 sessions connected, 2 handovers in flight\n"]);
  });

  // ---- Output

  /** A client that sees one graceful handover, and writes its report into a file. */
  async function startReporting(t: TestContext) {
    const folder = mkdtempSync(join(tmpdir(), "client-test-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const file = join(folder, "x.json");
    const { client } = await play(t, ["--handovers=1", `--report=${file}`], endFirst((side) => side.drain()));
    return { client, file };
  }

  it("with --json prints one object, the same that --report writes", async (t) => {
    const { client, file } = await startReporting(t);
    assert.equal((await client.result).version, VERSION);
    assert.match(client.stdout(), /^\{.*\}\n$/);
    assert.equal(readFileSync(file, "utf8"), client.stdout());
  });

  /** A client with one graceful handover whose report cannot be written. */
  async function reportInVain(t: TestContext, file: string) {
    const peer = await startScript(t, endFirst((side) => side.drain()));
    const client = startText(t, {}, ...urls(peer), "--handovers=1", `--report=${file}`);
    const { code } = await client.exited;
    assert.equal(code, 2);
    assert.equal(client.lines.filter((line) => /^Cannot write \S+: ENOSPC/.test(line)).length, 1);
    const lines = client.stdout().trimEnd().split("\n");
    assert.match(lines.at(-1)!, /^PASS {2}1 handover/);
    assert.match(lines.at(-3)!, /^REPORT_NOT_WRITTEN {2}Cannot write \S+: ENOSPC/);
  }

  it("says above its verdict that a report could not be written, and exits 2", async (t) => {
    const folder = mkdtempSync(join(tmpdir(), "client-test-"));
    t.after(() => rmSync(folder, { recursive: true }));
    symlinkSync("/dev/full", join(folder, "x.json"));
    await reportInVain(t, join(folder, "x.json"));
    assert.ok(lstatSync(join(folder, "x.json")).isSymbolicLink());
  });

  it("leaves no half report on a disk that is full, and keeps the one before", async (t) => {
    const folder = mkdtempSync(join(tmpdir(), "client-test-"));
    const mounted = spawnSync("mount", ["-t", "tmpfs", "-o", "size=8k", "tmpfs", folder]).status === 0;
    t.after(() => {
      if (mounted) spawnSync("umount", ["-l", folder]);
      rmSync(folder, { recursive: true, force: true });
    });
    if (!mounted) return t.skip("a small disk cannot be mounted here");
    writeFileSync(join(folder, "x.html"), "the one before");
    await reportInVain(t, join(folder, "x.html")); // the page alone is larger than the disk
    assert.deepEqual(readdirSync(folder), ["x.html"]);
    assert.equal(readFileSync(join(folder, "x.html"), "utf8"), "the one before");
  });

  it("writes --report and keeps its exit code where nobody reads stdout", async (t) => {
    const { client, file } = await startReporting(t);
    client.child.stdout!.destroy();
    assert.equal((await client.exited).code, 0, client.lines.join("\n"));
    assert.equal(JSON.parse(readFileSync(file, "utf8")).verdict, "PASS");
  });

  it("says how many sessions were connected when it stopped", async (t) => {
    const { client } = await startReporting(t);
    const { wanted, connected, byServer } = (await client.result).sessions;
    assert.deepEqual([wanted, connected, Object.values(byServer)], [1, 1, [1]]);
  });

  it("as text ends with the verdict, after the numbers, each rule and the fix", async (t) => {
    const peer = await startScript(t, endFirst((side) => side.drain({ lastSeq: 4, seqs: [2, 4] })));
    const client = startText(t, {}, ...urls(peer), "--handovers=1");
    assert.equal((await client.exited).code, 1);
    const lines = client.stdout().split("\n");
    assert.deepEqual(lines.slice(-2), ["FAIL  1 of 1 handover: DATA_LOST ×1 (peer-0)", ""]);
    for (const pattern of [/^Handovers +0 graceful, 1 failed$/, /^ {2}complete +FAIL .*lost .*3$/, /^ {2}Fix: ./]) {
      assert.ok(lines.some((line) => pattern.test(line)), `no ${pattern} in ${client.stdout()}`);
    }
  });

  it("with LOG_FORMAT=json writes lines that parse, the verdict last", async (t) => {
    const peer = await startScript(t, endFirst((side) => side.drain()));
    const client = startText(t, { LOG_FORMAT: "json" }, ...urls(peer), "--handovers=1");
    assert.equal((await client.exited).code, 0);
    const lines = client.lines.map((line) => JSON.parse(line));
    const actions = lines.map((line) => line["event.action"]);
    assert.deepEqual([actions.at(-1), lines.at(-1).labels.verdict], ["verdict", "PASS"]);
    for (const action of ["started", "session-opened", "shutdown-notice", "session-closed", "handover", "stopping"]) {
      assert.ok(actions.includes(action), `no ${action} in ${actions}`);
    }
    for (const line of lines) assert.ok(Date.parse(line["@timestamp"]) > 0 && line["ecs.version"] && line.message);
  });

  it("tells of a crowd in counts", async (t) => {
    const { client } = await play(t, ["--sessions=60", "--handovers=60", "--log-format=json"], (side) => {
      side.live();
      return side.index < 60 && side.hears(1).then(() => side.ws.terminate());
    });
    await client.result;
    const totals: Record<string, number> = {};
    const others: string[] = [];
    for (const { "event.action": action, labels } of client.lines.map((line) => JSON.parse(line))) {
      if (action !== "progress") others.push(action);
      else for (const [key, number] of Object.entries(labels)) totals[key] = (totals[key] ?? 0) + Number(number);
    }
    assert.deepEqual([totals["session-opened"], totals["handover"]], [120, 60]);
    assert.deepEqual(others.filter((action) => action !== "steady"), ["started", "stopping", "verdict"]);
  });

  for (const [title, flags] of [["as text", []], ["as JSON", ["--json", "--log-format=json"]]] as const) {
    it(`${title} lets no control character of a server's name out, and no line of its own making`, async (t) => {
      const evil = "\x1b[31mred\x07\r\nPASS  forged\u009b2J";
      const peer = await startScript(t, endFirst(closeWith(1012, evil)), evil);
      const client = startText(t, {}, ...urls(peer), "--handovers=1", ...flags);
      await client.exited;
      for (const text of [client.stdout(), client.lines.join("\n")]) {
        assert.match(text, /red.*PASS {2}forged/s);
        assert.doesNotMatch(text, /^PASS/m);
        // deno-lint-ignore no-control-regex
        assert.doesNotMatch(text, /[\x00-\x09\x0b-\x1f\x7f-\x9f]/);
      }
    });
  }

  for (const [title, word] of [["one word", "x"], ["many words", "x "]] as const) {
    it(`shortens a server's name of 10 KB in ${title} where people read it`, async (t) => {
      const peer = await startScript(t, endFirst(closeWith(1012)), word.repeat(10_000 / word.length));
      const client = startText(t, {}, ...urls(peer), "--handovers=1");
      await client.exited;
      const lines = [...client.stdout().split("\n"), ...client.lines];
      assert.ok(lines.some((line) => line.includes(word.repeat(3))));
      assert.deepEqual(lines.map((line) => line.length).filter((length) => length > 1000), []);
    });
  }

  // ---- Settings

  for (const [flags, complaint, env] of REFUSED) {
    it(`refuses ${env ? Object.entries(env).join() : flags} with one line and exit 2`, async (t) => {
      const { code, stdout, stderr } = await run(t, [process.execPath, "dist/client.js", ...flags], env);
      assert.deepEqual([code, stdout, stderr.split("\n").length], [2, "", 1], stderr);
      assert.match(stderr, complaint);
    });
  }

  it("says which of its own limits keep it from having all sessions, and does not pass", async (t) => {
    const peer = await startPeer(t, (ws) => ws.send("hello"), true);
    const command = `ulimit -n 200; exec ${process.execPath} dist/client.js --admin-port=0 --json --sessions=40 ` +
      `--timeout=4s --dialect=plain --url=${peer.url}`;
    // What else it has open takes what its sessions would need.
    const hog = 'exec 10</dev/null; for fd in $(seq 11 180); do eval "exec $fd</dev/null"; done; ';
    const program = start(t, ["bash", "-c", hog + command]);
    const { code } = await program.exited;
    const { summary, sessions, findings, failedDials } = JSON.parse(program.stdout()) as Result;
    assert.equal(code, 1);
    assert.match(summary, /^FAIL {2}only \d+ of 40 sessions ever connected: descriptors ×\d+$/);
    assert.ok(sessions.had > 0 && sessions.had < 40, `${sessions.had} of 40`);
    assert.deepEqual([findings.map(({ name }) => name), Object.keys(failedDials)], [["WITNESS_LIMIT"], [
      "descriptors",
    ]]);
    assert.equal(
      program.lines.filter((line) => /this client could open no more files, ulimit -n is 200$/.test(line)).length,
      1,
    );
  });

  it("survives whatever a server says, closes it with words, and goes on with the others", {
    timeout: 400_000 + HOSTILE_FRAMES * 20,
  }, async (t) => {
    const random = seeded(7);
    let said = 0;
    const codes = new Set<number>();
    const hostile = await startScript(t, (side) => {
      side.gone.then((code) => codes.add(code));
      side.hello();
      for (let nth = 0; nth < 20 && side.ws.readyState === side.ws.OPEN; nth++, said++) {
        const message = hostileFrame(random);
        if (!Array.isArray(message)) side.say(message);
        else message.forEach((part, index) => side.ws.send(part, { fin: index === message.length - 1 }));
      }
      hostile.wss.emit("said");
    }, "hostile");
    const good = await startScript(t, live, "good");
    const flags = ["--interval=50", "--backoff-base=1", "--backoff-cap=20", "--sessions=1", "--admin-port=0"];
    const victims = start(t, [process.execPath, "dist/client.js", ...flags, "--sessions=10", ...urls(hostile)]);
    await until(hostile.wss, "said", () => said >= HOSTILE_FRAMES, 300_000 + HOSTILE_FRAMES * 20);
    victims.child.kill("SIGTERM");
    assert.ok([0, 1, 2].includes((await victims.exited).code!));
    assert.doesNotMatch(victims.lines.join("\n"), /^ {4}at |RangeError|TypeError/m);
    assert.deepEqual([...codes].filter((code) => ![1000, 1002, 1003, 1005, 1006, 1007, 1009].includes(code)), []);
    assert.ok(codes.has(1003) && codes.has(1007), [...codes].join());
    // With another server to go to, it leaves this one at its first word of nonsense.
    const client = startOn(t, [hostile, good]);
    await good.session(0);
    await good.sides[0]!.hears(2);
    assert.equal((await stop(client)).sessions.had, 1);
  });

  it("goes on producing when a session that it has left for its nonsense ends after the next has begun", async (t) => {
    const left: Socket[] = [];
    const hostile = await startPeer(t, (ws, socket) => {
      ws.send(encode({ type: "HELLO", server: "hostile", instance: "a", session: "a", intervalMs: 50 }));
      ws.send("nonsense");
      left.push(socket.pause());
    });
    const good = await startScript(t, live, "good");
    const client = startOn(t, [hostile, good]);
    await (await good.session(0)).hears(1);
    const closed = client.line(/ session-closed .*hostile/);
    left.forEach((socket) => socket.resume());
    await closed;
    const heard = good.sides[0]!.seqs.length;
    await good.sides[0]!.hears(heard + 2);
    await stop(client);
  });

  it("takes what a cluster would tell from --evidence, says what it cannot read, and names the cause by it", async (t) => {
    const server = await startScript(t, endFirst(fin), "pod-a");
    const flags = [
      "--admin-port=0",
      "--json",
      ...QUICK,
      ...urls(server),
      "--disrupt=watch",
      "--evidence=-",
      "--handovers=1",
    ];
    const client = start(t, [process.execPath, "dist/client.js", ...flags], {}, "pipe");
    const pod = (containerStatus: object) => ({
      metadata: { name: "pod-a-0", uid: "1", resourceVersion: "" },
      spec: { containers: [{ name: "app" }] },
      status: { containerStatuses: [{ name: "app", restartCount: 0, ...containerStatus }] },
    });
    const tell = (line: object | string) =>
      client.child.stdin!.write(`${typeof line === "string" ? line : JSON.stringify(line)}\n`);
    tell({ stream: "pods", list: { items: [pod({ state: { running: {} } })] } });
    tell("no JSON");
    tell({ stream: "pods", type: "MODIFIED" });
    await client.line(/ watch-lost .*evidence: /);
    await client.line(/ session-closed /);
    const terminated = { exitCode: 139, reason: "Error", containerID: "1" };
    tell({ stream: "pods", type: "MODIFIED", object: pod({ state: { terminated } }) });
    const { code } = await client.exited;
    const { handovers: [handover], pods } = JSON.parse(client.stdout()) as Result;
    assert.deepEqual([code, handover!.pod, handover!.cause], [1, "pod-a-0", "CRASHED"]);
    const moments = pods.map(({ name, moments }) => [name, moments.map(({ text }) => text)]);
    assert.deepEqual(moments, [["pod-a-0", ["exit 139 (Error)"]]]);
  });

  it("shows no secret of a URL anywhere, in any form of its result", async (t) => {
    const folder = mkdtempSync(join(tmpdir(), "client-test-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const plain = await startPeer(t, (ws) => ws.send("hello"), true);
    const secret = (url: string) => `${url}?access_token=s3cr3t&x=s3cr3t`;
    const files = ["x.json", "x.html", "x.xml", "x.md"].map((name) => join(folder, name));
    const dead = deadUrl();
    const client = startText(
      t,
      {},
      ...urls({ url: secret(plain.url) }, { url: secret(dead) }),
      "--max-reconnect=5s",
      "--dialect=plain",
      "--handovers=1",
      "--log-format=json",
      ...files.map((file) => `--report=${file}`),
    );
    await client.line(/session-opened/);
    const admin = `http://127.0.0.1:${/"adminPort":(\d+)/.exec(await client.line(/"started"/))![1]}`;
    const shown = await Promise.all(
      ["/report", "/metrics", "/readyz"].map(async (path) => await (await fetch(admin + path)).text()),
    );
    for (const ws of plain.wss.clients) ws.close(1001);
    await client.exited;
    const texts = [
      ...shown,
      client.stdout(),
      client.lines.join("\n"),
      ...files.map((file) => readFileSync(file, "utf8")),
    ];
    assert.deepEqual(texts.map((text) => text.includes("s3cr3t")), texts.map(() => false));
    assert.match(client.lines.join("\n"), /access_token=…/);
  });

  it("shows its report to names of this machine only, and to those that --allow-host names", async (t) => {
    const peer = await startPeer(t, () => {});
    const client = startOn(t, [peer], "--allow-host=drill.example");
    const { port } = new URL(await client.admin());
    const ask = async (path: string, host: string) => {
      const socket = connectTcp({ port: Number(port), host: "127.0.0.1" });
      socket.write(`GET ${path} HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
      return Number(String((await once(socket, "data"))[0]).split(" ")[1]);
    };
    for (const path of ["/", "/report", "/events"]) {
      const answers = await Promise.all(
        ["evil.example", "localhost", "drill.example:80"].map((host) => ask(path, host)),
      );
      assert.deepEqual(answers, [403, 200, 200], path);
    }
    assert.equal(await ask("/healthz", "evil.example"), 200);
  });

  it("refuses an admin port in use with one line and exit 2", async (t) => {
    const port = /:(\d+)\/ws/.exec((await startPeer(t, () => {})).url)![1];
    const { code, stdout, stderr } = await run(t, [process.execPath, "dist/client.js", `--admin-port=${port}`]);
    assert.deepEqual([code, stdout], [2, ""]);
    assert.match(stderr, new RegExp(`^Cannot listen on port ${port}: .*EADDRINUSE.*$`));
  });

  it("takes URLs separated by commas from SERVER_URL, unless --url says otherwise", async (t) => {
    const peer = await startScript(t, live);
    const env = { SERVER_URL: `${deadUrl()}, ${peer.url}` };
    for (const [flags, failedDials] of [[[], { refused: 1 }], [urls(peer), {}]] as const) {
      const client = startText(t, env, "--json", ...flags);
      await client.line(/ steady /);
      client.child.kill("SIGTERM");
      assert.equal((await client.exited).code, 0);
      assert.deepEqual(JSON.parse(client.stdout()).failedDials, failedDials);
    }
  });

  it("explains every setting with --help, and says its --version", async (t) => {
    const help = await run(t, [process.execPath, "dist/client.js", "--help"]);
    assert.equal(help.code, 0);
    for (const { flag, env } of Object.values(SETTINGS)) {
      assert.match(help.stdout, new RegExp(`^ {2}--${flag} +${env} `, "m"));
    }
    const { code, stdout, stderr } = await run(t, [process.execPath, "dist/client.js", "--version"]);
    assert.deepEqual([code, stdout, stderr], [0, `${VERSION}\n`, ""]);
  });

  it("prints no stack where nobody reads its --help", async (t) => {
    const client = startText(t, {}, "--help");
    client.child.stdout!.destroy();
    assert.equal((await client.exited).code, 0, client.lines.join("\n"));
    assert.deepEqual(client.lines, []);
  });
});
