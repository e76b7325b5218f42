--- Calls to the REST part of a sandbox-agent server.
--
-- The state of a client, which all its parts share, says where: `target`, found again when it is stale.
local core = require "opensandbox.core"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local health = require "opensandbox.agent.health"
local problem = require "opensandbox.agent.problem"
local record = require "opensandbox.record"

local M = {}

--- The server takes no longer body.
M.BODY_LIMIT = 2 * 1024 * 1024

--- Raises where a client was closed.
function M.check_open(state)
  if state.closed then errors.raise("use of a closed agents") end
end

--- Declares an endpoint, as `opensandbox.endpoint` does.
-- @treturn function call(state of a client, options) → value or nil, err
function M.endpoint(declaration)
  declaration.plane = "agent"
  local call = endpoint(declaration)
  return function(state, options)
    M.check_open(state)
    local target, err = health.ready(state)
    if not target then return nil, err end
    local value
    value, err = call(target, options)
    if value == nil then return nil, problem.refine(err) end
    return value
  end
end

--- A rule for records whose times are in milliseconds: wire name (in snake_case) → name of the field, in seconds.
-- @tparam table names
-- @tparam[opt] table rules as for `record`
function M.record(names, rules)
  local convert = record(rules or {})
  return function(value)
    local result, wrong = convert(value)
    if wrong then return nil, wrong end
    for wire, name in pairs(names) do
      local milliseconds = result[wire]
      if type(milliseconds) == "number" then
        result[wire] = nil
        result[name] = record.milliseconds(milliseconds)
      end
    end
    return result
  end
end

--- A rule that takes one field of an answer.
function M.field(name, rule)
  return function(value)
    if type(value) ~= "table" or value[name] == nil then return nil, ("has no %s"):format(name) end
    return rule(value[name])
  end
end

--- Makes methods of a part of a client; each gets the client's state.
-- @tparam string kind
-- @tparam table functions name → function(state, …)
-- @tparam[opt] table fields names of the state that users may read
function M.part(kind, functions, fields)
  local methods = { __fields = fields }
  for name, fn in pairs(functions) do
    methods[name] = function(self, ...) return fn(core.state(self, kind), ...) end
  end
  core.methods(kind, methods)
end

return M
