-- opensandbox-execd on the wire: what the specs of the SDK cannot see.
local cjson = require "cjson"
local execds = require "spec.support.execd"
local runtimes = require "spec.support.runtime"
local socket = require "socket"

local json = cjson.encode

describe("execd on the wire", function()
  local execd, place

  setup(function()
    execd = execds.start()
    place = execd.directory .. "/files"
    assert(os.execute("mkdir " .. place))
  end)
  teardown(function() execd:stop() end)

  --- The code of an error answer, after its status.
  local function refusal(...)
    local answer = execd:call(...)
    local ok, body = pcall(cjson.decode, answer.body)
    return ("%d %s"):format(answer.status, ok and body.code or answer.body)
  end

  --- Types and texts of events as one string; timestamps must be there.
  local function tell(events)
    local parts = {}
    for _, event in ipairs(events) do
      if event.type then assert.is_true(event.timestamp > 1.7e12) end
      if event.type ~= "ping" then
        parts[#parts + 1] = event.error and ("error:%s:%s"):format(event.error.evalue, event.error.traceback[1])
          or event.text and event.type ~= "init" and event.type .. ":" .. event.text or event.type or event.message
      end
    end
    return table.concat(parts, " ")
  end

  local function write(name, text)
    local file = assert(io.open(place .. "/" .. name, "wb"))
    file:write(text)
    file:close()
    return place .. "/" .. name
  end

  local function read(path)
    local file = io.open(path, "rb")
    local text = file and file:read("*a")
    if file then file:close() end
    return text
  end

  describe("speaks HTTP so that clients get along:", function()
    it("empty answers have Content-Length: 0 and no type", function()
      local answer = execd:call("GET", "/ping")
      assert.same({ "HTTP/1.1 200 OK", "0", nil }, { answer.line, answer.headers["content-length"], answer.headers["content-type"] })
      answer = execd:call("DELETE", "/files?path=" .. place .. "/none")
      assert.same({ 200, "0" }, { answer.status, answer.headers["content-length"] })
    end)

    it("refuses every route without the right token, and tells it in its own form", function()
      local body = '{"error":"Unauthorized: invalid or missing header X-EXECD-ACCESS-TOKEN"}'
      for _, path in ipairs { "/ping", "/proxy/80/x", "/nothing", "/files/info?path=/" } do
        for _, token in ipairs { "wrong", "", execds.TOKEN .. "x", execds.TOKEN:sub(1, -2) } do
          local answer = execd:call("GET", path, nil, { "X-EXECD-ACCESS-TOKEN: " .. token })
          assert.same({ 401, body }, { answer.status, answer.body })
        end
      end
      local answer = execd:call("POST", "/command", json { command = "touch " .. place .. "/never" }, { "X-EXECD-ACCESS-TOKEN: no" })
      assert.same({ 401, nil }, { answer.status, read(place .. "/never") })
    end)

    it("unknown routes and methods are a line of text", function()
      for _, request in ipairs { { "GET", "/nothing" }, { "PUT", "/command" }, { "GET", "/files//info" } } do
        local answer = execd:call(request[1], request[2])
        assert.same({ 404, "text/plain", "404 page not found" }, { answer.status, answer.headers["content-type"], answer.body })
      end
    end)

    it("one connection serves one request after another, also after errors", function()
      local stream = execd:connect()
      local path = write("kept", "0123456789")
      stream:send(execds.request("GET", "/files/download?path=" .. path, nil, { "Range: bytes=50-" }))
      local answer = stream:answer()
      assert.same({ 416, "bytes */10", "UNKNOWN" }, { answer.status, answer.headers["content-range"], cjson.decode(answer.body).code })
      stream:send(execds.request("POST", "/command", "{"))
      assert.equal(400, stream:answer().status)
      stream:send(execds.request("POST", "/command", json { command = "exit 3" }))
      assert.equal("init error:3:exit status 3", tell(execds.events(stream:answer().body)))
      stream:send(execds.request("GET", "/files/download?path=" .. path, nil, { "Range: bytes=-3" }))
      answer = stream:answer()
      assert.same({ 206, "bytes 7-9/10", "789" }, { answer.status, answer.headers["content-range"], answer.body })
      stream:close()
    end)

    it("takes requests in single bytes and several at once", function()
      local stream = execd:connect()
      for byte in execds.request("GET", "/ping"):gmatch(".") do assert(stream:send(byte)) end
      assert.equal(200, stream:answer().status)
      stream:send(execds.request("GET", "/ping"):rep(3))
      for _ = 1, 3 do assert.equal(200, stream:answer().status) end
      stream:close()
    end)

    it("a body above the limit is refused, without reading it", function()
      local stream = execd:connect()
      stream:send(execds.request("POST", "/command", nil, { "Content-Length: 99999999999" }) .. "{")
      assert.equal(413, stream:answer().status)
      stream:close()
    end)

    it("broken targets and headers are 400", function()
      assert.equal("400 INVALID_REQUEST_BODY", refusal("GET", "/files/info?path=%zz"))
      assert.equal("400 INVALID_REQUEST_BODY", refusal("GET", "/files/info?path=a%00b"))
    end)
  end)

  describe("an event stream", function()
    it("is bare JSON with a blank line behind every event, byte for byte", function()
      local answer = execd:call("POST", "/command", json { command = "echo hi" })
      assert.same({ 200, "text/event-stream", "no-cache", "no" }, { answer.status, answer.headers["content-type"],
        answer.headers["cache-control"], answer.headers["x-accel-buffering"] })
      local body = answer.body:gsub('"timestamp":%d+', '"timestamp":T'):gsub('"execution_time":%d+,', ""):gsub("%x+", function(digits)
        return #digits == 32 and "ID" or nil
      end)
      assert.equal('{"type":"init","text":"ID","timestamp":T}\n\n{"type":"ping","text":"pong","timestamp":T}\n\n'
        .. '{"type":"stdout","text":"hi","timestamp":T}\n\n{"type":"execution_complete","timestamp":T}\n\n', body)
    end)

    it("escapes like the original: <>&, separators, NUL; what is no UTF-8 becomes U+FFFD byte by byte", function()
      local answer = execd:call("POST", "/command", json { command =
        [[printf 'a<b>&"\\\t\0\001\177\b\f\v \342\200\250\342\200\251 \302\205 \377\342\202x \355\240\200 \360\237\230\200\n']] })
      local text = answer.body:match('"stdout","text":"(.-)","timestamp"')
      assert.equal([[a\u003cb\u003e\u0026\"\\\t\u0000\u0001]] .. "\127" .. [[\b\f\u000b \u2028\u2029 ]] .. "\194\133"
        .. [[ \ufffd\ufffd\ufffdx \ufffd\ufffd\ufffd ]] .. "\240\159\152\128", text)
    end)

    it("has one event per line, whatever ends it", function()
      assert.equal("init stdout:a stdout:b stdout:c stdout:\n stdout:d execution_complete", tell(execd:run [[printf 'a\rb\r\nc\n\nd']]))
    end)

    it("splits a line that is too long, and loses nothing of it", function()
      local body = execd:call("POST", "/command", json { command = [[head -c 17000000 /dev/zero | tr '\0' x; echo; echo end]] }).body
      local total, longest = 0, 0
      for _, event in ipairs(execds.events(body)) do
        if event.type == "stdout" then total = total + #event.text end
        longest = math.max(longest, event.text and #event.text or 0)
      end
      assert.equal(17000003, total)
      assert.is_true(longest < 16 * 1024 * 1024)
    end)

    it("brings output at once, not when the line's process ends", function()
      local gate = place .. "/gate"
      local command = ("echo first; until [ -e %s ]; do sleep 0.01; done; echo second"):format(gate)
      local stream = execd:open("POST", "/command", json { command = command })
      stream:head()
      stream:read_until('"first"')
      write("gate", "")
      stream:read_until('"second"')
      stream:close()
    end)

    it("words exit codes and signals like the original", function()
      for command, told in pairs {
        ["true"] = "execution_complete", ["exit 7"] = "error:7:exit status 7", ["kill -9 $$"] = "error:-1:signal: killed",
        ["kill -TERM $$"] = "error:-1:signal: terminated", ["kill -USR1 $$"] = "error:-1:signal: user defined signal 1",
        ["kill -40 $$"] = "error:-1:signal: signal 40",
      } do
        assert.equal("init " .. told, tell(execd:run(command)))
      end
      assert.equal("init stderr:bash: line 1: nonsense: command not found error:127:exit status 127", tell(execd:run("nonsense")))
    end)

    it("ends with its process, though a background child holds the output", function()
      local events = execd:run("(while :; do echo more; done) & echo $!")
      assert.equal("execution_complete", events[#events].type)
      local child
      for _, event in ipairs(events) do child = child or (event.type == "stdout" and tonumber(event.text)) end
      local ticks = function() return tonumber((read("/proc/" .. child .. "/stat"):match("%) %S+ " .. ("%S+ "):rep(10) .. "(%d+)"))) end
      local before = ticks()
      runtimes.await("the child goes on writing", function() return ticks() > before end)
      os.execute("kill -9 " .. child)
    end)

    it("a time-out kills the whole group", function()
      local events = execd:run("sleep 1000 & echo $!; wait", { timeout = 200 })
      assert.equal("error:-1:signal: killed", (tell(events):match("error.*")))
      local child = events[3].text
      runtimes.await("the child ends", function() return not read("/proc/" .. child .. "/stat") end)
    end)

    it("pings while nothing happens", function()
      local stream = execd:open("POST", "/command", json { command = "sleep 60" })
      stream:head()
      local id = stream:read_until('"pong"'):match('"init","text":"(%x+)"')
      stream:read_until('"pong"')
      assert.equal(200, execd:call("DELETE", "/command?id=" .. id).status)
      assert.truthy(stream:read_until('"signal: terminated"'))
      assert.is_nil(stream:chunk())
      stream:close()
    end)

    it("a client that goes does not stop its command", function()
      local done = place .. "/done"
      local command = ("echo up; until [ -e %s.go ]; do sleep 0.01; done; seq 100000; touch %s"):format(done, done)
      local stream = execd:open("POST", "/command", json { command = command })
      stream:head()
      stream:read_until('"up"')
      stream:close()
      write("done.go", "")
      runtimes.await("the command goes on", function() return read(done) end)
    end)

    it("a client that does not read holds up its own command only, in bounded memory", function()
      local stream = execd:open("POST", "/command", json { command = "yes 0123456789 | head -c 60000000" })
      stream:head()
      assert.equal("init stdout:x execution_complete", tell(execd:run("echo x")))
      local memory = tonumber(read("/proc/" .. execd.pid .. "/status"):match("VmRSS:%s+(%d+)"))
      assert.is_true(memory < 200 * 1024)
      stream:close()
    end)

    it("a hundred at once keep their output apart", function()
      local gate, streams = place .. "/all", {}
      for i = 1, 100 do
        local command = ("until [ -e %s ]; do sleep 0.05; done; echo out%d; echo err%d >&2; exit %d"):format(gate, i, i, i)
        streams[i] = execd:open("POST", "/command", json { command = command })
      end
      for _, stream in ipairs(streams) do
        stream:head()
        stream:read_until('"pong"')
      end
      write("all", "")
      for i, stream in ipairs(streams) do
        local rest = stream:read_until('"error"')
        assert.truthy(rest:find(('"stdout","text":"out%d"'):format(i), 1, true))
        assert.truthy(rest:find(('"stderr","text":"err%d"'):format(i), 1, true))
        assert.truthy(rest:find(('"evalue":"%d"'):format(i), 1, true))
        stream:close()
      end
    end)
  end)

  describe("commands", function()
    it("refuse what is no request", function()
      for _, body in ipairs { "", "{", "[]", '"x"', "{}", '{"command":5}', '{"command":""}', '{"command":"x","timeout":-1}',
        '{"command":"x","gid":1}', '{"command":"x","cwd":"/none"}', '{"command":"x","cwd":"/etc/passwd"}', '{"command":"x","envs":[]}',
        '{"command":"x","cwd":"$NOPE/x"}' } do
        assert.equal("400 INVALID_REQUEST_BODY", refusal("POST", "/command", body))
      end
    end)

    it("get null for what is left out, and unknown fields", function()
      assert.equal("init stdout:x execution_complete", tell(execds.events(execd:call("POST", "/command",
        '{"command":"echo x","cwd":null,"envs":null,"timeout":null,"background":null,"uid":null,"new":1} ').body)))
    end)

    it("see nothing of execd: no token, no descriptors, no way to look into it", function()
      local events = execd:run("exec 2>&1; env; ls /proc/$$/fd; tr '\\0' ' ' < /proc/$PPID/cmdline; cat /proc/$PPID/environ | wc -c; echo")
      local seen = tell(events)
      assert.is_nil(seen:find(execds.TOKEN, 1, true))
      assert.is_nil(seen:find("TOKEN=", 1, true))
      assert.truthy(seen:find("stdout:0 stdout:1 stdout:2 stdout:", 1, true))
      assert.is_nil(seen:find("stdout:[3-9] "))
    end)

    it("in the background: status, logs by cursor, nothing in between for unknown ids", function()
      local gate = place .. "/step"
      local command = ("echo one; echo two >&2; until [ -e %s ]; do sleep 0.01; done; printf three; exit 5"):format(gate)
      local events = execd:run(command, { background = true })
      assert.equal("init execution_complete", tell(events))
      local id = events[1].text
      assert.truthy(id:match("^%x+$") and #id == 32)
      local log
      runtimes.await("its output", function()
        log = execd:call("GET", "/command/" .. id .. "/logs")
        return log.body == "one\ntwo\n"
      end)
      assert.same({ "8", "text/plain; charset=utf-8" }, { log.headers["execd-commands-tail-cursor"], log.headers["content-type"] })
      local status = cjson.decode(execd:call("GET", "/command/status/" .. id).body)
      assert.same({ true, nil, nil }, { status.running, status.exit_code, status.finished_at })
      write("step", "")
      runtimes.await("its end", function()
        status = cjson.decode(execd:call("GET", "/command/status/" .. id).body)
        return not status.running
      end)
      assert.same({ 5, "exit status 5" }, { status.exit_code, status.error })
      log = execd:call("GET", "/command/" .. id .. "/logs?cursor=8")
      assert.same({ "three", "13" }, { log.body, log.headers["execd-commands-tail-cursor"] })
      log = execd:call("GET", "/command/" .. id .. "/logs?cursor=13")
      assert.same({ "", "13", "0" }, { log.body, log.headers["execd-commands-tail-cursor"], log.headers["content-length"] })
      assert.equal("404 INVALID_REQUEST_BODY", refusal("GET", "/command/status/none"))
      assert.equal("400 INVALID_REQUEST_BODY", refusal("GET", "/command/none/logs"))
      assert.equal("400 MISSING_QUERY", refusal("DELETE", "/command"))
      assert.equal("500 RUNTIME_ERROR", refusal("DELETE", "/command?id=none"))
      assert.equal("500 RUNTIME_ERROR", refusal("DELETE", "/command?id=" .. id))
    end)
  end)

  describe("sessions", function()
    local function session() return cjson.decode(execd:call("POST", "/session").body).session_id end
    local function run(id, command, fields)
      local request = fields or {}
      request.command = command
      return execd:call("POST", "/session/" .. id .. "/run", json(request))
    end

    it("keep variables and directory, byte for byte, but not what isn't exported", function()
      local id = session()
      run(id, [[export ODD="a'b\"\$c
d"; cd /usr; hidden=1; f() { :; }]])
      local function told(command) return tell(execds.events(run(id, command).body)) end
      assert.equal([[init stdout:a'b"$c stdout:d| stdout:/usr execution_complete]], told 'echo "$ODD|$hidden"; pwd')
      assert.equal("init error:7:exit status 7", told "cd /; exit 7")
      assert.equal("init stdout:/usr execution_complete", told "pwd")
      assert.equal("init stdout:out stdout:err execution_complete", told "echo out; echo; echo err >&2")
      assert.equal(200, execd:call("DELETE", "/session/" .. id).status)
      assert.equal("404 CONTEXT_NOT_FOUND", refusal("DELETE", "/session/" .. id))
      assert.equal("500 RUNTIME_ERROR", refusal("POST", "/session/" .. id .. "/run", json { command = "true" }))
    end)

    it("a time-out ends with an untyped object, kills all, and the session goes on", function()
      local id = session()
      local answer = run(id, "sleep 1000 & echo $!; wait", { timeout = 300 })
      assert.equal('{"code":"RUNTIME_ERROR","message":"error running in session. timeout after 300ms"}', (answer.body:match("[^\n]*$")))
      local child = answer.body:match('"stdout","text":"(%d+)"')
      runtimes.await("the child ends", function() return not read("/proc/" .. child .. "/stat") end)
      assert.equal("init stdout:on execution_complete", tell(execds.events(run(id, "echo on").body)))
      execd:call("DELETE", "/session/" .. id)
    end)

    it("run one thing at a time; leaving the run frees the session", function()
      local id = session()
      local stream = execd:open("POST", "/session/" .. id .. "/run", json { command = "echo $$; sleep 1000" })
      stream:head()
      local child = stream:read_until('"stdout"'):match('"stdout","text":"(%d+)"')
      assert.equal("409 RUNTIME_ERROR", refusal("POST", "/session/" .. id .. "/run", json { command = "true" }))
      stream:close()
      runtimes.await("the run ends", function() return not read("/proc/" .. child .. "/stat") end)
      local answer
      runtimes.await("the session is free", function()
        answer = run(id, "echo next")
        return answer.status == 200
      end)
      assert.equal("init stdout:next execution_complete", tell(execds.events(answer.body)))
      stream = execd:open("POST", "/session/" .. id .. "/run", json { command = "echo up; sleep 1000" })
      stream:head()
      stream:read_until('"up"')
      assert.equal(200, execd:call("DELETE", "/session/" .. id).status)
      assert.truthy(stream:read_until('"signal: killed"'))
      stream:close()
    end)
  end)

  describe("files", function()
    local function part(name, text, filename)
      local disposition = ('form-data; name="%s"'):format(name) .. (filename and ('; filename="%s"'):format(filename) or "")
      return "--limit\r\nContent-Disposition: " .. disposition .. "\r\n\r\n" .. text .. "\r\n"
    end
    local FORM = { "Content-Type: multipart/form-data; boundary=limit" }
    local function upload(...) return refusal("POST", "/files/upload", table.concat({ ... }) .. "--limit--\r\n", FORM) end

    it("are uploaded in pairs; what is no pair changes nothing", function()
      local path = place .. "/new/dir/a b"
      local bytes = "\0one\r\n--\r\r\n--limi\r\n-\255\r\n"
      assert.equal("200 ", upload(part("metadata", json { path = path, mode = 640, owner = cjson.null }, "m"), part("file", bytes, "x"),
        part("metadata", json { path = path .. "2" }, "m"), part("file", "", "x")))
      assert.same({ bytes, "" }, { read(path), read(path .. "2") })
      local metadata = part("metadata", json { path = path }, "m")
      assert.equal("400 INVALID_FILE", upload(metadata, metadata, part("file", "new", "x")))
      assert.equal("400 INVALID_FILE_CONTENT", upload(metadata))
      assert.equal("400 INVALID_FILE_METADATA", upload(part("file", "new", "x")))
      assert.equal("400 INVALID_FILE_METADATA", upload(part("metadata", json { path = path }), part("file", "new", "x")))
      assert.equal("400 INVALID_FILE_METADATA", upload(part("metadata", "{", "m"), part("file", "new", "x")))
      assert.equal("400 INVALID_FILE_METADATA", upload(part("metadata", "{}", "m"), part("file", "new", "x")))
      assert.equal("400 INVALID_FILE", refusal("POST", "/files/upload", metadata .. part("file", "new", "x"), FORM))
      assert.equal("400 INVALID_FILE", refusal("POST", "/files/upload", "x", { "Content-Type: text/plain" }))
      assert.equal(bytes, read(path))
      assert.same({ "a b", "a b2" }, runtimes.entries(place .. "/new/dir"))
    end)

    it("keep their old bytes when an upload breaks off, and nothing lies about", function()
      local path = write("kept", "old")
      local stream = execd:connect()
      stream:send(execds.request("POST", "/files/upload", nil, { "Content-Length: 1000000", FORM[1] })
        .. part("metadata", json { path = path }, "m") .. part("file", ("x"):rep(200000), "x"))
      runtimes.await("the upload is under way", function() return #runtimes.entries(place .. "/.upload*") > 0 end)
      stream:close()
      runtimes.await("it is swept", function() return #runtimes.entries(place .. "/.upload*") == 0 end)
      assert.equal("old", read(path))
    end)

    it("an upload over a file leaves it the same file: mode, links, symbolic links", function()
      local path = write("target", "old")
      os.execute(("chmod 600 %s; ln -f %s %s.hard; ln -sf target %s.soft"):format(path, path, path, path))
      assert.equal("200 ", upload(part("metadata", json { path = path .. ".soft" }, "m"), part("file", "new", "x")))
      assert.same({ "new", "new" }, { read(path), read(path .. ".hard") })
      local info = cjson.decode(execd:call("GET", "/files/info?path=" .. path .. "&path=" .. path .. ".soft").body)
      assert.same({ 600, "file", "symlink" }, { info[path].mode, info[path].type, info[path .. ".soft"].type })
    end)

    it("give ranges, windows of lines, and clear refusals", function()
      local path = write("text", "line1\r\nline2\nline3\n\nline5")
      local function window(query) return execd:call("GET", "/files/download?path=" .. path .. query).body end
      assert.same({ "line2\nline3", "line5", "line1", "" },
        { window "&offset=2&limit=2", window "&offset=5", window "&limit=1", window "&offset=99" })
      assert.equal("400 INVALID_REQUEST_BODY", refusal("GET", "/files/download?offset=0&path=" .. path))
      assert.equal("400 INVALID_REQUEST_BODY", refusal("GET", "/files/download?limit=1&path=" .. path, nil, { "Range: bytes=0-1" }))
      assert.equal("400 MISSING_QUERY", refusal("GET", "/files/download"))
      assert.equal("404 FILE_NOT_FOUND", refusal("GET", "/files/download?path=" .. place .. "/none"))
      assert.equal("500 RUNTIME_ERROR", refusal("GET", "/files/download?path=" .. place))
      assert.equal("500 RUNTIME_ERROR", refusal("GET", "/files/download?path=$NO_SUCH_VARIABLE"))
    end)

    it("searches and lists in order, also a large tree while others are served", function()
      os.execute(("mkdir -p %s/tree/d && cd %s/tree && seq -f 'f%%05g' 3000 | xargs touch && touch d/x.py 'd/é.txt'"):format(place, place))
      local list = cjson.decode(execd:call("GET", "/directories/list?depth=9&path=" .. place .. "/tree").body)
      assert.same({ 3003, place .. "/tree/d", place .. "/tree/d/x.py", place .. "/tree/d/é.txt", place .. "/tree/f00001" },
        { #list, list[1].path, list[2].path, list[3].path, list[4].path })
      for pattern, count in pairs { ["**"] = 3002, [""] = 3002, ["?.txt"] = 1, ["*.{py,txt}"] = 2, ["f0001[0-9]"] = 10, ["d/*"] = 0,
        ["!(x.py)"] = 3001, ["**/x.py"] = 1, ["[^dxé]*"] = 3000, ["\\f00001"] = 1 } do
        local answer = execd:call("GET", "/files/search?path=" .. place .. "/tree&pattern=" .. pattern)
        assert.same({ pattern, count }, { pattern, #cjson.decode(answer.body) })
      end
      assert.equal("500 RUNTIME_ERROR", refusal("GET", "/files/search?path=" .. place .. "&pattern=[a"))
      assert.equal("400 INVALID_REQUEST_BODY", refusal("GET", "/directories/list?path=" .. place .. "&depth=-1"))
      assert.equal("[]", execd:call("GET", "/directories/list?depth=0&path=" .. place).body)
    end)

    it("a pattern made to take for ever is cut off", function()
      write(("a"):rep(200), "")
      local answer = execd:call("GET", "/files/search?path=" .. place .. "&pattern=" .. ("{a,a*}"):rep(16) .. "b")
      assert.is_true(answer.status == 200 or answer.status == 500)
      os.remove(place .. "/" .. ("a"):rep(200))
    end)
  end)

  describe("the way to ports", function()
    --- Answers one request of a listener by hand: what came, up to the end of its headers and body.
    local function serve(listener, reply)
      local server = assert(listener:accept())
      server:settimeout(30)
      local lines, length = {}, 0
      for line in function() return server:receive("*l") end do
        if line == "" then break end
        lines[#lines + 1] = line
        length = tonumber(line:match("^[Cc]ontent%-[Ll]ength: (%d+)")) or length
      end
      local body = length > 0 and server:receive(length) or ""
      server:send(reply)
      server:close()
      return table.concat(lines, "\n"), body
    end

    it("passes method, encoded path, query, body and headers on, but not the token nor hop-by-hop headers", function()
      local listener = assert(socket.bind("127.0.0.1", 0))
      listener:settimeout(30)
      local _, port = listener:getsockname()
      local stream = execd:open("PATCH", "/proxy/" .. port .. "/a%2Fb/../c?x=1&y=%20", "hello",
        { "Connection: X-Mine", "X-Mine: 1", "X-Other: 2", "TE: gzip" })
      local head, body = serve(listener, "HTTP/1.1 418 Teapot\r\nContent-Length: 3\r\nConnection: close, X-Gone\r\n"
        .. "X-Gone: 1\r\nX-Kept: a\r\nX-Kept: b\r\n\r\nabc")
      local answer = stream:answer()
      stream:close()
      assert.equal("PATCH /a%2Fb/../c?x=1&y=%20 HTTP/1.1", (head:match("^[^\n]*")))
      assert.same({ "hello", "2" }, { body, head:match("X%-Other: (%d)") })
      for _, text in ipairs { execds.TOKEN, "X-Mine", "TE:" } do assert.is_nil(head:find(text, 1, true)) end
      assert.truthy(head:find("X-Forwarded-For: 127.0.0.1", 1, true))
      assert.same({ 418, "abc", "b", nil }, { answer.status, answer.body, answer.headers["x-kept"], answer.headers["x-gone"] })
      listener:close()
    end)

    it("reaches a service on ::1, hands its answer on as it comes, and cuts when it is cut", function()
      local listener = assert(socket.tcp6())
      assert(listener:bind("::1", 0))
      assert(listener:listen(1))
      listener:settimeout(30)
      local _, port = listener:getsockname()
      local stream = execd:open("GET", "/proxy/" .. port)
      local server = assert(listener:accept())
      server:settimeout(30)
      assert.equal("GET / HTTP/1.1", server:receive("*l"))
      server:send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
      assert.equal(200, stream:head().status)
      assert.equal("one", stream:chunk())
      server:send("3\r\ntwo\r\n")
      assert.equal("two", stream:chunk())
      server:close()
      local _, err = stream:chunk()
      assert.equal("closed", err)
      stream:close()
      listener:close()
    end)

    it("lets go of a service when the client goes", function()
      local listener = assert(socket.bind("127.0.0.1", 0))
      listener:settimeout(30)
      local _, port = listener:getsockname()
      local stream = execd:open("GET", "/proxy/" .. port .. "/slow")
      local server = assert(listener:accept())
      server:settimeout(30)
      while server:receive("*l") ~= "" do end
      stream:close()
      local _, err = server:receive(1)
      assert.equal("closed", err)
      server:close()
      listener:close()
    end)

    it("says 502 when nobody listens, 400 when it is no port", function()
      assert.equal("502 Bad Gateway\n", refusal("GET", "/proxy/1/x"))
      assert.equal("400 port is required\n", refusal("GET", "/proxy/"))
      assert.equal("400 port is required\n", refusal("GET", "/proxy/99999/"))
    end)

    it("leads back to execd too", function()
      local through = "/proxy/" .. execd.port
      local answer = execd:call("POST", through .. through .. "/command", json { command = "echo there" })
      assert.equal("init stdout:there execution_complete", tell(execds.events(answer.body)))
    end)
  end)

  it("metrics are those of the machine, once and again and again", function()
    local metrics = cjson.decode(execd:call("GET", "/metrics").body)
    assert.is_true(metrics.cpu_used_pct >= 0 and metrics.cpu_used_pct <= 100 and metrics.cpu_count >= 1)
    assert.is_true(metrics.mem_used_mib > 0 and metrics.mem_used_mib <= metrics.mem_total_mib)
    local stream = execd:open("GET", "/metrics/watch")
    stream:head()
    for _ = 1, 2 do
      local text = stream:chunk()
      assert.truthy(text:match("^{[^\n]*}\n$"))
      assert.is_true(cjson.decode(text).timestamp > 1.7e12)
    end
    stream:close()
  end)
end)

describe("execd's own life", function()
  --- Number of its descriptors; nil for those who may not look.
  local function descriptors(execd)
    local names = runtimes.entries("/proc/" .. execd.pid .. "/fd")
    return #names > 0 and #names or nil
  end

  it("leaves no descriptor and no process behind what it served", function()
    local execd = execds.start()
    execd:run("true")
    local before = descriptors(execd)
    -- a process that is not dumpable shows its descriptors to root only
    assert.equal(runtimes.user_id() == 0, before ~= nil)
    for _ = 1, 20 do
      execd:run("echo x; echo y >&2")
      local stream = execd:open("POST", "/command", json { command = "echo up; sleep 0.05" })
      stream:head()
      stream:read_until('"up"')
      stream:close()
      execd:call("GET", "/files/download?path=/etc/passwd")
      execd:call("GET", "/files/info?path=/none")
      execd:call("GET", "/proxy/1/")
      execd:call("POST", "/files/upload", "--B\r\n", { "Content-Type: multipart/form-data; boundary=B" })
      local id = cjson.decode(execd:call("POST", "/session").body).session_id
      execd:call("POST", "/session/" .. id .. "/run", json { command = "echo x" })
      execd:call("DELETE", "/session/" .. id)
    end
    runtimes.await("all is as before", function()
      return next(execd:processes()) == nil and (not before or descriptors(execd) <= before)
    end)
    execd:stop()
  end)

  it("ends everything it started, also what went to the background and to sessions of its own", function()
    local execd = execds.start()
    execd:run("setsid sh -c 'trap \"\" TERM; sleep 1000' & setsid sleep 1001 & disown -a", { background = true })
    execd:run("sleep 1002", { background = true })
    runtimes.await("they run", function()
      local count = 0
      for _ in pairs(execd:processes()) do count = count + 1 end
      return count >= 4
    end)
    execd:stop()
  end)

  it("ends when its owner's pipe does", function()
    local execd = execds.start("mkfifo life && { sleep 1000 > life & echo $! > owner; } &&", "--life-fd 8 8<life")
    execd:run("sleep 1003", { background = true })
    local started = execd:processes()
    assert.truthy(next(started))
    os.execute("kill -9 $(cat " .. execd.directory .. "/owner)")
    runtimes.await("it ends with all it started", function()
      local file = io.open("/proc/" .. execd.pid .. "/stat")
      local over = not file or file:read("*a"):match("%) ([ZX])") -- nobody has waited for it yet
      if file then file:close() end
      return over and #runtimes.alive(started) == 0
    end)
    execd.output:close()
    os.execute("rm -rf " .. execd.directory)
  end)

  it("says what is wrong with its arguments, its port and its token", function()
    local program = os.getenv("OPENSANDBOX_EXECD") or os.getenv("OPENSANDBOX_RUNTIME"):gsub("[^/]+$", "opensandbox-execd")
    local function message(arguments) return runtimes.shell(("'%s' %s 2>&1"):format(program, arguments)) end
    assert.truthy(message("--nonsense"):find("nonsense", 1, true))
    assert.truthy(message("--host nowhere --port 1"):find("cannot listen on nowhere:1", 1, true))
    assert.truthy(message("--host 127.0.0.1 --port 0 --token-fd 9 9</dev/null"):find("no token came by descriptor 9", 1, true))
  end)
end)
