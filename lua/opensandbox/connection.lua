--- Settings for reaching a server. What is made from one connection shares its settings; network connections, TLS sessions and DNS answers
-- are shared by the whole Lua state.
local core = require "opensandbox.core"
local defaults = require "opensandbox.defaults"
local errors = require "opensandbox.errors"
local options = require "opensandbox.options"

local M = {}

local EMBEDDED = "local"

local check = options.declare("connection", {
  domain = { type = "header" },
  protocol = { type = "header" },
  api_key = { type = "header" },
  auth_header = { type = "header", default = "OPEN-SANDBOX-API-KEY" },
  use_server_proxy = { type = "boolean", default = false },
  endpoint_host_rewrite = { type = "map", of = "header" },
  request_timeout = { type = "duration", default = defaults.request_timeout },
  connect_timeout = { type = "duration", default = defaults.connect_timeout },
  headers = { type = "map", of = "header", default = {} },
  user_agent = { type = "header", default = "opensandbox-lua/" .. defaults.version },
  proxy = { type = "header" },
  tls = {
    type = "table", default = {},
    fields = {
      ca_file = { type = "string" }, ca_path = { type = "string" }, verify = { type = "boolean", default = true },
      cert_file = { type = "string" }, key_file = { type = "string" },
    },
  },
  retry = {
    type = { "table", "false" }, default = { attempts = 3, base = 0.2, max = 5 },
    fields = {
      attempts = { type = "integer", default = 3 }, base = { type = "duration", default = 0.2 }, max = { type = "duration", default = 5 },
      should_retry = { type = "function" }, on_retry = { type = "function" },
    },
  },
  debug = { type = { "boolean", "function" } },
})

local function environment(name)
  local value = os.getenv(name)
  return value ~= "" and value or nil
end

--- Takes an address apart: scheme, and host with port and prefix.
local function parse_domain(domain, protocol)
  local scheme, rest = domain:match("^(%a[%w+.-]*)://(.*)$")
  scheme = (scheme or protocol):lower()
  rest = (rest or domain):gsub("/+$", ""):gsub("/v1$", "")
  if scheme ~= "http" and scheme ~= "https" then errors.raise(("domain: http or https expected, got '%s'"):format(scheme)) end
  if rest == "" or rest:find("[%s@?#]") then
    errors.raise(("domain: a host like 'api.example.com:8080' or 'https://host/prefix' expected, got '%s'"):format(errors.safe_url(domain)))
  end
  return scheme, rest
end

local methods = {}

--- Makes a connection (no network traffic yet).
--
-- Fields, all optional: `domain` (`"api.example.com:8080"`, `"https://host/prefix"`, `"local"` for the embedded runtime; environment
-- OPEN_SANDBOX_DOMAIN; without any: `localhost:8080` where there is an API key, else the embedded runtime), `protocol` (`"http"`,
-- where domain has
-- no scheme; OPEN_SANDBOX_PROTOCOL), `api_key` (OPEN_SANDBOX_API_KEY), `auth_header` (name of the API key's header),
-- `use_server_proxy` (false: reach
-- sandboxes directly), `endpoint_host_rewrite` (host → host), `request_timeout` (30 s), `connect_timeout` (10 s), `headers` (on every
-- request),
-- `user_agent`, `proxy` (URL; without it the proxy variables of the environment count, but never for loopback addresses), `tls` (`ca_file`,
-- `ca_path`, `verify` = true, `cert_file`, `key_file`), `retry` (`attempts` = 3, `base` = 0.2 s, `max` = 5 s, `should_retry(err, attempt)`,
-- `on_retry(err, attempt, delay)`; or false), `debug` (true: a line per request on stderr; or function(event); secrets are masked).
-- @tparam[opt] table opts
-- @treturn userdata connection
function M.new(opts)
  local state = check(opts)
  state.domain = state.domain or environment "OPEN_SANDBOX_DOMAIN"
  state.api_key = state.api_key or environment "OPEN_SANDBOX_API_KEY"
  state.protocol = state.protocol or environment "OPEN_SANDBOX_PROTOCOL" or defaults.protocol
  if not state.domain then state.domain = state.api_key and defaults.domain or EMBEDDED end
  if state.domain == EMBEDDED then
    state.embedded, state.protocol = true, "http"
  else
    local host
    state.protocol, host = parse_domain(state.domain, state.protocol)
    state.base = state.protocol .. "://" .. host .. "/v1"
  end
  if not state.retry or state.retry.attempts < 2 then state.retry = false end
  state.label = state.embedded and "embedded runtime" or errors.safe_url(state.base)
  return core.new("connection", state)
end

--- The state of a connection option: a connection, a table of settings, or nil for the default connection of this Lua state.
-- @return connection userdata
-- @return state
function M.resolve(given)
  local connection = given
  if given == nil then
    local context = core.context()
    -- the environment is read when the connection is made: another one is another connection
    local key = table.concat({ environment "OPEN_SANDBOX_DOMAIN" or "", environment "OPEN_SANDBOX_PROTOCOL" or "",
      environment "OPEN_SANDBOX_API_KEY" or "" }, "\n")
    if context.default_key ~= key or core.is_closed(context.default_connection) then
      context.default_connection, context.default_key = M.new(), key
    end
    connection = context.default_connection
  elseif type(given) == "table" then
    connection = M.new(given)
  end
  return connection, core.state(connection, "connection")
end

--- Frees what the connection holds here. What was made from it can't make new requests.
function methods:close()
  core.state(self, "connection", true).closed = true
  core.close(self)
  return true
end

core.methods("connection", methods)

return M
