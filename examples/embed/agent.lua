-- The agent that main.c runs: it writes a program into a sandbox, tries it, mends it and tries again, and hands over what it printed.
-- In place of the model that would write the program there is a list of attempts.
local opensandbox = require "opensandbox"

local attempts = {
  "for i in 1 2 3 4 5; do echo \"line $i\"; sleep 0.05; done; nocommand",
  "for i in 1 2 3 4 5; do echo \"line $i\"; sleep 0.05; done",
}

return opensandbox.spawn(function()
  local ok, err = opensandbox.with({}, function(sandbox)
    for number, program in ipairs(attempts) do
      assert(sandbox.files:write("/workspace/program.sh", program))
      local run = assert(sandbox.commands:run("sh /workspace/program.sh", {
        on_stdout = function(line) print(("attempt %d: %s"):format(number, line)) end,
      }))
      if run.exit_code == 0 then return true end
      print(("attempt %d failed: %s"):format(number, run.stderr))
    end
  end)
  print(ok and "the agent is done" or "the agent failed: " .. tostring(err))
end)
