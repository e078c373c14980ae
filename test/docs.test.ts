import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { SETTINGS as CLIENT } from "../client.ts";
import { ACTIONS, CAUSES, REMEDIES } from "../protocol.ts";
import { FAULTS, SETTINGS as SERVER } from "../server.ts";
import { run, startClient, startServer } from "./helper.ts";

const readme = readFileSync("README.md", "utf8");

/** The rows of the first table after a heading, without back ticks. */
function tableAfter(heading: string, text = readme): string[][] {
  const lines = text.slice(text.indexOf(heading)).split("\n");
  const first = lines.findIndex((line) => line.startsWith("|---"));
  const length = lines.slice(first).findIndex((line) => !line.startsWith("|"));
  return lines.slice(first + 1, first + length).map((line) =>
    line.split("|").slice(1, -1).map((cell) => cell.trim().replaceAll("`", ""))
  );
}

for (const [heading, settings] of [["### Server", SERVER], ["### Client", CLIENT]] as const) {
  test(`README's settings under '${heading}' are those of the program`, () => {
    const rows = Object.values(settings).map((
      { flag, env, fallback, meaning },
    ) => [`--${flag}`, env, fallback, meaning]);
    assert.deepEqual(tableAfter(heading), rows);
  });
}

for (const bundle of ["server", "client"] as const) {
  test(`dist/${bundle}.js --help lists every setting as README does`, async (t) => {
    const { stdout } = await run(t, [process.execPath, `dist/${bundle}.js`, "--help"]);
    for (const [flag, env, fallback, meaning] of tableAfter(bundle === "server" ? "### Server" : "### Client")) {
      const row = stdout.split("\n").find((line) => line.startsWith(`  ${flag} `));
      assert.deepEqual(row?.trim().split(/ {2,}/), [flag, env, fallback, meaning].filter((cell) => cell !== ""));
    }
  });
}

test("README's settings of the rehearsal are those of its --help", async (t) => {
  const { stdout } = await run(t, [process.execPath, "rehearse.mjs", "--help"]);
  for (const [flag, env, , meaning] of tableAfter("### Rehearsal")) {
    assert.match(stdout, new RegExp(`^  ${flag} +${env} .* ${meaning!.replace(/[{}]/g, "\\$&")}$`, "m"));
  }
});

test("README explains every symptom and every cause in the program's words", () => {
  const symptoms = Object.entries(REMEDIES).map(([name, [meaning, remedy]]) => [
    name,
    meaning,
    typeof remedy === "string" ? remedy : remedy.join(", "),
  ]);
  assert.deepEqual(tableAfter("exactly one symptom"), symptoms);
  assert.deepEqual(
    tableAfter("candidate causes instead"),
    Object.entries(CAUSES).map(([name, texts]) => [name, ...texts]),
  );
});

test("README lists every fault", () => {
  assert.deepEqual(tableAfter("### Faults").map(([name]) => name), FAULTS.filter((name) => name !== "none"));
});

test("README's Make targets are those of the Makefile", () => {
  const targets = [...readFileSync("Makefile", "utf8").matchAll(/^([a-z][\w-]*):/gm)].map(([, name]) => `make ${name}`);
  const named = tableAfter("## Make targets").flatMap(([names]) => names!.split(", "));
  assert.deepEqual([...named, "make help"].sort(), targets.sort());
});

test("README draws the session as protocol.ts does", () => {
  const drawing = (text: string) => [...text.matchAll(/^(?: \* )?( {2}\|[ <=-]{3}.*)$/gm)].map(([, line]) => line);
  assert.equal(drawing(readme).length, 11);
  assert.deepEqual(drawing(readme), drawing(readFileSync("protocol.ts", "utf8")));
});

test("README lists every action of the log, with its labels", () => {
  const rows = tableAfter("### Logs").map(([action, , labels]) => [action, labels]);
  assert.deepEqual(rows, Object.entries(ACTIONS).map(([action, labels]) => [action, labels.join(", ")]));
});

test("README lists every metric with its labels and their values", async (t) => {
  const server = await startServer(t);
  const client = startClient(t, `--url=${server.url}`);
  await client.line(/session-opened/);
  const texts = await Promise.all(
    [server.admin, await client.admin()].map(async (admin) => await (await fetch(`${admin}/metrics`)).text()),
  );
  const exported = new Map<string, Set<string>>();
  for (
    const [, name, labels = ""] of texts.join("").matchAll(
      /^(graceful_\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? \S+$/gm,
    )
  ) {
    const known = exported.get(name!) ?? exported.set(name!, new Set()).get(name!)!;
    // Every symptom has its own table.
    for (const [, label, value] of labels.matchAll(/(\w+)="(.*?)"/g)) {
      if (label !== "le") known.add(label === "symptom" ? "symptom" : `${label}: ${value}`);
    }
  }
  for (const [name = "", labels = ""] of tableAfter("### Metrics")) {
    const documented = labels.split("; ").filter(Boolean).flatMap((text) => {
      const [label, values] = text.split(": ");
      return values === undefined ? [label!] : values.split(", ").map((value) => `${label}: ${value}`);
    });
    assert.deepEqual([...exported.get(name) ?? []].sort(), documented.sort(), name);
    exported.delete(name);
  }
  assert.deepEqual([...exported.keys()], []);
});
