"""Every method of the official Python SDK, in its asynchronous or synchronous form, against the server that
OPEN_SANDBOX_DOMAIN and OPEN_SANDBOX_API_KEY name: conformance.py async|sync. A line per check: "ok NAME", or
"not ok NAME: why", or "left out NAME: why" for what a server may lack; a method that a server of one machine refuses must be refused by an error of the API."""
import asyncio
import inspect
import io
import sys
from datetime import datetime, timedelta, timezone

from opensandbox import Sandbox, SandboxManager, SandboxManagerSync, SandboxSync
from opensandbox.config import ConnectionConfig, ConnectionConfigSync
from opensandbox.exceptions import SandboxApiException, SandboxException
from opensandbox.models.execd import ExecutionHandlers, RunCommandOpts
from opensandbox.models.execd_sync import ExecutionHandlersSync
from opensandbox.models.filesystem import (
    ContentReplaceEntry, DirectoryListEntry, MoveEntry, SearchEntry, SetPermissionEntry, WriteEntry)
from opensandbox.models.isolated import CreateIsolatedSessionRequest, IsolatedWorkspaceSpec
from opensandbox.models.sandboxes import (
    PVC, NetworkPolicy, NetworkRule, SandboxFilter, SnapshotFilter, Volume)

ASYNC = sys.argv[1] == "async"
failed = 0


async def go(value):
    return await value if inspect.isawaitable(value) else value


async def collect(stream):
    stream = await go(stream)
    if hasattr(stream, "__aiter__"):
        return b"".join([chunk async for chunk in stream])
    return b"".join(stream)


def report(name, problem):
    global failed
    failed += problem is not None
    print(f"not ok {name}: {problem}" if problem else f"ok {name}", flush=True)


def is_absent(error):
    return isinstance(error, SandboxApiException) and ("NOT_SUPPORTED" in str(error) or "page not found" in str(error))


async def check(name, run, optional=False):
    try:
        await run()
        report(name, None)
    except Exception as error:  # whatever goes wrong is the check's failure
        if optional and is_absent(error):
            print(f"left out {name}: {error}", flush=True)
        else:
            report(name, f"{type(error).__name__}: {error}")


async def refused(name, call):
    try:
        await go(call())
        report(name, "was not refused")
    except SandboxApiException as error:
        report(name, None if 400 <= (error.status_code or 0) < 600 else f"no status: {error}")
    except Exception as error:
        report(name, f"{type(error).__name__}: {error}")


def config():
    kind = ConnectionConfig if ASYNC else ConnectionConfigSync
    return kind(request_timeout=timedelta(seconds=60))


def handlers(events):
    if not ASYNC:
        return ExecutionHandlersSync(
            on_init=lambda e: events.append("init"), on_stdout=lambda e: events.append(e.text),
            on_stderr=lambda e: events.append(e.text), on_error=lambda e: events.append("error"),
            on_execution_complete=lambda e: events.append("complete"))

    def note(word):
        async def handler(event):
            events.append(word or event.text)
        return handler
    return ExecutionHandlers(on_init=note("init"), on_stdout=note(None), on_stderr=note(None), on_error=note("error"),
                             on_execution_complete=note("complete"))


async def commands(box):
    events = []
    done = await go(box.commands.run("echo out; echo err >&2; pwd", handlers=handlers(events), opts=RunCommandOpts(
        working_directory="/tmp", envs={"A": "b"}, timeout=timedelta(seconds=20))))
    assert done.exit_code == 0 and [line.text for line in done.logs.stdout] == ["out", "/tmp"], done
    assert events[0] == "init" and events[-1] == "complete" and "err" in events, events
    failure = await go(box.commands.run("no-such-command"))
    assert failure.exit_code == 127 and failure.error.name == "CommandExecError" and failure.complete is None, failure
    assert "no-such-command" in failure.logs.stderr[0].text


async def background(box):
    started = await go(box.commands.run("echo one; sleep 0.2; echo two", opts=RunCommandOpts(background=True)))
    assert started.exit_code is None
    text, cursor = "", 0
    for _ in range(200):
        status = await go(box.commands.get_command_status(started.id))
        logs = await go(box.commands.get_background_command_logs(started.id, cursor=cursor))
        text, cursor = text + logs.content, logs.cursor
        if status.running is False and "two" in text:
            break
        await asyncio.sleep(0.05)
    assert status.exit_code == 0 and text == "one\ntwo\n", (status, text)


async def interrupt(box):
    started = await go(box.commands.run("sleep 60", opts=RunCommandOpts(background=True)))
    await go(box.commands.interrupt(started.id))
    for _ in range(200):
        if (await go(box.commands.get_command_status(started.id))).running is False:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it still runs")


