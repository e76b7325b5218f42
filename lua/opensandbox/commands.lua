--- Commands in a sandbox: `sandbox.commands`.
local core = require "opensandbox.core"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local execution = require "opensandbox.execution"
local options = require "opensandbox.options"
local record = require "opensandbox.record"
local stream = require "opensandbox.stream"
local target = require "opensandbox.target"
local task = require "opensandbox.task"

local M = {}

local CURSOR_HEADER = "execd-commands-tail-cursor"
local INTERRUPT_SECONDS = 10

local run_command = endpoint { id = "runCommand", plane = "execd", method = "POST", path = "/command", stream = true }
local interrupt_command = endpoint { id = "interruptCommand", plane = "execd", method = "DELETE", path = "/command" }
local get_status = endpoint {
  id = "getCommandStatus", plane = "execd", method = "GET", path = "/command/status/{id}",
  returns = record { started_at = record.time, finished_at = record.time },
}
local get_logs = endpoint {
  id = "getBackgroundCommandLogs", plane = "execd", method = "GET", path = "/command/{id}/logs", returns = "response",
}

local handlers = {
  on_stdout = { type = "function" }, on_stderr = { type = "function" }, on_init = { type = "function" }, on_result = { type = "function" },
  on_error = { type = "function" }, on_complete = { type = "function" }, on_event = { type = "function" },
}

--- The options that every kind of run shares.
local function run_options(more)
  local fields = {
    cwd = { type = "string" }, timeout = { type = "duration" }, idle_timeout = { type = "duration" }, deadline = { type = "duration" },
    max_output = { type = "integer" }, capture = { type = "boolean" }, check = { type = "boolean" },
    interrupt_on_cancel = { type = "boolean" },
  }
  for name, field in pairs(handlers) do fields[name] = field end
  for name, field in pairs(more or {}) do fields[name] = field end
  return fields
end
M.run_options = run_options

local command_fields = {
  env = { type = "map", of = "string" }, uid = { type = "integer" }, gid = { type = "integer" }, background = { type = "boolean" },
  stdin = { type = "string" },
}
local rules = { requires = { gid = "uid" }, exclusive = { { "background", "check" } } }

local check_run = options.declare("commands:run", run_options(command_fields), rules)
local check_stream = options.declare("commands:stream", run_options(command_fields), rules)
local check_exec = options.declare("commands:exec", run_options(command_fields), rules)
local check_start = options.declare("commands:start", {
  cwd = { type = "string" }, timeout = { type = "duration" }, env = { type = "map", of = "string" }, uid = { type = "integer" },
  gid = { type = "integer" }, stdin = { type = "string" }, deadline = { type = "duration" }, idle_timeout = { type = "duration" },
}, { requires = { gid = "uid" } })
local check_call = options.declare("commands:status", { timeout = { type = "duration" } })
local check_output = options.declare("commands:output", { cursor = { type = "integer", default = 0 }, timeout = { type = "duration" } })

-- ------------------------------------------------------------------------------------------------------------------
-- shell words

local function quote(word)
  if word ~= "" and not word:find("[^%w@%%+=:,./_-]") then return word end
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

--- A command as the shell reads it: a string as it is, a list of words quoted.
local function command_line(command)
  if type(command) == "string" then
    if command:find("^%s*$") then errors.raise("command must not be empty") end
    return command
  end
  if type(command) ~= "table" or #command == 0 then
    errors.raise("command must be a string or a list of strings, got " .. (type(command) == "table" and "an empty list" or type(command)))
  end
  local words = {}
  for i, word in ipairs(command) do
    if type(word) == "number" then word = tostring(word) end
    if type(word) ~= "string" then errors.raise(("command[%d] must be a string, got %s"):format(i, type(word))) end
    words[i] = quote(word)
  end
  return table.concat(words, " ")
end

-- ------------------------------------------------------------------------------------------------------------------
-- talking to execd

--- The sandbox's state behind `sandbox.commands`, and its execd.
local function state_of(self)
  return core.state(self, "commands")
end

local function execd_of(state, timeout)
  return target.plane(state, "execd", { timeout = timeout })
end

local function milliseconds(seconds)
  return seconds and math.max(1, math.floor(seconds * 1000 + 0.5)) or nil
end

local function check_id(id)
  options.argument("id", id, "string")
  if id == "" then errors.raise("id must not be empty") end
  return id
