--- Sessions with agents.
--
-- The state of a session is shared by all who hold it: `client` (state), `id`, `agent`, `record` (as the driver has it), `live` (its
-- connection, nil or failed where it has to be resumed), `next_index`, `events` (queue to the listeners), `listeners`.
local background = require "opensandbox.agent.background"
local content = require "opensandbox.agent.content"
local core = require "opensandbox.core"
local errors = require "opensandbox.errors"
local history = require "opensandbox.agent.history"
local json = require "opensandbox.json"
local options = require "opensandbox.options"
local permissions = require "opensandbox.agent.permissions"
local record = require "opensandbox.record"
local settings = require "opensandbox.agent.settings"
local task = require "opensandbox.task"

local M = {}

local unpack = table.unpack or unpack

local MAX_UNHANDLED = 65536 -- events that wait for listeners
local CANCEL = "session/cancel"

local check_prompt = options.declare("session:prompt", { timeout = { type = "duration" } })
local check_raw = options.declare("session:raw_send", {
  notification = { type = "boolean", default = false }, timeout = { type = "duration" },
})
local check_approve = options.declare("session:auto_approve", { kinds = { type = "list", of = "string" } })

---------------------------------------------------------------------------------------------------------------------
-- state

local State = {}

--- Fields that users read: name → how it is found in the record.
local FIELDS = {
  agent_session_id = function(session) return session.record.agentSessionId end,
  last_connection_id = function(session) return session.record.lastConnectionId end,
  created_at = function(session) return session.record.createdAt / 1000 end,
  destroyed_at = function(session) return session.record.destroyedAt and session.record.destroyedAt / 1000 end,
}

local state_metatable = { __index = function(session, name)
  local method = State[name]
  if method then return method end
  local field = FIELDS[name]
  return field and field(session) or nil
end }

--- The state of a session of which there is a record.
function M.adopt(client, stored)
  local session = client.sessions[stored.id]
  if session then
    if not session.live then session.record = stored end
    return session
  end
  session = setmetatable({
    client = client, id = stored.id, agent = stored.agent, record = stored, listeners = {}, permission_listeners = {}, handlers = {},
  }, state_metatable)
  session.events = background.queue("events of a session", function(event) session:deliver(event) end)
  session.handle = core.new("agent_session", session)
  client.sessions[stored.id] = session
  return session
end

--- Stores the record.
function State:save()
  return self.client.persist:update_session(self.record)
end

--- Notes a failure behind the user's back (a handler's, the driver's): it ends the turn that is under way and comes back from its prompt,
-- or from the next call.
function State:trouble(err)
  if self.pending_trouble then return end
  self.pending_trouble = err
  local live = self.live
  if not live or live.failure or not self.turns then return end
  live:abort(self, err)
  background.spawn(function() self:cancel_turn() end)
end

local function take_trouble(session)
  local err = session.pending_trouble
  session.pending_trouble = nil
  return err
end

local function remove(list, item)
  for i, other in ipairs(list) do
    if other == item then return table.remove(list, i) end
  end
end

function State:deliver(event)
  for _, listener in ipairs { unpack(self.listeners) } do
    local err = task.call_handler(listener.fn, event)
    if err then
      remove(self.listeners, listener)
      self:trouble(err)
    end
  end
end

--- Takes a message into the history and hands it to the listeners.
function State:observe(sender, message)
  local event, err = history.add(self, sender, message)
  if err then self:trouble(err) end
  if sender == "agent" and message.method == "session/update" and type(message.params) == "table" then
    local update = message.params.update
    if type(update) == "table" and settings.observe(self.record, update) then
      local saved
      saved, err = self:save()
      if not saved then self:trouble(err) end
    end
  end
  if #self.listeners == 0 then return end
  if self.events:length() >= MAX_UNHANDLED then
    self.listeners = {}
    return self:trouble(errors.new { code = "limit", message = ("%d events wait for the handlers of a session"):format(MAX_UNHANDLED) })
  end
  self.events:push(event)
end

---------------------------------------------------------------------------------------------------------------------
-- binding to an agent

