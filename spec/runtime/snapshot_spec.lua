-- Snapshots of the runtime: copies of what a sandbox wrote, and sandboxes made from them.
local cjson = require "cjson"
local runtimes = require "spec.support.runtime"

local as_root = runtimes.user_id() == 0
local users = as_root and { root = false, ["an ordinary user"] = runtimes.STRANGER } or { ["an ordinary user"] = false }

for who, user in pairs(users) do
  describe("snapshots of a runtime of " .. who .. ",", function()
    local runtime

    setup(function() runtime = runtimes.start { user = user or nil } end)
    teardown(function() runtime:stop() end)
    after_each(function()
      for _, kind in ipairs { "sandboxes", "snapshots" } do
        local _, all = runtime:request("GET", "/" .. kind .. "?pageSize=200")
        for _, item in ipairs(all.items) do runtime:request("DELETE", "/" .. kind .. "/" .. item.id) end
      end
    end)

    local function get(path) return runtime:request("GET", "/v1" .. path) end

    local function refusal(method, path, json)
      local status, body = runtime:request(method, "/v1" .. path, { json = json })
      return status .. " " .. (body.code or "detail")
    end

    --- A snapshot that is ready.
    local function snapshot(id, json)
      local status, made = runtime:request("POST", "/v1/sandboxes/" .. id .. "/snapshots", { json = json })
      assert.equal(202, status)
      runtimes.await("the snapshot", function() return select(2, get("/snapshots/" .. made.id)).status.state ~= "Creating" end)
      return made.id
    end

    local function restore(id, fields)
      local all = { image = cjson.null, snapshotId = id, entrypoint = cjson.null }
      for key, value in pairs(fields or {}) do all[key] = value end
      return runtime:create(all)
    end

    it("are accepted, then ready, as the official server words it", function()
      local box = runtime:create()
      local status, made, headers = runtime:request("POST", "/v1/sandboxes/" .. box .. "/snapshots", { json = { name = "first" } })
      assert.equal(202, status)
      assert.equal("/v1/snapshots/" .. made.id, headers.location)
      assert.same({ box, "first", "Creating", "snapshot_accepted", "Snapshot creation accepted." },
        { made.sandboxId, made.name, made.status.state, made.status.reason, made.status.message })
      runtimes.await("the snapshot", function() return select(2, get("/snapshots/" .. made.id)).status.state == "Ready" end)
      local _, ready = get("/snapshots/" .. made.id)
      assert.same({ made.createdAt, "first", box }, { ready.createdAt, ready.name, ready.sandboxId })
      assert.equal("on", (runtime:run(box, "echo on"))) -- its processes go on
    end)

    it("hold files, links, modes, owners and holes, but not what changed later", function()
      local box = runtime:create { image = { uri = "host" }, entrypoint = { "sleep", "infinity" } }
      runtime:run(box, [[cd /workspace
        echo one >f; chmod 4751 f; ln -s /etc/passwd link; mkdir -m 700 d; echo two >d/g; touch -d @1000000000 d/g
        mkfifo pipe; truncate -s 1G holes; printf end >>holes; chown 1000:1000 d/g; echo home >~/h; echo v >/var/lib/v
        deep=deep; mkdir -p $(seq -s / 100); mkdir locked; echo x >locked/x; chmod 0 locked]])
      local look = [[cd /workspace; cat f; stat -c '%a %u %F %N' f link d d/g pipe locked; stat -c '%Y %g' d/g; tail -c 3 holes
        echo; test $(du -k holes | cut -f 1) -lt 1024 && echo sparse; cat ~/h /var/lib/v; find 1 | wc -l; readlink /var/run; cat locked/x]]
      local before = runtime:run(box, look)
      assert.matches("sparse", before)
      local id = snapshot(box)
      runtime:run(box, "rm -rf /workspace/*; echo later >~/h")
      runtime:request("DELETE", "/v1/sandboxes/" .. box)
      local copies = { restore(id), restore(id) }
      for _, copy in ipairs(copies) do assert.equal(before, (runtime:run(copy, look))) end
      local _, info = get("/sandboxes/" .. copies[1])
      assert.same({ id, nil, { "sleep", "infinity" } }, { info.snapshotId, info.image, info.entrypoint })
      runtime:run(copies[1], "echo mine >/workspace/f")
      assert.equal("one", (runtime:run(copies[2], "cat /workspace/f")))
      assert.equal("0\n0", (runtime:run(copies[2], "id -u; stat -c %u /workspace/f")))
    end)

    it("are listed by sandbox, state and name, in pages, and deleted", function()
      local one, two = runtime:create(), runtime:create()
      local ids = { snapshot(one, { name = "a" }), snapshot(one), snapshot(two) }
      local function listed(query)
        local status, body = get("/snapshots?" .. query)
        assert.equal(200, status)
        local found = {}
        for i, item in ipairs(body.items) do found[i] = item.id end
        return found, body.pagination
      end
      assert.same({ ids[3], ids[2], ids[1] }, (listed ""))
      assert.same({ ids[2], ids[1] }, (listed("sandboxId=" .. one)))
      assert.same({ ids[1] }, (listed "name=a&state=ready&state=Failed"))
      assert.same({}, (listed "state=Creating"))
      local second, pagination = listed "page=2&pageSize=2"
      assert.same({ ids[1] }, second)
      assert.same({ page = 2, pageSize = 2, totalItems = 3, totalPages = 2, hasNextPage = false }, pagination)
      assert.equal(204, (runtime:request("DELETE", "/v1/snapshots/" .. ids[1])))
      assert.equal("404 SNAPSHOT::NOT_FOUND", refusal("GET", "/snapshots/" .. ids[1]))
      assert.equal("404 SNAPSHOT::NOT_FOUND", refusal("DELETE", "/snapshots/" .. ids[1]))
      local path = runtime.state .. "/*/snapshots/"
      assert.equal("2", runtimes.shell("ls " .. path .. " | wc -l"))
    end)

    it("are refused where they can't be", function()
      local box = runtime:create()
      assert.equal("404 DOCKER::SANDBOX_NOT_FOUND", refusal("POST", "/sandboxes/none/snapshots"))
      assert.equal("422 detail", refusal("POST", "/sandboxes/" .. box .. "/snapshots", { name = 1 }))
      assert.equal("422 detail", refusal("POST", "/sandboxes/" .. box .. "/snapshots", "[]"))
      runtime:request("POST", "/v1/sandboxes/" .. box .. "/pause")
      assert.equal("409 SNAPSHOT::INVALID_SOURCE_STATE", refusal("POST", "/sandboxes/" .. box .. "/snapshots"))
      assert.equal("404 SNAPSHOT::NOT_FOUND",
        refusal("POST", "/sandboxes", runtimes.body { image = cjson.null, snapshotId = "none" }))
    end)

    it("stand for one moment: the sandbox writes nothing meanwhile, and can be paused, resumed and deleted", function()
      local box = runtime:create()
      runtime:run(box, "cd /workspace; head -c 64M /dev/urandom >big; (while :; do date +%N >now; cp now then; done) >/dev/null 2>&1 &")
      local function begin()
        local _, made = runtime:request("POST", "/v1/sandboxes/" .. box .. "/snapshots")
        return made.id
      end
      local function finished(id)
        local status
        runtimes.await("the end", function()
          status = select(2, get("/snapshots/" .. id)).status
          return status.state ~= "Creating" and status
        end)
        return status
      end
      local id = begin()
      local early = refusal("DELETE", "/snapshots/" .. id)
      assert.is_true(early == "409 SNAPSHOT::INVALID_STATE" or finished(id).state == "Ready")
      assert.equal(202, (runtime:request("POST", "/v1/sandboxes/" .. box .. "/pause")))
      assert.equal("Ready", finished(id).state)
      assert.equal("Paused", select(2, get("/sandboxes/" .. box)).status.state)
      assert.equal(202, (runtime:request("POST", "/v1/sandboxes/" .. box .. "/resume")))
      id = begin()
      runtime:request("POST", "/v1/sandboxes/" .. box .. "/pause")
      runtime:request("POST", "/v1/sandboxes/" .. box .. "/resume")
      assert.equal("Ready", finished(id).state)
      assert.equal("on", (runtime:run(box, "echo on")))
      id = begin()
      assert.equal(204, (runtime:request("DELETE", "/v1/sandboxes/" .. box)))
      local last = finished(id)
      if last.state == "Failed" then assert.equal("snapshot_runtime_failed", last.reason) end
      assert.equal(0, #select(2, get "/sandboxes").items)
    end)
  end)
end
