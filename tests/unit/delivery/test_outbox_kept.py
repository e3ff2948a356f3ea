"""Requirement 19: what was told is let go with its run or by age; never what is pending."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import select

from daybook.delivery import outbox, sending
from daybook.delivery.sending import DeliveryResult
from daybook.jobs.store import StoredJob
from daybook.keeper import retention
from daybook.ledger.states import Delivery, Status
from daybook.ledger.tables import JobRow, LaneRow, OutboxRow, RunRow
from daybook.runs.retention import RetentionLimits
from tests.world import World

pytestmark = pytest.mark.anyio

DAY = timedelta(days=1)
DAYS = RetentionLimits(90 * DAY, 1000)
HOOK = "https://ops.example.org/hook"


async def run(world: World, stored: StoredJob, answer: str = "All is well.") -> str:
    granted = await world.settled(world.offer(stored), Status.SUCCEEDED, output=answer)
    async with world.ledger.write() as session:  # as if Prefect was told, and the audit had passed
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


async def alert(world: World, key: str, channel: str = "inbox") -> None:
    async with world.ledger.write() as session:
        await outbox.enqueue_message(
            session,
            key=key,
            purpose="alert",
            event="undelivered",
            channel=channel,
            subject=key,
            body=key,
            now=world.clock.now(),
        )


async def test_what_was_told_of_a_run_goes_with_it(world: World) -> None:
    stored = await world.add(cron="0 * * * *", on_complete=HOOK)
    ids = [await run(world, stored) for _ in range(5)]
    await send(world)

    done = await retention.prune(world.ledger, RetentionLimits(None, 2))

    assert done.runs == 3
    assert [row.id for row in await world.rows()] == ids[3:]
    assert {row.run_id for row in await left(world, OutboxRow)} == set(ids[3:])


async def test_what_is_pending_stays_and_its_run_with_it(world: World) -> None:
    stored = await world.add(cron="0 * * * *", on_complete=HOOK)
    pending = await run(world, stored)
    world.clock.move(200 * DAY)
    last = await run(world, stored)

    await retention.prune(world.ledger, DAYS)
    assert [row.id for row in await world.rows()] == [pending, last]

    await send(world)
    await retention.prune(world.ledger, DAYS)
    assert [row.id for row in await world.rows()] == [last]
    assert await left_of(world, pending) == set()


async def test_what_is_of_no_run_goes_by_its_age(world: World) -> None:
    await alert(world, "old")
    await alert(world, "still to be sent", "team")
    world.clock.move(90 * DAY + timedelta(seconds=1))
    await alert(world, "new")

    done = await retention.prune(world.ledger, DAYS)

    assert done.deliveries == 1
    assert {row.key for row in await left(world, OutboxRow)} == {"still to be sent", "new"}
    assert not await retention.prune(world.ledger, DAYS)
    assert not await retention.prune(world.ledger, RetentionLimits(None, None))


async def test_what_failed_is_kept_as_long_as_what_arrived(world: World) -> None:
    await alert(world, "failed", "team")
    await send(world, Delivery.FAILED)
    world.clock.move(80 * DAY)
    await retention.prune(world.ledger, DAYS)
    assert "failed" in {row.key for row in await left(world, OutboxRow)}
    world.clock.move(20 * DAY)
    await retention.prune(world.ledger, DAYS)
    assert await left(world, OutboxRow) == []


async def test_the_answer_that_the_next_one_is_compared_with_stays(world: World) -> None:
    stored = await world.add(cron="0 * * * *", channel="team", on_complete=HOOK, only_changed=True)
    first = await run(world, stored)
    await send(world)
    for _ in range(3):
        await run(world, stored)
        await send(world)

    await retention.prune(world.ledger, RetentionLimits(None, 1))

    assert await left_of(world, first) == {"message"}
    again = await run(world, stored)
    assert await left_of(world, again) == {"callback"}
    # Once another answer is what arrived last, it goes.
    await run(world, stored, "All is lost.")
    await send(world)
    world.clock.move(100 * DAY)
    await retention.prune(world.ledger, DAYS)
    assert [row.body for row in await left(world, OutboxRow)] == ["All is lost."]


async def test_an_archived_job_goes_when_nothing_is_told_of_it_any_more(world: World) -> None:
    stored = await world.add(cron="0 * * * *", channel="team", only_changed=True)
    await run(world, stored)
    await world.archive(stored.id)
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


async def test_a_destination_that_nothing_is_for_any_more_is_forgotten(world: World) -> None:
    for channel in ("gone", "awaited"):
        await alert(world, channel, channel)
    rows = {row.lane: row for row in await sending.claim(world.ledger, "test", most=10)}
    ends = {"channel:gone": Delivery.FAILED, "channel:awaited": Delivery.PENDING}
    tried = [
        DeliveryResult(row.id, row.fence, ends[lane], world.clock.now(), 0.1, error="no")
        for lane, row in rows.items()
    ]
    await sending.record(world.ledger, tried)
    world.clock.move(100 * DAY)

    await retention.prune(world.ledger, DAYS)

    assert [row.lane for row in await left(world, LaneRow)] == ["channel:awaited"]


async def test_a_long_history_goes_in_batches(world: World) -> None:
    now = world.clock.now()
    async with world.ledger.write() as session:
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
    world.clock.move(91 * DAY)
    assert (await retention.prune(world.ledger, DAYS)).deliveries == 1_100
    assert await left(world, OutboxRow) == []
