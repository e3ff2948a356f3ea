"""Requirement 61 and stagger: due times that are skipped by hand, snoozed or delayed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from daybook.jobs import upcoming
from daybook.jobs.store import StoredJob
from daybook.jobs.views import due_times_of
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import JobRow
from daybook.runs import claims
from daybook.runs.claim_requests import ClaimResult, Finished, Granted, Waiting
from tests.world import World

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


async def _put_off(world: World, stored: StoredJob, **fields: object) -> None:
    async with world.ledger.write() as session:
        row = (await session.execute(select(JobRow))).scalar_one()
        assert row.id == stored.id
        for name, value in fields.items():
            setattr(row, name, value)
        session.add(row)


async def _next(world: World, stored: StoredJob) -> ClaimResult:
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due)
    answer = await world.runs.claim(claim_request)
    if isinstance(answer, Granted):
        await claims.begin(world.ledger, answer.run_id, answer.fence)
        await world.runs.finish(answer, Status.SUCCEEDED)
    return answer


async def test_a_due_time_skipped_by_hand_gets_a_skipped_row(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *")
    due = world.runs.claim_request(stored).due
    await _put_off(world, stored, skips=[due.isoformat()])
    shown = due_times_of(await world.jobs.get(stored.id), world.clock.now(), 2).due
    assert shown[0].utc == due + HOUR

    answer = await _next(world, stored)
    assert isinstance(answer, Finished)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "skipped by hand")
    await _next(world, stored)

    rows = await world.runs.rows()
    assert [(row.due, row.status) for row in rows] == [
        (due, "skipped"),
        (due + HOUR, "succeeded"),
    ]


async def test_a_snoozed_job_skips_its_due_times_until_the_snooze_ends(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *")
    first = world.runs.claim_request(stored).due
    await _put_off(world, stored, snoozed_until=first + 2 * HOUR)
    shown = due_times_of(await world.jobs.get(stored.id), world.clock.now(), 1).due
    assert shown[0].utc == first + 2 * HOUR

    answers = [await _next(world, stored) for _ in range(3)]

    assert [row.status for row in await world.runs.rows()] == ["skipped", "skipped", "succeeded"]
    assert isinstance(answers[0], Finished)
    assert answers[0].reason == "snoozed until 2026-01-15 15:00:00 UTC"


async def test_disabling_and_enabling_a_job_ends_its_snooze(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *")
    await _put_off(world, stored, snoozed_until=world.clock.now() + 48 * HOUR)
    await world.jobs.edit(stored.id, enabled=False)
    await world.jobs.edit(stored.id, enabled=True)

    assert (await world.jobs.row(stored.id)).snoozed_until is None
    assert isinstance(await _next(world, stored), Granted)


async def test_a_snooze_stops_neither_the_next_attempt_nor_a_manual_run(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *")
    claim_request = world.runs.claim_request(stored)
    running = await world.runs.running(claim_request)
    await _put_off(
        world,
        stored,
        snoozed_until=claim_request.due + 48 * HOUR,
        skips=[claim_request.due.isoformat()],
    )
    until = world.clock.now() + SECOND
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, running.run_id, running.fence, failed, until)
    world.clock.set(until)

    assert isinstance(await world.runs.claim(claim_request), Granted)
    row = await claims.request(world.ledger, stored, "1", "manual")
    assert not isinstance(await world.runs.claim(row), Granted)  # one run is active
    assert (await world.runs.rows())[-1].reason.startswith("overlap: ")


def test_stagger_offsets_are_stable_and_spread() -> None:
    five = timedelta(minutes=5)
    offsets = [upcoming.stagger_offset(f"{job:032x}", five) for job in range(400)]
    assert offsets == [upcoming.stagger_offset(f"{job:032x}", five) for job in range(400)]
    assert min(offsets) >= timedelta(0)
    assert max(offsets) <= five
    assert len(set(offsets)) > 150
    assert upcoming.stagger_offset("a", None) == timedelta(0)


async def _staggered(world: World, **fields: Any) -> tuple[StoredJob, timedelta]:
    """Add a job whose stagger delays its runs by over two seconds; return it and the delay."""
    for number in range(20):
        given = {"cron": "0 * * * *", "stagger": "10m", **fields}
        stored = await world.jobs.add(f"job-{number}", **given)
        later = upcoming.stagger_offset(stored.id, timedelta(minutes=10))
        if later > 2 * SECOND:
            return stored, later
    raise AssertionError


async def test_a_staggered_run_waits_without_a_slot_and_keeps_its_due_time(world: World) -> None:
    stored, later = await _staggered(world)
    claim_request = world.runs.claim_request(stored, most=1)
    other = world.runs.claim_request(await world.jobs.add("other"), most=1)
    world.clock.set(claim_request.due)

    answer = await world.runs.claim(claim_request)

    assert isinstance(answer, Waiting)
    assert answer.until == claim_request.due + later
    assert answer.why.startswith("staggered by ")
    row = await world.runs.row(str(answer.run_id))
    assert (row.status, row.waits_for, row.due) == ("waiting", "stagger", claim_request.due)
    assert isinstance(await world.runs.claim(other), Granted)  # the one slot is free for others
    world.clock.set(answer.until - SECOND)
    again = await world.runs.claim(claim_request)
    assert isinstance(again, Waiting)
    assert again.until == answer.until


async def test_a_staggered_run_is_claimed_for_its_nominal_due_time(world: World) -> None:
    stored, later = await _staggered(world)
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due)
    await world.runs.claim(claim_request)
    world.clock.set(claim_request.due + later)

    granted = await world.runs.claim(claim_request)

    assert isinstance(granted, Granted)
    assert (granted.due, granted.trigger) == (claim_request.due, "schedule")


async def test_lateness_and_deadline_count_from_the_staggered_time(world: World) -> None:
    stored, later = await _staggered(world, deadline="1m", catch_up="none")
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due + later + timedelta(seconds=60))
    assert isinstance(await world.runs.claim(claim_request), Granted)

    stored, later = await _staggered_again(world, "1m")
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due)
    await world.runs.claim(claim_request)
    world.clock.set(claim_request.due + later + timedelta(seconds=59))
    assert isinstance(await world.runs.claim(claim_request), Granted)


async def test_a_staggered_run_that_is_claimed_hours_late_is_missed(world: World) -> None:
    """The worker claims at the due time, and then the machine sleeps."""
    stored, later = await _staggered(world, catch_up="none")
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due)
    assert isinstance(await world.runs.claim(claim_request), Waiting)
    world.clock.set(claim_request.due + later + timedelta(minutes=30))
    late = await world.runs.claim(claim_request)
    assert isinstance(late, Finished)
    assert late.status is Status.MISSED


async def _staggered_again(world: World, deadline: str) -> tuple[StoredJob, timedelta]:
    for number in range(20, 40):
        stored = await world.jobs.add(
            f"job-{number}", cron="0 * * * *", stagger="10m", deadline=deadline
        )
        later = upcoming.stagger_offset(stored.id, timedelta(minutes=10))
        if later > timedelta(minutes=2):
            return stored, later
    raise AssertionError


async def test_a_run_61_seconds_after_its_staggered_time_is_missed(world: World) -> None:
    stored, later = await _staggered(world, catch_up="none")
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due + later + timedelta(seconds=61))

    answer = await world.runs.claim(claim_request)

    assert isinstance(answer, Finished)
    assert answer.status is Status.MISSED


async def test_a_run_that_waits_for_its_stagger_does_not_overlap_with_the_next(
    world: World,
) -> None:
    stored, later = await _staggered(world, cron="* * * * *", overlap="queue_all")
    first, second = world.runs.claim_request(stored), None
    world.clock.set(first.due)
    await world.runs.claim(first)
    second = world.runs.claim_request(stored)
    world.clock.set(second.due)
    await world.runs.claim(second)

    world.clock.set(first.due + later)
    assert isinstance(await world.runs.claim(first), Granted)
    waits = await world.runs.claim(second)
    assert isinstance(waits, Waiting)
    assert waits.until == second.due + later
