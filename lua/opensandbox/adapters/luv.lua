--- Lets tasks go on in a loop of libuv: one poll handle on this library's descriptor. `uv.run()` does not end before `stop`.
-- The option `loop` is the module, default `require "luv"`; `schedule(fn)`, for hosts with a libuv of their own, calls fn where handlers
-- may run.
local task = require "opensandbox.task"
local tasks = require "opensandbox.tasks"

local function at_once(fn) fn() end

return function(opts, schedule)
  schedule = schedule or at_once
  local poll = assert((opts.loop or require "luv").new_poll(tasks.loop():fd()))
  local watch

  local function pump()
    -- a handler that lets the host's loop run gets here within a step, which goes on watching at its end
    if poll:is_closing() or task.scheduler().current then return end
    tasks.step { budget = opts.budget }
    if not poll:is_closing() then watch() end
  end

  watch = function()
    poll:start("r", function()
      poll:stop()
      schedule(pump)
    end)
  end

  watch()
  return function()
    if not poll:is_closing() then poll:close() end
  end
end
