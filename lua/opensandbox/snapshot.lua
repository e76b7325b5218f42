--- Snapshots of sandboxes: what `sandbox:create_snapshot` and the manager's snapshot methods do.
local core = require "opensandbox.core"
local defaults = require "opensandbox.defaults"
local errors = require "opensandbox.errors"
local lifecycle = require "opensandbox.lifecycle"
local options = require "opensandbox.options"
local pages = require "opensandbox.pages"
local target = require "opensandbox.target"
local task = require "opensandbox.task"

local M = {}

local FIRST_PAUSE, LONGEST_PAUSE = 0.2, 2 -- seconds between two looks

local FILTER_FIELDS = {
  sandbox_id = { type = "string" }, states = { type = "list", of = "string" }, name = { type = "string" },
  page = { type = "integer" }, page_size = { type = "integer" }, timeout = { type = "duration" },
}

local check_create = options.declare("create_snapshot", {
  name = { type = "string" }, wait = { type = "boolean", default = false },
  ready_timeout = { type = "duration", default = defaults.snapshot_ready_timeout }, timeout = { type = "duration" },
})
local check_list = options.declare("list_snapshots", FILTER_FIELDS)
local check_call = options.declare("a call", { timeout = { type = "duration" } })

local function ask(connection_state, call, request)
  local server, err = target.lifecycle(connection_state)
  if not server then return nil, err end
  return call(server, request)
end

local function check_id(id)
  options.argument("id", id, "string")
  if id == "" then errors.raise("id must not be empty") end
  return id
end

--- Waits until a snapshot is Ready.
local function wait_ready(connection_state, snapshot, opts)
  local deadline, pause = core.now() + opts.ready_timeout, FIRST_PAUSE
  while true do
    local status = snapshot.status or {}
    if status.state == "Ready" then return snapshot end
    local reason = status.message or status.reason
    local function not_ready(text, retryable)
      return errors.new {
        code = "not_ready", message = ("snapshot %s %s%s"):format(snapshot.id, text, reason and " (" .. reason .. ")" or ""),
        retryable = retryable, partial = snapshot,
      }
    end
    if status.state == "Failed" or status.state == "Deleting" then return nil, not_ready("is " .. status.state, false) end
    if core.now() >= deadline then
      return nil, not_ready(("is still %s after %g s"):format(tostring(status.state), opts.ready_timeout))
    end
    task.sleep(math.max(0, math.min(pause, deadline - core.now())))
    pause = math.min(pause * 1.5, LONGEST_PAUSE)
    local answer, err = ask(connection_state, lifecycle.get_snapshot, { params = { id = snapshot.id } })
    if answer then
      snapshot = answer
    elseif not err.retryable or core.now() >= deadline then
      err.partial = snapshot
      return nil, err
    end
  end
end

--- Makes a snapshot of a sandbox: see `sandbox:create_snapshot`.
function M.create(connection_state, sandbox_id, opts)
  opts = check_create(opts)
  local snapshot, err = ask(connection_state, lifecycle.create_snapshot, {
    params = { id = sandbox_id }, json = { name = opts.name }, timeout = opts.timeout,
  })
  if not snapshot then return nil, err end
  if type(snapshot.id) ~= "string" then return nil, errors.transport("decode", "the server made a snapshot without telling its id") end
  if not opts.wait then return snapshot end
  return wait_ready(connection_state, snapshot, opts)
end

--- One snapshot: see `manager:get_snapshot`.
function M.get(connection_state, id, opts)
  check_id(id)
  return ask(connection_state, lifecycle.get_snapshot, { params = { id = id }, timeout = check_call(opts).timeout })
end

--- Deletes a snapshot: see `manager:delete_snapshot`.
function M.delete(connection_state, id, opts)
  check_id(id)
  return ask(connection_state, lifecycle.delete_snapshot, { params = { id = id }, timeout = check_call(opts).timeout })
end

local function list(connection_state, opts, page)
  local query = {}
  if opts.sandbox_id then query[1] = { "sandboxId", opts.sandbox_id } end
  for _, name in ipairs(opts.states or {}) do query[#query + 1] = { "state", name } end
  if opts.name then query[#query + 1] = { "name", opts.name } end
  pages.add_to_query(query, page, opts.page_size)
  return ask(connection_state, lifecycle.list_snapshots, { query = query, timeout = opts.timeout })
end

--- One page of snapshots: see `manager:list_snapshots`.
function M.list(connection_state, opts)
  opts = check_list(opts)
  return list(connection_state, opts, opts.page)
end

--- All snapshots, a page at a time: see `manager:each_snapshot`.
function M.each(connection_state, opts)
  opts = check_list(opts)
  return pages.each(opts.page, function(page) return list(connection_state, opts, page) end)
end

return M
