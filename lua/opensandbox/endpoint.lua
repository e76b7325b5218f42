--- One declaration per server endpoint: method, path, and what its answer is read as.
--
--     local get_info = endpoint { id = "getFilesInfo", plane = "execd", method = "GET", path = "/files/info",
--                                 returns = record.map(file_info) }
--     local infos, err = get_info(target, { query = { { "path", path } } })
--
-- `target` says where: `{connection=connection state, base="http://…", headers={…}}`. A failure to connect sets `target.stale`, so that
-- whoever keeps targets looks the address up again.
local errors = require "opensandbox.errors"

local M = {}

--- Every declaration, by its id.
M.declared = {}

local STALE = { dns = true, connect = true, tls = true, network = true }

--- Percent-encodes one path segment.
-- @tparam string text
-- @treturn string
function M.escape(text)
  return (tostring(text):gsub("[^%w%-._~]", function(char) return ("%%%02X"):format(char:byte()) end))
end

local function expand(path, params)
  return (path:gsub("{([%w_]+)}", function(name)
    return M.escape(assert(params and params[name], name))
  end))
end

local function merge_headers(base, own)
  local headers = {}
  for name, value in pairs(base or {}) do headers[name] = value end
  for name, value in pairs(own or {}) do headers[name] = value end
  return headers
end

local function decode(declaration, target, path, response)
  local returns = declaration.returns
  if returns == "response" then return response end
  local body = response.body or ""
  if body == "" and not returns then return true end
  local value, problem = require("opensandbox.json").decode(body)
  if value ~= nil and type(returns) == "function" then value, problem = returns(value) end
  if not problem then return value end
  return nil, errors.transport("decode", ("the answer is not what %s gives: it %s"):format(declaration.id, problem), {
    status = response.status, request_id = response.request_id, body = body:sub(1, 64 * 1024), method = declaration.method,
    url = target.base .. path,
  })
end

--- Sends a request to a target, with the target's headers.
-- @tparam table target
-- @tparam table request as for `http.call`, without `base`; it is changed
-- @tparam[opt] boolean as_stream return an open stream, as `http.stream` does
-- @return what `http.call` (or `http.stream`) returns
function M.send(target, request, as_stream)
  local http = require "opensandbox.http"
  if target.connection.closed then errors.raise("use of a closed connection") end
  request.base = target.base
  request.headers = merge_headers(target.headers, request.headers)
  local response, err = (as_stream and http.stream or http.call)(target.connection, request)
  if not response and STALE[err.code] then target.stale = true end
  return response, err
end

local function call(declaration, target, options)
  local path = expand(declaration.path, options.params)
  local request = {}
  for key, value in pairs(options) do request[key] = value end
  request.params = nil
  request.method, request.path = declaration.method, path
  if request.idempotent == nil then request.idempotent = declaration.idempotent end
  local response, err = M.send(target, request, declaration.stream)
  if not response or declaration.stream then return response, err end
  return decode(declaration, target, path, response)
end

--- Declares an endpoint.
-- @tparam table declaration
--
-- * `id` the operation's name in the server's specification
-- * `plane` `"lifecycle"`, `"execd"` or `"egress"`
-- * `method`, `path` as in the specification; `{name}` stands for `params.name` of the call
-- * `returns` what to make of the answer: a rule (see `opensandbox.record`) for the decoded body; `"response"` for the answer as it is
--   (`{status, headers, body, request_id}`); absent: the decoded body, or true where there is none
-- * `stream` true: the answer is an event stream, returned as `http.stream` gives it
-- * `idempotent` whether it is safe to repeat, where the method does not tell
--
-- @treturn function call(target, options) → value or nil, err. Options: `params`, and everything `http.call` takes (`query`, `json`,
-- `body`, `parts`, `headers`, `timeout`, `sink`, `on_progress`, …)
setmetatable(M, { __call = function(_, declaration)
  M.declared[declaration.id] = declaration
  return function(target, options) return call(declaration, target, options or {}) end
end })

return M
