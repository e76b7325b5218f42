-- What a good server never sends: each fault of an event stream has one defined outcome.
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"

describe("a faulty event stream", function()
  local server, sandbox, box

  setup(function()
    server = faults.start()
  end)

  teardown(function()
    server:stop()
  end)

  before_each(function()
    server:reset()
    sandbox = faults.sandbox_routes(server)
    box = assert(opensandbox.create(sandbox.options(opensandbox)))
  end)

  after_each(function()
    box:close()
  end)

  local function answer_with(...)
    server:route("POST", sandbox.execd .. "/command", ...)
  end

  local function assert_interrupted(id)
    local request = server:requests(sandbox.execd .. "/command")[2]
    assert.equal("DELETE", request.method)
    assert.equal("id=" .. id, request.query)
  end

  local GOOD = { faults.init("c1"), faults.stdout("one"), faults.stdout("two"), faults.complete(7) }

  local function assert_good(run)
    assert.equal("c1", run.id)
    assert.equal("one\ntwo", run.stdout)
    assert.equal(0, run.exit_code)
    assert.equal(0.007, run.complete.execution_time)
  end

  for _, framing in ipairs { "bare", "lines", "data", "crlf" } do
    it("reads frames in the framing '" .. framing .. "', cut at every byte", function()
      answer_with(faults.stream(GOOD, { framing = framing, each = 1 }))
      assert_good(assert(box.commands:run("x")))
    end)
  end

  it("returns at the last event, while the server keeps the stream open", function()
    answer_with(faults.stream(GOOD, { ending = "open" }))
    assert_good(assert(box.commands:run("x")))
  end)

  for _, ending in ipairs { "close", "reset" } do
    it("is truncated when it ends by " .. ending .. " before its last event; what arrived is in err.partial", function()
      answer_with(faults.stream({ faults.init("c1"), faults.stdout("one") }, { ending = ending }))
      local run, err = box.commands:run("x")
      assert.is_nil(run)
      assert.equal("truncated", err.code)
      assert.equal("c1", err.partial.id)
      if ending == "close" then assert.equal("one", err.partial.stdout) end
    end)
  end

  it("is truncated when it ends well-formed but without its last event", function()
    answer_with(faults.stream({ faults.init("c1"), faults.stdout("one") }))
    local run, err = box.commands:run("x")
    assert.is_nil(run)
    assert.equal("truncated", err.code)
    assert.equal("one", err.partial.stdout)
  end)

  it("is truncated when it ends in the middle of an event", function()
    answer_with(faults.stream({ faults.init("c1") .. "\n\n", '{"type":"stdout","text":"cu' }, { framing = "raw" }))
    local run, err = box.commands:run("x")
    assert.is_nil(run)
    assert.equal("truncated", err.code)
  end)

  it("fails with the server's message when an untyped error ends it", function()
    answer_with(faults.stream({ faults.init("c1"), faults.stdout("one"), faults.untyped("error running codes session is busy") }))
    local run, err = box.commands:run("x")
    assert.is_nil(run)
    assert.equal("conflict", err.code)
    assert.truthy(err.message:find("session is busy", 1, true))
    assert.equal("RUNTIME_ERROR", err.api_code)
    assert.equal("one", err.partial.stdout)
  end)

  it("takes an untyped error without a line end", function()
    local tail = faults.untyped "error running in session. timeout after 1s"
    answer_with(faults.stream({ faults.init("c1") .. "\n\n", tail }, { framing = "raw" }))
    local _, err = box.commands:run("x")
    assert.equal("timeout", err.code)
  end)

  it("fails with decode where an event is not JSON, and interrupts the command", function()
    server:route("DELETE", sandbox.execd .. "/command", faults.answer(200))
    answer_with(faults.stream({ faults.init("c1"), '{"type":"stdout","text":}', faults.complete() }))
    local run, err = box.commands:run("x")
    assert.is_nil(run)
    assert.equal("decode", err.code)
    assert_interrupted "c1"
  end)

  it("refuses an event of 20 MiB instead of keeping it", function()
    server:route("DELETE", sandbox.execd .. "/command", faults.answer(200))
    answer_with(faults.join(faults.stream_head(), faults.events { faults.init("c1") },
      { { send = "1400000\r\n" }, { send = '{"type":"stdout","text":"' }, { send = ("x"):rep(1024), times = 20480 } },
      { { stall = true } }))
    collectgarbage()
    local run, err = box.commands:run("x")
    assert.is_nil(run)
    assert.equal("limit", err.code)
  end)

  it("takes an event of 10 MiB", function()
    local head, tail = '{"type":"stdout","text":"', '","timestamp":2000}\n\n'
    local size = #head + 10 * 1024 * 1024 + #tail
    answer_with(faults.join(faults.stream_head(), faults.events { faults.init("c1") },
      { { send = ("%x\r\n"):format(size) .. head }, { send = ("y"):rep(1024), times = 10240 }, { send = tail .. "\r\n" } },
      faults.events { faults.complete() }, { { send = "0\r\n\r\n" } }))
    local run = assert(box.commands:run("x"))
    assert.is_true(run.stdout == ("y"):rep(10 * 1024 * 1024))
  end)

  it("ends by the idle time-out when it stalls, and interrupts the command", function()
    server:route("DELETE", sandbox.execd .. "/command", faults.answer(200))
    answer_with(faults.stream({ faults.init("c1"), faults.stdout("one") }, { ending = "open" }))
    local run, err = box.commands:run("x", { idle_timeout = 0.2 })
    assert.is_nil(run)
    assert.equal("timeout", err.code)
    assert.equal("one", err.partial.stdout)
    assert_interrupted "c1"
  end)

  it("ends at its deadline although the server goes on pinging", function()
    server:route("DELETE", sandbox.execd .. "/command", faults.answer(200))
    answer_with(faults.stream({ faults.init("c1"), faults.ping() }, { ending = "open" }))
    local run, err = box.commands:run("x", { deadline = 0.2 })
    assert.is_nil(run)
    assert.equal("timeout", err.code)
  end)

  it("interrupts a command whose stream is left before its init event came", function()
    server:route("DELETE", sandbox.execd .. "/command", faults.answer(200))
    answer_with(faults.join(faults.stream_head(), { { wait = "go" } }, faults.events { faults.init("late") }, { { stall = true } }))
    local stream = assert(box.commands:stream("x"))
    server:release("go")
    stream:cancel()
    assert_interrupted "late"
    local result, err = stream:result()
    assert.is_nil(result)
    assert.equal("cancelled", err.code)
  end)

  it("leaves the command alone with interrupt_on_cancel = false", function()
    answer_with(faults.stream({ faults.init("c1"), faults.stdout("one") }, { ending = "open" }))
    local stream = assert(box.commands:stream("x", { interrupt_on_cancel = false }))
    assert.equal("init", stream:next().type)
    stream:cancel()
    assert.equal(1, #server:requests(sandbox.execd .. "/command"))
  end)

  it("asks the server for an exit code that the stream does not tell", function()
    local unclear = '{"type":"error","error":{"ename":"CommandExecError","evalue":"fork failed","traceback":[]},"timestamp":3000}'
    answer_with(faults.stream { faults.init("c1"), unclear })
    server:route("GET", sandbox.execd .. "/command/status/c1", faults.json(200, { id = "c1", running = false, exit_code = 5 }))
    assert.equal(5, assert(box.commands:run("x")).exit_code)

    server:route("GET", sandbox.execd .. "/command/status/c1", faults.json(404, { code = "X", message = "unknown" }))
    local run, err = box.commands:run("x")
    assert.is_nil(run)
    assert.equal("exit_code_missing", err.code)
    assert.equal("fork failed", err.partial.error.value)
  end)

  it("reads the flat events of older servers", function()
    answer_with(faults.stream {
      faults.init("c1"), '{"type":"result","text/plain":"42","image/png":"AA==","timestamp":2000}',
      '{"type":"result","textPlain":"43","timestamp":2000}',
      '{"type":"error","ename":"E","evalue":"3","traceback":"line 1\\nline 2\\n","timestamp":3000}',
    })
    local run = assert(box.commands:run("x"))
    assert.equal(3, run.exit_code)
    assert.same({ "line 1", "line 2" }, run.error.traceback)
    assert.equal("42", run.result[1].text)
    assert.equal("AA==", run.result[1].mime["image/png"])
    assert.equal("43", run.result[2].text)
  end)

  it("gives handlers their events in order, on_init first and on_complete last", function()
    answer_with(faults.stream { faults.init("c1"), faults.stdout("a"), faults.stderr("b"), faults.stdout("c"), faults.complete() })
    local order = {}
    local function note(kind)
      return function(value) order[#order + 1] = kind .. ":" .. tostring(type(value) == "table" and value.id or value) end
    end
    assert(box.commands:run("x", {
      on_init = note "init", on_stdout = note "out", on_stderr = note "err",
      on_complete = function() order[#order + 1] = "complete" end, on_error = function() order[#order + 1] = "error" end,
    }))
    assert.same({ "init:c1", "out:a", "err:b", "out:c", "complete" }, order)
  end)

  it("gives an error thrown in a handler back, with its traceback, interrupts the command, and works on", function()
    server:route("DELETE", sandbox.execd .. "/command", faults.answer(200))
    answer_with(faults.stream({ faults.init("c1"), faults.stdout("a"), faults.stdout("b") }, { ending = "open" }), faults.stream(GOOD))
    local seen = 0
    local function failing_handler()
      seen = seen + 1
      error({ mine = true })
    end
    local run, err = box.commands:run("x", { on_stdout = failing_handler })
    assert.is_nil(run)
    assert.equal("handler", err.code)
    assert.is_true(err.cause.mine)
    assert.truthy(err.traceback:find("stream_spec.lua", 1, true))
    assert.equal(1, seen)
    assert_interrupted "c1"
    assert_good(assert(box.commands:run("x")))
  end)

  it("lets a handler make calls of its own, waiting ones too", function()
    answer_with(faults.stream(GOOD), faults.stream { faults.init("c2"), faults.stdout("inner"), faults.complete() })
    local inner
    local run = assert(box.commands:run("x", { on_stdout = function(text)
      if text == "one" then inner = assert(box.commands:run("y")).stdout end
    end }))
    assert.equal("inner", inner)
    assert_good(run)
  end)

  it("caps what is captured, while handlers get all", function()
    local lines = { faults.init("c1") }
    for i = 1, 100 do lines[#lines + 1] = faults.stdout(("%09d"):format(i)) end
    lines[#lines + 1] = faults.complete()
    answer_with(faults.stream(lines))
    local count = 0
    local run = assert(box.commands:run("x", { max_output = 100, on_stdout = function() count = count + 1 end }))
    assert.is_true(run.truncated)
    assert.is_true(#run.stdout <= 100)
    assert.equal("000000001\n000000002", run.stdout:sub(1, 19))
    assert.equal(100, count)
    local free = assert(box.commands:run("x", { capture = false }))
    assert.equal("", free.stdout)
    assert.same({ stdout = {}, stderr = {} }, free.logs)
  end)

  it("keeps every output event with its time in run.logs", function()
    answer_with(faults.stream { faults.init("c1"), faults.stdout("a"), faults.stdout("\n"), faults.stderr("e"), faults.complete() })
    local run = assert(box.commands:run("x"))
    assert.same({ { text = "a", timestamp = 2 }, { text = "", timestamp = 2 } }, run.logs.stdout)
    assert.same({ { text = "e", timestamp = 2 } }, run.logs.stderr)
    assert.equal("a\n\ne", run.output)
  end)

  it("holds the server back while a handler is busy, instead of keeping what it sends", function()
    local function resident()
      local file = assert(io.open "/proc/self/status")
      local kib = tonumber(file:read("*a"):match("VmRSS:%s*(%d+)"))
      file:close()
      return kib
    end
    local line = faults.stdout(("z"):rep(1000)) .. "\n\n"
    local count = 100000 -- 100 MB
    server:route("DELETE", sandbox.execd .. "/command", faults.answer(200))
    answer_with(faults.join(faults.stream_head(), faults.events { faults.init("c1") },
      { { send = ("%x\r\n"):format(#line * count) }, { send = line, times = count }, { send = "\r\n" } },
      faults.events { faults.complete() }, { { send = "0\r\n\r\n" } }))
    local before, during, lines = resident(), nil, 0
    local run = assert(box.commands:run("x", { capture = false, on_stdout = function()
      lines = lines + 1
      if lines == 10 then
        opensandbox.sleep(0.5) -- waiting: the loop runs, the queue fills up, the transfer is paused
        during = resident()
      end
    end }))
    assert.equal(0, run.exit_code)
    assert.equal(count, lines)
    assert.is_true(during - before < 20 * 1024, ("%d KiB more"):format(during - before))
  end)
end)
