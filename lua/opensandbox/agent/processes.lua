--- Processes of the server's machine: `agents.processes`.
local api = require "opensandbox.agent.api"
local base64 = require "opensandbox.base64"
local core = require "opensandbox.core"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local health = require "opensandbox.agent.health"
local json = require "opensandbox.json"
local options = require "opensandbox.options"
local problem = require "opensandbox.agent.problem"
local record = require "opensandbox.record"
local task = require "opensandbox.task"

local RUN_SECONDS = 30 -- the server's own default for run
local MARGIN = 15 -- seconds that an answer may take beyond what was asked for
local INPUT_CHUNK = 32 * 1024 -- below the server's limit of 64 KiB
local POLL_SECONDS = 0.25 -- between two looks whether a followed process has ended

local STREAMS = { stdout = true, stderr = true, combined = true, pty = true }

local times = { created_at_ms = "created_at", exited_at_ms = "exited_at" }
local process_info = api.record(times)

local function read_entry(value)
  local entry, wrong = record {}(value)
  if wrong then return nil, wrong end
  entry.timestamp, entry.timestamp_ms = record.milliseconds(entry.timestamp_ms), nil
  if entry.encoding == "base64" then
    entry.data = base64.decode(entry.data)
    if not entry.data then return nil, "has data that is not Base64" end
  end
  entry.encoding = nil
  return entry
end

local limits = api.record { default_run_timeout_ms = "default_run_timeout", max_run_timeout_ms = "max_run_timeout" }

local call = {
  run = api.endpoint { id = "post_v1_processes_run", method = "POST", path = "/v1/processes/run",
    returns = api.record { duration_ms = "duration" } },
  create = api.endpoint { id = "post_v1_processes", method = "POST", path = "/v1/processes", returns = process_info },
  list = api.endpoint { id = "get_v1_processes", method = "GET", path = "/v1/processes",
    returns = api.field("processes", record.list(process_info)) },
  get = api.endpoint { id = "get_v1_process", method = "GET", path = "/v1/processes/{id}", returns = process_info },
  delete = api.endpoint { id = "delete_v1_process", method = "DELETE", path = "/v1/processes/{id}" },
  stop = api.endpoint { id = "post_v1_process_stop", method = "POST", path = "/v1/processes/{id}/stop", returns = process_info },
  kill = api.endpoint { id = "post_v1_process_kill", method = "POST", path = "/v1/processes/{id}/kill", returns = process_info },
  input = api.endpoint { id = "post_v1_process_input", method = "POST", path = "/v1/processes/{id}/input", returns = record {} },
  logs = api.endpoint { id = "get_v1_process_logs", method = "GET", path = "/v1/processes/{id}/logs",
    returns = api.field("entries", record.list(read_entry)) },
  resize = api.endpoint { id = "post_v1_process_terminal_resize", method = "POST", path = "/v1/processes/{id}/terminal/resize",
    returns = record {} },
  get_config = api.endpoint { id = "get_v1_processes_config", method = "GET", path = "/v1/processes/config", returns = limits },
  set_config = api.endpoint { id = "post_v1_processes_config", method = "POST", path = "/v1/processes/config", returns = limits },
}

local TIMEOUT = { type = "duration" }
local COMMAND = {
  command = { type = "string", required = true }, args = { type = "list", of = "string" }, cwd = { type = "string" },
  env = { type = "map", of = "string" },
}

local function with(fields, more)
  local all = {}
  for name, field in pairs(fields) do all[name] = field end
  for name, field in pairs(more) do all[name] = field end
  return all
end

local check_run = options.declare("processes:run", with(COMMAND, { timeout = TIMEOUT, max_output = { type = "integer" } }))
local check_create = options.declare("processes:create", with(COMMAND, {
  tty = { type = "boolean" }, interactive = { type = "boolean" }, timeout = TIMEOUT,
}))
local check_list = options.declare("processes:list", { owner = { type = "string" }, timeout = TIMEOUT })
local check_call = options.declare("a call", { timeout = TIMEOUT })
local check_end = options.declare("processes:stop", { wait = TIMEOUT, timeout = TIMEOUT })
local LOGS = { stream = { type = "string" }, since = { type = "integer" }, tail = { type = "integer" } }
local check_logs = options.declare("processes:logs", with(LOGS, { timeout = TIMEOUT }))
local check_follow = options.declare("processes:follow", { stream = LOGS.stream, since = LOGS.since })
local check_config = options.declare("processes:config", {
  default_run_timeout = TIMEOUT, max_run_timeout = TIMEOUT, max_concurrent_processes = { type = "integer" },
  max_input_bytes_per_request = { type = "integer" }, max_log_bytes_per_process = { type = "integer" },
  max_output_bytes = { type = "integer" }, timeout = TIMEOUT,
})

local function milliseconds(seconds) return seconds and math.floor(seconds * 1000 + 0.5) or nil end

local function check_id(id) return options.argument("id", id, "string") end

local function command_body(opts)
  return { command = opts.command, args = opts.args and json.array(opts.args), cwd = opts.cwd, env = opts.env }
