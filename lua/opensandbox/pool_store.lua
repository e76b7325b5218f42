--- Where a pool keeps the list of its idle sandboxes: in the memory of this process. `opensandbox.pool` makes one by itself.
--
-- A store is an object with these methods; each returns nil, err (code `pool_store`) where it cannot be reached. `pool` is the pool's name,
-- times are in seconds. `opensandbox.pool_redis` is the store that several processes share; a table of your own will do, too.
local core = require "opensandbox.core"

local M = {}

local methods = {}

--- The entries of a pool, oldest first; those whose time is over are dropped: the server has ended them.
local function entries_of(self, pool)
  local state = core.state(self, "memory_store")
  local kept, now = {}, core.time()
  for _, entry in ipairs(state.pools[pool] or {}) do
    if entry.expires_at > now then kept[#kept + 1] = entry end
  end
  state.pools[pool] = kept
  return kept
end

--- Takes the oldest idle sandbox that lives at least `min_ttl` more; younger ones are not skipped, shorter-lived ones are taken out.
-- @tparam string pool
-- @tparam number min_ttl
-- @treturn table `{id= or nil, discarded={ids that were taken out and live still}}`
function methods:take(pool, min_ttl)
  local entries, taken = entries_of(self, pool), { discarded = {} }
  local limit = core.time() + min_ttl
  while not taken.id and entries[1] do
    local entry = table.remove(entries, 1)
    if entry.expires_at > limit then taken.id = entry.id else taken.discarded[#taken.discarded + 1] = entry.id end
  end
  return taken
end

--- Adds an idle sandbox that lives `ttl` seconds.
function methods:put(pool, id, ttl)
  local entries = entries_of(self, pool)
  for _, entry in ipairs(entries) do
    if entry.id == id then return true end
  end
  entries[#entries + 1] = { id = id, expires_at = core.time() + ttl }
  return true
end

--- Takes a sandbox out; one that is not there is fine.
function methods:remove(pool, id)
  local entries = entries_of(self, pool)
  for i = #entries, 1, -1 do
    if entries[i].id == id then table.remove(entries, i) end
  end
  return true
end

--- Takes out all that live less than `min_ttl` more.
-- @treturn table ids of those that live still
function methods:reap(pool, min_ttl)
  local entries, discarded = entries_of(self, pool), {}
  local limit = core.time() + min_ttl
  for i = #entries, 1, -1 do
    if entries[i].expires_at <= limit then table.insert(discarded, 1, table.remove(entries, i).id) end
  end
  return discarded
end

--- All idle sandboxes, oldest first.
-- @treturn table list of `{id=, expires_at=}` (Unix seconds)
function methods:entries(pool)
  local list = {}
  for i, entry in ipairs(entries_of(self, pool)) do list[i] = { id = entry.id, expires_at = entry.expires_at } end
  return list
end

--- How many idle sandboxes there are.
function methods:count(pool)
  return #entries_of(self, pool)
end

--- Takes, or keeps, the lock of the one owner that replenishes. Here there is only one.
-- @tparam string pool
-- @tparam string owner
-- @tparam number ttl
-- @tparam[opt] boolean only_renew true: keep it, but do not take it
-- @treturn boolean whether the owner has it now
function methods:lock(pool, owner, ttl, only_renew) -- luacheck: no unused args
  core.state(self, "memory_store")
  return true
end

--- Gives the lock up.
function methods:unlock(pool, owner) -- luacheck: no unused args
  core.state(self, "memory_store")
  return true
end

--- How many idle sandboxes all owners agreed on.
-- @treturn integer|boolean the number; false: nobody said
function methods:max_idle(pool)
  return core.state(self, "memory_store").max_idle[pool] or false
end

--- Tells all owners how many idle sandboxes there shall be, and how long they live.
function methods:configure(pool, max_idle, idle_ttl) -- luacheck: no unused args
  core.state(self, "memory_store").max_idle[pool] = max_idle
  return true
end

core.methods("memory_store", methods)

--- Makes a store in memory. Several pools of this process can use it under names of their own.
-- @treturn userdata store
function M.new()
  return core.new("memory_store", { pools = {}, max_idle = {}, label = "in memory" })
end

return M
