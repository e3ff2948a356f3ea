"""Overdue due times: they have passed, and no run has started (requirement 59)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlmodel import select

from daybook.api.overdue import DelayFacts, OverdueRun
from daybook.jobs import scheduled, store, upcoming
from daybook.jobs.store import StoredJob
from daybook.ledger import triggers
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import JobRow, RunRow
from daybook.runs import audit, claim_requests, claims, history, overdue, slots
from tests.world import World

pytestmark = pytest.mark.anyio

ONE = datetime(2026, 1, 15, 13, 0, tzinfo=UTC)
"""The first due time of an hourly job that was made a quarter of a second past 12:00."""


async def found(world: World) -> list[tuple[datetime, bool]]:
    """Return when each overdue due time was due, and whether it has a row."""
    async with world.ledger.read() as session:
        late = await overdue.find_all(session, overdue.DueTimeCache(), world.clock.now())
    return [(each.due, each.run is not None) for each in late]


async def test_an_unclaimed_due_time_is_overdue_after_the_grace_period(world: World) -> None:
    await world.jobs.add()
    world.clock.set(ONE + overdue.OVERDUE_GRACE - timedelta(microseconds=1))
    assert await found(world) == []

    world.clock.set(ONE + overdue.OVERDUE_GRACE)
    assert await found(world) == [(ONE, False)]
    world.clock.set(ONE + timedelta(hours=5))
    assert await found(world) == [(ONE, False)]  # only the first one is reported


async def test_a_due_time_with_an_outcome_or_an_active_run_is_not_overdue(world: World) -> None:
    stored = await world.jobs.add()
    await world.runs.finished(stored, Status.SUCCEEDED)
    world.clock.set(ONE + timedelta(minutes=30))
    assert await found(world) == []
    await world.runs.running(stored)
    world.clock.set(ONE + timedelta(hours=1, minutes=30))
    assert await found(world) == []


async def test_a_job_with_an_active_run_is_not_unattended_despite_missed_due_times(
    world: World,
) -> None:
    stored = await world.jobs.add(every="1m", catch_up="none")
    await world.runs.running(stored)
    world.passes(minutes=4)
    await audit.advance(world.ledger, stored.id, world.clock.now())

    async with world.ledger.read() as session:
        assert await overdue.unattended(session, world.clock.now()) == []


async def test_a_due_time_missed_in_an_outage_that_is_over_is_not_overdue(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *", catch_up="none")
    world.clock.set(ONE + timedelta(minutes=30))
    await audit.advance(world.ledger, stored.id, ONE + timedelta(minutes=29))

    assert await found(world) == []


async def test_a_missed_due_time_is_overdue_until_it_reaches_the_maximum_age(world: World) -> None:
    stored = await world.jobs.add(every="1m", catch_up="none")
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


async def test_a_missed_due_time_is_overdue_until_a_worker_claims_the_job_again(
    world: World,
) -> None:
    stored = await world.jobs.add(every="1m", catch_up="none")
    world.clock.move(timedelta(minutes=4))
    await audit.advance(world.ledger, stored.id, world.clock.now())
    assert len(await found(world)) == 1

    await world.runs.claimed(stored)

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
async def test_a_disabled_on_demand_or_out_of_hours_job_is_not_overdue(
    world: World, fields: dict[str, Any]
) -> None:
    await world.jobs.add(**fields)
    world.clock.set(ONE + timedelta(minutes=30))

    assert await found(world) == []


async def test_an_edit_of_the_schedule_makes_no_earlier_due_time_overdue(world: World) -> None:
    stored = await world.jobs.add(cron="0 0 * * *")
    world.clock.set(ONE + timedelta(minutes=30))
    await world.jobs.edit(stored.id, cron="0 * * * *")

    assert await found(world) == []


async def request_run(world: World, **fields: Any) -> None:
    stored = await world.jobs.add(on_demand=True)
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
        ({"waits_for": "slot"}, True),
        ({"attempts": 1, "until": datetime(2030, 1, 1, tzinfo=UTC)}, False),
        ({"trigger": triggers.BACKFILL.name}, False),
    ],
    ids=["asked for", "a slot", "a backoff", "a backfill"],
)
async def test_a_waiting_run_is_overdue_unless_it_backs_off_or_is_a_backfill(
    world: World, fields: dict[str, Any], late: bool
) -> None:
    now = world.clock.now()
    await request_run(world, **fields)
    world.clock.move(overdue.OVERDUE_GRACE + timedelta(seconds=1))

    assert await found(world) == ([(now, True)] if late else [])


async def test_a_run_that_waits_to_retry_is_overdue_only_if_no_process_claims_it_afterwards(
    world: World,
) -> None:
    stored = await world.jobs.add("minutely", every="1m", retries=3)
    granted = await world.runs.running(stored)
    world.clock.move(timedelta(minutes=20))  # the attempt, in which due times passed
    until = world.clock.now() + timedelta(minutes=5)
    busy = Outcome(Status.FAILED, error="429")
    await claims.retry(world.ledger, granted.run_id, granted.fence, busy, until)

    async def late() -> list[str]:
        async with world.ledger.read() as session:
            all_ = await overdue.find_all(session, overdue.DueTimeCache(), world.clock.now())
        known = DelayFacts(world.clock.now())
        return [OverdueRun.of(each, known).as_sentence() for each in all_ if each.retries]

    assert await late() == []
    world.clock.set(until + overdue.OVERDUE_GRACE)
    assert await late() == []
    world.clock.move(timedelta(seconds=1))
    (sentence,) = await late()
    assert "minutely was due on " in sentence
    assert ", and has not ended: " in sentence


async def test_a_run_that_waits_until_a_time_is_overdue_only_after_that_time(world: World) -> None:
    now = world.clock.now()
    await request_run(world, until=now + timedelta(hours=1))
    world.clock.move(timedelta(hours=1))
    assert await found(world) == []
    world.clock.move(overdue.OVERDUE_GRACE + timedelta(seconds=1))
    assert await found(world) == [(now, True)]


async def test_a_run_that_waits_for_a_slot_is_overdue_before_its_next_claim(world: World) -> None:
    now = world.clock.now()
    await request_run(world, waits_for="slot", until=now + timedelta(hours=1))
    world.clock.move(overdue.OVERDUE_GRACE + timedelta(seconds=1))

    assert await found(world) == [(now, True)]


async def overdue_jobs(world: World, memory: overdue.DueTimeCache) -> list[tuple[str, datetime]]:
    async with world.ledger.read() as session:
        late = await overdue.find_all(session, memory, world.clock.now())
    return [(each.job.name, each.due) for each in late]


async def test_find_all_with_a_cache_sees_every_change_since_its_last_call(world: World) -> None:
    memory = overdue.DueTimeCache()
    first = await world.jobs.add("first", cron="0 * * * *", catch_up="none")
    assert await overdue_jobs(world, memory) == []
    second = await world.jobs.add("second", cron="30 12 * * *")
    world.clock.set(ONE - timedelta(minutes=29) + overdue.OVERDUE_GRACE)
    assert await overdue_jobs(world, memory) == [("second", ONE - timedelta(minutes=30))]
    await world.jobs.edit(second.id, cron="0 18 * * *")
    assert await overdue_jobs(world, memory) == []
    world.clock.set(ONE + timedelta(minutes=5))
    assert await overdue_jobs(world, memory) == [("first", ONE)]
    await audit.advance(world.ledger, first.id, ONE + timedelta(minutes=4))
    assert await overdue_jobs(world, memory) == [("first", ONE)]  # it was missed
    await world.jobs.edit(first.id, enabled=False)
    await claims.request(world.ledger, second, "now", "manual")
    assert await overdue_jobs(world, memory) == []
    world.clock.set(ONE + timedelta(minutes=10))
    assert await overdue_jobs(world, memory) == [("second", ONE + timedelta(minutes=5))]
    await world.jobs.archive(second.id)
    assert await overdue_jobs(world, memory) == []
    assert memory.jobs.keys() == {first.id}
    assert memory.firsts.keys() | memory.coming.keys() <= {first.id}


@pytest.mark.slow
async def test_the_cache_expands_a_schedule_only_when_a_due_time_has_passed(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *", catch_up="none")
    memory, known = overdue.DueTimeCache(), list[object]()
    for _ in range(4 * 60):
        world.clock.move(timedelta(minutes=1))
        await audit.advance(world.ledger, stored.id, world.clock.now() - timedelta(minutes=1))
        await overdue_jobs(world, memory)
        memory.count_due(world.clock.now(), timedelta(minutes=5))
        if not known or known[-1] is not memory.coming[stored.id]:
            known.append(memory.coming[stored.id])
    assert len(known) == 1 + 4
    # Up to its watermark, which is less than a minute old, no due time is overdue.
    assert memory.firsts == {}


async def test_count_due_counts_the_enabled_jobs_that_are_due_soon(world: World) -> None:
    memory = overdue.DueTimeCache()
    for minute in (5, 6, 59):
        await world.jobs.add(f"at {minute}", cron=f"{minute} * * * *")
    await world.jobs.add("off", cron="5 * * * *", enabled=False)
    await overdue_jobs(world, memory)
    now = world.clock.now()
    assert [memory.count_due(now, timedelta(minutes=each)) for each in (4, 5, 6, 60)] == [
        0,
        1,
        2,
        3,
    ]


async def test_a_run_that_waits_for_its_turn_and_keeps_claiming_is_late_but_not_overdue(
    world: World,
) -> None:
    stored = await world.jobs.add()
    world.clock.set(ONE)
    waiting = await world.runs.claim(world.runs.claim_request(stored, due=ONE, most=0))
    assert isinstance(waiting, claim_requests.Waiting)
    world.clock.set(ONE + timedelta(minutes=2))
    async with world.ledger.write() as session:
        row = (await history.live(session))[0]
        row.until = world.clock.now() + slots.MIN_RETRY_INTERVAL
        session.add(row)

    async with world.ledger.read() as session:
        (late,) = await overdue.find_all(session, overdue.DueTimeCache(), world.clock.now())
    assert late.why == "waiting: 0 of 0 runs are active"
    # By then its next claim should have come.
    assert (
        late.overdue_since == world.clock.now() + slots.MIN_RETRY_INTERVAL + overdue.OVERDUE_GRACE
    )


async def test_an_unclaimed_due_time_is_overdue_as_soon_as_it_is_late(world: World) -> None:
    await world.jobs.add()
    world.clock.set(ONE + timedelta(minutes=30))
    async with world.ledger.read() as session:
        (late,) = await overdue.find_all(session, overdue.DueTimeCache(), world.clock.now())
    assert late.overdue_since == ONE + overdue.OVERDUE_GRACE


async def test_long_overdue_jobs_are_found_by_their_first_due_times(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        await world.jobs.add(f"job {number}", cron="* * * * *")
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

    assert asked <= 20 * 2


async def test_the_first_due_time_without_a_row_is_found_after_many_with_a_row(
    world: World,
) -> None:
    stored = await world.jobs.add(cron="* * * * *")
    for _ in range(11):
        await world.runs.finished(stored, Status.SUCCEEDED)
    last = world.clock.now().replace(second=0, microsecond=0)
    world.clock.move(timedelta(minutes=5))

    rowless = [(due, row) for due, row in await found(world) if not row]

    assert rowless == [(last + timedelta(minutes=1), False)]


SCHEDULES: tuple[dict[str, Any], ...] = (
    {"cron": "*/10 * * * *"},
    {"cron": "15 12-20 * * *", "timezone": "Asia/Kolkata"},
    {"every": "7m"},
    {"at": "2026-01-15T13:20:00+00:00"},
    {"on_demand": True},
    {"cron": "0 * * * *", "exclude": ["2026-01-15"]},
    {"cron": "*/5 * * * *", "active_hours": "13:00-14:00", "quiet_hours": ["13:20-13:40"]},
)


async def test_overdue_due_times_are_those_that_the_whole_jobs_have(world: World) -> None:
    dice, memory = random.Random(7), overdue.DueTimeCache()
    for number in range(3 * len(SCHEDULES)):
        fields = SCHEDULES[number % len(SCHEDULES)]
        await world.jobs.add(f"job {number}", enabled=dice.random() < 0.8, **fields)
    seen = set[str]()
    for _ in range(12):
        world.clock.move(timedelta(minutes=dice.randint(1, 25), seconds=dice.randint(0, 59)))
        now = world.clock.now()
        async with world.ledger.read() as session:
            stored = await store.all_jobs(session)
            rows = {row.occurrence for row in (await session.execute(select(RunRow))).scalars()}
            late = await overdue.find_all(session, memory, now)
            fresh = await overdue.find_all(session, overdue.DueTimeCache(), now)
        wanted = {key for each in stored if (key := first_without_a_row(each, rows, now))}
        for found in (late, fresh):
            assert {each.occurrence for each in found if each.run is None} == wanted
        assert late == sorted(late, key=lambda each: (each.due, each.job.name))
        seen |= wanted
        for each in dice.sample(stored, 6):
            await audit.advance(world.ledger, each.id, now - timedelta(minutes=dice.randint(1, 20)))
        for each in dice.sample(stored, 3):
            await world.jobs.edit(each.id, enabled=dice.random() < 0.8)
            async with world.ledger.write() as session:
                row = await session.get(JobRow, each.id)
                assert row is not None
                row.snoozed_until = dice.choice((None, now + timedelta(minutes=15)))
    assert len(seen) > 20


def first_without_a_row(stored: StoredJob, rows: set[str], now: datetime) -> str | None:
    """Return the key of the job's first passed due time that has no row and was not snoozed."""
    job, snoozed = stored.job, stored.row.snoozed_until
    start = max(stored.row.audited_until, stored.revision.effective_from)
    due_times = upcoming.between(job.schedule, job.policy, start, now - overdue.OVERDUE_GRACE)
    keys = (
        claim_requests.due_key(stored.id, due)
        for due in due_times
        if job.enabled and not (snoozed and due < snoozed)
    )
    return next((key for key in keys if key not in rows), None)


