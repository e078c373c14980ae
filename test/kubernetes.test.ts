/** What a cluster shows, and what is made of it: first from recordings of a real one alone, then with real processes. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import process from "node:process";
import { after, before, describe, it, type TestContext } from "node:test";
import { isDeepStrictEqual } from "node:util";
// deno-fmt-ignore
import {
  type Cause, Cluster, diagnose, type Handover, isEvidenceComplete, judge, type KubernetesObject, Ledger, type Moment,
  observe, observeCluster, observeMissing, Pod, podOf, readyEndpoints, type Redial, type Rule, type SessionEvent,
  companyOf, cutWith, reportPod, suspects, type Symptom, wasKilledAtGrace, when,
} from "../protocol.ts";
import { Lateness, type Result } from "../client.ts";
// deno-fmt-ignore
import { timeline } from "../report.mjs";
import { type Answer, type ApiRequest, certificate, refuse } from "./api-server.ts";
import { edited, type Recorded, recording, startCluster, twoNodes, victimOf } from "./cluster.ts";
import { connect, deadUrl, type Program, seeded, start, startServer } from "./helper.ts";

// ---- From the recordings alone: what a client saw of a session's end, and why it ended

/** How a session ended for its client; moments in ms after the disruption. */
interface Sight {
  at: number;
  how?: "fin" | "silence";
  noticeAt?: number;
  /** With a close frame; `said`: with CLOSE alone. */
  closed?: boolean;
  said?: boolean;
  /** Its last message, where that was not just before. */
  lastAt?: number;
  openedAt?: number;
  dialect?: "v1" | "plain";
  /** The pod, where it is not the victim; its name, or the end of it. */
  from?: string;
  /** How the way to the next session went. */
  forcedMs?: number;
  sameServer?: boolean;
  readyEndpoints?: number;
  lastOnEndingMs?: number;
  expect?: Rule[];
}

const cut = (at: number, more: Partial<Sight> = {}): Sight => ({ at, ...more });
const drainCut = (noticeAt: number, at: number, more: Partial<Sight> = {}): Sight => ({ at, noticeAt, ...more });
const silent = (at: number, more: Partial<Sight> = {}): Sight => ({ at, how: "silence", ...more });
const drained = (noticeAt: number, at: number, more: Partial<Sight> = {}): Sight => ({
  at,
  noticeAt,
  closed: true,
  ...more,
});

