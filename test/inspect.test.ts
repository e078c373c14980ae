/** The check before a drill: what a workload's objects foretell, rule by rule; and what a target is. */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import process from "node:process";
import { describe, it, type TestContext } from "node:test";
// deno-fmt-ignore
import {
  type BudgetObject, cameTrue, CAUSES, highestOrdinal, inspect, INSPECTIONS, isSelected, type KubernetesObject, parseObjects,
  parseTarget, podsOf, type Prediction, quantity, refusalOf, REMEDIES, rolledPods, rolloutLeft, selectorInWords,
  type ServiceObject, type Target, targetInWords, type Workload, type WorkloadKind, type WorkloadObject, workloadsIn,
} from "../protocol.ts";
import { start } from "./helper.ts";

// ---- A workload without a fault, as a cluster has it, and what spoils it

type Checked = Required<{ [K in keyof Workload]: NonNullable<Workload[K]> }>;
type Main = Checked["object"]["spec"]["template"]["spec"]["containers"][number];

function healthy(): Checked {
  const labels = { app: "shop", tier: "web" };
  const main: Main = {
    name: "shop",
    image: "registry.example/shop:1",
    command: ["node", "server.js"],
    ports: [{ name: "web", containerPort: 8080 }],
    lifecycle: { preStop: { sleep: { seconds: 5 } } },
    readinessProbe: { httpGet: { path: "/ready", port: "web" } },
    livenessProbe: { httpGet: { path: "/live", port: "web" } },
    resources: { requests: { memory: "64Mi" }, limits: { memory: "128Mi" } },
  };
  const object: WorkloadObject = {
    metadata: { name: "shop" },
    spec: {
      replicas: 3,
      selector: { matchLabels: { app: "shop" } },
      strategy: { type: "RollingUpdate", rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } },
      template: { metadata: { labels }, spec: { containers: [main], terminationGracePeriodSeconds: 60 } },
    },
    status: { desiredNumberScheduled: 3 },
  };
  const metadata = { resourceVersion: "1", uid: "", name: "" };
  const pods: KubernetesObject[] = ["a", "b", "c"].map((name) => ({
    metadata: { ...metadata, name: `shop-${name}`, uid: name, labels },
    spec: { containers: structuredClone([main]) },
    status: { conditions: [{ type: "Ready", status: "True" }] },
  }));
  const slice = { ...metadata, name: "shop-1", labels: { "kubernetes.io/service-name": "shop" } };
  return {
    target: { kind: "deployment", name: "shop" },
    object,
    pods,
    services: [{
      metadata: { name: "shop" },
      spec: { selector: { app: "shop" }, ports: [{ port: 80, targetPort: "web" }] },
    }],
    budgets: [{ metadata: { name: "shop" }, spec: { maxUnavailable: 1, selector: { matchLabels: { app: "shop" } } } }],
    slices: [{ metadata: slice, endpoints: [{ conditions: { ready: true }, targetRef: { uid: "a" } }] }],
    events: [],
    configMaps: [],
    hosts: ["shop"],
  };
}

/** What a change reaches of the workload. */
interface Parts {
  all: Checked;
  spec: WorkloadObject["spec"];
  pod: WorkloadObject["spec"]["template"]["spec"];
  main: Main;
  service: NonNullable<ServiceObject["spec"]>;
  budget: NonNullable<BudgetObject["spec"]> & { status?: BudgetObject["status"] };
}

function changed(change: (parts: Parts) => unknown): Checked {
  const all = healthy();
  const { spec } = all.object;
  const pod = spec.template.spec;
  change({ all, spec, pod, main: pod.containers[0]!, service: all.services[0]!.spec!, budget: all.budgets[0]!.spec! });
  return all;
}

const kindOf = (kind: WorkloadKind) => ({ all, spec }: Parts) => {
  all.target = { kind, name: "shop" };
  delete spec.strategy;
};
const exec = (command: string[], image: string) => ({ main }: Parts) => {
  main.image = image;
  main.lifecycle = { preStop: { exec: { command } } };
};
const annotated = (safe: string) => ({ spec }: Parts) =>
  spec.template.metadata!.annotations = { "cluster-autoscaler.kubernetes.io/safe-to-evict": safe };
const configured = (name: string) => ({ all, main }: Parts) => {
  main.envFrom = [{ configMapRef: { name } }];
  all.configMaps = [{ metadata: { name: "settings" }, data: { DRAIN_TIMEOUT_MS: "50000", CLOSE_TIMEOUT_MS: "5s" } }];
};
const beside = (container: Main) => ({ pod }: Parts) => pod.containers.push(container);
const failedHook = ({ all }: Parts, uid: string) =>
  all.events = [{
    metadata: { name: "e", uid: "e", resourceVersion: "1" },
    reason: "FailedPreStopHook",
    message: "PreStopHook failed",
    involvedObject: { uid },
  }];
const both = (...changes: ((parts: Parts) => unknown)[]) => (parts: Parts) =>
  changes.forEach((change) => change(parts));

