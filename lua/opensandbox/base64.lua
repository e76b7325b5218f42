--- Base64 (RFC 4648) of byte strings.
local M = {}

local floor = math.floor
local char, byte = string.char, string.byte
local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

local letters, values = {}, {}
for i = 1, 64 do
  letters[i - 1] = ALPHABET:sub(i, i)
  values[ALPHABET:byte(i)] = i - 1
end

--- Writes bytes as Base64, with padding.
-- @tparam string bytes
-- @treturn string
function M.encode(bytes)
  local out = {}
  for i = 1, #bytes - 2, 3 do
    local a, b, c = byte(bytes, i, i + 2)
    out[#out + 1] = letters[floor(a / 4)] .. letters[a % 4 * 16 + floor(b / 16)] .. letters[b % 16 * 4 + floor(c / 64)] .. letters[c % 64]
  end
  local left = #bytes % 3
  if left == 1 then
    local a = byte(bytes, -1)
    out[#out + 1] = letters[floor(a / 4)] .. letters[a % 4 * 16] .. "=="
  elseif left == 2 then
    local a, b = byte(bytes, -2, -1)
    out[#out + 1] = letters[floor(a / 4)] .. letters[a % 4 * 16 + floor(b / 16)] .. letters[b % 16 * 4] .. "="
  end
  return table.concat(out)
end

--- Reads Base64; padding may be missing, line ends and spaces are passed over.
-- @tparam string text
-- @treturn string|nil bytes; nil where the text is not Base64
function M.decode(text)
  text = text:gsub("%s", ""):gsub("=*$", "")
  if #text % 4 == 1 or text:find("[^%w+/]") then return nil end
  local out = {}
  for i = 1, #text, 4 do
    local a, b, c, d = byte(text, i, i + 3)
    a, b = values[a], values[b]
    local first = a * 4 + floor(b / 16)
    if not c then
      out[#out + 1] = char(first)
    else
      c = values[c]
      local second = b % 16 * 16 + floor(c / 4)
      out[#out + 1] = d and char(first, second, c % 4 * 64 + values[d]) or char(first, second)
    end
  end
  return table.concat(out)
end

return M
