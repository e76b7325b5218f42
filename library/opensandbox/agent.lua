---@meta opensandbox.agent
-- Types of `require "opensandbox.agent"`, the client of sandbox-agent servers. `spec/stubs_spec.lua` compares their methods with the
-- library's own.

---@class opensandbox.AgentEvent
---@field event_index integer
---@field id string
---@field session_id string
---@field created_at number
---@field sender "client"|"agent"
---@field connection_id string
---@field payload table the message as it was

---@class opensandbox.PermissionRequest
---@field id string
---@field created_at number
---@field session_id string
---@field agent_session_id string
---@field available_replies ("once"|"always"|"reject")[]
---@field options table[]
---@field tool_call table
---@field raw table

---@alias opensandbox.AgentBlock table what `agent.text`, `agent.image`, … make

---@class opensandbox.AgentSessionOptions
---@field agent string "codex", "claude", "opencode", …
---@field cwd? string
---@field id? string
---@field model? string
---@field mode? string
---@field thought_level? string
---@field session_init? table

---@class opensandbox.AgentConnectOptions
---@field base_url? string
---@field token? string
---@field headers? table<string, string>
---@field connection? opensandbox.Connection|opensandbox.options.connection
---@field persist? table what `agent.memory` or `agent.sqlite` make
---@field ready_timeout? number
---@field skip_health_check? boolean
---@field replay_max_events? integer
---@field replay_max_chars? integer
---@field requests? table<string, fun(params: table, session: opensandbox.AgentSession): any, string?>
---@field start_timeout? number

---@class opensandbox.AgentStartOptions: opensandbox.AgentConnectOptions
---@field binary? string
---@field provider? table
---@field sandbox_id? string
---@field cwd? string
---@field env? table<string, string>
---@field port? integer
---@field host? string
---@field log? any

---@class opensandbox.AgentAttachOptions: opensandbox.AgentStartOptions
---@field start? boolean
---@field upload? boolean|string

---@class opensandbox.Agents: userdata
---@field base_url string
---@field sandbox? opensandbox.Sandbox
---@field sandbox_id? string
---@field files opensandbox.AgentFiles
---@field processes opensandbox.AgentProcesses
---@field config opensandbox.AgentConfig
---@field desktop opensandbox.AgentDesktop
local agents = {}
---@param opts opensandbox.AgentSessionOptions
---@return opensandbox.AgentSession? session
---@return opensandbox.Error? err
function agents:create_session(opts) end
---@param id string
---@return opensandbox.AgentSession? session
---@return opensandbox.Error? err
function agents:resume_session(id) end
---@param opts opensandbox.AgentSessionOptions
---@return opensandbox.AgentSession? session
---@return opensandbox.Error? err
function agents:resume_or_create_session(opts) end
---@param id string
---@return opensandbox.AgentSession? session
---@return opensandbox.Error? err
function agents:get_session(id) end
---@param opts? { limit?: integer, cursor?: string }
---@return { items: opensandbox.AgentSession[], next_cursor?: string }? page
---@return opensandbox.Error? err
function agents:list_sessions(opts) end
---@param id string
---@return opensandbox.AgentSession? session
---@return opensandbox.Error? err
function agents:destroy_session(id) end
---@param opts { session_id: string, limit?: integer, cursor?: string }
---@return { items: opensandbox.AgentEvent[], next_cursor?: string }? page
---@return opensandbox.Error? err
function agents:events(opts) end
---@param opts { session_id: string }
---@return fun(): opensandbox.AgentEvent?
function agents:each_event(opts) end
---@param id string
---@param reply "once"|"always"|"reject"
---@return boolean? ok
---@return opensandbox.Error? err
function agents:respond_permission(id, reply) end
---@param opts? { timeout?: number }
---@return table? health
---@return opensandbox.Error? err
function agents:health(opts) end
---@param opts? { config?: boolean, no_cache?: boolean, timeout?: number }
---@return table[]? agents
---@return opensandbox.Error? err
function agents:agents(opts) end
---@param id string
---@param opts? { config?: boolean, no_cache?: boolean, timeout?: number }
---@return table? info
---@return opensandbox.Error? err
function agents:agent(id, opts) end
---@param id string
---@param opts? { agent_version?: string, agent_process_version?: string, reinstall?: boolean, timeout?: number }
---@return table? answer
---@return opensandbox.Error? err
function agents:install(id, opts) end
---@param opts? { timeout?: number }
---@return table[]? servers
---@return opensandbox.Error? err
function agents:servers(opts) end
---@return string? url
---@return opensandbox.Error? err
function agents:inspector_url() end
---@return boolean? ok
---@return opensandbox.Error? err
function agents:destroy_sandbox() end
---@return boolean? ok
---@return opensandbox.Error? err
function agents:pause_sandbox() end
---@return boolean? ok
---@return opensandbox.Error? err
function agents:kill_sandbox() end
---@return boolean
function agents:close() end

