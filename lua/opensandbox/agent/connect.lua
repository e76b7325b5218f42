--- `agent.connect`: a client of a server that runs already.
local clients = require "opensandbox.agent.client"
local connections = require "opensandbox.connection"
local core = require "opensandbox.core"
local options = require "opensandbox.options"

local M = {}

local fields = {
  base_url = { type = "header", required = true }, headers = { type = "map", of = "header", default = {} },
  connection = { type = "table", default = {} },
}
for name, field in pairs(clients.FIELDS) do fields[name] = field end

local check = options.declare("agent.connect", fields)

--- The headers that go with every request.
-- @tparam[opt] string token
-- @tparam[opt] table headers
function M.headers(token, headers)
  local all = {}
  for name, value in pairs(headers or {}) do all[name] = value end
  if token then all.Authorization = "Bearer " .. token end
  return all
end

--- The settings of a connection for requests to a sandbox-agent server. It answers 502 and 503 also where an operation failed for good (a
-- directory is not empty, a program is not there): such an answer is not asked for again.
-- @tparam table state of a connection
-- @treturn table
function M.settings(state)
  if not state.retry then return state end
  local retry, wanted = {}, state.retry.should_retry
  for name, value in pairs(state.retry) do retry[name] = value end
  function retry.should_retry(err, attempt)
    local body = err.body or ""
    if body:find("error:stream_error", 1, true) or body:find("error:desktop_", 1, true) then return false end
    return wanted == nil or wanted(err, attempt)
  end
  return setmetatable({ retry = retry }, { __index = state })
end

--- Finds the target of requests to a fixed address.
-- @tparam string base_url
-- @tparam[opt] table settings of the connection, as for `opensandbox.connection`
-- @tparam[opt] string token
-- @tparam[opt] table headers
-- @treturn function locate
function M.locator(base_url, settings, token, headers)
  local given = { domain = base_url, headers = headers }
  for name, value in pairs(settings or {}) do given[name] = value end
  local state = core.state(connections.new(given), "connection")
  local target = { connection = M.settings(state), base = state.base:gsub("/v1$", ""), headers = M.headers(token) }
  return function()
    target.stale = nil
    return target
  end, target.base
end

--- Connects to a server and waits until it answers.
-- @tparam table opts
--
-- * `base_url` of the server, as `"http://127.0.0.1:2468"`
-- * `token` it was started with; `headers` of every request; `connection` further settings, as for `opensandbox.connection` (`tls`,
--   `proxy`, `retry`, `request_timeout`, `debug`, …)
-- * `persist` where sessions and events are kept: `agent.memory()` (default), `agent.sqlite(path)`, or a driver of your own
-- * `replay_max_events` (50), `replay_max_chars` (12000): how much of its history a resumed session is told
-- * `ready_timeout` (15 s) how long the server is waited for; `skip_health_check` waits at the first call instead
-- * `start_timeout` (300 s) for the start of an agent, which may install it
-- * `requests` handlers of requests that agents make: method → function(params, session) → result, or nil and a message. Those of
--   `agent.sandbox_requests(sandbox)` serve files and terminals from a sandbox
--
-- @treturn[1] userdata agents
-- @treturn[2] nil
-- @treturn[2] table err `not_ready`, `unauthorized`
function M.connect(opts)
  opts = check(opts)
  opts.locate, opts.label = M.locator(opts.base_url, opts.connection, opts.token, opts.headers)
  return clients.new(opts)
end

return M
