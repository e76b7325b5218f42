--- `agent.attach`: a server inside an OpenSandbox sandbox, reached through the sandbox's endpoint.
local clients = require "opensandbox.agent.client"
local connect = require "opensandbox.agent.connect"
local core = require "opensandbox.core"
local errors = require "opensandbox.errors"
local health = require "opensandbox.agent.health"
local options = require "opensandbox.options"
local random = require "opensandbox.agent.random"
local target = require "opensandbox.target"
local task = require "opensandbox.task"

local M = {}

local UPLOADED = "/tmp/sandbox-agent/sandbox-agent"
local PROBE_SECONDS = 2
local NOT_FOUND = 127 -- exit code

local fields = {
  port = { type = "integer", default = 2468 }, binary = { type = "string" }, upload = { type = "string" }, cwd = { type = "string" },
  env = { type = "map", of = "string", default = {} }, start = { type = "boolean", default = true },
  host = { type = "header", default = "0.0.0.0" },
}
for name, field in pairs(clients.FIELDS) do fields[name] = field end

local check = options.declare("agent.attach", fields, { exclusive = { { "binary", "upload" } } })

-- The token comes by a variable that only this shell has: no argument that the sandbox's API shows, no variable of the agents.
local LAUNCHER = [[
token=$SANDBOX_AGENT_START_TOKEN
unset SANDBOX_AGENT_START_TOKEN
command -v "$0" >/dev/null || { echo "$0 was not found"; exit 127; }
exec "$0" server --host "$1" --port "$2" --no-telemetry --token "$token"]]

--- The server's process in a sandbox.
local function provider_of(sandbox, opts)
  local self = { name = "opensandbox", default_cwd = opts.cwd or "/" }
  local job

  function self.start()
    local env = { TOKIO_WORKER_THREADS = "1", SANDBOX_AGENT_START_TOKEN = opts.token } -- see agent.start about the threads
    for name, value in pairs(opts.env) do env[name] = value end
    local err
    local command = { "sh", "-c", LAUNCHER, opts.binary, opts.host, ("%d"):format(opts.port) }
    job, err = sandbox.commands:start(command, { cwd = opts.cwd, env = env })
    if not job then return nil, err end
    return true
  end

  --- What the server said when it could not run.
  function self.failure()
    local state = job and job:status()
    if not state or state.running then return nil end
    local output = job:output()
    return ("it ended at once (exit code %s): %s"):format(tostring(state.exit_code), output and output.output or "")
  end

  function self.ensure_server()
    local state = job and job:status()
    if state and state.running then return true end
    if state and state.exit_code == NOT_FOUND then
      return nil, errors.new { code = "unsupported",
        message = ("the program '%s' is not in the sandbox: give its path there as 'binary', or 'upload' it"):format(opts.binary) }
    end
    return self.start()
  end

  function self.destroy()
    if job then job:interrupt() end
    job = nil
    return true
  end

  function self.kill() return sandbox:kill() end

  function self.pause() return sandbox:pause() end

  return self
end

local function upload(sandbox, path)
  local info = sandbox.files:info(UPLOADED)
  local file, problem = io.open(path, "rb")
  if not file then return nil, errors.new { code = "io", message = problem } end
  local size = file:seek "end"
  file:close()
  if info and info.size == size then return true end
  return sandbox.files:upload(path, UPLOADED, { mode = "755" })
end

--- Starts a sandbox-agent server inside an OpenSandbox sandbox (unless one answers there already) and connects to it. What it started ends
-- with `agents:close()`; the sandbox stays.
-- @tparam userdata sandbox
-- @tparam[opt] table opts
--
-- * `port` of the server inside the sandbox (2468); `host` it listens on (`"0.0.0.0"`)
-- * `binary` the program inside the sandbox (default `"sandbox-agent"` on its PATH), or `upload`: the path of the program on this machine,
--   which is put into the sandbox
-- * `token` (a random one), `cwd`, `env`; `start` = false connects to a server that must be there
-- * `persist`, `replay_max_events`, `replay_max_chars`, `ready_timeout`, `start_timeout`, `requests` as for `agent.connect`
--
-- @treturn[1] userdata agents
-- @treturn[2] nil
-- @treturn[2] table err `not_ready` with what the server said; `unauthorized` where one with another token is there
function M.attach(sandbox, opts)
  options.argument("sandbox", sandbox, "sandbox")
  opts = check(opts)
  local state = core.state(sandbox, "sandbox")
  local has_token = opts.token ~= nil
  if opts.start and not has_token then opts.token = random.hex(24) end
  if opts.upload then opts.binary = UPLOADED end
  opts.binary = opts.binary or "sandbox-agent"

  function opts.locate()
    local found, err = target.port(state, opts.port)
    if not found then return nil, err end
    return { connection = connect.settings(found.connection), base = found.base, headers = connect.headers(opts.token, found.headers) }
  end
  opts.attached, opts.sandbox, opts.label = true, sandbox, state.id
  opts.sandbox_id, opts.default_cwd = "opensandbox/" .. state.id, opts.cwd or "/"

  local provider = provider_of(sandbox, opts)
  if opts.start then
    local there, err = nil, nil
    if has_token then there, err = health.ask({ locate = opts.locate }, PROBE_SECONDS) end
    if err and err.code == "unauthorized" then return nil, err end
    if not there then
      local ok
      if opts.upload then
        ok, err = upload(sandbox, opts.upload)
        if not ok then return nil, err end
      end
      ok, err = provider.start()
      if not ok then return nil, err end
      opts.owns_server = true
    end
  end
  opts.provider, opts.raw_sandbox_id = provider, state.id
  local ok, agents, err = task.pcall(clients.new, opts)
  if ok and agents then return agents end
  if err then
    local said = provider.failure()
    if said then err.message = err.message .. "; " .. said end
  end
  if opts.owns_server then task.shield(provider.destroy) end
  if not ok then error(agents, 0) end
  return nil, err
end

return M
