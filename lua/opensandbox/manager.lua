--- The manager: sandboxes by id, and lists of them, without a handle for each.
local connections = require "opensandbox.connection"
local core = require "opensandbox.core"
local endpoint = require "opensandbox.endpoint"
local lifecycle = require "opensandbox.lifecycle"
local options = require "opensandbox.options"
local pages = require "opensandbox.pages"
local sandboxes = require "opensandbox.sandbox"
local snapshots = require "opensandbox.snapshot"
local target = require "opensandbox.target"

local M = {}

local FILTER_FIELDS = {
  states = { type = "list", of = "string" }, metadata = { type = "map", of = "string" },
  page = { type = "integer" }, page_size = { type = "integer" }, timeout = { type = "duration" },
}

local check_manager = options.declare("manager", { connection = { type = { "connection", "table" } } })
local check_list = options.declare("manager:list", FILTER_FIELDS)
local check_each = options.declare("manager:each", FILTER_FIELDS)
local check_call = options.declare("a call", { timeout = { type = "duration" } })

--- A manager of the sandboxes that a connection's server has.
-- @tparam[opt] table opts `connection`
-- @treturn userdata manager
function M.manager(opts)
  opts = check_manager(opts)
  local connection, connection_state = connections.resolve(opts.connection)
  return core.new("manager", { connection = connection, connection_state = connection_state, label = connection_state.domain })
end

local methods = { __fields = { connection = true } }

