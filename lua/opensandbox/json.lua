--- JSON on a private lua-cjson instance, with what lua-cjson 2.1.0 leaves out: integers stay integers, whole numbers of any size that Lua
-- can hold are exact, empty lists stay lists, and what JSON cannot say is an error that names the place.
local cjson = require "cjson"
local errors = require "opensandbox.errors"

local M = {}

local MAX_DEPTH = 200
local EXACT = 2 ^ 53

-- The host's own settings of lua-cjson are left as they are.
local instance = cjson.new()
instance.decode_invalid_numbers(false)
instance.decode_max_depth(MAX_DEPTH)

--- JSON's null: what a decoded `null` is, and what writes one.
M.null = cjson.null

-- The metatable of lists. It is found by its field, so that a list made before the module was loaded anew is one still.
local list_metatable = { __jsontype = "array" }

--- Marks a table as a list, so that it is written as `[]` when it is empty.
-- @tparam[opt] table list
-- @treturn table the same table, or a new one
function M.array(list)
  return setmetatable(list or {}, list_metatable)
end

--- Tells whether a table was marked by `array` or decoded from `[]`.
function M.is_array(value)
  local metatable = getmetatable(value)
  if type(metatable) ~= "table" then return false end
  return rawget(metatable, "__jsontype") == "array" or (cjson.array_mt ~= nil and metatable == cjson.array_mt)
end

-- Decoding. lua-cjson reads every number as a double and cannot tell [] from {}. Where a text has long numbers or empty lists, stand-ins
-- are put in before it is read, and taken out after: strings that begin with MARK, an address that no text's author can know.
local MARK = tostring({}) .. " "

local to_integer = math.tointeger

