--- A pool of warm sandboxes: `opensandbox.pool`. Made ahead by tasks of this process, handed out at once.
local connections = require "opensandbox.connection"
local core = require "opensandbox.core"
local create = require "opensandbox.create"
local errors = require "opensandbox.errors"
local options = require "opensandbox.options"
local reconcile = require "opensandbox.pool_reconcile"
local sandboxes = require "opensandbox.sandbox"
local task = require "opensandbox.task"
local tasks = require "opensandbox.tasks"

local M = {}

local UNWIND_SECONDS = 6 -- a cancelled create has killed its sandbox by then

local check_pool = options.declare("pool", {
  name = { type = "string" }, max_idle = { type = "integer", default = 4 }, create = { type = "table", required = true },
  prepare = { type = "function" }, on_empty = { type = "string", default = "create" },
  min_remaining_ttl = { type = "duration", default = 60 }, warmup_concurrency = { type = "integer", default = 2 },
  reconcile_interval = { type = "duration", default = 5 }, idle_timeout = { type = "duration", default = 600 },
  drain_timeout = { type = "duration", default = 30 }, degraded_threshold = { type = "integer", default = 3 },
  backoff_base = { type = "duration", default = 1 }, backoff_max = { type = "duration", default = 300 },
  store = { type = { "memory_store", "redis_store", "table" } }, owner_id = { type = "string" },
  primary_lock_ttl = { type = "duration", default = 60 },
})
local check_acquire = options.declare("pool:acquire", {
  sandbox_timeout = { type = "duration" }, on_empty = { type = "string" }, timeout = { type = "duration" },
})
local check_shutdown = options.declare("pool:shutdown", {
  graceful = { type = "boolean", default = true }, release_idle = { type = "boolean" },
})

local POLICIES = { create = true, fail = true }

local function check_policy(on_empty)
  if not POLICIES[on_empty] then errors.raise(("option 'on_empty' must be 'create' or 'fail', got %q"):format(on_empty)) end
end

local function check_values(opts)
  check_policy(opts.on_empty)
  if opts.max_idle < 0 then errors.raise("option 'max_idle' must not be negative") end
  for _, name in ipairs { "warmup_concurrency", "degraded_threshold", "reconcile_interval", "idle_timeout", "primary_lock_ttl" } do
    if opts[name] <= 0 then errors.raise(("option '%s' must be more than 0"):format(name)) end
  end
  if opts.min_remaining_ttl >= opts.idle_timeout then errors.raise("option 'min_remaining_ttl' must be less than 'idle_timeout'") end
  if opts.store and not opts.name then errors.raise("a pool with a store of its own needs a 'name'") end
  if opts.name == "" then errors.raise("option 'name' must not be empty") end
end

--- Options of create with other values for some.
local function with(given, changes)
  local result = {}
  for name, value in pairs(given) do result[name] = value end
  for name, value in pairs(changes) do result[name] = value end
  return result
end

--- Makes a pool; nothing happens before `start`.
-- @tparam table opts
--
-- * `create` options of `opensandbox.create`, for every sandbox; `timeout` among them is what a sandbox gets when it is handed out
-- * `max_idle` how many are kept (4); `warmup_concurrency` how many are made at once (2); `prepare` function(sandbox), called before a
--   sandbox is put by: where it raises the sandbox is killed
-- * `on_empty` `"create"` (default: acquire makes one itself) or `"fail"`
-- * `idle_timeout` seconds that an idle sandbox lives (600); `min_remaining_ttl` those that one must have left to be handed out (60)
-- * `reconcile_interval` seconds between looks (5); `degraded_threshold` failures in a row (3), from which on creates wait `backoff_base`
--   (1) seconds, then twice as long each time, up to `backoff_max` (300)
-- * `store` where the list is kept: in memory (default), or `opensandbox.pool_redis{…}`, with which pools of several processes that have
--   the same `name` share one list; `owner_id` of this process (random), `primary_lock_ttl` seconds after which another one may take over
--   (60)
-- * `drain_timeout` seconds that `shutdown` waits for what is under way (30)
--
-- @treturn userdata pool
function M.pool(opts)
  opts = check_pool(opts)
  check_values(opts)
  local connection, connection_state = connections.resolve(opts.create.connection)
  local template = with(opts.create, { connection = connection })
  create.body(create.check(template), connection_state.embedded) -- raises here what would fail each time
  local state = {
    opts = opts, name = opts.name or "default", max_idle = opts.max_idle, template = template, connection = connection,
    connection_state = connection_state, idle_options = with(template, { timeout = opts.idle_timeout }),
    store = opts.store or require("opensandbox.pool_store").new(), owns_store = not opts.store,
    owner = opts.owner_id or ("lua-%s-%d-%.0f"):format(tostring({}):match("%x+$"), math.random(0, 2 ^ 30), core.time() * 1e6),
    lifecycle = "not_started", failures = 0, degraded = false, in_flight = 0, killers = {},
    counters = { created = 0, failed = 0, discarded = 0, acquired = 0, made_at_acquire = 0 },
  }
  state.label = state.name
  state.wanted = task.condition("the pool to be looked at", function() return state.kicked or state.lifecycle ~= "running" end)
  state.changed = task.condition("the pool's operations to end", function() return state.in_flight == 0 end)
  return core.new("pool", state)
