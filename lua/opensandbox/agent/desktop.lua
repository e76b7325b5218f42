--- The desktop of the server's machine: `agents.desktop`. It needs an X server and tools there; `status().install_command` says how to
-- get them, and `err.code` is `unsupported` while they are missing.
local api = require "opensandbox.agent.api"
local core = require "opensandbox.core"
local health = require "opensandbox.agent.health"
local options = require "opensandbox.options"
local problem = require "opensandbox.agent.problem"
local record = require "opensandbox.record"
local websocket = require "opensandbox.websocket"

local CLIPBOARD_SECONDS = 1 -- the server sets the clipboard and then never answers

local TIMEOUT = { type = "duration" }
local INTEGER, STRING, BOOLEAN = { type = "integer" }, { type = "string" }, { type = "boolean" }
local NEEDED_INTEGER = { type = "integer", required = true }

local recording = record { startedAt = record.time, endedAt = record.time }
local status = record { startedAt = record.time }

--- Declares an endpoint below /v1/desktop.
local function on(method, path, returns)
  local id = (method .. "_v1_desktop_" .. path:gsub("{id}/?", ""):gsub("/$", ""):gsub("/", "_")):lower()
  if path:find("{id}", 1, true) then id = id:gsub("windows_", "window_"):gsub("recordings", "recording") end
  return api.endpoint { id = id, method = method, path = "/v1/desktop/" .. path, returns = returns or record {} }
end

--- Makes a method whose options are the body of the request.
-- @tparam string name for messages
-- @tparam function call
-- @tparam table fields of the options; in snake_case, sent in camelCase
local function sends(name, call, fields)
  fields.timeout = TIMEOUT
  local check = options.declare(name, fields)
  return function(client, opts)
    opts = check(opts)
    local timeout = opts.timeout
    opts.timeout = nil
    return call(client, { json = record.to_wire(opts), timeout = timeout })
  end
end

local check_call = options.declare("a call", { timeout = TIMEOUT })

--- Makes a method that sends nothing.
local function asks(call)
  return function(client, opts) return call(client, { timeout = check_call(opts).timeout }) end
end

--- Makes a method about one thing.
local function asks_about(call)
  return function(client, id, opts)
    return call(client, { params = { id = options.argument("id", id, "string") }, timeout = check_call(opts).timeout })
  end
end

---------------------------------------------------------------------------------------------------------------------
-- the desktop itself

local desktop = {}

--- Starts the desktop. `POST /v1/desktop/start`.
-- @tparam[opt] table opts `width`, `height`, `dpi`, `display_num`, `state_dir`, `recording_fps`, `stream_audio_codec`,
-- `stream_frame_rate`, `stream_video_codec`, `webrtc_port_range`, `timeout`
-- @treturn table|nil status
-- @treturn table err
desktop.start = sends("desktop:start", on("POST", "start", status), {
  width = INTEGER, height = INTEGER, dpi = INTEGER, display_num = INTEGER, state_dir = STRING, recording_fps = INTEGER,
  stream_audio_codec = STRING, stream_frame_rate = INTEGER, stream_video_codec = STRING, webrtc_port_range = STRING,
})

--- Stops it. `POST /v1/desktop/stop`.
desktop.stop = asks(on("POST", "stop", status))

--- How it is. `GET /v1/desktop/status`.
-- @treturn table|nil `{state="inactive"|"install_required"|"starting"|"active"|"stopping"|"failed", display=, resolution=,
-- missing_dependencies=, install_command=, processes=, windows=, last_error=, started_at=}`
-- @treturn table err
desktop.status = asks(on("GET", "status", status))

--- Its display. `GET /v1/desktop/display/info`.
-- @treturn table|nil `{display=, resolution={width=, height=, dpi=}}`
-- @treturn table err
desktop.display = asks(on("GET", "display/info"))

local check_screenshot = options.declare("desktop:screenshot", {
  format = STRING, quality = INTEGER, scale = { type = "number" }, show_cursor = BOOLEAN, timeout = TIMEOUT,
  region = { type = "table", fields = { x = NEEDED_INTEGER, y = NEEDED_INTEGER, width = NEEDED_INTEGER, height = NEEDED_INTEGER } },
})
local take_whole = on("GET", "screenshot", "response")
local take_region = on("GET", "screenshot/region", "response")

--- Takes a picture. `GET /v1/desktop/screenshot`, `…/screenshot/region`.
-- @tparam[opt] table opts `format` (`"png"`, `"jpeg"`, `"webp"`), `quality`, `scale`, `show_cursor`, `region` `{x=, y=, width=, height=}`,
-- `timeout`
-- @treturn string|nil bytes of the image
-- @treturn table err
function desktop.screenshot(client, opts)
  opts = check_screenshot(opts)
  local query = {}
  for name, value in pairs(opts.region or {}) do query[name] = ("%d"):format(value) end
  query.format, query.scale, query.quality = opts.format, opts.scale, opts.quality and ("%d"):format(opts.quality)
  if opts.show_cursor ~= nil then query.showCursor = tostring(opts.show_cursor) end
  local response, err = (opts.region and take_region or take_whole)(client, { query = query, timeout = opts.timeout })
  if not response then return nil, err end
  return response.body
