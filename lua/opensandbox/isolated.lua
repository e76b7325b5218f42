--- Sessions isolated from the rest of their sandbox: `sandbox.isolated`. Each has its own view of the files, network and environment.
--
-- Not every execd has them: where it does not, calls fail with `unsupported`.
local commands = require "opensandbox.commands"
local core = require "opensandbox.core"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local options = require "opensandbox.options"
local record = require "opensandbox.record"
local stream = require "opensandbox.stream"
local task = require "opensandbox.task"

local session_info = record { created_at = record.time, last_run_at = record.time }

local function declare(id, method, path, more)
  local declaration = { id = id, plane = "execd", method = method, path = "/v1/isolated" .. path }
  for key, value in pairs(more or {}) do declaration[key] = value end
  return endpoint(declaration)
end

local create_session = declare("isolatedCreateSession", "POST", "/session", { returns = session_info })
local list_sessions = declare("isolatedListSessions", "GET", "/sessions", { returns = record { sessions = record.list(session_info) } })
local get_session = declare("isolatedGetSession", "GET", "/session/{id}", { returns = session_info })
local delete_session = declare("isolatedDeleteSession", "DELETE", "/session/{id}")
local run_in_session = declare("isolatedRunInSession", "POST", "/session/{id}/run", { stream = true })
local get_capabilities = declare("isolatedCapabilities", "GET", "/capabilities", { returns = record {} })

local TEXT, FLAG, NUMBER = { type = "string" }, { type = "boolean" }, { type = "integer" }
local TEXTS = { type = "list", of = "string" }

local check_call = options.declare("a call", { timeout = { type = "duration" } })
local check_create = options.declare("isolated:create", {
  workspace = { type = "table", required = true, fields = { path = { type = "string", required = true }, mode = TEXT } },
  profile = TEXT, extra_writable = TEXTS,
  binds = { type = "list", items = { source = { type = "string", required = true }, dest = TEXT, readonly = FLAG } },
  share_net = FLAG, env_passthrough = { type = "table", fields = { mode = TEXT, keys = TEXTS } },
  uid = NUMBER, gid = NUMBER, uid_mode = TEXT, idle_timeout_seconds = NUMBER, timeout = { type = "duration" },
})
local run_fields = commands.run_options { env = { type = "map", of = "string" } }
run_fields.cwd, run_fields.interrupt_on_cancel = nil, nil
local check_run = options.declare("isolated:run", run_fields)

--- Asks execd: (state of the sandbox, endpoint, request) → its value, or nil, err.
local function ask(sandbox, call, request)
  local execd, err = commands.execd_of(sandbox, request.timeout)
  if not execd then return nil, err end
  local answer
  answer, err = call(execd, request)
  if answer then return answer end
  return nil, errors.explain_unsupported(err, "isolated sessions")
end

-- ------------------------------------------------------------------------------------------------------------------
-- one session

local session_methods = { __fields = { id = true, created_info = true, files = true } }

--- The files of a session are those of a sandbox, at other addresses.
local session_state_metatable = { __index = function(state, name)
  if name ~= "files" then return nil end
  require "opensandbox.files"
  local files = core.new("files", {
    id = state.id, sandbox = state.sandbox, prefix = "/v1/isolated/session/" .. endpoint.escape(state.id),
  })
  if state.closed then core.close(files) end
  state.files = files
  return files
end }

local function new_session(sandbox, id, created_info)
  local state = { id = id, sandbox = sandbox, created_info = created_info }
  return core.new("isolated_session", setmetatable(state, session_state_metatable))
end

local function close_session(self, state)
  state.closed = true
  local files = rawget(state, "files")
  if files then core.close(files) end
  core.close(self)
end

--- Runs a shell command in the session. Endpoint: execd `POST /v1/isolated/session/{id}/run`.
--
-- Ending the call early only drops the connection.
-- @tparam string|table command a shell string, or a list of words, which are quoted safely
-- @tparam[opt] table opts as for `commands:run`, of which it has `env`, `timeout` (whole seconds), `deadline`, `idle_timeout`,
-- `max_output`, `capture`, `check` and the handlers
-- @treturn[1] table run as of `commands:run`
-- @treturn[2] nil
-- @treturn[2] table err
function session_methods:run(command, opts)
  local state = core.state(self, "isolated_session")
  opts = check_run(opts)
  local line = commands.command_line(command)
  local execd, err = commands.execd_of(state.sandbox)
  if not execd then return nil, err end
  local engine
  engine, err = stream.open {
    lines = true, single = true, opts = opts,
    open = function(request)
      request.params = { id = state.id }
      request.json = { code = line, envs = opts.env, timeout_seconds = opts.timeout and math.max(1, math.ceil(opts.timeout)) }
      return run_in_session(execd, request)
    end,
  }
  if not engine then return nil, errors.explain_unsupported(err, "isolated sessions") end
  local run
  run, err = stream.drive(engine)
  if not run then return nil, err end
  return commands.checked(run, opts, line)
end

