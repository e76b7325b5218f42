---@meta opensandbox
-- Types of the public API of opensandbox for Lua language servers. `spec/stubs_spec.lua` compares them with the library itself.
--
-- Durations are seconds, sizes bytes, points in time Unix seconds. Methods that talk to a server return their value, or nil and an error.

---------------------------------------------------------------------------------------------------------------------
-- errors

---@alias opensandbox.ErrorCode
---| "timeout" | "cancelled" | "dns" | "connect" | "tls" | "network" | "protocol" | "truncated" | "decode" | "limit" | "unauthorized"
---| "forbidden" | "not_found" | "conflict" | "invalid" | "rate_limited" | "unsupported" | "unavailable" | "api" | "not_ready"
---| "unhealthy" | "exit_code_missing" | "command_failed" | "handler" | "closed" | "io" | "pool_empty" | "pool_acquire_failed"
---| "pool_store" | "pool_not_running"

---What a failed call returns as its second value; `tostring` makes one line of it, without secrets.
---@class opensandbox.Error
---@field code opensandbox.ErrorCode
---@field message string a sentence a user can act on
---@field retryable boolean whether trying again can help
---@field status? integer of the HTTP answer
---@field api_code? string the server's own code
---@field request_id? string
---@field retry_after? number seconds
---@field body? string of the answer, at most 64 KiB
---@field method? string
---@field url? string without what may be secret
---@field partial? any what had arrived: an execution, a byte count
---@field cause? any the value that a handler raised
---@field traceback? string

---------------------------------------------------------------------------------------------------------------------
-- records

---@class opensandbox.Status
---@field state string "Pending", "Running", "Pausing", "Paused", "Resuming", "Failed", "Terminated", …
---@field reason? string
---@field message? string
---@field last_transition_at? number

---@class opensandbox.SandboxInfo
---@field id string
---@field status opensandbox.Status
---@field created_at number
---@field expires_at? number nil: it never expires
---@field metadata? table<string, string>
---@field image? table
---@field snapshot_id? string
---@field platform? table
---@field entrypoint? string[]
---@field extensions? table<string, string>
---@field raw table the server's own body

---@class opensandbox.Pagination
---@field page integer
---@field page_size integer
---@field total_items integer
---@field total_pages integer
---@field has_next_page boolean

---@class opensandbox.SandboxPage
---@field items opensandbox.SandboxInfo[]
---@field pagination opensandbox.Pagination
---@field raw table

---@class opensandbox.Snapshot
---@field id string
---@field sandbox_id string
---@field name? string
---@field status opensandbox.Status its state is "Creating", "Ready", "Failed" or "Deleting"
---@field created_at number
---@field raw table

---@class opensandbox.SnapshotPage
---@field items opensandbox.Snapshot[]
---@field pagination opensandbox.Pagination
---@field raw table

---@class opensandbox.Diagnostics
---@field sandbox_id string
---@field kind "logs"|"events"
---@field scope string
---@field delivery "inline"|"url"
---@field content_type string
---@field truncated boolean
---@field content? string
---@field content_url? string
---@field content_length? integer
---@field expires_at? number
---@field raw table

---@class opensandbox.Endpoint
---@field endpoint string host:port/prefix
---@field headers table<string, string> which must go with every request to it
---@field url string

---@class opensandbox.Response
---@field status integer
---@field headers table<string, string> by lower-case names
---@field body string
---@field request_id? string

---@class opensandbox.Metrics
---@field cpu_count number
---@field cpu_used_pct number
---@field mem_total_mib number
---@field mem_used_mib number
---@field timestamp number
---@field raw table

---@class opensandbox.OutputEvent
---@field text string
---@field timestamp? number

---@class opensandbox.Result
---@field text? string
---@field mime table<string, any> every representation, as it came
---@field timestamp? number

---@class opensandbox.ExecutionError
---@field name string
---@field value string
---@field traceback string[]
---@field timestamp? number

---@class opensandbox.Complete
---@field execution_time number
---@field timestamp? number

---What a command, or a piece of code, did.
---@class opensandbox.Execution
---@field id? string
---@field exit_code? integer nil for background commands and code
---@field signal? string "SIGKILL"
---@field stdout string
---@field stderr string
---@field output string stdout and stderr in order of arrival
---@field text string stdout, then the results' texts
---@field truncated boolean whether more came than was kept
---@field logs { stdout: opensandbox.OutputEvent[], stderr: opensandbox.OutputEvent[] }
---@field result opensandbox.Result[]
---@field error? opensandbox.ExecutionError
---@field complete? opensandbox.Complete
---@field execution_count? integer

---@class opensandbox.ExecResult
---@field id string
---@field exit_code integer
---@field signal? string
---@field output string
---@field stdout string
---@field stderr string
---@field truncated boolean

---@class opensandbox.Event
---@field type "stdout"|"stderr"|"init"|"result"|"execution_count"|"execution_complete"|"error"|"status"|"ping"|string
---@field id? string of init
---@field text? string
---@field timestamp? number
---@field mime? table<string, any> of a result
---@field name? string of an error
---@field value? string
---@field traceback? string[]
---@field execution_time? number
---@field execution_count? integer

---@class opensandbox.CommandStatus
---@field id string
---@field running boolean
---@field exit_code? integer nil while it runs
---@field signal? string
---@field error? string
---@field started_at? number
---@field finished_at? number
---@field content? string
---@field raw table

---@class opensandbox.CommandOutput
---@field output string bytes from the cursor on
---@field cursor integer for the next call
---@field exit_code? integer nil while it runs
---@field running boolean

---@class opensandbox.FileInfo
---@field path string
---@field type "file"|"directory"|"symlink"|"other"
---@field size integer
---@field mode string octal digits
---@field owner string
---@field group string
---@field created_at number
---@field modified_at number
---@field raw table

---@class opensandbox.TreeSummary
---@field files integer
---@field directories integer
---@field bytes integer
---@field skipped string[] symbolic links and special files

---@class opensandbox.CodeContext
---@field id string
---@field language string
---@field cwd? string
---@field raw table

