-- Runs the code of a Lua context; for Lua 5.1 to 5.4. Requests come on descriptor 7: a line with a length, and that many bytes of code.
-- What there is to tell goes as lines of JSON to descriptor 8: {"ready"}; then for each request {"started"}, from which on it can be
-- interrupted, {"result": {type: value}}, {"error": {…}}, and {"done": 0}. The file of descriptor 10 grows by a byte with every interrupt: Lua can't
-- handle signals, so a count hook looks at its size.
local requests = assert(io.open("/proc/self/fd/7", "rb"))
local events = assert(io.open("/proc/self/fd/8", "wb"))
local interrupts = assert(io.open("/proc/self/fd/10", "rb"))
local sethook, traceback, create, resume, yield = debug.sethook, debug.traceback, coroutine.create, coroutine.resume, coroutine.yield
local load_text, unpack = loadstring or load, table.unpack or unpack
local HOOK_COUNT = 100000 -- instructions

for _, stream in ipairs { io.stdout, io.stderr } do stream:setvbuf "line" end

local function quote(text)
  return '"' .. text:gsub('[%c"\\]', function(byte) return ("\\u%04x"):format(byte:byte()) end) .. '"'
end

local function send(line)
  io.stdout:flush()
  io.stderr:flush()
  events:write(line, "\n")
  events:flush()
end

-----------------------------------------------------------------------------------------------------------------------
-- interrupts

local seen = 0

local function check()
  local size = interrupts:seek "end"
  if size > seen then
    seen = size
    error("interrupted", 0)
  end
end

local function hook_of(thread)
  sethook(thread, check, "", HOOK_COUNT)
  return thread
end

-- hooks count in the coroutine that they were set for
function coroutine.create(body) return hook_of(create(body)) end

function coroutine.wrap(body)
  local thread = coroutine.create(body)
  local function give(ok, ...)
    if not ok then error((...), 0) end
    return ...
  end
  return function(...) return give(resume(thread, ...)) end
end

-- what is started gets none of our descriptors: those given, and the first that we have opened
local HIDE = "exec 3<&- 4<&- 5<&- 7<&- 8<&- 9<&-\n"
local execute, popen = os.execute, io.popen
function os.execute(command) return execute(command and HIDE .. command) end
function io.popen(command, mode) return popen(HIDE .. command, mode) end

-----------------------------------------------------------------------------------------------------------------------
-- running

--- The code with `return` in front of its last expression, when it ends with one: compiled, else nil.
local function compile_expression(source, name)
  local lines = {}
  for line in (source .. "\n"):gmatch("(.-)\n") do lines[#lines + 1] = line end
  for first = #lines, math.max(1, #lines - 50), -1 do
    local head, tail = table.concat(lines, "\n", 1, first - 1), table.concat(lines, "\n", first)
    if first > 1 then head = head .. "\n" end
    if tail:find "%S" and load_text("return " .. tail) then
      -- within a string or a comment anything would do
      if load_text(head .. "@ " .. tail) then return nil end
      local chunk = load_text(head .. "return " .. tail, name)
      if chunk then return chunk end
    end
  end
end

local function describe(kind, message, trace)
  local parts = {}
  for line in trace:gmatch "[^\n]+" do
    if line:find("[C]: in function 'xpcall'", 1, true) then break end
    parts[#parts + 1] = quote(line)
  end
  return ('{"error":{"ename":%s,"evalue":%s,"traceback":[%s]}}'):format(quote(kind), quote(message), table.concat(parts, ","))
end

local function handle(err)
  local message = type(err) == "string" and err or tostring(err)
  local kind = message == "interrupted" and "Interrupted" or "Error"
  return { kind, message, traceback(message, 2) }
end

local function texts(first, ...)
  local parts = {}
  for i = 1, select("#", first, ...) do parts[i] = tostring((select(i, first, ...))) end
  return table.concat(parts, "\t")
end

--- Sends what an expression gave, or what went wrong.
local function tell(ok, ...)
  if not ok then return send(describe(unpack((...)))) end
  if select("#", ...) == 0 or (select("#", ...) == 1 and (...) == nil) then return end
  local shown, text = pcall(texts, ...)
  send(('{"result":{"text/plain":%s}}'):format(quote(shown and text or "(its __tostring failed)")))
end

local function run(source, number)
  local name = ("=<cell %d>"):format(number)
  local chunk, problem = compile_expression(source, name)
  if not chunk then chunk, problem = load_text(source, name) end
  seen = interrupts:seek "end"
  send '{"started":true}'
  if not chunk then return send(describe("SyntaxError", problem, problem)) end
  local function finish(...)
    sethook()
    tell(...)
  end
  sethook(check, "", HOOK_COUNT)
  finish(xpcall(chunk, handle))
end

send '{"ready":true}'
local count = 0
for line in requests:lines() do
  count = count + 1
  run(requests:read(tonumber(line)) or "", count)
  send '{"done":0}'
end
