"""A grant that another process acts on, and a cancel of what nobody holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from daybook.errors import FenceRefused, NotFound
from daybook.ledger import claims
from daybook.ledger.offers import Ended, Granted
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import TERMINAL, Status
from tests.unit.ledger.conftest import Book

pytestmark = pytest.mark.anyio

# --- granted


async def _same(book: Book, granted: Granted) -> bool:
    """Whether it is read as it was granted; of the job, what the run acts with."""
    again = await claims.granted(book.ledger, granted.run_id, granted.fence)
    assert again.job is not None
    assert granted.job is not None
    assert again.job.revision == granted.job.revision
    return replace(again, job=None) == replace(granted, job=None)


async def test_a_grant_can_be_read_again_by_its_fence(book: Book) -> None:
    stored = await book.add(prompt="Again: {{last_output}}", every="1h")
    first = await book.begun(book.due(stored))
    done = Outcome(Status.SUCCEEDED, output="one", prompt="Again: ")
    await claims.settle(book.ledger, first.run_id, first.fence, done)
    offer = book.due(stored)
    granted = await book.granted(offer)
    assert (granted.last_output, len(granted.history)) == ("one", 2)
    # What is edited meanwhile is of the due times that follow.
    book.clock.move(timedelta(seconds=1))
    await book.edit(stored.id, prompt="Another")

    assert await _same(book, granted)


async def test_a_run_that_was_asked_for_is_read_by_its_revision_too(book: Book) -> None:
    row = await claims.request(book.ledger, await book.add(), "1", "manual")
    book.clock.move(timedelta(minutes=1))
    await book.edit(str(row.job_id), prompt="Another")
    granted = await book.granted(book.asked(row))

    assert await _same(book, granted)


@pytest.mark.parametrize("fence", [0, 2])
async def test_another_fence_reads_nothing(book: Book, fence: int) -> None:
    granted = await book.granted(book.due(await book.add()))

    with pytest.raises(FenceRefused):
        await claims.granted(book.ledger, granted.run_id, fence)


async def test_what_has_begun_or_ended_or_was_lost_is_not_handed_over(book: Book) -> None:
    offer = book.due(await book.add())
    granted = await book.granted(offer)
    await claims.postpone(book.ledger, granted.run_id, 1, book.clock.now(), "later")
    with pytest.raises(FenceRefused):
        await claims.granted(book.ledger, granted.run_id, 1)
    granted = await book.begun(offer)
    with pytest.raises(FenceRefused):
        await claims.granted(book.ledger, granted.run_id, granted.fence)
    await book.settle(granted, Status.SUCCEEDED)
    with pytest.raises(FenceRefused):
        await claims.granted(book.ledger, granted.run_id, granted.fence)
    with pytest.raises(NotFound):
        await claims.granted(book.ledger, "nobody", 1)


# --- cancel


async def test_what_waits_is_cancelled_with_its_reason(book: Book) -> None:
    stored = await book.add()
    row = await claims.request(book.ledger, stored, "1", "manual")

    cancelled = await claims.cancel(book.ledger, row.id, "by hand")

    assert (cancelled.status, cancelled.reason) == ("cancelled", "by hand")
    assert cancelled.finished_at == book.clock.now()
    assert await book.row(row.id) == cancelled
    assert (await book.job(stored.id)).last_status == "cancelled"
    assert (await book.job(stored.id)).run_count == 0
    answer = await book.claim(book.asked(row))
    assert isinstance(answer, Ended)
    assert answer.status is Status.CANCELLED


async def test_a_cancel_between_two_attempts_leaves_the_first_as_it_ended(book: Book) -> None:
    granted = await book.begun(book.due(await book.add()))
    until = book.clock.now() + timedelta(minutes=5)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(book.ledger, granted.run_id, granted.fence, failed, until)

    cancelled = await claims.cancel(book.ledger, granted.run_id)

    assert (cancelled.status, cancelled.reason) == ("cancelled", "cancelled")
    (attempt,) = await book.attempts(granted.run_id)
    assert (attempt.status, attempt.error) == ("failed", "429")


async def test_what_is_held_is_its_holders_to_end(book: Book) -> None:
    granted = await book.granted(book.due(await book.add()))
    for status in (Status.CLAIMED, Status.ACTING):
        before = await book.row(granted.run_id)
        assert before.status == status
        assert await claims.cancel(book.ledger, granted.run_id) == before
        assert await book.row(granted.run_id) == before
        if status is Status.CLAIMED:
            await claims.begin(book.ledger, granted.run_id, granted.fence)


async def test_what_has_ended_stays_as_it_is(book: Book) -> None:
    granted = await book.settled(book.due(await book.add()), Status.SUCCEEDED)
    before = await book.row(granted.run_id)

    assert await claims.cancel(book.ledger, granted.run_id) == before
    assert before.state in TERMINAL
    with pytest.raises(NotFound):
        await claims.cancel(book.ledger, "nobody")
