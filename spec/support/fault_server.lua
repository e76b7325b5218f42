--[[ A scripted HTTP server for faults: it sends exactly the bytes that a script names, when it says so.

Run as `lua5.4 spec/support/fault_server.lua [ADDRESS]` (needs lua-socket and lua-cjson). It listens on a port of the address
(default: 127.0.0.1) for requests and on one of 127.0.0.1 for control, prints both numbers in one line, and ends when its standard
input ends. Specs start and script it with spec/support/faults.lua, which also makes the bytes of usual answers.

Control: one JSON object per line, answered by one JSON object per line ({"ok":true, …} or {"error":"…"}):
  {"op":"route","method":"POST","path":"/x","responses":[RESPONSE, …],"early":false}
      What the first, second, … request for this path gets; the last one goes for all later ones. A path that ends in "*" is a
      prefix; no method means any. The route made last wins. With "early" the steps begin behind the request's header, and its
      body is never read; such a response has to end with drain, close, reset or stall.
  {"op":"connect","responses":[RESPONSE, …]}   played to the next new connections, one each, before anything is read from them
  {"op":"release","name":"x","count":1}        lets so many waits of that name, come or yet to come, go on
  {"op":"requests"}                            {"requests":[…]}: what was received, in order (see `record`)
  {"op":"reset"}                               forgets all of the above and drops every connection

A RESPONSE is a list of steps; behind the last one the connection is kept, and its next request read. A step is one of
  {"send":"bytes","times":1,"each":null}   the bytes, so many times over, in separate pieces of `each` bytes
  {"wait":"x"}      until a release of that name
  {"release":"x"}   as the control operation, so that one request can let another one go on
  {"stall":true}    nothing more until the client leaves
  {"drain":true}    ends the sending side, and reads and drops what still comes until the client leaves
  {"websocket":true,"accept":null,"headers":{},"tail":""}   switches to WebSocket (the right Sec-WebSocket-Accept, unless one is
                    given; further headers; bytes right behind the header)
  {"read_frames":n} reads and records so many frames of the client's
  {"echo":true,"count":null}   answers frames as an echo service, pings and the closing frame too, behind which (or behind so many
                    frames) it goes on
  {"close":true}    closes the connection
  {"reset":true}    closes it with RST ]]
local cjson = require "cjson"
local socket = require "socket"
local websocket = dofile((arg[0]:gsub("fault_server%.lua$", "websocket_server.lua")))

local BODY_LIMIT = 1024 * 1024 -- bytes of a request's body that are recorded
local HEADER_LIMIT = 256 * 1024
local CONTROL_LIMIT = 64 * 1024 * 1024
local PIECE = 65536

local routes, connects, requests, tokens
local connections = {} -- set of those that are open
local connection_count = 0

local function clear()
  routes, connects, requests, tokens = {}, {}, {}, {}
end

---------------------------------------------------------------------------------------------------------------------
-- coroutines: each yields what it waits for: "read" or "write" on its socket, or "token" with a name

local waiting = {} -- coroutine -> {kind=, socket=, name=}

local function drop(connection)
  connections[connection] = nil
  connection.socket:close()
end

local function run(thread, ...)
  local ok, kind, sock, name = coroutine.resume(thread, ...)
  waiting[thread] = nil
  if not ok then
    io.stderr:write("fault server: ", debug.traceback(thread, tostring(kind)), "\n")
    os.exit(1)
  end
  if coroutine.status(thread) ~= "dead" then waiting[thread] = { kind = kind, socket = sock, name = name } end
end

-- Reads what there is into the connection's buffer; false when the other side has left.
local function fill(connection)
  local bytes, problem, partial = connection.socket:receive(PIECE)
  connection.input = connection.input .. (bytes or partial or "")
  return problem ~= "closed" and connections[connection] ~= nil
end

local function read_more(connection)
  coroutine.yield("read", connection.socket)
  return fill(connection)
end

-- Exactly `count` bytes, or nil when the other side has left.
local function read_bytes(connection, count)
  while #connection.input < count do
    if not read_more(connection) then return nil end
  end
  local bytes = connection.input:sub(1, count)
  connection.input = connection.input:sub(count + 1)
  return bytes
end

-- Up to and without `mark`, or nil when the other side has left or sends too much without it.
local function read_until(connection, mark, limit)
  while true do
    local first, last = connection.input:find(mark, 1, true)
    if first then
      local bytes = connection.input:sub(1, first - 1)
      connection.input = connection.input:sub(last + 1)
      return bytes
    end
    if #connection.input > (limit or HEADER_LIMIT) or not read_more(connection) then return nil end
  end
end

