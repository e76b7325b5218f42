--[==[ Runs a Lua script in a process of its own, with the interpreter and paths of the tests.

  local script = require "spec.support.script"
  local child = script.start([[ print "hello" ]], { http_proxy = "http://127.0.0.1:1" })
  child:line() == "hello"     -- the next line of its output; nil at the end
  child:kill(2)               -- sends a signal
  child:finish() == 0         -- waits for the end of its output and gives its exit code ]==]
local core = require "opensandbox.core"
local task = require "opensandbox.task"

local M = {}

local SECONDS = 30

local Child = {}
Child.__index = Child

--- The interpreter that runs the tests, by name: `./dev asan` puts a sanitised one first on the path.
function M.interpreter()
  if _G.jit then return "luajit" end
  return "lua" .. _VERSION:match("%d%.%d")
end

--- This process's environment with some variables set; false takes one away.
local function environment(changes)
  local list, seen = {}, {}
  local file = assert(io.open("/proc/self/environ", "rb"))
  for entry in file:read("*a"):gmatch("[^%z]+") do
    local name = entry:match("^[^=]*")
    seen[name] = true
    if changes[name] == nil then list[#list + 1] = entry
    elseif changes[name] then list[#list + 1] = name .. "=" .. changes[name] end
  end
  file:close()
  for name, value in pairs(changes) do
    if value and not seen[name] then list[#list + 1] = name .. "=" .. value end
  end
  return list
end

--- Starts any program.
-- @tparam table argv
-- @tparam[opt] table env variables to set (or, with false, to unset), beside the paths of the tests
function M.program(argv, env)
  local changes = { LUA_PATH = package.path, LUA_CPATH = package.cpath, LD_PRELOAD = false } -- a sanitiser's, for this process only
  for name, value in pairs(env or {}) do changes[name] = value end
  return setmetatable({ process = assert(core.process { argv = argv, env = environment(changes) }) }, Child)
end

--- @tparam string source Lua code; its errors go to its output
-- @tparam[opt] table env as for `program`
-- @tparam[opt] table prefix words before the interpreter (`{"bwrap", …}`)
function M.start(source, env, prefix)
  local argv = {}
  for i, word in ipairs(prefix or {}) do argv[i] = word end
  argv[#argv + 1] = M.interpreter()
  argv[#argv + 1] = "-e"
  argv[#argv + 1] = "io.stdout:setvbuf 'line'; local ok, err = xpcall(function() " .. source
    .. " end, debug.traceback); if not ok then print(err) os.exit(1, true) end"
  return M.program(argv, env)
end

--- Waits for the next line. Raises after 30 s.
function Child:line()
  while true do
    local line, ended = self.process:read_line()
    if line then return line end
    if ended then return nil end
    if not task.await(self.process, core.now() + SECONDS) then error("the script neither prints nor ends", 2) end
  end
end

function Child:kill(signal)
  return self.process:kill(signal)
end

--- Waits until the script has ended.
-- @treturn integer exit code, or 128 + signal
-- @treturn string what it still printed
function Child:finish()
  local lines = {}
  for line in function() return self:line() end do lines[#lines + 1] = line end
  local deadline = core.now() + SECONDS
  while not self.process:exit_code() do
    if core.now() > deadline then error("the script does not end", 2) end
    task.sleep(0.002)
  end
  return self.process:exit_code(), table.concat(lines, "\n")
end

return M