/** By rule: what has the fault, with field, value, and whether that is certain; and what has not, though it is near it. */
// deno-fmt-ignore
const FAULTY: [rule: string, title: string, change: (parts: Parts) => unknown, field: string, value: string, certain?: "certain"][] = [
  ["grace-zero", "a grace of 0", ({ pod, main }) => (pod.terminationGracePeriodSeconds = 0, main.lifecycle = { preStop: { sleep: { seconds: 5 } } }), "spec.template.spec.terminationGracePeriodSeconds", "0", "certain"],
  ["grace-too-short", "a preStop as long as the grace", ({ pod }) => pod.terminationGracePeriodSeconds = 5, "spec.template.spec.terminationGracePeriodSeconds", "5", "certain"],
  ["grace-too-short", "a preStop longer than the default grace", ({ pod, main }) => (delete pod.terminationGracePeriodSeconds, main.lifecycle!.preStop!.sleep!.seconds = 31), "spec.template.spec.terminationGracePeriodSeconds", "30", "certain"],
  ["grace-too-short", "9 s left for a drain of unknown length", ({ pod }) => pod.terminationGracePeriodSeconds = 14, "spec.template.spec.terminationGracePeriodSeconds", "14"],
  ["grace-too-short", "1 s left for a drain of unknown length", ({ pod }) => pod.terminationGracePeriodSeconds = 6, "spec.template.spec.terminationGracePeriodSeconds", "6"],
  ["grace-too-short", "a drain that takes all that is left, by our server's settings", configured("settings"), "spec.template.spec.terminationGracePeriodSeconds", "60", "certain"],
  ["grace-too-short", "a drain longer than what is left, by the environment", ({ main }) => main.env = [{ name: "DRAIN_TIMEOUT_MS", value: "60000" }], "spec.template.spec.terminationGracePeriodSeconds", "60", "certain"],
  ["prestop-missing", "no lifecycle", ({ main }) => delete main.lifecycle, "spec.template.spec.containers[0].lifecycle.preStop", "none"],
  ["prestop-missing", "a sleep of 1 s", ({ main }) => main.lifecycle!.preStop!.sleep!.seconds = 1, "spec.template.spec.containers[0].lifecycle.preStop", "sleep 1s"],
  ["prestop-without-shell", "a shell in a distroless image", exec(["/bin/sh", "-c", "sleep 10"], "gcr.io/distroless/nodejs24-debian13:nonroot"), "spec.template.spec.containers[0].lifecycle.preStop.exec.command", "/bin/sh -c sleep 10"],
  ["prestop-without-shell", "sleep in a Chainguard image", exec(["sleep", "10"], "cgr.dev/chainguard/node:latest"), "spec.template.spec.containers[0].lifecycle.preStop.exec.command", "sleep 10"],
  ["prestop-without-shell", "a hook that has failed", both(exec(["drain", "10"], "shop"), (parts) => failedHook(parts, "b")), "spec.template.spec.containers[0].lifecycle.preStop.exec.command", "drain 10", "certain"],
  ["one-replica", "one replica", ({ spec }) => spec.replicas = 1, "spec.replicas", "1"],
  ["one-replica", "no number of replicas", ({ spec }) => delete spec.replicas, "spec.replicas", "1 (the default)"],
  ["one-replica", "a StatefulSet of one", both(kindOf("statefulset"), ({ spec }) => spec.replicas = 1), "spec.replicas", "1", "certain"],
  ["rollout-without-peer", "Recreate", ({ spec }) => spec.strategy = { type: "Recreate" }, "spec.strategy.type", "Recreate", "certain"],
  ["rollout-without-peer", "all of three", ({ spec }) => spec.strategy!.rollingUpdate!.maxUnavailable = 3, "spec.strategy.rollingUpdate.maxUnavailable", "3: 3 of 3 pods", "certain"],
  ["rollout-without-peer", "two of three", ({ spec }) => spec.strategy!.rollingUpdate!.maxUnavailable = "67%", "spec.strategy.rollingUpdate.maxUnavailable", "67%: 2 of 3 pods"],
  ["rollout-without-peer", "one of two, for want of a surge", ({ spec }) => (spec.replicas = 2, spec.strategy!.rollingUpdate = { maxUnavailable: "25%", maxSurge: 0 }), "spec.strategy.rollingUpdate.maxUnavailable", "25%: 1 of 2 pods"],
  ["rollout-without-peer", "a DaemonSet on three nodes, two at a time", both(kindOf("daemonset"), ({ spec }) => spec.updateStrategy = { rollingUpdate: { maxUnavailable: "34%" } }), "spec.updateStrategy.rollingUpdate.maxUnavailable", "34%: 2 of 3 pods"],
  ["rollout-without-peer", "the only one", ({ spec }) => (spec.replicas = 1, spec.strategy!.rollingUpdate!.maxUnavailable = 1), "spec.strategy.rollingUpdate.maxUnavailable", "1: 1 of 1 pod", "certain"],
  ["rollout-without-peer", "the only one, by a surge that is none", ({ spec }) => (spec.replicas = 1, spec.strategy!.rollingUpdate!.maxSurge = "some"), "spec.strategy.rollingUpdate.maxUnavailable", "0: 1 of 1 pod", "certain"],
  ["rollout-without-peer", "a StatefulSet of two, both at once", both(kindOf("statefulset"), ({ spec }) => (spec.replicas = 2, spec.updateStrategy = { rollingUpdate: { maxUnavailable: 2 } })), "spec.updateStrategy.rollingUpdate.maxUnavailable", "2: 2 of 2 pods", "certain"],
  ["rollout-without-peer", "a DaemonSet on one node", both(kindOf("daemonset"), ({ all }) => all.object.status!.desiredNumberScheduled = 1), "spec.updateStrategy.rollingUpdate.maxUnavailable", "1 (the default): 1 of 1 pod", "certain"],
  ["rollout-without-peer", "a DaemonSet on one node, without a surge", both(kindOf("daemonset"), ({ all, spec }) => (all.object.status!.desiredNumberScheduled = 1, spec.updateStrategy = { rollingUpdate: { maxUnavailable: 0 } })), "spec.updateStrategy.rollingUpdate.maxUnavailable", "0: 1 of 1 pod", "certain"],
  ["no-budget", "none at all", ({ all }) => all.budgets = [], "PodDisruptionBudget", "none selects these pods"],
  ["no-budget", "none of one pod", ({ all, spec }) => (all.budgets = [], spec.replicas = 1), "PodDisruptionBudget", "none selects these pods"],
  ["no-budget", "one of other pods", ({ budget }) => budget.selector = { matchLabels: { app: "other" } }, "PodDisruptionBudget", "none selects these pods"],
  ["no-budget", "one without a selector", ({ budget }) => delete budget.selector, "PodDisruptionBudget", "none selects these pods"],
  ["budget-allows-nothing", "maxUnavailable 0", ({ budget }) => budget.maxUnavailable = 0, "poddisruptionbudget/shop spec.maxUnavailable", "0, of 3 pods"],
  ["budget-allows-nothing", "maxUnavailable 0%", ({ budget }) => budget.maxUnavailable = "0%", "poddisruptionbudget/shop spec.maxUnavailable", "0%, of 3 pods"],
  ["budget-allows-nothing", "minAvailable 3 of 3", ({ budget }) => (delete budget.maxUnavailable, budget.minAvailable = 3), "poddisruptionbudget/shop spec.minAvailable", "3, of 3 pods"],
  ["budget-allows-nothing", "minAvailable 67% of 3, rounded up", ({ budget }) => (delete budget.maxUnavailable, budget.minAvailable = "67%"), "poddisruptionbudget/shop spec.minAvailable", "67%, of 3 pods"],
  ["budget-allows-nothing", "none allowed though all are healthy", ({ all }) => all.budgets[0]!.status = { disruptionsAllowed: 0, currentHealthy: 3 }, "poddisruptionbudget/shop spec.maxUnavailable", "1, of 3 pods"],
  ["budget-allows-nothing", "two budgets", ({ all }) => all.budgets.push({ ...structuredClone(all.budgets[0]!), metadata: { name: "again" } }), "PodDisruptionBudget", "shop, again", "certain"],
  ["no-readiness", "no readiness probe", ({ main }) => delete main.readinessProbe, "spec.template.spec.containers[0].readinessProbe", "none"],
  ["readiness-exec", "a readiness probe by exec", ({ main }) => main.readinessProbe = { exec: { command: ["cat", "/ready"] } }, "spec.template.spec.containers[0].readinessProbe.exec.command", "cat /ready"],
  ["liveness-like-readiness", "the same path and port", ({ main }) => main.livenessProbe!.httpGet!.path = "/ready", "spec.template.spec.containers[0].livenessProbe", "httpGet /ready on 8080"],
  ["liveness-like-readiness", "the same port, by its number", ({ main }) => main.livenessProbe = { httpGet: { path: "/ready", port: 8080 } }, "spec.template.spec.containers[0].livenessProbe", "httpGet /ready on 8080"],
  ["sidecar-ends-first", "a proxy", beside({ name: "istio-proxy" }), "spec.template.spec.containers[1]", "container istio-proxy"],
  ["sidecar-ends-first", "another container with a port", beside({ name: "cache", ports: [{ containerPort: 6379 }] }), "spec.template.spec.containers[1]", "container cache"],
  ["sidecar-ends-first", "a proxy that was put into the pods", ({ all }) => all.pods[0]!.spec!.containers.push({ name: "linkerd-proxy" }), "pod/shop-a spec.containers", "container linkerd-proxy"],
  ["sidecar-ends-first", "a proxy of the template, which its pods have as well", ({ pod, all }) => [pod, all.pods[0]!.spec!].forEach(({ containers }) => containers.push({ name: "envoy" })), "spec.template.spec.containers[1]", "container envoy"],
  ["sidecar-ends-first", "a proxy whose hook is as long", beside({ name: "envoy", lifecycle: { preStop: { sleep: { seconds: 5 } } } }), "spec.template.spec.containers[1]", "container envoy"],
  ["sidecar-ends-first", "a proxy that is told not to wait for its connections", beside({ name: "istio-proxy", env: [{ name: "EXIT_ON_ZERO_ACTIVE_CONNECTIONS", value: "false" }, { name: "DEBUG", value: "true" }] }), "spec.template.spec.containers[1]", "container istio-proxy"],
  ["sidecar-ends-first", "a proxy listed first", ({ pod }) => pod.containers.unshift({ name: "envoy" }), "spec.template.spec.containers[0]", "container envoy"],
  ["pid-1-swallows", "npm start", ({ main }) => main.command = ["npm", "start"], "spec.template.spec.containers[0].command", "npm start"],
  ["pid-1-swallows", "yarn by its path, as arguments", ({ main }) => (delete main.command, main.args = ["/usr/local/bin/yarn", "start"]), "spec.template.spec.containers[0].args", "/usr/local/bin/yarn start"],
  ["pid-1-swallows", "a shell", ({ main }) => (main.command = ["/bin/sh", "-c"], main.args = ["migrate && node server.js"]), "spec.template.spec.containers[0].command", "/bin/sh -c migrate && node server.js"],
  ["session-affinity", "ClientIP", ({ service }) => service.sessionAffinity = "ClientIP", "service/shop spec.sessionAffinity", "ClientIP"],
  ["evicted-first", "no resources", ({ main }) => delete main.resources, "spec.template.spec.containers[0].resources.requests.memory", "none: BestEffort"],
  ["evicted-first", "limits without memory", ({ main }) => main.resources = { requests: { cpu: "50m" }, limits: { cpu: 1 } }, "spec.template.spec.containers[0].resources.requests.memory", "none"],
  ["evicted-first", "a request of no memory", ({ main }) => main.resources!.requests!["memory"] = "0Mi", "spec.template.spec.containers[0].resources.requests.memory", "none"],
  ["service-leads-elsewhere", "the Service that is dialled selects others", ({ service }) => service.selector = { app: "shop", tier: "api" }, "service/shop spec.selector", '{"app":"shop","tier":"api"}', "certain"],
  ["service-leads-elsewhere", "no Service selects the pods", both(({ service, all }) => (service.selector = { app: "other" }, all.hosts = ["gateway"])), "Service", "none selects these pods"],
  ["service-leads-elsewhere", "a Service without a selector", ({ service }) => service.selector = null, "Service", "none selects these pods"],
  ["service-leads-elsewhere", "a Service of one pod selects others", ({ service, spec }) => (spec.replicas = 1, service.selector = { app: "other" }), "service/shop spec.selector", '{"app":"other"}', "certain"],
  ["service-leads-elsewhere", "another Service's endpoint is ready", ({ all }) => all.slices[0]!.metadata.labels!["kubernetes.io/service-name"] = "other", "endpointslices of service/shop", "no ready endpoint, though a pod is ready", "certain"],
  ["service-leads-elsewhere", "no endpoint is ready, though one of the pods is", ({ all }) => (all.slices = [], all.pods.slice(1).forEach(({ status }) => status!.conditions = [])), "endpointslices of service/shop", "no ready endpoint, though a pod is ready", "certain"],
  ["service-leads-elsewhere", "no endpoint is ready", ({ all }) => all.slices[0]!.endpoints![0]!.conditions!.ready = false, "endpointslices of service/shop", "no ready endpoint, though a pod is ready", "certain"],
  ["service-leads-elsewhere", "there are no endpoints", ({ all }) => all.slices = [], "endpointslices of service/shop", "no ready endpoint, though a pod is ready", "certain"],
  ["target-port", "a name that no container has", ({ service }) => service.ports![0]!.targetPort = "http", "service/shop spec.ports[0].targetPort", "http", "certain"],
  ["target-port", "a number that no container declares", ({ service }) => service.ports = [{ port: 80 }], "service/shop spec.ports[0].targetPort", "80"],
  ["publishes-not-ready", "addresses of pods that are not ready", ({ service }) => service.publishNotReadyAddresses = true, "service/shop spec.publishNotReadyAddresses", "true"],
  ["autoscaler", "a grace that the autoscaler cuts", ({ pod }) => pod.terminationGracePeriodSeconds = 601, 'spec.template.metadata.annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"]', "none"],
  ["autoscaler", "safe to evict, and no budget", both(annotated("true"), ({ all }) => all.budgets = []), 'spec.template.metadata.annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"]', "true"],
];

