import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import process from "node:process";
import { describe, it, type TestContext } from "node:test";
import type { Deployment } from "kubernetes-types/apps/v1.js";
import type { ConfigMap, Container, Pod, Service } from "kubernetes-types/core/v1.js";
import type { PodDisruptionBudget } from "kubernetes-types/policy/v1.js";
import { parseAllDocuments } from "yaml";
import { SETTINGS as CLIENT } from "../client.ts";
import { readSettings } from "../protocol.ts";
import { SETTINGS as SERVER } from "../server.ts";

type Manifest = { apiVersion: string; kind: string; metadata: { name: string; namespace?: string } };
interface Rendered {
  all: Manifest[];
  find: <T extends Manifest>(kind: string, name?: string) => T;
}

const kubectl = (() => {
  try {
    return execFileSync("kubectl", ["version", "--client"], { encoding: "utf8", stdio: "pipe" });
  } catch {
    return undefined;
  }
})();
const skip = kubectl === undefined && "kubectl renders the manifests, and there is none here";

const FOLDERS = ["deploy", ...readdirSync("environments").map((name) => `environments/${name}`)];

function render(folder: string): Rendered {
  const text = execFileSync("kubectl", ["kustomize", folder], { encoding: "utf8", stdio: "pipe" });
  const all = parseAllDocuments(text).map((document) => {
    assert.deepEqual(document.errors, []);
    return document.toJS() as Manifest;
  });
  const find = <T extends Manifest>(kind: string, name?: string) => {
    const found = all.filter((object) =>
      object.kind === kind && (name === undefined || object.metadata.name.startsWith(name))
    );
    assert.equal(found.length, 1, `${kind} ${name ?? ""} in ${folder}`);
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

const milliseconds = (text: string | undefined): number => Number(text) / 1000;

/** Every promise that a set of manifests breaks: empty for a good one. */
function broken({ all, find }: Rendered): string[] {
  const wrong: string[] = [];
  const expect = (holds: boolean, promise: string) => holds || wrong.push(promise);
  const types = complaints(all);
  if (types !== "") wrong.push(types);

  const namespace = find("Namespace").metadata.name;
  for (const { kind, metadata } of all) {
    if (kind !== "Namespace") expect(metadata.namespace === namespace, `${kind} ${metadata.name} is in ${namespace}`);
  }
  for (const [role, settings] of [["server", SERVER], ["client", CLIENT]] as const) {
    const deployment = find<Deployment & Manifest>("Deployment", role);
    const template = deployment.spec!.template;
    const pod = template.spec!;
    const container = pod.containers[0]!;
    const config = find<ConfigMap & Manifest>("ConfigMap", `${role}-settings`);
    const values = config.data ?? {};

    expect(pod.containers.length === 1 && pod.initContainers === undefined, `${role}: one container`);
    expect(container.args?.join() === `${role}.js` && container.command === undefined, `${role}: args name its bundle`);
    expect(
      container.envFrom?.[0]?.configMapRef?.name === config.metadata.name,
      `${role}: its settings come from its ConfigMap`,
    );
    const known = Object.values(settings).map(({ env }) => env as string);
    const given = [...Object.keys(values), ...(container.env ?? []).map(({ name }) => name)];
    for (const name of given) expect(known.includes(name), `${role}: ${name} is a setting`);
    expect(new Set(given).size === given.length, `${role}: no setting twice`);
    wrong.push(...refused(settings, values).map((message) => `${role}: ${message}`));

    const ports = Object.fromEntries((container.ports ?? []).map(({ name, containerPort }) => [name!, containerPort]));
    expect(String(ports["admin"]) === values["ADMIN_PORT"], `${role}: port admin is ADMIN_PORT`);
    for (const probe of [container.readinessProbe, container.livenessProbe, container.startupProbe]) {
      if (probe === undefined) continue;
      expect(["/healthz", "/readyz"].includes(probe.httpGet?.path ?? ""), `${role}: its probes ask paths that exist`);
      expect(probe.httpGet?.port === "admin", `${role}: its probes ask the admin port`);
    }
    expect(container.readinessProbe?.httpGet?.path === "/readyz", `${role}: readiness asks /readyz`);
    expect(container.livenessProbe?.httpGet?.path === "/healthz", `${role}: liveness asks /healthz`);

    const { matchLabels } = deployment.spec!.selector;
    expect(
      matchLabels?.["app"] === role && template.metadata?.labels?.["app"] === role,
      `${role}: selector and labels match`,
    );
    expect(deployment.spec!.strategy?.rollingUpdate?.maxUnavailable === 0, `${role}: maxUnavailable is 0`);
    expect(isRestricted(pod, container), `${role}: restricted Pod Security and a read-only root`);
    expect(pod.automountServiceAccountToken === false, `${role}: no service account token`);
    expect(container.resources?.limits?.["memory"] !== undefined, `${role}: a memory limit`);

    if (role === "client") continue;
    const { seconds = 0 } = container.lifecycle?.preStop?.sleep ?? {};
    const needs = seconds + milliseconds(values["DRAIN_TIMEOUT_MS"]) + milliseconds(values["CLOSE_TIMEOUT_MS"]);
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
  return wrong;
}

/** What the program itself has against the values of its ConfigMap. */
function refused(table: typeof SERVER | typeof CLIENT, values: Record<string, string>): string[] {
  const flags = Object.values(table).flatMap(({ flag, env }) => env in values ? [`--${flag}=${values[env]}`] : []);
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

  /** `deploy` with one text replaced in one file, rendered. */
  function spoilt(t: TestContext, file: string, from: string, to: string): Rendered {
    const folder = mkdtempSync(resolve("dist/deploy-"));
    t.after(() => rmSync(folder, { recursive: true }));
    cpSync("deploy", folder, { recursive: true });
    const text = readFileSync(join(folder, file), "utf8");
    assert.ok(text.includes(from), `${file} has ${from}`);
    writeFileSync(join(folder, file), text.replace(from, to));
    return render(folder);
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
  ];
  for (const [what, file, from, to, complaint] of SPOILT) {
    it(`with ${what} are refused`, (t) => assert.match(broken(spoilt(t, file, from, to)).join("\n"), complaint));
  }

  it("roll the pods when a setting changes", (t) => {
    const name = (rendered: Rendered) => rendered.find("ConfigMap", "server-settings").metadata.name;
    assert.notEqual(name(spoilt(t, "server-settings.env", "SPREAD_MS=0", "SPREAD_MS=1")), name(render("deploy")));
  });
});
