// One measurement of the official JavaScript SDK, in a process of its own: node client.mjs SDK WORK [ARGUMENT…] prints
// seconds. SDK is where the package lies. The works are those of client.lua.
import { createReadStream, createWriteStream } from "node:fs";
import { Writable } from "node:stream";
import { pipeline } from "node:stream/promises";

const [sdk, work, ...args] = process.argv.slice(2);
const started = performance.now();
const { ConnectionConfig, Sandbox, SandboxManager } = await import(sdk);
const required = performance.now() - started;

const connectionConfig = new ConnectionConfig({ domain: process.env.OPEN_SANDBOX_DOMAIN, apiKey: "bench" });
const create = () => Sandbox.create({ connectionConfig, image: "bench" });

async function timed(action) {
  const start = performance.now();
  await action();
  return performance.now() - start;
}

function check(truth) {
  if (!truth) throw new Error("a measurement did not do its work");
}

async function runEvents(count, handlers) {
  const sandbox = await create();
  return timed(() => sandbox.commands.run(`events ${count}`, {}, handlers));
}

const works = {
  require: () => required,

  async first_client() {
    SandboxManager.create({ connectionConfig });
    return performance.now() - started;
  },

  async first_request() {
    const manager = SandboxManager.create({ connectionConfig });
    await manager.listSandboxInfos();
    return performance.now() - started;
  },

  async events(count, withHandler) {
    let seen = 0;
    const time = await runEvents(count, withHandler ? { onStdout: () => { seen += 1; } } : undefined);
    check(!withHandler || seen === Number(count));
    return time;
  },

  async stream(count) {
    let seen = 0;
    const time = await runEvents(count, { skipAccumulation: true, onStdout: () => { seen += 1; } });
    check(seen === Number(count));
    return time;
  },

  async latency(command, count) {
    const { commands } = await create();
    const times = [];
    for (let i = 0; i < Number(count); i++) times.push(await timed(() => commands.run(command)));
    times.sort((a, b) => a - b);
    return times[Math.floor(times.length / 2)];
  },

  async at_once(command, count) {
    const { commands } = await create();
    return timed(() => Promise.all(Array.from({ length: Number(count) }, () => commands.run(command))));
  },

  async upload(path) {
    const { files } = await create();
    return timed(() => files.writeFiles([{ path: "/upload", data: createReadStream(path) }]));
  },

  async upload_chunks(size) {
    const { files } = await create();
    async function* chunks() {
      const chunk = new Uint8Array(65536).fill(120);
      for (let left = Number(size); left > 0; left -= chunk.length) yield left >= chunk.length ? chunk : chunk.subarray(0, left);
    }
    return timed(() => files.writeFiles([{ path: "/upload", data: chunks() }]));
  },

  async download(size, path) {
    const { files } = await create();
    return timed(() => pipeline(files.readBytesStream(`/bytes-${size}`), createWriteStream(path)));
  },

  async download_chunks(size) {
    const { files } = await create();
    let got = 0;
    const sink = new Writable({ write(chunk, _, done) { got += chunk.length; done(); } });
    const time = await timed(() => pipeline(files.readBytesStream(`/bytes-${size}`), sink));
    check(got === Number(size));
    return time;
  },
};

console.log(((await works[work](...args)) / 1000).toFixed(9));
process.exit(0);