// deno-fmt-ignore
const SOUND: [rule: string, title: string, change: (parts: Parts) => unknown][] = [
  ["grace-zero", "a grace of 1 s", ({ pod }) => pod.terminationGracePeriodSeconds = 1],
  ["grace-too-short", "a grace of 0, which is another rule's", ({ pod }) => pod.terminationGracePeriodSeconds = 0],
  ["grace-too-short", "a drain that takes no time", ({ main, pod }) => (main.env = [{ name: "DRAIN_TIMEOUT_MS", value: "0" }], pod.terminationGracePeriodSeconds = 6)],
  ["grace-too-short", "a drain a second shorter than what is left", ({ main }) => main.env = [{ name: "DRAIN_TIMEOUT_MS", value: "54000" }]],
  ["grace-too-short", "10 s left for a drain of unknown length", ({ pod }) => pod.terminationGracePeriodSeconds = 15],
  ["grace-too-short", "a hook of unknown length", both(exec(["drain"], "shop"), ({ pod }) => pod.terminationGracePeriodSeconds = 5)],
  ["grace-too-short", "the settings of another container", configured("other")],
  ["grace-too-short", "another application's word", ({ main }) => main.env = [{ name: "DRAIN_TIMEOUT_MS", value: "until midnight" }]],
  ["prestop-missing", "a hook of 2 s", exec(["/bin/sh", "-c", "sleep 2"], "shop")],
  ["prestop-missing", "a hook of unknown length", ({ main }) => main.lifecycle = { preStop: { httpGet: { path: "/drain" } } }],
  ["prestop-without-shell", "an image with a shell", exec(["/bin/sh", "-c", "sleep 10"], "node:24-alpine")],
  ["prestop-without-shell", "a distroless image with a shell for debugging", exec(["sh", "-c", "sleep 10"], "gcr.io/distroless/base:debug")],
  ["prestop-without-shell", "a program of its own in a distroless image", exec(["/app/drain"], "gcr.io/distroless/base")],
  ["prestop-without-shell", "a native sleep, though an event tells of a hook that has failed", (parts) => failedHook(parts, "b")],
  ["prestop-without-shell", "another pod's hook that has failed", both(exec(["drain"], "shop"), (parts) => failedHook(parts, "z"))],
  ["one-replica", "two replicas", ({ spec }) => spec.replicas = 2],
  ["one-replica", "a DaemonSet on one node", both(kindOf("daemonset"), ({ all }) => all.object.status!.desiredNumberScheduled = 1)],
  ["one-replica", "a DaemonSet", both(kindOf("daemonset"), ({ spec }) => delete spec.replicas)],
  ["rollout-without-peer", "the default of four: one at a time", ({ spec }) => (spec.replicas = 4, delete spec.strategy)],
  ["rollout-without-peer", "the default of three, which rounds down to none", ({ spec }) => delete spec.strategy],
  ["rollout-without-peer", "one of three", ({ spec }) => spec.strategy!.rollingUpdate!.maxUnavailable = 1],
  ["rollout-without-peer", "a StatefulSet of two, one after the other", both(kindOf("statefulset"), ({ spec }) => spec.replicas = 2)],
  ["rollout-without-peer", "a StatefulSet of one, which another rule tells of", both(kindOf("statefulset"), ({ spec }) => spec.replicas = 1)],
  ["rollout-without-peer", "none of none", ({ spec }) => (spec.replicas = 0, spec.strategy = { type: "Recreate" })],
  ["rollout-without-peer", "none of two", ({ spec }) => spec.replicas = 2],
  ["rollout-without-peer", "none of one", ({ spec }) => spec.replicas = 1],
  ["rollout-without-peer", "a share of one that is none", ({ spec }) => (spec.replicas = 1, spec.strategy!.rollingUpdate!.maxUnavailable = "some")],
  ["rollout-without-peer", "a DaemonSet that is replaced by hand", both(kindOf("daemonset"), ({ spec }) => spec.updateStrategy = { type: "OnDelete", rollingUpdate: { maxUnavailable: 3 } })],
  ["rollout-without-peer", "a DaemonSet on one node, with a surge", both(kindOf("daemonset"), ({ all, spec }) => (all.object.status!.desiredNumberScheduled = 1, spec.updateStrategy = { rollingUpdate: { maxUnavailable: 0, maxSurge: 1 } }))],
  ["rollout-without-peer", "a DaemonSet that is nowhere yet", both(kindOf("daemonset"), ({ all }) => delete all.object.status)],
  ["no-budget", "a budget that selects by expressions", ({ budget }) => budget.selector = { matchExpressions: [{ key: "app", operator: "In", values: ["shop", "other"] }] }],
  ["no-budget", "a budget of all pods", ({ budget }) => budget.selector = {}],
  ["no-budget", "a DaemonSet, which no drain evicts", both(kindOf("daemonset"), ({ all }) => all.budgets = [])],
  ["budget-allows-nothing", "maxUnavailable 1%, which rounds up to one", ({ budget }) => budget.maxUnavailable = "1%"],
  ["budget-allows-nothing", "minAvailable 66% of 3, which rounds up to two", ({ budget }) => (delete budget.maxUnavailable, budget.minAvailable = "66%")],
  ["budget-allows-nothing", "no pods", ({ budget, spec }) => (spec.replicas = 0, budget.maxUnavailable = 0)],
  ["budget-allows-nothing", "nobody knows how many pods", both(kindOf("daemonset"), ({ all, budget }) => (delete all.object.status, budget.maxUnavailable = 0))],
  ["budget-allows-nothing", "a budget that says nothing", ({ all, budget }) => (delete budget.maxUnavailable, all.budgets[0]!.status = { disruptionsAllowed: 0, currentHealthy: 3 })],
  ["budget-allows-nothing", "nobody knows how many are healthy", ({ all, spec }) => (spec.replicas = 1, all.budgets[0]!.status = { disruptionsAllowed: 0 })],
  ["budget-allows-nothing", "none allowed for the moment", ({ all }) => all.budgets[0]!.status = { disruptionsAllowed: 0, currentHealthy: 2 }],
  ["no-readiness", "a readiness probe by TCP", ({ main }) => main.readinessProbe = {}],
  ["readiness-exec", "liveness by exec", ({ main }) => main.livenessProbe = { exec: { command: ["true"] } }],
  ["liveness-like-readiness", "no liveness probe", ({ main }) => delete main.livenessProbe],
  ["liveness-like-readiness", "the same path on another port", ({ main }) => main.livenessProbe = { httpGet: { path: "/ready", port: 9090 } }],
  ["liveness-like-readiness", "two probes by TCP", ({ main }) => (main.livenessProbe = {}, main.readinessProbe = {})],
  ["sidecar-ends-first", "a native sidecar", ({ pod }) => pod.initContainers = [{ name: "istio-proxy", restartPolicy: "Always" }]],
  ["sidecar-ends-first", "a log shipper", beside({ name: "fluent-bit" })],
  ["sidecar-ends-first", "a proxy whose hook nobody knows how long is", beside({ name: "envoy", lifecycle: { preStop: { exec: { command: ["drain"] } } } })],
  ["sidecar-ends-first", "a proxy that was put into a pod that is ending", ({ all }) => (all.pods[0]!.metadata.deletionTimestamp = "2026-11-22T18:54:34Z", all.pods[0]!.spec!.containers.push({ name: "linkerd-proxy" }))],
  ["sidecar-ends-first", "a proxy whose hook is longer", beside({ name: "envoy", lifecycle: { preStop: { sleep: { seconds: 30 } } } })],
  ["sidecar-ends-first", "a proxy that waits for its connections", beside({ name: "istio-proxy", env: [{ name: "EXIT_ON_ZERO_ACTIVE_CONNECTIONS", value: "true" }] })],
  ["pid-1-swallows", "a shell that hands over", ({ main }) => main.command = ["sh", "-c", "migrate && exec node server.js"]],
  ["pid-1-swallows", "npm below an init", ({ main }) => main.command = ["tini", "--", "npm", "start"]],
  ["pid-1-swallows", "a shell in a shared process namespace", ({ main, pod }) => (main.command = ["npm", "start"], pod.shareProcessNamespace = true)],
  ["pid-1-swallows", "the image's own command", ({ main }) => delete main.command],
  ["session-affinity", "None", ({ service }) => service.sessionAffinity = "None"],
  ["evicted-first", "a request of one byte", ({ main }) => main.resources = { requests: { memory: "1" } }],
  ["evicted-first", "a limit, which is a request as well", ({ main }) => main.resources = { limits: { memory: "1e8" } }],
  ["service-leads-elsewhere", "no Service at all", ({ all }) => all.services = []],
  ["service-leads-elsewhere", "no pods, and a Service that selects others", ({ spec, service }) => (spec.replicas = 0, service.selector = { app: "other" })],
  ["service-leads-elsewhere", "no pod is ready, though one is initialized", ({ all }) => (all.slices = [], all.pods.forEach(({ status }) => status!.conditions = [{ type: "Ready", status: "False" }, { type: "Initialized", status: "True" }]))],
  ["service-leads-elsewhere", "no pod is ready yet", ({ all }) => (all.slices = [], all.pods.forEach(({ status }) => status!.conditions = []))],
  ["service-leads-elsewhere", "an endpoint that does not say whether it is ready", ({ all }) => delete all.slices[0]!.endpoints![0]!.conditions],
  ["target-port", "a number that a container declares", ({ service }) => service.ports![0]!.targetPort = 8080],
  ["target-port", "a number, and no container declares any", ({ service, main }) => (service.ports![0]!.targetPort = 8080, delete main.ports)],
  ["publishes-not-ready", "another Service, which is not dialled", ({ all }) => all.services.push({ metadata: { name: "peers" }, spec: { selector: { app: "shop" }, publishNotReadyAddresses: true } })],
  ["autoscaler", "as much grace as it leaves", ({ pod }) => pod.terminationGracePeriodSeconds = 600],
  ["autoscaler", "a long grace, and not to be evicted", both(annotated("false"), ({ pod }) => pod.terminationGracePeriodSeconds = 3600)],
  ["autoscaler", "safe to evict, with a budget", annotated("true")],
];

