import assert from "node:assert/strict";
import process from "node:process";
import { describe, it, type TestContext } from "node:test";
import type { Handover } from "../protocol.ts";
import { FAULTS } from "../server.ts";
import { run, start } from "./helper.ts";

interface Rehearsal {
  verdict: "PASS" | "FAIL";
  handovers: Handover[];
  cost: Record<string, number | null>;
  findings: { name: string; text: string }[];
}

/** Intervals short enough to be steady in no time, and a grace that only a hanging server reaches. */
const QUICK = ["--interval=200", "--remaining-interval=20", "--grace=3", "--silence-timeout=1500"];

async function rehearse(t: TestContext, ...flags: string[]) {
  const { code, stdout, stderr } = await run(t, [process.execPath, "rehearse.mjs", "--json", ...QUICK, ...flags]);
  assert.match(stdout, /^\{.*\}\n$/, stderr);
  return { code, stderr, ...JSON.parse(stdout) as Rehearsal };
}

/** DESIGN: every fault, the symptom that it must give. */
const EXPECTED: Record<(typeof FAULTS)[number], string | null> = {
  "none": null,
  "ignore-sigterm": "CUT_WITHOUT_NOTICE",
  "exit-at-sigterm": "CUT_WITHOUT_NOTICE",
  "crash": "CUT_WITHOUT_NOTICE",
  "stall": "STALLED",
  "skip-notice": "NO_NOTICE",
  "exit-mid-drain": "CUT_DURING_DRAIN",
  "slow-drain": "CUT_DURING_DRAIN",
  "drop-data": "DATA_LOST",
  "duplicate-data": "DATA_DUPLICATED",
  "reorder-data": "DATA_REORDERED",
  "lose-upstream": "UPSTREAM_LOST",
  "skip-farewell": "NO_FAREWELL",
  "terminate": "NO_CLOSE_FRAME",
  "reset": "RESET_AFTER_CLOSE",
  "no-status": "WRONG_CLOSE_CODE",
};

