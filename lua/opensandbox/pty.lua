--- Terminals in a sandbox: `sandbox.pty`. A shell (or a command) behind a terminal, or behind pipes, that outlives its connection.
local commands = require "opensandbox.commands"
local core = require "opensandbox.core"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local json = require "opensandbox.json"
local options = require "opensandbox.options"
local record = require "opensandbox.record"
local task = require "opensandbox.task"
local websocket = require "opensandbox.websocket"

local PIECE = 32 * 1024 -- bytes of input per message
local KEPT = 1024 * 1024 -- bytes of unread output kept by `wait`, and from which on nothing more is fetched for `on_exit`
local WRITE_KEPT = 64 * 1024 * 1024 -- bytes of unread output that `write` bears with
local GRACE_SECONDS = 1 -- for output that comes behind the exit code

local STDIN = "\0"
local CHANNELS = { [1] = "stdout", [2] = "stderr", [3] = "replay" }
local SIGNALS = { SIGINT = true, SIGTERM = true, SIGKILL = true, SIGQUIT = true, SIGHUP = true }
local TAKEN_OVER = 4001 -- code of the closing frame
local FAILURES = { ALREADY_CONNECTED = "conflict", SESSION_GONE = "not_found", TAKEN_OVER = "closed" } -- of error messages; else "api"

local create_pty = endpoint { id = "createPty", plane = "execd", method = "POST", path = "/pty" }
local get_pty = endpoint { id = "getPty", plane = "execd", method = "GET", path = "/pty/{id}", returns = record {} }
local delete_pty = endpoint { id = "deletePty", plane = "execd", method = "DELETE", path = "/pty/{id}" }

local function attach_fields(more)
  local fields = {
    cols = { type = "integer" }, rows = { type = "integer" }, tty = { type = "boolean", default = true },
    since = { type = "integer" }, takeover = { type = "boolean", default = false },
    on_output = { type = "function" }, on_exit = { type = "function" }, timeout = { type = "duration" },
  }
  for name, field in pairs(more or {}) do fields[name] = field end
  return fields
end

local PAIRS = { requires = { cols = "rows", rows = "cols" } }
local check_open = options.declare("pty:open", attach_fields {
  cwd = { type = "string" }, command = { type = { "string", "table" } },
}, PAIRS)
local check_attach = options.declare("pty:attach", attach_fields(), PAIRS)
local check_call = options.declare("a call", { timeout = { type = "duration" } })

local function check_size(cols, rows)
  options.argument("cols", cols, "integer")
  options.argument("rows", rows, "integer")
  if cols < 1 or rows < 1 or cols > 65535 or rows > 65535 then errors.raise("cols and rows must be from 1 to 65535") end
end

local function check_options(opts)
  if opts.cols then check_size(opts.cols, opts.rows) end
  if opts.cols and not opts.tty then errors.raise "options 'cols' and 'rows' need a terminal: not with tty=false" end
  if opts.since and opts.since < 0 then errors.raise "option 'since' must not be negative" end
  return opts
end

local function fail(state, code, message, more)
  local fields = { code = code, message = message, url = state.url, method = "GET" }
  for name, value in pairs(more or {}) do fields[name] = value end
  return errors.new(fields)
end

-- ------------------------------------------------------------------------------------------------------------------
-- what the server sends

local function add_output(state, bytes, channel)
  state.offset = state.offset + #bytes
  state.queued = state.queued + #bytes
  state.last = state.last + 1
  state.queue[state.last] = { bytes = bytes, channel = channel }
end

local function take_output(state)
  local item = state.queue[state.first]
  state.queue[state.first] = nil
  state.first = state.first + 1
  state.queued = state.queued - #item.bytes
  state.room:wake()
  return item.bytes, item.channel
end

local function on_bytes(state, message)
  local channel = CHANNELS[message:byte(1)]
  if channel == "replay" then
    if #message < 9 then return end
    local offset = 0
    for i = 2, 9 do offset = offset * 256 + message:byte(i) end
    state.offset = offset
    add_output(state, message:sub(10), channel)
  elseif channel then
    add_output(state, message:sub(2), channel)
  end
end

--- The connection ends here; what was read stays.
local function finish(state, failure)
  if state.over then return end
  state.over, state.failure = true, not state.exit_code and failure or nil
  state.wire:drop()
  state.room:wake()
end

local function on_text(state, message)
  local frame = json.decode(message)
  if type(frame) ~= "table" then return end
  if frame.type == "connected" then
    state.connected, state.tty = true, frame.mode ~= "pipe"
  elseif frame.type == "exit" then
    state.exit_code, state.grace = tonumber(frame.exit_code) or -1, core.now() + GRACE_SECONDS
  elseif frame.type == "error" then
    local text = type(frame.error) == "string" and frame.error or "the terminal failed"
    finish(state, fail(state, FAILURES[frame.code] or "api", text, { api_code = type(frame.code) == "string" and frame.code or nil }))
  end
