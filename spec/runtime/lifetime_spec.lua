-- Nothing outlives its owner: whatever ends the runtime or who started it, no process and no file is left.
local core = require "opensandbox.core"
local runtimes = require "spec.support.runtime"
local script = require "spec.support.script"

-- Leaves processes that want to stay and files that are hard to remove.
local MESS = [[
  nohup setsid sh -c 'trap "" TERM HUP INT; while :; do sleep 1000; done' >/dev/null 2>&1 &
  cd /workspace
  mkdir -p locked/inner; touch locked/inner/file; chmod 0 locked/inner locked
  for i in $(seq 150); do mkdir d; chmod 300 .; cd d; done; touch bottom
  chown -R 77:77 /workspace/d 2>/dev/null
  ln -s / /tmp/root; mkfifo /tmp/fifo; echo done]]

local function suite(user)
  local function start(opts)
    opts = opts or {}
    opts.user = user
    return runtimes.start(opts)
  end

  --- A runtime with two messy sandboxes, and its processes.
  local function start_messy()
    local runtime = start()
    local id
    for _ = 1, 2 do
      id = runtime:create()
      assert.equal("done", (runtime:run(id, MESS)))
    end
    local processes = runtime:processes()
    assert.is_true(#runtimes.alive(processes) >= 9) -- the janitor, and per sandbox: monitor, execd, two of the mess
    return runtime, processes, id
  end

  it("leaves nothing when its pipe is closed", function()
    start_messy():stop()
  end)

  it("leaves nothing when it is killed", function()
    local runtime, processes = start_messy()
    assert.is_true(runtime.process:kill(9))
    runtime:await_end(processes)
    runtime:stop()
  end)

  it("leaves nothing when it is killed while a sandbox is paused", function()
    local runtime, processes, id = start_messy()
    assert.equal(202, (runtime:request("POST", "/sandboxes/" .. id .. "/pause")))
    assert.is_true(runtime.process:kill(9))
    runtime:await_end(processes)
    runtime:stop()
  end)

  it("leaves nothing of a deleted sandbox", function()
    local runtime, processes, id = start_messy()
    local left = #runtimes.alive(processes)
    local state = runtime.state .. "/" .. runtimes.entries(runtime.state)[1]
    local entries = #runtimes.entries(state)
    assert.equal(204, (runtime:request("DELETE", "/sandboxes/" .. id)))
    assert.is_true(#runtimes.alive(processes) <= left - 4) -- at once: the answer comes after their end
    runtimes.await("the removal of its files", function() return #runtimes.entries(state) == entries - 1 end)
    runtime:stop()
  end)

  it("sweeps what a runtime left whose janitor was killed too", function()
    local first, processes = start_messy()
    for pid in pairs(processes) do
      local file = io.open("/proc/" .. pid .. "/comm", "rb")
      local name = file and file:read("*l")
      if file then file:close() end
      if name == "osb-janitor" then assert(os.execute("kill -9 " .. pid)) end
    end
    first.process:kill(9)
    runtimes.await("the end of the processes", function() return #runtimes.alive(processes) == 0 end)
    assert.equal(1, #runtimes.entries(first.state))
    local second = start { env = { TMPDIR = first.state } }
    assert.equal(1, #runtimes.entries(first.state)) -- its own
    second.process:close()
    runtimes.await("the removal", function() return #runtimes.entries(first.state) == 0 end)
    second:stop()
    first:stop()
  end)
end

describe("the runtime's lifetime", function()
  describe("as this user", function() suite(nil) end)

  if runtimes.user_id() == 0 then
    describe("as an ordinary user", function() suite(runtimes.STRANGER) end)
  else
    it("as root", function() pending "these tests do not run as root" end)
  end

  --- Ends what is left of a test with an owner of its own.
  local function check_end(state, processes)
    runtimes.await("the end of the processes", function() return #runtimes.alive(processes) == 0 end)
    runtimes.await("the removal of the directory", function() return #runtimes.entries(state) == 0 end)
    os.execute("rm -rf " .. state)
  end

  it("ends with the Lua script that it was started by, when that is killed", function()
    local state = runtimes.directory()
    local child = script.start([[
      local opensandbox = require "opensandbox"
      local box = assert(opensandbox.create { image = "host" })
      assert(box.commands:start "sleep 1000")
      print "ready"
      io.stdin:read "*a"
    ]], { TMPDIR = state, OPEN_SANDBOX_DOMAIN = false, OPEN_SANDBOX_API_KEY = false })
    assert.equal("ready", child:line())
    local processes = runtimes.descendants(child.process:pid())
    assert.is_true(#runtimes.alive(processes) >= 5) -- runtime, janitor, monitor, execd, sleep
    child:kill(9)
    check_end(state, processes)
  end)

  it("ends with its parent though another process holds the pipe open", function()
    local state = runtimes.directory()
    -- The shell is the parent; the sleeping process has the pipe as well, and outlives it.
    local parent = assert(core.process {
      argv = { "sh", "-c", [[
        cd "$TMPDIR"; mkfifo pipe; sleep 1000 3<>pipe & exec 3<>pipe
        "$OPENSANDBOX_RUNTIME" --embedded <pipe & wait]] },
      env = { "PATH=/usr/bin:/bin", "TMPDIR=" .. state, "OPENSANDBOX_RUNTIME=" .. os.getenv "OPENSANDBOX_RUNTIME",
        "OPENSANDBOX_EXECD=" .. (os.getenv "OPENSANDBOX_EXECD" or "") },
    })
    local task = require "opensandbox.task"
    assert(task.await(parent, core.now() + 30))
    local line = parent:read_line()
    local processes = runtimes.descendants(parent:pid())
    parent:kill(9)
    os.remove(state .. "/pipe")
    assert.matches('"url"', line)
    local holder
    for _, pid in ipairs(runtimes.alive(processes)) do
      local file = io.open("/proc/" .. pid .. "/comm", "rb")
      if file and file:read("*l") == "sleep" then holder = pid end
      if file then file:close() end
    end
    assert.is_not_nil(holder)
    processes[holder] = nil
    check_end(state, processes)
    assert(os.execute("kill -9 " .. holder))
  end)

  it("is not hit by a Ctrl-C in its owner's terminal", function()
    local runtime = runtimes.start()
    local id = runtime:create()
    local own = runtimes.session(tonumber(runtimes.shell "echo $PPID"))
    for pid in pairs(runtime:processes()) do assert.is_not_equal(own, runtimes.session(pid)) end
    assert.equal(runtime.pid, runtimes.session(runtime.pid))
    assert.equal("up", (runtime:run(id, "echo up")))
    runtime:stop()
  end)
end)
