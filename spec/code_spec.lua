-- The code interpreter against a scripted server shaped as execd with Jupyter: raw chunks, MIME results, errors that end a run.
local cjson = require "cjson"
local faults = require "spec.support.faults"
local opensandbox = require "opensandbox"

describe("code", function()
  local server, routes, box, code

  setup(function() server = faults.start() end)
  teardown(function() server:stop() end)
  before_each(function()
    routes = faults.sandbox_routes(server)
    box = assert(opensandbox.create(routes.options(opensandbox)))
    code = box.code
  end)
  after_each(function()
    box:close()
    server:reset()
  end)

  local function event(fields)
    fields.timestamp = 2000
    return cjson.encode(fields)
  end

  local function answer_with(events, opts)
    server:route("POST", "/execd/code", faults.stream(events, opts))
  end

  local function sent()
    local requests = server:requests("/execd/code")
    return cjson.decode(requests[#requests].body)
  end

  local FAILURE = event { type = "error", error = { ename = "NameError", evalue = "name 'y'", traceback = { "a", "b" } } }

  it("is userdata of the sandbox, and closes with it", function()
    assert.equal("opensandbox.code: " .. routes.id, tostring(code))
    assert.equal(code, box.code)
    box:close()
    assert.has_error(function() code:contexts() end)
    assert.has_error(function() box.code:contexts() end)
  end)

  it("joins raw chunks as they are, and keeps results whole", function()
    answer_with {
      faults.init "ctx", faults.ping(), faults.stdout "a\nb", faults.stderr "warn\n", faults.stdout "c\n",
      event { type = "execution_count", execution_count = 3 },
      event { type = "result", results = { text = "42", ["image/png"] = "AA==", ["application/json"] = { a = { 1, 2 } } } },
      event { type = "result", results = { ["text/html"] = "<b>" } }, event { type = "status", text = "ok" }, faults.complete(12),
    }
    local seen = {}
    local run = assert(code:run("x", { on_stdout = function(text) seen[#seen + 1] = text end }))
    assert.equal("ctx", run.id)
    assert.equal("a\nbc\n", run.stdout)
    assert.equal("warn\n", run.stderr)
    assert.equal("a\nbwarn\nc\n", run.output)
    assert.equal("a\nbc\n\n42", run.text)
    assert.same({ "a\nb", "c\n" }, seen)
    assert.equal(3, run.execution_count)
    assert.same({ text = "42", ["image/png"] = "AA==", ["application/json"] = { a = { 1, 2 } } }, run.result[1].mime)
    assert.equal("42", run.result[1].text)
    assert.is_nil(run.result[2].text)
    assert.equal("<b>", run.result[2].mime["text/html"])
    assert.is_nil(run.exit_code)
    assert.equal(0.012, run.complete.execution_time)
    assert.same({ code = "x", context = { language = "python" } }, sent())
  end)

  it("takes an error with and without execution_complete about it; a run with an error is a result", function()
    for _, at in ipairs { 3, 5, 0 } do
      local events = { faults.init "ctx", faults.stdout "before\n", FAILURE, faults.stdout "after" }
      if at > 0 then table.insert(events, at, faults.complete()) end
      answer_with(events)
      local order = {}
      local run = assert(code:run("y", {
        on_error = function(failure) order[#order + 1] = failure.name end, on_complete = function() order[#order + 1] = "complete" end,
      }))
      assert.same({ name = "NameError", value = "name 'y'", traceback = { "a", "b" }, timestamp = 2 }, run.error)
      assert.equal("before\nafter", run.stdout)
      assert.same({ "NameError" }, order)
    end
  end)

  it("keeps what comes behind execution_complete, as interpreters send it, and tells completion last", function()
    answer_with {
      faults.init "ctx", faults.stdout "1\n", faults.complete(5), faults.ping(), faults.stdout "2\n",
      event { type = "result", results = { text = "42" } },
    }
    local order = {}
    local run = assert(code:run("x", {
      on_stdout = function(text) order[#order + 1] = text end, on_result = function(result) order[#order + 1] = result.text end,
      on_complete = function(complete) order[#order + 1] = complete.execution_time end,
    }))
    assert.equal("1\n2\n", run.stdout)
    assert.equal("42", run.result[1].text)
    assert.same({ "1\n", "2\n", "42", 0.005 }, order)
    local types, stream = {}, assert(code:stream "x")
    for one in function() return stream:next() end do types[#types + 1] = one.type end
    assert.equal("init stdout execution_complete ping stdout result", table.concat(types, " "))
    assert.equal("1\n2\n", assert(stream:result()).stdout)
    local failed, err = code:run("x", { on_complete = function() error "late" end })
    assert.is_nil(failed)
    assert.equal("handler", err.code)
  end)

  it("streams events, to the end of a failed run too", function()
    answer_with { faults.init "ctx", FAILURE }
    local stream = assert(code:stream "y")
    assert.equal("init", stream:next().type)
    assert.equal("error", stream:next().type)
    assert.is_nil(stream:next())
    assert.equal("NameError", assert(stream:result()).error.name)
  end)

  it("is truncated when the stream ends before a last event", function()
    answer_with { faults.init "ctx", faults.stdout "a" }
    local run, err = code:run "x"
    assert.is_nil(run)
    assert.equal("truncated", err.code)
    assert.equal("a", err.partial.stdout)
    answer_with({ faults.init "ctx", FAILURE }, { ending = "reset" })
    assert.equal("truncated", select(2, code:run "x").code)
  end)

  it("runs in the context or the language given; both and different raise", function()
    answer_with { faults.init "ctx", faults.complete() }
    assert(code:run("x", { context = { id = "c", language = "bash" } }))
    assert.same({ id = "c", language = "bash" }, sent().context)
    assert(code:run("x", { context = { id = "c", language = "bash" }, language = "bash" }))
    assert(code:run("x", { context = "c" }))
    assert.same({ id = "c" }, sent().context)
    assert(code:run("x", { language = "javascript" }))
    assert.same({ language = "javascript" }, sent().context)
    local ok, message = pcall(function() code:run("x", { context = { id = "c", language = "bash" }, language = "python" }) end)
    assert.is_false(ok)
    assert.matches("code_spec.lua:%d+: the context is one of bash, not of python", message)
    assert.has_error(function() code:run("x", { context = {} }) end)
    assert.has_error(function() code:run("x", { check = true }) end)
    assert.has_error(function() code:run(1) end)
  end)

  it("says what a busy, an unknown and a missing context is", function()
    answer_with { faults.init "ctx", faults.untyped "error running codes session is busy" }
    assert.equal("conflict", select(2, code:run "x").code)
    local function refuse(message)
      server:route("POST", "/execd/code", faults.json(500, { code = "RUNTIME_ERROR", message = message }))
      return select(2, code:run "x")
    end
    assert.equal("not_found", refuse("error running codes context not found").code)
    local err = refuse "error running codes language runtime server not configured, please check your image runtime"
    assert.equal("unsupported", err.code)
    assert.matches("opensandbox.code_interpreter", err.message, 1, true)
    assert.equal("api", refuse("kernel died").code)
    server:route("POST", "/execd/code", faults.answer(404, "404 page not found"))
    err = select(2, code:run "x")
    assert.equal("unsupported", err.code)
    assert.equal("this server has no code interpreter", err.message)
  end)

  it("interrupts its context at the time-out, by a handler's error and by cancel", function()
    server:route("DELETE", "/execd/code", faults.answer(200))
    local function interrupts()
      local count = 0
      for _, request in ipairs(server:requests "/execd/code") do
        if request.method == "DELETE" then
          assert.equal("id=ctx", request.query)
          count = count + 1
        end
      end
      return count
    end
    answer_with({ faults.init "ctx", faults.stdout "a" }, { ending = "open" })
    local run, err = code:run("x", { timeout = 0.2 })
    assert.is_nil(run)
    assert.equal("timeout", err.code)
    assert.equal("a", err.partial.stdout)
    assert.equal(1, interrupts())
    assert.equal("handler", select(2, code:run("x", { on_stdout = function() error "no" end })).code)
    assert.equal(2, interrupts())
    local stream = assert(code:stream "x")
    stream:next()
    stream:cancel()
    assert.equal(3, interrupts())
  end)

  it("makes, lists, finds and deletes contexts", function()
    server:route("POST", "/execd/code/context", faults.json(200, { id = "c1", language = "bash", cwd = "/x" }))
    local context = assert(code:create_context { language = "bash", cwd = "/x" })
    assert.equal("c1", context.id)
    assert.equal("bash", context.language)
    assert.same({ language = "bash", cwd = "/x" }, cjson.decode(server:requests("/execd/code/context")[1].body))
    server:route("GET", "/execd/code/contexts", faults.json(200, '[{"id":"c1","language":"bash"}]'), faults.json(200, "[]"))
    assert.equal("c1", assert(code:contexts("bash"))[1].id)
    assert.same({}, code:contexts())
    assert.same({ "language=bash", "" },
      { server:requests("/execd/code/contexts")[1].query, server:requests("/execd/code/contexts")[2].query or "" })
    server:route("GET", "/execd/code/contexts/c1", faults.json(200, { id = "c1", language = "bash" }))
    assert.equal("bash", assert(code:context "c1").language)
    server:route("DELETE", "/execd/code/contexts/c1", faults.answer(200), faults.json(404, { code = "CONTEXT_NOT_FOUND", message = "no" }))
    assert.is_true(code:delete_context(context))
    assert.equal("not_found", select(2, code:delete_context "c1").code)
    server:route("DELETE", "/execd/code/contexts", faults.answer(200))
    assert.is_true(code:delete_contexts "bash")
    server:route("POST", "/execd/code/context", faults.json(200, { language = "bash" }))
    assert.equal("protocol", select(2, code:create_context()).code)
  end)

  it("interrupts by id or context; an unknown id is not_found", function()
    server:route("DELETE", "/execd/code", faults.answer(200), faults.json(500, { code = "RUNTIME_ERROR", message = "no such session" }))
    assert.is_true(code:interrupt { id = "c1" })
    assert.equal("id=c1", server:requests("/execd/code")[1].query)
    assert.equal("not_found", select(2, code:interrupt "c2").code)
    assert.has_error(function() code:interrupt "" end)
  end)

  it("has a constructor with its image and entrypoint as defaults", function()
    local connection = routes.options(opensandbox).connection
    assert(opensandbox.code_interpreter { connection = connection, timeout = 900 })
    assert(opensandbox.code_interpreter { connection = connection, image = "mine" })
    local bodies = {}
    for _, request in ipairs(server:requests "/v1/sandboxes") do bodies[#bodies + 1] = cjson.decode(request.body) end
    assert.equal("opensandbox/code-interpreter:latest", bodies[2].image.uri)
    assert.same({ "/opt/code-interpreter/code-interpreter.sh" }, bodies[2].entrypoint)
    assert.equal("mine", bodies[3].image.uri)
    assert.same({ "tail", "-f", "/dev/null" }, bodies[3].entrypoint)
  end)
end)

describe("code on a real runtime", function()
  local box, code

  setup(function()
    box = assert(opensandbox.code_interpreter())
    code = box.code
  end)
  teardown(function()
    box:kill()
    box:close()
  end)

  it("keeps state in a context, apart from others", function()
    local one, two = assert(code:create_context { cwd = "/tmp" }), assert(code:create_context())
    assert.equal("python", one.language)
    assert(code:run("x = 41", { context = one }))
    assert(code:run("x = 'other'", { context = two.id }))
    local run = assert(code:run("import os; print(os.getcwd())\nx + 1", { context = one }))
    assert.equal("42", run.result[1].text)
    assert.equal("/tmp\n", run.stdout)
    assert.equal("/tmp\n\n42", run.text)
    assert.is_nil(run.exit_code)
    assert.equal("'other'", assert(code:run("x", { context = two })).result[1].text)
    assert.equal(one.id, assert(code:context(one.id)).id)
    assert.is_true(code:delete_context(one))
    assert.is_true(code:delete_context(two))
    assert.equal("not_found", select(2, code:run("x", { context = one })).code)
    assert.equal("not_found", select(2, code:delete_context(one)).code)
  end)

  it("gives errors with their traceback, and later runs are fine", function()
    local context = assert(code:create_context())
    local run = assert(code:run("print('before')\n1/0", { context = context }))
    assert.equal("ZeroDivisionError", run.error.name)
    assert.matches("division by zero", run.error.value)
    assert.is_true(#run.error.traceback > 0)
    assert.equal("before\n", run.stdout)
    assert.equal("fine\n", assert(code:run("print('fine')", { context = context })).stdout)
    assert.is_true(code:delete_context(context))
  end)

  it("keeps stderr apart, and output live", function()
    local context = assert(code:create_context())
    local seen = {}
    local run = assert(code:run("import sys\nprint('out')\nprint('err', file=sys.stderr)", {
      context = context, on_stdout = function(text) seen[#seen + 1] = text end,
    }))
    assert.equal("out\n", run.stdout)
    assert.equal("err\n", run.stderr)
    assert.equal("out\n", table.concat(seen))
    assert.is_true(code:delete_context(context))
  end)

  it("runs in the default context of a language", function()
    assert(code:run "y = 7")
    assert.equal("7", assert(code:run("y", { language = "python" })).result[1].text)
    assert.equal("hi\n", assert(code:run("echo hi", { language = "bash" })).stdout)
    assert.equal("5\n", assert(code:run("print(2 + 3)", { language = "lua" })).stdout)
  end)

  it("is interrupted at its time-out and by others; the context lives on", function()
    local context = assert(code:create_context())
    assert(code:run("z = 1", { context = context }))
    local run, err = code:run("while True: pass", { context = context, timeout = 0.3 })
    assert.is_nil(run)
    assert.equal("timeout", err.code)
    local function again(source)
      while true do -- it is busy until the interpreter has come back
        local result, problem = code:run(source, { context = context })
        if result or problem.code ~= "conflict" then return result, problem end
        opensandbox.sleep(0.01)
      end
    end
    assert.equal("1", assert(again "z").result[1].text)
    run, err = code:run("import time\nprint('go', flush=True)\ntime.sleep(60)", {
      context = context, on_stdout = function() assert(code:interrupt(context)) end,
    })
    assert.is_true(run == nil or run.error ~= nil, tostring(err))
    assert.equal("1", assert(again "z").result[1].text)
    assert.equal("not_found", select(2, code:interrupt "nobody").code)
    assert.is_true(code:delete_context(context))
  end)

  it("refuses a second run in a busy context", function()
    local context, busy = assert(code:create_context()), nil
    assert(code:run("import time\nprint('go', flush=True)\ntime.sleep(0.2)", {
      context = context, on_stdout = function() busy = busy or select(2, code:run("1", { context = context })) end,
    }))
    assert.equal("conflict", busy.code)
    assert.is_true(code:delete_context(context))
  end)

  it("lists contexts by language; deleting a language leaves none", function()
    assert(code:create_context { language = "bash" })
    assert(code:create_context { language = "bash" })
    assert.is_true(#assert(code:contexts "bash") >= 2)
    assert.is_true(#assert(code:contexts()) >= 2)
    assert.is_true(code:delete_contexts "bash")
    assert.same({}, code:contexts "bash")
  end)
end)
