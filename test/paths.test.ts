/** Several ways to the same pods, and what a rollout does to sessions: the pure parts from tables, the rest with real sockets. */
import assert from "node:assert/strict";
import { connect as connectTcp, createServer, type Socket } from "node:net";
import process from "node:process";
import { test, type TestContext } from "node:test";
import {
  chanceOf,
  differenceInWords,
  type Handover,
  isProven,
  judge,
  Ledger,
  movesOf,
  observe,
  pathDifferences,
  rolloutFindings,
  rolloutOf,
} from "../protocol.ts";
import { compare, render, renderJunit, renderMarkdown } from "../report.mjs";
import { deadUrl, listen, run, startClient, startPeer, startServer } from "./helper.ts";

const JUDGED = judgedOnce();

/** A handover that was judged, with what a case changes of it. */
function handoverOf(changes: Partial<Handover>): Handover {
  return { ...JUDGED, verdict: "graceful", symptom: null, code: 1001, to: "pod-b", reconnectMs: 100, ...changes };
}

function judgedOnce(): Handover {
  const ledger = new Ledger("ws://x/ws", "v1", 100);
  observe(ledger, { type: "HELLO", server: "pod-a", instance: "a", session: "s", intervalMs: 100 }, 1);
  observe(ledger, { type: "END", how: "fin" }, 1000);
  const redial = { startedAt: 1000, chosenMs: 0, failed: {}, readyEndpoints: null, lastOnEndingMs: null };
  const policy = { expect: [], expectCode: [], maxReconnectMs: 5000 };
  return judge(1, ledger, undefined, redial, policy, 1000, 0);
}

/** The same for a move at a time. */
function moveOf(slot: number, endedMs: number, changes: Partial<Handover> = {}): Handover {
  return handoverOf({ slot, endedMs, arrivedMs: endedMs + 100, ...changes });
}

// ---- How often sessions moved

const MOVES: [name: string, handovers: Handover[], rolledMs: number | null, podsMs: number[], moves: number[]][] = [
  ["one disruption, one move each", [moveOf(1, 1000), moveOf(2, 1100)], null, [], [1, 1]],
  ["a second move 20 s later", [moveOf(1, 1000), moveOf(1, 21_000)], null, [], [1, 2]],
  ["three moves", [moveOf(1, 1000), moveOf(1, 21_000), moveOf(1, 41_000)], null, [], [1, 2, 3]],
  ["two disruptions, with 30 s of calm between them", [moveOf(1, 1000), moveOf(1, 31_200)], null, [], [1, 1]],
  [
    "a notice that begins the disruption before the end",
    [
      moveOf(1, 1000),
      moveOf(1, 41_000, { noticeMs: 15_000 }),
    ],
    null,
    [],
    [1, 2],
  ],
  ["pods that end or begin in between", [moveOf(1, 1000), moveOf(1, 51_000)], null, [26_000], [1, 2]],
  ["a rollout of our own is one disruption, however long", [moveOf(1, 1000), moveOf(1, 91_000)], 500, [], [1, 2]],
  ["what was before a rollout is another", [moveOf(1, 1000), moveOf(1, 6000)], 5000, [], [1, 1]],
  [
    "a session that was turned away",
    [
      moveOf(1, 1000, { symptom: "TURNED_AWAY", verdict: "failed" }),
      moveOf(1, 3000),
    ],
    null,
    [],
    [1],
  ],
  [
    "a session that something in between cut",
    [
      moveOf(1, 1000, { cause: "INTERMEDIARY_CUT", verdict: "failed" }),
      moveOf(1, 3000),
    ],
    null,
    [],
    [1],
  ],
  ["calm since the first one had arrived", [moveOf(1, 1000, { reconnectMs: 10_000 }), moveOf(1, 41_000)], null, [], [
    1,
    2,
  ]],
  ["more calm than that", [moveOf(1, 1000, { reconnectMs: 10_000 }), moveOf(1, 41_001)], null, [], [1, 1]],
  ["at the very beginning of a rollout", [moveOf(1, 100), moveOf(1, 500)], 500, [], [1, 1]],
  ["just arrived as a rollout begins", [moveOf(1, 400), moveOf(1, 600)], 500, [], [1, 2]],
  ["a cut", [moveOf(1, 1000, { symptom: "CUT_WITHOUT_NOTICE", verdict: "failed" }), moveOf(1, 3000)], null, [], [1, 2]],
  ["a session that has not ended", [moveOf(1, 1000), moveOf(1, 3000, { endedMs: null })], null, [], [1]],
  ["a handover that led nowhere", [moveOf(1, 1000), moveOf(1, 3000, { to: null })], null, [], [1]],
];

