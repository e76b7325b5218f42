--[[ What the specs of hosts do inside a host: a sandbox on the embedded runtime whose output streams, a command that is cancelled, and the
end of the sandbox, while a timer of the host goes on.

  local scenario = require "spec.support.host_scenario"
  scenario.start(function() … end)       -- spawns the work; the function ends the host's loop
  scenario.tick()                        -- from the host's timer, each few milliseconds

It prints a line for each thing that came about, at last `longest N`: the most milliseconds between two ticks. Time in which the kernel had
other work for the processor than this process is taken off: that is no fault of the process. ]]
local opensandbox = require "opensandbox"

local M = {}

local EVENTS = 200000

local longest, ticks, last_time, last_delay = 0, 0, nil, nil

--- Seconds that this process was ready to run and did not run, so far.
local function run_delay()
  local file = assert(io.open "/proc/self/schedstat")
  local nanoseconds = file:read("*l"):match("^%d+ (%d+)")
  file:close()
  return tonumber(nanoseconds) / 1e9
end

--- Notes the time since the tick before.
function M.tick()
  local now, delay = require("opensandbox.core").now(), run_delay()
  if last_time then longest = math.max(longest, (now - last_time) - (delay - last_delay)) end
  last_time, last_delay, ticks = now, delay, ticks + 1
end

local function say(...)
  io.stdout:write(table.concat({ ... }, " "), "\n")
  io.stdout:flush()
end

local function cancelled_command(sandbox)
  local began = false
  local task = opensandbox.spawn(function()
    return sandbox.commands:run("echo began; exec sleep 600", { on_stdout = function() began = true end })
  end)
  while not began do opensandbox.sleep(0.005) end
  task:cancel()
  local _, err = task:join()
  -- the command was interrupted: nothing of that name runs in the sandbox any more
  while assert(sandbox.commands:run "pgrep -x sleep").exit_code == 0 do opensandbox.sleep(0.02) end
  return err.code
end

--- All of the work, in whatever way this host waits.
function M.work()
  local sandbox = assert(opensandbox.create { connection = { domain = "local" } })
  local seen, before = 0, ticks
  local run = assert(sandbox.commands:run("seq " .. EVENTS, { on_stdout = function() seen = seen + 1 end }))
  say("events", seen, #run.stdout)
  say("ticked", tostring(ticks > before))
  say("cancel", cancelled_command(sandbox))
  assert(sandbox:kill())
  say("gone", select(2, opensandbox.manager({ connection = sandbox.connection }):get(sandbox.id)).code)
  sandbox:close()
end

--- Many coroutines of the host, made by `spawn(fn)`, and tasks that call at once: all come to their end, and see each other's.
function M.crowd(spawn)
  local sandbox = assert(opensandbox.create { connection = { domain = "local" } })
  local left, over = 10, opensandbox.semaphore(1)
  over:acquire()
  for i = 1, left do
    local function work()
      for j = 1, 5 do
        local word = ("%d.%d"):format(i, j)
        assert(assert(sandbox.commands:run("echo " .. word)).stdout == word)
        assert(opensandbox.spawn(function(answer) opensandbox.sleep(0.001) return answer end, word):join() == word)
      end
      left = left - 1
      if left == 0 then over:release() end
    end
    if i % 2 == 0 then opensandbox.spawn(work) else spawn(work) end
  end
  assert(over:acquire())
  assert(sandbox:kill())
  sandbox:close()
  say("crowd", left)
end

--- Ends the host by `finish`, and says how the work went.
function M.report(task, finish)
  local _, err = task:join()
  say("failure", tostring(err))
  say("longest", ("%.3f"):format(longest * 1000))
  finish()
end

--- Spawns the work in a task.
function M.start(finish)
  local task = opensandbox.spawn(M.work)
  opensandbox.spawn(M.report, task, finish)
end

return M
