-- A shell in a sandbox, in the terminal that this runs in. Ctrl-] detaches; the exit code is the shell's.
--
--   lua5.4 examples/terminal.lua                    a new sandbox, gone when the shell ends
--   lua5.4 examples/terminal.lua SANDBOX            a shell in a sandbox that runs
--   lua5.4 examples/terminal.lua SANDBOX TERMINAL   the shell that was left by Ctrl-], or from which it takes over
local opensandbox = require "opensandbox"

local DETACH = "\29" -- Ctrl-]
local KEY_SECONDS, SIZE_SECONDS = 0.01, 0.5 -- between two looks

local sandbox_id, terminal_id = ...

local function first_line(command)
  local pipe = assert(io.popen(command .. " </dev/tty 2>/dev/null"))
  local line = pipe:read "*l"
  pipe:close()
  return line or ""
end

local function window_size()
  local rows, cols = first_line("stty size"):match "^(%d+) (%d+)$"
  if not rows or tonumber(rows) == 0 or tonumber(cols) == 0 then return 80, 24 end
  return tonumber(cols), tonumber(rows)
end

--- Hands every key through as it is. Returns the terminal, and a function that sets it back to what it was. A process of its own does
-- that, once the pipe to it is closed: so it happens however this program ends.
local function raw_terminal()
  local tty = io.open("/dev/tty", "rb")
  local saved = first_line "stty -g"
  if not tty or not saved:find "^[%w:=-]+$" then
    io.stderr:write "this needs a terminal\n"
    os.exit(2)
  end
  tty:setvbuf "no"
  local guard = assert(io.popen(("trap '' HUP INT QUIT TERM TSTP TTOU; cat >/dev/null; stty '%s' </dev/tty"):format(saved), "w"))
  first_line "stty raw -echo min 0 time 0" -- reading does not wait
  return tty, function() guard:close() end
end

local detached = false

--- Sends what is typed, until the detach key.
local function send_keys(tty, pty)
  while not detached do
    local keys = tty:read(4096)
    if keys then
      local before = keys:match("^(.-)" .. DETACH)
      detached = before ~= nil
      if not pty:write(before or keys) then return end
    else
      opensandbox.sleep(KEY_SECONDS)
    end
  end
  pty:close()
end

local function follow_size(pty, cols, rows)
  while true do
    opensandbox.sleep(SIZE_SECONDS)
    local new_cols, new_rows = window_size()
    if new_cols ~= cols or new_rows ~= rows then
      cols, rows = new_cols, new_rows
      if not pty:resize(cols, rows) then return end
    end
  end
end

--- Runs the shell. Returns its exit code, or nil and why there is none.
local function run(sandbox, tty)
  local cols, rows = window_size()
  local opts = { cols = cols, rows = rows, takeover = true, on_output = function(bytes) io.stdout:write(bytes):flush() end }
  local pty, err
  if terminal_id then pty, err = sandbox.pty:attach(terminal_id, opts) else pty, err = sandbox.pty:open(opts) end
  if not pty then return nil, err end
  terminal_id = pty.id
  local tasks = { opensandbox.spawn(send_keys, tty, pty), opensandbox.spawn(follow_size, pty, cols, rows) }
  local code
  code, err = pty:wait()
  for _, task in ipairs(tasks) do task:cancel() end
  if code then pty:delete() end
  return code, err
end

local sandbox
if sandbox_id then sandbox = assert(opensandbox.connect(sandbox_id)) else sandbox = assert(opensandbox.create()) end
local tty, restore = raw_terminal()
local ok, code, err = xpcall(run, debug.traceback, sandbox, tty)
restore()
local on_server = os.getenv "OPEN_SANDBOX_DOMAIN" or os.getenv "OPEN_SANDBOX_API_KEY"
if detached and on_server then
  print(("\ndetached; to come back: terminal.lua %s %s"):format(sandbox.id, terminal_id))
elseif not sandbox_id then
  sandbox:kill()
end
if not ok then
  io.stderr:write("\n", tostring(code), "\n")
elseif err and not detached then
  io.stderr:write("\n", tostring(err), "\n")
end
os.exit(ok and (code or detached and 0) or 1, true)
