import assert from "node:assert/strict";
import { Buffer } from "node:buffer";
import process from "node:process";
import { test } from "node:test";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import {
  answerTo,
  backoffMs,
  betrayed,
  binaryText,
  closeReason,
  confirmedUpTo,
  count,
  decode,
  describeDialect,
  type Dialect,
  dialectNamed,
  type DialectParts,
  DIALECTS,
  duration,
  encode,
  type Frame,
  helloIn,
  type How,
  isSendableCloseCode,
  isSteady,
  judge,
  type LateBetween,
  Ledger,
  MAX_MESSAGE_BYTES,
  MAX_PAYLOAD_BYTES,
  observe,
  parseDialect,
  percentile,
  type Policy,
  printable,
  type Range,
  type Redial,
  type Rule,
  RULES,
  serverIn,
  type SessionEvent,
  type Symptom,
  timestamp,
  toJson,
  wireOf,
} from "../protocol.ts";
import { run } from "./helper.ts";

const AT = "2026-01-02T03:04:05.678Z";
const HELLO: Frame = { type: "HELLO", server: "pod-a", instance: "a", session: "s", intervalMs: 2000 };
const FRAMES: Frame[] = [
  HELLO,
  { type: "DATA", seq: 1, at: AT, ack: 0 },
  { type: "DATA", seq: 2, at: AT, ack: 1, payload: "xxx" },
  { type: "SHUTDOWN", at: AT, reason: "", remaining: 3, lastSeq: 5, intervalMs: 100, budgetMs: 25000 },
  { type: "ACK", lastSeq: 0 },
  { type: "CLOSE", at: AT, sent: 5, received: 2 },
];

test("encode() and decode() agree on every frame", () => {
  for (const frame of FRAMES) assert.deepEqual(decode(encode(frame)), frame);
});

test("decode() names field, rule and value of what it refuses", () => {
  const refused: [text: string, message: string][] = [
    ["", `Cannot decode frame: must be JSON: current value is ""`],
    ["{", `Cannot decode frame: must be JSON: current value is "{"`],
    ["x".repeat(99), `Cannot decode frame: must be JSON: current value is "${"x".repeat(39)}…`],
    ...["null", "1", '"DATA"', "[]", "{}", '{"type":1}', '{"type":"constructor"}', '{"type":"data"}'].map(
      (text): [string, string] => [
        text,
        "Cannot decode frame: 'type' must be one of HELLO, DATA, SHUTDOWN, ACK, CLOSE: current value is " +
        (JSON.stringify(JSON.parse(text)?.type) ?? "undefined"),
      ],
    ),
    [
      '{"type":"ACK","lastSeq":-1}',
      "Cannot decode ACK frame: 'lastSeq' must be an integer from 0 on: current value is -1",
    ],
    ['{"type":"ACK"}', "Cannot decode ACK frame: 'lastSeq' must be an integer from 0 on: current value is undefined"],
  ];
  for (const [text, message] of refused) assert.throws(() => decode(text), { name: "SyntaxError", message }, text);
});

test("decode() refuses every field of every frame when it is missing or of another kind", () => {
  for (const frame of FRAMES) {
    for (const field of Object.keys(frame).filter((name) => name !== "type")) {
      // An empty reason and a missing payload are fine: what is wrong for them is a number.
      const wrong = field === "reason" || field === "payload"
        ? [1, null, {}]
        : [undefined, null, true, {}, [], "", "x", -1, 0.5];
      for (const value of wrong) {
        if (field === "server" || field === "instance" || field === "session") { if (value === "x") continue; }
        const text = JSON.stringify({ ...frame, [field]: value });
        assert.throws(() => decode(text), {
          name: "SyntaxError",
          message: new RegExp(`^Cannot decode ${frame.type} frame: '${field}' must be`),
        }, text);
      }
    }
  }
  assert.throws(
    () => decode('{"type":"DATA","seq":0,"at":"2026-01-02T03:04:05.678Z","ack":0}'),
    /'seq' must be a positive/,
  );
  assert.throws(
    () => decode('{"type":"DATA","seq":1,"at":"2026-01-02 03:04:05","ack":0}'),
    /'at' must be an ISO 8601 time/,
  );
  assert.throws(
    () => decode('{"type":"DATA","seq":9007199254740992,"at":"2026-01-02T03:04:05.678Z","ack":0}'),
    /'seq'/,
  );
});

test("decode() lets fields pass that it does not know", () => {
  assert.equal(decode('{"type":"ACK","lastSeq":1,"later":true}').type, "ACK");
});

// ---- Dialects

const own = (parts: DialectParts, name = "plain") => describeDialect(name, undefined, parts);

test("every known dialect compiles, says what can be sent, and expects a clean end and a move", () => {
  for (const name of DIALECTS) {
    const dialect = dialectNamed(name);
    assert.deepEqual([dialect.name, dialect.expect], [name, name === "v1" ? RULES : ["clean", "moved"]]);
    assert.ok(dialect.codes.length > 0, name);
    for (const text of [...dialect.open, dialect.heartbeat?.text ?? ""]) assert.doesNotThrow(() => wireOf(text), text);
  }
});

test("every known dialect has the close codes of a graceful end: 1001 and 1012, and its own", () => {
  const own: Record<string, number[]> = {
    v1: [1001],
    "socket.io": [1000, 1001, 1005, 1012],
    centrifugo: [1001, 1012, 3001],
    ...Object.fromEntries(["signalr", "actioncable", "phoenix", "sockjs", "mqtt", "nats"].map((name) => [
      name,
      [1000, 1001, 1012],
    ])),
  };
  for (const name of DIALECTS) assert.deepEqual(dialectNamed(name).codes, own[name] ?? [1001, 1012], name);
});

test("a first message betrays the dialects whose servers greet, and no other", () => {
  const greetings = {
    '0{"sid":"x","upgrades":[],"pingInterval":25000,"pingTimeout":20000}': "socket.io",
    "o": "sockjs",
    'INFO {"server_id":"N1"}\r\n': "nats",
    '{"type":"welcome"}': "actioncable",
  };
  for (const [text, name] of Object.entries(greetings)) assert.equal(betrayed(text)?.name, name);
  for (const text of ["", "hello", "0", "oo", '{"type":"ping"}', "INFO", "2"]) assert.equal(betrayed(text), undefined);
});