---@class opensandbox.AgentSession: userdata
---@field id string
---@field agent string
---@field agent_session_id? string
---@field created_at number
---@field destroyed_at? number
---@field last_connection_id? string
local agent_session = {}
---@param prompt string|opensandbox.AgentBlock|opensandbox.AgentBlock[]
---@param opts? { timeout?: number }
---@return { stop_reason: string }? result
---@return opensandbox.Error? err
function agent_session:prompt(prompt, opts) end
---@return boolean? ok
---@return opensandbox.Error? err
function agent_session:cancel() end
---@param method string
---@param params? table
---@param opts? { notification?: boolean, timeout?: number }
---@return table|boolean|nil result
---@return opensandbox.Error? err
function agent_session:raw_send(method, params, opts) end
---@param fn fun(event: opensandbox.AgentEvent)
---@return fun() stop
function agent_session:on_event(fn) end
---@param fn fun(request: opensandbox.PermissionRequest)
---@return fun() stop
function agent_session:on_permission_request(fn) end
---@param reply? "once"|"always"|"reject"
---@param opts? { kinds?: string[] }
---@return fun() stop
function agent_session:auto_approve(reply, opts) end
---@param id string
---@param reply "once"|"always"|"reject"
---@return boolean? ok
---@return opensandbox.Error? err
function agent_session:respond_permission(id, reply) end
---@param id string
---@param response table
---@return boolean? ok
---@return opensandbox.Error? err
function agent_session:raw_respond_permission(id, response) end
---@param method string
---@param fn fun(params: table, session: opensandbox.AgentSession): any, string?
---@return fun() stop
function agent_session:on_request(method, fn) end
---@param model string
---@return table? answer
---@return opensandbox.Error? err
function agent_session:set_model(model) end
---@param mode string
---@return table? answer
---@return opensandbox.Error? err
function agent_session:set_mode(mode) end
---@param level string
---@return table? answer
---@return opensandbox.Error? err
function agent_session:set_thought_level(level) end
---@param id string
---@param value string|boolean
---@return table? answer
---@return opensandbox.Error? err
function agent_session:set_config_option(id, value) end
---@return table[]? options
---@return opensandbox.Error? err
function agent_session:config_options() end
---@return table? modes
---@return opensandbox.Error? err
function agent_session:modes() end
---@return opensandbox.AgentSession? session
---@return opensandbox.Error? err
function agent_session:refresh() end
---@return table
function agent_session:to_record() end

---@class opensandbox.AgentTerminal: userdata
---@field id string
---@field exit_code? integer
local agent_terminal = {}
---@param timeout? number
---@return string? bytes nil: the process has ended, or err
---@return opensandbox.Error? err
function agent_terminal:read(timeout) end
---@param bytes string
---@return boolean? ok
---@return opensandbox.Error? err
function agent_terminal:write(bytes) end
---@param cols integer
---@param rows integer
---@return boolean? ok
---@return opensandbox.Error? err
function agent_terminal:resize(cols, rows) end
---@param timeout? number
---@return integer|boolean|nil exit_code
---@return opensandbox.Error? err
function agent_terminal:wait(timeout) end
---@return boolean
function agent_terminal:close() end

---@class opensandbox.AgentFiles: userdata
local agent_files = {}
---@param path? string
---@param opts? { timeout?: number }
---@return table[]? entries
---@return opensandbox.Error? err
function agent_files:entries(path, opts) end
---@param path string
---@param opts? { to?: string|fun(chunk: string), timeout?: number }
---@return string|integer|nil bytes
---@return opensandbox.Error? err
function agent_files:read(path, opts) end
---@param path string
---@param data string|file*|fun(): string?
---@param opts? { timeout?: number }
---@return table? answer
---@return opensandbox.Error? err
function agent_files:write(path, data, opts) end
---@param path string
---@param opts? { recursive?: boolean, timeout?: number }
---@return table? answer
---@return opensandbox.Error? err
function agent_files:delete(path, opts) end
---@param path string
---@param opts? { timeout?: number }
---@return table? answer
---@return opensandbox.Error? err
function agent_files:mkdir(path, opts) end
---@param from string
---@param to string
---@param opts? { overwrite?: boolean, timeout?: number }
---@return table? answer
---@return opensandbox.Error? err
function agent_files:move(from, to, opts) end
---@param path string
---@param opts? { timeout?: number }
---@return table? entry
---@return opensandbox.Error? err
function agent_files:stat(path, opts) end
---@param tar string
---@param opts? { path?: string, timeout?: number }
---@return table? answer
---@return opensandbox.Error? err
function agent_files:upload(tar, opts) end

