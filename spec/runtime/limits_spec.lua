-- What one sandbox may use of the machine, and that its excesses are its own trouble.
local runtimes = require "spec.support.runtime"

local as_root = runtimes.user_id() == 0
local users = as_root and { root = false, ["an ordinary user"] = runtimes.STRANGER } or { ["an ordinary user"] = false }

for who, user in pairs(users) do
  describe("limits of a runtime of " .. who .. ":", function()
    local runtime

    setup(function() runtime = runtimes.start { user = user or nil } end)
    teardown(function() runtime:stop() end)
    after_each(function()
      local _, all = runtime:request("GET", "/sandboxes?pageSize=200")
      for _, item in ipairs(all.items) do runtime:request("DELETE", "/sandboxes/" .. item.id) end
    end)

    local function create(limits) return runtime:create { resourceLimits = limits } end
    local function limits_of(id) return select(2, runtime:request("GET", "/v1/sandboxes/" .. id)).runtime.limits end

    --- The runtime answers, and another sandbox works.
    local function check_others(other)
      assert.equal(200, (runtime:request("GET", "/health")))
      assert.equal("fine", (runtime:run(other, "echo fine; : >/tmp/f")))
    end

    it("a memory hog is killed, not its sandbox", function()
      local other = create { cpu = "1" }
      local id = create { memory = "64Mi" }
      if limits_of(id).memory == "none" then
        pending("with AddressSanitizer there is no limit of memory without control groups")
        return
      end
      local text, code = runtime:run(id, "head -c 200M /dev/zero | tail >/dev/null; echo \"tail ${PIPESTATUS[1]}\"; exit 0")
      local status = text:match "tail (%d+)"
      assert.is_true(status == "137" or status == "1", text) -- killed, or out of memory by its own account
      if limits_of(id).memory == "cgroup" then assert.equal("137", status) end
      assert.equal(0, code)
      assert.equal("on", (runtime:run(id, "echo on")))
      check_others(other)
    end)

    it("many processes that each keep to it are together too much, where there are control groups", function()
      local id = create { memory = "64Mi" }
      if limits_of(id).memory ~= "cgroup" then
        pending("no memory control group for this user here")
        return
      end
      local text = runtime:run(id, "for i in 1 2 3; do head -c 40M /dev/zero | (tail >/dev/null; echo \"end $?\") >&2 & done; wait")
      local _, killed = (text .. "\n"):gsub("end 137", "")
      assert.is_true(killed >= 1, text)
    end)

    it("a processor's share is what was asked for, where there are control groups", function()
      local id = create { cpu = "100m" }
      if limits_of(id).cpu ~= "cgroup" then
        pending("no cpu control group for this user here")
        return
      end
      local _, err = runtime:run(id, "timeout 1 sh -c 'while :; do :; done'")
      assert.equal(124, err)
      -- user and system time of all children: a tenth of the second, not all of it
      local used = runtime:run(id, "timeout 1 sh -c 'while :; do :; done'; times | tail -n 1")
      local seconds = tonumber(used:match "m(%d+%.%d+)s")
      assert.is_true(seconds < 0.6, used)
    end)

    it("a fork bomb stays inside", function()
      local other, id = create { cpu = "1" }, create { cpu = "500m", memory = "256Mi" }
      runtime:run(id, "bomb() { bomb | bomb & }; bomb >/dev/null 2>&1 & sleep 0.5")
      check_others(other)
      assert.equal(204, (runtime:request("DELETE", "/v1/sandboxes/" .. id)))
      check_others(other)
    end)

    it("a full disk is the sandbox's alone", function()
      local other, id = create { cpu = "1" }, create { memory = "256Mi" }
      local _, code = runtime:run(id, "head -c 100M /dev/zero >/run/big")
      assert.is_not_equal(0, code)
      check_others(other)
    end)

    it("quantities are those of Kubernetes", function()
      for _, limits in ipairs { { cpu = "1" }, { cpu = "0.5", memory = "1Gi" }, { cpu = "250m", memory = "512M", gpu = "1" },
        { memory = "134217728" }, { memory = "65536Ki" } } do
        create(limits)
      end
      for _, limits in ipairs { { cpu = "x" }, { cpu = "-1" }, { cpu = "1x" }, { cpu = "0" }, { memory = "1" }, { memory = "" },
        { memory = "0x10Mi" }, { memory = "9999999Ti" }, { memory = "inf" } } do
        local status, body = runtime:request("POST", "/v1/sandboxes", { json = runtimes.body { resourceLimits = limits } })
        assert.same({ 400, "SANDBOX::INVALID_PARAMETER" }, { status, body.code })
      end
    end)
  end)
end

describe("control groups", function()
  it("are gone with the runtime, however it ended", function()
    for _, signal in ipairs { 0, 9 } do
      local runtime = runtimes.start()
      runtime:create { resourceLimits = { cpu = "1", memory = "64Mi" } }
      runtime:run(runtime:create(), "sleep 1000 &")
      local name = runtimes.entries(runtime.state)[1]
      local processes = runtime:processes()
      if signal == 9 then
        runtime.process:kill(9)
        runtime:await_end(processes)
      end
      runtime:stop()
      assert.is_nil(runtimes.shell("find /sys/fs/cgroup -name " .. name .. " 2>/dev/null"))
    end
  end)
end)
