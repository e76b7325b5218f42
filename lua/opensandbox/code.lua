--- The code interpreter of a sandbox: `sandbox.code`. Contexts keep variables from run to run.
local commands = require "opensandbox.commands"
local core = require "opensandbox.core"
local endpoint = require "opensandbox.endpoint"
local errors = require "opensandbox.errors"
local options = require "opensandbox.options"
local record = require "opensandbox.record"
local stream = require "opensandbox.stream"

local M = {}

local DEFAULT_LANGUAGE = "python"
local START_SECONDS = 120 -- an interpreter may take long to start, before it answers anything
local IMAGE = "opensandbox/code-interpreter:latest"
local ENTRYPOINT = { "/opt/code-interpreter/code-interpreter.sh" }

local code_context = record {}

local function declare(id, method, path, more)
  local declaration = { id = id, plane = "execd", method = method, path = path }
  for key, value in pairs(more or {}) do declaration[key] = value end
  return endpoint(declaration)
end

local create_context = declare("createCodeContext", "POST", "/code/context", { returns = code_context })
local list_contexts = declare("listContexts", "GET", "/code/contexts", { returns = record.list(code_context) })
local delete_contexts = declare("deleteContextsByLanguage", "DELETE", "/code/contexts")
local get_context = declare("getContext", "GET", "/code/contexts/{id}", { returns = code_context })
local delete_context = declare("deleteContext", "DELETE", "/code/contexts/{id}")
local run_code = declare("runCode", "POST", "/code", { stream = true })
local interrupt_code = declare("interruptCode", "DELETE", "/code")

--- Options of a run: those of commands that mean something for code, and where it runs.
local function run_fields()
  local fields = commands.run_options { context = { type = { "table", "string" } }, language = { type = "string" } }
  fields.cwd, fields.check = nil, nil
  return fields
end

local check_run = options.declare("code:run", run_fields())
local check_stream = options.declare("code:stream", run_fields())
local check_call = options.declare("a call", { timeout = { type = "duration" } })
local check_create = options.declare("code:create_context", {
  language = { type = "string", default = DEFAULT_LANGUAGE }, cwd = { type = "string" }, timeout = { type = "duration" },
})

--- The id of a context, given as the record or as the id itself.
local function id_of(context)
  if type(context) == "table" then context = context.id end
  if type(context) ~= "string" or context == "" then
    errors.raise("context must be a code context or its id, got " .. (context == "" and "an empty id" or type(context)))
  end
  return context
end

--- What says where code runs: `{id=, language=}`.
local function place_of(opts)
  local context, language = opts.context, opts.language
  if not context then return { language = language or DEFAULT_LANGUAGE } end
  local known = type(context) == "table" and context.language or nil
  if language and known and language ~= known then
    errors.raise(("the context is one of %s, not of %s: give context or language"):format(known, language))
  end
  return { id = id_of(context), language = known or language }
end

--- Asks execd: (state, endpoint, request) → its value, or nil, err.
local function ask(state, call, request)
  local execd, err = commands.execd_of(state, request.timeout)
  if not execd then return nil, err end
  return call(execd, request)
end

--- execd answers 500 for a context that it does not know, and where there is no interpreter.
local function explain(err)
  errors.explain_unsupported(err, "code interpreter")
  local unknown = err.message:find("not found", 1, true) or err.message:find("no such", 1, true)
  if err.status == 500 and unknown then
    err.code, err.retryable = "not_found", false
  elseif err.status == 500 and err.message:find("not configured", 1, true) then
    err.code, err.retryable = "unsupported", false
    err.message = err.message .. " (create the sandbox with opensandbox.code_interpreter, or from an image that has one)"
  end
  return err
end

local function open_engine(state, source, opts)
  options.argument("source", source, "string")
  local place = place_of(opts)
  local execd, err = commands.execd_of(state)
  if not execd then return nil, err end
  -- servers have no time limit for code: the client's is the deadline, after which it interrupts
  if opts.timeout then opts.deadline, opts.timeout = math.min(opts.deadline or math.huge, opts.timeout), nil end
  local engine
  engine, err = stream.open {
    lines = false, single = false, opts = opts,
    open = function(request)
      request.json, request.header_timeout = { code = source, context = place }, START_SECONDS
      return run_code(execd, request)
    end,
    interrupt = function(id) return commands.interrupt(state, id, nil, interrupt_code) end,
  }
  if not engine then return nil, explain(err) end
  return engine
end

local methods = {}

--- Makes a context: variables, imports and the working directory last from run to run. Endpoint: execd `POST /code/context`.
-- @tparam[opt] table opts `language` (default "python"), `cwd`, `timeout` (seconds, default 120: an interpreter starts)
-- @treturn[1] table context `{id=, language=, cwd=}`
-- @treturn[2] nil
-- @treturn[2] table err `unsupported` where the image has no interpreter
function methods:create_context(opts)
  local state = core.state(self, "code")
  opts = check_create(opts)
  local body = { language = opts.language, cwd = opts.cwd }
  local context, err = ask(state, create_context, { json = body, timeout = opts.timeout or START_SECONDS })
  if not context then return nil, explain(err) end
  if type(context.id) ~= "string" or context.id == "" then
    return nil, errors.new { code = "protocol", message = "the server made a code context without telling its id" }
  end
  context.language = context.language or opts.language
  return context
