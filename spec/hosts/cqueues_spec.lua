local hosts = require "spec.support.hosts"
local script = require "spec.support.script"

describe("the adapter for cqueues", function()
  local function check(source)
    local file = hosts.file(([[
      local cqueues, opensandbox, scenario = require "cqueues", require "opensandbox", require "spec.support.host_scenario"
      local controller, going = cqueues.new(), true
      opensandbox.adapters.cqueues.start { loop = controller }
      local function finish()
        going = false
        opensandbox.adapters.cqueues.stop()
      end
      controller:wrap(function()
        while going do
          scenario.tick()
          cqueues.sleep(0.002)
        end
      end)
      %s
      assert(controller:loop())
    ]]):format(source))
    hosts.check({}, { script.interpreter(), file })
    os.remove(file)
  end

  it("lets many coroutines and tasks wait at once", function()
    local file = hosts.file [[
      local cqueues, opensandbox, scenario = require "cqueues", require "opensandbox", require "spec.support.host_scenario"
      local controller = cqueues.new()
      controller:wrap(function()
        opensandbox.adapters.cqueues.start()
        scenario.crowd(function(fn) controller:wrap(fn) end)
        opensandbox.adapters.cqueues.stop()
      end)
      assert(controller:loop())
    ]]
    hosts.expect("crowd 0", {}, { script.interpreter(), file })
    os.remove(file)
  end)

  it("lets a controller go on while a sandbox is busy", function()
    check "scenario.start(finish)"
  end)

  it("lets calls outside tasks wait in their coroutine", function()
    check [[
      controller:wrap(function()
        scenario.work()
        scenario.report(opensandbox.spawn(function() end), finish)
      end)
    ]]
  end)
end)