end

local processes = {}

--- Runs a command to its end. `POST /v1/processes/run`.
-- @tparam table opts `command` (a program), `args`, `cwd`, `env`, `timeout` (seconds for the command: 30, at most 300, by default),
-- `max_output` (bytes of each stream, 1 MiB)
-- @treturn[1] table `exit_code` (nil where it was ended by a signal or its time-out), `timed_out`, `stdout`, `stderr`, `stdout_truncated`,
-- `stderr_truncated`, `duration`; bytes that are no UTF-8 arrive as U+FFFD
-- @treturn[2] nil
-- @treturn[2] table err
function processes.run(client, opts)
  opts = check_run(opts)
  local body = command_body(opts)
  body.timeoutMs, body.maxOutputBytes = milliseconds(opts.timeout), opts.max_output
  return call.run(client, { json = body, timeout = (opts.timeout or RUN_SECONDS) + MARGIN })
end

--- Starts a process. `POST /v1/processes`.
-- @tparam table opts `command`, `args`, `cwd`, `env`, `tty` (a terminal), `interactive` (takes input), `timeout` of the call
-- @treturn[1] table `{id=, command=, args=, status="running"|"exited", pid=, tty=, interactive=, owner=, created_at=, exited_at=,
-- exit_code=}`
-- @treturn[2] nil
-- @treturn[2] table err
function processes.create(client, opts)
  opts = check_create(opts)
  local body = command_body(opts)
  body.tty, body.interactive = opts.tty, opts.interactive
  return call.create(client, { json = body, timeout = opts.timeout })
end

--- The processes there are. `GET /v1/processes`.
-- @tparam[opt] table opts `owner` (`"user"`, `"desktop"`, `"system"`), `timeout`
-- @treturn table|nil list of what `create` returns
-- @treturn table err
function processes.list(client, opts)
  opts = check_list(opts)
  return call.list(client, { query = { owner = opts.owner }, timeout = opts.timeout })
end

--- One process. `GET /v1/processes/{id}`.
-- @tparam string id
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil what `create` returns
-- @treturn table err
function processes.get(client, id, opts)
  return call.get(client, { params = { id = check_id(id) }, timeout = check_call(opts).timeout })
end

--- Forgets a process that has ended. `DELETE /v1/processes/{id}`.
-- @tparam string id
-- @tparam[opt] table opts `timeout`
-- @treturn boolean true, or nil and err: `conflict` while it runs
function processes.delete(client, id, opts)
  return call.delete(client, { params = { id = check_id(id) }, timeout = check_call(opts).timeout })
end

local function finish(client, endpoint_call, id, opts)
  opts = check_end(opts)
  local query = opts.wait and { waitMs = ("%d"):format(milliseconds(opts.wait)) } or {}
  local timeout = opts.timeout or (opts.wait and opts.wait + MARGIN)
  return endpoint_call(client, { params = { id = check_id(id) }, query = query, timeout = timeout })
end

--- Sends SIGTERM. `POST /v1/processes/{id}/stop`.
-- @tparam string id
-- @tparam[opt] table opts `wait` (seconds to wait for its end; by default the server waits up to 2), `timeout`
-- @treturn table|nil what `create` returns; it may still be running
-- @treturn table err
function processes.stop(client, id, opts) return finish(client, call.stop, id, opts) end

--- Sends SIGKILL. `POST /v1/processes/{id}/kill`.
-- @tparam string id
-- @tparam[opt] table opts as for `stop`
-- @treturn table|nil what `create` returns
-- @treturn table err
function processes.kill(client, id, opts) return finish(client, call.kill, id, opts) end

--- Writes to a process's stdin (or terminal), in pieces that the server takes. `POST /v1/processes/{id}/input`.
-- @tparam string id
-- @tparam string data bytes
-- @tparam[opt] table opts `timeout` of each piece
-- @treturn[1] integer bytes written
-- @treturn[2] nil
-- @treturn[2] table err with `partial`: bytes written before
function processes.input(client, id, data, opts)
  check_id(id)
  options.argument("data", data, "string")
  opts = check_call(opts)
  local written = 0
  repeat
    local piece = data:sub(written + 1, written + INPUT_CHUNK)
    local answer, err = call.input(client, {
      params = { id = id }, json = { data = base64.encode(piece), encoding = "base64" }, timeout = opts.timeout,
    })
    if not answer then
      err.partial = written
      return nil, err
    end
    written = written + #piece
  until written >= #data
  return written
end

--- Sets the size of a process's terminal. `POST /v1/processes/{id}/terminal/resize`.
-- @tparam string id
-- @tparam integer cols
-- @tparam integer rows
-- @treturn table|nil `{cols=, rows=}`
-- @treturn table err `conflict` where it has no terminal
function processes.resize(client, id, cols, rows)
  check_id(id)
  options.argument("cols", cols, "integer")
  options.argument("rows", rows, "integer")
  return call.resize(client, { params = { id = id }, json = { cols = cols, rows = rows } })
