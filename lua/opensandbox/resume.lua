--- Downloads that go on where an earlier one broke off: `files:download(path, local_path, {resume = true})`.
--
-- The bytes that came are kept in `LOCAL_PATH.part`, and beside it, in `LOCAL_PATH.part.of`, what file they are of: its size and the time
-- of its last change. They are used only for a file of which both are still the same, asked before and after.
local core = require "opensandbox.core"
local errors = require "opensandbox.errors"
local task = require "opensandbox.task"

local M = {}

local function io_error(problem)
  return errors.new { code = "io", message = problem }
end

local function read_text(path)
  local file = io.open(path, "rb")
  local text = file and file:read("*a")
  if file then file:close() end
  return text
end

local function write_text(path, text)
  local file, problem = io.open(path, "wb")
  if not file then return nil, io_error(problem) end
  local ok
  ok, problem = file:write(text)
  local closed, close_problem = file:close()
  if ok and closed then return true end
  return nil, io_error(("%s: %s"):format(path, tostring(problem or close_problem)))
end

--- What tells one state of a remote file from another.
local function identity_of(info)
  return ("%s\n%d\n%s\n"):format(info.path, info.size, tostring(info.raw.modified_at))
end

local function start_over(part, identity)
  local ok, err = write_text(part, "")
  if ok then ok, err = write_text(part .. ".of", identity) end
  return ok, err
end

--- Is an answer the rest of the file from `offset` on?
local function is_rest(response, offset, size)
  local first, total = (response.headers["content-range"] or ""):match("^bytes (%d+)%-%d+/(%d+)$")
  return response.status == 206 and tonumber(first) == offset and tonumber(total) == size
end

--- Gets what is missing into `part`. → true, or nil, err, whether to begin anew
local function fetch_rest(ask, part, size, opts)
  local offset = core.file_size(part) or 0
  if offset == size then return true end
  if offset > size then return nil, nil, true end
  local response, err = ask {
    sink = { file = part, append = true }, headers = { Range = offset > 0 and ("bytes=%d-"):format(offset) or nil },
    timeout = opts.timeout, retry = false, -- another attempt would write the same bytes again
    on_progress = opts.on_progress and function(done) opts.on_progress(math.min(offset + done, size), size) end,
  }
  if not response then return nil, err, err.status == 416 end
  if offset > 0 and not is_rest(response, offset, size) then return nil, nil, true end
  return true
end

--- Gets the file, going on by itself as long as attempts bring something.
local function fetch(ask, part, identity, size, opts)
  local began_anew = false
  while true do
    local before = core.file_size(part) or 0
    local ok, err, anew = fetch_rest(ask, part, size, opts)
    if ok then return true end
    if anew and not began_anew then
      began_anew = true
      ok, err = start_over(part, identity)
      if not ok then return nil, err end
    elseif anew then
      return nil, err or errors.transport("protocol", "the server does not send parts of files")
    elseif not err.retryable or (core.file_size(part) or 0) <= before then
      err.partial = core.file_size(part)
      return nil, err
    end
  end
end

--- Downloads, going on from what an earlier attempt left.
-- @tparam function get_info () → info of the remote file, or nil, err
-- @tparam function ask (request) → answer of the download endpoint, or nil, err
-- @tparam string local_path
-- @tparam table opts `on_progress`, `timeout`
-- @treturn boolean|nil true
-- @treturn table err what came so far stays; `err.partial` tells how many bytes
function M.download(get_info, ask, local_path, opts)
  local info, err = get_info()
  if not info then return nil, err end
  if type(info.size) ~= "number" then return nil, errors.transport("decode", "the server does not tell the size of the file") end
  local part, identity = local_path .. ".part", identity_of(info)
  local ok = true
  if read_text(part .. ".of") ~= identity or not core.file_size(part) then ok, err = start_over(part, identity) end
  if ok then ok, err = fetch(ask, part, identity, info.size, opts) end
  if not ok then return nil, err end

  info, err = get_info()
  if not info then return nil, err end
  if identity_of(info) ~= identity or core.file_size(part) ~= info.size then
    start_over(part, identity)
    return nil, errors.new { code = "conflict", message = "the file was changed while it was downloaded", retryable = true }
  end
  local renamed, problem = os.rename(part, local_path)
  os.remove(part .. ".of")
  if not renamed then return nil, io_error(problem) end
  local failure = opts.on_progress and task.call_handler(opts.on_progress, info.size, info.size)
  if failure then return nil, failure end
  return true
end

return M
