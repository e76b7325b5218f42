-- What create sends, what it waits for, and what it leaves behind when something fails.
local cjson = require "cjson"
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"

describe("create", function()
  local server, sandbox, path

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)
  before_each(function()
    sandbox = faults.sandbox_routes(server)
    path = "/v1/sandboxes/" .. sandbox.id
  end)
  after_each(function() server:reset() end)

  local function connection(more)
    local settings = { domain = server.url, api_key = "the-key", retry = false }
    for name, value in pairs(more or {}) do settings[name] = value end
    return opensandbox.connection(settings)
  end

  local function create(opts, more)
    local all = { image = "img:1", connection = connection(more) }
    for name, value in pairs(opts or {}) do all[name] = value end
    return opensandbox.create(all)
  end

  local function body_of(opts)
    assert(create(opts))
    local requests = server:requests("/v1/sandboxes")
    return cjson.decode(requests[#requests].body), requests[#requests].body
  end

  local function deletions()
    local count = 0
    for _, request in ipairs(server:requests(path)) do
      if request.method == "DELETE" then count = count + 1 end
    end
    return count
  end

  local function state(name, more)
    local info = { id = sandbox.id, status = { state = name }, createdAt = "2026-01-02T03:04:05Z" }
    for key, value in pairs(more or {}) do info.status[key] = value end
    return info
  end

  it("sends the official defaults", function()
    local _, text = body_of()
    assert.equal('{"entrypoint":["tail","-f","\\/dev\\/null"],"image":{"uri":"img:1"},"resourceLimits":{"cpu":"1","memory":"2Gi"},'
      .. '"timeout":600}', text)
  end)

  it("sends every option in the wire's shape", function()
    assert.same({
      image = { uri = "img:2", auth = { username = "u", password = "p" } }, timeout = 61, entrypoint = { "sh", "-c", "x" },
      resourceLimits = { cpu = "500m", gpu = "1" }, env = { A = "1", some_Name = cjson.null }, metadata = { ["my_team.x/y"] = "a b" },
      extensions = { poolRef = "p", ["runtime.network"] = "none" }, platform = { os = "linux", arch = "arm64" }, secureAccess = true,
      networkPolicy = { defaultAction = "deny", egress = { { action = "allow", target = "*.example.com" } } },
      credentialProxy = { enabled = true }, resourceRequests = { cpu = "1" },
      volumes = {
        { name = "a", mountPath = "/a", readOnly = true, subPath = "s", host = { path = "/srv" } },
        { name = "b", mountPath = "/b", pvc = { claimName = "c", createIfNotExists = false, deleteOnSandboxTermination = true,
          storageClass = "fast", storage = "1Gi", accessModes = { "ReadWriteOnce" } } },
        { name = "c", mountPath = "/c", ossfs = { bucket = "b", endpoint = "e", version = "2.0", options = { "o=1" }, accessKeyId = "i",
          accessKeySecret = "s" } },
      },
    }, (body_of {
      image = { uri = "img:2", auth = { username = "u", password = "p" } }, timeout = 60.5, entrypoint = { "sh", "-c", "x" },
      resource = { cpu = "500m", gpu = "1" }, env = { A = "1", some_Name = opensandbox.null }, metadata = { ["my_team.x/y"] = "a b" },
      extensions = { poolRef = "p" }, network = "none", platform = { os = "linux", arch = "arm64" }, secure_access = true,
      network_policy = { egress = { { action = "allow", target = "*.example.com" } } }, credential_proxy = { enabled = true },
      extra = { resourceRequests = { cpu = "1" } },
      volumes = {
        { name = "a", mount_path = "/a", read_only = true, sub_path = "s", host = { path = "/srv" } },
        { name = "b", mount_path = "/b", pvc = { claim_name = "c", create_if_not_exists = false, delete_on_sandbox_termination = true,
          storage_class = "fast", storage = "1Gi", access_modes = { "ReadWriteOnce" } } },
        { name = "c", mount_path = "/c", ossfs = { bucket = "b", endpoint = "e", version = "2.0", options = { "o=1" }, access_key_id = "i",
          access_key_secret = "s" } },
      },
    }))
  end)

  it("sends no time to live for timeout = false, and neither image nor entrypoint for a snapshot", function()
    assert.is_nil(body_of { timeout = false }.timeout)
    assert(opensandbox.create { snapshot_id = "snap", connection = connection() })
    local requests = server:requests("/v1/sandboxes")
    local body = cjson.decode(requests[#requests].body)
    assert.equal("snap", body.snapshotId)
    assert.is_nil(body.image)
    assert.is_nil(body.entrypoint)
  end)

  it("raises for what cannot be meant", function()
    local function refused(opts, message)
      local ok, err = pcall(function() opensandbox.create(opts) end)
      assert.is_false(ok)
      assert.matches("create_spec.lua:%d+: ", err)
      assert.matches(message, err, 1, true)
    end
    refused({ connection = connection() }, "option 'image' (or 'snapshot_id') is missing")
    refused({ image = "a", snapshot_id = "b" }, "options 'image' and 'snapshot_id' cannot be used together")
    refused({ image = {} }, "option 'uri' is missing")
    refused({ image = "a", timeout = 0 }, "option 'timeout' must be more than 0 seconds")
    refused({ image = "a", network = "bridge" }, "option 'network' must be 'proxy', 'none' or 'host'")
    refused({ image = "a", volumes = { { name = "v", mount_path = "/m" } } },
      "option 'volumes[1]' needs exactly one of host, pvc and ossfs")
    refused({ image = "a", env = { A = "\255" }, connection = connection() }, "cannot write 'env.A' as JSON")
    refused({ image = "a", imagee = "b" }, "unknown option 'imagee' (did you mean 'image'?)")
    assert.equal(0, #server:requests("/v1/sandboxes"))
  end)

  it("sends the API key to the lifecycle server and the endpoint's headers to the endpoint, and neither elsewhere", function()
    server:route("GET", path .. "/endpoints/44772", faults.json(200, {
      endpoint = server.authority .. "/execd", headers = { ["X-EXECD-ACCESS-TOKEN"] = "token" },
    }))
    assert(create(nil, { headers = { ["X-Mine"] = "1" } }))
    local post, ping = server:requests("/v1/sandboxes")[1], server:requests("/execd/ping")[1]
    assert.equal("the-key", post.headers["open-sandbox-api-key"])
    assert.is_nil(post.headers["x-execd-access-token"])
    assert.equal("token", ping.headers["x-execd-access-token"])
    assert.is_nil(ping.headers["open-sandbox-api-key"])
    assert.equal("1", ping.headers["x-mine"])
  end)

  it("sends the API key to endpoints that the lifecycle server proxies", function()
    local prefix = "/sandboxes/" .. sandbox.id .. "/proxy/44772"
    server:route("GET", path .. "/endpoints/44772", faults.json(200, { endpoint = server.authority .. prefix }))
    server:route("GET", prefix .. "/ping", faults.answer(200))
    assert(create(nil, { use_server_proxy = true, auth_header = "X-Key" }))
    assert.equal("use_server_proxy=true", server:requests(path .. "/endpoints/44772")[1].query)
    assert.equal("the-key", server:requests(prefix .. "/ping")[1].headers["x-key"])
  end)

  it("rewrites the host of endpoints", function()
    local port = server.authority:match(":(%d+)$")
    server:route("GET", path .. "/endpoints/44772", faults.json(200, { endpoint = "host.docker.internal:" .. port .. "/execd" }))
    local box = assert(create(nil, { endpoint_host_rewrite = { ["host.docker.internal"] = "127.0.0.1" } }))
    local endpoint = assert(box:endpoint(44772))
    assert.same({ endpoint = server.authority .. "/execd", url = server.url .. "/execd", headers = {} }, endpoint)
  end)

  it("waits while the sandbox is Pending, whatever else servers call that", function()
    server:route("POST", "/v1/sandboxes", faults.json(202, state "Pending"))
    server:route("GET", path, faults.json(200, state "Pending"), faults.json(200, state "Allocated"), faults.json(200, state "Running"))
    assert(create { health_check_interval = 0.01 })
    assert.equal(3, #server:requests(path))
  end)

  it("ends at once when the sandbox has failed, with the server's reason, and kills it", function()
    server:route("POST", "/v1/sandboxes", faults.json(202, state "Pending"))
    server:route("GET", path, faults.json(200, state("Failed", { reason = "IMAGE_PULL", message = "no such image" })))
    local box, err = create { health_check_interval = 0.01 }
    assert.is_nil(box)
    assert.equal("not_ready", err.code)
    assert.is_false(err.retryable)
    assert.equal("sandbox " .. sandbox.id .. " is Failed (IMAGE_PULL: no such image); it was killed", err.message)
    assert.equal(1, deletions())
    assert.equal(0, #server:requests("/execd/ping"))
  end)

  it("does not wait for ever while the sandbox is Pending", function()
    server:route("POST", "/v1/sandboxes", faults.json(202, state "Pending"))
    server:route("GET", path, faults.json(200, state "Pending"))
    local box, err = create { health_check_interval = 0.01, request_timeout = 0.2 }
    assert.is_nil(box)
    assert.equal("not_ready", err.code)
    assert.matches("is still Pending after 0%.%d s; it was killed$", err.message)
    assert.equal(1, deletions())
  end)

  it("says what it tried when the sandbox never gets healthy, and kills it", function()
    server:route("GET", "/execd/ping", faults.answer(503, "starting", { ["X-Request-ID"] = "r-9" }))
    local box, err = create { ready_timeout = 0.1, health_check_interval = 0.01 }
    assert.is_nil(box)
    assert.equal("not_ready", err.code)
    assert.is_true(err.attempts > 1)
    assert.equal("unavailable", err.cause.code)
    assert.equal("r-9", err.request_id)
    assert.equal(("sandbox %s was not ready after 0.1 s (%d attempts at %s/execd); last failure: starting; it was killed"):format(
      sandbox.id, err.attempts, server.url), err.message)
    assert.equal(1, deletions())
  end)

  it("gives the proxy hint where the endpoint cannot be reached", function()
    server:route("GET", path .. "/endpoints/44772", faults.json(200, { endpoint = "127.0.0.1:1" }))
    local _, err = create { ready_timeout = 0.05, health_check_interval = 0.01 }
    assert.equal("connect", err.cause.code)
    assert.matches("at http://127.0.0.1:1)", err.message, 1, true)
    assert.matches("set use_server_proxy = true", err.message, 1, true)
  end)

  it("looks the endpoint up again when the first look-up failed or the endpoint went away", function()
    server:route("GET", path .. "/endpoints/44772", faults.json(500, { message = "not yet" }),
      faults.json(200, { endpoint = "127.0.0.1:1" }), faults.json(200, { endpoint = server.authority .. "/execd" }))
    assert(create { health_check_interval = 0.01 })
    assert.equal(3, #server:requests(path .. "/endpoints/44772"))
    assert.equal(1, #server:requests("/execd/ping"))
  end)

  it("does not wait where the server refuses for good", function()
    server:route("GET", path .. "/endpoints/44772", faults.json(403, { message = "not yours" }))
    local _, err = create()
    assert.equal("forbidden", err.code)
    assert.equal("not yours; it was killed", err.message)
    assert.equal(1, #server:requests(path .. "/endpoints/44772"))
  end)

  it("asks the caller's health check, which may use the sandbox", function()
    local calls = 0
    local box = assert(create { health_check_interval = 0.01, health_check = function(given)
      calls = calls + 1
      assert.equal(sandbox.id, given.id)
      return given:info().id == sandbox.id and calls == 3
    end })
    assert.equal(3, calls)
    assert.equal(0, #server:requests("/execd/ping"))
    assert.is_true(box:is_healthy() == false)
    assert.equal("unhealthy", select(2, box:is_healthy()).code)
  end)

  it("kills the sandbox when the health check raises, and returns the error with its traceback", function()
    local reason = {}
    local box, err = create { health_check = function() error(reason) end }
    assert.is_nil(box)
    assert.equal("handler", err.code)
    assert.equal(reason, err.cause)
    assert.is_string(err.traceback)
    assert.equal(1, deletions())
  end)

  it("skips the health check when asked to", function()
    assert(create { skip_health_check = true })
    assert.equal(0, #server:requests("/execd/ping"))
    assert.equal(0, #server:requests(path .. "/endpoints/44772"))
  end)

  it("kills the sandbox when the task that makes it is cancelled", function()
    server:route("GET", "/execd/ping", { { stall = true } })
    local task = opensandbox.spawn(create)
    server:await("/execd/ping", function(requests) return #requests > 0 end)
    task:cancel()
    local box, err = task:join()
    assert.is_nil(box)
    assert.equal("cancelled", err.code)
    assert.equal(1, deletions())
  end)

  it("says when the sandbox could not be killed either", function()
    server:route("GET", "/execd/ping", faults.answer(503, "starting"))
    server:route("DELETE", path, faults.json(500, { message = "no way" }))
    local _, err = create { ready_timeout = 0.02, health_check_interval = 0.01 }
    local text = ("; sandbox %s could not be killed (no way) and may still run"):format(sandbox.id)
    assert.matches(text, err.message, 1, true)
    _, err = create { health_check = function() error("bad") end }
    assert.matches(text, err.message, 1, true)
  end)

  it("says that a sandbox may exist where the answer was lost, and how to find it", function()
    for _, response in ipairs { { { reset = true } }, faults.answer(502, "bad gateway"), faults.answer(202, "{"),
      faults.answer(202, '{"id":', nil, { length = 100 }) } do
      server:route("POST", "/v1/sandboxes", faults.join(response, { { close = true } }))
      local box, err = create { metadata = { run = "7" } }
      assert.is_nil(box)
      assert.matches('a sandbox may exist: opensandbox.manager{…}:list{metadata={["run"]="7"}} shows it', err.message, 1, true)
      assert.is_false(err.retryable)
    end
  end)

  it("repeats no password in errors", function()
    server:route("POST", "/v1/sandboxes", faults.json(400, { message = "cannot log in with pass-1234, nor mount with secret-5678" }))
    local _, err = create {
      image = { uri = "i", auth = { username = "u", password = "pass-1234" } },
      volumes = { { name = "v", mount_path = "/m", ossfs = { bucket = "b", endpoint = "e", access_key_secret = "secret-5678" } } },
    }
    assert.equal("cannot log in with ***, nor mount with ***", err.message)
  end)

  it("does not say so where the server refused or was never reached", function()
    server:route("POST", "/v1/sandboxes", faults.json(400, { code = "SANDBOX::INVALID_PARAMETER", message = "no" }))
    local _, err = create()
    assert.equal("no", err.message)
    _, err = create(nil, { domain = "127.0.0.1:1" })
    assert.equal("connect", err.code)
    assert.is_nil(err.message:find("may exist", 1, true))
  end)
end)
