/** A cluster that plays what a real one did, for one client: recordings, and what stands for the cluster's parts. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect as connectTcp, createServer as createTcpServer, type Socket } from "node:net";
import type { TestContext } from "node:test";
import type { KubernetesObject, Stream, WorkloadObject } from "../protocol.ts";
import { type Answer, type ApiRequest, certificate, ok, refuse, startApiServer, Store, timers } from "./api-server.ts";
import { listen, startProgram } from "./helper.ts";

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
export const victimOf = (lines: Recorded[]): string => lines.find(({ command }) => command !== undefined)!.pod!;

/** The recorded eviction, with the other pods on another node. */
export function twoNodes(): Recorded[] {
  return edited("evict", ({ metadata, spec }) => {
    if (spec && metadata.name !== victimOf(recording("evict"))) spec.nodeName = "node-2";
  });
}

/** How a cluster is played. */
export interface Played {
  /** What the pods run, and the victim's flags. */
  program?: string;
  flags?: string[];
  /** The API server's word instead of its usual one; it waits for a promise. */
  answer?: (request: ApiRequest) => Answer | Promise<Answer>;
  /** The workload that the pods are of. */
  target?: string;
  /** Called for every connection to the Service, counted from 0; a connection waits for a promise. */
  admit?: (index: number) => void | Promise<void>;
}

/**
 * A cluster for one client: an API server that plays a recording once its disruption is asked for, a server process for
 * every pod in it (SIGTERM after its preStop, SIGKILL at its grace), and a Service that leads to the ready ones.
 */
export async function startCluster(t: TestContext, recorded: string | Recorded[], options: Played = {}) {
  const lines = typeof recorded === "string" ? recording(recorded) : recorded;
  const folder = mkdtempSync("dist/cluster-");
  t.after(() => rmSync(folder, { recursive: true }));
  writeFileSync(`${folder}/namespace`, "rec");
  writeFileSync(`${folder}/token`, "first");
  const store = new Store();
  store.version = Math.max(...lines.map(({ list }) => Number(list?.metadata.resourceVersion ?? 0)));
  for (const { stream, list } of lines) {
    for (const item of list?.items ?? []) store.objects.set(`${stream}/${item.metadata.uid}`, item);
  }
  const pods = new Pods(t, lines, store, options);
  const service = new Service(lines, store, pods, options.admit);
  const api = new ApiServer(store, pods, new Workload(store, options.target));
  const servicePort = await listen(t, service.server);
  const requests: ApiRequest[] = [];
  const apiPort = await startApiServer(t, async (request, response) => {
    requests.push(request);
    const isKnown = request.authorization === `Bearer ${readFileSync(`${folder}/token`, "utf8")}`;
    if (!isKnown) return refuse(401, "Unauthorized");
    const answer = await options.answer?.(request) ?? api.usualAnswer(request);
    if (answer === undefined) store.watch(response, request.path.split("/").at(-1)!, request.query);
    return answer;
  });
  return {
    env: {
      KUBERNETES_SERVICE_HOST: "127.0.0.1",
      KUBERNETES_SERVICE_PORT: String(apiPort),
      NODE_EXTRA_CA_CERTS: certificate()!.file,
      SERVICE_ACCOUNT: folder,
      SERVER_URL: `ws://127.0.0.1:${servicePort}/ws`,
    },
    folder,
    victim: pods.victim,
    state: service,
    deployment: api.workload.deployment,
    objects: api.objects,
    nodes: api.nodes,
    requests,
    past: store.past,
    watches: store.watches,
    list: (stream: Stream): KubernetesObject[] => store.list(stream),
    version: () => String(store.version),
    publish: (line: Recorded) => publish(store, line),
    pod: (name: string) => pods.start(name),
    play: () => pods.play(),
    playing: () => pods.playing,
    usualAnswer: (request: ApiRequest) => api.usualAnswer(request),
    cut: () => service.cut(),
  };
}

const publish = (store: Store, { type, stream, object }: Recorded): void =>
  store.publish(type!, `${stream}/${object!.metadata.uid}`, object);

/** The pods' processes, to which is done what the recording tells of the pods, once it is played. */
class Pods {
  /** The pod that the recording ends first. */
  readonly victim: string;
  playing = false;
  /** The test is: nothing more is started. */
  over = false;
  readonly #t: TestContext;
  readonly #lines: Recorded[];
  readonly #store: Store;
  readonly #options: Played;
  readonly #later: ReturnType<typeof timers>;
  readonly #processes = new Map<string, ReturnType<typeof startProgram>>();