---@class opensandbox.AgentProcesses: userdata
local agent_processes = {}
---@param opts { command: string, args?: string[], cwd?: string, env?: table<string, string>, max_output?: integer, timeout?: number }
---@return table? result
---@return opensandbox.Error? err
function agent_processes:run(opts) end
---@param opts { command: string, args?: string[], cwd?: string, env?: table<string, string>, tty?: boolean, interactive?: boolean, timeout?: number }
---@return table? process
---@return opensandbox.Error? err
function agent_processes:create(opts) end
---@param opts? { owner?: "user"|"desktop"|"system", timeout?: number }
---@return table[]? processes
---@return opensandbox.Error? err
function agent_processes:list(opts) end
---@param id string
---@param opts? { timeout?: number }
---@return table? process
---@return opensandbox.Error? err
function agent_processes:get(id, opts) end
---@param id string
---@param opts? { timeout?: number }
---@return boolean? ok
---@return opensandbox.Error? err
function agent_processes:delete(id, opts) end
---@param id string
---@param opts? { wait?: number, timeout?: number }
---@return table? process
---@return opensandbox.Error? err
function agent_processes:stop(id, opts) end
---@param id string
---@param opts? { wait?: number, timeout?: number }
---@return table? process
---@return opensandbox.Error? err
function agent_processes:kill(id, opts) end
---@param id string
---@param data string
---@param opts? { timeout?: number }
---@return integer? written
---@return opensandbox.Error? err
function agent_processes:input(id, data, opts) end
---@param id string
---@param cols integer
---@param rows integer
---@return table? answer
---@return opensandbox.Error? err
function agent_processes:resize(id, cols, rows) end
---@param id string
---@param opts? { stream?: string, tail?: integer, since?: integer, timeout?: number }
---@return table[]? entries
---@return opensandbox.Error? err
function agent_processes:logs(id, opts) end
---@param id string
---@param fn fun(entry: table): boolean?
---@param opts? { stream?: string, since?: integer }
---@return table? process
---@return opensandbox.Error? err
function agent_processes:follow(id, fn, opts) end
---@param changes? table
---@return table? limits
---@return opensandbox.Error? err
function agent_processes:config(changes) end
---@param id string
---@param opts? { timeout?: number }
---@return opensandbox.AgentTerminal? terminal
---@return opensandbox.Error? err
function agent_processes:terminal(id, opts) end

---@class opensandbox.AgentConfig: userdata
---@field mcp opensandbox.AgentConfigMcp
---@field skills opensandbox.AgentConfigSkills
local agent_config = {}

---@class opensandbox.AgentConfigMcp: userdata
local agent_config_mcp = {}
---@param directory string
---@param name string
---@param opts? { timeout?: number }
---@return table? config
---@return opensandbox.Error? err
function agent_config_mcp:get(directory, name, opts) end
---@param directory string
---@param name string
---@param config table
---@param opts? { timeout?: number }
---@return boolean? ok
---@return opensandbox.Error? err
function agent_config_mcp:set(directory, name, config, opts) end
---@param directory string
---@param name string
---@param opts? { timeout?: number }
---@return boolean? ok
---@return opensandbox.Error? err
function agent_config_mcp:delete(directory, name, opts) end

---@class opensandbox.AgentConfigSkills: userdata
local agent_config_skills = {}
---@param directory string
---@param name string
---@param opts? { timeout?: number }
---@return table? config
---@return opensandbox.Error? err
function agent_config_skills:get(directory, name, opts) end
---@param directory string
---@param name string
---@param config table
---@param opts? { timeout?: number }
---@return boolean? ok
---@return opensandbox.Error? err
function agent_config_skills:set(directory, name, config, opts) end
---@param directory string
---@param name string
---@param opts? { timeout?: number }
---@return boolean? ok
---@return opensandbox.Error? err
function agent_config_skills:delete(directory, name, opts) end

