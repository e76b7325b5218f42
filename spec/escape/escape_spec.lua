-- What a hostile program inside a sandbox must not achieve: one test for each way out that once worked.
local core = require "opensandbox.core"
local runtimes = require "spec.support.runtime"
local socket = require "socket"

local SECRET = "hunter-" .. tostring(math.random(1e6, 1e7)):gsub("%..*", "")
local FIND_SECRET = SECRET:gsub("^h", "[h]") -- a pattern that does not find itself in command lines

--- The helper program, which lies beside the runtime.
local function intruder_path()
  return (os.getenv("OPENSANDBOX_RUNTIME"):gsub("[^/]+$", "intruder"))
end

local function read_file(path)
  local file = io.open(path, "rb")
  local text = file and file:read("*a")
  if file then file:close() end
  return text
end

local function suite(user)
  local runtime, directory, id
  local root = (user or runtimes.user_id()) == 0

  --- The directory of a sandbox, seen from outside.
  local function outside(sandbox)
    return runtime.state .. "/" .. runtimes.entries(runtime.state)[1] .. "/" .. sandbox
  end

  --- Puts the helper program into a sandbox.
  local function arm(sandbox)
    local target = outside(sandbox) .. "/workspace/intruder"
    assert(os.execute(("cp '%s' %s && chmod 755 %s"):format(intruder_path(), target, target)))
  end

  local function run(command) return (runtime:run(id, command)) end

  setup(function()
    directory = runtimes.directory()
    local file = assert(io.open(directory .. "/open", "wb"))
    file:write(SECRET)
    file:close()
    -- The runtime is started as carelessly as can be: with a secret in its environment, an open file with one, and a key.
    runtime = runtimes.start {
      user = user,
      env = { HOST_SECRET = SECRET },
      prefix = { intruder_path(), "with-key", "sh", "-c", ("exec 9<%s/open; exec \"$@\""):format(directory), "sh" },
    }
    id = runtime:create()
    arm(id)
  end)

  teardown(function()
    runtime:stop()
    os.execute("rm -rf " .. directory)
  end)

  it("has only six capabilities, and no way to more", function()
    assert.matches("CapEff:%s+00000000000000eb", run "grep CapEff /proc/self/status")
    assert.matches("CapBnd:%s+00000000000000eb", run "grep CapBnd /proc/self/status")
    assert.matches("NoNewPrivs:%s+1", run "grep NoNewPrivs /proc/self/status")
    assert.equal("", run "/workspace/intruder deeds")
  end)

  it("is no process of the machine's root", function()
    local count = 0
    for pid in pairs(runtime:processes()) do
      local status = read_file("/proc/" .. pid .. "/status") or ""
      local name, uid = status:match("Name:%s+(%S+)"), status:match("Uid:%s+(%d+)")
      if name ~= "osb-janitor" then
        count = count + 1
        assert.is_not_equal("0", uid)
      end
    end
    assert.is_true(count >= 2) -- monitor and execd
  end)

  it("finds a root that is read-only, and device and run directories that are small", function()
    for _, path in ipairs { "/file", "/usr/file", "/etc/file", "/dev/file", "/.opensandbox/file" } do
      assert.matches("Read%-only file system", run("touch " .. path .. " 2>&1"), 1, false)
    end
    for _, path in ipairs { "/dev/shm", "/run" } do
      assert.matches("No space left", run("head -c 100000000 /dev/zero 2>&1 >" .. path .. "/big; rm " .. path .. "/big"))
    end
    assert.equal("ok", run "touch /workspace/f /home/f /root/f /tmp/f /var/f /run/f /opt/f /app/f /srv/f /mnt/f && echo ok")
  end)

  it("can't take execd's socket and connect out with it", function()
    local server = assert(socket.bind("127.0.0.1", 0))
    local _, port = server:getsockname()
    assert.equal("stole from a child", run("/workspace/intruder steal " .. port))
    server:settimeout(0)
    assert.is_nil((server:accept()))
    server:close()
  end)

  it("is not told the token by any process", function()
    local _, endpoint = runtime:request("GET", "/sandboxes/" .. id .. "/endpoints/44772")
    local token = endpoint.headers["X-EXECD-ACCESS-TOKEN"]
    local pattern = token:gsub("^(.)", "[%1]")
    assert.equal("", run(("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | grep -ao '%s'"):format(pattern)))
    assert.equal("", run(("grep -rs '%s' /tmp /run /var /etc /dev/shm /workspace"):format(pattern)))
  end)

  it("sees nothing of the host's environment, command lines, open files and keys", function()
    assert.equal("", run(("cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null | grep -ao '%s'"):format(FIND_SECRET)))
    local read_all = "for f in /proc/[0-9]*/fd/*; do test -f $f && head -c 100 $f; done 2>/dev/null | grep -ao '%s'"
    assert.equal("", run(read_all:format(FIND_SECRET)))
    local search = "tr '\\0' '\\n' </proc/1/cmdline | grep -e %s -e %s"
    assert.equal("", run(search:format(runtime.state, (runtime.api_key:gsub("^(.)", "[%1]")))))
    assert.matches("Permission denied", run "cat /proc/1/environ 2>&1")
    assert.equal("sandbox", run "hostname; ls -d /etc/shadow /sys /boot 2>/dev/null; ls -A /home | grep -v ^f$")
    assert.equal("root:x:0:0:root:/root:/bin/bash", run "grep -v -e ^nobody: -e ^daemon: /etc/passwd")
    -- The monitor outside got none of it either, whoever could look there.
    if runtimes.user_id() == 0 then
      for pid in pairs(runtime:processes()) do
        if read_file("/proc/" .. pid .. "/comm") == "bwrap\n" then
          assert.equal("", read_file("/proc/" .. pid .. "/environ"))
          assert.is_nil(read_file("/proc/" .. pid .. "/cmdline"):find(runtime.state, 1, true))
          assert.is_nil(runtimes.shell("ls -l /proc/" .. pid .. "/fd | grep " .. directory))
        end
      end
    end
  end)

  it("does not reach the host's loopback, unless it was given the host's network", function()
    local server = assert(socket.bind("127.0.0.1", 0))
    local _, port = server:getsockname()
    local probe = "timeout 5 bash -c 'true </dev/tcp/127.0.0.1/%s' 2>/dev/null && echo reached || echo not"
    assert.equal("not", run(probe:format(port)))
    assert.equal("not", run(probe:format(runtime.url:match("%d+$"))))
    assert.equal("lo", run "tail -n +3 /proc/net/dev | sed 's/:.*//; s/ //g'")
    -- The proxy listens in here, where no process has its socket, and knows what the machine's own addresses are.
    assert.matches(": 0100007F:0C38 ", run "cat /proc/net/tcp", 1, true)
    local inode = run "while read -r a b c d e f g h i inode rest; do [ $b = 0100007F:0C38 ] && echo $inode; done </proc/net/tcp"
    assert.equal("", run(("find /proc/[0-9]*/fd -lname 'socket:\\[%s\\]' 2>/dev/null"):format(assert(inode:match("^%d+$")))))
    assert.is_nil((read_file("/proc/net/tcp"):find(" " .. inode .. " ", 1, true)))
    local ask = "curl -s -o /dev/null -m 10 -w '%%{http_code}%%{http_connect} ' --noproxy '' %s http://%s:%s/health"
    for _, number in ipairs { port, runtime.url:match("%d+$") } do
      for _, host in ipairs { "127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "2130706433" } do
        assert.equal("403000 ", run(ask:format("-g", host, number)))
        assert.equal("000403 ", run(ask:format("-g -p", host, number)))
      end
    end
    server:settimeout(0)
    assert.is_nil((server:accept()))
    local open = runtime:create { extensions = { ["runtime.network"] = "host" } }
    assert.equal("reached", (runtime:run(open, probe:format(port))))
    assert.equal(204, (runtime:request("DELETE", "/sandboxes/" .. open)))
    server:close()
  end)

  it("does not reach another sandbox's files, and neither do other users of the machine", function()
    local other = runtime:create()
    assert.equal("", (runtime:run(other, ("echo %s >/workspace/own; echo %s >/tmp/own"):format(SECRET, SECRET))))
    assert.equal("", run("find / -xdev -name own 2>/dev/null; ls -A " .. runtime.state .. " 2>/dev/null"))
    assert.equal("", run(("grep -rs '%s' /workspace /tmp /home /var /run /mnt"):format(FIND_SECRET)))
    assert.equal("workspace", run "cd /workspace; ln -s ../../../../../.. up; cd -P up; pwd | grep -v '^/$'; ls -d workspace")
    if runtimes.user_id() == 0 then
      local stranger = table.concat(runtimes.as_user(runtimes.STRANGER + 1), " ")
      assert.is_nil(runtimes.shell(("%s cat %s/workspace/own 2>/dev/null"):format(stranger, outside(other))))
      assert.is_nil(runtimes.shell(("%s ls %s 2>/dev/null"):format(stranger, outside(other))))
    end
    assert.equal(204, (runtime:request("DELETE", "/sandboxes/" .. other)))
  end)

  it("can't signal or see processes outside", function()
    local argv = user and runtimes.as_user(user) or {}
    argv[#argv + 1], argv[#argv + 2] = "sleep", "1000" -- one of the same user
    local bystander = assert(core.process { argv = argv, env = { "PATH=/usr/bin:/bin" } })
    finally(function() bystander:kill(9) end)
    local other = runtime:create()
    local before = runtime:processes()
    run(("kill -9 %d; kill -9 %d"):format(bystander:pid(), runtime.pid))
    run "for n in $(seq 2 400); do [ $n = $$ ] || kill -9 $n; done 2>/dev/null"
    run "kill -9 -1" -- all but the first process, which the sandbox itself lives by
    assert.equal("on", run "echo on")
    assert.is_nil(bystander:exit_code())
    assert.equal("on", (runtime:run(other, "echo on")))
    local count = 0
    for _ in pairs(before) do count = count + 1 end
    assert.equal(count, #runtimes.alive(before))
    assert.equal("", run "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -e '[o]pensandbox-runtime' -e '[b]wrap' -e '^[1]000$'")
    assert.equal(204, (runtime:request("DELETE", "/sandboxes/" .. other)))
  end)

  it("can't fill the machine with processes, as one user or as many", function()
    local other = runtime:create()
    for _, users in ipairs(root and { 1, 6 } or { 1 }) do
      local count = tonumber((run("/workspace/intruder bomb " .. users):match("^%d+")))
      assert.is_true(count > 100 and count <= (users == 1 and 1024 or 2048), tostring(count))
      assert.equal("on", (runtime:run(other, "echo on")))
      runtimes.await("the end of them all", function() return (tonumber(run "ls -d /proc/[0-9]* | wc -l") or 100) < 20 end)
    end
    assert.equal(204, (runtime:request("DELETE", "/sandboxes/" .. other)))
  end)

  it("can't keep a process alive after its end", function()
    local doomed = runtime:create()
    local before = runtime:processes()
    runtime:run(doomed, [[for i in 1 2 3; do
      setsid nohup sh -c 'trap "" HUP INT TERM; (sleep 1000 &) ; sleep 1000' >/dev/null 2>&1 &
    done]])
    local after = runtime:processes()
    local new = {}
    for pid, started in pairs(after) do
      if not before[pid] then new[pid] = started end
    end
    assert.is_true(next(new) ~= nil)
    assert.equal(204, (runtime:request("DELETE", "/sandboxes/" .. doomed)))
    assert.same({}, runtimes.alive(new))
  end)
end

describe("a sandbox's walls", function()
  describe("as this user", function() suite(nil) end)

  if runtimes.user_id() == 0 then
    describe("as an ordinary user", function() suite(runtimes.STRANGER) end)
  else
    it("as root", function() pending "these tests do not run as root" end)
  end
end)
