--[[ A coding agent for tests: speaks the Agent Client Protocol (JSON-RPC, one message per line) on stdin and stdout, and does what a
prompt's last text tells it to. `spec/support/agent_server.lua` plants it for the real sandbox-agent server.

The first word of a prompt is a command, the rest its argument:
  stream N            N message chunks "c0" …               big N         one chunk of N bytes
  burst N             N chunks "b0" … in one write          thought | plan | utf8     one such update
  raw JSON            writes that line as it is             garbage       writes what is no JSON, then answers
  error | refuse | max_tokens      other ends of a turn     crash CODE    ends the process at once
  hold                answers only when released (by "release") or cancelled
  release             releases every held prompt            mode ID | model ID        changes it and says so
  permission [only KIND …]         asks for permission and says what was chosen
  ask METHOD JSON     sends a request to the client and says what came back
  mcp | blocks | env  says what session/new or the prompt carried; which environment it has
anything else is repeated ("agent: …").

Variables of the environment change what it offers: SCRIPTED_AGENT_BARE (no modes, no options), _NO_MODES (options of category mode
instead), _MODELS (`models` and session/set_model instead of options), _AUTH (a method to authenticate by), _NO_SESSION (no session id),
_EXIT (ends at once with that code), _LOG (a file that gets every line received). ]]
local cjson = require "cjson"

cjson.encode_empty_table_as_object = cjson.encode_empty_table_as_object or function() end
local null = cjson.null

local function setting(name) return os.getenv("SCRIPTED_AGENT_" .. name) end

io.stdout:setvbuf "full"

-- Strings that stand for [] and for integers, which this JSON library cannot write.
local EMPTY = "\1empty"

local function encode(value)
  return (cjson.encode(value):gsub('"\\u0001empty"', "[]"):gsub("(%d)%.0([,}%]])", "%1%2"))
end

local function send(message)
  message.jsonrpc = "2.0"
  io.stdout:write(encode(message), "\n")
end

--- The id of a request as it was written: 1 is not "1".
local function raw_id(line)
  return line:match('"id"%s*:%s*("[^"]*")') or line:match('"id"%s*:%s*(%-?[%d.]+)')
end

local function respond(id, field, value)
  io.stdout:write(('{"id":%s,"jsonrpc":"2.0","%s":%s}\n'):format(id, field, encode(value)))
end

local function fail(id, code, message, data)
  respond(id, "error", { code = code, message = message, data = data })
end

local sessions, session_count = {}, 0
local waiting, request_count = {}, 0 -- our own requests
local held = {}

local MODES = { { id = "normal", name = "Normal" }, { id = "plan", name = "Plan" } }

local function select_option(id, name, category, current, values)
  local list = {}
  for i, value in ipairs(values) do list[i] = { value = value, name = value:upper() } end
  return { id = id, name = name, category = category, type = "select", currentValue = current, options = list }
end

