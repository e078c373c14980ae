// test/client.test.ts
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import { EventEmitter, once as once2 } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process2 from "node:process";
import { describe, it } from "node:test";
import { setTimeout as pause } from "node:timers/promises";

// protocol.ts
import kleur from "kleur";
import mri from "mri";

// package.json
var package_default = {
  name: "k8s-graceful-shutdown-test",
  version: "1.0.0",
  description: "Tells an operator, with a verdict and numbers, whether long-lived connections survive the end of a pod",
  license: "MIT",
  private: true,
  type: "module",
  engines: {
    node: ">=20"
  },
  scripts: {
    build: "node build.mjs",
    test: "node build.mjs --tests && node --test --test-reporter=spec dist/test/",
    rehearse: "node build.mjs && node rehearse.mjs",
    bench: "node build.mjs && node test/bench.mjs"
  },
  dependencies: {
    kleur: "4.1.5",
    mri: "1.2.0",
    ws: "8.23.0"
  },
  devDependencies: {
    "@types/node": "26.6.6",
    "@types/ws": "8.18.2",
    esbuild: "0.28.2",
    "kubernetes-types": "1.30.0",
    typescript: "7.0.2",
    yaml: "2.9.1"
  }
};

// protocol.ts
var SUBPROTOCOL = "graceful-shutdown.v1";
var MAX_MESSAGE_BYTES = 64 * 1024;
var MAX_PAYLOAD_BYTES = 6e4;
var PROBE_HEADER = "graceful-shutdown-probe";
var isCount = (value) => Number.isSafeInteger(value) && value >= 0;
var isText = (value) => typeof value === "string";
var ISO_8601 = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d)$/;
var COUNT = [isCount, "must be an integer from 0 on"];
var POSITIVE = [(value) => isCount(value) && value !== 0, "must be a positive integer"];
var TEXT = [isText, "must be a string"];
var NAME = [(value) => isText(value) && value !== "", "must be a non-empty string"];
var PADDING = [(value) => value === void 0 || isText(value), "must be a string, where there is one"];
var TIME = [(value) => isText(value) && ISO_8601.test(value), "must be an ISO 8601 time with milliseconds"];
var SHAPES = {
  HELLO: { server: NAME, instance: NAME, session: NAME, intervalMs: POSITIVE },
  DATA: { seq: POSITIVE, at: TIME, ack: COUNT, payload: PADDING },
  SHUTDOWN: { at: TIME, reason: TEXT, remaining: COUNT, lastSeq: COUNT, intervalMs: COUNT, budgetMs: COUNT },
  ACK: { lastSeq: COUNT },
  CLOSE: { at: TIME, sent: COUNT, received: COUNT }
};
function encode(frame) {
  return JSON.stringify(frame);
}
function decode(text) {
  let value;
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
  const shape = SHAPES[type];
  for (const field in shape) {
    const [holds, rule] = shape[field];
    if (holds(value[field])) continue;
    throw new SyntaxError(
      `Cannot decode ${type} frame: '${field}' ${rule}: current value is ${excerpt(value[field])}`
    );
  }
  return value;
}
function excerpt(value) {
  const text = JSON.stringify(value) ?? "undefined";
  return text.length > 40 ? `${text.slice(0, 40)}\u2026` : text;
}
var RULES = ["notice", "complete", "farewell", "clean", "moved"];
var symptom = (name, rules, when) => [name, rules, when];
var SYMPTOMS = [
  symptom("STALLED", ["notice", "farewell", "clean"], isStalled),
  symptom("CUT_WITHOUT_NOTICE", ["notice", "farewell", "clean"], ({ abrupt, ended }) => abrupt && ended.noticeAt === void 0),
  symptom("NO_NOTICE", ["notice"], () => true),
  symptom("CUT_DURING_DRAIN", ["farewell", "clean"], ({ abrupt }) => abrupt),
  symptom("DATA_LOST", ["complete"], ({ lost }) => lost.length > 0),
  symptom("DATA_DUPLICATED", ["complete"], ({ ended }) => ended.duplicated.length > 0),
  symptom("DATA_REORDERED", ["complete"], () => true),
  symptom("UPSTREAM_LOST", ["farewell"], ({ upstreamLost }) => upstreamLost > 0),
  // Without a close frame it is NO_CLOSE_FRAME, unless nobody asked for one.
  symptom("NO_FAREWELL", ["farewell"], ({ ended }, failed) => ended.closeCode !== void 0 || !failed.includes("clean")),
  symptom("NO_CLOSE_FRAME", ["clean"], ({ ended }) => ended.closeCode === void 0),
  symptom("RESET_AFTER_CLOSE", ["clean"], ({ ended }) => ended.how !== "fin"),
  symptom("WRONG_CLOSE_CODE", ["clean"], () => true),
  symptom("SAME_SERVER", ["moved"], ({ sameServer }) => sameServer),
  symptom("SLOW_RECONNECT", ["moved"], () => true)
];
function isStalled({ ended, abrupt, silentMs }) {
  if (ended.complaint !== void 0) return false;
  const givenUp = ended.how === "silence" && ended.closeCode === void 0;
  return givenUp || abrupt && silentMs > ended.dueMs + 1e3;
}
function setting(env, fallback, parse, meaning) {
  const flag = env.replace(/^SERVER_|_(MS|BYTES)$/g, "").toLowerCase().replaceAll("_", "-");
  return { flag, env, fallback, parse, meaning, many: false };
}
function settingList(env, fallback, parse, meaning) {
  const list = (text) => text === "" ? [] : text.split(",").map((part) => parse(part.trim()));
  return { ...setting(env, fallback, list, meaning), many: true };
}
var MAX_TIMER_MS = 2 ** 31 - 1;
var integer = (least, most) => (text) => {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= least && value <= most) return value;
  throw new RangeError(`must be an integer from ${least} to ${most}`);
};
var PORT = integer(0, 65535);
var milliseconds = (least) => integer(least, MAX_TIMER_MS);
var oneOf = (...names) => (text) => {
  if (names.includes(text)) return text;
  throw new RangeError(`must be one of ${names.join(", ")}`);
};
var LOG_FORMAT = setting("LOG_FORMAT", "pretty", oneOf("pretty", "json"), "log lines for people, or ECS JSON");
var VERSION = package_default.version;