end

--- Interrupts a command (or what another endpoint of that shape interrupts); one that has ended is fine.
local function interrupt(state, id, timeout, call)
  local execd, err = execd_of(state, timeout)
  if not execd then return nil, err end
  local done
  done, err = (call or interrupt_command)(execd, { query = { id = id }, timeout = timeout or INTERRUPT_SECONDS })
  if done then return true end
  if err.status == 500 and err.message:find("is not running", 1, true) then return true end
  if err.status == 500 and err.message:find("no such session", 1, true) then
    err.code, err.retryable = "not_found", false
  end
  return nil, err
end

--- Translates a status answer: signals as a shell reports them, whole numbers.
local function read_status(answer)
  local exit_code, signal = answer.exit_code, nil
  if not answer.running and (not exit_code or exit_code < 0) then
    local name, code = execution.signal_of(answer.error)
    if name then exit_code, signal = code, name end
  end
  if answer.running then exit_code = nil end
  return {
    id = answer.id, running = answer.running == true, exit_code = exit_code, signal = signal, error = answer.error,
    started_at = answer.started_at, finished_at = answer.finished_at, content = answer.content, raw = answer.raw,
  }
end

local function status(state, id, timeout)
  local execd, err = execd_of(state, timeout)
  if not execd then return nil, err end
  local answer
  answer, err = get_status(execd, { params = { id = id }, timeout = timeout })
  if not answer then return nil, err end
  return read_status(answer)
end

--- Reads a background command's log from byte `cursor` on, into `sink` or as a string.
-- @treturn table|nil `{output=, cursor=}`
local function logs(state, id, cursor, sink, timeout)
  local execd, err = execd_of(state, timeout)
  if not execd then return nil, err end
  local response
  response, err = get_logs(execd, { params = { id = id }, query = { cursor = ("%d"):format(cursor) }, sink = sink, timeout = timeout })
  if not response then
    if err.status == 400 then err.code = "not_found" end -- execd's answer for an unknown id
    return nil, err
  end
  local next_cursor = tonumber(response.headers[CURSOR_HEADER])
  if not next_cursor or next_cursor < cursor or next_cursor % 1 ~= 0 then
    return nil, errors.new {
      code = "protocol", message = ("the server's log cursor is malformed: %s"):format(tostring(response.headers[CURSOR_HEADER])),
      method = "GET", url = execd.base .. "/command/" .. id .. "/logs", request_id = response.request_id,
    }
  end
  return { output = response.body, cursor = math.floor(next_cursor) }
end
M.status, M.logs, M.interrupt = status, logs, interrupt

-- ------------------------------------------------------------------------------------------------------------------
-- stdin

local function random_name()
  local file = io.open("/dev/urandom", "rb")
  local bytes = file and file:read(16)
  if file then file:close() end
  if not bytes then
    bytes = {}
    for i = 1, 16 do bytes[i] = string.char(math.random(0, 255)) end
    bytes = table.concat(bytes)
  end
  return (bytes:gsub(".", function(char) return ("%02x"):format(char:byte()) end))
end

--- Puts the bytes into a private file of the sandbox; the command opens it and takes its name away before it begins.
-- @treturn string|nil path
local function write_stdin(state, opts)
  local path = "/tmp/.opensandbox-stdin-" .. random_name()
  -- a command of another user must be able to open it; its name can't be guessed
  local ok, err = state.files:write(path, opts.stdin, { mode = opts.uid and "644" or "600" })
  if not ok then return nil, err end
  return path
end

local function with_stdin(command, path)
  return ("exec < %s || exit 126; rm -f %s 2>/dev/null\n%s"):format(path, path, command)
end

-- ------------------------------------------------------------------------------------------------------------------
-- running

local function open_engine(state, command, opts)
  local execd, err = execd_of(state)
  if not execd then return nil, err end
  local path
  if opts.stdin then
    path, err = write_stdin(state, opts)
    if not path then return nil, err end
    command = with_stdin(command, path)
  end
  local engine
  engine, err = stream.open {
    lines = true, single = true, opts = opts,
    open = function(request)
      request.json = {
        command = command, cwd = opts.cwd, background = opts.background or nil, timeout = milliseconds(opts.timeout),
        envs = opts.env and next(opts.env) and opts.env or nil, uid = opts.uid, gid = opts.gid,
      }
      return run_command(execd, request)
    end,
    interrupt = function(id) return interrupt(state, id) end,
    exit_code = function(id)
      local answer = status(state, id, INTERRUPT_SECONDS)
      if answer then return answer.exit_code, answer.signal end
    end,
  }
  if not engine and path then state.files:remove(path) end
  if engine then engine.stdin_path = path end
  return engine, err
