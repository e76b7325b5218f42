--- Keeps sessions and their events in an SQLite file, through LuaSQL (Debian: lua-sql-sqlite3). The next script finds them there.
--
-- Tables and columns are those of the TypeScript client's reference driver.
local errors = require "opensandbox.errors"
local json = require "opensandbox.json"
local options = require "opensandbox.options"

local M = {}

local DEFAULT_LIMIT = 100
local BUSY_MILLISECONDS = 5000

local SCHEMA = {
  [[CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, agent TEXT NOT NULL, agent_session_id TEXT NOT NULL,
    last_connection_id TEXT NOT NULL, created_at INTEGER NOT NULL, destroyed_at INTEGER, sandbox_id TEXT, session_init_json TEXT,
    config_options_json TEXT, modes_json TEXT, models_json TEXT)]],
  [[CREATE TABLE IF NOT EXISTS events (id TEXT PRIMARY KEY, event_index INTEGER NOT NULL, session_id TEXT NOT NULL,
    created_at INTEGER NOT NULL, connection_id TEXT NOT NULL, sender TEXT NOT NULL, payload_json TEXT NOT NULL,
    UNIQUE (session_id, event_index))]],
}

-- Columns of a session in the order they are written: column, field of the record, kind.
local COLUMNS = {
  { "id", "id", "text" }, { "agent", "agent", "text" }, { "agent_session_id", "agentSessionId", "text" },
  { "last_connection_id", "lastConnectionId", "text" }, { "created_at", "createdAt", "integer" },
  { "destroyed_at", "destroyedAt", "integer" }, { "sandbox_id", "sandboxId", "text" }, { "session_init_json", "sessionInit", "json" },
  { "config_options_json", "configOptions", "json" }, { "modes_json", "modes", "json" }, { "models_json", "models", "json" },
}

local Sqlite = {}
Sqlite.__index = Sqlite

local function failure(message)
  message = tostring(message):gsub("^LuaSQL: ", "")
  local code = message:find("UNIQUE", 1, true) and "conflict" or "io"
  return nil, errors.new { code = code, message = "SQLite: " .. message }
end

--- Writes a value into SQL. SQL texts cannot hold NUL.
local function quote(self, value)
  if value == nil or value == json.null then return "NULL" end
  if type(value) == "number" then return ("%d"):format(value) end
  if value:find("%z") then errors.raise("a text for the database must not contain NUL") end
  return "'" .. self.connection:escape(value) .. "'"
end

local function execute(self, statement)
  if not self.connection then errors.raise("use of a closed database") end
  local result, problem = self.connection:execute(statement)
  if not result then return failure(problem) end
  return result
end

local function rows(self, statement)
  local cursor, err = execute(self, statement)
  if not cursor then return nil, err end
  local list = {}
  if type(cursor) == "number" then return list end -- a statement without rows
  local row = cursor:fetch({}, "a")
  while row do
    list[#list + 1] = row
    row = cursor:fetch({}, "a")
  end
  cursor:close()
  return list
end

local function integer(value)
  local number = tonumber(value)
  return number and (math.tointeger and math.tointeger(number) or number)
end

local function session_of(row)
  local session = {}
  for _, column in ipairs(COLUMNS) do
    local value = row[column[1]]
    if value ~= nil then
      if column[3] == "json" then value = json.decode(value) elseif column[3] == "integer" then value = integer(value) end
      session[column[2]] = value
    end
  end
  return session
end

local function event_of(row)
  return {
    id = row.id, eventIndex = integer(row.event_index), sessionId = row.session_id, createdAt = integer(row.created_at),
    connectionId = row.connection_id, sender = row.sender, payload = json.decode(row.payload_json),
  }
end

--- Runs a query for one page; `convert` reads each row.
local function page(self, query, request, convert)
  local limit, offset = request.limit or DEFAULT_LIMIT, tonumber(request.cursor) or 0
  local list, err = rows(self, ("%s LIMIT %d OFFSET %d"):format(query, limit + 1, offset))
  if not list then return nil, err end
  local items = {}
  for i = 1, math.min(limit, #list) do items[i] = convert(list[i]) end
  return { items = items, next_cursor = #list > limit and ("%d"):format(offset + limit) or nil }
end

function Sqlite:get_session(id)
  local list, err = rows(self, "SELECT * FROM sessions WHERE id = " .. quote(self, id))
  if not list then return nil, err end
  return list[1] and session_of(list[1]) or nil
end

function Sqlite:list_sessions(request)
  return page(self, "SELECT * FROM sessions ORDER BY created_at, id", request or {}, session_of)
end

function Sqlite:update_session(session)
  local names, values, changes = {}, {}, {}
  for i, column in ipairs(COLUMNS) do
    local value = session[column[2]]
    if column[3] == "json" and value ~= nil and value ~= json.null then value = json.encode(value) end
    names[i], values[i] = column[1], quote(self, value)
    changes[i] = ("%s = excluded.%s"):format(column[1], column[1])
  end
  local done, err = execute(self, ("INSERT INTO sessions (%s) VALUES (%s) ON CONFLICT (id) DO UPDATE SET %s"):format(
    table.concat(names, ", "), table.concat(values, ", "), table.concat(changes, ", ")))
  if not done then return nil, err end
  return true
end

function Sqlite:list_events(request)
  return page(self, ("SELECT * FROM events WHERE session_id = %s ORDER BY event_index, id"):format(quote(self, request.session_id)),
    request, event_of)
end

function Sqlite:insert_event(session_id, event)
  local values = { event.id, event.eventIndex, session_id, event.createdAt, event.connectionId, event.sender, json.encode(event.payload) }
  for i = 1, 7 do values[i] = quote(self, values[i]) end
  local done, err = execute(self, "INSERT INTO events (id, event_index, session_id, created_at, connection_id, sender, payload_json)"
    .. " VALUES (" .. table.concat(values, ", ") .. ")")
  if not done then return nil, err end
  return true
end

--- Closes the file.
function Sqlite:close()
  if self.connection then
    self.connection:close()
    self.environment:close()
    self.connection = nil
  end
  return true
end

--- Opens (or makes) a database.
-- @tparam string path
-- @treturn[1] table driver; `driver:close()` closes the file
-- @treturn[2] nil
-- @treturn[2] table err `unsupported` where LuaSQL is not installed; `io`
function M.new(path)
  options.argument("path", path, "string")
  local there, luasql = pcall(require, "luasql.sqlite3")
  if not there then
    return nil, errors.new { code = "unsupported",
      message = "agent.sqlite needs LuaSQL for SQLite 3 (Debian: apt-get install lua-sql-sqlite3; LuaRocks: luasql-sqlite3)" }
  end
  local environment = luasql.sqlite3()
  local connection, problem = environment:connect(path)
  if not connection then return failure(problem) end
  local self = setmetatable({ environment = environment, connection = connection }, Sqlite)
  -- WAL: no wait for the disk at every event
  for _, setting in ipairs { ("busy_timeout = %d"):format(BUSY_MILLISECONDS), "journal_mode = WAL", "synchronous = NORMAL" } do
    local done, err = rows(self, "PRAGMA " .. setting)
    if not done then return nil, err end
  end
  for _, statement in ipairs(SCHEMA) do
    local done, err = execute(self, statement)
    if not done then return nil, err end
  end
  return self
end

return M