---@class opensandbox.PtyStatus
---@field id string
---@field running boolean
---@field output_offset integer
---@field raw table

---@class opensandbox.NetworkRule
---@field action "allow"|"deny"
---@field target string "*.example.com"

---@class opensandbox.NetworkPolicy
---@field default_action? "allow"|"deny"
---@field egress? opensandbox.NetworkRule[]

---@class opensandbox.PolicyStatus
---@field status string
---@field mode string
---@field enforcement_mode string
---@field reason? string
---@field policy? opensandbox.NetworkPolicy
---@field raw table

---@class opensandbox.CredentialInfo
---@field name string
---@field source_type string
---@field revision integer

---@class opensandbox.BindingInfo
---@field name string
---@field revision integer
---@field match? table
---@field auth? table

---@class opensandbox.VaultState
---@field revision integer
---@field credentials? opensandbox.CredentialInfo[]
---@field bindings? opensandbox.BindingInfo[]
---@field raw table

---@class opensandbox.IsolatedInfo
---@field session_id? string
---@field status? "active"|"dead"|"destroyed"|string
---@field created_at? number
---@field last_run_at? number
---@field idle_remaining_seconds? number
---@field raw table

---@class opensandbox.IsolatedCapabilities
---@field available boolean
---@field isolator? string
---@field version? string
---@field message? string
---@field setpriv_available? boolean
---@field userns_available? boolean
---@field commit_supported? boolean
---@field diff_supported? boolean
---@field raw table

---@class opensandbox.IdleEntry
---@field id string
---@field expires_at number

---@class opensandbox.PoolSnapshot
---@field state "healthy"|"degraded"|"draining"|"stopped"
---@field lifecycle "not_started"|"running"|"draining"|"stopped"
---@field idle_count integer
---@field max_idle integer
---@field failure_count integer failed creates in a row
---@field backoff_active boolean
---@field last_error? opensandbox.Error
---@field in_flight integer
---@field is_primary boolean
---@field counters { created: integer, failed: integer, discarded: integer, acquired: integer, made_at_acquire: integer }

---------------------------------------------------------------------------------------------------------------------
-- options; `opensandbox.options.X.Y` are those of the method Y of X

---@class opensandbox.options.a_call
---@field timeout? number seconds for the whole call

---@class opensandbox.Tls
---@field ca_file? string
---@field ca_path? string
---@field verify? boolean default true
---@field cert_file? string
---@field key_file? string

---@class opensandbox.Retry
---@field attempts? integer default 3
---@field base? number seconds before the second attempt, default 0.2
---@field max? number most seconds between two, default 5
---@field should_retry? fun(err: opensandbox.Error, attempt: integer): boolean
---@field on_retry? fun(err: opensandbox.Error, attempt: integer, delay: number)

---@class opensandbox.options.connection
---@field domain? string "api.example.com:8080", "https://host/prefix" or "local"; environment OPEN_SANDBOX_DOMAIN
---@field protocol? string where domain has no scheme, default "http"; environment OPEN_SANDBOX_PROTOCOL
---@field api_key? string environment OPEN_SANDBOX_API_KEY
---@field auth_header? string
---@field use_server_proxy? boolean reach sandboxes through the lifecycle server
---@field endpoint_host_rewrite? table<string, string>
---@field request_timeout? number default 30
---@field connect_timeout? number default 10
---@field headers? table<string, string> go with every request
---@field user_agent? string
---@field proxy? string
---@field tls? opensandbox.Tls
---@field retry? opensandbox.Retry|false
---@field debug? boolean|fun(event: table)

---@class opensandbox.Image
---@field uri string
---@field auth? { username: string, password: string }

---@class opensandbox.options.image: opensandbox.Image

---@class opensandbox.Volume
---@field name string
---@field mount_path string
---@field read_only? boolean
---@field sub_path? string
---@field host? { path: string }
---@field pvc? { claim_name: string, create_if_not_exists?: boolean, delete_on_sandbox_termination?: boolean, storage_class?: string, storage?: string, access_modes?: string[] }
---@field ossfs? { bucket: string, endpoint: string, version?: string, options?: string[], access_key_id?: string, access_key_secret?: string }

---@class opensandbox.ReadyOptions
---@field ready_timeout? number default 30
---@field health_check? fun(sandbox: opensandbox.Sandbox): boolean
---@field health_check_interval? number default 0.2
---@field skip_health_check? boolean

---@class opensandbox.options.create: opensandbox.ReadyOptions
---@field image? string|opensandbox.Image
---@field snapshot_id? string
---@field timeout? number|false seconds to live; false: no expiry
---@field entrypoint? string[]
---@field resource? table<string, string>
---@field env? table<string, string>
---@field metadata? table<string, string>
---@field extensions? table<string, string>
---@field platform? { os: string, arch: string }
---@field network_policy? opensandbox.NetworkPolicy
---@field credential_proxy? { enabled: boolean }
---@field secure_access? boolean
---@field network? "proxy"|"none"|"host" embedded runtime only
---@field volumes? opensandbox.Volume[]
---@field extra? table<string, any> newer fields, sent as they are
---@field connection? opensandbox.Connection|opensandbox.options.connection
---@field request_timeout? number default 300

---@class opensandbox.options.connect: opensandbox.ReadyOptions
---@field connection? opensandbox.Connection|opensandbox.options.connection
---@field timeout? number

---@class opensandbox.options.resume: opensandbox.options.connect

---@class opensandbox.options.manager
---@field connection? opensandbox.Connection|opensandbox.options.connection

---@class opensandbox.options.manager.list
---@field states? string[] any of them
---@field metadata? table<string, string> all of them
---@field page? integer from 1
---@field page_size? integer
---@field timeout? number

---@class opensandbox.options.manager.each: opensandbox.options.manager.list

---@class opensandbox.options.list_snapshots
---@field sandbox_id? string
---@field states? string[]
---@field name? string
---@field page? integer
---@field page_size? integer
---@field timeout? number

