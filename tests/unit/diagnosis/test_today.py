"""The report of `today`, and how the command prints it."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.diagnosis.today import today
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.views import Spending
from daybook.testing import ManualClock
from tests.world import World

pytestmark = pytest.mark.anyio


async def fill(home: Home) -> None:
    """Store runs of two jobs: one ended two days ago, four in the last hours."""
    clock = ManualClock(SYSTEM_CLOCK.now() - timedelta(days=2))
    async with Ledger(f"sqlite+aiosqlite:///{home.path / 'ledger.db'}", clock) as ledger:
        world = World(ledger, clock)
        brief = await world.jobs.add("brief", every="60m")
        hello = await world.jobs.add("hello there", on_demand=True)
        await world.runs.finished(brief, Status.CANCELLED)
        clock.set(SYSTEM_CLOCK.now() - timedelta(hours=3))
        priced = {"cost_usd": 0.25, "input_tokens": 1_000, "output_tokens": 20}
        priced["cache_read_tokens"] = 800
        unpriced = {"cost_usd": None, "input_tokens": 400, "output_tokens": 5}
        for status, usage in (
            (Status.SUCCEEDED, priced),
            (Status.SUCCEEDED, None),
            (Status.TIMED_OUT, unpriced),
        ):
            row = await world.runs.request(hello)
            await world.runs.finished(row, status, usage=usage)
        await world.runs.running(await world.runs.request(brief))


async def test_today_reports_the_last_24_hours(daybook_home: Home) -> None:
    await fill(daybook_home)
    found = await today()
    assert found.ended == {"succeeded": 2, "timed_out": 1}
    assert found.spent == Spending(
        cost_usd=0.25,
        input_tokens=1_400,
        output_tokens=25,
        cache_read_tokens=800,
        cache_write_tokens=0,
        unpriced_runs=1,
    )
    assert [each.job for each in found.due_soon] == ["brief"]
    assert any("hello there failed once" in each.title for each in found.problems)
    assert any("Prefect" in each.title for each in found.problems)
    assert found.unread_count == 1
    assert [each.job for each in found.unread] == ["hello there"]  # the alert about its failure


async def test_today_without_runs(daybook_home: Home) -> None:
    found = await today()
    assert (found.ended, found.due_soon, found.spent.cost_usd) == ({}, [], None)
