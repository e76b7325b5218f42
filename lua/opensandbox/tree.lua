--- Copies of whole directories: `files:upload_tree` and `files:download_tree`.
--
-- Both walk the tree first, so that progress has a total. Symbolic links and special files are passed over; permission bits go along.
local core = require "opensandbox.core"
local errors = require "opensandbox.errors"
local json = require "opensandbox.json"
local options = require "opensandbox.options"

local M = {}

-- What one upload request takes: many small files go together.
local BATCH_FILES, BATCH_BYTES = 64, 4 * 1024 * 1024
local WHOLE_TREE = 1000 -- levels

local FIELDS = {
  exclude = { type = { "string", "list", "function" } }, on_progress = { type = "function" }, timeout = { type = "duration" },
}
local check_upload = options.declare("files:upload_tree", FIELDS)
local check_download = options.declare("files:download_tree", FIELDS)

local function io_error(problem)
  return errors.new { code = "io", message = problem }
end

-- ------------------------------------------------------------------------------------------------------------------
-- what is left out

--- A glob as a Lua pattern for a path that begins with a slash: `*` and `?` stay within a name, `**` goes across folders.
local function pattern_of(glob)
  local pattern = glob:gsub("[%^$()%%.%[%]+%-]", "%%%0"):gsub("%*%*/", "\1"):gsub("%*%*", "\2"):gsub("%*", "[^/]*"):gsub("%?", "[^/]")
  return "^/" .. pattern:gsub("\1", ".*%%f[^/]"):gsub("\2", ".*") .. "$"
end

