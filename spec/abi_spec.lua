local script = require "spec.support.script"

describe("a C module", function()
  --- The folder of a build for another Lua than the one that runs.
  local function other_build()
    if _VERSION ~= "Lua 5.1" then
      return assert(os.getenv "OPENSANDBOX_TEST_JIT", "OPENSANDBOX_TEST_JIT names no build for LuaJIT: run me by ./dev test"), "5.1"
    end
    return os.getenv("OPENSANDBOX_RUNTIME"):match "^(.*)/bin/", "5.4"
  end

  it("built for another Lua is named, with what it was built for and what is needed", function()
    local folder, version = other_build()
    local child = script.start([[print(select(2, pcall(require, "opensandbox.core")))]], { LUA_CPATH = folder .. "/lua/?.so" })
    local output = select(2, child:finish())
    assert.truthy(output:find(folder .. "/lua/opensandbox/core.so was built for Lua " .. version .. ", and this is ", 1, true), output)
    assert.truthy(output:find("-DOSB_LUA=" .. (_G.jit and "jit" or _VERSION:match("%d%.%d")), 1, true), output)
  end)

  it("that is missing or broken is named too", function()
    local name = os.tmpname()
    os.remove(name)
    assert(os.execute(("mkdir -p %s/opensandbox && echo no module > %s/opensandbox/core.so"):format(name, name)))
    local function problem(cpath)
      local child = script.start(([[
        package.cpath = "%s"
        print(select(2, pcall(require, "opensandbox.core")))
      ]]):format(cpath))
      return select(2, child:finish())
    end
    local missing, broken = problem "/nowhere/?.so", problem(name .. "/?.so")
    os.execute("rm -r " .. name)
    assert.equal("opensandbox: the C module was not found (looked for /nowhere/opensandbox/core.so)", missing)
    assert.truthy(broken:find("opensandbox: " .. name .. "/opensandbox/core.so cannot be loaded: ", 1, true), broken)
  end)
end)