const GRACE = "or more: preStop + drain, and a margin";
const LEFT = "left for the drain";
/** What a prediction says where that depends on the objects. */
// deno-fmt-ignore
const SAID: [rule: string, title: string, change: (parts: Parts) => unknown, fix: string, text: string][] = [
  ["grace-too-short", "a preStop as long as the grace", ({ pod }) => pod.terminationGracePeriodSeconds = 5, `35 ${GRACE}`, "preStop takes all of it: SIGTERM comes when the time is over"],
  ["grace-too-short", "1 s left", ({ pod }) => pod.terminationGracePeriodSeconds = 6, `35 ${GRACE}`, `at most 1s ${LEFT}: preStop takes 5s`],
  ["grace-too-short", "no preStop, and 5 s", ({ pod, main }) => (delete main.lifecycle, pod.terminationGracePeriodSeconds = 5), `30 ${GRACE}`, `at most 5s ${LEFT}: preStop takes 0s`],
  ["grace-too-short", "our server's settings", configured("settings"), `65 ${GRACE}`, `55s ${LEFT}, which may take 55s: preStop takes 5s`],
  ["grace-too-short", "a drain of 55 s by the environment alone", ({ main }) => main.env = [{ name: "DRAIN_TIMEOUT_MS", value: "55000" }], `65 ${GRACE}`, `55s ${LEFT}, which may take 55s: preStop takes 5s`],
  ["prestop-missing", "no lifecycle", ({ main }) => delete main.lifecycle, "sleep: { seconds: 5 }", "new connections still come after SIGTERM"],
  ["prestop-without-shell", "a hook that sleeps 1.5 s", exec(["sleep", "1.5"], "scratch"), "sleep: { seconds: 2 }", "scratch is likely to have no sleep: then SIGTERM comes at once"],
  ["prestop-without-shell", "a hook that sleeps an hour", exec(["sleep", "1h"], "scratch"), "sleep: { seconds: 3600 }", "scratch is likely to have no sleep: then SIGTERM comes at once"],
  ["prestop-without-shell", "a hook of unknown length that has failed", both(exec(["drain", "10"], "shop"), (parts) => failedHook(parts, "b")), "sleep: { seconds: 5 }", "PreStopHook failed"],
  ["one-replica", "a Deployment", ({ spec }) => spec.replicas = 1, "2 or more", "whatever ends it, but a rollout that surges, leaves no ready pod"],
  ["one-replica", "a StatefulSet", both(kindOf("statefulset"), ({ spec }) => spec.replicas = 1), "2 or more", "its pod ends before the next one is made"],
  ["rollout-without-peer", "all of three", ({ spec }) => spec.strategy!.rollingUpdate!.maxUnavailable = 3, "0, with maxSurge: 1", "a rollout may end all pods at once"],
  ["rollout-without-peer", "a DaemonSet, two of three", both(kindOf("daemonset"), ({ spec }) => spec.updateStrategy = { rollingUpdate: { maxUnavailable: 2 } }), "fewer, or more pods", "a rollout leaves one pod for all sessions"],
  ["budget-allows-nothing", "three pods", ({ budget }) => budget.maxUnavailable = 0, "maxUnavailable: 1", "no eviction is ever allowed: a node's drain waits until somebody forces it"],
  ["budget-allows-nothing", "two pods", ({ budget, spec }) => (spec.replicas = 2, budget.maxUnavailable = 0), "maxUnavailable: 1", "no eviction is ever allowed: a node's drain waits until somebody forces it"],
  ["budget-allows-nothing", "one pod", ({ budget, spec }) => (spec.replicas = 1, budget.maxUnavailable = 0), "maxUnavailable: 1, and 2 replicas or more", "no eviction is ever allowed: a node's drain waits until somebody forces it"],
  ["pid-1-swallows", "npm start", ({ main }) => main.command = ["npm", "start"], "the program itself", "npm is PID 1 and may not hand the signal on"],
  ["pid-1-swallows", "a shell", ({ main }) => main.command = ["sh", "-c", "node server.js"], "exec before the last command", "sh is PID 1 and may not hand the signal on"],
  ["service-leads-elsewhere", "a dialled Service", ({ service }) => service.selector = { app: "other" }, "labels of the pods: app=shop,tier=web", "what is dialled does not lead here"],
  ["service-leads-elsewhere", "pods without labels", ({ spec }) => delete spec.template.metadata!.labels, "labels of the pods: they have none", "what is dialled does not lead here"],
  ["target-port", "a name", ({ service }) => service.ports![0]!.targetPort = "http", "web", "no container has a port of this name"],
  ["target-port", "a number", ({ service, main }) => (service.ports = [{ port: 80 }], main.ports!.push({ containerPort: 9090 })), "web or 9090", "no container declares this port"],
  ["target-port", "a name, and no container has a port", ({ main }) => delete main.ports, "a port of that name", "no container has a port of this name"],
];

