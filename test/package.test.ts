/** The npm package: really packed, installed in an empty folder without a network, and every command of it run. */
import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import process from "node:process";
import { after, before, describe, it, type TestContext } from "node:test";
import { promisify } from "node:util";
import { connect, start } from "./helper.ts";

const COMMANDS = ["rehearse", "drill", "report", "server", "client"];
const NAME = "k8s-graceful-shutdown-test";

type Run = { code: number | null; stdout: string; stderr: string };

const kubectl = spawnSync("kubectl", ["version", "--client"]).status === 0;

describe("the package", () => {
  const folder = mkdtempSync(join(tmpdir(), "package-"));
  const installed = join(folder, "node_modules", NAME);
  const bin = join(folder, "node_modules/.bin", NAME);
  after(() => rmSync(folder, { recursive: true }));
  let bytes: number;
  before(async () => {
    await npm("pack", "--pack-destination", folder);
    const [file, ...others] = readdirSync(folder);
    assert.deepEqual([file, ...others], [`${NAME}-${manifest(".").version}.tgz`]);
    bytes = statSync(join(folder, file!)).size;
    await npm("install", "--offline", "--prefix", folder, join(folder, file!));
  });

  it("holds the bundles, the manifests and the licences, in less than 400 KB, and nothing else", () => {
    const files = filesIn(installed).map((file) => relative(installed, file));
    assert.deepEqual(files, [
      "LICENSE",
      "README.md",
      "README.zh-CN.md",
      ...filesIn("deploy"),
      "dist/LICENSES.txt",
      "dist/client.js",
      "dist/client.txt",
      "dist/command.mjs",
      "dist/package.json",
      "dist/server.js",
      "dist/server.txt",
      ...filesIn("environments"),
      "package.json",
    ]);
    assert.ok(bytes < 400_000, `the package has ${bytes} bytes`);
  });

  it("brings no other package, and runs nothing when it is installed", () => {
    assert.deepEqual(readdirSync(join(folder, "node_modules")).filter((name) => !name.startsWith(".")), [NAME]);
    const { scripts, private: isPrivate, ...rest } = manifest(installed);
    assert.deepEqual([rest.dependencies, rest.optionalDependencies, rest.peerDependencies], [
      undefined,
      undefined,
      undefined,
    ]);
    for (const name of ["preinstall", "install", "postinstall", "prepare"]) assert.equal(scripts[name], undefined);
    assert.equal(isPrivate, undefined, "npm publishes no private package");
  });

  it("has the licence of each package that its command bundles", () => {
    const licences = readFileSync(join(installed, "dist/LICENSES.txt"), "utf8");
    for (const name of ["kleur", "mri", "ws", "prom-client"]) assert.match(licences, new RegExp(`^${name} \\d`, "m"));
  });

  it(
    "has manifests that kubectl renders where they are",
    { skip: kubectl ? false : "kubectl is not there" },
    async () => {
      for (
        const path of [
          "deploy",
          "deploy/drill",
          ...readdirSync("environments").map((name) => `environments/${name}`),
        ]
      ) {
        const { stdout } = await promisify(execFile)("kubectl", ["kustomize", join(installed, path)]);
        assert.match(stdout, path === "deploy/drill" ? /^kind: Job$/m : /^kind: Deployment$/m, path);
      }
    },
  );

  for (const flags of [[], ["--help"], ["-h"]]) {
    it(`lists its commands in one screen, given ${flags[0] ?? "nothing"}`, async (t) => {
      const { code, stdout, stderr } = await run(t, ...flags);
      assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
      const lines = stdout.trimEnd().split("\n");
      assert.ok(lines.length <= 24 && lines.every((line) => line.length <= 120), stdout);
      assert.deepEqual([...stdout.matchAll(/^ {2}([a-z]+) /gm)].map(([, name]) => name), COMMANDS);
    });
  }

  for (const [word, complaint] of [["reherse", "Unknown command"], ["--verbose", "Unknown flag"]] as const) {
    it(`says in one line that it does not know ${word}`, async (t) => {
      assert.deepEqual(await run(t, word), { code: 2, stdout: "", stderr: `${complaint} "${word}": see --help` });
    });
  }

  it("tells its version", async (t) => {
    const expected = { code: 0, stdout: `${manifest(".").version}\n`, stderr: "" };
    assert.deepEqual(await run(t, "--version"), expected);
  });

  for (const name of COMMANDS) {
    it(`has the help of ${name}, and says in one line what it does not know`, async (t) => {
      const [help, short, mistake] = await Promise.all(
        ["--help", "-h", "--nonsense"].map((flag) => run(t, name, flag)),
      ) as [Run, Run, Run];
      assert.deepEqual({ code: help.code, stderr: help.stderr }, { code: 0, stderr: "" });
      assert.deepEqual(short, help);
      assert.match(help.stdout, new RegExp(`^Usage: ${NAME} ${name} .+\n`));
      assert.doesNotMatch(help.stdout, /'node /);
      assert.deepEqual({ code: mistake.code, stdout: mistake.stdout }, { code: 2, stdout: "" });
      assert.match(mistake.stderr, /^.*--nonsense.*$/);
    });
  }

  it("rehearses with the servers that it brings, and shows the result", async (t) => {
    const flags = ["--interval=200", "--remaining=2", "--fault=skip-farewell", `--report=${join(folder, "a.json")}`];
    const { code, stdout } = await run(t, "rehearse", ...flags);
    assert.equal(code, 1);
    assert.match(stdout, /^FAIL {2}1 of 1 handover: NO_FAREWELL/m);
    const report = await run(t, "report", join(folder, "a.json"), "-o", join(folder, "a.html"));
    assert.deepEqual(report, { code: 0, stdout: "", stderr: "" });
    assert.match(readFileSync(join(folder, "a.html"), "utf8"), /^<!doctype html>[^]*NO_FAREWELL/i);
  });

  it("rehearses with somebody's own server", async (t) => {
    const server = `${process.execPath} ${join(installed, "dist/server.js")} --port {port} --admin-port 0`;
    const flags = ["--server", server, "--path=/ws", "--interval=200", "--json"];
    const { code, stdout, stderr } = await run(t, "rehearse", ...flags);
    assert.equal(code, 0, stderr);
    assert.equal(JSON.parse(stdout).verdict, "PASS");
  });

  // A terminal's Ctrl-C goes to the whole process group; `timeout`, a container's end or a cancelled job to npx alone. Where
  // sh is dash it stands between npx and the program, where it is bash it makes way.
  for (const shell of ["dash", "bash"].filter((name) => existsSync(`/bin/${name}`))) {
    for (const [signal, whom] of [["SIGINT", "the group"], ["SIGTERM", "npx"]] as const) {
      it(`ends once and in order at ${signal} to ${whom}, through npx and ${shell}`, { timeout: 60_000 }, async (t) => {
        const npx = ["npx", "--offline", "--prefix", folder, `--script-shell=/bin/${shell}`, "--", NAME];
        const flags = ["--port=0", "--admin-port=0", "--remaining=5"];
        const server = start(t, ["setsid", ...npx, "server", ...flags]);
        const { pid } = server.child;
        t.after(() => killGroup(pid!));
        const [, url] = / on (ws:\S+),/.exec(await server.line(/ listening /))!;
        await connect(t, url!, { protocol: "" });
        process.kill(whom === "npx" ? pid! : -pid!, signal);
        await server.exited;
        const drained = server.lines.filter((line) => / (shutdown-signal|drain-complete) /.test(line));
        assert.equal(drained.length, 2, server.lines.join("\n"));
        assert.match(drained[1]!, / drained 1 session in 0\.[5-9]|[1-9]\d*\./);
      });
    }
  }

  async function run(t: TestContext, ...args: string[]) {
    const program = start(t, ["sh", "-c", 'cd "$0" && exec "$@"', folder, process.execPath, bin, ...args]);
    const { code } = await program.exited;
    return { code, stdout: program.stdout(), stderr: program.lines.join("\n") };
  }
});

/** The paths of all files in a folder, in order. */
function filesIn(folder: string): string[] {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return entries.map(({ parentPath, name }) => join(parentPath, name)).sort();
}

/** npm, to its end; rejects where it fails. */
const npm = (...args: string[]) => promisify(execFile)("npm", args);

function manifest(folder: string) {
  return JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
}

function killGroup(leader: number): void {
  try {
    process.kill(-leader, "SIGKILL");
  } catch {
    // nobody is left in it
  }
}