--- Makes a session of the agent's for this one.
-- @treturn boolean true, or nil and err
function State:open(live)
  local stored = self.record
  self.live = live
  live.creating[self] = true
  local ok, result, err = task.pcall(live.request, live, "session/new", stored.sessionInit, {
    session = self, timeout = self.client.start_timeout,
    on_answer = function(answer)
      if type(answer) ~= "table" or type(answer.sessionId) ~= "string" or answer.sessionId == "" then return end
      stored.agentSessionId, stored.lastConnectionId = answer.sessionId, live.connection_id
      settings.read(stored, answer)
      live.sessions[answer.sessionId] = self
      self.bound = true
    end,
  })
  live.creating[self] = nil
  if not ok then error(result, 0) end
  if not result then return nil, err end
  if live.sessions[stored.agentSessionId] ~= self then
    return nil, errors.new { code = "protocol", message = ("the agent '%s' answered session/new without a session id"):format(self.agent) }
  end
  return self:save()
end

local function is_bound(session)
  return session.live ~= nil and not session.live.failure and session.bound
end

--- Goes on with a session that has no agent: a new one learns the history from the text before the next prompt.
-- @treturn boolean true, or nil and err
function State:resume()
  if is_bound(self) then return true end
  return background.once(self, "resuming", "the resumption of a session", function()
    local client = self.client
    local live, err = client.live(self.agent)
    if not live then return nil, err end
    local replay
    replay, err = history.replay(client.persist, self.id, client.replay_max_events, client.replay_max_chars)
    if replay == nil then return nil, err end
    local ok
    ok, err = history.seed(self)
    if not ok then return nil, err end
    self.record.destroyedAt = nil
    self.bound = false
    ok, err = self:open(live)
    if not ok then return nil, err end
    self.replay = replay or nil
    return true
  end)
end

--- Tells the agent to end the turn under way; open permission requests are cancelled.
function State:cancel_turn()
  permissions.cancel_all(self.client, self)
  if not is_bound(self) then return true end
  return self.live:send({ method = CANCEL, params = { sessionId = self.record.agentSessionId } }, { session = self })
end

--- Calls a method about the session, resuming it where needed.
-- @treturn table|nil result
-- @treturn table err
function State:call(method, params, opts)
  local ok, err = self:resume()
  if not ok then return nil, err end
  local wire, recorded = {}, {}
  for key, value in pairs(params) do wire[key], recorded[key] = value, value end
  wire.sessionId, recorded.sessionId = self.record.agentSessionId, self.record.agentSessionId
  if method == "session/prompt" and self.replay then
    wire.prompt = json.array { { type = "text", text = self.replay } }
    for i, block in ipairs(params.prompt) do wire.prompt[i + 1] = block end
    self.replay = nil
  end
  local result
  result, err = self.live:request(method, wire, { session = self, recorded = recorded, timeout = opts and opts.timeout })
  if result == nil then return nil, err end
  if settings.note(self.record, method, params, result) then
    ok, err = self:save()
    if not ok then return nil, err end
  end
  return result
end

---------------------------------------------------------------------------------------------------------------------
-- what users call

local methods = { __fields = {
  id = true, agent = true, agent_session_id = true, last_connection_id = true, created_at = true, destroyed_at = true,
} }

local function state_of(self)
  local session = core.state(self, "agent_session")
  if session.client.closed then errors.raise("use of a session of a closed agents") end
  return session
end

local read_prompt = record {}

