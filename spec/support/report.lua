-- busted output handler: one line per spec file, then what was skipped and why, then what failed and where. For ./dev it
-- keeps a note in the file named by OPENSANDBOX_TEST_COUNTS: the test that runs, at the end "passed failed skipped".
local pretty = require "pl.pretty"

local function text_of(message)
  if type(message) == "string" then
    return message
  end
  local meta = getmetatable(message)
  if type(message) ~= "table" or (meta and meta.__tostring) then
    return tostring(message)
  end
  return pretty.write(message)
end

-- The lines of a traceback that are the project's own.
local function own_frames(traceback)
  local lines = {}
  for line in traceback:gmatch("[^\n]+") do
    if line:find(":%d+:") and not line:find("/busted/") and not line:find("/luassert/") then
      lines[#lines + 1] = line
    end
  end
  return table.concat(lines, "\n")
end

local function indented(text)
  return "    " .. text:gsub("\n", "\n    ")
end

local function note(text)
  local path = os.getenv("OPENSANDBOX_TEST_COUNTS")
  if path then
    local file = assert(io.open(path, "w"))
    file:write(text, "\n")
    file:close()
  end
end

return function(options)
  local busted = require "busted"
  local handler = require "busted.outputHandlers.base"()
  local started, before

  local function totals()
    return { passed = handler.successesCount, failed = handler.failuresCount + handler.errorsCount, skipped = handler.pendingsCount }
  end

  local function place(entry)
    local trace = entry.element.trace or entry.trace
    if trace and trace.short_src and trace.currentline then
      return ("%s:%d: %s"):format(trace.short_src, trace.currentline, entry.name)
    end
    return entry.name
  end

  local function print_failure(entry)
    print("\n" .. (entry.isError and "ERROR " or "FAILED ") .. place(entry))
    print(indented(text_of(entry.message)))
    if (entry.isError or options.verbose) and entry.trace and entry.trace.traceback then
      print(indented(own_frames(entry.trace.traceback)))
    end
  end

  function handler.file_start()
    started, before = busted.monotime(), totals()
    return nil, true
  end

  function handler.file_end(file)
    local after = totals()
    local line = ("%s: %d passed, %d failed, %d skipped, %.1f s"):format(file.name, after.passed - before.passed,
      after.failed - before.failed, after.skipped - before.skipped, busted.monotime() - started)
    print(line)
    io.stdout:flush()
    return nil, true
  end

  function handler.test_start(test)
    note(place(handler.format(test)))
    return nil, true
  end

  function handler.suite_end()
    for _, entry in ipairs(handler.pendings) do
      local reason = entry.message and ": " .. text_of(entry.message):gsub("^[^:\n]+:%d+: ", "") or ""
      print("skipped " .. place(entry) .. reason)
    end
    for _, entry in ipairs(handler.failures) do
      print_failure(entry)
    end
    for _, entry in ipairs(handler.errors) do
      print_failure(entry)
    end
    local sum = totals()
    note(("%d %d %d"):format(sum.passed, sum.failed, sum.skipped))
    return nil, true
  end

  busted.subscribe({ "file", "start" }, handler.file_start)
  busted.subscribe({ "file", "end" }, handler.file_end)
  busted.subscribe({ "test", "start" }, handler.test_start)
  busted.subscribe({ "suite", "end" }, handler.suite_end)

  return handler
end