/** Recording (or a variant of one, below), what the client saw, and what `judge`, `podOf` and `diagnose` must make of it. */
// deno-fmt-ignore
const CASES: [recorded: string, sight: Sight, title: string, symptom: Symptom | null, cause: Cause | `${Cause}: ${string}` | null][] = [
  // SIGTERM comes at 2.13 s, after the preStop; exit 0 at 2.29 s.
  ["delete-graceful", drained(2140, 2200), "drained", null, null],
  ["delete-graceful", cut(200), "cut long before SIGTERM", "CUT_WITHOUT_NOTICE", "INTERMEDIARY_CUT: cut 66ms after the deletion; the pod ran on for 642ms"],
  ["delete-graceful", cut(541), "cut before SIGTERM could come, and the process lived", "CUT_WITHOUT_NOTICE", "INTERMEDIARY_CUT: cut 407ms after the deletion; the pod ran on for 301ms"],
  ["delete-graceful", cut(700), "cut before SIGTERM could come, and perhaps with the process", "CUT_WITHOUT_NOTICE", null],
  ["delete-graceful", cut(1286), "cut less than 1 s before the exit, though the deletion may have been read late", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM: exit 0 (Completed) 2.11s after the deletion"],
  ["delete-graceful", cut(2200), "cut at SIGTERM", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM: exit 0 (Completed) 2.11s after the deletion"],
  ["delete-graceful", cut(2700), "cut, as it was seen, after the exit", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM: exit 0 (Completed) 2.11s after the deletion"],
  ["delete-graceful", drainCut(300, 400), "cut amid a drain that began in the preStop", "CUT_DURING_DRAIN", "INTERMEDIARY_CUT: cut 266ms after the deletion; the pod ran on for 442ms"],
  ["delete-graceful", drainCut(2140, 2200), "cut amid the drain", "CUT_DURING_DRAIN", "EXIT_BEFORE_FLUSH: exit 0 (Completed) 2.11s after the deletion, amid the drain"],
  ["delete-graceful", drainCut(2140, 2200, { from: "jqvm8" }), "cut amid a drain of the other pod", "CUT_DURING_DRAIN", "NO_POD_EVENT: server-deployment-d45b66bb7-jqvm8 was neither deleted nor restarted"],
  ["delete-graceful", cut(2200, { from: "stranger" }), "cut from a server that is no pod", "CUT_WITHOUT_NOTICE", null],
  ["delete-graceful", cut(-2366), "cut before the deletion, which may have been told late", "CUT_WITHOUT_NOTICE", null],
  ["delete-graceful", cut(-14_867, { openedAt: -40_000 }), "cut long before the deletion", "CUT_WITHOUT_NOTICE", "NO_POD_EVENT: server-deployment-d45b66bb7-dlw2s was neither deleted nor restarted"],
  ["delete-graceful", { at: 2200, closed: true }, "closed without a notice", "NO_NOTICE", null],
  // SIGKILL at 8.14 s, where the grace ends; its exit is seen at 8.29 s.
  ["delete-sigterm-ignored", cut(8200), "cut without a notice", "CUT_WITHOUT_NOTICE", "SIGTERM_IGNORED: exit 137 (Error) after 8.00s of grace"],
  ["delete-sigterm-ignored", drainCut(2150, 8200), "cut after a notice", "CUT_DURING_DRAIN", "SIGKILL_AT_GRACE: drain needs 10.0s, preStop left 5.99s of 8s"],
  ["delete-sigterm-ignored", drainCut(5150, 8200), "cut after a later notice", "CUT_DURING_DRAIN", "SIGKILL_AT_GRACE: drain needs 10.0s, preStop left 2.99s of 8s"],
  ["delete-sigterm-ignored", silent(8200), "silent at the end", "STALLED", "SIGTERM_IGNORED: exit 137 (Error) after 8.00s of grace"],
  ["delete-sigterm-ignored", silent(12_500), "silent, and given up after the end", "STALLED", "SIGTERM_IGNORED: exit 137 (Error) after 8.00s of grace"],
  ["delete-sigterm-ignored", silent(4000), "silent, and given up long before the end", "STALLED", "SIGTERM_IGNORED: exit 137 (Error) after 8.00s of grace"],
  ["delete-sigterm-ignored", silent(8200, { noticeAt: 2150 }), "silent amid the drain", "STALLED", "SIGKILL_AT_GRACE: drain needs 10.0s, preStop left 5.99s of 8s"],
  ["delete-sigterm-ignored", cut(7300), "cut a second before the exit", "CUT_WITHOUT_NOTICE", "SIGTERM_IGNORED: exit 137 (Error) after 8.00s of grace"],
  ["delete-sigterm-ignored", cut(6500), "cut before the exit, and nobody can tell how long", "CUT_WITHOUT_NOTICE", null],
  ["delete-sigterm-ignored", cut(5287), "cut long before the exit", "CUT_WITHOUT_NOTICE", "INTERMEDIARY_CUT: cut 5.15s after the deletion; the pod ran on for 1.85s"],
  ["delete-sigterm-ignored", drainCut(2150, 5200), "cut amid the drain, long before the exit", "CUT_DURING_DRAIN", "INTERMEDIARY_CUT: cut 5.06s after the deletion; the pod ran on for 1.94s"],
  ["delete-sigterm-ignored", cut(8200, { from: "gvlgx" }), "cut from the other pod", "CUT_WITHOUT_NOTICE", "NO_POD_EVENT: server-deployment-5c49c9685b-gvlgx was neither deleted nor restarted"],
  ["killed 1.01 s before its grace is over", cut(7050), "cut without a notice", "CUT_WITHOUT_NOTICE", null],
  ["killed 1.01 s before its grace is over", drainCut(2150, 7050), "cut after a notice", "CUT_DURING_DRAIN", null],
  ["killed 1 s before its grace is over", cut(7050), "cut without a notice", "CUT_WITHOUT_NOTICE", "SIGTERM_IGNORED: exit 137 (Error) after 8.00s of grace"],
  ["with a grace of 60 s", cut(60_200), "cut without a notice", "CUT_WITHOUT_NOTICE", "SIGTERM_IGNORED: exit 137 (Error) after 1m00s of grace"],
  ["with a grace of 60 s", silent(10_000), "silent, and given up 50 s before the end", "STALLED", "SIGTERM_IGNORED: exit 137 (Error) after 1m00s of grace"],
  ["with a grace of 60 s", cut(200), "cut long before SIGTERM", "CUT_WITHOUT_NOTICE", "INTERMEDIARY_CUT: cut 59ms after the deletion; the pod ran on for 58.9s"],
  ["exited as its grace was over", cut(8200), "cut without a notice", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM: exit 1 (Error) 8.15s after the deletion"],
  ["exited as its grace was over", drainCut(2150, 8200), "cut after a notice", "CUT_DURING_DRAIN", "EXIT_BEFORE_FLUSH: exit 1 (Error) 8.15s after the deletion, amid the drain"],
  // Exit 3 at 2.27 s, right after the preStop.
  ["delete-exit-3", cut(2200), "cut without a notice", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM: exit 3 (Error) 2.15s after the deletion"],
  ["delete-exit-3", drainCut(2130, 2200), "cut after a notice", "CUT_DURING_DRAIN", "EXIT_BEFORE_FLUSH: exit 3 (Error) 2.15s after the deletion, amid the drain"],
  ["delete-exit-3", silent(3500), "silent", "STALLED", "EXITED_AT_SIGTERM: exit 3 (Error) 2.15s after the deletion"],
  ["without preStop", drainCut(300, 400), "cut amid the drain, at SIGTERM, and perhaps before the exit", "CUT_DURING_DRAIN", null],
  ["without preStop", drainCut(1000, 1272), "cut amid the drain, less than 1 s before the exit", "CUT_DURING_DRAIN", "EXIT_BEFORE_FLUSH: exit 3 (Error) 2.15s after the deletion, amid the drain"],
  ["without preStop", cut(130), "cut at the deletion, and perhaps long before the exit", "CUT_WITHOUT_NOTICE", null],
  ["without the exit", cut(2200), "cut without a notice, and nobody saw the exit", "CUT_WITHOUT_NOTICE", null],
  ["without the exit", cut(200), "cut before SIGTERM, and nobody saw the exit", "CUT_WITHOUT_NOTICE", null],
  ["without an end", cut(200), "cut before SIGTERM, and nobody saw an end", "CUT_WITHOUT_NOTICE", null],
  ["force-delete", cut(2100), "cut without a notice", "CUT_WITHOUT_NOTICE", "FORCE_DELETED: deleted with a grace of 0"],
  ["force-delete", drainCut(160, 2100), "cut amid the drain", "CUT_DURING_DRAIN", "FORCE_DELETED: deleted with a grace of 0"],
  ["force-delete", silent(12_000), "silent", "STALLED", "FORCE_DELETED: deleted with a grace of 0"],
  ["force-delete", drained(160, 400), "drained", null, null],
  ["evict", drained(2140, 2200), "drained", null, null],
  ["evict", cut(2200), "cut without a notice", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM: exit 0 (Completed) 2.13s after the deletion"],
  ["rollout-restart", drained(3340, 3400, { from: "l5hpj" }), "drained by the first pod", null, null],
  ["rollout-restart", cut(3400, { from: "l5hpj" }), "cut from the first pod", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM: exit 0 (Completed) 2.14s after the deletion"],
  ["rollout-restart", cut(4400, { from: "jqvm8" }), "cut from the second pod", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM: exit 0 (Completed) 2.13s after the deletion"],
  ["rollout-restart", cut(4400, { from: "p5npp", openedAt: 3500 }), "cut from a new pod", "CUT_WITHOUT_NOTICE", "NO_POD_EVENT: server-deployment-d8d5488cc-p5npp was neither deleted nor restarted"],
  ["scale-in", drained(2190, 2250), "drained", null, null],
  ["scale-in", cut(2250, { from: "p5npp" }), "cut from the pod that stays", "CUT_WITHOUT_NOTICE", "NO_POD_EVENT: server-deployment-d8d5488cc-p5npp was neither deleted nor restarted"],
  // Killed at 0; the exit is seen at 0.82 s.
  ["crash-sigkill", cut(5), "cut without a notice", "CUT_WITHOUT_NOTICE", "CRASHED: exit 137 (Error) without a deletion, restart 1"],
  ["crash-sigkill", drainCut(-60, 5), "cut after a notice", "CUT_DURING_DRAIN", "CRASHED: exit 137 (Error) without a deletion, restart 1"],
  ["crash-sigkill", cut(-400), "cut before the exit, as far as its stamp can tell", "CUT_WITHOUT_NOTICE", "CRASHED: exit 137 (Error) without a deletion, restart 1"],
  ["crash-sigkill", cut(-4181), "cut 5 s before the exit, which may have been told late", "CUT_WITHOUT_NOTICE", null],
  ["crash-sigkill", cut(5, { from: "nwdvw" }), "cut from the other pod", "CUT_WITHOUT_NOTICE", "NO_POD_EVENT: server-deployment-d8d5488cc-nwdvw was neither deleted nor restarted"],
  ["crash-sigkill", cut(1500, { openedAt: 1000 }), "cut from the restarted pod", "CUT_WITHOUT_NOTICE", "NO_POD_EVENT: server-deployment-d8d5488cc-fh84f was neither deleted nor restarted; 675ms before: endpoint no longer serving"],
  ["out of memory", cut(5), "cut without a notice", "CUT_WITHOUT_NOTICE", "OOM_KILLED: exit 137 (OOMKilled), the limit is 128Mi, restart 1"],
  ["out of memory without a limit", cut(5), "cut without a notice", "CUT_WITHOUT_NOTICE", "OOM_KILLED: exit 137 (OOMKilled), restart 1"],
  ["out of memory amid the drain", drainCut(2140, 2200), "cut amid the drain", "CUT_DURING_DRAIN", "OOM_KILLED: exit 137 (OOMKilled), the limit is 128Mi, restart 0"],
  ["crashed, then deleted", cut(5), "cut at the crash", "CUT_WITHOUT_NOTICE", "CRASHED: exit 137 (Error) without a deletion, restart 1"],
  ["with a preStop hook that fails", cut(300), "cut without a notice", "CUT_WITHOUT_NOTICE", 'PRESTOP_FAILED: FailedPreStopHook: PreStopHook failed: exec: "sleep": not found in $PATH (sleep 2)'],
  ["with a preStop hook that fails", drainCut(250, 300), "cut amid the drain", "CUT_DURING_DRAIN", 'PRESTOP_FAILED: FailedPreStopHook: PreStopHook failed: exec: "sleep": not found in $PATH (sleep 2)'],
  // Who exits at SIGTERM would have done so after the hook as well.
  ["with a preStop hook that fails, and the exit with it", cut(300), "cut without a notice", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM: exit 3 (Error) 252ms after the deletion"],
  ["forced, with a preStop hook that fails", cut(300), "cut without a notice", "CUT_WITHOUT_NOTICE", "FORCE_DELETED: deleted with a grace of 0"],
  ["with a sidecar that exits first", drainCut(2140, 2200), "cut amid the drain", "CUT_DURING_DRAIN", "EXIT_BEFORE_FLUSH: exit 0 (Completed) 2.11s after the deletion, amid the drain"],
  ["with a sidecar that crashes", cut(5), "cut without a notice", "CUT_WITHOUT_NOTICE", "CRASHED: sidecar: exit 137 (Error) without a deletion"],
  // Kubelet's own kill: told 3 s before the exit, which is only in lastState.
  ["liveness-kill", cut(9500, { from: "jp7fg" }), "cut at the exit", "CUT_WITHOUT_NOTICE", "LIVENESS_KILLED: Killing: Container server failed liveness probe, will be restarted"],
  ["liveness-kill", drainCut(8600, 9500, { from: "jp7fg" }), "cut amid the drain", "CUT_DURING_DRAIN", "LIVENESS_KILLED"],
  ["liveness-kill", silent(14_000, { from: "4lt8r", lastAt: 8000 }), "silent", "STALLED", "LIVENESS_KILLED"],
  ["liveness-kill", cut(3000, { from: "jp7fg" }), "cut long before", "CUT_WITHOUT_NOTICE", null],
  ["liveness-kill", cut(20_000, { from: "jp7fg", openedAt: 11_000 }), "cut long after", "CUT_WITHOUT_NOTICE", "NO_POD_EVENT"],
  ["liveness-kill without Killing", cut(9500, { from: "jp7fg" }), "cut at the exit", "CUT_WITHOUT_NOTICE", "LIVENESS_KILLED: Unhealthy: Liveness probe failed: HTTP probe failed with statuscode: 404"],
  ["liveness-kill without its events", cut(9500, { from: "jp7fg" }), "cut at the exit", "CUT_WITHOUT_NOTICE", null],
  // The node's, the scheduler's, a taint's.
  ["evicted by the node", cut(2250), "cut without a notice", "CUT_WITHOUT_NOTICE", "EVICTED: TerminationByKubelet: The node was low on resource: memory."],
  ["evicted by the node", drainCut(2140, 2250), "cut amid the drain", "CUT_DURING_DRAIN", "EVICTED"],
  ["evicted by the node, without a deletion", cut(5), "cut without a notice", "CUT_WITHOUT_NOTICE", "EVICTED: Evicted: The node was low on resource: memory."],
  ["preempted", drainCut(2140, 2250), "cut amid the drain", "CUT_DURING_DRAIN", "EVICTED: PreemptionByScheduler"],
  ["evict-slow-drain", drainCut(3300, 9000), "cut amid a drain after the API's eviction", "CUT_DURING_DRAIN", "SIGKILL_AT_GRACE: drain needs 10.0s, preStop left 5.43s of 8s"],
  // The hook: a command of unknown length, one that is missing, one that outlives the grace.
  ["prestop-exec-ok", cut(4000), "cut at the exit", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM: exit 0 (Completed) 3.90s after the deletion"],
  ["prestop-exec-ok", cut(600), "cut while the hook ran", "CUT_WITHOUT_NOTICE", null],
  ["prestop-exec-ok", drainCut(3500, 4000), "cut amid the drain", "CUT_DURING_DRAIN", "EXIT_BEFORE_FLUSH"],
  ["prestop-exec-missing", cut(1700), "cut at the exit", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM"],
  ["prestop-exec-missing", drainCut(700, 1800), "cut amid the drain", "CUT_DURING_DRAIN", "EXIT_BEFORE_FLUSH"],
  ["a missing hook that drains", cut(1700), "cut at the exit", "CUT_WITHOUT_NOTICE", "PRESTOP_FAILED: FailedPreStopHook: PreStopHook failed (nginx -s quit)"],
  ["prestop-longer-than-grace", cut(9600), "cut at the exit", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM"],
  ["prestop-longer-than-grace, killed", cut(9600), "cut at the kill", "CUT_WITHOUT_NOTICE", "SIGKILL_AT_GRACE: preStop (/nodejs/bin/node -e setTimeout(()=>{},20000)) took all 8s of grace"],
  // Deletions that are repeated, or ask for less.
  ["grace-shortened", drainCut(2700, 9200), "cut amid the drain: kubelet kept to the first grace", "CUT_DURING_DRAIN", "SIGKILL_AT_GRACE: drain needs 10.0s, preStop left 5.98s of 8s"],
  ["grace-shortened-in-prestop", drainCut(5100, 9500), "cut amid the drain: kubelet kept to the first grace", "CUT_DURING_DRAIN", "SIGKILL_AT_GRACE"],
  ["grace-shortened, and heeded", drainCut(2700, 6300), "cut amid the drain", "CUT_DURING_DRAIN", "GRACE_SHORTENED: exit 137 (Error) at the end of 2s of grace; the specification says 8s"],
  ["delete-less-grace", drainCut(3900, 6700), "cut amid the drain", "CUT_DURING_DRAIN", "GRACE_SHORTENED: exit 137 (Error) at the end of 3s of grace; the specification says 8s"],
  ["delete-less-grace", cut(6700), "cut without a notice", "CUT_WITHOUT_NOTICE", "GRACE_SHORTENED"],
  ["force-after-delete", drainCut(2500, 3500), "cut amid the drain", "CUT_DURING_DRAIN", "FORCE_DELETED: deleted again with a grace of 0"],
  ["force-after-delete", cut(600), "cut before that", "CUT_WITHOUT_NOTICE", null],
  // Other containers: which end first is in finishedAt alone.
  ["sidecar-exits-first", cut(900), "cut at the sidecar's end", "CUT_WITHOUT_NOTICE", "SIDECAR_ENDED: proxy: exit 0 (Completed) 838ms after the deletion, server ran on"],
  ["sidecar-exits-first", cut(2900), "cut at the application's end", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM"],
  ["sidecar-exits-first", drainCut(2700, 2900), "cut amid the application's drain", "CUT_DURING_DRAIN", "EXIT_BEFORE_FLUSH"],
  ["sidecar-exits-first, listed last", cut(900), "cut at the sidecar's end", "CUT_WITHOUT_NOTICE", "SIDECAR_ENDED"],
  ["sidecars that end in one second", cut(2900), "cut at the end of one of them", "CUT_WITHOUT_NOTICE", null],
  ["native-sidecar", cut(4500), "cut at the end", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM"],
  ["native-sidecar-crash", cut(-300, { from: "hv4rx" }), "cut at the crash", "CUT_WITHOUT_NOTICE", "CRASHED: proxy: exit 7 (Error) without a deletion"],
  ["a sidecar out of memory", cut(900), "cut at its end", "CUT_WITHOUT_NOTICE", "OOM_KILLED: proxy: exit 137 (OOMKilled), the limit is 32Mi"],
  // Signals.
  ["abort-at-sigterm", drainCut(3300, 3700), "cut amid the drain", "CUT_DURING_DRAIN", "CRASHED"],
  ["abort-not-pid-1", cut(2900), "cut at SIGTERM", "CUT_WITHOUT_NOTICE", "CRASHED: exit 134 (Error), SIGABRT 2.64s after the deletion"],
  ["sigsegv-not-pid-1", cut(2700), "cut at SIGTERM", "CUT_WITHOUT_NOTICE", "CRASHED"],
  ["sigsegv-at-sigterm", cut(8900), "cut at the grace's end", "CUT_WITHOUT_NOTICE", "SIGTERM_IGNORED: exit 137 (Error) after 8.00s of grace"],
  ["oom", cut(5800, { from: "4gk6k" }), "cut at the kill", "CUT_WITHOUT_NOTICE", "OOM_KILLED: exit 137 (OOMKilled), the limit is 96Mi, restart 1"],
  // A busy node tells late.
  ["slow-drain-busy-node", drainCut(11_700, 17_900), "cut amid the drain", "CUT_DURING_DRAIN", "SIGKILL_AT_GRACE"],
  ["slow-drain-busy-node, 10 s later", drainCut(11_700, 17_900), "cut amid the drain", "CUT_DURING_DRAIN", "SIGKILL_AT_GRACE"],
  ["slow-drain-busy-node", cut(17_900), "cut without a notice, long after it stopped serving", "CUT_WITHOUT_NOTICE", "SIGKILL_AT_GRACE: stopped serving 3.19s after the deletion, not ended after 8s of grace"],
  ["slow-drain-two-hogs", drainCut(3200, 9500), "cut amid the drain", "CUT_DURING_DRAIN", "SIGKILL_AT_GRACE"],
  ["killed, told 6 s later without a stamp", cut(8200), "cut at the grace's end", "CUT_WITHOUT_NOTICE", "SIGTERM_IGNORED: exit 137 (Error) after 8.00s of grace"],
  ["killed, told 6 s later without a stamp", drainCut(2150, 8200), "cut at the grace's end", "CUT_DURING_DRAIN", "SIGKILL_AT_GRACE"],
  ["exit told 10 s later", cut(2200), "cut at SIGTERM", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM: exit 3 (Error) 2.29s after the deletion"],
  ["exit told 10 s later", drainCut(2140, 2200), "cut amid the drain", "CUT_DURING_DRAIN", "EXIT_BEFORE_FLUSH"],
  ["lived on for 8 s", cut(2200), "cut at SIGTERM", "CUT_WITHOUT_NOTICE", "CUT_AT_SIGTERM: cut 81ms after SIGTERM; the process ran on for 6.81s"],
  ["statefulset-rollout", cut(4300, { from: "set-1" }), "cut from the first pod", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM"],
  ["statefulset-rollout", cut(15_000, { from: "set-1", openedAt: 10_000 }), "cut from the pod of the same name", "CUT_WITHOUT_NOTICE", "NO_POD_EVENT"],
  ["readiness-lost", cut(1300, { from: "8bhq8" }), "cut as the endpoint was removed", "CUT_WITHOUT_NOTICE", "NO_POD_EVENT: server-deployment-6f6d96c849-8bhq8 was neither deleted nor restarted; 207ms before: endpoint no longer serving"],
  // Opened after the deletion.
  ["delete-exit-3", cut(2200, { openedAt: 500 }), "opened after the deletion", "CUT_WITHOUT_NOTICE", "ENDPOINT_RACE: opened 381ms after its pod's deletion"],
  ["delete-exit-3", drainCut(2130, 2200, { openedAt: 500 }), "opened after the deletion, told, and cut", "CUT_DURING_DRAIN", "ENDPOINT_RACE"],
  // The way to the next session.
  ["delete-graceful", drained(2140, 2200, { forcedMs: 6000, readyEndpoints: 0 }), "drained, and back late: nowhere to go", "SLOW_RECONNECT", "NO_READY_PEER: no ready endpoint to dial"],
  ["delete-graceful", drained(2140, 2200, { forcedMs: 6000, readyEndpoints: 0, lastOnEndingMs: 2300 }), "the same, while dials reached the ending pod", "SLOW_RECONNECT", "NO_READY_PEER: no ready endpoint to dial"],
  ["delete-graceful", drained(2140, 2200, { forcedMs: 6000, readyEndpoints: 1, lastOnEndingMs: 2345 }), "drained, and back late: dials reached the ending pod", "SLOW_RECONNECT", "ENDPOINT_RACE: last dial that reached the ending pod at +2.35s"],
  ["delete-graceful", drained(2140, 2200, { forcedMs: 6000, readyEndpoints: 1 }), "drained, and back late for no visible reason", "SLOW_RECONNECT", null],
  ["delete-graceful", drained(2140, 2200, { sameServer: true, readyEndpoints: 0, lastOnEndingMs: 890 }), "drained, and back on the same server", "SAME_SERVER", "ENDPOINT_RACE: last dial that reached the ending pod at +890ms"],
  ["delete-graceful", drained(2140, 2200, { sameServer: true }), "drained, and back on the same server, which was not ending", "SAME_SERVER", null],
  ["delete-graceful", cut(2200, { sameServer: true, lastOnEndingMs: 890, expect: ["moved"] }), "cut, where only the move is asked for", "SAME_SERVER", "ENDPOINT_RACE: last dial that reached the ending pod at +890ms"],
  // Without numbers, and without a name: the pod that was ending.
  ["delete-graceful", drained(2140, 2200, { dialect: "plain" }), "plain, drained", null, null],
  ["delete-graceful", cut(2200, { dialect: "plain" }), "plain, cut at SIGTERM", "CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM: exit 0 (Completed) 2.11s after the deletion"],
  ["delete-graceful", cut(200, { dialect: "plain" }), "plain, cut before SIGTERM", "CUT_WITHOUT_NOTICE", "INTERMEDIARY_CUT: cut 66ms after the deletion; the pod ran on for 642ms"],
  ["delete-graceful", cut(-4866, { dialect: "plain" }), "plain, cut 5 s before the deletion was seen", "CUT_WITHOUT_NOTICE", null],
  ["delete-graceful", cut(-4867, { dialect: "plain" }), "plain, cut before the deletion", "CUT_WITHOUT_NOTICE", "NO_POD_EVENT: no pod was ending"],
  ["delete-graceful", cut(9000, { dialect: "plain", openedAt: 4000 }), "plain, opened after the pod was gone, and cut", "CUT_WITHOUT_NOTICE", "NO_POD_EVENT: no pod was ending"],
  ["delete-sigterm-ignored", silent(18_200, { dialect: "plain", lastAt: 8000 }), "plain, silent, and given up 10 s after the exit", "STALLED", "SIGTERM_IGNORED: exit 137 (Error) after 8.00s of grace"],
  ["delete-sigterm-ignored", drainCut(2150, 8200, { dialect: "plain" }), "plain, cut after a notice", "CUT_DURING_DRAIN", "SIGKILL_AT_GRACE: preStop left 5.99s of 8s"],
  ["delete-graceful", drainCut(2140, 2200, { dialect: "plain", said: true }), "plain, cut after CLOSE", "NO_CLOSE_FRAME", "EXIT_BEFORE_FLUSH: exit 0 (Completed) 2.11s after the deletion, amid the drain"],
  ["crash-sigkill", cut(5, { dialect: "plain" }), "plain, cut", "CUT_WITHOUT_NOTICE", "CRASHED: exit 137 (Error) without a deletion, restart 1"],
];

const failedHook = (pod: KubernetesObject): KubernetesObject => ({
  metadata: { name: "hook", uid: "hook", resourceVersion: "999999" },
  reason: "FailedPreStopHook",
  message: 'PreStopHook failed: exec: "sleep": not found in $PATH',
  involvedObject: { uid: pod.metadata.uid },
});

/** What the table calls by a name that is no file's. */
const VARIANTS: Record<string, () => Recorded[]> = {
  "killed 1.01 s before its grace is over": () => killedAt(141 + 6999 - 10),
  "killed 1 s before its grace is over": () => killedAt(141 + 7000),
  "with a grace of 60 s": () =>
    edited("delete-sigterm-ignored", ({ metadata, spec, status }, line) => {
      if (spec) spec.terminationGracePeriodSeconds = 60;
      if (metadata.deletionGracePeriodSeconds === 8) {
        metadata.deletionGracePeriodSeconds = 60;
        metadata.deletionTimestamp = later(metadata.deletionTimestamp!, 52);
      }
      for (const exit of exitsIn(status)) exit.finishedAt = later(exit.finishedAt!, 52);
      if (line.t !== null && line.t >= 8288 && line.t < 60_000) line.t += 52_000;
    }),
  "exited as its grace was over": () =>
    edited("delete-sigterm-ignored", ({ status }) => exitsIn(status).forEach((exit) => exit.exitCode = 1)),
  "without preStop": () =>
    edited("delete-exit-3", ({ spec }) => spec?.containers.forEach((container) => delete container.lifecycle)),
  "without the exit": () => unseen("delete-exit-3"),
  "with a hook longer than the grace": () =>
    edited("delete-exit-3", ({ spec }) => {
      for (const container of spec?.containers ?? []) container.lifecycle = { preStop: { sleep: { seconds: 20 } } };
    }),
  "without an end": () => recording("delete-exit-3").filter(({ t }) => t === null || t < 2000),
  "out of memory": () => edited("crash-sigkill", outOfMemory),
  "out of memory without a limit": () =>
    edited("crash-sigkill", (object) => {
      outOfMemory(object);
      for (const container of object.spec?.containers ?? []) delete container.resources;
    }),
  "out of memory amid the drain": () =>
    edited("delete-graceful", ({ status }) => {
      for (const exit of exitsIn(status)) Object.assign(exit, { exitCode: 137, reason: "OOMKilled" });
    }),
  "crashed, then deleted": () => {
    const [pods] = recording("crash-sigkill");
    const deleted = structuredClone(recording("crash-sigkill").find(({ t }) => t === 1813)!);
    Object.assign(deleted.object!.metadata, {
      deletionTimestamp: "2026-11-22T18:54:53Z",
      deletionGracePeriodSeconds: 8,
    });
    return [pods!, ...recording("crash-sigkill").slice(1), { ...deleted, t: 2400 }];
  },
  "with a preStop hook that fails": () => withFailedHook("delete-exit-3"),
  "with a preStop hook that fails, and the exit with it": () =>
    withFailedHook("delete-exit-3").map((line): Recorded => {
      const { t, ...early } = JSON.parse(JSON.stringify(line).replaceAll("18:53:42Z", "18:53:40Z"));
      return { ...early, t: t === 2271 ? 371 : t };
    }).toSorted((one, other) => (one.t ?? -1) - (other.t ?? -1)),
  "forced, with a preStop hook that fails": () => withFailedHook("force-delete"),
  "delete-sigterm-ignored without the exit": () => unseen("delete-sigterm-ignored"),
  "delete-less-grace without the exit": () => unseen("delete-less-grace"),
  "liveness-kill without Killing": () =>
    recording("liveness-kill").filter(({ object }) => object?.reason !== "Killing"),
  "liveness-kill without its events": () => recording("liveness-kill").filter(({ stream }) => stream !== "events"),
  "evicted by the node": () => disrupted("TerminationByKubelet", "The node was low on resource: memory."),
  "preempted": () => disrupted("PreemptionByScheduler", ""),
  "evicted by the node, without a deletion": () =>
    edited("crash-sigkill", ({ status }, { t }) => {
      if (t !== null && t >= 820 && status) {
        Object.assign(status, { phase: "Failed", reason: "Evicted", message: "The node was low on resource: memory." });
      }
    }),
  "a missing hook that drains": () =>
    edited("prestop-exec-missing", ({ spec }) => {
      for (const container of spec?.containers ?? []) {
        container.lifecycle = { preStop: { exec: { command: ["nginx", "-s", "quit"] } } };
      }
    }),
  "prestop-longer-than-grace, killed": () =>
    edited("prestop-longer-than-grace", ({ status }) => exitsIn(status).forEach((exit) => exit.exitCode = 137)),
  "grace-shortened, and heeded": () =>
    edited("grace-shortened", ({ metadata, status }, line) => {
      if (metadata.deletionGracePeriodSeconds === 1) metadata.deletionGracePeriodSeconds = 2;
      if (line.t === null || line.t < 9000) return;
      line.t -= 3000;
      if (metadata.deletionGracePeriodSeconds === 0) {
        metadata.deletionTimestamp = later(metadata.deletionTimestamp!, -3);
      }
      for (const exit of exitsIn(status)) exit.finishedAt = later(exit.finishedAt!, -3);
      for (const condition of status?.conditions ?? []) {
        condition.lastTransitionTime = later(condition.lastTransitionTime!, -3);
      }
    }),
  "sidecar-exits-first, listed last": () =>
    edited("sidecar-exits-first", ({ spec, status }) => {
      spec?.containers.reverse();
      status?.containerStatuses?.reverse();
    }),
  "sidecars that end in one second": () =>
    edited("sidecar-exits-first", ({ status }) => {
      const [one, other] = exitsIn(status);
      if (one && other) one.finishedAt = other.finishedAt!;
    }),
  "a sidecar out of memory": () =>
    edited("sidecar-exits-first", ({ spec, status }) => {
      for (const one of spec?.containers ?? []) {
        if (one.name === "proxy") one.resources = { limits: { memory: "32Mi" } };
      }
      for (const one of status?.containerStatuses ?? []) {
        if (one.name === "proxy" && one.state?.terminated) {
          Object.assign(one.state.terminated, { exitCode: 137, reason: "OOMKilled" });
        }
      }
    }),
  "slow-drain-busy-node, 10 s later": () => toldLater(recording("slow-drain-busy-node"), 10_000),
  "killed, told 6 s later without a stamp": () =>
    toldLater(
      edited("delete-sigterm-ignored", ({ status }) => exitsIn(status).forEach((exit) => delete exit.finishedAt)),
      6000,
    ),
  "exit told 10 s later": () => toldLater(recording("delete-exit-3"), 10_000),
  "lived on for 8 s": () =>
    edited("delete-exit-3", ({ status }, line) => {
      for (const exit of exitsIn(status)) exit.finishedAt = later(exit.finishedAt!, 8);
      if (line.t !== null && line.t >= 2200) line.t += 8000;
    }),
  "with a sidecar that exits first": () =>
    edited("delete-graceful", (object, { t }) => addSidecar(object, t !== null && t >= 150 ? 0 : undefined)),
  "with a sidecar that crashes": () =>
    edited("crash-sigkill", (object, { t }) => {
      for (const status of object.status?.containerStatuses ?? []) {
        Object.assign(status, { state: { running: {} }, lastState: {}, restartCount: 0 });
      }
      addSidecar(object, t !== null && t >= 820 ? 137 : undefined);
    }),
};

/** A recording in which nobody sees how a container ended. */
function unseen(name: string): Recorded[] {
  return edited(name, ({ status }) => status?.containerStatuses?.forEach(({ state }) => delete state!.terminated));
}

/** The recorded eviction, for another reason than the API's. */
function disrupted(reason: string, message: string): Recorded[] {
  return edited("evict", ({ status }) => {
    const target = status?.conditions?.find(({ type }) => type === "DisruptionTarget");
    if (target) Object.assign(target, { reason, message });
  });
}

/** The same lines, but all that tells of a container's end comes so much later. */
function toldLater(lines: Recorded[], ms: number): Recorded[] {
  return lines.map((line) => {
    const { metadata, status } = line.object ?? {};
    const tells = exitsIn(status).length > 0 || metadata?.deletionGracePeriodSeconds === 0;
    return line.t !== null && tells ? { ...line, t: line.t + ms } : line;
  });
}

/** The same process, killed when it had had a second less of its grace; and told of as late as that. */
function killedAt(ms: number): Recorded[] {
  return edited("delete-sigterm-ignored", ({ status }, line) => {
    for (const exit of exitsIn(status)) exit.finishedAt = later(exit.finishedAt!, ms < 141 + 7000 ? -2 : -1);
    if (line.t === 8288) line.t = ms;
  });
}

/** A stamp of the API, so many seconds later. */
const later = (stamp: string, seconds: number): string =>
  new Date(Date.parse(stamp) + seconds * 1000).toISOString().replace(".000Z", "Z");

const exitsIn = (status: KubernetesObject["status"]) =>
  (status?.containerStatuses ?? []).flatMap((
    { state, lastState },
  ) => [state?.terminated ?? [], lastState?.terminated ?? []])
    .flat();

function outOfMemory({ status }: KubernetesObject): void {
  for (const exit of exitsIn(status)) exit.reason = "OOMKilled";
}

/** A second container, listed first by its status, that exits as soon as it has a code. */
function addSidecar({ spec, status, metadata }: KubernetesObject, exitCode: number | undefined): void {
  spec?.containers.push({ name: "sidecar" });
  const exit = {
    exitCode: exitCode ?? 0,
    reason: exitCode ? "Error" : "Completed",
    containerID: `sidecar of ${metadata.uid}`,
  };
  status?.containerStatuses?.unshift({
    name: "sidecar",
    restartCount: 7,
    state: exitCode === undefined ? { running: {} } : { terminated: exit },
  });
}

function withFailedHook(name: string): Recorded[] {
  const lines = edited(name, ({ spec }) => {
    for (const container of spec?.containers ?? []) {
      container.lifecycle = { preStop: { exec: { command: ["sleep", "2"] } } };
    }
  });
  const at = lines.findIndex(({ t, stream }) => t !== null && t > 200 && stream === "pods");
  const pod = lines.find(({ object }) => object?.metadata.deletionTimestamp)!.object!;
  return lines.toSpliced(at, 0, { t: 200, stream: "events", type: "ADDED", object: failedHook(pod) });
}

/** The lines of a case, the same for all who ask: nobody changes them. */
function linesOf(recorded: string): Recorded[] {
  const lines = known.get(recorded) ?? VARIANTS[recorded]?.() ?? recording(recorded);
  known.set(recorded, lines);
  return lines;
}
const known = new Map<string, Recorded[]>();

/** The client's clock at the disruption. */
const START = 60_000;

/** What the watches of a client have shown it by then, in the order in which it came. */
function watch(lines: Recorded[], untilMs = Infinity, cluster = new Cluster()): Cluster & { news: [Pod, Moment][] } {
  const news: [Pod, Moment][] = [];
  for (const { stream, list } of lines) {
    for (const item of list?.items ?? []) observeCluster(cluster, stream!, "LISTED", item, 0);
  }
  for (const { t, stream, type, object } of lines.filter(({ object }) => object).sort((a, b) => a.t! - b.t!)) {
    if (t! <= untilMs) news.push(...observeCluster(cluster, stream!, type!, object!, START + t!));
  }
  return Object.assign(cluster, { news });
}

/** A pod by its name, or by the end of it. */
function podNamed(cluster: Cluster, name: string): Pod {
  return [...cluster.pods.values()].find((pod) => pod.name.endsWith(name))!;
}

/** A session with a DATA a second, its end as a client saw it, and the next session, judged. */
function handoverOf(sight: Sight, from: string): Handover {
  const { at, how = "fin", noticeAt, closed = false, openedAt = -20_000, dialect = "v1", forcedMs = 10 } = sight;
  const url = "ws://server-service:8080/ws";
  const plain = dialect === "plain";
  const ledger = new Ledger(url, dialect, 1000);
  const enter = (t: number, event: SessionEvent) => observe(ledger, event, START + t);
  const hello = (instance: string): SessionEvent => ({
    type: "HELLO",
    server: from,
    instance,
    session: instance,
    intervalMs: 1000,
  });
  const stamp = "2026-11-22T18:54:34.000Z";
  let seq = 0;
  const data = (t: number) =>
    enter(
      t,
      plain ? { type: "TEXT", text: "Business data: 01:02:03" } : { type: "DATA", seq: ++seq, at: stamp, ack: 0 },
    );

  enter(openedAt, plain ? { type: "OPEN" } : hello("ending"));
  data(openedAt);
  data(sight.lastAt ?? (noticeAt ?? at) - (how === "silence" ? 5000 : 10));
  if (noticeAt !== undefined) {
    const remaining = closed ? 0 : 10;
    const notice = { at: stamp, reason: "", remaining, lastSeq: seq + remaining, intervalMs: 1000, budgetMs: 9000 };
    enter(noticeAt, plain ? { type: "TEXT", text: "SHUTDOWN" } : { type: "SHUTDOWN", ...notice });
    for (let t = noticeAt + 1000; t < at && how !== "silence"; t += 1000) data(t);
  }
  if (sight.said) enter(at, { type: "TEXT", text: "CLOSE" });
  if (closed) {
    if (!plain) enter(at, { type: "CLOSE", at: stamp, sent: seq, received: 0 });
    enter(at, { type: "CLOSE_FRAME", code: 1001, reason: "" });
  }
  enter(at, { type: "END", how });

  const next = new Ledger(url, dialect, 1000);
  observe(next, plain ? { type: "OPEN" } : hello(sight.sameServer ? "ending" : "next"), START + at + forcedMs);
  const { readyEndpoints = null, lastOnEndingMs = null, expect = [] } = sight;
  const redial: Redial = { startedAt: START + at, chosenMs: 0, failed: {}, readyEndpoints, lastOnEndingMs };
  const policy = { expect, expectCode: [1001], maxReconnectMs: 5000 };
  return judge(1, ledger, next, redial, policy, START + at + forcedMs, 0);
}

describe("the cause", () => {
  for (const [recorded, sight, title, symptom, cause] of CASES) {
    it(`of a session ${title} (${recorded}) is ${cause?.split(":")[0] ?? "none"}`, () => {
      const lines = linesOf(recorded);
      const cluster = watch(lines);
      const from = sight.from === undefined ? victimOf(lines) : podNamed(cluster, sight.from)?.name ?? sight.from;
      const handover = handoverOf(sight, from);
      assert.equal(handover.symptom, symptom);
      const found = diagnose(handover, podOf(cluster, handover));
      assert.equal(found && (cause?.includes(":") ? `${found.cause}: ${found.evidence}` : found.cause), cause);
    });
  }
});

/** What is true as well, and is all that is left where the moment is missing that says more. */
const ALSO_TRUE: Partial<Record<Cause, Cause[]>> = {
  ENDPOINT_RACE: ["EXITED_AT_SIGTERM", "EXIT_BEFORE_FLUSH"],
  EVICTED: ["EXITED_AT_SIGTERM", "EXIT_BEFORE_FLUSH"],
  PRESTOP_FAILED: ["EXITED_AT_SIGTERM"],
  SIGKILL_AT_GRACE: ["SIGTERM_IGNORED"],
};

describe("a cause", () => {
  const named = CASES.filter(([, { readyEndpoints, lastOnEndingMs, sameServer }, , , cause]) =>
    cause !== null && readyEndpoints === undefined && lastOnEndingMs === undefined && sameServer === undefined
  );
  /** Diagnoses a case once more, from other lines; the pod is the one that it has always been. */
  const again = ([recorded, sight]: typeof CASES[number], lines: Recorded[], untilMs?: number) => {
    const from = nameOf(recorded, sight);
    const cluster = watch(lines, untilMs);
    const handover = handoverOf(sight, from);
    const pod = podOf(cluster, handover);
    const complete = isEvidenceComplete(pod, handover, START + (untilMs ?? 1e9));
    return { cause: diagnose(handover, pod)?.cause ?? null, complete, pod };
  };
  const nameOf = (recorded: string, { from }: Sight) => {
    const lines = linesOf(recorded);
    return from === undefined ? victimOf(lines) : podNamed(watch(lines), from)?.name ?? from;
  };
  const causeOf = ([, , , , cause]: typeof CASES[number]) => cause!.split(":")[0] as Cause;
  /** The same, or none: less evidence, or later evidence, must not make another one certain. */
  const assertNoOther = (one: typeof CASES[number], lines: Recorded[], what: string) => {
    const [recorded, sight, title] = one;
    const { cause, pod } = again(one, lines);
    const fine = [causeOf(one), null, ...ALSO_TRUE[causeOf(one)] ?? []];
    // What an unnamed session was on the pods' ends tell; of a pod that is not said to have ended nothing else is known.
    const isLeft = pod?.moments.every(({ kind }) => ["endpoint-gone", "not-serving", "unhealthy"].includes(kind));
    if (sight.dialect === "plain" || isLeft) fine.push("NO_POD_EVENT");
    assert.ok(fine.includes(cause), `${title} (${recorded}), ${what}: ${cause} for ${causeOf(one)}`);
  };

  it("is none or the same where kubelet tells 10 s late, or one of the watches, or all of them half a second", () => {
    for (const one of named) {
      const lines = linesOf(one[0]);
      const late = (ms: number, isLate: (line: Recorded) => boolean) =>
        lines.map((line) => line.t !== null && line.object && isLate(line) ? { ...line, t: line.t + ms } : line);
      assertNoOther(one, toldLater(lines, 10_000), "exits late");
      for (const slow of ["endpointslices", "events"]) {
        assertNoOther(one, late(10_000, ({ stream }) => stream === slow), `${slow} late`);
      }
      // A session of half a second can then be taken for the one before it.
      if (one[1].openedAt === undefined) assertNoOther(one, late(500, () => true), "all late");
    }
  });

  it("is none or the same where a watch told nothing", () => {
    for (const one of named) {
      for (const missing of ["endpointslices", "events"]) {
        assertNoOther(
          one,
          linesOf(one[0]).filter(({ t, stream }) => t === null || stream !== missing),
          `no ${missing}`,
        );
      }
    }
  });

  it("is none or the same whichever events are missing", () => {
    const random = seeded(7);
    // Where nothing is told of a pod, the one before it of the same name is taken for it.
    for (const one of named.filter(([recorded]) => recorded !== "statefulset-rollout")) {
      const lines = linesOf(one[0]);
      for (let round = 0; round < 30; round++) {
        const share = random();
        assertNoOther(
          one,
          lines.filter(({ t, object }) => t === null || !object || random() > share),
          `round ${round}`,
        );
      }
    }
  });

  it("does not change with what comes later, once the evidence is complete", () => {
    for (const one of named) {
      const lines = linesOf(one[0]);
      const times = lines.flatMap(({ t }) => t ?? []);
      for (const untilMs of times) {
        const { cause, complete } = again(one, lines, untilMs);
        if (complete) assert.equal(cause, causeOf(one), `${one[2]} (${one[0]}) as of ${untilMs}`);
      }
    }
  });
});

/** What remains where no cause is certain: by what nobody saw. */
// deno-fmt-ignore
const OPEN: [recorded: string, sight: Sight, title: string, remaining: Cause[] | null][] = [
  ["without the exit", cut(2200), "cut at SIGTERM, and nobody saw the exit", ["OOM_KILLED", "CRASHED", "EVICTED", "EXITED_AT_SIGTERM", "CUT_AT_SIGTERM", "INTERMEDIARY_CUT"]],
  ["without the exit", drainCut(2140, 2200), "cut amid the drain, and nobody saw the exit", ["OOM_KILLED", "CRASHED", "EVICTED", "EXIT_BEFORE_FLUSH", "CUT_AT_SIGTERM", "INTERMEDIARY_CUT"]],
  ["without the exit", cut(200), "cut long before SIGTERM, and nobody saw the exit", ["OOM_KILLED", "CRASHED", "EVICTED", "INTERMEDIARY_CUT"]],
  ["delete-graceful", cut(-2366), "cut before the deletion, which may have been told late", ["CRASHED", "LIVENESS_KILLED", "EVICTED", "EXITED_AT_SIGTERM", "CUT_AT_SIGTERM", "INTERMEDIARY_CUT", "NO_POD_EVENT"]],
  ["delete-sigterm-ignored", cut(6500), "cut before the exit, and nobody can tell how long", ["CRASHED", "EVICTED", "SIGKILL_AT_GRACE", "SIGTERM_IGNORED", "INTERMEDIARY_CUT"]],
  ["delete-sigterm-ignored without the exit", cut(8200), "cut at the end of the grace, and nobody saw the exit", ["OOM_KILLED", "CRASHED", "EVICTED", "SIGKILL_AT_GRACE", "SIGTERM_IGNORED", "EXITED_AT_SIGTERM"]],
  ["delete-sigterm-ignored without the exit", drainCut(2140, 8200), "the same, amid the drain", ["OOM_KILLED", "CRASHED", "EVICTED", "SIGKILL_AT_GRACE", "EXIT_BEFORE_FLUSH"]],
  ["delete-sigterm-ignored without the exit", silent(4000), "silent, and nobody saw the exit", ["OOM_KILLED", "CRASHED", "EVICTED", "SIGKILL_AT_GRACE", "SIGTERM_IGNORED", "EXITED_AT_SIGTERM", "INTERMEDIARY_CUT"]],
  ["killed 1.01 s before its grace is over", cut(7050), "killed, and not for its grace", ["CRASHED", "EVICTED", "INTERMEDIARY_CUT"]],
  ["force-after-delete", cut(600), "cut before the force", ["OOM_KILLED", "CRASHED", "EVICTED", "FORCE_DELETED", "EXITED_AT_SIGTERM", "CUT_AT_SIGTERM", "INTERMEDIARY_CUT"]],
  ["liveness-kill", cut(3000, { from: "jp7fg" }), "cut long before a liveness kill", ["CRASHED", "LIVENESS_KILLED", "EVICTED", "INTERMEDIARY_CUT", "NO_POD_EVENT"]],
  ["liveness-kill without its events", cut(9500, { from: "jp7fg" }), "ended with 0, and nobody asked", ["CRASHED", "LIVENESS_KILLED", "EVICTED", "INTERMEDIARY_CUT"]],
  ["crash-sigkill", cut(-4181), "cut 5 s before the exit, which may have been told late", ["CRASHED", "LIVENESS_KILLED", "EVICTED", "INTERMEDIARY_CUT", "NO_POD_EVENT"]],
  ["sidecars that end in one second", cut(2900), "cut at the end of one of them", ["EVICTED", "SIDECAR_ENDED", "EXITED_AT_SIGTERM", "CUT_AT_SIGTERM", "INTERMEDIARY_CUT"]],
  ["delete-less-grace without the exit", cut(6700), "cut at the end of less grace, and nobody saw the exit", ["OOM_KILLED", "CRASHED", "EVICTED", "GRACE_SHORTENED", "EXITED_AT_SIGTERM"]],
  ["delete-graceful", drained(2140, 2200, { forcedMs: 6000, readyEndpoints: 1 }), "back late for no visible reason", null],
];

describe("without a certain cause", () => {
  for (const [recorded, sight, title, remaining] of OPEN) {
    it(`of a session ${title} (${recorded}) ${remaining?.length ?? "no"} causes remain`, () => {
      const lines = linesOf(recorded);
      const cluster = watch(lines);
      const from = sight.from === undefined ? victimOf(lines) : podNamed(cluster, sight.from).name;
      const handover = handoverOf(sight, from);
      assert.equal(diagnose(handover, podOf(cluster, handover)), null);
      assert.deepEqual(suspects(handover, podOf(cluster, handover)), remaining);
    });
  }

  it("are open as well of a pod of which nothing was told", () => {
    const { pod } = lifeOf("delete-graceful");
    const left = suspects(handoverOf(cut(2200), pod.name), pod);
    assert.deepEqual(left, ["OOM_KILLED", "CRASHED", "LIVENESS_KILLED", "EVICTED", "INTERMEDIARY_CUT", "NO_POD_EVENT"]);
  });

  it("nothing remains to be said of what ended in order, of nobody's pod, or of what goes on", () => {
    const cluster = watch(recording("delete-graceful"));
    const pod = podNamed(cluster, "dlw2s");
    const handover = handoverOf(cut(2200), pod.name);
    assert.deepEqual(
      [
        suspects(handoverOf(drained(2140, 2200), pod.name), pod),
        suspects(handover, undefined),
        suspects({ ...handover, endedMs: null }, pod),
      ],
      [null, null, null],
    );
  });
});

describe("sessions that are cut at once", () => {
  const cluster = watch(recording("delete-graceful"));
  const [ending, staying] = ["dlw2s", "jqvm8"].map((name) => podNamed(cluster, name).name) as [string, string];
  const at = (ms: number, from: string, more: Partial<Sight> = {}) => handoverOf(cut(ms, more), from);

  it("are those within 250 ms, itself first and once", () => {
    const one = at(2200, ending);
    const others = [at(1949, ending), at(1950, ending), at(2450, ending), at(2451, ending)];
    assert.deepEqual(cutWith(one, [...others, one]), [one, others[1], others[2]]);
    assert.deepEqual(cutWith(one, []), [one]);
  });

  it("clear the one pod that was ending where others were not, and say so of each of them", () => {
    const cuts = [at(2200, ending), at(2210, ending), at(2220, staying), at(2150, staying), at(9000, staying)];
    const company = companyOf(cluster, cuts[0]!, cuts, 10);
    assert.deepEqual(company, { together: 4, elsewhere: 2, everybody: false });
    const found = cuts.slice(0, 4).map((one) => diagnose(one, podOf(cluster, one), companyOf(cluster, one, cuts, 10)));
    assert.deepEqual(
      found,
      found.map(() => ({
        cause: "INTERMEDIARY_CUT",
        evidence: "4 sessions were cut at once, 2 of them on pods that were not ending",
      })),
    );
  });

  it("clear nobody where all were on the pod that was ending, or none", () => {
    const same = [at(2200, ending), at(2210, ending)];
    assert.deepEqual(companyOf(cluster, same[0]!, same, 2), { together: 2, elsewhere: 0, everybody: false });
    const others = [at(2200, staying), at(2210, staying)];
    assert.deepEqual(companyOf(cluster, others[0]!, others, 2), { together: 2, elsewhere: 0, everybody: false });
    assert.deepEqual(companyOf(cluster, { ...same[0]!, endedMs: null }, same, 2), {
      together: 1,
      elsewhere: 0,
      everybody: false,
    });
  });

  it("are too many for the one pod, where they have no names and there are others: then no cause is certain", () => {
    const plain = (number: number) => Array.from({ length: number }, () => at(2200, "", { dialect: "plain" }));
    const everybody = (number: number, sessions: number) => {
      const cuts = plain(number);
      const company = companyOf(cluster, cuts[0]!, cuts, sessions);
      const found = diagnose(cuts[0]!, podOf(cluster, cuts[0]!), company);
      return [company.everybody, found?.cause ?? null];
    };
    // Two others are ready: 3 to the power of 1 − n.
    assert.deepEqual([everybody(5, 5), everybody(6, 6), everybody(6, 7)], [
      [false, "EXITED_AT_SIGTERM"],
      [true, null],
      [false, "EXITED_AT_SIGTERM"],
    ]);
  });
});

// ---- What the watches show of the pods

/** What becomes of the pods of each recording: ms after the disruption, the end of the pod's name, and the moment. */
const MOMENTS: Record<string, string[]> = {
  "delete-graceful": [
    "134 dlw2s deleted: deleted, 8s of grace",
    "152 dlw2s terminating: endpoint terminating, still serving",
    "2242 dlw2s exit 0: exit 0 (Completed)",
    "2290 dlw2s endpoint-gone: endpoint gone",
    "3201 dlw2s gone: gone from the API",
  ],
  "delete-sigterm-ignored": [
    "141 dl9qt deleted: deleted, 8s of grace",
    "151 dl9qt terminating: endpoint terminating, still serving",
    "8288 dl9qt exit 137: exit 137 (Error)",
    "8295 dl9qt endpoint-gone: endpoint gone",
    "8589 dl9qt gone: gone from the API",
  ],
  "delete-exit-3": [
    "119 kcgxn deleted: deleted, 8s of grace",
    "127 kcgxn terminating: endpoint terminating, still serving",
    "2271 kcgxn exit 3: exit 3 (Error)",
    "2284 kcgxn endpoint-gone: endpoint gone",
    "2642 kcgxn gone: gone from the API",
  ],
  "force-delete": [
    "141 4b6sz deleted: deleted, 0s of grace",
    "146 4b6sz gone: gone from the API",
    "156 4b6sz terminating: endpoint terminating, still serving",
    "495 4b6sz endpoint-gone: endpoint gone",
  ],
  "evict": [
    "124 55gt9 deleted: deleted (EvictionByEvictionAPI), 8s of grace",
    "131 55gt9 terminating: endpoint terminating, still serving",
    "2250 55gt9 exit 0: exit 0 (Completed)",
    "2257 55gt9 endpoint-gone: endpoint gone",
    "2638 55gt9 gone: gone from the API",
  ],
  "rollout-restart": [
    "1333 l5hpj deleted: deleted, 8s of grace",
    "1347 l5hpj terminating: endpoint terminating, still serving",
    "2341 jqvm8 deleted: deleted, 8s of grace",
    "2352 jqvm8 terminating: endpoint terminating, still serving",
    "3470 l5hpj exit 0: exit 0 (Completed)",
    "3474 l5hpj endpoint-gone: endpoint gone",
    "4324 l5hpj gone: gone from the API",
    "4467 jqvm8 exit 0: exit 0 (Completed)",
    "4474 jqvm8 endpoint-gone: endpoint gone",
    "5356 jqvm8 gone: gone from the API",
  ],
  "scale-in": [
    "175 7pqxk terminating: endpoint terminating, still serving",
    "179 7pqxk deleted: deleted, 8s of grace",
    "2352 7pqxk exit 0: exit 0 (Completed)",
    "2358 7pqxk endpoint-gone: endpoint gone",
    "2503 7pqxk gone: gone from the API",
  ],
  "crash-sigkill": [
    "768 fh84f exit 137: exit 137 (Error)",
    "825 fh84f not-serving: endpoint no longer serving",
  ],
};

const momentOf = ([{ name }, { atMs, kind, code, text }]: [Pod, Moment]) =>
  `${atMs - START} ${name.slice(-5)} ${kind}${code === undefined ? "" : ` ${code}`}: ${text}`;

/** Events of one pod's life, each made from the recorded pod by what is different in it. */
function lifeOf(name: string) {
  const recorded = recording(name);
  const pod = recorded[0]!.list!.items.find(({ metadata }) => metadata.name === victimOf(recorded))!;
  const cluster = new Cluster();
  /** Shows the pod as it is after a change; the change stays. */
  const show = (
    type: "LISTED" | "ADDED" | "MODIFIED" | "DELETED",
    atMs: number,
    change: (pod: KubernetesObject) => void,
  ) => {
    change(pod);
    return observeCluster(cluster, "pods", type, structuredClone(pod), atMs).map(([, moment]) => moment);
  };
  show("LISTED", 0, () => {});
  return { cluster, pod: cluster.pods.get(pod.metadata.uid)!, object: pod, show };
}

const terminated = (exitCode: number, containerID: string) => ({
  terminated: { exitCode, reason: exitCode === 0 ? "Completed" : "Error", containerID },
});

function sliceOf(uid: string, endpoints: KubernetesObject["endpoints"], service = "server-service"): KubernetesObject {
  return {
    metadata: { name: uid, uid, resourceVersion: "1", labels: { "kubernetes.io/service-name": service } },
    endpoints: endpoints!,
  };
}

describe("the watches of a cluster", () => {
  for (const [recorded, moments] of Object.entries(MOMENTS)) {
    it(`show of ${recorded} each moment once, and nothing else`, () => {
      assert.deepEqual(watch(recording(recorded)).news.map(momentOf), moments);
    });
  }

  it("show the same when every event comes twice, as after a watch that was opened anew", () => {
    for (const [recorded, moments] of Object.entries(MOMENTS)) {
      const lines = recording(recorded).flatMap((line) => line.object ? [line, line] : [line]);
      assert.deepEqual(watch(lines).news.map(momentOf), moments);
    }
  });

  it("tell a forced deletion by its first event: the last ones of every pod say a grace of 0", () => {
    for (const recorded of Object.keys(MOMENTS)) {
      const lines = recording(recorded);
      const { pods } = watch(lines);
      const ending = [...pods.values()].filter((pod) => when(pod, "deleted"));
      assert.deepEqual(ending.map(({ forced }) => forced), ending.map(() => recorded === "force-delete"), recorded);
      assert.deepEqual(ending.map(({ graceMs }) => graceMs), ending.map(() => recorded === "force-delete" ? 0 : 8000));
      const zero = lines.filter(({ object }) => object?.metadata.deletionGracePeriodSeconds === 0).length;
      assert.equal(zero, 2 * ending.length);
    }
  });

  it("do not take kubelet's last delete for a forced one where they have missed the first", () => {
    const lines = recording("delete-sigterm-ignored").filter(({ t }) => t === null || t < 0 || t > 8500);
    const [pod] = watch(lines).pods.values();
    assert.deepEqual([pod!.forced, pod!.graceMs], [false, 8000]);
  });

  it("keep an exit code that was there for 300 ms, after the pod is gone", () => {
    const cluster = watch(recording("delete-exit-3"));
    const pod = podNamed(cluster, "kcgxn");
    assert.deepEqual(when(pod, "exit"), {
      atMs: START + 2271,
      kind: "exit",
      text: "exit 3 (Error)",
      stampMs: Date.parse("2026-11-22T18:53:42Z"),
      container: "server",
      code: 3,
      reason: "Error",
    });
    assert.deepEqual([pod.finished, pod.ready, when(pod, "gone")!.atMs], [true, false, START + 2642]);
  });

  it("count an exit once that moves to lastState, and the restart with it", () => {
    const pod = podNamed(watch(recording("crash-sigkill"), 900), "fh84f");
    assert.deepEqual([pod.restarts, pod.ready], [0, false]);
    const later = podNamed(watch(recording("crash-sigkill")), "fh84f");
    assert.deepEqual([later.restarts, later.ready, later.moments.length], [1, true, 2]);
  });

  it("know an exit by lastState alone, where its own event was missed", () => {
    const lines = recording("crash-sigkill").filter(({ t }) => t !== 820);
    assert.deepEqual(watch(lines).news.map(momentOf)[1], "768 fh84f exit 137: exit 137 (Error)");
  });

  it("count each of two exits of a container", () => {
    const { show } = lifeOf("crash-sigkill");
    const statusOf = ({ status }: KubernetesObject) => status!.containerStatuses![0]!;
    const crash = (nth: number, atMs: number) =>
      show("MODIFIED", atMs, (pod) => statusOf(pod).state = terminated(nth, `containerd://${nth}`)).map(({ text }) =>
        text
      );
    const restart = (nth: number, atMs: number) =>
      show(
        "MODIFIED",
        atMs,
        (pod) =>
          Object.assign(statusOf(pod), {
            restartCount: nth,
            state: { running: {} },
            lastState: terminated(nth, `containerd://${nth}`),
          }),
      );
    assert.deepEqual([crash(1, 10), restart(1, 20), crash(2, 30), restart(2, 40)], [["exit 1 (Error)"], [], [
      "exit 2 (Error)",
    ], []]);
  });

  it("do not count what had happened before they were opened", () => {
    const lines = recording("crash-sigkill");
    const old = lines.find(({ t }) => t === 1813)!.object!;
    const cluster = new Cluster();
    assert.deepEqual(observeCluster(cluster, "pods", "LISTED", old, 0), []);
    assert.deepEqual([...cluster.pods.values()].map(({ restarts, ready }) => [restarts, ready]), [[1, true]]);
    assert.deepEqual(observeCluster(cluster, "pods", "MODIFIED", old, 5), []);
  });

  it("do not count the end of a pod that had failed before they were opened", () => {
    const failed = recording("delete-exit-3").find(({ t }) => t === 2271)!.object!;
    delete failed.metadata.deletionTimestamp;
    const cluster = new Cluster();
    assert.deepEqual(observeCluster(cluster, "pods", "LISTED", failed, 0), []);
    const [pod] = cluster.pods.values();
    assert.deepEqual([pod!.finished, pod!.ready, pod!.moments], [true, false, []]);
  });

  it("tell by `serving`, not by `ready`, whether a terminating endpoint still serves", () => {
    const lines = recording("delete-graceful");
    const terminating = lines.filter(({ t, stream }) => stream === "endpointslices" && t !== null && t > 0 && t < 2000)
      .map(({ object }) =>
        object!.endpoints!.find(({ targetRef }) => targetRef!.uid!.startsWith("4fe9303d"))!.conditions
      );
    assert.deepEqual(terminating, Array(3).fill({ ready: false, serving: true, terminating: true }));

    const notServing = (from: number) =>
      watch(edited("delete-graceful", ({ endpoints }, { t }) => {
        for (const { conditions } of endpoints ?? []) {
          if (conditions!.terminating && t! >= from) conditions!.serving = false;
        }
      })).news.map(momentOf);
    assert.equal(notServing(0)[1], "152 dlw2s terminating: endpoint terminating, not serving");
    assert.deepEqual(notServing(400).slice(1, 3), [
      MOMENTS["delete-graceful"]![1],
      "450 dlw2s not-serving: endpoint no longer serving",
    ]);
  });

  for (
    const [conditions, ready, then] of [
      [{ ready: null, serving: null, terminating: null }, 1, []],
      [{}, 1, []],
      [undefined, 1, []],
      [{ ready: false }, 0, ["not-serving"]],
      [{ ready: false, serving: null }, 0, ["not-serving"]],
      [{ ready: false, serving: true }, 0, []],
      [{ ready: true, serving: null, terminating: true }, 1, ["terminating"]],
      [{ ready: false, serving: true, terminating: true }, 0, ["terminating"]],
    ] as const
  ) {
    it(`read an endpoint with the conditions ${JSON.stringify(conditions)} as the API defines them`, () => {
      const { cluster, object } = lifeOf("delete-graceful");
      const targetRef = { uid: object.metadata.uid };
      const show = (endpoint: object) =>
        observeCluster(cluster, "endpointslices", "MODIFIED", sliceOf("a", [{ targetRef, ...endpoint }]), 1);
      assert.deepEqual(show({ conditions: { ready: true, serving: true, terminating: false } }), []);
      const news = show(conditions === undefined ? {} : { conditions });
      assert.deepEqual([readyEndpoints(cluster, "server-service"), news.map(([, { kind }]) => kind)], [ready, then]);
    });
  }

  it("tell that endpoints are gone with a slice that is deleted, or that has none", () => {
    for (
      const [type, change] of [["DELETED", {}], ["MODIFIED", { endpoints: null }], ["MODIFIED", {
        endpoints: [],
      }]] as const
    ) {
      const lines = recording("delete-graceful").filter(({ t }) => t === null);
      const cluster = watch(lines);
      const slice = lines.find(({ stream }) => stream === "endpointslices")!.list!.items[0]!;
      const news = observeCluster(cluster, "endpointslices", type, { ...slice, ...change } as KubernetesObject, 7);
      assert.deepEqual(news.map(([{ name }, { kind, atMs }]) => `${atMs} ${name.slice(-5)} ${kind}`), [
        "7 dlw2s endpoint-gone",
        "7 jqvm8 endpoint-gone",
      ]);
    }
  });

  it("take a pod that is in two slices for one endpoint, gone when it is in none", () => {
    const { cluster, object } = lifeOf("delete-graceful");
    const endpoint = { targetRef: { uid: object.metadata.uid }, conditions: { ready: true } };
    const show = (slice: string, endpoints: KubernetesObject["endpoints"]) =>
      observeCluster(cluster, "endpointslices", "MODIFIED", sliceOf(slice, endpoints), 1).map(([, { kind }]) => kind);
    assert.deepEqual([show("a", [endpoint]), show("b", [endpoint]), readyEndpoints(cluster, "server-service")], [
      [],
      [],
      1,
    ]);
    assert.deepEqual([show("a", []), readyEndpoints(cluster, "server-service")], [[], 1]);
    const terminating = [{ ...endpoint, conditions: { ready: false, serving: true, terminating: true } }];
    assert.deepEqual([show("a", [endpoint]), show("b", [endpoint])], [[], []]);
    assert.deepEqual([show("a", terminating), show("b", terminating)], [["terminating"], []]); // the latest word counts
    assert.deepEqual([show("b", []), show("a", [])], [[], ["endpoint-gone"]]);
  });

  it("count the watched pods that the dialled Service leads to; else any Service; else those that are ready", () => {
    const cluster = watch(recording("rollout-restart").filter(({ stream }) => stream === "pods"));
    const [first, second, third, fourth] = [...cluster.pods.keys()];
    const ready = (service: string) => readyEndpoints(cluster, service);
    assert.equal(ready("server-service"), 2); // by themselves: the two that are not gone
    const show = (slice: string, service: string, endpoints: [uid: string | undefined, ready: boolean][]) => {
      const shown = endpoints.map(([uid, ready]) => ({ targetRef: { uid: uid! }, conditions: { ready } }));
      observeCluster(cluster, "endpointslices", "ADDED", sliceOf(slice, shown, service), 1);
    };
    show("c", "other", [[fourth, true], ["stranger", true]]);
    assert.deepEqual(["other", "server-service"].map(ready), [1, 1]);
    show("a", "server-service", [[first, true], [second, true], ["stranger", true]]);
    show("b", "server-service", [[second, true], [third, false]]);
    assert.deepEqual(["server-service", "other", "no-such"].map(ready), [2, 1, 3]);
    show("a", "server-service", [[first, false], [second, false]]);
    show("b", "server-service", []);
    assert.equal(ready("server-service"), 0);
  });

  it("say nothing of endpoints that were so in the list", () => {
    const lines = recording("delete-graceful");
    const cluster = watch(lines, 0);
    const slice = lines.find(({ t, stream }) => t === 152 && stream === "endpointslices")!.object!;
    assert.deepEqual(observeCluster(cluster, "endpointslices", "LISTED", slice, 5), []);
  });

  it("ignore events of other pods and other reasons, and tell of a failed preStop hook once", () => {
    const { cluster, object, pod } = lifeOf("delete-graceful");
    const tell = (change: Partial<KubernetesObject>) =>
      observeCluster(cluster, "events", "MODIFIED", { ...failedHook(object), ...change }, 3);
    assert.deepEqual(
      [{ involvedObject: { uid: "stranger" } }, { involvedObject: {} }, { reason: "Killing" }].map(tell),
      [[], [], []],
    );
    assert.deepEqual(tell({}).map(([{ name }, { text }]) => [name, text]), [
      [pod.name, 'FailedPreStopHook: PreStopHook failed: exec: "sleep": not found in $PATH'],
    ]);
    assert.deepEqual(tell({ message: "again" }), []);
  });

  it("tell of what the node, kubelet and the scheduler do, once; not of what comes with every deletion", () => {
    const { cluster, object, pod } = lifeOf("delete-graceful");
    let atMs = 10;
    const tell = (reason: string, message: string, more: Partial<KubernetesObject> = {}) =>
      observeCluster(cluster, "events", "ADDED", {
        metadata: { name: reason, uid: `${reason} ${message}`, resourceVersion: "1" },
        reason,
        message,
        involvedObject: { uid: object.metadata.uid, fieldPath: "spec.containers{server}" },
        ...more,
      }, ++atMs).map(([, moment]) => moment);
    assert.deepEqual(
      [
        tell("Killing", "Stopping container server"),
        tell("Unhealthy", "Readiness probe failed: 503"),
        tell("TaintManagerEviction", "Cancelling deletion of Pod"),
        tell("Scheduled", "Successfully assigned"),
      ],
      [[], [], [], []],
    );
    const killing = "Container server failed liveness probe, will be restarted";
    assert.deepEqual(
      [
        tell("Unhealthy", "Startup probe errored: exec"),
        tell("Killing", killing),
        tell("Killing", killing), // the same event, shown again
        tell("Killing", killing, { count: 2 }), // the next kill
        tell("Unhealthy", "Liveness probe failed: 404"), // the first and the latest count
        tell("Preempted", "by a pod of priority 7", { involvedObject: { uid: object.metadata.uid } }),
        tell("Evicted", "The node was low on resource: memory."),
        tell("NodeNotReady", "Node is not ready"),
      ].map((moments) => moments.map(({ atMs, kind, text, container }) => `${atMs} ${kind} ${container}: ${text}`)),
      [
        ["15 unhealthy server: Unhealthy: Startup probe errored: exec"],
        [`16 liveness server: Killing: ${killing}`],
        [],
        [`18 liveness server: Killing: ${killing}`],
        ["19 unhealthy server: Unhealthy: Liveness probe failed: 404"],
        ["20 evicted undefined: Preempted: by a pod of priority 7"],
        [],
        ["22 node-lost server: NodeNotReady: Node is not ready"],
      ],
    );
    assert.deepEqual(observeCluster(cluster, "events", "DELETED", failedHook(object), 30), []);
    assert.equal(pod.moments.length, 6);
    tell("Unhealthy", "Liveness probe failed: 500");
    assert.deepEqual(pod.moments.filter(({ kind }) => kind === "unhealthy").map(({ text }) => text.slice(-3)), [
      "xec",
      "500",
    ]);
  });

  it("do not take an event of a list for news, unless it is later than what the watches began with", () => {
    const { cluster, object, show } = lifeOf("delete-graceful");
    const killed = (nth: number, lastTimestamp?: string) =>
      observeCluster(cluster, "events", "LISTED", {
        metadata: { name: "kill", uid: `kill ${nth}`, resourceVersion: "1" },
        reason: "Killing",
        message: "Container server failed liveness probe, will be restarted",
        involvedObject: { uid: object.metadata.uid },
        ...lastTimestamp === undefined ? {} : { lastTimestamp },
      }, 50_000).length;
    assert.equal(killed(1, "2026-11-22T18:52:00Z"), 0); // there is nothing to compare it with
    // The clock: 18:51:34 was 20 s after the client's start.
    show(
      "MODIFIED",
      20_000,
      ({ metadata }) =>
        Object.assign(metadata, { deletionTimestamp: "2026-11-22T18:51:42Z", deletionGracePeriodSeconds: 8 }),
    );
    assert.deepEqual([killed(2, "2026-11-22T18:51:05Z"), killed(3, "2026-11-22T18:51:40Z")], [0, 1]);
    const hook = { ...failedHook(object), lastTimestamp: "2026-11-22T18:51:05Z" };
    assert.equal(observeCluster(cluster, "events", "LISTED", hook, 50_000).length, 1); // a pod has one end
  });

  it("tell of a node that is not heard of by the pod's own condition or reason, once", () => {
    for (
      const change of [
        ({ status }: KubernetesObject) =>
          void Object.assign(status!.conditions!.find(({ type }) => type === "Ready")!, {
            status: "False",
            reason: "NodeNotReady",
          }),
        ({ status }: KubernetesObject) => void (status!.reason = "NodeLost"),
      ]
    ) {
      const { show } = lifeOf("delete-graceful");
      assert.deepEqual(show("MODIFIED", 9, () => {}), []);
      assert.deepEqual(show("MODIFIED", 10, change).map(({ kind }) => kind), ["node-lost"]);
      assert.deepEqual(show("MODIFIED", 11, change), []);
    }
  });

  it("tell of a node's own eviction by the condition, or by the status that it leaves", () => {
    const target = { type: "DisruptionTarget", status: "True", reason: "TerminationByKubelet", message: "low" };
    for (
      const [change, text] of [
        [({ status }: KubernetesObject) => void status!.conditions!.push(target), "TerminationByKubelet: low"],
        [({ status }: KubernetesObject) => void (status!.reason = "Evicted"), "Evicted"],
        [({ status }: KubernetesObject) => void (status!.reason = "Terminated"), "Terminated"],
      ] as const
    ) {
      const { show } = lifeOf("delete-graceful");
      assert.deepEqual(show("MODIFIED", 10, change).map(({ kind, text }) => `${kind} ${text}`), [`evicted ${text}`]);
      assert.deepEqual(show("MODIFIED", 11, () => {}), []);
    }
  });

  for (
    const [preStop, hook] of [
      [undefined, null],
      [{ sleep: { seconds: 7 } }, { kind: "sleep", ms: 7000, text: "sleep 7s" }],
      [{ httpGet: { path: "/drain" } }, { kind: "httpGet", ms: null, text: "httpGet /drain" }],
      [{ httpGet: {} }, { kind: "httpGet", ms: null, text: "httpGet /" }],
      [{ exec: { command: ["sleep", "5"] } }, { kind: "exec", ms: 5000, text: "sleep 5" }],
      [{ exec: { command: ["/bin/sleep", "1.5"] } }, { kind: "exec", ms: 1500, text: "/bin/sleep 1.5" }],
      [{ exec: { command: ["sh", "-c", "sleep 2m"] } }, { kind: "exec", ms: 120_000, text: "sh -c sleep 2m" }],
      [{ exec: { command: ["sleep", "1h"] } }, { kind: "exec", ms: 3_600_000, text: "sleep 1h" }],
      [{ exec: { command: ["sh", "-c", "nginx -s quit; sleep 3 && sleep 4"] } }, {
        kind: "exec",
        ms: 7000,
        text: "sh -c nginx -s quit; sleep 3 && sleep 4",
      }],
      [{ exec: { command: ["asleep", "5"] } }, { kind: "exec", ms: null, text: "asleep 5" }],
      [{ exec: {} }, { kind: "exec", ms: null, text: "" }],
    ] as const
  ) {
    it(`read the hook ${JSON.stringify(preStop)} as ${hook?.ms ?? "none or unknown"}`, () => {
      const cluster = new Cluster();
      const container = { name: "server", ...preStop === undefined ? {} : { lifecycle: { preStop } } };
      const object = { metadata: { name: "a", uid: "a", resourceVersion: "1" }, spec: { containers: [container] } };
      observeCluster(cluster, "pods", "ADDED", object as KubernetesObject, 0);
      const pod = cluster.pods.get("a")!;
      assert.deepEqual([pod.preStop, pod.preStopMs], [hook, hook === null ? 0 : hook.ms]);
    });
  }

  it("show of a pod as little as nothing, where nothing is known, and in a result what is known", () => {
    const cluster = new Cluster();
    const object = { metadata: { name: "a", uid: "a-1", resourceVersion: "1" }, spec: { containers: [] } };
    observeCluster(cluster, "pods", "ADDED", object, 0);
    assert.deepEqual(JSON.parse(JSON.stringify(reportPod(cluster.pods.get("a-1")!))), {
      name: "a",
      uid: "a-1",
      address: "",
      container: "",
      graceMs: 30_000,
      specifiedGraceMs: 30_000,
      preStop: null,
      preStopMs: 0,
      sigterm: null,
      memoryLimit: null,
      ready: false,
      finished: false,
      restarts: 0,
      forced: false,
      deletionCost: null,
      moments: [],
    });
  });

  it("know the cluster's clock the better the more stamps came soonest, and leave out those that came late", () => {
    const { clock } = new Cluster();
    const earliest = () => Math.round(clock.span(50_000, Infinity)[0]) - 50_000;
    clock.see(0, 500);
    assert.deepEqual(clock.span(50_000, Infinity), [50_000 + 500 - 1000, 50_000 + 500 + 1000]);
    clock.see(0, 600); // a stamp's own soonest counts
    clock.see(1000, 1000 + 1500); // a second later than the soonest: late
    assert.equal(earliest(), 500 - 2000 / 2);
    clock.see(1000, 1000 + 1400);
    assert.equal(earliest(), -167); // 500 less a third of 2000
    clock.see(2000, 2000 + 400); // sooner than all: now the one before is a second late
    assert.equal(earliest(), -267);
    for (let nth = 3; nth < 50; nth++) clock.see(nth * 1000, nth * 1000 + 400);
    assert.equal(earliest(), 400 - 100);
    assert.deepEqual(clock.span(50_000, 50_200), [50_200, 50_200]); // no later than it was told
  });

  it("take a pod that has no status yet for neither ready nor finished", () => {
    const pod = new Pod({ metadata: { name: "a", uid: "a-1" } } as KubernetesObject, new Cluster().clock);
    assert.deepEqual([pod.ready, pod.finished, pod.forced, pod.restarts], [false, false, false, 0]);
    assert.deepEqual([pod.node, pod.unschedulable, pod.readyMs], ["", false, 0]);
  });

  it("say when SIGTERM came: after the deletion and its hook, no later than the grace, or when the hook failed", () => {
    const sigterm = (recorded: string, name = victimOf(linesOf(recorded))) => {
      const { sigterm } = podNamed(watch(linesOf(recorded)), name);
      return sigterm && `${sigterm.atMs - START} ${sigterm.text}`;
    };
    assert.equal(sigterm("delete-graceful"), "2134 SIGTERM at the earliest: preStop.sleep is over");
    assert.equal(sigterm("without preStop"), "119 SIGTERM at the earliest");
    assert.equal(sigterm("prestop-exec-ok"), null); // who knows how long a command takes
    assert.equal(sigterm("prestop-exec-missing"), "613 SIGTERM: the preStop hook has failed");
    assert.equal(sigterm("force-delete"), null);
    assert.equal(sigterm("crash-sigkill"), null);
    assert.equal(
      sigterm("with a hook longer than the grace"),
      "8119 SIGTERM at the earliest: preStop.sleep is over",
    );
  });

  it("take the condition DisruptionTarget for the deletion's reason where it holds", () => {
    const lines = edited("evict", ({ status }) => {
      for (const condition of status?.conditions ?? []) {
        if (condition.type === "DisruptionTarget") condition.status = "False";
      }
    });
    assert.equal(watch(lines).news[0]![1].text, "deleted, 8s of grace");
  });

  it("do not call a pod forced that was deleted before it ran", () => {
    const { show, pod } = lifeOf("delete-graceful");
    show("MODIFIED", 9, ({ metadata, status }) => {
      Object.assign(metadata, { deletionTimestamp: "2026-11-22T18:54:34Z", deletionGracePeriodSeconds: 0 });
      delete status!.containerStatuses;
    });
    assert.deepEqual([pod.forced, pod.ready], [false, false]);
  });

  it("read grace, preStop and memory of the container that has the Service's port, else that of kubectl logs, else the first", () => {
    const lines = edited("delete-graceful", ({ spec, metadata, ports }) => {
      spec?.containers.unshift({ name: "proxy", lifecycle: { preStop: { sleep: { seconds: 7 } } } });
      if (ports) ports[0]!.port = 9; // somewhere that no container names
      metadata.annotations = { "kubectl.kubernetes.io/default-container": "server" };
      if (spec) spec.terminationGracePeriodSeconds = 11;
    });
    const pod = podNamed(watch(lines, 0), "dlw2s");
    assert.deepEqual([pod.graceMs, pod.preStopMs, pod.memoryLimit], [11_000, 2000, "128Mi"]);
    for (const line of lines) for (const { metadata } of line.list?.items ?? []) delete metadata.annotations;
    assert.equal(podNamed(watch(lines, 0), "dlw2s").preStopMs, 7000);
    for (const line of lines) for (const { ports } of line.list?.items ?? []) if (ports) ports[0]!.port = 8080;
    assert.equal(podNamed(watch(lines, 0), "dlw2s").container, "server");
    assert.equal(
      podNamed(watch(lines.toSorted(({ stream }) => stream === "pods" ? 1 : -1), 0), "dlw2s").preStopMs,
      2000,
    );
  });

  it("tell the exits of containers and native sidecars, not of init containers that have done their work", () => {
    const ended = (name: string) => ({
      name,
      state: { terminated: { exitCode: 3, containerID: `id-${name}` } },
      restartCount: name.length, // of the application's alone they are the pod's
    });
    const object = {
      metadata: { name: "a", uid: "a-1", resourceVersion: "1" },
      spec: {
        containers: [{ name: "server" }],
        initContainers: [{ name: "setup" }, { name: "mesh", restartPolicy: "Always" }],
      },
      status: { containerStatuses: [ended("server")], initContainerStatuses: [ended("setup"), ended("mesh")] },
    } as unknown as KubernetesObject;
    const exits = (type: "LISTED" | "ADDED") =>
      observeCluster(new Cluster(), "pods", type, object, 0).filter(([, { kind }]) => kind === "exit")
        .map(([, { container }]) => container);
    assert.deepEqual(exits("ADDED"), ["server", "mesh"]);
    assert.deepEqual(exits("LISTED"), []); // that was before the watch
    const cluster = new Cluster();
    observeCluster(cluster, "pods", "LISTED", object, 0);
    assert.equal(cluster.pods.get("a-1")!.restarts, "server".length);
  });

  it("take the ports of a Service for those of its own pods only", () => {
    const cluster = new Cluster();
    const slice = {
      metadata: { name: "other", uid: "s-1", labels: { "kubernetes.io/service-name": "other" } },
      ports: [{ port: 9 }],
      endpoints: [{ targetRef: { kind: "Pod", name: "b", uid: "b-1" }, addresses: ["10.0.0.2"], conditions: {} }],
    } as unknown as KubernetesObject;
    observeCluster(cluster, "endpointslices", "ADDED", slice, 0);
    const containers = [{ name: "server" }, { name: "beside", ports: [{ containerPort: 9 }] }];
    for (const name of ["a", "b"]) {
      const pod = { metadata: { name, uid: `${name}-1` }, spec: { containers } } as unknown as KubernetesObject;
      observeCluster(cluster, "pods", "ADDED", pod, 0);
    }
    assert.deepEqual([...cluster.pods.values()].map(({ container }) => container), ["server", "beside"]);
  });

  it("remember every pod that lives, however many there are", () => {
    const cluster = new Cluster();
    for (let nth = 0; nth < 1005; nth++) {
      const metadata = { name: `pod-${nth}`, uid: `uid-${nth}` };
      observeCluster(
        cluster,
        "pods",
        "ADDED",
        { metadata, spec: { containers: [] } } as unknown as KubernetesObject,
        0,
      );
    }
    assert.equal(cluster.pods.size, 1005);
  });

  it("know where a pod is, and whether it is ready or finished", () => {
    const at = (untilMs: number, name: string) => {
      const { address, ready, finished } = podNamed(watch(recording("delete-graceful"), untilMs), name);
      return [address, ready, finished];
    };
    assert.deepEqual(at(-1, "dlw2s"), ["198.18.128.12", true, false]);
    assert.deepEqual(at(140, "dlw2s"), ["198.18.128.12", false, false]); // its condition still says Ready
    assert.deepEqual(at(2285, "dlw2s"), ["198.18.128.12", false, true]);
    assert.deepEqual(at(400, "l5hpj"), ["", false, false]);
    assert.deepEqual(at(500, "l5hpj"), ["198.18.128.14", false, false]);
    assert.deepEqual(at(1200, "l5hpj"), ["198.18.128.14", true, false]);
  });

  it("know which node a pod is on, as long as they are told no other, and whether none takes it", () => {
    const { show, pod } = lifeOf("delete-graceful");
    const placed = (nodeName: string | undefined, scheduled: string) => {
      show("MODIFIED", 1, (object) => {
        if (nodeName === undefined) delete object.spec!.nodeName;
        else object.spec!.nodeName = nodeName;
        object.status!.conditions = [{ type: "PodScheduled", status: scheduled }];
      });
      return [pod.node, pod.unschedulable];
    };
    assert.deepEqual(placed("node-1", "True"), ["node-1", false]);
    assert.deepEqual(placed(undefined, "False"), ["node-1", true]);
    assert.deepEqual(placed("node-2", "True"), ["node-2", false]);
  });

  it("know since when a pod is ready", () => {
    const { show, pod } = lifeOf("delete-graceful");
    const readyMs = (atMs: number, ready: string) => {
      show("MODIFIED", atMs, ({ status }) => status!.conditions = [{ type: "Ready", status: ready }]);
      return pod.readyMs;
    };
    assert.deepEqual([readyMs(10, "True"), readyMs(20, "False"), readyMs(30, "True"), readyMs(40, "True")], [
      0, // as it was listed
      0,
      30,
      30,
    ]);
  });

  it("take a deletion without a period for one that leaves none, at its very stamp", () => {
    const { cluster, show } = lifeOf("delete-graceful");
    const deletionTimestamp = "2026-11-22T18:54:34Z";
    const [moment] = show("MODIFIED", 9, ({ metadata }) => metadata.deletionTimestamp = deletionTimestamp);
    const stampMs = Date.parse(deletionTimestamp);
    assert.deepEqual(moment, { atMs: 9, kind: "deleted", text: "deleted, 0s of grace", graceMs: 0, stampMs });
    assert.equal(cluster.clock.span(stampMs, Infinity)[1], 9 + 1000);
  });

  it("know the cost of a pod's deletion as long as it is there", () => {
    const { show, pod } = lifeOf("scale-in");
    const cost = (value?: string) => {
      show(
        "MODIFIED",
        1,
        ({ metadata }) =>
          metadata.annotations = value === undefined ? {} : { "controller.kubernetes.io/pod-deletion-cost": value },
      );
      return pod.deletionCost;
    };
    assert.deepEqual([pod.deletionCost, cost("-5"), cost()], [null, "-5", null]);
  });

  it("learn from a list that a pod has gone meanwhile, and say so once", () => {
    const cluster = watch(recording("delete-graceful"), 0);
    const listed = recording("delete-graceful")[0]!.list!.items.slice(1);
    const missing = observeMissing(cluster, listed, START + 9000);
    assert.deepEqual(missing.map(([{ name }, { kind, atMs }]) => [name.slice(-5), kind, atMs]), [[
      "dlw2s",
      "gone",
      START + 9000,
    ]]);
    assert.deepEqual(["dlw2s", "jqvm8"].map((name) => podNamed(cluster, name).ready), [false, true]);
    assert.deepEqual(observeMissing(cluster, listed, START + 9100), []);
  });

  it("name no cause where nobody saw how the pod ended", () => {
    const cluster = watch(recording("delete-graceful"), 500);
    observeMissing(cluster, [], START + 9000);
    const handover = handoverOf(cut(2200), podNamed(cluster, "dlw2s").name);
    const pod = podOf(cluster, handover);
    assert.equal(isEvidenceComplete(pod, handover, START + 9000), true);
    assert.equal(diagnose(handover, pod), null);
  });

  it("know that a pod is not ready once it is gone, though it had never been said to end", () => {
    const { pod, show } = lifeOf("delete-graceful");
    assert.equal(pod.ready, true);
    show("DELETED", 1, () => {});
    assert.equal(pod.ready, false);
  });

  it("learn from a list what the events in between would have told", () => {
    const lines = recording("delete-exit-3");
    const cluster = watch(lines, 0);
    const exited = lines.find(({ t }) => t === 2271)!.object!;
    const news = observeCluster(cluster, "pods", "LISTED", exited, 5000).map(([, { kind, text }]) => [kind, text]);
    assert.deepEqual(news, [["deleted", "deleted, 8s of grace"], ["exit", "exit 3 (Error)"]]);
  });

  it("stay within their memory while a pod crashes on and on", () => {
    const { cluster, pod, show } = lifeOf("crash-sigkill");
    for (let nth = 1; nth <= 5000; nth++) {
      show(
        "MODIFIED",
        nth,
        ({ status }) => status!.containerStatuses![0]!.state = terminated(1, `containerd://${nth}`),
      );
    }
    assert.equal(pod.moments.length, 100);
    assert.deepEqual([pod.moments[0]!.atMs, pod.moments.at(-1)!.atMs], [4901, 5000]);
    assert.equal(cluster.told.size, 2000);
  });

  it("stay within their memory while pods come and go, and forget none that lives", () => {
    const { cluster, object } = lifeOf("delete-exit-3");
    const living = object.metadata.uid;
    const exited = recording("delete-exit-3").find(({ t }) => t === 2271)!.object!;
    for (let nth = 1; nth <= 3000; nth++) {
      const metadata = { ...exited.metadata, uid: `${nth}` };
      const status = {
        ...exited.status,
        containerStatuses: [{ ...exited.status!.containerStatuses![0]!, state: terminated(3, `${nth}`) }],
      };
      for (const type of ["ADDED", "DELETED"] as const) {
        observeCluster(cluster, "pods", type, { ...exited, metadata, status }, nth);
      }
    }
    assert.deepEqual([cluster.pods.size, cluster.pods.has(living), cluster.pods.has("3000")], [1000, true, true]);
    assert.equal(cluster.told.size, 2000);
  });
});

describe("the pod of a session", () => {
  it("is the one that the server named, whatever else is ending", () => {
    const cluster = watch(recording("rollout-restart"));
    for (const name of ["l5hpj", "jqvm8", "p5npp"]) {
      const pod = podNamed(cluster, name);
      assert.equal(podOf(cluster, handoverOf(cut(3400), pod.name)), pod);
    }
  });

  it("is of two with the same name the one that was there", () => {
    const lines = recording("delete-graceful");
    const cluster = watch(lines);
    const again = structuredClone(lines[0]!.list!.items[0]!);
    again.metadata.uid = "again";
    observeCluster(cluster, "pods", "ADDED", again, START + 3500);
    const podAt = (sight: Sight) => podOf(cluster, handoverOf(sight, again.metadata.name))?.uid.slice(0, 5);
    assert.deepEqual([podAt(cut(2200)), podAt(cut(5000, { openedAt: 4000 }))], ["4fe93", "again"]);
  });

  it("is in the plain dialect the one that was ending, the nearest of two", () => {
    const nearest = (at: number, untilMs = Infinity) => {
      const cluster = watch(recording("rollout-restart"), untilMs);
      return podOf(cluster, handoverOf(cut(at, { dialect: "plain" }), ""))?.name.slice(-5);
    };
    // l5hpj exits at 3.47 s, jqvm8 at 4.47 s.
    assert.deepEqual([-4000, 3400, 3900, 4000, 4500, 14_000].map((at) => nearest(at)), [
      undefined,
      "l5hpj",
      "l5hpj",
      "jqvm8",
      "jqvm8",
      undefined, // it has been gone for long
    ]);
    assert.deepEqual([nearest(3400, 2000), nearest(3400, 1000)], ["l5hpj", undefined]);
  });

  it("is in the plain dialect not one that has ended before, as long as another may be about to", () => {
    const cluster = watch(recording("rollout-restart"), 4460);
    const handover = handoverOf(cut(4450, { dialect: "plain" }), "");
    const pod = podOf(cluster, handover);
    const isFinal = isEvidenceComplete(pod, handover, START + 4461);
    assert.ok(!isFinal || pod!.name.endsWith("jqvm8"), `${pod!.name} is final 7 ms before jqvm8's exit is seen`);
  });

  it("is unknown as long as the session has not ended", () => {
    const cluster = watch(recording("delete-graceful"));
    const handover = { ...handoverOf(cut(2200), victimOf(recording("delete-graceful"))), endedMs: null };
    assert.equal(podOf(cluster, handover), undefined);
    assert.equal(isEvidenceComplete(undefined, handover, 0), true);
    assert.equal(diagnose(handover, [...cluster.pods.values()][0]), null);
  });
});

describe("the evidence", () => {
  /** Whether it is complete, `now` and everything else in ms after the disruption. */
  function isComplete(recorded: string, sight: Sight, now: number, untilMs = now): boolean {
    const lines = linesOf(recorded);
    const cluster = watch(lines, untilMs);
    const handover = handoverOf(sight, sight.from === undefined ? victimOf(lines) : podNamed(cluster, sight.from).name);
    return isEvidenceComplete(podOf(cluster, handover), handover, START + now);
  }

  // deno-fmt-ignore
  const BOUNDS: [recorded: string, sight: Sight, title: string, from: number, seenUntil?: number][] = [
    ["delete-graceful", cut(2200), "once the exit is seen", 2285],
    ["delete-graceful", drained(2140, 2200), "once the exit is seen", 2285],
    ["force-delete", cut(120), "once the pod is gone", 146],
    ["crash-sigkill", cut(5), "once the exit is seen", 820],
    ["without the exit", cut(2200), "once the pod is gone", 2642],
    ["delete-graceful", cut(2200, { from: "jqvm8" }), "15 s after the end, of a pod that stays", 17_201],
    ["delete-graceful", cut(2200), "grace + 30 s after a deletion that nothing follows", 134 + 8000 + 30_001, 2000],
    ["with a grace of 60 s", cut(2200), "grace + 30 s after a deletion that nothing follows", 141 + 60_000 + 30_001, 2000],
    ["crash-sigkill", cut(1500, { openedAt: 1000 }), "15 s after the end: the exit came before the session", 16_501],
    ["delete-graceful", silent(2200, { from: "jqvm8" }), "60 s after a silence: a node is missed so late", 62_201],
  ["delete-graceful", cut(-6000, { dialect: "plain" }), "15 s after the end, of no pod", 9001, 0],
  ];
  for (const [recorded, sight, title, from, seenUntil] of BOUNDS) {
    it(`of ${recorded} is complete ${title}`, () => {
      assert.deepEqual([from - 1, from].map((now) => isComplete(recorded, sight, now, seenUntil ?? now)), [
        false,
        true,
      ]);
    });
  }

  it("says that SIGKILL ended the pod at its grace, a second early at the most", () => {
    const wasKilled = (recorded: string) => [...watch(linesOf(recorded)).pods.values()].some(wasKilledAtGrace);
    const killed = ["delete-sigterm-ignored", "with a grace of 60 s", "killed 1 s before its grace is over"];
    const not = [
      "exited as its grace was over",
      "killed 1.01 s before its grace is over",
      "delete-exit-3",
      "delete-graceful",
      "crash-sigkill",
      "force-delete",
    ];
    assert.deepEqual([killed.map(wasKilled), not.map(wasKilled)], [killed.map(() => true), not.map(() => false)]);
  });

  it("becomes a timeline from the deletion on, in the order of time", () => {
    const lines = recording("delete-graceful");
    const cluster = watch(lines);
    const pod = podNamed(cluster, "dlw2s");
    const handovers = [drained(2140, 2240), drained(2150, 2400), cut(-20_000), drained(2140, 2200, { from: "jqvm8" })]
      .map((sight) => handoverOf(sight, podNamed(cluster, sight.from ?? "dlw2s").name))
      .map((handover) => ({ ...handover, pod: podOf(cluster, handover)!.name }));
    const disruption = { kind: "delete", pod: pod.name, atMs: START + 4 };
    const told = timeline(pod, { handovers, disruption } as unknown as Result).map(({ atMs, text }) =>
      `${atMs} ${text}`
    );
    assert.deepEqual(told, [
      "-130 delete",
      "0 deleted, 8s of grace",
      "18 endpoint terminating, still serving",
      "2000 SIGTERM at the earliest: preStop.sleep is over",
      "2006 SHUTDOWN: 2 sessions",
      "2106 CLOSE: 2 sessions, the last at +2.27s",
      "2106 ended: 2 sessions, the last at +2.27s",
      "2108 exit 0 (Completed)",
      "2116 reconnected: 2 sessions, the last at +2.28s",
      "2156 endpoint gone",
      "3067 gone from the API",
    ]);
  });

  it("becomes a timeline from the exit on where there is no deletion, and has no SIGTERM where it was forced", () => {
    const told = (recorded: string) => {
      const lines = recording(recorded);
      const pod = podNamed(watch(lines), victimOf(lines));
      return timeline(pod, { handovers: [] as Handover[], disruption: null } as Result).map(({ atMs, text }) =>
        `${atMs} ${text}`
      );
    };
    assert.deepEqual(told("crash-sigkill"), ["0 exit 137 (Error)", "57 endpoint no longer serving"]);
    assert.deepEqual(told("force-delete").filter((text) => text.includes("SIGTERM")), []);
  });
});

// ---- A client in a cluster that plays a recording

type Started = Awaited<ReturnType<typeof startCluster>>;

/** An application of somebody else: no subprotocol, no notice; it closes in order on SIGTERM, or with --deaf does nothing. */
const PLAIN_APP = `
const { WebSocketServer } = require("ws");
const wss = new WebSocketServer({ port: 0, handleProtocols: () => false }, () =>
  console.error("app listening on :" + wss.address().port + "/ws, admin port 0"));
wss.on("connection", (ws) => ws.send("hello"));
process.on("SIGTERM", () => {
  if (process.argv.includes("--deaf")) return;
  for (const ws of wss.clients) ws.close(1001);
  wss.close(() => process.exit(0));
});
`;

/** A client in the cluster's namespace, with a result in JSON. */
function startDrill(t: TestContext, { env }: { env: Record<string, string> }, disrupt: string, ...flags: string[]) {
  const pace = ["--interval=50", "--backoff-base=1", "--backoff-cap=100", "--timeout=120000"];
  const command = [
    process.execPath,
    "dist/client.js",
    "--admin-port=0",
    "--json",
    ...pace,
    `--disrupt=${disrupt}`,
    ...flags,
  ];
  return start(t, command, env);
}

/** The client's end: its exit code and what it printed. */
async function endOf(client: Program) {
  const { code } = await client.exited;
  assert.notEqual(client.stdout(), "", client.lines.join("\n"));
  const result = JSON.parse(client.stdout()) as Result;
  return { ...result, code, handover: result.handovers[0]!, names: result.findings.map(({ name }) => name) };
}

/** A drill from beginning to end. */
async function drill(
  t: TestContext,
  recorded: string,
  disrupt: string,
  flags: string[] = [],
  options: Parameters<typeof startCluster>[2] = {},
) {
  const cluster = await startCluster(t, recorded, options);
  const client = startDrill(t, cluster, disrupt, ...flags);
  return { cluster, client, ...await endOf(client) };
}

/** The client could not run: exit 2, nothing on stdout, and the last line says why; the only one, if it had not begun. */
async function assertRefused(client: Program, complaint: RegExp): Promise<void> {
  const { code } = await client.exited;
  assert.deepEqual([code, client.stdout()], [2, ""], client.lines.join("\n"));
  assert.match(client.lines.at(-1)!, complaint);
  if (!client.lines.some((line) => / started /.test(line))) {
    assert.equal(client.lines.length, 1, client.lines.join("\n"));
  }
  assert.deepEqual(client.lines.filter((line) => /^ +at /.test(line)), []);
}

/** Verb and resource of a request, as RBAC names them. */
function rightOf({ method, path, query }: ApiRequest): string {
  const [resource, name, subresource] = path.replace(/^.*\/rec\/|^\/api\/v1\/(?=nodes)/, "").split("/");
  const verbs: Record<string, string> = { DELETE: "delete", POST: "create", PATCH: "patch" };
  const verb = verbs[method] ?? (query.has("watch") ? "watch" : name === undefined ? "list" : "get");
  return `${verb} ${resource}${subresource === undefined ? "" : `/${subresource}`}`;
}

const writesOf = ({ requests }: Started) => requests.filter(({ method }) => method !== "GET");
const forever = () => new Promise<Answer>(() => {});

function assertBetween(value: number | null | undefined, least: number, most: number, what: string): void {
  assert.ok(value != null && value >= least && value <= most, `${what} is ${value}, not in ${least}-${most}`);
}

/** Matches a text, and the numbers in it that its groups catch are within bounds: in ms where a group has the unit. */
function assertText(text: string | null | undefined, pattern: RegExp, ...bounds: Bounds[]): void {
  assert.match(text ?? "", pattern);
  const numbers = pattern.exec(text!)!.slice(1).map((found) =>
    Number(found.replace(/m?s$/, "")) * (/\ds$/.test(found) ? 1000 : 1)
  );
  numbers.forEach((number, index) => assertBetween(number, ...bounds[index]!, `number ${index + 1} of '${text}'`));
}

/** When the server exited, as a client told it that may have read late of the deletion: as late as it, or these tests, were. */
function exitedAt({ witness }: Pick<Result, "witness">, lateness: Lateness): Bounds {
  return [EXITED_AT[0] - witness.maxLateMs - lateness.maxMs, EXITED_AT[1]];
}

type Bounds = [least: number, most: number];

/** Moments in which lines first match, in the order of the patterns. */
function assertOrder(lines: string[], ...patterns: RegExp[]): void {
  const places = patterns.map((pattern) => lines.findIndex((line) => pattern.test(line)));
  assert.ok(!places.includes(-1), `${patterns[places.indexOf(-1)]} is not in\n${lines.join("\n")}`);
  assert.deepEqual(
    places,
    [...places].sort((a, b) => a - b),
    `${patterns} are not in this order:\n${lines.join("\n")}`,
  );
}

interface Expected {
  symptom?: Symptom;
  cause?: Cause;
  /** With the times that are in it, and their bounds in ms. */
  evidence?: [RegExp, ...Bounds[]];
  findings?: string[];
  flags?: string[];
}

/** In ms: preStop is over after 2 s, by stamps of whole seconds; the grace after 8. */
const EXITED_AT: Bounds = [1200, 8000];

/** Disruption, recording, the victim's fault, and what the client must make of it. */
// deno-fmt-ignore
const DRILLS: [disrupt: string, recorded: string, fault: string, expected: Expected][] = [
  ["delete", "delete-graceful", "none", {}],
  ["delete", "delete-graceful", "none", { flags: ["--reconnect=early", "--sessions=3"] }],
  ["evict", "evict", "none", {}],
  ["rollout", "rollout-restart", "none", { flags: ["--sessions=4"] }],
  ["scale-in", "scale-in", "none", {}],
  ["force", "force-delete", "none", { findings: ["FORCE_DELETED"] }],
  ["delete", "delete-sigterm-ignored", "none", { findings: ["EXIT_HUNG"] }],
  ["delete", "with a preStop hook that fails", "none", { findings: ["PRESTOP_FAILED"] }],
  ["delete", "delete-sigterm-ignored", "ignore-sigterm", { symptom: "CUT_WITHOUT_NOTICE", cause: "SIGTERM_IGNORED", evidence: [/^exit 137 \(Error\) after 8\.00s of grace$/] }],
  ["delete", "delete-exit-3", "exit-at-sigterm", { symptom: "CUT_WITHOUT_NOTICE", cause: "EXITED_AT_SIGTERM", evidence: [/^exit 3 \(Error\) ([\d.]+m?s) after the deletion$/, EXITED_AT] }],
  ["watch", "crash-sigkill", "crash", { symptom: "CUT_WITHOUT_NOTICE", cause: "CRASHED", evidence: [/^exit 137 \(Error\) without a deletion, restart [01]$/], flags: ["--handovers=1"] }],
  ["watch", "out of memory", "crash", { symptom: "CUT_WITHOUT_NOTICE", cause: "OOM_KILLED", evidence: [/^exit 137 \(OOMKilled\), the limit is 128Mi, restart [01]$/], flags: ["--handovers=1"] }],
  ["delete", "delete-sigterm-ignored", "stall", { symptom: "STALLED", cause: "SIGTERM_IGNORED", evidence: [/^exit 137 \(Error\) after 8\.00s of grace$/] }],
  ["delete", "delete-graceful", "exit-mid-drain", { symptom: "CUT_DURING_DRAIN", cause: "EXIT_BEFORE_FLUSH", evidence: [/^exit 0 \(Completed\) ([\d.]+m?s) after the deletion, amid the drain$/, EXITED_AT] }],
  ["delete", "delete-sigterm-ignored", "slow-drain", { symptom: "CUT_DURING_DRAIN", cause: "SIGKILL_AT_GRACE", evidence: [/^drain needs \d+m00s, preStop left ([\d.]+m?s) of 8s$/, [4000, 7000]] }],
  ["force", "force-delete", "ignore-sigterm", { symptom: "CUT_WITHOUT_NOTICE", cause: "FORCE_DELETED", evidence: [/^deleted with a grace of 0$/] }],
  ["delete", "delete-graceful", "skip-notice", { symptom: "NO_NOTICE" }],
];

/** What each disruption does through the API. */
const REQUESTS: Record<
  string,
  (pod: string, uid: string) => [right: string, path: string, body?: unknown, type?: string][]
> = {
  watch: () => [],
  delete: (pod, uid) => [["delete pods", `/api/v1/namespaces/rec/pods/${pod}`, {
    apiVersion: "v1",
    kind: "DeleteOptions",
    preconditions: { uid },
  }]],
  force: (pod, uid) => [["delete pods", `/api/v1/namespaces/rec/pods/${pod}`, {
    apiVersion: "v1",
    kind: "DeleteOptions",
    preconditions: { uid },
    gracePeriodSeconds: 0,
  }]],
  evict: (pod, uid) => [["create pods/eviction", `/api/v1/namespaces/rec/pods/${pod}/eviction`, {
    apiVersion: "policy/v1",
    kind: "Eviction",
    metadata: { name: pod, namespace: "rec" },
    deleteOptions: { preconditions: { uid } },
  }]],
  rollout: () => [
    ["patch deployments", "/apis/apps/v1/namespaces/rec/deployments/server-deployment", {
      spec: { template: { metadata: { annotations: { "kubectl.kubernetes.io/restartedAt": "now" } } } },
    }, "merge-patch"],
  ],
  "scale-in": (pod) => [
    costOf(pod, "-2147483647"),
    scaleOf(2, 1),
    scaleOf(1, 2),
    costOf(pod, null),
  ],
};

function costOf(pod: string, cost: string | null): [string, string, unknown, string] {
  const body = { metadata: { annotations: { "controller.kubernetes.io/pod-deletion-cost": cost } } };
  return ["patch pods", `/api/v1/namespaces/rec/pods/${pod}`, body, "merge-patch"];
}

function scaleOf(from: number, to: number): [string, string, unknown, string] {
  const path = "/apis/apps/v1/namespaces/rec/deployments/server-deployment/scale";
  return ["patch deployments/scale", path, [
    { op: "test", path: "/spec/replicas", value: from },
    { op: "replace", path: "/spec/replicas", value: to },
  ], "json-patch"];
}

/** All requests that change something, as `REQUESTS` has them; the time of a restart is now. */
function asked({ requests }: Started) {
  return requests.filter(({ method }) => method !== "GET").map((request) => {
    const { path, contentType, method } = request;
    const text = JSON.stringify(request.body)?.replace(/"20\d\d-\d\d-\d\dT[\d:.]+Z"/, '"now"');
    const body = text === undefined ? [] : [JSON.parse(text)];
    return [rightOf(request), path, ...body, ...method === "PATCH" ? [/\/(.*)\+json$/.exec(contentType!)?.[1]] : []];
  });
}

/** Verbs and resources that a drill needs; without one of them it says so, and what it has done so far. */
// deno-fmt-ignore
const RIGHTS: [right: string, disrupt: string, writes: string[]][] = [
  ...["pods", "endpointslices", "events"].flatMap((stream): [string, string, string[]][] =>
    ["list", "watch"].map((verb) => [`${verb} ${stream}`, "delete", []])),
  ["delete pods", "delete", ["delete pods"]],
  ["delete pods", "force", ["delete pods"]],
  ["create pods/eviction", "evict", ["create pods/eviction"]],
  ["get deployments", "delete", []],
  ["get deployments", "rollout", []],
  ["patch deployments", "rollout", ["patch deployments"]],
  ["patch pods", "scale-in", ["patch pods"]],
  ["patch deployments/scale", "scale-in", ["patch pods", "patch deployments/scale", "patch pods"]],
];

const skip = certificate() === null && "openssl makes the API server's certificate, and there is none here";

describe("a drill", { concurrency: 8, skip, timeout: 900_000 }, () => {
  // From here on: what the pure cases took before is no lateness of a drill.
  let lateness: Lateness;
  before(() => void (lateness = new Lateness()));
  after(() => lateness.end());

  // The longest first: two minutes, in which the others run.
  it("(drain) ends where a budget keeps a pod because no other node takes what replaces the first, and names it", async (t) => {
    const victim = victimOf(recording("evict"));
    const [kept] = recording("evict")[0]!.list!.items.map(({ metadata }) => metadata.name)
      .filter((name) => name.startsWith("server-") && name !== victim);
    const lines = edited("evict", ({ metadata: { name }, spec, status }) => {
      if (!name.startsWith("server-") || name === victim || name === kept || status === undefined) return;
      delete spec!.nodeName;
      status.conditions = [{ type: "PodScheduled", status: "False", reason: "Unschedulable" }];
    });
    const cluster = await startCluster(t, lines, {
      answer: ({ path }) => path.endsWith(`/${kept}/eviction`) ? refuse(429, "the pod's disruption budget") : undefined,
    });
    const client = startDrill(t, cluster, "drain", "--timeout=0");
    const { code, failure, counts } = await endOf(client);
    const why = `the budget kept ${kept} on the node: no other node takes the pods that are to replace the others`;
    assert.deepEqual([code, failure], [1, why], client.lines.join("\n"));
    assert.deepEqual([counts.graceful, counts.failed, isCordoned(cluster)], [1, 0, false]);
  });

  const folder = mkdtempSync("dist/app-");
  after(() => rmSync(folder, { recursive: true }));
  const plainApp = join(folder, "app.cjs");
  writeFileSync(plainApp, PLAIN_APP);

  // ---- Disruptions, faults, and what becomes of them

  for (const [disrupt, recorded, fault, { symptom, cause, evidence, findings = [], flags = [] }] of DRILLS) {
    const what = [disrupt, recorded, ...fault === "none" ? [] : [fault], ...flags].join(" ");
    const verdict = symptom === undefined ? "PASS" : "FAIL";
    it(`(${what}) says ${verdict} ${symptom ?? ""} ${cause ?? ""} ${findings}`.trim(), async (t) => {
      const cluster = await startCluster(t, linesOf(recorded), { flags: [`--fault=${fault}`] });
      cluster.state.inTurn = disrupt === "rollout";
      const client = startDrill(t, cluster, disrupt, ...flags);
      const { handover, code, names, ...result } = await endOf(client);
      const { victim } = cluster;
      const summary = client.lines.join("\n");

      assert.deepEqual([code, result.verdict], symptom === undefined ? [0, "PASS"] : [1, "FAIL"], summary);
      // A busy machine may keep a server waiting for longer than a second before it is cut, or bring SIGTERM with SIGKILL.
      const silentMs = handover.endedMs === null ? 0 : handover.endedMs - handover.lastDataMs!;
      const isStarved = symptom?.startsWith("CUT_") && silentMs > 1000 && handover.symptom === "STALLED";
      const isHurried = symptom === "STALLED" && silentMs <= 1000 && handover.symptom === "CUT_WITHOUT_NOTICE";
      const seen = isStarved || isHurried ? handover.symptom! : symptom;
      if (seen !== symptom) t.diagnostic(`silent for ${silentMs} ms: ${seen}, ${handover.cause}`);
      assert.deepEqual(Object.keys(result.symptoms), seen === undefined ? [] : [seen], summary);
      assert.deepEqual([handover.symptom, handover.cause], [seen ?? null, cause ?? null], summary);
      assert.deepEqual(Object.keys(result.symptoms[seen!]?.causes ?? {}), cause === undefined ? [] : [cause]);
      if (evidence !== undefined) {
        const [pattern, ...bounds] = evidence;
        const own = bounds.map((bound) => bound === EXITED_AT ? exitedAt(result, lateness) : bound);
        assertText(handover.evidence, pattern, ...own);
      }
      if (cause !== undefined) {
        assert.ok(result.summary.includes(`cause ${cause}: ${handover.evidence}`), result.summary);
      }
      assert.deepEqual(names, findings);

      // Every session of a pod that ended has moved, and says on which pod it was.
      const ended = MOMENTS[recorded]?.flatMap((moment) => / (\w+) deleted/.exec(moment)?.[1] ?? []) ??
        [victim.slice(-5)];
      assert.deepEqual(result.pods.map(({ name }) => name.slice(-5)), ended.length > 0 ? ended : [victim.slice(-5)]);
      assert.equal(result.failure, null);
      assert.equal(result.counts.unfinished, 0);
      for (const { pod, from } of result.handovers) assert.equal(pod, from);
      assert.deepEqual(
        [...new Set(result.handovers.map(({ from }) => from.slice(-5)))].sort(),
        [...ended.length > 0 ? ended : [victim.slice(-5)]].sort(),
      );

      // Not before every session is steady, and of session 1's pod.
      const { uid } = [...recording("delete-graceful"), ...linesOf(recorded)].flatMap(({ list }) => list?.items ?? [])
        .find(({ metadata }) => metadata.name === victim)!.metadata;
      assert.deepEqual(asked(cluster), REQUESTS[disrupt]!(victim, uid));
      if (disrupt === "watch") return assert.equal(result.disruption, null);
      const pod = disrupt === "rollout" ? null : victim;
      assert.deepEqual({ ...result.disruption, atMs: 0 }, { kind: disrupt, pod, atMs: 0 });
      assertOrder(client.lines, / started /, / steady /, new RegExp(` disruption +${disrupt} `), / pod .*: deleted/);
    });
  }

  it("as text tells the disruption, the handover, then the pod's timeline in its order, and the verdict last", async (t) => {
    const cluster = await startCluster(t, "delete-graceful");
    const command = [process.execPath, "dist/client.js", "--admin-port=0", "--interval=50", "--disrupt=delete"];
    const client = start(t, command, cluster.env);
    const { code } = await client.exited;
    const lines = client.stdout().split("\n");
    assert.equal(code, 0, client.stdout());
    assertOrder(
      lines,
      new RegExp(`^Disruption +delete of ${cluster.victim}, .* after the start$`),
      /^Handovers +1 graceful, 0 failed$/,
      new RegExp(`^slot 1: ${cluster.victim} → .*jqvm8 {2}graceful$`),
      new RegExp(`^${cluster.victim}$`),
      /^ +-[\d.]+m?s {2}delete$/,
      /^ +\+0ms {2}deleted, 8s of grace$/,
      /^ +\+[\d.]+s {2}SHUTDOWN: 1 session$/,
      /^ +\+[\d.]+s {2}CLOSE: 1 session$/,
      /^ +\+[\d.]+s {2}ended: 1 session$/,
      /^ +\+[\d.]+s {2}reconnected: 1 session$/,
      /^PASS {2}1 handover, 0 messages lost, reconnect p99 /,
    );
    const told = lines.flatMap((line) => /^ +([+-][\d.]+)(m?s) {2}/.exec(line)?.slice(1) ?? []);
    const times = told.flatMap((number, index) =>
      index % 2 === 0 ? Number(number) * (told[index + 1] === "s" ? 1000 : 1) : []
    );
    assert.deepEqual(times, [...times].sort((a, b) => a - b));
    assert.ok(times.length >= 9, `${times}`);
    // From when on the deletion was read: on a busy machine other news may seem to come before, or the news of the exit.
    const text = lines.join("\n");
    assert.match(text, /^ +[+-][\d.]+m?s {2}endpoint terminating, still serving$/m);
    assert.match(text, /^ +\+2\.00s {2}SIGTERM at the earliest: preStop\.sleep is over$/m);
    assert.match(text, /^ +\+[\d.]+s {2}exit 0 \(Completed\)$/m);
  });

  // ---- Before the disruption

  for (const stream of ["pods", "endpointslices", "events"]) {
    it(`begins once the watch of ${stream} is open, however long that takes`, async (t) => {
      let isOpen = false;
      const cluster = await startCluster(t, "delete-graceful", {
        answer: async (request) => {
          if (rightOf(request) !== `watch ${stream}`) return undefined;
          await new Promise((resolve) => setTimeout(resolve, 1000)); // a slow API server
          isOpen = true;
          return undefined;
        },
      });
      await startDrill(t, cluster, "delete").line(/ started /);
      assert.ok(isOpen);
      assert.deepEqual(writesOf(cluster), []);
    });
  }

  it("disrupts nothing before the last session is steady", async (t) => {
    let isAdmitted = false;
    const cluster = await startCluster(t, "delete-graceful", {
      admit: async (index) => {
        if (index !== 1) return;
        await client.line(/ disruption +waiting for 2 sessions to be steady/);
        await client.line(/ session-opened /);
        await new Promise((resolve) => setTimeout(resolve, 1000)); // a slow Service
        assert.deepEqual(writesOf(cluster), []);
        isAdmitted = true;
      },
    });
    // Long enough for a busy machine: a dial that gives up is followed by one that is admitted at once.
    const client = startDrill(t, cluster, "delete", "--sessions=2", "--connect-timeout=60s");
    await client.line(/ disruption +delete /);
    assert.ok(isAdmitted);
  });

  it("disrupts nothing before every pod of the selector is ready", async (t) => {
    const notReady = ({ status }: KubernetesObject) => {
      for (const condition of status?.conditions ?? []) if (condition.type === "Ready") condition.status = "False";
    };
    const lines = edited(
      "delete-graceful",
      (object, { t }) => t === null && object.metadata.name.endsWith("jqvm8") && notReady(object),
    );
    const cluster = await startCluster(t, lines);
    const client = startDrill(t, cluster, "delete");
    await client.line(/ disruption +waiting for every pod of app=server to be ready/);
    assert.deepEqual(writesOf(cluster), []);
    const object = recording("delete-graceful")[0]!.list!.items.find(({ metadata }) =>
      metadata.name.endsWith("jqvm8")
    )!;
    object.metadata.resourceVersion = cluster.version();
    cluster.publish({ t: 0, stream: "pods", type: "MODIFIED", object });
    await client.line(/ disruption +delete /);
    assertOrder(client.lines, / steady /, / waiting for every pod /, / disruption +delete /);
  });

  it("watches the pods of its selector, the EndpointSlices, and the events of pods, from their lists on", async (t) => {
    const cluster = await startCluster(t, "delete-graceful");
    await startDrill(t, cluster, "watch", "--target-selector=app=server,tier in (a,b)").line(/ started /);
    const seen = cluster.requests.map((request) => [rightOf(request), request.path, Object.fromEntries(request.query)]);
    const watching = {
      watch: "1",
      allowWatchBookmarks: "true",
      timeoutSeconds: "60",
      resourceVersion: cluster.version(),
    };
    const expected = [
      ["pods", "/api/v1/namespaces/rec/pods", { labelSelector: "app=server,tier in (a,b)" }],
      ["endpointslices", "/apis/discovery.k8s.io/v1/namespaces/rec/endpointslices", {}],
      ["events", "/api/v1/namespaces/rec/events", { fieldSelector: "involvedObject.kind=Pod" }],
    ].flatMap(([stream, path, query]) => [
      [`list ${stream}`, path, query],
      [`watch ${stream}`, path, { ...query as object, ...watching }],
    ]);
    for (const request of expected) assert.ok(seen.some((one) => isDeepStrictEqual(one, request)), String(request));
  });

  // ---- What the API server does not allow

  for (const [right, disrupt, writes] of RIGHTS) {
    it(`(${disrupt}) without the right to ${right} says so in one line, and disrupts nothing`, async (t) => {
      const cluster = await startCluster(t, "delete-graceful", {
        answer: (request) =>
          rightOf(request) === right
            ? refuse(403, `${right.split(" ")[1]} is forbidden: User "drill" cannot`)
            : undefined,
      });
      const complaint = `^Cannot ${right} in namespace rec: HTTP 403, ${
        right.split(" ")[1]
      } is forbidden: User "drill" cannot$`;
      await assertRefused(startDrill(t, cluster, disrupt), new RegExp(complaint));
      const written = writesOf(cluster).map(rightOf).filter((right, index, all) => right !== all[index - 1]);
      assert.deepEqual(written, writes);
      assert.deepEqual([cluster.deployment.spec.replicas, cluster.playing()], [2, false]);
      assert.deepEqual(
        cluster.list("pods").flatMap(({ metadata }) => Object.keys(metadata.annotations ?? {})),
        [],
      );
    });
  }

  /** What is missing, what the client is told, and its complaint. */
  // deno-fmt-ignore
  const NOT_RUNNABLE: [title: string, disrupt: string, flags: string[], change: (cluster: Started) => object | Promise<object>, complaint: RegExp][] = [
    ["without KUBERNETES_SERVICE_HOST", "delete", [], () => ({ KUBERNETES_SERVICE_HOST: "" }), /^--disrupt works in a pod: KUBERNETES_SERVICE_HOST and _PORT are not set here$/],
    ["without KUBERNETES_SERVICE_PORT", "watch", [], () => ({ KUBERNETES_SERVICE_PORT: "" }), /^--disrupt works in a pod: /],
    ["without a service account", "delete", [], () => ({ SERVICE_ACCOUNT: "/no/such/folder" }), /^--disrupt needs a service account: ENOENT.*\/no\/such\/folder\/namespace'$/],
    ["without a token", "delete", [], ({ folder }) => (rmSync(`${folder}/token`), {}), /^--disrupt needs a service account: ENOENT.*\/token'$/],
    ["with a token that is not accepted", "delete", [], ({ folder }) => (writeFileSync(`${folder}/token`, "old"), {}), /^Cannot get deployments in namespace rec: HTTP 401, Unauthorized$/],
    ["without the API server's CA", "delete", [], () => ({ NODE_EXTRA_CA_CERTS: "" }), /^Cannot get deployments at https:\/\/127\.0\.0\.1:\d+: DEPTH_ZERO_SELF_SIGNED_CERT$/],
    ["where nobody listens for the API", "delete", [], () => Promise.resolve({ KUBERNETES_SERVICE_PORT: /:(\d+)/.exec(deadUrl())![1] }), /^Cannot get deployments at https:\/\/127\.0\.0\.1:\d+: ECONNREFUSED$/],
    ["of a Deployment that is not there", "rollout", ["--target=deployment/other"], () => ({}), /^Cannot get deployments in namespace rec: HTTP 404, deployments\.apps "other" not found: --target takes .* --disrupt watch /],
    ["of a Deployment that is not there", "delete", ["--target-deployment=other"], () => ({}), /^Cannot get deployments in namespace rec: HTTP 404, deployments\.apps "other" not found: /],
    ["of a StatefulSet that is not there", "rollout", ["--target=sts/server-deployment"], () => ({}), /^Cannot get statefulsets in namespace rec: HTTP 404, statefulsets\.apps "server-deployment" not found: /],
    ["of a Deployment that is paused", "rollout", [], ({ deployment }) => Object.assign(deployment.spec, { paused: true }) && {}, /^Cannot roll deployment\/server-deployment: it is paused$/],
    ["of a Deployment with one replica", "scale-in", [], ({ deployment }) => (deployment.spec.replicas = 1, {}), /^Cannot scale in deployment\/server-deployment: it has 1 replica, and two are needed$/],
    ["of a Deployment without replicas", "scale-in", [], ({ deployment }) => (deployment.spec.replicas = 0, {}), /^Cannot scale in deployment\/server-deployment: it has 0 replicas, and two are needed$/],
  ];
  for (const [title, disrupt, flags, change, complaint] of NOT_RUNNABLE) {
    it(`(${disrupt}) ${title} ends with one line and exit 2, and disrupts nothing`, async (t) => {
      let accepted = "first";
      const cluster = await startCluster(t, "delete-graceful", {
        answer: () => accepted === "first" ? undefined : refuse(401, "Unauthorized"),
      });
      const env = { ...cluster.env, ...await change(cluster) };
      if (title.includes("not accepted")) accepted = "another";
      await assertRefused(startDrill(t, { env }, disrupt, ...flags), complaint);
      assert.deepEqual(writesOf(cluster), []);
    });
  }

  it("where no pod matches the selector ends with one line and exit 2", async (t) => {
    const none = { status: 200, body: { metadata: { resourceVersion: "1" }, items: [] } };
    const cluster = await startCluster(t, "delete-graceful", {
      answer: (request) => rightOf(request) === "list pods" ? none : undefined,
    });
    const client = startDrill(t, cluster, "delete", "--target-selector=app=nobody");
    await assertRefused(
      client,
      /^No ready pod of deployment\/server-deployment in namespace rec: its selector is app=nobody$/,
    );
    assert.deepEqual(writesOf(cluster), []);
  });

  it("where the API answers with something else than JSON ends with one line and exit 2", async (t) => {
    const cluster = await startCluster(t, "delete-graceful", {
      answer: (request) =>
        rightOf(request) === "list pods" ? { status: 200, body: "<html>\n<p>Sign in first" } : undefined,
    });
    await assertRefused(startDrill(t, cluster, "delete"), /^Cannot list pods /);
  });

  for (const [dialect, flags] of [["v1", []], ["plain", ["--dialect=plain", "--silence-timeout=3000"]]] as const) {
    it(`fails where no session was on the pod that ended (${dialect})`, async (t) => {
      const { url } = await startServer(t);
      const { cluster, code, summary, failure } = await drill(t, "delete-graceful", "delete", [
        `--url=${url}`,
        ...flags,
      ]);
      assert.deepEqual([code, failure], [1, `no session was on ${cluster.victim}: nothing to judge`]);
      assert.equal(summary, `FAIL  ${failure}`);
      assert.deepEqual(asked(cluster).map(([right]) => right), ["delete pods"]);
    });
  }

  it("fails where only a session of a server that is none of the pods has moved meanwhile", async (t) => {
    const servers = await Promise.all([startServer(t), startServer(t, "--name=server-2")]);
    const cluster = await startCluster(t, "delete-graceful");
    const client = startDrill(t, cluster, "delete", ...servers.map(({ url }) => `--url=${url}`));
    await client.line(/ pod .*: deleted/);
    servers[0]!.child.kill("SIGTERM");
    const { code, counts, failure } = await endOf(client);
    assert.deepEqual(counts, { graceful: 1, failed: 0, unfinished: 0 });
    assert.deepEqual([code, failure], [1, `no session was on ${cluster.victim}: nothing to judge`]);
  });

  it("(rollout) fails at --timeout while not every pod is replaced", async (t) => {
    const cluster = await startCluster(t, recording("rollout-restart").filter(({ t }) => t === null || t < 2000));
    const { code, failure, summary } = await endOf(startDrill(t, cluster, "rollout", "--timeout=12000"));
    assert.deepEqual([code, failure], [
      1,
      "rollout is not over: waiting for 2 pods of deployment/server-deployment to be replaced",
    ]);
    assert.equal(summary, `FAIL  ${failure}`);
  });

  // ---- Eviction

  it("(evict) waits as long as the API says where a budget forbids it, and says so", async (t) => {
    const words = "Cannot evict pod as it would violate the pod's disruption budget.";
    const answers = [refuse(429, words, { "retry-after": "1" }), refuse(429, words, { "retry-after": "2" })];
    const { cluster, client, code, verdict } = await drill(t, "evict", "evict", [], {
      answer: (request) => rightOf(request) === "create pods/eviction" ? answers.shift() : undefined,
    });
    assert.deepEqual([code, verdict], [0, "PASS"]);
    const tries = writesOf(cluster);
    assert.deepEqual(tries.map(rightOf), Array(3).fill("create pods/eviction"));
    assert.deepEqual([tries[1]!.body, tries[2]!.body], [tries[0]!.body, tries[0]!.body]);
    assertBetween(tries[1]!.atMs - tries[0]!.atMs, 990, 2500, "ms to the second try");
    assertBetween(tries[2]!.atMs - tries[1]!.atMs, 1990, 3500, "ms to the third try");
    const said = (again: string) =>
      new RegExp(` disruption +Cannot create pods/eviction .*: HTTP 429, ${words}; again in ${again}$`);
    assertOrder(client.lines, said("1\\.00s"), said("2\\.00s"), / pod .*: deleted \(EvictionByEvictionAPI\)/);
  });

  it("(evict) fails at --timeout where a budget forbids it, and names it", async (t) => {
    const { cluster, code, failure, summary } = await drill(t, "evict", "evict", ["--timeout=12000"], {
      answer: (request) =>
        rightOf(request) === "create pods/eviction" ? refuse(429, "the pod's disruption budget") : undefined,
    });
    assert.equal(code, 1);
    assert.equal(
      failure,
      "evict is not over: waiting for the eviction: Cannot create pods/eviction in namespace rec: " +
        "HTTP 429, the pod's disruption budget",
    );
    assert.equal(summary, `FAIL  ${failure}`);
    assert.equal(cluster.playing(), false);
    const tries = writesOf(cluster);
    assert.notEqual(tries.length, 0);
    for (const [index, { atMs }] of tries.slice(1).entries()) {
      assertBetween(atMs - tries[index]!.atMs, 4990, 8000, "ms between tries without Retry-After");
    }
  });

  // ---- What scale-in undoes

  it("(scale-in) undoes all of it on SIGTERM, and fails", async (t) => {
    const cluster = await startCluster(t, "scale-in");
    const client = startDrill(t, cluster, "scale-in");
    await client.line(/ pod .*: deleted/);
    assert.equal(cluster.deployment.spec.replicas, 1);
    client.child.kill("SIGTERM");
    const { code, failure } = await endOf(client);
    assert.deepEqual([code, failure], [1, "scale-in is not over: waiting for the pod to end"]);
    assert.deepEqual(asked(cluster), REQUESTS["scale-in"]!(cluster.victim, ""));
    assert.equal(cluster.deployment.spec.replicas, 2);
    assert.equal(costNow(cluster), undefined);
    assert.ok(client.lines.some((line) => / deployment\/server-deployment has 2 replicas again$/.test(line)));
  });

  /** As the API server has it; undefined also for a pod that is gone, as it may be once it was scaled in. */
  const costNow = ({ list, victim }: Started) =>
    list("pods").find(({ metadata }) => metadata.name === victim)
      ?.metadata.annotations?.["controller.kubernetes.io/pod-deletion-cost"];

  it("(scale-in) takes the pod's cost away on SIGTERM before it has scaled", async (t) => {
    const cluster = await startCluster(t, "scale-in", {
      answer: (request) => rightOf(request) === "patch deployments/scale" ? refuse(503, "busy") : undefined,
    });
    const client = startDrill(t, cluster, "scale-in");
    while (writesOf(cluster).length < 2) await new Promise((resolve) => setTimeout(resolve, 20));
    client.child.kill("SIGTERM");
    assert.notEqual((await client.exited).code, 0);
    assert.deepEqual([cluster.deployment.spec.replicas, cluster.playing(), costNow(cluster)], [2, false, undefined]);
  });

  it("(scale-in) undoes also what the API has not confirmed yet when SIGTERM comes", async (t) => {
    const cluster = await startCluster(t, "scale-in", {
      answer: async (request) => {
        if (rightOf(request) !== "patch deployments/scale" || client.child.killed) return undefined;
        cluster.usualAnswer(request); // done, but the answer takes its time
        client.child.kill("SIGTERM");
        await client.line(/ stopping /);
        await new Promise((resolve) => setTimeout(resolve, 300));
        return { status: 200, body: {} };
      },
    });
    const client = startDrill(t, cluster, "scale-in");
    await client.exited;
    assert.equal(cluster.deployment.spec.replicas, 2, client.lines.join("\n"));
    assert.equal(costNow(cluster), undefined);
    assert.deepEqual(asked(cluster).at(-1), costOf(cluster.victim, null));
  });

  it("(scale-in) undoes also what the API has done and answered with an error", async (t) => {
    let times = 0;
    const cluster = await startCluster(t, "scale-in", {
      answer: (request) => {
        if (rightOf(request) !== "patch deployments/scale" || times++ > 0) return undefined;
        cluster.usualAnswer(request);
        return refuse(500, "etcdserver: request timed out");
      },
    });
    const client = startDrill(t, cluster, "scale-in");
    await client.exited;
    assert.equal(cluster.deployment.spec.replicas, 2, client.lines.join("\n"));
    assert.equal(costNow(cluster), undefined);
    assert.deepEqual(asked(cluster).at(-1), costOf(cluster.victim, null));
  });

  it("(scale-in) gives the pod the cost back that it had", async (t) => {
    const costly = edited("scale-in", ({ metadata }, { t: atMs }) => {
      const before = { "controller.kubernetes.io/pod-deletion-cost": "5" };
      if (atMs === null || atMs < 0) metadata.annotations = { ...metadata.annotations, ...before };
    });
    const cluster = await startCluster(t, costly, {
      answer: (request) => rightOf(request) === "patch deployments/scale" ? refuse(403, "no") : undefined,
    });
    const client = startDrill(t, cluster, "scale-in");
    assert.equal((await client.exited).code, 2, client.lines.join("\n"));
    assert.deepEqual(asked(cluster).at(-1), costOf(cluster.victim, "5"));
  });

  it("(scale-in) takes nothing back where its own scaling was refused: another hand's stays", async (t) => {
    const cluster = await startCluster(t, "scale-in", {
      answer: (request) => rightOf(request) === "patch deployments/scale" ? refuse(422, "the test failed") : undefined,
    });
    const client = startDrill(t, cluster, "scale-in");
    await assertRefused(client, /^Cannot patch deployments\/scale in namespace rec: HTTP 422, the test failed$/);
    assert.equal(asked(cluster).filter(([right]) => right === "patch deployments/scale").length, 1);
    assert.doesNotMatch(client.lines.join("\n"), /another hand| again$/m);
  });

  it("(delete) asks again where an answer breaks off", async (t) => {
    let broken = 0;
    const { code } = await drill(t, "delete-graceful", "delete", [], {
      answer: (request) =>
        rightOf(request) === "get deployments" && broken++ === 0
          ? { status: 200, body: '{"kind":', headers: { "content-length": "100000", connection: "close" } }
          : undefined,
    });
    assert.deepEqual([code, broken > 1], [0, true]);
  });

  it("(scale-in) leaves the replicas as they are where another hand has scaled meanwhile, and says so", async (t) => {
    const cluster = await startCluster(t, "scale-in");
    const client = startDrill(t, cluster, "scale-in");
    await client.line(/ pod .*: deleted/);
    cluster.deployment.spec.replicas = 5;
    const { code, failure } = await endOf(client);
    assert.deepEqual([code, failure, cluster.deployment.spec.replicas], [0, null, 5]);
    assert.ok(client.lines.some((line) => / disruption +another hand has scaled meanwhile: left as it is$/.test(line)));
    assert.deepEqual(asked(cluster).at(-1), costOf(cluster.victim, null));
  });

  it("(scale-in) fails where it cannot restore the replicas, says what is left, and takes the cost away all the same", async (t) => {
    const { cluster, code, verdict, failure, summary } = await drill(t, "scale-in", "scale-in", [], {
      answer: (request) =>
        rightOf(request) === "patch deployments/scale" && (request.body as { value: number }[])[1]!.value === 2
          ? refuse(500, "etcdserver: no leader")
          : undefined,
    });
    const why = "Cannot patch deployments/scale in namespace rec: HTTP 500, etcdserver: no leader";
    assert.deepEqual([code, verdict, failure], [1, "FAIL", `the workload is not as it was: ${why}`]);
    assert.equal(summary, `FAIL  ${failure}`);
    const expected = [
      ...REQUESTS["scale-in"]!(cluster.victim, "").slice(0, -1),
      ...Array(3).fill(scaleOf(1, 2)),
      costOf(cluster.victim, null),
    ];
    assert.deepEqual(asked(cluster), expected); // tried four times
  });

  it("(scale-in) does not mind that the pod's cost went with the pod", async (t) => {
    const { cluster, code } = await drill(t, "scale-in", "scale-in", [], {
      answer: (request) =>
        rightOf(request) === "patch pods" && JSON.stringify(request.body).includes("null")
          ? refuse(404, "pods not found")
          : undefined,
    });
    assert.deepEqual([code, cluster.deployment.spec.replicas], [0, 2]);
  });

  // ---- StatefulSets and DaemonSets

  /** The recorded scale-in, of a StatefulSet: the victim has the highest ordinal. */
  function ofStatefulSet(name = "scale-in"): Recorded[] {
    const victim = recording(name).find(({ command }) => command !== undefined)!.pod!;
    const [other] = recording(name)[0]!.list!.items.map(({ metadata }) => metadata.name)
      .filter((pod) => pod.startsWith("server-") && pod !== victim);
    const text = JSON.stringify(recording(name)).replaceAll(victim, "shop-1").replaceAll(other!, "shop-0");
    return JSON.parse(text);
  }

  it("(rollout) restarts a StatefulSet, and waits until its status says that it is over", async (t) => {
    let left = 3;
    const cluster = await startCluster(t, "statefulset-rollout", {
      target: "statefulset/server-statefulset",
      answer: (request) => {
        if (rightOf(request) !== "get statefulsets" || !cluster.playing()) return undefined;
        const answer = cluster.usualAnswer(request)!;
        const { status } = answer.body as { status: { updatedReplicas: number; currentRevision: string } };
        // The controller is behind the pods.
        if (status.updatedReplicas === 2 && left-- > 0) status.currentRevision = "old";
        return answer;
      },
    });
    cluster.state.inTurn = true;
    const client = startDrill(t, cluster, "rollout", "--target=sts/server-statefulset", "--sessions=4");
    const { code, verdict, handovers, pods } = await endOf(client);
    assert.deepEqual([code, verdict], [0, "PASS"], client.lines.join("\n"));
    assert.deepEqual(pods.map(({ name }) => name), ["server-statefulset-1", "server-statefulset-0"]);
    assert.ok(handovers.length >= 4);
    assert.equal(left, -1);
    assert.deepEqual(asked(cluster).map(([right, path]) => [right, path]), [
      ["patch statefulsets", "/apis/apps/v1/namespaces/rec/statefulsets/server-statefulset"],
    ]);
    assertOrder(
      client.lines,
      / disruption +rollout statefulset\/server-statefulset$/,
      / disruption +a StatefulSet rolls one pod after the other, from the highest ordinal down$/,
      / disruption +waiting for the rollout: revision new to become the current one$/,
    );
  });

  it("(scale-in) takes a StatefulSet's highest ordinal, wherever session 1 is, and gives it back", async (t) => {
    const cluster = await startCluster(t, ofStatefulSet(), { target: "statefulset/shop" });
    cluster.state.inTurn = true;
    const client = startDrill(t, cluster, "scale-in", "--target=statefulset/shop", "--sessions=3");
    const { code, verdict, disruption, handovers } = await endOf(client);
    const path = "/apis/apps/v1/namespaces/rec/statefulsets/shop/scale";
    const scaled = (from: number, to: number) => ["patch statefulsets/scale", path, scaleOf(from, to)[2], "json-patch"];
    assert.deepEqual(asked(cluster), [scaled(2, 1), scaled(1, 2)], client.lines.join("\n"));
    assert.deepEqual([code, verdict, disruption!.pod, cluster.deployment.spec.replicas], [0, "PASS", "shop-1", 2]);
    assert.deepEqual([...new Set(handovers.map(({ from }) => from))], ["shop-1"]);
  });

  it("(scale-in) disturbs nothing where no session is on a StatefulSet's highest ordinal, and says what to do", async (t) => {
    const cluster = await startCluster(t, ofStatefulSet(), { target: "statefulset/shop" });
    cluster.state.pinned = "shop-0";
    await assertRefused(
      startDrill(t, cluster, "scale-in", "--target=statefulset/shop", "--sessions=2"),
      /^Cannot judge a scale-in of statefulset\/shop: it takes shop-1, the highest ordinal, and of 2 sessions none is there: more --sessions$/,
    );
    assert.deepEqual(writesOf(cluster), []);
  });

  for (const disrupt of ["scale-in", "drain"]) {
    it(`(${disrupt}) of a DaemonSet is refused in one line, and disturbs nothing`, async (t) => {
      const cluster = await startCluster(t, "delete-graceful", { target: "daemonset/server-deployment" });
      const complaint = /^Cannot (scale in|drain) daemonset\/server-deployment: .*: delete or watch$/;
      await assertRefused(startDrill(t, cluster, disrupt, "--target=ds/server-deployment"), complaint);
      assert.deepEqual(writesOf(cluster), []);
    });
  }

  it("of a DaemonSet's pod judges as any other", async (t) => {
    const cluster = await startCluster(t, "delete-graceful", { target: "daemonset/server-deployment" });
    assert.equal((await endOf(startDrill(t, cluster, "delete", "--target=ds/server-deployment"))).code, 0);
  });

  it("does without its target where a selector is given, and says that it did not look at it", async (t) => {
    const flags = ["--target=deployment/other", "--target-selector=app=server"];
    const { code, unseen, predictions } = await drill(t, "delete-graceful", "delete", flags);
    assert.deepEqual([code, predictions, unseen.length], [0, [], 1]);
    assert.match(unseen[0]!, /^Cannot get deployments in namespace rec: HTTP 404, /);
  });

  // ---- A node that is drained

  const cordon = (unschedulable: true | null) => [
    "patch nodes",
    "/api/v1/nodes/node-1",
    { spec: { unschedulable } },
    "merge-patch",
  ];
  const isCordoned = (cluster: Started) => cluster.nodes.get("node-1")?.spec.unschedulable ?? false;

  it("(drain) cordons the node, evicts what is there, judges it, and uncordons", async (t) => {
    const cluster = await startCluster(t, twoNodes());
    const client = startDrill(t, cluster, "drain");
    const { code, verdict, disruption, handovers } = await endOf(client);
    assert.deepEqual([code, verdict], [0, "PASS"], client.lines.join("\n"));
    assert.deepEqual({ ...disruption, atMs: 0 }, { kind: "drain", pod: null, atMs: 0, node: "node-1" });
    assert.deepEqual([...new Set(handovers.map(({ from }) => from))], [cluster.victim]);
    const { uid } = recording("evict")[0]!.list!.items.find(({ metadata }) =>
      metadata.name === cluster.victim
    )!.metadata;
    assert.deepEqual(asked(cluster), [cordon(true), ...REQUESTS["evict"]!(cluster.victim, uid), cordon(null)]);
    assert.equal(isCordoned(cluster), false);
    assertOrder(
      client.lines,
      / disruption +node-1 is cordoned$/,
      / pod .*: deleted/,
      / handover /,
      / node-1 is uncordoned$/,
    );
  });

  it("(drain) evicts all of the target's pods on the node at once, and judges the sessions of all", async (t) => {
    const cluster = await startCluster(t, "rollout-restart");
    cluster.state.inTurn = true;
    const { code, verdict, handovers } = await endOf(startDrill(t, cluster, "drain", "--sessions=4"));
    assert.deepEqual([code, verdict], [0, "PASS"]);
    const tries = writesOf(cluster).filter((request) => rightOf(request) === "create pods/eviction");
    assert.equal(tries.length, 2);
    assertBetween(tries[1]!.atMs - tries[0]!.atMs, 0, 500, "ms between the evictions");
    assert.equal(new Set(handovers.map(({ pod }) => pod)).size, 2);
  });

  it("(drain) asks again where a budget forbids an eviction", async (t) => {
    const answers = [refuse(429, "the pod's disruption budget", { "retry-after": "1" })];
    const cluster = await startCluster(t, twoNodes(), {
      answer: (request) => rightOf(request) === "create pods/eviction" ? answers.shift() : undefined,
    });
    assert.equal((await endOf(startDrill(t, cluster, "drain"))).code, 0);
    const tries = writesOf(cluster).filter((request) => rightOf(request) === "create pods/eviction");
    assertBetween(tries[1]!.atMs - tries[0]!.atMs, 990, 2500, "ms to the second try");
    assert.equal(isCordoned(cluster), false);
  });

  it("(drain) leaves a node cordoned that was cordoned before", async (t) => {
    const cluster = await startCluster(t, twoNodes());
    cluster.nodes.set("node-1", { spec: { unschedulable: true } });
    const client = startDrill(t, cluster, "drain");
    assert.equal((await endOf(client)).code, 0);
    assert.deepEqual([isCordoned(cluster), asked(cluster).map(([right]) => right)], [true, ["create pods/eviction"]]);
    assert.ok(client.lines.some((line) => / disruption +node-1 is cordoned already, and stays so$/.test(line)));
  });

  for (
    const [title, flags, isLate] of [
      ["on SIGTERM", [], false],
      ["at --timeout", ["--timeout=12000"], false],
      ["also what the API has not confirmed yet when SIGTERM comes", [], true],
    ] as const
  ) {
    it(`(drain) uncordons ${title}`, async (t) => {
      const cluster = await startCluster(t, twoNodes(), {
        answer: async (request) => {
          if (rightOf(request) === "create pods/eviction") return refuse(429, "the pod's disruption budget");
          if (!isLate || rightOf(request) !== "patch nodes" || client.child.killed) return undefined;
          client.child.kill("SIGTERM");
          await client.line(/ stopping /);
          await new Promise((resolve) => setTimeout(resolve, 300)); // done later than it was given up
          return undefined;
        },
      });
      const client = startDrill(t, cluster, "drain", ...flags);
      if (!isLate) await client.line(/ disruption .*HTTP 429/);
      assert.equal(isCordoned(cluster), !isLate);
      if (!isLate && flags.length === 0) client.child.kill("SIGTERM");
      const { code, failure } = await endOf(client);
      assert.equal(code, 1);
      assert.match(failure!, /^drain is not over: waiting for the (eviction|drain)/);
      assert.deepEqual([isCordoned(cluster), asked(cluster).at(-1)], [false, cordon(null)]);
    });
  }

  for (const verb of ["get", "patch"]) {
    it(`(drain) without the right to ${verb} nodes says what allows it, and disturbs nothing`, async (t) => {
      const cluster = await startCluster(t, twoNodes(), {
        answer: (request) => rightOf(request) === `${verb} nodes` ? refuse(403, "nodes is forbidden") : undefined,
      });
      const complaint =
        `^Cannot ${verb} nodes: HTTP 403, nodes is forbidden: a drain needs what deploy/drill/drain allows$`;
      await assertRefused(startDrill(t, cluster, "drain"), new RegExp(complaint));
      assert.deepEqual(writesOf(cluster).map(rightOf), verb === "patch" ? ["patch nodes"] : []);
      assert.equal(cluster.playing(), false);
    });
  }

  it("(drain) fails where it cannot uncordon, and says so", async (t) => {
    const cluster = await startCluster(t, twoNodes(), {
      answer: (request) =>
        rightOf(request) === "patch nodes" && JSON.stringify(request.body).includes("null")
          ? refuse(500, "etcdserver: no leader")
          : undefined,
    });
    const { code, failure } = await endOf(startDrill(t, cluster, "drain"));
    const why = "the workload is not as it was: Cannot patch nodes: HTTP 500, etcdserver: no leader";
    assert.deepEqual([code, failure], [1, why]);
  });

  it("(drain) ends with a verdict where no other node takes what replaces the pods: there was nowhere to go", async (t) => {
    const victim = victimOf(recording("evict"));
    const { uid } = recording("evict")[0]!.list!.items.find(({ metadata }) => metadata.name === victim)!.metadata;
    const isStranger = ({ metadata: { name } }: KubernetesObject) => name.startsWith("server-") && name !== victim;
    const lines = edited("evict", (object) => {
      object.endpoints = object.endpoints?.filter(({ targetRef }) => targetRef?.uid === uid) ?? null;
      if (!isStranger(object) || object.status === undefined) return;
      delete object.spec!.nodeName;
      object.status = {
        phase: "Pending",
        conditions: [{ type: "PodScheduled", status: "False", reason: "Unschedulable" }],
      };
    });
    // What is there before is the victim alone.
    for (const { list, stream } of lines) {
      if (list && stream === "pods") list.items = list.items.filter((pod) => !isStranger(pod));
    }
    const cluster = await startCluster(t, lines);
    const client = startDrill(t, cluster, "drain", "--max-reconnect=1000", "--timeout=0");
    const { code, symptoms, handover } = await endOf(client);
    assert.deepEqual(
      [code, Object.keys(symptoms), handover.cause],
      [1, ["SLOW_RECONNECT"], "NO_READY_PEER"],
      client.lines.join("\n"),
    );
    assert.equal(isCordoned(cluster), false);
    assert.ok(
      client.lines.some((line) => / disruption +going on: no node takes the pods that sessions wait for$/.test(line)),
    );
  });

  // ---- The check before a drill, and the check alone

  const mended = (cluster: Started) => {
    cluster.objects["poddisruptionbudgets"] = [{
      metadata: { name: "server-budget" },
      spec: { maxUnavailable: 1, selector: { matchLabels: { app: "server" } } },
    }];
    const { spec } = cluster.deployment.spec.template;
    spec.terminationGracePeriodSeconds = 60;
    return cluster;
  };

  it("foretells first, and says beside it what came", async (t) => {
    const cluster = await startCluster(t, "delete-sigterm-ignored", { flags: ["--fault=slow-drain"] });
    const client = startDrill(t, cluster, "delete");
    const { predictions, unseen } = await endOf(client);
    assert.deepEqual(predictions.map(({ rule, field, value, came }) => [rule, field, value, came]), [
      ["grace-too-short", "spec.template.spec.terminationGracePeriodSeconds", "8", 1],
      ["no-budget", "PodDisruptionBudget", "none selects these pods", 0],
    ]);
    assert.deepEqual(unseen, []);
    assertOrder(
      client.lines,
      / foretold +SIGKILL_AT_GRACE: spec\.template\.spec\.terminationGracePeriodSeconds is 8; at most 6s left for the drain: preStop takes 2s$/,
      / disruption +delete /,
    );
  });

  it("foretells what it can where it may not look at all, and begins all the same", async (t) => {
    const cluster = await startCluster(t, "delete-graceful", {
      answer: (request) =>
        rightOf(request) === "list poddisruptionbudgets" ? refuse(403, "they are forbidden") : undefined,
    });
    const { code, predictions, unseen } = await endOf(startDrill(t, cluster, "delete"));
    assert.deepEqual([code, predictions.map(({ rule }) => rule)], [0, ["grace-too-short"]]);
    assert.deepEqual(unseen, ["Cannot list poddisruptionbudgets in namespace rec: HTTP 403, they are forbidden"]);
  });

  it("(check) only looks: no session, no change; exit 1 where something is foretold", async (t) => {
    const cluster = await startCluster(t, "delete-graceful", { admit: () => assert.fail("a session") });
    const client = startDrill(t, cluster, "check");
    const { code } = await client.exited;
    const { inspections: [inspection], summary } = JSON.parse(client.stdout());
    assert.deepEqual([code, client.lines], [1, []]);
    assert.equal(summary, "FAIL  deployment/server-deployment: 2 foretold: SIGKILL_AT_GRACE, NO_READY_PEER");
    assert.equal(inspection.target, "deployment/server-deployment");
    assert.deepEqual(cluster.requests.map(rightOf).sort(), [
      ...["get deployments", "list endpointslices", "list events", "list poddisruptionbudgets"],
      ...["list pods", "list services"],
    ]);
  });

  it("(check) says that nothing is foretold, and exits with 0", async (t) => {
    const cluster = mended(await startCluster(t, "delete-graceful"));
    const client = startDrill(t, cluster, "check");
    const { code } = await client.exited;
    assert.equal(JSON.parse(client.stdout()).summary, "PASS  deployment/server-deployment: nothing is foretold");
    assert.deepEqual([code, client.lines], [0, []]);
  });

  for (const right of ["get deployments", "list services", "list pods", "list events"]) {
    it(`(check) without the right to ${right} says so in one line, and exits with 2`, async (t) => {
      const cluster = await startCluster(t, "delete-graceful", {
        answer: (request) => rightOf(request) === right ? refuse(403, "forbidden") : undefined,
      });
      const complaint = new RegExp(`^Cannot ${right} in namespace rec: HTTP 403, forbidden$`);
      await assertRefused(startDrill(t, cluster, "check"), complaint);
    });
  }

  // ---- An API server that is slow, that errs, that forgets

  it("(delete) asks again where the API server errs, and takes a pod that is gone already for deleted", async (t) => {
    let times = 0;
    const cluster = await startCluster(t, "delete-graceful", {
      answer: (request) => {
        if (request.method !== "DELETE") return undefined;
        cluster.play();
        return times++ === 0 ? refuse(500, "internal error") : refuse(404, "pods not found");
      },
    });
    const { code } = await endOf(startDrill(t, cluster, "delete"));
    assert.deepEqual([code, writesOf(cluster).length], [0, 2]);
  });

  it("ends at --timeout while the API server does not answer, with a verdict and no stack", async (t) => {
    const { client, code, failure } = await drill(t, "delete-graceful", "delete", ["--timeout=10000"], {
      answer: (request) => request.method === "DELETE" ? forever() : undefined,
    });
    assert.deepEqual([code, failure], [1, "delete is not over: waiting for the delete"]);
    assert.deepEqual(client.lines.filter((line) => /^ +at /.test(line)), []);
  });

  it("goes on with a token that is renewed meanwhile", async (t) => {
    let watches = 0;
    const cluster = await startCluster(t, "delete-graceful", {
      answer: (request) => {
        if (/^watch /.test(rightOf(request)) && ++watches === 3) writeFileSync(`${cluster.folder}/token`, "second");
        return undefined;
      },
    });
    assert.equal((await endOf(startDrill(t, cluster, "delete"))).code, 0);
  });

  /** What happens to the watches between the deletion and the exit. */
  // deno-fmt-ignore
  const INTERRUPTIONS: [title: string, interrupt: (cluster: Started) => void, answer?: "410" | "ERROR"][] = [
    ["end, as each does after a while", ({ watches }) => watches.forEach(({ response }) => response.end())],
    ["break amid a line", ({ watches }) => watches.forEach(({ response }) => response.write('{"type":"MODI', () => response.destroy()))],
    ["end, and the API server has forgotten where (HTTP 410)", ({ watches }) => watches.forEach(({ response }) => response.end()), "410"],
    ["end, and the API server has forgotten where (ERROR)", ({ watches }) => watches.forEach(({ response }) => response.end()), "ERROR"],
    ["send what is no JSON", ({ watches }) => watches.forEach(({ response }) => response.write("<html>\n"))],
    ["send JSON that is no event", ({ watches }) => watches.forEach(({ response }) => response.write('{}\nnull\n"ADDED"\n'))],
    ["send an error without a code", ({ watches }) => watches.forEach(({ response }) => response.write('{"type":"ERROR","object":{}}\n'))],
  ];
  for (const [title, interrupt, answer] of INTERRUPTIONS) {
    it(`names the cause though its watches ${title}`, async (t) => {
      const forgotten = new Set<string>();
      const cluster = await startCluster(t, "delete-exit-3", {
        flags: ["--fault=exit-at-sigterm"],
        answer: (request) => {
          const [verb, stream] = rightOf(request).split(" ") as [string, string];
          if (verb === "list") forgotten.delete(stream);
          if (verb !== "watch" || !forgotten.has(stream)) return undefined;
          const object = { kind: "Status", code: 410, message: "too old resource version" };
          return answer === "410" ? { status: 410, body: object } : { status: 200, body: { type: "ERROR", object } };
        },
      });
      const client = startDrill(t, cluster, "delete");
      await client.line(/ endpoint .*: endpoint terminating/);
      if (answer !== undefined) { for (const stream of ["pods", "endpointslices", "events"]) forgotten.add(stream); }
      const before = cluster.requests.length;
      interrupt(cluster);
      const { code, handover, pods, witness } = await endOf(client);
      assert.deepEqual([code, handover.cause], [1, "EXITED_AT_SIGTERM"], client.lines.join("\n"));
      const evidence = /^exit 3 \(Error\) ([\d.]+m?s) after the deletion$/;
      assertText(handover.evidence, evidence, exitedAt({ witness }, lateness));
      assert.equal(pods.length, 1);
      const again = cluster.requests.slice(before).map(rightOf);
      for (const stream of ["pods", "endpointslices", "events"]) {
        assert.ok(again.includes(`watch ${stream}`), `${stream} is not watched again: ${again}`);
        assert.equal(again.includes(`list ${stream}`), answer !== undefined, `${again}`);
      }
    });
  }

  it("watches on from where it was: from the last event, or a later bookmark", async (t) => {
    const cluster = await startCluster(t, "delete-graceful");
    const client = startDrill(t, cluster, "watch", "--handovers=1");
    await client.line(/ steady /);
    cluster.play();
    await client.line(/ endpoint .*: endpoint terminating/);
    const bookmark = { type: "BOOKMARK", object: { kind: "Event", metadata: { resourceVersion: "123456" } } };
    const lastOf = (stream: "pods" | "endpointslices") =>
      cluster.past.findLast((told) => told.stream === stream)!.object.metadata.resourceVersion;
    const expected = [lastOf("pods"), lastOf("endpointslices"), "123456"];
    for (const { stream, response } of [...cluster.watches]) {
      if (stream === "events") response.write(`${JSON.stringify(bookmark)}\n`);
      response.end();
    }
    const { code } = await endOf(client);
    const from = (stream: string) =>
      cluster.requests.filter((request) => rightOf(request) === `watch ${stream}`)[1]?.query.get("resourceVersion");
    assert.deepEqual(["pods", "endpointslices", "events"].map(from), expected);
    assert.equal(code, 0);
  });

  // ---- What only looks on, and what is no pod's fault

  it("(watch) judges what another hand disrupts", async (t) => {
    const cluster = await startCluster(t, "evict");
    const client = startDrill(t, cluster, "watch", "--handovers=1");
    await client.line(/ steady /);
    cluster.play();
    const { code, verdict, disruption, pods, handover } = await endOf(client);
    assert.deepEqual([code, verdict, disruption], [0, "PASS", null]);
    assert.deepEqual([pods.map(({ name }) => name), handover.pod], [[cluster.victim], cluster.victim]);
    assert.deepEqual(asked(cluster), []);
  });

  it("(watch) says NO_POD_EVENT where the network cuts, once the cluster has had 15 s to tell", async (t) => {
    const cluster = await startCluster(t, "delete-graceful");
    const client = startDrill(t, cluster, "watch", "--handovers=1");
    await client.line(/ steady /);
    cluster.cut();
    const { code, handover, durationMs, pods } = await endOf(client);
    assert.deepEqual([code, handover.symptom, handover.cause], [1, "CUT_WITHOUT_NOTICE", "NO_POD_EVENT"]);
    assert.equal(handover.evidence, `${cluster.victim} was neither deleted nor restarted`);
    assert.deepEqual(pods, []);
    assertBetween(durationMs - handover.endedMs!, 15_000, 19_000, "ms of patience");
  });

  it("(delete) says INTERMEDIARY_CUT where a proxy cuts before SIGTERM", async (t) => {
    const cluster = await startCluster(t, "delete-graceful");
    const client = startDrill(t, cluster, "delete");
    await client.line(/ pod .*: deleted/);
    cluster.cut();
    const { code, symptoms, handover } = await endOf(client);
    assert.deepEqual([code, Object.keys(symptoms), handover.cause], [1, ["CUT_WITHOUT_NOTICE"], "INTERMEDIARY_CUT"]);
    assertText(handover.evidence, /^cut ([\d.]+m?s) after the deletion; the pod ran on for [\d.]+m?s$/, [0, 2000]);
  });

  it("(delete) waits for the end of a pod that has crashed before, and finds that it hung", async (t) => {
    const change = (object: KubernetesObject, ready: string) => {
      for (const condition of object.status?.conditions ?? []) if (condition.type === "Ready") condition.status = ready;
      return object;
    };
    const cluster = await startCluster(
      t,
      edited("delete-sigterm-ignored", (object, { t }) => t === null && change(object, "False")),
    );
    const client = startDrill(t, cluster, "delete");
    await client.line(/ disruption +waiting for every pod /);
    const [victim, other] = [0, 1].map((index) => recording("delete-sigterm-ignored")[0]!.list!.items[index]!);
    const show = (object: KubernetesObject) => {
      const metadata = { ...object.metadata, resourceVersion: cluster.version() };
      cluster.publish({ t: 0, stream: "pods", type: "MODIFIED", object: { ...structuredClone(object), metadata } });
    };
    const [status] = victim!.status!.containerStatuses!;
    show(
      change({
        ...victim!,
        status: { ...victim!.status, containerStatuses: [{ ...status!, state: terminated(1, "crashed") }] },
      }, "False"),
    );
    await client.line(/ pod .*: exit 1 \(Error\)/);
    Object.assign(status!, { restartCount: 1, lastState: terminated(1, "crashed") });
    show(change(victim!, "True"));
    show(change(other!, "True"));
    const { code, names } = await endOf(client);
    assert.deepEqual([code, names], [0, ["EXIT_HUNG"]]);
  });

  // ---- The way to the next session

  it("(delete) says NO_READY_PEER where no endpoint is ready", async (t) => {
    const lines = edited("delete-graceful", ({ endpoints }) => {
      for (const { targetRef, conditions } of endpoints ?? []) {
        if (!targetRef!.uid!.startsWith("4fe9303d")) Object.assign(conditions!, { ready: false, serving: false });
      }
    });
    const cluster = await startCluster(t, lines);
    const client = startDrill(t, cluster, "delete", "--max-reconnect=0");
    await Promise.all([client.line(/ dial-failed /), client.line(/ endpoint .*: endpoint gone/)]);
    const { object } = recording("delete-graceful").findLast(({ stream }) => stream === "endpointslices")!;
    object!.metadata.resourceVersion = cluster.version();
    cluster.publish({ t: 0, stream: "endpointslices", type: "MODIFIED", object: object! });
    const { code, symptoms, handover } = await endOf(client);
    assert.deepEqual([code, Object.keys(symptoms)], [1, ["SLOW_RECONNECT"]]);
    assert.deepEqual([handover.cause, handover.evidence], ["NO_READY_PEER", "no ready endpoint to dial"]);
  });

  it("(delete) says ENDPOINT_RACE where dials meet the pod that drains", async (t) => {
    // It is there until SIGKILL: a second is too short for a client that a busy machine keeps waiting.
    const lines = recording("delete-graceful").map((line) =>
      (line.t ?? 0) > 3000 ? { ...line, t: line.t! + 4700 } : line
    );
    const cluster = await startCluster(t, lines);
    cluster.state.pinned = cluster.victim;
    await connect(t, (await cluster.pod(cluster.victim)).url); // never confirms, so the drain goes on
    const client = startDrill(t, cluster, "delete", "--max-reconnect=0");
    await client.line(/ dial-failed .*HTTP 503/);
    cluster.state.pinned = undefined;
    const { code, symptoms, handover, findings } = await endOf(client);
    assert.deepEqual([code, Object.keys(symptoms), handover.cause], [1, ["SLOW_RECONNECT"], "ENDPOINT_RACE"]);
    assertText(handover.evidence, /^last dial that reached the ending pod at \+([\d.]+)s$/, [1.2, 60]);
    assert.deepEqual(findings.map(({ name }) => name), ["ENDPOINT_RACE"]);
    const met =
      /^\d+ new connections? met a pod after its deletion, the last at \+([\d.]+)s; its preStop.sleep is 2s: make it at least (\d+)s, the drill ended before the race did$/;
    assertText(findings[0]!.text, met, [1.2, 60], [3, 62]);
  });

  it("(delete) says ENDPOINT_RACE where the next session is on the same server", async (t) => {
    const cluster = await startCluster(t, "delete-graceful");
    cluster.state.pinned = cluster.victim;
    const client = startDrill(t, cluster, "delete", "--expect=moved");
    await client.line(/ endpoint .*: endpoint terminating/);
    cluster.cut();
    await client.line(/ handover .*SAME_SERVER/);
    cluster.state.pinned = undefined;
    const { code, handovers } = await endOf(client);
    assert.deepEqual([code, handovers.map(({ symptom, cause }) => [symptom, cause])], [1, [[
      "SAME_SERVER",
      "ENDPOINT_RACE",
    ], [null, null]]]);
    assertText(handovers[0]!.evidence, /^last dial that reached the ending pod at \+([\d.]+m?s)$/, [0, 2000]);
  });

  it("(delete) finds in a probe that preStop covers the endpoint race", async (t) => {
    let isTerminating = false;
    const cluster = await startCluster(t, "delete-graceful", {
      admit: () => void (isTerminating && (cluster.state.pinned = undefined)), // after this one
    });
    cluster.state.pinned = cluster.victim;
    const client = startDrill(t, cluster, "delete", "--probe-interval=100");
    await client.line(/ endpoint .*: endpoint terminating/);
    isTerminating = true;
    const { code, findings } = await endOf(client);
    assert.deepEqual([code, findings.map(({ name }) => name)], [0, ["ENDPOINT_RACE"]]);
    const met =
      /^[1-9] new connections? met a pod after its deletion, the last at \+([\d.]+)(m?s); its preStop.sleep is 2s(.*)$/;
    assert.match(findings[0]!.text, met);
    const [, last, unit, advice] = met.exec(findings[0]!.text)!;
    // A busy machine lets the last of them through later than the quick one that is meant.
    const seconds = unit === "ms" ? 1 : Math.ceil(Number(last));
    assert.equal(advice, seconds === 1 ? ", which covers it" : `: make it ${seconds + 1}s or more`);
  });

  // ---- The plain dialect

  it("(delete) judges an application that speaks no dialect of ours, by the pod that was ending", async (t) => {
    const cluster = await startCluster(t, "delete-graceful", { program: plainApp });
    const client = startDrill(t, cluster, "delete", "--silence-timeout=3000");
    const { code, verdict, handovers } = await endOf(client);
    assert.deepEqual([code, verdict, handovers.length], [0, "PASS", 1]);
    const { dialect, from, pod } = handovers[0]!;
    assert.deepEqual([dialect, from, pod], ["plain", cluster.env.SERVER_URL, cluster.victim]);
  });

  it("(delete) names the cause for an application that speaks no dialect of ours", async (t) => {
    const cluster = await startCluster(t, "delete-sigterm-ignored", { program: plainApp, flags: ["--deaf"] });
    const { code, symptoms, handover } = await endOf(startDrill(t, cluster, "delete", "--silence-timeout=3000"));
    assert.deepEqual([code, Object.keys(symptoms), handover.cause], [1, ["CUT_WITHOUT_NOTICE"], "SIGTERM_IGNORED"]);
    assert.deepEqual([handover.pod, handover.evidence], [cluster.victim, "exit 137 (Error) after 8.00s of grace"]);
  });

  it("(delete) judges our server in the plain dialect", async (t) => {
    const { code, handover, cluster } = await drill(t, "delete-graceful", "delete", [
      "--dialect=plain",
      "--silence-timeout=3000",
      "--expect=notice,farewell,clean,moved",
    ]);
    assert.deepEqual([code, handover.dialect, handover.pod], [0, "plain", cluster.victim]);
  });

  it("(delete) knows the pod of a plain session by its address, where no Service is in between", async (t) => {
    const addresses: Record<string, string> = { dlw2s: "127.0.0.1", jqvm8: "127.0.0.2" };
    const lines = edited("delete-graceful", ({ status, metadata }) => {
      const address = addresses[metadata.name.slice(-5)];
      if (status?.podIP && address) status.podIP = address;
    });
    const cluster = await startCluster(t, lines);
    const names = recording("delete-graceful")[0]!.list!.items.map(({ metadata }) => metadata.name);
    const urls = await Promise.all(
      names.map(async (name) => `--url=ws://${addresses[name.slice(-5)]}:${(await cluster.pod(name)).port}/ws`),
    );
    const client = startDrill(t, cluster, "delete", ...urls, "--dialect=plain", "--silence-timeout=3000");
    const { code, handover } = await endOf(client);
    assert.deepEqual([code, handover.from, handover.to, handover.pod], [0, names[0], names[1], names[0]]);
  });
});
