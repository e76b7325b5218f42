--- Lets tasks go on in LÖVE, after each `love.update`: start it once that is defined, best in `love.load`. A call outside tasks holds up
-- the frame: use `opensandbox.spawn`.
local tasks = require "opensandbox.tasks"

return function(opts)
  local love, is_running = _G.love, true
  local update = love.update
  local function stepping(...)
    if update then update(...) end
    if is_running then tasks.step { budget = opts.budget } end
  end
  love.update = stepping
  return function()
    is_running = false
    if love.update == stepping then love.update = update end
  end
end
