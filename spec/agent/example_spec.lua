local agent_server = require "spec.support.agent_server"
local core = require "opensandbox.core"
local task = require "opensandbox.task"

local missing = agent_server.missing()

describe("examples/agent_session.lua", missing and function() it("needs the server", function() pending(missing) end) end or function()
  teardown(function() agent_server.clean() end)

  local function run(prompt, keys)
    local _, env = agent_server.home()
    local list = { "PATH=" .. os.getenv "PATH", "LUA_PATH=" .. package.path, "LUA_CPATH=" .. package.cpath, "PWD=/tmp",
      "SANDBOX_AGENT_BIN=" .. agent_server.binary() }
    for name, value in pairs(env) do list[#list + 1] = name .. "=" .. value end
    local here = debug.getinfo(1, "S").source:match "^@(.*)/spec/agent/example_spec.lua$" or "."
    local process = assert(core.process { argv = { _G.jit and "luajit" or "lua" .. _VERSION:match "%d%.%d",
      here .. "/examples/agent_session.lua", "mock", prompt }, env = list, input = keys })
    local lines = {}
    while true do
      local line, ended = process:read_line()
      if line then lines[#lines + 1] = line
      elseif ended then break
      else assert(task.await(process, core.now() + 20), "the example hangs") end
    end
    return table.concat(lines, "\n") .. "\n"
  end

  it("shows a turn with a permission from the keyboard, and its history", function()
    local transcript = run("permission", "once\n")
    for _, part in ipairs {
      "session %x+%-", "you:   permission\n", "tool:  Write hello.txt pending\n",
      "the agent asks: Write hello.txt%? %(once, always, reject%) ",
      "tool:  tool%-%d+ completed\n", "agent: permission:a1\n", "the turn ended: end_turn\n", "   1 client session/new\n",
      "agent  session/request_permission\n",
    } do
      assert.truthy(transcript:find(part), part .. " in\n" .. transcript)
    end
  end)

  it("shows what was rejected, and errors", function()
    assert.truthy(run("permission", "no\n"):find("agent: permission:r1\n", 1, true))
    assert.truthy(run("error", "\n"):find("boom", 1, true))
  end)
end)