const foretoldBy = (rule: string, workload: Workload): Prediction[] =>
  inspect(workload).predictions.filter((prediction) => prediction.rule === rule);

describe("the check", () => {
  it("foretells nothing of a workload without a fault, and says what is left for its drain", () => {
    assert.deepEqual(inspect(healthy()), {
      target: "deployment/shop",
      predictions: [],
      notes: ["left for the drain: at most 55s of 60s, preStop is sleep 5s"],
      unseen: [],
    });
  });

  it("says what is left for the drain", () => {
    const left = (change: (parts: Parts) => unknown) =>
      inspect(changed(change)).notes[0]!.replace("left for the drain: ", "");
    assert.deepEqual(
      [
        left(({ main }) => delete main.lifecycle),
        left(({ main }) => main.lifecycle!.preStop!.sleep!.seconds = 70),
        left(exec(["drain"], "shop")),
      ],
      [
        "at most 60s of 60s, no preStop",
        "at most 0s of 60s, preStop is sleep 70s",
        "less than 60s of 60s, preStop is drain",
      ],
    );
  });

  for (const [rule, title, change, field, value, certain] of FAULTY) {
    it(`foretells (${rule}) of ${title}, with field, value and fix`, () => {
      const predictions = foretoldBy(rule, changed(change));
      assert.deepEqual(
        predictions.map(({ field, value, certain }) => ({ field, value, certain })),
        [{ field, value, certain: certain === "certain" }],
      );
      for (const { text, fix, foretells } of predictions) for (const said of [text, fix, ...foretells]) assert.ok(said);
    });
  }

  for (const [rule, title, change, fix, text] of SAID) {
    it(`says (${rule}) of ${title} what is wrong, and what would mend it`, () => {
      assert.deepEqual(foretoldBy(rule, changed(change)).map(({ fix, text }) => [fix, text]), [[fix, text]]);
    });
  }

  for (const [rule, title, change] of SOUND) {
    it(`foretells nothing (${rule}) of ${title}`, () => assert.deepEqual(foretoldBy(rule, changed(change)), []));
  }

  it("has of every rule one case with the fault and one without, and foretells what a result can show", () => {
    const rules = INSPECTIONS.map(({ rule }) => rule);
    assert.deepEqual([...new Set(FAULTY.map(([rule]) => rule))], rules);
    assert.deepEqual([...new Set(SOUND.map(([rule]) => rule))], rules);
    const known = [...Object.keys(REMEDIES), ...Object.keys(CAUSES), "RECONNECT_STORM", "UNEVEN"];
    for (const { foretells } of INSPECTIONS) for (const name of foretells) assert.ok(known.includes(name), name);
  });

  it("is silent about what could not be looked at", () => {
    const { target, object } = healthy();
    assert.deepEqual(inspect({ target, object }, ["Cannot list services"]), {
      target: "deployment/shop",
      predictions: [],
      notes: ["left for the drain: at most 55s of 60s, preStop is sleep 5s"],
      unseen: ["Cannot list services"],
    });
  });

  it("says how often each prediction came true: failed handovers by symptom or cause, and findings", () => {
    const handover = { verdict: "failed", symptom: "CUT_WITHOUT_NOTICE", cause: "ENDPOINT_RACE" } as const;
    const slow = { verdict: "failed", symptom: "SLOW_RECONNECT", cause: null } as const;
    const graceful = { verdict: "graceful", symptom: null, cause: null } as const;
    const came = (foretells: string[]) =>
      cameTrue({ foretells }, [handover, handover, slow, graceful], [{ name: "ENDPOINT_RACE" }, { name: "UNEVEN" }]);
    assert.deepEqual([came(["ENDPOINT_RACE"]), came(["SLOW_RECONNECT", "UNEVEN"]), came(["EVICTED"])], [3, 2, 0]);
  });
});

