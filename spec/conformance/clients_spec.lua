-- The official clients, unchanged, against the runtime. ./dev conformance installs them and names the folders.
local runtimes = require "spec.support.runtime"

local HERE = "spec/conformance/"

-- name, variable with the folder that the client is installed in, the words that run its script
local clients = {
  { "the Python SDK, asynchronous", "OPENSANDBOX_CONFORMANCE_PYTHON", "%s/bin/python " .. HERE .. "python/conformance.py async" },
  { "the Python SDK, synchronous", "OPENSANDBOX_CONFORMANCE_PYTHON", "%s/bin/python " .. HERE .. "python/conformance.py sync" },
  -- Node looks for modules beside the script
  { "the JavaScript SDK", "OPENSANDBOX_CONFORMANCE_NODE",
    "sh -c 'cp " .. HERE .. "javascript/conformance.mjs \"$0\" && exec node \"$0/conformance.mjs\"' %s" },
}

describe("official clients:", function()
  local runtime

  before_each(function() runtime = runtimes.start() end)
  after_each(function() runtime:stop() end)

  for _, client in ipairs(clients) do
    local name, variable, words = client[1], client[2], client[3]
    it(name .. ", every method", function()
      local folder = os.getenv(variable)
      if not folder then
        pending(variable .. " names no folder with the official client; ./dev conformance installs it where it can")
        return
      end
      local command = ("OPEN_SANDBOX_DOMAIN=%s OPEN_SANDBOX_API_KEY=%s timeout 300 %s 2>&1; echo status $?")
        :format(runtime.url, runtime.api_key, words:format(folder))
      local pipe = assert(io.popen(command))
      local output = pipe:read("*a")
      pipe:close()
      assert.is_true(output:find("\nstatus 0\n", 1, true) ~= nil and not output:find("not ok ", 1, true), output)
    end)
  end
end)
