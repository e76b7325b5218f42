--- Files of the server's machine: `agents.files`. Relative paths are under the server's home directory.
local api = require "opensandbox.agent.api"
local errors = require "opensandbox.errors"
local options = require "opensandbox.options"
local processes = require "opensandbox.agent.processes"
local random = require "opensandbox.agent.random"
local record = require "opensandbox.record"
local task = require "opensandbox.task"

local PIECE = 2000000 -- bytes; the server takes 2 MiB

local entry = record { modified = record.time }

local call = {
  entries = api.endpoint { id = "get_v1_fs_entries", method = "GET", path = "/v1/fs/entries", returns = record.list(entry) },
  read = api.endpoint { id = "get_v1_fs_file", method = "GET", path = "/v1/fs/file", returns = "response" },
  write = api.endpoint { id = "put_v1_fs_file", method = "PUT", path = "/v1/fs/file", returns = record {} },
  delete = api.endpoint { id = "delete_v1_fs_entry", method = "DELETE", path = "/v1/fs/entry", returns = record {} },
  mkdir = api.endpoint { id = "post_v1_fs_mkdir", method = "POST", path = "/v1/fs/mkdir", returns = record {} },
  move = api.endpoint { id = "post_v1_fs_move", method = "POST", path = "/v1/fs/move", returns = record {} },
  stat = api.endpoint { id = "get_v1_fs_stat", method = "GET", path = "/v1/fs/stat", returns = entry },
  upload = api.endpoint { id = "post_v1_fs_upload_batch", method = "POST", path = "/v1/fs/upload-batch", returns = record {} },
}

local TIMEOUT = { type = "duration" }
local check_call = options.declare("a call", { timeout = TIMEOUT })
local check_read = options.declare("files:read", { to = { type = { "string", "function" } }, timeout = TIMEOUT })
local check_delete = options.declare("files:delete", { recursive = { type = "boolean", default = false }, timeout = TIMEOUT })
local check_move = options.declare("files:move", { overwrite = { type = "boolean", default = false }, timeout = TIMEOUT })
local check_upload = options.declare("files:upload", { path = { type = "string" }, timeout = TIMEOUT })

local function check_path(path) return options.argument("path", path, "string") end

local files = {}

