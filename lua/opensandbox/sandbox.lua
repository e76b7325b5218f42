--- Sandboxes: `opensandbox.create`, `connect`, `resume`, `with`, and the methods of a sandbox.
--
-- A sandbox and its parts (`commands`, `files`, …) are userdata that share one state table:
-- `id`, `connection` (userdata), `connection_state`, the parts by name, `targets` (endpoints looked up), `health_check`,
-- `created` (by this handle), `detached`, `killed`, `closed`.
local connections = require "opensandbox.connection"
local core = require "opensandbox.core"
local create = require "opensandbox.create"
local datetime = require "opensandbox.datetime"
local defaults = require "opensandbox.defaults"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local lifecycle = require "opensandbox.lifecycle"
local options = require "opensandbox.options"
local ready = require "opensandbox.ready"
local target = require "opensandbox.target"
local task = require "opensandbox.task"

local M = {}

local TIMEOUT = { type = "duration" }

local READY_FIELDS = {
  timeout = TIMEOUT,
  ready_timeout = { type = "duration", default = defaults.ready_timeout },
  health_check = { type = "function" },
  health_check_interval = { type = "duration", default = defaults.health_check_interval },
  skip_health_check = { type = "boolean", default = false },
}

local ATTACH_FIELDS = { connection = { type = { "connection", "table" } } }
for name, field in pairs(READY_FIELDS) do ATTACH_FIELDS[name] = field end

local check_call = options.declare("a call", { timeout = TIMEOUT })
local check_connect = options.declare("connect", ATTACH_FIELDS)
local check_resume = options.declare("resume", ATTACH_FIELDS)
local check_wait = options.declare("sandbox:wait_until_ready", READY_FIELDS)
local check_sandbox_resume = options.declare("sandbox:resume", READY_FIELDS)
local check_endpoint = options.declare("sandbox:endpoint", {
  expires = { type = "number" }, use_server_proxy = { type = "boolean" }, timeout = TIMEOUT,
}, { exclusive = { { "expires", "use_server_proxy" } } })
local check_request = options.declare("sandbox:request", {
  port = { type = "integer", required = true }, method = { type = "header", default = "GET" }, path = { type = "header", default = "/" },
  headers = { type = "map", of = "header" }, body = { type = "string" }, timeout = TIMEOUT,
  use_server_proxy = { type = "boolean" },
})

local check_websocket = options.declare("sandbox:websocket", {
  port = { type = "integer", required = true }, path = { type = "header", default = "/" }, headers = { type = "map", of = "header" },
  protocols = { type = "list", of = "header" }, timeout = TIMEOUT, ping_interval = { type = "duration" },
  use_server_proxy = { type = "boolean" },
})

-- ------------------------------------------------------------------------------------------------------------------
-- handles

-- Parts of a sandbox, and their kinds: each is in the module of its name, and is made when it is first asked for.
local PARTS = {
  commands = "commands", files = "files", code = "code", pty = "terminals", egress = "egress", vault = "vault", isolated = "isolated",
}

local state_metatable = { __index = function(state, name)
  if not PARTS[name] then return nil end
  require("opensandbox." .. name)
  local part = core.new(PARTS[name], state)
  if state.closed then core.close(part) end
  state[name] = part
  return part
end }

local function new(id, connection, created)
  local state = {
    id = id, connection = connection, connection_state = core.state(connection, "connection"), targets = {}, created = created,
  }
  return core.new("sandbox", setmetatable(state, state_metatable)), state
end

local function close(sandbox, state)
  state.closed = true
  for name in pairs(PARTS) do
    local part = rawget(state, name)
    if part then core.close(part) end
  end
  core.close(sandbox)
end

--- Calls an endpoint of the lifecycle server about one sandbox.
local function about(connection_state, call, id, request)
  local server, err = target.lifecycle(connection_state)
  if not server then return nil, err end
  request = request or {}
  request.params = { id = id }
  return call(server, request)
end

local function kill(state, timeout)
  local killed, err = about(state.connection_state, lifecycle.kill, state.id, { timeout = timeout })
  if killed or err.code == "not_found" then
    state.killed = true
    target.forget(state)
  end
  return killed, err
end

--- Ends a sandbox that did not get ready; the error says whether that went well.
local function discard(sandbox, state, err)
  local killed, problem = task.shield(kill, state)
  close(sandbox, state)
  if not errors.is(err) then return end
  if not killed and problem.code ~= "not_found" then
    err.message = ("%s; sandbox %s could not be killed (%s) and may still run"):format(err.message, state.id, problem.message)
  elseif err.code ~= "handler" then
    err.message = err.message .. "; it was killed"
  end