async def session(box):
    name = await go(box.commands.create_session(working_directory="/tmp"))
    await go(box.commands.run_in_session(name, "export KEPT=yes; cd /var"))
    done = await go(box.commands.run_in_session(name, "echo $KEPT; pwd"))
    assert [line.text for line in done.logs.stdout] == ["yes", "/var"], done
    ended = await go(box.commands.run_in_session(name, "sh -c 'exit 7'", timeout=timedelta(seconds=10)))
    assert ended.exit_code == 7 and ended.error.value == "7", ended
    await go(box.commands.delete_session(name))


async def files(box):
    f = box.files
    await go(f.create_directories([WriteEntry(path="/tmp/conf/sub", mode=755)]))
    await go(f.write_file("/tmp/conf/a", "one two one\n", mode=644))
    await go(f.write_files([
        WriteEntry(path="/tmp/conf/b", data=b"\x00\xff", mode=600, owner="nobody", group="nogroup"),
        WriteEntry(path="/tmp/conf/sub/c", data=io.BytesIO(b"stream"), mode=644)]))
    assert await go(f.read_file("/tmp/conf/a")) == "one two one\n"
    assert await go(f.read_bytes("/tmp/conf/b")) == b"\x00\xff"
    assert await go(f.read_file("/tmp/conf/a", range_header="bytes=4-6")) == "two"
    assert await collect(f.read_bytes_stream("/tmp/conf/sub/c")) == b"stream"
    info = (await go(f.get_file_info(["/tmp/conf/b"])))["/tmp/conf/b"]
    assert (info.mode, info.owner, info.group, info.size) == (600, "nobody", "nogroup", 2), info
    assert {item.path for item in await go(f.search(SearchEntry(path="/tmp/conf", pattern="?")))} == {
        "/tmp/conf/a", "/tmp/conf/b", "/tmp/conf/sub/c"}
    assert {item.path for item in await go(f.list_directory(DirectoryListEntry(path="/tmp/conf", depth=1)))} == {
        "/tmp/conf/a", "/tmp/conf/b", "/tmp/conf/sub"}
    await go(f.set_permissions([SetPermissionEntry(path="/tmp/conf/a", mode=640, owner="root", group="root")]))
    assert (await go(f.get_file_info(["/tmp/conf/a"])))["/tmp/conf/a"].mode == 640
    counts = await go(f.replace_contents_detailed([ContentReplaceEntry(path="/tmp/conf/a", old_content="one", new_content="1")]))
    assert [count.replaced_count for count in counts] == [2], counts
    await go(f.replace_contents([ContentReplaceEntry(path="/tmp/conf/a", old_content="two", new_content="2")]))
    await go(f.move_files([MoveEntry(src="/tmp/conf/a", dest="/tmp/conf/sub/d")]))
    assert await go(f.read_file("/tmp/conf/sub/d", offset=1, limit=1)) in ("1 2 1", "1 2 1\n")
    await go(f.delete_files(["/tmp/conf/sub/d"]))
    await go(f.delete_directories(["/tmp/conf"]))
    try:
        await go(f.read_file("/tmp/conf/b"))
    except SandboxException:
        return
    raise AssertionError("a deleted file was read")


async def lifecycle(box):
    info = await go(box.get_info())
    assert info.status.state == "Running" and info.metadata == {"tag": "t v"}, info
    assert info.entrypoint == ["tail", "-f", "/dev/null"] and info.image.image == "host", info
    renewed = await go(box.renew(timedelta(minutes=20)))
    assert renewed.expires_at > info.expires_at
    assert (await go(box.patch_metadata({"tag": None, "more": "m"}))).metadata == {"more": "m"}
    metrics = await go(box.get_metrics())
    assert metrics.cpu_count > 0 and 0 < metrics.memory_used_in_mib <= metrics.memory_total_in_mib, metrics
    assert await go(box.is_healthy())
    await go(box.check_ready(timedelta(seconds=10), timedelta(milliseconds=50)))
    assert (await go(box.get_endpoint(8080))).endpoint


async def connect(box, kind):
    other = await go(kind.connect(box.id, connection_config=config()))
    done = await go(other.commands.run("echo again"))
    assert done.logs.stdout[0].text == "again"
    await go(other.close())
    try:
        await go(kind.connect("00000000-0000-4000-8000-000000000000", connection_config=config()))
    except SandboxApiException as error:
        assert error.status_code == 404 and error.request_id, error
        return
    raise AssertionError("a sandbox that is not there was connected to")


async def manage(box, kind, manager):
    page = await go(manager.list_sandbox_infos(SandboxFilter(states=["Running"], metadata={"more": "m"}, page_size=5)))
    assert [item.id for item in page.sandbox_infos] == [box.id], page
    assert (await go(manager.get_sandbox_info(box.id))).id == box.id
    await go(manager.patch_sandbox_metadata(box.id, {"more": "n"}))
    await go(manager.renew_sandbox(box.id, timedelta(minutes=30)))
    await go(manager.pause_sandbox(box.id))
    assert (await go(box.get_info())).status.state == "Paused"
    await go(manager.resume_sandbox(box.id))
    await go(box.pause())
    again = await go(kind.resume(box.id, connection_config=config()))
    assert (await go(again.commands.run("echo back"))).exit_code == 0
    await go(again.close())


