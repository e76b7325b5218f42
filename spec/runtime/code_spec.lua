-- Code contexts on the embedded runtime, through the SDK: every language with the same promises, and what is each one's own.
local core = require "opensandbox.core"
local opensandbox = require "opensandbox"
local runtimes = require "spec.support.runtime"
local task = require "opensandbox.task"

-- What the same thing is in each language. `loop` prints a line first.
local LANGUAGES = {
  python = {
    set = "x = 41\nprint('set')", get = "x + 1", write_error = "import sys; print('warn', file=sys.stderr)",
    loop = "print('on', flush=True)\nwhile True: pass", sleep = "import time\nprint('on', flush=True)\ntime.sleep(600)",
    fail = "undefined_name", failure = "NameError", die = "import os; os._exit(7)", pid = "import os; print(os.getpid())",
    chars = "print('é€😀' * 40000)", directory = "import os; print(os.getcwd())",
    spawn = "import subprocess; subprocess.Popen(['sleep', '601'])",
  },
  javascript = {
    set = "var x = 41; console.log('set')", get = "x + 1", write_error = "console.error('warn')",
    loop = "console.log('on'); for (;;);", sleep = "console.log('on'); await new Promise((done) => setTimeout(done, 600000))",
    fail = "undefinedName", failure = "ReferenceError", die = "process.exit(7)", pid = "console.log(process.pid)",
    chars = "console.log('é€😀'.repeat(40000))", directory = "console.log(process.cwd())",
    spawn = "void require('child_process').spawn('sleep', ['601'])",
  },
  bash = {
    set = "x=41; echo set", write_error = "echo warn >&2",
    loop = "echo on; while :; do :; done; echo never", sleep = "f() { sleep 600; }; echo on; f; echo never",
    fail = "( exit 3 )", failure = "CommandExecError", die = "exit 7", pid = "echo $BASHPID",
    chars = "for i in {1..40000}; do printf 'é€😀'; done; echo", directory = "pwd", spawn = "sleep 601 &",
  },
  lua = {
    set = "x = 41 print 'set'", get = "x + 1", write_error = "io.stderr:write 'warn\\n'",
    loop = "print 'on' while true do end", sleep = "print 'on' os.execute 'sleep 600' while true do end",
    fail = "error 'undefined'", failure = "Error", die = "os.exit(7)", pid = "print(io.open('/proc/self/stat'):read('n'))",
    chars = "print(('é€😀'):rep(40000))", directory = "print(os.getenv 'PWD' and io.popen 'pwd':read())",
    spawn = "io.popen 'sleep 601'",
  },
}

