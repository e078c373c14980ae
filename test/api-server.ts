/** What the tests' clusters share: HTTPS as an API server speaks it, objects with their watches, and timers. */
import { spawnSync } from "node:child_process";
import { EventEmitter } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { type IncomingMessage, type ServerResponse, STATUS_CODES } from "node:http";
import { createServer } from "node:https";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { text } from "node:stream/consumers";
import type { TestContext } from "node:test";
import { parse } from "yaml";
import { listen } from "./helper.ts";

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

/** An object of Kubernetes, of which the tests know what they look for. */
// deno-lint-ignore no-explicit-any
export type Anything = any;

/** A request that an API server got; its body is read. */
export interface ApiRequest {
  method: string;
  path: string;
  query: URLSearchParams;
  authorization: string | undefined;
  contentType: string | undefined;
  body: Anything;
  atMs: number;
}
/** A `body` of text is sent as it is. */
export type Answer = { status: number; body: unknown; headers?: Record<string, string> } | undefined;
export function ok(body: unknown, status = 200): Answer {
  return { status, body };
}
export const refuse = (code: number, message: string, headers: Record<string, string> = {}): Answer => {
  const reason = STATUS_CODES[code]!.replaceAll(" ", "");
  return {
    status: code,
    body: { kind: "Status", apiVersion: "v1", status: "Failure", reason, message, code },
    headers,
  };
};

/** Serves HTTPS until the test ends, and returns the port. What gets no answer has the response for itself. */
export async function startApiServer(
  t: TestContext,
  answer: (request: ApiRequest, response: ServerResponse) => Answer | Promise<Answer>,
): Promise<number> {
  async function onRequest(message: IncomingMessage, response: ServerResponse): Promise<void> {
    const { pathname: path, searchParams: query } = new URL(message.url!, "https://api");
    const { authorization, "content-type": contentType } = message.headers;
    const sent = await text(message);
    const body = sent === "" ? undefined : contentType?.includes("yaml") ? parse(sent) : JSON.parse(sent);
    const request = { method: message.method!, path, query, authorization, contentType, body, atMs: performance.now() };
    const answered = await answer(request, response);
    if (answered === undefined) return;
    response.writeHead(answered.status, { "content-type": "application/json", ...answered.headers });
    response.end(typeof answered.body === "string" ? answered.body : `${JSON.stringify(answered.body)}\n`);
  }
  const { cert, key } = certificate()!;
  const server = createServer({ cert, key }, (message, response) => void onRequest(message, response));
  return await listen(t, server);
}

/** Objects by key, which is RESOURCE/…, all that happened to them so far, and those who watch. */
export class Store {
  readonly objects = new Map<string, Anything>();
  readonly past: { type: string; stream: string; object: Anything }[] = [];
  readonly watches = new Set<{ stream: string; response: ServerResponse; matches: (object: Anything) => boolean }>();
  /** Says "news" whenever something has happened. */
  readonly news = new EventEmitter();
  /** The latest of all objects' versions. */
  version = 1000;

  list(stream: string, matches = (_object: Anything) => true): Anything[] {
    const found = [...this.objects].filter(([key, object]) => key.startsWith(`${stream}/`) && matches(object));
    return found.map(([, object]) => object);
  }

  /** Keeps an object, or the lack of one, and tells of it. */
  publish(type: string, key: string, object: Anything): void {
    if (type === "DELETED") this.objects.delete(key);
    else this.objects.set(key, object);
    this.version = Math.max(this.version, Number(object.metadata.resourceVersion));
    const stream = key.split("/")[0]!;
    this.past.push({ type, stream, object });
    for (const watch of this.watches) {
      if (watch.stream === stream && watch.matches(object)) send(watch.response, { type, object });
    }
    this.news.emit("news");
  }

  /** Tells of what is newer than the version that the query names, and of whatever comes. */
  watch(response: ServerResponse, stream: string, query: URLSearchParams, matches = (_object: Anything) => true): void {
    response.writeHead(200, { "content-type": "application/json" });
    response.flushHeaders();
    for (const { type, object, ...told } of this.past) {
      const isNew = Number(object.metadata.resourceVersion) > Number(query.get("resourceVersion"));
      if (isNew && told.stream === stream && matches(object)) send(response, { type, object });
    }
    const watch = { stream, response, matches };
    this.watches.add(watch);
    response.on("close", () => this.watches.delete(watch));
  }
}

const send = (response: ServerResponse, event: object) => response.write(`${JSON.stringify(event)}\n`);

/** Does things later, unless the test has ended by then. */
export function timers(t: TestContext): (ms: number, action: () => void) => void {
  const pending = new Set<NodeJS.Timeout>();
  t.after(() => pending.forEach(clearTimeout));
  return (ms, action) => void pending.add(setTimeout(action, ms));
}
