/** The dialects that are known by name, against real servers of their protocols (test/fixtures/peers), else their documented frames. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, readFileSync } from "node:fs";
import { connect as connectTcp, createServer } from "node:net";
import { resolve } from "node:path";
import process from "node:process";
import { spawnSync } from "node:child_process";
import { describe, it, type TestContext } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import type { WebSocket } from "ws";
import { binaryText, dialectNamed, DIALECTS, type Handover, type Symptom, wireOf } from "../protocol.ts";
import { start, startClient, startPeer } from "./helper.ts";

/** `PEERS_LONG=1`: every server with the heartbeat that it has by default, held past all of them. */
const isLong = process.env.PEERS_LONG !== undefined;
const HEARTBEAT_MS = isLong ? 25_000 : 1000;
/** Several heartbeats; the longest patience of those with their own is Socket.IO's 25 s + 25 s, and MQTT's 90 s. */
const HOLD_MS = isLong ? 160_000 : 3500;

const PEERS = resolve("test/fixtures/peers");
const PYTHON = "/usr/bin/python3";
const TOOLS = resolve(".tools/node_modules/.bin");
const isInstalled = (path: string, by: string) => existsSync(path) ? false as const : by;
const node = isInstalled(`${PEERS}/node_modules`, "make peers installs the servers");
const imports = (module: string) =>
  spawnSync(PYTHON, ["-c", `import ${module}`]).status === 0 ? false as const : `there is no python3-${module}`;

interface Peer {
  /** Of the server, with its port and how it is to end. */
  command: (port: number, end: string) => string[];
  env?: (port: number) => Record<string, string>;
  /** Why it cannot be had here. */
  skip: string | false;
  path?: string;
  flags: string[];
  dialect: string;
  /** The signal that ends it, and the close code and reason that are its graceful end. */
  signal?: NodeJS.Signals;
  ends: [code: number, reason: string];
  /** Which of its ends does not wait for our close frame, which then may meet a reset before its FIN has been read. */
  hurries?: "good" | "bad";
  /** The rules that can be judged beyond clean and moved. */
  rules?: Partial<Handover["rules"]>;
  /** How it ends otherwise, and what that is. */
  bad?: [end: string, signal: NodeJS.Signals, symptom: Symptom];
}

const script = (name: string) => (port: number, end: string) => [
  process.execPath,
  `${PEERS}/${name}`,
  `${port}`,
  end,
  ...isLong ? [] : [`${HEARTBEAT_MS}`],
];
const python = (name: string) => (port: number, end: string) => [PYTHON, `${PEERS}/${name}`, `${port}`, end];
const CUT: [string, NodeJS.Signals, Symptom] = ["cut", "SIGTERM", "CUT_WITHOUT_NOTICE"];
/** CONNECT of MQTT 3.1.1, which not every broker has outgrown: clean session, 60 s of keep-alive, no client identifier. */
const CONNECT_3_1_1 = "hex:100c00044d5154540402003c0000";

