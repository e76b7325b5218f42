-- Uses the installed rock: everything has to come from the tree given, the programs of the embedded runtime too.
local tree = arg[1]
local opensandbox = require "opensandbox"
for _, name in ipairs { "opensandbox", "opensandbox.core" } do
  local path = assert(package.searchpath(name, package.path) or package.searchpath(name, package.cpath))
  assert(path:sub(1, #tree) == tree, name .. " was loaded from " .. path)
end
local sandbox = assert(opensandbox.create())
local execution = assert(sandbox.commands:run("echo from the rock"))
assert(execution.exit_code == 0)
print(execution.stdout)
assert(sandbox:kill())
sandbox:close()
