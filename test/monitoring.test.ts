import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { describe, it, type TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { parse, stringify } from "yaml";
import type { PrometheusRule, Rule } from "./fixtures/custom-resources.ts";
import { start, startClient, startServer } from "./helper.ts";

const works = (program: string) => spawnSync(program, ["--version"]).status === 0;
const skip = !(works("prometheus") && works("promtool")) && "Debian's package prometheus is not here";

const FOLDER = "deploy/components/monitoring";
const RULES = (parse(readFileSync(`${FOLDER}/prometheus-rule.yaml`, "utf8")) as PrometheusRule).spec;
const DASHBOARD = JSON.parse(readFileSync(`${FOLDER}/graceful-shutdown.json`, "utf8")) as Dashboard;
const NAMESPACE = RULES.groups[0]!.rules.find((rule) => "record" in rule)!.labels!["namespace"]!;

interface Dashboard {
  panels: {
    id: number;
    title: string;
    description: string;
    datasource: { uid: string };
    gridPos: { x: number; y: number; w: number; h: number };
    targets: { refId: string; expr: string; legendFormat: string; datasource: { uid: string } }[];
  }[];
  templating: { list: { name: string; type: string; query: string | { query: string } }[] };
}

const rules: Rule[] = RULES.groups.flatMap(({ rules }) => rules);
const isAlert = (rule: Rule): rule is Extract<Rule, { alert: string }> => "alert" in rule;
const alerts = rules.filter(isAlert);
const targets = DASHBOARD.panels.flatMap(({ title, targets }) => targets.map((target) => ({ title, ...target })));

/** As Grafana does it. */
const fill = (expr: string) =>
  expr.replaceAll("$namespace", NAMESPACE).replaceAll(/\$__(rate_interval|interval)/g, "2s")
    .replaceAll("$__range", "1m");

// ---- Names: what the queries ask for, and what the program has

/** Every label and each of its values, by metric, as an exposition has them. */
type Exported = Map<string, Map<string, Set<string>>>;

function readExposition(text: string, exported: Exported): void {
  for (const [, name, labels = ""] of text.matchAll(/^(\w+)(?:\{(.*)\})? \S+$/gm)) {
    const known = exported.get(name!) ?? exported.set(name!, new Map()).get(name!)!;
    for (const [, label, value] of labels.matchAll(/(\w+)="([^"]*)"/g)) {
      known.set(label!, (known.get(label!) ?? new Set()).add(value!));
    }
  }
}

/** What Prometheus adds to every series. */
const TARGET_LABELS = ["namespace", "pod"];
const WORDS = ["by", "on", "group_left", "unless", "and", "or"];

/** What a query asks for that nobody has: metrics, labels, and values of labels. */
function unknownIn(query: string, exported: Exported): string[] {
  const unknown: string[] = [];
  const asked = [...query.matchAll(/([a-zA-Z_:][\w:]*)\s*\{([^}]*)\}/g)];
  for (const [, metric, matchers] of asked) {
    for (const [, label, operator, value] of matchers!.matchAll(/(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"/g)) {
      if (TARGET_LABELS.includes(label!)) continue;
      const values = exported.get(metric!)?.get(label!);
      if (values === undefined) unknown.push(`${metric}{${label}}`);
      else if (operator === "=" && !values.has(value!)) unknown.push(`${metric}{${label}="${value}"}`);
    }
  }
  const grouped: string[] = [];
  const rest = query.replaceAll(/\{[^}]*\}|\[[^\]]*\]|"[^"]*"/g, " ").replaceAll(
    /\b(by|on|group_left)\s*\(([^)]*)\)/g,
    (_, _word, labels: string) => (grouped.push(...labels.split(",").map((label) => label.trim())), " "),
  );
  const metrics = [...rest.matchAll(/(?<![\w$.])[a-zA-Z_:][\w:]*(?!\w*\s*\()/g)].map(([name]) => name)
    .filter((name) => !WORDS.includes(name));
  assert.notEqual(metrics.length, 0, `${query} asks for a metric`);
  for (const metric of metrics) if (!exported.has(metric)) unknown.push(metric);
  const labels = new Set(metrics.flatMap((metric) => [...exported.get(metric)?.keys() ?? []]));
  for (const label of grouped) {
    if (label !== "" && !labels.has(label) && !TARGET_LABELS.includes(label)) unknown.push(`by (${label})`);
  }
  return unknown;
}

const metricsOf = async (admin: string) => await (await fetch(`${admin}/metrics`)).text();

