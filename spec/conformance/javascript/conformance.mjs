// Every method of the official JavaScript SDK against the server that OPEN_SANDBOX_DOMAIN and OPEN_SANDBOX_API_KEY name. A
// line per check: "ok NAME", or "not ok NAME: why", or "left out NAME: why" for
// what a server may lack; what a server of one machine refuses must be refused by an API error.
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { Sandbox, SandboxApiException, SandboxManager } from "@alibaba-group/opensandbox";

let failed = 0;
const connectionConfig = { requestTimeoutSeconds: 60 };
const text = (execution) => execution.logs.stdout.map((line) => line.text);

function report(name, problem) {
  if (problem) failed++;
  console.log(problem ? `not ok ${name}: ${problem}` : `ok ${name}`);
}

const isAbsent = (error) => /NOT_SUPPORTED|page not found/.test(`${error.error?.code} ${error.message}`);

async function check(name, run, optional = false) {
  try {
    await run();
    report(name);
  } catch (error) {
    if (optional && isAbsent(error)) console.log(`left out ${name}: ${error.message}`);
    else report(name, `${error.name}: ${error.message}`);
  }
}

async function refused(name, run) {
  try {
    await run();
    report(name, "was not refused");
  } catch (error) {
    report(name, error instanceof SandboxApiException && error.statusCode >= 400 ? undefined : `${error.name}: ${error.message}`);
  }
}

async function until(what, condition) {
  for (let i = 0; i < 400; i++) {
    if (await condition()) return;
    await sleep(50);
  }
  throw new Error(`it did not come about: ${what}`);
}

const box = await Sandbox.create({
  image: "host", env: { GREETING: "hello" }, metadata: { tag: "t v" }, timeoutSeconds: 300, connectionConfig,
});
const manager = SandboxManager.create({ connectionConfig });

await check("lifecycle", async () => {
  const info = await box.getInfo();
  assert.equal(info.status.state, "Running");
  assert.deepEqual(info.entrypoint, ["tail", "-f", "/dev/null"]);
  assert.deepEqual(info.metadata, { tag: "t v" });
  assert.ok((await box.renew(1200)).expiresAt > info.expiresAt);
  assert.deepEqual((await box.patchMetadata({ tag: null, more: "m" })).metadata, { more: "m" });
  assert.ok(await box.isHealthy());
  assert.ok(await box.health.ping());
  const metrics = await box.getMetrics();
  assert.ok(metrics.cpuCount > 0 && metrics.memoryUsedMiB <= metrics.memoryTotalMiB);
  assert.deepEqual(Object.keys(await box.metrics.getMetrics()).sort(), Object.keys(metrics).sort());
  assert.match((await box.getEndpoint(44772)).endpoint, /^[^/]+:44772$|\/44772$/);
  assert.match(await box.getEndpointUrl(8080), /^http:/);
  await box.waitUntilReady({ readyTimeoutSeconds: 10, pollingIntervalMillis: 50 });
});

await check("connect", async () => {
  const other = await Sandbox.connect({ sandboxId: box.id, connectionConfig });
  assert.deepEqual(text(await other.commands.run("echo $GREETING")), ["hello"]);
  await other.close();
  await assert.rejects(Sandbox.connect({ sandboxId: "00000000-0000-4000-8000-000000000000", connectionConfig }),
    (error) => error.statusCode === 404 && Boolean(error.requestId));
});

await check("manager", async () => {
  const page = await manager.listSandboxInfos({ states: ["Running"], metadata: { more: "m" }, pageSize: 5 });
  assert.deepEqual(page.items.map((item) => item.id), [box.id]);
  assert.equal((await manager.getSandboxInfo(box.id)).id, box.id);
  await manager.patchSandboxMetadata(box.id, { more: "n" });
  await manager.renewSandbox(box.id, 1800);
  await manager.pauseSandbox(box.id);
  assert.equal((await box.getInfo()).status.state, "Paused");
  await manager.resumeSandbox(box.id);
  await box.pause();
  const again = await box.resume();
  assert.deepEqual(text(await again.commands.run("echo back")), ["back"]);
  await again.pause();
  await (await Sandbox.resume({ sandboxId: box.id, connectionConfig })).close();
});

