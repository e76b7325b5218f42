--- Files of a sandbox: `sandbox.files`. Reading, writing and transfers stream; memory stays flat.
local core = require "opensandbox.core"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local json = require "opensandbox.json"
local options = require "opensandbox.options"
local record = require "opensandbox.record"
local target = require "opensandbox.target"
local task = require "opensandbox.task"

local CHUNK = 256 * 1024

local TIMEOUT = { type = "duration" }
local MODE = { type = { "string", "number" } }
local OWNER, GROUP = { type = "string" }, { type = "string" }
local CONTENT = { "string", "function", "file" }

local file_info = record { mode = record.mode, created_at = record.time, modified_at = record.time }

local function declare(id, method, path, more)
  local declaration = { id = id, plane = "execd", method = method, path = path }
  for key, value in pairs(more or {}) do declaration[key] = value end
  return endpoint(declaration)
end

local get_info = declare("getFilesInfo", "GET", "/files/info", { returns = record.map(file_info) })
local remove_files = declare("removeFiles", "DELETE", "/files")
local set_permissions = declare("chmodFiles", "POST", "/files/permissions", { idempotent = true })
local rename_files = declare("renameFiles", "POST", "/files/mv")
local search_files = declare("searchFiles", "GET", "/files/search", { returns = record.list(file_info) })
local replace_content = declare("replaceContent", "POST", "/files/replace", { returns = record.map(record {}) })
local upload_file = declare("uploadFile", "POST", "/files/upload")
local download_file = declare("downloadFile", "GET", "/files/download", { returns = "response" })
local open_file = declare("openFile", "GET", "/files/download", { stream = true })
local list_directory = declare("listDirectory", "GET", "/directories/list", { returns = record.list(file_info) })
local make_directories = declare("makeDirs", "POST", "/directories", { idempotent = true })
local remove_directories = declare("removeDirs", "DELETE", "/directories")

local ATTRIBUTES = { mode = MODE, owner = OWNER, group = GROUP, timeout = TIMEOUT }
local RANGE = { type = "list", of = "integer" }

local check_call = options.declare("a call", { timeout = TIMEOUT })
local check_read = options.declare("files:read", {
  range = RANGE, offset = { type = "integer" }, limit = { type = "integer" }, timeout = TIMEOUT,
}, { exclusive = { { "range", "offset" }, { "range", "limit" } } })
local check_lines = options.declare("files:lines", { timeout = TIMEOUT })
local check_attributes = options.declare("files:write", ATTRIBUTES)
local check_items = options.declare("files:write_many", {
  files = { type = "list", items = {
    path = { type = "string", required = true }, data = { type = CONTENT, required = true }, mode = MODE, owner = OWNER, group = GROUP,
  } },
})
local check_download = options.declare("files:download", {
  range = RANGE, on_progress = { type = "function" }, resume = { type = "boolean" }, timeout = TIMEOUT,
}, { exclusive = { { "range", "resume" } } })
local check_upload = options.declare("files:upload", {
  mode = MODE, owner = OWNER, group = GROUP, on_progress = { type = "function" }, timeout = TIMEOUT,
})
local check_list = options.declare("files:list", { depth = { type = "integer", default = 1 }, timeout = TIMEOUT })
local check_moves = options.declare("files:move", {
  moves = { type = "list", items = { src = { type = "string", required = true }, dest = { type = "string", required = true } } },
})
local check_entries = options.declare("files:make_directory", {
  entries = { type = "list", items = { path = { type = "string", required = true }, mode = MODE, owner = OWNER, group = GROUP } },
})
local check_replacement = options.declare("files:replace", {
  old = { type = "string", required = true }, new = { type = "string", required = true },
})

-- ------------------------------------------------------------------------------------------------------------------
-- what arguments become on the wire

--- A mode as the wire has it: a number whose decimal digits are the octal digits.
local function wire_mode(mode)
  if mode == nil then return nil end
  local digits = type(mode) == "number" and mode >= 0 and mode == math.floor(mode) and ("%d"):format(mode) or mode
  if type(digits) ~= "string" or not digits:find("^[0-7]+$") or #digits > 5 or #digits:gsub("^0+", "") > 4 then
    errors.raise(("mode must have octal digits as in \"755\", got %s"):format(tostring(mode):sub(1, 20)))
  end
  local number = math.floor(tonumber(digits))
  if number == 0 then errors.raise("mode 0 cannot be set: servers read it as 'leave it as it is'") end
  return number