/** A rehearsal: two servers, eight sessions on the first. */
async function rehearse(t: TestContext, ...flags: string[]) {
  const pace = ["--interval=200", "--remaining=2-10", "--remaining-interval=200"];
  const [victim, heir] = [
    await startServer(t, ...pace, "--name=server-1", ...flags),
    await startServer(t, ...pace, "--name=server-2"),
  ];
  const urls = [`--url=${victim.url}`, `--url=${heir.url}`];
  const client = startClient(t, ...urls, "--sessions=8", "--interval=200", "--probe-interval=100");
  const admins = { "server-1": victim.admin, "server-2": heir.admin, "client-1": await client.admin() };
  await client.line(/ steady /);
  return { victim, client, admins };
}

/** Everything that both roles export, after a handover: of one rehearsal, run for the first test that asks. */
const exportedNames = (t: TestContext) => names ??= collectNames(t);
let names: ReturnType<typeof collectNames> | undefined;

async function collectNames(t: TestContext): Promise<{ exported: Exported; texts: string[] }> {
  const { victim, client, admins } = await rehearse(t);
  victim.child.kill("SIGTERM");
  await victim.exited;
  for (let handovers = 0; handovers < 8; await sleep(50)) {
    handovers = client.lines.filter((line) => / handover /.test(line)).length;
  }
  const texts = await Promise.all([admins["server-2"], admins["client-1"]].map(metricsOf));
  const exported: Exported = new Map();
  for (const text of texts) readExposition(text, exported);
  for (const rule of rules) {
    if ("record" in rule) exported.set(rule.record, new Map(Object.keys(rule.labels ?? {}).map((k) => [k, new Set()])));
  }
  return { exported, texts };
}

describe("monitoring", () => {
  it("asks only for metrics, labels and values that the program has", async (t) => {
    const { exported } = await exportedNames(t);
    const variables = DASHBOARD.templating.list.flatMap(({ query }) => typeof query === "string" ? [] : [query.query]);
    const queries = [
      ...targets.map(({ expr }) => fill(expr)),
      ...rules.filter(isAlert).map(({ expr }) => expr),
      ...variables.map((query) => /^label_values\((.*), namespace\)$/.exec(query)![1]!),
    ];
    for (const query of queries) assert.deepEqual(unknownIn(query, exported), [], query);

    // The other way round as well: every metric of our own is drawn or watched, but for plain totals.
    const unused = [...exported.keys()].filter((name) =>
      /^graceful_shutdown_/.test(name) && !/_(sum|count)$/.test(name) && !queries.some((query) => query.includes(name))
    );
    const totals = ["server_messages_total", "server_sessions_total", "client_messages_total"];
    assert.deepEqual(unused.sort(), totals.map((name) => `graceful_shutdown_${name}`).sort());
  });

  it("finds a name, a label or a value that nobody has", async (t) => {
    const { exported } = await exportedNames(t);
    const wrong: [query: string, unknown: string[]][] = [
      ["graceful_shutdown_server_session > 0", ["graceful_shutdown_server_session"]],
      ['sum(rate(graceful_shutdown_client_dials_total{reason="ok"}[1m]))', [
        "graceful_shutdown_client_dials_total{reason}",
      ]],
      [
        'increase(graceful_shutdown_client_handovers_total{verdict="passed", namespace="a"}[5m])',
        ['graceful_shutdown_client_handovers_total{verdict="passed"}'],
      ],
      ["sum by (server) (graceful_shutdown_server_sessions)", ["by (server)"]],
      ["graceful_shutdown:grace_seconds unless on (namespace) nodejs_lag", ["nodejs_lag"]],
    ];
    for (const [query, unknown] of wrong) assert.deepEqual(unknownIn(query, exported), unknown, query);
  });

  it("has a dashboard that Grafana can draw", () => {
    const { panels, templating } = DASHBOARD;
    assert.deepEqual(templating.list.map(({ name, type }) => [name, type]), [
      ["datasource", "datasource"],
      ["namespace", "query"],
    ]);
    assert.equal(new Set(panels.map(({ id }) => id)).size, panels.length);
    for (const { title, description, datasource, gridPos, targets } of panels) {
      assert.ok(title !== "" && description !== "", title);
      for (const { uid } of [datasource, ...targets.map(({ datasource }) => datasource)]) {
        assert.equal(uid, "${datasource}", title);
      }
      assert.equal(new Set(targets.map(({ refId }) => refId)).size, targets.length, title);
      const { x, y, w, h } = gridPos;
      assert.ok(x + w <= 24, `${title} fits`);
      const over = panels.filter(({ gridPos: other }) =>
        x < other.x + other.w && other.x < x + w && y < other.y + other.h && other.y < y + h
      );
      assert.deepEqual(over.map(({ title }) => title), [title], "no panel lies over another");
    }
    // Every query is of one namespace, so that staging does not lie over production.
    for (const { expr } of targets) {
      const selectors = [...expr.matchAll(/(?:graceful_shutdown|process|nodejs)_\w+(\{[^}]*\})?/g)];
      for (const [selector, matchers] of selectors) assert.match(matchers ?? "", /namespace="\$namespace"/, selector);
    }
  });

  it("sends whoever is woken to a section of the docs that exists", () => {
    const docs = "https://github.com/donileongdeepernetwork/k8s-graceful-shutdown-test/blob/master/";
    for (const { alert, annotations } of alerts) {
      const [page, anchor] = annotations.runbook_url.split("#");
      assert.ok(page!.startsWith(docs), `${alert}: ${page}`);
      const headings = readFileSync(page!.slice(docs.length), "utf8").matchAll(/^#+ (.*)$/gm);
      const anchors = [...headings].map(([, text]) =>
        text!.toLowerCase().replaceAll(/[^\w -]/g, "").replaceAll(" ", "-")
      );
      assert.ok(anchors.includes(anchor!), `${alert}: #${anchor}`);
    }
  });
});

