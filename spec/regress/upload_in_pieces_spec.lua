-- libmicrohttpd tells the beginning of a part twice when it has four bytes at most that come in a piece of their own, as from
-- the official Python client: execd took one file for two, and refused the upload.
local ltn12 = require "ltn12"
local runtimes = require "spec.support.runtime"

it("an upload whose parts come in pieces is whole", function()
  local runtime = runtimes.start()
  local id = runtime:create()
  local _, endpoint = runtime:request("GET", "/v1/sandboxes/" .. id .. "/endpoints/44772")
  local pieces = {}
  local function add(name, filename, bytes)
    for _, piece in ipairs { "--bound\r\n", ('Content-Disposition: form-data; name="%s"; filename="%s"\r\n'):format(name, filename),
      "Content-Type: text/plain\r\n\r\n", bytes, "\r\n" } do
      pieces[#pieces + 1] = piece
    end
  end
  for _, name in ipairs { "a", "b" } do
    add("metadata", "metadata", '{"path":"/tmp/' .. name .. '"}')
    add("file", name, "is " .. name)
  end
  pieces[#pieces + 1] = "--bound--\r\n"
  local answer = {}
  local _, status = require "socket.http".request {
    method = "POST", url = "http://" .. endpoint.endpoint .. "/files/upload",
    headers = {
      ["X-EXECD-ACCESS-TOKEN"] = endpoint.headers["X-EXECD-ACCESS-TOKEN"],
      ["Content-Type"] = "multipart/form-data; boundary=bound", ["Transfer-Encoding"] = "chunked",
    },
    source = ltn12.source.table(pieces), sink = ltn12.sink.table(answer),
  }
  assert.equal(200, status, table.concat(answer))
  assert.equal("is a\nis b", (runtime:run(id, "cat /tmp/a; echo; cat /tmp/b")))
  runtime:stop()
end)
