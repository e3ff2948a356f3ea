"""The waiting runs that a worker remembers, and those that it holds."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from anyio.lowlevel import checkpoint
from prefect.client.schemas.objects import FlowRun

from daybook.ledger.tables import RunRow
from daybook.worker import remembered_runs
from daybook.worker.remembered_runs import HoldEnd, RememberedRuns

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 12, 1, 9, tzinfo=UTC)


def run() -> FlowRun:
    return FlowRun(id=uuid4(), flow_id=uuid4())


def row_of(run: FlowRun, fence: int) -> RunRow:
    return RunRow(
        occurrence="o",
        kind="webhook",
        trigger="schedule",
        due=NOW,
        status="waiting",
        queued_at=NOW,
        flow_run_id=str(run.id),
        fence=fence,
    )


async def test_a_run_is_remembered_until_it_is_claimed_or_forgotten() -> None:
    runs, first, second = RememberedRuns(), run(), run()
    runs.add(first, 3)
    runs.add(second, 5)
    assert runs.of(row_of(first, 3)) is first
    assert runs.of(row_of(first, 4)) is None  # another worker has claimed it
    assert runs.of(row_of(run(), 3)) is None
    assert runs.forget(str(first.id))
    assert not runs.forget(str(first.id))
    assert list(runs.ids) == [str(second.id)]


async def test_the_first_of_too_many_runs_is_forgotten_and_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remembered_runs, "MAX_REMEMBERED", 1)
    runs, first, second = RememberedRuns(), run(), run()
    runs.add(first, 1)
    held = asyncio.create_task(runs.hold(str(first.id), 3600))
    await checkpoint()
    runs.add(second, 1)
    assert await held is HoldEnd.NO_STARTS
    assert list(runs.ids) == [str(second.id)]


async def test_a_hold_ends_once() -> None:
    runs = RememberedRuns()
    holds = [asyncio.create_task(runs.hold(name, 3600)) for name in "abc"]
    timed = asyncio.create_task(runs.hold("d", 0.0))
    await checkpoint()
    assert await timed is HoldEnd.DUE
    runs.end_hold("a", HoldEnd.NO_STARTS)
    runs.end_hold("a")
    assert await holds[0] is HoldEnd.NO_STARTS
    holds[1].cancel()
    await asyncio.wait({holds[1]})
    assert set(runs.all_held) == {"c"}
    runs.end_holds()
    assert await holds[2] is HoldEnd.LEFT
    assert (set(runs.all_held), runs.end_last_hold()) == (set(), None)


async def test_the_own_run_that_was_held_last_is_shown_first() -> None:
    runs = RememberedRuns()
    first, last = (asyncio.create_task(runs.hold(name, 3600)) for name in "ab")
    others = asyncio.create_task(runs.hold("of another worker", 3600, is_own=False))
    await checkpoint()
    assert runs.end_last_hold() == "b"
    assert await last is HoldEnd.NO_STARTS
    assert set(runs.all_held) == {"a", "of another worker"}
    assert runs.end_last_hold() == "a"
    assert runs.end_last_hold() is None
    runs.end_holds()
    assert (await first, await others) == (HoldEnd.NO_STARTS, HoldEnd.LEFT)
