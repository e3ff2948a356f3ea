"""What a process finds around it, and what it does not."""

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
from tests.contract.worker.conftest import Launching, actions, becomes


async def test_it_leads_a_session_and_has_nothing_but_its_own(
    launching: Launching, tmp_path: Path
) -> None:
    began = await launching.start("describes", folder=str(tmp_path))
    async for told in began.facts():
        assert told["pid"] == told["session"] == told["group"] == began.pid
        assert told["folder"] == str(tmp_path)
        assert told["stdin"] == ""
        assert told["blocked"] == 0
        assert told["defaults"] == ["0", "0"] or "DFL" in "".join(told["defaults"])
        assert told["open"] == ["/dev/null", str(began.output), str(began.output), "pipe"]
        assert told["inheritable"] == [0, 1, 2]
    assert await began.ended() == 0


@pytest.mark.slow
async def test_many_started_at_once_share_no_descriptor(launching: Launching) -> None:
    """Tasks that wait in the parent have descriptors there: they must not leak, or no end comes."""
    started = await asyncio.gather(*(launching.start("describes") for _ in range(12)))
    assert len({began.output for began in started}) == 12
    for began in started:
        told = [fact async for fact in began.facts()]
        output = str(began.output)
        assert [each["open"] for each in told] == [["/dev/null", output, output, "pipe"]]
        assert await began.ended() == 0


@pytest.mark.slow
async def test_a_task_larger_than_any_buffer_arrives(launching: Launching) -> None:
    large, small = await asyncio.gather(
        launching.start("describes", flow_run={"payload": "x" * 5_000_000}),
        launching.start("describes", flow_run={"payload": "xyz"}),
    )
    assert await launching.until(large, "given") == 5_000_000
    assert await launching.until(small, "given") == 3


@pytest.mark.slow
async def test_descriptors_do_not_add_up(launching: Launching) -> None:
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
    # Of our own process: what other tests left may be collected meanwhile.
    await becomes(lambda: count(os.getpid()) <= before[0])
    assert count(launching.launcher.pid) == before[1]


@pytest.mark.parametrize("end", ["its own", "ours", "no reader any more", "given up"])
@pytest.mark.slow
async def test_descriptors_do_not_add_up_where_nobody_reads_to_the_end(
    launching: Launching, end: str
) -> None:
    """Of hooks nobody asks what they tell; nor of what is ended for want of a caller."""

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
            await becomes(lambda: not launching.launcher._beginning | launching.launcher._ending)
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
    await becomes(lambda: count() <= before)


async def test_what_it_told_is_there_after_its_end(launching: Launching) -> None:
    began = await launching.start("tells", flow_run={"short": True})
    assert await began.ended() == 0
    assert [fact async for fact in began.facts()] == [{"first": 1}, {"last": True}]
    assert [fact async for fact in began.facts()] == []


async def test_a_folder_that_was_deleted_is_made_anew(launching: Launching) -> None:
    await (await launching.start("ends")).ended()
    shutil.rmtree(launching.folder)

    began = await launching.start("describes")

    assert (await launching.until(began, "folder")) == str(launching.folder)
    assert await began.ended() == 0
    assert began.output.parent == launching.folder


async def test_the_parent_has_one_thread(make: Callable[..., Launcher]) -> None:
    async with make(environment={**os.environ, "PYTHONDEVMODE": "1"}) as launcher:
        assert launcher.threads == 1


@pytest.mark.slow
async def test_what_one_had_to_import_the_next_one_has(
    adapter: str, launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    first = await launching.start("learns")
    assert [fact async for fact in first.facts()] == [{"known": False}]
    second = await launching.start("learns")
    assert [fact async for fact in second.facts()] == [{"known": adapter == "preloaded"}]
    assert caplog.records == []


async def test_an_import_that_starts_a_thread_is_told(
    adapter: str, launching: Launching, caplog: pytest.LogCaptureFixture
) -> None:
    began = await launching.start("learns", flow_run={"names": ["tests.contract.worker.threaded"]})
    assert [fact async for fact in began.facts()] == [{"known": False}]
    assert await (await launching.start("ends")).ended() == 0
    assert actions(caplog) == (["parent_threaded"] if adapter == "preloaded" else [])


async def test_secrets_are_handed_on_without_the_environment_that_others_can_read(
    make: Callable[..., Launcher],
) -> None:
    secrets = {"PREFECT_API_AUTH_STRING": "daybook:s3cr3t", "OPENAI_API_KEY": "sk-s3cr3t"}
    async with make(environment={**os.environ, **secrets, "PLAIN": "word"}) as launcher:
        own = await launcher.start(LaunchRequest({"id": "a"}, "ours", "secrets"))
        (told,) = [fact async for fact in own.facts()]
        assert told["secrets"] == {**secrets, "PLAIN": "word"}
        assert "PLAIN=word" in told["environ"]
        assert "s3cr3t" not in told["environ"]
        assert "s3cr3t" not in told["parent"]
        assert told["dumpable"] == 0
        await own.ended()


def test_another_process_of_the_same_user_cannot_look_into_one_of_ours() -> None:
    """Without privileges, as it is for everybody but root."""
    script = (
        "import os, sys; from pathlib import Path; os.getuid() or os.setuid(65534)\n"
        "print(len(Path(f'/proc/{sys.argv[1]}/environ').read_bytes()))\n"
    )
    ours = (
        "import os, sys; from daybook.processes import proc; os.getuid() or os.setuid(65534)\n"
        "import ctypes; ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # setuid has cleared it\n"
        "if sys.argv[1] == 'closed': proc.deny_inspection()\n"
        "print('ready', flush=True); sys.stdin.read()\n"
    )
    seen = {}
    for how in ("open", "closed"):
        with subprocess.Popen(
            [sys.executable, "-c", ours, how],
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
        seen[how] = other
    assert seen["open"].returncode == 0, seen["open"].stderr
    assert "PermissionError" in seen["closed"].stderr
