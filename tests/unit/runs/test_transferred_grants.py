"""Grants that another process reads again, and cancelling a run that no process holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.errors import FenceRefused, NotFound
from daybook.ledger.states import TERMINAL, Outcome, Status
from daybook.runs import claims
from daybook.runs.claim_requests import Finished, Granted
from tests.world import World

pytestmark = pytest.mark.anyio

# --- read_grant


async def _same(world: World, granted: Granted) -> bool:
    """Return whether the grant reads as it was made; of the job only the revision matters."""
    again = await claims.read_grant(world.ledger, granted.run_id, granted.fence)
    assert again.job is not None
    assert granted.job is not None
    assert again.job.revision == granted.job.revision
    return replace(again, job=None) == replace(granted, job=None)


async def test_a_grant_can_be_read_again_with_its_fencing_token(world: World) -> None:
    stored = await world.jobs.add(prompt="Again: {{last_output}}", every="1h")
    first = await world.runs.running(stored)
    done = Outcome(Status.SUCCEEDED, output="one", prompt="Again: ")
    await claims.finish(world.ledger, first.run_id, first.fence, done)
    claim_request = world.runs.claim_request(stored)
    granted = await world.runs.claimed(claim_request)
    assert (granted.last_output, len(granted.history)) == ("one", 2)
    # An edit in between applies to later due times only.
    world.clock.move(timedelta(seconds=1))
    await world.jobs.edit(stored.id, prompt="Another")

    assert await _same(world, granted)


async def test_the_grant_of_a_requested_run_is_read_with_its_revision(world: World) -> None:
    row = await claims.request(world.ledger, await world.jobs.add(), "1", "manual")
    world.clock.move(timedelta(minutes=1))
    await world.jobs.edit(str(row.job_id), prompt="Another")
    granted = await world.runs.claimed(row)

    assert await _same(world, granted)


@pytest.mark.parametrize("fence", [0, 2])
async def test_reading_a_grant_with_another_fencing_token_is_refused(
    world: World, fence: int
) -> None:
    granted = await world.runs.claimed(await world.jobs.add())

    with pytest.raises(FenceRefused):
        await claims.read_grant(world.ledger, granted.run_id, fence)


async def test_the_grant_of_a_postponed_begun_or_finished_run_cannot_be_read(world: World) -> None:
    claim_request = world.runs.claim_request(await world.jobs.add())
    granted = await world.runs.claimed(claim_request)
    await claims.postpone(world.ledger, granted.run_id, 1, world.clock.now(), "later")
    with pytest.raises(FenceRefused):
        await claims.read_grant(world.ledger, granted.run_id, 1)
    granted = await world.runs.running(claim_request)
    with pytest.raises(FenceRefused):
        await claims.read_grant(world.ledger, granted.run_id, granted.fence)
    await world.runs.finish(granted, Status.SUCCEEDED)
    with pytest.raises(FenceRefused):
        await claims.read_grant(world.ledger, granted.run_id, granted.fence)
    with pytest.raises(NotFound):
        await claims.read_grant(world.ledger, "nobody", 1)


# --- cancel


async def test_a_waiting_run_is_cancelled_with_the_given_reason(world: World) -> None:
    stored = await world.jobs.add()
    row = await claims.request(world.ledger, stored, "1", "manual")

    cancelled = await claims.cancel(world.ledger, row.id, "by hand")

    assert (cancelled.status, cancelled.reason) == ("cancelled", "by hand")
    assert cancelled.finished_at == world.clock.now()
    assert await world.runs.row(row.id) == cancelled
    assert (await world.jobs.row(stored.id)).last_status == "cancelled"
    assert (await world.jobs.row(stored.id)).run_count == 0
    answer = await world.runs.claim(row)
    assert isinstance(answer, Finished)
    assert answer.status is Status.CANCELLED


async def test_a_cancel_between_two_attempts_leaves_the_first_attempt_unchanged(
    world: World,
) -> None:
    granted = await world.runs.running(await world.jobs.add())
    until = world.clock.now() + timedelta(minutes=5)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, granted.run_id, granted.fence, failed, until)

    cancelled = await claims.cancel(world.ledger, granted.run_id)

    assert (cancelled.status, cancelled.reason) == ("cancelled", "cancelled")
    (attempt,) = await world.runs.attempts(granted.run_id)
    assert (attempt.status, attempt.error) == ("failed", "429")


async def test_cancel_does_not_change_a_claimed_or_running_run(world: World) -> None:
    granted = await world.runs.claimed(await world.jobs.add())
    for status in (Status.CLAIMED, Status.RUNNING):
        before = await world.runs.row(granted.run_id)
        assert before.status == status
        assert await claims.cancel(world.ledger, granted.run_id) == before
        assert await world.runs.row(granted.run_id) == before
        if status is Status.CLAIMED:
            await claims.begin(world.ledger, granted.run_id, granted.fence)


async def test_cancel_does_not_change_a_finished_run(world: World) -> None:
    granted = await world.runs.finished(await world.jobs.add(), Status.SUCCEEDED)
    before = await world.runs.row(granted.run_id)

    assert await claims.cancel(world.ledger, granted.run_id) == before
    assert before.state in TERMINAL
    with pytest.raises(NotFound):
        await claims.cancel(world.ledger, "nobody")
