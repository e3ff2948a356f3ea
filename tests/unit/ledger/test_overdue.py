"""Due times that passed and of which nothing has begun (requirement 59)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daybook.ledger import audit, claims, history, jobs, overdue, slots
from daybook.ledger.states import Status
from tests.unit.ledger.conftest import Book

pytestmark = pytest.mark.anyio

ONE = datetime(2026, 1, 15, 13, 0, tzinfo=UTC)
"""The first due time of an hourly job that was made a quarter of a second past 12:00."""


async def found(book: Book) -> list[tuple[datetime, bool]]:
    """When each was due, and whether it has a row."""
    async with book.ledger.read() as session:
        stored, live = await jobs.every(session), await history.live(session)
        late = await overdue.find(session, stored, live, book.clock.now())
    return [(each.due, each.run is not None) for each in late]


async def test_what_nobody_offered_is_told_when_it_is_late(book: Book) -> None:
    await book.add()
    book.clock.set(ONE + overdue.LATE - timedelta(microseconds=1))
    assert await found(book) == []

    book.clock.set(ONE + overdue.LATE)
    assert await found(book) == [(ONE, False)]
    book.clock.set(ONE + timedelta(hours=5))
    assert await found(book) == [(ONE, False)]  # one of them is enough


async def test_what_has_its_outcome_or_is_at_work_is_not_late(book: Book) -> None:
    stored = await book.add()
    await book.settled(book.due(stored), Status.SUCCEEDED)
    book.clock.set(ONE + timedelta(minutes=30))
    assert await found(book) == []
    await book.begun(book.due(stored))
    book.clock.set(ONE + timedelta(hours=1, minutes=30))
    assert await found(book) == []


async def test_what_the_audit_judged_is_not_late(book: Book) -> None:
    stored = await book.add(cron="0 * * * *", catch_up="none")
    book.clock.set(ONE + timedelta(minutes=30))
    await audit.advance(book.ledger, stored.id, ONE + timedelta(minutes=29))

    assert await found(book) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"cron": "0 * * * *", "enabled": False},
        {"on_demand": True},
        {"cron": "0 * * * *", "active_hours": "14:00-15:00"},
    ],
    ids=["off", "on demand", "outside its hours"],
)
async def test_what_is_not_due_is_not_late(book: Book, fields: dict[str, Any]) -> None:
    await book.add(**fields)
    book.clock.set(ONE + timedelta(minutes=30))

    assert await found(book) == []


async def test_an_edit_makes_nothing_late_that_was_before_it(book: Book) -> None:
    stored = await book.add(cron="0 0 * * *")
    book.clock.set(ONE + timedelta(minutes=30))
    await book.edit(stored.id, cron="0 * * * *")

    assert await found(book) == []


async def asked(book: Book, **fields: Any) -> None:
    stored = await book.add(on_demand=True)
    row = await claims.request(book.ledger, stored, "one", "manual")
    async with book.ledger.write() as session:
        again = await session.get(type(row), row.id)
        assert again is not None
        again.sqlmodel_update(fields)
        session.add(again)


@pytest.mark.parametrize(
    ("fields", "late"),
    [
        ({}, True),
        ({"waits_for": slots.SLOT}, True),
        ({"attempts": 1}, False),
        ({"trigger": slots.BACKFILL}, False),
    ],
    ids=["asked for", "a slot", "a backoff", "a backfill"],
)
async def test_a_row_is_late_that_waits_for_nothing_of_its_own(
    book: Book, fields: dict[str, Any], late: bool
) -> None:
    now = book.clock.now()
    await asked(book, **fields)
    book.clock.move(overdue.LATE + timedelta(seconds=1))

    assert await found(book) == ([(now, True)] if late else [])


async def test_who_waits_until_a_time_is_late_after_that(book: Book) -> None:
    now = book.clock.now()
    await asked(book, until=now + timedelta(hours=1))
    book.clock.move(timedelta(hours=1))
    assert await found(book) == []
    book.clock.move(overdue.LATE + timedelta(seconds=1))
    assert await found(book) == [(now, True)]


async def test_who_waits_for_a_slot_is_late_however_often_it_asks(book: Book) -> None:
    now = book.clock.now()
    await asked(book, waits_for=slots.SLOT, until=now + timedelta(hours=1))
    book.clock.move(overdue.LATE + timedelta(seconds=1))

    assert await found(book) == [(now, True)]
