--- Tasks, and the one place where waiting is decided.
--
-- `await` parks a task of ours, pumps I/O only when a user's own coroutine waits inside a task, and else blocks in the
-- loop's `step`, resuming tasks meanwhile. C never yields, and nobody else calls `loop:step`.
local errors = require "opensandbox.errors"

local M = {}

local core -- opensandbox.core, loaded at the first wait
local S -- the scheduler of this Lua state; kept in the core's context, so that a reloaded module finds it

local YIELD = "opensandbox.task.yield"
local SHIELD_SECONDS = 5

local unpack = table.unpack or unpack
local coroutine_running, coroutine_yield = coroutine.running, coroutine.yield

local function pack(...)
  return { n = select("#", ...), ... }
end

local function load_core()
  core = require "opensandbox.core"
  local context = core.context()
  S = context.scheduler
  if not S then
    S = { ready = {}, parked = {}, queue = {}, head = 1, tail = 0, waits = 0, changes = 0, loop = core.loop() }
    S.waiting = setmetatable({}, { __mode = "k" })
    context.scheduler = S
  end
  return core
end

--- The scheduler, made at first use.
local function scheduler()
  if not S then load_core() end
  return S
end

--- The task whose own coroutine runs now, or nil in the main script and in a user's own coroutine.
local function current_task()
  local task = S and S.current
  if task and coroutine_running() == task.running then return task end
end

-- ------------------------------------------------------------------------------------------------------------------
-- protected calls

-- Lua 5.1 cannot yield through pcall. There the protected function runs in a coroutine of its own that the scheduler
-- knows as the task's, and its yields are passed on; those of a host's coroutine to the host.
local yields_through_pcall = coroutine.wrap(function()
  return pcall(coroutine.yield, true)
end)()

local passes_arguments = select(2, xpcall(function(value) return value end, print, true)) == true -- not in Lua 5.1

--- Resumes `inner` until it ends. A task's yields carry nothing; a host's carry values both ways.
local function run_inner(task, inner, ...)
  local outer = task and task.running
  local sent = pack(...)
  while true do
    if task then task.running = inner end
    local got = pack(coroutine.resume(inner, unpack(sent, 1, sent.n)))
    if task then task.running = outer end
    if coroutine.status(inner) ~= "suspended" then return got end
    sent = pack(coroutine_yield(unpack(got, 2, got.n)))
  end
end

--- xpcall that takes arguments and lets a task, or a host's coroutine, wait inside, on every Lua.
-- @tparam function fn
-- @tparam function handler gets the error, where it was raised
-- @param ... arguments of fn
function M.xpcall(fn, handler, ...)
  local task, needs_inner
  if not yields_through_pcall then
    task = current_task()
    needs_inner = task or (S and S.waiter and not S.current and coroutine_running())
  end
  if not needs_inner then
    if passes_arguments then return xpcall(fn, handler, ...) end
    local arguments = pack(...)
    return xpcall(function() return fn(unpack(arguments, 1, arguments.n)) end, handler)
  end
  local inner = coroutine.create(function(...)
    return pack(fn(...))
  end)
  local results = run_inner(task, inner, ...)
  if results[1] then
    local values = results[2]
    return true, unpack(values, 1, values.n)
  end
  return false, handler(results[2], inner)
end

--- pcall that lets a task wait inside, on every Lua.
function M.pcall(fn, ...)
  return M.xpcall(fn, function(value) return value end, ...)
end

-- ------------------------------------------------------------------------------------------------------------------
-- queue and parking

local function enqueue(task)
  if task.queued or task.done then return end
  task.queued = true
  S.tail = S.tail + 1
  S.queue[S.tail] = task
end

