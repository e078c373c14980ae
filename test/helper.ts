/** What the tests share: real processes, real sockets, and waiting for lines and events instead of sleeping. */
import { Buffer } from "node:buffer";
import { type ChildProcess, type ChildProcessByStdio, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import { connect as connectTcp, createServer as createTcpServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import process from "node:process";
import type { Readable, Writable } from "node:stream";
import type { TestContext } from "node:test";
import { WebSocket, WebSocketServer } from "ws";
import {
  decode,
  encode,
  type Frame,
  type KubernetesObject,
  type Stream,
  SUBPROTOCOL,
  type WorkloadObject,
} from "../protocol.ts";
import type { Result } from "../client.ts";
import type { FAULTS } from "../server.ts";

const delay = monitorEventLoopDelay();
delay.enable();

/** What an upper limit of a time may be exceeded by: nearly nothing on a quiet machine, more the busier it has been. */
export const slackMs = (): number => 5 * delay.max / 1e6;

/** A started program: its output so far, and promises for what is still to come. */
export interface Program {
  child: ChildProcess;
  /** Log lines so far, without their line ends. */
  lines: string[];
  stdout: () => string;
  /** The first log line that matches, past or future; rejects when the process ends without it. */
  line: (pattern: RegExp) => Promise<string>;
  /** Settles when the process has ended and its output is read; `at` is performance.now() of its exit. */
  exited: Promise<{ code: number | null; signal: NodeJS.Signals | null; at: number }>;
}

/** Starts a program with a clean environment; it is killed when the test ends. */
export function start(
  t: TestContext,
  command: string[],
  env: Record<string, string> = {},
  stdin: "ignore" | "pipe" = "ignore",
): Program {
  const [program, ...args] = command;
  const { PATH, HOME } = process.env;
  const child = spawn(program!, args, {
    env: { PATH, HOME, ...env },
    stdio: [stdin, "pipe", "pipe"],
  }) as ChildProcessByStdio<Writable | null, Readable, Readable>;
  t.after(() => child.kill("SIGKILL"));
  const lines: string[] = [];
  const waiting = new Set<() => void>();
  let stdout = "";
  let rest = "";
  child.stdout.setEncoding("utf8").on("data", (text) => stdout += text);
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    const parts = (rest + text).split("\n");
    rest = parts.pop()!;
    lines.push(...parts);
    for (const check of waiting) check();
  });
  let at = 0;
  child.once("exit", () => at = performance.now());
  const exited = once(child, "close").then(([code, signal]) => {
    if (rest !== "") lines.push(rest);
    return { code, signal, at };
  });
  const line = (pattern: RegExp) =>
    new Promise<string>((resolve, reject) => {
      const check = () => {
        const found = lines.find((text) => pattern.test(text));
        if (found === undefined) return;
        waiting.delete(check);
        resolve(found);
      };
      waiting.add(check);
      check();
      exited.then(() => reject(new Error(`${command.join(" ")} ended without ${pattern}:\n${lines.join("\n")}`)));
    });
  return { child, lines, stdout: () => stdout, line, exited };
}

/** Whether a program is here, and does what these arguments ask. */
export const has = (program: string, ...args: string[]): boolean =>
  spawnSync(program, args, { stdio: "ignore" }).status === 0;

/** Runs a program to its end. */
export async function run(t: TestContext, command: string[], env: Record<string, string> = {}) {
  const program = start(t, command, env);
  const { code, signal } = await program.exited;
  return { code, signal, stdout: program.stdout(), stderr: program.lines.join("\n") };
}

/** Starts our server on free ports and waits until it listens. */
export const startServer = (t: TestContext, ...flags: string[]) => startProgram(t, "dist/server.js", ...flags);

/** Starts our server, or a program that takes its flags and says as much when it listens. */
export async function startProgram(t: TestContext, path: string, ...flags: string[]) {
  const program = start(t, [process.execPath, path, "--port=0", "--admin-port=0", "--name=server-1", ...flags]);
  const listening = await program.line(/ listening /);
  const [, port, adminPort] = /:(\d+)\/ws, admin port (\d+)/.exec(listening)!;
  return {
    ...program,
    port: Number(port),
    url: `ws://127.0.0.1:${port}/ws`,
    admin: `http://127.0.0.1:${adminPort}`,
  };
}

