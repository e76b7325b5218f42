"""Runs the code of a Python context. Requests come on descriptor 7: a line with a length, and that many bytes of code. What there
is to tell goes as lines of JSON to descriptor 8: {"ready"}; then for each request {"started"}, from which on SIGINT
interrupts it, {"result": {type: value}}, {"error": {…}}, and {"done": 0}."""


def drive():
    import ast
    import base64
    import builtins
    import inspect
    import json
    import linecache
    import os
    import signal
    import sys
    import traceback
    import types

    requests, events = os.fdopen(7, "rb"), 8
    os.set_inheritable(7, False)
    os.set_inheritable(8, False)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)

    def send(event):
        # the text may hold lone surrogates, which are no characters
        line = json.dumps(event, ensure_ascii=False, default=repr).encode("utf-8", "replace") + b"\n"
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        while line:
            line = line[os.write(events, line):]

    # ---- what values look like ----

    representations = {
        "_repr_html_": "text/html", "_repr_markdown_": "text/markdown", "_repr_svg_": "image/svg+xml", "_repr_png_": "image/png",
        "_repr_jpeg_": "image/jpeg", "_repr_pdf_": "application/pdf", "_repr_latex_": "text/latex", "_repr_json_": "application/json",
        "_repr_javascript_": "application/javascript",
    }

    def represent(value, method, *arguments, **options):
        """What a method of the value's class gives: without the metadata that may come with it. None when it fails."""
        if isinstance(value, type) or getattr(type(value), method, None) is None:
            return None
        try:
            data = getattr(value, method)(*arguments, **options)
        except NotImplementedError:
            return None
        except Exception:
            traceback.print_exc()
            return None
        if isinstance(data, tuple) and len(data) == 2:
            data = data[0]
        return base64.b64encode(data).decode() if isinstance(data, bytes) else data

    def bundle(value):
        data = {"text/plain": repr(value)}
        for name, kind in representations.items():
            shown = represent(value, name)
            if shown is not None:
                data[kind] = shown
        whole = represent(value, "_repr_mimebundle_", include=None, exclude=None)
        for kind, shown in (whole or {}).items():
            data[kind] = base64.b64encode(shown).decode() if isinstance(shown, bytes) else shown
        return data

    def display(*values, raw=False, **_):
        """Shows values at once, as the last expression is shown; with raw=True they are dictionaries of MIME types."""
        for value in values:
            send({"result": value if raw else bundle(value)})

    def show_figures(*_, **__):
        """Shows the open figures of matplotlib as PNG and closes them."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if not pyplot:
            return
        import io
        for number in pyplot.get_fignums():
            figure, image = pyplot.figure(number), io.BytesIO()
            figure.savefig(image, format="png", bbox_inches="tight")
            send({"result": {"text/plain": repr(figure), "image/png": base64.b64encode(image.getvalue()).decode()}})
        pyplot.close("all")

    class Backend(types.ModuleType):
        """matplotlib's own Agg backend, whose show() gives the figures to us."""
        show = staticmethod(show_figures)

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            from matplotlib.backends import backend_agg
            return getattr(backend_agg, name)

    sys.modules["opensandbox_figures"] = Backend("opensandbox_figures")
    os.environ.setdefault("MPLBACKEND", "module://opensandbox_figures")

    # ---- running ----

    main = types.ModuleType("__main__")
    main.__builtins__ = builtins
    sys.modules["__main__"] = main
    builtins.display = display
    sys.path[0] = ""
    loop = None

    def evaluate(code):
        """The value of compiled code; what it awaits at its top level is awaited."""
        nonlocal loop
        value = eval(code, main.__dict__)
        if not code.co_flags & inspect.CO_COROUTINE:
            return value
        import asyncio
        if loop is None:
            loop = asyncio.new_event_loop()
            asyncio.set_event_loop(loop)
        task = loop.create_task(value)
        try:
            return loop.run_until_complete(task)
        except BaseException:
            task.cancel()
            raise

    def execute(source, name):
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        tree = compile(source, name, "exec", flags | ast.PyCF_ONLY_AST)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        evaluate(compile(tree, name, "exec", flags))
        if last is not None:
            value = evaluate(compile(ast.Expression(last.value), name, "eval", flags))
            if value is not None and not source.rstrip().endswith(";"):
                builtins._ = value
                send({"result": bundle(value)})
        show_figures()

    def describe(error):
        kind = type(error)
        trace, inner = error.__traceback__, None
        while trace:  # our own frames come first
            if trace.tb_frame.f_code.co_filename.startswith("<cell "):
                inner = trace
                break
            trace = trace.tb_next
        error.__traceback__ = inner
        lines = "".join(traceback.format_exception(kind, error, inner)).rstrip("\n").split("\n")
        try:
            value = str(error)
        except Exception:
            value = "<no text>"
        return {"ename": kind.__name__, "evalue": value, "traceback": lines}

    def ignore(*_):
        pass

    def run(source, number):
        name = "<cell %d>" % number
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        try:
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                send({"started": True})
                execute(source, name)
            finally:
                signal.signal(signal.SIGINT, ignore)
        except BaseException as error:
            signal.signal(signal.SIGINT, ignore)
            send({"error": describe(error)})
        send({"done": 0})

    signal.signal(signal.SIGINT, ignore)
    send({"ready": True})
    number = 0
    for line in requests:
        number += 1
        run(requests.read(int(line)).decode("utf-8", "replace"), number)


drive()
