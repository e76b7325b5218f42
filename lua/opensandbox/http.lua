--- The transport below every call of the API: addresses, headers, retries, redirects, sinks. Bytes and time are the C core's.
local errors = require "opensandbox.errors"
local task = require "opensandbox.task"

local M = {}

local MAX_REDIRECTS = 5
local CHUNK = 256 * 1024
local PROGRESS_STEP = 256 * 1024
local REPEATABLE = { GET = true, HEAD = true, PUT = true, DELETE = true, OPTIONS = true }
local RETRIED_STATUS = { [408] = true, [425] = true, [429] = true, [502] = true, [503] = true, [504] = true }
local LOOPBACK = "localhost,127.0.0.0/8,::1" -- a proxy of the environment is never asked for these

-- ------------------------------------------------------------------------------------------------------------------
-- addresses and headers

local function encode(text)
  return (tostring(text):gsub("[^%w%-._~]", function(char) return ("%%%02X"):format(char:byte()) end))
end

--- Writes a query: a list of {name, value} pairs, or a table of names to values (then in the order of names).
local function query_string(query)
  local pairs_list = {}
  for _, pair in ipairs(query) do pairs_list[#pairs_list + 1] = encode(pair[1]) .. "=" .. encode(pair[2]) end
  if #query == 0 then
    for name, value in pairs(query) do pairs_list[#pairs_list + 1] = encode(name) .. "=" .. encode(value) end
    table.sort(pairs_list)
  end
  return #pairs_list > 0 and "?" .. table.concat(pairs_list, "&") or ""
end

local function is_loopback(url)
  local host = url:match("^%a+://%[?([^/%]:]+)") or ""
  return host == "localhost" or host:match("^127%.%d+%.%d+%.%d+$") ~= nil or url:match("^%a+://%[::1%]") ~= nil
end

--- Splits an address into scheme, authority and the rest.
local function split_url(url)
  local scheme, authority, rest = url:match("^(%a[%w+.-]*)://([^/?#]*)(.*)$")
  if not scheme then return nil end
  return scheme:lower(), authority:lower(), rest
end

--- The header lines of a request: the connection's, then the request's own; the later one of a name wins.
local function header_lines(connection, request, extra)
  local lines, place = {}, {}
  local function add(headers)
    for name, value in pairs(headers or {}) do
      local key = name:lower()
      place[key] = place[key] or #lines + 1
      -- libcurl: "Name:" takes a header away, "Name;" sends it empty
      lines[place[key]] = value == false and name .. ":" or value == "" and name .. ";" or name .. ": " .. tostring(value)
    end
  end
  add { ["User-Agent"] = connection.user_agent, Expect = false }
  add(extra)
  add(connection.headers)
  add(request.headers)
  return lines
end

local function header_of(headers, wanted)
  for name, value in pairs(headers or {}) do
    if name:lower() == wanted then return value end
  end
end

-- ------------------------------------------------------------------------------------------------------------------
-- failures

local function fields_of(request, url, extra)
  local fields = { method = request.method, url = url, request_id = request.request_id }
  for name, value in pairs(extra or {}) do fields[name] = value end
  return fields
end

--- The error of a transfer that broke off, with what a user needs to know of it.
local function transport_error(request, url, code, message, extra)
  local _, authority = split_url(url)
  if code == "connect" or code == "dns" or code == "tls" then message = ("%s: %s"):format(authority or url, message) end
  return errors.transport(code, message, fields_of(request, url, extra))
end

local SECRET_HEADERS = { "token", "key", "auth", "secret", "access", "cookie" }

--- Values that no message may repeat: the API key, and what headers with telling names carry.
local function secrets_of(connection, request)
  local secrets = { connection.api_key }
  for _, secret in ipairs(request.secrets or {}) do secrets[#secrets + 1] = secret end
  for _, headers in ipairs { connection.headers or {}, request.headers or {} } do
    for name, value in pairs(headers) do
      for _, word in ipairs(SECRET_HEADERS) do
        if name:lower():find(word, 1, true) then secrets[#secrets + 1] = tostring(value) end
      end
    end
  end
  return secrets
end

local function response_error(connection, request, url, response)
  return errors.from_response(response, { method = request.method, url = url, secrets = secrets_of(connection, request) })
end

--- Tells the debug hook of an attempt. Returns an error where the hook failed.
local function report(connection, event)
  local debug_hook = connection.debug
  if not debug_hook then return end
  if debug_hook ~= true then
    return (task.call_handler(debug_hook, event))
  else
    io.stderr:write(("opensandbox: %s %s %s%s\n"):format(event.method, event.url, tostring(event.status or event.error),
      event.attempt > 1 and (" (attempt %d)"):format(event.attempt) or ""))
  end
end

-- ------------------------------------------------------------------------------------------------------------------
-- one exchange

--- May the request be made twice?
local function is_repeatable(request)
  if request.idempotent ~= nil then return request.idempotent end
  return REPEATABLE[request.method] == true
end

local function transfer_options(connection, request, url, deadline, default_headers)
  local tls = connection.tls or {}
  local timeout = request.timeout
  local lines = header_lines(connection, request, default_headers)
  return {
    url = url, method = request.method, headers = lines, body = request.body, parts = request.wire_parts,
    stream_body = request.stream_body, size = request.size, once = not is_repeatable(request),
    sink = request.wire_sink, file = request.file, append = request.append, lines = request.lines, http1 = request.wire_sink == "events",
    upgrade = request.upgrade,
    connect_timeout = connection.connect_timeout, deadline = deadline,
    header_timeout = request.header_timeout or (not timeout and connection.request_timeout) or nil,
    idle_timeout = request.idle_timeout or (request.wire_sink ~= "events" and connection.request_timeout) or nil,
    ping_idle_timeout = request.ping_idle_timeout, progress_step = request.on_progress and PROGRESS_STEP or nil,
    body_limit = request.body_limit,
    proxy = connection.proxy, no_proxy = not connection.proxy and LOOPBACK or is_loopback(url) and connection.embedded and "*" or nil,
    ca_file = tls.ca_file, ca_path = tls.ca_path, cert_file = tls.cert_file, key_file = tls.key_file, insecure = tls.verify == false,
  }
end

local function progress(request, transfer, is_upload)
  local done_down, done_up = transfer:progress()
  if not request.on_progress then return nil end
  local total = request.total or not is_upload and tonumber(transfer:headers()["content-length"]) or nil
  return (task.call_handler(request.on_progress, is_upload and done_up or done_down, total))
end

--- Feeds the streamed parts of an upload, in order. Returns an error when one of the sources raised.
local function feed(request, transfer)
  for _, source in ipairs(request.sources) do
    while true do
      task.await(transfer, nil, "writable")
      if transfer:done() or (transfer:status() or 0) >= 300 then return nil end
      local err, chunk = task.call_handler(source)
      if err then return err end
      if chunk == nil then break end
      if type(chunk) ~= "string" then
        return errors.new { code = "handler", message = "a data function must return a string or nil, not a " .. type(chunk) }
      end
      for first = 1, #chunk, CHUNK do
        if first > 1 then task.await(transfer, nil, "writable") end
        transfer:push(#chunk <= CHUNK and chunk or chunk:sub(first, first + CHUNK - 1))
      end
      err = progress(request, transfer, true)
      if err then return err end
    end
    transfer:push()
  end
end

--- Hands the body to a function, chunk by chunk.
local function deliver(request, transfer)
  while true do
    task.await(transfer)
    local status = transfer:status()
    if status and status >= 300 then
      if transfer:done() then return nil end
    else
      local chunk = transfer:read()
      if chunk then
        request.delivered = (request.delivered or 0) + #chunk
        local err = task.call_handler(request.sink, chunk) or progress(request, transfer)
        if err then return err end
      elseif transfer:done() then
        return nil
      end
    end
  end
end

local function wait_for_end(request, transfer, is_upload)
  while not transfer:done() do
    task.await(transfer)
    transfer:status()
    local err = progress(request, transfer, is_upload)
    if err then return err end
  end
end

local function response_of(transfer, request)
  local headers = transfer:headers()
  return { status = transfer:status(), headers = headers, request_id = headers["x-request-id"] or request.request_id }
end

--- Runs one transfer to its end. Returns response, or nil, err, before_send, was_kept (the connection, from an earlier request).
local function exchange(connection, request, url, deadline, default_headers)
  local core = require "opensandbox.core"
  local transfer, code, message = core.transfer(transfer_options(connection, request, url, deadline, default_headers))
  if not transfer then return nil, transport_error(request, url, code, message), false end
  local ok, err = task.pcall(function()
    local failure = request.sources and feed(request, transfer)
    if not failure and request.wire_sink then failure = deliver(request, transfer) end
    return failure or wait_for_end(request, transfer, request.is_upload)
  end)
  if not ok then -- a cancelled task: nothing goes on behind its back
    transfer:cancel()
    error(err, 0)
  end
  if err then
    transfer:cancel()
    err.method, err.url = request.method, errors.safe_url(url)
    return nil, err, false
  end
  local before_send, was_kept
  code, message, before_send, was_kept = transfer:failure()
  local response = transfer:status() and response_of(transfer, request)
  if response and response.status >= 300 then
    code = nil -- the answer says more than that its body was cut
  end
  local received = (transfer:progress())
  if not code then
    if not request.file or response.status >= 300 then response.body = transfer:body() end
    response.received = received
  end
  transfer:cancel()
  if code then
    local partial = request.delivered or (request.file and response and received) or nil
    local fields = { status = response and response.status, partial = partial }
    return nil, transport_error(request, url, code, message, fields), before_send, was_kept
  end
  return response
end

-- ------------------------------------------------------------------------------------------------------------------
-- redirects and retries

--- Where a redirect leads, if it may be followed: GET and HEAD, within one host, never from https to http.
local function redirect_target(request, url, response)
  local location = response.headers.location
  local status = response.status
  if not location or not (status == 301 or status == 302 or status == 303 or status == 307 or status == 308) then return nil end
  if request.method ~= "GET" and request.method ~= "HEAD" then return nil end
  local scheme, authority = split_url(url)
  local new_scheme, new_authority = split_url(location)
  if not new_scheme then
    if location:sub(1, 2) == "//" then
      location = scheme .. ":" .. location
    elseif location:sub(1, 1) == "/" then
      location = scheme .. "://" .. authority .. location
    else
      location = url:gsub("[?#].*$", ""):gsub("[^/]*$", "") .. location
    end
    new_scheme, new_authority = split_url(location)
  end
  local upgrade = scheme == "http" and new_scheme == "https"
  local same_host = new_authority == authority or (upgrade and new_authority:gsub(":%d+$", "") == authority:gsub(":%d+$", ""))
  if not same_host or (new_scheme ~= scheme and not upgrade) then return nil end
  return location
end

--- One attempt, redirects included.
local function follow(connection, request, url, deadline, default_headers)
  for _ = 0, MAX_REDIRECTS do
    local response, err, before_send, was_kept = exchange(connection, request, url, deadline, default_headers)
    if not response then return nil, err, before_send, was_kept end
    if response.status < 300 then return response end
    local location = redirect_target(request, url, response)
    if not location then return nil, response_error(connection, request, url, response), false end
    url = location
  end
  return nil, errors.transport("protocol", ("more than %d redirects"):format(MAX_REDIRECTS), fields_of(request, url)), false
end

--- Seconds to wait before the next attempt, or nil when there is to be none, and the error of a handler that failed.
local function retry_delay(connection, request, err, before_send, attempt, deadline)
  local retry = connection.retry
  if not retry or attempt >= retry.attempts or request.delivered or request.retry == false then return nil end
  local transient = err.status and RETRIED_STATUS[err.status]
    or not err.status and (before_send and err.code ~= "tls" or err.code == "network" or err.code == "truncated")
  if not transient or not (is_repeatable(request) or before_send) or (request.sources and not before_send) then return nil end
  if retry.should_retry then
    local failure, again = task.call_handler(retry.should_retry, err, attempt)
    if not again then return nil, failure end
  end
  local delay = math.min(retry.max, retry.base * 2 ^ (attempt - 1)) * (0.75 + 0.5 * math.random())
  if err.retry_after then delay = err.retry_after end
  if deadline and require("opensandbox.core").now() + delay >= deadline then return nil end
  if not deadline and err.retry_after and delay > connection.request_timeout then return nil end
  local failure = retry.on_retry and task.call_handler(retry.on_retry, err, attempt, delay)
  return not failure and delay or nil, failure
end

local STALE = { network = true, protocol = true }

--- Did a request fail because the connection, kept from an earlier one, was spoilt: closed by the server, or holding bytes that an
-- earlier answer had too many? Then nothing was heard of this one.
local function met_stale_connection(request, err, was_kept)
  return was_kept and STALE[err.code] and not err.status and not request.delivered and not request.sources and is_repeatable(request)
end

local function with_retries(connection, request, url, deadline, attempt_once)
  local attempt, renewed = 1, false
  while true do
    local result, err, before_send, was_kept = attempt_once()
    local failure = report(connection, { method = request.method, url = errors.safe_url(url), attempt = attempt,
      status = result and result.status or err and err.status, error = err and tostring(err) or nil })
    if failure then
      if result and result.transfer then result.transfer:cancel() end
      return nil, failure
    end
    if result then return result end
    if not renewed and met_stale_connection(request, err, was_kept) then
      renewed = true -- once, at once, and whatever the settings for retries are
    else
      local delay
      delay, failure = retry_delay(connection, request, err, before_send, attempt, deadline)
      if not delay then return nil, failure or err end
      task.sleep(delay)
    end
    attempt = attempt + 1
  end
end

-- ------------------------------------------------------------------------------------------------------------------
-- the two entries

--- Turns what a caller gave into what a transfer takes. Returns a table of its own, and the default headers.
local function prepare(connection, given)
  local request = {}
  for name, value in pairs(given) do request[name] = value end
  local defaults = {}
  if request.json ~= nil then
    request.body = require("opensandbox.json").encode(request.json)
    defaults["Content-Type"] = "application/json"
  elseif request.body == nil and not request.parts and not request.source and request.method ~= "GET" and request.method ~= "HEAD" and
    request.method ~= "DELETE" then
    request.body = ""
  end
  if request.body and not defaults["Content-Type"] then
    defaults["Content-Type"] = request.body ~= "" and "application/octet-stream" -- false: libcurl's own is not sent either
  end
  if request.source then
    request.sources = { request.source }
    request.stream_body = true
  end
  if request.parts then
    request.wire_parts = {}
    for i, part in ipairs(request.parts) do
      if part.source then
        request.sources = request.sources or {}
        request.sources[#request.sources + 1] = part.source
      end
      request.wire_parts[i] = part
    end
  end
  request.is_upload = request.parts ~= nil or request.source ~= nil
  if type(request.sink) == "table" then
    request.file, request.append = request.sink.file, request.sink.append
  elseif request.sink then
    request.wire_sink = "queue"
  end
  request.request_id = header_of(request.headers, "x-request-id") or header_of(connection.headers, "x-request-id")
  return request, defaults
end

local function deadline_of(request)
  if not request.timeout then return request.deadline end
  local at = require("opensandbox.core").now() + request.timeout
  return request.deadline and math.min(at, request.deadline) or at
end

--- Makes a request and waits for its answer.
-- @tparam table connection the state of a connection
-- @tparam table given `method`, `base`, `path`, `query`, `headers`, `json` | `body` | `parts` | `source`, `idempotent`, `timeout`
-- (seconds, whole
-- call; without it the connection's request_timeout ends at the headers and then limits silence), `sink` (`{file=, append=}` or
-- function(chunk); else the body is a string), `on_progress(done, total)`, `total`, `body_limit` (bytes), `retry` = false
-- @treturn table|nil `{status=, headers=, body=, request_id=, received=}` of a 2xx answer
-- @treturn table err
function M.call(connection, given)
  local request, defaults = prepare(connection, given)
  local url = request.base .. request.path .. query_string(request.query or {})
  local deadline = deadline_of(request)
  return with_retries(connection, request, url, deadline, function()
    return follow(connection, request, url, deadline, defaults)
  end)
end

local function open_stream(connection, request, url, deadline, defaults)
  local core = require "opensandbox.core"
  local transfer, code, message = core.transfer(transfer_options(connection, request, url, deadline, defaults))
  if not transfer then return nil, transport_error(request, url, code, message), false end
  local ok, failure = task.pcall(function()
    while not transfer:status() and not transfer:done() do task.await(transfer) end
    if (transfer:status() or 200) >= 300 then
      while not transfer:done() do
        task.await(transfer)
        transfer:status()
      end
    end
  end)
  if not ok then
    if request.on_abandon and transfer:sent() then task.shield(task.pcall, request.on_abandon, transfer) end
    transfer:cancel()
    error(failure, 0)
  end
  local before_send, was_kept
  code, message, before_send, was_kept = transfer:failure()
  local status = transfer:status()
  if status and status < 300 then
    local stream = response_of(transfer, request)
    stream.transfer, stream.url, stream.method = transfer, url, request.method
    return stream
  end
  local err
  if status then
    local response = response_of(transfer, request)
    response.body = transfer:body()
    err = response_error(connection, request, url, response)
  else
    err = transport_error(request, url, code or "network", message or "the connection ended without an answer")
  end
  transfer:cancel()
  return nil, err, before_send, was_kept
end

--- Opens a stream: returns once its headers are there. Its transfer gives events (`next`, `frame`), or, with `raw`, bytes (`read`).
-- @tparam table connection the state of a connection
-- @tparam table given as for `call`, without sinks; besides `lines` (events are lines, as execd's commands send), `idle_timeout` (seconds
-- without a byte), `ping_idle_timeout` (the same, from the first ping on), `deadline` (on the clock of core.now), `on_abandon(transfer)`
-- (called where the caller was cancelled after the request was sent), `upgrade` (with `raw` and `stream_body`: status 101 is an answer,
-- too, after which both sides send as they like)
-- @treturn table|nil `{transfer=, status=, headers=, request_id=, url=, method=}`; whoever gets it ends the transfer
-- @treturn table err
function M.stream(connection, given)
  local request, defaults = prepare(connection, given)
  request.wire_sink = request.raw and "queue" or "events"
  if not request.raw then defaults.Accept = "text/event-stream" end
  defaults["Accept-Encoding"] = "identity"
  request.header_timeout = request.header_timeout or connection.request_timeout
  local url = request.base .. request.path .. query_string(request.query or {})
  local deadline = deadline_of(request)
  return with_retries(connection, request, url, deadline, function()
    return open_stream(connection, request, url, deadline, defaults)
  end)
end

M.encode = encode

return M
