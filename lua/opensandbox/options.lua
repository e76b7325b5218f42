--- Checks tables of options against declarations.
--
--     local check = options.declare("commands:run", {
--       cwd = { type = "string" }, timeout = { type = { "duration", "false" }, default = 30 }, env = { type = "map", of = "string" },
--     }, { requires = { gid = "uid" } })
--     local opts = check(user_table)      -- a new table with defaults; anything wrong raises at the user's line
--
-- A field's declaration: `type` (a name or a list of names, see TYPES; any other name is a kind of this library's objects, as
-- "connection"), `default`, `required`, `of` (type of each value of a "list" or "map"), `fields` (a declaration for a table), `items` (a
-- declaration for each table of a list).
local errors = require "opensandbox.errors"

local M = {}

--- Every declaration by its name: `{fields=, rules=}`.
M.declared = {}

local function is_callable(value)
  if type(value) == "function" then return true end
  local metatable = getmetatable(value)
  return type(metatable) == "table" and rawget(metatable, "__call") ~= nil
end

local function is_finite(value)
  return type(value) == "number" and value == value and value ~= math.huge and value ~= -math.huge
end

local function is_list(value)
  if type(value) ~= "table" then return false end
  local count = 0
  for key in pairs(value) do
    if type(key) ~= "number" then return false end
    count = count + 1
  end
  return count == #value
end

local function is_map(value)
  if type(value) ~= "table" then return false end
  for key in pairs(value) do
    if type(key) ~= "string" then return false end
  end
  return true
end

-- Types: a test, how messages call it, and why a value of the right Lua type may still be refused.
local TYPES = {
  string = { test = function(v) return type(v) == "string" end },
  header = { -- goes into a header or an address: no control characters
    label = "string", lua = "string", test = function(v) return type(v) == "string" and not v:find("%c") end,
    refusal = "must not contain control characters",
  },
  number = { lua = "number", test = is_finite, refusal = "must be a finite number" },
  integer = { lua = "number", label = "whole number", test = function(v) return is_finite(v) and v == math.floor(v) end,
    refusal = "must be a whole number" },
  duration = { -- seconds
    label = "number", lua = "number", test = function(v) return is_finite(v) and v >= 0 end,
    refusal = "must be a finite number of seconds, not negative",
  },
  boolean = { test = function(v) return type(v) == "boolean" end },
  ["false"] = { test = function(v) return v == false end },
  ["true"] = { test = function(v) return v == true end },
  ["function"] = { test = is_callable },
  table = { test = function(v) return type(v) == "table" end },
  userdata = { test = function(v) return type(v) == "userdata" end },
  file = { label = "open file", test = function(v) return io.type(v) == "file" end },
  list = { lua = "table", test = is_list, refusal = "must be a list without holes or named fields" },
  map = { lua = "table", test = is_map, refusal = "must have names (strings) as keys" },
  null = { label = "opensandbox.null", test = function(v) return type(v) == "userdata" and v == require("opensandbox.json").null end },
}

local function object_kind(value)
  return type(value) == "userdata" and require("opensandbox.core").kind(value) or nil
end

--- What a value is called in messages.
local function describe(value)
  if type(value) == "number" and not is_finite(value) then return tostring(value) end
  return object_kind(value) or type(value)
end

local function as_list(types)
  return type(types) == "table" and types or { types }
end

--- Tests a value against type names. On failure: false and the end of a sentence.
local function matches(value, types)
  local labels, refusal = {}, nil
  types = as_list(types)
  for i, name in ipairs(types) do
    local rule = TYPES[name]
    if rule then
      if rule.test(value) then return true end
      if rule.refusal and type(value) == rule.lua then refusal = rule.refusal end
      labels[i] = rule.label or name
    else
      if object_kind(value) == name then return true end
      labels[i] = name
    end
  end
  if refusal then return false, refusal end
  local last = table.remove(labels)
  local expected = #labels > 0 and table.concat(labels, ", ") .. " or " .. last or last
  return false, ("must be a %s, got %s"):format(expected, describe(value))
end

