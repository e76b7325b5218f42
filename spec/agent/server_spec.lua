local agent = require "opensandbox.agent"
local agent_server = require "spec.support.agent_server"
local core = require "opensandbox.core"
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"
local script = require "spec.support.script"

local missing = agent_server.missing()

local function is_gone(port)
  local deadline = core.now() + 10
  while #agent_server.pids(port) > 0 do
    if core.now() > deadline then return false end
    opensandbox.sleep(0.01)
  end
  return true
end

describe("agent.connect", function()
  local server

  setup(function() server = faults.start() end)
  before_each(function() server:reset() end)
  teardown(function() server:stop() end)

  it("waits until the server answers, with token and headers on every request", function()
    server:route("GET", "/v1/health", { { close = true } }, faults.json(200, { status = "ok" }))
    local agents = assert(agent.connect { base_url = server.url .. "/", token = "t0ken", headers = { ["X-Way"] = "here" } })
    assert.equal("opensandbox.agents: " .. server.url, tostring(agents))
    local requests = server:requests "/v1/health"
    assert.equal(2, #requests)
    assert.equal("Bearer t0ken", requests[1].headers.authorization)
    assert.equal("here", requests[2].headers["x-way"])
    assert.equal(server.url .. "/ui/?token=t0ken", agents:inspector_url())
    assert.equal("http://x/ui/?headers=%7B%22A%22%3A%22b%22%7D", agent.inspector_url { base_url = "http://x/", headers = { A = "b" } })
    agents:close()
  end)

  it("gives up at its deadline, and at once where the token is wrong", function()
    local agents, err = agent.connect { base_url = "http://127.0.0.1:1", ready_timeout = 0.1 }
    assert.is_nil(agents)
    assert.equal("not_ready", err.code)
    assert.truthy(err.message:find("0.1 s", 1, true))
    server:route("GET", "/v1/health", faults.json(401, { type = "urn:sandbox-agent:error:token_invalid", title = "Token Invalid",
      status = 401, detail = "token invalid" }))
    agents, err = agent.connect { base_url = server.url, token = "wr0ng" }
    assert.is_nil(agents)
    assert.equal("unauthorized", err.code)
    assert.equal("token_invalid", err.api_code)
    assert.is_nil(tostring(err):find("wr0ng", 1, true))
    assert.equal(1, #server:requests "/v1/health")
  end)

  it("can wait at the first call instead", function()
    server:route("GET", "/v1/health", faults.json(200, { status = "ok" }))
    server:route("GET", "/v1/agents", faults.json(200, { agents = {} }))
    local agents = assert(agent.connect { base_url = server.url, skip_health_check = true })
    assert.equal(0, #server:requests())
    assert(agents:agents())
    assert.equal(1, #server:requests "/v1/health")
    agents:close()
  end)

  it("raises for what it does not know", function()
    assert.has_error(function() agent.connect { base_url = "http://x", tokn = "x" } end, nil)
    local ok, message = pcall(agent.connect, { base_url = "http://x", tokn = "x" })
    assert.is_false(ok)
    assert.truthy(message:find("did you mean 'token'", 1, true))
  end)
end)

describe("agent.start", missing and function() it("needs the server", function() pending(missing) end) end or function()
  teardown(function() agent_server.clean() end)

  it("serves on a port of its own with a token that no argument shows", function()
    local agents = agent_server.start { token = "t0ken-of-the-test" }
    local port = agents.sandbox_id:match "^local/127%.0%.0%.1:(%d+)$"
    assert.equal("ok", agents:health().status)
    local pids = agent_server.pids(port)
    assert.equal(1, #pids)
    local file = assert(io.open("/proc/" .. pids[1] .. "/cmdline", "rb"))
    local arguments = file:read "*a"
    file:close()
    assert.truthy(arguments:find("--token\0****", 1, true))
    assert.is_nil(arguments:find("t0ken", 1, true))
    local other, err = agent.connect { base_url = "http://127.0.0.1:" .. port }
    assert.is_nil(other)
    assert.equal("unauthorized", err.code)
    agents:close()
    assert.is_true(is_gone(port))
  end)

  it("ends the server, and what it runs, with the client", function()
    local agents = agent_server.start()
    local port = agents.sandbox_id:match "%d+$"
    local process = assert(agents.processes:create { command = "sleep", args = { "1000" } })
    assert(agents:create_session { agent = "mock" })
    agents:close()
    assert.is_true(is_gone(port))
    local deadline = core.now() + 10
    local function is_running()
      local file = io.open(("/proc/%d/cmdline"):format(process.pid), "rb") -- empty where nobody has reaped it yet
      local arguments = file and file:read "*a"
      if file then file:close() end
      return arguments ~= nil and arguments ~= ""
    end
    while is_running() and core.now() < deadline do opensandbox.sleep(0.01) end
    assert.is_false(is_running())
  end)

  it("ends the server with the script, also when that is killed", function()
    local _, env = agent_server.home()
    for _, ending in ipairs { "os.exit(0)", "os.exit(0, true)", "error 'failed'", "opensandbox.sleep(60)" } do
      local child = script.start(([[
        local agent, opensandbox = require "opensandbox.agent", require "opensandbox"
        local agents = assert(agent.start { binary = %q, env = %s })
        assert(agents:create_session { agent = "mock" })
        print(agents.sandbox_id:match "%%d+$")
        %s
      ]]):format(agent_server.binary(), agent_server.literal(env), ending))
      local port = child:line()
      assert.truthy(port:find "^%d+$", port)
      if ending:find "sleep" then child:kill(9) end
      child:finish()
      assert.is_true(is_gone(port), ending)
    end
  end)

  it("tells why it cannot", function()
    local agents, err = agent.start { binary = "/nowhere/sandbox-agent" }
    assert.is_nil(agents)
    assert.equal("unsupported", err.code)
    agents, err = agent.start { binary = "/bin/false", port = 20001 }
    assert.is_nil(agents)
    assert.equal("not_ready", err.code)
    assert.truthy(err.message:find("exit code", 1, true))
  end)

  it("starts where a provider says, starts again what does not answer, and destroys what failed", function()
    local agents = agent_server.start()
    local url, token = "http://" .. agents.sandbox_id:sub(7), core.state(agents, "agents").token
    local calls = {}
    local function note(name, ...)
      local results = { ... }
      return function(id)
        calls[#calls + 1] = name .. (id and "(" .. id .. ")" or "")
        return (table.unpack or unpack)(results)
      end
    end
    local provider = { name = "mine", create = note("create", "7"), destroy = note("destroy", true), url = note("url", url),
      token = note("token", token), pause = note("pause", true), reconnect = note("reconnect", true), ensure_server = note("ensure", true) }
    local other = assert(agent.start { provider = provider })
    assert.equal("mine/7", other.sandbox_id)
    assert.equal("ok", other:health().status)
    assert(other:pause_sandbox())
    assert.same({ "create", "url(7)", "token(7)", "pause(7)" }, calls)
    assert.has_error(function() other:health() end)

    calls = {}
    assert(assert(agent.start { provider = provider }):kill_sandbox()) -- this provider cannot kill: it destroys
    assert.same({ "create", "url(7)", "token(7)", "destroy(7)" }, calls)

    calls = {}
    other = assert(agent.start { provider = provider, sandbox_id = "mine/9" })
    assert(other:destroy_sandbox())
    assert.same({ "reconnect(9)", "ensure(9)", "url(9)", "token(9)", "destroy(9)" }, calls)

    calls = {}
    provider.url = note("url", "http://127.0.0.1:1")
    local none, err = agent.start { provider = provider, ready_timeout = 0.3 }
    assert.is_nil(none)
    assert.equal("not_ready", err.code)
    assert.equal("destroy(7)", calls[#calls])
    local ensured = false
    for _, call in ipairs(calls) do ensured = ensured or call == "ensure(7)" end
    assert.is_true(ensured)
    agents:close()
  end)

  it("lets go at the end of a scope", function()
    local run = (loadstring or load) [[
      local agents <close> = ...
      return agents.sandbox_id:match "%d+$"
    ]]
    if not run then return pending "this Lua has no <close>" end
    assert.is_true(is_gone(run((agent_server.start()))))
  end)

  it("is part of opensandbox.run, which does not wait for it", function()
    local agents
    local result = assert(opensandbox.run(function()
      agents = agent_server.start()
      local session = assert(agents:create_session { agent = "mock" })
      return session:prompt "hello"
    end))
    assert.equal("end_turn", result.stop_reason)
    agents:close()
  end)
end)

describe("agent.attach", missing and function() it("needs the server", function() pending(missing) end) end or function()
  local sandbox

  setup(function()
    sandbox = assert(opensandbox.create())
    local here = debug.getinfo(1, "S").source:match "^@(.*)/spec/agent/server_spec.lua$" or "."
    assert(sandbox.files:upload(here .. "/spec/support/scripted_agent.lua", "/opt/agent.lua"))
    assert(sandbox.files:write("/opt/data/sandbox-agent/bin/agent_processes/mock-acp", "#!/bin/sh\nexec lua5.4 /opt/agent.lua\n",
      { mode = "755" }))
  end)
  teardown(function()
    sandbox:kill()
    agent_server.clean()
  end)

  local function texts(agents, session)
    local list = {}
    for event in agents:each_event { session_id = session.id } do
      local update = event.payload.params and event.payload.params.update
      if update and update.content then list[#list + 1] = update.content.text end
    end
    return list
  end

  it("starts a server in a sandbox, reaches it through the endpoint, serves the agent's requests, and ends it", function()
    local agents = assert(agent.attach(sandbox, {
      upload = agent_server.binary(), requests = agent.sandbox_requests(sandbox),
      env = { XDG_DATA_HOME = "/opt/data", SANDBOX_AGENT_REQUIRE_PREINSTALL = "1", HOME = "/root" },
    }))
    assert.equal("opensandbox/" .. sandbox.id, agents.sandbox_id)
    assert.equal(sandbox, agents.sandbox)
    local session = assert(agents:create_session { agent = "mock" })
    for _, prompt in ipairs {
      "env SANDBOX_AGENT_START_TOKEN", 'ask fs/write_text_file {"path":"/workspace/x.txt","content":"one\\ntwo\\nthree\\n"}',
      'ask fs/read_text_file {"path":"/workspace/x.txt","line":2,"limit":1}',
      'ask terminal/create {"command":"sh","args":["-c","echo $WORD; exit 3"],"env":[{"name":"WORD","value":"hi"}],"cwd":"/tmp"}',
      'ask terminal/wait_for_exit {"terminalId":"terminal-1"}', 'ask terminal/output {"terminalId":"terminal-1"}',
      'ask terminal/create {"command":"sleep 1000"}', 'ask terminal/kill {"terminalId":"terminal-2"}',
      'ask terminal/wait_for_exit {"terminalId":"terminal-2"}', 'ask terminal/release {"terminalId":"terminal-1"}',
      'ask terminal/output {"terminalId":"terminal-1"}', 'ask fs/read_text_file {"path":"/workspace/missing"}',
    } do
      assert(session:prompt(prompt))
    end
    local said = texts(agents, session)
    local json = require "opensandbox.json"
    for i = 2, #said do said[i] = assert(json.decode(said[i])) end
    assert.equal("nil", said[1]) -- no agent sees the token
    assert.equal("two\n", said[3].result.content)
    assert.equal("terminal-1", said[4].result.terminalId)
    assert.equal(3, said[5].result.exitCode)
    assert.same({ "hi\n", false, 3 }, { said[6].result.output, said[6].result.truncated, said[6].result.exitStatus.exitCode })
    assert.truthy(said[9].result.signal ~= json.null or said[9].result.exitCode ~= 0)
    assert.equal(-32002, said[11].error.code)
    assert.equal(-32002, said[12].error.code)
    assert.equal("one\ntwo\nthree\n", assert(sandbox.files:read "/workspace/x.txt"))
    assert(session:prompt "burst 500")
    agents:close()
    local deadline = core.now() + 10
    local count
    repeat
      count = assert(sandbox.commands:run "cat /proc/[0-9]*/comm | grep -c sandbox-agent").stdout
    until count == "0" or core.now() > deadline
    assert.equal("0", count)
  end)

  it("tells what is missing", function()
    local agents, err = agent.attach(sandbox, { ready_timeout = 5 })
    assert.is_nil(agents)
    assert.equal("unsupported", err.code)
    assert.truthy(err.message:find("upload", 1, true))
    agents, err = agent.attach(sandbox, { start = false, ready_timeout = 0.2, port = 4711 })
    assert.is_nil(agents)
    assert.equal("not_ready", err.code)
  end)
end)
