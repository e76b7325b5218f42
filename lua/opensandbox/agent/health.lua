--- Waiting until a server answers; one that does not is started again by its provider.
local core = require "opensandbox.core"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local problem = require "opensandbox.agent.problem"
local task = require "opensandbox.task"

local M = {}

local FIRST_DELAY, LAST_DELAY = 0.01, 0.5 -- seconds between two questions
local FAILURES = 3 -- then the provider is asked to start the server again
local QUESTION = 5 -- seconds for one answer

local get_health = endpoint { id = "get_v1_health", plane = "agent", method = "GET", path = "/v1/health" }

--- Where the server is.
local function locate(state)
  if state.target and not state.target.stale then return state.target end
  local target, err = state.locate()
  if not target then return nil, err end
  state.target = target
  return target
end

--- Asks once.
-- @treturn table|nil the server's answer
function M.ask(state, timeout)
  local target, err = locate(state)
  if not target then return nil, err end
  local answer
  answer, err = get_health(target, { timeout = timeout or QUESTION, retry = false })
  if not answer then return nil, problem.refine(err) end
  return answer
end

local function restart(state)
  local provider = state.provider
  if not provider or not provider.ensure_server then return nil end
  local ok, err = provider.ensure_server(state.raw_sandbox_id)
  if ok == nil and err then return err end
  state.target = nil
end

local function wait(state)
  local deadline = core.now() + state.ready_timeout
  local delay, failures = FIRST_DELAY, 0
  while true do
    local answer, err = M.ask(state, math.max(0.05, math.min(QUESTION, deadline - core.now())))
    if answer then return true end
    if err.code == "unauthorized" then return nil, err end
    failures = failures + 1
    if failures % FAILURES == 0 then err = restart(state) or err end
    if err.code == "unsupported" then return nil, err end -- it can't be started
    local now = core.now()
    if now + delay > deadline then
      return nil, errors.new {
        code = "not_ready", cause = err, url = err.url,
        message = ("the sandbox-agent server did not answer within %g s (asked %d times): %s"):format(state.ready_timeout, failures,
          err.message),
      }
    end
    task.sleep(delay)
    delay = math.min(LAST_DELAY, delay * 2)
  end
end

--- Waits until the server answers, at most `ready_timeout`, once: again only after `state.healthy` was taken back.
-- @treturn table|nil target of requests
-- @treturn table err `not_ready`; `unauthorized` at once
function M.ready(state)
  if not state.healthy then
    local ok, err = wait(state)
    if not ok then return nil, err end
    state.healthy = true
  end
  return locate(state)
end

return M
