--- The connection to one agent process: JSON-RPC over the server's POST and event stream.
--
-- The stream is the truth: answers are taken from it, in its order, together with everything the agent says. A POST only carries a message
-- there; its own answer counts where the stream fails to bring it. Messages are numbered by the server; a gap is read again at once.
local background = require "opensandbox.agent.background"
local core = require "opensandbox.core"
local defaults = require "opensandbox.defaults"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local http = require "opensandbox.http"
local json = require "opensandbox.json"
local problem = require "opensandbox.agent.problem"
local random = require "opensandbox.agent.random"
local task = require "opensandbox.task"

local M = {}

local BODY_LIMIT = 2 * 1024 * 1024 -- the server's
local SILENCE = 45 -- seconds; the server says something every 15
local COPY_SECONDS = 2 -- how long the stream's copy of an answer is waited for
local LINGER_SECONDS = 1 -- how long a POST may go on after its answer came by the stream
local REFUSED_SECONDS, BROKEN_SECONDS = 1, 15 -- how long a lost stream is tried again: nobody listens there; anything else
local FIRST_DELAY, LAST_DELAY = 0.02, 1
local DELETE_SECONDS = 0.3 -- the server never answers while the agent lives, but ends it when the request is dropped
local API_KEY_METHODS = { ["codex-api-key"] = true, ["openai-api-key"] = true, ["anthropic-api-key"] = true }

local Live = {}
Live.__index = Live

---------------------------------------------------------------------------------------------------------------------
-- the end of calls

local function complete(entry, result, err)
  if entry.done then return end
  entry.done, entry.result, entry.err = true, result, err
  entry.finished:wake()
end

--- Ends the connection: every call that waits fails with the error, and later ones do.
function Live:fail(err)
  if self.failure then return end
  self.failure = err
  for id, entry in pairs(self.pending) do
    self.pending[id] = nil
    complete(entry, nil, err)
  end
  self.on_failure(self, err)
  self.reader:cancel()
end

---------------------------------------------------------------------------------------------------------------------
-- sending

--- POSTs one message.
-- @treturn table|nil response
local function post(self, body, opts)
  opts = opts or {}
  local target = self.client.target
  local response, err = endpoint.send(target, {
    method = "POST", path = self.path, query = opts.query, body = body, timeout = opts.timeout, header_timeout = opts.header_timeout,
    headers = { ["Content-Type"] = "application/json", Accept = "application/json" },
  })
  if not response then return nil, problem.refine(err) end
  return response
end

local function too_long(method, length)
  return errors.new { code = "limit",
    message = ("%s is %d bytes long; the server takes no more than %d: put large content into a file and name it"):format(method, length,
      BODY_LIMIT) }
end

local function encode(message)
  local body = json.encode(message)
  if #body > BODY_LIMIT then return nil, too_long(message.method or "the answer", #body) end
  return body
end

--- Does this failure of a POST say that the message was not, and will not be, answered?
local function is_final(err)
  return err.status ~= nil and err.status ~= 504 and err.status ~= 408 or err.code == "connect" or err.code == "dns" or err.code == "tls"
end

--- Does this failure of a POST say that the agent is gone?
local function is_end(err)
  return err.status == 404 or err.status == 502 or err.api_code == "agent_process_exited"
end

--- Carries a request there. The answer normally comes by the stream.
local function carry(self, entry, body)
  local response, err = post(self, body, { query = entry.query, header_timeout = math.huge })
  if entry.done then return end
  if not response then
    -- nobody listens: the stream's reader finds out whether that is for good
    if err.code == "connect" and not self.beginning then task.await(entry.finished, core.now() + REFUSED_SECONDS * 1.5) end
    if entry.done then return end
    if is_final(err) then
      self.pending[entry.id] = nil
      complete(entry, nil, err)
    end
    if is_end(err) or self.stream_down then self:fail(err) end
    return
  end
  local answer = json.decode(response.body or "")
  if type(answer) ~= "table" then
    self.pending[entry.id] = nil
    return complete(entry, nil, errors.new { code = "decode", message = "the server's answer is no JSON-RPC message" })
  end
  if self.beginning or not task.await(entry.finished, core.now() + COPY_SECONDS) then self.inbox:push(answer) end
end

