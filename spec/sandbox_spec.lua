-- Methods of a sandbox against scripted servers: what goes over the wire, what is remembered, what closing means.
local cjson = require "cjson"
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"

describe("sandbox", function()
  local server, routes, path, box

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)
  before_each(function()
    routes = faults.sandbox_routes(server)
    path = "/v1/sandboxes/" .. routes.id
    box = assert(opensandbox.create(routes.options(opensandbox)))
  end)
  after_each(function() server:reset() end)

  local function count(method, where)
    local n = 0
    for _, request in ipairs(server:requests(where)) do
      if request.method == method then n = n + 1 end
    end
    return n
  end

  it("is userdata that tells its kind and id, and so are its parts", function()
    for _, part in ipairs { "commands", "files" } do
      assert.equal("userdata", type(box[part]))
      assert.equal("opensandbox." .. part .. ": " .. routes.id, tostring(box[part]))
      assert.equal(box[part], box[part])
    end
    assert.equal("userdata", type(box))
    assert.equal("opensandbox.sandbox: " .. routes.id, tostring(box))
    assert.equal(routes.id, box.id)
    assert.equal("userdata", type(box.connection))
    assert.is_nil(box.nothing)
  end)

  it("raises at the caller's line when one kind is used as another", function()
    local ok, message = pcall(function() box.files.info(box) end)
    assert.is_false(ok)
    assert.matches("sandbox_spec.lua:%d+: opensandbox.files expected, got opensandbox.sandbox", message)
  end)

  it("stays usable through its parts when the handle itself is gone", function()
    server:route("GET", "/execd/files/download", faults.answer(200, "bytes"))
    local files = assert(opensandbox.create(routes.options(opensandbox))).files
    collectgarbage()
    collectgarbage()
    assert.equal("bytes", files:read("/x"))
  end)

  it("remembers an endpoint until kill, pause, resume or a failure to connect", function()
    local where = path .. "/endpoints/44772"
    assert.is_true(box:is_healthy())
    assert.is_true(box:is_healthy())
    assert.equal(1, #server:requests(where))
    server:route("POST", path .. "/pause", faults.answer(202))
    assert.is_true(box:pause())
    assert.is_true(box:is_healthy())
    assert.equal(2, #server:requests(where))
    server:route("POST", path .. "/resume", faults.answer(202))
    assert.is_true(box:resume())
    assert.equal(3, #server:requests(where))
    server:route("GET", "/execd/ping", { { reset = true } })
    assert.is_false(box:is_healthy())
    server:route("GET", "/execd/ping", faults.answer(200))
    assert.is_true(box:is_healthy())
    assert.equal(4, #server:requests(where))
  end)

  it("asks for other ports, signed and proxied addresses", function()
    server:route("GET", path .. "/endpoints/8000", faults.json(200, { endpoint = "https://h:1/p/", headers = { ["X-A"] = "b" } }))
    assert.same({ endpoint = "h:1/p", url = "https://h:1/p", headers = { ["X-A"] = "b" } }, box:endpoint(8000))
    assert(box:endpoint(8000))
    assert(box:endpoint(8000, { use_server_proxy = true }))
    assert(box:endpoint(8000, { expires = 1800000000 }))
    assert(box:endpoint(8000, { expires = 1800000000 }))
    local queries = {}
    for i, request in ipairs(server:requests(path .. "/endpoints/8000")) do queries[i] = request.query or "" end
    assert.same({ "", "use_server_proxy=true", "expires=1800000000", "expires=1800000000" }, queries)
    assert.has_error(function() box:endpoint(8000, { expires = 1, use_server_proxy = true }) end)
    assert.has_error(function() box:endpoint("8000") end)
  end)

  it("makes requests to services inside", function()
    local endpoint = { endpoint = server.authority .. "/svc", headers = { ["X-A"] = "b" } }
    server:route("GET", path .. "/endpoints/8000", faults.json(200, endpoint))
    server:route("PUT", "/svc/a%20b%2Fc", faults.answer(201, "made", { ["X-Reply"] = "yes" }))
    local response = assert(box:request {
      port = 8000, method = "put", path = "/a b%2Fc?q=1 2#x", headers = { ["X-C"] = "d" }, body = "hi",
    })
    assert.equal(201, response.status)
    assert.equal("made", response.body)
    assert.equal("yes", response.headers["x-reply"])
    local request = server:requests("/svc/a%20b%2Fc")[1]
    assert.equal("q=1%202", request.query)
    assert.equal("hi", request.body)
    assert.equal("b", request.headers["x-a"])
    assert.equal("d", request.headers["x-c"])
    server:route("GET", "/svc/", faults.answer(418, "teapot"))
    local none, err = box:request { port = 8000 }
    assert.is_nil(none)
    assert.equal(418, err.status)
    assert.equal("teapot", err.body)
    assert.has_error(function() box:request { port = 8000, headers = { A = "b\r\nC: d" } } end)
  end)

  it("renews to an absolute time in UTC", function()
    server:route("POST", path .. "/renew-expiration", faults.json(200, { expiresAt = "2026-06-15T08:00:00.5Z" }))
    local before = os.time()
    assert.equal(1781510400.5, box:renew(90))
    local sent = cjson.decode(server:requests(path .. "/renew-expiration")[1].body).expiresAt
    local asked = require("opensandbox.datetime").parse_iso(sent)
    assert.is_true(asked >= before + 89 and asked <= os.time() + 91)
    assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ$", sent)
  end)

  it("patches metadata with null for what is to go", function()
    server:route("PATCH", path .. "/metadata", faults.json(200, { id = routes.id, metadata = { A = "1" } }))
    assert.same({ A = "1" }, box:patch_metadata({ A = "1", b_c = opensandbox.null }).metadata)
    assert.equal('{"A":"1","b_c":null}', server:requests(path .. "/metadata")[1].body)
    assert.has_error(function() box:patch_metadata { A = 1 } end)
  end)

  it("reads metrics", function()
    server:route("GET", "/execd/metrics", faults.json(200, '{"cpu_count":2,"cpu_used_pct":1.5,"mem_total_mib":10,"timestamp":1500}'))
    local metrics = assert(box:metrics())
    assert.equal(2, metrics.cpu_count)
    assert.equal(1.5, metrics.timestamp)
    assert.equal(1500, metrics.raw.timestamp)
  end)

  it("says what an answer lacks", function()
    server:route("GET", path, faults.answer(200, '{"id":1,"createdAt":"never"}', { ["X-Request-ID"] = "q" }))
    local none, err = box:info()
    assert.is_nil(none)
    assert.equal("decode", err.code)
    assert.equal("q", err.request_id)
    assert.equal("the answer is not what getSandbox gives: it createdAt is not a time", err.message)
    server:route("GET", path, faults.answer(200, "<html>"))
    assert.equal("decode", select(2, box:info()).code)
  end)

  it("gives back the request id that was sent", function()
    local settings = routes.options(opensandbox, { headers = { ["X-Request-ID"] = "mine" }, retry = false })
    local mine = assert(opensandbox.create(settings))
    server:route("GET", path, { { reset = true } })
    assert.equal("mine", select(2, mine:info()).request_id)
    server:route("GET", path, faults.json(404, { message = "gone" }))
    assert.equal("mine", select(2, mine:info()).request_id)
  end)

  it("is not usable after close, which is local", function()
    local files = box.files
    assert.is_true(box:close())
    assert.is_true(box:close())
    for _, use in ipairs { function() box:info() end, function() files:read("/x") end, function() box:kill() end } do
      local ok, message = pcall(use)
      assert.is_false(ok)
      assert.matches("sandbox_spec.lua:%d+: use of a closed ", message)
    end
    assert.equal(routes.id, box.id)
    assert.equal(0, count("DELETE", path))
  end)

  it("cannot be used when its connection is closed", function()
    box.connection:close()
    local ok, message = pcall(function() box:info() end)
    assert.is_false(ok)
    assert.matches("sandbox_spec.lua:%d+: use of a closed connection", message)
  end)

  it("is killed by <close> only where this handle made it and did not let it go", function()
    local function leave(sandbox)
      assert((loadstring or load)("local box = ...; local scope <close> = box"))(sandbox)
    end
    if not (loadstring or load)("local x <close> = nil") then
      pending("this Lua has no <close>")
      return
    end
    leave(box)
    assert.equal(1, count("DELETE", path))
    assert.has_error(function() box:info() end)
    local connected = assert(opensandbox.connect(routes.id, { connection = routes.options(opensandbox).connection }))
    leave(connected)
    local detached = assert(opensandbox.create(routes.options(opensandbox)))
    detached:detach()
    leave(detached)
    local killed = assert(opensandbox.create(routes.options(opensandbox)))
    assert.is_true(killed:kill())
    leave(killed)
    assert.equal(2, count("DELETE", path))
  end)

  it("does no network work when it is collected", function()
    box = nil
    collectgarbage()
    collectgarbage()
    assert.equal(0, count("DELETE", path))
  end)

  describe("with", function()
    it("returns what the function returned and kills", function()
      local a, b, c = opensandbox.with(routes.options(opensandbox), function(given)
        assert.equal(routes.id, given.id)
        return 1, nil, 3
      end)
      assert.same({ 1, nil, 3 }, { a, b, c })
      assert.equal(1, count("DELETE", path))
    end)

    it("kills when the function raises, and lets the error through", function()
      local reason = {}
      local ok, err = pcall(opensandbox.with, routes.options(opensandbox), function() error(reason) end)
      assert.is_false(ok)
      assert.equal(reason, err)
      assert.equal(1, count("DELETE", path))
    end)

    it("does not kill twice, and gives nil, err where nothing was made", function()
      opensandbox.with(routes.options(opensandbox), function(given) assert(given:kill()) end)
      assert.equal(1, count("DELETE", path))
      server:route("POST", "/v1/sandboxes", faults.json(409, { message = "full" }))
      local none, err = opensandbox.with(routes.options(opensandbox), function() error("not reached") end)
      assert.is_nil(none)
      assert.equal("conflict", err.code)
    end)
  end)

  describe("connect", function()
    local function info(state)
      return faults.json(200, { id = routes.id, status = { state = state }, createdAt = "2026-01-02T03:04:05Z" })
    end

    it("leaves a sandbox alone that does not get ready", function()
      server:route("GET", "/execd/ping", faults.answer(500))
      local settings = { connection = routes.options(opensandbox).connection, ready_timeout = 0.05, health_check_interval = 0.01 }
      local none, err = opensandbox.connect(routes.id, settings)
      assert.is_nil(none)
      assert.equal("not_ready", err.code)
      assert.is_nil(err.message:find("killed", 1, true))
      assert.equal(0, count("DELETE", path))
    end)

    it("says that a paused sandbox wants to be resumed, and resume waits for it", function()
      local connection = routes.options(opensandbox).connection
      server:route("GET", path, info "Paused")
      local none, err = opensandbox.connect(routes.id, { connection = connection })
      assert.is_nil(none)
      assert.equal("not_ready", err.code)
      assert.matches("is Paused: opensandbox.resume(id) starts it again", err.message, 1, true)
      server:route("POST", path .. "/resume", faults.answer(202))
      server:route("GET", path, info "Paused", info "Resuming", info "Running")
      assert.equal(routes.id, assert(opensandbox.resume(routes.id, { connection = connection, health_check_interval = 0.01 })).id)
    end)

    it("gives not_found with the request id", function()
      server:route("GET", path, faults.json(404, { code = "DOCKER::SANDBOX_NOT_FOUND", message = "gone" }, { ["X-Request-ID"] = "r" }))
      local _, err = opensandbox.connect(routes.id, { connection = routes.options(opensandbox).connection })
      assert.equal("not_found", err.code)
      assert.equal("r", err.request_id)
    end)
  end)
end)
