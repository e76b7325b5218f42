local json = require "opensandbox.json"

local has_integers = math.type ~= nil

describe("json", function()
  local function refused(value, message)
    local ok, err = pcall(json.encode, value)
    assert.is_false(ok)
    assert.equal(message, (err:gsub("^.-:%d+: ", "")))
  end

  it("keeps whole numbers whole", function()
    local value = json.decode('{"a":0,"b":-7,"c":1.5,"d":12.0,"e":9007199254740993,"f":-9223372036854775808,"g":1e300}')
    assert.equal("0 -7 1.5", ("%s %s %s"):format(tostring(value.a), tostring(value.b), tostring(value.c)))
    assert.equal(12, value.d)
    assert.equal(1e300, value.g)
    if has_integers then
      for _, name in ipairs { "a", "b", "d", "e", "f" } do assert.equal("integer", math.type(value[name])) end
      assert.equal("9007199254740993", tostring(value.e))
      assert.equal(math.mininteger, value.f)
      assert.equal('{"n":9007199254740993}', json.encode { n = value.e })
    end
    assert.equal(1781500000123.25, json.decode("[1781500000123.25]")[1])
  end)

  it("leaves digits and brackets inside strings alone", function()
    local text = [[{"a":"[] 9007199254740993 \" [ ] \\","b":[],"[]":[ ],"c":{}}]]
    local value = json.decode(text)
    assert.equal([=[[] 9007199254740993 " [ ] \]=], value.a)
    assert.is_true(json.is_array(value.b))
    assert.is_true(json.is_array(value["[]"]))
    assert.is_false(json.is_array(value.c))
    assert.same(value, json.decode(json.encode(value)))
  end)

  it("tells lists from objects, empty ones too", function()
    assert.equal("[]", json.encode(json.array()))
    assert.equal("{}", json.encode {})
    assert.equal('{"a":[],"b":{},"c":[[],{}]}', json.encode(json.decode('{"c":[[],{}],"b":{},"a":[]}')))
    assert.equal('[1,"x",null,true]', json.encode { 1, "x", json.null, true })
  end)

  it("keeps null apart from absence", function()
    local value = json.decode('{"a":null}')
    assert.equal(json.null, value.a)
    assert.equal('{"a":null}', json.encode(value))
  end)

  it("writes numbers so that they read the same", function()
    for _, number in ipairs { 0, -1, 1.5, 0.1, 1e21, 2 ^ 53, 1 / 3, -2.5e-7, 123456789012345 } do
      assert.equal(number, json.decode(json.encode { number })[1])
    end
    assert.equal("[755,2]", json.encode { 755, 2.0 })
  end)

  it("takes any UTF-8 text, and slashes", function()
    local text = "é \0 \127 \n \" / \\ 日本 \240\159\152\128"
    assert.equal(text, json.decode(json.encode { a = text }).a)
    assert.equal("x\194\133y", json.decode(json.encode { "x\194\133y" })[1])
  end)

  it("refuses what JSON cannot say and names the place", function()
    refused({ env = { A = "ok\255" } }, "cannot write 'env.A' as JSON: byte 3 of the text is not valid UTF-8")
    refused({ "\237\160\128" }, "cannot write '[1]' as JSON: byte 1 of the text is not valid UTF-8")
    refused({ ["a\192"] = 1 }, "cannot write 'a\192' as JSON: byte 2 of the text is not valid UTF-8")
    refused({ n = 0 / 0 }, "cannot write 'n' as JSON: it is not a finite number")
    refused({ { n = -1 / 0 } }, "cannot write '[1].n' as JSON: it is not a finite number")
    refused({ f = print }, "cannot write 'f' as JSON: a function cannot be written")
    refused({ 1, x = 1 }, "cannot write this value as JSON: it has both list items and named fields")
    refused({ l = { [2] = 1 } }, "cannot write 'l' as JSON: the list has holes")
    refused({ [true] = 1 }, "cannot write this value as JSON: a boolean cannot be a name")
    local loop = {}
    loop.loop = loop
    local ok, err = pcall(json.encode, loop)
    assert.is_false(ok)
    assert.matches("nested deeper than 200 levels", err)
  end)

  it("says what is wrong with a text", function()
    for _, text in ipairs { "", "{", '{"a":}', "[1,]", "nan", "[0x10]", "tru", '{"a":1} x', '["\\q"]', '"open', "[" .. ("["):rep(300) } do
      local value, problem = json.decode(text)
      assert.is_nil(value)
      assert.is_string(problem)
      assert.is_nil(problem:find("table: ", 1, true))
    end
  end)

  it("leaves the host's lua-cjson as it was", function()
    local cjson = require "cjson"
    assert.equal("table", type(cjson.decode("[nan]")))
  end)
end)