end

local methods = { __fields = { name = true } }

local function kick(state)
  state.kicked = true
  state.wanted:wake()
end

local function not_running(state)
  return errors.new { code = "pool_not_running", message = ("the pool %s is %s"):format(state.name, state.lifecycle:gsub("_", " ")) }
end

--- Begins to keep the pool full. Its task goes on whenever this script waits.
-- @treturn boolean|nil true, also where it runs already
-- @treturn table err `pool_store`; `pool_not_running` once it was shut down
function methods:start()
  local state = core.state(self, "pool")
  if state.lifecycle == "running" then return true end
  if state.lifecycle ~= "not_started" then return nil, not_running(state) end
  local ok, err = state.store:configure(state.name, state.max_idle, state.opts.idle_timeout)
  if not ok then return nil, err end
  if state.lifecycle == "not_started" then
    state.lifecycle = "running"
    state.task = tasks.spawn(reconcile.run, state)
  end
  return true
end

--- Ends sandboxes behind the caller's back.
local function discard_later(state, ids)
  if #ids == 0 then return end
  state.killers[#state.killers + 1] = tasks.spawn(function()
    for _, id in ipairs(ids) do reconcile.discard(state, id) end
  end)
  for i = #state.killers, 1, -1 do
    if state.killers[i].status ~= "running" then table.remove(state.killers, i) end
  end
end

--- Seconds until a deadline, for the next call; at least a little, so that the call itself tells that time is out.
local function seconds_left(deadline)
  return deadline and math.max(deadline - core.now(), 0.001) or nil
end

--- Connects to an idle sandbox and gives it its time to live.
local function hand_out(state, id, ttl, deadline)
  local template, left = state.template, seconds_left(deadline)
  local sandbox, err = sandboxes.connect(id, {
    connection = state.connection, ready_timeout = template.ready_timeout, health_check = template.health_check,
    health_check_interval = template.health_check_interval, skip_health_check = template.skip_health_check, timeout = left,
  })
  if not sandbox then return nil, err end
  if ttl then
    local renewed
    renewed, err = sandbox:renew(ttl, { timeout = seconds_left(deadline) })
    if not renewed then
      sandbox:close()
      return nil, err
    end
  end
  core.state(sandbox, "sandbox").created = true -- it is the caller's alone, who made it by asking for it
  return sandbox
end

--- Takes idle sandboxes until one is healthy. → sandbox; or nil, and the last failure, if there was any
local function acquire_idle(state, ttl, deadline)
  local failure
  while true do
    local taken, err = state.store:take(state.name, state.opts.min_remaining_ttl)
    if not taken then return nil, err, true end
    discard_later(state, taken.discarded)
    if not taken.id then return nil, failure end
    local ok, sandbox
    ok, sandbox, err = task.pcall(hand_out, state, taken.id, ttl, deadline)
    if ok and sandbox then return sandbox end
    discard_later(state, { taken.id })
    if not ok then error(sandbox, 0) end
    failure = err
    if deadline and core.now() >= deadline then return nil, failure end
  end
end

local function create_now(state, ttl, deadline)
  local changes = {}
  if ttl then changes.timeout = ttl end
  if deadline then
    local left = seconds_left(deadline)
    changes.request_timeout = math.min(left, state.template.request_timeout or left)
    changes.ready_timeout = math.min(left, state.template.ready_timeout or left)
  end
  return sandboxes.create(with(state.template, changes))
end

local function acquire(state, opts)
  local deadline = opts.timeout and core.now() + opts.timeout
  local ttl = opts.sandbox_timeout or state.template.timeout or nil
  local sandbox, failure, is_final = acquire_idle(state, ttl, deadline)
  kick(state)
  if sandbox then
    state.counters.acquired = state.counters.acquired + 1
    return sandbox
  end
  if is_final then return nil, failure end
  if (opts.on_empty or state.opts.on_empty) == "fail" then
    if not failure then return nil, errors.new { code = "pool_empty", message = "the pool is empty: " .. state.name } end
    local message = ("no idle sandbox of the pool %s could be used; the last failure: %s"):format(state.name, failure.message)
    return nil, errors.new { code = "pool_acquire_failed", message = message, cause = failure }
  end
  sandbox, failure = create_now(state, ttl, deadline)
  if sandbox then state.counters.made_at_acquire = state.counters.made_at_acquire + 1 end
  return sandbox, failure
end

