-- What is in library/ says of every object, method, field and option what the library itself has, no more and no less.
local surface = require "spec.support.surface"

describe("the type stubs", function()
  local offered, classes, methods, functions

  -- Objects whose parts are made by their metamethods.
  local MADE_AT_READING = { agent_config = true, agent_desktop = true }

  local function class_of_kind(kind)
    return "opensandbox." .. kind:gsub("^%l", string.upper):gsub("_(%l)", string.upper)
  end

  local function set(list)
    local result = {}
    for _, name in ipairs(list) do result[name] = true end
    return result
  end

  --- Names in one set that the other lacks.
  local function missing(from, present)
    local names = {}
    for name in pairs(from) do
      if not present[name] then names[#names + 1] = name end
    end
    table.sort(names)
    return table.concat(names, ", ")
  end

  --- Fields of a class and of those it extends.
  local function fields_of(name)
    local class = classes[name]
    if not class then return {} end
    local fields = {}
    for _, parent in ipairs(class.parents) do
      for field in pairs(fields_of(parent)) do fields[field] = true end
    end
    for field in pairs(class.fields) do fields[field] = true end
    return fields
  end

  setup(function()
    offered = surface.read()
    classes, methods, functions = {}, {}, { opensandbox = {}, agent = {} }
    local current
    local function read(line, module)
      local class, parents = line:match("^%-%-%-@class ([%w_.]+):?%s*(.*)$")
      local field = line:match("^%-%-%-@field ([%w_]+)")
      local object, method = line:match("^function ([%w_]+):([%w_]+)%(")
      local name = line:match("^function " .. module .. "%.([%w_]+)%(")
      if class then
        current = { parents = {}, fields = {} }
        classes[class] = current
        for parent in parents:gmatch("[%w_.]+") do current.parents[#current.parents + 1] = parent end
      elseif field then
        current.fields[field] = true
      elseif method then
        methods[object] = methods[object] or {}
        methods[object][method] = true
      elseif name then
        functions[module][name] = true
      end
    end
    local library = debug.getinfo(1, "S").source:match("^@(.*)spec/stubs_spec%.lua$") .. "library/"
    for line in io.lines(library .. "opensandbox.lua") do read(line, "opensandbox") end
    for line in io.lines(library .. "opensandbox/agent.lua") do read(line, "agent") end
    for kind, known in pairs(offered.agent.kinds) do offered.kinds[kind] = known end
    methods.loop = nil -- an object of the C core
    for name in pairs(methods.memory_store) do methods.redis_store[name] = true end -- it extends the other
  end)

  it("have every object's methods", function()
    for kind, known in pairs(offered.kinds) do
      assert.equal("", missing(set(known.methods), methods[kind] or {}), kind)
      assert.equal("", missing(methods[kind] or {}, set(known.methods)), kind)
    end
    for kind in pairs(methods) do assert.is_not_nil(offered.kinds[kind], kind) end
  end)

  it("have every object's fields", function()
    for kind, known in pairs(offered.kinds) do
      local class = classes[class_of_kind(kind)]
      if MADE_AT_READING[kind] then
        assert.is_not_nil(class)
      elseif class then
        assert.equal("", missing(set(known.fields), class.fields), kind)
        assert.equal("", missing(class.fields, set(known.fields)), kind)
      else
        assert.equal(0, #known.fields, kind)
      end
    end
  end)

  it("have every option", function()
    local count = 0
    for name, fields in pairs(offered.options) do
      local class = "opensandbox.options." .. name:gsub(":", "."):gsub(" ", "_")
      assert.is_not_nil(classes[class], "no class " .. class)
      assert.equal("", missing(fields, fields_of(class)), class)
      assert.equal("", missing(fields_of(class), fields), class)
      count = count + 1
    end
    for class in pairs(classes) do
      if class:find("^opensandbox%.options%.") then count = count - 1 end
    end
    assert.equal(0, count)
  end)

  it("have every function of the modules", function()
    local known, own = set(offered.functions), functions.opensandbox
    for field in pairs(classes.opensandbox.fields) do own[field] = true end
    own._VERSION = nil
    assert.equal("", missing(known, own))
    assert.equal("", missing(own, known))
    assert.equal("", missing(set(offered.agent.functions), functions.agent))
    assert.equal("", missing(functions.agent, set(offered.agent.functions)))
  end)

  it("are Lua", function()
    local here = debug.getinfo(1, "S").source:match("^@(.*)spec/stubs_spec%.lua$")
    assert.is_function(loadfile(here .. "library/opensandbox.lua"))
    assert.is_function(loadfile(here .. "library/opensandbox/agent.lua"))
  end)
end)
