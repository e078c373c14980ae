import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { DISRUPTIONS, SETTINGS as CLIENT } from "../client.ts";
import { ACTIONS, CAUSES, INSPECTIONS, REMEDIES } from "../protocol.ts";
import { FAULTS, SETTINGS as SERVER } from "../server.ts";
import { run, startClient, startServer } from "./helper.ts";

const pages = ["README.md", ...readdirSync("docs").map((name) => `docs/${name}`)];
/** README and docs/, in which every table stands once. */
const docs = pages.map((page) => readFileSync(page, "utf8")).join("\n");

/** The rows of the first table after a heading, without back ticks. */
function tableAfter(heading: string, text = docs): string[][] {
  const lines = text.slice(text.indexOf(heading)).split("\n");
  const first = lines.findIndex((line) => line.startsWith("|---"));
  const length = lines.slice(first).findIndex((line) => !line.startsWith("|"));
  return lines.slice(first + 1, first + length).map((line) =>
    line.split("|").slice(1, -1).map((cell) => cell.trim().replaceAll("`", ""))
  );
}

for (const [heading, settings] of [["\n## Server\n", SERVER], ["\n## Client\n", CLIENT]] as const) {
  test(`the settings under ${heading.trim()} are those of the program`, () => {
    const rows = Object.values(settings).map((
      { flag, env, fallback, meaning },
    ) => [`--${flag}`, env, fallback, meaning]);
    assert.deepEqual(tableAfter(heading), rows);
  });
}

for (const bundle of ["server", "client"] as const) {
  test(`dist/${bundle}.js --help lists every setting as docs/settings.md does`, async (t) => {
    const { stdout } = await run(t, [process.execPath, `dist/${bundle}.js`, "--help"]);
    for (const [flag, env, fallback, meaning] of tableAfter(bundle === "server" ? "\n## Server\n" : "\n## Client\n")) {
      const row = stdout.split("\n").find((line) => line.startsWith(`  ${flag} `));
      assert.deepEqual(row?.trim().split(/ {2,}/), [flag, env, fallback, meaning].filter((cell) => cell !== ""));
    }
  });
}

test("the settings of the rehearsal are those of its --help", async (t) => {
  const { stdout } = await run(t, [process.execPath, "rehearse.mjs", "--help"]);
  for (const [flag, env, , meaning] of tableAfter("\n## Rehearsal\n")) {
    assert.match(stdout, new RegExp(`^  ${flag} +${env} .* ${meaning!.replace(/[{}]/g, "\\$&")}$`, "m"));
  }
});

for (const command of ["drill.mjs", "drill.mjs load", "rehearse.mjs"]) {
  test(`${command} --help lists no flag twice`, async (t) => {
    const { stdout } = await run(t, [process.execPath, ...command.split(" "), "--help"]);
    const handed = stdout.slice(stdout.indexOf("\nHanded through")).match(/(?<= )--[\w-]+(?= |$)/gm)!;
    const flags = [...stdout.matchAll(/^ {2}(--[\w-]+) +(?!--)/gm)].map(([, flag]) => flag!).concat(handed);
    assert.ok(handed.length > 20);
    const twice = flags.filter((flag, index) => flags.indexOf(flag) < index);
    assert.deepEqual(twice, []);
  });
}

test("docs/verdict.md explains every symptom and every cause in the program's words", () => {
  const symptoms = Object.entries(REMEDIES).map(([name, [meaning, remedy]]) => [
    name,
    meaning,
    typeof remedy === "string" ? remedy : remedy.join(", "),
  ]);
  assert.deepEqual(tableAfter("exactly one symptom, the first"), symptoms);
  assert.deepEqual(
    tableAfter("candidate causes instead"),
    Object.entries(CAUSES).map(([name, texts]) => [name, ...texts]),
  );
});

test("docs/verdict.md says of every cause what it means, and how to see it by hand with two lines of kubectl", () => {
  const section = docs.slice(docs.indexOf("\n## What the causes mean\n"));
  const said = [...section.matchAll(/^### ([A-Z_]+)\n\n(?:.+\n)+\n```sh\nkubectl .+\nkubectl .+\n```$/gm)].map((
    [, name],
  ) => name);
  assert.deepEqual(said, Object.keys(CAUSES));
});

test("docs/kubernetes.md lists every rule of the check, with what it foretells", () => {
  const rows = tableAfter("\n## The check\n").map(([rule, foretells]) => [rule, foretells]);
  assert.deepEqual(rows, INSPECTIONS.map(({ rule, foretells }) => [rule, foretells.join(", ")]));
});

test("docs/kubernetes.md lists every disruption", () => {
  const rows = tableAfter("| `DISRUPT` | what the drill does |").map(([name]) => name);
  assert.deepEqual([...rows, "none"].sort(), [...DISRUPTIONS].sort());
});

test("docs/verdict.md lists every fault", () => {
  assert.deepEqual(tableAfter("\n## Faults\n").map(([name]) => name), FAULTS.filter((name) => name !== "none"));
});

test("the Make targets are those of the Makefile", () => {
  const targets = [...readFileSync("Makefile", "utf8").matchAll(/^([a-z][\w-]*):/gm)].map(([, name]) => `make ${name}`);
  const named = tableAfter("## Make targets").flatMap(([names]) => names!.split(", "));
  assert.deepEqual([...named, "make help"].sort(), targets.sort());
});

