--- Shell sessions: working directory and exported variables last from run to run.
local commands = require "opensandbox.commands"
local core = require "opensandbox.core"
local endpoint = require "opensandbox.endpoint"
local options = require "opensandbox.options"
local stream = require "opensandbox.stream"
local task = require "opensandbox.task"

local M = {}

local create_session = endpoint { id = "createSession", plane = "execd", method = "POST", path = "/session" }
local run_in_session = endpoint { id = "runInSession", plane = "execd", method = "POST", path = "/session/{id}/run", stream = true }
local delete_session = endpoint { id = "deleteSession", plane = "execd", method = "DELETE", path = "/session/{id}" }

local check_create = options.declare("commands:create_session", { cwd = { type = "string" }, timeout = { type = "duration" } })
local run_fields = commands.run_options()
run_fields.interrupt_on_cancel = nil
local check_run = options.declare("session:run", run_fields)
local check_delete = options.declare("session:delete", { timeout = { type = "duration" } })

local methods = { __fields = { id = true } }

--- execd answers 500 for a session that it does not know.
local function is_unknown(err)
  return err.status == 500 and (err.message:find("not found", 1, true) or err.message:find("no such session", 1, true))
end

local function session_error(err)
  if is_unknown(err) then err.code, err.retryable = "not_found", false end
  return err
end

--- Runs a command in the session. Endpoint: execd `POST /session/{id}/run`.
--
-- stderr arrives merged into stdout. Ending the call early (deadline, failing handler, cancelled task) only drops the connection:
-- interrupting would end the session.
-- @tparam string|table command
-- @tparam[opt] table opts as for `commands:run`, but `env`, `uid`, `gid`, `stdin`, `background`; `cwd` and what the command changes stay
-- @treturn[1] table run as of `commands:run`; its `id` is the session's
-- @treturn[2] nil
-- @treturn[2] table err `not_found` for an unknown session, `conflict` while another run is under way, `timeout`
function methods:run(command, opts)
  local state = core.state(self, "session")
  opts = check_run(opts)
  local line = commands.command_line(command)
  local execd, err = commands.execd_of(state.sandbox)
  if not execd then return nil, err end
  local engine
  engine, err = stream.open {
    lines = true, single = true, opts = opts,
    open = function(request)
      request.params = { id = state.id }
      request.json = { command = line, cwd = opts.cwd, timeout = commands.milliseconds(opts.timeout) }
      return run_in_session(execd, request)
    end,
  }
  if not engine then return nil, session_error(err) end
  local result
  result, err = stream.drive(engine)
  if not result then return nil, err end
  return commands.checked(result, opts, line)
end

--- Ends the session. Endpoint: execd `DELETE /session/{id}`.
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err `not_found` where it is gone already
function methods:delete(opts)
  local state = core.state(self, "session", true)
  opts = check_delete(opts)
  local execd, err = commands.execd_of(state.sandbox, opts.timeout)
  if not execd then return nil, err end
  local done
  done, err = delete_session(execd, { params = { id = state.id }, timeout = opts.timeout })
  core.close(self)
  if not done then return nil, session_error(err) end
  return true
end

--- Frees the handle; the session goes on.
function methods:close()
  core.state(self, "session", true)
  core.close(self)
  return true
end

--- Deletes a session that this handle created.
local function close_scope(self)
  local state = core.state(self, "session", true)
  if state.created and not core.is_closed(self) then task.shield(task.pcall, methods.delete, self) end
  core.close(self)
end

core.methods("session", methods, { __close = close_scope })

--- See `commands:create_session`.
function M.create(sandbox, opts)
  opts = check_create(opts)
  local execd, err = commands.execd_of(sandbox, opts.timeout)
  if not execd then return nil, err end
  local answer
  answer, err = create_session(execd, { json = { cwd = opts.cwd or "" }, timeout = opts.timeout })
  if not answer then return nil, err end
  local id = type(answer) == "table" and answer.session_id
  if type(id) ~= "string" or id == "" then
    return nil, require("opensandbox.errors").new { code = "protocol", message = "the server made a session without telling its id" }
  end
  return core.new("session", { id = id, sandbox = sandbox, created = true })
end

--- See `commands:attach_session`.
function M.attach(sandbox, id)
  return core.new("session", { id = id, sandbox = sandbox })
end

return M
