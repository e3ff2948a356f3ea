"""Listener rows in the ledger (requirement 35): one for each outcome and listener."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlmodel import col, select

from daybook import registry
from daybook.delivery import history, listeners, outbox, sending
from daybook.delivery.sending import DeliveryResult
from daybook.jobs import store
from daybook.ledger.states import Delivery, Outcome, Status
from daybook.ledger.tables import Fact, OutboxRow
from daybook.runs import audit, claims
from daybook.timing import TIMING
from tests.unit.delivery import senders
from tests.unit.ledger.killed import When
from tests.world import World

pytestmark = pytest.mark.anyio

HOUR = timedelta(hours=1)
NOTIFY = {"on_complete": "https://ops.example.org/done", "cron": "0 * * * *"}


@pytest.fixture(autouse=True)
def nobody_else() -> Iterator[None]:
    """Remove the listeners that a test registers."""
    with registry.isolated():
        yield


async def rows(world: World) -> list[OutboxRow]:
    of_listeners = select(OutboxRow).where(col(OutboxRow.purpose) == "listener")
    async with world.ledger.read() as session:
        found = await session.execute(of_listeners.order_by(col(OutboxRow.created_at), "address"))
        return list(found.scalars())


async def row_statuses(world: World) -> list[tuple[str, str, str]]:
    """Return listener, event and status of each listener row."""
    return [(row.address, row.event, row.status) for row in await rows(world)]


async def claimed(world: World, *, listener: bool) -> OutboxRow:
    def is_listener(queue: str) -> bool:
        return queue.startswith("listener:") is listener

    [row] = await sending.claim(world.ledger, "me", most=1, wanted=is_listener)
    return row


@pytest.mark.floor("A", "Listeners are called at every outcome")
@pytest.mark.parametrize(
    "status", [Status.SUCCEEDED, Status.FAILED, Status.TIMED_OUT, Status.CANCELLED]
)
async def test_each_listener_has_a_row_for_each_outcome(world: World, status: Status) -> None:
    await listeners.announce(world.ledger, ["audit.log", "bill.count"])
    job = await world.jobs.add(prompt="x", cron="0 * * * *")
    granted = await world.runs.finished(job, status, output="Forty-two.")
    word = str(status)
    assert await row_statuses(world) == [
        ("audit.log", word, "pending"),
        ("bill.count", word, "pending"),
    ]
    body = json.loads((await rows(world))[0].body)
    assert (body["id"], body["job"], body["status"]) == (granted.run_id, "brief", word)
    assert (body["output"], body["version"], body["corrects"]) == ("Forty-two.", 1, None)
    assert (await world.runs.row(granted.run_id)).delivery in ("not_requested", "delivered")


async def test_the_row_of_a_listener_named_inbox_is_pending(world: World) -> None:
    await listeners.announce(world.ledger, ["inbox"])
    job = await world.jobs.add(prompt="x", cron="0 * * * *")
    await world.runs.finished(job, Status.SUCCEEDED)
    assert await row_statuses(world) == [("inbox", "succeeded", "pending")]


async def test_the_delivered_row_of_a_listener_named_inbox_is_not_in_the_inbox(
    world: World,
) -> None:
    await listeners.announce(world.ledger, ["inbox"])
    job = await world.jobs.add(prompt="x", cron="0 * * * *")
    await world.runs.finished(job, Status.SUCCEEDED)
    row = await claimed(world, listener=True)
    done = DeliveryResult(row.id, row.fence, Delivery.DELIVERED, None, 0.1)
    await sending.record(world.ledger, [done])
    async with world.ledger.read() as session:
        assert await history.inbox(session) == []
        assert (await history.health(session, world.clock.now())).unread == 0
    assert await history.mark_read(world.ledger) == 0


async def test_outcomes_that_no_process_ran_have_listener_rows(world: World) -> None:
    """A missed due time, one skipped at claim, and a waiting run that was cancelled."""
    await listeners.announce(world.ledger, ["audit.log"])
    job = await world.jobs.add(prompt="x", every="30s", catch_up="none", overlap="skip")
    await world.runs.running(job)
    world.clock.set((later := world.runs.claim_request(job)).due)
    await world.runs.claim(later)
    assert await row_statuses(world) == [("audit.log", "skipped", "pending")]
    run = await claims.request(world.ledger, job, "r1", "manual")
    await claims.cancel(world.ledger, run.id)
    world.clock.move(HOUR)
    await audit.advance(world.ledger, job.id, world.clock.now())
    assert [event for _, event, _ in await row_statuses(world)] == [
        "skipped",
        "cancelled",
        "missed",
    ]


async def test_an_agents_output_goes_to_listeners_but_not_to_callbacks(world: World) -> None:
    await listeners.announce(world.ledger, ["audit.log"])
    job = await world.jobs.add(prompt="x", **NOTIFY)
    async with world.ledger.write() as session:
        row = await session.get(type(job.row), job.id)
        assert row is not None
        row.owner = "agent:x"
        session.add(row)
    await world.runs.finished(job, Status.SUCCEEDED, output="Forty-two.")
    async with world.ledger.read() as session:
        found = {row.purpose: row for row in await history.recent(session)}
    assert json.loads(found["callback"].body)["output"] is None
    assert json.loads(found["listener"].body)["output"] == "Forty-two."


async def test_a_failed_listener_does_not_change_the_delivery_of_the_run(world: World) -> None:
    await listeners.announce(world.ledger, ["audit.log"])
    job = await world.jobs.add(prompt="x", **NOTIFY)
    granted = await world.runs.finished(job, Status.SUCCEEDED)
    for purpose, status in (("callback", Delivery.DELIVERED), ("listener", Delivery.FAILED)):
        row = await claimed(world, listener=purpose == "listener")
        assert row.purpose == purpose
        tried = DeliveryResult(
            row.id, row.fence, status, None, 0.1, error="ValueError", went_out=False
        )
        await sending.record(world.ledger, [tried])
    run = await world.runs.row(granted.run_id)
    assert (run.status, run.delivery, run.error) == ("succeeded", "delivered", None)
    async with world.ledger.read() as session:
        of_run = await history.list_for_run(session, granted.run_id)
    assert {(row.purpose, row.status, row.error) for row in of_run} == {
        ("callback", "delivered", None),
        ("listener", "failed", "ValueError"),
    }


async def test_a_late_outcome_adds_a_listener_row_that_names_what_it_corrects(world: World) -> None:
    await listeners.announce(world.ledger, ["audit.log"])
    job = await world.jobs.add(prompt="x", cron="0 * * * *")
    granted = await world.runs.running(job)
    await claims.holder_died(world.ledger, granted.run_id, granted.fence, "it vanished")
    world.clock.move(timedelta(seconds=1))  # the two rows are sorted by their creation time
    await world.runs.finish(granted, Status.SUCCEEDED)
    bodies = [json.loads(row.body) for row in await rows(world)]
    assert [(each["status"], each["corrects"]) for each in bodies] == [
        ("unknown", None),
        ("succeeded", "unknown"),
    ]


@pytest.mark.parametrize("status", ["missed", "skipped"])
async def test_a_growing_range_of_due_times_is_reported_up_to_its_end(
    world: World, status: str
) -> None:
    """The range extends its pending row; once that row is claimed or sent, it adds another."""
    await listeners.announce(world.ledger, ["audit.log"])
    job = await world.jobs.add(prompt="x", cron="*/10 * * * *", timezone="UTC", catch_up="none")
    first = world.runs.claim_request(job).due
    if status == "skipped":
        async with world.ledger.write() as session:
            row = (await store.find(session, job.id)).row
            row.snoozed_until = world.clock.now() + 24 * HOUR
            session.add(row)

    async def passed(minutes: int) -> list[tuple[str, int, str]]:
        world.clock.move(timedelta(minutes=minutes))
        await audit.advance(world.ledger, job.id, world.clock.now())
        bodies = [json.loads(row.body) for row in await rows(world)]
        assert len({body["id"] for body in bodies}) == 1
        return [(body["status"], body["count"], body["scheduled_to"]) for body in bodies]

    def until(times: int) -> tuple[str, int, str]:
        last = first + (times - 1) * timedelta(minutes=10)
        return (status, times, last.isoformat().replace("+00:00", "Z"))

    assert await passed(35) == [until(3)]
    assert await passed(20) == [until(5)]
    deliveries = await claimed(world, listener=True)
    assert await passed(20) == [until(5), until(7)]
    done = DeliveryResult(deliveries.id, deliveries.fence, Delivery.DELIVERED, None, 0.0)
    await sending.record(world.ledger, [done])
    assert await passed(10) == [until(5), until(8)]
    deliveries = await claimed(world, listener=True)
    done = DeliveryResult(deliveries.id, deliveries.fence, Delivery.DELIVERED, None, 0.0)
    await sending.record(world.ledger, [done])
    assert await passed(10) == [until(5), until(8), until(9)]


async def due_listeners(world: World, names: list[str]) -> list[str]:
    """Return the listeners for which a dispatcher would claim a row now; write nothing."""
    queues = {outbox.queue_of_listener(name): name for name in names}
    times = await sending.due_times_by_queue(world.ledger, queues.__contains__)
    now = world.ledger.now()
    return [name for queue, name in queues.items() if queue in times and times[queue] <= now]


async def test_without_listeners_no_row_is_written(world: World) -> None:
    await listeners.announce(world.ledger, [])
    job = await world.jobs.add(prompt="x", cron="0 * * * *")
    await world.runs.finished(job, Status.SUCCEEDED)
    assert await rows(world) == []
    async with world.ledger.read() as session:
        assert await session.get(Fact, "listeners") is None
    assert await due_listeners(world, ["audit.log"]) == []


async def test_a_listener_registered_in_this_process_needs_no_announcement(
    world: World,
) -> None:
    registry.listener(name="here")(print)
    await listeners.announce(world.ledger, ["there"])
    job = await world.jobs.add(prompt="x", cron="0 * * * *")
    await world.runs.finished(job, Status.SUCCEEDED)
    assert [name for name, _, _ in await row_statuses(world)] == ["here", "there"]


async def test_a_listener_absent_for_a_day_is_removed_and_its_rows_fail(
    world: World,
) -> None:
    await listeners.announce(world.ledger, ["gone", "stays"])
    job = await world.jobs.add(prompt="x", cron="0 * * * *")
    await world.runs.finished(job, Status.SUCCEEDED)
    world.clock.move(23 * HOUR)
    await listeners.announce(world.ledger, ["stays"])
    assert {status for _, _, status in await row_statuses(world)} == {"pending"}
    assert await due_listeners(world, ["gone", "nobody"]) == ["gone"]

    world.clock.move(2 * HOUR)
    await listeners.announce(world.ledger, ["stays"])
    await world.runs.finished(job, Status.FAILED)
    assert await row_statuses(world) == [
        ("gone", "succeeded", "failed"),
        ("stays", "succeeded", "pending"),
        ("stays", "failed", "pending"),
    ]
    assert (await rows(world))[0].error == (
        "gave up: no process has had this listener for 24 hours"
    )


async def test_the_rows_of_the_last_removed_listener_fail(world: World) -> None:
    await listeners.announce(world.ledger, ["gone"])
    await world.runs.finished(await world.jobs.add(prompt="x", **NOTIFY), Status.SUCCEEDED)
    world.clock.move(25 * HOUR)
    await listeners.announce(world.ledger, [])
    assert [status for _, _, status in await row_statuses(world)] == ["failed"]
    async with world.ledger.read() as session:
        found = {row.purpose: row.status for row in await history.recent(session)}
    assert found["callback"] == "pending"  # rows of other kinds stay pending


async def test_a_clock_that_was_set_back_does_not_keep_an_absent_listener(world: World) -> None:
    world.clock.move(1000 * HOUR)
    await listeners.announce(world.ledger, ["gone"])
    world.clock.move(-1000 * HOUR)
    await listeners.announce(world.ledger, [])
    world.clock.move(25 * HOUR)
    await listeners.announce(world.ledger, [])
    job = await world.jobs.add(prompt="x", cron="0 * * * *")
    await world.runs.finished(job, Status.SUCCEEDED)
    assert await rows(world) == []


async def test_a_listener_gets_one_outcome_at_a_time_and_in_order(world: World) -> None:
    await listeners.announce(world.ledger, ["audit.log"])
    job = await world.jobs.add(prompt="x", cron="0 * * * *")
    runs = []
    for _ in range(3):
        granted = await world.runs.finished(job, Status.SUCCEEDED)
        runs.append(granted.run_id)
    received = []
    while found := await sending.claim(world.ledger, "me", most=10):
        [row] = found
        assert await sending.claim(world.ledger, "another", most=10) == []
        received.append(row.run_id)
        done = DeliveryResult(row.id, row.fence, Delivery.DELIVERED, None, 0.0)
        await sending.record(world.ledger, [done])
    assert received == runs


async def test_a_listener_that_is_being_called_or_paused_is_not_due(world: World) -> None:
    await listeners.announce(world.ledger, ["audit.log", "bill.count"])
    job = await world.jobs.add(prompt="x", cron="0 * * * *")
    for _ in range(2):
        await world.runs.finished(job, Status.SUCCEEDED)
    both = ["audit.log", "bill.count"]
    assert await due_listeners(world, both) == both
    for number in range(sending.FAILURES_BEFORE_PAUSE):
        assert await due_listeners(world, both) == both
        [row] = await sending.claim(
            world.ledger, "me", most=1, wanted=lambda queue: queue == "listener:bill.count"
        )
        assert await due_listeners(world, both) == ["audit.log"], number  # it is being called
        again = DeliveryResult(
            row.id, row.fence, Delivery.PENDING, world.clock.now(), 0.1, error="no end"
        )
        await sending.record(world.ledger, [again])
    assert await due_listeners(world, both) == ["audit.log"]  # it is paused
    world.clock.move(sending.MIN_PAUSE)
    assert await due_listeners(world, both) == both


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_process_killed_at_finish_leaves_outcome_and_listener_row_or_neither(
    world: World, when: When
) -> None:
    """The process has no listener registered: the ledger names them."""
    await listeners.announce(world.ledger, ["audit.log"])
    granted = await world.runs.running(await world.jobs.add(prompt="x", cron="0 * * * *"))
    given = (granted.run_id, granted.fence, Outcome(Status.SUCCEEDED))
    senders.killed(world.ledger.address, world.clock, "finish", when, *given)
    expected = {"before": ("running", []), "after": ("succeeded", [("audit.log", "succeeded")])}
    found = [(name, event) for name, event, _ in await row_statuses(world)]
    assert ((await world.runs.row(granted.run_id)).status, found) == expected[when]


@pytest.mark.parametrize("verb", ["claim", "record"])
async def test_after_a_sender_is_killed_another_claims_its_row_when_the_lease_ends(
    world: World, verb: str
) -> None:
    await listeners.announce(world.ledger, ["audit.log"])
    await world.runs.finished(await world.jobs.add(prompt="x", cron="0 * * * *"), Status.FAILED)
    if verb == "claim":
        senders.killed(world.ledger.address, world.clock, "claim", "after", "killed", most=1)
    else:
        [row] = await sending.claim(world.ledger, "killed", most=1)
        done = [DeliveryResult(row.id, row.fence, Delivery.DELIVERED, None, 0.0)]
        senders.killed(world.ledger.address, world.clock, "record", "before", done)
    assert await sending.claim(world.ledger, "next", most=1) == []
    world.clock.move(TIMING.delivery_lease + timedelta(seconds=1))
    [row] = await sending.claim(world.ledger, "next", most=1)
    assert (row.address, row.event, row.attempts) == ("audit.log", "failed", 0)
