"""Requirements 31, 32: who sends what is pending, one at a time, in turns, and none forgotten."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from daybook.errors import Ambiguous, NotFound
from daybook.ledger import deliveries, outbox, sending
from daybook.ledger.outcomes import Outcome
from daybook.ledger.sending import IN_DOUBT, IN_FLIGHT, PAUSE_AFTER, Tried
from daybook.ledger.states import Delivery, Status
from daybook.ledger.tables import LaneRow, OutboxRow
from daybook.outbox import backoff
from daybook.timing import TIMING
from tests import side_by_side
from tests.unit.ledger import senders
from tests.unit.ledger.conftest import Book
from tests.unit.ledger.killed import When

pytestmark = pytest.mark.anyio

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
PENDING, DELIVERED, FAILED = Delivery.PENDING, Delivery.DELIVERED, Delivery.FAILED


@pytest.fixture(scope="module", autouse=True)
def fork_server() -> Iterator[None]:
    """The process that all others are forked from: it has imported the ledger."""
    side_by_side.CONTEXT.set_forkserver_preload(["tests.unit.ledger.senders"])
    yield
    from multiprocessing import forkserver

    forkserver._forkserver._stop()  # type: ignore[attr-defined]


async def asked(book: Book, lane: str, count: int = 1, **fields: Any) -> list[str]:
    """So many rows to that lane, due one microsecond after the other up to now; their ids."""
    now = book.clock.now()
    async with book.ledger.write() as session:
        known = len((await session.execute(select(OutboxRow.id))).all())
        rows = [
            OutboxRow(
                **{
                    "key": f"{lane}:{known + number}",
                    "purpose": outbox.CALLBACK,
                    "event": "completed",
                    "lane": lane,
                    "address": lane,
                    "body": "{}",
                    "next_at": now - (count - number) * timedelta(microseconds=1),
                    "created_at": now,
                    **fields,
                }
            )
            for number in range(count)
        ]
        session.add_all(rows)
        return [row.id for row in rows]


async def row(book: Book, id_: str) -> OutboxRow:
    async with book.ledger.read() as session:
        found = await session.get(OutboxRow, id_)
    assert found is not None
    return found


async def claimed(book: Book, most: int = 1_000, **given: Any) -> list[OutboxRow]:
    return await sending.claim(book.ledger, "test", most=most, **given)


def tried(row: OutboxRow, status: Delivery, at: datetime | None = None, **fields: Any) -> Tried:
    given: dict[str, Any] = {"seconds": 0.1, **fields}
    if status is not DELIVERED:
        given = {"error": "answered 500", "status_code": 500, **given}
    return Tried(row.id, row.fence, status, at, **given)


async def record(
    book: Book, rows: Iterable[OutboxRow], status: Delivery, at: datetime | None = None
) -> None:
    await sending.record(book.ledger, [tried(each, status, at) for each in rows])


async def lanes(book: Book) -> dict[str, LaneRow]:
    async with book.ledger.read() as session:
        return {each.lane: each for each in (await session.execute(select(LaneRow))).scalars()}


# --- one at a time


async def test_what_is_claimed_is_nobody_elses_until_its_lease_has_run_out(book: Book) -> None:
    (id_,) = await asked(book, "a")
    (mine,) = await claimed(book)
    assert (mine.id, mine.fence, mine.holder) == (id_, 1, "test")
    assert mine.lease_until == book.clock.now() + TIMING.delivery_lease
    book.clock.move(TIMING.delivery_lease - SECOND)
    assert await claimed(book) == []

    book.clock.move(SECOND)
    (again,) = await claimed(book)
    assert (again.id, again.fence) == (id_, 2)


async def test_who_lost_his_lease_changes_nothing(book: Book) -> None:
    await asked(book, "a")
    (late,) = await claimed(book)
    book.clock.move(TIMING.delivery_lease)
    (mine,) = await claimed(book)

    for status in (DELIVERED, FAILED, PENDING):
        await record(book, [late], status, book.clock.now())
    await sending.release(book.ledger, [late])
    assert (await row(book, mine.id)).model_dump() == mine.model_dump()
    assert await lanes(book) == {}

    await record(book, [mine], DELIVERED)
    await record(book, [mine], FAILED)
    done = await row(book, mine.id)
    assert (done.status, done.attempts) == ("delivered", 1)


async def test_a_row_that_is_gone_holds_up_no_other(book: Book) -> None:
    await asked(book, "a", 2)
    first, second = await claimed(book)
    async with book.ledger.write() as session:
        await session.delete(await session.merge(first))
    await record(book, [first, second], DELIVERED)
    assert (await row(book, second.id)).status == "delivered"


async def test_many_processes_never_have_the_same_row(book: Book) -> None:
    ids = [id_ for number in range(20) for id_ in await asked(book, f"lane {number}", 10)]

    told = senders.at_once(book.ledger.address, book.clock, 12)

    sent = [each for one in told for each in one]
    assert Counter(sent) == Counter({(id_, 1): 1 for id_ in ids})
    assert {(await row(book, id_)).status for id_ in ids} == {"delivered"}


async def test_what_is_released_can_be_claimed_at_once_and_has_used_no_try(book: Book) -> None:
    ids = await asked(book, "a", 3)
    await sending.release(book.ledger, await claimed(book))
    again = await claimed(book)
    assert [each.id for each in again] == ids
    assert {each.attempts for each in again} == {0}


# --- what came of it


async def test_a_try_is_kept_with_what_it_said(book: Book) -> None:
    await asked(book, "a")
    (mine,) = await claimed(book)
    at = book.clock.now() + 5 * SECOND
    first = book.clock.now()
    await sending.record(
        book.ledger,
        [tried(mine, PENDING, at, seconds=1.25, note="signed with the home's secret")],
    )
    waits = await row(book, mine.id)
    assert (waits.status, waits.attempts, waits.next_at) == ("pending", 1, at)
    assert (waits.error, waits.note) == ("answered 500", "signed with the home's secret")
    assert (waits.holder, waits.lease_until, waits.finished_at) == ("", None, None)
    assert await claimed(book) == []

    book.clock.set(at)
    (mine,) = await claimed(book)
    await sending.record(book.ledger, [tried(mine, DELIVERED, status_code=204)])
    done = await row(book, mine.id)
    assert (done.status, done.attempts, done.error) == ("delivered", 2, None)
    assert (done.finished_at, done.note) == (at, "signed with the home's secret")
    told = [
        (each["at"], each["seconds"], each["status_code"], each["error"]) for each in done.tries
    ]
    assert told == [
        (first.isoformat(), 1.25, 500, "answered 500"),
        (at.isoformat(), 0.1, 204, ""),
    ]


async def test_a_destination_of_a_long_name_is_told_of_as_well(book: Book) -> None:
    lane = outbox.short("https://long.example.org/" + "x" * 3_000)
    await asked(book, lane, 2)
    for row, count in zip(await claimed(book), (1, 2), strict=True):
        await record(book, [row], FAILED)
        assert await _inbox(book) == [f"undelivered: {count} to {lane}"]


async def test_what_failed_for_good_is_told_in_the_inbox_once_a_lane_and_hour(book: Book) -> None:
    await asked(book, "a", 3)
    await asked(book, "b")
    rows = await claimed(book)
    *most, last = (each for each in rows if each.lane == "a")
    await record(book, most, FAILED)
    assert await _inbox(book) == ["undelivered: 2 to a"]
    await deliveries.mark_read(book.ledger)

    # The same message says how many they are by now, and is unread again.
    await record(book, [last, *(each for each in rows if each.lane == "b")], FAILED)
    assert sorted(await _inbox(book)) == ["undelivered: 1 to b", "undelivered: 3 to a"]

    book.clock.move(timedelta(hours=1))
    await asked(book, "a")
    await record(book, await claimed(book), FAILED)
    assert sorted(await _inbox(book)) == [
        "undelivered: 1 to a",
        "undelivered: 1 to b",
        "undelivered: 3 to a",
    ]


async def _all(book: Book) -> list[OutboxRow]:
    async with book.ledger.read() as session:
        ordered = select(OutboxRow).order_by(col(OutboxRow.next_at))
        return list((await session.execute(ordered)).scalars())


async def _inbox(book: Book) -> list[str]:
    async with book.ledger.read() as session:
        return [each.subject for each in await deliveries.inbox(session, unread_only=True)]


async def test_a_retry_lets_failed_ones_be_sent_again(book: Book) -> None:
    await asked(book, "a", 2)
    await asked(book, "b")
    rows = await claimed(book)
    await record(book, rows, FAILED)
    one = next(each for each in rows if each.lane == "b")

    assert await sending.retry(book.ledger, [one.id]) == 1
    (again,) = await claimed(book)
    assert (again.id, again.attempts, again.status) == (one.id, 0, "pending")
    await record(book, [again], DELIVERED)
    assert await sending.retry(book.ledger, [one.id]) == 0
    assert await sending.retry(book.ledger) == 2


async def test_a_retry_ends_the_wait_of_one_that_is_pending(book: Book) -> None:
    (id_,) = await asked(book, "a", next_at=book.clock.now() + MINUTE)
    assert await sending.retry(book.ledger) == 0
    assert await claimed(book) == []
    assert await sending.retry(book.ledger, [id_]) == 1
    assert [each.id for each in await claimed(book)] == [id_]


async def test_a_retry_begins_the_tries_and_their_day_anew(book: Book) -> None:
    await asked(book, "a", attempts=10, run_id="r")
    first = book.clock.now()
    await record(book, await claimed(book), FAILED)
    book.clock.move(timedelta(days=3))

    assert await sending.retry(book.ledger) == 1
    (again,) = await claimed(book)
    assert (again.attempts, again.created_at, again.retried_at) == (0, first, book.clock.now())
    assert [each["error"] for each in again.tries] == ["answered 500"]
    assert backoff.next_try(again, book.clock.now(), None, backoff.TRIES) is not None

    book.clock.move(timedelta(hours=24))
    assert backoff.next_try(again, book.clock.now(), None, backoff.TRIES) is None


async def test_all_that_failed_is_let_go_again_however_many_they_are(book: Book) -> None:
    count = 33_000  # more than a statement may have parameters
    await asked(book, "a", status=FAILED, finished_at=book.clock.now())
    own = {"id": "'msg_' || n", "key": "'key ' || n", "run_id": "'run ' || n"}
    columns = [column.name for column in OutboxRow.__table__.c]  # type: ignore[attr-defined]
    async with book.ledger.write() as session:
        await session.execute(
            text(
                "WITH RECURSIVE numbers (n) AS "
                f"(SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count}) "
                f"INSERT INTO outbox ({', '.join(columns)}) "
                f"SELECT {', '.join(own.get(name, name) for name in columns)} FROM outbox, numbers"
            )
        )

    assert await sending.retry(book.ledger) == count
    found = await health(book)
    assert (found["pending"], found["failed"]) == (count, 0)


# --- in turns


async def test_the_lanes_take_turns_and_the_oldest_comes_first(book: Book) -> None:
    await asked(book, "long", 100)
    await asked(book, "short", 3)
    await asked(book, "other", 3)
    rows = await claimed(book, 9)
    assert Counter(each.lane for each in rows) == {"long": 3, "short": 3, "other": 3}
    for lane in ("long", "short", "other"):
        due = [each.next_at for each in rows if each.lane == lane]
        assert due == sorted(due)


async def test_where_one_has_less_than_its_share_another_has_more(book: Book) -> None:
    await asked(book, "long", 100)
    await asked(book, "short", 1)
    assert Counter(each.lane for each in await claimed(book, 10)) == {"long": 9, "short": 1}


async def test_of_more_lanes_than_can_be_served_the_longest_due_come_first(book: Book) -> None:
    now = book.clock.now()
    for number in range(12):
        await asked(book, f"lane {number:02}", next_at=now - number * SECOND)
    rows = await claimed(book, 5)
    assert [each.lane for each in rows] == [f"lane {number:02}" for number in (11, 10, 9, 8, 7)]


async def test_only_so_many_of_a_lane_are_in_flight(book: Book) -> None:
    await asked(book, "a", IN_FLIGHT + 10)
    rows = await claimed(book)
    assert len(rows) == IN_FLIGHT
    assert await claimed(book) == []
    await record(book, rows[:3], DELIVERED)
    assert len(await claimed(book)) == 3


async def test_one_runs_rows_are_claimed_alone(book: Book) -> None:
    mine = await asked(book, "a", run_id="mine")
    await asked(book, "a", run_id="other")
    later = await asked(book, "b", run_id="mine", next_at=book.clock.now() + SECOND)
    assert [each.id for each in await claimed(book, run_id="mine")] == mine
    assert await claimed(book, run_id="mine") == []
    book.clock.move(SECOND)
    assert [each.id for each in await claimed(book, run_id="mine")] == later


# --- a destination that is away


async def fail(book: Book, times: int, lane: str = "a") -> None:
    """Let the lane fail so many times, one after the other."""
    for _ in range(times):
        first = next(each for each in await claimed(book) if each.lane == lane)
        await sending.release(book.ledger, [e for e in await _leased(book) if e.id != first.id])
        await record(book, [first], PENDING, book.clock.now())


async def _leased(book: Book) -> list[OutboxRow]:
    return [each for each in await _all(book) if each.lease_until is not None]


async def test_a_lane_that_fails_is_paused_and_the_others_are_not(book: Book) -> None:
    await asked(book, "a", 50)
    await fail(book, 1)
    assert len(await claimed(book)) == IN_DOUBT
    await sending.release(book.ledger, await _leased(book))
    await fail(book, PAUSE_AFTER - 1)

    ids = await asked(book, "b", 2)
    assert [each.id for each in await claimed(book)] == ids
    state = (await lanes(book))["a"]
    assert (state.failures, state.error) == (PAUSE_AFTER, "answered 500")
    assert state.paused_until == book.clock.now() + 30 * SECOND
    # What waits uses up no tries.
    assert sum(each.attempts for each in await _all(book)) == PAUSE_AFTER


async def test_after_the_pause_one_goes_as_a_probe(book: Book) -> None:
    await asked(book, "a", 50)
    await fail(book, PAUSE_AFTER)
    pauses = []
    for _ in range(7):
        state = (await lanes(book))["a"]
        assert state.paused_until is not None
        pauses.append(int((state.paused_until - book.clock.now()).total_seconds()))
        book.clock.set(state.paused_until - SECOND)
        assert await claimed(book) == []
        book.clock.move(SECOND)
        (probe,) = await claimed(book)
        assert await claimed(book) == []
        await record(book, [probe], PENDING, book.clock.now())
    assert pauses == [30, 60, 120, 240, 480, 600, 600]

    book.clock.move(10 * MINUTE)
    (probe,) = await claimed(book)
    await record(book, [probe], DELIVERED)
    assert await lanes(book) == {}
    assert len(await claimed(book)) == IN_FLIGHT


async def test_what_was_in_flight_when_it_was_paused_makes_the_pause_no_longer(book: Book) -> None:
    await asked(book, "a", IN_FLIGHT)
    await record(book, await claimed(book), PENDING, book.clock.now())
    state = (await lanes(book))["a"]
    assert state.paused_until == book.clock.now() + 30 * SECOND


async def test_one_that_arrives_meanwhile_ends_the_pause(book: Book) -> None:
    await asked(book, "a", PAUSE_AFTER + 1)
    *failing, well = await claimed(book)
    await record(book, failing, PENDING, book.clock.now())
    await record(book, [well], DELIVERED)
    assert await lanes(book) == {}


async def test_failures_are_counted_from_the_last_success_within_a_batch_too(book: Book) -> None:
    await asked(book, "a", 3)
    first, second, third = await claimed(book)
    await record(book, [first], PENDING, book.clock.now())
    book.clock.move(SECOND)
    now = book.clock.now()
    await sending.record(book.ledger, [tried(second, DELIVERED), tried(third, PENDING, now)])
    state = (await lanes(book))["a"]
    assert (state.failures, state.since) == (1, now)


async def test_an_address_that_is_gone_for_good_is_none_that_is_away(book: Book) -> None:
    await asked(book, "a", 2 * PAUSE_AFTER)
    rows = await claimed(book)
    await sending.record(
        book.ledger, [tried(each, FAILED, status_code=410, error="gone") for each in rows]
    )
    assert await lanes(book) == {}


async def test_what_is_refused_on_this_side_says_nothing_of_its_lane(book: Book) -> None:
    await asked(book, "a", 2 * PAUSE_AFTER, owner="agent:default")
    rows = await claimed(book)
    await sending.record(
        book.ledger,
        [tried(each, FAILED, status_code=None, error="refused", went_out=False) for each in rows],
    )
    assert await lanes(book) == {}
    assert {each.status for each in await _all(book) if each.lane == "a"} == {"failed"}


async def test_a_retry_ends_the_pause(book: Book) -> None:
    await asked(book, "a", PAUSE_AFTER)
    await record(book, await claimed(book), FAILED)
    assert await sending.retry(book.ledger) == PAUSE_AFTER
    (probe,) = await claimed(book)
    await record(book, [probe], DELIVERED)
    assert len(await claimed(book)) == PAUSE_AFTER - 1


async def test_what_waits_for_one_that_took_nothing_for_a_day_ends(book: Book) -> None:
    url = "https://dead.example.org/x"
    stored = await book.add(cron="0 * * * *", on_complete=url)
    granted = await book.settled(book.due(stored), Status.SUCCEEDED, output="x")
    await asked(book, url, sending.GIVEN_UP_AT_ONCE + 100, next_at=book.clock.now() - MINUTE)
    rows = await claimed(book)
    await record(book, rows, PENDING, book.clock.now() + timedelta(hours=30))

    async def probe(status: Delivery) -> int:
        (row,) = await claimed(book)
        await record(book, [row], status, book.clock.now() + timedelta(hours=1))
        return len([each for each in await _all(book) if each.status == FAILED])

    book.clock.move(timedelta(hours=24) - SECOND)
    await asked(book, url, 1, key="young")
    assert await probe(PENDING) == 0
    book.clock.move(MINUTE)
    assert await probe(FAILED) == 1 + sending.GIVEN_UP_AT_ONCE
    book.clock.move(10 * MINUTE)
    assert await probe(FAILED) == 1 + sending.GIVEN_UP_AT_ONCE + 100

    assert [each.key for each in await _all(book) if each.status == PENDING] == ["young"]
    assert (await book.row(granted.run_id)).delivery == "failed"
    assert await _inbox(book) == [f"undelivered: 601 to {url}"]
    given_up = [each for each in await _all(book) if each.status == FAILED and not each.attempts]
    assert len(given_up) > 500
    assert all("nothing was taken there since" in (each.error or "") for each in given_up)


async def test_after_a_day_without_a_sender_one_failed_try_ends_no_other(book: Book) -> None:
    await asked(book, "a", 50)
    book.clock.move(timedelta(days=3))
    await record(book, await claimed(book), FAILED)
    shown = Counter(each.status for each in await _all(book) if each.lane == "a")
    assert shown == {"failed": IN_FLIGHT, "pending": 50 - IN_FLIGHT}


async def test_a_retry_is_not_given_up_with_what_is_older(book: Book) -> None:
    await asked(book, "a", 2 * IN_FLIGHT)
    await record(book, await claimed(book), FAILED)
    book.clock.move(timedelta(days=2))
    assert await sending.retry(book.ledger) == IN_FLIGHT
    (probe,) = await claimed(book)
    await record(book, [probe], PENDING, book.clock.now())
    shown = Counter(each.status for each in await _all(book) if each.lane == "a")
    assert shown == {"pending": IN_FLIGHT, "failed": IN_FLIGHT}


async def test_a_clock_that_was_set_back_neither_pauses_nor_holds(book: Book) -> None:
    await asked(book, "held", 1)
    await asked(book, "a", PAUSE_AFTER + 1)
    old = await claimed(book)
    await record(book, [each for each in old if each.lane == "a"], PENDING, book.clock.now())
    book.clock.move(-timedelta(days=7))
    async with book.ledger.write() as session:
        rows = (await session.execute(select(OutboxRow))).scalars()
        for each in rows:
            each.next_at = book.clock.now()
            session.add(each)

    assert await sending.next_due(book.ledger) == book.clock.now()
    assert (await health(book))["in_flight"] == 0
    rows_ = await claimed(book)
    assert {each.lane: each.fence for each in rows_} == {"held": 2, "a": 2}
    await record(book, [each for each in rows_ if each.lane == "a"], PENDING, book.clock.now())
    state = (await lanes(book))["a"]
    assert state.since == book.clock.now()
    assert state.paused_until == book.clock.now() + 60 * SECOND


async def test_a_dead_destination_among_twenty_takes_no_turn_of_the_others(book: Book) -> None:
    await asked(book, "dead", 500, next_at=book.clock.now() - MINUTE)
    for number in range(19):
        await asked(book, f"lane {number:02}", 10)
    # It hangs: what is claimed of it is in hand until its first try has ended.
    sent = 0
    while rows := await claimed(book, 40):
        well = [each for each in rows if each.lane != "dead"]
        await record(book, well, DELIVERED)
        sent += len(well)
    assert sent == 190
    assert len(await _leased(book)) == IN_FLIGHT


# --- when to look again


async def test_when_there_may_be_something_to_claim(book: Book) -> None:
    now = book.clock.now()
    assert await sending.next_due(book.ledger) is None
    await asked(book, "b", next_at=now + MINUTE)
    assert await sending.next_due(book.ledger) == now + MINUTE
    await asked(book, "a", next_at=now + SECOND)
    assert await sending.next_due(book.ledger) == now + SECOND

    book.clock.move(SECOND)
    (mine,) = await claimed(book)
    # Its lease runs out when the other one is due: whichever is first.
    assert await sending.next_due(book.ledger) == now + MINUTE
    await record(book, [mine], DELIVERED)
    book.clock.move(MINUTE)
    (mine,) = await claimed(book)
    assert await sending.next_due(book.ledger) == book.clock.now() + TIMING.delivery_lease
    await record(book, [mine], DELIVERED)
    assert await sending.next_due(book.ledger) is None


async def test_what_is_behind_a_pause_or_a_full_lane_is_not_looked_for_before(book: Book) -> None:
    await asked(book, "a", IN_FLIGHT + PAUSE_AFTER)
    rows = await claimed(book)
    assert await sending.next_due(book.ledger) == book.clock.now() + TIMING.delivery_lease
    await record(book, rows, PENDING, book.clock.now())
    assert await sending.next_due(book.ledger) == book.clock.now() + 30 * SECOND


async def test_what_a_killed_sender_had_of_a_paused_lane_waits_with_it(book: Book) -> None:
    await asked(book, "a", 2 * PAUSE_AFTER)
    failing = (await claimed(book))[:PAUSE_AFTER]  # and the others are never heard of again
    await record(book, failing, PENDING, book.clock.now())
    assert (await health(book))["in_flight"] == PAUSE_AFTER
    async with book.ledger.write() as session:
        state = await session.get(LaneRow, "a")
        assert state is not None
        until = state.paused_until = book.clock.now() + 10 * MINUTE
        session.add(state)

    assert await sending.next_due(book.ledger) == until
    book.clock.move(4 * MINUTE)
    assert (await health(book))["in_flight"] == 0
    assert await sending.next_due(book.ledger) == until
    book.clock.set(until)
    due = await sending.next_due(book.ledger)
    assert due is not None and due <= until
    assert len(await claimed(book)) == 1


# --- how it is


async def health(book: Book) -> dict[str, Any]:
    async with book.ledger.read() as session:
        return await sending.health(session, book.clock.now())


async def test_how_it_is_is_counted_in_the_indexes_alone(book: Book) -> None:
    statements: list[tuple[str, Any]] = []
    event.listen(
        book.ledger._engine.sync_engine,
        "before_cursor_execute",
        lambda _, __, statement, given, *___: statements.append((statement, given)),
    )
    await health(book)
    asked_of = [each for each in statements if "count(" in each[0] and "lease" not in each[0]]
    explain, alone = "EXPLAIN QUERY PLAN", "COVERING INDEX"
    async with book.ledger.read() as session:
        connection = await session.connection()
        if book.kind == "postgresql":  # how much of an index it reads, it decides by the rows
            await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            explain, alone = "EXPLAIN", ""
        plans = [
            str((await connection.exec_driver_sql(f"{explain} {asked}", given)).all())
            for asked, given in asked_of
        ]

    names = [f"{alone} outbox_{name}".strip() for name in ("pending", "failed", "unread")]
    assert all(any(name in plan for plan in plans) for name in names), plans


async def test_an_alert_is_what_alarms_whoever_was_told(book: Book) -> None:
    told = (
        ("message", "failed"),
        ("alert", "paused"),
        ("alert", "overdue"),
        ("message", "recovered"),
        ("alert", "on_time"),
        ("message", "test"),
        ("message", "completed"),
    )
    async with book.ledger.write() as session:
        for purpose, event in told:
            await outbox.tell(
                session,
                key=event,
                purpose=purpose,
                event=event,
                channel=outbox.INBOX,
                subject=event,
                body=event,
                now=book.clock.now(),
            )
    found = await health(book)
    assert (found["unread"], found["unread_alerts"]) == (len(told), 3)


async def test_neither_a_row_nor_an_error_shows_an_address_or_a_text(book: Book) -> None:
    secret: dict[str, Any] = {
        "address": "https://x.example/?token=s3cret",
        "body": "s3cret",
        "chat_id": "s3cret",
    }
    (id_,) = await asked(book, "a", **secret)
    assert "s3cret" not in repr(await row(book, id_))
    with pytest.raises(IntegrityError) as refused:
        await asked(book, "a", **secret, key="a:0")
    assert "s3cret" not in str(refused.value)
    assert "s3cret" not in repr(refused.value)


async def test_the_health_of_the_outbox(book: Book) -> None:
    first = book.clock.now()
    await asked(book, "a", PAUSE_AFTER)
    book.clock.move(MINUTE)
    await asked(book, "b", 2)
    rows = await claimed(book)
    await record(book, [each for each in rows if each.lane == "a"], PENDING, book.clock.now())
    await record(book, [each for each in rows if each.lane == "b"][:1], FAILED)

    async with book.ledger.read() as session:
        health = await sending.health(session, book.clock.now())
    assert health == {
        "pending": PAUSE_AFTER + 1,
        "oldest_pending_at": first,
        "in_flight": 1,
        "failed": 1,
        "paused": [
            {
                "lane": "a",
                "failures": PAUSE_AFTER,
                "since": book.clock.now(),
                "paused_until": book.clock.now() + 30 * SECOND,
                "error": "answered 500",
            }
        ],
        "unread": 1,
        "unread_alerts": 1,
    }


async def test_a_row_is_named_by_the_beginning_of_its_id(book: Book) -> None:
    await asked(book, "a", id="msg_abc1")
    await asked(book, "a", id="msg_abc2")
    async with book.ledger.read() as session:
        for ref in ("msg_abc1", "abc1"):
            assert (await deliveries.find(session, ref)).id == "msg_abc1"
        for ref in ("msg_abc", "abc", "a"):
            with pytest.raises(Ambiguous, match="callback"):
                await deliveries.find(session, ref)
        for ref in ("", "msg_", "x", "%", "msg%"):
            with pytest.raises(NotFound, match="callback"):
                await deliveries.find(session, ref)


# --- kill -9


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_outcome_and_what_is_told_of_it_are_there_together(book: Book, when: When) -> None:
    stored = await book.add(cron="0 * * * *", channel="team", on_complete="https://x.example/")
    granted = await book.begun(book.due(stored))
    known = Outcome(Status.SUCCEEDED, output="All is well.")
    given = (granted.run_id, granted.fence, known)

    code = senders.killed(book.ledger.address, book.clock, "settle", when, *given)

    assert code == -signal.SIGKILL
    run = await book.row(granted.run_id)
    shown = (run.status, run.delivery, len(await _all(book)))
    assert shown == (("acting", "not_requested", 0), ("succeeded", "pending", 2))[when == "after"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_who_is_killed_after_a_claim_leaves_it_to_the_next(book: Book, when: When) -> None:
    ids = await asked(book, "a", 3)

    code = senders.killed(book.ledger.address, book.clock, "claim", when, "killed", most=10)

    assert code == -signal.SIGKILL
    found = await claimed(book)
    assert [each.id for each in found] == ([] if when == "after" else ids)
    book.clock.move(TIMING.delivery_lease)
    assert [each.id for each in await claimed(book)] == ids


@pytest.mark.parametrize("when", ["before", "after"])
async def test_who_is_killed_as_he_records_has_recorded_all_or_nothing(
    book: Book, when: When
) -> None:
    await asked(book, "a", 2)
    rows = await claimed(book)
    done = [tried(rows[0], DELIVERED), tried(rows[1], FAILED)]

    code = senders.killed(book.ledger.address, book.clock, "record", when, done)

    assert code == -signal.SIGKILL
    shown = [(each.status, each.attempts) for each in await _all(book) if each.lane == "a"]
    told = await _inbox(book)
    if when == "after":
        assert (shown, told) == ([("delivered", 1), ("failed", 1)], ["undelivered: 1 to a"])
    else:
        assert (shown, told) == ([("pending", 0), ("pending", 0)], [])
        book.clock.move(TIMING.delivery_lease)
        assert [each.fence for each in await claimed(book)] == [2, 2]
