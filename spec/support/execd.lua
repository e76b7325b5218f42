--[[ Starts the program opensandbox-execd on a loopback port and talks to it byte by byte, without any HTTP client.

  local execds = require "spec.support.execd"
  local execd = execds.start()
  local answer = execd:call("POST", "/command", '{"command":"true"}')   -- {status=, line=, headers=, body=}
  local stream = execd:open("POST", "/command", '{"command":"cat"}')    -- stream:head(), stream:chunk() → bytes or nil, stream:close()
  execd:stop()                                                          -- by SIGTERM; waits for its end ]]
local cjson = require "cjson"
local runtimes = require "spec.support.runtime"
local socket = require "socket"

local M = { TOKEN = "a token of the specs", await = runtimes.await }

local SECONDS = 30 -- for anything that should come at once

local Stream = {}
Stream.__index = Stream

--- One line of the answer, without its end.
function Stream:line()
  local line, err = self.socket:receive("*l")
  return line, err
end

--- Reads status line and headers; names are lower-case.
function Stream:head()
  local line = assert(self:line())
  local answer = { line = line, status = tonumber(line:match("^HTTP/1%.1 (%d+)")), headers = {} }
  for header in function() return assert(self:line()) end do
    if header == "" then break end
    local name, value = header:match("^(.-): ?(.*)$")
    answer.headers[name:lower()] = value
  end
  return answer
end

--- The next chunk of a chunked body; nil at its proper end, nil and "closed" when it is cut.
function Stream:chunk()
  local line, err = self:line()
  if not line then return nil, err end
  local size = assert(tonumber(line, 16), line)
  local bytes = size > 0 and assert(self.socket:receive(size)) or nil
  assert(self:line() == "")
  return bytes
end

--- Reads chunks until one of them, with those before, holds `text`.
function Stream:read_until(text)
  local all = ""
  while not all:find(text, 1, true) do all = all .. assert(self:chunk(), "the stream ended before " .. text) end
  return all
end

--- The whole answer.
function Stream:answer()
  local answer = self:head()
  if answer.headers["transfer-encoding"] == "chunked" then
    local parts = {}
    for bytes in function() return self:chunk() end do parts[#parts + 1] = bytes end
    answer.body = table.concat(parts)
  else
    local size = tonumber(answer.headers["content-length"] or 0)
    answer.body = size > 0 and assert(self.socket:receive(size)) or ""
  end
  return answer
end

function Stream:send(bytes) return self.socket:send(bytes) end

function Stream:close() self.socket:close() end

local Execd = {}
Execd.__index = Execd

--- A connection to it, nothing sent yet.
function Execd:connect()
  local client = assert(socket.connect("127.0.0.1", self.port))
  client:settimeout(SECONDS)
  return setmetatable({ socket = client }, Stream)
end

--- A request as text, with the token and Content-Length unless `headers` (lines) has other wishes.
function M.request(method, path, body, headers)
  local lines = { ("%s %s HTTP/1.1"):format(method, path), "Host: execd", "X-EXECD-ACCESS-TOKEN: " .. M.TOKEN }
  for _, line in ipairs(headers or {}) do
    if line:match("^X%-EXECD") then table.remove(lines, 3) end
    lines[#lines + 1] = line
  end
  if body then lines[#lines + 1] = "Content-Length: " .. #body end
  return table.concat(lines, "\r\n") .. "\r\n\r\n" .. (body or "")
end

function Execd:open(method, path, body, headers)
  local stream = self:connect()
  assert(stream:send(M.request(method, path, body, headers)))
  return stream
end

function Execd:call(method, path, body, headers)
  local stream = self:open(method, path, body, headers)
  local answer = stream:answer()
  stream:close()
  return answer
end

--- The events of a body: decoded objects.
function M.events(body)
  local events = {}
  for text in body:gmatch("(.-)\n\n") do events[#events + 1] = cjson.decode(text) end
  return events
end

--- Runs a command and returns its events.
function Execd:run(command, fields)
  local request = { command = command }
  for name, value in pairs(fields or {}) do request[name] = value end
  return M.events(self:call("POST", "/command", cjson.encode(request)).body)
end

--- Its descendants: pid → start time.
function Execd:processes() return runtimes.descendants(self.pid) end

function Execd:stop()
  local started = self:processes()
  os.execute("kill -TERM " .. self.pid)
  self.output:close()
  runtimes.await("execd's processes end", function() return #runtimes.alive(started) == 0 end)
  os.execute("rm -rf " .. self.directory)
end

local function free_port()
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  listener:close()
  return tonumber(port)
end

--- Starts it. `before` is shell text in front of the program, `arguments` what follows its own.
function M.start(before, arguments)
  local program = os.getenv("OPENSANDBOX_EXECD") or assert(os.getenv("OPENSANDBOX_RUNTIME")):gsub("[^/]+$", "opensandbox-execd")
  local self = setmetatable({ port = free_port(), directory = runtimes.directory() }, Execd)
  local command = ("--host 127.0.0.1 --port %d --token-fd 9 %s"):format(self.port, arguments or "")
  self.output = assert(io.popen(([[cd %s && %s exec sh -c 'echo $$; exec "$0" "$@" 2>execd.log >/dev/null' '%s' %s 9<<END
%s
END]]):format(self.directory, before or "", program, command, M.TOKEN)))
  self.pid = tonumber(self.output:read("*l"))
  runtimes.await("execd listens", function()
    local client = socket.connect("127.0.0.1", self.port)
    if client then client:close() end
    return client
  end)
  return self
end

return M