---@class opensandbox.options.create_snapshot
---@field name? string
---@field wait? boolean until it is Ready
---@field ready_timeout? number seconds to wait, default 300
---@field timeout? number

---@class opensandbox.options.patch_metadata
---@field patch table<string, string|userdata>

---@class opensandbox.options.sandbox.wait_until_ready: opensandbox.ReadyOptions
---@field timeout? number

---@class opensandbox.options.sandbox.resume: opensandbox.ReadyOptions
---@field timeout? number

---@class opensandbox.options.sandbox.endpoint
---@field expires? number Unix seconds: a signed address
---@field use_server_proxy? boolean
---@field timeout? number

---@class opensandbox.options.sandbox.request
---@field port integer
---@field method? string default "GET"
---@field path? string with its query, default "/"
---@field headers? table<string, string>
---@field body? string
---@field timeout? number
---@field use_server_proxy? boolean

---@class opensandbox.options.sandbox.websocket
---@field port integer
---@field path? string
---@field headers? table<string, string>
---@field protocols? string[]
---@field ping_interval? number
---@field timeout? number
---@field use_server_proxy? boolean

---@class opensandbox.options.sandbox.watch_metrics
---@field timeout? number seconds for the whole watch
---@field idle_timeout? number seconds of silence, default 20

---@class opensandbox.Handlers
---@field on_stdout? fun(text: string, event: { text: string, timestamp: number, is_error: boolean })
---@field on_stderr? fun(text: string, event: { text: string, timestamp: number, is_error: boolean })
---@field on_init? fun(event: opensandbox.Event)
---@field on_result? fun(result: opensandbox.Result)
---@field on_error? fun(err: opensandbox.ExecutionError)
---@field on_complete? fun(complete: opensandbox.Complete)
---@field on_event? fun(event: opensandbox.Event)

---@class opensandbox.StreamOptions: opensandbox.Handlers
---@field timeout? number
---@field idle_timeout? number seconds of silence
---@field deadline? number seconds from the call
---@field max_output? integer bytes kept per stream, default 64 MiB
---@field capture? boolean false: handlers only

---@class opensandbox.options.commands.run: opensandbox.StreamOptions
---@field cwd? string
---@field env? table<string, string>
---@field uid? integer
---@field gid? integer needs uid
---@field background? boolean
---@field stdin? string fed to the command
---@field check? boolean a non-zero exit is nil, err
---@field interrupt_on_cancel? boolean false: leave the command running

---@class opensandbox.options.commands.exec: opensandbox.options.commands.run
---@class opensandbox.options.commands.stream: opensandbox.options.commands.run

---@class opensandbox.options.commands.start
---@field cwd? string
---@field env? table<string, string>
---@field timeout? number
---@field uid? integer
---@field gid? integer
---@field stdin? string
---@field deadline? number
---@field idle_timeout? number

---@class opensandbox.options.commands.status: opensandbox.options.a_call

---@class opensandbox.options.commands.output
---@field cursor? integer bytes, default 0
---@field timeout? number

---@class opensandbox.options.commands.create_session
---@field cwd? string
---@field timeout? number

---@class opensandbox.options.session.run: opensandbox.StreamOptions
---@field cwd? string
---@field check? boolean

---@class opensandbox.options.session.delete: opensandbox.options.a_call
---@class opensandbox.options.job.status: opensandbox.options.a_call
---@class opensandbox.options.job.wait: opensandbox.options.a_call
---@class opensandbox.options.job.output: opensandbox.options.commands.output
---@class opensandbox.options.job.follow: opensandbox.options.commands.output

---@class opensandbox.options.files.read
---@field range? integer[] bytes from 0: {first, last}, {first} or {-count}
---@field offset? integer first line, from 1
---@field limit? integer lines
---@field timeout? number

---@class opensandbox.options.files.lines: opensandbox.options.a_call

---@class opensandbox.options.files.write
---@field mode? string|integer octal digits
---@field owner? string
---@field group? string
---@field timeout? number

---@class opensandbox.WriteEntry
---@field path string
---@field data string|file*|fun(): string?
---@field mode? string|integer
---@field owner? string
---@field group? string

---@class opensandbox.options.files.write_many
---@field files opensandbox.WriteEntry[]

---@class opensandbox.options.files.upload: opensandbox.options.files.write
---@field on_progress? fun(done: integer, total: integer)

---@class opensandbox.options.files.download
---@field range? integer[]
---@field resume? boolean go on where an earlier call broke off
---@field on_progress? fun(done: integer, total: integer?)
---@field timeout? number

---@class opensandbox.options.files.upload_tree
---@field exclude? string|string[]|fun(path: string): boolean
---@field on_progress? fun(done: integer, total: integer, path: string)
---@field timeout? number for each request

---@class opensandbox.options.files.download_tree: opensandbox.options.files.upload_tree

---@class opensandbox.options.files.list
---@field depth? integer default 1
---@field timeout? number

---@class opensandbox.options.files.move
---@field moves { src: string, dest: string }[]

---@class opensandbox.AttributeEntry
---@field path string
---@field mode? string|integer
---@field owner? string
---@field group? string

---@class opensandbox.options.files.make_directory
---@field entries opensandbox.AttributeEntry[]

---@class opensandbox.options.files.replace
---@field old string
---@field new string

---@class opensandbox.options.code.create_context
---@field language? string default "python"
---@field cwd? string
---@field timeout? number

---@class opensandbox.options.code.run: opensandbox.StreamOptions
---@field context? opensandbox.CodeContext|string
---@field language? string default "python"
---@field interrupt_on_cancel? boolean

---@class opensandbox.options.code.stream: opensandbox.options.code.run

---@class opensandbox.PtyConnectOptions
---@field cols? integer
---@field rows? integer
---@field tty? boolean
---@field since? integer
---@field takeover? boolean
---@field on_output? fun(bytes: string, channel: string)
---@field on_exit? fun(exit_code: integer)
---@field timeout? number

---@class opensandbox.options.pty.open: opensandbox.PtyConnectOptions
---@field cwd? string
---@field command? string|string[]