end

local function attributes(entry)
  return { mode = wire_mode(entry.mode), owner = entry.owner, group = entry.group }
end

local function check_path(name, value)
  options.argument(name, value, "string")
  if value == "" then errors.raise(name .. " must not be empty") end
  if value:find("%z") then errors.raise(name .. " must not contain NUL") end
  return value
end

--- A path or a list of paths, as a list.
local function check_paths(name, value)
  options.argument(name, value, { "string", "list" })
  if type(value) == "string" then return { check_path(name, value) } end
  local paths = {}
  for i, path in ipairs(value) do paths[i] = check_path(("%s[%d]"):format(name, i), path) end
  return paths
end

local function path_query(paths)
  local query = {}
  for i, path in ipairs(paths) do query[i] = { "path", path } end
  return query
end

--- The Range header of {first, last}, {first} or {-count}.
local function range_header(range)
  if not range then return nil end
  local first, last = range[1], range[2]
  if #range == 1 and first < 0 then return ("bytes=-%d"):format(-first) end
  if #range == 1 then return ("bytes=%d-"):format(first) end
  if #range ~= 2 or first < 0 or last < first then
    errors.raise("option 'range' must be {first, last}, {first} or {-count}")
  end
  return ("bytes=%d-%d"):format(first, last)
end

-- ------------------------------------------------------------------------------------------------------------------
-- reading

--- Where files are: the sandbox's execd, or, for the files of an isolated session, the session's addresses in it.
local function place_of(state, timeout)
  local execd, err = target.plane(state.sandbox or state, "execd", { timeout = timeout })
  if not execd or not state.prefix then return execd, err end
  return setmetatable({ base = execd.base .. state.prefix }, { __index = execd, __newindex = execd })
end

--- Asks execd: (state, endpoint, request) → its value, or nil, err.
local function ask(state, call, request)
  local place, err = place_of(state, request.timeout)
  if not place then return nil, err end
  return call(place, request)
end

--- A server that ignores the range sends the whole file: that must not be taken for the part. (An empty file comes whole.)
local function check_partial(range, response)
  if not range or response.status == 206 or response.headers["content-length"] == "0" then return response end
  return nil, errors.transport("protocol", "the server does not send parts of files: it answered the range with the whole file", {
    status = response.status, request_id = response.request_id,
  })
end

local methods = {}

