local hosts = require "spec.support.hosts"

describe("the adapter for Neovim", function()
  local function check(source)
    local file = hosts.file(source)
    hosts.check(hosts.luajit(), { "nvim", "--headless", "-u", "NONE", "-i", "NONE", "-n", "-c", "luafile " .. file })
    os.remove(file)
  end

  it("lets the editor go on while a sandbox is busy", function()
    check [[
      local opensandbox, scenario = require "opensandbox", require "spec.support.host_scenario"
      opensandbox.adapters.nvim.start()
      local timer = vim.loop.new_timer()
      timer:start(0, 2, vim.schedule_wrap(scenario.tick))
      scenario.start(function()
        vim.api.nvim_buf_set_lines(0, 0, -1, true, { "handlers may call the API" })
        vim.cmd "qa!"
      end)
    ]]
  end)
end)
