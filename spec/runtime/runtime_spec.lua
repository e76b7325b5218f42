-- The lifecycle API of opensandbox-runtime on the wire, without the SDK.
local cjson = require "cjson"
local runtimes = require "spec.support.runtime"

local UUID = "^%x%x%x%x%x%x%x%x%-%x%x%x%x%-4%x%x%x%-[89ab]%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x$"
local TIME = "^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.?%d*Z$"

describe("the runtime's lifecycle API", function()
  local runtime

  setup(function() runtime = runtimes.start() end)
  teardown(function() runtime:stop() end)
  after_each(function()
    local _, all = runtime:request("GET", "/sandboxes?pageSize=200")
    for _, item in ipairs(all.items) do runtime:request("DELETE", "/sandboxes/" .. item.id) end
  end)

  local function create(fields) return runtime:create(fields) end
  local function get(path) return runtime:request("GET", path) end

  --- Status and the code of an error answer.
  local function refusal(method, path, json)
    local status, body = runtime:request(method, path, { json = json })
    return ("%d %s"):format(status, type(body) == "table" and (body.code or (body.detail and "detail")) or tostring(body))
  end

  describe("answers to everybody", function()
    it("is healthy without a key", function()
      local status, body = runtime:request("GET", "/health", { headers = false })
      assert.same({ 200, { status = "healthy" } }, { status, body })
    end)

    it("wants the key, on both mounts and for unknown routes too", function()
      for _, path in ipairs { "/sandboxes", "/v1/sandboxes", "/nothing", "/v1/sandboxes/x/proxy/80/../x" } do
        local status, body = runtime:request("GET", path, { headers = false })
        assert.same({ 401, "MISSING_API_KEY" }, { status, body.code })
        status, body = runtime:request("GET", path, { headers = { ["OPEN-SANDBOX-API-KEY"] = "wrong" } })
        assert.same({ 401, "INVALID_API_KEY" }, { status, body.code })
      end
    end)

    it("tells unknown routes and methods as the official server does", function()
      local status, body = get "/v1/nothing"
      assert.same({ 404, { detail = "Not Found" } }, { status, body })
      status, body = runtime:request("PUT", "/v1/sandboxes")
      assert.same({ 405, { detail = "Method Not Allowed" } }, { status, body })
    end)

    it("returns the request id that came, or makes one, also with errors", function()
      for _, path in ipairs { "/health", "/v1/sandboxes", "/v1/sandboxes/none", "/nothing" } do
        local _, _, headers = runtime:request("GET", path, { headers = { ["X-Request-ID"] = "mine-1" } })
        assert.equal("mine-1", headers["x-request-id"])
        _, _, headers = runtime:request("GET", path, { headers = false })
        assert.matches("^%x+$", headers["x-request-id"])
        assert.equal(32, #headers["x-request-id"])
      end
    end)
  end)

  describe("create", function()
    it("answers 202 with a sandbox that runs", function()
      local status, body = runtime:request("POST", "/v1/sandboxes", { json = runtimes.body { metadata = { team = "a b" }, timeout = 60 } })
      assert.equal(202, status)
      assert.matches(UUID, body.id)
      assert.equal("Running", body.status.state)
      assert.equal("CONTAINER_RUNNING", body.status.reason)
      assert.matches(TIME, body.createdAt)
      assert.matches(TIME, body.expiresAt)
      assert.same({ "tail", "-f", "/dev/null" }, body.entrypoint)
      assert.same({ team = "a b" }, body.metadata)
      local _, info = get("/sandboxes/" .. body.id)
      assert.same({ uri = "host" }, info.image)
      assert.equal(body.createdAt, info.createdAt)
    end)

    it("leaves out what is not set", function()
      local _, body = get("/v1/sandboxes/" .. create())
      assert.is_nil(body.expiresAt)
      assert.is_nil(body.metadata)
      assert.is_nil(body.platform)
    end)

    it("gives the environment to commands, over a small one of its own", function()
      local id = create { env = { FOO = "b a=r", PIP_USER = cjson.null, SHELL = "/bin/sh" } }
      assert.equal("b a=r|/root|/workspace||/bin/sh", (runtime:run(id, "echo \"$FOO|$HOME|$PWD|$PIP_USER|$SHELL\"")))
    end)

    it("knows the code interpreter's image, and lists the images there are for any other", function()
      create { image = { uri = "registry.example/opensandbox/code-interpreter:v1.0.2" } }
      local status, body = runtime:request("POST", "/sandboxes", { json = runtimes.body { image = { uri = "python:3.12" } } })
      assert.same({ 400, "SANDBOX::INVALID_PARAMETER" }, { status, body.code })
      assert.matches("python:3.12", body.message, 1, true)
      assert.matches("host, opensandbox/code-interpreter", body.message, 1, true)
    end)

    it("refuses malformed requests with 422", function()
      for _, json in ipairs {
        "{", "[]", "{}", '{"image":{"uri":"host"}}', '{"image":{"uri":"host"},"entrypoint":["x"]}',
        runtimes.body { timeout = 0 }, runtimes.body { timeout = "5" }, runtimes.body { env = { A = 1 } },
        runtimes.body { entrypoint = {} },
        runtimes.body { snapshotId = "s" }, runtimes.body { metadata = "x" }, runtimes.body { image = { uri = "" } },
        runtimes.body { secureAccess = "yes" }, runtimes.body { volumes = 1 }, runtimes.body { platform = { os = "linux" } },
      } do
        assert.equal("422 detail", refusal("POST", "/v1/sandboxes", json))
      end
    end)

    it("refuses what it does not do, and does not pass over it", function()
      local cases = {
        [{ volumes = { { name = "v", mountPath = "/v", ossfs = { bucket = "b" } } } }] = "400 VOLUME::UNSUPPORTED_BACKEND",
        [{ extensions = { ["runtime.network"] = "bridge" } }] = "400 SANDBOX::INVALID_PARAMETER",
        [{ extensions = { ["runtime.wings"] = "2" } }] = "400 SANDBOX::INVALID_PARAMETER",
        [{ extensions = { poolRef = "p" } }] = "400 SANDBOX::UNSUPPORTED_POOL_REF",
        [{ metadata = { ["opensandbox.io/x"] = "1" } }] = "400 INVALID_METADATA_LABEL",
        [{ platform = { os = "windows", arch = "amd64" } }] = "400 SANDBOX::INVALID_PARAMETER",
        [{ env = { ["A=B"] = "1" } }] = "400 SANDBOX::INVALID_PARAMETER",
        [{ secureAccess = true }] = "400 SANDBOX::INVALID_PARAMETER",
      }
      for fields, expected in pairs(cases) do
        assert.equal(expected, refusal("POST", "/v1/sandboxes", runtimes.body(fields)))
      end
      assert.equal("501 KUBERNETES::POOL_NOT_SUPPORTED", refusal("GET", "/v1/pools"))
      assert.equal("501 DIAGNOSTICS_NOT_IMPLEMENTED", refusal("GET", "/v1/sandboxes/x/diagnostics/logs?scope=all"))
    end)

    it("runs the entrypoint, whose end is the sandbox's", function()
      local ended = create { entrypoint = { "sh", "-c", "exit 0" } }
      local failed = create { entrypoint = { "/bin/sh", "-c", "exit 7" } }
      local function state(id) return (select(2, get("/v1/sandboxes/" .. id))).status end
      runtimes.await("the ends", function() return state(ended).state == "Terminated" and state(failed).state == "Failed" end)
      assert.matches("exit code 7", state(failed).message)
      assert.equal("409 DOCKER::SANDBOX_NOT_RUNNING", refusal("POST", "/v1/sandboxes/" .. ended .. "/pause"))
      assert.equal(204, (runtime:request("DELETE", "/v1/sandboxes/" .. ended)))
    end)

    it("fails when the entrypoint can't be started, and leaves nothing", function()
      local status, body = runtime:request("POST", "/v1/sandboxes", { json = runtimes.body { entrypoint = { "no-such-program" } } })
      assert.same({ 500, "DOCKER::SANDBOX_START_FAILED" }, { status, body.code })
      assert.matches("no-such-program", body.message, 1, true)
      assert.equal(0, select(2, get "/sandboxes").pagination.totalItems)
    end)
  end)

  describe("list", function()
    it("filters by states (any of them) and metadata (all of it), which is encoded twice", function()
      local one = create { metadata = { tag = "a b&c=d+é%", team = "t1" } }
      local two = create { metadata = { team = "t1" } }
      assert.equal(202, (runtime:request("POST", "/sandboxes/" .. two .. "/pause")))
      local function ids(query)
        local status, body = get("/v1/sandboxes?" .. query)
        assert.equal(200, status)
        local found = {}
        for i, item in ipairs(body.items) do found[i] = item.id end
        return found
      end
      assert.same({ two, one }, ids "metadata=team%3Dt1")
      assert.same({ one }, ids "metadata=tag%3Da%2520b%2526c%253Dd%252B%25C3%25A9%2525%26team%3Dt1")
      assert.same({ one }, ids "metadata=tag%3Da%2Bb%2526c%253Dd%252B%25C3%25A9%2525")
      assert.same({}, ids "metadata=team%3Dt2")
      assert.same({ two }, ids "state=paused")
      assert.same({ two, one }, ids "state=Paused&state=RUNNING")
      assert.same({}, ids "state=Failed")
      assert.equal("400 INVALID_METADATA_FORMAT", refusal("GET", "/v1/sandboxes?metadata=team"))
    end)

    it("pages, newest first", function()
      local made = {}
      for i = 1, 3 do made[i] = create() end
      local _, first = get "/v1/sandboxes?page=1&pageSize=2"
      local _, second = get "/v1/sandboxes?page=2&pageSize=2"
      assert.same({ made[3], made[2], made[1] }, { first.items[1].id, first.items[2].id, second.items[1].id })
      assert.same({ page = 1, pageSize = 2, totalItems = 3, totalPages = 2, hasNextPage = true }, first.pagination)
      assert.same({ page = 2, pageSize = 2, totalItems = 3, totalPages = 2, hasNextPage = false }, second.pagination)
      local _, beyond = get "/v1/sandboxes?page=9&pageSize=2"
      assert.equal(0, #beyond.items)
      for _, query in ipairs { "page=0", "page=x", "pageSize=0", "pageSize=201" } do
        assert.equal("422 detail", refusal("GET", "/v1/sandboxes?" .. query))
      end
    end)
  end)

  describe("one sandbox", function()
    it("is not found once deleted, nor under an unknown id", function()
      local id = create()
      local status, body, headers = runtime:request("DELETE", "/v1/sandboxes/" .. id)
      assert.same({ 204, "" }, { status, body })
      assert.is_nil(headers["transfer-encoding"])
      for _, path in ipairs { id, "none", "none/endpoints/44772", id .. "/proxy/44772/ping" } do
        assert.equal("404 DOCKER::SANDBOX_NOT_FOUND", refusal("GET", "/v1/sandboxes/" .. path))
      end
      for _, path in ipairs { "/pause", "/resume", "/renew-expiration" } do
        assert.equal("404 DOCKER::SANDBOX_NOT_FOUND", refusal("POST", "/v1/sandboxes/" .. id .. path, {}))
      end
      assert.equal("404 DOCKER::SANDBOX_NOT_FOUND", refusal("DELETE", "/v1/sandboxes/" .. id))
    end)

    it("merges metadata", function()
      local path = "/v1/sandboxes/" .. create { metadata = { a = "1", b = "2" } } .. "/metadata"
      local status, body = runtime:request("PATCH", path, { json = { a = cjson.null, c = "3" } })
      assert.same({ 200, { b = "2", c = "3" } }, { status, body.metadata })
      assert.equal("400 INVALID_METADATA_LABEL", refusal("PATCH", path, { ["opensandbox.io/a"] = "1" }))
      assert.equal("422 detail", refusal("PATCH", path, { a = 1 }))
      assert.equal("422 detail", refusal("PATCH", path, "[]"))
    end)

    it("pauses all its processes, and lets them go on", function()
      local id = create()
      runtime:run(id, "sleep 1000 & setsid sleep 1001 &")
      local function states()
        local found = {}
        for pid in pairs(runtime:processes()) do
          local file = io.open("/proc/" .. pid .. "/status", "rb")
          local text = file and file:read("*a") or ""
          if file then file:close() end
          -- in a pid namespace of its own
          if text:match("NSpid:%s+%d+%s+%d+") then
            found[#found + 1] = text:match("State:%s+(%a)"):gsub("[RD]", "S") -- it runs, or would
          end
        end
        table.sort(found)
        return table.concat(found)
      end
      assert.equal("SSS", states())
      local status, _, headers = runtime:request("POST", "/v1/sandboxes/" .. id .. "/pause")
      assert.same({ 202, "0" }, { status, headers["content-length"] })
      assert.equal("Paused", select(2, get("/v1/sandboxes/" .. id)).status.state)
      runtimes.await("all stopped", function() return states() == "TTT" end)
      assert.equal("409 DOCKER::SANDBOX_NOT_RUNNING", refusal("POST", "/v1/sandboxes/" .. id .. "/pause"))
      status, _, headers = runtime:request("POST", "/v1/sandboxes/" .. id .. "/resume")
      assert.same({ 202, "0" }, { status, headers["content-length"] })
      assert.equal("409 DOCKER::SANDBOX_NOT_PAUSED", refusal("POST", "/v1/sandboxes/" .. id .. "/resume"))
      assert.equal("back", (runtime:run(id, "echo back")))
      assert.equal("SSS", states())
    end)

    it("can be deleted while paused", function()
      local id = create()
      local processes = runtime:processes()
      runtime:request("POST", "/v1/sandboxes/" .. id .. "/pause")
      assert.equal(204, (runtime:request("DELETE", "/v1/sandboxes/" .. id)))
      runtimes.await("the end of its processes", function() return #runtimes.alive(processes) == 1 end) -- the janitor
    end)

    it("expires, and its expiry can be put off", function()
      local short, long = create { timeout = 1 }, create { timeout = 1 }
      local status, body = runtime:request("POST", "/v1/sandboxes/" .. long .. "/renew-expiration",
        { json = { expiresAt = "2099-06-01T12:00:00.250+02:00" } })
      assert.same({ 200, { expiresAt = "2099-06-01T10:00:00.25Z" } }, { status, body })
      runtimes.await("the expiry", function() return get("/v1/sandboxes/" .. short) == 404 end)
      assert.equal("2099-06-01T10:00:00.25Z", select(2, get("/v1/sandboxes/" .. long)).expiresAt)
      local path = "/v1/sandboxes/" .. long .. "/renew-expiration"
      assert.equal("400 DOCKER::INVALID_EXPIRATION", refusal("POST", path, { expiresAt = "2020-01-01T00:00:00Z" }))
      assert.equal("422 detail", refusal("POST", path, { expiresAt = "soon" }))
      assert.equal("422 detail", refusal("POST", path, { expiresAt = "2099-02-30T00:00:00Z" }))
      assert.equal("409 DOCKER::INVALID_EXPIRATION",
        refusal("POST", "/v1/sandboxes/" .. create() .. "/renew-expiration", { expiresAt = "2099-01-01T00:00:00Z" }))
    end)
  end)

  describe("endpoints", function()
    it("are execd's own address, and ports behind it", function()
      local id = create()
      local _, execd = get("/v1/sandboxes/" .. id .. "/endpoints/44772")
      assert.matches("^127%.%d+%.%d+%.%d+:44772$", execd.endpoint)
      assert.equal(64, #execd.headers["X-EXECD-ACCESS-TOKEN"])
      local _, other = get("/v1/sandboxes/" .. id .. "/endpoints/8080")
      assert.equal(execd.endpoint .. "/proxy/8080", other.endpoint)
      assert.same(execd.headers, other.headers)
      local _, proxied = get("/v1/sandboxes/" .. id .. "/endpoints/80?use_server_proxy=true")
      assert.equal(runtime.url:gsub("http://", "") .. "/sandboxes/" .. id .. "/proxy/80", proxied.endpoint)
      local path = "/v1/sandboxes/" .. id .. "/endpoints/"
      assert.equal("400 DOCKER::INVALID_PORT", refusal("GET", path .. "0"))
      assert.equal("400 DOCKER::INVALID_PORT", refusal("GET", path .. "65536"))
      assert.equal("422 detail", refusal("GET", path .. "http"))
      assert.equal("400 SANDBOX::API_NOT_SUPPORTED", refusal("GET", path .. "80?expires=5"))
      assert.equal("400 SANDBOX::INVALID_PARAMETER", refusal("GET", path .. "80?expires=5&use_server_proxy=true"))
    end)

    it("are proxied with the sandbox's token alone", function()
      local id = create()
      local _, endpoint = get("/v1/sandboxes/" .. id .. "/endpoints/44772")
      for _, mount in ipairs { "", "/v1" } do
        local path = mount .. "/sandboxes/" .. id .. "/proxy/44772/ping"
        assert.equal(200, (runtime:request("GET", runtime.url .. path, { headers = endpoint.headers })))
        assert.equal(401, (runtime:request("GET", path, { headers = false })))
        assert.equal(401, (runtime:request("GET", path))) -- the API key is no token
      end
      local status = runtime:request("GET", "/sandboxes/" .. id .. "/proxy/81/x", { headers = endpoint.headers })
      assert.equal(502, status) -- nothing listens there
    end)
  end)

  it("tells what happened to a sandbox as text, and nothing of a scope", function()
    local id = create { entrypoint = { "sh", "-c", "echo one >&2; echo two >&2; exec sleep 1000" } }
    local path = "/v1/sandboxes/" .. id .. "/diagnostics/"
    runtimes.await("the logs", function() return select(2, get(path .. "logs")):find("two", 1, true) end)
    local _, logs, headers = get(path .. "logs?tail=1")
    assert.same({ "two\n", "true" }, { logs, headers.deprecation })
    assert.matches("text/plain", headers["content-type"], 1, true)
    runtime:request("POST", "/v1/sandboxes/" .. id .. "/pause")
    local _, events = get(path .. "events")
    assert.matches("^%S+Z Running\n%S+Z Paused\n$", events)
    assert.matches('"id": "' .. id .. '"', select(2, get(path .. "inspect")), 1, true)
    for _, word in ipairs { "INSPECT", "Paused", "two" } do
      assert.matches(word, select(2, get(path .. "summary")), 1, true)
    end
    assert.equal("501 DIAGNOSTICS_NOT_IMPLEMENTED", refusal("GET", path .. "events?scope=all"))
    assert.equal("422 detail", refusal("GET", path .. "logs?tail=0"))
    assert.equal("404 DOCKER::SANDBOX_NOT_FOUND", refusal("GET", "/v1/sandboxes/none/diagnostics/logs"))
  end)

  it("takes metric events", function()
    assert.equal(204, (runtime:request("POST", "/v1/metrics/events", { json = { eventType = "sandbox.create" } })))
  end)
end)

describe("a runtime as a service", function()
  it("serves where it is told to, with a key from a file, aliases, and no host network", function()
    local directory = runtimes.directory()
    local file = assert(io.open(directory .. "/key", "wb"))
    file:write("sesame\nmore\n")
    file:close()
    local port = assert(require "socket".bind("127.0.0.1", 0))
    local _, number = port:getsockname()
    port:close()
    local address = "127.0.0.1:" .. number
    local runtime = runtimes.start { arguments = { "--listen", address, "--api-key-file", directory .. "/key", "--state", directory,
      "--alias", "python:3.12=host", "--log", "/dev/null" } }
    runtime.url, runtime.api_key = "http://" .. address, "sesame"
    runtimes.await("the service", function() return runtime:request("GET", "/health") == 200 end)
    local id = runtime:create { image = { uri = "python:3.12" } }
    assert.equal("hello", (runtime:run(id, "echo hello")))
    local status, body = runtime:request("POST", "/sandboxes", { json = runtimes.body { extensions = { ["runtime.network"] = "host" } } })
    assert.same({ 400, "SANDBOX::INVALID_PARAMETER" }, { status, body.code })
    assert.matches("--allow-host-network", body.message, 1, true)
    local processes = runtime:processes()
    runtime.process:kill(15)
    runtimes.await("the end", function() return runtime.process:exit_code() end)
    assert.equal(0, runtime.process:exit_code())
    assert.same({}, runtimes.alive(processes)) -- at once: it waits for them
    assert.same({ "key", "records", "snapshots", "volumes" }, runtimes.entries(directory))
    os.execute("rm -rf " .. directory .. " " .. runtime.state .. " " .. runtime.programs)
  end)

  it("refuses addresses of the network, and options that it lacks", function()
    local program = os.getenv "OPENSANDBOX_RUNTIME"
    for _, arguments in ipairs { "--listen 0.0.0.0:8080 --api-key-file /etc/hostname", "--listen 127.0.0.1:0", "--bogus", "",
      "--listen 127.0.0.1:0 --api-key-file /nonexistent", "--embedded --alias python=debian" } do
      local code = runtimes.shell(("'%s' %s </dev/null >/dev/null 2>&1; echo $?"):format(program, arguments))
      assert.is_true(code == "1" or code == "2", arguments)
    end
  end)
end)

describe("a runtime that can't run", function()
  local function problem(opts)
    local runtime = runtimes.start(opts)
    local message = assert(runtime.error).message
    assert.equal("unsupported", runtime.error.code)
    runtimes.await("the end", function() return runtime.process:exit_code() end)
    assert.equal(1, runtime.process:exit_code())
    runtime:stop()
    return message
  end

  it("says that opensandbox-execd is missing", function()
    assert.matches("OPENSANDBOX_EXECD is /no/such/program", problem { env = { OPENSANDBOX_EXECD = "/no/such/program" } }, 1, true)
  end)

  it("says that bubblewrap is missing, or what forbids user namespaces", function()
    if runtimes.shell "unshare --user --map-root-user --mount true 2>/dev/null; echo $?" ~= "0" then
      pending "no user namespaces for this user here"
      return
    end
    local program = os.getenv "OPENSANDBOX_RUNTIME"
    local function output(script)
      return runtimes.shell(("unshare --user --map-root-user --mount sh -c '%s' </dev/null"):format(script))
    end
    assert.matches("bubblewrap was not found: install it",
      output("for dir in /usr/local/bin /usr/bin; do mount -t tmpfs none $dir; done; exec " .. program .. " --embedded"), 1, true)
    assert.matches("/proc/self/uid_map has none but 0", output("exec " .. program .. " --embedded"), 1, true)
  end)
end)
