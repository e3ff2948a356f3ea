"""Tasks that nobody stores: as programs write them, with a loop and without."""

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
    """Notes when it is called, and ends what is waited for after so many."""

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


async def test_a_function_is_called_at_each_interval_from_one_after_the_start() -> None:
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


async def test_a_call_that_lasts_overlaps_none_and_keeps_the_phase() -> None:
    clock = ManualClock(NOON)
    calls = Calls(clock, 3)

    async def slow() -> None:
        calls.note()
        clock.move(timedelta(seconds=95))

    async with daybook.Recurring(clock=clock) as tasks:
        tasks.every("30s", slow)
        await calls.done.wait()
    # Begun at 30, ended at 125; what was due at 60, 90 and 120 is left out.
    assert calls.at == seconds(30, 150, 270)


async def test_cron_is_read_by_its_zones_clocks() -> None:
    clock = ManualClock(NOON)
    calls = Calls(clock, 2)

    async def greet() -> None:
        calls.note()

    tasks = daybook.Recurring(clock=clock)
    tasks.cron("0 15 * * *", greet, timezone="Europe/Berlin")  # 14:00 UTC in winter
    async with tasks:
        await calls.done.wait()
    assert calls.at == [timedelta(hours=2), timedelta(hours=26)]


async def test_what_fails_is_told_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    clock, told = ManualClock(NOON), list[tuple[str, str]]()
    calls = Calls(clock, 3)

    async def breaks() -> None:
        calls.note()
        raise ValueError("no disk")

    async def hear(name: str, error: BaseException) -> None:
        told.append((name, str(error)))
        raise RuntimeError("and this one as well")

    async with daybook.Recurring(on_error=hear, clock=clock) as tasks:
        task = tasks.every("1m", breaks, name="refresh")
        await calls.done.wait()
    assert calls.at == seconds(60, 120, 180)
    assert told[:2] == [("refresh", "no disk")] * 2
    assert task.errors >= 2
    actions = {getattr(each, "action", None) for each in caplog.records}
    assert actions == {"recurring_failed"}
    assert any(each.levelno == logging.ERROR for each in caplog.records)


async def test_a_cancelled_task_is_called_no_more_and_the_others_are() -> None:
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


async def test_the_end_cancels_what_is_async_and_waits_for_a_thread() -> None:
    begun, release, ended = asyncio.Event(), threading.Event(), list[str]()
    in_thread = threading.Event()
    clock = ManualClock(NOON)

    async def hangs() -> None:
        begun.set()
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
        await begun.wait()
        await asyncio.to_thread(in_thread.wait, 30)
        asyncio.get_running_loop().call_later(0.05, release.set)
    assert sorted(ended) == ["cancelled", "done"]


def test_without_a_loop_it_is_the_same() -> None:
    """With the machine's own clock, so it takes a second."""
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


async def test_what_is_no_schedule_is_refused_and_nothing_is_added(daybook_home: Home) -> None:
    tasks = daybook.Recurring()
    with pytest.raises(InvalidInput, match="every: "):
        tasks.every("soon", print)
    with pytest.raises(InvalidInput, match="cron: "):
        tasks.cron("0 9 * *", print)
    with pytest.raises(InvalidInput, match="timezone: "):
        tasks.cron("0 9 * * *", print, timezone="Mars/Olympus")
    assert tasks.tasks == ()


def test_neither_prefect_nor_a_ledger_takes_part(tmp_path_factory: pytest.TempPathFactory) -> None:
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