--- The server decodes the metadata filter twice, so names and values are encoded once here and once more with the whole query.
local function metadata_filter(metadata)
  local terms = {}
  for name, value in pairs(metadata) do terms[#terms + 1] = endpoint.escape(name) .. "=" .. endpoint.escape(value) end
  table.sort(terms)
  return table.concat(terms, "&")
end

local function list(state, opts, page)
  local query = {}
  for _, name in ipairs(opts.states or {}) do query[#query + 1] = { "state", name } end
  if opts.metadata and next(opts.metadata) then query[#query + 1] = { "metadata", metadata_filter(opts.metadata) } end
  pages.add_to_query(query, page, opts.page_size)
  local server, err = target.lifecycle(state.connection_state)
  if not server then return nil, err end
  return lifecycle.list(server, { query = query, timeout = opts.timeout })
end

--- One page of sandboxes. `GET /sandboxes`
-- @tparam[opt] table opts `states` (any of them), `metadata` (all of them), `page` (from 1), `page_size` (server's default: 20), `timeout`
-- @treturn table|nil `{items={info, …}, pagination={page=, page_size=, total_items=, total_pages=, has_next_page=}}`
-- @treturn table err
function methods:list(opts)
  local state = core.state(self, "manager")
  opts = check_list(opts)
  return list(state, opts, opts.page)
end

--- Walks over the sandboxes of all pages, a page at a time. A page that fails raises its error.
-- @tparam[opt] table opts as for `list`; `page` is where to begin
-- @treturn function iterator of infos, for `for info in manager:each() do`
function methods:each(opts)
  local state = core.state(self, "manager")
  opts = check_each(opts)
  return pages.each(opts.page, function(page) return list(state, opts, page) end)
end

local function by_id(call)
  return function(self, id, opts)
    local state = core.state(self, "manager")
    sandboxes.check_id(id)
    opts = check_call(opts)
    return sandboxes.about(state.connection_state, call, id, { timeout = opts.timeout })
  end
end

--- One sandbox. `GET /sandboxes/{id}`
-- @function methods:get
-- @tparam string id
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil info
-- @treturn table err `not_found`
methods.get = by_id(lifecycle.get)

--- Ends a sandbox. `DELETE /sandboxes/{id}`
-- @function methods:kill
-- @tparam string id
-- @tparam[opt] table opts `timeout`
-- @treturn boolean|nil true
-- @treturn table err `not_found`
methods.kill = by_id(lifecycle.kill)

--- Pauses a sandbox. `POST /sandboxes/{id}/pause`
-- @function methods:pause
-- @tparam string id
-- @tparam[opt] table opts `timeout`
-- @treturn boolean|nil true
-- @treturn table err
methods.pause = by_id(lifecycle.pause)

--- Resumes a sandbox, without waiting until it is ready. `POST /sandboxes/{id}/resume`
-- @function methods:resume
-- @tparam string id
-- @tparam[opt] table opts `timeout`
-- @treturn boolean|nil true
-- @treturn table err
methods.resume = by_id(lifecycle.resume)

--- Sets the expiry of a sandbox to `seconds` from now. `POST /sandboxes/{id}/renew-expiration`
-- @tparam string id
-- @tparam number seconds
-- @tparam[opt] table opts `timeout`
-- @treturn number|nil expires_at Unix seconds
-- @treturn table err
function methods:renew(id, seconds, opts)
  local state = core.state(self, "manager")
  sandboxes.check_id(id)
  options.argument("seconds", seconds, "duration")
  opts = check_call(opts)
  return sandboxes.renew(state.connection_state, id, seconds, opts.timeout)
end

--- Sets and removes metadata of a sandbox. `PATCH /sandboxes/{id}/metadata`
-- @tparam string id
-- @tparam table patch key → string, or `opensandbox.null` to remove it
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil info
-- @treturn table err
function methods:patch_metadata(id, patch, opts)
  local state = core.state(self, "manager")
  sandboxes.check_id(id)
  patch = sandboxes.check_metadata_patch(patch)
  opts = check_call(opts)
  return sandboxes.about(state.connection_state, lifecycle.patch_metadata, id, { json = patch, timeout = opts.timeout })
end

local function diagnostics(call)
  return function(self, id, scope, opts)
    local state = core.state(self, "manager")
    sandboxes.check_id(id)
    return sandboxes.diagnostics(state.connection_state, call, id, scope, opts)
  end
end

--- What the server logged about a sandbox. `GET /sandboxes/{id}/diagnostics/logs`
-- @function methods:diagnostic_logs
-- @tparam string id
-- @tparam string scope as for `sandbox:diagnostic_logs`
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil as `sandbox:diagnostic_logs` gives it
-- @treturn table err `unsupported` where the server does not have them
methods.diagnostic_logs = diagnostics(lifecycle.diagnostic_logs)

--- What happened to a sandbox. `GET /sandboxes/{id}/diagnostics/events`
-- @function methods:diagnostic_events
-- @tparam string id
-- @tparam string scope
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil as `sandbox:diagnostic_logs` gives it
-- @treturn table err
methods.diagnostic_events = diagnostics(lifecycle.diagnostic_events)

--- Makes a snapshot of a sandbox. `POST /sandboxes/{id}/snapshots`
-- @tparam string id of the sandbox
-- @tparam[opt] table opts as for `sandbox:create_snapshot`
-- @treturn table|nil snapshot
-- @treturn table err
function methods:create_snapshot(id, opts)
  local state = core.state(self, "manager")
  sandboxes.check_id(id)
  return snapshots.create(state.connection_state, id, opts)
end

--- One snapshot. `GET /snapshots/{id}`
-- @tparam string id of the snapshot
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil snapshot as `sandbox:create_snapshot` gives it
-- @treturn table err `not_found`
function methods:get_snapshot(id, opts)
  return snapshots.get(core.state(self, "manager").connection_state, id, opts)
end

--- One page of snapshots. `GET /snapshots`
-- @tparam[opt] table filter `sandbox_id`, `states` (any of them), `name`, `page` (from 1), `page_size`, `timeout`
-- @treturn table|nil `{items={snapshot, …}, pagination={…}}`
-- @treturn table err
function methods:list_snapshots(filter)
  return snapshots.list(core.state(self, "manager").connection_state, filter)
end

--- Walks over the snapshots of all pages, a page at a time. A page that fails raises its error.
-- @tparam[opt] table filter as for `list_snapshots`
-- @treturn function iterator of snapshots
function methods:each_snapshot(filter)
  return snapshots.each(core.state(self, "manager").connection_state, filter)
end

--- Deletes a snapshot. `DELETE /snapshots/{id}`
-- @tparam string id of the snapshot
-- @tparam[opt] table opts `timeout`
-- @treturn boolean|nil true
-- @treturn table err `not_found`, `conflict` while it is being made
function methods:delete_snapshot(id, opts)
  return snapshots.delete(core.state(self, "manager").connection_state, id, opts)
end

--- Frees the handle; using it afterwards raises.
-- @treturn boolean true
function methods:close()
  core.state(self, "manager", true)
  core.close(self)
  return true
end

core.methods("manager", methods, { __close = core.close })

return M
