"""Requirement 25: due times of the past, asked for by hand, behind all that is scheduled."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from daybook.ledger import backfill, claims, leases, waits
from daybook.ledger.jobs import StoredJob
from daybook.ledger.offers import Ended, Granted, Waiting
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from tests.unit.ledger.conftest import Book

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)


def _past(book: Book, count: int) -> list[datetime]:
    noon = book.clock.now().replace(microsecond=0)
    return [noon - place * HOUR for place in range(count, 0, -1)]


async def _asked(book: Book, count: int, **fields: object) -> tuple[StoredJob, list[RunRow]]:
    stored = await book.add(**({"cron": "0 * * * *"} | fields))  # type: ignore[arg-type]
    assert await backfill.ask(book.ledger, stored, _past(book, count)) == count
    return stored, await book.rows()


async def test_each_is_a_waiting_run_of_its_due_time(book: Book) -> None:
    stored, rows = await _asked(book, 3)

    assert [row.due for row in rows] == _past(book, 3)
    assert {(row.status, row.trigger, row.until) for row in rows} == {
        ("waiting", "backfill", book.clock.now())
    }
    assert rows[0].occurrence == f"request:{stored.id}:backfill-2026-01-15T09:00:00Z"
    granted = await book.granted(book.asked(rows[0]))
    assert (granted.due, granted.trigger) == (_past(book, 3)[0], "backfill")


async def test_the_same_again_asks_for_nothing_twice(book: Book) -> None:
    stored, rows = await _asked(book, 3)
    assert await backfill.ask(book.ledger, stored, _past(book, 4)) == 1
    await book.settled(book.asked(rows[0]), Status.FAILED)

    assert await backfill.ask(book.ledger, stored, _past(book, 4)) == 0
    assert len(await book.rows()) == 4


async def test_what_succeeded_by_schedule_is_left_out(book: Book) -> None:
    stored = await book.add(cron="0 * * * *")
    done, failed = book.due(stored), None
    await book.settled(done, Status.SUCCEEDED)
    failed = book.due(stored)
    await book.settled(failed, Status.FAILED)
    book.clock.move(HOUR)

    async with book.ledger.read() as session:
        known = await backfill.known(session, stored.id, [done.due, failed.due])
    assert known == {done.due: Status.SUCCEEDED, failed.due: Status.FAILED}
    assert await backfill.ask(book.ledger, stored, [done.due, failed.due]) == 1


@pytest.mark.parametrize("overlap", ["skip", "queue_one", "cancel_running"])
async def test_they_run_one_after_the_other_oldest_first(book: Book, overlap: str) -> None:
    _, rows = await _asked(book, 3, overlap=overlap)
    first, second, third = map(book.asked, rows)
    running = await book.begun(first)
    assert isinstance(await book.claim(third), Waiting)
    assert isinstance(await book.claim(second), Waiting)

    await book.settle(running, Status.SUCCEEDED)

    assert isinstance(await book.claim(third), Waiting)
    assert isinstance(await book.claim(second), Granted)


async def test_what_is_due_meanwhile_waits_for_one_of_them_only(book: Book) -> None:
    """It is neither skipped for them nor behind all of them."""
    stored, rows = await _asked(book, 3)
    running = await book.begun(book.asked(rows[0]))
    for row in rows[1:]:
        assert isinstance(await book.claim(book.asked(row)), Waiting)
    offer = book.due(stored)
    # Alive: its lease was renewed all the time.
    book.clock.set(offer.due - timedelta(seconds=10))

    await leases.renew(book.ledger, running.run_id, running.fence)
    book.clock.set(offer.due)
    assert isinstance(await book.claim(offer), Waiting)
    await book.settle(running, Status.SUCCEEDED)

    async with book.ledger.read() as session:
        woken = await claims.next_for_slot(session, book.clock.now(), 4)
    assert [row.due for row in woken] == [offer.due]
    assert isinstance(await book.claim(book.asked(rows[1])), Waiting)
    assert isinstance(await book.claim(offer), Granted)


async def test_a_free_slot_goes_to_what_is_scheduled_first(book: Book) -> None:
    _, rows = await _asked(book, 1)
    blocker, other = await book.add("blocker"), await book.add("other")
    held = await book.begun(book.due(blocker, most=1))
    behind = book.asked(rows[0], most=1)
    scheduled = book.due(other, due=book.clock.now(), most=1)
    assert isinstance(await book.claim(behind), Waiting)
    assert isinstance(await book.claim(scheduled), Waiting)
    await book.settle(held, Status.SUCCEEDED)

    assert isinstance(await book.claim(behind), Waiting)
    assert isinstance(await book.claim(scheduled), Granted)


async def test_a_scheduled_run_has_its_prefect_run_before_them(book: Book) -> None:
    """Ten of a job have one at once: a thousand of the past must not take all places."""
    stored, _ = await _asked(book, 30)
    row = await claims.request(book.ledger, stored, "now", "manual")

    async with book.ledger.read() as session:
        first = await waits.to_ensure(session, book.clock.now())

    assert len(first) == 10
    assert first[0].id == row.id
    assert [each.due for each in first[1:]] == _past(book, 30)[:9]


async def test_its_deadline_counts_from_its_turn(book: Book) -> None:
    _, rows = await _asked(book, 1, deadline="1h")
    book.clock.move(48 * HOUR)
    async with book.ledger.read() as session:
        assert await waits.all_overdue(session, book.clock.now(), 10) == []

    granted = await book.claim(book.asked(rows[0]))

    assert isinstance(granted, Granted)
    assert granted.queued_at == book.clock.now()


async def test_a_job_that_is_switched_off_runs_no_more_of_them(book: Book) -> None:
    stored, rows = await _asked(book, 2)
    await book.edit(stored.id, enabled=False)

    answer = await book.claim(book.asked(rows[0]))

    assert isinstance(answer, Ended)
    assert (answer.status, answer.reason) == (Status.SKIPPED, "the job is off: disabled")


async def test_a_job_that_allows_it_runs_them_beside_each_other(book: Book) -> None:
    _, rows = await _asked(book, 3, overlap="allow", session="new")
    answers = [await book.claim(book.asked(row, most=2)) for row in rows]
    assert [type(each) for each in answers] == [Granted, Granted, Waiting]
