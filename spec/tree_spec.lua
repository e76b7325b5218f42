-- Copies of whole directories, and downloads that go on where they broke off.
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"

local function shell(...)
  local words = {}
  for i, word in ipairs { ... } do words[i] = i == 1 and word or "'" .. word:gsub("'", "'\\''") .. "'" end
  local pipe = assert(io.popen(table.concat(words, " ") .. " 2>&1"))
  local text = pipe:read("*a")
  pipe:close()
  return text
end

local function read_local(path)
  local file = io.open(path, "rb")
  local content = file and file:read("*a")
  if file then file:close() end
  return content
end

local function write_local(path, content)
  local file = assert(io.open(path, "wb"))
  file:write(content)
  file:close()
end

describe("a tree", function()
  local box, files, here, there
  local count = 0

  setup(function()
    box = assert(opensandbox.create())
    files = box.files
  end)
  teardown(function()
    box:kill()
    box:close()
  end)
  before_each(function()
    count = count + 1
    here, there = shell("mktemp -d"):match("%S+"), ("/tmp/tree-%d"):format(count)
  end)
  after_each(function()
    shell("rm -rf", here)
    files:remove_directory(there)
  end)

  local ODD = { "sp ace", "#%&?=+;é", "-dash", "a'b\"c", ".hidden", "tab\tname", "日本", "back\\slash", "star*", "[x]" }

  local function make_local_tree()
    shell("mkdir -p", here .. "/src/deep/er", here .. "/src/empty", here .. "/src/build/x")
    for i, name in ipairs(ODD) do write_local(here .. "/src/" .. name, name .. i) end
    write_local(here .. "/src/deep/er/run.sh", "#!/bin/sh\n")
    shell("chmod 751", here .. "/src/deep/er/run.sh")
    write_local(here .. "/src/deep/none", "")
    write_local(here .. "/src/build/a.o", "object")
    write_local(here .. "/src/build/x/b.o", "object")
    shell("ln -s /etc/passwd", here .. "/src/link")
    shell("ln -s .", here .. "/src/loop")
    shell("mkfifo", here .. "/src/fifo")
  end

  it("goes up and comes down the same, with odd names, empty directories and modes", function()
    make_local_tree()
    local calls, last = 0, 0
    local sum = assert(files:upload_tree(here .. "/src", there .. "/new/dir", { on_progress = function(done, total, path)
      assert(done >= last and done <= total and type(path) == "string")
      calls, last = calls + 1, done
    end }))
    assert.equal(#ODD + 4, sum.files)
    assert.equal(5, sum.directories)
    assert.same({ "fifo", "link", "loop" }, sum.skipped)
    assert.is_true(calls > 0)
    assert.equal(sum.bytes, last)
    for i, name in ipairs(ODD) do assert.equal(name .. i, files:read(there .. "/new/dir/" .. name)) end
    assert.equal("751", files:info(there .. "/new/dir/deep/er/run.sh").mode)
    assert.equal("directory", files:info(there .. "/new/dir/empty").type)

    assert(box.commands:run("ln -s /etc passwd-link; mkfifo pipe", { cwd = there .. "/new/dir" }))
    last = 0
    local down = assert(files:download_tree(there .. "/new/dir/", here .. "/a/b/", { on_progress = function(done, total)
      assert(done >= last and total == sum.bytes)
      last = done
    end }))
    assert.equal(sum.bytes, last)
    table.sort(down.skipped)
    assert.same({ "passwd-link", "pipe" }, down.skipped)
    assert.same({ sum.files, sum.directories, sum.bytes }, { down.files, down.directories, down.bytes })
    shell("rm", here .. "/src/link", here .. "/src/loop", here .. "/src/fifo")
    assert.equal("", shell("diff -r", here .. "/src", here .. "/a/b"))
    assert.matches("^%-rwxr%-x%-%-x", shell("ls -l", here .. "/a/b/deep/er/run.sh"))
  end)

  it("of many files and of one larger than a request goes up", function()
    shell("mkdir", here .. "/src")
    for i = 1, 150 do write_local(("%s/src/%03d"):format(here, i), tostring(i)) end
    write_local(here .. "/src/big", ("x"):rep(6 * 1024 * 1024))
    assert.equal(151, assert(files:upload_tree(here .. "/src", there)).files)
    assert.equal("150", files:read(there .. "/150"))
    assert.equal(6 * 1024 * 1024, files:info(there .. "/big").size)
  end)

  it("leaves out what is excluded", function()
    make_local_tree()
    local function paths(exclude)
      files:remove_directory(there)
      assert(files:upload_tree(here .. "/src", there, { exclude = exclude }))
      local found = {}
      for _, info in ipairs(files:list(there, { depth = 9 })) do found[info.path:sub(#there + 2)] = true end
      return found
    end
    local found = paths { "*.o", "deep/", ".*" }
    assert.same({ true, nil, nil, nil }, { found["build/x"], found["build/a.o"], found.deep, found[".hidden"] })
    found = paths { "build/**", "**/run.sh" }
    assert.same({ true, nil, nil, true, nil }, { found.build, found["build/a.o"], found["build/x"], found["deep/none"],
      found["deep/er/run.sh"] })
    found = paths { "build/*.o" }
    assert.same({ nil, true }, { found["build/a.o"], found["build/x/b.o"] })
    found = paths(function(path) return path == "build" end)
    assert.is_nil(found.build)
    assert.is_true(found["deep/er/run.sh"])
    assert(files:download_tree(there, here .. "/down", { exclude = "deep" }))
    assert.is_nil(read_local(here .. "/down/deep/none"))
    assert.equal(".hidden5", read_local(here .. "/down/.hidden"))
  end)

  it("writes through no symbolic link that is in the local directory, and replaces one that stands for a file", function()
    assert(files:write_many { { path = there .. "/d/f", data = "new" }, { path = there .. "/g", data = "new" } })
    shell("mkdir", here .. "/outside", here .. "/down")
    write_local(here .. "/outside/g", "old")
    shell("ln -s", here .. "/outside", here .. "/down/d")
    local none, err = files:download_tree(there, here .. "/down")
    assert.is_nil(none)
    assert.equal("io", err.code)
    assert.matches("is a symbolic link where a directory is meant", err.message)
    assert.is_nil(read_local(here .. "/outside/f"))
    shell("rm", here .. "/down/d")
    shell("ln -s", here .. "/outside/g", here .. "/down/g")
    assert(files:download_tree(there, here .. "/down"))
    assert.equal("old", read_local(here .. "/outside/g"))
    assert.equal("new", read_local(here .. "/down/g"))
    write_local(here .. "/down/file", "x")
    assert.equal("io", select(2, files:download_tree(there, here .. "/down/file")).code)
  end)

  it("that is not there is an error", function()
    assert.equal("io", select(2, files:upload_tree(here .. "/none", there)).code)
    assert.equal("not_found", select(2, files:download_tree(there .. "/none", here)).code)
    assert.has_error(function() files:upload_tree(here) end)
    assert.has_error(function() files:upload_tree(here, there, { exclude = { 1 } }) end)
    if not shell("printf 'x' > '" .. here .. "/\255'"):find("%S") then
      assert.matches("not valid UTF%-8", select(2, files:upload_tree(here, there)).message)
    end
  end)

  it("stops where on_progress fails", function()
    make_local_tree()
    local none, err = files:upload_tree(here .. "/src", there, { on_progress = function() error "stop" end })
    assert.is_nil(none)
    assert.equal("handler", err.code)
  end)
end)

describe("a tree on the wire", function()
  local server, box, here

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)
  before_each(function()
    local routes = faults.sandbox_routes(server)
    box = assert(opensandbox.create(routes.options(opensandbox)))
    here = shell("mktemp -d"):match("%S+")
  end)
  after_each(function()
    box:close()
    server:reset()
    shell("rm -rf", here)
  end)

  local function info(path, kind)
    return { path = path, type = kind or "file", size = 1, mode = 644, created_at = "2026-01-02T03:04:05Z",
      modified_at = "2026-01-02T03:04:05Z" }
  end

  it("is refused when the server lists what is not below the directory", function()
    server:route("GET", "/execd/files/info", faults.json(200, { ["/d"] = info("/d", "directory") }))
    server:route("GET", "/execd/files/download", faults.answer(200, "x"))
    for _, path in ipairs { "/e/f", "/d/../f", "/d/a/../../../f", "/d//f", "/d/./f", "/dd/f", "/d", "/d/", "f", "/d/..", "/d/a\0b" } do
      server:route("GET", "/execd/directories/list", faults.json(200, { info "/d/fine", info(path) }))
      local none, err = box.files:download_tree("/d", here .. "/down")
      assert.is_nil(none)
      assert.equal("protocol", err.code, path)
    end
    assert.equal("", shell("ls", here))
    server:route("GET", "/execd/directories/list", faults.json(200, { info "/d/...", info "/d/..f/g" }))
    assert.equal(2, assert(box.files:download_tree("/d", here .. "/down")).files)
    assert.equal("x", read_local(here .. "/down/..f/g"))
  end)
end)

describe("a resumed download", function()
  local server, box, here, target
  local CONTENT = ("0123456789"):rep(20000)

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)
  before_each(function()
    local routes = faults.sandbox_routes(server)
    box = assert(opensandbox.create(routes.options(opensandbox)))
    here = shell("mktemp -d"):match("%S+")
    target = here .. "/file"
  end)
  after_each(function()
    box:close()
    server:reset()
    shell("rm -rf", here)
  end)

  local function tell(size, changed)
    return faults.json(200, {
      ["/f"] = { path = "/f", type = "file", size = size or #CONTENT, modified_at = changed or "2026-01-02T03:04:05Z" },
    })
  end

  local function cut(from, bytes)
    local headers = { ["Content-Length"] = tostring(#CONTENT - from) }
    if from > 0 then headers["Content-Range"] = ("bytes %d-%d/%d"):format(from, #CONTENT - 1, #CONTENT) end
    return faults.join(faults.head(from > 0 and 206 or 200, headers), { { send = CONTENT:sub(from + 1, from + bytes) }, { close = true } })
  end

  local function rest(from)
    return faults.answer(206, CONTENT:sub(from + 1), { ["Content-Range"] = ("bytes %d-%d/%d"):format(from, #CONTENT - 1, #CONTENT) })
  end

  local function ranges()
    local list = {}
    for i, request in ipairs(server:requests "/execd/files/download") do list[i] = request.headers.range or "whole" end
    return list
  end

  it("goes on by itself as long as bytes come, and is identical", function()
    server:route("GET", "/execd/files/info", tell())
    server:route("GET", "/execd/files/download", cut(0, 70000), cut(70000, 50000), rest(120000))
    local last = 0
    assert.is_true(box.files:download("/f", target, { resume = true, on_progress = function(done, total)
      assert(done >= last and total == #CONTENT)
      last = done
    end }))
    assert.equal(CONTENT, read_local(target))
    assert.equal(#CONTENT, last)
    assert.same({ "whole", "bytes=70000-", "bytes=120000-" }, ranges())
    assert.equal("file\n", shell("ls", here))
  end)

  it("goes on in a later call, where an earlier one ended", function()
    write_local(target, "old")
    server:route("GET", "/execd/files/info", tell())
    server:route("GET", "/execd/files/download", cut(0, 70000), faults.json(403, { message = "not now" }))
    local none, err = box.files:download("/f", target, { resume = true })
    assert.is_nil(none)
    assert.equal("forbidden", err.code)
    assert.equal(70000, err.partial)
    assert.equal("old", read_local(target))
    server:route("GET", "/execd/files/download", rest(70000))
    assert.is_true(box.files:download("/f", target, { resume = true }))
    assert.equal(CONTENT, read_local(target))
    assert.same({ "whole", "bytes=70000-", "bytes=70000-" }, ranges())
  end)

  it("begins anew for a file that changed, and for a server that sends no parts", function()
    server:route("GET", "/execd/files/info", tell(#CONTENT, "2026-01-01T00:00:00Z"), tell())
    server:route("GET", "/execd/files/download", cut(0, 70000), faults.json(403, { message = "not now" }), faults.answer(200, CONTENT))
    assert.is_nil((box.files:download("/f", target, { resume = true })))
    assert.is_true(box.files:download("/f", target, { resume = true }))
    assert.equal(CONTENT, read_local(target))
    assert.same({ "whole", "bytes=70000-", "whole" }, ranges())

    server:route("GET", "/execd/files/download", cut(0, 70000), faults.answer(200, CONTENT))
    assert.is_true(box.files:download("/f", target, { resume = true }))
    assert.equal(CONTENT, read_local(target))
  end)

  it("of a file that changes meanwhile is an error and leaves the old one", function()
    write_local(target, "old")
    server:route("GET", "/execd/files/info", tell(), tell(#CONTENT, "2026-01-01T00:00:00Z"))
    server:route("GET", "/execd/files/download", faults.answer(200, CONTENT))
    local none, err = box.files:download("/f", target, { resume = true })
    assert.is_nil(none)
    assert.equal("conflict", err.code)
    assert.equal("old", read_local(target))
  end)

  it("that cannot be is told: no local path, a missing file, no folder", function()
    assert.has_error(function() box.files:download("/f", function() end, { resume = true }) end)
    assert.has_error(function() box.files:download("/f", target, { resume = true, range = { 1 } }) end)
    server:route("GET", "/execd/files/info", faults.json(404, { code = "FILE_NOT_FOUND", message = "no" }))
    assert.equal("not_found", select(2, box.files:download("/f", target, { resume = true })).code)
    server:route("GET", "/execd/files/info", tell())
    assert.equal("io", select(2, box.files:download("/f", here .. "/none/file", { resume = true })).code)
    assert.equal("", shell("ls", here))
  end)

  it("works with the embedded runtime, also of an empty file", function()
    local real = assert(opensandbox.create())
    assert(real.files:write("/tmp/f", CONTENT))
    assert(real.files:write("/tmp/empty", ""))
    assert.is_true(real.files:download("/tmp/f", target, { resume = true }))
    assert.equal(CONTENT, read_local(target))
    assert.is_true(real.files:download("/tmp/empty", target, { resume = true }))
    assert.equal("", read_local(target))
    real:kill()
    real:close()
  end)
end)
