-- Snapshots, diagnostics and metrics against scripted servers.
local cjson = require "cjson"
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"

describe("of a sandbox,", function()
  local server, routes, path, box, manager

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)
  before_each(function()
    routes = faults.sandbox_routes(server)
    path = "/v1/sandboxes/" .. routes.id
    box = assert(opensandbox.create(routes.options(opensandbox)))
    manager = opensandbox.manager { connection = box.connection }
  end)
  after_each(function()
    box:close()
    server:reset()
  end)

  local function snapshot(state, more)
    local body = {
      id = "s1", sandboxId = routes.id, name = "n", status = { state = state, lastTransitionAt = "2026-01-02T03:04:05Z" },
      createdAt = "2026-01-02T03:04:05Z",
    }
    for key, value in pairs(more or {}) do body.status[key] = value end
    return body
  end

  describe("a snapshot", function()
    it("is made, and waited for when asked", function()
      server:route("POST", path .. "/snapshots", faults.json(202, snapshot "Creating"))
      server:route("GET", "/v1/snapshots/s1", faults.json(200, snapshot "Creating"), faults.json(200, snapshot "Ready"))
      local made = assert(box:create_snapshot { name = "n" })
      assert.equal("Creating", made.status.state)
      assert.equal(routes.id, made.sandbox_id)
      assert.equal(1767323045, made.created_at)
      assert.equal(1767323045, made.status.last_transition_at)
      assert.same({ name = "n" }, cjson.decode(server:requests(path .. "/snapshots")[1].body))
      assert.equal(0, #server:requests "/v1/snapshots/s1")
      assert.equal("Ready", assert(manager:create_snapshot(routes.id, { wait = true })).status.state)
      assert.equal("{}", server:requests(path .. "/snapshots")[2].body)
      assert.equal(2, #server:requests "/v1/snapshots/s1")
    end)

    it("that fails, never gets ready or is not possible is an error", function()
      server:route("POST", path .. "/snapshots", faults.json(202, snapshot "Creating"))
      server:route("GET", "/v1/snapshots/s1", faults.json(200, snapshot("Failed", { reason = "disk", message = "is full" })))
      local none, err = box:create_snapshot { wait = true }
      assert.is_nil(none)
      assert.equal("not_ready", err.code)
      assert.is_false(err.retryable)
      assert.equal("snapshot s1 is Failed (is full)", err.message)
      assert.equal("s1", err.partial.id)
      server:route("GET", "/v1/snapshots/s1", faults.json(200, snapshot "Creating"))
      err = select(2, box:create_snapshot { wait = true, ready_timeout = 0.3 })
      assert.equal("snapshot s1 is still Creating after 0.3 s", err.message)
      server:route("GET", "/v1/snapshots/s1", faults.json(404, { code = "SNAPSHOT::NOT_FOUND", message = "gone" }))
      assert.equal("not_found", select(2, box:create_snapshot { wait = true }).code)
      server:route("POST", path .. "/snapshots", faults.json(501, { code = "SNAPSHOT::NOT_IMPLEMENTED", message = "no" }))
      assert.equal("unsupported", select(2, box:create_snapshot()).code)
    end)

    it("is listed over all pages, found and deleted", function()
      local function page(ids, has_next)
        local items = {}
        for i, id in ipairs(ids) do items[i] = { id = id, status = { state = "Ready" }, createdAt = "2026-01-02T03:04:05Z" } end
        return faults.json(200, { items = items, pagination = { page = 1, hasNextPage = has_next } })
      end
      server:route("GET", "/v1/snapshots", page({ "a", "b" }, true), page({ "b", "c" }, false))
      local ids = {}
      for one in manager:each_snapshot { sandbox_id = "x y", states = { "Ready" }, name = "n", page_size = 2 } do ids[#ids + 1] = one.id end
      assert.same({ "a", "b", "c" }, ids)
      assert.equal("sandboxId=x%20y&state=Ready&name=n&page=1&pageSize=2", server:requests("/v1/snapshots")[1].query)
      assert.equal("b", assert(manager:list_snapshots()).items[1].id)
      server:route("GET", "/v1/snapshots/a%2Fb", faults.json(200, snapshot "Ready"))
      assert.equal("s1", assert(manager:get_snapshot "a/b").id)
      server:route("DELETE", "/v1/snapshots/s1", faults.answer(204),
        faults.json(409, { code = "SNAPSHOT::INVALID_STATE", message = "busy" }))
      assert.is_true(manager:delete_snapshot "s1")
      assert.equal("conflict", select(2, manager:delete_snapshot "s1").code)
      assert.has_error(function() manager:delete_snapshot "" end)
    end)

    it("is what another sandbox can be created from", function()
      assert(opensandbox.create { snapshot_id = "s1", connection = box.connection })
      local body = cjson.decode(server:requests("/v1/sandboxes")[2].body)
      assert.equal("s1", body.snapshotId)
      assert.is_nil(body.image)
      assert.is_nil(body.entrypoint)
    end)
  end)

  describe("diagnostics", function()
    it("are read by scope, by sandbox and by manager", function()
      for _, kind in ipairs { "logs", "events" } do
        local where = path .. "/diagnostics/" .. kind
        server:route("GET", where, faults.json(200, {
          sandboxId = routes.id, kind = kind, scope = "container", delivery = "url", contentType = "text/plain", truncated = false,
          contentUrl = "https://x/y", contentLength = 10, expiresAt = "2026-01-02T03:04:05Z",
        }))
        for _, answer in ipairs {
          assert(box["diagnostic_" .. kind](box, "container")),
          assert(manager["diagnostic_" .. kind](manager, routes.id, "container")),
        } do
          assert.equal(kind, answer.kind)
          assert.equal("https://x/y", answer.content_url)
          assert.equal(1767323045, answer.expires_at)
        end
        assert.equal("scope=container", server:requests(where)[1].query)
        server:route("GET", where, faults.json(501, { code = "DIAGNOSTICS_NOT_IMPLEMENTED", message = "not here" }))
        assert.equal("unsupported", select(2, box["diagnostic_" .. kind](box, "all")).code)
      end
      assert.has_error(function() box:diagnostic_logs() end)
    end)
  end)

  describe("metrics", function()
    local function sample(n)
      return cjson.encode { cpu_count = 2, cpu_used_pct = n, mem_total_mib = 10, mem_used_mib = 5, timestamp = 1500 * n }
    end

    local function watch_with(events, opts)
      opts = opts or {}
      opts.framing = opts.framing or "lines"
      server:route("GET", "/execd/metrics/watch", faults.stream(events, opts))
    end

    it("are watched in frames of one line each, cut anywhere, until the function returns false", function()
      watch_with({ sample(1), sample(2), sample(3), sample(4) }, { each = 7, ending = "open" })
      local seen = {}
      assert.is_true(box:watch_metrics(function(metrics)
        seen[#seen + 1] = metrics.cpu_used_pct
        assert.equal(1.5 * metrics.cpu_used_pct, metrics.timestamp)
        return #seen < 3
      end))
      assert.same({ 1, 2, 3 }, seen)
      server:await_abort "/execd/metrics/watch"
    end)

    it("end with an error when the stream does, stalls, or holds something else", function()
      local function watch(opts) return select(2, box:watch_metrics(function() end, opts)) end
      for _, ending in ipairs { "whole", "close" } do
        watch_with({ sample(1) }, { ending = ending })
        assert.equal("truncated", watch().code)
      end
      watch_with({ sample(1) }, { ending = "open" })
      assert.equal("timeout", watch({ idle_timeout = 0.2 }).code)
      assert.equal("timeout", watch({ timeout = 0.2 }).code)
      watch_with { sample(1), '{"error":"no metrics today"}' }
      assert.equal("no metrics today", watch().message)
      watch_with { "[1]" }
      assert.equal("decode", watch().code)
      watch_with { '{"timestamp":"soon"}' }
      assert.equal("decode", watch().code)
      watch_with { "{" }
      assert.equal("decode", watch().code)
    end)

    it("give a handler's error back", function()
      watch_with({ sample(1) }, { ending = "open" })
      local done, err = box:watch_metrics(function() error "mine" end)
      assert.is_nil(done)
      assert.equal("handler", err.code)
      assert.matches("mine", err.message)
      server:await_abort "/execd/metrics/watch"
    end)
  end)
end)

describe("metrics of the embedded runtime", function()
  it("can be watched", function()
    local box = assert(opensandbox.create())
    local count = 0
    assert.is_true(box:watch_metrics(function(metrics)
      count = count + 1
      assert.is_true(metrics.mem_used_mib <= metrics.mem_total_mib)
      return count < 2
    end))
    assert.equal(2, count)
    box:kill()
    box:close()
  end)
end)

describe("snapshots on a real runtime", function()
  it("are made, listed, restored and deleted", function()
    local manager = opensandbox.manager()
    local box = assert(opensandbox.create())
    assert(box.files:write("/workspace/kept", "here"))
    local snapshot = assert(box:create_snapshot { name = "mine", wait = true })
    assert.equal("Ready", snapshot.status.state)
    assert.equal(box.id, snapshot.sandbox_id)
    assert.equal(snapshot.id, assert(manager:list_snapshots { sandbox_id = box.id }).items[1].id)
    assert(box:kill())
    box:close()
    local restored = assert(opensandbox.create { snapshot_id = snapshot.id })
    assert.equal("here", restored.files:read "/workspace/kept")
    restored:kill()
    restored:close()
    assert.is_true(manager:delete_snapshot(snapshot.id))
    assert.equal("not_found", select(2, manager:get_snapshot(snapshot.id)).code)
  end)
end)
