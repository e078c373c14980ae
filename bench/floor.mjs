// The floor of `make bench`: the script of a rehearsal over raw TCP sockets, redials included,
// with no WebSocket, no JSON and no judge. The client ends with `moved P99`: from a connection's end to the next greeting, as
// the program's client measures it. `node bench/floor.mjs server` and `node bench/floor.mjs client FROM TO SESSIONS`.
import { connect, createServer } from "node:net";

const INTERVAL_MS = 2000;
const REMAINING_INTERVAL_MS = 100;
const MAX_DIALS = 50;
const BACKOFF_MS = 100;
/** As long as a DATA frame of the program. */
const LINE = `${"x".repeat(75)}\n`;

const [role, ...rest] = process.argv.slice(2);
if (role === "server") server();
else client(...rest.map(Number));

function server() {
  const sockets = new Set();
  const listener = createServer((socket) => {
    socket.on("data", (data) => {
      if (data.includes("UPGRADE")) {
        sockets.add(socket);
        socket.write("HELLO\n");
        socket.write(LINE);
        socket.tick = setInterval(() => socket.write(LINE), INTERVAL_MS);
      }
      if (data.includes("ACK")) {
        socket.acknowledged = true;
        sayFarewell(socket);
      }
      if (data.includes("BYE")) socket.end();
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      clearInterval(socket.tick);
      sockets.delete(socket);
      if (draining && sockets.size === 0) listener.close();
    });
  });
  let draining = false;
  process.on("SIGTERM", () => {
    draining = true;
    const signalledAt = performance.now();
    if (sockets.size === 0) listener.close();
    for (const socket of sockets) drain(socket, signalledAt);
  });
  listener.listen({ port: 0, backlog: 4096 }, () => process.stdout.write(`${listener.address().port}\n`));
}

function drain(socket, signalledAt) {
  clearInterval(socket.tick);
  socket.write("SHUTDOWN\n");
  socket.remaining = 1 + Math.floor(Math.random() * 10);
  let dueAt = signalledAt;
  const next = () => {
    dueAt += REMAINING_INTERVAL_MS;
    socket.tick = setTimeout(send, Math.max(0, dueAt - performance.now()));
  };
  const send = () => {
    socket.write(LINE);
    if (--socket.remaining > 0) next();
    else sayFarewell(socket);
  };
  next();
}

function sayFarewell(socket) {
  if (socket.remaining === 0 && socket.acknowledged) socket.write("CLOSE\nBYE\n");
}

function client(from, to, sessions) {
  const waiting = [];
  let dialling = 0;
  let opened = 0;
  const reconnectsMs = [];
  const startedAt = performance.now();

  for (let index = 0; index < sessions; index++) enqueue(from);

  function enqueue(port, endedAt) {
    waiting.push([port, endedAt]);
    dialNext();
  }

  function dialNext() {
    if (dialling >= MAX_DIALS || waiting.length === 0) return;
    dialling++;
    const [port, endedAt] = waiting.shift();
    const socket = connect({ port, host: "127.0.0.1" }, () => socket.write("UPGRADE\n"));
    let tick;
    let greeted = false;
    socket.on("data", (data) => {
      if (!greeted) {
        greeted = true;
        dialling--;
        dialNext();
        socket.write(LINE);
        tick = setInterval(() => socket.write(LINE), INTERVAL_MS);
        if (endedAt === undefined && ++opened === sessions) {
          process.stdout.write(`open ${performance.now() - startedAt}\n`);
        }
        if (endedAt !== undefined && reconnectsMs.push(performance.now() - endedAt) === sessions) {
          const p99Ms = reconnectsMs.sort((a, b) => a - b)[Math.ceil(sessions * 0.99) - 1];
          process.stdout.write(`moved ${p99Ms}\n`, () => process.exit());
        }
      }
      if (data.includes("SHUTDOWN")) {
        clearInterval(tick);
        socket.write("ACK\n");
      }
      if (data.includes("BYE")) socket.write("BYE\n");
    });
    socket.on("error", () => {});
    socket.on("close", () => {
      clearInterval(tick);
      if (!greeted) dialling--;
      const endedAt = performance.now();
      setTimeout(() => enqueue(to, endedAt), Math.random() * BACKOFF_MS);
    });
  }
}
