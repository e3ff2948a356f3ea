"""Requirement 61, and stagger: due times that are skipped, snoozed, or begin a little later."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from daybook.api import views
from daybook.jobs import upcoming
from daybook.jobs.store import StoredJob
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
    offer = world.offer(stored)
    world.clock.set(offer.due)
    answer = await world.claim(offer)
    if isinstance(answer, Granted):
        await claims.begin(world.ledger, answer.run_id, answer.fence)
        await world.settle(answer, Status.SUCCEEDED)
    return answer


async def test_the_next_is_skipped_and_has_its_row(world: World) -> None:
    stored = await world.add(cron="0 * * * *")
    due = world.offer(stored).due
    await _put_off(world, stored, skips=[due.isoformat()])
    shown = views.due_of_job(await world.job(stored.id), world.clock.now(), 2)
    assert shown[0]["utc"] == views.utc_text(due + HOUR)

    told = await _next(world, stored)
    assert isinstance(told, Finished)
    assert (told.status, told.reason) == (Status.SKIPPED, "skipped by hand")
    await _next(world, stored)

    rows = await world.rows()
    assert [(row.due, row.status) for row in rows] == [
        (due, "skipped"),
        (due + HOUR, "succeeded"),
    ]


async def test_snoozed_until_an_instant_at_which_it_runs(world: World) -> None:
    stored = await world.add(cron="0 * * * *")
    first = world.offer(stored).due
    await _put_off(world, stored, snoozed_until=first + 2 * HOUR)
    shown = views.due_of_job(await world.job(stored.id), world.clock.now(), 1)
    assert shown[0]["utc"] == views.utc_text(first + 2 * HOUR)

    answers = [await _next(world, stored) for _ in range(3)]

    assert [row.status for row in await world.rows()] == ["skipped", "skipped", "succeeded"]
    assert isinstance(answers[0], Finished)
    assert answers[0].reason == "snoozed until 2026-01-15 15:00:00 UTC"


async def test_switched_off_and_on_it_is_awake(world: World) -> None:
    stored = await world.add(cron="0 * * * *")
    await _put_off(world, stored, snoozed_until=world.clock.now() + 48 * HOUR)
    await world.edit(stored.id, enabled=False)
    await world.edit(stored.id, enabled=True)

    assert (await world.job_row(stored.id)).snoozed_until is None
    assert isinstance(await _next(world, stored), Granted)


async def test_by_hand_and_between_its_attempts_a_run_goes_on(world: World) -> None:
    stored = await world.add(cron="0 * * * *")
    offer = world.offer(stored)
    running = await world.begun(offer)
    await _put_off(
        world, stored, snoozed_until=offer.due + 48 * HOUR, skips=[offer.due.isoformat()]
    )
    until = world.clock.now() + SECOND
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, running.run_id, running.fence, failed, until)
    world.clock.set(until)

    assert isinstance(await world.claim(offer), Granted)
    row = await claims.request(world.ledger, stored, "1", "manual")
    assert not isinstance(await world.claim(world.offer_of(row)), Granted)  # one is at work
    assert (await world.rows())[-1].reason.startswith("overlap: ")


def test_an_offset_is_stable_and_spread() -> None:
    five = timedelta(minutes=5)
    offsets = [upcoming.stagger_offset(f"{job:032x}", five) for job in range(400)]
    assert offsets == [upcoming.stagger_offset(f"{job:032x}", five) for job in range(400)]
    assert min(offsets) >= timedelta(0)
    assert max(offsets) <= five
    assert len(set(offsets)) > 150
    assert upcoming.stagger_offset("a", None) == timedelta(0)


async def _staggered(world: World, **fields: Any) -> tuple[StoredJob, timedelta]:
    """A job with a stagger that does put its runs off."""
    for number in range(20):
        given = {"cron": "0 * * * *", "stagger": "10m", **fields}
        stored = await world.add(f"job-{number}", **given)
        later = upcoming.stagger_offset(stored.id, timedelta(minutes=10))
        if later > 2 * SECOND:
            return stored, later
    raise AssertionError


async def test_staggered_it_waits_without_a_slot_and_is_due_when_it_was(world: World) -> None:
    stored, later = await _staggered(world)
    offer = world.offer(stored, most=1)
    other = world.offer(await world.add("other"), most=1)
    world.clock.set(offer.due)

    answer = await world.claim(offer)

    assert isinstance(answer, Waiting)
    assert answer.until == offer.due + later
    assert answer.why.startswith("staggered by ")
    row = await world.row(str(answer.run_id))
    assert (row.status, row.waits_for, row.due) == ("waiting", "", offer.due)
    assert isinstance(await world.claim(other), Granted)  # the one slot is free for others
    world.clock.set(answer.until - SECOND)
    again = await world.claim(offer)
    assert isinstance(again, Waiting)
    assert again.until == answer.until


async def test_after_its_stagger_it_runs_for_its_nominal_due_time(world: World) -> None:
    stored, later = await _staggered(world)
    offer = world.offer(stored)
    world.clock.set(offer.due)
    await world.claim(offer)
    world.clock.set(offer.due + later)

    granted = await world.claim(offer)

    assert isinstance(granted, Granted)
    assert (granted.due, granted.trigger) == (offer.due, "schedule")


async def test_lateness_and_deadline_count_from_the_staggered_time(world: World) -> None:
    stored, later = await _staggered(world, deadline="1m", catch_up="none")
    offer = world.offer(stored)
    world.clock.set(offer.due + later + timedelta(seconds=60))
    assert isinstance(await world.claim(offer), Granted)

    stored, later = await _staggered_again(world, "1m")
    offer = world.offer(stored)
    world.clock.set(offer.due)
    await world.claim(offer)
    world.clock.set(offer.due + later + timedelta(seconds=59))
    assert isinstance(await world.claim(offer), Granted)


async def _staggered_again(world: World, deadline: str) -> tuple[StoredJob, timedelta]:
    for number in range(20, 40):
        stored = await world.add(
            f"job-{number}", cron="0 * * * *", stagger="10m", deadline=deadline
        )
        later = upcoming.stagger_offset(stored.id, timedelta(minutes=10))
        if later > timedelta(minutes=2):
            return stored, later
    raise AssertionError


async def test_staggered_a_minute_and_a_second_late_is_late(world: World) -> None:
    stored, later = await _staggered(world, catch_up="none")
    offer = world.offer(stored)
    world.clock.set(offer.due + later + timedelta(seconds=61))

    answer = await world.claim(offer)

    assert isinstance(answer, Finished)
    assert answer.status is Status.MISSED


async def test_the_next_due_time_does_not_overlap_with_one_that_is_staggered(world: World) -> None:
    stored, later = await _staggered(world, cron="* * * * *", overlap="queue_all")
    first, second = world.offer(stored), None
    world.clock.set(first.due)
    await world.claim(first)
    second = world.offer(stored)
    world.clock.set(second.due)
    await world.claim(second)

    world.clock.set(first.due + later)
    assert isinstance(await world.claim(first), Granted)
    waits = await world.claim(second)
    assert isinstance(waits, Waiting)
    assert waits.until == second.due + later
