--[[ The WebSocket side of the fault server: loaded by fault_server.lua, which tells of its steps. Written without the library that it
tests; Lua 5.3 and newer. ]]
local mime = require "mime"

local M = {}

local RECORDED = 1024 -- bytes of a frame that are recorded
local CLOSE, PING, PONG = 8, 9, 10

local function rotate(x, n)
  return ((x << n) | (x >> (32 - n))) & 0xffffffff
end

local function sha1(text)
  local a, b, c, d, e = 0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0
  text = text .. "\128" .. ("\0"):rep((55 - #text) % 64) .. (">I8"):pack(#text * 8)
  for at = 1, #text, 64 do
    local w = { (">I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4I4"):unpack(text, at) }
    for i = 17, 80 do w[i] = rotate(w[i - 3] ~ w[i - 8] ~ w[i - 14] ~ w[i - 16], 1) end
    local A, B, C, D, E = a, b, c, d, e
    for i = 1, 80 do
      local f, k
      if i <= 20 then f, k = (B & C) | (~B & D), 0x5a827999
      elseif i <= 40 then f, k = B ~ C ~ D, 0x6ed9eba1
      elseif i <= 60 then f, k = (B & C) | (B & D) | (C & D), 0x8f1bbcdc
      else f, k = B ~ C ~ D, 0xca62c1d6 end
      A, B, C, D, E = (rotate(A, 5) + (f & 0xffffffff) + E + k + w[i]) & 0xffffffff, A, rotate(B, 30), C, D
    end
    a, b, c, d, e = (a + A) & 0xffffffff, (b + B) & 0xffffffff, (c + C) & 0xffffffff, (d + D) & 0xffffffff, (e + E) & 0xffffffff
  end
  return (">I4I4I4I4I4"):pack(a, b, c, d, e)
end

--- The answer to a request for a WebSocket. `step` has `accept` (another Sec-WebSocket-Accept), `headers` (further lines, or ones that
-- replace), `tail` (bytes in the same piece behind the header).
function M.switch(request, step)
  local key = request.headers["sec-websocket-key"] or ""
  local headers = {
    Upgrade = "websocket", Connection = "Upgrade",
    ["Sec-WebSocket-Accept"] = step.accept or mime.b64(sha1(key .. "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")),
  }
  for name, value in pairs(step.headers or {}) do headers[name] = value end
  local lines = { "HTTP/1.1 101 Switching Protocols" }
  for name, value in pairs(headers) do lines[#lines + 1] = name .. ": " .. value end
  return table.concat(lines, "\r\n") .. "\r\n\r\n" .. (step.tail or "")
end

--- The bytes of a frame as a server sends it.
function M.frame(opcode, payload)
  local size = #payload
  local length = size < 126 and string.char(size) or size < 65536 and (">BI2"):pack(126, size) or (">BI8"):pack(127, size)
  return string.char(0x80 | opcode) .. length .. payload
end

--- Reads a frame of the client's by `read(count)` → bytes or nil. Returns it with its whole payload, or nil when the client has left.
function M.read(read)
  local head = read(2)
  if not head then return nil end
  local first, second = head:byte(1, 2)
  local size = second & 127
  if size >= 126 then
    local more = read(size == 126 and 2 or 8)
    if not more then return nil end
    size = (size == 126 and ">I2" or ">I8"):unpack(more)
  end
  local mask = second >= 128 and read(4)
  local payload = read(size)
  if not payload then return nil end
  if mask then
    local longest = mask:rep(size // 4 + 1)
    local pieces = {}
    for at = 1, size, 4096 do
      local last = math.min(at + 4095, size)
      local bytes, keys = { payload:byte(at, last) }, { longest:byte(at, last) }
      for i = 1, #bytes do bytes[i] = bytes[i] ~ keys[i] end
      pieces[#pieces + 1] = string.char(table.unpack(bytes))
    end
    payload = table.concat(pieces)
  end
  return { opcode = first & 15, final = first >= 128, masked = mask ~= false, payload = payload }
end

--- How a frame is recorded.
function M.record(request, frame)
  request.frames = request.frames or {}
  request.frames[#request.frames + 1] = {
    opcode = frame.opcode, final = frame.final, masked = frame.masked, size = #frame.payload, payload = frame.payload:sub(1, RECORDED),
  }
end

--- What an echoing peer answers a frame with, or nil.
function M.echo(frame)
  if frame.opcode == PONG then return nil end
  return M.frame(frame.opcode == PING and PONG or frame.opcode, frame.payload)
end

function M.is_close(frame)
  return frame.opcode == CLOSE
end

return M
