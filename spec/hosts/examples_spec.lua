-- The examples of hosts, run in these hosts.
local hosts = require "spec.support.hosts"
local script = require "spec.support.script"

local function run(env, argv)
  local code, output = script.program(argv, env):finish()
  assert.equal(0, code, output)
  return output
end

describe("the example", function()
  it("of a C program runs its agent between frames", function()
    local folder = assert(package.cpath:match "([^;]*)/lua/%?%.so")
    local output = run({}, { folder .. "/bin/embed", "examples/embed/agent.lua" })
    assert.matches("attempt 1: line 5\nattempt 1 failed: .*nocommand.*\nattempt 2: line 1\n", output)
    assert.matches("the agent is done\n%d+ frames, the worst took %d+%.%d+ ms", output)
  end)

  it("for Neovim runs the buffer, its output live in a split, and stops it", function()
    local file = hosts.file [[
      local function output() return table.concat(vim.api.nvim_buf_get_lines(vim.fn.bufnr "sandbox output", 0, -1, true), "|") end
      local function await(text) assert(vim.wait(20000, function() return output():find(text, 1, true) ~= nil end, 5), text) end
      vim.api.nvim_buf_set_lines(0, 0, -1, true, { "echo one", "echo two >&2", "exit 3" })
      vim.bo.filetype = "sh"
      vim.cmd "SandboxRun"
      await "-- exit code 3"
      io.stdout:write(output(), "\n")
      vim.cmd "1,1SandboxRun"
      await "-- exit code 0"
      io.stdout:write(output(), "\n")
      vim.api.nvim_buf_set_lines(0, 0, -1, true, { "echo begun; sleep 600" })
      vim.cmd "SandboxRun"
      await "begun"
      vim.cmd "SandboxStop"
      vim.cmd "qa!"
    ]]
    local output = run(hosts.luajit(), {
      "nvim", "--headless", "-u", "NONE", "-i", "NONE", "-n", "--cmd", "set rtp+=examples/nvim", "-c", "runtime plugin/sandbox_run.lua",
      "-c", "luafile " .. file,
    })
    os.remove(file)
    assert.truthy(output:find("one|two|-- exit code 3", 1, true) or output:find("two|one|-- exit code 3", 1, true), output)
    assert.truthy(output:find("one|-- exit code 0", 1, true), output)
  end)

  it("for LÖVE goes on while its command streams, and ends it with the window", function()
    local folder = hosts.love [[
      dofile "examples/love/main.lua"
      local opensandbox, update = require "opensandbox", love.update
      local frames = 0
      function love.update(dt)
        update(dt)
        frames = frames + 1
        if frames == 300 then love.event.quit() end
      end
      local quit = love.quit
      function love.quit()
        local goes_on = quit()
        if not goes_on then print(opensandbox.manager({ connection = { domain = "local" } }):list().pagination.total_items) end
        return goes_on
      end
    ]]
    local env = hosts.luajit()
    env.SDL_VIDEODRIVER = "dummy"
    assert.equal("0", run(env, { "love", folder }))
    os.execute("rm -r " .. folder)
  end)
end)