--- The POST of a call whose answer is there: it ends by itself, or it is dropped.
local function let_go(entry)
  local handle = entry.carrier
  if not handle or core.state(handle, "task").done then return end
  background.spawn(function()
    if not task.await(core.state(handle, "task").finished, core.now() + LINGER_SECONDS) then handle:cancel() end
  end)
end

--- Calls a method of the agent and waits for its answer.
-- @tparam string method
-- @tparam table params
-- @tparam[opt] table opts `session` (whose history it belongs to), `recorded` (params as the history has them), `timeout` (seconds),
-- `on_answer(result)` (called in the stream's order, before anything that came after), `query`
-- @treturn table|nil result
-- @treturn table err
function Live:request(method, params, opts)
  opts = opts or {}
  if self.failure then return nil, self.failure end
  local id = self.next_id
  local body, err = encode { jsonrpc = "2.0", id = id, method = method, params = params }
  if not body then return nil, err end
  self.next_id = id + 1
  local entry = { id = id, method = method, session = opts.session, on_answer = opts.on_answer, query = opts.query }
  entry.finished = task.condition(("the answer to %s"):format(method), function() return entry.done == true end)
  self.pending[id] = entry
  if opts.session then
    self.observe(opts.session, "client", { jsonrpc = "2.0", id = id, method = method, params = opts.recorded or params })
  end
  entry.carrier = background.spawn(carry, self, entry, body)
  local ok, in_time = task.pcall(task.await, entry.finished, opts.timeout and core.now() + opts.timeout)
  if not ok or not in_time then
    self.pending[id] = nil
    entry.done = true
    entry.carrier:cancel()
    if not ok then error(in_time, 0) end
    return nil, errors.new { code = "timeout", message = ("the agent did not answer %s within %g s"):format(method, opts.timeout) }
  end
  let_go(entry)
  if entry.err then return nil, entry.err end
  return entry.result
end

--- Sends what has no answer: a notification, or the answer to a request of the agent's.
-- @tparam table message
-- @tparam[opt] table opts `session` (whose history it belongs to)
-- @treturn boolean true, or nil and err
function Live:send(message, opts)
  opts = opts or {}
  if self.failure then return nil, self.failure end
  message.jsonrpc = "2.0"
  local body, err = encode(message)
  if not body then return nil, err end
  if opts.session then self.observe(opts.session, "client", message) end
  local response
  response, err = post(self, body)
  if not response then return nil, err end
  return true
end

---------------------------------------------------------------------------------------------------------------------
-- receiving

--- Takes in an answer of the agent's.
local function take_answer(self, message)
  local entry = self.pending[message.id]
  if not entry then return end -- its second copy, or of a call that was given up
  self.pending[message.id] = nil
  local failed = message.error ~= nil and message.error ~= json.null
  if entry.on_answer and not failed then entry.on_answer(message.result) end
  if entry.session then self.observe(entry.session, "agent", message) end
  if failed then
    complete(entry, nil, problem.rpc(message.error, entry.method))
  else
    complete(entry, message.result == nil and json.null or message.result)
  end
end

local function take(self, message)
  if type(message.method) ~= "string" then return take_answer(self, message) end
  local params = type(message.params) == "table" and message.params or {}
  if message.method == "_adapter/agent_exited" then
    local code = params.code ~= json.null and params.code or nil
    self:fail(problem.exited(self.agent, code))
  elseif message.id ~= nil and message.id ~= json.null then
    self.on_request(self, message, params)
  elseif message.method:sub(1, 9) ~= "_adapter/" then
    self.on_notification(self, message, params)
  end
end

--- Takes in the data of one numbered message of the stream. Returns whether the stream has to be read again from the last good message:
-- behind a gap, or a message that was cut off with its connection. What the second reading does not bring either is lost.
local function take_frame(self, data, id)
  local number = tonumber(id)
  if not number or number <= self.last then return false end
  local message = json.decode(data)
  local is_message = type(message) == "table"
  if (number > self.last + 1 or not is_message) and not self.rereading then return true end
  self.lost = self.lost + number - self.last - (is_message and 1 or 0)
  self.rereading = false
  self.last = number
  if is_message then self.inbox:push(message) end
  return false
end

--- Reads the stream until it ends. Returns an error, or nil where it should simply be opened again.
local function read(self, transfer)
  while true do
    local data, _, id = transfer:frame()
    if data then
      if take_frame(self, data, id) then
        self.rereading = true
        return nil
      end
    elseif data == false then
      return errors.new { code = "limit", message = "a message of the agent is too long" }
    elseif transfer:done() then
      local code, message = transfer:failure()
      return code and errors.transport(code, message) or nil
    else
      task.await(transfer)
    end
  end
end

local function open_stream(self)
  return endpoint.send(self.client.target, {
    method = "GET", path = self.path, idle_timeout = SILENCE, retry = false,
    headers = { ["Last-Event-ID"] = ("%d"):format(self.last) },
  }, true)
end

--- Keeps the stream open until the connection ends.
local function listen(self)
  local down_since, delay
  while not self.failure do
    local stream, err = open_stream(self)
    if stream then
      down_since, self.stream_down = nil, false
      local before = self.last
      local ok
      ok, err = task.pcall(read, self, stream.transfer)
      stream.transfer:cancel()
      if not ok then error(err, 0) end
      if err and err.code == "limit" then return self:fail(err) end
      if self.last == before and not self.rereading then task.sleep(LAST_DELAY) end
    elseif self.beginning and err.status == 404 then
      task.sleep(FIRST_DELAY) -- the first POST has not made it yet
    else
      err = problem.refine(err)
      local now = core.now()
      if not down_since then down_since, delay = now, FIRST_DELAY end
      self.stream_down = true
      local patience = err.code == "connect" and REFUSED_SECONDS or BROKEN_SECONDS
      if (err.status and err.status < 500) or now - down_since >= patience then
        err.message = "the connection to the agent is lost: " .. err.message
        return self:fail(err)
      end
      task.sleep(delay)
      delay = math.min(LAST_DELAY, delay * 2)
    end
  end
end

---------------------------------------------------------------------------------------------------------------------
-- beginning and end

local function authenticate(self, methods)
  for _, method in ipairs(type(methods) == "table" and methods or {}) do
    if type(method) == "table" and API_KEY_METHODS[method.id] then
      return self:request("authenticate", { methodId = method.id }) -- without a key it fails; session/new tells then
    end
  end
end

--- Makes the connection: starts the agent and agrees on the protocol.
-- @tparam table client state
-- @tparam string agent
-- @tparam table hooks `observe(session, sender, message)`, `on_request(live, message, params)`, `on_notification(live, message, params)`,
-- `on_failure(live, err)`; `capabilities` of the client; `timeout` seconds for the start, which may install the agent
-- @treturn table|nil live
-- @treturn table err
function M.open(client, agent, hooks)
  local id = ("lua-%s-%s"):format(agent, random.uuid())
  local self = setmetatable({
    client = client, agent = agent, server_id = id, connection_id = id, path = "/v1/acp/" .. endpoint.escape(id), next_id = 1, pending = {},
    last = 0, lost = 0, sessions = {}, creating = {}, beginning = true, observe = hooks.observe, on_request = hooks.on_request,
    on_notification = hooks.on_notification, on_failure = hooks.on_failure,
  }, Live)
  self.inbox = background.queue("messages of the agent", function(message) take(self, message) end)
  self.reader = background.spawn(listen, self)
  local result, err = self:request("initialize", {
    protocolVersion = 1, clientInfo = { name = "opensandbox-lua", version = defaults.version }, clientCapabilities = hooks.capabilities,
  }, { query = { agent = agent }, timeout = hooks.timeout })
  if result and type(result) ~= "table" then
    result, err = nil, errors.new { code = "protocol", message = ("the agent '%s' answered initialize with no result"):format(agent) }
  end
  if not result then
    self:close()
    return nil, err
  end
  self.beginning = false
  self.capabilities = result.agentCapabilities
  authenticate(self, result.authMethods)
  return self
end

--- Ends the calls of a session that wait for the end of a turn.
function Live:abort(session, err)
  for id, entry in pairs(self.pending) do
    if entry.session == session and entry.method == "session/prompt" then
      self.pending[id] = nil
      complete(entry, nil, err)
    end
  end
end

--- Ends the agent.
function Live:close()
  if not self.failure then self:fail(errors.new { code = "closed", message = "the connection to the agent was closed" }) end
  task.shield(http.call, self.client.target.connection, {
    method = "DELETE", base = self.client.target.base, path = self.path, headers = self.client.target.headers, timeout = DELETE_SECONDS,
    retry = false,
  })
end

return M
