--[[ What the library offers, found out by loading all of it in a process of its own.

  local surface = require("spec.support.surface").read()
  surface.kinds.sandbox          -- {methods = {name, …}, fields = {name, …}}
  surface.options["files:list"]  -- {name = {types, …}, …}: every declared options table
  surface.functions              -- names in `require "opensandbox"`
  surface.endpoints              -- list of {id=, plane=, method=, path=}
  surface.agent                  -- {kinds=, functions=} of opensandbox.agent ]]
local cjson = require "cjson"
local core = require "opensandbox.core"
local script = require "spec.support.script"

local M = {}

local SOURCE = [[
  local cjson = require "cjson"
  local core = require "opensandbox.core"
  local kinds, methods_of = {}, core.methods
  core.methods = function(kind, methods, metamethods)
    local known = kinds[kind] or { methods = {}, fields = {} }
    for name, value in pairs(methods) do
      if type(value) == "function" then known.methods[#known.methods + 1] = name end
    end
    for name in pairs(methods.__fields or {}) do known.fields[#known.fields + 1] = name end
    kinds[kind] = known
    return methods_of(kind, methods, metamethods)
  end
  for module in (os.getenv "MODULES"):gmatch "%S+" do require(module) end
  local options, functions = {}, {}
  for name, declaration in pairs(require("opensandbox.options").declared) do
    options[name] = {}
    for field, rule in pairs(declaration.fields) do
      options[name][field] = type(rule.type) == "table" and rule.type or { rule.type }
    end
  end
  local _, places = debug.getupvalue(getmetatable(require "opensandbox").__index, 1)
  for name in pairs(places) do functions[#functions + 1] = name end
  local endpoints = {}
  for _, declaration in pairs(require("opensandbox.endpoint").declared) do
    endpoints[#endpoints + 1] = {
      id = declaration.id, plane = declaration.plane, method = declaration.method, path = declaration.path,
    }
  end
  local own = kinds
  kinds = {}
  for module in (os.getenv "AGENT_MODULES"):gmatch "%S+" do require(module) end
  local agent, agent_functions = kinds, {}
  local _, agent_places = debug.getupvalue(getmetatable(require "opensandbox.agent").__index, 1)
  for name in pairs(agent_places) do agent_functions[#agent_functions + 1] = name end
  print(cjson.encode {
    agent = { kinds = agent, functions = agent_functions }, kinds = own, options = options, functions = functions, endpoints = endpoints,
  })
]]

--- The modules of one folder of the library.
local function modules_of(folder, prefix)
  local names = {}
  for _, name in ipairs(assert(core.path_entries(folder))) do
    local module = name:match("^([%w_]+)%.lua$")
    if module and module ~= "init" then names[#names + 1] = prefix .. "." .. module end
  end
  return names
end

function M.read()
  local here = debug.getinfo(1, "S").source:match("^@(.*)spec/support/surface%.lua$")
  local modules = modules_of(here .. "lua/opensandbox", "opensandbox")
  local agent_modules = modules_of(here .. "lua/opensandbox/agent", "opensandbox.agent")
  local child = script.start(SOURCE, { MODULES = table.concat(modules, " "), AGENT_MODULES = table.concat(agent_modules, " ") })
  local line = child:line()
  assert(child:finish() == 0, line)
  return cjson.decode(line)
end

return M
