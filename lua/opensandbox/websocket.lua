--- WebSocket connections: messages both ways, over the same transport as any request (TLS, proxies, headers, time-outs).
--
-- Pings are answered, and sent to a peer that is silent, whenever the script or one of its tasks waits for something.
local core = require "opensandbox.core"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local options = require "opensandbox.options"
local task = require "opensandbox.task"

local M = {}

local PING_SECONDS = 20 -- of silence before the peer is asked; after as many again without a sign of life it is dead
local CLOSE_SECONDS = 2 -- how long `close` waits for the other side's closing frame
local MESSAGE_LIMIT = 16 * 1024 * 1024 -- bytes, either way

local methods = { __fields = { protocol = true } }

local function fail(state, code, message)
  return errors.new { code = code, message = message, method = "GET", url = state.url }
end

--- Why nothing can be sent or received any more. Nil when it was closed in good order.
local function failure(state)
  local code, message = state.wire:failure()
  return code and fail(state, code, message)
end

-- ------------------------------------------------------------------------------------------------------------------
-- connecting

--- Does a header hold a word, as one of several?
local function has_word(value, word)
  for item in (value or ""):lower():gmatch("[^,%s]+") do
    if item == word then return true end
  end
  return false
end

--- What is wrong with the server's answer, or nil.
local function find_fault(stream, accept, protocols)
  local headers = stream.headers
  if stream.status ~= 101 then return ("the server answered with status %d and did not switch to WebSocket"):format(stream.status) end
  if not has_word(headers.upgrade, "websocket") or not has_word(headers.connection, "upgrade") then
    return "the server switched to something else than WebSocket"
  end
  if headers["sec-websocket-accept"] ~= accept then return "the server's Sec-WebSocket-Accept does not answer our key" end
  if headers["sec-websocket-extensions"] then return "the server uses a WebSocket extension that was not asked for" end
  local chosen = headers["sec-websocket-protocol"]
  if chosen then
    for _, protocol in ipairs(protocols or {}) do
      if protocol == chosen then return nil end
    end
    return ("the server chose the protocol '%s', which was not offered"):format(chosen)
  end
end

