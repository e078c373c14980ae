/**
 * A result as text, page, JUnit, Markdown and JSON: one result in, one string out. And two results, compared.
 *
 * ```
 * node report.mjs drill.json -o drill.html
 * node report.mjs before.json after.json --tolerance 20
 * deno run --allow-read --allow-write --allow-env report.mjs drill.json
 * ```
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import {
  accessSync,
  constants,
  existsSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { dirname, resolve } from "node:path";
import process from "node:process";
import { fileURLToPath } from "node:url";
import { gunzipSync, gzipSync } from "node:zlib";
import kleur from "kleur";
import mri from "mri";

/**
 * @typedef {import("./client.ts").Result} Result
 * @typedef {import("./client.ts").PathResult} PathResult
 * @typedef {import("./protocol.ts").Handover} Handover
 * @typedef {import("./protocol.ts").PodReport} Pod
 * @typedef {import("./protocol.ts").Rule} Rule
 * @typedef {import("./protocol.ts").Range} Range
 * @typedef {import("./protocol.ts").Cause} Cause
 * @typedef {import("./protocol.ts").Symptom} Symptom
 * @typedef {NonNullable<Result["symptoms"][Symptom]>} SymptomCount
 * @typedef {Result["predictions"][number]} Prediction
 * @typedef {import("./client.ts").CheckResult} CheckResult
 * @typedef {{ p50Ms: number | null, p99Ms: number | null, maxMs: number | null }} Spread
 */

/**
 * What reports need of the contract: its words for symptoms and causes, its ways to write numbers. A bundle carries it.
 * Node 20 reads no TypeScript, and later ones take longer to read it than for all else: so the command takes it from dist/, where
 * build.mjs has put it, unless the source is newer; hence no static import.
 * (The condition is a constant in a bundle: the `await`, which CommonJS does not know, falls away.)
 * @type {typeof import("./protocol.ts")}
 */
export const protocol = typeof REPORT_PAGE === "string"
  ? require("./protocol.ts")
  : "Deno" in globalThis || process.features.typescript && !isBuilt()
  ? await import("./protocol.ts")
  : requireBuilt();
// deno-fmt-ignore
const {
  called, CAUSES, count, duration, expectedRules, grouped, movesOf, percentile, printable, REMEDIES, RULES, run, toJson, useColour,
  UserError, VERSION, when,
} = protocol;

/** Sessions that a picture shows one by one; handovers that it has in full. */
const SHOWN_SESSIONS = 50;
const SHOWN_HANDOVERS = 200;
/** Pods whose timeline the text shows. */
const SHOWN_PODS = 10;

/**
 * How a report is written, by the ending of its file.
 * @type {Record<string, (result: Result) => string>}
 */
export const REPORTS = {
  json: (result) => `${toJson(result)}\n`,
  html: renderPage,
  xml: renderJunit,
  md: renderMarkdown,
};

/**
 * The endings of files as words: `.json, .html or .md`.
 * @param {Record<string, unknown>} writers
 */
export function endingsOf(writers) {
  const endings = Object.keys(writers).map((ending) => `.${ending}`);
  return `${endings.slice(0, -1).join(", ")} or ${endings.at(-1)}`;
}

/**
 * Of a file's name, what says how it is written.
 * @param {string} file
 */
export const endingOf = (file) => file.slice(file.lastIndexOf(".") + 1);

/**
 * Throws `RangeError` with the rule that a file to report to breaks; `-.md` and the like are stdout.
 * @param {string} file
 */
export function checkReport(file) {
  if (!Object.hasOwn(REPORTS, endingOf(file))) throw new RangeError(`must end in ${endingsOf(REPORTS)}`);
  if (isStdout(file)) return;
  try {
    accessSync(dirname(file), constants.W_OK);
  } catch {
    throw new RangeError("must be in a folder that can be written to");
  }
}

/**
 * Whether a report goes to stdout, before the text: from a pod there is no other way out.
 * @param {string} file
 */
export const isStdout = (file) => file.startsWith("-.");

/**
 * Throws `UserError` where a tool's --report cannot be written, or not beside --json.
 * @param {readonly string[]} files
 * @param {boolean} [json]
 */
export function checkReports(files, json) {
  for (const file of files) {
    try {
      checkReport(file);
    } catch (error) {
      throw new UserError(printable(`--report ${/** @type {Error} */ (error).message}: current value is '${file}'`));
    }
  }
  if (json && files.some(isStdout)) throw new UserError("--json has stdout for itself: --report to a file");
}

/**
 * Writes a result as the file's ending says: all of it or nothing. Throws `UserError` with file and reason.
 * @param {string} file
 * @param {Result} result
 */
export function writeReport(file, result) {
  kleur.enabled = false; // files have no colour
  writeWhole(file, /** @type {(result: Result) => string} */ (REPORTS[endingOf(file)])(result));
}

/** What drill.mjs asks of a pod: the result as lines that survive a log. */
export const RECORD = "-.record";

/**
 * Writes what --report asks for: `-.md` and the like to stdout. A failure stands in the result, above the verdict, and
 * makes it exit 2.
 * @param {readonly string[]} files
 * @param {Result} result
 */
export function writeReports(files, result) {
  kleur.enabled = false; // reports have no colour
  for (const file of files) {
    try {
      if (file === RECORD) process.stdout.write(renderRecord(result));
      else if (isStdout(file)) process.stdout.write(REPORTS[endingOf(file)]?.(result) ?? "");
      else writeReport(file, result);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      process.stderr.write(`${error.message}\n`);
      result.findings.push({ name: "REPORT_NOT_WRITTEN", text: error.message });
      process.exitCode = 2;
    }
  }
}

/** Characters of a record's line: below the 16 KiB from which container runtimes break lines. */
const RECORD_LINE = 8000;
/** More than any result has: a line that says so is none of a record. */
const MAX_RECORD_LINES = 100_000;
const MAX_RECORD_BYTES = 2 ** 29;

/**
 * A result as lines that a log brings out of a pod: compressed, since logs are rotated, each numbered and with the checksum
 * of the whole, since they lose lines.
 * @param {Result} result
 */
export function renderRecord(result) {
  const text = gzipSync(toJson(result)).toString("base64");
  const parts = /** @type {string[]} */ (text.match(new RegExp(`.{1,${RECORD_LINE}}`, "g")));
  return parts.map((part, index) => `record ${index + 1}/${parts.length} ${checksum(text)} ${part}\n`).join("");
}

/** Puts a record together again, from as many readings of the log as it takes. */
export class RecordReader {
  /** @type {Map<number, string>} */
  #parts = new Map();
  #count = 0;
  #checksum = "";

  /**
   * Whether the line is one of a record.
   * @param {string} line
   */
  take(line) {
    const [, number, count, sum = "", part = ""] = /^record (\d+)\/(\d+) ([0-9a-f]{16}) ([\w+/=]+)$/.exec(line) ?? [];
    if (part === "" || Number(count) > MAX_RECORD_LINES) return false;
    this.#count = Number(count);
    this.#checksum = sum;
    this.#parts.set(Number(number), part);
    return true;
  }

  /** Lines that have not come; null where none has. */
  get missing() {
    return this.#parts.size === 0 ? null : Math.max(0, this.#count - this.#parts.size);
  }

