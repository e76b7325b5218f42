--- Conversion of decoded JSON bodies to the records of the API: names in snake_case, points in time as Unix seconds, `null` as nil,
-- and the server's own table in `.raw`.
--
--     local snapshot = record { createdAt = record.time, status = record { lastTransitionAt = record.time }, metadata = record.verbatim }
--     local value, problem = snapshot(decoded)
--
-- Fields that are not declared are kept too (a newer server's), by the general rules.
local datetime = require "opensandbox.datetime"
local json = require "opensandbox.json"

local M = {}

--- Changes a wire name to snake_case.
function M.snake(name)
  return (name:gsub("(%l)(%u)", "%1_%2"):gsub("(%u)(%u%l)", "%1_%2"):lower())
end

--- Changes a name in snake_case to the wire's camelCase.
function M.camel(name)
  return (name:gsub("_(%w)", string.upper))
end

--- Rule: any value; names inside it become snake_case.
local function general(value)
  if type(value) ~= "table" then return value end
  local result = {}
  for key, item in pairs(value) do
    if item ~= json.null then result[type(key) == "string" and M.snake(key) or key] = general(item) end
  end
  return result
end

--- Rule: a value whose keys users chose; they stay as they are.
function M.verbatim(value)
  if type(value) ~= "table" then return value end
  local result = {}
  for key, item in pairs(value) do
    if item ~= json.null then result[key] = M.verbatim(item) end
  end
  return result
end

--- Rule: an ISO 8601 time, as Unix seconds.
function M.time(value)
  local time = type(value) == "string" and datetime.parse_iso(value)
  if not time then return nil, "is not a time" end
  return time
end

--- Rule: milliseconds, as seconds.
function M.milliseconds(value)
  if type(value) ~= "number" then return nil, "is not a number" end
  local seconds = value / 1000
  return value % 1000 == 0 and math.floor(seconds) or seconds
end

--- Rule: the decimal digits of an octal file mode (755), as a string.
function M.mode(value)
  if type(value) ~= "number" then return nil, "is not a number" end
  return ("%d"):format(value)
end

--- Rule: a list of what another rule reads.
function M.list(rule)
  return function(value)
    if type(value) ~= "table" then return nil, ("is a %s instead of a list"):format(type(value)) end
    local result = {}
    for i, item in ipairs(value) do
      local converted, problem = rule(item)
      if problem then return nil, ("[%d] %s"):format(i, problem) end
      result[i] = converted
    end
    return result
  end
end

--- Rule: an object whose keys users chose, of what another rule reads.
function M.map(rule)
  return function(value)
    if type(value) ~= "table" then return nil, ("is a %s instead of an object"):format(type(value)) end
    local result = {}
    for key, item in pairs(value) do
      local converted, problem = rule(item)
      if problem then return nil, ("%s %s"):format(tostring(key), problem) end
      result[key] = converted
    end
    return result
  end
end

local function convert(rules, value)
  if type(value) ~= "table" then return nil, ("is a %s instead of an object"):format(type(value)) end
  local result = {}
  for key, item in pairs(value) do
    if type(key) ~= "string" then return nil, "is a list instead of an object" end
    if item ~= json.null then
      local converted, problem = (rules[key] or general)(item)
      if problem then return nil, ("%s %s"):format(key, problem) end
      result[M.snake(key)] = converted
    end
  end
  result.raw = value
  return result
end

--- Makes a record's rule.
-- @tparam table rules wire name → rule
-- @treturn function rule: decoded value → record, or nil and what is wrong with it
setmetatable(M, { __call = function(_, rules)
  return function(value) return convert(rules, value) end
end })

--- Writes a table of options as the wire has it: names in camelCase, in nested tables and lists too.
-- @tparam table options
-- @treturn table
function M.to_wire(options)
  local result = {}
  for key, value in pairs(options) do
    result[type(key) == "string" and M.camel(key) or key] = type(value) == "table" and M.to_wire(value) or value
  end
  if json.is_array(options) then return json.array(result) end
  return result
end

return M