end

--- When a sandbox that exists must be ready: its state and its health have one deadline.
local function ready_deadline(opts)
  return core.now() + math.min(opts.ready_timeout, opts.timeout or math.huge)
end

--- Waits until the sandbox runs and is healthy, as options ask. `running` has what `ready.wait_running` takes; its deadline is also
-- that of the health check, unless it has `ready_timeout`: seconds from when the sandbox runs.
local function get_ready(sandbox, state, opts, running)
  state.health_check = opts.health_check or state.health_check
  local deadline = running.deadline
  local ok, err = ready.wait_running(state, deadline, running)
  if not ok then return nil, err end
  if opts.skip_health_check then return true end
  return ready.wait_healthy(sandbox, state, {
    health_check = state.health_check, health_check_interval = opts.health_check_interval,
    ready_timeout = running.ready_timeout or math.max(0, deadline - core.now()),
  })
end

-- ------------------------------------------------------------------------------------------------------------------
-- making and finding sandboxes

--- Creates a sandbox and waits until it is ready. Nothing is left behind when it never gets ready.
-- `POST /sandboxes`, then its state, its endpoint and its health.
-- @tparam table opts
--
-- * `image` string, or `{uri=, auth={username=,password=}}`; or `snapshot_id`. Neither: image "host" on the embedded runtime
-- * `timeout` seconds to live, default 600; false: no expiry, the default on the embedded runtime
-- * `entrypoint` list, `resource` map (`{cpu="1", memory="2Gi"}`), `env`, `metadata`, `extensions` maps of strings
-- * `platform` `{os=, arch=}`, `network_policy` `{default_action="deny", egress={{action=, target=}}}`, `credential_proxy` `{enabled=}`,
--   `secure_access` boolean
-- * `network` `"proxy"` (default: out by HTTP(S), to public addresses and as `network_policy` says), `"none"` or `"host"`: embedded
--   runtime only
-- * `volumes` list of `{name=, mount_path=, read_only=, sub_path=}` with one of `host`, `pvc`, `ossfs`
-- * `extra` table of newer fields, sent as they are
-- * `connection`, `request_timeout` (seconds for the request and for a Pending sandbox to run, default 300)
-- * `ready_timeout` (seconds, default 30), `health_check` (function(sandbox) → boolean), `health_check_interval` (seconds, default 0.2),
--   `skip_health_check`
--
-- @treturn[1] userdata sandbox
-- @treturn[2] nil
-- @treturn[2] table err `not_ready` where it did not get ready, `handler` where the health check raised
function M.create(opts)
  opts = create.check(opts)
  local connection, connection_state = connections.resolve(opts.connection)
  local body = create.body(opts, connection_state.embedded)
  local deadline = core.now() + opts.request_timeout
  local server, err = target.lifecycle(connection_state)
  if not server then return nil, err end
  local answer
  answer, err = lifecycle.create(server, { json = body, timeout = opts.request_timeout, secrets = create.secrets(opts) })
  if not answer then return nil, create.explain_lost_answer(err, opts) end
  if type(answer.id) ~= "string" then
    err = errors.transport("decode", "the answer to the create request has no id")
    return nil, create.explain_lost_answer(err, opts)
  end

  local sandbox, state = new(answer.id, connection, true)
  local running = {
    deadline = deadline, interval = opts.health_check_interval, status = answer.status, ready_timeout = opts.ready_timeout,
  }
  local ran, is_ready
  ran, is_ready, err = task.pcall(get_ready, sandbox, state, opts, running)
  if ran and is_ready then return sandbox end
  -- a raised value (a cancelled task, Ctrl-C) goes on to the caller once the sandbox is gone
  discard(sandbox, state, err)
  if not ran then error(is_ready, 0) end
  return nil, err
end

--- A handle for a sandbox that exists, once it is ready; `is_starting`: it was just resumed.
local function attach(id, connection, opts, is_starting)
  local deadline = ready_deadline(opts)
  local sandbox, state = new(id, connection, false)
  local running = { deadline = deadline, interval = opts.health_check_interval, paused_is_final = not is_starting }
  local is_ready, err = get_ready(sandbox, state, opts, running)
  if is_ready then return sandbox end
  close(sandbox, state)
  return nil, err
end

