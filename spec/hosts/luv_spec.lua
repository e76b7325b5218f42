local hosts = require "spec.support.hosts"
local script = require "spec.support.script"

describe("the adapter for luv", function()
  it("lets a loop of libuv go on while a sandbox is busy", function()
    local file = hosts.file [[
      local opensandbox, scenario, uv = require "opensandbox", require "spec.support.host_scenario", require "luv"
      opensandbox.adapters.luv.start()
      local timer = uv.new_timer()
      timer:start(0, 2, scenario.tick)
      scenario.start(function()
        timer:close()
        opensandbox.adapters.luv.stop()
      end)
      uv.run()
    ]]
    hosts.check({}, { script.interpreter(), file })
    os.remove(file)
  end)
end)
