/** report.html in a real Chromium: what it shows of real results, and that nothing which it shows does anything. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, type ServerResponse } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { after, before, describe, it, type TestContext } from "node:test";
import { pathToFileURL } from "node:url";
import { WebSocket } from "ws";
import type { Result } from "../client.ts";
import { CAUSES, type Handover, type PodReport, REMEDIES, type Symptom } from "../protocol.ts";
import { pageData } from "../report.mjs";
import { startCluster } from "./cluster.ts";
import { listen, run, slackMs, start, startClient, startServer } from "./helper.ts";

const CHROMIUM = ["chromium", "chromium-browser", "google-chrome"].find((name) =>
  spawnSync(name, ["--version"]).status === 0
);
const skip = CHROMIUM === undefined && "there is no Chromium here: apt-get install chromium";

const TEMPLATE = readFileSync("report.html", "utf8");
const PLACE = '<script type="application/json" id="result"></script>';

/** The page with a result in it, as the client writes it. */
function embed(result: Result): string {
  return TEMPLATE.replace(PLACE, () => PLACE.replace("><", `>${pageData(result)}<`));
}

// ---- Results

const SERVER_PACE = ["--interval=100", "--remaining=3", "--remaining-interval=40"];
const PACE = ["--grace=3", ...SERVER_PACE];

/** A rehearsal's result; who asks for the same gets the same. */
function rehearse(t: TestContext, ...flags: string[]): Promise<Result> {
  const key = flags.join(" ");
  const result = rehearsed.get(key) ?? rehearseAnew(t, ...flags);
  rehearsed.set(key, result);
  return result.then((one) => structuredClone(one));
}
const rehearsed = new Map<string, Promise<Result>>();