--- Connects to a sandbox that runs. `GET /sandboxes/{id}`, then its endpoint and its health.
-- @tparam string id
-- @tparam[opt] table opts `connection`, `ready_timeout` (seconds, default 30), `health_check`, `health_check_interval`,
-- `skip_health_check`, `timeout` (seconds, whole call)
-- @treturn[1] userdata sandbox; it is not killed by `<close>`
-- @treturn[2] nil
-- @treturn[2] table err `not_found`, `not_ready`
function M.connect(id, opts)
  M.check_id(id)
  opts = check_connect(opts)
  return attach(id, connections.resolve(opts.connection), opts, false)
end

--- Resumes a paused sandbox and connects to it. `POST /sandboxes/{id}/resume`.
-- @tparam string id
-- @tparam[opt] table opts as for `connect`
-- @treturn[1] userdata sandbox
-- @treturn[2] nil
-- @treturn[2] table err `conflict` where it is not paused
function M.resume(id, opts)
  M.check_id(id)
  opts = check_resume(opts)
  local connection, connection_state = connections.resolve(opts.connection)
  local resumed, err = about(connection_state, lifecycle.resume, id, { timeout = opts.timeout })
  if not resumed then return nil, err end
  return attach(id, connection, opts, true)
end

local function finish_with(sandbox, ok, ...)
  local state = core.state(sandbox, "sandbox", true)
  if not state.killed then task.shield(kill, state) end
  close(sandbox, state)
  if not ok then error((...), 0) end
  return ...
end

--- Creates a sandbox, calls `fn(sandbox)`, and kills the sandbox on every way out.
-- @tparam table create_opts as for `create`
-- @tparam function fn
-- @return what fn returned; or nil, err where the sandbox could not be created. An error in fn goes on to the caller
function M.with(create_opts, fn)
  options.argument("fn", fn, "function")
  local sandbox, err = M.create(create_opts)
  if not sandbox then return nil, err end
  return finish_with(sandbox, task.pcall(fn, sandbox))
end

-- ------------------------------------------------------------------------------------------------------------------
-- methods

local methods = { __fields = { id = true, connection = true } }
for name in pairs(PARTS) do methods.__fields[name] = true end

--- The server's record of the sandbox. `GET /sandboxes/{id}`
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil `{id=, status={state=, reason=, message=}, created_at=, expires_at= (nil: never), metadata=, image=, entrypoint=,
-- …, raw=}`
-- @treturn table err
function methods:info(opts)
  local state = core.state(self, "sandbox")
  opts = check_call(opts)
  return about(state.connection_state, lifecycle.get, state.id, { timeout = opts.timeout })
end

--- Asks once whether the sandbox is healthy: its own health check, else `GET /ping` of its execd.
-- @tparam[opt] table opts `timeout`
-- @treturn boolean
-- @treturn[opt] table err why not
function methods:is_healthy(opts)
  local state = core.state(self, "sandbox")
  opts = check_call(opts)
  return ready.is_healthy(self, state, opts.timeout)
end

--- Waits until the sandbox runs and is healthy.
-- @tparam[opt] table opts `ready_timeout` (seconds, default 30), `health_check`, `health_check_interval`, `timeout` (seconds, whole call)
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err `not_ready`
function methods:wait_until_ready(opts)
  local state = core.state(self, "sandbox")
  opts = check_wait(opts)
  local deadline = ready_deadline(opts)
  return get_ready(self, state, opts, { deadline = deadline, interval = opts.health_check_interval, paused_is_final = true })
end

--- Sets the expiry to `seconds` from now. `POST /sandboxes/{id}/renew-expiration`
-- @tparam number seconds
-- @tparam[opt] table opts `timeout`
-- @treturn number|nil expires_at Unix seconds
-- @treturn table err
function methods:renew(seconds, opts)
  local state = core.state(self, "sandbox")
  options.argument("seconds", seconds, "duration")
  opts = check_call(opts)
  return M.renew(state.connection_state, state.id, seconds, opts.timeout)
end

--- Pauses the sandbox: its processes stop, its files and memory stay. `POST /sandboxes/{id}/pause`
-- @tparam[opt] table opts `timeout`
-- @treturn boolean|nil true
-- @treturn table err `conflict` where it is not running
function methods:pause(opts)
  local state = core.state(self, "sandbox")
  opts = check_call(opts)
  target.forget(state)
  return about(state.connection_state, lifecycle.pause, state.id, { timeout = opts.timeout })
end

--- Resumes the paused sandbox and waits until it is ready; the handle stays the same. `POST /sandboxes/{id}/resume`
-- @tparam[opt] table opts `ready_timeout`, `health_check`, `health_check_interval`, `skip_health_check`, `timeout` (seconds, whole call)
-- @treturn boolean|nil true
-- @treturn table err
function methods:resume(opts)
  local state = core.state(self, "sandbox")
  opts = check_sandbox_resume(opts)
  local deadline = ready_deadline(opts)
  target.forget(state)
  local resumed, err = about(state.connection_state, lifecycle.resume, state.id, { timeout = opts.timeout })
  if not resumed then return nil, err end
  return get_ready(self, state, opts, { deadline = deadline, interval = opts.health_check_interval })
