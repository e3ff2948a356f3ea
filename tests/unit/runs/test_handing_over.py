"""A grant that another process acts on, and a cancel of what nobody holds."""

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

# --- granted


async def _same(world: World, granted: Granted) -> bool:
    """Whether it is read as it was granted; of the job, what the run acts with."""
    again = await claims.read_grant(world.ledger, granted.run_id, granted.fence)
    assert again.job is not None
    assert granted.job is not None
    assert again.job.revision == granted.job.revision
    return replace(again, job=None) == replace(granted, job=None)


async def test_a_grant_can_be_read_again_by_its_fence(world: World) -> None:
    stored = await world.add(prompt="Again: {{last_output}}", every="1h")
    first = await world.begun(world.offer(stored))
    done = Outcome(Status.SUCCEEDED, output="one", prompt="Again: ")
    await claims.finish(world.ledger, first.run_id, first.fence, done)
    offer = world.offer(stored)
    granted = await world.granted(offer)
    assert (granted.last_output, len(granted.history)) == ("one", 2)
    # What is edited meanwhile is of the due times that follow.
    world.clock.move(timedelta(seconds=1))
    await world.edit(stored.id, prompt="Another")

    assert await _same(world, granted)


async def test_a_run_that_was_asked_for_is_read_by_its_revision_too(world: World) -> None:
    row = await claims.request(world.ledger, await world.add(), "1", "manual")
    world.clock.move(timedelta(minutes=1))
    await world.edit(str(row.job_id), prompt="Another")
    granted = await world.granted(world.offer_of(row))

    assert await _same(world, granted)


@pytest.mark.parametrize("fence", [0, 2])
async def test_another_fence_reads_nothing(world: World, fence: int) -> None:
    granted = await world.granted(world.offer(await world.add()))

    with pytest.raises(FenceRefused):
        await claims.read_grant(world.ledger, granted.run_id, fence)


async def test_what_has_begun_or_ended_or_was_lost_is_not_handed_over(world: World) -> None:
    offer = world.offer(await world.add())
    granted = await world.granted(offer)
    await claims.postpone(world.ledger, granted.run_id, 1, world.clock.now(), "later")
    with pytest.raises(FenceRefused):
        await claims.read_grant(world.ledger, granted.run_id, 1)
    granted = await world.begun(offer)
    with pytest.raises(FenceRefused):
        await claims.read_grant(world.ledger, granted.run_id, granted.fence)
    await world.settle(granted, Status.SUCCEEDED)
    with pytest.raises(FenceRefused):
        await claims.read_grant(world.ledger, granted.run_id, granted.fence)
    with pytest.raises(NotFound):
        await claims.read_grant(world.ledger, "nobody", 1)


# --- cancel


async def test_what_waits_is_cancelled_with_its_reason(world: World) -> None:
    stored = await world.add()
    row = await claims.request(world.ledger, stored, "1", "manual")

    cancelled = await claims.cancel(world.ledger, row.id, "by hand")

    assert (cancelled.status, cancelled.reason) == ("cancelled", "by hand")
    assert cancelled.finished_at == world.clock.now()
    assert await world.row(row.id) == cancelled
    assert (await world.job_row(stored.id)).last_status == "cancelled"
    assert (await world.job_row(stored.id)).run_count == 0
    answer = await world.claim(world.offer_of(row))
    assert isinstance(answer, Finished)
    assert answer.status is Status.CANCELLED


async def test_a_cancel_between_two_attempts_leaves_the_first_as_it_ended(world: World) -> None:
    granted = await world.begun(world.offer(await world.add()))
    until = world.clock.now() + timedelta(minutes=5)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, granted.run_id, granted.fence, failed, until)

    cancelled = await claims.cancel(world.ledger, granted.run_id)

    assert (cancelled.status, cancelled.reason) == ("cancelled", "cancelled")
    (attempt,) = await world.attempts(granted.run_id)
    assert (attempt.status, attempt.error) == ("failed", "429")


async def test_what_is_held_is_its_holders_to_end(world: World) -> None:
    granted = await world.granted(world.offer(await world.add()))
    for status in (Status.CLAIMED, Status.RUNNING):
        before = await world.row(granted.run_id)
        assert before.status == status
        assert await claims.cancel(world.ledger, granted.run_id) == before
        assert await world.row(granted.run_id) == before
        if status is Status.CLAIMED:
            await claims.begin(world.ledger, granted.run_id, granted.fence)


async def test_what_has_ended_stays_as_it_is(world: World) -> None:
    granted = await world.settled(world.offer(await world.add()), Status.SUCCEEDED)
    before = await world.row(granted.run_id)

    assert await claims.cancel(world.ledger, granted.run_id) == before
    assert before.state in TERMINAL
    with pytest.raises(NotFound):
        await claims.cancel(world.ledger, "nobody")