end

--- Removes what the shell may not have come to remove: it was killed first, or is another user's.
local function forget_stdin(state, engine)
  if engine.stdin_path and not engine.opts.background then
    task.shield(task.pcall, state.files.remove, state.files, engine.stdin_path)
  end
end

local function checked(run, opts, command)
  if not (opts.check and run.exit_code and run.exit_code ~= 0) then return run end
  local last = (run.stderr ~= "" and run.stderr or run.stdout):match("([^\n]*)$")
  return nil, errors.new {
    code = "command_failed", partial = run,
    message = ("the command ended with exit code %d: %s%s"):format(run.exit_code, command:match("^[^\n]*"):sub(1, 80),
      last ~= "" and " (" .. last:sub(1, 200) .. ")" or ""),
  }
end

local function run(state, command, opts)
  local engine, err = open_engine(state, command, opts)
  if not engine then return nil, err end
  local ok, result
  ok, result, err = task.pcall(stream.drive, engine)
  forget_stdin(state, engine)
  if not ok then error(result, 0) end
  if not result then return nil, err end
  return checked(result, opts, command)
end

local methods = {}

--- Runs a command and waits for its last event. Endpoint: execd `POST /command`.
-- @tparam string|table command a shell string, or a list of words, which are quoted safely
-- @tparam[opt] table opts
--
-- * `cwd` working directory (must exist); `env` names → values; `uid`, `gid` (gid needs uid)
-- * `timeout` seconds for the command: the server ends it, the client makes sure; the result is then nil, err (`timeout`)
-- * `stdin` bytes fed to the command; `background` return at once (see `start`)
-- * `max_output` bytes captured per stream (64 MiB); `capture` = false keeps nothing (handlers only)
-- * `check` = true: a non-zero exit is nil, err (`command_failed`)
-- * `idle_timeout` seconds of silence (20 on servers that ping, counted from the first ping), `deadline` seconds from the call
-- * `interrupt_on_cancel` = false leaves the command running when the call is ended early
-- * `on_stdout(text, {text,timestamp,is_error})`, `on_stderr`, `on_init{id,timestamp}`, `on_result`, `on_error`, `on_complete`,
--   `on_event(event)`
--
-- @treturn[1] table run `id`, `exit_code`, `signal`, `stdout`, `stderr`, `output`, `text`, `truncated`, `logs`, `result`, `error`,
-- `complete`
-- @treturn[2] nil
-- @treturn[2] table err; `err.partial` is the run as far as it came
function methods:run(command, opts)
  local state = state_of(self)
  opts = check_run(opts)
  return run(state, command_line(command), opts)
end

--- Runs a command whose exit code matters. Endpoint: execd `POST /command`.
-- @tparam string command a program, or (without args) a shell string
-- @tparam[opt] table args list of arguments
-- @tparam[opt] table opts as for `run`
-- @treturn[1] table `exit_code`, `output`, `stdout`, `stderr`, `id`
-- @treturn[2] nil
-- @treturn[2] table err
function methods:exec(command, args, opts)
  local state = state_of(self)
  opts = check_exec(opts)
  if opts.background then errors.raise("exec waits for the exit code: use start for background commands") end
  options.argument("command", command, "string")
  options.argument("args", args == nil and {} or args, "list")
  local line = command
  if args then
    local words = { command }
    for i = 1, #args do words[i + 1] = args[i] end
    line = words
  end
  local result, err = run(state, command_line(line), opts)
  if not result then return nil, err end
  return {
    exit_code = result.exit_code, signal = result.signal, output = result.output, stdout = result.stdout, stderr = result.stderr,
    truncated = result.truncated, id = result.id,
  }
end

--- Runs a command and hands out its events as they come. Endpoint: execd `POST /command`.
-- @tparam string|table command
-- @tparam[opt] table opts as for `run`
-- @treturn[1] userdata stream: `for event in stream:events() do … end`, `stream:next()`, `stream:cancel()`, `stream:result()`
-- @treturn[2] nil
-- @treturn[2] table err
function methods:stream(command, opts)
  local state = state_of(self)
  opts = check_stream(opts)
  local engine, err = open_engine(state, command_line(command), opts)
  if not engine then return nil, err end
  return stream.wrap(engine)
