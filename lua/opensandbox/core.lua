--- Loads the C module `opensandbox.core` (core.so, found by `package.cpath`), and says so where it was built for another Lua.
--
-- The loader's own message then is an undefined symbol. What the file was built for stands in it as text.
local OPENER = "luaopen_opensandbox_core"

local separator = package.config:sub(1, 1)
local here = _G.jit and ("%s (%s)"):format(_G.jit.version, _VERSION) or _VERSION

local function explain(path, file, problem)
  local built_for = file:read("*a"):match("opensandbox%.core for (Lua %d%.%d)")
  if not built_for or built_for == _VERSION then return ("opensandbox: %s cannot be loaded: %s"):format(path, problem) end
  return ("opensandbox: %s was built for %s, and this is %s: build it with cmake -DOSB_LUA=%s, or luarocks --lua-version %s"):format(path,
    built_for, here, _G.jit and "jit" or _VERSION:match("%d%.%d"), _VERSION:match("%d%.%d"))
end

local looked = {}
for template in package.cpath:gmatch("[^;]+") do
  local path = template:gsub("%?", "opensandbox" .. separator .. "core")
  looked[#looked + 1] = path
  local file = io.open(path, "rb")
  if file then
    local open, problem = package.loadlib(path, OPENER)
    local message = not open and explain(path, file, problem)
    file:close()
    if message then error(message, 0) end
    return open()
  end
end
error("opensandbox: the C module was not found (looked for " .. table.concat(looked, ", ") .. ")", 0)