local function send(connection, bytes)
  local at = 1
  while at <= #bytes do
    local last, problem, partial = connection.socket:send(bytes, at)
    if problem and problem ~= "timeout" then return false end
    at = (last or partial) + 1
    if at <= #bytes then coroutine.yield("write", connection.socket) end
    if not connections[connection] then return false end
  end
  return true
end

---------------------------------------------------------------------------------------------------------------------
-- steps: each returns true to go on, or nil and why the connection ended: "left" (by the client) or "ended" (by the script)

local steps = {}

function steps.send(connection, step)
  local bytes = step.send:rep(step.times or 1)
  local size = step.each or #bytes
  for at = 1, #bytes, math.max(size, 1) do
    if not send(connection, bytes:sub(at, at + size - 1)) then return nil, "left" end
    if step.each then coroutine.yield("write", connection.socket) end
  end
  return true
end

function steps.wait(connection, step)
  while (tokens[step.wait] or 0) == 0 do
    coroutine.yield("token", connection.socket, step.wait)
    if not connections[connection] then return nil, "left" end
  end
  tokens[step.wait] = tokens[step.wait] - 1
  return true
end

function steps.release(_, step)
  tokens[step.release] = (tokens[step.release] or 0) + (step.count or 1)
  return true
end

function steps.stall(connection)
  while read_more(connection) do connection.input = "" end
  return nil, "left"
end

function steps.websocket(connection, step)
  return send(connection, websocket.switch(connection.request, step)) or nil, "left"
end

local function read_frame(connection)
  local frame = websocket.read(function(count) return read_bytes(connection, count) end)
  if frame then websocket.record(connection.request, frame) end
  return frame
end

function steps.read_frames(connection, step)
  for _ = 1, step.read_frames do
    if not read_frame(connection) then return nil, "left" end
  end
  return true
end

function steps.echo(connection, step)
  for _ = 1, step.count or math.huge do
    local frame = read_frame(connection)
    local answer = frame and websocket.echo(frame)
    if not frame or (answer and not send(connection, answer)) then return nil, "left" end
    if websocket.is_close(frame) then break end
  end
  return true
end

function steps.drain(connection)
  connection.socket:shutdown("send")
  while read_more(connection) do connection.input = "" end
  return nil, "ended"
end

function steps.close()
  return nil, "ended"
end

function steps.reset(connection)
  connection.socket:setoption("linger", { on = true, timeout = 0 })
  return nil, "ended"
end

local function play(connection, response)
  for _, step in ipairs(response) do
    for name, action in pairs(steps) do
      if step[name] then
        local ok, how = action(connection, step)
        if not ok then return nil, how end
        break
      end
    end
  end
  return true
end

---------------------------------------------------------------------------------------------------------------------
-- requests

