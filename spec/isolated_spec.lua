-- Isolated sessions against a scripted execd that has them, and against servers without.
local cjson = require "cjson"
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"

describe("isolated sessions", function()
  local server, routes, box

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)
  before_each(function()
    routes = faults.sandbox_routes(server)
    box = assert(opensandbox.create(routes.options(opensandbox)))
  end)
  after_each(function()
    box:close()
    server:reset()
  end)

  local SESSION = "/execd/v1/isolated/session"

  local function create()
    server:route("POST", SESSION, faults.json(201, { session_id = "i/1", created_at = "2026-01-02T03:04:05Z", profile = "strict" }))
    return assert(box.isolated:create { workspace = { path = "/w", mode = "overlay" }, share_net = false, idle_timeout_seconds = 60 })
  end

  it("are made, run in, told about and deleted", function()
    local session = create()
    assert.equal("userdata", type(session))
    assert.equal("opensandbox.isolated_session: i/1", tostring(session))
    assert.equal(1767323045, session.created_info.created_at)
    assert.same({ workspace = { path = "/w", mode = "overlay" }, share_net = false, idle_timeout_seconds = 60 },
      cjson.decode(server:requests(SESSION)[1].body))
    server:route("POST", SESSION .. "/i%2F1/run",
      faults.stream { faults.init "i/1", faults.stdout "a", faults.stdout "b", faults.complete() },
      faults.stream { faults.init "i/1", faults.exit(7) })
    local run = assert(session:run({ "echo", "a b" }, { env = { A = "1" }, timeout = 1.5 }))
    assert.equal("a\nb", run.stdout)
    assert.equal(0, run.exit_code)
    assert.same({ code = "echo 'a b'", envs = { A = "1" }, timeout_seconds = 2 },
      cjson.decode(server:requests(SESSION .. "/i%2F1/run")[1].body))
    assert.equal("command_failed", select(2, box.isolated:run("i/1", "false", { check = true })).code)
    server:route("GET", SESSION .. "/i%2F1", faults.json(200, { status = "active", idle_remaining_seconds = 30 }))
    assert.equal("active", assert(session:info()).status)
    server:route("DELETE", SESSION .. "/i%2F1", faults.answer(200), faults.json(404, { code = "CONTEXT_NOT_FOUND", message = "gone" }))
    assert.is_true(session:delete())
    assert.has_error(function() session:run "true" end)
    assert.equal("not_found", select(2, box.isolated:delete "i/1").code)
  end)

  it("are listed, found by id, and tell what the server can do", function()
    server:route("GET", "/execd/v1/isolated/sessions", faults.json(200, { sessions = { { session_id = "i1", status = "dead" } } }),
      faults.json(200, "{}"))
    assert.equal("dead", assert(box.isolated:list())[1].status)
    assert.same({}, box.isolated:list())
    server:route("GET", SESSION .. "/i1", faults.json(200, { status = "active" }), faults.json(404, { code = "X", message = "gone" }))
    assert.equal("i1", assert(box.isolated:get "i1").id)
    assert.equal("not_found", select(2, box.isolated:get "i1").code)
    server:route("GET", "/execd/v1/isolated/capabilities", faults.json(200, { available = true, isolator = "bwrap" }))
    assert.equal("bwrap", assert(box.isolated:capabilities()).isolator)
  end)

  it("have files of their own, by the same methods as the sandbox", function()
    local session = create()
    local files = session.files
    assert.equal(files, session.files)
    server:route("GET", SESSION .. "/i%2F1/files/download", faults.answer(200, "inside"))
    server:route("POST", SESSION .. "/i%2F1/files/upload", faults.answer(200))
    server:route("GET", "/execd/files/download", faults.answer(200, "outside"))
    assert.equal("inside", files:read "/f")
    assert.is_true(files:write("/f", "x"))
    assert.equal("outside", box.files:read "/f")
    assert.equal("path=%2Ff", server:requests(SESSION .. "/i%2F1/files/download")[1].query)
    session:close()
    assert.has_error(function() files:read "/f" end)
  end)

  it("look the address of execd up again after a failure to connect, through their files too", function()
    local files = create().files
    server:route("GET", SESSION .. "/i%2F1/files/download", { { reset = true } })
    local mine = select(2, files:read "/f")
    assert.equal("network", mine.code)
    server:route("GET", SESSION .. "/i%2F1/files/download", faults.answer(200, "inside"))
    assert.equal("inside", files:read "/f")
    assert.equal(2, #server:requests("/v1/sandboxes/" .. routes.id .. "/endpoints/44772"))
  end)

  it("are unsupported where the server has none", function()
    server:route(nil, "/execd/v1/*", faults.answer(404, "404 page not found"))
    for _, call in ipairs {
      function(i) return i:create { workspace = { path = "/w" } } end, function(i) return i:list() end,
      function(i) return i:capabilities() end, function(i) return i:get "x" end, function(i) return i:run("x", "true") end,
      function(i) return i:delete "x" end,
    } do
      local none, err = call(box.isolated)
      assert.is_nil(none)
      assert.equal("unsupported", err.code)
      assert.equal("this server has no isolated sessions", err.message)
    end
    server:route("POST", SESSION, faults.json(503, { code = "NOT_SUPPORTED", message = "bwrap is not available" }))
    local err = select(2, box.isolated:create { workspace = { path = "/w" } })
    assert.equal("unsupported", err.code)
    assert.equal("bwrap is not available", err.message)
    assert.equal(2, #server:requests(SESSION))
  end)

  it("check their options", function()
    assert.has_error(function() box.isolated:create() end)
    assert.has_error(function() box.isolated:create { workspace = { path = 1 } } end)
    assert.has_error(function() box.isolated:run("x", "true", { cwd = "/" }) end)
    assert.has_error(function() box.isolated:get "" end)
  end)
end)
