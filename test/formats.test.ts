import assert from "node:assert/strict";
import {
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { test, type TestContext } from "node:test";
import type { Result } from "../client.ts";
import { compare, pageData, render, renderJunit, renderMarkdown, writeReport } from "../report.mjs";
import { run, startClient, startServer } from "./helper.ts";

const HOSTILE = `<script>alert("1")</script>|\`&']]>\u0007\u202e`;

/** A result of real processes: two sessions that leave a server, with a fault or without. */
async function resultOf(t: TestContext, fault: string, ...flags: string[]): Promise<Result> {
  const pace = ["--interval=50", "--remaining=2", "--remaining-interval=20"];
  const servers = await Promise.all([
    startServer(t, ...pace, `--fault=${fault}`),
    startServer(t, ...pace, `--name=${HOSTILE.repeat(3)}`),
  ]);
  const urls = servers.map(({ url }) => `--url=${url}`);
  const client = startClient(t, ...urls, "--sessions=2", "--handovers=2", "--interval=50", ...flags);
  await client.line(/ steady /);
  servers[0]!.child.kill("SIGTERM");
  return client.result;
}

/** What Jenkins' and GitLab's readers allow: the attributes of each element, those that it must have, and its children. */
const JUNIT: Record<string, { attributes: string[]; required: string[]; children: string[] }> = {
  testsuites: { attributes: ["name", "time", "tests", "failures", "errors"], required: [], children: ["testsuite"] },
  testsuite: {
    attributes: ["name", "tests", "failures", "errors", "skipped", "time", "timestamp"],
    required: ["name", "tests", "failures", "errors"],
    children: ["testcase"],
  },
  testcase: {
    attributes: ["name", "classname", "time"],
    required: ["name"],
    children: ["failure", "skipped", "system-out"],
  },
  failure: { attributes: ["type", "message"], required: [], children: [] },
  skipped: { attributes: ["message"], required: [], children: [] },
  "system-out": { attributes: [], required: [], children: [] },
};

/** Reads XML strictly; throws where it is not well-formed, or not JUnit's. Returns every element. */
function readJunit(xml: string) {
  const elements: { name: string; attributes: Record<string, string>; text: string }[] = [];
  const open: typeof elements = [];
  const unescape = (text: string) => {
    // deno-lint-ignore no-control-regex
    assert.doesNotMatch(text, /[<>\x00-\x08\x0b\x0c\x0e-\x1f]|&(?!#\d+;)/, "everything is escaped");
    return text.replace(/&#(\d+);/g, (_, code) => String.fromCodePoint(Number(code)));
  };
  const body = xml.replace(/^<\?xml version="1\.0" encoding="UTF-8"\?>\n/, "");
  assert.notEqual(body, xml, "it begins with the XML declaration");
  for (
    const [, end, name = "", list = "", empty, text] of body.matchAll(
      /<(\/?)([\w-]+)((?: \w+="[^"]*")*)(\/?)>|([^<]+)/g,
    )
  ) {
    if (text !== undefined) {
      if (open.length > 0) open.at(-1)!.text += unescape(text);
      else assert.equal(text.trim(), "");
    } else if (end) assert.equal(open.pop()?.name, name);
    else {
      const attributes = Object.fromEntries(
        [...list.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, value]) => [key, unescape(value!)]),
      );
      const rule = JUNIT[name]!;
      const parent = open.at(-1);
      assert.ok(
        parent === undefined ? name === "testsuites" : JUNIT[parent.name]!.children.includes(name),
        `${name} in ${parent?.name}`,
      );
      for (const key of Object.keys(attributes)) assert.ok(rule.attributes.includes(key), `${name} has ${key}`);
      for (const key of rule.required) assert.ok(key in attributes, `${name} lacks ${key}`);
      if ("time" in attributes) assert.match(attributes["time"]!, /^\d+\.\d{3}$/);
      const element = { name, attributes, text: "" };
      elements.push(element);
      if (!empty) open.push(element);
    }
  }
  assert.deepEqual(open, []);
  const named = (name: string) => elements.filter((element) => element.name === name);
  const [suite] = named("testsuite");
  assert.equal(suite!.attributes["tests"], String(named("testcase").length));
  assert.equal(suite!.attributes["failures"], String(named("failure").length));
  assert.equal(suite!.attributes["skipped"], String(named("skipped").length));
  return named;
}

test("JUnit has a test case for each handover and one for the run, and no failure when all is well", async (t) => {
  const named = readJunit(renderJunit(await resultOf(t, "none")));
  assert.deepEqual(named("testcase").map(({ attributes }) => attributes["classname"]), [
    "handover.server-1",
    "handover.server-1",
    "run",
  ]);
  assert.match(
    named("testcase")[0]!.attributes["name"]!,
    /^slot \d: server-1 to .*\(notice pass, complete pass, farewell pass, clean pass, moved pass\)$/,
  );
  assert.equal(named("failure").length, 0);
});

test("JUnit says of a failed handover its symptom, what to do, and what the rules saw", async (t) => {
  const named = readJunit(renderJunit(await resultOf(t, "drop-data")));
  assert.equal(named("failure").length, 2);
  const { attributes, text } = named("failure")[0]!;
  assert.equal(attributes["type"], "DATA_LOST");
  assert.match(attributes["message"]!, /^DATA_LOST: a message .* never came\. What to do: give send\(\) a callback/);
  assert.match(text, /complete {2}FAIL {2}\d+ messages, lost seq \d+/);
});

test("JUnit fails the run when too few handovers happened, and skips what was on its way", async (t) => {
  const result = await resultOf(t, "none");
  const unfinished = { ...result.handovers[0]!, verdict: "unfinished" as const, to: null };
  const counts = { graceful: 1, failed: 0, unfinished: 1 };
  const named = readJunit(
    renderJunit({
      ...result,
      verdict: "FAIL",
      summary: "FAIL  1 of 2 handovers happened",
      counts,
      handovers: [unfinished],
    }),
  );
  assert.deepEqual([named("skipped").length, named("failure")[0]!.attributes["message"]], [
    1,
    "FAIL  1 of 2 handovers happened",
  ]);
});

test("JUnit fails the run where the failures are no longer among the handovers, and says what was not judged", async (t) => {
  const result = await resultOf(t, "none");
  const unseen = { ...result.handovers[0]!, verdict: "unfinished" as const, unseen: true };
  const counts = { graceful: 10_000, failed: 3000, unfinished: 1 };
  const gone = { ...result, verdict: "FAIL" as const, summary: "FAIL  3,000 of 13,000 handovers", counts };
  const named = readJunit(renderJunit({ ...gone, handovers: [unseen] }));
  assert.equal(named("failure")[0]!.attributes["message"], "FAIL  3,000 of 13,000 handovers");
  assert.equal(named("skipped")[0]!.attributes["message"], "it ended while the client stood still");
});

/** What a check foretold, and what came of it. */
const FORETOLD = {
  predictions: [
    {
      ...{ rule: "prestop-missing", foretells: ["ENDPOINT_RACE"], certain: false, came: 3 },
      ...{ field: "spec.preStop", value: "none", fix: "sleep: { seconds: 5 }", text: "new connections still come" },
    },
    {
      ...{ rule: "no-budget", foretells: ["NO_READY_PEER", "EVICTED"], certain: true, came: 0 },
      ...{ field: "PodDisruptionBudget", value: "none", fix: "one", text: "all at once" },
    },
  ],
  unseen: ["Cannot list services in namespace shop: HTTP 403, forbidden"],
};
const FORETOLD_LINES = [
  "foretold ENDPOINT_RACE: came ×3 (spec.preStop is none → sleep: { seconds: 5 })",
  "foretold NO_READY_PEER or EVICTED: did not come (PodDisruptionBudget is none → one)",
  "foretold nothing of what could not be looked at: Cannot list services in namespace shop: HTTP 403, forbidden",
];

test("every format says beside what was foretold what came; none says a word where nothing was", async (t) => {
  const result = await resultOf(t, "none");
  const foretold = { ...result, ...FORETOLD };
  const lines = render(foretold).split("\n").filter((line) => line.startsWith("foretold "));
  assert.deepEqual(lines, FORETOLD_LINES);
  assert.match(render(foretold), /\nPASS {2}.*\n$/);
  const [said] = readJunit(renderJunit(foretold))("system-out");
  assert.deepEqual(said!.text.split("\n"), FORETOLD_LINES);
  const listed = renderMarkdown(foretold).split("\n").filter((line) => line.startsWith("- `foretold "));
  assert.deepEqual(listed, FORETOLD_LINES.map((line) => `- \`${line}\``));
  assert.match(renderMarkdown(foretold), /\n\n- `foretold /);
  assert.deepEqual(JSON.parse(pageData(foretold)).foretold, FORETOLD_LINES);
  const { predictions: _, unseen: __, ...older } = result;
  for (const silent of [result, older as Result]) {
    assert.doesNotMatch(render(silent) + renderJunit(silent) + renderMarkdown(silent), /foretold|system-out/);
  }
});

test("report.mjs takes a result with predictions, refuses one whose predictions are none, and reads older ones", async (t) => {
  const folder = mkdtempSync(join(tmpdir(), "foretold-"));
  t.after(() => rmSync(folder, { recursive: true }));
  const result = await resultOf(t, "none");
  const { predictions: _, unseen: __, ...older } = result;
  const report = async (value: object) => {
    writeFileSync(`${folder}/result.json`, JSON.stringify(value));
    return await run(t, [process.execPath, "report.mjs", `${folder}/result.json`]);
  };
  assert.match((await report({ ...result, ...FORETOLD })).stdout, /^foretold ENDPOINT_RACE: came ×3 /m);
  assert.equal((await report(older)).code, 0);
  for (const wrong of [{ predictions: "none" }, { predictions: [{ came: 1 }] }, { unseen: [1] }]) {
    const { code, stderr } = await report({ ...result, ...wrong });
    assert.deepEqual([code, stderr.split("\n").length], [2, 1], stderr);
    assert.match(stderr, /is not a result of this program: '(predictions|unseen)' is not what it should be$/);
  }
});

test("JUnit and Markdown only show what peers call themselves", async (t) => {
  const result = await resultOf(t, "none");
  const handovers = result.handovers.map((handover) => ({
    ...handover,
    from: HOSTILE,
    reason: HOSTILE,
    complaint: HOSTILE,
  }));
  const named = readJunit(renderJunit({ ...result, summary: HOSTILE, handovers }));
  assert.match(named("testcase")[0]!.attributes["name"]!, /<script>alert\("1"\)<\/script>/);
  const markdown = renderMarkdown({
    ...result,
    summary: HOSTILE,
    handovers,
    findings: [{ name: "EXIT_HUNG", text: HOSTILE }],
  });
  const withoutCode = markdown.replace(/```mermaid[^]*?```/, "").replace(/`[^`\n]*`/g, "");
  assert.doesNotMatch(withoutCode, /<|script|`/);
  const [, chart] = /```mermaid\n([^]*?)```/.exec(markdown)!;
  assert.doesNotMatch(chart!.replace(/^(gantt| +(dateFormat|axisFormat).*)$/gm, ""), /[^\w\s.:,-]/);
  const rows = markdown.split("\n").filter((line) => line.startsWith("| ") && !line.startsWith("| slot"));
  for (const row of rows) assert.equal(row.split("|").length, 10, row);
});

test("Markdown has verdict, numbers, advice, the failed handovers first, and a chart that agrees with them", async (t) => {
  const result = await resultOf(t, "exit-mid-drain");
  const markdown = renderMarkdown({
    ...result,
    handovers: [{ ...result.handovers[0]!, verdict: "graceful", symptom: null }, result.handovers[1]!],
  });
  assert.match(markdown, /^## ❌ `FAIL {2}2 of 2 handovers: CUT_DURING_DRAIN ×2 \(server-1\)`\n/);
  assert.match(markdown, /- `CUT_DURING_DRAIN: SHUTDOWN came, .* What to do: it may be SIGKILL_AT_GRACE, /);
  const rows = markdown.split("\n").filter((line) => /^\| \d/.test(line));
  assert.deepEqual(rows.map((row) => row.split("|")[4]!.trim()), ["failed", "graceful"]);
  const [first] = [...markdown.matchAll(/away :crit, (\d+), (\d+)/g)];
  assert.equal(Math.abs(Number(first![2]) - Number(first![1]) - result.handovers[1]!.reconnectMs) <= 1, true);
});

test("--report writes what its ending says, as often as it is given, without colours", async (t) => {
  const files = ["json", "html", "xml", "md"].map((ending) => `dist/formats-report.${ending}`);
  t.after(() => files.forEach((file) => rmSync(file, { force: true })));
  await resultOf(t, "terminate", ...files.map((file) => `--report=${file}`));
  const [json, html, xml, markdown] = files.map((file) => readFileSync(file, "utf8"));
  assert.equal(JSON.parse(json!).verdict, "FAIL");
  assert.match(html!, /^<!doctype html>/i);
  readJunit(xml!);
  assert.match(markdown!, /NO_CLOSE_FRAME/);
  // deno-lint-ignore no-control-regex
  for (const text of [json, html, xml, markdown]) assert.doesNotMatch(text!, /\x1b\[/);
});

// ---- node report.mjs

/** Files of a test, in a folder that goes with it. */
function filesOf(t: TestContext, contents: Record<string, unknown>) {
  const folder = mkdtempSync(join(tmpdir(), "formats-"));
  t.after(() => rmSync(folder, { recursive: true }));
  for (const [name, content] of Object.entries(contents)) {
    writeFileSync(join(folder, name), typeof content === "string" ? content : JSON.stringify(content));
  }
  return (name: string) => join(folder, name);
}

const report = (t: TestContext, ...flags: string[]) => run(t, [process.execPath, "report.mjs", ...flags]);

/** The result with other reconnects. */
const slower = (result: Result, ms: number): Result => ({
  ...result,
  reconnect: { p50Ms: 1000 + ms, p99Ms: 1000 + ms, maxMs: 1000 + ms },
  silence: { p50Ms: 1000, p99Ms: 1000, maxMs: 1000 },
});

test("node report.mjs shows a result with its verdict last, and writes every -o", async (t) => {
  const result = await resultOf(t, "none");
  const file = filesOf(t, { "a.json": result });
  const shown = await report(t, file("a.json"));
  assert.deepEqual({ code: shown.code, stderr: shown.stderr }, { code: 0, stderr: "" });
  assert.equal(shown.stdout.trimEnd().split("\n").at(-1), result.summary);
  const outputs = ["json", "html", "xml", "md"].map((ending) => file(`b.${ending}`));
  const written = await report(t, file("a.json"), ...outputs.flatMap((output) => ["-o", output]));
  assert.deepEqual({ ...written, signal: null }, { code: 0, signal: null, stdout: "", stderr: "" });
  const [json, html, xml, markdown] = outputs.map((output) => readFileSync(output, "utf8"));
  assert.deepEqual(JSON.parse(json!), result);
  assert.match(html!, /^<!doctype html>/i);
  readJunit(xml!);
  assert.match(markdown!, /^## ✅/);
});

test("node report.mjs compares two runs: better, as good within the tolerance, worse beyond it", async (t) => {
  const result = await resultOf(t, "none");
  const file = filesOf(t, {
    "a.json": slower(result, 0),
    "near.json": slower(result, 99),
    "far.json": slower(result, 101),
    "failed.json": { ...slower(result, 0), verdict: "FAIL" },
  });
  for (
    const [before, after, flags, code, last] of [
      ["a", "near", [], 0, /^SAME /],
      ["a", "far", [], 1, /^WORSE {2}3 of .*: reconnect$/],
      ["far", "a", ["--tolerance=9"], 0, /^BETTER {2}3 of /],
      ["a", "far", ["--tolerance", "11%"], 0, /^SAME /],
      ["a", "failed", ["--tolerance=1000"], 1, /^WORSE {2}1 of .*: verdict$/],
    ] as const
  ) {
    const compared = await report(t, file(`${before}.json`), file(`${after}.json`), ...flags);
    assert.equal(compared.code, code, `${before} ${after}: ${compared.stdout}${compared.stderr}`);
    assert.match(compared.stdout.trimEnd().split("\n").at(-1)!, last);
  }
});

test("a few ms more are not worse, one lost message is, and each path has its own rows", async (t) => {
  const result = await resultOf(t, "none");
  const quick = { ...result, reconnect: { p50Ms: 1, p99Ms: 1, maxMs: 1 } };
  const changeOf = (after: Result, title: string, name: string, before: Result = quick) =>
    compare(before, after, 10).sections.find((section) => section.title === title)?.rows
      .find((row) => row.name === name);
  assert.equal(
    changeOf({ ...quick, reconnect: { p50Ms: 1, p99Ms: 1, maxMs: 51 } }, "Reconnect", "max")!.change,
    "same",
  );
  assert.equal(
    changeOf({ ...quick, reconnect: { p50Ms: 1, p99Ms: 1, maxMs: 52 } }, "Reconnect", "max")!.change,
    "worse",
  );
  const lost = { ...quick, messages: { ...quick.messages, lost: 1 } };
  assert.deepEqual(changeOf(lost, "Messages", "lost"), {
    name: "lost",
    before: "0",
    after: "1",
    difference: "+1",
    change: "worse",
  });
  const unnumbered = { ...quick, messages: { ...quick.messages, lost: null } };
  assert.equal(changeOf(unnumbered, "Messages", "lost")!.after, "not numbered");
  const onPath = { ...quick, handovers: quick.handovers.map((handover) => ({ ...handover, path: "ingress" })) };
  const cut = {
    ...onPath,
    handovers: onPath.handovers.map((handover) => ({ ...handover, verdict: "failed" as const })),
  };
  assert.equal(changeOf(cut, "Path ingress", "failed handovers", onPath)!.change, "worse");
});

test("a comparison only shows what peers call themselves", async (t) => {
  const result = await resultOf(t, "none");
  const hostile = {
    ...result,
    summary: HOSTILE,
    failedDials: { [HOSTILE]: 1 },
    findings: [{ name: HOSTILE, text: HOSTILE }],
  };
  const file = filesOf(t, { "a.json": result, "b.json": hostile });
  const outputs = ["x.html", "x.md"].map(file);
  const { code, stderr } = await report(
    t,
    file("a.json"),
    file("b.json"),
    ...outputs.map((output) => `--output=${output}`),
  );
  assert.deepEqual({ code, stderr }, { code: 1, stderr: "" });
  const [html, markdown] = outputs.map((output) => readFileSync(output, "utf8"));
  assert.ok(!/<script/.test(html!) && !html!.includes("\u0007"));
  assert.match(html!, /&#60;script&#62;/);
  assert.doesNotMatch(markdown!.replace(/`[^`\n]*`/g, ""), /<|script|`/);
  for (const row of markdown!.split("\n").filter((line) => line.startsWith("| "))) {
    assert.equal(row.split("|").length, 7, row);
  }
  const shown = await report(t, file("a.json"), file("b.json"));
  // deno-lint-ignore no-control-regex
  assert.doesNotMatch(shown.stdout, /[\x00-\x09\x0b-\x1f]/);
});

test("node report.mjs says in one line what it cannot do, and exits 2", async (t) => {
  const result = await resultOf(t, "none");
  const file = filesOf(t, {
    "a.json": result,
    "text.json": "no",
    "other.json": { verdict: "PASS" },
    "null.json": "null",
  });
  for (
    const [flags, line] of [
      [[], /^A result is needed: see --help$/],
      [[file("none.json")], /^Cannot read .*none\.json: ENOENT/],
      [[file("text.json")], /^Cannot read .*text\.json: it is not JSON$/],
      [[file("null.json")], /null\.json is not a result of this program: it must be an object$/],
      [[file("other.json")], /other\.json is not a result of this program: 'summary' must be a string$/],
      [[file("a.json"), file("a.json"), file("a.json")], /^Unexpected argument /],
      [[file("a.json"), "--wrong"], /^Unknown flag --wrong: see --help$/],
      [[file("a.json"), "-o"], /^--output needs a value: see --help$/],
      [
        [file("a.json"), "-o", "x.pdf"],
        /^--output must end in \.json, \.html, \.xml or \.md: current value is 'x\.pdf'$/,
      ],
      [[file("a.json"), file("a.json"), "-o", "x.xml"], /^--output must end in \.json, \.html or \.md: /],
      [[file("a.json"), "-o", file("none/x.md")], /^Cannot write .*none\/x\.md: ENOENT/],
      [[file("a.json"), file("a.json"), "--tolerance=much"], /^--tolerance must be a percentage from 0 on: .*'much'$/],
    ] as const
  ) {
    const { code, stdout, stderr } = await report(t, ...flags);
    assert.deepEqual([code, stdout, stderr.split("\n").length], [2, "", 1], stderr);
    assert.match(stderr, line);
  }
});

test("a report is written through a link, or not at all", async (t) => {
  const result = await resultOf(t, "none");
  const file = filesOf(t, { "old.md": "old" });
  symlinkSync(file("old.md"), file("link.md"));
  symlinkSync(file("new.md"), file("dangling.md"));
  for (const [link, target] of [["link.md", "old.md"], ["dangling.md", "new.md"]] as const) {
    writeReport(file(link), result);
    assert.ok(lstatSync(file(link)).isSymbolicLink());
    assert.match(readFileSync(file(target), "utf8"), /^## /);
  }
  symlinkSync("/dev/full", file("full.md"));
  assert.throws(() => writeReport(file("full.md"), result), /^Error: Cannot write .*full\.md: ENOSPC/);
  mkdirSync(file("folder.md"));
  assert.throws(() => writeReport(file("folder.md"), result), /^Error: Cannot write .*folder\.md: EISDIR/);
  const names = readdirSync(file("."));
  assert.deepEqual(names.filter((name) => name.endsWith(".tmp")), []);
});

test("text and Markdown say of what has no numbers that it is not numbered, and of an open move that it is open", async (t) => {
  const result = await resultOf(t, "terminate");
  const open = {
    ...result,
    messages: { ...result.messages, lost: null },
    handovers: result.handovers.map((handover) => ({
      ...handover,
      to: null,
      rules: { ...handover.rules, moved: "n/a" as const },
    })),
  };
  assert.match(render(open), /^Messages +.*, not numbered/m);
  assert.match(render(open), /moved +n\/a +open when the run ended, after /);
  assert.match(renderMarkdown(open), /, not numbered\. /);
  assert.match(renderMarkdown(open), /`open when the run ended`/);
});

for (
  const [dialect, meaning, fix] of [
    [
      "v1",
      "CLOSE is missing or not the last message, or its counts are wrong",
      "send CLOSE with the final counts before the close frame",
    ],
    ["plain", "farewell is missing or not the last message", "send farewell before the close frame"],
  ] as const
) {
  test(`every format words a missing farewell as the dialect ${dialect} has it`, async (t) => {
    const result = await resultOf(t, "skip-farewell", `--dialect=${dialect}`, "--expect=farewell");
    assert.deepEqual(Object.keys(result.symptoms), ["NO_FAREWELL"]);
    const text = render(result);
    assert.match(text, new RegExp(`^NO_FAREWELL {2}${meaning}$`, "m"));
    assert.match(text, new RegExp(`^ {2}Fix: ${fix}$`, "m"));
    for (const report of [renderMarkdown(result), renderJunit(result), pageData(result)]) {
      assert.ok(report.includes(meaning) && report.includes(fix), report);
      assert.equal(report.includes("counts are wrong"), dialect === "v1");
    }
  });
}