---@class opensandbox.AgentDesktop: userdata
---@field mouse opensandbox.AgentDesktopMouse
---@field keyboard opensandbox.AgentDesktopKeyboard
---@field windows opensandbox.AgentDesktopWindows
---@field clipboard opensandbox.AgentDesktopClipboard
---@field recording opensandbox.AgentDesktopRecording
---@field stream opensandbox.AgentDesktopStream
local agent_desktop = {}
---@param opts? table
---@return table? status
---@return opensandbox.Error? err
function agent_desktop:start(opts) end
---@param opts? { timeout?: number }
---@return table? status
---@return opensandbox.Error? err
function agent_desktop:stop(opts) end
---@param opts? { timeout?: number }
---@return table? status
---@return opensandbox.Error? err
function agent_desktop:status(opts) end
---@param opts? { timeout?: number }
---@return table? display
---@return opensandbox.Error? err
function agent_desktop:display(opts) end
---@param opts? { format?: "png"|"jpeg"|"webp", quality?: integer, scale?: number, show_cursor?: boolean, region?: { x: integer, y: integer, width: integer, height: integer }, timeout?: number }
---@return string? bytes
---@return opensandbox.Error? err
function agent_desktop:screenshot(opts) end
---@param app string
---@param opts? { args?: string[], wait?: boolean, timeout?: number }
---@return table? process
---@return opensandbox.Error? err
function agent_desktop:launch(app, opts) end
---@param target string
---@return table? process
---@return opensandbox.Error? err
function agent_desktop:open(target) end

---@class opensandbox.AgentDesktopMouse: userdata
local agent_desktop_mouse = {}
---@param opts? { timeout?: number }
---@return table? position
---@return opensandbox.Error? err
function agent_desktop_mouse:position(opts) end
---@param opts { x: integer, y: integer, timeout?: number }
---@return table? position
---@return opensandbox.Error? err
function agent_desktop_mouse:move(opts) end
---@param opts { x: integer, y: integer, button?: "left"|"middle"|"right", click_count?: integer, timeout?: number }
---@return table? position
---@return opensandbox.Error? err
function agent_desktop_mouse:click(opts) end
---@param opts? { x?: integer, y?: integer, button?: string, timeout?: number }
---@return table? position
---@return opensandbox.Error? err
function agent_desktop_mouse:down(opts) end
---@param opts? { x?: integer, y?: integer, button?: string, timeout?: number }
---@return table? position
---@return opensandbox.Error? err
function agent_desktop_mouse:up(opts) end
---@param opts { start_x: integer, start_y: integer, end_x: integer, end_y: integer, button?: string, timeout?: number }
---@return table? position
---@return opensandbox.Error? err
function agent_desktop_mouse:drag(opts) end
---@param opts { x: integer, y: integer, delta_x?: integer, delta_y?: integer, timeout?: number }
---@return table? position
---@return opensandbox.Error? err
function agent_desktop_mouse:scroll(opts) end

---@class opensandbox.AgentDesktopKeyboard: userdata
local agent_desktop_keyboard = {}
---@param key string
---@param opts? { timeout?: number }
---@return table? answer
---@return opensandbox.Error? err
function agent_desktop_keyboard:down(key, opts) end
---@param key string
---@param opts? { timeout?: number }
---@return table? answer
---@return opensandbox.Error? err
function agent_desktop_keyboard:up(key, opts) end
---@param text string
---@param opts? { delay?: number, timeout?: number }
---@return table? answer
---@return opensandbox.Error? err
function agent_desktop_keyboard:type(text, opts) end
---@param key string
---@param opts? { modifiers?: { alt?: boolean, cmd?: boolean, ctrl?: boolean, shift?: boolean }, timeout?: number }
---@return table? answer
---@return opensandbox.Error? err
function agent_desktop_keyboard:press(key, opts) end

