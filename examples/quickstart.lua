-- A sandbox in one script. With nothing set up it runs on this machine, in the embedded runtime (image "host"); with
-- OPEN_SANDBOX_DOMAIN (and OPEN_SANDBOX_API_KEY) set, on that OpenSandbox server. Run it with `./dev demo`.
local opensandbox = require "opensandbox"

local on_server = os.getenv "OPEN_SANDBOX_DOMAIN" or os.getenv "OPEN_SANDBOX_API_KEY"
local image = os.getenv "OPEN_SANDBOX_IMAGE" or (on_server and "python:3.12" or "host")

print("creating a sandbox from image " .. image)
-- `with` kills the sandbox on every way out, also after an error
local ok, err = opensandbox.with({ image = image, env = { GREETING = "hello" } }, function(sandbox)
  print("  " .. tostring(sandbox))

  print "running a command, its output as it comes"
  local run = assert(sandbox.commands:run("for i in 1 2 3; do echo \"$GREETING $i\"; sleep 0.3; done; ls /nowhere", {
    on_stdout = function(line) print("  out: " .. line) end,
    on_stderr = function(line) print("  err: " .. line) end,
  }))
  print("  exit code " .. run.exit_code)

  print "keeping a shell session"
  local session = assert(sandbox.commands:create_session { cwd = "/tmp" })
  assert(session:run "export NAME=Lua; mkdir -p work; cd work")
  print("  " .. assert(session:run 'echo "$NAME is in $PWD"').stdout)
  assert(session:delete())

  print "writing and reading files"
  assert(sandbox.files:write("/tmp/work/poem.txt", "roses are red\nviolets are blue\n", { mode = "600" }))
  local info = assert(sandbox.files:info "/tmp/work/poem.txt")
  print(("  %s: %d bytes, mode %s"):format(info.path, info.size, info.mode))
  assert(sandbox.files:replace("/tmp/work/poem.txt", "blue", "violet"))
  for line in sandbox.files:lines "/tmp/work/poem.txt" do print("  " .. line) end

  print "running a command in the background, and following its log"
  local job = assert(sandbox.commands:start "for i in 3 2 1; do echo $i; sleep 0.2; done; exit 7")
  local status = assert(job:follow(function(bytes) io.write("  ", (bytes:gsub("\n", " ")), "\n") end))
  print("  exit code " .. status.exit_code)
  return true
end)
assert(ok, err)
print "the sandbox is gone"
