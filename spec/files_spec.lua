-- Files of a real sandbox; and against scripted servers what real ones never do.
local cjson = require "cjson"
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"

local ALL_BYTES = {}
for byte = 0, 255 do ALL_BYTES[byte + 1] = string.char(byte) end
ALL_BYTES = table.concat(ALL_BYTES)

local function read_local(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read("*a")
  file:close()
  return content
end

local function write_local(path, content)
  local file = assert(io.open(path, "wb"))
  file:write(content)
  file:close()
end

describe("files", function()
  local box, files, dir
  local count = 0

  setup(function()
    box = assert(opensandbox.create { image = "host" })
    files = box.files
  end)
  teardown(function() box:kill() end)
  before_each(function()
    count = count + 1
    dir = ("/tmp/files-spec-%d"):format(count)
    assert(files:make_directory(dir))
  end)
  after_each(function() files:remove_directory(dir) end)

  local function paths_of(list)
    local paths = {}
    for i, info in ipairs(list) do paths[i] = info.path:sub(#dir + 2) end
    table.sort(paths)
    return paths
  end

  it("keep every byte, and empty files", function()
    for _, content in ipairs { ALL_BYTES:rep(300), "", "no newline", "a\r\nb\n\n" } do
      assert.is_true(files:write(dir .. "/f", content))
      assert.equal(content, files:read(dir .. "/f"))
    end
  end)

  it("take any name", function()
    for _, name in ipairs { "sp ace", "#%&?=+;é", "-dash", "--", "a'b\"c", "日本", "tab\tname", ".hidden" } do
      local path = dir .. "/" .. name
      assert.is_true(files:write(path, name))
      assert.equal(name, files:read(path))
      assert.equal(path, files:info(path).path)
      assert.is_true(files:remove(path))
      assert.is_false(files:exists(path))
    end
  end)

  it("are written from functions and open files, in chunks", function()
    local left = 300
    assert.is_true(files:write(dir .. "/f", function()
      left = left - 1
      return left >= 0 and (left % 100 == 0 and "" or ("x"):rep(10000)) or nil
    end))
    assert.equal(2970000, files:info(dir .. "/f").size)
    local name = os.tmpname()
    write_local(name, ALL_BYTES:rep(5000))
    local handle = assert(io.open(name, "rb"))
    assert.is_true(files:write(dir .. "/g", handle))
    handle:close()
    os.remove(name)
    assert.equal(ALL_BYTES:rep(5000), files:read(dir .. "/g"))
  end)

  it("give back the error of a function that raises, or returns no string", function()
    local _, err = files:write(dir .. "/f", function() error("boom") end)
    assert.equal("handler", err.code)
    assert.matches("boom", err.message)
    assert.is_string(err.traceback)
    _, err = files:write(dir .. "/f", function() return 1 end)
    assert.equal("handler", err.code)
    assert.is_true(files:write(dir .. "/f", "next call works"))
  end)

  it("are written many at once", function()
    assert.is_true(files:write_many {
      { path = dir .. "/a", data = "1", mode = "600" }, { path = dir .. "/deep/er/b", data = ALL_BYTES, mode = 755 },
      { path = dir .. "/c", data = "" },
    })
    assert.equal("1", files:read(dir .. "/a"))
    assert.equal(ALL_BYTES, files:read(dir .. "/deep/er/b"))
    local infos = assert(files:info { dir .. "/a", dir .. "/deep/er/b", dir .. "/c" })
    assert.equal("600", infos[dir .. "/a"].mode)
    assert.equal("755", infos[dir .. "/deep/er/b"].mode)
    assert.equal(0, infos[dir .. "/c"].size)
    assert.is_true(files:write_many {})
  end)

  it("tell type, size, mode, owner and times", function()
    assert(files:write(dir .. "/f", "12345", { mode = "0640" }))
    local before = os.time()
    local info = assert(files:info(dir .. "/f"))
    assert.equal("file", info.type)
    assert.equal("5", tostring(info.size))
    assert.equal("640", info.mode)
    assert.is_string(info.owner)
    assert.is_string(info.group)
    assert.is_true(math.abs(info.modified_at - before) < 60)
    assert.equal(640, info.raw.mode)
    assert.equal("directory", files:info(dir).type)
  end)

  it("say what is missing", function()
    for _, call in ipairs { "read", "info", "lines", "list", "search" } do
      local result, err = files[call](files, dir .. "/missing")
      assert.is_nil(result)
      assert.equal("not_found", err.code)
    end
    assert.is_false(files:exists(dir .. "/missing"))
    assert.is_true(files:exists(dir))
    local _, err = files:info { dir, dir .. "/missing" }
    assert.equal("not_found", err.code)
    _, err = files:set_permissions(dir .. "/missing", { mode = "600" })
    assert.is_true(opensandbox.is_error(err)) -- some servers call it an internal error
    _, err = files:move(dir .. "/missing", dir .. "/x")
    assert.equal("not_found", err.code)
    assert.is_true(files:remove(dir .. "/missing"))
    assert.is_true(files:remove_directory(dir .. "/missing"))
  end)

  it("are not directories", function()
    assert(files:make_directory(dir .. "/d"))
    for _, result in ipairs { { files:read(dir .. "/d") }, { files:write(dir .. "/d", "x") }, { files:remove(dir .. "/d") },
      { files:replace(dir .. "/d", "a", "b") } } do
      assert.is_nil(result[1])
      assert.is_true(opensandbox.is_error(result[2]))
    end
    assert.equal("directory", files:info(dir .. "/d").type)
  end)

  it("are read in ranges of bytes", function()
    assert(files:write(dir .. "/f", "0123456789"))
    local function range(...) return (files:read(dir .. "/f", { range = { ... } })) end
    assert.equal("0", range(0, 0))
    assert.equal("234", range(2, 4))
    assert.equal("89", range(8, 100))
    assert.equal("789", range(7))
    assert.equal("789", range(-3))
    assert.equal("0123456789", range(-100))
    local result, err = files:read(dir .. "/f", { range = { 10, 12 } })
    assert.is_nil(result)
    assert.equal("invalid", err.code)
    assert.equal(416, err.status)
    assert.equal("0123456789", files:read(dir .. "/f"))
    for _, wrong in ipairs { { 3, 2 }, { 1, 2, 3 }, {}, { -3, 5 } } do
      assert.has_error(function() files:read(dir .. "/f", { range = wrong }) end)
    end
    assert.has_error(function() files:read(dir .. "/f", { range = { 1 }, offset = 1 }) end)
  end)

  it("are read in windows of lines", function()
    assert(files:write(dir .. "/f", "one\r\ntwo\n\nfour"))
    assert.equal("two\n", files:read(dir .. "/f", { offset = 2, limit = 2 }))
    assert.equal("one", files:read(dir .. "/f", { limit = 1 }))
    assert.equal("\nfour", files:read(dir .. "/f", { offset = 3 }))
    assert.equal("", files:read(dir .. "/f", { offset = 50 }))
    assert.has_error(function() files:read(dir .. "/f", { offset = 0 }) end)
  end)

  it("are read line by line, wherever the chunks are cut", function()
    local wanted = {}
    for i = 1, 20000 do wanted[i] = i % 7 == 0 and "" or ("line %d "):format(i) .. ("x"):rep(i % 97) end
    wanted[10000] = ("long"):rep(200000)
    local content = table.concat(wanted, "\n")
    for _, last in ipairs { "", "\n" } do
      assert(files:write(dir .. "/f", content .. last))
      local got = {}
      for line in assert(files:lines(dir .. "/f")) do got[#got + 1] = line end
      assert.equal(#wanted, #got)
      assert.equal(content, table.concat(got, "\n"))
    end
    assert(files:write(dir .. "/f", ""))
    assert.is_nil(files:lines(dir .. "/f")())
  end)

  it("may be left in the middle of their lines", function()
    assert(files:write(dir .. "/f", ("line\n"):rep(1000000)))
    local next_line = assert(files:lines(dir .. "/f"))
    assert.equal("line", next_line())
    next_line = nil -- luacheck: ignore
    collectgarbage()
    assert.equal("line\n", files:read(dir .. "/f", { range = { 0, 4 } }))
  end)

  it("are listed to a depth", function()
    assert(files:write_many {
      { path = dir .. "/a", data = "" }, { path = dir .. "/d/b", data = "" }, { path = dir .. "/d/e/c", data = "" },
    })
    assert.same({}, files:list(dir, { depth = 0 }))
    assert.same({ "a", "d" }, paths_of(files:list(dir)))
    assert.same({ "a", "d", "d/b", "d/e" }, paths_of(files:list(dir, { depth = 2 })))
    assert.equal("invalid", select(2, files:list(dir .. "/a")).code)
  end)

  it("are found by name", function()
    assert(files:write_many {
      { path = dir .. "/a.py", data = "" }, { path = dir .. "/d/b.py", data = "" }, { path = dir .. "/d/c.txt", data = "" },
    })
    assert.same({ "a.py", "d/b.py" }, paths_of(files:search(dir, "*.py")))
    assert.same({ "a.py", "d/b.py", "d/c.txt" }, paths_of(files:search(dir)))
    assert.same({ "d/c.txt" }, paths_of(files:search(dir, "[c-z].t?t")))
    assert.same({}, files:search(dir, "none"))
  end)

  it("are moved, but never onto others", function()
    assert(files:write_many { { path = dir .. "/a", data = "A" }, { path = dir .. "/b", data = "B" } })
    assert.is_true(files:move(dir .. "/a", dir .. "/new/a"))
    assert.equal("A", files:read(dir .. "/new/a"))
    assert.is_false(files:exists(dir .. "/a"))
    local result, err = files:move(dir .. "/b", dir .. "/new/a")
    assert.is_nil(result)
    assert.is_true(opensandbox.is_error(err))
    assert.equal("A", files:read(dir .. "/new/a"))
    assert.is_true(files:move { { src = dir .. "/new/a", dest = dir .. "/1" }, { src = dir .. "/b", dest = dir .. "/2" } })
    assert.same({ "1", "2", "new" }, paths_of(files:list(dir)))
    assert.has_error(function() files:move(dir .. "/1") end)
  end)

  it("are removed, one or many", function()
    assert(files:write_many { { path = dir .. "/a", data = "" }, { path = dir .. "/b", data = "" }, { path = dir .. "/c", data = "" } })
    assert.is_true(files:remove(dir .. "/a"))
    assert.is_true(files:remove { dir .. "/b", dir .. "/c" })
    assert.same({}, files:list(dir))
    assert.is_true(files:remove {})
  end)

  it("have directories with modes", function()
    assert.is_true(files:make_directory(dir .. "/a/b", { mode = "750" }))
    assert.equal("750", files:info(dir .. "/a/b").mode)
    assert.is_true(files:make_directory { dir .. "/c", dir .. "/d" })
    assert.is_true(files:make_directory { { path = dir .. "/e", mode = 700 }, { path = dir .. "/f" } })
    assert.equal("700", files:info(dir .. "/e").mode)
    assert.is_true(files:make_directory(dir .. "/a/b"))
    assert(files:write(dir .. "/a/b/file", "x"))
    assert.is_true(files:remove_directory { dir .. "/a", dir .. "/c" })
    assert.is_false(files:exists(dir .. "/a"))
  end)

  it("get permissions set", function()
    assert(files:write_many { { path = dir .. "/a", data = "" }, { path = dir .. "/b", data = "" } })
    assert.is_true(files:set_permissions(dir .. "/a", { mode = "711" }))
    assert.equal("711", files:info(dir .. "/a").mode)
    assert.is_true(files:set_permissions { { path = dir .. "/a", mode = "600" }, { path = dir .. "/b", mode = 640 } })
    assert.equal("600", files:info(dir .. "/a").mode)
    assert.equal("640", files:info(dir .. "/b").mode)
  end)

  it("take only modes that are octal", function()
    for _, mode in ipairs { "789", 789, "rwx", 7.5, -1, "", "77777", 0, "0", "755 " } do
      local ok, message = pcall(function() files:write(dir .. "/f", "", { mode = mode }) end)
      assert.is_false(ok)
      assert.matches("files_spec.lua:%d+: mode ", message)
    end
    assert.is_false(files:exists(dir .. "/f"))
  end)

  it("have texts replaced and counted", function()
    assert(files:write_many { { path = dir .. "/a", data = "x.x.x", mode = "600" }, { path = dir .. "/b", data = "é" } })
    assert.equal("3", tostring(files:replace(dir .. "/a", "x", "yy")))
    assert.equal("yy.yy.yy", files:read(dir .. "/a"))
    assert.equal("600", files:info(dir .. "/a").mode)
    assert.equal(0, files:replace(dir .. "/a", "none", "y"))
    assert.same({ [dir .. "/a"] = 2, [dir .. "/b"] = 1 }, files:replace {
      [dir .. "/a"] = { old = ".", new = "" }, [dir .. "/b"] = { old = "é", new = "e" },
    })
    assert.equal("yyyyyy", files:read(dir .. "/a"))
    assert.has_error(function() files:replace(dir .. "/a", "", "y") end)
    assert.has_error(function() files:replace(dir .. "/a", "x") end)
  end)

  it("go up and down whole, with progress, and memory stays flat", function()
    local name, copy = os.tmpname(), os.tmpname()
    local file = assert(io.open(name, "wb"))
    for _ = 1, 100 do file:write(ALL_BYTES:rep(4096)) end
    file:close()
    local size = 100 * 256 * 4096
    local function watch()
      local seen = { calls = 0, last = 0 }
      return seen, function(done, total)
        seen.calls = seen.calls + 1
        assert(done >= seen.last and total == size)
        seen.last = done
      end
    end
    collectgarbage()
    local memory = collectgarbage("count")
    local up, on_up = watch()
    assert.is_true(files:upload(name, dir .. "/big", { mode = "600", on_progress = on_up }))
    assert.equal(size, up.last)
    assert.is_true(up.calls > 1)
    assert.equal(size, files:info(dir .. "/big").size)
    local down, on_down = watch()
    assert.is_true(files:download(dir .. "/big", copy, { on_progress = on_down }))
    assert.equal(size, down.last)
    local same = os.execute(("cmp -s %s %s"):format(name, copy)) -- 0 in Lua 5.1
    assert.is_true(same == true or same == 0)
    local received = 0
    assert.is_true(files:download(dir .. "/big", function(chunk) received = received + #chunk end))
    assert.equal(size, received)
    collectgarbage()
    assert.is_true(collectgarbage("count") - memory < 4096)
    os.remove(name)
    os.remove(copy)
  end)

  it("let progress callbacks use the sandbox, and stop when they raise", function()
    local name = os.tmpname()
    write_local(name, ALL_BYTES:rep(4000))
    local exists
    assert.is_true(files:upload(name, dir .. "/f", { on_progress = function() exists = files:exists(dir) end }))
    assert.is_true(exists)
    local _, err = files:upload(name, dir .. "/g", { on_progress = function() error("stop") end })
    assert.equal("handler", err.code)
    _, err = files:download(dir .. "/f", function() error("stop") end)
    assert.equal("handler", err.code)
    assert.is_string(err.traceback)
    assert.is_true(files:exists(dir .. "/f"))
    os.remove(name)
  end)

  it("are downloaded in parts", function()
    assert(files:write(dir .. "/f", "0123456789"))
    local name, got = os.tmpname(), {}
    assert.is_true(files:download(dir .. "/f", name, { range = { 2, 4 } }))
    assert.equal("234", read_local(name))
    assert.is_true(files:download(dir .. "/f", function(chunk) got[#got + 1] = chunk end, { range = { -2 } }))
    assert.equal("89", table.concat(got))
    os.remove(name)
  end)

  it("leave the local file as it was when a download fails", function()
    local name = os.tmpname()
    write_local(name, "old")
    local _, err = files:download(dir .. "/missing", name)
    assert.equal("not_found", err.code)
    assert.equal("old", read_local(name))
    os.remove(name)
    _, err = files:download(dir, "/nonexistent-folder/file")
    assert.equal("io", err.code)
  end)

  it("say which local file cannot be read", function()
    for _, name in ipairs { "/nonexistent-folder/file", "/tmp" } do
      local _, err = files:upload(name, dir .. "/f")
      assert.equal("io", err.code)
      assert.matches(name, err.message, 1, true)
    end
    assert.is_false(files:exists(dir .. "/f"))
  end)
end)

describe("files on the wire", function()
  local server, sandbox, files

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)
  before_each(function()
    sandbox = faults.sandbox_routes(server)
    files = assert(opensandbox.create(sandbox.options(opensandbox, { retry = false, headers = { ["X-Request-ID"] = "mine" } }))).files
  end)
  after_each(function() server:reset() end)

  it("never name local paths, and put metadata before each file", function()
    server:route("POST", "/execd/files/upload", faults.answer(200))
    local name = os.tmpname()
    write_local(name, "content")
    assert(files:upload(name, "/remote/f", { mode = "644", owner = "me" }))
    local request = server:requests("/execd/files/upload")[1]
    assert.is_nil(request.body:find(name, 1, true))
    assert.is_nil(request.body:find(name:match("[^/]+$"), 1, true))
    local metadata, content = request.body:match(
      'name="metadata"; filename="metadata"\r\nContent%-Type: application/json\r\n\r\n(.-)\r\n.*name="file"; filename="file"\r\n'
      .. "Content%-Type: application/octet%-stream\r\n\r\n(.-)\r\n%-%-")
    assert.same({ path = "/remote/f", mode = 644, owner = "me" }, cjson.decode(metadata))
    assert.equal("content", content)
    assert.is_nil(request.headers.expect)
    assert.equal("mine", request.headers["x-request-id"])
    os.remove(name)
  end)

  it("keep the old local file when a download is cut, and leave nothing beside it", function()
    local folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir " .. folder))
    write_local(folder .. "/f", "old")
    for _, response in ipairs { faults.join(faults.answer(200, "half", nil, { length = 8 }), { { close = true } }),
      faults.join(faults.answer(200, "half", nil, { length = 8 }), { { reset = true } }), faults.answer(404, "gone") } do
      server:route("GET", "/execd/files/download", response)
      local result, err = files:download("/f", folder .. "/f")
      assert.is_nil(result)
      assert.equal("mine", err.request_id)
      assert.equal(err.code ~= "not_found" and 4 or nil, err.partial)
      assert.equal("old", read_local(folder .. "/f"))
    end
    local listing = io.popen("ls -A " .. folder)
    assert.equal("f\n", listing:read("*a"))
    listing:close()
    os.execute("rm -r " .. folder)
  end)

  it("raise the error of lines that break off", function()
    server:route("GET", "/execd/files/download", faults.join(faults.answer(200, "one\ntwo", nil, { length = 100 }), { { close = true } }))
    local lines = {}
    local ok, err = pcall(function()
      for line in assert(files:lines("/f")) do lines[#lines + 1] = line end
    end)
    assert.is_false(ok)
    assert.equal("truncated", err.code)
    assert.same({ "one" }, lines)
  end)

  it("end their transfer when the loop over their lines is left", function()
    server:route("GET", "/execd/files/download", faults.join(faults.answer(200, "one\ntwo\n", nil, { length = 100 }), { { stall = true } }))
    for line in assert(files:lines("/f")) do
      if line == "two" then break end
    end
    collectgarbage() -- where for loops do not close
    collectgarbage()
    assert.is_truthy(server:await_abort("/execd/files/download"))
  end)

  it("do not take a whole file for a part of it", function()
    server:route("GET", "/execd/files/download", faults.answer(200, "0123456789"))
    local result, err = files:read("/f", { range = { 2, 4 } })
    assert.is_nil(result)
    assert.equal("protocol", err.code)
    assert.equal("bytes=2-4", server:requests("/execd/files/download")[1].headers.range)
  end)

  it("survive the broken length of a real server's 416", function()
    server:route("GET", "/execd/files/download",
      faults.join(faults.answer(416, '{"code":"UNKNOWN","message":"invalid range"}', nil, { length = 5000 }), { { close = true } }))
    local _, err = files:read("/f", { range = { 9000 } })
    assert.equal("invalid", err.code)
    assert.equal("invalid range", err.message)
  end)

  it("do not call a missing sandbox a missing file", function()
    server:route("GET", "/execd/files/info", faults.json(404, { code = "DOCKER::SANDBOX_NOT_FOUND", message = "gone" }))
    local result, err = files:exists("/f")
    assert.is_nil(result)
    assert.equal("not_found", err.code)
  end)
end)