async def test_a_kept_cache_reads_only_changed_jobs_and_finds_each_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("quiet", "edited", "paused", "skipped", "snoozed", "renamed", "removed")
    stored = {name: await world.jobs.add(name, cron="0 * * * *") for name in names}
    memory, read = overdue.DueTimeCache(), list[set[str]]()
    read_revisions = scheduled._read_revisions

    async def note(session: Any, ids: set[str]) -> Any:
        read.append(ids)
        return await read_revisions(session, ids)

    async def update() -> None:
        async with world.ledger.read() as session:
            await memory.update(session)
            assert memory.jobs == await scheduled.read(session)

    await update()
    before = dict(memory.jobs)
    monkeypatch.setattr(scheduled, "_read_revisions", note)
    async with world.ledger.read() as session:
        await memory.update(session)
    assert read == []
    assert all(memory.jobs[each] is job for each, job in before.items())

    await world.jobs.edit("edited", cron="30 * * * *")
    await world.jobs.edit("paused", enabled=False)
    await world.jobs.edit("renamed", name="other")
    async with world.ledger.write() as session:
        for name, changes in (
            ("skipped", {"skips": [ONE.isoformat()]}),
            ("snoozed", {"snoozed_until": ONE}),
            ("removed", {"archived_at": world.ledger.now()}),
        ):
            row = await session.get_one(JobRow, stored[name].id)
            row.sqlmodel_update(changes)
            session.add(row)
    async with world.ledger.read() as session:
        await memory.update(session)
    assert read == [{stored["edited"].id, stored["paused"].id}]
    await update()
    assert memory.jobs[stored["quiet"].id] is before[stored["quiet"].id]
    assert stored["removed"].id not in memory.jobs
    assert memory.jobs[stored["skipped"].id].skips == [ONE.isoformat()]
    assert memory.jobs[stored["renamed"].id].name == "other"
