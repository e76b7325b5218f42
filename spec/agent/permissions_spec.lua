local agent_server = require "spec.support.agent_server"
local opensandbox = require "opensandbox"

local missing = agent_server.missing()

local function said(agents, session)
  local list = {}
  for event in agents:each_event { session_id = session.id } do
    local update = event.payload.params and event.payload.params.update
    if update and update.content then list[#list + 1] = update.content.text end
  end
  return list[#list]
end

describe("permission requests", missing and function() it("needs the server", function() pending(missing) end) end or function()
  local agents, session

  setup(function() agents = agent_server.start() end)
  before_each(function() session = assert(agents:create_session { agent = "mock" }) end)
  teardown(function()
    agents:close()
    agent_server.clean()
  end)

  it("are answered from inside the handler", function()
    local seen
    session:on_permission_request(function(request)
      seen = request
      assert(session:respond_permission(request.id, "once"))
    end)
    assert.equal("end_turn", assert(session:prompt "permission").stop_reason)
    assert.equal("permission:a1", said(agents, session))
    assert.same({ "once", "always", "reject" }, seen.available_replies)
    assert.same({ option_id = "aa", name = "allow_always", kind = "allow_always" }, seen.options[2])
    assert.equal("Write hello.txt", seen.tool_call.title)
    assert.equal("hello.txt", seen.tool_call.rawInput.path)
    assert.equal(session.id, seen.session_id)
    assert.equal(session.agent_session_id, seen.agent_session_id)
    assert.equal(session.agent_session_id, seen.raw.sessionId)
    assert.truthy(seen.created_at > 1.6e9)
  end)

  it("are answered later, by another task, while the prompt waits", function()
    local open
    session:on_permission_request(function(request) open = request end)
    local prompt = opensandbox.spawn(function() return session:prompt "permission" end)
    while not open do opensandbox.sleep(0.002) end
    assert.equal("running", prompt.status)
    assert(agents:respond_permission(open.id, "always"))
    assert.equal("end_turn", assert(prompt:join()).stop_reason)
    assert.equal("permission:aa", said(agents, session))
    local again, err = session:respond_permission(open.id, "once")
    assert.is_nil(again)
    assert.equal("not_found", err.code)
  end)

  it("take what the agent offers: always may be once, reject may be for ever", function()
    local stop = session:on_permission_request(function(request) assert(session:respond_permission(request.id, "always")) end)
    assert(session:prompt "permission only allow_once")
    assert.equal("permission:a1", said(agents, session))
    stop()
    session:on_permission_request(function(request) assert(session:respond_permission(request.id, "reject")) end)
    assert(session:prompt "permission only allow_once reject_always")
    assert.equal("permission:ra", said(agents, session))
  end)

  it("cannot be answered with what the agent does not offer; it is told", function()
    local result, err
    session:on_permission_request(function(request) result, err = session:respond_permission(request.id, "reject") end)
    assert(session:prompt "permission only allow_once")
    assert.is_nil(result)
    assert.equal("unsupported", err.code)
    assert.same({ "once" }, err.available_replies)
    assert.equal("permission failed: -32603", said(agents, session))
    assert.has_error(function() session:respond_permission("x", "maybe") end)
  end)

  it("without a listener are cancelled at once", function()
    assert.equal("cancelled", assert(session:prompt "permission").stop_reason)
  end)

  it("are answered raw", function()
    session:on_permission_request(function(request)
      assert(session:raw_respond_permission(request.id, { outcome = { outcome = "selected", optionId = "r1" } }))
    end)
    assert(session:prompt "permission")
    assert.equal("permission:r1", said(agents, session))
  end)

  it("can be approved automatically, some kinds only", function()
    local stop = session:auto_approve("always", { kinds = { "edit" } })
    assert(session:prompt "permission")
    assert.equal("permission:aa", said(agents, session))
    stop()
    session:auto_approve()
    assert(session:prompt "permission")
    assert.equal("permission:a1", said(agents, session))
  end)

  it("are cancelled when their session is destroyed or their turn cancelled", function()
    for _, finish in ipairs { function() return session:cancel() end, function() return agents:destroy_session(session.id) end } do
      local open
      local stop = session:on_permission_request(function(request) open = request end)
      local prompt = opensandbox.spawn(function() return session:prompt "permission" end)
      while not open do opensandbox.sleep(0.002) end
      assert(finish())
      assert.equal("cancelled", assert(prompt:join()).stop_reason)
      stop()
    end
  end)

  it("whose handler fails are cancelled, and the prompt tells why", function()
    session:on_permission_request(function() error "boom" end)
    local result, err = session:prompt "permission"
    assert.is_nil(result)
    assert.equal("handler", err.code)
    assert.equal("end_turn", assert(session:prompt "hello").stop_reason)
  end)

  it("and their answers are in the history", function()
    session:auto_approve "once"
    assert(session:prompt "permission")
    local asked, answered
    for event in agents:each_event { session_id = session.id } do
      if event.payload.method == "session/request_permission" then asked = event end
      if event.sender == "client" and event.payload.result then answered = event end
    end
    assert.equal("agent", asked.sender)
    assert.equal(asked.payload.id, answered.payload.id)
    assert.equal("a1", answered.payload.result.outcome.optionId)
    assert.truthy(answered.event_index > asked.event_index)
  end)
end)
