--- Random names that nobody can guess: tokens, ids.
local errors = require "opensandbox.errors"

local M = {}

local function bytes(count)
  local file = io.open("/dev/urandom", "rb")
  local data
  if file then
    file:setvbuf("no")
    data = file:read(count)
    file:close()
  end
  if not data or #data < count then errors.raise("/dev/urandom cannot be read: there is no source of random bytes") end
  return data
end

--- @tparam integer count of bytes
-- @treturn string twice as many hexadecimal digits
function M.hex(count)
  return (bytes(count):gsub(".", function(char) return ("%02x"):format(char:byte()) end))
end

--- @treturn string a UUID of version 4
function M.uuid()
  local hex = M.hex(16)
  local variant = ("89ab"):sub(tonumber(hex:sub(17, 17), 16) % 4 + 1):sub(1, 1)
  return ("%s-%s-4%s-%s%s-%s"):format(hex:sub(1, 8), hex:sub(9, 12), hex:sub(14, 16), variant, hex:sub(18, 20), hex:sub(21))
end

--- @treturn integer between first and last
function M.integer(first, last)
  return first + tonumber(M.hex(4), 16) % (last - first + 1)
end

return M
