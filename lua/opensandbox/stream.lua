--- Event streams of running commands and code: the engine behind `run`, and the `stream` object.
--
-- A run pulls its events in the context of whoever called it and calls the handlers there, between two waits. It is over at its last event;
-- the connection is left to drain in the background.
local core = require "opensandbox.core"
local defaults = require "opensandbox.defaults"
local errors = require "opensandbox.errors"
local execution = require "opensandbox.execution"
local json = require "opensandbox.json"
local task = require "opensandbox.task"

local M = {}

local WANT_STDOUT, WANT_STDERR, WANT_PING = 1, 2, 4
local INIT_SECONDS = 5 -- how long an unread stream is read on for its id, so that it can be interrupted
local GRACE_SECONDS = 2 -- what a server gets beyond a command's time-out to end it
local DEFAULT_CAPTURE = 64 * 1024 * 1024

--- Ends the remote command, once its id is known. Never raises, never takes long.
local function interrupt(engine)
  if not engine.interrupt or engine.opts.interrupt_on_cancel == false or engine.ended then return end
  task.shield(task.pcall, function()
    local limit = core.now() + INIT_SECONDS
    while not engine.execution.run.id and engine.transfer do
      local kind, text = engine.transfer:next(nil, 0)
      if kind == "init" then
        engine.execution.run.id = text
      elseif kind == "limit" or core.now() > limit then
        break
      elseif not kind and (engine.transfer:done() or not task.await(engine.transfer, limit)) then
        break
      end
    end
    if engine.execution.run.id then engine.interrupt(engine.execution.run.id) end
  end)
end

--- Opens the engine of one run.
-- @tparam table given
--
-- * `open(request)` makes the request: the caller's endpoint; request holds the clocks and `lines`
-- * `interrupt(id)` ends the remote command; nil where that is not to be done
-- * `exit_code(id)` asks the server for an exit code; nil where it cannot be asked
-- * `lines` events are lines; `single` error or execution_complete, whichever comes first, is the last event; else the stream goes on
--   until the server ends it: interpreters tell of completion before all of their output, and of errors after it
-- * `opts` the options of the call: `timeout`, `idle_timeout`, `deadline`, `capture`, `max_output`, `background`, `interrupt_on_cancel`
--
-- @treturn table|nil engine
-- @treturn table err
function M.open(given)
  local opts = given.opts
  local now = core.now()
  local deadline = opts.deadline and now + opts.deadline
  if opts.timeout then deadline = math.min(deadline or math.huge, now + opts.timeout + GRACE_SECONDS) end
  local http_stream, err = given.open {
    lines = given.lines, deadline = deadline, idle_timeout = opts.idle_timeout,
    ping_idle_timeout = not opts.idle_timeout and defaults.idle_timeout or nil,
    on_abandon = function(transfer)
      interrupt { transfer = transfer, interrupt = given.interrupt, opts = opts, execution = execution.new() }
    end,
  }
  if not http_stream then return nil, err end
  local capture = opts.capture ~= false and core.capture(opts.max_output or DEFAULT_CAPTURE, given.lines) or nil
  return {
    transfer = http_stream.transfer, request_id = http_stream.request_id, method = http_stream.method, url = http_stream.url,
    interrupt = given.interrupt, ask_exit_code = given.exit_code, single = given.single, opts = opts, started = now,
    capture = capture, execution = execution.new(capture),
  }
end

local function fail(engine, code, message, more)
  local fields = { code = code, message = message, method = engine.method, url = engine.url, request_id = engine.request_id }
  for key, value in pairs(more or {}) do fields[key] = value end
  return errors.new(fields)
end

--- Lets the transfer go. `clean`: the last event was seen, so that its connection may be kept.
local function release(engine, clean)
  local transfer = engine.transfer
  engine.transfer = nil
  if not transfer then return end
  if clean then transfer:drain() else transfer:cancel() end
end

-- ------------------------------------------------------------------------------------------------------------------
-- the end of a run

local function timed_out(engine)
  return ("the command was ended after its time-out of %g s"):format(engine.opts.timeout)
end

