-- A session with a coding agent: a prompt, its events as they come, permissions asked at the keyboard, and the history.
--
--     lua examples/agent_session.lua [AGENT] [PROMPT]        (default: claude, "What is in this directory?")
--
-- It starts a sandbox-agent server of its own, found through SANDBOX_AGENT_BIN, node_modules or PATH
-- (npm install @sandbox-agent/cli), or uses the one at SANDBOX_AGENT_URL with SANDBOX_AGENT_TOKEN.
local agent = require "opensandbox.agent"

local name, prompt = arg[1] or "claude", arg[2] or "What is in this directory?"
local url = os.getenv "SANDBOX_AGENT_URL"
io.stdout:setvbuf "line"

local agents
if url then
  agents = assert(agent.connect { base_url = url, token = os.getenv "SANDBOX_AGENT_TOKEN" })
else
  agents = assert(agent.start())
end

local session = assert(agents:create_session { agent = name, cwd = os.getenv "PWD" })
print(("session %s with %s"):format(session.id, name))

-- Events come in the agent's order while the prompt waits.
session:on_event(function(event)
  local update = event.payload.method == "session/update" and event.payload.params.update
  if not update then return end
  if update.sessionUpdate == "agent_message_chunk" and update.content.type == "text" then
    print("agent: " .. update.content.text)
  elseif update.sessionUpdate == "tool_call" or update.sessionUpdate == "tool_call_update" then
    print(("tool:  %s %s"):format(update.title or update.toolCallId, update.status or ""))
  end
end)

-- The turn waits until the request is answered, here or from anywhere else.
session:on_permission_request(function(request)
  io.write(("the agent asks: %s? (%s) "):format(request.tool_call.title, table.concat(request.available_replies, ", ")))
  io.flush()
  local reply = io.read "*l"
  local ok, err = session:respond_permission(request.id, reply == "once" and "once" or reply == "always" and "always" or "reject")
  if not ok then print(err) end
end)

print("you:   " .. prompt)
local turn, err = session:prompt(prompt)
print(turn and "the turn ended: " .. turn.stop_reason or tostring(err))

print "history:"
for event in agents:each_event { session_id = session.id } do
  print(("%4d %-6s %s"):format(event.event_index, event.sender, event.payload.method or "answer"))
end
agents:close()
