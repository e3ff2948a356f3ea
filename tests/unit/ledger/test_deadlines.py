"""A run's deadline while it waits (requirement 11): at the claim, and in the keeper's pass."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from daybook.ledger import claims, leases
from daybook.ledger.jobs import StoredJob
from daybook.ledger.offers import Ended, Granted, Waiting
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from tests.unit.ledger.conftest import Book

pytestmark = pytest.mark.anyio

MICROSECOND = timedelta(microseconds=1)
WHY = "the deadline of 2h passed while it waited"


async def _asked(book: Book, **fields: Any) -> tuple[StoredJob, RunRow]:
    fields = {"every": "1h", "deadline": "2h"} | fields
    stored = await book.add(**fields)
    row = await claims.request(book.ledger, stored, "1", "manual")
    return stored, row


async def test_up_to_its_deadline_it_is_granted(book: Book) -> None:
    _, row = await _asked(book)
    book.clock.move(timedelta(hours=2) - MICROSECOND)

    answer = await book.claim(book.asked(row))

    assert isinstance(answer, Granted)
    assert answer.queued_at == row.queued_at


async def test_at_its_deadline_the_claim_ends_it(book: Book) -> None:
    stored, row = await _asked(book)
    book.clock.move(timedelta(hours=2))

    answer = await book.claim(book.asked(row))

    assert answer == Ended(Status.TIMED_OUT, WHY, row.id, "flow of " + row.occurrence)
    found = await book.row(row.id)
    assert (found.status, found.finished_at, found.attempts) == ("timed_out", book.clock.now(), 0)
    assert found.unmirrored
    job = await book.job(stored.id)
    assert (job.last_status, job.last_error, job.consecutive_failures) == ("timed_out", WHY, 1)


async def test_the_deadline_goes_before_what_it_waits_for(book: Book) -> None:
    stored, row = await _asked(book)
    granted = await book.begun(book.asked(row))
    until = book.clock.now() + timedelta(hours=5)
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(book.ledger, granted.run_id, granted.fence, failed, until)
    assert isinstance(await book.claim(book.asked(row)), Waiting)
    book.clock.move(timedelta(hours=2))

    assert isinstance(await book.claim(book.asked(row)), Ended)

    # How the attempt had ended is not written over.
    (attempt,) = await book.attempts(row.id)
    assert (attempt.status, attempt.error) == ("failed", "429")
    assert (await book.job(stored.id)).run_count == 1


async def test_the_keepers_pass_ends_it_without_a_claim(book: Book) -> None:
    stored, row = await _asked(book)
    others = [
        await claims.request(book.ledger, await book.add(name, **fields), "1", "manual")
        for name, fields in {
            "none": {"every": "1h"},
            "longer": {"every": "1h", "deadline": "2h1s"},
            "edited": {"every": "1h", "deadline": "3h"},
        }.items()
    ]
    await book.edit(str(others[2].job_id), deadline="1h")  # of later runs
    book.clock.move(timedelta(hours=2) - MICROSECOND)
    assert await leases.expire_all(book.ledger) == []
    book.clock.move(MICROSECOND)

    (changed,) = await leases.expire_all(book.ledger)

    assert (changed.id, changed.status, changed.reason) == (row.id, "timed_out", WHY)
    assert (await book.row(row.id)).status == "timed_out"
    assert [(await book.row(each.id)).status for each in others] == ["waiting"] * 3
    assert (await book.job(stored.id)).last_status == "timed_out"
    assert await leases.expire_all(book.ledger) == []


async def test_a_pass_ends_no_more_than_its_limit_the_oldest_first(book: Book) -> None:
    stored = await book.add(every="1h", deadline="2h")
    rows = []
    for number in range(3):
        rows.append(await claims.request(book.ledger, stored, str(number), "manual"))
        book.clock.move(timedelta(seconds=1))
    book.clock.move(timedelta(hours=2))

    assert {each.id for each in await leases.expire_all(book.ledger, limit=2)} == {
        rows[0].id,
        rows[1].id,
    }
    assert [each.id for each in await leases.expire_all(book.ledger)] == [rows[2].id]


async def test_a_held_run_is_its_holders_to_end(book: Book) -> None:
    _, row = await _asked(book)
    granted = await book.begun(book.asked(row))
    for _ in range(4 * 60):
        book.clock.move(timedelta(seconds=30))
        assert await leases.renew(book.ledger, granted.run_id, granted.fence)

    assert await leases.expire_all(book.ledger) == []
    assert await book.settle(granted, Status.SUCCEEDED) is Status.SUCCEEDED


async def test_a_row_that_cannot_be_read_as_a_policy_has_no_deadline(book: Book) -> None:
    _, row = await _asked(book)
    async with book.ledger.write() as session:
        row.parameters = {"prompt": "x", "policy": {"deadline": "soon"}}
        session.add(row)
    book.clock.move(timedelta(days=3))

    assert await leases.expire_all(book.ledger) == []


async def test_an_ended_run_is_left_as_it_is(book: Book) -> None:
    _, row = await _asked(book)
    await book.settled(book.asked(row), Status.SUCCEEDED)
    book.clock.move(timedelta(hours=3))

    assert await leases.expire_all(book.ledger) == []

    answer = await book.claim(book.asked(row))
    assert isinstance(answer, Ended)
    assert answer.status is Status.SUCCEEDED