/** Starts our client with a free admin port and JSON on stdout; `result` is what it printed, once it has ended. */
export function startClient(t: TestContext, ...flags: string[]) {
  const program = start(t, [process.execPath, "dist/client.js", "--admin-port=0", "--json", ...flags]);
  const result = program.exited.then(({ code }) => {
    if (code === 2) throw new Error(`the client could not run: ${program.lines.join("\n")}`);
    return JSON.parse(program.stdout()) as Result;
  });
  result.catch(() => {}); // not every test asks for it
  const admin = async () => `http://127.0.0.1:${/admin port (\d+)/.exec(await program.line(/admin port/))![1]}`;
  return { ...program, result, admin };
}

/** A WebSocket peer in the test's own process. `frames` and `texts` are what came; `next` waits for more. */
export async function connect(t: TestContext, url: string, { protocol = SUBPROTOCOL, ...options } = {}) {
  const ws = new WebSocket(url, protocol === "" ? [] : [protocol], { perMessageDeflate: false, ...options });
  t.after(() => ws.terminate());
  const texts: string[] = [];
  const arrivals: number[] = [];
  const waiting = new Set<() => void>();
  const closed = once(ws, "close").then(([code, reason]) => ({
    code: code as number,
    reason: String(reason),
    at: performance.now(),
  }));
  ws.on("message", (data) => {
    texts.push(String(data));
    arrivals.push(performance.now());
    for (const check of waiting) check();
  });
  closed.then(() => waiting.forEach((check) => check()));
  let socket: Socket | undefined;
  ws.on("upgrade", (response) => socket = response.socket);
  await once(ws, "open");

  /** The first text from index `from` on that passes, past or future; rejects when the connection ends without it. */
  const text = (passes: (text: string) => boolean, from = 0) =>
    new Promise<string>((resolve, reject) => {
      const check = () => {
        const found = texts.slice(from).find(passes);
        if (found === undefined && ws.readyState !== WebSocket.CLOSED) return;
        waiting.delete(check);
        if (found === undefined) {
          reject(new Error(`closed without the awaited message; there were:\n${texts.join("\n")}`));
        } else resolve(found);
      };
      waiting.add(check);
      check();
    });
  /** The first frame of a type, past or future. */
  const frame = async <T extends Frame["type"]>(
    type: T,
    passes: (frame: Extract<Frame, { type: T }>) => boolean = () => true,
  ) => {
    const isIt = (text: string) => {
      const frame = decode(text);
      return frame.type === type && passes(frame as Extract<Frame, { type: T }>);
    };
    return decode(await text(isIt)) as Extract<Frame, { type: T }>;
  };
  return {
    ws,
    socket: socket!,
    texts,
    arrivals,
    frames: () => texts.map(decode),
    send: (frame: Frame | string) => ws.send(typeof frame === "string" ? frame : encode(frame)),
    text,
    frame,
    closed,
  };
}

/** DATA as a well-behaved client sends it. */
export function data(seq: number, ack = 0): Frame {
  return { type: "DATA", seq, at: new Date().toISOString(), ack };
}

/** A message that a hostile peer sends, drawn with `random` (0 to 1, as Math.random): text, bytes, or text in fragments. */
export function hostileFrame(random: () => number): string | Buffer | string[] {
  const pick = <T>(...values: readonly T[]): T => values[Math.floor(random() * values.length)]!;
  const good = encode(data(1 + Math.floor(random() * 1e6)));
  const depth = pick(1, 50, 5000, 10_000);
  const nested = pick(
    "[".repeat(depth) + "]".repeat(depth),
    '{"a":'.repeat(depth) + "1" + "}".repeat(depth),
    "[".repeat(depth),
  );
  const number = pick("1e999", "-1e999", "-0", "9007199254740993", "9".repeat(400), "1e-400", "0x10", "NaN", "00");
  const field = pick("type", "seq", "at", "ack", "payload", "__proto__", "constructor", "toString");
  const value = pick(
    nested,
    number,
    '"\\ud800"',
    '"\ud800"',
    '{"__proto__":{"type":"DATA"}}',
    "null",
    "true",
    '""',
    '"DATA"',
  );
  const kinds: (() => string | Buffer | string[])[] = [
    () => nested,
    () => `{"${field}":${value}}`,
    () => `${good.slice(0, -1)},"${field}":${value}}`, // a key that is there already
    () => `{"${field}":${value},${good.slice(1)}`,
    () => good.slice(0, Math.floor(random() * good.length)),
    () => good.replace(/\d+/, number),
    () => "\ud800\udfff\u0000\u2028\x1b[2J".repeat(1 + Math.floor(random() * 100)),
    () => `{"type":"${"x".repeat(Math.floor(random() * 70_000))}"}`,
    () => Buffer.from(Array.from({ length: Math.floor(random() * 200) }, () => Math.floor(random() * 256))),
    () => good.split(/(?=[,:])/),
    () => [`{"type":`, nested, "}"],
  ];
  return pick(...kinds)();
}

