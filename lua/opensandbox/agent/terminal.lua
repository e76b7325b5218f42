--- Terminals of processes (`processes:create{tty=true}`), over a WebSocket: what is typed and what is shown.
--
-- Output from before the connection is not repeated (`processes:logs(id, {stream="pty"})` has it); closing the terminal does not end the
-- process.
local api = require "opensandbox.agent.api"
local base64 = require "opensandbox.base64"
local core = require "opensandbox.core"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local health = require "opensandbox.agent.health"
local json = require "opensandbox.json"
local options = require "opensandbox.options"
local problem = require "opensandbox.agent.problem"
local websocket = require "opensandbox.websocket"

local M = {}

local INPUT_CHUNK = 32 * 1024

-- What the server puts into the output when the process has ended.
local END_NOISE = "\n[process stream error: I/O error (os error 5)]\n"

local check = options.declare("processes:terminal", { timeout = { type = "duration" } })

local methods = { __fields = { id = true, exit_code = true } }

local function send(self, frame)
  return core.state(self, "agent_terminal").socket:send_text(json.encode(frame))
end

--- Takes in a control message. Returns an error, or nil.
local function take(state, text)
  local frame = json.decode(text)
  if type(frame) ~= "table" then return errors.new { code = "decode", message = "a message of the terminal is not JSON" } end
  if frame.type == "exit" then
    state.ended = true
    state.exit_code = frame.exitCode ~= json.null and frame.exitCode or nil
  elseif frame.type == "error" then
    return errors.new { code = "api", message = "the terminal failed: " .. tostring(frame.message) }
  end
end

--- Waits for output.
-- @tparam[opt] number timeout seconds (none)
-- @treturn[1] string bytes
-- @treturn[2] nil the process has ended (`terminal.exit_code`; nil where a signal ended it)
-- @treturn[3] nil
-- @treturn[3] table err `timeout`; `truncated` where the connection was lost
function methods:read(timeout)
  local state = core.state(self, "agent_terminal")
  if timeout ~= nil then options.argument("timeout", timeout, "duration") end
  local deadline = timeout and core.now() + timeout
  while not state.ended do
    local message, second = state.socket:receive(deadline and math.max(0, deadline - core.now()))
    if not message then
      if second then return nil, second end
      state.ended = true
    elseif second then
      local err = take(state, message)
      if err then return nil, err end
    elseif message ~= END_NOISE then
      return message
    end
  end
  return nil
end

--- Types.
-- @tparam string bytes
-- @treturn boolean true, or nil and err
function methods:write(bytes)
  options.argument("bytes", bytes, "string")
  for first = 1, #bytes, INPUT_CHUNK do
    local ok, err = send(self, { type = "input", encoding = "base64", data = base64.encode(bytes:sub(first, first + INPUT_CHUNK - 1)) })
    if not ok then return nil, err end
  end
  return true
end

--- Sets the size.
-- @tparam integer cols
-- @tparam integer rows
-- @treturn boolean true, or nil and err
function methods:resize(cols, rows)
  options.argument("cols", cols, "integer")
  options.argument("rows", rows, "integer")
  return send(self, { type = "resize", cols = cols, rows = rows })
end

--- Waits until the process has ended; output that was not read is dropped.
-- @tparam[opt] number timeout seconds (none)
-- @treturn[1] integer|boolean exit code; true where a signal ended the process
-- @treturn[2] nil
-- @treturn[2] table err
function methods:wait(timeout)
  local deadline = timeout and core.now() + options.argument("timeout", timeout, "duration")
  while true do
    local bytes, err = methods.read(self, deadline and math.max(0, deadline - core.now()))
    if err then return nil, err end
    if not bytes then return core.state(self, "agent_terminal").exit_code or true end
  end
end

--- Ends the connection; the process goes on.
-- @treturn boolean true
function methods:close()
  local state = core.state(self, "agent_terminal", true)
  if core.close(self) then state.socket:close() end
  return true
end

core.methods("agent_terminal", methods, { __close = methods.close })

--- Connects.
-- @tparam table client state
-- @tparam string id of the process
-- @tparam[opt] table opts `timeout` until it is connected
-- @treturn userdata|nil terminal: `read`, `write`, `resize`, `wait`, `close`, `exit_code`
-- @treturn table err `conflict` where the process has no terminal
function M.open(client, id, opts)
  opts = check(opts)
  api.check_open(client)
  local target, err = health.ready(client)
  if not target then return nil, err end
  local socket
  socket, err = websocket.open(target, { path = "/v1/processes/" .. endpoint.escape(id) .. "/terminal/ws", timeout = opts.timeout })
  if not socket then return nil, problem.refine(err) end
  return core.new("agent_terminal", { id = id, socket = socket, ended = false })
end

return M
