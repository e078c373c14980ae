/** Where the borders of a diagnosis are: from pods made by hand, each moment at its millisecond. */
import assert from "node:assert/strict";
import { test } from "node:test";
// deno-fmt-ignore
import {
  type Cause, Cluster, companyOf, diagnose, type Handover, isEnding, isEvidenceComplete, isOnLivingPod, type KubernetesObject,
  type Moment, observeCluster, type PathDifference, Pod, podOf, suspects, wasKilledAtGrace,
} from "../protocol.ts";

/**
 * A cluster whose clock is ours: what is stamped was at most 100 ms (a vague one: 1 s) before its stamp and 1 s after it, and
 * not after it was told.
 */
function newCluster(isVague = false): Cluster {
  const cluster = new Cluster();
  for (let ms = 0; ms < (isVague ? 1000 : 50_000); ms += 1000) cluster.clock.see(ms, ms);
  return cluster;
}

type Spec = NonNullable<KubernetesObject["spec"]>;

/** A pod with 8 s of grace and no hook, to which this has happened; its own container is "app", and "sidecar" beside it. */
function addPod(cluster: Cluster, name: string, moments: readonly Moment[], spec: Partial<Spec> = {}): Pod {
  const containers = [{ name: "app" }];
  const metadata = { name, uid: `${name}-${cluster.pods.size}`, resourceVersion: "1" };
  const pod = new Pod({ metadata, spec: { terminationGracePeriodSeconds: 8, containers, ...spec } }, cluster.clock);
  pod.moments.push(...moments);
  pod.graceMs = moments.find(({ kind }) => kind === "deleted")?.graceMs ?? pod.graceMs;
  cluster.pods.set(pod.uid, pod);
  return pod;
}

for (
  const [ports, containers, container] of [
    [[9113, 8080], [["exporter", { name: "metrics", containerPort: 9113 }], ["app", { containerPort: 8080 }]], "app"],
    [[9113], [["app", { containerPort: 8080 }], ["exporter", { name: "metrics", containerPort: 9113 }]], "exporter"],
    [[8080, 8081], [["front", { containerPort: 8080 }], ["back", { containerPort: 8081 }]], "front"],
    [[1], [["app", { containerPort: 8080 }], ["exporter", { containerPort: 9113 }]], "app"],
  ] as const
) {
  test(`of ${containers.map(([name]) => name)}, where a Service leads to ${ports}, the application is ${container}`, () => {
    const named = containers.map(([name, port]) => ({ name, ports: [port] }));
    const pod = addPod(new Cluster(), "a", [], { containers: named });
    pod.learnPorts(ports);
    assert.equal(pod.container, container);
  });
}

const both: Partial<Spec> = { containers: [{ name: "app" }, { name: "sidecar" }] };
const sleeping = (seconds: number): Partial<Spec> => ({
  containers: [{ name: "app", lifecycle: { preStop: { sleep: { seconds } } } }],
});
const running: Partial<Spec> = {
  containers: [{ name: "app", lifecycle: { preStop: { exec: { command: ["drain"] } } } }],
};

// What happens, at a stamp, told at once or later; times in ms after this.
const BEGIN = 100_000;
const told = (kind: Moment["kind"], at: number, more: Partial<Moment> = {}): Moment => ({
  atMs: BEGIN + at,
  stampMs: BEGIN + at,
  kind,
  text: kind,
  ...more,
});
const deleted = (at: number, graceMs = 8000, more: Partial<Moment> = {}) => told("deleted", at, { graceMs, ...more });
const exited = (at: number, code: number, more: Partial<Moment> = {}) =>
  told("exit", at, { text: `exit ${code}`, container: "app", code, reason: "", ...more });
/** Told so late. */
const late = (ms: number, moment: Moment): Moment => ({ ...moment, atMs: moment.atMs + ms });
const unstamped = ({ stampMs: _none, ...moment }: Moment): Moment => moment;

/** A session of the pod "a" from `BEGIN` − 50 s on, that was cut. */
function cutAt(at: number, changes: Partial<Handover> = {}): Handover {
  return {
    verdict: "failed",
    symptom: "CUT_WITHOUT_NOTICE",
    dialect: "v1",
    from: "a",
    reached: null,
    how: "fin",
    code: null,
    openedMs: BEGIN - 50_000,
    endedMs: BEGIN + at,
    lastDataMs: BEGIN + at,
    noticeMs: null,
    drainMs: null,
    remaining: null,
    readyEndpoints: null,
    lastOnEndingMs: null,
    path: null,
    pod: null,
    ...changes,
  } as Handover;
}
const plain: Partial<Handover> = { dialect: "plain", from: "ws://x/ws" };
/** Times in ms after `BEGIN`. */
const opened = (at: number): Partial<Handover> => ({ openedMs: BEGIN + at });
const silent: Partial<Handover> = { symptom: "STALLED", how: "silence" };
const noticed = (noticeMs: number): Partial<Handover> => ({ symptom: "CUT_DURING_DRAIN", noticeMs });

// ---- The pod of a session, by its name or by its end

