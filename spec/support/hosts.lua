--[[ Starts real hosts for the specs of adapters, and reads what host_scenario.lua prints there.

  local hosts = require "spec.support.hosts"
  hosts.check(hosts.luajit(), { "nvim", "--headless", … }) ]]
local luassert = require "luassert"
local script = require "spec.support.script"

local M = {}

local EXPECTED = "events 200000 1288894\nticked true\ncancel cancelled\ngone not_found\nfailure nil\n"
local LIMIT = 10 -- milliseconds that the host's timer may be held up
local ATTEMPTS = 3 -- on a virtual machine time is also lost where no counter tells of it; what blocks, blocks each time

--- Environment of hosts that run LuaJIT, whatever runs the tests: `OPENSANDBOX_TEST_JIT` is the folder of a build for it.
function M.luajit()
  if _G.jit then return {} end
  local folder = assert(os.getenv "OPENSANDBOX_TEST_JIT", "OPENSANDBOX_TEST_JIT names no build for LuaJIT: run me by ./dev test")
  local first = package.path:match "^(.-/lua/%?%.lua;.-/lua/%?/init%.lua;[^;]*);" -- as ./dev sets them
  return { LUA_PATH = first .. ";;", LUA_CPATH = folder .. "/lua/?.so;;" }
end

--- A temporary file with a script.
function M.file(source)
  local name = os.tmpname()
  local file = assert(io.open(name, "w"))
  file:write(source)
  file:close()
  return name
end

--- A temporary folder that LÖVE runs without a screen.
function M.love(source)
  local folder = os.tmpname()
  os.remove(folder)
  assert(os.execute("mkdir " .. folder))
  local function write(name, text)
    local file = assert(io.open(folder .. "/" .. name, "w"))
    file:write(text)
    file:close()
  end
  write("conf.lua", [[
    function love.conf(t)
      for _, name in ipairs { "audio", "graphics", "image", "joystick", "physics", "sound", "video", "window" } do
        t.modules[name] = false
      end
    end
  ]])
  write("main.lua", source)
  return folder
end

--- Runs a host that is to print `expected`.
function M.expect(expected, env, argv)
  local code, output = script.program(argv, env):finish()
  luassert.equal(expected, output)
  luassert.equal(0, code)
end

--- Runs a host until the scenario in it has come to its end, and looks at what it said.
-- @tparam table env
-- @tparam table argv
function M.check(env, argv)
  local longest
  for _ = 1, ATTEMPTS do
    local child = script.program(argv, env)
    local code, output = child:finish()
    longest = tonumber(output:match "longest ([%d.]+)")
    luassert.equal(EXPECTED, (output:gsub("longest [^\n]*$", "")))
    luassert.equal(0, code)
    if longest <= LIMIT then return end
  end
  error(("the host was held up for %.1f ms"):format(longest))
end

return M