local function park_on(id, task)
  local waiting = S.parked[id]
  if id > 0 then S.waits = S.waits + 1 end
  if not waiting then
    S.parked[id] = { task }
  else
    waiting[#waiting + 1] = task
  end
end

local function unpark_from(id, task)
  local waiting = S.parked[id]
  if not waiting then return end
  for i = #waiting, 1, -1 do
    if waiting[i] == task then
      table.remove(waiting, i)
      if id > 0 then S.waits = S.waits - 1 end
    end
  end
  if #waiting == 0 then S.parked[id] = nil end
end

--- Makes every task runnable that waits on one of the first `count` sources of S.ready.
local function collect(count)
  if count > 0 then S.changes = S.changes + 1 end
  for i = 1, count do
    local waiting = S.parked[S.ready[i]]
    if waiting then
      for j = 1, #waiting do enqueue(waiting[j]) end
    end
  end
end

--- To be called after every step of the loop, which takes back what made the descriptor readable: the host is to come again where tasks
-- are runnable, and where one of its coroutines that wait has not looked since something came that may be for it.
local function tell_host()
  local stale = S.head <= S.tail
  if not stale and S.settled ~= S.changes then
    for _, seen in pairs(S.waiting) do stale = stale or seen < S.changes end
    if not stale then S.settled = S.changes end
  end
  if stale then S.loop:nudge() end
end

--- After a change that was not made in a task: a host that watches the descriptor is to call `step`.
local function call_host()
  if not S.current then S.loop:nudge() end
end

--- The error that a cancelled wait raises.
function M.cancelled()
  return errors.new { code = "cancelled", message = "the task was cancelled" }
end

--- Raises where the task must not go on waiting.
local function check_cancelled(task)
  if task.cancel_requested and not task.shielded then error(M.cancelled(), 0) end
end

local function resume(task)
  task.queued = false
  if task.done then return end
  S.current = task
  local ok, token = coroutine.resume(task.co) -- the body is a protected call: it fails only where memory or the C stack is out
  S.current = nil
  if not ok then error(token, 0) end
  if coroutine.status(task.co) == "suspended" and token ~= YIELD then
    -- the task's function yielded by itself; nobody but us resumes it, so let the others go on and come back
    enqueue(task)
  end
end

--- Resumes the tasks that are runnable now, each once. Tells whether any is runnable after that.
local function run_queue(stop_at)
  local last = S.tail
  while S.head <= last do
    local task = S.queue[S.head]
    S.queue[S.head] = nil
    S.head = S.head + 1
    resume(task)
    if stop_at and core.now() >= stop_at then break end
  end
  if S.head > S.tail then S.head, S.tail = 1, 0 end
  return S.head <= S.tail
end

--- Lets the host have its turn: does what is ready, for at most `budget` seconds, and never blocks.
-- @tparam number budget
-- @treturn number|nil seconds until the next call is wanted; nil: when the loop's descriptor is readable, and not before
function M.step(budget)
  local loop = scheduler().loop
  if S.current then error("opensandbox: step inside a task: its waits do that", 0) end
  local stop_at = core.now() + budget
  S.stop_at = stop_at
  local ok, busy = pcall(function()
    local still_busy, count
    repeat
      count = loop:step(0, S.ready)
      collect(count)
      still_busy = run_queue(stop_at)
    until (count == 0 and not still_busy) or core.now() >= stop_at
    return still_busy
  end)
  S.stop_at = nil
  if not ok then error(busy, 0) end
  tell_host()
  return busy and 0 or loop:timeout()
end

--- Is the host's turn over? For loops that could go on without waiting.
function M.is_over_budget()
  return S ~= nil and S.stop_at ~= nil and core.now() >= S.stop_at
end

-- ------------------------------------------------------------------------------------------------------------------
-- waiting

--- Plain Lua 5.1 cannot yield from inside a function of C: says what to do where one is under way. (Iterators and metamethods don't show.)
local function check_can_yield()
  local level = 2
  repeat
    local info = debug.getinfo(level, "S")
    if info and info.what == "C" then
      error("opensandbox: in Lua 5.1 a task cannot wait inside pcall, or another function written in C: use opensandbox.pcall", 0)
    end
    level = level + 1
  until not info
end

local function park(task, source, test, deadline)
  check_cancelled(task)
  if not yields_through_pcall then check_can_yield() end
  if task.shielded and (not deadline or deadline > task.shielded) then deadline = task.shielded end
  local timer = deadline and deadline < math.huge and core.timer(deadline)
  local id = source:id()
  park_on(id, task)
  if timer then
    timer:ready()
    park_on(timer:id(), task)
  end
  local timed_out = false
  while not test(source) do
    if timer and timer:ready() then
      timed_out = true
      break
    end
    task.waiting_for = source
    coroutine_yield(YIELD)
    task.waiting_for = nil
    if task.cancel_requested and not task.shielded then break end
  end
  unpark_from(id, task)
  if timer then
    unpark_from(timer:id(), task)
    timer:cancel()
  end
  check_cancelled(task)
  return not timed_out
end

local function describe_waiting()
  local lines = {}
  for task in pairs(S.all or {}) do
    if not task.done then lines[#lines + 1] = ("%s waits for %s"):format(task.label, tostring(task.waiting_for)) end
  end
  table.sort(lines)
  return #lines > 0 and "; " .. table.concat(lines, "; ") or ""
end

--- Gives the host its turn: until the descriptor is readable, which covers deadlines (some hosts have no timers), or for `timeout` seconds.
-- What runs after it has its budget of time. False where the host cannot take its turn.
local function yield_to_host(timeout)
  local key = {} -- of this coroutine's wait; goes with it, should the host drop it
  S.waiting[key] = S.changes
  if timeout == 0 then S.waiting[key], S.settled = -1, nil end
  tell_host()
  local can_wait = S.waiter(S.loop:fd(), timeout) ~= false -- not protected: it yields to the host
  S.waiting[key] = nil
  S.stop_at = can_wait and core.now() + S.host_budget or nil
  return can_wait
end

local function wait_in_host(source, test, deadline, busy)
  local loop = S.loop
  collect((loop:step(0, S.ready)))
  if test(source) or (not busy and S.head <= S.tail) then return end
  local timer = deadline and deadline < math.huge and core.timer(deadline)
  if timer then timer:ready() end
  local timeout = busy and 0 or loop:timeout()
  if not yield_to_host(timeout) then collect((loop:step(timeout, S.ready))) end
  if timer then timer:cancel() end
end

local function block(source, test, deadline)
  local inside_task = S.current ~= nil -- a user's own coroutine: resuming tasks from here would nest without bound
  if inside_task and source.is_condition then
    error(("opensandbox: a coroutine of your own inside a task cannot wait for %s: only the task itself can"):format(tostring(source)), 0)
  end
  local loop = S.loop
  while not test(source) do
    local now = core.now()
    if deadline and now >= deadline then return false end
    local busy = not inside_task and run_queue(S.stop_at)
    if test(source) then break end
    if S.waiter and not inside_task then
      wait_in_host(source, test, deadline, busy)
    else
      local timeout = busy and 0 or deadline and deadline - now or nil
      if source.is_condition and not timeout and S.waits == 0 then
        error("opensandbox: deadlock: this waits for " .. tostring(source) .. " and nothing can wake it" .. describe_waiting(), 0)
      end
      collect((loop:step(timeout, S.ready)))
    end
  end
  if S.waiter and not inside_task then tell_host() end
  return true
end

--- Waits until `source` is ready.
-- @param source a transfer, timer, process or condition: has `id()` and the method that tests it
-- @tparam[opt] number deadline on the clock of core.now
-- @tparam[opt="ready"] string test name of the method that tells readiness
-- @treturn boolean false when the deadline passed first
-- Raises an error with code `cancelled` in a cancelled task.
function M.await(source, deadline, test)
  test = source[test or "ready"]
  scheduler()
  local task = current_task()
  if task then check_cancelled(task) end
  if S.stop_at and core.now() >= S.stop_at then M.pause() end
  if test(source) then return true end
  if task then return park(task, source, test, deadline) end
  return block(source, test, deadline)
end

--- Lets other tasks, and the host, go on before this one does. Nothing where neither is waiting for that.
function M.pause()
  local task = current_task()
  if task then
    check_cancelled(task)
    enqueue(task)
    coroutine_yield(YIELD)
    check_cancelled(task)
  elseif S.waiter and not S.current then
    yield_to_host(0)
  end
end

--- A thing of Lua's own that can be waited for: `condition.ready` is a function, `wake` tells that it may have changed.
local conditions = 0
local Condition = {}
Condition.__index = Condition
Condition.is_condition = true
Condition.__tostring = function(self) return self.label end

function Condition:id() return self.number end

--- Makes those who wait test it again.
function Condition:wake()
  S.ready[1] = self.number
  collect(1)
  call_host()
end

--- @tparam string label what it is, for the deadlock error
-- @tparam function ready tells whether waiting is over
function M.condition(label, ready)
  scheduler()
  conditions = conditions - 1 -- below zero: never the id of a source
  return setmetatable({ number = conditions, label = label, ready = ready }, Condition)
end

--- Waits `seconds` (0 lets other tasks go on).
function M.sleep(seconds)
  if type(seconds) ~= "number" or not (seconds >= 0) then
    error(("sleep: seconds (a number >= 0) expected, got %s"):format(tostring(seconds)), 2)
  end
  scheduler()
  if seconds == 0 and current_task() then return M.pause() end
  local timer = core.timer(core.now() + seconds)
  M.await(timer)
  timer:cancel()
end

--- Calls fn so that its waits are not cut short by the cancellation of the task, for at most 5 s: for clean-up.
function M.shield(fn, ...)
  local task = current_task()
  if not task or task.shielded then return fn(...) end
  task.shielded = core.now() + SHIELD_SECONDS
  local results = pack(M.pcall(fn, ...))
  task.shielded = nil
  if not results[1] then error(results[2], 0) end
  return unpack(results, 2, results.n)
end

--- Calls a handler of the user's. Returns nothing when it went well, else an error of code `handler`.
-- An error of code `cancelled` passes through: it is the task's own.
function M.call_handler(fn, ...)
  local trace
  local ok, value = M.xpcall(fn, function(value, co)
    trace = co and debug.traceback(co, tostring(value)) or debug.traceback(tostring(value), 2)
    return value
  end, ...)
  if ok then return nil, value end
  if errors.is(value) and value.code == "cancelled" then error(value, 0) end
  return errors.new { code = "handler", message = "a handler failed: " .. tostring(value), cause = value, traceback = trace }
end

--- Makes a new task runnable. For tasks.lua, which makes them: `{co=, running=, label=, done=, cancel_requested=}`.
function M.start(task)
  scheduler()
  enqueue(task)
  call_host()
end

--- Makes a parked task test again what it waits for.
function M.wake(task)
  enqueue(task)
  call_host()
end

--- See `opensandbox.set_waiter`.
function M.set_waiter(fn, budget)
  scheduler()
  S.waiter, S.host_budget, S.stop_at = fn, budget, nil
  if fn then S.loop:fd() end -- from now on it is watched
end

M.scheduler = scheduler
M.current_task = current_task

return M