// deno-fmt-ignore
const WRONG_PARTS: [parts: string, error: RegExp][] = [
  ...["[]", "null", "7", '"plain"'].map((text): [string, RegExp] => [text, /^must be an object$/]),
  ["{", /^must be JSON: /],
  ['{"sequense":"x"}', /^has an unknown part "sequense": its parts are subprotocol, headers, /],
  ['{"open":"hello"}', /^'open' must be a list of strings: current value is "hello"$/],
  ['{"subprotocol":["a",7]}', /^'subprotocol' must be a list of strings: current value is an array$/],
  ['{"headers":{"A":"1","B":2}}', /^'headers' must be an object whose values are strings: current value is an object$/],
  ['{"replies":["2","3"]}', /^'replies' must be an object whose values are strings: current value is an array$/],
  ['{"codes":[999]}', /^'codes' must be a list of close codes/],
  ['{"codes":[1005,1006]}', /^'codes' must be a list of close codes/],
  ['{"notice":""}', /^'notice' must be a non-empty string/],
  ['{"sequence":"seq"}', /^'sequence' must have one group, which is what it finds: "seq"$/],
  ['{"sequence":"(\\\\d+) of (\\\\d+)"}', /^'sequence' must have one group, which is what it finds: "\(\\\\d\+\) of/],
  ['{"server":"(a)(b)"}', /^'server' must have one group/],
  ['{"server":"from (\\\\w+"}', /^'server' must be a regular expression without back references and lookaround \(Unterminated group\)/],
  ['{"notice":"(a)\\\\1"}', /^'notice' must be a regular expression without back references and lookaround \(Cannot be executed in linear time\)/],
  ['{"replies":{"[":"x"}}', /^'replies' must be a regular expression/],
  ['{"open":["hex:0"]}', /^'open' must have two hexadecimal digits a byte after hex: "hex:0"$/],
  ['{"heartbeat":"ping"}', /^'heartbeat' must be TEXT@25s: "ping"$/],
  ['{"heartbeat":"ping@often"}', /^'heartbeat' must be TEXT@25s, and its duration must be ms from 10/],
];
for (const [parts, error] of WRONG_PARTS) {
  test(`a dialect of ${parts} is refused, with part and rule`, () => {
    assert.throws(
      () => describeDialect("my.json", parseDialect(parts), {}),
      (thrown: Error) => {
        assert.match(thrown.message, error);
        return thrown instanceof RangeError;
      },
    );
  });
}

test("a dialect of one's own has the parts that it is given, and no others", () => {
  const { ready, notice, server, ...rest } = own({
    subprotocol: ["chat"],
    headers: { "X-Tenant": "a" },
    open: ["hello"],
    ready: "^hi",
    heartbeat: "ping@25s",
    server: "header:X-Pod",
    codes: [1005, 4000],
  }, "phoenix");
  assert.deepEqual([ready!("hi")?.[0], notice, server], ["hi", undefined, undefined]);
  assert.deepEqual(rest, {
    name: "phoenix",
    isFramed: false,
    subprotocol: ["chat"],
    headers: { "X-Tenant": "a" },
    open: ["hello"],
    greeting: undefined,
    replies: [],
    heartbeat: { text: "ping", everyMs: 25_000 },
    farewell: undefined,
    sequence: undefined,
    serverHeader: "x-pod",
    codes: [1005, 4000],
    expect: ["clean", "moved"],
  });
  const { subprotocol, headers, open, heartbeat, serverHeader } = own({ ready: "^hi" });
  assert.deepEqual([subprotocol, headers, open, heartbeat, serverHeader], [[], {}, [], undefined, undefined]);
  assert.deepEqual(describeDialect("my.json", parseDialect('{"codes":[1005,4000]}'), {}).codes, [1005, 4000]);
  for (const name of ["v1", "phoenix"]) assert.equal(own({}, name), dialectNamed(name)); // compiled once
});

test("a dialect of one's own expects what its parts can show", () => {
  assert.deepEqual(own({}).expect, ["clean", "moved"]);
  assert.deepEqual(own({ notice: "bye" }).expect, ["notice", "clean", "moved"]);
  assert.deepEqual(own({ sequence: "#(\\d+)", farewell: "end" }).expect, ["complete", "farewell", "clean", "moved"]);
  assert.deepEqual(own({ farewell: "bye" }, "nats").expect, ["farewell", "clean", "moved"]); // its ldm stays a bonus
  assert.deepEqual(describeDialect("my.json", { notice: "bye" }, { sequence: "#(\\d+)" }).expect, [
    "notice",
    "complete",
    "clean",
    "moved",
  ]);
  assert.throws(() => own({ notice: "bye" }, "v1"), /^RangeError: notice cannot be changed in v1$/);
});

test("every known dialect's patterns take linear time", () => {
  const texts = [
    '{"type":"disconnect"',
    '"type":"disconnect"',
    '{"type":7,',
    '\x1e{"type":7,',
    "Final data: - 1",
    "Final data: 1 - 1",
    "^hex:20",
  ].map((text) => text.repeat(Math.ceil(2 ** 20 / text.length)));
  for (const { greeting, ready, notice, farewell, sequence, replies } of DIALECTS.map(dialectNamed)) {
    for (const pattern of [greeting, ready, notice, farewell, sequence, ...replies.map(([pattern]) => pattern)]) {
      const from = performance.now();
      for (const text of texts) pattern?.(text);
      const tookMs = performance.now() - from; // a quadratic one takes more than a minute
      assert.ok(tookMs < 10_000, `${tookMs} ms`);
    }
  }
});

test("a farewell of ActionCable or SignalR is found where it stands", () => {
  const [cable, signalr] = [dialectNamed("actioncable"), dialectNamed("signalr")];
  assert.ok(cable.farewell!('{"type":"disconnect","reason":"server_restart","reconnect":true}'));
  assert.equal(cable.farewell!('{"type":"disconnect","reason":"unauthorized","reconnect":false}'), null);
  const close = '{"type":7,"error":"going","allowReconnect":true}\x1e';
  assert.ok(signalr.farewell!(close) && signalr.farewell!(`{"type":6}\x1e${close}`));
  assert.equal(signalr.farewell!('{"type":7,"error":"failed"}\x1e{"type":1,"allowReconnect":true}\x1e'), null);
});

test("a server's name does not keep the message that it came in", () => {
  setFlagsFromString("--expose-gc");
  const collect = runInNewContext("gc") as () => void;
  const dialect = describeDialect("plain", undefined, { server: '"server":"([^"]+)"' });
  const names: (string | undefined)[] = [];
  collect();
  const before = process.memoryUsage().heapUsed;
  for (let nth = 0; nth < 40; nth++) {
    names.push(
      serverIn(dialect, `{"server":"a-name-of-some-length-${nth}","rest":"${`${nth}`.padEnd(1_000_000, "x")}"}`),
    );
  }
  collect();
  assert.equal(names[39], "a-name-of-some-length-39");
  assert.ok(process.memoryUsage().heapUsed - before < 20_000_000);
});

test("a program ends with 2 for a mistake, for what the system refuses, and for a bug: 1 would be a verdict", async (t) => {
  const ends = async (body: string) => {
    const script = `require("./dist/protocol.js").run(async () => { ${body} })`;
    const { code, stderr } = await run(t, [process.execPath, "-e", script]);
    return [code, stderr];
  };
  assert.deepEqual(await ends(`throw new (require("./dist/protocol.js").UserError)("a\\r\\nb ws://a?t=1")`), [
    2,
    "a��b ws://a?t=…",
  ]);
  assert.deepEqual(await ends('require("fs").readFileSync("/no/such/file")'), [
    2,
    "ENOENT: no such file or directory, open '/no/such/file'",
  ]);
  for (const bug of ["null.x", "setTimeout(() => null.x)"]) {
    const [code, stderr] = await ends(bug);
    assert.equal(code, 2);
    assert.match(String(stderr), /^TypeError: Cannot read properties of null[^]*\n {4}at /);
  }
});

test("a pattern of one's own takes linear time, and looks at the beginning of a message", () => {
  const { notice, sequence } = own({ notice: "^(a+)+$", sequence: "seq=(\\d+)" });
  const startedAt = performance.now();
  assert.equal(notice!(`${"a".repeat(8000)}b`), null);
  assert.ok(performance.now() - startedAt < 5000);
  assert.equal(sequence!(`${"x".repeat(8192 - 5)}seq=7`)![1], "7");
  assert.equal(sequence!(`${"x".repeat(8192 - 5)}seq=78`)![1], "7");
});

test("a binary message is its text where it is one, else its digits", () => {
  assert.equal(binaryText(Buffer.from("INFO {}\r\n")), "INFO {}\r\n");
  assert.equal(binaryText(Buffer.from([0x20, 3, 0])), "hex:200300");
  assert.equal(binaryText(Buffer.from([0xe0, 0x8b])), "hex:e08b");
  assert.deepEqual([wireOf("hex:c000"), wireOf("hexagon")], [Buffer.from([0xc0, 0]), "hexagon"]);
});

test("a ledger reads notice, numbers, farewell and server in an application's own messages", () => {
  const dialect = own({ notice: '"bye"', farewell: '"end"', sequence: '"n":(\\d+)', server: '"on":"([^"]+)"' });
  const { ledger } = play([
    { type: "OPEN" },
    ...['{"n":7,"on":"pod-x"}', '{"n":8,"on":"pod-y"}', '{"n":10}', '{"n":9}', '{"n":10}', '{"bye"}', '{"n":12,"end"}']
      .map((text): SessionEvent => ({ type: "TEXT", text })),
    frameClosed(),
    end(),
  ], dialect);
  assert.deepEqual([ledger.server, ledger.instance], ["pod-x", "pod-x"]);
  assert.deepEqual([ledger.received, ledger.highest], [5, 12]);
  assert.deepEqual([ledger.missing, ledger.reordered, ledger.duplicated], [[[11, 11]], [[9, 9]], [[10, 10]]]);
  assert.ok(ledger.noticeAt !== undefined && ledger.closeAt !== undefined);
});

// deno-fmt-ignore
const OWN_CASES: [what: string, texts: string[], symptom: Symptom | null, marks: string][] = [
  ["all that it promises", ["1", "2", "bye", "3", "end"], null, "pass pass pass pass pass"],
  ["a gap", ["1", "bye", "3", "end"], "DATA_LOST", "pass FAIL pass pass pass"],
  ["a repeat", ["1", "1", "bye", "end"], "DATA_DUPLICATED", "pass FAIL pass pass pass"],
  ["a late one", ["1", "3", "2", "bye", "end"], "DATA_REORDERED", "pass FAIL pass pass pass"],
  ["no notice", ["1", "end"], "NO_NOTICE", "FAIL pass pass pass pass"],
  ["no farewell", ["1", "bye"], "NO_FAREWELL", "pass pass FAIL pass pass"],
  ["a message after the farewell", ["1", "bye", "end", "2"], "NO_FAREWELL", "pass pass FAIL pass pass"],
];
for (const [what, texts, symptom, marks] of OWN_CASES) {
  test(`judge() of an application's own dialect with ${what} says ${symptom ?? "graceful"}`, () => {
    const dialect = own({ notice: "bye", farewell: "end", sequence: "^(\\d+)$", codes: [4000] });
    const steps: Step[] = [{ type: "OPEN" }, ...texts.map((text): SessionEvent => ({ type: "TEXT", text }))];
    const { ledger, now } = play([...steps, frameClosed(4000), end()], dialect);
    const next = new Ledger("ws://b/ws", dialect, 2000);
    observe(next, { type: "OPEN" }, now + 10);
    const redial: Redial = { startedAt: now, chosenMs: 5, failed: {}, readyEndpoints: null, lastOnEndingMs: null };
    const handover = judge(1, ledger, next, redial, { ...POLICY, expectCode: [] }, now + 10, 0);
    assert.equal(handover.symptom, symptom);
    const rules = RULES.map((rule) => handover.rules[rule] === "fail" ? "FAIL" : handover.rules[rule]).join(" ");
    assert.equal(rules, marks);
  });
}

// deno-fmt-ignore
const ANSWERS: [code: number | undefined, reason: string, answer: RegExp | undefined][] = [
  [4406, "Subprotocol not acceptable", /another subprotocol/],
  [4406, "", /another subprotocol/],
  [1010, "", /another subprotocol/],
  [4408, "Connection initialisation timeout", /greeting/],
  [1008, "invalid token", /who is there/],
  [4401, "", /who is there/],
  [4400, "", /greeting/],
  [3000, "", /who is there/],
  [3003, "", /who is there/],
  [4403, "", /who is there/],
  [3008, "", /heartbeat/],
  [1000, "ping timeout", /heartbeat/],
  [1001, "Idle Timeout", /silent/],
  [1001, "max connection age reached", /age/],
  [4429, "", /fewer --sessions/],
  [1002, "", /does not understand/],
  [1003, "", /does not understand/],
  [1007, "", /does not understand/],
  [1008, "", /does not understand/],
  [1001, "", undefined],
  [1001, "going away", undefined],
  [1012, "service restart", undefined],
  [1001, "shutdown: drain timeout", undefined],
  [1001, "Pod terminating, grace timeout 30s", undefined],
  [1012, "upgrade; session token kept", undefined],
  [1001, "scaling in: lease expired", undefined],
  [1000, "", undefined],
  [1005, "", undefined],
  [4000, "restarting", undefined],
  [undefined, "", undefined],
  [undefined, "idle timeout", undefined],
];
for (const [code, reason, answer] of ANSWERS) {
  test(`a close with ${code} "${reason}" ${answer === undefined ? "may be a shutdown's" : "turns somebody away"}`, () => {
    const found = answerTo(code, reason, [1001, 1012]);
    if (answer === undefined) assert.equal(found, undefined);
    else assert.match(found ?? "nothing", answer);
  });
}

test("a session that a server closes for a reason of its own is TURNED_AWAY, also with a graceful code", () => {
  const closed = (code: number, reason: string): Step[] => [
    ...OPENING,
    { type: "CLOSE_FRAME", code, reason },
    end(),
  ];
  assert.equal(verdictOf(closed(4408, "")).symptom, "TURNED_AWAY");
  assert.equal(
    verdictOf(closed(1001, "idle timeout"), { policy: { expect: ["clean", "moved"] } }).symptom,
    "TURNED_AWAY",
  );
  assert.equal(verdictOf(closed(1001, "bye"), { policy: { expect: ["clean", "moved"] } }).symptom, null);
  assert.equal(verdictOf(closed(4408, ""), { policy: { expect: ["clean"], expectCode: [4408] } }).symptom, null);
  // Where evidence will tell, words do not.
  const isWatched = { expect: ["clean", "moved"] as const, isWatched: true };
  assert.equal(verdictOf(closed(1001, "idle timeout"), { policy: isWatched }).symptom, null);
  assert.equal(verdictOf(closed(4408, ""), { policy: isWatched }).symptom, "WRONG_CLOSE_CODE");
});

// ---- Ledger

type Step = SessionEvent | number;

/** A ledger after events; a number lets so many ms pass. Starts at 1000. */
function play(steps: Step[], dialect: Dialect | string = "v1"): { ledger: Ledger; now: number } {
  const ledger = new Ledger("ws://a/ws", dialect, 2000);
  let now = 1000;
  for (const step of steps) {
    if (typeof step === "number") now += step;
    else observe(ledger, step, now);
  }
  return { ledger, now };
}

const dataFrame = (seq: number, ack = 0): Frame => ({ type: "DATA", seq, at: AT, ack });
const sent = (seq: number, again = false): SessionEvent => ({ type: "SENT", seq, again });
const shutdown = (remaining: number, lastSeq: number): Frame => ({
  type: "SHUTDOWN",
  at: AT,
  reason: "",
  remaining,
  lastSeq,
  intervalMs: 100,
  budgetMs: 1000,
});
const close = (all: number, received: number): Frame => ({ type: "CLOSE", at: AT, sent: all, received });
const ack = (lastSeq: number): Frame => ({ type: "ACK", lastSeq });
const frameClosed = (code = 1001): SessionEvent => ({ type: "CLOSE_FRAME", code, reason: "" });
const end = (how: How = "fin"): SessionEvent => ({ type: "END", how });

test("observe() keeps ranges of what is missing, repeated and late", () => {
  const cases: [seqs: number[], missing: Range[], duplicated: Range[], reordered: Range[], received: number][] = [
    [[1, 2, 3], [], [], [], 3],
    [[2], [[1, 1]], [], [], 1],
    [[1, 5, 9], [[2, 4], [6, 8]], [], [], 3],
    [[1, 1, 2, 2, 2], [], [[1, 2], [2, 2]], [], 2],
    [[2, 1], [], [], [[1, 1]], 2],
    [[1, 6, 3], [[2, 2], [4, 5]], [], [[3, 3]], 3],
    [[1, 4, 2, 3], [], [], [[2, 3]], 4],
    [[3, 1, 1], [[2, 2]], [[1, 1]], [[1, 1]], 2],
  ];
  for (const [seqs, missing, duplicated, reordered, received] of cases) {
    const { ledger } = play([HELLO, ...seqs.map((seq) => dataFrame(seq))]);
    assert.deepEqual(
      [ledger.missing, ledger.duplicated, ledger.reordered, ledger.received],
      [missing, duplicated, reordered, received],
      String(seqs),
    );
  }
});

test("observe() refuses frames that have no place in the session, and more gaps than it keeps", () => {
  const refused: [Step[], RegExp][] = [
    [[dataFrame(1)], /DATA frame: it came before HELLO/],
    [[shutdown(0, 0)], /SHUTDOWN frame: it came before HELLO/],
    [[close(0, 0)], /CLOSE frame: it came before HELLO/],
    [[HELLO, HELLO], /HELLO frame: it came after HELLO/],
    [[HELLO, shutdown(1, 1), shutdown(1, 1)], /SHUTDOWN frame: it came after SHUTDOWN/],
    [[HELLO, close(0, 0), close(0, 0)], /CLOSE frame: it came after CLOSE/],
    [[HELLO, close(0, 0), shutdown(0, 0)], /SHUTDOWN frame: it came after CLOSE/],
    [[HELLO, ...Array.from({ length: 101 }, (_, index) => dataFrame(2 * index + 2))], /more than 100 gaps/],
  ];
  for (const [steps, message] of refused) assert.throws(() => play(steps), { name: "SyntaxError", message });
});

test("confirmedUpTo() believes a session about its own messages only, and CLOSE more than an ack", () => {
  const cases: [steps: Step[], before: number, confirmed: number][] = [
    [[HELLO], 7, 7],
    [[HELLO, sent(8)], 7, 7],
    [[HELLO, sent(8), sent(9), dataFrame(1, 8)], 7, 8],
    [[HELLO, sent(8), dataFrame(1, 99)], 7, 8], // it cannot have got what was never sent
    [[HELLO, sent(8), sent(9), dataFrame(1, 9), close(1, 8)], 7, 8],
    [[HELLO, sent(8), sent(9), dataFrame(1, 9), close(1, 0)], 7, 7],
    [[HELLO, sent(3, true), sent(4), dataFrame(1, 3)], 2, 3],
  ];
  for (const [steps, before, confirmed] of cases) assert.equal(confirmedUpTo(play(steps).ledger, before), confirmed);
});

test("isSteady() asks for a confirmation in both directions", () => {
  assert.equal(isSteady(play([HELLO, dataFrame(1), sent(1)]).ledger), false);
  assert.equal(isSteady(play([HELLO, sent(1), dataFrame(1, 1)]).ledger), false);
  assert.equal(isSteady(play([HELLO, sent(1), dataFrame(1, 1), sent(2)]).ledger), true);
  assert.equal(isSteady(play([{ type: "OPEN" }], "plain").ledger), false);
  assert.equal(isSteady(play([{ type: "OPEN" }, { type: "TEXT", text: "" }], "plain").ledger), true);
});

test("a ledger keeps all that a session has shown, and nothing else", () => {
  const v1 = play([
    HELLO,
    sent(7, true),
    dataFrame(1, 7),
    sent(8),
    dataFrame(4, 8),
    500,
    shutdown(2, 6),
    ack(8),
    dataFrame(6, 8),
    close(6, 8),
    dataFrame(6, 8),
    frameClosed(1001),
    20,
    end(),
  ]).ledger;
  const { openedAt, ...rest } = v1;
  assert.equal(openedAt, 1000);
  assert.deepEqual(rest, {
    ...rest,
    dialect: dialectNamed("v1"),
    isNumbered: true,
    server: "pod-a",
    dueMs: 100,
    firstDataAt: 1000,
    lastDataAt: 1500,
    received: 3,
    highest: 6,
    missing: [[2, 3], [5, 5]],
    duplicated: [[6, 6]],
    reordered: [],
    sentFirst: 7,
    sentLast: 8,
    resent: 1,
    acked: 8,
    ackGiven: 1,
    ackSent: 8,
    noticeAt: 1500,
    notice: { remaining: 2, lastSeq: 6 },
    receivedAtNotice: 2,
    highestAtNotice: 4,
    closeAt: 1500,
    close: { sent: 6, received: 8 },
    afterClose: 1,
    closeCode: 1001,
    closeReason: "",
    endedAt: 1520,
    how: "fin",
    complaint: undefined,
  });
  const before = new Ledger("ws://a/ws", "v1", 3000);
  assert.deepEqual([before.url, before.server, before.dueMs, before.session, before.closeReason], [
    "ws://a/ws",
    "ws://a/ws",
    3000,
    "",
    "",
  ]);
  const numbers = ["received", "highest", "sentFirst", "sentLast", "resent", "acked", "ackGiven"] as const;
  const more = ["receivedAtNotice", "highestAtNotice", "afterClose"] as const;
  assert.deepEqual([...numbers, ...more].map((name) => before[name]), Array(10).fill(0));
});

test("a plain ledger tells pongs, words and messages apart", () => {
  const text = (text: string): SessionEvent => ({ type: "TEXT", text });
  const { ledger } = play([
    { type: "OPEN" },
    text(""),
    10,
    text("one"),
    text("SHUTDOWN"),
    10,
    text("SHUTDOWN"),
    text("two"),
    text("CLOSE"),
    10,
    text(""),
    text("CLOSE"),
    text("three"),
    { type: "CLOSE_FRAME", code: 1012, reason: "restart" },
    end("reset"),
  ], "plain");
  const { firstDataAt, lastDataAt, received, noticeAt, receivedAtNotice, closeAt, afterClose, closeCode } = ledger;
  assert.deepEqual(
    { firstDataAt, lastDataAt, received, noticeAt, receivedAtNotice, closeAt, afterClose, closeCode },
    {
      firstDataAt: 1000,
      lastDataAt: 1030,
      received: 3,
      noticeAt: 1010,
      receivedAtNotice: 1,
      closeAt: 1020,
      afterClose: 2,
      closeCode: 1012,
    },
  );
  assert.deepEqual([ledger.closeReason, ledger.how], ["restart", "reset"]);
});

test("a ledger cuts names that are longer than a pod's can be", () => {
  for (const [length, kept] of [[252, 252], [253, 253], [254, 253], [5000, 253]] as const) {
    const name = `a${"b".repeat(length - 1)}`;
    const ledger = new Ledger("ws://a/ws", "v1", 2000);
    observe(ledger, { type: "HELLO", server: name, instance: name, session: name, intervalMs: 1 }, 0);
    assert.deepEqual([ledger.server, ledger.instance, ledger.session], Array(3).fill(name.slice(0, kept)));
  }
});

test("a ledger bears a hundred gaps, repeats and late messages in all, and no more", () => {
  const ledger = new Ledger("ws://a/ws", "v1", 2000);
  observe(ledger, HELLO as Frame, 0);
  let at = 0;
  const arrive = (seq: number) => observe(ledger, dataFrame(seq) as Frame, ++at);
  for (let nth = 1; nth <= 60; nth++) arrive(2 * nth); // 60 gaps
  for (let nth = 1; nth <= 20; nth++) arrive(4 * nth); // 20 repeats, apart
  for (let nth = 0; nth < 20; nth++) arrive(6 * nth + 1); // 20 late ones: each closes a gap
  assert.deepEqual([ledger.missing.length, ledger.duplicated.length, ledger.reordered.length], [40, 20, 20]);
  for (let nth = 61; nth <= 80; nth++) arrive(2 * nth);
  assert.throws(() => arrive(200), /more than 100 gaps, repeats and late messages/);
});

// ---- Judgement

const POLICY: Policy = { expect: [], expectCode: [1001], maxReconnectMs: 5000 };

interface Way {
  waitMs?: number;
  forcedMs?: number;
  instance?: string;
  /** No next session: so much time has passed since the end. */
  nowhereAfterMs?: number;
  policy?: Partial<Policy>;
  dialect?: "v1" | "plain";
  /** Why we gave the session up. */
  complaint?: string;
}

function verdictOf(steps: Step[], way: Way = {}) {
  const { waitMs = 50, forcedMs = 10, instance = "b", nowhereAfterMs, policy = {}, dialect = "v1", complaint } = way;
  const { ledger, now } = play(steps, dialect);
  ledger.complaint = complaint;
  const redial: Redial = { startedAt: now, chosenMs: waitMs, failed: {}, readyEndpoints: null, lastOnEndingMs: null };
  const openedAt = now + waitMs + forcedMs;
  const next = new Ledger("ws://b/ws", dialect, 2000);
  observe(next, dialect === "plain" ? { type: "OPEN" } : { ...HELLO, server: "pod-b", instance } as Frame, openedAt);
  const to = nowhereAfterMs === undefined ? next : undefined;
  return judge(
    1,
    ledger,
    to,
    redial,
    { ...POLICY, ...policy },
    nowhereAfterMs === undefined ? openedAt : now + nowhereAfterMs,
    0,
  );
}

/** A session up to SIGTERM: two DATA each way. */
const OPENING: Step[] = [HELLO, sent(1), dataFrame(1), 2000, dataFrame(2, 1), sent(2)];
const DRAINED: Step[] = [
  ...OPENING,
  500,
  shutdown(2, 4),
  ack(2),
  100,
  dataFrame(3, 2),
  100,
  dataFrame(4, 2),
  close(4, 2),
];
const GRACEFUL: Step[] = [...DRAINED, frameClosed(), 1, end()];

test("judge() passes a graceful handover, with its numbers", () => {
  const { startedMs: _, ...handover } = { startedMs: 0, ...verdictOf(GRACEFUL) };
  assert.deepEqual(handover, {
    slot: 1,
    verdict: "graceful",
    symptom: null,
    reached: null,
    pod: null,
    cause: null,
    evidence: null,
    suspects: null,
    dialect: "v1",
    path: null,
    from: "pod-a",
    to: "pod-b",
    openedMs: 1000,
    endedMs: 3701,
    lastDataMs: 3700,
    noticeMs: 201,
    drainMs: 200,
    remaining: { announced: 2, received: 2, intervalMs: 100 },
    received: 4,
    isNumbered: true,
    sent: 2,
    lastSent: 2,
    resent: 0,
    close: { sent: 4, received: 2 },
    lost: [],
    duplicated: [],
    reordered: [],
    upstreamLost: 0,
    code: 1001,
    reason: "",
    how: "fin",
    complaint: null,
    reconnectMs: 60,
    chosenMs: 50,
    forcedMs: 10,
    failedDials: {},
    readyEndpoints: null,
    lastOnEndingMs: null,
    silenceMs: null,
    arrivedMs: 3761,
    lateMs: 0,
    unseen: false,
    rules: { notice: "pass", complete: "pass", farewell: "pass", clean: "pass", moved: "pass" },
  });
});

const TEXT = (text: string): SessionEvent => ({ type: "TEXT", text });
const PLAIN: Step[] = [
  { type: "OPEN" },
  TEXT("Business data: 01:02:03"),
  2000,
  TEXT("SHUTDOWN"),
  TEXT("Final data: 01:02:05 - 1"),
];

// deno-fmt-ignore
const SYMPTOM_CASES: [name: string, steps: Step[], way: Way, symptom: string | null, marks?: string][] = [
  ["graceful", GRACEFUL, {}, null, "pass pass pass pass pass"],
  ["silent", [...OPENING, 10_000, end("silence")], {}, "STALLED", "FAIL n/a FAIL FAIL pass"],
  ["cut long after the last DATA", [...OPENING, 3001, end()], {}, "STALLED"],
  ["cut in time", [...OPENING, 3000, end()], {}, "CUT_WITHOUT_NOTICE", "FAIL n/a FAIL FAIL pass"],
  ["reset in time", [...OPENING, 100, end("reset")], {}, "CUT_WITHOUT_NOTICE"],
  ["no SHUTDOWN", [...OPENING, close(2, 2), frameClosed(), end()], {}, "NO_NOTICE", "FAIL pass pass pass pass"],
  ["only a close frame", [...OPENING, frameClosed(), end()], {}, "NO_NOTICE", "FAIL pass FAIL pass pass"],
  ["cut in the drain", [...OPENING, shutdown(2, 4), 100, dataFrame(3), end()], {}, "CUT_DURING_DRAIN", "pass n/a FAIL FAIL pass"],
  ["silent in the drain", [...OPENING, shutdown(2, 4), 100, dataFrame(3), 1101, end()], {}, "STALLED"],
  ["message lost", [...OPENING, shutdown(2, 4), ack(2), dataFrame(4), close(4, 2), frameClosed(), end()], {}, "DATA_LOST"],
  ["last message lost", [...OPENING, shutdown(2, 4), ack(2), dataFrame(3), close(4, 2), frameClosed(), end()], {}, "DATA_LOST"],
  ["repeated", [...OPENING, shutdown(1, 3), ack(2), dataFrame(3), dataFrame(3), close(3, 2), frameClosed(), end()], {}, "DATA_DUPLICATED"],
  ["late", [...OPENING, shutdown(2, 4), ack(2), dataFrame(4), dataFrame(3), close(4, 2), frameClosed(), end()], {}, "DATA_REORDERED"],
  ["upstream below our ACK", [...OPENING, shutdown(0, 2), ack(2), close(2, 1), frameClosed(), end()], {}, "UPSTREAM_LOST"],
  ["upstream below an ack", [...OPENING, dataFrame(3, 2), close(3, 1), frameClosed(), end()], { policy: { expect: ["farewell"] } }, "UPSTREAM_LOST"],
  ["no CLOSE", [...OPENING, shutdown(0, 2), ack(2), frameClosed(), end()], {}, "NO_FAREWELL"],
  ["wrong count", [...OPENING, shutdown(0, 2), ack(2), close(3, 2), frameClosed(), end()], {}, "NO_FAREWELL"],
  ["counts what was never sent", [...OPENING, shutdown(0, 2), ack(2), close(2, 9), frameClosed(), end()], {}, "NO_FAREWELL"],
  ["DATA after CLOSE", [...DRAINED, dataFrame(5), frameClosed(), end()], {}, "NO_FAREWELL"],
  ["DATA after CLOSE that it counts", [...OPENING, shutdown(1, 3), ack(2), close(3, 2), dataFrame(3), frameClosed(), end()], {}, "NO_FAREWELL"],
  ["SHUTDOWN after all that it announces", [...OPENING, dataFrame(3), dataFrame(4), shutdown(2, 4), ack(2), close(4, 2), frameClosed(), end()], {}, "NO_NOTICE"],
  ["SHUTDOWN after all that it announces, then a cut", [...OPENING, dataFrame(3), shutdown(1, 3), 100, end()], {}, "CUT_DURING_DRAIN"],
  ["SHUTDOWN after some of what it announces", [...OPENING, dataFrame(3), shutdown(2, 4), ack(2), dataFrame(4), close(4, 2), frameClosed(), end()], {}, null],
  ["SHUTDOWN with nothing to come", [...OPENING, shutdown(0, 2), ack(2), close(2, 2), frameClosed(), end()], {}, null],
  ["sent counts too few, all received", [...OPENING, shutdown(2, 4), ack(2), dataFrame(3), dataFrame(4), close(3, 2), frameClosed(), end()], {}, "NO_FAREWELL"],
  ["sent agrees with what came, not with what was announced", [...OPENING, shutdown(2, 4), ack(2), dataFrame(3), close(3, 2), frameClosed(), end()], { policy: { expect: ["farewell"] } }, "NO_FAREWELL"],
  ["still open when the run ended, told", [...OPENING, shutdown(2, 4), 50, end("open")], { nowhereAfterMs: 0 }, "CUT_DURING_DRAIN", "pass n/a FAIL FAIL n/a"],
  ["cut, with nowhere to go yet", [...OPENING, end()], { nowhereAfterMs: 10 }, "CUT_WITHOUT_NOTICE", "FAIL n/a FAIL FAIL n/a"],
  ["no close frame", [...DRAINED, end()], {}, "NO_CLOSE_FRAME", "pass pass pass FAIL pass"],
  ["no close frame, wrong count", [...OPENING, shutdown(0, 2), ack(2), close(3, 2), end()], {}, "NO_CLOSE_FRAME"],
  ["the same, but only farewell is asked for", [...OPENING, close(3, 2), end()], { policy: { expect: ["farewell"] } }, "NO_FAREWELL"],
  ["reset after the close frame", [...DRAINED, frameClosed(), end("reset")], {}, "RESET_AFTER_CLOSE"],
  ["no FIN", [...DRAINED, frameClosed(), 3000, end("silence")], {}, "NO_FIN"],
  ["another code", [...DRAINED, frameClosed(1012), end()], {}, "WRONG_CLOSE_CODE"],
  ["no code", [...DRAINED, frameClosed(1005), end()], {}, "WRONG_CLOSE_CODE"],
  ["another code that is expected", [...DRAINED, frameClosed(1012), end()], { policy: { expectCode: [1001, 1012] } }, null],
  ["the same server", GRACEFUL, { instance: "a" }, "SAME_SERVER", "pass pass pass pass FAIL"],
  ["the same server, and late", GRACEFUL, { instance: "a", forcedMs: 5001 }, "SAME_SERVER"],
  ["late", GRACEFUL, { forcedMs: 5001 }, "SLOW_RECONNECT"],
  ["just in time after a long wait of our own", GRACEFUL, { waitMs: 9000, forcedMs: 5000 }, null],
  ["nowhere", GRACEFUL, { nowhereAfterMs: 5051 }, "SLOW_RECONNECT"],
  ["first failure first", [...OPENING, end()], { instance: "a" }, "CUT_WITHOUT_NOTICE"],
  ["a failed rule that nobody asked for", [...OPENING, end()], { policy: { expect: ["moved"] } }, null],
  ["plain, cut", [...PLAIN, end()], { dialect: "plain" }, "CUT_DURING_DRAIN", "pass n/a FAIL FAIL pass"],
  ["plain, closed without notice", [PLAIN[0]!, frameClosed(), end()], { dialect: "plain" }, null, "FAIL n/a FAIL pass pass"],
  ["plain, all of it", [...PLAIN, TEXT("CLOSE"), frameClosed(), end()], { dialect: "plain" }, null, "pass pass pass pass pass"],
  ["plain, more after CLOSE", [...PLAIN, TEXT("CLOSE"), TEXT("more"), frameClosed(), end()], { dialect: "plain", policy: { expect: ["farewell"] } }, "NO_FAREWELL"],
  ["plain, without CLOSE", [...PLAIN, frameClosed(), end()], { dialect: "plain", policy: { expect: ["farewell"] } }, "NO_FAREWELL"],
];

for (const [name, steps, way, symptom, marks] of SYMPTOM_CASES) {
  test(`judge() of '${name}' says ${symptom ?? "graceful"}`, () => {
    const handover = verdictOf(steps, way);
    assert.equal(handover.symptom, symptom);
    assert.equal(handover.verdict, symptom === null ? "graceful" : "failed");
    if (marks !== undefined) {
      assert.equal(RULES.map((rule) => handover.rules[rule].replace("fail", "FAIL")).join(" "), marks);
    }
  });
}

test("judge() takes a close that was ours for unclean, whatever its code", () => {
  const { ledger, now } = play(GRACEFUL);
  ledger.complaint = "nonsense";
  const { symptom, rules } = judgeWay(ledger, now, {}, now + 10);
  assert.deepEqual([symptom, rules.clean], ["WITNESS_ENDED", "fail"]);
});

/** Judges a graceful end, after which the way to the next session was `redial`; times in ms after the end. */
function judgeWay(ledger: Ledger, now: number, way: Partial<Redial>, openedAt: number | undefined, late?: LateBetween) {
  const next = new Ledger("ws://b/ws", "v1", 2000);
  if (openedAt !== undefined) observe(next, { ...HELLO, server: "pod-b", instance: "b" } as Frame, openedAt);
  const redial: Redial = {
    startedAt: now,
    chosenMs: 0,
    failed: {},
    readyEndpoints: null,
    lastOnEndingMs: null,
    ...way,
  };
  const at = openedAt ?? now + 60_000;
  return judge(1, ledger, openedAt === undefined ? undefined : next, redial, POLICY, at, 0, late);
}

// deno-fmt-ignore
const WAYS: [name: string, way: { chosenMs?: number; downUntil?: number; dialledAt?: number; startedAt?: number }, openedAt: number | undefined, forcedMs: number][] = [
  ["a wait of our own, then a quick dial", { chosenMs: 9000, dialledAt: 9000 }, 9005, 5],
  ["a dial that takes long", { chosenMs: 100, dialledAt: 100 }, 1300, 1200],
  ["a service that was down for 3.3 s, and our own wait after the last failed dial", { chosenMs: 50, downUntil: 3300, dialledAt: 5180 }, 5185, 3255],
  ["one failed dial, then a long wait of our own", { chosenMs: 20, downUntil: 25, dialledAt: 8000 }, 8010, 15],
  ["nothing but failed dials so far", { chosenMs: 100, downUntil: 7000 }, undefined, 6900],
  ["a dial on its way", { chosenMs: 100, dialledAt: 100 }, undefined, 59_900],
  ["no dial so far: it is our own wait", { chosenMs: Infinity }, undefined, 0],
  ["a search that began before the end", { startedAt: -500, chosenMs: 100, dialledAt: -400 }, 30, 30],
  ["a next session that was open before the end", { startedAt: -500, chosenMs: 100, dialledAt: -400 }, -300, 0],
];
for (const [name, way, openedAt, forcedMs] of WAYS) {
  test(`judge() of ${name} counts ${forcedMs} ms as forced`, () => {
    const { ledger, now } = play(GRACEFUL);
    const at = (ms: number | undefined) => ms === undefined ? undefined : now + ms;
    const { startedAt = 0, chosenMs = 0, downUntil, dialledAt } = way;
    const redial = { startedAt: now + startedAt, chosenMs, downUntil: at(downUntil), dialledAt: at(dialledAt) };
    const handover = judgeWay(ledger, now, redial, at(openedAt));
    assert.equal(handover.forcedMs, forcedMs);
    assert.equal(handover.chosenMs, handover.reconnectMs - forcedMs);
    assert.equal(handover.rules.moved, forcedMs > 5000 ? "fail" : handover.verdict === "unfinished" ? "n/a" : "pass");
  });
}

test("judge() takes off what the client itself was late, once that is more than a tenth of the limit", () => {
  const { ledger, now } = play(GRACEFUL);
  const outcome = (lateMs: number, forcedMs: number) => {
    const { symptom, lateMs: taken } = judgeWay(ledger, now, { dialledAt: now }, now + forcedMs, () => lateMs);
    return [symptom, taken];
  };
  assert.deepEqual(outcome(501, 5500), [null, 501]);
  assert.deepEqual(outcome(500, 5400), ["SLOW_RECONNECT", 0]); // a tenth of 5 s
  assert.deepEqual(outcome(6000, 5000), [null, 0]); // it decided nothing
  assert.deepEqual(outcome(600, 9000), ["SLOW_RECONNECT", 0]); // late with it and without
});

test("judge() does not call a session STALLED for a silence in which the client itself slept", () => {
  const { ledger, now } = play([...OPENING, 6000, end()]);
  const late: LateBetween = (from, to) => Math.min(4000, to - from);
  const { symptom, lateMs } = judgeWay(ledger, now, {}, now + 10, late);
  assert.deepEqual([symptom, lateMs], ["CUT_WITHOUT_NOTICE", 4000]);
  assert.equal(judgeWay(ledger, now, {}, now + 10).symptom, "STALLED");
  // Where it closed in order, the silence before decided nothing.
  const closed = play([...OPENING, 6000, close(2, 2), frameClosed(), end()]);
  assert.equal(judgeWay(closed.ledger, closed.now, {}, closed.now + 10, late).lateMs, 0);
});

test("judge() does not judge what ended badly while the client itself stood still", () => {
  const outcome = (end: Parameters<typeof play>[0], lateMs: number) => {
    const { ledger, now } = play([...OPENING, ...end]);
    const late: LateBetween = (from, to) => to === ledger.endedAt && to - from === 6000 ? lateMs : 0;
    const { verdict, symptom, unseen, lost } = judgeWay(ledger, now, {}, now + 10, late);
    return [verdict, symptom, unseen, lost];
  };
  const cut = [end()];
  assert.deepEqual(outcome(cut, 4999), ["failed", "CUT_WITHOUT_NOTICE", false, []]);
  assert.deepEqual(outcome(cut, 5000), ["unfinished", null, true, []]);
  assert.deepEqual(outcome([end("reset")], 5000), ["unfinished", null, true, []]);
  // Our patience has our own lateness taken off already.
  assert.deepEqual(outcome([end("silence")], 5000), ["failed", "STALLED", false, []]);
  assert.deepEqual(outcome([frameClosed(1011), end()], 5000), ["unfinished", null, true, []]);
  // A close in order is one whenever it came.
  assert.deepEqual(outcome([frameClosed(), end()], 5000), ["failed", "NO_NOTICE", false, []]);
  const { ledger, now } = play([...OPENING, frameClosed(), end()]);
  ledger.complaint = "too large";
  assert.equal(judgeWay(ledger, now, {}, now + 10, () => 5000).symptom, "WITNESS_ENDED");
});

test("judge() takes off nothing for exactly a tenth of the limit, and nothing at all where nobody measured", () => {
  const { ledger, now } = play([...OPENING, 6000, end()]); // the limit of a silence: 2 s + 1 s
  assert.equal(judgeWay(ledger, now, {}, now + 10, () => 300).lateMs, 0);
  const quick = { policy: { maxReconnectMs: 9 } };
  assert.equal(verdictOf(GRACEFUL, { ...quick, forcedMs: 10 }).symptom, "SLOW_RECONNECT");
});

test("judge() has no negative durations: a next session may open before the end, and CLOSE come with SHUTDOWN", () => {
  const { ledger, now } = play(GRACEFUL);
  const { reconnectMs, chosenMs, forcedMs } = judgeWay(ledger, now, { startedAt: now - 500, chosenMs: 100 }, now - 300);
  assert.deepEqual([reconnectMs, chosenMs, forcedMs], [0, 0, 0]);
  const { drainMs } = verdictOf([HELLO, shutdown(0, 0), ack(0), close(0, 0), frameClosed(), end()]);
  assert.equal(drainMs, 0);
});

test("judge() says of a session on which nothing was sent that nothing was", () => {
  const { sent, lastSent } = verdictOf([
    HELLO,
    dataFrame(1),
    shutdown(0, 1),
    ack(0),
    close(1, 0),
    frameClosed(),
    end(),
  ]);
  assert.deepEqual([sent, lastSent], [0, 0]);
  const wordless: Step[] = [{ type: "OPEN" }, TEXT("hi"), frameClosed(), end()];
  assert.equal(verdictOf(wordless, { dialect: "plain" }).isNumbered, false); // nor that a number came
});

test("observe() takes the due interval from HELLO and from SHUTDOWN, and a close frame for no end", () => {
  const ledger = new Ledger("ws://a/ws", "v1", 7);
  observe(ledger, { ...HELLO, intervalMs: 1234 } as Frame, 1);
  assert.equal(ledger.dueMs, 1234);
  observe(ledger, shutdown(0, 0), 2);
  assert.equal(ledger.dueMs, 100);
  observe(ledger, frameClosed(), 3);
  assert.deepEqual([ledger.closeCode, ledger.endedAt], [1001, undefined]);
});

test("observe() enters an opening with its time and its server, and what we sent where nothing else changes", () => {
  const ledger = new Ledger("ws://a/ws", "plain", 7);
  observe(ledger, { type: "OPEN", server: "pod-a" }, 5);
  assert.deepEqual([ledger.openedAt, ledger.server, ledger.instance], [5, "pod-a", "pod-a"]);
  observe(ledger, TEXT("hi"), 6);
  assert.deepEqual([ledger.sentFirst, ledger.sentLast], [0, 0]);
  observe(ledger, frameClosed(), 7);
  observe(ledger, sent(1), 8);
  assert.deepEqual([ledger.closeCode, ledger.sentLast], [1001, 1]);
});

test("observe() keeps no more than 100 ranges, whether they are gaps, repeats or late messages", () => {
  const repeat = () => {
    const ledger = new Ledger("ws://a/ws", "v1", 2000);
    observe(ledger, HELLO, 0);
    for (let seq = 1; seq <= 300; seq++) observe(ledger, dataFrame(seq), 1);
    for (let seq = 1; seq <= 201; seq += 2) observe(ledger, dataFrame(seq), 2);
  };
  assert.throws(repeat, /more than 100 gaps, repeats and late messages/);
});

test("helloIn() finds a HELLO, and says nothing of what is no frame", () => {
  assert.deepEqual(["", "{", encode(HELLO), encode(ack(1))].map(helloIn), [undefined, undefined, HELLO, undefined]);
});

test("judge() calls a handover unfinished until it is late", () => {
  const unfinished = verdictOf(GRACEFUL, { nowhereAfterMs: 100 }).rules;
  assert.deepEqual(new Set(Object.values(unfinished)), new Set(["n/a"]));
  assert.equal(verdictOf(GRACEFUL, { nowhereAfterMs: 5049 }).verdict, "unfinished"); // 50 ms of it were our choice
  assert.equal(verdictOf(GRACEFUL, { nowhereAfterMs: 5051 }).verdict, "failed");
  const draining = verdictOf([...OPENING, shutdown(2, 4)]);
  assert.deepEqual([draining.verdict, draining.symptom, draining.how], ["unfinished", null, null]);
  assert.deepEqual([draining.lost, draining.noticeMs], [[], 60]); // what is still to come is not lost
});

test("judge() reports ranges: what was announced and never came is lost, also after a cut", () => {
  // What came beyond the announced end is no loss, and neither is a gap on the way to it.
  const beyond = [...OPENING, shutdown(1, 3), ack(2), dataFrame(9), close(3, 2), frameClosed(), end()];
  assert.deepEqual(verdictOf(beyond).lost, [[3, 3]]);
  const { lost, rules } = verdictOf([...OPENING, shutdown(6, 8), dataFrame(3), dataFrame(5), end()]);
  assert.deepEqual(lost, [[4, 4], [6, 8]]);
  assert.equal(rules.complete, "n/a");
});

test("judge() takes no close for a clean one that was our own, whatever its code", () => {
  const { rules, complaint } = verdictOf(GRACEFUL, { complaint: "too long" });
  assert.deepEqual([rules.clean, complaint], ["fail", "too long"]);
  assert.equal(verdictOf([...OPENING, 9000, end("silence")], { complaint: "too long" }).symptom, "WITNESS_ENDED");
});

test("judge() wants CLOSE to count what SHUTDOWN announced, also where as much arrived as it counts", () => {
  const { rules } = verdictOf([...DRAINED.slice(0, -1), dataFrame(5, 2), close(5, 2), frameClosed(), end()]);
  assert.equal(rules.farewell, "fail");
});

test("judge() counts as lost only what was announced: a gap may reach beyond it", () => {
  const steps = [...OPENING, shutdown(2, 4), ack(2), dataFrame(7), close(4, 2), frameClosed(), end()];
  assert.deepEqual(verdictOf(steps).lost, [[3, 4]]);
  const beyond = [...DRAINED, dataFrame(9), frameClosed(), end()];
  assert.deepEqual(verdictOf(beyond).lost, []);
});

test("judge() counts upstream losses among the messages of this session only", () => {
  const start: Step[] = [HELLO, sent(51, true), sent(52), dataFrame(1, 52), shutdown(0, 1), ack(52)];
  const { upstreamLost, symptom } = verdictOf([...start, close(1, 0), frameClosed(), end()]);
  assert.deepEqual({ upstreamLost, symptom }, { upstreamLost: 2, symptom: "UPSTREAM_LOST" });
});

/** A small generator with a seed, so that a failure can be played again. */
function randomFrom(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor(state / 2 ** 32 * below);
  };
}