describe("code on the embedded runtime", function()
  local box, code

  setup(function()
    box = assert(opensandbox.create())
    code = box.code
  end)
  teardown(function()
    box:kill()
    box:close()
  end)

  --- Runs it and returns the run; a run with an error fails.
  local function good(source, opts)
    local run = assert(code:run(source, opts))
    if run.error then error(("%s: %s"):format(run.error.name, run.error.value), 2) end
    return run
  end

  --- True when the process with this id lives in the sandbox.
  local function lives(pid)
    return assert(box.commands:run(("kill -0 %d 2>/dev/null && echo yes"):format(pid))).stdout == "yes"
  end

  for language, sample in pairs(LANGUAGES) do
    describe("in " .. language, function()
      local context

      before_each(function() context = assert(code:create_context { language = language }) end)
      after_each(function() code:delete_context(context) end)

      --- Runs it until it has printed something, interrupts it, and returns the run.
      local function interrupted(source)
        local stream = assert(code:stream(source, { context = context }))
        repeat local event = assert(stream:next()) until event.type == "stdout"
        assert.is_true(code:interrupt(context))
        for _ in function() return stream:next() end do end -- luacheck: ignore 542
        return assert(stream:result())
      end

      it("keeps what was set, counts runs, and gives the value of the last expression", function()
        local run = good(sample.set, { context = context })
        assert.equal("set\n", run.stdout)
        assert.equal(1, run.execution_count)
        assert.equal(context.id, run.id)
        assert.truthy(run.complete)
        assert.same({}, run.result)
        run = good(sample.get or "echo $((x + 1))", { context = context })
        assert.equal(2, run.execution_count)
        if sample.get then
          assert.equal("42", run.result[1].text)
        else
          assert.equal("42\n", run.stdout)
        end
      end)

      it("is apart from other contexts", function()
        good(sample.set, { context = context })
        local other = assert(code:create_context { language = language })
        local run = assert(code:run(sample.get or "echo $((x + 1))", { context = other }))
        assert.not_equal("42", run.result[1] and run.result[1].text)
        assert.not_equal("42\n", run.stdout)
        assert(code:delete_context(other))
      end)

      it("tells an error with its name, and goes on", function()
        local run = assert(code:run(sample.fail, { context = context }))
        assert.equal(sample.failure, run.error.name)
        assert.is_true(#run.error.traceback > 0)
        assert.equal("set\n", good(sample.set, { context = context }).stdout)
      end)

      it("has stderr apart", function()
        local run = good(sample.write_error, { context = context })
        assert.same({ "", "warn\n" }, { run.stdout, run.stderr })
      end)

      it("keeps characters whole, however they are cut on the way", function()
        assert.is_true(("é€😀"):rep(40000) .. "\n" == good(sample.chars, { context = context }).stdout)
      end)

      it("can be interrupted in a loop and in a wait, and keeps what was set", function()
        good(sample.set, { context = context })
        for _, source in ipairs { sample.loop, sample.sleep } do
          local run = interrupted(source)
          assert.truthy(run.error)
          assert.is_nil(run.stdout:find "never")
        end
        local run = good(sample.get or "echo $((x + 1))", { context = context })
        assert.equal("42", sample.get and run.result[1].text or run.stdout:sub(1, -2))
      end)

      it("an interrupt at once, before the interpreter has come up, is not lost", function()
        local stream = assert(code:stream(sample.loop, { context = context }))
        assert.equal("init", stream:next().type)
        assert.is_true(code:interrupt(context))
        for _ in function() return stream:next() end do end -- luacheck: ignore 542
        assert.truthy(assert(stream:result()).error)
      end)

      it("starts anew when its interpreter has ended", function()
        good(sample.set, { context = context })
        local run = assert(code:run(sample.die, { context = context }))
        assert.matches("7", run.error.value, 1, true)
        assert.equal("set\n", good(sample.set, { context = context }).stdout)
      end)

      it("is busy while code runs", function()
        local stream = assert(code:stream(sample.sleep, { context = context }))
        repeat local event = assert(stream:next()) until event.type == "stdout"
        assert.equal("conflict", select(2, code:run(sample.set, { context = context })).code)
        stream:cancel()
      end)

      it("ends with its processes when it is deleted, also while code runs", function()
        local pid = tonumber(good(sample.pid, { context = context }).stdout)
        good(sample.spawn, { context = context })
        assert.is_true(lives(pid))
        local stream = assert(code:stream(sample.loop, { context = context }))
        repeat local event = assert(stream:next()) until event.type == "stdout"
        assert.is_true(code:delete_context(context))
        for _ in function() return stream:next() end do end -- luacheck: ignore 542
        assert.equal("ContextDeleted", assert(stream:result()).error.name)
        runtimes.await("the interpreter is gone", function() return not lives(pid) end)
        assert.equal("", assert(box.commands:run "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'sleep 60[1]' || true").stdout)
        assert.equal("not_found", select(2, code:run(sample.set, { context = context })).code)
        assert.equal("not_found", select(2, code:interrupt(context)).code)
        assert.equal("not_found", select(2, code:context(context.id)).code)
        assert.equal("not_found", select(2, code:delete_context(context)).code)
      end)

      it("starts in the directory asked for, which is made", function()
        local place = assert(code:create_context { language = language, cwd = "/workspace/" .. language .. "/new" })
        assert.equal("/workspace/" .. language .. "/new\n", good(sample.directory, { context = place }).stdout)
        assert(code:delete_context(place))
      end)

      it("has a context of its own when only the language is named", function()
        local first = good(sample.set, { language = language })
        assert.equal(first.id, good(sample.set, { language = language }).id)
        assert.not_equal(context.id, first.id)
        local listed = {}
        for _, item in ipairs(assert(code:contexts(language))) do
          assert.equal(language, item.language)
          listed[item.id] = true
        end
        assert.is_true(listed[first.id] and listed[context.id])
        assert.equal(language, assert(code:context(first.id)).language)
        assert.is_true(code:delete_contexts(language))
        assert.same({}, code:contexts(language))
        assert.not_equal(first.id, good(sample.set, { language = language }).id)
      end)
    end)
  end

  it("streams while it runs", function()
    local stream = assert(code:stream("import time\nfor i in range(3):\n  print(i)\n  open('/tmp/step%d' % i, 'w')\n"
      .. "  while not __import__('os').path.exists('/tmp/go%d' % i): time.sleep(0.01)", { language = "python" }))
    for i = 0, 2 do
      repeat local event = assert(stream:next()) until event.type == "stdout" and event.text == i .. "\n"
      assert(box.files:write("/tmp/go" .. i, ""))
    end
    assert(stream:result())
  end)

  it("runs in several contexts at the same time", function()
    local begun = core.now()
    local tasks = {}
    for i = 1, 4 do
      tasks[i] = opensandbox.spawn(function()
        local context = assert(code:create_context { language = "python" })
        local run = good(("open('/tmp/here%d', 'w')\nimport os, time\nwhile not all(os.path.exists('/tmp/here%%d' %% n) "
          .. "for n in range(1, 5)): time.sleep(0.01)\n%d"):format(i, i), { context = context, timeout = 60 })
        return run.result[1].text
      end)
    end
    for i, one in ipairs(tasks) do assert.equal(tostring(i), one:join()) end
    assert.is_true(core.now() - begun < 60)
  end)

  it("passes much output under back-pressure, whole", function()
    local size, seen = 0, 0
    good("import sys\nfor i in range(3000): sys.stdout.write('%07d ' % i * 1024 + '\\n')", {
      language = "python", capture = false, on_stdout = function(text)
        size = size + #text
        seen = seen + 1
        if seen % 50 == 0 then task.sleep(0.001) end
      end,
    })
    assert.equal(3000 * (8 * 1024 + 1), size)
  end)

  it("runs code without language and id as a command", function()
    -- the SDK always names a language
    local endpoint = assert(box:endpoint(44772))
    local headers = {}
    for name, value in pairs(endpoint.headers or {}) do headers[#headers + 1] = ("-H '%s: %s'"):format(name, value) end
    local pipe = io.popen(([[curl -s %s http://%s/code -d '{"code":"echo one; exit 5"}']])
      :format(table.concat(headers, " "), endpoint.endpoint))
    local answer = pipe:read "*a"
    pipe:close()
    assert.matches('"stdout","text":"one"', answer, 1, true)
    assert.matches('"evalue":"5"', answer, 1, true)
  end)

  it("an unknown language is unsupported, and the sentence names those there are", function()
    local _, err = code:create_context { language = "cobol" }
    assert.equal("unsupported", err.code)
    assert.matches("python, javascript, bash and lua", err.message, 1, true)
    assert.equal("unsupported", select(2, code:run("1", { language = "cobol" })).code)
    assert.equal("not_found", select(2, code:run("1", { context = "nosuchcontext" })).code)
    assert.equal("not_found", select(2, code:interrupt "nosuchcontext").code)
  end)

  it("a language that is not installed is unsupported, and the sentence says what to install", function()
    local other = assert(opensandbox.create { env = { PATH = "/nowhere" } })
    local _, err = other.code:run("1", { language = "python" })
    assert.equal("unsupported", err.code)
    assert.matches("install the program python3 (Debian package python3)", err.message, 1, true)
    other:kill()
    other:close()
  end)

  describe("in python,", function()
    it("values show themselves in all the types they know", function()
      local run = good([[
class Rich:
  def _repr_html_(self): return "<b>bold</b> é"
  def _repr_png_(self): return b"\x89PNG"
  def _repr_json_(self): return {"a": [1, None]}
  def _repr_mimebundle_(self, include=None, exclude=None): return {"application/x-own": "own"}
  def _repr_latex_(self): raise ValueError("no latex")
  def __repr__(self): return "Rich!"
Rich()]], { language = "python" })
      local mime = run.result[1].mime
      assert.equal("Rich!", run.result[1].text)
      assert.equal("<b>bold</b> é", mime["text/html"])
      assert.equal("iVBORw==", mime["image/png"])
      assert.equal("own", mime["application/x-own"])
      assert.equal(1, mime["application/json"].a[1])
      assert.is_nil(mime["text/latex"])
      assert.matches("no latex", run.stderr, 1, true)
    end)

    it("display shows at once, a semicolon shows nothing, _ is the last value", function()
      local run = good("display('a', 2)\n3", { language = "python" })
      assert.same({ "'a'", "2", "3" }, { run.result[1].text, run.result[2].text, run.result[3].text })
      assert.same({}, good("4;", { language = "python" }).result)
      assert.equal("4", good("_ + 1", { language = "python" }).result[1].text)
    end)

    it("tracebacks show the lines of the code, and nothing of the driver", function()
      good("def f(n):\n  return 1 / n", { language = "python" })
      local run = assert(code:run("f(0)", { language = "python" }))
      local trace = table.concat(run.error.traceback, "\n")
      assert.same({ "ZeroDivisionError", "division by zero" }, { run.error.name, run.error.value })
      assert.matches("return 1 / n", trace, 1, true)
      assert.matches("f(0)", trace, 1, true)
      assert.is_nil(trace:find("<string>", 1, true))
      assert.equal("SyntaxError", assert(code:run("if", { language = "python" })).error.name)
      assert.equal("SystemExit", assert(code:run("exit(2)", { language = "python" })).error.name)
    end)

    it("await works at the top level, and classes can be pickled", function()
      local run = good("import asyncio, pickle\nclass C: pass\nawait asyncio.sleep(0)\ntype(pickle.loads(pickle.dumps(C()))).__name__",
        { language = "python" })
      assert.equal("'C'", run.result[1].text)
    end)

    it("what is started has none of the driver's descriptors", function()
      local run = good("import subprocess\nprint(subprocess.run('ls /proc/self/fd', shell=True, close_fds=False, "
        .. "capture_output=True, text=True).stdout)", { language = "python" })
      assert.is_nil(run.stdout:find "[789]")
    end)

    it("figures of matplotlib are PNG", function()
      if assert(code:run("import matplotlib", { language = "python" })).error then return pending "matplotlib is not installed" end
      local run = good("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()\nplt.plot([2, 1]);", { language = "python" })
      assert.equal(2, #run.result)
      for _, result in ipairs(run.result) do assert.matches("^iVBORw0KGgo", result.mime["image/png"]) end
    end)
  end)

  it("in javascript, await works at the top level, objects are values, late errors are told on stderr", function()
    local run = good("const y = await Promise.resolve(7); y", { language = "javascript" })
    assert.equal("7", run.result[1].text)
    assert.equal("{ a: 1 }", good("({ a: 1 })", { language = "javascript" }).result[1].text)
    run = good("setTimeout(() => { throw new Error('late') }, 1); await new Promise((done) => setTimeout(done, 50)); y",
      { language = "javascript" })
    assert.matches("Error: late", run.stderr, 1, true)
    assert.equal("7", run.result[1].text)
    run = good("({ [Symbol.for('Jupyter.display')]() { return { 'text/html': '<i>', 'image/png': Buffer.from('abc') } } })",
      { language = "javascript" })
    assert.same({ "<i>", "YWJj" }, { run.result[1].mime["text/html"], run.result[1].mime["image/png"] })
  end)

  it("in bash, functions, options and the directory last; quotes come through", function()
    good("f() { echo \"f: $1\"; }; shopt -s nullglob; cd /tmp", { language = "bash" })
    assert.equal("f: it's \"here\" \\ $x !!\n/tmp\non\n",
      good("f 'it'\\''s \"here\" \\ $x !!'; pwd; shopt -q nullglob && echo on", { language = "bash" }).stdout)
    assert.equal("", good("cat", { language = "bash" }).stdout)
  end)

  it("in lua, the last expression may have several lines and values; strings and loops are left alone", function()
    assert.equal("2\tb\tnil", good("local a = 1\na + 1,\n 'b', nil", { language = "lua" }).result[1].text)
    local run = good("s = [[\nx]]\nfor i = 1, 3 do\n  io.write(i)\nend", { language = "lua" })
    assert.same({ "123", 0 }, { run.stdout, #run.result })
    assert.equal("x", good("s", { language = "lua" }).result[1].text)
    local context = assert(code:create_context { language = "lua" })
    local stream = assert(code:stream("print 'on' coroutine.wrap(function() while true do end end)()", { context = context }))
    repeat local event = assert(stream:next()) until event.type == "stdout"
    assert.is_true(code:interrupt(context))
    for _ in function() return stream:next() end do end -- luacheck: ignore 542
    assert.equal("Interrupted", assert(stream:result()).error.name)
  end)
end)
