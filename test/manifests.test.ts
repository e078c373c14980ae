import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createPrivateKey, X509Certificate } from "node:crypto";
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import process from "node:process";
import { before, describe, it, type TestContext } from "node:test";
import type { DaemonSet, Deployment } from "kubernetes-types/apps/v1.js";
import type { Job } from "kubernetes-types/batch/v1.js";
import type {
  ConfigMap,
  Container,
  Pod,
  PodTemplateSpec,
  Secret,
  Service,
  ServiceAccount,
} from "kubernetes-types/core/v1.js";
import type { LabelSelector } from "kubernetes-types/meta/v1.js";
import type { NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort } from "kubernetes-types/networking/v1.js";
import type { PodDisruptionBudget } from "kubernetes-types/policy/v1.js";
import type { ClusterRole, ClusterRoleBinding, Role, RoleBinding } from "kubernetes-types/rbac/v1.js";
import { parse, parseAllDocuments } from "yaml";
import { DISRUPTIONS, SETTINGS as CLIENT } from "../client.ts";
import { inspect, parseTarget, readSettings, workloadsIn } from "../protocol.ts";
import { SETTINGS as SERVER } from "../server.ts";
import type { Certificate, Issuer, PodMonitor, PrometheusRule } from "./fixtures/custom-resources.ts";
import { connect, has, run, startServer } from "./helper.ts";

type Manifest = { apiVersion: string; kind: string; metadata: { name: string; namespace?: string } };
interface Rendered {
  all: Manifest[];
  find: <T extends Manifest>(kind: string, name?: string) => T;
}

const skip = !has("kubectl", "version", "--client") && "kubectl renders the manifests, and there is none here";
const skipMake = skip || !has("make", "--version") && "make runs the drill, and there is none here";

const FOLDERS = [
  "deploy",
  "deploy/drill",
  "deploy/drill/drain",
  "deploy/components/load/job",
  "deploy/components/logging/filebeat",
  ...readdirSync("environments").map((name) => `environments/${name}`),
];
/** In an order that works: the load connects as the client does. */
const COMPONENTS = ["monitoring", "logging", "tls", "auth", "network-policy", "load"];

/** All that a drill may do. */
const DRILL_MAY = [
  "pods: list, watch, delete, patch",
  "pods/eviction: create",
  "deployments.apps: get, patch",
  "statefulsets.apps: get, patch",
  "daemonsets.apps: get, patch",
  "deployments/scale.apps: patch",
  "statefulsets/scale.apps: patch",
  "services: list",
  "poddisruptionbudgets.policy: list",
  "endpointslices.discovery.k8s.io: list, watch",
  "events: list, watch",
];

/** Who may talk to whom with the network policies, and to nobody else. */
const MAY_TALK = [
  "client to server on 8080",
  "drill to server on 8080",
  "load to server on 8080",
  "client to DNS on 53",
  "drill to DNS on 53",
  "load to DNS on 53",
  "client to DNS on the node on 53",
  "drill to DNS on the node on 53",
  "load to DNS on the node on 53",
  "drill to the API on 443",
  "drill to the API on 6443",
  "Prometheus to server on 9090",
  "Prometheus to client on 9091",
  "Prometheus to drill on 9091",
  "Prometheus to load on 9091",
];

/** A folder's manifests, rendered once for all who ask. */
function render(folder: string): Rendered {
  const rendered = renderedFolders.get(folder) ??
    read(execFileSync("kubectl", ["kustomize", folder], { encoding: "utf8", stdio: "pipe" }));
  renderedFolders.set(folder, rendered);
  return rendered;
}
const renderedFolders = new Map<string, Rendered>();

