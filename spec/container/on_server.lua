-- Our execd under the official lifecycle server: run by ./dev container, which says where that server is.
local opensandbox = require "opensandbox"

describe("our execd in a container of the official server", function()
  local image = assert(os.getenv "OPEN_SANDBOX_IMAGE", "run me by ./dev container")
  local box

  setup(function()
    box = assert(opensandbox.create { image = image, env = { FROM_CREATE = "yes" }, metadata = { suite = "container" } })
  end)

  teardown(function()
    if not box then return end
    assert(box:kill())
    assert.equal("not_found", select(2, opensandbox.manager():get(box.id)).code)
    box:close()
  end)

  it("is the one that answers", function()
    assert.truthy(assert(box.commands:run "tr '\\0' ' ' < /proc/$PPID/cmdline").stdout:find("opensandbox-execd", 1, true))
  end)

  it("runs commands with the container's environment", function()
    local run = assert(box.commands:run "echo $FROM_CREATE; id -u; exit 7")
    assert.equal("yes\n0", run.stdout)
    assert.equal(7, run.exit_code)
  end)

  it("moves files", function()
    local bytes = ("\0\1\255x"):rep(250000)
    assert(box.files:write("/srv/deep/binary", bytes, { mode = "640", owner = "nobody", group = "nogroup" }))
    assert.is_true(bytes == assert(box.files:read "/srv/deep/binary"))
    local info = assert(box.files:info "/srv/deep/binary")
    assert.same({ "640", "nobody", "nogroup", #bytes }, { info.mode, info.owner, info.group, info.size })
    assert(box.files:remove "/srv/deep/binary")
    assert.is_false(box.files:exists "/srv/deep/binary")
  end)

  it("is reached through the server's proxy too", function()
    local proxied = assert(opensandbox.connect(box.id, { connection = opensandbox.connection { use_server_proxy = true } }))
    assert.equal("proxied", assert(proxied.commands:run "echo proxied").stdout)
    proxied:close()
  end)

  it("is paused and resumed with its container", function()
    assert(box:pause())
    assert.equal("Paused", assert(box:info()).status.state)
    assert(box:resume())
    assert.equal("back", assert(box.commands:run "echo back").stdout)
  end)
end)