// deno-fmt-ignore
const PODS: [title: string, pods: [name: string, ...Moment[]][], handover: Handover, index: number | undefined][] = [
  ["the one that the connection reached", [["b", deleted(0), exited(100, 0)], ["a"]], cutAt(100, { ...plain, reached: "a" }), 1],
  ["nobody's, of another name with frames", [["b", deleted(0), exited(100, 0)]], cutAt(100), undefined],
  ["not the one of its name that had exited, and was not gone yet", [["a", deleted(0), exited(100, 0), told("gone", 900)], ["a"]], cutAt(5000, opened(500)), 1],
  ["not the one of its name that was gone as it opened", [["a", told("gone", 500)], ["a"]], cutAt(5000, opened(500)), 1],
  ["the one of its name that was gone after it opened", [["a", told("gone", 501)], ["a"]], cutAt(5000, opened(500)), 0],
  ["not the one that had ended as our clock began", [["a", deleted(-BEGIN), exited(-BEGIN, 0)]], cutAt(0, opened(-BEGIN)), undefined],
  ["the one that was gone 1 ms after our clock began, opened at no known time", [["a", told("gone", 1 - BEGIN)]], cutAt(0, { openedMs: null }), 0],
  ["the nearest by its exit, not by when it was gone", [["b", deleted(0), exited(900, 0), told("gone", 1000)], ["a", deleted(0), exited(1100, 0), told("gone", 5000)]], cutAt(1100, plain), 1],
  ["the nearest by when it was gone, where no exit is known", [["b", deleted(0), told("gone", 900)], ["a", deleted(0), told("gone", 1100)]], cutAt(1100, plain), 1],
  ["not the one that was gone as it opened, without a name", [["b", deleted(0), told("gone", 500)]], cutAt(1000, { ...plain, ...opened(500) }), undefined],
  ["the one whose end was seen 1 s before", [["b", deleted(-100), exited(0, 0)]], cutAt(1000, plain), 0],
  ["not the one whose end was seen longer before", [["b", deleted(-100), exited(0, 0)]], cutAt(1001, plain), undefined],
  ["of a silence, the one that lived at the last sign of life", [["b", deleted(-100), exited(0, 0)]], cutAt(9000, { ...plain, ...silent, lastDataMs: BEGIN + 1000 }), 0],
  ["not the one whose end was seen longer before the last sign of life", [["b", deleted(-100), exited(0, 0)]], cutAt(9000, { ...plain, ...silent, lastDataMs: BEGIN + 1001 }), undefined],
  ["of a silence without a sign of life, the one that lived as it opened", [["b", deleted(-100), exited(0, 0)]], cutAt(9000, { ...plain, ...silent, ...opened(-500), lastDataMs: null }), 0],
  ["the one whose deletion was told 5 s after", [["b", deleted(5000)]], cutAt(0, plain), 0],
  ["not the one whose deletion was told later", [["b", deleted(5001)]], cutAt(0, plain), undefined],
  ["the one that crashed, as its stamp says, 5 s after", [["b", exited(5100, 1)]], cutAt(0, plain), 0],
  ["not the one that crashed later", [["b", exited(5101, 1)]], cutAt(0, plain), undefined],
  ["the one whose end is still to be seen, before the nearest", [["b", deleted(0), exited(500, 0)], ["a", deleted(0)]], cutAt(500, plain), 1],
];

for (const [title, pods, handover, index] of PODS) {
  test(`the pod of a session is ${title}`, () => {
    const cluster = newCluster();
    const made = pods.map(([name, ...moments]) => addPod(cluster, name, moments));
    assert.equal(podOf(cluster, handover)?.uid, index === undefined ? undefined : made[index]!.uid);
  });
}

// ---- What is asked of a pod by itself

// deno-fmt-ignore
const KILLED: [title: string, moments: Moment[], wasKilled: boolean][] = [
  ["a second before its grace is over", [deleted(0), exited(7000, 137)], true],
  ["more than a second before", [deleted(0), exited(6999, 137)], false],
  ["5 s after it", [deleted(0), exited(13_000, 137)], true],
  ["later, by the stamps", [deleted(0), exited(13_001, 137)], false],
  ["later, told without a stamp", [deleted(0), unstamped(exited(13_001, 137))], true],
  ["of a deletion without a stamp, later", [unstamped(deleted(0)), exited(13_001, 137)], true],
  ["by the stamps, told sooner", [late(3000, deleted(0)), exited(7000, 137)], true],
  ["with another code", [deleted(0), exited(8000, 143)], false],
  ["in another container", [deleted(0), exited(8000, 137, { container: "sidecar" })], false],
  ["before it was deleted with no grace", [exited(-500, 137), deleted(0, 0)], false],
  ["before it was deleted with no grace, as the stamps say", [deleted(0, 0), exited(-500, 137)], false],
  ["at the end of less grace, asked for later", [deleted(0, 60_000), deleted(3000, 2000), exited(5000, 137)], true],
  ["5 s after the end of less grace, asked for later without a stamp", [deleted(0, 60_000), unstamped(deleted(3000, 2000)), exited(10_000, 137)], true],
  ["later than that", [deleted(0, 60_000), unstamped(deleted(3000, 2000)), exited(10_001, 137)], false],
  ["told with its deletion, which left 1.001 s", [unstamped(deleted(0, 1001)), exited(0, 137)], false],
];

for (const [title, moments, wasKilled] of KILLED) {
  test(`a pod that ended with 137 ${title} was ${wasKilled ? "" : "not "}killed at its grace's end`, () => {
    assert.equal(wasKilledAtGrace(addPod(newCluster(), "a", moments)), wasKilled);
  });
}

test("a pod is ending from what ends it on, which can have been a little before it was told, and up to 15 s late", () => {
  const isEndingAt = (kind: Moment["kind"], at: number, lateMs?: number) =>
    isEnding(addPod(newCluster(), "a", [told(kind, 20_000)]), BEGIN + at, lateMs);
  const ends = ["deleted", "exit", "evicted", "liveness", "gone", "node-lost"] as const;
  assert.deepEqual(ends.map((kind) => isEndingAt(kind, 4900)), ends.map(() => true));
  assert.deepEqual(ends.map((kind) => isEndingAt(kind, 4899)), ends.map(() => false));
  assert.deepEqual([isEndingAt("gone", 18_900, 1000), isEndingAt("gone", 18_899, 1000)], [true, false]);
  const others = ["unhealthy", "terminating", "not-serving", "endpoint-gone", "prestop-failed"] as const;
  assert.deepEqual(others.map((kind) => isEndingAt(kind, 30_000)), others.map(() => false));
});

// deno-fmt-ignore
const COMPLETE: [title: string, moments: Moment[], handover: Handover, at: number, isComplete: boolean][] = [
  ["the exit of a deleted pod, however late", [deleted(0), exited(9000, 0)], cutAt(100), 9000, true],
  ["the exit of a pod that nobody deleted, 1 s after the end", [exited(1100, 1)], cutAt(0), 1100, true],
  ["a later exit of a pod that nobody deleted", [exited(1101, 1)], cutAt(0), 1101, false],
  ["an exit as the session opened", [exited(-100, 1)], cutAt(0, opened(-100)), 0, true],
  ["an exit before the session opened", [exited(-101, 1)], cutAt(0, opened(-100)), 0, false],
  ["an exit as our clock began, of a session that opened at no known time", [exited(-BEGIN, 1)], cutAt(0, { openedMs: null }), 0, true],
  ["another container's exit", [deleted(0), exited(100, 0, { container: "sidecar" })], cutAt(100), 200, false],
];

for (const [title, moments, handover, at, isComplete] of COMPLETE) {
  test(`the evidence is ${isComplete ? "" : "not "}complete with ${title}`, () => {
    assert.equal(isEvidenceComplete(addPod(newCluster(), "a", moments), handover, BEGIN + at), isComplete);
  });
}

