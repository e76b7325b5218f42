--- The embedded runtime: finds the program `opensandbox-runtime` and starts it, at most once per Lua state.
local errors = require "opensandbox.errors"
local json = require "opensandbox.json"

local M = {}

local START_SECONDS = 20
local PROGRAM = "opensandbox-runtime"

local function is_file(path)
  local file = io.open(path, "rb")
  if file then file:close() end
  return file ~= nil
end

--- Folders of the C module and of this file: an installed runtime lies beside them or in a libexec folder near them.
local function module_folders()
  local folders = {}
  local here = debug.getinfo(1, "S").source:match("^@(.*)[/\\][^/\\]*$")
  if here then folders[1] = here end
  local name = ("opensandbox.core"):gsub("%.", package.config:sub(1, 1))
  for template in package.cpath:gmatch("[^;]+") do
    local path = template:gsub("%?", (name:gsub("%%", "%%%%")))
    if is_file(path) then
      folders[#folders + 1] = path:match("^(.*)[/\\]")
      break
    end
  end
  return folders
end

--- Every place where the program may be, in the order it is looked for.
local function candidates()
  local places = {}
  for _, folder in ipairs(module_folders()) do
    places[#places + 1] = folder .. "/" .. PROGRAM
    -- …/lib/lua/5.4/opensandbox, …/share/lua/5.4/opensandbox → …/libexec/opensandbox; build/lua/opensandbox → build/bin
    places[#places + 1] = folder .. "/../../bin/" .. PROGRAM
    places[#places + 1] = folder .. "/../../../../libexec/opensandbox/" .. PROGRAM
    places[#places + 1] = folder .. "/../../../../bin/" .. PROGRAM
  end
  places[#places + 1] = "/usr/local/libexec/opensandbox/" .. PROGRAM
  places[#places + 1] = "/usr/libexec/opensandbox/" .. PROGRAM
  for folder in (os.getenv("PATH") or ""):gmatch("[^:]+") do places[#places + 1] = folder .. "/" .. PROGRAM end
  return places
end

--- Finds the program: `OPENSANDBOX_RUNTIME`, beside the modules, in libexec, on PATH.
local function find()
  local named = os.getenv("OPENSANDBOX_RUNTIME")
  if named and named ~= "" then
    if is_file(named) then return named end
    return nil, ("OPENSANDBOX_RUNTIME names %s, which is not there"):format(named)
  end
  local places = candidates()
  for _, path in ipairs(places) do
    if is_file(path) then return path end
  end
  return nil, ("%s was not found: set OPENSANDBOX_RUNTIME to its path, or set OPEN_SANDBOX_DOMAIN to use a server (looked for %s)"):format(
    PROGRAM, table.concat(places, ", "))
end

local function unsupported(message)
  return nil, errors.new { code = "unsupported", message = "the embedded runtime cannot be used: " .. message }
end

--- Reads the one line that the runtime prints when it serves, or when it cannot.
local function read_announcement(process)
  local core, task = require "opensandbox.core", require "opensandbox.task"
  if not task.await(process, core.now() + START_SECONDS) then
    return nil, ("it did not start within %d s"):format(START_SECONDS)
  end
  local line = process:read_line()
  local announcement = line and json.decode(line)
  if type(announcement) ~= "table" then
    local exit_code = process:exit_code()
    return nil, ("it ended without a word%s"):format(exit_code and (" (exit code %d)"):format(exit_code) or "")
  end
  local problem = announcement.error
  if problem then return nil, type(problem) == "table" and tostring(problem.message) or tostring(problem) end
  if type(announcement.url) ~= "string" or type(announcement.api_key) ~= "string" then return nil, "its announcement is incomplete" end
  return announcement
end

local function launch()
  local path, problem = find()
  if not path then return unsupported(problem) end
  local process
  process, problem = require("opensandbox.core").process { argv = { path, "--embedded" } }
  if not process then return unsupported(problem) end
  local announcement
  announcement, problem = read_announcement(process)
  if not announcement then
    process:kill()
    return unsupported(problem)
  end
  return { url = announcement.url, api_key = announcement.api_key, process = process }
end

--- Starts the embedded runtime, or gives the one that runs: it lives as long as the Lua state.
-- @treturn[1] table `{url=, api_key=}`
-- @treturn[2] nil
-- @treturn[2] table err code `unsupported`; the message says what to install or set
function M.start()
  local task = require "opensandbox.task"
  local context = require("opensandbox.core").context()
  -- Two tasks may ask at once: the second waits for the first one's start.
  while context.runtime_starting do task.await(context.runtime_starting) end
  local runtime = context.runtime
  if runtime and not runtime.process:exit_code() then return runtime end

  local starting = true
  context.runtime_starting = task.condition("the start of the embedded runtime", function() return not starting end)
  local ok, err
  ok, runtime, err = task.pcall(launch)
  local condition = context.runtime_starting
  starting, context.runtime_starting = false, nil
  condition:wake()
  if not ok then error(runtime, 0) end
  if not runtime then return nil, err end
  context.runtime = runtime
  return runtime
end

return M
