--- Making a sandbox: the options of `opensandbox.create` and the request they become.
local defaults = require "opensandbox.defaults"
local errors = require "opensandbox.errors"
local json = require "opensandbox.json"
local options = require "opensandbox.options"
local record = require "opensandbox.record"

local M = {}

local NAME = { type = "string" }
local NEEDED = { type = "string", required = true }
local FLAG = { type = "boolean" }

local VOLUME = {
  name = NEEDED, mount_path = NEEDED, read_only = FLAG, sub_path = NAME,
  host = { type = "table", fields = { path = NEEDED } },
  pvc = { type = "table", fields = {
    claim_name = NEEDED, create_if_not_exists = FLAG, delete_on_sandbox_termination = FLAG, storage_class = NAME, storage = NAME,
    access_modes = { type = "list", of = "string" },
  } },
  ossfs = { type = "table", fields = {
    bucket = NEEDED, endpoint = NEEDED, version = NAME, options = { type = "list", of = "string" }, access_key_id = NAME,
    access_key_secret = NAME,
  } },
}

local FIELDS = {
  image = { type = { "string", "table" } }, snapshot_id = NAME,
  timeout = { type = { "duration", "false" } },
  entrypoint = { type = "list", of = "string" },
  resource = { type = "map", of = "string" },
  env = { type = "map", of = { "string", "null" } },
  metadata = { type = "map", of = "string" },
  extensions = { type = "map", of = "string" },
  platform = { type = "table", fields = { os = NEEDED, arch = NEEDED } },
  network_policy = { type = "table", fields = {
    default_action = { type = "string", default = "deny" },
    egress = { type = "list", items = { action = NEEDED, target = NEEDED } },
  } },
  credential_proxy = { type = "table", fields = { enabled = { type = "boolean", required = true } } },
  secure_access = FLAG,
  network = NAME,
  volumes = { type = "list", items = VOLUME },
  extra = { type = "map" },
  connection = { type = { "connection", "table" } },
  request_timeout = { type = "duration", default = defaults.create_request_timeout },
  ready_timeout = { type = "duration", default = defaults.ready_timeout },
  health_check = { type = "function" },
  health_check_interval = { type = "duration", default = defaults.health_check_interval },
  skip_health_check = { type = "boolean", default = false },
}

local check_image = options.declare("image", {
  uri = NEEDED, auth = { type = "table", fields = { username = NEEDED, password = NEEDED } },
})
local check_fields = options.declare("create", FIELDS, { exclusive = { { "image", "snapshot_id" } } })

local NETWORKS = { proxy = true, none = true, host = true }

local function check_volumes(volumes)
  for i, volume in ipairs(volumes or {}) do
    local count = (volume.host and 1 or 0) + (volume.pvc and 1 or 0) + (volume.ossfs and 1 or 0)
    if count ~= 1 then errors.raise(("option 'volumes[%d]' needs exactly one of host, pvc and ossfs"):format(i)) end
  end
end

--- Checks the options of `opensandbox.create`; raises at the user's line.
function M.check(given)
  local opts = check_fields(given)
  if type(opts.image) == "table" then opts.image = check_image(opts.image) end
  if opts.timeout == 0 then errors.raise("option 'timeout' must be more than 0 seconds (false: no expiry)") end
  if opts.network and not NETWORKS[opts.network] then errors.raise("option 'network' must be 'proxy', 'none' or 'host'") end
  check_volumes(opts.volumes)
  return opts
end

local function image_of(opts, embedded)
  local image = opts.image
  if not image and not opts.snapshot_id then
    if not embedded then errors.raise("option 'image' (or 'snapshot_id') is missing") end
    image = "host"
  end
  return type(image) == "string" and { uri = image } or image
end

local function timeout_of(opts, embedded)
  local timeout = opts.timeout
  if timeout == nil then timeout = not embedded and defaults.timeout end
  return timeout and math.ceil(timeout) or nil
end

local function extensions_of(opts)
  if not opts.network then return opts.extensions end
  local extensions = { ["runtime.network"] = opts.network }
  for key, value in pairs(opts.extensions or {}) do extensions[key] = value end
  return extensions
end

--- The body of the create request.
-- @tparam table opts checked options
-- @tparam boolean embedded is this for the embedded runtime?
-- @treturn table
function M.body(opts, embedded)
  local image = image_of(opts, embedded)
  local entrypoint = opts.entrypoint or image and defaults.entrypoint
  local body = {
    image = image, snapshotId = opts.snapshot_id, timeout = timeout_of(opts, embedded),
    entrypoint = entrypoint and json.array(entrypoint), resourceLimits = opts.resource or defaults.resource, env = opts.env,
    metadata = opts.metadata, extensions = extensions_of(opts), platform = opts.platform, credentialProxy = opts.credential_proxy,
    secureAccess = opts.secure_access,
    networkPolicy = opts.network_policy and record.to_wire(opts.network_policy),
    volumes = opts.volumes and record.to_wire(json.array(opts.volumes)),
  }
  for key, value in pairs(opts.extra or {}) do body[key] = value end
  return body
end

--- What of the options no error may repeat.
function M.secrets(opts)
  local secrets = {}
  local auth = type(opts.image) == "table" and opts.image.auth
  if auth then secrets[1] = auth.password end
  for _, volume in ipairs(opts.volumes or {}) do
    if volume.ossfs then secrets[#secrets + 1] = volume.ossfs.access_key_secret end
  end
  return secrets
end

local LOST = { timeout = true, network = true, truncated = true, protocol = true, decode = true, limit = true, unavailable = true }

--- Where the answer to a create request was lost, says so in its error: a sandbox may exist.
-- @tparam table err
-- @tparam table opts options of create
-- @treturn table err the same
function M.explain_lost_answer(err, opts)
  if not LOST[err.code] or err.status == 503 then return err end
  local filter = {}
  for key, value in pairs(opts.metadata or {}) do filter[#filter + 1] = ("[%q]=%q"):format(key, value) end
  table.sort(filter)
  local how = #filter > 0 and ("list{metadata={%s}}"):format(table.concat(filter, ", ")) or "list{}, newest first,"
  err.message = ("%s; the answer to the create request was lost, so a sandbox may exist: opensandbox.manager{…}:%s shows it"):format(
    err.message, how)
  err.retryable = false
  return err
end

return M