await check("commands", async () => {
  const events = [];
  const done = await box.commands.run("echo out; echo err >&2; pwd", { workingDirectory: "/tmp", envs: { A: "b" }, timeoutSeconds: 20 }, {
    onInit: () => events.push("init"), onStdout: (line) => events.push(line.text), onStderr: (line) => events.push(line.text),
    onExecutionComplete: () => events.push("complete"),
  });
  assert.equal(done.exitCode, 0);
  assert.deepEqual(text(done), ["out", "/tmp"]);
  assert.equal(events[0], "init");
  assert.equal(events.at(-1), "complete");
  assert.ok(events.includes("err"));
  const failure = await box.commands.run("no-such-command");
  assert.equal(failure.exitCode, 127);
  assert.match(failure.logs.stderr[0].text, /no-such-command/);
  const types = [];
  for await (const event of box.commands.runStream("echo streamed")) types.push(event.type);
  assert.ok(types.includes("stdout") && types.includes("execution_complete"));
});

await check("background commands", async () => {
  const { id } = await box.commands.run("echo one; sleep 0.2; echo two", { background: true });
  let seen = "", cursor = 0, status;
  await until("both lines", async () => {
    status = await box.commands.getCommandStatus(id);
    const logs = await box.commands.getBackgroundCommandLogs(id, cursor);
    seen += logs.content;
    cursor = logs.cursor;
    return status.running === false && seen.includes("two");
  });
  assert.equal(seen, "one\ntwo\n");
  assert.equal(status.exitCode, 0);
  const long = await box.commands.run("sleep 60", { background: true });
  await box.commands.interrupt(long.id);
  await until("the interrupt", async () => (await box.commands.getCommandStatus(long.id)).running === false);
});

await check("sessions", async () => {
  const id = await box.commands.createSession({ workingDirectory: "/tmp" });
  await box.commands.runInSession(id, "export KEPT=yes; cd /var");
  assert.deepEqual(text(await box.commands.runInSession(id, "echo $KEPT; pwd")), ["yes", "/var"]);
  assert.equal((await box.commands.runInSession(id, "sh -c 'exit 7'", { timeoutSeconds: 10 })).exitCode, 7);
  await box.commands.deleteSession(id);
});

await check("files", async () => {
  const files = box.files;
  await files.createDirectories([{ path: "/tmp/conf/sub", mode: 755 }]);
  await files.writeFiles([
    { path: "/tmp/conf/a", data: "one two one\n", mode: 644 },
    { path: "/tmp/conf/b", data: new Uint8Array([0, 255]), mode: 600, owner: "nobody", group: "nogroup" },
    { path: "/tmp/conf/sub/c", data: "stream", mode: 644 },
  ]);
  assert.equal(await files.readFile("/tmp/conf/a"), "one two one\n");
  assert.deepEqual([...(await files.readBytes("/tmp/conf/b"))], [0, 255]);
  assert.equal(await files.readFile("/tmp/conf/a", { range: "bytes=4-6" }), "two");
  const chunks = [];
  for await (const chunk of files.readBytesStream("/tmp/conf/sub/c")) chunks.push(Buffer.from(chunk));
  assert.equal(Buffer.concat(chunks).toString(), "stream");
  const info = (await files.getFileInfo(["/tmp/conf/b"]))["/tmp/conf/b"];
  assert.deepEqual([info.mode, info.owner, info.group, info.size], [600, "nobody", "nogroup", 2]);
  const names = (list) => list.map((item) => item.path).sort();
  assert.deepEqual(names(await files.search({ path: "/tmp/conf", pattern: "?" })), ["/tmp/conf/a", "/tmp/conf/b", "/tmp/conf/sub/c"]);
  assert.deepEqual(names(await files.listDirectory({ path: "/tmp/conf", depth: 1 })), ["/tmp/conf/a", "/tmp/conf/b", "/tmp/conf/sub"]);
  await files.setPermissions([{ path: "/tmp/conf/a", mode: 640, owner: "root", group: "root" }]);
  assert.equal((await files.getFileInfo(["/tmp/conf/a"]))["/tmp/conf/a"].mode, 640);
  const counts = await files.replaceContentsDetailed([{ path: "/tmp/conf/a", oldContent: "one", newContent: "1" }]);
  assert.deepEqual(counts.map((count) => count.replacedCount), [2]);
  await files.replaceContents([{ path: "/tmp/conf/a", oldContent: "two", newContent: "2" }]);
  await files.moveFiles([{ src: "/tmp/conf/a", dest: "/tmp/conf/sub/d" }]);
  assert.equal((await files.readFile("/tmp/conf/sub/d", { offset: 1, limit: 1 })).trimEnd(), "1 2 1");
  await files.deleteFiles(["/tmp/conf/sub/d"]);
  await files.deleteDirectories(["/tmp/conf"]);
  await assert.rejects(files.readFile("/tmp/conf/b"));
});

