/** The client's parts, each alone: with a real socket where it has one, and nothing else. */
import assert from "node:assert/strict";
import { EventEmitter, once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { connect as connectTcp } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import type { WebSocketServer } from "ws";
import {
  chooseDialect,
  chooseUrl,
  ClusterWatch,
  Cookies,
  type Dial,
  Gate,
  Journal,
  Lateness,
  LivePage,
  Probe,
  Session,
  type SessionOwner,
  SETTINGS,
  Slot,
} from "../client.ts";
import {
  encode,
  type Frame,
  type Handover,
  Ledger,
  type Log,
  observe,
  PROBE_HEADER,
  redactUrl,
  type Values,
} from "../protocol.ts";
import { recording } from "./cluster.ts";
import { data, listen, startPeer } from "./helper.ts";

const SILENT: Log = { line: () => {}, each: () => {}, end: () => {} };

/** The defaults of every setting, as the program reads them, but for these. */
function settingsWith(changes: Partial<Values<typeof SETTINGS>>): Values<typeof SETTINGS> {
  const defaults = Object.entries(SETTINGS).map(([key, { fallback, parse }]) => [key, parse(fallback)]);
  return { ...Object.fromEntries(defaults), switches: new Set(), ...changes } as Values<typeof SETTINGS>;
}

/** An owner that notes what it is told, and a promise for each. */
class Witness implements SessionOwner {
  readonly told: string[] = [];
  readonly #news = new EventEmitter();

  #tell(what: string): void {
    this.told.push(what);
    this.#news.emit(what);
  }

  async until(what: string): Promise<void> {
    if (!this.told.includes(what)) await once(this.#news, what, { signal: AbortSignal.timeout(20_000) });
  }

  sessionOnOpen = () => this.#tell("open");
  sessionOnMessage = (_session: Session, isCounted: boolean) => this.#tell(isCounted ? "message" : "life");
  sessionOnNotice = () => this.#tell("notice");
  sessionOnInvalid = () => this.#tell("invalid");
  sessionOnSilent = () => this.#tell("silent");
  sessionOnOver = () => this.#tell("over");
}

const HELLO = { type: "HELLO", server: "pod-a", instance: "a", session: "s", intervalMs: 100 } as const;
const NOTICE: Frame = {
  type: "SHUTDOWN",
  at: new Date().toISOString(),
  reason: "",
  remaining: 0,
  lastSeq: 1,
  intervalMs: 0,
  budgetMs: 1000,
};

/** What a session takes of the settings. */
function spokenWith(settings: ReturnType<typeof settingsWith>) {
  return { settings, dialect: chooseDialect(settings), isAuto: settings.dialect === "auto" };
}

function startSession(t: TestContext, url: string, owner: SessionOwner, changes = {}, access = {}): Session {
  const lateness = new Lateness();
  const session = new Session({ url, owner, ...spokenWith(settingsWith(changes)), access, lateness });
  t.after(async () => {
    lateness.end();
    await session.leave();
  });
  return session;
}

for (
  const [parts, complaint] of [
    [{ headers: { "Bad Name": "x" } }, "'headers' cannot be used: Bad Name has a character that no header may have"],
    [{ headers: { "X-Pod": "a\nb" } }, "'headers' cannot be used: X-Pod has a character that no header may have"],
    [{ sequence: "(\\d+) (\\d+)" }, `'sequence' must have one group, which is what it finds: "(\\\\d+) (\\\\d+)"`],
  ] as const
) {
  test(`of a dialect's file with ${JSON.stringify(parts)} file, part and rule are named`, (t) => {
    const folder = mkdtempSync(join(tmpdir(), "dialect-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const dialect = join(folder, "my.json");
    writeFileSync(dialect, JSON.stringify(parts));
    assert.throws(() => chooseDialect(settingsWith({ dialect })), { message: `--dialect ${dialect}: ${complaint}` });
  });
}

test("a Session tells its owner of HELLO, DATA, SHUTDOWN and its end, and answers SHUTDOWN with ACK", async (t) => {
  const heard: string[] = [];
  const { url } = await startPeer(t, (ws) => {
    ws.on("message", (text) => {
      heard.push(String(text));
      ws.close(1001, "bye");
    });
    for (const frame of [HELLO, data(1), NOTICE]) ws.send(encode(frame));
  });
  const owner = new Witness();
  const session = startSession(t, `${url}?access_token=secret`, owner);
  assert.deepEqual([session.isDialling, session.isOpen, session.isOver], [true, false, false]);
  await owner.until("over");
  assert.deepEqual(owner.told, ["open", "message", "life", "notice", "over"]);
  assert.deepEqual(heard, ['{"type":"ACK","lastSeq":0}']);
  const { server, closeCode, closeReason, how } = session.ledger;
  assert.deepEqual([server, closeCode, closeReason, how, session.failure], ["pod-a", 1001, "bye", "fin", undefined]);
});

test("a Session names its server by a URL without secrets, until it knows better", async (t) => {
  const { url } = await startPeer(t, () => {}, true);
  const owner = new Witness();
  const session = startSession(t, `${url}?access_token=secret`, owner, { dialect: "plain" });
  await owner.until("open");
  assert.equal(session.ledger.server, `${url}?access_token=…`);
  assert.equal(session.ledger.url, `${url}?access_token=secret`);
});

test("a URL is kept as URLs are written, so that no text shows a secret of it", () => {
  for (const secret of ['{"token":"secret"}', "a`secret", "<secret>", "a secret"]) {
    const [url] = SETTINGS.url.parse(`ws://a/ws?auth=${secret}`);
    assert.equal(redactUrl(`no way to ${url}: gone`), "no way to ws://a/ws?auth=…: gone");
    assert.equal(new URL(url!).searchParams.get("auth"), secret);
  }
});

test("a Session that never opens says why, and tells nothing else", async (t) => {
  const owner = new Witness();
  const peer = await startPeer(t, () => {});
  const session = startSession(t, peer.url, owner, { connectTimeoutMs: 200, dialect: "v1" });
  await owner.until("over");
  assert.deepEqual([owner.told, session.failure?.kind], [["over"], "timeout"]);
});

test("a Session that has no port left to dial from says so: that is not the server's", async (t) => {
  const owner = new Witness();
  const session = startSession(t, "ws://127.0.0.1:1/", owner, {}, { localAddress: "203.0.113.1" });
  await owner.until("over");
  assert.equal(session.failure?.kind, "ports");
});

test("a Session that is sent elsewhere says where, without the secrets", async (t) => {
  for (
    const [location, where] of [
      ["/ws/?access_token=secret", "/ws/?access_token=…"],
      ["//b/ws?secret", "//b/ws?…"],
      ["https://user:secret@b/?x=secret#y", "https://…@b/?x=…"],
    ] as const
  ) {
    const server = createServer().on("upgrade", (_request, socket) => {
      socket.end(`HTTP/1.1 301 Moved Permanently\r\nLocation: ${location}\r\nConnection: close\r\n\r\n`);
    });
    const owner = new Witness();
    const session = startSession(t, `ws://127.0.0.1:${await listen(t, server)}/ws?access_token=secret`, owner);
    await owner.until("over");
    assert.equal(session.failure?.message, `HTTP 301 to ${where}`);
  }
});

test("a jar of Cookies keeps what each host sets, until it is taken back", () => {
  const jar = new Cookies();
  assert.equal(jar.for("a"), "");
  jar.enter("a", ["srv=one; Path=/; HttpOnly", "seen=a=b", "=nameless", "plain", `big=${"x".repeat(5000)}`]);
  jar.enter("b", ["srv=two"]);
  assert.deepEqual([jar.for("a"), jar.for("b"), jar.for("c")], ["srv=one; seen=a=b", "srv=two", ""]);
  jar.enter("a", ["srv=three; Max-Age=60"]);
  jar.enter("a", ["seen=; Max-Age=0"]);
  jar.enter("b", ["srv=gone; Expires=Thu, 01 Jan 1970 00:00:00 GMT"]);
  assert.deepEqual([jar.for("a"), jar.for("b")], ["srv=three", ""]);
  jar.enter("c", Array.from({ length: 60 }, (_, nth) => `n${nth}=1`));
  assert.equal(jar.for("c").split("; ").length, 50);
});

test("a Session that is left closes with 1000", async (t) => {
  const codes: number[] = [];
  const { url } = await startPeer(t, (ws) => {
    ws.on("close", (code) => codes.push(code));
    ws.send(encode(HELLO));
  });
  const owner = new Witness();
  const session = startSession(t, url, owner);
  await owner.until("open");
  await session.leave();
  assert.equal(session.isOver, true);
  assert.deepEqual(codes, [1000]);
});

/** A server whose sessions say HELLO and DATA, each from an instance of its own. */
async function startInstances(t: TestContext) {
  const peer = await startPeer(t, (ws, _socket, index) => {
    ws.send(encode({ ...HELLO, server: `pod-${index}`, instance: `${index}` }));
    ws.send(encode(data(1)));
  });
  return { ...peer, clients: () => [...peer.wss.clients] };
}

function startSlot(t: TestContext, url: string, changes = {}, access = (): object => ({})) {
  const settings = settingsWith({ url: [url], backoffBaseMs: 10, ...changes });
  const [lateness, journal] = [new Lateness(), new Journal()];
  const judged = new EventEmitter();
  const dial: Dial = (url, owner) => new Session({ url, owner, ...spokenWith(settings), access: access(), lateness });
  const slot = new Slot(1, {
    settings,
    dial,
    gate: new Gate(1),
    lateness,
    journal,
    path: null,
    urls: [url],
    log: SILENT,
    origin: performance.now(),
    watch: () => undefined,
    onSteady: () => judged.emit("steady"),
    onFailedDial: () => {},
    onJudged: (handover) => judged.emit("handover", handover),
  });
  void slot.hold();
  t.after(async () => {
    slot.stop();
    await slot.leave();
    lateness.end();
  });
  return { slot, journal, judged };
}

const opened = (wss: WebSocketServer) => once(wss, "connection", { signal: AbortSignal.timeout(20_000) });

test("a Slot moves to the next session, judges the handover once that has stayed, and counts it", async (t) => {
  const server = await startInstances(t);
  const { slot, journal, judged } = startSlot(t, server.url);
  await opened(server.wss);
  const next = opened(server.wss);
  server.clients()[0]!.close(1001);
  await next;
  const nextAt = performance.now();
  const [handover] = await once(judged, "handover") as [Handover];
  assert.ok(performance.now() - nextAt > 900, "a move counts when the new session has lived for a second");
  const { from, to, symptom } = handover;
  assert.deepEqual([from, to, symptom], ["pod-0", "pod-1", "NO_NOTICE"]);
  assert.deepEqual([journal.judged, journal.opened, slot.isConnected, slot.isMoving], [1, 2, true, false]);
});

test("a Slot that is stopped judges a cut, though it has nowhere to go yet", async (t) => {
  const server = await startInstances(t);
  const { slot, journal, judged } = startSlot(t, server.url, { backoffBaseMs: 60_000, backoffCapMs: 60_000 });
  await opened(server.wss);
  while (!slot.hadSession) await new Promise(setImmediate);
  server.clients()[0]!.terminate();
  while (!slot.isMoving) await new Promise(setImmediate);
  const handed = once(judged, "handover") as Promise<[Handover]>;
  slot.stop();
  const [{ symptom, to, rules }] = await handed;
  assert.deepEqual([symptom, to, rules.moved, journal.counts.failed], ["CUT_WITHOUT_NOTICE", null, "n/a", 1]);
});

test("a Slot takes dials that we ourselves could not make for no dials at all", async (t) => {
  const server = await startInstances(t);
  let isOut = false;
  const access = () => isOut ? { localAddress: "203.0.113.1" } : {};
  const { slot, journal, judged } = startSlot(t, server.url, { backoffCapMs: 50, maxReconnectMs: 300 }, access);
  await opened(server.wss);
  while (!slot.hadSession) await new Promise(setImmediate);
  isOut = true;
  server.clients()[0]!.close(1001);
  const from = performance.now();
  while (performance.now() - from < 800 || (journal.failedDials["ports"] ?? 0) < 5) await new Promise(setImmediate);
  const handed = once(judged, "handover") as Promise<[Handover]>;
  slot.stop();
  const [{ forcedMs, rules }] = await handed;
  assert.deepEqual([forcedMs, rules.moved], [0, "n/a"]);
});

test("a Probe opens fresh connections, marked as such, and counts how they went", async (t) => {
  const headers: unknown[] = [];
  const peer = await startPeer(t, (ws) => ws.send(encode(HELLO)));
  peer.wss.on("connection", (_ws, request) => headers.push(request.headers[PROBE_HEADER]));
  const lateness = new Lateness();
  const dial: Dial = (url, owner, headers) =>
    new Session({ url, owner, ...spokenWith(settingsWith({})), access: { headers: headers ?? {} }, lateness });
  const journal = new Journal();
  const urls = [peer.url, "ws://127.0.0.1:1/ws"];
  const probe = new Probe({ urls, intervalMs: 20, dial, journal, log: SILENT, watch: () => undefined });
  t.after(() => lateness.end());
  probe.start();
  while (probe.counts.ok < 3 || probe.counts.refused < 3) await new Promise(setImmediate);
  await probe.leave();
  assert.deepEqual([...new Set(headers)], ["1"]);
  assert.deepEqual([probe.counts.timeout, probe.counts.other, probe.counts.lastOnEndingMs], [0, 0, null]);
});

test("a Journal knows a server as ending when it has said so or closed with 1001, not when it was cut", () => {
  const journal = new Journal();
  const end = (instance: string, ...events: Parameters<typeof observe>[1][]) => {
    const ledger = new Ledger("ws://x/ws", "v1", 100);
    observe(ledger, { ...HELLO, instance }, 1);
    for (const event of events) observe(ledger, event, 2);
    journal.enterEnding(ledger);
    return journal.endingSince(instance) !== undefined;
  };
  assert.equal(end("cut", { type: "END", how: "fin" }), false);
  assert.equal(end("other-code", { type: "CLOSE_FRAME", code: 1000, reason: "" }), false);
  assert.equal(end("going-away", { type: "CLOSE_FRAME", code: 1001, reason: "" }), true);
  assert.equal(end("told", NOTICE), true);
});

test("a Journal counts what was lost in both directions, and says so only where something was numbered", () => {
  const journal = new Journal();
  const handover = {
    verdict: "failed",
    symptom: "DATA_LOST",
    from: "a",
    lost: [[3, 4]],
    duplicated: [],
    reordered: [],
  };
  const enter = () => journal.enterHandover({ ...handover, upstreamLost: 5, lateMs: 0 } as unknown as Handover, 10);
  enter();
  assert.equal(journal.messages.lost, null);
  journal.enterOpened(new Ledger("ws://x/ws", "v1", 100));
  enter();
  assert.deepEqual([journal.messages.lost, journal.lost], [14, { down: 4, up: 10 }]);
});

test("a Gate lets so many in, and the others in the order of their coming", async () => {
  const gate = new Gate(2);
  const inside: number[] = [];
  const visit = async (number: number) => {
    await gate.enter();
    inside.push(number);
  };
  const visits = [1, 2, 3, 4].map(visit);
  await Promise.all(visits.slice(0, 2));
  assert.deepEqual(inside, [1, 2]);
  gate.leave();
  await visits[2];
  assert.deepEqual(inside, [1, 2, 3]);
  gate.leave();
  await visits[3];
  assert.deepEqual(inside, [1, 2, 3, 4]);
});

test("a Gate lets in together, at the end of a turn of the event loop, as many as have left in it", async () => {
  const gate = new Gate(2);
  const inside: number[] = [];
  const visits = [1, 2, 3, 4, 5].map(async (number) => {
    await gate.enter();
    inside.push(number);
  });
  await Promise.all(visits.slice(0, 2));
  gate.leave();
  await undefined;
  gate.leave();
  for (let turns = 0; turns < 10; turns++) await undefined;
  assert.deepEqual(inside, [1, 2], "not before this turn is over");
  await new Promise(setImmediate);
  assert.deepEqual(inside, [1, 2, 3, 4]);
  gate.leave();
  await visits[4];
  assert.deepEqual(inside, [1, 2, 3, 4, 5]);
});

test("chooseUrl() begins at the first, and then avoids the one just ended and the one just refused", () => {
  const urls = ["a", "b", "c"];
  assert.equal(chooseUrl(urls, undefined, undefined), "a");
  const chosen = (ended: string | undefined, refused: string | undefined, list = urls) =>
    [...new Set(Array.from({ length: 200 }, () => chooseUrl(list, ended, refused)))].sort().join("");
  assert.equal(chosen("a", undefined), "bc");
  assert.equal(chosen("a", "b"), "c");
  assert.equal(chosen("a", "b", ["a", "b"]), "a");
  assert.equal(chosen("a", "a", ["a"]), "a");
});

test("Lateness counts the time in which this process did nothing else, and only that", async () => {
  const lateness = new Lateness();
  await new Promise((resolve) => setTimeout(resolve, 120)); // it has ticked by then
  const from = performance.now();
  while (performance.now() - from < 400);
  const now = performance.now();
  const before = lateness.between(from, now);
  assert.ok(before >= 300 && before <= now - from, `${before} ms while it is still asleep`);
  await new Promise((resolve) => setTimeout(resolve, 60));
  const after = lateness.between(from, now);
  assert.ok(after >= 300 && after <= now - from, `${after} ms once it is awake`);
  assert.equal(lateness.between(from - 60_000, from - 50_000), 0);
  assert.ok(lateness.maxMs >= 300 && lateness.totalMs >= lateness.maxMs);
  lateness.end();
});

test("a LivePage shows its viewers what is new, and lets in eight", async (t) => {
  let news = 1;
  const page = new LivePage(() => String(news), () => `picture ${news}`);
  t.after(() => page.end());
  const server = createServer((_request, response) => {
    const answer = page.admit(response);
    if (answer !== undefined) response.writeHead(answer.status).end(answer.body);
  });
  const port = await listen(t, server);
  const look = () => {
    const socket = connectTcp({ port, host: "127.0.0.1" });
    socket.write("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
    return socket;
  };
  const viewer = look();
  let seen = "";
  viewer.setEncoding("utf8").on("data", (text) => seen += text);
  while (!seen.includes("data: picture 1\n")) await once(viewer, "data");
  news = 2;
  while (!seen.includes("data: picture 2\n")) await once(viewer, "data");
  const others = Array.from({ length: 8 }, look);
  const [first] = await Promise.all(others.map(async (socket) => String((await once(socket, "data"))[0])));
  const last = String((await once(look(), "data"))[0]);
  assert.match(first!, /^HTTP\/1.1 200/);
  assert.match(last, /^HTTP\/1.1 503/);
  for (const socket of [viewer, ...others]) socket.destroy();
});

// ---- The cluster's watch: what dials say of the endpoint race

/** A watch that has seen a recording up to a time, the deletion a second before now. */
function startWatch(t: TestContext, untilMs: number, isRouted = true) {
  const lines = recording("delete-graceful").filter(({ t }) => t === null || t <= untilMs);
  const open: Handover[] = [];
  const watch = new ClusterWatch({
    log: SILENT,
    origin: performance.now() - 1000,
    sessions: 1,
    isRouted,
    onDiagnosed: () => {},
    onOpen: (handover) => open.push(handover),
    onTurnedAway: () => {},
  });
  t.after(() => watch.close());
  for (const { stream, type, list, object } of lines) {
    if (list !== undefined) watch.observe(stream!, "LISTED", list.items);
    if (object !== undefined) watch.observe(stream!, type!, [object]);
  }
  const url = "ws://server-service:8080/ws";
  const victim = lines.find(({ command }) => command !== undefined)?.pod;
  const meet = (kind: string | undefined, server = url, agoMs = 0) => {
    const ledger = Object.assign(new Ledger(url, "v1", 1000), { server });
    // A ms later than what was just told: moments are rounded to tenths of one.
    if (kind === undefined) Object.assign(ledger, { instance: "a", openedAt: performance.now() + 1 });
    const metNobody = ["refused", "reset", "timeout", "502", "503", "bounced"].includes(kind ?? "");
    const failure = kind === undefined ? undefined : { kind, message: "", metNobody };
    watch.noteMeeting({ ledger, dialledAt: performance.now() - agoMs } as Session, failure);
  };
  const finding = () => watch.findings(null, [])[0]?.text;
  return { watch, meet, finding, victim, open };
}

test("a ClusterWatch counts dials that may have met the ending pod, and advises by the last of them", (t) => {
  const { meet, finding, victim } = startWatch(t, 1200);
  for (const kind of ["403", "302", "other", "dns"]) meet(kind);
  assert.equal(finding(), undefined);
  const reached = (dials: string) =>
    new RegExp(
      `^${dials} met a pod after its deletion, the last at \\+[\\d.]+m?s; its preStop.sleep is 2s(: |, )(.*)$`,
    );
  meet("refused");
  assert.match(finding()!, reached("1 new connection"));
  for (const kind of ["reset", "timeout", "502", "503", "bounced"]) meet(kind);
  assert.match(finding()!, reached("6 new connections"));
  meet(undefined, victim);
  assert.match(finding()!, reached("7 new connections"));
});

test("a ClusterWatch takes a dial that nobody answered for where it began", (t) => {
  const { meet, finding } = startWatch(t, 1200);
  meet("timeout", undefined, 5000); // before the deletion
  assert.equal(finding(), undefined);
});

test("a ClusterWatch counts no dial where no endpoint is ready: there was nowhere else to go", (t) => {
  const { watch, meet, finding } = startWatch(t, 200);
  const slice = recording("delete-graceful").find(({ t, stream }) => t === 152 && stream === "endpointslices")!.object!;
  const endpoints = slice.endpoints!.map((one) => ({ ...one, conditions: { ...one.conditions, ready: false } }));
  watch.observe("endpointslices", "MODIFIED", [{ ...slice, endpoints }]);
  meet("refused");
  assert.equal(finding(), undefined);
});

test("a ClusterWatch still counts dials to a pod that has just gone, and sessions on it no more", (t) => {
  const { meet, finding, victim } = startWatch(t, Infinity);
  meet(undefined, victim);
  assert.equal(finding(), undefined);
  meet("timeout");
  assert.match(finding()!, /^1 new connection met/);
});

test("a ClusterWatch says at least, until five dials in a row have led elsewhere", (t) => {
  const { watch, meet, finding } = startWatch(t, 1200);
  for (const pod of watch.pods) pod.preStop = null;
  meet("refused");
  assert.match(finding()!, /; it has no preStop: make it at least [12]s, the drill ended before the race did$/);
  for (let times = 0; times < 5; times++) meet(undefined, "server-deployment-d45b66bb7-jqvm8");
  assert.match(finding()!, /; it has no preStop: make it [12]s or more$/);
  meet("refused");
  assert.match(finding()!, /at least [12]s/);
});

test("a ClusterWatch without a Service in between counts nothing", (t) => {
  const { meet, finding } = startWatch(t, 1200, false);
  meet("refused");
  assert.equal(finding(), undefined);
});

test("a ClusterWatch that has lost a watch waits for it, before it says that nothing happened", (t) => {
  const { watch } = startWatch(t, -1);
  const from = recording("delete-graceful").find(({ command }) => command !== undefined)!.pod!;
  const cut = (agoMs: number) =>
    ({
      ...{ slot: 1, symptom: "CUT_WITHOUT_NOTICE", dialect: "v1", from, code: null, openedMs: -90_000 },
      ...{ endedMs: watch.nowMs - agoMs, noticeMs: null, cause: null, suspects: null },
    }) as Handover;
  const told = (handover: Handover) => {
    watch.diagnose(handover);
    watch.diagnoseAll();
    return watch.undiagnosed === 0 ? handover.cause ?? "open" : "waits";
  };
  assert.equal(told(cut(20_000)), "NO_POD_EVENT");
  watch.lost("pods");
  const handover = cut(20_000);
  assert.equal(told(handover), "waits");
  watch.heard("pods", 5000); // it is open again, and tells first what it missed
  assert.equal(told(handover), "waits");
  watch.heard("pods");
  assert.equal(told(handover), "NO_POD_EVENT");
  watch.lost("events");
  assert.equal(told(cut(130_000)), "open"); // it never came back
});

test("a ClusterWatch that stops early says not that nothing happened, but what may have", (t) => {
  const { watch, victim, open } = startWatch(t, -1);
  const name = recording("delete-graceful").find(({ command }) => command !== undefined)!.pod!;
  assert.equal(victim, undefined);
  const handover = {
    slot: 1,
    symptom: "CUT_WITHOUT_NOTICE",
    dialect: "v1",
    from: name,
    code: null,
    openedMs: 100,
    endedMs: watch.nowMs,
    noticeMs: null,
    cause: null,
    suspects: null,
  } as Handover;
  watch.diagnose(handover);
  watch.diagnoseAll();
  assert.equal(watch.undiagnosed, 1); // the cluster may still tell of it
  watch.diagnoseRest();
  assert.deepEqual([watch.undiagnosed, handover.cause, open.length], [0, null, 1]);
  assert.deepEqual(handover.suspects, [
    "OOM_KILLED",
    "CRASHED",
    "LIVENESS_KILLED",
    "EVICTED",
    "INTERMEDIARY_CUT",
    "NO_POD_EVENT",
  ]);
});
