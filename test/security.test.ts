import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { request as httpsRequest } from "node:https";
import { join } from "node:path";
import process from "node:process";
import { describe, it, type TestContext } from "node:test";
import { connect as connectTls } from "node:tls";
import { WebSocket } from "ws";
import { SUBPROTOCOL } from "../protocol.ts";
import { connect, run, start, startClient, startServer } from "./helper.ts";

const skip = spawnSync("openssl", ["version"]).status !== 0 && "openssl makes the certificates, and there is none here";

const EXPIRED = { cert: "test/fixtures/expired.crt", key: "test/fixtures/expired.key" };

/** A folder of a test's own, gone when it ends. */
function makeFolder(t: TestContext): string {
  const folder = mkdtempSync("dist/security-");
  t.after(() => rmSync(folder, { recursive: true }));
  return folder;
}

/** Makes NAME.crt and NAME.key in a folder, self-signed, or signed by the pair `by`. */
function certify(folder: string, name: string, { by = "" } = {}) {
  const [cert, key] = [join(folder, `${name}.crt`), join(folder, `${name}.key`)];
  const curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert];
  const subject = [
    "-subj",
    `/CN=${name}`,
    "-addext",
    "subjectAltName=DNS:localhost,IP:127.0.0.1",
    "-days",
    "1",
  ];
  const issuer = by === "" ? [] : ["-CA", join(folder, `${by}.crt`), "-CAkey", join(folder, `${by}.key`)];
  const { status, stderr } = spawnSync("openssl", ["req", "-x509", ...curve, ...subject, ...issuer]);
  assert.equal(status, 0, String(stderr));
  return { cert, key };
}

/** Replaces a file's contents at once, as a rename does. */
function replace(file: string, text: string): void {
  writeFileSync(`${file}.new`, text);
  renameSync(`${file}.new`, file);
}

const wss = (url: string) => url.replace("ws:", "wss:");

/** The common name of the certificate that a new connection is shown. */
function shownBy(port: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false }, () => {
      resolve(String(socket.getPeerCertificate().subject.CN));
      socket.destroy();
    });
    socket.on("error", reject);
  });
}

/** Status and headers of an upgrade that is refused; 101 where it is not. */
function upgrade(url: string, headers: Record<string, string> = {}): Promise<{ status: number; challenge?: string }> {
  return new Promise((resolve) => {
    const ws = new WebSocket(url, [SUBPROTOCOL], { headers, rejectUnauthorized: false });
    ws.on("open", () => {
      ws.terminate();
      resolve({ status: 101 });
    });
    ws.on("unexpected-response", (_request, response) => {
      const challenge = response.headers["www-authenticate"];
      resolve({ status: response.statusCode!, ...challenge !== undefined && { challenge } });
      ws.terminate();
    });
    ws.on("error", () => {});
  });
}

