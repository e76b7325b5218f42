--- Requests that agents make of their client: `fs/read_text_file`, `fs/write_text_file`, `terminal/*`, and whatever else a handler serves.
--
-- Each is served in a task of its own. Without a handler the agent is told that the method does not exist.
local background = require "opensandbox.agent.background"
local errors = require "opensandbox.errors"
local json = require "opensandbox.json"
local options = require "opensandbox.options"
local task = require "opensandbox.task"

local M = {}

local TERMINAL = { "terminal/create", "terminal/output", "terminal/wait_for_exit", "terminal/kill", "terminal/release" }

--- The capabilities that a table of handlers means.
-- @tparam table handlers method → function
-- @treturn table as `initialize` has them
function M.capabilities(handlers)
  local has_terminal = true
  for _, method in ipairs(TERMINAL) do has_terminal = has_terminal and handlers[method] ~= nil end
  return {
    fs = { readTextFile = handlers["fs/read_text_file"] ~= nil, writeTextFile = handlers["fs/write_text_file"] ~= nil },
    terminal = has_terminal,
  }
end

local function answer(live, session, message, body)
  body.id = message.id
  return live:send(body, { session = session })
end

local function serve(live, session, message, params, handler)
  local result, problem
  local err = task.call_handler(function() result, problem = handler(params, session and session.handle) end)
  if err then
    answer(live, session, message, { error = { code = -32603, message = err.message } })
    if session then session:trouble(err) end
  elseif result == nil and problem ~= nil then
    local code = errors.is(problem) and problem.code == "not_found" and -32002 or -32603
    answer(live, session, message, { error = { code = code, message = errors.is(problem) and problem.message or tostring(problem) } })
  else
    answer(live, session, message, { result = result == nil and json.null or result })
  end
end

--- Serves one request.
-- @tparam table live
-- @tparam table|nil session
-- @tparam table message
-- @tparam table params
function M.take(live, session, message, params)
  local handler = session and session.handlers[message.method] or live.client.requests[message.method]
  if handler then
    background.spawn(serve, live, session, message, params, handler)
  else
    background.spawn(answer, live, session, message,
      { error = { code = -32601, message = ("the client has no method '%s'"):format(message.method) } })
  end
end

---------------------------------------------------------------------------------------------------------------------
-- handlers that act on a sandbox

--- The lines `first` … of a text, at most `count`.
local function cut_lines(text, first, count)
  if not first and not count then return text end
  local lines, number = {}, 0
  for line in text:gmatch("[^\n]*\n?") do
    number = number + 1
    if line ~= "" and number >= (first or 1) and (not count or #lines < count) then lines[#lines + 1] = line end
  end
  return table.concat(lines)
end

local function number_of(value) return type(value) == "number" and value or nil end

local function exit_status(status)
  return { exitCode = not status.signal and status.exit_code or json.null, signal = status.signal or json.null }
end

--- Starts a command as a job and collects its output, at most `limit` bytes from its end.
local function start_terminal(sandbox, params)
  local command = params.command
  if type(params.args) == "table" and #params.args > 0 then
    command = { params.command }
    for i, argument in ipairs(params.args) do command[i + 1] = argument end
  end
  local env = {}
  for _, variable in ipairs(type(params.env) == "table" and params.env or {}) do env[variable.name] = variable.value end
  local job, err = sandbox.commands:start(command, { cwd = type(params.cwd) == "string" and params.cwd or nil, env = env })
  if not job then return nil, err end
  local limit = number_of(params.outputByteLimit) or 1024 * 1024
  local terminal = { job = job, output = "", truncated = false }
  terminal.ended = task.condition("the end of a terminal", function() return terminal.status ~= nil or terminal.err ~= nil end)
  terminal.follower = background.spawn(function()
    local status, problem = job:follow(function(bytes)
      local output = terminal.output .. bytes
      if #output > limit then
        -- not in the middle of a character
        output, terminal.truncated = output:sub(-limit):gsub("^[\128-\191]+", ""), true
      end
      terminal.output = output
    end)
    terminal.status, terminal.err = status, problem
    terminal.ended:wake()
  end)
  return terminal
end

--- Handlers for `agent.connect{requests=…}` that serve the agent's file and terminal requests in an OpenSandbox sandbox.
-- @tparam userdata sandbox
-- @treturn table method → handler
function M.for_sandbox(sandbox)
  options.argument("sandbox", sandbox, "sandbox")
  local terminals, count = {}, 0

  local function terminal_of(params)
    local terminal = terminals[params.terminalId]
    if terminal then return terminal end
    return nil, errors.new { code = "not_found", message = ("there is no terminal '%s'"):format(tostring(params.terminalId)) }
  end

  local handlers = {}

  handlers["fs/read_text_file"] = function(params)
    local text, err = sandbox.files:read(params.path)
    if not text then return nil, err end
    return { content = cut_lines(text, number_of(params.line), number_of(params.limit)) }
  end

  handlers["fs/write_text_file"] = function(params)
    local ok, err = sandbox.files:write(params.path, params.content)
    if not ok then return nil, err end
    return {}
  end

  handlers["terminal/create"] = function(params)
    local terminal, err = start_terminal(sandbox, params)
    if not terminal then return nil, err end
    count = count + 1
    local id = ("terminal-%d"):format(count)
    terminals[id] = terminal
    return { terminalId = id }
  end

  handlers["terminal/output"] = function(params)
    local terminal, err = terminal_of(params)
    if not terminal then return nil, err end
    return { output = terminal.output, truncated = terminal.truncated, exitStatus = terminal.status and exit_status(terminal.status) }
  end

  handlers["terminal/wait_for_exit"] = function(params)
    local terminal, err = terminal_of(params)
    if not terminal then return nil, err end
    task.await(terminal.ended)
    if not terminal.status then return nil, terminal.err end
    return exit_status(terminal.status)
  end

  handlers["terminal/kill"] = function(params)
    local terminal, err = terminal_of(params)
    if not terminal then return nil, err end
    local ok
    ok, err = terminal.job:interrupt()
    if not ok then return nil, err end
    return {}
  end

  handlers["terminal/release"] = function(params)
    local terminal, err = terminal_of(params)
    if not terminal then return nil, err end
    terminals[params.terminalId] = nil
    terminal.job:interrupt()
    return {}
  end

  return handlers
end

return M
