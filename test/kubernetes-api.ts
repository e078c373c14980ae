/** A cluster that kubectl can talk to: objects, a Job controller, and a kubelet that runs the drill's own pod. */
import { Buffer } from "node:buffer";
import type { ChildProcess } from "node:child_process";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import type { ServerResponse } from "node:http";
import { join, resolve } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import type { TestContext } from "node:test";
// deno-fmt-ignore
import {
  type Answer, type Anything, type ApiRequest, certificate, ok, refuse, startApiServer, Store, timers,
} from "./api-server.ts";
import type { startCluster } from "./cluster.ts";
import { start } from "./helper.ts";

export const NAMESPACE = "rec";
type Cluster = Awaited<ReturnType<typeof startCluster>>;
export interface Need {
  verb: string;
  resource: string;
}

/** Where the kinds are, each under its plural. */
const KINDS: Record<string, string[]> = {
  "api/v1": ["Namespace", "Pod", "ConfigMap", "Secret", "Service", "ServiceAccount", "Event", "Node"],
  "apis/apps/v1": ["Deployment", "StatefulSet", "DaemonSet"],
  "apis/batch/v1": ["Job"],
  "apis/rbac.authorization.k8s.io/v1": ["Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"],
  "apis/authorization.k8s.io/v1": ["SelfSubjectAccessReview"],
  "apis/discovery.k8s.io/v1": ["EndpointSlice"],
  "apis/argoproj.io/v1alpha1": ["Rollout"],
};

/** What befalls the drill's pod, and what the person may not do. */
export interface Scenario {
  /** The Job controller's pods: how many are made, or the reason why none is. */
  refused?: string;
  podless?: boolean;
  /** Instead of running: the container's state, and the pod's conditions. */
  waiting?: { reason: string; message: string };
  unscheduled?: string;
  /** How many of them find a node all the same; the others keep their Job from completing until its deadline. */
  fits?: number;
  /** Ends the pod once its log has such a line. */
  ends?: { at: RegExp; status: object; terminated: object };
  /** What a reading of the log (the first is 1) does not get. */
  loses?: (line: string, reading: number) => boolean;
  /** A runtime that stamps all that it has read at once alike: here all lines of a second. */
  alike?: boolean;
  /** Cuts the connection of a log once it has sent such a line. */
  cuts?: RegExp;
  denies?: (need: Need) => boolean;
  objects?: Anything[];
  /** Flags of the client in the pod that are not the drill's business. */
  podEnv?: Record<string, string>;
}

/** Starts such a cluster beside one that plays a recording, which the client in the drill's pod sees. */
export async function startKubernetes(t: TestContext, cluster: Cluster, scenario: Scenario = {}) {
  const store = new Store();
  const jobs = new Jobs(t, store, cluster, scenario);
  const api = new KubernetesApi(store, jobs, cluster, scenario);
  const port = await startApiServer(t, (request, response) => api.answer(request, response));
  const folder = mkdtempSync(resolve("dist/kubernetes-"));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const server = { server: `https://127.0.0.1:${port}`, "certificate-authority": resolve(certificate()!.file) };
  const config = {
    apiVersion: "v1",
    kind: "Config",
    "current-context": "here",
    clusters: [{ name: "here", cluster: server }],
    users: [{ name: "jane", user: { token: "jane" } }],
    contexts: [{ name: "here", context: { cluster: "here", user: "jane" } }],
  };
  writeFileSync(join(folder, "config"), JSON.stringify(config));
  put(store, { apiVersion: "v1", kind: "Namespace", metadata: { name: NAMESPACE } });
  const labels = { app: "server" };
  const spec = { selector: { matchLabels: labels }, template: { metadata: { labels }, spec: { containers: [] } } };
  put(store, { apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "server-deployment" }, spec });
  for (const object of scenario.objects ?? []) put(store, object);
  const before = new Set(store.objects.keys());
  return {
    store: store.objects,
    /** Every object as it was put. */
    get made() {
      return store.past.filter(({ type }) => type !== "DELETED").map(({ object }) => object);
    },
    asked: api.asked,
    logs: jobs.logs,
    env: { KUBECONFIG: join(folder, "config"), HOME: folder },
    /** What is there that was not there before. */
    left: () => [...store.objects.keys()].filter((key) => !before.has(key) && !key.startsWith("events/")),
    /** Once this holds; it is looked at whenever something happens. */
    until: async (holds: () => boolean) => {
      while (!holds()) await once(store.news, "news");
    },
  };
}