local function read_chunks(connection)
  local pieces = {}
  while true do
    local size = tonumber((read_until(connection, "\r\n") or ""):match("^%x+") or "", 16)
    local bytes = size and read_bytes(connection, size + 2)
    if not bytes then return nil end
    if size == 0 then return table.concat(pieces) end
    pieces[#pieces + 1] = bytes:sub(1, -3)
  end
end

local function read_body(connection, headers)
  if (headers.expect or ""):lower() == "100-continue" and not send(connection, "HTTP/1.1 100 Continue\r\n\r\n") then return nil end
  if (headers["transfer-encoding"] or ""):lower() == "chunked" then return read_chunks(connection) end
  return read_bytes(connection, tonumber(headers["content-length"]) or 0)
end

-- A request as `requests` gives it: method, path and query (as sent), headers (lower-case names, several of one name joined by
-- ", "), connection (its number), body (its first MiB), body_size, route (which one it met), done (the response was played to
-- its end), aborted (the client left before), frames (of a WebSocket: opcode, final, masked, size, payload: its first KiB).
local function record(connection, head)
  local method, target = head:match("^(%S+) (%S+) HTTP/1%.[01]\r?\n?")
  if not method then return nil end
  local headers = {}
  for name, value in head:gmatch("\n([^:\r\n]+):[ \t]*([^\r\n]*)") do
    name = name:lower()
    headers[name] = headers[name] and headers[name] .. ", " .. value or value
  end
  local request = {
    method = method, path = target:match("^[^?]*"), query = target:match("%?(.*)$"), headers = headers,
    connection = connection.number, body = "", body_size = 0, done = false, aborted = false,
  }
  requests[#requests + 1] = request
  return request
end

local function find_route(request)
  for i = #routes, 1, -1 do
    local route = routes[i]
    local prefix = route.path:match("^(.*)%*$")
    local fits = prefix and request.path:sub(1, #prefix) == prefix or request.path == route.path
    if fits and (not route.method or route.method == request.method) then return route end
  end
end

local function no_route(request)
  local body = cjson.encode { code = "NO_ROUTE", message = ("no route for %s %s"):format(request.method, request.path) }
  return { { send = ("HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"):format(#body, body) } }
end

-- Reads one request and plays its response; false when the connection is over.
local function serve(connection)
  local head = read_until(connection, "\r\n\r\n")
  local request = head and record(connection, head)
  if not request then return false end
  local route = find_route(request)
  if not (route and route.early) then
    local body = read_body(connection, request.headers)
    if not body then
      request.aborted = true
      return false
    end
    request.body, request.body_size = body:sub(1, BODY_LIMIT), #body
  end
  local response = no_route(request)
  if route then
    request.route = route.path
    route.count = route.count + 1
    response = route.responses[math.min(route.count, #route.responses)]
  end
  connection.request = request
  local ok, how = play(connection, response)
  request.done, request.aborted = how ~= "left", how == "left"
  return ok
end

local function converse(connection)
  local greeting = table.remove(connects, 1)
  if not greeting or play(connection, greeting) then
    while serve(connection) do end -- luacheck: ignore 542
  end
  if connections[connection] then drop(connection) end
end

---------------------------------------------------------------------------------------------------------------------
-- control

local control = {}

function control.route(message)
  if #message.responses == 0 then return { error = "a route needs a response" } end
  routes[#routes + 1] = {
    method = message.method, path = message.path, responses = message.responses, early = message.early, count = 0,
  }
end

function control.connect(message)
  for _, response in ipairs(message.responses) do connects[#connects + 1] = response end
end

function control.release(message)
  steps.release(nil, { release = message.name, count = message.count })
end

function control.requests()
  return { requests = requests }
end

function control.reset()
  clear()
  for connection in pairs(connections) do
    if not connection.is_control then drop(connection) end
  end
end

local function take_orders(connection)
  while true do
    local line = read_until(connection, "\n", CONTROL_LIMIT)
    if not line then break end
    local message = cjson.decode(line)
    local action = control[message.op]
    local answer = action and (action(message) or { ok = true }) or { error = "no such operation" }
    if not send(connection, cjson.encode(answer) .. "\n") then break end
  end
  drop(connection)
end

---------------------------------------------------------------------------------------------------------------------
-- the loop

local function accept(listener, is_control)
  local sock = listener:accept()
  if not sock then return end
  sock:settimeout(0)
  sock:setoption("tcp-nodelay", true)
  connection_count = connection_count + (is_control and 0 or 1)
  local connection = { socket = sock, input = "", number = connection_count, is_control = is_control }
  connections[connection] = true
  run(coroutine.create(is_control and take_orders or converse), connection)
end

-- Lets all go on whose socket was closed under them, or whose token has come. One by one, as each may change what others wait for.
local function run_released()
  local again = true
  while again do
    again = false
    for thread, wait in pairs(waiting) do
      local released = wait.kind == "token" and (tokens[wait.name] or 0) > 0
      if released or wait.socket:getfd() < 0 then
        again = true
        run(thread)
        break
      end
    end
  end
end

-- The connection of a coroutine that waits for a token became readable: the client left, or sends its next request already.
local function look_for_end(sock)
  for connection in pairs(connections) do
    if connection.socket == sock then
      local before = #connection.input
      if not fill(connection) then
        drop(connection)
      elseif #connection.input == before then
        return
      end
    end
  end
end

local function wait_for_events(sources)
  local readers, writers = {}, {}
  for source in pairs(sources) do readers[#readers + 1] = source end
  for _, wait in pairs(waiting) do
    local list = wait.kind == "write" and writers or readers
    list[#list + 1] = wait.socket
  end
  local readable, writable = socket.select(readers, writers)
  for source, action in pairs(sources) do
    if readable[source] then action() end
  end
  local ready = {}
  for thread, wait in pairs(waiting) do
    if readable[wait.socket] or writable[wait.socket] then ready[thread] = wait end
  end
  for thread, wait in pairs(ready) do
    if wait.kind == "token" then
      look_for_end(wait.socket)
    elseif waiting[thread] == wait then
      run(thread)
    end
  end
end

local listener = assert(socket.bind(arg[1] or "127.0.0.1", 0, 512))
local control_listener = assert(socket.bind("127.0.0.1", 0, 8))
local _, port = listener:getsockname()
local _, control_port = control_listener:getsockname()
listener:settimeout(0)
control_listener:settimeout(0)
clear()
print(("%d %d"):format(port, control_port))
io.stdout:close()

local standard_input = { getfd = function() return 0 end, dirty = function() return false end }
while true do
  run_released()
  wait_for_events {
    [listener] = function() accept(listener, false) end,
    [control_listener] = function() accept(control_listener, true) end,
    [standard_input] = function() if not io.read(1) then os.exit(0) end end,
  }
end
