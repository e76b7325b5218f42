--- `agent.start`: starts a server on this machine, or in the sandbox of a provider, and connects to it.
local clients = require "opensandbox.agent.client"
local connect = require "opensandbox.agent.connect"
local core = require "opensandbox.core"
local errors = require "opensandbox.errors"
local options = require "opensandbox.options"
local random = require "opensandbox.agent.random"
local task = require "opensandbox.task"

local M = {}

local PROGRAM = "sandbox-agent"
local FIRST_PORT, LAST_PORT = 20000, 32000 -- below those that systems give away by themselves
local ATTEMPTS = 8 -- ports
local END_SECONDS = 5

local fields = {
  binary = { type = "string" }, port = { type = "integer" }, cwd = { type = "string" }, env = { type = "map", of = "string", default = {} },
  log = { type = "string" }, provider = { type = "table" }, sandbox_id = { type = "string" },
  headers = { type = "map", of = "header", default = {} }, connection = { type = "table", default = {} },
}
for name, field in pairs(clients.FIELDS) do fields[name] = field end

local check = options.declare("agent.start", fields, { exclusive = {
  { "provider", "binary" }, { "provider", "port" }, { "provider", "env" }, { "provider", "log" },
} })

-- The server reads its token from its arguments only. This shell puts it there, from its stdin, which stays open as long as the script
-- lives: at its end the server is ended. It tells the server's process id, and how it ended.
local LAUNCHER = [[
trap '' INT
read -r token
cd "$1" || exit 125
log=$2
shift 2
exec 3<&0
"$@" --token "$token" </dev/null >>"$log" 2>&1 3<&- &
server=$!
echo "$server"
(while read -r line; do :; done; kill "$server") <&3 >/dev/null 2>&1 3<&- &
watcher=$!
exec 3<&- </dev/null 2>/dev/null
wait "$server"
echo "ended $?"
kill "$watcher"
]]

---------------------------------------------------------------------------------------------------------------------
-- the program

