--- Background commands: a handle on a command that runs on by itself, and its byte-exact log.
local commands = require "opensandbox.commands"
local core = require "opensandbox.core"
local errors = require "opensandbox.errors"
local options = require "opensandbox.options"
local task = require "opensandbox.task"

local M = {}

local FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1 -- seconds between two looks
local SETTLE_SECONDS = 3 -- a command just started may be unknown for a moment
local OUTAGE_SECONDS = 30 -- how long follow and wait bear a server that can't be reached

local check_call = options.declare("job:status", { timeout = { type = "duration" } })
local check_wait = options.declare("job:wait", { timeout = { type = "duration" } })
local check_output = options.declare("job:output", { cursor = { type = "integer", default = 0 }, timeout = { type = "duration" } })
local check_follow = options.declare("job:follow", { cursor = { type = "integer", default = 0 }, timeout = { type = "duration" } })

local methods = { __fields = { id = true } }

--- Asks for the status; right after the start an unknown id is asked for again.
local function status(state, timeout)
  while true do
    local answer, err = commands.status(state.sandbox, state.id, timeout)
    if answer then state.fresh = nil end
    if answer or not (state.fresh and err.code == "not_found" and core.now() < state.fresh) then return answer, err end
    task.sleep(FIRST_PAUSE)
  end
end

--- What the server knows of the command. Endpoint: execd `GET /command/status/{id}`.
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table `running`, `exit_code`, `signal`, `error`, `started_at`, `finished_at`, `content`
-- @treturn[2] nil
-- @treturn[2] table err
function methods:status(opts)
  local state = core.state(self, "job")
  return status(state, check_call(opts).timeout)
end

--- What it has written so far. Endpoint: execd `GET /command/{id}/logs`.
-- @tparam[opt] table opts `cursor` in bytes, `timeout` in seconds
-- @treturn[1] table `output`, `cursor`, `exit_code` (nil while it runs), `running`
-- @treturn[2] nil
-- @treturn[2] table err
function methods:output(opts)
  local state = core.state(self, "job")
  opts = check_output(opts)
  local now, err = status(state, opts.timeout)
  if not now then return nil, err end
  local log
  log, err = commands.logs(state.sandbox, state.id, opts.cursor, nil, opts.timeout)
  if not log then return nil, err end
  log.exit_code, log.running = now.exit_code, now.running
  return log
end

--- Ends it. True also when it has ended already. Endpoint: execd `DELETE /command`.
function methods:interrupt(opts)
  local state = core.state(self, "job")
  return commands.interrupt(state.sandbox, state.id, check_call(opts).timeout)
end

--- Repeats `look` with growing pauses until it gives a result, bearing outages of the server.
local function poll(state, timeout, look)
  local deadline = timeout and core.now() + timeout or math.huge
  local pause, outage = FIRST_PAUSE, nil
  while true do
    local result, err, progressed = look()
    if result then return result end
    local now = core.now()
    if err then
      outage = outage or now
      if not err.retryable or now - outage > OUTAGE_SECONDS then return nil, err end
    else
      outage = nil
    end
    if now >= deadline then
      return nil, errors.new { code = "timeout", message = ("the command %s still runs after %g s"):format(state.id, timeout) }
    end
    pause = progressed and FIRST_PAUSE or math.min(pause * 1.5, LONGEST_PAUSE)
    task.sleep(math.min(pause, deadline - now))
  end
end

--- Waits until the command has ended.
-- @tparam[opt] table opts `timeout` in seconds (none); when it is over the command goes on
-- @treturn[1] table status
-- @treturn[2] nil
-- @treturn[2] table err `timeout`
function methods:wait(opts)
  local state = core.state(self, "job")
  opts = check_wait(opts)
  return poll(state, opts.timeout, function()
    local answer, err = status(state)
    if answer and not answer.running then return answer end
    return nil, err
  end)
end

--- Hands over everything that the command writes, byte by byte as it was written, until it ends. A broken connection is resumed where it
-- broke. Endpoints: execd `GET /command/{id}/logs`, `GET /command/status/{id}`.
-- @tparam function fn gets the bytes, in pieces
-- @tparam[opt] table opts `cursor` in bytes (0: from the start), `timeout` in seconds (none)
-- @treturn[1] table status
-- @treturn[2] nil
-- @treturn[2] table err `err.partial` is the cursor up to which bytes were handed over
function methods:follow(fn, opts)
  local state = core.state(self, "job")
  options.argument("fn", fn, "function")
  opts = check_follow(opts)
  local cursor = opts.cursor
  local result, failure = poll(state, opts.timeout, function()
    -- the status first: what has ended has written all that the log then shows
    local now, err = status(state)
    if not now then return nil, err end
    local before = cursor
    local log
    log, err = commands.logs(state.sandbox, state.id, cursor, function(bytes)
      cursor = cursor + #bytes -- counted before it is handed over: no byte comes twice
      fn(bytes)
    end)
    if not log then return nil, err, cursor > before end
    if log.cursor > cursor then
      return nil, errors.new { code = "truncated", message = "the log ended before its cursor" }, true
    end
    if not now.running then return now end
    return nil, nil, cursor > before
  end)
  if not result and failure.partial == nil then failure.partial = cursor end
  return result, failure
end

--- Frees the handle; the command goes on.
function methods:close()
  core.state(self, "job", true)
  core.close(self)
  return true
end

core.methods("job", methods)

--- @tparam table sandbox state of the sandbox
-- @tparam string id
-- @tparam[opt] table opts `fresh`: it was started just now
function M.new(sandbox, id, opts)
  local fresh = opts and opts.fresh and core.now() + SETTLE_SECONDS or nil
  return core.new("job", { id = id, sandbox = sandbox, fresh = fresh })
end

return M