// client.ts
import { accessSync, constants, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import kleur2 from "kleur";
import { WebSocket } from "ws";
var SETTINGS = {
  url: settingList("SERVER_URL", "ws://localhost:8080/ws", serverUrl, "where to connect; repeatable"),
  adminPort: setting("ADMIN_PORT", "9091", PORT, "port for /healthz, /readyz, /report; 0 = any free port"),
  sessions: setting("SESSIONS", "1", integer(1, 1e6), "sessions to hold"),
  intervalMs: setting("INTERVAL_MS", "2000", milliseconds(1), "ms between DATA"),
  dialect: setting("DIALECT", "auto", oneOf("auto", "v1", "plain"), "auto (v1, else plain), v1, or plain"),
  connectTimeoutMs: setting("CONNECT_TIMEOUT_MS", "5000", milliseconds(1), "ms from dial to HELLO"),
  silenceTimeoutMs: setting("SILENCE_TIMEOUT_MS", "10000", milliseconds(1), "ms without DATA: dead"),
  reconnect: setting("RECONNECT", "after-close", oneOf("after-close", "early"), "after-close; early: at SHUTDOWN"),
  backoffBaseMs: setting("BACKOFF_BASE_MS", "100", milliseconds(0), "redial n waits at random up to this \xD7 2\u207F"),
  backoffCapMs: setting("BACKOFF_CAP_MS", "5000", milliseconds(0), "longest wait before a redial, in ms"),
  maxReconnectMs: setting("MAX_RECONNECT_MS", "5000", milliseconds(0), "ms that a reconnect may be delayed"),
  expect: settingList("EXPECT", "", oneOf(...RULES), "rules that count, by commas; default: all; plain: clean,moved"),
  expectCode: settingList("EXPECT_CODE", "1001", integer(1e3, 4999), "clean close codes; 1005: a frame without one"),
  handovers: setting("HANDOVERS", "0", integer(0, 1e9), "stop when so many were judged; 0 = never"),
  timeoutMs: setting("TIMEOUT_MS", "0", milliseconds(0), "stop after so many ms; 0 = never"),
  probeIntervalMs: setting("PROBE_INTERVAL_MS", "0", milliseconds(0), "ms between fresh connections; 0 = none"),
  payloadBytes: setting("PAYLOAD_BYTES", "0", integer(0, MAX_PAYLOAD_BYTES), "bytes of padding in each DATA"),
  report: settingList("REPORT", "", reportFile, "write the result to this file (.json); repeatable"),
  logFormat: LOG_FORMAT
};
var MAX_BUFFER_BYTES = 2 ** 20;
function serverUrl(text) {
  if (URL.canParse(text) && /^wss?:\/\/[^#]+$/i.test(text)) return text;
  throw new RangeError("must be a ws:// or wss:// URL without a fragment");
}
function reportFile(text) {
  if (!text.endsWith(".json")) throw new RangeError("must end in .json");
  try {
    accessSync(dirname(text), constants.W_OK);
  } catch {
    throw new RangeError("must be in a folder that can be written to");
  }
  return text;
}
if (false) run(main);

// test/helper.ts
import { spawn } from "node:child_process";
import { once } from "node:events";
import { connect as connectTcp, createServer as createTcpServer } from "node:net";
import process from "node:process";
import { WebSocket as WebSocket2, WebSocketServer } from "ws";
function start(t, command, env = {}) {
  const [program, ...args] = command;
  const { PATH, HOME } = process.env;
  const child = spawn(program, args, { env: { PATH, HOME, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  t.after(() => child.kill("SIGKILL"));
  const lines = [];
  const waiting = /* @__PURE__ */ new Set();
  let stdout = "";
  let rest = "";
  child.stdout.setEncoding("utf8").on("data", (text) => stdout += text);
  child.stderr.setEncoding("utf8").on("data", (text) => {
    const parts = (rest + text).split("\n");
    rest = parts.pop();
    lines.push(...parts);
    for (const check of waiting) check();
  });
  let at = 0;
  child.once("exit", () => at = performance.now());
  const exited = once(child, "close").then(([code, signal]) => {
    if (rest !== "") lines.push(rest);
    return { code, signal, at };
  });
  const line = (pattern) => new Promise((resolve, reject) => {
    const check = () => {
      const found = lines.find((text) => pattern.test(text));
      if (found === void 0) return;
      waiting.delete(check);
      resolve(found);
    };
    waiting.add(check);
    check();
    exited.then(() => reject(new Error(`${command.join(" ")} ended without ${pattern}:
${lines.join("\n")}`)));
  });
  return { child, lines, stdout: () => stdout, line, exited };
}
async function run2(t, command, env = {}) {
  const program = start(t, command, env);
  const { code, signal } = await program.exited;
  return { code, signal, stdout: program.stdout(), stderr: program.lines.join("\n") };
}
async function startServer(t, ...flags) {
  const program = start(t, [
    process.execPath,
    "dist/server.js",
    "--port=0",
    "--admin-port=0",
    "--name=server-1",
    ...flags
  ]);
  const listening = await program.line(/ listening /);
  const [, port, adminPort] = /:(\d+)\/ws, admin port (\d+)/.exec(listening);
  return {
    ...program,
    port: Number(port),
    url: `ws://127.0.0.1:${port}/ws`,
    admin: `http://127.0.0.1:${adminPort}`
  };
}
function startClient(t, ...flags) {
  const program = start(t, [process.execPath, "dist/client.js", "--admin-port=0", "--json", ...flags]);
  const result = program.exited.then(({ code }) => {
    if (code === 2) throw new Error(`the client could not run: ${program.lines.join("\n")}`);
    return JSON.parse(program.stdout());
  });
  result.catch(() => {
  });
  const admin = async () => `http://127.0.0.1:${/admin port (\d+)/.exec(await program.line(/admin port/))[1]}`;
  return { ...program, result, admin };
}
async function connect(t, url, { protocol = SUBPROTOCOL, ...options } = {}) {
  const ws = new WebSocket2(url, protocol === "" ? [] : [protocol], { perMessageDeflate: false, ...options });
  t.after(() => ws.terminate());
  const texts = [];
  const arrivals = [];
  const waiting = /* @__PURE__ */ new Set();
  const closed = once(ws, "close").then(([code, reason]) => ({
    code,
    reason: String(reason),
    at: performance.now()
  }));
  ws.on("message", (data2) => {
    texts.push(String(data2));
    arrivals.push(performance.now());
    for (const check of waiting) check();
  });
  closed.then(() => waiting.forEach((check) => check()));
  let socket;
  ws.on("upgrade", (response) => socket = response.socket);
  await once(ws, "open");
  const text = (passes, from = 0) => new Promise((resolve, reject) => {
    const check = () => {
      const found = texts.slice(from).find(passes);
      if (found === void 0 && ws.readyState !== WebSocket2.CLOSED) return;
      waiting.delete(check);
      if (found === void 0) {
        reject(new Error(`closed without the awaited message; there were:
${texts.join("\n")}`));
      } else resolve(found);
    };
    waiting.add(check);
    check();
  });
  const frame = async (type, passes = () => true) => {
    const isIt = (text2) => {
      const frame2 = decode(text2);
      return frame2.type === type && passes(frame2);
    };
    return decode(await text(isIt));
  };
  return {
    ws,
    socket,
    texts,
    arrivals,
    frames: () => texts.map(decode),
    send: (frame2) => ws.send(typeof frame2 === "string" ? frame2 : encode(frame2)),
    text,
    frame,
    closed
  };
}
function data(seq, ack = 0) {
  return { type: "DATA", seq, at: (/* @__PURE__ */ new Date()).toISOString(), ack };
}
async function startPeer(t, onSession, plain = false) {
  const wss = new WebSocketServer({
    port: 0,
    perMessageDeflate: false,
    handleProtocols: () => plain ? false : SUBPROTOCOL
  });
  t.after(() => {
    wss.close();
    for (const ws of wss.clients) ws.terminate();
  });
  let index = 0;
  wss.on("connection", (ws, request) => onSession(ws, request.socket, index++));
  await once(wss, "listening");
  return { wss, url: `ws://127.0.0.1:${wss.address().port}/ws` };
}
async function startNetwork(t, port) {
  let swallowing = false;
  const sockets = /* @__PURE__ */ new Set();
  const proxy = createTcpServer({ allowHalfOpen: true }, (near) => {
    const far = connectTcp({ port, host: "127.0.0.1", allowHalfOpen: true });
    for (const [from, to] of [[near, far], [far, near]]) {
      sockets.add(from);
      from.on("data", (bytes) => swallowing || to.write(bytes));
      from.on("end", () => swallowing || to.end());
      from.on("error", () => swallowing || to.destroy());
      from.on("close", () => sockets.delete(from));
    }
  });
  t.after(() => {
    proxy.close();
    for (const socket of sockets) socket.destroy();
  });
  proxy.listen(0, "127.0.0.1");
  await once(proxy, "listening");
  return {
    url: `ws://127.0.0.1:${proxy.address().port}/ws`,
    swallow: () => swallowing = true
  };
}
async function deadUrl() {
  const server = createTcpServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  await once(server, "close");
  return `ws://127.0.0.1:${port}/ws`;
}

// test/client.test.ts
var Side = class {
  ws;
  socket;
  name;
  index;
  frames = [];
  /** The close code that came from the client, once the connection is gone. */
  gone;
  sent = 0;
  #news = new EventEmitter();
  #regular;
  constructor(ws, socket, name, index) {
    [this.ws, this.socket, this.name, this.index] = [ws, socket, name, index];
    ws.on("message", (text) => {
      this.frames.push(JSON.parse(String(text)));
      this.#news.emit("news");
    });
    this.gone = once2(ws, "close").then(([code]) => code);
    ws.on("close", () => clearInterval(this.#regular));
  }
  all(type) {
    return this.frames.filter((frame) => frame.type === type);
  }
  get seqs() {
    return this.all("DATA").map(({ seq }) => seq);
  }
  get acks() {
    return this.all("DATA").map(({ ack }) => ack);
  }
  get received() {
    return this.seqs.reduce((most, seq) => Math.max(most, seq), 0);
  }
  until(holds) {
    return until(this.#news, "news", holds);
  }
  /** Waits until so many DATA have come. */
  hears(number) {
    return this.until(() => this.seqs.length >= number);
  }
  say(frame) {
    this.ws.send(typeof frame === "string" || Buffer.isBuffer(frame) ? frame : encode(frame));
  }
  hello(fields = {}) {
    const server = `${this.name}-${this.index}`;
    this.say({ type: "HELLO", server, instance: server, session: server, intervalMs: 100, ...fields });
  }
  data(fields = {}) {
    const frame = { ...data(this.sent + 1, this.received), ...fields };
    this.sent = Math.max(this.sent, frame.seq);
    this.say(frame);
    this.#news.emit("news");
  }
  open(fields) {
    this.hello();
    this.data(fields);
  }
  regularly(fields) {
    this.#regular = setInterval(() => this.data(fields), 50);
  }
  live(fields) {
    this.open(fields);
    this.regularly(fields);
  }
  notice({ lastSeq = this.sent + 2, intervalMs = 50 } = {}) {
    clearInterval(this.#regular);
    const remaining = lastSeq - this.sent;
    const at = (/* @__PURE__ */ new Date()).toISOString();
    this.say({ type: "SHUTDOWN", at, reason: "test", remaining, lastSeq, intervalMs, budgetMs: 5e3 });
  }
  async drain(drain = {}) {
    const { lastSeq = this.sent + 2, seqs, everyMs = 0, close = {}, end = closeWith(1001) } = drain;
    const due = seqs ?? rising(this.sent + 1, lastSeq - this.sent);
    this.notice(drain);
    for (const seq of due) {
      if (everyMs > 0) await pause(everyMs);
      this.data({ seq });
    }
    await this.until(() => this.received >= (this.all("ACK")[0]?.lastSeq ?? Infinity));
    const at = (/* @__PURE__ */ new Date()).toISOString();
    if (close) this.say({ type: "CLOSE", at, sent: lastSeq, received: this.received, ...close });
    await end(this);
  }
};
var rising = (from, length) => Array.from({ length }, (_, nth) => from + nth);
var closeWith = (code, reason) => ({ ws }) => ws.close(code, reason);
var fin = ({ socket }) => socket.end();
var reset = ({ socket }) => socket.resetAndDestroy();
var live = (side) => side.live();
var resetAfterClose = (side) => {
  side.ws.close(1001);
  side.socket.prependOnceListener("data", () => reset(side));
};
var drainAtOnce = (number) => async (side) => {
  side.open();
  await side.hears(1);
  if (side.index < number) await side.drain();
};
var endFirst = (script) => async (side) => {
  if (side.index > 0) return side.live();
  side.open();
  await side.hears(1);
  await script(side);
};
async function startScript(t, script, name = "peer") {
  const sides = [];
  const probes = [];
  const { wss, url } = await startPeer(t, () => {
  });
  wss.on("connection", (ws, request) => {
    const isProbe = request.headers[PROBE_HEADER] !== void 0;
    const side = new Side(ws, request.socket, name, isProbe ? sides.length - 1 : sides.length);
    (isProbe ? probes : sides).push(side);
    if (isProbe) return side.hello();
    Promise.all([script(side)].flat()).catch(() => {
    });
  });
  const session = (index) => until(wss, "connection", () => sides.length > index).then(() => sides[index]);
  const probed = (number) => until(wss, "connection", () => probes.length >= number);
  return { wss, url, sides, probes, session, probed };
}
var QUICK = ["--interval=50", "--backoff-base=1", "--timeout=15000"];
var urls = (...peers) => peers.map(({ url }) => `--url=${url}`);
var startOn = (t, peers, ...flags) => startClient(t, ...QUICK, ...urls(...peers), ...flags);
async function endOf(client) {
  const result = await client.result;
  const { code } = await client.exited;
  return { ...result, code, handover: result.handovers[0] };
}
async function stop(client) {
  client.child.kill("SIGTERM");
  return await endOf(client);
}
async function play(t, flags, script) {
  const peer = await startScript(t, script);
  return { peer, client: startOn(t, [peer], ...flags) };
}
async function handOver(t, flags, script) {
  const { peer: { sides }, client } = await play(t, ["--handovers=1", ...flags], endFirst(script));
  const result = await endOf(client);
  for (const { ws } of sides) ws.resume();
  await Promise.all(sides.map(({ gone }) => gone));
  return { ...result, sides, lines: client.lines };
}
var startText = (t, env, ...flags) => start(t, [process2.execPath, "dist/client.js", "--admin-port=0", ...QUICK, ...flags], env);
async function startTcp(t, onSocket) {
  const sockets = [];
  const server = createServer((socket) => {
    sockets.push(socket.on("error", () => {
    }));
    onSocket(socket);
  });
  server.listen(0, "127.0.0.1");
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  await once2(server, "listening");
  return `ws://127.0.0.1:${server.address().port}/ws`;
}
var answerWith = (status) => (t) => startTcp(t, (socket) => {
  socket.once("data", () => socket.end(`HTTP/1.1 ${status}\r
Content-Length: 0\r
Connection: close\r
\r
`));
});
async function startOriginal(t, message = "Business data: 15:04:05") {
  return await startPeer(t, (ws, _socket, index) => {
    let sent = 0;
    const timer = setInterval(() => {
      ws.send(message);
      if (++sent < 4 || index > 0) return;
      clearInterval(timer);
      for (const text of ["SHUTDOWN", "Final data: 15:04:05 - 1 \u2713 <b>\0\x1B[2J", "CLOSE"]) ws.send(text);
      ws.close();
    }, 50);
    ws.on("close", () => clearInterval(timer));
  }, true);
}
async function until(emitter, event, holds) {
  const signal = AbortSignal.timeout(1e4);
  while (!holds()) {
    await once2(emitter, event, { signal }).catch(() => {
      throw new Error(`waited in vain for ${holds}`);
    });
  }
}
function assertBetween(value, least, most, what) {
  assert.ok(value != null && value >= least && value <= most, `${what} is ${value}, not in ${least}-${most}`);
}
function assertSays(actual, says) {
  assert.deepEqual(actual, { ...actual, ...says });
}
var SILENCE = { code: null, how: "silence" };
var ENDINGS = [
  ["a drain", {}, null],
  ["a FIN without a close frame", fin, "CUT_WITHOUT_NOTICE", { code: null }],
  ["a reset", reset, "CUT_WITHOUT_NOTICE", { code: null, how: "reset" }],
  ["silence", () => {
  }, "STALLED", SILENCE, ["--silence-timeout=400"]],
  ["silence amid the drain", { end: () => pause(9999), close: false }, "STALLED", SILENCE, ["--silence-timeout=400"]],
  ["a drain at the pace it announces", { everyMs: 700, intervalMs: 500 }, null, {}, ["--silence-timeout=300"]],
  ["a close frame out of the blue", closeWith(1001), "NO_NOTICE"],
  ["a FIN amid the drain", { close: false, end: fin }, "CUT_DURING_DRAIN", { code: null }],
  ["no CLOSE", { close: false }, "NO_FAREWELL"],
  ["CLOSE with `sent` too low", { close: { sent: 2 } }, "NO_FAREWELL"],
  ["CLOSE with `sent` too high", { close: { sent: 4 } }, "NO_FAREWELL"],
  ["CLOSE with `received` too high", { close: { received: 99 } }, "NO_FAREWELL"],
  ["CLOSE with `received` too low", { close: { received: 0 } }, "UPSTREAM_LOST", { upstreamLost: 1 }],
  ["DATA after CLOSE", { end: (side) => [side.data(), side.ws.close(1001)] }, "NO_FAREWELL"],
  ["no close frame", { end: fin }, "NO_CLOSE_FRAME", { code: null }],
  ["close code 1005", { end: closeWith() }, "WRONG_CLOSE_CODE", { code: 1005 }],
  ["close code 1012", { end: closeWith(1012) }, "WRONG_CLOSE_CODE", { code: 1012 }],
  ["an expected close code", { end: closeWith(1012) }, null, { code: 1012 }, ["--expect-code=1001,1012"]],
  ["lost DATA", { lastSeq: 8, seqs: [2, 5, 6, 8] }, "DATA_LOST", { lost: [[3, 4], [7, 7]] }],
  ["the last DATA lost", { seqs: [2] }, "DATA_LOST", { lost: [[3, 3]] }],
  ["DATA twice", { lastSeq: 4, seqs: [2, 3, 2, 3, 4] }, "DATA_DUPLICATED", { duplicated: [[2, 3]] }],
  ["DATA late", { lastSeq: 5, seqs: [4, 2, 3, 5] }, "DATA_REORDERED", { reordered: [[2, 3]] }],
  ["a reset after the close frame", { end: resetAfterClose }, "RESET_AFTER_CLOSE", { how: "reset" }]
];
var NONSENSE = [
  ["a binary message", (side) => side.say(Buffer.from("{}")), 1003, /Cannot accept a binary message/],
  ["what is not JSON", (side) => side.say("{"), 1007, /must be JSON: current value is "\{"/],
  ["an unknown type", (side) => side.say('{"type":"BYE"}'), 1007, /'type' must be one of HELLO.* value is "BYE"/],
  ["JSON null", (side) => side.say("null"), 1007, /'type' must be one of HELLO/],
  ["a wrong field", (side) => side.data({ ack: -1 }), 1007, /DATA frame: 'ack' must be .* value is -1/],
  ["an ACK", (side) => side.say({ type: "ACK", lastSeq: 1 }), 1007, /Cannot accept ACK frame/],
  ["a second HELLO", (side) => side.hello(), 1007, /Cannot accept HELLO frame: it came after HELLO/],
  ["a second SHUTDOWN", (side) => [side.notice(), side.notice()], 1007, /SHUTDOWN frame: it came after SHUTDOWN/],
  ["more than 64 KiB", (side) => side.data({ payload: "x".repeat(65536) }), 1009, /Max payload size exceeded/],
  ["thousands of gaps", (side) => rising(2, 3e3).forEach((nth) => side.data({ seq: 2 * nth })), 1007, /100 gaps/],
  ["bytes that are no frame", ({ socket }) => socket.write(Buffer.alloc(20, 255)), 1002, /Invalid WebSocket frame/]
];
var DIALS = [
  ["a port where nobody listens", "refused", deadUrl],
  ["a server that drains", "503", async (t) => {
    const server = await startServer(t);
    await connect(t, server.url);
    server.child.kill("SIGTERM");
    await server.line(/shutdown-signal/);
    return server.url;
  }],
  ["a server that accepts and says nothing", "timeout", (t) => startTcp(t, () => {
  })],
  ["a server that never says HELLO", "timeout", async (t) => (await startPeer(t, () => {
  })).url],
  ["a name that does not exist", "dns", () => "ws://no.such.host.invalid/ws"],
  ["a server that resets", "reset", (t) => startTcp(t, (socket) => socket.resetAndDestroy())],
  ["HTTP 401", "401", answerWith("401 Unauthorized")],
  ["HTTP 404", "other", answerWith("404 Not Found")],
  ["random bytes", "other", (t) => startTcp(t, (socket) => socket.write(randomBytes(1e4)))],
  ["DATA before HELLO", "other", async (t) => (await startScript(t, (side) => side.data())).url]
];
var REFUSED = [
  [["--nonsense"], /^Unknown flag --nonsense/],
  [["nonsense"], /^Unexpected argument 'nonsense'/],
  [["--url=http//x"], /^--url must be a ws:\/\/ or wss:\/\/ URL .*'http\/\/x'$/],
  [["--url"], /^--url needs a value/],
  [[], /^SERVER_URL must be a ws:\/\/ or wss:\/\/ URL .*'nonsense'$/, { SERVER_URL: "nonsense" }],
  [["--expect=typo"], /^--expect must be one of notice, complete, farewell, clean, moved: .*'typo'$/],
  [["--expect-code=99"], /^--expect-code must be an integer from 1000 to 4999: .*'99'$/],
  [["--sessions=0"], /^--sessions must be an integer from 1 .*'0'$/],
  [["--reconnect=never"], /^--reconnect must be one of after-close, early: .*'never'$/],
  [["--report=x.txt"], /^--report must end in .*: current value is 'x.txt'$/],
  [["--report=/no/such/folder/x.json"], /^--report must be in a folder .*'\/no\/such\/folder\/x.json'$/]
];
describe("client", { concurrency: 2, timeout: 12e4 }, () => {
  for (const intervalMs of [100, 400]) {
    it(`sends DATA at once and then every ${intervalMs} ms`, async (t) => {
      const { peer } = await play(t, [`--interval=${intervalMs}`], live);
      const side = await peer.session(0);
      const helloAt = Date.now();
      await side.hears(5);
      const times = side.all("DATA").map(({ at }) => Date.parse(at));
      assert.deepEqual(side.seqs, rising(1, 5));
      assertBetween(times[0] - helloAt, -50, 350, "ms from HELLO to the first");
      assertBetween(times[4] - times[0], 4 * intervalMs - 5, 4 * intervalMs + 600, "ms for four more");
    });
  }
  it("acknowledges the highest seq that it has received", async (t) => {
    const { peer } = await play(t, [], (side2) => side2.open());
    const side = await peer.session(0);
    await side.until(() => side.acks.includes(1));
    for (const seq of [2, 5, 3]) side.data({ seq });
    await side.until(() => side.acks.includes(5));
    await side.hears(side.seqs.length + 2);
    assert.deepEqual(side.acks.slice(-3), [5, 5, 5]);
  });
  it("answers SHUTDOWN with its last seq, and sends no more DATA on that session", async (t) => {
    const drain = { lastSeq: 11, everyMs: 30 };
    const { sides: [side] } = await handOver(t, ["--interval=20"], (side2) => side2.drain(drain));
    assert.deepEqual(side.frames.slice(-1), [{ type: "ACK", lastSeq: side.received }]);
    assert.equal(side.all("ACK").length, 1);
  });
  it("answers a SHUTDOWN that comes together with HELLO", async (t) => {
    const { peer, client } = await play(t, ["--handovers=1"], (side) => {
      if (side.index > 0) return side.live();
      side.socket.cork();
      side.open();
      const drained = side.drain();
      side.socket.uncork();
      return drained;
    });
    assert.equal((await client.result).verdict, "PASS");
    assert.deepEqual(peer.sides[0].frames, [{ type: "ACK", lastSeq: 0 }]);
  });
  it("sends again, first and with its numbers, what killed sessions left unconfirmed", async (t) => {
    const { peer, client } = await play(t, ["--handovers=2"], async (side) => {
      if (side.index === 2) return side.live();
      side.open();
      await side.hears(5);
      if (side.index === 0) side.data({ ack: 2 });
      await side.until(() => side.acks.includes(side.sent));
      side.ws.terminate();
    });
    const { messages, handovers } = await client.result;
    await peer.sides[2].gone;
    const [first, second, third] = peer.sides.map(({ seqs }) => seqs);
    assert.deepEqual(first, rising(1, first.length));
    assert.deepEqual(second, rising(3, second.length));
    assert.deepEqual(third, rising(3, third.length));
    assert.ok(third.length > second.length, `${third} is not more than ${second}`);
    assert.ok(handovers[1].resent >= first.length - 2, `${handovers[1].resent} sent again on the second`);
    assert.ok(messages.resent >= first.length - 2 + second.length, `${messages.resent} sent again in all`);
  });
  it("does not send again what CLOSE confirms", async (t) => {
    const { sides, messages } = await handOver(t, [], (side) => side.hears(3).then(() => side.drain()));
    assert.deepEqual([sides[1].seqs[0], messages.resent], [sides[0].received + 1, 0]);
  });
  it("sends again what CLOSE takes back from an earlier ack", async (t) => {
    const { handover, sides } = await handOver(t, [], async (side) => {
      await side.hears(3);
      side.data({ ack: 3 });
      await side.drain({ close: { received: 1 } });
    });
    const { received } = sides[0];
    assertSays(handover, { symptom: "UPSTREAM_LOST", upstreamLost: received - 1 });
    assert.deepEqual(sides[1].seqs.slice(0, received), rising(2, received));
  });
  it("skips no number, and forgets no message, for an ack of what it never sent", async (t) => {
    const { peer, client } = await play(t, ["--interval=200", "--handovers=2"], async (side) => {
      side.open({ ack: 0 });
      if (side.index === 0) side.data({ ack: 1e6 });
      await side.hears(2);
      if (side.index < 2) side.ws.terminate();
    });
    await endOf(client);
    await peer.sides[2].gone;
    assert.deepEqual(peer.sides.map(({ seqs }) => seqs.slice(0, 2)), [[1, 2], [3, 4], [3, 4]]);
  });
  it("pauses production at 1,000 unconfirmed messages, and goes on with the next ack", async (t) => {
    const { peer } = await play(t, ["--interval=1"], (side2) => side2.live({ ack: 0 }));
    const side = await peer.session(0);
    const ticks = (number, { sent } = side) => side.until(() => side.sent >= sent + number);
    await side.hears(1e3);
    await ticks(10);
    assert.equal(side.seqs.length, 1e3);
    side.data({ ack: 700 });
    await side.hears(1700);
    await ticks(6);
    assert.deepEqual(side.seqs, rising(1, 1700));
  });
  for (const [title, end, symptom2, says, flags = []] of ENDINGS) {
    it(`calls ${title} ${symptom2 ?? "graceful"}`, async (t) => {
      const script = typeof end === "function" ? end : (side) => side.drain(end);
      const { code, verdict, symptoms, handover } = await handOver(t, flags, script);
      const graceful = { from: "peer-0", to: "peer-1", how: "fin", code: 1001, upstreamLost: 0 };
      const inOrder = { lost: [], duplicated: [], reordered: [] };
      assertSays(handover, { ...graceful, ...inOrder, ...says, symptom: symptom2 });
      assert.deepEqual(Object.keys(symptoms), symptom2 === null ? [] : [symptom2]);
      assert.deepEqual([code, verdict], symptom2 === null ? [0, "PASS"] : [1, "FAIL"]);
    });
  }
  it("waits 3 s for the FIN after a close frame, and calls its absence RESET_AFTER_CLOSE", async (t) => {
    const end = ({ ws }) => {
      ws.close(1001);
      ws.pause();
    };
    const { handover } = await handOver(t, [], (side) => side.drain({ end }));
    assertSays(handover, { symptom: "RESET_AFTER_CLOSE", how: "silence", code: 1001 });
    assertBetween(handover.noticeMs - handover.drainMs, 2900, 4500, "ms from CLOSE to the end");
  });
  for (const [title, script, code, complaint] of NONSENSE) {
    it(`leaves a server that sends ${title} with ${code}, and moves on`, async (t) => {
      const { handover, sides, lines } = await handOver(t, [], script);
      assert.equal(await sides[0].gone, code);
      assert.match(handover.complaint, complaint);
      assertSays(handover, { verdict: "failed", to: "peer-1" });
      assert.doesNotMatch(lines.join("\n"), /^ {4}at /m);
    });
  }
  it("does not call a server STALLED that goes on, but never answers our close", async (t) => {
    const { handover } = await handOver(t, [], (side) => {
      side.ws.pause();
      side.say("nonsense");
      side.regularly();
    });
    assert.match(handover.complaint, /must be JSON/);
    assert.equal(handover.symptom, "CUT_WITHOUT_NOTICE");
  });
  it("takes the pace that SHUTDOWN announces for the one that is due", async (t) => {
    const { client } = await play(t, ["--handovers=1", "--silence-timeout=500"], (side) => {
      if (side.index > 0) return side.live();
      side.hello({ intervalMs: 6e4 });
      side.data();
      side.notice({ intervalMs: 50 });
    });
    const { handover } = await endOf(client);
    assertSays(handover, { symptom: "STALLED", ...SILENCE });
    assertBetween(handover.noticeMs, 495, 1500, "ms from SHUTDOWN to the end");
  });
  for (const [silenceMs, intervalMs] of [[500, 100], [1200, 100], [200, 300], [200, 600]]) {
    const deadMs = Math.max(silenceMs, 3 * intervalMs);
    it(`calls a stopped server with ${intervalMs} ms between DATA dead after ${deadMs} ms, and moves`, async (t) => {
      const names = ["--name=stopped", "--name=other"];
      const servers = await Promise.all(names.map((name) => startServer(t, name, `--interval=${intervalMs}`)));
      const client = startOn(t, servers, "--handovers=1", `--silence-timeout=${silenceMs}`);
      await client.line(/ steady /);
      servers[0].child.kill("SIGSTOP");
      const { handover } = await endOf(client);
      assertSays(handover, { symptom: "STALLED", ...SILENCE, from: "stopped", to: "other" });
      assertBetween(handover.silenceMs, deadMs, deadMs + 800, "silenceMs");
    });
  }
  it("calls a server behind a network that swallows everything dead, and moves", async (t) => {
    const names = ["--name=near", "--name=far"];
    const servers = await Promise.all(names.map((name) => startServer(t, name, "--interval=100")));
    const network = await startNetwork(t, servers[0].port);
    const client = startOn(t, [network, servers[1]], "--handovers=1", "--silence-timeout=700");
    await client.line(/ steady /);
    network.swallow();
    const { handover } = await endOf(client);
    assertSays(handover, { symptom: "STALLED", ...SILENCE, from: "near", to: "far" });
    assertBetween(handover.silenceMs, 700, 1500, "silenceMs");
  });
  for (const [what, patience] of [["session", "--silence-timeout=400"], ["dial", "--connect-timeout=400"]]) {
    it(`does not give a healthy ${what} up because it was paused itself`, async (t) => {
      const { peer, client } = await play(t, [patience], (side2) => what === "dial" || side2.live());
      const side = await peer.session(0);
      if (what === "session") await client.line(/ steady /);
      client.child.kill("SIGSTOP");
      if (what === "dial") side.live();
      const { sent } = side;
      await side.until(() => side.sent >= sent + 24);
      client.child.kill("SIGCONT");
      await side.until(() => side.acks.at(-1) >= sent + 24);
      await side.hears(side.seqs.length + 10);
      assertSays(await stop(client), { handovers: [], failedDials: {} });
      assert.equal(peer.sides.length, 1);
    });
  }
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
  for (const [maxMs, symptom2] of [[200, "SLOW_RECONNECT"], [5e3, null]]) {
    it(`calls a forced delay of 600 ms ${symptom2 ?? "graceful"} with --max-reconnect ${maxMs}`, async (t) => {
      const { client } = await play(t, ["--handovers=1", `--max-reconnect=${maxMs}`], async (side) => {
        if (side.index > 0) await pause(600);
        await endFirst(() => side.drain())(side);
      });
      const { handover } = await endOf(client);
      assertSays(handover, { symptom: symptom2, to: "peer-1" });
      assertBetween(handover.forcedMs, 595, 1500, "forcedMs");
      assertBetween(handover.silenceMs, 595, 1500, "silenceMs");
    });
  }
  for (const [maxMs, verdict, symptom2] of [[300, "failed", "SLOW_RECONNECT"], [6e4, "unfinished", null]]) {
    it(`calls a handover to nowhere ${verdict} with --max-reconnect ${maxMs}`, async (t) => {
      const peer = await startScript(t, endFirst((side) => [peer.wss.close(), side.drain()]));
      const peers = [peer, { url: await deadUrl() }];
      const client = startOn(t, peers, "--timeout=1500", `--max-reconnect=${maxMs}`);
      const { code, counts, handover, failedDials } = await endOf(client);
      assertSays(handover, { verdict, symptom: symptom2, to: null, failedDials });
      assert.deepEqual(counts, { graceful: 0, failed: 0, unfinished: 0, [verdict]: 1 });
      assert.deepEqual(failedDials, { refused: failedDials["refused"] });
      assertBetween(failedDials["refused"], 3, 20, "refused dials");
      assert.equal(code, verdict === "failed" ? 1 : 0);
    });
  }
  for (const [title, kind, makeUrl] of DIALS) {
    it(`counts a dial to ${title} as ${kind}, and goes on to the next URL`, async (t) => {
      const [url, peer] = await Promise.all([makeUrl(t), startScript(t, live)]);
      const client = startOn(t, [{ url }, peer], "--connect-timeout=300");
      await client.line(/ steady /);
      assertSays(await stop(client), { failedDials: { [kind]: 1 }, verdict: "PASS" });
    });
  }
  for (const timeoutMs of [400, 900]) {
    it(`gives a dial up after --connect-timeout ${timeoutMs}`, async (t) => {
      const accepted = new EventEmitter();
      const url = await startTcp(t, (socket2) => accepted.emit("socket", socket2.resume(), performance.now()));
      startOn(t, [{ url }], `--connect-timeout=${timeoutMs}`);
      const [socket, from] = await once2(accepted, "socket");
      await once2(socket, "close");
      assertBetween(performance.now() - from, timeoutMs - 60, timeoutMs + 500, "ms from the dial to its end");
    });
  }
  for (const [when, least, most] of [["at --timeout", 300, 1700], ["on SIGTERM", 0, 1e3]]) {
    const flags = when === "at --timeout" ? ["--timeout=700"] : [];
    it(`exits 2 ${when} where it never got a session, and names URL and failures`, async (t) => {
      const url = await deadUrl();
      const client = startText(t, {}, ...urls({ url }), "--json", "--backoff-cap=20", ...flags);
      await client.line(/ dial-failed /);
      const from = performance.now();
      if (when === "on SIGTERM") client.child.kill("SIGTERM");
      const { code, at } = await client.exited;
      assert.deepEqual([code, client.stdout()], [2, ""]);
      assertBetween(at - from, least, most, "ms from the first failure to the exit");
      const told = client.lines.filter((line) => line.startsWith(`Never connected to ${url}: `));
      assert.deepEqual(told, client.lines.slice(-1));
      assert.match(told[0], /: refused ×\d+$/);
    });
  }
  it("does not wait for a dial when it stops", async (t) => {
    const url = await startTcp(t, () => {
    });
    const client = startText(t, {}, ...urls({ url }), "--timeout=500");
    await client.line(/ stopping /);
    const from = performance.now();
    const { code, at } = await client.exited;
    assertBetween(at - from, 0, 1e3, "ms from stopping to the exit");
    assert.deepEqual([code, client.lines.at(-1)], [2, `Never connected to ${url}: no dial finished`]);
  });
  const dials = [[50, 50, 22, 110], [400, 400, 4, 24], [20, 40, 30, 160], [20, 9999, 6, 20]];
  for (const [baseMs, capMs, least, most] of dials) {
    it(`dials a dead server ${least}-${most} times in 1.5 s with backoff ${baseMs} to ${capMs}`, async (t) => {
      const flags = ["--timeout=1500", `--backoff-base=${baseMs}`, `--backoff-cap=${capMs}`];
      const { lines, exited } = startText(t, {}, ...urls({ url: await deadUrl() }), ...flags);
      await exited;
      assertBetween(Number(/ refused ×(\d+)$/.exec(lines.at(-1))?.[1]), least, most, lines.at(-1));
    });
  }
  for (const [baseMs, handovers] of [[30, 40], [300, 12]]) {
    it(`begins at the first URL, and moves to any of the others after up to ${baseMs} ms`, async (t) => {
      const peers = await Promise.all(["a", "b", "c"].map((name) => startScript(t, drainAtOnce(Infinity), name)));
      const result = await startOn(t, peers, `--handovers=${handovers}`, `--backoff-base=${baseMs}`).result;
      const moves = result.handovers.map(({ from, to }) => `${from[0]}${to?.[0]}`);
      assert.equal(moves[0][0], "a");
      assert.deepEqual(moves.filter((move) => move[0] === move[1]), []);
      if (handovers === 40) assert.deepEqual([...new Set(moves)].sort(), ["ab", "ac", "ba", "bc", "ca", "cb"]);
      const chosen = result.handovers.map(({ chosenMs }) => chosenMs);
      assertBetween(Math.max(...chosen), baseMs / 4, baseMs + 15, "the longest chosenMs");
      assert.ok(new Set(chosen).size > handovers / 2, `${chosen}`);
    });
  }
  it("dials 50 at a time, and no more", async (t) => {
    let [dialling, most] = [0, 0];
    const { peer, client } = await play(t, ["--sessions=200"], async (side) => {
      most = Math.max(most, ++dialling);
      await pause(100);
      dialling--;
      side.live();
    });
    await client.line(/ steady /);
    assert.deepEqual([peer.sides.length, most], [200, 50]);
  });
  it("with --reconnect early opens the next session first, and speaks there after the old one's end", async (t) => {
    let before = [];
    const { peer: { sides }, client } = await play(t, ["--handovers=1", "--reconnect=early"], (side) => {
      const end = () => [before = sides.map(({ seqs }) => seqs), side.ws.close(1001)];
      return endFirst(() => side.drain({ lastSeq: 9, everyMs: 40, end }))(side);
    });
    const { handover, verdict } = await endOf(client);
    await sides[1].gone;
    assert.deepEqual([verdict, handover.reconnectMs], ["PASS", 0]);
    assert.deepEqual(before, [sides[0].seqs, []]);
    assert.equal(sides[1].seqs[0], sides[0].received + 1);
  });
  it("stops after --handovers 3", async (t) => {
    const { client } = await play(t, ["--handovers=3"], drainAtOnce(3));
    const { code, counts, summary } = await endOf(client);
    assert.deepEqual([code, counts], [0, { graceful: 3, failed: 0, unfinished: 0 }]);
    assert.match(summary, /^PASS {2}3 handovers, 0 messages lost, reconnect p99 \S+$/);
  });
  for (const [asked, timeoutMs, code, summary] of [
    [2, 500, 1, /^FAIL {2}0 of 2 handovers happened within \d+ms$/],
    [0, 1e3, 0, /^PASS {2}0 handovers, 0 messages lost$/]
  ]) {
    it(`exits ${code} at --timeout ${timeoutMs} with ${asked} handovers asked for and none seen`, async (t) => {
      const { client } = await play(t, [`--handovers=${asked}`, `--timeout=${timeoutMs}`], live);
      const result = await endOf(client);
      assert.equal(result.code, code);
      assert.match(result.summary, summary);
      assertBetween(result.durationMs, timeoutMs - 1, timeoutMs + 450, "durationMs");
    });
  }
  for (const signal of ["SIGTERM", "SIGINT"]) {
    it(`on ${signal} closes its sessions with 1000, reports and exits 0`, async (t) => {
      const { peer, client } = await play(t, ["--sessions=3"], live);
      await client.line(/ steady /);
      client.child.kill(signal);
      assertSays(await endOf(client), { code: 0, verdict: "PASS", handovers: [] });
      assert.deepEqual(await Promise.all(peer.sides.map(({ gone }) => gone)), [1e3, 1e3, 1e3]);
    });
  }
  async function startStopping(t, ...flags) {
    const { peer, client } = await play(t, flags, live);
    await client.line(/ steady /);
    peer.sides[0].ws.pause();
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
    assertBetween(at - from, 0, 1e3, "ms from the second signal to the exit");
    assert.deepEqual([code, client.stdout()], [1, ""]);
  });
  it("takes the first signal for the first one while it stops at --timeout", async (t) => {
    const { client } = await startStopping(t, "--timeout=1000");
    client.child.kill("SIGTERM");
    assertSays(await endOf(client), { code: 0, verdict: "PASS" });
  });
  it("judges a move between two servers of the original program", async (t) => {
    const servers = await Promise.all([startOriginal(t), startOriginal(t)]);
    const flags = ["--expect=notice,farewell,clean,moved", "--expect-code=1005", "--handovers=1"];
    const { verdict, handover } = await endOf(startOn(t, servers, ...flags));
    assert.equal(verdict, "PASS");
    const said = { code: 1005, received: 5, remaining: { announced: null, received: 1 }, how: "fin" };
    assertSays(handover, { from: servers[0].url, to: servers[1].url, ...said });
    assert.deepEqual(Object.values(handover.rules), ["pass", "n/a", "pass", "pass", "pass"]);
  });
  it("by default calls the original program's close WRONG_CLOSE_CODE", async (t) => {
    const servers = await Promise.all([startOriginal(t), startOriginal(t)]);
    const { symptoms } = await startOn(t, servers, "--handovers=1").result;
    assert.deepEqual(Object.keys(symptoms), ["WRONG_CLOSE_CODE"]);
  });
  it("with --dialect v1 never connects to a plain server", async (t) => {
    const client = startText(t, {}, ...urls(await startOriginal(t)), "--dialect=v1", "--timeout=500");
    assert.equal((await client.exited).code, 2);
    assert.match(client.lines.at(-1), /^Never connected to .*: other ×\d+$/);
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
    it(`calls a plain server that answers no ping dead after ${silenceMs} ms`, async (t) => {
      const plain = await startPeer(t, (ws, _socket, index) => index > 0 || ws.send("hello", () => ws.pause()), true);
      const flags = [`--silence-timeout=${silenceMs}`, "--expect=notice", "--handovers=1"];
      const { handover } = await endOf(startOn(t, [plain], ...flags));
      assertSays(handover, { symptom: "STALLED", ...SILENCE });
      assertBetween(handover.silenceMs, silenceMs, silenceMs + 700, "silenceMs");
    });
  }
  it("accepts binary messages of a plain server", async (t) => {
    const server = await startOriginal(t, Buffer.from([0, 255, 1]));
    const { verdict, handover } = await endOf(startOn(t, [server], "--expect-code=1005", "--handovers=1"));
    assert.deepEqual([verdict, handover.received], ["PASS", 5]);
  });
  it("counts probes by what became of them, and never fails for them", async (t) => {
    const flags = ["--log-format=json", "--interval=100", "--remaining=8", "--remaining-interval=100"];
    const server = start(t, [process2.execPath, "dist/server.js", "--port=0", "--admin-port=0", ...flags]);
    const url = `ws://127.0.0.1:${/"port":(\d+)/.exec(await server.line(/"listening"/))[1]}/ws`;
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
    assertBetween(probes.timeout + probes.other, 0, 1, "other probes");
    assertBetween(probes.lastOnEndingMs, 500, 1500, "lastOnEndingMs");
    assert.deepEqual(findings.map(({ name }) => name), ["ENDPOINT_RACE"]);
  });
  for (const [title, found] of [["one URL finds", ["ENDPOINT_RACE"]], ["two URLs does not find", []]]) {
    it(`with ${title} the endpoint race in a probe that reaches the ending server`, async (t) => {
      const peer = await startScript(t, (side) => {
        const end = () => peer.probed(peer.probes.length + 3).then(() => side.ws.close(1001));
        return endFirst(() => side.drain({ end }))(side);
      });
      const others = found.length > 0 ? [] : [await startScript(t, live, "other")];
      const client = startOn(t, [peer, ...others], "--handovers=1", "--probe-interval=100");
      const { verdict, probes, findings } = await client.result;
      assert.equal(verdict, "PASS");
      assertBetween(probes.lastOnEndingMs, 190, 1500, "lastOnEndingMs");
      assert.deepEqual(findings.map(({ name }) => name), found);
      assert.equal(peer.sides.length + (others[0]?.sides.length ?? 0), 2);
      assert.deepEqual(await Promise.all(peer.probes.slice(0, 3).map(({ gone }) => gone)), [1e3, 1e3, 1e3]);
    });
  }
  it("is ready once every slot is connected, and reports at any time", async (t) => {
    let admit = () => {
    };
    const admitted = new Promise((resolve) => admit = resolve);
    const { client } = await play(t, ["--sessions=2"], async (side) => {
      if (side.index === 1) await admitted;
      side.live();
    });
    const admin = await client.admin();
    const status = async (path, method = "GET") => (await fetch(admin + path, { method })).status;
    await client.line(/ session-opened /);
    assert.deepEqual([await status("/healthz"), await status("/readyz")], [200, 503]);
    admit();
    await client.line(/ steady /);
    assert.deepEqual([await status("/healthz"), await status("/readyz")], [200, 200]);
    const report = await (await fetch(`${admin}/report`)).json();
    assert.deepEqual([report.verdict, report.sessions], ["PASS", { wanted: 2, connected: 2 }]);
    assert.deepEqual([await status("/nonsense"), await status("/report", "POST")], [404, 405]);
  });
  it("is not ready while one slot holds two sessions and another none", async (t) => {
    const { peer, client } = await play(t, ["--sessions=2", "--reconnect=early"], async (side) => {
      if (side.index === 3) return;
      side.live();
      if (side.index === 2) return peer.sides[1].ws.terminate();
      await client.line(/ steady /);
      if (side.index === 0) side.notice({ lastSeq: 99 });
    });
    await peer.session(3);
    const answer = await fetch(`${await client.admin()}/readyz`);
    assert.deepEqual([answer.status, await answer.text()], [503, "1 of 2 sessions connected\n"]);
  });
  async function startReporting(t) {
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
  it("writes --report and keeps its exit code where nobody reads stdout", async (t) => {
    const { client, file } = await startReporting(t);
    client.child.stdout.destroy();
    assert.equal((await client.exited).code, 0, client.lines.join("\n"));
    assert.equal(JSON.parse(readFileSync(file, "utf8")).verdict, "PASS");
  });
  it("says how many sessions were connected when it stopped", async (t) => {
    const { client } = await startReporting(t);
    assert.deepEqual((await client.result).sessions, { wanted: 1, connected: 1 });
  });
  it("as text ends with the verdict, after the numbers, each rule and the fix", async (t) => {
    const peer = await startScript(t, endFirst((side) => side.drain({ lastSeq: 4, seqs: [2, 4] })));
    const client = startText(t, {}, ...urls(peer), "--handovers=1");
    assert.equal((await client.exited).code, 1);
    const lines = client.stdout().split("\n");
    assert.deepEqual(lines.slice(-2), ["FAIL  1 of 1 handover: DATA_LOST \xD71 (peer-0)", ""]);
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
    const totals = {};
    const others = [];
    for (const { "event.action": action, labels } of client.lines.map((line) => JSON.parse(line))) {
      if (action !== "progress") others.push(action);
      else for (const [key, number] of Object.entries(labels)) totals[key] = (totals[key] ?? 0) + Number(number);
    }
    assert.deepEqual([totals["session-opened"], totals["handover"]], [120, 60]);
    assert.deepEqual(others.filter((action) => action !== "steady"), ["started", "stopping", "verdict"]);
  });
  for (const [title, flags] of [["as text", []], ["as JSON", ["--json", "--log-format=json"]]]) {
    it(`${title} lets no control character of a server's name out, and no line of its own making`, async (t) => {
      const evil = "\x1B[31mred\x07\r\nPASS  forged\x9B2J";
      const peer = await startScript(t, endFirst(closeWith(1012, evil)), evil);
      const client = startText(t, {}, ...urls(peer), "--handovers=1", ...flags);
      await client.exited;
      for (const text of [client.stdout(), client.lines.join("\n")]) {
        assert.match(text, /red.*PASS {2}forged/s);
        assert.doesNotMatch(text, /^PASS/m);
        assert.doesNotMatch(text, /[\x00-\x09\x0b-\x1f\x7f-\x9f]/);
      }
    });
  }
  for (const [title, word] of [["one word", "x"], ["many words", "x "]]) {
    it(`shortens a server's name of 10 KB in ${title} where people read it`, async (t) => {
      const peer = await startScript(t, endFirst(closeWith(1012)), word.repeat(1e4 / word.length));
      const client = startText(t, {}, ...urls(peer), "--handovers=1");
      await client.exited;
      const lines = [...client.stdout().split("\n"), ...client.lines];
      assert.ok(lines.some((line) => line.includes(word.repeat(3))));
      assert.deepEqual(lines.map((line) => line.length).filter((length) => length > 1e3), []);
    });
  }
  for (const [flags, complaint, env] of REFUSED) {
    it(`refuses ${env ? Object.entries(env).join() : flags} with one line and exit 2`, async (t) => {
      const { code, stdout, stderr } = await run2(t, [process2.execPath, "dist/client.js", ...flags], env);
      assert.deepEqual([code, stdout, stderr.split("\n").length], [2, "", 1], stderr);
      assert.match(stderr, complaint);
    });
  }
  it("refuses an admin port in use with one line and exit 2", async (t) => {
    const port = /:(\d+)\/ws/.exec((await startPeer(t, () => {
    })).url)[1];
    const { code, stdout, stderr } = await run2(t, [process2.execPath, "dist/client.js", `--admin-port=${port}`]);
    assert.deepEqual([code, stdout], [2, ""]);
    assert.match(stderr, new RegExp(`^Cannot listen on port ${port}: .*EADDRINUSE.*$`));
  });
  it("takes URLs separated by commas from SERVER_URL, unless --url says otherwise", async (t) => {
    const peer = await startScript(t, live);
    const env = { SERVER_URL: `${await deadUrl()}, ${peer.url}` };
    for (const [flags, failedDials] of [[[], { refused: 1 }], [urls(peer), {}]]) {
      const client = startText(t, env, "--json", ...flags);
      await client.line(/ steady /);
      client.child.kill("SIGTERM");
      assert.equal((await client.exited).code, 0);
      assert.deepEqual(JSON.parse(client.stdout()).failedDials, failedDials);
    }
  });
  it("explains every setting with --help, and says its --version", async (t) => {
    const help = await run2(t, [process2.execPath, "dist/client.js", "--help"]);
    assert.equal(help.code, 0);
    for (const { flag, env } of Object.values(SETTINGS)) {
      assert.match(help.stdout, new RegExp(`^ {2}--${flag} +${env} `, "m"));
    }
    const { code, stdout, stderr } = await run2(t, [process2.execPath, "dist/client.js", "--version"]);
    assert.deepEqual([code, stdout, stderr], [0, `${VERSION}
`, ""]);
  });
  it("prints no stack where nobody reads its --help", async (t) => {
    const client = startText(t, {}, "--help");
    client.child.stdout.destroy();
    assert.equal((await client.exited).code, 0, client.lines.join("\n"));
    assert.deepEqual(client.lines, []);
  });
});
