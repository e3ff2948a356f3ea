"""`daybook.Recurring`: tasks that are not stored, with and without an event loop."""

from __future__ import annotations

import asyncio
import functools
import logging
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import pytest

import daybook
from daybook.errors import InvalidInput
from daybook.home import Home
from daybook.testing import ManualClock

pytestmark = pytest.mark.anyio

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


class Calls:
    """Record the times of calls, and set ``done`` after ``most`` of them."""

    def __init__(self, clock: ManualClock, most: int) -> None:
        self.at: list[timedelta] = []
        self.done = asyncio.Event()
        self._clock, self._most = clock, most

    def note(self) -> None:
        if not self.done.is_set():
            self.at.append(self._clock.now() - NOON)
        if len(self.at) >= self._most:
            self.done.set()


def seconds(*numbers: float) -> list[timedelta]:
    return [timedelta(seconds=number) for number in numbers]


@pytest.mark.floor("A", "ScheduleEvery calls a function that is not stored as a job")
async def test_a_function_is_called_every_interval_after_the_start() -> None:
    clock = ManualClock(NOON)
    calls = Calls(clock, 3)

    async def refresh() -> None:
        calls.note()

    async with daybook.Recurring(clock=clock) as tasks:
        task = tasks.every("30s", refresh)
        await calls.done.wait()
    assert calls.at == seconds(30, 60, 90)
    assert task.name == f"{__name__}.{refresh.__qualname__}"
    assert task.calls >= 3 and task.errors == 0


async def test_a_long_call_never_overlaps_and_keeps_the_phase() -> None:
    clock = ManualClock(NOON)
    calls = Calls(clock, 3)

    async def slow() -> None:
        calls.note()
        clock.move(timedelta(seconds=95))

    async with daybook.Recurring(clock=clock) as tasks:
        tasks.every("30s", slow)
        await calls.done.wait()
    # The call starts at 30 and ends at 125, so those due at 60, 90 and 120 are left out.
    assert calls.at == seconds(30, 150, 270)


async def test_cron_uses_the_given_time_zone() -> None:
    clock = ManualClock(NOON)
    calls = Calls(clock, 2)

    async def greet() -> None:
        calls.note()

    tasks = daybook.Recurring(clock=clock)
    tasks.cron("0 15 * * *", greet, timezone="Europe/Berlin")  # 14:00 UTC in winter
    async with tasks:
        await calls.done.wait()
    assert calls.at == [timedelta(hours=2), timedelta(hours=26)]


async def test_a_failing_task_is_reported_and_called_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, events = ManualClock(NOON), list[tuple[str, str]]()
    calls = Calls(clock, 3)

    async def breaks() -> None:
        calls.note()
        raise ValueError("no disk")

    async def hear(name: str, error: BaseException) -> None:
        events.append((name, str(error)))
        raise RuntimeError("and this one as well")

    async with daybook.Recurring(on_error=hear, clock=clock) as tasks:
        task = tasks.every("1m", breaks, name="refresh")
        await calls.done.wait()
    assert calls.at == seconds(60, 120, 180)
    assert events[:2] == [("refresh", "no disk")] * 2
    assert task.errors >= 2
    actions = {getattr(each, "action", None) for each in caplog.records}
    assert actions == {"recurring_failed"}
    assert any(each.levelno == logging.ERROR for each in caplog.records)


async def test_a_cancelled_task_is_not_called_again_and_others_continue() -> None:
    clock = ManualClock(NOON)
    calls = Calls(clock, 5)

    async def once() -> None:
        task.cancel()

    async def other() -> None:
        calls.note()

    async with daybook.Recurring(clock=clock) as tasks:
        task = tasks.every("1s", once)
        tasks.every("1m", other)
        await calls.done.wait()
        assert [each.name for each in tasks.tasks] == [f"{__name__}.{other.__qualname__}"]
    assert task.calls == 1


@pytest.mark.floor("A", "ScheduleEvery ends with its context")
async def test_closing_cancels_async_calls_and_waits_for_threads() -> None:
    started, release, ended = asyncio.Event(), threading.Event(), list[str]()
    in_thread = threading.Event()
    clock = ManualClock(NOON)

    async def hangs() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    def works() -> None:
        in_thread.set()
        release.wait(30)
        ended.append("done")

    async with daybook.Recurring(clock=clock) as tasks:
        tasks.every("1s", hangs)
        tasks.every("1s", works)
        await started.wait()
        await asyncio.to_thread(in_thread.wait, 30)
        asyncio.get_running_loop().call_later(0.05, release.set)
    assert sorted(ended) == ["cancelled", "done"]


def test_recurring_tasks_run_without_an_event_loop() -> None:
    """Use the real clock, so the test takes a second."""
    called, both = threading.Event(), threading.Event()

    async def later() -> None:
        if called.is_set():
            both.set()

    with daybook.Recurring() as tasks:
        tasks.every("1s", functools.partial(called.set), name="sync")
        tasks.every("1s", later)
        assert called.wait(30) and both.wait(30)
        first, _ = tasks.tasks
        first.cancel()
    assert first.calls >= 1


@pytest.mark.floor("A", "ScheduleEvery refuses an invalid interval")
async def test_an_invalid_schedule_is_refused_and_adds_no_task(daybook_home: Home) -> None:
    tasks = daybook.Recurring()
    with pytest.raises(InvalidInput, match="every: "):
        tasks.every("soon", print)
    with pytest.raises(InvalidInput, match="cron: "):
        tasks.cron("0 9 * *", print)
    with pytest.raises(InvalidInput, match="timezone: "):
        tasks.cron("0 9 * * *", print, timezone="Mars/Olympus")
    assert tasks.tasks == ()


@pytest.mark.floor("A", "ScheduleEvery needs no database")
def test_recurring_tasks_use_neither_prefect_nor_a_ledger(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    home = tmp_path_factory.mktemp("home") / "none"
    program = """
import sys, threading, daybook
called = threading.Event()
with daybook.Recurring() as tasks:
    tasks.every("1s", called.set)
    assert called.wait(30)
print({"prefect", "sqlalchemy", "sqlmodel"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"DAYBOOK_HOME": str(home), "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")
    assert not home.exists()
