--[[ The real sandbox-agent server for specs, with the scripted agent planted as every agent it knows.

  local agent_server = require "spec.support.agent_server"
  local missing = agent_server.missing()                               -- why the server cannot be had, or nil
  describe("sessions", missing and function() it("needs the server", function() pending(missing) end) end or function()
    local agents = agent_server.start()                                -- agent.start with a home of its own
    local agents = agent_server.start({ persist = … }, { BARE = "1" }) -- settings of the scripted agent
  end)

The server is one static program from the npm registry, of which this machine keeps a copy in build/sandbox-agent; its checksum is the
proof that it is the right one. SANDBOX_AGENT_BIN names another copy. ]]
local agent = require "opensandbox.agent"
local connections = require "opensandbox.connection"
local core = require "opensandbox.core"
local http = require "opensandbox.http"
local random = require "opensandbox.agent.random"

local M = {}

local VERSION = "0.4.2"
local CHECKSUM = "bab098abef874ade481aa7b50463662814fbf27294399f545307fedb638f029b" -- of the program, SHA-256
local REGISTRY = "https://registry.npmjs.org"
local PACKAGE = "@sandbox-agent/cli-linux-x64"
local AGENTS = { "mock", "codex", "claude", "opencode" }

local here = assert(debug.getinfo(1, "S").source:match "^@(.*)/spec/support/agent_server.lua$" or ".")
local function absolute(path)
  if path:sub(1, 1) == "/" then return path end
  return os.getenv "PWD" .. "/" .. path
end
local root = absolute(here)
local folder = root .. "/build/sandbox-agent"

--- Runs a shell command. Returns whether it went well, and its output.
local function shell(command)
  local pipe = assert(io.popen("{ " .. command .. "; } 2>&1 && echo ok", "r"))
  local output = pipe:read "*a"
  pipe:close()
  return output:sub(-3) == "ok\n", output
end

local function is_right(path)
  local ok, output = shell(("sha256sum '%s'"):format(path))
  return ok and output:sub(1, 64) == CHECKSUM
end

--- Gets the package: from the registry's address, or through npm and its settings.
local function download(archive)
  local connection = core.state(connections.new { domain = REGISTRY, tls = { verify = false } }, "connection") -- the checksum counts
  local path = ("/%s/-/cli-linux-x64-%s.tgz"):format(PACKAGE, VERSION)
  local response, err = http.call(connection, { method = "GET", base = REGISTRY, path = path, sink = { file = archive }, timeout = 120 })
  if response then return true end
  local ok, output = shell(("cd '%s' && npm pack --silent %s@%s && mv ./*.tgz '%s'"):format(folder, PACKAGE, VERSION, archive))
  if ok then return true end
  return nil, ("%s; npm: %s"):format(tostring(err), output:gsub("%s+", " "))
end

local function fetch(path)
  local archive = folder .. "/package.tgz"
  os.execute(("mkdir -p '%s'"):format(folder))
  local ok, problem = download(archive)
  if not ok then return nil, "the sandbox-agent server can't be had from npm: " .. problem end
  ok, problem = shell(("cd '%s' && tar xzf package.tgz && chmod +x package/bin/sandbox-agent"):format(folder)
    .. (" && mv package/bin/sandbox-agent '%s' && rm -r package package.tgz"):format(path))
  if not ok then return nil, "the sandbox-agent server can't be unpacked: " .. problem end
  if not is_right(path) then return nil, "the sandbox-agent server from npm has another checksum" end
  return path
end

--- The server program.
-- @treturn string|nil path
-- @treturn string why there is none
function M.binary()
  if M.found == nil then
    local path = os.getenv "SANDBOX_AGENT_BIN"
    if not path or path == "" then
      path = folder .. "/sandbox-agent"
      local problem
      if not is_right(path) then path, problem = fetch(path) end
      M.problem = problem
    end
    M.found = path or false
  end
  return M.found or nil, M.problem
end

--- Why there is no server program.
function M.missing()
  local _, problem = M.binary()
  return problem
end

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

--- Makes a home for a server in which the scripted agent is planted.
-- @treturn string its folder
-- @treturn table variables of the environment
function M.home(settings)
  local home = ("%s/home-%s"):format(folder, random.hex(6))
  local programs = home .. "/data/sandbox-agent/bin"
  local launcher = ("#!/bin/sh\nunset LUA_PATH LUA_CPATH LUA_INIT\nexec /usr/bin/lua5.4 '%s/spec/support/scripted_agent.lua'\n")
    :format(root)
  assert(shell(("mkdir -p '%s/agent_processes'"):format(programs)))
  for _, name in ipairs(AGENTS) do
    write(("%s/agent_processes/%s-acp"):format(programs, name), launcher)
    write(("%s/%s"):format(programs, name), "#!/bin/sh\necho 1.0.0\n")
  end
  assert(shell(("chmod -R +x '%s'"):format(programs)))
  local env = {
    HOME = home, XDG_DATA_HOME = home .. "/data", XDG_STATE_HOME = home .. "/state", SANDBOX_AGENT_REQUIRE_PREINSTALL = "1",
    SANDBOX_AGENT_LOG_STDOUT = "1",
  }
  for key, value in pairs(settings or {}) do env[key:find "^SANDBOX_AGENT" and key or "SCRIPTED_AGENT_" .. key] = value end
  M.homes[#M.homes + 1] = home
  return home, env
end

--- The process ids of the server on a port.
-- @treturn table list, empty where there is none
function M.pids(port)
  local list = {}
  local pipe = assert(io.popen(("grep -lsz '^%s$' /proc/[0-9]*/cmdline"):format(port)))
  for path in pipe:lines() do
    local pid = path:match "%d+"
    local file = io.open("/proc/" .. pid .. "/comm")
    if file and file:read "*l" == "sandbox-agent" then list[#list + 1] = pid end
    if file then file:close() end
  end
  pipe:close()
  return list
end

--- A table of strings as Lua source, for scripts of their own.
function M.literal(strings)
  local parts = {}
  for name, value in pairs(strings) do parts[#parts + 1] = ("[%q]=%q"):format(name, value) end
  return "{" .. table.concat(parts, ",") .. "}"
end

M.homes = {}

--- Removes the homes that were made.
function M.clean()
  for _, home in ipairs(M.homes) do shell(("rm -rf '%s'"):format(home)) end
  M.homes = {}
end

--- Starts a server.
-- @tparam[opt] table opts of agent.start
-- @tparam[opt] table settings of the scripted agent (BARE, NO_MODES, MODELS, AUTH, NO_SESSION, EXIT, LOG) and of the server
-- (SANDBOX_AGENT_…)
-- @treturn userdata agents
-- @treturn string folder of its home
function M.start(opts, settings)
  local home, env = M.home(settings)
  local given = { binary = assert(M.binary()), env = env, log = home .. "/log" }
  for name, value in pairs(opts or {}) do given[name] = value end
  return assert(agent.start(given)), home
end

return M
