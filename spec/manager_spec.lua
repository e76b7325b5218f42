local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"

describe("manager", function()
  local server, manager

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)
  before_each(function()
    manager = opensandbox.manager { connection = opensandbox.connection { domain = server.url, api_key = "key", retry = false } }
  end)
  after_each(function() server:reset() end)

  local function page(ids, has_next)
    local items = {}
    for i, id in ipairs(ids) do items[i] = { id = id, status = { state = "Running" }, createdAt = "2026-01-02T03:04:05Z" } end
    return faults.json(200, {
      items = items, pagination = { page = 1, pageSize = 2, totalItems = 3, totalPages = 2, hasNextPage = has_next },
    })
  end

  it("is userdata that closes", function()
    assert.equal("userdata", type(manager))
    assert.matches("^opensandbox.manager: ", tostring(manager))
    assert.is_true(manager:close())
    assert.has_error(function() manager:list() end)
  end)

  it("encodes metadata filters twice", function()
    server:route("GET", "/v1/sandboxes", page({ "a" }, false))
    local answer = assert(manager:list { states = { "Running", "Paused" }, metadata = { ["k&y"] = "a=b+c %é" }, page = 2, page_size = 50 })
    assert.equal("a", answer.items[1].id)
    assert.equal(1767323045, answer.items[1].created_at)
    assert.equal(3, answer.pagination.total_items)
    assert.equal("state=Running&state=Paused&metadata=k%2526y%3Da%253Db%252Bc%2520%2525%25C3%25A9&page=2&pageSize=50",
      server:requests("/v1/sandboxes")[1].query)
  end)

  it("walks over all pages lazily, each sandbox once", function()
    server:route("GET", "/v1/sandboxes", page({ "a", "b" }, true), page({ "b", "c" }, false))
    local ids = {}
    for info in manager:each { page_size = 2 } do
      ids[#ids + 1] = info.id
      if info.id == "a" then assert.equal(1, #server:requests("/v1/sandboxes")) end
    end
    assert.same({ "a", "b", "c" }, ids)
    assert.equal(2, #server:requests("/v1/sandboxes"))
  end)

  it("raises the error of a page that fails", function()
    server:route("GET", "/v1/sandboxes", page({ "a", "b" }, true), faults.json(500, { message = "broken" }))
    local ids = {}
    local ok, err = pcall(function()
      for info in manager:each() do ids[#ids + 1] = info.id end
    end)
    assert.is_false(ok)
    assert.is_true(opensandbox.is_error(err))
    assert.equal("broken", err.message)
    assert.same({ "a", "b" }, ids)
  end)

  it("acts on sandboxes by id", function()
    server:route("DELETE", "/v1/sandboxes/a%2Fb", faults.answer(204))
    server:route("POST", "/v1/sandboxes/x/pause", faults.answer(202))
    server:route("POST", "/v1/sandboxes/x/resume", faults.answer(202))
    server:route("POST", "/v1/sandboxes/x/renew-expiration", faults.json(200, { expiresAt = "2026-06-15T08:00:00Z" }))
    server:route("PATCH", "/v1/sandboxes/x/metadata", faults.json(200, { id = "x", metadata = { a = "b" } }))
    assert.is_true(manager:kill("a/b"))
    assert.is_true(manager:pause("x"))
    assert.is_true(manager:resume("x"))
    assert.equal(1781510400, manager:renew("x", 60))
    assert.same({ a = "b" }, manager:patch_metadata("x", { a = "b" }).metadata)
    server:route("GET", "/v1/sandboxes/x", faults.json(404, { message = "gone" }))
    assert.equal("not_found", select(2, manager:get("x")).code)
    assert.has_error(function() manager:kill() end)
    assert.has_error(function() manager:kill("") end)
  end)
end)