describe("promtool", { skip }, () => {
  /** The rules and their tests in one folder, as promtool wants them. */
  function rulesFolder(t: TestContext): string {
    const folder = mkdtempSync(resolve("dist/rules-"));
    t.after(() => rmSync(folder, { recursive: true }));
    writeFileSync(join(folder, "rules.yaml"), stringify(RULES));
    copyFileSync("test/fixtures/alerts.yaml", join(folder, "alerts.yaml"));
    return folder;
  }
  const promtool = (args: string[], input?: string) => {
    const { status, stdout, stderr } = spawnSync("promtool", args, { encoding: "utf8", ...input && { input } });
    return { status, output: stdout + stderr };
  };

  it("has nothing against the metrics of either role", async (t) => {
    const { texts } = await exportedNames(t);
    for (const text of texts) {
      assert.deepEqual(promtool(["check", "metrics"], text), { status: 0, output: "" });
    }
  });

  it("has nothing against the rules", (t) => {
    const { status, output } = promtool([
      "check",
      "rules",
      "--lint=all",
      "--lint-fatal",
      join(rulesFolder(t), "rules.yaml"),
    ]);
    assert.equal(status, 0, output);
    assert.match(output, new RegExp(`SUCCESS: ${rules.length} rules found`));
  });

  it("sees every alert fire when it should, and only then", (t) => {
    const { tests } = parse(readFileSync("test/fixtures/alerts.yaml", "utf8")) as {
      tests: { alert_rule_test: { alertname: string; exp_alerts: unknown[] }[] }[];
    };
    const cases = tests.flatMap(({ alert_rule_test }) => alert_rule_test);
    for (const { alert } of alerts) {
      const expected = cases.filter(({ alertname }) => alertname === alert).map(({ exp_alerts }) => exp_alerts.length);
      assert.ok(expected.includes(0) && expected.some((count) => count > 0), `${alert} is tested both ways`);
    }
    const { status, output } = promtool(["test", "rules", join(rulesFolder(t), "alerts.yaml")]);
    assert.equal(status, 0, output);
  });
});