await check("snapshots", async () => {
  await box.files.writeFiles([{ path: "/workspace/marker", data: "kept" }]);
  const made = await manager.createSnapshot(box.id, { name: "conformance" });
  assert.equal(made.status.reason, "snapshot_accepted");
  await until("the snapshot", async () => (await manager.getSnapshot(made.id)).status.state === "Ready");
  assert.deepEqual((await manager.listSnapshots({ sandboxId: box.id, states: ["Ready"] })).items.map((item) => item.id), [made.id]);
  const copy = await Sandbox.create({ snapshotId: made.id, connectionConfig });
  assert.equal(await copy.files.readFile("/workspace/marker"), "kept");
  await copy.kill();
  await copy.close();
  await manager.deleteSnapshot(made.id);
});

await check("volumes", async () => {
  const volumes = [{ name: "data", pvc: { claimName: "conformance-js" }, mountPath: "/mnt/data", subPath: "a/b" }];
  for (const expected of [[], ["written"]]) {
    const one = await Sandbox.create({ image: "host", volumes, timeoutSeconds: null, connectionConfig });
    assert.deepEqual(text(await one.commands.run("cat /mnt/data/f; printf written >/mnt/data/f")), expected);
    await one.kill();
    await one.close();
  }
});

await check("egress", async () => {
  const networkPolicy = { defaultAction: "deny", egress: [{ action: "allow", target: "example.com" }] };
  const one = await Sandbox.create({ image: "host", networkPolicy, connectionConfig });
  const targets = async () => (await one.getEgressPolicy()).egress.map((rule) => rule.target).sort();
  try {
    assert.deepEqual(await targets(), ["example.com"]);
    await one.patchEgressRules([{ action: "allow", target: "example.org" }]);
    assert.deepEqual(await targets(), ["example.com", "example.org"]);
    await one.deleteEgressRules(["example.org"]);
    assert.deepEqual(await targets(), ["example.com"]);
  } finally {
    await one.kill();
    await one.close();
  }
});

await check("isolation", async () => {
  assert.ok((await box.isolation.capabilities()).available);
  const own = await box.isolation.create({ workspace: { path: "/workspace", mode: "rw" } });
  assert.deepEqual(text(await own.run("echo inside")), ["inside"]);
  await own.get();
  assert.equal((await box.isolation.list()).length, 1);
  assert.equal((await box.isolation.attach(own.sessionId)).sessionId, own.sessionId);
  await own.delete();
  assert.deepEqual(text(await box.isolation.runOnce("echo once", "/workspace")), ["once"]);
  await box.isolation.withSession({ workspace: { path: "/workspace" } }, async (session) => {
    assert.equal((await session.run("exit 3")).exitCode, 3);
  });
}, true);

// what one machine without a gateway has not
await refused("signed endpoint", () => box.getSignedEndpoint(8080, Math.floor(Date.now() / 1000) + 300));
await refused("image", () => Sandbox.create({ image: "no/such-image:1", connectionConfig }));
await check("kill", () => box.kill());
await refused("killed sandbox", () => manager.getSandboxInfo(box.id));
await check("kill by manager", async () => {
  const one = await Sandbox.create({ image: "host", skipHealthCheck: true, connectionConfig });
  await manager.killSandbox(one.id);
  await one.close();
});
await box.close();
await manager.close();
process.exit(failed ? 1 : 0);
