-- Egress policy and credential vault against a scripted sidecar, which answers errors in plain text.
local cjson = require "cjson"
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"

describe("the egress sidecar", function()
  local server, routes, box

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)
  before_each(function()
    routes = faults.sandbox_routes(server)
    server:route("GET", "/v1/sandboxes/" .. routes.id .. "/endpoints/18080",
      faults.json(200, { endpoint = server.authority .. "/egress", headers = { ["OPENSANDBOX-EGRESS-AUTH"] = "egress-token" } }))
    box = assert(opensandbox.create(routes.options(opensandbox)))
  end)
  after_each(function()
    box:close()
    server:reset()
  end)

  local STATUS = { status = "ok", mode = "deny_all", enforcementMode = "dns", policy = {
    defaultAction = "deny", egress = { { action = "allow", target = "*.example.com" } },
  } }

  it("is not looked up before it is used", function()
    assert.equal(0, #server:requests("/v1/sandboxes/" .. routes.id .. "/endpoints/18080"))
  end)

  it("tells, patches, deletes from and replaces the policy", function()
    server:route(nil, "/egress/policy", faults.json(200, STATUS))
    local egress = box.egress
    local answer = assert(egress:policy())
    assert.equal("dns", answer.enforcement_mode)
    assert.equal("deny", answer.policy.default_action)
    assert.equal("*.example.com", answer.policy.egress[1].target)
    assert(egress:patch { { action = "allow", target = "a.org" }, { action = "deny", target = "*" } })
    assert(egress:delete "a.org")
    assert(egress:delete { "a.org", "b.org" })
    assert(egress:replace { egress = { { action = "allow", target = "c.org" } } })
    assert(egress:replace { default_action = "allow" })
    local sent = {}
    for i, request in ipairs(server:requests "/egress/policy") do
      sent[i] = request.method .. " " .. request.body
      assert.equal("egress-token", request.headers["opensandbox-egress-auth"])
      assert.is_nil(request.headers["open-sandbox-api-key"])
    end
    assert.same({
      "GET ", 'PATCH [{"action":"allow","target":"a.org"},{"action":"deny","target":"*"}]', 'DELETE ["a.org"]', 'DELETE ["a.org","b.org"]',
      'PUT {"defaultAction":"deny","egress":[{"action":"allow","target":"c.org"}]}', 'PUT {"defaultAction":"allow","egress":[]}',
    }, sent)
    for _, misuse in ipairs {
      function() egress:patch {} end, function() egress:patch() end, function() egress:delete {} end, function() egress:delete() end,
      function() egress:patch { { action = "maybe", target = "x" } } end, function() egress:replace { default_action = "maybe" } end,
      function() egress:replace() end, function() egress:patch { { action = "allow" } } end,
    } do
      assert.has_error(misuse)
    end
  end)

  it("explains its plain-text errors", function()
    local function refuse(status, text)
      server:route("GET", "/egress/policy", faults.answer(status, text, { ["Content-Type"] = "text/plain" }))
      return select(2, box.egress:policy { timeout = 1 })
    end
    local err = refuse(413, "too many rules\n")
    assert.equal(413, err.status)
    assert.equal("too many rules (at most 4096 rules are possible: use wildcards)", err.message)
    assert.equal("unauthorized", refuse(401, "unauthorized").code)
    assert.equal("api", refuse(500, "failed to apply").code)
    err = refuse(404, "404 page not found\n")
    assert.equal("unsupported", err.code)
    assert.matches("this server has no egress policy %(a sandbox has an egress sidecar when", err.message)
    server:route("GET", "/egress/policy", faults.answer(502, "Bad Gateway"))
    local mine = assert(opensandbox.create(routes.options(opensandbox, { retry = false })))
    err = select(2, mine.egress:policy())
    assert.equal("unavailable", err.code)
    assert.matches("network_policy", err.message)
  end)

  describe("'s vault", function()
    local STATE = {
      revision = 2, credentials = { { name = "github", sourceType = "inline", revision = 1 } },
      bindings = { { name = "api", revision = 2, match = { hosts = { "api.github.com" } }, auth = { type = "bearer" } } },
    }
    local SECRET = 'pass"word\\%d\n'

    local function new_vault()
      return {
        credentials = { { name = "github", value = SECRET } },
        bindings = { {
          name = "api", match = { hosts = { "api.github.com" }, schemes = { "https" } }, auth = { type = "bearer", credential = "github" },
          substitutions = { { credential = "github", placeholder = "@@", ["in"] = { "body" } } },
        } },
      }
    end

    it("is created, read, changed and deleted, with revisions", function()
      server:route("POST", "/egress/credential-vault", faults.json(201, STATE))
      server:route("GET", "/egress/credential-vault", faults.json(200, STATE))
      server:route("PATCH", "/egress/credential-vault", faults.json(200, STATE), faults.answer(409, "revision is 3"))
      server:route("DELETE", "/egress/credential-vault", faults.answer(204))
      local vault = box.vault
      local state = assert(vault:create(new_vault()))
      assert.equal(2, state.revision)
      assert.equal("inline", state.credentials[1].source_type)
      assert.equal("api.github.com", state.bindings[1].match.hosts[1])
      assert.equal(2, assert(vault:get()).revision)
      assert(vault:patch {
        expected_revision = 2, credentials = { replace = { { name = "github", value = "new" } }, delete = { "old" } },
        bindings = { add = new_vault().bindings },
      })
      assert.equal("conflict", select(2, vault:patch { expected_revision = 1, credentials = { delete = {} } }).code)
      assert.is_true(vault:delete())
      local bodies = {}
      for _, request in ipairs(server:requests "/egress/credential-vault") do
        if request.body ~= "" then bodies[#bodies + 1] = request.body end
      end
      local created = cjson.decode(bodies[1])
      assert.same({ { name = "github", source = { type = "inline", value = SECRET } } }, created.credentials)
      assert.same(new_vault().bindings, created.bindings)
      assert.same({
        expectedRevision = 2, bindings = { add = new_vault().bindings },
        credentials = { replace = { { name = "github", source = { type = "inline", value = "new" } } }, delete = { "old" } },
      }, cjson.decode(bodies[2]))
      assert.equal('{"credentials":{"delete":[]},"expectedRevision":1}', bodies[3])
    end)

    it("tells of credentials and bindings without values", function()
      server:route("GET", "/egress/credential-vault/credentials", faults.json(200, { revision = 2, credentials = STATE.credentials }))
      server:route("GET", "/egress/credential-vault/credentials/a%2Fb", faults.json(200, STATE.credentials[1]))
      server:route("GET", "/egress/credential-vault/bindings", faults.json(200, { revision = 2, bindings = STATE.bindings }))
      server:route("GET", "/egress/credential-vault/bindings/api", faults.json(200, STATE.bindings[1]),
        faults.answer(404, "no such binding"))
      assert.equal("github", assert(box.vault:credentials()).credentials[1].name)
      assert.equal(1, assert(box.vault:credential "a/b").revision)
      assert.equal("api", assert(box.vault:bindings()).bindings[1].name)
      assert.equal("bearer", assert(box.vault:binding "api").auth.type)
      assert.equal("not_found", select(2, box.vault:binding "api").code)
      assert.has_error(function() box.vault:binding "" end)
    end)

    it("explains what stands in its way", function()
      local function refuse(status, text)
        server:route("POST", "/egress/credential-vault", faults.answer(status, text))
        return select(2, box.vault:create(new_vault()))
      end
      assert.matches("credential_proxy = {enabled = true}", refuse(412, "proxy is not ready").message, 1, true)
      assert.matches("TLS or loopback", refuse(426, "credential vault writes require TLS or loopback transport").message, 1, true)
      assert.equal("conflict", refuse(409, "exists").code)
      assert.equal("unsupported", refuse(404, "404 page not found").code)
    end)

    it("never shows a secret: not in errors, not in debug output, not in what misuse raises", function()
      local events = {}
      local mine = assert(opensandbox.create(routes.options(opensandbox, { debug = function(event)
        events[#events + 1] = event.method .. event.url .. tostring(event.error)
      end })))
      server:route("POST", "/egress/credential-vault",
        faults.answer(400, ("bad value %s in %s"):format(SECRET, cjson.encode { value = SECRET })))
      local _, err = mine.vault:create(new_vault())
      local texts = { tostring(err), err.message, err.body, table.concat(events) }
      local _, misuse = pcall(function()
        mine.vault:create { credentials = { { name = "x", value = SECRET } }, bindings = { { name = "b", match = {}, auth = {} } } }
      end)
      texts[#texts + 1] = tostring(misuse)
      for _, text in ipairs(texts) do assert.is_nil(text:find("pass\"word", 1, true) or text:find("pass\\\"word", 1, true), text) end
      assert.matches("bad value %*%*%*", err.body)
    end)
  end)
end)
