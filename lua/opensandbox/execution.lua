--- What a command, a session's run or a piece of code did: the record that `run` returns, filled from the events of its stream.
local json = require "opensandbox.json"

local M = {}

-- How Go, in which execd is written, calls the signals.
local SIGNALS = {
  hangup = { "SIGHUP", 1 }, interrupt = { "SIGINT", 2 }, quit = { "SIGQUIT", 3 }, ["illegal instruction"] = { "SIGILL", 4 },
  ["trace/breakpoint trap"] = { "SIGTRAP", 5 }, aborted = { "SIGABRT", 6 }, ["bus error"] = { "SIGBUS", 7 },
  ["floating point exception"] = { "SIGFPE", 8 }, killed = { "SIGKILL", 9 }, ["user defined signal 1"] = { "SIGUSR1", 10 },
  ["segmentation fault"] = { "SIGSEGV", 11 }, ["user defined signal 2"] = { "SIGUSR2", 12 }, ["broken pipe"] = { "SIGPIPE", 13 },
  ["alarm clock"] = { "SIGALRM", 14 }, terminated = { "SIGTERM", 15 }, ["stack fault"] = { "SIGSTKFLT", 16 },
  ["cpu time limit exceeded"] = { "SIGXCPU", 24 }, ["file size limit exceeded"] = { "SIGXFSZ", 25 },
  ["bad system call"] = { "SIGSYS", 31 },
}

--- Reads `signal: killed` (with or without `(core dumped)`).
-- @treturn string|nil name as `SIGKILL`
-- @treturn integer|nil exit code as a shell gives it, 128 + n
function M.signal_of(text)
  local words = type(text) == "string" and text:match("signal: ([%a%d/ ]+)")
  if not words then return nil end
  local known = SIGNALS[words:gsub(" core dumped.*$", ""):gsub("%s+$", "")]
  if known then return known[1], 128 + known[2] end
  local number = tonumber(words:match("^signal (%d+)"))
  if number then return ("SIG%d"):format(number), 128 + number end
end

--- The exit code in an error event: a decimal number in its value; -1 with a signal's name in the traceback; else nil.
-- @tparam table err `{value=, traceback=}`
-- @treturn integer|nil exit code
-- @treturn string|nil signal
function M.exit_code_of(err)
  local digits = type(err.value) == "string" and err.value:match("^%s*(%-?%d+)%s*$")
  local code = digits and tonumber(digits)
  if code and code >= 0 then return code end
  for _, line in ipairs(err.traceback) do
    local signal, signal_code = M.signal_of(line)
    if signal then return signal_code, signal end
  end
end

local function traceback_of(value)
  if type(value) == "string" then
    local lines = {}
    for line in (value .. "\n"):gmatch("(.-)\n") do lines[#lines + 1] = line end
    if lines[#lines] == "" then lines[#lines] = nil end
    return lines
  end
  local lines = {}
  for i, line in ipairs(type(value) == "table" and value or {}) do lines[i] = tostring(line) end
  return lines
end

local function text_or(value, fallback)
  if value == nil or value == json.null then return fallback end
  return type(value) == "string" and value or tostring(value)
end

--- An error event as `{name=, value=, traceback=, timestamp=}`; older servers put the fields beside the type.
function M.error_of(event, timestamp)
  local body = type(event.error) == "table" and event.error or event
  return {
    name = text_or(body.ename or body.name, ""), value = text_or(body.evalue or body.value, text_or(event.text, "")),
    traceback = traceback_of(body.traceback), timestamp = timestamp,
  }
end

--- A result event as `{text=, mime=, timestamp=}`; `mime` keeps every representation as it came.
function M.result_of(event, timestamp)
  local results = event.results
  if type(results) ~= "table" then
    results = {}
    for key, value in pairs(event) do
      if key:find("/", 1, true) or key == "text" then results[key] = value end
    end
    results.text = results.text or event.textPlain
  end
  local mime = {}
  for key, value in pairs(results) do
    if value ~= json.null then mime[key] = value end
  end
  return { text = text_or(results.text or results["text/plain"] or results.textPlain, nil), mime = mime, timestamp = timestamp }
end

--- Starts a record.
-- @tparam userdata|nil capture of the C core, which keeps the output
function M.new(capture)
  return {
    run = { id = nil, exit_code = nil, stdout = "", stderr = "", output = "", text = "", truncated = false, result = {} },
    capture = capture,
  }
end

local function logs_of(capture)
  return { stdout = capture and capture:logs("stdout") or {}, stderr = capture and capture:logs("stderr") or {} }
end

--- The record as it stands: fills in what is computed from the output.
-- `run.logs` is made when it is first read: it costs a table per event.
function M.close(execution)
  local run, capture = execution.run, execution.capture
  if capture then
    run.stdout = capture:text("stdout")
    run.stderr = capture:text("stderr")
    run.output = run.stderr == "" and run.stdout or capture:text("output")
    run.truncated = capture:truncated()
  end
  local texts = { run.stdout ~= "" and run.stdout or nil }
  for _, result in ipairs(run.result) do texts[#texts + 1] = result.text end
  run.text = #texts == 1 and texts[1] or table.concat(texts, "\n") -- concat would copy even one
  return setmetatable(run, { __index = function(self, key)
    if key ~= "logs" then return nil end
    local logs = logs_of(capture)
    rawset(self, "logs", logs)
    return logs
  end })
end

return M