/** `deploy/` in another namespace with components, written beside a copy of `deploy/` or in `dist/`. */
function compose(components: string[], deploy = "../../deploy", parent = resolve("dist")): Rendered {
  const folder = mkdtempSync(join(parent, "overlay-"));
  // The names that have the namespace in them: as environments/production has it.
  const value = SERVER_NAMES("elsewhere");
  const names = {
    target: { kind: "Certificate", name: "server" },
    patch: JSON.stringify([{ op: "replace", path: "/spec/dnsNames", value }]),
  };
  const kustomization = {
    namespace: "elsewhere",
    resources: [deploy],
    components: components.map((name) => `${deploy}/components/${name}`),
    patches: components.includes("tls") ? [names] : [],
  };
  try {
    writeFileSync(join(folder, "kustomization.yaml"), JSON.stringify(kustomization));
    return render(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

const SERVER_NAMES = (namespace: string) =>
  ["", `.${namespace}`, `.${namespace}.svc`, `.${namespace}.svc.cluster.local`].map((rest) => `server-service${rest}`);

function read(text: string): Rendered {
  const all = parseAllDocuments(text).flatMap((document) => {
    assert.deepEqual(document.errors, []);
    const object = document.toJS() as Manifest & { items?: Manifest[] };
    return object.kind === "List" ? object.items! : [object];
  });
  const find = <T extends Manifest>(kind: string, name?: string) => {
    const found = all.filter((object) =>
      object.kind === kind && (name === undefined || object.metadata.name.startsWith(name))
    );
    assert.equal(found.length, 1, `${kind} ${name ?? ""}`);
    return found[0] as T;
  };
  return { all, find };
}

/** What the compiler has against objects as literals of the API's types: other types, and fields that do not exist. */
function complaints(objects: Manifest[]): string {
  const texts = objects.map((object) => JSON.stringify(object));
  const unchecked = objects.filter((_, index) => !checked.has(texts[index]!));
  if (unchecked.length > 0) check(unchecked);
  return texts.map((text) => checked.get(text)).join("");
}

/** The compiler's complaints by the object's JSON: a run takes long however little it has to do. */
const checked = new Map<string, string>();

/** Has the compiler look at objects, each in a file of its own. */
function check(objects: Manifest[]): void {
  const texts = [...new Set(objects.map((object) => JSON.stringify(object)))];
  for (const text of texts) checked.set(text, "");
  const folder = mkdtempSync(resolve("dist/manifests-"));
  try {
    for (const [index, text] of texts.entries()) {
      const { apiVersion, kind, ...rest } = JSON.parse(text) as Manifest;
      const [group, version] = apiVersion.includes("/") ? apiVersion.split("/") : ["core", apiVersion];
      const module = ["monitoring.coreos.com", "cert-manager.io"].includes(group!)
        ? "../../test/fixtures/custom-resources.ts"
        : `kubernetes-types/${group!.split(".")[0]}/${version}.js`;
      const literal = JSON.stringify({ apiVersion, kind, ...rest }, undefined, 1);
      const source = `import type { ${kind} as Kind } from "${module}";\nexport const object: Kind = ${literal};\n`;
      writeFileSync(join(folder, `${index}.ts`), source);
    }
    const options = { noEmit: true, strict: true, module: "nodenext", types: [], skipLibCheck: true };
    const compilerOptions = { ...options, allowImportingTsExtensions: true };
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["*.ts"] }));
    execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "-p", folder, "--pretty", "false"], {
      encoding: "utf8",
      stdio: "pipe",
    });
  } catch (error) {
    const { stdout } = error as { stdout?: string };
    // A complaint begins with its file, and its further lines are indented.
    for (const complaint of stdout?.split(/^(?=\S)/m) ?? []) {
      const text = texts[Number(/(\d+)\.ts\(/.exec(complaint)?.[1])];
      if (text === undefined) throw error;
      checked.set(text, checked.get(text)! + complaint);
    }
    if (!stdout) throw error;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

type Expect = (holds: boolean, promise: string) => void;

/** Every promise that a set of manifests breaks, an environment or one Job: empty for a good one. */
function broken(rendered: Rendered, namespace = "k8s-graceful-shutdown-test"): string[] {
  const wrong: string[] = [];
  const expect: Expect = (holds, promise) => holds || wrong.push(promise);
  const has = (wanted: string) => rendered.all.some(({ kind }) => kind === wanted);
  if (has("DaemonSet")) expectFilebeat(rendered, expect);
  else if (has("Deployment")) expectDeployments(rendered, expect);
  else if (has("ClusterRole")) expectDrain(rendered, namespace, expect);
  else if (rendered.all.some(({ metadata }) => metadata.name === "load")) {
    expectObjects(rendered, namespace, expect);
    expectLoad(rendered, expect);
  } else expectDrill(rendered, namespace, expect);
  return wrong;
}

/** Every set: the API's types, one namespace, and no secret where everybody can read it. */
function expectObjects({ all }: Rendered, namespace: string, expect: Expect): void {
  const types = complaints(all);
  expect(types === "", types);
  for (const object of all) {
    const { kind, metadata } = object;
    const isGlobal = ["Namespace", "ClusterRole", "ClusterRoleBinding"].includes(kind);
    if (!isGlobal) expect(metadata.namespace === namespace, `${kind} ${metadata.name} is in ${namespace}`);
    expect(kind !== "Secret", `Secret ${metadata.name}: made in the cluster, not here`);
    expect(!/"secret(Key)?Ref"/.test(JSON.stringify(object)), `${kind} ${metadata.name}: no secret in the environment`);
  }
}

type OurRole = "server" | "client" | "drill" | "load";

/** Every role: one container, that role's settings, and restricted. */
function expectPod({ find }: Rendered, role: OurRole, template: PodTemplateSpec, expect: Expect) {
  const program = role === "server" ? "server" : "client";
  const settings = role === "server" ? SERVER : CLIENT;
  const pod = template.spec!;
  const container = pod.containers[0]!;
  const config = find<ConfigMap & Manifest>("ConfigMap", `${role}-settings`);
  const values = config.data ?? {};

  expect(pod.containers.length === 1 && pod.initContainers === undefined, `${role}: one container`);
  expect(
    container.args?.join() === `${program}.js` && container.command === undefined,
    `${role}: args name its bundle`,
  );
  expect(
    container.envFrom?.length === 1 && container.envFrom[0]?.configMapRef?.name === config.metadata.name,
    `${role}: its settings come from its ConfigMap`,
  );
  const known = Object.values(settings).map(({ env }) => env as string);
  const own = (container.env ?? []).map(({ name }) => name).filter((name) => !name.startsWith("NODE_"));
  const given = [...Object.keys(values), ...own];
  for (const name of given) expect(known.includes(name), `${role}: ${name} is a setting`);
  expect(new Set(given).size === given.length, `${role}: no setting twice`);
  for (const message of refused(settings, values)) expect(false, `${role}: ${message}`);

  const ports = Object.fromEntries((container.ports ?? []).map(({ name, containerPort }) => [name!, containerPort]));
  expect(String(ports["admin"]) === values["ADMIN_PORT"], `${role}: port admin is ADMIN_PORT`);
  expect(template.metadata?.labels?.["app"] === role, `${role}: its label says so`);
  expect(isRestricted(pod, container), `${role}: restricted Pod Security and a read-only root`);
  expect(container.resources?.limits?.["memory"] !== undefined, `${role}: a memory limit`);
  expectFiles(role, pod, container, values, expect);

  const { "prometheus.io/port": port, "prometheus.io/path": path } = template.metadata?.annotations ?? {};
  expect(port === undefined || port === values["ADMIN_PORT"], `${role}: is scraped on its admin port`);
  expect(path === undefined || path === "/metrics", `${role}: is scraped at /metrics`);
  return { pod, container, values, ports };
}

/** What each role may read of a Secret: only servers see the key. */
const MAY_READ: Record<OurRole, string[]> = {
  server: ["server-tls: tls.crt, tls.key", "server-token: token"],
  client: ["server-tls: ca.crt", "server-token: token"],
  drill: ["server-tls: ca.crt", "server-token: token"],
  load: ["server-tls: ca.crt", "server-token: token"],
};

/** Secrets: mounted read-only and whole, so that a rotation arrives; every file that a setting names is there. */
function expectFiles(
  role: OurRole,
  pod: NonNullable<Pod["spec"]>,
  container: Container,
  values: Record<string, string>,
  expect: Expect,
): void {
  const isJob = role === "drill" || role === "load";
  const volumes = pod.volumes ?? [];
  const mounts = container.volumeMounts ?? [];
  const files = volumes.flatMap(({ name, secret }) => {
    const mount = mounts.find((mount) => mount.name === name);
    expect(mount?.readOnly === true, `${role}: ${name} is mounted read-only`);
    expect(mount?.subPath === undefined, `${role}: ${name} is mounted as a folder, so that a rotation arrives`);
    const may = `${secret?.secretName}: ${secret?.items?.map(({ key }) => key).join(", ")}`;
    expect(MAY_READ[role].includes(may), `${role}: may not read ${may}`);
    expect(secret?.defaultMode === 0o440, `${role}: ${name} is for its group only`);
    // A drill of somebody else's application must start without them.
    expect((secret?.optional ?? false) === isJob, `${role}: ${name} is ${isJob ? "" : "not "}optional`);
    return (secret?.items ?? []).map(({ path }) => `${mount?.mountPath}/${path}`);
  });
  expect(mounts.length === volumes.length, `${role}: every mount has its volume`);
  expect(volumes.length === 0 || pod.securityContext?.fsGroup === 65532, `${role}: its group may read its files`);
  const named = ["TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "TLS_CA", "TOKEN_FILE"].map((name) => values[name] ?? "");
  const used = named.filter((file) => file !== "");
  for (const file of used) expect(files.includes(file), `${role}: ${file} is mounted`);
  for (const file of isJob ? [] : files) expect(used.includes(file), `${role}: ${file} is used`);
}

function expectDeployments(rendered: Rendered, expect: Expect): void {
  const { all, find } = rendered;
  const namespace = find("Namespace").metadata.name;
  expectObjects(rendered, namespace, expect);
  const service = find<Service & Manifest>("Service", "server-service").spec!;
  for (const workload of workloadsIn(all, undefined, ["server-service"])) {
    for (const { foretells, field, value } of inspect(workload).predictions) {
      expect(false, `${workload.target.name}: foretold ${foretells.join()}, ${field} is ${value}`);
    }
  }
  const { TLS_CERT = "", TOKEN_FILE = "", LOG_FORMAT } = find<ConfigMap & Manifest>("ConfigMap", "server-settings")
    .data!;
  const scheme = TLS_CERT === "" ? "ws" : "wss";
  for (const role of ["server", "client"] as const) {
    const deployment = find<Deployment & Manifest>("Deployment", role);
    const { template } = deployment.spec!;
    const { pod, container, values, ports } = expectPod(rendered, role, template, expect);

    for (const probe of [container.readinessProbe, container.livenessProbe, container.startupProbe]) {
      if (probe === undefined) continue;
      expect(["/healthz", "/readyz"].includes(probe.httpGet?.path ?? ""), `${role}: its probes ask paths that exist`);
      expect(probe.httpGet?.port === "admin", `${role}: its probes ask the admin port`);
    }
    expect(container.readinessProbe?.httpGet?.path === "/readyz", `${role}: readiness asks /readyz`);
    expect(container.livenessProbe?.httpGet?.path === "/healthz", `${role}: liveness asks /healthz`);

    expect(deployment.spec!.selector.matchLabels?.["app"] === role, `${role}: its selector finds its pods`);
    expect(deployment.spec!.strategy?.rollingUpdate?.maxUnavailable === 0, `${role}: maxUnavailable is 0`);
    expect(pod.automountServiceAccountToken === false, `${role}: no service account token`);

    expect(values["LOG_FORMAT"] === LOG_FORMAT, `${role}: logs in the format of the others`);
    const isShipped = template.metadata?.annotations?.["co.elastic.logs/enabled"] === "true";
    expect(isShipped === (LOG_FORMAT === "json"), `${role}: Filebeat reads what is JSON`);

    if (role === "client") continue;
    const { seconds = 0 } = container.lifecycle?.preStop?.sleep ?? {};
    const needs = seconds + inSeconds(values["DRAIN_TIMEOUT_MS"]) + inSeconds(values["CLOSE_TIMEOUT_MS"]);
    expect(seconds > 0, "server: preStop.sleep");
    expect(
      (pod.terminationGracePeriodSeconds ?? 30) > needs,
      `server: a grace above preStop + drain + close = ${needs} s`,
    );
    expect((deployment.spec!.replicas ?? 1) >= 2, "server: two replicas or more");
    expect(String(ports["websocket"]) === values["PORT"], "server: port websocket is PORT");
    const needed = 50 + Number(values["MAX_SESSIONS"]) * (scheme === "ws" ? 10 : 40) / 1024;
    const limit = inMebibytes(container.resources?.limits?.["memory"]);
    expect(limit > needed, `server: ${limit} MiB hold MAX_SESSIONS, which need ${Math.round(needed)}`);

    expect(
      service.selector?.["app"] === "server" && service.ports?.[0]?.targetPort === "websocket",
      "the Service finds the servers",
    );
    expect(service.ports?.[0]?.appProtocol === `kubernetes.io/${scheme}`, `the Service says that it is ${scheme}`);
    const client = find<ConfigMap & Manifest>("ConfigMap", "client-settings").data!;
    expect(
      client["SERVER_URL"] === `${scheme}://server-service:${service.ports?.[0]?.port}/ws`,
      "the client's SERVER_URL is the Service",
    );
    expect((client["TLS_CA"] ?? "") !== "" === (scheme === "wss"), "the client knows whom to trust");
    expect((client["TOKEN_FILE"] ?? "") !== "" === (TOKEN_FILE !== ""), "the client has the token that is asked for");
    const budget = find<PodDisruptionBudget & Manifest>("PodDisruptionBudget").spec!;
    expect(
      budget.selector?.matchLabels?.["app"] === "server" && budget.maxUnavailable === 1,
      "the PodDisruptionBudget guards the servers",
    );
    if (all.some(({ kind }) => kind === "PrometheusRule")) {
      expectMonitoring(rendered, namespace, pod.terminationGracePeriodSeconds, expect);
    }
  }
  if (all.some(({ kind }) => kind === "Certificate")) expectCertificates(rendered, namespace, expect);
  if (all.some(({ kind }) => kind === "NetworkPolicy")) expectNetworkPolicies(rendered, expect);
  if (all.some(({ kind }) => kind === "Job")) expectLoad(rendered, expect);
}

/** The pods of every role: those that are rendered, else as their own folder has them. */
function podsOf({ all }: Rendered): Record<OurRole, PodTemplateSpec> {
  const jobs = [...all, ...render("deploy/drill").all, ...render("deploy/components/load/job").all];
  const template = (kind: string, name: string) =>
    (jobs.find((object) => object.kind === kind && object.metadata.name === name) as Deployment | Job).spec!.template;
  return {
    server: template("Deployment", "server-deployment"),
    client: template("Deployment", "client-deployment"),
    drill: template("Job", "drill"),
    load: template("Job", "load"),
  };
}

function expectMonitoring(rendered: Rendered, namespace: string, grace: number | undefined, expect: Expect): void {
  const { find } = rendered;
  const { selector, podMetricsEndpoints } = find<PodMonitor & Manifest>("PodMonitor").spec;
  for (const [role, { metadata, spec }] of Object.entries(podsOf(rendered))) {
    expect(selects(selector, metadata!.labels!), `the PodMonitor finds ${role}`);
    const names = spec!.containers[0]!.ports!.map(({ name }) => name);
    for (const { port } of podMetricsEndpoints) {
      expect(names.includes(port), `${role} has the PodMonitor's port ${port}`);
    }
    expect(metadata?.annotations?.["prometheus.io/scrape"] === "true", `${role} is scraped without an operator, too`);
  }
  for (const { path } of podMetricsEndpoints) expect(path === "/metrics", "the PodMonitor asks /metrics");

  const rules = find<PrometheusRule & Manifest>("PrometheusRule").spec.groups.flatMap(({ rules }) => rules);
  const [graceRule, ...others] = rules.filter((rule) => "record" in rule);
  expect(graceRule?.expr === `vector(${grace})`, `the alerts know of a grace of ${grace} s: ${graceRule?.expr}`);
  expect(graceRule?.labels?.["namespace"] === namespace && others.length === 0, "the alerts know whose grace that is");
  const drain = rules.find((rule) => "alert" in rule && rule.alert === "GracefulShutdownDrainLong");
  expect(/ 0\.8 \* graceful_shutdown:grace_seconds$/.test(drain?.expr ?? ""), "a long drain is 80 % of the grace");

  const dashboard = find<ConfigMap & Manifest>("ConfigMap", "graceful-shutdown-dashboard");
  expect(dashboard.metadata.name === "graceful-shutdown-dashboard", "the dashboard has one name");
  expect(
    (dashboard as ConfigMap).metadata?.labels?.["grafana_dashboard"] === "1",
    "Grafana's sidecar finds the dashboard",
  );
}

/** From the server's certificate by its issuers to the root that signs itself. */
function expectCertificates({ all }: Rendered, namespace: string, expect: Expect): void {
  const named = <T extends Manifest>(kind: string, name: string | undefined) =>
    all.find((object) => object.kind === kind && object.metadata.name === name) as T | undefined;
  const server = named<Certificate & Manifest>("Certificate", "server");
  expect(
    server?.spec.dnsNames?.join() === SERVER_NAMES(namespace).join(),
    `the certificate's names are the Service's in ${namespace}`,
  );
  expect(server?.spec.secretName === "server-tls", "the certificate is where the servers look for it");
  expect(server?.spec.usages?.includes("server auth") === true, "the certificate is a server's");
  const issuer = named<Issuer & Manifest>("Issuer", server?.spec.issuerRef.name)?.spec;
  const ca = named<Certificate & Manifest>("Certificate", "server-ca")?.spec;
  expect(
    issuer !== undefined && "ca" in issuer && issuer.ca.secretName === ca?.secretName && ca.isCA === true,
    "the certificate is from the CA",
  );
  const root = named<Issuer & Manifest>("Issuer", ca?.issuerRef.name)?.spec;
  expect(root !== undefined && "selfSigned" in root, "the CA signs itself");
}

const selects = ({ matchLabels = {}, matchExpressions = [] }: LabelSelector, labels: Record<string, string>): boolean =>
  Object.entries(matchLabels).every(([key, value]) => labels[key] === value) &&
  matchExpressions.every(({ key, operator, values }) => {
    assert.equal(operator, "In");
    return values!.includes(labels[key]!);
  });

/** Somebody who talks or is talked to: a pod of ours, one of another namespace, or an address. */
interface Party {
  name: string;
  labels?: Record<string, string>;
  namespace?: Record<string, string>;
  address?: string;
  ports: number[];
}

/** Plays every conversation there could be: what the policies let through is what is meant, no more and no less. */
function expectNetworkPolicies(rendered: Rendered, expect: Expect): void {
  const policies = rendered.all.filter(({ kind }) => kind === "NetworkPolicy") as (NetworkPolicy & Manifest)[];
  const ours = Object.entries(podsOf(rendered)).map(([name, { metadata, spec }]): Party => ({
    name,
    labels: metadata!.labels!,
    ports: spec!.containers[0]!.ports!.map(({ containerPort }) => containerPort),
  }));
  const in_ = (namespace: string) => ({ "kubernetes.io/metadata.name": namespace });
  const others: Party[] = [
    { name: "DNS", namespace: in_("kube-system"), labels: { "k8s-app": "kube-dns" }, ports: [53] },
    { name: "DNS on the node", address: "169.254.20.10", ports: [53] },
    { name: "the API", address: "192.0.2.1", ports: [443, 6443, 10250] },
    { name: "Prometheus", namespace: in_("monitoring"), labels: {}, ports: [9090] },
    { name: "a stranger", namespace: in_("default"), labels: { app: "client" }, ports: [80] },
    { name: "another pod here", labels: {}, ports: [8080, 9090] },
    { name: "the world", address: "198.51.100.1", ports: [80] },
  ];

  const isPeer = ({ podSelector, namespaceSelector, ipBlock }: NetworkPolicyPeer, party: Party): boolean => {
    if (ipBlock !== undefined) {
      const [network, bits] = ipBlock.cidr.split("/");
      return party.address !== undefined && (bits === "0" || network === party.address);
    }
    if (party.address !== undefined || (namespaceSelector === undefined) !== (party.namespace === undefined)) {
      return false;
    }
    return selects(namespaceSelector ?? {}, party.namespace ?? {}) && selects(podSelector ?? {}, party.labels!);
  };
  const isPort = (ports: NetworkPolicyPort[] | undefined, port: number) =>
    ports === undefined || ports.some((one) => one.port === port);
  /** Whoever no policy selects for a direction may do everything in it. */
  const lets = (direction: "Ingress" | "Egress", self: Party, other: Party, port: number): boolean => {
    if (!ours.includes(self) && self.name !== "another pod here") return true;
    const selecting = policies.filter(({ spec }) =>
      spec!.policyTypes!.includes(direction) && selects(spec!.podSelector, self.labels!)
    );
    const rules = selecting.flatMap(({ spec }) =>
      direction === "Ingress"
        ? (spec!.ingress ?? []).map(({ from, ports }) => ({ peers: from, ports }))
        : (spec!.egress ?? []).map(({ to, ports }) => ({ peers: to, ports }))
    );
    return selecting.length === 0 ||
      rules.some(({ peers, ports }) =>
        isPort(ports, port) && (peers === undefined || peers.some((peer) => isPeer(peer, other)))
      );
  };
  const everybody = [...ours, ...others];
  const talk = everybody.flatMap((from) =>
    everybody.flatMap((to) =>
      // What strangers do among themselves is not ours to say.
      from === to || ![from, to].some((party) => ours.includes(party))
        ? []
        : to.ports.filter((port) => lets("Egress", from, to, port) && lets("Ingress", to, from, port)).map((port) =>
          `${from.name} to ${to.name} on ${port}`
        )
    )
  );
  for (const line of MAY_TALK) expect(talk.includes(line), `network policy: ${line} is refused`);
  for (const line of talk) expect(MAY_TALK.includes(line), `network policy: ${line} is let through`);
}

function expectLoad(rendered: Rendered, expect: Expect): void {
  const { find, all } = rendered;
  const job = find<Job & Manifest>("Job", "load").spec!;
  const { pod, values } = expectPod(rendered, "load", job.template, expect);
  expectReport("load", job, values, expect);
  expect(job.completionMode === "Indexed" && job.completions === job.parallelism, "load: all of its pods at once");
  expect(job.backoffLimitPerIndex === 0 && pod.restartPolicy === "Never", "load: one try for each pod");
  expect(pod.automountServiceAccountToken === false, "load: no service account token");
  const client = all.find(({ metadata }) => metadata.name.startsWith("client-settings")) as ConfigMap | undefined;
  for (const name of client === undefined ? [] : ["SERVER_URL", "TLS_CA", "TOKEN_FILE"]) {
    expect(values[name] === client!.data![name], `load: ${name} is the client's`);
  }
}

/** A Job that judges: it ends by itself, is not disrupted itself, and goes some time after its end. */
function expectReport(role: OurRole, job: NonNullable<Job["spec"]>, values: Record<string, string>, expect: Expect) {
  const graceSeconds = job.template.spec!.terminationGracePeriodSeconds ?? 30;
  const endsSeconds = inSeconds(values["TIMEOUT_MS"]) + graceSeconds;
  expect(endsSeconds > graceSeconds, `${role}: a TIMEOUT_MS, so that it reports`);
  expect(
    (job.activeDeadlineSeconds ?? 0) > endsSeconds,
    `${role}: a deadline above TIMEOUT_MS + grace = ${endsSeconds} s`,
  );
  expect((job.ttlSecondsAfterFinished ?? 0) > 0, `${role}: gone some time after its end`);
  const evictable = job.template.metadata?.annotations?.["cluster-autoscaler.kubernetes.io/safe-to-evict"];
  expect(evictable === "false", `${role}: not disrupted itself`);
}

function expectDrill(rendered: Rendered, namespace: string, expect: Expect): void {
  const { all, find } = rendered;
  expectObjects(rendered, namespace, expect);
  const kinds = all.map(({ kind }) => kind).sort().join(" ");
  if (kinds !== "ConfigMap Job Role RoleBinding ServiceAccount") return expect(false, `drill: not ${kinds}`);

  const job = find<Job & Manifest>("Job", "drill").spec!;
  const { pod, container, values } = expectPod(rendered, "drill", job.template, expect);
  expectReport("drill", job, values, expect);
  expect(job.backoffLimit === 0 && pod.restartPolicy === "Never", "drill: one try");

  const account = find<ServiceAccount & Manifest>("ServiceAccount", "drill");
  expect(pod.serviceAccountName === account.metadata.name, "drill: its own service account");
  expect(
    pod.automountServiceAccountToken === true && account.automountServiceAccountToken === false,
    "drill: the token for this pod only",
  );
  const certificates = container.env?.find(({ name }) => name === "NODE_EXTRA_CA_CERTS")?.value;
  expect(certificates === `${CLIENT.serviceAccount.fallback}/ca.crt`, "drill: trusts the API's certificate");

  const role = find<Role & Manifest>("Role", "drill");
  const may = (role.rules ?? []).flatMap(({ apiGroups = [], resources = [], verbs }) =>
    apiGroups.flatMap((group) =>
      resources.map((resource) => `${resource}${group === "" ? "" : `.${group}`}: ${verbs.join(", ")}`)
    )
  );
  expect(may.join("; ") === DRILL_MAY.join("; "), `drill: may only ${DRILL_MAY.join("; ")}; not ${may.join("; ")}`);
  const { roleRef, subjects } = find<RoleBinding & Manifest>("RoleBinding", "drill");
  const [subject, ...others] = subjects ?? [];
  expect(roleRef.kind === "Role" && roleRef.name === role.metadata.name, "drill: the binding names the Role");
  expect(
    subject?.kind === "ServiceAccount" && subject.name === account.metadata.name && subject.namespace === namespace &&
      others.length === 0,
    "drill: the binding names the service account",
  );
}

/** What a drain may do besides: cordon a node, and nothing else. */
function expectDrain(rendered: Rendered, namespace: string, expect: Expect): void {
  expectObjects(rendered, namespace, expect);
  const { rules } = rendered.find<ClusterRole & Manifest>("ClusterRole");
  expect(
    JSON.stringify(rules) === '[{"apiGroups":[""],"resources":["nodes"],"verbs":["get","patch"]}]',
    "drain: only nodes",
  );
  const { roleRef, subjects } = rendered.find<ClusterRoleBinding & Manifest>("ClusterRoleBinding");
  const [subject, ...others] = subjects ?? [];
  const account = render("deploy/drill").find("ServiceAccount", "drill").metadata;
  expect(roleRef.kind === "ClusterRole" && roleRef.name === "drill-drain", "drain: the binding names the ClusterRole");
  expect(
    subject?.name === account.name && subject.namespace === account.namespace && others.length === 0,
    "drain: the binding names the drill's service account",
  );
}

/** Filebeat: a namespace of its own, reads logs and asks which pods there are, and changes nothing. */
function expectFilebeat(rendered: Rendered, expect: Expect): void {
  const { all, find } = rendered;
  expectObjects(rendered, "filebeat", expect);
  const kinds = all.map(({ kind }) => kind).sort().join(" ");
  const wanted = "ClusterRole ClusterRoleBinding ConfigMap ConfigMap DaemonSet Namespace ServiceAccount";
  if (kinds !== wanted) return expect(false, `filebeat: not ${kinds}`);
  expect(find("Namespace").metadata.name === "filebeat", "filebeat: its own namespace");

  const { selector, template } = find<DaemonSet & Manifest>("DaemonSet").spec!;
  const pod = template.spec!;
  const container = pod.containers[0]!;
  expect(selects(selector, template.metadata!.labels!), "filebeat: its selector finds its pods");
  expect(/^docker\.elastic\.co\/beats\/filebeat:\d+\.\d+\.\d+$/.test(container.image!), "filebeat: a pinned version");
  expect(
    container.securityContext?.readOnlyRootFilesystem === true &&
      container.securityContext.capabilities?.drop?.join() === "ALL" &&
      container.securityContext.allowPrivilegeEscalation === false &&
      container.securityContext.privileged === undefined,
    "filebeat: nothing that it does not need",
  );
  const mounts = Object.fromEntries(container.volumeMounts!.map((mount) => [mount.name, mount]));
  for (const { name, hostPath } of pod.volumes!) {
    const mayWrite = hostPath?.path === "/var/lib/filebeat";
    expect(mounts[name]?.readOnly === (mayWrite ? undefined : true), `filebeat: ${name} is mounted read-only`);
    expect(hostPath === undefined || mayWrite || hostPath.path === "/var/log", `filebeat: reads no ${hostPath?.path}`);
  }
  const files = container.args!.filter((_, index) => container.args![index - 1] === "-c");
  const folders = [mounts["config"]?.mountPath, mounts["credentials"]?.mountPath];
  expect(files.map((file) => dirname(file)).join() === folders.join(), "filebeat: its files are where it looks");
  expect(
    pod.volumes!.find(({ name }) => name === "credentials")?.secret?.secretName === "filebeat-credentials",
    "filebeat: what lets it in comes from a Secret",
  );

  const config = parse(find<ConfigMap & Manifest>("ConfigMap", "filebeat-").data!["filebeat.yml"]!);
  const [{ node, hints }] = config["filebeat.autodiscover"].providers;
  expect(hints.enabled === true && hints.default_config.enabled === false, "filebeat: only pods that ask for it");
  const given = [
    ...Object.keys(find<ConfigMap & Manifest>("ConfigMap", "elasticsearch").data!),
    ...container.env!.map(({ name }) => name),
  ];
  for (const name of [node, config["output.elasticsearch"].hosts].map((text) => /^\$\{(\w+)\}$/.exec(text)?.[1])) {
    expect(given.includes(name!), `filebeat: knows its ${name}`);
  }

  const verbs = new Set(find<ClusterRole & Manifest>("ClusterRole").rules!.flatMap(({ verbs }) => verbs));
  const resources = find<ClusterRole & Manifest>("ClusterRole").rules!.flatMap(({ resources }) => resources);
  expect([...verbs].join() === "get,list,watch", `filebeat: may only look, not ${[...verbs].join()}`);
  expect(resources.join() === "pods,namespaces,nodes,replicasets,jobs", `filebeat: may not see ${resources.join()}`);
  const { roleRef, subjects } = find<ClusterRoleBinding & Manifest>("ClusterRoleBinding");
  expect(
    roleRef.name === "filebeat" && subjects?.length === 1 && subjects[0]!.namespace === "filebeat" &&
      subjects[0]!.name === pod.serviceAccountName,
    "filebeat: the binding names its service account",
  );
}

const inSeconds = (milliseconds: string | undefined): number => Number(milliseconds) / 1000;

const inMebibytes = (quantity: string | undefined): number => {
  const [, number, unit] = /^(\d+)([MG]i)$/.exec(quantity ?? "") ?? [];
  return Number(number) * (unit === "Gi" ? 1024 : 1);
};

/** What the program itself has against the values of its ConfigMap. */
function refused(table: typeof SERVER | typeof CLIENT, values: Record<string, string>): string[] {
  const flags = Object.values(table).flatMap(({ flag, env }) => values[env] ? [`--${flag}=${values[env]}`] : []);
  try {
    readSettings({ command: "", summary: "", switches: {} }, table as never, flags);
    return [];
  } catch (error) {
    return [(error as Error).message];
  }
}

function isRestricted(pod: NonNullable<Pod["spec"]>, { securityContext }: Container): boolean {
  return pod.securityContext?.runAsNonRoot === true && pod.securityContext.seccompProfile?.type === "RuntimeDefault" &&
    securityContext?.allowPrivilegeEscalation === false && securityContext.readOnlyRootFilesystem === true &&
    securityContext.capabilities?.drop?.join() === "ALL" && !pod.hostNetwork && !pod.hostPID &&
    // Of the volumes that the standard lets through these are the ones that we use.
    (pod.volumes ?? []).every(({ name: _, secret, ...others }) =>
      secret !== undefined && Object.keys(others).length === 0
    );
}

describe("manifests", { skip }, () => {
  for (const folder of FOLDERS) {
    it(`in ${folder} keep every promise`, () => assert.deepEqual(broken(render(folder)), []));
  }

  for (const component of COMPONENTS) {
    it(`with the component ${component} alone keep every promise`, () => {
      assert.deepEqual(broken(compose([component])), []);
    });
  }

  it("with all components keep every promise", () => {
    assert.deepEqual(COMPONENTS.toSorted(), readdirSync("deploy/components").sort());
    assert.deepEqual(broken(compose(COMPONENTS)), []);
  });

  it("of production have all components but the load, of staging monitoring and logging", () => {
    const components = (name: string) =>
      (parse(readFileSync(`environments/${name}/kustomization.yaml`, "utf8")).components ?? []) as string[];
    const paths = (names: string[]) => names.map((name) => `../../deploy/components/${name}`);
    assert.deepEqual(components("production"), paths(COMPONENTS.filter((name) => name !== "load")));
    assert.deepEqual(components("staging"), paths(["monitoring", "logging"]));
    assert.deepEqual(components("local"), []);
  });

  it("of the drill judge what deploy/ deploys", () => {
    const { find } = render("deploy");
    const drill = render("deploy/drill");
    const { DISRUPT, TARGET, TARGET_SELECTOR, SERVER_URL } = drill.find<ConfigMap & Manifest>("ConfigMap").data!;
    const { kind, name } = parseTarget(TARGET!);
    assert.equal(kind, "deployment");
    find<Deployment & Manifest>("Deployment", name);
    const image = (template: PodTemplateSpec) => template.spec!.containers[0]!.image;
    assert.notEqual(DISRUPT, "none");
    assert.equal(TARGET_SELECTOR, ""); // the target's own
    assert.equal(SERVER_URL, find<ConfigMap & Manifest>("ConfigMap", "client-settings").data!["SERVER_URL"]);
    assert.equal(
      image(drill.find<Job & Manifest>("Job").spec!.template),
      image(find<Deployment & Manifest>("Deployment", "client").spec!.template),
    );
  });

  /** One text replaced in one file of `deploy`, or in an environment; rendered: its folder, or all components. */
  function spoilt(file: string, from: string, to: string): Rendered {
    const folder = mkdtempSync(resolve("dist/spoilt-"));
    try {
      for (const whole of ["deploy", "environments"]) cpSync(whole, join(folder, whole), { recursive: true });
      const path = join(folder, file.startsWith("environments/") ? "" : "deploy", file);
      const text = readFileSync(path, "utf8");
      assert.ok(text.includes(from), `${file} has ${from}`);
      writeFileSync(path, text.replace(from, to));
      const isComponent = /kind: Component/.test(readFileSync(join(dirname(path), "kustomization.yaml"), "utf8"));
      return isComponent ? compose(COMPONENTS, "../deploy", folder) : render(dirname(path));
    } finally {
      rmSync(folder, { recursive: true });
    }
  }

  const SPOILT: [what: string, file: string, from: string, to: string, complaint: RegExp][] = [
    [
      "a misspelt field",
      "server-deployment.yaml",
      "terminationGracePeriodSeconds: 60",
      "terminationGracePeriodSecond: 60",
      /terminationGracePeriodSecond"' does not exist/,
    ],
    [
      "a text for a number",
      "server-deployment.yaml",
      "replicas: 2",
      'replicas: "two"',
      /'string' is not assignable to type 'number'/,
    ],
    [
      "a broken inequality",
      "server-deployment.yaml",
      "terminationGracePeriodSeconds: 60",
      "terminationGracePeriodSeconds: 33",
      /a grace above preStop \+ drain \+ close = 33 s/,
    ],
    [
      "a drain that outgrew the grace",
      "server-settings.env",
      "DRAIN_TIMEOUT_MS=25000",
      "DRAIN_TIMEOUT_MS=60000",
      /a grace above .* = 68 s/,
    ],
    [
      "a wrong port",
      "server-deployment.yaml",
      "containerPort: 9090",
      "containerPort: 9091",
      /port admin is ADMIN_PORT/,
    ],
    [
      "a wrong target port",
      "service.yaml",
      "targetPort: websocket",
      "targetPort: admin",
      /the Service finds the servers/,
    ],
    [
      "more sessions than memory",
      "server-settings.env",
      "MAX_SESSIONS=20000",
      "MAX_SESSIONS=50000",
      /server: 384 MiB hold MAX_SESSIONS, which need 538/,
    ],
    ["a probe path that does not exist", "server-deployment.yaml", "path: /readyz", "path: /ready", /paths that exist/],
    [
      "a setting that does not exist",
      "server-settings.env",
      "INTERVAL_MS=",
      "INTERVALL_MS=",
      /INTERVALL_MS is a setting/,
    ],
    [
      "a value that the program refuses",
      "client-settings.env",
      "DIALECT=auto",
      "DIALECT=klingon",
      /--dialect must be auto, v1, plain, /,
    ],
    [
      "a budget for nobody",
      "pod-disruption-budget.yaml",
      "    matchLabels:\n      app: server",
      "    matchLabels:\n      app: servers",
      /guards the servers/,
    ],
    [
      "a container that may write",
      "client-deployment.yaml",
      "readOnlyRootFilesystem: true",
      "readOnlyRootFilesystem: false",
      /client: restricted/,
    ],
    [
      "the other role's bundle",
      "client-deployment.yaml",
      '["client.js"]',
      '["server.js"]',
      /client: args name its bundle/,
    ],
    ["a misspelt field", "drill/job.yaml", "backoffLimit: 0", "backOffLimit: 0", /backOffLimit"' does not exist/],
    ["a second try", "drill/job.yaml", "backoffLimit: 0", "backoffLimit: 1", /drill: one try/],
    [
      "a deadline before the report",
      "drill/drill-settings.env",
      "TIMEOUT_MS=600000",
      "TIMEOUT_MS=3600000",
      /drill: a deadline above TIMEOUT_MS \+ grace = 3630 s/,
    ],
    ["no report at all", "drill/drill-settings.env", "TIMEOUT_MS=600000", "TIMEOUT_MS=0", /drill: a TIMEOUT_MS/],
    [
      "a disruption that does not exist",
      "drill/drill-settings.env",
      "DISRUPT=delete",
      "DISRUPT=explode",
      /drill: .*--disrupt must be one of/,
    ],
    [
      "a drill that may do anything",
      "drill/role.yaml",
      '["list", "watch", "delete", "patch"]',
      '["*"]',
      /may only .* not pods: \*/,
    ],
    [
      "a drill that may read secrets",
      "drill/role.yaml",
      'resources: ["events"]',
      'resources: ["events", "secrets"]',
      /not .*secrets: list, watch/,
    ],
    [
      "a drill for the whole cluster",
      "drill/role-binding.yaml",
      "kind: RoleBinding",
      "kind: ClusterRoleBinding",
      /drill: not ClusterRoleBinding/,
    ],
    [
      "a binding for somebody else",
      "drill/role-binding.yaml",
      "kind: ServiceAccount\n    name: drill",
      "kind: ServiceAccount\n    name: default",
      /drill: the binding names the service account/,
    ],
    [
      "a drill without its token",
      "drill/job.yaml",
      "automountServiceAccountToken: true",
      "automountServiceAccountToken: false",
      /drill: the token for this pod only/,
    ],
    ["a drill that runs as root", "drill/job.yaml", "runAsNonRoot: true", "runAsNonRoot: false", /drill: restricted/],
    ["a drill that trusts nobody", "drill/job.yaml", "/ca.crt", "/ca.pem", /drill: trusts the API's certificate/],
    [
      "a drill that needs a Secret",
      "drill/job.yaml",
      "secretName: server-token\n            optional: true",
      "secretName: server-token",
      /drill: token is optional/,
    ],
    [
      "a drill that may not read its files",
      "drill/job.yaml",
      "fsGroup: 65532",
      "fsGroup: 1",
      /drill: its group may read its files/,
    ],
    [
      "a drill that may read the key",
      "drill/job.yaml",
      "- key: ca.crt",
      "- key: tls.key",
      /drill: may not read server-tls: tls.key/,
    ],
    [
      "a grace that the alerts do not know of",
      "environments/production/kustomization.yaml",
      "value: vector(90)",
      "value: vector(60)",
      /the alerts know of a grace of 90 s: vector\(60\)/,
    ],
    [
      "a certificate for another namespace",
      "environments/production/kustomization.yaml",
      "- server-service.k8s-graceful-shutdown-test-production.svc\n",
      "- server-service.k8s-graceful-shutdown-test.svc\n",
      /names are the Service's in k8s-graceful-shutdown-test-production/,
    ],
    [
      "a misspelt field",
      "components/monitoring/pod-monitor.yaml",
      "scrapeTimeout",
      "scrapeTimeOut",
      /scrapeTimeOut"' does not exist/,
    ],
    [
      "a role left out",
      "components/monitoring/pod-monitor.yaml",
      '"client", "drill"',
      '"client"',
      /the PodMonitor finds drill/,
    ],
    [
      "a port left out",
      "components/monitoring/pod-monitor.yaml",
      "port: admin",
      "port: metrics",
      /PodMonitor's port metrics/,
    ],
    [
      "another port in an annotation",
      "components/monitoring/client-deployment.yaml",
      '"9091"',
      '"9090"',
      /client: is scraped on its admin port/,
    ],
    [
      "an alert without a summary",
      "components/monitoring/prometheus-rule.yaml",
      "summary: Messages were lost",
      "title: Messages were lost",
      /'"title"' does not exist/,
    ],
    [
      "another share of the grace",
      "components/monitoring/prometheus-rule.yaml",
      "0.8 * graceful_shutdown:grace_seconds",
      "1.8 * graceful_shutdown:grace_seconds",
      /a long drain is 80 % of the grace/,
    ],
    [
      "a label that no sidecar looks for",
      "components/monitoring/kustomization.yaml",
      'grafana_dashboard: "1"',
      'grafana: "1"',
      /Grafana's sidecar finds the dashboard/,
    ],
    [
      "a rule for another namespace",
      "components/monitoring/namespace.yaml",
      "spec/groups/rules/labels/namespace",
      "spec/groups/rules/labels/ns",
      /the alerts know whose grace that is/,
    ],
    [
      "a memory that TLS outgrows",
      "environments/production/server-deployment.yaml",
      "memory: 2560Mi",
      "memory: 1Gi",
      /server: 1024 MiB hold MAX_SESSIONS, which need 2003/,
    ],
    [
      "a key that everybody may read",
      "components/tls/server-deployment.yaml",
      "defaultMode: 0440",
      "defaultMode: 0444",
      /server: tls is for its group only/,
    ],
    [
      "a key for the client",
      "components/tls/client-deployment.yaml",
      "- key: ca.crt",
      "- key: tls.key\n                path: tls.key\n              - key: ca.crt",
      /client: may not read server-tls: tls.key, ca.crt/,
    ],
    [
      "a mount that never sees a renewal",
      "components/tls/server-deployment.yaml",
      "mountPath: /etc/tls",
      "mountPath: /etc/tls\n              subPath: tls.crt",
      /server: tls is mounted as a folder/,
    ],
    [
      "a mount that can be written to",
      "components/auth/client-deployment.yaml",
      "readOnly: true",
      "readOnly: false",
      /client: token is mounted read-only/,
    ],
    [
      "a file that is not there",
      "components/tls/kustomization.yaml",
      "TLS_KEY=/etc/tls/tls.key",
      "TLS_KEY=/etc/tls/key.pem",
      /server: \/etc\/tls\/key.pem is mounted/,
    ],
    [
      "a client that speaks plain text",
      "components/tls/kustomization.yaml",
      "SERVER_URL=wss:",
      "SERVER_URL=ws:",
      /the client's SERVER_URL is the Service/,
    ],
    [
      "a Service that does",
      "components/tls/service.yaml",
      "kubernetes.io/wss",
      "kubernetes.io/ws",
      /the Service says that it is wss/,
    ],
    [
      "a misspelt field",
      "components/tls/server-certificate.yaml",
      "renewBefore:",
      "renewbefore:",
      /renewbefore"' does not exist/,
    ],
    [
      "another Secret",
      "components/tls/server-certificate.yaml",
      "secretName: server-tls",
      "secretName: server",
      /where the servers look for it/,
    ],
    [
      "another CA",
      "components/tls/ca-issuer.yaml",
      "secretName: server-ca",
      "secretName: root",
      /the certificate is from the CA/,
    ],
    [
      "a token in the environment",
      "components/auth/client-deployment.yaml",
      "        - name: client\n",
      "        - name: client\n          env:\n            - name: TOKEN_FILE\n" +
      "              valueFrom: {secretKeyRef: {name: server-token, key: token}}\n",
      /no secret in the environment/,
    ],
    [
      "a token in the repository",
      "components/auth/kustomization.yaml",
      "patches:",
      "secretGenerator:\n  - name: server-token\n    literals: [token=changeme]\npatches:",
      /made in the cluster, not here/,
    ],
    [
      "a client without the token",
      "components/auth/kustomization.yaml",
      "name: client-settings\n    behavior: merge\n    literals:\n      - TOKEN_FILE=/etc/token/token",
      "name: client-settings\n    behavior: merge\n    literals:\n      - TOKEN_FILE=",
      /the client has the token that is asked for/,
    ],
    [
      "lines that nobody reads",
      "components/logging/annotations.yaml",
      "co.elastic.logs/enabled",
      "co.elastic.log/enabled",
      /Filebeat reads what is JSON/,
    ],
    [
      "one role in another format",
      "components/logging/kustomization.yaml",
      "LOG_FORMAT=json",
      "LOG_FORMAT=pretty",
      /client: logs in the format of the others/,
    ],
    [
      "a policy for nobody",
      "components/network-policy/server.yaml",
      "app: server",
      "app: servers",
      /client to server on 8080 is refused/,
    ],
    [
      "no policy for the rest",
      "components/network-policy/default-deny.yaml",
      "    - Egress\n",
      "",
      /server to the world on 80 is let through/,
    ],
    [
      "a role left out",
      "components/network-policy/server.yaml",
      '"client", "drill", "load"',
      '"client", "drill"',
      /load to server on 8080 is refused/,
    ],
    [
      "another port",
      "components/network-policy/clients.yaml",
      "port: 8080",
      "port: 8081",
      /client to server on 8080 is refused/,
    ],
    [
      "another DNS",
      "components/network-policy/clients.yaml",
      "k8s-app: kube-dns",
      "k8s-app: coredns",
      /client to DNS on 53 is refused/,
    ],
    [
      "more than the API",
      "components/network-policy/drill.yaml",
      "        - port: 443\n          protocol: TCP\n",
      "        - port: 443\n          protocol: TCP\n        - port: 80\n          protocol: TCP\n",
      /drill to the world on 80 is let through/,
    ],
    [
      "metrics for everybody",
      "components/network-policy/metrics.yaml",
      "        - namespaceSelector:\n            matchLabels:\n              kubernetes.io/metadata.name: monitoring",
      "        - namespaceSelector: {}",
      /a stranger to server on 9090 is let through/,
    ],
    [
      "a second try",
      "components/load/job/job.yaml",
      "backoffLimitPerIndex: 0",
      "backoffLimitPerIndex: 1",
      /load: one try/,
    ],
    [
      "pods that wait for others",
      "components/load/job/job.yaml",
      "parallelism: 4",
      "parallelism: 1",
      /load: all of its pods at once/,
    ],
    [
      "a connection of its own",
      "components/load/connection.yaml",
      "fieldPath: data.TLS_CA",
      "fieldPath: data.TLS_CERT",
      /load: TLS_CA is the client's/,
    ],
    [
      "an image that moves",
      "components/logging/filebeat/daemon-set.yaml",
      "filebeat:9.5.4",
      "filebeat:latest",
      /filebeat: a pinned version/,
    ],
    [
      "the nodes' files to write to",
      "components/logging/filebeat/daemon-set.yaml",
      "mountPath: /var/log\n              readOnly: true",
      "mountPath: /var/log",
      /filebeat: logs is mounted read-only/,
    ],
    [
      "the nodes' other files",
      "components/logging/filebeat/daemon-set.yaml",
      "path: /var/log\n",
      "path: /etc\n",
      /filebeat: reads no \/etc/,
    ],
    [
      "a right too many",
      "components/logging/filebeat/cluster-role.yaml",
      '["pods", "namespaces", "nodes"]',
      '["pods", "namespaces", "nodes", "secrets"]',
      /filebeat: may not see .*secrets/,
    ],
    [
      "every pod's logs",
      "components/logging/filebeat/filebeat.yml",
      "enabled: false",
      "enabled: true",
      /filebeat: only pods that ask for it/,
    ],
    [
      "a setting that nobody gives",
      "components/logging/filebeat/elasticsearch.env",
      "ELASTICSEARCH_HOSTS=",
      "ELASTICSEARCH_HOST=",
      /filebeat: knows its ELASTICSEARCH_HOSTS/,
    ],
  ];
  const spoiltSets: Rendered[] = [];
  before(() => {
    for (const [, file, from, to] of SPOILT) spoiltSets.push(spoilt(file, from, to));
    check(spoiltSets.flatMap(({ all }) => all)); // of all at once: each would have a run of its own
  });
  for (const [index, [what, file, , , complaint]] of SPOILT.entries()) {
    it(`with ${what} in ${file} are refused`, () => {
      assert.match(broken(spoiltSets[index]!).join("\n"), complaint);
    });
  }

  it("roll the pods when a setting changes", () => {
    const name = (rendered: Rendered) => rendered.find("ConfigMap", "server-settings").metadata.name;
    assert.notEqual(name(spoilt("server-settings.env", "SPREAD_MS=0", "SPREAD_MS=1")), name(render("deploy")));
  });
});

/** A cluster's answers: it keeps what is applied, and every pod and job of it has the state that it is told. */
const FAKE_KUBECTL = `const { appendFileSync, existsSync, readFileSync } = require("node:fs");
const { APPLIED, CA_CRT, CA_KEY, KINDS = "", LOG, STATE } = process.env;
const args = process.argv.slice(2).filter((word) => !/^--(context|namespace)=/.test(word));
const say = (object) => console.log(JSON.stringify(object));
const uid = "the-job";
const objects = () => existsSync(APPLIED)
  ? readFileSync(APPLIED, "utf8").split("---\\n").filter(Boolean).flatMap((text) => JSON.parse(text).items ?? [])
  : [];
const pod = (job, index) => ({
  kind: "Pod",
  metadata: { name: "load-" + index, uid: "pod-" + index, ownerReferences: [{ uid }] },
  spec: job.spec.template.spec,
  status: { containerStatuses: [{ name: job.metadata.name, state: JSON.parse(STATE) }] },
});
const answers = {
  "get --raw /version": () => say({}),
  "get --raw /apis": () => {
    const versions = ["apps/v1", "policy/v1", "networking.k8s.io/v1", ...KINDS.split(" ")];
    say({ groups: [{ versions: versions.map((groupVersion) => ({ groupVersion })) }] });
  },
  "get --raw /apis/": () => {
    const kinds = "Deployment PodDisruptionBudget NetworkPolicy PodMonitor PrometheusRule Certificate Issuer";
    say({ resources: kinds.split(" ").map((kind) => ({ kind })) });
  },
  "get deployment": () => say({ spec: { selector: { matchLabels: { app: "server" } } } }),
  "get secret server-ca": () => CA_CRT && say({ data: { "tls.crt": CA_CRT, "tls.key": CA_KEY } }),
  "get service": () => console.log("service/here"),
  "get endpointslices": () => say({ items: [{ endpoints: [{}] }] }),
  "get events": () => say({ items: [] }),
  "get pods": () => say({ items: [] }),
  "get jobs,pods": () => {
    const job = objects().findLast(({ kind }) => kind === "Job");
    const { exitCode } = JSON.parse(STATE).terminated ?? {};
    const conditions = exitCode === undefined ? [] : [{ type: exitCode === 0 ? "Complete" : "Failed", status: "True" }];
    const pods = Array.from({ length: job.spec.completions }, (_, index) => pod(job, index));
    say({ items: [{ ...job, metadata: { ...job.metadata, uid }, status: { conditions } }, ...pods] });
  },
  "create --raw": () => say({ status: { allowed: true } }),
  "apply": () => {
    const text = readFileSync(0, "utf8");
    appendFileSync(APPLIED, "---\\n" + text + "\\n");
    if (args.includes("json")) say({ items: JSON.parse(text).items.map((one) => ({ ...one, metadata: { ...one.metadata, uid } })) });
  },
  "logs": () => readFileSync(LOG, "utf8").trimEnd().split("\\n").forEach((line, index) =>
    console.log("2026-01-01T00:00:00." + String(index).padStart(9, "0") + "Z " + line)),
};
const known = Object.keys(answers).sort((a, b) => b.length - a.length).find((words) => args.join(" ").startsWith(words));
answers[known]?.();
`;
/** What needs no cluster is the real one's. */
const KUBECTL = `#!/bin/sh
case "$1" in kustomize | patch) exec kubectl "$@" ;; esac
exec node "$0.cjs" "$@"
`;

/** Runs a target against a cluster that is none. */
async function make(t: TestContext, target: string, args: string[] = [], env: Record<string, string> = {}) {
  const folder = mkdtempSync(resolve("dist/make-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const applied = join(folder, "applied.yaml");
  writeFileSync(join(folder, "kubectl"), KUBECTL, { mode: 0o755 });
  writeFileSync(join(folder, "kubectl.cjs"), FAKE_KUBECTL);
  const command = ["make", "--silent", target, `KUBECTL=${folder}/kubectl`, "DRILL_START_S=2", ...args];
  const result = await run(t, command, { APPLIED: applied, ...env });
  return { ...result, applied: existsSync(applied) ? read(readFileSync(applied, "utf8")) : undefined };
}

/** What a client says that judged what it was asked for, or less than that: its log with the record, and its text. */
async function clientLog(t: TestContext, ...flags: string[]) {
  const { url } = await startServer(t);
  const settings = [`--url=${url}`, "--admin-port=0", "--timeout=1s", "--report=-.record", ...flags];
  const { stdout } = await run(t, [process.execPath, "dist/client.js", ...settings]);
  const folder = mkdtempSync(resolve("dist/log-"));
  t.after(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, "log"), stdout);
  return {
    LOG: join(folder, "log"),
    text: stdout.replace(/^record .*\n/gm, ""),
    summary: stdout.trimEnd().split("\n").at(-1)!,
  };
}

describe("make k8s-drill", { skip: skipMake }, () => {
  const drill = (t: TestContext, state: object, args: string[], env: Record<string, string> = {}) =>
    make(t, "k8s-drill", args, { STATE: JSON.stringify(state), ...env });
  const exited = (exitCode: number, reason = "Completed") => ({
    terminated: { containerID: "containerd://1", exitCode, reason },
  });

  it("hands its parameters to the drill, and prints the report", async (t) => {
    const parameters = {
      DISRUPT: "rollout",
      SERVER_URL: `ws://my-app/it's?a=b&c="d"`,
      TARGET: "my-app",
      SELECTOR: "app=my-app,tier in (a,b)",
    };
    const { LOG, text } = await clientLog(t);
    const args = Object.entries({ ...parameters, ENV: "production", NAMESPACE: "mine" });
    const { code, stdout, applied } = await drill(t, exited(0), args.map((pair) => pair.join("=")), {
      SESSIONS: "100",
      LOG,
    });
    assert.deepEqual({ code, stdout }, { code: 0, stdout: text });
    assert.deepEqual(broken(applied!, "mine"), []);

    const before = render("deploy/drill").find<ConfigMap & Manifest>("ConfigMap").data!;
    const { TARGET, SELECTOR, ...rest } = parameters;
    const given = { ...rest, ...targetData(TARGET), TARGET_SELECTOR: SELECTOR, SESSIONS: "100", REPORT: "-.record" };
    assert.deepEqual(applied!.find<ConfigMap & Manifest>("ConfigMap").data, { ...before, ...given });
    const { image, imagePullPolicy } = applied!.find<Job & Manifest>("Job").spec!.template.spec!.containers[0]!;
    assert.match(image!, /:1\.0\.0$/);
    assert.equal(imagePullPolicy, "IfNotPresent");
  });

  it("runs as deploy/drill says when nothing is given, but for the report's way out", async (t) => {
    const { LOG } = await clientLog(t);
    const { code, applied } = await drill(t, exited(0), [], { LOG });
    const all = structuredClone(render("deploy/drill").all) as (Manifest & ConfigMap)[];
    const config = all.find(({ kind }) => kind === "ConfigMap")!;
    Object.assign(config.data!, targetData("server-deployment"), { TARGET_SELECTOR: "app=server", REPORT: "-.record" });
    assert.deepEqual({ code, all: applied!.all }, { code: 0, all });
  });

  it("connects as the client of the environment does", async (t) => {
    const { LOG } = await clientLog(t);
    const { applied } = await drill(t, exited(0), ["ENV=production"], { LOG });
    assert.deepEqual(broken(applied!, "k8s-graceful-shutdown-test-production"), []);
    const { SERVER_URL, TLS_CA, TOKEN_FILE } = applied!.find<ConfigMap & Manifest>("ConfigMap").data!;
    const client = render("environments/production").find<ConfigMap & Manifest>("ConfigMap", "client-settings").data!;
    assert.match(SERVER_URL!, /^wss:/);
    for (const [name, value] of Object.entries({ SERVER_URL, TLS_CA, TOKEN_FILE })) assert.equal(value, client[name]);
  });

  it("has the image of the client, whatever stands beside it, and the one that was asked for", async (t) => {
    const folder = mkdtempSync(resolve("dist/overlay-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const sidecar = [{
      op: "add",
      path: "/spec/template/spec/containers/0",
      value: { name: "proxy", image: "envoy:1" },
    }];
    const patches = [{ target: { kind: "Deployment" }, patch: JSON.stringify(sidecar) }];
    writeFileSync(join(folder, "kustomization.yaml"), JSON.stringify({ resources: ["../../deploy"], patches }));
    const { LOG } = await clientLog(t);
    const imageOf = async (...args: string[]) => {
      const { applied } = await drill(t, exited(0), [`ENV=${folder}`, ...args], { LOG });
      return applied!.find<Job & Manifest>("Job").spec!.template.spec!.containers[0]!.image;
    };
    assert.match((await imageOf())!, /\/k8s-graceful-shutdown-test:latest$/);
    assert.equal(await imageOf("IMAGE=registry:5000/mine:2"), "registry:5000/mine:2");
  });

  it("fails when the drill does", async (t) => {
    const { LOG, text } = await clientLog(t, "--handovers=1");
    const { code, stdout, stderr } = await drill(t, exited(1), ["DISRUPT=force", "ENV=local"], { LOG });
    assert.deepEqual({ code, stdout }, { code: 2, stdout: text });
    assert.match(stderr, /^The drill's exit code: 1$/m);
  });

  it("says why where the drill's own pod was killed", async (t) => {
    const { LOG } = await clientLog(t);
    const { code, stdout, stderr } = await drill(t, exited(137, "OOMKilled"), ["DISRUPT=delete"], { LOG });
    assert.deepEqual({ code, stdout }, { code: 2, stdout: "" });
    const why = "The drill was ended before its verdict: exit 137 (OOMKilled), the limit is 256Mi";
    assert.ok(stderr.includes(`${why}\nThe drill's exit code: 2\n`), stderr);
  });

  it("does not wait for ever for a pod that does not start", async (t) => {
    const { code, stdout, stderr } = await drill(t, { waiting: { reason: "ContainerCreating" } }, ["DISRUPT=delete"]);
    assert.deepEqual({ code, stdout }, { code: 2, stdout: "" });
    assert.match(stderr, /^The drill's pod did not start within 2\.00s: ContainerCreating$/m);
  });

  it("says which disruptions there are for one that does not exist", async (t) => {
    const { code, stderr, applied } = await drill(t, exited(0), ["DISRUPT=none"]);
    assert.deepEqual({ code, applied }, { code: 2, applied: undefined });
    const [, names] = /^--disrupt must be (\S+): current value is 'none'$/m.exec(stderr)!;
    for (const name of DISRUPTIONS) assert.ok([...names!.split("|"), "none"].includes(name), name);
  });

  it("prints what it does, and not how", async (t) => {
    const { LOG } = await clientLog(t);
    const { stderr } = await drill(t, exited(0), [], { LOG });
    for (const line of stderr.split("\n").filter(Boolean)) assert.match(line, /^\d\d:\d\d:\d\d\.\d{3} drill {11}\S/);
  });
});

/** What the drill's ConfigMap says of a Deployment. */
const targetData = (name: string): Record<string, string> =>
  "TARGET_DEPLOYMENT" in render("deploy/drill").find<ConfigMap & Manifest>("ConfigMap").data!
    ? { TARGET_DEPLOYMENT: name }
    : { TARGET: `deployment/${name}` };

describe("make k8s-load", { skip: skipMake }, () => {
  const exited = (exitCode: number) => JSON.stringify({ terminated: { exitCode } });

  it("carries the load that it is told to, and prints every pod's verdict", async (t) => {
    const { LOG, summary } = await clientLog(t);
    const args = ["ENV=production", "LOAD_PODS=9", "SESSIONS=2500", "TIMEOUT_MS=60000"];
    const { code, stdout, applied } = await make(t, "k8s-load", args, { STATE: exited(0), LOG });
    const lines = Array.from({ length: 9 }, (_, index) => `load-${index}  ${summary}\n`).join("");
    assert.deepEqual({ code, stdout }, { code: 0, stdout: `${lines}\nPASS  9 pods, 9 sessions\n` });
    assert.deepEqual(broken(applied!, "k8s-graceful-shutdown-test-production"), []);
    const { completions, parallelism, template } = applied!.find<Job & Manifest>("Job").spec!;
    assert.deepEqual({ completions, parallelism }, { completions: 9, parallelism: 9 });
    assert.match(template.spec!.containers[0]!.image!, /:1\.0\.0$/);
    const { SERVER_URL, SESSIONS, TIMEOUT_MS } = applied!.find<ConfigMap & Manifest>("ConfigMap").data!;
    assert.deepEqual({ SESSIONS, TIMEOUT_MS }, { SESSIONS: "2500", TIMEOUT_MS: "60000" });
    assert.match(SERVER_URL!, /^wss:/);
  });

  it("runs as its folder says when nothing is given, but for the report's way out", async (t) => {
    const { LOG } = await clientLog(t);
    const { code, applied } = await make(t, "k8s-load", [], { STATE: exited(0), LOG });
    const all = structuredClone(render("deploy/components/load/job").all) as (Manifest & ConfigMap)[];
    Object.assign(all.find(({ kind }) => kind === "ConfigMap")!.data!, { REPORT: "-.record" });
    assert.deepEqual({ code, all: applied!.all }, { code: 0, all });
  });

  it("fails when a pod does", async (t) => {
    const { LOG, summary } = await clientLog(t, "--handovers=1");
    const { code, stdout, stderr } = await make(t, "k8s-load", ["LOAD_PODS=1"], { STATE: exited(1), LOG });
    assert.deepEqual({ code, stdout }, { code: 2, stdout: `load-0  ${summary}\n\nFAIL  1 of 1 pod: load-0\n` });
    assert.match(stderr, /^The load's exit code: 1$/m);
  });

  it("does not wait for ever for pods that do not start", async (t) => {
    const state = JSON.stringify({ waiting: { reason: "ContainerCreating" } });
    const { code, stdout, stderr } = await make(t, "k8s-load", [], { STATE: state });
    assert.deepEqual({ code, stdout }, { code: 2, stdout: "" });
    assert.match(stderr, /^The load's pod did not start within 2\.00s: ContainerCreating$/m);
  });
});

describe("make k8s-apply", { skip: skipMake }, () => {
  const OPERATORS = "monitoring.coreos.com/v1 cert-manager.io/v1";

  it("applies an environment as it is rendered", async (t) => {
    const { code, stderr, applied } = await make(t, "k8s-apply", ["ENV=production"], { KINDS: OPERATORS });
    const { all } = render("environments/production");
    assert.deepEqual({ code, stderr, all: applied!.all }, { code: 0, stderr: "", all });
  });

  it("leaves out what a cluster without operators does not know, and says so", async (t) => {
    const { code, stderr, applied } = await make(t, "k8s-apply", ["ENV=production"]);
    const isForeign = ({ apiVersion }: Manifest) => OPERATORS.split(" ").includes(apiVersion);
    const [foreign, ours] = [true, false].map((wanted) =>
      render("environments/production").all.filter((object) => isForeign(object) === wanted)
    );
    assert.deepEqual({ code, all: applied!.all }, { code: 0, all: ours });
    assert.deepEqual(
      stderr.split("\n"),
      foreign!.map(({ apiVersion, kind }) => `Left out, ${apiVersion} is not on this cluster: ${kind}`),
    );
  });

  it("puts every name of the namespace into the one that was asked for", async (t) => {
    const { applied } = await make(t, "k8s-apply", ["ENV=production", "NAMESPACE=mine"], { KINDS: OPERATORS });
    assert.deepEqual(broken(applied!), []);
    assert.equal(applied!.find("Namespace").metadata.name, "mine");
  });
});

describe("Secrets by make", { skip: skipMake || !has("openssl", "version") && "openssl makes them" }, () => {
  const secret = (rendered: Rendered, name: string) => {
    const { type, data, metadata } = rendered.all.find(({ metadata }) => metadata.name === name) as Secret & Manifest;
    const text = (key: string) => Buffer.from(data![key]!, "base64").toString();
    return { type, data, namespace: metadata.namespace, keys: Object.keys(data!).sort(), text };
  };

  it("k8s-token makes a new token each time, and does not print it", async (t) => {
    const results = [await make(t, "k8s-token", ["ENV=production"]), await make(t, "k8s-token")];
    const tokens = results.map(({ code, stdout, stderr, applied }) => {
      const { namespace, keys, text } = secret(applied!, "server-token");
      assert.deepEqual({ code, stdout, stderr, keys }, { code: 0, stdout: "", stderr: "", keys: ["token"] });
      assert.match(text("token"), /^[0-9a-f]{64}$/);
      return { namespace, token: text("token") };
    });
    assert.notEqual(tokens[0]!.token, tokens[1]!.token);
    const namespaces = ["k8s-graceful-shutdown-test-production", "k8s-graceful-shutdown-test"];
    assert.deepEqual(tokens.map(({ namespace }) => namespace), namespaces);
  });

  it("k8s-tls-secret makes a certificate for the Service's names, and renews it by the same CA", async (t) => {
    const first = await make(t, "k8s-tls-secret", ["ENV=production"]);
    const [ca, server] = ["server-ca", "server-tls"].map((name) => secret(first.applied!, name));
    assert.deepEqual({ code: first.code, stdout: first.stdout, stderr: first.stderr }, {
      code: 0,
      stdout: "",
      stderr: "",
    });
    assert.deepEqual([ca!.keys, server!.keys], [["tls.crt", "tls.key"], ["ca.crt", "tls.crt", "tls.key"]]);
    for (const { type, namespace } of [ca!, server!]) {
      assert.deepEqual([type, namespace], ["kubernetes.io/tls", "k8s-graceful-shutdown-test-production"]);
    }
    assert.equal(server!.text("ca.crt"), ca!.text("tls.crt"));

    const { CA_CRT, CA_KEY } = { CA_CRT: ca!.data!["tls.crt"]!, CA_KEY: ca!.data!["tls.key"]! };
    const second = await make(t, "k8s-tls-secret", ["ENV=production"], { CA_CRT, CA_KEY });
    const renewed = secret(second.applied!, "server-tls");
    assert.deepEqual(second.applied!.all.map(({ metadata }) => metadata.name), ["server-tls"]);
    assert.notEqual(renewed.text("tls.key"), server!.text("tls.key"));

    const authority = new X509Certificate(ca!.text("tls.crt"));
    assert.ok(authority.ca);
    for (const { text } of [server!, renewed]) {
      const certificate = new X509Certificate(text("tls.crt"));
      assert.ok(certificate.verify(authority.publicKey) && certificate.checkIssued(authority), "is from the CA");
      assert.ok(certificate.checkPrivateKey(createPrivateKey(text("tls.key"))), "is of its key");
      const names = SERVER_NAMES("k8s-graceful-shutdown-test-production").map((name) => `DNS:${name}`);
      assert.equal(certificate.subjectAltName, names.join(", "));
      assert.deepEqual(certificate.keyUsage, ["1.3.6.1.5.5.7.3.1"]);
    }
  });

  it("k8s-tls-secret says why it could not", async (t) => {
    const { code, stderr, applied } = await make(t, "k8s-tls-secret", [], { CA_CRT: "bm8=", CA_KEY: "bm8=" });
    assert.deepEqual({ code, applied }, { code: 2, applied: undefined });
    assert.match(stderr, /ca\.crt|CA certificate|unable to load|Could not read/i);
  });

  it("k8s-tls-secret's certificate and k8s-token's token let a client in that calls the Service by its name", async (t) => {
    const folder = mkdtempSync(resolve("dist/secrets-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const write = ({ keys, text }: ReturnType<typeof secret>) => {
      for (const key of keys) writeFileSync(join(folder, key), text(key));
    };
    write(secret((await make(t, "k8s-tls-secret")).applied!, "server-tls"));
    write(secret((await make(t, "k8s-token")).applied!, "server-token"));
    const files = [`--tls-cert=${folder}/tls.crt`, `--tls-key=${folder}/tls.key`, `--token-file=${folder}/token`];
    const server = await startServer(t, ...files);
    const options: object = {
      ca: readFileSync(join(folder, "ca.crt")),
      servername: "server-service",
      headers: { authorization: `Bearer ${readFileSync(join(folder, "token"), "utf8")}` },
    };
    const { ws } = await connect(t, server.url.replace("ws:", "wss:"), options);
    assert.equal(ws.readyState, ws.OPEN);
  });

  it("k8s-filebeat gives Filebeat its Elasticsearch, and what lets it in", async (t) => {
    const folder = mkdtempSync(resolve("dist/credentials-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const credentials = 'output.elasticsearch.api_key: "id:key"\n';
    writeFileSync(join(folder, "file.yml"), credentials);
    const hosts = "https://one:9200,https://two:9200";
    const args = [`ELASTICSEARCH_HOSTS=${hosts}`, `CREDENTIALS=${folder}/file.yml`, "NAMESPACE=elsewhere"];
    const { code, applied } = await make(t, "k8s-filebeat", args);
    assert.equal(code, 0);
    const { namespace, text } = secret(applied!, "filebeat-credentials");
    assert.deepEqual([namespace, text("credentials.yml")], ["filebeat", credentials]);
    const all = applied!.all.filter(({ kind }) => kind !== "Secret");
    assert.deepEqual(broken({ ...applied!, all }), []);
    assert.equal(applied!.find<ConfigMap & Manifest>("ConfigMap", "elasticsearch").data!["ELASTICSEARCH_HOSTS"], hosts);

    const { code: refused, stderr, applied: nothing } = await make(t, "k8s-filebeat", [`ELASTICSEARCH_HOSTS=${hosts}`]);
    assert.deepEqual({ refused, nothing }, { refused: 2, nothing: undefined });
    assert.match(stderr, /^filebeat needs --hosts https:\/\/<host>:9200 and --credentials, a file /);
  });
});

describe("the workflow", () => {
  const workflow = readFileSync(".github/workflows/build-and-push.yml", "utf8");

  it("names every action by its commit, with the version beside it", () => {
    const actions = workflow.split("\n").filter((line) => line.includes("uses:") && !line.includes(" ./"));
    assert.notEqual(actions.length, 0);
    for (const line of actions) assert.match(line, /^ +- uses: [\w-]+\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/);
  });

  it("drills every disruption that ends by itself", () => {
    const drilled = [...workflow.matchAll(/^ +(\S+) +none +0 +\^PASS$/gm)].map(([, disrupt]) => disrupt);
    // A drain needs another node, and more than the drill's Role; a check disrupts nothing.
    assert.deepEqual([...drilled, "none", "watch", "drain", "check"].sort(), [...DISRUPTIONS].sort());
  });
});