const SERVERS: Record<string, Peer> = {
  "Socket.IO": {
    command: script("socket-io.mjs"),
    skip: node,
    path: "/socket.io/?EIO=4&transport=websocket",
    flags: [],
    dialect: "socket.io",
    ends: [1005, ""],
    rules: { farewell: "pass" },
    bad: CUT,
  },
  "graphql-ws": {
    command: script("graphql-ws.mjs"),
    skip: node,
    flags: ["--dialect=graphql-transport-ws"],
    dialect: "graphql-transport-ws",
    ends: [1001, "Going away"],
    bad: CUT,
  },
  SockJS: {
    command: script("sockjs.mjs"),
    skip: node,
    path: "/socket/000/client01/websocket",
    flags: [],
    dialect: "sockjs",
    ends: [1000, "Normal closure"],
    rules: { farewell: "pass" },
    bad: CUT,
  },
  "aedes (MQTT 3.1.1)": {
    command: script("aedes.mjs"),
    skip: node,
    flags: ["--dialect=mqtt", `--say=${CONNECT_3_1_1}`, "--say=hex:c000"],
    dialect: "mqtt",
    ends: [1001, "going away"],
    bad: ["close", "SIGTERM", "CUT_WITHOUT_NOTICE"],
  },
  NATS: {
    command: () => ["nats-server", "-c", `${PEERS}/nats.conf`],
    env: (port) => ({ PORT: `${port}` }),
    skip: spawnSync("nats-server", ["--version"]).status === 0 ? false : "there is no nats-server",
    flags: [],
    dialect: "nats",
    ends: [1001, "Server Shutdown"],
    rules: { notice: "fail" },
    hurries: "good",
    bad: ["", "SIGKILL", "CUT_WITHOUT_NOTICE"],
  },
  "NATS in lame duck mode": {
    command: () => ["nats-server", "-c", `${PEERS}/nats.conf`],
    env: (port) => ({ PORT: `${port}` }),
    skip: spawnSync("nats-server", ["--version"]).status === 0 ? false : "there is no nats-server",
    flags: ["--dialect=nats", "--expect=notice,clean,moved"],
    dialect: "nats",
    signal: "SIGUSR2",
    ends: [1001, "Server Shutdown"],
    rules: { notice: "pass" },
    hurries: "good",
    bad: ["", "SIGTERM", "NO_NOTICE"],
  },
  ws: {
    command: script("ws.mjs"),
    skip: node,
    flags: [],
    dialect: "plain",
    ends: [1001, "going away"],
    bad: CUT,
  },
  Fastify: {
    command: script("fastify.mjs"),
    skip: node,
    path: "/socket",
    flags: [],
    dialect: "plain",
    ends: [1001, "going away"],
    hurries: "bad",
    bad: ["close", "SIGTERM", "WRONG_CLOSE_CODE"],
  },
  "Deno.serve": {
    command: (
      port,
      end,
    ) => [`${TOOLS}/deno`, "run", "--quiet", "--allow-net", `${PEERS}/deno-serve.js`, `${port}`, end],
    skip: isInstalled(`${TOOLS}/deno`, "make check installs Deno"),
    flags: [],
    dialect: "plain",
    ends: [1001, "going away"],
    bad: ["shutdown", "SIGTERM", "RESET_AFTER_CLOSE"],
  },
  "Bun.serve": {
    command: (port, end) => [`${TOOLS}/bun`, `${PEERS}/bun-serve.js`, `${port}`, end],
    skip: isInstalled(`${TOOLS}/bun`, "make check installs Bun"),
    flags: [],
    dialect: "plain",
    ends: [1001, "going away"],
    bad: CUT,
  },
  "Python's websockets": {
    command: python("websockets-serve.py"),
    skip: imports("websockets"),
    flags: [],
    dialect: "plain",
    ends: [1001, ""],
    bad: CUT,
  },
  aiohttp: {
    command: python("aiohttp-serve.py"),
    skip: imports("aiohttp"),
    path: "/socket",
    flags: [],
    dialect: "plain",
    ends: [1001, "going away"],
    hurries: "good",
    bad: CUT,
  },
  uvicorn: {
    command: python("uvicorn-serve.py"),
    skip: imports("uvicorn") || imports("wsproto"),
    path: "/socket",
    flags: [],
    dialect: "plain",
    ends: [1012, ""],
    hurries: "good",
    bad: ["auto", "SIGTERM", "CUT_WITHOUT_NOTICE"],
  },
};

/**
 * A port that was free a moment ago, and that no connection takes by itself: systems give those from 32,768 on (Linux) or
 * 49,152 on (RFC 6335 section 6).
 */
async function freePort(): Promise<number> {
  const server = createServer();
  for (;;) {
    try {
      const port = 20_000 + Math.floor(Math.random() * 12_000);
      await once(server.listen(port, "127.0.0.1"), "listening");
      server.close();
      await once(server, "close");
      return port;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EADDRINUSE") throw error;
    }
  }
}

/** Starts a server, and resolves when its port accepts. */
async function startServerOf(t: TestContext, { command, env = () => ({}) }: Peer, port: number, end: string) {
  const program = start(t, command(port, end), { NO_COLOR: "1", ...env(port) });
  for (let isUp = false; !isUp;) {
    assert.equal(program.child.exitCode, null, program.lines.join("\n"));
    const socket = connectTcp(port, "127.0.0.1");
    isUp = await Promise.race([
      once(socket, "connect").then(() => true, () => false),
      program.exited.then(() => false),
    ]);
    socket.destroy();
    if (!isUp) await pause(20);
  }
  return program;
}

/** The client's log line of its `count`th session. */
async function opened(client: ReturnType<typeof startClient>, count: number): Promise<string> {
  for (;;) {
    const lines = client.lines.filter((line) => / session-opened /.test(line));
    if (lines.length >= count) return lines[count - 1]!;
    assert.equal(client.child.exitCode, null, client.lines.join("\n"));
    await pause(10);
  }
}

