"""Sending of pending outbox rows (requirements 31, 32): claims, leases, turns, pauses, retries."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from daybook.delivery import backoff, history, outbox, pending, sending
from daybook.delivery.destination_settings import DEFAULT_ATTEMPTS
from daybook.delivery.sending import (
    FAILURES_BEFORE_PAUSE,
    MAX_IN_FLIGHT_AFTER_FAILURE,
    MAX_IN_FLIGHT_PER_QUEUE,
    DeliveryResult,
)
from daybook.delivery.views import OutboxHealth, PausedQueue
from daybook.errors import Ambiguous, NotFound
from daybook.ledger.states import Delivery, Outcome, Status
from daybook.ledger.tables import OutboxRow, QueueRow
from daybook.timing import TIMING
from tests import rows
from tests.unit.delivery import senders
from tests.unit.ledger.killed import When
from tests.world import World

pytestmark = pytest.mark.anyio

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
PENDING, DELIVERED, FAILED = Delivery.PENDING, Delivery.DELIVERED, Delivery.FAILED


async def enqueue(world: World, queue: str, count: int = 1, **fields: Any) -> list[str]:
    """Add ``count`` rows for ``queue``, due a microsecond apart up to now; return their ids."""
    now = world.clock.now()
    async with world.ledger.write() as session:
        known = len((await session.execute(select(OutboxRow.id))).all())
        rows = [
            OutboxRow(
                **{
                    "key": f"{queue}:{known + number}",
                    "purpose": outbox.CALLBACK,
                    "event": "completed",
                    "queue": queue,
                    "address": queue,
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


async def row(world: World, id_: str) -> OutboxRow:
    async with world.ledger.read() as session:
        found = await session.get(OutboxRow, id_)
    assert found is not None
    return found


async def claimed(world: World, most: int = 1_000, **given: Any) -> list[OutboxRow]:
    return await sending.claim(world.ledger, "test", most=most, **given)


def tried(
    row: OutboxRow, status: Delivery, at: datetime | None = None, **fields: Any
) -> DeliveryResult:
    given: dict[str, Any] = {"seconds": 0.1, **fields}
    if status is not DELIVERED:
        given = {"error": "answered 500", "status_code": 500, **given}
    return DeliveryResult(row.id, row.fence, status, at, **given)


async def record(
    world: World, rows: Iterable[OutboxRow], status: Delivery, at: datetime | None = None
) -> None:
    await sending.record(world.ledger, [tried(each, status, at) for each in rows])


async def queues(world: World) -> dict[str, QueueRow]:
    async with world.ledger.read() as session:
        return {each.queue: each for each in (await session.execute(select(QueueRow))).scalars()}


# --- claims and leases


async def test_a_claimed_row_cannot_be_claimed_again_until_its_lease_ends(world: World) -> None:
    (id_,) = await enqueue(world, "a")
    (row,) = await claimed(world)
    assert (row.id, row.fence, row.holder) == (id_, 1, "test")
    assert row.lease_until == world.clock.now() + TIMING.delivery_lease
    world.clock.move(TIMING.delivery_lease - SECOND)
    assert await claimed(world) == []

    world.clock.move(SECOND)
    (again,) = await claimed(world)
    assert (again.id, again.fence) == (id_, 2)


async def test_a_sender_that_lost_its_lease_changes_nothing(world: World) -> None:
    await enqueue(world, "a")
    (late,) = await claimed(world)
    world.clock.move(TIMING.delivery_lease)
    (claimed_row,) = await claimed(world)

    for status in (DELIVERED, FAILED, PENDING):
        await record(world, [late], status, world.clock.now())
    await sending.release(world.ledger, [late])
    assert (await row(world, claimed_row.id)).model_dump() == claimed_row.model_dump()
    assert await queues(world) == {}

    await record(world, [claimed_row], DELIVERED)
    await record(world, [claimed_row], FAILED)
    done = await row(world, claimed_row.id)
    assert (done.status, done.attempts) == ("delivered", 1)


async def test_a_deleted_row_does_not_prevent_recording_the_others(world: World) -> None:
    await enqueue(world, "a", 2)
    first, second = await claimed(world)
    async with world.ledger.write() as session:
        await session.delete(await session.merge(first))
    await record(world, [first, second], DELIVERED)
    assert (await row(world, second.id)).status == "delivered"


async def test_concurrent_senders_never_claim_the_same_row(world: World) -> None:
    ids = [id_ for number in range(20) for id_ in await enqueue(world, f"queue {number}", 10)]

    results = senders.at_once(world.ledger.address, world.clock, 4)

    sent = [each for one in results for each in one]
    assert Counter(sent) == Counter({(id_, 1): 1 for id_ in ids})
    assert {(await row(world, id_)).status for id_ in ids} == {"delivered"}


async def test_a_released_row_can_be_claimed_at_once_and_has_used_no_try(world: World) -> None:
    ids = await enqueue(world, "a", 3)
    await sending.release(world.ledger, await claimed(world))
    again = await claimed(world)
    assert [each.id for each in again] == ids
    assert {each.attempts for each in again} == {0}


# --- results of tries


async def test_each_try_is_recorded_with_its_result(world: World) -> None:
    await enqueue(world, "a")
    (claimed_row,) = await claimed(world)
    at = world.clock.now() + 5 * SECOND
    first = world.clock.now()
    await sending.record(
        world.ledger,
        [tried(claimed_row, PENDING, at, seconds=1.25, note="signed with the home's secret")],
    )
    waits = await row(world, claimed_row.id)
    assert (waits.status, waits.attempts, waits.next_at) == ("pending", 1, at)
    assert (waits.error, waits.note) == ("answered 500", "signed with the home's secret")
    assert (waits.holder, waits.lease_until, waits.finished_at) == ("", None, None)
    assert await claimed(world) == []

    world.clock.set(at)
    (claimed_row,) = await claimed(world)
    await sending.record(world.ledger, [tried(claimed_row, DELIVERED, status_code=204)])
    done = await row(world, claimed_row.id)
    assert (done.status, done.attempts, done.error) == ("delivered", 2, None)
    assert (done.finished_at, done.note) == (at, "signed with the home's secret")
    results = [
        (each["at"], each["seconds"], each["status_code"], each["error"]) for each in done.tries
    ]
    assert results == [
        (first.isoformat(), 1.25, 500, "answered 500"),
        (at.isoformat(), 0.1, 204, ""),
    ]


async def test_failures_of_a_destination_with_a_long_name_are_in_the_inbox(world: World) -> None:
    queue = outbox.bounded_name("https://long.example.org/" + "x" * 3_000)
    await enqueue(world, queue, 2)
    for row, count in zip(await claimed(world), (1, 2), strict=True):
        await record(world, [row], FAILED)
        assert await _inbox(world) == [f"undelivered: {count} to {queue}"]


async def test_final_failures_give_one_inbox_message_per_destination_and_hour(world: World) -> None:
    await enqueue(world, "a", 3)
    await enqueue(world, "b")
    rows = await claimed(world)
    *most, last = (each for each in rows if each.queue == "a")
    await record(world, most, FAILED)
    assert await _inbox(world) == ["undelivered: 2 to a"]
    await history.mark_read(world.ledger)

    # The message is updated with the new count and is unread again.
    await record(world, [last, *(each for each in rows if each.queue == "b")], FAILED)
    assert sorted(await _inbox(world)) == ["undelivered: 1 to b", "undelivered: 3 to a"]

    world.clock.move(timedelta(hours=1))
    await enqueue(world, "a")
    await record(world, await claimed(world), FAILED)
    assert sorted(await _inbox(world)) == [
        "undelivered: 1 to a",
        "undelivered: 1 to b",
        "undelivered: 3 to a",
    ]


async def _all(world: World) -> list[OutboxRow]:
    async with world.ledger.read() as session:
        ordered = select(OutboxRow).order_by(col(OutboxRow.next_at))
        return list((await session.execute(ordered)).scalars())


async def _inbox(world: World) -> list[str]:
    async with world.ledger.read() as session:
        return [each.subject for each in await history.inbox(session, unread_only=True)]


async def test_a_retry_makes_failed_rows_pending_again(world: World) -> None:
    await enqueue(world, "a", 2)
    await enqueue(world, "b")
    rows = await claimed(world)
    await record(world, rows, FAILED)
    one = next(each for each in rows if each.queue == "b")

    assert await sending.retry(world.ledger, [one.id]) == 1
    (again,) = await claimed(world)
    assert (again.id, again.attempts, again.status) == (one.id, 0, "pending")
    await record(world, [again], DELIVERED)
    assert await sending.retry(world.ledger, [one.id]) == 0
    assert await sending.retry(world.ledger) == 2


async def test_a_retry_makes_a_waiting_row_due_now(world: World) -> None:
    (id_,) = await enqueue(world, "a", next_at=world.clock.now() + MINUTE)
    assert await sending.retry(world.ledger) == 0
    assert await claimed(world) == []
    assert await sending.retry(world.ledger, [id_]) == 1
    assert [each.id for each in await claimed(world)] == [id_]


async def test_a_retry_restarts_the_count_of_tries_and_their_day(world: World) -> None:
    await enqueue(world, "a", attempts=10, run_id="r")
    first = world.clock.now()
    await record(world, await claimed(world), FAILED)
    world.clock.move(timedelta(days=3))

    assert await sending.retry(world.ledger) == 1
    (again,) = await claimed(world)
    assert (again.attempts, again.created_at, again.retried_at) == (0, first, world.clock.now())
    assert [each["error"] for each in again.tries] == ["answered 500"]
    assert backoff.next_attempt_at(again, world.clock.now(), None, DEFAULT_ATTEMPTS) is not None

    world.clock.move(timedelta(hours=24))
    assert backoff.next_attempt_at(again, world.clock.now(), None, DEFAULT_ATTEMPTS) is None


async def test_a_retry_of_all_failed_rows_works_for_33_000_rows(world: World) -> None:
    count = 33_000  # more than a statement may have parameters
    await enqueue(world, "a", status=FAILED, finished_at=world.clock.now())
    own = {"id": "'msg_' || n", "key": "'key ' || n", "run_id": "'run ' || n"}
    columns = [column.name for column in OutboxRow.__table__.c]  # type: ignore[attr-defined]
    async with world.ledger.write() as session:
        await session.execute(
            text(
                "WITH RECURSIVE numbers (n) AS "
                f"(SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count}) "
                f"INSERT INTO outbox ({', '.join(columns)}) "
                f"SELECT {', '.join(own.get(name, name) for name in columns)} FROM outbox, numbers"
            )
        )

    assert await sending.retry(world.ledger) == count
    found = await health(world)
    assert (found.pending, found.failed) == (count, 0)


# --- turns of the destinations


async def test_destination_queues_share_a_batch_and_the_oldest_row_comes_first(
    world: World,
) -> None:
    await enqueue(world, "long", 100)
    await enqueue(world, "short", 3)
    await enqueue(world, "other", 3)
    rows = await claimed(world, 9)
    assert Counter(each.queue for each in rows) == {"long": 3, "short": 3, "other": 3}
    for queue in ("long", "short", "other"):
        due = [each.next_at for each in rows if each.queue == queue]
        assert due == sorted(due)


async def test_a_destination_queue_uses_the_share_that_another_leaves(world: World) -> None:
    await enqueue(world, "long", 100)
    await enqueue(world, "short", 1)
    assert Counter(each.queue for each in await claimed(world, 10)) == {"long": 9, "short": 1}


async def test_if_the_batch_is_too_small_the_longest_due_destinations_come_first(
    world: World,
) -> None:
    now = world.clock.now()
    for number in range(12):
        await enqueue(world, f"queue {number:02}", next_at=now - number * SECOND)
    rows = await claimed(world, 5)
    assert [each.queue for each in rows] == [f"queue {number:02}" for number in (11, 10, 9, 8, 7)]


async def test_the_rows_in_flight_per_destination_are_limited(world: World) -> None:
    await enqueue(world, "a", MAX_IN_FLIGHT_PER_QUEUE + 10)
    rows = await claimed(world)
    assert len(rows) == MAX_IN_FLIGHT_PER_QUEUE
    assert await claimed(world) == []
    await record(world, rows[:3], DELIVERED)
    assert len(await claimed(world)) == 3


async def test_a_claim_for_one_run_takes_only_the_rows_of_that_run(world: World) -> None:
    row = await enqueue(world, "a", run_id="mine")
    await enqueue(world, "a", run_id="other")
    later = await enqueue(world, "b", run_id="mine", next_at=world.clock.now() + SECOND)
    assert [each.id for each in await claimed(world, run_id="mine")] == row
    assert await claimed(world, run_id="mine") == []
    world.clock.move(SECOND)
    assert [each.id for each in await claimed(world, run_id="mine")] == later


# --- unreachable destinations

FIVE = FAILURES_BEFORE_PAUSE * ["later"]
PAUSE, RETRY = ["after the pause"], ["retried by a user"]
ALL, FEW = MAX_IN_FLIGHT_PER_QUEUE, MAX_IN_FLIGHT_AFTER_FAILURE

PLAYS: list[tuple[list[list[str]], tuple[int, int, int]]] = [
    # The results of each transaction; then the failures in a row, the seconds of the pause, and the
    # number of rows that may be sent now.
    ([["later"]], (1, 0, FEW)),
    (FAILURES_BEFORE_PAUSE * [["later"]], (5, 30, 0)),
    # Failures of rows in flight do not extend the pause, and a success among them ends it.
    ([ALL * ["later"]], (5, 30, 0)),
    ([[*FIVE, "ok"]], (0, 0, ALL)),
    # These failures say nothing about the other rows of the destination.
    ([10 * ["gone"]], (0, 0, ALL)),
    ([10 * ["refused"]], (0, 0, ALL)),
    # After the pause, one row is sent as a probe. If it fails, the next pause is longer.
    ([FIVE, PAUSE], (5, 0, 1)),
    ([FIVE, *(4 * [PAUSE, ["later"]])], (9, 480, 0)),
    ([FIVE, *(6 * [PAUSE, ["later"]])], (11, 600, 0)),
    ([FIVE, PAUSE, ["ok"]], (0, 0, ALL)),
    ([FAILURES_BEFORE_PAUSE * ["final"], RETRY], (5, 0, 1)),
]


async def test_a_destination_that_fails_is_paused_and_the_others_are_not(world: World) -> None:
    for (play, (failures, seconds, free)), row in rows.each(PLAYS):
        with row:
            queue = f"queue {uuid4().hex}"
            await _play(world, queue, play)
            now = world.clock.now()
            state = (await queues(world)).get(queue, QueueRow(queue=queue, since=now))
            pause = max((state.paused_until or now) - now, timedelta())
            may_be_sent = await claimed(world, wanted=queue.__eq__)
            assert (state.failures, pause) == (failures, seconds * SECOND)
            assert len(may_be_sent) == free


async def _play(world: World, queue: str, play: list[list[str]]) -> None:
    """Record these results for rows of the destination, in this order."""
    ids = await enqueue(world, queue, 2 * ALL)
    for results in play:
        if results == RETRY:
            await sending.retry(world.ledger, ids)
            continue
        if results == PAUSE:
            until = (await queues(world))[queue].paused_until
            assert until is not None
            world.clock.set(until - SECOND)
            assert await claimed(world, wanted=queue.__eq__) == []
            world.clock.set(until)
            continue
        free = await claimed(world, wanted=queue.__eq__)
        tries = {
            "later": lambda row: tried(row, PENDING, world.clock.now()),
            "final": lambda row: tried(row, FAILED),
            "gone": lambda row: tried(row, FAILED, status_code=410),
            "refused": lambda row: tried(row, FAILED, status_code=None, went_out=False),
            "ok": lambda row: tried(row, DELIVERED),
        }
        done = [tries[each](row) for each, row in zip(results, free, strict=False)]
        assert len(done) == len(results)
        await sending.record(world.ledger, done)
        await sending.release(world.ledger, free[len(done) :])


async def test_failures_are_counted_from_the_last_success_even_within_a_batch(world: World) -> None:
    await enqueue(world, "a", 3)
    first, second, third = await claimed(world)
    await record(world, [first], PENDING, world.clock.now())
    world.clock.move(SECOND)
    now = world.clock.now()
    await sending.record(world.ledger, [tried(second, DELIVERED), tried(third, PENDING, now)])
    state = (await queues(world))["a"]
    assert (state.failures, state.since) == (1, now)


async def test_rows_of_a_destination_that_accepted_nothing_for_a_day_fail(world: World) -> None:
    url = "https://dead.example.org/x"
    stored = await world.jobs.add(cron="0 * * * *", on_complete=url)
    granted = await world.runs.finished(stored, Status.SUCCEEDED, output="x")
    await enqueue(world, url, sending.MAX_BATCH_SIZE + 100, next_at=world.clock.now() - MINUTE)
    rows = await claimed(world)
    await record(world, rows, PENDING, world.clock.now() + timedelta(hours=30))

    async def probe(status: Delivery) -> int:
        (row,) = await claimed(world)
        await record(world, [row], status, world.clock.now() + timedelta(hours=1))
        return len([each for each in await _all(world) if each.status == FAILED])

    world.clock.move(timedelta(hours=24) - SECOND)
    await enqueue(world, url, 1, key="young")
    assert await probe(PENDING) == 0
    world.clock.move(MINUTE)
    assert await probe(FAILED) == 1 + sending.MAX_BATCH_SIZE
    world.clock.move(10 * MINUTE)
    assert await probe(FAILED) == 1 + sending.MAX_BATCH_SIZE + 100

    assert [each.key for each in await _all(world) if each.status == PENDING] == ["young"]
    assert (await world.runs.row(granted.run_id)).delivery == "failed"
    assert await _inbox(world) == [f"undelivered: 601 to {url}"]
    given_up = [each for each in await _all(world) if each.status == FAILED and not each.attempts]
    assert len(given_up) > 500
    assert all("nothing has been accepted since" in (each.error or "") for each in given_up)


async def test_after_a_day_without_a_sender_one_failure_ends_no_other_row(world: World) -> None:
    await enqueue(world, "a", 50)
    world.clock.move(timedelta(days=3))
    await record(world, await claimed(world), FAILED)
    shown = Counter(each.status for each in await _all(world) if each.queue == "a")
    assert shown == {"failed": MAX_IN_FLIGHT_PER_QUEUE, "pending": 50 - MAX_IN_FLIGHT_PER_QUEUE}


async def test_a_retried_row_is_not_given_up_with_older_ones(world: World) -> None:
    await enqueue(world, "a", 2 * MAX_IN_FLIGHT_PER_QUEUE)
    await record(world, await claimed(world), FAILED)
    world.clock.move(timedelta(days=2))
    assert await sending.retry(world.ledger) == MAX_IN_FLIGHT_PER_QUEUE
    (probe,) = await claimed(world)
    await record(world, [probe], PENDING, world.clock.now())
    shown = Counter(each.status for each in await _all(world) if each.queue == "a")
    assert shown == {"pending": MAX_IN_FLIGHT_PER_QUEUE, "failed": MAX_IN_FLIGHT_PER_QUEUE}


async def test_a_clock_that_was_set_back_extends_neither_pauses_nor_leases(world: World) -> None:
    await enqueue(world, "held", 1)
    await enqueue(world, "a", FAILURES_BEFORE_PAUSE + 1)
    old = await claimed(world)
    await record(world, [each for each in old if each.queue == "a"], PENDING, world.clock.now())
    world.clock.move(-timedelta(days=7))
    async with world.ledger.write() as session:
        rows = (await session.execute(select(OutboxRow))).scalars()
        for each in rows:
            each.next_at = world.clock.now()
            session.add(each)

    assert await sending.next_due(world.ledger) == world.clock.now()
    assert (await health(world)).in_flight == 0
    rows_ = await claimed(world)
    assert {each.queue: each.fence for each in rows_} == {"held": 2, "a": 2}
    await record(world, [each for each in rows_ if each.queue == "a"], PENDING, world.clock.now())
    state = (await queues(world))["a"]
    assert state.since == world.clock.now()
    assert state.paused_until == world.clock.now() + 60 * SECOND


async def test_a_hanging_destination_does_not_delay_nineteen_others(world: World) -> None:
    await enqueue(world, "dead", 500, next_at=world.clock.now() - MINUTE)
    for number in range(19):
        await enqueue(world, f"queue {number:02}", 10)
    # It hangs: its claimed rows stay in flight until their first try ends.
    sent = 0
    while rows := await claimed(world, 40):
        well = [each for each in rows if each.queue != "dead"]
        await record(world, well, DELIVERED)
        sent += len(well)
    assert sent == 190
    assert (await health(world)).in_flight == MAX_IN_FLIGHT_PER_QUEUE


# --- the next time to claim


async def test_next_due_is_the_earliest_due_time_or_lease_end(world: World) -> None:
    now = world.clock.now()
    assert await sending.next_due(world.ledger) is None
    await enqueue(world, "b", next_at=now + MINUTE)
    assert await sending.next_due(world.ledger) == now + MINUTE
    await enqueue(world, "a", next_at=now + SECOND)
    assert await sending.next_due(world.ledger) == now + SECOND

    world.clock.move(SECOND)
    (row,) = await claimed(world)
    # The other row is due before this lease ends.
    assert await sending.next_due(world.ledger) == now + MINUTE
    await record(world, [row], DELIVERED)
    world.clock.move(MINUTE)
    (row,) = await claimed(world)
    assert await sending.next_due(world.ledger) == world.clock.now() + TIMING.delivery_lease
    await record(world, [row], DELIVERED)
    assert await sending.next_due(world.ledger) is None


async def test_next_due_waits_for_the_pause_or_for_rows_in_flight_to_end(world: World) -> None:
    await enqueue(world, "a", MAX_IN_FLIGHT_PER_QUEUE + FAILURES_BEFORE_PAUSE)
    rows = await claimed(world)
    assert await sending.next_due(world.ledger) == world.clock.now() + TIMING.delivery_lease
    await record(world, rows, PENDING, world.clock.now())
    assert await sending.next_due(world.ledger) == world.clock.now() + 30 * SECOND


async def test_rows_of_a_killed_sender_wait_until_their_paused_destination_resumes(
    world: World,
) -> None:
    await enqueue(world, "a", 2 * FAILURES_BEFORE_PAUSE)
    failing = (await claimed(world))[:FAILURES_BEFORE_PAUSE]  # the sender of the others was killed
    await record(world, failing, PENDING, world.clock.now())
    assert (await health(world)).in_flight == FAILURES_BEFORE_PAUSE
    async with world.ledger.write() as session:
        state = await session.get(QueueRow, "a")
        assert state is not None
        until = state.paused_until = world.clock.now() + 10 * MINUTE
        session.add(state)

    assert await sending.next_due(world.ledger) == until
    world.clock.move(4 * MINUTE)
    assert (await health(world)).in_flight == 0
    assert await sending.next_due(world.ledger) == until
    world.clock.set(until)
    due = await sending.next_due(world.ledger)
    assert due is not None and due <= until
    assert len(await claimed(world)) == 1


# --- health


async def health(world: World) -> OutboxHealth:
    async with world.ledger.read() as session:
        return await history.health(session, world.clock.now())


async def test_the_health_query_reads_only_indexes(world: World) -> None:
    statements: list[tuple[str, Any]] = []
    event.listen(
        world.ledger._engine.sync_engine,
        "before_cursor_execute",
        lambda _, __, statement, given, *___: statements.append((statement, given)),
    )
    await health(world)
    asked_of = [each for each in statements if "count(" in each[0] and "lease" not in each[0]]
    explain, alone = "EXPLAIN QUERY PLAN", "COVERING INDEX"
    async with world.ledger.read() as session:
        connection = await session.connection()
        if world.database.kind == "postgresql":  # its planner chooses by the number of rows
            await connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            explain, alone = "EXPLAIN", ""
        plans = [
            str((await connection.exec_driver_sql(f"{explain} {asked}", given)).all())
            for asked, given in asked_of
        ]

    names = [f"{alone} outbox_{name}".strip() for name in ("pending", "failed", "unread")]
    assert all(any(name in plan for plan in plans) for name in names), plans


async def test_a_row_that_waits_on_purpose_is_not_old(world: World) -> None:
    start = world.clock.now()
    [held] = await enqueue(world, "a")
    async with world.ledger.write() as session:
        await pending.postpone(session, held, world.at(hours=8), "a")
    assert (await health(world)).pending == 1
    assert (await health(world)).oldest_pending_at is None
    world.clock.move(timedelta(hours=8) + MINUTE)
    assert (await health(world)).oldest_pending_at == start + timedelta(hours=8)
    await record(world, await claimed(world), PENDING, world.at(hours=1))
    assert (await health(world)).oldest_pending_at == start  # it is retried, so it is late


async def test_only_failures_pauses_and_overdue_runs_count_as_unread_alerts(world: World) -> None:
    results = (
        ("message", "failed"),
        ("alert", "paused"),
        ("alert", "overdue"),
        ("message", "recovered"),
        ("alert", "on_time"),
        ("message", "test"),
        ("message", "completed"),
    )
    async with world.ledger.write() as session:
        for purpose, event in results:
            await outbox.enqueue_message(
                session,
                key=event,
                purpose=purpose,
                event=event,
                channel=outbox.INBOX,
                subject=event,
                body=event,
                now=world.clock.now(),
            )
    found = await health(world)
    assert (found.unread, found.unread_alerts) == (len(results), 3)


async def test_neither_a_row_nor_an_error_shows_an_address_or_a_text(world: World) -> None:
    secret: dict[str, Any] = {
        "address": "https://x.example/?token=s3cret",
        "body": "s3cret",
        "chat_id": "s3cret",
    }
    (id_,) = await enqueue(world, "a", **secret)
    assert "s3cret" not in repr(await row(world, id_))
    with pytest.raises(IntegrityError) as refused:
        await enqueue(world, "a", **secret, key="a:0")
    assert "s3cret" not in str(refused.value)
    assert "s3cret" not in repr(refused.value)


async def test_the_health_reports_pending_failed_in_flight_paused_and_unread(world: World) -> None:
    first = world.clock.now()
    await enqueue(world, "a", FAILURES_BEFORE_PAUSE)
    world.clock.move(MINUTE)
    await enqueue(world, "b", 2)
    rows = await claimed(world)
    await record(world, [each for each in rows if each.queue == "a"], PENDING, world.clock.now())
    await record(world, [each for each in rows if each.queue == "b"][:1], FAILED)

    async with world.ledger.read() as session:
        health = await history.health(session, world.clock.now())
    assert health == OutboxHealth(
        pending=FAILURES_BEFORE_PAUSE + 1,
        oldest_pending_at=first,
        in_flight=1,
        failed=1,
        paused=[
            PausedQueue(
                queue="a",
                failures=FAILURES_BEFORE_PAUSE,
                since=world.clock.now(),
                paused_until=world.clock.now() + 30 * SECOND,
                error="answered 500",
            )
        ],
        unread=1,
        unread_alerts=1,
    )


async def test_a_row_is_found_by_a_unique_prefix_of_its_id(world: World) -> None:
    await enqueue(world, "a", id="msg_abc1")
    await enqueue(world, "a", id="msg_abc2")
    async with world.ledger.read() as session:
        for ref in ("msg_abc1", "abc1"):
            assert (await history.find(session, ref)).id == "msg_abc1"
        for ref in ("msg_abc", "abc", "a"):
            with pytest.raises(Ambiguous, match="callback"):
                await history.find(session, ref)
        for ref in ("", "msg_", "x", "%", "msg%"):
            with pytest.raises(NotFound, match="callback"):
                await history.find(session, ref)


# --- kill -9


@pytest.mark.parametrize("when", ["before", "after"])
async def test_an_outcome_and_its_outbox_rows_are_committed_together(
    world: World, when: When
) -> None:
    stored = await world.jobs.add(
        cron="0 * * * *", channel="team", on_complete="https://x.example/"
    )
    granted = await world.runs.running(stored)
    known = Outcome(Status.SUCCEEDED, output="All is well.")
    given = (granted.run_id, granted.fence, known)

    code = senders.killed(world.ledger.address, world.clock, "finish", when, *given)

    assert code == -signal.SIGKILL
    run = await world.runs.row(granted.run_id)
    shown = (run.status, run.delivery, len(await _all(world)))
    assert shown == (("running", "not_requested", 0), ("succeeded", "pending", 2))[when == "after"]


@pytest.mark.parametrize("when", ["before", "after"])
async def test_rows_of_a_sender_killed_at_its_claim_can_be_claimed_again(
    world: World, when: When
) -> None:
    ids = await enqueue(world, "a", 3)

    code = senders.killed(world.ledger.address, world.clock, "claim", when, "killed", most=10)

    assert code == -signal.SIGKILL
    found = await claimed(world)
    assert [each.id for each in found] == ([] if when == "after" else ids)
    world.clock.move(TIMING.delivery_lease)
    assert [each.id for each in await claimed(world)] == ids


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_sender_killed_while_recording_has_recorded_all_or_nothing(
    world: World, when: When
) -> None:
    await enqueue(world, "a", 2)
    rows = await claimed(world)
    done = [tried(rows[0], DELIVERED), tried(rows[1], FAILED)]

    code = senders.killed(world.ledger.address, world.clock, "record", when, done)

    assert code == -signal.SIGKILL
    shown = [(each.status, each.attempts) for each in await _all(world) if each.queue == "a"]
    messages = await _inbox(world)
    if when == "after":
        assert (shown, messages) == ([("delivered", 1), ("failed", 1)], ["undelivered: 1 to a"])
    else:
        assert (shown, messages) == ([("pending", 0), ("pending", 0)], [])
        world.clock.move(TIMING.delivery_lease)
        assert [each.fence for each in await claimed(world)] == [2, 2]


# --- postponed rows


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_postponed_row_uses_no_attempt_and_waits_in_its_new_queue(
    world: World, when: When
) -> None:
    ids = await enqueue(world, "channel:team", 2)
    rows = await claimed(world)
    until = world.at(hours=8)
    async with world.ledger.write() as session:
        for each in rows:
            await pending.postpone(session, each.id, until, "channel:x")
    held = [
        DeliveryResult(each.id, each.fence, PENDING, None, 0.0, error="quiet", is_postponed=True)
        for each in rows
    ]
    code = senders.killed(world.ledger.address, world.clock, "record", when, held)
    assert code == -signal.SIGKILL
    world.clock.move(TIMING.delivery_lease)
    assert await claimed(world) == []
    world.clock.move(timedelta(hours=8))
    assert [each.id for each in await claimed(world)] == ids
    found = await row(world, ids[0])
    assert (found.queue, found.attempts, found.tries) == ("channel:x", 0, [])
    assert await queues(world) == {}  # it is no failure of the destination


async def test_rows_that_are_due_at_one_instant_are_sent_in_the_order_of_their_creation(
    world: World,
) -> None:
    now = world.clock.now()
    ids = [
        (await enqueue(world, "channel:x/1", next_at=now, created_at=now - minutes * MINUTE))[0]
        for minutes in (1, 4, 2, 3)
    ]
    found = list[str]()
    while rows := await claimed(world):
        found += [each.id for each in rows]
        await record(world, rows, DELIVERED)
    assert found == [ids[1], ids[3], ids[2], ids[0]]
