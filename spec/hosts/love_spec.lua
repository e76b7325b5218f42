local hosts = require "spec.support.hosts"

describe("the adapter for LÖVE", function()
  it("lets frames go on while a sandbox is busy", function()
    local folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir " .. folder))
    local function write(name, source)
      local file = assert(io.open(folder .. "/" .. name, "w"))
      file:write(source)
      file:close()
    end
    write("conf.lua", [[
      function love.conf(t)
        for _, name in ipairs { "audio", "graphics", "image", "joystick", "physics", "sound", "video", "window" } do
          t.modules[name] = false
        end
      end
    ]])
    write("main.lua", [[
      local opensandbox, scenario = require "opensandbox", require "spec.support.host_scenario"
      function love.update() scenario.tick() end
      function love.load()
        opensandbox.adapters.love.start()
        scenario.start(function() love.event.quit() end)
      end
    ]])
    local env = hosts.luajit()
    env.SDL_VIDEODRIVER = "dummy"
    hosts.check(env, { "love", folder })
    os.execute("rm -r " .. folder)
  end)
end)
