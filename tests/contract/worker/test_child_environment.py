"""Surroundings of a child process: its session, descriptors, folder, imports and secrets."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from daybook.worker.launcher import Launcher
from daybook.worker.messages import LaunchRequest
from tests.contract.worker.conftest import Launching, actions, wait_until


async def test_a_child_leads_a_session_and_has_only_its_own_descriptors(
    launching: Launching, tmp_path: Path
) -> None:
    began = await launching.start("describes", folder=str(tmp_path))
    async for fact in began.facts():
        assert fact["pid"] == fact["session"] == fact["group"] == began.pid
        assert fact["folder"] == str(tmp_path)
        assert fact["knows_parent"]
        assert fact["stdin"] == ""
        assert fact["blocked"] == 0
        assert fact["defaults"] == ["0", "0"] or "DFL" in "".join(fact["defaults"])
        assert fact["open"] == ["/dev/null", str(began.output), str(began.output), "pipe"]
        assert fact["inheritable"] == [0, 1, 2]
    assert await began.ended() == 0


@pytest.mark.slow
async def test_children_started_at_once_share_no_descriptor(launching: Launching) -> None:
    """If a child inherited the descriptors of tasks that wait in the parent, no pipe would ever
    end.
    """
    started = await asyncio.gather(*(launching.start("describes") for _ in range(12)))
    assert len({began.output for began in started}) == 12
    for began in started:
        facts = [fact async for fact in began.facts()]
        output = str(began.output)
        assert [each["open"] for each in facts] == [["/dev/null", output, output, "pipe"]]
        assert await began.ended() == 0


@pytest.mark.slow
async def test_a_child_gets_a_task_larger_than_any_buffer(launching: Launching) -> None:
    large, small = await asyncio.gather(
        launching.start("describes", flow_run={"payload": "x" * 5_000_000}),
        launching.start("describes", flow_run={"payload": "xyz"}),
    )
    assert await launching.until(large, "given") == 5_000_000
    assert await launching.until(small, "given") == 3


@pytest.mark.slow
async def test_children_leave_no_open_descriptors(launching: Launching) -> None:
    def count(pid: int | None) -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    async def once() -> None:
        began = await launching.start("tells")
        assert [fact async for fact in began.facts()]
        await began.ended()

    await once()
    before = count(os.getpid()), count(launching.launcher.pid)
    for _ in range(10):
        await once()
    # The count of this process may also drop: it may collect what other tests left open.
    await wait_until(lambda: count(os.getpid()) <= before[0])
    assert count(launching.launcher.pid) == before[1]


@pytest.mark.parametrize("end", ["its own", "ours", "no reader any more", "given up"])
@pytest.mark.slow
async def test_no_descriptor_stays_open_if_the_facts_are_not_read(
    launching: Launching, end: str
) -> None:
    """The worker does not read the facts of hooks, nor of a child whose start was cancelled."""

    async def once() -> None:
        if end == "its own":
            began = await launching.start("tells", flow_run={"short": True})
            assert await began.ended() == 0
            return
        if end == "given up":
            starting = asyncio.create_task(launching.start("ignores"))
            starting.get_loop().call_soon(starting.cancel)
            with pytest.raises(asyncio.CancelledError):
                await starting
            await wait_until(lambda: not launching.launcher._beginning | launching.launcher._ending)
            return
        began = await launching.start("waits")
        if end == "no reader any more":
            assert await launching.until(began, "ready")
        await began.end(grace=60.0)

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    await once()
    before = count()
    for _ in range(5):
        await once()
    await wait_until(lambda: count() <= before)


async def test_facts_can_be_read_after_the_childs_end(launching: Launching) -> None:
    began = await launching.start("tells", flow_run={"short": True})
    assert await began.ended() == 0
    assert [fact async for fact in began.facts()] == [{"first": 1}, {"last": True}]
    assert [fact async for fact in began.facts()] == []


async def test_a_deleted_output_folder_is_created_again(launching: Launching) -> None:
    await (await launching.start("end_normally")).ended()
    shutil.rmtree(launching.folder)

    began = await launching.start("describes")

    assert (await launching.until(began, "folder")) == str(launching.folder)
    assert await began.ended() == 0
    assert began.output.parent == launching.folder


async def test_the_parent_has_one_thread(make: Callable[..., Launcher]) -> None:
    async with make(environment={**os.environ, "PYTHONDEVMODE": "1"}) as launcher:
        assert launcher.threads == 1


@pytest.mark.slow
async def test_the_parent_imports_a_module_that_a_child_reported(
    adapter: str, launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    first = await launching.start("learns")
    assert [fact async for fact in first.facts()] == [{"known": False}]
    second = await launching.start("learns")
    assert [fact async for fact in second.facts()] == [{"known": adapter == "preloaded"}]
    assert caplog.records == []


async def test_an_import_that_starts_a_thread_is_logged(
    adapter: str, launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    began = await launching.start("learns", flow_run={"names": ["tests.contract.worker.threaded"]})
    assert [fact async for fact in began.facts()] == [{"known": False}]
    assert await (await launching.start("end_normally")).ended() == 0
    assert actions(caplog) == (["parent_threaded"] if adapter == "preloaded" else [])


async def test_a_child_gets_secrets_that_its_readable_environment_does_not_contain(
    make: Callable[..., Launcher],
) -> None:
    secrets = {"PREFECT_API_AUTH_STRING": "daybook:s3cr3t", "OPENAI_API_KEY": "sk-s3cr3t"}
    async with make(environment={**os.environ, **secrets, "PLAIN": "word"}) as launcher:
        own = await launcher.start(LaunchRequest({"id": "a"}, "ours", "secrets"))
        (only_fact,) = [fact async for fact in own.facts()]
        assert only_fact["secrets"] == {**secrets, "PLAIN": "word"}
        assert "PLAIN=word" in only_fact["environ"]
        assert "s3cr3t" not in only_fact["environ"]
        assert "s3cr3t" not in only_fact["parent"]
        assert only_fact["dumpable"] == 0
        await own.ended()


def test_another_process_of_the_same_user_cannot_inspect_a_protected_process() -> None:
    """Both processes run as an unprivileged user, because root may inspect everything."""
    script = (
        "import os, sys; from pathlib import Path; os.getuid() or os.setuid(65534)\n"
        "print(len(Path(f'/proc/{sys.argv[1]}/environ').read_bytes()))\n"
    )
    own = (
        "import os, sys; from daybook.processes import proc; os.getuid() or os.setuid(65534)\n"
        "import ctypes; ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # setuid has cleared it\n"
        "if sys.argv[1] == 'closed': proc.deny_inspection()\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    found = {}
    for how in ("open", "closed"):
        with subprocess.Popen(
            [sys.executable, "-c", own, how],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as one:
            assert one.stdout is not None
            assert one.stdout.readline() == "ready\n"
            other = subprocess.run(
                [sys.executable, "-I", "-c", script, str(one.pid)],
                capture_output=True,
                text=True,
                check=False,
            )
            one.communicate("")
        found[how] = other
    assert found["open"].returncode == 0, found["open"].stderr
    assert "PermissionError" in found["closed"].stderr
