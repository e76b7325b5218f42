--- Adapters to event loops of hosts: `opensandbox.adapters.nvim`, `love`, `luv`, `copas`, `cqueues`; each is loaded when it is named.
--
-- Between an adapter's `start` and `stop` the host's loop lets tasks go on, for at most `budget` seconds at a time. Hosts that are not
-- here: `opensandbox.step` for those with frames, `opensandbox.loop` for those that watch descriptors, `opensandbox.set_waiter` for
-- schedulers of coroutines.
local options = require "opensandbox.options"
local task = require "opensandbox.task"

local known = { nvim = true, love = true, luv = true, copas = true, cqueues = true }

local check = options.declare("adapter.start", {
  budget = { type = "duration", default = 0.002 },
  loop = { type = { "table", "userdata" } },
})

--- Makes the adapter that users see of a function: `attach(opts)` lets the host drive tasks and returns a function that undoes it.
local function adapter(attach)
  local M = {}

  --- Starts; an adapter that was started before is stopped.
  -- @tparam[opt] table opts `budget`: seconds that handlers and tasks may take at a time, default 0.002; `loop`: the host's, where it
  -- may have several
  -- @treturn boolean true
  function M.start(opts)
    opts = check(opts)
    M.stop()
    local scheduler = task.scheduler()
    scheduler.detach = attach(opts)
    scheduler.loop:nudge() -- tasks may wait for their first step
    return true
  end

  --- Stops. Tasks that are not over stay as they are.
  -- @treturn boolean true
  function M.stop()
    local scheduler = task.scheduler()
    local detach = scheduler.detach
    scheduler.detach = nil
    if detach then
      detach()
      scheduler.loop:nudge()
    end
    return true
  end

  return M
end

return setmetatable({}, {
  __index = function(adapters, name)
    if not known[name] then return nil end
    local made = adapter(require("opensandbox.adapters." .. name))
    rawset(adapters, name, made)
    return made
  end,
})