--- What the server knows of the session. Endpoint: execd `GET /v1/isolated/session/{id}`.
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table `{status="active"|"dead"|"destroyed", created_at=, last_run_at=, idle_remaining_seconds=, …, raw=}`
-- @treturn[2] nil
-- @treturn[2] table err `not_found`
function session_methods:info(opts)
  local state = core.state(self, "isolated_session")
  return ask(state.sandbox, get_session, { params = { id = state.id }, timeout = check_call(opts).timeout })
end

--- Ends the session. Endpoint: execd `DELETE /v1/isolated/session/{id}`.
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err `not_found` where it is gone already
function session_methods:delete(opts)
  local state = core.state(self, "isolated_session", true)
  local done, err = ask(state.sandbox, delete_session, { params = { id = state.id }, timeout = check_call(opts).timeout })
  close_session(self, state)
  return done, err
end

--- Frees the handle; the session goes on.
-- @treturn boolean true
function session_methods:close()
  close_session(self, core.state(self, "isolated_session", true))
  return true
end

--- Deletes a session that this handle created.
local function close_scope(self)
  local state = core.state(self, "isolated_session", true)
  if state.created_info and not core.is_closed(self) then task.shield(task.pcall, session_methods.delete, self) end
  close_session(self, state)
end

core.methods("isolated_session", session_methods, { __close = close_scope })

-- ------------------------------------------------------------------------------------------------------------------
-- the sandbox's isolated sessions

local methods = {}

--- Makes an isolated session. Endpoint: execd `POST /v1/isolated/session`.
-- @tparam table opts
--
-- * `workspace` `{path=, mode="rw"|"overlay"|"ro"}`; `profile` `"strict"` or `"balanced"`; `extra_writable` list of paths;
--   `binds` list of `{source=, dest=, readonly=}`; `share_net` boolean; `env_passthrough` `{mode="allow"|"deny", keys=}`
-- * `uid`, `gid`, `uid_mode` (`"setpriv"` or `"userns"`), `idle_timeout_seconds`, `timeout` (seconds, of the call)
--
-- @treturn[1] userdata session with `id`, `files` (as `sandbox.files`), `run`, `info`, `delete`, `close`; `created_info` is the answer
-- @treturn[2] nil
-- @treturn[2] table err `unsupported` where the server has none or cannot isolate
function methods:create(opts)
  local state = core.state(self, "isolated")
  opts = check_create(opts)
  local timeout = opts.timeout
  opts.timeout = nil
  local info, err = ask(state, create_session, { json = opts, timeout = timeout, retry = false })
  if not info then
    if err.status == 503 and err.api_code then err.code, err.retryable = "unsupported", false end -- no bubblewrap there
    return nil, err
  end
  if type(info.session_id) ~= "string" or info.session_id == "" then
    return nil, errors.new { code = "protocol", message = "the server made an isolated session without telling its id" }
  end
  return new_session(state, info.session_id, info)
end

--- Lists the sessions there are. Endpoint: execd `GET /v1/isolated/sessions`.
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table list of `{session_id=, status=, created_at=, last_run_at=, idle_remaining_seconds=}`
-- @treturn[2] nil
-- @treturn[2] table err `unsupported`
function methods:list(opts)
  local state = core.state(self, "isolated")
  local answer, err = ask(state, list_sessions, { timeout = check_call(opts).timeout })
  if not answer then return nil, err end
  return answer.sessions or {}
end

--- A handle of a session that exists. Endpoint: execd `GET /v1/isolated/session/{id}`.
-- @tparam string id
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] userdata session; it is not deleted by `<close>`
-- @treturn[2] nil
-- @treturn[2] table err `not_found`
function methods:get(id, opts)
  local state = core.state(self, "isolated")
  local info, err = ask(state, get_session, { params = { id = commands.check_id(id) }, timeout = check_call(opts).timeout })
  if not info then return nil, err end
  return new_session(state, id)
end

--- The session for a handle or an id; nothing is asked of the server.
local function session_of(state, session)
  if core.kind(session) == "isolated_session" then return session end
  return new_session(state, commands.check_id(session))
end

--- `session:run` for a session or its id. Endpoint: execd `POST /v1/isolated/session/{id}/run`.
-- @tparam userdata|string session
-- @tparam string|table command
-- @tparam[opt] table opts as for `session:run`
-- @treturn[1] table run
-- @treturn[2] nil
-- @treturn[2] table err
function methods:run(session, command, opts)
  return session_of(core.state(self, "isolated"), session):run(command, opts)
end

--- `session:delete` for a session or its id. Endpoint: execd `DELETE /v1/isolated/session/{id}`.
-- @tparam userdata|string session
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err `not_found`
function methods:delete(session, opts)
  return session_of(core.state(self, "isolated"), session):delete(opts)
end

--- What the server can do. Endpoint: execd `GET /v1/isolated/capabilities`.
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table `{available=, isolator=, version=, message=, setpriv_available=, userns_available=, commit_supported=,
-- diff_supported=}`
-- @treturn[2] nil
-- @treturn[2] table err `unsupported` where the server has no isolated sessions at all
function methods:capabilities(opts)
  local state = core.state(self, "isolated")
  return ask(state, get_capabilities, { timeout = check_call(opts).timeout })
end

core.methods("isolated", methods)