async function rehearseAnew(t: TestContext, ...flags: string[]): Promise<Result> {
  const folder = mkdtempSync(join(tmpdir(), "report-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = join(folder, "result.json");
  const { stderr } = await run(t, [process.execPath, "rehearse.mjs", `--report=${file}`, ...PACE, ...flags]);
  try {
    return JSON.parse(readFileSync(file, "utf8"));
  } catch {
    throw new Error(stderr);
  }
}

async function drill(t: TestContext, name: string, flags: string[], ...faults: string[]): Promise<Result> {
  const cluster = await startCluster(t, name, { flags: faults });
  const own = ["--admin-port=0", "--json", "--interval=200", ...flags];
  const client = start(t, [process.execPath, "dist/client.js", ...own], cluster.env);
  await client.exited;
  return JSON.parse(client.stdout());
}

/** What a failure with this symptom could look like, made from one that was cut during its drain. */
function withSymptom(result: Result, symptom: Symptom): Result {
  const { CUT_DURING_DRAIN: entry, ...none } = result.symptoms;
  return {
    ...result,
    summary: result.summary.replaceAll("CUT_DURING_DRAIN", symptom),
    symptoms: { ...none, [symptom]: entry! },
    handovers: result.handovers.map((handover) => ({ ...handover, symptom })),
  };
}

/** The same run, seen by a client that knew nothing of pods. */
function unwatched(result: Result): Result {
  const symptoms = Object.entries(result.symptoms).map(([name, entry]) => [name, { ...entry, causes: {} }]);
  return {
    ...result,
    pods: [],
    symptoms: Object.fromEntries(symptoms),
    handovers: result.handovers.map((handover) => ({ ...handover, pod: null, cause: null, evidence: null })),
  };
}

/** The result of edited handovers: where its sessions are in the end follows from them. */
function settled(result: Result, handovers: Handover[]): Result {
  const latest = new Map(handovers.map((handover) => [handover.slot, handover]));
  const open = [...latest.values()].flatMap(({ slot, to, endedMs, reconnectMs }) =>
    to === null ? [] : [{ slot, server: to, openedMs: endedMs! + reconnectMs }]
  );
  return { ...result, handovers, ...whereabouts(result, open), inFlight: [] };
}

function whereabouts({ sessions }: Result, open: Result["open"]): Pick<Result, "open" | "sessions"> {
  const byServer: Record<string, number> = {};
  for (const { server } of open) byServer[server] = (byServer[server] ?? 0) + 1;
  return { open: open.slice(0, 50), sessions: { ...sessions, connected: open.length, byServer } };
}

/** The same, with so many sessions; each as one of the real ones, at another time of three seconds. */
function multiplied(result: Result, sessions: number): Result {
  const grown = Array.from({ length: sessions }, (_, index): Handover => {
    const handover = result.handovers[index % result.handovers.length]!;
    const shiftMs = (index * 7919 % sessions) / sessions * 3000;
    const [endedMs, lastDataMs] = [handover.endedMs!, handover.lastDataMs!].map((ms) =>
      Math.round((ms + shiftMs) * 10) / 10
    );
    return { ...handover, slot: index + 1, endedMs: endedMs!, lastDataMs: lastDataMs! };
  });
  const { sessions: { byServer, connected, had }, ...rest } = settled(result, grown);
  const counts = { graceful: 0, failed: 0, unfinished: 0 };
  for (const { verdict } of grown) counts[verdict]++;
  return {
    ...rest,
    durationMs: result.durationMs + 4000,
    sessions: { wanted: sessions, had, connected, byServer },
    counts,
  };
}

/** What the client would have said of its run at a moment. */
function asOf(result: Result, ms: number): Result {
  const rows = result.handovers.map((handover) => {
    const { slot, from, to, openedMs, endedMs, noticeMs, reconnectMs } = handover;
    const toldMs = noticeMs === null ? null : endedMs! - noticeMs;
    return {
      handover,
      slot,
      from,
      to: to!,
      openedMs: openedMs!,
      toldMs,
      endedMs: endedMs!,
      backMs: endedMs! + reconnectMs,
    };
  });
  const done = rows.filter(({ backMs }) => backMs <= ms);
  const held = rows.filter(({ endedMs }) => endedMs > ms);
  const open = [
    ...held.map(({ slot, from: server, openedMs }) => ({ slot, server, openedMs })),
    ...done.map(({ slot, to: server, backMs: openedMs }) => ({ slot, server, openedMs })),
  ];
  const going = rows.filter(({ backMs, toldMs, endedMs }) => backMs > ms && (toldMs ?? endedMs) <= ms);
  return {
    ...result,
    durationMs: ms,
    counts: { graceful: done.length, failed: 0, unfinished: 0 },
    handovers: done.map(({ handover }) => handover),
    ...whereabouts(result, open),
    inFlight: going.map(({ slot, from, toldMs, endedMs }) => ({
      openedMs: 0,
      slot,
      from,
      toldMs,
      endedMs: endedMs <= ms ? endedMs : null,
    })),
  };
}

// ---- Chromium, over the DevTools protocol

interface Message {
  id?: number;
  sessionId?: string;
  method?: string;
  params: Record<string, unknown>;
  result?: Record<string, unknown>;
  error?: { message: string };
}

/** A browser without a window. `open` gives a tab that counts every complaint and every request. */
async function startChromium() {
  const profile = mkdtempSync(join(tmpdir(), "chromium-"));
  const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"];
  // What a browser does for its maker in the background, a test only waits for.
  const idle = ["background-networking", "component-update", "extensions", "sync"].map((name) => `--disable-${name}`);
  const child = spawn(CHROMIUM!, [...flags, ...idle, "--disable-dev-shm-usage", `--user-data-dir=${profile}`], {
    stdio: ["ignore", "ignore", "pipe"],
  });
  const closed = once(child, "close");
  const address = await new Promise<string>((resolve, reject) => {
    let text = "";
    child.stderr.setEncoding("utf8").on("data", (part) => {
      const found = /DevTools listening on (\S+)/.exec(text += part);
      if (found !== null) resolve(found[1]!);
    });
    child.once("exit", () => reject(new Error(`Chromium ended: ${text}`)));
  });
  const socket = new WebSocket(address, { perMessageDeflate: false, maxPayload: 2 ** 28 });
  await once(socket, "open");
  const waiting = new Map<number, (message: Message) => void>();
  const listeners = new Set<(message: Message) => void>();
  let id = 0;
  socket.on("message", (data) => {
    const message: Message = JSON.parse(String(data));
    if (message.id !== undefined) waiting.get(message.id)!(message);
    else for (const listener of listeners) listener(message);
  });
  const call = async (method: string, params: object = {}, sessionId?: string) => {
    const answer = await new Promise<Message>((resolve) => {
      waiting.set(++id, resolve);
      socket.send(JSON.stringify({ id, method, params, ...sessionId === undefined ? {} : { sessionId } }));
    });
    if (answer.error !== undefined) throw new Error(`${method}: ${answer.error.message}`);
    return answer.result!;
  };

  // A tab is a process of its own, and half of what a page costs: whoever has done with one leaves it to the next.
  const free: string[] = [];
  const createTab = async () => {
    const { targetId } = await call("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await call("Target.attachToTarget", { targetId, flatten: true }) as { sessionId: string };
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await call(`${domain}.enable`, {}, sessionId);
    // Each tab is in front, whichever of them another test opened last.
    await call("Emulation.setFocusEmulationEnabled", { enabled: true }, sessionId);
    return sessionId;
  };
  const open = async (t: TestContext, { width = 1280, dark = false } = {}) => {
    const sessionId = free.pop() ?? await createTab();
    const complaints: string[] = [];
    const requests: string[] = [];
    const listener = ({ sessionId: whose, method, params }: Message) => {
      if (whose !== sessionId) return;
      if (method === "Network.requestWillBeSent") requests.push((params["request"] as { url: string }).url);
      if (["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"].includes(method!)) {
        complaints.push(JSON.stringify(params));
      }
      if (method === "Page.javascriptDialogOpening") complaints.push("a dialog opened");
    };
    listeners.add(listener);
    t.after(async () => {
      listeners.delete(listener);
      await goTo("about:blank");
      await send("Log.clear");
      free.push(sessionId);
    });
    const send = (method: string, params: object = {}) => call(method, params, sessionId);
    await send("Emulation.setDeviceMetricsOverride", { width, height: 900, deviceScaleFactor: 1, mobile: false });
    await send("Emulation.setEmulatedMedia", {
      features: [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }],
    });
    /** The value of an expression in the page, whose promise it awaits. */
    const evaluate = async <T>(expression: string): Promise<T> => {
      const options = { expression, awaitPromise: true, returnByValue: true };
      const { result, exceptionDetails } = await send("Runtime.evaluate", options) as {
        result: { value: T };
        exceptionDetails?: object;
      };
      assert.equal(exceptionDetails, undefined, JSON.stringify(exceptionDetails));
      return result.value;
    };
    const goTo = async (url: string) => {
      const loaded = new Promise<void>((resolve) => {
        const onLoad = ({ sessionId: whose, method }: Message) => {
          if (whose !== sessionId || method !== "Page.loadEventFired") return;
          listeners.delete(onLoad);
          resolve();
        };
        listeners.add(onLoad);
      });
      await send("Page.navigate", { url });
      await loaded;
    };
    const wait = async (expression: string) => {
      for (let tries = 0; tries < 100; tries++) {
        if (await evaluate<boolean>(`Boolean(${expression})`)) return;
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
      assert.fail(`in vain: ${expression}\n${await evaluate("document.body.innerText")}`);
    };
    const press = async (key: string) => {
      const code = { key, code: key, windowsVirtualKeyCode: { Tab: 9, ArrowRight: 39, End: 35, Home: 36 }[key] };
      await send("Input.dispatchKeyEvent", { type: "keyDown", ...code });
      await send("Input.dispatchKeyEvent", { type: "keyUp", ...code });
    };
    const point = (x: number, y: number) => send("Input.dispatchMouseEvent", { type: "mouseMoved", x, y });
    const text = (selector: string) =>
      evaluate<string>(`document.querySelector(${JSON.stringify(selector)}).innerText`);
    return { send, evaluate, goTo, wait, press, point, text, complaints, requests };
  };
  const stop = async () => {
    socket.close();
    child.kill();
    // Its helpers live a moment longer, and write there: they all hold its stderr.
    await closed;
    rmSync(profile, { recursive: true, force: true });
  };
  return { open, stop };
}

let chromium: Awaited<ReturnType<typeof startChromium>>;
type Tab = Awaited<ReturnType<typeof chromium.open>>;

/** Opens a saved report; whatever it complains of or asks for fails the test. */
async function openReport(t: TestContext, result: Result, options: { width?: number; dark?: boolean } = {}) {
  const folder = mkdtempSync(join(tmpdir(), "report-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = join(folder, "report.html");
  writeFileSync(file, embed(result));
  const tab = await chromium.open(t, options);
  const url = pathToFileURL(file).href;
  await tab.goTo(url);
  assert.deepEqual(tab.complaints, []);
  assert.deepEqual(tab.requests.filter((request) => !request.startsWith("data:")), [url]);
  return tab;
}

interface Mark {
  kind: string;
  label: string;
  atMs: number;
  x: number;
  toMs: number;
  toX: number;
}

/** Where the marks of the timeline are on the screen, and the time that each stands for. */
function marksOn(tab: Tab): Promise<Mark[]> {
  return tab.evaluate(`(() => {
    const left = document.querySelector("#timeline").getBoundingClientRect().left;
    return [...document.querySelectorAll("#timeline .mark")].map((mark) => {
      const { kind, at, to } = mark.dataset;
      const box = mark.querySelector(kind === "session" ? ".hit" : ".leader").getBoundingClientRect();
      const shape = mark.querySelector(".shape")?.getBoundingClientRect();
      const bars = [...mark.querySelectorAll(".held, .told")].map((bar) => bar.getBoundingClientRect());
      const x = kind === "session" ? Math.min(...bars.map((bar) => bar.left)) : (shape.left + shape.right) / 2;
      const toX = kind === "session" ? Math.max(...bars.map((bar) => bar.right)) : box.right;
      return { kind, label: mark.querySelector(".label")?.textContent ?? "", atMs: +at, toMs: +to, x: x - left, toX: toX - left };
    });
  })()`);
}

/** The axis as it is drawn: where its labelled ticks are. */
function ticksOn(tab: Tab): Promise<{ atMs: number; x: number }[]> {
  return tab.evaluate(
    `[...document.querySelectorAll("#timeline .tick")].map(({ dataset }) => ({ atMs: +dataset.at, x: +dataset.x }))`,
  );
}

/** Texts and signs of the timeline that lie over each other. */
function overlaps(tab: Tab): Promise<string[]> {
  return tab.evaluate(`(() => {
    const things = [...document.querySelectorAll("#timeline text, #timeline .mark:not([data-kind=session]) > .shape")];
    const boxes = things.map((thing) => ({ thing, box: thing.getBoundingClientRect() }));
    const found = [];
    boxes.forEach((a, index) => boxes.slice(index + 1).forEach((b) => {
      const across = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
      const down = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
      // Lines of text may touch by their line spacing.
      if (across > 1 && down > 3) found.push((a.thing.textContent || a.thing.outerHTML) + " | " + (b.thing.textContent || b.thing.outerHTML));
    }));
    return found;
  })()`);
}

async function assertAccessible(tab: Tab) {
  await tab.evaluate(`${readFileSync("node_modules/axe-core/axe.min.js", "utf8")}; true`);
  const violations = await tab.evaluate<
    { id: string; impact: string; nodes: { target: string[]; failureSummary: string }[] }[]
  >(
    `axe.run(document, { resultTypes: ["violations"] }).then(({ violations }) => violations.map(({ id, impact, nodes }) =>
      ({ id, impact, nodes: nodes.slice(0, 3).map(({ target, failureSummary }) => ({ target, failureSummary })) })))`,
  );
  assert.deepEqual(violations, []);
}

async function assertFits(tab: Tab, width: number) {
  const widest = await tab.evaluate<{ scroll: number; outside: string[] }>(`({
    scroll: document.documentElement.scrollWidth,
    outside: [...document.querySelectorAll("main *")].filter((element) => !element.closest(".hidden") && element.getBoundingClientRect().right > ${width} + 1)
      .map((element) => element.outerHTML.slice(0, 80)).slice(0, 5),
  })`);
  assert.deepEqual(widest, { scroll: width, outside: [] });
}

async function countPages(tab: Tab): Promise<number> {
  const { data } = await tab.send("Page.printToPDF", { preferCSSPageSize: true, printBackground: true }) as {
    data: string;
  };
  const pdf = Buffer.from(data, "base64").toString("latin1");
  return pdf.match(/\/Type\s*\/Page\b/g)!.length;
}

const near = (a: number, b: number, tolerance: number) => Math.abs(a - b) <= tolerance;

describe("the report", { skip, concurrency: 3 }, () => {
  before(async () => {
    chromium = await startChromium();
  });
  after(() => chromium?.stop());

  it("that the client writes draws without complaint", async (t) => {
    const folder = mkdtempSync(join(tmpdir(), "report-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const file = join(folder, "drill.html");
    await rehearse(t, "--sessions=2", `--report=${file}`);
    const tab = await chromium.open(t);
    await tab.goTo(pathToFileURL(file).href);
    assert.match(await tab.text("h1"), /^PASS\s+2 handovers/);
    assert.deepEqual(tab.complaints, []);
  });

  it("of one session shows verdict, numbers, its two bars and every mark at its time", async (t) => {
    const result = await rehearse(t, "--sessions=1");
    const tab = await openReport(t, result);
    const [handover] = result.handovers;
    assert.match(await tab.text("h1"), /^PASS\s+1 handover, 0 messages lost/);
    assert.match(await tab.text("#numbers"), /Handovers\s+1\s+1 graceful, 0 failed/);
    assert.match(
      await tab.text("#footer"),
      new RegExp(`k8s-graceful-shutdown-test ${result.version} · started ${result.startedAt}`),
    );

    const marks = await marksOn(tab);
    const toldMs = handover!.endedMs! - handover!.noticeMs!;
    const expected: Record<string, number> = {
      told: toldMs,
      close: toldMs + handover!.drainMs!,
      back: handover!.endedMs! + handover!.reconnectMs,
    };
    for (const [kind, atMs] of Object.entries(expected)) {
      assert.ok(near(marks.find((mark) => mark.kind === kind)!.atMs, atMs, .01), kind);
    }
    const [first, second] = marks.filter(({ kind }) => kind === "session");
    assert.equal(first!.toMs, handover!.endedMs);
    assert.ok(near(second!.atMs, expected["back"]!, .01));
    // One straight line from time to place, through everything that is drawn.
    const points = [
      ...marks.filter(({ kind }) => kind !== "session").map(({ atMs, x }) => [atMs, x] as const),
      [first!.toMs, first!.toX] as const,
      [second!.atMs, second!.x] as const,
      ...(await ticksOn(tab)).map(({ atMs, x }) => [atMs, x] as const),
    ].sort(([a], [b]) => a - b);
    const [begin, end] = [points[0]!, points.at(-1)!];
    for (const [atMs, x] of points) {
      const straight = begin[1] + (atMs - begin[0]) / (end[0] - begin[0]) * (end[1] - begin[1]);
      assert.ok(near(x, straight, 1.5), `${atMs} ms is at ${x}, not at ${straight}`);
    }
    assert.deepEqual(await overlaps(tab), []);
  });

  for (
    const [what, change, tile] of [
      ["was not looked for", {}, /Endpoint race\s+not probed\s+--probe-interval looks for it/],
      [
        "is a finding",
        { findings: [{ name: "ENDPOINT_RACE", text: "met a pod" }] },
        /Endpoint race\s+seen\s+met a pod/,
      ],
      ["is a cause, though nobody probed", {
        symptoms: {
          SLOW_RECONNECT: { count: 1, servers: ["a"], causes: { ENDPOINT_RACE: { count: 1, evidence: "at +2.00s" } } },
        },
      }, /Endpoint race\s+seen\s+at \+2\.00s/],
    ] as const
  ) {
    it(`says of an endpoint race that ${what}`, async (t) => {
      const tab = await openReport(t, { ...await rehearse(t, "--sessions=1"), ...change } as Result);
      assert.match(await tab.text("#numbers"), tile);
    });
  }

  for (
    const [lost, tile] of [
      [0, /Messages lost\s+0\s+0 twice, 0 late; \d+ received/],
      [null, /Messages lost\s+not numbered\s+\d+ received/],
    ] as const
  ) {
    it(`with ${lost} messages lost says only what can be known of them`, async (t) => {
      const result = await rehearse(t, "--sessions=1");
      const tab = await openReport(t, { ...result, messages: { ...result.messages, lost } });
      assert.match(await tab.text("#numbers"), tile);
    });
  }

  it("of a drill shows the disruption, the pod's end and the handovers, calm time cut out, all to one scale", async (t) => {
    const result = await drill(t, "delete-graceful", ["--disrupt=delete", "--sessions=10", "--probe-interval=100"]);
    assert.equal(result.verdict, "PASS", result.summary);
    const tab = await openReport(t, result);
    const marks = await marksOn(tab);
    const [pod] = result.pods as [PodReport];
    assert.equal(marks.find(({ kind }) => kind === "disruption")!.atMs, result.disruption!.atMs);
    for (const { kind, atMs } of pod.moments) {
      assert.ok(marks.some((mark) => mark.kind === kind && mark.atMs === atMs), kind);
    }
    const deleted = pod.moments.find(({ kind }) => kind === "deleted")!;
    assert.equal(marks.find(({ kind }) => kind === "sigterm")!.atMs, deleted.atMs + pod.preStopMs!);
    assert.match(marks.find(({ kind }) => kind === "exit")!.label, /exit 0/);
    const told = result.handovers.map(({ endedMs, noticeMs }) => endedMs! - noticeMs!);
    const shutdown = marks.find(({ kind }) => kind === "told")!;
    assert.match(shutdown.label, /SHUTDOWN ×10/);
    assert.ok(near(shutdown.atMs, Math.min(...told), .01) && near(shutdown.toMs, Math.max(...told), .01));
    assert.equal(marks.filter(({ kind }) => kind === "session").length, 20);

    // SIGTERM comes 2 s after the deletion: that calm is cut out, and on each side a ms has the same width.
    const cuts = await tab.evaluate<number>(`document.querySelectorAll("#timeline .cut").length`);
    const movedMs = Math.max(...result.handovers.map(({ endedMs, reconnectMs }) => endedMs! + reconnectMs));
    // On a busy machine the handover itself may fill the picture.
    if (movedMs - Math.min(...told) < 500) {
      assert.ok(cuts > 0, "nothing is cut out");
      assert.match(await tab.text("#scope"), /the scale is the same on both sides/);
    }
    const points = [...marks.filter(({ kind }) => kind !== "session"), ...await ticksOn(tab)].sort((a, b) =>
      a.atMs - b.atMs
    );
    const edges = await tab.evaluate<number[]>(`(() => {
      const left = document.querySelector("#timeline").getBoundingClientRect().left;
      return [...document.querySelectorAll("#timeline .cut")].map((cut) => cut.getBoundingClientRect().left - left);
    })()`);
    const pieceOf = (x: number) => edges.filter((edge) => edge < x).length;
    const slopes = points.slice(1).flatMap((point, index) => {
      const before = points[index]!;
      const far = point.x - before.x > 20 && pieceOf(point.x) === pieceOf(before.x);
      return far ? [(point.x - before.x) / (point.atMs - before.atMs)] : [];
    });
    assert.ok(slopes.length > 4);
    assert.ok(Math.max(...slopes) / Math.min(...slopes) < 1.1, slopes.join(" "));
    const moving = marks.filter(({ kind }) => ["told", "back"].includes(kind));
    const width = Math.max(...moving.map(({ toX }) => toX)) - Math.min(...moving.map(({ x }) => x));
    assert.ok(width > 200, `the handover takes ${width} of 1192 pixels`);
    assert.deepEqual(await overlaps(tab), []);
    await assertAccessible(tab);
  });

  it("of a drill whose pod was killed at its grace says so at the top", async (t) => {
    const flags = ["--disrupt=delete", "--sessions=10"];
    const result = await drill(t, "delete-sigterm-ignored", flags, "--fault=slow-drain");
    const tab = await openReport(t, result);
    assert.match(await tab.text("h1"), /^FAIL\s+10 of 10 handovers: CUT_DURING_DRAIN ×10/);
    const answer = await tab.text("#answer");
    assert.match(answer, /CUT_DURING_DRAIN ×10[^]*SIGKILL_AT_GRACE[^]*preStop left [\d.]+s of 8s/);
    assert.match(answer, /Raise terminationGracePeriodSeconds, or shorten the drain/);
    assert.match(
      await tab.text("#handovers"),
      /✕ CUT_DURING_DRAIN ×10[\s\S]*slots 1–10[\s\S]*cause SIGKILL_AT_GRACE[\s\S]*no CLOSE/,
    );
    assert.match(await tab.text("#servers"), /\+\d[^\n]*\s+✕ exit 137/);
    assert.deepEqual(await overlaps(tab), []);
    assert.equal(await countPages(tab), 1);
  });

  const REAL: Partial<Record<Symptom, string>> = {
    STALLED: "stall",
    CUT_WITHOUT_NOTICE: "exit-at-sigterm",
    NO_NOTICE: "skip-notice",
    CUT_DURING_DRAIN: "exit-mid-drain",
    DATA_LOST: "drop-data",
    DATA_DUPLICATED: "duplicate-data",
    DATA_REORDERED: "reorder-data",
    UPSTREAM_LOST: "lose-upstream",
    NO_FAREWELL: "skip-farewell",
    NO_CLOSE_FRAME: "terminate",
    RESET_AFTER_CLOSE: "reset",
    WRONG_CLOSE_CODE: "no-status",
  };
  /** The run that those are made from which no fault shows. */
  let cut: Promise<Result> | undefined;
  for (const symptom of Object.keys(REMEDIES) as Symptom[]) {
    it(`shows ${symptom}, what it means and what to do`, async (t) => {
      const fault = REAL[symptom];
      const played = (fault: string) => rehearse(t, "--sessions=3", "--silence-timeout=1000", `--fault=${fault}`);
      const result = await (fault === undefined ? cut ??= played("exit-mid-drain") : played(fault));
      const tab = await openReport(t, unwatched(fault === undefined ? withSymptom(result, symptom) : result));
      const [meaning, remedy] = REMEDIES[symptom];
      const answer = await tab.text("#answer");
      assert.ok(answer.includes(symptom) && answer.toLowerCase().includes(meaning.toLowerCase()), answer);
      const all = await tab.text("main");
      const fixes = typeof remedy === "string" ? [remedy] : remedy.map((cause) => CAUSES[cause][1]);
      for (const fix of fixes) assert.ok(all.toLowerCase().includes(fix.toLowerCase()), fix);
      const marks = await marksOn(tab);
      const failed = marks.filter(({ kind }) => kind === "failed");
      assert.ok(failed.some(({ label }) => label.includes(symptom)), JSON.stringify(marks));
      const kind = { DATA_LOST: "lost", DATA_DUPLICATED: "duplicated", DATA_REORDERED: "reordered" }[symptom as string];
      if (kind !== undefined) {
        const { atMs } = marks.find((mark) => mark.kind === kind)!;
        const drains = result.handovers.map(({ endedMs, noticeMs }) => endedMs! - noticeMs!);
        assert.ok(atMs >= Math.min(...drains) && atMs <= result.durationMs, `${kind} at ${atMs}`);
      }
      assert.deepEqual(await overlaps(tab), []);
      assert.equal(await countPages(tab), 1);
    });
  }

  it("of 50 sessions has a bar for each, dark, on one page, at 360 px, and accessible", async (t) => {
    const result = await rehearse(t, "--sessions=50", "--spread=400");
    const tab = await openReport(t, result, { dark: true });
    const bars = (await marksOn(tab)).filter(({ kind }) => kind === "session");
    assert.equal(bars.length, 100);
    const ends = bars.map(({ toMs }) => toMs);
    for (const { endedMs } of result.handovers) assert.ok(ends.includes(endedMs!), `no bar ends at ${endedMs}`);
    assert.notEqual(await tab.evaluate(`getComputedStyle(document.body).backgroundColor`), "rgb(255, 255, 255)");
    assert.deepEqual(await overlaps(tab), []);
    await assertAccessible(tab);
    assert.equal(await countPages(tab), 1);

    const narrow = await openReport(t, result, { width: 360 });
    await assertFits(narrow, 360);
    assert.deepEqual(await overlaps(narrow), []);
    await assertAccessible(narrow);
  });

  it("of 9,000 sessions has bands of their numbers, drawn at once, in less than 5 MB", async (t) => {
    const result = multiplied(unwatched(await rehearse(t, "--sessions=50", "--fault=exit-mid-drain")), 9000);
    const bytes = Buffer.byteLength(embed(result));
    assert.ok(bytes < 5_000_000, `${bytes} bytes`);
    const tab = await openReport(t, result);
    const { drawMs, readMs } = await tab.evaluate<{ drawMs: number; readMs: number }>(`(() => {
      const { domInteractive, domContentLoadedEventStart, responseEnd, domComplete } = performance.getEntriesByType("navigation")[0];
      return { drawMs: domComplete, readMs: responseEnd };
    })()`);
    t.diagnostic(
      `9,000 sessions: ${bytes} bytes, complete ${Math.round(drawMs)} ms after the navigation (read by ${
        Math.round(readMs)
      })`,
    );
    assert.ok(drawMs < 5000 + slackMs(), `drawn after ${drawMs} ms`);
    assert.match(await tab.text("#numbers"), /9,000/);
    assert.match(await tab.text("#handovers"), /CUT_DURING_DRAIN ×9,000/);
    assert.equal(await tab.evaluate(`document.querySelectorAll("#timeline [data-kind=session]").length`), 0);
    assert.deepEqual(await overlaps(tab), []);

    // The first server's band is as high as the sessions that it holds, whenever one looks.
    const ticks = await ticksOn(tab);
    const slope = (ticks.at(-1)!.x - ticks[0]!.x) / (ticks.at(-1)!.atMs - ticks[0]!.atMs);
    for (const share of [.2, .5, .8]) {
      const x = Math.round(1192 * share);
      const atMs = ticks[0]!.atMs + (x - ticks[0]!.x) / slope;
      const holds = result.handovers.filter(({ endedMs }) => endedMs! > atMs).length;
      const height = await tab.evaluate<number>(`(() => {
        const band = document.querySelector("#timeline path.held");
        const { y, height } = band.getBBox();
        for (let up = 0; up < height; up += .1) if (!band.isPointInFill(new DOMPoint(${x} + .5, y + height - .05 - up))) return up;
        return height;
      })()`);
      assert.ok(near(height / 54, holds / 9000, .02), `${holds} sessions are ${height} of 54 high`);
      const box = await tab.evaluate<{ left: number; top: number }>(
        `(({ left, top }) => ({ left, top }))(document.querySelector("#timeline path.held").getBoundingClientRect())`,
      );
      const frame = await tab.evaluate<number>(`document.querySelector("#timeline").getBoundingClientRect().left`);
      await tab.point(frame + x, box.top + 30);
      const said = /server-1 ([\d,]+)/.exec(await tab.text("#details"));
      assert.ok(near(Number(said![1]!.replaceAll(",", "")), holds, 60), `${said![0]}, and it holds ${holds}`);
    }
    await assertAccessible(tab);
    assert.equal(await countPages(tab), 1);
    // As words go on a slow day: they do not fit beside the lane's name.
    result.handovers[0]!.silenceMs = 754_321;
    const narrow = await openReport(t, result, { width: 360 });
    const past = `[...document.querySelectorAll("#timeline .lane-name")].map((name) =>
      name.getBoundingClientRect().right - document.querySelector("#timeline").getBoundingClientRect().right)`;
    assert.ok(Math.max(...await narrow.evaluate<number[]>(past)) <= 0, "a lane's name ends outside of the picture");
    await assertFits(narrow, 360);
    assert.deepEqual(await overlaps(narrow), []);
  });

  it("gives every mark's numbers to the pointer and to the keyboard, with one stop for Tab", async (t) => {
    const result = await rehearse(t, "--sessions=2");
    const tab = await openReport(t, result);
    const stops = await tab.evaluate<number>(`document.querySelectorAll("#timeline [tabindex='0']").length`);
    assert.equal(stops, 1);
    await tab.press("Tab");
    const marks = (await marksOn(tab)).length;
    const seen = new Set<string>();
    await tab.press("Home");
    for (let index = 0; index < marks; index++) {
      const focus = await tab.evaluate<{ label: string; ring: string }>(`(() => {
        const mark = document.activeElement;
        return { label: mark.getAttribute("aria-label"), ring: getComputedStyle(mark.querySelector(".ring")).strokeWidth };
      })()`);
      assert.equal(focus.ring, "2px");
      const details = await tab.text("#details");
      assert.ok(details.includes(focus.label.split(":")[0]!), `${details} does not tell of ${focus.label}`);
      seen.add(focus.label);
      await tab.press("ArrowRight");
    }
    assert.equal(seen.size, marks);
    const told = await tab.evaluate<{ x: number; y: number }>(`(() => {
      const box = document.querySelector("#timeline [data-kind=told] .label").getBoundingClientRect();
      return { x: box.left + 10, y: box.top + 6 };
    })()`);
    await tab.point(told.x, told.y);
    assert.match(await tab.text("#details"), /server-1: SHUTDOWN.*first \+[\d.]+ms.*sessions 2/s);
  });

  it("shows hostile names, reasons and events, and nothing else comes of them", async (t) => {
    const result = await drill(t, "delete-graceful", ["--disrupt=delete", "--sessions=3"]);
    const names = [
      `</script><script>document.title = "owned"</script><img src=x onerror=alert(1)>'"\``,
      `\u202egnp.dop-live\u202c שרת-א ${"x".repeat(10_000)}-tail`,
    ];
    const rename = (name: string) => name === result.pods[0]!.name ? names[0]! : names[1]!;
    const hostile = `\u0000\u001b[31m\r\n${names[0]} ${names[1]}`;
    const handovers = result.handovers.map((handover) => ({
      ...handover,
      verdict: "failed" as const,
      symptom: "CUT_DURING_DRAIN" as const,
      cause: "EXIT_BEFORE_FLUSH" as const,
      evidence: hostile,
      reason: hostile,
      complaint: hostile,
      pod: names[0]!,
      from: rename(handover.from),
      to: rename(handover.to!),
      failedDials: { [hostile]: 2 },
    }));
    const hostileResult: Result = {
      ...settled(result, handovers),
      verdict: "FAIL",
      summary: `FAIL  ${hostile}`,
      failure: hostile,
      disruption: { kind: "delete", pod: names[0]!, atMs: result.disruption!.atMs },
      pods: result.pods.map((pod) => ({
        ...pod,
        name: names[0]!,
        moments: [...pod.moments.map((moment) => ({ ...moment, text: hostile })), {
          atMs: pod.moments[0]!.atMs,
          kind: "prestop-failed" as const,
          text: hostile,
        }],
      })),
      counts: { graceful: 0, failed: 3, unfinished: 0 },
      symptoms: {
        CUT_DURING_DRAIN: { count: 3, servers: names, causes: { EXIT_BEFORE_FLUSH: { count: 3, evidence: hostile } } },
      },
      findings: [{ name: "ENDPOINT_RACE", text: hostile }, { name: hostile, text: hostile }],
      predictions: [{
        ...{ rule: hostile, foretells: [hostile], certain: true, came: 1 },
        ...{ field: hostile, value: hostile, fix: hostile, text: hostile },
      }],
      unseen: [hostile],
      settings: { ...result.settings, targetSelector: hostile, url: [hostile] },
      version: hostile,
      startedAt: hostile,
    };
    for (const width of [1280, 360]) {
      const tab = await openReport(t, hostileResult, { width });
      assert.match(await tab.evaluate("document.title"), /^FAIL · CUT_DURING_DRAIN/);
      assert.equal(await tab.evaluate(`document.querySelectorAll("img, iframe, a, script:not(#result)").length`), 1);
      assert.equal(
        await tab.evaluate(
          `[...document.querySelectorAll("*")].filter((element) => [...element.attributes].some(({ name }) => name.startsWith("on"))).length`,
        ),
        0,
      );
      const text = await tab.evaluate<string>("document.body.innerText");
      assert.ok(text.includes(`<img src=x onerror=alert(1)>`));
      // deno-lint-ignore no-control-regex
      assert.doesNotMatch(text, /[\x00-\x08\x1b\u202a-\u202e]/);
      assert.ok(text.length < 30_000, `${text.length} characters`);
      // The end of a name is what tells it from others.
      assert.match(
        await tab.evaluate(`[...document.querySelectorAll("#timeline .lane-name")].at(-1).textContent`),
        /-tail/,
      );
      await assertFits(tab, width);
      assert.deepEqual(await overlaps(tab), []);
      assert.equal(await countPages(tab), 1);
    }
  });

  it("of a long watch draws the last disruption that failed, and says that there were others", async (t) => {
    const result = await rehearse(t, "--sessions=2");
    const HOUR_MS = 3_600_000;
    const later = (handover: Handover, hours: number): Handover => ({
      ...handover,
      endedMs: handover.endedMs! + hours * HOUR_MS,
      lastDataMs: handover.lastDataMs! + hours * HOUR_MS,
      openedMs: handover.openedMs! + hours * HOUR_MS,
      ...hours === 2 ? { verdict: "failed" as const, symptom: "NO_NOTICE" as const } : {},
    });
    // Both end at once, however late one of them was: what is apart is drawn apart.
    const [{ endedMs, lastDataMs, openedMs }] = result.handovers as [Handover];
    const rows = result.handovers.map((handover) => ({ ...handover, endedMs, lastDataMs, openedMs }));
    const handovers = [0, 1, 2, 3].flatMap((hours) => rows.map((handover) => later(handover, hours)));
    const tab = await openReport(t, {
      ...settled(result, handovers),
      verdict: "FAIL",
      durationMs: 5 * HOUR_MS,
      counts: { graceful: 6, failed: 2, unfinished: 0 },
      symptoms: { NO_NOTICE: { count: 2, servers: ["server-1"], causes: {} } },
    });
    assert.match(
      await tab.text("#scope"),
      /Something happened at 4 separate times; this is the last of them with a failure, with 2 of 8 handovers/,
    );
    const marks = await marksOn(tab);
    assert.ok(marks.every(({ atMs, kind }) => kind === "session" || Math.floor(atMs / HOUR_MS) === 2));
    assert.match(marks.find(({ kind }) => kind === "failed")!.label, /NO_NOTICE ×2/);
  });

  it("of a rollout over many servers draws those that failed, and the rest as one", async (t) => {
    const result = unwatched(await rehearse(t, "--sessions=40"));
    const handovers = result.handovers.map((handover, index): Handover => ({
      ...handover,
      from: `gateway-5c49c9685b-${index + 10}old`,
      to: `gateway-6b9d7f5c44-${index % 7}new`,
      endedMs: handover.endedMs! + 500 * index,
      lastDataMs: handover.lastDataMs! + 500 * index,
      ...index === 33 ? { verdict: "failed" as const, symptom: "NO_NOTICE" as const } : {},
    }));
    const rollout: Result = {
      ...settled(result, handovers),
      verdict: "FAIL",
      durationMs: result.durationMs + 20_000,
      counts: { graceful: 39, failed: 1, unfinished: 0 },
      symptoms: { NO_NOTICE: { count: 1, servers: [handovers[33]!.from], causes: {} } },
    };
    for (const width of [1280, 360]) {
      const tab = await openReport(t, rollout, { width });
      const lanes = await tab.evaluate<string[]>(
        `[...document.querySelectorAll("#timeline .lane-name")].map(({ textContent }) => textContent)`,
      );
      assert.ok(lanes.length <= 14, lanes.join("\n"));
      assert.ok(lanes.some((name) => name.includes("43old")), lanes.join("\n"));
      assert.match(lanes.at(-1)!, /34 other servers/);
      assert.equal((await marksOn(tab)).filter(({ kind }) => kind === "failed").length, 1);
      assert.deepEqual(await overlaps(tab), []);
      await assertFits(tab, width);
      assert.equal(await countPages(tab), 1);
    }
  });

  it("of two paths has the numbers of each, and shows who moved again, also at 360 px", async (t) => {
    const whole = await rehearse(t, "--sessions=4");
    const first = whole.handovers.find(({ slot }) => slot === 1)!;
    const again = {
      ...first,
      from: first.to!,
      to: "server-3",
      openedMs: first.arrivedMs,
      endedMs: first.arrivedMs! + 1500,
      arrivedMs: first.arrivedMs! + 1500 + first.reconnectMs,
      lastDataMs: first.arrivedMs! + 1450,
    };
    const handovers = [...whole.handovers, again].map((handover) => {
      return { ...handover, path: handover.slot % 2 === 1 ? "direct" : "ingress" };
    });
    const path = {
      ...whole,
      sessions: { wanted: 2, had: 2, connected: 2 },
      counts: { graceful: 3, failed: 0, unfinished: 0 },
      urls: [`wss://${"a-long-name-of-a-host.".repeat(4)}example.com/socket`],
    };
    const paths = [
      { ...path, name: "direct" },
      { ...path, name: "ingress", failedDials: { refused: 7 }, counts: { graceful: 2, failed: 0, unfinished: 0 } },
    ];
    const open = whole.open.map((session) =>
      session.slot === 1 ? { ...session, server: "server-3", openedMs: again.arrivedMs } : session
    );
    const result = { ...whole, handovers, paths, open, durationMs: whole.durationMs + 5000 };
    for (const width of [1280, 360]) {
      const tab = await openReport(t, result, { width });
      assert.match(
        await tab.text("#paths"),
        /^By path\s+direct wss:[^]*handovers\s+3 graceful, 0 failed[^]*ingress wss:/,
      );
      assert.match(await tab.text("#paths"), /2 graceful, 0 failed[^]*failed dials\s+refused ×7/);
      assert.match(await tab.text("#legend"), /moved again/);
      assert.match(await tab.text("#servers"), /reconnected here, for the second time or more: 1 session/);
      assert.equal((await marksOn(tab)).filter(({ kind }) => kind === "again").length, 1);
      await assertFits(tab, width);
      await assertAccessible(tab);
    }
    const tab = await openReport(t, whole);
    assert.doesNotMatch(await tab.text("#legend"), /moved again/);
    assert.equal(await tab.evaluate('document.getElementById("paths").hidden'), true);
  });

  it("of a run without a handover draws the sessions as they are", async (t) => {
    const server = await startServer(t, "--interval=100");
    const client = startClient(
      t,
      `--url=${server.url}`,
      "--sessions=2",
      "--interval=100",
      "--timeout=700ms",
      "--handovers=2",
    );
    const tab = await openReport(t, await client.result);
    assert.match(await tab.text("h1"), /^FAIL\s+0 of 2 handovers happened/);
    assert.equal((await marksOn(tab)).filter(({ kind }) => kind === "session").length, 2);
    assert.match(await tab.text("#scope"), /No session has ended/);
    await assertAccessible(tab);
  });

  it("live follows a handover under a policy that allows nothing else, and stops when the client does", async (t) => {
    const result = await rehearse(t, "--sessions=4", "--spread=300");
    const hash = (name: string) => {
      const text = new RegExp(`<${name}>([^]*?)</${name}>`).exec(TEMPLATE)![1]!;
      return `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
    };
    const policy = `default-src 'none'; style-src ${hash("style")}; script-src ${
      hash("script")
    }; connect-src 'self'; img-src data:`;
    let events: ServerResponse | undefined;
    const asked: string[] = [];
    const server = createServer((request, response) => {
      asked.push(request.url!);
      if (request.url === "/events") {
        events = response;
        response.writeHead(200, { "content-type": "text/event-stream" }).flushHeaders();
      } else if (request.url === "/") {
        response.writeHead(200, { "content-type": "text/html; charset=utf-8", "content-security-policy": policy }).end(
          TEMPLATE,
        );
      } else response.writeHead(404).end();
    });
    const port = await listen(t, server);
    const say = (snapshot: Result, running = true) => events!.write(`data: ${pageData(snapshot, running)}\n\n`);

    const tab = await chromium.open(t);
    await tab.goTo(`http://127.0.0.1:${port}/`);
    await tab.wait(`document.querySelector("#live").dataset.state === "live"`);
    const told = result.handovers.map(({ endedMs, noticeMs }) => endedMs! - noticeMs!);
    say(asOf(result, Math.min(...told) - 20));
    await tab.wait(`document.querySelector("#verdict").innerText === "RUNNING"`);
    assert.equal((await marksOn(tab)).filter(({ kind }) => kind === "session").length, 4);
    // Half of the way: some have been told, some have moved.
    const middleMs = (Math.min(...told) + Math.max(...result.handovers.map(({ endedMs }) => endedMs!))) / 2;
    say(asOf(result, middleMs));
    await tab.wait(`document.querySelector("#timeline [data-kind=told]")`);
    assert.ok((await marksOn(tab)).some(({ kind, label }) => kind === "told" && label.includes("SHUTDOWN")));
    assert.match(await tab.text("#as-of"), /^as of \d/);
    assert.deepEqual(await overlaps(tab), []);
    await assertAccessible(tab);
    // What has the focus keeps it, whatever is drawn anew.
    await tab.press("Tab");
    const focus = `document.activeElement.closest(".mark")?.dataset.key ?? ""`;
    const before = await tab.evaluate<string>(focus);
    assert.notEqual(before, "");
    const asOfBefore = await tab.text("#as-of");
    say(asOf(result, middleMs + 15));
    await tab.wait(`document.querySelector("#as-of").innerText !== ${JSON.stringify(asOfBefore)}`);
    assert.equal(await tab.evaluate<string>(focus), before);

    const motion = `getComputedStyle(document.querySelector("#live"), "::before").animationName`;
    assert.equal(await tab.evaluate(motion), "breathe");
    await tab.send("Emulation.setEmulatedMedia", { features: [{ name: "prefers-reduced-motion", value: "reduce" }] });
    assert.equal(await tab.evaluate(motion), "none");

    say(result, false);
    await tab.wait(`document.querySelector("#live").dataset.state === "ended"`);
    assert.match(await tab.text("h1"), /^PASS\s+4 handovers, 0 messages lost/);
    assert.match(await tab.text("#numbers"), /Handovers\s+4/);
    assert.deepEqual(asked, ["/", "/events"]);
    assert.deepEqual(tab.complaints, []);
  });

  it("live, of the client itself, shows a handover within a second and ends with the same numbers", async (t) => {
    const [first, second] = await Promise.all([
      startServer(t, ...SERVER_PACE),
      startServer(t, ...SERVER_PACE, "--name=server-2"),
    ]);
    const client = startClient(
      t,
      `--url=${first.url}`,
      `--url=${second.url}`,
      "--sessions=6",
      "--interval=100",
      "--handovers=6",
    );
    const tab = await chromium.open(t);
    const admin = await client.admin();
    await tab.goTo(`${admin}/`);
    await client.line(/ steady /);
    await tab.wait(`document.querySelectorAll("#timeline [data-kind=session]").length === 6`);
    assert.equal(await tab.text("#verdict"), "RUNNING");
    first.child.kill("SIGTERM");
    await client.line(/ shutdown-notice /);
    const toldAt = performance.now();
    await tab.wait(`document.querySelector("#timeline [data-kind=told]")`);
    assert.ok(performance.now() - toldAt < 1500, `shown after ${performance.now() - toldAt} ms`);
    await tab.wait(`document.querySelector("#live").dataset.state === "ended"`);
    const { handovers, summary, messages } = await client.result;
    assert.equal((await tab.text("h1")).replace(/\s+/g, " "), summary.replace(/\s+/g, " "));
    const numbers = await tab.text("#numbers");
    assert.match(numbers, new RegExp(`Handovers\\s+6\\s+6 graceful, 0 failed`));
    assert.match(numbers, new RegExp(`Messages lost\\s+${messages.lost}\\s`));
    const marks = await marksOn(tab);
    const ends = marks.filter(({ kind }) => kind === "session").map(({ toMs }) => toMs);
    for (const { endedMs } of handovers) assert.ok(ends.includes(endedMs!), `no bar ends at ${endedMs}`);
    assert.deepEqual(tab.requests.filter((url) => !url.startsWith("data:")), [`${admin}/`, `${admin}/events`]);
    assert.deepEqual(tab.complaints, []);
  });

  it("live says when the client has gone without a word, and keeps the picture", async (t) => {
    const server = await startServer(t, ...SERVER_PACE);
    const client = startClient(t, `--url=${server.url}`, "--sessions=2", "--interval=100");
    const tab = await chromium.open(t);
    await tab.goTo(`${await client.admin()}/`);
    await tab.wait(`document.querySelectorAll("#timeline [data-kind=session]").length === 2`);
    client.child.kill("SIGKILL");
    await tab.wait(`document.querySelector("#live").dataset.state === "lost"`);
    assert.match(await tab.text("#live"), /does not answer: this is the last picture/);
    assert.equal((await marksOn(tab)).filter(({ kind }) => kind === "session").length, 2);
  });
});