test("an event of a list is news where it is later than our clock's beginning", () => {
  const cluster = newCluster();
  const { uid } = addPod(cluster, "a", []);
  const listed = (lastTimestamp: string) =>
    observeCluster(cluster, "events", "LISTED", {
      metadata: { name: "kill", uid: lastTimestamp, resourceVersion: "1" },
      reason: "Killing",
      message: "Container app failed liveness probe, will be restarted",
      involvedObject: { uid },
      lastTimestamp,
    }, BEGIN).length;
  assert.deepEqual([listed("1970-01-01T00:00:00.100Z"), listed("1970-01-01T00:00:00.101Z")], [0, 1]);
});

// ---- What other sessions say

// deno-fmt-ignore
const TURNED_AWAY: [title: string, changes: Partial<Handover>, moments: Moment[] | null, isOn: boolean][] = [
  ["closed, and nothing has happened to its pod", { symptom: null }, [], true],
  ["closed, and its pod is not known", { symptom: null }, null, true],
  ["closed with another code", { symptom: "WRONG_CLOSE_CODE" }, [], true],
  ["closed, with a reset behind it", { symptom: "RESET_AFTER_CLOSE" }, [], true],
  ["closed, with nothing behind it", { symptom: "NO_FIN" }, [], true],
  ["turned away, as its code has said", { symptom: "TURNED_AWAY" }, [], false],
  ["closed, and judged for something else", { symptom: "DATA_LOST" }, [], false],
  ["cut", { code: null }, [], false],
  ["closed after a notice", { symptom: null, noticeMs: 100 }, [], false],
  ["closed after CLOSE", { symptom: null, drainMs: 100 }, [], false],
  ["still open", { symptom: null, endedMs: null }, [], false],
  ["closed 1 s before its pod's end", { symptom: null }, [told("deleted", 1100)], false],
  ["closed longer before its pod's end", { symptom: null }, [told("deleted", 1101)], true],
];

for (const [title, changes, moments, isOn] of TURNED_AWAY) {
  test(`a session is ${isOn ? "" : "not "}said to be turned away by a living pod: ${title}`, () => {
    const cluster = newCluster();
    const handover = cutAt(0, { code: 1001, ...changes });
    assert.equal(isOnLivingPod(cluster, handover, undefined), false); // no pod is known at all
    const pod = addPod(cluster, "a", moments ?? []);
    assert.equal(isOnLivingPod(cluster, handover, moments === null ? undefined : pod), isOn);
  });
}

test("sessions that are cut at once clear the pod that was ending by how many were on others", () => {
  const cluster = newCluster();
  addPod(cluster, "a", [deleted(0)]);
  addPod(cluster, "b", []);
  const cuts = [cutAt(0), cutAt(10), cutAt(20, { from: "b" }), cutAt(20, { from: "stranger" }), cutAt(20, plain)];
  assert.deepEqual(companyOf(cluster, cuts[0]!, cuts, 9), { together: 5, elsewhere: 1, everybody: false });
});

test("sessions without names are too many for one pod where others are ready that were not ending", () => {
  /** So many sessions are cut, all that there are; so many pods are ready, two are ending though ready, one is not ready. */
  const isEverybody = (number: number, ready: number) => {
    const cluster = newCluster();
    const pods = Array.from({ length: ready + 3 }, (_, nth) => addPod(cluster, `p${nth}`, nth < 2 ? [deleted(0)] : []));
    const endpoints = pods.map(({ uid }, nth) => ({ targetRef: { uid }, conditions: { ready: nth !== 2 } }));
    const metadata = { name: "s", uid: "s", resourceVersion: "1" };
    observeCluster(cluster, "endpointslices", "ADDED", { metadata, endpoints }, BEGIN);
    const cuts = Array.from({ length: number }, () => cutAt(0, plain));
    return companyOf(cluster, cuts[0]!, cuts, number).everybody;
  };
  assert.deepEqual([isEverybody(7, 1), isEverybody(8, 1)], [false, true]); // 1 in 64, 1 in 128
  assert.deepEqual([isEverybody(3, 9), isEverybody(3, 10)], [false, true]); // 1 in 100, 1 in 121
  assert.equal(isEverybody(100, 0), false); // there is no other
});

// ---- From the moments to the cause

const difference = (chance: number, gracefulUntil: number): Partial<PathDifference> => ({
  ...{ pod: "a", path: "ingress", cut: 3, sessions: 3, other: "direct", graceful: 3, otherSessions: 3 },
  chance,
  gracefulUntilMs: BEGIN + gracefulUntil,
});
const BLAME = "ingress (its proxy) is to blame, not the pod";
const PROXY =
  `INTERMEDIARY_CUT: at the end of a 3 of 3 sessions were cut on the path ingress, 3 of 3 graceful on direct: ${BLAME}` as const;

type Case = [
  title: string,
  moments: Moment[],
  handover: Handover,
  cause: Cause | `${Cause}: ${string}` | null,
  more?: { spec?: Partial<Spec>; difference?: Partial<PathDifference>; vague?: boolean },
];