/** Numbers from 0 to 1 that are the same for the same seed (mulberry32). */
export function seeded(seed: number): () => number {
  return () => {
    seed = seed + 0x6d2b79f5 | 0;
    let mixed = Math.imul(seed ^ seed >>> 15, 1 | seed);
    mixed = mixed + Math.imul(mixed ^ mixed >>> 7, 61 | mixed) ^ mixed;
    return ((mixed ^ mixed >>> 14) >>> 0) / 2 ** 32;
  };
}

/** A server whose every move the test decides: `onSession` gets each upgraded socket. Speaks no subprotocol with `plain`. */
export async function startPeer(
  t: TestContext,
  onSession: (ws: WebSocket, socket: Socket, index: number) => void,
  plain = false,
) {
  const wss = new WebSocketServer({
    port: 0,
    perMessageDeflate: false,
    handleProtocols: () => plain ? false : SUBPROTOCOL,
  });
  t.after(() => {
    wss.close();
    for (const ws of wss.clients) ws.terminate();
  });
  let index = 0;
  wss.on("connection", (ws, request) => onSession(ws, request.socket, index++));
  await once(wss, "listening");
  return { wss, url: `ws://127.0.0.1:${(wss.address() as { port: number }).port}/ws` };
}

/** A network between client and server that can swallow everything: no byte, no FIN, no reset comes through. */
export async function startNetwork(t: TestContext, port: number) {
  let swallowing = false;
  const sockets = new Set<Socket>();
  const proxy = createTcpServer({ allowHalfOpen: true }, (near) => {
    const far = connectTcp({ port, host: "127.0.0.1", allowHalfOpen: true });
    for (const [from, to] of [[near, far], [far, near]] as const) {
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
    url: `ws://127.0.0.1:${(proxy.address() as { port: number }).port}/ws`,
    swallow: () => swallowing = true,
  };
}

/** Resets a connection. Amid a shutdown it must not be: Node 20 would wait for that socket for ever at its exit. */
function reset(socket: Socket): void {
  if (socket.writableEnded) socket.destroy();
  else socket.resetAndDestroy();
}

/** Where nobody listens: a port that nobody is given, as one that was free a moment ago may be. */
export function deadUrl(): string {
  return "ws://127.0.0.1:2/ws";
}

// ---- A cluster that plays what a real one did

/** A line of a recording (test/fixtures): what a list or a watch of Kubernetes 1.36 sent, `t` ms after the disruption. */
export interface Recorded {
  t: number | null;
  stream?: Stream;
  list?: { metadata: { resourceVersion: string }; items: KubernetesObject[] };
  command?: string;
  pod?: string;
  type?: "ADDED" | "MODIFIED" | "DELETED";
  object?: KubernetesObject;
}

/** A recording by its name, as it lies in test/fixtures. */
export function recording(name: string): Recorded[] {
  return readFileSync(`test/fixtures/${name}.jsonl`, "utf8").trimEnd().split("\n").map((line) => JSON.parse(line));
}

/** A recording of which each object may have been changed. */
export function edited(name: string, change: (object: KubernetesObject, line: Recorded) => unknown): Recorded[] {
  const lines = recording(name);
  for (const line of lines) {
    for (const object of [...line.list?.items ?? [], ...line.object ? [line.object] : []]) change(object, line);
  }
  return lines;
}

/** The pod that a recording ends first. */
export const recordedVictim = (name: string): string =>
  recording(name).find(({ command }) => command !== undefined)!.pod!;

/** The recorded eviction, with the other pods on another node. */
export function twoNodes(): Recorded[] {
  return edited("evict", ({ metadata, spec }) => {
    if (spec && metadata.name !== recordedVictim("evict")) spec.nodeName = "node-2";
  });
}

/** A self-signed certificate for 127.0.0.1, the same for all who ask; null where there is no openssl. */
export function certificate(): { cert: string; key: string; file: string } | null {
  if (made !== undefined) return made;
  if (spawnSync("openssl", ["version"]).status !== 0) return made = null;
  const folder = mkdtempSync(join(tmpdir(), "certificate-"));
  process.once("exit", () => rmSync(folder, { recursive: true }));
  const [file, key] = [join(folder, "ca.crt"), join(folder, "ca.key")];
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"];
  const subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"];
  const { status } = spawnSync("openssl", ["req", "-x509", ...curve, ...subject, "-keyout", key, "-out", file]);
  return made = status === 0 ? { cert: readFileSync(file, "utf8"), key: readFileSync(key, "utf8"), file } : null;
}
let made: ReturnType<typeof certificate> | undefined;

/** A request that the API server got, and what it answers instead of what it would by itself. */
export interface ApiRequest {
  method: string;
  path: string;
  query: URLSearchParams;
  contentType: string | undefined;
  body: unknown;
  atMs: number;
}
/** A `body` of text is sent as it is. */
export type Answer = { status: number; body: unknown; headers?: Record<string, string> } | undefined;

/**
 * A cluster for one client: an API server that plays a recording once its disruption is asked for, a server process for
 * every pod in it (SIGTERM after its preStop, SIGKILL at its grace), and a Service that leads to the ready ones.
 */
export async function startCluster(
  t: TestContext,
  recorded: string | Recorded[],
  options: {
    /** What the pods run, and the victim's flags. */
    program?: string;
    flags?: string[];
    /** The API server's word instead of its usual one; it waits for a promise. */
    answer?: (request: ApiRequest) => Answer | Promise<Answer>;
    /** The workload that the pods are of. */
    target?: string;
    /** Called for every connection to the Service, counted from 0; a connection waits for a promise. */
    admit?: (index: number) => void | Promise<void>;
  } = {},
) {
  const lines = typeof recorded === "string" ? recording(recorded) : recorded;
  const folder = mkdtempSync("dist/cluster-");
  t.after(() => rmSync(folder, { recursive: true }));
  writeFileSync(`${folder}/namespace`, "rec");
  writeFileSync(`${folder}/token`, "first");

  // The state that a list shows, and every event so far, by stream.
  const lists: Record<Stream, Map<string, KubernetesObject>> = {
    pods: new Map(),
    endpointslices: new Map(),
    events: new Map(),
  };
  const past: Record<Stream, Recorded[]> = { pods: [], endpointslices: [], events: [] };
  for (const { stream, list } of lines) {
    for (const item of list?.items ?? []) lists[stream!].set(item.metadata.uid, item);
  }
  const victim = lines.find(({ command }) => command !== undefined)!.pod!;
  const [kind, name] = (options.target ?? "deployment/server-deployment").split("/") as [string, string];
  const isOurs = ({ metadata: { name: pod } }: KubernetesObject) => pod.startsWith(`${name}-`);
  const before = new Set([...lists.pods.values()].filter(isOurs).map(({ metadata }) => metadata.uid));
  const template = structuredClone([...lists.pods.values()].find(isOurs)!);
  const deployment = {
    metadata: { name, generation: 1 },
    spec: {
      replicas: 2,
      paused: false,
      selector: { matchLabels: { app: "server" } },
      template: { metadata: { labels: { app: "server" } }, spec: template.spec! },
    } as WorkloadObject["spec"] & { replicas: number },
  };
  /** What stands beside the pods. */
  const objects: Record<string, unknown[]> = { services: [], poddisruptionbudgets: [] };
  const nodes = new Map<string, { spec: { unschedulable?: boolean } }>();
  /** The workload as its controller has it, which sees every change at once. */
  function workload(): WorkloadObject {
    const { generation } = deployment.metadata;
    const living = [...lists.pods.values()].filter(isOurs)
      .filter(({ metadata }) => metadata.deletionTimestamp === undefined);
    const updated = generation === 1 ? living : living.filter(({ metadata }) => !before.has(metadata.uid));
    const ready = living.filter(({ status }) =>
      status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True")
    );
    const revision = updated.length === living.length ? "new" : "old";
    const status = {
      observedGeneration: generation,
      ...{ replicas: living.length, updatedReplicas: updated.length },
      ...{ readyReplicas: ready.length, availableReplicas: ready.length, numberAvailable: ready.length },
      ...{ currentRevision: revision, updateRevision: "new" },
      ...{ desiredNumberScheduled: deployment.spec.replicas, updatedNumberScheduled: updated.length },
    };
    return { ...deployment, status } as WorkloadObject;
  }
  const requests: ApiRequest[] = [];
  const watches = new Set<{ stream: Stream; response: ServerResponse }>();
  const timers = new Set<NodeJS.Timeout>();
  t.after(() => timers.forEach(clearTimeout));
  const at = (ms: number, action: () => void) => void timers.add(setTimeout(action, ms));
  let playing = false;
  let over = false;
  t.after(() => over = true);

  // ---- Pods: those of the list run from the first connection on, the others once they are there

  type Pod = Awaited<ReturnType<typeof startServer>>;
  const pods = new Map<string, Promise<Pod>>();
  const pace = ["--interval=50", "--remaining=2", "--remaining-interval=20"];
  /** The process of a pod, started if need be. */
  function pod(name: string): Promise<Pod> {
    const known = pods.get(name);
    if (known !== undefined) return known;
    const flags = [...pace, `--name=${name}`, ...name === victim && !playing ? options.flags ?? [] : []];
    const started = startProgram(t, options.program ?? "dist/server.js", ...flags);
    pods.set(name, started);
    started.catch(() => {}); // the test is over before it listens
    // A crash, when it comes: kubelet starts the container anew, and the recording of that is played.
    if (name === victim) void started.then(({ child }) => child.once("exit", onVictimExit), () => {});
    return started;
  }
  function onVictimExit(): void {
    if (playing || over) return;
    play();
    pods.delete(victim);
    void pod(victim);
  }
  function signal(pod: Promise<Pod> | undefined, signal: NodeJS.Signals): void {
    pod?.then(({ child }) => child.kill(signal), () => {});
  }
  /** Does to the pods what the recording tells of them, and tells it. */
  function play(): void {
    if (playing) return;
    playing = true;
    const ending = new Set<string>();
    for (const line of lines) {
      const { t, stream, type, object } = line;
      if (t === null || stream === undefined || type === undefined) continue;
      at(t, () => publish(line));
      if (stream !== "pods") continue;
      const { name, deletionTimestamp, deletionGracePeriodSeconds: grace } = object!.metadata;
      if (type === "ADDED") at(t, () => void pod(name));
      if (deletionTimestamp === undefined || ending.has(name)) continue;
      ending.add(name);
      const preStop = object!.spec!.containers[0]!.lifecycle?.preStop?.sleep?.seconds ?? 0;
      at(t, () => {
        const ended = pods.get(name); // another of this name may be there by then
        // Of a forced deletion's grace of 0 kubelet makes 2 s.
        at(grace === 0 ? 0 : preStop * 1000, () => signal(ended, "SIGTERM"));
        at((grace || 2) * 1000, () => signal(ended, "SIGKILL"));
      });
    }
  }

  // ---- The Service

  const connections = new Set<Socket>();
  let turn = 0;
  let admitted = 0;
  const state = {
    /** Whether sessions go to the pods in turn; else to the victim, as long as it is ready. */
    inTurn: false,
    /** A pod to which new connections go, whatever the endpoints say. */
    pinned: undefined as string | undefined,
  };
  const podNames = new Map(
    lines.flatMap(({ list, object }) => [...list?.items ?? [], ...object ? [object] : []])
      .map(({ metadata }) => [metadata.uid, metadata.name]),
  );
  /** What kube-proxy does: a ready endpoint, else one that terminates and serves. */
  function route(): string | undefined {
    const endpoints = [...lists.endpointslices.values()].flatMap(({ endpoints }) => endpoints ?? []);
    const ready = endpoints.filter(({ conditions }) => conditions!.ready);
    const choice = ready.length > 0 ? ready : endpoints.filter(({ conditions }) => conditions!.serving);
    const names = choice.map(({ targetRef }) => podNames.get(targetRef!.uid!)!);
    if (state.pinned !== undefined) return state.pinned;
    if (state.inTurn) return names[turn++ % names.length];
    return names.includes(victim) ? victim : names[0];
  }
  async function onConnection(near: Socket): Promise<void> {
    near.on("error", () => {});
    const name = route();
    if (name === undefined || over) return reset(near);
    await options.admit?.(admitted++);
    for (const { metadata } of lists.pods.values()) void pod(metadata.name);
    const { port } = await pod(name);
    const far = connectTcp({ port, host: "127.0.0.1" });
    connections.add(near);
    near.pipe(far).pipe(near);
    near.on("error", () => reset(far)).on("close", () => connections.delete(near));
    far.on("error", () => reset(near));
  }
  const service = createTcpServer((near) => void onConnection(near).catch(() => near.destroy()));
  service.listen(0, "127.0.0.1");
  await once(service, "listening");
  t.after(() => service.close());

  // ---- The API server

  function publish(line: Recorded): void {
    const { stream, type, object } = line;
    if (type === "DELETED") {
      lists[stream!].delete(object!.metadata.uid);
      if (stream === "pods") pods.delete(object!.metadata.name); // a StatefulSet makes another of this name
    } else lists[stream!].set(object!.metadata.uid, object!);
    past[stream!].push(line);
    for (const watch of watches) {
      if (watch.stream === stream) watch.response.write(`${JSON.stringify({ type, object })}\n`);
    }
  }
  /** The latest of all versions, as a list has it. */
  function version(): string {
    const seen = Object.values(past).flat().map(({ object }) => Number(object!.metadata.resourceVersion));
    return String(Math.max(...seen, ...lines.map(({ list }) => Number(list?.metadata.resourceVersion ?? 0))));
  }
  const status = (code: number, message: string): Answer => ({ status: code, body: { kind: "Status", code, message } });

  const { cert, key, file: caFile } = certificate()!;
  const api = createHttpsServer({ cert, key }, (request, response) => void onRequest(request, response));
  api.listen(0, "127.0.0.1");
  await once(api, "listening");
  t.after(() => {
    api.close();
    api.closeAllConnections();
  });
  async function onRequest(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname: path, searchParams: query } = new URL(request.url!, "https://api");
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString();
    const body = text === "" ? undefined : JSON.parse(text);
    const contentType = request.headers["content-type"];
    const asked = { method: request.method!, path, query, contentType, body, atMs: performance.now() };
    requests.push(asked);
    const allowed = request.headers.authorization === `Bearer ${readFileSync(`${folder}/token`, "utf8")}`;
    const answer = !allowed ? status(401, "Unauthorized") : await options.answer?.(asked) ?? usualAnswer(asked);
    if (answer !== undefined) {
      response.writeHead(answer.status, { "content-type": "application/json", ...answer.headers });
      return void response.end(typeof answer.body === "string" ? answer.body : `${JSON.stringify(answer.body)}\n`);
    }
    const stream = path.split("/").at(-1) as Stream;
    response.writeHead(200, { "content-type": "application/json" });
    response.flushHeaders();
    for (const { type, object } of past[stream]) {
      const isNew = Number(object!.metadata.resourceVersion) > Number(query.get("resourceVersion"));
      if (isNew) response.write(`${JSON.stringify({ type, object })}\n`);
    }
    const watch = { stream, response };
    watches.add(watch);
    response.on("close", () => watches.delete(watch));
  }
  /** Undefined for a watch. */
  function usualAnswer({ method, path, query, body }: ApiRequest): Answer {
    if (path.startsWith("/api/v1/nodes/")) return answerNode(path.split("/").at(-1)!, body as never);
    const [resource, asked, subresource] = path.split("/").slice(path.split("/").indexOf("rec") + 1);
    if (method === "GET" && query.has("watch")) return undefined;
    if (method === "GET" && asked === undefined) {
      const items = objects[resource!] ?? [...lists[resource as Stream].values()];
      return { status: 200, body: { metadata: { resourceVersion: version() }, items } };
    }
    if (resource!.endsWith("s") && resource !== "pods" && !(resource === `${kind}s` && asked === name)) {
      return status(404, `${resource}.apps "${asked}" not found`);
    }
    if (method === "GET") return { status: 200, body: workload() };
    const known = [...lists.pods.values()].find(({ metadata }) => metadata.name === asked);
    if (resource === "pods" && known === undefined) return status(404, `pods "${asked}" not found`);
    if (resource === `${kind}s` && subresource === undefined) deployment.metadata.generation++;
    if (resource === "pods" && method === "PATCH") annotate(known!, body as KubernetesObject);
    else if (subresource === "scale") {
      const [test, replace] = body as { value: number }[];
      if (test!.value !== deployment.spec.replicas) return status(422, "the server rejected our request");
      deployment.spec.replicas = replace!.value;
    }
    // All but notes on a pod: a delete, an eviction, a restart, a scale.
    if (resource !== "pods" || method !== "PATCH") play();
    return { status: 200, body: { kind: "Status", status: "Success" } };
  }
  function answerNode(name: string, patch: { spec: { unschedulable: boolean | null } } | undefined): Answer {
    const node = nodes.get(name) ?? { spec: {} };
    if (patch?.spec.unschedulable === null) delete node.spec.unschedulable;
    else if (patch !== undefined) node.spec.unschedulable = patch.spec.unschedulable;
    nodes.set(name, node);
    return { status: 200, body: node };
  }
  /** A merge patch of a pod's annotations: null takes one away. */
  function annotate(pod: KubernetesObject, { metadata: { annotations } }: KubernetesObject): void {
    const merged = Object.entries({ ...pod.metadata.annotations, ...annotations }).filter(([, value]) =>
      value !== null
    );
    const metadata = { ...pod.metadata, resourceVersion: version(), annotations: Object.fromEntries(merged) };
    publish({ t: 0, stream: "pods", type: "MODIFIED", object: { ...pod, metadata } });
  }

  const env = {
    KUBERNETES_SERVICE_HOST: "127.0.0.1",
    KUBERNETES_SERVICE_PORT: String((api.address() as { port: number }).port),
    NODE_EXTRA_CA_CERTS: caFile,
    SERVICE_ACCOUNT: folder,
    SERVER_URL: `ws://127.0.0.1:${(service.address() as { port: number }).port}/ws`,
  };
  /** Ends every connection that goes through the Service, as a proxy does. */
  const cut = () => connections.forEach(reset);
  return {
    env,
    folder,
    victim,
    pod,
    state,
    deployment,
    objects,
    nodes,
    lists,
    requests,
    watches,
    past,
    play,
    playing: () => playing,
    publish,
    version,
    usualAnswer,
    cut,
  };
}

/** DESIGN: every fault, the symptom that it must give, and the cause where the client alone could not tell. */
export const EXPECTED: Record<(typeof FAULTS)[number], [symptom: string | null, cause?: string]> = {
  "none": [null],
  "ignore-sigterm": ["CUT_WITHOUT_NOTICE", "SIGTERM_IGNORED"],
  "exit-at-sigterm": ["CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM"],
  "crash": ["CUT_WITHOUT_NOTICE", "CRASHED"],
  "stall": ["STALLED", "SIGTERM_IGNORED"],
  "skip-notice": ["NO_NOTICE"],
  "exit-mid-drain": ["CUT_DURING_DRAIN", "EXIT_BEFORE_FLUSH"],
  "slow-drain": ["CUT_DURING_DRAIN", "SIGKILL_AT_GRACE"],
  "drop-data": ["DATA_LOST"],
  "duplicate-data": ["DATA_DUPLICATED"],
  "reorder-data": ["DATA_REORDERED"],
  "lose-upstream": ["UPSTREAM_LOST"],
  "skip-farewell": ["NO_FAREWELL"],
  "terminate": ["NO_CLOSE_FRAME"],
  "reset": ["RESET_AFTER_CLOSE"],
  "no-status": ["WRONG_CLOSE_CODE"],
};