--- Hands out a sandbox that is ready: an idle one, else, with `on_empty = "create"`, a new one. It is the caller's: to be killed, or ended
-- by `<close>`.
-- @tparam[opt] table opts `sandbox_timeout` (seconds to live from now; default: the pool's `create.timeout`, without which an idle one
-- keeps what it has left), `on_empty`, `timeout` (seconds, whole call)
-- @treturn userdata|nil sandbox
-- @treturn table err `pool_not_running`, `pool_empty`, `pool_acquire_failed`, `pool_store`, or why a new one could not be made
function methods:acquire(opts)
  local state = core.state(self, "pool")
  opts = check_acquire(opts)
  if opts.on_empty then check_policy(opts.on_empty) end
  if state.lifecycle ~= "running" then return nil, not_running(state) end
  state.in_flight = state.in_flight + 1
  local ok, sandbox, err = task.pcall(acquire, state, opts)
  state.in_flight = state.in_flight - 1
  state.changed:wake()
  if not ok then error(sandbox, 0) end
  return sandbox, err
end

local function state_name(state)
  if state.lifecycle == "draining" then return "draining" end
  if state.lifecycle ~= "running" then return "stopped" end
  return state.degraded and "degraded" or "healthy"
end

--- How the pool is.
-- @treturn table|nil `{state="healthy"|"degraded"|"draining"|"stopped", lifecycle="not_started"|"running"|"draining"|"stopped",
-- idle_count=, max_idle=, failure_count=, backoff_active=, last_error=err or nil, in_flight=, is_primary=, counters={created=, failed=,
-- discarded=, acquired=, made_at_acquire=}}`
-- @treturn table err `pool_store`
function methods:snapshot()
  local state = core.state(self, "pool")
  local count, err = state.store:count(state.name)
  if not count then return nil, err end
  local max_idle
  max_idle, err = reconcile.max_idle(state)
  if not max_idle then return nil, err end
  local counters = {}
  for name, value in pairs(state.counters) do counters[name] = value end
  return {
    state = state_name(state), lifecycle = state.lifecycle, idle_count = count, max_idle = max_idle, failure_count = state.failures,
    backoff_active = state.backoff_until ~= nil and core.now() < state.backoff_until, last_error = state.last_error,
    in_flight = state.in_flight, is_primary = state.is_primary == true, counters = counters,
  }
end

--- The idle sandboxes, oldest first.
-- @treturn table|nil list of `{id=, expires_at=}` (Unix seconds)
-- @treturn table err `pool_store`
function methods:idle_entries()
  local state = core.state(self, "pool")
  return state.store:entries(state.name)
end

--- Sets how many idle sandboxes there shall be, for all who share the pool.
-- @tparam integer n
-- @treturn boolean|nil true
-- @treturn table err `pool_store`
function methods:resize(n)
  local state = core.state(self, "pool")
  options.argument("n", n, "integer")
  if n < 0 then errors.raise("n must not be negative") end
  local ok, err = state.store:configure(state.name, n, state.opts.idle_timeout)
  if not ok then return nil, err end
  state.max_idle = n
  kick(state)
  return true
end

local function release_all(state)
  local count = 0
  while true do
    local taken, err = state.store:take(state.name, 0)
    if not taken then return nil, err end
    if not taken.id then return count end
    reconcile.discard(state, taken.id)
    count = count + 1
  end
end

--- Ends all idle sandboxes. A running pool makes new ones.
-- @treturn integer|nil how many
-- @treturn table err `pool_store`
function methods:release_all_idle()
  local state = core.state(self, "pool")
  local count, err = release_all(state)
  kick(state)
  return count, err
end

local function stop(state, opts)
  if opts.graceful then task.await(state.changed, core.now() + state.opts.drain_timeout) end
  if state.task then
    if state.in_flight > 0 then state.task:cancel() end
    state.task:join(UNWIND_SECONDS)
  end
  for _, killer in ipairs(state.killers) do killer:join(UNWIND_SECONDS) end
  local release = opts.release_idle
  if release == nil then release = state.owns_store end
  if release then release_all(state) end
  if state.is_primary then state.store:unlock(state.name, state.owner) end
end

--- Stops keeping the pool full, and waits for what is under way. Sandboxes that were handed out live on.
-- @tparam[opt] table opts `graceful` (true: wait up to `drain_timeout`; false: cut short what is under way: a sandbox whose create
-- request is cut may live on until `idle_timeout`), `release_idle` (end the idle sandboxes; default: true for a pool in memory, since
-- nobody else can have them, false for a shared store)
-- @treturn boolean true, also where it was stopped already
function methods:shutdown(opts)
  local state = core.state(self, "pool")
  opts = check_shutdown(opts)
  if state.lifecycle == "draining" or state.lifecycle == "stopped" then return true end
  state.lifecycle = "draining"
  state.wanted:wake()
  local ok, problem = task.pcall(stop, state, opts)
  state.lifecycle = "stopped"
  if not ok then error(problem, 0) end
  return true
end

local function close_scope(self)
  local state = core.state(self, "pool", true)
  if not core.is_closed(self) and state.lifecycle == "running" then methods.shutdown(self) end
  core.close(self)
end

core.methods("pool", methods, { __close = close_scope })

return M