--- Takes a turn with the agent: sends a prompt and waits for the end of the turn. Its events were handed to the listeners by then.
-- ACP `session/prompt`.
--
-- Cancelling the task or a time-out cancels the turn. A session whose agent is gone is resumed first.
-- @tparam string|table prompt text, or a list of content blocks (see `agent.text`, `agent.image`, `agent.resource`, `agent.resource_link`)
-- @tparam[opt] table opts `timeout` in seconds, of the turn (default: none)
-- @treturn[1] table `stop_reason` (`"end_turn"`, `"max_tokens"`, `"max_turn_requests"`, `"refusal"`, `"cancelled"`), `usage`,
-- `user_message_id`, `lost` (messages of the agent that the server lost for good, normally nil), `raw`
-- @treturn[2] nil
-- @treturn[2] table err `unavailable` (with `exit_code`) where the agent ended, `handler` where a listener failed, `limit` for more than
-- 2 MiB, `timeout`, the agent's own error (`err.rpc`)
function methods:prompt(prompt, opts)
  local session = state_of(self)
  local blocks = content.blocks(prompt)
  opts = check_prompt(opts)
  local trouble = take_trouble(session)
  if trouble then return nil, trouble end
  session.turns = (session.turns or 0) + 1
  local lost = session.live and session.live.lost or 0
  local ok, result, err = task.pcall(session.call, session, "session/prompt", { prompt = blocks }, opts)
  session.turns = session.turns > 1 and session.turns - 1 or nil
  if not ok or (not result and err.code == "timeout") then task.shield(task.pcall, session.cancel_turn, session) end
  if not ok then error(result, 0) end
  session.events:flush()
  trouble = take_trouble(session)
  if trouble then return nil, trouble end
  if not result then return nil, err end
  local answer = read_prompt(result)
  if not answer then return nil, errors.new { code = "protocol", message = "the agent ended the turn without a result" } end
  lost = session.live.lost - lost
  answer.lost = lost > 0 and lost or nil
  return answer
end

--- Ends the turn under way: its prompt returns with the stop reason `"cancelled"`. ACP `session/cancel`.
-- @treturn boolean true, or nil and err
function methods:cancel()
  return state_of(self):cancel_turn()
end

--- Sends any request of the protocol about this session; `sessionId` is put in.
-- @tparam string method
-- @tparam[opt] table params as the protocol has them
-- @tparam[opt] table opts `notification` (there is no answer), `timeout`
-- @treturn[1] table|boolean the result as the agent gave it; true for a notification
-- @treturn[2] nil
-- @treturn[2] table err
function methods:raw_send(method, params, opts)
  local session = state_of(self)
  options.argument("method", method, "string")
  params = options.argument("params", params or {}, "map")
  opts = check_raw(opts)
  if method == CANCEL then errors.raise("session/cancel is not sent by hand: use session:cancel or destroy_session") end
  if not opts.notification then return session:call(method, params, opts) end
  local ok, err = session:resume()
  if not ok then return nil, err end
  local wire = {}
  for key, value in pairs(params) do wire[key] = value end
  wire.sessionId = session.record.agentSessionId
  return session.live:send({ method = method, params = wire }, { session = session })
end