--- Did the server end the command because of its time-out? It only says that the command was killed.
local function was_timed_out(engine, run)
  local timeout = engine.opts.timeout
  if not timeout or run.signal ~= "SIGKILL" then return false end
  local elapsed = core.now() - engine.started
  if engine.init_time and run.error.timestamp then elapsed = math.max(elapsed, run.error.timestamp - engine.init_time) end
  return elapsed >= timeout
end

local function finish(engine)
  local run = execution.close(engine.execution)
  if run.error then run.exit_code, run.signal = execution.exit_code_of(run.error) end
  if engine.opts.background or not engine.single then
    run.exit_code = nil
  elseif run.error then
    if was_timed_out(engine, run) then
      return nil, fail(engine, "timeout", timed_out(engine), { partial = run })
    end
    if not run.exit_code and engine.ask_exit_code and run.id then run.exit_code, run.signal = engine.ask_exit_code(run.id) end
    if not run.exit_code then
      local message = ("the command failed without an exit code: %s: %s"):format(run.error.name, run.error.value)
      return nil, fail(engine, "exit_code_missing", message, { partial = run })
    end
  else
    run.exit_code = 0
  end
  engine.result = run
  return run
end

--- Ends a run that did not get to its last event.
local function abort(engine, err)
  if engine.failure then return nil, engine.failure end
  interrupt(engine)
  release(engine)
  local run = execution.close(engine.execution)
  if err.partial == nil then err.partial = run end
  engine.failure = err
  return nil, err
end

--- The error of a stream that ended too early.
local function early_end(engine)
  local code, message = engine.transfer:failure()
  if code == "timeout" then
    local timeout = engine.opts.timeout
    local limited = timeout and core.now() - engine.started >= timeout
    return fail(engine, "timeout", limited and timed_out(engine) or message)
  end
  engine.ended = code == nil -- the server ended the stream by itself: there is nothing left to interrupt
  local run = engine.execution.run
  if run.id and engine.ask_exit_code and engine.interrupt then
    local ok, exit_code, signal = task.pcall(engine.ask_exit_code, run.id)
    if ok and exit_code then
      run.exit_code, run.signal, engine.ended = exit_code, signal, true
    end
  end
  return fail(engine, "truncated", "the stream ended before its last event" .. (message and ": " .. message or ""))
end

--- The error of a frame without a type: a server's own failure at the end of a stream that began well.
local function untyped_error(engine, body)
  engine.ended = true
  local message = type(body.message) == "string" and body.message or type(body.error) == "string" and body.error or "the server failed"
  local code = "api"
  if message:find("timeout after", 1, true) then
    code = "timeout"
  elseif message:find("busy", 1, true) then
    code = "conflict"
  elseif message:find("not found", 1, true) or message:find("no such", 1, true) then
    code = "not_found"
  end
  return fail(engine, code, message, { api_code = type(body.code) == "string" and body.code or nil })
end

--- Is a stream without a single last event, which the server ended by itself, whole?
local function ended_well(engine)
  local run = engine.execution.run
  return not engine.single and (run.complete or run.error) and not engine.transfer:failure()
end

-- ------------------------------------------------------------------------------------------------------------------
-- events

local function decode(engine, text)
  local event, problem = json.decode(text)
  if type(event) == "table" then return event end
  return nil, fail(engine, "decode", "an event can't be read: " .. tostring(problem))
end