end

--- Ends the remote sandbox. `DELETE /sandboxes/{id}`
-- @tparam[opt] table opts `timeout`
-- @treturn boolean|nil true
-- @treturn table err `not_found` where it is gone already
function methods:kill(opts)
  local state = core.state(self, "sandbox")
  opts = check_call(opts)
  return kill(state, opts.timeout)
end

--- Frees what this handle holds here; the remote sandbox goes on. Closing twice is fine, any other use after it raises.
-- @treturn boolean true
function methods:close()
  close(self, core.state(self, "sandbox", true))
  return true
end

--- Lets the sandbox live when this handle is closed by `<close>`.
-- @treturn boolean true
function methods:detach()
  core.state(self, "sandbox").detached = true
  return true
end

--- The address of a port inside the sandbox. `GET /sandboxes/{id}/endpoints/{port}`
-- @tparam integer port
-- @tparam[opt] table opts `expires` (Unix seconds: a signed address that ends then), `use_server_proxy` (default: the connection's),
-- `timeout`
-- @treturn table|nil `{endpoint="host:port/prefix", headers={…}, url=}`; the headers must go with every request to it
-- @treturn table err
function methods:endpoint(port, opts)
  local state = core.state(self, "sandbox")
  options.argument("port", port, "integer")
  opts = check_endpoint(opts)
  local found, err = target.port(state, port, opts)
  if not found then return nil, err end
  local headers = {}
  for name, value in pairs(found.answer.headers) do headers[name] = value end
  return { endpoint = found.answer.endpoint, headers = headers, url = found.answer.url }
end

--- A path with its query as a request has it: what is percent-encoded stays, what no address may hold is encoded.
local function request_path(path)
  path = path:gsub("#.*$", ""):gsub("[^%w%-._~:/?%[%]@!$&'()*+,;=%%]", function(char) return ("%%%02X"):format(char:byte()) end)
  return path:sub(1, 1) == "/" and path or "/" .. path
end

--- Makes an HTTP request to a service inside the sandbox.
-- @tparam table opts `port`, `method` (default GET), `path` (with its query; default "/"), `headers`, `body`, `timeout`, `use_server_proxy`
-- @treturn table|nil `{status=, headers={lower-case names}, body=}` of a 2xx answer
-- @treturn table err any other answer is an error with `status` and `body`
function methods:request(opts)
  local state = core.state(self, "sandbox")
  opts = check_request(opts)
  local found, err = target.port(state, opts.port, { use_server_proxy = opts.use_server_proxy, timeout = opts.timeout })
  if not found then return nil, err end
  return endpoint.send(found, {
    method = opts.method:upper(), path = request_path(opts.path), headers = opts.headers, body = opts.body, timeout = opts.timeout,
  })
end

--- Opens a WebSocket to a service inside the sandbox.
-- @tparam table opts `port`, `path` (with its query; default "/"), `headers`, `protocols` (list of subprotocols), `timeout` (seconds until
-- it is open; default the connection's request_timeout), `ping_interval` (seconds of silence before a ping, default 20; 0: none),
-- `use_server_proxy`
-- @treturn[1] userdata websocket: `send(bytes)`, `send_text(text)`, `receive(timeout)` → message, is_text, `close(code, reason)`,
-- `close_status()`; `websocket.protocol` is the subprotocol that the service chose
-- @treturn[2] nil
-- @treturn[2] table err of the service's answer where it does not open one
function methods:websocket(opts)
  local state = core.state(self, "sandbox")
  opts = check_websocket(opts)
  local found, err = target.port(state, opts.port, { use_server_proxy = opts.use_server_proxy, timeout = opts.timeout })
  if not found then return nil, err end
  opts.path = request_path(opts.path)
  return require("opensandbox.websocket").open(found, opts)
end

--- The load of the machine that the sandbox is on. `GET /metrics` of its execd (takes about a second on some servers).
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil `{cpu_count=, cpu_used_pct=, mem_total_mib=, mem_used_mib=, timestamp=}`
-- @treturn table err
function methods:metrics(opts)
  return require("opensandbox.metrics").get(core.state(self, "sandbox"), opts)
end

--- Calls fn with the metrics as the server sends them (every two seconds or so), until fn returns false. `GET /metrics/watch`
-- @tparam function fn gets what `metrics` gives; its other return values are ignored
-- @tparam[opt] table opts `timeout` (seconds, the whole watch), `idle_timeout` (seconds of silence, default 20)
-- @treturn boolean|nil true once fn returned false
-- @treturn table err `timeout`, `truncated` where the server ended the stream, `handler` where fn raised
function methods:watch_metrics(fn, opts)
  return require("opensandbox.metrics").watch(core.state(self, "sandbox"), fn, opts)
end

--- Sets and removes metadata. `PATCH /sandboxes/{id}/metadata`
-- @tparam table patch key → string, or `opensandbox.null` to remove it
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil info as `info` gives it
-- @treturn table err
function methods:patch_metadata(patch, opts)
  local state = core.state(self, "sandbox")
  patch = M.check_metadata_patch(patch)
  opts = check_call(opts)
  return about(state.connection_state, lifecycle.patch_metadata, state.id, { json = patch, timeout = opts.timeout })
end

--- Makes a snapshot of the sandbox, from which others can be created (`create{snapshot_id=}`). `POST /sandboxes/{id}/snapshots`
-- @tparam[opt] table opts `name`; `wait` (true: until it is Ready), `ready_timeout` (seconds to wait, default 300), `timeout`
-- @treturn table|nil snapshot `{id=, sandbox_id=, name=, status={state="Creating"|"Ready"|"Failed"|"Deleting", …}, created_at=, raw=}`
-- @treturn table err `not_ready` where it failed (`err.partial` is the snapshot), `unsupported` where the server has no snapshots
function methods:create_snapshot(opts)
  local state = core.state(self, "sandbox")
  return require("opensandbox.snapshot").create(state.connection_state, state.id, opts)
end

local function diagnostics(call)
  return function(self, scope, opts)
    local state = core.state(self, "sandbox")
    return M.diagnostics(state.connection_state, call, state.id, scope, opts)
  end
end

--- What the server logged about the sandbox. `GET /sandboxes/{id}/diagnostics/logs`
-- @function methods:diagnostic_logs
-- @tparam string scope `"container"`, `"lifecycle"`, `"runtime"`, `"network"`, `"process"` or `"all"`; servers may have others
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil `{kind=, scope=, delivery="inline"|"url", content_type=, content=, content_url=, content_length=, expires_at=,
-- truncated=, raw=}`
-- @treturn table err `unsupported` where the server does not have them
methods.diagnostic_logs = diagnostics(lifecycle.diagnostic_logs)

--- What happened to the sandbox. `GET /sandboxes/{id}/diagnostics/events`
-- @function methods:diagnostic_events
-- @tparam string scope as for `diagnostic_logs`
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil as `diagnostic_logs` gives it
-- @treturn table err
methods.diagnostic_events = diagnostics(lifecycle.diagnostic_events)

--- `local sandbox <close>` kills a sandbox that this handle created, unless it was detached or killed; then it closes the handle.
local function close_scope(self)
  local state = core.state(self, "sandbox", true)
  local open = not core.is_closed(self)
  if open and state.created and not state.detached and not state.killed then task.shield(kill, state) end
  close(self, state)
end

core.methods("sandbox", methods, { __close = close_scope })

-- ------------------------------------------------------------------------------------------------------------------
-- shared with commands, files and manager

--- Checks the id of a sandbox; raises at the user's line.
function M.check_id(id)
  options.argument("id", id, "string")
  if id == "" then errors.raise("id must not be empty") end
end

local check_patch = options.declare("patch_metadata", { patch = { type = "map", of = { "string", "null" } } })

--- Checks a metadata patch; raises at the user's line.
function M.check_metadata_patch(patch)
  options.argument("patch", patch, "table")
  return check_patch({ patch = patch }).patch
end

--- Sets the expiry of a sandbox to `seconds` from now. → Unix seconds, or nil, err
function M.renew(connection_state, id, seconds, timeout)
  local body = { expiresAt = datetime.format_iso(core.time() + seconds) }
  local answer, err = about(connection_state, lifecycle.renew, id, { json = body, timeout = timeout })
  if not answer then return nil, err end
  return answer.expires_at
end

--- Reads diagnostics of a sandbox. → record, or nil, err
function M.diagnostics(connection_state, call, id, scope, opts)
  options.argument("scope", scope, "string")
  opts = check_call(opts)
  return about(connection_state, call, id, { query = { scope = scope }, timeout = opts.timeout })
end

--- Calls an endpoint of the lifecycle server about one sandbox: (connection state, endpoint, id, request) → its value, or nil, err.
M.about = about

return M
