/** What the tests share: real processes, real sockets, and waiting for lines and events instead of sleeping. */
import { Buffer } from "node:buffer";
import { type ChildProcess, type ChildProcessByStdio, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { cpSync, mkdtempSync, rmSync, symlinkSync } from "node:fs";
import type { Server as HttpServer } from "node:http";
import { connect as connectTcp, createServer as createTcpServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { monitorEventLoopDelay } from "node:perf_hooks";
import process from "node:process";
import type { Readable, Writable } from "node:stream";
import type { TestContext } from "node:test";
import { WebSocket, WebSocketServer } from "ws";
import { decode, encode, type Frame, SUBPROTOCOL } from "../protocol.ts";
import type { Result } from "../client.ts";
import type { FAULTS } from "../server.ts";

// A script that plays one case has its whole stage from here.
export { recording, startCluster } from "./cluster.ts";

/** kubectl lives for 50 ms, and would collect its garbage for a quarter of them. */
process.env["GOGC"] = "off";

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
  const { PATH, HOME, GOGC } = process.env;
  const child = spawn(program!, args, {
    env: { PATH, HOME, GOGC, ...env },
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

/** When a log line was written, in ms of the day (UTC). */
export const clockMs = (line: string): number => Date.parse(`1970-01-01T${/\d\d:\d\d:\d\d\.\d{3}/.exec(line)![0]}Z`);

/** Whether a program is here, and does what these arguments ask. */
export const has = (program: string, ...args: string[]): boolean =>
  spawnSync(program, args, { stdio: "ignore" }).status === 0;

/** Runs a program to its end. */
export async function run(t: TestContext, command: string[], env: Record<string, string> = {}) {
  const program = start(t, command, env);
  const { code, signal } = await program.exited;
  return { code, signal, stdout: program.stdout(), stderr: program.lines.join("\n") };
}

/** A folder with these files of the checkout, and its packages; gone when the test ends. */
export function copyOf(t: TestContext, ...files: string[]): string {
  const folder = mkdtempSync(join(tmpdir(), "copy-"));
  t.after(() => rmSync(folder, { recursive: true }));
  for (const file of files) cpSync(file, join(folder, file));
  symlinkSync(resolve("node_modules"), join(folder, "node_modules"));
  return folder;
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
  const proxyPort = await listen(t, proxy);
  t.after(() => sockets.forEach((socket) => socket.destroy()));
  return { url: `ws://127.0.0.1:${proxyPort}/ws`, swallow: () => swallowing = true };
}

/** Lets a server listen on a free port, which is returned, until the test ends; HTTP's idle connections end with it. */
export async function listen(t: TestContext, server: Server | HttpServer): Promise<number> {
  t.after(() => {
    server.close();
    if ("closeAllConnections" in server) server.closeAllConnections();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as { port: number }).port;
}

/** Where nobody listens: a port that nobody is given, as one that was free a moment ago may be. */
export function deadUrl(): string {
  return "ws://127.0.0.1:2/ws";
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