describe("TLS", { skip, concurrency: 3 }, () => {
  it("carries a whole handover, judged as without it", async (t) => {
    const { cert, key } = certify(makeFolder(t), "server");
    const tls = [`--tls-cert=${cert}`, `--tls-key=${key}`, "--remaining=2", "--remaining-interval=20"];
    const servers = await Promise.all([startServer(t, ...tls), startServer(t, ...tls, "--name=server-2")]);
    const urls = servers.map(({ url }) => `--url=${wss(url)}`);
    const client = startClient(t, ...urls, `--tls-ca=${cert}`, "--sessions=20", "--handovers=20", "--interval=100");
    await client.line(/steady/);
    servers[0]!.child.kill("SIGTERM");
    const { verdict, counts, messages } = await client.result;
    assert.deepEqual([verdict, counts.graceful, messages.lost], ["PASS", 20, 0]);
    assert.equal((await servers[0]!.exited).code, 0);
  });

  for (
    const [fault, symptom] of [["reset", "RESET_AFTER_CLOSE"], ["terminate", "NO_CLOSE_FRAME"], [
      "exit-mid-drain",
      "CUT_DURING_DRAIN",
    ]]
  ) {
    it(`does not hide ${symptom}`, async (t) => {
      const { cert, key } = certify(makeFolder(t), "server");
      const tls = [`--tls-cert=${cert}`, `--tls-key=${key}`, "--remaining=2", "--remaining-interval=20"];
      const servers = await Promise.all([
        startServer(t, ...tls, `--fault=${fault}`),
        startServer(t, ...tls, "--name=b"),
      ]);
      const urls = servers.map(({ url }) => `--url=${wss(url)}`);
      const client = startClient(t, ...urls, `--tls-ca=${cert}`, "--sessions=3", "--handovers=3", "--interval=100");
      await client.line(/steady/);
      servers[0]!.child.kill("SIGTERM");
      assert.deepEqual(Object.keys((await client.result).symptoms), [symptom]);
    });
  }

  it("serves a renewed certificate within 3 s, whichever of key and certificate changes first", async (t) => {
    const folder = makeFolder(t);
    const { cert, key } = certify(folder, "first");
    const server = await startServer(t, `--tls-cert=${cert}`, `--tls-key=${key}`);
    const kept = await connect(t, wss(server.url), { rejectUnauthorized: false } as never);
    assert.equal(await shownBy(server.port), "first");
    const second = certify(folder, "second");
    const third = certify(folder, "third");
    for (
      const [name, pair, order] of [["second", second, ["cert", "key"]], ["third", third, ["key", "cert"]]] as const
    ) {
      const changedAt = performance.now();
      for (const part of order) replace(part === "cert" ? cert : key, readFileSync(pair[part], "utf8"));
      while (await shownBy(server.port) !== name) assert.ok(performance.now() - changedAt < 3000, `${name} is late`);
    }
    assert.equal(kept.ws.readyState, WebSocket.OPEN, "open sessions stay");
    assert.equal(server.lines.filter((line) => line.includes("tls-refused")).length, 0, "nothing to complain about");
  });

  it("follows a Secret's symlink swap", async (t) => {
    const folder = makeFolder(t);
    for (const name of ["first", "second"]) {
      const { cert, key } = certify(folder, name);
      mkdirSync(join(folder, `..${name}`));
      renameSync(cert, join(folder, `..${name}`, "tls.crt"));
      renameSync(key, join(folder, `..${name}`, "tls.key"));
    }
    symlinkSync("..first", join(folder, "..data"));
    const [cert, key] = [join(folder, "tls.crt"), join(folder, "tls.key")];
    symlinkSync("..data/tls.crt", cert);
    symlinkSync("..data/tls.key", key);
    const server = await startServer(t, `--tls-cert=${cert}`, `--tls-key=${key}`);
    symlinkSync("..second", join(folder, "..data_tmp"));
    renameSync(join(folder, "..data_tmp"), join(folder, "..data"));
    const changedAt = performance.now();
    while (await shownBy(server.port) !== "second") assert.ok(performance.now() - changedAt < 3000, "late");
  });

  it("keeps the old certificate when the new one is broken, and says so once", async (t) => {
    const folder = makeFolder(t);
    const { cert, key } = certify(folder, "first");
    const server = await startServer(t, `--tls-cert=${cert}`, `--tls-key=${key}`);
    replace(cert, "not a certificate");
    assert.match(await server.line(/tls-refused/), /there is no certificate in it: the old one stays/);
    assert.equal(await shownBy(server.port), "first");
    replace(cert, readFileSync(certify(folder, "second").cert, "utf8"));
    assert.match(
      await server.line(/not a pair/),
      /tls-refused .*certificate and key are not a pair: the old one stays/,
    );
    assert.equal(await shownBy(server.port), "first");
    rmSync(cert);
    assert.match(await server.line(/ENOENT/), /tls-refused/);
    assert.equal(await shownBy(server.port), "first");
    assert.equal(server.lines.filter((line) => line.includes("there is no certificate")).length, 1);
  });

  it("lets in who has a certificate of the client CA, and nobody else", async (t) => {
    const folder = makeFolder(t);
    const { cert, key } = certify(folder, "server");
    const ca = certify(folder, "ca");
    const own = certify(folder, "client", { by: "ca" });
    const foreign = certify(folder, "foreign");
    const server = await startServer(t, `--tls-cert=${cert}`, `--tls-key=${key}`, `--tls-client-ca=${ca.cert}`);
    const flags = [`--url=${wss(server.url)}`, `--tls-ca=${cert}`, "--interval=100"];
    const client = startClient(t, ...flags, `--tls-cert=${own.cert}`, `--tls-key=${own.key}`);
    await client.line(/steady/);
    for (const pair of [[], [`--tls-cert=${foreign.cert}`, `--tls-key=${foreign.key}`]]) {
      const refused = start(t, [process.execPath, "dist/client.js", "--admin-port=0", ...flags, ...pair]);
      await refused.line(/ dial-failed /);
      refused.child.kill("SIGTERM");
      assert.equal((await refused.exited).code, 2);
      assert.match(refused.lines.at(-1)!, /^Never connected to wss:.*(other|reset) ×\d/);
    }
    await server.line(/upgrade-refused TLS: /);
  });

  it("does not trust a server whose certificate is from another CA", async (t) => {
    const folder = makeFolder(t);
    const { cert, key } = certify(folder, "server");
    const other = certify(folder, "other");
    const server = await startServer(t, `--tls-cert=${cert}`, `--tls-key=${key}`);
    for (const flags of [[], [`--tls-ca=${other.cert}`]]) {
      const client = startClient(t, `--url=${wss(server.url)}`, ...flags, "--timeout=1000");
      assert.match(await client.line(/dial-failed/), /self-signed certificate|unable to verify|DEPTH_ZERO/);
      assert.equal((await client.exited).code, 2);
    }
  });

  it("refuses TLS 1.1, and leaves the admin port plain", async (t) => {
    const { cert, key } = certify(makeFolder(t), "server");
    const server = await startServer(t, `--tls-cert=${cert}`, `--tls-key=${key}`);
    const versions = { minVersion: "TLSv1.1", maxVersion: "TLSv1.1", ciphers: "DEFAULT@SECLEVEL=0" } as const;
    const error = await new Promise<Error>((resolve) =>
      httpsRequest({ port: server.port, host: "127.0.0.1", rejectUnauthorized: false, ...versions })
        .on("error", resolve).end()
    );
    assert.match(String(error), /version|protocol|EPROTO/i);
    assert.equal((await fetch(`${server.admin}/healthz`)).status, 200);
  });

  it("answers curl and openssl as the README says", async (t) => {
    const { cert, key } = certify(makeFolder(t), "server");
    const server = await startServer(t, `--tls-cert=${cert}`, `--tls-key=${key}`);
    const shown = await run(t, [
      "openssl",
      "s_client",
      "-connect",
      `127.0.0.1:${server.port}`,
      "-CAfile",
      cert,
      "-brief",
    ]);
    assert.match(shown.stderr, /Verification: OK/);
    assert.match(shown.stderr, /Protocol version: TLSv1\.3/);
    const response = await new Promise<number>((resolve, reject) =>
      httpsRequest(
        { port: server.port, host: "127.0.0.1", ca: readFileSync(cert) },
        ({ statusCode }) => resolve(statusCode!),
      )
        .on("error", reject).end()
    );
    assert.equal(response, 426);
  });
});

