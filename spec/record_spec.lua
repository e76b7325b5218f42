local datetime = require "opensandbox.datetime"
local json = require "opensandbox.json"
local record = require "opensandbox.record"

describe("record", function()
  local sandbox = record {
    createdAt = record.time, expiresAt = record.time, metadata = record.verbatim, status = record { lastTransitionAt = record.time },
    mode = record.mode, duration = record.milliseconds, volumes = record.list(record { mountPath = tostring }),
  }

  it("converts names, times and nested records, and keeps the server's body", function()
    local raw = json.decode [[{"id":"a","createdAt":"2026-06-15T08:00:00.25Z","expiresAt":null,"pageSize":3,
      "metadata":{"teamName":"x","gone":null},"status":{"state":"Running","lastTransitionAt":"2026-06-15T10:00:00+02:00"},
      "mode":755,"duration":1500,"volumes":[{"mountPath":"/a"}],"newThing":{"innerName":[{"deepName":1}]}}]]
    local value = assert(sandbox(raw))
    assert.equal("a", value.id)
    assert.equal(1781510400.25, value.created_at)
    assert.is_nil(value.expires_at)
    assert.equal(3, value.page_size)
    assert.same({ teamName = "x" }, value.metadata)
    assert.equal("Running", value.status.state)
    assert.equal(1781510400, value.status.last_transition_at)
    assert.equal("755", value.mode)
    assert.equal(1.5, value.duration)
    assert.equal("/a", value.volumes[1].mount_path)
    assert.equal(1, value.new_thing.inner_name[1].deep_name)
    assert.equal(raw, value.raw)
  end)

  it("says what does not fit", function()
    local function problem(value) return select(2, sandbox(value)) end
    assert.equal("is a string instead of an object", problem("x"))
    assert.equal("is a list instead of an object", problem { 1 })
    assert.equal("createdAt is not a time", problem { createdAt = "yesterday" })
    assert.equal("status lastTransitionAt is not a time", problem { status = { lastTransitionAt = 1 } })
    assert.equal("volumes [1] is a number instead of an object", problem { volumes = { 1 } })
  end)

  it("writes options as the wire has them", function()
    assert.same({ mountPath = "/a", pvc = { claimName = "c", accessModes = { "ReadWriteOnce" } } },
      record.to_wire { mount_path = "/a", pvc = { claim_name = "c", access_modes = { "ReadWriteOnce" } } })
  end)
end)

describe("datetime", function()
  it("reads ISO times with and without fraction and zone", function()
    local expected = {
      ["1970-01-01T00:00:00Z"] = 0, ["2000-02-29T12:30:15Z"] = 951827415, ["2026-06-15T08:00:00.500+02:00"] = 1781503200.5,
      ["2026-06-15T08:00:00-0130"] = 1781515800, ["2026-06-15 08:00:00"] = 1781510400, ["2026-06-15T08:00:00.000000000Z"] = 1781510400,
      ["1969-12-31T23:59:59Z"] = -1,
    }
    for text, seconds in pairs(expected) do assert.equal(seconds, datetime.parse_iso(text)) end
    for _, text in ipairs { "", "2026-06-15", "2026-13-01T00:00:00Z", "2026-06-15T08:00:00X", "2026-06-15T08:61:00Z" } do
      assert.is_nil(datetime.parse_iso(text))
    end
    if math.type then assert.equal("integer", math.type(datetime.parse_iso("2026-06-15T08:00:00Z"))) end
  end)

  it("writes what it reads", function()
    for _, time in ipairs { 0, 951827415, 1781510400.25, 4102444799.999 } do
      assert.equal(time, datetime.parse_iso(datetime.format_iso(time)))
    end
    assert.equal("2026-06-15T08:00:00.250Z", datetime.format_iso(1781510400.25))
  end)

  it("reads HTTP dates", function()
    assert.equal(784111777, datetime.parse_http("Sun, 06 Nov 1994 08:49:37 GMT"))
    assert.is_nil(datetime.parse_http("Sunday"))
  end)
end)