/** The rules by whose failure a symptom may be named. */
const NAMED_BY: Record<Symptom, Rule[]> = {
  WITNESS_ENDED: ["notice", "complete", "farewell", "clean"],
  TURNED_AWAY: ["notice", "farewell", "clean"],
  STALLED: ["notice", "farewell", "clean"],
  CUT_WITHOUT_NOTICE: ["notice", "farewell", "clean"],
  NO_NOTICE: ["notice"],
  CUT_DURING_DRAIN: ["notice", "farewell", "clean"],
  DATA_LOST: ["complete"],
  DATA_DUPLICATED: ["complete"],
  DATA_REORDERED: ["complete"],
  UPSTREAM_LOST: ["farewell"],
  NO_FAREWELL: ["farewell"],
  NO_CLOSE_FRAME: ["clean"],
  NO_FIN: ["clean"],
  RESET_AFTER_CLOSE: ["clean"],
  WRONG_CLOSE_CODE: ["clean"],
  SAME_SERVER: ["moved"],
  SLOW_RECONNECT: ["moved"],
};

test("every failed handover has exactly one symptom, and it belongs to a failed rule that counts", () => {
  const seen = new Map<string, number>();
  const times = Number(process.env["HISTORIES"] ?? 20_000);
  for (let seed = 1; seed <= times; seed++) {
    const random = randomFrom(seed);
    const plain = random(4) === 0;
    const some = (steps: Step[]): Step[] => steps.filter(() => random(8) > 0);
    const last = 2 + random(4);
    const frames: Step[] = plain
      ? some([...PLAIN, TEXT("CLOSE")])
      : some([...OPENING.slice(1), shutdown(last - 2, last + random(2) * random(2)), ack(2)]);
    const seqs = Array.from({ length: plain ? 0 : last - 2 }, (_, index) => index + 3);
    const at = random(seqs.length);
    const spoil = [() => seqs.splice(at, 1), () => seqs.splice(at, 0, seqs[at]!), () => seqs.reverse()][random(12)];
    if (seqs.length > 0) spoil?.();
    for (const seq of seqs) frames.push(100, dataFrame(seq, random(8) > 0 ? 2 : random(4)));
    if (!plain && random(4) > 0) frames.push(close(last + random(2) * random(2), random(8) > 0 ? 2 : random(4)));
    if (random(10) === 0) frames.push(random(5000));
    if (random(4) > 0) frames.push(frameClosed([1001, 1001, 1001, 1005, 1012, 1000][random(6)]));
    if (random(12) === 0) frames.push(3000);
    frames.push(end((["fin", "fin", "fin", "reset", "silence"] as const)[random(5)]));
    const expect = random(2) === 0 ? [] : RULES.filter(() => random(2) === 0);
    const handover = verdictOf([plain ? { type: "OPEN" } : HELLO, ...frames.filter((step) => step !== PLAIN[0])], {
      dialect: plain ? "plain" : "v1",
      instance: random(6) === 0 ? "a" : "b",
      forcedMs: random(6) === 0 ? 6000 : 10,
      ...random(10) === 0 ? { nowhereAfterMs: random(10_000) } : {},
      ...random(20) === 0 ? { complaint: "nonsense" } : {},
      policy: { expect },
    });
    const { verdict, symptom, rules } = handover;
    const counted = expect.length > 0 ? expect : plain ? ["clean", "moved"] as const : RULES;
    const failed = counted.filter((rule) => rules[rule] === "fail");
    const story = `seed ${seed}: ${JSON.stringify(handover)}`;
    assert.equal(verdict === "failed", failed.length > 0, story);
    assert.equal(verdict === "failed", symptom !== null, story);
    if (symptom !== null) assert.ok(failed.some((rule) => NAMED_BY[symptom].includes(rule)), story);
    seen.set(symptom ?? verdict, (seen.get(symptom ?? verdict) ?? 0) + 1);
  }
  // The histories must reach every corner, or the property says nothing; only whom a server turns away has tests of its own.
  const corners = [...Object.keys(NAMED_BY).filter((symptom) => symptom !== "TURNED_AWAY"), "graceful", "unfinished"];
  assert.deepEqual([...seen.keys()].sort(), corners.sort());
});