describe("a bad certificate or key is one clear line and exit 2:", { skip, concurrency: 3 }, () => {
  const CASES: [what: string, flags: (folder: string) => string[], complaint: RegExp][] = [
    [
      "a certificate without a key",
      (folder) => [`--tls-cert=${certify(folder, "a").cert}`],
      /^--tls-cert and --tls-key go together$/,
    ],
    [
      "a client CA without a certificate",
      (folder) => [`--tls-client-ca=${certify(folder, "a").cert}`],
      /^--tls-client-ca needs --tls-cert$/,
    ],
    [
      "a file that is not there",
      (folder) => [`--tls-cert=${folder}/none`, `--tls-key=${folder}/none`],
      /^Cannot read --tls-cert: ENOENT/,
    ],
    ["an empty file", (folder) => {
      writeFileSync(`${folder}/empty`, "\n");
      return [`--tls-cert=${folder}/empty`, `--tls-key=${certify(folder, "a").key}`];
    }, /^Cannot use --tls-cert: .*empty is empty$/],
    [
      "an expired certificate",
      () => [`--tls-cert=${EXPIRED.cert}`, `--tls-key=${EXPIRED.key}`],
      /^Cannot use --tls-cert, --tls-key: the certificate of CN=expired expired on /,
    ],
    [
      "a key of another certificate",
      (folder) => [`--tls-cert=${certify(folder, "a").cert}`, `--tls-key=${certify(folder, "b").key}`],
      /^Cannot use --tls-cert, --tls-key: certificate and key are not a pair$/,
    ],
    ["a key that is none", (folder) => {
      const { cert } = certify(folder, "a");
      return [`--tls-cert=${cert}`, `--tls-key=${cert}`];
    }, /^Cannot use --tls-cert, --tls-key: there is no private key/],
    ["a missing CA", (folder) => {
      const { cert, key } = certify(folder, "a");
      return [`--tls-cert=${cert}`, `--tls-key=${key}`, `--tls-client-ca=${folder}/none`];
    }, /^Cannot read --tls-client-ca: ENOENT/],
  ];
  for (const [what, flags, complaint] of CASES) {
    it(what, async (t) => {
      const folder = makeFolder(t);
      const { code, stderr } = await run(t, [
        process.execPath,
        "dist/server.js",
        "--port=0",
        "--admin-port=0",
        ...flags(folder),
      ]);
      assert.equal(code, 2);
      assert.match(stderr, complaint);
    });
  }

  it("the client says it of its own files as well", async (t) => {
    const folder = makeFolder(t);
    const { cert } = certify(folder, "a");
    const old = EXPIRED;
    for (
      const [flags, complaint] of [
        [[`--tls-ca=${folder}/none`], /^Cannot read --tls-ca: ENOENT/],
        [[`--tls-ca=${old.cert}`], /^Cannot use --tls-ca: the certificate of CN=expired expired on /],
        [[`--tls-cert=${cert}`], /^--tls-cert and --tls-key go together$/],
        [[`--tls-cert=${cert}`, `--tls-key=${old.key}`], /are not a pair$/],
      ] as const
    ) {
      const { code, stderr } = await run(t, [process.execPath, "dist/client.js", "--admin-port=0", ...flags]);
      assert.equal(code, 2);
      assert.match(stderr, complaint);
    }
  });
});

