-- Every method that talks to a server, against every way it can fail: a defined error each time, misuse raised at the caller's line,
-- and nothing left behind. A method that is in no table below fails the first test.
local core = require "opensandbox.core"
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"
local surface = require "spec.support.surface"
local task = require "opensandbox.task"

local function with(base, more)
  local result = {}
  for name, value in pairs(base) do result[name] = value end
  for name, value in pairs(more or {}) do result[name] = value end
  return result
end

local SOON = { ready_timeout = 0.05, health_check_interval = 0.01 }
local HERE = debug.getinfo(1, "S").source:match("^@(.*)$")
local TARGET = os.tmpname()
local LOCAL_DIR = HERE:match("^(.*)/[^/]*$") .. "/support"

local function nothing() end

-- kind → method → function(object, options): calls it with good arguments and these options
local METHODS = {
  sandbox = {
    info = function(o, opts) return o:info(opts) end,
    is_healthy = function(o, opts) return o:is_healthy(opts) end,
    wait_until_ready = function(o, opts) return o:wait_until_ready(with(SOON, opts)) end,
    renew = function(o, opts) return o:renew(60, opts) end,
    pause = function(o, opts) return o:pause(opts) end,
    resume = function(o, opts) return o:resume(with(SOON, opts)) end,
    kill = function(o, opts) return o:kill(opts) end,
    endpoint = function(o, opts) return o:endpoint(8000, opts) end,
    request = function(o, opts) return o:request(with({ port = 8000 }, opts)) end,
    websocket = function(o, opts) return o:websocket(with({ port = 8000 }, opts)) end,
    metrics = function(o, opts) return o:metrics(opts) end,
    watch_metrics = function(o, opts) return o:watch_metrics(nothing, opts) end,
    patch_metadata = function(o, opts) return o:patch_metadata({ a = "b" }, opts) end,
    create_snapshot = function(o, opts) return o:create_snapshot(opts) end,
    diagnostic_logs = function(o, opts) return o:diagnostic_logs("all", opts) end,
    diagnostic_events = function(o, opts) return o:diagnostic_events("all", opts) end,
  },
  manager = {
    list = function(o, opts) return o:list(opts) end,
    each = function(o, opts)
      local next_info = o:each(opts)
      local ok, err = pcall(next_info)
      assert(not ok)
      return nil, err
    end,
    get = function(o, opts) return o:get("x", opts) end,
    kill = function(o, opts) return o:kill("x", opts) end,
    pause = function(o, opts) return o:pause("x", opts) end,
    resume = function(o, opts) return o:resume("x", opts) end,
    renew = function(o, opts) return o:renew("x", 60, opts) end,
    patch_metadata = function(o, opts) return o:patch_metadata("x", { a = "b" }, opts) end,
    diagnostic_logs = function(o, opts) return o:diagnostic_logs("x", "all", opts) end,
    diagnostic_events = function(o, opts) return o:diagnostic_events("x", "all", opts) end,
    create_snapshot = function(o, opts) return o:create_snapshot("x", opts) end,
    get_snapshot = function(o, opts) return o:get_snapshot("x", opts) end,
    list_snapshots = function(o, opts) return o:list_snapshots(opts) end,
    each_snapshot = function(o, opts)
      local next_snapshot = o:each_snapshot(opts)
      local ok, err = pcall(next_snapshot)
      assert(not ok)
      return nil, err
    end,
    delete_snapshot = function(o, opts) return o:delete_snapshot("x", opts) end,
  },
  commands = {
    run = function(o, opts) return o:run("x", opts) end,
    exec = function(o, opts) return o:exec("x", nil, opts) end,
    stream = function(o, opts)
      local stream, err = o:stream("x", opts)
      if not stream then return nil, err end
      return stream:result()
    end,
    start = function(o, opts) return o:start("x", opts) end,
    status = function(o, opts) return o:status("id", opts) end,
    output = function(o, opts) return o:output("id", opts) end,
    interrupt = function(o, opts) return o:interrupt("id", opts) end,
    create_session = function(o, opts) return o:create_session(opts) end,
    run_in_session = function(o, opts) return o:run_in_session("s", "x", opts) end,
    delete_session = function(o, opts) return o:delete_session("s", opts) end,
  },
  session = {
    run = function(o, opts) return o:run("x", opts) end,
    delete = function(o, opts) return o:delete(opts) end,
  },
  job = {
    status = function(o, opts) return o:status(opts) end,
    output = function(o, opts) return o:output(opts) end,
    interrupt = function(o, opts) return o:interrupt(opts) end,
    wait = function(o, opts) return o:wait(with({ timeout = 0.05 }, opts)) end,
    follow = function(o, opts) return o:follow(nothing, with({ timeout = 0.05 }, opts)) end,
  },
  files = {
    read = function(o, opts) return o:read("/x", opts) end,
    lines = function(o, opts)
      local lines, err = o:lines("/x", opts)
      if not lines then return nil, err end
      local ok, problem = pcall(function()
        for _ in lines do nothing() end
      end)
      assert(not ok)
      return nil, problem
    end,
    write = function(o, opts) return o:write("/x", "data", opts) end,
    write_many = function(o, opts) return o:write_many({ { path = "/x", data = "data" } }, opts) end,
    download = function(o, opts) return o:download("/x", TARGET, opts) end,
    upload = function(o, opts) return o:upload(HERE, "/x", opts) end,
    upload_tree = function(o, opts) return o:upload_tree(LOCAL_DIR, "/x", opts) end,
    download_tree = function(o, opts) return o:download_tree("/x", LOCAL_DIR, opts) end,
    info = function(o, opts) return o:info("/x", opts) end,
    exists = function(o, opts) return o:exists("/x", opts) end,
    list = function(o, opts) return o:list("/x", opts) end,
    search = function(o, opts) return o:search("/x", "*", opts) end,
    move = function(o, opts) return o:move("/x", "/y", opts) end,
    remove = function(o, opts) return o:remove("/x", opts) end,
    remove_directory = function(o, opts) return o:remove_directory("/x", opts) end,
    make_directory = function(o, opts) return o:make_directory("/x", opts) end,
    set_permissions = function(o, opts) return o:set_permissions("/x", with({ mode = "644" }, opts)) end,
    replace = function(o, opts) return o:replace("/x", "a", "b", opts) end,
  },
  code = {
    create_context = function(o, opts) return o:create_context(opts) end,
    run = function(o, opts) return o:run("x", opts) end,
    stream = function(o, opts)
      local stream, err = o:stream("x", opts)
      if not stream then return nil, err end
      return stream:result()
    end,
    contexts = function(o, opts) return o:contexts("python", opts) end,
    context = function(o, opts) return o:context("c", opts) end,
    delete_context = function(o, opts) return o:delete_context("c", opts) end,
    delete_contexts = function(o, opts) return o:delete_contexts("python", opts) end,
    interrupt = function(o, opts) return o:interrupt("c", opts) end,
  },
  terminals = {
    open = function(o, opts) return o:open(opts) end,
    attach = function(o, opts) return o:attach("p", opts) end,
    status = function(o, opts) return o:status("p", opts) end,
    delete = function(o, opts) return o:delete("p", opts) end,
  },
  egress = {
    policy = function(o, opts) return o:policy(opts) end,
    patch = function(o, opts) return o:patch({ { action = "allow", target = "x" } }, opts) end,
    delete = function(o, opts) return o:delete("x", opts) end,
    replace = function(o, opts) return o:replace({}, opts) end,
  },
  vault = {
    create = function(o, opts) return o:create(with({ credentials = {}, bindings = {} }, opts)) end,
    get = function(o, opts) return o:get(opts) end,
    patch = function(o, opts) return o:patch(opts) end,
    delete = function(o, opts) return o:delete(opts) end,
    credentials = function(o, opts) return o:credentials(opts) end,
    credential = function(o, opts) return o:credential("n", opts) end,
    bindings = function(o, opts) return o:bindings(opts) end,
    binding = function(o, opts) return o:binding("n", opts) end,
  },
  isolated = {
    create = function(o, opts) return o:create(with({ workspace = { path = "/w" } }, opts)) end,
    list = function(o, opts) return o:list(opts) end,
    get = function(o, opts) return o:get("i", opts) end,
    run = function(o, opts) return o:run("i", "x", opts) end,
    delete = function(o, opts) return o:delete("i", opts) end,
    capabilities = function(o, opts) return o:capabilities(opts) end,
  },
  isolated_session = {
    run = function(o, opts) return o:run("x", opts) end,
    info = function(o, opts) return o:info(opts) end,
    delete = function(o, opts) return o:delete(opts) end,
  },
  module = {
    create = function(o, opts) return opensandbox.create(with({ image = "x", connection = o }, opts)) end,
    code_interpreter = function(o, opts) return opensandbox.code_interpreter(with({ connection = o }, opts)) end,
    connect = function(o, opts) return opensandbox.connect("x", with({ connection = o, ready_timeout = 0.05 }, opts)) end,
    resume = function(o, opts) return opensandbox.resume("x", with({ connection = o, ready_timeout = 0.05 }, opts)) end,
  },
}

