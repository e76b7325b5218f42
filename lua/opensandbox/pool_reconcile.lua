--- How a pool is kept full: one owner at a time holds its lock, takes out what is about to expire, ends what is too much and makes what
-- lacks. Creates that keep failing are made less and less often.
local core = require "opensandbox.core"
local errors = require "opensandbox.errors"
local lifecycle = require "opensandbox.lifecycle"
local sandboxes = require "opensandbox.sandbox"
local task = require "opensandbox.task"
local tasks = require "opensandbox.tasks"

local M = {}

--- Ends a sandbox that nobody is to have. A failure is not told: the server ends it at its expiry.
function M.discard(state, id)
  state.counters.discarded = state.counters.discarded + 1
  sandboxes.about(state.connection_state, lifecycle.kill, id)
end

--- Notes a failed create; enough of them in a row make the pool degraded, and creates rarer.
local function note_failure(state, err)
  state.failures = state.failures + 1
  state.counters.failed = state.counters.failed + 1
  state.last_error = err
  local delay = 0
  if state.failures >= state.opts.degraded_threshold then
    state.degraded = true
    delay = math.min(state.opts.backoff_max, state.opts.backoff_base * 2 ^ (state.failures - state.opts.degraded_threshold))
  end
  if err.retry_after then delay = math.max(delay, err.retry_after) end
  if delay > 0 then state.backoff_until = core.now() + delay end
end

local function note_success(state)
  state.failures, state.degraded, state.last_error, state.backoff_until = 0, false, nil, nil
end

--- Gets a new sandbox ready to be handed out. → true, or nil, err
local function prepare(state, sandbox)
  local err = state.opts.prepare and task.call_handler(state.opts.prepare, sandbox)
  if err then return nil, err end
  if state.lifecycle == "running" then
    -- its time began with its creation: what is put into the list begins anew
    local renewed
    renewed, err = sandbox:renew(state.opts.idle_timeout)
    if not renewed then return nil, err end
  end
  if state.lifecycle == "running" then return true end
  return nil, errors.new { code = "pool_not_running", message = "the pool is shut down" }
end

--- Makes one sandbox. → id, or nil, err
local function create_one(state)
  local sandbox, err = sandboxes.create(state.idle_options)
  if not sandbox then return nil, err end
  local ok, is_ready
  ok, is_ready, err = task.pcall(prepare, state, sandbox)
  if not (ok and is_ready) then task.shield(sandbox.kill, sandbox) end
  sandbox:close()
  if not ok then error(is_ready, 0) end
  if not is_ready then return nil, err end
  return sandbox.id
end

--- Still the one who replenishes?
local function keeps_lock(state)
  return state.store:lock(state.name, state.owner, state.opts.primary_lock_ttl, true)
end

--- Waits for creates, keeping the lock meanwhile.
local function await_all(state, creates)
  for _, create in ipairs(creates) do
    while create.status == "running" do
      create:join(state.opts.primary_lock_ttl / 3)
      if create.status == "running" then keeps_lock(state) end
    end
  end
end

--- Puts what was made into the list; without the lock, or where that fails, it is ended.
local function hand_in(state, ids)
  local added, failure = 0, nil
  for _, id in ipairs(ids) do
    local has_lock, err, put = nil, failure, nil
    if not failure and state.lifecycle == "running" then
      has_lock, err = keeps_lock(state)
      if has_lock then put, err = state.store:put(state.name, id, state.opts.idle_timeout) end
    end
    if put then
      added = added + 1
      state.counters.created = state.counters.created + 1
    else
      failure = err or failure
      if has_lock then state.store:remove(state.name, id) end -- it may have got there
      M.discard(state, id)
    end
  end
  return added, failure
end

--- Makes `count` sandboxes at once. → how many came into the list
local function create_many(state, count)
  local creates, ids = {}, {}
  for i = 1, count do
    creates[i] = tasks.spawn(function()
      local id, err = create_one(state)
      if not id then return nil, err end
      ids[#ids + 1] = id
      return true
    end)
  end
  local waited, problem = task.pcall(await_all, state, creates)
  if not waited then
    for _, create in ipairs(creates) do create:cancel() end
    task.shield(function()
      for _, create in ipairs(creates) do create:join() end
      for _, id in ipairs(ids) do M.discard(state, id) end
    end)
    error(problem, 0)
  end
  local failure
  for _, create in ipairs(creates) do
    local done, err = create:join()
    if not done then failure = err end
    if not done and err.code ~= "pool_not_running" then note_failure(state, err) end
  end
  local added, store_failure = hand_in(state, ids)
  if added > 0 and not failure then note_success(state) end
  if store_failure then state.last_error = store_failure end
  return added
end

local function shrink(state, count)
  for _ = 1, count do
    if not keeps_lock(state) then return end
    local taken = state.store:take(state.name, 0)
    if not taken or not taken.id then return end
    M.discard(state, taken.id)
  end
end

--- How many idle sandboxes there shall be: what any owner said last.
function M.max_idle(state)
  local shared, err = state.store:max_idle(state.name)
  if shared == nil then return nil, err end
  return shared or state.max_idle
end

--- One look at the pool. → whether to look again at once, or nil, err (of the store)
local function tick(state)
  local store, opts = state.store, state.opts
  local is_primary, err = store:lock(state.name, state.owner, opts.primary_lock_ttl)
  state.is_primary = is_primary == true
  if not is_primary then return is_primary, err end
  local expiring, count, wanted
  expiring, err = store:reap(state.name, opts.min_remaining_ttl)
  if not expiring then return nil, err end
  for _, id in ipairs(expiring) do M.discard(state, id) end
  wanted, err = M.max_idle(state)
  if not wanted then return nil, err end
  count, err = store:count(state.name)
  if not count then return nil, err end
  if count > wanted then
    shrink(state, math.min(count - wanted, opts.warmup_concurrency))
    return count - wanted > opts.warmup_concurrency
  end
  if count == wanted or (state.backoff_until and core.now() < state.backoff_until) then return false end
  local asked = math.min(wanted - count, opts.warmup_concurrency)
  return create_many(state, asked) == asked and count + asked < wanted
end

--- Keeps the pool full until it is shut down: the body of its task.
function M.run(state)
  while state.lifecycle == "running" do
    state.kicked = false
    state.in_flight = state.in_flight + 1
    local ok, again, err = task.pcall(tick, state)
    state.in_flight = state.in_flight - 1
    state.changed:wake()
    if not ok then error(again, 0) end
    if again == nil then state.last_error = err end
    if not again and state.lifecycle == "running" then
      local wait = state.opts.reconcile_interval
      if state.backoff_until then wait = math.min(wait, math.max(state.backoff_until - core.now(), 0.01)) end
      task.await(state.wanted, core.now() + wait)
    end
  end
end

return M
