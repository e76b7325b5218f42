local core = require "opensandbox.core"

describe("core objects", function()
  local function make(kind, state)
    core.methods(kind, { hello = function(self) return core.state(self, kind).greeting end, __fields = { id = true } })
    return core.new(kind, state or { id = "7", greeting = "hi" })
  end

  it("are userdata with named metatables, methods from Lua and public fields", function()
    local object = make "spec_a"
    assert.equal("userdata", type(object))
    assert.equal("opensandbox.spec_a", getmetatable(object).__name)
    assert.equal("hi", object:hello())
    assert.equal("7", object.id)
    assert.is_nil(object.greeting)
    assert.equal("opensandbox.spec_a: 7", tostring(object))
    assert.equal("spec_a", core.kind(object))
    assert.is_nil(core.kind {})
    assert.is_nil(core.kind(io.stdout))
  end)

  it("refuse to be used as another kind, or after close", function()
    local a, b = make "spec_a", make "spec_b"
    local function misuse() a.hello(b) end
    assert.has_error(misuse)
    assert.truthy(select(2, pcall(misuse)):find("opensandbox.spec_a expected, got opensandbox.spec_b", 1, true))
    assert.truthy(select(2, pcall(a.hello, nil)):find("got nil", 1, true))
    assert.truthy(select(2, pcall(a.hello, io.stdout)):find("got userdata", 1, true))
    assert.is_true(core.close(a))
    assert.is_false(core.close(a))
    assert.is_true(core.is_closed(a))
    assert.truthy(select(2, pcall(a.hello, a)):find("use of a closed spec_a", 1, true))
    assert.equal("hi", core.state(a, "spec_a", true).greeting)
  end)

  it("take new methods when a module is loaded anew", function()
    local object = make "spec_c"
    core.methods("spec_c", { hello = function() return "new" end })
    assert.equal("new", object:hello())
  end)

  it("keep the context when the module is opened again", function()
    local context = core.context()
    local loop = core.loop()
    package.loaded["opensandbox.core"] = nil
    local again = require "opensandbox.core"
    assert.equal(context, again.context())
    assert.equal(loop, again.loop())
  end)

  it("are collected with their state", function()
    local weak = setmetatable({}, { __mode = "k" })
    do
      local state = {}
      weak[state] = true
      core.new("spec_a", state)
    end
    collectgarbage()
    collectgarbage()
    assert.is_nil(next(weak))
  end)
end)

describe("capture", function()
  it("limits each output apart", function()
    local capture = core.capture(10)
    assert.equal("", capture:text("output"))
    assert.same({}, capture:logs "stdout")
    assert.is_false(capture:truncated())
    assert.has_error(function() core.capture(-1) end)
    assert.has_error(function() capture:text "other" end)
  end)
end)
