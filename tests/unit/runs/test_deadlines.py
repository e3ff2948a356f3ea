"""A run's deadline while it waits (requirement 11), as the claim and the keeper enforce it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from daybook.jobs.store import StoredJob
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.runs import claims, leases
from daybook.runs.claim_requests import Finished, Granted, Waiting
from tests.world import World

pytestmark = pytest.mark.anyio

MICROSECOND = timedelta(microseconds=1)
WHY = "the deadline of 2h passed while it waited"


async def _request_run(world: World, **fields: Any) -> tuple[StoredJob, RunRow]:
    fields = {"every": "1h", "deadline": "2h"} | fields
    stored = await world.jobs.add(**fields)
    row = await claims.request(world.ledger, stored, "1", "manual")
    return stored, row


async def test_a_run_is_claimed_until_just_before_its_deadline(world: World) -> None:
    _, row = await _request_run(world)
    world.clock.move(timedelta(hours=2) - MICROSECOND)

    answer = await world.runs.claim(row)

    assert isinstance(answer, Granted)
    assert answer.queued_at == row.queued_at


async def test_a_claim_at_the_deadline_times_the_run_out(world: World) -> None:
    stored, row = await _request_run(world)
    world.clock.move(timedelta(hours=2))

    claim_request = world.runs.claim_request(row)
    answer = await world.runs.claim(claim_request)

    assert answer == Finished(Status.TIMED_OUT, WHY, row.id, claim_request.flow_run_id)
    found = await world.runs.row(row.id)
    assert (found.status, found.finished_at, found.attempts) == ("timed_out", world.clock.now(), 0)
    assert found.unmirrored
    job = await world.jobs.row(stored.id)
    assert (job.last_status, job.last_error, job.consecutive_failures) == ("timed_out", WHY, 1)


async def test_a_claim_times_out_a_run_that_waits_for_its_next_attempt(world: World) -> None:
    stored, row = await _request_run(world)
    granted = await world.runs.running(row)
    until = world.clock.now() + timedelta(hours=5)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, granted.run_id, granted.fence, failed, until)
    assert isinstance(await world.runs.claim(row), Waiting)
    world.clock.move(timedelta(hours=2))

    assert isinstance(await world.runs.claim(row), Finished)

    # The outcome of the attempt is not overwritten.
    (attempt,) = await world.runs.attempts(row.id)
    assert (attempt.status, attempt.error) == ("failed", "429")
    assert (await world.jobs.row(stored.id)).run_count == 1


async def test_the_keeper_times_out_a_waiting_run_at_its_deadline(world: World) -> None:
    stored, row = await _request_run(world)
    others = [
        await claims.request(world.ledger, await world.jobs.add(name, **fields), "1", "manual")
        for name, fields in {
            "none": {"every": "1h"},
            "longer": {"every": "1h", "deadline": "2h1s"},
            "edited": {"every": "1h", "deadline": "3h"},
        }.items()
    ]
    await world.jobs.edit(str(others[2].job_id), deadline="1h")  # applies to later runs only
    world.clock.move(timedelta(hours=2) - MICROSECOND)
    assert await leases.expire_all(world.ledger) == []
    world.clock.move(MICROSECOND)

    (changed,) = await leases.expire_all(world.ledger)

    assert (changed.id, changed.status, changed.reason) == (row.id, "timed_out", WHY)
    assert (await world.runs.row(row.id)).status == "timed_out"
    assert [(await world.runs.row(each.id)).status for each in others] == ["waiting"] * 3
    assert (await world.jobs.row(stored.id)).last_status == "timed_out"
    assert await leases.expire_all(world.ledger) == []


async def test_expire_all_times_out_the_oldest_runs_up_to_its_limit(world: World) -> None:
    stored = await world.jobs.add(every="1h", deadline="2h")
    rows = []
    for number in range(3):
        rows.append(await claims.request(world.ledger, stored, str(number), "manual"))
        world.clock.move(timedelta(seconds=1))
    world.clock.move(timedelta(hours=2))

    assert {each.id for each in await leases.expire_all(world.ledger, limit=2)} == {
        rows[0].id,
        rows[1].id,
    }
    assert [each.id for each in await leases.expire_all(world.ledger)] == [rows[2].id]


async def test_the_keeper_does_not_time_out_a_run_that_a_process_holds(world: World) -> None:
    _, row = await _request_run(world)
    granted = await world.runs.running(row)
    for _ in range(4 * 60):
        world.clock.move(timedelta(seconds=30))
        assert await leases.renew(world.ledger, granted.run_id, granted.fence)

    assert await leases.expire_all(world.ledger) == []
    assert await world.runs.finish(granted, Status.SUCCEEDED) is Status.SUCCEEDED


async def test_a_row_with_an_invalid_policy_has_no_deadline(world: World) -> None:
    _, row = await _request_run(world)
    async with world.ledger.write() as session:
        row.parameters = {"prompt": "x", "policy": {"deadline": "soon"}}
        session.add(row)
    world.clock.move(timedelta(days=3))

    assert await leases.expire_all(world.ledger) == []


async def test_a_finished_run_keeps_its_outcome_after_its_deadline(world: World) -> None:
    _, row = await _request_run(world)
    await world.runs.finished(row, Status.SUCCEEDED)
    world.clock.move(timedelta(hours=3))

    assert await leases.expire_all(world.ledger) == []

    answer = await world.runs.claim(row)
    assert isinstance(answer, Finished)
    assert answer.status is Status.SUCCEEDED
