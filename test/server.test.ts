/** The server alone, over real processes and real sockets. What a test sends by hand, our client would never send. */
import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect as connectTcp, createServer as createTcpServer } from "node:net";
import { networkInterfaces } from "node:os";
import process from "node:process";
import { describe, it as test, type TestContext } from "node:test";
import { setTimeout as pause } from "node:timers/promises";
import { WebSocket } from "ws";
import { decode, encode, MAX_MESSAGE_BYTES, PROBE_HEADER, SUBPROTOCOL, VERSION } from "../protocol.ts";
// deno-fmt-ignore
import { type Common, conductOf, Drain, FAULTS, Server, Session, type Settings, SETTINGS, Tally, Token } from "../server.ts";
// deno-fmt-ignore
import { slackMs, connect, data, hostileFrame, type Program, run, seeded, start, startPeer, startServer } from "./helper.ts";

const UUID = /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/;
const SERVER = [process.execPath, "dist/server.js", "--port=0", "--admin-port=0"];
/** For tests in which one message at the start is all that a session has to say. */
const QUIET = ["--interval=60000", "--remaining=1", "--remaining-interval=10"];
const ACK = encode({ type: "ACK", lastSeq: 0 });

/** Who waits in vain fails alone, in good time. */
const it = (sentence: string, body: (t: TestContext) => void | Promise<void>) =>
  test(sentence, { timeout: 60_000 }, body);

type Peer = Awaited<ReturnType<typeof connect>>;

/**
 * Upper bounds leave room for a busy machine, lower ones for clocks that round. Time is taken from what this process
 * did, not from what it got: a message that is read late would make the time to the next one short.
 */
function assertTook(ms: number, least: number, most: number, what: string): void {
  assert.ok(ms >= least - 20 && ms <= most + slackMs(), `${what}: ${ms.toFixed(0)} ms instead of ${least} to ${most}`);
}

/** Sends a signal and says when. */
function signal(server: Program, name: NodeJS.Signals = "SIGTERM"): number {
  const at = performance.now();
  server.child.kill(name);
  return at;
}

/** Asserts the exit with its time: the end alone would be there after a SIGKILL as well. */
async function assertExit(server: Program, expected: number, since: number, least: number, most: number) {
  const { code, at } = await server.exited;
  assert.equal(code, expected, server.lines.join("\n"));
  assertTook(at - since, least, most, "exit");
}

/** A session that answers SHUTDOWN at once with its ACK. */
async function join(t: TestContext, url: string, ack = ACK): Promise<Peer> {
  const peer = await connect(t, url);
  peer.ws.on("message", (text) => String(text).startsWith('{"type":"SHUTDOWN"') && peer.send(ack));
  return peer;
}

const many = <T>(number: number, make: () => Promise<T>) => Promise.all(Array.from({ length: number }, make));

/** Arrival of the first message of a type. */
function arrival({ texts, arrivals }: Peer, type: string): number {
  return arrivals[texts.findIndex((text) => text.startsWith(`{"type":"${type}"`))]!;
}

const typesOf = (peer: Peer) => peer.frames().map(({ type }) => type);
const dataOf = (peer: Peer) => peer.frames().filter((frame) => frame.type === "DATA");

function assertNoGap(peer: Peer): void {
  const seqs = dataOf(peer).map(({ seq }) => seq);
  assert.deepEqual(seqs, seqs.map((_, index) => index + 1));
}

/** Settles when the server has read all that the peer has sent, and the peer all that the server had sent by then. */
async function roundTrip({ ws }: Peer): Promise<void> {
  ws.ping();
  await once(ws, "pong");
}

/** Waits for pings, as long as the connection lives. */
async function pings({ ws, closed }: Peer, number: number): Promise<void> {
  const ended = closed.then(() => assert.fail("closed before the ping came"));
  for (let nth = 0; nth < number; nth++) await Promise.race([once(ws, "ping"), ended]);
}

function upgrade(path = "/ws", version = 13, header = ""): string {
  return `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n${header}` +
    `Sec-WebSocket-Version: ${version}\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n`;
}

/** A TCP connection that sends some bytes, then only reads: no pong, no close frame and, half open, no FIN. */
function talk(port: number | string, bytes: string | Buffer = "", allowHalfOpen = false) {
  const socket = connectTcp({ port: Number(port), host: "127.0.0.1", allowHalfOpen });
  let reply = "";
  socket.setEncoding("latin1").on("data", (text) => reply += text).on("error", () => {}); // a reset is an end as well
  const closed = new Promise<{ reply: string; at: number }>((resolve) => {
    for (const end of ["end", "close"]) socket.once(end, () => resolve({ reply, at: performance.now() }));
  });
  if (bytes.length > 0) socket.write(bytes);
  return { socket, reply: () => reply, closed };
}

async function upgradeByHand(t: TestContext, port: number, header = "") {
  const peer = talk(port, upgrade("/ws", 13, header));
  t.after(() => peer.socket.destroy());
  while (!/^HTTP.1.1 101 .*\r\n\r\n/s.test(peer.reply())) await once(peer.socket, "data");
  return peer;
}

/** A text message as a client frames it, masked with zeros: ws would refuse to send some of them. */
const frameOf = (...bytes: number[]) => Buffer.from([0x81, 0x80 | bytes.length, 0, 0, 0, 0, ...bytes]);

const status = async (url: string) => (await fetch(url)).status;

