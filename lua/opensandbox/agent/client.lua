--- The client of one sandbox-agent server: sessions, agents, and the parts `files`, `processes`, `config`, `desktop`.
--
-- Its state is shared by its parts: `locate()` (finds the target of requests), `target`, `persist` (driver), `sessions` (by id), `lives`
-- (connections to agents, by agent), `permissions` (open requests, by id), `requests` (handlers of agents' requests), `provider`.
local api = require "opensandbox.agent.api"
local background = require "opensandbox.agent.background"
local core = require "opensandbox.core"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local health = require "opensandbox.agent.health"
local history = require "opensandbox.agent.history"
local json = require "opensandbox.json"
local lives = require "opensandbox.agent.live"
local memory = require "opensandbox.agent.memory"
local options = require "opensandbox.options"
local permissions = require "opensandbox.agent.permissions"
local random = require "opensandbox.agent.random"
local record = require "opensandbox.record"
local requests = require "opensandbox.agent.requests"
local sessions = require "opensandbox.agent.session"
local task = require "opensandbox.task"

local M = {}

local START_SECONDS = 300 -- an agent's first start may install it
local END_SECONDS = 2 -- for each thing that is ended at close

local agent_info = record { configOptions = record.verbatim, serverStatus = api.record { uptime_ms = "uptime" } }

local list_agents = api.endpoint { id = "get_v1_agents", method = "GET", path = "/v1/agents",
  returns = api.field("agents", record.list(agent_info)) }
local get_agent = api.endpoint { id = "get_v1_agent", method = "GET", path = "/v1/agents/{agent}", returns = agent_info }
local install_agent = api.endpoint { id = "post_v1_agent_install", method = "POST", path = "/v1/agents/{agent}/install",
  returns = record {} }
local list_servers = api.endpoint { id = "get_v1_acp_servers", method = "GET", path = "/v1/acp",
  returns = api.field("servers", record.list(api.record { created_at_ms = "created_at" })) }

local TIMEOUT = { type = "duration" }
local SESSION_FIELDS = {
  id = { type = "string" }, agent = { type = "string", required = true }, cwd = { type = "string" }, session_init = { type = "map" },
  model = { type = "string" }, mode = { type = "string" }, thought_level = { type = "string" },
}

--- The options that every way to a server takes.
M.FIELDS = {
  token = { type = "header" }, persist = { type = "table" }, replay_max_events = { type = "integer", default = 50 },
  replay_max_chars = { type = "integer", default = 12000 }, ready_timeout = { type = "duration", default = 15 },
  start_timeout = { type = "duration", default = START_SECONDS }, requests = { type = "map", of = "function", default = {} },
  skip_health_check = { type = "boolean", default = false },
}

local check_create = options.declare("agents:create_session", SESSION_FIELDS)
local check_resume_or_create = options.declare("agents:resume_or_create_session", SESSION_FIELDS, { requires = { agent = "id" } })
local check_page = options.declare("agents:list_sessions", { limit = { type = "integer" }, cursor = { type = "string" } })
local check_events = options.declare("agents:events", {
  session_id = { type = "string", required = true }, limit = { type = "integer" }, cursor = { type = "string" },
})
local check_each = options.declare("agents:each_event", { session_id = { type = "string", required = true } })
local check_query = options.declare("agents:agents", {
  config = { type = "boolean", default = false }, no_cache = { type = "boolean", default = false }, timeout = TIMEOUT,
})
local check_install = options.declare("agents:install", {
  agent_version = { type = "string" }, agent_process_version = { type = "string" }, reinstall = { type = "boolean" },
  timeout = { type = "duration", default = START_SECONDS },
})
local check_call = options.declare("a call", { timeout = TIMEOUT })

---------------------------------------------------------------------------------------------------------------------
-- connections to agents

--- The session that a message of the agent's is about.
local function session_of(live, params)
  local session = live.sessions[params.sessionId]
  if session or params.sessionId == nil then return session end
  -- an agent may speak of a session before it has answered session/new
  local only = next(live.creating)
  if only and next(live.creating, only) == nil then return only end
end

local function on_request(live, message, params)
  local session = session_of(live, params)
  if session then session:observe("agent", message) end
  if session and message.method == "session/request_permission" then
    permissions.take(session, live, message, params)
  else
    requests.take(live, session, message, params)
  end
end

local function on_notification(live, message, params)
  local session = session_of(live, params)
  if session then session:observe("agent", message) end
end

local function on_failure(live)
  local client = live.client
  if client.lives[live.agent] == live then client.lives[live.agent] = nil end
  client.healthy = false
  if client.target then client.target.stale = client.attached or client.target.stale end
  permissions.forget(client, live)
end

--- The connection to an agent, made where there is none.
local function live_of(client, agent)
  local live = client.lives[agent]
  if live and not live.failure then return live end
  return background.once(client.opening, agent, ("the start of the agent '%s'"):format(agent), function()
    local target, err = health.ready(client)
    if not target then return nil, err end
    local opened
    opened, err = lives.open(client, agent, {
      observe = function(session, sender, message) session:observe(sender, message) end,
      on_request = on_request, on_notification = on_notification, on_failure = on_failure,
      capabilities = requests.capabilities(client.requests), timeout = client.start_timeout,
    })
    if not opened then return nil, err end
    client.lives[agent] = opened
    return opened
  end)
end

---------------------------------------------------------------------------------------------------------------------
-- making a client

local PARTS = { files = true, processes = true, config = true, desktop = true }

--- The parts of a client are made when they are first read.
local parts_metatable = { __index = function(state, name)
  if not PARTS[name] then return nil end
  require("opensandbox.agent." .. name)
  local part = core.new("agent_" .. name, state)
  rawset(state, name, part)
  return part
end }

--- Makes a client.
-- @tparam table given options of the call (see FIELDS) and `locate`, `provider`, `raw_sandbox_id`, `attached`, `label`, `default_cwd`
-- @treturn userdata|nil client
-- @treturn table err `not_ready`, `unauthorized`
function M.new(given)
  local state = {
    locate = given.locate, provider = given.provider, raw_sandbox_id = given.raw_sandbox_id, attached = given.attached, label = given.label,
    default_cwd = given.default_cwd or "/", persist = given.persist or memory.new(), replay_max_events = given.replay_max_events,
    replay_max_chars = given.replay_max_chars, ready_timeout = given.ready_timeout, start_timeout = given.start_timeout,
    requests = given.requests, token = given.token, sandbox = given.sandbox, owns_server = given.owns_server,
    sessions = {}, lives = {}, opening = {}, permissions = {}, sandbox_id = given.sandbox_id,
  }
  function state.live(agent) return live_of(state, agent) end
  function state.describe_agent(agent) return get_agent(state, { params = { agent = agent }, query = { config = "true" } }) end
  if not given.skip_health_check then
    local ok, err = health.ready(state)
    if not ok then return nil, err end
  end
  return core.new("agents", setmetatable(state, parts_metatable))
end

---------------------------------------------------------------------------------------------------------------------
-- what users call

local methods = { __fields = {
  files = true, processes = true, config = true, desktop = true, sandbox_id = true, sandbox = true, base_url = true,
} }

local function state_of(self) return core.state(self, "agents") end

local function init_of(client, opts)
  local init = {}
  for key, value in pairs(opts.session_init or {}) do init[key] = value end
  init.cwd = init.cwd or opts.cwd or client.default_cwd
  init.mcpServers = init.mcpServers or json.array()
  return init
end

--- Destroys a session.
local function destroy(session)
  task.pcall(session.cancel_turn, session)
  session.record.destroyedAt = history.now()
  return session:save()
end

local SETTERS = { { "mode", "set_mode" }, { "model", "set_model" }, { "thought_level", "set_thought_level" } }

local function apply_settings(session, opts)
  for _, setter in ipairs(SETTERS) do
    local value = opts[setter[1]]
    if value then
      local ok, err = session.handle[setter[2]](session.handle, value)
      if ok == nil then return nil, err end
    end
  end
  return session.handle
end

local function create(client, opts)
  local id = opts.id or random.uuid()
  local existing, err = client.persist:get_session(id)
  if existing then
    return nil, errors.new { code = "conflict", message = ("there is a session '%s' already: use resume_or_create_session"):format(id) }
  elseif err then
    return nil, err
  end
  local live
  live, err = client.live(opts.agent)
  if not live then return nil, err end
  client.sessions[id] = nil
  local session = sessions.adopt(client, {
    id = id, agent = opts.agent, agentSessionId = "", lastConnectionId = live.connection_id, createdAt = history.now(),
    sandboxId = client.sandbox_id, sessionInit = init_of(client, opts),
  })
  session.next_index = 1
  local ok
  ok, err = session:open(live)
  if not ok then
    client.sessions[id] = nil
    return nil, err
  end
  local handle
  handle, err = apply_settings(session, opts)
  if not handle then destroy(session) end
  return handle, err
end

--- Starts a session with an agent; the agent itself is started where it does not run yet. ACP `initialize`, `session/new`.
-- @tparam table opts `agent` (`"codex"`, `"claude"`, `"opencode"`, …), `cwd` (default: the provider's, else `"/"`), `id` (default: a random
-- one), `model`, `mode`, `thought_level`, `session_init` (the protocol's own parameters of session/new, as `{cwd=, mcpServers={…}}`)
-- @treturn[1] userdata session
-- @treturn[2] nil
-- @treturn[2] table err `not_found` for an agent that is not installed, `unauthorized` where it needs a log-in, `conflict` for an id in
-- use, `invalid` and `unsupported` for settings it does not take (the session is destroyed then)
function methods:create_session(opts)
  return create(state_of(self), check_create(opts))
end

local function stored_session(client, id)
  options.argument("id", id, "string")
  local stored, err = client.persist:get_session(id)
  if not stored then return nil, err or sessions.unknown(id) end
  return sessions.adopt(client, stored)
end

local function resume(client, id)
  local session, err = stored_session(client, id)
  if not session then return nil, err end
  local ok
  ok, err = session:resume()
  if not ok then return nil, err end
  return session
end

--- Goes on with a session, also one of an earlier script (with a driver that remembers): an agent session is made anew and told the history
-- with the next prompt.
-- @tparam string id
-- @treturn userdata|nil session
-- @treturn table err `not_found`
function methods:resume_session(id)
  local session, err = resume(state_of(self), id)
  if not session then return nil, err end
  return session.handle
end

--- Goes on with the session of that id, or starts one.
-- @tparam table opts as for `create_session`, with `id`; of an existing session only `mode`, `model` and `thought_level` are set
-- @treturn userdata|nil session
-- @treturn table err
function methods:resume_or_create_session(opts)
  local client = state_of(self)
  opts = check_resume_or_create(opts)
  local stored, err = client.persist:get_session(opts.id)
  if err then return nil, err end
  if not stored then return create(client, opts) end
  local session
  session, err = resume(client, opts.id)
  if not session then return nil, err end
  return apply_settings(session, opts)
end

--- A session that the driver knows. Nothing is sent; using it resumes it.
-- @tparam string id
-- @treturn userdata|nil session
-- @treturn table err `not_found`
function methods:get_session(id)
  local session, err = stored_session(state_of(self), id)
  if not session then return nil, err end
  return session.handle
end

--- The sessions that the driver knows, oldest first.
-- @tparam[opt] table opts `limit` (100), `cursor` (of the page before)
-- @treturn table|nil `{items={session, …}, next_cursor=}`
-- @treturn table err
function methods:list_sessions(opts)
  local client = state_of(self)
  local page, err = client.persist:list_sessions(check_page(opts))
  if not page then return nil, err end
  local items = {}
  for i, stored in ipairs(page.items) do items[i] = sessions.adopt(client, stored).handle end
  return { items = items, next_cursor = page.next_cursor }
end

--- Ends a session: open permission requests and the turn under way are cancelled, and the record says when. The agent goes on, and so does
-- the session when it is used again.
-- @tparam string id
-- @treturn userdata|nil session
-- @treturn table err `not_found`
function methods:destroy_session(id)
  local client = state_of(self)
  local session, err = stored_session(client, id)
  if not session then return nil, err end
  local ok
  ok, err = destroy(session)
  if not ok then return nil, err end
  return session.handle
end

--- A page of a session's history.
-- @tparam table opts `session_id`, `limit` (100), `cursor` (of the page before)
-- @treturn table|nil `{items={event, …}, next_cursor=}`; events as `session:on_event` gives them
-- @treturn table err
function methods:events(opts)
  local client = state_of(self)
  local page, err = client.persist:list_events(check_events(opts))
  if not page then return nil, err end
  local items = {}
  for i, event in ipairs(page.items) do items[i] = history.public(event) end
  return { items = items, next_cursor = page.next_cursor }
end

--- Iterates over a session's history, all pages. A page that cannot be read raises its error.
-- @tparam table opts `session_id`
-- @treturn function iterator
function methods:each_event(opts)
  local client = state_of(self)
  opts = check_each(opts)
  local page, place = { items = {}, next_cursor = nil }, 0
  local first = true
  return function()
    place = place + 1
    while place > #page.items and (first or page.next_cursor) do
      local err
      page, err = client.persist:list_events { session_id = opts.session_id, cursor = page.next_cursor }
      if not page then error(err, 0) end
      place, first = 1, false
    end
    return page.items[place] and history.public(page.items[place]) or nil
  end
end

--- Answers a permission request of any session; see `session:respond_permission`.
function methods:respond_permission(id, reply)
  return permissions.respond(state_of(self), id, reply)
end

--- Asks the server whether it is well. `GET /v1/health`.
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn table|nil `{status="ok"}`
-- @treturn table err
function methods:health(opts)
  return health.ask(state_of(self), check_call(opts).timeout)
end

local function agent_query(opts)
  return { query = { config = tostring(opts.config), no_cache = tostring(opts.no_cache) }, timeout = opts.timeout }
end

--- The agents that the server knows. `GET /v1/agents`.
-- @tparam[opt] table opts `config` (with their options), `no_cache`, `timeout`
-- @treturn table|nil list of `{id=, installed=, credentials_available=, capabilities=, version=, path=, config_options=}`
-- @treturn table err
function methods:agents(opts)
  return list_agents(state_of(self), agent_query(check_query(opts)))
end

--- One of them. `GET /v1/agents/{agent}`.
-- @tparam string id
-- @tparam[opt] table opts as for `agents`
-- @treturn table|nil info
-- @treturn table err
function methods:agent(id, opts)
  options.argument("id", id, "string")
  local query = agent_query(check_query(opts))
  query.params = { agent = id }
  return get_agent(state_of(self), query)
end

--- Installs an agent on the server. `POST /v1/agents/{agent}/install`.
-- @tparam string id
-- @tparam[opt] table opts `agent_version`, `agent_process_version`, `reinstall`, `timeout` (300 s)
-- @treturn table|nil `{already_installed=, artifacts={{kind=, path=, source=, version=}}}`
-- @treturn table err
function methods:install(id, opts)
  options.argument("id", id, "string")
  opts = check_install(opts)
  return install_agent(state_of(self), {
    params = { agent = id }, timeout = opts.timeout,
    json = { agentVersion = opts.agent_version, agentProcessVersion = opts.agent_process_version, reinstall = opts.reinstall },
  })
end

--- The agent processes that the server runs. `GET /v1/acp`.
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil list of `{server_id=, agent=, created_at=}`
-- @treturn table err
function methods:servers(opts)
  return list_servers(state_of(self), { timeout = check_call(opts).timeout })
end

--- The address of the server's own page for people, with the token in it.
-- @treturn string|nil
-- @treturn table err
function methods:inspector_url()
  local state = state_of(self)
  local target, err = health.ready(state)
  if not target then return nil, err end
  return M.inspector_url { base_url = target.base, token = state.token }
end

---------------------------------------------------------------------------------------------------------------------
-- the end

--- Ends the processes of a server that is to end: they would outlive it.
local function kill_processes(state)
  local processes = parts_metatable.__index(state, "processes")
  local list = processes:list { owner = "user", timeout = END_SECONDS }
  for _, process in ipairs(list or {}) do
    if process.status == "running" then processes:kill(process.id, { timeout = END_SECONDS }) end
  end
end

--- Ends what this client holds on the server: open permission requests, turns, its agents; and the server itself where `agent.start` or
-- `agent.attach` started it. Histories stay with the driver.
-- @treturn boolean true
function methods:close()
  local state = core.state(self, "agents", true)
  if state.closed then return true end
  permissions.cancel_all(state)
  if state.owns_server and state.healthy then kill_processes(state) end
  state.closed = true
  local closing = {}
  for _, live in pairs(state.lives) do
    closing[#closing + 1] = background.spawn(function() live:close() end)
  end
  for _, one in ipairs(closing) do one:join() end
  core.close(self)
  if state.owns_server and state.provider then return state.provider.destroy(state.raw_sandbox_id) end
  return true
end

local function with_provider(self, name)
  local state = state_of(self)
  local provider, id = state.provider, state.raw_sandbox_id
  if not provider then errors.raise(("%s_sandbox: this client was connected to a server, not to a sandbox"):format(name)) end
  state.owns_server = false
  methods.close(self)
  local ok, err = (provider[name] or provider.destroy)(id)
  if ok == nil and err then return nil, err end
  return true
end

--- Closes the client and destroys the sandbox in which the server runs.
-- @treturn boolean true, or nil and err
function methods:destroy_sandbox() return with_provider(self, "destroy") end

--- Closes the client and pauses the sandbox, or destroys it where its provider cannot pause.
-- @treturn boolean true, or nil and err
function methods:pause_sandbox() return with_provider(self, "pause") end

--- Closes the client and kills the sandbox, or destroys it where its provider knows no difference.
-- @treturn boolean true, or nil and err
function methods:kill_sandbox() return with_provider(self, "kill") end

core.methods("agents", methods, { __close = function(self) task.shield(methods.close, self) end })

local check_inspector = options.declare("agent.inspector_url", {
  base_url = { type = "header", required = true }, token = { type = "header" }, headers = { type = "map", of = "header" },
})

--- The address of a server's own page for people.
-- @tparam table opts `base_url`, `token`, `headers` (sent by the page)
-- @treturn string
function M.inspector_url(opts)
  opts = check_inspector(opts)
  local query = {}
  if opts.token then query[#query + 1] = "token=" .. endpoint.escape(opts.token) end
  if opts.headers then query[#query + 1] = "headers=" .. endpoint.escape(json.encode(opts.headers)) end
  return opts.base_url:gsub("/+$", "") .. "/ui/" .. (#query > 0 and "?" .. table.concat(query, "&") or "")
end

return M
