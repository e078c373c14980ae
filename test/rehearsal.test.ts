import assert from "node:assert/strict";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import process from "node:process";
import { describe, it, type TestContext } from "node:test";
import type { Handover } from "../protocol.ts";
import { copyOf, EXPECTED, run, start } from "./helper.ts";

interface Rehearsal {
  verdict: "PASS" | "FAIL";
  handovers: Handover[];
  cost: Record<string, number | null>;
  findings: { name: string; text: string }[];
}

/** Intervals short enough to be steady in no time, and a grace that only a hanging server reaches. */
const QUICK = ["--interval=200", "--remaining-interval=20", "--grace=3", "--silence-timeout=1500"];

const rehearse = (t: TestContext, ...flags: string[]) => rehearseOwn(t, ...QUICK, ...flags);

/** A rehearsal, perhaps of somebody's own server, which does not know the settings of ours. */
async function rehearseOwn(t: TestContext, ...flags: string[]) {
  const { code, stdout, stderr } = await run(t, [process.execPath, "rehearse.mjs", "--json", ...flags]);
  assert.match(stdout, /^\{.*\}\n$/, stderr);
  return { code, stderr, ...JSON.parse(stdout) as Rehearsal };
}

function folder(t: TestContext): string {
  const path = mkdtempSync(join(tmpdir(), "rehearsal-test-"));
  t.after(() => rmSync(path, { recursive: true }));
  return path;
}

/** Waits for a state that announces itself by nothing else; the test's time limit bounds it. */
async function until(holds: () => boolean | Promise<boolean>): Promise<void> {
  while (!await holds()) await new Promise((resolve) => setTimeout(resolve, 10));
}

const isGone = (port: number) => fetch(`http://127.0.0.1:${port}/`).then(() => false, () => true);

/** The programs as another build, see there. */
const wrapped = (how: string) => `--command=node test/fixtures/wrapper.mjs ${how} {role}`;