// ---- Numbers and words

test("backoffMs() is full jitter below min(cap, base × 2^attempt)", () => {
  const options = { baseMs: 100, capMs: 1000 };
  assert.deepEqual([0, 1, 2, 3, 4, 60].map((attempt) => backoffMs(attempt, options, 1)), [
    100,
    200,
    400,
    800,
    1000,
    1000,
  ]);
  assert.equal(backoffMs(3, options, 0), 0);
  assert.equal(backoffMs(3, options, 0.5), 400);
  assert.equal(backoffMs(1, { baseMs: 30, capMs: 1000 }, 0.5), 30);
});

test("percentile() takes the nearest rank", () => {
  const numbers = Array.from({ length: 100 }, (_, index) => 100 - index);
  assert.deepEqual([1, 50, 99, 100].map((percent) => percentile(numbers, percent)), [1, 50, 99, 100]);
  assert.equal(percentile(Array.from({ length: 1000 }, (_, index) => index), 99), 989);
  assert.equal(percentile([7], 1), 7);
  assert.equal(percentile([], 50), null);
});

test("timestamp() is the wall clock's time, a millisecond later another one", () => {
  const times = [Date.now(), Date.parse(timestamp()), Date.now()];
  while (Date.now() === times.at(-1));
  times.push(Date.now(), Date.parse(timestamp()), Date.now());
  assert.deepEqual(times, times.toSorted((a, b) => a - b));
  assert.notEqual(times[1], times[4]);
});