  constructor(t: TestContext, lines: Recorded[], store: Store, options: Played) {
    [this.#t, this.#lines, this.#store, this.#options] = [t, lines, store, options];
    this.victim = victimOf(lines);
    this.#later = timers(t);
    t.after(() => this.over = true);
  }

  /** The process of a pod, started if need be: those listed at the first connection, others once they are there. */
  start(name: string): ReturnType<typeof startProgram> {
    const known = this.#processes.get(name);
    if (known !== undefined) return known;
    const { program = "dist/server.js", flags = [] } = this.#options;
    const pace = ["--interval=50", "--remaining=2", "--remaining-interval=20"];
    const isVictim = name === this.victim;
    const own = [`--name=${name}`, ...isVictim && !this.playing ? flags : []];
    const started = startProgram(this.#t, program, ...pace, ...own);
    this.#processes.set(name, started);
    started.catch(() => {}); // the test is over before it listens
    if (isVictim) started.then(({ child }) => child.once("exit", () => this.#onVictimExit(name)), () => {});
    return started;
  }

  /** A crash, when it comes: kubelet starts the container anew, and the recording of that is played. */
  #onVictimExit(name: string): void {
    if (this.playing || this.over) return;
    this.play();
    this.#processes.delete(name);
    void this.start(name);
  }

  /** Does to the pods what the recording tells of them, and tells it. */
  play(): void {
    if (this.playing) return;
    this.playing = true;
    const ending = new Set<string>();
    for (const line of this.#lines) {
      const { t, stream, type, object } = line;
      if (t === null || stream === undefined || type === undefined) continue;
      this.#later(t, () => publish(this.#store, line));
      if (stream !== "pods") continue;
      const { name, deletionTimestamp } = object!.metadata;
      if (type === "ADDED") this.#later(t, () => void this.start(name));
      if (type === "DELETED") this.#later(t, () => this.#processes.delete(name)); // a StatefulSet makes another
      if (deletionTimestamp === undefined || ending.has(name)) continue;
      ending.add(name);
      this.#later(t, () => this.#end(object!));
    }
  }

  #end({ metadata: { name, deletionGracePeriodSeconds: grace }, spec }: KubernetesObject): void {
    const ended = this.#processes.get(name); // another of this name may be there later
    const signal = (signal: NodeJS.Signals) => ended?.then(({ child }) => child.kill(signal), () => {});
    const preStop = spec!.containers[0]!.lifecycle?.preStop?.sleep?.seconds ?? 0;
    // Of a forced deletion's grace of 0 kubelet makes 2 s.
    this.#later(grace === 0 ? 0 : preStop * 1000, () => signal("SIGTERM"));
    this.#later((grace || 2) * 1000, () => signal("SIGKILL"));
  }
}

/** The Service: a relay that leads where kube-proxy would. */
class Service {
  /** Whether sessions go to the pods in turn; else to the victim, as long as it is ready. */
  inTurn = false;
  /** A pod to which new connections go, whatever the endpoints say. */
  pinned: string | undefined;
  readonly server = createTcpServer((near) => void this.#onConnection(near).catch(() => near.destroy()));
  readonly #store: Store;
  readonly #pods: Pods;
  readonly #admit: Played["admit"];
  /** Of all pods of the recording, by uid. */
  readonly #names: Map<string, string>;
  readonly #connections = new Set<Socket>();
  #turn = 0;
  #admitted = 0;

  constructor(lines: Recorded[], store: Store, pods: Pods, admit: Played["admit"]) {
    [this.#store, this.#pods, this.#admit] = [store, pods, admit];
    const objects = lines.flatMap(({ list, object }) => [...list?.items ?? [], ...object ? [object] : []]);
    this.#names = new Map(objects.map(({ metadata }) => [metadata.uid, metadata.name]));
  }

  /** Ends every connection that goes through the Service, as a proxy does. */
  cut(): void {
    this.#connections.forEach(reset);
  }

  /** What kube-proxy does: a ready endpoint, else one that terminates and serves. */
  #route(): string | undefined {
    if (this.pinned !== undefined) return this.pinned;
    const slices: KubernetesObject[] = this.#store.list("endpointslices");
    const endpoints = slices.flatMap(({ endpoints }) => endpoints ?? []);
    const ready = endpoints.filter(({ conditions }) => conditions!.ready);
    const choice = ready.length > 0 ? ready : endpoints.filter(({ conditions }) => conditions!.serving);
    const names = choice.map(({ targetRef }) => this.#names.get(targetRef!.uid!)!);
    if (this.inTurn) return names[this.#turn++ % names.length];
    return names.includes(this.#pods.victim) ? this.#pods.victim : names[0];
  }

  async #onConnection(near: Socket): Promise<void> {
    near.on("error", () => {});
    const name = this.#route();
    if (name === undefined || this.#pods.over) return reset(near);
    await this.#admit?.(this.#admitted++);
    for (const { metadata } of this.#store.list("pods")) void this.#pods.start(metadata.name);
    const { port } = await this.#pods.start(name);
    const far = connectTcp({ port, host: "127.0.0.1" });
    this.#connections.add(near);
    near.pipe(far).pipe(near);
    near.on("error", () => reset(far)).on("close", () => this.#connections.delete(near));
    far.on("error", () => reset(near));
  }
}

/** Resets a connection. Amid a shutdown it must not be: Node 20 would wait for that socket for ever at its exit. */
function reset(socket: Socket): void {
  if (socket.writableEnded) socket.destroy();
  else socket.resetAndDestroy();
}

/** The workload as its controller has it, which sees every change of its pods at once. */
class Workload {
  readonly path: string;
  readonly deployment;
  readonly #store: Store;
  /** The pods of its first template, by uid. */
  readonly #first: Set<string>;

  constructor(store: Store, target = "deployment/server-deployment") {
    const [kind, name] = target.split("/") as [string, string];
    this.path = `${kind}s/${name}`;
    this.#store = store;
    const pods = this.#podsOf(name);
    this.#first = new Set(pods.map(({ metadata }) => metadata.uid));
    const labels = { app: "server" };
    const template = { metadata: { labels }, spec: structuredClone(pods[0]!.spec!) };
    const spec = { replicas: 2, paused: false, selector: { matchLabels: labels }, template };
    this.deployment = { metadata: { name, generation: 1 }, spec };
  }

  get object(): WorkloadObject {
    const { metadata: { name, generation }, spec } = this.deployment;
    const living = this.#podsOf(name).filter(({ metadata }) => metadata.deletionTimestamp === undefined);
    const updated = generation === 1 ? living : living.filter(({ metadata }) => !this.#first.has(metadata.uid));
    const ready = living.filter(({ status }) =>
      status?.conditions?.some(({ type, status }) => type === "Ready" && status === "True")
    );
    const revision = updated.length === living.length ? "new" : "old";
    const status = {
      observedGeneration: generation,
      ...{ replicas: living.length, updatedReplicas: updated.length },
      ...{ readyReplicas: ready.length, availableReplicas: ready.length, numberAvailable: ready.length },
      ...{ currentRevision: revision, updateRevision: "new" },
      ...{ desiredNumberScheduled: spec.replicas, updatedNumberScheduled: updated.length },
    };
    return { ...this.deployment, status };
  }

  #podsOf(name: string): KubernetesObject[] {
    return this.#store.list("pods", ({ metadata }) => metadata.name.startsWith(`${name}-`));
  }
}

/** What the API server answers by itself; a change of a pod or of the workload is what plays the recording. */
class ApiServer {
  /** What stands beside the pods. */
  readonly objects: Record<string, unknown[]> = { services: [], poddisruptionbudgets: [] };
  readonly nodes = new Map<string, { spec: { unschedulable?: boolean } }>();
  readonly workload: Workload;
  readonly #store: Store;
  readonly #pods: Pods;

  constructor(store: Store, pods: Pods, workload: Workload) {
    [this.#store, this.#pods, this.workload] = [store, pods, workload];
  }

  /** Undefined for a watch. */
  usualAnswer({ method, path, query, body }: ApiRequest): Answer {
    const parts = path.split("/");
    if (path.startsWith("/api/v1/nodes/")) return this.#answerNode(parts.at(-1)!, body);
    const [resource, name, subresource] = parts.slice(parts.indexOf("rec") + 1) as [string, string?, string?];
    if (method === "GET" && query.has("watch")) return undefined;
    if (method === "GET" && name === undefined) {
      const items = this.objects[resource] ?? this.#store.list(resource);
      return ok({ metadata: { resourceVersion: String(this.#store.version) }, items });
    }
    if (resource === "pods") return this.#answerPod(method, name!, body);
    if (`${resource}/${name}` !== this.workload.path) return refuse(404, `${resource}.apps "${name}" not found`);
    return method === "GET" ? ok(this.workload.object) : this.#changeWorkload(subresource, body);
  }

  #answerNode(name: string, patch: { spec: { unschedulable: boolean | null } } | undefined): Answer {
    const node = this.nodes.get(name) ?? { spec: {} };
    if (patch?.spec.unschedulable === null) delete node.spec.unschedulable;
    else if (patch !== undefined) node.spec.unschedulable = patch.spec.unschedulable;
    this.nodes.set(name, node);
    return ok(node);
  }

  /** A delete, an eviction, or notes on a pod. */
  #answerPod(method: string, name: string, body: KubernetesObject): Answer {
    const [pod] = this.#store.list("pods", ({ metadata }) => metadata.name === name);
    if (pod === undefined) return refuse(404, `pods "${name}" not found`);
    if (method === "GET") return ok(pod);
    if (method === "PATCH") this.#annotate(pod, body);
    else this.#pods.play();
    return DONE;
  }

  /** A merge patch of a pod's annotations: null takes one away. */
  #annotate(pod: KubernetesObject, { metadata: { annotations } }: KubernetesObject): void {
    const merged = Object.entries({ ...pod.metadata.annotations, ...annotations });
    const left = Object.fromEntries(merged.filter(([, value]) => value !== null));
    const metadata = { ...pod.metadata, resourceVersion: String(this.#store.version), annotations: left };
    publish(this.#store, { t: 0, stream: "pods", type: "MODIFIED", object: { ...pod, metadata } });
  }

  /** A restart, or a scale. */
  #changeWorkload(subresource: string | undefined, body: { value: number }[]): Answer {
    const { metadata, spec } = this.workload.deployment;
    if (subresource === "scale") {
      const [test, replace] = body;
      if (test!.value !== spec.replicas) return refuse(422, "the server rejected our request");
      spec.replicas = replace!.value;
    } else metadata.generation++;
    this.#pods.play();
    return DONE;
  }
}

const DONE = ok({ kind: "Status", status: "Success" });
