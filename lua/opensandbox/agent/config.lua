--- Stored configuration of MCP servers and skills: `agents.config.mcp`, `agents.config.skills`.
--
-- The server keeps it per directory for whoever asks; it does not put it into sessions. Give MCP servers to a session through
-- `session_init.mcpServers`.
local api = require "opensandbox.agent.api"
local core = require "opensandbox.core"
local options = require "opensandbox.options"

local check_call = options.declare("a call", { timeout = { type = "duration" } })

local function verbatim(value) return value end

--- Makes the methods of one kind of entries.
local function part(name, path, parameter)
  local get = api.endpoint { id = "get_v1_config_" .. name, method = "GET", path = path, returns = verbatim }
  local set = api.endpoint { id = "put_v1_config_" .. name, method = "PUT", path = path }
  local delete = api.endpoint { id = "delete_v1_config_" .. name, method = "DELETE", path = path }

  local function query(directory, entry)
    options.argument("directory", directory, "string")
    options.argument("name", entry, "string")
    return { directory = directory, [parameter] = entry }
  end

  local functions = {}

  --- Reads an entry, as it was set.
  -- @treturn table|nil entry
  -- @treturn table err `not_found`
  function functions.get(client, directory, entry, opts)
    return get(client, { query = query(directory, entry), timeout = check_call(opts).timeout })
  end

  --- Sets an entry, in the server's own words: `{type="local", command=, args=, env=}`, `{type="remote", url=, headers=}` for MCP;
  -- `{sources={{type=, source=, skills=, ref=, subpath=}}}` for skills.
  -- @treturn boolean true, or nil and err
  function functions.set(client, directory, entry, value, opts)
    options.argument("config", value, "map")
    return set(client, { query = query(directory, entry), json = value, timeout = check_call(opts).timeout })
  end

  --- Removes an entry; one that is not there is removed already.
  -- @treturn boolean true, or nil and err
  function functions.delete(client, directory, entry, opts)
    return delete(client, { query = query(directory, entry), timeout = check_call(opts).timeout })
  end

  api.part("agent_config_" .. name, functions)
end

part("mcp", "/v1/config/mcp", "mcpName")
part("skills", "/v1/config/skills", "skillName")

local methods = {}

core.methods("agent_config", methods, { __index = function(self, name)
  if name ~= "mcp" and name ~= "skills" then return nil end
  return core.new("agent_config_" .. name, core.state(self, "agent_config"))
end })

return methods
