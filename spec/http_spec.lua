-- The transport: faults of a server and of the network, redirects, retries, proxies, what is sent where.
local core = require "opensandbox.core"
local faults = require "spec.support.faults"
local http = require "opensandbox.http"
local opensandbox = require "opensandbox"
local task = require "opensandbox.task"

describe("the transport", function()
  local server

  setup(function()
    server = faults.start()
  end)

  teardown(function()
    server:stop()
  end)

  before_each(function()
    server:reset()
  end)

  local function settings(more)
    local options = { domain = server.url, api_key = "key-12345", retry = { attempts = 3, base = 0.001, max = 0.01 } }
    for name, value in pairs(more or {}) do options[name] = value end
    return core.state(opensandbox.connection(options), "connection")
  end

  local function call(request, more)
    local given = { method = "GET", base = server.url, path = "/x" }
    for name, value in pairs(request or {}) do given[name] = value end
    return http.call(settings(more), given)
  end

  local function attempts(path)
    return #server:requests(path or "/x")
  end

  it("retries a GET on 503 and 429, and honours Retry-After", function()
    server:route("GET", "/x", faults.answer(503, "busy"), faults.answer(429, "slow", { ["Retry-After"] = "0" }), faults.answer(200, "ok"))
    assert.equal("ok", assert(call()).body)
    assert.equal(3, attempts())
  end)

  it("tells the Retry-After of the last failure", function()
    server:route("GET", "/x", faults.answer(429, '{"code":"RATE","message":"too many"}', { ["Retry-After"] = "77" }))
    local response, err = call()
    assert.is_nil(response)
    assert.equal("rate_limited", err.code)
    assert.equal(77, err.retry_after)
    assert.equal("RATE", err.api_code)
    assert.is_true(err.retryable)
    assert.equal(1, attempts()) -- 77 s are longer than the call may take
  end)

  it("never repeats a POST that a server has seen", function()
    server:route("POST", "/x", faults.answer(503, "busy"))
    local _, err = call({ method = "POST", body = "data" })
    assert.equal("unavailable", err.code)
    assert.equal(1, attempts())
    server:route("POST", "/x", { { reset = true } })
    _, err = call({ method = "POST", body = "data" })
    assert.equal("network", err.code)
    assert.equal(2, attempts())
  end)

  it("repeats a GET that was reset after it was sent", function()
    server:route("GET", "/x", { { reset = true } }, faults.answer(200, "second"))
    assert.equal("second", assert(call()).body)
  end)

  it("asks should_retry and tells on_retry", function()
    server:route("GET", "/x", faults.answer(503, "busy"))
    local seen = {}
    local _, err = call(nil, { retry = { attempts = 5, base = 0.001, should_retry = function(_, attempt) return attempt < 2 end,
      on_retry = function(failure, attempt, delay) seen[#seen + 1] = { failure.status, attempt, delay >= 0 } end } })
    assert.equal(503, err.status)
    assert.same({ { 503, 1, true } }, seen)
    assert.equal(2, attempts())
  end)

  it("uses a fresh connection when a kept one went stale", function()
    server:route("GET", "/x", faults.answer_and_close(200, "first"), faults.answer(200, "second"))
    local connection = settings { retry = false }
    local request = { method = "GET", base = server.url, path = "/x" }
    assert.equal("first", assert(http.call(connection, request)).body)
    assert.equal("second", assert(http.call(connection, request)).body)
  end)

  it("uses a fresh one, too, when an earlier answer left bytes on a kept connection", function()
    local spoilt = faults.answer(200, "firstEXTRA", nil, { length = 5 })
    for _, retry in ipairs { false, { attempts = 2, base = 0.001 } } do
      server:reset()
      server:route(nil, "/x", spoilt)
      local connection = settings { retry = retry }
      local get = { method = "GET", base = server.url, path = "/x" }
      assert.equal("first", assert(http.call(connection, get)).body)
      assert.equal("first", assert(http.call(connection, get)).body)
    end
  end)

  it("follows redirects within the host for GET, at most five", function()
    server:route("GET", "/x", faults.redirect("/y?a=1"))
    server:route("GET", "/y", faults.answer(200, "there"))
    assert.equal("there", assert(call()).body)
    server:route("GET", "/loop", faults.redirect("/loop"))
    local _, err = call { path = "/loop" }
    assert.equal("protocol", err.code)
    assert.equal(6, attempts("/loop"))
  end)

  it("follows no redirect to another host and shows it no credentials", function()
    local other = faults.start()
    other:route(nil, "/*", faults.answer(200, "stolen"))
    server:route("GET", "/x", faults.redirect(other.url .. "/steal?token=abc"))
    local _, err = call({ headers = { ["X-EXECD-ACCESS-TOKEN"] = "secret-token" } })
    assert.equal(302, err.status)
    assert.truthy(err.message:find(other.authority, 1, true))
    assert.is_nil(tostring(err):find("abc", 1, true))
    assert.equal(0, #other:requests())
    other:stop()
  end)

  it("follows no redirect of a POST", function()
    server:route("POST", "/x", faults.redirect("/y", 307))
    local _, err = call { method = "POST", body = "data" }
    assert.equal(307, err.status)
    assert.equal(0, attempts("/y"))
  end)

  it("makes a readable message of an HTML page", function()
    local page = "<html><head><title>Oh no</title></head><body>bad</body></html>"
    server:route("GET", "/x", faults.answer(500, page, { ["Content-Type"] = "text/html" }))
    local _, err = call()
    assert.equal("api", err.code)
    assert.truthy(err.message:find("Oh no", 1, true))
    assert.is_nil(err.message:find("<", 1, true))
  end)

  it("is truncated when a body is shorter than its Content-Length", function()
    server:route("GET", "/x", faults.join(faults.answer(200, "half", nil, { length = 8 }), { { close = true } }))
    local _, err = call(nil, { retry = false })
    assert.equal("truncated", err.code)
  end)

  it("takes no more than the Content-Length says", function()
    -- libcurl would take the rest for the start of the next answer
    server:route("GET", "/x", faults.answer(200, "12345678", { Connection = "close" }, { length = 4 }))
    assert.equal("1234", assert(call()).body)
  end)

  it("ends when the headers do not come in time", function()
    server:route("GET", "/x", { { stall = true } })
    local _, err = call(nil, { request_timeout = 0.1, retry = false })
    assert.equal("timeout", err.code)
    server:route("GET", "/x", faults.join({ { send = "HTTP/1.1 200 OK\r\nContent-Le" } }, { { stall = true } }))
    _, err = call({ timeout = 0.1 }, { retry = false })
    assert.equal("timeout", err.code)
  end)

  it("ends when a body goes silent", function()
    server:route("GET", "/x", faults.join(faults.answer(200, "half", nil, { length = 8 }), { { stall = true } }))
    local _, err = call(nil, { request_timeout = 0.1, retry = false })
    assert.equal("timeout", err.code)
  end)

  it("does not count the time that a sink takes as silence", function()
    server:route("GET", "/x", faults.join(faults.answer(200, "half", nil, { length = 8 }), { { wait = "go" } }, { { send = "half" } }))
    local got = {}
    assert(call({ sink = function(chunk)
      got[#got + 1] = chunk
      if #got == 1 then
        task.sleep(0.3)
        server:release("go")
      end
    end }, { request_timeout = 0.2, retry = false }))
    assert.equal("halfhalf", table.concat(got))
  end)

  it("has a code for each way not to connect", function()
    local _, err = call({ base = "http://127.0.0.1:1" }, { retry = false })
    assert.equal("connect", err.code)
    assert.truthy(err.message:find("127.0.0.1:1", 1, true))
    _, err = call({ base = "http://no-such-host.invalid" }, { retry = false })
    assert.equal("dns", err.code)
    server:on_connect { { send = "this is no TLS server" }, { close = true } }
    _, err = call({ base = "https://" .. server.authority }, { retry = false })
    assert.equal("tls", err.code)
  end)

  it("repeats even a POST that could not connect", function()
    local seen = 0
    local _, err = call({ method = "POST", base = "http://127.0.0.1:1", body = "x" },
      { retry = { attempts = 3, base = 0.001, on_retry = function() seen = seen + 1 end } })
    assert.equal("connect", err.code)
    assert.equal(2, seen)
  end)

  it("gives a request id that was sent back, and else the server's", function()
    server:route("GET", "/x", faults.answer(404, "{}", { ["X-Request-ID"] = "from-server" }))
    local _, err = call()
    assert.equal("from-server", err.request_id)
    server:route("GET", "/x", faults.answer(404, "{}"))
    _, err = call { headers = { ["X-Request-ID"] = "mine" } }
    assert.equal("mine", err.request_id)
  end)

  it("sends the connection's headers on everything, and no Expect", function()
    server:route("POST", "/x", faults.answer(200))
    local parts = { { name = "f", filename = "n", data = ("x"):rep(2000000) } }
    assert(call({ method = "POST", parts = parts }, { headers = { ["X-Mine"] = "1" } }))
    local request = server:requests("/x")[1]
    assert.equal("1", request.headers["x-mine"])
    assert.is_nil(request.headers.expect)
    assert.truthy(request.headers["user-agent"]:find("^opensandbox%-lua/"))
  end)

  it("sends an empty POST with Content-Length 0", function()
    server:route("POST", "/x", faults.answer(200))
    assert(call { method = "POST" })
    local headers = server:requests("/x")[1].headers
    assert.equal("0", headers["content-length"])
    assert.is_nil(headers["content-type"])
  end)

  it("refuses a header with a line end", function()
    assert.has_error(function() call { headers = { ["X-A"] = "b\r\nX-Evil: 1" } } end)
    assert.equal(0, attempts())
  end)

  it("masks the secrets that a server repeats", function()
    server:route("GET", "/x", faults.answer(401, '{"code":"INVALID_API_KEY","message":"key key-12345 is wrong, token secret-token too"}'))
    local _, err = call { headers = { ["X-EXECD-ACCESS-TOKEN"] = "secret-token" } }
    assert.equal("unauthorized", err.code)
    assert.is_nil(tostring(err):find("key%-12345"))
    assert.is_nil(tostring(err):find("secret%-token"))
  end)

  it("leaves nothing in the loop after a failure", function()
    local function count()
      collectgarbage()
      collectgarbage()
      return core.loop():sources()
    end
    local before = count()
    server:route("GET", "/x", { { stall = true } })
    for _ = 1, 5 do call({ timeout = 0.02 }, { retry = false }) end
    assert.equal(before, count())
    server:await_abort("/x")
  end)

  it("streams an upload from a function, piece by piece", function()
    server:route("POST", "/x", faults.answer(200))
    local left = 20
    assert(call { method = "POST", parts = { { name = "f", filename = "n", source = function()
      left = left - 1
      return left >= 0 and ("z"):rep(1000) or nil
    end } } })
    local body = server:requests("/x")[1].body
    assert.truthy(body:find(("z"):rep(20000), 1, true))
  end)

  it("gives an error raised by a data function back as a handler error", function()
    server:route("POST", "/x", faults.answer(200))
    local _, err = call { method = "POST", parts = { { name = "f", filename = "n", source = function() error("no data") end } } }
    assert.equal("handler", err.code)
    assert.truthy(err.message:find("no data", 1, true))
  end)

  it("stops an upload that the server refuses early", function()
    local refusal = faults.answer(403, '{"message":"no room"}', { Connection = "close" })
    server:route_early("POST", "/x", faults.join(refusal, { { drain = true } }))
    local pulled = 0
    local _, err = call { method = "POST", parts = { { name = "f", filename = "n", source = function()
      pulled = pulled + 1
      return pulled < 2000 and ("z"):rep(100000) or nil
    end } } }
    assert.equal("forbidden", err.code)
    assert.is_true(pulled < 2000)
  end)
end)
