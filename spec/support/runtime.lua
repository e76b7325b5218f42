--[[ Starts the program opensandbox-runtime, maybe as another user, and talks plain HTTP with it.

  local runtimes = require "spec.support.runtime"
  local runtime = runtimes.start()                              -- --embedded; {user = 54321} or {arguments = {…}, env = {…}}
  local status, body, headers = runtime:request("POST", "/v1/sandboxes", { json = runtimes.body {} })
  runtime:processes()                                           -- its descendants: {pid = "start time", …}
  runtime:stop()                                                -- ends it by its pipe and waits until its directory is gone ]]
local core = require "opensandbox.core"
local cjson = require "cjson"
local http = require "socket.http"
local ltn12 = require "ltn12"
local task = require "opensandbox.task"

local M = {}

local SECONDS = 30 -- for anything that should come at once
M.STRANGER = 54321 -- a user id that nobody has

--- Waits until `condition()` is true; raises after 30 s, naming `what`.
function M.await(what, condition)
  local deadline = core.now() + SECONDS
  while true do
    local value = condition()
    if value then return value end
    if core.now() > deadline then error("it did not come about: " .. what, 2) end
    task.sleep(0.005)
  end
end

--- The first line that a shell command prints.
function M.shell(command)
  local pipe = assert(io.popen(command))
  local line = pipe:read("*l")
  pipe:close()
  return line
end

function M.user_id()
  return tonumber(M.shell("id -u"))
end

--- The words that come before a program to run it as another user, as root only.
function M.as_user(user)
  return { "setpriv", "--reuid", tostring(user), "--regid", tostring(user), "--clear-groups" }
end

--- A new directory; it belongs to `user` when that is given.
function M.directory(user)
  local path = assert(M.shell("mktemp -d /var/tmp/osb-spec.XXXXXX"))
  assert(os.execute(("chmod 755 %s"):format(path)))
  if user then assert(os.execute(("chown %d:%d %s"):format(user, user, path))) end
  return path
end

