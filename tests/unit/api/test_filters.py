"""Filters and sort orders of the lists of jobs and runs."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from typing import Any

import pytest

from daybook.api.filters import JobFilters, RunFilters
from daybook.errors import InvalidInput
from daybook.jobs.views import ListedJob
from daybook.ledger.states import Status
from daybook.runs import history
from tests.world import World

pytestmark = pytest.mark.anyio


async def jobs(world: World) -> list[ListedJob]:
    """Return four jobs: `nightly` has failed twice, `fine` has succeeded later, `off`, `on`."""
    nightly = await world.jobs.add(
        "nightly", cron="0 * * * *", tags=["news", "team"], agent="claude"
    )
    fine = await world.jobs.add("fine", cron="30 * * * *", tags=["news"])
    off = await world.jobs.add("off", cron="5 * * * *", enabled=False)
    hook: dict[str, Any] = {"prompt": None, "kind": "webhook", "url": "https://example.org/x"}
    await world.jobs.add("on", owner="agent:eva", cron="10 0 * * *", **hook)
    for stored, status in ((nightly, "failed"), (nightly, "failed"), (fine, "succeeded")):
        await world.runs.finished(stored, Status(status))
    async with world.ledger.read() as session:
        running = await history.running_jobs(session)
    assert running == set()
    names = ("fine", "nightly", "off", "on")
    stored_jobs = [await world.jobs.get((await world.jobs.ids())[name]) for name in names]
    now = world.clock.now()
    return [ListedJob.of(each, now, running=each.id == off.id) for each in stored_jobs]


JOB_CASES: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["fine", "nightly", "off", "on"]),
    ({"status": ["disabled"]}, ["off"]),
    ({"status": ["paused"]}, ["off"]),
    ({"status": ["on"]}, ["fine", "nightly", "on"]),
    ({"status": ["running"]}, ["off"]),
    ({"status": ["failed", "succeeded"]}, ["fine", "nightly"]),
    ({"tag": ["news"]}, ["fine", "nightly"]),
    ({"tag": ["news", "team"]}, ["nightly"]),
    ({"owner": "agent:eva"}, ["on"]),
    ({"kind": "webhook"}, ["on"]),
    ({"agent": "claude"}, ["nightly"]),
    ({"name": "F"}, ["fine", "off"]),
    ({"failing": True}, ["nightly"]),
    ({"failing": True, "tag": ["other"]}, []),
    ({"since": "10m"}, ["fine"]),
    ({"until": "10m"}, ["nightly"]),
    ({"sort": "failures"}, ["nightly", "fine", "off", "on"]),
    ({"sort": "last"}, ["fine", "nightly", "off", "on"]),
    ({"sort": "next"}, ["nightly", "fine", "on", "off"]),
]


async def test_jobs_are_filtered_and_sorted(world: World) -> None:
    listed = await jobs(world)
    for filters, expected in JOB_CASES:
        selected = JobFilters.of(filters).select(listed, world.clock.now())
        assert [each.name for each in selected] == expected, filters


async def runs(world: World) -> None:
    """Make runs: of `one` failed, succeeded, running; of `two` timed out, then waiting."""
    one = await world.jobs.add("one", cron="0 * * * *", tags=["news"])
    two = await world.jobs.add("two", owner="agent:eva", cron="30 * * * *")
    await world.runs.finished(one, Status.FAILED)
    await world.runs.finished(two, Status.TIMED_OUT)
    await world.runs.finished(one, Status.SUCCEEDED)
    await world.runs.running(one)
    world.passes(minutes=1)
    await world.runs.request(two)


async def found(world: World, **filters: Any) -> list[tuple[str, str]]:
    """Return job and status of the runs."""
    async with world.ledger.read() as session:
        conditions, order = await RunFilters.of(filters).conditions(session, world.clock.now())
        rows = await history.recent(session, None, 10, conditions=conditions, order=order)
        return [(job.name, row.status) for row, job in rows if job]


NEWEST = [
    ("two", "waiting"),
    ("one", "running"),
    ("one", "succeeded"),
    ("two", "timed_out"),
    ("one", "failed"),
]


RUN_CASES: list[tuple[dict[str, Any], list[tuple[str, str]]]] = [
    ({}, NEWEST),
    ({"status": ["running", "waiting"]}, NEWEST[:2]),
    ({"failing": True}, NEWEST[3:]),
    ({"failing": True, "status": ["succeeded"]}, []),
    ({"tag": ["news"]}, [NEWEST[1], NEWEST[2], NEWEST[4]]),
    ({"owner": "agent:eva"}, [NEWEST[0], NEWEST[3]]),
    ({"kind": "webhook"}, []),
    ({"since": "90m"}, NEWEST[:3]),
    ({"until": "90m"}, NEWEST[3:]),
    ({"sort": "ended"}, [*NEWEST[2:], *NEWEST[:2]]),
]


@pytest.mark.dialect
async def test_runs_are_filtered_and_sorted(world: World) -> None:
    await runs(world)
    for filters, expected in RUN_CASES:
        assert await found(world, **filters) == expected, filters


async def test_a_job_with_a_claimed_or_running_run_is_running(world: World) -> None:
    await runs(world)
    async with world.ledger.read() as session:
        assert await history.running_jobs(session) == {(await world.jobs.ids())["one"]}


@pytest.mark.parametrize(
    ("filters", "field", "hint"),
    [
        ({"status": ["broken"]}, "status", "enabled, disabled, running, cancelled, failed"),
        ({"kind": "cron"}, "kind", "use one of: agent-prompt, webhook"),
        ({"sort": "size"}, "sort", "use one of: name, next, last"),
        ({"since": "soon"}, "since", "2026-11-20T08:00"),
        ({"until": "-2h"}, "until", "2026-11-20T08:00"),
        ({"since": "1h", "until": "2h"}, "since and until", "earlier"),
        ({"label": "x"}, "label", ""),
    ],
)
def test_a_filter_that_cannot_match_is_refused(
    filters: dict[str, Any], field: str, hint: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        JobFilters.of(filters).select([], datetime.fromisoformat("2026-11-20T12:00:00Z"))
    assert refused.value.field == field
    assert hint in refused.value.hint


TIMES = {
    "2h": timedelta(hours=2),
    "1d ago": timedelta(days=1),
    "2026-11-20T11:00:00Z": timedelta(hours=1),
    "2026-11-20T11:00": timedelta(hours=2),
    "2026-11-20": timedelta(hours=13),
    "today": timedelta(hours=13),
    "Yesterday": timedelta(hours=37),
}


async def test_times_are_those_of_this_machine(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = datetime.fromisoformat("2026-11-20T12:00:00Z")
    job = ListedJob.of(await world.jobs.add(), now, running=False)
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        for text, ago in TIMES.items():
            at = job.model_copy(update={"last_run_at": now - ago})
            before = job.model_copy(update={"last_run_at": now - ago - timedelta(seconds=1)})
            assert JobFilters.of({"since": text}).select([at, before], now) == [at], text
            assert JobFilters.of({"until": text}).select([at, before], now) == [before], text
    finally:
        monkeypatch.undo()
        time.tzset()
