/** What the tests share: real processes, real sockets, and waiting for lines and events instead of sleeping. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import { connect as connectTcp, createServer as createTcpServer, type Socket } from "node:net";
import process from "node:process";
import type { TestContext } from "node:test";
import { WebSocket, WebSocketServer } from "ws";
import { decode, encode, type Frame, type KubernetesObject, type Stream, SUBPROTOCOL } from "../protocol.ts";
import type { Result } from "../client.ts";

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
export function start(t: TestContext, command: string[], env: Record<string, string> = {}): Program {
  const [program, ...args] = command;
  const { PATH, HOME } = process.env;
  const child = spawn(program!, args, { env: { PATH, HOME, ...env }, stdio: ["ignore", "pipe", "pipe"] });
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

/** Runs a program to its end. */
export async function run(t: TestContext, command: string[], env: Record<string, string> = {}) {
  const program = start(t, command, env);
  const { code, signal } = await program.exited;
  return { code, signal, stdout: program.stdout(), stderr: program.lines.join("\n") };
}

/** Starts our server on free ports and waits until it listens. */
export async function startServer(t: TestContext, ...flags: string[]) {
  const program = start(t, [
    process.execPath,
    "dist/server.js",
    "--port=0",
    "--admin-port=0",
    "--name=server-1",
    ...flags,
  ]);
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

/** A loopback URL on which nobody listens. */
export async function deadUrl(): Promise<string> {
  const server = createTcpServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return `ws://127.0.0.1:${port}/ws`;
}

// ---- A cluster that plays what a real one did

/** A line of a recording (test/fixtures): what a list or a watch of Kubernetes 1.36 sent, `t` ms after the disruption. */
interface Recorded {
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

/** A self-signed certificate for 127.0.0.1, or undefined where there is no openssl. */
export function makeCertificate(folder: string): { cert: string; key: string } | undefined {
  const [cert, key] = [`${folder}/ca.crt`, `${folder}/ca.key`];
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"];
  const subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"];
  const { status } = spawnSync("openssl", ["req", "-x509", ...curve, ...subject, "-keyout", key, "-out", cert]);
  return status === 0 ? { cert, key } : undefined;
}

/** A request that the API server got, and what it answers instead of what it would by itself. */
export interface ApiRequest {
  method: string;
  path: string;
  query: URLSearchParams;
  body: unknown;
  atMs: number;
}
type Answer = { status: number; body: unknown; headers?: Record<string, string> } | undefined;

/**
 * A cluster for one client: an API server that plays a recording once its disruption is asked for, a server process for
 * every pod in it (SIGTERM after its preStop, SIGKILL at its grace), and a Service that leads to the ready ones.
 */
export async function startCluster(
  t: TestContext,
  name: string,
  options: { flags?: string[]; answer?: (request: ApiRequest) => Answer } = {},
) {
  const lines = recording(name);
  const folder = mkdtempSync("dist/cluster-");
  t.after(() => rmSync(folder, { recursive: true }));
  const certificate = makeCertificate(folder)!;
  writeFileSync(`${folder}/namespace`, "rec");
  writeFileSync(`${folder}/token`, "first");

  // The state that a list shows, and every event so far, by stream.
  const lists = { pods: new Map<string, KubernetesObject>(), endpointslices: new Map(), events: new Map() };
  const past: Record<Stream, Recorded[]> = { pods: [], endpointslices: [], events: [] };
  for (const { stream, list } of lines) {
    for (const item of list?.items ?? []) lists[stream!].set(item.metadata.uid, item);
  }
  const victim = lines.find(({ command }) => command !== undefined)!.pod!;
  const requests: ApiRequest[] = [];
  const watches = new Set<{ stream: Stream; response: ServerResponse }>();
  const timers = new Set<NodeJS.Timeout>();
  t.after(() => timers.forEach(clearTimeout));
  const at = (ms: number, action: () => void) => void timers.add(setTimeout(action, ms));

  // Every pod of the recording has its process from the start; the Service finds it when its endpoint is ready.
  const objects = lines.filter(({ stream, object }) => stream === "pods" && object !== undefined).map(({ object }) =>
    object!
  );
  const names = new Set([...lists.pods.values(), ...objects].map(({ metadata }) => metadata.name));
  let playing = false;
  let over = false;
  t.after(() => over = true);
  const pace = ["--interval=50", "--remaining=2", "--remaining-interval=20"];
  const servers = new Map<string, Awaited<ReturnType<typeof startServer>>>();
  const runPod = async (name: string, ...flags: string[]) =>
    servers.set(name, await startServer(t, ...pace, `--name=${name}`, ...flags));
  await Promise.all([...names].map((name) => runPod(name, ...name === victim ? options.flags ?? [] : [])));
  const victimProcess = servers.get(victim)!;
  // A crash, when it comes: kubelet starts the container anew, and the recording of that is played.
  victimProcess.child.once("exit", () => {
    if (playing || over) return;
    void runPod(victim);
    play();
  });

  /** What kube-proxy does: a ready endpoint, else one that terminates and serves; the victim first, as session 1's place. */
  const route = (): number | undefined => {
    const endpoints = [...lists.endpointslices.values()].flatMap(({ endpoints }) => endpoints ?? []);
    const ready = endpoints.filter(({ conditions }) => conditions.ready);
    const choice = ready.length > 0 ? ready : endpoints.filter(({ conditions }) => conditions.serving);
    const chosen = choice.find(({ targetRef }) => targetRef.name === victim) ?? choice[0];
    return chosen && servers.get(chosen.targetRef.name)!.port;
  };
  const service = createTcpServer((near) => {
    const port = route();
    if (port === undefined) return near.resetAndDestroy();
    const far = connectTcp({ port, host: "127.0.0.1" });
    near.pipe(far).pipe(near);
    for (const [one, other] of [[near, far], [far, near]] as const) one.on("error", () => other.resetAndDestroy());
  });
  service.listen(0, "127.0.0.1");
  await once(service, "listening");
  t.after(() => service.close());

  function play(): void {
    if (playing) return;
    playing = true;
    const ending = new Set<string>();
    for (const line of lines) {
      const { t, stream, type, object } = line;
      if (t === null || stream === undefined || type === undefined) continue;
      at(t, () => publish(line));
      const { name, deletionTimestamp, deletionGracePeriodSeconds: grace } = object!.metadata;
      if (stream !== "pods" || deletionTimestamp === undefined || ending.has(name)) continue;
      ending.add(name);
      // preStop.sleep is 2 s; of a forced deletion's grace of 0 kubelet makes 2 s.
      at(t + (grace === 0 ? 0 : 2000), () => servers.get(name)!.child.kill("SIGTERM"));
      at(t + (grace === 0 ? 2000 : grace! * 1000), () => servers.get(name)!.child.kill("SIGKILL"));
    }
  }
  function publish(line: Recorded): void {
    const { stream, type, object } = line;
    if (type === "DELETED") lists[stream!].delete(object!.metadata.uid);
    else lists[stream!].set(object!.metadata.uid, object!);
    past[stream!].push(line);
    for (const watch of watches) {
      if (watch.stream === stream) watch.response.write(`${JSON.stringify({ type, object })}\n`);
    }
  }
  const version = () => {
    const seen = Object.values(past).flat().map(({ object }) => Number(object!.metadata.resourceVersion));
    return String(Math.max(...seen, ...lines.map(({ list }) => Number(list?.metadata.resourceVersion ?? 0))));
  };

  const api = createHttpsServer(
    { cert: readFileSync(certificate.cert), key: readFileSync(certificate.key) },
    onRequest,
  );
  api.listen(0, "127.0.0.1");
  await once(api, "listening");
  t.after(() => {
    api.close();
    api.closeAllConnections();
  });
  async function onRequest(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname, searchParams } = new URL(request.url!, "https://api");
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk);
    const text = Buffer.concat(chunks).toString();
    const asked = {
      method: request.method!,
      path: pathname,
      query: searchParams,
      body: text === "" ? undefined : JSON.parse(text),
      atMs: performance.now(),
    };
    requests.push(asked);
    const stream = pathname.split("/").at(-1) as Stream;
    const allowed = request.headers.authorization === `Bearer ${readFileSync(`${folder}/token`, "utf8")}`;
    const answer: Answer = !allowed
      ? { status: 401, body: { kind: "Status", message: "Unauthorized" } }
      : options.answer?.(asked);
    if (answer !== undefined) {
      response.writeHead(answer.status, { "content-type": "application/json", ...answer.headers });
      return void response.end(JSON.stringify(answer.body));
    }
    if (asked.method === "GET" && searchParams.has("watch")) {
      response.writeHead(200, { "content-type": "application/json" });
      response.flushHeaders();
      const since = Number(searchParams.get("resourceVersion"));
      for (const { type, object } of past[stream]) {
        if (Number(object!.metadata.resourceVersion) > since) response.write(`${JSON.stringify({ type, object })}\n`);
      }
      const watch = { stream, response };
      watches.add(watch);
      return void response.on("close", () => watches.delete(watch));
    }
    response.writeHead(200, { "content-type": "application/json" });
    if (asked.method === "GET" && stream in lists) {
      const items = [...lists[stream].values()];
      return void response.end(JSON.stringify({ metadata: { resourceVersion: version() }, items }));
    }
    const isDeployment = pathname.includes("/deployments/");
    // All but notes on a pod: a delete, an eviction, a restart, a scale.
    if (asked.method !== "GET" && !(asked.method === "PATCH" && !isDeployment)) play();
    if (asked.method === "PATCH" && !isDeployment) {
      annotate(pathname.split("/").at(-1)!, asked.body as KubernetesObject);
    }
    response.end(JSON.stringify(isDeployment ? { spec: { replicas: 2 } } : { kind: "Status", status: "Success" }));
  }
  function annotate(name: string, { metadata: { annotations } }: KubernetesObject): void {
    const pod = [...lists.pods.values()].find(({ metadata }) => metadata.name === name);
    if (pod === undefined) return;
    publish({
      t: 0,
      stream: "pods",
      type: "MODIFIED",
      object: { ...pod, metadata: { ...pod.metadata, annotations: annotations! } },
    });
  }

  const env = {
    KUBERNETES_SERVICE_HOST: "127.0.0.1",
    KUBERNETES_SERVICE_PORT: String((api.address() as { port: number }).port),
    NODE_EXTRA_CA_CERTS: certificate.cert,
    SERVICE_ACCOUNT: folder,
    SERVER_URL: `ws://127.0.0.1:${(service.address() as { port: number }).port}/ws`,
  };
  return { env, folder, victim, victimProcess, servers, requests, watches, publish };
}