---@class opensandbox.AgentDesktopWindows: userdata
local agent_desktop_windows = {}
---@param opts? { timeout?: number }
---@return table[]? windows
---@return opensandbox.Error? err
function agent_desktop_windows:list(opts) end
---@param opts? { timeout?: number }
---@return table? window
---@return opensandbox.Error? err
function agent_desktop_windows:focused(opts) end
---@param id string
---@param opts? { timeout?: number }
---@return table? window
---@return opensandbox.Error? err
function agent_desktop_windows:focus(id, opts) end
---@param id string
---@param x integer
---@param y integer
---@param opts? { timeout?: number }
---@return table? window
---@return opensandbox.Error? err
function agent_desktop_windows:move(id, x, y, opts) end
---@param id string
---@param width integer
---@param height integer
---@param opts? { timeout?: number }
---@return table? window
---@return opensandbox.Error? err
function agent_desktop_windows:resize(id, width, height, opts) end

---@class opensandbox.AgentDesktopClipboard: userdata
local agent_desktop_clipboard = {}
---@param opts? { selection?: "clipboard"|"primary", timeout?: number }
---@return table? clipboard
---@return opensandbox.Error? err
function agent_desktop_clipboard:get(opts) end
---@param text string
---@param opts? { selection?: "clipboard"|"primary", timeout?: number }
---@return boolean? ok
---@return opensandbox.Error? err
function agent_desktop_clipboard:set(text, opts) end

---@class opensandbox.AgentDesktopRecording: userdata
local agent_desktop_recording = {}
---@param opts? { fps?: integer, timeout?: number }
---@return table? recording
---@return opensandbox.Error? err
function agent_desktop_recording:start(opts) end
---@param opts? { timeout?: number }
---@return table? recording
---@return opensandbox.Error? err
function agent_desktop_recording:stop(opts) end
---@param opts? { timeout?: number }
---@return table[]? recordings
---@return opensandbox.Error? err
function agent_desktop_recording:list(opts) end
---@param id string
---@param opts? { timeout?: number }
---@return table? recording
---@return opensandbox.Error? err
function agent_desktop_recording:get(id, opts) end
---@param id string
---@param opts? { timeout?: number }
---@return boolean? ok
---@return opensandbox.Error? err
function agent_desktop_recording:delete(id, opts) end
---@param id string
---@param opts? { to?: string|fun(chunk: string), timeout?: number }
---@return string|integer|nil bytes
---@return opensandbox.Error? err
function agent_desktop_recording:download(id, opts) end

---@class opensandbox.AgentDesktopStream: userdata
local agent_desktop_stream = {}
---@param opts? { timeout?: number }
---@return table? status
---@return opensandbox.Error? err
function agent_desktop_stream:start(opts) end
---@param opts? { timeout?: number }
---@return table? status
---@return opensandbox.Error? err
function agent_desktop_stream:stop(opts) end
---@param opts? { timeout?: number }
---@return table? status
---@return opensandbox.Error? err
function agent_desktop_stream:status(opts) end
---@param opts? { timeout?: number }
---@return opensandbox.Websocket? websocket
---@return opensandbox.Error? err
function agent_desktop_stream:signaling(opts) end

---@class opensandbox.agent
local agent = {}
---@param opts opensandbox.AgentConnectOptions
---@return opensandbox.Agents? agents
---@return opensandbox.Error? err
function agent.connect(opts) end
---@param opts? opensandbox.AgentStartOptions
---@return opensandbox.Agents? agents
---@return opensandbox.Error? err
function agent.start(opts) end
---@param sandbox opensandbox.Sandbox
---@param opts? opensandbox.AgentAttachOptions
---@return opensandbox.Agents? agents
---@return opensandbox.Error? err
function agent.attach(sandbox, opts) end
---@param opts? { max_sessions?: integer, max_events?: integer }
---@return table driver
function agent.memory(opts) end
---@param path string
---@return table? driver
---@return opensandbox.Error? err
function agent.sqlite(path) end
---@param text string
---@return opensandbox.AgentBlock
function agent.text(text) end
---@param bytes string
---@param mime_type string
---@return opensandbox.AgentBlock
function agent.image(bytes, mime_type) end
---@param bytes string
---@param mime_type string
---@return opensandbox.AgentBlock
function agent.audio(bytes, mime_type) end
---@param uri string
---@param text string
---@param mime_type? string
---@return opensandbox.AgentBlock
function agent.resource(uri, text, mime_type) end
---@param uri string
---@param name string
---@param mime_type? string
---@return opensandbox.AgentBlock
function agent.resource_link(uri, name, mime_type) end
---@param sandbox opensandbox.Sandbox
---@return table<string, function> requests
function agent.sandbox_requests(sandbox) end
---@param opts { base_url: string, token?: string, headers?: table<string, string> }
---@return string
function agent.inspector_url(opts) end

return agent
