// The floors of `make bench`: the script of a rehearsal, redials included, with no JSON and no judge, over raw TCP sockets
// (`tcp`) and over the WebSocket library that the program uses (`ws`). What lies between the two is the library's; what is
// above them, the program's. The client ends with `moved P99`: from a connection's end to the next greeting, as the program's
// client measures it. `node bench/floor.mjs tcp server` and `node bench/floor.mjs tcp client FROM TO SESSIONS`.
import { createServer as createHttpServer } from "node:http";
import { connect, createServer } from "node:net";
import { WebSocket, WebSocketServer } from "ws";

const INTERVAL_MS = 2000;
const REMAINING_INTERVAL_MS = 100;
const MAX_DIALS = 50;
const BACKOFF_MS = 100;
/** As long as a DATA frame of the program. */
const LINE = `${"x".repeat(75)}\n`;

/** What the script needs: peers that say and hear lines, and take leave of each other before they end. */
const TRANSPORTS = {
  tcp: {
    listen: (onPeer) => createServer((socket) => onPeer(tcpPeer(socket))),
    dial: (port) => tcpPeer(connect({ port, host: "127.0.0.1" })),
  },
  ws: {
    listen(onPeer) {
      const upgrades = new WebSocketServer({ noServer: true, perMessageDeflate: false });
      return createHttpServer().on(
        "upgrade",
        (request, stream, head) => upgrades.handleUpgrade(request, stream, head, (socket) => onPeer(wsPeer(socket))),
      );
    },
    dial: (port) => wsPeer(new WebSocket(`ws://127.0.0.1:${port}/`, { perMessageDeflate: false })),
  },
};

function tcpPeer(socket) {
  let said = false;
  const leave = () => {
    said = true;
    socket.write("BYE\n");
  };
  return {
    say: (line) => socket.write(line),
    onLine: (listener) =>
      socket.on("data", (data) => {
        listener(data);
        if (!data.includes("BYE")) return;
        if (said) socket.end();
        else leave();
      }),
    onEnd: (listener) => socket.on("error", () => {}).on("close", listener),
    leave,
  };
}

function wsPeer(socket) {
  return {
    say: (line) => socket.send(line),
    onLine: (listener) => socket.on("message", listener),
    onEnd: (listener) => socket.on("error", () => {}).on("close", listener),
    leave: () => socket.close(1001),
  };
}

const [name, role, ...rest] = process.argv.slice(2);
const transport = TRANSPORTS[name];
if (role === "server") server();
else client(...rest.map(Number));

function server() {
  const peers = new Set();
  let draining = false;
  const listener = transport.listen((peer) => {
    peers.add(peer);
    peer.say("HELLO\n");
    peer.say(LINE);
    peer.tick = setInterval(() => peer.say(LINE), INTERVAL_MS);
    peer.onLine((data) => {
      if (!data.includes("ACK")) return;
      peer.acknowledged = true;
      sayFarewell(peer);
    });
    peer.onEnd(() => {
      clearInterval(peer.tick);
      peers.delete(peer);
      if (draining && peers.size === 0) listener.close();
    });
  });
  process.on("SIGTERM", () => {
    draining = true;
    const signalledAt = performance.now();
    if (peers.size === 0) listener.close();
    for (const peer of peers) drain(peer, signalledAt);
  });
  listener.listen({ port: 0, backlog: 4096 }, () => process.stdout.write(`${listener.address().port}\n`));
}

function drain(peer, signalledAt) {
  clearInterval(peer.tick);
  peer.say("SHUTDOWN\n");
  peer.remaining = 1 + Math.floor(Math.random() * 10);
  let dueAt = signalledAt;
  const next = () => {
    dueAt += REMAINING_INTERVAL_MS;
    peer.tick = setTimeout(send, Math.max(0, dueAt - performance.now()));
  };
  const send = () => {
    peer.say(LINE);
    if (--peer.remaining > 0) next();
    else sayFarewell(peer);
  };
  next();
}

function sayFarewell(peer) {
  if (peer.remaining !== 0 || !peer.acknowledged) return;
  peer.say("CLOSE\n");
  peer.leave();
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
    const peer = transport.dial(port);
    let tick;
    let greeted = false;
    peer.onLine((data) => {
      if (!greeted) {
        greeted = true;
        dialling--;
        dialNext();
        peer.say(LINE);
        tick = setInterval(() => peer.say(LINE), INTERVAL_MS);
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
        peer.say("ACK\n");
      }
    });
    peer.onEnd(() => {
      clearInterval(tick);
      if (!greeted) dialling--;
      const endedAt = performance.now();
      setTimeout(() => enqueue(to, endedAt), Math.random() * BACKOFF_MS);
    });
  }
}
