// A reporter that says how far the tests are, a line every ten seconds: beside the runner's own, which is silent for minutes.
import { performance } from "node:perf_hooks";

const INTERVAL_MS = 10_000;

/** @param {AsyncIterable<{ type: string, data: { file?: string, details?: { type?: string } } }>} events */
export default async function* progress(events) {
  const begun = performance.now();
  const files = new Set();
  const counts = { "test:pass": 0, "test:fail": 0 };
  let saidAt = begun;
  for await (const { type, data } of events) {
    if (type !== "test:pass" && type !== "test:fail") continue;
    if (data.details?.type !== "suite") counts[type]++;
    if (data.file !== undefined) files.add(data.file);
    const now = performance.now();
    if (now - saidAt < INTERVAL_MS) continue;
    saidAt = now;
    const seconds = Math.round((now - begun) / 1000);
    yield `… ${counts["test:pass"]} passed, ${counts["test:fail"]} failed, in ${files.size} files after ${seconds} s\n`;
  }
}
