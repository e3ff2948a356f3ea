"""Correction of due times that Prefect queues wrongly around real clock changes (promise 14)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from prefect.client.schemas.objects import FlowRun

from daybook.clock import SYSTEM_CLOCK
from daybook.jobs.store import StoredJob
from daybook.prefect import corrections as correct
from daybook.prefect import scheduled_runs
from daybook.runs import claims
from daybook.runs.claim_requests import ClaimRequest, Granted
from tests.pure.schedules import oracle
from tests.world.prefect_world import PrefectWorld
from tests.world.traffic import Died

pytestmark = pytest.mark.e2e

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
BEFORE = timedelta(hours=30)
"""Time from the ledger's clock to the change, so that the whole day before it is ahead."""


def next_change(zone: str, forward: bool) -> datetime:
    """Return the next instant at which the zone's clocks are set forward, or back."""
    now, tz = SYSTEM_CLOCK.now(), ZoneInfo(zone)
    for each in oracle.changes(zone, now.year, now.year + 3):
        before, after = (each - MINUTE).astimezone(tz), each.astimezone(tz)
        set_forward = (after.utcoffset() or timedelta()) > (before.utcoffset() or timedelta())
        if each > now + 3 * timedelta(days=1) and set_forward is forward:
            return each
    raise AssertionError(zone)


@dataclass
class Case:
    """A job in Prefect, with the ledger's clock shortly before a clock change."""

    world: PrefectWorld
    stored: StoredJob
    change: datetime

    @property
    def end(self) -> datetime:
        return self.change + correct.AFTER_CHANGE_WINDOW

    async def correct(self) -> correct.CorrectionResult:
        return await correct.correct(self.world.ledger, self.world.client)

    async def queued(self) -> list[FlowRun]:
        """Return the future runs that Prefect's scheduler has queued, by the ledger's clock."""
        now = self.world.ledger.now()
        runs = await self.world.prefect.runs(self.stored)
        return [
            each
            for each in runs
            if each.auto_scheduled
            and each.expected_start_time is not None
            and now < each.expected_start_time <= self.end
        ]

    async def instants(self, *, skipped: bool) -> list[datetime]:
        found = [
            each
            for each in await self.queued()
            if each.state is not None and (each.state.name == "Skipped") is skipped
        ]
        return [instant(each) for each in found]

    async def expected(self) -> list[datetime]:
        """Return each due time up to the end, computed by brute force."""
        schedule = self.stored.job.schedule
        start = (self.world.ledger.now() + correct.WORKER_GRACE).replace(microsecond=0)
        return oracle.due(schedule.expr, schedule.timezone, start, self.end)  # type: ignore[union-attr]

    async def prefect_due_times(self) -> list[datetime]:
        """Return the instants that will run: queued and not skipped, or waiting in the ledger."""
        rows = [row.due for row in await self.world.runs.rows() if row.status == "waiting"]
        left = await self.instants(skipped=False)
        assert not set(rows) & set(left)
        start = self.world.ledger.now() + correct.WORKER_GRACE
        return sorted(each for each in (*rows, *left) if each > start)


def instant(run: FlowRun) -> datetime:
    assert run.expected_start_time is not None
    return datetime.fromtimestamp(run.expected_start_time.timestamp(), UTC)


async def near(
    world: PrefectWorld, cron: str, zone: str, *, forward: bool, before: timedelta = BEFORE
) -> Case:
    change = next_change(zone, forward)
    stored = await world.deploy(cron=cron, timezone=zone, catch_up="none")
    world.clock.set(change - before)
    await world.prefect.ui.request(
        "POST",
        "/deployments/{id}/schedule",
        path_params={"id": str(stored.row.deployment_id)},
        json={
            "start_time": (change - before).isoformat(),
            "end_time": (change + timedelta(days=3)).isoformat(),
            "min_time": (before + timedelta(days=1)).total_seconds(),
            "max_runs": 200,
        },
    )
    return Case(world, stored, change)


@dataclass
class Change:
    """A job around a clock change: instants that Prefect queues wrongly, and those it misses.

    Both are relative to the change.
    """

    cron: str
    zone: str
    forward: bool
    wrong: list[timedelta]
    missing: list[timedelta]


