-- Terminals. The first part runs on the embedded runtime; with OPENSANDBOX_TEST_EXECD=host:port, on any execd there. The original one
-- sends the exit code without waiting for the shell's last output, which is then lost: where that matters, shells here end a bit later.
-- The second part has a scripted server for what a good one does not do.
local core = require "opensandbox.core"
local faults = require "spec.support.faults"
local json = require "opensandbox.json"
local opensandbox = require "opensandbox"

local SECONDS = 20

--- Reads until the output has all of `pattern`, and returns it.
local function read_until(pty, pattern)
  local output = ""
  repeat
    local bytes, err = pty:read(SECONDS)
    if not bytes then error(("no %q in %q: %s"):format(pattern, output, tostring(err)), 2) end
    output = output .. bytes
  until output:find(pattern)
  return output
end

--- Reads to the end. Returns what came on each channel.
local function read_all(pty)
  local output = { stdout = "", stderr = "", replay = "" }
  while true do
    local bytes, channel = pty:read(SECONDS)
    if not bytes then return output, channel end
    output[channel] = output[channel] .. bytes
  end
end

local function raises(pattern, fn, ...)
  local ok, problem = pcall(fn, ...)
  assert.is_false(ok)
  assert.truthy(tostring(problem):find(pattern, 1, true), tostring(problem))
end

