-- ./dev bench [ROUNDS]: measures this SDK, curl and the official JavaScript SDK against one server, in one run, and prints one table.
-- What the rows mean: bench/README.md.
local core = require "opensandbox.core"
local task = require "opensandbox.task"

local ROUNDS = tonumber(arg[1]) or 5
local EVENTS = 1000000
local SIZE = 100 * 1024 * 1024
local JS_PACKAGE, JS_VERSION = "@alibaba-group/opensandbox", "0.1.11"

local BIN = assert(os.getenv "OPENSANDBOX_RUNTIME", "run me by ./dev bench"):match("^(.*)/")
local FOLDER = BIN:gsub("/bin$", "") .. "/bench"
local MEMORY = "/dev/shm" -- a file system that is no disk

local function quote(words)
  local quoted = {}
  for i, word in ipairs(words) do quoted[i] = "'" .. tostring(word):gsub("'", "'\\''") .. "'" end
  return table.concat(quoted, " ")
end

--- Runs a program to its end, in a process of its own.
-- Returns `{seconds = what it printed last, wall = seconds, peak = MiB}`, or nil where it failed.
local function measure(words)
  local pipe = assert(io.popen(quote { BIN .. "/bench_peak", table.unpack(words) }))
  local seconds, last
  for line in pipe:lines() do seconds, last = last, line end
  if not pipe:close() then return nil end
  local wall, peak = last:match("^(%S+) (%d+)$")
  return { seconds = tonumber(seconds), wall = tonumber(wall), peak = tonumber(peak) / 1024 }
end

local function start_server()
  local server = assert(core.process { argv = { BIN .. "/bench_server" } })
  task.await(server, core.now() + 10)
  return server, assert(server:read_line(), "the server of the bench did not start")
end

--- The file that the JavaScript SDK is imported from, or nil and why there is none.
local function install_js()
  if not os.execute("command -v npm >/dev/null && command -v node >/dev/null") then return nil, "npm is not installed" end
  local folder = FOLDER .. "/js"
  local file = ("%s/node_modules/%s/dist/index.js"):format(folder, JS_PACKAGE)
  local marker = ("%s/%s"):format(folder, JS_VERSION)
  if io.open(marker) then return file end
  local install = quote { "npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", folder, JS_PACKAGE .. "@" .. JS_VERSION }
  if not os.execute(("mkdir -p %s && %s >&2 && touch %s"):format(quote { folder }, install, quote { marker })) then
    return nil, "npm could not install it"
  end
  return file
end

---------------------------------------------------------------------------------------------------------------------
-- what is measured

local function events_per_second(seconds) return ("%.2f M/s"):format(EVENTS / seconds / 1e6) end
local function megabytes_per_second(seconds) return ("%.0f MB/s"):format(SIZE / seconds / 1e6) end

local function duration(seconds)
  if seconds < 1e-5 then return ("%.2f us"):format(seconds * 1e6) end
  if seconds < 1e-3 then return ("%.0f us"):format(seconds * 1e6) end
  return ("%.1f ms"):format(seconds * 1e3)
end

--- `work`: of both SDKs' clients (js = false: only of ours; js_work: with other arguments); `plain`: the program to compare with, and
-- `wall` = true where its whole life is its time.
local function rows_for(execd, upload_file, download_file)
  local function curl_to(file, ...) return { "curl", "-sS", "-o", file, "-w", "%{time_total}\\n", ... } end
  local function curl(...) return curl_to("/dev/null", ...) end
  local events = curl("-d", ('{"command":"events %d"}'):format(EVENTS), execd .. "/command")
  local function exchange(command, count) return { BIN .. "/bench_exchange", execd .. "/command", command, count } end
  local metadata = 'metadata={"path":"/upload"};filename=metadata;type=application/json'
  local upload = curl("-F", metadata, "-F", "file=@" .. upload_file, execd .. "/files/upload")
  local download = execd .. "/files/download?path=/bytes-" .. SIZE
  local bubble = { "bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all", "true" }
  return {
    { "1 M events, on_stdout handler", work = { "events", EVENTS, "handler" }, plain = events, show = events_per_second },
    { "1 M events, no handler", work = { "events", EVENTS }, plain = events, show = events_per_second },
    { "1 M events, handler, nothing kept", work = { "stream", EVENTS }, plain = events, show = events_per_second },
    { 'run("true")', work = { "latency", "true", 500 }, plain = exchange("true", 500), show = duration },
    { 'run("true"), stream held open 1 s', work = { "latency", "hold", 30 }, js_work = { "latency", "hold", 1 },
      plain = exchange("hold", 30), show = duration },
    { "1000 runs at once, held open 1 s", work = { "at_once", "hold", 1000 },
      plain = { BIN .. "/bench_at_once", execd .. "/command", "hold", 1000 }, show = duration },
    { "upload 100 MiB, a file", work = { "upload", upload_file }, plain = upload, show = megabytes_per_second },
    { "upload 100 MiB, a function", work = { "upload_chunks", SIZE }, plain = upload, show = megabytes_per_second },
    { "download 100 MiB, to a file", work = { "download", SIZE, download_file }, plain = curl_to(download_file, download),
      show = megabytes_per_second },
    { "download 100 MiB, to a function", work = { "download_chunks", SIZE }, plain = curl(download), show = megabytes_per_second },
    { "load the SDK", work = { "require" }, show = duration },
    { "load the SDK, make a client", work = { "first_client" }, show = duration },
    { "load the SDK, first answer", work = { "first_request" }, plain = curl(execd .. "/ping"), wall = true, show = duration },
    { "10 000 idle streams: one step", work = { "idle_step", 10000 }, js = false, show = duration },
    { "from task to task", work = { "switch", 200000 }, js = false, show = duration },
    { "worst frame, 100 000 events/s", work = { "worst_frame", 100000 }, js = false, show = duration },
    { "embedded: create to output, first", work = { "local_first" }, js = false, plain = bubble, wall = true, show = duration },
    { "embedded: create to output, next", work = { "local_next", 5 }, js = false, plain = bubble, wall = true, show = duration },
    { 'embedded: run("true")', work = { "local_latency", "true", 50 }, js = false, plain = { "sh", "-c", "true" }, wall = true,
      show = duration },
  }