CHANGES = {
    # Due at 03:00, the first instant after the gap; Prefect queues it for 01:30.
    "gap": Change("30 2 * * *", "America/New_York", True, [-30 * MINUTE], [0 * MINUTE]),
    # Due at 01:00, because midnight does not occur; Prefect queues it for 23:00 the day before.
    "midnight": Change("0 0 * * *", "America/Santiago", True, [-HOUR], [0 * MINUTE]),
    # Due at 01:00 and 01:30 both times; Prefect queues nothing for the second time.
    "repeated": Change("*/30 * * * *", "America/New_York", False, [], [0 * MINUTE, 30 * MINUTE]),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.slow
async def test_wrongly_queued_runs_are_corrected_before_they_are_due(
    world: PrefectWorld, name: str
) -> None:
    given = CHANGES[name]
    case = await near(world, given.cron, given.zone, forward=given.forward)
    expected = await case.expected()
    assert await case.prefect_due_times() != expected  # Prefect queues it wrongly

    await case.correct()

    assert await case.prefect_due_times() == expected
    assert [each - case.change for each in await case.instants(skipped=True)] == given.wrong
    rows = [row for row in await world.runs.rows() if row.status == "waiting"]
    assert sorted(row.due - case.change for row in rows) == given.missing
    assert {(row.until == row.due, row.waits_for) for row in rows} == {(True, "due")}
    for run in await case.queued():
        if run.state is not None and run.state.name == "Skipped":
            assert run.state.message == f"not due: daylight saving time in {given.zone}"
            assert await world.prefect.log(run) == [("INFO", f"skipped: {run.state.message}")]

    # A second pass changes nothing, and a waiting row gets its Prefect run at its due time.
    assert not await case.correct()
    assert await case.prefect_due_times() == expected
    await scheduled_runs.ensure_all(world.ledger, world.client)
    first = min(rows, key=lambda row: row.due)
    row = await world.runs.row(first.id)
    assert await world.prefect.start(await world.prefect.run(row.flow_run_id)) == row.due


async def test_a_corrected_due_time_can_be_claimed_when_it_is_due(world: PrefectWorld) -> None:
    case = await near(world, "30 2 * * *", "America/New_York", forward=True)
    await case.correct()
    (row,) = [row for row in await world.runs.rows() if row.status == "waiting"]
    await scheduled_runs.ensure_all(world.ledger, world.client)
    row = await world.runs.row(row.id)
    world.clock.set(row.due + timedelta(seconds=1))

    answer = await claims.claim(
        world.ledger,
        ClaimRequest(
            row.occurrence,
            row.kind,
            "schedule",
            row.due,
            "here:1",
            row.parameters,
            row.job_id,
            row.flow_run_id,
        ),
    )

    assert isinstance(answer, Granted)
    assert (answer.due, answer.trigger) == (case.change, "schedule")


@pytest.mark.slow
async def test_a_pass_killed_after_any_write_is_completed_by_the_next(world: PrefectWorld) -> None:
    case = await near(world, "*/30 * * * *", "America/New_York", forward=False)
    expected = await case.expected()
    world.prefect.traffic.deadly = True
    passes = 0
    while True:
        try:
            await case.correct()
            break
        except Died:
            passes += 1
    world.prefect.traffic.deadly = False

    assert await case.prefect_due_times() == expected
    assert not await case.correct()
    assert passes == len(await case.instants(skipped=True))


@pytest.mark.slow
async def test_jobs_far_from_a_clock_change_or_just_compared_cost_no_request(
    world: PrefectWorld,
) -> None:
    await world.deploy(cron="0 9 * * *", timezone="UTC")
    await world.deploy(every="1h")
    case = await near(world, "30 2 * * *", "America/New_York", forward=True)
    memory = correct.CorrectionState()
    world.prefect.traffic.requests.clear()

    first = await correct.correct(world.ledger, world.client, memory)
    assert (first.jobs, first.added, first.skipped) == (1, 1, 1)
    asked = sum(world.prefect.traffic.requests.values())
    world.prefect.traffic.requests.clear()
    assert not await correct.correct(world.ledger, world.client, memory)
    assert not world.prefect.traffic.requests

    world.passes(minutes=31)
    again = await correct.correct(world.ledger, world.client, memory)
    assert (again.jobs, bool(again)) == (1, False)
    assert sum(world.prefect.traffic.requests.values()) == 2 < asked
    assert len(memory.compared) == 3
    world.clock.set(case.change + 4 * HOUR)
    assert (await correct.correct(world.ledger, world.client, memory)).jobs == 0


async def test_a_job_that_differs_from_its_deployment_is_not_corrected(world: PrefectWorld) -> None:
    case = await near(world, "30 2 * * *", "America/New_York", forward=True)
    deployment = await world.prefect.ui.read_deployment(str(case.stored.row.deployment_id))
    memory = correct.CorrectionState()
    await world.prefect.ui.request(
        "PATCH",
        "/deployments/{id}",
        path_params={"id": str(deployment.id)},
        json={"paused": True},
    )

    assert not await correct.correct(world.ledger, world.client, memory)

    assert not memory.compared
    assert await world.runs.rows() == []
