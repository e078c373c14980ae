/**
 * The drill on a cluster, from where one sits: renders the Job, applies it, follows it, brings its result here, removes it,
 * and exits with the verdict. Every change of the cluster that this project's make targets promise is here as well.
 *
 * ```
 * node drill.mjs --disrupt rollout --namespace shop --target deployment/shop-api --url ws://shop-api/socket
 * node drill.mjs load --pods 4 --sessions 1000
 * ```
 *
 * kubectl is all that it needs: it renders (`kustomize`), and it reads YAML (`patch --local` with an empty patch writes as
 * JSON what it was given, asks no cluster, and knows every kind), so no parser has to come along.
 *
 * @module
 */
import { execFile, spawn, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import process from "node:process";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import kleur from "kleur";
import mri from "mri";
import {
  builtHelp,
  checkReports,
  isStdout,
  protocol,
  RECORD,
  RecordReader,
  render,
  settingsIn,
  writeReport,
  writeReports,
} from "./report.mjs";

/**
 * @typedef {import("./client.ts").Result} Result
 * @typedef {import("kubernetes-types/core/v1.js").Pod} Pod
 * @typedef {import("kubernetes-types/core/v1.js").Service} Service
 * @typedef {import("kubernetes-types/core/v1.js").ServicePort} ServicePort
 * @typedef {import("kubernetes-types/core/v1.js").Container} Container
 * @typedef {import("kubernetes-types/batch/v1.js").Job} Job
 * @typedef {import("kubernetes-types/meta/v1.js").LabelSelector} LabelSelector
 * @typedef {{ name: string, namespace?: string, uid?: string, labels?: Record<string, string>, [field: string]: any }} Metadata
 * @typedef {{ apiVersion: string, kind: string, metadata: Metadata, [field: string]: any }} Manifest
 * @typedef {Record<string, { env: string, fallback: string }>} ClientSettings
 * @typedef {{ kind: string, name: string, object: Manifest, selector: LabelSelector }} Workload
 */

const {
  called,
  count,
  duration,
  joinValues,
  milliseconds,
  printable,
  redactUrl,
  run,
  selectorInWords,
  toJson,
  UserError,
  useColour,
} = protocol;

/** Whose images `--image` replaces. */
const REPOSITORY = "ghcr.io/donileongdeepernetwork/k8s-graceful-shutdown-test";
const NAMESPACE = "k8s-graceful-shutdown-test";
const DEFAULT_TARGET = "deployment/server-deployment";

/** This command's own settings: default and meaning. */
const OWN = {
  kubectl: ["kubectl", "the command that reaches the cluster"],
  context: ["", "of the kubeconfig; default: its current one"],
  namespace: ["", `where the drill runs; default: the environment's; of your own --target: kubectl's`],
  target: ["", `what is disrupted: KIND/NAME; default: ${DEFAULT_TARGET}`],
  env: ["", "the environment whose image and connection are used: of environments/, or a folder; default: deploy/"],
  image: ["", "another image than the environment's"],
  "start-timeout": ["120s", "how long a pod may take to start, pulling its image included"],
  pods: ["", "load: pods, each with --sessions; default: 4"],
  hosts: ["", "filebeat: Elasticsearch's URLs, by commas"],
  credentials: ["", "filebeat: the file with what lets it in"],
};
const SWITCHES = {
  keep: "leave the Job, its pod and its log on the cluster",
  json: "print the result as one JSON object on stdout",
  help: "print this and exit (-h)",
};
const TO_CLUSTER = ["kubectl", "context", "namespace", "env"];
/**
 * What can be asked for; `runsClient`: every setting of the client is handed through.
 * @type {Record<string, { does: string, run: (options: any) => Promise<void>, own: string[], runsClient?: boolean }>}
 */
const COMMANDS = {
  drill: {
    does: "disrupt a pod from inside the cluster and judge it (the default)",
    run: drill,
    own: [...TO_CLUSTER, "target", "image", "start-timeout", "keep", "json"],
    runsClient: true,
  },
  load: {
    does: "hold thousands of sessions from many pods and judge them",
    run: load,
    own: [...TO_CLUSTER, "image", "start-timeout", "pods", "keep", "json"],
    runsClient: true,
  },
  apply: { does: "deploy the environment", run: apply, own: [...TO_CLUSTER, "image"] },
  delete: { does: "remove it again", run: remove, own: [...TO_CLUSTER, "image"] },
  token: { does: "make the token that clients show, or change it", run: makeToken, own: TO_CLUSTER },
  "tls-secret": { does: "make or renew the servers' certificate", run: makeCertificate, own: TO_CLUSTER },
  filebeat: {
    does: "ship the logs of this cluster's pods to Elasticsearch",
    run: filebeat,
    own: ["kubectl", "context", "hosts", "credentials"],
  },
};
/** What a drill can do, and what its target must be for it. */
const DISRUPTIONS = {
  delete: ["deployment", "statefulset", "daemonset"],
  evict: ["deployment", "statefulset", "daemonset"],
  rollout: ["deployment", "statefulset", "daemonset"],
  "scale-in": ["deployment", "statefulset"],
  force: ["deployment", "statefulset", "daemonset"],
  drain: ["deployment", "statefulset", "daemonset"],
  check: ["deployment", "statefulset", "daemonset"],
  watch: undefined,
};
/** Settings of the client that the manifests decide. */
const CHOSEN = ["admin-port", "evidence", "service-account"];
/** Settings that this command reads itself, and writes into the ConfigMap. */
const COMPUTED = ["url", "disrupt", "target", "target-deployment", "target-selector", "report", "check", "header"];
/** Settings that may be a file of this machine: it goes along in a Secret. */
const FILES = ["tls-ca", "tls-cert", "tls-key", "token-file", "dialect"];
const CARRIED = "/etc/drill";

/** The server knows each field by itself, and refuses what it does not know: no schema has to be downloaded first. */
const SERVER_SIDE = ["apply", "--server-side", "--force-conflicts", "--validate=false"];

const LOOK_INTERVAL_MS = 1000;
/** What a drill's Job may take beyond the drill's own limit, to undo and to end. */
const DEADLINE_SPARE_S = 600;
/** How often a wait that goes on is told of, where there is no terminal. */
const REMIND_INTERVAL_MS = 10_000;
/** One call, and how long the cluster may be out of reach in the middle of a drill. */
const REQUEST_TIMEOUT = "--request-timeout=15s";
const UNREACHABLE_MS = 10 * 60_000;
/** From a Job to its first pod, before the events are asked for the reason. */
const PODLESS_MS = 3000;
/** The pod's grace is 30 s; a busy node tells of an end late. */
const REMOVE_TIMEOUT = "--timeout=90s";
/** How long a log may go on after its pod has ended, and how often it is read again for what it lost. */
const LOG_END_MS = 10_000;
const LOG_READINGS = 3;
/** kubelet takes up to two minutes to bring a Secret to every pod: as long as components/auth keeps the old token good. */
const TOKEN_SPREAD_MS = 180_000;
/** Reasons of a waiting container that no wait mends; an image that cannot be pulled has been tried once by then. */
const HOPELESS = [
  "ImagePullBackOff",
  "InvalidImageName",
  "ErrImageNeverPull",
  "CreateContainerConfigError",
  "CreateContainerError",
  "RunContainerError",
];

/** The first signal: what was begun is taken back. */
class Interrupted extends UserError {}

async function main() {
  const options = readOptions(process.argv.slice(2));
  if (options === undefined) return;
  const screen = new Screen();
  const command = /** @type {(typeof COMMANDS)[string]} */ (COMMANDS[options.command]);
  const interrupt = new Interrupt(screen, command.runsClient === true);
  const kubectl = new Kubectl(options);
  try {
    await command.run({ ...options, kubectl, screen, interrupt });
  } finally {
    screen.clear();
    interrupt.end();
  }
}

// ---- The drill

/** @param {Context} options */
async function drill(options) {
  const { kubectl, screen, interrupt, given } = options;
  if (given.check !== undefined) return checkFiles(options);
  const disrupt = disruptionOf(options);
  const [file] = options.reports;
  if (disrupt === "check" && file !== undefined) {
    throw new UserError(`--report ${file}: a check has none, --json prints what it found`);
  }
  checkReports(options.reports, options.json);
  await kubectl.reach(interrupt.signal);
  // Somebody's own workload is where kubectl itself would look.
  if (isOwn(options)) await kubectl.useContextNamespace();
  const workload = await findWorkload(options, disrupt);
  const rendered = await renderJob(options, "deploy/drill");
  if (disrupt === "drain") rendered.objects.push(...await renderNodeRights(kubectl));
  const url = await findUrl(options, rendered, workload);
  const settings = {
    DISRUPT: disrupt,
    SERVER_URL: url,
    ...disrupt === "check" ? {} : { REPORT: RECORD },
    ...targetSettings(options, rendered.data, workload),
  };
  Object.assign(rendered.data, settings);
  await checkEndpoints(options, url);
  checkSettings(options, rendered);
  const run = new JobRun({ options, rendered, role: "drill", asText: disrupt === "check" });
  await awaitToken(options, rendered, workload);
  const nodes = disrupt === "drain" ? await schedulableNodes(options, workload) : [];
  const where = `${workload.kind}/${workload.name} in namespace ${kubectl.namespace}`;
  const pod = await run.hold(() => {
    screen.say(`${disrupt} of ${where}, through ${url.split(",").map(redactUrl).join(", ")}`);
    return run.followOne();
  }, async () => {
    await restoreReplicas(options, disrupt, workload);
    await restoreNodes(options, nodes);
  });
  if (disrupt === "check") return void (process.exitCode = pod.exitCode);
  if (pod.exitCode === 2) return void (process.exitCode = 2); // it has said why
  report(pod, options);
}

/**
 * Prints a drill's result, and writes the reports where they were asked for.
 * @param {PodEnd} pod
 * @param {Context} options
 */
function report({ result, exitCode, lost }, { reports, json }) {
  if (result === undefined) {
    const what = lost === null ? "its result never came" : `${count(lost, "line")} of its result did not come`;
    throw new UserError(`The drill ended with exit code ${exitCode}, but ${what}: its log was rotated or cut`);
  }
  result.settings.report = reports;
  process.exitCode = exitCode;
  writeReports(reports, result);
  useColour(process.stdout);
  process.stdout.write(json ? `${toJson(result)}\n` : render(result));
}

/**
 * Without a cluster: the client itself checks what it is given.
 * @param {Context} options
 */
async function checkFiles({ given, own, json }) {
  const flags = Object.entries(given).flatMap(([name, values]) => values.map((value) => `--${name}=${value}`));
  if (own["target"]) flags.push(`--target=${own["target"]}`);
  const child = spawn(process.execPath, [clientFile(), ...flags, ...json ? ["--json"] : []], { stdio: "inherit" });
  process.exitCode = await new Promise((resolve) => child.on("close", (code) => resolve(code ?? 2)));
}

/**
 * The client itself says what is wrong with its settings, before its Job is made: with those that it will have in the pod,
 * except for files that are there alone.
 * @param {Context} options
 * @param {Rendered} rendered
 */
function checkSettings({ given, known }, { data }) {
  const env = { ...process.env };
  const flags = [];
  for (const [name, { env: variable }] of Object.entries(known)) {
    const isOurs = name === "header" || !COMPUTED.includes(name);
    const isHere = (/** @type {string} */ value) =>
      name === "dialect"
        ? !value.endsWith(".json") || isFile(value)
        : !FILES.includes(name) && !/(^|: *|=)@/m.test(value);
    const value = (isOurs && process.env[variable]) || data[variable] || "";
    env[variable] = !CHOSEN.includes(name) && isHere(value) ? value : "";
    if (isOurs) flags.push(...(given[name] ?? []).filter(isHere).map((value) => `--${name}=${value}`));
  }
  const command = [clientFile(), ...flags, "--check-settings"];
  const { status, stderr } = spawnSync(process.execPath, command, { encoding: "utf8", env });
  if (status !== 0) throw new UserError(stderr.trim());
}

/** A target of one's own, with neither a namespace nor an environment. @param {Context} options */
function isOwn({ own, given }) {
  return own["namespace"] === "" && own.env === "" && askedTarget({ own, given }) !== "";
}

/** By the setting, or the older one that names a Deployment. @param {Pick<Context, "own" | "given">} options */
function askedTarget({ own, given }) {
  const { TARGET, TARGET_DEPLOYMENT } = process.env;
  return own["target"] || given["target-deployment"]?.at(-1) || TARGET || TARGET_DEPLOYMENT || "";
}

/** @param {Context} options */
function disruptionOf({ given }) {
  const disrupt = given["disrupt"]?.at(-1) || process.env["DISRUPT"] || "delete";
  if (Object.hasOwn(DISRUPTIONS, disrupt)) return /** @type {keyof typeof DISRUPTIONS} */ (disrupt);
  const names = Object.keys(DISRUPTIONS).join("|");
  throw new UserError(`--disrupt must be ${names}: current value is '${disrupt}'`);
}

// ---- What is disrupted, and the way to it

/**
 * The target, as the cluster has it. Throws `UserError` where it does not exist or cannot be disrupted so.
 * @param {Context} options
 * @param {keyof typeof DISRUPTIONS} disrupt
 * @returns {Promise<Workload>}
 */
async function findWorkload({ kubectl, own, given, interrupt }, disrupt) {
  const target = askedTarget({ own, given }) || DEFAULT_TARGET;
  const [kind, name] = target.includes("/") ? target.split("/", 2) : ["deployment", target];
  if (!kind || !name) throw new UserError(`--target must be KIND/NAME: current value is '${target}'`);
  const kinds = DISRUPTIONS[disrupt];
  if (kinds !== undefined && !kinds.includes(kind)) {
    const can = `--disrupt ${disrupt} takes a ${kinds.join(", ")}`;
    throw new UserError(`Cannot ${disrupt} ${target}: ${can}; --disrupt watch looks on while you do it`);
  }
  const text = await kubectl.read(["get", kind, name, "-o", "json", "--ignore-not-found"], interrupt.signal);
  if (text.trim() === "") throw new UserError(`There is no ${kind} ${name} in ${await whichNamespace(kubectl)}`);
  const object = JSON.parse(text);
  const selector = object.spec?.selector ?? {};
  if (selector.matchLabels === undefined && selector.matchExpressions === undefined) {
    throw new UserError(`${target} has no selector: --target-selector says which pods are its`);
  }
  return { kind, name, object, selector };
}

/** @param {Kubectl} kubectl */
async function whichNamespace(kubectl) {
  const { namespace } = kubectl;
  const found = await kubectl.readable(["get", "namespace", namespace, "-o", "name", "--ignore-not-found"]);
  return found === "" ? `namespace ${namespace}, which does not exist` : `namespace ${namespace}`;
}

/**
 * What the client is told of its target: of kinds that it does not know, their pods alone.
 * @param {Context} options
 * @param {Record<string, string>} data
 * @param {Workload} workload
 */
function targetSettings({ given }, data, { kind, name, selector }) {
  const asked = given["target-selector"]?.at(-1) || process.env["TARGET_SELECTOR"];
  /** @type {Record<string, string>} */
  const settings = { TARGET_SELECTOR: asked || selectorInWords(selector) };
  const isKnown = DISRUPTIONS.rollout.includes(kind);
  // An image of an older release has only the Deployment's setting.
  if ("TARGET_DEPLOYMENT" in data && kind === "deployment") settings["TARGET_DEPLOYMENT"] = name;
  else if (isKnown) settings["TARGET"] = `${kind}/${name}`;
  return settings;
}

/**
 * The URLs that were given; else the environment's, or those of the one Service that leads to the target's pods.
 * @param {Context} options
 * @param {Rendered} rendered
 * @param {Workload} workload
 */
async function findUrl({ kubectl, given, screen, interrupt }, rendered, workload) {
  const asked = given["url"]?.join(",") || process.env["SERVER_URL"];
  if (asked) return asked;
  if (`${workload.kind}/${workload.name}` === DEFAULT_TARGET) {
    return rendered.connect();
  }
  const labels = workload.object["spec"]?.template?.metadata?.labels ?? {};
  const services = /** @type {Service[]} */ (await kubectl.list(["get", "services"], interrupt.signal));
  const leading = services.filter(({ spec }) => {
    const wanted = Object.entries(spec?.selector ?? {});
    return wanted.length > 0 && wanted.every(([key, value]) => labels[key] === value);
  });
  const routed = leading.filter(({ spec }) => spec?.clusterIP !== "None");
  const urls = (routed.length > 0 ? routed : leading).flatMap((service) => socketUrls(service));
  if (urls.length === 1) {
    screen.say(`through ${redactUrl(`${urls[0]}`)}, the one Service that leads there (--url says another path)`);
    return /** @type {string} */ (urls[0]);
  }
  const of = `the pods of ${workload.kind}/${workload.name} in namespace ${kubectl.namespace}`;
  if (urls.length === 0) throw new UserError(`No Service leads to ${of}: --url says where to connect`);
  throw new UserError(`--url must say which way leads to ${of}: ${urls.join(", ")}`);
}

/**
 * The ports of a Service that may speak WebSocket: those that say so, else all that do not say otherwise.
 * @param {Service} service
 */
function socketUrls({ metadata, spec }) {
  const ports = (spec?.ports ?? []).filter(({ protocol = "TCP" }) => protocol === "TCP");
  const says = (/** @type {ServicePort} */ { appProtocol = "", name = "" }, /** @type {RegExp} */ pattern) =>
    pattern.test(appProtocol) || pattern.test(name);
  const sure = ports.filter((port) => says(port, /(^|\/|-)(wss?|websocket)$/));
  const chosen = sure.length > 0 ? sure : ports.filter((port) => !says(port, /grpc|metrics|admin|health|redis|sql/));
  return chosen.map((port) => {
    const isSecure = port.port === 443 || says(port, /wss|https/);
    const shown = port.port === (isSecure ? 443 : 80) ? "" : `:${port.port}`;
    return `${isSecure ? "wss" : "ws"}://${metadata?.name}${shown}/`;
  });
}

/**
 * A Service that leads nowhere is told before anything is made.
 * @param {Context} options
 * @param {string} urls
 */
async function checkEndpoints({ kubectl, interrupt }, urls) {
  for (const url of urls.split(",")) {
    if (!URL.canParse(url) || !/^wss?:\/\/[^#@]+$/i.test(url)) {
      const rule = "must be a ws:// or wss:// URL without credentials or a fragment";
      throw new UserError(`--url ${rule}: current value is '${redactUrl(url).replace(/\/\/[^/]*@/, "//…@")}'`);
    }
    const [name, namespace = kubectl.namespace, ...domain] = new URL(url).hostname.split(".");
    const isService = namespace === kubectl.namespace && (domain.length === 0 || domain[0] === "svc");
    if (!isService) continue;
    const found = await kubectl.readable(["get", "service", `${name}`, "-o", "name", "--ignore-not-found"]);
    if (found === "") {
      throw new UserError(`There is no Service ${name} in ${await whichNamespace(kubectl)}: --url ${redactUrl(url)}`);
    }
    const slices = await kubectl.readable([
      "get",
      "endpointslices",
      "-l",
      `kubernetes.io/service-name=${name}`,
      "-o",
      "json",
    ]);
    if (slices === undefined) continue;
    const endpoints = JSON.parse(slices).items.flatMap((/** @type {any} */ { endpoints }) => endpoints ?? []);
    if (endpoints.some((/** @type {any} */ { conditions }) => conditions?.ready !== false)) continue;
    const why = "its selector finds no pod, or none is ready";
    throw new UserError(`Service ${name} in namespace ${kubectl.namespace} has no ready endpoint: ${why}`);
  }
  interrupt.signal.throwIfAborted();
}

/**
 * What a killed drill could not take back itself.
 * @param {Context} options
 * @param {string} disrupt
 * @param {Workload} workload
 */
async function restoreReplicas({ kubectl, screen }, disrupt, { kind, name, object }) {
  if (disrupt !== "scale-in") return;
  const before = object["spec"].replicas ?? 1;
  const now = JSON.parse(await kubectl.read(["get", kind, name, "-o", "json"])).spec.replicas;
  if (now !== before - 1) return;
  await kubectl.change(["scale", kind, name, `--current-replicas=${now}`, `--replicas=${before}`]);
  screen.say(`${kind}/${name} has ${count(before, "replica")} again: its drill could not give it back`);
}

/**
 * The nodes of a workload's pods that take new ones; none where this person may not look at nodes.
 * @param {Context} options
 * @param {Workload} workload
 * @returns {Promise<string[]>}
 */
async function schedulableNodes({ kubectl, interrupt }, { selector }) {
  const pods =
    /** @type {any[]} */ (await kubectl.list(["get", "pods", "-l", selectorInWords(selector)], interrupt.signal));
  const names = [...new Set(pods.map(({ spec }) => spec?.nodeName).filter(Boolean))];
  return names.length === 0 ? [] : (await nodesNow(kubectl, names)).filter(({ cordoned }) => !cordoned)
    .map(({ name }) => name);
}

/**
 * @param {Kubectl} kubectl
 * @param {string[]} names
 * @returns {Promise<{ name: string, cordoned: boolean }[]>}
 */
async function nodesNow(kubectl, names) {
  const text = await kubectl.readable(["get", "nodes", ...names, "-o", "json", "--ignore-not-found"]);
  if (!text) return [];
  const found = JSON.parse(text);
  return (found.items ?? [found]).map((/** @type {any} */ { metadata, spec }) => {
    return { name: metadata.name, cordoned: spec?.unschedulable === true };
  });
}

/**
 * What a killed drill could not take back itself.
 * @param {Context} options
 * @param {string[]} names of the nodes that took pods before
 */
async function restoreNodes({ kubectl, screen }, names) {
  if (names.length === 0) return;
  for (const { name } of (await nodesNow(kubectl, names)).filter(({ cordoned }) => cordoned)) {
    try {
      await kubectl.change(["uncordon", name]);
      screen.say(`node ${name} takes pods again: its drill could not see to it`);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      screen.say(`node ${name} is still cordoned, 'kubectl uncordon ${name}' ends it: ${error.message}`);
    }
  }
}

/**
 * Servers get a token later than a new pod does: a drill amid a rotation would be told 401 by those that do not have it yet.
 * Waits until each has said that it has, at most for as long as the old one is good. Where that cannot be seen it goes on.
 * @param {Context} options
 * @param {Rendered} rendered
 * @param {Workload} workload
 */
async function awaitToken({ kubectl, screen, interrupt }, { data, job }, { selector }) {
  const { volumes = [], containers } = job.spec?.template.spec ?? { containers: [] };
  const file = data["TOKEN_FILE"] ?? "";
  const mount = containers[0]?.volumeMounts?.find(({ mountPath }) => file.startsWith(`${mountPath}/`));
  const secret = volumes.find(({ name }) => name === mount?.name)?.secret?.secretName;
  if (file === "" || secret === undefined) return;
  const text = await kubectl.readable([
    "get",
    "secret",
    secret,
    "-o",
    "json",
    "--show-managed-fields",
    "--ignore-not-found",
  ]);
  if (text === undefined || text === "") return;
  const { creationTimestamp, managedFields = [] } = JSON.parse(text).metadata;
  const times = managedFields.map((/** @type {any} */ { time }) => time).filter(Boolean);
  const changed = [creationTimestamp, ...times].sort().at(-1);
  const pods =
    /** @type {Pod[]} */ (await kubectl.list(["get", "pods", "-l", selectorInWords(selector)], interrupt.signal));
  const waiting = new Set(pods.filter((pod) => startedAt(pod) < changed).map(({ metadata }) => metadata?.name ?? ""));
  const ageMs = () => Date.now() - Date.parse(changed);
  while (waiting.size > 0 && ageMs() < TOKEN_SPREAD_MS) {
    for (const pod of waiting) {
      const since = `--since-time=${changed}`;
      const log = await kubectl.readable(["logs", pod, since, "--all-containers", REQUEST_TIMEOUT]).catch(() =>
        undefined
      );
      if (log !== undefined && /\btoken-loaded\b/.test(log)) waiting.delete(pod);
    }
    if (waiting.size === 0) return;
    const age = duration(ageMs());
    screen.wait(`${count(waiting.size, "pod")} to have the token of ${secret}, which is ${age} old`, changed);
    await pause(LOOK_INTERVAL_MS, interrupt.signal);
  }
}

/** @param {Pod} pod */
function startedAt({ status }) {
  const times = (status?.containerStatuses ?? []).map(({ state }) => String(state?.running?.startedAt ?? ""));
  return times.filter(Boolean).sort()[0] ?? "9999"; // what does not run yet will read the new one
}

// ---- The load

/** @param {Context} options */
async function load(options) {
  const { kubectl, interrupt, given, json, reports, own } = options;
  checkReports(reports);
  const stdout = reports.find(isStdout);
  if (stdout !== undefined) {
    throw new UserError(`--report ${stdout}: a load has a report for each pod, they need a file`);
  }
  await kubectl.reach(interrupt.signal);
  const rendered = await renderJob(options, "deploy/components/load/job");
  const url = given["url"]?.join(",") || process.env["SERVER_URL"] || rendered.connect();
  Object.assign(rendered.data, { SERVER_URL: url, REPORT: RECORD });
  if (own.pods !== "") {
    if (!/^[1-9]\d{0,3}$/.test(own.pods)) {
      throw new UserError(`--pods must be from 1 to 9999: current value is '${own.pods}'`);
    }
    Object.assign(rendered.job.spec ?? {}, { completions: Number(own.pods), parallelism: Number(own.pods) });
  }
  await checkEndpoints(options, url);
  checkSettings(options, rendered);
  const run = new JobRun({ options, rendered, role: "load", asText: false });
  const pods = await run.hold(() => run.followAll(), async () => {});
  const failed = pods.filter(({ exitCode }) => exitCode !== 0);
  const verdict = failed.length === 0 ? "PASS" : "FAIL";
  const held = pods.reduce((sum, { result }) => sum + (result?.sessions.had ?? 0), 0);
  const who = failed.length === 0
    ? `${count(pods.length, "pod")}, ${count(held, "session")}`
    : `${failed.length} of ${count(pods.length, "pod")}: ${failed.map(({ name }) => name).slice(0, 5).join(", ")}`;
  for (const [index, { result }] of pods.entries()) {
    if (result === undefined) continue;
    for (const file of reports) writeReport(file.replace(/(?=\.\w+$)/, `-${index}`), result);
  }
  process.exitCode = failed.length === 0 ? 0 : failed.every(({ exitCode }) => exitCode === 1) ? 1 : 2;
  const all = pods.map(({ name, exitCode, summary }) => ({ pod: name, exitCode, summary }));
  const lines = all.map(({ pod, summary }) => `${pod}  ${summary}\n`);
  process.stdout.write(json ? `${toJson({ verdict, pods: all })}\n` : `${lines.join("")}\n${verdict}  ${who}\n`);
}

// ---- A Job, from its objects to its end

/** @typedef {{ name: string, exitCode: number, result: Result | undefined, lost: number | null, summary: string }} PodEnd */
/** @typedef {{ job?: Job, pods: Pod[] }} Seen */

/** One run of a Job: made, watched, followed, and removed with all that was made for it. */
class JobRun {
  /** @type {Kubectl} */
  #kubectl;
  /** @type {Screen} */
  #screen;
  /** @type {AbortSignal} */
  #signal;
  #role;
  #asText;
  /** @type {Context} */
  #options;
  #rendered;
  #footprint;
  #uid = "";
  /** @type {PodLog[]} */
  #logs = [];
  #reachedAt = performance.now();

  /** @param {{ options: Context, rendered: Rendered, role: string, asText: boolean }} options */
  constructor({ options, rendered, role, asText }) {
    this.#options = options;
    this.#kubectl = options.kubectl;
    this.#screen = options.screen;
    this.#signal = options.interrupt.signal;
    this.#role = role;
    this.#asText = asText;
    this.#rendered = rendered;
    this.#footprint = new Footprint({ kubectl: options.kubectl, screen: options.screen });
    options.interrupt.left = () => this.#footprint.leftInWords();
  }

  /**
   * Makes the Job, does what is to be done with it, and removes it, however that ends.
   * @template T
   * @param {() => Promise<T>} action
   * @param {() => Promise<void>} restore
   * @returns {Promise<T>}
   */
  async hold(action, restore) {
    let isOver = false;
    try {
      this.#uid = await this.#footprint.make(this.#rendered.objects);
      this.#signal.throwIfAborted();
      const done = await action();
      isOver = true;
      return done;
    } finally {
      // The Job first: its pod takes back what it did, with the rights that go only after it.
      if (!isOver || !this.#options.keep) {
        this.#screen.wait(`the ${this.#role} to end and to go`);
        await this.#footprint.remove();
      }
      await Promise.all(this.#logs.map((log) => log.end()));
      await restore();
      this.#screen.clear();
    }
  }

  /** The only pod's end, its log shown meanwhile. */
  async followOne() {
    const [pod] = await this.#untilStarted();
    return this.#follow(/** @type {Pod} */ (pod), new SessionCount());
  }

  /** Every pod's end, in the order of their names. */
  async followAll() {
    await this.#untilStarted();
    /** @type {Map<string, Promise<PodEnd>>} */
    const ends = new Map();
    let waiting = "";
    for (;;) {
      const { job, pods } = await this.#look();
      for (const pod of pods) {
        const name = nameOf(pod);
        if (stateOf(pod)?.terminated !== undefined && !ends.has(name)) ends.set(name, this.#readLater(pod));
      }
      const wanted = job?.spec?.completions ?? 1;
      const running = pods.filter((pod) => stateOf(pod)?.running !== undefined).length;
      waiting = pods.map(whyWaiting).find((text) => text !== "") ?? waiting;
      const why = waiting && `, ${printable(waiting)}`;
      this.#screen.wait(`${wanted - ends.size} of ${count(wanted, "pod")} to end: ${running} running${why}`);
      if (isFinished(job)) break;
      await pause(LOOK_INTERVAL_MS, this.#signal);
    }
    const { job, pods } = await this.#look();
    for (const pod of pods) if (!ends.has(nameOf(pod))) ends.set(nameOf(pod), this.#readLater(pod));
    const all = await Promise.all(ends.values());
    all.sort((a, b) => a.name.localeCompare(b.name));
    // Who never ran, or was taken away between two looks, has no verdict: the others' is not theirs.
    const wanted = job?.spec?.completions ?? 1;
    const isUnexplained = failureOf(job) !== undefined && all.every(({ exitCode }) => exitCode === 0);
    const summary = printable([`no verdict: ${whyFinished(job)}`, waiting].filter(Boolean).join("; "));
    const none = { name: `${this.#role}-?`, exitCode: 2, result: undefined, lost: null, summary };
    return [...all, ...Array(Math.max(wanted - all.length, isUnexplained ? 1 : 0)).fill(none)];
  }

  /** The pods, once one of them runs or has ended. Throws `UserError` with the cluster's word where none does. */
  async #untilStarted() {
    const { startTimeoutMs } = this.#options;
    const begun = performance.now();
    this.#screen.wait(`the ${this.#role}'s pod to start`);
    for (;;) {
      const { job, pods } = await this.#look();
      if (pods.some((pod) => stateOf(pod)?.running !== undefined)) return pods;
      const podless = pods.length === 0 && performance.now() - begun > PODLESS_MS;
      const refusal = podless ? await this.#refusal() : undefined;
      if (refusal !== undefined) throw new UserError(`The cluster refuses the ${this.#role}'s pod: ${refusal}`);
      const why = pods.map(whyWaiting).find((text) => text !== "") ?? (podless ? "the Job has no pod" : "");
      const hopeless = pods.some((pod) => HOPELESS.includes(stateOf(pod)?.waiting?.reason ?? ""));
      if (pods.some((pod) => stateOf(pod)?.terminated !== undefined)) return pods;
      const failed = pods.find(({ status }) => status?.phase === "Failed");
      if (failed !== undefined) throw new UserError(`The ${this.#role}'s pod was ended: ${whyEnded(failed)}`);
      if (isFinished(job)) throw new UserError(`The ${this.#role} ended without a pod: ${whyFinished(job)}`);
      const tookMs = performance.now() - begun;
      if (hopeless || tookMs > startTimeoutMs) {
        const late = hopeless ? "" : ` within ${duration(startTimeoutMs)}`;
        throw new UserError(printable(`The ${this.#role}'s pod did not start${late}: ${why || "no reason is given"}`));
      }
      this.#screen.wait(`the ${this.#role}'s pod to start${why && `: ${printable(why)}`}`);
      await pause(LOOK_INTERVAL_MS, this.#signal);
    }
  }

  /** Why the Job has no pod, as its events say it: quota, Pod Security, a webhook. */
  async #refusal() {
    const fields = `involvedObject.uid=${this.#uid},reason=FailedCreate`;
    const text = await this.#kubectl.readable(["get", "events", "--field-selector", fields, "-o", "json"]);
    const message = text === undefined ? undefined : JSON.parse(text).items.at(-1)?.message;
    return message === undefined ? undefined : printable(String(message).replace(/^Error creating: /, ""));
  }

  /**
   * Shows a pod's log until the pod has ended.
   * @param {Pod} pod
   * @param {SessionCount} sessions
   */
  async #follow(pod, sessions) {
    const log = new PodLog({ kubectl: this.#kubectl, pod: nameOf(pod), container: this.#role, asText: this.#asText });
    this.#logs.push(log);
    log.onLine = (line) => {
      sessions.note(line);
      this.#screen.line(line);
    };
    log.start();
    for (;;) {
      const { pods } = await this.#look();
      const now = pods.find(({ metadata }) => metadata?.uid === pod.metadata?.uid);
      const state = now === undefined ? undefined : stateOf(now);
      if (now === undefined) {
        throw new UserError(`The ${this.#role}'s pod is gone: another hand deleted it, or its node went`);
      }
      if (state?.terminated === undefined && now.status?.phase !== "Failed") {
        this.#screen.live(() => sessions.inWords());
        await pause(LOOK_INTERVAL_MS, this.#signal);
        continue;
      }
      await log.end();
      return this.#endOf(now, log);
    }
  }

  /**
   * The same, awaited later: a failure is told then.
   * @param {Pod} pod
   */
  #readLater(pod) {
    const end = this.#read(pod);
    end.catch(() => {});
    return end;
  }

  /**
   * The end of a pod whose log nobody has shown.
   * @param {Pod} pod
   */
  #read(pod) {
    const log = new PodLog({ kubectl: this.#kubectl, pod: nameOf(pod), container: this.#role, asText: false });
    return this.#endOf(pod, log);
  }

  /**
   * @param {Pod} pod
   * @param {PodLog} log
   * @returns {Promise<PodEnd>}
   */
  async #endOf(pod, log) {
    const { exitCode = -1 } = stateOf(pod)?.terminated ?? {};
    const isVerdict = [0, 1, 2].includes(exitCode) && !wasDisrupted(pod);
    if (isVerdict && exitCode !== 2 && !this.#asText) await log.complete();
    else if (isVerdict) await log.readOnce();
    const result = log.record.result();
    const why = whyEnded(pod);
    if (!isVerdict && this.#role === "drill") {
      throw new UserError(`The ${this.#role} was ended before its verdict: ${why}`);
    }
    const summary = result?.summary ?? (exitCode === 2 ? log.lastLine : isVerdict ? "its result did not come" : why);
    const code = isVerdict ? result === undefined && this.#role === "load" ? 2 : exitCode : 2;
    return { name: nameOf(pod), exitCode: code, result, lost: log.record.missing, summary: printable(summary) };
  }

  /**
   * The Job and its own pods. A cluster that is out of reach for a while ends no drill.
   * @returns {Promise<Seen>}
   */
  async #look() {
    for (;;) {
      try {
        const both = await this.#kubectl.list(["get", "jobs,pods", "-l", `app=${this.#role}`], this.#signal);
        this.#reachedAt = performance.now();
        const job = both.find(({ kind, metadata }) => kind === "Job" && metadata.uid === this.#uid);
        const isOwn = (/** @type {any} */ { uid }) => uid === this.#uid;
        const pods = both.filter(({ kind, metadata }) =>
          kind === "Pod" && metadata["ownerReferences"]?.some(isOwn) === true
        );
        if (job === undefined) throw new UserError(`The ${this.#role} is gone: another hand has deleted the Job`);
        return /** @type {any} */ ({ job, pods });
      } catch (error) {
        if (!(error instanceof KubectlError) || error.isAnswer) throw error;
        if (performance.now() - this.#reachedAt > UNREACHABLE_MS) throw error;
        this.#screen.wait(`the cluster to answer: ${error.message}`);
        await pause(LOOK_INTERVAL_MS, this.#signal);
      }
    }
  }
}

/** @param {Pod} pod */
function nameOf({ metadata }) {
  return metadata?.name ?? "";
}

/** Of our own container: a mesh may have put its proxy before it. @param {Pod} pod */
function stateOf({ status }) {
  return status?.containerStatuses?.find(isOurs)?.state;
}

/** As deploy/drill and deploy/components/load call it. @param {{ name?: string }} container */
function isOurs({ name = "" }) {
  return ["drill", "load"].includes(name);
}

/** The cluster has ended it, whatever it said of itself on its way. @param {Pod} pod */
function wasDisrupted({ status }) {
  const { reason, conditions = [] } = status ?? {};
  return reason === "Evicted" || conditions.some((one) => one.type === "DisruptionTarget" && one.status === "True");
}

/** @param {Job | undefined} job */
function isFinished(job) {
  return (job?.status?.conditions ?? []).some(({ type, status }) =>
    ["Complete", "Failed"].includes(type) && status === "True"
  );
}

/** @param {Job | undefined} job */
function failureOf(job) {
  return job?.status?.conditions?.find(({ type, status }) => type === "Failed" && status === "True");
}

/** @param {Job | undefined} job */
function whyFinished(job) {
  const failed = failureOf(job);
  return [failed?.reason, failed?.message].filter(Boolean).join(", ") || "no reason is given";
}

/**
 * What keeps a pod from running, as its status says it.
 * @param {Pod} pod
 */
function whyWaiting(pod) {
  const { reason = "", message = "" } = stateOf(pod)?.waiting ?? {};
  const unscheduled = pod.status?.conditions?.find(({ type, status }) => type === "PodScheduled" && status === "False");
  if (unscheduled !== undefined) return [unscheduled.reason, unscheduled.message].filter(Boolean).join(", ");
  return [reason, message].filter(Boolean).join(", ");
}

/**
 * Why a pod is no more, most of all where that was not its own doing.
 * @param {Pod} pod
 */
function whyEnded(pod) {
  const { reason, message } = pod.status ?? {};
  const disrupted = pod.status?.conditions?.find(({ type, status }) =>
    type === "DisruptionTarget" && status === "True"
  );
  const exit = stateOf(pod)?.terminated;
  const limit = pod.spec?.containers.find(isOurs)?.resources?.limits?.["memory"];
  const oom = exit?.reason === "OOMKilled" && limit !== undefined ? `, the limit is ${limit}` : "";
  const words = reason ? [reason, message] : disrupted ? [disrupted.reason, disrupted.message] : [];
  const how = exit === undefined ? [] : [`exit ${exit.exitCode} (${exit.reason ?? "no reason"})${oom}`];
  return printable([...words, ...how].filter(Boolean).join(", ") || "no reason is given");
}

/** What was made on the cluster, and is taken away again: all that was not there before. */
class Footprint {
  /** @type {Kubectl} */
  #kubectl;
  #screen;
  /** @type {Manifest[]} */
  #made = [];

  /** @param {{ kubectl: Kubectl, screen: Screen }} options */
  constructor({ kubectl, screen }) {
    this.#kubectl = kubectl;
    this.#screen = screen;
  }

  /**
   * Applies what is not there as it should be, and returns the Job's uid. A Job that has ended makes room; one that runs is
   * somebody's: throws `UserError`.
   * @param {Manifest[]} objects
   * @returns {Promise<string>}
   */
  async make(objects) {
    const there = await this.#kubectl.existing(objects);
    const running = there.find((object) => object.kind === "Job" && !isFinished(/** @type {Job} */ (object)));
    if (running !== undefined) {
      const { name, namespace, creationTimestamp } = running.metadata;
      const away = `kubectl delete job ${name} -n ${namespace}`;
      throw new UserError(
        `A ${name} is running in namespace ${namespace} since ${creationTimestamp}: '${away}' ends it`,
      );
    }
    const before = (/** @type {Manifest} */ { kind, metadata }) =>
      there.find((one) => one.kind === kind && one.metadata.name === metadata.name);
    const wanted = objects.filter((object) => !isAsWanted(before(object), object));
    // What an earlier run has left is none of this one's: settings that it had would stay among ours.
    const stale = wanted.filter((object) => before(object) !== undefined && !RIGHTS.includes(object.kind));
    const isNew = (/** @type {Manifest} */ object) => before(object) === undefined || stale.includes(object);
    await this.#kubectl.mayDo(wanted, isNew);
    if (stale.length > 0) await this.#kubectl.delete(stale);
    this.#made = wanted.filter(isNew); // from here on, whatever the cluster answers
    const applied = await this.#kubectl.apply(wanted);
    return applied.find(({ kind }) => kind === "Job")?.metadata.uid ?? "";
  }

  /** The Job with its pods first, and then what these lived on. */
  async remove() {
    const isJob = ({ kind = "" }) => kind === "Job";
    for (const part of [this.#made.filter(isJob), this.#made.filter((object) => !isJob(object))]) {
      if (part.length === 0) continue;
      try {
        await this.#kubectl.delete(part);
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        this.#screen.say(`${this.leftInWords()} (${error.message})`);
        process.exitCode = 2;
        return;
      }
      this.#made = this.#made.filter((object) => !part.includes(object));
    }
  }

  leftInWords() {
    if (this.#made.length === 0) return "";
    const names = this.#made.map(({ kind, metadata }) => `${kind.toLowerCase()}/${metadata.name}`);
    return `May be left in namespace ${this.#kubectl.namespace}: ${names.join(" ")}`;
  }
}

/**
 * Whether an object is there with all that ours says.
 * @param {Manifest | undefined} there
 * @param {Manifest} wanted
 */
function isAsWanted(there, { metadata: _metadata, ...wanted }) {
  return there !== undefined && RIGHTS.includes(there.kind) && covers(there, wanted);
}

/** Rights may have been made beforehand, by somebody who may; all else is one run's own. */
const RIGHTS = ["ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"];

/**
 * What the API fills in makes no difference.
 * @param {any} there
 * @param {any} wanted
 * @returns {boolean}
 */
function covers(there, wanted) {
  if (typeof wanted !== "object" || wanted === null) return there === wanted;
  if (typeof there !== "object" || there === null) return false;
  if (Array.isArray(wanted) && wanted.length !== there.length) return false;
  return Object.entries(wanted).every(([key, value]) => covers(there[key], value));
}

/** A pod's log, followed until its container has ended, however often the connection does; its record is set apart. */
class PodLog {
  record = new RecordReader();
  lastLine = "";
  /** @type {(line: string) => void} */
  onLine = () => {};
  /** @type {Kubectl} */
  #kubectl;
  #pod;
  #container;
  #asText;
  /** The stamp of the last line, and how many lines have it (CRI-O stamps all that it read at once alike). */
  #last = "";
  #alike = 0;
  #following = new AbortController();
  /** @type {Promise<void>} */
  #done = Promise.resolve();

  /** @param {{ kubectl: Kubectl, pod: string, container: string, asText: boolean }} options */
  constructor({ kubectl, pod, container, asText }) {
    this.#kubectl = kubectl;
    this.#pod = pod;
    this.#container = container;
    this.#asText = asText;
  }

  start() {
    this.#done = this.#follow();
  }

  /** Until the log has ended by itself, or has had its time to. */
  async end() {
    const late = setTimeout(() => this.#following.abort(new Interrupted("log")), LOG_END_MS);
    this.#ending = true;
    await this.#done;
    clearTimeout(late);
  }
  #ending = false;

  async #follow() {
    const { signal } = this.#following;
    while (!signal.aborted) {
      await this.#read(["--follow"], signal).catch(() => undefined); // its pod's state says what became of it
      if (this.#ending) return;
      await pause(LOOK_INTERVAL_MS, signal).catch(() => undefined);
    }
  }

  /** Reads what is there, unless it has come already. */
  async readOnce() {
    if (this.lastLine === "") await this.#read([REQUEST_TIMEOUT]);
  }

  /** Reads again, until the record is whole or it is certain that it never will be. */
  async complete() {
    let failure;
    for (let reading = 0; reading < LOG_READINGS && this.record.result() === undefined; reading++) {
      if (failure !== undefined) await new Promise((resolve) => setTimeout(resolve, LOOK_INTERVAL_MS));
      this.#last = "";
      this.onLine = () => {};
      failure = await this.#read(["--request-timeout=120s"]).catch((error) => error);
    }
    if (failure !== undefined && this.record.result() === undefined) throw failure;
  }

  /**
   * @param {string[]} flags
   * @param {AbortSignal} [signal]
   */
  async #read(flags, signal) {
    const since = this.#last === "" ? [] : [`--since-time=${this.#last}`];
    const args = ["logs", this.#pod, "-c", this.#container, "--timestamps", ...since, ...flags];
    // After a lost connection the same second is sent again.
    const before = this.#last;
    let known = this.#alike;
    await this.#kubectl.lines(args, (stamped) => {
      const [, stamp = "", line = ""] = /^(\S*) ?(.*)$/s.exec(stamped) ?? [];
      if (stamp < before || (stamp === before && known-- > 0)) return;
      this.#alike = stamp === this.#last ? this.#alike + 1 : 1;
      this.#last = stamp;
      this.#onLine(line);
    }, signal);
  }

  /** @param {string} line */
  #onLine(line) {
    if (this.record.take(line)) return;
    // The text after the record is made here, from the result; log lines that the record overtook are still news.
    if (this.record.missing !== null && !isLogLine(line)) return;
    this.lastLine = line || this.lastLine;
    if (this.#asText && !isLogLine(line)) process.stdout.write(`${line}\n`);
    else this.onLine(line);
  }
}

/** A line of the client's log, of either format, and none of its report. @param {string} line */
function isLogLine(line) {
  return /^(\d\d:\d\d:\d\d\.\d{3} |\{"@timestamp")/.test(line);
}

/** Who holds how many sessions, as the log tells it. */
class SessionCount {
  /** @type {Map<string, string>} */
  #bySlot = new Map();
  #progress = "";
  #phase = "";

  /** @param {string} line */
  note(line) {
    const [, opened, slot, server] = / session-(?:(opened)|closed) +slot (\d+) on ([^\s,]+)/.exec(readable(line)) ?? [];
    if (slot !== undefined && server !== undefined) {
      if (opened !== undefined) this.#bySlot.set(slot, server);
      else if (this.#bySlot.get(slot) === server) this.#bySlot.delete(slot);
    }
    const [, progress] = / progress +([^;]+)/.exec(readable(line)) ?? [];
    if (progress !== undefined) this.#progress = progress;
    const [, phase] = / (?:disruption|stopping) +(.+)/.exec(readable(line)) ?? [];
    if (phase !== undefined) this.#phase = phase;
  }

  inWords() {
    /** @type {Map<string, number>} */
    const counts = new Map();
    for (const server of this.#bySlot.values()) counts.set(server, (counts.get(server) ?? 0) + 1);
    const held = [...counts].sort().map(([server, number]) => `${server} ${number}`).join(", ");
    return [held || this.#progress || "no session yet", this.#phase].filter(Boolean).join("; ");
  }
}

/** A log line as the pretty format has it. @param {string} line */
function readable(line) {
  if (!line.startsWith("{")) return line;
  try {
    const object = JSON.parse(line);
    return ` ${object["event.action"]} ${object.message}`;
  } catch {
    return line;
  }
}

// ---- What is applied: rendered by kustomize, changed as objects

/** A Job's folder as objects, with what a command changes in them. */
class Rendered {
  /** @type {Manifest[]} */
  objects;
  /** @type {Job} */
  job;
  /** Its settings. @type {Record<string, string>} */
  data;
  #client;

  /** @param {{ objects: Manifest[], client: { container: Container, data: Record<string, string> } }} options */
  constructor({ objects, client }) {
    this.objects = objects;
    this.job = /** @type {Job} */ (objects.find(({ kind }) => kind === "Job"));
    this.data = /** @type {any} */ (objects.find(({ kind }) => kind === "ConfigMap")).data;
    this.#client = client;
  }

  get container() {
    return /** @type {Container} */ (this.job.spec?.template.spec?.containers[0]);
  }

  /** Connects as the environment's client does, and says where to. */
  connect() {
    for (const name of ["TLS_CA", "TOKEN_FILE"]) this.data[name] = this.#client.data[name] ?? "";
    return this.#client.data["SERVER_URL"] ?? "";
  }

  /**
   * Takes files of this machine along: their contents are for the pod alone.
   * @param {Record<string, string>} files
   */
  carry(files) {
    if (Object.keys(files).length === 0) return;
    const { namespace, labels } = /** @type {Manifest} */ (this.job).metadata;
    const name = `${/** @type {Manifest} */ (this.job).metadata.name}-files`;
    const metadata = {
      name,
      ...namespace === undefined ? {} : { namespace },
      ...labels === undefined ? {} : { labels },
    };
    this.objects.unshift({ apiVersion: "v1", kind: "Secret", metadata, stringData: files });
    const pod = this.job.spec?.template.spec;
    pod?.volumes?.push({ name: "files", secret: { secretName: name, defaultMode: 0o440 } });
    this.container.volumeMounts?.push({ name: "files", mountPath: CARRIED, readOnly: true });
  }
}

/**
 * The Job of a folder, with the image and the settings that were asked for.
 * @param {Context} options
 * @param {string} folder
 */
async function renderJob(options, folder) {
  const { kubectl, own, given, known } = options;
  const [objects, environment] = await Promise.all([
    kubectl.render(here(folder), { namespace: kubectl.namespace }),
    kubectl.render(environmentFolder(own.env)),
  ]);
  const client = clientOf(environment, own.env);
  const rendered = new Rendered({ objects, client });
  const { image, imagePullPolicy } = client.container;
  Object.assign(rendered.container, { image: own.image || image, ...imagePullPolicy && { imagePullPolicy } });
  /** @type {Record<string, string>} */
  const files = {};
  const carry = (/** @type {string} */ name, /** @type {string} */ contents) => {
    files[name] = contents;
    return `${CARRIED}/${name}`;
  };
  for (const [name, { env }] of Object.entries(known)) {
    if (CHOSEN.includes(name) || COMPUTED.includes(name)) continue;
    const fromHere = (/** @type {string} */ value, index = 0) => {
      if (FILES.includes(name) && isFile(value)) return carry(name, readFileSync(value, "utf8"));
      const at = name === "say" ? 0 : name === "reply" ? value.indexOf("=") + 1 : -1;
      const file = value.slice(at + 1);
      if (at < 0 || value[at] !== "@" || !isFile(file)) return value;
      return `${value.slice(0, at)}@${carry(`${name}-${index + 1}`, readFileSync(file, "utf8"))}`;
    };
    if (process.env[env]) rendered.data[env] = fromHere(process.env[env] ?? "");
    // A flag stays a flag: the client alone knows how it takes several.
    const flags = (given[name] ?? []).map((value, index) => `--${name}=${fromHere(value, index)}`);
    if (flags.length > 0) rendered.container.args = [...rendered.container.args ?? [], ...flags];
  }
  const timeout = given["timeout"]?.at(-1) ?? process.env["TIMEOUT_MS"] ?? rendered.data["TIMEOUT_MS"] ?? "0";
  setDeadline(rendered.job, timeout);
  const headers = given["header"] ?? (process.env["HEADER"] ?? "").split("\n").filter((line) => line !== "");
  if (headers.length > 0) {
    rendered.data["HEADER"] = headers.map((header, index) => {
      const [, name, value = ""] = /^([^:]+): *(.*)$/s.exec(header) ?? [];
      if (name === undefined) throw new UserError("--header must be 'Name: value'");
      if (value.startsWith("@") && !isFile(value.slice(1))) return header; // a file of the pod
      const text = value.startsWith("@") ? readFileSync(value.slice(1), "utf8").trim() : value;
      return `${name}: @${carry(`header-${index + 1}`, text)}`;
    }).join("\n");
  }
  rendered.carry(files);
  return rendered;
}

/**
 * The Job may take as long as the drill may: without a limit of its own it has none either.
 * @param {any} job
 * @param {string} timeout
 */
function setDeadline(job, timeout) {
  let timeoutMs;
  try {
    timeoutMs = milliseconds(0)(timeout);
  } catch {
    return; // the client says what is wrong with it
  }
  if (timeoutMs === 0) delete job.spec.activeDeadlineSeconds;
  else {
    const { activeDeadlineSeconds: least = 0 } = job.spec;
    job.spec.activeDeadlineSeconds = Math.max(least, Math.ceil(timeoutMs / 1000) + DEADLINE_SPARE_S);
  }
}

/**
 * To cordon a node takes more than a namespace's rights: only a drain asks for them.
 * @param {Kubectl} kubectl
 */
async function renderNodeRights(kubectl) {
  const objects = await kubectl.render(here("deploy/drill/drain"));
  // Of this namespace's own: another one's drain keeps its.
  for (const { metadata, roleRef, subjects = [] } of objects) {
    metadata.name = `${metadata.name}-${kubectl.namespace}`;
    if (roleRef !== undefined) roleRef.name = metadata.name;
    for (const subject of subjects) subject.namespace = kubectl.namespace;
  }
  return objects;
}

/**
 * The container `client` of the environment, whatever stands beside it, and its settings.
 * @param {Manifest[]} objects
 * @param {string} env
 */
function clientOf(objects, env) {
  for (const object of objects.filter(({ kind }) => kind === "Deployment")) {
    const { containers } = object["spec"].template.spec;
    const container = containers.find((/** @type {Container} */ { name }) => name === "client");
    if (container === undefined) continue;
    const name = container.envFrom?.[0]?.configMapRef?.name;
    const config = objects.find(({ kind, metadata }) => kind === "ConfigMap" && metadata.name === name);
    return { container, data: config?.["data"] ?? {} };
  }
  throw new UserError(
    `${env || "deploy/"} has no Deployment with a container named client: --env, or --image and --url`,
  );
}

/** @param {string} file */
function isFile(file) {
  return existsSync(file) && statSync(file).isFile();
}

/**
 * One of this project's, by its name, or a folder of one's own.
 * @param {string} env
 */
function environmentFolder(env) {
  if (env === "") return here("deploy");
  const names = readdirSync(here("environments"));
  if (names.includes(env)) return here(`environments/${env}`);
  if (existsSync(join(env, "kustomization.yaml"))) return resolve(env);
  const known = `${names.sort().join(", ")}, or a folder with a kustomization.yaml`;
  throw new UserError(`--env must be one of ${known}: current value is '${env}'`);
}

/** @param {string} path */
function here(path) {
  return fileURLToPath(new URL(path, import.meta.url));
}

function clientFile() {
  return here("dist/client.js");
}

/**
 * A folder in another namespace, with another image: by kustomize's own means, and so everywhere where they stand. `asIs` are
 * its objects, where it may have some that are named after the namespace.
 * @param {string} folder
 * @param {{ namespace?: string, image?: string, asIs?: Manifest[] }} changes
 */
function overlay(folder, { namespace, image, asIs = [] }) {
  const isNamed = (/** @type {string} */ wanted) => asIs.some(({ kind }) => kind === wanted);
  const [, newName, newTag, digest] = /^(.+?)(?::([\w.-]+))?(?:@(sha256:[0-9a-f]{64}))?$/.exec(image ?? "") ?? [];
  const version = digest === undefined ? { newTag: newTag ?? "latest" } : { digest };
  // A certificate's names have the namespace in them.
  const names = {
    source: { kind: "Namespace", fieldPath: "metadata.name" },
    targets: [{
      select: { kind: "Certificate", name: "server" },
      fieldPaths: [1, 2, 3].map((index) => `spec.dnsNames.${index}`),
      options: { delimiter: ".", index: 1 },
    }],
  };
  return {
    resources: [folder],
    ...namespace ? { namespace } : {},
    ...newName === undefined ? {} : { images: [{ name: REPOSITORY, newName, ...version }] },
    ...namespace && isNamed("Namespace") && isNamed("Certificate") ? { replacements: [names] } : {},
  };
}

// ---- The environment, its Secrets, Filebeat

/** @param {Context} options */
async function apply({ kubectl, own }) {
  const objects = await kubectl.known(await renderEnvironment(kubectl, own));
  process.stdout.write(await kubectl.change(["apply", "-f", "-"], listOf(objects)));
}

/** @param {Context} options */
async function remove({ kubectl, own }) {
  const objects = await kubectl.known(await renderEnvironment(kubectl, own));
  process.stdout.write(await kubectl.change(["delete", "--ignore-not-found", "-f", "-"], listOf(objects)));
}

/**
 * The environment, in the namespace and with the image that were asked for.
 * @param {Kubectl} kubectl
 * @param {Context["own"]} own
 */
async function renderEnvironment(kubectl, { env = "", namespace = "", image = "" }) {
  const folder = environmentFolder(env);
  const asIs = await kubectl.render(folder);
  return namespace || image ? kubectl.render(folder, { namespace, image, asIs }) : asIs;
}

/** @param {object[]} objects */
function listOf(objects) {
  return JSON.stringify({ apiVersion: "v1", kind: "List", items: objects });
}

/** @param {Context} options */
async function makeToken({ kubectl }) {
  await kubectl.secret("server-token", "Opaque", { token: randomBytes(32).toString("hex") });
}

/**
 * For the names of the Service, by a CA that stays in the cluster.
 * @param {Context} options
 */
async function makeCertificate({ kubectl }) {
  const folder = temporaryFolder("certificate");
  const openssl = (/** @type {string[]} */ ...args) => opensslIn(folder, args);
  const text = (/** @type {string} */ file) => readFileSync(join(folder, file), "utf8");
  const key = (/** @type {string} */ file) =>
    openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", file);
  const kept = JSON.parse(
    await kubectl.read(["get", "secret", "server-ca", "-o", "json", "--ignore-not-found"]) || "{}",
  );
  if (kept.data?.["tls.key"]) {
    for (const part of ["crt", "key"]) {
      writeFileSync(join(folder, `ca.${part}`), Buffer.from(kept.data[`tls.${part}`], "base64"));
    }
  } else {
    await key("ca.key");
    const use = ["-addext", "keyUsage = critical, keyCertSign, cRLSign"];
    await openssl(
      "req",
      "-x509",
      "-new",
      "-key",
      "ca.key",
      "-days",
      "3650",
      "-subj",
      "/CN=server-service CA",
      ...use,
      "-out",
      "ca.crt",
    );
    await kubectl.secret("server-ca", "kubernetes.io/tls", { "tls.crt": text("ca.crt"), "tls.key": text("ca.key") });
  }
  const name = `DNS:server-service.${kubectl.namespace}`;
  const extensions = [
    `subjectAltName = DNS:server-service,${name},${name}.svc,${name}.svc.cluster.local`,
    "keyUsage = critical, digitalSignature",
    "extendedKeyUsage = serverAuth",
  ];
  writeFileSync(join(folder, "extensions"), `${extensions.join("\n")}\n`);
  await key("tls.key");
  await openssl("req", "-new", "-key", "tls.key", "-subj", "/CN=server-service", "-out", "request");
  const by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "365", "-extfile", "extensions"];
  await openssl("x509", "-req", "-in", "request", ...by, "-out", "tls.crt");
  const parts = { "tls.crt": text("tls.crt"), "tls.key": text("tls.key"), "ca.crt": text("ca.crt") };
  await kubectl.secret("server-tls", "kubernetes.io/tls", parts);
}

/** For files of this run; it goes with the process, also where a signal ends that. @param {string} name */
function temporaryFolder(name) {
  const folder = mkdtempSync(join(realpathSync(tmpdir()), `${name}-`));
  process.once("exit", () => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/**
 * @param {string} folder
 * @param {string[]} args
 */
async function opensslIn(folder, args) {
  try {
    await promisify(execFile)("openssl", args, { cwd: folder });
  } catch (error) {
    const { stderr, message } = /** @type {Error & { stderr?: string }} */ (error);
    throw new UserError(`openssl ${args[0]}: ${oneLine(stderr ?? "") || message}`);
  }
}

/** @param {Context} options */
async function filebeat({ kubectl, own: { hosts, credentials } }) {
  if (!hosts || !credentials || !existsSync(credentials) || statSync(credentials).isDirectory()) {
    const file = "output.elasticsearch.api_key: <id>:<key> (/dev/null where nothing does)";
    throw new UserError(
      `filebeat needs --hosts https://<host>:9200 and --credentials, a file with what lets it in: ${file}`,
    );
  }
  const secret = { "credentials.yml": readFileSync(credentials, "utf8") };
  const objects = await kubectl.render(here("deploy/components/logging/filebeat"), {});
  const setting = objects.find((object) => object["data"]?.ELASTICSEARCH_HOSTS !== undefined);
  Object.assign(setting?.["data"], { ELASTICSEARCH_HOSTS: hosts });
  process.stdout.write(await kubectl.change(["apply", "-f", "-"], listOf(objects)));
  await kubectl.secret("filebeat-credentials", "Opaque", secret);
  process.stdout.write(await kubectl.change(["rollout", "restart", "daemonset/filebeat"]));
}

// ---- kubectl: every word with the cluster

/** An answer of kubectl that is none: its words in one line. */
class KubectlError extends UserError {
  /** The API server itself has said it, and would say it again. */
  isAnswer;
  isForbidden;

  /** @param {string} text */
  constructor(text) {
    super(printable(oneLine(text) || "kubectl failed, and did not say why"));
    this.isAnswer = /Error from server|forbidden|not found/i.test(text) && !/timeout|unavailable|etcd/i.test(text);
    this.isForbidden = /\(Forbidden\)|is forbidden/.test(text);
  }
}

/** What several lines of stderr say, without kubectl's own log. @param {string} text */
function oneLine(text) {
  const lines = text.split("\n").map((line) => line.trim());
  const said = lines.filter((line) => line !== "" && !/^([EWI]\d{4} |Warning: )/.test(line));
  return (said.length > 0 ? said : lines.filter(Boolean).slice(-1)).join(" ").replace(
    /^error: |^Error from server /,
    "",
  )
    .slice(0, 1000);
}

/** Runs kubectl; in a group of its own, because a terminal's Ctrl-C is for us to answer. */
class Kubectl {
  namespace;
  #command;
  #context;
  #flags;
  /** @type {Set<import("node:child_process").ChildProcess>} */
  #children = new Set();

  /** @param {{ own: Record<string, string>, namespace: string }} options */
  constructor({ own, namespace }) {
    this.namespace = namespace;
    this.#command = (own["kubectl"] || "kubectl").split(" ").filter(Boolean);
    this.#context = own["context"] ?? "";
    this.#flags = own["context"] ? [`--context=${own["context"]}`] : [];
    process.on("exit", () => this.#children.forEach((child) => child.kill("SIGKILL")));
  }

  /** Throws `UserError` where there is no cluster. @param {AbortSignal} signal */
  async reach(signal) {
    try {
      await this.#run([...this.#flags, "get", "--raw", "/version", REQUEST_TIMEOUT], { signal });
    } catch (error) {
      if (!(error instanceof KubectlError) || !error.isForbidden) throw error;
    }
  }

  /** The contexts that there are, and the one that counts. */
  async #contexts() {
    const { contexts, "current-context": current } = JSON.parse(await this.#run(["config", "view", "-o", "json"], {}));
    const all = /** @type {{ name: string, context: { namespace?: string } }[]} */ (contexts ?? []);
    return { all, chosen: all.find(({ name }) => name === (this.#context || current)) };
  }

  /** Without a context kubectl asks localhost:8080, where nobody has ever been. @param {string} stderr */
  async #whyNowhere(stderr) {
    const { all, chosen } = await this.#contexts();
    if (chosen !== undefined) return new KubectlError(stderr);
    const file = process.env["KUBECONFIG"] || "~/.kube/config";
    if (all.length === 0) {
      return new UserError(`There is no cluster in the kubeconfig ${file}: KUBECONFIG says which one has it`);
    }
    const names = all.map(({ name }) => name).join(", ");
    return new UserError(`No cluster is chosen in the kubeconfig ${file}: --context takes ${names}`);
  }

  async useContextNamespace() {
    const { context } = (await this.#contexts()).chosen ?? {};
    // In a pod without a kubeconfig kubectl is where its service account is.
    const own = "/var/run/secrets/kubernetes.io/serviceaccount/namespace";
    const fallback = context === undefined && isFile(own) ? readFileSync(own, "utf8").trim() : "default";
    this.namespace = context?.namespace || fallback;
  }

  /**
   * @param {string[]} args
   * @param {AbortSignal} [signal]
   */
  read(args, signal) {
    return this.#run([...this.#inNamespace(args), REQUEST_TIMEOUT], signal === undefined ? {} : { signal });
  }

  /** As `read`; undefined where we may not: then whoever asks goes on without. @param {string[]} args */
  async readable(args) {
    try {
      return await this.read(args);
    } catch (error) {
      if (error instanceof KubectlError && error.isForbidden) return undefined;
      throw error;
    }
  }

  /**
   * @param {string[]} args
   * @param {AbortSignal} [signal]
   * @returns {Promise<Manifest[]>}
   */
  async list(args, signal) {
    return JSON.parse(await this.read([...args, "-o", "json"], signal)).items;
  }

  /** A change is never cut short: whether it happened would be anybody's guess. @param {string[]} args @param {string} [input] */
  change(args, input) {
    return this.#run(this.#inNamespace(args), input === undefined ? {} : { input });
  }

  /** Hands on each line as it comes. @param {string[]} args @param {(line: string) => void} onLine @param {AbortSignal} [signal] */
  async lines(args, onLine, signal) {
    await this.#run(this.#inNamespace(args), { onLine, ...signal === undefined ? {} : { signal } });
  }

  /** @param {Manifest[]} objects */
  async existing(objects) {
    const text = await this.#run(
      [...this.#flags, "get", "-f", "-", "-o", "json", "--ignore-not-found", REQUEST_TIMEOUT],
      { input: listOf(objects) },
    );
    if (text.trim() === "") return [];
    const { items, ...object } = JSON.parse(text);
    return /** @type {Manifest[]} */ (items ?? [object]);
  }

  /**
   * Our fields, whoever else has been there; returns the objects as they are now.
   * @param {Manifest[]} objects
   * @returns {Promise<Manifest[]>}
   */
  async apply(objects) {
    const args = [...SERVER_SIDE, "-o", "json", "-f", "-"];
    const { items, ...object } = JSON.parse(await this.change(args, listOf(objects)));
    return items ?? [object];
  }

  /** Waits until they are gone. @param {Manifest[]} objects */
  async delete(objects) {
    await this.change(
      ["delete", "--ignore-not-found", "--cascade=foreground", REMOVE_TIMEOUT, "-f", "-"],
      listOf(objects),
    );
  }

  /**
   * Throws `UserError` that names what we may not do, before anything is made.
   * @param {Manifest[]} objects
   * @param {(object: Manifest) => boolean} isNew
   */
  async mayDo(objects, isNew) {
    const ours = objects.flatMap((object) => {
      const [group, resource] = [object.apiVersion.split("/").slice(0, -1)[0] ?? "", `${object.kind.toLowerCase()}s`];
      return ["patch", ...isNew(object) ? ["create", "delete"] : []].map((verb) => ({ verb, group, resource }));
    });
    const needs = [
      ...ours,
      { verb: "list", group: "batch", resource: "jobs" },
      { verb: "list", group: "", resource: "pods" },
      { verb: "get", group: "", resource: "pods", subresource: "log" },
    ];
    const allowed = await this.#mayI(needs);
    const refused = needs.filter((_, index) => allowed[index] === "false").map(({ verb, group, resource, ...rest }) =>
      `${verb} ${resource}${"subresource" in rest ? `/${rest.subresource}` : ""}${group && `.${group}`}`
    );
    if (refused.length === 0) return;
    throw new UserError(`You may not ${refused.join(", ")} in namespace ${this.namespace}`);
  }

  /**
   * "true" or "false" for each, all asked by one process.
   * @param {{ verb: string, group: string, resource: string, subresource?: string }[]} needs
   */
  async #mayI(needs) {
    const reviews = needs.map((need) => ({
      apiVersion: "authorization.k8s.io/v1",
      kind: "SelfSubjectAccessReview",
      spec: { resourceAttributes: { namespace: this.namespace, ...need } },
    }));
    const args = ["create", "--validate=false", "-o", 'jsonpath={.status.allowed}{"\\n"}', "-f", "-", REQUEST_TIMEOUT];
    return (await this.#run([...this.#flags, ...args], { input: listOf(reviews) })).trim().split("\n");
  }

  /**
   * Server-side, because otherwise an annotation would hold its contents once more.
   * @param {string} name
   * @param {string} type
   * @param {Record<string, string>} files
   */
  async secret(name, type, files) {
    const data = Object.fromEntries(
      Object.entries(files).map(([key, text]) => [key, Buffer.from(text).toString("base64")]),
    );
    const object = { apiVersion: "v1", kind: "Secret", metadata: { name, namespace: this.namespace }, type, data };
    await this.change([...SERVER_SIDE, "-f", "-"], JSON.stringify(object));
  }

  /** Without kinds that the cluster does not know: each is named. @param {Manifest[]} objects */
  async known(objects) {
    const raw = async (/** @type {string} */ path) =>
      JSON.parse(await this.#run([...this.#flags, "get", "--raw", path, REQUEST_TIMEOUT], {}));
    const { groups } = await raw("/apis");
    const versions = groups.flatMap((/** @type {any} */ group) =>
      group.versions.map((/** @type {any} */ one) => one.groupVersion)
    );
    const asked = [...new Set(objects.map(({ apiVersion }) => apiVersion))].filter((version) =>
      versions.includes(version)
    );
    const kinds = new Map(
      await Promise.all(asked.map(async (version) => {
        const { resources } = await raw(`/apis/${version}`);
        return /** @type {[string, string[]]} */ ([version, resources.map((/** @type {any} */ { kind }) => kind)]);
      })),
    );
    return objects.filter(({ apiVersion, kind }) => {
      if (apiVersion === "v1" || kinds.get(apiVersion)?.includes(kind)) return true;
      process.stderr.write(`Left out, ${apiVersion} is not on this cluster: ${kind}\n`);
      return false;
    });
  }

  /**
   * The objects of a folder, in another namespace or with another image where they are given.
   * @param {string} folder
   * @param {Parameters<typeof overlay>[1]} [changes]
   */
  async render(folder, changes) {
    if (changes === undefined) return this.#kustomize(folder);
    const over = temporaryFolder("overlay");
    const kustomization = overlay(relative(over, realpathSync(folder)), changes);
    writeFileSync(join(over, "kustomization.yaml"), JSON.stringify(kustomization));
    return await this.#kustomize(over);
  }

  /** @param {string} folder @returns {Promise<Manifest[]>} */
  async #kustomize(folder) {
    const yaml = await this.#run(["kustomize", folder], {});
    const text = await this.#run(["patch", "--local", "--type=merge", "-p", "{}", "-o", "json", "-f", "-"], {
      input: yaml,
    });
    return text.split(/(?<=^\})\n/m).filter((object) => object.trim() !== "").map((object) => JSON.parse(object));
  }

  /** @param {string[]} args */
  #inNamespace(args) {
    return [...this.#flags, `--namespace=${this.namespace}`, ...args];
  }

  /**
   * @param {string[]} args
   * @param {{ input?: string, signal?: AbortSignal, onLine?: (line: string) => void }} options
   * @returns {Promise<string>}
   */
  #run(args, { input, signal, onLine }) {
    return new Promise((resolve, reject) => {
      signal?.throwIfAborted();
      const [file, ...first] = this.#command;
      const child = spawn(/** @type {string} */ (file), [...first, ...args], {
        detached: true,
        stdio: ["pipe", "pipe", "pipe"],
      });
      this.#children.add(child);
      const onAbort = () => {
        child.kill("SIGKILL");
        reject(signal?.reason);
      };
      signal?.addEventListener("abort", onAbort, { once: true });
      let [stdout, stderr] = ["", ""];
      if (onLine === undefined) child.stdout.setEncoding("utf8").on("data", (text) => stdout += text);
      else createInterface({ input: child.stdout, crlfDelay: Infinity }).on("line", onLine);
      child.stderr.setEncoding("utf8").on("data", (text) => stderr += text);
      child.stdin.on("error", () => {}); // it has ended: its exit says why
      child.stdin.end(input ?? "");
      child.on("error", ({ message }) => reject(new UserError(`Cannot run ${file}: ${message}`)));
      child.on("close", (code) => {
        this.#children.delete(child);
        signal?.removeEventListener("abort", onAbort);
        if (code === 0) resolve(stdout);
        else if (/localhost:8080/.test(stderr)) this.#whyNowhere(stderr).then(reject, reject);
        else reject(new KubectlError(stderr));
      });
    });
  }
}

// ---- The terminal, and the signals

/** Log lines, and under them one live line where there is a terminal; elsewhere a wait is told when it begins, and goes on. */
class Screen {
  #isLive = Boolean(process.stderr.isTTY);
  #shown = "";
  #waiting = "";
  #since = 0;
  #toldAt = 0;

  constructor() {
    kleur.enabled = this.#isLive && process.env["NO_COLOR"] === undefined;
    process.stderr.on("error", () => {}); // a log that nobody can take must not change the verdict
  }

  /** @param {string} text */
  line(text) {
    process.stderr.write(`${this.#isLive ? CLEAR_LINE : ""}${text}\n`);
    this.#draw();
  }

  /** A line of our own, as the client's log has them. @param {string} text */
  say(text) {
    this.line(`${kleur.dim(new Date().toISOString().slice(11, 23))} ${kleur.cyan("drill".padEnd(15))} ${text}`);
  }

  /**
   * What is waited for now, and since when: from the first time that it was.
   * @param {string} what
   * @param {string} [since] ISO 8601, where it began before
   */
  wait(what, since) {
    const now = Date.now();
    const about = what.replace(/\d+/g, "#"); // the same wait, with other numbers
    if (about !== this.#waiting) {
      [this.#waiting, this.#since, this.#toldAt] = [about, since === undefined ? now : Date.parse(since), 0];
    }
    const begun = new Date(this.#since).toISOString().slice(11, 19);
    const text = `waiting for ${what}, since ${begun}`;
    if (this.#isLive) return this.#show(`${text} (${duration(now - this.#since)})`);
    if (now - this.#toldAt < REMIND_INTERVAL_MS) return;
    this.#toldAt = now;
    this.say(text);
  }

  /** Only on a terminal. @param {() => string} text */
  live(text) {
    if (this.#isLive) this.#show(text());
  }

  clear() {
    this.#show("");
  }

  /** @param {string} text */
  #show(text) {
    if (!this.#isLive) return;
    this.#shown = text;
    process.stderr.write(CLEAR_LINE);
    this.#draw();
  }

  #draw() {
    // Cut to the terminal's width: a wrapped line could not be cleared.
    if (this.#isLive && this.#shown !== "") {
      process.stderr.write(this.#shown.slice(0, (process.stderr.columns || 80) - 1));
    }
  }
}

const CLEAR_LINE = "\r\x1b[K";

/**
 * The first signal stops what is waited for, so that it is taken back; the second leaves at once. So does the first, where
 * nothing is ever taken back: what has been applied stays, as with kubectl itself.
 */
class Interrupt {
  /** Says what may be left behind. @type {() => string} */
  left = () => "";
  /** @type {Screen} */
  #screen;
  /** @type {boolean} */
  #takesBack;
  #controller = new AbortController();
  #first = "";
  /** @type {(signal: string) => void} */
  #onSignal = (signal) => {
    // A cancelled job of a CI system sends another one after the first: that is nobody who presses a key twice.
    if (this.#first !== "" && signal !== this.#first) return;
    this.#first = signal;
    if (!this.#takesBack) {
      process.stderr.write(`${signal}: what was done until now stays\n`);
      process.exit(2);
    }
    if (this.#controller.signal.aborted) {
      this.#screen.clear();
      process.stderr.write(`${signal} again: left at once. ${this.left()}\n`);
      process.exit(2); // whoever asks twice does not want to wait
    }
    this.#screen.say(`${signal}: taking back what was done; once more to leave at once`);
    this.#controller.abort(new Interrupted(`Interrupted by ${signal}`));
  };

  /** @param {Screen} screen @param {boolean} takesBack */
  constructor(screen, takesBack) {
    this.#screen = screen;
    this.#takesBack = takesBack;
    for (const signal of SIGNALS) process.on(signal, this.#onSignal);
  }

  get signal() {
    return this.#controller.signal;
  }

  end() {
    for (const signal of SIGNALS) process.off(signal, this.#onSignal);
  }
}

const SIGNALS = /** @type {const} */ (["SIGINT", "SIGTERM", "SIGHUP"]);

/**
 * Waits; rejects once the signal is aborted.
 * @param {number} ms
 * @param {AbortSignal} signal
 */
function pause(ms, signal) {
  return new Promise((resolve, reject) => {
    signal.throwIfAborted();
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", onAbort);
      resolve(undefined);
    }, ms);
    signal.addEventListener("abort", onAbort, { once: true });
  });
}

// ---- Settings: our own, and the client's, which are handed through

/**
 * @typedef {object} Options
 * @property {string} command
 * @property {Record<string, string> & { env: string, image: string, pods: string }} own
 * @property {Record<string, string[]>} given the client's settings, by their flags
 * @property {ClientSettings} known
 * @property {string[]} reports
 * @property {string} namespace
 * @property {number} startTimeoutMs
 * @property {boolean} keep
 * @property {boolean} json
 * @typedef {Options & { kubectl: Kubectl, screen: Screen, interrupt: Interrupt }} Context
 */

/**
 * What was asked for; undefined where that was help.
 * @param {string[]} argv
 * @returns {Options | undefined}
 */
function readOptions(argv) {
  const isNamed = argv[0] !== undefined && !argv[0].startsWith("-");
  const command = isNamed ? /** @type {string} */ (argv[0]) : "drill";
  const asked = COMMANDS[command];
  if (asked === undefined) {
    throw new UserError(`Unknown command '${command}': it must be ${Object.keys(COMMANDS).join(", ")}`);
  }
  const known = asked.runsClient ? settingsIn(builtHelp("client")) : {};
  const own = asked.own.filter((name) => name in OWN);
  const switches = [...asked.own.filter((name) => name in SWITCHES), "help"];
  const flags = [...own, ...Object.keys(known)];
  /** @type {string | undefined} */
  let unknown;
  const given = mri(joinValues(argv.slice(isNamed ? 1 : 0), flags), {
    string: flags,
    boolean: switches,
    alias: { h: "help" },
    default: Object.fromEntries([...flags, ...switches].map((name) => [name, undefined])),
    unknown: (flag) => void (unknown = flag),
  });
  if (unknown !== undefined) throw new UserError(`Unknown flag ${unknown}: see --help`);
  if (given._.length > 0) throw new UserError(`Unexpected argument '${given._[0]}': see --help`);
  if (given["help"]) return void process.stdout.write(usage(command, known));
  for (const name of flags) {
    if ([given[name]].flat().some((value) => value === false || (value === "" && !(name in OWN)))) {
      throw new UserError(`--${name} needs a value: see --help`);
    }
    if (given[name] !== undefined && CHOSEN.includes(name)) {
      throw new UserError(`--${name} is chosen by the drill's manifests`);
    }
  }
  const values = /** @type {Options["own"]} */ (Object.fromEntries(
    Object.entries(OWN).map(([name, [fallback]]) => [name, [given[name]].flat().at(-1) ?? fallback]),
  ));
  const handed = Object.keys(known).filter((name) => given[name] !== undefined && !(name in OWN));
  const reports = given["report"] ?? (process.env["REPORT"] || "").split(",").filter((file) => file !== "");
  return {
    command,
    own: values,
    given: Object.fromEntries(handed.map((name) => [name, [given[name]].flat()])),
    known,
    reports: [reports].flat(),
    namespace: command === "filebeat" ? "filebeat" : values["namespace"] || namespaceOf(values.env),
    startTimeoutMs: startTimeout(values["start-timeout"] ?? ""),
    keep: given["keep"] === true,
    json: given["json"] === true,
  };
}

/** The namespace of an environment, by the names that this project's have. @param {string} env */
function namespaceOf(env) {
  return ["staging", "production"].includes(env) ? `${NAMESPACE}-${env}` : NAMESPACE;
}

/** @param {string} text */
function startTimeout(text) {
  const [, number, unit = "s"] = /^(\d+(?:\.\d+)?)(ms|s|m)?$/.exec(text) ?? [];
  const ms = Number(number) * ({ ms: 1, s: 1000, m: 60_000 }[unit] ?? 1);
  if (ms > 0) return ms;
  throw new UserError(`--start-timeout must be a duration such as 120s: current value is '${text}'`);
}

/**
 * @param {string} command
 * @param {ClientSettings} known
 */
function usage(command, known) {
  const { own, does, runsClient } = /** @type {(typeof COMMANDS)[string]} */ (COMMANDS[command]);
  const rows = [
    ...Object.entries(OWN).filter(([name]) => own.includes(name)).map((
      [name, [fallback, text]],
    ) => [`--${name}`, fallback, text]),
    ...Object.entries(SWITCHES).filter(([name]) => own.includes(name) || name === "help").map((
      [name, text],
    ) => [`--${name}`, "", text]),
  ];
  const commands = Object.entries(COMMANDS).map(([name, { does }]) => `  ${name.padEnd(11)} ${does}\n`);
  const handed = Object.keys(known).filter((name) => !CHOSEN.includes(name) && !(name in OWN));
  const flags = handed.map((name) => `--${name}`);
  const client = called("client", "dist/client.js");
  return `Usage: ${called("drill", "drill.mjs")} [${command}] [settings]\n\n${does[0]?.toUpperCase()}${
    does.slice(1)
  }.\n` +
    "Exit 0: every handover was graceful; 1: one was not; 2: it could not run.\n\n" +
    `Commands:\n\n${commands.join("")}\nSettings:\n\n` +
    rows.map(([flag = "", fallback = "", text]) => `  ${flag.padEnd(15)} ${fallback.padEnd(8)} ${text}\n`).join("") +
    (runsClient ? `\nHanded through to the client, see '${client} --help':\n\n  ${flags.join(" ")}\n` : "");
}

run(main);