local function is_file(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

--- Finds the program: as given, SANDBOX_AGENT_BIN, node_modules here, PATH.
local function find(given)
  local named = given or os.getenv "SANDBOX_AGENT_BIN"
  if named and named ~= "" then
    if is_file(named) then return named end
    return nil, ("%s is not there"):format(named)
  end
  local places = {}
  for _, platform in ipairs { "linux-x64", "linux-arm64", "darwin-x64", "darwin-arm64" } do
    places[#places + 1] = ("node_modules/@sandbox-agent/cli-%s/bin/%s"):format(platform, PROGRAM)
  end
  for folder in (os.getenv "PATH" or ""):gmatch "[^:]+" do places[#places + 1] = folder .. "/" .. PROGRAM end
  for _, path in ipairs(places) do
    if is_file(path) then return path end
  end
  return nil, PROGRAM .. " was not found: give its path as 'binary' or in SANDBOX_AGENT_BIN, or install it (npm install @sandbox-agent/cli)"
end

--- This process's environment with some variables set.
local function environment(changes)
  local list = {}
  local file = io.open("/proc/self/environ", "rb")
  if not file then -- env prints it where there is no /proc; a value with a line end is cut there
    local pipe = assert(io.popen "env")
    for line in pipe:lines() do
      if not changes[line:match "^[^=]*"] then list[#list + 1] = line end
    end
    pipe:close()
  else
    for entry in file:read("*a"):gmatch "[^%z]+" do
      if not changes[entry:match "^[^=]*"] then list[#list + 1] = entry end
    end
    file:close()
  end
  for name, value in pairs(changes) do list[#list + 1] = name .. "=" .. value end
  return list
end

---------------------------------------------------------------------------------------------------------------------
-- one server process

--- Takes the token out of what others may read of a process's arguments, where the system lets its parent do that.
local function hide_token(pid, token)
  local arguments = io.open(("/proc/%d/cmdline"):format(pid), "rb")
  local stat = io.open(("/proc/%d/stat"):format(pid), "rb")
  local text, numbers = arguments and arguments:read "*a", stat and stat:read "*a"
  if arguments then arguments:close() end
  if stat then stat:close() end
  local place = text and text:find(token, 1, true)
  if not place or not numbers then return end
  local list = {}
  for field in numbers:gsub("^.*%) ", ""):gmatch "%S+" do list[#list + 1] = field end
  local start = tonumber(list[46]) -- arg_start, field 48 of the file
  local memory = start and io.open(("/proc/%d/mem"):format(pid), "r+b")
  if not memory then return end
  memory:setvbuf "no"
  if memory:seek("set", start + place - 1) then memory:write(("*"):rep(#token)) end
  memory:close()
end

--- Starts the program once. Returns the process and the server's process id, or nil and a sentence.
local function launch(settings, port)
  local process, message = core.process {
    argv = { "/bin/sh", "-c", LAUNCHER, "sh", settings.cwd, settings.log, settings.binary, "server", "--host", "127.0.0.1",
      "--port", ("%d"):format(port), "--no-telemetry" },
    env = environment(settings.env), input = settings.token .. "\n",
  }
  if not process then return nil, message end
  if not task.await(process, core.now() + END_SECONDS) then return nil, "the shell that starts it does not answer" end
  local line = process:read_line()
  local pid = line and tonumber(line)
  if not pid then return nil, "the shell that starts it could not do so (is the working directory there?)" end
  return process, pid
end

--- Has the server ended?
local function has_ended(process)
  if not process:ready() then return false end
  local line = process:read_line()
  return true, line and line:match "^ended (%d+)"
end

--- Waits until the server serves, asking it. Returns true, or nil and a sentence when it ended first.
local function wait_until_serving(settings, process, locate)
  local health = require "opensandbox.agent.health"
  local probe = { locate = locate, ready_timeout = settings.ready_timeout }
  local deadline = core.now() + settings.ready_timeout
  local err
  while core.now() < deadline do
    local answer
    answer, err = health.ask(probe, 1)
    if answer then return not has_ended(process) or nil, "another program answers on its port" end
    local ended, code = has_ended(process)
    if ended then return nil, ("it ended at once (exit code %s; see its log)"):format(code or "unknown") end
    task.sleep(0.005)
  end
  return nil, ("it does not answer within %g s: %s"):format(settings.ready_timeout, err and err.message or "")
end

--- The provider of servers on this machine.
local function local_provider(settings)
  local self = { name = "local", default_cwd = os.getenv "PWD" or "/" }
  local process, port, locate

  local function start(at)
    port = at
    locate = connect.locator(("http://127.0.0.1:%d"):format(port), settings.connection, settings.token, settings.headers)
    local pid
    process, pid = launch(settings, port)
    if not process then return nil, pid end
    local ok, message = wait_until_serving(settings, process, locate)
    if not ok then
      process:close()
      process = nil
      return nil, message
    end
    hide_token(pid, settings.token)
    return true
  end

  function self.create()
    local message
    for _ = 1, settings.port and 1 or ATTEMPTS do
      local ok
      ok, message = start(settings.port or random.integer(FIRST_PORT, LAST_PORT))
      if ok then return ("127.0.0.1:%d"):format(port) end
    end
    return nil, errors.new { code = "not_ready", message = "the sandbox-agent server cannot be started: " .. message }
  end

  function self.ensure_server()
    if process and not has_ended(process) then return true end
    local ok, message = start(port)
    if ok then return true end
    return nil, errors.new { code = "not_ready", message = "the sandbox-agent server cannot be started again: " .. message }
  end

  function self.locate() return locate() end

  --- Ends the server: it goes with the stdin of the shell that started it.
  function self.destroy()
    if process then process:close() end
    process = nil
    return true
  end

  return self
end

---------------------------------------------------------------------------------------------------------------------
-- starting

local function start_local(opts)
  local binary, message = find(opts.binary)
  if not binary then
    return nil, errors.new { code = "unsupported", message = "the sandbox-agent server cannot be started: " .. message }
  end
  -- With one worker thread the server hands on what agents say without losses: more of them let a burst outrun its readers.
  local env = { TOKIO_WORKER_THREADS = "1" }
  for name, value in pairs(opts.env) do env[name] = value end
  local provider = local_provider {
    binary = binary, port = opts.port, env = env, cwd = opts.cwd or ".", log = opts.log or "/dev/null", token = opts.token,
    headers = opts.headers, connection = opts.connection, ready_timeout = opts.ready_timeout,
  }
  local id, err = provider.create()
  if not id then return nil, err end
  opts.provider, opts.raw_sandbox_id, opts.sandbox_id = provider, id, "local/" .. id
  opts.locate, opts.owns_server, opts.default_cwd, opts.label = provider.locate, true, provider.default_cwd, "http://" .. id
  return clients.new(opts)
end

--- Takes a value that a provider's function gave; failures of providers are errors of ours.
local function provided(provider, name, ...)
  local fn = provider[name]
  if not fn then return nil end
  local value, err = fn(...)
  if value ~= nil or err == nil then return value end
  if errors.is(err) then return nil, err end
  return nil, errors.new { code = "api", cause = err,
    message = ("the provider '%s' failed to %s: %s"):format(provider.name, name, tostring(err)) }
end

local function start_at_provider(opts)
  local provider = opts.provider
  for _, name in ipairs { "create", "destroy", "url" } do
    if type(provider[name]) ~= "function" then errors.raise(("option 'provider' needs a function '%s'"):format(name)) end
  end
  provider.name = provider.name or "custom"
  local id, err, created
  if opts.sandbox_id then
    local name, raw = opts.sandbox_id:match "^([^/]+)/(.+)$"
    if name ~= provider.name then
      errors.raise(("option 'sandbox_id' must begin with '%s/', got '%s'"):format(provider.name, opts.sandbox_id))
    end
    id = raw
    for _, step in ipairs { "reconnect", "ensure_server" } do
      local _, problem = provided(provider, step, id)
      if problem then return nil, problem end
    end
  else
    id, err = provided(provider, "create")
    if not id then return nil, err end
    created = true
  end
  local function fail(problem)
    if created then provider.destroy(id) end
    return nil, problem
  end
  local url, token
  url, err = provided(provider, "url", id)
  if not url then return fail(err or errors.new { code = "api", message = ("the provider '%s' gave no address"):format(provider.name) }) end
  token, err = provided(provider, "token", id)
  if err then return fail(err) end
  opts.token = opts.token or token
  opts.locate, opts.label = connect.locator(url, opts.connection, opts.token, opts.headers)
  opts.raw_sandbox_id, opts.sandbox_id, opts.default_cwd = id, provider.name .. "/" .. id, provider.default_cwd
  local agents
  agents, err = clients.new(opts)
  if not agents then return fail(err) end
  return agents
end

--- Starts a server and connects to it.
--
-- On this machine: on a free port of the loopback interface, with a random token. It ends with `agents:close()`, and with the script
-- however that ends. The token is given to it where no other user sees it, but for the moment of its start: it takes tokens from its
-- arguments only, from which it is erased (on Linux) as soon as the server serves.
-- @tparam[opt] table opts
--
-- * `binary` path of the program (else SANDBOX_AGENT_BIN, node_modules, PATH), `port` (else a random one), `cwd`, `env` (variables
--   besides those of the script), `log` (a file that gets its output), `token` (else a random one)
-- * or `provider`: `{name=, create() → id, destroy(id), url(id), token(id), ensure_server(id), reconnect(id), pause(id), kill(id),
--   default_cwd=}`; each may return nil, err. `sandbox_id` = `"name/id"` uses one that is there. A server that fails three health
--   checks is started again (`ensure_server`)
-- * `persist`, `replay_max_events`, `replay_max_chars`, `ready_timeout`, `start_timeout`, `requests`, `headers`, `connection` as for
--   `agent.connect`
--
-- @treturn[1] userdata agents
-- @treturn[2] nil
-- @treturn[2] table err `unsupported` where there is no program, `not_ready`
function M.start(opts)
  opts = check(opts)
  if opts.provider then return start_at_provider(opts) end
  opts.token = opts.token or random.hex(24)
  return start_local(opts)
end

return M
