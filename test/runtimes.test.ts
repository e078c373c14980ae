import assert from "node:assert/strict";
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { copyOf, run } from "./helper.ts";

const TOOLS = resolve(".tools/node_modules");
const deno = `${TOOLS}/.bin/deno`;
const skipUnless = (program: string) => existsSync(program) ? false : "make check installs the other runtimes";

/** Node's own line, and those that `make check` has installed. */
const NODES: [name: string, program: string][] = [
  ["the Node at hand", process.execPath],
  ...[20, 22, 24, 26].map((line): [string, string] => [`Node ${line}`, `${TOOLS}/node${line}/bin/node`]),
];

for (const [name, program] of NODES) {
  for (const bundle of ["server.js", "client.js"]) {
    test(`${bundle}, alone in an empty folder, prints --help on ${name} without a warning`, {
      skip: skipUnless(program),
    }, async (t) => {
      const folder = mkdtempSync(join(tmpdir(), "alone-"));
      t.after(() => rmSync(folder, { recursive: true }));
      copyFileSync(`dist/${bundle}`, join(folder, bundle));
      const { code, stdout, stderr } = await run(t, [program, join(folder, bundle), "--help"]);
      assert.deepEqual({ code, stderr }, { code: 0, stderr: "" });
      assert.match(stdout, new RegExp(`^Usage: node dist/${bundle} \\[settings\\]\n`));
    });
  }
}

// The rehearsal asks the client for a --report: only that needs --allow-write.
const RUNTIMES: [name: string, program: string, command: string][] = [
  [
    "Deno, from source",
    deno,
    `${deno} run --quiet --allow-net --allow-env --allow-read --allow-sys --allow-write {role}.ts`,
  ],
  ...[22, 24, 26].map((line): [string, string, string] => {
    const program = `${TOOLS}/node${line}/bin/node`;
    return [`Node ${line}, from source`, program, `${program} {role}.ts`];
  }),
  ...[20, 22, 24, 26].map((line): [string, string, string] => {
    const program = `${TOOLS}/node${line}/bin/node`;
    return [`Node ${line}`, program, `${program} dist/{role}.js`];
  }),
];

for (const [name, program, command] of RUNTIMES) {
  test(`a handover passes under ${name}`, { skip: skipUnless(program) }, async (t) => {
    const flags = ["--json", `--command=${command}`, "--interval=200", "--sessions=3", "--remaining=4", "--grace=20"];
    const { code, stdout, stderr } = await run(t, [process.execPath, "rehearse.mjs", ...flags]);
    assert.equal(code, 0, stderr);
    const { verdict, handovers, cost } = JSON.parse(stdout);
    assert.deepEqual({ verdict, handovers: handovers.length }, { verdict: "PASS", handovers: 3 });
    assert.ok(cost.exitMs >= 400, `the server exited after ${cost.exitMs} ms`);
  });
}

test("a Node that reads TypeScript takes the built contract, unless the source is newer", {
  skip: skipUnless(`${TOOLS}/node24/bin/node`),
}, async (t) => {
  const folder = copyOf(t, "report.mjs", "protocol.ts", "package.json");
  const [source, built] = [join(folder, "protocol.ts"), join(folder, "dist/protocol.js")];
  mkdirSync(dirname(built));
  writeFileSync(built, 'throw new Error("built")');
  const help = () => run(t, [`${TOOLS}/node24/bin/node`, join(folder, "report.mjs"), "--help"]);
  utimesSync(source, 1000, 1000);
  assert.match((await help()).stderr, /Error: built/);
  utimesSync(built, 999, 999);
  const { code, stdout, stderr } = await help();
  assert.deepEqual([code, stderr], [0, ""]);
  assert.match(stdout, /^Usage: node report\.mjs /);
});