for (const [name, handovers, rolledMs, podsMs, expected] of MOVES) {
  test(`movesOf() counts the moves of a session: ${name}`, () => {
    const moves = movesOf({ handovers, rolledMs, podsMs });
    assert.deepEqual(handovers.flatMap((handover) => moves.get(handover)?.move ?? []), expected);
  });
}

const QUIET = { rolledMs: null, podsMs: [], held: {}, ready: null };

test("rolloutOf() tells moves, disruptions and the busiest second of a server; nothing where nothing moved", () => {
  assert.equal(rolloutOf({ ...QUIET, handovers: [] }), null);
  const handovers = [
    moveOf(1, 1000),
    moveOf(2, 1950),
    moveOf(3, 2050),
    moveOf(1, 2900, { to: "pod-c" }),
    moveOf(2, 60_000),
  ];
  assert.deepEqual(rolloutOf({ ...QUIET, handovers }), {
    disruptions: 2,
    moves: { 1: 2, 2: 1 },
    peak: { server: "pod-b", sessions: 2, atMs: 1100 },
    held: {},
  });
  const moves = movesOf({ ...QUIET, handovers });
  assert.deepEqual(handovers.map((handover) => moves.get(handover)?.disruption), [1, 1, 1, 1, 2]);
});

test("rolloutOf() counts arrivals in the order of their time, and none that nobody saw", () => {
  const arrivals = (...times: (number | null)[]) => {
    const handovers = times.map((arrivedMs, index) => moveOf(index + 1, 1000 + index, { arrivedMs }));
    return rolloutOf({ ...QUIET, handovers })!.peak;
  };
  assert.deepEqual(arrivals(2500, 1200, 1300), { server: "pod-b", sessions: 2, atMs: 1200 });
  assert.deepEqual(arrivals(null, 1200), { server: "pod-b", sessions: 1, atMs: 1200 });
  assert.equal(arrivals(null), null);
});

test("rolloutFindings() has nothing to say where each session moved once, or nobody saw one arrive, or none moved", () => {
  for (const handovers of [[moveOf(1, 1000), moveOf(2, 1000)], [moveOf(1, 1000, { arrivedMs: null })], []]) {
    const moved = { ...QUIET, handovers };
    assert.deepEqual(rolloutFindings(rolloutOf(moved), moved), []);
  }
});

