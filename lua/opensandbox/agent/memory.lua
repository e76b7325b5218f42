--- Keeps sessions and their events in memory: the default, gone with the script.
--
-- A driver has five methods; each may wait, and returns nil, err when it fails. Records and events are shaped as those of the TypeScript
-- client (names in camelCase, times in milliseconds), so that histories can be shared:
--
-- * `get_session(id)` → record or nil
-- * `list_sessions{cursor=, limit=}` → `{items=, next_cursor=}`, oldest first
-- * `update_session(record)` inserts or replaces
-- * `list_events{session_id=, cursor=, limit=}` → `{items=, next_cursor=}`, by eventIndex
-- * `insert_event(session_id, event)`; an error of code `conflict` where that eventIndex is taken
local errors = require "opensandbox.errors"
local options = require "opensandbox.options"

local M = {}

local DEFAULT_LIMIT = 100

local check = options.declare("agent.memory", {
  max_sessions = { type = "integer", default = 1024 }, max_events = { type = "integer", default = 500 },
})

local Memory = {}
Memory.__index = Memory

local function copy(value)
  if type(value) ~= "table" then return value end
  local result = {}
  for key, item in pairs(value) do result[key] = copy(item) end
  return setmetatable(result, getmetatable(value))
end

local function page(list, request)
  local first = (tonumber(request.cursor) or 0) + 1
  local last = math.min(#list, first + (request.limit or DEFAULT_LIMIT) - 1)
  local items = {}
  for i = first, last do items[#items + 1] = copy(list[i]) end
  return { items = items, next_cursor = last < #list and ("%d"):format(last) or nil }
end

function Memory:get_session(id)
  return copy(self.sessions[id])
end

function Memory:list_sessions(request)
  local list = {}
  for _, session in pairs(self.sessions) do list[#list + 1] = session end
  table.sort(list, function(a, b)
    if a.createdAt ~= b.createdAt then return a.createdAt < b.createdAt end
    return a.id < b.id
  end)
  return page(list, request or {})
end

local function drop_oldest(self)
  local oldest
  for _, session in pairs(self.sessions) do
    if not oldest or session.createdAt < oldest.createdAt or (session.createdAt == oldest.createdAt and session.id < oldest.id) then
      oldest = session
    end
  end
  self.sessions[oldest.id], self.events[oldest.id] = nil, nil
  self.count = self.count - 1
end

function Memory:update_session(session)
  if not self.sessions[session.id] then self.count = self.count + 1 end
  self.sessions[session.id] = copy(session)
  if self.count > self.max_sessions then drop_oldest(self) end
  return true
end

function Memory:list_events(request)
  return page(self.events[request.session_id] or {}, request)
end

function Memory:insert_event(session_id, event)
  local list = self.events[session_id]
  if not list then
    list = {}
    self.events[session_id] = list
  end
  local place = #list + 1
  while place > 1 and list[place - 1].eventIndex > event.eventIndex do place = place - 1 end
  if place > 1 and list[place - 1].eventIndex == event.eventIndex then
    return nil, errors.new { code = "conflict", message = ("event %d of session %s is there already"):format(event.eventIndex, session_id) }
  end
  table.insert(list, place, copy(event))
  if #list > self.max_events then table.remove(list, 1) end
  return true
end

--- Makes a driver that keeps everything in memory.
-- @tparam[opt] table opts `max_sessions` (1024), `max_events` (500, per session): beyond them the oldest are dropped
-- @treturn table driver
function M.new(opts)
  opts = check(opts)
  return setmetatable({ sessions = {}, events = {}, count = 0, max_sessions = opts.max_sessions, max_events = opts.max_events }, Memory)
end

return M