// Most of their time they wait, for intervals and drains.
describe("a rehearsal", { concurrency: 6, timeout: 120_000 }, () => {
  for (const [fault, [symptom, cause = null]] of Object.entries(EXPECTED).filter(([fault]) => fault !== "none")) {
    it(`with fault ${fault} fails with ${symptom}, ${cause ?? "no further cause"}, and nothing else`, async (t) => {
      const { code, verdict, handovers } = await rehearse(t, "--sessions=3", `--fault=${fault}`);
      assert.equal(verdict, "FAIL");
      assert.equal(code, 1);
      assert.deepEqual(handovers.map((handover) => handover.cause), [cause, cause, cause]);
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

  for (const [fault, cause] of [["ignore-sigterm", "SIGTERM_IGNORED"], ["exit-at-sigterm", "EXITED_AT_SIGTERM"]]) {
    it(`names the cause of fault ${fault} in the plain dialect, and in every report`, async (t) => {
      const place = folder(t);
      const files = ["md", "xml", "html", "json"].map((ending) => join(place, `result.${ending}`));
      const flags = [...files.map((file) => `--report=${file}`), "--dialect=plain", "--sessions=2"];
      const { handovers } = await rehearse(t, ...flags, `--fault=${fault}`);
      assert.deepEqual(handovers.map((handover) => handover.cause), [cause, cause]);
      for (const file of files) assert.ok(readFileSync(file, "utf8").includes(cause!), file);
    });
  }

  /** Somebody's own server: says something four times a second, and with `drains` closes in order on SIGTERM. */
  function writeApp(t: TestContext, drains: boolean): string {
    const file = join(folder(t), "app.cjs");
    const onTerm = "for (const ws of wss.clients) ws.close(1001); wss.close(() => process.exit(0));";
    writeFileSync(
      file,
      `const { WebSocketServer } = require(${JSON.stringify(resolve("node_modules/ws"))});
      const wss = new WebSocketServer({ port: process.argv[2] ?? process.env.PORT, path: "/socket" });
      wss.on("connection", (ws) => {
        const tick = setInterval(() => ws.send("tick"), 250);
        ws.on("close", () => clearInterval(tick));
      });
      console.log("the app is up");
      ${drains ? `process.on("SIGTERM", () => { ${onTerm} });` : ""}`,
    );
    return file;
  }

  it("judges somebody's own server that drains, which gets its port as PORT", async (t) => {
    const command = `--server=${process.execPath} ${writeApp(t, true)}`;
    const { code, verdict, handovers, stderr } = await rehearseOwn(t, command, "--path=/socket", "--sessions=3");
    assert.deepEqual([code, verdict], [0, "PASS"], stderr);
    assert.deepEqual(handovers.map(({ dialect, from, to, code }) => [dialect, from, to, code]), [
      ["plain", "server-1", "server-2", 1001],
      ["plain", "server-1", "server-2", 1001],
      ["plain", "server-1", "server-2", 1001],
    ]);
    assert.match(stderr, /^\[server-1\] the app is up$/m);
  });

  it("names the cause of one that does not, which gets its port in its command", async (t) => {
    const command = `--server=true && exec ${process.execPath} ${writeApp(t, false)} {port}`;
    const { code, handovers } = await rehearseOwn(t, command, "--path=/socket", "--sessions=2");
    const told = handovers.map(({ symptom, cause }) => [symptom, cause]);
    assert.deepEqual([code, told], [1, Array(2).fill(["CUT_WITHOUT_NOTICE", "EXITED_AT_SIGTERM"])]);
  });

  it("prints with --json what report.mjs reads, and shows its own settings, but no secret of them", async (t) => {
    const place = folder(t);
    const [json, page, ofJson] = ["a.json", "a.html", "b.html"].map((name) => join(place, name)) as [
      string,
      string,
      string,
    ];
    const command = `--server=PASSWORD=s3cret ${process.execPath} ${writeApp(t, true)}`;
    const flags = [command, "--path=/socket?token=s3cret", "--service", "--propagation=0s", `--report=${page}`];
    const rehearsal = await rehearseOwn(t, ...flags);
    const { code, stderr: _stderr, ...result } = rehearsal;
    writeFileSync(json, JSON.stringify(result));
    const report = (...args: string[]) => run(t, [process.execPath, "report.mjs", ...args]);
    const text = await report(json);
    assert.deepEqual([text.code, text.stderr], [0, ""]);
    assert.match(text.stdout, new RegExp(`\\n${code === 0 ? "PASS" : "FAIL"}  1 handover`));
    assert.equal((await report(json, "-o", ofJson)).code, 0);
    const compared = await report(json, json);
    assert.match(compared.stdout, /\nSAME {2}\d+ rows/);
    for (const file of [page, ofJson]) {
      const html = readFileSync(file, "utf8");
      for (const shown of ['"server":"PASSWORD=… ', '/socket?token=…"', '"service":true', '"disrupt":"delete"']) {
        assert.ok(html.includes(shown), `${file}: ${shown}`);
      }
      assert.ok(!html.includes("s3cret"));
    }
  });

  it("lets a shell before it keep SIGTERM to itself, as one that is PID 1 does", async (t) => {
    const command = `--server=cd / && ${process.execPath} ${writeApp(t, true)}`;
    const { code, handovers } = await rehearseOwn(t, command, "--path=/socket", "--grace=2s");
    assert.deepEqual([code, handovers[0]!.symptom, handovers[0]!.cause], [1, "CUT_WITHOUT_NOTICE", "SIGTERM_IGNORED"]);
  });

  it("takes a command with settings before it", async (t) => {
    const command = `--server=NODE_ENV=production ${process.execPath} ${writeApp(t, true)}`;
    const { verdict } = await rehearseOwn(t, command, "--path=/socket");
    assert.equal(verdict, "PASS");
  });

  it("does not wait for ever for sessions that such a server refuses", async (t) => {
    const command = `--server=${process.execPath} ${writeApp(t, true)}`;
    const flags = [command, "--path=/elsewhere", "--start-timeout=2s"];
    const { code, stdout, stderr } = await run(t, [process.execPath, "rehearse.mjs", ...flags]);
    assert.deepEqual([code, stdout], [2, ""]);
    assert.match(
      stderr,
      /^\[client\] Never connected to .*\/elsewhere.*: 400 ×\d+; HTTP 400: --subprotocol or --dialect, or another --path$/m,
    );
  });

  /** Answers so many upgrades with a status before it takes one. */
  function writeRefuser(t: TestContext, statuses: number[]): string {
    const file = join(folder(t), "refuser.cjs");
    writeFileSync(
      file,
      `const { WebSocketServer } = require(${JSON.stringify(resolve("node_modules/ws"))});
      const statuses = ${JSON.stringify(statuses)};
      const wss = new WebSocketServer({ noServer: true });
      wss.on("connection", (ws) => ws.send("hello"));
      const server = require("node:http").createServer().listen(process.env.PORT);
      server.on("upgrade", (request, socket, head) => {
        const status = statuses.length > 1 ? statuses.shift() : statuses[0];
        if (status !== 101) return socket.end("HTTP/1.1 " + status + " No\\r\\nConnection: close\\r\\n\\r\\n");
        wss.handleUpgrade(request, socket, head, (ws) => wss.emit("connection", ws));
      });
      process.on("SIGTERM", () => {
        for (const ws of wss.clients) ws.close(1001);
        server.close();
      });`,
    );
    return `--server=${process.execPath} ${file}`;
  }

  it("calls a wrong path one long before --start-timeout, once nothing but 404 is answered", async (t) => {
    const begun = performance.now();
    const flags = [writeRefuser(t, [503, 404]), "--start-timeout=100s"];
    const { code, stdout, stderr } = await run(t, [process.execPath, "rehearse.mjs", ...flags]);
    assert.deepEqual([code, stdout], [2, ""]);
    assert.match(stderr, /^\[client\] Never connected to .*: 404 ×\d+, 503 ×2; HTTP 404: another --path$/m);
    assert.ok(performance.now() - begun < 50_000);
  });

  it("waits for a server that answers 404 and 503 while it starts", async (t) => {
    const flags = [writeRefuser(t, [404, 404, 503, 404, 101]), "--servers=1"];
    await start(t, [process.execPath, "rehearse.mjs", ...flags]).line(/^\[client\] .* steady /);
  });

  for (
    const [flags, complaint] of [
      [["--server=echo no such database; exit 3"], /server-1 ended with 3 and never listened on port \d+: echo/],
      [["--server=/no/such/program"], /server-1 ended with 127 and never listened/],
      [["--server=sleep 60", "--start-timeout=1s"], /server-1 did not listen on port \d+ in time \(PORT, or \{port\}/],
      [["--server=true", "--fault=crash"], /^--fault is for this project's own server, not for --server$/m],
      [["--server="], /^--server needs a value: see --help$/m],
      [["--path=/socket"], /^--path needs --server$/m],
      [["--server=true", "--path=socket"], /^--path must begin with \/: current value is 'socket'$/m],
      [["--start-timeout=soon"], /^--start-timeout must be a duration such as 60s: current value is 'soon'$/m],
    ] as const
  ) {
    it(`says in one line why ${flags.join(" ")} cannot be judged, and exits 2`, async (t) => {
      const { code, stderr, stdout } = await run(t, [process.execPath, "rehearse.mjs", ...flags]);
      assert.deepEqual([code, stdout], [2, ""]);
      assert.match(stderr, complaint);
      assert.doesNotMatch(stderr, /^ {4}at /m);
      if (flags[0].includes("echo")) assert.match(stderr, /^\[server-1\] no such database$/m);
    });
  }

  it("lets a build without --evidence judge as it always did", async (t) => {
    const { handovers, verdict } = await rehearse(t, "--fault=exit-mid-drain", wrapped("no-evidence"));
    assert.deepEqual([verdict, handovers.map((handover) => handover.cause)], ["FAIL", [null]]);
  });

  it("sees fault skip-notice in the plain dialect, too", async (t) => {
    const { handovers } = await rehearse(t, "--fault=skip-notice", "--dialect=plain", "--expect=notice,clean,moved");
    assert.deepEqual(handovers.map(({ symptom }) => symptom), ["NO_NOTICE"]);
  });

  for (const reconnect of ["after-close", "early"]) {
    for (const dialect of ["v1", "plain"]) {
      it(`without a fault passes, reconnecting ${reconnect} in the ${dialect} dialect`, async (t) => {
        const expect = dialect === "plain" ? ["--expect=notice,farewell,clean,moved"] : [];
        // Longer than an early redial takes.
        const remaining = reconnect === "early" ? ["--remaining=10"] : [];
        const flags = ["--sessions=5", `--reconnect=${reconnect}`, `--dialect=${dialect}`, ...expect, ...remaining];
        const { code, verdict, handovers } = await rehearse(t, ...flags);
        assert.equal(verdict, "PASS");
        assert.equal(code, 0);
        assert.equal(handovers.length, 5);
        for (const { from, to, code, how, lost, upstreamLost, noticeMs, reconnectMs } of handovers) {
          assert.deepEqual({ to, code, how, lost, upstreamLost }, {
            to: dialect === "plain" ? to : "server-2",
            code: 1001,
            how: "fin",
            lost: [],
            upstreamLost: 0,
          });
          assert.notEqual(from, to);
          // 20 ms, less what the client was late to read of it.
          assert.ok(noticeMs! >= 10, `SHUTDOWN came ${noticeMs} ms before the end`);
          if (reconnect === "early") assert.equal(reconnectMs, 0, "there was a gap");
        }
      });
    }
  }

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
      // Every number is there, and null where it would mean nothing.
      const { serverBytesPerSession, clientBytesPerSession, sessions, messages } = cost;
      assert.deepEqual({ serverBytesPerSession, clientBytesPerSession, sessions }, {
        serverBytesPerSession: null,
        clientBytesPerSession: null,
        sessions: 2,
      });
      assert.ok(messages! > 8, `${messages} messages`);
      assert.deepEqual(Object.keys(cost).sort(), [
        "clientBytesPerSession",
        "exitMs",
        "lateMaxMs",
        "lateTotalMs",
        "messages",
        "overheadMs",
        "reconnectP50Ms",
        "reconnectP99Ms",
        "scriptedMs",
        "serverBytesPerSession",
        "sessions",
      ]);
    });
  }

  for (const [grace, seconds] of [["2", 2], ["1500ms", 1.5]] as const) {
    it(`kills a server that does not exit by --grace=${grace}, and says so`, async (t) => {
      const { cost, findings, stderr } = await rehearse(t, "--fault=ignore-sigterm", `--grace=${grace}`);
      const exitMs = cost["exitMs"]!;
      assert.ok(exitMs >= seconds * 1000 && exitMs < seconds * 1000 + 1000, `the server was gone after ${exitMs} ms`);
      assert.equal(cost["scriptedMs"], null);
      const told = findings.map(({ name, text }) => `${name} ${text}`).join("\n");
      assert.match(told, new RegExp(`^SIGKILL server-1 .* ${seconds} s after SIGTERM`));
      assert.doesNotMatch(stderr, /\[server-1\].*drain-complete/);
    });
  }

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

  for (const [dialect, what] of [["plain", ", not numbered"], ["v1", " verified"]] as const) {
    it(`says of the ${dialect} dialect's messages that they are${what}`, async (t) => {
      const flags = [...QUICK, `--dialect=${dialect}`, "--remaining=0"];
      const { stdout } = await run(t, [process.execPath, "rehearse.mjs", ...flags]);
      assert.match(stdout, new RegExp(`^Cost +1 session, \\d+ messages${what}$`, "m"));
      assert.equal(/, not numbered$/m.test(stdout.slice(0, stdout.indexOf("Cost"))), dialect === "plain");
    });
  }

  it("takes its settings from the environment, as make hands them on", async (t) => {
    const env = { FAULT: "skip-farewell", SESSIONS: "2", INTERVAL_MS: "200" };
    const { code, stdout } = await run(t, [process.execPath, "rehearse.mjs", "--json"], env);
    const { handovers } = JSON.parse(stdout) as Rehearsal;
    assert.equal(code, 1);
    assert.deepEqual(handovers.map(({ symptom }) => symptom), ["NO_FAREWELL", "NO_FAREWELL"]);
  });

  for (
    const [flag, complaint] of [
      ["--grace=soon", /^--grace must be a duration such as 30s, 2m or 500ms: current value is 'soon'$/],
      ["--grace=0s", /^--grace must be a duration/],
      ["--port=1", /^--port is chosen by the rehearsal/],
      ["--nonsense", /^Unknown flag --nonsense/],
      ["--report=result.pdf", /^--report must end in/],
      ["--report no/such/folder/x.html", /^--report must be in a folder that can be written to/],
      ["--report -.pdf", /^--report must end in .*: current value is '-.pdf'$/],
      ["--json --report -.md", /^--json has stdout for itself/],
      ["--no-report", /^--report needs a value/],
      ["--server=x --path=s?access_token=secret", /^--path must begin with \/: current value is 's\?access_token=…'$/],
      // The server's.
      ["--fault=typo", /^--fault must be one of none, ignore-sigterm/],
      ["--remaining=5-1", /^--remaining must be a number, or a range/],
      ["--remaining-interval=25s", /^--drain-timeout must be above/],
      // The client's.
      ["--connect-timeout=nonsense", /^--connect-timeout must be ms from .*: current value is 'nonsense'$/],
      ["--dialect=/no/such.json", /^--dialect cannot be used: .*no such file/],
      ["--ready=(", /^--dialect auto: 'ready' must be a regular expression/],
      ["--sessions=1 --via=a=ws://a", /^--sessions must be at least 2/],
      ["--sessions=1000", /^--sessions must be at most 150 with the open files that this process may have/],
    ] as const
  ) {
    it(`refuses ${flag} with one clear line and exit 2`, async (t) => {
      const limited = ["sh", "-c", 'ulimit -n 300; exec "$0" rehearse.mjs "$@"', process.execPath];
      const { code, stdout, stderr } = await run(t, [...limited, ...flag.split(" ")]);
      assert.deepEqual({ code, stdout }, { code: 2, stdout: "" });
      assert.match(stderr, complaint);
      assert.doesNotMatch(stderr, /\n/);
    });
  }

  it("names somebody's own server that does not start, without the secrets of its command", async (t) => {
    const server = "(PASSWORD=secret node app.js --token secret ws://a?t=secret; exit 1)";
    const { code, stderr } = await run(t, [process.execPath, "rehearse.mjs", `--server=${server}`]);
    assert.equal(code, 2);
    assert.match(
      stderr,
      /server-1 ended with 1 and never listened on port \d+: \(PASSWORD=… node app.js --token … ws:/,
    );
    assert.doesNotMatch(stderr.split("\n").at(-1)!, /secret/);
  });

  it("refuses a client's setting before it starts somebody's own server, which may take its time", async (t) => {
    const started = join(folder(t), "started");
    const own = `--server=touch ${started}; sleep 60`;
    const { code, stderr } = await run(t, [process.execPath, "rehearse.mjs", own, "--connect-timeout=nonsense"]);
    assert.equal(code, 2);
    assert.match(stderr, /^--connect-timeout must be .*: current value is 'nonsense'$/);
    assert.ok(!existsSync(started));
  });

  it("judges the sessions that the victim held, and waits for no others", async (t) => {
    // The fifth finds it full, and starts elsewhere.
    const { code, verdict, handovers, findings } = await rehearse(t, "--sessions=5", "--max-sessions=4", "--servers=3");
    assert.deepEqual({ code, verdict, findings }, { code: 0, verdict: "PASS", findings: [] });
    assert.deepEqual(handovers.map(({ from }) => from), Array(4).fill("server-1"));
  });

  it("in which no session was on the victim has judged nothing", async (t) => {
    const flags = [...QUICK, "--sessions=2", wrapped("elsewhere")];
    const { code, stdout } = await run(t, [process.execPath, "rehearse.mjs", ...flags]);
    assert.equal(code, 1);
    assert.equal(stdout.trimEnd().split("\n").at(-1), "FAIL  no session was on server-1: nothing to judge");
  });

  it("in which not every session of the victim was judged fails, and says why", async (t) => {
    const flags = [...QUICK, "--sessions=2", "--remaining=1", "--backoff-base=60000", "--backoff-cap=60000"];
    const rehearsal = start(t, [process.execPath, "rehearse.mjs", ...flags, "--max-reconnect=60000", wrapped("pid")]);
    const pid = Number(/pid (\d+)/.exec(await rehearsal.line(/^\[client\] pid/))![1]);
    await rehearsal.line(/^\[client\] .* session-closed .*slot 1 /);
    process.kill(pid, "SIGTERM");
    assert.equal((await rehearsal.exited).code, 1);
    const lines = rehearsal.stdout().trimEnd().split("\n");
    assert.equal(lines.at(-1), "FAIL  0 of 2 sessions that server-1 held could be judged");
    assert.ok(lines.some((line) => line.startsWith("NOT_JUDGED  0 of 2 sessions")), rehearsal.stdout());
  });

  it("signals the process, and ends all that it started with it", async (t) => {
    const { code, handovers } = await rehearse(t, "--sessions=2", wrapped("parent"));
    assert.equal(code, 1);
    assert.deepEqual(handovers.map(({ symptom }) => symptom), ["CUT_WITHOUT_NOTICE", "CUT_WITHOUT_NOTICE"]);
  });

  for (const signal of ["SIGTERM", "SIGINT", "SIGHUP", "SIGKILL"] as const) {
    it(`leaves nothing behind when ${signal} ends it`, async (t) => {
      const tmp = folder(t);
      const command = [process.execPath, "rehearse.mjs", "--interval=60000", wrapped("parent")];
      const rehearsal = start(t, command, { TMPDIR: tmp });
      const ports = await Promise.all(
        [
          /\[server-1\] .*listening .*admin port (\d+)/,
          /\[server-2\] .*listening .*admin port (\d+)/,
          /started .*admin port (\d+)/,
        ]
          .map(async (pattern) => Number(pattern.exec(await rehearsal.line(pattern))![1])),
      );
      const [name, ...others] = readdirSync(tmp);
      assert.match(name!, /^rehearsal-\w{6}$/);
      assert.deepEqual(others, []);
      assert.equal(statSync(join(tmp, name!)).mode & 0o777, 0o700);
      rehearsal.child.kill(signal);
      assert.equal((await rehearsal.exited).code, signal === "SIGKILL" ? null : 130);
      for (const port of ports) await until(() => isGone(port));
      await until(() => readdirSync(tmp).length === 0);
    });
  }

  // What a program says that is none of this project's, and what is missing in it.
  for (
    const [what, source, complaint] of [
      ["says nothing of the settings", 'console.log("  --port PORT 80")', /it does not list --(url|host), /],
      ["ends with an error", 'throw new TypeError("no such thing")', /TypeError: no such thing;/],
      [
        "writes on for ever",
        'import { writeSync } from "node:fs"; for (;;) writeSync(1, "--port".repeat(1e5))',
        /it wrote more than 16 MB;/,
      ],
      [
        "serves on for ever",
        'import("node:http").then((http) => http.createServer().listen(0))',
        /it was still running after 10 s;/,
      ],
    ] as const
  ) {
    it(`refuses a --command that ${what} when asked for --help`, async (t) => {
      const file = join(folder(t), "app.mjs");
      writeFileSync(file, source);
      const { code, stdout, stderr } = await run(t, [process.execPath, "rehearse.mjs", `--command=node ${file}`]);
      assert.deepEqual({ code, stdout }, { code: 2, stdout: "" });
      assert.match(stderr, complaint);
      assert.ok(stderr.startsWith(`Cannot run node ${file} --help: `), stderr);
      const whatFor = "; --command is for another build of this project's own server and client ({role})";
      assert.ok(stderr.endsWith(whatFor) && !stderr.includes("\n"), stderr);
    });
  }

  it("says in one line that nothing has been built", async (t) => {
    const place = copyOf(t, "rehearse.mjs", "report.mjs", "dist/protocol.js", "dist/package.json");
    const { code, stdout, stderr } = await run(t, [process.execPath, join(place, "rehearse.mjs")]);
    const line = "There is no dist/client.txt: 'make build' builds the programs";
    assert.deepEqual({ code, stdout, stderr }, { code: 2, stdout: "", stderr: line });
  });

  it("can be stopped while it waits for the --help of a --command", async (t) => {
    const tmp = folder(t);
    const [file, portFile] = [join(tmp, "app.mjs"), join(tmp, "port")];
    writeFileSync(
      file,
      `import { createServer } from "node:http"; import { writeFileSync } from "node:fs";
      const server = createServer().listen(0, () => writeFileSync(${
        JSON.stringify(portFile)
      }, String(server.address().port)));`,
    );
    const rehearsal = start(t, [process.execPath, "rehearse.mjs", `--command=node ${file}`]);
    await until(() => existsSync(portFile) && readFileSync(portFile, "utf8") !== "");
    rehearsal.child.kill("SIGTERM");
    assert.equal((await rehearsal.exited).code, 130);
    await until(() => isGone(Number(readFileSync(portFile, "utf8"))));
  });

  for (
    const [how, complaint] of [
      ["no-port", "server-1 did not say its port: now listening nowhere"],
      ["no-result", "The client's result is not one of this project's client: see --command"],
    ] as const
  ) {
    it(`says in one line what is wrong with a --command that has ${how.replace("-", " ")}`, async (t) => {
      const { code, stdout, stderr } = await run(t, [process.execPath, "rehearse.mjs", wrapped(how)]);
      assert.deepEqual({ code, stdout }, { code: 2, stdout: "" });
      const lines = stderr.split("\n");
      assert.deepEqual(lines.filter((line) => !/^\[\S+\] /.test(line)), [complaint]);
      assert.ok(lines.length > 1, "what it said is shown");
    });
  }

  it("from make tells its own exit code, which make does not have", async (t) => {
    const command = ["make", "-o", "build", "rehearse", "FAULT=skip-farewell", "INTERVAL_MS=200"];
    const { code, stdout, stderr } = await run(t, command);
    assert.equal(code, 2);
    assert.match(stdout, /^FAIL {2}1 of 1 handover: NO_FAREWELL/m);
    assert.match(stderr, /^The rehearsal's exit code: 1$/m);
  });
});

describe("a build", () => {
  it("is not noticed by what runs meanwhile, another build included", async (t) => {
    const isSource = (name: string) => /\.(ts|mjs|html)$/.test(name) || name === "package.json";
    const copy = copyOf(t, ...readdirSync(".").filter(isSource));
    const build = (...flags: string[]) => {
      const program = start(t, ["sh", "-c", 'cd "$0" && exec "$@"', copy, process.execPath, "build.mjs", ...flags]);
      return program.exited.then(({ code }) => assert.equal(code, 0, program.lines.join("\n")));
    };
    const server = join(copy, "dist/server.js");
    await build();
    const [text, { ino }] = [readFileSync(server, "utf8"), statSync(server)];
    await build();
    assert.equal(statSync(server).ino, ino, "what has not changed stays as it is");

    // A new server.js, a file that is nobody's any more, and a test of another build.
    const source = readFileSync(join(copy, "server.ts"), "utf8");
    writeFileSync(join(copy, "server.ts"), `${source}\nif (process.env["NEVER"]) console.log("new");\n`);
    writeFileSync(join(copy, "dist/stale.js"), "");
    mkdirSync(join(copy, "dist/test"));
    writeFileSync(join(copy, "dist/test/kept.test.mjs"), "");
    let building = true;
    const builds = Promise.all([build(), build()]).finally(() => building = false);
    const seen = new Set<string>();
    await until(() => {
      seen.add(readFileSync(server, "utf8"));
      return !building;
    });
    await builds;
    assert.equal(seen.size, 2, "the old one or the new one, whole");
    assert.ok(seen.has(text));
    assert.deepEqual(readdirSync(join(copy, "dist")).sort(), [
      "LICENSES.txt",
      "client.js",
      "client.txt",
      "command.mjs",
      "package.json",
      "protocol.js",
      "server.js",
      "server.txt",
      "test",
    ]);
    assert.deepEqual(readdirSync(join(copy, "dist/test")), ["kept.test.mjs"]);
  });
});
