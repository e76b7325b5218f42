--- Where requests go: the lifecycle server of a connection, and the endpoints of a sandbox, looked up once and remembered until kill,
-- pause, resume or a failure to connect.
local defaults = require "opensandbox.defaults"
local embedded = require "opensandbox.embedded"
local errors = require "opensandbox.errors"
local lifecycle = require "opensandbox.lifecycle"

local M = {}

local PORTS = { execd = defaults.execd_port, egress = defaults.egress_port }

--- The lifecycle server of a connection.
-- @tparam table connection state of a connection
-- @treturn[1] table target
-- @treturn[2] nil
-- @treturn[2] table err where the embedded runtime does not start
function M.lifecycle(connection)
  if connection.embedded then
    local runtime, err = embedded.start()
    if not runtime then return nil, err end
    connection.base, connection.api_key = runtime.url .. "/v1", runtime.api_key
  end
  return { connection = connection, base = connection.base, headers = { [connection.auth_header] = connection.api_key } }
end

--- Splits `host:port/path` (or `[v6]:port/path`) into host, port with its colon, and the rest.
local function split_authority(address)
  local authority, rest = address:match("^([^/?#]*)(.*)$")
  local host, port = authority:match("^(%[[^%]]*%])(:?%d*)$")
  if not host then host, port = authority:match("^([^:]*)(:?%d*)$") end
  return host or authority, port or "", rest
end

local function rewrite_host(address, rewrites)
  local host, port, rest = split_authority(address)
  local other = rewrites and (rewrites[host .. port] or rewrites[host])
  if not other then return address end
  local _, other_port = split_authority(other)
  return other .. (other_port == "" and port or "") .. rest
end

--- Does an address lead through the lifecycle server? Then the API key goes along, but never from https to plain http.
local function is_proxied(url, base, id)
  if not url:find("/sandboxes/" .. id .. "/proxy/", 1, true) then return false end
  return url:sub(1, 6) == "https:" or base:sub(1, 6) ~= "https:"
end

local function make_target(state, connection, answer)
  local scheme, address = answer.endpoint:match("^(%a[%w+.-]*)://(.*)$")
  scheme = scheme or connection.base:match("^%a+")
  address = rewrite_host((address or answer.endpoint):gsub("/+$", ""), connection.endpoint_host_rewrite)
  local target = { connection = connection, base = scheme .. "://" .. address, headers = {} }
  for name, value in pairs(answer.headers or {}) do target.headers[name] = value end
  if connection.api_key and is_proxied(target.base, connection.base, state.id) then
    target.headers[connection.auth_header] = connection.api_key
  end
  target.answer = { endpoint = address, headers = answer.headers or {}, url = target.base }
  return target
end

--- The endpoint of one port of a sandbox.
-- @tparam table state of a sandbox: `id`, `connection_state`, `targets`
-- @tparam integer port
-- @tparam[opt] table opts `use_server_proxy` (default: the connection's), `expires` (Unix seconds: a signed address, not remembered),
-- `timeout`
-- @treturn[1] table target; `target.answer` is what `sandbox:endpoint` returns
-- @treturn[2] nil
-- @treturn[2] table err
function M.port(state, port, opts)
  opts = opts or {}
  local connection = state.connection_state
  local proxied = opts.use_server_proxy
  if proxied == nil then proxied = not opts.expires and connection.use_server_proxy end
  local key = ("%d%s"):format(port, proxied and " proxied" or "")
  local known = not opts.expires and state.targets[key]
  if known and not known.stale then return known end

  local server, err = M.lifecycle(connection)
  if not server then return nil, err end
  local query = {}
  if proxied then query.use_server_proxy = "true" end
  if opts.expires then query.expires = ("%d"):format(opts.expires) end
  local answer
  answer, err = lifecycle.endpoint(server, { params = { id = state.id, port = port }, query = query, timeout = opts.timeout })
  if not answer then return nil, err end
  if type(answer.endpoint) ~= "string" or answer.endpoint == "" then
    return nil, errors.transport("decode", ("the server's answer names no endpoint for port %d"):format(port))
  end
  local target = make_target(state, connection, answer)
  if not opts.expires then state.targets[key] = target end
  return target
end

--- The endpoint of one of a sandbox's own servers.
-- @tparam table state of a sandbox
-- @tparam string plane `"execd"` or `"egress"`
-- @tparam[opt] table opts as for `port`
-- @treturn table target, or nil and err
function M.plane(state, plane, opts)
  return M.port(state, PORTS[plane], opts)
end

--- Forgets every endpoint of a sandbox.
function M.forget(state)
  state.targets = {}
end

return M
