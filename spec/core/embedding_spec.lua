-- What a host may do: reload the library, collect at every moment, close things in handlers, raise in any of them, end while busy.
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"
local script = require "spec.support.script"
local task = require "opensandbox.task"

describe("in a host", function()
  local server, sandbox, box

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)

  before_each(function()
    server:reset()
    sandbox = faults.sandbox_routes(server)
    box = assert(opensandbox.create(sandbox.options(opensandbox)))
  end)

  after_each(function()
    box:close()
    assert.is_nil(next(task.scheduler().all or {}), "a task outlives its test")
  end)

  local function events(...)
    return faults.stream { faults.init("c1"), faults.stdout("out"), faults.stderr("err"), ... }
  end

  local function serve()
    server:route("DELETE", sandbox.execd .. "/command", faults.answer(200))
    server:route("POST", sandbox.execd .. "/command", events(faults.complete()))
  end

  -- What makes a call with a handler that raises; each gives nil, err.
  local function with_options(name)
    return function(fail) return box.commands:run("x", { [name] = fail }) end
  end

  local function with_connection(name, retry)
    return function(fail)
      server:route("GET", "/v1/sandboxes/x", faults.answer(503, "busy"))
      local hooks = { [name] = fail }
      local connection = opensandbox.connection { domain = server.url, api_key = "k", retry = retry and hooks or nil,
        debug = not retry and fail or nil }
      return opensandbox.manager({ connection = connection }):get("x")
    end
  end

  local calls = {
    on_stdout = with_options "on_stdout", on_stderr = with_options "on_stderr", on_init = with_options "on_init",
    on_complete = with_options "on_complete", on_event = with_options "on_event",
    on_error = function(fail)
      server:reset()
      faults.sandbox_routes(server)
      server:route("POST", sandbox.execd .. "/command", events(faults.exit(3)))
      return box.commands:run("x", { on_error = fail })
    end,
    should_retry = with_connection("should_retry", true), on_retry = with_connection("on_retry", true),
    debug = with_connection("debug", false),
    ["the health check"] = function(fail)
      local options = sandbox.options(opensandbox)
      options.health_check, options.ready_timeout = fail, 0.05
      return opensandbox.create(options)
    end,
    ["the data of an upload"] = function(fail)
      server:route("POST", sandbox.execd .. "/files/upload", faults.answer(200))
      return box.files:write("/x", fail)
    end,
    ["the sink of a download"] = function(fail)
      server:route("GET", sandbox.execd .. "/files/download", faults.answer(200, "bytes"))
      return box.files:download("/x", fail)
    end,
  }

  for name, call in pairs(calls) do
    it("an error raised in " .. name .. " comes back, in a script and in a task, and everything works on", function()
      for _, in_task in ipairs { false, true } do
        serve()
        local cause = { mine = true }
        local function work() return call(function() error(cause) end) end
        local result, err
        if in_task then result, err = opensandbox.spawn(work):join() else result, err = work() end
        assert.is_nil(result)
        local handler = err.code == "not_ready" and err.cause or err
        assert.equal("handler", handler.code)
        assert.equal(cause, handler.cause)
        assert.truthy(handler.traceback:find("embedding_spec.lua", 1, true))
        server:reset()
        faults.sandbox_routes(server)
        serve()
        assert.equal("out", assert(box.commands:run("x")).stdout)
      end
    end)
  end

  it("what a handler closes is closed: the stream, the sandbox, its own task", function()
    serve()
    server:route("POST", sandbox.execd .. "/command", events(faults.complete()))
    local stream = assert(box.commands:stream("x"))
    local seen = {}
    for event in stream:events() do
      seen[#seen + 1] = event.type
      if event.type == "stdout" then stream:cancel() end
    end
    assert.same({ "init", "stdout" }, seen)
    assert.equal("cancelled", select(2, stream:result()).code)

    local other = assert(opensandbox.connect(sandbox.id, { connection = box.connection }))
    assert.equal("out", assert(other.commands:run("x", { on_stdout = function() other:close() end })).stdout)
    assert.has_error(function() other:info() end)

    local running
    running = opensandbox.spawn(function()
      return box.commands:run("x", {
        on_stdout = function()
          running:cancel()
          opensandbox.sleep(60)
        end,
      })
    end)
    assert.equal("cancelled", select(2, running:join()).code)
  end)

  local RELOAD = [[
    local function reload(all)
      for name in pairs(package.loaded) do
        if name:find "^opensandbox" and (all or name ~= "opensandbox.core") then package.loaded[name] = nil end
      end
      return require "opensandbox"
    end
    local opensandbox = require "opensandbox"
    local function connection() return opensandbox.connection { domain = "%s", api_key = "k" } end
    local box = assert(opensandbox.connect("%s", { connection = connection() }))
  ]]

  local function start(source)
    serve()
    return script.start(RELOAD:format(server.url, sandbox.id) .. source)
  end

  it("a reloaded module finds the tasks, objects and connections of the one before", function()
    local child = start [[
      local old = opensandbox
      local parked = old.spawn(function() old.sleep(0.05) return "old task" end)
      local running = old.spawn(function() return box.commands:run("x").stdout end)
      old.sleep(0)
      for _, all in ipairs { false, true } do
        opensandbox = reload(all)
        assert(opensandbox ~= old)
        local new = opensandbox.spawn(function() return (parked:join()) end)
        print(new:join(), running:join(), box.commands:run("x").stdout, opensandbox.is_error(select(2, box.commands:status("no"))))
        assert(opensandbox.step() ~= 0)
      end
    ]]
    assert.equal("old task\tout\tout\ttrue", child:line())
    assert.equal("old task\tout\tout\ttrue", child:line())
    assert.equal(0, (child:finish()))
  end)

  it("a collector that never rests takes nothing that is still needed", function()
    local child = start [[
      collectgarbage("setpause", 0)
      collectgarbage("setstepmul", 1000)
      debug.sethook(function() collectgarbage "step" end, "", 500)
      local count = 0
      for _ = 1, 20 do
        local runs = {}
        for i = 1, 5 do
          runs[i] = function() return box.commands:run("x", { on_event = function() count = count + 1 end }).output end
        end
        for _, output in ipairs(assert(opensandbox.gather(runs))) do assert(output == "out\nerr") end
        box.commands:stream("x"):next() -- and lost
      end
      debug.sethook()
      print(count)
    ]]
    assert.equal("400", child:line())
    assert.equal(0, (child:finish()))
  end)

  it("the end of the state ends streams, uploads, timers, tasks and processes that are under way", function()
    server:route("POST", sandbox.execd .. "/files/upload", { { stall = true } })
    local child = start [[
      local core = require "opensandbox.core"
      for _ = 1, 3 do opensandbox.spawn(function() box.files:write("/x", function() opensandbox.sleep(60) return "x" end) end) end
      local one = opensandbox.spawn(opensandbox.sleep, 60)
      opensandbox.spawn(function() one:join() end)
      opensandbox.spawn(function() box.commands:run("x", { on_stdout = function() opensandbox.sleep(60) end }) end)
      kept = { core.process { argv = { "cat" } }, core.timer(core.now() + 60), box.commands:stream("x") }
      opensandbox.sleep(0.05)
      print(kept[1]:pid())
    ]]
    local pid = child:line()
    assert.equal(0, (child:finish()))
    local function is_alive()
      local stat = io.open("/proc/" .. pid .. "/stat")
      if stat then stat:close() end
      return stat ~= nil
    end
    for _ = 1, 4000 do
      if not is_alive() then break end
      task.sleep(0.005)
    end
    assert.is_false(is_alive())
  end)
end)
