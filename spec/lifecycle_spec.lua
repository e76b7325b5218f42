-- The life of real sandboxes, on the embedded runtime (or the server that OPEN_SANDBOX_DOMAIN names).
local opensandbox = require "opensandbox"

describe("lifecycle", function()
  local made = {}

  local function create(opts)
    local all = { image = "host" }
    for name, value in pairs(opts or {}) do all[name] = value end
    local box = assert(opensandbox.create(all))
    made[#made + 1] = box
    return box
  end

  after_each(function()
    for _, box in ipairs(made) do
      if not pcall(box.kill, box) then box:close() end
    end
    made = {}
  end)

  it("creates sandboxes side by side, each with its own files", function()
    local boxes = {}
    for i = 1, 5 do
      boxes[i] = create()
      assert(boxes[i].files:write("/tmp/own", tostring(i)))
    end
    for i, box in ipairs(boxes) do
      assert.is_true(box:is_healthy())
      assert.equal(tostring(i), box.files:read("/tmp/own"))
    end
  end)

  it("creates them at once, in tasks", function()
    local tasks = {}
    for i = 1, 5 do
      tasks[i] = function()
        local box = create { metadata = { number = tostring(i) } }
        return assert(box.commands:run("echo " .. i)).stdout
      end
    end
    local results = assert(opensandbox.gather(tasks))
    assert.equal("1 2 3 4 5", table.concat(results, " "))
  end)

  it("tells state, metadata and times", function()
    local box = create { metadata = { team = "é ml" }, timeout = 300 }
    local info = assert(box:info())
    assert.equal(box.id, info.id)
    assert.equal("Running", info.status.state)
    assert.same({ team = "é ml" }, info.metadata)
    assert.is_true(math.abs(info.created_at - os.time()) < 60)
    assert.is_true(math.abs(info.expires_at - info.created_at - 300) < 60)
    assert.equal(box.id, info.raw.id)
  end)

  it("has no expiry with timeout = false", function()
    assert.is_nil(create { timeout = false }:info().expires_at)
  end)

  it("moves the expiry, and ends there", function()
    local box = create { timeout = 600 }
    local manager = opensandbox.manager()
    local first = box:info().expires_at
    local moved = assert(box:renew(1200))
    assert.is_true(moved > first + 500)
    assert.is_true(math.abs(box:info().expires_at - moved) < 1)
    assert(box:renew(1))
    local task = require "opensandbox.task"
    local err
    for _ = 1, 100 do
      err = select(2, manager:get(box.id))
      if err then break end
      task.sleep(0.1)
    end
    assert.equal("not_found", err.code)
  end)

  it("connects, and gives not_found with the request id for a missing one", function()
    local box = create()
    assert(box.files:write("/tmp/x", "shared"))
    local other = assert(opensandbox.connect(box.id))
    assert.equal("shared", other.files:read("/tmp/x"))
    other:close()
    assert.is_true(box:is_healthy())
    local none, err = opensandbox.connect("00000000-0000-4000-8000-000000000000")
    assert.is_nil(none)
    assert.equal("not_found", err.code)
    assert.is_string(err.request_id)
  end)

  it("sends a request id through and gives it back in errors", function()
    local box = create()
    local connection = opensandbox.connection { headers = { ["X-Request-ID"] = "trace-1" } }
    local mine = assert(opensandbox.connect(box.id, { connection = connection }))
    assert.equal("trace-1", select(2, opensandbox.connect("nope", { connection = connection })).request_id)
    assert.equal("trace-1", select(2, mine.files:read("/missing")).request_id)
    assert.equal("trace-1", select(2, mine.files:download("/missing", function() end)).request_id)
    assert.equal("trace-1", select(2, mine.files:write("/proc/none/x", "y")).request_id)
  end)

  it("pauses and resumes", function()
    local box = create()
    assert(box.files:write("/tmp/kept", "yes"))
    assert.is_true(box:pause())
    assert.equal("Paused", box:info().status.state)
    assert.equal("conflict", select(2, box:pause()).code)
    assert.is_true(box:resume())
    assert.equal("Running", box:info().status.state)
    assert.equal("yes", box.files:read("/tmp/kept"))
    assert.equal("still here", assert(box.commands:run("echo still here")).stdout)
    assert.is_true(box:pause())
    local again = assert(opensandbox.resume(box.id))
    assert.equal("yes", again.files:read("/tmp/kept"))
    assert.equal("conflict", select(2, opensandbox.resume(box.id)).code)
  end)

  it("kills once; the second time it is not there", function()
    local box = create()
    assert.is_true(box:kill())
    local none, err = box:kill()
    assert.is_nil(none)
    assert.equal("not_found", err.code)
    assert.equal("not_found", select(2, box:info()).code)
    assert.is_false(box:is_healthy())
  end)

  it("waits for a health check that uses the sandbox", function()
    local box = create { health_check = function(sandbox)
      assert(sandbox.files:write("/tmp/checked", "x", { mode = "600" }))
      return sandbox.files:exists("/tmp/checked")
    end }
    assert.is_true(box:is_healthy())
    assert.is_true(box:wait_until_ready { ready_timeout = 5 })
    local none, err = box:wait_until_ready { ready_timeout = 0.1, health_check = function() return false end, health_check_interval = 0.01 }
    assert.is_nil(none)
    assert.equal("not_ready", err.code)
    assert.is_true(err.attempts > 1)
  end)

  it("leaves nothing behind when the health check never passes", function()
    local manager = opensandbox.manager()
    local id
    local none, err = opensandbox.create { image = "host", ready_timeout = 0.1, health_check_interval = 0.01,
      health_check = function(sandbox)
        id = sandbox.id
        return false
      end }
    assert.is_nil(none)
    assert.equal("not_ready", err.code)
    assert.equal("not_found", select(2, manager:get(id)).code)
  end)

  it("patches metadata", function()
    local box = create { metadata = { a = "1", b = "2" } }
    assert.same({ a = "1", c = "3" }, box:patch_metadata({ b = opensandbox.null, c = "3" }).metadata)
    assert.same({ a = "1", c = "3" }, box:info().metadata)
  end)

  it("measures", function()
    local metrics = assert(create():metrics())
    assert.is_true(metrics.cpu_count >= 1)
    assert.is_true(metrics.mem_total_mib > metrics.mem_used_mib)
    assert.is_true(math.abs(metrics.timestamp - os.time()) < 60)
  end)

  it("filters by metadata of any spelling, and by state", function()
    local manager = opensandbox.manager()
    local mark = tostring({}):match("%x+$")
    local spellings = { "a&b", "c=d", "e+f", "100%", "é ü", "%41", "x y" }
    for i, spelling in ipairs(spellings) do create { metadata = { mark = mark, spelling = spelling, number = tostring(i) } } end
    for i, spelling in ipairs(spellings) do
      local answer = assert(manager:list { metadata = { mark = mark, spelling = spelling } })
      assert.equal(1, #answer.items)
      assert.equal(tostring(i), answer.items[1].metadata.number)
    end
    assert(made[1]:pause())
    assert.equal(1, #manager:list({ metadata = { mark = mark }, states = { "Paused" } }).items)
    assert.equal(#spellings, #manager:list({ metadata = { mark = mark }, states = { "Paused", "Running" } }).items)
    assert.equal("invalid", select(2, manager:list { page_size = 100000 }).code)
  end)

  it("walks over pages without loss or double", function()
    local manager = opensandbox.manager()
    local mark = tostring({}):match("%x+$")
    local wanted = {}
    for _ = 1, 5 do wanted[create({ metadata = { mark = mark } }).id] = true end
    local first = assert(manager:list { metadata = { mark = mark }, page_size = 2 })
    assert.equal(2, #first.items)
    assert.is_true(first.pagination.has_next_page)
    assert.equal("5 3", ("%s %s"):format(tostring(first.pagination.total_items), tostring(first.pagination.total_pages)))
    for info in manager:each { metadata = { mark = mark }, page_size = 2 } do
      assert.is_true(wanted[info.id])
      wanted[info.id] = nil
    end
    assert.is_nil(next(wanted))
  end)

  it("reaches services inside", function()
    local box = create()
    assert(box.files:write("/tmp/service.lua", [[
      local server = assert(require("socket").bind("127.0.0.1", 8123))
      io.stdout:setvbuf "no"
      print "ready"
      while true do
        local client = server:accept()
        local request = client:receive()
        repeat local line = client:receive() until not line or line == ""
        local found = request:find("/index.html", 1, true)
        client:send(("HTTP/1.1 %s\r\nConnection: close\r\n\r\nfrom inside"):format(found and "200 OK" or "404 Not Found"))
        client:close()
      end
    ]]))
    local service = assert(box.commands:stream "exec lua5.4 /tmp/service.lua")
    repeat local event = assert(service:next()) until event.text == "ready"
    assert.equal("from inside", assert(box:request { port = 8123, path = "/index.html" }).body)
    assert.equal(404, select(2, box:request { port = 8123, path = "/missing" }).status)
    assert.matches("^http://", assert(box:endpoint(8123)).url)
    service:cancel()
  end)

  it("goes through the server's proxy as well", function()
    local connection = opensandbox.connection { use_server_proxy = true }
    local box = create { connection = connection }
    assert.matches("/proxy/44772", assert(box:endpoint(44772)).endpoint, 1, true)
    assert(box.files:write("/tmp/x", "proxied"))
    assert.equal("proxied", box.files:read("/tmp/x"))
  end)

  it("kills at the end of `with`", function()
    local id = opensandbox.with({ image = "host" }, function(box) return box.id end)
    assert.equal("not_found", select(2, opensandbox.manager():get(id)).code)
  end)
end)
