-- Commands on the embedded runtime.
local opensandbox = require "opensandbox"

describe("commands", function()
  local box

  setup(function()
    box = assert(opensandbox.create { image = os.getenv "OPEN_SANDBOX_IMAGE" })
  end)

  teardown(function()
    box:kill()
    box:close()
  end)

  local function run(command, opts)
    return assert(box.commands:run(command, opts))
  end

  it("give output, exit code and times", function()
    local result = run "echo out; echo err >&2"
    assert.equal("out", result.stdout)
    assert.equal("err", result.stderr)
    assert.equal(0, result.exit_code)
    if math.type then assert.equal("integer", math.type(result.exit_code)) end
    assert.is_false(result.truncated)
    assert.equal("string", type(result.id))
    assert.is_true(result.complete.execution_time >= 0)
    assert.is_true(math.abs(result.complete.timestamp - os.time()) < 60)
    assert.equal("out", result.text)
    assert.equal(1, #result.logs.stdout)
  end)

  for _, case in ipairs {
    { "exit 0", 0 }, { "exit 7", 7 }, { "exit 255", 255 }, { "no-such-command-here", 127 }, { "false", 1 },
    { "kill -9 $$", 137, "SIGKILL" }, { "kill -TERM $$", 143, "SIGTERM" }, { "kill -SEGV $$", 139, "SIGSEGV" },
  } do
    it(("'%s' has exit code %d"):format(case[1], case[2]), function()
      local result = run(case[1])
      assert.equal(case[2], result.exit_code)
      assert.equal(case[3], result.signal)
      assert.equal(case[2] ~= 0, result.error ~= nil)
      assert.equal(case[2] == 0, result.complete ~= nil)
    end)
  end

  it("name the command that is not known", function()
    assert.truthy(run("no-such-command-here").stderr:find("no-such-command-here", 1, true))
  end)

  for name, case in pairs {
    ["several lines"] = { "printf 'a\\nb\\nc\\n'", "a\nb\nc" },
    ["no final newline"] = { "printf 'a\\nb'", "a\nb" },
    ["blank lines"] = { "printf 'a\\n\\n\\nb\\n'", "a\n\n\nb" },
    ["only a newline"] = { "echo", "" },
    ["nothing"] = { "true", "" },
    ["carriage returns, which end lines too"] = { "printf 'a\\rb\\r\\nc\\n'", "a\nb\nc" },
    ["bytes that are not UTF-8, as U+FFFD"] = { "printf 'a\\377b\\n'", "a\239\191\189b" },
    ["NUL"] = { "printf 'a\\000b\\n'", "a\0b" },
    ["quotes, controls and letters of every length"] = { [[printf '"\\\\\t\001é€😀</script>&\n']], "\"\\\\\t\1é€😀</script>&" },
  } do
    it("keep " .. name, function()
      assert.equal(case[2], run(case[1]).stdout)
    end)
  end

  it("keep a line of 1 MB", function()
    local result = run "head -c 1000000 /dev/zero | tr '\\0' x; echo"
    assert.equal(1000000, #result.stdout)
    assert.is_nil(result.stdout:find("[^x]"))
  end)

  it("keep 200 000 lines in order", function()
    local lines, expected = 0, true
    local result = run("seq 200000", { on_stdout = function(text)
      lines = lines + 1
      expected = expected and text == tostring(lines)
    end })
    assert.equal(200000, lines)
    assert.is_true(expected)
    assert.equal(1288894, #result.stdout)
    assert.equal(200000, #result.logs.stdout)
  end)

  it("are quoted safely as lists", function()
    local words = { "printf", "%s|", "a b", "c'd", "$HOME", "`x`", "", "é\\n", "*" }
    assert.equal("a b|c'd|$HOME|`x`||é\\n|*|", run(words).stdout)
  end)

  it("see the environment that was given, and only then", function()
    assert.equal("[]", run("echo [$SPEC_X]").stdout)
    assert.equal("[y z]", run("echo [$SPEC_X]", { env = { SPEC_X = "y z" } }).stdout)
    assert.equal("[]", run("echo [$SPEC_X]").stdout)
  end)

  it("run where they should; a missing directory is an error before anything runs", function()
    assert.equal("/tmp", run("pwd", { cwd = "/tmp" }).stdout)
    local result, err = box.commands:run("touch /tmp/must-not-be", { cwd = "/no/such/dir" })
    assert.is_nil(result)
    assert.equal("invalid", err.code)
    assert.is_false(box.files:exists("/tmp/must-not-be"))
  end)

  it("get stdin, which leaves no file behind", function()
    local bytes = "line\n\0\255end"
    assert.equal(("%d"):format(#bytes), run("wc -c", { stdin = bytes }).stdout:match("%d+"))
    assert.equal("x", run("cat", { stdin = "x" }).stdout)
    assert.equal("", run("cat", { stdin = "" }).stdout)
    assert.equal(5, run("exit 5", { stdin = "unread" }).exit_code)
    assert.equal("0", run("ls -A /tmp | grep -c opensandbox-stdin").stdout)
    assert.equal("nothing", run("cat; echo nothing").stdout) -- without stdin there is none, and no waiting for it
  end)

  it("are ended at their time-out, with their children", function()
    local result, err = box.commands:run("echo begun; sleep 61 & sleep 61", { timeout = 0.3 })
    assert.is_nil(result)
    assert.equal("timeout", err.code)
    assert.equal("begun", err.partial.stdout)
    assert.equal("0", run("pgrep -c '^sleep$' || true").stdout)
  end)

  it("end with their own process, not with what they leave in the background", function()
    local result = run "sleep 62 & echo started"
    assert.equal("started", result.stdout)
    run "pkill -f 'sleep 6[2]'"
  end)

  it("are interrupted when a handler fails; the next call works", function()
    local result, err = box.commands:run("echo 1; exec sleep 63", { on_stdout = function() error("enough") end })
    assert.is_nil(result)
    assert.equal("handler", err.code)
    assert.truthy(err.traceback:find("commands_spec.lua", 1, true))
    assert.equal("0", run("pgrep -cf 'sleep 6[3]' || true").stdout)
  end)

  it("fail with check = true when the exit code is not 0", function()
    local result, err = box.commands:run("echo why >&2; exit 3", { check = true })
    assert.is_nil(result)
    assert.equal("command_failed", err.code)
    assert.equal(3, err.partial.exit_code)
    assert.truthy(err.message:find("why", 1, true))
    assert.truthy(run("true", { check = true }))
  end)

  it("keep apart what two of them write at once", function()
    local results = assert(opensandbox.gather {
      function() return run("for i in 1 2 3 4 5; do echo a; sleep 0.01; done").stdout end,
      function() return run("for i in 1 2 3 4 5; do echo b; sleep 0.01; done").stdout end,
    })
    assert.same({ "a\na\na\na\na", "b\nb\nb\nb\nb", n = 2 }, results)
  end)

  it("run as another user where the runtime has more than one", function()
    local result, err = box.commands:run("id -u; id -g", { uid = 1000, gid = 1000 })
    if result then
      assert.equal("1000\n1000", result.stdout)
      assert.equal("fed", run("cat", { uid = 1000, stdin = "fed" }).stdout)
    else
      assert.truthy(err.message:find("uid", 1, true))
    end
  end)

  it("raise for misuse, at the user's line", function()
    local function raises(pattern, fn)
      local ok, problem = pcall(fn)
      assert.is_false(ok)
      assert.truthy(tostring(problem):find(pattern, 1, true), problem)
      assert.truthy(tostring(problem):find("commands_spec.lua", 1, true), problem)
    end
    raises("did you mean 'timeout'?", function() box.commands:run("x", { timout = 1 }) end)
    raises("'gid' needs 'uid'", function() box.commands:run("x", { gid = 1 }) end)
    raises("command must", function() box.commands:run(5) end)
    raises("command must", function() box.commands:run({}) end)
    raises("command must", function() box.commands:run("  ") end)
    raises("command[2] must", function() box.commands:run({ "echo", {} }) end)
    raises("opensandbox.commands expected", function() box.commands.run(box.files, "x") end)
    raises("must be a number", function() box.commands:run("x", { timeout = "5" }) end)
    raises("must be a finite number", function() box.commands:run("x", { timeout = 0 / 0 }) end)
    assert.has_error(function() return box.files:run("x") end)
  end)

  describe("exec", function()
    it("takes a program and its arguments, or a shell string", function()
      local result = assert(box.commands:exec("printf", { "%s %s", "a b", "c" }))
      assert.equal("a b c", result.output)
      assert.equal(0, result.exit_code)
      assert.equal(4, assert(box.commands:exec("exit 4")).exit_code)
      assert.has_error(function() box.commands:exec("x", nil, { background = true }) end)
    end)
  end)

  describe("stream", function()
    it("hands out live events, and the result after them", function()
      local stream = assert(box.commands:stream("echo 1; echo 2 >&2; exit 4"))
      assert.equal("userdata", type(stream))
      local seen = {}
      for event in stream:events() do
        if event.type ~= "ping" then seen[#seen + 1] = event.type .. "=" .. tostring(event.text) end
      end
      assert.equal(4, #seen)
      assert.truthy(seen[1]:find("^init="))
      assert.equal("error=nil", seen[4])
      assert.equal(4, assert(stream:result()).exit_code)
      assert.is_nil(stream:next())
    end)

    it("delivers lines while the command runs", function()
      local stream = assert(box.commands:stream("echo first; read line < /tmp/go; echo $line"))
      -- the fifo makes the command wait until its first line was seen
      stream:cancel()
      run "rm -f /tmp/go; mkfifo /tmp/go"
      stream = assert(box.commands:stream("echo first; read line < /tmp/go; echo $line"))
      for event in stream:events() do
        if event.type == "stdout" and event.text == "first" then run "echo second > /tmp/go" end
      end
      assert.equal("first\nsecond", assert(stream:result()).stdout)
      run "rm /tmp/go"
    end)

    it("interrupts the command when it is left early", function()
      local stream = assert(box.commands:stream("echo up; exec sleep 64"))
      while stream:next().type ~= "stdout" do end
      stream:cancel()
      assert.equal("0", run("pgrep -cf 'sleep 6[4]' || true").stdout)
      assert.equal("cancelled", select(2, stream:result()).code)
    end)

    if _VERSION == "Lua 5.4" then
      it("interrupts the command when its loop is broken off", function()
        local stream = assert(box.commands:stream("echo up; exec sleep 65"))
        for event in stream:events() do
          if event.type == "stdout" then break end
        end
        assert.equal("0", run("pgrep -cf 'sleep 6[5]' || true").stdout)
      end)
    end
  end)

  describe("in the background", function()
    it("tell their status and their log, byte by byte", function()
      local job = assert(box.commands:start("printf 'a\\n\\n\\377'; read x < /tmp/hold; printf b; exit 6", {}))
      job:interrupt()
      run "rm -f /tmp/hold; mkfifo /tmp/hold"
      job = assert(box.commands:start "printf 'a\\n\\n\\377'; read x < /tmp/hold; printf b; exit 6")
      local status = assert(job:status())
      assert.is_true(status.running)
      assert.is_nil(status.exit_code)
      local got, cursor = "", 0
      while #got < 4 do
        local part = assert(job:output { cursor = cursor })
        got, cursor = got .. part.output, part.cursor
      end
      assert.equal("a\n\n\255", got)
      assert.equal("", assert(job:output { cursor = cursor }).output)
      run "echo > /tmp/hold"
      status = assert(job:wait { timeout = 20 })
      assert.equal(6, status.exit_code)
      assert.is_false(status.running)
      assert.is_true(status.finished_at >= status.started_at)
      local rest = assert(box.commands:output(job.id, { cursor = cursor }))
      assert.equal("b", rest.output)
      assert.equal(6, rest.exit_code)
      assert.equal("a\n\n\255b", assert(box.commands:output(job.id)).output)
    end)

    it("are followed to their end", function()
      local job = assert(box.commands:start "for i in 1 2 3; do echo line $i; sleep 0.02; done; printf end; exit 3")
      local pieces = {}
      local status = assert(job:follow(function(bytes) pieces[#pieces + 1] = bytes end))
      assert.equal("line 1\nline 2\nline 3\nend", table.concat(pieces))
      assert.equal(3, status.exit_code)
    end)

    it("give an error of the function that follows them back", function()
      local job = assert(box.commands:start "echo x; exec sleep 66")
      local status, err = job:follow(function() error("no more") end)
      assert.is_nil(status)
      assert.equal("handler", err.code)
      assert.is_true(job:interrupt())
      assert.equal(143, assert(job:wait()).exit_code)
      assert.equal("SIGTERM", assert(job:status()).signal)
    end)

    it("are waited for as long as is wanted", function()
      local job = assert(box.commands:start "exec sleep 67")
      local status, err = job:wait { timeout = 0.05 }
      assert.is_nil(status)
      assert.equal("timeout", err.code)
      assert.is_true(job:interrupt())
      assert.is_true(job:interrupt()) -- what has ended is interrupted
    end)

    it("are known by their id", function()
      local job = assert(box.commands:start "exit 0")
      local again = box.commands:attach(job.id)
      assert.equal(0, assert(again:wait()).exit_code)
      assert.equal(0, assert(box.commands:status(job.id)).exit_code)
    end)

    it("have no exit code to return", function()
      assert.is_nil(run("exit 3", { background = true }).exit_code)
    end)
  end)

  it("that nobody knows are not_found", function()
    for _, call in ipairs { "status", "interrupt", "output" } do
      local result, err = box.commands[call](box.commands, "00000000000000000000000000000000")
      assert.is_nil(result)
      assert.equal("not_found", err.code, call)
    end
  end)

  it("of a killed sandbox fail, and after close they raise", function()
    local other = assert(opensandbox.create { image = os.getenv "OPEN_SANDBOX_IMAGE" })
    local commands = other.commands
    assert.is_true(other:kill())
    local result, err = commands:run("true")
    assert.is_nil(result)
    assert.truthy(err.code == "not_found" or err.code == "connect", err.code)
    other:close()
    assert.has_error(function() commands:run("true") end)
  end)
end)