-- Methods that ask no server anything.
local LOCAL = {
  sandbox = { "close", "detach" }, manager = { "close" }, commands = { "attach", "attach_session" }, session = { "close" },
  job = { "close" }, isolated_session = { "close" },
}

-- Kinds that are no face of a server's endpoints, or whose connections are faulted in specs of their own.
local ELSEWHERE = {
  connection = "http_spec", stream = "stream_spec", pty = "pty_spec", websocket = "pty_spec", task = "tasks_spec",
  semaphore = "tasks_spec", pool = "pool_spec", memory_store = "pool_spec", redis_store = "pool_spec",
}

local REFUSALS = { [401] = "unauthorized", [404] = "not_found", [409] = "conflict", [500] = "api" }

-- What a connection that breaks may be called: `wait` and its like bear it until their time is over.
local BREAKS = {
  network = true, truncated = true, protocol = true, timeout = true, not_ready = true, connect = true, decode = true,
}

describe("every method", function()
  local server, routes, box, objects

  setup(function() server = faults.start() end)
  teardown(function()
    server:stop()
    os.remove(TARGET)
  end)

  local function make_objects()
    server:reset()
    routes = faults.sandbox_routes(server)
    server:route("POST", "/execd/v1/isolated/session", faults.json(201, { session_id = "i" }))
    local options = routes.options(opensandbox, { retry = false, request_timeout = 5 })
    box = assert(opensandbox.create(options))
    assert(box:endpoint(18080)) -- addresses are known, so that the faults meet the calls themselves
    assert(box:is_healthy())
    objects = {
      sandbox = box, manager = opensandbox.manager { connection = box.connection }, session = box.commands:attach_session "s",
      job = box.commands:attach "j", isolated_session = assert(box.isolated:create { workspace = { path = "/w" } }),
      module = box.connection, terminals = box.pty,
    }
    for _, name in ipairs { "commands", "files", "code", "egress", "vault", "isolated" } do objects[name] = box[name] end
  end

  before_each(make_objects)
  after_each(function() box:close() end)

  local function each_method(visit)
    for kind, methods in pairs(METHODS) do
      for name, call in pairs(methods) do visit(kind, name, call) end
    end
  end

  local function count_descriptors()
    return #assert(core.path_entries "/proc/self/fd")
  end

  local function count_tasks()
    local count = 0
    for _ in pairs(task.scheduler().all or {}) do count = count + 1 end
    return count
  end

  --- What is there: descriptors, sources of the loop, tasks. What was given back may take a wait to go.
  local function count_all()
    for _ = 1, 3 do
      collectgarbage()
      collectgarbage()
      task.sleep(0)
    end
    return { count_descriptors(), core.loop():sources(), count_tasks() }
  end

  --- Calls a method on a fresh object of its kind where the call uses it up.
  local function object_for(kind, name)
    if kind == "session" and name == "delete" then return box.commands:attach_session "s" end
    if kind == "isolated_session" and name == "delete" then
      faults.sandbox_routes(server)
      server:route("POST", "/execd/v1/isolated/session", faults.json(201, { session_id = "i" }))
      return assert(box.isolated:create { workspace = { path = "/w" } })
    end
    return objects[kind]
  end

  local function try(kind, name, call, fault)
    local object = object_for(kind, name)
    server:route(nil, "/*", fault)
    local result, err = call(object, nil)
    assert.is_true(result == nil or (name == "is_healthy" and result == false), kind .. ":" .. name .. " gave a result")
    assert.is_true(opensandbox.is_error(err), kind .. ":" .. name .. " gave no error")
    assert.equal("string", type(err.message))
    return err
  end

  it("is in these tables", function()
    for kind, known in pairs(surface.read().kinds) do
      if not ELSEWHERE[kind] then
        local listed = {}
        for name in pairs(METHODS[kind] or {}) do listed[name] = true end
        for _, name in ipairs(LOCAL[kind] or {}) do listed[name] = true end
        for _, name in ipairs(known.methods) do
          assert.is_true(listed[name] == true, ("%s:%s has no test here"):format(kind, name))
          listed[name] = nil
        end
        assert.is_nil(next(listed), kind)
      end
    end
  end)

  for status, code in pairs(REFUSALS) do
    it("fails with " .. code .. " where the server answers " .. status, function()
      each_method(function(kind, name, call)
        local err = try(kind, name, call, faults.json(status, { code = "X", message = "because" }, { ["X-Request-ID"] = "r1" }))
        assert.equal(code, err.code, kind .. ":" .. name)
        assert.equal(status, err.status, kind .. ":" .. name)
        assert.equal("r1", err.request_id, kind .. ":" .. name)
        assert.truthy(err.message:find("because", 1, true), kind .. ":" .. name)
      end)
    end)
  end

  for _, way in ipairs { "before", "within" } do
    it("fails with a defined error where the connection breaks " .. way .. " the answer", function()
      local cut = way == "before" and { { reset = true } }
        or faults.join(faults.head(200, { ["Content-Length"] = "1000" }), { { send = "[" }, { close = true } })
      each_method(function(kind, name, call)
        local err = try(kind, name, call, cut)
        assert.is_true(BREAKS[err.code] == true, ("%s:%s: %s"):format(kind, name, tostring(err)))
      end)
    end)
  end

  it("leaves nothing behind where it fails", function()
    local counted = {
      faults.json(500, { message = "because" }), { { reset = true } },
      faults.join(faults.head(200, { ["Content-Length"] = "1000" }), { { send = "[" }, { close = true } }),
    }
    for kind, methods in pairs(METHODS) do
      for i, fault in ipairs(counted) do
        local function try_all()
          for name, call in pairs(methods) do try(kind, name, call, fault) end
        end
        try_all()
        local before = count_all()
        for _ = 1, 2 do try_all() end
        local after = count_all()
        for j = 1, 3 do
          assert.is_true(after[j] <= before[j], ("%s, fault %d: count %d went from %d to %d"):format(kind, i, j, before[j], after[j]))
        end
      end
    end
  end)

  local function assert_misuse(label, pattern, fn)
    local ok, message = pcall(fn)
    assert.is_false(ok, label .. " did not raise")
    assert.equal("string", type(message), label)
    assert.is_not_nil(message:match("every_method_spec%.lua:%d+: "), label .. ": " .. message)
    if pattern then assert.is_not_nil(message:match(pattern), label .. ": " .. message) end
  end

  it("raises for an unknown option, at the caller's line, and asks the server nothing", function()
    local asked = #server:requests()
    each_method(function(kind, name, call)
      assert_misuse(kind .. ":" .. name, "unknown option 'no_such_option'", function()
        return assert(call(objects[kind], { no_such_option = 1 }))
      end)
    end)
    assert.equal(asked, #server:requests())
  end)

  it("raises for an argument of a wrong type, and for an object of another kind", function()
    local asked = #server:requests()
    each_method(function(kind, name)
      if kind == "module" then
        assert_misuse(name, nil, function() return (opensandbox[name](12, 12)) end)
        return
      end
      local object = objects[kind]
      assert_misuse(kind .. ":" .. name, nil, function() return (object[name](object, 12, 12, 12)) end)
      assert_misuse(kind .. ":" .. name, "expected, got opensandbox%.", function()
        return (object[name](kind == "sandbox" and box.files or box, nil))
      end)
      assert_misuse(kind .. ":" .. name, "expected, got ", function() return (object[name](nil)) end)
    end)
    assert.equal(asked, #server:requests())
  end)
end)
