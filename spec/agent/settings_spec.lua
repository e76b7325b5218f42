local agent_server = require "spec.support.agent_server"

local missing = agent_server.missing()

local function option(session, id)
  for _, one in ipairs(assert(session:config_options())) do
    if one.id == id then return one end
  end
end

describe("settings of an agent session", missing and function() it("needs the server", function() pending(missing) end) end or function()
  local running = {}

  --- A session with an agent that offers its settings in some way; one server for each way.
  local function session_with(settings)
    local key = settings or "all"
    running[key] = running[key] or agent_server.start(nil, settings and { [settings] = "1" })
    return assert(running[key]:create_session { agent = "claude" })
  end

  teardown(function()
    for _, agents in pairs(running) do agents:close() end
    agent_server.clean()
  end)

  it("are set by category, whatever the agent calls its options", function()
    local session = session_with()
    assert(session:set_model "large")
    assert.equal("large", option(session, "model").currentValue)
    assert(session:set_thought_level "high")
    assert.equal("high", option(session, "effort").currentValue)
    assert(session:set_mode "plan")
    assert.equal("plan", assert(session:modes()).currentModeId)
    local stored = session:to_record()
    assert.equal("plan", stored.modes.currentModeId)
    assert.equal("large", stored.configOptions[1].currentValue)
  end)

  it("are set by id: grouped, boolean and without category", function()
    local session = session_with()
    assert(session:set_config_option("color", "blue"))
    assert.equal("blue", option(session, "color").currentValue)
    assert(session:set_config_option("verbose", true))
    assert.is_true(option(session, "verbose").currentValue)
    assert.has_error(function() session:set_config_option("verbose", "yes") end)
    assert.has_error(function() session:set_config_option("color", true) end)
  end)

  it("that are not supported are errors that list what is", function()
    local session = session_with()
    local result, err = session:set_model "huge"
    assert.is_nil(result)
    assert.equal("invalid", err.code)
    assert.same({ "small", "large" }, err.allowed_values)
    assert.truthy(err.message:find("small, large", 1, true))
    result, err = session:set_mode "yolo"
    assert.is_nil(result)
    assert.same({ "normal", "plan" }, err.allowed_values)
    result, err = session:set_config_option("color", "green")
    assert.is_nil(result)
    assert.same({ "red", "blue" }, err.allowed_values)
    result, err = session:set_config_option("size", "x")
    assert.is_nil(result)
    assert.equal("unsupported", err.code)
    assert.same({ "model", "effort", "color", "verbose" }, err.available_config_ids)
    result, err = session_with("NO_MODES"):set_mode "yolo"
    assert.is_nil(result)
    assert.equal("invalid", err.code)
  end)

  it("change when the agent says so", function()
    local session = session_with()
    assert(session:prompt "mode plan")
    assert.equal("plan", assert(session:modes()).currentModeId)
    assert(session:prompt "model large")
    assert.equal("large", option(session, "model").currentValue)
  end)

  it("of category mode stand for modes where the agent has no session/set_mode", function()
    local session = session_with "NO_MODES"
    local modes = assert(session:modes())
    assert.equal("normal", modes.currentModeId)
    assert.same({ "normal", "plan" }, { modes.availableModes[1].id, modes.availableModes[2].id })
    assert(session:set_mode "plan")
    assert.equal("plan", assert(session:modes()).currentModeId)
    assert.equal("plan", option(session, "agent_mode").currentValue)
  end)

  it("fall back to session/set_model where the agent offers models", function()
    local session = session_with "MODELS"
    assert(session:set_model "large")
    assert.equal("large", session:to_record().models.currentModelId)
    local result, err = session:set_model "huge"
    assert.is_nil(result)
    assert.same({ "small", "large" }, err.allowed_values)
  end)

  it("are asked of the server's list of agents where session/new names none", function()
    local session = session_with "BARE"
    assert.truthy(option(session, "model"))
    local modes = assert(session:modes())
    assert.truthy(#modes.availableModes > 0)
    local result, err = session:set_thought_level "high"
    assert.is_nil(result)
    assert.equal("unsupported", err.code)
    assert.same({ "model", "mode" }, err.available_categories)
  end)

  it("can be given when a session is made; one that cannot be set undoes it", function()
    local agents = running.all
    local session = assert(agents:create_session { agent = "claude", model = "large", mode = "plan", thought_level = "high" })
    assert.equal("large", option(session, "model").currentValue)
    assert.equal("high", option(session, "effort").currentValue)
    assert.equal("plan", assert(session:modes()).currentModeId)
    local none, err = agents:create_session { agent = "claude", id = "undone", model = "huge" }
    assert.is_nil(none)
    assert.equal("invalid", err.code)
    assert.truthy(assert(agents:get_session "undone").destroyed_at)
  end)
end)
