--- A pool's list of idle sandboxes in Redis: several processes, on several machines, share one pool, and one of them replenishes it.
--
-- Keys and their contents are those of the official SDKs: their pools and these can share one list. Needs libhiredis when it is built.
local core = require "opensandbox.core"
local errors = require "opensandbox.errors"
local options = require "opensandbox.options"
local task = require "opensandbox.task"

local M = {}

local FLUSH_PAUSE = 0.002 -- seconds between looks at a connection that is being made

local check_new = options.declare("pool_redis", {
  host = { type = "header", default = "127.0.0.1" }, port = { type = "integer", default = 6379 }, path = { type = "string" },
  username = { type = "string" }, password = { type = "string" }, db = { type = "integer" },
  prefix = { type = "string", default = "opensandbox:pool" }, timeout = { type = "duration", default = 2 },
}, { requires = { username = "password" } })

-- ------------------------------------------------------------------------------------------------------------------
-- talking to Redis

local function store_error(state, problem)
  return errors.new { code = "pool_store", message = ("Redis at %s: %s"):format(state.label, tostring(problem)) }
end

local function close(connection)
  connection.watch:close()
  connection.client:close()
end

--- Sends one command and waits for its reply. → reply (false for nil), or nil, problem, whether Redis refused it
local function exchange(connection, deadline, ...)
  local client = connection.client
  local sent, problem = client:send(...)
  while sent do
    sent, problem = client:flush()
    if sent then break end
    if sent == false then
      if core.now() >= deadline then return nil, "it did not answer in time" end
      task.sleep(FLUSH_PAUSE)
      sent = true
    end
  end
  if not sent then return nil, problem end
  while true do
    local state, reply, refused = client:read()
    if state then return reply end
    if state == nil then return nil, reply, refused end
    connection.watch:again()
    if not task.await(connection.watch, deadline) then return nil, "it did not answer in time" end
  end
end