--- The entries of a directory. `GET /v1/fs/entries`.
-- @tparam[opt] string path (default: the server's home directory)
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil list of `{name=, path=, entry_type="file"|"directory", size=, modified=}`
-- @treturn table err `not_found`
function files.entries(client, path, opts)
  if path ~= nil then check_path(path) end
  return call.entries(client, { query = { path = path }, timeout = check_call(opts).timeout })
end

--- Reads a file. `GET /v1/fs/file`.
-- @tparam string path
-- @tparam[opt] table opts `to`: a local path or function(chunk) that gets the bytes instead; `timeout`
-- @treturn[1] string|integer bytes; their number where `to` got them
-- @treturn[2] nil
-- @treturn[2] table err `not_found`
function files.read(client, path, opts)
  opts = check_read(opts)
  local sink = opts.to
  if type(sink) == "string" then sink = { file = sink } end
  local response, err = call.read(client, { query = { path = check_path(path) }, sink = sink, timeout = opts.timeout })
  if not response then return nil, err end
  return sink and response.received or response.body
end

local function put(client, path, bytes, timeout)
  return call.write(client, { query = { path = path }, body = bytes, timeout = timeout })
end

--- Makes a function that gives the data of a write in pieces of at most PIECE bytes.
local function pieces_of(data)
  if type(data) == "string" then
    local place = 1
    return function()
      if place > #data then return nil end
      local piece = data:sub(place, place + PIECE - 1)
      place = place + #piece
      return piece
    end
  end
  local source = io.type(data) == "file" and function() return data:read(PIECE) end or data
  local rest = ""
  return function()
    while rest and #rest < PIECE do
      local chunk = source()
      if chunk == nil then
        local last = rest
        rest = nil
        return last ~= "" and last or nil
      end
      rest = rest .. chunk
    end
    if not rest then return nil end
    local piece = rest:sub(1, PIECE)
    rest = rest:sub(PIECE + 1)
    return piece
  end
end

local function shell(client, script, ...)
  local result, err = processes.run(client, { command = "sh", args = { "-c", script, "sh", ... }, timeout = 60 })
  if not result then return nil, err end
  if result.exit_code == 0 then return true end
  return nil, errors.new { code = "io", message = ("the pieces of the file cannot be put together: %s"):format(result.stderr) }
end

--- Writes what is longer than a request may be: in pieces beside the file, which takes their place when all are there.
local function write_pieces(client, path, first, second, next_piece, timeout)
  local mark = ".opensandbox-" .. random.hex(6)
  local answer, err = put(client, path .. mark, first, timeout)
  if not answer then return nil, err end
  local whole = answer.path
  local target, piece_path = whole:sub(1, -#mark - 1), whole .. ".piece"
  local total, piece = #first, second
  while piece do
    answer, err = put(client, piece_path, piece, timeout)
    if answer then answer, err = shell(client, 'cat -- "$1" >>"$2" && rm -- "$1"', piece_path, whole) end
    if not answer then break end
    total = total + #piece
    piece = next_piece()
  end
  if answer then
    answer, err = shell(client, 'if [ -d "$2" ]; then echo it is a directory >&2; exit 1; fi; mv -f -- "$1" "$2"', whole, target)
  end
  if not answer then
    task.shield(shell, client, 'rm -f -- "$1" "$2"', piece_path, whole)
    return nil, err
  end
  return { path = target, bytes_written = total }
end

--- Writes a file; directories that are missing are made. More than 2 MiB go in pieces, put together by `sh` on the server's machine;
-- the file is replaced when all are there. `PUT /v1/fs/file`.
-- @tparam string path
-- @tparam string|function|file data bytes, a function that returns chunks and nil at the end, or an open file
-- @tparam[opt] table opts `timeout` of each piece
-- @treturn[1] table `{path=, bytes_written=}`
-- @treturn[2] nil
-- @treturn[2] table err
function files.write(client, path, data, opts)
  check_path(path)
  options.argument("data", data, { "string", "function", "file" })
  local timeout = check_call(opts).timeout
  local next_piece = pieces_of(data)
  local first = next_piece() or ""
  local second = #first == PIECE and next_piece() or nil
  if not second then return put(client, path, first, timeout) end
  return write_pieces(client, path, first, second, next_piece, timeout)
end

--- Removes a file or directory. `DELETE /v1/fs/entry`.
-- @tparam string path
-- @tparam[opt] table opts `recursive` (needed for a directory that is not empty), `timeout`
-- @treturn table|nil `{path=}`
-- @treturn table err
function files.delete(client, path, opts)
  opts = check_delete(opts)
  return call.delete(client, { query = { path = check_path(path), recursive = tostring(opts.recursive) }, timeout = opts.timeout })
end

--- Makes a directory and those above it. `POST /v1/fs/mkdir`.
-- @tparam string path
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil `{path=}`
-- @treturn table err
function files.mkdir(client, path, opts)
  return call.mkdir(client, { query = { path = check_path(path) }, timeout = check_call(opts).timeout })
end

--- Moves a file or directory. `POST /v1/fs/move`.
-- @tparam string from
-- @tparam string to
-- @tparam[opt] table opts `overwrite`, `timeout`
-- @treturn table|nil `{from=, to=}`
-- @treturn table err
function files.move(client, from, to, opts)
  opts = check_move(opts)
  options.argument("from", from, "string")
  options.argument("to", to, "string")
  return call.move(client, { json = { from = from, to = to, overwrite = opts.overwrite }, timeout = opts.timeout })
end

--- What a path is. `GET /v1/fs/stat`.
-- @tparam string path
-- @tparam[opt] table opts `timeout`
-- @treturn table|nil `{path=, entry_type=, size=, modified=}`
-- @treturn table err `not_found`
function files.stat(client, path, opts)
  return call.stat(client, { query = { path = check_path(path) }, timeout = check_call(opts).timeout })
end

--- Unpacks a tar archive (plain, not compressed, at most 2 MiB). `POST /v1/fs/upload-batch`.
-- @tparam string tar bytes
-- @tparam[opt] table opts `path` of the directory to unpack into (default: the server's home directory), `timeout`
-- @treturn[1] table `{paths=, truncated=}`
-- @treturn[2] nil
-- @treturn[2] table err `limit` for a bigger archive
function files.upload(client, tar, opts)
  options.argument("tar", tar, "string")
  opts = check_upload(opts)
  if #tar > api.BODY_LIMIT then
    return nil, errors.new { code = "limit",
      message = ("the archive is %d bytes long; the server takes no more than %d: split it, or write the files one by one"):format(#tar,
        api.BODY_LIMIT) }
  end
  return call.upload(client, {
    query = { path = opts.path }, body = tar, headers = { ["Content-Type"] = "application/x-tar" }, timeout = opts.timeout,
  })
end

api.part("agent_files", files)

return files
