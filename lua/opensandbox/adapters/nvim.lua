--- Lets tasks go on in Neovim, where their handlers may call all of `vim`. A call outside tasks blocks the editor: use
-- `opensandbox.spawn`. Failures of tasks that nobody joins are shown by `vim.notify`.
local attach_luv = require "opensandbox.adapters.luv"
local task = require "opensandbox.task"

return function(opts)
  local vim, scheduler = _G.vim, task.scheduler()
  scheduler.reporter = vim.schedule_wrap(function(text) vim.notify(text, vim.log.levels.ERROR) end)
  local detach = attach_luv({ budget = opts.budget, loop = vim.uv or vim.loop }, vim.schedule)
  return function()
    scheduler.reporter = nil
    detach()
  end
end
