-- The way out of a sandbox: the runtime's proxy inside its network, and the policy that it enforces. An origin server on 127.0.0.2
-- stands for the public internet; every other address of this machine stays what it is.
local cjson = require "cjson"
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"
local runtimes = require "spec.support.runtime"

local PUBLIC = "127.0.0.2"
local THROUGH = "curl -sS -m 20 --noproxy '' " -- also for addresses of the loopback, which no_proxy names
local STATUS = THROUGH .. "-o /dev/null -w '%%{http_code} %%{http_connect}' "

-- Names for tests, as root alone can make them: in a mount namespace with an /etc/hosts of our own.
local HOSTS = [[
127.0.0.1 localhost
127.0.0.2 example.com a.example.com b.a.example.com example.org
127.0.0.1 inward.example.com
169.254.169.254 metadata.example.com
10.0.0.1 mixed.example.com
127.0.0.2 mixed.example.com
]]

local function with_names(directory)
  local file = assert(io.open(directory .. "/hosts", "wb"))
  file:write(HOSTS)
  file:close()
  return { "unshare", "--mount", "sh", "-c", ("mount --bind %s/hosts /etc/hosts && exec \"$@\""):format(directory), "sh" }
end

local function suite(user)
  local has_names = runtimes.user_id() == 0
  local runtime, origin, directory
  local url -- of the origin

  setup(function()
    directory = runtimes.directory()
    origin = faults.start(PUBLIC)
    url = origin.url
    runtime = runtimes.start {
      user = user, more = { "--proxy-allow-address", PUBLIC }, prefix = has_names and with_names(directory) or nil,
    }
  end)

  teardown(function()
    runtime:stop()
    origin:stop()
    os.execute("rm -rf " .. directory)
  end)

  before_each(function()
    origin:reset()
    origin:route(nil, "/hello", faults.answer(200, "hello"))
  end)

  after_each(function()
    local _, all = runtime:request("GET", "/sandboxes?pageSize=200")
    for _, item in ipairs(all.items) do runtime:request("DELETE", "/sandboxes/" .. item.id) end
  end)

  --- What curl says of a URL, plain and through a tunnel: "200 / 200".
  local function statuses(id, target)
    local plain = runtime:run(id, (STATUS .. "'%s'"):format(target)):match("^%d+")
    local tunnelled = runtime:run(id, (STATUS .. "-p '%s' 2>/dev/null"):format(target))
    local code, connect = tunnelled:match("(%d+) (%d+)$")
    return plain .. " / " .. (connect == "200" and code or connect)
  end

  --- A function for requests to the egress API of a sandbox: (method, path, json, headers) → status, body, headers.
  local function egress(id)
    local status, endpoint = runtime:request("GET", "/v1/sandboxes/" .. id .. "/endpoints/18080")
    assert.equal(200, status)
    return function(method, path, json, headers)
      return runtime:request(method, "http://" .. endpoint.endpoint .. path, { json = json, headers = headers or endpoint.headers })
    end, endpoint
  end

  local function at(name) return ("http://%s:%d/hello"):format(name, origin.port) end

  local function policy(default, ...)
    local rules = {}
    for i, text in ipairs { ... } do
      local action, target = text:match("^(%S+) (.*)$")
      rules[i] = { action = action, target = target }
    end
    return { defaultAction = default, egress = #rules > 0 and rules or nil }
  end

  describe("the proxy", function()
    it("is found by the environment alone", function()
      local id = runtime:create()
      assert.equal("hello", (runtime:run(id, "curl -sS " .. url .. "/hello")))
      assert.equal("hello", (runtime:run(id, "curl -sS -p " .. url .. "/hello")))
      local request = origin:requests("/hello")[1]
      assert.equal(origin.authority, request.headers.host)
      for _, name in ipairs { "proxy-connection", "via", "x-forwarded-for" } do assert.is_nil(request.headers[name]) end
    end)

    it("gives way to what create says", function()
      local id = runtime:create { env = { http_proxy = "http://127.0.0.1:9", NO_PROXY = "*" } }
      assert.equal("http://127.0.0.1:9 http://127.0.0.1:3128 *", (runtime:run(id, "echo $http_proxy $https_proxy $NO_PROXY")))
    end)

    it("is there before the sandbox's own program begins", function()
      local id = runtime:create { entrypoint = { "sh", "-c", ("curl -sS %s/hello >/workspace/got 2>&1; sleep 1000"):format(url) } }
      runtimes.await("what the program got", function() return (runtime:run(id, "cat /workspace/got 2>/dev/null")) == "hello" end)
    end)

    it("passes bodies through, long ones and chunked ones", function()
      local id = runtime:create()
      origin:route("POST", "/take", faults.answer(200, "taken"))
      origin:route("GET", "/big", faults.join(faults.head(200, { ["Content-Length"] = "20000000" }),
        { { send = ("x"):rep(10000), times = 2000 } }))
      local make = "head -c 300000 /dev/zero | tr '\\0' x | "
      assert.equal("taken", (runtime:run(id, make .. "curl -sS --data-binary @- " .. url .. "/take")))
      assert.equal("taken", (runtime:run(id, make .. "curl -sS -T - -X POST " .. url .. "/take")))
      assert.equal("taken", (runtime:run(id, "curl -sS -T - -X POST " .. url .. "/take </dev/null")))
      assert.equal("taken", (runtime:run(id, make .. "curl -sS -p --data-binary @- " .. url .. "/take")))
      local sizes = {}
      for i, request in ipairs(origin:requests("/take")) do sizes[i] = #request.body end
      assert.same({ 300000, 300000, 0, 300000 }, sizes)
      assert.equal("20000000", (runtime:run(id, "curl -sS " .. url .. "/big | wc -c")))
      assert.equal("20000000", (runtime:run(id, "curl -sS -p " .. url .. "/big | wc -c")))
    end)

    it("keeps a connection for several sites, and looks at each request", function()
      local id = runtime:create()
      local got = runtime:run(id, (THROUGH .. "-o /dev/null -o /dev/null -o /dev/null -w '%%{http_code} %%{num_connects}\\n' %s %s %s")
        :format(at(PUBLIC), runtime.url, at(PUBLIC)))
      assert.equal("200 1\n403 0\n200 0", got)
    end)

    it("says what is wrong with a site that does not answer, or a request that is none", function()
      local id = runtime:create()
      local port = require "socket".bind(PUBLIC, 0)
      local _, number = port:getsockname()
      port:close()
      assert.equal("502 / 502", statuses(id, ("http://%s:%s/"):format(PUBLIC, number)))
      assert.equal("502 / 502", statuses(id, "http://" .. ("x"):rep(64) .. ".invalid/")) -- which is not even asked for
      local raw = "printf '%s\\r\\n\\r\\n' | timeout 10 bash -c 'exec 3<>/dev/tcp/127.0.0.1/3128; cat >&3; head -n 1 <&3'"
      for _, line in ipairs { "CONNECT x HTTP/1.1", "CONNECT http://x:80/ HTTP/1.1", "CONNECT x:0 HTTP/1.1", "CONNECT x:99999 HTTP/1.1",
        "CONNECT  HTTP/1.1", "CONNECT a%%20b:80 HTTP/1.1", "CONNECT u@x:80 HTTP/1.1", "GET /hello HTTP/1.1\\r\\nHost: x",
        "GET ftp://x/ HTTP/1.1\\r\\nHost: x", "GET https://x/ HTTP/1.1\\r\\nHost: x" } do
        assert.matches("^HTTP/1.1 400 ", (runtime:run(id, raw:format(line))), 1, false)
      end
      local long = "(printf 'CONNECT x:80 HTTP/1.1\\r\\n'; yes 'a: b' | head -c 20000) | "
      assert.matches("^HTTP/1.1 400 ", (runtime:run(id, long .. raw:match("| (.*)$"))))
    end)

    it("opens no privileged ports but those of the web", function()
      local id = runtime:create()
      for _, port in ipairs { 22, 25, 53, 1023 } do
        assert.equal("403 / 403", statuses(id, ("http://%s:%d/"):format(PUBLIC, port)))
      end
      assert.equal("502 / 502", statuses(id, "http://" .. PUBLIC .. ":443/"))
    end)

    it("ends its connections with the sandbox, and lets go of everything", function()
      -- none are seen but by root: the runtime is closed to its own user
      local function descriptors() return #runtimes.entries("/proc/" .. runtime.pid .. "/fd") end
      runtime:request("DELETE", "/sandboxes/" .. runtime:create())
      local before = descriptors()
      origin:route(nil, "/wait", { { wait = "never" } })
      local id = runtime:create()
      for _, way in ipairs { "", "-p " } do
        runtime:run(id, ("nohup curl -sS %s%s/wait >/dev/null 2>&1 & true"):format(way, url))
      end
      origin:await("/wait", function(requests) return #requests == 2 end)
      assert.equal(204, (runtime:request("DELETE", "/sandboxes/" .. id)))
      origin:await_abort("/wait", 1)
      origin:await_abort("/wait", 2)
      runtimes.await("as many open descriptors as before", function() return descriptors() <= before end)
    end)

    it("keeps no more connections than it has room for, and leaves other sandboxes alone", function()
      local id, other = runtime:create(), runtime:create()
      local hold = "for i in $(seq 300); do exec {fd}<>/dev/tcp/127.0.0.1/3128; done; touch /workspace/held; sleep 1000"
      runtime:run(id, ("nohup bash -c '%s' >/dev/null 2>&1 & echo $! >/workspace/pid"):format(hold))
      runtimes.await("300 connections", function() return (runtime:run(id, "ls /workspace/held 2>/dev/null")) ~= "" end)
      assert.equal("200 / 200", statuses(other, at(PUBLIC)))
      runtime:run(id, "kill -9 $(cat /workspace/pid)")
      assert.equal("200 / 200", statuses(id, at(PUBLIC)))
    end)
  end)

  describe("what is not public", function()
    it("is refused by address, in every spelling", function()
      local id = runtime:create()
      local own = runtimes.shell("hostname -I 2>/dev/null") or ""
      local hosts = { "localhost", "127.0.0.1", "127.0.0.3", "127.1", "2130706433", "0x7f000001", "017700000001", "0.0.0.0", "0",
        "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "169.254.169.254", "100.64.0.1", "198.18.0.1", "192.0.2.1",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[ff02::1]", "[::ffff:127.0.0.1]",
        "[::ffff:127.0.0.2]", "[::127.0.0.2]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2001::1]", "[2001:db8::1]" }
      for address in own:gmatch("%S+") do hosts[#hosts + 1] = address:find(":") and "[" .. address .. "]" or address end
      local port = runtime.url:match("%d+$")
      local script = {}
      for i, host in ipairs(hosts) do
        script[i] = (STATUS .. "-g 'http://%s:%s/'; echo; " .. STATUS .. "-g -p 'http://%s:%s/' 2>/dev/null; echo")
          :format(host, port, host, port)
      end
      local lines = {}
      for line in runtime:run(id, table.concat(script, "\n")):gmatch("[^\n]+") do lines[#lines + 1] = line end
      for i, host in ipairs(hosts) do
        assert.equal("403 000 " .. host, lines[2 * i - 1] .. " " .. host)
        assert.equal("000 403 " .. host, lines[2 * i] .. " " .. host)
      end
    end)

    it("is refused after a redirect, which the proxy itself does not follow", function()
      local id = runtime:create()
      origin:route(nil, "/away", faults.redirect(runtime.url .. "/health"))
      assert.equal("302 / 302", statuses(id, url .. "/away"))
      assert.equal("403 000", (runtime:run(id, (STATUS .. "-L %s/away"):format(url))))
    end)

    it("is refused by a name that leads there", function()
      if not has_names then
        pending "only root can give names for this test"
        return
      end
      local id = runtime:create()
      assert.equal("200 / 200", statuses(id, at "example.com"))
      assert.equal("example.com:" .. origin.port, origin:requests("/hello")[1].headers.host)
      assert.equal("403 / 403", statuses(id, at "inward.example.com"))
      assert.equal("403 / 403", statuses(id, at "metadata.example.com"))
      assert.equal("200 / 200", statuses(id, at "mixed.example.com")) -- at its public address alone
    end)
  end)

  describe("a policy", function()
    it("lets through what it allows by address", function()
      local id = runtime:create { networkPolicy = policy("deny", "allow 127.0.0.0/30") }
      assert.equal("200 / 200", statuses(id, at(PUBLIC)))
      id = runtime:create { networkPolicy = policy "deny" }
      assert.equal("403 / 403", statuses(id, at(PUBLIC)))
      id = runtime:create { networkPolicy = policy("allow", "allow " .. PUBLIC, "deny 127.0.0.0/24") }
      assert.equal("403 / 403", statuses(id, at(PUBLIC))) -- of rules for addresses those that deny come first
      id = runtime:create { networkPolicy = cjson.decode "{}" }
      assert.equal("403 / 403", statuses(id, at(PUBLIC)))
      id = runtime:create { networkPolicy = policy("allow", "deny example.com") }
      assert.equal("200 / 200", statuses(id, at(PUBLIC)))
    end)

    it("never opens what is not public", function()
      local id = runtime:create { networkPolicy = policy("allow", "allow 127.0.0.1", "allow localhost") }
      assert.equal("403 / 403", statuses(id, runtime.url .. "/health"))
      assert.equal("403 / 403", statuses(id, (runtime.url:gsub("127.0.0.1", "localhost")) .. "/health"))
    end)

    it("goes by names and wildcards, the first rule that fits", function()
      if not has_names then
        pending "only root can give names for this test"
        return
      end
      local id = runtime:create { networkPolicy = policy("deny", "deny b.a.example.com", "allow *.Example.com") }
      assert.equal("403 / 403", statuses(id, at "example.com"))
      assert.equal("200 / 200", statuses(id, at "A.example.com"))
      assert.equal("200 / 200", statuses(id, at "a.example.com."))
      assert.equal("403 / 403", statuses(id, at "b.a.example.com"))
      assert.equal("403 / 403", statuses(id, at "example.org"))
      assert.equal("403 / 403", statuses(id, at(PUBLIC)))
      id = runtime:create { networkPolicy = policy("allow", "deny 127.0.0.2/32", "allow example.com") }
      assert.equal("403 / 403", statuses(id, at "example.com"))
    end)

    it("can be changed while it is in force", function()
      local id = runtime:create()
      local call = egress(id)
      local status, body = call("GET", "/policy")
      assert.same({ 200, { status = "ok", mode = "allow_all", enforcementMode = "proxy",
        policy = { defaultAction = "allow", egress = {} } } }, { status, body })
      status, body = call("PATCH", "/policy", { { action = "deny", target = PUBLIC }, { action = "allow", target = PUBLIC } })
      assert.same({ 200, { status = "ok", mode = "enforcing", enforcementMode = "proxy" } }, { status, body })
      assert.equal("403 / 403", statuses(id, at(PUBLIC)))
      call("PATCH", "/policy", { { action = "Allow", target = " " .. PUBLIC .. " " }, { target = "*.B.org" } })
      assert.equal("200 / 200", statuses(id, at(PUBLIC)))
      body = select(2, call("GET", "/policy"))
      assert.same({ defaultAction = "allow", egress = { { action = "allow", target = PUBLIC }, { action = "deny", target = "*.B.org" } } },
        body.policy)
      body = select(2, call("DELETE", "/policy", { "*.b.ORG", "unknown.org" }))
      assert.equal("enforcing", body.mode)
      body = select(2, call("DELETE", "/policy", '["unknown.org"]'))
      assert.equal("no matching targets found", body.reason)
      body = select(2, call("PUT", "/policy", { egress = { { action = "allow", target = "a.org" } } }))
      assert.equal("enforcing", body.mode)
      assert.equal("403 / 403", statuses(id, at(PUBLIC)))
      body = select(2, call("POST", "/policy"))
      assert.same({ "deny_all", "policy reset to default deny-all" }, { body.mode, body.reason })
      body = select(2, call("PUT", "/policy", { defaultAction = "allow" }))
      assert.equal("allow_all", body.mode)
      assert.equal("200 / 200", statuses(id, at(PUBLIC)))
    end)

    it("ends tunnels that a change forbids, and no others", function()
      local id = runtime:create()
      local call = egress(id)
      origin:route(nil, "/wait", { { wait = "never" } })
      runtime:run(id, ("nohup curl -sS -p %s/wait >/dev/null 2>&1 & true"):format(url))
      origin:await("/wait", function(requests) return #requests == 1 end)
      call("PATCH", "/policy", { { action = "deny", target = "192.0.2.0/24" } })
      assert.equal("200 / 200", statuses(id, at(PUBLIC)))
      assert.is_falsy(origin:requests("/wait")[1].aborted)
      call("PATCH", "/policy", { { action = "deny", target = PUBLIC } })
      origin:await_abort("/wait", 1)
    end)

    it("is guarded by a token of its own, and tells what is wrong in plain text", function()
      local id = runtime:create()
      local call, endpoint = egress(id)
      assert.matches("^127%.0%.0%.1:%d+/sandboxes/" .. id:gsub("%-", "%%-") .. "/proxy/18080$", endpoint.endpoint)
      local _, execd = runtime:request("GET", "/sandboxes/" .. id .. "/endpoints/44772")
      local token = endpoint.headers["OPENSANDBOX-EGRESS-AUTH"]
      assert.is_not_equal(execd.headers["X-EXECD-ACCESS-TOKEN"], token)
      assert.equal(200, (call("GET", "/healthz", nil, {})))
      for _, headers in ipairs { {}, { ["OPENSANDBOX-EGRESS-AUTH"] = "x" }, execd.headers,
        { ["OPENSANDBOX-EGRESS-AUTH"] = execd.headers["X-EXECD-ACCESS-TOKEN"] } } do
        local status, body, received = call("GET", "/policy", nil, headers)
        assert.same({ 401, "unauthorized\n" }, { status, body })
        assert.matches("^text/plain", received["content-type"])
        assert.equal(401, (call("POST", "/credential-vault", "{}", headers)))
      end
      local many = {}
      for i = 1, 4097 do many[i] = { action = "allow", target = i .. ".example.com" } end
      local status, body = call("PATCH", "/policy", many)
      assert.same({ 413, "egress rule total count 4097 exceeds limit 4096\n" }, { status, body })
      assert.equal(413, (call("PUT", "/policy", { egress = many })))
      many[4097] = nil
      assert.equal(200, (call("PATCH", "/policy", many)))
      assert.equal(413, (call("PATCH", "/policy", { { action = "deny", target = "more.example.com" } })))
      for _, case in ipairs { { "PATCH", nil, "empty body" }, { "PATCH", "[]", "invalid patch rules: empty array" },
        { "PATCH", "{}", "invalid patch rules: no array" }, { "PATCH", "[1]", "invalid patch rules: " },
        { "PATCH", "[", "invalid patch rules: " },
        { "PATCH", '[{"action":"maybe","target":"x"}]', 'unsupported action "maybe"' },
        { "PATCH", '[{"action":"allow","target":" "}]', "egress target cannot be empty" },
        { "PATCH", '[{"action":1,"target":"x"}]', "an action is not a string" },
        { "DELETE", nil, "empty body" }, { "DELETE", "[1]", "invalid delete targets: " },
        { "PUT", "[]", "invalid policy: " }, { "PUT", '{"egress":{}}', "invalid policy: " }, { "PUT", "x", "invalid policy: " } } do
        status, body = call(case[1], "/policy", case[2])
        assert.equal(400, status)
        assert.matches(case[3], body, 1, true)
      end
      assert.equal(405, (call("OPTIONS", "/policy")))
      assert.equal(404, (call("GET", "/nothing")))
      status, body = call("POST", "/credential-vault", "{}")
      assert.equal(412, status)
      assert.matches("^credential vault requires ", body)
      assert.equal(404, (call("GET", "/credential-vault/bindings/x")))
    end)

    it("of a wrong shape is no policy", function()
      local function refusal(fields)
        local status, body = runtime:request("POST", "/sandboxes", { json = runtimes.body(fields) })
        return status, body.code or body.detail[1].msg
      end
      for _, wrong in ipairs { { defaultAction = "maybe" }, { egress = { "x" } }, { egress = { { action = "allow" } } } } do
        local status, message = refusal { networkPolicy = wrong }
        assert.equal(422, status)
        assert.matches("Input should be a network policy: ", message, 1, true)
      end
      for _, mode in ipairs { "none", "host" } do
        assert.same({ 400, "SANDBOX::INVALID_PARAMETER" },
          { refusal { networkPolicy = policy "deny", extensions = { ["runtime.network"] = mode } } })
      end
      assert.same({ 400, "SANDBOX::INVALID_PARAMETER" }, { refusal { extensions = { ["runtime.network"] = "bridge" } } })
    end)
  end)

  it("is missing in the modes none and host", function()
    for _, mode in ipairs { "none", "host" } do
      local id = runtime:create { extensions = { ["runtime.network"] = mode } }
      assert.equal("", (runtime:run(id, "env | grep -i _proxy")))
      assert.equal("not", (runtime:run(id, "timeout 5 bash -c 'true </dev/tcp/127.0.0.1/3128' 2>/dev/null && echo reached || echo not")))
      local _, endpoint = runtime:request("GET", "/sandboxes/" .. id .. "/endpoints/18080")
      assert.is_nil(endpoint.headers["OPENSANDBOX-EGRESS-AUTH"])
      assert.equal(502, (runtime:request("GET", "/sandboxes/" .. id .. "/proxy/18080/policy", { headers = endpoint.headers })))
    end
    local id = runtime:create { extensions = { ["runtime.network"] = "none" } }
    assert.equal("", (runtime:run(id, "tail -n +2 /proc/net/route")))
    assert.equal("200 / 200", statuses(runtime:create { extensions = { ["runtime.network"] = "proxy" } }, at(PUBLIC)))
  end)

  it("is changed by the SDK", function()
    local connection = opensandbox.connection { domain = runtime.url, api_key = runtime.api_key }
    local sandbox = assert(opensandbox.create { image = "host", connection = connection,
      network_policy = { default_action = "deny", egress = { { action = "allow", target = "*.example.com" } } } })
    local status = assert(sandbox.egress:policy())
    assert.equal("deny", status.policy.default_action)
    assert.same({ { action = "allow", target = "*.example.com" } }, status.policy.egress)
    local get = ("curl -sS -o /dev/null -w '%%{http_code}' %s/hello"):format(url)
    assert.equal("403", sandbox.commands:run(get).stdout)
    assert.equal("enforcing", assert(sandbox.egress:patch { { action = "allow", target = PUBLIC } }).mode)
    assert.equal("200", sandbox.commands:run(get).stdout)
    assert(sandbox.egress:delete { PUBLIC, "*.example.com" })
    assert.equal("deny_all", assert(sandbox.egress:policy()).mode)
    assert.equal("403", sandbox.commands:run(get).stdout)
    assert(sandbox.egress:replace { default_action = "allow" })
    assert.equal("200", sandbox.commands:run(get).stdout)
    local many = {}
    for i = 1, 4097 do many[i] = { action = "allow", target = i .. ".example.com" } end
    local _, err = sandbox.egress:patch(many)
    assert.equal(413, err.status)
    assert(sandbox:kill())
  end)
end

describe("a sandbox's way out", function()
  describe("as this user", function() suite(nil) end)

  if runtimes.user_id() == 0 then
    describe("as an ordinary user", function() suite(runtimes.STRANGER) end)
  else
    it("as root", function() pending "these tests do not run as root" end)
  end
end)
