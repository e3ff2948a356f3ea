"""Requirement 61, and stagger: due times that are skipped, snoozed, or begin a little later."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from daybook.ledger import claims
from daybook.ledger.jobs import StoredJob
from daybook.ledger.offers import Answer, Ended, Granted, Waiting
from daybook.ledger.outcomes import Outcome
from daybook.ledger.states import Status
from daybook.ledger.tables import JobRow
from daybook.service import views
from daybook.spec import upcoming
from tests.unit.ledger.conftest import Book

pytestmark = pytest.mark.anyio

SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)


async def _put_off(book: Book, stored: StoredJob, **fields: object) -> None:
    async with book.ledger.write() as session:
        row = (await session.execute(select(JobRow))).scalar_one()
        assert row.id == stored.id
        for name, value in fields.items():
            setattr(row, name, value)
        session.add(row)


async def _next(book: Book, stored: StoredJob) -> Answer:
    offer = book.due(stored)
    book.clock.set(offer.due)
    answer = await book.claim(offer)
    if isinstance(answer, Granted):
        await claims.begin(book.ledger, answer.run_id, answer.fence)
        await book.settle(answer, Status.SUCCEEDED)
    return answer


async def test_the_next_is_skipped_and_has_its_row(book: Book) -> None:
    stored = await book.add(cron="0 * * * *")
    due = book.due(stored).due
    await _put_off(book, stored, skips=[due.isoformat()])
    shown = views.coming(await book.stored(stored.id), book.clock.now(), 2)
    assert shown[0]["utc"] == views.utc(due + HOUR)

    told = await _next(book, stored)
    assert isinstance(told, Ended)
    assert (told.status, told.reason) == (Status.SKIPPED, "skipped by hand")
    await _next(book, stored)

    rows = await book.rows()
    assert [(row.due, row.status) for row in rows] == [
        (due, "skipped"),
        (due + HOUR, "succeeded"),
    ]


async def test_snoozed_until_an_instant_at_which_it_runs(book: Book) -> None:
    stored = await book.add(cron="0 * * * *")
    first = book.due(stored).due
    await _put_off(book, stored, snoozed_until=first + 2 * HOUR)
    shown = views.coming(await book.stored(stored.id), book.clock.now(), 1)
    assert shown[0]["utc"] == views.utc(first + 2 * HOUR)

    answers = [await _next(book, stored) for _ in range(3)]

    assert [row.status for row in await book.rows()] == ["skipped", "skipped", "succeeded"]
    assert isinstance(answers[0], Ended)
    assert answers[0].reason == "snoozed until 2026-01-15 15:00:00 UTC"


async def test_switched_off_and_on_it_is_awake(book: Book) -> None:
    stored = await book.add(cron="0 * * * *")
    await _put_off(book, stored, snoozed_until=book.clock.now() + 48 * HOUR)
    await book.edit(stored.id, enabled=False)
    await book.edit(stored.id, enabled=True)

    assert (await book.job(stored.id)).snoozed_until is None
    assert isinstance(await _next(book, stored), Granted)


async def test_by_hand_and_between_its_attempts_a_run_goes_on(book: Book) -> None:
    stored = await book.add(cron="0 * * * *")
    offer = book.due(stored)
    running = await book.begun(offer)
    await _put_off(book, stored, snoozed_until=offer.due + 48 * HOUR, skips=[offer.due.isoformat()])
    until = book.clock.now() + SECOND
    failed = Outcome(Status.FAILED, error="429")
    await claims.retry(book.ledger, running.run_id, running.fence, failed, until)
    book.clock.set(until)

    assert isinstance(await book.claim(offer), Granted)
    row = await claims.request(book.ledger, stored, "1", "manual")
    assert not isinstance(await book.claim(book.asked(row)), Granted)  # one is at work
    assert (await book.rows())[-1].reason.startswith("overlap: ")


def test_an_offset_is_stable_and_spread() -> None:
    five = timedelta(minutes=5)
    offsets = [upcoming.offset(f"{job:032x}", five) for job in range(400)]
    assert offsets == [upcoming.offset(f"{job:032x}", five) for job in range(400)]
    assert min(offsets) >= timedelta(0)
    assert max(offsets) <= five
    assert len(set(offsets)) > 150
    assert upcoming.offset("a", None) == timedelta(0)


async def _staggered(book: Book, **fields: Any) -> tuple[StoredJob, timedelta]:
    """A job with a stagger that does put its runs off."""
    for number in range(20):
        given = {"cron": "0 * * * *", "stagger": "10m", **fields}
        stored = await book.add(f"job-{number}", **given)
        later = upcoming.offset(stored.id, timedelta(minutes=10))
        if later > 2 * SECOND:
            return stored, later
    raise AssertionError


async def test_staggered_it_waits_without_a_slot_and_is_due_when_it_was(book: Book) -> None:
    stored, later = await _staggered(book)
    offer = book.due(stored, most=1)
    other = book.due(await book.add("other"), most=1)
    book.clock.set(offer.due)

    answer = await book.claim(offer)

    assert isinstance(answer, Waiting)
    assert answer.until == offer.due + later
    assert answer.why.startswith("staggered by ")
    row = await book.row(str(answer.run_id))
    assert (row.status, row.waits_for, row.due) == ("waiting", "", offer.due)
    assert isinstance(await book.claim(other), Granted)  # the one slot is free for others
    book.clock.set(answer.until - SECOND)
    again = await book.claim(offer)
    assert isinstance(again, Waiting)
    assert again.until == answer.until


async def test_after_its_stagger_it_runs_for_its_nominal_due_time(book: Book) -> None:
    stored, later = await _staggered(book)
    offer = book.due(stored)
    book.clock.set(offer.due)
    await book.claim(offer)
    book.clock.set(offer.due + later)

    granted = await book.claim(offer)

    assert isinstance(granted, Granted)
    assert (granted.due, granted.trigger) == (offer.due, "schedule")


async def test_lateness_and_deadline_count_from_the_staggered_time(book: Book) -> None:
    stored, later = await _staggered(book, deadline="1m", catch_up="none")
    offer = book.due(stored)
    book.clock.set(offer.due + later + timedelta(seconds=60))
    assert isinstance(await book.claim(offer), Granted)

    stored, later = await _staggered_again(book, "1m")
    offer = book.due(stored)
    book.clock.set(offer.due)
    await book.claim(offer)
    book.clock.set(offer.due + later + timedelta(seconds=59))
    assert isinstance(await book.claim(offer), Granted)


async def _staggered_again(book: Book, deadline: str) -> tuple[StoredJob, timedelta]:
    for number in range(20, 40):
        stored = await book.add(f"job-{number}", cron="0 * * * *", stagger="10m", deadline=deadline)
        later = upcoming.offset(stored.id, timedelta(minutes=10))
        if later > timedelta(minutes=2):
            return stored, later
    raise AssertionError


async def test_staggered_a_minute_and_a_second_late_is_late(book: Book) -> None:
    stored, later = await _staggered(book, catch_up="none")
    offer = book.due(stored)
    book.clock.set(offer.due + later + timedelta(seconds=61))

    answer = await book.claim(offer)

    assert isinstance(answer, Ended)
    assert answer.status is Status.MISSED


async def test_the_next_due_time_does_not_overlap_with_one_that_is_staggered(book: Book) -> None:
    stored, later = await _staggered(book, cron="* * * * *", overlap="queue_all")
    first, second = book.due(stored), None
    book.clock.set(first.due)
    await book.claim(first)
    second = book.due(stored)
    book.clock.set(second.due)
    await book.claim(second)

    book.clock.set(first.due + later)
    assert isinstance(await book.claim(first), Granted)
    waits = await book.claim(second)
    assert isinstance(waits, Waiting)
    assert waits.until == second.due + later