test("MOVED_AGAIN says how many sessions moved how often, and what to change", () => {
  const handovers = [1000, 2000, 3000].flatMap((endedMs, index) =>
    [1, 2, 3, 4].slice(0, 4 - index).map((slot) => moveOf(slot, endedMs))
  );
  const findingsOf = (handovers: Handover[]) => {
    const moved = { ...QUIET, handovers };
    return rolloutFindings(rolloutOf(moved), moved);
  };
  assert.match(
    findingsOf(handovers.slice(0, 5))[0]!.text,
    /^1 of the 4 sessions that moved moved twice in one disruption/,
  );
  const [finding, ...others] = findingsOf(handovers);
  assert.deepEqual([finding?.name, others], ["MOVED_AGAIN", []]);
  assert.match(
    finding!.text,
    /^1 of the 4 sessions that moved moved twice, 2 moved 3 times in one disruption \(once is/,
  );
  assert.match(finding!.text, /maxSurge .*minReadySeconds.*spread the drain/);
});

for (const [sessions, stormed] of [[99, false], [100, true], [250, true]] as const) {
  test(`RECONNECT_STORM is ${stormed ? "" : "not "}told of ${sessions} sessions that come to one pod in a second`, () => {
    const handovers = Array.from({ length: sessions }, (_, index) => moveOf(index + 1, 1000 + index));
    const moved = { ...QUIET, handovers };
    const storm = rolloutFindings(rolloutOf(moved), moved).find(({ name }) => name === "RECONNECT_STORM");
    assert.equal(storm !== undefined, stormed);
    if (!stormed) return;
    assert.match(storm!.text, new RegExp(`^${sessions} sessions moved to pod-b within one second, at 1.10s`));
    assert.match(storm!.text, new RegExp(`: ${1000 / sessions}ms of a core for each`));
    assert.match(storm!.text, new RegExp(`over ${Math.ceil(sessions / 100)}s or more`));
  });
}

test("a second that two halves of a minute share is no storm: 150 sessions over 3 s", () => {
  const handovers = Array.from({ length: 150 }, (_, index) => moveOf(index + 1, 1000 + 20 * index));
  assert.equal(rolloutOf({ ...QUIET, handovers })?.peak?.sessions, 50);
});

// Binomial tails, by hand: 2 × P(X ≥ 7 of 10) = 2 × 176 / 1024, and so on.
const CHANCES: [counts: number[], chance: number][] = [
  [[7, 3], 352 / 1024],
  [[9, 1], 22 / 1024],
  [[10, 0], 2 / 1024],
  [[8, 0], 2 / 256],
  [[7, 0], 2 / 128],
  [[5, 5], 1],
  [[3], 1],
  [[], 1],
  [[0, 0], 1],
  [[6, 6, 0], 3 * (2 / 3) ** 12],
  [[8, 2, 2], 3 * 9969 / 3 ** 12],
];

for (const [counts, chance] of CHANCES) {
  test(`chanceOf([${counts}]) is ${chance.toPrecision(3)}`, () => {
    assert.ok(Math.abs(chanceOf(counts) - chance) < 1e-9, `${chanceOf(counts)}`);
  });
}

test("chanceOf() works on thousands, and accuses no chance: of even draws less than 2 in 100 are uneven", () => {
  assert.ok(chanceOf([4500, 4500]) > 0.9);
  assert.ok(chanceOf([5000, 4000]) < 1e-6);
  let [state, accused] = [1, 0];
  for (let trial = 0; trial < 1000; trial++) {
    const counts = [0, 0, 0];
    for (let session = 0; session < 30; session++) {
      state = state * 48271 % 2147483647;
      counts[state % 3]!++;
    }
    if (chanceOf(counts) < 0.01) accused++;
  }
  assert.ok(accused < 20, `${accused} of 1000`);
});

const READY = [{ name: "pod-b", readyMs: 0 }, { name: "pod-c", readyMs: 0 }];
const LATE = [{ name: "pod-b", readyMs: 0 }, { name: "pod-n", readyMs: 13_100 }];
const UNEVENNESS: [name: string, held: Record<string, number>, ready: typeof READY | null, pattern: RegExp | null][] = [
  ["a spread that chance gives", { "pod-b": 7, "pod-c": 3 }, READY, null],
  [
    "all on one of two pods",
    { "pod-b": 10 },
    READY,
    /^pod-b has 10 of 10 sessions, pod-c 0, 2 pods .* once in 512 runs; whoever balances does not spread/,
  ],
  ["nobody who tells which pods there are", { "pod-b": 10 }, null, null],
  [
    "two servers that are known by their sessions",
    { "pod-b": 19, "pod-c": 1 },
    null,
    /^pod-b has 19 .*does not spread/,
  ],
  [
    "a pod that came after the moves",
    { "pod-b": 10 },
    LATE,
    /pod-n became ready 12.0s after the last session had moved/,
  ],
  [
    "two servers, whichever is known first",
    { "pod-b": 1, "pod-c": 19 },
    null,
    /^pod-c has 19 of 20 sessions, pod-b 1,/,
  ],
  ["a server among them that has no name", { "ws://x/ws": 10, "pod-b": 10 }, READY, null],
  [
    "a pod that was ready as the last session moved",
    { "pod-b": 10 },
    [READY[0]!, { name: "pod-n", readyMs: 1100 }],
    /does not spread/,
  ],
  [
    "a pod that came after the moves, where the others are uneven by themselves",
    { "pod-b": 19, "pod-c": 1 },
    [...READY, LATE[1]!],
    /^pod-b has 19 of 20 sessions, pod-n 0, 3 pods .*does not spread/,
  ],
  ["servers that have no names", { "ws://x/ws": 10 }, READY, null],
  ["a pod that is not ready any more", { "pod-a": 10, "pod-b": 5, "pod-c": 4 }, READY, null],
];

for (const [name, held, ready, pattern] of UNEVENNESS) {
  test(`UNEVEN is ${pattern === null ? "not " : ""}told of ${name}`, () => {
    const moved = { ...QUIET, handovers: [moveOf(1, 1000)], held, ready };
    const uneven = rolloutFindings(rolloutOf(moved), moved).find(({ name }) => name === "UNEVEN");
    if (pattern === null) assert.equal(uneven, undefined);
    else assert.match(uneven?.text ?? "", pattern);
  });
}

// ---- Paths: the same pod's end, graceful on one and a cut on another

/** So many sessions on a path that ended in order, or were cut. */
function sessionsOn(path: string, graceful: number, cut: number, changes: Partial<Handover> = {}): Handover[] {
  const cutOff = { verdict: "failed", symptom: "CUT_WITHOUT_NOTICE", code: null } as const;
  return [
    ...Array.from({ length: graceful }, () => moveOf(1, 2000, { path, openedMs: 0, ...changes })),
    ...Array.from({ length: cut }, () => moveOf(1, 1500, { path, openedMs: 0, ...cutOff, ...changes })),
  ];
}

const DIFFERENCES: [name: string, handovers: Handover[], chances: number[]][] = [
  ["five of each", [...sessionsOn("direct", 5, 0), ...sessionsOn("ingress", 0, 5)], [1 / 252]],
  ["one of each", [...sessionsOn("direct", 1, 0), ...sessionsOn("ingress", 0, 1)], [1 / 2]],
  ["a part of them", [...sessionsOn("direct", 4, 0), ...sessionsOn("ingress", 2, 2)], [15 / 70]],
  ["both cut", [...sessionsOn("direct", 0, 5), ...sessionsOn("ingress", 0, 5)], []],
  ["both graceful", [...sessionsOn("direct", 5, 0), ...sessionsOn("ingress", 5, 0)], []],
  ["both in part", [...sessionsOn("direct", 4, 1), ...sessionsOn("ingress", 1, 4)], []],
  ["two pods", [...sessionsOn("direct", 5, 0, { from: "pod-c" }), ...sessionsOn("ingress", 0, 5)], []],
  ["pods without names", [
    ...sessionsOn("direct", 5, 0, { from: "ws://x/ws" }),
    ...sessionsOn("ingress", 0, 5, { from: "ws://y/ws" }),
  ], []],
  ["the pod's name from the cluster", [
    ...sessionsOn("direct", 5, 0, { from: "ws://x/ws", pod: "pod-a" }),
    ...sessionsOn("ingress", 0, 5, { from: "ws://y/ws", pod: "pod-a" }),
  ], [1 / 252]],
  ["another pod of the same name, later", [
    ...sessionsOn("ingress", 0, 5),
    ...sessionsOn("direct", 5, 0, { openedMs: 4000, endedMs: 9000 }),
  ], []],
  ["a cut a minute before the pod's end", [
    ...sessionsOn("ingress", 0, 5),
    ...sessionsOn("direct", 5, 0, { endedMs: 62_000 }),
  ], []],
  ["one path only", [...sessionsOn("direct", 3, 2)], []],
  ["sessions without a path among them", [
    ...sessionsOn("direct", 5, 0),
    ...sessionsOn("ingress", 0, 5, { path: null }),
  ], []],
  ["cuts that were our own doing", [
    ...sessionsOn("direct", 5, 0),
    ...sessionsOn("ingress", 0, 5, { symptom: "WITNESS_ENDED" }),
  ], []],
  ["failures with a close frame", [...sessionsOn("direct", 5, 0), ...sessionsOn("ingress", 0, 5, { code: 1000 })], []],
  ["graceful ends without one", [...sessionsOn("direct", 5, 0), ...sessionsOn("ingress", 5, 0, { code: null })], []],
  ["a path on which nothing was cut, and nothing graceful", [
    ...sessionsOn("direct", 0, 5, { code: 1000 }),
    ...sessionsOn("ingress", 0, 5),
  ], []],
  ["a path with nothing graceful, though nothing was cut, beside a better one", [
    ...sessionsOn("closed", 0, 5, { code: 1000 }),
    ...sessionsOn("ingress", 0, 5),
    ...sessionsOn("direct", 99, 1),
  ], [100 / 1_609_344_100]],
  ["a path that is better, though it has more cuts", [
    ...sessionsOn("direct", 980, 20),
    ...sessionsOn("ingress", 1, 10),
  ], [0]],
  ["sessions that had not ended", [
    ...sessionsOn("direct", 5, 0),
    ...sessionsOn("direct", 0, 9, { verdict: "unfinished" }),
    ...sessionsOn("direct", 9, 0, { endedMs: null }),
    ...sessionsOn("ingress", 0, 5),
  ], [1 / 252]],
  ["another pod of the same name, later, and told first", [
    ...sessionsOn("direct", 5, 0, { openedMs: 4000, endedMs: 9000 }),
    ...sessionsOn("ingress", 0, 5),
  ], []],
  ["another pod of the same name, as the first one ends", [
    ...sessionsOn("ingress", 0, 5),
    ...sessionsOn("direct", 5, 0, { openedMs: 1500, endedMs: 9000 }),
  ], []],
  ["an end 30 s after the one before it", [
    ...sessionsOn("ingress", 0, 5),
    ...sessionsOn("direct", 5, 0, { endedMs: 31_500 }),
  ], [1 / 252]],
  ["an end later than that", [
    ...sessionsOn("ingress", 0, 5),
    ...sessionsOn("direct", 5, 0, { endedMs: 31_501 }),
  ], []],
  ["an end that was announced 30 s after the one before it", [
    ...sessionsOn("ingress", 0, 5),
    ...sessionsOn("direct", 5, 0, { endedMs: 41_500, noticeMs: 10_000 }),
  ], [1 / 252]],
];

for (const [name, handovers, chances] of DIFFERENCES) {
  test(`pathDifferences() finds ${chances.length === 0 ? "no path to blame" : "the path"}: ${name}`, () => {
    const found = pathDifferences(handovers);
    assert.deepEqual(found.map(({ path, other }) => [path, other]), chances.map(() => ["ingress", "direct"]));
    for (const [index, { chance }] of found.entries()) {
      assert.ok(Math.abs(chance - chances[index]!) < 1e-9, `${chance}`);
    }
  });
}

test("pathDifferences() compares with the best of the other paths, whichever ends first", () => {
  for (const endedMs of [1400, 2000]) {
    const handovers = [sessionsOn("mesh", 8, 2), sessionsOn("ingress", 0, 5), sessionsOn("direct", 5, 0, { endedMs })];
    const found = pathDifferences(handovers.flat()).map(({ path, other }) => `${path} ${other}`);
    assert.deepEqual(found.sort(), ["ingress direct", "mesh direct"]);
  }
});

test("a difference is proof when it is no chance and the pod closed others in order after the cut; few say that they are few", () => {
  const [strong] = pathDifferences([...sessionsOn("direct", 5, 0), ...sessionsOn("ingress", 0, 5)]);
  assert.deepEqual([1500, 1999, 2000, 2500].map((cutMs) => isProven(strong!, cutMs)), [true, true, false, false]);
  assert.equal(isProven({ ...strong!, chance: 0.01 }, 1500), false);
  const [later] = pathDifferences([
    ...sessionsOn("direct", 5, 0),
    ...sessionsOn("direct", 1, 0, { endedMs: 3000 }),
    ...sessionsOn("ingress", 0, 5),
  ]);
  assert.equal(later!.gracefulUntilMs, 3000);
  assert.equal(
    differenceInWords(strong!),
    "at the end of pod-a 5 of 5 sessions were cut on the path ingress, 5 of 5 graceful on direct: " +
      "ingress (its proxy) is to blame, not the pod",
  );
  const [weak] = pathDifferences([...sessionsOn("direct", 1, 0), ...sessionsOn("ingress", 0, 1)]);
  assert.equal(isProven(weak!, 1500), false);
  assert.match(
    differenceInWords(weak!),
    /1 of 1 session were cut .*; that few may be chance \(1 in 2\): more --sessions/,
  );
  assert.match(differenceInWords({ ...strong!, chance: 0.01 }), /chance \(1 in 100\)/);
});

// ---- Paths, with real sockets

/** A way to servers: each new connection goes where `route` says; with `cuts` it ends all of them at the first SHUTDOWN. */
async function startWay(t: TestContext, route: (nth: number) => number, cuts = false) {
  const sockets = new Set<Socket>();
  let nth = 0;
  const server = createServer((near) => {
    const far = connectTcp(route(nth++), "127.0.0.1");
    for (const [socket, peer] of [[near, far], [far, near]] as const) {
      sockets.add(socket);
      socket.on("error", () => {}).on("close", () => sockets.delete(socket) && peer.destroy());
    }
    near.on("data", (bytes) => far.write(bytes)).on("end", () => far.end());
    far.on("end", () => near.end()).on("data", (bytes) => {
      near.write(bytes);
      if (cuts && bytes.includes('"SHUTDOWN"')) setImmediate(() => near.destroy());
    });
  });
  t.after(() => sockets.forEach((socket) => socket.destroy()));
  return `ws://127.0.0.1:${await listen(t, server)}/ws`;
}

const portOf = (url: string) => Number(new URL(url).port);
const DRAIN = ["--interval=200", "--remaining=5", "--remaining-interval=200"];

test("a proxy on one path that cuts is to blame: numbers by path, the cause, and the same in every report", async (t) => {
  const [a, b] = [await startServer(t, "--name=pod-a", ...DRAIN), await startServer(t, "--name=pod-b", ...DRAIN)];
  let target = portOf(a.url);
  const [direct, ingress] = [await startWay(t, () => target), await startWay(t, () => target, true)];
  const client = startClient(
    t,
    `--url=${direct}`,
    `--via=ingress=${ingress}?token=secret`,
    ...["--sessions=10", "--handovers=10", "--interval=200", "--probe-interval=50", "--timeout=60s"],
  );
  await client.line(/ steady /);
  target = portOf(b.url);
  a.child.kill("SIGTERM");
  const [result, { code }] = [await client.result, await client.exited];
  assert.equal(code, 1);
  const [first, second] = result.paths;
  assert.deepEqual([result.paths.length, first?.name, second?.name], [2, "direct", "ingress"]);
  assert.deepEqual(first?.sessions, { wanted: 5, had: 5, connected: 5 });
  assert.deepEqual([first?.counts, second?.counts], [
    { graceful: 5, failed: 0, unfinished: 0 },
    { graceful: 0, failed: 5, unfinished: 0 },
  ]);
  assert.deepEqual([first?.symptoms, second?.symptoms.CUT_DURING_DRAIN?.count], [{}, 5]);
  assert.deepEqual([first?.messages.lost, second?.messages.lost], [0, result.messages.lost]);
  assert.equal(result.messages.received, first!.messages.received + second!.messages.received);
  assert.ok(first!.probes.ok > 0 && Math.abs(first!.probes.ok - second!.probes.ok) <= 2, "probes take turns");
  assert.equal(result.probes.ok, first!.probes.ok + second!.probes.ok);
  assert.ok(second!.reconnect.maxMs! < 5000 && first!.silence.p50Ms! > 0);
  assert.deepEqual(
    new Set(result.handovers.map(({ slot, path }) => `${path} ${slot % 2}`)),
    new Set(["direct 1", "ingress 0"]),
  );

  const blame =
    /at the end of pod-a 5 of 5 sessions were cut on the path ingress, 5 of 5 graceful on direct: ingress \(its proxy\) is/;
  assert.match(result.findings.find(({ name }) => name === "INTERMEDIARY_CUT")?.text ?? "", blame);
  assert.deepEqual(second?.symptoms.CUT_DURING_DRAIN?.causes.INTERMEDIARY_CUT?.count, 5);
  assert.match(
    result.summary,
    /^FAIL {2}5 of 10 handovers: CUT_DURING_DRAIN ×5 \(pod-a\), cause INTERMEDIARY_CUT: at the end/,
  );
  const text = render(result);
  assert.match(
    text,
    /Path ingress {2}ws:\S+\/ws\?token=…\n {2}sessions +5 of 5 connected\n {2}handovers +0 graceful, 5 failed\n/,
  );
  assert.match(text, blame);
  const [xml, markdown] = [renderJunit(result), renderMarkdown(result)];
  assert.match(xml, /<testsuite name="handovers by ingress" tests="5" failures="5" errors="0" skipped="0"/);
  assert.match(xml, /<property name="handovers" value="5 graceful, 0 failed"\/>/);
  assert.match(xml, /<testsuites name="graceful shutdown" tests="11" failures="5"/);
  assert.match(markdown, /\| `ingress` \| `5 of 5 connected` \| `0 graceful, 5 failed` \| `CUT_DURING_DRAIN ×5` \|/);
  const { sections, change } = compare(
    { ...result, paths: result.paths.map((path) => ({ ...path, symptoms: {} })) },
    result,
    10,
  );
  const rows = sections.find(({ title }) => title === "Path ingress")?.rows;
  assert.deepEqual(rows?.find(({ name }) => name === "CUT_DURING_DRAIN")?.change, "worse");
  assert.equal(change, "worse");
  for (const report of [text, xml, markdown, JSON.stringify(result)]) assert.doesNotMatch(report, /token=secret/);
});

test("a path that never connects is named, the others are judged, and the run has not passed", async (t) => {
  const server = await startServer(t, "--name=pod-a", ...DRAIN);
  const client = startClient(t, `--url=${server.url}`, `--via=balancer=${deadUrl()}`, "--sessions=4", "--timeout=3s");
  const [result, { code }] = [await client.result, await client.exited];
  assert.equal(code, 1);
  assert.match(
    result.summary,
    /^FAIL {2}only 2 of 4 sessions ever connected, none on the path balancer: refused ×\d+$/,
  );
  assert.deepEqual(result.paths.map(({ sessions: { had } }) => had), [2, 0]);
  const [down] = result.findings;
  assert.match(
    `${down?.name} ${down?.text}`,
    /^PATH_DOWN balancer: none of its 2 sessions ever connected \(refused ×\d+\); the/,
  );
});

test("with one path nothing is said of paths", async (t) => {
  const server = await startServer(t, ...DRAIN);
  const client = startClient(t, `--url=${server.url}`, "--timeout=1500ms");
  const result = await client.result;
  assert.deepEqual([result.paths, result.rollout], [[], null]);
  assert.doesNotMatch(render(result) + renderJunit(result) + renderMarkdown(result), /path|direct/i);
});

const MISTAKES: [flags: string[], line: RegExp][] = [
  [["--via=ws://x/ws"], /^--via must be NAME=URL, with a name of up to 32 .*: current value is 'ws:\/\/x\/ws'$/],
  [["--via=a b=ws://x/ws"], /^--via must be NAME=URL, with a name/],
  [["--via=a=http://x/ws"], /^--via must be NAME=URL: the URL must be a ws:\/\/ or wss:\/\/ URL/],
  [["--via=a=ws://x/ws", "--via=a=ws://y/ws", "--sessions=3"], /^--via: the name of a path must be given once: .*'a'$/],
  [["--via=direct=ws://x/ws", "--sessions=2"], /^--via: the name of a path must not be direct, which is --url's: /],
  [["--via=a=ws://x/ws"], /^--sessions must be at least 2, one for each path: current value is '1'$/],
];

for (const [flags, line] of MISTAKES) {
  test(`client.js refuses ${flags.join(" ")} in one line`, async (t) => {
    const { code, stderr } = await run(t, [process.execPath, "dist/client.js", ...flags]);
    assert.deepEqual([code, stderr.trimEnd().split("\n").length], [2, 1]);
    assert.match(stderr.trimEnd(), line);
  });
}

// ---- Rollouts, with real sockets

const chatter = (ws: { send: (text: string) => void; on: (event: "close", listener: () => void) => void }) => {
  const timer = setInterval(() => ws.send("tick"), 100);
  ws.on("close", () => clearInterval(timer));
};

test("a session that moves to an old pod has to move again, and a run that passes says so", async (t) => {
  const peers = [
    await startPeer(t, chatter, true),
    await startPeer(t, chatter, true),
    await startPeer(t, chatter, true),
  ];
  const [a, b, c] = peers.map(({ url }) => portOf(url));
  const url = await startWay(t, (nth) => nth < 6 ? a! : nth < 8 ? b! : c!);
  const client = startClient(t, `--url=${url}`, "--sessions=6", "--handovers=8", "--timeout=90s", "--dialect=plain");
  await client.line(/ steady /);
  for (const ws of peers[0]!.wss.clients) ws.close(1001);
  for (let slot = 1; slot <= 6; slot++) await client.line(new RegExp(` handover +slot ${slot}:`));
  for (const ws of peers[1]!.wss.clients) ws.close(1001);
  const [result, { code }] = [await client.result, await client.exited];
  assert.equal(code, 0);
  assert.deepEqual([result.rollout?.disruptions, result.rollout?.moves], [1, { 1: 4, 2: 2 }]);
  assert.deepEqual(result.findings.map(({ name }) => name), ["MOVED_AGAIN"]);
  assert.match(result.findings[0]!.text, /^2 of the 6 sessions that moved moved twice in one disruption/);
  assert.match(render(result), /\nMoves +4 sessions once, 2 sessions 2 times, in one disruption\n/);
});

test("hundreds of sessions that come to one server at once are a storm, and sessions that stay there uneven", async (t) => {
  const names = ["pod-a", "pod-b", "pod-c"];
  const servers = [];
  for (const name of names) {
    servers.push(await startServer(t, `--name=${name}`, "--remaining=1", "--remaining-interval=1"));
  }
  const [a, b, c] = servers.map(({ url }) => portOf(url));
  let moving = false;
  const url = await startWay(t, (nth) => moving ? b! : nth % 20 === 0 ? c! : a!);
  const client = startClient(
    t,
    `--url=${url}`,
    "--sessions=300",
    "--handovers=285",
    "--timeout=90s",
    "--max-reconnect=30s",
  );
  await client.line(/ steady /);
  moving = true;
  servers[0]!.child.kill("SIGTERM");
  const result = await client.result;
  const { peak, moves, held } = result.rollout!;
  assert.deepEqual([moves, held], [{ 1: 285 }, { "pod-b": 285, "pod-c": 15 }]);
  assert.equal(peak?.server, "pod-b");
  // A busy machine may not take as many in a second as make a storm.
  assert.ok(peak!.sessions > 10, `${peak?.sessions} in a second`);
  assert.deepEqual(result.findings.map(({ name }) => name).filter((name) => name !== "WITNESS_SLOW"), [
    ...peak!.sessions < 100 ? [] : ["RECONNECT_STORM"],
    "UNEVEN",
  ]);
  assert.match(result.findings.at(-1)!.text, /^pod-b has 285 of 300 sessions, pod-c 15, 2 pods are ready: /);
});
