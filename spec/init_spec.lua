local script = require "spec.support.script"
local opensandbox = require "opensandbox"

describe("opensandbox", function()
  it("loads no other module, and no C, when it is required", function()
    local child = script.start [[
      local before = {}
      for name in pairs(package.loaded) do before[name] = true end
      require "opensandbox"
      for name in pairs(package.loaded) do
        if not before[name] then print(name) end
      end
    ]]
    assert.equal("opensandbox", child:line())
    assert.is_nil(child:line())
    assert.equal(0, child:finish())
  end)

  it("has what the API names, and nothing for what it does not know", function()
    for _, name in ipairs { "connection", "create", "connect", "resume", "with", "manager", "is_error" } do
      assert.equal("function", type(opensandbox[name]))
      assert.equal(opensandbox[name], rawget(opensandbox, name))
    end
    assert.equal(require("opensandbox.json").null, opensandbox.null)
    assert.equal(44772, opensandbox.defaults.execd_port)
    assert.equal(opensandbox._VERSION, opensandbox.defaults.version)
    assert.is_nil(opensandbox.nothing)
  end)

  it("declares endpoints as the specifications have them: each id once, with a path and a method", function()
    for _, name in ipairs { "sandbox", "manager", "files", "commands" } do require("opensandbox." .. name) end
    local seen = {}
    for id, declaration in pairs(require("opensandbox.endpoint").declared) do
      assert.equal(id, declaration.id)
      assert.matches("^/", declaration.path)
      assert.matches("^%u+$", declaration.method)
      assert.is_true(declaration.plane == "lifecycle" or declaration.plane == "execd")
      local place = declaration.method .. " " .. declaration.path .. (declaration.stream and " stream" or "")
      assert.is_nil(seen[place])
      seen[place] = true
    end
  end)
end)