end

local function programs_of(row, js)
  local programs = { sdk = { "lua5.4", "bench/client.lua", table.unpack(row.work) }, plain = row.plain }
  if js and row.js ~= false then programs.js = { "node", "bench/client.mjs", js, table.unpack(row.js_work or row.work) } end
  return programs
end

---------------------------------------------------------------------------------------------------------------------
-- the table

local function median(samples, field)
  local values = {}
  for i, sample in ipairs(samples) do values[i] = sample[field] end
  table.sort(values)
  return values[math.floor(#values / 2) + 1]
end

local function print_row(row, samples)
  local sdk, plain, js = samples.sdk, samples.plain, samples.js
  local time = median(sdk, "seconds")
  local function compare(others, field)
    local other = median(others, field)
    if not time or not other then return "-", "-" end
    return row.show(other), ("%.2f"):format(other / time)
  end
  local function peak(others)
    local value = median(others, "peak")
    return value and ("%.0f"):format(value) or "-"
  end
  local plain_time, plain_ratio = compare(plain, row.wall and "wall" or "seconds")
  local js_time, js_ratio = compare(js, "seconds")
  print(("| %-34s | %10s | %10s | %6s | %10s | %7s | %4s / %4s / %4s |"):format(row[1], time and row.show(time) or "failed", plain_time,
    plain_ratio, js_time, js_ratio, peak(sdk), peak(plain), peak(js)))
end

--- Names for the local files of transfers, the first one written: in memory where that can be, so that no disk is measured.
local function local_files()
  local upload = MEMORY .. "/opensandbox-bench-upload"
  local file = io.open(upload, "wb")
  if not file then
    upload = FOLDER .. "/upload"
    file = assert(io.open(upload, "wb"))
  end
  for _ = 1, SIZE / 1048576 do assert(file:write(("x"):rep(1048576))) end
  file:close()
  return upload, (upload:gsub("upload$", "download"))
end

local function main()
  assert(os.execute("mkdir -p " .. quote { FOLDER }))
  local server, port = start_server()
  local js, why_not = install_js()
  local upload_file, download_file = local_files()

  print(("%d rounds, medians; JavaScript SDK: %s"):format(ROUNDS, js and JS_VERSION or why_not))
  print(("| %-34s | %10s | %10s | %6s | %10s | %7s | %-18s |"):format("", "this SDK", "plain", "faster", "JS SDK", "faster",
    "peak MiB (s/p/js)"))
  print("|" .. ("-"):rep(36) .. "|-----------:|-----------:|-------:|-----------:|--------:|-------------------:|")
  local client = ("OPEN_SANDBOX_DOMAIN=127.0.0.1:%s"):format(port)
  for _, row in ipairs(rows_for(("http://127.0.0.1:%s/bench/44772"):format(port), upload_file, download_file)) do
    local samples = { sdk = {}, plain = {}, js = {} }
    for _ = 1, ROUNDS do
      for name, words in pairs(programs_of(row, js)) do
        local sample = measure { "env", client, "OPEN_SANDBOX_API_KEY=bench", table.unpack(words) }
        samples[name][#samples[name] + 1] = sample
      end
    end
    print_row(row, samples)
  end
  os.remove(upload_file)
  os.remove(download_file)
  server:kill()
end

main()