--- Reads a file, or a part of it. `GET /files/download`
-- @tparam string path
-- @tparam[opt] table opts `range` (bytes from 0: `{first, last}` inclusive, `{first}` to the end, `{-count}` the last ones), or lines
-- from 1: `offset` (first line) and `limit` (how many; lines come joined by "\n"); `timeout`
-- @treturn string|nil bytes
-- @treturn table err `not_found`, `invalid` for a range past the end
function methods:read(path, opts)
  local state = core.state(self, "files")
  check_path("path", path)
  opts = check_read(opts)
  local query = { { "path", path } }
  for _, name in ipairs { "offset", "limit" } do
    if opts[name] then
      if opts[name] < 1 then errors.raise(("option '%s' counts from 1"):format(name)) end
      query[#query + 1] = { name, ("%d"):format(opts[name]) }
    end
  end
  local request = { query = query, headers = { Range = range_header(opts.range) }, timeout = opts.timeout }
  local response, err = ask(state, download_file, request)
  if response then response, err = check_partial(opts.range, response) end
  if not response then return nil, err end
  return response.body
end

--- The next bytes of an open file, nil at its end. Raises the error of a stream that breaks off.
local function read_stream(stream)
  local transfer = stream.transfer
  while true do
    task.await(transfer)
    local chunk = transfer:read()
    if chunk then return chunk end
    if transfer:done() then
      local code, message = transfer:failure()
      transfer:cancel()
      if code then error(errors.transport(code, message, { method = stream.method, url = stream.url }), 0) end
      return nil
    end
  end
end

--- An iterator over lines that come in chunks from `read`.
local function split_lines(read)
  local buffer, position, ended = "", 1, false
  return function()
    local pieces
    while true do
      local finish = buffer:find("\n", position, true)
      if finish then
        local line = buffer:sub(position, finish - 1)
        position = finish + 1
        if pieces then
          pieces[#pieces + 1] = line
          return table.concat(pieces)
        end
        return line
      end
      local rest = buffer:sub(position)
      if rest ~= "" then
        pieces = pieces or {}
        pieces[#pieces + 1] = rest
      end
      local chunk = not ended and read()
      buffer, position = chunk or "", 1
      if not chunk then
        ended = true
        return pieces and table.concat(pieces)
      end
    end
  end
end

--- Iterates over the lines of a file, without their ends; memory stays flat. `GET /files/download`
--
--     for line in assert(files:lines("/var/log/app.log")) do … end
--
-- @tparam string path
-- @tparam[opt] table opts `timeout` (seconds, until the last line is read)
-- @treturn function|nil iterator; it raises the error of a transfer that breaks off. Lua 5.4 ends the transfer when the loop is left early,
-- elsewhere the collector does
-- @treturn table err where the file cannot be opened
function methods:lines(path, opts)
  local state = core.state(self, "files")
  check_path("path", path)
  opts = check_lines(opts)
  local stream, err = ask(state, open_file, { query = { { "path", path } }, timeout = opts.timeout, raw = true })
  if not stream then return nil, err end
  local closer = setmetatable({}, { __close = function() stream.transfer:cancel() end })
  return split_lines(function() return read_stream(stream) end), nil, nil, closer
end

--- Tells about files. `GET /files/info`
-- @tparam string|table path one, or a list
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil `{path=, type="file"|"directory"|"symlink"|"other", size=, mode="644", owner=, group=, created_at=, modified_at=,
-- raw=}`; for a list a map of these by path
-- @treturn table err `not_found` where any is missing
function methods:info(path, opts)
  local state = core.state(self, "files")
  local paths = check_paths("path", path)
  opts = check_call(opts)
  if #paths == 0 then return {} end
  local infos, err = ask(state, get_info, { query = path_query(paths), timeout = opts.timeout })
  if not infos or type(path) == "table" then return infos, err end
  local info = infos[path] or select(2, next(infos))
  if info then return info end
  return nil, errors.transport("decode", "the server's answer says nothing about the path")
end

--- Is there anything at a path? `GET /files/info`
-- @tparam string path
-- @tparam[opt] table opts `timeout`
-- @treturn boolean|nil
-- @treturn table err
function methods:exists(path, opts)
  local state = core.state(self, "files")
  check_path("path", path)
  opts = check_call(opts)
  local infos, err = ask(state, get_info, { query = path_query { path }, timeout = opts.timeout })
  if infos then return true end
  if err.api_code == "FILE_NOT_FOUND" then return false end
  return nil, err
end

--- Lists a directory: its files and directories, depth first. `GET /directories/list`
-- @tparam string path
-- @tparam[opt] table opts `depth` (levels, default 1), `timeout`
-- @treturn table|nil list of infos, as `info` gives them
-- @treturn table err
function methods:list(path, opts)
  local state = core.state(self, "files")
  check_path("path", path)
  opts = check_list(opts)
  local query = { { "path", path }, { "depth", ("%d"):format(opts.depth) } }
  return ask(state, list_directory, { query = query, timeout = opts.timeout })
end

--- Finds files below a directory. `GET /files/search`
-- @tparam string path
-- @tparam[opt="**"] string pattern a glob for the names of files (not their folders)
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil list of infos
-- @treturn table err
function methods:search(path, pattern, opts)
  local state = core.state(self, "files")
  check_path("path", path)
  if pattern ~= nil then options.argument("pattern", pattern, "string") end
  opts = check_call(opts)
  local query = { { "path", path }, { "pattern", pattern or "**" } }
  return ask(state, search_files, { query = query, timeout = opts.timeout })
end

-- ------------------------------------------------------------------------------------------------------------------
-- writing

local function io_error(problem)
  return errors.new { code = "io", message = problem }
end

--- Adds the two parts of one file to a multipart body. `content` is a part: `data`, `source` or `file`.
local function add_parts(parts, path, entry, content)
  local metadata = attributes(entry)
  metadata.path = path
  parts[#parts + 1] = { name = "metadata", filename = "metadata", type = "application/json", data = json.encode(metadata) }
  content.name, content.filename, content.type = "file", "file", "application/octet-stream"
  parts[#parts + 1] = content
end

--- The part of a multipart body for bytes, a function or an open file.
local function content_of(data)
  if type(data) == "string" then return { data = data } end
  if io.type(data) == "file" then
    return { source = function()
      local chunk, problem = data:read(CHUNK)
      if problem then error(io_error("the file handle cannot be read: " .. tostring(problem)), 0) end
      return chunk
    end }
  end
  return { source = data }
end

--- Uploads. A failure to read a local file comes back as it is, not as a handler's.
local function send(state, parts, request)
  request.parts = parts
  request.idempotent = true
  for _, part in ipairs(parts) do
    if part.source then request.idempotent = nil end
  end
  local done, err = ask(state, upload_file, request)
  if done then return true end
  if err.code == "handler" and errors.is(err.cause) and err.cause.code == "io" then err = err.cause end
  return nil, err
end

--- Writes a file, and the folders above it. `POST /files/upload`
-- @tparam string path
-- @param data bytes; or a function that returns the next chunk, nil at the end; or an open file
-- @tparam[opt] table opts `mode` ("644"), `owner`, `group` (names), `timeout`
-- @treturn boolean|nil true
-- @treturn table err
function methods:write(path, data, opts)
  local state = core.state(self, "files")
  check_path("path", path)
  opts = check_attributes(opts)
  local parts = {}
  add_parts(parts, path, opts, content_of(options.argument("data", data, CONTENT)))
  return send(state, parts, { timeout = opts.timeout })
end

--- Writes several files in one request. `POST /files/upload`
-- @tparam table files list of `{path=, data=, mode=, owner=, group=}`
-- @tparam[opt] table opts `timeout`
-- @treturn boolean|nil true
-- @treturn table err
function methods:write_many(files, opts)
  local state = core.state(self, "files")
  options.argument("files", files, "list")
  files = check_items({ files = files }).files
  opts = check_call(opts)
  if #files == 0 then return true end
  local parts = {}
  for _, file in ipairs(files) do add_parts(parts, check_path("path", file.path), file, content_of(file.data)) end
  return send(state, parts, { timeout = opts.timeout })
end

--- Progress of `total` payload bytes out of a transfer's count, which has a little more; the last call says all is done.
local function payload_progress(on_progress, total)
  if not on_progress then return nil end
  local last = -1
  return function(done)
    last = math.min(done, total)
    return on_progress(last, total)
  end, function()
    if last < total then return (task.call_handler(on_progress, total, total)) end
  end
end

--- Copies a local file into the sandbox. Only its bytes are sent, not its name. `POST /files/upload`
-- @tparam string local_path
-- @tparam string path
-- @tparam[opt] table opts `mode`, `owner`, `group`, `on_progress` (function(done, total) in bytes), `timeout`
-- @treturn boolean|nil true
-- @treturn table err `io` where the local file cannot be read
function methods:upload(local_path, path, opts)
  local state = core.state(self, "files")
  check_path("local_path", local_path)
  check_path("path", path)
  opts = check_upload(opts)
  local file, problem = io.open(local_path, "rb")
  if file then
    problem = select(2, file:read(1)) -- a directory opens, but cannot be read
    file:close()
  end
  local size = not problem and core.file_size(local_path)
  if not size then return nil, io_error(("%s cannot be read: %s"):format(local_path, problem or "not a regular file")) end
  local parts = {}
  add_parts(parts, path, opts, { file = local_path, size = size })
  local on_progress, finish = payload_progress(opts.on_progress, size)
  local done, err = send(state, parts, { timeout = opts.timeout, on_progress = on_progress, total = size })
  if done and finish then err = finish() end
  if err then return nil, err end
  return true
end

local function temporary_path(local_path)
  return ("%s.%s-%d.part"):format(local_path, tostring({}):match("%x+$"), os.time())
end

--- Downloads to a temporary file beside the wanted one, and renames it when it is whole.
local function download_to_path(state, local_path, request, range)
  local temporary = temporary_path(local_path)
  local file, problem = io.open(temporary, "wb")
  if not file then return nil, io_error(problem) end
  file:close()
  request.sink = { file = temporary }
  local ok, response, err = task.pcall(ask, state, download_file, request)
  if ok and response then response, err = check_partial(range, response) end
  if ok and response then
    local renamed
    renamed, problem = os.rename(temporary, local_path)
    if renamed then return true end
    err = io_error(problem)
  end
  os.remove(temporary)
  if not ok then error(response, 0) end
  return nil, err
end

--- Copies a file out of the sandbox. `GET /files/download`
-- @tparam string path
-- @tparam string|function sink a local path (written beside it and renamed when whole: a failure leaves an old file as it was), or
-- function(chunk)
-- @tparam[opt] table opts `range` (as for `read`), `on_progress` (function(done, total) in bytes), `timeout`; `resume` = true: what comes
-- is kept in `sink.part` where it breaks off, and the next call goes on from there, if the file is still the same
-- @treturn boolean|nil true
-- @treturn table err `handler` where the function raised, `io` where the local file cannot be written
function methods:download(path, sink, opts)
  local state = core.state(self, "files")
  check_path("path", path)
  options.argument("the second argument of download", sink, { "string", "function" })
  opts = check_download(opts)
  local request = {
    query = { { "path", path } }, headers = { Range = range_header(opts.range) }, timeout = opts.timeout, on_progress = opts.on_progress,
  }
  if opts.resume then
    if type(sink) ~= "string" then errors.raise("option 'resume' needs a local path to download to") end
    return require("opensandbox.resume").download(function() return self:info(path, { timeout = opts.timeout }) end, function(more)
      more.query = request.query
      return ask(state, download_file, more)
    end, check_path("local_path", sink), opts)
  end
  if type(sink) == "string" then return download_to_path(state, check_path("local_path", sink), request, opts.range) end
  request.sink = sink
  local response, err = ask(state, download_file, request)
  if response then response, err = check_partial(opts.range, response) end
  if not response then return nil, err end
  return true
end

-- ------------------------------------------------------------------------------------------------------------------
-- whole directories

--- Copies a local directory into the sandbox, several small files in a request. Existing files are overwritten, others stay.
-- `POST /directories`, `POST /files/upload`
-- @tparam string local_dir
-- @tparam string dir made where it is missing
-- @tparam[opt] table opts
--
-- * `exclude` a glob, a list of globs, or function(relative path) → boolean. A glob without a slash is for names (`"*.o"`), one with a
--   slash for the path below local_dir (`"build/**"`); an excluded directory is left out with all that is in it
-- * `on_progress` function(done, total, relative path) in bytes; `timeout` seconds for each request
--
-- @treturn table|nil `{files=, directories=, bytes=, skipped={relative paths of symbolic links and special files}}`
-- @treturn table err
function methods:upload_tree(local_dir, dir, opts)
  local state = core.state(self, "files")
  check_path("local_dir", local_dir)
  check_path("dir", dir)
  return require("opensandbox.tree").upload({
    make_directories = function(paths, timeout) return self:make_directory(paths, { timeout = timeout }) end,
    upload = function(list, timeout, on_progress)
      local parts = {}
      for _, file in ipairs(list) do
        add_parts(parts, file.path, { mode = file.mode ~= "000" and file.mode or nil }, { file = file.local_path, size = file.size })
      end
      return send(state, parts, { timeout = timeout, on_progress = on_progress })
    end,
  }, local_dir, dir, opts)
end

--- Copies a directory out of the sandbox. Existing files are overwritten, others stay; nothing is written outside local_dir, whatever the
-- server lists, and nothing through symbolic links that are in it. `GET /directories/list`, `GET /files/download`
-- @tparam string dir
-- @tparam string local_dir made where it is missing
-- @tparam[opt] table opts as for `upload_tree`
-- @treturn table|nil as `upload_tree` gives it
-- @treturn table err `io` where the local side cannot be written, `protocol` where the server lists what is not in dir
function methods:download_tree(dir, local_dir, opts)
  local state = core.state(self, "files")
  check_path("dir", dir)
  check_path("local_dir", local_dir)
  return require("opensandbox.tree").download({
    info = function(path, timeout) return self:info(path, { timeout = timeout }) end,
    list = function(path, depth, timeout) return self:list(path, { depth = depth, timeout = timeout }) end,
    download = function(path, local_path, timeout, on_progress)
      local request = { query = { { "path", path } }, timeout = timeout, on_progress = on_progress }
      return download_to_path(state, local_path, request)
    end,
  }, dir, local_dir, opts)
end

-- ------------------------------------------------------------------------------------------------------------------
-- changing

--- Moves a file or directory, or several. Folders above the destination are made; an existing destination is an error. `POST /files/mv`
-- @tparam string|table src a path, or a list of `{src=, dest=}`
-- @tparam[opt] string dest
-- @tparam[opt] table opts `timeout`
-- @treturn boolean|nil true
-- @treturn table err
function methods:move(src, dest, opts)
  local state = core.state(self, "files")
  local moves
  if type(src) == "table" then
    moves, opts = check_moves({ moves = src }).moves, dest
  else
    moves = { { src = check_path("src", src), dest = check_path("dest", dest) } }
  end
  opts = check_call(opts)
  if #moves == 0 then return true end
  return ask(state, rename_files, { json = json.array(moves), timeout = opts.timeout })
end

local function remover(call)
  return function(self, path, opts)
    local state = core.state(self, "files")
    local paths = check_paths("path", path)
    opts = check_call(opts)
    if #paths == 0 then return true end
    return ask(state, call, { query = path_query(paths), timeout = opts.timeout })
  end
end

--- Removes files; missing ones are fine. `DELETE /files`
-- @function methods:remove
-- @tparam string|table path one, or a list
-- @tparam[opt] table opts `timeout`
-- @treturn boolean|nil true
-- @treturn table err
methods.remove = remover(remove_files)

--- Removes directories with all that is in them; missing ones are fine. `DELETE /directories`
-- @function methods:remove_directory
-- @tparam string|table path one, or a list
-- @tparam[opt] table opts `timeout`
-- @treturn boolean|nil true
-- @treturn table err
methods.remove_directory = remover(remove_directories)

--- Paths and their attributes as the wire has them: path → {mode, owner, group}. A path, a list of paths (both with the attributes in
-- opts), or a list of `{path=, mode=, owner=, group=}`.
local function attribute_map(paths, opts)
  local map = {}
  if type(paths) == "table" and type(paths[1]) == "table" then
    for _, entry in ipairs(check_entries({ entries = paths }).entries) do map[check_path("path", entry.path)] = attributes(entry) end
  else
    for _, path in ipairs(check_paths("path", paths)) do map[path] = attributes(opts) end
  end
  return map
end

local function attribute_setter(call)
  return function(self, paths, opts)
    local state = core.state(self, "files")
    opts = check_attributes(opts)
    local map = attribute_map(paths, opts)
    if next(map) == nil then return true end
    return ask(state, call, { json = map, timeout = opts.timeout })
  end
end

--- Makes directories, and those above them; existing ones are fine. `POST /directories`
-- @function methods:make_directory
-- @tparam string|table path one, a list, or a list of `{path=, mode=, owner=, group=}`
-- @tparam[opt] table opts `mode`, `owner`, `group` for those that do not say; `timeout`
-- @treturn boolean|nil true
-- @treturn table err
methods.make_directory = attribute_setter(make_directories)

--- Sets mode, owner or group. `POST /files/permissions`
-- @function methods:set_permissions
-- @tparam string|table path one, a list, or a list of `{path=, mode=, owner=, group=}`
-- @tparam[opt] table opts `mode`, `owner`, `group`, `timeout`
-- @treturn boolean|nil true
-- @treturn table err `not_found`
methods.set_permissions = attribute_setter(set_permissions)

local function check_replacements(map)
  local result = {}
  for path, replacement in pairs(options.argument("path", map, "map")) do
    result[check_path("path", path)] = check_replacement(options.argument("the replacement", replacement, "table"))
  end
  return result
end

--- Replaces a text in a file everywhere, or texts in several files. `POST /files/replace`
-- @tparam string|table path a path, or a map of path → `{old=, new=}`
-- @tparam[opt] string old literal text, not empty
-- @tparam[opt] string new
-- @tparam[opt] table opts `timeout`
-- @treturn integer|table|nil how many were replaced; for a map a map of counts by path
-- @treturn table err
function methods:replace(path, old, new, opts)
  local state = core.state(self, "files")
  local replacements
  if type(path) == "table" then
    replacements, opts = check_replacements(path), old
  else
    replacements = { [check_path("path", path)] = check_replacement { old = old, new = new } }
  end
  opts = check_call(opts)
  for _, replacement in pairs(replacements) do
    if replacement.old == "" then errors.raise("the text to replace must not be empty") end
  end
  if next(replacements) == nil then return {} end
  local answer, err = ask(state, replace_content, { query = { verbose = "true" }, json = replacements, timeout = opts.timeout })
  if not answer then return nil, err end
  local counts = {}
  for name, item in pairs(answer) do counts[name] = item.replaced_count end
  if type(path) == "table" then return counts end
  return counts[path] or select(2, next(counts)) or 0
end

core.methods("files", methods)
