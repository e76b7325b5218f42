--- Credentials that the sandbox's proxy puts into outgoing requests, so that code inside never sees them: `sandbox.vault`.
--
-- Their values are write-only: the server never gives them back, and they are masked wherever it repeats them in an error.
local core = require "opensandbox.core"
local egress = require "opensandbox.egress"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local json = require "opensandbox.json"
local options = require "opensandbox.options"
local record = require "opensandbox.record"

local vault_state = record {}

local function declare(id, method, path, more)
  local declaration = { id = id, plane = "egress", method = method, path = path, returns = vault_state }
  for key, value in pairs(more or {}) do declaration[key] = value end
  return endpoint(declaration)
end

local create_vault = declare("createCredentialVault", "POST", "/credential-vault")
local get_vault = declare("getCredentialVault", "GET", "/credential-vault")
local patch_vault = declare("patchCredentialVault", "PATCH", "/credential-vault")
local delete_vault = endpoint { id = "deleteCredentialVault", plane = "egress", method = "DELETE", path = "/credential-vault" }
local list_credentials = declare("listCredentials", "GET", "/credential-vault/credentials")
local get_credential = declare("getCredential", "GET", "/credential-vault/credentials/{name}")
local list_bindings = declare("listCredentialBindings", "GET", "/credential-vault/bindings")
local get_binding = declare("getCredentialBinding", "GET", "/credential-vault/bindings/{name}")

local NEEDED, TEXT = { type = "string", required = true }, { type = "string" }
local TEXTS = { type = "list", of = "string" }

local CREDENTIALS = { type = "list", items = { name = NEEDED, value = NEEDED } }
local BINDINGS = { type = "list", items = {
  name = NEEDED,
  match = { type = "table", required = true, fields = {
    hosts = { type = "list", of = "string", required = true }, schemes = TEXTS, ports = { type = "list", of = "integer" },
    methods = TEXTS, paths = TEXTS,
  } },
  auth = { type = "table", required = true, fields = {
    type = NEEDED, credential = TEXT, name = TEXT, headers = { type = "list", items = { name = NEEDED, credential = NEEDED } },
  } },
  substitutions = { type = "list", items = { credential = NEEDED, placeholder = NEEDED, ["in"] = TEXTS } },
} }

local function mutation(items)
  return { type = "table", fields = { add = items, replace = items, delete = TEXTS } }
end

local check_call = options.declare("a call", { timeout = { type = "duration" } })
local check_create = options.declare("vault:create", {
  credentials = { type = "list", items = CREDENTIALS.items, required = true },
  bindings = { type = "list", items = BINDINGS.items, required = true }, timeout = { type = "duration" },
})
local check_patch = options.declare("vault:patch", {
  expected_revision = { type = "integer" }, credentials = mutation(CREDENTIALS), bindings = mutation(BINDINGS),
  timeout = { type = "duration" },
})