describe("server", { concurrency: 2 }, () => {
  // At two values, as every time here: one would pass with a constant in the code.
  for (const intervalMs of [50, 400]) {
    it(`sends HELLO, DATA at once, and DATA every ${intervalMs} ms`, async (t) => {
      const server = await startServer(t, `--interval=${intervalMs}`);
      const startedAt = performance.now();
      const peer = await connect(t, server.url);
      await peer.frame("DATA", ({ seq }) => seq === 4);
      const { session, instance, ...hello } = await peer.frame("HELLO");
      assert.deepEqual(hello, { type: "HELLO", server: "server-1", intervalMs });
      assert.match(session, UUID);
      assert.match(instance, UUID);
      assert.deepEqual(typesOf(peer), ["HELLO", "DATA", "DATA", "DATA", "DATA"]);
      for (const [index, { at, ...rest }] of dataOf(peer).entries()) {
        assert.deepEqual(rest, { type: "DATA", seq: index + 1, ack: 0 });
        assertTook(Math.abs(Date.now() - Date.parse(at)), 0, 10_000, "age of a message");
      }
      assertTook(peer.arrivals[1]! - peer.arrivals[0]!, 0, 200, "HELLO to first DATA");
      assertTook(peer.arrivals[4]! - startedAt, 3 * intervalMs, 3 * intervalMs + 900, "three intervals");
    });
  }

  it("acknowledges the highest sequence number of the client", async (t) => {
    const server = await startServer(t, "--interval=20");
    const peer = await connect(t, server.url);
    for (const seq of [7, 8, 3]) peer.send(data(seq));
    await roundTrip(peer);
    const { seq } = await peer.frame("DATA", ({ ack }) => ack === 8);
    await peer.frame("DATA", (frame) => frame.seq === seq + 3);
    for (const frame of dataOf(peer)) assert.ok(frame.seq < seq ? frame.ack < 8 : frame.ack === 8, encode(frame));
  });

  it("is one instance in all its sessions, and another after a restart", async (t) => {
    const hello = async (url: string) => await (await connect(t, url)).frame("HELLO");
    const [before, after] = [await startServer(t), await startServer(t)];
    const [first, second, third] = [await hello(before.url), await hello(before.url), await hello(after.url)];
    assert.equal(first.instance, second.instance);
    assert.notEqual(first.session, second.session);
    assert.notEqual(first.instance, third.instance);
  });

  it("counts gaps and repeats of client sequence numbers, and closes nobody for them", async (t) => {
    const server = await startServer(t, ...QUIET);
    const peer = await join(t, server.url, encode({ type: "ACK", lastSeq: 10 }));
    for (const seq of [5, 6, 9, 9, 4, 10]) peer.send(data(seq)); // the first may be any
    await roundTrip(peer);
    signal(server);
    assert.equal((await peer.frame("CLOSE")).received, 10);
    assert.equal((await peer.closed).code, 1001);
    assert.match(await server.line(/drain-complete/), /client sequence: 1 gap, 2 repeats/);
  });

  const drains = [["SIGTERM", 3, 100, 1001], ["SIGINT", 4, 400, 1012], ["SIGTERM", 0, 100, 1001]] as const;
  for (const [name, remaining, intervalMs, code] of drains) {
    it(`drains on ${name}: SHUTDOWN, ${remaining} DATA, CLOSE, close frame ${code}, FIN, exit 0`, async (t) => {
      const script = [`--remaining=${remaining}`, `--remaining-interval=${intervalMs}`, `--close-code=${code}`];
      const server = await startServer(t, "--interval=30", "--drain-timeout=20000", ...script);
      const peer = await join(t, server.url, encode({ type: "ACK", lastSeq: 9 }));
      let fin = false;
      peer.socket.on("end", () => fin = true);
      peer.send(data(9));
      await peer.frame("DATA", ({ seq, ack }) => seq >= 3 && ack === 9);
      const signalledAt = signal(server, name);
      const closed = await peer.closed;
      await assertExit(server, 0, closed.at, -50, 1000);
      assert.deepEqual({ code: closed.code, fin }, { code, fin: true });

      const { budgetMs, at: _at, reason: _reason, ...shutdown } = await peer.frame("SHUTDOWN");
      const notice = typesOf(peer).indexOf("SHUTDOWN");
      const lastSeq = notice - 1 + remaining; // HELLO has no number
      assert.deepEqual(shutdown, { type: "SHUTDOWN", remaining, lastSeq, intervalMs });
      assert.ok(budgetMs <= 20_000 && budgetMs > 19_000, `the budget was ${budgetMs} ms`);
      assertNoGap(peer);
      const { at: _closedAt, ...close } = await peer.frame("CLOSE");
      assert.deepEqual(close, { type: "CLOSE", sent: lastSeq, received: 9 });
      assert.deepEqual(typesOf(peer).slice(notice + 1), [...Array(remaining).fill("DATA"), "CLOSE"]);

      for (let nth = 0; nth <= remaining; nth++) { // 0: SHUTDOWN
        const dueMs = nth * intervalMs;
        assertTook(peer.arrivals[notice + nth]! - signalledAt, dueMs, dueMs + 900, `signal to message ${nth}`);
      }
      assertTook(closed.at - peer.arrivals[notice + remaining]!, 0, 500, "last message to FIN");
    });
  }

  it("draws the number of remaining messages from 1 to 10 for each session", async (t) => {
    const server = await startServer(t, "--interval=60000", "--remaining-interval=5");
    const peers = await many(200, () => join(t, server.url)); // that one of ten numbers never comes: 1 in 10⁸
    await assertExit(server, 0, signal(server), 0, 5000);
    const drawn = await Promise.all(peers.map(async (peer) => (await peer.frame("SHUTDOWN")).remaining));
    assert.deepEqual([...new Set(drawn)].sort((a, b) => a - b), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
    peers.forEach(assertNoGap);
    assert.deepEqual(peers.map((peer) => dataOf(peer).length), drawn.map((remaining) => 1 + remaining));
  });

  it("drains its sessions concurrently", async (t) => {
    const server = await startServer(t, "--remaining=5", "--remaining-interval=100");
    await many(10, () => join(t, server.url));
    await assertExit(server, 0, signal(server), 500, 2500);
    assert.match(await server.line(/drain-complete/), /drained 10 sessions in \d\.\d\d s/);
  });

  for (const spreadMs of [300, 1500]) {
    it(`spreads the starts of its drains over ${spreadMs} ms`, async (t) => {
      const server = await startServer(t, ...QUIET, `--spread=${spreadMs}`);
      const peers = await many(40, () => join(t, server.url));
      const signalledAt = signal(server);
      await assertExit(server, 0, signalledAt, 0.7 * spreadMs, spreadMs + 900);
      const starts = peers.map((peer) => arrival(peer, "SHUTDOWN") - signalledAt);
      assertTook(Math.max(...starts), 0.7 * spreadMs, spreadMs + 600, "the last start");
      assertTook(Math.max(...starts) - Math.min(...starts), 0.4 * spreadMs, spreadMs + 600, "first to last start");
    });
  }

  it("sends CLOSE only after the ACK and the last message that it announces, and then at once", async (t) => {
    const server = await startServer(t, ...QUIET, "--remaining=2");
    const [peer, other] = [await connect(t, server.url), await join(t, server.url)];
    peer.send(data(1));
    await roundTrip(peer);
    signal(server);
    await other.closed; // whatever only a timer holds back has gone out by now
    await peer.frame("DATA", ({ seq }) => seq === 3);
    const assertSilent = async () => {
      await roundTrip(peer);
      assert.deepEqual(typesOf(peer), ["HELLO", "DATA", "SHUTDOWN", "DATA", "DATA"]);
    };
    await assertSilent();
    peer.send({ type: "ACK", lastSeq: 2 });
    await assertSilent();
    const at = performance.now();
    peer.send(data(2, 3));
    assert.equal((await peer.frame("CLOSE")).received, 2);
    assertTook(arrival(peer, "CLOSE") - at, 0, 500, "client's last message to CLOSE");
    assert.equal((await peer.closed).code, 1001);
    await assertExit(server, 0, at, 0, 1500);
  });

  it("ignores what comes after CLOSE", async (t) => {
    const server = await startServer(t, ...QUIET);
    const peer = await join(t, server.url);
    const late = ["garbage", Buffer.from([1, 2, 3]), encode(data(1))];
    peer.ws.on("message", (text) => String(text).startsWith('{"type":"CLOSE"') && late.map((it) => peer.ws.send(it)));
    await assertExit(server, 0, signal(server), 10, 2000);
    assert.equal((await peer.closed).code, 1001);
    assert.match(await server.line(/session-closed/), /with 1001: sent 2, received 0$/);
    assert.doesNotMatch(server.lines.join("\n"), /invalid-frame/);
  });

  it("is alive but not ready in a drain, and refuses new upgrades with words until it ends", async (t) => {
    const server = await startServer(t, ...QUIET, "--remaining-interval=300");
    const peer = await connect(t, server.url);
    assert.deepEqual([await status(`${server.admin}/healthz`), await status(`${server.admin}/readyz`)], [200, 200]);
    const signalledAt = signal(server);
    await peer.frame("DATA", ({ seq }) => seq === 2); // 300 ms later; then it waits for the ACK
    assert.deepEqual([await status(`${server.admin}/healthz`), await status(`${server.admin}/readyz`)], [200, 503]);
    const refused = talk(server.port, upgrade(), true);
    t.after(() => refused.socket.destroy());
    const { reply, at: refusedAt } = await refused.closed;
    assert.match(reply, /^HTTP\/1\.1 503 Service Unavailable\r\n/);
    assert.match(reply, /^Connection: close\r$/mi);
    assert.match(reply, /^Retry-After: \d+\r$/mi);
    peer.send(ACK);
    await assertExit(server, 0, refusedAt, 0, 900);
    const complete = await server.line(/drain-complete/);
    const [, number, unit] = /1 new connection refused, the last at \+([\d.]+)(m?s)\b/.exec(complete) ??
      assert.fail(complete);
    const offsetMs = Number(number) * (unit === "s" ? 1000 : 1);
    assertTook(offsetMs, 300, refusedAt - signalledAt + 10, "offset of the refusal");
  });

  it("lets go of both ports and of silent connections when the last session has ended", async (t) => {
    const server = await startServer(t, ...QUIET);
    const ports = [server.port, new URL(server.admin).port];
    const idle = ports.flatMap((port) => [talk(port), talk(port, "GET /ws HTTP/1.1\r\nHost:")]);
    t.after(() => idle.forEach(({ socket }) => socket.destroy()));
    await Promise.all(idle.map(({ socket }) => once(socket, "connect")));
    assert.equal(await status(`${server.admin}/healthz`), 200); // leaves a third kind: kept alive
    const peer = await join(t, server.url);
    signal(server);
    await assertExit(server, 0, (await peer.closed).at, -50, 900);
    await Promise.all(idle.map(({ closed }) => closed));
    for (const port of ports) await assert.rejects(once(talk(port).socket, "connect"), { code: "ECONNREFUSED" });
  });

  for (const timeoutMs of [400, 1500]) {
    it(`terminates after ${timeoutMs} ms who has not drained, names him and exits 1`, async (t) => {
      const server = await startServer(t, ...QUIET, `--drain-timeout=${timeoutMs}`);
      const [straggler, other] = [await connect(t, server.url), await join(t, server.url)];
      const { session } = await straggler.frame("HELLO");
      await assertExit(server, 1, signal(server), timeoutMs, timeoutMs + 900);
      assert.deepEqual([(await other.closed).code, (await straggler.closed).code], [1001, 1006]);
      const cuts = server.lines.filter((line) => /session-cut/.test(line));
      assert.equal(cuts.length, 1);
      assert.match(cuts[0]!, new RegExp(`${session.slice(0, 8)} .*ACK missing`));
    });

    it(`terminates after ${timeoutMs} ms who does not answer its close frame, and still exits 0`, async (t) => {
      const server = await startServer(t, ...QUIET, `--close-timeout=${timeoutMs}`);
      const peer = await upgradeByHand(t, server.port);
      await assertExit(server, 0, signal(server), timeoutMs + 10, timeoutMs + 910);
      const closeFrame = Buffer.from([0x88, 2 + 23, 0x03, 0xe9]).toString("latin1"); // 0x03e9 = 1001
      assert.ok((await peer.closed).reply.endsWith(`CLOSE${closeFrame}server is shutting down`), peer.reply());
      assert.match(await server.line(/drain-complete/), /drained 1 session in .*, 1 unconfirmed/);
    });
  }

  it("exits 1 at once on a second signal", async (t) => {
    const server = await startServer(t, ...QUIET);
    const peer = await connect(t, server.url);
    signal(server);
    await peer.frame("SHUTDOWN");
    await assertExit(server, 1, signal(server, "SIGINT"), 0, 1000);
    assert.match(await server.line(/ forced /), /second signal, 1 session open/);
  });

  it("exits 0 when the signal comes before it listens", async (t) => {
    // A name to look up lets the event loop turn, and so the signal in, after the handler is there and before listen().
    const early = "process.on('newListener',(name)=>name==='SIGTERM'&&process.kill(process.pid,name))";
    const env = { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(early)}` };
    const server = start(t, [...SERVER, "--host=localhost"], env);
    await server.line(/shutdown-signal/);
    const since = performance.now();
    const listens = server.line(/ listening /).then(() => assert.fail("listens, although the signal was there before"));
    await Promise.race([assertExit(server, 0, since, -100, 2000), listens]);
  });

  it("refuses sessions above --max-sessions with 503 until one has gone", async (t) => {
    const server = await startServer(t, "--max-sessions=2");
    const [first] = await many(2, () => connect(t, server.url));
    assert.match((await talk(server.port, upgrade()).closed).reply, /^HTTP\/1\.1 503 .*^Retry-After: \d+\r$/ms);
    first!.ws.close(1000);
    await server.line(/session-closed .* with 1000/);
    await (await connect(t, server.url)).frame("HELLO");
  });

  it("makes a peer wait that does not read, and loses none of its messages", async (t) => {
    const server = await startServer(t, "--payload=60000", "--interval=5", "--max-buffer=100000", "--remaining=3");
    const [peer, other] = [await join(t, server.url), await join(t, server.url)];
    peer.ws.pause();
    await other.text((text) => text.startsWith('{"type":"DATA","seq":600,')); // 36 MB, more than the kernel takes
    const resumedAt = Date.now();
    peer.ws.resume();
    await peer.text((text) => Date.parse(/"at":"([^"]+)/.exec(text.slice(0, 90))?.[1] ?? "") > resumedAt);
    peer.ws.pause();
    signal(server);
    await other.closed;
    peer.ws.resume();
    assert.equal((await peer.closed).code, 1001);
    assertNoGap(peer);
    assert.equal((await peer.frame("CLOSE")).sent, dataOf(peer).length);
    const ahead = dataOf(peer).filter(({ at }) => Date.parse(at) < resumedAt).length;
    assert.ok(ahead < 400, `${ahead} messages were made for a peer that did not read`);
    assert.ok(dataOf(peer).every(({ payload }) => payload?.length === 60_000));
  });

  it("gives a slow reader its time: its answer is awaited once the close frame can have left", async (t) => {
    const drain = ["--remaining=200", "--remaining-interval=1", "--close-timeout=300"];
    const flags = ["--payload=60000", "--max-buffer=100000000", "--interval=60000"]; // 12 MB, more than the kernel takes
    const server = await startServer(t, ...flags, ...drain);
    const peer = await join(t, server.url);
    peer.ws.on("message", (text) => String(text).startsWith('{"type":"SHUTDOWN"') && peer.ws.pause());
    signal(server);
    await peer.frame("SHUTDOWN");
    await pause(1500);
    peer.ws.resume();
    assert.equal((await peer.closed).code, 1001);
    assert.deepEqual([dataOf(peer).length, (await peer.frame("CLOSE")).sent], [201, 201]);
    assert.equal((await server.exited).code, 0);
    assert.match(await server.line(/drain-complete/), /drained 1 session in [\d.]+ s$/);
  });

  it("leaves who has drained his time to answer, also past the drain's deadline", async (t) => {
    const flags = ["--remaining=1", "--remaining-interval=500", "--drain-timeout=700", "--close-timeout=1500"];
    const server = await startServer(t, ...flags);
    await upgradeByHand(t, server.port); // answers nothing
    await assertExit(server, 0, signal(server), 2000, 3500);
    assert.match(await server.line(/drain-complete/), /drained 1 session in .*, 1 unconfirmed/);
  });

  it("counts who sent what ws itself refuses as terminated", async (t) => {
    const server = await startServer(t);
    const peer = await connect(t, server.url);
    peer.ws.send("x".repeat(70_000));
    assert.equal((await peer.closed).code, 1009);
    await server.line(/session-closed /);
    const metrics = await (await fetch(`${server.admin}/metrics`)).text();
    assert.match(metrics, /sessions_total\{[^}]*outcome="terminated"[^}]*\} 1$/m);
  });

  for (const timeoutMs of [800, 1600]) {
    it(`terminates a peer that answers no ping for ${timeoutMs} ms, and keeps one that does`, async (t) => {
      const server = await startServer(t, "--interval=60000", `--silence-timeout=${timeoutMs}`);
      const lively = await connect(t, server.url);
      const openedAt = performance.now();
      const kept = pings(lively, 6);
      const { closed } = await upgradeByHand(t, server.port);
      assertTook((await closed).at - openedAt, timeoutMs, 1.5 * timeoutMs + 600, "upgrade to termination");
      await server.line(/session-silent .* answers no ping: terminated/);
      await kept;
      assertTook(performance.now() - openedAt, 2 * timeoutMs, 30_000, "six pings");
      await roundTrip(lively);
      assert.equal(server.lines.filter((line) => /session-silent/.test(line)).length, 1);
    });
  }

  it("counts the silence of a peer from its last sign of life", async (t) => {
    const server = await startServer(t, "--interval=20", "--silence-timeout=1000");
    const peer = await upgradeByHand(t, server.port);
    const openedAt = performance.now();
    let saidAt = openedAt;
    peer.socket.on("data", () => {
      if (performance.now() - openedAt > 450) return; // the first ping is due at 500: no earlier one may count
      saidAt = performance.now();
      peer.socket.write(frameOf(0x68, 0x69));
    });
    assertTook((await peer.closed).at - saidAt, 1000, 2100, "last message to termination");
  });

  it("terminates a probe that answers no ping as well", async (t) => {
    const server = await startServer(t, "--silence-timeout=300");
    const probe = await upgradeByHand(t, server.port, `${PROBE_HEADER}: 1\r\n`);
    const openedAt = performance.now();
    const lively = await connect(t, server.url);
    await pings(lively, 12);
    assertTook(performance.now() - openedAt, 1500, 30_000, "twelve pings");
    assert.equal(probe.socket.readyState, "closed");
  });

  it("speaks plain text to the letter to a client without the subprotocol, and counts whatever it says", async (t) => {
    const server = await startServer(t, "--interval=150", "--remaining=3", "--remaining-interval=150");
    const startedAt = performance.now();
    const peer = await connect(t, server.url, { protocol: "" });
    assert.equal(peer.ws.protocol, "");
    for (const said of [Buffer.from([0, 255]), '{"type":"HELLO"}', "\0garbage", "", "CLOSE"]) peer.ws.send(said);
    await peer.text(() => true, 2);
    await assertExit(server, 0, signal(server), 450, 1500);
    assert.equal((await peer.closed).code, 1001);
    const texts = peer.texts.map((text) => text.replace(/\b([01]\d|2[0-3]):[0-5]\d:[0-5]\d\b/, "HH:MM:SS"));
    const notice = texts.indexOf("SHUTDOWN");
    assert.ok(notice >= 3);
    assert.deepEqual(texts.slice(0, notice), Array(notice).fill("Business data: HH:MM:SS"));
    const final = [1, 2, 3].map((nth) => `Final data: HH:MM:SS - ${nth}`);
    assert.deepEqual(texts.slice(notice), ["SHUTDOWN", ...final, "CLOSE"]);
    assertTook(peer.arrivals[2]! - startedAt, 300, 1200, "two intervals");
    assert.doesNotMatch(server.lines.join("\n"), /invalid-frame/);
    assert.match(await server.line(/session-closed/), new RegExp(`sent ${notice + 3}, received 5$`));
  });

  it("tells a probe HELLO and nothing else, and does not wait for it in a drain", async (t) => {
    const server = await startServer(t, "--interval=20", "--remaining=1");
    const asProbe = { protocol: SUBPROTOCOL, headers: { [PROBE_HEADER]: "1" } };
    const [probe, peer] = [await connect(t, server.url, asProbe), await join(t, server.url)];
    await peer.frame("DATA", ({ seq }) => seq === 10);
    signal(server);
    await assertExit(server, 0, (await peer.closed).at, -50, 1000);
    await probe.closed;
    assert.deepEqual(typesOf(probe), ["HELLO"]);
    assert.match(await server.line(/shutdown-signal/), /draining 1 session$/);
  });

  const hello = encode({ type: "HELLO", server: "a", instance: "b", session: "c", intervalMs: 1 });
  const raw = (bytes: Buffer) => ({ bytes });
  const invalid: [what: string, sent: string | Buffer | { bytes: Buffer }, code: number, complaint: RegExp][] = [
    ["a binary message", Buffer.from("{}"), 1003, /binary message/],
    ["text that is not JSON", "hello", 1007, /must be JSON: current value is "hello"/],
    ["64 KiB of garbage", "x".repeat(65_536), 1007, /must be JSON: current value is "xxx/],
    ["10 KB of brackets", `{"type":${"[".repeat(5000)}${"]".repeat(5000)}}`, 1007, /'type' must be .* is an array/],
    ["null", "null", 1007, /'type' must be one of HELLO.* undefined/],
    ["an unknown type", JSON.stringify({ type: "NOPE" }), 1007, /'type' must be one of HELLO.* "NOPE"/],
    ["a type from the prototype", JSON.stringify({ type: "toString" }), 1007, /'type' must be one of .* "toString"/],
    ["DATA without seq", JSON.stringify({ ...data(1), seq: undefined }), 1007, /DATA frame: 'seq' must .* undefined/],
    ["DATA with seq 0", encode(data(0)), 1007, /DATA frame: 'seq' must be a positive integer: current value is 0/],
    ["DATA with seq 1.5", encode(data(1.5)), 1007, /'seq' must be a positive integer: current value is 1\.5/],
    ["DATA with a text as seq", JSON.stringify({ ...data(1), seq: "1" }), 1007, /'seq' must .* current value is "1"/],
    ["DATA with ack -1", encode(data(1, -1)), 1007, /'ack' must be an integer from 0 on: current value is -1/],
    ["DATA with a number as time", JSON.stringify({ ...data(1), at: 5 }), 1007, /'at' must be an ISO 8601 .* 5/],
    ["DATA with a list as payload", JSON.stringify({ ...data(1), payload: [] }), 1007, /'payload' must be a string/],
    ["ACK without lastSeq", JSON.stringify({ type: "ACK" }), 1007, /ACK frame: 'lastSeq' must .* undefined/],
    ["HELLO", hello, 1007, /Cannot accept HELLO frame: only the server sends it/],
    // These ws finds by itself, and closes without a reason: the log has it.
    ["invalid UTF-8", raw(frameOf(0xc0, 0xaf)), 1007, /UTF-8/],
    ["64 KiB and a byte", "x".repeat(65_537), 1009, /payload size exceeded/],
    ["an unmasked frame", raw(Buffer.from([0x81, 2, 0x7b, 0x7d])), 1002, /MASK must be set/],
    ["a reserved opcode", raw(Buffer.from([0x83, 0x80, 0, 0, 0, 0])), 1002, /invalid opcode 3/],
  ];
  for (const [what, sent, code, complaint] of invalid) {
    it(`closes a session for ${what} with ${code}, says why, and harms no other`, async (t) => {
      const server = await startServer(t, "--interval=20");
      const [peer, other] = [await connect(t, server.url), await connect(t, server.url)];
      if (typeof sent === "object" && "bytes" in sent) peer.socket.write(sent.bytes);
      else peer.ws.send(sent);
      const closed = await peer.closed;
      assert.equal(closed.code, code);
      const line = await server.line(/ invalid-frame /);
      assert.match(line, complaint);
      assert.ok(line.includes((await peer.frame("HELLO")).session.slice(0, 8)), line);
      const ours = !/UTF-8|payload size|MASK|opcode/.test(line);
      assert.match(closed.reason, ours ? complaint : /^$/);
      const last = dataOf(other).length;
      await other.frame("DATA", ({ seq }) => seq === last + 3);
      assertNoGap(other);
    });
  }

  it("accepts a message in a thousand fragments", async (t) => {
    const server = await startServer(t, "--interval=20");
    const peer = await connect(t, server.url);
    const text = JSON.stringify({ ...data(3), payload: "x".repeat(1000) });
    for (let index = 0; index < 999; index++) peer.ws.send(text[index]!, { fin: false });
    peer.ws.send(text.slice(999), { fin: true });
    await peer.frame("DATA", ({ ack }) => ack === 3);
  });

  it("serves its session while ten thousand connections bring garbage", async (t) => {
    const server = await startServer(t, "--interval=50", "--remaining=1");
    const peer = await join(t, server.url);
    const mute = Array.from({ length: 50 }, () => talk(server.port, "GET /ws HTTP/1.1\r\n"));
    t.after(() => mute.forEach(({ socket }) => socket.destroy()));
    const kinds: [said: () => string | Buffer, status: string, hangUp?: "end" | "resetAndDestroy"][] = [
      [() => Buffer.concat([Buffer.from([0]), randomBytes(63)]), "400"],
      [() => "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "426"],
      [() => upgrade("/elsewhere"), "404"],
      [() => upgrade("/ws", 12), "400"],
      [() => "", "", "end"],
      [() => "GET /ws HTTP/1.1\r\nHost:", "", "resetAndDestroy"],
      [() => upgrade(), "", "resetAndDestroy"],
    ];
    let knocks = 0;
    await many(150, async () => {
      while (knocks < 10_000) {
        const [said, expected, hangUp] = kinds[knocks++ % kinds.length]!;
        const { socket, closed } = talk(server.port, said());
        if (hangUp !== undefined) socket.once("connect", () => socket[hangUp]());
        assert.equal((await closed).reply.slice(9, 12), expected);
      }
    });
    await assertExit(server, 0, signal(server), 100, 3000);
    assert.equal((await peer.closed).code, 1001);
    assertNoGap(peer);
    const waits = peer.arrivals.slice(2).map((at, index) => at - peer.arrivals[index + 1]!);
    assertTook(Math.max(...waits), 50, 5000, "longest wait for a message");
  });

  const refusals: [what: string, said: string, header: RegExp, body: RegExp][] = [
    ["an upgrade on a wrong path with 404", upgrade("/elsewhere"), /^HTTP\/1\.1 404 Not Found$/m, /^.*\/ws.*\n$/],
    ["a plain request with 426", "GET /ws HTTP/1.0\r\n\r\n", /^Upgrade: websocket$/mi, /^[^.\n]*WebSocket[^.\n]*\.\n$/],
    ["WebSocket version 12 with 400", upgrade("/ws", 12), /^Sec-WebSocket-Version: 13\b/mi, /^.*Version.*\n$/],
  ];
  for (const [what, said, header, body] of refusals) {
    it(`refuses ${what}, and says what it wants`, async (t) => {
      const server = await startServer(t);
      const parts = (await talk(server.port, said).closed).reply.split("\r\n\r\n");
      const head = parts[0]!.replaceAll("\r", "");
      assert.equal(head.slice(9, 12), what.slice(-3));
      assert.match(head, header);
      assert.match(head, /^Connection: close\b/mi);
      assert.match(parts[1]!, body);
    });
  }

  const mistakes: Record<string, RegExp> = {
    "--nonsense=1": /^Unknown flag --nonsense: see --help$/,
    "serve": /^Unexpected argument 'serve': see --help$/,
    "--port": /^--port needs a value: see --help$/,
    "--port=abc": /^--port must be an integer from 0 to 65535: current value is 'abc'$/,
    "PORT=abc": /^PORT must be an integer from 0 to 65535: current value is 'abc'$/,
    "--admin-port=65536": /^--admin-port must be an integer from 0 to 65535: current value is '65536'$/,
    "--remaining=5-1": /^--remaining must be a number, or a range such as 1-10, .*: current value is '5-1'$/,
    "--fault=typo": /^--fault must be one of none, ignore-sigterm, .*: current value is 'typo'$/,
    "--close-code=1005": /^--close-code must be a close code that may be sent: .*: current value is '1005'$/,
    "--interval=0": /^--interval must be ms from 1 to \d+, or a duration with its unit .*: current value is '0'$/,
    "LOG_FORMAT=xml": /^LOG_FORMAT must be one of pretty, json: current value is 'xml'$/,
    "--spread=500 --remaining=1-5 --remaining-interval=100 --drain-timeout=1000":
      /^--drain-timeout must be above --spread \+ .* = 1000: current value is '1000'$/,
    "--host=no.such.host.invalid": /^Cannot listen on port \d+: .*no\.such\.host\.invalid$/,
    "--port=IN_USE": /^Cannot listen on port \d+: .*EADDRINUSE.*$/,
    "--admin-port=IN_USE": /^Cannot listen on port \d+: .*EADDRINUSE.*$/,
  };
  for (const [settings, complaint] of Object.entries(mistakes)) {
    it(`refuses ${settings} with one line, exit 2`, async (t) => {
      const holder = createTcpServer().listen(0);
      t.after(() => holder.close());
      await once(holder, "listening");
      const { port } = holder.address() as { port: number };
      const words = settings.replace("IN_USE", String(port)).split(" ");
      const env = words.filter((word) => /^[A-Z]/.test(word)).map((word) => word.split("="));
      const args = words.filter((word) => !/^[A-Z]/.test(word));
      const free = { PORT: "0", ADMIN_PORT: "0", ...Object.fromEntries(env) };
      const { code, stdout, stderr } = await run(t, [...SERVER.slice(0, 2), ...args], free);
      assert.deepEqual({ code, stdout }, { code: 2, stdout: "" });
      assert.match(stderr, complaint); // without the flag m: there is no second line
      if (settings.endsWith("IN_USE")) assert.ok(stderr.includes(`port ${port}:`), stderr);
    });
  }

  it("prefers a flag to the environment, and that to the default", async (t) => {
    const interval = async (env: Record<string, string>, ...flags: string[]) => {
      const server = start(t, [...SERVER, ...flags], env);
      const url = /ws:\S+\/ws/.exec(await server.line(/ listening /))![0];
      return (await (await connect(t, url)).frame("HELLO")).intervalMs;
    };
    assert.equal(await interval({}), 2000);
    assert.equal(await interval({ INTERVAL_MS: "300" }), 300);
    assert.equal(await interval({ INTERVAL_MS: "300" }, "--interval=200"), 200);
  });

  it("prints its settings and its version on stdout", async (t) => {
    const { stdout, ...end } = await run(t, [...SERVER, "--help"]);
    assert.deepEqual(end, { code: 0, signal: null, stderr: "" });
    for (const { flag, env, fallback } of Object.values(SETTINGS)) {
      assert.match(stdout, new RegExp(`^ +--${flag} +${env} +${fallback}\\b`, "m"));
    }
    const version = await run(t, [...SERVER, "--version"]);
    assert.deepEqual(version, { code: 0, signal: null, stdout: `${VERSION}\n`, stderr: "" });
  });

  it("logs one ECS object per line with LOG_FORMAT=json", async (t) => {
    const server = start(t, [...SERVER, ...QUIET], { LOG_FORMAT: "json" });
    const { labels: { port } } = JSON.parse(await server.line(/"listening"/));
    const [, bad] = await many(2, () => join(t, `ws://127.0.0.1:${port}/ws`));
    bad!.send("line one\nline two");
    await server.line(/"session-closed"/);
    await assertExit(server, 0, signal(server), 10, 2000);
    const lines = server.lines.map((line) => JSON.parse(line) as Record<string, string>);
    assert.equal(
      lines.map((line) => line["event.action"]).join(" "),
      "listening session-opened session-opened invalid-frame session-closed " +
        "shutdown-signal session-closed drain-complete",
    );
    for (const line of lines) {
      assert.equal(new Date(line["@timestamp"]!).toISOString(), line["@timestamp"]);
      assert.equal(line["log.level"], line["event.action"] === "invalid-frame" ? "warn" : "info");
      assert.equal(line["service.name"], "k8s-graceful-shutdown-test-server");
      assert.match(line["ecs.version"]!, /^\d+\.\d+/);
      assert.match(line["message"]!, /./);
    }
  });

  it("drains and exits 0 after its log was closed", async (t) => {
    const server = await startServer(t, ...QUIET);
    server.child.stderr!.destroy();
    const [peer, bad] = [await join(t, server.url), await connect(t, server.url)];
    bad.send("a line for the log");
    await bad.closed;
    await assertExit(server, 0, signal(server), 10, 2000);
    assert.equal((await peer.closed).code, 1001);
    assert.deepEqual(typesOf(peer), ["HELLO", "DATA", "SHUTDOWN", "DATA", "CLOSE"]);
  });

  it("drains and exits although nobody reads its log", async (t) => {
    const server = start(t, [...SERVER, ...QUIET, "--drain-timeout=1500"], { LOG_FORMAT: "json" });
    const { labels: { port } } = JSON.parse(await server.line(/"listening"/));
    const peer = await join(t, `ws://127.0.0.1:${port}/ws`);
    await many(1000, () => connect(t, `ws://127.0.0.1:${port}/ws`)); // a line for each that is cut: 300 kB
    server.child.stderr!.pause();
    const exit = once(server.child, "exit").then(() => performance.now());
    const hangs = once(AbortSignal.timeout(8000), "abort").then(() => assert.fail("hangs until its log is read"));
    const signalledAt = signal(server);
    assertTook(await Promise.race([exit, hangs]) - signalledAt, 1500, 7000, "exit");
    assert.equal(server.child.exitCode, 1);
    assert.equal((await peer.closed).code, 1001);
  });
});

/** What --help shows as defaults. */
const DEFAULTS = Object.fromEntries(
  Object.entries(SETTINGS).map(([name, { parse, fallback }]) => [name, parse(fallback)]),
) as unknown as Settings;

/** All that a session takes, with some settings of the test's own; `lines` is what was logged. */
function makeCommon(settings: Partial<Settings>) {
  const lines: string[] = [];
  const line = (action: string, message: string) => void lines.push(`${action} ${message}`);
  const log = { line, each: (action: string, say: () => [string, ...unknown[]]) => line(action, say()[0]), end() {} };
  const ended: string[] = [];
  const all = { ...DEFAULTS, name: "server-1", port: 0, adminPort: 0, intervalMs: 60_000, ...settings };
  const common: Common = {
    settings: all,
    conduct: conductOf(all.fault),
    log,
    tally: new Tally(),
    padding: {},
    instance: "this-process",
    sessions: new Set(),
    onEnded: (outcome) => ended.push(outcome),
    reset: (socket) => socket.resetAndDestroy(),
  };
  return { common, lines, ended };
}

/** One session alone, on a real socket, and its peer. */
async function pair(t: TestContext, common: Common) {
  const { url } = await startPeer(t, (ws, socket) => {
    common.sessions.add(new Session({ ws, socket, common }));
  });
  const peer = await connect(t, url);
  const [session] = common.sessions;
  return { peer, session: session! };
}

describe("a session alone", () => {
  it("greets, counts, tells, sends what remains, says farewell", async (t) => {
    const { common, ended, lines } = makeCommon({ remaining: { least: 2, most: 2 } });
    const { peer, session } = await pair(t, common);
    await peer.frame("DATA");
    peer.send(data(1));
    await roundTrip(peer);
    assert.deepEqual(session.traffic, { sent: 1, received: 1 });
    assert.equal(session.announce(1000), true);
    assert.equal(session.announce(1000), false, "only once");
    const { lastSeq, budgetMs } = await peer.frame("SHUTDOWN");
    assert.deepEqual({ lastSeq, budgetMs }, { lastSeq: 3, budgetMs: 1000 });
    peer.send({ type: "ACK", lastSeq: 1 });
    assert.deepEqual([session.isUntouched, session.sendRemaining(), session.isUntouched], [true, true, false]);
    assert.equal(session.sendRemaining(), false);
    assert.equal((await peer.closed).code, 1001);
    while (ended.length === 0) await new Promise(setImmediate);
    assert.deepEqual(typesOf(peer), ["HELLO", "DATA", "SHUTDOWN", "DATA", "DATA", "CLOSE"]);
    assert.deepEqual([ended, common.sessions.size], [["drained"], 0]);
    assert.match(lines.at(-1)!, /^session-closed \w{8} with 1001: sent 3, received 1$/);
  });

  it("does what its fault replaces, and nothing else", async (t) => {
    const { common } = makeCommon({ fault: "reorder-data", remaining: { least: 3, most: 3 } });
    const { peer, session } = await pair(t, common);
    session.announce(1000);
    peer.send(ACK);
    while (session.sendRemaining());
    await peer.closed;
    assert.deepEqual(dataOf(peer).map(({ seq }) => seq), [1, 3, 2, 4]);
  });
});

describe("faults", () => {
  it("are steps that differ from the honest ones, each in its own way", () => {
    const honest = conductOf("none");
    const spoilt = FAULTS.map((fault) =>
      Object.entries(conductOf(fault)).filter(([step, how]) => honest[step as "end"] !== how)
    );
    assert.deepEqual(spoilt.map((steps) => steps.length > 0), FAULTS.map((fault) => fault !== "none"));
  });
});

describe("a drain alone", () => {
  it("walks from the signal to the end of the last session, and lets go then", async (t) => {
    const { common, lines } = makeCommon({ remaining: { least: 1, most: 1 }, remainingIntervalMs: 10 });
    let released = 0;
    const drain = new Drain({ common, release: () => released++ });
    common.onEnded = () => drain.sessionEnded();
    const { peer } = await pair(t, common);
    assert.equal(drain.phase, "serving");
    const over = drain.onSignal("SIGTERM");
    assert.deepEqual([drain.phase, drain.total, released], ["draining", 1, 0]);
    peer.send(ACK);
    await over;
    assert.deepEqual([drain.phase, released, (await peer.closed).code], ["closed", 1, 1001]);
    assert.match(lines.at(-1)!, /^drain-complete drained 1 session in \d\.\d\d s$/);
  });

  it("heeds no SIGTERM with fault ignore-sigterm", async () => {
    const drain = new Drain({ common: makeCommon({ fault: "ignore-sigterm" }).common, release: () => assert.fail() });
    await drain.onSignal("SIGTERM");
    assert.equal(drain.phase, "serving");
  });
});

describe("a token alone", () => {
  it("opens to its own bearer only, and to everybody where there is none", (t) => {
    const folder = mkdtempSync("dist/token-");
    t.after(() => rmSync(folder, { recursive: true }));
    writeFileSync(`${folder}/token`, "right");
    const { log } = makeCommon({}).common;
    const token = new Token({ file: `${folder}/token`, overlapMs: 0, log });
    assert.deepEqual(["Bearer right", "Bearer wrong", "right", undefined].map((said) => token.opens(said)), [
      true,
      false,
      false,
      false,
    ]);
    assert.equal(new Token({ file: "", overlapMs: 0, log }).opens(), true);
  });
});

describe("a server alone", () => {
  it("listens on free ports, greets, drains, lets go of both", async (t) => {
    const server = new Server({ ...makeCommon({ remaining: { least: 0, most: 0 } }).common.settings, name: "alone" });
    const { port, adminPort } = await server.start();
    const peer = await join(t, `ws://127.0.0.1:${port}/ws`);
    assert.equal((await peer.frame("HELLO")).server, "alone");
    assert.equal(await status(`http://127.0.0.1:${adminPort}/readyz`), 200);
    await server.onSignal("SIGTERM");
    assert.deepEqual([server.phase, (await peer.closed).code], ["closed", 1001]);
    await assert.rejects(once(talk(port).socket, "connect"), { code: "ECONNREFUSED" });
  });
});

describe("whoever ends a session is named in the log:", { concurrency: 2 }, () => {
  it("ws, which terminates a peer that floods it with pings and reads no pong", async (t) => {
    const server = await startServer(t, "--interval=60000");
    const peer = await upgradeByHand(t, server.port);
    peer.socket.pause();
    const ping = Buffer.concat([Buffer.from([0x89, 0x80 | 125, 0, 0, 0, 0]), Buffer.alloc(125)]);
    const flood = Buffer.concat(Array(2000).fill(ping));
    let isOver = false;
    const line = server.line(/ session-closed /).finally(() => isOver = true);
    while (!isOver) {
      peer.socket.write(flood);
      await new Promise(setImmediate);
    }
    assert.match(await line, /with 1006: .*; ended by the server: the peer sends pings and leaves 60 pongs unread$/);
  });

  it("the peer, whose FIN comes without a close frame", async (t) => {
    const server = await startServer(t);
    (await upgradeByHand(t, server.port)).socket.end();
    assert.match(await server.line(/ session-closed /), /with 1006: .*; ended by the peer: FIN without a close frame$/);
  });

  it("the network or the peer, by a reset", async (t) => {
    const server = await startServer(t);
    (await upgradeByHand(t, server.port)).socket.resetAndDestroy();
    assert.match(
      await server.line(/ session-closed /),
      /with 1006: .*; ended by the network or the peer: socket error$/,
    );
  });

  const limits: [flag: string, header: string, signals: boolean, why: RegExp][] = [
    ["--silence-timeout=300", "", false, /no answer to a ping within --silence-timeout$/],
    ["--close-timeout=300", "", true, /no close frame from the peer within --close-timeout$/],
    ["--drain-timeout=400", `Sec-WebSocket-Protocol: ${SUBPROTOCOL}\r\n`, true, /not drained within --drain-timeout$/],
  ];
  for (const [flag, header, signals, why] of limits) {
    it(`the server, by ${flag}`, async (t) => {
      const server = await startServer(t, ...QUIET, flag);
      await upgradeByHand(t, server.port, header);
      if (signals) signal(server);
      const line = await server.line(/ session-closed /);
      assert.match(line, /with 1006: .*; ended by the server: /);
      assert.match(line, why);
    });
  }
});

/** `make fuzz` runs for longer. */
const HOSTILE_FRAMES = Number(process.env["HOSTILE_FRAMES"] ?? 2000);

test(`server survives ${HOSTILE_FRAMES} hostile messages, refuses them by their codes, and serves another session`, {
  timeout: 60_000 + HOSTILE_FRAMES * 20,
}, async (t) => {
  const server = await startServer(t, "--interval=20", "--remaining=1");
  const other = await join(t, server.url);
  const random = seeded(9);
  const codes: Record<number, number> = {};
  for (let sent = 0; sent < HOSTILE_FRAMES;) {
    // Several at a time: each session takes what it accepts and ends at what it does not.
    const said = Array.from({ length: 20 }, () => hostileFrame(random));
    sent += said.length;
    const ends = said.map(async (message) => {
      const ws = new WebSocket(server.url, [SUBPROTOCOL], { perMessageDeflate: false });
      ws.on("error", () => {}); // its end tells
      await once(ws, "open");
      const closed = once(ws, "close");
      if (Array.isArray(message)) {
        message.forEach((part, index) => ws.send(part, { fin: index === message.length - 1 }));
      } else ws.send(message);
      ws.close(1000);
      const [code] = await closed;
      const bytes = Array.isArray(message) ? Buffer.byteLength(message.join("")) : Buffer.byteLength(message);
      const expected = bytes > MAX_MESSAGE_BYTES
        ? 1009
        : Buffer.isBuffer(message)
        ? 1003
        : isFrame(message)
        ? 1000
        : 1007;
      assert.equal(code, expected, `${code} for ${String(message).slice(0, 200)}`);
      codes[code] = (codes[code] ?? 0) + 1;
    });
    await Promise.all(ends);
  }
  assert.deepEqual(Object.keys(codes), ["1000", "1003", "1007", "1009"], "every kind of end was there");
  const last = dataOf(other).length;
  await other.frame("DATA", ({ seq }) => seq === last + 3);
  assertNoGap(other);
  await assertExit(server, 0, signal(server), 100, 3000);
});

/** Whether a client may say that: JSON, and DATA or ACK as DESIGN describes them. */
function isFrame(message: string | string[]): boolean {
  try {
    const { type } = decode(Array.isArray(message) ? message.join("") : Buffer.from(message).toString());
    return type === "DATA" || type === "ACK";
  } catch {
    return false; // also where this very decode is not up to it
  }
}

test("in a pod the server says the address at which it is reached, and nowhere else another than localhost", async (t) => {
  const command = [process.execPath, "dist/server.js", "--port=0", "--admin-port=0", "--name=server-1"];
  const address = Object.values(networkInterfaces()).flat().find((one) => one?.internal === false)?.address ??
    "localhost";
  const shown = address.includes(":") ? `[${address}]` : address;
  const inPod = await start(t, command, { KUBERNETES_SERVICE_HOST: "10.96.0.1" }).line(/ listening /);
  assert.ok(inPod.includes(` on ws://${shown}:`), inPod);
  assert.match(await start(t, command).line(/ listening /), / on ws:\/\/localhost:\d+\/ws,/);
});
