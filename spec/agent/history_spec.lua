local agent = require "opensandbox.agent"
local agent_server = require "spec.support.agent_server"
local json = require "opensandbox.json"
local script = require "spec.support.script"

local missing = agent_server.missing()
local has_sqlite = pcall(require, "luasql.sqlite3")

local function session_record(id, created)
  return {
    id = id, agent = "mock", agentSessionId = "a-" .. id, lastConnectionId = "c", createdAt = created, sandboxId = "local/x",
    sessionInit = { cwd = "/", mcpServers = json.array() }, configOptions = { { id = "model", type = "boolean", currentValue = true } },
  }
end

local function event(session_id, index)
  local result = { text = "it's \"§\"\n\0", list = json.array(), none = json.null }
  return { id = session_id .. index, eventIndex = index, sessionId = session_id, createdAt = 1795206754312 + index, connectionId = "c",
    sender = "agent", payload = { jsonrpc = "2.0", id = index, result = result } }
end

local drivers = { memory = function() return agent.memory() end }
if has_sqlite then
  drivers.sqlite = function() return assert(agent.sqlite(":memory:")) end
end

for name, make in pairs(drivers) do
  describe("the " .. name .. " driver", function()
    local driver

    before_each(function() driver = make() end)
    after_each(function() if driver.close then driver:close() end end)

    it("keeps sessions: inserted, replaced, listed by age in pages", function()
      assert.is_nil(driver:get_session "a")
      for i, id in ipairs { "c", "b", "a" } do assert(driver:update_session(session_record(id, 1000 + i % 3))) end
      local changed = session_record("b", 1002)
      changed.destroyedAt, changed.agentSessionId, changed.sandboxId = 1795206754312, "it's", nil
      assert(driver:update_session(changed))
      assert.same(changed, driver:get_session "b")
      local first = assert(driver:list_sessions { limit = 2 })
      assert.same({ "a", "c" }, { first.items[1].id, first.items[2].id })
      local second = assert(driver:list_sessions { limit = 2, cursor = first.next_cursor })
      assert.same({ "b" }, { second.items[1].id })
      assert.is_nil(second.next_cursor)
    end)

    it("keeps events in the order of their numbers, each number once", function()
      for _, index in ipairs { 2, 1, 3 } do assert(driver:insert_event("s", event("s", index))) end
      assert(driver:insert_event("other", event("other", 1)))
      local taken = event("s", 2)
      taken.id = "another"
      local ok, err = driver:insert_event("s", taken)
      assert.is_nil(ok)
      assert.equal("conflict", err.code)
      local first = assert(driver:list_events { session_id = "s", limit = 2 })
      assert.same({ event("s", 1), event("s", 2) }, first.items)
      assert.equal("[]", json.encode(first.items[1].payload.result.list))
      local second = assert(driver:list_events { session_id = "s", limit = 2, cursor = first.next_cursor })
      assert.same({ event("s", 3) }, second.items)
      assert.is_nil(second.next_cursor)
      assert.same({}, assert(driver:list_events { session_id = "nobody" }).items)
    end)

    it("is not changed by what is done to its records", function()
      local record = session_record("a", 1)
      assert(driver:update_session(record))
      record.sessionInit.cwd = "/changed"
      driver:get_session("a").sessionInit.cwd = "/changed"
      assert.equal("/", driver:get_session("a").sessionInit.cwd)
    end)
  end)
end

