-- busted helper for the sanitiser and valgrind runs: collects as early as the collector can, so that an object whose life is
-- held by nothing but luck is gone when it is used next.
local busted = require "busted"

collectgarbage("generational", 1, 10)

busted.subscribe({ "test", "end" }, function()
  collectgarbage()
  collectgarbage()
  return nil, true
end)
