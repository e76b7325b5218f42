local core = require "opensandbox.core"
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"
local script = require "spec.support.script"
local task = require "opensandbox.task"

describe("tasks", function()
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

  local function path() return sandbox.execd .. "/command" end

  it("run while the script waits, and give their results to whoever joins", function()
    local order = {}
    local one = opensandbox.spawn(function(a, b)
      order[#order + 1] = "one"
      opensandbox.sleep(0.01)
      order[#order + 1] = "one again"
      return a + b, nil, "third"
    end, 1, 2)
    local two = opensandbox.spawn(function() order[#order + 1] = "two" end)
    assert.equal("running", one.status)
    assert.same({ 3, nil, "third" }, { one:join() })
    assert.is_nil((two:join()))
    assert.same({ "one", "two", "one again" }, order)
    assert.equal("done", one.status)
  end)

  it("give what they raise to whoever joins", function()
    local failing = opensandbox.spawn(function() error("boom") end)
    local result, err = failing:join()
    assert.is_nil(result)
    assert.equal("handler", err.code)
    assert.truthy(err.message:find("boom", 1, true))
    assert.truthy(err.traceback:find("tasks_spec.lua", 1, true))
    assert.equal("failed", failing.status)
  end)

  it("join with a time-out that leaves the task running", function()
    local slow = opensandbox.spawn(function() opensandbox.sleep(0.05) return "late" end)
    local result, err = slow:join(0.001)
    assert.is_nil(result)
    assert.equal("timeout", err.code)
    assert.equal("late", slow:join())
  end)

  it("are cancelled at their wait and at every later one, after which the remote command is interrupted", function()
    server:route("DELETE", path(), faults.answer(200))
    server:route("POST", path(), faults.stream({ faults.init("c1"), faults.stdout("up") }, { ending = "open" }))
    local again
    local running = opensandbox.spawn(function()
      local ok, err = task.pcall(box.commands.run, box.commands, "x")
      again = { ok, err.code, select(2, task.pcall(opensandbox.sleep, 0)).code }
      error(err, 0)
    end)
    server:await(path(), function(requests) return #requests == 1 end)
    assert.is_true(running:cancel())
    local _, err = running:join()
    assert.equal("cancelled", err.code)
    assert.equal("cancelled", running.status)
    assert.is_false(running:cancel())
    assert.same({ false, "cancelled", "cancelled" }, again)
    assert.equal("id=c1", server:requests(path())[2].query)
  end)

  it("are cancelled before they began", function()
    local began = false
    local never = opensandbox.spawn(function() began = true end)
    never:cancel()
    assert.equal("cancelled", select(2, never:join()).code)
    assert.is_false(began)
  end)

  it("stop a retry's pause when cancelled", function()
    server:route("GET", "/v1/sandboxes/" .. sandbox.id, faults.answer(503, "busy", { ["Retry-After"] = "25" }))
    local asking = opensandbox.spawn(function() return box:info() end)
    server:await("/v1/sandboxes/" .. sandbox.id, function(requests) return #requests == 1 end)
    opensandbox.sleep(0.01)
    asking:cancel()
    assert.equal("cancelled", select(2, asking:join(5)).code)
  end)

  if _VERSION == "Lua 5.4" then
    it("wait in <close> while they are cancelled", function()
      server:route("DELETE", sandbox.execd .. "/session/s1", faults.answer(200))
      server:route("POST", sandbox.execd .. "/session", faults.json(200, { session_id = "s1" }))
      local body = assert(load([[
        local box, opensandbox = ...
        local session <close> = assert(box.commands:create_session())
        opensandbox.sleep(60)
      ]]))
      local holding = opensandbox.spawn(body, box, opensandbox)
      server:await(sandbox.execd .. "/session", function(requests) return #requests == 1 end)
      opensandbox.sleep(0.01)
      holding:cancel()
      assert.equal("cancelled", select(2, holding:join()).code)
      assert.equal(1, #server:requests(sandbox.execd .. "/session/s1"))
    end)
  end

  it("gather in order, and cancel the others at the first failure", function()
    local results = assert(opensandbox.gather {
      function() opensandbox.sleep(0.02) return "a" end, function() return "b" end, function() end,
    })
    assert.same({ "a", "b", n = 3 }, results)
    local cancelled
    local result, err = opensandbox.gather {
      function()
        local _, problem = task.pcall(opensandbox.sleep, 60)
        cancelled = problem.code
        error(problem, 0)
      end,
      function() opensandbox.sleep(0.001) error("first") end,
    }
    assert.is_nil(result)
    assert.truthy(err.message:find("first", 1, true))
    assert.equal("cancelled", cancelled)
    assert.same({ n = 0 }, opensandbox.gather {})
  end)

  it("run until all have ended", function()
    local ended = 0
    assert.equal("main", opensandbox.run(function()
      for _ = 1, 400 do opensandbox.spawn(function() opensandbox.sleep(0.001) ended = ended + 1 end) end
      return "main"
    end))
    assert.equal(400, ended)
  end)

  it("nest 400 waits without growing a stack", function()
    local function wait_for(n)
      if n == 0 then opensandbox.sleep(0.001) return 0 end
      return opensandbox.spawn(wait_for, n - 1):join() + 1
    end
    assert.equal(400, opensandbox.run(wait_for, 400))
  end)

  it("end in time with with_timeout, or are cancelled", function()
    assert.same({ 1, 2 }, { opensandbox.with_timeout(5, function() return 1, 2 end) })
    local unwound
    local result, err = opensandbox.with_timeout(0.01, function()
      local _, problem = task.pcall(opensandbox.sleep, 60)
      unwound = problem.code
      error(problem, 0)
    end)
    assert.is_nil(result)
    assert.equal("timeout", err.code)
    assert.equal("cancelled", unwound)
  end)

  it("share the places of a semaphore", function()
    local places, most, now = opensandbox.semaphore(2), 0, 0
    opensandbox.run(function()
      for _ = 1, 10 do
        opensandbox.spawn(function()
          assert(places:acquire())
          now = now + 1
          most = math.max(most, now)
          opensandbox.sleep(0.001)
          now = now - 1
          places:release()
        end)
      end
    end)
    assert.equal(2, most)
    assert.has_error(function() places:release() end)
    places:acquire()
    places:acquire()
    assert.equal("timeout", select(2, places:acquire(0.001)).code)
  end)

  it("say who waits for what in a deadlock", function()
    local places = opensandbox.semaphore(1)
    places:acquire()
    local stuck = opensandbox.spawn(function() places:acquire() end)
    local ok, problem = pcall(stuck.join, stuck)
    assert.is_false(ok)
    assert.truthy(problem:find("deadlock", 1, true))
    assert.truthy(problem:find("waits for a semaphore", 1, true), problem)
    places:release()
    stuck:join()
  end)

  it("leave a user's own coroutines alone: waits in them block, their yields are theirs", function()
    local seen = {}
    opensandbox.run(function()
      local other = opensandbox.spawn(function() seen[#seen + 1] = "other" end)
      local generate = coroutine.wrap(function()
        for i = 1, 2 do
          opensandbox.sleep(0.005)
          coroutine.yield(i)
        end
      end)
      seen[#seen + 1] = generate()
      seen[#seen + 1] = generate()
      other:join()
    end)
    assert.same({ 1, 2, "other" }, seen) -- no other task was resumed from inside the user's coroutine
  end)

  it("wait inside handlers and protected calls", function()
    server:route("POST", path(), faults.stream { faults.init("c1"), faults.stdout("one"), faults.stdout("two"), faults.complete() })
    local order, ok, problem, native = {}, nil, nil, nil
    opensandbox.run(function()
      local other = opensandbox.spawn(function() order[#order + 1] = "other" end)
      assert(box.commands:run("x", {
        on_stdout = function(text)
          other:join()
          opensandbox.sleep(0.001)
          order[#order + 1] = text
        end,
      }))
      ok, problem = opensandbox.pcall(function(value)
        opensandbox.sleep(0.001)
        error(value)
      end, order)
      native = { pcall(opensandbox.sleep, 0.001) }
    end)
    assert.same({ "other", "one", "two" }, order)
    assert.is_false(ok)
    assert.equal(order, problem)
    if _VERSION == "Lua 5.1" and not _G.jit then
      assert.truthy(native[2]:find("use opensandbox.pcall", 1, true), native[2])
    else
      assert.is_true(native[1])
    end
  end)

  it("refuse join and run from a coroutine inside a task", function()
    opensandbox.run(function()
      local other = opensandbox.spawn(function() opensandbox.sleep(0.001) end)
      local ok, problem = coroutine.wrap(function() return pcall(other.join, other) end)()
      assert.is_false(ok)
      assert.truthy(problem:find("only the task itself can", 1, true))
      assert.has_error(function() opensandbox.run(function() end) end)
    end)
  end)

  it("tell a failure that nobody joined, once, and go on", function()
    local child = script.start [[
      local opensandbox = require "opensandbox"
      io.stderr:setvbuf "no"
      opensandbox.spawn(function() error("lost") end)
      collectgarbage() collectgarbage()
      opensandbox.sleep(0)
      print "still here"
    ]]
    assert.equal("still here", child:line())
    assert.equal(0, (child:finish()))
  end)

  it("check their arguments", function()
    assert.has_error(function() opensandbox.spawn("x") end)
    assert.has_error(function() opensandbox.sleep(-1) end)
    assert.has_error(function() opensandbox.sleep("soon") end)
    assert.has_error(function() opensandbox.gather { 1 } end)
    assert.has_error(function() opensandbox.semaphore(0) end)
    assert.is_true(core.now() > 0)
  end)
end)
