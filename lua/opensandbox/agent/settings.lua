--- Model, mode, thought level and the other options of a session, whatever way its agent offers them.
--
-- Options are found by category, never by id: agents name them as they like. What a session knows of them is in its record, in the
-- protocol's own shape: `configOptions`, `modes` `{currentModeId, availableModes}`, `models` `{currentModelId, availableModels}`.
local errors = require "opensandbox.errors"
local json = require "opensandbox.json"
local problem = require "opensandbox.agent.problem"

local M = {}

local NO_SUCH_METHOD = -32601

local function is_table(value) return type(value) == "table" end

--- Takes over what an answer to session/new says about settings.
function M.read(record, result)
  record.configOptions = is_table(result.configOptions) and result.configOptions or nil
  record.modes = is_table(result.modes) and result.modes or nil
  record.models = is_table(result.models) and result.models or nil
end

local function find(options, field, value)
  for _, option in ipairs(options or {}) do
    if is_table(option) and option[field] == value then return option end
  end
end

--- The choices of an option, groups flattened.
local function choices(option)
  local list = {}
  for _, entry in ipairs(is_table(option.options) and option.options or {}) do
    if is_table(entry) and type(entry.value) == "string" then
      list[#list + 1] = entry
    elseif is_table(entry) and is_table(entry.options) then
      for _, choice in ipairs(choices(entry)) do list[#list + 1] = choice end
    end
  end
  return list
end

local function names(list, field)
  local result, seen = {}, {}
  for _, entry in ipairs(list or {}) do
    local name = is_table(entry) and entry[field]
    if type(name) == "string" and not seen[name] then
      seen[name] = true
      result[#result + 1] = name
    end
  end
  return result
end

local function contains(list, value)
  for _, item in ipairs(list) do
    if item == value then return true end
  end
  return false
end

---------------------------------------------------------------------------------------------------------------------
-- what changed

local function set_current_mode(record, mode)
  record.modes = record.modes or { availableModes = json.array() }
  record.modes.currentModeId = mode
end

local function set_option(record, id, value)
  local option = find(record.configOptions, "id", id)
  if not option then return end
  option.currentValue = value
  if option.category == "mode" and type(value) == "string" then set_current_mode(record, value) end
end

local function note_mode(record, mode)
  set_current_mode(record, mode)
  local option = find(record.configOptions, "category", "mode")
  if option then option.currentValue = mode end
end

--- Notes what an update of the agent's says about settings.
-- @treturn boolean whether the record changed
function M.observe(record, update)
  if update.sessionUpdate == "config_option_update" and is_table(update.configOptions) then
    record.configOptions = update.configOptions
    local mode = find(record.configOptions, "category", "mode")
    if mode and type(mode.currentValue) == "string" then set_current_mode(record, mode.currentValue) end
  elseif update.sessionUpdate == "current_mode_update" and type(update.currentModeId) == "string" then
    note_mode(record, update.currentModeId)
  else
    return false
  end
  return true
end

--- Notes what a call that went well has set.
-- @treturn boolean whether the record changed
function M.note(record, method, params, result)
  if method == "session/set_mode" and type(params.modeId) == "string" then
    note_mode(record, params.modeId)
  elseif method == "session/set_model" and type(params.modelId) == "string" then
    if record.models then record.models.currentModelId = params.modelId end
    local option = find(record.configOptions, "category", "model")
    if option then option.currentValue = params.modelId end
  elseif method == "session/set_config_option" then
    if is_table(result) and is_table(result.configOptions) then record.configOptions = result.configOptions end
    set_option(record, params.configId, params.value)
  else
    return false
  end
  return true
end

---------------------------------------------------------------------------------------------------------------------
-- reading

--- The options of a session. An agent that named none is asked for through the server's list of agents, once.
-- @treturn table|nil list of options
-- @treturn table err
function M.options(session)
  local record = session.record
  if not record.configOptions then
    local info, err = session.client.describe_agent(record.agent)
    if not info then return nil, err end
    record.configOptions = is_table(info.raw.configOptions) and info.raw.configOptions or json.array()
    if record.modes and record.modes.currentModeId then note_mode(record, record.modes.currentModeId) end
    local saved
    saved, err = session:save()
    if not saved then return nil, err end
  end
  return record.configOptions
end

--- The modes of a session: the agent's own, or those of its option of category `mode`.
-- @treturn table|nil `{currentModeId=, availableModes=}`; nil without error where there are none
-- @treturn table err
function M.modes(session)
  local record = session.record
  if record.modes and #(record.modes.availableModes or {}) > 0 then return record.modes end
  local options, err = M.options(session)
  if not options then return nil, err end
  local option = find(options, "category", "mode")
  if not option then return record.modes end
  local available = json.array()
  for i, choice in ipairs(choices(option)) do
    available[i] = { id = choice.value, name = choice.name, description = choice.description }
  end
  local current = type(option.currentValue) == "string" and option.currentValue or available[1] and available[1].id
  record.modes = { currentModeId = current, availableModes = available }
  local saved
  saved, err = session:save()
  if not saved then return nil, err end
  return record.modes
end

---------------------------------------------------------------------------------------------------------------------
-- setting

local function is_unknown_method(err)
  return err.rpc ~= nil and err.rpc.code == NO_SUCH_METHOD
end

local function check_value(option, value, what)
  if option.type == "boolean" then
    if type(value) ~= "boolean" then errors.raise(("%s: true or false expected, got a %s"):format(what, type(value))) end
    return nil
  end
  if type(value) ~= "string" then errors.raise(("%s: a string expected, got a %s"):format(what, type(value))) end
  local allowed = names(choices(option), "value")
  if #allowed > 0 and not contains(allowed, value) then
    return problem.unsupported_value { what = what, value = value, allowed = allowed, config_id = option.id, category = option.category }
  end
end

local function send_option(session, option, value)
  local params = { configId = option.id, value = value }
  if option.type == "boolean" then params.type = "boolean" end
  return session:call("session/set_config_option", params)
end

--- Sets an option by its id.
function M.set_option(session, id, value)
  local options, err = M.options(session)
  if not options then return nil, err end
  local option = find(options, "id", id)
  if not option then
    return nil, problem.unsupported(("the agent '%s' has no option '%s'"):format(session.agent, id), names(options, "id"),
      "available_config_ids")
  end
  err = check_value(option, value, ("option '%s'"):format(id))
  if err then return nil, err end
  return send_option(session, option, value)
end

local WHAT = { model = "model", thought_level = "thought level", mode = "mode" }

--- Sets the option of a category.
function M.set_category(session, category, value)
  local options, err = M.options(session)
  if not options then return nil, err end
  local option = find(options, "category", category)
  if not option then
    return nil, problem.unsupported(("the agent '%s' lets nobody choose a %s"):format(session.agent, WHAT[category]),
      names(options, "category"), "available_categories")
  end
  err = check_value(option, value, WHAT[category])
  if err then return nil, err end
  return send_option(session, option, value)
end

local function set_model_directly(session, model)
  local models = session.record.models
  local allowed = names(models and models.availableModels, "modelId")
  if #allowed > 0 and not contains(allowed, model) then
    return nil, problem.unsupported_value { what = "model", value = model, allowed = allowed, category = "model" }
  end
  return session:call("session/set_model", { modelId = model })
end

--- Sets the model: the option of that category; where the agent has `models` instead, or does not know options, `session/set_model`.
function M.set_model(session, model)
  local record = session.record
  if record.models and not find(record.configOptions, "category", "model") then return set_model_directly(session, model) end
  local result, err = M.set_category(session, "model", model)
  if not result and is_unknown_method(err) then
    local direct, direct_err = set_model_directly(session, model)
    if direct or not is_unknown_method(direct_err) then return direct, direct_err end
  end
  return result, err
end

--- Sets the mode: `session/set_mode`; where the agent does not know it, the option of category `mode`.
function M.set_mode(session, mode)
  local modes = session.record.modes
  local allowed = names(modes and modes.availableModes, "id")
  if #allowed > 0 and not contains(allowed, mode) then
    return nil, problem.unsupported_value { what = "mode", value = mode, allowed = allowed, category = "mode" }
  end
  local result, err = session:call("session/set_mode", { modeId = mode })
  if not result and is_unknown_method(err) then return M.set_category(session, "mode", mode) end
  return result, err
end

return M