test("README draws the session as protocol.ts does", () => {
  const drawing = (text: string) => [...text.matchAll(/^(?: \* )?( {2}\|[ <=-]{3}.*)$/gm)].map(([, line]) => line);
  assert.equal(drawing(readFileSync("README.md", "utf8")).length, 11);
  assert.deepEqual(drawing(readFileSync("README.md", "utf8")), drawing(readFileSync("protocol.ts", "utf8")));
});

test("docs/operations.md lists every action of the log, with its labels", () => {
  const rows = tableAfter("\n## Logs\n").map(([action, , labels]) => [action, labels]);
  assert.deepEqual(rows, Object.entries(ACTIONS).map(([action, labels]) => [action, labels.join(", ")]));
});

test("docs/operations.md lists every metric with its labels and their values", async (t) => {
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
  for (const [name = "", labels = ""] of tableAfter("\n## Metrics\n")) {
    const documented = labels.split("; ").filter(Boolean).flatMap((text) => {
      const [label, values] = text.split(": ");
      return values === undefined ? [label!] : values.split(", ").map((value) => `${label}: ${value}`);
    });
    assert.deepEqual([...exported.get(name) ?? []].sort(), documented.sort(), name);
    exported.delete(name);
  }
  assert.deepEqual([...exported.keys()], []);
});

test("the image's build gets every file that its Dockerfile copies, and those are what the bundles are made of", () => {
  const copied = [...readFileSync("Dockerfile", "utf8").matchAll(/^COPY (?!--from)(.*) \S+$/gm)].flatMap(([, names]) =>
    names!.split(" ")
  );
  const letIn = readFileSync(".dockerignore", "utf8").split("\n").filter((line) => line.startsWith("!"));
  assert.deepEqual(letIn.map((line) => line.slice(1)).sort(), copied.sort());
  for (const file of ["*.mjs", "report.html", "*.ts", "package.json"]) {
    assert.ok(copied.includes(file), file);
  }
});

test("the drills that README and docs/kubernetes.md show have the grace and the preStop of deploy/", () => {
  const deployed = readFileSync("deploy/server-deployment.yaml", "utf8");
  const number = (pattern: RegExp) => Number(pattern.exec(deployed)![1]);
  const [grace, preStop] = [number(/^ +terminationGracePeriodSeconds: (\d+)/m), number(/sleep:\n +seconds: (\d+)/)];
  // What is before it in README is a rehearsal.
  const shown = docs.slice(docs.indexOf("\n## On a cluster\n"), docs.indexOf("\n## What the verdict means\n")) +
    readFileSync("docs/kubernetes.md", "utf8");
  const all = (pattern: RegExp) => [...shown.matchAll(pattern)].map(([, seconds]) => Number(seconds));
  const graces = [...all(/deleted, (\d+)s of grace/g), ...all(/preStop left \S+ of (\d+)s/g)];
  assert.ok(graces.length >= 5);
  assert.deepEqual([...new Set(graces)], [grace]);
  assert.deepEqual(new Set(all(/\+(\d+)\.00s {2}SIGTERM at the earliest/g)), new Set([preStop]));
  assert.deepEqual(new Set(all(/preStop left ([\d.]+)s of/g)), new Set([grace - preStop]));
});

test("README is short, and no link of any page is dead", () => {
  const length = readFileSync("README.md", "utf8").split("\n").length;
  assert.ok(length <= 250, `README.md has ${length} lines`);
  const anchors = (text: string) =>
    [...text.matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
      title!.toLowerCase().replace(/[^\w -]/g, "").replaceAll(" ", "-")
    );
  for (const page of [...pages, "README.zh-CN.md"]) {
    const text = readFileSync(page, "utf8");
    for (const [, link] of text.matchAll(/\]\(([^)]+)\)/g)) {
      if (/^https?:/.test(link!)) continue;
      const [file, anchor] = link!.split("#") as [string, string?];
      const target = file === "" ? page : join(dirname(page), file);
      assert.ok(existsSync(target), `${page} links to ${link}`);
      if (anchor !== undefined) assert.ok(anchors(readFileSync(target, "utf8")).includes(anchor), `${page}: ${link}`);
    }
  }
});

test("README.zh-CN.md has the commands, outputs, rules, links and numbers of README.md", () => {
  const [english, chinese] = ["README.md", "README.zh-CN.md"].map((page) => readFileSync(page, "utf8")) as [
    string,
    string,
  ];
  const all = (text: string, pattern: RegExp) => [...text.matchAll(pattern)].map(([match]) => match);
  const blocks = /^```[^]*?^```$/gm;
  assert.ok(all(english, blocks).length >= 6);
  assert.deepEqual(all(chinese, blocks), all(english, blocks));
  const prose = (text: string) => text.replace(blocks, "");
  const code = (text: string) => all(prose(text), /`[^`]+`/g).sort();
  assert.deepEqual(code(chinese), code(english));
  const links = (text: string) => all(prose(text), /(?<=\]\()(?!README)[^)]+/g).sort();
  assert.deepEqual(links(chinese), links(english));
  const numbers = (text: string) => all(prose(text).replace(/`[^`]+`|\]\([^)]+\)/g, ""), /\d+(?:\.\d+)?/g).sort();
  assert.deepEqual(numbers(chinese), numbers(english));
});
