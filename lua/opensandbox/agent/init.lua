--- Coding agents: a client of sandbox-agent servers.
--
--     local agent = require "opensandbox.agent"
--     local agents = assert(agent.connect { base_url = "http://127.0.0.1:2468", token = "…" })
--     local session = assert(agents:create_session { agent = "codex", cwd = "/workspace" })
--     session:on_permission_request(function(request) session:respond_permission(request.id, "once") end)
--     print(assert(session:prompt "Write a README").stop_reason)
--
-- Requiring this module loads no other: each part comes at its first use.

--- Public name → the module that has it, and its name there.
local places = {
  connect = { "connect", "connect" },
  start = { "start", "start" },
  attach = { "attach", "attach" },
  memory = { "memory", "new" },
  sqlite = { "sqlite", "new" },
  text = { "content", "text" },
  image = { "content", "image" },
  audio = { "content", "audio" },
  resource = { "content", "resource" },
  resource_link = { "content", "resource_link" },
  sandbox_requests = { "requests", "for_sandbox" },
  inspector_url = { "client", "inspector_url" },
}

local agent = {}

return setmetatable(agent, {
  __index = function(_, name)
    local place = places[name]
    if not place then return nil end
    local value = require("opensandbox.agent." .. place[1])[place[2]]
    rawset(agent, name, value)
    return value
  end,
})
