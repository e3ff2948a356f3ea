"""Which ended runs Prefect has to be told of, and that it is told once (`docs/promise.md` 13)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event

from daybook.ledger import audit, claims, deployments, leases, mirror, offers
from daybook.ledger.offers import Ended, Granted, Offer
from daybook.ledger.states import TERMINAL, Status
from daybook.ledger.tables import RunRow
from tests.unit.ledger.conftest import Book

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

MICROSECOND = timedelta(microseconds=1)


async def _marked(book: Book, before: datetime | None = None, limit: int = 100) -> list[RunRow]:
    async with book.ledger.read() as session:
        return await mirror.unmirrored(session, before or book.clock.now(), limit)


async def _ended(book: Book, status: Status) -> RunRow:
    """A run with that outcome, by the way that really leads there."""
    stored = await book.add()
    offer = book.due(stored)
    match status:
        case Status.SKIPPED:
            book.clock.set(offer.due + timedelta(seconds=1))
            await book.edit(stored.id, enabled=False)
            answer = await book.claim(offer)
        case Status.MISSED:
            book.clock.set(offer.due + timedelta(hours=3))
            answer = await book.claim(offer)
        case Status.UNKNOWN:
            answer = await book.begun(offer)
            await claims.died(book.ledger, answer.run_id, answer.fence, "killed")
        case _:
            answer = await book.settled(offer, status)
    assert isinstance(answer, Granted | Ended)
    return await book.row(str(answer.run_id))


@pytest.mark.parametrize("status", sorted(TERMINAL))
async def test_every_outcome_of_a_carried_run_is_marked(book: Book, status: Status) -> None:
    row = await _ended(book, status)

    assert row.status == status
    assert await _marked(book) == [row]


async def test_a_run_that_prefect_does_not_know_is_not_marked(book: Book) -> None:
    offer = Offer(
        offers.flow_key("f"), "agent-prompt", "direct", book.clock.now(), "here:1", {"prompt": "Hi"}
    )
    await book.settled(offer, Status.SUCCEEDED)
    row = await claims.request(book.ledger, await book.add(), "1", "manual")
    await claims.cancel(book.ledger, row.id)

    assert await _marked(book) == []


async def test_a_live_run_is_not_marked(book: Book) -> None:
    offer = book.due(await book.add())
    granted = await book.begun(offer)
    assert await _marked(book) == []

    await book.lose()
    await leases.expire_all(book.ledger)

    assert [each.id for each in await _marked(book)] == [granted.run_id]


async def test_those_that_ended_before_an_instant_the_oldest_first(book: Book) -> None:
    jobs = [await book.add(f"job-{number}", every="1h") for number in range(3)]
    ended = []
    for job in jobs:
        ended.append((await book.settled(book.due(job), Status.SUCCEEDED)).run_id)
        book.clock.move(timedelta(minutes=1))
    second = (await book.row(ended[1])).finished_at
    assert second is not None

    assert [each.id for each in await _marked(book)] == ended
    assert [each.id for each in await _marked(book, second)] == ended[:2]
    assert [each.id for each in await _marked(book, second - MICROSECOND)] == ended[:1]
    assert [each.id for each in await _marked(book, limit=2)] == ended[:2]


async def test_what_was_told_is_not_told_again(book: Book) -> None:
    rows = [await _ended(book, Status.SUCCEEDED)]
    book.clock.move(timedelta(seconds=5))
    before = book.clock.now()

    await mirror.mirrored(book.ledger, [rows[0].id, "nobody"], before)

    assert await _marked(book) == []
    assert (await book.row(rows[0].id)).unmirrored is False


async def test_an_outcome_that_came_meanwhile_is_still_to_be_told(book: Book) -> None:
    # Prefect is told `unknown` while the late outcome is being written.
    offer = book.due(await book.add())
    granted = await book.begun(offer)
    await claims.died(book.ledger, granted.run_id, granted.fence, "killed")
    book.clock.move(timedelta(seconds=5))
    before = book.clock.now()
    assert [each.status for each in await _marked(book, before)] == ["unknown"]
    book.clock.move(MICROSECOND)
    await book.settle(granted, Status.SUCCEEDED)

    await mirror.mirrored(book.ledger, [granted.run_id], before)

    assert [each.status for each in await _marked(book)] == ["succeeded"]
    await mirror.mirrored(book.ledger, [granted.run_id])
    assert await _marked(book) == []


async def test_a_late_outcome_is_told_although_unknown_was(book: Book) -> None:
    row = await _ended(book, Status.UNKNOWN)
    await mirror.mirrored(book.ledger, [row.id])
    book.clock.move(timedelta(minutes=5))

    await book.settle(_as_granted(row), Status.FAILED)

    assert [each.status for each in await _marked(book)] == ["failed"]


async def test_a_run_that_was_started_again_is_the_retrys_to_tell(book: Book) -> None:
    offer = book.due(await book.add())
    first = await book.begun(offer)
    await claims.died(book.ledger, first.run_id, first.fence, "killed")
    retried = await book.claim(replace(offer, flow_starts=2, retries=(1,)))
    assert isinstance(retried, Granted)
    # Else Prefect's run, which is going again, would be ended as the first one's outcome says.
    assert await _marked(book) == []

    await book.settle(first, Status.FAILED)

    assert (await book.row(first.run_id)).status == "failed"
    assert await _marked(book) == []
    await claims.begin(book.ledger, retried.run_id, retried.fence)
    await book.settle(retried, Status.SUCCEEDED)
    assert [each.id for each in await _marked(book)] == [retried.run_id]


async def test_where_the_deployment_was_deleted_the_mark_is_to_go(book: Book) -> None:
    stored = await book.add(every="10m", catch_up="none")
    book.clock.move(timedelta(hours=1))
    await audit.advance(book.ledger, stored.id, book.clock.now())
    (missed,) = await book.rows()
    assert missed.unmirrored and missed.flow_run_id is None
    assert await _marked(book) == []  # it may get its deployment yet

    async with book.ledger.write() as session:
        await deployments.agreed(session, stored.id, "d", None, book.clock.now())
        await deployments.lost(session, stored.id, "d", book.clock.now(), "deleted in Prefect")

    assert await _marked(book) == [missed]


async def test_a_look_at_what_is_marked_reads_no_history(book: Book) -> None:
    # A partial index is taken only where the condition is written as the index has it.
    statements: list[tuple[str, Any]] = []
    engine = book.ledger._engine.sync_engine
    event.listen(
        engine,
        "before_cursor_execute",
        lambda _, __, statement, given, *___: statements.append((statement, given)),
    )
    now = book.ledger.now()
    async with book.ledger.write() as session:
        for number in range(300):
            ended = RunRow(
                occurrence=f"flow:{number}",
                kind="webhook",
                trigger="direct",
                status="succeeded",
                due=now,
                queued_at=now,
                finished_at=now - timedelta(minutes=number),
            )
            session.add(ended)
        await session.flush()
        if book.kind == "postgresql":  # which knows by then that few are marked
            await (await session.connection()).exec_driver_sql("ANALYZE runs")
    await _marked(book)
    (asked, given), *_ = [each for each in statements if "FROM runs" in each[0]]
    async with book.ledger.read() as session:
        connection = await session.connection()
        if book.kind == "sqlite":
            explain = "EXPLAIN QUERY PLAN"
        else:
            await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # of a small table
            explain = "EXPLAIN"
        plan = (await connection.exec_driver_sql(f"{explain} {asked}", given)).all()

    assert "runs_unmirrored" in str(plan)


async def test_nothing_to_write_down_asks_for_no_lock(book: Book) -> None:
    async with book.ledger.write():
        await mirror.mirrored(book.ledger, [])


def _as_granted(row: RunRow) -> Granted:
    return Granted(
        row.id,
        row.fence,
        row.parameters,
        row.occurrence,
        row.due,
        row.trigger,
        None,
        queued_at=row.queued_at,
    )