end

--- The error of a connection that ended before the shell did.
local function early_end(state)
  if state.closed then return fail(state, "closed", "the terminal was closed here") end
  local code, message = state.wire:failure()
  if code then return fail(state, code, message) end
  local status, reason = state.wire:close_status()
  if status == TAKEN_OVER then
    return fail(state, "closed", "another client took the terminal over", { api_code = "TAKEN_OVER" })
  end
  return fail(state, "closed", ("the terminal's connection was closed (%d %s)"):format(status, reason))
end

--- Reads one message, if there is one. Tells whether anything changed.
local function pull(state)
  if state.over then return false end
  local message, is_text = state.wire:receive()
  if message then
    (is_text and on_text or on_bytes)(state, message)
  elseif state.wire:ended() then
    finish(state, early_end(state))
  elseif state.grace and core.now() >= state.grace then
    finish(state)
  else
    return false
  end
  state.version = state.version + 1
  return true
end

--- Waits until something came from the server, whoever read it, or `also` is true. False when the deadline passed.
local function await(state, deadline, also)
  local seen = state.version
  local limit = deadline
  if state.grace and (not limit or state.grace < limit) then limit = state.grace end
  local awaited = {
    id = function() return state.wire:id() end,
    ready = function() return state.version ~= seen or state.over or state.wire:ready() or (also and also()) end,
  }
  return task.await(awaited, limit) or limit ~= deadline
end

--- Reads on until `test(state)` is true. Returns false when nothing will come any more, nil when the deadline passed.
local function read_until(state, test, deadline)
  while not test(state) do
    if not pull(state) then
      if state.over then return false end
      if not await(state, deadline) then return nil end
    end
  end
  return true
end

local function has_output(state) return state.first <= state.last end

-- ------------------------------------------------------------------------------------------------------------------
-- handlers: a task of their own

local function call_handler(state, handler, ...)
  local err = task.call_handler(handler, ...)
  if not err then return end
  finish(state)
  state.failure = err
  error(err, 0)
end

local function drive(state)
  while not state.closed do
    if state.on_output then
      if not read_until(state, has_output) then break end
      call_handler(state, state.on_output, take_output(state))
    elseif state.over then
      break
    elseif state.queued >= KEPT then
      task.await(state.room)
    elseif not pull(state) then
      await(state)
    end
  end
  if state.exit_code and state.on_exit and not state.closed then call_handler(state, state.on_exit, state.exit_code) end
end

--- Is this one of the handlers, or something it called?
local function in_handler(state)
  return state.driver and task.current_task() == core.state(state.driver, "task", true)
end

--- Why it ended, for whoever asks; that of a handler counts as told then.
local function failure_of(state)
  if state.failure and state.failure.code == "handler" and not in_handler(state) then state.driver:join(0) end
  return state.failure
end

-- ------------------------------------------------------------------------------------------------------------------
-- connecting

local function ask(sandbox, call, request)
  local execd, err = commands.execd_of(sandbox, request.timeout)
  if not execd then return nil, err end
  local answer
  answer, err = call(execd, request)
  if answer then return answer end
  return nil, errors.explain_unsupported(err, "terminals (PTY)")
end

local function send_frame(state, frame)
  if state.over or state.exit_code then
    return nil, failure_of(state) or fail(state, "closed", "the shell behind the terminal has ended")
  end
  local sent, err = websocket.send_text(state.socket, json.encode(frame))
  if sent then return true end
  pull(state)
  return nil, state.failure or err
end