/** Keeps an object under its plural and name, with what an API server gives it. */
function put(store: Store, object: Anything): Anything {
  const key = keyOf(object);
  const before = store.objects.get(key);
  object.metadata = {
    namespace: NAMESPACE,
    uid: before?.metadata.uid ?? randomUUID(),
    creationTimestamp: before?.metadata.creationTimestamp ?? new Date().toISOString().slice(0, 19) + "Z",
    ...object.metadata,
    resourceVersion: String(store.version + 1),
  };
  if (object.kind === "Namespace") delete object.metadata.namespace;
  store.publish(before === undefined ? "ADDED" : "MODIFIED", key, object);
  return object;
}

function drop(store: Store, key: string): void {
  const object = store.objects.get(key);
  if (object === undefined) return;
  const metadata = { ...object.metadata, resourceVersion: String(store.version + 1) };
  store.publish("DELETED", key, { ...object, metadata });
}

const pluralOf = (kind: string): string => `${kind.toLowerCase()}s`;
const keyOf = ({ kind, metadata }: Anything): string => `${pluralOf(kind)}/${metadata.name}`;

/** The Job controller, and kubelet: pods are processes of this machine, unless the scenario keeps them from running. */
class Jobs {
  readonly logs = new Map<string, { lines: string[]; ended: boolean; readings: number }>();
  readonly #t: TestContext;
  readonly #store: Store;
  readonly #cluster: Cluster;
  readonly #scenario: Scenario;
  readonly #later: ReturnType<typeof timers>;
  readonly #children = new Map<string, ChildProcess>();

  constructor(t: TestContext, store: Store, cluster: Cluster, scenario: Scenario) {
    [this.#t, this.#store, this.#cluster, this.#scenario] = [t, store, cluster, scenario];
    this.#later = timers(t);
  }

  start(job: Anything): void {
    const { refused, podless } = this.#scenario;
    const { uid, name } = job.metadata;
    if (refused !== undefined) {
      put(this.#store, {
        apiVersion: "v1",
        kind: "Event",
        metadata: { name: `${name}.1` },
        involvedObject: { kind: "Job", name, uid },
        reason: "FailedCreate",
        message: `Error creating: ${refused}`,
      });
    } else if (!podless) {
      for (let index = 0; index < (job.spec.parallelism ?? 1); index++) {
        this.#later(30, () => this.#startPod(job, index));
      }
    }
  }

