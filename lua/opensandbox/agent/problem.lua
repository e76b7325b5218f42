--- Errors of the agent library: the server's answers (RFC 7807), the agents' JSON-RPC errors, and what an agent does not support.
local errors = require "opensandbox.errors"
local json = require "opensandbox.json"

local M = {}

local TYPE_CODES = {
  agent_not_installed = "not_found", session_not_found = "not_found", unsupported_agent = "invalid", token_invalid = "unauthorized",
  permission_denied = "forbidden", agent_process_exited = "unavailable", timeout = "timeout", stream_error = "io",
  desktop_dependencies_missing = "unsupported",
}

local function body_of(err)
  local body = err.body and err.body:find("^%s*{") and json.decode(err.body)
  return type(body) == "table" and body or nil
end

--- Gives the error of a request its place among the library's codes: the server answers 400 for a path that is not there, and plain
-- text where a body is too big.
-- @tparam table err of a request; it is changed
-- @treturn table err `api_code` is the last part of the problem's `type`
function M.refine(err)
  if not err.status then return err end
  local body = body_of(err)
  local name = body and type(body.type) == "string" and body.type:match("([%w_]+)$")
  err.api_code = name or err.api_code
  err.code = TYPE_CODES[name] or err.code
  if err.status == 413 then
    err.code = "limit"
  elseif name == "invalid_request" and err.message:find("not found", 1, true) then
    err.code = "not_found"
  end
  local details = body and body.details
  if type(details) == "table" then
    if type(details.exitCode) == "number" then err.exit_code = details.exitCode end
    if type(details.stderr) == "string" and details.stderr ~= "" then err.stderr = details.stderr end
  end
  err.retryable = errors.codes[err.code]
  return err
end

local RPC = {
  [-32700] = { "invalid", "parse error" }, [-32600] = { "invalid", "invalid request" },
  [-32601] = { "unsupported", "method not supported" },
  [-32602] = { "invalid", "invalid parameters" }, [-32603] = { "api", "internal error" },
  [-32000] = { "unauthorized", "authentication required" }, [-32002] = { "not_found", "resource not found" },
}

--- The error of a JSON-RPC answer.
-- @tparam table body `{code=, message=, data=}`
-- @tparam string method that was called
-- @treturn table err with `rpc` = `{code=, message=, data=}`; `api_code` is the code
function M.rpc(body, method)
  body = type(body) == "table" and body or {}
  local known = RPC[body.code] or { "api", "error" }
  local message = type(body.message) == "string" and body.message or known[2]
  local data = body.data ~= json.null and body.data or nil
  local details = type(data) == "table" and type(data.details) == "string" and ": " .. data.details or ""
  return errors.new {
    code = known[1], api_code = body.code, rpc = { code = body.code, message = message, data = data },
    message = ("the agent answered %s with an error (%s): %s%s"):format(method, known[2], message, details),
  }
end

--- The error of calls to an agent whose process ended.
function M.exited(agent, exit_code)
  local how = exit_code and ("with exit code %d"):format(exit_code) or "by a signal"
  return errors.new { code = "unavailable", api_code = "agent_process_exited", exit_code = exit_code,
    message = ("the agent '%s' ended %s"):format(agent, how) }
end

--- The error of a value that is not among those an agent allows.
-- @tparam table fields `what`, `value`, `allowed` (list), `config_id`, `category`
function M.unsupported_value(fields)
  return errors.new {
    code = "invalid", config_id = fields.config_id, category = fields.category, requested_value = fields.value,
    allowed_values = fields.allowed,
    message = ("%s '%s' is not supported (allowed: %s)"):format(fields.what, tostring(fields.value), table.concat(fields.allowed, ", ")),
  }
end

--- The error of a setting that an agent does not have.
-- @tparam string what
-- @tparam table available names of those it has
-- @tparam string field of the error that carries them
function M.unsupported(what, available, field)
  local known = #available > 0 and "available: " .. table.concat(available, ", ") or "it offers none"
  return errors.new { code = "unsupported", [field] = available, message = ("%s (%s)"):format(what, known) }
end

return M
