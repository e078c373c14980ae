import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import process from "node:process";
import { describe, it, type TestContext } from "node:test";
import { DISRUPTIONS, type Result } from "../client.ts";
import { RecordReader, renderRecord } from "../report.mjs";
import { certificate } from "./api-server.ts";
import { type Played, type Recorded, startCluster, twoNodes } from "./cluster.ts";
import { has, run, start } from "./helper.ts";
import { NAMESPACE, type Need, type Scenario, startKubernetes } from "./kubernetes-api.ts";

const skip = !has("kubectl", "version", "--client")
  ? "kubectl drives the drill, and there is none here"
  : !certificate() &&
    "openssl makes the API server's certificate, and there is none here";

/** Starts a drill of a cluster that plays a recording. */
async function startDrill(
  t: TestContext,
  recorded: string | Recorded[],
  flags: string[],
  scenario: Scenario & { url?: string | null; env?: Record<string, string>; played?: Played } = {},
) {
  const cluster = await startCluster(t, recorded, scenario.played);
  const kubernetes = await startKubernetes(t, cluster, scenario);
  const url = scenario.url === null ? [] : [`--url=${scenario.url ?? cluster.env.SERVER_URL}`];
  const pace = ["--sessions=3", "--interval=50ms", "--probe-interval=0"];
  const command = [process.execPath, "drill.mjs", `--namespace=${NAMESPACE}`, ...url, ...pace, ...flags];
  const program = start(t, command, { ...kubernetes.env, ...scenario.env });
  return { ...program, cluster, kubernetes };
}

/** A workload of its own, with what leads to it. */
const SHOP = {
  labels: { app: "shop", tier: "api" },
  workload: (kind: string, apiVersion = "apps/v1") => ({
    apiVersion,
    kind,
    metadata: { name: "shop-api" },
    spec: { selector: { matchLabels: SHOP.labels }, template: { metadata: { labels: SHOP.labels } } },
  }),
  service: (name: string, ports: object[], clusterIP = "10.0.0.1") => ({
    apiVersion: "v1",
    kind: "Service",
    metadata: { name },
    spec: { selector: { app: "shop" }, ports, clusterIP },
  }),
  endpoints: (name: string, ready: boolean) => ({
    apiVersion: "discovery.k8s.io/v1",
    kind: "EndpointSlice",
    metadata: { name: `${name}-abc`, labels: { "kubernetes.io/service-name": name } },
    addressType: "IPv4",
    endpoints: ready ? [{ addresses: ["10.1.0.1"], conditions: { ready } }] : [],
  }),
};

const refuse = (verb: string, resource: string) => ({
  denies: (need: Need) => need.verb === verb && need.resource === resource,
});

