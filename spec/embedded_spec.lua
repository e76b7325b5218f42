-- How the embedded runtime is found and started, and what is said when it cannot be.
local script = require "spec.support.script"

local function make_file(content)
  local name = os.tmpname()
  local file = assert(io.open(name, "wb"))
  assert(file:write(content))
  file:close()
  return name
end

--- A temporary program for /bin/sh.
local function make_program(content)
  local name = make_file("#!/bin/sh\n" .. content)
  os.execute("chmod +x " .. name)
  return name
end

--- What a script says, run in a process of its own.
local function output_of(source, env)
  return select(2, script.start(source, env):finish()) .. "\n"
end

local START = [[
  local runtime, err = require("opensandbox.embedded").start()
  print(runtime and runtime.url or err.code .. ": " .. err.message)
]]

describe("embedded runtime", function()
  local function start(program, text)
    return output_of(text or START, { OPENSANDBOX_RUNTIME = program, OPEN_SANDBOX_DOMAIN = false, OPEN_SANDBOX_API_KEY = false })
  end

  --- Starts what `content`, a shell script, makes of a runtime.
  local function start_as(content, text)
    local program = make_program(content)
    local output = start(program, text)
    os.remove(program)
    return output
  end

  it("says where a missing program was looked for", function()
    assert.equal("unsupported: the embedded runtime cannot be used: OPENSANDBOX_RUNTIME names /nonexistent/runtime, which is not there\n",
      start "/nonexistent/runtime")
    -- without its folder on the path, the module does not know where it was built
    local forget = [[require "opensandbox.core" require "cjson" package.cpath = ""]]
    local output = output_of(forget .. START, { OPENSANDBOX_RUNTIME = false, PATH = "/usr/bin:/somewhere" })
    if output:find("^http") then return end -- one is installed on this machine
    assert.matches("opensandbox-runtime was not found: set OPENSANDBOX_RUNTIME to its path, or set OPEN_SANDBOX_DOMAIN", output, 1, true)
    assert.matches("/somewhere/opensandbox-runtime", output, 1, true)
  end)

  it("passes on why the runtime cannot run", function()
    assert.equal("unsupported: the embedded runtime cannot be used: install bubblewrap\n",
      start_as [[echo '{"error":{"code":"unsupported","message":"install bubblewrap"}}'; exit 1]])
  end)

  it("tells of a program that says nothing, or nonsense", function()
    assert.matches("it ended without a word", start_as "exit 3")
    assert.matches("it ended without a word", start_as "echo hello")
    assert.matches("its announcement is incomplete", start_as [[echo '{"url":"http://127.0.0.1:1"}']])
    local name = make_file ""
    assert.matches("can't be started: ", start(name))
    os.remove(name)
  end)

  it("is started at first use, once per Lua state, with a pipe that ends with the state", function()
    local log = make_file ""
    local output = start_as(([[
      echo "start $*" >> %s
      echo '{"url":"http://127.0.0.1:1","api_key":"k"}'
      exec >&-
      cat >/dev/null
      echo end >> %s]]):format(log, log), [[
      local opensandbox = require "opensandbox"
      local connection = opensandbox.connection { domain = "local", retry = false }
      local first = opensandbox.manager { connection = connection }
      local file = io.open("]] .. log .. [[")
      print(file:read("*a") == "")
      print(select(2, first:list()).code)
      for name in pairs(package.loaded) do
        if name:find("^opensandbox") and name ~= "opensandbox.core" then package.loaded[name] = nil end
      end
      print(select(2, require("opensandbox").manager():list()).code)
    ]])
    assert.equal("true\nconnect\nconnect\n", output)
    local content
    for _ = 1, 200 do -- the script is over; its runtime sees the end of the pipe by itself
      local file = assert(io.open(log))
      content = file:read("*a")
      file:close()
      if content:find("end") then break end
      os.execute("sleep 0.02")
    end
    os.remove(log)
    assert.equal("start --embedded\nend\n", content)
  end)

  it("is started anew when it has died", function()
    local log = make_file ""
    local output = start_as(([[
      echo start >> %s
      echo "{\"url\":\"http://127.0.0.1:$(wc -l < %s)\",\"api_key\":\"k\"}"]]):format(log, log), [[
      local embedded = require "opensandbox.embedded"
      local runtime = embedded.start()
      print(runtime.url)
      while not runtime.process:exit_code() do end
      print(embedded.start().url)
    ]])
    os.remove(log)
    assert.equal("http://127.0.0.1:1\nhttp://127.0.0.1:2\n", output)
  end)
end)