// deno-fmt-ignore
const CAUSES: Case[] = [
  // When the deletion was read.
  ["whose pod's deletion was told 2.5 s later", [late(3500, deleted(0)), exited(1200, 0)], cutAt(1000), "EXITED_AT_SIGTERM"],
  ["whose pod's deletion was told still later", [late(3501, deleted(0)), exited(1200, 0)], cutAt(1000), null],
  ["15 s before a deletion", [deleted(15_000)], cutAt(0), null],
  ["longer before a deletion", [deleted(15_001)], cutAt(0), "NO_POD_EVENT: a was neither deleted nor restarted"],
  ["1 s before a deletion, told 20 s later", [late(18_900, deleted(1100))], cutAt(0), null],
  ["longer before a deletion, told 20 s later", [late(18_900, deleted(1101))], cutAt(0), "NO_POD_EVENT"],
  ["20 s before a deletion without a stamp was told", [unstamped(deleted(20_000))], cutAt(0), null],
  // Whether an exit was its end.
  ["5 s before an exit without a stamp was told", [unstamped(exited(5000, 1))], cutAt(0), "CRASHED: exit 1 without a deletion, restart 0"],
  ["longer before an exit without a stamp was told", [unstamped(exited(5001, 1))], cutAt(0), null],
  ["1 s before an exit without a stamp, which a deletion began", [deleted(0), unstamped(exited(1100, 0))], cutAt(100), "EXITED_AT_SIGTERM"],
  ["longer before that", [deleted(0), unstamped(exited(1101, 0))], cutAt(100), "CUT_AT_SIGTERM: cut 100ms after SIGTERM; the process ran on for 1.00s"],
  ["1 s before the middle of when an exit can have been", [deleted(0), exited(1150, 0)], cutAt(100), "EXITED_AT_SIGTERM"],
  ["longer before it", [deleted(0), exited(1151, 0)], cutAt(100), null],
  ["before SIGTERM, and 200 ms before an exit by itself", [deleted(0), exited(1300, 134)], cutAt(1000), "CRASHED: exit 134, SIGABRT 1.30s after the deletion", { spec: sleeping(5) }],
  ["before SIGTERM, and longer before such an exit", [deleted(0), exited(1301, 134)], cutAt(1000), "INTERMEDIARY_CUT: cut 1.00s after the deletion; the pod ran on for 201ms", { spec: sleeping(5) }],
  ["perhaps before SIGTERM, and longer before such an exit", [late(2000, deleted(0)), exited(1801, 134)], cutAt(1500), "CRASHED", { spec: sleeping(1) }],
  ["after SIGTERM, and as long before an exit", [deleted(0), exited(1301, 0)], cutAt(1000), "EXITED_AT_SIGTERM"],
  ["1 s before the end of a grace that ended late", [deleted(0), exited(9500, 137)], cutAt(7000), "SIGTERM_IGNORED: exit 137 after 8.00s of grace"],
  ["longer before it", [deleted(0), exited(9500, 137)], cutAt(6999), "INTERMEDIARY_CUT: cut 7.00s after the deletion; the pod ran on for 2.40s"],
  // Another path fared better.
  ["on the worse path, before the last graceful end", [deleted(0), exited(3100, 0)], cutAt(1999), PROXY, { difference: difference(0.001, 2000) }],
  ["on the worse path, at the last graceful end, 1 s before the exit", [deleted(0), exited(3100, 0)], cutAt(2000), null, { difference: difference(0.001, 2000) }],
  ["on the worse path, longer before the exit", [deleted(0), exited(3101, 0)], cutAt(2000), PROXY, { difference: difference(0.001, 2000) }],
  ["on the worse path, which may be chance, at SIGTERM", [deleted(0), exited(5000, 0)], cutAt(1000), null, { difference: difference(0.01, 2000) }],
  ["on the worse path, which may be chance, at the exit", [deleted(0), exited(1000, 0)], cutAt(1000), null, { difference: difference(0.01, 2000) }],
  ["that fell silent on the worse path", [deleted(0), exited(3100, 0)], cutAt(1000, silent), null, { difference: difference(0.001, 2000) }],
  // Opened after the deletion.
  ["opened at the deletion", [deleted(0), exited(1000, 0)], cutAt(1000, opened(0)), "EXITED_AT_SIGTERM"],
  ["opened after the deletion", [deleted(0), exited(1000, 0)], cutAt(1000, opened(1)), "ENDPOINT_RACE: opened 1ms after its pod's deletion"],
  ["opened at the end of the grace", [deleted(0), exited(9000, 0)], cutAt(9000, opened(8000)), "ENDPOINT_RACE"],
  ["opened after the grace", [deleted(0), exited(9000, 0)], cutAt(9000, opened(8001)), null],
  ["opened after the deletion, and nobody saw the exit", [deleted(0)], cutAt(1000, opened(500)), "ENDPOINT_RACE"],
  ["opened after the deletion, without a name", [deleted(0), exited(1000, 0)], cutAt(1000, { ...plain, ...opened(500) }), "ENDPOINT_RACE"],
  ["opened after the deletion, without a name, and nobody saw the exit", [deleted(0)], cutAt(1000, { ...plain, ...opened(500) }), null],
  // Nobody deleted it.
  ["at an exit with 143", [exited(100, 143)], cutAt(0), null],
  ["at an exit with 0", [exited(100, 0)], cutAt(0), null],
  ["in the second of a deletion and an exit", [deleted(0), exited(0, 1)], cutAt(0), "EXITED_AT_SIGTERM"],
  ["at an exit that was told before a deletion", [exited(0, 1), deleted(100)], cutAt(100), "CRASHED: exit 1 without a deletion, restart 0"],
  ["15 s before its pod was gone", [told("gone", 15_100)], cutAt(0), null],
  ["longer before", [told("gone", 15_101)], cutAt(0), "NO_POD_EVENT"],
  ["1 s after another container's exit", [exited(-1000, 1, { container: "sidecar" })], cutAt(0), null],
  ["longer after it", [exited(-1001, 1, { container: "sidecar" })], cutAt(0), "NO_POD_EVENT"],
  ["opened at a kill for a probe", [told("liveness", -500)], cutAt(0, opened(-500)), null],
  ["opened after a kill for a probe", [told("liveness", -500)], cutAt(0, opened(-499)), "NO_POD_EVENT"],
  ["1 s before a kill for a probe", [told("liveness", 1100)], cutAt(0), "LIVENESS_KILLED: liveness"],
  ["longer before it", [told("liveness", 1101)], cutAt(0), null],
  ["before a kill of another container", [told("liveness", 100, { container: "sidecar" })], cutAt(0), null],
  ["after a kill for a probe, and then a deletion", [told("liveness", -1), deleted(0), exited(500, 0)], cutAt(500), "LIVENESS_KILLED"],
  ["after a deletion and a kill for a probe with it", [told("liveness", 0), deleted(0), exited(500, 0)], cutAt(500), "EXITED_AT_SIGTERM"],
  ...[0, 137, 143].map((code): Case => [`at an exit with ${code} after a probe's failure`, [told("unhealthy", -9000), exited(0, code)], cutAt(0), "LIVENESS_KILLED: unhealthy"]),
  ["at an exit with 1 after a probe's failure", [told("unhealthy", -9000), exited(0, 1)], cutAt(0), "CRASHED"],
  ["at an exit after a failure of another container's probe", [told("unhealthy", -9000, { container: "sidecar" }), exited(0, 137)], cutAt(0), "CRASHED"],
  ["at an exit 1 s before a probe's failure", [told("unhealthy", 1100), exited(0, 137)], cutAt(0), "LIVENESS_KILLED"],
  ["at an exit longer before it", [told("unhealthy", 1101), exited(0, 137)], cutAt(0), "CRASHED"],
  ["at an exit 2 minutes after a probe's failure", [told("unhealthy", -120_000), exited(0, 137)], cutAt(0), "LIVENESS_KILLED"],
  ["at an exit longer after it", [told("unhealthy", -120_001), exited(0, 137)], cutAt(0), "CRASHED"],
  ["at an exit after a failure long ago, and another", [told("unhealthy", -900_000), told("unhealthy", -9000), exited(0, 137)], cutAt(0), "LIVENESS_KILLED"],
  ["5 s after the exit", [deleted(0), exited(500, 0)], cutAt(5500), "EXITED_AT_SIGTERM"],
  ["longer after the exit, as where another container held it", [deleted(0), exited(500, 0)], cutAt(5501), null],
  // As a Go program without a handler leaves where it is PID 1, and as a panic does.
  ["at SIGTERM, with 2", [deleted(0), exited(500, 2)], cutAt(400), null],
  ["amid a drain, with 2", [deleted(0), exited(500, 2)], cutAt(400, noticed(100)), "CRASHED"],
  ["at an exit with 2, without a deletion", [exited(500, 2)], cutAt(400), "CRASHED"],
  // The reason stays, whichever process it was.
  ["at SIGTERM, after a process had been out of memory", [deleted(0), exited(500, 0, { reason: "OOMKilled" })], cutAt(400), null],
  ["at the grace's end, after a process had been out of memory", [deleted(0), exited(8100, 137, { reason: "OOMKilled" })], cutAt(8000), null],
  ["out of memory amid the grace", [deleted(0), exited(500, 137, { reason: "OOMKilled" })], cutAt(400), "OOM_KILLED"],
  ["at an exit after a probe's failure and a deletion", [told("unhealthy", -9000), deleted(0), exited(500, 0)], cutAt(500), "EXITED_AT_SIGTERM"],
  ["1 s before an eviction", [told("evicted", 1100)], cutAt(0), "EVICTED: evicted"],
  ["longer before it", [told("evicted", 1101)], cutAt(0), null],
  ["longer before it, at an exit that was told after it", [told("evicted", 1500), exited(900, 1)], cutAt(0), "EVICTED"],
  ["longer before it, at an exit that was told before it", [exited(900, 1), told("evicted", 1500)], cutAt(0), "CRASHED"],
  ["60 s before its node was missed", [told("node-lost", 60_000)], cutAt(0), "NO_POD_EVENT: a was neither deleted nor restarted; 1m00s after: node-lost"],
  ["longer before it", [told("node-lost", 60_001)], cutAt(0), "NO_POD_EVENT: a was neither deleted nor restarted"],
  ["as its endpoint went", [told("endpoint-gone", 0)], cutAt(0), "NO_POD_EVENT: a was neither deleted nor restarted; 0ms before: endpoint-gone"],
  ["before its endpoint went", [told("endpoint-gone", 1)], cutAt(0), "NO_POD_EVENT: a was neither deleted nor restarted"],
  ["nearer to what came after", [told("unhealthy", -300), told("node-lost", 200)], cutAt(0), "NO_POD_EVENT: a was neither deleted nor restarted; 200ms after: node-lost"],
  ["nearer to what came before", [told("unhealthy", -300), told("node-lost", 400)], cutAt(0), "NO_POD_EVENT: a was neither deleted nor restarted; 300ms before: unhealthy"],
  // Deletions that are repeated, or leave less.
  ["at the end of a second that a second deletion left", [deleted(0, 60_000), deleted(1000, 1000), exited(3000, 137)], cutAt(3000), "FORCE_DELETED: deleted again with a grace of 1"],
  ["at the end of more than a second", [deleted(0, 60_000), deleted(1000, 1001), exited(3000, 137)], cutAt(3000), "GRACE_SHORTENED: exit 137 at the end of 1.001s of grace; the specification says 8s"],
  ["at the end of a second that the only deletion left", [deleted(0, 1000), exited(2000, 137)], cutAt(2000), "GRACE_SHORTENED"],
  ["at the end of a second that a second deletion leaves, and it ended by itself", [deleted(0, 60_000), deleted(1000, 1000), exited(3000, 0)], cutAt(3000), "EXITED_AT_SIGTERM"],
  ["500 ms before it was forced", [deleted(0), deleted(1500, 0), exited(1600, 137)], cutAt(1000), "FORCE_DELETED: deleted again with a grace of 0"],
  ["longer before it was forced", [deleted(0), deleted(1501, 0), exited(1601, 137)], cutAt(1000), null],
  ["2.5 s before it was forced, and it lived on", [deleted(0), deleted(3500, 0), exited(5000, 0)], cutAt(1000), null],
  ["still longer before", [deleted(0), deleted(3501, 0), exited(5000, 0)], cutAt(1000), "CUT_AT_SIGTERM"],
  ["at an exit by itself, though it was forced", [deleted(0), deleted(500, 0), exited(1000, 0)], cutAt(1000), "EXITED_AT_SIGTERM"],
  // Killed at the end of its grace.
  ["told 2 s before, without an interval", [deleted(0), exited(8000, 137)], cutAt(8000, { ...noticed(2000), remaining: { announced: 3, received: 0, intervalMs: null } }), "SIGKILL_AT_GRACE: preStop left 2.00s of 8s"],
  ["told 2 s before, with nothing announced", [deleted(0), exited(8000, 137)], cutAt(8000, { ...noticed(2000), remaining: { announced: null, received: 0, intervalMs: 100 } }), "SIGKILL_AT_GRACE: preStop left 2.00s of 8s"],
  ["told before its deletion", [deleted(0, 1000), exited(1000, 137)], cutAt(1000, noticed(3000)), "SIGKILL_AT_GRACE: preStop left 1.00s of 1s", { spec: { terminationGracePeriodSeconds: 1 } }],
  ["told after its grace", [deleted(0), exited(8500, 137)], cutAt(8500, noticed(100)), "SIGKILL_AT_GRACE: preStop left 0ms of 8s"],
  ["while a hook of unknown length ran", [deleted(0), exited(8000, 137)], cutAt(8000), null, { spec: running }],
  ["after such a hook had failed", [deleted(0), told("prestop-failed", 6499), exited(8000, 137)], cutAt(8000), "SIGTERM_IGNORED", { spec: running }],
  ["as such a hook failed with the grace's end", [deleted(0), told("prestop-failed", 6500), exited(8000, 137)], cutAt(8000), "SIGKILL_AT_GRACE: preStop (drain) took all 8s of grace", { spec: running }],
  ["while a hook ran that is as long as the grace", [deleted(0), exited(8000, 137)], cutAt(8000), "SIGKILL_AT_GRACE: preStop (sleep 8s) took all 8s of grace", { spec: sleeping(8) }],
  ["after a hook that is shorter than the grace", [deleted(0), exited(8000, 137)], cutAt(8000), "SIGTERM_IGNORED", { spec: sleeping(7.999) }],
  ["2 s after it stopped serving", [deleted(0), told("not-serving", 6000), exited(8000, 137)], cutAt(8000), "SIGTERM_IGNORED"],
  ["longer after it stopped serving", [deleted(0), told("not-serving", 5999), exited(8000, 137)], cutAt(8000), "SIGKILL_AT_GRACE: stopped serving 6.00s after the deletion, not ended after 8s of grace"],
  ["though it stopped serving long before the deletion", [told("not-serving", -2501), deleted(0), exited(8000, 137)], cutAt(8000), "SIGTERM_IGNORED"],
  ["and it stopped serving as the deletion can have been", [told("not-serving", -2500), deleted(0), exited(8000, 137)], cutAt(8000), "SIGKILL_AT_GRACE"],
  // Another container.
  ["500 ms after a sidecar's exit", [deleted(0), exited(1500, 0, { container: "sidecar" }), exited(2300, 0)], cutAt(2000), "SIDECAR_ENDED: exit 0 1.50s after the deletion, app later", { spec: both }],
  ["longer after it", [deleted(0), exited(1499, 0, { container: "sidecar" }), exited(2300, 0)], cutAt(2000), "EXITED_AT_SIGTERM", { spec: both }],
  ["after the exits of both", [deleted(0), exited(1500, 0, { container: "sidecar" }), exited(1900, 0)], cutAt(2000), "SIDECAR_ENDED", { spec: both }],
  ["after the exits of both, the sidecar's the later one", [deleted(0), exited(1900, 0, { container: "sidecar" }), exited(1800, 0)], cutAt(2000), "EXITED_AT_SIGTERM", { spec: both }],
  ["after the exits of both in one instant", [deleted(0), exited(1900, 0, { container: "sidecar" }), exited(1900, 0)], cutAt(2000), null, { spec: both }],
  ["after the exits of both, one without a stamp", [deleted(0), exited(1500, 0, { container: "sidecar" }), unstamped(exited(1900, 0))], cutAt(2000), "EXITED_AT_SIGTERM", { spec: both }],
  ["at a sidecar's exit before the deletion", [exited(-100, 0, { container: "sidecar" }), deleted(0), exited(400, 0)], cutAt(100), "SIDECAR_ENDED: exit 0 0ms after the deletion, app later", { spec: both }],
  ["at a sidecar's exit, 201 ms before the application's", [exited(-100, 0, { container: "sidecar" }), deleted(0), exited(401, 0)], cutAt(100), "SIDECAR_ENDED: exit 0 0ms after the deletion, app ran on", { spec: both }],
  ["at the exit of a container that is no sidecar", [deleted(0), exited(1500, 0, { container: "native" }), exited(1900, 0)], cutAt(2000), "EXITED_AT_SIGTERM"],
  // A hook that failed.
  ["200 ms before an exit, as far as can be told, after its hook had failed", [deleted(0), told("prestop-failed", 500), late(1000, exited(2200, 0))], cutAt(1000), null, { spec: sleeping(5), vague: true }],
  ["longer before it", [deleted(0), told("prestop-failed", 500), late(1000, exited(2201, 0))], cutAt(1000), "PRESTOP_FAILED: prestop-failed (sleep 5s)", { spec: sleeping(5), vague: true }],
  ["before its hook would have been over", [deleted(0), told("prestop-failed", 500), exited(7000, 0)], cutAt(4999), "PRESTOP_FAILED", { spec: sleeping(5) }],
  ["as its hook would have been over", [deleted(0), told("prestop-failed", 500), exited(7000, 0)], cutAt(5000), "INTERMEDIARY_CUT", { spec: sleeping(5) }],
  ["1 s before its hook failed", [deleted(0), told("prestop-failed", 2100), exited(7000, 0)], cutAt(1000), "PRESTOP_FAILED", { spec: sleeping(5) }],
  ["longer before its hook failed", [deleted(0), told("prestop-failed", 2101), exited(7000, 0)], cutAt(1000), "INTERMEDIARY_CUT", { spec: sleeping(5) }],
  ["after a hook had failed of which nothing is known", [deleted(0), told("prestop-failed", 500), exited(7000, 0)], cutAt(4000), "INTERMEDIARY_CUT"],
  // At SIGTERM and after it.
  ["2 s after its pod stopped serving", [deleted(0), told("not-serving", 100), exited(2100, 0)], cutAt(2100), "EXITED_AT_SIGTERM: exit 0 2.10s after the deletion"],
  ["longer after its pod stopped serving", [deleted(0), told("not-serving", 100), exited(2101, 0)], cutAt(2101), "EXITED_AT_SIGTERM: exit 0 2.10s after the deletion, its upgraded connections with it"],
  ["that fell silent before SIGTERM", [deleted(0), exited(5100, 0)], cutAt(1000, silent), "EXITED_AT_SIGTERM", { spec: sleeping(5) }],
  ["500 ms before SIGTERM, at the exit", [deleted(0), exited(4800, 0)], cutAt(4500), "EXITED_AT_SIGTERM", { spec: sleeping(5) }],
  ["longer before SIGTERM, at the exit", [deleted(0), exited(4799, 0)], cutAt(4499), null, { spec: sleeping(5) }],
  ["2.5 s before SIGTERM, at the exit, where the deletion was told late", [late(5000, deleted(0)), exited(6800, 0)], cutAt(6500), "EXITED_AT_SIGTERM", { spec: sleeping(4) }],
  ["longer before SIGTERM, at the exit, where the deletion was told late", [late(5000, deleted(0)), exited(6799, 0)], cutAt(6499), null, { spec: sleeping(4) }],
  ["perhaps before SIGTERM, less than 1 s before the exit", [late(1000, deleted(0)), exited(4999, 0)], cutAt(4000), "EXITED_AT_SIGTERM", { spec: sleeping(4) }],
  ["perhaps before SIGTERM, 1 s before the exit", [late(1000, deleted(0)), exited(5000, 0)], cutAt(4000), null, { spec: sleeping(4) }],
  ["amid a drain, perhaps before SIGTERM, less than 1 s before the exit", [late(1000, deleted(0)), exited(4999, 0)], cutAt(4000, noticed(100)), "EXIT_BEFORE_FLUSH", { spec: sleeping(4) }],
  ["amid a drain, perhaps before SIGTERM, 1 s before the exit", [late(1000, deleted(0)), exited(5000, 0)], cutAt(4000, noticed(100)), null, { spec: sleeping(4) }],
  ["amid a drain, killed, and not for its grace", [deleted(0), exited(1000, 137)], cutAt(1000, noticed(100)), null],
  ["at SIGTERM, 1 s before the exit", [deleted(0), exited(1600, 0)], cutAt(500), null],
  ["at SIGTERM, longer before the exit", [deleted(0), exited(1601, 0)], cutAt(500), "CUT_AT_SIGTERM: cut 500ms after SIGTERM; the process ran on for 1.00s"],
  ["1 s after SIGTERM, and it ran on", [deleted(0), exited(3000, 0)], cutAt(1000), "CUT_AT_SIGTERM"],
  ["longer after SIGTERM, and it ran on", [deleted(0), exited(3000, 0)], cutAt(1001), "INTERMEDIARY_CUT: cut 1.00s after the deletion; the pod ran on for 1.90s"],
  ["just before SIGTERM, and it ran on", [deleted(0), exited(3000, 0)], cutAt(1700), "CUT_AT_SIGTERM: cut 0ms after SIGTERM; the process ran on for 1.20s", { spec: sleeping(2) }],
  ["at SIGTERM, which came at no known time, and it ran on", [deleted(0), exited(3000, 0)], cutAt(1000), null, { spec: running }],
  // In between.
  ["at the end of the grace, and it ran on", [deleted(0), exited(9200, 0)], cutAt(8000), null],
  ["before the end of the grace, and it ran on", [deleted(0), exited(9200, 0)], cutAt(7999), "INTERMEDIARY_CUT"],
  ["perhaps before SIGTERM, and it ran on", [late(2000, deleted(0)), exited(6000, 0)], cutAt(3500), null, { spec: sleeping(3) }],
  ["when SIGTERM came, of a deletion that was told much later", [late(12_000, deleted(0, 30_000)), exited(24_500, 0)], cutAt(20_000), null, { spec: sleeping(20) }],
  ["before SIGTERM, 200 ms before the exit", [deleted(0), exited(1300, 0)], cutAt(1000), null, { spec: sleeping(5) }],
  ["before SIGTERM, longer before the exit", [deleted(0), exited(1301, 0)], cutAt(1000), "INTERMEDIARY_CUT", { spec: sleeping(5) }],
  ["500 ms before the deletion was told", [late(1000, deleted(0)), exited(3000, 0)], cutAt(500), "INTERMEDIARY_CUT: cut 0ms after the deletion; the pod ran on for 2.40s", { spec: sleeping(5) }],
  ["longer before the deletion was told", [late(1000, deleted(0)), exited(3000, 0)], cutAt(499), null, { spec: sleeping(5) }],
  ["while a hook ran that may have failed", [deleted(0), exited(3000, 0)], cutAt(1000), null, { spec: { containers: [{ name: "app", lifecycle: { preStop: { exec: { command: ["sleep", "5"] } } } }] } }],
  ["while it ran on, and its sidecar with it", [deleted(0), exited(4000, 0), exited(4100, 0, { container: "sidecar" })], cutAt(1500), "INTERMEDIARY_CUT", { spec: both }],
  ["while it ran on, and nobody saw its sidecar's exit", [deleted(0), exited(4000, 0)], cutAt(1500), null, { spec: both }],
  // Without numbers: what ended without a close frame, unless we ended it.
  ["without numbers, after CLOSE", [deleted(0), exited(1000, 0)], cutAt(1000, { ...plain, symptom: "NO_CLOSE_FRAME" }), "EXITED_AT_SIGTERM"],
  ["without numbers, with a code", [deleted(0), exited(1000, 0)], cutAt(1000, { ...plain, symptom: "NO_NOTICE", code: 1001 }), null],
  ["without numbers, by ourselves", [deleted(0), exited(1000, 0)], cutAt(1000, { ...plain, symptom: "WITNESS_ENDED" }), null],
  ["without numbers, and nothing failed", [deleted(0), exited(1000, 0)], cutAt(1000, { ...plain, symptom: null }), null],
  ["with numbers, after CLOSE", [deleted(0), exited(1000, 0)], cutAt(1000, { symptom: "NO_CLOSE_FRAME" }), null],
];