describe("a rehearsal", { concurrency: 2 }, () => {
  for (const [fault, symptom] of Object.entries(EXPECTED).filter(([fault]) => fault !== "none")) {
    it(`with fault ${fault} fails with ${symptom} and nothing else`, async (t) => {
      const { code, verdict, handovers } = await rehearse(t, "--sessions=3", `--fault=${fault}`);
      assert.equal(verdict, "FAIL");
      assert.equal(code, 1);
      assert.deepEqual(handovers.map((handover) => handover.symptom), [symptom, symptom, symptom]);
      assert.deepEqual(handovers.map((handover) => handover.rules.moved), ["pass", "pass", "pass"]);
    });
  }

  for (const flags of [["--remaining=1"], ["--remaining=0"], ["--spread=300", "--sessions=6"]]) {
    it(`cuts every session in its drain with fault exit-mid-drain and ${flags[0]}`, async (t) => {
      const { handovers } = await rehearse(t, "--fault=exit-mid-drain", ...flags);
      assert.deepEqual([...new Set(handovers.map(({ symptom }) => symptom))], ["CUT_DURING_DRAIN"]);
    });
  }

  it("sees fault skip-notice in the plain dialect, too", async (t) => {
    const { handovers } = await rehearse(t, "--fault=skip-notice", "--dialect=plain", "--expect=notice,clean,moved");
    assert.deepEqual(handovers.map(({ symptom }) => symptom), ["NO_NOTICE"]);
  });

  for (const reconnect of ["after-close", "early"]) {
    for (const dialect of ["v1", "plain"]) {
      it(`without a fault passes, reconnecting ${reconnect} in the ${dialect} dialect`, async (t) => {
        const expect = dialect === "plain" ? ["--expect=notice,farewell,clean,moved"] : [];
        const flags = ["--sessions=5", `--reconnect=${reconnect}`, `--dialect=${dialect}`, ...expect];
        const { code, verdict, handovers } = await rehearse(t, ...flags);
        assert.equal(verdict, "PASS");
        assert.equal(code, 0);
        assert.equal(handovers.length, 5);
        for (const { from, to, code, how, lost, upstreamLost, noticeMs } of handovers) {
          assert.deepEqual({ to, code, how, lost, upstreamLost }, {
            to: dialect === "plain" ? to : "server-2",
            code: 1001,
            how: "fin",
            lost: [],
            upstreamLost: 0,
          });
          assert.notEqual(from, to);
          assert.ok(noticeMs! >= 20, `SHUTDOWN came ${noticeMs} ms before the end`);
        }
      });
    }
  }

  it("reconnects early without any gap", async (t) => {
    const { handovers } = await rehearse(t, "--sessions=5", "--reconnect=early", "--remaining=10");
    for (const { reconnectMs } of handovers) assert.equal(reconnectMs, 0);
  });

  // At two values: one would pass with a constant in the code.
  for (const [remaining, intervalMs] of [[3, 100], [6, 150]] as const) {
    it(`takes ${remaining} × ${intervalMs} ms to drain, and says so`, async (t) => {
      const flags = [`--remaining=${remaining}`, `--remaining-interval=${intervalMs}`];
      const { verdict, cost, handovers } = await rehearse(t, "--sessions=2", ...flags);
      assert.equal(verdict, "PASS");
      assert.equal(cost["scriptedMs"], remaining * intervalMs);
      assert.ok(cost["exitMs"]! >= remaining * intervalMs, `the server exited after ${cost["exitMs"]} ms`);
      assert.equal(cost["overheadMs"], cost["exitMs"]! - cost["scriptedMs"]!);
      for (const { drainMs, remaining: { announced, received } = {} as never } of handovers as never[]) {
        assert.deepEqual({ announced, received }, { announced: remaining, received: remaining });
        // As the client sees it: SHUTDOWN may have been read late.
        assert.ok(drainMs >= (remaining - 1) * intervalMs, `drained in ${drainMs} ms`);
      }
    });
  }

  it("prints every number of its cost, and null where a number would mean nothing", async (t) => {
    const { cost } = await rehearse(t, "--sessions=2");
    assert.deepEqual(Object.keys(cost).sort(), [
      "clientBytesPerSession",
      "exitMs",
      "messages",
      "overheadMs",
      "reconnectP50Ms",
      "reconnectP99Ms",
      "scriptedMs",
      "serverBytesPerSession",
      "sessions",
    ]);
    assert.equal(cost["serverBytesPerSession"], null);
    assert.equal(cost["clientBytesPerSession"], null);
    assert.equal(cost["sessions"], 2);
    assert.ok(cost["messages"]! > 8);
  });

  it("kills a server that does not exit by the grace period, and says so", async (t) => {
    const { cost, findings, stderr } = await rehearse(t, "--fault=ignore-sigterm", "--grace=2");
    assert.ok(cost["exitMs"]! >= 2000 && cost["exitMs"]! < 3000, `the server was gone after ${cost["exitMs"]} ms`);
    assert.equal(cost["scriptedMs"], null);
    assert.match(
      findings.map(({ name, text }) => `${name} ${text}`).join("\n"),
      /^SIGKILL server-1 .* 2 s after SIGTERM/,
    );
    assert.doesNotMatch(stderr, /\[server-1\].*drain-complete/);
  });

  it("does not call a server hung that has left, when its clients come back after the grace period", async (t) => {
    const { code, findings, cost } = await rehearse(
      t,
      "--grace=1",
      "--backoff-base=4000",
      "--sessions=3",
      "--remaining=1",
    );
    assert.deepEqual({ code, findings }, { code: 0, findings: [] });
    assert.ok(cost["exitMs"]! < 1000, `the server exited after ${cost["exitMs"]} ms`);
  });

  it("keeps its verdict where nobody takes its log or its result", async (t) => {
    const rehearsal = start(t, [process.execPath, "rehearse.mjs", ...QUICK]);
    rehearsal.child.stdout!.destroy();
    await rehearsal.line(/ steady /);
    rehearsal.child.stderr!.destroy();
    assert.equal((await rehearsal.exited).code, 0);
  });

  it("says that a server hung although every session had moved", async (t) => {
    const flags = ["--fault=stall", "--grace=4", "--silence-timeout=700", "--expect=moved"];
    const { code, verdict, findings } = await rehearse(t, ...flags);
    assert.deepEqual({ code, verdict, names: findings.map(({ name }) => name) }, {
      code: 0,
      verdict: "PASS",
      names: ["EXIT_HUNG"],
    });
  });

  it("as text ends with the verdict, after the report and the cost", async (t) => {
    const { code, stdout, stderr } = await run(t, [
      process.execPath,
      "rehearse.mjs",
      ...QUICK,
      "--fault=duplicate-data",
    ]);
    assert.equal(code, 1);
    const lines = stdout.trimEnd().split("\n");
    assert.equal(lines.at(-1), "FAIL  1 of 1 handover: DATA_DUPLICATED ×1 (server-1)");
    assert.ok(lines.some((line) => /^ {2}complete +FAIL .*twice seq \d+$/.test(line)), stdout);
    assert.ok(lines.some((line) => line.startsWith("  Fix: ")), stdout);
    assert.ok(
      lines.some((line) => /^ {2}exit +\d+ ms from SIGTERM = \d+ ms scripted \+ \d+ ms overhead$/.test(line)),
      stdout,
    );
    assert.match(stderr, /^\[server-1\] .* shutdown-signal/m);
    assert.match(stderr, /^\[client\] .* handover .*DATA_DUPLICATED/m);
  });

  it("takes its settings from the environment, as make hands them on", async (t) => {
    const env = { FAULT: "skip-farewell", SESSIONS: "2", INTERVAL_MS: "200" };
    const { code, stdout } = await run(t, [process.execPath, "rehearse.mjs", "--json"], env);
    const { handovers } = JSON.parse(stdout) as Rehearsal;
    assert.equal(code, 1);
    assert.deepEqual(handovers.map(({ symptom }) => symptom), ["NO_FAREWELL", "NO_FAREWELL"]);
  });

  for (
    const [flag, complaint] of [
      ["--grace=soon", /^--grace must be an integer/],
      ["--fault=typo", /--fault must be one of none, ignore-sigterm/],
      ["--port=1", /^--port is chosen by the rehearsal/],
      ["--nonsense", /^Unknown flag --nonsense/],
      ["--remaining=5-1", /--remaining must be a number, or a range/],
    ] as const
  ) {
    it(`refuses ${flag} with one clear line and exit 2`, async (t) => {
      const { code, stdout, stderr } = await run(t, [process.execPath, "rehearse.mjs", flag]);
      assert.equal(code, 2);
      assert.equal(stdout, "");
      const complaints = stderr.split("\n").filter((line) => complaint.test(line.replace(/^\[\S+\] /, "")));
      assert.equal(complaints.length, 1, stderr);
      assert.doesNotMatch(stderr, / {4}at /);
    });
  }

  it("leaves no process behind when it is stopped", async (t) => {
    const rehearsal = start(t, [process.execPath, "rehearse.mjs", "--interval=60000"]);
    const port = Number(/:(\d+)\/ws/.exec(await rehearsal.line(/\[server-2\] .*listening/))![1]);
    rehearsal.child.kill("SIGTERM");
    const { code } = await rehearsal.exited;
    assert.equal(code, 130);
    await assert.rejects(fetch(`http://127.0.0.1:${port}/`));
  });
});
