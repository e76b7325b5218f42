// Runs the code of a JavaScript context in Node. Requests come on descriptor 7: a line with a length, and that many bytes of code.
// What there is to tell goes as lines of JSON to descriptor 8: {"ready"}; then for each request {"started"}, from which on SIGINT
// interrupts it, {"result": {type: value}}, {"error": {…}}, and {"done": 0}.
'use strict';
{
  const fs = require('fs');
  const repl = require('repl');
  const util = require('util');
  const vm = require('vm');
  const { PassThrough } = require('stream');

  const REQUESTS = 7;
  const EVENTS = 8;
  fs.closeSync(9);

  // Lone surrogates are no characters: through a buffer they become U+FFFD.
  const clean = (_, value) => (typeof value === 'string' ? Buffer.from(value).toString() : value);

  function send(event) {
    let bytes = Buffer.from(JSON.stringify(event, clean) + '\n');
    while (bytes.length > 0) bytes = bytes.subarray(fs.writeSync(EVENTS, bytes));
  }

  // ---- what values look like ----

  const display = Symbol.for('Jupyter.display');

  async function bundle(value) {
    const data = { 'text/plain': util.inspect(value) };
    if (value !== null && typeof value === 'object' && typeof value[display] === 'function') {
      for (const [type, shown] of Object.entries(await value[display]())) {
        data[type] = shown instanceof Uint8Array ? Buffer.from(shown).toString('base64') : shown;
      }
    }
    return data;
  }

  function describe(error) {
    if (!util.types.isNativeError(error)) {
      const text = util.inspect(error);
      return { ename: 'Uncaught', evalue: text, traceback: ['Uncaught ' + text] };
    }
    // our own frames and those of Node's evaluation come last
    const lines = String(error.stack || error).split('\n');
    const own = lines.findIndex((line) => /\((node:|\[eval)|at (node:|\[eval)|at REPLServer/.test(line));
    const name = error.name === 'Error' && error.code === 'ERR_SCRIPT_EXECUTION_INTERRUPTED' ? 'Interrupted' : error.name;
    return { ename: String(name), evalue: String(error.message), traceback: own > 0 ? lines.slice(0, own) : lines };
  }

  // ---- running ----

  const input = new PassThrough();
  const output = new PassThrough();
  output.resume();
  // in the place of a domain, which would take errors away from us
  const domain = { bind: (handler) => handler, on: () => domain };
  // Node's own evaluation: declarations last, and `await` works at the top level
  const server = repl.start({ input, output, domain, prompt: '', terminal: false, useGlobal: true });
  const BEGIN = Symbol.for('opensandbox.begin');
  const beginning = new vm.Script("globalThis[Symbol.for('opensandbox.begin')]()"); // scripts, and what they call, can be interrupted
  let interrupt = null; // ends what is awaited

  function evaluate(source, name) {
    return new Promise((resolve, reject) => {
      interrupt = () => reject(Object.assign(new Error('Script execution was interrupted by `SIGINT`'), { name: 'Interrupted' }));
      const value = () => {
        send({ started: true });
        server.eval(source, server.context, name, (error, result) => {
          if (error) reject(error instanceof repl.Recoverable ? error.err : error);
          else resolve({ value: result });
        });
      };
      Object.defineProperty(globalThis, BEGIN, { value, configurable: true });
      beginning.runInThisContext({ breakOnSigint: true });
    });
  }

  async function run(source, number) {
    try {
      const { value } = await evaluate(source, `<cell ${number}>`);
      if (value !== undefined) send({ result: await bundle(value) });
    } catch (error) {
      send({ error: describe(error) });
    }
    interrupt = null;
    send({ done: 0 });
  }

  process.on('SIGINT', () => { if (interrupt) interrupt(); });

  // What fails outside of any run, as in a timer, is told on stderr, and the context lives on.
  function tell(error) {
    process.stderr.write(describe(error).traceback.join('\n') + '\n');
  }
  process.on('uncaughtException', tell).on('unhandledRejection', tell);

  let number = 0;
  let pending = Buffer.alloc(0);
  let busy = Promise.resolve();

  function take(bytes) {
    pending = Buffer.concat([pending, bytes]);
    for (;;) {
      const end = pending.indexOf(10);
      const size = end < 0 ? 0 : Number(pending.subarray(0, end));
      if (end < 0 || pending.length < end + 1 + size) return;
      const source = pending.subarray(end + 1, end + 1 + size).toString();
      pending = pending.subarray(end + 1 + size);
      number += 1;
      const current = number;
      busy = busy.then(() => run(source, current));
    }
  }

  new (require('net').Socket)({ fd: REQUESTS, readable: true, writable: false })
    .on('data', take)
    .on('close', () => process.exit(0));
  send({ ready: true });
}
