--- Runs Lua scripts in processes of their own, for what an environment, an end of a Lua state or a signal does:
--
--     local output, ok = script.run("print(os.getenv \"A\")", { A = "1" })   --> "1\n", true
local M = {}

local function quote(text)
  return "'" .. text:gsub("'", "'\\''") .. "'"
end

--- Writes a temporary file; the caller removes it.
function M.file(content)
  local name = os.tmpname()
  local file = assert(io.open(name, "wb"))
  assert(file:write(content))
  file:close()
  return name
end

--- Writes a temporary program for /bin/sh; the caller removes it.
function M.program(content)
  local name = M.file("#!/bin/sh\n" .. content)
  os.execute("chmod +x " .. name)
  return name
end

--- Runs a script under this Lua's modules.
-- @tparam string text
-- @tparam[opt] table env variables to set; false takes one away
-- @treturn string what it wrote to stdout and stderr
-- @treturn boolean did it end with status 0?
function M.run(text, env)
  local name = M.file(text)
  local words = { "env" }
  for variable, value in pairs(env or {}) do
    if value == false then table.insert(words, 2, "-u " .. variable) end
    if value then words[#words + 1] = quote(variable .. "=" .. value) end
  end
  words[#words + 1] = quote("LUA_PATH=" .. package.path)
  words[#words + 1] = quote("LUA_CPATH=" .. package.cpath)
  local pipe = io.popen(("%s lua5.4 %s 2>&1; echo $?"):format(table.concat(words, " "), name))
  local output = pipe:read("*a")
  pipe:close()
  os.remove(name)
  local said, status = output:match("^(.-)(%d+)\n$")
  return said, status == "0"
end

return M