async def snapshots(box, kind, manager):
    await go(box.files.write_file("/workspace/marker", "kept"))
    made = await go(box.create_snapshot(name="conformance"))
    assert (made.status.state, made.status.reason) == ("Creating", "snapshot_accepted"), made
    for _ in range(400):
        if (await go(manager.get_snapshot(made.id))).status.state == "Ready":
            break
        await asyncio.sleep(0.05)
    listed = await go(manager.list_snapshots(SnapshotFilter(sandbox_id=box.id, states=["Ready"])))
    assert [item.id for item in listed.snapshot_infos] == [made.id], listed
    copy = await go(kind.create(snapshot_id=made.id, connection_config=config(), timeout=timedelta(minutes=5)))
    assert await go(copy.files.read_file("/workspace/marker")) == "kept"
    assert (await go(copy.get_info())).snapshot_id == made.id
    await go(copy.kill())
    await go(copy.close())
    other = await go(manager.create_snapshot(box.id))
    for snapshot in (made, other):
        for _ in range(400):
            if (await go(manager.get_snapshot(snapshot.id))).status.state == "Ready":
                break
            await asyncio.sleep(0.05)
        await go(manager.delete_snapshot(snapshot.id))


async def volumes(kind):
    volume = Volume(name="data", pvc=PVC(claim_name="conformance"), mount_path="/mnt/data", sub_path="a/b")
    for expected in ("", "written"):
        box = await go(kind.create("host", volumes=[volume], timeout=None, connection_config=config()))
        assert (await go(box.get_info())).expires_at is None
        done = await go(box.commands.run("cat /mnt/data/f; printf written >/mnt/data/f"))
        assert "".join(line.text for line in done.logs.stdout) == expected, done
        await go(box.kill())
        await go(box.close())


async def egress(kind):
    policy = NetworkPolicy(default_action="deny", egress=[NetworkRule(action="allow", target="example.com")])
    box = await go(kind.create("host", network_policy=policy, connection_config=config()))
    try:
        assert (await go(box.get_egress_policy())).egress[0].target == "example.com"
        await go(box.patch_egress_rules([NetworkRule(action="allow", target="example.org")]))
        targets = {rule.target for rule in (await go(box.get_egress_policy())).egress}
        assert targets == {"example.com", "example.org"}, targets
        await go(box.delete_egress_rules(["example.org"]))
        assert {rule.target for rule in (await go(box.get_egress_policy())).egress} == {"example.com"}
    finally:
        await go(box.kill())
        await go(box.close())


async def isolation(box):
    assert (await go(box.isolation.capabilities())).available
    workspace = IsolatedWorkspaceSpec(path="/workspace", mode="rw")
    own = await go(box.isolation.create(CreateIsolatedSessionRequest(workspace=workspace)))
    assert (await go(own.run("echo inside"))).logs.stdout[0].text == "inside"
    await go(own.get())
    assert len(await go(box.isolation.list())) == 1
    await go(own.delete())


async def main():
    kind, managers = (Sandbox, SandboxManager) if ASYNC else (SandboxSync, SandboxManagerSync)
    box = await go(kind.create("host", env={"GREETING": "hello"}, metadata={"tag": "t v"}, connection_config=config(),
                               timeout=timedelta(minutes=5)))
    manager = await go(managers.create(connection_config=config()))
    await check("lifecycle", lambda: lifecycle(box))
    await check("connect", lambda: connect(box, kind))
    await check("manager", lambda: manage(box, kind, manager))
    await check("commands", lambda: commands(box))
    await check("background commands", lambda: background(box))
    await check("interrupt", lambda: interrupt(box))
    await check("sessions", lambda: session(box))
    await check("files", lambda: files(box))
    await check("snapshots", lambda: snapshots(box, kind, manager))
    await check("volumes", lambda: volumes(kind))
    await check("egress", lambda: egress(kind))
    await check("isolation", lambda: isolation(box), optional=True)
    # what one machine without a gateway, Kubernetes and a vault has not
    soon = int((datetime.now(timezone.utc) + timedelta(minutes=5)).timestamp())
    await refused("signed endpoint", lambda: box.get_signed_endpoint(8080, soon))
    await refused("diagnostic logs", lambda: box.get_diagnostic_logs("container"))
    await refused("diagnostic events", lambda: manager.get_diagnostic_events(box.id, "runtime"))
    await refused("image", lambda: kind.create("no/such-image:1", connection_config=config()))
    await check("kill", lambda: go(manager.kill_sandbox(box.id)))
    await refused("killed sandbox", lambda: manager.get_sandbox_info(box.id))
    await go(box.close())
    await go(manager.close())


asyncio.run(main())
sys.exit(1 if failed else 0)