end

--- Starts a background command; its log is kept byte by byte. Endpoint: execd `POST /command`.
-- @tparam string|table command
-- @tparam[opt] table opts `cwd`, `env`, `timeout`, `uid`, `gid`, `stdin`, `deadline`, `idle_timeout`
-- @treturn[1] userdata job
-- @treturn[2] nil
-- @treturn[2] table err
function methods:start(command, opts)
  local state = state_of(self)
  opts = check_start(opts)
  opts.background, opts.capture, opts.interrupt_on_cancel = true, false, nil
  local line = command_line(command)
  local engine, err = open_engine(state, line, opts)
  if not engine then return nil, err end
  local result
  result, err = stream.drive(engine)
  if not result then return nil, err end
  if not result.id then
    return nil, errors.new { code = "protocol", message = "the server started a command without telling its id" }
  end
  return require("opensandbox.job").new(state, result.id, { fresh = true })
end

--- The job of a background command that runs already.
-- @tparam string id
-- @treturn userdata job (nothing is asked of the server)
function methods:attach(id)
  local state = state_of(self)
  return require("opensandbox.job").new(state, check_id(id))
end

--- What the server knows of a command. Endpoint: execd `GET /command/status/{id}`.
-- @tparam string id
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table `running`, `exit_code`, `signal`, `error`, `started_at`, `finished_at` (Unix seconds), `content`
-- @treturn[2] nil
-- @treturn[2] table err `not_found` for an unknown id
function methods:status(id, opts)
  local state = state_of(self)
  opts = check_call(opts)
  return status(state, check_id(id), opts.timeout)
end

--- What a background command has written so far. Endpoints: execd `GET /command/status/{id}`, `GET /command/{id}/logs`.
-- @tparam string id
-- @tparam[opt] table opts `cursor` in bytes (0: from the start), `timeout` in seconds
-- @treturn[1] table `output` (bytes from the cursor on), `cursor` (for the next call), `exit_code` (nil while it runs)
-- @treturn[2] nil
-- @treturn[2] table err `not_found` for an unknown or foreground id
function methods:output(id, opts)
  local state = state_of(self)
  opts = check_output(opts)
  -- the status first: what it says has ended has written everything that the log then shows
  local now, err = status(state, check_id(id), opts.timeout)
  if not now then return nil, err end
  local log
  log, err = logs(state, id, opts.cursor, nil, opts.timeout)
  if not log then return nil, err end
  log.exit_code, log.running = now.exit_code, now.running
  return log
end

--- Ends a command: SIGTERM to its process group, SIGKILL three seconds later. Endpoint: execd `DELETE /command`.
-- @tparam string id
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] boolean true, also when it had ended already
-- @treturn[2] nil
-- @treturn[2] table err `not_found` for an unknown id
function methods:interrupt(id, opts)
  local state = state_of(self)
  opts = check_call(opts)
  return interrupt(state, check_id(id), opts.timeout)
end

--- Opens a session: its working directory and exported variables last from run to run. Endpoint: execd `POST /session`.
-- @tparam[opt] table opts `cwd`, `timeout` in seconds
-- @treturn[1] userdata session
-- @treturn[2] nil
-- @treturn[2] table err
function methods:create_session(opts)
  return require("opensandbox.session").create(state_of(self), opts)
end

--- A session that exists already.
-- @tparam string id
-- @treturn userdata session (nothing is asked of the server)
function methods:attach_session(id)
  return require("opensandbox.session").attach(state_of(self), check_id(id))
end

local function session_of(self, session)
  if core.kind(session) == "session" then return session end
  return methods.attach_session(self, session)
end

--- `session:run` for a session or its id.
function methods:run_in_session(session, command, opts)
  state_of(self)
  return session_of(self, session):run(command, opts)
end

--- `session:delete` for a session or its id.
function methods:delete_session(session, opts)
  state_of(self)
  return session_of(self, session):delete(opts)
end

core.methods("commands", methods)

M.command_line = command_line
M.milliseconds = milliseconds
M.execd_of = execd_of
M.checked = checked
M.check_id = check_id

return M
