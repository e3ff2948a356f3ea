"""What a run's end makes of its job: off after failures, removed after its one run."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from daybook.jobs import store
from daybook.ledger.states import Outcome, Status
from daybook.runs import claims
from daybook.runs.claim_requests import Finished, Granted
from tests.world import World

pytestmark = pytest.mark.anyio


async def test_after_ten_failures_in_a_row_it_is_off_and_says_why(world: World) -> None:
    stored = await world.add(every="10m")
    for _ in range(9):
        await world.settled(world.offer(stored), Status.FAILED, error="429\nand more")
        assert (await world.job(stored.id)).job.enabled

    await world.settled(world.offer(stored), Status.TIMED_OUT, error="no end within 30m")

    after = await world.job(stored.id)
    assert not after.job.enabled
    assert after.row.disabled_reason == (
        "paused after 10 failures in a row, last error: no end within 30m"
    )
    assert after.row.sync_pending  # Prefect is to be told
    offer = world.offer(stored)
    world.clock.set(offer.due)
    ended = await world.claim(replace(offer, compared=True))
    assert isinstance(ended, Finished)
    assert ended.reason == "not due"


async def test_a_success_begins_the_count_anew(world: World) -> None:
    stored = await world.add(every="10m", pause_after_failures=2)
    for status in (Status.FAILED, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED):
        await world.settled(world.offer(stored), status)

    after = await world.job(stored.id)
    assert (after.job.enabled, after.row.consecutive_failures) == (True, 1)


async def test_switched_on_again_it_has_all_its_failures_before_it(world: World) -> None:
    stored = await world.add(every="10m", pause_after_failures=2)
    for _ in range(2):
        await world.settled(world.offer(stored), Status.FAILED, error="no")
    assert (await world.job_row(stored.id)).disabled_reason == (
        "paused after 2 failures in a row, last error: no"
    )

    again = await world.edit(stored.id, enabled=True)
    assert (again.row.consecutive_failures, again.row.disabled_reason) == (0, "")
    await world.settled(world.offer(stored), Status.FAILED)
    assert (await world.job(stored.id)).job.enabled
    await world.settled(world.offer(stored), Status.FAILED)
    assert not (await world.job(stored.id)).job.enabled


async def test_none_is_never(world: World) -> None:
    stored = await world.add(every="10m", pause_after_failures=0)
    for _ in range(12):
        await world.settled(world.offer(stored), Status.FAILED)
    assert (await world.job(stored.id)).job.enabled


async def test_an_unknown_counts_until_it_is_withdrawn(world: World) -> None:
    stored = await world.add(every="10m", pause_after_failures=3)
    await world.settled(world.offer(stored), Status.FAILED)
    lost = await world.begun(world.offer(stored))
    await claims.holder_died(world.ledger, lost.run_id, lost.fence, "killed")
    assert (await world.job_row(stored.id)).consecutive_failures == 2
    await world.edit(stored.id, enabled=False)
    world.clock.move(timedelta(seconds=1))
    await world.edit(stored.id, enabled=True)
    await world.settled(world.offer(stored), Status.FAILED)

    await world.settle(lost, Status.FAILED, error="late")

    # Those before it was switched on count no more, also where they are counted afresh.
    row = await world.job_row(stored.id)
    assert (row.consecutive_failures, row.disabled_reason) == (2, "")


async def test_by_hand_a_failing_job_runs_and_stays_off(world: World) -> None:
    stored = await world.add(every="10m", pause_after_failures=1)
    await world.settled(world.offer(stored), Status.FAILED, error="first")
    row = await claims.request(world.ledger, stored, "1", "manual")
    await world.settled(world.offer_of(row), Status.FAILED, error="second")

    after = await world.job(stored.id)
    assert not after.job.enabled
    assert after.row.disabled_reason == "paused after 1 failures in a row, last error: first"


async def _once(world: World, **fields: Any) -> str:
    at = world.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    return (await world.add("once", at=at.isoformat(), **fields)).id


async def test_a_one_time_job_is_removed_when_its_run_has_succeeded(world: World) -> None:
    job_id = await _once(world, delete_after_run=True)
    offer = world.offer(await world.job(job_id))

    granted = await world.settled(offer, Status.SUCCEEDED, output="done")

    after = await world.job(job_id)
    assert (after.row.archived_at, after.row.sync_pending) == (world.clock.now(), True)
    assert (await world.row(granted.run_id)).output == "done"
    async with world.ledger.read() as session:
        assert "once" not in await store.taken_names(session, "user")
    told = await world.claim(replace(offer, flow_run_id="another"))
    assert isinstance(told, Finished)
    assert told.status is Status.SUCCEEDED


@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED, Status.TIMED_OUT])
async def test_one_that_did_not_succeed_stays_off_with_its_error(
    world: World, status: Status
) -> None:
    job_id = await _once(world, delete_after_run=True)

    await world.settled(world.offer(await world.job(job_id)), status, error="no")

    after = await world.job(job_id)
    assert (after.row.archived_at, after.job.enabled) == (None, False)
    assert after.row.disabled_reason == f"fired, {status}"


async def test_it_is_removed_by_its_due_run_and_by_no_other(world: World) -> None:
    job_id = await _once(world, delete_after_run=True)
    by_hand = await claims.request(world.ledger, await world.job(job_id), "1", "manual")

    await world.settled(world.offer_of(by_hand), Status.SUCCEEDED)

    assert (await world.job(job_id)).job.enabled


async def test_a_late_success_removes_it_too(world: World) -> None:
    job_id = await _once(world, delete_after_run=True)
    granted = await world.granted(world.offer(await world.job(job_id)))
    assert isinstance(granted, Granted)
    await claims.begin(world.ledger, granted.run_id, granted.fence)
    await claims.holder_died(world.ledger, granted.run_id, granted.fence, "killed")
    assert (await world.job_row(job_id)).disabled_reason == "fired, unknown"

    done = Outcome(Status.SUCCEEDED)
    await claims.finish(world.ledger, granted.run_id, granted.fence, done)

    assert (await world.job_row(job_id)).archived_at is not None
