-- :SandboxRun runs the buffer's code (or the lines of a range) in a sandbox, with live output in a split; :SandboxStop ends it.
vim.api.nvim_create_user_command("SandboxRun", function(opts)
  require("sandbox_run").run(vim.api.nvim_buf_get_lines(0, opts.line1 - 1, opts.line2, false), vim.bo.filetype)
end, { range = "%", desc = "Run the buffer in a sandbox" })

vim.api.nvim_create_user_command("SandboxStop", function() require("sandbox_run").stop() end, { desc = "Stop what runs in the sandbox" })

vim.api.nvim_create_autocmd("VimLeavePre", {
  callback = function()
    local loaded = package.loaded.sandbox_run
    if loaded then loaded.close() end
  end,
})
