import { spawn } from "node:child_process";

/** Each takes a whole core for as long as the process does that asked for it, and no longer, however that ends. */
const SCRIPT = 'while kill -0 "$0" 2>/dev/null; do i=0; while [ $i -lt 50000 ]; do i=$((i + 1)); done; done';

/** Starts so many CPU hogs, behind `prefix` (a `taskset`, perhaps); returns what ends them. */
export function startHogs(number, prefix = []) {
  const [file, ...args] = [...prefix, "sh", "-c", SCRIPT, String(process.pid)];
  const hogs = Array.from({ length: number }, () => spawn(file, args, { stdio: "ignore" }));
  hogs.forEach((hog) => hog.unref());
  return () => hogs.forEach((hog) => hog.kill("SIGKILL"));
}
