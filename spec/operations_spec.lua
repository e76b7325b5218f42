-- Every operation of the OpenAPI files has an endpoint declared, and a method that users call.
local operations = require "spec.operations"
local surface = require "spec.support.surface"

describe("every operation of the OpenAPI files", function()
  local offered, declared, methods

  local function shape(plane, method, path)
    return ("%s %s %s"):format(plane, method, path:gsub("{[^}]*}", "{}"))
  end

  setup(function()
    offered, declared, methods = surface.read(), {}, {}
    for _, endpoint in ipairs(offered.endpoints) do
      local key = shape(endpoint.plane, endpoint.method, endpoint.path)
      declared[key] = declared[key] or {}
      declared[key][endpoint.id] = true
    end
    for kind, known in pairs(offered.kinds) do
      for _, name in ipairs(known.methods) do methods[kind .. ":" .. name] = true end
    end
    for _, name in ipairs(offered.functions) do methods["opensandbox." .. name] = true end
  end)

  it("has an endpoint of its name and a method", function()
    local count = 0
    for plane, id, method, path, caller in operations:gmatch("(%S+)%s+(%S+)%s+(%S+)%s+(%S+)%s+(%S+)\n") do
      local ids = declared[shape(plane, method, path)]
      assert.is_not_nil(ids, ("no endpoint for %s %s"):format(method, path))
      if id ~= "-" then assert.is_true(ids[id], ("the endpoint of %s %s is not called %s"):format(method, path, id)) end
      assert.is_true(methods[caller], ("there is no %s for %s %s"):format(caller, method, path))
      count = count + 1
    end
    assert.equal(28 + 13 + 2 + 11, count)
  end)
end)