/** The symptom that a handover must have, or what the hurry of its server makes of it. */
function assertSymptom({ symptom }: Handover, wanted: Symptom | null, isHurried: boolean): void {
  const right = isHurried ? [wanted, "RESET_AFTER_CLOSE"] : [wanted];
  assert.ok(right.includes(symptom), `${symptom}, not ${right.join(" or ")}`);
}

const holds = `is held for ${isLong ? "minutes" : "several of its heartbeats, shortened to 1 s,"}`;

describe("a real server of another's protocol", { concurrency: isLong ? 20 : 5, timeout: 600_000 }, () => {
  for (const [name, peer] of Object.entries(SERVERS)) {
    it(`${name} ${holds} and judged by its end`, { skip: peer.skip }, async (t) => {
      const ports = [await freePort(), await freePort()] as const;
      const first = await startServerOf(t, peer, ports[0], "graceful");
      const [end, signal, symptom] = peer.bad!;
      const second = await startServerOf(t, peer, ports[1], end);
      const urls = ports.map((port) => `--url=ws://127.0.0.1:${port}${peer.path ?? "/"}`);
      const client = startClient(
        t,
        ...urls,
        ...peer.flags,
        "--handovers=2",
        "--max-reconnect=60s",
        `--timeout=${isLong ? "8m" : "40s"}`,
      );
      await opened(client, 1);
      await pause(HOLD_MS);
      first.child.kill(peer.signal ?? "SIGTERM");
      await opened(client, 2);
      // What an end is needs a session that has lived, and a place to go to.
      await Promise.all([pause(1500), first.exited.then(() => startServerOf(t, peer, ports[0], "graceful"))]);
      second.child.kill(signal);
      const { handovers, findings } = await client.result;
      const [good, bad] = handovers;
      assert.deepEqual([good!.code, good!.reason, good!.dialect], [...peer.ends, peer.dialect]);
      assertSymptom(good!, null, peer.hurries === "good");
      assert.deepEqual([good!.rules.clean, good!.rules.moved], [good!.symptom === null ? "pass" : "fail", "pass"]);
      for (const [rule, mark] of Object.entries(peer.rules ?? {})) {
        assert.equal(good!.rules[rule as keyof Handover["rules"]], mark, rule);
      }
      assert.ok(good!.endedMs! - good!.openedMs! >= HOLD_MS, `it lived ${good!.endedMs! - good!.openedMs!} ms`);
      assertSymptom(bad!, symptom, peer.hurries === "bad");
      assert.deepEqual(findings.filter(({ name }) => name === "TURNED_AWAY"), []);
    });
  }

  it("ws that uses the original's words is judged by its notice and farewell", { skip: node }, async (t) => {
    const peer = SERVERS.ws!;
    const ports = [await freePort(), await freePort()] as const;
    const first = await startServerOf(t, peer, ports[0], "notice");
    await startServerOf(t, peer, ports[1], "cut");
    const client = startClient(t, ...ports.map((port) => `--url=ws://127.0.0.1:${port}`), "--handovers=1");
    await opened(client, 1);
    await pause(1500);
    first.child.kill("SIGTERM");
    const { handovers: [handover], witness } = await client.result;
    assert.deepEqual(handover!.rules, {
      notice: "pass",
      complete: "pass",
      farewell: "pass",
      clean: "pass",
      moved: "pass",
    });
    assert.ok(handover!.noticeMs! >= 250 - witness.maxLateMs, `told ${handover!.noticeMs} ms before the end`);
  });
});

/** How long sessions lived is what the client saw of them: it may read later of their beginning than of their end. */
const WRONG: [name: string, peer: string, flags: string[], said: RegExp][] = [
  ["graphql-ws without its subprotocol", "graphql-ws", [], /4406 Subprotocol not acceptable.*--subprotocol/],
  [
    "graphql-ws without connection_init",
    "graphql-ws",
    ["--subprotocol=graphql-transport-ws"],
    /4408 Connection initialisation timeout.*(--dialect|--say)/,
  ],
  [
    "Socket.IO whose heartbeat nobody answers",
    "Socket.IO",
    ["--dialect=plain", "--say=40"],
    /ends every session by itself with 1005, after (1\.[5-9]\d?|2(\.\d+)?)s each.*--reply/,
  ],
  [
    "NATS whose heartbeat nobody answers",
    "NATS",
    ["--dialect=plain", '--say=CONNECT {"verbose":false}\r\n'],
    /ends every session by itself with 1006, after (2\.[5-9]\d?|3(\.\d+)?)s each.*--reply/,
  ],
  [
    "aedes, which does not speak MQTT 5",
    "aedes (MQTT 3.1.1)",
    ["--dialect=mqtt"],
    /closed with 1006 before it was ready/,
  ],
];

