"""Effects of an outcome on its job: disabled after failures, removed after its one run."""

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


async def test_a_job_is_disabled_with_a_reason_after_ten_failures_in_a_row(world: World) -> None:
    stored = await world.jobs.add(every="10m")
    for _ in range(9):
        await world.runs.finished(stored, Status.FAILED, error="429\nand more")
        assert (await world.jobs.get(stored.id)).job.enabled

    await world.runs.finished(stored, Status.TIMED_OUT, error="no end within 30m")

    after = await world.jobs.get(stored.id)
    assert not after.job.enabled
    assert after.row.disabled_reason == (
        "paused after 10 failures in a row, last error: no end within 30m"
    )
    assert after.row.sync_pending  # Prefect has yet to be updated
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due)
    ended = await world.runs.claim(replace(claim_request, compared=True))
    assert isinstance(ended, Finished)
    assert ended.reason == "not due"


async def test_a_success_resets_the_count_of_failures(world: World) -> None:
    stored = await world.jobs.add(every="10m", pause_after_failures=2)
    for status in (Status.FAILED, Status.SUCCEEDED, Status.FAILED, Status.CANCELLED):
        await world.runs.finished(stored, status)

    after = await world.jobs.get(stored.id)
    assert (after.job.enabled, after.row.consecutive_failures) == (True, 1)


async def test_enabling_a_job_resets_its_count_of_failures(world: World) -> None:
    stored = await world.jobs.add(every="10m", pause_after_failures=2)
    for _ in range(2):
        await world.runs.finished(stored, Status.FAILED, error="no")
    assert (await world.jobs.row(stored.id)).disabled_reason == (
        "paused after 2 failures in a row, last error: no"
    )

    again = await world.jobs.edit(stored.id, enabled=True)
    assert (again.row.consecutive_failures, again.row.disabled_reason) == (0, "")
    await world.runs.finished(stored, Status.FAILED)
    assert (await world.jobs.get(stored.id)).job.enabled
    await world.runs.finished(stored, Status.FAILED)
    assert not (await world.jobs.get(stored.id)).job.enabled


async def test_pause_after_failures_of_zero_never_disables_the_job(world: World) -> None:
    stored = await world.jobs.add(every="10m", pause_after_failures=0)
    for _ in range(12):
        await world.runs.finished(stored, Status.FAILED)
    assert (await world.jobs.get(stored.id)).job.enabled


async def test_a_recount_after_a_late_failure_starts_when_the_job_was_enabled(world: World) -> None:
    stored = await world.jobs.add(every="10m", pause_after_failures=3)
    await world.runs.finished(stored, Status.FAILED)
    lost = await world.runs.running(stored)
    await claims.holder_died(world.ledger, lost.run_id, lost.fence, "killed")
    assert (await world.jobs.row(stored.id)).consecutive_failures == 2
    await world.jobs.edit(stored.id, enabled=False)
    world.clock.move(timedelta(seconds=1))
    manual = await claims.request(world.ledger, stored, "1", "manual")
    await world.runs.finished(manual, Status.FAILED)
    world.clock.move(timedelta(seconds=1))
    await world.jobs.edit(stored.id, enabled=True)
    await world.runs.finished(stored, Status.FAILED)

    await world.runs.finish(lost, Status.FAILED, error="late")

    # Failures before the job was enabled do not count, even in a recount.
    row = await world.jobs.row(stored.id)
    assert (row.consecutive_failures, row.disabled_reason) == (2, "")


async def test_a_manual_run_of_a_job_disabled_by_failures_leaves_it_disabled(world: World) -> None:
    stored = await world.jobs.add(every="10m", pause_after_failures=1)
    await world.runs.finished(stored, Status.FAILED, error="first")
    row = await claims.request(world.ledger, stored, "1", "manual")
    await world.runs.finished(row, Status.FAILED, error="second")

    after = await world.jobs.get(stored.id)
    assert not after.job.enabled
    assert after.row.disabled_reason == "paused after 1 failures in a row, last error: first"


async def _once(world: World, **fields: Any) -> str:
    at = world.clock.now().replace(microsecond=0) + timedelta(minutes=5)
    return (await world.jobs.add("once", at=at.isoformat(), **fields)).id


@pytest.mark.floor("E", "delete_after_run: a one-time job is removed after a success")
@pytest.mark.floor("E", "The history of a job removed by delete_after_run stays")
async def test_a_one_time_job_is_removed_when_its_run_has_succeeded(world: World) -> None:
    job_id = await _once(world, delete_after_run=True)
    claim_request = world.runs.claim_request(await world.jobs.get(job_id))

    granted = await world.runs.finished(claim_request, Status.SUCCEEDED, output="done")

    after = await world.jobs.get(job_id)
    assert (after.row.archived_at, after.row.sync_pending) == (world.clock.now(), True)
    assert (await world.runs.row(granted.run_id)).output == "done"
    async with world.ledger.read() as session:
        assert "once" not in await store.taken_names(session, "user")
    answer = await world.runs.claim(replace(claim_request, flow_run_id="another"))
    assert isinstance(answer, Finished)
    assert answer.status is Status.SUCCEEDED


@pytest.mark.floor("E", "delete_after_run keeps a job that did not succeed")
@pytest.mark.parametrize("status", [Status.FAILED, Status.CANCELLED, Status.TIMED_OUT])
async def test_a_one_time_job_that_did_not_succeed_is_disabled_and_not_removed(
    world: World, status: Status
) -> None:
    job_id = await _once(world, delete_after_run=True)

    await world.runs.finished(await world.jobs.get(job_id), status, error="no")

    after = await world.jobs.get(job_id)
    assert (after.row.archived_at, after.job.enabled) == (None, False)
    assert after.row.disabled_reason == f"fired, {status}"


async def test_a_manual_run_does_not_remove_a_one_time_job(world: World) -> None:
    job_id = await _once(world, delete_after_run=True)
    by_hand = await claims.request(world.ledger, await world.jobs.get(job_id), "1", "manual")

    await world.runs.finished(by_hand, Status.SUCCEEDED)

    assert (await world.jobs.get(job_id)).job.enabled


async def test_a_late_success_removes_a_one_time_job_too(world: World) -> None:
    job_id = await _once(world, delete_after_run=True)
    granted = await world.runs.claimed(await world.jobs.get(job_id))
    assert isinstance(granted, Granted)
    await claims.begin(world.ledger, granted.run_id, granted.fence)
    await claims.holder_died(world.ledger, granted.run_id, granted.fence, "killed")
    assert (await world.jobs.row(job_id)).disabled_reason == "fired, unknown"

    done = Outcome(Status.SUCCEEDED)
    await claims.finish(world.ledger, granted.run_id, granted.fence, done)

    assert (await world.jobs.row(job_id)).archived_at is not None
