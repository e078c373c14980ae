import assert from "node:assert/strict";
import { once } from "node:events";
import { get, type Server } from "node:http";
import { type AddressInfo, connect as connectTcp, type Socket } from "node:net";
import { hostname, networkInterfaces } from "node:os";
import process from "node:process";
import { test, type TestContext } from "node:test";
import {
  closeCode,
  createAdmin,
  type Guard,
  milliseconds,
  openFilesLimit,
  printable,
  readSettings,
  redactUrl,
  setting,
  settingList,
  toJson,
} from "../protocol.ts";
import { run, slackMs, startClient } from "./helper.ts";

// ---- Settings

test("a duration is plain ms or carries a unit", () => {
  const parse = milliseconds(0);
  const durations: [text: string, ms: number][] = [["0", 0], ["250", 250], ["500ms", 500], ["30s", 30_000]];
  durations.push(["2m", 120_000], ["1h", 3_600_000], ["1.5s", 1500], ["0.25m", 15_000], ["1.001s", 1001], ["0s", 0]);
  durations.push(["2147483647", 2_147_483_647]);
  for (const [text, ms] of durations) assert.equal(parse(text), ms, text);
  for (
    const text of ["", "s", "-1", "1.5", "1e3", "30 s", "30S", "30sec", ".5s", "1.s", "25d", "2147483648", "596.6h"]
  ) {
    assert.throws(() => parse(text), {
      name: "RangeError",
      message: "must be ms from 0 to 2147483647, or a duration with its unit (500ms, 30s, 2m)",
    }, text);
  }
  assert.throws(() => milliseconds(5)("4"), /must be ms from 5 /);
  assert.equal(milliseconds(5)("5"), 5);
});

test("a bare number so small that seconds were meant is refused with the rule", () => {
  const parse = milliseconds(0, 1000);
  for (const text of ["1", "30", "999"]) {
    const message = `must carry a unit when it is below 1000: ${text}s or ${text}ms`;
    assert.throws(() => parse(text), { name: "RangeError", message });
    assert.equal(parse(`${text}ms`), Number(text));
  }
  assert.deepEqual(["0", "1000", "30s"].map(parse), [0, 1000, 30_000]);
});

test("a close code is one that a frame may carry, or one that is named besides", () => {
  for (const text of ["1000", "1001", "1014", "3000", "4999"]) assert.equal(closeCode()(text), Number(text));
  for (const text of ["999", "1004", "1005", "1006", "1015", "2999", "5000", "", "1001.0", "01001"]) {
    assert.throws(() => closeCode()(text), /^RangeError: must be a close code that may be sent: .* 3000-4999$/, text);
  }
  assert.equal(closeCode(1005)("1005"), 1005);
  assert.throws(() => closeCode(1005)("1006"), /3000-4999, or 1005$/);
});

test("a flag's value may begin with a dash; a flag in its place is still a flag", () => {
  const program = { command: "x", summary: "x", switches: { json: "x" } };
  const table = { report: settingList("REPORT", "", String, "x"), pace: setting("PACE_MS", "7", milliseconds(0), "x") };
  const read = (...argv: string[]) => readSettings(program, table, argv)!;
  assert.deepEqual(read("--report", "-.json").report, ["-.json"]);
  assert.deepEqual(read("--report", "-.json", "--json", "--pace", "2s"), {
    report: ["-.json"],
    pace: 2000,
    switches: new Set(["json"]),
  });
  assert.deepEqual(read("--report=-.md").report, ["-.md"]);
  assert.throws(() => read("--pace", "-5"), /^Error: --pace must be ms .*: current value is '-5'$/);
  assert.throws(() => read("--report", "--json"), /--report needs a value/);
  assert.throws(() => read("--json", "-.json"), /Unknown flag/);
  assert.throws(() => read("-.json"), /Unknown flag/);
});

test("a mistake in a setting shows no secret of a URL", () => {
  const refuse = (): never => {
    throw new RangeError("must be right");
  };
  const read = (...argv: string[]) =>
    readSettings({ command: "x", summary: "x", switches: {} }, { url: setting("URL", "x", refuse, "x") }, argv);
  const shown: [text: string, as: string][] = [
    ["http://a/?access_token=secret", "http://a/?access_token=…"],
    ["localhost:8080/ws?access_token=secret and more", "localhost:8080/ws?access_token=…"],
    ["ws://user:secret@a/ws", "ws://…@a/ws"],
    ["a@b", "a@b"],
  ];
  for (const [text, as] of shown) {
    assert.throws(() => read(`--url=${text}`), { message: `--url must be right: current value is '${as}'` });
  }
  assert.throws(() => read("ws://a?t=secret"), { message: "Unexpected argument 'ws://a?t=…': see --help" });
});