describe("a wrong setting is told, with what the server said and the flag that answers it:", { concurrency: 5 }, () => {
  for (const [name, which, flags, said] of WRONG) {
    const peer = SERVERS[which]!;
    it(name, { skip: isLong ? "it takes the shortened heartbeats" : peer.skip, timeout: 60_000 }, async (t) => {
      const port = await freePort();
      await startServerOf(t, peer, port, "graceful");
      const url = `--url=ws://127.0.0.1:${port}${peer.path ?? "/"}`;
      const client = startClient(t, url, ...flags, "--timeout=12s", "--backoff-cap=200ms");
      assert.notEqual((await client.exited).code, 0);
      assert.match(client.lines.join("\n"), said);
    });
  }
});

interface Played {
  subprotocol?: string;
  /** What it says to a newcomer, and to what it hears. */
  greeting?: string;
  answers: [heard: RegExp, answer: string][];
  /** Its own heartbeat, and the answer that it insists on; or the client's, on which it insists. */
  heartbeat?: { text: string; answer?: string };
  insistsOn?: string;
  ends: { says?: string; code: number; reason?: string };
  rules?: Partial<Handover["rules"]>;
}

/** What has no package to test against, by its documented frames. */
const PLAYED: Record<string, Played> = {
  signalr: {
    answers: [[/^\{"protocol":"json","version":1\}.$/, "{}\x1e"]],
    heartbeat: { text: '{"type":6}\x1e' },
    insistsOn: '{"type":6}\x1e',
    ends: { says: '{"type":7,"allowReconnect":true}\x1e', code: 1000 },
    rules: { farewell: "pass" },
  },
  actioncable: {
    subprotocol: "actioncable-v1-json",
    greeting: '{"type":"welcome"}',
    answers: [],
    heartbeat: { text: '{"type":"ping","message":1764000000}' },
    ends: { says: '{"type":"disconnect","reason":"server_restart","reconnect":true}', code: 1000 },
    rules: { farewell: "pass" },
  },
  phoenix: {
    answers: [[/"phoenix","heartbeat"/, '[null,"1","phoenix","phx_reply",{"response":{},"status":"ok"}]']],
    insistsOn: '[null,"1","phoenix","heartbeat",{}]',
    ends: { code: 1012 },
  },
  centrifugo: {
    answers: [[
      /^\{"id":1,"connect":\{\}\}$/,
      '{"id":1,"connect":{"client":"c1","version":"6","ping":25,"pong":true}}',
    ]],
    heartbeat: { text: "{}", answer: "{}" },
    ends: { code: 3001, reason: "shutdown" },
  },
  stomp: {
    subprotocol: "v12.stomp",
    answers: [[/^CONNECT\n[^]*\n\n\0$/, "CONNECTED\nversion:1.2\nheart-beat:10000,10000\n\n\0"]],
    heartbeat: { text: "\n" },
    insistsOn: "\n",
    ends: { code: 1001 },
  },
  mqtt: {
    subprotocol: "mqtt",
    answers: [[/^hex:100d00044d51545405/, "hex:2003000000"], [/^hex:c000$/, "hex:d000"]],
    insistsOn: "hex:c000",
    ends: { says: "hex:e0028b00", code: 1000 },
    rules: { farewell: "pass" },
  },
  "graphql-ws": {
    subprotocol: "graphql-ws",
    answers: [[/"connection_init"/, '{"type":"connection_ack"}']],
    heartbeat: { text: '{"type":"ka"}' },
    ends: { code: 1001 },
  },
};
const BEAT_MS = 100;

