-- Volumes: host directories under an allow list, and named ones that outlive sandboxes.
local runtimes = require "spec.support.runtime"

local as_root = runtimes.user_id() == 0
local users = as_root and { root = false, ["an ordinary user"] = runtimes.STRANGER } or { ["an ordinary user"] = false }

for who, user in pairs(users) do
  describe("volumes of a runtime of " .. who .. ",", function()
    local runtime, allowed

    setup(function()
      allowed = runtimes.directory(user or nil)
      runtime = runtimes.start { user = user or nil, env = { OPENSANDBOX_ALLOWED_HOST_PATHS = "/nonexistent:" .. allowed .. "/" } }
    end)
    teardown(function()
      runtime:stop()
      os.execute("rm -rf " .. allowed)
    end)
    after_each(function()
      local _, all = runtime:request("GET", "/sandboxes?pageSize=200")
      for _, item in ipairs(all.items) do runtime:request("DELETE", "/sandboxes/" .. item.id) end
    end)

    --- Runs a command as the owner of the allowed directory.
    local function outside(command)
      local prefix = user and table.concat(runtimes.as_user(user), " ") .. " " or ""
      return runtimes.shell(("cd %s && %ssh -c '%s' 2>&1"):format(allowed, prefix, command))
    end

    local function volume(fields)
      local all = { name = "v", mountPath = "/mnt/v" }
      for key, value in pairs(fields) do all[key] = value end
      return all
    end

    local function create(...) return runtime:create { volumes = { ... } } end
    local function named(name, fields)
      local all = volume(fields or {})
      all.pvc = all.pvc or {}
      all.pvc.claimName = name
      return all
    end

    local function refusal(...)
      local status, body = runtime:request("POST", "/v1/sandboxes", { json = runtimes.body { volumes = { ... } } })
      return status .. " " .. (body.code or "detail"), body.message
    end

    it("hold the owner's files, and take files that are the owner's", function()
      outside "mkdir -p data; echo marker >data/in; chmod 600 data/in"
      local id = create(volume { host = { path = allowed .. "/data" } })
      assert.equal("marker\n0", (runtime:run(id, "cat /mnt/v/in; stat -c %u /mnt/v/in")))
      assert.equal("", (runtime:run(id, "echo back >/mnt/v/out && mkdir /mnt/v/d && touch /mnt/v/d/f")))
      assert.equal("back", outside "cat data/out")
      assert.equal(outside "stat -c %u:%g data", outside "stat -c %u:%g data/d/f")
    end)

    it("refuse writing when read-only", function()
      outside "mkdir -p ro; echo kept >ro/f"
      local id = create(volume { host = { path = allowed .. "/ro" }, readOnly = true, mountPath = "/data" })
      local text, code = runtime:run(id, "cat /data/f; touch /data/g || echo x >/data/f || mount -o remount,rw /data")
      assert.matches("^kept\n", text)
      assert.is_not_equal(0, code)
      assert.equal("f", outside "ls ro")
    end)

    it("make a missing directory, and take a part of one", function()
      local id = create(volume { host = { path = allowed .. "/new/deep" }, subPath = "sub/./path" })
      runtime:run(id, "touch /mnt/v/here")
      assert.equal("here", outside "ls new/deep/sub/path")
    end)

    it("keep what is outside of them outside", function()
      outside "mkdir -p box secret; echo secret >secret/f; ln -s ../secret box/up; ln -s /etc box/etc; echo x >file"
      local id = create(volume { host = { path = allowed .. "/box" } })
      local text = runtime:run(id, "cat /mnt/v/up/f; cat /mnt/v/../secret/f; ls " .. allowed)
      assert.is_nil(text:find("secret\n", 1, true))
      -- nothing was left open through which to climb
      for pid in pairs(runtime:processes()) do
        assert.is_nil(runtimes.shell(("ls -l /proc/%d/fd 2>/dev/null | grep -e '%s/box'"):format(pid, allowed)))
      end
      assert.equal("400 VOLUME::HOST_PATH_NOT_ALLOWED", (refusal(volume { host = { path = allowed .. "/box/etc" } })))
      assert.equal("400 VOLUME::INVALID_HOST_PATH", (refusal(volume { host = { path = allowed .. "/../etc" } })))
      assert.equal("400 VOLUME::INVALID_HOST_PATH", (refusal(volume { host = { path = allowed .. "/file" } })))
      assert.equal("400 VOLUME::HOST_PATH_NOT_ALLOWED", (refusal(volume { host = { path = allowed .. "x" } })))
      assert.equal("400 VOLUME::INVALID_SUB_PATH", (refusal(volume { host = { path = allowed .. "/box" }, subPath = "up" })))
      assert.equal("400 VOLUME::INVALID_SUB_PATH", (refusal(volume { host = { path = allowed .. "/box" }, subPath = "../secret" })))
      assert.equal("400 VOLUME::HOST_PATH_NOT_FOUND", (refusal(volume { host = { path = allowed .. "/none" }, readOnly = true })))
      local code, message = refusal(volume { host = { path = "/etc" } })
      assert.equal("400 VOLUME::HOST_PATH_NOT_ALLOWED", code)
      assert.matches("--allow-host-path", message, 1, true)
      assert.matches("OPENSANDBOX_ALLOWED_HOST_PATHS", message, 1, true)
    end)

    it("lead nowhere by links that a sandbox put into them", function()
      local id = create(named "linked")
      runtime:run(id, ("ln -s / /mnt/v/root; ln -s %s /mnt/v/back; ln -s .. /mnt/v/up"):format(allowed))
      for _, path in ipairs { "root", "back", "up", "root/etc" } do
        assert.equal("400 VOLUME::INVALID_SUB_PATH", (refusal(named("linked", { subPath = path }))))
      end
    end)

    it("outlive their sandboxes by name, with the owners of their files", function()
      local one = create(named "shared")
      assert.equal("", (runtime:run(one, "cd /mnt/v; echo kept >f; chmod 640 f; mkdir -p sets/train; echo t >sets/train/x")))
      runtime:run(one, "chown 1000:1000 /mnt/v/f")
      local owner = runtime:run(one, "stat -c %u /mnt/v/f")
      runtime:request("DELETE", "/v1/sandboxes/" .. one)
      local part = named("shared", { name = "w", mountPath = "/w/deep", subPath = "sets/train" })
      local two = create(named("shared", { readOnly = true }), part)
      assert.equal("kept\n" .. owner .. "\nt", (runtime:run(two, "cat /mnt/v/f; stat -c %u /mnt/v/f; cat /w/deep/x")))
      assert.is_not_equal(0, select(2, runtime:run(two, "touch /mnt/v/g")))
    end)

    it("end with the sandbox that they were made for, when that is asked", function()
      local ends = { pvc = { deleteOnSandboxTermination = true } }
      local function missing(name) return (refusal(named(name, { pvc = { createIfNotExists = false } }))) end
      local one = create(named("passing", ends))
      runtime:run(one, "mkdir -p /mnt/v/a/b && touch /mnt/v/a/b/c")
      local two = create(named "passing")
      runtime:request("DELETE", "/v1/sandboxes/" .. one)
      assert.equal("c", (runtime:run(two, "ls /mnt/v/a/b"))) -- another one uses it
      create(named "staying")
      local three = create(named("staying", ends), named("going", { name = "g", mountPath = "/mnt/g", pvc = ends.pvc }))
      runtime:request("DELETE", "/v1/sandboxes/" .. three)
      assert.equal("400 VOLUME::PVC_NOT_FOUND", missing "going")
      create(named("staying", { pvc = { createIfNotExists = false } }))
    end)

    it("are refused with the official server's codes", function()
      local host = { path = allowed }
      assert.equal("400 VOLUME::INVALID_NAME", (refusal(volume { host = host, name = "No_Label" })))
      assert.equal("400 VOLUME::INVALID_NAME", (refusal(volume { host = host, name = ("x"):rep(64) })))
      assert.equal("400 VOLUME::DUPLICATE_NAME", (refusal(volume { host = host }, volume { host = host, mountPath = "/w" })))
      assert.equal("400 VOLUME::INVALID_BACKEND", (refusal(volume {})))
      assert.equal("400 VOLUME::INVALID_BACKEND", (refusal(volume { host = host, pvc = { claimName = "x" } })))
      assert.equal("400 VOLUME::UNSUPPORTED_BACKEND", (refusal(volume { ossfs = { bucket = "b", endpoint = "e" } })))
      assert.equal("400 VOLUME::INVALID_PVC_NAME", (refusal(named "../x")))
      assert.equal("400 VOLUME::PVC_NOT_FOUND", (refusal(named("none", { pvc = { createIfNotExists = false } }))))
      assert.equal("400 VOLUME::INVALID_SUB_PATH", (refusal(volume { host = host, subPath = "/abs" })))
      for _, path in ipairs { "relative", "/", "/usr/x", "/etc", "/proc/x", "/mnt/../usr", "/.opensandbox" } do
        assert.equal("400 VOLUME::INVALID_MOUNT_PATH", (refusal(volume { host = host, mountPath = path })))
      end
      local within = volume { host = host, name = "w", mountPath = "/mnt/v/w" }
      assert.equal("400 VOLUME::INVALID_MOUNT_PATH", (refusal(volume { host = host }, within)))
      assert.equal("422 detail", (refusal { name = "v" }))
      assert.equal("422 detail", (refusal "v"))
      assert.equal(0, #select(2, runtime:request("GET", "/v1/sandboxes")).items)
    end)

    it("stand where the sandbox's own links would lead elsewhere", function()
      assert.equal(500, (runtime:request("POST", "/v1/sandboxes",
        { json = runtimes.body { volumes = { volume { host = { path = allowed }, mountPath = "/var/run/x" } } } })))
    end)
  end)
end