--- Credentials as the wire has them; their values are added to `secrets`.
local function wire_credentials(credentials, secrets)
  if not credentials then return nil end
  local list = json.array {}
  for i, credential in ipairs(credentials) do
    secrets[#secrets + 1] = credential.value
    list[i] = { name = credential.name, source = { type = "inline", value = credential.value } }
  end
  return list
end

local function ask(state, call, request)
  return egress.ask(state, call, request, "credential vault")
end

local methods = {}

--- Makes the vault of the sandbox. Endpoint: egress `POST /credential-vault`.
-- @tparam table opts
--
-- * `credentials` list of `{name=, value=}`; the values are secrets
-- * `bindings` list of `{name=, match={hosts={…}, schemes=, ports=, methods=, paths=}, auth={type="bearer"|"basic"|"apiKey"|
--   "customHeaders"|"passthrough", credential=, name=, headers={{name=, credential=}}}, substitutions={{credential=, placeholder=,
--   ["in"]={…}}}}`
-- * `timeout` in seconds
--
-- @treturn[1] table `{revision=, credentials={{name=, source_type=, revision=}, …}, bindings={{name=, revision=, match=, auth=}, …}}`
-- @treturn[2] nil
-- @treturn[2] table err `conflict` where there is one; status 412: its proxy is not ready; 426: the way there is not secure
function methods:create(opts)
  local state = core.state(self, "vault")
  opts = check_create(opts)
  local secrets = {}
  local body = { credentials = wire_credentials(opts.credentials, secrets), bindings = record.to_wire(json.array(opts.bindings)) }
  return ask(state, create_vault, { json = body, secrets = secrets, timeout = opts.timeout })
end

--- What the vault holds, without values. Endpoint: egress `GET /credential-vault`.
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table as `create` gives it
-- @treturn[2] nil
-- @treturn[2] table err `not_found` where there is none
function methods:get(opts)
  local state = core.state(self, "vault")
  return ask(state, get_vault, { timeout = check_call(opts).timeout })
end

local function wire_mutation(change, convert)
  if not change then return nil end
  return {
    add = change.add and convert(change.add), replace = change.replace and convert(change.replace),
    delete = change.delete and json.array(change.delete),
  }
end

--- Changes the vault: all of it or nothing. Endpoint: egress `PATCH /credential-vault`.
-- @tparam table opts `credentials` and `bindings`: each `{add={…}, replace={…}, delete={names}}`, items as for `create`;
-- `expected_revision` (fail where the vault is not of this revision), `timeout` in seconds
-- @treturn[1] table as `create` gives it
-- @treturn[2] nil
-- @treturn[2] table err `conflict` where the revision is another one or a name is taken
function methods:patch(opts)
  local state = core.state(self, "vault")
  opts = check_patch(opts)
  local secrets = {}
  local body = {
    expectedRevision = opts.expected_revision,
    credentials = wire_mutation(opts.credentials, function(list) return wire_credentials(list, secrets) end),
    bindings = wire_mutation(opts.bindings, function(list) return record.to_wire(json.array(list)) end),
  }
  return ask(state, patch_vault, { json = body, secrets = secrets, timeout = opts.timeout })
end

--- Deletes the vault with all that is in it. Endpoint: egress `DELETE /credential-vault`.
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err `not_found`
function methods:delete(opts)
  local state = core.state(self, "vault")
  return ask(state, delete_vault, { timeout = check_call(opts).timeout })
end

local function lister(call)
  return function(self, opts)
    local state = core.state(self, "vault")
    return ask(state, call, { timeout = check_call(opts).timeout })
  end
end

local function getter(call)
  return function(self, name, opts)
    local state = core.state(self, "vault")
    options.argument("name", name, "string")
    if name == "" then errors.raise("name must not be empty") end
    return ask(state, call, { params = { name = name }, timeout = check_call(opts).timeout })
  end
end

--- The credentials, without values. Endpoint: egress `GET /credential-vault/credentials`.
-- @function methods:credentials
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table `{revision=, credentials={{name=, source_type=, revision=}, …}}`
-- @treturn[2] nil
-- @treturn[2] table err `not_found` where there is no vault
methods.credentials = lister(list_credentials)

--- One credential, without its value. Endpoint: egress `GET /credential-vault/credentials/{name}`.
-- @function methods:credential
-- @tparam string name
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table `{name=, source_type=, revision=}`
-- @treturn[2] nil
-- @treturn[2] table err `not_found`
methods.credential = getter(get_credential)

--- The bindings. Endpoint: egress `GET /credential-vault/bindings`.
-- @function methods:bindings
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table `{revision=, bindings={{name=, revision=, match=, auth=}, …}}`
-- @treturn[2] nil
-- @treturn[2] table err `not_found` where there is no vault
methods.bindings = lister(list_bindings)

--- One binding. Endpoint: egress `GET /credential-vault/bindings/{name}`.
-- @function methods:binding
-- @tparam string name
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table `{name=, revision=, match=, auth=}`
-- @treturn[2] nil
-- @treturn[2] table err `not_found`
methods.binding = getter(get_binding)

core.methods("vault", methods)