test(
  "openFilesLimit() is what the system says",
  { skip: process.platform === "win32" || "Deno" in globalThis },
  async (t) => {
    // The hard limit: to that Node raises its own when it starts.
    const { stdout } = await run(t, ["sh", "-c", "ulimit -Hn"]);
    assert.equal(openFilesLimit(), stdout.trim() === "unlimited" ? Infinity : Number(stdout));
  },
);

// ---- Log lines

test("redactUrl() hides query values and credentials, and nothing else", () => {
  const texts: [text: string, as: string][] = [
    ["no URL at all? none=here", "no URL at all? none=here"],
    ["ws://a/ws", "ws://a/ws"],
    ["ws://a/ws?access_token=secret&x=1", "ws://a/ws?access_token=…&x=…"],
    ["wss://a/?secret", "wss://a/?…"],
    ["http://a/?x=", "http://a/?x=…"],
    ["http://a/?&x=1&&y=a=b=", "http://a/?&x=…&&y=…"],
    ["HTTPS://a/?x=1?y=2#z=3", "HTTPS://a/?x=…"],
    ["Did it reach ws://a/ws?", "Did it reach ws://a/ws?"],
    ["Cannot dial 'ws://a/?t=se'cret': gone", "Cannot dial 'ws://a/?t=…': gone"],
    ["(ws://a/?t=1), ws://b/?u=2; then https://c?d=4.", "(ws://a/?t=…), ws://b/?u=…; then https://c?d=…."],
    ["SERVER_URL=ws://a?t=1", "SERVER_URL=ws://a?t=…"],
    ["ws://user:pass@a/ws?t=1", "ws://…@a/ws?t=…"],
    ['{"url":"ws://a?t=1","next":2}', '{"url":"ws://a?t=…","next":2}'],
    ["ws://a?to=http://b?t=1&u=2", "ws://a?to=…&u=…"],
  ];
  for (const [text, as] of texts) {
    assert.equal(redactUrl(text), as);
    assert.equal(redactUrl(as), as, "twice is once");
  }
  const startedAt = performance.now();
  for (const part of ["ws://", "?", ",", "a=", "&", "@:"]) redactUrl(`ws://${part.repeat(60_000)} `);
  assert.ok(performance.now() - startedAt < 1000, "the time grows with the length, not with its square");
});

for (const format of ["pretty", "json"]) {
  test(`no line of the ${format} log has a URL's secret`, async (t) => {
    const url = "ws://127.0.0.1:1/ws?access_token=secret";
    const client = startClient(t, `--url=${url}`, `--log-format=${format}`);
    await client.line(/dial-failed/);
    client.child.kill("SIGTERM");
    assert.equal((await client.exited).code, 2);
    assert.match(client.lines.join("\n"), /\/ws\?access_token=…/);
    assert.doesNotMatch(client.lines.join("\n"), /secret/);
  });
}

test("printable() leaves no control character", () => {
  assert.equal(printable("a\x1b[31mb\r\n\x07c\u009b"), "a�[31mb���c�");
});

test("toJson() is one line of JSON without a control character", () => {
  const value = { text: 'a\x1b\n\x7f\u009b"\ud800' };
  assert.equal(toJson(value), '{"text":"a\\u001b\\n\\u007f\\u009b\\"\\ud800"}');
  assert.deepEqual(JSON.parse(toJson(value)), value);
});

// ---- Admin port

/** More than the buffers between two sockets take. */
const LARGE = "x".repeat(16 * 2 ** 20);

async function startAdmin(t: TestContext, guard?: Guard, takeMs?: number): Promise<{ port: number; admin: Server }> {
  const admin = createAdmin(
    {
      "/healthz": () => ({ status: 200, body: "ok\n" }),
      "/metrics": () => ({ status: 200, body: "metrics\n" }),
      "/report": () => ({ status: 200, body: "data\n" }),
      "/large": () => ({ status: 200, body: LARGE }),
    },
    guard,
    takeMs,
  ).listen(0);
  t.after(() => {
    admin.close();
    admin.closeAllConnections();
  });
  await once(admin, "listening");
  return { port: (admin.address() as AddressInfo).port, admin };
}

