--- What a sandbox may reach: `sandbox.egress`, the rules that its egress sidecar enforces now.
local core = require "opensandbox.core"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local json = require "opensandbox.json"
local options = require "opensandbox.options"
local record = require "opensandbox.record"
local target = require "opensandbox.target"

local M = {}

-- What the sidecar's plain texts do not say.
local HINTS = {
  [412] = "the sandbox needs network_policy and credential_proxy = {enabled = true} from its creation, and a moment until its proxy runs",
  [413] = "at most 4096 rules are possible: use wildcards",
  [426] = "secrets travel only by TLS or loopback: use an https domain, or use_server_proxy = true behind one",
}
local NO_SIDECAR = "a sandbox has an egress sidecar when it was created with network_policy"
local UNREACHABLE = { connect = true, dns = true, unavailable = true }

local policy_status = record {}

local function declare(id, method, more)
  local declaration = { id = id, plane = "egress", method = method, path = "/policy", returns = policy_status }
  for key, value in pairs(more or {}) do declaration[key] = value end
  return endpoint(declaration)
end

local get_policy = declare("getPolicy", "GET")
local patch_policy = declare("patchPolicy", "PATCH", { idempotent = true })
local delete_rules = declare("deletePolicyRules", "DELETE")
local replace_policy = declare("replacePolicy", "PUT")

local TIMEOUT = { type = "duration" }
local RULES = {
  type = "list", required = true, items = { action = { type = "string", required = true }, target = { type = "string", required = true } },
}

local check_call = options.declare("a call", { timeout = TIMEOUT })
local check_rules = options.declare("egress:patch", { rules = RULES })
local check_policy = options.declare("egress:replace", {
  default_action = { type = "string", default = "deny" }, egress = { type = "list", items = RULES.items, default = {} },
})

local ACTIONS = { allow = true, deny = true }

local function check_action(name, action)
  if not ACTIONS[action] then errors.raise(("%s must be \"allow\" or \"deny\", got %q"):format(name, action)) end
end

local function check_actions(rules)
  for i, rule in ipairs(rules) do check_action(("the action of rule %d"):format(i), rule.action) end
  return json.array(rules)
end

--- Calls the egress sidecar of a sandbox, for this part and for the vault: (state, endpoint, request, what) → its value, or nil, err.
function M.ask(state, call, request, what)
  local sidecar, err = target.plane(state, "egress", { timeout = request.timeout })
  if not sidecar then return nil, err end
  local answer
  answer, err = call(sidecar, request)
  if answer then return answer end
  errors.explain_unsupported(err, what)
  local hint = HINTS[err.status] or (UNREACHABLE[err.code] or err.code == "unsupported") and NO_SIDECAR
  if hint then err.message = ("%s (%s)"):format(err.message, hint) end
  return nil, err
end

local function ask(state, call, request)
  return M.ask(state, call, request, "egress policy")
end

local methods = {}

--- The policy in force. Endpoint: egress `GET /policy`.
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table `{status=, mode="deny_all"|"allow_all"|"enforcing", enforcement_mode=, reason=, policy={default_action=,
-- egress={{action=, target=}, …}}, raw=}`
-- @treturn[2] nil
-- @treturn[2] table err
function methods:policy(opts)
  local state = core.state(self, "egress")
  return ask(state, get_policy, { timeout = check_call(opts).timeout })
end

--- Adds rules before those there are; a rule for the same target takes the old one's place. Endpoint: egress `PATCH /policy`.
-- @tparam table rules list of `{action="allow"|"deny", target="*.example.com"}`; the first of a target wins
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table as `policy` gives it, but servers may leave the policy itself out
-- @treturn[2] nil
-- @treturn[2] table err status 413: too many rules
function methods:patch(rules, opts)
  local state = core.state(self, "egress")
  rules = check_actions(check_rules({ rules = rules }).rules)
  opts = check_call(opts)
  if #rules == 0 then errors.raise("rules must not be empty") end
  return ask(state, patch_policy, { json = rules, timeout = opts.timeout })
end

--- Removes the rules of targets; those that have none are fine. Endpoint: egress `DELETE /policy`.
-- @tparam string|table targets one, or a list
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table as `policy` gives it, but servers may leave the policy itself out
-- @treturn[2] nil
-- @treturn[2] table err
function methods:delete(targets, opts)
  local state = core.state(self, "egress")
  options.argument("targets", targets, { "string", "list" })
  if type(targets) == "string" then targets = { targets } end
  local list = json.array {}
  for i, name in ipairs(targets) do list[i] = options.argument(("targets[%d]"):format(i), name, "string") end
  opts = check_call(opts)
  if #list == 0 then errors.raise("targets must not be empty") end
  return ask(state, delete_rules, { json = list, timeout = opts.timeout })
end

--- Puts another policy in the place of the one in force. Endpoint: egress `PUT /policy`.
-- @tparam table policy `{default_action="deny", egress={{action=, target=}, …}}`
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table as `policy` gives it, but servers may leave the policy itself out
-- @treturn[2] nil
-- @treturn[2] table err
function methods:replace(policy, opts)
  local state = core.state(self, "egress")
  options.argument("policy", policy, "table")
  policy = check_policy(policy)
  check_action("default_action", policy.default_action)
  opts = check_call(opts)
  local body = { defaultAction = policy.default_action, egress = check_actions(policy.egress) }
  return ask(state, replace_policy, { json = body, timeout = opts.timeout })
end

core.methods("egress", methods)

return M
