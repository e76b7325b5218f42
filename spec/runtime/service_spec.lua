-- The runtime as a service: what it keeps over restarts, clean or not.
local runtimes = require "spec.support.runtime"

describe("a runtime with a state directory", function()
  local directory, runtime

  --- Starts a service in `directory`, like any other before it.
  local function start()
    local port = assert(require "socket".bind("127.0.0.1", 0))
    local _, number = port:getsockname()
    port:close()
    local address = "127.0.0.1:" .. number
    local key, state = directory .. "/key", directory .. "/state"
    runtime = runtimes.start { arguments = { "--listen", address, "--api-key-file", key, "--state", state, "--log", directory .. "/log" } }
    runtime.url, runtime.api_key = "http://" .. address, "sesame"
    runtimes.await("the service", function() return runtime:request("GET", "/health") == 200 end)
  end

  local function stop(signal)
    local processes = runtime:processes()
    runtime.process:kill(signal)
    runtimes.await("the end", function() return runtime.process:exit_code() end)
    local code = runtime.process:exit_code()
    runtimes.await("the end of all processes", function() return #runtimes.alive(processes) == 0 end)
    os.execute("rm -rf " .. runtime.state .. " " .. runtime.programs)
    runtime = nil
    return code
  end

  local function get(path)
    local status, body = runtime:request("GET", "/v1" .. path)
    return body, status
  end

  before_each(function()
    directory = runtimes.directory()
    local file = assert(io.open(directory .. "/key", "wb"))
    file:write("sesame\n")
    file:close()
  end)
  after_each(function()
    if runtime then stop(15) end
    os.execute("rm -rf " .. directory)
  end)

  for how, signal in pairs { ["is told to end"] = 15, ["is killed"] = 9 } do
    it("remembers its sandboxes when it " .. how, function()
      start()
      local on = runtime:create { metadata = { team = "t" }, timeout = 3600 }
      local ended = runtime:create { entrypoint = { "sh", "-c", "exit 7" } }
      local gone = runtime:create()
      runtime:run(on, "echo secret >/workspace/f")
      runtimes.await("the end of one", function() return get("/sandboxes/" .. ended).status.state == "Failed" end)
      runtime:request("DELETE", "/v1/sandboxes/" .. gone)
      runtime:request("PATCH", "/v1/sandboxes/" .. on .. "/metadata", { json = { more = "m" } })
      local before = get("/sandboxes/" .. on)
      local code = stop(signal)
      if signal == 15 then assert.equal(0, code) end
      start()
      assert.equal("1", runtimes.shell("ls -d " .. directory .. "/state/opensandbox-runtime.* | wc -l")) -- the new one
      local after = get("/sandboxes/" .. on)
      assert.same({ "Failed", "RUNTIME_RESTARTED" }, { after.status.state, after.status.reason })
      assert.same({ team = "t", more = "m" }, after.metadata)
      assert.same({ before.createdAt, before.expiresAt, before.entrypoint, before.image },
        { after.createdAt, after.expiresAt, after.entrypoint, after.image })
      assert.matches("exit code 7", get("/sandboxes/" .. ended).status.message)
      assert.equal(2, get("/sandboxes?state=failed").pagination.totalItems)
      assert.equal(ended, get("/sandboxes").items[1].id) -- newest first, as ever
      assert.equal(404, select(2, get("/sandboxes/" .. gone)))
      assert.equal(409, select(2, get("/sandboxes/" .. on .. "/endpoints/44772")))
      assert.equal(409, (runtime:request("POST", "/v1/sandboxes/" .. on .. "/pause")))
      assert.equal(204, (runtime:request("DELETE", "/v1/sandboxes/" .. on)))
      stop(15)
      start()
      assert.equal(404, select(2, get("/sandboxes/" .. on)))
      assert.equal("Failed", get("/sandboxes/" .. ended).status.state)
    end)
  end

  it("keeps the expiry of what it remembers", function()
    start()
    local id = runtime:create { timeout = 2 }
    stop(9)
    start()
    runtimes.await("the expiry", function() return select(2, get("/sandboxes/" .. id)) == 404 end)
    assert.equal("0", runtimes.shell("ls " .. directory .. "/state/records | wc -l"))
  end)

  it("keeps snapshots and named volumes, but not snapshots half made", function()
    start()
    local volumes = { { name = "v", mountPath = "/v", pvc = { claimName = "data" } } }
    local id = runtime:create { volumes = volumes }
    runtime:run(id, "echo kept >/v/f; echo copied >/workspace/f")
    local _, ready = runtime:request("POST", "/v1/sandboxes/" .. id .. "/snapshots", { json = { name = "n" } })
    runtimes.await("the snapshot", function() return get("/snapshots/" .. ready.id).status.state == "Ready" end)
    runtime:run(id, "head -c 200M /dev/zero >/workspace/big")
    local _, half = runtime:request("POST", "/v1/sandboxes/" .. id .. "/snapshots")
    local late = get("/snapshots/" .. half.id).status.state == "Ready"
    stop(9)
    start()
    assert.same({ "Ready", "n", ready.createdAt },
      { get("/snapshots/" .. ready.id).status.state, get("/snapshots/" .. ready.id).name, get("/snapshots/" .. ready.id).createdAt })
    if not late then
      local status = get("/snapshots/" .. half.id).status
      assert.is_true(status.state == "Ready" or status.reason == "snapshot_recovery_failed")
    end
    local copy = runtime:create { image = require "cjson".null, snapshotId = ready.id, volumes = volumes }
    assert.equal("kept\ncopied", (runtime:run(copy, "cat /v/f /workspace/f")))
  end)

  it("logs lines of JSON, with no secret in them", function()
    start()
    local id = runtime:create { env = { SECRET = "hidden-value" } }
    local _, endpoint = runtime:request("GET", "/v1/sandboxes/" .. id .. "/endpoints/44772")
    local key = runtime.api_key
    stop(15)
    local text = {}
    for line in io.lines(directory .. "/log") do
      local entry = require "cjson".decode(line)
      assert.matches("^%d+%-%d+%-%d+T.*Z$", entry.time)
      assert.equal("number", type(entry.pid))
      text[#text + 1] = entry.message
    end
    text = table.concat(text, "\n")
    assert.matches("sandbox " .. id .. ": Running", text, 1, true)
    for _, secret in ipairs { "hidden-value", key, endpoint.headers["X-EXECD-ACCESS-TOKEN"] } do
      assert.is_nil(text:find(secret, 1, true))
    end
    assert.equal("-rw-------", runtimes.shell("ls -l " .. directory .. "/log"):sub(1, 10))
  end)

  it("is the only one in its directory", function()
    start()
    local program = os.getenv "OPENSANDBOX_RUNTIME"
    -- another one waits for the processes of a dead one; it is ended before that
    local options = ("--log /dev/null --listen 127.0.0.1:0 --api-key-file %s/key --state %s/state"):format(directory, directory)
    assert.equal("124", runtimes.shell(("timeout 1 '%s' %s; echo $?"):format(program, options)))
    assert.equal(200, select(2, get "/sandboxes"))
  end)

  it("puts off the expiry of a sandbox that is used, when that is asked for", function()
    start()
    local id = runtime:create { timeout = 60, extensions = { ["access.renew.extend.seconds"] = "300" } }
    local before = get("/sandboxes/" .. id).expiresAt
    local endpoint = get("/sandboxes/" .. id .. "/endpoints/44772")
    assert.matches("/sandboxes/" .. id .. "/proxy/44772", endpoint.endpoint, 1, true)
    assert.equal(401, (runtime:request("GET", "http://" .. endpoint.endpoint .. "/ping", { headers = {} })))
    assert.equal(before, get("/sandboxes/" .. id).expiresAt) -- not by strangers
    assert.equal("used", (runtime:run(id, "echo used")))
    assert.is_true(get("/sandboxes/" .. id).expiresAt > before)
    for _, value in ipairs { "299", "86401", "x" } do
      local status, body = runtime:request("POST", "/v1/sandboxes",
        { json = runtimes.body { extensions = { ["access.renew.extend.seconds"] = value } } })
      assert.same({ 400, "SANDBOX::INVALID_PARAMETER" }, { status, body.code })
    end
  end)
end)