function ask(port: number, path: string, host: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    get({ port, host: "127.0.0.1", path, headers: { host }, agent: false }, async (response) => {
      let body = "";
      for await (const chunk of response.setEncoding("utf8")) body += chunk;
      resolve({ status: response.statusCode!, body });
    }).on("error", reject);
  });
}

/** Asks, and does not read until it is told to. */
async function askAndWait(t: TestContext, port: number, path: string) {
  const socket = connectTcp(port, "127.0.0.1");
  t.after(() => socket.destroy());
  await once(socket, "connect");
  const answered = once(socket, "readable");
  socket.write(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
  await answered;
  return socket;
}

test("the admin port shows data under this machine's names only, and says how to allow another", async (t) => {
  const { port } = await startAdmin(t, { paths: ["/report"], names: ["Proxy.example", "[2001:db8::7]:80"] });
  const own = Object.values(networkInterfaces()).flatMap((list) => list ?? []).map(({ address, family }) =>
    family === "IPv6" ? `[${address}]` : address
  );
  const names = [
    "localhost",
    "LocalHost",
    "127.0.0.1",
    "127.9.9.9",
    "[::1]",
    hostname(),
    hostname().toUpperCase(),
    ...own,
  ];
  for (const name of [...names, "proxy.EXAMPLE", "[2001:DB8::7]"]) {
    for (const host of [name, `${name}:${port}`, `${name}:1`]) {
      assert.deepEqual(await ask(port, "/report", host), { status: 200, body: "data\n" }, host);
    }
  }
  const strange = ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "127.evil", "x.proxy.example"];
  for (const host of [...strange, "203.0.113.7", "[2001:db8::8]", "*"]) {
    const { status, body } = await ask(port, "/report", host);
    assert.equal(status, 403, host);
    assert.match(body, /^[^\n]+ --allow-host [^\n]+\n$/);
    for (const path of ["/healthz", "/metrics"]) assert.equal((await ask(port, path, host)).status, 200, path);
    assert.equal((await ask(port, "/nonsense", host)).status, 404);
  }
  for (const request of ["GET /report HTTP/1.0\r\n\r\n", "GET /report HTTP/1.1\r\nHost:\r\n\r\n"]) {
    const bare = connectTcp(port, "127.0.0.1", () => bare.write(request));
    t.after(() => bare.destroy());
    assert.match(String((await once(bare, "data"))[0]), /^HTTP\/1\.1 403 /, "without a name");
  }
});

test("the admin port shows data under any name where * is allowed, and where nothing is guarded", async (t) => {
  for (const guard of [{ paths: ["/report"], names: ["a", "*"] }, undefined]) {
    const { port } = await startAdmin(t, guard);
    assert.equal((await ask(port, "/report", "evil.example")).status, 200);
  }
});

test("the admin port keeps at most 8 answers for slow readers, and answers probes meanwhile", async (t) => {
  const { port } = await startAdmin(t);
  const readers = [];
  for (let number = 0; number < 8; number++) readers.push(await askAndWait(t, port, "/large"));
  assert.deepEqual(await ask(port, "/report", "localhost"), {
    status: 503,
    body: "Too many answers are not taken yet\n",
  });
  assert.equal((await ask(port, "/healthz", "localhost")).status, 200);
  let length = 0;
  for await (const chunk of readers[0]!) if ((length += chunk.length) > LARGE.length) break;
  assert.equal((await ask(port, "/report", "localhost")).status, 200, "who has read makes room");
  readers[0] = await askAndWait(t, port, "/large");
  assert.equal((await ask(port, "/report", "localhost")).status, 503);
  readers[1]!.destroy();
  while ((await ask(port, "/report", "localhost")).status === 503);
});

test("the admin port cuts off who does not take an answer in time", async (t) => {
  const { port, admin } = await startAdmin(t, undefined, 500);
  const connected = once(admin, "connection");
  const startedAt = performance.now();
  await askAndWait(t, port, "/large");
  const [socket] = await connected as [Socket];
  await once(socket, "close");
  const tookMs = performance.now() - startedAt;
  assert.ok(tookMs > 400 && tookMs < 3000 + slackMs(), `${tookMs} ms`);
});

test("the admin port lets go who connects and says nothing, as the main port does", async (t) => {
  const { admin } = await startAdmin(t);
  assert.deepEqual([admin.headersTimeout, admin.requestTimeout], [10_000, 10_000]);
});
