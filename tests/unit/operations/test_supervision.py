from __future__ import annotations

import asyncio
import contextlib
import os
import sys

import pytest

from daybook.home import Home
from daybook.operations import home_lock, supervision
from daybook.processes import children, proc

pytestmark = pytest.mark.anyio


async def begin(home: Home, program: str) -> children.Child:
    return await children.start(
        "worker",
        [sys.executable, "-c", program],
        environment=os.environ,
        log=home.logs / "worker.log",
        folder=home.path,
    )


async def test_a_child_that_exits_is_restarted_and_ends_with_its_supervision(
    daybook_home: Home,
) -> None:
    lines: list[str] = []
    started: list[children.Child] = []
    enough = asyncio.Event()

    async def again() -> children.Child:
        last = len(started) == 2
        started.append(
            await begin(daybook_home, "import signal; signal.pause()" if last else "1 / 0")
        )
        if last:
            enough.set()
        return started[-1]

    with home_lock.hold(daybook_home) as lock:
        first = await again()
        lock.add_child(first)
        care = asyncio.create_task(
            supervision.supervise(first, again, lock, lines.append, pause=0.01)
        )
        async with asyncio.timeout(30):
            await enough.wait()
        stays = started[-1]
        care.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await care
        assert lock.children == []
    assert [child.exit_code for child in started[:2]] == [1, 1]
    assert stays.exit_code is not None
    assert proc.find(stays.pid, stays.process.started) is None
    assert len(lines) == 2
    assert all("ZeroDivisionError" in line and "code 1" in line for line in lines)
    assert "in 0.01 s" in lines[0]
    assert "in 0.02 s" in lines[1]


async def test_a_failed_restart_is_reported_and_retried(daybook_home: Home) -> None:
    lines: list[str] = []
    started: list[children.Child] = []
    tries: list[OSError] = [OSError(28, "No space left on device"), OSError(11, "try again")]
    enough = asyncio.Event()

    async def again() -> children.Child:
        if tries:
            raise tries.pop(0)
        started.append(await begin(daybook_home, "import signal; signal.pause()"))
        enough.set()
        return started[-1]

    with home_lock.hold(daybook_home) as lock:
        first = await begin(daybook_home, "1 / 0")
        lock.add_child(first)
        care = asyncio.create_task(
            supervision.supervise(first, again, lock, lines.append, pause=0.01)
        )
        async with asyncio.timeout(30):
            await enough.wait()
        (stays,) = started
        care.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await care
        assert lock.children == []
    assert proc.find(stays.pid, stays.process.started) is None
    assert len(lines) == 3
    assert "exited with code 1; restarting it in 0.01 s" in lines[0]
    assert "No space left on device; retrying in 0.02 s" in lines[1].replace("[Errno 28] ", "")
    assert "retrying in 0.04 s" in lines[2]


async def test_a_child_that_cannot_be_recorded_is_ended(daybook_home: Home) -> None:
    with home_lock.hold(daybook_home) as lock:
        child = await begin(daybook_home, "import signal; signal.pause()")
        daybook_home.up_file.with_suffix(
            ".new"
        ).mkdir()  # the file is written under this name first
        with pytest.raises(IsADirectoryError):
            await supervision.record_or_end(lock, child)
    assert proc.find(child.pid, child.process.started) is None


async def test_supervision_continues_if_the_up_file_cannot_be_written(daybook_home: Home) -> None:
    lines: list[str] = []
    enough = asyncio.Event()
    started: list[children.Child] = []
    in_the_way = daybook_home.up_file.with_suffix(".new")

    async def again() -> children.Child:
        started.append(await begin(daybook_home, "import signal; signal.pause()"))
        asyncio.get_running_loop().call_soon(enough.set)
        return started[-1]

    with home_lock.hold(daybook_home) as lock:
        first = await begin(daybook_home, "1 / 0")
        lock.add_child(first)
        in_the_way.mkdir()  # the file is written under this name first
        care = asyncio.create_task(
            supervision.supervise(first, again, lock, lines.append, pause=0.01)
        )
        async with asyncio.timeout(30):
            await enough.wait()
        assert not care.done()
        assert [each.pid for each in lock.children] == [started[0].pid]
        in_the_way.rmdir()
        care.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await care
    assert proc.find(started[0].pid, started[0].process.started) is None
    assert sum("Could not record" in line for line in lines) == 2