local function options_of(session)
  local list = {
    select_option("model", "Model", "model", session.model, { "small", "large" }),
    select_option("effort", "Effort", "thought_level", session.thought, { "low", "high" }),
    { id = "color", name = "Color", type = "select", currentValue = session.color, options = {
      { group = "warm", name = "Warm", options = { { value = "red", name = "Red" } } },
      { group = "cold", name = "Cold", options = { { value = "blue", name = "Blue" } } } } },
    { id = "verbose", name = "Verbose", type = "boolean", currentValue = session.verbose },
  }
  if setting "NO_MODES" then list[#list + 1] = select_option("agent_mode", "Mode", "mode", session.mode, { "normal", "plan" }) end
  return list
end

local function update(session, kind, fields)
  fields.sessionUpdate = kind
  send { method = "session/update", params = { sessionId = session.id, update = fields } }
end

local function chunk(session, text)
  update(session, "agent_message_chunk", { content = { type = "text", text = text } })
end

--- Sends a request to the client and waits (in its coroutine) for the answer.
local function ask(method, params)
  request_count = request_count + 1
  -- ids are numbers from 0, as some agents have them: they meet the client's own
  send { id = request_count - 1, method = method, params = params }
  waiting[tostring(request_count - 1)] = coroutine.running()
  return coroutine.yield()
end

local KINDS = { allow_once = "a1", allow_always = "aa", reject_once = "r1", reject_always = "ra" }

local function permission(session, argument)
  local options = {}
  local kinds = argument:match "^only (.*)" or "allow_once allow_always reject_once"
  for kind in kinds:gmatch "%S+" do options[#options + 1] = { optionId = KINDS[kind], name = kind, kind = kind } end
  local call = { toolCallId = "tool-" .. (request_count + 1), title = "Write hello.txt", kind = "edit", status = "pending",
    rawInput = { path = "hello.txt" } }
  local begun = {}
  for key, value in pairs(call) do begun[key] = value end
  update(session, "tool_call", begun)
  local answer = ask("session/request_permission", { sessionId = session.id, toolCall = call, options = options })
  local outcome = answer.result and answer.result.outcome
  if not outcome then
    chunk(session, ("permission failed: %d"):format(answer.error.code))
    return "end_turn"
  end
  if outcome.outcome == "cancelled" then
    update(session, "tool_call_update", { toolCallId = call.toolCallId, status = "failed" })
    return "cancelled"
  end
  local status = outcome.optionId:sub(1, 1) == "r" and "failed" or "completed"
  update(session, "tool_call_update", { toolCallId = call.toolCallId, status = status })
  chunk(session, "permission:" .. outcome.optionId)
  return "end_turn"
end

local commands = {}

function commands.stream(session, argument)
  for i = 0, tonumber(argument) - 1 do
    chunk(session, "c" .. i)
    io.stdout:flush()
  end
end

function commands.burst(session, argument)
  local lines = {}
  local line = encode { jsonrpc = "2.0", method = "session/update", params = { sessionId = session.id, update = {
    sessionUpdate = "agent_message_chunk", content = { type = "text", text = "b@" } } } }
  for i = 0, tonumber(argument) - 1 do lines[i + 1] = line:gsub("@", i) .. "\n" end
  io.stdout:write(table.concat(lines))
end

function commands.big(session, argument) chunk(session, ("x"):rep(tonumber(argument))) end

function commands.utf8(session) chunk(session, "zażółć 🙂 \226\128\168 line\nsep\r\nend \0.") end

function commands.thought(session)
  update(session, "agent_thought_chunk", { content = { type = "text", text = "hmm" } })
end

function commands.plan(session)
  update(session, "plan", { entries = { { content = "step 1", priority = "high", status = "pending" } } })
end

function commands.raw(_, argument) io.stdout:write(argument, "\n") end

function commands.garbage() io.stdout:write "this is not JSON\n" end

function commands.refuse() return "refusal" end

function commands.max_tokens() return "max_tokens" end

function commands.crash(_, argument)
  io.stdout:flush()
  os.exit(tonumber(argument) or 3)
end

function commands.hold(session)
  chunk(session, "holding")
  held[coroutine.running()] = session
  return coroutine.yield()
end

local function release(reason, only)
  for co, session in pairs(held) do
    if not only or session == only then
      held[co] = nil
      coroutine.resume(co, reason)
    end
  end
end

function commands.release() release "end_turn" end

function commands.mode(session, argument)
  session.mode = argument
  update(session, "current_mode_update", { currentModeId = argument })
end

function commands.model(session, argument)
  session.model = argument
  update(session, "config_option_update", { configOptions = options_of(session) })
end

commands.permission = permission

function commands.ask(session, argument)
  local method, text = argument:match "^(%S+)%s*(.*)$"
  local params = text ~= "" and cjson.decode(text) or {}
  params.sessionId = session.id
  local answer = ask(method, params)
  chunk(session, encode(answer.error and { error = answer.error } or { result = answer.result }))
end

function commands.mcp(session) chunk(session, encode(session.init)) end

function commands.blocks(session, _, blocks) chunk(session, encode(blocks)) end

function commands.env(session, argument) chunk(session, tostring(os.getenv(argument))) end

local function prompt(id, params)
  local session = sessions[params.sessionId]
  if not session then return fail(id, -32002, "session not found", { sessionId = params.sessionId }) end
  local text = ""
  for _, block in ipairs(params.prompt) do
    if block.type == "text" then text = block.text end
  end
  local word, argument = text:match "^(%S+)%s?(.*)$"
  if word == "error" then return fail(id, -32603, "boom", { details = "requested" }) end
  local reason
  if commands[word] then
    reason = commands[word](session, argument, params.prompt)
  else
    chunk(session, "agent: " .. text)
  end
  respond(id, "result", { stopReason = reason or "end_turn" })
  io.stdout:flush()
end

local methods = {}

function methods.initialize(id, params)
  if setting "EXIT" then os.exit(tonumber(setting "EXIT")) end
  respond(id, "result", {
    protocolVersion = 1, agentInfo = { name = "scripted-agent", version = "1" },
    agentCapabilities = { loadSession = false, promptCapabilities = { image = true, embeddedContext = true } },
    authMethods = setting "AUTH" and { { id = "anthropic-api-key", name = "API key" } } or EMPTY,
    _meta = { clientCapabilities = params.clientCapabilities or null },
  })
end

local authenticated = not setting "AUTH"

function methods.authenticate(id, params)
  authenticated = params.methodId == "anthropic-api-key"
  respond(id, "result", {})
end

methods["session/new"] = function(id, params)
  if not authenticated then return fail(id, -32000, "Authentication required") end
  if setting "NO_SESSION" then return respond(id, "result", {}) end
  session_count = session_count + 1
  local session = { id = "scripted-" .. session_count, mode = "normal", model = "small", thought = "low", color = "red", verbose = false,
    init = params, title = null }
  sessions[session.id] = session
  local result = { sessionId = session.id }
  if setting "MODELS" then
    result.models = { currentModelId = "small", availableModels = { { modelId = "small", name = "S" }, { modelId = "large", name = "L" } } }
  elseif not setting "BARE" then
    if not setting "NO_MODES" then result.modes = { currentModeId = "normal", availableModes = MODES } end
    result.configOptions = options_of(session)
  end
  respond(id, "result", result)
end

methods["session/list"] = function(id)
  local list = {}
  for i = 1, session_count do list[i] = { sessionId = "scripted-" .. i, cwd = sessions["scripted-" .. i].init.cwd } end
  respond(id, "result", { sessions = #list > 0 and list or EMPTY })
end

methods["session/set_mode"] = function(id, params)
  if setting "NO_MODES" or setting "BARE" then return fail(id, -32601, "Method not found") end
  local session = sessions[params.sessionId]
  session.mode = params.modeId
  update(session, "current_mode_update", { currentModeId = params.modeId })
  respond(id, "result", {})
end

methods["session/set_config_option"] = function(id, params)
  if setting "MODELS" then return fail(id, -32601, "Method not found") end
  local session = sessions[params.sessionId]
  local names = { model = "model", effort = "thought", color = "color", verbose = "verbose", agent_mode = "mode" }
  local name = names[params.configId]
  if not name or (name == "verbose") ~= (type(params.value) == "boolean") then return fail(id, -32602, "invalid params") end
  session[name] = params.value
  respond(id, "result", { configOptions = options_of(session) })
end

methods["session/set_model"] = function(id, params)
  sessions[params.sessionId].model = params.modelId
  respond(id, "result", {})
end

methods["session/prompt"] = function(id, params)
  local ok, problem = coroutine.resume(coroutine.create(prompt), id, params)
  if not ok then fail(id, -32603, tostring(problem)) end
end

local log = setting "LOG" and io.open(setting "LOG", "a")
for line in io.stdin:lines() do
  if log then
    log:write(line, "\n")
    log:flush()
  end
  local message = cjson.decode(line)
  local method, params, id = message.method, message.params or {}, raw_id(line)
  if not method then
    local co = waiting[tostring(math.tointeger and math.tointeger(message.id) or message.id)]
    if co then coroutine.resume(co, message) end
  elseif method == "session/cancel" then
    release("cancelled", sessions[params.sessionId])
  elseif message.id ~= nil and message.id ~= null then
    if methods[method] then methods[method](id, params) else fail(id, -32601, "Method not found", { method = method }) end
  end
  io.stdout:flush()
end