test("durations and counts read as people write them", () => {
  const durations: [number, string][] = [[0, "0ms"], [0.44, "0.4ms"], [9.94, "9.9ms"], [9.96, "10ms"], [41.4, "41ms"]];
  durations.push([999.4, "999ms"], [999.6, "1.00s"], [1234.567, "1.23s"], [31_400, "31.4s"], [59_949, "59.9s"]);
  durations.push([999.5, "1.00s"], [9949, "9.95s"], [9950, "9.9s"], [9960, "10.0s"], [59_950, "1m00s"]);
  durations.push([59_960, "1m00s"], [125_000, "2m05s"], [3_600_000, "60m00s"]);
  for (const [ms, text] of durations) assert.equal(duration(ms), text);
  assert.deepEqual([count(0, "session"), count(1, "session"), count(9000, "session")], [
    "0 sessions",
    "1 session",
    "9,000 sessions",
  ]);
});

test("closeReason() fits a close frame whatever it is given", () => {
  for (const text of ["short", "x".repeat(500), "é".repeat(100), "🙂".repeat(60)]) {
    const bytes = new TextEncoder().encode(closeReason(text)).length;
    assert.ok(bytes <= 123 && (bytes >= 119 || text === "short"), `${bytes} bytes`);
  }
});

test("closeReason() ends with a whole character, and keeps what fits", () => {
  assert.equal(closeReason("x".repeat(124)), "x".repeat(123));
  assert.equal(closeReason("é".repeat(62)), "é".repeat(61));
  assert.equal(closeReason("x".repeat(121) + "🙂"), "x".repeat(121));
  assert.equal(closeReason("x".repeat(119) + "🙂🙂"), "x".repeat(119) + "🙂");
  assert.equal(closeReason("\ud800".repeat(99)), "\ud800".repeat(41)); // a lone one goes as U+FFFD: three bytes
});