for (const [title, moments, handover, cause, { spec, difference, vague = false } = {}] of CAUSES) {
  test(`the cause is ${cause?.split(":")[0] ?? "none"} of a session ${title}`, () => {
    const cluster = newCluster(vague);
    const pod = addPod(cluster, "a", moments, spec);
    const company = { ...companyOf(cluster, handover, [], 9), ...difference && { difference } } as const;
    const found = diagnose(handover, pod, company as Parameters<typeof diagnose>[2]);
    const text = cause?.includes(":") ? `${found?.cause}: ${found?.evidence}` : found?.cause ?? null;
    assert.equal(text, cause);
  });
}

// ---- Where no cause is certain: what the evidence rules out

const forced = { forced: true };

// deno-fmt-ignore
const SUSPECTS: [cause: Cause, isSuspected: boolean, title: string, moments: Moment[], handover: Handover, more?: { spec?: Partial<Spec>; forced?: boolean }][] = [
  ["ENDPOINT_RACE", false, "opened at the deletion", [deleted(0)], cutAt(1000, opened(0))],
  ["ENDPOINT_RACE", true, "opened after the deletion", [deleted(0)], cutAt(1000, opened(1))],
  ["ENDPOINT_RACE", false, "opened 15 s before a deletion without a stamp was told", [unstamped(deleted(0))], cutAt(1000, opened(-15_000))],
  ["ENDPOINT_RACE", true, "opened less before that", [unstamped(deleted(0))], cutAt(1000, opened(-14_999))],
  ["ENDPOINT_RACE", false, "of a pod that nobody deleted", [], cutAt(0)],
  ["OOM_KILLED", true, "and nobody saw the exit", [deleted(0)], cutAt(1000)],
  ["OOM_KILLED", false, "and the exit says nothing of it", [deleted(0), exited(1000, 137)], cutAt(1000)],
  ["CRASHED", true, "and nobody saw the exit", [deleted(0)], cutAt(1000)],
  ["CRASHED", true, "and something killed it", [deleted(0), exited(1000, 137)], cutAt(1000)],
  ["CRASHED", true, "and it exited though nobody deleted it", [exited(1000, 0)], cutAt(1000)],
  ["CRASHED", false, "and it exited after the deletion", [deleted(0), exited(1000, 0)], cutAt(1000)],
  ["LIVENESS_KILLED", true, "of a pod that nobody deleted", [], cutAt(0)],
  ["LIVENESS_KILLED", false, "after the deletion", [deleted(0)], cutAt(1000)],
  ["FORCE_DELETED", true, "of a pod that was forced, and nobody saw the exit", [deleted(0)], cutAt(1000), forced],
  ["FORCE_DELETED", false, "of a pod that was forced, and had exited", [deleted(0), exited(1000, 0)], cutAt(1000), forced],
  ["FORCE_DELETED", false, "of a pod that was not forced", [deleted(0)], cutAt(1000)],
  ["GRACE_SHORTENED", true, "at the end of less grace", [deleted(0, 7999)], cutAt(7000)],
  ["GRACE_SHORTENED", true, "at the end of next to no grace", [deleted(0, 1)], cutAt(7000)],
  ["GRACE_SHORTENED", false, "at the end of its grace", [deleted(0)], cutAt(7000)],
  ["GRACE_SHORTENED", false, "of a pod that had no grace", [deleted(0, 0)], cutAt(7000)],
  ["GRACE_SHORTENED", false, "at an exit by itself, with less grace", [deleted(0, 7000), exited(7000, 0)], cutAt(7000)],
  ["SIGKILL_AT_GRACE", true, "2 s before the end of its grace", [deleted(0)], cutAt(6000)],
  ["SIGKILL_AT_GRACE", false, "longer before it", [deleted(0)], cutAt(5999)],
  ["SIGKILL_AT_GRACE", true, "that fell silent longer before it", [deleted(0)], cutAt(5999, silent)],
  ["SIGKILL_AT_GRACE", false, "at the end of less grace", [deleted(0, 7999)], cutAt(7000)],
  ["SIGKILL_AT_GRACE", true, "as its grace was over, with 137", [deleted(0), exited(8000, 137)], cutAt(5999)],
  ["SIGKILL_AT_GRACE", false, "with 137 before that", [deleted(0), exited(6999, 137)], cutAt(6999)],
  ["SIGKILL_AT_GRACE", false, "at an exit by itself", [deleted(0), exited(8000, 0)], cutAt(8000)],
  ["SIGKILL_AT_GRACE", false, "of a pod that nobody deleted", [], cutAt(0)],
  ["SIGKILL_AT_GRACE", true, "at a deletion without a stamp", [unstamped(deleted(0))], cutAt(0)],
  ["SIGTERM_IGNORED", true, "as its grace was over", [deleted(0)], cutAt(8000)],
  ["SIGTERM_IGNORED", false, "as its grace was over, after a notice", [deleted(0)], cutAt(8000, noticed(100))],
  ["SIGTERM_IGNORED", false, "at the end of less grace", [deleted(0, 7999)], cutAt(8000)],
  ["SIGTERM_IGNORED", false, "long before that", [deleted(0)], cutAt(1000)],
  ["SIDECAR_ENDED", true, "of a pod with a sidecar", [deleted(0)], cutAt(1000), { spec: both }],
  ["SIDECAR_ENDED", false, "of a pod without", [deleted(0)], cutAt(1000)],
  ["PRESTOP_FAILED", true, "after its hook had failed", [deleted(0), told("prestop-failed", 100)], cutAt(1000), { spec: running }],
  ["PRESTOP_FAILED", false, "while its hook ran", [deleted(0)], cutAt(1000), { spec: running }],
  ["PRESTOP_FAILED", false, "after a hook had failed of which nothing is known", [deleted(0), told("prestop-failed", 100)], cutAt(1000)],
  ["EXITED_AT_SIGTERM", true, "after SIGTERM", [deleted(0)], cutAt(1000)],
  ["EXITED_AT_SIGTERM", false, "after SIGTERM, with a notice", [deleted(0)], cutAt(1000, noticed(100))],
  ["EXITED_AT_SIGTERM", false, "after SIGTERM, killed", [deleted(0), exited(1000, 137)], cutAt(1000)],
  ["EXITED_AT_SIGTERM", false, "before SIGTERM", [deleted(0)], cutAt(1000), { spec: sleeping(5) }],
  ["EXITED_AT_SIGTERM", true, "perhaps before SIGTERM", [late(2000, deleted(0))], cutAt(1500), { spec: sleeping(1) }],
  ["EXITED_AT_SIGTERM", false, "of a pod that nobody deleted", [], cutAt(0)],
  ["EXITED_AT_SIGTERM", true, "at a deletion without a stamp", [unstamped(deleted(0))], cutAt(0)],
  ["EXIT_BEFORE_FLUSH", true, "after SIGTERM, with a notice", [deleted(0)], cutAt(1000, noticed(100))],
  ["EXIT_BEFORE_FLUSH", false, "after SIGTERM, without a notice", [deleted(0)], cutAt(1000)],
  ["EXIT_BEFORE_FLUSH", false, "after a notice, killed", [deleted(0), exited(1000, 137)], cutAt(1000, noticed(100))],
  ["EXIT_BEFORE_FLUSH", false, "after a notice, before SIGTERM", [deleted(0)], cutAt(1000, noticed(100)), { spec: sleeping(5) }],
  ["CUT_AT_SIGTERM", true, "1 s after SIGTERM", [deleted(0)], cutAt(1000)],
  ["CUT_AT_SIGTERM", false, "longer after SIGTERM", [deleted(0)], cutAt(1001)],
  ["CUT_AT_SIGTERM", false, "that fell silent", [deleted(0)], cutAt(1000, silent)],
  ["CUT_AT_SIGTERM", false, "before SIGTERM", [deleted(0)], cutAt(1000), { spec: sleeping(5) }],
  ["CUT_AT_SIGTERM", true, "while a hook of unknown length ran", [deleted(0)], cutAt(5000), { spec: running }],
  ["INTERMEDIARY_CUT", true, "before the end of the grace", [deleted(0)], cutAt(7999)],
  ["INTERMEDIARY_CUT", false, "at the end of the grace", [deleted(0)], cutAt(8000)],
  ["INTERMEDIARY_CUT", true, "of a pod that nobody deleted", [], cutAt(0)],
  ["NO_READY_PEER", false, "whatever happened", [], cutAt(0)],
  ["NO_POD_EVENT", true, "of a pod to which nothing happened", [], cutAt(0)],
  ["NO_POD_EVENT", false, "at an exit", [exited(0, 1)], cutAt(0)],
  ["NO_POD_EVENT", false, "at a deletion", [deleted(0)], cutAt(0)],
];

for (const [cause, isSuspected, title, moments, handover, { spec, forced = false } = {}] of SUSPECTS) {
  test(`${cause} is ${isSuspected ? "" : "not "}suspected of a session ${title}`, () => {
    const pod = addPod(newCluster(), "a", moments, spec);
    pod.forced = forced;
    assert.equal(suspects(handover, pod)!.includes(cause), isSuspected);
  });
}