describe("a token", { concurrency: 4 }, () => {
  const write = (t: TestContext, text: string): string => {
    const file = join(makeFolder(t), "token");
    writeFileSync(file, text);
    return file;
  };
  const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

  it("opens the server; without or with a wrong one it answers 401, counts it, and never logs it", async (t) => {
    const file = write(t, "right-one\n"); // the line break of an editor
    const server = await startServer(t, `--token-file=${file}`);
    assert.equal((await upgrade(server.url, bearer("right-one"))).status, 101);
    const headers = [{}, bearer("wrong-one"), bearer("right-on"), bearer("right-one-and-more"), {
      authorization: "right-one",
    }];
    for (const header of headers) {
      assert.deepEqual(await upgrade(server.url, header as Record<string, string>), {
        status: 401,
        challenge: "Bearer",
      });
    }
    const metrics = await (await fetch(`${server.admin}/metrics`)).text();
    assert.match(metrics, /refused_upgrades_total\{reason="unauthorized"\} 5\n/);
    server.child.kill("SIGTERM");
    await server.exited;
    assert.doesNotMatch(server.lines.join("\n"), /right-on|wrong-one/);
  });

  it("may be changed: both are good for --token-overlap, then only the new one", async (t) => {
    for (const overlapMs of [600, 1500]) {
      const file = write(t, "old");
      const server = await startServer(t, `--token-file=${file}`, `--token-overlap=${overlapMs}`);
      const client = startClient(t, `--url=${server.url}`, `--token-file=${file}`, "--interval=100");
      await client.line(/steady/);
      replace(file, "new");
      while ((await upgrade(server.url, bearer("new"))).status !== 101);
      const changedAt = performance.now();
      assert.equal((await upgrade(server.url, bearer("old"))).status, 101, "still good");
      while ((await upgrade(server.url, bearer("old"))).status === 101);
      const goodForMs = performance.now() - changedAt;
      assert.ok(
        goodForMs > overlapMs - 400 && goodForMs < overlapMs + 1500,
        `good for ${goodForMs} ms of ${overlapMs}`,
      );
      assert.equal((await upgrade(server.url, bearer("new"))).status, 101);
      client.child.kill("SIGTERM");
      assert.equal((await client.result).verdict, "PASS", "an open session is not asked again");
    }
  });

  it("that only the client has as yet is no obstacle: it tries the one before", async (t) => {
    const file = write(t, "old");
    const flags = [`--token-file=${write(t, "old")}`, "--remaining=1", "--remaining-interval=20"];
    const servers = await Promise.all([startServer(t, ...flags), startServer(t, ...flags, "--name=server-2")]);
    const urls = servers.map(({ url }) => `--url=${url}`);
    const client = startClient(
      t,
      ...urls,
      `--token-file=${file}`,
      "--interval=100",
      "--handovers=1",
      "--backoff-cap=50",
    );
    await client.line(/steady/);
    const loads = () => client.lines.filter((line) => line.includes("token-loaded")).length;
    replace(file, "new");
    while (loads() < 2) await client.line(/./).then(() => new Promise(setImmediate));
    servers[0]!.child.kill("SIGTERM");
    const { verdict, handovers } = await client.result;
    assert.deepEqual([verdict, handovers[0]!.failedDials["401"]], ["PASS", 1]);
  });

  it("that is wrong ends the client with exit 2, and a word on why", async (t) => {
    const server = await startServer(t, `--token-file=${write(t, "right")}`);
    const file = write(t, "wrong");
    const flags = ["--admin-port=0", `--url=${server.url}`, "--backoff-cap=20"];
    const wrong = await run(t, [process.execPath, "dist/client.js", ...flags, `--token-file=${file}`]);
    assert.equal(wrong.code, 2);
    assert.match(wrong.stderr, /refuses every dial with 401: see --token-file .*token$/);
    const none = await run(t, [process.execPath, "dist/client.js", ...flags]);
    assert.equal(none.code, 2);
    assert.match(none.stderr, /refuses every dial with 401: it wants to know who is there: --token-file, or --header/);
  });

  it("stays what it was when the file is spoilt", async (t) => {
    const file = write(t, "good");
    const server = await startServer(t, `--token-file=${file}`);
    replace(file, "two\nlines");
    assert.match(await server.line(/token-refused/), /a token is one line .*: the old one stays/);
    assert.equal((await upgrade(server.url, bearer("good"))).status, 101);
  });

  for (const role of ["server", "client"]) {
    it(`that is none is one clear line and exit 2 of the ${role}`, async (t) => {
      const program = [process.execPath, `dist/${role}.js`, "--admin-port=0", ...role === "server" ? ["--port=0"] : []];
      for (
        const [text, complaint] of [["", /is empty$/], ["a b", /a token is one line/], [
          "a\nb\n",
          /a token is one line/,
        ]] as const
      ) {
        const { code, stderr } = await run(t, [...program, `--token-file=${write(t, text)}`]);
        assert.equal(code, 2);
        assert.match(stderr, complaint);
      }
      const { code, stderr } = await run(t, [...program, "--token-file=dist/none"]);
      assert.equal(code, 2);
      assert.match(stderr, /^Cannot read --token-file: ENOENT/);
    });
  }

  it("is in no report", async (t) => {
    const file = write(t, "a-secret");
    const server = await startServer(t, `--token-file=${file}`);
    const client = startClient(t, `--url=${server.url}`, `--token-file=${file}`, "--interval=100");
    await client.line(/steady/);
    const report = await (await fetch(`${await client.admin()}/report`)).text();
    client.child.kill("SIGTERM");
    await client.exited;
    assert.doesNotMatch(report + client.stdout() + client.lines.join("\n"), /a-secret/);
  });

  it("shuts out browsers; without one any origin is let in, with --allow-origin those that it names", async (t) => {
    const file = write(t, "right");
    const open = await startServer(t);
    const closed = await startServer(t, `--token-file=${file}`);
    const named = await startServer(t, "--allow-origin=https://a.test", "--allow-origin=https://b.test");
    const any = await startServer(t, `--token-file=${file}`, "--allow-origin=*");
    const statusOf = async (url: string, origin: string) => (await upgrade(url, { ...bearer("right"), origin })).status;
    assert.equal(await statusOf(open.url, "https://evil.test"), 101);
    assert.equal(await statusOf(closed.url, "https://evil.test"), 403);
    assert.equal(await statusOf(named.url, "https://b.test"), 101);
    assert.equal(await statusOf(named.url, "https://evil.test"), 403);
    assert.equal(await statusOf(any.url, "https://evil.test"), 101);
    assert.equal((await upgrade(named.url)).status, 101, "who is no browser names no origin");
  });
});