--- Opens a WebSocket at a target.
-- @tparam table target `{connection=connection state, base=, headers=}`, as endpoints take it
-- @tparam table request `path` (percent-encoded), `query`, `headers`, `protocols` (list of subprotocols), `timeout` (seconds until it is
-- open; without it the connection's request_timeout), `ping_interval` (seconds of silence before a ping, default 20; 0: none)
-- @treturn[1] userdata websocket
-- @treturn[2] nil
-- @treturn[2] table err of the answer where the server does not switch protocols; `protocol` where it does so in a wrong way
function M.open(target, request)
  local key, accept = core.websocket_key()
  local headers = {}
  for name, value in pairs(request.headers or {}) do headers[name] = value end
  headers.Connection, headers.Upgrade = "Upgrade", "websocket"
  headers["Sec-WebSocket-Version"], headers["Sec-WebSocket-Key"] = "13", key
  headers["Sec-WebSocket-Protocol"] = request.protocols and #request.protocols > 0 and table.concat(request.protocols, ", ") or nil
  headers["Transfer-Encoding"] = false -- what follows the request's header are frames, not chunks
  local stream, err = endpoint.send(target, {
    method = "GET", path = request.path, query = request.query, headers = headers, timeout = request.timeout, idempotent = false,
    raw = true, upgrade = true, stream_body = true,
  }, true)
  if not stream then return nil, err end
  local fault = find_fault(stream, accept, request.protocols)
  if fault then
    stream.transfer:cancel()
    return nil, errors.new {
      code = "protocol", message = fault, method = "GET", url = stream.url, status = stream.status, request_id = stream.request_id,
    }
  end
  return core.new("websocket", {
    wire = core.websocket(stream.transfer, request.ping_interval or PING_SECONDS), url = stream.url, label = errors.safe_url(stream.url),
    protocol = stream.headers["sec-websocket-protocol"],
  })
end

--- Opens a WebSocket anywhere.
-- @tparam table connection state of a connection: its proxy, TLS settings, time-outs and headers are used
-- @tparam table given as the request of `open`, and `base` (`"http://…"`, `"https://…"`, `"ws://…"` or `"wss://…"`)
-- @return as `open`
function M.connect(connection, given)
  local base = given.base:gsub("^[wW][sS]([sS]?)://", "http%1://")
  return M.open({ connection = connection, base = base }, given)
end

-- ------------------------------------------------------------------------------------------------------------------
-- messages

local function send(self, bytes, is_text)
  local state = core.state(self, "websocket")
  options.argument("message", bytes, "string")
  if #bytes > MESSAGE_LIMIT then
    return nil, fail(state, "limit", ("a message of %d bytes is too long: at most 16 MiB are sent in one"):format(#bytes))
  end
  task.await(state.wire, nil, "writable")
  if state.wire:send(bytes, is_text) then return true end
  local code, reason = state.wire:close_status()
  return nil, failure(state) or fail(state, "closed", ("the WebSocket was closed (%d %s)"):format(code, reason))
end

--- Sends a binary message. Waits while more than 1 MiB is queued.
-- @tparam string bytes at most 16 MiB
-- @treturn[1] boolean true: it was queued
-- @treturn[2] nil
-- @treturn[2] table err `closed` after either side closed, `timeout` for a peer that is dead, `truncated`, `network`, `limit`
function methods:send(bytes)
  return send(self, bytes, false)
end

--- Sends a text message.
-- @tparam string text UTF-8; most peers end the connection when it is not
-- @return as `send`
function methods:send_text(text)
  return send(self, text, true)
end

--- Waits for the next message.
-- @tparam[opt] number timeout seconds (none)
-- @treturn[1] string message
-- @treturn[1] boolean is_text
-- @treturn[2] nil it was closed; `close_status` tells how
-- @treturn[3] nil
-- @treturn[3] table err `timeout` where the time was over or the peer is dead, `truncated` where the connection ended without a closing
-- frame, `protocol`, `limit` (a message above 16 MiB), `network`
function methods:receive(timeout)
  local state = core.state(self, "websocket")
  if timeout ~= nil then options.argument("timeout", timeout, "duration") end
  local deadline = timeout and core.now() + timeout
  local wire = state.wire
  while true do
    local message, is_text = wire:receive()
    if message then return message, is_text end
    if wire:ended() then return nil, failure(state) end
    if not task.await(wire, deadline) then return nil, fail(state, "timeout", ("no message came within %g s"):format(timeout)) end
  end
end

--- How the other side closed it.
-- @treturn integer code 1005 for a closing frame without a code, 1006 where none came
-- @treturn string reason
function methods:close_status()
  return core.state(self, "websocket", true).wire:close_status()
end

--- Closes it: what was sent before still goes out, and the other side gets 2 s to close, too. Closing twice is fine.
-- @tparam[opt=1000] integer code
-- @tparam[opt=""] string reason at most 123 bytes of UTF-8
-- @treturn boolean true
function methods:close(code, reason)
  local state = core.state(self, "websocket", true)
  options.argument("code", code or 1000, "integer")
  options.argument("reason", reason or "", "string")
  if not state.wire:close(code or 1000, reason or "") then
    errors.raise "close: a code that WebSocket allows (1000, 1001, 3000 to 4999, …) and a reason of at most 123 bytes expected"
  end
  if core.close(self) then
    task.shield(task.await, state.wire, core.now() + CLOSE_SECONDS, "settled")
    state.wire:drop()
  end
  return true
end

M.send_text = methods.send_text

--- The core's part of a WebSocket, for a reader that waits for other things, too: `receive`, `ended`, `failure`, `ready`, `send`.
function M.wire(self)
  return core.state(self, "websocket").wire
end

--- The address, for errors.
function M.url(self)
  return core.state(self, "websocket").url
end

core.methods("websocket", methods, { __close = function(self) methods.close(self) end })

return M
