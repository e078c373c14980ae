// A reporter: says on its way how many test files are done. Node's own ones tell of a file only once all before it are.
import { basename } from "node:path";

const startedAt = performance.now();
let files = 0;
let done = 0;

export default async function* progress(events) {
  for await (const { type, data } of events) {
    // The runner has a test for each file, with the file's path as its name.
    if (data.nesting !== 0 || !data.name?.endsWith(".test.mjs")) continue;
    if (type === "test:enqueue") files++;
    if (type !== "test:complete") continue;
    const seconds = Math.round((performance.now() - startedAt) / 1000);
    yield `${++done} of ${files} test files after ${seconds} s: ${basename(data.name, ".test.mjs")}\n`;
  }
}
