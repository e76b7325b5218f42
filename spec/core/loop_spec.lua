-- The loop, and what hosts and systems do to it.
local core = require "opensandbox.core"
local faults = require "spec.support.faults"
local http = require "opensandbox.http"
local opensandbox = require "opensandbox"
local script = require "spec.support.script"
local task = require "opensandbox.task"

describe("the loop", function()
  local server

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)
  before_each(function() server:reset() end)

  local function settings()
    return core.state(opensandbox.connection { domain = server.url, api_key = "k", retry = false }, "connection")
  end

  it("waits for timers in their order", function()
    local now = core.now()
    local late, soon = core.timer(now + 0.05), core.timer(now + 0.01)
    assert.is_true(task.await(soon))
    assert.is_false(late:ready())
    assert.is_true(task.await(late))
    assert.is_true(core.now() >= now + 0.05)
  end)

  it("gives up at a deadline", function()
    local timer = core.timer(core.now() + 60)
    assert.is_false(task.await(timer, core.now() + 0.01))
    timer:cancel()
  end)

  it("has a descriptor that is readable when there is something to do, and tells when it wants to be called", function()
    local loop = core.loop()
    assert.is_true(loop:fd() > 2)
    local timer = core.timer(core.now() + 60)
    timer:ready()
    local timeout = loop:timeout()
    assert.is_true(timeout > 50 and timeout <= 60)
    timer:cancel()
  end)

  it("goes on when it is woken up", function()
    local loop = core.loop()
    loop:wakeup()
    local count = loop:step(30, {})
    assert.equal(0, count)
  end)

  it("survives a transfer that is collected while it runs, or lost with its state", function()
    server:route("GET", "/x", { { stall = true } })
    for _ = 1, 20 do
      core.transfer { url = server.url .. "/x", method = "GET", headers = {} }
    end
    collectgarbage()
    collectgarbage()
    core.loop():step(0, {})
    local child = script.start([[
      local core = require "opensandbox.core"
      local transfer = core.transfer { url = "]] .. server.url .. [[/x", method = "GET", headers = {} }
      core.loop():step(0.05, {})
      held = transfer
    ]])
    assert.equal(0, (child:finish()))
  end)

  it("refuses a transfer without url, with a wrong type, with a header of two lines", function()
    for _, options in ipairs {
      {}, { url = "http://127.0.0.1", headers = {} }, { url = "http://127.0.0.1", method = "GET", headers = 1 },
      { url = 5, method = "GET", headers = {} }, { url = "http://127.0.0.1", method = "GET", headers = { "A: b\nC: d" } },
      { url = "http://127.0.0.1", method = "GET", headers = {}, body = "x" },
    } do
      assert.has_error(function() core.transfer(options) end)
    end
  end)

  it("refuses other protocols than HTTP", function()
    local _, err = http.call(settings(), { method = "GET", base = "file:///etc", path = "/passwd" })
    assert.equal("protocol", err.code)
  end)

  it("is interrupted by Ctrl-C while it blocks", function()
    local child = script.start [[
      local task = require "opensandbox.task"
      print "waiting"
      print(select(2, pcall(task.sleep, 60)))
    ]]
    assert.equal("waiting", child:line())
    -- the signal may come before the wait has begun: it then ends the script at once, which is as good
    child:kill(2)
    local code, output = child:finish()
    assert.truthy(output:find("interrupted!", 1, true) or code == 130, output)
  end)

  it("is refused in a forked child, whose end leaves the parent's transfers alone", function()
    server:route("GET", "/x", faults.join(faults.head(200, { ["Content-Length"] = "2" }), { { wait = "go" } }, { { send = "ok" } }))
    local child = script.start(([[
      local core, testing = require "opensandbox.core", require "osb_testing"
      local transfer = core.transfer { url = "%s/x", method = "GET", headers = {} }
      while not transfer:status() do core.loop():step(1, {}) end
      local pid = testing.fork()
      if pid == 0 then
        local ok, problem = pcall(core.loop)
        print(ok, problem)
        os.exit(0, true) -- closes the state: every finalizer runs
      end
      print(testing.wait(pid))
      print "go on"
      while not transfer:done() do transfer:ready() core.loop():step(1, {}) end
      print(transfer:body())
    ]]):format(server.url))
    local refusal = child:line()
    assert.truthy(refusal:find("^false") and refusal:find("forked", 1, true), refusal)
    assert.equal("0", child:line())
    assert.equal("go on", child:line())
    server:release "go"
    assert.equal("ok", child:line())
    assert.equal(0, (child:finish()))
  end)

  it("never asks a proxy of the environment for a loopback address", function()
    server:route("GET", "/x", faults.answer(200, "direct"))
    local child = script.start(([[
      local core, http = require "opensandbox.core", require "opensandbox.http"
      local connection = require("opensandbox").connection { domain = "%s", retry = false }
      local response, err = http.call(core.state(connection, "connection"), { method = "GET", base = "%s", path = "/x" })
      print(response and response.body or err)
    ]]):format(server.url, server.url), { http_proxy = "http://127.0.0.1:1", all_proxy = "http://127.0.0.1:1" })
    assert.equal("direct", child:line())
    child:finish()
  end)

  it("asks the proxy of the environment for any other address", function()
    server:route(nil, "/*", faults.answer(200, "proxied"))
    local child = script.start([[
      local core, http = require "opensandbox.core", require "opensandbox.http"
      local connection = require("opensandbox").connection { domain = "sandbox.invalid", retry = false }
      local state = core.state(connection, "connection")
      local response, err = http.call(state, { method = "GET", base = "http://sandbox.invalid", path = "/x" })
      print(response and response.body or err)
    ]], { http_proxy = server.url, no_proxy = false, NO_PROXY = false })
    child:finish()
    assert.equal(1, #server:requests())
    assert.equal("sandbox.invalid", server:requests()[1].headers.host)
  end)

  it("is not held up by a DNS server that says nothing", function()
    -- inside a network of its own where port 53 takes questions and never answers
    local resolv = os.tmpname()
    local file = assert(io.open(resolv, "w"))
    file:write("nameserver 127.0.0.1\noptions timeout:20 attempts:1\n")
    file:close()
    local child = script.start([[
      local silent = require("socket").udp()
      assert(silent:setsockname("127.0.0.1", 53))
      local core, http = require "opensandbox.core", require "opensandbox.http"
      local connection = require("opensandbox").connection { domain = "example.com", retry = false }
      local start, state = core.now(), core.state(connection, "connection")
      local _, err = http.call(state, { method = "GET", base = "http://example.com", path = "/", timeout = 0.3 })
      print(err.code, core.now() - start < 3)
      print(silent:receivefrom() ~= nil) -- it was asked
    ]], { http_proxy = false, HTTP_PROXY = false, all_proxy = false, ALL_PROXY = false }, {
      "bwrap", "--dev-bind", "/", "/", "--unshare-user", "--uid", "0", "--gid", "0", "--unshare-net", "--cap-add", "ALL",
      "--ro-bind", resolv, "/etc/resolv.conf",
    })
    assert.equal("timeout\ttrue", child:line())
    assert.equal("true", child:line())
    assert.equal(0, (child:finish())) -- the resolver's thread may still run: the module is never unloaded under it
    os.remove(resolv)
  end)

  it("starts and reaps processes, and closes their stdin to end them", function()
    local process = assert(core.process { argv = { "cat" } })
    assert.is_nil(process:exit_code())
    local pid = process:pid()
    assert.is_true(pid > 0)
    process:close()
    local function is_gone()
      local stat = io.open(("/proc/%d/stat"):format(pid))
      if stat then stat:close() end
      return stat == nil
    end
    local deadline = core.now() + 20
    while not is_gone() and core.now() < deadline do task.sleep(0.005) end
    assert.is_true(is_gone())
  end)

  it("names the program that can't be started #spawn", function()
    local missing, problem = core.process { argv = { "/no/such/program" } }
    assert.is_nil(missing)
    assert.truthy(problem:find("/no/such/program", 1, true))
  end)

  it("gives a child none of the files that are open here", function()
    local kept = assert(io.open("/etc/hosts"))
    local process = assert(core.process { argv = { "sh", "-c", "ls -l /proc/$$/fd | grep -c /etc/hosts" } })
    task.await(process)
    assert.equal("0", process:read_line())
    kept:close()
  end)
end)
