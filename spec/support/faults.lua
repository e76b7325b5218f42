--[[ Starts and scripts the fault server (fault_server.lua tells of routes, responses and steps).

  local faults = require "spec.support.faults"
  local server = faults.start()                                   -- once per spec file; server:stop() in teardown
  local sandbox = faults.sandbox_routes(server)                   -- a lifecycle server and a healthy sandbox
  local box = assert(opensandbox.create(sandbox.options(opensandbox)))
  server:route("POST", sandbox.execd .. "/command", faults.stream({ faults.init("id"), faults.stdout("hi") }, { ending = "close" }))
  local run, err = box.commands:run("x")                          -- nil, err with code "truncated"
  server:requests("/execd/command")[1].body                       -- what was sent
  server:reset()                                                  -- before the next test, which makes its own routes

A response is a list of steps. The makers below return such lists; `faults.join(a, b, …)` puts several together, so that a wait can
stand between two parts of one answer: join(faults.head(200), {{wait = "go"}}, …). A function that makes an answer never sleeps:
what has to wait waits for a release, from the spec (`server:release`, best in a handler) or from another request's steps. ]]
local cjson = require "cjson"
local core = require "opensandbox.core"
local json = require "opensandbox.json"
local socket = require "socket"
local task = require "opensandbox.task"

local M = {}

local SECONDS = 20 -- for anything that should come at once

---------------------------------------------------------------------------------------------------------------------
-- answers

local REASONS = { [200] = "OK", [202] = "Accepted", [204] = "No Content", [302] = "Found", [404] = "Not Found" }

--- A response's status line and headers.
-- @tparam integer status
-- @tparam[opt] table headers name to value, or a list of {name, value} where order or repetition matters
function M.head(status, headers)
  local lines = { ("HTTP/1.1 %d %s"):format(status, REASONS[status] or "Status") }
  for _, pair in ipairs(headers or {}) do lines[#lines + 1] = pair[1] .. ": " .. pair[2] end
  for name, value in pairs(headers or {}) do
    if type(name) == "string" then lines[#lines + 1] = name .. ": " .. value end
  end
  return { { send = table.concat(lines, "\r\n") .. "\r\n\r\n" } }
end

--- Several lists of steps as one.
function M.join(...)
  local all = {}
  for _, part in ipairs { ... } do
    for _, step in ipairs(part) do all[#all + 1] = step end
  end
  return all
end

--- A whole answer with a body. `opts.length` is a Content-Length that lies (or false for none); the connection is kept, so a
-- client that believes in a longer one waits: `faults.answer_and_close` ends that.
function M.answer(status, body, headers, opts)
  body = body or ""
  local length = opts and opts.length
  if length == nil then length = #body end
  local lines = {}
  for name, value in pairs(headers or {}) do lines[name] = value end
  if length and status ~= 204 then lines["Content-Length"] = ("%d"):format(length) end
  return M.join(M.head(status, lines), { { send = body } })
end

--- A whole answer with a table (or a string that already is JSON) as its JSON body.
function M.json(status, value, headers)
  local all = { ["Content-Type"] = "application/json" }
  for name, content in pairs(headers or {}) do all[name] = content end
  return M.answer(status, type(value) == "string" and value or cjson.encode(value), all)
end

--- A redirect to a URL.
function M.redirect(url, status)
  return M.answer(status or 302, "", { Location = url })
end

--- A whole answer, behind which the server closes without having said so: a kept connection gone stale.
function M.answer_and_close(status, body, headers, opts)
  return M.join(M.answer(status, body, headers, opts), { { close = true } })
end

---------------------------------------------------------------------------------------------------------------------
-- event streams

local function event(kind, fields)
  fields.type = kind
  return cjson.encode(fields)
end

function M.init(id) return event("init", { text = id, timestamp = 1000 }) end
function M.ping() return event("ping", { text = "pong", timestamp = 1000 }) end
function M.stdout(text) return event("stdout", { text = text, timestamp = 2000 }) end
function M.stderr(text) return event("stderr", { text = text, timestamp = 2000 }) end
function M.complete(milliseconds) return event("execution_complete", { execution_time = milliseconds or 5, timestamp = 3000 }) end

--- The error event of a command that ended with an exit code.
function M.exit(code)
  local failure = { ename = "CommandExecError", evalue = tostring(code), traceback = { "exit status " .. code } }
  return event("error", { error = failure, timestamp = 3000 })
end

--- What the server appends, without a type, to a stream whose session was busy or took too long.
function M.untyped(message)
  return cjson.encode { code = "RUNTIME_ERROR", message = message or "session is busy" }
end

-- How an event is framed, by name.
local FRAMINGS = {
  bare = function(text) return text .. "\n\n" end,
  lines = function(text) return text .. "\n" end,
  data = function(text) return "data: " .. text .. "\n\n" end,
  crlf = function(text) return "data: " .. text .. "\r\n\r\n" end,
  raw = function(bytes) return bytes end,
}

--- Bytes as pieces of a chunked body, `each` bytes in each chunk (default: one chunk), without the last chunk.
function M.chunks(bytes, each)
  local steps = {}
  for at = 1, #bytes, each or math.max(#bytes, 1) do
    local piece = bytes:sub(at, each and at + each - 1 or -1)
    steps[#steps + 1] = { send = ("%x\r\n%s\r\n"):format(#piece, piece) }
  end
  return steps
end

--- Events as pieces of a chunked body: to be sent behind `faults.stream_head()`.
-- @tparam table events JSON texts (or anything, with framing "raw"); a table among them is a step, as {wait = "x"}
-- @tparam[opt] table opts `framing`: "bare" (as execd, the default), "lines", "data", "crlf", "raw"; `each`: chunks of so many bytes
function M.events(events, opts)
  opts = opts or {}
  local steps = {}
  for _, item in ipairs(events) do
    steps[#steps + 1] = type(item) == "table" and { item } or M.chunks(FRAMINGS[opts.framing or "bare"](item), opts.each)
  end
  return M.join((table.unpack or unpack)(steps))
end

function M.stream_head()
  return M.head(200, { ["Content-Type"] = "text/event-stream", ["Transfer-Encoding"] = "chunked" })
end

-- How a stream ends, by name.
local ENDINGS = {
  whole = { { send = "0\r\n\r\n" } },
  close = { { close = true } },
  reset = { { reset = true } },
  open = { { stall = true } },
}

--- A whole event stream.
-- @tparam table events as for `faults.events`
-- @tparam[opt] table opts those of `faults.events`; `ending`: "whole" (default), "close" (closed within the chunked body), "reset",
-- "open" (silence until the client leaves)
function M.stream(events, opts)
  return M.join(M.stream_head(), M.events(events, opts), ENDINGS[opts and opts.ending or "whole"])
end

---------------------------------------------------------------------------------------------------------------------
-- WebSockets

M.TEXT, M.BINARY, M.CONTINUATION, M.CLOSE, M.PING, M.PONG = 1, 2, 0, 8, 9, 10

--- Switches to WebSocket. `opts`: `accept`, `headers`, `tail` (see the step).
function M.websocket(opts)
  local step = { websocket = true }
  for name, value in pairs(opts or {}) do step[name] = value end
  return { step }
end

--- The bytes of a frame as a server sends it.
-- @tparam integer opcode
-- @tparam string payload
-- @tparam[opt] table opts `more` (not the last one of its message), `masked`, `size` (a length that lies)
function M.frame(opcode, payload, opts)
  opts = opts or {}
  local size = opts.size or #payload
  local bytes = {}
  if size < 126 then
    bytes[1] = size
  else
    local count = size < 65536 and 2 or 8
    bytes[1] = count == 2 and 126 or 127
    for i = count, 1, -1 do
      bytes[i + 1] = size % 256
      size = math.floor(size / 256)
    end
  end
  if opts.masked then bytes[1] = bytes[1] + 128 end
  local head = string.char((opts.more and 0 or 128) + opcode) .. string.char((table.unpack or unpack)(bytes))
  return head .. (opts.masked and "\0\0\0\0" or "") .. payload
end

--- The payload of a closing frame.
function M.close_payload(code, reason)
  return string.char(math.floor(code / 256), code % 256) .. (reason or "")
end

---------------------------------------------------------------------------------------------------------------------
-- the server

local Server = {}
Server.__index = Server

--- Starts a fault server, or raises.
-- @tparam[opt="127.0.0.1"] string address to listen on
-- @treturn table server with `port`, `authority` ("127.0.0.1:PORT") and `url` ("http://127.0.0.1:PORT")
function M.start(address)
  address = address or "127.0.0.1"
  local here = debug.getinfo(1, "S").source:match("^@(.*)faults%.lua$")
  local process = assert(core.process { argv = { "lua5.4", here .. "fault_server.lua", address } })
  assert(task.await(process, core.now() + SECONDS), "the fault server does not start")
  local port, control_port = (process:read_line() or ""):match("^(%d+) (%d+)$")
  assert(port, "the fault server did not start; are lua5.4, lua-socket and lua-cjson installed?")
  local control = assert(socket.connect("127.0.0.1", tonumber(control_port)))
  control:settimeout(SECONDS)
  control:setoption("tcp-nodelay", true)
  local authority = address .. ":" .. port
  return setmetatable({
    process = process, control = control, port = tonumber(port), authority = authority, url = "http://" .. authority,
  }, Server)
end

function Server:order(message)
  assert(self.control:send(cjson.encode(message) .. "\n"))
  local line = assert(self.control:receive("*l"))
  local answer = json.decode(line) -- numbers whole, as they are meant
  if answer.error then error("fault server: " .. answer.error, 3) end
  return answer
end

--- What requests for a path get: the first one the first response, and so on; the last one stays.
-- @tparam ?string method nil: any
-- @tparam string path without query; "/x/*" is a prefix
-- @param ... responses
function Server:route(method, path, ...)
  self:order { op = "route", method = method, path = path, responses = { ... } }
end

--- As `route`, but answered behind the request's header, its body unread.
function Server:route_early(method, path, ...)
  self:order { op = "route", method = method, path = path, responses = { ... }, early = true }
end

--- What the next new connections meet before anything is read from them, e.g. {{reset = true}}.
function Server:on_connect(...)
  self:order { op = "connect", responses = { ... } }
end

--- Lets one wait of that name (or `count`) go on, now or later.
function Server:release(name, count)
  self:order { op = "release", name = name, count = count }
end

--- The requests received so far: all, or those for a path (without query). Fields: see `record` in fault_server.lua.
function Server:requests(path)
  local found = {}
  for _, request in ipairs(self:order({ op = "requests" }).requests) do
    if not path or request.path == path then found[#found + 1] = request end
  end
  return found
end

--- Waits until `test(requests)` gives something true, and returns it; I/O and tasks go on meanwhile. Raises after 20 s.
function Server:await(path, test)
  local deadline = core.now() + SECONDS
  while true do
    local result = test(self:requests(path))
    if result then return result end
    if core.now() > deadline then error("fault server: what was awaited did not happen", 2) end
    task.sleep(0.005)
  end
end

--- Waits until the client has left the n-th request (default: the last one) for a path before its response was complete.
function Server:await_abort(path, n)
  return self:await(path, function(requests)
    local request = requests[n or #requests]
    return request and request.aborted and request
  end)
end

--- Forgets routes, requests and releases, and drops every connection.
function Server:reset()
  self:order { op = "reset" }
end

function Server:stop()
  self.control:close()
  self.process:close()
end

---------------------------------------------------------------------------------------------------------------------
-- a sandbox

--- Routes of a minimal lifecycle server with one running sandbox, whose execd and egress are the prefixes /execd and /egress of
-- the same port. Routes made later for the same paths win.
-- @tparam table server
-- @treturn table `id`, `execd` and `egress` (the prefixes), `domain`, and `options(opensandbox, more)`: options for
-- `opensandbox.create`, with a connection of its own made from `more`
function M.sandbox_routes(server)
  local id = "11111111-2222-4333-8444-555555555555"
  local info = {
    id = id, status = { state = "Running", reason = "CONTAINER_RUNNING" }, image = { uri = "faulty:1" }, entrypoint = { "true" },
    createdAt = "2026-01-02T03:04:05Z", expiresAt = "2026-01-02T04:04:05Z",
  }
  local path = "/v1/sandboxes/" .. id
  server:route("POST", "/v1/sandboxes", M.json(202, info))
  server:route("GET", "/v1/sandboxes", M.json(200, {
    items = { info }, pagination = { page = 1, pageSize = 20, totalItems = 1, totalPages = 1, hasNextPage = false },
  }))
  server:route("GET", path, M.json(200, info))
  server:route("DELETE", path, M.answer(204))
  server:route("GET", path .. "/endpoints/44772", M.json(200, { endpoint = server.authority .. "/execd" }))
  server:route("GET", path .. "/endpoints/18080", M.json(200, { endpoint = server.authority .. "/egress" }))
  server:route("GET", "/execd/ping", M.answer(200))
  local sandbox = { id = id, execd = "/execd", egress = "/egress", domain = server.url }
  function sandbox.options(opensandbox, more)
    local settings = { domain = server.url, api_key = "key" }
    for name, value in pairs(more or {}) do settings[name] = value end
    return { image = "faulty:1", connection = opensandbox.connection(settings) }
  end
  return sandbox
end

return M
