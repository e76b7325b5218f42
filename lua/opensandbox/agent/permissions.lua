--- Permission requests of agents: asked of the session's listeners, answered now or later, from anywhere.
--
-- A request without a listener is answered `cancelled` at once; so are those that are open when the session is destroyed, its turn is
-- cancelled or the client is closed. Replies are in the session's history.
local background = require "opensandbox.agent.background"
local core = require "opensandbox.core"
local errors = require "opensandbox.errors"
local json = require "opensandbox.json"
local problem = require "opensandbox.agent.problem"
local random = require "opensandbox.agent.random"
local task = require "opensandbox.task"

local M = {}

local unpack = table.unpack or unpack

local REPLIES = { allow_once = "once", allow_always = "always", reject_once = "reject", reject_always = "reject" }

--- The kinds that a reply may choose, the best first.
local KINDS = {
  once = { "allow_once" }, always = { "allow_always", "allow_once" }, reject = { "reject_once", "reject_always" },
}

local function available(options)
  local list, seen = {}, {}
  for _, option in ipairs(options) do
    local reply = REPLIES[option.kind]
    if reply and not seen[reply] then
      seen[reply] = true
      list[#list + 1] = reply
    end
  end
  return list
end

--- Sends the answer to the agent.
local function answer(pending, body)
  pending.session.client.permissions[pending.id] = nil
  local message = { id = pending.rpc_id }
  for key, value in pairs(body) do message[key] = value end
  local sent, err = pending.live:send(message, { session = pending.session })
  if not sent and not pending.live.failure then pending.session.client.permissions[pending.id] = pending end
  return sent, err
end

local function cancel(pending)
  return answer(pending, { result = { outcome = { outcome = "cancelled" } } })
end

--- Takes in a request of the agent's. Its listeners run in a task of their own, while the turn waits.
function M.take(session, live, message, params)
  local options = {}
  for i, option in ipairs(type(params.options) == "table" and params.options or {}) do
    options[i] = { option_id = option.optionId, name = option.name, kind = option.kind }
  end
  local pending = { id = random.uuid(), session = session, live = live, rpc_id = message.id, options = options }
  session.client.permissions[pending.id] = pending
  if #session.permission_listeners == 0 then
    background.spawn(cancel, pending)
    return
  end
  local tool_call = params.toolCall
  local request = {
    id = pending.id, created_at = core.time(), session_id = session.id, agent_session_id = params.sessionId, options = options,
    available_replies = available(options), tool_call = tool_call ~= json.null and tool_call or nil, raw = params,
  }
  background.spawn(function()
    for _, listener in ipairs { unpack(session.permission_listeners) } do
      local err = task.call_handler(listener, request)
      if err then
        if session.client.permissions[pending.id] then cancel(pending) end
        return session:trouble(err)
      end
    end
  end)
end

local function find(client, id)
  local pending = client.permissions[id]
  if pending then return pending end
  return nil, errors.new { code = "not_found", message = ("permission request '%s' is not open (answered, or never asked)"):format(id) }
end

--- Answers a request.
-- @tparam table client state
-- @tparam string id of the request
-- @tparam string reply `"once"`, `"always"` (once where the agent has no always) or `"reject"`
-- @treturn boolean true, or nil and err: `not_found`; `unsupported` where the agent offers no such option (it is told of the failure)
function M.respond(client, id, reply)
  local kinds = KINDS[reply]
  if not kinds then errors.raise(("reply: 'once', 'always' or 'reject' expected, got '%s'"):format(tostring(reply))) end
  local pending, err = find(client, id)
  if not pending then return nil, err end
  for _, kind in ipairs(kinds) do
    for _, option in ipairs(pending.options) do
      if option.kind == kind then
        return answer(pending, { result = { outcome = { outcome = "selected", optionId = option.option_id } } })
      end
    end
  end
  err = problem.unsupported(("the agent does not take '%s' as an answer"):format(reply), available(pending.options), "available_replies")
  answer(pending, { error = { code = -32603, message = err.message } })
  return nil, err
end

--- Answers a request with the protocol's own words.
-- @tparam table client state
-- @tparam string id
-- @tparam table response `{outcome={outcome="selected", optionId=…}}`
function M.respond_raw(client, id, response)
  local pending, err = find(client, id)
  if not pending then return nil, err end
  return answer(pending, { result = response })
end

--- Cancels the open requests of one session, or all.
function M.cancel_all(client, session)
  local list = {}
  for _, pending in pairs(client.permissions) do
    if not session or pending.session == session then list[#list + 1] = pending end
  end
  for _, pending in ipairs(list) do cancel(pending) end
end

--- Forgets the requests that came by a connection that is lost.
function M.forget(client, live)
  for id, pending in pairs(client.permissions) do
    if pending.live == live then client.permissions[id] = nil end
  end
end

return M
