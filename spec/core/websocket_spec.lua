-- WebSockets: the handshake and what servers do wrong in it, frames cut and broken in every way, limits, and the ways to end.
local core = require "opensandbox.core"
local faults = require "spec.support.faults"
local http = require "opensandbox.http"
local opensandbox = require "opensandbox"
local websocket = require "opensandbox.websocket"

local TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG =
  faults.TEXT, faults.BINARY, faults.CONTINUATION, faults.CLOSE, faults.PING, faults.PONG
local MIB = 1024 * 1024

describe("a WebSocket", function()
  local server, open

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)
  before_each(function()
    server:reset()
    open = {}
  end)
  after_each(function()
    for _, socket in ipairs(open) do
      core.state(socket, "websocket", true).wire:drop() -- the server's script does not answer a closing frame
      socket:close()
    end
  end)

  local function settings(more)
    local options = { domain = server.url, api_key = "key-12345", retry = false }
    for name, value in pairs(more or {}) do options[name] = value end
    return core.state(opensandbox.connection(options), "connection")
  end

  --- Connects to /ws, whose script is `steps` behind the switch.
  local function connect(given, more)
    local request = { base = server.url, path = "/ws" }
    for name, value in pairs(given or {}) do request[name] = value end
    local socket, err = websocket.connect(settings(more), request)
    open[#open + 1] = socket
    return socket, err
  end

  local function script(...)
    server:route("GET", "/ws", faults.join(...))
  end

  local function send(bytes, more)
    local step = { send = bytes }
    for name, value in pairs(more or {}) do step[name] = value end
    return { step }
  end

  local STALL = { { stall = true } }

  --- Connects to a server that sends these bytes and then nothing.
  local function connect_to(bytes, more)
    script(faults.websocket(), send(bytes, more), STALL)
    return assert(connect())
  end

  --- The frames that the server has read, once `test(frames)` is true.
  local function await_frames(test)
    return server:await("/ws", function(requests)
      local frames = requests[1] and requests[1].frames or {}
      return test(frames) and frames
    end)
  end

  local function has_close(frames)
    return #frames > 0 and frames[#frames].opcode == CLOSE
  end

  local function close_code(frame)
    return frame.payload:byte(1) * 256 + frame.payload:byte(2)
  end

  -------------------------------------------------------------------------------------------------------------------
  describe("handshake", function()
    it("asks as RFC 6455 wants it, with the headers of the connection and its own", function()
      script(faults.websocket { headers = { ["Sec-WebSocket-Protocol"] = "two" } }, STALL)
      local socket = assert(connect({
        path = "/ws", query = { { "a", "b c" } }, headers = { ["X-Own"] = "own" }, protocols = { "one", "two" },
      }, { headers = { ["X-All"] = "all" } }))
      assert.equal("userdata", type(socket))
      assert.equal("opensandbox.websocket: " .. server.url .. "/ws?a=***", tostring(socket))
      assert.equal("two", socket.protocol)
      local request = server:requests("/ws")[1]
      assert.equal("a=b%20c", request.query)
      assert.equal("own", request.headers["x-own"])
      assert.equal("all", request.headers["x-all"])
      assert.equal("13", request.headers["sec-websocket-version"])
      assert.equal("one, two", request.headers["sec-websocket-protocol"])
      assert.equal(24, #request.headers["sec-websocket-key"])
      assert.is_nil(request.headers["transfer-encoding"])
      assert.is_nil(request.headers["content-length"])
    end)

    it("takes ws:// for http://, and has another key every time", function()
      script(faults.websocket(), STALL)
      assert(connect { base = "ws://" .. server.authority })
      assert(connect { base = "WS://" .. server.authority })
      local requests = server:requests("/ws")
      assert.are_not.equal(requests[1].headers["sec-websocket-key"], requests[2].headers["sec-websocket-key"])
    end)

    local function refused(pattern, ...)
      script(...)
      local socket, err = connect()
      assert.is_nil(socket)
      assert.equal("protocol", err.code)
      assert.truthy(err.message:find(pattern, 1, true), err.message)
    end

    it("refuses a wrong accept key, another protocol, extensions, and an answer that does not switch", function()
      refused("Sec-WebSocket-Accept", faults.websocket { accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" })
      refused("something else", faults.websocket { headers = { Upgrade = "h2c" } })
      refused("something else", faults.websocket { headers = { Connection = "keep-alive" } })
      refused("extension", faults.websocket { headers = { ["Sec-WebSocket-Extensions"] = "permessage-deflate" } })
      refused("not offered", faults.websocket { headers = { ["Sec-WebSocket-Protocol"] = "chat" } })
      refused("status 200", faults.answer(200, "hello"))
      refused("status 204", faults.answer(204))
    end)

    it("gives the server's error for any other answer", function()
      script(faults.json(409, { code = "ALREADY_CONNECTED", message = "another client is there" }))
      local socket, err = connect()
      assert.is_nil(socket)
      assert.same({ "conflict", "ALREADY_CONNECTED", "another client is there", 409 }, { err.code, err.api_code, err.message, err.status })
      script(faults.answer(404, "404 page not found"))
      assert.equal("not_found", select(2, connect()).code)
      script(faults.answer(401, ""))
      assert.equal("unauthorized", select(2, connect()).code)
      script(faults.redirect(server.url .. "/elsewhere"))
      assert.truthy(select(2, connect()).message:find("redirects", 1, true))
      script { { close = true } }
      assert.equal("network", select(2, connect()).code)
    end)

    it("ends at its time-out", function()
      script(STALL)
      local socket, err = connect { timeout = 0.05 }
      assert.is_nil(socket)
      assert.equal("timeout", err.code)
      server:await_abort("/ws")
    end)

    it("may come in pieces, or in one piece with the first frames", function()
      local words = {}
      for i = 1, 3 do words[i] = faults.frame(TEXT, "word " .. i) end
      script(faults.websocket { tail = table.concat(words) }, STALL)
      local socket = assert(connect())
      for i = 1, 3 do assert.same({ "word " .. i, true }, { socket:receive(10) }) end
    end)

    it("goes through a proxy's tunnel, also without TLS", function()
      server:route("CONNECT", "sandbox.example:80", faults.head(200))
      script(faults.websocket(), { { echo = true } })
      local socket = assert(connect({ base = "http://sandbox.example" }, { proxy = server.url }))
      assert(socket:send "through")
      assert.equal("through", socket:receive(10))
      assert.is_true(socket:close())
      assert.equal(1, #server:requests("sandbox.example:80"))
    end)
  end)

  -------------------------------------------------------------------------------------------------------------------
  describe("frames", function()
    it("carry text and any bytes, both ways, of every length class", function()
      script(faults.websocket(), { { echo = true } })
      local socket = assert(connect())
      local all = {}
      for byte = 0, 255 do all[#all + 1] = string.char(byte) end
      all = table.concat(all)
      for _, size in ipairs { 0, 1, 125, 126, 65535, 65536, 300000 } do
        local bytes = all:rep(math.ceil(size / 256)):sub(1, size)
        assert(socket:send(bytes))
        local message, is_text = socket:receive(10)
        assert.is_true(message == bytes)
        assert.is_false(is_text)
      end
      assert(socket:send_text "grüße")
      assert.same({ "grüße", true }, { socket:receive(10) })
      for _, frame in ipairs(await_frames(function(frames) return #frames == 8 end)) do
        assert.is_true(frame.masked)
        assert.is_true(frame.final)
      end
      assert.is_true(socket:close())
    end)

    it("may be cut at every byte, and be parts of one message with a ping between", function()
      script(faults.websocket(), send(faults.frame(TEXT, "schö", { more = true }) .. faults.frame(PING, "are you there?")
        .. faults.frame(CONTINUATION, "", { more = true }) .. faults.frame(CONTINUATION, "n" .. ("x"):rep(300))
        .. faults.frame(BINARY, "\0\1"), { each = 1 }), { { read_frames = 1 } }, STALL)
      local socket = assert(connect())
      assert.same({ "schön" .. ("x"):rep(300), true }, { socket:receive(10) })
      assert.same({ "\0\1", false }, { socket:receive(10) })
      local pong = await_frames(function(frames) return #frames == 1 end)[1]
      assert.same({ PONG, "are you there?" }, { pong.opcode, pong.payload })
    end)

    local function broken(code, status, bytes)
      script(faults.websocket(), send(bytes), { { read_frames = 1 } }, STALL)
      local socket = assert(connect())
      local message, err = socket:receive(10)
      assert.is_nil(message)
      assert.equal(code, err.code)
      assert.is_nil((socket:receive()))
      assert.equal(code, select(2, socket:send "x").code)
      assert.equal(1006, socket:close_status())
      local frame = await_frames(has_close)[1]
      if status then assert.equal(status, close_code(frame)) end
      server:reset()
    end

    it("against the protocol end the connection and are told", function()
      broken("protocol", 1002, faults.frame(TEXT, "masked", { masked = true }))
      broken("protocol", nil, faults.frame(3, "reserved"))
      broken("protocol", 1002, faults.frame(CONTINUATION, "of nothing"))
      broken("protocol", 1002, faults.frame(TEXT, "one", { more = true }) .. faults.frame(TEXT, "two"))
      broken("protocol", nil, faults.frame(PING, ("x"):rep(126)))
      broken("protocol", nil, faults.frame(PING, "", { more = true }))
      broken("protocol", 1002, "\193\0") -- a reserved bit
      broken("protocol", 1002, faults.frame(CLOSE, faults.close_payload(1006)))
    end)

    it("of text must be UTF-8", function()
      broken("protocol", 1007, faults.frame(TEXT, "\255"))
      broken("protocol", 1007, faults.frame(TEXT, "\195")) -- ends within a character
      broken("protocol", 1007, faults.frame(TEXT, "\237\160\128")) -- half a surrogate pair
    end)

    it("longer than 16 MiB are refused by their header, in one piece or several", function()
      broken("limit", 1009, faults.frame(BINARY, "x", { size = 16 * MIB + 1 }))
      broken("limit", 1009, faults.frame(BINARY, "x", { more = true }) .. faults.frame(CONTINUATION, "y", { size = 16 * MIB }))
      broken("limit", 1009, faults.frame(BINARY, "z", { size = 2 ^ 52 }))
    end)

    it("must not be split without end", function()
      script(faults.websocket(), send(faults.frame(BINARY, "x", { more = true })),
        send(faults.frame(CONTINUATION, "x", { more = true }), { times = 70000 }), STALL)
      local message, err = assert(connect()):receive(20)
      assert.is_nil(message)
      assert.equal("limit", err.code)
    end)

    it("longer than 16 MiB are not sent either", function()
      local socket = connect_to("")
      local sent, err = socket:send(("x"):rep(16 * MIB + 1))
      assert.is_nil(sent)
      assert.equal("limit", err.code)
    end)

    it("that were read before a failure are still there", function()
      local socket = connect_to(faults.frame(TEXT, "one") .. faults.frame(TEXT, "two") .. faults.frame(TEXT, "\255"))
      opensandbox.sleep(0.001)
      assert.equal("one", socket:receive(10))
      assert.equal("two", socket:receive(10))
      assert.equal("protocol", select(2, socket:receive(10)).code)
    end)
  end)

  -------------------------------------------------------------------------------------------------------------------
  describe("flow", function()
    it("is held up by a peer that does not read: what is queued is bounded", function()
      script(faults.websocket(), { { wait = "read" }, { read_frames = 512 }, { send = faults.frame(TEXT, "all") } }, STALL)
      local socket = assert(connect { ping_interval = 0 })
      local wire, sent = core.state(socket, "websocket").wire, 0
      local task = opensandbox.spawn(function()
        for _ = 1, 512 do
          assert(socket:send(("x"):rep(65536)))
          sent = sent + 1
        end
      end)
      repeat opensandbox.sleep(0.001) until sent > 0 and not wire:writable()
      assert.equal("running", task.status)
      assert.is_true(sent < 400)
      server:release "read"
      assert.equal("all", socket:receive(20))
      assert.equal("done", task.status)
      assert.equal(512, #server:requests("/ws")[1].frames)
    end)

    local function resident() -- bytes
      local file = assert(io.open "/proc/self/statm")
      local pages = file:read("*a"):match("^%d+ (%d+)")
      file:close()
      return pages * 4096
    end

    it("is held up by a reader that does not take messages: what is queued is bounded", function()
      local message = faults.frame(BINARY, ("y"):rep(65536 - 10))
      script(faults.websocket(), send(message, { times = 1024, each = MIB }), STALL)
      server:route("GET", "/other", faults.answer(200))
      local socket = assert(connect { ping_interval = 0.3 }) -- a slow reader is not a dead peer
      collectgarbage()
      local before = resident()
      local other = { method = "GET", base = server.url, path = "/other" }
      local started = core.now()
      -- the server has its turns, and would send on if it could; it answers no ping, but nobody could have heard it
      repeat assert(http.call(settings(), other)) until core.now() - started > 1.2
      assert.is_true(resident() - before < 24 * MIB)
      for _ = 1, 1024 do assert.equal(65526, #assert(socket:receive(20))) end
    end)

    it("of many small messages is bounded, too", function()
      script(faults.websocket(), send(faults.frame(BINARY, ""), { times = 200000 }), STALL)
      local socket = assert(connect())
      for _ = 1, 200000 do assert.equal("", socket:receive(20)) end
    end)
  end)

  -------------------------------------------------------------------------------------------------------------------
  describe("watchdog", function()
    it("asks a silent peer by a ping, and gives up when nothing comes", function()
      script(faults.websocket(), { { read_frames = 1 } }, STALL)
      local socket = assert(connect { ping_interval = 0.03 })
      local message, err = socket:receive(20)
      assert.is_nil(message)
      assert.equal("timeout", err.code)
      assert.truthy(err.message:find("ping", 1, true))
      assert.is_true(err.retryable)
      assert.equal(PING, await_frames(function(frames) return #frames == 1 end)[1].opcode)
      server:await_abort("/ws")
      assert.equal("timeout", select(2, socket:send "x").code)
    end)

    it("is content with a peer that answers", function()
      script(faults.websocket(), { { echo = true } })
      local socket = assert(connect { ping_interval = 0.03 })
      await_frames(function(frames) return #frames >= 4 end)
      assert(socket:send "still there")
      assert.equal("still there", socket:receive(10))
      socket:close()
    end)

    it("ends a peer that floods with pings and reads no answers", function()
      script(faults.websocket(), send(faults.frame(PING, ("p"):rep(125)), { times = 400000 }), STALL)
      local socket = assert(connect { ping_interval = 0.2 })
      local message, err = socket:receive(30)
      assert.is_nil(message)
      assert.equal("timeout", err.code)
      server:await_abort("/ws")
    end)

    it("lets a flood of pings pass that is answered", function()
      script(faults.websocket(), send(faults.frame(PING, "p"), { times = 5000 }), send(faults.frame(TEXT, "after")),
        { { read_frames = 5000 } }, STALL)
      assert.equal("after", assert(connect()):receive(20))
      await_frames(function(frames) return #frames == 5000 and frames[5000].opcode == PONG end)
    end)
  end)

  -------------------------------------------------------------------------------------------------------------------
  describe("end", function()
    it("by the peer gives nil, its code and reason, and is answered alike", function()
      script(faults.websocket(), send(faults.frame(TEXT, "last") .. faults.frame(CLOSE, faults.close_payload(4001, "TAKEN_OVER"))),
        { { read_frames = 1 }, { close = true } })
      local socket = assert(connect())
      assert.equal("last", socket:receive(10))
      for _ = 1, 2 do assert.same({ n = 2 }, { n = select("#", socket:receive(10)), socket:receive(10) }) end
      assert.same({ 4001, "TAKEN_OVER" }, { socket:close_status() })
      local _, err = socket:send "x"
      assert.equal("closed", err.code)
      assert.truthy(err.message:find("4001 TAKEN_OVER", 1, true))
      assert.equal(4001, close_code(await_frames(has_close)[1]))
      assert.is_true(socket:close())
    end)

    it("without a code is 1005", function()
      local socket = connect_to(faults.frame(CLOSE, ""))
      assert.is_nil((socket:receive(10)))
      assert.same({ 1005, "" }, { socket:close_status() })
    end)

    it("without a closing frame is an error", function()
      script(faults.websocket(), send(faults.frame(TEXT, "half", { more = true })), { { close = true } })
      local message, err = assert(connect()):receive(10)
      assert.is_nil(message)
      assert.equal("truncated", err.code)
      script(faults.websocket(), { { reset = true } })
      assert.truthy(({ network = true, truncated = true })[select(2, assert(connect()):receive(10)).code])
    end)

    it("takes nothing from a slow reader, whether there is a closing frame or not", function()
      server:route("GET", "/other", faults.answer(200))
      for _, last in ipairs { faults.frame(CLOSE, faults.close_payload(1000)), "" } do
        script(faults.websocket(), send(faults.frame(BINARY, ("x"):rep(100000)), { times = 30 }), send(last), { { close = true } })
        local socket = assert(connect())
        for _ = 1, 100 do assert(http.call(settings(), { method = "GET", base = server.url, path = "/other" })) end
        for _ = 1, 30 do assert.equal(100000, #assert(socket:receive(10))) end
        local message, err = socket:receive(10)
        assert.is_nil(message)
        assert.equal(last == "" and "truncated" or nil, err and err.code)
        assert.equal(last == "" and 1006 or 1000, (socket:close_status()))
      end
    end)

    it("by us is a handshake, with our code and reason, behind what was sent before", function()
      script(faults.websocket(), { { echo = true } })
      local socket = assert(connect())
      assert(socket:send(("x"):rep(100000)))
      assert.is_true(socket:close(4000, "enough"))
      assert.is_true(socket:close())
      assert.same({ 4000, "enough" }, { socket:close_status() })
      local frames = await_frames(has_close)
      assert.equal(100000, frames[1].size)
      assert.equal(4000, close_code(frames[2]))
      assert.equal("enough", frames[2].payload:sub(3))
      assert.has_error(function() socket:send "x" end)
      assert.truthy(tostring(socket):find("closed", 1, true))
    end)

    it("by us does not wait long for a peer that says nothing, or that floods us", function()
      local started = core.now()
      assert.is_true(connect_to(""):close())
      assert.is_true(connect_to(faults.frame(BINARY, ("x"):rep(1000)), { times = 20000 }):close())
      assert.is_true(core.now() - started < 10)
    end)

    it("by one task wakes another that receives", function()
      local socket = connect_to("")
      local task = opensandbox.spawn(function() return "woken", socket:receive() end)
      opensandbox.sleep(0.001)
      assert.is_true(socket:close())
      assert.same({ "woken" }, { task:join(10) })
    end)

    it("by the collector drops the connection", function()
      script(faults.websocket(), STALL)
      assert(websocket.connect(settings(), { base = server.url, path = "/ws" }))
      collectgarbage()
      collectgarbage()
      server:await_abort("/ws")
    end)

    it("leaves nothing in the loop, whichever way it came", function()
      collectgarbage()
      collectgarbage()
      local before = core.loop():sources()
      for _, bytes in ipairs { faults.frame(CLOSE, ""), faults.frame(TEXT, "\255"), faults.frame(TEXT, "unread") } do
        script(faults.websocket(), send(bytes), STALL)
        local socket = assert(websocket.connect(settings(), { base = server.url, path = "/ws" }))
        socket:receive(10)
        core.state(socket, "websocket").wire:drop()
        socket = nil -- luacheck: ignore
        collectgarbage()
        collectgarbage()
      end
      assert.equal(before, core.loop():sources())
    end)

    if _VERSION == "Lua 5.4" then
      it("comes with <close>", function()
        script(faults.websocket(), { { echo = true } })
        assert(load "local socket <close> = ...")(assert(websocket.connect(settings(), { base = server.url, path = "/ws" })))
        assert.equal(1000, close_code(await_frames(has_close)[1]))
      end)
    end
  end)

  -------------------------------------------------------------------------------------------------------------------
  it("parks only the task that waits, and may be cancelled", function()
    local socket = connect_to("")
    local order = {}
    local waits = opensandbox.spawn(function() return socket:receive() end)
    opensandbox.spawn(function() order[#order + 1] = "other" end):join(10)
    assert.same({ "other" }, order)
    waits:cancel()
    local _, err = waits:join(10)
    assert.equal("cancelled", err.code)
    assert.equal("timeout", select(2, socket:receive(0.01)).code)
  end)

  it("carries messages of several tasks at once", function()
    script(faults.websocket(), { { echo = true } })
    local results = assert(opensandbox.gather((function()
      local functions = {}
      for i = 1, 20 do
        functions[i] = function()
          local socket = assert(connect())
          for n = 1, 20 do
            assert(socket:send(i .. "-" .. n))
            if socket:receive(20) ~= i .. "-" .. n then return "mixed up" end
          end
          return socket:close()
        end
      end
      return functions
    end)()))
    for i = 1, 20 do assert.is_true(results[i]) end
  end)

  it("raises on misuse, at the user's line", function()
    local socket = connect_to("")
    local function raises(pattern, fn)
      local ok, problem = pcall(fn)
      assert.is_false(ok)
      assert.truthy(tostring(problem):find(pattern, 1, true), tostring(problem))
    end
    raises("websocket_spec.lua", function() socket:send(1) end)
    raises("message must be a string", function() socket:send_text() end)
    raises("timeout must be", function() socket:receive "x" end)
    raises("a code that WebSocket allows", function() socket:close(1005) end)
    raises("a code that WebSocket allows", function() socket:close(1000, ("x"):rep(124)) end)
    raises("opensandbox.websocket expected", function() socket.send(nil, "x") end)
    assert.is_false(core.is_closed(socket))
  end)

  it("reaches a service inside a sandbox, by the headers of its endpoint", function()
    local sandbox = faults.sandbox_routes(server)
    server:route("GET", "/v1/sandboxes/" .. sandbox.id .. "/endpoints/9000", faults.json(200, {
      endpoint = server.authority .. "/service", headers = { ["X-Endpoint"] = "secret" },
    }))
    server:route("GET", "/service/chat", faults.join(faults.websocket(), { { echo = true } }))
    local box = assert(opensandbox.create(sandbox.options(opensandbox)))
    local socket = assert(box:websocket { port = 9000, path = "/chat?room=a b", headers = { ["X-Own"] = "1" } })
    assert(socket:send_text "hello")
    assert.equal("hello", socket:receive(10))
    assert.is_true(socket:close())
    local request = server:requests("/service/chat")[1]
    assert.same({ "secret", "1", "room=a%20b" }, { request.headers["x-endpoint"], request.headers["x-own"], request.query })
    assert.is_nil(request.headers["open-sandbox-api-key"])
    local ok, problem = pcall(box.websocket, box, { path = "/" })
    assert.is_false(ok)
    assert.truthy(problem:find("option 'port' is missing", 1, true))
    box:close()
  end)
end)
