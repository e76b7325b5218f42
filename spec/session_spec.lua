-- Shell sessions on the embedded runtime.
local opensandbox = require "opensandbox"

describe("a session", function()
  local box

  setup(function()
    box = assert(opensandbox.create { image = os.getenv "OPEN_SANDBOX_IMAGE" })
  end)

  teardown(function()
    box:kill()
    box:close()
  end)

  it("keeps its working directory and exported variables", function()
    local session = assert(box.commands:create_session { cwd = "/tmp" })
    assert.equal("userdata", type(session))
    assert.equal("/tmp", assert(session:run "pwd").stdout)
    assert(session:run "export A='1 2'; B=3; cd /var")
    assert.equal("/var\n1 2 []", assert(session:run "pwd; echo \"$A [$B]\"").stdout)
    assert.equal("/usr", assert(session:run("pwd", { cwd = "/usr" })).stdout)
    assert.is_true(session:delete())
  end)

  it("is apart from other sessions", function()
    local one, two = assert(box.commands:create_session()), assert(box.commands:create_session())
    assert(one:run "export X=one; cd /tmp")
    assert(two:run "export X=two; cd /usr")
    assert.equal("one /tmp", assert(one:run "echo $X $PWD").stdout)
    assert.equal("two /usr", assert(two:run "echo $X $PWD").stdout)
    one:delete()
    two:delete()
  end)

  it("goes on after a failure and after a time-out", function()
    local session = assert(box.commands:create_session())
    assert(session:run "export KEPT=yes")
    local failed = assert(session:run "exit 7")
    assert.equal(7, failed.exit_code)
    assert.equal("7", failed.error.value)
    local result, err = session:run("sleep 71", { timeout = 0.2 })
    assert.is_nil(result)
    assert.equal("timeout", err.code)
    assert.equal("yes", assert(session:run "echo $KEPT").stdout)
    assert.equal("0", assert(box.commands:run("pgrep -cf 'sleep 7[1]' || true")).stdout)
    session:delete()
  end)

  it("merges stderr into stdout, in order", function()
    local session = assert(box.commands:create_session())
    local result = assert(session:run "echo 1; echo 2 >&2; echo 3")
    assert.equal("1\n2\n3", result.stdout)
    assert.equal("", result.stderr)
    session:delete()
  end)

  it("delivers lines while its command runs, and is busy meanwhile", function()
    local session = assert(box.commands:create_session())
    assert(box.commands:run "mkfifo /tmp/session-go")
    local busy
    local result = assert(session:run("echo first; read line < /tmp/session-go; echo $line", { on_stdout = function(text)
      if text ~= "first" then return end
      busy = select(2, session:run "echo meanwhile")
      assert(box.commands:run "echo second > /tmp/session-go")
    end }))
    assert.equal("first\nsecond", result.stdout)
    assert.equal("conflict", busy.code)
    session:delete()
  end)

  it("is left running when a handler fails: only the connection is dropped", function()
    local session = assert(box.commands:create_session())
    local result, err = session:run("export STILL=here; echo x", { on_stdout = function() error("no") end })
    assert.is_nil(result)
    assert.equal("handler", err.code)
    local again
    repeat again, err = session:run "echo $STILL" until again or err.code ~= "conflict"
    assert.is_not_nil(again)
    session:delete()
  end)

  it("that is deleted or unknown is not_found", function()
    local session = assert(box.commands:create_session())
    local id = session.id
    assert.is_true(session:delete())
    assert.equal("not_found", select(2, session:delete()).code)
    assert.has_error(function() session:run "true" end)
    assert.equal("not_found", select(2, box.commands:run_in_session(id, "true")).code)
    assert.equal("not_found", select(2, box.commands:delete_session(id)).code)
    assert.equal("not_found", select(2, box.commands:attach_session("no-such"):run("true")).code)
  end)

  it("takes the same options as commands, but those of a single process", function()
    local session = assert(box.commands:create_session())
    local function raises(option)
      local ok, problem = pcall(session.run, session, "true", { [option] = option == "env" and {} or 1 })
      assert.is_false(ok)
      assert.truthy(problem:find("unknown option '" .. option, 1, true))
    end
    raises "env"
    raises "uid"
    raises "stdin"
    raises "background"
    assert.equal("command_failed", select(2, session:run("false", { check = true })).code)
    session:delete()
  end)

  if _VERSION == "Lua 5.4" then
    it("is deleted by <close> when this handle created it", function()
      local body = assert(load [[
        local box = ...
        local session <close> = assert(box.commands:create_session())
        do local attached <close> = box.commands:attach_session(session.id) end
        assert(session:run "true")
        return session.id
      ]])
      local id = body(box)
      assert.equal("not_found", select(2, box.commands:delete_session(id)).code)
    end)
  end
end)
