-- libcurl sends a request again by itself when a kept connection breaks before any byte of the answer came, a POST too: a
-- command could have run twice.
local core = require "opensandbox.core"
local faults = require "spec.support.faults"
local http = require "opensandbox.http"
local opensandbox = require "opensandbox"

describe("a POST over a kept connection that breaks after it was sent", function()
  it("is an error, and is not sent twice", function()
    local server = faults.start()
    server:route("GET", "/first", faults.answer(200))
    server:route("POST", "/x", { { reset = true } }, faults.answer(200))
    local state = core.state(opensandbox.connection { domain = server.url, api_key = "k" }, "connection")
    assert(http.call(state, { method = "GET", base = server.url, path = "/first" }))
    local response, err = http.call(state, { method = "POST", base = server.url, path = "/x", body = "once" })
    assert.is_nil(response)
    assert.equal("network", err.code)
    assert.equal(1, #server:requests("/x"))
    server:stop()
  end)
end)
