import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import process from "node:process";
import { describe, it, type TestContext } from "node:test";
import type { Handover } from "../protocol.ts";
import { clockMs, EXPECTED, run, slackMs, start } from "./helper.ts";

interface Rehearsal {
  verdict: "PASS" | "FAIL";
  handovers: Handover[];
  cost: Record<string, number | null>;
  findings: { name: string; text: string }[];
}

/** Patient with silence: the rehearsal itself hands on every byte, and has to share the machine. */
const QUICK = ["--interval=200", "--remaining-interval=20", "--silence-timeout=4000"];
const APP = (how: string) => `--server=${process.execPath} test/fixtures/app.cjs ${how}`;

/** A rehearsal with a Service in between. */
async function rehearse(t: TestContext, ...flags: string[]) {
  const { code, stdout, stderr } = await run(t, [process.execPath, "rehearse.mjs", "--service", "--json", ...flags]);
  assert.match(stdout, /^\{.*\}\n$/, stderr);
  return { code, stderr, lines: stderr.split("\n"), ...JSON.parse(stdout) as Rehearsal };
}

const rehearseOurs = (t: TestContext, ...flags: string[]) => rehearse(t, ...QUICK, ...flags);

/** Waits for a state that announces itself by nothing else; the test's time limit bounds it. */
async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await new Promise((resolve) => setTimeout(resolve, 10));
}

const textOf = ({ findings }: Rehearsal, name: string) => findings.find((finding) => finding.name === name)?.text ?? "";

/** Of each slot the server that its last handover led to. */
const lastServers = (handovers: Handover[]) => [...new Map(handovers.map(({ slot, to }) => [slot, to])).values()];

