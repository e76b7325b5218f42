-- Uses the installed rock, on the Lua it was built for: everything has to come from the tree given, the programs of the embedded
-- runtime too.
local tree = arg[1]
local opensandbox = require "opensandbox"

local function find(name, path)
  for template in path:gmatch "[^;]+" do
    local place = template:gsub("%?", (name:gsub("%.", "/")))
    local file = io.open(place)
    if file then
      file:close()
      return place
    end
  end
end

for _, place in ipairs { find("opensandbox", package.path) or "nowhere", find("opensandbox.core", package.cpath) or "nowhere" } do
  assert(place:sub(1, #tree) == tree, "loaded from " .. place)
end
assert(require("opensandbox.core")._DESCRIPTION == "opensandbox.core for " .. _VERSION)
local sandbox = assert(opensandbox.create())
local execution = assert(sandbox.commands:run("echo from the rock"))
assert(execution.exit_code == 0)
print(execution.stdout .. ", with " .. _VERSION)
assert(sandbox:kill())
sandbox:close()