end

local function log_query(opts)
  if opts.stream and not STREAMS[opts.stream] then
    errors.raise(("option 'stream': 'stdout', 'stderr', 'combined' or 'pty' expected, got '%s'"):format(opts.stream))
  end
  local query = { stream = opts.stream }
  for _, name in ipairs { "since", "tail" } do
    if opts[name] then query[name] = ("%d"):format(opts[name]) end
  end
  return query
end

--- What a process has written so far, byte-exact. `GET /v1/processes/{id}/logs`.
-- @tparam string id
-- @tparam[opt] table opts `stream` (`"stdout"`, `"stderr"`, `"combined"`, `"pty"`; default `"combined"`; terminals write to `"pty"` only),
-- `since` (only what came after that sequence number), `tail` (only the last so many entries), `timeout`
-- @treturn table|nil list of `{sequence=, stream=, data=, timestamp=}`
-- @treturn table err
function processes.logs(client, id, opts)
  opts = check_logs(opts)
  return call.logs(client, { params = { id = check_id(id) }, query = log_query(opts), timeout = opts.timeout })
end

--- Follows a process's output until it has ended and everything it wrote was handed over. A lost connection is made again.
-- `GET /v1/processes/{id}/logs?follow=true`.
-- @tparam string id
-- @tparam function fn gets each entry (see `logs`); returning false ends the following
-- @tparam[opt] table opts `stream`, `since`
-- @treturn[1] table what `get` returns
-- @treturn[2] nil
-- @treturn[2] table err `handler` where fn failed
function processes.follow(client, id, fn, opts)
  check_id(id)
  options.argument("fn", fn, "function")
  opts = check_follow(opts)
  local last, stopped = opts.since or 0, false

  local function hand_over(entry)
    if entry.sequence <= last then return nil end
    last = entry.sequence
    local err, answer = task.call_handler(fn, entry)
    stopped = stopped or answer == false
    return err
  end

  local function read(transfer)
    while not stopped do
      local data = transfer:frame()
      if data then
        local value = json.decode(data)
        local entry, wrong = read_entry(value)
        if not entry then return errors.new { code = "decode", message = "a log entry " .. tostring(wrong) } end
        local err = hand_over(entry)
        if err then return err end
      elseif data == false or transfer:done() or not task.await(transfer, core.now() + POLL_SECONDS) then
        return nil
      end
    end
  end

  --- The server never ends the stream: the process is asked after whenever there is silence.
  local function follow(transfer)
    while true do
      local err = read(transfer)
      if err then return nil, err end
      local info
      info, err = processes.get(client, id)
      if not info then return nil, err end
      if stopped or info.status ~= "running" then return info end
      if transfer:done() then return false end
    end
  end

  while true do
    api.check_open(client)
    local target, err = health.ready(client)
    if not target then return nil, err end
    local query = log_query { stream = opts.stream, since = last }
    query.follow = "true"
    local stream
    stream, err = endpoint.send(target, { method = "GET", path = "/v1/processes/" .. endpoint.escape(id) .. "/logs", query = query }, true)
    if not stream then return nil, problem.refine(err) end
    local ok, info
    ok, info, err = task.pcall(follow, stream.transfer)
    stream.transfer:cancel()
    if not ok then error(info, 0) end
    if err then return nil, err end
    if info and stopped then return info end
    if info then
      local rest
      rest, err = processes.logs(client, id, { stream = opts.stream, since = last })
      if not rest then return nil, err end
      for _, entry in ipairs(rest) do
        err = not stopped and hand_over(entry) or nil
        if err then return nil, err end
      end
      return info
    end
  end
end

--- Reads the limits of processes, or changes some. `GET`, `POST /v1/processes/config`.
-- @tparam[opt] table changes `default_run_timeout`, `max_run_timeout` (seconds), `max_concurrent_processes`, `max_output_bytes`,
-- `max_log_bytes_per_process`, `max_input_bytes_per_request`; `timeout` of the call
-- @treturn table|nil all limits
-- @treturn table err
function processes.config(client, changes)
  local opts = check_config(changes)
  local current, err = call.get_config(client, { timeout = opts.timeout })
  if not current or next(changes or {}) == nil then return current, err end
  local body = {}
  for name, value in pairs(current.raw) do body[name] = value end
  for name, value in pairs(opts) do
    if name:find("run_timeout$") then body[record.camel(name) .. "Ms"] = milliseconds(value)
    elseif name ~= "timeout" then body[record.camel(name)] = value end
  end
  return call.set_config(client, { json = body, timeout = opts.timeout })
end

--- Connects to a process's terminal. `GET /v1/processes/{id}/terminal/ws`.
-- @tparam string id
-- @tparam[opt] table opts as for `opensandbox.agent.terminal`
-- @treturn userdata|nil terminal
-- @treturn table err `conflict` where the process has no terminal
function processes.terminal(client, id, opts)
  return require("opensandbox.agent.terminal").open(client, check_id(id), opts)
end

api.part("agent_processes", processes)

return processes