---@class opensandbox.options.pty.attach: opensandbox.PtyConnectOptions

---@class opensandbox.options.egress.patch
---@field rules opensandbox.NetworkRule[]

---@class opensandbox.options.egress.replace: opensandbox.NetworkPolicy

---@class opensandbox.Credential
---@field name string
---@field value string a secret

---@class opensandbox.Binding
---@field name string
---@field match { hosts: string[], schemes?: string[], ports?: integer[], methods?: string[], paths?: string[] }
---@field auth { type: string, credential?: string, name?: string, headers?: { name: string, credential: string }[] }
---@field substitutions? table[]

---@class opensandbox.options.vault.create
---@field credentials opensandbox.Credential[]
---@field bindings opensandbox.Binding[]
---@field timeout? number

---@class opensandbox.options.vault.patch
---@field expected_revision? integer
---@field credentials? { add?: opensandbox.Credential[], replace?: opensandbox.Credential[], delete?: string[] }
---@field bindings? { add?: opensandbox.Binding[], replace?: opensandbox.Binding[], delete?: string[] }
---@field timeout? number

---@class opensandbox.options.isolated.create
---@field workspace { path: string, mode?: "rw"|"overlay"|"ro" }
---@field profile? "strict"|"balanced"
---@field extra_writable? string[]
---@field binds? { source: string, dest?: string, readonly?: boolean }[]
---@field share_net? boolean
---@field env_passthrough? { mode?: "allow"|"deny", keys?: string[] }
---@field uid? integer
---@field gid? integer
---@field uid_mode? "setpriv"|"userns"
---@field idle_timeout_seconds? integer
---@field timeout? number

---@class opensandbox.options.isolated.run: opensandbox.StreamOptions
---@field env? table<string, string>
---@field check? boolean

---@class opensandbox.options.pool
---@field create opensandbox.options.create
---@field name? string
---@field max_idle? integer default 4
---@field prepare? fun(sandbox: opensandbox.Sandbox)
---@field on_empty? "create"|"fail"
---@field min_remaining_ttl? number default 60
---@field warmup_concurrency? integer default 2
---@field reconcile_interval? number default 5
---@field idle_timeout? number default 600
---@field drain_timeout? number default 30
---@field degraded_threshold? integer default 3
---@field backoff_base? number default 1
---@field backoff_max? number default 300
---@field store? opensandbox.PoolStore
---@field owner_id? string
---@field primary_lock_ttl? number default 60

---@class opensandbox.options.pool.acquire
---@field sandbox_timeout? number seconds to live
---@field on_empty? "create"|"fail"
---@field timeout? number

---@class opensandbox.options.pool.shutdown
---@field graceful? boolean default true
---@field release_idle? boolean

---@class opensandbox.options.pool_redis
---@field host? string default "127.0.0.1"
---@field port? integer default 6379
---@field path? string of a socket
---@field username? string
---@field password? string
---@field db? integer
---@field prefix? string default "opensandbox:pool"
---@field timeout? number seconds for one command, default 2

---@class opensandbox.options.step
---@field budget? number seconds of handlers at most, default 0.002

---@class opensandbox.options.adapter.start
---@field budget? number
---@field loop? any the host's loop

---------------------------------------------------------------------------------------------------------------------
-- objects

---@class opensandbox.Connection: userdata
local connection = {}
---@return boolean
function connection:close() end

---@class opensandbox.Sandbox: userdata
---@field id string
---@field connection opensandbox.Connection
---@field commands opensandbox.Commands
---@field files opensandbox.Files
---@field code opensandbox.Code
---@field pty opensandbox.Terminals
---@field egress opensandbox.Egress
---@field vault opensandbox.Vault
---@field isolated opensandbox.Isolated
local sandbox = {}
---@param opts? opensandbox.options.a_call
---@return opensandbox.SandboxInfo? info
---@return opensandbox.Error? err
function sandbox:info(opts) end
---@param opts? opensandbox.options.a_call
---@return boolean
---@return opensandbox.Error? err
function sandbox:is_healthy(opts) end
---@param opts? opensandbox.options.sandbox.wait_until_ready
---@return boolean? ok
---@return opensandbox.Error? err
function sandbox:wait_until_ready(opts) end
---@param seconds number from now
---@param opts? opensandbox.options.a_call
---@return number? expires_at
---@return opensandbox.Error? err
function sandbox:renew(seconds, opts) end
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function sandbox:pause(opts) end
---@param opts? opensandbox.options.sandbox.resume
---@return boolean? ok
---@return opensandbox.Error? err
function sandbox:resume(opts) end
---Ends the remote sandbox.
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function sandbox:kill(opts) end
---Frees what the handle holds here; the remote sandbox goes on.
---@return boolean
function sandbox:close() end
---Lets the sandbox live when this handle is closed by `<close>`.
---@return boolean
function sandbox:detach() end
---@param port integer
---@param opts? opensandbox.options.sandbox.endpoint
---@return opensandbox.Endpoint? endpoint
---@return opensandbox.Error? err
function sandbox:endpoint(port, opts) end
---@param opts opensandbox.options.sandbox.request
---@return opensandbox.Response? response
---@return opensandbox.Error? err
function sandbox:request(opts) end
---@param opts opensandbox.options.sandbox.websocket
---@return opensandbox.Websocket? websocket
---@return opensandbox.Error? err
function sandbox:websocket(opts) end
---@param opts? opensandbox.options.a_call
---@return opensandbox.Metrics? metrics
---@return opensandbox.Error? err
function sandbox:metrics(opts) end
---@param fn fun(metrics: opensandbox.Metrics): boolean? returns false to end the watch
---@param opts? opensandbox.options.sandbox.watch_metrics
---@return boolean? ok
---@return opensandbox.Error? err
function sandbox:watch_metrics(fn, opts) end
---@param patch table<string, string|userdata> `opensandbox.null` removes
---@param opts? opensandbox.options.a_call
---@return opensandbox.SandboxInfo? info
---@return opensandbox.Error? err
function sandbox:patch_metadata(patch, opts) end
---@param opts? opensandbox.options.create_snapshot
---@return opensandbox.Snapshot? snapshot
---@return opensandbox.Error? err
function sandbox:create_snapshot(opts) end
---@param scope "container"|"lifecycle"|"runtime"|"network"|"process"|"all"|string
---@param opts? opensandbox.options.a_call
---@return opensandbox.Diagnostics? diagnostics
---@return opensandbox.Error? err
function sandbox:diagnostic_logs(scope, opts) end
---@param scope "container"|"lifecycle"|"runtime"|"network"|"process"|"all"|string
---@param opts? opensandbox.options.a_call
---@return opensandbox.Diagnostics? diagnostics
---@return opensandbox.Error? err
function sandbox:diagnostic_events(scope, opts) end