describe("what Kubernetes counts", () => {
  it("is a number of pods or a share of them, rounded as the field says", () => {
    // deno-fmt-ignore
    const shares: [value: number | string, all: number, round: "up" | "down", pods: number | undefined][] = [
      [1, 5, "down", 1], [0, 5, "up", 0], ["25%", 4, "down", 1], ["25%", 3, "down", 0], ["25%", 3, "up", 1],
      ["25%", 5, "up", 2], ["100%", 3, "down", 3], ["0%", 3, "up", 0], ["150%", 2, "up", 3],
      ["25", 4, "up", undefined], ["2.5%", 4, "up", undefined], ["", 4, "up", undefined],
    ];
    for (const [value, all, round, pods] of shares) assert.equal(podsOf(value, all, round), pods, `${value} of ${all}`);
  });

  it("is a quantity with its suffix, decimal or binary", () => {
    // deno-fmt-ignore
    const quantities: [text: string | number, number: number][] = [
      ["128Mi", 2 ** 27], ["1Gi", 2 ** 30], ["1G", 1e9], ["500m", 0.5], ["1.5k", 1500], [".5Ki", 512],
      ["2Ti", 2 ** 41], ["1Pi", 2 ** 50], ["1Ei", 2 ** 60], ["1e3", 1000], ["1E3", 1000], ["1E", 1e18], ["129e6", 129e6], ["+2", 2], [7, 7], ["0", 0], ["2.", 2],
    ];
    for (const [text, number] of quantities) assert.equal(quantity(text), number, String(text));
    for (const text of ["", "Mi", "1MiB", "1 Mi", "one", "1K", "--1"]) assert.ok(Number.isNaN(quantity(text)), text);
  });

  it("is selected by labels and expressions, which a query says in one line", () => {
    const selector = {
      matchLabels: { app: "shop" },
      matchExpressions: [
        { key: "tier", operator: "In", values: ["web", "api"] },
        { key: "canary", operator: "DoesNotExist" },
        { key: "zone", operator: "NotIn", values: ["c"] },
        { key: "version", operator: "Exists" },
      ],
    };
    assert.equal(selectorInWords(selector), "app=shop,tier in (web,api),!canary,zone notin (c),version");
    const labels = { app: "shop", tier: "api", version: "1" };
    for (const more of [{}, { zone: "a" }]) assert.ok(isSelected(selector, { ...labels, ...more }));
    assert.ok(!isSelected({ matchExpressions: [{ key: "app", operator: "Like", values: ["shop"] }] }, labels));
    for (const other of [{ app: "x" }, { tier: "db" }, { canary: "" }, { zone: "c" }]) {
      assert.ok(!isSelected(selector, { ...labels, ...other }), JSON.stringify(other));
    }
    assert.ok(!isSelected(selector, { app: "shop", tier: "api" }));
    assert.deepEqual([isSelected({}, {}), isSelected({ matchLabels: { app: "shop" } })], [true, false]);
  });
});