--- Names in a directory.
function M.entries(path)
  local names = {}
  local pipe = assert(io.popen("ls -A " .. path .. " 2>/dev/null"))
  for name in pipe:lines() do names[#names + 1] = name end
  pipe:close()
  return names
end

--- pid → {parent, state, session, start time}, for all processes there are.
local function process_table()
  local all = {}
  for _, name in ipairs(M.entries "/proc") do
    local file = name:match("^%d+$") and io.open("/proc/" .. name .. "/stat", "rb")
    if file then
      local text = file:read("*a")
      file:close()
      local rest = text and text:match("^.*%)%s(.*)$")
      if rest then
        local words = {}
        for word in rest:gmatch("%S+") do words[#words + 1] = word end
        all[tonumber(name)] = { parent = tonumber(words[2]), state = words[1], session = tonumber(words[4]), started = words[20] }
      end
    end
  end
  return all
end

--- The descendants of a process: pid → start time.
function M.descendants(pid)
  local all = process_table()
  local found = {}
  local function add(parent)
    for child, info in pairs(all) do
      if info.parent == parent and not found[child] and info.state ~= "Z" then
        found[child] = info.started
        add(child)
      end
    end
  end
  add(pid)
  return found
end

--- The session of a process.
function M.session(pid)
  local info = process_table()[pid]
  return info and info.session
end

--- The processes of such a table that still live.
function M.alive(processes)
  local all = process_table()
  local living = {}
  for pid, started in pairs(processes) do
    local info = all[pid]
    if info and info.started == started and info.state ~= "Z" and info.state ~= "X" then living[#living + 1] = pid end
  end
  return living
end

--- The body of a create request: image host, an entrypoint that waits, and what `fields` says.
function M.body(fields)
  local body = { image = { uri = "host" }, entrypoint = { "tail", "-f", "/dev/null" }, resourceLimits = { cpu = "1" } }
  for name, value in pairs(fields or {}) do
    body[name] = value
    if value == cjson.null then body[name] = nil end
  end
  return body
end

-----------------------------------------------------------------------------------------------------------------------

local Runtime = {}
Runtime.__index = Runtime

--- Copies of the two programs where every user can run them.
local function copy_programs(directory)
  local runtime = assert(os.getenv("OPENSANDBOX_RUNTIME"), "OPENSANDBOX_RUNTIME names no program")
  local execd = os.getenv("OPENSANDBOX_EXECD") or runtime:gsub("[^/]+$", "opensandbox-execd")
  assert(os.execute(("cp '%s' '%s' %s && chmod 755 %s/*"):format(runtime, execd, directory, directory)))
  return directory .. "/opensandbox-runtime"
end

--- Starts a runtime with a directory of its own for its state.
-- @tparam[opt] table opts `user` (id, as root only), `arguments` (instead of --embedded), `more` (arguments beside --embedded),
-- `env` (name → value), `prefix` (words of a program that runs it)
function M.start(opts)
  opts = opts or {}
  local self = setmetatable({ state = M.directory(opts.user) }, Runtime)
  local argv, env = {}, {}
  local variables = { PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", TMPDIR = self.state }
  for i, word in ipairs(opts.prefix or {}) do argv[i] = word end
  for _, word in ipairs(opts.user and M.as_user(opts.user) or {}) do argv[#argv + 1] = word end
  self.programs = M.directory()
  argv[#argv + 1] = copy_programs(self.programs)
  for _, word in ipairs(opts.arguments or { "--embedded" }) do argv[#argv + 1] = word end
  for _, word in ipairs(opts.more or {}) do argv[#argv + 1] = word end
  for _, name in ipairs { "ASAN_OPTIONS", "LSAN_OPTIONS", "UBSAN_OPTIONS", "OPENSANDBOX_RUNTIME_LOG" } do
    variables[name] = os.getenv(name)
  end
  for name, value in pairs(opts.env or {}) do variables[name] = value end
  for name, value in pairs(variables) do env[#env + 1] = name .. "=" .. value end
  self.process = assert(core.process { argv = argv, env = env })
  self.pid = self.process:pid()
  if opts.arguments then return self end
  assert(task.await(self.process, core.now() + SECONDS), "the runtime says nothing")
  local line = assert(self.process:read_line(), "the runtime ended without a word")
  local announcement = cjson.decode(line)
  self.error = announcement.error
  self.url, self.api_key = announcement.url, announcement.api_key
  return self
end

--- One exchange. `opts`: `json` (a table or text), `headers` (of `false`: the API key is left out).
-- @treturn integer status
-- @return the body, decoded where it is JSON
-- @treturn table headers, by their lower-case names
function Runtime:request(method, path, opts)
  opts = opts or {}
  local sent = opts.json and (type(opts.json) == "string" and opts.json or cjson.encode(opts.json)) or nil
  local headers = { ["Content-Type"] = sent and "application/json" or nil, ["Content-Length"] = sent and #sent or nil }
  if opts.headers ~= false then headers["OPEN-SANDBOX-API-KEY"] = self.api_key end
  for name, value in pairs(opts.headers or {}) do headers[name] = value end
  local chunks = {}
  local _, status, received = http.request {
    method = method,
    url = path:find("^http") and path or self.url .. path,
    headers = headers,
    source = sent and ltn12.source.string(sent) or nil,
    sink = ltn12.sink.table(chunks),
    redirect = false,
  }
  local body = table.concat(chunks)
  if received and (received["content-type"] or ""):find("json", 1, true) then body = cjson.decode(body) end
  return status, body, received
end

--- Makes a sandbox; its id.
function Runtime:create(fields)
  local status, body = self:request("POST", "/v1/sandboxes", { json = M.body(fields) })
  if status ~= 202 then error("create: " .. status .. " " .. cjson.encode(body), 2) end
  return body.id
end

--- Runs a command in a sandbox; what it printed on stdout and stderr, line by line, and its exit code.
function Runtime:run(id, command)
  local _, endpoint = self:request("GET", "/v1/sandboxes/" .. id .. "/endpoints/44772")
  local status, text = self:request("POST", "http://" .. endpoint.endpoint .. "/command",
    { headers = endpoint.headers, json = { command = command } })
  if status ~= 200 then error("command: " .. status, 2) end
  local lines, code = {}, nil
  for line in text:gmatch("[^\n]+") do
    local event = cjson.decode(line)
    if event.type == "stdout" or event.type == "stderr" then lines[#lines + 1] = event.text
    elseif event.type == "error" then code = tonumber(event.error.evalue)
    elseif event.type == "execution_complete" then code = 0 end
  end
  return table.concat(lines, "\n"), code
end

function Runtime:processes()
  return M.descendants(self.pid)
end

--- Waits until nothing is left of a runtime that was ended in whatever way.
-- @tparam table processes its descendants before that
function Runtime:await_end(processes)
  M.await("the end of the runtime's processes", function() return #M.alive(processes) == 0 end)
  M.await("the removal of the runtime's directory", function() return #M.entries(self.state) == 0 end)
end

function Runtime:stop()
  local processes = self:processes()
  self.process:close()
  self:await_end(processes)
  os.execute("rm -rf " .. self.state .. " " .. self.programs)
end

return M