--- Calls fn for every event of the session from now on, in order, in a task of its own; it may call anything of this library.
-- An error in it removes it, cancels the turn and comes back from `prompt`.
-- @tparam function fn gets `{event_index=, id=, session_id=, created_at=, sender="client"|"agent", connection_id=, payload=}`
-- @treturn function ends it
function methods:on_event(fn)
  local session = state_of(self)
  local listener = { fn = options.argument("fn", fn, "function") }
  session.listeners[#session.listeners + 1] = listener
  return function() remove(session.listeners, listener) end
end

--- Calls fn for every permission request of the agent, in a task of its own; the turn waits for `respond_permission`, which may come from
-- fn or later from elsewhere. Without any listener requests are answered `cancelled`.
-- @tparam function fn gets `{id=, created_at=, session_id=, agent_session_id=, available_replies=, options={{option_id=,name=,kind=}},
-- tool_call=, raw=}`
-- @treturn function ends it
function methods:on_permission_request(fn)
  local session = state_of(self)
  options.argument("fn", fn, "function")
  local listeners = session.permission_listeners
  listeners[#listeners + 1] = fn
  return function() remove(listeners, fn) end
end

--- Answers every permission request at once.
-- @tparam[opt="once"] string reply
-- @tparam[opt] table opts `kinds`: only tool calls of these kinds (`"read"`, `"edit"`, …); others go to the other listeners
-- @treturn function ends it
function methods:auto_approve(reply, opts)
  local session = state_of(self)
  opts = check_approve(opts)
  reply = reply or "once"
  return methods.on_permission_request(self, function(request)
    local kind = request.tool_call and request.tool_call.kind
    local wanted = not opts.kinds
    for _, name in ipairs(opts.kinds or {}) do wanted = wanted or name == kind end
    if not wanted then return end
    local ok, err = permissions.respond(session.client, request.id, reply)
    if not ok then error(err, 0) end
  end)
end

--- Answers a permission request.
-- @tparam string id of the request
-- @tparam string reply `"once"`, `"always"` (once, where the agent has no always) or `"reject"`
-- @treturn boolean true, or nil and err: `not_found`; `unsupported` with `available_replies`, and the agent is told that it failed
function methods:respond_permission(id, reply)
  return permissions.respond(state_of(self).client, id, reply)
end

--- Answers a permission request in the protocol's own words.
-- @tparam string id
-- @tparam table response `{outcome={outcome="selected", optionId=…}}` or `{outcome={outcome="cancelled"}}`
-- @treturn boolean true, or nil and err
function methods:raw_respond_permission(id, response)
  options.argument("response", response, "map")
  return permissions.respond_raw(state_of(self).client, id, response)
end

--- Serves a request that the agent makes of its client, for this session (see the `requests` of `agent.connect`).
-- @tparam string method as `"fs/read_text_file"`
-- @tparam function fn(params, session) → result; or nil and a message. It may wait
-- @treturn function ends it
function methods:on_request(method, fn)
  local session = state_of(self)
  options.argument("method", method, "string")
  session.handlers[method] = options.argument("fn", fn, "function")
  return function()
    if session.handlers[method] == fn then session.handlers[method] = nil end
  end
end

--- Chooses the model: the option of that category, or what the agent has instead (`models` with `session/set_model`).
-- @tparam string model
-- @treturn[1] table the agent's answer
-- @treturn[2] nil
-- @treturn[2] table err `invalid` with `allowed_values`; `unsupported` with `available_categories`
function methods:set_model(model)
  local session = state_of(self)
  return settings.set_model(session, options.argument("model", model, "string"))
end

--- Chooses the mode: `session/set_mode`, or the option of category `mode`.
-- @tparam string mode
-- @treturn[1] table the agent's answer
-- @treturn[2] nil
-- @treturn[2] table err as of `set_model`
function methods:set_mode(mode)
  local session = state_of(self)
  return settings.set_mode(session, options.argument("mode", mode, "string"))
end

--- Chooses the thought level: the option of category `thought_level`.
-- @tparam string level
-- @treturn[1] table the agent's answer
-- @treturn[2] nil
-- @treturn[2] table err as of `set_model`
function methods:set_thought_level(level)
  local session = state_of(self)
  return settings.set_category(session, "thought_level", options.argument("level", level, "string"))
end

--- Sets any option by its id.
-- @tparam string id
-- @tparam string|boolean value a boolean for options of type `boolean`
-- @treturn[1] table the agent's answer
-- @treturn[2] nil
-- @treturn[2] table err `invalid` with `allowed_values`; `unsupported` with `available_config_ids`
function methods:set_config_option(id, value)
  local session = state_of(self)
  options.argument("id", id, "string")
  options.argument("value", value, { "string", "boolean" })
  return settings.set_option(session, id, value)
end

--- The options of the session as the agent has them: `{id=, name=, type="select"|"boolean", category=, currentValue=, options=}`.
-- @treturn table|nil list
-- @treturn table err
function methods:config_options()
  return settings.options(state_of(self))
end

--- The modes of the session.
-- @treturn table|nil `{currentModeId=, availableModes={{id=, name=}}}`; nil where it has none
-- @treturn table err
function methods:modes()
  return settings.modes(state_of(self))
end

--- Reads the record anew from where it is kept.
-- @treturn userdata|nil the session
-- @treturn table err
function methods:refresh()
  local session = state_of(self)
  local stored, err = session.client.persist:get_session(session.id)
  if not stored then return nil, err or M.unknown(session.id) end
  session.record = stored
  return self
end

--- The record of the session, as drivers keep it.
-- @treturn table
function methods:to_record()
  return record.verbatim(state_of(self).record)
end

core.methods("agent_session", methods)

--- The error of an unknown session.
function M.unknown(id)
  return errors.new { code = "not_found", message = ("there is no session '%s'"):format(id) }
end

return M