describe("a target", () => {
  it("is named as kubectl names it; a name alone is a Deployment's", () => {
    // deno-fmt-ignore
    const names: [text: string, target: string][] = [
      ["deployment/shop-api", "deployment/shop-api"], ["deploy/shop", "deployment/shop"],
      ["statefulset/db.main", "statefulset/db.main"], ["sts/db", "statefulset/db"],
      ["DaemonSet/log", "daemonset/log"], ["ds/log", "daemonset/log"], ["shop", "deployment/shop"],
    ];
    for (const [text, target] of names) assert.equal(targetInWords(parseTarget(text)), target);
    for (
      const text of ["", "deployment/", "/shop", "rollout/shop", "replicaset/shop", "pod/shop", "a/b/c", "deploy/Shop"]
    ) {
      assert.throws(() => parseTarget(text), /^RangeError: must be deployment\/NAME, .* --disrupt watch with /, text);
    }
  });

  const target = (kind: WorkloadKind): Target => ({ kind, name: "shop" });
  const workload = (spec: Partial<WorkloadObject["spec"]>, status: WorkloadObject["status"] = {}): WorkloadObject => ({
    metadata: { name: "shop", generation: 2 },
    spec: { replicas: 3, template: { spec: { containers: [] } }, ...spec },
    status: { observedGeneration: 2, ...status },
  });

  it("is refused in one line where it cannot be disrupted so", () => {
    const partition = (number: number) => ({ updateStrategy: { rollingUpdate: { partition: number } } });
    // deno-fmt-ignore
    const refusals: [disrupt: string, kind: WorkloadKind, spec: Partial<WorkloadObject["spec"]>, refusal: string | undefined][] = [
      ["rollout", "deployment", {}, undefined],
      ["rollout", "deployment", { paused: true }, "Cannot roll deployment/shop: it is paused"],
      ["delete", "deployment", { paused: true }, undefined],
      ["rollout", "deployment", { replicas: 0 }, "Cannot roll deployment/shop: it has no pods"],
      ["rollout", "statefulset", partition(2), undefined],
      ["rollout", "statefulset", partition(3), "Cannot roll statefulset/shop: its partition 3 leaves out every pod"],
      ["rollout", "statefulset", { updateStrategy: { type: "OnDelete" } }, "Cannot roll statefulset/shop: its updateStrategy is OnDelete, which replaces a pod once somebody deletes it: disrupt delete"],
      ["rollout", "daemonset", { updateStrategy: { type: "OnDelete" } }, "Cannot roll daemonset/shop: its updateStrategy is OnDelete, which replaces a pod once somebody deletes it: disrupt delete"],
      ["scale-in", "statefulset", {}, undefined],
      ["scale-in", "statefulset", { replicas: 2 }, undefined],
      ["scale-in", "statefulset", { replicas: 1 }, "Cannot scale in statefulset/shop: it has 1 replica, and two are needed"],
      ["scale-in", "daemonset", {}, "Cannot scale in daemonset/shop: a DaemonSet has a pod on each node, and no replicas: delete or watch"],
      ["drain", "deployment", {}, undefined],
      ["drain", "daemonset", {}, "Cannot drain daemonset/shop: kubectl drain leaves a DaemonSet's pods where they are: delete or watch"],
    ];
    for (const [disrupt, kind, spec, refusal] of refusals) {
      assert.equal(refusalOf(disrupt, target(kind), workload(spec, { desiredNumberScheduled: 3 })), refusal);
    }
  });

  it("has rolled once the fields say so that its kind has", () => {
    const partition = { updateStrategy: { rollingUpdate: { partition: 2 } } };
    const revisions = (currentRevision: string) => ({ currentRevision, updateRevision: "b" });
    // deno-fmt-ignore
    const states: [kind: WorkloadKind, spec: Partial<WorkloadObject["spec"]>, status: WorkloadObject["status"], left: string][] = [
      ["deployment", {}, { observedGeneration: 1, updatedReplicas: 3, replicas: 3, availableReplicas: 3 }, "the controller to see it"],
      ["deployment", {}, {}, "0 of 3 pods updated"],
      ["deployment", {}, { updatedReplicas: 3, replicas: 3 }, "0 of 3 pods available"],
      ["deployment", {}, { updatedReplicas: 1, replicas: 4, availableReplicas: 3 }, "1 of 3 pods updated"],
      ["deployment", {}, { updatedReplicas: 3, replicas: 4, availableReplicas: 4 }, "1 old pod to end"],
      ["deployment", {}, { updatedReplicas: 3, replicas: 3, availableReplicas: 2 }, "2 of 3 pods available"],
      ["deployment", {}, { updatedReplicas: 3, replicas: 3, availableReplicas: 3 }, ""],
      ["statefulset", {}, { updatedReplicas: 2, readyReplicas: 2, ...revisions("a") }, "2 of 3 pods updated"],
      ["statefulset", {}, { updatedReplicas: 3, readyReplicas: 3, ...revisions("a") }, "revision b to become the current one"],
      ["statefulset", {}, { updatedReplicas: 3, readyReplicas: 2, ...revisions("b") }, "2 of 3 pods available"],
      ["statefulset", {}, { updatedReplicas: 3, readyReplicas: 3, ...revisions("b") }, ""],
      ["statefulset", partition, { updatedReplicas: 0, readyReplicas: 3, ...revisions("a") }, "0 of 1 pod updated"],
      ["statefulset", partition, { updatedReplicas: 1, readyReplicas: 3, ...revisions("a") }, ""],
      ["daemonset", {}, { desiredNumberScheduled: 5, updatedNumberScheduled: 4, numberAvailable: 5 }, "4 of 5 pods updated"],
      ["daemonset", {}, { desiredNumberScheduled: 5, updatedNumberScheduled: 5, numberAvailable: 4 }, "4 of 5 pods available"],
      ["daemonset", {}, { desiredNumberScheduled: 5, updatedNumberScheduled: 5, numberAvailable: 5 }, ""],
    ];
    for (const [kind, spec, status, left] of states) {
      assert.equal(rolloutLeft(target(kind), workload(spec, status)), left, `${kind} ${JSON.stringify(status)}`);
    }
    const unseen = (kind: WorkloadKind, generation?: number) => {
      const { spec } = workload({ replicas: 0 });
      return rolloutLeft(target(kind), { metadata: { name: "shop", ...generation && { generation } }, spec });
    };
    assert.deepEqual([unseen("deployment"), unseen("daemonset"), unseen("deployment", 1)], [
      "",
      "",
      "the controller to see it",
    ]);
    assert.equal(rolledPods(target("statefulset"), workload(partition)), 1);
    assert.equal(rolledPods(target("daemonset"), workload({})), undefined);
  });

  it("of a StatefulSet gives up the pod with the highest ordinal, wherever these begin", () => {
    const single = workload({});
    delete single.spec.replicas;
    assert.equal(highestOrdinal(target("statefulset"), single), "shop-0");
    assert.equal(highestOrdinal(target("statefulset"), workload({})), "shop-2");
    assert.equal(highestOrdinal(target("statefulset"), workload({ ordinals: { start: 5 } })), "shop-7");
  });
});

// ---- Files

/** The healthy workload as objects of a file. */
function files(change: (parts: Parts) => unknown = () => {}): object[] {
  const { object, services, budgets, configMaps } = changed(change);
  return [
    { apiVersion: "apps/v1", kind: "Deployment", ...object },
    ...services.map((service) => ({ kind: "Service", ...service })),
    ...budgets.map((budget) => ({ kind: "PodDisruptionBudget", ...budget })),
    ...configMaps.map((map) => ({ kind: "ConfigMap", ...map })),
  ];
}

