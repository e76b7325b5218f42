-- Pools: on the embedded runtime, against scripted servers, and several processes on one real Redis.
local core = require "opensandbox.core"
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"
local pool_store = require "opensandbox.pool_store"
local redis = require "spec.support.redis"
local runtimes = require "spec.support.runtime"
local script = require "spec.support.script"
local task = require "opensandbox.task"

local SECONDS = 20

--- Lets tasks go on until `test` gives something.
local function await(test)
  local deadline = core.now() + SECONDS
  while true do
    local value = test()
    if value then return value end
    if core.now() > deadline then error("what was awaited did not come about", 2) end
    task.sleep(0.005)
  end
end

local function await_idle(pool, count)
  return await(function() return assert(pool:snapshot()).idle_count == count end)
end

describe("a pool", function()
  local pools = {}

  local function new(opts)
    opts.create = opts.create or {}
    local pool = opensandbox.pool(opts)
    pools[#pools + 1] = pool
    return pool
  end

  after_each(function()
    for _, pool in ipairs(pools) do pool:shutdown() end
    pools = {}
  end)

  it("keeps sandboxes ready, hands them out at once and makes new ones", function()
    local prepared = 0
    local pool = new { max_idle = 2, prepare = function(box)
      assert(box.files:write("/tmp/prepared", "yes"))
      prepared = prepared + 1
    end }
    assert.equal("stopped", pool:snapshot().state)
    assert.equal("pool_not_running", select(2, pool:acquire()).code)
    assert.is_true(pool:start())
    assert.is_true(pool:start())
    await_idle(pool, 2)
    local idle = pool:idle_entries()
    assert.is_true(idle[1].expires_at > os.time() + 500)
    local box = assert(pool:acquire { sandbox_timeout = 100 })
    assert.equal(idle[1].id, box.id)
    assert.equal("yes", box.files:read "/tmp/prepared")
    assert.is_true(math.abs(box:info().expires_at - os.time() - 100) < 10)
    await_idle(pool, 2)
    local snapshot = pool:snapshot()
    assert.same({ "healthy", "running", 2, true, 3, 1, 0 }, { snapshot.state, snapshot.lifecycle, snapshot.max_idle, snapshot.is_primary,
      snapshot.counters.created, snapshot.counters.acquired, snapshot.counters.made_at_acquire })
    assert.equal(3, prepared)
    assert.is_true(box:kill())
    box:close()
  end)

  it("makes one at acquire where none is ready, or fails, as asked", function()
    local pool = new { max_idle = 0, create = { timeout = 200 } }
    assert(pool:start())
    assert.equal("pool_empty", select(2, pool:acquire { on_empty = "fail" }).code)
    local box = assert(pool:acquire())
    assert.is_true(math.abs(box:info().expires_at - os.time() - 200) < 10)
    assert.equal(1, pool:snapshot().counters.made_at_acquire)
    box:kill()
    box:close()
  end)

  it("is resized, emptied and shut down; then nothing of it is left", function()
    local manager = opensandbox.manager()
    local function count()
      local n = 0
      for _ in manager:each { metadata = { pool = "mine" } } do n = n + 1 end
      return n
    end
    local pool = new { max_idle = 3, create = { metadata = { pool = "mine" } } }
    assert(pool:start())
    await_idle(pool, 3)
    assert.is_true(pool:resize(1))
    await_idle(pool, 1)
    assert.equal(1, pool:snapshot().max_idle)
    await(function() return count() == 1 end)
    assert.is_true(pool:resize(0))
    await_idle(pool, 0)
    assert.is_true(pool:resize(2))
    await_idle(pool, 2)
    local box = assert(pool:acquire())
    assert.is_true(pool:shutdown())
    assert.equal("stopped", pool:snapshot().state)
    assert.equal("pool_not_running", select(2, pool:acquire()).code)
    assert.equal("pool_not_running", select(2, pool:start()).code)
    assert.equal(1, count())
    box:kill()
    box:close()
    assert.equal(0, pool:release_all_idle())
  end)

  it("shut down while it makes sandboxes leaves none behind, gracefully or not", function()
    local manager = opensandbox.manager()
    for _, graceful in ipairs { true, false } do
      local started = false
      local pool = new { max_idle = graceful and 2 or 1, create = { metadata = { pool = "cut" } }, prepare = function(box)
        started = true
        assert(box.commands:run(graceful and "true" or "sleep 60"))
      end }
      assert(pool:start())
      await(function() return started end)
      assert.is_true(pool:shutdown { graceful = graceful })
      assert.equal(0, #manager:list({ metadata = { pool = "cut" } }).items)
    end
  end)

  it("passes over idle sandboxes that are gone, and those with too little time left", function()
    local store = pool_store.new()
    local pool = new { name = "p", store = store, max_idle = 0, min_remaining_ttl = 30 }
    assert(pool:start())
    local short = assert(opensandbox.create())
    store:put("p", "gone", 100)
    store:put("p", short.id, 10)
    local err = select(2, pool:acquire { on_empty = "fail" })
    assert.equal("pool_acquire_failed", err.code)
    assert.equal("not_found", err.cause.code)
    await(function() return select(2, opensandbox.manager():get(short.id)) end)
    assert.equal(0, pool:snapshot().idle_count)
    local good = assert(opensandbox.create())
    store:put("p", "gone", 100)
    store:put("p", good.id, 100)
    local box = assert(pool:acquire { on_empty = "fail" })
    assert.equal(good.id, box.id)
    box:kill()
    for _, one in ipairs { short, good, box } do one:close() end
  end)

  it("kills what it hands out when its holder leaves it", function()
    local leave = (loadstring or load) "local box = ... local scope <close> = box"
    if not leave then
      pending("this Lua has no <close>")
      return
    end
    local pool = new { max_idle = 1 }
    assert(pool:start())
    await_idle(pool, 1)
    local box = assert(pool:acquire())
    local id = box.id
    leave(box)
    assert.equal("not_found", select(2, opensandbox.manager():get(id)).code)
  end)

  it("checks its options", function()
    local misuse = {
      {}, { create = { imag = "x" } }, { create = {}, max_idle = -1 }, { create = {}, on_empty = "wait" },
      { create = {}, idle_timeout = 10 }, { create = {}, store = pool_store.new() }, { create = {}, warmup_concurrency = 0 },
      { create = {}, name = "" },
    }
    for i, opts in ipairs(misuse) do
      local ok, message = pcall(function() opensandbox.pool(opts) end)
      assert.is_false(ok, i)
      assert.matches("pool_spec.lua:%d+: ", message)
    end
    local pool = new {}
    assert.has_error(function() pool:resize(1.5) end)
    assert.has_error(function() pool:acquire { on_empty = "wait" } end)
  end)

  describe("whose creates fail", function()
    local server, routes

    setup(function() server = faults.start() end)
    teardown(function() server:stop() end)
    before_each(function()
      routes = faults.sandbox_routes(server)
      server:route("POST", "/v1/sandboxes/" .. routes.id .. "/renew-expiration",
        faults.json(200, { expiresAt = "2036-01-01T00:00:00Z" }))
    end)
    after_each(function()
      for _, pool in ipairs(pools) do pool:shutdown { graceful = false } end
      pools = {}
      server:reset()
    end)

    it("is degraded after some failures, tries more and more rarely, and recovers", function()
      local refusal = faults.json(500, { code = "X", message = "no room" })
      server:route("POST", "/v1/sandboxes", refusal)
      local pool = new {
        max_idle = 1, create = routes.options(opensandbox), degraded_threshold = 2, backoff_base = 0.05, reconcile_interval = 0.01,
      }
      assert(pool:start())
      local snapshot = await(function()
        local now = pool:snapshot()
        return now.failure_count >= 3 and now
      end)
      assert.equal("degraded", snapshot.state)
      assert.is_true(snapshot.backoff_active)
      assert.equal("no room", snapshot.last_error.message)
      server:route("POST", "/v1/sandboxes", faults.json(202, { id = routes.id, status = { state = "Running" } }))
      await_idle(pool, 1)
      snapshot = pool:snapshot()
      assert.same({ "healthy", 0, false }, { snapshot.state, snapshot.failure_count, snapshot.backoff_active })
      assert.is_nil(snapshot.last_error)
    end)

    it("waits as long as the server says", function()
      server:route("POST", "/v1/sandboxes", faults.json(429, { message = "slow down" }, { ["Retry-After"] = "1000" }))
      local pool = new { max_idle = 1, create = routes.options(opensandbox), reconcile_interval = 0.01 }
      assert(pool:start())
      await(function() return pool:snapshot().failure_count == 1 end)
      assert.is_true(pool:snapshot().backoff_active)
      assert.equal("healthy", pool:snapshot().state)
      assert.equal(1, #server:requests "/v1/sandboxes")
    end)

    it("kills what prepare refuses", function()
      local pool = new { max_idle = 1, create = routes.options(opensandbox), prepare = function() error "unfit" end }
      assert(pool:start())
      local request = server:await("/v1/sandboxes/" .. routes.id, function(requests)
        for _, one in ipairs(requests) do
          if one.method == "DELETE" then return one end
        end
      end)
      assert.is_not_nil(request)
      await(function() return pool:snapshot().failure_count == 1 end)
      assert.matches("unfit", pool:snapshot().last_error.message)
    end)
  end)
end)

describe("the Redis store", function()
  local server, stores

  setup(function() server = redis.start() end)
  teardown(function() if server then server:stop() end end)
  before_each(function() stores = {} end)
  after_each(function()
    for _, store in ipairs(stores) do store:close() end
  end)

  local function connect(opts)
    local all = { path = server.path }
    for name, value in pairs(opts or {}) do all[name] = value end
    local store = opensandbox.pool_redis(all)
    stores[#stores + 1] = store
    return store
  end

  local function skipped()
    if server then return false end
    pending("redis-server is not installed")
    return true
  end

  it("keeps the list as the one in memory does", function()
    if skipped() then return end
    for _, store in ipairs { pool_store.new(), connect() } do
      assert.is_false(store:max_idle "a b/ü")
      assert.is_true(store:configure("a b/ü", 7, 60))
      assert.equal(7, store:max_idle "a b/ü")
      assert.is_true(store:put("p", "one", 100))
      assert.is_true(store:put("p", "two", 5))
      assert.is_true(store:put("p", "three", 100))
      assert.is_true(store:put("p", "one", 100))
      assert.is_true(store:put("p", "over", 0.001))
      task.sleep(0.01)
      assert.equal(3, store:count "p")
      assert.equal(0, store:count "q")
      local entries = store:entries "p"
      assert.same({ "one", "two", "three" }, { entries[1].id, entries[2].id, entries[3].id })
      assert.is_true(math.abs(entries[1].expires_at - core.time() - 100) < 10)
      assert.same({ id = "one", discarded = {} }, store:take("p", 50))
      assert.same({ id = "three", discarded = { "two" } }, store:take("p", 50))
      assert.same({ discarded = {} }, store:take("p", 0))
      store:put("p", "four", 5)
      store:put("p", "five", 100)
      assert.same({ "four" }, store:reap("p", 50))
      assert.is_true(store:remove("p", "five"))
      assert.is_true(store:remove("p", "five"))
      assert.equal(0, store:count "p")
    end
  end)

  it("has the keys of the official SDKs", function()
    if skipped() then return end
    local store = connect { prefix = "x" }
    store:put("name?>", "id", 100)
    store:lock("name?>", "me", 100)
    store:configure("name?>", 1, 2)
    local pipe = assert(io.popen("redis-cli -s " .. server.path .. " --raw KEYS 'x:*' 2>&1"))
    local keys = {}
    for line in pipe:lines() do keys[line] = true end
    pipe:close()
    for _, name in ipairs { "idle:list", "idle:expires", "lock", "maxIdle", "idleTtlMillis" } do
      assert.is_true(keys["x:{bmFtZT8-}:" .. name], name)
    end
  end)

  it("gives the lock to one owner, until it is given up or its time is over", function()
    if skipped() then return end
    local a, b = connect(), connect()
    assert.is_true(a:lock("l", "a", 100))
    assert.is_true(a:lock("l", "a", 100, true))
    assert.is_false(b:lock("l", "b", 100))
    assert.is_false(b:lock("l", "b", 100, true))
    assert.is_true(b:unlock("l", "b"))
    assert.is_false(b:lock("l", "b", 100))
    assert.is_true(a:unlock("l", "a"))
    assert.is_false(b:lock("l", "b", 100, true))
    assert.is_true(b:lock("l", "b", 0.02))
    await(function() return a:lock("l", "a", 100) end)
  end)

  it("answers many tasks at once", function()
    if skipped() then return end
    local store, fns = connect(), {}
    for i = 1, 20 do
      fns[i] = function() return assert(store:put("many", "id" .. i, 100)) end
    end
    assert(opensandbox.gather(fns))
    assert.equal(20, store:count "many")
  end)

  it("tells when Redis is not there, hangs, refuses or was started anew", function()
    if skipped() then return end
    local err = select(2, connect({ path = "/nonexistent/socket" }):count "p")
    assert.equal("pool_store", err.code)
    assert.matches("^Redis at /nonexistent/socket: ", err.message)
    assert.equal("pool_store", select(2, opensandbox.pool_redis({ port = 1, timeout = 0.5 }):count "p").code)
    local other = redis.start { password = "secret-pass" }
    err = select(2, connect({ path = other.path }):count "p")
    assert.matches("NOAUTH", err.message)
    err = select(2, connect({ path = other.path, password = "secret-fail" }):count "p")
    assert.equal("pool_store", err.code)
    assert.is_nil(tostring(err):find("secret-fail", 1, true))
    local store = connect { path = other.path, password = "secret-pass", db = 1, timeout = 0.2 }
    assert.equal(0, store:count "p")
    other:signal(19)
    err = select(2, store:count "p")
    assert.matches("did not answer in time", err.message)
    other:signal(18)
    assert.equal(0, await(function() return (store:count "p") end))
    other:stop()
    assert.equal("pool_store", select(2, store:count "p").code)
    local pool = opensandbox.pool { name = "p", create = {}, store = store }
    assert.equal("pool_store", select(2, pool:start()).code)
  end)

  it("serves a pool whose Redis goes away and comes back to nothing", function()
    if skipped() then return end
    local other = redis.start()
    local store = connect { path = other.path, timeout = 0.5 }
    local pool = opensandbox.pool { name = "p", create = {}, store = store, max_idle = 1, reconcile_interval = 0.01 }
    assert(pool:start())
    await_idle(pool, 1)
    local id = pool:idle_entries()[1].id
    other:stop()
    assert.equal("pool_store", select(2, pool:acquire()).code)
    assert.equal("pool_store", select(2, pool:snapshot()).code)
    assert.is_true(pool:shutdown { graceful = false })
    assert.is_true(opensandbox.manager():kill(id))
  end)

  it("is shared by processes: one replenishes, another one takes over, none is handed out twice", function()
    if skipped() then return end
    local runtime = runtimes.start()
    local child_source = ([[
      local opensandbox = require "opensandbox"
      local task = require "opensandbox.task"
      local connection = opensandbox.connection { domain = %q, api_key = %q }
      local pool = opensandbox.pool {
        name = "shared", max_idle = 4, reconcile_interval = 0.02, primary_lock_ttl = 0.6,
        create = { image = "host", connection = connection },
        store = opensandbox.pool_redis { path = %q },
      }
      assert(pool:start())
      task.sleep(0.1)
      repeat task.sleep(0.02) until pool:snapshot().idle_count >= 1
      print(pool:snapshot().is_primary and "primary" or "other")
      while true do
        local file = io.open(os.getenv "ORDERS")
        local order = file and file:read "*a" or ""
        if file then file:close() end
        if order:find "acquire" then
          for _ = 1, 2 do
            local box, err = pool:acquire { on_empty = "fail" }
            print(box and box.id or err.code)
          end
          break
        end
        task.sleep(0.02)
      end
      while true do task.sleep(0.02) end
    ]]):format(runtime.url, runtime.api_key, server.path)
    local orders = os.tmpname()
    local children, roles, primary = {}, {}, nil
    for i = 1, 3 do children[i] = script.start(child_source, { ORDERS = orders }) end
    for i, child in ipairs(children) do
      local role = child:line()
      roles[role] = (roles[role] or 0) + 1
      if role == "primary" then primary = i end
    end
    assert.same({ primary = 1, other = 2 }, roles)
    local connection = opensandbox.connection { domain = runtime.url, api_key = runtime.api_key }
    local watcher = opensandbox.pool {
      name = "shared", max_idle = 4, create = { image = "host", connection = connection }, store = connect(),
    }
    await(function() return watcher:snapshot().idle_count == 4 end)
    assert.equal(4, #opensandbox.manager({ connection = connection }):list().items)
    local first = watcher:idle_entries()[1].id

    local file = assert(io.open(orders, "w"))
    file:write("acquire")
    file:close()
    local seen = {}
    for _, child in ipairs(children) do
      for _ = 1, 2 do
        local id = child:line()
        assert.is_nil(seen[id])
        if id ~= "pool_empty" then seen[id] = true end
      end
    end
    assert.is_true(seen[first])
    children[primary]:kill(9)
    await(function() return watcher:snapshot().idle_count == 4 end)
    for i, child in ipairs(children) do
      if i ~= primary then child:kill(9) end
    end
    os.remove(orders)
    assert.equal(4, watcher:release_all_idle())
    runtime:stop()
  end)
end)
