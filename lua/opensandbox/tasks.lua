--- Tasks for users: `opensandbox.spawn`, `gather`, `run`, `sleep`, `with_timeout`, `semaphore`, and the host's `step`.
--
-- The scheduler and its waiting are in `opensandbox.task`; this is what users hold of it.
local core = require "opensandbox.core"
local errors = require "opensandbox.errors"
local options = require "opensandbox.options"
local task = require "opensandbox.task"

local M = {}

local UNWIND_SECONDS = 6 -- a cancelled task's clean-up is over by then: its waits are shielded for 5 s

local unpack = table.unpack or unpack
local scheduler = task.scheduler()

-- ------------------------------------------------------------------------------------------------------------------
-- the end of a task

--- What a raised value becomes for whoever joins.
local function failure_of(value, trace)
  if errors.is(value) then
    value.traceback = value.traceback or trace
    return value
  end
  return errors.new { code = "handler", message = "the task failed: " .. tostring(value), cause = value, traceback = trace }
end

local function report(state)
  if not state.failure or state.seen or state.status == "cancelled" then return end
  state.seen = true
  local text = ("opensandbox: %s failed and nobody joined it: %s\n%s\n"):format(state.label, tostring(state.failure),
    state.failure.traceback or "")
  if scheduler.reporter then scheduler.reporter(text) else io.stderr:write(text) end
end

local function finish(state, ok, ...)
  state.done = true
  scheduler.all[state] = nil
  if ok then
    state.status, state.results = "done", { n = select("#", ...), ... }
  else
    state.failure = ...
    state.status = state.cancel_requested and state.failure.code == "cancelled" and "cancelled" or "failed"
  end
  if state.orphan then report(state) end
  state.finished:wake()
end

-- ------------------------------------------------------------------------------------------------------------------
-- spawning and joining

local methods = { __fields = { status = true, id = true } }

--- Starts a task: fn runs at the next wait of the script, or at the host's next `step`. Waits inside it park only this task.
-- @tparam function fn
-- @param ... its arguments
-- @treturn userdata task: `task:join(timeout)`, `task:cancel()`, `task.status` (`"running"`, `"done"`, `"failed"`, `"cancelled"`)
function M.spawn(fn, ...)
  options.argument("fn", fn, "function")
  local arguments = { n = select("#", ...), ... }
  scheduler.all = scheduler.all or {}
  scheduler.task_count = (scheduler.task_count or 0) + 1
  local state = { status = "running", id = scheduler.task_count, label = ("task %d"):format(scheduler.task_count) }
  state.finished = task.condition(state.label, function() return state.done == true end)
  state.co = coroutine.create(function()
    finish(state, task.xpcall(function()
      if state.cancel_requested then error(task.cancelled(), 0) end
      return fn(unpack(arguments, 1, arguments.n))
    end, function(value, co)
      return failure_of(value, co and debug.traceback(co, tostring(value)) or debug.traceback(tostring(value), 2))
    end))
  end)
  state.running = state.co
  scheduler.all[state] = true
  task.start(state)
  return core.new("task", state)
end

local function result_of(state)
  state.seen = true
  if state.failure then return nil, state.failure end
  return unpack(state.results, 1, state.results.n)
end

--- Waits until the task has ended.
-- @tparam[opt] number timeout seconds; when they are over the task goes on
-- @return what its function returned; or nil, err: what it raised, `cancelled`, or `timeout`
function methods:join(timeout)
  local state = core.state(self, "task")
  if timeout ~= nil then options.argument("timeout", timeout, "duration") end
  if task.current_task() == state then errors.raise("a task cannot join itself") end
  if not task.await(state.finished, timeout and core.now() + timeout) then
    return nil, errors.new { code = "timeout", message = ("%s still runs after %g s"):format(state.label, timeout) }
  end
  return result_of(state)
end

--- Asks the task to end: its wait, and every later one, raises an error with code `cancelled`. Nothing is resumed here and now.
-- @treturn boolean whether it was still running
function methods:cancel()
  local state = core.state(self, "task")
  if state.done then return false end
  state.cancel_requested = true
  task.wake(state)
  return true
end

--- A handle that is gone: a failure that nobody asked for is told once.
local function drop(self)
  local state = core.state(self, "task", true)
  if state.done then report(state) else state.orphan = true end
end

core.methods("task", methods, { __gc = drop })

local function cancel_all(tasks)
  for _, one in ipairs(tasks) do one:cancel() end
  task.shield(function()
    for _, one in ipairs(tasks) do one:join(UNWIND_SECONDS) end
  end)
end

--- Waits for tasks on behalf of a call that owns them: they do not outlive it.
local function owned(tasks, wait)
  local ok, err = task.pcall(wait)
  if ok then return end
  cancel_all(tasks)
  error(err, 0)
end