// Most of their time they wait: for intervals, drains, and pods to become ready.
describe("a Service in between", { concurrency: 6, timeout: 240_000 }, () => {
  for (const [fault, [symptom, cause = null]] of Object.entries(EXPECTED).filter(([fault]) => fault !== "none")) {
    it(`leaves fault ${fault} its symptom ${symptom} and its cause`, async (t) => {
      const flags = ["--sessions=4", "--grace=6", "--propagation=300ms", `--fault=${fault}`];
      const { code, handovers, stderr } = await rehearseOurs(t, ...flags);
      const told = handovers.map((handover) => [handover.from, handover.symptom, handover.cause, handover.rules.moved]);
      assert.ok(told.length > 0, stderr);
      assert.deepEqual(told, told.map(() => ["server-1", symptom, cause, "pass"]), stderr);
      assert.equal(code, 1);
    });
  }

  it("shows how long new connections still reach the ending pod, and what preStop it takes", async (t) => {
    const flags = ["--sessions=4", "--disrupt=scale-in", "--probe-interval=20", "--propagation=1200ms"];
    const rehearsal = await rehearseOurs(t, ...flags);
    assert.deepEqual([rehearsal.code, rehearsal.verdict], [0, "PASS"], rehearsal.stderr);
    const text = textOf(rehearsal, "ENDPOINT_RACE");
    const [, count, last, unit, least] =
      /^(\d+) new connections met a pod after its deletion, the last at \+([\d.]+)(m?s); it has no preStop: make it (\d)s or more$/
        .exec(text)!;
    const lastMs = Number(last) * (unit === "s" ? 1000 : 1);
    assert.ok(Number(count) > 5, text);
    assert.ok(lastMs > 700 && lastMs < 1200 + 300 + slackMs(), text);
    assert.equal(Number(least), Math.ceil(lastMs / 1000) + 1);
  });

  it("with a preStop that covers it lets no new connection fail, and waits for it before SIGTERM", async (t) => {
    const flags = ["--sessions=4", "--disrupt=scale-in", "--probe-interval=20", "--propagation=1s", "--pre-stop=3s"];
    const rehearsal = await rehearseOurs(t, ...flags);
    assert.deepEqual([rehearsal.code, rehearsal.verdict], [0, "PASS"], rehearsal.stderr);
    assert.match(textOf(rehearsal, "ENDPOINT_RACE"), /its preStop.sleep is 3s, which covers it$/);
    assert.doesNotMatch(rehearsal.stderr, /probe-failed|dial-failed|upgrade-refused/);
    const at = (pattern: RegExp) => clockMs(rehearsal.lines.find((one) => pattern.test(one))!);
    const sleptMs = at(/\[server-1\] .*shutdown-signal/) - at(/\[client\] .*pod .*server-1: deleted/);
    assert.ok(sleptMs > 2900 - slackMs() && sleptMs < 3500 + slackMs(), `SIGTERM came after ${sleptMs} ms`);
    assert.ok(rehearsal.cost["exitMs"]! < 2500, "the exit counts from SIGTERM");
  });

  // Somebody's own server, which closes in order, but takes new sessions until it exits.
  for (
    const [preStop, verdict, causes] of [["0s", "FAIL", ["ENDPOINT_RACE"]], ["3s", "PASS", []]] as const
  ) {
    it(`of sessions that reach an ending application tells ${verdict} with a preStop of ${preStop}`, async (t) => {
      const flags = [APP("lingers"), "--sessions=60", "--propagation=2s", `--pre-stop=${preStop}`];
      const { handovers, stderr, ...rest } = await rehearse(t, ...flags);
      assert.equal(rest.verdict, verdict, stderr);
      const failed = handovers.filter(({ verdict }) => verdict === "failed");
      assert.deepEqual([...new Set(failed.map(({ cause }) => cause))], causes, stderr);
      for (const { pod } of handovers) assert.equal(pod, "server-1");
      for (const { evidence } of failed) assert.match(evidence!, /^opened .*s after its pod's deletion$/);
    });
  }

  it("attributes sessions of a server without a name to the pods that were ending, in a rollout", async (t) => {
    const flags = [APP("nothing"), "--disrupt=rollout", "--servers=3", "--sessions=40", "--propagation=300ms"];
    const { code, handovers, stderr } = await rehearse(t, ...flags);
    assert.equal(code, 1, stderr);
    assert.ok(handovers.length >= 40, stderr);
    const told = handovers.map(({ symptom, cause }) => [symptom, cause]);
    assert.deepEqual(told, told.map(() => ["CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM"]), stderr);
    assert.deepEqual([...new Set(handovers.map(({ pod }) => pod))].sort(), ["server-1", "server-2", "server-3"]);
  });

  it("plays a rollout: one after the other, each once the next is ready, until all are new", async (t) => {
    const flags = ["--disrupt=rollout", "--servers=3", "--sessions=12", "--pre-stop=1s", "--propagation=300ms"];
    const { code, handovers, lines, stderr } = await rehearseOurs(t, ...flags);
    assert.equal(code, 0, stderr);
    const from = [...new Set(handovers.map(({ from }) => from))].sort();
    assert.ok(from.includes("server-1") && from.every((name) => /^server-[123]$/.test(name)), from.join());
    assert.equal(new Set(handovers.map(({ slot }) => slot)).size, 12, "every session has moved");
    for (const server of lastServers(handovers)) assert.match(server!, /^server-[456]$/);
    const order = lines.flatMap((line) =>
      /^\[(server-[456])\] .* listening /.exec(line)?.[1] ?? /pod +(server-\d: deleted)/.exec(line)?.[1] ?? []
    );
    const one = (number: number) => [`server-${number + 3}`, `server-${number}: deleted`];
    assert.deepEqual(order, [...one(1), ...one(2), ...one(3)]);
  });

  it("rolls a fault out of every instance", async (t) => {
    const flags = ["--disrupt=rollout", "--servers=2", "--sessions=8", "--fault=skip-notice", "--propagation=0s"];
    const { code, handovers } = await rehearseOurs(t, ...flags);
    assert.equal(code, 1);
    assert.deepEqual([...new Set(handovers.map(({ symptom }) => symptom))], ["NO_NOTICE"]);
    assert.deepEqual([...new Set(handovers.map(({ from }) => from))].sort(), ["server-1", "server-2"]);
  });

  for (const [flags, first] of [[[], "deleted"], [["--replace"], "listening"]] as const) {
    it(`brings another instance with ${flags[0] ?? "a deletion alone"}: ${first} first`, async (t) => {
      const { code, handovers, lines, stderr } = await rehearseOurs(t, "--servers=1", "--pre-stop=2s", ...flags);
      assert.equal(code, 0, stderr);
      assert.deepEqual(lastServers(handovers), ["server-2"]);
      const order = lines.flatMap((line) => /server-2.* (listening) |server-1: (deleted)/.exec(line)?.slice(1) ?? []);
      assert.equal(order.find((word) => word !== undefined), first);
    });
  }

  it("with nobody left refuses new connections, and the cause is NO_READY_PEER", async (t) => {
    const flags = ["--servers=1", "--disrupt=scale-in", "--sessions=2", "--max-reconnect=700ms", "--propagation=200ms"];
    flags.push("--backoff-cap=200ms"); // what waits by itself is not late
    const { code, handovers, stderr } = await rehearseOurs(t, ...flags);
    const told = handovers.map(({ symptom, cause }) => [symptom, cause]);
    assert.deepEqual([code, told], [1, Array(2).fill(["SLOW_RECONNECT", "NO_READY_PEER"])], stderr);
    for (const { failedDials } of handovers) assert.ok(failedDials["refused"]! > 0, JSON.stringify(failedDials));
    assert.match(stderr, /^\[service\] new connections are refused$/m);
  });

  it("with a preStop that takes all the grace leaves the drain 2 s, and says so before", async (t) => {
    const flags = ["--grace=2", "--pre-stop=5s", "--fault=slow-drain", "--propagation=300ms"];
    const { handovers, cost, findings, lines } = await rehearseOurs(t, ...flags);
    assert.deepEqual(handovers.map(({ symptom, cause }) => [symptom, cause]), [[
      "CUT_DURING_DRAIN",
      "SIGKILL_AT_GRACE",
    ]]);
    assert.ok(
      cost["exitMs"]! > 1900 && cost["exitMs"]! < 2500 + slackMs(),
      `killed ${cost["exitMs"]} ms after SIGTERM`,
    );
    const text = findings.find(({ name }) => name === "SIGKILL")?.text;
    assert.equal(text, "server-1 had not exited 4 s after its deletion, and was killed with SIGKILL");
    const foretold = /^\[rehearsal\] --pre-stop 5s takes all of --grace 2, so SIGTERM at 2 s, SIGKILL 2 s later: /;
    assert.equal(lines.filter((line) => foretold.test(line)).length, 1);
  });

  it("carries a thousand sessions, and loses none", async (t) => {
    const flags = ["--sessions=1000", "--interval=1000", "--pre-stop=2s", "--max-reconnect=20s", "--disrupt=scale-in"];
    const { code, verdict, handovers, stderr } = await rehearse(t, ...flags);
    assert.deepEqual([code, verdict], [0, "PASS"], stderr.slice(-2000));
    assert.ok(handovers.length > 400 && handovers.length < 600, `${handovers.length} of 1000 were on one of two`);
  });

  it("is byte for byte, half a connection at a time, and resets as it is reset", async (t) => {
    const flags = [APP("drains"), "--service", "--pre-stop=60s", "--grace=90"];
    const rehearsal = start(t, [process.execPath, "rehearse.mjs", ...flags]);
    const port = Number(/ws:\/\/127\.0\.0\.1:(\d+)\//.exec(await rehearsal.line(/ started .*session/))![1]);
    const dial = async (words: string) => {
      const socket = connect({ port, host: "127.0.0.1", allowHalfOpen: true });
      t.after(() => socket.destroy());
      await once(socket, "connect");
      socket.write(words);
      return socket;
    };
    const everything = async (socket: Socket) => {
      const chunks: Buffer[] = [];
      for await (const chunk of socket) chunks.push(chunk);
      return Buffer.concat(chunks);
    };

    // What it says after our FIN comes back, and it has had every byte.
    const bytes = Buffer.from(Array.from({ length: 2 ** 20 }, (_, index) => (index * 31 + (index >> 8)) & 255));
    const counting = await dial("COUNT ");
    counting.end(bytes);
    const hash = createHash("sha256").update(bytes).digest("hex");
    assert.equal((await everything(counting)).toString(), `${2 ** 20} ${hash}`);

    // A peer that does not read holds the server up, and nothing is lost once it does.
    const flood = await dial("FLOOD ");
    flood.pause();
    await until(() => flood.readableLength > 0);
    assert.equal((await everything(flood)).length, 32 * 2 ** 20);

    // A reset of the server's comes after its last words; one of ours gets to it.
    const doomed = await dial("RESET ");
    let words = "";
    doomed.on("data", (chunk) => words += chunk);
    doomed.on("end", () => doomed.write("")); // Node up to 24 says so of a reset that comes with bytes before it
    const [error] = await once(doomed, "error").catch((error) => [error]);
    assert.deepEqual([words, (error as NodeJS.ErrnoException).code], ["last words", "ECONNRESET"]);
    const held = await dial("HOLD ");
    await once(held, "data");
    held._final = (done) => done(); // no FIN before the RST
    held.resetAndDestroy();
    await rehearsal.line(/^\[server-\d\] peer: ECONNRESET$/);
  });

  it("leaves nothing behind when SIGKILL ends it in the middle of a rollout", async (t) => {
    const flags = ["--service", "--disrupt=rollout", "--pre-stop=20s", ...QUICK];
    const rehearsal = start(t, [process.execPath, "rehearse.mjs", ...flags]);
    const admins = ["server-1", "server-2", "server-3", "server-4"].map(async (name) =>
      Number(/admin port (\d+)/.exec(await rehearsal.line(new RegExp(`^\\[${name}\\] .*listening`)))![1])
    );
    const ports = await Promise.all(admins);
    await rehearsal.line(/ pod .*server-2: deleted/);
    rehearsal.child.kill("SIGKILL");
    await rehearsal.exited;
    for (const port of ports) {
      let isGone = false;
      const look = () => void fetch(`http://127.0.0.1:${port}/`).then(() => look(), () => isGone = true);
      look();
      await until(() => isGone);
    }
  });

  for (
    const [flags, complaint] of [
      [["--pre-stop=5s"], "--pre-stop needs --service"],
      [["--propagation=5s"], "--propagation needs --service"],
      [["--replace"], "--replace needs --service"],
      [["--disrupt=rollout"], "--disrupt needs --service"],
      [
        ["--service", "--disrupt=evict"],
        "--disrupt must be one of delete, rollout, scale-in: current value is 'evict'",
      ],
      [["--service", "--pre-stop=soon"], "--pre-stop must be a duration such as 5s, or 0s: current value is 'soon'"],
      [
        ["--service", "--propagation=-1s"],
        "--propagation must be a duration such as 1s or 500ms: current value is '-1s'",
      ],
      [
        ["--service", "--replace", "--disrupt=scale-in"],
        "--replace starts an instance, --disrupt scale-in means that none is started: leave out one",
      ],
      [
        ["--service", "--fault=crash", "--disrupt=rollout"],
        "--fault crash needs nobody to end the instance: --disrupt rollout does not go with it",
      ],
    ] as const
  ) {
    it(`refuses ${flags.join(" ")} with one clear line and exit 2`, async (t) => {
      const { code, stdout, stderr } = await run(t, [process.execPath, "rehearse.mjs", ...flags]);
      assert.deepEqual({ code, stdout, stderr }, { code: 2, stdout: "", stderr: complaint });
    });
  }

  it("takes its switches from the environment, as make hands them on", async (t) => {
    const command = ["make", "-o", "build", "rehearse", "SERVICE=1", "DISRUPT=scale-in", "INTERVAL_MS=200"];
    const { stdout, stderr } = await run(t, command);
    assert.match(stdout, /^PASS {2}1 handover/m, stderr);
    assert.match(stderr, /^\[service\] new connections go to server-2$/m);
    const bad = await run(t, [process.execPath, "rehearse.mjs"], { SERVICE: "perhaps" });
    const complaint = "SERVICE must be 1 or 0, as --service is a switch: current value is 'perhaps'";
    assert.deepEqual([bad.code, bad.stderr], [2, complaint]);
  });
});
