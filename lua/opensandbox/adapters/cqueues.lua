--- Lets coroutines of a cqueues controller call this library: their calls wait in it, where tasks go on meanwhile. The option `loop` is
-- the controller, default the one that runs. Calls outside of it block.
local tasks = require "opensandbox.tasks"

return function(opts)
  local cqueues = require "cqueues"
  local controller = opts.loop or cqueues.running() or error("opensandbox: which controller? Give it as option 'loop'", 0)
  local is_running = true

  local function wait(fd, timeout)
    if not cqueues.running() then return false end
    cqueues.poll { pollfd = fd, events = "r", timeout = timeout }
  end

  tasks.set_waiter(wait, opts.budget)
  controller:wrap(function()
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