end

--- Runs code and waits for its last event. Endpoint: execd `POST /code`.
--
-- An error in the code is not an error of the call: it is in `run.error` (`name`, `value`, `traceback`).
-- @tparam string source
-- @tparam[opt] table opts
--
-- * `context` what `create_context` gave, or its id; or `language` (default "python"), whose default context is used then
-- * `timeout`, `deadline` seconds for the call: the code is interrupted then; `idle_timeout` seconds of silence
-- * `max_output`, `capture`, `interrupt_on_cancel` and the handlers `on_stdout`, `on_stderr`, `on_result`, … as for `commands:run`
--
-- @treturn[1] table run `id` (the context's), `stdout`, `stderr`, `output` (raw chunks, joined), `text`, `result` (list of
-- `{text=, mime={[type]=value}, timestamp=}`), `error`, `execution_count`, `complete`, `logs`, `truncated`
-- @treturn[2] nil
-- @treturn[2] table err `conflict` while the context is busy, `not_found` for an unknown one, `timeout`
function methods:run(source, opts)
  local state = core.state(self, "code")
  local engine, err = open_engine(state, source, check_run(opts))
  if not engine then return nil, err end
  local run
  run, err = stream.drive(engine)
  if not run then return nil, explain(err) end
  return run
end

--- Runs code and hands out its events as they come. Endpoint: execd `POST /code`.
-- @tparam string source
-- @tparam[opt] table opts as for `run`
-- @treturn[1] userdata stream as of `commands:stream`
-- @treturn[2] nil
-- @treturn[2] table err
function methods:stream(source, opts)
  local state = core.state(self, "code")
  local engine, err = open_engine(state, source, check_stream(opts))
  if not engine then return nil, err end
  return stream.wrap(engine)
end

--- Lists contexts. Endpoint: execd `GET /code/contexts`.
-- @tparam[opt] string language only its contexts
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table list of `{id=, language=}`
-- @treturn[2] nil
-- @treturn[2] table err
function methods:contexts(language, opts)
  local state = core.state(self, "code")
  if language ~= nil then options.argument("language", language, "string") end
  opts = check_call(opts)
  local contexts, err = ask(state, list_contexts, { query = { language = language }, timeout = opts.timeout })
  if not contexts then return nil, explain(err) end
  return contexts
end

--- One context. Endpoint: execd `GET /code/contexts/{id}`.
-- @tparam string id
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] table `{id=, language=}`
-- @treturn[2] nil
-- @treturn[2] table err `not_found`
function methods:context(id, opts)
  local state = core.state(self, "code")
  opts = check_call(opts)
  local context, err = ask(state, get_context, { params = { id = commands.check_id(id) }, timeout = opts.timeout })
  if not context then return nil, explain(err) end
  return context
end

--- Deletes a context. Endpoint: execd `DELETE /code/contexts/{id}`.
-- @tparam table|string context the record, or its id
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err `not_found`
function methods:delete_context(context, opts)
  local state = core.state(self, "code")
  opts = check_call(opts)
  local done, err = ask(state, delete_context, { params = { id = id_of(context) }, timeout = opts.timeout })
  if not done then return nil, explain(err) end
  return true
end

--- Deletes all contexts of a language. Endpoint: execd `DELETE /code/contexts`.
-- @tparam string language
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err
function methods:delete_contexts(language, opts)
  local state = core.state(self, "code")
  options.argument("language", language, "string")
  opts = check_call(opts)
  local done, err = ask(state, delete_contexts, { query = { language = language }, timeout = opts.timeout })
  if not done then return nil, explain(err) end
  return true
end

--- Interrupts what a context runs; the context lives on. Endpoint: execd `DELETE /code`.
-- @tparam string|table id of the context, or the context
-- @tparam[opt] table opts `timeout` in seconds
-- @treturn[1] boolean true
-- @treturn[2] nil
-- @treturn[2] table err `not_found` for an unknown id
function methods:interrupt(id, opts)
  local state = core.state(self, "code")
  opts = check_call(opts)
  return commands.interrupt(state, id_of(id), opts.timeout, interrupt_code)
end

core.methods("code", methods)

--- Creates a sandbox with the code interpreter: `opensandbox.create` with its image and entrypoint as defaults (image "host" on the
-- embedded runtime).
-- @tparam[opt] table opts as for `opensandbox.create`
-- @treturn[1] userdata sandbox
-- @treturn[2] nil
-- @treturn[2] table err
function M.code_interpreter(opts)
  options.argument("opts", opts == nil and {} or opts, "table")
  local given = {}
  for name, value in pairs(opts or {}) do given[name] = value end
  local connection, connection_state = require("opensandbox.connection").resolve(given.connection)
  given.connection = connection
  if not given.image and not given.snapshot_id and not connection_state.embedded then
    given.image, given.entrypoint = IMAGE, given.entrypoint or ENTRYPOINT
  end
  return require("opensandbox.sandbox").create(given)
end

return M
