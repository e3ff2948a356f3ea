"""Requirement 19: what was told is let go with its run or by age; never what is pending."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from daybook.keeper import prune
from daybook.ledger import outbox, sending
from daybook.ledger.jobs import StoredJob
from daybook.ledger.prune import Keep
from daybook.ledger.sending import Tried
from daybook.ledger.states import Delivery, Status
from daybook.ledger.tables import JobRow, LaneRow, OutboxRow, RunRow
from tests.unit.ledger.conftest import Book

pytestmark = pytest.mark.anyio

DAY = timedelta(days=1)
DAYS = Keep(90 * DAY, 1000)
HOOK = "https://ops.example.org/hook"


async def run(book: Book, stored: StoredJob, answer: str = "All is well.") -> str:
    granted = await book.settled(book.due(stored), Status.SUCCEEDED, output=answer)
    async with book.ledger.write() as session:  # as if Prefect was told, and the audit had passed
        row, job = await session.get(RunRow, granted.run_id), await session.get(JobRow, stored.id)
        assert row is not None
        assert job is not None
        row.unmirrored, job.audited_until = False, book.clock.now()
    return granted.run_id


async def send(book: Book, status: Delivery = Delivery.DELIVERED) -> None:
    rows = await sending.claim(book.ledger, "test", most=100)
    tried = [Tried(row.id, row.fence, status, None, 0.1, error="no") for row in rows]
    await sending.record(book.ledger, tried)


async def left(book: Book, table: Any) -> list[Any]:
    async with book.ledger.read() as session:
        return list((await session.execute(select(table))).scalars())


async def left_of(book: Book, run_id: str) -> set[str]:
    return {row.purpose for row in await left(book, OutboxRow) if row.run_id == run_id}


async def alert(book: Book, key: str, channel: str = "inbox") -> None:
    async with book.ledger.write() as session:
        await outbox.tell(
            session,
            key=key,
            purpose="alert",
            event="undelivered",
            channel=channel,
            subject=key,
            body=key,
            now=book.clock.now(),
        )


async def test_what_was_told_of_a_run_goes_with_it(book: Book) -> None:
    stored = await book.add(cron="0 * * * *", on_complete=HOOK)
    ids = [await run(book, stored) for _ in range(5)]
    await send(book)

    done = await prune.prune(book.ledger, Keep(None, 2))

    assert done.runs == 3
    assert [row.id for row in await book.rows()] == ids[3:]
    assert {row.run_id for row in await left(book, OutboxRow)} == set(ids[3:])


async def test_what_is_pending_stays_and_its_run_with_it(book: Book) -> None:
    stored = await book.add(cron="0 * * * *", on_complete=HOOK)
    pending = await run(book, stored)
    book.clock.move(200 * DAY)
    last = await run(book, stored)

    await prune.prune(book.ledger, DAYS)
    assert [row.id for row in await book.rows()] == [pending, last]

    await send(book)
    await prune.prune(book.ledger, DAYS)
    assert [row.id for row in await book.rows()] == [last]
    assert await left_of(book, pending) == set()


async def test_what_is_of_no_run_goes_by_its_age(book: Book) -> None:
    await alert(book, "old")
    await alert(book, "still to be sent", "team")
    book.clock.move(90 * DAY + timedelta(seconds=1))
    await alert(book, "new")

    done = await prune.prune(book.ledger, DAYS)

    assert done.told == 1
    assert {row.key for row in await left(book, OutboxRow)} == {"still to be sent", "new"}
    assert not await prune.prune(book.ledger, DAYS)
    assert not await prune.prune(book.ledger, Keep(None, None))


async def test_what_failed_is_kept_as_long_as_what_arrived(book: Book) -> None:
    await alert(book, "failed", "team")
    await send(book, Delivery.FAILED)
    book.clock.move(80 * DAY)
    await prune.prune(book.ledger, DAYS)
    assert "failed" in {row.key for row in await left(book, OutboxRow)}
    book.clock.move(20 * DAY)
    await prune.prune(book.ledger, DAYS)
    assert await left(book, OutboxRow) == []


async def test_the_answer_that_the_next_one_is_compared_with_stays(book: Book) -> None:
    stored = await book.add(cron="0 * * * *", channel="team", on_complete=HOOK, only_changed=True)
    first = await run(book, stored)
    await send(book)
    for _ in range(3):
        await run(book, stored)
        await send(book)

    await prune.prune(book.ledger, Keep(None, 1))

    assert await left_of(book, first) == {"message"}
    again = await run(book, stored)
    assert await left_of(book, again) == {"callback"}
    # Once another answer is what arrived last, it goes.
    await run(book, stored, "All is lost.")
    await send(book)
    book.clock.move(100 * DAY)
    await prune.prune(book.ledger, DAYS)
    assert [row.body for row in await left(book, OutboxRow)] == ["All is lost."]


async def test_an_archived_job_goes_when_nothing_is_told_of_it_any_more(book: Book) -> None:
    stored = await book.add(cron="0 * * * *", channel="team", only_changed=True)
    await run(book, stored)
    await book.archive(stored.id)
    book.clock.move(100 * DAY)
    async with book.ledger.write() as session:
        job = await session.get(JobRow, stored.id)
        assert job is not None
        job.audited_until = book.clock.now()
    assert not (await prune.prune(book.ledger, DAYS)).jobs

    await send(book)
    done = await prune.prune(book.ledger, DAYS)
    assert (done.runs, done.jobs) == (1, ["brief"])
    assert await left(book, OutboxRow) == []


async def test_a_destination_that_nothing_is_for_any_more_is_forgotten(book: Book) -> None:
    for channel in ("gone", "awaited"):
        await alert(book, channel, channel)
    rows = {row.lane: row for row in await sending.claim(book.ledger, "test", most=10)}
    ends = {"channel:gone": Delivery.FAILED, "channel:awaited": Delivery.PENDING}
    tried = [
        Tried(row.id, row.fence, ends[lane], book.clock.now(), 0.1, error="no")
        for lane, row in rows.items()
    ]
    await sending.record(book.ledger, tried)
    book.clock.move(100 * DAY)

    await prune.prune(book.ledger, DAYS)

    assert [row.lane for row in await left(book, LaneRow)] == ["channel:awaited"]


async def test_a_long_history_goes_in_batches(book: Book) -> None:
    now = book.clock.now()
    async with book.ledger.write() as session:
        for number in range(1_100):
            session.add(
                OutboxRow(
                    key=str(number),
                    purpose="alert",
                    event="overdue",
                    lane="channel:inbox",
                    address="inbox",
                    body="x",
                    status="delivered",
                    next_at=now,
                    created_at=now,
                    finished_at=now,
                )
            )
    book.clock.move(91 * DAY)
    assert (await prune.prune(book.ledger, DAYS)).told == 1_100
    assert await left(book, OutboxRow) == []
