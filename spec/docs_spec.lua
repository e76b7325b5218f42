-- Every public method and function has its comment, from which LDoc makes the pages (`ldoc .`), in a file that config.ld names.
local surface = require "spec.support.surface"

describe("the documentation", function()
  local root = debug.getinfo(1, "S").source:match("^@(.*)spec/docs_spec%.lua$")
  local documented = {} -- file → text

  -- The same methods as the store in memory has, which has the comments.
  local ELSEWHERE = { redis_store = true }

  local function read(path)
    local file = assert(io.open(root .. path, "rb"))
    local text = file:read("*a")
    file:close()
    return text
  end

  setup(function()
    for path in read("config.ld"):gmatch('"(lua/opensandbox/[%w_/]+%.lua)"') do documented[path] = read(path) end
  end)

  --- Does a definition that matches the pattern stand behind a comment (or is named in one)?
  local function has_comment(text, holder, name)
    if text:find("\n%-%- @function " .. holder .. ":" .. name .. "\n") then return true end
    for before in text:gmatch("([^\n]*)\nfunction " .. holder .. "[:.]" .. name .. "%(") do
      if before:find("^%-%-") then return true end
    end
    return false
  end

  it("tells of every method", function()
    for kind, known in pairs(surface.read().kinds) do
      local file, holder
      for _, text in pairs(documented) do
        local found = text:match('core%.methods%("' .. kind .. '", ([%w_]+)')
        if found then file, holder = text, found end
      end
      assert.is_not_nil(file, "config.ld names no file with " .. kind)
      for _, name in ipairs(ELSEWHERE[kind] and {} or known.methods) do
        assert.is_true(has_comment(file, holder, name), ("%s:%s has no comment"):format(kind, name))
      end
    end
  end)

  it("compares the SDKs, and names a spec that is there for each yes", function()
    local rows = 0
    for row in read("docs/parity.md"):gmatch("\n|([^\n]*)|") do
      local feature, lua = row:match("^ (.-) |"), row:match("| ([^|]*) $")
      if lua and lua:find("^yes") then
        rows = rows + 1
        for name in lua:match(": ([^:]*)$"):gmatch("[%w_/]+") do
          local path = root .. "spec/" .. name
          local file = io.open(path .. "_spec.lua", "rb") or io.open(path, "rb")
          assert.is_not_nil(file, ("%s: no spec %s"):format(feature, name))
          file:close()
        end
      end
    end
    assert.is_true(rows > 40)
  end)

  it("tells of every function of the module", function()
    local init = documented["lua/opensandbox/init.lua"]
    for name, module, member in init:gmatch('\n  ([%w_]+) = { "([%w_]+)", "([%w_]+)" }') do
      local text = documented[("lua/opensandbox/%s.lua"):format(module)] or read(("lua/opensandbox/%s.lua"):format(module))
      local is_value = not text:find("\nfunction M." .. member .. "(", 1, true)
      assert.is_true(is_value or has_comment(text, "M", member), name)
    end
  end)
end)
