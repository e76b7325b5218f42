--- Runs code in a sandbox from Neovim. The editor stays responsive: all waiting is done by a task.
local opensandbox = require "opensandbox"

local M = {}

local interpreters = { python = "python3 -", sh = "sh", bash = "bash", lua = "lua -", javascript = "node -", perl = "perl" }

local sandbox -- made at the first run
local running -- the task of the run that is under way
local output -- its buffer

--- The output's buffer, empty and shown in a split.
local function show_output()
  if not output or not vim.api.nvim_buf_is_valid(output) then
    output = vim.api.nvim_create_buf(false, true)
    vim.api.nvim_buf_set_name(output, "sandbox output")
  end
  vim.api.nvim_buf_set_lines(output, 0, -1, true, {})
  if vim.fn.bufwinid(output) == -1 then
    vim.cmd "botright 12split"
    vim.api.nvim_win_set_buf(0, output)
    vim.cmd "wincmd p"
  end
end

local function show(line)
  if not vim.api.nvim_buf_is_valid(output) then return end
  local is_empty = vim.api.nvim_buf_line_count(output) == 1 and vim.api.nvim_buf_get_lines(output, 0, 1, true)[1] == ""
  vim.api.nvim_buf_set_lines(output, is_empty and 0 or -1, -1, true, { line })
  local window = vim.fn.bufwinid(output)
  if window ~= -1 then vim.api.nvim_win_set_cursor(window, { vim.api.nvim_buf_line_count(output), 0 }) end
end

local function run(command, code)
  if not sandbox then
    local err
    sandbox, err = opensandbox.create()
    if not sandbox then return show("no sandbox: " .. tostring(err)) end
  end
  local result, err = sandbox.commands:run(command, { stdin = code, on_stdout = show, on_stderr = show })
  show(result and ("-- exit code %d"):format(result.exit_code) or "-- " .. tostring(err))
end

--- @param lines list of strings
--- @param filetype string
function M.run(lines, filetype)
  local command = interpreters[filetype]
  if not command then return vim.notify("SandboxRun: no interpreter for '" .. filetype .. "'", vim.log.levels.WARN) end
  M.stop()
  opensandbox.adapters.nvim.start()
  show_output()
  running = opensandbox.spawn(run, command, table.concat(lines, "\n") .. "\n")
end

--- Ends the run; its command in the sandbox, too.
function M.stop()
  if running then running:cancel() end
  running = nil
end

--- Ends everything. This waits for the sandbox to go.
function M.close()
  M.stop()
  if sandbox then sandbox:kill() end
  sandbox = nil
  opensandbox.adapters.nvim.stop()
end

return M
