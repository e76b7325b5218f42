-- What a host's loop builds on: step, the loop's descriptor, waiters. The adapters are proved in spec/hosts.
local core = require "opensandbox.core"
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"
local socket = require "socket"
local task = require "opensandbox.task"

describe("for a host's loop", function()
  local server, sandbox, box

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)

  before_each(function()
    server:reset()
    sandbox = faults.sandbox_routes(server)
    box = assert(opensandbox.create(sandbox.options(opensandbox)))
  end)

  after_each(function()
    opensandbox.set_waiter(nil)
    box:close()
    assert.is_nil(next(task.scheduler().all or {}), "a task outlives its test")
  end)

  local function path() return sandbox.execd .. "/command" end

  --- Waits until a descriptor is readable, at most `timeout` seconds.
  local function is_readable(fd, timeout)
    local watched = { getfd = function() return fd end, dirty = function() return false end }
    return #socket.select({ watched }, nil, timeout) == 1
  end

  it("step does what is ready, and never blocks", function()
    server:route("POST", path(), faults.join(faults.stream_head(), faults.events { faults.init("c1") }, { { wait = "go" } },
      faults.events { faults.stdout("late"), faults.complete() }, { { send = "0\r\n\r\n" } }))
    local running = opensandbox.spawn(function() return box.commands:run("x") end)
    while #server:requests(path()) == 0 do opensandbox.step() end
    for _ = 1, 100 do opensandbox.step() end -- nothing comes, and each of them comes back
    assert.equal("running", running.status)
    server:release "go"
    while running.status == "running" do opensandbox.step() end
    assert.equal("late", running:join().stdout)
    opensandbox.step()
  end)

  it("step keeps to its budget within one handler call, and says that it wants to be called again", function()
    local events = { faults.init("c1") }
    for i = 1, 50 do events[i + 1] = faults.stdout(tostring(i)) end
    events[#events + 1] = faults.complete()
    server:route("POST", path(), faults.stream(events))
    local seen, most = 0, 0
    local running = opensandbox.spawn(function()
      return box.commands:run("x", {
        on_stdout = function()
          seen = seen + 1
          local start = core.now()
          while core.now() - start < 0.002 do end -- luacheck: ignore 542
        end,
      })
    end)
    while running.status == "running" do
      local before = seen
      local again = opensandbox.step { budget = 0.001 }
      most = math.max(most, seen - before)
      if seen > 0 and seen < 50 then assert.equal(0, again) end
    end
    assert.equal(50, seen)
    assert.equal(1, most)
    assert(running:join())
  end)

  it("step is refused inside a task, and checks its options", function()
    opensandbox.run(function()
      local ok, problem = opensandbox.pcall(opensandbox.step)
      assert.is_false(ok)
      assert.truthy(tostring(problem):find("step inside a task", 1, true))
    end)
    assert.has_error(function() opensandbox.step { budget = -1 } end)
    assert.has_error(function() opensandbox.step { budged = 1 } end)
  end)

  it("the descriptor alone tells when to call step: new tasks, timers, data, cancellation, other tasks' ends", function()
    local fd = opensandbox.loop():fd()
    local function drive(condition)
      while not condition() do
        assert.is_true(is_readable(fd, 20), "the descriptor stays quiet")
        opensandbox.step { budget = 0 }
      end
    end
    server:route("POST", path(), faults.stream { faults.init("c1"), faults.stdout("a"), faults.complete() })
    local sleeper = opensandbox.spawn(opensandbox.sleep, 600)
    local order = {}
    local joiner = opensandbox.spawn(function()
      opensandbox.sleep(0.01)
      order[1] = assert(box.commands:run("x")).stdout
      order[2] = select(2, sleeper:join()).code
    end)
    drive(function() return order[1] end)
    while opensandbox.step() == 0 do end -- luacheck: ignore 542
    sleeper:cancel()
    drive(function() return joiner.status ~= "running" end)
    assert.same({ "a", "cancelled" }, order)
    assert.is_nil(select(2, joiner:join()))
  end)

  it("a waiter lets plain calls wait in a scheduler of coroutines, several at once, with time-outs", function()
    -- the smallest scheduler: everyone is resumed once the descriptor is readable, now in this order, now in that
    local threads, current = {}, nil
    local function go(fn)
      local thread = coroutine.create(fn)
      threads[#threads + 1] = thread
    end
    local turns = 0
    opensandbox.set_waiter(function(fd)
      if not current or coroutine.running() ~= current then return false end
      turns = turns + 1
      coroutine.yield(fd)
    end)
    local function loop()
      local fd = opensandbox.loop():fd()
      while #threads > 0 do
        local alive = {}
        for i = #threads, 1, -1 do
          current = threads[i]
          assert(coroutine.resume(current))
          if coroutine.status(current) ~= "dead" then alive[#alive + 1] = current end
          current = nil
        end
        threads = alive
        if #threads > 0 then assert.is_true(is_readable(fd, 20), "the descriptor stays quiet") end
      end
    end
    server:route("POST", path(), faults.stream { faults.init("c1"), faults.stdout("a"), faults.complete() })
    local places, results = opensandbox.semaphore(1), {}
    assert(places:acquire())
    go(function()
      results[1] = assert(box.commands:run("x")).stdout
      opensandbox.sleep(0.02)
      places:release()
    end)
    go(function() results[2] = select(2, places:acquire(0.001)).code end)
    go(function() results[3] = places:acquire() places:release() end)
    for i = 5, 9 do
      go(function()
        for _ = 1, 5 do results[i] = opensandbox.spawn(function() opensandbox.sleep(0.0005) return "many" end):join() end
      end)
    end
    go(function() results[4] = opensandbox.spawn(function() opensandbox.sleep(0.001) return "task" end):join() end)
    loop()
    assert.same({ "a", "timeout", true, "task", "many", "many", "many", "many", "many" }, results)
    assert.is_true(turns > 4)
    assert.equal("a", assert(box.commands:run("x")).stdout) -- outside of it: blocks
  end)
end)