---@class opensandbox.Manager: userdata
---@field connection opensandbox.Connection
local manager = {}
---@param opts? opensandbox.options.manager.list
---@return opensandbox.SandboxPage? page
---@return opensandbox.Error? err
function manager:list(opts) end
---All pages, lazily; a failing page raises its error.
---@param opts? opensandbox.options.manager.each
---@return fun(): opensandbox.SandboxInfo?
function manager:each(opts) end
---@param id string
---@param opts? opensandbox.options.a_call
---@return opensandbox.SandboxInfo? info
---@return opensandbox.Error? err
function manager:get(id, opts) end
---@param id string
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function manager:kill(id, opts) end
---@param id string
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function manager:pause(id, opts) end
---@param id string
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function manager:resume(id, opts) end
---@param id string
---@param seconds number
---@param opts? opensandbox.options.a_call
---@return number? expires_at
---@return opensandbox.Error? err
function manager:renew(id, seconds, opts) end
---@param id string
---@param patch table<string, string|userdata>
---@param opts? opensandbox.options.a_call
---@return opensandbox.SandboxInfo? info
---@return opensandbox.Error? err
function manager:patch_metadata(id, patch, opts) end
---@param id string
---@param scope string
---@param opts? opensandbox.options.a_call
---@return opensandbox.Diagnostics? diagnostics
---@return opensandbox.Error? err
function manager:diagnostic_logs(id, scope, opts) end
---@param id string
---@param scope string
---@param opts? opensandbox.options.a_call
---@return opensandbox.Diagnostics? diagnostics
---@return opensandbox.Error? err
function manager:diagnostic_events(id, scope, opts) end
---@param id string of a sandbox
---@param opts? opensandbox.options.create_snapshot
---@return opensandbox.Snapshot? snapshot
---@return opensandbox.Error? err
function manager:create_snapshot(id, opts) end
---@param id string
---@param opts? opensandbox.options.a_call
---@return opensandbox.Snapshot? snapshot
---@return opensandbox.Error? err
function manager:get_snapshot(id, opts) end
---@param filter? opensandbox.options.list_snapshots
---@return opensandbox.SnapshotPage? page
---@return opensandbox.Error? err
function manager:list_snapshots(filter) end
---@param filter? opensandbox.options.list_snapshots
---@return fun(): opensandbox.Snapshot?
function manager:each_snapshot(filter) end
---@param id string
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function manager:delete_snapshot(id, opts) end
---@return boolean
function manager:close() end

---@class opensandbox.Commands: userdata
local commands = {}
---@param command string|string[] a shell string, or words, which are quoted
---@param opts? opensandbox.options.commands.run
---@return opensandbox.Execution? run
---@return opensandbox.Error? err
function commands:run(command, opts) end
---@param command string
---@param args? string[] without them command is a shell string
---@param opts? opensandbox.options.commands.exec
---@return opensandbox.ExecResult? result
---@return opensandbox.Error? err
function commands:exec(command, args, opts) end
---@param command string|string[]
---@param opts? opensandbox.options.commands.stream
---@return opensandbox.Stream? stream
---@return opensandbox.Error? err
function commands:stream(command, opts) end
---@param command string|string[]
---@param opts? opensandbox.options.commands.start
---@return opensandbox.Job? job
---@return opensandbox.Error? err
function commands:start(command, opts) end
---@param id string
---@return opensandbox.Job
function commands:attach(id) end
---@param id string
---@param opts? opensandbox.options.commands.status
---@return opensandbox.CommandStatus? status
---@return opensandbox.Error? err
function commands:status(id, opts) end
---@param id string
---@param opts? opensandbox.options.commands.output
---@return opensandbox.CommandOutput? output
---@return opensandbox.Error? err
function commands:output(id, opts) end
---@param id string
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function commands:interrupt(id, opts) end
---@param opts? opensandbox.options.commands.create_session
---@return opensandbox.Session? session
---@return opensandbox.Error? err
function commands:create_session(opts) end
---@param id string
---@return opensandbox.Session
function commands:attach_session(id) end
---@param session opensandbox.Session|string
---@param command string|string[]
---@param opts? opensandbox.options.session.run
---@return opensandbox.Execution? run
---@return opensandbox.Error? err
function commands:run_in_session(session, command, opts) end
---@param session opensandbox.Session|string
---@param opts? opensandbox.options.session.delete
---@return boolean? ok
---@return opensandbox.Error? err
function commands:delete_session(session, opts) end

---@class opensandbox.Session: userdata
---@field id string
local session = {}
---@param command string|string[]
---@param opts? opensandbox.options.session.run
---@return opensandbox.Execution? run
---@return opensandbox.Error? err
function session:run(command, opts) end
---@param opts? opensandbox.options.session.delete
---@return boolean? ok
---@return opensandbox.Error? err
function session:delete(opts) end
---@return boolean
function session:close() end

---@class opensandbox.Job: userdata
---@field id string
local job = {}
---@param opts? opensandbox.options.job.status
---@return opensandbox.CommandStatus? status
---@return opensandbox.Error? err
function job:status(opts) end
---@param opts? opensandbox.options.job.output
---@return opensandbox.CommandOutput? output
---@return opensandbox.Error? err
function job:output(opts) end
---@param opts? opensandbox.options.job.status
---@return boolean? ok
---@return opensandbox.Error? err
function job:interrupt(opts) end
---@param opts? opensandbox.options.job.wait
---@return opensandbox.CommandStatus? status
---@return opensandbox.Error? err
function job:wait(opts) end
---@param fn fun(bytes: string)
---@param opts? opensandbox.options.job.follow
---@return opensandbox.CommandStatus? status
---@return opensandbox.Error? err
function job:follow(fn, opts) end
---@return boolean
function job:close() end