/** What keeps a drill from running, and the one line that says so. */
const FAILURES: [what: string, flags: string[], scenario: Parameters<typeof startDrill>[3], line: RegExp][] = [
  ["an image that cannot be pulled", [], {
    waiting: { reason: "ImagePullBackOff", message: 'Back-off pulling image "x"' },
  }, /^The drill's pod did not start: ImagePullBackOff, Back-off pulling image "x"$/],
  [
    "a pod that fits nowhere",
    ["--start-timeout=2s"],
    { unscheduled: "0/3 nodes are available: 3 Insufficient cpu." },
    /^The drill's pod did not start within 2.00s: Unschedulable, 0\/3 nodes are available: 3 Insufficient cpu\.$/,
  ],
  [
    "a quota",
    [],
    { refused: 'pods "drill-" is forbidden: exceeded quota: compute' },
    /^The cluster refuses the drill's pod: pods "drill-" is forbidden: exceeded quota: compute$/,
  ],
  [
    "Pod Security",
    [],
    { refused: 'pods "drill-x" is forbidden: violates PodSecurity "restricted:latest"' },
    /^The cluster refuses the drill's pod: .*violates PodSecurity/,
  ],
  [
    "a Job that never makes a pod",
    ["--start-timeout=4s"],
    { podless: true },
    /^The drill's pod did not start within 4.00s: the Job has no pod$/,
  ],
  ["a pod that is evicted", [], {
    ends: {
      at: / started /,
      status: { reason: "Evicted", message: "The node was low on resource: memory." },
      terminated: { exitCode: 137, reason: "Error" },
    },
  }, /^The drill was ended before its verdict: Evicted, The node was low on resource: memory\., exit 137 \(Error\)$/],
  ["a pod that is out of memory", [], {
    ends: { at: / started /, status: {}, terminated: { exitCode: 137, reason: "OOMKilled" } },
  }, /^The drill was ended before its verdict: exit 137 \(OOMKilled\), the limit is 256Mi$/],
  ["no right to make Jobs", [], refuse("create", "jobs"), /^You may not create jobs\.batch in namespace rec$/],
  ["no right to read logs", [], refuse("get", "pods/log"), /^You may not get pods\/log in namespace rec$/],
  [
    "no right to make Roles",
    [],
    refuse("create", "roles"),
    /^You may not create roles\.rbac\.authorization\.k8s\.io in namespace rec$/,
  ],
  [
    "no right to see the target",
    [],
    refuse("get", "deployments"),
    /cannot get resource "deployments" in API group "" in the namespace "rec"$/,
  ],
  ["a context that does not exist", ["--context=nowhere"], {}, /^context "nowhere" does not exist$/],
  [
    "no cluster",
    [],
    { env: { KUBECONFIG: "/dev/null" } },
    /^There is no cluster in the kubeconfig \/dev\/null: KUBECONFIG says which one has it$/,
  ],
  [
    "no cluster chosen",
    [],
    { env: { KUBECONFIG: "test/fixtures/kubeconfig.json" } },
    /^No cluster is chosen in the kubeconfig \S+: --context takes kind-shop, staging$/,
  ],
  ["no kubectl", ["--kubectl=/nowhere/kubectl"], {}, /^Cannot run \/nowhere\/kubectl: /],
  [
    "a namespace that does not exist",
    ["--namespace=elsewhere"],
    {},
    /^There is no deployment server-deployment in namespace elsewhere, which does not exist$/,
  ],
  [
    "a target that does not exist",
    ["--target=deployment/nobody"],
    {},
    /^There is no deployment nobody in namespace rec$/,
  ],
  [
    "a kind that nobody knows",
    ["--target=rollout/shop-api"],
    {},
    /^Cannot delete rollout\/shop-api: --disrupt delete takes a deployment, statefulset, daemonset; --disrupt watch looks on/,
  ],
  [
    "a DaemonSet that cannot be scaled",
    ["--target=daemonset/agent", "--disrupt=scale-in"],
    {},
    /^Cannot scale-in daemonset\/agent: .*--disrupt watch looks on/,
  ],
  ["a Service without endpoints", [], {
    url: "ws://shop-api/socket",
    objects: [SHOP.service("shop-api", [{ port: 80 }]), SHOP.endpoints("shop-api", false)],
  }, /^Service shop-api in namespace rec has no ready endpoint: /],
  [
    "a Service that does not exist",
    [],
    { url: "ws://shop-api/socket" },
    /^There is no Service shop-api in namespace rec: --url ws:\/\/shop-api\/socket$/,
  ],
  [
    "no Service at all",
    ["--target=deployment/shop-api"],
    { url: null, objects: [SHOP.workload("Deployment")] },
    /^No Service leads to the pods of deployment\/shop-api in namespace rec: --url says where to connect$/,
  ],
  ["two Services", ["--target=shop-api"], {
    url: null,
    objects: [
      SHOP.workload("Deployment"),
      SHOP.service("one", [{ port: 80 }]),
      SHOP.service("two", [{ port: 9000, name: "websocket" }, { port: 1, name: "admin" }]),
    ],
  }, /^--url must say which way leads to .*: ws:\/\/one\/, ws:\/\/two:9000\/$/],
  [
    "a disruption that does not exist",
    ["--disrupt=explode"],
    {},
    /^--disrupt must be delete\|evict\|rollout\|scale-in\|force\|drain\|check\|watch: current value is 'explode'$/,
  ],
  ["a flag that nobody knows", ["--sesions=3"], {}, /^Unknown flag --sesions: see --help$/],
  [
    "credentials in a URL",
    ["--url=ws://bob:s3cret@shop/socket"],
    {},
    /^--url must be a ws:\/\/ or wss:\/\/ URL without credentials or a fragment: current value is 'ws:\/\/…@shop\/socket'$/,
  ],
  [
    "a folder that no report can be in",
    ["--report=/no/such/folder/x.html"],
    {},
    /^--report must be in a folder that can be written to: current value is '\/no\/such\/folder\/x\.html'$/,
  ],
  [
    "a report of no known kind",
    ["--report=x.pdf"],
    {},
    /^--report must end in \.json, \.html, \.xml or \.md: current value is 'x\.pdf'$/,
  ],
  ["a setting that the client refuses", ["--connect-timeout=nonsense"], {}, /^--connect-timeout must be/],
  [
    "one of the environment that it refuses",
    [],
    { env: { CONNECT_TIMEOUT_MS: "soon" } },
    /^CONNECT_TIMEOUT_MS must be/,
  ],
  ["a dialect that does not exist", ["--dialect=nonsense"], {}, /^--dialect must be /],
  [
    "a dialect's file that has mistakes",
    ["--dialect=package.json"],
    {},
    /^--dialect cannot be used: it has an unknown part/,
  ],
];

/** Moments at which somebody presses Ctrl-C: by what was asked of the API, or what the pod has said. */
const MOMENTS: [when: string, asked: RegExp | null, said: RegExp | null][] = [
  ["as the cluster is reached", /GET \/version/, null],
  ["as the target is looked up", /GET .*\/deployments\/server-deployment$/, null],
  ["as rights are asked for", /selfsubjectaccessreviews/, null],
  ["as the Job is made", /PATCH .*\/jobs\/drill/, null],
  ["as the client starts", null, / started /],
  ["as the sessions are steady", null, / steady /],
  ["as the pod is scaled in", null, / scale-in server-deployment/],
  ["as the pod is deleted", null, /: deleted, /],
  ["as the first session ends", null, / session-closed /],
  ["as the first session has moved", null, / handover /],
];

describe("drill.mjs", { skip, concurrency: 6, timeout: 900_000 }, () => {
  it("disrupts, follows, brings the result here, writes every report, and leaves nothing", async (t) => {
    const folder = mkdtempSync(resolve("dist/reports-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const files = ["json", "html", "xml", "md"].map((ending) => join(folder, `drill.${ending}`));
    const flags = ["--disrupt=delete", ...files.map((file) => `--report=${file}`)];
    const { exited, stdout, lines, kubernetes } = await startDrill(t, "delete-graceful", flags);
    const { code } = await exited;
    assert.equal(code, 0, lines.join("\n"));
    assert.match(stdout().trimEnd().split("\n").at(-1)!, /^PASS {2}3 handovers, 0 messages lost/);
    for (const file of files) assert.ok(existsSync(file), file);
    const result = JSON.parse(readFileSync(files[0]!, "utf8")) as Result;
    assert.deepEqual([result.verdict, result.handovers.length, result.settings.report], ["PASS", 3, files]);
    assert.deepEqual(kubernetes.left(), []);
    const waits = lines.filter((line) => /waiting for the drill's pod to start, since \d\d:\d\d:\d\d$/.test(line));
    assert.notEqual(waits.length, 0, lines.join("\n"));
    // Every log line once; neither the record nor the pod's own text.
    assert.deepEqual(lines.filter((line) => / session-closed .*with 1001/.test(line)).length, 3);
    assert.equal(lines.some((line) => /^record |^PASS/.test(line)), false);
  });

  const RECORDED = { evict: "evict", rollout: "rollout-restart", "scale-in": "scale-in", force: "force-delete" };
  for (const [disrupt, recorded] of Object.entries(RECORDED)) {
    it(`brings the result of --disrupt ${disrupt} as one object`, async (t) => {
      const { exited, stdout, lines, kubernetes, cluster } = await startDrill(t, recorded, [
        `--disrupt=${disrupt}`,
        "--json",
      ]);
      const { code } = await exited;
      const result = JSON.parse(stdout()) as Result;
      assert.equal(code, result.verdict === "PASS" ? 0 : 1, lines.join("\n"));
      assert.equal(result.disruption?.kind, disrupt);
      assert.notEqual(result.handovers.length, 0);
      assert.deepEqual([kubernetes.left(), cluster.deployment.spec.replicas], [[], 2]);
    });
  }

  it("looks on at what somebody else does with --disrupt watch", async (t) => {
    const drill = await startDrill(t, "delete-graceful", ["--disrupt=watch", "--handovers=3"]);
    await drill.line(/ steady /);
    drill.cluster.play();
    assert.equal((await drill.exited).code, 0, drill.lines.join("\n"));
    assert.match(drill.stdout(), /^PASS {2}3 handovers/m);
  });

  it("looks on at a workload of a kind that it does not know, by its pods", async (t) => {
    const objects = [{
      ...SHOP.workload("Rollout", "argoproj.io/v1alpha1"),
      spec: { selector: { matchExpressions: [{ key: "app", operator: "In", values: ["a", "b"] }] } },
    }];
    const drill = await startDrill(t, "delete-graceful", ["--disrupt=watch", "--target=rollout/shop-api"], { objects });
    await drill.line(/ steady /);
    const { data } = drill.kubernetes.store.get("configmaps/drill-settings");
    assert.deepEqual([data.DISRUPT, data.TARGET_SELECTOR], ["watch", "app in (a,b)"]);
    drill.child.kill("SIGINT");
    await drill.exited;
  });

  it("exits with 1 where the drill fails, and says the client's verdict", async (t) => {
    const played = { flags: ["--fault=skip-farewell"] };
    const drill = await startDrill(t, "delete-graceful", [], { played });
    const { code } = await drill.exited;
    assert.equal(code, 1, drill.lines.join("\n"));
    const last = drill.stdout().trimEnd().split("\n").at(-1)!;
    assert.match(last, /^FAIL {2}3 of 3 handovers: NO_FAREWELL ×3 \(/);
    assert.deepEqual(drill.kubernetes.left(), []);
  });

  it("rolls a StatefulSet, whose pods it finds by the selector of the object", async (t) => {
    const selector = { matchLabels: { app: "set" } };
    const template = { metadata: { labels: selector.matchLabels }, spec: { containers: [{ name: "server" }] } };
    const objects = [{
      apiVersion: "apps/v1",
      kind: "StatefulSet",
      metadata: { name: "server-statefulset", generation: 1 },
      spec: { replicas: 2, selector, template },
    }];
    const played = { target: "statefulset/server-statefulset" };
    const flags = ["--disrupt=rollout", "--target=statefulset/server-statefulset", "--sessions=4", "--json"];
    const drill = await startDrill(t, "statefulset-rollout", flags, { played, objects });
    const { code } = await drill.exited;
    const { verdict, disruption, pods } = JSON.parse(drill.stdout()) as Result;
    assert.equal(code, verdict === "PASS" ? 0 : 1, drill.lines.join("\n"));
    assert.equal(disruption?.kind, "rollout");
    assert.deepEqual(pods.map(({ name }) => name), ["server-statefulset-1", "server-statefulset-0"]);
    assert.deepEqual(drill.kubernetes.left(), []);
  });

  it("rolls a DaemonSet as well", async (t) => {
    const selector = { matchLabels: { app: "server" } };
    const template = { metadata: { labels: selector.matchLabels }, spec: { containers: [{ name: "server" }] } };
    const objects = [{
      apiVersion: "apps/v1",
      kind: "DaemonSet",
      metadata: { name: "server-deployment", generation: 1 },
      spec: { selector, template },
      status: { desiredNumberScheduled: 2, numberAvailable: 2, updatedNumberScheduled: 2, observedGeneration: 1 },
    }];
    const played = { target: "daemonset/server-deployment" };
    const flags = ["--disrupt=rollout", "--target=daemonset/server-deployment", "--json"];
    const drill = await startDrill(t, "rollout-restart", flags, { played, objects });
    const { code } = await drill.exited;
    const { verdict, disruption, handovers } = JSON.parse(drill.stdout()) as Result;
    assert.equal(code, verdict === "PASS" ? 0 : 1, drill.lines.join("\n"));
    assert.deepEqual([disruption?.kind, handovers.length > 0], ["rollout", true]);
    assert.deepEqual(drill.kubernetes.left(), []);
  });

  it("drains a node with rights that it brings, and takes away again", async (t) => {
    const drill = await startDrill(t, twoNodes(), ["--disrupt=drain", "--json"]);
    await drill.line(/ disruption +node-1 is cordoned/);
    assert.ok([...drill.kubernetes.store.keys()].some((key) => key.startsWith("clusterroles/")));
    const { code } = await drill.exited;
    const { disruption, handovers } = JSON.parse(drill.stdout()) as Result;
    assert.ok(code === 0 || code === 1, drill.lines.join("\n"));
    assert.deepEqual([disruption?.kind, disruption?.node], ["drain", "node-1"]);
    assert.notEqual(handovers.length, 0);
    assert.deepEqual(drill.kubernetes.left(), []);
    assert.ok(!drill.cluster.nodes.get("node-1")?.spec.unschedulable);
  });

  it("only looks with --disrupt check: says what it foretells, exits with 1 and leaves nothing", async (t) => {
    const drill = await startDrill(t, "delete-graceful", ["--disrupt=check"]);
    const { code } = await drill.exited;
    assert.equal(code, 1, drill.lines.join("\n"));
    assert.match(drill.stdout(), /^FAIL {2}deployment\/server-deployment: \d foretold: SIGKILL_AT_GRACE/m);
    assert.deepEqual([drill.kubernetes.left(), drill.cluster.playing()], [[], false]);
  });

  for (const [what, flags, scenario, line] of FAILURES) {
    it(`says in one line that there is ${what}, exits with 2 and leaves nothing`, async (t) => {
      const begun = performance.now();
      const { exited, stdout, lines, kubernetes, cluster } = await startDrill(t, "delete-graceful", flags, scenario);
      const { code } = await exited;
      assert.deepEqual({ code, stdout: stdout() }, { code: 2, stdout: "" }, lines.join("\n"));
      const said = lines.filter((text) => !/^\d\d:\d\d:\d\d\.\d{3} /.test(text));
      assert.equal(said.length, 1, lines.join("\n"));
      assert.match(said[0]!, line);
      assert.deepEqual([kubernetes.left(), cluster.playing()], [[], false]);
      if (/^a (setting|dialect)|refuses$/.test(what)) {
        assert.ok(!kubernetes.asked.some((one) => /^PATCH/.test(one)), what);
      }
      assert.ok(performance.now() - begun < 60_000);
    });
  }

  for (const [when, asked, said] of MOMENTS) {
    it(`interrupted ${when}, leaves the workload as it was, and nothing else`, async (t) => {
      const drill = await startDrill(t, "scale-in", ["--disrupt=scale-in"]);
      const { kubernetes, cluster } = drill;
      const seen = () => [...kubernetes.logs.values()].flatMap(({ lines }) => lines);
      await kubernetes.until(() =>
        asked === null ? seen().some((line) => said!.test(line)) : kubernetes.asked.some((one) => asked.test(one))
      );
      const begun = performance.now();
      drill.child.kill("SIGINT");
      const { code, at } = await drill.exited;
      assert.equal(code, 2, drill.lines.join("\n"));
      assert.equal(drill.lines.at(-1), "Interrupted by SIGINT", drill.lines.join("\n"));
      assert.deepEqual([kubernetes.left(), cluster.deployment.spec.replicas], [[], 2]);
      const costs = cluster.list("pods").map(({ metadata }) =>
        metadata.annotations?.["controller.kubernetes.io/pod-deletion-cost"]
      );
      assert.deepEqual(costs.filter((cost) => cost !== undefined), []);
      assert.ok(at - begun < 30_000, `${at - begun} ms`);
    });
  }

  it("goes on to its end, and leaves nothing, where nobody reads what it prints", async (t) => {
    const { child, exited, lines, kubernetes } = await startDrill(t, "delete-graceful", ["--disrupt=delete", "--json"]);
    child.stdout!.destroy();
    assert.equal((await exited).code, 0, lines.join("\n"));
    assert.deepEqual(kubernetes.left(), []);
  });

  it("leaves at once at the second Ctrl-C, and says what may be left", async (t) => {
    const drill = await startDrill(t, "scale-in", ["--disrupt=scale-in"]);
    await drill.line(/ steady /);
    drill.child.kill("SIGINT");
    await drill.line(/SIGINT: taking back what was done/);
    const begun = performance.now();
    drill.child.kill("SIGINT");
    const { code, at } = await drill.exited;
    assert.equal(code, 2);
    assert.match(drill.lines.at(-1)!, /^SIGINT again: left at once\. May be left in namespace rec: .*job\/drill/);
    assert.ok(at - begun < 2000, `${at - begun} ms`);
  });

  it("gives a replica back that a killed drill could not", async (t) => {
    const ends = { at: / scale-in server-deployment/, status: {}, terminated: { exitCode: 137, reason: "OOMKilled" } };
    const drill = await startDrill(t, "scale-in", ["--disrupt=scale-in"], { ends });
    // The kill comes when the line has been read: by then the client may have scaled, or not.
    const { code } = await drill.exited;
    assert.equal(code, 2);
    assert.deepEqual(
      [drill.kubernetes.left(), drill.cluster.deployment.spec.replicas],
      [[], 2],
      drill.lines.join("\n"),
    );
  });

  it("counts the sessions by pod on one live line of a terminal", {
    skip: !has("script", "--version") && "script makes a terminal, and there is none here",
  }, async (t) => {
    const cluster = await startCluster(t, "delete-graceful");
    const kubernetes = await startKubernetes(t, cluster);
    const flags = [`--namespace=${NAMESPACE}`, `--url=${cluster.env.SERVER_URL}`, "--sessions=3", "--interval=50ms"];
    const drill = [process.execPath, "drill.mjs", ...flags].join(" ");
    const env = { ...kubernetes.env, COLUMNS: "200", TERM: "xterm" };
    const { code, stdout } = await run(t, ["script", "-qec", `stty cols 200; ${drill}`, "/dev/null"], env);
    assert.equal(code, 0, stdout);
    assert.ok(stdout.includes(`\r\x1b[K${cluster.victim} 3; waiting for the pod to end`), stdout);
    // deno-lint-ignore no-control-regex
    assert.match(stdout, /\r\x1b\[Kwaiting for the drill's pod to start, since \d\d:\d\d:\d\d \(/);
  });

  it("shows every line once, however often the connection is lost", async (t) => {
    const drill = await startDrill(t, "delete-graceful", [], { cuts: / steady / });
    assert.equal((await drill.exited).code, 0, drill.lines.join("\n"));
    const own = [...drill.kubernetes.logs.values()][0]!.lines.map((line) => line.slice(line.indexOf(" ") + 1)).filter((
      line,
    ) => /^\d\d:/.test(line));
    assert.deepEqual(drill.lines.filter((line) => own.includes(line)), own);
  });

  it("brings a result whole from a log whose lines share their stamps, and shows each line once", async (t) => {
    const drill = await startDrill(t, "delete-graceful", ["--json"], { alike: true, cuts: / steady / });
    assert.equal((await drill.exited).code, 0, drill.lines.join("\n"));
    assert.equal((JSON.parse(drill.stdout()) as Result).handovers.length, 3);
    for (const what of [/ session-closed .*with 1001/, / handover /]) {
      assert.equal(drill.lines.filter((line) => what.test(line)).length, 3, drill.lines.join("\n"));
    }
  });

  it("gives back the node that a killed drain has left cordoned", async (t) => {
    const killed = { phase: "Failed", reason: "Evicted", message: "The node was low on resource: memory." };
    const terminated = { exitCode: 137, reason: "Error" };
    const ends = { at: / node-1 is cordoned/, status: killed, terminated };
    const nodes = ["node-1", "node-2"].map((name) => ({
      apiVersion: "v1",
      kind: "Node",
      metadata: { name },
      spec: {},
    }));
    const labels = { app: "server" };
    const pod = { apiVersion: "v1", kind: "Pod", metadata: { name: "victim", labels }, spec: { nodeName: "node-1" } };
    const objects = [...nodes, pod];
    const drill = await startDrill(t, twoNodes(), ["--disrupt=drain"], { ends, objects });
    await drill.kubernetes.until(() => drill.kubernetes.made.some(({ kind }) => kind === "Job"));
    await drill.line(/ node-1 is cordoned/);
    drill.kubernetes.store.get("nodes/node-1").spec.unschedulable = true;
    assert.equal((await drill.exited).code, 2);
    assert.equal(drill.kubernetes.store.get("nodes/node-1").spec.unschedulable ?? false, false, drill.lines.join("\n"));
    assert.ok(drill.lines.some((line) => /node node-1 takes pods again/.test(line)), drill.lines.join("\n"));
  });

  it("shows no secret of a URL", async (t) => {
    const cluster = await startCluster(t, "delete-graceful");
    const kubernetes = await startKubernetes(t, cluster, { podless: true });
    const url = `${cluster.env.SERVER_URL}?access_token=s3cret`;
    const flags = [`--namespace=${NAMESPACE}`, `--url=${url}`, "--start-timeout=3s"];
    const { code, stderr } = await run(t, [process.execPath, "drill.mjs", ...flags], kubernetes.env);
    assert.equal(code, 2);
    assert.match(stderr, /through ws:\/\/.*access_token=…/);
    assert.doesNotMatch(stderr, /s3cret/);
  });

  it("reads again what a log has lost", async (t) => {
    const drill = await startDrill(t, "delete-graceful", [], {
      loses: (line, reading) => reading === 1 && / record /.test(line),
    });
    assert.equal((await drill.exited).code, 0, drill.lines.join("\n"));
    assert.match(drill.stdout(), /^PASS/m);
  });

  it("says that its result is lost where it is", async (t) => {
    const drill = await startDrill(t, "delete-graceful", [], { loses: (line) => / record /.test(line) });
    assert.equal((await drill.exited).code, 2);
    assert.equal(
      drill.lines.at(-1),
      "The drill ended with exit code 0, but its result never came: its log was rotated or cut",
    );
    assert.deepEqual(drill.kubernetes.left(), []);
  });

  it("keeps the Job with --keep", async (t) => {
    const first = await startDrill(t, "delete-graceful", ["--keep"]);
    assert.equal((await first.exited).code, 0);
    assert.ok(first.kubernetes.left().includes("jobs/drill"));
    assert.ok(first.kubernetes.left().includes("pods/drill-x7k2p"));
  });

  it("takes the place of a Job that has ended, and nothing from its settings", async (t) => {
    const [ended, old] = [{ conditions: [{ type: "Failed", status: "True" }] }, { name: "drill-settings" }];
    const objects = [
      { apiVersion: "batch/v1", kind: "Job", metadata: { name: "drill" }, spec: { parallelism: 0 }, status: ended },
      { apiVersion: "v1", kind: "ConfigMap", metadata: old, data: { OLD: "1" } },
    ];
    const { exited, kubernetes } = await startDrill(t, "delete-graceful", [], { objects });
    const settings = () => kubernetes.store.get("configmaps/drill-settings")?.data;
    await kubernetes.until(() => settings()?.DISRUPT === "delete");
    assert.equal(settings().OLD, undefined);
    assert.equal((await exited).code, 0);
    assert.deepEqual(kubernetes.left(), []);
  });

  it("is not the second drill in a namespace", async (t) => {
    const objects = [{
      apiVersion: "batch/v1",
      kind: "Job",
      metadata: { name: "drill" },
      spec: { parallelism: 0, template: {} },
    }];
    const { exited, lines, kubernetes } = await startDrill(t, "delete-graceful", [], { objects });
    assert.equal((await exited).code, 2);
    assert.match(
      lines.at(-1)!,
      /^A drill is running in namespace rec since .*: 'kubectl delete job drill -n rec' ends it$/,
    );
    assert.ok(kubernetes.store.has("jobs/drill"));
  });

  it("finds the one Service that leads to its target, and says so", async (t) => {
    const objects = [
      SHOP.workload("StatefulSet"),
      SHOP.service("shop-headless", [{ port: 80 }], "None"),
      SHOP.service("shop-api", [{ port: 8443, name: "wss" }, { port: 9090, name: "metrics" }]),
      SHOP.endpoints("shop-api", true),
    ];
    const drill = await startDrill(t, "delete-graceful", ["--target=statefulset/shop-api"], {
      url: null,
      objects,
      podless: true,
    });
    await drill.line(/through wss:\/\/shop-api:8443\/, the one Service that leads there/);
    await drill.kubernetes.until(() => drill.kubernetes.store.has("jobs/drill"));
    const { data } = drill.kubernetes.store.get("configmaps/drill-settings");
    assert.deepEqual([data.SERVER_URL, data.TARGET, data.TARGET_SELECTOR], [
      "wss://shop-api:8443/",
      "statefulset/shop-api",
      "app=shop,tier=api",
    ]);
    drill.child.kill("SIGINT");
    await drill.exited;
  });

  it("takes files and headers along in a Secret, and nowhere else", async (t) => {
    const folder = mkdtempSync(resolve("dist/files-"));
    t.after(() => rmSync(folder, { recursive: true }));
    writeFileSync(join(folder, "cookie"), "s3cret\n");
    writeFileSync(join(folder, "ca.crt"), "a CA");
    writeFileSync(join(folder, "hello"), "s3cret hello");
    const flags = [
      `--say=@${folder}/hello`,
      "--header=Authorization: Bearer t0ken",
      `--header=Cookie: @${folder}/cookie`,
      `--tls-ca=${folder}/ca.crt`,
    ];
    const drill = await startDrill(t, "delete-graceful", flags, { podless: true });
    await drill.kubernetes.until(() => drill.kubernetes.store.has("jobs/drill"));
    const { data } = drill.kubernetes.store.get("secrets/drill-files");
    const texts = Object.fromEntries(
      Object.entries(data).map(([key, value]) => [key, Buffer.from(String(value), "base64").toString()]),
    );
    assert.deepEqual(texts, {
      "tls-ca": "a CA",
      "say-1": "s3cret hello",
      "header-1": "Bearer t0ken",
      "header-2": "s3cret",
    });
    const others = drill.kubernetes.made.filter(({ kind }) => kind !== "Secret");
    assert.equal(/t0ken|s3cret/.test(JSON.stringify(others)), false);
    assert.equal(
      drill.kubernetes.store.get("configmaps/drill-settings").data.HEADER,
      "Authorization: @/etc/drill/header-1\nCookie: @/etc/drill/header-2",
    );
    drill.child.kill("SIGTERM");
    assert.equal((await drill.exited).code, 2);
    assert.deepEqual(drill.kubernetes.left(), []);
  });

  it("leaves rights that were there, and asks for none to make them", async (t) => {
    const first = await startDrill(t, "delete-graceful", ["--keep"]);
    await first.exited;
    const objects = first.kubernetes.made.filter(({ kind }) => ["ServiceAccount", "Role", "RoleBinding"].includes(kind))
      .map((object) => structuredClone(object));
    const denies = ({ verb, resource }: Need) =>
      ["create", "patch", "delete"].includes(verb) && /^(serviceaccounts|roles|rolebindings)$/.test(resource);
    const second = await startDrill(t, "delete-graceful", [], { objects, denies });
    assert.equal((await second.exited).code, 0, second.lines.join("\n"));
    assert.deepEqual([...second.kubernetes.store.keys()].filter((key) => key.startsWith("role")).sort(), [
      "rolebindings/drill",
      "roles/drill",
    ]);
  });

  it("waits until every server has a token that was changed just now", async (t) => {
    const changed = new Date(Date.now() - 2000).toISOString().slice(0, 19) + "Z";
    const pod = (name: string, startedAt: string) => ({
      apiVersion: "v1",
      kind: "Pod",
      metadata: { name, labels: { app: "server" } },
      spec: { containers: [{ name: "server" }] },
      status: { containerStatuses: [{ name: "server", state: { running: { startedAt } } }] },
    });
    const secret = {
      apiVersion: "v1",
      kind: "Secret",
      metadata: { name: "server-token", managedFields: [{ manager: "kubectl", operation: "Apply", time: changed }] },
    };
    const objects = [secret, pod("server-old", "2026-01-01T00:00:00Z"), pod("server-new", "2099-01-01T00:00:00Z")];
    const env = { TOKEN_FILE: "/etc/token/token" };
    const drill = await startDrill(t, "delete-graceful", [], { objects, env, podless: true });
    drill.kubernetes.logs.set("server-old", { lines: [], ended: false, readings: 0 });
    await drill.line(/waiting for 1 pod to have the token of server-token, which is \S+ old, since /);
    assert.equal(drill.kubernetes.store.has("jobs/drill"), false);
    const { lines } = drill.kubernetes.logs.get("server-old")!;
    lines.push(`${new Date().toISOString()} 08:00:00.000 token-loaded    /etc/token/token`);
    await drill.kubernetes.until(() => drill.kubernetes.store.has("jobs/drill"));
    drill.child.kill("SIGINT");
    await drill.exited;
  });

  it("knows every disruption of the client", () => {
    const { stdout } = { stdout: readFileSync("drill.mjs", "utf8") };
    for (const name of DISRUPTIONS) if (name !== "none") assert.match(stdout, new RegExp(`^ {2}"?${name}"?: `, "m"));
  });
});

describe("drill.mjs without a cluster", () => {
  for (
    const [args, line] of [
      [["--no-report"], "--report needs a value: see --help"],
      [["--no-env"], "--env needs a value: see --help"],
      [["--report=x.pdf"], "--report must end in .json, .html, .xml or .md: current value is 'x.pdf'"],
      [["--report=no/x.md"], "--report must be in a folder that can be written to: current value is 'no/x.md'"],
      [["--json", "--report", "-.md"], "--json has stdout for itself: --report to a file"],
      [["load", "--report", "-.md"], "--report -.md: a load has a report for each pod, they need a file"],
      [["--disrupt=check", "--report=x.md"], "--report x.md: a check has none, --json prints what it found"],
    ] as const
  ) {
    it(`refuses ${args.join(" ")} with one line and exit 2`, async (t) => {
      const { code, stdout, stderr } = await run(t, [process.execPath, "drill.mjs", ...args]);
      assert.deepEqual({ code, stdout, stderr }, { code: 2, stdout: "", stderr: line });
    });
  }

  it("refuses a folder for Filebeat's credentials, before it applies anything", async (t) => {
    const command = ["filebeat", "--kubectl=/nowhere/kubectl", "--hosts=https://a:9200", "--credentials=test"];
    const { code, stderr } = await run(t, [process.execPath, "drill.mjs", ...command]);
    assert.equal(code, 2);
    assert.match(stderr, /^filebeat needs --hosts .* and --credentials, a file /);
  });

  it("says in one line that the system gives no temporary folder", async (t) => {
    const command = [process.execPath, "drill.mjs", "tls-secret", "--kubectl=/nowhere/kubectl"];
    const { code, stderr } = await run(t, command, { TMPDIR: "/no/such/folder" });
    assert.deepEqual([code, stderr], [2, "ENOENT: no such file or directory, lstat '/no'"]);
  });

  it("checks the target that is named, and no other", async (t) => {
    const folder = mkdtempSync(resolve("dist/check-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const file = join(folder, "shop.json");
    const template = { metadata: { labels: { app: "shop" } }, spec: { containers: [{ name: "shop" }] } };
    const spec = { replicas: 2, selector: { matchLabels: { app: "shop" } }, template };
    writeFileSync(
      file,
      JSON.stringify({ apiVersion: "apps/v1", kind: "Deployment", metadata: { name: "shop" }, spec }),
    );
    const check = (target: string) => run(t, [process.execPath, "drill.mjs", "--check", file, "--target", target]);
    const { code, stderr } = await check("deployment/nobody");
    assert.deepEqual([code, stderr], [2, "--check needs deployment/nobody: what came is deployment/shop"]);
    assert.notEqual((await check("deployment/shop")).code, 2);
  });

  it("interrupted where nothing is ever taken back, says so, and leaves no key behind", async (t) => {
    const folder = mkdtempSync(resolve("dist/interrupted-"));
    t.after(() => rmSync(folder, { recursive: true }));
    const [kubectl, tmp] = [join(folder, "kubectl"), join(folder, "tmp")];
    writeFileSync(kubectl, "#!/bin/sh\necho asked >&2; exec sleep 600\n", { mode: 0o755 });
    mkdirSync(tmp);
    const command = [process.execPath, "drill.mjs", "tls-secret", `--kubectl=${kubectl}`];
    const drill = start(t, command, { TMPDIR: tmp });
    while (readdirSync(tmp).length === 0) await new Promise((resolve) => setTimeout(resolve, 10));
    drill.child.kill("SIGINT");
    const { code } = await drill.exited;
    assert.deepEqual([code, drill.lines, readdirSync(tmp)], [2, ["SIGINT: what was done until now stays"], []]);
  });
});

/** A load of so many pods on such a cluster, to its end. */
async function runLoad(t: TestContext, pods: number, scenario: Scenario = {}) {
  const cluster = await startCluster(t, "delete-graceful");
  const kubernetes = await startKubernetes(t, cluster, scenario);
  const where = [`--namespace=${NAMESPACE}`, `--url=${cluster.env.SERVER_URL}`];
  const load = [`--pods=${pods}`, "--sessions=5", "--interval=50ms", "--timeout=3s"];
  const command = [process.execPath, "drill.mjs", "load", ...where, ...load];
  return { kubernetes, ...await run(t, command, kubernetes.env) };
}

describe("drill.mjs load", { skip, timeout: 300_000 }, () => {
  it("prints one verdict for each pod, and one for all", async (t) => {
    const { kubernetes, code, stdout, stderr } = await runLoad(t, 2);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^load-0-abcde {2}PASS .*\nload-1-abcde {2}PASS .*\n\nPASS {2}2 pods, 10 sessions\n$/);
    assert.deepEqual(kubernetes.left(), []);
  });

  it("fails where a pod found no node, with the others' verdicts and the reason", async (t) => {
    const unscheduled = "0/3 nodes are available: 3 Insufficient cpu.";
    const { kubernetes, code, stdout, stderr } = await runLoad(t, 2, { unscheduled, fits: 1 });
    assert.match(
      stdout,
      /^load-0-abcde {2}PASS .*\nload-\? {2}no verdict: DeadlineExceeded; Unschedulable, 0\/3 nodes .*\n\nFAIL {2}1 of 2 pods: load-\?\n$/,
    );
    assert.equal(code, 2);
    assert.match(stderr, /waiting for \d of 2 pods to end: \d running, Unschedulable, 0\/3 nodes/);
    assert.deepEqual(kubernetes.left(), []);
  });

  it("fails with the pods that could not run, and says why", async (t) => {
    const ends = { at: / steady /, status: {}, terminated: { exitCode: 137, reason: "OOMKilled" } };
    const { code, stdout } = await runLoad(t, 1, { ends });
    assert.deepEqual({ code, stdout }, {
      code: 2,
      stdout: "load-0-abcde  exit 137 (OOMKilled), the limit is 512Mi\n\nFAIL  1 of 1 pod: load-0-abcde\n",
    });
  });
});

describe("a record", () => {
  const result = (handovers: number) => {
    const random = (index: number) => (index * 7919 % 100_003) / 100_003;
    const one = (index: number) => ({
      slot: index,
      from: `server-${index % 7}`,
      to: `server-${index % 5}`,
      code: 1001,
      reason: "server is shutting down",
      reconnectMs: random(index) * 100,
      silenceMs: random(index + 1) * 1000,
      rules: { notice: "pass", complete: "pass", farewell: "pass", clean: "pass", moved: "pass" },
      session: randomUUID(),
    });
    return {
      verdict: "PASS",
      handovers: Array.from({ length: handovers }, (_, index) => one(index)),
    } as unknown as Result;
  };

  it("brings 10,000 handovers whole, in lines that no runtime breaks and fewer bytes than a log may have", () => {
    const whole = result(10_000);
    const text = renderRecord(whole);
    const lines = text.trimEnd().split("\n");
    assert.ok(Math.max(...lines.map((line) => line.length)) < 16 * 1024 - 200);
    assert.ok(text.length < 5 * 2 ** 20, `${text.length}`);
    const reader = new RecordReader();
    for (const line of lines.reverse()) assert.ok(reader.take(line));
    assert.deepEqual(reader.result(), whole);
  });

  it("knows what is missing, and is whole once another reading has brought it", () => {
    const whole = result(1000);
    const lines = renderRecord(whole).trimEnd().split("\n");
    assert.ok(lines.length > 3);
    const reader = new RecordReader();
    assert.equal(reader.missing, null);
    lines.forEach((line, index) => index === 1 || reader.take(line));
    assert.deepEqual([reader.missing, reader.result()], [1, undefined]);
    reader.take(lines[1]!.slice(0, -1) + (lines[1]!.endsWith("A") ? "B" : "A"));
    assert.deepEqual([reader.missing, reader.result()], [0, undefined]);
    reader.take(lines[1]!);
    assert.deepEqual([reader.missing, reader.result()], [0, whole]);
  });

  it("is told from every other line", () => {
    for (
      const line of [
        "",
        "record",
        "record 1/2 nonsense",
        "08:00:00.000 record 1/1 0123456789abcdef AAAA",
        "record 1/999999999 0123456789abcdef AAAA",
      ]
    ) {
      assert.equal(new RecordReader().take(line), false, line);
    }
  });
});