describe("the memory driver", function()
  it("drops the oldest beyond its limits", function()
    local driver = agent.memory { max_sessions = 2, max_events = 2 }
    for i = 1, 3 do
      assert(driver:update_session(session_record("s" .. i, i)))
      assert(driver:insert_event("s3", event("s3", i)))
    end
    assert.is_nil(driver:get_session "s1")
    assert.equal(2, #driver:list_sessions().items)
    assert.equal(2, driver:list_events({ session_id = "s3" }).items[1].eventIndex)
  end)
end)

describe("the history of agent sessions", missing and function() it("needs the server", function() pending(missing) end) end or function()
  local agents, home

  setup(function() agents, home = agent_server.start { replay_max_events = 4, replay_max_chars = 2000 } end)
  teardown(function()
    agents:close()
    agent_server.clean()
  end)

  it("is read page by page, and as an iterator", function()
    local session = assert(agents:create_session { agent = "mock" })
    assert(session:prompt "stream 10")
    local page = assert(agents:events { session_id = session.id, limit = 5 })
    assert.equal(5, #page.items)
    assert.equal("session/new", page.items[1].payload.method)
    assert.equal(session.agent_session_id, page.items[2].payload.result.sessionId)
    page = assert(agents:events { session_id = session.id, limit = 5, cursor = page.next_cursor })
    assert.equal(6, page.items[1].event_index)
    local count = 0
    for one in agents:each_event { session_id = session.id } do
      count = count + 1
      assert.equal(count, one.event_index)
    end
    assert.equal(14, count)
    for _ in agents:each_event { session_id = "nobody" } do error "no event expected" end
  end)

  it("is told to a resumed session, as much of it as allowed", function()
    local session = assert(agents:create_session { agent = "codex" })
    for i = 1, 3 do assert(session:prompt("word" .. i)) end
    assert.is_nil(session:prompt "crash")
    assert(session:prompt "blocks")
    local told
    for one in agents:each_event { session_id = session.id } do
      local update = one.payload.params and one.payload.params.update
      if update and update.content then told = json.decode(update.content.text) or told end
    end
    local lines = {}
    for line in told[1].text:gmatch "[^\n]+" do lines[#lines + 1] = line end
    assert.equal(5, #lines) -- a heading and the last four
    local first = json.decode(lines[2])
    assert.truthy(first.createdAt and first.sender and first.payload)
    assert.is_nil(told[1].text:find("word1", 1, true))
    assert.truthy(told[1].text:find("word3", 1, true))
    assert.truthy(lines[2]:find '^{"createdAt":%d+,"sender":"')

    assert(session:prompt(("long "):rep(1000)))
    assert.is_nil(session:prompt "crash")
    assert(session:prompt "blocks")
    for one in agents:each_event { session_id = session.id } do
      local update = one.payload.params and one.payload.params.update
      if update and update.content then told = json.decode(update.content.text) or told end
    end
    assert.truthy(told[1].text:find "%[history truncated%]$")
    assert.truthy(#told[1].text <= 2000 + #"\n[history truncated]")
  end)

  it("whose driver fails ends the turn with the driver's error", function()
    local driver = agent.memory()
    local own = agent_server.start { persist = driver }
    local session = assert(own:create_session { agent = "mock" })
    local insert = driver.insert_event
    driver.insert_event = function() return nil, require("opensandbox.errors").new { code = "io", message = "disk full" } end
    local result, err = session:prompt "hello"
    assert.is_nil(result)
    assert.equal("io", err.code)
    driver.insert_event = insert
    assert.equal("end_turn", assert(session:prompt "hello").stop_reason)
    own:close()
  end)

  if has_sqlite then
    it("of a killed script is found and gone on with by the next one", function()
      local path = home .. "/history.db"
      local _, env = agent_server.home()
      local child = script.start(([[
        local agent = require "opensandbox.agent"
        local agents = assert(agent.start { binary = %q, env = %s, persist = assert(agent.sqlite %q) })
        local session = assert(agents:create_session { agent = "mock", id = "kept", mode = "plan" })
        assert(session:prompt "the word is swordfish")
        print "ready"
        session:prompt "hold"
      ]]):format(agent_server.binary(), agent_server.literal(env), path))
      assert.equal("ready", child:line())
      child:kill(9)
      child:finish()
      local driver = assert(agent.sqlite(path))
      local own = agent_server.start { persist = driver }
      local page = assert(own:list_sessions())
      assert.equal(1, #page.items)
      assert.equal("kept", page.items[1].id)
      local before = #assert(own:events { session_id = "kept" }).items
      assert.truthy(before >= 5)
      local session = assert(own:resume_session "kept")
      local told
      session:on_event(function(one)
        local update = one.payload.params and one.payload.params.update
        if update and update.content then told = update.content.text end
        assert(one.event_index > before)
      end)
      assert(session:prompt "blocks")
      assert.truthy(told:find("swordfish", 1, true))
      own:close()
      driver:close()
    end)
  end
end)