--- A function(relative path) → is it left out? Globs with a slash are for the whole path, others for the name.
local function excluder(exclude)
  if exclude == nil then return function() return false end end
  if type(exclude) == "function" then return exclude end
  local names, paths = {}, {}
  for i, glob in ipairs(type(exclude) == "string" and { exclude } or exclude) do
    options.argument(("option 'exclude[%d]'"):format(i), glob, "string")
    glob = glob:gsub("/+$", "")
    local list = glob:find("/", 1, true) and paths or names
    list[#list + 1] = pattern_of((glob:gsub("^/+", "")))
  end
  return function(path)
    local name = "/" .. path:match("[^/]*$")
    for _, pattern in ipairs(names) do
      if name:find(pattern) then return true end
    end
    for _, pattern in ipairs(paths) do
      if ("/" .. path):find(pattern) then return true end
    end
    return false
  end
end

local function new_plan()
  return { directories = {}, files = {}, skipped = {}, bytes = 0 }
end

local function summary(plan)
  return { directories = #plan.directories, files = #plan.files, bytes = plan.bytes, skipped = plan.skipped }
end

--- A function(bytes of the file under way, its path) that tells how far the whole tree is.
local function progress_of(opts, plan)
  local state = { done = 0 }
  if opts.on_progress then
    function state.report(more, path) return opts.on_progress(math.min(state.done + more, plan.bytes), plan.bytes, path) end
  end
  return state
end

-- ------------------------------------------------------------------------------------------------------------------
-- up

--- Adds what is in a local directory to the plan. → nil, or an error
local function walk_local(plan, root, prefix, is_excluded)
  local names, problem = core.path_entries(prefix == "" and root or root .. "/" .. prefix)
  if not names then return io_error(problem) end
  table.sort(names)
  for _, name in ipairs(names) do
    local path = prefix == "" and name or prefix .. "/" .. name
    if not is_excluded(path) then
      local kind, size, mode = core.path_info(root .. "/" .. path)
      if not kind then return io_error(size) end
      if not pcall(json.encode, name) then return io_error(("the name of %s/%s is not valid UTF-8"):format(root, path)) end
      if kind == "directory" then
        plan.directories[#plan.directories + 1] = path
        local err = walk_local(plan, root, path, is_excluded)
        if err then return err end
      elseif kind == "file" then
        plan.files[#plan.files + 1] = { path = path, size = size, mode = mode }
        plan.bytes = plan.bytes + size
      else
        plan.skipped[#plan.skipped + 1] = path
      end
    end
  end
end

--- Splits files into lists that one request each takes.
local function batches_of(files)
  local batches, current, bytes = {}, nil, 0
  for _, file in ipairs(files) do
    if not current or #current >= BATCH_FILES or bytes + file.size > BATCH_BYTES then
      current, bytes = {}, 0
      batches[#batches + 1] = current
    end
    current[#current + 1] = file
    bytes = bytes + file.size
  end
  return batches
end

--- See `files:upload_tree`.
-- @tparam table io what files.lua lends: `make_directories(paths)`, `upload(list of {local_path, path, size, mode}, on_progress)`
function M.upload(io, local_dir, dir, opts)
  opts = check_upload(opts)
  local plan = new_plan()
  local err = walk_local(plan, local_dir, "", excluder(opts.exclude))
  if err then return nil, err end
  local progress = progress_of(opts, plan)
  local function remote(path) return (dir:gsub("/+$", "")) .. "/" .. path end

  local paths = { dir }
  for i, path in ipairs(plan.directories) do paths[i + 1] = remote(path) end
  local ok
  ok, err = io.make_directories(paths, opts.timeout)
  if not ok then return nil, err end
  for _, batch in ipairs(batches_of(plan.files)) do
    local list, bytes = {}, 0
    for i, file in ipairs(batch) do
      list[i] = { local_path = local_dir .. "/" .. file.path, path = remote(file.path), size = file.size, mode = file.mode }
      bytes = bytes + file.size
    end
    local last = batch[#batch].path
    ok, err = io.upload(list, opts.timeout, progress.report and function(done) progress.report(math.min(done, bytes), last) end)
    if not ok then return nil, err end
    progress.done = progress.done + bytes
  end
  return summary(plan)
end

-- ------------------------------------------------------------------------------------------------------------------
-- down

--- The path of a listed entry below the root, made of plain names only; nil for anything that could lead elsewhere.
local function relative_path(root, path)
  if type(path) ~= "string" or path:sub(1, #root + 1) ~= root .. "/" then return nil end
  path = path:sub(#root + 2)
  for name in (path .. "/"):gmatch("(.-)/") do
    if name == "" or name == "." or name == ".." or name:find("%z") then return nil end
  end
  return path
end

--- Is a path, or one of the folders above it, left out? What was decided for a folder holds for all below.
local function is_left_out(path, decided, is_excluded)
  local known = decided[path]
  if known ~= nil then return known end
  local folder = path:match("^(.*)/[^/]*$")
  known = folder and is_left_out(folder, decided, is_excluded) or is_excluded(path)
  decided[path] = known
  return known
end

local function plan_download(root, entries, is_excluded)
  local plan, decided = new_plan(), {}
  for _, entry in ipairs(entries) do
    local path = relative_path(root, entry.path)
    if not path then
      local message = ("the server lists %q, which is not below %s"):format(tostring(entry.path):sub(1, 200), root)
      return nil, errors.transport("protocol", message)
    end
    if not is_left_out(path, decided, is_excluded) then
      if entry.type == "directory" then
        plan.directories[#plan.directories + 1] = path
      elseif entry.type == "file" then
        plan.files[#plan.files + 1] = { path = path, remote = entry.path, size = entry.size or 0, mode = entry.mode }
        plan.bytes = plan.bytes + (entry.size or 0)
      else
        plan.skipped[#plan.skipped + 1] = path
      end
    end
  end
  table.sort(plan.directories)
  return plan
end

--- Makes a folder below local_dir, and those above it. One that is a symbolic link is refused: what is written through it would land
-- elsewhere. → nil, or an error
local function make_local(local_dir, path, made)
  if made[path] then return nil end
  local folder = path:match("^(.*)/[^/]*$")
  local err = folder and make_local(local_dir, folder, made)
  if err then return err end
  local full = local_dir .. "/" .. path
  local kind, problem, is_missing = core.path_info(full)
  if not kind then
    if is_missing then kind, problem = core.make_directory(full) end
    if not kind then return io_error(problem) end
  elseif kind ~= "directory" then
    return io_error(("%s is a %s where a directory is meant"):format(full, kind == "symlink" and "symbolic link" or kind))
  end
  made[path] = true
end

--- Makes local_dir itself, and those above it; there symbolic links are the user's own.
local function make_root(local_dir)
  if core.path_entries(local_dir) then return nil end
  local folder = local_dir:match("^(.*)/[^/]+/*$")
  if folder and folder ~= "" then
    local err = make_root(folder)
    if err then return err end
  end
  local made, problem = core.make_directory(local_dir)
  if not made then return io_error(problem) end
end

--- See `files:download_tree`.
-- @tparam table io what files.lua lends: `info(path)`, `list(path, depth)`, `download(path, local_path, on_progress)`
function M.download(io, dir, local_dir, opts)
  opts = check_download(opts)
  local is_excluded = excluder(opts.exclude)
  local info, err = io.info(dir, opts.timeout) -- its path is the one that the list will begin with
  if not info then return nil, err end
  local entries, plan
  entries, err = io.list(dir, WHOLE_TREE, opts.timeout)
  if not entries then return nil, err end
  plan, err = plan_download((tostring(info.path):gsub("/+$", "")), entries, is_excluded)
  if not plan then return nil, err end

  local progress = progress_of(opts, plan)
  err = make_root(local_dir)
  if err then return nil, err end
  local made = {}
  for _, path in ipairs(plan.directories) do
    err = make_local(local_dir, path, made)
    if err then return nil, err end
  end
  for _, file in ipairs(plan.files) do
    local folder = file.path:match("^(.*)/[^/]*$")
    err = folder and make_local(local_dir, folder, made)
    if err then return nil, err end
    local local_path = local_dir .. "/" .. file.path
    local ok
    ok, err = io.download(file.remote, local_path, opts.timeout, progress.report and function(done)
      progress.report(math.min(done, file.size), file.path)
    end)
    if not ok then return nil, err end
    if file.mode then core.set_mode(local_path, file.mode) end
    progress.done = progress.done + file.size
  end
  return summary(plan)
end

return M