test("isSendableCloseCode() follows RFC 6455 section 7.4", () => {
  const sendable = Array.from({ length: 5100 }, (_, code) => code).filter(isSendableCloseCode);
  const from = (first: number, last: number) => Array.from({ length: last - first + 1 }, (_, index) => first + index);
  assert.deepEqual(sendable, [...from(1000, 1003), ...from(1007, 1014), ...from(3000, 4999)]);
});

test("the limits of a message leave room for a frame around the largest padding", () => {
  assert.deepEqual([MAX_MESSAGE_BYTES, MAX_PAYLOAD_BYTES], [65_536, 60_000]);
});

test("decode() tells a structure's kind only, and shortens what is long", () => {
  const cases: [value: string, shown: string][] = [
    ["[".repeat(30_000) + "]".repeat(30_000), "an array"],
    ['{"a":'.repeat(9000) + "1" + "}".repeat(9000), "an object"],
    ["1e999", "Infinity"],
    ["1".repeat(60_000), "Infinity"],
    ["null", "null"],
    ["true", "true"],
    [JSON.stringify("x".repeat(38)), `"${"x".repeat(38)}"`],
    [JSON.stringify("x".repeat(39)), `"${"x".repeat(39)}…`],
    [JSON.stringify("\n".repeat(60_000)), `"${"\\n".repeat(19)}\\…`],
  ];
  for (const [value, shown] of cases) {
    const message =
      `Cannot decode frame: 'type' must be one of HELLO, DATA, SHUTDOWN, ACK, CLOSE: current value is ${shown}`;
    assert.throws(() => decode(`{"type":${value}}`), { name: "SyntaxError", message });
  }
  assert.throws(() => decode("[".repeat(MAX_MESSAGE_BYTES)), /^SyntaxError: Cannot decode frame: must be JSON: .*\[…$/);
});

// ---- Whatever a peer sends

/** A frame, or what was one, as a hostile or broken peer may send it. */
function hostileText(random: (below: number) => number): string {
  const pick = <T>(...values: T[]): T => values[random(values.length)]!;
  const depth = () => random(20) === 0 ? 10_000 : pick(1, 10, 100);
  const odd = (): string => {
    const levels = depth();
    return pick(
      () => "[".repeat(levels) + "]".repeat(levels),
      () => '{"a":'.repeat(levels) + "0" + "}".repeat(levels),
      () => pick("-1", "0", "1.5", "1e400", "-1e400", "9007199254740993", "1".repeat(levels), "null", "true"),
      () => `"${pick("x", "\ud800", "\udfff", "🙂", "\\u0000", "\\ud83d", "\u009b").repeat(random(levels))}"`,
      () => '{"__proto__":{"type":"DATA"}}',
      () => JSON.stringify(AT),
    )();
  };
  const frame = FRAMES[random(FRAMES.length)]!;
  const fields = Object.entries(frame).map(([name, value]): [string, string] => [name, JSON.stringify(value)]);
  for (let left = random(3); left > 0; left--) {
    const field = random(fields.length);
    pick(
      () => void (fields[field]![1] = odd()),
      () => void fields.push([fields[field]![0], odd()]),
      () => void fields.splice(field, 1, ["__proto__", odd()]),
      () => void fields.push([pick("toString", "constructor", "", "type"), odd()]),
    )();
  }
  const text = `{${fields.map(([name, value]) => `${JSON.stringify(name)}:${value}`).join()}}`;
  return pick(
    () => text,
    () => text,
    () => text,
    () => text.slice(0, random(text.length)),
    odd,
    () => text + text[0],
  )();
}

test("nothing that a peer sends throws anything but a SyntaxError of bounded length", () => {
  const times = Number(process.env["FUZZ_FRAMES"] ?? 20_000);
  const startedAt = performance.now();
  const outcomes = { taken: 0, refused: 0 };
  let ledger = new Ledger("ws://a/ws", "v1", 2000);
  for (let seed = 1; seed <= times; seed++) {
    const text = hostileText(randomFrom(seed)).slice(0, MAX_MESSAGE_BYTES);
    try {
      const frame = decode(text);
      outcomes.taken++;
      observe(ledger, frame, seed);
    } catch (error) {
      assert.ok(error instanceof SyntaxError, `seed ${seed}: ${error}`);
      assert.ok(error.message.length <= 300, `seed ${seed}: ${error.message}`);
      assert.ok(Buffer.byteLength(closeReason(error.message)) <= 123, `seed ${seed}`);
      outcomes.refused++;
      if (seed % 10 === 0) ledger = new Ledger("ws://a/ws", "v1", 2000);
    }
    assert.ok(Buffer.byteLength(closeReason(text)) <= 123, `seed ${seed}`);
    assert.equal(printable(text).length, text.length);
    assert.equal(JSON.parse(toJson(text)), text, `seed ${seed}`);
  }
  assert.ok(Math.min(outcomes.taken, outcomes.refused) > times / 10, JSON.stringify(outcomes));
  const eachMs = (performance.now() - startedAt) / times;
  assert.ok(eachMs < 200, `${eachMs} ms for each`);
});
