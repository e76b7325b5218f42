local agent_server = require "spec.support.agent_server"
local opensandbox = require "opensandbox"

local missing = agent_server.missing()

describe("the other parts of the server", missing and function() it("needs the server", function() pending(missing) end) end or function()
  local agents, home

  setup(function() agents, home = agent_server.start() end)
  teardown(function()
    agents:close()
    agent_server.clean()
  end)

  it("tells of its agents", function()
    local seen = {}
    for _, info in ipairs(assert(agents:agents { config = true, no_cache = true })) do seen[info.id] = info end
    assert.is_true(seen.codex.installed)
    assert.is_false(seen.amp.installed)
    assert.equal("boolean", type(seen.codex.capabilities.tool_calls))
    assert.truthy(seen.codex.config_options[1].currentValue)
    assert.equal("codex", assert(agents:agent "codex").id)
    local none, err = agents:agent "nobody"
    assert.is_nil(none)
    assert.equal("unsupported_agent", err.api_code)
    local installed = assert(agents:install "codex")
    assert.is_true(installed.already_installed)
    assert(agents:create_session { agent = "opencode" })
    local servers = assert(agents:servers())
    assert.equal("opencode", servers[1].agent)
    assert.truthy(servers[1].created_at > 1.6e9 and servers[1].created_at < 1e11)
  end)

  describe("files", function()
    local files, dir
    setup(function() files, dir = agents.files, home .. "/files" end)

    it("are written, read, described, listed, moved and deleted", function()
      local bytes = "\0\255 bytes \r\n"
      local written = assert(files:write(dir .. "/deep/a.bin", bytes))
      assert.same({ dir .. "/deep/a.bin", #bytes }, { written.path, written.bytes_written })
      assert.equal(bytes, assert(files:read(dir .. "/deep/a.bin")))
      local stat = assert(files:stat(dir .. "/deep/a.bin"))
      assert.same({ "file", #bytes }, { stat.entry_type, stat.size })
      assert.truthy(stat.modified > 1.6e9)
      assert(files:write(dir .. "/deep/empty", ""))
      local entries = assert(files:entries(dir .. "/deep"))
      assert.equal(2, #entries)
      assert(files:move(dir .. "/deep/a.bin", dir .. "/b.bin"))
      local moved, err = files:move(dir .. "/deep/empty", dir .. "/b.bin")
      assert.is_nil(moved)
      assert.equal("invalid", err.code)
      assert(files:move(dir .. "/deep/empty", dir .. "/b.bin", { overwrite = true }))
      assert.equal("", assert(files:read(dir .. "/b.bin")))
      assert(files:mkdir(dir .. "/x/y"))
      assert(files:delete(dir .. "/b.bin"))
      local deleted
      deleted, err = files:delete(dir .. "/x")
      assert.is_nil(deleted)
      assert.equal("io", err.code)
      assert(files:delete(dir .. "/x", { recursive = true }))
      for _, call in ipairs { "read", "stat", "delete" } do
        local none
        none, err = files[call](files, dir .. "/missing")
        assert.is_nil(none)
        assert.equal("not_found", err.code)
      end
    end)

    it("of any size are written in pieces and read in chunks", function()
      local big = ("0123456789abcdef"):rep(300000) -- 4.8 MB
      assert(files:write(dir .. "/big", big))
      assert.equal(big, assert(files:read(dir .. "/big")))
      local parts, place = {}, 0
      local written = assert(files:write(dir .. "/big", function()
        place = place + 1
        return place <= 30 and ("x"):rep(100000) or nil
      end))
      assert.equal(3000000, written.bytes_written)
      assert.equal(3000000, assert(files:read(dir .. "/big", { to = function(chunk) parts[#parts + 1] = #chunk end })))
      assert.truthy(#parts > 1)
      local names = assert(files:entries(dir))
      for _, entry in ipairs(names) do assert.is_nil(entry.name:find("opensandbox", 1, true)) end
      assert(files:mkdir(dir .. "/taken"))
      local none, err = files:write(dir .. "/taken", big)
      assert.is_nil(none)
      assert.equal("io", err.code)
      assert.equal(#names + 1, #assert(files:entries(dir)))
    end)

    it("come in archives, up to what the server takes", function()
      local pipe = assert(io.popen(("cd '%s' && mkdir -p tar && echo one >tar/one && tar cf - tar"):format(home), "r"))
      local tar = pipe:read "*a"
      pipe:close()
      local result = assert(files:upload(tar, { path = dir .. "/unpacked" }))
      assert.is_false(result.truncated)
      assert.equal("one\n", assert(files:read(dir .. "/unpacked/tar/one")))
      local none, err = files:upload(("\0"):rep(2 * 1024 * 1024 + 1))
      assert.is_nil(none)
      assert.equal("limit", err.code)
    end)
  end)

  describe("processes", function()
    local processes
    setup(function() processes = agents.processes end)

    it("run to their end", function()
      local run = assert(processes:run { command = "sh", args = { "-c", "pwd; echo $WORD; echo err >&2; exit 3" }, cwd = "/tmp",
        env = { WORD = "hi" } })
      assert.same({ 3, "/tmp\nhi\n", "err\n", false }, { run.exit_code, run.stdout, run.stderr, run.timed_out })
      run = assert(processes:run { command = "sleep", args = { "100" }, timeout = 0.1 })
      assert.is_nil(run.exit_code)
      assert.is_true(run.timed_out)
      run = assert(processes:run { command = "sh", args = { "-c", "head -c 100 /dev/zero" }, max_output = 10 })
      assert.is_true(run.stdout_truncated)
      local none, err = processes:run { command = "/nowhere" }
      assert.is_nil(none)
      assert.equal("io", err.code)
      assert.is_false(err.retryable)
    end)

    it("are started, fed, followed to their end, and forgotten", function()
      local process = assert(processes:create { command = "sh", interactive = true,
        args = { "-c", "while read -r line; do printf 'got %s\\377\\n' \"$line\"; [ \"$line\" = end ] && exit 4; done" } })
      assert.equal("running", assert(processes:get(process.id)).status)
      local none, err = processes:delete(process.id)
      assert.is_nil(none)
      assert.equal("conflict", err.code)
      local pieces = {}
      local follower = opensandbox.spawn(function()
        return processes:follow(process.id, function(entry) pieces[#pieces + 1] = entry.data end)
      end)
      assert.equal(6, assert(processes:input(process.id, "hello\n")))
      assert.equal(4, assert(processes:input(process.id, "end\n")))
      local info = assert(follower:join(20))
      assert.same({ "exited", 4 }, { info.status, info.exit_code })
      assert.truthy(info.exited_at >= info.created_at)
      assert.equal("got hello\255\ngot end\255\n", table.concat(pieces))
      local logs = assert(processes:logs(process.id, { tail = 1, stream = "stdout" }))
      assert.equal(1, #logs)
      assert.truthy(logs[1].timestamp > 1.6e9)
      assert.same({}, assert(processes:logs(process.id, { since = logs[1].sequence })))
      assert.has_error(function() processes:logs(process.id, { stream = "bogus" }) end)
      assert.is_true(processes:delete(process.id))
      none, err = processes:get(process.id)
      assert.is_nil(none)
      assert.equal("not_found", err.code)
    end)

    it("are stopped and killed, and a follower may leave early", function()
      local one = assert(processes:create { command = "sh", args = { "-c", "while :; do echo x; sleep 0.01; done" } })
      local count = 0
      local info = assert(processes:follow(one.id, function()
        count = count + 1
        return count < 3
      end))
      assert.equal("running", info.status)
      assert.equal(3, count)
      local result, err = processes:follow(one.id, function() error "boom" end)
      assert.is_nil(result)
      assert.equal("handler", err.code)
      assert.equal("exited", assert(processes:stop(one.id, { wait = 5 })).status)
      local two = assert(processes:create { command = "sleep", args = { "1000" } })
      local listed = false
      for _, process in ipairs(assert(processes:list { owner = "user" })) do listed = listed or process.id == two.id end
      assert.is_true(listed)
      assert.equal("exited", assert(processes:kill(two.id, { wait = 5 })).status)
      result, err = processes:list { owner = "bogus" }
      assert.is_nil(result)
      assert.equal("invalid", err.code)
    end)

    it("have terminals", function()
      local process = assert(processes:create { command = "sh", tty = true, interactive = true })
      local terminal = assert(processes:terminal(process.id))
      assert(terminal:resize(100, 30))
      assert(terminal:write "stty size; exit 5\n")
      local shown = {}
      for bytes in function() return terminal:read(10) end do shown[#shown + 1] = bytes end
      local text = table.concat(shown)
      assert.truthy(text:find("30 100", 1, true))
      assert.is_nil(text:find("process stream error", 1, true))
      assert.equal(5, terminal.exit_code)
      assert.equal(5, terminal:wait())
      assert.is_true(terminal:close())
      assert.has_error(function() terminal:write "x" end)
      assert.truthy(#assert(processes:logs(process.id, { stream = "pty" })) > 0)
      local plain = assert(processes:create { command = "cat", interactive = true })
      local none, err = processes:terminal(plain.id)
      assert.is_nil(none)
      assert.equal("conflict", err.code)
      none, err = processes:resize(plain.id, 80, 24)
      assert.is_nil(none)
      assert.equal("conflict", err.code)
      processes:kill(plain.id)
    end)

    it("have limits", function()
      local limits = assert(processes:config())
      assert.same({ 30, 300 }, { limits.default_run_timeout, limits.max_run_timeout })
      assert.equal(20, assert(processes:config { default_run_timeout = 20 }).default_run_timeout)
      assert.equal(limits.max_output_bytes, assert(processes:config()).max_output_bytes)
      assert(processes:config { default_run_timeout = 30 })
    end)
  end)

  it("keeps configuration of MCP servers and skills", function()
    local dir = home .. "/project"
    for part, value in pairs {
      mcp = { type = "local", command = "node", args = { "x.js" }, env = { Some_Name = "b" } },
      skills = { sources = { { type = "github", source = "a/b", skills = { "x" }, ref = "main" } } },
    } do
      local config = agents.config[part]
      assert.is_true(config:set(dir, "one", value))
      local got = assert(config:get(dir, "one"))
      for name, item in pairs(value) do assert.same(item, got[name]) end
      assert.is_true(config:delete(dir, "one"))
      local none, err = config:get(dir, "one")
      assert.is_nil(none)
      assert.equal("not_found", err.code)
    end
  end)

  it("tells what its desktop lacks", function()
    local status = assert(agents.desktop:status())
    assert.truthy(status.state)
    if status.state ~= "install_required" then return pending "a desktop is installed here" end
    assert.truthy(status.install_command)
    for _, call in ipairs {
      function() return agents.desktop:start { width = 640, height = 480 } end,
      function() return agents.desktop:screenshot { format = "png" } end,
      function() return agents.desktop.mouse:move { x = 1, y = 2 } end, function() return agents.desktop.keyboard:type "x" end,
      function() return agents.desktop.windows:list() end,
    } do
      local none, err = call()
      assert.is_nil(none)
      assert.equal("unsupported", err.code)
    end
    assert.has_error(function() agents.desktop.mouse:move { x = 1 } end)
    local socket, err = agents.desktop.stream:signaling()
    assert.is_nil(socket)
    assert.equal("conflict", err.code)
    assert.is_false(assert(agents.desktop.stream:status()).active)
  end)
end)
