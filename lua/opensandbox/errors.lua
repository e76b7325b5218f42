--- What a failed call returns as its second value: a table with metatable `opensandbox.Error`.
--
-- Fields: `code` (stable, see `M.codes`), `message`, `status`, `api_code`, `request_id`, `retry_after`, `body`, `method`, `url`,
-- `retryable`, `partial`, `cause`, `traceback`. `tostring(err)` is one line without secrets.
local datetime = require "opensandbox.datetime"

local M = {}

--- Every code there is; the value tells whether trying again can help.
M.codes = {
  timeout = true, cancelled = false, dns = true, connect = true, tls = false, network = true, protocol = false, truncated = true,
  decode = false, limit = false,
  unauthorized = false, forbidden = false, not_found = false, conflict = false, invalid = false, rate_limited = true,
  unsupported = false, unavailable = true, api = false,
  not_ready = true, unhealthy = true, exit_code_missing = false, command_failed = false, handler = false, closed = false, io = false,
  pool_empty = true, pool_acquire_failed = true, pool_store = true, pool_not_running = false,
}

local BODY_LIMIT = 64 * 1024
local MESSAGE_LIMIT = 500

local STATUS_CODES = {
  [400] = "invalid", [401] = "unauthorized", [403] = "forbidden", [404] = "not_found", [409] = "conflict", [416] = "invalid",
  [422] = "invalid", [429] = "rate_limited", [501] = "unsupported", [502] = "unavailable", [503] = "unavailable",
  [504] = "unavailable",
}
local RETRYABLE_STATUS = { [408] = true, [425] = true }

-- Query keys whose values say what a request was about and can be no secret.
local PLAIN_QUERY = {
  path = true, pattern = true, depth = true, offset = true, limit = true, cursor = true, id = true, page = true, pageSize = true,
  state = true, use_server_proxy = true, expires = true, verbose = true, language = true, scope = true, metadata = true,
  pty = true, since = true, takeover = true,
}

local Error = { __name = "opensandbox.Error" }

local function one_line(text)
  text = tostring(text):gsub("[%c%s]+", " "):gsub("^ ", ""):gsub(" $", "")
  return text
end

--- Cuts a text, not in the middle of a UTF-8 character.
local function shorten(text, limit)
  if #text <= limit then return text end
  return (text:sub(1, limit):gsub("[\192-\255][\128-\191]*$", "")) .. "…"
end