end

local launch = sends("desktop:launch", on("POST", "launch"), {
  app = { type = "string", required = true }, args = { type = "list", of = "string" }, wait = BOOLEAN,
})

--- Starts a program on it. `POST /v1/desktop/launch`.
-- @tparam string app
-- @tparam[opt] table opts `args`, `wait` (for its window), `timeout`
-- @treturn table|nil `{process_id=, pid=, window_id=}`
-- @treturn table err
function desktop.launch(client, app, opts)
  local all = { app = app }
  for name, value in pairs(options.argument("opts", opts or {}, "table")) do all[name] = value end
  return launch(client, all)
end

local open = sends("desktop:open", on("POST", "open"), { target = { type = "string", required = true } })

--- Opens a file or address with the program for it. `POST /v1/desktop/open`.
-- @tparam string target
-- @treturn table|nil `{process_id=, pid=}`
-- @treturn table err
function desktop.open(client, target) return open(client, { target = target }) end

---------------------------------------------------------------------------------------------------------------------
-- mouse and keyboard

local BUTTON = { type = "string" }
local POINT = { x = NEEDED_INTEGER, y = NEEDED_INTEGER }
local ANYWHERE = { x = INTEGER, y = INTEGER, button = BUTTON }

local function copy(fields, more)
  local all = {}
  for name, field in pairs(fields) do all[name] = field end
  for name, field in pairs(more or {}) do all[name] = field end
  return all
end

--- `agents.desktop.mouse`; each answers `{x=, y=, screen=, window=}`. Buttons: `"left"`, `"middle"`, `"right"`.
local mouse = {
  position = asks(on("GET", "mouse/position")),
  move = sends("mouse:move", on("POST", "mouse/move"), copy(POINT)),
  click = sends("mouse:click", on("POST", "mouse/click"), copy(POINT, { button = BUTTON, click_count = INTEGER })),
  down = sends("mouse:down", on("POST", "mouse/down"), copy(ANYWHERE)),
  up = sends("mouse:up", on("POST", "mouse/up"), copy(ANYWHERE)),
  drag = sends("mouse:drag", on("POST", "mouse/drag"), {
    start_x = NEEDED_INTEGER, start_y = NEEDED_INTEGER, end_x = NEEDED_INTEGER, end_y = NEEDED_INTEGER, button = BUTTON,
  }),
  scroll = sends("mouse:scroll", on("POST", "mouse/scroll"), copy(POINT, { delta_x = INTEGER, delta_y = INTEGER })),
}

local check_type = options.declare("keyboard:type", { delay = { type = "duration" }, timeout = TIMEOUT })
local check_press = options.declare("keyboard:press", {
  modifiers = { type = "table", fields = { alt = BOOLEAN, cmd = BOOLEAN, ctrl = BOOLEAN, shift = BOOLEAN } }, timeout = TIMEOUT,
})
local type_text = on("POST", "keyboard/type")
local press_key = on("POST", "keyboard/press")

--- Makes a method that gets a key.
local function with_key(call)
  return function(client, key, opts)
    return call(client, { json = { key = options.argument("key", key, "string") }, timeout = check_call(opts).timeout })
  end
end

--- `agents.desktop.keyboard`; each answers `{ok=true}`.
local keyboard = { down = with_key(on("POST", "keyboard/down")), up = with_key(on("POST", "keyboard/up")) }

--- Types a text; `delay` in seconds between keys.
function keyboard.type(client, text, opts)
  opts = check_type(opts)
  return type_text(client, {
    json = { text = options.argument("text", text, "string"), delayMs = opts.delay and math.floor(opts.delay * 1000) },
    timeout = opts.timeout,
  })
end

--- Presses a key (`"Return"`, `"a"`, …), with `modifiers` `{alt=, cmd=, ctrl=, shift=}`.
function keyboard.press(client, key, opts)
  opts = check_press(opts)
  return press_key(client, { json = { key = options.argument("key", key, "string"), modifiers = opts.modifiers }, timeout = opts.timeout })
end

---------------------------------------------------------------------------------------------------------------------
-- windows, clipboard, recordings, stream

local move_window = on("POST", "windows/{id}/move")
local resize_window = on("POST", "windows/{id}/resize")

