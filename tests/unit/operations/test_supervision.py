from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from datetime import timedelta

import pytest
from anyio.lowlevel import checkpoint

from daybook.clock import SYSTEM_CLOCK
from daybook.diagnosis.checks import home as home_checks
from daybook.home import Home
from daybook.operations import home_lock, liveness, supervision
from daybook.operations.supervision import Watch
from daybook.processes import children, proc
from tests import timings

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


async def test_a_child_that_stops_because_of_its_memory_is_restarted_with_that_reason(
    daybook_home: Home,
) -> None:
    lines, enough = list[str](), asyncio.Event()

    async def again() -> children.Child:
        second = await begin(daybook_home, PAUSES)
        asyncio.get_running_loop().call_soon(enough.set)  # after it has been recorded
        return second

    with home_lock.hold(daybook_home) as lock:
        first = await begin(daybook_home, f"import sys; sys.exit({children.EXIT_TOO_MUCH_MEMORY})")
        lock.add_child(first)
        care = asyncio.create_task(
            supervision.supervise(first, again, lock, lines.append, pause=0.01)
        )
        async with asyncio.timeout(30):
            await enough.wait()
        why = "stopped, because it used more memory than DAYBOOK_MAX_PROCESS_MEMORY allows"
        assert lines[0].startswith(f"The worker {why}; restarting it in ")
        (found,) = home_lock.restarts(daybook_home, SYSTEM_CLOCK.now() - timedelta(hours=1))
        assert (found.name, found.why) == ("worker", why)
        care.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await care


PAUSES = "import signal; signal.pause()"


@pytest.mark.parametrize("excess", [True, False], ids=["memory", "silence"])
async def test_a_child_that_fails_its_watch_is_restarted_and_reported(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch, excess: bool
) -> None:
    timings.change(monkeypatch, liveness, probe_interval=0.01, max_silence=0.05)
    lines, asked, enough = list[str](), list[children.Child](), asyncio.Event()
    second: children.Child | None = None

    async def answers_once(child: children.Child) -> bool:
        asked.append(child)
        return asked.count(child) == 1 or child is second

    async def again() -> children.Child:
        nonlocal second
        second = await begin(daybook_home, PAUSES)
        asyncio.get_running_loop().call_soon(enough.set)
        return second

    watch = Watch(max_memory=1) if excess else Watch(probe=answers_once)
    why = "MB of memory" if excess else "did not answer for"
    with home_lock.hold(daybook_home) as lock:
        first = await begin(daybook_home, PAUSES)
        lock.add_child(first)
        care = asyncio.create_task(
            supervision.supervise(first, again, lock, lines.append, watch=watch, pause=0.01)
        )
        async with asyncio.timeout(30):
            await enough.wait()
        assert first.exit_code == -15
        assert why in lines[0]
        (found,) = home_checks.processes()
        assert (found.check, found.severity) == ("processes", "warning")
        assert found.message.startswith("the worker was restarted once in the last hour: ")
        assert why in found.message
        care.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await care


async def test_a_child_that_has_not_answered_since_its_start_has_more_time(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    timings.change(monkeypatch, liveness, probe_interval=0.005, max_silence=0.02, max_start=0.2)
    child = await begin(daybook_home, PAUSES)
    answers = list[bool]()

    async def never(child: children.Child) -> bool:
        return False

    async def once(child: children.Child) -> bool:
        answers.append(not answers)
        return answers[-1]

    try:
        assert await liveness.wait_until_silent(child, never) >= 0.2
        timings.change(monkeypatch, liveness, max_start=30.0)
        assert await liveness.wait_until_silent(child, once) < 30.0
    finally:
        await child.terminate()


def test_only_restarts_of_the_last_hour_are_reported(daybook_home: Home) -> None:
    now = SYSTEM_CLOCK.now()
    with home_lock.hold(daybook_home) as lock:
        lock.add_restart("server", now - timedelta(minutes=61), "exited with code 1")
        for minutes in (30, 10):
            lock.add_restart("web", now - timedelta(minutes=minutes), "was ended by SIGKILL")
        lock.set_ready(now)
        (found,) = home_checks.processes()
        assert found.message == (
            "the web was restarted 2 times in the last hour: 10 minutes ago it was ended by SIGKILL"
        )
        assert str(daybook_home.logs / "web.log") in found.fix
    assert home_checks.processes() == []  # `up` has stopped


async def test_a_pulse_beats_while_the_child_writes(daybook_home: Home) -> None:
    reader, writer = os.pipe()
    child = await begin(daybook_home, PAUSES)
    child.pulse = children.Pulse(reader)
    assert not await liveness.has_pulse(child)
    reporting = asyncio.create_task(children.report_pulse(writer))
    await checkpoint()
    assert await liveness.has_pulse(child)
    assert not await liveness.has_pulse(child)
    await child.terminate()
    assert not child.pulse.beats()  # closed
    reporting.cancel()
    os.close(writer)