--- Replaces empty lists and long whole numbers outside strings by stand-ins.
local function mark(text)
  local out, from, position = {}, 1, 1
  while true do
    local start = text:find('["%[%d]', position)
    if not start then break end
    local byte = text:sub(start, start)
    local finish, stand_in
    if byte == '"' then
      finish = start
      repeat
        finish = text:find('["\\]', finish + 1)
        if not finish then return text end
        local escape = text:sub(finish, finish) == "\\"
        if escape then finish = finish + 1 end
      until not escape
    elseif byte == "[" then
      finish = select(2, text:find("^%[%s*%]", start))
      stand_in = finish and "[]"
    else
      finish = select(2, text:find("^%d+[%d.eE+-]*", start))
      local number = text:sub(start, finish)
      if #number >= 16 and number:find("^%d+$") then
        if text:sub(start - 1, start - 1) == "-" then start, number = start - 1, "-" .. number end
        stand_in = number
      end
    end
    if stand_in then
      out[#out + 1] = text:sub(from, start - 1)
      out[#out + 1] = '"' .. MARK .. stand_in .. '"'
      from = finish + 1
    end
    position = (finish or start) + 1
  end
  out[#out + 1] = text:sub(from)
  return table.concat(out)
end

local function unmark(text)
  if text:sub(1, #MARK) ~= MARK then return text end
  local stood_for = text:sub(#MARK + 1)
  if stood_for == "[]" then return M.array() end
  return tonumber(stood_for)
end

local function settle(value, marked)
  local kind = type(value)
  if kind == "number" then
    if to_integer and value >= -EXACT and value <= EXACT then return to_integer(value) or value end
  elseif kind == "string" then
    if marked then return unmark(value) end
  elseif kind == "table" then
    for key, item in pairs(value) do value[key] = settle(item, marked) end
    if #value > 0 then M.array(value) end
  end
  return value
end

--- Reads a JSON text.
-- @tparam string text
-- @return[1] the value; `null` is `json.null`, lists carry the mark of `array`, whole numbers are integers where Lua has them
-- @treturn[2] nil
-- @treturn[2] string what is wrong, and where
function M.decode(text)
  local marked = text:find("%[%s*%]") or text:find("%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d%d")
  local ok, value = pcall(instance.decode, marked and mark(text) or text)
  if ok then return settle(value, marked) end
  -- Places in a marked text are not the user's: read the original for them.
  if marked then
    local _, problem = pcall(instance.decode, text)
    if type(problem) == "string" then value = problem end
  end
  return nil, (tostring(value):gsub("^.-:%d+: ", ""))
end

-- Encoding.
local UTF8_SHAPES = {
  "^[\194-\223][\128-\191]", "^\224[\160-\191][\128-\191]", "^[\225-\236\238\239][\128-\191][\128-\191]", "^\237[\128-\159][\128-\191]",
  "^\240[\144-\191][\128-\191][\128-\191]", "^[\241-\243][\128-\191][\128-\191][\128-\191]", "^\244[\128-\143][\128-\191][\128-\191]",
}

--- The place of the first byte that is no UTF-8, or nil.
local function invalid_utf8(text)
  local position = text:find("[\128-\255]")
  while position do
    local finish
    for _, shape in ipairs(UTF8_SHAPES) do
      finish = select(2, text:find(shape, position))
      if finish then break end
    end
    if not finish then return position end
    position = text:find("[\128-\255]", finish + 1)
  end
end

local function fail(path, problem)
  local place = path ~= "" and ("'%s'"):format(path) or "this value"
  return errors.raise(("cannot write %s as JSON: %s"):format(place, problem))
end

local function encode_number(value, path)
  if value ~= value or value == math.huge or value == -math.huge then fail(path, "it is not a finite number") end
  if math.type and math.type(value) == "integer" then return ("%d"):format(value) end
  if value == math.floor(value) and value >= -EXACT and value <= EXACT then return ("%.0f"):format(value) end
  local text = ("%.15g"):format(value)
  if tonumber(text) ~= value then text = ("%.17g"):format(value) end
  return (text:gsub(",", "."))
end

local function encode_string(value, path)
  local position = invalid_utf8(value)
  if position then fail(path, ("byte %d of the text is not valid UTF-8"):format(position)) end
  return instance.encode(value)
end

local function join(path, key)
  return path == "" and tostring(key) or ("%s.%s"):format(path, tostring(key))
end

local encode_value

local function encode_list(list, path, depth)
  local items, count = {}, #list
  for key in pairs(list) do
    if type(key) ~= "number" or key < 1 or key > count or key ~= math.floor(key) then
      fail(path, type(key) == "number" and "the list has holes" or "it has both list items and named fields")
    end
  end
  for i = 1, count do
    if list[i] == nil then fail(path, "the list has holes") end
    items[i] = encode_value(list[i], ("%s[%d]"):format(path, i), depth)
  end
  return "[" .. table.concat(items, ",") .. "]"
end

local function encode_object(object, path, depth)
  local names = {}
  for key in pairs(object) do
    if type(key) ~= "string" then
      fail(path, type(key) == "number" and "the list has holes" or ("a %s cannot be a name"):format(type(key)))
    end
    names[#names + 1] = key
  end
  table.sort(names)
  for i, name in ipairs(names) do
    local place = join(path, name)
    names[i] = encode_string(name, place) .. ":" .. encode_value(object[name], place, depth)
  end
  return "{" .. table.concat(names, ",") .. "}"
end

function encode_value(value, path, depth)
  local kind = type(value)
  if kind == "string" then return encode_string(value, path) end
  if kind == "number" then return encode_number(value, path) end
  if kind == "boolean" then return tostring(value) end
  if value == M.null then return "null" end
  if kind ~= "table" then fail(path, ("a %s cannot be written"):format(kind)) end
  if depth >= MAX_DEPTH then fail(path, ("it is nested deeper than %d levels (or contains itself)"):format(MAX_DEPTH)) end
  if #value > 0 or M.is_array(value) then return encode_list(value, path, depth + 1) end
  return encode_object(value, path, depth + 1)
end

--- Writes a value as JSON; names are sorted, so that equal values give equal texts. What JSON cannot say (functions, NaN, lists with
-- holes, text that is not UTF-8) raises at the user's line and names the place.
-- @param value
-- @treturn string
function M.encode(value)
  return encode_value(value, "", 0)
end

return M