function Error.__tostring(err)
  local notes = {}
  if err.method and err.url then notes[#notes + 1] = err.method .. " " .. err.url end
  if err.status then notes[#notes + 1] = ("status %d"):format(err.status) end
  if err.api_code then notes[#notes + 1] = tostring(err.api_code) end
  if err.request_id then notes[#notes + 1] = "request id " .. tostring(err.request_id) end
  local text = ("opensandbox: %s: %s"):format(tostring(err.code), tostring(err.message))
  if #notes > 0 then text = text .. " (" .. table.concat(notes, ", ") .. ")" end
  return one_line(text)
end

--- Tells an error of this library from other values, also one made before the module was loaded anew.
-- @param value anything
-- @treturn boolean
function M.is(value)
  local metatable = type(value) == "table" and getmetatable(value)
  return type(metatable) == "table" and rawget(metatable, "__name") == Error.__name
end

local wants_strings = _VERSION == "Lua 5.1" and not _G.jit -- its interpreter prints no other uncaught errors

--- As Lua's assert, which in Lua 5.1 and 5.2 refuses errors that are tables: returns its arguments, or raises the second.
-- @param value what a method returned
-- @param err raised where `value` is nil or false; on plain Lua 5.1 as its text
-- @param ... more values
-- @return all of them
function M.check(value, err, ...)
  if value then return value, err, ... end
  if M.is(err) and wants_strings then err = tostring(err) end
  error(err == nil and "check failed" or err, 2)
end

--- Makes an error.
-- @tparam table fields `code` and `message` at least; `retryable` is the code's own where it is absent
-- @treturn table err the same table
function M.new(fields)
  assert(M.codes[fields.code] ~= nil, "unknown error code")
  if fields.retryable == nil then fields.retryable = M.codes[fields.code] end
  if fields.url then fields.url = M.safe_url(fields.url) end
  return setmetatable(fields, Error)
end

--- Makes the error of a request that got no usable answer.
-- @tparam string code `timeout`, `cancelled`, `dns`, `connect`, `tls`, `network`, `protocol`, `truncated`, `decode` or `limit`
-- @tparam string message
-- @tparam[opt] table fields more fields of the error (`method`, `url`, `partial`, …)
-- @treturn table err
function M.transport(code, message, fields)
  local err = {}
  for key, value in pairs(fields or {}) do err[key] = value end
  err.code, err.message = code, message
  return M.new(err)
end

--- Copies an address without user, password, and query values that may hold secrets.
-- @tparam string url
-- @treturn string
function M.safe_url(url)
  url = url:gsub("^(%a[%w+.-]*://)[^/?#@]*@", "%1"):gsub("#.*$", "")
  local base, query = url:match("^([^?]*)%?(.*)$")
  if not query then return url end
  query = query:gsub("[^&]+", function(pair)
    local name = pair:match("^[^=]*")
    if name == pair or PLAIN_QUERY[name] then return pair end
    return name .. "=***"
  end)
  return base .. "?" .. query
end

local function text_of_html(body)
  local title = body:match("<[tT][iI][tT][lL][eE][^>]*>(.-)</")
  local text = title or body:gsub("<[sS][tT][yY][lL][eE].-</[^>]*>", " "):gsub("<[sS][cC][rR][iI][pP][tT].-</[^>]*>", " ")
  text = text:gsub("<[^>]*>", " ")
  text = text:gsub("&lt;", "<"):gsub("&gt;", ">"):gsub("&quot;", '"'):gsub("&#39;", "'"):gsub("&nbsp;", " "):gsub("&amp;", "&")
  return text
end

--- The texts of a FastAPI `detail` list: `body.timeout: Input should be a valid integer`.
local function text_of_details(list)
  local texts = {}
  for i, item in ipairs(list) do
    if type(item) == "table" then
      local place = {}
      for j, part in ipairs(type(item.loc) == "table" and item.loc or {}) do place[j] = tostring(part) end
      local text = item.msg or item.message
      if type(text) == "string" then
        texts[i] = #place > 0 and table.concat(place, ".") .. ": " .. text or text
      end
    else
      texts[i] = tostring(item)
    end
    texts[i] = texts[i] or "invalid"
  end
  return table.concat(texts, "; ")
end

local function text_of_json(value)
  if type(value) == "string" then return value end
  if type(value) ~= "table" then return nil end
  local function field(name)
    local text = value[name]
    if type(text) == "string" and text ~= "" then return text end
    if type(text) == "table" then
      if #text > 0 then return text_of_details(text) end
      return text_of_json(text)
    end
  end
  local message = field("message") or field("detail") or field("error") or field("title") or field("error_description")
  local code = value.code
  if type(code) ~= "string" and type(value.error) == "table" then code = value.error.code end
  return message, type(code) == "string" and code or nil
end

--- The message and the server's own code in an error body.
local function read_body(body, content_type)
  if body:find("^%s*[{%[\"]") then
    local value = require("opensandbox.json").decode(body)
    if value ~= nil then return text_of_json(value) end
  end
  if content_type:find("html", 1, true) or body:find("^%s*<[!hH]") then return text_of_html(body) end
  return body
end

local function retry_after(headers, now)
  local value = headers["retry-after"]
  if not value then return nil end
  local delay = value:match("^%s*(%d+%.?%d*)%s*$")
  if delay then
    delay = tonumber(delay)
    return delay == math.floor(delay) and math.floor(delay) or delay
  end
  local date = datetime.parse_http(value)
  return date and math.max(0, date - now) or nil
end

local REASONS = {
  [400] = "the server refused the request", [401] = "the server wants a valid API key", [403] = "the server forbids this",
  [404] = "the server has no such thing", [429] = "the server got too many requests", [502] = "bad gateway",
  [503] = "the server is unavailable", [504] = "gateway timeout",
}

--- Masks secrets wherever they stand in a text, as they are or as JSON writes them.
local function mask(text, secrets)
  for _, secret in ipairs(secrets) do
    if #secret >= 4 then
      local escaped = secret:gsub('[%c"\\]', { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t" })
      for _, form in ipairs { secret, escaped } do text = text:gsub(form:gsub("%p", "%%%0"), "***") end
    end
  end
  return text
end

--- Makes the error of an answer whose status is not 2xx.
-- @tparam table response `{status=, headers={lower-case names}, body=string or nil, request_id=}`
-- @tparam table request `{method=, url=, secrets={string,…}}`; secrets are masked wherever the server repeats them
-- @treturn table err
function M.from_response(response, request)
  local headers, status = response.headers or {}, response.status
  local body = mask(response.body or "", request.secrets or {})
  local message, api_code = read_body(body, headers["content-type"] or "")
  message = message and one_line(message) or ""
  message = mask(message, request.secrets or {})
  if message == "" then message = REASONS[status] or ("the server answered with status %d"):format(status) end
  local location = headers.location
  if status >= 300 and status < 400 and location then
    message = ("the server redirects to %s, which is not followed"):format(M.safe_url(one_line(location)))
  end
  if status == 401 and (body == "" or message:lower():find("api", 1, true)) then
    message = message .. " (check api_key or OPEN_SANDBOX_API_KEY)"
  end
  local code = STATUS_CODES[status] or "api"
  return M.new {
    code = code, message = shorten(message, MESSAGE_LIMIT), status = status, api_code = api_code,
    request_id = response.request_id or headers["x-request-id"], retry_after = retry_after(headers, os.time()),
    body = body:sub(1, BODY_LIMIT), method = request.method, url = request.url,
    retryable = RETRYABLE_STATUS[status] or M.codes[code],
  }
end

--- Where a server has not even the address of an optional API, says that it does not support it.
-- @tparam table err of a call of that API
-- @tparam string what the API's name
-- @treturn table err the same
function M.explain_unsupported(err, what)
  -- an answer of the API itself has a code; that of a router which knows no such path has none
  if err.status == 404 and not err.api_code and (err.body == "" or err.body:find("404 page not found", 1, true)
    or err.body:find('"Not Found"', 1, true)) then
    err.code, err.message = "unsupported", ("this server has no %s"):format(what)
  end
  return err
end

-- The folder of this file, as Lua names it in debug information: frames from there are the library's own.
local library = debug.getinfo(1, "S").source:match("^(@.*[/\\])errors%.lua$")

--- Raises a misuse (wrong argument, unknown option, …) at the user's line: the nearest caller outside this library.
-- @tparam string message
function M.raise(message)
  local level = 2
  while true do
    local info = debug.getinfo(level, "S")
    if not info then error(message, 0) end
    local is_lua = info.what ~= "C" and info.what ~= "tail"
    if is_lua and not (library and info.source:sub(1, #library) == library) then error(message, level) end
    level = level + 1
  end
end

return M