/** Plays a server: who does not keep its heartbeat for ten of them is turned away. */
function play({ greeting, answers, heartbeat, insistsOn = heartbeat?.answer }: Played, socket: WebSocket): void {
  let missed = 0;
  if (greeting !== undefined) socket.send(wireOf(greeting));
  socket.on("message", (data, isBinary) => {
    const text = isBinary ? binaryText(data as Buffer) : String(data);
    if (text === insistsOn) missed = 0;
    for (const [heard, answer] of answers) if (heard.test(text)) socket.send(wireOf(answer));
  });
  const timer = setInterval(() => {
    if (heartbeat !== undefined) socket.send(wireOf(heartbeat.text));
    if (insistsOn !== undefined && ++missed > 10) socket.close(3008, "heartbeat timeout");
  }, BEAT_MS);
  socket.on("close", () => clearInterval(timer));
}

describe("a server played by its documented frames", { concurrency: 5, timeout: 60_000 }, () => {
  for (const [name, played] of Object.entries(PLAYED)) {
    it(`${name} is held for thirty heartbeats and judged by its end`, async (t) => {
      const servers = [];
      for (let index = 0; index < 2; index++) {
        const server = await startPeer(t, (socket) => play(played, socket), true);
        server.wss.options.handleProtocols = () => played.subprotocol ?? false;
        servers.push(server);
      }
      const { heartbeat } = dialectNamed(name);
      const beat = heartbeat === undefined ? [] : [`--heartbeat=${heartbeat.text}@${BEAT_MS}ms`];
      const urls = servers.map(({ url }) => `--url=${url}`);
      const client = startClient(t, ...urls, `--dialect=${name}`, ...beat, "--handovers=2", "--timeout=40s");
      await opened(client, 1);
      await pause(30 * BEAT_MS);
      const { says, code, reason = "" } = played.ends;
      for (const socket of servers[0]!.wss.clients) {
        if (says !== undefined) socket.send(wireOf(says));
        socket.close(code, reason);
      }
      await opened(client, 2);
      await pause(1500);
      for (const socket of servers[1]!.wss.clients) socket.terminate();
      const { handovers: [good, bad] } = await client.result;
      assert.deepEqual([good!.symptom, good!.code, good!.reason, good!.dialect], [null, code, reason, name]);
      assert.deepEqual({ ...good!.rules, ...played.rules }, good!.rules);
      assert.equal(bad!.symptom, "CUT_WITHOUT_NOTICE");
      assert.ok(good!.endedMs! - good!.openedMs! >= 30 * BEAT_MS);
    });
  }

  it("which insists on a heartbeat turns away who keeps none, and that is no shutdown", async (t) => {
    const { url, wss } = await startPeer(t, (socket) => play(PLAYED.phoenix!, socket), true);
    wss.options.handleProtocols = () => false;
    const client = startClient(t, `--url=${url}`, "--dialect=plain", "--handovers=1", "--timeout=20s");
    const { handovers: [handover], findings } = await client.result;
    assert.deepEqual([handover!.symptom, handover!.code, handover!.reason], ["TURNED_AWAY", 3008, "heartbeat timeout"]);
    assert.match(JSON.stringify(findings), /3008 heartbeat timeout.*--heartbeat/);
  });
});

it("who never takes the greeting is one line that names --say and --dialect", { timeout: 60_000 }, async (t) => {
  const { url } = await startPeer(t, (socket) => socket.on("message", () => socket.terminate()), true);
  const client = startClient(t, `--url=${url}`, "--dialect=centrifugo", "--timeout=2s", "--backoff-cap=200ms");
  assert.equal((await client.exited).code, 2);
  assert.match(
    client.lines.at(-1)!,
    /^Never connected .*1006 before it was ready: it did not take the greeting: --say, or/,
  );
});

/** How long the servers wait for their client's heartbeat by default. */
const PATIENCE_MS: Record<string, number> = { signalr: 30_000, phoenix: 60_000, stomp: 10_000 * 2, mqtt: 90_000 };

it("what a client must say by itself comes well before the server's patience ends", () => {
  for (const name of DIALECTS) {
    const { heartbeat } = dialectNamed(name);
    assert.equal(heartbeat !== undefined, name in PATIENCE_MS, name);
    if (heartbeat !== undefined) assert.ok(heartbeat.everyMs <= PATIENCE_MS[name]! / 2, name);
  }
});

it("docs/your-application.md names every dialect, and no other", () => {
  const page = readFileSync("docs/your-application.md", "utf8");
  const rows = [...page.matchAll(/^\| `([a-z0-9.-]+)` \|/gm)].map(([, name]) => name);
  assert.deepEqual(rows, [...DIALECTS]);
});
