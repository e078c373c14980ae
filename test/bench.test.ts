import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import process from "node:process";
import { describe, it } from "node:test";
import { run } from "./helper.ts";

describe("the bench and the soak", { concurrency: 2, timeout: 300_000 }, () => {
  it("prints what a rehearsal costs beside raw TCP, and beside the WebSocket library alone", async (t) => {
    const { code, stdout, stderr } = await run(t, [process.execPath, "bench/bench.mjs"], {
      BENCH_SESSIONS: "100",
      BENCH_RUNS: "1",
    });
    assert.equal(code, 0, stderr);
    const row = stdout.split("\n").find((line) => line.includes("this one"))!;
    const [sessions, runs, passed, lost, exitMs, , , ...more] = row.trim()
      .replace("this one", "").trim().split(/ +/).map(Number) as number[];
    assert.deepEqual({ sessions, runs, passed, lost }, { sessions: 100, runs: 1, passed: 1, lost: 0 });
    const [tcpExitMs, tcpRatio, wsExitMs, wsRatio, p99Ms, tcpP99Ms, tcpP99Ratio, wsP99Ms, wsP99Ratio] = more;
    for (const [floorMs, ratio] of [[tcpExitMs!, tcpRatio!], [wsExitMs!, wsRatio!]] as const) {
      assert.ok(exitMs! >= 1000 && floorMs >= 1000, row); // ten messages, 100 ms apart
      assert.ok(Math.abs(ratio - exitMs! / floorMs) < 0.01, row);
    }
    for (const [floorMs, ratio] of [[tcpP99Ms!, tcpP99Ratio!], [wsP99Ms!, wsP99Ratio!]] as const) {
      assert.ok(p99Ms! > 0 && floorMs > 0 && Math.abs(ratio - p99Ms! / floorMs) < 0.05, row);
    }
  });

  it("finds that the verdicts of rehearsals are right", async (t) => {
    const { code, stdout } = await run(t, [process.execPath, "bench/soak.mjs", "--runs=3", "--jobs=3", "--seed=7"]);
    assert.equal(code, 0, stdout);
    assert.match(stdout, /^3 rehearsals in \d+ s, 0 wrong verdicts, seed 7$/m);
  });

  it("finds every wrong verdict, and shows its command and its log", async (t) => {
    const place = mkdtempSync(join(tmpdir(), "soak-"));
    t.after(() => rmSync(place, { recursive: true }));
    const passes =
      `console.error("a log"); console.log('{"verdict":"PASS","handovers":[{"symptom":null,"verdict":"graceful"}]}')`;
    writeFileSync(join(place, "rehearse.mjs"), passes);
    const soak = ["sh", "-c", 'cd "$0" && exec "$@"', place, process.execPath, resolve("bench/soak.mjs")];
    const { code, stdout } = await run(t, [...soak, "--runs=20", "--seed=7", "--hogs=1"]);
    assert.equal(code, 1);
    const told = stdout.match(
      /^Wrong, run \d+: PASS with exit 0 and 1 of \d+ sessions, not FAIL [A-Z_]+\nnode rehearse.mjs --json --fault=.*\na log$/gm,
    )!;
    assert.ok(told.length > 0, stdout);
    assert.ok(stdout.includes(`, ${told.length} wrong verdicts, seed 7`), stdout);
  });

  it("refuses a flag that the soak does not have", async (t) => {
    const { code, stderr } = await run(t, [process.execPath, "bench/soak.mjs", "--jobs=none"]);
    assert.deepEqual({ code, stderr }, { code: 2, stderr: "--jobs must be an integer from 1 on: 'none'" });
  });
});
