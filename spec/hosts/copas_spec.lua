local hosts = require "spec.support.hosts"
local script = require "spec.support.script"

describe("the adapter for Copas", function()
  -- Debian has it for Lua 5.1 and 5.2 only
  local has_copas = pcall(require, "copas")

  local function run(look, source)
    local file = hosts.file(source)
    look(has_copas and {} or hosts.luajit(), { has_copas and script.interpreter() or "luajit", file })
    os.remove(file)
  end

  -- This Copas has no timers: each turn of its loop is a tick
  local function check(source)
    run(hosts.check, ([[
      local copas, opensandbox, scenario = require "copas", require "opensandbox", require "spec.support.host_scenario"
      local going = true
      opensandbox.adapters.copas.start()
      local function finish()
        going = false
        opensandbox.adapters.copas.stop()
      end
      %s
      while going do
        copas.step(0.002)
        scenario.tick()
      end
    ]]):format(source))
  end

  it("lets many threads and tasks wait at once", function()
    run(function(...) hosts.expect("crowd 0", ...) end, [[
      local copas, opensandbox, scenario = require "copas", require "opensandbox", require "spec.support.host_scenario"
      local going = true
      opensandbox.adapters.copas.start()
      copas.addthread(function()
        scenario.crowd(copas.addthread)
        opensandbox.adapters.copas.stop()
        going = false
      end)
      while going do copas.step() end -- no time-out: what wakes it is the descriptor alone
    ]])
  end)

  it("lets its loop go on while a sandbox is busy", function()
    check "scenario.start(finish)"
  end)

  it("lets calls outside tasks wait in their thread", function()
    check [[
      copas.addthread(function()
        scenario.work()
        scenario.report(opensandbox.spawn(function() end), finish)
      end)
    ]]
  end)
end)