---@class opensandbox.Stream: userdata
local stream = {}
---@return opensandbox.Event? event nil at the end
function stream:next() end
---@return fun(stream: opensandbox.Stream): opensandbox.Event?
---@return opensandbox.Stream
function stream:events() end
---@return boolean
function stream:cancel() end
---@return opensandbox.Execution? run
---@return opensandbox.Error? err
function stream:result() end

---@class opensandbox.Files: userdata
local files = {}
---@param path string
---@param opts? opensandbox.options.files.read
---@return string? bytes
---@return opensandbox.Error? err
function files:read(path, opts) end
---@param path string
---@param opts? opensandbox.options.files.lines
---@return (fun(): string?)? lines
---@return opensandbox.Error? err
function files:lines(path, opts) end
---@param path string
---@param data string|file*|fun(): string?
---@param opts? opensandbox.options.files.write
---@return boolean? ok
---@return opensandbox.Error? err
function files:write(path, data, opts) end
---@param entries opensandbox.WriteEntry[]
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function files:write_many(entries, opts) end
---@param path string
---@param sink string|fun(chunk: string) a local path, or a function
---@param opts? opensandbox.options.files.download
---@return boolean? ok
---@return opensandbox.Error? err
function files:download(path, sink, opts) end
---@param local_path string
---@param path string
---@param opts? opensandbox.options.files.upload
---@return boolean? ok
---@return opensandbox.Error? err
function files:upload(local_path, path, opts) end
---@param local_dir string
---@param dir string
---@param opts? opensandbox.options.files.upload_tree
---@return opensandbox.TreeSummary? summary
---@return opensandbox.Error? err
function files:upload_tree(local_dir, dir, opts) end
---@param dir string
---@param local_dir string
---@param opts? opensandbox.options.files.download_tree
---@return opensandbox.TreeSummary? summary
---@return opensandbox.Error? err
function files:download_tree(dir, local_dir, opts) end
---@param path string
---@param opts? opensandbox.options.a_call
---@return opensandbox.FileInfo? info
---@return opensandbox.Error? err
---@overload fun(self: opensandbox.Files, paths: string[], opts?: opensandbox.options.a_call): table<string, opensandbox.FileInfo>?, opensandbox.Error?
function files:info(path, opts) end
---@param path string
---@param opts? opensandbox.options.a_call
---@return boolean? exists
---@return opensandbox.Error? err
function files:exists(path, opts) end
---@param path string
---@param opts? opensandbox.options.files.list
---@return opensandbox.FileInfo[]? infos
---@return opensandbox.Error? err
function files:list(path, opts) end
---@param path string
---@param pattern? string a glob for names
---@param opts? opensandbox.options.a_call
---@return opensandbox.FileInfo[]? infos
---@return opensandbox.Error? err
function files:search(path, pattern, opts) end
---@param src string
---@param dest string
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
---@overload fun(self: opensandbox.Files, moves: { src: string, dest: string }[], opts?: opensandbox.options.a_call): boolean?, opensandbox.Error?
function files:move(src, dest, opts) end
---@param path string|string[]
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function files:remove(path, opts) end
---@param path string|string[]
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function files:remove_directory(path, opts) end
---@param paths string|string[]|opensandbox.AttributeEntry[]
---@param opts? opensandbox.options.files.write
---@return boolean? ok
---@return opensandbox.Error? err
function files:make_directory(paths, opts) end
---@param paths string|string[]|opensandbox.AttributeEntry[]
---@param opts? opensandbox.options.files.write
---@return boolean? ok
---@return opensandbox.Error? err
function files:set_permissions(paths, opts) end
---@param path string
---@param old string
---@param new string
---@param opts? opensandbox.options.a_call
---@return integer? count
---@return opensandbox.Error? err
---@overload fun(self: opensandbox.Files, map: table<string, { old: string, new: string }>, opts?: opensandbox.options.a_call): table<string, integer>?, opensandbox.Error?
function files:replace(path, old, new, opts) end

---@class opensandbox.Code: userdata
local code = {}
---@param opts? opensandbox.options.code.create_context
---@return opensandbox.CodeContext? context
---@return opensandbox.Error? err
function code:create_context(opts) end
---@param source string
---@param opts? opensandbox.options.code.run
---@return opensandbox.Execution? run
---@return opensandbox.Error? err
function code:run(source, opts) end
---@param source string
---@param opts? opensandbox.options.code.stream
---@return opensandbox.Stream? stream
---@return opensandbox.Error? err
function code:stream(source, opts) end
---@param language? string
---@param opts? opensandbox.options.a_call
---@return opensandbox.CodeContext[]? contexts
---@return opensandbox.Error? err
function code:contexts(language, opts) end
---@param id string
---@param opts? opensandbox.options.a_call
---@return opensandbox.CodeContext? context
---@return opensandbox.Error? err
function code:context(id, opts) end
---@param context opensandbox.CodeContext|string
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function code:delete_context(context, opts) end
---@param language string
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function code:delete_contexts(language, opts) end
---@param id string|opensandbox.CodeContext
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function code:interrupt(id, opts) end

---@class opensandbox.Terminals: userdata
local terminals = {}
---@param opts? opensandbox.options.pty.open
---@return opensandbox.Pty? pty
---@return opensandbox.Error? err
function terminals:open(opts) end
---@param id string
---@param opts? opensandbox.options.pty.attach
---@return opensandbox.Pty? pty
---@return opensandbox.Error? err
function terminals:attach(id, opts) end
---@param id string
---@param opts? opensandbox.options.a_call
---@return opensandbox.PtyStatus? status
---@return opensandbox.Error? err
function terminals:status(id, opts) end
---@param id string
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function terminals:delete(id, opts) end

