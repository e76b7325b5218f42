-- A scene that goes on moving while a command streams its output into it. Escape ends the command; run it with `love examples/love`.
local opensandbox = require "opensandbox"

local COMMAND = "for i in $(seq 1 200); do echo \"line $i\"; sleep 0.02; done"

local angle, worst, lines, state = 0, 0, {}, "making a sandbox"
local running, quitting

local function work()
  local ok, err = opensandbox.with({}, function(sandbox)
    state = "running"
    return sandbox.commands:run(COMMAND, {
      on_stdout = function(line)
        lines[#lines + 1] = line
        if #lines > 20 then table.remove(lines, 1) end
      end,
    })
  end)
  state = ok and "done" or tostring(err)
end

function love.load()
  opensandbox.adapters.love.start()
  running = opensandbox.spawn(work)
end

function love.update(dt)
  angle = angle + dt * 2
  worst = math.max(worst, dt)
  if quitting and running.status ~= "running" then love.event.quit() end
end

function love.draw()
  love.graphics.print(("%s; the longest frame took %.1f ms"):format(state, worst * 1000), 20, 20)
  for i, line in ipairs(lines) do love.graphics.print(line, 20, 40 + i * 18) end
  love.graphics.circle("fill", 450 + 100 * math.cos(angle), 250 + 100 * math.sin(angle), 20)
end

function love.keypressed(key)
  if key == "escape" then running:cancel() end
end

--- Closing the window ends the task, and with it the sandbox; then the program.
function love.quit()
  quitting = true
  running:cancel()
  return running.status == "running"
end