describe("a file of objects", () => {
  const newFolder = (t: TestContext) => {
    const folder = mkdtempSync("dist/check-");
    t.after(() => rmSync(folder, { recursive: true }));
    return folder;
  };
  const other = {
    kind: "Deployment",
    metadata: { name: "worker" },
    spec: { template: { spec: { containers: [{ name: "worker" }] } } },
  };

  it("is one object, a List, an array, or one after the other, in lines or not", () => {
    const objects = files();
    const texts = [
      JSON.stringify({ kind: "List", items: objects }),
      JSON.stringify(objects),
      objects.map((object) => JSON.stringify(object)).join("\n"),
      objects.map((object) => JSON.stringify(object, undefined, 4)).join("\n"),
      objects.map((object) => JSON.stringify(object)).join(""),
      JSON.stringify([{ kind: "List", items: objects.slice(0, 1) }, { kind: "PodList", items: objects.slice(1) }]),
    ];
    for (const text of texts) assert.deepEqual(parseObjects(text), objects);
    assert.deepEqual(parseObjects('{"kind":"A","metadata":{"name":"}{\\"]"},"spec":null}'), [
      { kind: "A", metadata: { name: '}{"]' } },
    ]);
    const named = (name: string) => ({ kind: "A", metadata: { name, namespace: "" } });
    assert.deepEqual(
      parseObjects(["a", "b"].map((name) => JSON.stringify(named(name))).join("")),
      ["a", "b"].map(named),
    );
  });

  it("that is none is one line, which names object and field", () => {
    const deployment = (spec: object) => JSON.stringify({ kind: "Deployment", metadata: { name: "a" }, spec });
    // deno-fmt-ignore
    const complaints: [text: string, complaint: RegExp][] = [
      ["", /^--check reads objects as JSON: nothing came$/],
      ["apiVersion: v1\nkind: Pod\n", /^--check reads objects as JSON: of this YAML `kubectl label --local --dry-run=client -o json -f - checked=yes` makes some$/],
      ["---\nkind: Pod\n", /: of this YAML /],
      ["{", /^--check reads objects as JSON: '\{' is none$/],
      ["{} garbage", /: 'garbage' is none$/],
      ["x".repeat(41), /: 'x{40}' is none$/],
      ["12", /^--check cannot read an object: object must be an object$/],
      ['{"metadata":{"name":"a"}}', /^--check cannot read a: kind is missing$/],
      ['{"kind":"Pod","metadata":{"name":"\\u001b[2J"},"spec":{}}', /^--check cannot read Pod\/\S*: spec\.containers is missing$/],
      [deployment({}), /^--check cannot read Deployment\/a: spec\.template is missing$/],
      [deployment({ replicas: "2", template: { spec: { containers: [] } } }), /: spec\.replicas must be a number$/],
      [deployment({ template: { spec: { containers: [{ name: "a", command: "npm" }] } } }), /: spec\.template\.spec\.containers\[0\]\.command must be a list$/],
      [deployment({ template: { metadata: { labels: { a: {} } }, spec: { containers: [] } } }), /: spec\.template\.metadata\.labels must be a map$/],
      [deployment({ template: { metadata: { labels: { a: "b", c: true } }, spec: { containers: [] } } }), /: spec\.template\.metadata\.labels must be a map$/],
      [deployment({ template: { spec: { containers: [], shareProcessNamespace: "yes" } } }), /: spec\.template\.spec\.shareProcessNamespace must be a boolean$/],
    ];
    for (const [text, complaint] of complaints) {
      assert.throws(() => parseObjects(text), ({ message }: Error) => complaint.test(message), text);
    }
  });

  it("is checked for the target that is named, else for what a Service leads to, else for all", () => {
    const targets = (objects: object[], asked?: string) =>
      workloadsIn(parseObjects(JSON.stringify(objects)), asked === undefined ? undefined : parseTarget(asked), [])
        .map(({ target }) => targetInWords(target));
    const peers = { kind: "Service", metadata: { name: "peers" }, spec: { selector: { app: "peers" } } };
    assert.deepEqual(targets([other, peers, ...files()]), ["deployment/shop"]);
    assert.deepEqual(targets([other, ...files()], "worker"), ["deployment/worker"]);
    assert.deepEqual(targets([other]), ["deployment/worker"]);
    assert.throws(
      () => targets([other], "sts/worker"),
      /^Error: --check needs statefulset\/worker: what came is deployment\/worker$/,
    );
    assert.throws(() => targets(files().slice(1)), /: what came is Service, PodDisruptionBudget$/);
    const empty = { ...other, spec: { template: { spec: { containers: [] } } } };
    const [workload] = workloadsIn(parseObjects(JSON.stringify(empty)), undefined, []);
    assert.throws(() => inspect(workload!), /^Error: deployment\/worker has no containers$/);
  });

  it("has pods of which it says no endpoints, and pods of others", () => {
    const { pods } = healthy();
    const rulesOf = (app: string) => {
      const labels = { app, tier: "web" };
      const objects = pods.map((pod) => ({
        ...structuredClone(pod),
        kind: "Pod",
        metadata: { ...pod.metadata, labels },
      }));
      objects[0]!.spec!.containers.push({ name: "linkerd-proxy" });
      const [workload] = workloadsIn(parseObjects(JSON.stringify([...files(), ...objects])), undefined, []);
      return inspect(workload!).predictions.map(({ rule }) => rule);
    };
    assert.deepEqual([rulesOf("shop"), rulesOf("other")], [["sidecar-ends-first"], []]);
  });

  it("has a Service by which others find it, and no other need be there", () => {
    const objects = files(({ service }) => service.sessionAffinity = "ClientIP");
    const [workload] = workloadsIn(parseObjects(JSON.stringify(objects)), undefined, []);
    assert.deepEqual(inspect(workload!).predictions.map(({ rule }) => rule), ["session-affinity"]);
  });

  it("keeps namespaces apart", () => {
    const [deployment, service, budget] = files() as { metadata: object }[];
    const elsewhere = { ...budget!, metadata: { ...budget!.metadata, namespace: "elsewhere" } };
    const [workload] = workloadsIn(parseObjects(JSON.stringify([deployment, service, elsewhere])), undefined, []);
    assert.deepEqual(inspect(workload!).predictions.map(({ rule }) => rule), ["no-budget"]);
  });

  it("is checked by --check, without a cluster: exit 0 where nothing is foretold, 1 where something is, 2 where it cannot be read", async (t) => {
    const check = async (text: string, ...flags: string[]) => {
      const client = start(t, [process.execPath, "dist/client.js", "--check", "-", ...flags], {}, "pipe");
      client.child.stdin!.end(text);
      const { code } = await client.exited;
      return { code, stdout: client.stdout(), lines: client.lines };
    };
    const [sound, faulty] = [files(), files(({ main }) => delete main.lifecycle)].map((objects) =>
      JSON.stringify(objects)
    );
    assert.deepEqual(await check(sound!), {
      code: 0,
      stdout: "\ndeployment/shop\n\n  left for the drain: at most 55s of 60s, preStop is sleep 5s\n\n" +
        "PASS  deployment/shop: nothing is foretold\n",
      lines: [],
    });
    const text = await check(faulty!);
    assert.equal(text.code, 1);
    assert.match(
      text.stdout,
      /^ {2}ENDPOINT_RACE {2}possible\n {4}spec\.template\.spec\.containers\[0\]\.lifecycle\.preStop: none\n {4}.+\n {4}→ sleep: \{ seconds: 5 \}$/m,
    );
    assert.equal(text.stdout.trimEnd().split("\n").at(-1), "FAIL  deployment/shop: 1 foretold: ENDPOINT_RACE");
    const file = `${newFolder(t)}/check.json`;
    const json = await check(faulty!, "--json", `--report=${file}`);
    const result = JSON.parse(json.stdout);
    assert.deepEqual([json.code, result.verdict, result.inspections.length], [1, "FAIL", 1]);
    assert.deepEqual(result.inspections[0].predictions[0].foretells, ["ENDPOINT_RACE"]);
    assert.deepEqual(JSON.parse(readFileSync(file, "utf8")), result);
    const nothing = await check("");
    assert.deepEqual([nothing.code, nothing.stdout, nothing.lines], [2, "", [
      "--check reads objects as JSON: nothing came",
    ]]);
  });

  it("is read from its path; what cannot be is one line and exit 2", async (t) => {
    const folder = newFolder(t);
    const file = `${folder}/objects.json`;
    writeFileSync(file, JSON.stringify(files()));
    const check = async (...flags: string[]) => {
      const client = start(t, [process.execPath, "dist/client.js", ...flags]);
      return [(await client.exited).code, client.lines];
    };
    assert.deepEqual(await check(`--check=${file}`, "--target=shop"), [0, []]);
    assert.deepEqual(await check(`--check=${file}`, "--target=ds/shop"), [2, [
      "--check needs daemonset/shop: what came is deployment/shop",
    ]]);
    assert.deepEqual(await check(`--check=${file}`, "--disrupt=delete"), [2, [
      "--check looks at a file, --disrupt delete at a cluster: one of them",
    ]]);
    assert.deepEqual(await check(`--check=${file}`, `--report=${folder}/check.md`), [2, [
      `--report ${folder}/check.md: a check is written as .json only`,
    ]]);
    const [code, lines] = await check("--check=/no/such/file") as [number, string[]];
    assert.equal(code, 2);
    assert.match(lines.join("\n"), /^Cannot read --check \/no\/such\/file: ENOENT.*$/);
  });
});