describe("a real Prometheus", { skip }, () => {
  type Series = { metric: Record<string, string>; values: [number, string][] };

  /** Scrapes and judges five times a second, with the labels that it has on a cluster. */
  async function startPrometheus(t: TestContext, admins: Record<string, string>) {
    const folder = mkdtempSync(resolve("dist/prometheus-"));
    t.after(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }));
    const groups = RULES.groups.map((group) => ({ ...group, interval: "200ms" }));
    writeFileSync(join(folder, "rules.yaml"), stringify({ groups }));
    writeFileSync(
      join(folder, "prometheus.yaml"),
      stringify({
        global: { scrape_interval: "200ms", scrape_timeout: "200ms", evaluation_interval: "200ms" },
        rule_files: ["rules.yaml"],
        scrape_configs: [{
          job_name: "graceful-shutdown",
          static_configs: Object.entries(admins).map(([pod, admin]) => ({
            targets: [new URL(admin).host],
            labels: { namespace: NAMESPACE, pod },
          })),
        }],
      }),
    );
    const program = start(t, [
      "prometheus",
      `--config.file=${folder}/prometheus.yaml`,
      `--storage.tsdb.path=${folder}/data`,
      "--web.listen-address=127.0.0.1:0",
    ]);
    const address = /address=(\S+)/.exec(await program.line(/msg="Listening on"/))![1];
    await program.line(/Server is ready/);
    const from = Date.now() / 1000;
    const ask = async (path: string, parameters: Record<string, string> = {}) => {
      const response = await fetch(`http://${address}/api/v1/${path}?${new URLSearchParams(parameters)}`);
      const { status, data, error } = await response.json();
      assert.equal(status, "success", `${error}: ${JSON.stringify(parameters)}`);
      return data;
    };
    return {
      /** What a panel of the dashboard gets, without the points that are no numbers. */
      draw: async (expr: string): Promise<Series[]> => {
        const range = { start: String(from), end: String(Date.now() / 1000), step: "0.2" };
        const { result } = await ask("query_range", { query: fill(expr), ...range }) as { result: Series[] };
        const drawn = result.map(({ metric, values }) => ({
          metric,
          values: values.filter(([, value]) => Number.isFinite(Number(value))),
        }));
        return drawn.filter(({ values }) => values.length > 0);
      },
      firing: async (): Promise<Record<string, string>[]> => {
        const { alerts } = await ask("alerts") as { alerts: { labels: Record<string, string>; state: string }[] };
        return alerts.filter(({ state }) => state === "firing").map(({ labels }) => labels);
      },
    };
  }
  /** Waits for what Prometheus will know at its next scrape or the one after. */
  async function until<T>(what: string, ask: () => Promise<T | undefined>): Promise<T> {
    const deadline = performance.now() + 15_000;
    while (performance.now() < deadline) {
      const answer = await ask();
      if (answer !== undefined) return answer;
      await sleep(100);
    }
    throw new Error(`Prometheus never saw ${what}`);
  }
  const panel = (title: string) => targets.find((target) => target.title === title)!.expr;
  const last = (series: Series[]) => Number(series[0]?.values.at(-1)?.[1]);

  it("has data for every query of the dashboard, and sees the sessions move", async (t) => {
    const { victim, admins } = await rehearse(t);
    const { draw } = await startPrometheus(t, admins);
    await until("the sessions", async () => last(await draw(panel("Sessions"))) === 8 || undefined);
    victim.child.kill("SIGTERM");
    assert.equal((await victim.exited).code, 0);
    /** The curves of a panel's first query, by pod. */
    const curves = async (title: string): Promise<Record<string, number[]>> =>
      Object.fromEntries((await draw(panel(title))).map(({ metric, values }) => {
        return [metric["pod"], values.map(([, value]) => Number(value))];
      }));
    await until("the move", async () => (await curves("Sessions by server"))["server-2"]?.at(-1) === 8 || undefined);
    await until("the handovers", async () => last(await draw(panel("Graceful handovers"))) === 8 || undefined);

    for (const { title, expr } of targets) assert.notEqual((await draw(expr)).length, 0, `${title}: ${expr}`);
    assert.equal(last(await draw(panel("Messages lost"))), 0);
    assert.equal(last(await draw(panel("Failed handovers"))), 0);
    const p99 = last(await draw(panel("Reconnect p99")));
    assert.ok(p99 > 0 && p99 < 5, `reconnect p99 ${p99} s`);

    // The swap: one server's curve falls from 8, the other's rises to it.
    const swap = await curves("Sessions by server");
    const [before, after] = [swap["server-1"]!, swap["server-2"]!];
    assert.deepEqual([before[0], Math.max(...before), after[0], after.at(-1)], [8, 8, 0, 8]);
    assert.ok(before.at(-1)! < 8, `server-1 in the end: ${before.join()}`);
    assert.deepEqual(after, after.toSorted((a, b) => a - b));
    t.diagnostic(`sessions of server-1: ${before.join(" ")}; of server-2: ${after.join(" ")}`);
    const verdicts = (await draw(panel("Handovers by verdict and symptom"))).map(({ metric }) => metric["verdict"]);
    assert.deepEqual(verdicts, ["graceful"]);
  });

  it("raises the alerts when a promise is broken", async (t) => {
    const { victim, client, admins } = await rehearse(t, "--fault=exit-mid-drain", "--remaining=5");
    const { draw, firing } = await startPrometheus(t, admins);
    await until("the sessions", async () => last(await draw(panel("Sessions"))) === 8 || undefined);
    assert.deepEqual(await firing(), []);
    victim.child.kill("SIGTERM");
    // On a busy machine a server that exits may have been silent before: what the client calls it is what the alert says.
    const symptomsOf = () =>
      new Set(client.lines.flatMap((line) => / handover .* ([A-Z_]{5,})$/.exec(line)?.[1] ?? []));
    await client.line(/ handover .* (CUT_DURING_DRAIN|STALLED)$/);
    const told = await until("the alerts", async () => {
      const labels = (await firing()).map(({ alertname, symptom, direction }) =>
        `${alertname} ${symptom ?? direction}`
      );
      const [expected, found] = [
        [...symptomsOf()].map((one) => `GracefulShutdownHandoverFailed ${one}`),
        labels.sort(),
      ];
      return [...expected, "GracefulShutdownMessagesLost down"].sort().join() === found.join() ? found : undefined;
    });
    assert.ok(told.length >= 2);
    await until("the loss", async () => last(await draw(panel("Messages lost"))) > 0 || undefined);
  });
});
