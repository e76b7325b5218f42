-- TLS, against openssl's own test server.
local core = require "opensandbox.core"
local http = require "opensandbox.http"
local opensandbox = require "opensandbox"
local task = require "opensandbox.task"

describe("TLS", function()
  local folder, certificate, server, url

  local function shell(command)
    assert(os.execute(command .. " >/dev/null 2>&1"))
  end

  --- Reads the server's output up to a line with `pattern` and gives its first capture.
  local function await_line(pattern)
    local deadline = core.now() + 20
    while true do
      local line, ended = server:read_line()
      local found = line and line:match(pattern)
      if found then return found end
      if not line then
        assert(not ended, "openssl s_server ended")
        assert(task.await(server, deadline), "openssl s_server does not say " .. pattern)
      end
    end
  end

  setup(function()
    folder = os.tmpname()
    os.remove(folder)
    shell("mkdir " .. folder)
    certificate = folder .. "/cert.pem"
    shell(("openssl req -x509 -newkey rsa:2048 -nodes -keyout %s/key.pem -out %s -days 2 -subj /CN=localhost "
      .. "-addext subjectAltName=DNS:localhost"):format(folder, certificate))
  end)

  teardown(function()
    shell("rm -r " .. folder)
  end)

  before_each(function()
    -- every connection's handshake is printed, and what is typed on stdin is sent: nothing
    server = assert(core.process { argv = { "sh", "-c", ("exec stdbuf -oL openssl s_server -accept 127.0.0.1:0 -cert %s -key %s/key.pem "
      .. "-alpn h2,http/1.1 2>/dev/null"):format(certificate, folder) } })
    url = "https://localhost:" .. await_line "^ACCEPT .*:(%d+)$"
  end)

  after_each(function()
    server:kill(9)
    server:close()
  end)

  local function get(tls, call)
    local connection = opensandbox.connection { domain = url, api_key = "k", retry = false, tls = tls }
    return call(core.state(connection, "connection"), { method = "GET", base = url, path = "/", timeout = 0.5 })
  end

  it("refuses a certificate that nobody vouches for, before any byte of the request is sent", function()
    local _, err = get(nil, http.call)
    assert.equal("tls", err.code)
    assert.truthy(err.message:find("localhost", 1, true))
  end)

  it("accepts it with ca_file, or where verify is false", function()
    local _, err = get({ ca_file = certificate }, http.call)
    assert.equal("timeout", err.code) -- the handshake went well; this server then says nothing
    _, err = get({ verify = false }, http.call)
    assert.equal("timeout", err.code)
  end)

  it("says so when a CA file cannot be read", function()
    local _, err = get({ ca_file = folder .. "/missing.pem" }, http.call)
    assert.equal("tls", err.code)
  end)

  local ALPN = "^ALPN protocols advertised by the client: (.*)$"

  it("offers HTTP/2 for calls", function()
    get({ ca_file = certificate }, http.call)
    assert.truthy(await_line(ALPN):find("h2", 1, true))
  end)

  it("offers only HTTP/1.1 for streams, whose pauses HTTP/2 does not pass on", function()
    get({ ca_file = certificate }, http.stream)
    assert.equal("http/1.1", await_line(ALPN))
  end)
end)
