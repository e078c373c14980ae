import assert from "node:assert/strict";
import { readFileSync, rmSync } from "node:fs";
import { test, type TestContext } from "node:test";
import { renderJunit, renderMarkdown, type Result } from "../client.ts";
import { startClient, startServer } from "./helper.ts";

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
  testcase: { attributes: ["name", "classname", "time"], required: ["name"], children: ["failure", "skipped"] },
  failure: { attributes: ["type", "message"], required: [], children: [] },
  skipped: { attributes: ["message"], required: [], children: [] },
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
    const [, end, name = "", list = "", empty, text] of body.matchAll(/<(\/?)(\w+)((?: \w+="[^"]*")*)(\/?)>|([^<]+)/g)
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
