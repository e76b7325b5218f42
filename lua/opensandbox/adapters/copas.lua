--- Lets Copas' threads call this library: their calls wait in Copas, where tasks go on meanwhile. Calls outside its threads block.
local tasks = require "opensandbox.tasks"

local turn = 0 -- counts the times that the descriptor was found readable

local function nothing() end

--- What Copas takes for a socket: its first `receive` finds nothing; behind select it is done. LuaSocket's select tells of one object per
-- descriptor only: the thread that it tells begins a new turn, which makes those of the other threads "dirty".
local function socket_of(fd)
  local born, asked = turn, false
  return {
    getfd = function() return fd end,
    dirty = function() return born < turn end,
    settimeout = nothing,
    close = nothing,
    receive = function()
      if not asked then
        asked = true
        return nil, "timeout", ""
      end
      if born == turn then turn = turn + 1 end
      return ""
    end,
  }
end

local function wait(fd)
  local thread, is_main = coroutine.running()
  if not thread or is_main then return false end
  require("copas").receive(socket_of(fd))
end

return function(opts)
  local is_running = true
  tasks.set_waiter(wait, opts.budget)
  require("copas").addthread(function()
    while is_running do
      tasks.step { budget = opts.budget }
      wait(tasks.loop():fd())
    end
  end)
  return function()
    is_running = false
    tasks.set_waiter(nil)
  end
end