  /**
   * The result; undefined where it is not whole.
   * @returns {Result | undefined}
   */
  result() {
    const text = Array.from({ length: this.#count }, (_, index) => this.#parts.get(index + 1) ?? "").join("");
    if (this.#count === 0 || checksum(text) !== this.#checksum) return undefined;
    return JSON.parse(gunzipSync(Buffer.from(text, "base64"), { maxOutputLength: MAX_RECORD_BYTES }).toString());
  }
}

/** @param {string} text */
function checksum(text) {
  return createHash("sha256").update(text).digest("hex").slice(0, 16);
}

/**
 * Writes beside the file and renames, so that a full disk leaves what was there; through a link, to what it points to.
 * @param {string} file
 * @param {string} text
 */
export function writeWhole(file, text) {
  let beside;
  try {
    const target = targetOf(file);
    const before = existsSync(target) ? statSync(target) : undefined;
    if (before !== undefined && !before.isFile()) return writeFileSync(target, text); // nothing stands beside a device
    beside = `${target}.${process.pid}.tmp`;
    writeFileSync(beside, text, { flag: "wx", mode: before?.mode ?? 0o666 });
    renameSync(beside, target);
  } catch (error) {
    if (beside !== undefined) rmSync(beside, { force: true });
    throw new UserError(printable(`Cannot write ${file}: ${/** @type {Error} */ (error).message}`));
  }
}

/**
 * Where a path leads, also if nothing is there yet.
 * @param {string} file
 * @param {number} links that may still be followed, as the kernel counts them
 * @returns {string}
 */
function targetOf(file, links = 40) {
  if (existsSync(file) || links === 0) return realpathSync(file);
  let next;
  try {
    next = readlinkSync(file);
  } catch {
    return file; // no link: a new file
  }
  return targetOf(resolve(dirname(file), next), links - 1);
}

// ---- Text

/**
 * The result for people: what happened, each handover or the telling ones, what to do; the verdict is the last line.
 * @param {Result} result
 * @returns {string}
 */
export function render(result) {
  const { handovers, counts, reconnect, silence, failedDials, probes } = result;
  const failed = handovers.filter(({ verdict }) => verdict === "failed");
  // A few are shown each; of many, one of every symptom.
  const shown = handovers.length <= 5
    ? handovers
    : failed.filter(({ symptom }, index) => failed.findIndex((other) => other.symptom === symptom) === index);
  const moreFailed = failed.length - shown.length;
  const morePods = result.pods.length - SHOWN_PODS;
  const paint = result.verdict === "PASS" ? kleur.green : kleur.red;
  return [
    "",
    ...fact("Disruption", result.disruption !== null && describe(result.disruption)),
    ...fact(
      "Handovers",
      `${counts.graceful} graceful, ${counts.failed} failed` + more(counts.unfinished, "unfinished"),
    ),
    ...fact("Messages", messagesInWords(result)),
    ...fact("Reconnect", percentiles(reconnect)),
    ...fact("Silence", percentiles(silence)),
    ...fact("Failed dials", kinds(failedDials)),
    ...fact("Probes", probesInWords(probes)),
    ...fact("Moves", movesInWords(result)),
    ...(result.paths ?? []).flatMap(renderPath),
    ...shown.flatMap((handover) => renderHandover(handover, rulesOf(result, handover))),
    ...moreFailed > 0 ? ["", `${count(moreFailed, "more failed handover")} like these`] : [],
    ...Object.entries(result.symptoms).flatMap(([name, entry]) => renderSymptom(name, entry, remediesFor(result))),
    ...result.pods.slice(0, SHOWN_PODS).flatMap((pod) => renderPod(pod, result)),
    ...morePods > 0 ? ["", `${count(morePods, "more pod")}: see --json`] : [],
    ...result.findings.map(({ name, text }) => `\n${kleur.yellow(printable(name))}  ${printable(text)}`),
    ...foretold(result).map((line) => `\n${printable(line)}`),
    "",
    paint(kleur.bold(printable(result.summary))),
    "",
  ].join("\n");
}

/**
 * What the check before the drill foretold, and what came of it; a result of an older version has none.
 * @param {Result} result
 * @returns {string[]}
 */
function foretold({ predictions = [], unseen = [] }) {
  return [
    ...predictions.map(({ foretells, came, field, value, fix }) => {
      const outcome = came > 0 ? `came ×${grouped(came)}` : "did not come";
      return `foretold ${foretells.join(" or ")}: ${outcome} (${field} is ${value} → ${fix})`;
    }),
    ...unseen.map((message) => `foretold nothing of what could not be looked at: ${message}`),
  ];
}

/**
 * What a check foretold, for people; its summary is the last line.
 * @param {CheckResult} checked
 * @returns {string}
 */
export function renderCheck({ summary, verdict, inspections }) {
  const paint = verdict === "PASS" ? kleur.green : kleur.red;
  return [
    ...inspections.flatMap(({ target, predictions, notes }) => [
      "",
      kleur.bold(printable(target)),
      ...predictions.flatMap(({ foretells, certain, field, value, text, fix }) => [
        "",
        `  ${kleur.yellow(foretells.join(", "))}  ${certain ? "certain" : "possible"}`,
        printable(`    ${field}: ${value}`),
        printable(`    ${text}`),
        printable(`    → ${fix}`),
      ]),
      "",
      ...notes.map((note) => printable(`  ${note}`)),
    ]),
    "",
    paint(kleur.bold(printable(summary))),
    "",
  ].join("\n");
}

/**
 * A line of the text; none where there is nothing to say.
 * @param {string} name
 * @param {string | false} text
 * @returns {string[]}
 */
function fact(name, text) {
  return text ? [`${kleur.bold(name.padEnd(12))} ${printable(text)}`] : [];
}

/**
 * @param {Result} result
 * @returns {string}
 */
function messagesInWords({ messages }) {
  return `${grouped(messages.received)} received, ${grouped(messages.sent)} sent, ${lostInWords(messages.lost)}` +
    more(messages.duplicated, "duplicated") + more(messages.reordered, "reordered") +
    more(messages.resent, "sent again");
}

/**
 * Worth a line where a session moved more than once.
 * @param {Result} result
 */
function movesInWords({ rollout }) {
  const moves = Object.entries(rollout?.moves ?? {});
  if (!moves.some(([move]) => Number(move) > 1)) return "";
  const said = moves.map(([move, sessions]) =>
    `${count(sessions, "session")} ${move === "1" ? "once" : `${move} times`}`
  );
  return `${said.join(", ")}, in one disruption`;
}

/** @param {Result["probes"]} probes */
const probesInWords = (probes) =>
  kinds(Object.fromEntries(Object.entries(probes).filter(([kind]) => kind !== "lastOnEndingMs")));

/**
 * The numbers of one path, by what they are; those left out that have nothing to say.
 * @param {PathResult} path
 */
const pathNumbers = (path) => allPathNumbers(path).filter(([, number]) => number !== "");

/**
 * @param {PathResult} path
 * @returns {[what: string, number: string][]}
 */
function allPathNumbers({ sessions, counts, messages, symptoms, reconnect, silence, failedDials, probes }) {
  const { lastOnEndingMs } = probes;
  return [
    ["sessions", `${grouped(sessions.had)} of ${grouped(sessions.wanted)} connected`],
    ["handovers", `${counts.graceful} graceful, ${counts.failed} failed${more(counts.unfinished, "unfinished")}`],
    ["symptoms", kinds(Object.fromEntries(Object.entries(symptoms).map(([name, { count }]) => [name, count])))],
    ["messages", lostInWords(messages.lost)],
    ["reconnect", percentiles(reconnect) || ""],
    ["silence", percentiles(silence) || ""],
    ["failed dials", kinds(failedDials)],
    [
      "probes",
      probesInWords(probes) +
      (lastOnEndingMs === null ? "" : `, the last on an ending server at +${duration(lastOnEndingMs)}`),
    ],
  ];
}

/**
 * @param {PathResult} path
 * @returns {string[]}
 */
function renderPath(path) {
  const numbers = pathNumbers(path).map(([what, number]) => `  ${what.padEnd(12)}  ${printable(number)}`);
  return [
    "",
    `${kleur.bold("Path")} ${kleur.bold(printable(path.name))}  ${printable(path.urls.join(", "))}`,
    ...numbers,
  ];
}

/**
 * Where nothing is numbered, loss cannot be seen: then there is no number to give.
 * @param {number | null} lost
 */
const lostInWords = (lost) => lost === null ? "not numbered" : `${grouped(lost)} lost`;

/**
 * "refused ×3, 503 ×1"; "" of none.
 * @param {Record<string, number | null>} counts
 */
export const kinds = (counts) =>
  Object.entries(counts).filter(([, number]) => number).map(([kind, number]) => `${kind} ×${number}`).join(", ");

/**
 * @param {Handover} handover
 * @param {readonly Rule[]} expected
 * @returns {string[]}
 */
function renderHandover(handover, expected) {
  if (handover.verdict === "unfinished") return ["", printable(headline(handover))];
  const { rules, noticeMs, code, reason, how, complaint } = handover;
  const { notice } = wordsOf(handover);
  const end = code === null ? "no close frame" : `close frame ${code}${reason && ` "${reason}"`}`;
  /** @type {Record<Rule, string>} */
  const said = {
    notice: noticeMs === null
      ? rules.notice === "n/a" ? `${handover.dialect} has no word for it` : `no ${notice}`
      : `${notice} ${duration(noticeMs)} before the end${renderRemaining(handover)}`,
    complete: `${count(handover.received, "message")}${renderDisorder(handover)}`,
    farewell: renderFarewell(handover),
    clean: complaint === null ? `${end}, ${HOW[how ?? "silence"]}` : `we gave it up: ${complaint}`,
    moved: renderMove(handover),
  };
  const marks = { pass: kleur.green("pass"), fail: kleur.red("FAIL"), "n/a": kleur.dim("n/a ") };
  /** @param {Rule} rule */
  const mark = (rule) => rules[rule] === "fail" && !expected.includes(rule) ? kleur.dim("no  ") : marks[rules[rule]];
  return [
    "",
    printable(headline(handover)),
    ...RULES.map((rule) => `  ${rule.padEnd(9)} ${mark(rule)}  ${printable(said[rule])}`),
    ...handover.cause === null ? [] : [printable(`  cause     ${handover.cause}: ${handover.evidence}`)],
  ];
}

/**
 * @param {Handover} handover
 * @returns {string}
 */
function renderRemaining({ remaining }) {
  if (remaining === null) return "";
  return remaining.announced === null
    ? `, ${count(remaining.received, "message")} after it`
    : `, ${remaining.received} of ${remaining.announced} remaining messages came`;
}

/**
 * @param {Handover} handover
 * @returns {string}
 */
function renderMove(handover) {
  const { to, reconnectMs, chosenMs, forcedMs, silenceMs, lateMs, failedDials } = handover;
  const dials = kinds(failedDials) && `, ${kinds(failedDials)}`;
  if (isOpen(handover)) return `open when the run ended, after ${duration(reconnectMs)}${dials}`;
  if (to === null) return `nowhere after ${duration(reconnectMs)}${dials}`;
  return `${duration(reconnectMs)} = ${duration(chosenMs)} chosen + ${duration(forcedMs)} forced${dials}` +
    (silenceMs === null ? "" : `; silence ${duration(silenceMs)}`) +
    (lateMs > 0 ? `; ${duration(lateMs)} of it the client's own lateness` : "");
}

/**
 * Whether its end is judged, but where it leads was not known when the run ended.
 * @param {Handover} handover
 */
const isOpen = ({ verdict, to, rules }) => verdict === "failed" && to === null && rules.moved === "n/a";

/**
 * Where a handover led, in words.
 * @param {Handover} handover
 */
const whereTo = (handover) => handover.to ?? (isOpen(handover) ? "open when the run ended" : "nowhere");

/**
 * @param {Handover} handover
 * @returns {string}
 */
function renderDisorder({ isNumbered, lost, duplicated, reordered }) {
  if (isNumbered === false) return ", not numbered";
  const disorder = /** @type {const} */ ([["lost", lost], ["twice", duplicated], ["late", reordered]])
    .filter(([, list]) => list.length > 0).map(([kind, list]) => `, ${kind} seq ${ranges(list)}`);
  return disorder.join("") || ", none lost, duplicated or late";
}

/**
 * @param {Handover} handover
 * @returns {string}
 */
function renderFarewell(handover) {
  const { close, drainMs, received, lastSent, rules, dialect } = handover;
  if (rules.farewell === "n/a") return `${dialect} has no word for it`;
  const { farewell } = wordsOf(handover);
  if (close === null) return drainMs === null && rules.farewell !== "pass" ? `no ${farewell}` : farewell;
  const said = `CLOSE counts ${close.sent} sent, up to seq ${close.received} received`;
  return rules.farewell === "fail" ? `${said}; here ${received} came, up to seq ${lastSent} went` : said;
}

/**
 * The words of a dialect for a shutdown's beginning and its end: only our own servers say SHUTDOWN and CLOSE for certain.
 * @param {Pick<Handover, "dialect">} handover
 */
const wordsOf = ({ dialect }) =>
  dialect === "v1" ? { notice: "SHUTDOWN", farewell: "CLOSE" } : { notice: "notice", farewell: "farewell" };

/**
 * The rules that count for a handover.
 * @param {Result} result
 * @param {Handover} handover
 */
function rulesOf({ expected, settings: { expect } }, { dialect }) {
  return expect.length === 0 && expected?.[dialect] || expectedRules(expect, dialect);
}

const HOW = { fin: "FIN", reset: "a socket error", silence: "no FIN", open: "still open when the run ended" };

/**
 * The path of a handover's session, where there are several.
 * @param {Handover} handover
 */
const by = (handover) => pathOf(handover) === undefined ? "" : ` by ${pathOf(handover)}`;

/**
 * A handover in one line: slot, from where, to where, how.
 * @param {Handover} handover
 * @returns {string}
 */
export function headline(handover) {
  const { slot, from, verdict, symptom } = handover;
  return `slot ${slot}${by(handover)}: ${from} → ${whereTo(handover)}  ${symptom ?? verdict}`;
}

/**
 * @param {string} name
 * @param {SymptomCount} entry
 * @param {Remedies} remedies
 * @returns {string[]}
 */
function renderSymptom(name, { count: all, causes, suspects }, remedies) {
  const [meaning, remedy] = remedies[name] ?? UNKNOWN;
  const known = Object.entries(causes).flatMap(([cause, { count, evidence }]) => [
    printable(`  Cause: ${cause} ×${count}, ${evidence}`),
    `    ${causeOf(cause).join(" → ")}`,
  ]);
  const open = all - Object.values(causes).reduce((sum, { count }) => sum + count, 0);
  const candidates = suspects ?? (known.length === 0 ? remedy : []);
  const advice = typeof remedy === "string" ? [`  Fix: ${remedy}`] : open === 0 || candidates.length === 0 ? [] : [
    suspects === undefined
      ? "  Candidate causes, and what to do:"
      : `  Cause open ×${open}; the evidence rules out none of these:`,
    .../** @type {Cause[]} */ (candidates).map((cause) =>
      printable(`    ${cause.padEnd(18)} ${causeOf(cause).join(" → ")}`)
    ),
  ];
  return ["", `${kleur.yellow(printable(name))}  ${meaning}`, ...known, ...advice];
}

/** @typedef {Record<string, readonly [meaning: string, remedy: string | readonly Cause[]]>} Remedies */

/**
 * What each symptom means and how to mend it, in the words of a dialect.
 * @param {Pick<Handover, "dialect">} handover
 * @returns {Remedies}
 */
function remediesIn(handover) {
  const { notice, farewell } = wordsOf(handover);
  if (farewell === "CLOSE") return REMEDIES;
  // Only ours counts.
  const counts = /, or its counts are wrong| with the final counts/;
  /** @type {<T>(text: T) => T | string} */
  const worded = (text) =>
    typeof text === "string"
      ? text.replaceAll("SHUTDOWN", notice).replaceAll("CLOSE", farewell).replace(counts, "")
      : text;
  return Object.fromEntries(
    Object.entries(REMEDIES).map(([name, [meaning, remedy]]) => {
      return [name, [/** @type {string} */ (worded(meaning)), worded(remedy)]];
    }),
  );
}

/**
 * The same in the words of what this run has met.
 * @param {Result} result
 */
const remediesFor = ({ handovers }) =>
  remediesIn(handovers.find(({ symptom }) => symptom !== null) ?? { dialect: "v1" });

/**
 * @param {string} name
 * @returns {readonly [what: string, fix: string]}
 */
function causeOf(name) {
  return Object.hasOwn(CAUSES, name) ? CAUSES[/** @type {Cause} */ (name)] : UNKNOWN;
}

/** @type {readonly [string, string]} */
const UNKNOWN = ["not known to this version", "see the report of the version that made the result"];

/**
 * @param {Pod} pod
 * @param {Result} result
 * @returns {string[]}
 */
function renderPod(pod, result) {
  return [
    "",
    kleur.bold(printable(pod.name)),
    ...timeline(pod, result).map(({ atMs, text }) => printable(`  ${signed(atMs).padStart(8)}  ${text}`)),
  ];
}

/**
 * What happened to a pod and to its sessions, from its deletion (or its first exit) on.
 * @param {Pod} pod
 * @param {Result} result
 * @returns {{ atMs: number, text: string }[]}
 */
export function timeline(pod, { handovers, disruption }) {
  const zero = (when(pod, "deleted") ?? when(pod, "exit"))?.atMs ?? 0;
  const own = handovers.flatMap((handover) => {
    const { endedMs, noticeMs } = handover;
    if (handover.pod !== pod.name || endedMs === null || endedMs < zero - 1000) return [];
    return [{ ...handover, endedMs, toldMs: noticeMs === null ? null : endedMs - noticeMs }];
  });
  /**
   * @param {string} what
   * @param {(number | null)[]} times
   */
  const sessions = (what, times) => {
    const known = times.filter((atMs) => atMs !== null).sort((a, b) => a - b);
    const [firstMs, lastMs] = [known[0], known.at(-1)];
    if (firstMs === undefined || lastMs === undefined) return [];
    const until = lastMs - firstMs > 100 ? `, the last at ${signed(lastMs - zero)}` : "";
    return [{ atMs: firstMs, text: `${what}: ${count(known.length, "session")}${until}` }];
  };
  return [
    ...disruption === null || disruption.pod !== pod.name ? [] : [{ atMs: disruption.atMs, text: disruption.kind }],
    ...pod.moments,
    ...pod.sigterm == null ? [] : [pod.sigterm],
    ...sessions("SHUTDOWN", own.map(({ toldMs }) => toldMs)),
    ...sessions(
      "CLOSE",
      own.map(({ toldMs, drainMs }) => toldMs === null || drainMs === null ? null : toldMs + drainMs),
    ),
    ...sessions("ended", own.map(({ endedMs }) => endedMs)),
    ...sessions("reconnected", own.map(({ endedMs, reconnectMs, to }) => to === null ? null : endedMs + reconnectMs)),
  ].map(({ atMs, text }) => ({ atMs: atMs - zero, text })).sort((a, b) => a.atMs - b.atMs);
}

/**
 * @param {NonNullable<Result["disruption"]>} disruption
 * @returns {string}
 */
function describe({ kind, pod, node, atMs }) {
  const whose = pod ?? (node === undefined ? null : `node ${node}`);
  return `${kind}${whose === null ? "" : ` of ${whose}`}, ${duration(atMs)} after the start`;
}

// ---- Page

/**
 * The page that draws a result; without one it draws what `/events` tells.
 * @param {Result} [result]
 * @returns {string}
 */
export function renderPage(result) {
  const data = result === undefined ? "" : pageData(result);
  return readPage().replace('id="result"></script>', () => `id="result">${data}</script>`);
}

function readPage() {
  return typeof REPORT_PAGE === "string" ? REPORT_PAGE : readFileSync(new URL("report.html", import.meta.url), "utf8");
}

/**
 * The page may run its own script, have its own style, and ask `/events`: nothing else, from nowhere else.
 * @param {string} page
 * @returns {Record<string, string>}
 */
export function securityHeaders(page) {
  /** @param {RegExp} pattern */
  const hashOf = (pattern) => hashSource(pattern.exec(page)?.[1] ?? "");
  const [script, style] = [hashOf(/<script>([^]*?)<\/script>/), hashOf(/<style>([^]*?)<\/style>/)];
  const own = `script-src ${script}; style-src ${style}; connect-src 'self'; img-src data:`;
  return {
    "content-security-policy":
      `default-src 'none'; ${own}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'`,
    "x-content-type-options": "nosniff",
  };
}

/** @param {string} text */
const hashSource = (text) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;

/** What of a handover the picture needs: one row of numbers for each, since there may be thousands. */
const ROW_FIELDS = [
  ...["slot", "from", "to", "openedMs", "endedMs", "lastDataMs", "noticeMs", "drainMs"],
  ...["reconnectMs", "forcedMs", "silenceMs", "verdict", "symptom", "path", "move"],
];

/**
 * The result as the page reads it: a few handovers in full, all as rows, and the advice; JSON that may stand in HTML.
 * @param {Result} result
 * @returns {string}
 */
export function pageData(result, running = false) {
  /** @type {Map<string, number>} */
  const servers = new Map();
  /** @type {Map<string, number>} */
  const symptoms = new Map();
  /**
   * @param {Map<string, number>} names
   * @param {string | null} name
   */
  const place = (names, name) => {
    if (name === null) return null;
    const known = names.get(name) ?? names.size;
    names.set(name, known);
    return known;
  };
  /** @type {Map<string, number>} */
  const paths = new Map();
  const verdicts = ["graceful", "failed", "unfinished"];
  const rolledMs = result.disruption?.kind === "rollout" ? result.disruption.atMs : null;
  const podsMs = result.pods.flatMap(({ moments }) => moments.map(({ atMs }) => atMs));
  const moves = movesOf({ handovers: result.handovers, rolledMs, podsMs });
  const values = result.handovers.map((handover) => [
    handover.slot,
    place(servers, handover.from),
    place(servers, handover.to),
    handover.openedMs,
    handover.endedMs,
    handover.lastDataMs,
    handover.noticeMs,
    handover.drainMs,
    handover.reconnectMs,
    handover.forcedMs,
    handover.silenceMs,
    verdicts.indexOf(handover.verdict),
    place(symptoms, handover.symptom),
    place(paths, pathOf(handover) ?? null),
    moves.get(handover)?.move ?? 1,
  ]);
  const failed = result.handovers.filter(({ verdict }) => verdict === "failed");
  const others = result.handovers.filter(({ verdict }) => verdict !== "failed");
  const data = {
    ...result,
    running,
    handovers: [...failed, ...others].slice(0, SHOWN_HANDOVERS),
    foretold: foretold(result),
    rows: {
      servers: [...servers.keys()],
      symptoms: [...symptoms.keys()],
      paths: [...paths.keys()],
      fields: ROW_FIELDS,
      values,
    },
    paths: (result.paths ?? []).map((path) => ({ name: path.name, urls: path.urls, numbers: pathNumbers(path) })),
    advice: { ...remediesFor(result), ...CAUSES },
    words: wordsOf(result.handovers[0] ?? { dialect: "v1" }),
  };
  return toJson(data).replace(
    /[<\u2028\u2029]/g,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
}

// ---- JUnit

/**
 * JUnit's XML, as Jenkins and GitLab read it: a test case for each handover, and one for the run.
 * @param {Result} result
 * @returns {string}
 */
export function renderJunit(result) {
  // Of a long run the result keeps the latest handovers: a failure that is not among them must be somewhere.
  const shown = result.handovers.filter(({ verdict }) => verdict === "failed").length;
  const runFailed = result.verdict === "FAIL" && (shown === 0 || shown < result.counts.failed);
  const lines = foretold(result).map(escaped).join("&#10;");
  const outcome = (runFailed ? failure("FAIL", result.summary, result.summary) : "") +
    (lines === "" ? "" : `<system-out>${lines}</system-out>`);
  const runCase = testCase("run", "verdict", result.durationMs, outcome);
  const { handovers } = result;
  const paths = result.paths ?? [];
  const suites = paths.length === 0 ? testSuite("handovers", handovers, result, "", runCase, runFailed) : [
    ...paths.map((path) => {
      const properties = pathNumbers(path).map(([what, number]) =>
        `      <property name="${escaped(what)}" value="${escaped(number)}"/>\n`
      );
      const own = handovers.filter((handover) => pathOf(handover) === path.name);
      return testSuite(
        `handovers by ${path.name}`,
        own,
        result,
        `    <properties>\n${properties.join("")}    </properties>\n`,
      );
    }),
    testSuite("run", [], result, "", runCase, runFailed),
  ].join("\n");
  return `<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="graceful shutdown" ${totals(handovers, true, runFailed)} time="${seconds(result.durationMs)}">
${suites}
</testsuites>
`;
}

/**
 * @param {Handover[]} handovers
 * @param {boolean} hasRun whether the case of the run is among them
 * @param {boolean} runFailed
 */
function totals(handovers, hasRun, runFailed) {
  const failures = handovers.filter(({ verdict }) => verdict === "failed").length + (runFailed ? 1 : 0);
  return `tests="${handovers.length + (hasRun ? 1 : 0)}" failures="${failures}" errors="0"`;
}

/**
 * @param {string} name
 * @param {Handover[]} handovers
 * @param {Result} result
 * @param {string} properties
 * @param {string} runCase the run's own case, in the suite that has it
 * @param {boolean} runFailed
 */
function testSuite(name, handovers, result, properties, runCase = "", runFailed = false) {
  const skipped = handovers.filter(({ verdict }) => verdict === "unfinished").length;
  const counts = `${totals(handovers, runCase !== "", runFailed)} skipped="${skipped}"`;
  const times = `time="${seconds(result.durationMs)}" timestamp="${escaped(result.startedAt.slice(0, 19))}"`;
  const cases = [...handovers.map((handover) => handoverCase(handover, result)), ...runCase === "" ? [] : [runCase]];
  return `  <testsuite name="${escaped(name)}" ${counts} ${times}>
${properties}${cases.map((one) => `${one}\n`).join("")}  </testsuite>`;
}

/**
 * @param {Handover} handover
 * @param {Result} result
 * @returns {string}
 */
function handoverCase(handover, result) {
  const { slot, from, verdict, symptom, reconnectMs, rules } = handover;
  const marks = rulesOf(result, handover).map((rule) => `${rule} ${rules[rule]}`).join(", ");
  const name = `slot ${slot}${by(handover)}: ${from} to ${whereTo(handover)} (${marks})`;
  const outcome = verdict === "unfinished"
    ? `<skipped message="${
      handover.unseen ? "it ended while the client stood still" : "on its way when the run ended"
    }"/>`
    : verdict === "failed"
    ? failure(symptom ?? "FAIL", advise(handover), renderHandover(handover, rulesOf(result, handover)).join("\n"))
    : "";
  return testCase(`handover.${from}`, name, reconnectMs, outcome);
}

/**
 * @param {string} className
 * @param {string} name
 * @param {number} ms
 * @param {string} outcome
 */
const testCase = (className, name, ms, outcome) =>
  `    <testcase classname="${escaped(className)}" name="${escaped(name)}" time="${seconds(ms)}">${outcome}</testcase>`;

/**
 * @param {string} type
 * @param {string} message
 * @param {string} body
 */
const failure = (type, message, body) =>
  `<failure type="${escaped(type)}" message="${escaped(message)}">${escaped(body)}</failure>`;

/** @param {number} ms */
const seconds = (ms) => (ms / 1000).toFixed(3);

/**
 * Text that may stand in XML and HTML, in elements as in attributes.
 * @param {string} text
 * @returns {string}
 */
function escaped(text) {
  // deno-lint-ignore no-control-regex
  return text.replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]/gu, "�")
    .replace(/[<>&"'\t\n\r]/g, (character) => `&#${character.charCodeAt(0)};`);
}

/**
 * Why a handover failed and what to do, in one line.
 * @param {Handover} handover
 * @returns {string}
 */
function advise(handover) {
  const { symptom, cause, evidence, suspects } = handover;
  if (symptom === null) return "";
  const [meaning, remedy] = remediesIn(handover)[symptom] ?? UNKNOWN;
  const fix = cause !== null
    ? causeOf(cause)[1]
    : typeof remedy === "string"
    ? remedy
    : `it may be ${(suspects ?? remedy).join(", ")}`;
  return `${symptom}: ${meaning}${cause === null ? "" : `; cause ${cause}: ${evidence}`}. What to do: ${fix}`;
}

// ---- Markdown

/**
 * A summary for the page of a CI job: verdict, numbers, the telling handovers, and a timeline that Mermaid draws.
 * @param {Result} result
 * @returns {string}
 */
export function renderMarkdown(result) {
  const { messages, reconnect, silence } = result;
  const telling = [...result.handovers].sort((a, b) => Number(b.verdict === "failed") - Number(a.verdict === "failed"));
  const shown = telling.slice(0, SHOWN_SESSIONS);
  const advice = [...new Set(result.handovers.filter(({ verdict }) => verdict === "failed").map(advise))];
  return [
    `## ${result.verdict === "PASS" ? "✅" : "❌"} ${code(result.summary)}`,
    "",
    `${grouped(messages.received)} messages received, ${grouped(messages.sent)} sent, ${lostInWords(messages.lost)}. ` +
    `Reconnect ${percentiles(reconnect) || "n/a"}. Silence ${percentiles(silence) || "n/a"}.`,
    ...advice.length > 0 ? ["", ...advice.slice(0, 10).map((line) => `- ${code(line)}`)] : [],
    ...result.findings.length > 0
      ? ["", ...result.findings.map(({ name, text }) => `- ${word(name)}: ${code(text)}`)]
      : [],
    ...foretold(result).map((line, index) => `${index === 0 ? "\n" : ""}- ${code(line)}`),
    ...markdownPaths(result.paths ?? []),
    ...shown.length > 0
      ? [
        "",
        "| slot | from | to | verdict | symptom | cause | reconnect | silence |",
        "|---|---|---|---|---|---|---|---|",
        ...shown.map(markdownRow),
      ]
      : [],
    ...telling.length > shown.length ? ["", `and ${grouped(telling.length - shown.length)} more`] : [],
    ...shown.length > 0 ? ["", "```mermaid", ...renderGantt(shown.slice(0, 10)), "```"] : [],
    "",
  ].join("\n");
}

/**
 * Each path's numbers, a column for each of them that any path has.
 * @param {PathResult[]} paths
 * @returns {string[]}
 */
function markdownPaths(paths) {
  if (paths.length === 0) return [];
  const rows = paths.map((path) => new Map(allPathNumbers(path)));
  const heads = [...rows[0]?.keys() ?? []].filter((head) => rows.some((row) => row.get(head) !== ""));
  return [
    "",
    `| path | ${heads.join(" | ")} |`,
    `|---|${heads.map(() => "---|").join("")}`,
    ...rows.map((row, index) =>
      `| ${code(paths[index]?.name ?? "")} | ${heads.map((head) => code(row.get(head) || "–")).join(" | ")} |`
    ),
  ];
}

/**
 * @param {Handover} handover
 * @returns {string}
 */
function markdownRow(handover) {
  const { slot, from, verdict, symptom, cause, reconnectMs, silenceMs } = handover;
  const silence = silenceMs === null ? "" : duration(silenceMs);
  return `| ${slot}${by(handover) && ` ${code(by(handover).trim())}`} | ${code(from)} | ${
    code(whereTo(handover))
  } | ${verdict} | ${word(symptom)} | ${word(cause)} | ` +
    `${duration(reconnectMs)} | ${silence} |`;
}

/**
 * In code spans nothing is markup but the back tick, and in a table the bar.
 * @param {string} text
 */
const code = (text) => `\`${printable(text).replace(/[`|]/g, "'") || " "}\``;

/**
 * A name of ours, in letters and underscores; whatever else a file claims to be one is left out.
 * @param {string | null} name
 */
const word = (name) => (name ?? "").replace(/\W/g, "");

/**
 * Where each of some sessions was, and its silence, as a Gantt chart in Mermaid's words.
 * @param {Handover[]} handovers
 * @returns {string[]}
 */
function renderGantt(handovers) {
  /** @param {string} text */
  const name = (text) => text.replace(/[^\w.-]/g, "-").slice(0, 60);
  const ended = handovers.flatMap(({ endedMs }) => endedMs ?? []);
  const startMs = Math.max(0, Math.round(Math.min(...ended) - 3000));
  const untilMs = Math.round(
    Math.max(...handovers.map(({ endedMs, reconnectMs }) => (endedMs ?? 0) + reconnectMs)) + 2000,
  );
  /**
   * @param {string} text
   * @param {string} kind
   * @param {number} fromMs
   * @param {number} toMs
   */
  const bar = (text, kind, fromMs, toMs) =>
    `    ${name(text)} :${kind}${Math.round(fromMs - startMs)}, ${Math.round(Math.max(toMs, fromMs + 1) - startMs)}`;
  return [
    "gantt",
    "    dateFormat x",
    "    axisFormat %S.%L",
    ...handovers.flatMap(({ slot, from, to, openedMs, endedMs, noticeMs, reconnectMs }) => {
      if (endedMs === null) return [];
      const toldMs = endedMs - (noticeMs ?? 0);
      const backMs = endedMs + reconnectMs;
      return [
        `    section slot ${slot}`,
        bar(from, "", Math.max(startMs, Math.min(openedMs ?? 0, toldMs)), toldMs),
        ...noticeMs === null ? [] : [bar("drain", "active, ", toldMs, endedMs)],
        bar("away", "crit, ", endedMs, backMs),
        ...to === null ? [] : [bar(to, "", backMs, untilMs)],
      ];
    }),
  ];
}

// ---- Two runs, compared

/**
 * `same`: within the tolerance, or nothing to compare.
 * @typedef {"better" | "worse" | "same"} Change
 * @typedef {{ name: string, before: string, after: string, difference: string, change: Change }} Row
 * @typedef {{ title: string, rows: Row[] }} Section
 * @typedef {{ summary: string, change: Change, tolerance: number, summaries: [string, string], sections: Section[] }} Comparison
 */

/** Durations that differ by less are the same: timers, schedulers and networks differ so much by themselves. */
const NOISE_MS = 50;

/**
 * What is better and what is worse in the second of two runs, by more than `tolerance` percent of the first.
 * @param {Result} before
 * @param {Result} after
 * @param {number} tolerance
 * @returns {Comparison}
 */
export function compare(before, after, tolerance) {
  /** @param {(result: Result) => Spread} of */
  const both = (of) => /** @type {const} */ ([of(before), of(after)]);
  /** @param {(handovers: Handover[]) => Spread} of */
  const ofHandovers = (of) => both(({ handovers }) => of(handovers));
  /**
   * @param {string} name
   * @param {(result: Result) => number | null} of
   */
  const number = (name, of) => countRow(name, of(before), of(after), tolerance);
  const sections = [
    {
      title: "Verdict",
      rows: [
        verdictRow(before.verdict, after.verdict),
        number("failed handovers", ({ counts }) => counts.failed),
        number("unfinished handovers", ({ counts }) => counts.unfinished),
      ],
    },
    {
      title: "Messages",
      rows: [
        number("lost", ({ messages }) => messages.lost),
        number(
          "lost, from the server",
          ({ messages, handovers }) => messages.lost === null ? null : lostDown(handovers),
        ),
        number("lost, to the server", ({ messages, handovers }) => messages.lost === null ? null : lostUp(handovers)),
        number("duplicated", ({ messages }) => messages.duplicated),
        number("reordered", ({ messages }) => messages.reordered),
      ],
    },
    { title: "Reconnect", rows: spreadRows(...both(({ reconnect }) => reconnect), tolerance) },
    { title: "Silence", rows: spreadRows(...both(({ silence }) => silence), tolerance) },
    { title: "Drain", rows: spreadRows(...ofHandovers(drainOf), tolerance) },
    { title: "Notice", rows: noticeRows(...ofHandovers(noticeOf)) },
    { title: "Failed dials", rows: kindRows(before.failedDials, after.failedDials, tolerance) },
    { title: "Symptoms and causes", rows: kindRows(symptomCounts(before), symptomCounts(after), tolerance) },
    { title: "Findings", rows: findingRows(before, after) },
    ...pathsOf(before, after).map((path) => ({
      title: `Path ${path}`,
      rows: [
        ...pathRows(onPath(before, path), onPath(after, path), tolerance),
        ...pathKindRows(pathIn(before, path), pathIn(after, path), tolerance),
      ],
    })),
  ].filter(({ rows }) => rows.length > 0);
  const rows = sections.flatMap(({ rows }) => rows);
  const [worse, better] = [
    rows.filter(({ change }) => change === "worse"),
    rows.filter(({ change }) => change === "better"),
  ];
  const names = sections.filter(({ rows }) => rows.some(({ change }) => change === "worse")).map(({ title }) => title);
  return {
    summary: worse.length > 0
      ? `WORSE  ${worse.length} of ${count(rows.length, "row")} by more than ${tolerance}%: ${
        names.join(", ").toLowerCase()
      }`
      : better.length > 0
      ? `BETTER  ${better.length} of ${count(rows.length, "row")}, none worse by more than ${tolerance}%`
      : `SAME  ${count(rows.length, "row")} within ${tolerance}%`,
    change: worse.length > 0 ? "worse" : better.length > 0 ? "better" : "same",
    tolerance,
    summaries: [before.summary, after.summary],
    sections,
  };
}

/**
 * @param {Result["verdict"]} before
 * @param {Result["verdict"]} after
 * @returns {Row}
 */
function verdictRow(before, after) {
  const change = before === after ? "same" : after === "FAIL" ? "worse" : "better";
  return { name: "verdict", before, after, difference: "", change };
}

/**
 * A count of something bad.
 * @param {string} name
 * @param {number | null} before
 * @param {number | null} after
 * @param {number} tolerance
 * @returns {Row}
 */
function countRow(name, before, after, tolerance) {
  const difference = before === null || after === null ? "" : inWords(after - before, grouped);
  const change = before === null || after === null ? "same" : changeOf(before, after, tolerance, 0);
  const [first, second] = [before, after].map((number) => number === null ? "not numbered" : grouped(number));
  return { name, before: first ?? "", after: second ?? "", difference, change };
}

/**
 * @param {string} name
 * @param {number | null} before
 * @param {number | null} after
 * @param {number} tolerance
 * @returns {Row}
 */
function durationRow(name, before, after, tolerance) {
  const known = before !== null && after !== null;
  return {
    name,
    before: before === null ? "–" : duration(before),
    after: after === null ? "–" : duration(after),
    difference: known ? inWords(after - before, duration) : "",
    change: known ? changeOf(before, after, tolerance, NOISE_MS) : "same",
  };
}

/**
 * `-12ms`, `+3`, `0`.
 * @param {number} number
 * @param {(number: number) => string} write
 */
const inWords = (number, write) => number === 0 ? "0" : `${number < 0 ? "-" : "+"}${write(Math.abs(number))}`;

/**
 * How a number of which less is better has changed. From 0 every growth beyond the noise is one.
 * @param {number} before
 * @param {number} after
 * @param {number} tolerance
 * @param {number} noise
 * @returns {Change}
 */
function changeOf(before, after, tolerance, noise) {
  const difference = after - before;
  if (Math.abs(difference) <= Math.max(noise, before * tolerance / 100)) return "same";
  return difference > 0 ? "worse" : "better";
}

/**
 * @param {Spread} before
 * @param {Spread} after
 * @param {number} tolerance
 * @returns {Row[]}
 */
function spreadRows(before, after, tolerance) {
  if (before.maxMs === null && after.maxMs === null) return [];
  return [
    durationRow("p50", before.p50Ms, after.p50Ms, tolerance),
    durationRow("p99", before.p99Ms, after.p99Ms, tolerance),
    durationRow("max", before.maxMs, after.maxMs, tolerance),
  ];
}

/**
 * A longer notice is neither better nor worse by itself: shown, not marked.
 * @param {Spread} before
 * @param {Spread} after
 * @returns {Row[]}
 */
function noticeRows(before, after) {
  return spreadRows(before, after, Infinity);
}

/**
 * @param {Record<string, number>} before
 * @param {Record<string, number>} after
 * @param {number} tolerance
 * @returns {Row[]}
 */
function kindRows(before, after, tolerance) {
  const names = new Set([...Object.keys(before), ...Object.keys(after)]);
  /**
   * @param {Record<string, number>} counts
   * @param {string} name
   */
  const of = (counts, name) => Object.hasOwn(counts, name) ? counts[name] ?? 0 : 0;
  return [...names].map((name) => countRow(name, of(before, name), of(after, name), tolerance));
}

/**
 * How often each symptom was seen, and each of its causes.
 * @param {Pick<Result, "symptoms">} result
 * @returns {Record<string, number>}
 */
function symptomCounts({ symptoms }) {
  return Object.fromEntries(
    Object.entries(symptoms).flatMap(([name, { count, causes }]) => [
      [name, count],
      ...Object.entries(causes).map(([cause, { count }]) => /** @type {const} */ ([`${name}, ${cause}`, count])),
    ]),
  );
}

/**
 * Findings are worth knowing, never a failure: they come and go without being better or worse.
 * @param {Result} before
 * @param {Result} after
 * @returns {Row[]}
 */
function findingRows(before, after) {
  /** @param {Result} result */
  const texts = ({ findings }) => new Map(findings.map(({ name, text }) => [name, text]));
  const [old, current] = [texts(before), texts(after)];
  return [...new Set([...old.keys(), ...current.keys()])].map((name) => ({
    name,
    before: old.get(name) ?? "–",
    after: current.get(name) ?? "–",
    difference: !old.has(name) ? "new" : !current.has(name) ? "gone" : "",
    change: "same",
  }));
}

/**
 * The way that a handover's session took to the pods, where the result tells.
 * @param {Handover & { group?: string }} handover
 */
const pathOf = ({ path, group }) => path ?? group;

/**
 * @param {Result} result
 * @param {string} path
 */
const pathIn = ({ paths }, path) => paths?.find(({ name }) => name === path);

/**
 * The paths of two results, in the order in which they appear.
 * @param {Result} before
 * @param {Result} after
 * @returns {string[]}
 */
function pathsOf(before, after) {
  const named = [before, after].flatMap(({ paths }) => (paths ?? []).map(({ name }) => name));
  return [
    ...new Set([...named, ...[...before.handovers, ...after.handovers].flatMap((handover) => pathOf(handover) ?? [])]),
  ];
}

/**
 * @param {Result} result
 * @param {string} path
 */
const onPath = ({ handovers }, path) => handovers.filter((handover) => pathOf(handover) === path);

/**
 * @param {Handover[]} before
 * @param {Handover[]} after
 * @param {number} tolerance
 * @returns {Row[]}
 */
function pathRows(before, after, tolerance) {
  /** @param {Handover[]} handovers */
  const failed = (handovers) => handovers.filter(({ verdict }) => verdict === "failed").length;
  /** @param {Handover[]} handovers */
  const lost = (handovers) => lostDown(handovers) + lostUp(handovers);
  /**
   * @param {string} name
   * @param {Row[]} rows
   */
  const named = (name, rows) => rows.map((row) => ({ ...row, name: `${name} ${row.name}` }));
  return [
    countRow("failed handovers", failed(before), failed(after), tolerance),
    countRow("lost", lost(before), lost(after), tolerance),
    ...named("reconnect", spreadRows(reconnectOf(before), reconnectOf(after), tolerance)),
    ...named("silence", spreadRows(silenceOf(before), silenceOf(after), tolerance)),
    ...named("drain", spreadRows(drainOf(before), drainOf(after), tolerance)),
    ...named("notice", noticeRows(noticeOf(before), noticeOf(after))),
  ];
}

/**
 * What only a path's own numbers tell.
 * @param {PathResult | undefined} before
 * @param {PathResult | undefined} after
 * @param {number} tolerance
 * @returns {Row[]}
 */
function pathKindRows(before, after, tolerance) {
  if (before === undefined || after === undefined) return [];
  /** @param {PathResult["probes"]} probes */
  const failed = ({ ok: _ok, lastOnEndingMs: _lastOnEndingMs, ...counts }) => counts;
  /**
   * @param {string} what
   * @param {Row[]} rows
   */
  const named = (what, rows) =>
    rows.filter(({ before, after }) => before !== "0" || after !== "0").map((row) => ({
      ...row,
      name: `${what} ${row.name}`,
    }));
  return [
    countRow(
      "never connected",
      before.sessions.wanted - before.sessions.had,
      after.sessions.wanted - after.sessions.had,
      tolerance,
    ),
    ...kindRows(symptomCounts(before), symptomCounts(after), tolerance),
    ...named("failed dials", kindRows(before.failedDials, after.failedDials, tolerance)),
    ...named("probes", kindRows(failed(before.probes), failed(after.probes), tolerance)),
  ];
}

/** @param {Handover[]} handovers */
const lostDown = (handovers) => handovers.reduce((sum, { lost }) => sum + size(lost), 0);
/** @param {Handover[]} handovers */
const lostUp = (handovers) => handovers.reduce((sum, { upstreamLost }) => sum + upstreamLost, 0);
/** @param {Handover[]} handovers */
const reconnectOf = (handovers) => spread(handovers.flatMap(({ to, reconnectMs }) => to === null ? [] : reconnectMs));
/** @param {Handover[]} handovers */
const silenceOf = (handovers) => spread(handovers.flatMap(({ silenceMs }) => silenceMs ?? []));
/** @param {Handover[]} handovers */
const drainOf = (handovers) => spread(handovers.flatMap(({ drainMs }) => drainMs ?? []));
/** @param {Handover[]} handovers */
const noticeOf = (handovers) => spread(handovers.flatMap(({ noticeMs }) => noticeMs ?? []));

/**
 * How a comparison is written, by the ending of its file.
 * @type {Record<string, (comparison: Comparison) => string>}
 */
const COMPARISONS = {
  json: (comparison) => `${toJson(comparison)}\n`,
  html: renderComparisonPage,
  md: renderComparisonMarkdown,
};

/**
 * The comparison for people; its outcome is the last line.
 * @param {Comparison} comparison
 * @returns {string}
 */
export function renderComparison({ summary, change, summaries, sections }) {
  const paint = { better: kleur.green, worse: kleur.red, same: kleur.dim };
  const cells = sections.flatMap(({ rows }) => rows).map(({ name, before, after, difference }) =>
    [name, before, after, difference].map((cell) => shortened(printable(cell)))
  );
  const widths = ["", "before", "after", "difference"].map((head, column) =>
    Math.max(head.length, ...cells.map((row) => (row[column] ?? "").length))
  );
  /** @param {string[]} row */
  const line = (row) => row.map((cell, column) => shortened(printable(cell)).padEnd(widths[column] ?? 0)).join("  ");
  return [
    "",
    `${kleur.bold("Before")}  ${printable(summaries[0])}`,
    `${kleur.bold("After ")}  ${printable(summaries[1])}`,
    "",
    kleur.dim(`  ${line(["", "before", "after", "difference"])}`.trimEnd()),
    ...sections.flatMap(({ title, rows }) => [
      kleur.bold(printable(title)),
      ...rows.map(({ name, before, after, difference, change }) =>
        `  ${line([name, before, after, difference])}  ${paint[change](change)}`
      ),
    ]),
    "",
    kleur.bold((change === "worse" ? kleur.red : kleur.green)(printable(summary))),
    "",
  ].join("\n");
}

/**
 * A cell of a table on a terminal.
 * @param {string} text
 */
const shortened = (text) => text.length > 40 ? `${text.slice(0, 39)}…` : text;

/**
 * @param {Comparison} comparison
 * @returns {string}
 */
export function renderComparisonMarkdown({ summary, change, summaries, sections }) {
  return `## ${change === "worse" ? "❌" : "✅"} ${code(summary)}

- before: ${code(summaries[0])}
- after: ${code(summaries[1])}
${
    sections.map(({ title, rows }) => `
### ${code(title)}

| | before | after | difference | |
|---|---|---|---|---|
${
      rows.map((row) =>
        `| ${code(row.name)} | ${code(row.before)} | ${code(row.after)} | ${code(row.difference)} | ${row.change} |\n`
      ).join("")
    }`).join("")
  }`;
}

const COMPARISON_STYLE = `
:root { color-scheme: light dark; --bg: #ffffff; --fg: #1a2129; --muted: #55606c; --line: #d3dae1; --good: #17703a; --bad: #b3261e; }
@media screen and (prefers-color-scheme: dark) {
  :root { --bg: #10151b; --fg: #e5ebf1; --muted: #a0adba; --line: #333e4a; --good: #57c98c; --bad: #ff8d83; }
}
body { margin: 0; background: var(--bg); color: var(--fg); font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; font-variant-numeric: tabular-nums; }
main { max-width: 1000px; margin: 0 auto; padding: 20px 24px 32px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 12px; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 14px; margin: 0; }
dd { margin: 0; overflow-wrap: anywhere; }
dt, thead th, td.same { color: var(--muted); }
table { width: 100%; margin-top: 24px; border-collapse: collapse; table-layout: fixed; }
caption { text-align: left; font-weight: 650; padding-bottom: 4px; overflow-wrap: anywhere; }
th, td { text-align: left; vertical-align: top; padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); font-weight: 400; overflow-wrap: anywhere; }
th:first-child { width: 28%; }
th:last-child, td:last-child { width: 10%; }
.worse { color: var(--bad); } .better { color: var(--good); }
td.worse, td.better { font-weight: 650; }
`;

/**
 * A page that stands alone, without a script.
 * @param {Comparison} comparison
 * @returns {string}
 */
export function renderComparisonPage({ summary, change, summaries, sections }) {
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="content-security-policy" content="default-src 'none'; style-src ${hashSource(COMPARISON_STYLE)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escaped(summary)}</title>
<style>${COMPARISON_STYLE}</style>
</head>
<body>
<main>
<h1 class="${change}">${escaped(summary)}</h1>
<dl><dt>Before</dt><dd>${escaped(summaries[0])}</dd><dt>After</dt><dd>${escaped(summaries[1])}</dd></dl>
${sections.map(sectionTable).join("")}</main>
</body>
</html>
`;
}

/**
 * @param {Section} section
 * @returns {string}
 */
function sectionTable({ title, rows }) {
  const heads = ["what", "before", "after", "difference", "change"].map((head) => `<th scope="col">${head}</th>`);
  return `<table>
<caption>${escaped(title)}</caption>
<thead><tr>${heads.join("")}</tr></thead>
<tbody>
${
    rows.map(({ name, before, after, difference, change }) =>
      `<tr><th scope="row">${escaped(name)}</th><td>${escaped(before)}</td><td>${escaped(after)}</td>` +
      `<td>${escaped(difference)}</td><td class="${change}">${change}</td></tr>\n`
    ).join("")
  }</tbody>
</table>
`;
}

// ---- Words and numbers that reports share

/**
 * As many as a picture shows, evenly taken from all.
 * @template T
 * @param {T[]} all
 * @returns {T[]}
 */
export const sample = (all) =>
  all.filter((_, index) => all.length <= SHOWN_SESSIONS || index % Math.ceil(all.length / SHOWN_SESSIONS) === 0);

/**
 * How many numbers some ranges hold.
 * @param {readonly Range[]} ranges
 * @returns {number}
 */
export const size = (ranges) => ranges.reduce((sum, [from, to]) => sum + to - from + 1, 0);

/**
 * ", 3 unfinished"; "" of none.
 * @param {number} number
 * @param {string} what
 */
export const more = (number, what) => number === 0 ? "" : `, ${grouped(number)} ${what}`;

/**
 * The first three names.
 * @param {string[]} names
 */
export const listed = (names) => names.slice(0, 3).join(", ") + (names.length > 3 ? ", …" : "");

/**
 * The median, the 99th percentile and the greatest of some durations.
 * @param {number[]} numbers
 * @returns {Spread}
 */
export function spread(numbers) {
  return { p50Ms: percentile(numbers, 50), p99Ms: percentile(numbers, 99), maxMs: percentile(numbers, 100) };
}

/**
 * @param {Spread} spread
 * @returns {string | false}
 */
function percentiles({ p50Ms, p99Ms, maxMs }) {
  return p50Ms !== null && p99Ms !== null && maxMs !== null &&
    `p50 ${duration(p50Ms)}, p99 ${duration(p99Ms)}, max ${duration(maxMs)}`;
}

/**
 * @param {readonly Range[]} list
 * @returns {string}
 */
function ranges(list) {
  const names = list.slice(0, 5).map(([from, to]) => from === to ? `${from}` : `${from}-${to}`);
  return names.join(", ") + (list.length > 5 ? ", …" : "");
}

/** @param {number} ms */
const signed = (ms) => `${ms < 0 ? "-" : "+"}${duration(Math.abs(ms))}`;

// ---- The command

const USAGE = `Usage: ${called("report", "report.mjs")} RESULT.json [AFTER.json] [settings]

Shows a result that --json or --report has written; with two results it compares them.
Exit 0: shown, or the second is not worse; 1: it is worse by more than the tolerance; 2: it could not run.

  -o, --output FILE    write to this ${
  endingsOf(REPORTS)
} instead of stdout; repeatable; .xml (JUnit) of one result only
  --tolerance PERCENT  how much worse the second may be, default 10; durations may differ by ${NOISE_MS}ms in any case
  -h, --help           print this and exit
  --version            print the version and exit
`;

/** Reads one result or two, and writes what was asked for. */
// deno-lint-ignore require-await
export async function main() {
  const options = readOptions();
  if (options === undefined) return;
  const { files, outputs, tolerance } = options;
  const [first, second] = files.map(readResult);
  if (first === undefined) throw new UserError("A result is needed: see --help");
  if (second === undefined) {
    for (const file of outputs) writeReport(file, first);
    if (outputs.length === 0) show(() => render(first));
    return;
  }
  const comparison = compare(first, second, tolerance);
  kleur.enabled = false; // files have no colour
  for (const file of outputs) {
    writeWhole(file, /** @type {(comparison: Comparison) => string} */ (COMPARISONS[endingOf(file)])(comparison));
  }
  if (outputs.length === 0) show(() => renderComparison(comparison));
  process.exitCode = comparison.change === "worse" ? 1 : 0;
}

/** @param {() => string} make */
function show(make) {
  useColour(process.stdout);
  process.stdout.write(make());
}

function readOptions() {
  /** @type {string | undefined} */
  let unknown;
  const given = mri(process.argv.slice(2), {
    alias: { h: "help", o: "output" },
    string: ["output", "tolerance"],
    boolean: ["help", "version"],
    default: { output: undefined, tolerance: undefined, help: undefined, version: undefined },
    unknown: (flag) => void (unknown = flag),
  }) ?? { _: [] };
  if (unknown !== undefined) throw new UserError(printable(`Unknown flag ${unknown}: see --help`));
  if (given["help"]) return void process.stdout.write(USAGE);
  if (given["version"]) return void process.stdout.write(`${VERSION}\n`);
  const files = given._;
  if (files.length > 2) throw new UserError(printable(`Unexpected argument '${files[2]}': see --help`));
  /** @type {unknown[]} */
  const outputs = given["output"] === undefined ? [] : [given["output"]].flat();
  const writers = files.length === 2 ? COMPARISONS : REPORTS;
  return {
    files,
    outputs: outputs.map((file) => outputFile(file, writers)),
    tolerance: percentage([given["tolerance"]].flat().at(-1)),
  };
}

/**
 * @param {unknown} file
 * @param {Record<string, unknown>} writers
 * @returns {string}
 */
function outputFile(file, writers) {
  if (typeof file !== "string" || file === "") throw new UserError("--output needs a value: see --help");
  if (Object.hasOwn(writers, endingOf(file))) return file;
  throw new UserError(printable(`--output must end in ${endingsOf(writers)}: current value is '${file}'`));
}

/**
 * @param {unknown} text
 * @returns {number}
 */
function percentage(text) {
  if (text === undefined) return 10;
  if (typeof text === "string" && /^\d+(\.\d+)?%?$/.test(text)) return Number.parseFloat(text);
  throw new UserError(printable(`--tolerance must be a percentage from 0 on: current value is '${text}'`));
}

/**
 * A result from a file. Throws `UserError` where it is none.
 * @param {string} file
 * @returns {Result}
 */
function readResult(file) {
  let text;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new UserError(printable(`Cannot read ${file}: ${/** @type {Error} */ (error).message}`));
  }
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    throw new UserError(printable(`Cannot read ${file}: it is not JSON`));
  }
  const problem = problemOf(value, RESULT, "it");
  if (problem !== undefined) throw new UserError(printable(`${file} is not a result of this program: ${problem}`));
  return value;
}

/**
 * What must be of which kind, so that a report of it can be made: a name of `typeof` (`?`: or null), fields, a list of
 * such, or a function of the value.
 * @typedef {string | { [field: string]: any } | [any] | ((value: unknown) => boolean)} Shape
 */
/** @type {Shape} */
const SPREAD = { p50Ms: "number?", p99Ms: "number?", maxMs: "number?" };
/** @param {unknown} value */
const isCounts = (value) =>
  typeof value === "object" && value !== null &&
  Object.values(value).every((number) => number === null || typeof number === "number");
/** @param {unknown} value */
const isRanges = (value) =>
  Array.isArray(value) && value.every((range) => Array.isArray(range) && range.every(Number.isFinite));
/** @param {unknown} value */
const isSymptoms = (value) =>
  typeof value === "object" && value !== null &&
  Object.values(value).every((entry) =>
    problemOf(entry, { count: "number", causes: isCauses, suspects: optional(["string"]) }, "it") === undefined
  );
/** @param {unknown} value */
const isCauses = (value) =>
  typeof value === "object" && value !== null &&
  Object.values(value).every((entry) => problemOf(entry, { count: "number", evidence: "string" }, "it") === undefined);
/** @type {Shape} */
const PREDICTION = { foretells: ["string"], came: "number", field: "string", value: "string", fix: "string" };
/** @type {Shape} */
const PATH = {
  name: "string",
  urls: ["string"],
  sessions: { wanted: "number", had: "number", connected: "number" },
  counts: { graceful: "number", failed: "number", unfinished: "number" },
  messages: { lost: "number?" },
  symptoms: isSymptoms,
  reconnect: SPREAD,
  silence: SPREAD,
  failedDials: isCounts,
  probes: isCounts,
};
/**
 * What older versions do not tell may be absent.
 * @param {Shape} shape
 */
const optional = (shape) => (/** @type {unknown} */ value) =>
  value == null || problemOf(value, shape, "it") === undefined;
/** @type {Shape} */
const RESULT = {
  verdict: (/** @type {unknown} */ value) => value === "PASS" || value === "FAIL",
  summary: "string",
  version: "string",
  startedAt: "string",
  durationMs: "number",
  messages: {
    received: "number",
    sent: "number",
    lost: "number?",
    duplicated: "number",
    reordered: "number",
    resent: "number",
  },
  counts: { graceful: "number", failed: "number", unfinished: "number" },
  symptoms: isSymptoms,
  reconnect: SPREAD,
  silence: SPREAD,
  failedDials: isCounts,
  probes: isCounts,
  paths: optional([PATH]),
  rollout: optional({ moves: isCounts }),
  disruption: (/** @type {unknown} */ value) =>
    value === null || problemOf(value, { kind: "string", pod: "string?", atMs: "number" }, "it") === undefined,
  pods: [{ name: "string", moments: [{ atMs: "number", kind: "string", text: "string" }] }],
  findings: [{ name: "string", text: "string" }],
  predictions: optional([PREDICTION]),
  unseen: optional(["string"]),
  settings: { expect: ["string"] },
  handovers: [{
    slot: "number",
    path: optional("string"),
    from: "string",
    to: "string?",
    dialect: "string",
    verdict: (/** @type {unknown} */ value) => ["graceful", "failed", "unfinished"].includes(String(value)),
    symptom: "string?",
    cause: "string?",
    evidence: "string?",
    openedMs: "number?",
    endedMs: "number?",
    noticeMs: "number?",
    drainMs: "number?",
    silenceMs: "number?",
    reconnectMs: "number",
    chosenMs: "number",
    forcedMs: "number",
    received: "number",
    lost: isRanges,
    duplicated: isRanges,
    reordered: isRanges,
    upstreamLost: "number",
    failedDials: isCounts,
    rules: (/** @type {unknown} */ value) =>
      problemOf(value, Object.fromEntries(RULES.map((rule) => [rule, "string"])), "it") === undefined,
  }],
};

/**
 * What is wrong with a value's shape, in words; undefined where nothing is.
 * @param {any} value
 * @param {Shape} shape
 * @param {string} name
 * @returns {string | undefined}
 */
function problemOf(value, shape, name) {
  if (typeof shape === "function") return shape(value) ? undefined : `${name} is not what it should be`;
  if (typeof shape === "string") {
    const right = typeof value === shape.replace("?", "") || (shape.endsWith("?") && value === null);
    return right ? undefined : `${name} must be a ${shape.replace("?", " or null")}`;
  }
  if (Array.isArray(shape)) {
    if (!Array.isArray(value)) return `${name} must be a list`;
    return firstOf(value, (item, index) => problemOf(item, shape[0], `${name}[${index}]`));
  }
  if (typeof value !== "object" || value === null) return `${name} must be an object`;
  return firstOf(Object.entries(shape), ([field, inner]) => {
    return problemOf(value[field], inner, name === "it" ? `'${field}'` : `${name}.${field}`);
  });
}

/**
 * @template T
 * @param {T[]} items
 * @param {(item: T, index: number) => string | undefined} find
 */
function firstOf(items, find) {
  for (const [index, item] of items.entries()) {
    const found = find(item, index);
    if (found !== undefined) return found;
  }
}

/** Whether dist/ has the contract as it is now. */
function isBuilt() {
  const [source, built] = ["protocol.ts", "dist/protocol.js"].map((file) =>
    statSync(new URL(file, import.meta.url), { throwIfNoEntry: false })?.mtimeMs
  );
  return built !== undefined && (source === undefined || built >= source);
}

/** The contract as build.mjs has put it into dist/: by `require`, because an import would look for its names first. */
function requireBuilt() {
  try {
    return createRequire(import.meta.url)("./dist/protocol.js");
  } catch (error) {
    if (/** @type {{ code?: string }} */ (error).code !== "MODULE_NOT_FOUND") throw error;
    process.stderr.write("This Node reads no TypeScript: node build.mjs first\n");
    process.exit(2); // nothing is running yet
  }
}

/**
 * What our own server or client says to --help, kept by the build, so that none is started only to be asked. Throws `UserError`
 * where there is no build.
 * @param {"server" | "client"} role
 */
export function builtHelp(role) {
  const file = fileURLToPath(new URL(`dist/${role}.txt`, import.meta.url));
  if (existsSync(file)) return readFileSync(file, "utf8");
  throw new UserError(`There is no dist/${role}.txt: 'make build' builds the programs`);
}

/**
 * The settings that a program's --help lists, by their flags.
 * @param {string} help
 * @returns {Record<string, { env: string, fallback: string }>}
 */
export function settingsIn(help) {
  const rows = help.matchAll(/^ {2}--(\S+) +([A-Z_]+) +(\S*)/gm);
  return Object.fromEntries([...rows].map(([, name = "", env = "", fallback = ""]) => [name, { env, fallback }]));
}

/** Whether this file is what was started (`import.meta.main` is younger than Node 20). */
function isProgram() {
  const program = process.argv[1];
  return import.meta.main ??
    (program !== undefined && existsSync(program) && realpathSync(program) === fileURLToPath(import.meta.url));
}

if (typeof REPORT_PAGE !== "string" && isProgram()) run(main);