local function open(state, deadline)
  local found, hiredis = pcall(require, "opensandbox.hiredis")
  if not found then
    return nil, "opensandbox.hiredis is not there: install libhiredis with its headers and build this library again"
  end
  local client, problem
  if state.path then client, problem = hiredis.connect(state.path) else client, problem = hiredis.connect(state.host, state.port) end
  if not client then return nil, problem end
  local connection = { client = client, watch = core.watch(client:fd()) }
  local greetings = {}
  if state.password then greetings[1] = { "AUTH", state.username or state.password, state.username and state.password or nil } end
  if state.db then greetings[#greetings + 1] = { "SELECT", ("%d"):format(state.db) } end
  for _, words in ipairs(greetings) do
    local reply
    reply, problem = exchange(connection, deadline, (table.unpack or unpack)(words))
    if reply == nil then
      close(connection)
      return nil, problem
    end
  end
  return connection
end

--- A connection that nobody uses. One that got input or an end meanwhile is of no use any more.
local function idle_connection(state)
  while #state.idle > 0 do
    local connection = table.remove(state.idle)
    if not connection.watch:ready() then return connection end
    close(connection)
  end
end

--- Runs one command; each that is under way has a connection of its own.
-- @return reply; `false` for Redis's nil
local function command(self, ...)
  local state = core.state(self, "redis_store")
  local deadline = core.now() + state.timeout
  local connection, problem = idle_connection(state)
  local ok, reply, refused
  ok, problem = task.pcall(function(...)
    if not connection then
      connection, problem = open(state, deadline)
      if not connection then return problem end
    end
    reply, problem, refused = exchange(connection, deadline, ...)
    if reply == nil then return problem end
  end, ...)
  if connection then
    if reply ~= nil or refused then
      connection.watch:again()
      state.idle[#state.idle + 1] = connection
    else
      close(connection)
    end
  end
  if not ok then error(problem, 0) end
  if reply == nil then return nil, store_error(state, problem) end
  return reply
end

-- ------------------------------------------------------------------------------------------------------------------
-- what runs in Redis, where its clock is everybody's

local NOW = "local time = redis.call('TIME') local now = time[1] * 1000 + math.floor(time[2] / 1000)\n"

local SCRIPTS = {
  -- KEYS: list, expiries; ARGV: least time to live. {id or '', {ids that live still}}
  take = NOW .. [[
local limit, alive = now + ARGV[1], {}
while true do
  local id = redis.call('LPOP', KEYS[1])
  if not id then return {'', alive} end
  local expires = tonumber(redis.call('HGET', KEYS[2], id))
  if expires then
    redis.call('HDEL', KEYS[2], id)
    if expires > limit then return {id, alive} end
    if expires > now then alive[#alive + 1] = id end
  end
end]],
  -- ARGV: id, time to live
  put = NOW .. [[
local expires = tonumber(redis.call('HGET', KEYS[2], ARGV[1]))
if expires and expires > now then return 0 end
if not expires then redis.call('RPUSH', KEYS[1], ARGV[1]) end
redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f', now + ARGV[2]))
return 1]],
  remove = [[
redis.call('HDEL', KEYS[2], ARGV[1])
return redis.call('LREM', KEYS[1], 0, ARGV[1])]],
  -- ARGV: least time to live. Ids that live still
  reap = NOW .. [[
local limit, alive = now + ARGV[1], {}
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  local expires = tonumber(redis.call('HGET', KEYS[2], id))
  if not expires or expires <= limit then
    redis.call('HDEL', KEYS[2], id)
    redis.call('LREM', KEYS[1], 0, id)
    if expires and expires > now then alive[#alive + 1] = id end
  end
end
return alive]],
  -- {id, expiry, id, expiry, …} of those that live still
  entries = NOW .. [[
local result = {}
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  local expires = redis.call('HGET', KEYS[2], id)
  if expires and tonumber(expires) > now then
    result[#result + 1] = id
    result[#result + 1] = expires
  end
end
return result]],
  -- KEYS: lock; ARGV: owner, time to live, '1': only renew
  lock = [[
local owner = redis.call('GET', KEYS[1])
if owner == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
if owner or ARGV[3] == '1' then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1]],
  unlock = [[
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0]],
}

local BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"

--- A pool's name as the official SDKs put it into keys: base64 for addresses, without padding.
local function tag_of(name)
  return (name:gsub("..?.?", function(bytes)
    local a, b, c = bytes:byte(1, 3)
    local number = a * 65536 + (b or 0) * 256 + (c or 0)
    local text = ""
    for shift = 3, 3 - #bytes, -1 do
      local index = math.floor(number / 64 ^ shift) % 64
      text = text .. BASE64:sub(index + 1, index + 1)
    end
    return text
  end))
end

local function key(self, pool, name)
  return ("%s:{%s}:%s"):format(core.state(self, "redis_store").prefix, tag_of(pool), name)
end

local function milliseconds(seconds)
  return ("%d"):format(math.max(0, math.floor(seconds * 1000)))
end

--- Runs a script on the two keys of a pool's list.
local function on_list(self, script, pool, ...)
  return command(self, "EVAL", SCRIPTS[script], "2", key(self, pool, "idle:list"), key(self, pool, "idle:expires"), ...)
end

-- ------------------------------------------------------------------------------------------------------------------
-- the store: see opensandbox.pool_store

local methods = {}

function methods:take(pool, min_ttl)
  local reply, err = on_list(self, "take", pool, milliseconds(min_ttl))
  if not reply then return nil, err end
  return { id = reply[1] ~= "" and reply[1] or nil, discarded = reply[2] }
end

function methods:put(pool, id, ttl)
  local reply, err = on_list(self, "put", pool, id, milliseconds(ttl))
  return reply and true, err
end

function methods:remove(pool, id)
  local reply, err = on_list(self, "remove", pool, id)
  return reply and true, err
end

function methods:reap(pool, min_ttl)
  return on_list(self, "reap", pool, milliseconds(min_ttl))
end

function methods:entries(pool)
  local reply, err = on_list(self, "entries", pool)
  if not reply then return nil, err end
  local list = {}
  for i = 1, #reply, 2 do list[#list + 1] = { id = reply[i], expires_at = tonumber(reply[i + 1]) / 1000 } end
  return list
end

function methods:count(pool)
  local list, err = methods.entries(self, pool)
  if not list then return nil, err end
  return #list
end

function methods:lock(pool, owner, ttl, only_renew)
  local lock = key(self, pool, "lock")
  local reply, err = command(self, "EVAL", SCRIPTS.lock, "1", lock, owner, milliseconds(math.max(ttl, 0.001)), only_renew and "1" or "")
  if not reply then return nil, err end
  return reply == 1
end

function methods:unlock(pool, owner)
  local reply, err = command(self, "EVAL", SCRIPTS.unlock, "1", key(self, pool, "lock"), owner)
  return reply and true, err
end

function methods:max_idle(pool)
  local reply, err = command(self, "GET", key(self, pool, "maxIdle"))
  if reply == nil then return nil, err end
  return reply and tonumber(reply) or false
end

function methods:configure(pool, max_idle, idle_ttl)
  local reply, err = command(self, "MSET", key(self, pool, "maxIdle"), ("%d"):format(max_idle), key(self, pool, "idleTtlMillis"),
    milliseconds(math.max(idle_ttl, 0.001)))
  return reply and true, err
end

--- Closes the connections to Redis; what is in it stays.
function methods:close()
  local state = core.state(self, "redis_store", true)
  for _, connection in ipairs(state.idle) do close(connection) end
  state.idle = {}
  core.close(self)
  return true
end

core.methods("redis_store", methods, { __close = methods.close })

--- Makes a store in Redis; nothing is sent yet.
-- @tparam[opt] table opts `host` (an address; a name is looked up while everything waits), `port` (6379), or `path` of a socket;
-- `username`, `password`, `db`; `prefix` of all keys ("opensandbox:pool"); `timeout` (seconds for one command, default 2)
-- @treturn userdata store, for `opensandbox.pool{store=}`
function M.new(opts)
  local state = check_new(opts)
  state.idle, state.label = {}, state.path or ("%s:%d"):format(state.host, state.port)
  return core.new("redis_store", state)
end

return M
