"""Requirement 25: backfills of past due times, requested by hand, run after scheduled runs."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from daybook.jobs.store import StoredJob
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.runs import audit, backfill, claims, leases, slots, waiting_runs
from daybook.runs.claim_requests import Finished, Granted, Waiting
from tests.world import World

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


def _past(world: World, count: int) -> list[datetime]:
    noon = world.clock.now().replace(microsecond=0)
    return [noon - place * HOUR for place in range(count, 0, -1)]


async def _backfilled(world: World, count: int, **fields: object) -> tuple[StoredJob, list[RunRow]]:
    stored = await world.jobs.add(**({"cron": "0 * * * *"} | fields))  # type: ignore[arg-type]
    assert await backfill.request_runs(world.ledger, stored, _past(world, count)) == count
    return stored, await world.runs.rows()


async def test_a_backfill_creates_one_waiting_run_per_due_time(world: World) -> None:
    stored, rows = await _backfilled(world, 3)

    assert [row.due for row in rows] == _past(world, 3)
    assert {(row.status, row.trigger, row.until) for row in rows} == {
        ("waiting", "backfill", world.clock.now())
    }
    assert rows[0].occurrence == f"request:{stored.id}:backfill-2026-01-15T09:00:00Z"
    granted = await world.runs.claimed(rows[0])
    assert (granted.due, granted.trigger) == (_past(world, 3)[0], "backfill")


async def test_a_repeated_backfill_requests_only_the_new_due_times(world: World) -> None:
    stored, rows = await _backfilled(world, 3)
    assert await backfill.request_runs(world.ledger, stored, _past(world, 4)) == 1
    await world.runs.finished(rows[0], Status.FAILED)

    assert await backfill.request_runs(world.ledger, stored, _past(world, 4)) == 0
    assert len(await world.runs.rows()) == 4


async def test_a_backfill_leaves_out_due_times_that_succeeded(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *")
    done, failed = world.runs.claim_request(stored), None
    await world.runs.finished(done, Status.SUCCEEDED)
    failed = world.runs.claim_request(stored)
    await world.runs.finished(failed, Status.FAILED)
    world.clock.move(HOUR)

    async with world.ledger.read() as session:
        known = await backfill.known_statuses(session, stored.id, [done.due, failed.due])
    assert known == {done.due: Status.SUCCEEDED, failed.due: Status.FAILED}
    assert await backfill.request_runs(world.ledger, stored, [done.due, failed.due]) == 1


@pytest.mark.parametrize("overlap", ["skip", "queue_one", "cancel_running"])
async def test_backfill_runs_run_one_at_a_time_oldest_first(world: World, overlap: str) -> None:
    _, rows = await _backfilled(world, 3, overlap=overlap)
    first, second, third = map(world.runs.claim_request, rows)
    running = await world.runs.running(first)
    assert isinstance(await world.runs.claim(third), Waiting)
    assert isinstance(await world.runs.claim(second), Waiting)

    await world.runs.finish(running, Status.SUCCEEDED)

    assert isinstance(await world.runs.claim(third), Waiting)
    assert isinstance(await world.runs.claim(second), Granted)


async def test_a_scheduled_run_waits_only_for_the_active_backfill_run(world: World) -> None:
    """Check that it is not skipped, and that it runs before the other backfill runs."""
    stored, rows = await _backfilled(world, 3)
    running = await world.runs.running(rows[0])
    for row in rows[1:]:
        assert isinstance(await world.runs.claim(row), Waiting)
    claim_request = world.runs.claim_request(stored)
    # The holder is alive: it renews its lease just before the due time.
    world.clock.set(claim_request.due - timedelta(seconds=10))

    await leases.renew(world.ledger, running.run_id, running.fence)
    world.clock.set(claim_request.due)
    assert isinstance(await world.runs.claim(claim_request), Waiting)
    await world.runs.finish(running, Status.SUCCEEDED)

    async with world.ledger.read() as session:
        woken = await slots.next_up(session, world.clock.now(), 4, {})
    assert [row.due for row in woken] == [claim_request.due]
    assert isinstance(await world.runs.claim(rows[1]), Waiting)
    assert isinstance(await world.runs.claim(claim_request), Granted)


async def test_a_free_slot_goes_to_a_scheduled_run_before_a_backfill_run(world: World) -> None:
    _, rows = await _backfilled(world, 1)
    blocker, other = await world.jobs.add("blocker"), await world.jobs.add("other")
    held = await world.runs.running(world.runs.claim_request(blocker, most=1))
    behind = world.runs.claim_request(rows[0], most=1)
    scheduled = world.runs.claim_request(other, due=world.clock.now(), most=1)
    assert isinstance(await world.runs.claim(behind), Waiting)
    assert isinstance(await world.runs.claim(scheduled), Waiting)
    await world.runs.finish(held, Status.SUCCEEDED)

    assert isinstance(await world.runs.claim(behind), Waiting)
    assert isinstance(await world.runs.claim(scheduled), Granted)


async def test_a_manual_run_needs_its_prefect_run_before_backfill_runs_do(world: World) -> None:
    """Only ten runs of a job get Prefect runs; a thousand backfill runs must not take all ten."""
    stored, _ = await _backfilled(world, 30)
    row = await claims.request(world.ledger, stored, "now", "manual")

    async with world.ledger.read() as session:
        first = await waiting_runs.needing_prefect_run(session)

    assert len(first) == 10
    assert first[0].id == row.id
    assert [each.due for each in first[1:]] == _past(world, 30)[:9]


async def test_the_deadline_of_a_backfill_run_counts_from_its_claim(world: World) -> None:
    _, rows = await _backfilled(world, 1, deadline="1h")
    world.clock.move(48 * HOUR)
    async with world.ledger.read() as session:
        assert await waiting_runs.ids_past_deadline(session, world.clock.now(), 10) == []

    granted = await world.runs.claim(rows[0])

    assert isinstance(granted, Granted)
    assert granted.queued_at == world.clock.now()


async def test_a_backfill_run_of_a_disabled_job_is_skipped(world: World) -> None:
    stored, rows = await _backfilled(world, 2)
    await world.jobs.edit(stored.id, enabled=False)

    answer = await world.runs.claim(rows[0])

    assert isinstance(answer, Finished)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "the job is disabled")


async def test_backfill_runs_of_a_job_with_overlap_allow_run_in_parallel(world: World) -> None:
    _, rows = await _backfilled(world, 3, overlap="allow", session="new")
    answers = [await world.runs.claim(world.runs.claim_request(row, most=2)) for row in rows]
    assert [type(each) for each in answers] == [Granted, Granted, Waiting]


@pytest.mark.parametrize(("catch_up", "requested"), [("all", 2), ("latest", 6), ("none", 7)])
async def test_a_due_time_whose_run_may_still_catch_up_is_not_backfilled(
    world: World, catch_up: str, requested: int
) -> None:
    """`up` was off for hours, and the backfill comes before the first audit."""
    stored = await world.jobs.add(cron="0 * * * *", catch_up=catch_up, overlap="allow")
    noon = world.clock.now().replace(microsecond=0)
    world.clock.move(5 * HOUR + timedelta(minutes=20))
    due_times = [noon + hours * HOUR for hours in range(-1, 6)]
    assert await backfill.request_runs(world.ledger, stored, due_times) == requested
    await audit.advance(world.ledger, stored.id, world.clock.now())
    rows = [row for row in await world.runs.rows() if row.state is Status.WAITING]
    assert len({row.due for row in rows}) == len(rows) == 7
