--- The endpoints of the lifecycle server and what they answer with.
local endpoint = require "opensandbox.endpoint"
local record = require "opensandbox.record"

local M = {}

local status = record { lastTransitionAt = record.time }

--- A sandbox as the server describes it.
M.sandbox = record {
  status = status, metadata = record.verbatim, extensions = record.verbatim, createdAt = record.time, expiresAt = record.time,
}

local snapshot = record { status = status, createdAt = record.time }
local diagnostics = record { expiresAt = record.time }

local function declare(id, method, path, more)
  local declaration = { id = id, plane = "lifecycle", method = method, path = path }
  for key, value in pairs(more or {}) do declaration[key] = value end
  return endpoint(declaration)
end

M.create = declare("createSandbox", "POST", "/sandboxes", { returns = M.sandbox })
M.list = declare("listSandboxes", "GET", "/sandboxes", { returns = record { items = record.list(M.sandbox), pagination = record {} } })
M.get = declare("getSandbox", "GET", "/sandboxes/{id}", { returns = M.sandbox })
M.kill = declare("deleteSandbox", "DELETE", "/sandboxes/{id}")
M.pause = declare("pauseSandbox", "POST", "/sandboxes/{id}/pause")
M.resume = declare("resumeSandbox", "POST", "/sandboxes/{id}/resume")
M.renew = declare("renewSandboxExpiration", "POST", "/sandboxes/{id}/renew-expiration", {
  returns = record { expiresAt = record.time }, idempotent = true,
})
M.patch_metadata = declare("patchSandboxMetadata", "PATCH", "/sandboxes/{id}/metadata", { returns = M.sandbox, idempotent = true })
M.endpoint = declare("getSandboxEndpoint", "GET", "/sandboxes/{id}/endpoints/{port}", { returns = record { headers = record.verbatim } })
M.create_snapshot = declare("createSnapshot", "POST", "/sandboxes/{id}/snapshots", { returns = snapshot })
M.list_snapshots = declare("listSnapshots", "GET", "/snapshots", {
  returns = record { items = record.list(snapshot), pagination = record {} },
})
M.get_snapshot = declare("getSnapshot", "GET", "/snapshots/{id}", { returns = snapshot })
M.delete_snapshot = declare("deleteSnapshot", "DELETE", "/snapshots/{id}")
M.diagnostic_logs = declare("getDiagnosticLogs", "GET", "/sandboxes/{id}/diagnostics/logs", { returns = diagnostics })
M.diagnostic_events = declare("getDiagnosticEvents", "GET", "/sandboxes/{id}/diagnostics/events", { returns = diagnostics })

return M