  #startPod(job: Anything, index: number): void {
    const { metadata: { name, uid }, spec: { template } } = job;
    if (!this.#store.objects.has(`jobs/${name}`)) return;
    const { unscheduled, fits = 0, waiting } = this.#scenario;
    const message = index < fits ? undefined : unscheduled;
    const condition = { type: "PodScheduled", status: "False", reason: "Unschedulable", message };
    const pod = put(this.#store, {
      apiVersion: "v1",
      kind: "Pod",
      metadata: {
        name: name === "load" ? `${name}-${index}-abcde` : `${name}-x7k2p`,
        labels: { ...template.metadata.labels, "job-name": name },
        ownerReferences: [{ apiVersion: "batch/v1", kind: "Job", name, uid }],
      },
      spec: template.spec,
      status: { phase: "Pending", conditions: message === undefined ? [] : [condition] },
    });
    if (waiting !== undefined) this.#setState(pod, { waiting });
    else if (message === undefined) this.#run(pod, name);
  }

  #run(pod: Anything, job: string): void {
    const { ends, alike, podEnv } = this.#scenario;
    const { metadata: { name }, spec: { containers: [{ envFrom, args: [program, ...args] }] } } = pod;
    const { data } = this.#store.objects.get(`configmaps/${envFrom[0].configMapRef.name}`);
    const env = { ...data, ...this.#cluster.env, ADMIN_PORT: "0", ...podEnv };
    if (data.SERVER_URL) env.SERVER_URL = data.SERVER_URL;
    for (const key of Object.keys(env)) if (env[key] === "") delete env[key];
    const { child, exited } = start(this.#t, [process.execPath, `dist/${program}`, ...args], env);
    this.#children.set(name, child);
    const log = { lines: [] as string[], ended: false, readings: 0 };
    this.logs.set(name, log);
    this.#setState(pod, { running: { startedAt: new Date().toISOString() } }, { phase: "Running" });
    let killed: Scenario["ends"];
    const onLine = (line: string) => {
      const stamp = new Date().toISOString().replace("Z", `${String(log.lines.length % 1e6).padStart(6, "0")}Z`);
      log.lines.push(`${alike ? `${stamp.slice(0, 19)}.000000000Z` : stamp} ${line}`);
      this.#store.news.emit("news");
      if (killed !== undefined || !ends?.at.test(line)) return;
      killed = ends;
      child.kill("SIGKILL");
    };
    for (const stream of [child.stdout, child.stderr]) createInterface({ input: stream! }).on("line", onLine);
    void exited.then(({ code, signal }) => {
      log.ended = true;
      this.#store.news.emit("news");
      const exitCode = code ?? (signal === "SIGTERM" ? 143 : 137);
      const terminated = killed?.terminated ?? { exitCode, reason: exitCode === 0 ? "Completed" : "Error" };
      this.#setState(pod, { terminated }, { phase: exitCode === 0 ? "Succeeded" : "Failed", ...killed?.status });
      this.#onPodEnd(job);
    });
  }

  #setState({ metadata: { name } }: Anything, state: object, status: object = {}): void {
    const pod = this.#store.objects.get(`pods/${name}`);
    if (pod === undefined) return;
    const containerStatuses = [{ name: pod.spec.containers[0].name, restartCount: 0, state }];
    put(this.#store, { ...pod, status: { ...pod.status, containerStatuses, ...status } });
  }

  #onPodEnd(name: string): void {
    const job = this.#store.objects.get(`jobs/${name}`);
    if (job === undefined) return;
    if (job.metadata.deletionTimestamp !== undefined) return this.#removePods(job);
    const phases = this.#podsOf(job).map(({ status }) => status.phase);
    if (this.#scenario.fits !== undefined && phases.every((phase) => phase !== "Running")) return this.#exceed(job);
    if (!phases.every((phase) => ["Succeeded", "Failed"].includes(phase))) return;
    const type = phases.every((phase) => phase === "Succeeded") ? "Complete" : "Failed";
    put(this.#store, { ...job, status: { conditions: [{ type, status: "True" }] } });
  }

  /** At its deadline the Job fails, and takes away what has not ended. */
  #exceed(job: Anything): void {
    for (const { metadata: { name }, status } of this.#podsOf(job)) {
      if (status.phase === "Pending") drop(this.#store, `pods/${name}`);
    }
    const failed = { type: "Failed", status: "True", reason: "DeadlineExceeded" };
    put(this.#store, { ...job, status: { conditions: [failed] } });
  }

  /** In the foreground: first the pods, as long as they take. */
  remove(job: Anything): Anything {
    const metadata = { ...job.metadata, deletionTimestamp: new Date().toISOString() };
    this.#later(10, () => this.#removePods(job));
    return put(this.#store, { ...job, metadata });
  }

  #removePods(job: Anything): void {
    for (const { metadata: { name } } of this.#podsOf(job)) {
      const child = this.#children.get(name);
      if (child !== undefined && child.exitCode === null && child.signalCode === null) child.kill("SIGTERM");
      else drop(this.#store, `pods/${name}`);
    }
    if (this.#podsOf(job).length === 0) drop(this.#store, keyOf(job));
  }

  #podsOf({ metadata: { uid } }: Anything): Anything[] {
    return this.#store.list("pods", ({ metadata }) => metadata.ownerReferences?.[0].uid === uid);
  }

  sendLog(response: ServerResponse, name: string, query: URLSearchParams): Answer {
    const log = this.logs.get(name);
    if (log === undefined) return refuse(400, "container is waiting to start: ContainerCreating");
    const { loses, cuts } = this.#scenario;
    const reading = ++log.readings;
    response.writeHead(200, { "content-type": "text/plain" });
    response.flushHeaders();
    let sent = 0;
    const since = (query.get("sinceTime") ?? "").replace("Z", "");
    const onNews = () => {
      if (response.writableEnded || response.destroyed) return;
      while (sent < log.lines.length) {
        const line = log.lines[sent++]!;
        if (line < since || loses?.(line, reading)) continue;
        response.write(`${query.has("timestamps") ? line : line.slice(line.indexOf(" ") + 1)}\n`);
        if (reading === 1 && cuts?.test(line)) return void response.destroy();
      }
      if (log.ended || !query.has("follow")) response.end();
    };
    this.#store.news.on("news", onNews);
    response.on("close", () => this.#store.news.off("news", onNews));
    return void onNews();
  }
}

/** What the API answers, and to whom. */
class KubernetesApi {
  readonly asked: string[] = [];
  readonly #store: Store;
  readonly #jobs: Jobs;
  readonly #cluster: Cluster;
  readonly #scenario: Scenario;

  constructor(store: Store, jobs: Jobs, cluster: Cluster, scenario: Scenario) {
    [this.#store, this.#jobs, this.#cluster, this.#scenario] = [store, jobs, cluster, scenario];
  }

  answer({ method, path, query, body }: ApiRequest, response: ServerResponse): Answer {
    this.asked.push(`${method} ${path}`);
    this.#store.news.emit("news");
    const discovered = discovery(path);
    if (discovered !== undefined) return ok(discovered);
    if (path.endsWith("/selfsubjectaccessreviews")) return this.#review(body);
    const [, base, namespace = NAMESPACE, plural, name, subresource] =
      /^\/((?:api|apis\/[^/]+)\/[^/]+)\/(?:namespaces\/([^/]+)\/)?([^/]+)(?:\/([^/]+))?(?:\/([^/]+))?$/.exec(path) ??
        [];
    const kind = KINDS[base!]?.find((kind) => pluralOf(kind) === plural);
    if (kind === undefined) return refuse(404, "the server could not find the requested resource");
    const verb = { PATCH: "patch", POST: "create", PUT: "update", DELETE: "delete" }[method] ??
      (name === undefined ? "list" : "get");
    const resource = subresource === undefined ? plural! : `${plural}/${subresource}`;
    if (this.#scenario.denies?.({ verb, resource })) {
      const right = `${verb} resource "${resource}" in API group "" in the namespace "${NAMESPACE}"`;
      return refuse(403, `${resource} is forbidden: User "jane" cannot ${right}`);
    }
    const found = namespace === NAMESPACE ? this.#store.objects.get(`${plural}/${name}`) : undefined;
    if (verb === "list") return this.#list(response, base!, kind, query);
    if (verb === "get" && subresource === "log") return this.#jobs.sendLog(response, name!, query);
    if (verb === "create" || (verb === "patch" && subresource === undefined)) return this.#write(found, body);
    if (found === undefined) return refuse(404, `${plural} "${name}" not found`);
    if (subresource === "scale") return this.#scale(found, body?.spec.replicas);
    if (verb === "get") return ok(this.#liveOf(found));
    if (verb !== "delete") return refuse(405, `${method} ${path}`);
    if (kind === "Job") return ok(this.#jobs.remove(found));
    drop(this.#store, keyOf(found));
    return ok({ kind: "Status", apiVersion: "v1", status: "Success", details: { uid: found.metadata.uid } });
  }

  #review({ spec }: Anything): Answer {
    const { verb, resource, subresource } = spec.resourceAttributes;
    const allowed = !this.#scenario.denies?.({ verb, resource: subresource ? `${resource}/${subresource}` : resource });
    return ok({ apiVersion: "authorization.k8s.io/v1", kind: "SelfSubjectAccessReview", spec, status: { allowed } });
  }

  #list(response: ServerResponse, base: string, kind: string, query: URLSearchParams): Answer {
    const pairsOf = (selector: string) =>
      (query.get(selector) ?? "").split(",").filter(Boolean).map((pair) => pair.split("=") as [string, string]);
    const [labels, fields] = [pairsOf("labelSelector"), pairsOf("fieldSelector")];
    const at = (object: Anything, path: string) => path.split(".").reduce((value, part) => value?.[part], object);
    const matches = (object: Anything) =>
      labels.every(([name, value]) => object.metadata.labels?.[name] === value) &&
      fields.every(([path, value]) => at(object, path) === value);
    if (query.has("watch")) return void this.#store.watch(response, pluralOf(kind), query, matches);
    return ok({
      kind: `${kind}List`,
      apiVersion: base.replace(/^apis?\//, ""),
      metadata: { resourceVersion: String(this.#store.version) },
      items: this.#store.list(pluralOf(kind), matches).map((object) => this.#liveOf(object)),
    });
  }

  #scale({ metadata }: Anything, asked: number | undefined): Answer {
    const { spec } = this.#cluster.deployment;
    const replicas = spec.replicas = asked ?? spec.replicas;
    return ok({ apiVersion: "autoscaling/v1", kind: "Scale", metadata, spec: { replicas }, status: { replicas } });
  }

  /** The Deployment's replicas are what the client in the pod makes of them. */
  #liveOf(object: Anything): Anything {
    if (object.kind !== "Deployment") return object;
    return { ...object, spec: { ...object.spec, replicas: this.#cluster.deployment.spec.replicas } };
  }

  #write(found: Anything, object: Anything): Answer {
    const encoded = ([key, text]: [string, string]) => [key, Buffer.from(text).toString("base64")];
    if (object.stringData) object.data = Object.fromEntries(Object.entries<string>(object.stringData).map(encoded));
    const kept = put(this.#store, { ...found, ...object, metadata: { ...found?.metadata, ...object.metadata } });
    if (kept.kind === "Job" && found === undefined) this.#jobs.start(kept);
    return ok(kept, found === undefined ? 201 : 200);
  }
}

/** What kubectl asks first: which kinds there are, and where. */
function discovery(path: string): object | undefined {
  if (path === "/version") return { major: "1", minor: "36", gitVersion: "v1.36.0" };
  if (path === "/api") return { kind: "APIVersions", versions: ["v1"] };
  if (path === "/apis") {
    const groups = Object.keys(KINDS).filter((base) => base.startsWith("apis/")).map((base) => {
      const [, name, version] = base.split("/");
      const preferredVersion = { groupVersion: `${name}/${version}`, version };
      return { name, versions: [preferredVersion], preferredVersion };
    });
    return { kind: "APIGroupList", apiVersion: "v1", groups };
  }
  const kinds = KINDS[path.slice(1)];
  if (kinds === undefined) return undefined;
  const verbs = ["create", "delete", "get", "list", "patch", "watch"];
  const resources: object[] = kinds.map((kind) => ({
    name: pluralOf(kind),
    singularName: kind.toLowerCase(),
    namespaced: kind !== "Namespace" && kind !== "Node" && !/^(Cluster|SelfSubject)/.test(kind),
    kind,
    verbs,
  }));
  const scale = { singularName: "", namespaced: true, group: "autoscaling", version: "v1", kind: "Scale", verbs };
  if (path === "/apis/apps/v1") resources.push({ name: "deployments/scale", ...scale });
  return { kind: "APIResourceList", groupVersion: path.replace(/^\/apis?\//, ""), resources };
}