describe("a terminal", function()
  local box, server, missing
  local execd = os.getenv "OPENSANDBOX_TEST_EXECD"

  setup(function()
    if execd then
      server = faults.start()
      local sandbox = faults.sandbox_routes(server)
      server:route("GET", "/v1/sandboxes/" .. sandbox.id .. "/endpoints/44772", faults.json(200, { endpoint = execd }))
      box = assert(opensandbox.create(sandbox.options(opensandbox)))
    else
      box = assert(opensandbox.create())
    end
    local _, err = box.pty:status "no-such-terminal"
    missing = err.code == "unsupported"
  end)

  teardown(function()
    box:kill()
    box:close()
    if server then server:stop() end
  end)

  local function test(name, body)
    it(name, function()
      if missing then return pending "this execd has no terminals" end
      body()
    end)
  end

  test("shows what is typed and what comes of it, at the size asked for", function()
    local pty = assert(box.pty:open { cwd = "/tmp", cols = 100, rows = 30 })
    assert.equal("userdata", type(pty))
    assert.equal("opensandbox.pty: " .. pty.id, tostring(pty))
    assert.is_true(pty.tty)
    assert.is_true(pty:write "echo $((6*7)) in $PWD; stty size; sleep 0.3; exit 3\n")
    local output, err = read_all(pty)
    assert.is_nil(err)
    assert.truthy(output.stdout:find("42 in /tmp\r\n", 1, true), output.stdout)
    assert.truthy(output.stdout:find("30 100\r\n", 1, true), output.stdout)
    assert.equal("", output.stderr)
    assert.equal(3, pty:wait())
    assert.equal(#output.stdout, pty.offset)
    assert.equal("closed", select(2, pty:write "x").code)
    assert.equal("closed", select(2, pty:resize(10, 10)).code)
    assert.is_true(pty:close())
    assert.is_true(box.pty:delete(pty.id))
  end)

  test("is 80x24, runs a command of its own, and is resized", function()
    local script = "stty size; read line; stty size; echo \"$1\"; sleep 0.3"
    local pty = assert(box.pty:open { command = { "bash", "--norc", "-c", script, "-", "a  'b" } })
    assert.truthy(read_until(pty, "\n"):find("24 80", 1, true))
    assert.is_true(pty:resize(132, 43))
    assert.is_true(pty:write "\n")
    local output = read_all(pty).stdout
    assert.truthy(output:find("43 132", 1, true), output)
    assert.truthy(output:find("a  'b", 1, true), output)
    assert.equal(0, pty:wait())
    assert.is_true(pty:delete())
    assert.equal("not_found", select(2, pty:delete()).code)
  end)

  test("without tty has pipes: stderr apart, bytes as they are, no size", function()
    local pty = assert(box.pty:open { tty = false, command = "printf 'a\\0\\377\\n'; echo err >&2; sleep 0.3; exit 7" })
    local output = read_all(pty)
    assert.is_false(pty.tty)
    assert.equal("a\0\255\n", output.stdout)
    assert.equal("err\n", output.stderr)
    assert.equal(7, pty:wait())
    assert.equal("unsupported", select(2, pty:resize(10, 10)).code)
    pty:delete()
  end)

  test("takes input of any length while its output comes back", function()
    local size = 3000000
    local pty = assert(box.pty:open { tty = false, command = ("head -c %d; read go"):format(size) })
    local input = {}
    for i = 1, size / 100 do input[i] = ("%099d\n"):format(i) end
    input = table.concat(input)
    assert.is_true(pty:write(input))
    local output = {}
    repeat output[#output + 1] = assert(pty:read(SECONDS)) until pty.offset == size
    assert.is_true(table.concat(output) == input)
    assert.is_true(pty:write "\n")
    assert.equal(0, pty:wait(SECONDS))
    pty:delete()
  end)

  test("passes signals on", function()
    local pty = assert(box.pty:open { command = "trap 'echo got it; read go; exit 5' TERM; echo ready; while :; do sleep 0.05; done" })
    read_until(pty, "ready")
    assert.is_true(pty:signal "SIGTERM")
    read_until(pty, "got it")
    assert.is_true(pty:write "\n")
    assert.equal(5, pty:wait(SECONDS))
    pty:delete()
    pty = assert(box.pty:open { command = "echo ready; exec sleep 72" })
    read_until(pty, "ready")
    assert.is_true(pty:signal "SIGKILL")
    assert.is_true(pty:wait(SECONDS) ~= 0)
    pty:delete()
  end)

  test("goes on when it is closed, and shows on attach what was written since", function()
    local pty = assert(box.pty:open())
    assert.is_true(pty:write "echo fir''st\n")
    read_until(pty, "first\r\n.*[#$] $")
    local offset = pty.offset
    assert.equal(offset, box.pty:status(pty.id).output_offset)
    assert.is_true(box.pty:status(pty.id).running)
    assert.is_true(pty:write "X=kept; sleep 0.2; echo seco''nd\n")
    assert.is_true(pty:close())
    assert.is_true(pty:close())
    raises("use of a closed pty", pty.write, pty, "x")

    local again, err
    repeat again, err = box.pty:attach(pty.id, { since = offset }) until again or err.code ~= "conflict"
    assert(again, err)
    local output = read_until(again, "second\r\n")
    assert.is_nil(output:find("first", 1, true))
    again:close()
    repeat again, err = box.pty:attach(pty.id) until again or err.code ~= "conflict"
    local bytes, channel = again:read(SECONDS)
    assert.equal("replay", channel)
    assert.truthy(bytes:find("first\r\n.*second\r\n"))
    assert.is_true(again:write "echo $X; sleep 0.3; exit\n")
    assert.truthy(read_all(again).stdout:find("kept\r\n", 1, true))
    assert.equal(0, again:wait())
    assert.is_true(again:delete())
    assert.equal("not_found", select(2, box.pty:status(pty.id)).code)
    assert.equal("not_found", select(2, box.pty:attach(pty.id)).code)
    assert.equal("not_found", select(2, box.pty:delete(pty.id)).code)
  end)

  test("has one client at a time, which another may take over from", function()
    local first = assert(box.pty:open())
    local second, err = box.pty:attach(first.id)
    assert.is_nil(second)
    assert.equal("conflict", err.code)
    assert.equal("ALREADY_CONNECTED", err.api_code)
    second = assert(box.pty:attach(first.id, { takeover = true }))
    local _
    _, err = first:wait(SECONDS)
    assert.equal("closed", err.code)
    assert.truthy(err.message:find("took the terminal over", 1, true))
    repeat _, err = first:read(SECONDS) until not _
    assert.equal("closed", err.code)
    assert.equal("closed", select(2, first:write "x").code)
    assert.is_true(second:write "exit 9\n")
    assert.equal(9, second:wait(SECONDS))
    second:delete()
  end)

  test("calls handlers in a task of its own, all of them before wait returns", function()
    local output, codes = { stdout = {}, stderr = {} }, {}
    local pty = assert(box.pty:open {
      tty = false, command = "cat; echo bye >&2; exit 4",
      on_output = function(bytes, channel)
        opensandbox.sleep(0.001) -- may wait
        table.insert(output[channel], bytes)
      end,
      on_exit = function(code) codes[#codes + 1] = code end,
    })
    raises("on_output", pty.read, pty)
    local input = ("line of input\n"):rep(20000)
    assert.is_true(pty:write(input))
    assert(box.pty:status(pty.id))
    pty:signal "SIGTERM" -- ends cat and the shell
    assert.is_number(pty:wait(SECONDS))
    assert.equal(1, #codes)
    local got = table.concat(output.stdout)
    assert.equal(input:sub(1, #got), got)
    pty:delete()

    local lines = {}
    pty = assert(box.pty:open { on_output = function(bytes) lines[#lines + 1] = bytes end })
    assert.is_true(pty:write "echo $((7*6)); sleep 0.3; exit 2\n")
    assert.equal(2, pty:wait(SECONDS))
    assert.truthy(table.concat(lines):find("42\r\n", 1, true))
    pty:delete()
  end)

  test("tells on_exit also where its output is read", function()
    local code
    local pty = assert(box.pty:open {
      tty = false, command = "head -c 3000000 /dev/zero; sleep 0.3; exit 6", on_exit = function(c) code = c end,
    })
    assert.equal(3000000, #read_all(pty).stdout)
    assert.equal(6, pty:wait(SECONDS))
    assert.equal(6, code)
    pty:delete()
  end)

  test("ends with a handler that fails; whoever asks is told why", function()
    local pty = assert(box.pty:open { on_output = function() error "no thanks" end })
    local code, err = pty:wait(SECONDS)
    assert.is_nil(code)
    assert.equal("handler", err.code)
    assert.truthy(err.message:find("no thanks", 1, true))
    assert.truthy(err.traceback:find("pty_spec.lua", 1, true))
    assert.equal("handler", select(2, pty:write "x").code)
    assert.is_true(box.pty:status(pty.id).running)
    pty:delete()
  end)

  test("keeps the last of its output where it is only waited for", function()
    local pty = assert(box.pty:open { tty = false, command = "head -c 5000000 /dev/zero; echo the end; sleep 0.3" })
    assert.equal(0, pty:wait(SECONDS))
    local output = read_all(pty).stdout
    assert.truthy(output:find "the end\n$")
    assert.is_true(#output < 2000000)
    pty:delete()
  end)

  test("serves several at once, each in a task", function()
    local functions = {}
    for i = 1, 5 do
      functions[i] = function()
        local pty = assert(box.pty:open { tty = false, command = "read x; echo got $x; read y; exit $x" })
        assert(pty:write(i .. "\n"))
        local output = read_until(pty, "\n")
        assert(pty:write "\n")
        local code = assert(pty:wait(SECONDS))
        pty:delete()
        return code .. " " .. output
      end
    end
    local results = assert(opensandbox.gather(functions))
    for i = 1, 5 do assert.equal(("%d got %d\n"):format(i, i), results[i]) end
  end)

  test("stops at time-outs and goes on after them", function()
    local pty = assert(box.pty:open { tty = false, command = "read x; exit $x" })
    assert.equal("timeout", select(2, pty:read(0.01)).code)
    assert.equal("timeout", select(2, pty:wait(0.01)).code)
    assert.is_true(pty:write "8\n")
    assert.equal(8, pty:wait(SECONDS))
    pty:delete()
  end)

  test("leaves no descriptor, source or task behind", function()
    local function count()
      collectgarbage()
      collectgarbage()
      local descriptors = 0
      for _ in io.popen("ls /proc/" .. assert(io.open "/proc/self/stat"):read("*n") .. "/fd"):lines() do descriptors = descriptors + 1 end
      return descriptors, core.loop():sources()
    end
    local function use(opts)
      local pty = assert(box.pty:open(opts))
      pty:write "exit\n"
      pty:wait(SECONDS)
      pty:delete()
      assert.equal("not_found", select(2, box.pty:attach "no-such").code)
    end
    use()
    local before, sources = count()
    for _ = 1, 5 do
      use()
      use { on_output = function() end }
      assert(box.pty:open()):delete()
    end
    local after, sources_after = count()
    assert.is_true(after <= before + 1, ("%d descriptors, then %d"):format(before, after)) -- libcurl may keep a connection more
    assert.equal(sources, sources_after)
  end)

  if _VERSION == "Lua 5.4" then
    test("is deleted by <close> when this handle opened it", function()
      local id = assert(load [[
        local box = ...
        local pty <close> = assert(box.pty:open())
        return pty.id
      ]])(box)
      assert.equal("not_found", select(2, box.pty:status(id)).code)
    end)
  end

  it("checks its options", function()
    local open = function(opts) box.pty:open(opts) end
    raises("'cols' needs 'rows'", open, { cols = 80 })
    raises("from 1 to 65535", open, { cols = 0, rows = 24 })
    raises("need a terminal", open, { tty = false, cols = 80, rows = 24 })
    raises("did you mean 'cols'?", open, { colz = 80 })
    raises("'since' must not be negative", open, { since = -1 })
    raises("'on_output' must be a function", open, { on_output = true })
    raises("command must not be empty", open, { command = " " })
    raises("unknown option 'cwd'", function() box.pty:attach("id", { cwd = "/" }) end)
    raises("id must not be empty", function() box.pty:attach "" end)
    raises("opensandbox.terminals expected", function() box.pty.open(box, {}) end)
  end)
end)

describe("a terminal of a faulty server", function()
  local server, sandbox, box

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)
  before_each(function()
    server:reset()
    sandbox = faults.sandbox_routes(server)
    box = assert(opensandbox.create(sandbox.options(opensandbox, { request_timeout = 5, retry = false })))
    server:route("POST", "/execd/pty", faults.json(201, { session_id = "pty-1" }))
    server:route("DELETE", "/execd/pty/pty-1", faults.answer(200))
  end)
  after_each(function() box:close() end)

  local CONNECTED = faults.frame(faults.TEXT, '{"type":"connected","session_id":"pty-1","mode":"pty"}')

  --- What the terminal's connection gets: bytes, then steps.
  local function script(bytes, ...)
    server:route("GET", "/execd/pty/pty-1/ws", faults.join(faults.websocket(), { { send = bytes } }, { ... }, { { stall = true } }))
  end

  local function output(text, channel)
    return faults.frame(faults.BINARY, string.char(channel or 1) .. text)
  end

  local function text(message)
    return faults.frame(faults.TEXT, message)
  end

  it("is asked for as execd wants it", function()
    script(CONNECTED, { read_frames = 5 })
    local pty = assert(box.pty:open { cwd = "/w", command = { "a b", "c" }, since = 5, takeover = true })
    assert.same({ command = "'a b' c", cwd = "/w" }, json.decode(server:requests("/execd/pty")[1].body))
    assert.equal("pty=1&since=5&takeover=1", server:requests("/execd/pty/pty-1/ws")[1].query)
    pty:write "ls\n"
    pty:write(("x"):rep(40000))
    pty:signal "SIGHUP"
    local frames = server:await("/execd/pty/pty-1/ws", function(requests)
      local read = requests[1].frames or {}
      return #read == 5 and read
    end)
    assert.same({ type = "resize", cols = 80, rows = 24 }, json.decode(frames[1].payload))
    assert.equal("\0ls\n", frames[2].payload)
    assert.equal(40000 + 2, frames[3].size + frames[4].size)
    assert.same({ type = "signal", signal = "SIGHUP" }, json.decode(frames[5].payload))
    raises("signal must be", pty.signal, pty, "SIGUSR1")
    assert.equal(5, pty.offset)
  end)

  it("replays with an offset, before or after it is connected", function()
    script(output("\0\0\0\1\0\0\0\9old", 3) .. CONNECTED .. output "new")
    local pty = assert(box.pty:attach("pty-1", { since = 7 }))
    assert.same({ "old", "replay" }, { pty:read(SECONDS) })
    assert.same({ "new", "stdout" }, { pty:read(SECONDS) })
    assert.equal(2 ^ 32 + 9 + 6, pty.offset)
  end)

  it("that does not start leaves nothing behind", function()
    local function fails(code, pattern)
      local pty, err = box.pty:open { timeout = 0.3 }
      assert.is_nil(pty)
      assert.equal(code, err.code)
      assert.truthy(err.message:find(pattern, 1, true), err.message)
      return err
    end
    script(text '{"type":"error","code":"START_FAILED","error":"no bash here"}')
    assert.equal("START_FAILED", fails("api", "no bash here").api_code)
    script(text '{"type":"error","code":"ALREADY_CONNECTED","error":"takeover timed out"}')
    fails("conflict", "takeover timed out")
    script ""
    fails("timeout", "0.3 s")
    script(faults.frame(faults.CLOSE, faults.close_payload(1011, "broken")))
    fails("closed", "1011 broken")
    server:route("GET", "/execd/pty/pty-1/ws", faults.answer(502, "bad gateway"))
    fails("unavailable", "bad gateway")
    assert.equal(5, #server:requests("/execd/pty/pty-1"))
  end)

  it("that the server has none of is unsupported", function()
    server:route("POST", "/execd/pty", faults.answer(404, "404 page not found"))
    assert.equal("unsupported", select(2, box.pty:open()).code)
    server:route("POST", "/execd/pty", faults.json(501, { code = "NOT_SUPPORTED", message = "not on Windows" }))
    assert.equal("unsupported", select(2, box.pty:open()).code)
    server:route("POST", "/execd/pty", faults.json(201, {}))
    assert.equal("protocol", select(2, box.pty:open()).code)
  end)

  it("ends with what the server says, or with its connection, and keeps what came before", function()
    local function ends(code, bytes, ...)
      script(CONNECTED .. output "before" .. bytes, ...)
      local pty = assert(box.pty:attach "pty-1")
      local exit, err = pty:wait(SECONDS)
      assert.is_nil(exit)
      assert.equal(code, err.code)
      assert.equal("before", pty:read(SECONDS))
      assert.equal(code, select(2, pty:read(SECONDS)).code)
      assert.equal(code, select(2, pty:write "x").code)
      return err
    end
    assert.equal("TAKEN_OVER", ends("closed", faults.frame(faults.CLOSE, faults.close_payload(4001, "TAKEN_OVER"))).api_code)
    ends("closed", text '{"type":"error","code":"TAKEN_OVER","error":"taken over"}')
    ends("not_found", text '{"type":"error","code":"SESSION_GONE","error":"gone"}')
    ends("api", text '{"type":"error","code":"STDIN_WRITE_FAILED","error":"broken pipe"}')
    ends("truncated", "", { close = true })
    ends("protocol", faults.frame(faults.TEXT, "\255"))
  end)

  it("needs no closing frame behind the exit code", function()
    script(CONNECTED .. output "x" .. text '{"type":"exit","exit_code":3}' .. output "late")
    local pty = assert(box.pty:attach "pty-1")
    assert.equal(3, pty:wait(SECONDS))
    assert.equal("x", pty:read(SECONDS))
    assert.equal("late", pty:read(SECONDS))
    assert.same({ n = 2 }, { n = select("#", pty:read(SECONDS)), pty:read(SECONDS) })
    assert.equal(3, pty:wait())
    assert.is_true(pty:close())
  end)

  it("may say what nobody knows", function()
    script(CONNECTED .. text "{" .. text "[]" .. text "7" .. text '{"type":"news"}' .. text '{"type":"pong"}' .. output("", 9)
      .. faults.frame(faults.BINARY, "") .. output("short", 3) .. output "after")
    local pty = assert(box.pty:attach "pty-1")
    assert.equal("after", pty:read(SECONDS))
  end)

  it("drops the connection of a lost handle, but not of one with handlers", function()
    script(CONNECTED)
    assert(box.pty:attach "pty-1")
    collectgarbage()
    collectgarbage()
    server:await_abort("/execd/pty/pty-1/ws")

    server:reset()
    faults.sandbox_routes(server)
    script(CONNECTED, { wait = "go" }, { send = output "heard" .. text '{"type":"exit","exit_code":0}' })
    local heard, code
    assert(box.pty:attach("pty-1", { on_output = function(bytes) heard = bytes end, on_exit = function(c) code = c end }))
    collectgarbage()
    collectgarbage()
    server:release "go"
    server:await("/execd/pty/pty-1/ws", function() return code end)
    assert.same({ "heard", 0 }, { heard, code })
  end)

  it("calls no handler after close, also when a handler closes it", function()
    script(CONNECTED .. output "1" .. output "2" .. output "3" .. text '{"type":"exit","exit_code":0}')
    local seen, pty = {}, nil
    pty = assert(box.pty:attach("pty-1", {
      on_output = function(bytes)
        seen[#seen + 1] = bytes
        if bytes == "2" then pty:close() end
      end,
      on_exit = function() seen[#seen + 1] = "exit" end,
    }))
    server:await_abort("/execd/pty/pty-1/ws")
    assert.same({ "1", "2" }, seen)
    assert.is_true(core.is_closed(pty))
  end)

  it("wakes who waits when another task closes it", function()
    script(CONNECTED)
    local pty = assert(box.pty:attach "pty-1")
    local reads = opensandbox.spawn(function() return pty:read() end)
    local waits = opensandbox.spawn(function() return pty:wait() end)
    opensandbox.sleep(0.001)
    assert.is_true(pty:close())
    assert.equal("closed", select(2, reads:join(SECONDS)).code)
    assert.equal("closed", select(2, waits:join(SECONDS)).code)
  end)
end)
