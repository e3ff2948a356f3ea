"""Requirement 35 in the ledger: every outcome has a row for each listener, whoever writes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlmodel import col, select

from daybook import registry
from daybook.ledger import audit, claims, deliveries, jobs, listeners, sending
from daybook.ledger.outcomes import Outcome
from daybook.ledger.sending import Tried
from daybook.ledger.states import Delivery, Status
from daybook.ledger.tables import Fact, OutboxRow
from daybook.timing import TIMING
from tests.unit.ledger import senders
from tests.unit.ledger.conftest import Book
from tests.unit.ledger.killed import When

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)
TOLD = {"on_complete": "https://ops.example.org/done", "cron": "0 * * * *"}


@pytest.fixture(autouse=True)
def nobody_else() -> Iterator[None]:
    """What a test registers is forgotten."""
    with registry.apart():
        yield


async def rows(book: Book) -> list[OutboxRow]:
    of_listeners = select(OutboxRow).where(col(OutboxRow.purpose) == "listener")
    async with book.ledger.read() as session:
        found = await session.execute(of_listeners.order_by(col(OutboxRow.created_at), "address"))
        return list(found.scalars())


async def asked(book: Book) -> list[tuple[str, str, str]]:
    """Who is told of what, and what became of it."""
    return [(row.address, row.event, row.status) for row in await rows(book)]


async def claimed(book: Book, *, listener: bool) -> OutboxRow:
    def wanted(lane: str) -> bool:
        return lane.startswith("listener:") is listener

    [row] = await sending.claim(book.ledger, "me", most=1, wanted=wanted)
    return row


@pytest.mark.parametrize(
    "status", [Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT, Status.CANCELLED]
)
async def test_each_listener_has_a_row_for_each_outcome(book: Book, status: Status) -> None:
    await listeners.announce(book.ledger, ["audit.log", "bill.count"])
    job = await book.add(prompt="x", cron="0 * * * *")
    granted = await book.settled(book.due(job), status, output="Forty-two.")
    word = str(status)
    assert await asked(book) == [
        ("audit.log", word, "pending"),
        ("bill.count", word, "pending"),
    ]
    body = json.loads((await rows(book))[0].body)
    assert (body["id"], body["job"], body["status"]) == (granted.run_id, "brief", word)
    assert (body["output"], body["version"], body["corrects"]) == ("Forty-two.", 1, None)
    assert (await book.row(granted.run_id)).delivery in ("not_requested", "delivered")


async def test_a_listener_that_is_called_inbox_is_still_to_be_told(book: Book) -> None:
    await listeners.announce(book.ledger, ["inbox"])
    job = await book.add(prompt="x", cron="0 * * * *")
    await book.settled(book.due(job), Status.SUCCEEDED)
    assert await asked(book) == [("inbox", "succeeded", "pending")]


async def test_what_no_process_ran_is_told_as_well(book: Book) -> None:
    """A due time that was missed, one that was refused at claim, and one that waited."""
    await listeners.announce(book.ledger, ["audit.log"])
    job = await book.add(prompt="x", every="30s", catch_up="none", overlap="skip")
    await book.begun(book.due(job))
    book.clock.set((later := book.due(job)).due)
    await book.claim(later)
    assert await asked(book) == [("audit.log", "skipped", "pending")]
    run = await claims.request(book.ledger, job, "r1", "manual")
    await claims.cancel(book.ledger, run.id)
    book.clock.move(HOUR)
    await audit.advance(book.ledger, job.id, book.clock.now())
    assert [event for _, event, _ in await asked(book)] == ["skipped", "cancelled", "missed"]


async def test_an_agents_output_is_told_to_a_listener_which_is_the_operators(book: Book) -> None:
    await listeners.announce(book.ledger, ["audit.log"])
    job = await book.add(prompt="x", **TOLD)
    async with book.ledger.write() as session:
        row = await session.get(type(job.row), job.id)
        assert row is not None
        row.owner = "agent:x"
        session.add(row)
    await book.settled(book.due(job), Status.SUCCEEDED, output="Forty-two.")
    async with book.ledger.read() as session:
        found = {row.purpose: row for row in await deliveries.recent(session)}
    assert json.loads(found["callback"].body)["output"] is None
    assert json.loads(found["listener"].body)["output"] == "Forty-two."


async def test_a_listener_never_counts_for_the_delivery(book: Book) -> None:
    await listeners.announce(book.ledger, ["audit.log"])
    job = await book.add(prompt="x", **TOLD)
    granted = await book.settled(book.due(job), Status.SUCCEEDED)
    for wanted, status in (("callback", Delivery.DELIVERED), ("listener", Delivery.FAILED)):
        row = await claimed(book, listener=wanted == "listener")
        assert row.purpose == wanted
        tried = Tried(row.id, row.fence, status, None, 0.1, error="ValueError", went_out=False)
        await sending.record(book.ledger, [tried])
    run = await book.row(granted.run_id)
    assert (run.status, run.delivery, run.error) == ("succeeded", "delivered", None)
    async with book.ledger.read() as session:
        of_run = await deliveries.of_run(session, granted.run_id)
    assert {(row.purpose, row.status, row.error) for row in of_run} == {
        ("callback", "delivered", None),
        ("listener", "failed", "ValueError"),
    }


async def test_a_late_outcome_is_told_once_more_and_says_what_it_corrects(book: Book) -> None:
    await listeners.announce(book.ledger, ["audit.log"])
    job = await book.add(prompt="x", cron="0 * * * *")
    granted = await book.begun(book.due(job))
    await claims.died(book.ledger, granted.run_id, granted.fence, "it vanished")
    book.clock.move(timedelta(seconds=1))  # the two messages are sorted by when they were made
    await book.settle(granted, Status.SUCCEEDED)
    bodies = [json.loads(row.body) for row in await rows(book)]
    assert [(each["status"], each["corrects"]) for each in bodies] == [
        ("unknown", None),
        ("succeeded", "unknown"),
    ]


@pytest.mark.parametrize("status", ["missed", "skipped"])
async def test_a_range_that_grows_is_told_until_its_end(book: Book, status: str) -> None:
    """Before it is told by the same row; afterwards, and while it is told, by another one."""
    await listeners.announce(book.ledger, ["audit.log"])
    job = await book.add(prompt="x", cron="*/10 * * * *", timezone="UTC", catch_up="none")
    first = book.due(job).due
    if status == "skipped":
        async with book.ledger.write() as session:
            row = (await jobs.find(session, job.id)).row
            row.snoozed_until = book.clock.now() + 24 * HOUR
            session.add(row)

    async def passed(minutes: int) -> list[tuple[str, int, str]]:
        book.clock.move(timedelta(minutes=minutes))
        await audit.advance(book.ledger, job.id, book.clock.now())
        bodies = [json.loads(row.body) for row in await rows(book)]
        assert len({body["id"] for body in bodies}) == 1
        return [(body["status"], body["count"], body["scheduled_to"]) for body in bodies]

    def until(times: int) -> tuple[str, int, str]:
        last = first + (times - 1) * timedelta(minutes=10)
        return (status, times, last.isoformat().replace("+00:00", "Z"))

    assert await passed(35) == [until(3)]
    assert await passed(20) == [until(5)]
    told = await claimed(book, listener=True)
    assert await passed(20) == [until(5), until(7)]
    done = Tried(told.id, told.fence, Delivery.DELIVERED, None, 0.0)
    await sending.record(book.ledger, [done])
    assert await passed(10) == [until(5), until(8)]
    told = await claimed(book, listener=True)
    done = Tried(told.id, told.fence, Delivery.DELIVERED, None, 0.0)
    await sending.record(book.ledger, [done])
    assert await passed(10) == [until(5), until(8), until(9)]


async def test_without_listeners_nothing_is_written(book: Book) -> None:
    await listeners.announce(book.ledger, [])
    job = await book.add(prompt="x", cron="0 * * * *")
    await book.settled(book.due(job), Status.SUCCEEDED)
    assert await rows(book) == []
    async with book.ledger.read() as session:
        assert await session.get(Fact, "listeners") is None
    assert await listeners.due(book.ledger, ["audit.log"]) == []


async def test_what_this_process_registered_is_told_although_nobody_announced_it(
    book: Book,
) -> None:
    registry.listener(name="here")(print)
    await listeners.announce(book.ledger, ["there"])
    job = await book.add(prompt="x", cron="0 * * * *")
    await book.settled(book.due(job), Status.SUCCEEDED)
    assert [name for name, _, _ in await asked(book)] == ["here", "there"]


async def test_one_that_is_away_for_a_day_is_forgotten_and_what_waits_for_it_is_given_up(
    book: Book,
) -> None:
    await listeners.announce(book.ledger, ["gone", "stays"])
    job = await book.add(prompt="x", cron="0 * * * *")
    await book.settled(book.due(job), Status.SUCCEEDED)
    book.clock.move(23 * HOUR)
    await listeners.announce(book.ledger, ["stays"])
    assert {status for _, _, status in await asked(book)} == {"pending"}
    assert await listeners.due(book.ledger, ["gone", "nobody"]) == ["gone"]

    book.clock.move(2 * HOUR)
    await listeners.announce(book.ledger, ["stays"])
    await book.settled(book.due(job), Status.FAILED)
    assert await asked(book) == [
        ("gone", "succeeded", "failed"),
        ("stays", "succeeded", "pending"),
        ("stays", "failed", "pending"),
    ]
    assert (await rows(book))[0].error == (
        "given up: no process has had this listener for 24 hours"
    )


async def test_the_last_listener_that_goes_leaves_nothing_pending(book: Book) -> None:
    await listeners.announce(book.ledger, ["gone"])
    await book.settled(book.due(await book.add(prompt="x", **TOLD)), Status.SUCCEEDED)
    book.clock.move(25 * HOUR)
    await listeners.announce(book.ledger, [])
    assert [status for _, _, status in await asked(book)] == ["failed"]
    async with book.ledger.read() as session:
        found = {row.purpose: row.status for row in await deliveries.recent(session)}
    assert found["callback"] == "pending"  # of others nothing is given up


async def test_a_clock_that_was_set_back_keeps_no_listener_for_ever(book: Book) -> None:
    book.clock.move(1000 * HOUR)
    await listeners.announce(book.ledger, ["gone"])
    book.clock.move(-1000 * HOUR)
    await listeners.announce(book.ledger, [])
    book.clock.move(25 * HOUR)
    await listeners.announce(book.ledger, [])
    job = await book.add(prompt="x", cron="0 * * * *")
    await book.settled(book.due(job), Status.SUCCEEDED)
    assert await rows(book) == []


async def test_a_listener_is_told_of_one_outcome_at_a_time_and_in_order(book: Book) -> None:
    await listeners.announce(book.ledger, ["audit.log"])
    job = await book.add(prompt="x", cron="0 * * * *")
    runs = []
    for _ in range(3):
        granted = await book.settled(book.due(job), Status.SUCCEEDED)
        runs.append(granted.run_id)
    told = []
    while found := await sending.claim(book.ledger, "me", most=10):
        [row] = found
        assert await sending.claim(book.ledger, "another", most=10) == []
        told.append(row.run_id)
        done = Tried(row.id, row.fence, Delivery.DELIVERED, None, 0.0)
        await sending.record(book.ledger, [done])
    assert told == runs


async def test_one_that_is_told_or_has_a_pause_is_not_due(book: Book) -> None:
    await listeners.announce(book.ledger, ["audit.log", "bill.count"])
    job = await book.add(prompt="x", cron="0 * * * *")
    for _ in range(2):
        await book.settled(book.due(job), Status.SUCCEEDED)
    both = ["audit.log", "bill.count"]
    assert await listeners.due(book.ledger, both) == both
    for number in range(sending.PAUSE_AFTER):
        assert await listeners.due(book.ledger, both) == both
        [row] = await sending.claim(
            book.ledger, "me", most=1, wanted=lambda lane: lane == "listener:bill.count"
        )
        assert await listeners.due(book.ledger, both) == ["audit.log"], number  # it is told
        again = Tried(row.id, row.fence, Delivery.PENDING, book.clock.now(), 0.1, error="no end")
        await sending.record(book.ledger, [again])
    assert await listeners.due(book.ledger, both) == ["audit.log"]  # it has a pause
    book.clock.move(sending.FIRST_PAUSE)
    assert await listeners.due(book.ledger, both) == both


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_process_killed_around_its_outcome_leaves_both_or_neither(
    book: Book, when: When
) -> None:
    """That process knows of no listener: the ledger says which there are."""
    await listeners.announce(book.ledger, ["audit.log"])
    granted = await book.begun(book.due(await book.add(prompt="x", cron="0 * * * *")))
    given = (granted.run_id, granted.fence, Outcome(Status.SUCCEEDED))
    senders.killed(book.ledger.address, book.clock, "settle", when, *given)
    told = {"before": ("acting", []), "after": ("succeeded", [("audit.log", "succeeded")])}
    found = [(name, event) for name, event, _ in await asked(book)]
    assert ((await book.row(granted.run_id)).status, found) == told[when]


@pytest.mark.parametrize("verb", ["claim", "record"])
async def test_who_is_killed_while_it_tells_leaves_it_to_the_next_one(
    book: Book, verb: str
) -> None:
    await listeners.announce(book.ledger, ["audit.log"])
    await book.settled(book.due(await book.add(prompt="x", cron="0 * * * *")), Status.FAILED)
    if verb == "claim":
        senders.killed(book.ledger.address, book.clock, "claim", "after", "killed", most=1)
    else:
        [row] = await sending.claim(book.ledger, "killed", most=1)
        done = [Tried(row.id, row.fence, Delivery.DELIVERED, None, 0.0)]
        senders.killed(book.ledger.address, book.clock, "record", "before", done)
    assert await sending.claim(book.ledger, "next", most=1) == []
    book.clock.move(TIMING.delivery_lease + timedelta(seconds=1))
    [row] = await sending.claim(book.ledger, "next", most=1)
    assert (row.address, row.event, row.attempts) == ("audit.log", "failed", 0)
