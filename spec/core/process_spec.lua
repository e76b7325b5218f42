local core = require "opensandbox.core"
local task = require "opensandbox.task"

local SECONDS = 20

local function next_line(process)
  assert(task.await(process, core.now() + SECONDS), "the process says nothing")
  return process:read_line()
end

describe("a child process", function()
  it("reads its input first, which no argument and no variable of it holds", function()
    local process = assert(core.process {
      argv = { "sh", "-c", "read -r secret; echo got $secret; tr '\\0' ' ' </proc/$$/cmdline; echo; read -r more || echo end" },
      input = "swordfish\n",
    })
    assert.equal("got swordfish", next_line(process))
    assert.is_nil(next_line(process):find("swordfish", 1, true))
    process:close() -- ends its stdin
  end)

  it("keeps its stdin open after the input, until it is closed", function()
    local marker = os.tmpname()
    local process = assert(core.process { argv = { "sh", "-c", "read -r a; read -r b; echo \"$a,$b.\" >" .. marker .. ".new; mv " .. marker
      .. ".new " .. marker }, input = "one\n" })
    process:close()
    local deadline, text = core.now() + SECONDS, ""
    while text == "" and core.now() < deadline do
      task.sleep(0.005)
      local file = assert(io.open(marker))
      text = file:read("*a")
      file:close()
    end
    os.remove(marker)
    assert.equal("one,.\n", text)
  end)

  it("takes no more input than every pipe takes at once", function()
    local process = assert(core.process { argv = { "wc", "-c" }, input = ("x"):rep(4096) })
    process:kill(9)
    process:close()
    assert.has_error(function() core.process { argv = { "cat" }, input = ("x"):rep(4097) } end)
  end)
end)