--- Runs functions as tasks at the same time and waits for all.
-- @tparam table functions list
-- @treturn[1] table what each returned first, in the order of the list
-- @treturn[2] nil
-- @treturn[2] table err of the first that failed; the others were cancelled
function M.gather(functions)
  options.argument("functions", functions, "list")
  for i, fn in ipairs(functions) do options.argument(("functions[%d]"):format(i), fn, "function") end
  local tasks, states, left, failed = {}, {}, #functions, nil
  local over = task.condition("gather", function() return failed ~= nil or left == 0 end)
  for i, fn in ipairs(functions) do
    tasks[i] = M.spawn(function()
      local results = { task.xpcall(fn, function(value, co)
        return failure_of(value, co and debug.traceback(co, tostring(value)) or debug.traceback(tostring(value), 2))
      end) }
      left = left - 1
      if not results[1] and not failed then failed = results[2] end
      over:wake()
      if not results[1] then error(results[2], 0) end
      return unpack(results, 2)
    end)
    states[i] = core.state(tasks[i], "task")
  end
  owned(tasks, function() task.await(over) end)
  if failed then
    cancel_all(tasks)
    return nil, failed
  end
  local results = { n = #functions }
  for i, state in ipairs(states) do
    tasks[i]:join()
    results[i] = state.results[1]
  end
  return results
end

--- Runs fn, with everything it spawns, until all tasks have ended. For the main script only.
-- @return what fn returned, or nil, err
function M.run(fn, ...)
  if scheduler.current then errors.raise("run inside a task: call the function itself, or spawn it") end
  local first = M.spawn(fn, ...)
  local all_done = task.condition("all tasks", function() return next(scheduler.all) == nil end)
  scheduler.idle = all_done
  task.await(all_done)
  return first:join()
end

--- Calls fn and gives up after some seconds: it is cancelled then, and its clean-up awaited.
-- @tparam number seconds
-- @tparam function fn
-- @return what fn returned; or nil, err: what it raised, or `timeout`
function M.with_timeout(seconds, fn, ...)
  options.argument("seconds", seconds, "duration")
  local child = M.spawn(fn, ...)
  local state = core.state(child, "task")
  local in_time
  owned({ child }, function() in_time = task.await(state.finished, core.now() + seconds) end)
  if in_time then return result_of(state) end
  cancel_all { child }
  if state.status == "done" then return result_of(state) end
  state.seen = true
  return nil, errors.new { code = "timeout", message = ("not finished within %g s"):format(seconds), cause = state.failure }
end

-- ------------------------------------------------------------------------------------------------------------------
-- the host's loop

local check_step = options.declare("step", { budget = { type = "duration", default = 0.002 } })

--- Does what is ready, for a host that calls this each frame or tick. Never blocks; a handler that runs is not cut short.
-- @tparam[opt] table opts `budget`: seconds that handlers and tasks may take, default 0.002
-- @treturn number|nil seconds until it wants to be called again (0: at once); nil: not before something comes. Who watches
-- `loop():fd()` need not look at it: that is readable whenever `step` wants to be called
function M.step(opts)
  opts = check_step(opts)
  if scheduler.current then errors.raise("step inside a task: the host's loop calls it") end
  return task.step(opts.budget)
end

--- The loop of this Lua state, for hosts that watch descriptors.
-- @treturn userdata `loop:fd()` is readable when `step` wants to be called; `loop:timeout()` tells the seconds until then at most, or nil
function M.loop()
  return core.loop()
end

--- Lets a scheduler of coroutines wait for this library: calls outside tasks then wait by fn instead of blocking.
-- @tparam function|nil fn(fd, timeout): returns once fd is readable, or `timeout` seconds are over (nil: none; fd is readable then, too).
-- It may yield to its scheduler. It returns false where it cannot wait, as outside its coroutines: the call then blocks
-- @tparam[opt=0.002] number budget seconds that a call may go on without giving the host a turn, while there is something to do
function M.set_waiter(fn, budget)
  if fn ~= nil then options.argument("fn", fn, "function") end
  if budget ~= nil then options.argument("budget", budget, "duration") end
  task.set_waiter(fn, budget or 0.002)
end

-- ------------------------------------------------------------------------------------------------------------------
-- semaphores

local semaphore_methods = {}

--- Takes one of the places, waiting for it.
-- @tparam[opt] number timeout seconds
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err `timeout`
function semaphore_methods:acquire(timeout)
  local state = core.state(self, "semaphore")
  if timeout ~= nil then options.argument("timeout", timeout, "duration") end
  if not task.await(state.condition, timeout and core.now() + timeout) then
    return nil, errors.new { code = "timeout", message = ("no place was free within %g s"):format(timeout) }
  end
  state.free = state.free - 1
  return true
end

--- Gives the place back.
function semaphore_methods:release()
  local state = core.state(self, "semaphore")
  if state.free >= state.size then errors.raise("release without acquire") end
  state.free = state.free + 1
  state.condition:wake()
  return true
end

core.methods("semaphore", semaphore_methods)

--- Limits how many tasks do something at once.
-- @tparam integer n places
-- @treturn userdata semaphore: `semaphore:acquire(timeout)`, `semaphore:release()`
function M.semaphore(n)
  options.argument("n", n, "integer")
  if n < 1 then errors.raise("a semaphore needs at least one place") end
  local state = { size = n, free = n }
  state.condition = task.condition("a semaphore", function() return state.free > 0 end)
  return core.new("semaphore", state)
end

return M