--- `agents.desktop.windows`; a window is `{id=, title=, x=, y=, width=, height=, is_active=}`.
local windows = {
  list = asks(on("GET", "windows", api.field("windows", record.list(record {})))),
  focused = asks(on("GET", "windows/focused")),
  focus = asks_about(on("POST", "windows/{id}/focus")),
}

--- Makes a method that gives a window two numbers.
local function with_numbers(call, first, second)
  return function(client, id, one, two, opts)
    options.argument("id", id, "string")
    options.argument(first, one, "integer")
    options.argument(second, two, "integer")
    return call(client, { params = { id = id }, json = { [first] = one, [second] = two }, timeout = check_call(opts).timeout })
  end
end

windows.move = with_numbers(move_window, "x", "y")
windows.resize = with_numbers(resize_window, "width", "height")

local check_clipboard = options.declare("clipboard:get", { selection = STRING, timeout = TIMEOUT })
local get_clipboard = on("GET", "clipboard")
local set_clipboard = on("POST", "clipboard")

--- `agents.desktop.clipboard`. Selections: `"clipboard"`, `"primary"`.
local clipboard = {}

--- @treturn table|nil `{selection=, text=}`
-- @treturn table err
function clipboard.get(client, opts)
  opts = check_clipboard(opts)
  return get_clipboard(client, { query = { selection = opts.selection }, timeout = opts.timeout })
end

--- Sets the clipboard. The server may set it and never answer: after `timeout` (1 s) what is there is compared.
-- @treturn boolean true, or nil and err
function clipboard.set(client, text, opts)
  options.argument("text", text, "string")
  opts = check_clipboard(opts)
  local done, err = set_clipboard(client, {
    json = { text = text, selection = opts.selection }, timeout = opts.timeout or CLIPBOARD_SECONDS, retry = false,
  })
  if done then return true end
  if err.code ~= "timeout" then return nil, err end
  local there = clipboard.get(client, { selection = opts.selection })
  if there and there.text == text then return true end
  return nil, err
end

local check_download = options.declare("recording:download", { to = { type = { "string", "function" } }, timeout = TIMEOUT })
local download = on("GET", "recordings/{id}/download", "response")

--- `agents.desktop.recording`; a recording is `{id=, status=, file_name=, bytes=, started_at=, ended_at=}`.
local recordings = {
  start = sends("recording:start", on("POST", "recording/start", recording), { fps = INTEGER }),
  stop = asks(on("POST", "recording/stop", recording)),
  list = asks(on("GET", "recordings", api.field("recordings", record.list(recording)))),
  get = asks_about(on("GET", "recordings/{id}", recording)),
  delete = asks_about(api.endpoint { id = "delete_v1_desktop_recording", method = "DELETE", path = "/v1/desktop/recordings/{id}" }),
}

--- Fetches a recording (MP4); `to` is a local path or function(chunk), else its bytes are returned.
-- @treturn[1] string|integer bytes; their number where `to` got them
-- @treturn[2] nil
-- @treturn[2] table err
function recordings.download(client, id, opts)
  opts = check_download(opts)
  local sink = opts.to
  if type(sink) == "string" then sink = { file = sink } end
  local response, err = download(client, { params = { id = options.argument("id", id, "string") }, sink = sink, timeout = opts.timeout })
  if not response then return nil, err end
  return sink and response.received or response.body
end

--- `agents.desktop.stream`: the live picture over WebRTC. Its media need a WebRTC stack, which this library has not.
local stream = {
  start = asks(on("POST", "stream/start")), stop = asks(on("POST", "stream/stop")), status = asks(on("GET", "stream/status")),
}

--- Connects to the stream's signaling, for a program with a WebRTC stack of its own. `GET /v1/desktop/stream/signaling`.
-- @treturn userdata|nil websocket of JSON texts `{event=, payload=}`
-- @treturn table err
function stream.signaling(client, opts)
  opts = check_call(opts)
  api.check_open(client)
  local target, err = health.ready(client)
  if not target then return nil, err end
  local socket
  socket, err = websocket.open(target, { path = "/v1/desktop/stream/signaling", timeout = opts.timeout })
  if not socket then return nil, problem.refine(err) end
  return socket
end

---------------------------------------------------------------------------------------------------------------------

local PARTS = {
  mouse = mouse, keyboard = keyboard, windows = windows, clipboard = clipboard, recording = recordings, stream = stream,
}
for name, functions in pairs(PARTS) do api.part("agent_desktop_" .. name, functions) end

local methods = {}
for name, fn in pairs(desktop) do
  methods[name] = function(self, ...) return fn(core.state(self, "agent_desktop"), ...) end
end

core.methods("agent_desktop", methods, { __index = function(self, name)
  if methods[name] then return methods[name] end
  return PARTS[name] and core.new("agent_desktop_" .. name, core.state(self, "agent_desktop")) or nil
end })

return methods