---@class opensandbox.Pty: userdata
---@field id string
---@field offset integer bytes of output seen
---@field tty boolean
local pty = {}
---@param bytes string
---@return boolean? ok
---@return opensandbox.Error? err
function pty:write(bytes) end
---@param timeout? number
---@return string? bytes nil: the shell has ended, or err
---@return string? channel "stdout", "stderr" or "replay"
---@return opensandbox.Error? err
function pty:read(timeout) end
---@param cols integer
---@param rows integer
---@return boolean? ok
---@return opensandbox.Error? err
function pty:resize(cols, rows) end
---@param name "SIGINT"|"SIGTERM"|"SIGKILL"|"SIGQUIT"|"SIGHUP"
---@return boolean? ok
---@return opensandbox.Error? err
function pty:signal(name) end
---@param timeout? number
---@return integer? exit_code
---@return opensandbox.Error? err
function pty:wait(timeout) end
---Ends the connection; the shell goes on.
---@return boolean
function pty:close() end
---Ends the shell.
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function pty:delete(opts) end

---@class opensandbox.Websocket: userdata
---@field protocol? string
local websocket = {}
---@param bytes string
---@return boolean? ok
---@return opensandbox.Error? err
function websocket:send(bytes) end
---@param text string
---@return boolean? ok
---@return opensandbox.Error? err
function websocket:send_text(text) end
---@param timeout? number
---@return string? message nil: it was closed, or err
---@return boolean? is_text
---@return opensandbox.Error? err
function websocket:receive(timeout) end
---@return integer? code
---@return string? reason
function websocket:close_status() end
---@param code? integer default 1000
---@param reason? string
---@return boolean
function websocket:close(code, reason) end

---@class opensandbox.Egress: userdata
local egress = {}
---@param opts? opensandbox.options.a_call
---@return opensandbox.PolicyStatus? status
---@return opensandbox.Error? err
function egress:policy(opts) end
---@param rules opensandbox.NetworkRule[]
---@param opts? opensandbox.options.a_call
---@return opensandbox.PolicyStatus? status
---@return opensandbox.Error? err
function egress:patch(rules, opts) end
---@param targets string|string[]
---@param opts? opensandbox.options.a_call
---@return opensandbox.PolicyStatus? status
---@return opensandbox.Error? err
function egress:delete(targets, opts) end
---@param policy opensandbox.NetworkPolicy
---@param opts? opensandbox.options.a_call
---@return opensandbox.PolicyStatus? status
---@return opensandbox.Error? err
function egress:replace(policy, opts) end

---@class opensandbox.Vault: userdata
local vault = {}
---@param opts opensandbox.options.vault.create
---@return opensandbox.VaultState? state
---@return opensandbox.Error? err
function vault:create(opts) end
---@param opts? opensandbox.options.a_call
---@return opensandbox.VaultState? state
---@return opensandbox.Error? err
function vault:get(opts) end
---@param opts opensandbox.options.vault.patch
---@return opensandbox.VaultState? state
---@return opensandbox.Error? err
function vault:patch(opts) end
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function vault:delete(opts) end
---@param opts? opensandbox.options.a_call
---@return opensandbox.VaultState? list
---@return opensandbox.Error? err
function vault:credentials(opts) end
---@param name string
---@param opts? opensandbox.options.a_call
---@return opensandbox.CredentialInfo? credential
---@return opensandbox.Error? err
function vault:credential(name, opts) end
---@param opts? opensandbox.options.a_call
---@return opensandbox.VaultState? list
---@return opensandbox.Error? err
function vault:bindings(opts) end
---@param name string
---@param opts? opensandbox.options.a_call
---@return opensandbox.BindingInfo? binding
---@return opensandbox.Error? err
function vault:binding(name, opts) end

---@class opensandbox.Isolated: userdata
local isolated = {}
---@param opts opensandbox.options.isolated.create
---@return opensandbox.IsolatedSession? session
---@return opensandbox.Error? err
function isolated:create(opts) end
---@param opts? opensandbox.options.a_call
---@return opensandbox.IsolatedInfo[]? sessions
---@return opensandbox.Error? err
function isolated:list(opts) end
---@param id string
---@param opts? opensandbox.options.a_call
---@return opensandbox.IsolatedSession? session
---@return opensandbox.Error? err
function isolated:get(id, opts) end
---@param session opensandbox.IsolatedSession|string
---@param command string|string[]
---@param opts? opensandbox.options.isolated.run
---@return opensandbox.Execution? run
---@return opensandbox.Error? err
function isolated:run(session, command, opts) end
---@param session opensandbox.IsolatedSession|string
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function isolated:delete(session, opts) end
---@param opts? opensandbox.options.a_call
---@return opensandbox.IsolatedCapabilities? capabilities
---@return opensandbox.Error? err
function isolated:capabilities(opts) end

---@class opensandbox.IsolatedSession: userdata
---@field id string
---@field files opensandbox.Files
---@field created_info? opensandbox.IsolatedInfo
local isolated_session = {}
---@param command string|string[]
---@param opts? opensandbox.options.isolated.run
---@return opensandbox.Execution? run
---@return opensandbox.Error? err
function isolated_session:run(command, opts) end
---@param opts? opensandbox.options.a_call
---@return opensandbox.IsolatedInfo? info
---@return opensandbox.Error? err
function isolated_session:info(opts) end
---@param opts? opensandbox.options.a_call
---@return boolean? ok
---@return opensandbox.Error? err
function isolated_session:delete(opts) end
---@return boolean
function isolated_session:close() end

