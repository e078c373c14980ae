import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import process from "node:process";
import { describe, it, type TestContext } from "node:test";
import type { Deployment } from "kubernetes-types/apps/v1.js";
import type { Job } from "kubernetes-types/batch/v1.js";
import type { ConfigMap, Container, Pod, PodTemplateSpec, Service, ServiceAccount } from "kubernetes-types/core/v1.js";
import type { PodDisruptionBudget } from "kubernetes-types/policy/v1.js";
import type { Role, RoleBinding } from "kubernetes-types/rbac/v1.js";
import { parseAllDocuments } from "yaml";
import { DISRUPTIONS, SETTINGS as CLIENT } from "../client.ts";
import { readSettings } from "../protocol.ts";
import { SETTINGS as SERVER } from "../server.ts";
import { run } from "./helper.ts";

type Manifest = { apiVersion: string; kind: string; metadata: { name: string; namespace?: string } };
interface Rendered {
  all: Manifest[];
  find: <T extends Manifest>(kind: string, name?: string) => T;
}

const works = (program: string, ...args: string[]) => {
  try {
    execFileSync(program, args, { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
};
const skip = !works("kubectl", "version", "--client") && "kubectl renders the manifests, and there is none here";
const skipMake = skip || !works("make", "--version") && "make runs the drill, and there is none here";

const FOLDERS = ["deploy", "deploy/drill", ...readdirSync("environments").map((name) => `environments/${name}`)];

/** All that a drill may do. */
const DRILL_MAY = [
  "pods: list, watch, delete, patch",
  "pods/eviction: create",
  "deployments.apps: get, patch",
  "deployments/scale.apps: patch",
  "endpointslices.discovery.k8s.io: list, watch",
  "events: list, watch",
];

function render(folder: string): Rendered {
  return read(execFileSync("kubectl", ["kustomize", folder], { encoding: "utf8", stdio: "pipe" }));
}

function read(text: string): Rendered {
  const all = parseAllDocuments(text).map((document) => {
    assert.deepEqual(document.errors, []);
    return document.toJS() as Manifest;
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
  const folder = mkdtempSync(resolve("dist/manifests-"));
  try {
    const lines = objects.map(({ apiVersion, kind, ...rest }, index) => {
      const module = apiVersion.includes("/") ? apiVersion.replace(/\..*\//, "/") : `core/${apiVersion}`;
      const literal = JSON.stringify({ apiVersion, kind, ...rest }, undefined, 1);
      return `import type { ${kind} as Kind${index} } from "kubernetes-types/${module}";\nexport const object${index}: Kind${index} = ${literal};\n`;
    });
    writeFileSync(join(folder, "objects.ts"), lines.join("\n"));
    const compilerOptions = { noEmit: true, strict: true, module: "nodenext", types: [], skipLibCheck: true };
    writeFileSync(join(folder, "tsconfig.json"), JSON.stringify({ compilerOptions, include: ["*.ts"] }));
    execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "-p", folder], {
      encoding: "utf8",
      stdio: "pipe",
    });
    return "";
  } catch (error) {
    return (error as { stdout: string }).stdout;
  } finally {
    rmSync(folder, { recursive: true });
  }
}

type Expect = (holds: boolean, promise: string) => void;

/** Every promise that a set of manifests breaks, deployments or a drill: empty for a good one. */
function broken(rendered: Rendered, namespace = "k8s-graceful-shutdown-test"): string[] {
  const wrong: string[] = [];
  const expect: Expect = (holds, promise) => holds || wrong.push(promise);
  if (rendered.all.some(({ kind }) => kind === "Job")) expectDrill(rendered, namespace, expect);
  else expectDeployments(rendered, expect);
  return wrong;
}

/** Every set: the API's types, and one namespace. */
function expectObjects({ all }: Rendered, namespace: string, expect: Expect): void {
  const types = complaints(all);
  expect(types === "", types);
  for (const { kind, metadata } of all) {
    if (kind !== "Namespace") expect(metadata.namespace === namespace, `${kind} ${metadata.name} is in ${namespace}`);
  }
}

/** Every role: one container, that role's settings, and restricted. */
function expectPod(
  { find }: Rendered,
  role: "server" | "client" | "drill",
  template: PodTemplateSpec,
  expect: Expect,
) {
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
    container.envFrom?.[0]?.configMapRef?.name === config.metadata.name,
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
  return { pod, container, values, ports };
}

function expectDeployments(rendered: Rendered, expect: Expect): void {
  const { find } = rendered;
  expectObjects(rendered, find("Namespace").metadata.name, expect);
  for (const role of ["server", "client"] as const) {
    const deployment = find<Deployment & Manifest>("Deployment", role);
    const { pod, container, values, ports } = expectPod(rendered, role, deployment.spec!.template, expect);

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

    const service = find<Service & Manifest>("Service", "server-service").spec!;
    expect(
      service.selector?.["app"] === "server" && service.ports?.[0]?.targetPort === "websocket",
      "the Service finds the servers",
    );
    const { SERVER_URL } = find<ConfigMap & Manifest>("ConfigMap", "client-settings").data!;
    expect(
      SERVER_URL === `ws://server-service:${service.ports?.[0]?.port}/ws`,
      "the client's SERVER_URL is the Service",
    );
    const budget = find<PodDisruptionBudget & Manifest>("PodDisruptionBudget").spec!;
    expect(
      budget.selector?.matchLabels?.["app"] === "server" && budget.maxUnavailable === 1,
      "the PodDisruptionBudget guards the servers",
    );
  }
}

function expectDrill(rendered: Rendered, namespace: string, expect: Expect): void {
  const { all, find } = rendered;
  expectObjects(rendered, namespace, expect);
  const kinds = all.map(({ kind }) => kind).sort().join(" ");
  if (kinds !== "ConfigMap Job Role RoleBinding ServiceAccount") return expect(false, `drill: not ${kinds}`);

  const job = find<Job & Manifest>("Job", "drill").spec!;
  const { pod, container, values } = expectPod(rendered, "drill", job.template, expect);
  const graceSeconds = pod.terminationGracePeriodSeconds ?? 30;
  const endsSeconds = inSeconds(values["TIMEOUT_MS"]) + graceSeconds;
  expect(job.backoffLimit === 0 && pod.restartPolicy === "Never", "drill: one try");
  expect(endsSeconds > graceSeconds, "drill: a TIMEOUT_MS, so that it reports");
  expect(
    (job.activeDeadlineSeconds ?? 0) > endsSeconds,
    `drill: a deadline above TIMEOUT_MS + grace = ${endsSeconds} s`,
  );
  expect((job.ttlSecondsAfterFinished ?? 0) > 0, "drill: gone some time after its end");
  const evictable = job.template.metadata?.annotations?.["cluster-autoscaler.kubernetes.io/safe-to-evict"];
  expect(evictable === "false", "drill: not disrupted itself");

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

const inSeconds = (milliseconds: string | undefined): number => Number(milliseconds) / 1000;

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
    securityContext.capabilities?.drop?.join() === "ALL" && !pod.hostNetwork && !pod.hostPID && !pod.volumes;
}

describe("manifests", { skip }, () => {
  for (const folder of FOLDERS) {
    it(`in ${folder} keep every promise`, () => assert.deepEqual(broken(render(folder)), []));
  }

  it("of the drill judge what deploy/ deploys", () => {
    const { find } = render("deploy");
    const drill = render("deploy/drill");
    const { DISRUPT, TARGET_DEPLOYMENT, TARGET_SELECTOR, SERVER_URL } = drill.find<ConfigMap & Manifest>("ConfigMap")
      .data!;
    const { labels } = find<Deployment & Manifest>("Deployment", TARGET_DEPLOYMENT).spec!.template.metadata!;
    const image = (template: PodTemplateSpec) => template.spec!.containers[0]!.image;
    assert.notEqual(DISRUPT, "none");
    assert.equal(TARGET_SELECTOR, `app=${labels!["app"]}`);
    assert.equal(SERVER_URL, find<ConfigMap & Manifest>("ConfigMap", "client-settings").data!["SERVER_URL"]);
    assert.equal(
      image(drill.find<Job & Manifest>("Job").spec!.template),
      image(find<Deployment & Manifest>("Deployment", "client").spec!.template),
    );
  });

  /** `deploy` with one text replaced in one file, rendered: the whole, or its drill. */
  function spoilt(t: TestContext, file: string, from: string, to: string): Rendered {
    const folder = mkdtempSync(resolve("dist/deploy-"));
    t.after(() => rmSync(folder, { recursive: true }));
    cpSync("deploy", folder, { recursive: true });
    const text = readFileSync(join(folder, file), "utf8");
    assert.ok(text.includes(from), `${file} has ${from}`);
    writeFileSync(join(folder, file), text.replace(from, to));
    return render(join(folder, dirname(file)));
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
      /--dialect must be one of auto, v1, plain/,
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
  ];
  for (const [what, file, from, to, complaint] of SPOILT) {
    it(`with ${what} in ${file} are refused`, (t) => {
      assert.match(broken(spoilt(t, file, from, to)).join("\n"), complaint);
    });
  }

  it("roll the pods when a setting changes", (t) => {
    const name = (rendered: Rendered) => rendered.find("ConfigMap", "server-settings").metadata.name;
    assert.notEqual(name(spoilt(t, "server-settings.env", "SPREAD_MS=0", "SPREAD_MS=1")), name(render("deploy")));
  });
});

/** A cluster's answers: it keeps what is applied, and every pod of it has the state that it is told. */
const FAKE_KUBECTL = `#!/bin/sh
case $1 in
  kustomize) exec kubectl "$@" ;;
  apply) cat >"$APPLIED" ;;
  get) echo "$STATE" ;;
  logs) echo "the report" ;;
  describe) echo "violates PodSecurity" ;;
esac
`;

describe("make k8s-drill", { skip: skipMake }, () => {
  async function drill(t: TestContext, state: object, args: string[], env: Record<string, string> = {}) {
    const folder = mkdtempSync(resolve("dist/drill-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const applied = join(folder, "applied.yaml");
    writeFileSync(join(folder, "kubectl"), FAKE_KUBECTL, { mode: 0o755 });
    const command = ["make", "--silent", "k8s-drill", `KUBECTL=${folder}/kubectl`, "DRILL_START_S=2", ...args];
    const result = await run(t, command, { APPLIED: applied, STATE: JSON.stringify(state), ...env });
    return { ...result, applied: existsSync(applied) ? read(readFileSync(applied, "utf8")) : undefined };
  }
  const exited = (exitCode: number) => ({
    terminated: { containerID: "containerd://1", exitCode, reason: "Completed" },
  });

  it("hands its parameters to the drill, and prints the report", async (t) => {
    const parameters = {
      DISRUPT: "rollout",
      SERVER_URL: `ws://my-app/it's?a=b&c="d"`,
      TARGET: "my-app",
      SELECTOR: "app=my-app,tier in (a,b)",
    };
    const args = Object.entries({ ...parameters, ENV: "production", NAMESPACE: "mine" });
    const { code, stdout, applied } = await drill(t, exited(0), args.map((pair) => pair.join("=")), {
      SESSIONS: "100",
    });
    assert.deepEqual({ code, stdout }, { code: 0, stdout: "the report\n" });
    assert.deepEqual(broken(applied!, "mine"), []);

    const before = render("deploy/drill").find<ConfigMap & Manifest>("ConfigMap").data!;
    const { TARGET, SELECTOR, ...rest } = parameters;
    const given = { ...rest, TARGET_DEPLOYMENT: TARGET, TARGET_SELECTOR: SELECTOR, SESSIONS: "100" };
    assert.deepEqual(applied!.find<ConfigMap & Manifest>("ConfigMap").data, { ...before, ...given });
    const { image, imagePullPolicy } = applied!.find<Job & Manifest>("Job").spec!.template.spec!.containers[0]!;
    assert.match(image!, /:1\.0\.0$/);
    assert.equal(imagePullPolicy, "IfNotPresent");
  });

  it("runs as deploy/drill says when nothing is given", async (t) => {
    const { code, applied } = await drill(t, exited(0), []);
    assert.deepEqual({ code, all: applied!.all }, { code: 0, all: render("deploy/drill").all });
  });

  it("fails when the drill does", async (t) => {
    const { code, stdout } = await drill(t, exited(1), ["DISRUPT=force", "ENV=local"]);
    assert.deepEqual({ code, stdout }, { code: 2, stdout: "the report\nThe drill's exit code: 1\n" });
  });

  it("does not wait for ever for a pod that does not start", async (t) => {
    const { code, stdout } = await drill(t, { waiting: { reason: "ImagePullBackOff" } }, ["DISRUPT=delete"]);
    assert.deepEqual({ code, stdout }, {
      code: 2,
      stdout: "violates PodSecurity\nThe drill did not start: see above\n",
    });
  });

  it("prints its usage for a disruption that does not exist", async (t) => {
    const { code, stdout, applied } = await drill(t, exited(0), ["DISRUPT=none"]);
    assert.deepEqual({ code, applied }, { code: 2, applied: undefined });
    const [, names] = / DISRUPT=(\S+)/.exec(stdout)!;
    assert.deepEqual([...names!.split("|"), "none"].sort(), [...DISRUPTIONS].sort());
  });
});

describe("the workflow", () => {
  const workflow = readFileSync(".github/workflows/build-and-push.yml", "utf8");

  it("names every action by its commit, with the version beside it", () => {
    const actions = workflow.split("\n").filter((line) => line.includes("uses:"));
    assert.notEqual(actions.length, 0);
    for (const line of actions) assert.match(line, /^ +- uses: [\w-]+\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/);
  });

  it("drills every disruption that ends by itself", () => {
    const drilled = [...workflow.matchAll(/^ +(\S+) +none +0 +\^PASS$/gm)].map(([, disrupt]) => disrupt);
    assert.deepEqual([...drilled, "none", "watch"].sort(), [...DISRUPTIONS].sort());
  });
});
