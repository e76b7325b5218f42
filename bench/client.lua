-- One measurement of this SDK, in a process of its own: lua5.4 client.lua WORK [ARGUMENT…] prints seconds.
-- The other SDK's is client.mjs: same works, same arguments. The server comes from OPEN_SANDBOX_DOMAIN.
local clock = os.clock -- before the core is loaded, whose clock is better
local started = clock()
local opensandbox = require "opensandbox"
local required = clock() - started

local function create(opts)
  return assert(opensandbox.create(opts or { image = "bench" }))
end

local function now() return require("opensandbox.core").now() end

local function timed(work, ...)
  local start = now()
  work(...)
  return now() - start
end

local function median_of(count, work)
  local times = {}
  for i = 1, count do times[i] = timed(work) end
  table.sort(times)
  return times[math.floor(count / 2) + 1]
end

local works = {}

function works.require() return required end

--- From nothing to a client: the libraries are loaded.
function works.first_client()
  opensandbox.connection()
  return clock() - started
end

--- From nothing to the first answer of a server.
function works.first_request()
  assert(opensandbox.manager():list())
  return clock() - started
end

--- A command that writes `count` events.
function works.events(count, with_handler)
  local sandbox, seen = create(), 0
  local opts = { max_output = 1e9 }
  if with_handler then
    opts.on_stdout = function() seen = seen + 1 end
  end
  return timed(function()
    local run = assert(sandbox.commands:run("events " .. count, opts))
    if with_handler then assert(seen == tonumber(count)) end
    assert(#run.stdout == count * 101 - 1)
  end)
end

--- The same, keeping nothing.
function works.stream(count)
  local sandbox, seen = create(), 0
  return timed(function()
    assert(sandbox.commands:run("events " .. count, { capture = false, on_stdout = function() seen = seen + 1 end }))
    assert(seen == tonumber(count))
  end)
end

--- Median of `count` runs of a command.
function works.latency(command, count)
  local commands = create().commands
  return median_of(tonumber(count), function() assert(commands:run(command).exit_code == 0) end)
end

function works.upload(path)
  local files = create().files
  return timed(function() assert(files:upload(path, "/upload")) end)
end

function works.upload_chunks(size)
  local files, left, chunk = create().files, tonumber(size), ("x"):rep(65536)
  return timed(function()
    assert(files:write("/upload", function()
      if left <= 0 then return nil end
      left = left - #chunk
      return left >= 0 and chunk or chunk:sub(1, left + #chunk)
    end))
  end)
end

function works.download(size, path)
  local files = create().files
  return timed(function() assert(files:download("/bytes-" .. size, path)) end)
end

function works.download_chunks(size)
  local files, got = create().files, 0
  return timed(function()
    assert(files:download("/bytes-" .. size, function(chunk) got = got + #chunk end))
    assert(got == tonumber(size))
  end)
end

--- Commands that all run at once, in tasks.
function works.at_once(command, count)
  local commands, runs = create().commands, {}
  for i = 1, tonumber(count) do
    runs[i] = function() assert(commands:run(command).exit_code == 0) end
  end
  return timed(function() assert(opensandbox.gather(runs)) end)
end

---------------------------------------------------------------------------------------------------------------------
-- in a host's loop

--- One `step` while `count` streams are open and nothing comes.
function works.idle_step(count)
  local commands, began, steps = create().commands, 0, 10000
  for _ = 1, tonumber(count) do
    opensandbox.spawn(function()
      commands:run("idle", { idle_timeout = 3600, on_init = function() began = began + 1 end })
    end)
  end
  while began < tonumber(count) do opensandbox.sleep(0.01) end
  return timed(function()
    for _ = 1, steps do opensandbox.step() end
  end) / steps
end

--- From one task to another.
function works.switch(count)
  local function switch()
    for _ = 1, tonumber(count) do opensandbox.sleep(0) end
  end
  return timed(function() assert(opensandbox.gather { switch, switch }) end) / (2 * tonumber(count))
end

--- Seconds in which this process was ready to run and another one ran.
local function run_delay()
  local file = assert(io.open "/proc/self/schedstat")
  local nanoseconds = file:read("l"):match("^%d+ (%d+)")
  file:close()
  return nanoseconds / 1e9
end

--- The longest `step` of 60 per second, while `rate` events per second arrive; without the time that other processes took.
function works.worst_frame(rate)
  local seen, worst = 0, 0
  local commands = create().commands
  local task = opensandbox.spawn(function()
    return assert(commands:run("rate " .. rate, { capture = false, on_stdout = function() seen = seen + 1 end }))
  end)
  local frame = now()
  while task.status == "running" do
    local delay = run_delay()
    local took = timed(opensandbox.step, { budget = 0.002 })
    worst = math.max(worst, took - (run_delay() - delay))
    frame = frame + 1 / 60
    while now() < frame do end -- luacheck: ignore 542 (what the host does itself)
  end
  assert(task:join())
  assert(seen == 2 * tonumber(rate))
  return worst
end

---------------------------------------------------------------------------------------------------------------------
-- the embedded runtime

local LOCAL = { image = "host", connection = { domain = "local" } }

--- From create to the first output of a command in it.
local function first_output()
  local start, elapsed = now(), nil
  local sandbox = create(LOCAL)
  assert(sandbox.commands:run("echo", { on_stdout = function() elapsed = elapsed or now() - start end }))
  assert(sandbox:kill())
  return assert(elapsed)
end

--- The first sandbox of a process: the runtime starts too.
function works.local_first()
  return first_output()
end

function works.local_next(count)
  first_output()
  local times = {}
  for i = 1, tonumber(count) do times[i] = first_output() end
  table.sort(times)
  return times[math.floor(#times / 2) + 1]
end

function works.local_latency(command, count)
  local sandbox = create(LOCAL)
  local time = median_of(tonumber(count), function() assert(sandbox.commands:run(command).exit_code == 0) end)
  assert(sandbox:kill())
  return time
end

print(("%.9f"):format(works[arg[1]](table.unpack(arg, 2))))