local function connect(sandbox, id, opts, created)
  local execd, err = commands.execd_of(sandbox, opts.timeout)
  if not execd then return nil, err end
  local query = { { "pty", opts.tty and "1" or "0" } }
  if opts.since then query[#query + 1] = { "since", ("%d"):format(opts.since) } end
  if opts.takeover then query[#query + 1] = { "takeover", "1" } end
  local socket
  socket, err = websocket.open(execd, { path = "/pty/" .. endpoint.escape(id) .. "/ws", query = query, timeout = opts.timeout })
  if not socket then return nil, errors.explain_unsupported(err, "terminals (PTY)") end
  local state = {
    id = id, sandbox = sandbox, created = created, socket = socket, wire = websocket.wire(socket), url = websocket.url(socket),
    queue = {}, first = 1, last = 0, queued = 0, offset = opts.since or 0, version = 0, on_output = opts.on_output, on_exit = opts.on_exit,
  }
  state.room = task.condition("room for the terminal's output", function() return state.queued < KEPT or state.over end)
  local timeout = opts.timeout or sandbox.connection_state.request_timeout
  local deadline = core.now() + timeout
  if not read_until(state, function() return state.connected end, deadline) then
    err = state.failure or fail(state, "timeout", ("the server did not say within %g s that the terminal is there"):format(timeout))
    finish(state)
    return nil, err
  end
  if opts.cols and state.tty then send_frame(state, { type = "resize", cols = opts.cols, rows = opts.rows }) end
  if opts.on_output or opts.on_exit then state.driver = require("opensandbox.tasks").spawn(drive, state) end
  return core.new("pty", state)
end

-- ------------------------------------------------------------------------------------------------------------------
-- one terminal

local methods = { __fields = { id = true, offset = true, tty = true } }

--- Sends input, all of it. Waits while the shell takes no more; output that comes meanwhile is kept for `read` (at most 64 MiB).
-- @tparam string bytes
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err `closed` where the shell has ended or another client took over; `err.partial` is how many bytes were sent
function methods:write(bytes)
  local state = core.state(self, "pty")
  options.argument("bytes", bytes, "string")
  local function writable() return state.wire:writable() end
  local reads = not state.on_output or in_handler(state) -- else the handler's task does
  for at = 1, #bytes, PIECE do
    if not reads then task.await(state.wire, nil, "writable") end
    while not state.over and not writable() do
      if state.queued > WRITE_KEPT then
        return nil, fail(state, "limit", "nobody reads the terminal's output, so it takes no more input", { partial = at - 1 })
      end
      if not pull(state) then await(state, nil, writable) end
    end
    while state.wire:ended() and pull(state) do end
    if state.over or state.exit_code or not state.wire:send(STDIN .. bytes:sub(at, at + PIECE - 1), false) then
      local err = failure_of(state) or fail(state, "closed", "the shell behind the terminal has ended")
      err.partial = at - 1
      return nil, err
    end
  end
  return true
end

--- Waits for output.
-- @tparam[opt] number timeout seconds (none)
-- @treturn[1] string bytes some of it, as it came
-- @treturn[1] string channel `"stdout"` (all that a terminal shows), `"stderr"` (only with `tty=false`), `"replay"` (what was written
-- before this connection)
-- @treturn[2] nil the shell has ended: `wait` gives its exit code
-- @treturn[3] nil
-- @treturn[3] table err `timeout`, `closed` where another client took over, `truncated`, `network`
function methods:read(timeout)
  local state = core.state(self, "pty")
  if timeout ~= nil then options.argument("timeout", timeout, "duration") end
  if state.on_output then errors.raise "read: the output of this terminal goes to its on_output" end
  local came = read_until(state, has_output, timeout and core.now() + timeout)
  if came then return take_output(state) end
  if came == nil then return nil, fail(state, "timeout", ("no output within %g s"):format(timeout)) end
  return nil, failure_of(state)
end

--- Changes the size of the terminal.
-- @tparam integer cols
-- @tparam integer rows
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err `closed`; `unsupported` for a shell without a terminal
function methods:resize(cols, rows)
  local state = core.state(self, "pty")
  check_size(cols, rows)
  if not state.tty then return nil, fail(state, "unsupported", "this shell has pipes and no terminal, so it has no size") end
  return send_frame(state, { type = "resize", cols = cols, rows = rows })
end

--- Sends a signal to the shell's process group.
-- @tparam string name `"SIGINT"`, `"SIGTERM"`, `"SIGKILL"`, `"SIGQUIT"` or `"SIGHUP"`
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err
function methods:signal(name)
  local state = core.state(self, "pty")
  options.argument("signal", name, "string")
  if not SIGNALS[name] then errors.raise(("signal must be SIGINT, SIGTERM, SIGKILL, SIGQUIT or SIGHUP, got '%s'"):format(name)) end
  return send_frame(state, { type = "signal", signal = name })
end

--- Waits until the shell has ended, and its handlers have run. Of output that nobody reads meanwhile the last MiB is kept for `read`.
-- @tparam[opt] number timeout seconds (none)
-- @treturn[1] integer exit_code as the server tells it (the original one: -1 where a signal ended the shell)
-- @treturn[2] nil
-- @treturn[2] table err `timeout`; `closed` where another client took over, `handler` where a handler failed, `truncated`, `network`
function methods:wait(timeout)
  local state = core.state(self, "pty")
  if timeout ~= nil then options.argument("timeout", timeout, "duration") end
  local deadline = timeout and core.now() + timeout
  local over = true
  if not state.on_output or in_handler(state) then
    over = read_until(state, function()
      while state.queued > KEPT and state.first < state.last do take_output(state) end
      return state.over
    end, deadline)
  end
  if over ~= nil and state.driver and not in_handler(state) then
    local _, err = state.driver:join(deadline and math.max(0, deadline - core.now()))
    if err and err.code == "timeout" then over = nil end
  end
  if over == nil then return nil, fail(state, "timeout", ("the shell still runs after %g s"):format(timeout)) end
  if state.failure then return nil, failure_of(state) end
  return state.exit_code
end

--- Ends the connection; the shell goes on, for `sandbox.pty:attach`. Handlers are called no more. Closing twice is fine.
-- @treturn boolean true
function methods:close()
  local state = core.state(self, "pty", true)
  if core.close(self) then
    state.closed = true
    state.socket:close()
    pull(state)
  end
  return true
end

--- Ends the shell. Endpoint: execd `DELETE /pty/{id}`.
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err `not_found` where it is gone already
function methods:delete(opts)
  local state = core.state(self, "pty", true)
  local done, err = ask(state.sandbox, delete_pty, { params = { id = state.id }, timeout = check_call(opts).timeout })
  methods.close(self)
  if not done then return nil, err end
  return true
end

--- Deletes a terminal that this handle opened.
local function close_scope(self)
  local state = core.state(self, "pty", true)
  if state.created and not core.is_closed(self) then task.shield(task.pcall, methods.delete, self) end
  methods.close(self)
end

core.methods("pty", methods, { __close = close_scope })

-- ------------------------------------------------------------------------------------------------------------------
-- sandbox.pty

local terminals = {}

--- Starts a shell behind a terminal and connects to it. Endpoints: execd `POST /pty`, `GET /pty/{id}/ws`.
-- @tparam[opt] table opts
--
-- * `cwd`; `command`: a shell string, or a list of words, instead of an interactive shell
-- * `cols` (80), `rows` (24); `tty` true; false: pipes, with stderr apart
-- * `on_output(bytes, channel)`, `on_exit(exit_code)`: called in a task of their own, which goes on until the shell ends or `close`,
--   also where the handle is lost
-- * `since`, `takeover`: as for `attach`
-- * `timeout` in seconds, for each of the two requests
--
-- @treturn[1] userdata pty; `pty.id`, `pty.offset` (bytes of output seen: the `since` of a later `attach`), `pty.tty`
-- @treturn[2] nil
-- @treturn[2] table err `unsupported` where the server has no terminals
function terminals:open(opts)
  local sandbox = core.state(self, "terminals")
  opts = check_options(check_open(opts))
  local command = opts.command and commands.command_line(opts.command)
  if opts.tty and not opts.cols then opts.cols, opts.rows = 80, 24 end
  local answer, err = ask(sandbox, create_pty, { json = { cwd = opts.cwd, command = command }, timeout = opts.timeout })
  if not answer then return nil, err end
  local id = type(answer) == "table" and answer.session_id
  if type(id) ~= "string" or id == "" then
    return nil, errors.new { code = "protocol", message = "the server made a terminal without telling its id" }
  end
  local ok, pty
  ok, pty, err = task.pcall(connect, sandbox, id, opts, true)
  if ok and pty then return pty end
  task.shield(task.pcall, ask, sandbox, delete_pty, { params = { id = id }, timeout = opts.timeout })
  if not ok then error(pty, 0) end
  return nil, err
end

--- Connects to a shell that goes on since another connection. Endpoint: execd `GET /pty/{id}/ws`.
-- @tparam string id
-- @tparam[opt] table opts `since` (a byte of its output: what was written from there on comes first; 0, all that the server has kept, when
-- absent), `takeover` (true: whoever is connected is disconnected; else that is a `conflict`), `cols` and `rows` (unchanged when
-- absent), `on_output`, `on_exit`, `timeout`; `tty` counts only for a shell that was never connected
-- @treturn[1] userdata pty
-- @treturn[2] nil
-- @treturn[2] table err `not_found`, `conflict`
function terminals:attach(id, opts)
  local sandbox = core.state(self, "terminals")
  return connect(sandbox, commands.check_id(id), check_options(check_attach(opts)))
end

--- What the server knows of a terminal. Endpoint: execd `GET /pty/{id}`.
-- @tparam string id
-- @tparam[opt] table opts `timeout`
-- @treturn[1] table `{id=, running=, output_offset=, raw=}`
-- @treturn[2] nil
-- @treturn[2] table err `not_found`
function terminals:status(id, opts)
  local sandbox = core.state(self, "terminals")
  local request = { params = { id = commands.check_id(id) }, timeout = check_call(opts).timeout }
  local status, err = ask(sandbox, get_pty, request)
  if not status then return nil, err end
  status.id, status.session_id = status.session_id or id, nil
  return status
end

--- Ends a shell. Endpoint: execd `DELETE /pty/{id}`.
-- @tparam string id
-- @tparam[opt] table opts `timeout`
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err `not_found`
function terminals:delete(id, opts)
  local sandbox = core.state(self, "terminals")
  return ask(sandbox, delete_pty, { params = { id = commands.check_id(id) }, timeout = check_call(opts).timeout })
end

core.methods("terminals", terminals)
