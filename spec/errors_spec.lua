local errors = require "opensandbox.errors"

describe("errors", function()
  local request = { method = "GET", url = "http://host/v1/sandboxes/x" }

  local function from(status, body, content_type, headers)
    headers = headers or {}
    headers["content-type"] = content_type
    return errors.from_response({ status = status, headers = headers, body = body }, request)
  end

  it("gives every status class its code", function()
    local expected = {
      [400] = "invalid", [401] = "unauthorized", [403] = "forbidden", [404] = "not_found", [409] = "conflict", [416] = "invalid",
      [422] = "invalid", [429] = "rate_limited", [500] = "api", [501] = "unsupported", [502] = "unavailable", [503] = "unavailable",
      [504] = "unavailable", [418] = "api", [302] = "api",
    }
    for status, code in pairs(expected) do
      local err = from(status, "")
      assert.equal(code, err.code)
      assert.equal(status, err.status)
      assert.is_true(#err.message > 0)
    end
  end)

  it("knows what can be tried again", function()
    for status, retryable in pairs { [400] = false, [404] = false, [408] = true, [425] = true, [429] = true, [500] = false } do
      assert.equal(retryable, from(status, "").retryable)
    end
    assert.is_true(errors.transport("connect", "refused").retryable)
    assert.is_false(errors.transport("tls", "bad certificate").retryable)
    assert.is_false(errors.transport("network", "cut", { retryable = false }).retryable)
  end)

  it("reads every shape of error body", function()
    local cases = {
      { '{"code":"DOCKER::SANDBOX_NOT_FOUND","message":"Sandbox x not found"}', "Sandbox x not found", "DOCKER::SANDBOX_NOT_FOUND" },
      { '{"detail":"Not Found"}', "Not Found" },
      { '{"detail":[{"loc":["body","timeout"],"msg":"Input should be a valid integer","type":"int"},{"msg":"second"}]}',
        "body.timeout: Input should be a valid integer; second" },
      { '{"detail":{"code":"X","message":"inner"}}', "inner" },
      { '{"error":"Unauthorized: invalid or missing header"}', "Unauthorized: invalid or missing header" },
      { '{"error":{"message":"quota used up","code":"quota"}}', "quota used up", "quota" },
      { '{"type":"about:blank","title":"Bad","status":400,"detail":"The field a is wrong"}', "The field a is wrong" },
      { '{"type":"about:blank","title":"Only a title"}', "Only a title" },
      { "404 page not found\n", "404 page not found" },
      { "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>", "502 Bad Gateway", nil, "text/html" },
      { "<!DOCTYPE html><body><style>p{}</style><p>Out &amp; about</p></body>", "Out & about", nil, "text/html" },
      { '{"broken', '{"broken' },
      { '"just text"', "just text" },
      { "[1,2]", "the server has no such thing" },
      { "", "the server has no such thing" },
    }
    for _, case in ipairs(cases) do
      local err = from(404, case[1], case[4])
      assert.equal(case[2], err.message)
      assert.equal(case[3], err.api_code)
      assert.equal(case[1], err.body)
    end
  end)

  it("prints one line", function()
    local err = from(404, '{"code":"A","message":"two\\nlines\\t\\u0007here"}', nil, { ["x-request-id"] = "r-1" })
    assert.equal("opensandbox: not_found: two lines here (GET http://host/v1/sandboxes/x, status 404, A, request id r-1)", tostring(err))
    assert.equal("r-1", err.request_id)
    assert.equal(err, select(2, pcall(error, err)))
  end)

  it("bounds message and body", function()
    local err = from(500, ("é"):rep(100000))
    assert.equal(64 * 1024, #err.body)
    assert.is_true(#err.message < 510)
    assert.is_nil(err.message:find("[\192-\255]…"))
  end)

  it("keeps secrets out of addresses and messages", function()
    local err = errors.from_response({ status = 401, headers = {}, body = "API key s3cr-et+key is wrong" },
      { method = "GET", url = "http://me:pw@host/p?token=abc&path=%2Fa&flag#part", secrets = { "s3cr-et+key" } })
    assert.equal("http://host/p?token=***&path=%2Fa&flag", err.url)
    assert.equal("API key *** is wrong (check api_key or OPEN_SANDBOX_API_KEY)", err.message)
    assert.is_nil(tostring(err):find("s3cr", 1, true))
  end)

  it("reads Retry-After as seconds or date", function()
    assert.equal(7, from(429, "", nil, { ["retry-after"] = "7" }).retry_after)
    assert.equal(0, from(429, "", nil, { ["retry-after"] = "Sun, 06 Nov 1994 08:49:37 GMT" }).retry_after)
    local soon = os.date("!%a, %d %b %Y %H:%M:%S GMT", os.time() + 100)
    local delay = from(503, "", nil, { ["retry-after"] = soon }).retry_after
    assert.is_true(delay > 90 and delay <= 100)
    assert.is_nil(from(503, "", nil, { ["retry-after"] = "soon" }).retry_after)
  end)

  it("names the target of a redirect", function()
    local err = from(302, "moved", nil, { location = "http://other/x?token=1" })
    assert.equal("the server redirects to http://other/x?token=***, which is not followed", err.message)
  end)

  it("is told from other values, also after the module was loaded anew", function()
    local err = errors.transport("dns", "no such host")
    assert.is_true(errors.is(err))
    package.loaded["opensandbox.errors"] = nil
    local again = require "opensandbox.errors"
    package.loaded["opensandbox.errors"] = errors
    assert.is_true(again.is(err))
    for _, other in ipairs { {}, "text", 1, setmetatable({}, { __index = error }) } do assert.is_false(errors.is(other)) end
    assert.is_false(errors.is(nil))
  end)

  it("raises misuse at the user's line", function()
    local chunk = (loadstring or load)("local raise = ...\nlocal function helper()\n  raise('wrong')\nend\nhelper()", "@user.lua")
    local ok, message = pcall(chunk, errors.raise)
    assert.is_false(ok)
    assert.equal("user.lua:3: wrong", message)
  end)

  it("are raised by check, as what they are; as text where Lua prints nothing else", function()
    assert.same({ 1, nil, 3, n = 3 }, { n = select("#", errors.check(1, nil, 3)), errors.check(1, nil, 3) })
    local err = errors.new { code = "timeout", message = "too late" }
    local ok, raised = pcall(errors.check, nil, err)
    assert.is_false(ok)
    if _VERSION == "Lua 5.1" and not _G.jit then
      assert.truthy(raised:find("opensandbox: timeout: too late", 1, true))
    else
      assert.equal(err, raised)
    end
    assert.truthy(select(2, pcall(errors.check, false, "text")):find("text", 1, true))
    assert.truthy(select(2, pcall(errors.check, nil)):find("check failed", 1, true))
  end)
end)
