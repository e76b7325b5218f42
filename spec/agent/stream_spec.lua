local agent = require "opensandbox.agent"
local core = require "opensandbox.core"
local faults = require "spec.support.faults"
local json = require "opensandbox.json"
local opensandbox = require "opensandbox"

-- What the real server does to streams only under load, or not at all: gaps, cuts, silence.
describe("the stream of an agent's messages", function()
  local server, agents

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)

  local function message(id, value)
    return { { send = ("event: message\nid: %d\ndata: %s\n\n"):format(id, json.encode(value)) } }
  end

  local function answer(id, number, result)
    return message(id, { jsonrpc = "2.0", id = number, result = result })
  end

  local function update(id, text)
    return message(id, { jsonrpc = "2.0", method = "session/update",
      params = { sessionId = "s", update = { sessionUpdate = "agent_message_chunk", content = { type = "text", text = text } } } })
  end

  local head = faults.head(200, { ["Content-Type"] = "text/event-stream" })
  local stall = { { stall = true } }

  --- A server on which `initialize` and `session/new` go well; the prompt's POST does `prompt`, and the streams are as given: the first
  -- one goes on after the answer to session/new, at the prompt.
  local function serve(prompt, first, ...)
    server:reset()
    server:route("GET", "/v1/health", faults.json(200, { status = "ok" }))
    server:route("DELETE", "/v1/acp/*", faults.answer(204))
    server:route("POST", "/v1/acp/*", faults.json(200, { jsonrpc = "2.0", id = 1, result = { protocolVersion = 1 } }),
      faults.join({ { release = "new" } }, faults.json(200, { jsonrpc = "2.0", id = 2, result = { sessionId = "s" } })),
      faults.join({ { release = "prompt" } }, prompt))
    local begin = faults.join(head, answer(1, 1, { protocolVersion = 1 }), { { wait = "new" } }, answer(2, 2, { sessionId = "s" }),
      { { wait = "prompt" } })
    server:route("GET", "/v1/acp/*", faults.join(begin, first), ...)
    agents = assert(agent.connect { base_url = server.url, connection = { retry = false }, start_timeout = 0.5 })
    return assert(agents:create_session { agent = "a" })
  end

  local function prompt_texts(session)
    local texts = {}
    session:on_event(function(event)
      local params = event.payload.params
      if params and params.update then texts[#texts + 1] = params.update.content.text end
    end)
    local result, err = session:prompt "go"
    return texts, result, err
  end

  local function streams()
    local list = {}
    for _, request in ipairs(server:requests()) do
      if request.method == "GET" and request.path:find "^/v1/acp/" then list[#list + 1] = request.headers["last-event-id"] end
    end
    return list
  end

  after_each(function() agents:close() end)

  it("is read again where a gap shows, before anything after it is handed on", function()
    local session = serve(stall, faults.join(update(3, "u0"), update(6, "u3"), stall),
      faults.join(head, update(4, "u1"), update(5, "u2"), update(6, "u3"), answer(7, 3, { stopReason = "end_turn" }), stall))
    local texts, result = prompt_texts(session)
    assert.equal("end_turn", result.stop_reason)
    assert.is_nil(result.lost)
    assert.same({ "u0", "u1", "u2", "u3" }, texts)
    assert.same({ "0", "3" }, streams())
  end)

  it("tells how many messages the server has lost for good", function()
    local session = serve(stall, faults.join(update(3, "u0"), update(6, "u3"), stall),
      faults.join(head, update(6, "u3"), answer(7, 3, { stopReason = "end_turn" }), stall))
    local texts, result = prompt_texts(session)
    assert.same({ "u0", "u3" }, texts)
    assert.equal(2, result.lost)
  end)

  it("is opened again where it broke; nothing is handed on twice", function()
    local session = serve(stall, faults.join(update(3, "u0"), { { send = "id: 4\ndata: {\"half" }, { reset = true } }),
      faults.join(head, update(3, "u0"), update(4, "u1"), answer(5, 3, { stopReason = "end_turn" }), stall))
    local texts, result = prompt_texts(session)
    assert.equal("end_turn", result.stop_reason)
    assert.same({ "u0", "u1" }, texts)
    assert.same({ "0", "3" }, streams())
  end)

  it("may be cut anywhere, and speak in between", function()
    local finish = answer(5, 3, { stopReason = "end_turn" })
    local text = update(3, "u0")[1].send .. ": heartbeat\n\n" .. update(4, "\226\128\168")[1].send .. finish[1].send
    local session = serve(stall, { { send = text, each = 3 }, { stall = true } })
    local texts, result = prompt_texts(session)
    assert.equal("end_turn", result.stop_reason)
    assert.same({ "u0", "\226\128\168" }, texts)
  end)

  it("is helped out by the POST's own answer where it keeps silent", function()
    local session = serve(faults.json(200, { jsonrpc = "2.0", id = 3, result = { stopReason = "end_turn" } }), stall)
    local _, result = prompt_texts(session)
    assert.equal("end_turn", result.stop_reason)
  end)

  it("decides where the POST breaks off", function()
    local session = serve({ { reset = true } }, faults.join(update(3, "u0"), answer(4, 3, { stopReason = "end_turn" }), stall))
    local texts, result = prompt_texts(session)
    assert.equal("end_turn", result.stop_reason)
    assert.same({ "u0" }, texts)
  end)

  it("is given up with its agent where the server has forgotten it", function()
    local session = serve(faults.json(404, { type = "urn:sandbox-agent:error:session_not_found", status = 404 }), stall)
    local _, result, err = prompt_texts(session)
    assert.is_nil(result)
    assert.equal("not_found", err.code)
    assert.equal("session_not_found", err.api_code)
    -- the next call makes a new one under another name (whose session/new is not answered here)
    server:route("POST", "/v1/acp/*", faults.json(200, { jsonrpc = "2.0", id = 1, result = {} }))
    result, err = session:prompt "again"
    assert.is_nil(result)
    assert.equal("timeout", err.code)
    local names = {}
    for _, request in ipairs(server:requests()) do
      if request.method == "POST" then names[request.path] = true end
    end
    local count = 0
    for _ in pairs(names) do count = count + 1 end
    assert.equal(2, count)
  end)

  it("may bring answers without a result, which are errors", function()
    local session = serve(stall, faults.join(message(3, { jsonrpc = "2.0", id = 3 }), stall))
    local _, result, err = prompt_texts(session)
    assert.is_nil(result)
    assert.equal("protocol", err.code)
  end)

  it("is not asked about answers that come as plain text: they are told as they are", function()
    local session = serve(faults.answer(413, "Failed to buffer the request body: length limit exceeded"), stall)
    local _, result, err = prompt_texts(session)
    assert.is_nil(result)
    assert.equal("limit", err.code)
    assert.truthy(err.message:find("length limit exceeded", 1, true))
  end)

  it("goes on while the host steps", function()
    local session = serve(stall, faults.join(update(3, "u0"), answer(4, 3, { stopReason = "end_turn" }), stall))
    local done
    opensandbox.spawn(function()
      local texts, result = prompt_texts(session)
      done = { texts[1], result.stop_reason }
    end)
    local deadline = core.now() + 10
    while not done and core.now() < deadline do opensandbox.step() end
    assert.same({ "u0", "end_turn" }, done)
  end)
end)
