"""Retention of outbox rows (requirement 19): by run or by age, but never a pending row."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import select

from daybook.delivery import outbox, sending
from daybook.delivery.sending import DeliveryResult
from daybook.jobs.store import StoredJob
from daybook.keeper import retention
from daybook.ledger.states import Delivery, Status
from daybook.ledger.tables import JobRow, OutboxRow, QueueRow, RunRow
from daybook.runs.retention import RetentionLimits
from tests.world import World

pytestmark = pytest.mark.anyio

DAY = timedelta(days=1)
DAYS = RetentionLimits(90 * DAY, 1000)
HOOK = "https://ops.example.org/hook"


async def run(world: World, stored: StoredJob, answer: str = "All is well.") -> str:
    granted = await world.runs.finished(stored, Status.SUCCEEDED, output=answer)
    async with world.ledger.write() as session:  # as after the mirror and the audit
        row, job = await session.get(RunRow, granted.run_id), await session.get(JobRow, stored.id)
        assert row is not None
        assert job is not None
        row.unmirrored, job.audited_until = False, world.clock.now()
    return granted.run_id


async def send(world: World, status: Delivery = Delivery.DELIVERED) -> None:
    rows = await sending.claim(world.ledger, "test", most=100)
    tried = [DeliveryResult(row.id, row.fence, status, None, 0.1, error="no") for row in rows]
    await sending.record(world.ledger, tried)


async def left(world: World, table: Any) -> list[Any]:
    async with world.ledger.read() as session:
        return list((await session.execute(select(table))).scalars())


async def left_of(world: World, run_id: str) -> set[str]:
    return {row.purpose for row in await left(world, OutboxRow) if row.run_id == run_id}


async def alert(world: World, key: str, channel: str = "inbox", run_id: str | None = None) -> None:
    async with world.ledger.write() as session:
        await outbox.enqueue_message(
            session,
            key=key,
            purpose="alert",
            event="undelivered",
            channel=channel,
            subject=key,
            body=key,
            run_id=run_id,
            now=world.clock.now(),
        )


async def test_outbox_rows_are_pruned_with_their_run(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *", on_complete=HOOK)
    ids = [await run(world, stored) for _ in range(5)]
    await send(world)

    done = await retention.prune(world.ledger, RetentionLimits(None, 2))

    assert (done.runs, done.deliveries) == (3, 3)
    assert [row.id for row in await world.runs.rows()] == ids[3:]
    assert {row.run_id for row in await left(world, OutboxRow)} == set(ids[3:])


async def test_a_pending_row_and_its_run_are_not_pruned(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *", on_complete=HOOK)
    pending = await run(world, stored)
    world.clock.move(200 * DAY)
    last = await run(world, stored)

    await retention.prune(world.ledger, DAYS)
    assert [row.id for row in await world.runs.rows()] == [pending, last]

    await send(world)
    await retention.prune(world.ledger, DAYS)
    assert [row.id for row in await world.runs.rows()] == [last]
    assert await left_of(world, pending) == set()


async def test_a_row_without_a_run_is_pruned_by_its_age(world: World) -> None:
    await alert(world, "old")
    await alert(world, "still to be sent", "team")
    world.clock.move(90 * DAY + timedelta(seconds=1))
    await alert(world, "new")

    done = await retention.prune(world.ledger, DAYS)

    assert done.deliveries == 1
    assert {row.key for row in await left(world, OutboxRow)} == {"still to be sent", "new"}
    assert not await retention.prune(world.ledger, DAYS)
    assert not await retention.prune(world.ledger, RetentionLimits(None, None))


async def test_a_message_of_a_live_run_is_not_pruned(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *")
    granted = await world.runs.running(stored)
    await alert(world, "sent", run_id=granted.run_id)
    await send(world)
    world.clock.move(100 * DAY)

    assert (await retention.prune(world.ledger, DAYS)).deliveries == 0
    assert {row.key for row in await left(world, OutboxRow)} == {"sent"}

    async with world.ledger.write() as session:
        await session.execute(update(RunRow).values(status=Status.FAILED, unmirrored=True))
    assert (await retention.prune(world.ledger, DAYS)).deliveries == 1


async def test_a_failed_row_is_pruned_after_the_retention_period(world: World) -> None:
    await alert(world, "failed", "team")
    await send(world, Delivery.FAILED)
    world.clock.move(80 * DAY)
    await retention.prune(world.ledger, DAYS)
    assert "failed" in {row.key for row in await left(world, OutboxRow)}
    world.clock.move(20 * DAY)
    await retention.prune(world.ledger, DAYS)
    assert await left(world, OutboxRow) == []


async def test_the_answer_that_only_changed_compares_with_is_not_pruned(world: World) -> None:
    stored = await world.jobs.add(
        cron="0 * * * *", channel="team", on_complete=HOOK, only_changed=True
    )
    first = await run(world, stored)
    await send(world)
    for _ in range(3):
        await run(world, stored)
        await send(world)

    await retention.prune(world.ledger, RetentionLimits(None, 1))

    assert await left_of(world, first) == {"message"}
    again = await run(world, stored)
    assert await left_of(world, again) == {"callback"}
    # When a later answer has been delivered, the old one is pruned.
    await run(world, stored, "All is lost.")
    await send(world)
    world.clock.move(100 * DAY)
    await retention.prune(world.ledger, DAYS)
    assert [row.body for row in await left(world, OutboxRow)] == ["All is lost."]


async def test_an_archived_job_is_pruned_once_no_row_of_it_is_pending(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *", channel="team", only_changed=True)
    await run(world, stored)
    await world.jobs.archive(stored.id)
    world.clock.move(100 * DAY)
    async with world.ledger.write() as session:
        job = await session.get(JobRow, stored.id)
        assert job is not None
        job.audited_until = world.clock.now()
    assert not (await retention.prune(world.ledger, DAYS)).jobs

    await send(world)
    done = await retention.prune(world.ledger, DAYS)
    assert (done.runs, done.jobs) == (1, ["brief"])
    assert await left(world, OutboxRow) == []


async def test_a_destination_queue_without_rows_is_pruned(world: World) -> None:
    for channel in ("gone", "awaited"):
        await alert(world, channel, channel)
    rows = {row.queue: row for row in await sending.claim(world.ledger, "test", most=10)}
    statuses = {"channel:gone": Delivery.FAILED, "channel:awaited": Delivery.PENDING}
    tried = [
        DeliveryResult(row.id, row.fence, statuses[queue], world.clock.now(), 0.1, error="no")
        for queue, row in rows.items()
    ]
    await sending.record(world.ledger, tried)
    world.clock.move(100 * DAY)

    await retention.prune(world.ledger, DAYS)

    assert [row.queue for row in await left(world, QueueRow)] == ["channel:awaited"]


async def test_a_destination_queue_is_pruned_although_no_outbox_row_is_left_to_prune(
    world: World,
) -> None:
    async with world.ledger.write() as session:
        for queue in ("channel:old", "channel:new"):
            session.add(QueueRow(queue=queue, failures=1, since=world.clock.now()))
            world.clock.move(100 * DAY)

    assert not await retention.prune(world.ledger, RetentionLimits(150 * DAY, 1000))

    assert [row.queue for row in await left(world, QueueRow)] == ["channel:new"]


async def test_a_long_history_is_pruned_in_batches(world: World) -> None:
    now = world.clock.now()
    async with world.ledger.write() as session:
        for number in range(1_100):
            session.add(
                OutboxRow(
                    key=str(number),
                    purpose="alert",
                    event="overdue",
                    queue="channel:inbox",
                    address="inbox",
                    body="x",
                    status="delivered",
                    next_at=now,
                    created_at=now,
                    finished_at=now,
                )
            )
    world.clock.move(91 * DAY)
    assert (await retention.prune(world.ledger, DAYS)).deliveries == 1_100
    assert await left(world, OutboxRow) == []
