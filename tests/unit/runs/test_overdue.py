"""Due times that passed and of which nothing has begun (requirement 59)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daybook.jobs import store, upcoming
from daybook.ledger.states import Status
from daybook.runs import audit, claim_requests, claims, history, overdue, slots
from tests.world import World

pytestmark = pytest.mark.anyio

ONE = datetime(2026, 1, 15, 13, 0, tzinfo=UTC)
"""The first due time of an hourly job that was made a quarter of a second past 12:00."""


async def found(world: World) -> list[tuple[datetime, bool]]:
    """When each was due, and whether it has a row."""
    async with world.ledger.read() as session:
        stored, now = await store.all_jobs(session), world.clock.now()
        rows = [*await history.live(session), *await overdue.unattended(session, now)]
        late = await overdue.find(session, stored, rows, now)
        watched = await overdue.find_all(session, overdue.DueTimeCache(), world.clock.now())
    told = [(each.due, each.run is not None) for each in late]
    assert [(each.due, each.run is not None) for each in watched] == told
    return told


async def test_what_nobody_offered_is_told_when_it_is_late(world: World) -> None:
    await world.add()
    world.clock.set(ONE + overdue.OVERDUE_GRACE - timedelta(microseconds=1))
    assert await found(world) == []

    world.clock.set(ONE + overdue.OVERDUE_GRACE)
    assert await found(world) == [(ONE, False)]
    world.clock.set(ONE + timedelta(hours=5))
    assert await found(world) == [(ONE, False)]  # one of them is enough


async def test_what_has_its_outcome_or_is_at_work_is_not_late(world: World) -> None:
    stored = await world.add()
    await world.settled(world.offer(stored), Status.SUCCEEDED)
    world.clock.set(ONE + timedelta(minutes=30))
    assert await found(world) == []
    await world.begun(world.offer(stored))
    world.clock.set(ONE + timedelta(hours=1, minutes=30))
    assert await found(world) == []


async def test_a_job_that_is_at_work_is_attended_whatever_was_missed_meanwhile(
    world: World,
) -> None:
    stored = await world.add(every="1m", catch_up="none")
    await world.begun(world.offer(stored))
    world.passes(minutes=4)
    await audit.advance(world.ledger, stored.id, world.clock.now())

    async with world.ledger.read() as session:
        assert await overdue.unattended(session, world.clock.now()) == []


async def test_what_was_judged_after_a_standstill_is_not_late(world: World) -> None:
    stored = await world.add(cron="0 * * * *", catch_up="none")
    world.clock.set(ONE + timedelta(minutes=30))
    await audit.advance(world.ledger, stored.id, ONE + timedelta(minutes=29))

    assert await found(world) == []


async def test_what_was_missed_for_want_of_anybody_is_late_for_a_while(world: World) -> None:
    stored = await world.add(every="1m", catch_up="none")
    world.clock.move(timedelta(minutes=4))
    await audit.advance(world.ledger, stored.id, world.clock.now())
    last = ONE - timedelta(minutes=57)

    assert await found(world) == [(last, True)]
    world.clock.move(overdue.MISSED_MAX_AGE)
    async with world.ledger.read() as session:
        assert await overdue.unattended(session, world.clock.now()) == []
        assert (
            len(await overdue.unattended(session, world.clock.now(), 2 * overdue.MISSED_MAX_AGE))
            == 1
        )


async def test_what_was_missed_counts_until_somebody_comes_for_the_job(world: World) -> None:
    stored = await world.add(every="1m", catch_up="none")
    world.clock.move(timedelta(minutes=4))
    await audit.advance(world.ledger, stored.id, world.clock.now())
    assert len(await found(world)) == 1

    await world.granted(world.offer(stored))

    assert await found(world) == []


@pytest.mark.parametrize(
    "fields",
    [
        {"cron": "0 * * * *", "enabled": False},
        {"on_demand": True},
        {"cron": "0 * * * *", "active_hours": "14:00-15:00"},
    ],
    ids=["off", "on demand", "outside its hours"],
)
async def test_what_is_not_due_is_not_late(world: World, fields: dict[str, Any]) -> None:
    await world.add(**fields)
    world.clock.set(ONE + timedelta(minutes=30))

    assert await found(world) == []


async def test_an_edit_makes_nothing_late_that_was_before_it(world: World) -> None:
    stored = await world.add(cron="0 0 * * *")
    world.clock.set(ONE + timedelta(minutes=30))
    await world.edit(stored.id, cron="0 * * * *")

    assert await found(world) == []


async def asked(world: World, **fields: Any) -> None:
    stored = await world.add(on_demand=True)
    row = await claims.request(world.ledger, stored, "one", "manual")
    async with world.ledger.write() as session:
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
    world: World, fields: dict[str, Any], late: bool
) -> None:
    now = world.clock.now()
    await asked(world, **fields)
    world.clock.move(overdue.OVERDUE_GRACE + timedelta(seconds=1))

    assert await found(world) == ([(now, True)] if late else [])


async def test_who_waits_until_a_time_is_late_after_that(world: World) -> None:
    now = world.clock.now()
    await asked(world, until=now + timedelta(hours=1))
    world.clock.move(timedelta(hours=1))
    assert await found(world) == []
    world.clock.move(overdue.OVERDUE_GRACE + timedelta(seconds=1))
    assert await found(world) == [(now, True)]


async def test_who_waits_for_a_slot_is_late_however_often_it_asks(world: World) -> None:
    now = world.clock.now()
    await asked(world, waits_for=slots.SLOT, until=now + timedelta(hours=1))
    world.clock.move(overdue.OVERDUE_GRACE + timedelta(seconds=1))

    assert await found(world) == [(now, True)]


async def seen(world: World, memory: overdue.DueTimeCache) -> list[tuple[str, datetime]]:
    async with world.ledger.read() as session:
        late = await overdue.find_all(session, memory, world.clock.now())
    return [(each.stored.row.name, each.due) for each in late]


async def test_a_watch_sees_what_has_changed_since_its_last_look(world: World) -> None:
    memory = overdue.DueTimeCache()
    first = await world.add("first", cron="0 * * * *", catch_up="none")
    assert await seen(world, memory) == []
    second = await world.add("second", cron="30 12 * * *")
    world.clock.set(ONE - timedelta(minutes=29) + overdue.OVERDUE_GRACE)
    assert await seen(world, memory) == [("second", ONE - timedelta(minutes=30))]
    await world.edit(second.id, cron="0 18 * * *")
    assert await seen(world, memory) == []
    world.clock.set(ONE + timedelta(minutes=5))
    assert await seen(world, memory) == [("first", ONE)]
    await audit.advance(world.ledger, first.id, ONE + timedelta(minutes=4))
    assert await seen(world, memory) == [("first", ONE)]  # it was missed
    await world.edit(first.id, enabled=False)
    await claims.request(world.ledger, second, "now", "manual")
    assert await seen(world, memory) == []
    world.clock.set(ONE + timedelta(minutes=10))
    assert await seen(world, memory) == [("second", ONE + timedelta(minutes=5))]
    await world.archive(second.id)
    assert await seen(world, memory) == []
    assert list(memory.known) == []


@pytest.mark.slow
async def test_a_watch_asks_a_schedule_only_when_a_due_time_has_passed(world: World) -> None:
    stored = await world.add(cron="0 * * * *", catch_up="none")
    memory, known = overdue.DueTimeCache(), list[object]()
    for _ in range(4 * 60):
        world.clock.move(timedelta(minutes=1))
        await audit.advance(world.ledger, stored.id, world.clock.now() - timedelta(minutes=1))
        await seen(world, memory)
        if not known or known[-1] is not memory.known[stored.id]:
            known.append(memory.known[stored.id])
    # As it comes, and as the watermark passes it.
    assert len(known) <= 1 + 2 * 4


async def test_how_many_jobs_are_due_soon(world: World) -> None:
    memory = overdue.DueTimeCache()
    for minute in (5, 6, 59):
        await world.add(f"at {minute}", cron=f"{minute} * * * *")
    await world.add("off", cron="5 * * * *", enabled=False)
    await seen(world, memory)
    now = world.clock.now()
    assert [memory.count_due(now, timedelta(minutes=each)) for each in (4, 5, 6, 60)] == [
        0,
        1,
        2,
        3,
    ]


async def test_who_waits_its_turn_and_asks_again_is_late_and_not_overdue(world: World) -> None:
    stored = await world.add()
    world.clock.set(ONE)
    waiting = await world.claim(world.offer(stored, due=ONE, most=0))
    assert isinstance(waiting, claim_requests.Waiting)
    world.clock.set(ONE + timedelta(minutes=2))
    async with world.ledger.write() as session:
        row = (await history.live(session))[0]
        row.until = world.clock.now() + slots.MIN_RETRY_INTERVAL
        session.add(row)

    async with world.ledger.read() as session:
        (late,) = await overdue.find_all(session, overdue.DueTimeCache(), world.clock.now())
    assert late.why == "waiting: 0 of 0 runs are active"
    # Whoever was to come for it has not, by then.
    assert (
        late.overdue_since == world.clock.now() + slots.MIN_RETRY_INTERVAL + overdue.OVERDUE_GRACE
    )


async def test_what_nobody_comes_for_is_overdue_as_soon_as_it_is_late(world: World) -> None:
    await world.add()
    world.clock.set(ONE + timedelta(minutes=30))
    async with world.ledger.read() as session:
        (late,) = await overdue.find_all(session, overdue.DueTimeCache(), world.clock.now())
    assert late.overdue_since == ONE + overdue.OVERDUE_GRACE


async def test_jobs_that_were_overdue_for_long_are_found_by_their_first_due_times(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        await world.add(f"job {number}", cron="* * * * *")
    asked = 0

    def counted(*given: Any, **named: Any) -> Iterator[datetime]:
        nonlocal asked
        for due in due_times(*given, **named):
            asked += 1
            yield due

    due_times = upcoming.due_times
    world.clock.move(timedelta(hours=5))  # 300 due times of each
    monkeypatch.setattr(upcoming, "due_times", counted)

    assert len(await found(world)) == 20

    assert asked <= 20 * 4  # `find` and `look` together


async def test_the_first_without_a_row_is_found_behind_many_that_have_one(world: World) -> None:
    stored = await world.add(cron="* * * * *")
    for _ in range(11):
        await world.settled(world.offer(stored), Status.SUCCEEDED)
    last = world.clock.now().replace(second=0, microsecond=0)
    world.clock.move(timedelta(minutes=5))

    told = [(due, row) for due, row in await found(world) if not row]

    assert told == [(last + timedelta(minutes=1), False)]
