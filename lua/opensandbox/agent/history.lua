--- The history of sessions: every message that belongs to one, numbered without gaps, and what is made of it for a session that goes on.
local core = require "opensandbox.core"
local json = require "opensandbox.json"
local random = require "opensandbox.agent.random"

local M = {}

local PAGE = 200
local ATTEMPTS = 3

local REPLAY = "Previous session history is replayed below as JSON-RPC envelopes. Use it as context before responding to the latest user "
  .. "prompt.\n"

--- Milliseconds, as records have them.
function M.now()
  return math.floor(core.time() * 1000)
end

--- Calls fn for every stored event of a session, in order.
-- @treturn boolean true, or nil and the driver's error
function M.each(driver, session_id, fn)
  local cursor
  repeat
    local page, err = driver:list_events { session_id = session_id, cursor = cursor, limit = PAGE }
    if not page then return nil, err end
    for _, event in ipairs(page.items) do fn(event) end
    cursor = page.next_cursor
  until not cursor
  return true
end

--- Learns which number the next event of a session gets.
function M.seed(session)
  if session.next_index then return true end
  local last = 0
  local ok, err = M.each(session.client.persist, session.id, function(event) last = math.max(last, event.eventIndex) end)
  if not ok then return nil, err end
  session.next_index = last + 1
  return true
end

--- An event as users get it.
function M.public(event)
  return {
    id = event.id, event_index = event.eventIndex, session_id = event.sessionId, created_at = event.createdAt / 1000,
    connection_id = event.connectionId, sender = event.sender, payload = event.payload,
  }
end

local function store(session, event)
  local driver = session.client.persist
  for attempt = 1, ATTEMPTS do
    local ok, err = driver:insert_event(session.id, event)
    if ok then return nil end
    if type(err) ~= "table" or err.code ~= "conflict" or attempt == ATTEMPTS then return err end
    -- somebody else writes the same session
    session.next_index = nil
    ok, err = M.seed(session)
    if not ok then return err end
    event.eventIndex = session.next_index
    session.next_index = event.eventIndex + 1
  end
end

--- Adds a message to the history of a session.
-- @tparam table session
-- @tparam string sender `"client"` or `"agent"`
-- @tparam table payload the JSON-RPC message
-- @treturn table event as users get it
-- @treturn table|nil err where it could not be stored
function M.add(session, sender, payload)
  local event = {
    id = random.uuid(), eventIndex = session.next_index, sessionId = session.id, createdAt = M.now(),
    connectionId = session.live.connection_id, sender = sender, payload = payload,
  }
  session.next_index = session.next_index + 1
  local err = store(session, event)
  return M.public(event), err
end

--- The text by which a new agent session learns what went on before.
-- @tparam table driver
-- @tparam string session_id
-- @tparam integer max_events the last so many
-- @tparam integer max_chars bytes of the text
-- @treturn[1] string|boolean text; false where there is no history
-- @treturn[2] nil
-- @treturn[2] table err
function M.replay(driver, session_id, max_events, max_chars)
  local events = {}
  local ok, err = M.each(driver, session_id, function(event)
    events[#events + 1] = event
    if #events > max_events then table.remove(events, 1) end
  end)
  if not ok then return nil, err end
  if #events == 0 then return false end
  local parts, length = { REPLAY }, #REPLAY
  for _, event in ipairs(events) do
    local line = ('{"createdAt":%d,"sender":"%s","payload":%s}'):format(event.createdAt, event.sender, json.encode(event.payload))
    if length + #line + 1 > max_chars then
      parts[#parts + 1] = "\n[history truncated]"
      break
    end
    parts[#parts + 1] = line .. "\n"
    length = length + #line + 1
  end
  return table.concat(parts)
end

return M
