--- Waiting until a sandbox runs and is healthy.
local core = require "opensandbox.core"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local lifecycle = require "opensandbox.lifecycle"
local target = require "opensandbox.target"
local task = require "opensandbox.task"

local M = {}

local STATE_INTERVAL = 2 -- seconds between looks at the state while the health check fails
local LONGEST_POLL = 2
local LONGEST_PING = 5 -- an endpoint that takes connections too early may never answer them
local ENDED = { Failed = true, Terminated = true }
-- What will not get better by waiting, when the lifecycle server answers so.
local FINAL = { not_found = true, unauthorized = true, forbidden = true, unsupported = true }
local UNREACHABLE = { connect = true, timeout = true, dns = true, network = true }

local ping = endpoint { id = "ping", plane = "execd", method = "GET", path = "/ping", returns = "response" }

local function not_ready(state, message, fields)
  local err = { code = "not_ready", message = ("sandbox %s %s"):format(state.id, message) }
  for key, value in pairs(fields or {}) do err[key] = value end
  return errors.new(err)
end

--- Asks once: true, or false and why not. A third value is an error that ends all waiting.
local function check_health(sandbox, state, health_check, timeout)
  if health_check then
    local err, healthy = task.call_handler(health_check, sandbox)
    if err then return false, err, err end
    if healthy then return true end
    return false, errors.new { code = "unhealthy", message = "the health check returned " .. tostring(healthy) }
  end
  local execd, err = target.plane(state, "execd", { timeout = timeout })
  if not execd then return false, err, FINAL[err.code] and err end
  local response
  response, err = ping(execd, { timeout = timeout, retry = false })
  if response then return true end
  return false, err
end

--- Is the sandbox healthy now?
-- @treturn boolean
-- @treturn[opt] table err why not
function M.is_healthy(sandbox, state, timeout)
  local healthy, err = check_health(sandbox, state, state.health_check, timeout)
  if healthy then return true end
  return false, err
end

local function reason_of(status)
  local reason = status.message or status.reason
  if status.message and status.reason then reason = ("%s: %s"):format(status.reason, status.message) end
  return reason and (" (%s)"):format(reason) or ""
end

--- The error of a state that will never become Running, or nil.
local function ended(state, status)
  if ENDED[status.state] then
    return not_ready(state, ("is %s%s"):format(status.state, reason_of(status)), { retryable = false })
  end
end

local function look(state, deadline)
  local server, err = target.lifecycle(state.connection_state)
  if not server then return nil, err end
  local limit = math.min(state.connection_state.request_timeout, math.max(deadline - core.now(), 1))
  return lifecycle.get(server, { params = { id = state.id }, timeout = limit })
end

--- Waits until the server says that the sandbox is Running.
-- @tparam table state of the sandbox
-- @tparam number deadline on the clock of core.now
-- @tparam table opts `status`: the one already known; `interval`: first pause between two looks, in seconds; `paused_is_final`: a paused
-- sandbox is an error instead of one that is about to resume
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err
function M.wait_running(state, deadline, opts)
  local status, interval, started = opts.status, opts.interval, core.now()
  while true do
    if not status then
      local info, err = look(state, deadline)
      if not info and not (err.retryable and core.now() < deadline) then return nil, err end
      status = info and info.status or { state = "unknown" }
    end
    if status.state == "Running" then return true end
    local err = ended(state, status)
    if err then return nil, err end
    if opts.paused_is_final and (status.state == "Paused" or status.state == "Pausing") then
      return nil, not_ready(state, ("is %s: opensandbox.resume(id) starts it again"):format(status.state), { retryable = false })
    end
    if core.now() >= deadline then
      return nil, not_ready(state, ("is still %s after %.1f s%s"):format(tostring(status.state), core.now() - started, reason_of(status)))
    end
    task.sleep(math.max(0, math.min(interval, deadline - core.now())))
    interval = math.min(interval * 1.5, LONGEST_POLL)
    status = nil
  end
end

local function timed_out(state, opts, attempts, seconds, failure)
  local connection = state.connection_state
  local where = ""
  for _, known in pairs(state.targets) do where = " at " .. known.base end
  local text = ("was not ready after %.1f s (%d attempts%s); last failure: %s"):format(
    seconds, attempts, opts.health_check and " of the health check" or where, failure.message)
  local proxied = connection.use_server_proxy or connection.embedded
  if UNREACHABLE[failure.code] and not proxied then
    text = text .. "; if sandboxes cannot be reached from here directly (Docker bridge, remote network), set use_server_proxy = true"
  end
  return not_ready(state, text, { attempts = attempts, cause = failure, request_id = failure.request_id })
end

--- Waits until the sandbox answers its health check.
-- @tparam userdata sandbox
-- @tparam table state its state
-- @tparam table opts `ready_timeout`, `health_check_interval` (seconds), `health_check`
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err code `not_ready`, `handler` where the health check raised, or the server's refusal
function M.wait_healthy(sandbox, state, opts)
  local started = core.now()
  local deadline = started + opts.ready_timeout
  local next_look = started + STATE_INTERVAL
  local attempts = 0
  while true do
    attempts = attempts + 1
    local limit = math.min(LONGEST_PING, math.max(deadline - core.now(), 0.1))
    local healthy, err, final = check_health(sandbox, state, opts.health_check, limit)
    if healthy then return true end
    if final then return nil, final end
    local now = core.now()
    if now >= deadline then return nil, timed_out(state, opts, attempts, now - started, err) end
    if now >= next_look then
      local info = look(state, deadline)
      local gone = info and info.status and ended(state, info.status)
      if gone then return nil, gone end
      next_look = core.now() + STATE_INTERVAL
    end
    task.sleep(math.max(0, math.min(opts.health_check_interval, deadline - core.now())))
  end
end

return M
