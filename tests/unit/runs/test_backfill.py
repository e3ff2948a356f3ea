"""Requirement 25: due times of the past, asked for by hand, behind all that is scheduled."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from daybook.jobs.store import StoredJob
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.runs import backfill, claims, leases, slots, waiting_runs
from daybook.runs.claim_requests import Finished, Granted, Waiting
from tests.world import World

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


def _past(world: World, count: int) -> list[datetime]:
    noon = world.clock.now().replace(microsecond=0)
    return [noon - place * HOUR for place in range(count, 0, -1)]


async def _asked(world: World, count: int, **fields: object) -> tuple[StoredJob, list[RunRow]]:
    stored = await world.add(**({"cron": "0 * * * *"} | fields))  # type: ignore[arg-type]
    assert await backfill.request_runs(world.ledger, stored, _past(world, count)) == count
    return stored, await world.rows()


async def test_each_is_a_waiting_run_of_its_due_time(world: World) -> None:
    stored, rows = await _asked(world, 3)

    assert [row.due for row in rows] == _past(world, 3)
    assert {(row.status, row.trigger, row.until) for row in rows} == {
        ("waiting", "backfill", world.clock.now())
    }
    assert rows[0].occurrence == f"request:{stored.id}:backfill-2026-01-15T09:00:00Z"
    granted = await world.granted(world.offer_of(rows[0]))
    assert (granted.due, granted.trigger) == (_past(world, 3)[0], "backfill")


async def test_the_same_again_asks_for_nothing_twice(world: World) -> None:
    stored, rows = await _asked(world, 3)
    assert await backfill.request_runs(world.ledger, stored, _past(world, 4)) == 1
    await world.settled(world.offer_of(rows[0]), Status.FAILED)

    assert await backfill.request_runs(world.ledger, stored, _past(world, 4)) == 0
    assert len(await world.rows()) == 4


async def test_what_succeeded_by_schedule_is_left_out(world: World) -> None:
    stored = await world.add(cron="0 * * * *")
    done, failed = world.offer(stored), None
    await world.settled(done, Status.SUCCEEDED)
    failed = world.offer(stored)
    await world.settled(failed, Status.FAILED)
    world.clock.move(HOUR)

    async with world.ledger.read() as session:
        known = await backfill.known_statuses(session, stored.id, [done.due, failed.due])
    assert known == {done.due: Status.SUCCEEDED, failed.due: Status.FAILED}
    assert await backfill.request_runs(world.ledger, stored, [done.due, failed.due]) == 1


@pytest.mark.parametrize("overlap", ["skip", "queue_one", "cancel_running"])
async def test_they_run_one_after_the_other_oldest_first(world: World, overlap: str) -> None:
    _, rows = await _asked(world, 3, overlap=overlap)
    first, second, third = map(world.offer_of, rows)
    running = await world.begun(first)
    assert isinstance(await world.claim(third), Waiting)
    assert isinstance(await world.claim(second), Waiting)

    await world.settle(running, Status.SUCCEEDED)

    assert isinstance(await world.claim(third), Waiting)
    assert isinstance(await world.claim(second), Granted)


async def test_what_is_due_meanwhile_waits_for_one_of_them_only(world: World) -> None:
    """It is neither skipped for them nor behind all of them."""
    stored, rows = await _asked(world, 3)
    running = await world.begun(world.offer_of(rows[0]))
    for row in rows[1:]:
        assert isinstance(await world.claim(world.offer_of(row)), Waiting)
    offer = world.offer(stored)
    # Alive: its lease was renewed all the time.
    world.clock.set(offer.due - timedelta(seconds=10))

    await leases.renew(world.ledger, running.run_id, running.fence)
    world.clock.set(offer.due)
    assert isinstance(await world.claim(offer), Waiting)
    await world.settle(running, Status.SUCCEEDED)

    async with world.ledger.read() as session:
        woken = await slots.next_up(session, world.clock.now(), 4, {})
    assert [row.due for row in woken] == [offer.due]
    assert isinstance(await world.claim(world.offer_of(rows[1])), Waiting)
    assert isinstance(await world.claim(offer), Granted)


async def test_a_free_slot_goes_to_what_is_scheduled_first(world: World) -> None:
    _, rows = await _asked(world, 1)
    blocker, other = await world.add("blocker"), await world.add("other")
    held = await world.begun(world.offer(blocker, most=1))
    behind = world.offer_of(rows[0], most=1)
    scheduled = world.offer(other, due=world.clock.now(), most=1)
    assert isinstance(await world.claim(behind), Waiting)
    assert isinstance(await world.claim(scheduled), Waiting)
    await world.settle(held, Status.SUCCEEDED)

    assert isinstance(await world.claim(behind), Waiting)
    assert isinstance(await world.claim(scheduled), Granted)


async def test_a_scheduled_run_has_its_prefect_run_before_them(world: World) -> None:
    """Ten of a job have one at once: a thousand of the past must not take all places."""
    stored, _ = await _asked(world, 30)
    row = await claims.request(world.ledger, stored, "now", "manual")

    async with world.ledger.read() as session:
        first = await waiting_runs.needing_prefect_run(session, world.clock.now())

    assert len(first) == 10
    assert first[0].id == row.id
    assert [each.due for each in first[1:]] == _past(world, 30)[:9]


async def test_its_deadline_counts_from_its_turn(world: World) -> None:
    _, rows = await _asked(world, 1, deadline="1h")
    world.clock.move(48 * HOUR)
    async with world.ledger.read() as session:
        assert await waiting_runs.ids_past_deadline(session, world.clock.now(), 10) == []

    granted = await world.claim(world.offer_of(rows[0]))

    assert isinstance(granted, Granted)
    assert granted.queued_at == world.clock.now()


async def test_a_job_that_is_switched_off_runs_no_more_of_them(world: World) -> None:
    stored, rows = await _asked(world, 2)
    await world.edit(stored.id, enabled=False)

    answer = await world.claim(world.offer_of(rows[0]))

    assert isinstance(answer, Finished)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "the job is off: disabled")


async def test_a_job_that_allows_it_runs_them_beside_each_other(world: World) -> None:
    _, rows = await _asked(world, 3, overlap="allow", session="new")
    answers = [await world.claim(world.offer_of(row, most=2)) for row in rows]
    assert [type(each) for each in answers] == [Granted, Granted, Waiting]
