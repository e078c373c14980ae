/** action.yml: what it promises, and its scripts, run as a runner does it with a drill that only pretends. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { parse } from "yaml";
import type { Result } from "../client.ts";
import { start } from "./helper.ts";

interface Step {
  id?: string;
  name: string;
  if?: string;
  uses?: string;
  shell?: string;
  run?: string;
  env?: Record<string, string>;
  with?: Record<string, string>;
}
interface Action {
  inputs: Record<string, { description: string; required?: boolean; default?: string }>;
  outputs: Record<string, { description: string; value: string }>;
  runs: { using: string; steps: Step[] };
}
const text = readFileSync("action.yml", "utf8");
const { inputs, outputs, runs: { using, steps } }: Action = parse(text);

/** What the scripts need of a result. */
type Told = Pick<Result, "verdict" | "symptoms">;
const cut = (count: number, cause: string) => ({ count, causes: { [cause]: { count, evidence: "" } } });
const PASS = { verdict: "PASS", symptoms: {} } as Told;
const FAIL = {
  verdict: "FAIL",
  symptoms: { STALLED: cut(1, "CRASHED"), CUT_DURING_DRAIN: cut(9, "SIGKILL_AT_GRACE") },
} as unknown as Told;

describe("the action", () => {
  it("is a composite whose scripts name their shell and get every value through their environment", () => {
    assert.equal(using, "composite");
    for (const { name, run, shell, uses } of steps) {
      assert.equal(shell, run === undefined ? undefined : "bash", name);
      assert.doesNotMatch(run ?? "", /\$\{\{/, `${name}: an expression in a script is an injection`);
      if (run === undefined) assert.match(uses!, /^[\w-]+\/[\w-]+@[0-9a-f]{40}$/);
    }
  });

  it("declares the inputs that it uses, uses those that it declares, and says of each what it is", () => {
    const used = [...text.matchAll(/\binputs\.([\w-]+)/g)].map(([, name]) => name!);
    assert.deepEqual([...new Set(used)].sort(), Object.keys(inputs).sort());
    const drill = steps.find(({ id }) => id === "drill")!;
    for (const [name, value] of Object.entries(drill.env!)) {
      assert.equal(value, `\${{ inputs.${name.replace("INPUT_", "").toLowerCase()} }}`);
      assert.ok(drill.run!.includes(`"$${name}"`), `${name} goes to the drill`);
    }
    for (const { description } of [...Object.values(inputs), ...Object.values(outputs)]) {
      assert.match(description, /\w/);
    }
  });

  it("tells its outputs, and keeps its report, whatever becomes of the drill", () => {
    for (const [name, { value }] of Object.entries(outputs)) {
      assert.equal(value, `\${{ steps.result.outputs.${name} }}`);
    }
    const last = steps.slice(steps.findIndex(({ id }) => id === "drill") + 1);
    assert.equal(last.length, 2);
    for (const step of last) assert.match(step.if!, /^always\(\) && /);
  });

  for (
    const [result, code, expected] of [
      [PASS, 0, { verdict: "PASS", symptom: "", cause: "" }],
      [FAIL, 1, { verdict: "FAIL", symptom: "CUT_DURING_DRAIN", cause: "SIGKILL_AT_GRACE" }],
    ] as const
  ) {
    it(`ends with the drill's exit code ${code} at ${result.verdict}, with outputs and a summary`, async (t) => {
      const { drill, told } = await act(t, { TARGET: "deployment/shop-api" }, code, result);
      assert.equal(drill.code, code);
      assert.deepEqual(told, { code: 0, summary: `# ${result.verdict}\n`, outputs: expected });
    });
  }

  it("ends with exit code 2 where the drill could not run, and says so in the summary", async (t) => {
    const { drill, told } = await act(t, { TARGET: "deployment/shop-api" }, 2);
    assert.equal(drill.code, 2);
    const summary = "The drill could not run: the job's log says why.\n";
    assert.deepEqual(told, { code: 0, summary, outputs: {} });
  });

  it("writes no output that a result could make up", async (t) => {
    const symptoms = { "A\nverdict=PASS": { count: 1, causes: {} } } as unknown as Told["symptoms"];
    const { told } = await act(t, {}, 1, { verdict: "FAIL", symptoms });
    assert.deepEqual(told.outputs, { verdict: "FAIL", symptom: "APASS", cause: "" });
  });

  it("passes each input on as it is, one flag a line, and none that is empty", async (t) => {
    const { drill } = await act(
      t,
      {
        TARGET: "statefulset/chat",
        NAMESPACE: "$(touch injected); `touch injected` \" ' &",
        URL: "ws://chat/socket?a=1&b=2",
        VIA: "ingress=wss://chat.example/socket\n\n  balancer=ws://10.0.0.7/\n",
        SESSIONS: "20",
        FLAGS: "--ready=^hello world$\n--max-reconnect=10s",
        REPORTS: "junit.xml\nother/report.json\n",
      },
      0,
      PASS,
    );
    assert.deepEqual(drill.given.map((flag) => flag.replace(drill.folder, "…")), [
      "--target=statefulset/chat",
      "--namespace=$(touch injected); `touch injected` \" ' &",
      "--url=ws://chat/socket?a=1&b=2",
      "--via=ingress=wss://chat.example/socket",
      "--via=balancer=ws://10.0.0.7/",
      "--sessions=20",
      "--ready=^hello world$",
      "--max-reconnect=10s",
      "--report=junit.xml",
      "--report=other/report.json",
      "--report=…/report.html",
      "--report=…/report.json",
      "--report=…/report.md",
    ]);
    assert.ok(!existsSync(join(drill.workspace, "injected")));
  });

  it("stands aside for the drill, so that the signal of a cancelled job reaches it", async (t) => {
    const runner = new Runner(t);
    runner.pretend(
      'process.on("SIGINT", () => process.exit(7)); console.error("waiting"); setInterval(() => {}, 1e3);',
    );
    const program = runner.start("drill", {});
    await program.line(/waiting/);
    program.child.kill("SIGINT");
    assert.deepEqual((await program.exited).code, 7);
  });
});

/** Runs the drill's step and the one that tells its result; the drill ends with this code and result. */
async function act(t: TestContext, given: Record<string, string>, code: number, result?: Told) {
  const runner = new Runner(t);
  runner.pretend(`
    import { writeFileSync } from "node:fs";
    const given = process.argv.slice(2);
    writeFileSync(${JSON.stringify(runner.given)}, JSON.stringify(given));
    const folder = /^--report=(.*)\\/report\\.md$/.exec(given.at(-1))[1];
    const result = ${JSON.stringify(result)};
    if (result !== undefined) {
      writeFileSync(folder + "/report.md", "# " + result.verdict + "\\n");
      writeFileSync(folder + "/report.json", JSON.stringify(result));
    }
    process.exitCode = ${code};
  `);
  const env = Object.fromEntries(Object.entries(given).map(([name, value]) => [`INPUT_${name}`, value]));
  const drill = await runner.start("drill", env).exited;
  const { folder } = runner.outputs("drill");
  const told = await runner.start("result", { FOLDER: folder! }).exited;
  return {
    drill: { code: drill.code, folder: folder!, given: runner.flags(), workspace: runner.workspace },
    told: { code: told.code, summary: readFileSync(runner.summary, "utf8"), outputs: runner.outputs("result") },
  };
}

/** A job's runner, as far as a composite action sees one. */
class Runner {
  workspace: string;
  summary: string;
  /** Where the drill that pretends writes its arguments. */
  given: string;
  #t: TestContext;
  #folder: string;

  constructor(t: TestContext) {
    this.#t = t;
    this.#folder = mkdtempSync(join(tmpdir(), "runner-"));
    t.after(() => rmSync(this.#folder, { recursive: true }));
    this.workspace = join(this.#folder, "workspace");
    this.summary = join(this.#folder, "summary");
    this.given = join(this.#folder, "given");
    mkdirSync(this.workspace);
  }

  pretend(drill: string): void {
    writeFileSync(join(this.#folder, "drill.mjs"), drill);
  }

  /** Starts a step's script with the flags that runners start bash with. */
  start(id: string, env: Record<string, string>) {
    const step = steps.find((step) => step.id === id)!;
    const empty = Object.fromEntries(Object.keys(step.env!).map((name) => [name, ""]));
    const script = join(this.#folder, `${id}.sh`);
    writeFileSync(script, step.run!);
    const bash = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", script];
    return start(this.#t, ["sh", "-c", 'cd "$0" && exec "$@"', this.workspace, ...bash], {
      ...empty,
      ...env,
      GITHUB_ACTION_PATH: this.#folder,
      GITHUB_OUTPUT: join(this.#folder, `${id}.output`),
      GITHUB_STEP_SUMMARY: this.summary,
      RUNNER_TEMP: this.#folder,
    });
  }

  outputs(id: string): Record<string, string> {
    const file = join(this.#folder, `${id}.output`);
    if (!existsSync(file)) return {};
    const lines = readFileSync(file, "utf8").trimEnd().split("\n");
    return Object.fromEntries(
      lines.map((line) => [line.slice(0, line.indexOf("=")), line.slice(line.indexOf("=") + 1)]),
    );
  }

  flags(): string[] {
    return JSON.parse(readFileSync(this.given, "utf8"));
  }
}