--- The number of single-letter changes (or swaps of neighbours) that turn one word into the other.
local function distance(a, b)
  local before, previous = {}, {}
  for j = 0, #b do previous[j] = j end
  for i = 1, #a do
    local current = { [0] = i }
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      current[j] = math.min(previous[j] + 1, current[j - 1] + 1, previous[j - 1] + cost)
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        current[j] = math.min(current[j], before[j - 2] + 1)
      end
    end
    before, previous = previous, current
  end
  return previous[#b]
end

local function sorted_names(fields)
  local names = {}
  for name in pairs(fields) do names[#names + 1] = name end
  table.sort(names)
  return names
end

local function raise_unknown(key, fields, prefix)
  if type(key) ~= "string" then
    errors.raise(("unknown option %s%s: options are named"):format(prefix, tostring(key)))
  end
  local best, best_distance
  for _, name in ipairs(sorted_names(fields)) do
    local d = distance(key:lower(), name)
    if d <= math.max(1, math.floor(#name / 3)) and (not best_distance or d < best_distance) then best, best_distance = name, d end
  end
  local hint = best and ("did you mean '%s%s'?"):format(prefix, best) or "known: " .. table.concat(sorted_names(fields), ", ")
  errors.raise(("unknown option '%s%s' (%s)"):format(prefix, key:sub(1, 60), hint))
end

local function copy(value)
  if type(value) ~= "table" then return value end
  local result = {}
  for key, item in pairs(value) do result[key] = copy(item) end
  return result
end

local check_fields

local function check_value(name, value, field)
  local ok, problem = matches(value, field.type)
  if not ok then errors.raise(("option '%s' %s"):format(name, problem)) end
  if type(value) ~= "table" then return value end
  if field.of then
    for key, item in pairs(value) do
      local place = type(key) == "number" and ("%s[%d]"):format(name, key) or ("%s.%s"):format(name, key)
      ok, problem = matches(item, field.of)
      if not ok then errors.raise(("option '%s' %s"):format(place, problem)) end
    end
    return copy(value)
  end
  if field.fields then return check_fields(value, field.fields, name .. ".") end
  if field.items then
    local result = {}
    for i, item in ipairs(value) do
      local place = ("%s[%d]"):format(name, i)
      if type(item) ~= "table" then errors.raise(("option '%s' must be a table, got %s"):format(place, describe(item))) end
      result[i] = check_fields(item, field.items, place .. ".")
    end
    return result
  end
  return value
end

function check_fields(given, fields, prefix)
  for key in pairs(given) do
    if not fields[key] then raise_unknown(key, fields, prefix) end
  end
  local result = {}
  for name, field in pairs(fields) do
    local value = given[name]
    if value ~= nil then
      result[name] = check_value(prefix .. name, value, field)
    elseif field.required then
      errors.raise(("option '%s%s' is missing"):format(prefix, name))
    else
      result[name] = copy(field.default)
    end
  end
  return result
end

local function check_rules(given, rules)
  for _, group in ipairs(rules.exclusive or {}) do
    local first
    for _, name in ipairs(group) do
      if given[name] ~= nil and given[name] ~= false then
        if first then errors.raise(("options '%s' and '%s' cannot be used together"):format(first, name)) end
        first = name
      end
    end
  end
  for name, needed in pairs(rules.requires or {}) do
    if given[name] ~= nil and given[needed] == nil then errors.raise(("option '%s' needs '%s'"):format(name, needed)) end
  end
end

--- Declares the options of a call.
-- @tparam string name of the call, as users write it (`"commands:run"`)
-- @tparam table fields option name → its declaration
-- @tparam[opt] table rules `exclusive` (a list of groups of which at most one may be given), `requires` (option → the option it needs)
-- @treturn function check(table or nil) → a new table with defaults
function M.declare(name, fields, rules)
  rules = rules or {}
  M.declared[name] = { fields = fields, rules = rules }
  return function(given)
    if given == nil then given = {} end
    if type(given) ~= "table" then
      errors.raise(("the options of %s must be a table, got %s"):format(name, describe(given)))
    end
    local result = check_fields(given, fields, "")
    check_rules(given, rules)
    return result
  end
end

--- Checks one argument that is not an option; raises at the user's line.
-- @tparam string name what messages call it
-- @param value
-- @tparam string|table types as in declarations
-- @return value
function M.argument(name, value, types)
  local ok, problem = matches(value, types)
  if not ok then errors.raise(("%s %s"):format(name, problem)) end
  return value
end

return M
