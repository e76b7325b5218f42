--- The load of the machine that a sandbox is on: once, or as it changes.
local defaults = require "opensandbox.defaults"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local json = require "opensandbox.json"
local options = require "opensandbox.options"
local record = require "opensandbox.record"
local target = require "opensandbox.target"
local task = require "opensandbox.task"

local M = {}

local metrics = record { timestamp = record.milliseconds }

local get_metrics = endpoint { id = "getMetrics", plane = "execd", method = "GET", path = "/metrics", returns = metrics }
local watch_metrics = endpoint { id = "watchMetrics", plane = "execd", method = "GET", path = "/metrics/watch", stream = true }

local check_call = options.declare("a call", { timeout = { type = "duration" } })
local check_watch = options.declare("sandbox:watch_metrics", {
  timeout = { type = "duration" }, idle_timeout = { type = "duration", default = defaults.idle_timeout },
})

--- See `sandbox:metrics`.
function M.get(state, opts)
  opts = check_call(opts)
  local execd, err = target.plane(state, "execd", opts)
  if not execd then return nil, err end
  return get_metrics(execd, { timeout = opts.timeout })
end

--- The error of a frame that holds no metrics.
local function bad_frame(body, problem)
  if type(body) == "table" and type(body.error) == "string" then return errors.transport("api", body.error) end
  return errors.transport("decode", "the server sent what are no metrics: it " .. tostring(problem))
end

--- Reads frames until fn has enough or the stream fails.
local function follow(transfer, fn)
  while true do
    task.await(transfer)
    local text, problem = transfer:frame()
    if text == false then
      return errors.transport("limit", problem)
    elseif text then
      local body
      body, problem = json.decode(text)
      local sample
      local is_error = type(body) == "table" and body.error ~= nil
      if body ~= nil and not is_error then sample, problem = metrics(body) end
      if not sample then return bad_frame(body, problem) end
      local err, go_on = task.call_handler(fn, sample)
      if err or go_on == false then return err end
    elseif transfer:done() then
      local code, message = transfer:failure()
      return errors.transport(code or "truncated", message or "the server ended the stream of metrics")
    end
  end
end

--- See `sandbox:watch_metrics`.
function M.watch(state, fn, opts)
  options.argument("fn", fn, "function")
  opts = check_watch(opts)
  local execd, err = target.plane(state, "execd", { timeout = opts.timeout })
  if not execd then return nil, err end
  local stream
  stream, err = watch_metrics(execd, { timeout = opts.timeout, idle_timeout = opts.idle_timeout })
  if not stream then return nil, err end
  local ok
  ok, err = task.pcall(follow, stream.transfer, fn)
  stream.transfer:cancel()
  if not ok then error(err, 0) end
  if not err then return true end
  err.method, err.url = stream.method, errors.safe_url(stream.url)
  err.request_id = err.request_id or stream.request_id
  return nil, err
end

return M
