local hosts = require "spec.support.hosts"

describe("the adapter for LÖVE", function()
  it("lets frames go on while a sandbox is busy", function()
    local folder = hosts.love [[
      local opensandbox, scenario = require "opensandbox", require "spec.support.host_scenario"
      function love.update() scenario.tick() end
      function love.load()
        opensandbox.adapters.love.start()
        scenario.start(function() love.event.quit() end)
      end
    ]]
    local env = hosts.luajit()
    env.SDL_VIDEODRIVER = "dummy"
    hosts.check(env, { "love", folder })
    os.execute("rm -r " .. folder)
  end)
end)