--- Reads an event of the rarer types. Returns the event for users, whether it is the last one, or nil and an error.
local function complex_event(engine, kind, text, timestamp, raw, execution_time)
  local run = engine.execution.run
  if kind == "init" then
    run.id, engine.init_time = text, timestamp
    return { type = "init", id = text, text = text, timestamp = timestamp }
  elseif kind == "execution_complete" then
    run.complete = { execution_time = execution_time or 0, timestamp = timestamp }
    return { type = kind, execution_time = run.complete.execution_time, timestamp = timestamp }, engine.single
  elseif kind == "ping" then
    return { type = "ping", text = text, timestamp = timestamp }
  end
  local body, err = decode(engine, raw)
  if not body then return nil, err end
  if kind == "error" then
    run.error = execution.error_of(body, timestamp)
    local event = { type = "error" }
    for key, value in pairs(run.error) do event[key] = value end
    return event, engine.single
  elseif kind == "result" then
    local result = execution.result_of(body, timestamp)
    run.result[#run.result + 1] = result
    return { type = "result", text = result.text, mime = result.mime, timestamp = timestamp }
  elseif kind == "execution_count" then
    run.execution_count = body.execution_count
    return { type = kind, execution_count = body.execution_count, timestamp = timestamp }
  elseif kind == "" then
    if body.code or body.message or body.error then return nil, untyped_error(engine, body) end
    return nil, fail(engine, "protocol", "an event has no type")
  end
  return { type = kind, text = text, timestamp = timestamp, raw = body }
end

local function failed_frame(engine, kind, text, unfinished)
  if kind == "limit" then return fail(engine, "limit", text) end
  if unfinished then return early_end(engine) end
  return fail(engine, "decode", "an event is not valid JSON: " .. text:gsub("%c", " "))
end

--- Pulls the next event of a stream, waiting for it.
-- @treturn table|nil event; nil at the end or failure
-- @treturn table|nil err
local function pull(engine, want)
  local transfer = engine.transfer
  while transfer do
    local kind, text, timestamp, raw, execution_time = transfer:next(engine.capture, want)
    if kind == "stdout" or kind == "stderr" then
      return { type = kind, text = text, timestamp = timestamp }
    elseif kind then
      if timestamp == false then return nil, failed_frame(engine, kind, text, raw == false) end
      local event, last = complex_event(engine, kind, text, timestamp, raw, execution_time)
      if not event then return nil, last end
      if last then
        engine.ended = true
        release(engine, true)
      end
      return event
    elseif transfer:done() then
      if ended_well(engine) then return nil end
      return nil, early_end(engine)
    else
      task.await(transfer)
    end
  end
end

--- Tells the handler of a stream that went on behind its execution_complete, unless an error came.
local function tell_completion(engine, handler)
  local run = engine.execution.run
  if not handler or not run.complete or run.error then return end
  engine.in_handler = true
  handler { type = "execution_complete", execution_time = run.complete.execution_time, timestamp = run.complete.timestamp }
  engine.in_handler = false
end

--- Calls the handlers for everything that is at hand. Runs inside one protected call for a whole batch.
-- Returns "wait", "pause" (a host's turn is over), "done" (the transfer has ended), "end", or "failed" with an error.
local function dispatch(engine, handlers, want)
  local transfer, capture = engine.transfer, engine.capture
  local on_stdout, on_stderr, on_event = handlers.stdout, handlers.stderr, handlers.event
  local next_event, scheduler = transfer.next, task.scheduler()
  while true do
    local kind, text, timestamp, raw, execution_time = next_event(transfer, capture, want)
    if kind == "stdout" or kind == "stderr" then
      local handler, is_error = on_stdout, false
      if kind == "stderr" then handler, is_error = on_stderr, true end
      engine.in_handler = true
      if handler then handler(text, { text = text, timestamp = timestamp, is_error = is_error }) end
      if on_event then on_event { type = kind, text = text, timestamp = timestamp } end
      engine.in_handler = false
      if scheduler.stop_at and task.is_over_budget() then return "pause" end
    elseif kind then
      if timestamp == false then return "failed", failed_frame(engine, kind, text, raw == false) end
      local event, last = complex_event(engine, kind, text, timestamp, raw, execution_time)
      if not event then return "failed", last end
      if last then engine.ended = true end
      local handler = handlers[kind]
      if kind == "execution_complete" and not last then handler = nil end -- told when the stream has ended
      engine.in_handler = true
      if handler then handler(event) end
      if on_event then on_event(event) end
      engine.in_handler = false
      if last then return "end" end
    elseif not transfer:done() then
      return "wait"
    elseif not ended_well(engine) then
      return "failed", early_end(engine)
    else
      engine.ended = true
      tell_completion(engine, handlers.execution_complete)
      return "end"
    end
  end
end

local function handlers_of(opts)
  return {
    stdout = opts.on_stdout, stderr = opts.on_stderr, event = opts.on_event, init = opts.on_init, result = opts.on_result,
    error = opts.on_error, execution_complete = opts.on_complete,
  }
end

local function wanted(opts)
  local want = 0
  if opts.on_stdout or opts.on_event then want = want + WANT_STDOUT end
  if opts.on_stderr or opts.on_event then want = want + WANT_STDERR end
  if opts.on_event then want = want + WANT_PING end
  return want
end

--- What a raised error means: a user's handler failed, or the task was cancelled, or a bug of ours.
local function handler_failure(engine, value, trace)
  if not engine.in_handler then return nil end
  engine.in_handler = false
  if errors.is(value) and value.code == "cancelled" then return nil end
  return fail(engine, "handler", "a handler failed: " .. tostring(value), { cause = value, traceback = trace })
end

--- Runs an engine to its end, calling the handlers of its options.
-- @treturn table|nil the execution
-- @treturn table err
function M.drive(engine)
  local opts = engine.opts
  local handlers, want = handlers_of(opts), wanted(opts)
  local trace
  local function on_error(value, co)
    trace = co and debug.traceback(co, tostring(value)) or debug.traceback(tostring(value), 2)
    return value
  end
  while true do
    local ok, state, err = task.xpcall(dispatch, on_error, engine, handlers, want)
    if not ok then
      local failure = handler_failure(engine, state, trace)
      abort(engine, failure or errors.new { code = "cancelled", message = "the call was ended" })
      if failure then return nil, failure end
      error(state, 0)
    elseif state == "failed" then
      return abort(engine, err)
    elseif state == "end" then
      release(engine, true)
      return finish(engine)
    end
    local wait = state == "pause" and task.pause or task.await
    local waited, problem = task.pcall(wait, engine.transfer)
    if not waited then -- a cancelled task, or Ctrl-C: the command goes first
      abort(engine, errors.new { code = "cancelled", message = "the call was ended" })
      error(problem, 0)
    end
  end
end

-- ------------------------------------------------------------------------------------------------------------------
-- the stream object

local methods = {}

local function stream_state(self)
  return core.state(self, "stream", true)
end

--- Makes the stream object of an engine.
function M.wrap(engine)
  return core.new("stream", { engine = engine, label = engine.url })
end

--- Waits for the next event.
-- @treturn table|nil event `{type=, text=, timestamp=, …}`; nil at the end and after a failure (`result` tells which)
function methods:next()
  local engine = stream_state(self).engine
  if not engine.transfer then return nil end
  local ok, event, err = task.pcall(pull, engine, WANT_STDOUT + WANT_STDERR + WANT_PING)
  if not ok then
    abort(engine, errors.new { code = "cancelled", message = "the call was ended" })
    error(event, 0)
  end
  if event then return event end
  if err then
    abort(engine, err)
  else
    release(engine, true)
  end
  return nil
end

--- Iterates over the events. Leaving the loop early (in Lua 5.4: by `break`, too) interrupts the command.
-- @treturn function iterator; in Lua 5.4 with the stream as closing value
function methods:events()
  stream_state(self)
  return methods.next, self, nil, self
end

--- Interrupts the command and ends the stream. What was read so far is in the error that `result` gives.
-- @treturn boolean true
function methods:cancel()
  local engine = stream_state(self).engine
  if not engine.result and not engine.failure and engine.transfer then
    abort(engine, fail(engine, "cancelled", "the stream was cancelled"))
  end
  core.close(self)
  return true
end

--- What the command did: reads on to its end where it was not reached yet.
-- @treturn table|nil execution, as `run` returns it
-- @treturn table err
function methods:result()
  local engine = stream_state(self).engine
  while engine.transfer and methods.next(self) do end
  if engine.failure then return nil, engine.failure end
  if engine.result then return engine.result end
  local run, err = finish(engine)
  if not run then engine.failure = err end
  return run, err
end

core.methods("stream", methods, { __close = function(self) methods.cancel(self) end })

return M
