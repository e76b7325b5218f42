--- OpenSandbox for Lua.
--
--     local opensandbox = require "opensandbox"
--     local sandbox = assert(opensandbox.create())
--     print(assert(sandbox.commands:run("echo hello")).stdout)
--     sandbox:kill()
--
-- Requiring this module loads no other: each part comes at its first use.

--- Public name → the module that has it, and its name there (`true`: the module itself).
local places = {
  connection = { "connection", "new" },
  create = { "sandbox", "create" },
  connect = { "sandbox", "connect" },
  resume = { "sandbox", "resume" },
  with = { "sandbox", "with" },
  code_interpreter = { "code", "code_interpreter" },
  pool = { "pool", "pool" },
  pool_redis = { "pool_redis", "new" },
  manager = { "manager", "manager" },
  is_error = { "errors", "is" },
  check = { "errors", "check" },
  null = { "json", "null" },
  defaults = { "defaults", true },
  spawn = { "tasks", "spawn" },
  gather = { "tasks", "gather" },
  run = { "tasks", "run" },
  with_timeout = { "tasks", "with_timeout" },
  semaphore = { "tasks", "semaphore" },
  step = { "tasks", "step" },
  loop = { "tasks", "loop" },
  set_waiter = { "tasks", "set_waiter" },
  sleep = { "task", "sleep" },
  pcall = { "task", "pcall" },
  adapters = { "adapters", true },
}

local opensandbox = { _VERSION = "0.1.0" }

return setmetatable(opensandbox, {
  __index = function(_, name)
    local place = places[name]
    if not place then return nil end
    local module = require("opensandbox." .. place[1])
    local value = place[2] == true and module or module[place[2]]
    rawset(opensandbox, name, value)
    return value
  end,
})
