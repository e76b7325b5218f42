local agent = require "opensandbox.agent"
local agent_server = require "spec.support.agent_server"
local core = require "opensandbox.core"
local opensandbox = require "opensandbox"

--- The texts of an event list's message chunks.
local function texts(events)
  local list = {}
  for _, event in ipairs(events) do
    local update = event.payload.params and event.payload.params.update
    if update and update.content then list[#list + 1] = update.content.text end
  end
  return list
end

local function collect(session)
  local events = {}
  return events, session:on_event(function(event) events[#events + 1] = event end)
end

local missing = agent_server.missing()

describe("an agent session", missing and function() it("needs the server", function() pending(missing) end) end or function()
  local agents, home

  setup(function() agents, home = agent_server.start() end)
  teardown(function()
    agents:close()
    agent_server.clean()
  end)

  it("takes turns and tells how they ended", function()
    local session = assert(agents:create_session { agent = "mock", cwd = "/tmp" })
    assert.equal("userdata", type(session))
    assert.equal("opensandbox.agent_session: " .. session.id, tostring(session))
    assert.truthy(session.agent_session_id:find "^scripted%-")
    assert.equal("end_turn", assert(session:prompt "hello").stop_reason)
    assert.equal("refusal", assert(session:prompt "refuse").stop_reason)
    assert.equal("max_tokens", assert(session:prompt "max_tokens").stop_reason)
    local result, err = session:prompt "error"
    assert.is_nil(result)
    assert.equal("api", err.code)
    assert.same({ code = -32603, message = "boom", data = { details = "requested" } }, err.rpc)
  end)

  it("streams events in order, numbered without gaps, to the end of the turn", function()
    local session = assert(agents:create_session { agent = "mock" })
    local events, stop = collect(session)
    assert(session:prompt "stream 5")
    assert.same({ "c0", "c1", "c2", "c3", "c4" }, texts(events))
    assert.equal(7, #events)
    for i, event in ipairs(events) do
      assert.equal(2 + i, event.event_index) -- 1 and 2 are session/new and its answer
      assert.equal(session.id, event.session_id)
      assert.equal(session.last_connection_id, event.connection_id)
      assert.truthy(event.created_at > 1.6e9)
    end
    assert.equal("client", events[1].sender)
    assert.equal("session/prompt", events[1].payload.method)
    assert.equal("end_turn", events[7].payload.result.stopReason)
    stop()
    assert(session:prompt "stream 1")
    assert.equal(7, #events)
  end)

  it("gets 3000 updates of one burst, complete and in order", function()
    local session = assert(agents:create_session { agent = "mock" })
    local events = collect(session)
    local result = assert(session:prompt "burst 3000")
    assert.is_nil(result.lost)
    local got = texts(events)
    assert.equal(3000, #got)
    for i, text in ipairs(got) do assert.equal("b" .. i - 1, text) end
    for i, event in ipairs(events) do assert.equal(2 + i, event.event_index) end
  end)

  it("sends 1 as 1, and echoes an id of 0 as a number", function()
    local own = agent_server.start(nil, { LOG = home .. "/numbers" })
    local session = assert(own:create_session { agent = "mock" })
    session:on_request("_test/echo", function(params) return { got = params.number } end)
    local events = collect(session)
    assert(session:prompt [[ask _test/echo {"number":1}]])
    assert(session:raw_send("session/set_config_option", { configId = "color", value = "red", _meta = { one = 1, half = 0.5 } }))
    assert.same({ '{"result":{"got":1}}' }, texts(events))
    own:close()
    local file = assert(io.open(home .. "/numbers"))
    local log = file:read "*a"
    file:close()
    assert.truthy(log:find('"_meta":{"half":0.5,"one":1}', 1, true))
    assert.truthy(log:find('{"id":0,"jsonrpc":"2.0","result":{"got":1}}', 1, true))
    assert.truthy(log:find('"protocolVersion":1}', 1, true))
    assert.is_nil(log:find "%d%.0[,}]")
  end)

  it("carries blocks of content, and text as it is", function()
    local session = assert(agents:create_session { agent = "mock" })
    local events = collect(session)
    assert(session:prompt { "first", agent.image("\0\1\255", "image/png"), agent.resource("file:///a", "A", "text/plain"),
      agent.resource_link("file:///b", "b"), agent.text "blocks" })
    local blocks = assert(require("opensandbox.json").decode(texts(events)[1]))
    assert.same({ "text", "image", "resource", "resource_link", "text" },
      { blocks[1].type, blocks[2].type, blocks[3].type, blocks[4].type, blocks[5].type })
    assert.equal("AAH/", blocks[2].data)
    assert.equal("A", blocks[3].resource.text)
    assert(session:prompt "utf8")
    assert.equal("zażółć 🙂 \226\128\168 line\nsep\r\nend \0.", texts(events)[2])
    assert(session:prompt "big 500000")
    assert.equal(500000, #texts(events)[3])
    assert.has_error(function() session:prompt {} end, nil)
    assert.has_error(function() session:prompt { { text = "no type" } } end, nil)
  end)

  it("refuses a prompt longer than the server takes, and goes on", function()
    local session = assert(agents:create_session { agent = "mock" })
    local result, err = session:prompt { agent.image(("x"):rep(2 * 1024 * 1024), "image/png") }
    assert.is_nil(result)
    assert.equal("limit", err.code)
    assert.truthy(err.message:find("2097152", 1, true))
    assert.equal("end_turn", assert(session:prompt "hello").stop_reason)
  end)

  it("passes the parameters of session/new on", function()
    local session = assert(agents:create_session { agent = "mock", session_init = { cwd = "/var",
      mcpServers = { { name = "m", command = "x", args = {}, env = {} } }, _meta = { Some_Key = 1 } } })
    local events = collect(session)
    assert(session:prompt "mcp")
    local init = require("opensandbox.json").decode(texts(events)[1])
    assert.equal("/var", init.cwd)
    assert.equal("m", init.mcpServers[1].name)
    assert.equal(1, init._meta.Some_Key)
  end)

  it("is cancelled by hand, by a time-out, and with its task", function()
    local session = assert(agents:create_session { agent = "mock" })
    local held = opensandbox.spawn(function() return session:prompt "hold" end)
    local holding = false
    local stop = session:on_event(function(event)
      holding = holding or texts({ event })[1] == "holding"
    end)
    while not holding do opensandbox.sleep(0.002) end
    assert(session:cancel())
    assert.equal("cancelled", assert(held:join()).stop_reason)
    stop()

    local result, err = session:prompt("hold", { timeout = 0.05 })
    assert.is_nil(result)
    assert.equal("timeout", err.code)

    local task = opensandbox.spawn(function() return session:prompt "hold" end)
    opensandbox.sleep(0.01)
    task:cancel()
    result, err = task:join()
    assert.is_nil(result)
    assert.equal("cancelled", err.code)
    assert.equal("end_turn", assert(session:prompt "hello").stop_reason)
  end)

  it("refuses session/cancel by hand; sends other requests and notifications raw", function()
    local session = assert(agents:create_session { agent = "mock" })
    assert.has_error(function() session:raw_send("session/cancel") end)
    local answer = assert(session:raw_send("session/list"))
    assert.truthy(#answer.sessions > 0)
    assert.is_true(session:raw_send("_test/note", { a = 1 }, { notification = true }))
    local result, err = session:raw_send "_test/unknown"
    assert.is_nil(result)
    assert.equal("unsupported", err.code)
    assert.equal(-32601, err.rpc.code)
  end)

  it("prompts in two sessions of one agent and of two, at once", function()
    local list = {}
    for i, name in ipairs { "mock", "mock", "codex" } do list[i] = assert(agents:create_session { agent = name }) end
    local seen = {}
    for i, session in ipairs(list) do
      seen[i] = {}
      session:on_event(function(event) seen[i][#seen[i] + 1] = texts({ event })[1] end)
    end
    local results = assert(opensandbox.gather {
      function() return list[1]:prompt "hold" end,
      function()
        assert(list[2]:prompt "stream 20")
        return list[2]:prompt "release"
      end,
      function() return list[3]:prompt "stream 20" end,
    })
    for i = 1, 3 do assert.equal("end_turn", results[i].stop_reason) end
    assert.same({ "holding" }, seen[1])
    assert.equal(20, #seen[2])
    assert.equal(20, #seen[3])
  end)

  it("lets a handler call what it likes, waiting calls included", function()
    local session = assert(agents:create_session { agent = "mock" })
    local other = assert(agents:create_session { agent = "mock" })
    local order = {}
    local stop = session:on_event(function(event)
      local text = texts({ event })[1]
      if text then
        order[#order + 1] = text
        order[#order + 1] = assert(other:prompt "hello").stop_reason
      end
    end)
    assert(session:prompt "stream 2")
    assert.same({ "c0", "end_turn", "c1", "end_turn" }, order)
    stop()
  end)

  it("gives the error of a handler to the prompt, whose turn is cancelled", function()
    local session = assert(agents:create_session { agent = "mock" })
    session:on_event(function(event)
      if texts({ event })[1] == "holding" then error "boom" end
    end)
    local result, err = session:prompt "hold"
    assert.is_nil(result)
    assert.equal("handler", err.code)
    assert.truthy(err.message:find("boom", 1, true))
    assert.truthy(err.traceback:find("session_spec.lua", 1, true))
    assert.equal("end_turn", assert(session:prompt "hello").stop_reason)
  end)

  it("tells at once, with the exit code, when its agent crashes; the next prompt resumes it with its history", function()
    local session = assert(agents:create_session { agent = "claude" })
    local before = session.agent_session_id
    assert(session:prompt "remember 42")
    local result, err = session:prompt "crash 7"
    assert.is_nil(result)
    assert.equal("unavailable", err.code)
    assert.equal(7, err.exit_code)
    local events = collect(session)
    assert(session:prompt { "blocks" })
    assert.equal("scripted-1", before)
    local text = texts(events)[1]
    assert.truthy(text:find("Previous session history is replayed below", 1, true))
    assert.truthy(text:find("remember 42", 1, true))
    events = collect(session)
    assert(session:prompt "blocks")
    assert.is_nil(texts(events)[1]:find("Previous session", 1, true)) -- once
    for event in agents:each_event { session_id = session.id } do
      if event.sender == "client" and event.payload.method == "session/prompt" then
        assert.is_nil(event.payload.params.prompt[1].text:find("Previous session", 1, true)) -- nor in the history
      end
    end
  end)

  it("ends with an error where the agent gives no session id, and is made anew under the same id", function()
    local own = agent_server.start(nil, { NO_SESSION = "1" })
    local session, err = own:create_session { agent = "mock", id = "x" }
    assert.is_nil(session)
    assert.equal("protocol", err.code)
    session, err = own:create_session { agent = "mock", id = "x" }
    assert.is_nil(session)
    assert.equal("protocol", err.code)
    own:close()
  end)

  it("tells at once that its agent ended before it began", function()
    local own = agent_server.start(nil, { EXIT = "9" })
    local session, err = own:create_session { agent = "mock" }
    assert.is_nil(session)
    assert.equal("unavailable", err.code)
    assert.equal(9, err.exit_code)
    own:close()
  end)

  it("logs in where the agent offers an API key for that", function()
    local own = agent_server.start(nil, { AUTH = "1" })
    local session = assert(own:create_session { agent = "mock" })
    assert.equal("end_turn", assert(session:prompt "hello").stop_reason)
    own:close()
  end)

  it("tells which agents there are not", function()
    local session, err = agents:create_session { agent = "amp" }
    assert.is_nil(session)
    assert.equal("not_found", err.code)
    assert.equal("agent_not_installed", err.api_code)
    session, err = agents:create_session { agent = "nobody" }
    assert.is_nil(session)
    assert.equal("invalid", err.code)
  end)

  it("is listed, found, destroyed and used again", function()
    local session = assert(agents:create_session { agent = "mock", id = "known" })
    local again, err = agents:create_session { agent = "mock", id = "known" }
    assert.is_nil(again)
    assert.equal("conflict", err.code)
    assert.equal(session, assert(agents:get_session "known"))
    assert.equal(session, assert(agents:resume_session "known"))
    assert.equal(session, assert(agents:resume_or_create_session { agent = "mock", id = "known", mode = "plan" }))
    assert.equal("plan", assert(session:modes()).currentModeId)
    local fresh = assert(agents:resume_or_create_session { agent = "mock", id = "fresh" })
    assert.equal("fresh", fresh.id)
    local found = false
    local page = assert(agents:list_sessions { limit = 3 })
    assert.equal(3, #page.items)
    while page do
      for _, one in ipairs(page.items) do found = found or one == session end
      page = page.next_cursor and assert(agents:list_sessions { limit = 3, cursor = page.next_cursor })
    end
    assert.is_true(found)
    assert.is_nil(session.destroyed_at)
    assert.equal(session, assert(agents:destroy_session "known"))
    assert.truthy(session.destroyed_at)
    assert.equal("end_turn", assert(session:prompt "hello").stop_reason)
    for _, call in ipairs { "get_session", "resume_session", "destroy_session" } do
      local none
      none, err = agents[call](agents, "nobody")
      assert.is_nil(none)
      assert.equal("not_found", err.code)
    end
    assert.equal("known", session:to_record().id)
    assert.equal(session, assert(session:refresh()))
  end)

  it("answers from the stream where the server's POST hangs", function()
    local own = agent_server.start(nil, { SANDBOX_AGENT_ACP_REQUEST_TIMEOUT_MS = "100" })
    local session, other = assert(own:create_session { agent = "mock" }), assert(own:create_session { agent = "mock" })
    local held = opensandbox.spawn(function() return session:prompt "hold" end)
    opensandbox.sleep(0.3) -- the server's limit is over; from then on it never answers the POST
    assert(other:prompt "release")
    assert.equal("end_turn", assert(held:join(5)).stop_reason)
    own:close()
  end)

  it("fails within two seconds when the server is killed in the middle of a prompt, and is resumed on the next one", function()
    local own = agent_server.start()
    local session = assert(own:create_session { agent = "mock" })
    assert(session:prompt "before")
    local prompt = opensandbox.spawn(function() return session:prompt "hold" end)
    opensandbox.sleep(0.05)
    local pids = agent_server.pids(own.sandbox_id:match "%d+$")
    assert.equal(1, #pids)
    os.execute("kill -9 " .. pids[1])
    local started = core.now()
    local result, err = prompt:join(5)
    assert.is_nil(result)
    assert.is_true(err.code == "connect" or err.code == "network", tostring(err))
    assert.truthy(core.now() - started < 2)
    local events = collect(session)
    assert(session:prompt "blocks") -- a new server, started by ensure_server
    assert.truthy(texts(events)[1]:find("before", 1, true))
    own:close()
  end)

  it("cannot be used after its client was closed", function()
    local own = agent_server.start()
    local session = assert(own:create_session { agent = "mock" })
    assert.is_true(own:close())
    assert.is_true(own:close())
    assert.has_error(function() session:prompt "hello" end)
    assert.has_error(function() own:health() end)
    assert.has_error(function() own:create_session { agent = "mock" } end)
  end)
end)
