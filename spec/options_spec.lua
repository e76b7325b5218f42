local options = require "opensandbox.options"

describe("options", function()
  local check = options.declare("test:call", {
    name = { type = "string" },
    timeout = { type = { "duration", "false" }, default = 30 },
    count = { type = "integer", default = 1 },
    key = { type = "header" },
    verify = { type = "boolean" },
    on_event = { type = "function" },
    env = { type = "map", of = "string", default = {} },
    list = { type = "list", of = { "string", "integer" } },
    tls = { type = "table", fields = { ca_file = { type = "string" }, verify = { type = "boolean", default = true } } },
    volumes = { type = "list", items = { path = { type = "string", required = true }, read_only = { type = "boolean" } } },
    uid = { type = "integer" }, gid = { type = "integer" },
    range = { type = "list" }, offset = { type = "integer" },
    connection = { type = "connection" },
  }, { exclusive = { { "range", "offset" } }, requires = { gid = "uid" } })

  local function refused(given, message)
    local ok, err = pcall(check, given)
    assert.is_false(ok)
    assert.equal(message, (err:gsub("^.-:%d+: ", "")))
  end

  it("fills in defaults and copies", function()
    local env = { A = "1" }
    local opts = check { env = env }
    assert.same({ timeout = 30, count = 1, env = { A = "1" } }, opts)
    assert.are_not.equal(env, opts.env)
    check().env.B = "2"
    assert.same({}, check().env)
    assert.is_false(check { timeout = false }.timeout)
    assert.same({ verify = true }, check { tls = {} }.tls)
  end)

  it("names an unknown option and the one that was meant", function()
    refused({ timout = 1 }, "unknown option 'timout' (did you mean 'timeout'?)")
    refused({ onevent = print }, "unknown option 'onevent' (did you mean 'on_event'?)")
    refused({ Timeout = 1 }, "unknown option 'Timeout' (did you mean 'timeout'?)")
    refused({ tls = { ca_fiel = "x" } }, "unknown option 'tls.ca_fiel' (did you mean 'tls.ca_file'?)")
    refused({ volumes = { { path = "/a" }, { pth = "/b" } } }, "unknown option 'volumes[2].pth' (did you mean 'volumes[2].path'?)")
    refused({ tls = { zzz = 1 } }, "unknown option 'tls.zzz' (known: ca_file, verify)")
    refused({ "x" }, "unknown option 1: options are named")
  end)

  it("names the option and both types", function()
    refused({ name = 1 }, "option 'name' must be a string, got number")
    refused({ timeout = "1" }, "option 'timeout' must be a number or false, got string")
    refused({ timeout = true }, "option 'timeout' must be a number or false, got boolean")
    refused({ on_event = "x" }, "option 'on_event' must be a function, got string")
    refused({ env = { A = 1 } }, "option 'env.A' must be a string, got number")
    refused({ list = { "a", {} } }, "option 'list[2]' must be a string or whole number, got table")
    refused({ tls = { verify = "no" } }, "option 'tls.verify' must be a boolean, got string")
    refused({ volumes = { "x" } }, "option 'volumes[1]' must be a table, got string")
    refused({ volumes = { {} } }, "option 'volumes[1].path' is missing")
    refused({ connection = {} }, "option 'connection' must be a connection, got table")
    refused("x", "the options of test:call must be a table, got string")
  end)

  it("takes finite numbers and sane tables only", function()
    for _, value in ipairs { 1 / 0, -1 / 0, -1 } do
      refused({ timeout = value }, "option 'timeout' must be a finite number of seconds, not negative")
    end
    refused({ timeout = 0 / 0 }, "option 'timeout' must be a finite number of seconds, not negative")
    refused({ count = 1.5 }, "option 'count' must be a whole number")
    refused({ env = { "x" } }, "option 'env' must have names (strings) as keys")
    refused({ list = { a = "x" } }, "option 'list' must be a list without holes or named fields")
    refused({ list = { [1] = "x", [3] = "y" } }, "option 'list' must be a list without holes or named fields")
  end)

  it("refuses control characters where they would end up in headers, and does not repeat the value", function()
    refused({ key = "secret\r\nX: y" }, "option 'key' must not contain control characters")
  end)

  it("knows what cannot go together and what needs what", function()
    refused({ range = { 1 }, offset = 1 }, "options 'range' and 'offset' cannot be used together")
    refused({ gid = 1 }, "option 'gid' needs 'uid'")
    assert.equal(1, check { gid = 1, uid = 0 }.gid)
  end)

  it("takes callable objects as functions", function()
    local object = setmetatable({}, { __call = function() end })
    assert.equal(object, check { on_event = object }.on_event)
  end)

  it("raises at the user's line, however deep the method is wrapped", function()
    -- The wrapper stands for the library's methods: it has the name of a file in the library's folder.
    local folder = debug.getinfo(check, "S").source:match("^(.*)options%.lua$")
    local compile = loadstring or load
    local wrapper = compile("local check = ...\nreturn function(t) local opts = check(t)\n return opts end", folder .. "any.lua")(check)
    local user = compile("local f = ...\n\nlocal opts = f{timout=1}\nreturn opts", "@user.lua")
    local ok, message = pcall(user, wrapper)
    assert.is_false(ok)
    assert.equal("user.lua:3: unknown option 'timout' (did you mean 'timeout'?)", message)
  end)

  it("checks single arguments", function()
    assert.equal("x", options.argument("path", "x", "string"))
    local ok, message = pcall(options.argument, "path", nil, "string")
    assert.is_false(ok)
    assert.matches("path must be a string, got nil", message, 1, true)
  end)
end)
