-- Background jobs against a scripted server: logs that break off, cursors that lie, ids that are not known yet.
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"

describe("a job", function()
  local server, box, job

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)
  before_each(function()
    box = assert(opensandbox.create(faults.sandbox_routes(server).options(opensandbox)))
    job = box.commands:attach "j"
  end)
  after_each(function()
    box:close()
    server:reset()
  end)

  local LOG = "first\né\0\255 last" -- no final line end, and bytes that are no text

  local function status(running)
    return faults.json(200, { id = "j", running = running, exit_code = not running and 7 or nil })
  end

  --- The log from a byte on; `bytes` of it come before the connection breaks, all where there is no such number.
  local function log(from, bytes, ending)
    local rest = LOG:sub(from + 1)
    local head = faults.head(200, { ["Content-Length"] = tostring(#rest), ["EXECD-COMMANDS-TAIL-CURSOR"] = tostring(#LOG) })
    if not bytes then return faults.join(head, { { send = rest } }) end
    return faults.join(head, { { send = rest:sub(1, bytes) } }, { { [ending or "close"] = true } })
  end

  local function cursors()
    local list = {}
    for i, request in ipairs(server:requests "/execd/command/j/logs") do list[i] = tonumber(request.query:match("cursor=(%d+)")) end
    return list
  end

  it("is followed across connections that break, with no byte lost or doubled", function()
    for _, ending in ipairs { "close", "reset" } do
      server:route("GET", "/execd/command/status/j", status(true), { { reset = true } }, status(true), status(false))
      server:route("GET", "/execd/command/j/logs", log(0, 7), { { reset = true } }, log(7, 1, ending), log(8))
      local pieces = {}
      local done = assert(job:follow(function(bytes) pieces[#pieces + 1] = bytes end))
      if ending == "close" then
        assert.equal(LOG, table.concat(pieces))
        assert.same({ 0, 7, 7, 8 }, cursors())
      else
        assert.equal(LOG, table.concat(pieces):sub(1, #LOG)) -- a reset may take bytes that had come; they are asked for again
        assert.equal(#LOG, #table.concat(pieces))
      end
      assert.equal(7, done.exit_code)
      server:reset()
      faults.sandbox_routes(server)
    end
  end)

  it("tells how far following came where it fails", function()
    server:route("GET", "/execd/command/status/j", status(true))
    server:route("GET", "/execd/command/j/logs", log(0, 7), faults.json(401, { message = "no longer" }))
    local done, err = job:follow(function() end)
    assert.is_nil(done)
    assert.equal("unauthorized", err.code)
    assert.equal(7, err.partial)
  end)

  it("gives protocol for a cursor that is no number, runs backwards or is missing", function()
    server:route("GET", "/execd/command/status/j", status(true))
    for _, cursor in ipairs { "abc", "-1", "1.5", "2" } do
      server:route("GET", "/execd/command/j/logs", faults.answer(200, "x", { ["EXECD-COMMANDS-TAIL-CURSOR"] = cursor }))
      assert.equal("protocol", select(2, job:output { cursor = 3 }).code, cursor)
    end
    server:route("GET", "/execd/command/j/logs", faults.answer(200, "x"))
    assert.equal("protocol", select(2, job:output()).code)
  end)

  it("that was just started may be unknown for a moment; any other unknown id is not_found", function()
    server:route("POST", "/execd/command", faults.stream { faults.init "j", faults.complete() })
    local unknown = faults.json(404, { code = "INVALID_REQUEST_BODY", message = "unknown" })
    server:route("GET", "/execd/command/status/j", unknown, unknown, status(true))
    local started = assert(box.commands:start "x")
    assert.is_true(assert(started:status()).running)
    server:route("GET", "/execd/command/status/j", unknown)
    assert.equal("not_found", select(2, job:status()).code)
    assert.equal("not_found", select(2, started:status()).code)
  end)
end)