---@class opensandbox.Pool: userdata
---@field name string
local pool = {}
---@return boolean? ok
---@return opensandbox.Error? err
function pool:start() end
---@param opts? opensandbox.options.pool.acquire
---@return opensandbox.Sandbox? sandbox
---@return opensandbox.Error? err
function pool:acquire(opts) end
---@return opensandbox.PoolSnapshot? snapshot
---@return opensandbox.Error? err
function pool:snapshot() end
---@return opensandbox.IdleEntry[]? entries
---@return opensandbox.Error? err
function pool:idle_entries() end
---@param n integer
---@return boolean? ok
---@return opensandbox.Error? err
function pool:resize(n) end
---@return integer? count
---@return opensandbox.Error? err
function pool:release_all_idle() end
---@param opts? opensandbox.options.pool.shutdown
---@return boolean
function pool:shutdown(opts) end

---Where pools keep their lists; a table of your own with these methods will do, too.
---@class opensandbox.PoolStore
local memory_store = {}
---@param pool string
---@param min_ttl number
---@return { id: string?, discarded: string[] }? taken
---@return opensandbox.Error? err
function memory_store:take(pool, min_ttl) end
---@param pool string
---@param id string
---@param ttl number
---@return boolean? ok
---@return opensandbox.Error? err
function memory_store:put(pool, id, ttl) end
---@param pool string
---@param id string
---@return boolean? ok
---@return opensandbox.Error? err
function memory_store:remove(pool, id) end
---@param pool string
---@param min_ttl number
---@return string[]? discarded
---@return opensandbox.Error? err
function memory_store:reap(pool, min_ttl) end
---@param pool string
---@return opensandbox.IdleEntry[]? entries
---@return opensandbox.Error? err
function memory_store:entries(pool) end
---@param pool string
---@return integer? count
---@return opensandbox.Error? err
function memory_store:count(pool) end
---@param pool string
---@param owner string
---@param ttl number
---@param only_renew? boolean
---@return boolean? has_it
---@return opensandbox.Error? err
function memory_store:lock(pool, owner, ttl, only_renew) end
---@param pool string
---@param owner string
---@return boolean? ok
---@return opensandbox.Error? err
function memory_store:unlock(pool, owner) end
---@param pool string
---@return integer|false|nil max_idle
---@return opensandbox.Error? err
function memory_store:max_idle(pool) end
---@param pool string
---@param max_idle integer
---@param idle_ttl number
---@return boolean? ok
---@return opensandbox.Error? err
function memory_store:configure(pool, max_idle, idle_ttl) end

---@class opensandbox.RedisStore: opensandbox.PoolStore
local redis_store = {}
---@return boolean
function redis_store:close() end

---@class opensandbox.Task: userdata
---@field id integer
---@field status "running"|"done"|"failed"|"cancelled"
local task = {}
---@param timeout? number
---@return any ... what its function returned; or nil, err
function task:join(timeout) end
---@return boolean whether it was still running
function task:cancel() end

---@class opensandbox.Semaphore: userdata
local semaphore = {}
---@param timeout? number
---@return boolean? ok
---@return opensandbox.Error? err
function semaphore:acquire(timeout) end
---@return boolean
function semaphore:release() end

---@class opensandbox.Loop: userdata
local loop = {}
---@return integer
function loop:fd() end
---@return number? seconds
function loop:timeout() end

---------------------------------------------------------------------------------------------------------------------
-- the module

---@class opensandbox
---@field _VERSION string
---@field null userdata JSON's null
---@field defaults table<string, any>
---@field adapters table<string, any>
local opensandbox = {}
---@param opts? opensandbox.options.connection
---@return opensandbox.Connection
function opensandbox.connection(opts) end
---@param opts? opensandbox.options.create
---@return opensandbox.Sandbox? sandbox
---@return opensandbox.Error? err
function opensandbox.create(opts) end
---@param opts? opensandbox.options.create
---@return opensandbox.Sandbox? sandbox
---@return opensandbox.Error? err
function opensandbox.code_interpreter(opts) end
---@param id string
---@param opts? opensandbox.options.connect
---@return opensandbox.Sandbox? sandbox
---@return opensandbox.Error? err
function opensandbox.connect(id, opts) end
---@param id string
---@param opts? opensandbox.options.resume
---@return opensandbox.Sandbox? sandbox
---@return opensandbox.Error? err
function opensandbox.resume(id, opts) end
---@param create_opts opensandbox.options.create?
---@param fn fun(sandbox: opensandbox.Sandbox): any, any, any
---@return any ... what fn returned; or nil, err
function opensandbox.with(create_opts, fn) end
---@param opts? opensandbox.options.manager
---@return opensandbox.Manager
function opensandbox.manager(opts) end
---@param opts opensandbox.options.pool
---@return opensandbox.Pool
function opensandbox.pool(opts) end
---@param opts? opensandbox.options.pool_redis
---@return opensandbox.RedisStore
function opensandbox.pool_redis(opts) end
---@param value any
---@return boolean
function opensandbox.is_error(value) end
---@param fn function
---@param ... any its arguments
---@return opensandbox.Task
function opensandbox.spawn(fn, ...) end
---@param functions function[]
---@return any[]? results
---@return opensandbox.Error? err
function opensandbox.gather(functions) end
---@param fn function
---@param ... any
---@return any ... what fn returned; or nil, err
function opensandbox.run(fn, ...) end
---@param seconds number
---@param fn function
---@param ... any
---@return any ... what fn returned; or nil, err
function opensandbox.with_timeout(seconds, fn, ...) end
---As Lua's assert, also where that refuses errors that are tables (Lua 5.1 and 5.2).
---@generic T
---@param value T?
---@param err? any
---@param ... any
---@return T value
---@return any ...
function opensandbox.check(value, err, ...) end
---As Lua's pcall; waits inside it work on every Lua.
---@param fn function
---@param ... any
---@return boolean ok
---@return any ...
function opensandbox.pcall(fn, ...) end
---@param n integer
---@return opensandbox.Semaphore
function opensandbox.semaphore(n) end
---@param seconds number
function opensandbox.sleep(seconds) end
---@param opts? opensandbox.options.step
---@return number? seconds until it wants to be called again
function opensandbox.step(opts) end
---@return opensandbox.Loop
function opensandbox.loop() end
---@param fn? fun(fd: integer, timeout: number?): boolean?
---@param budget? number
function opensandbox.set_waiter(fn, budget) end

return opensandbox
