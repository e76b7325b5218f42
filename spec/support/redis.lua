--[[ Starts a redis-server of its own, on a socket in a new directory, nothing kept on disk.

  local server = require("spec.support.redis").start()      -- {password = "…"}
  server.path                                               -- its socket
  server:stop() ]]
local core = require "opensandbox.core"
local task = require "opensandbox.task"

local M = {}

local SECONDS = 20

local Server = {}
Server.__index = Server

--- @treturn table server, or nil where redis-server is not installed
function M.start(opts)
  local pipe = assert(io.popen("command -v redis-server; mktemp -d /tmp/osb-redis.XXXXXX"))
  local program, directory = pipe:read("*l"), pipe:read("*l")
  pipe:close()
  if not directory then
    os.remove(program) -- the directory's name
    return nil
  end
  local self = setmetatable({ path = directory .. "/socket", directory = directory }, Server)
  local argv = {
    program, "--port", "0", "--unixsocket", self.path, "--save", "", "--appendonly", "no", "--dir", directory, "--logfile", "/dev/null",
  }
  if opts and opts.password then
    argv[#argv + 1] = "--requirepass"
    argv[#argv + 1] = opts.password
  end
  self.process = assert(core.process { argv = argv })
  local deadline = core.now() + SECONDS
  local answers = ("redis-cli -s %s ping >/dev/null 2>&1"):format(self.path)
  while true do
    local ok = os.execute(answers)
    if ok == true or ok == 0 then break end
    assert(core.now() < deadline and not self.process:exit_code(), "redis-server does not start")
    task.sleep(0.005)
  end
  return self
end

--- Stops it for good, or with a signal (19: as if it hung; 18: it goes on).
function Server:signal(number)
  self.process:kill(number)
end

function Server:stop()
  self.process:kill(9)
  self.process:close()
  os.remove(self.path)
  os.remove(self.directory)
end

return M
