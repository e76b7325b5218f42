-- A cancelled sleep left its timer behind, which a deadlock's check took for something that could still wake somebody:
-- the deadlock was told only when that timer rang, a minute later.
local core = require "opensandbox.core"
local opensandbox = require "opensandbox"

describe("a deadlock after a cancelled sleep", function()
  it("is told at once, not when the forgotten timer would have rung", function()
    local sleeper = opensandbox.spawn(opensandbox.sleep, 3600)
    opensandbox.sleep(0)
    sleeper:cancel()
    sleeper:join()
    local places = opensandbox.semaphore(1)
    places:acquire()
    local start = core.now()
    local ok, problem = pcall(places.acquire, places)
    assert.is_false(ok)
    assert.truthy(problem:find("deadlock", 1, true))
    assert.is_true(core.now() - start < 60)
  end)
end)
