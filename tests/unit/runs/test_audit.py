"""Rule 10: up to the watermark each due time has its row, and the claim makes none there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from daybook.jobs import store, upcoming
from daybook.jobs.store import StoredJob
from daybook.keeper import auditor as keeper
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.runs import audit, claim_rules, claims, prefect_ends
from daybook.runs.audit import AuditResult
from daybook.runs.claim_requests import Finished, Granted, NeedsReconcile, Waiting
from daybook.runs.prefect_ends import EndInPrefect
from tests.unit.schedules import oracle
from tests.world import World

pytestmark = pytest.mark.anyio

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


async def advance(world: World, stored: StoredJob, up_to: datetime | None = None) -> AuditResult:
    done = await audit.advance(world.ledger, stored.id, up_to or world.clock.now())
    assert done is not None
    return done


def told(row: RunRow) -> tuple[str, datetime, datetime | None, int]:
    return row.status, row.due, row.due_to, row.count


def outcomes(rows: list[RunRow], step: timedelta) -> Iterator[tuple[datetime, str]]:
    """Each due time with its status, ranges taken apart by the job's own step."""
    for row in rows:
        assert ((row.due_to or row.due) - row.due) // step == row.count - 1
        for place in range(row.count):
            yield row.due + place * step, row.status


# --- down for an hour


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("none", [("missed", 10, 60, 6), ("waiting", 70, None, 1)]),
        ("latest", [("missed", 10, 60, 6), ("waiting", 70, None, 1)]),
        ("all", [("waiting", minute, None, 1) for minute in range(10, 80, 10)]),
    ],
)
async def test_down_for_an_hour(
    world: World, catch_up: str, expected: list[tuple[str, int, int | None, int]]
) -> None:
    # Due from 12:10 on; at 13:11 that of 13:10 is a minute late, which is on time.
    stored = await world.add(cron="*/10 * * * *", catch_up=catch_up)
    world.clock.set(NOON + 71 * MINUTE)

    done = await advance(world, stored)

    assert [told(row) for row in await world.rows()] == [
        (status, NOON + first * MINUTE, NOON + last * MINUTE if last else None, count)
        for status, first, last, count in expected
    ]
    assert (done.until, done.more) == (NOON + 70 * MINUTE, False)
    assert done.following == NOON + 80 * MINUTE
    assert (await world.job_row(stored.id)).audited_until == NOON + 70 * MINUTE


async def test_a_minute_later_none_of_them_is_on_time(world: World) -> None:
    stored = await world.add(cron="*/10 * * * *", catch_up="none")
    world.clock.set(NOON + 72 * MINUTE)

    done = await advance(world, stored)

    (row,) = await world.rows()
    assert told(row) == ("missed", NOON + 10 * MINUTE, NOON + 70 * MINUTE, 7)
    assert row.reason == "no worker ran it in time, and the job catches up on none"
    assert (done.missed, done.waiting, done.skipped) == (7, 0, 0)


async def test_latest_runs_inside_its_window_and_not_after_it(world: World) -> None:
    # Half the gap of ten minutes: until 13:15.
    stored = await world.add(cron="*/10 * * * *", catch_up="latest")
    world.clock.set(NOON + 75 * MINUTE)
    later = await world.add("later", cron="*/10 * * * *", catch_up="latest")

    assert (await advance(world, stored)).waiting == 1
    rows = await world.rows()
    assert [row.trigger for row in rows] == ["schedule", "catch_up"]
    assert rows[1].until == world.clock.now()

    world.clock.set(NOON + 85 * MINUTE + SECOND)
    assert (await advance(world, later)).waiting == 0
    assert told((await world.rows())[-1]) == ("missed", NOON + 80 * MINUTE, None, 1)


async def test_what_waits_for_a_later_look_is_superseded_by_a_later_due_time(world: World) -> None:
    stored = await world.add(cron="*/10 * * * *", catch_up="latest")
    for minutes in (12, 22, 32):
        world.clock.set(NOON + minutes * MINUTE)
        await advance(world, stored)

    assert [row.status for row in await world.rows()] == ["skipped", "skipped", "waiting"]


async def test_all_are_made_up_for_oldest_first_and_one_after_the_other(world: World) -> None:
    stored = await world.add(cron="0 * * * *", catch_up="all", overlap="allow")
    world.clock.set(NOON + timedelta(hours=30, minutes=5))

    done = await advance(world, stored)

    # Due from 13:00 on, thirty times; those of the last 24 hours are from 19:00 the first day on.
    assert (done.missed, done.waiting) == (6, 24)
    rows = (await world.rows())[1:]
    # Their Prefect runs come in any order: the last one first.
    assert isinstance(await world.claim(world.offer_of(rows[-1])), Waiting)
    began = []
    while waiting := [row for row in await world.rows() if row.status == "waiting"]:
        for row in {row.id: row for row in (waiting[-1], *waiting[1::-1])}.values():
            answer = await world.claim(world.offer_of(row))
            if isinstance(answer, Granted):
                began.append(answer.due)
                await claims.begin(world.ledger, answer.run_id, answer.fence)
                assert await world.settle(answer, Status.SUCCEEDED) is Status.SUCCEEDED
    assert began == [row.due for row in rows]


# --- a weekend


@pytest.mark.parametrize("catch_up", ["none", "latest", "all"])
@pytest.mark.slow
async def test_a_weekend_of_a_job_of_every_five_seconds(world: World, catch_up: str) -> None:
    stored = await world.add(every="5s", catch_up=catch_up)
    anchor = stored.job.schedule.anchor  # type: ignore[union-attr]
    down = timedelta(hours=62)
    world.clock.set(anchor + down + 2 * SECOND)
    steps = 0
    while (await advance(world, stored)).more:
        steps += 1

    rows = await world.rows()

    now = world.clock.now()
    expected = {}
    for place in range(1, int(down / (5 * SECOND)) + 1):
        due = anchor + place * 5 * SECOND
        late = now - due
        if late < MINUTE:
            break
        day = catch_up == "all" and late <= timedelta(hours=24)
        expected[due] = "waiting" if late <= MINUTE or day else "missed"
    assert dict(outcomes(rows, 5 * SECOND)) == expected
    assert sum(row.count for row in rows) == len(expected)
    assert steps == len(expected) // audit.MAX_DUE_TIMES
    assert len([row for row in rows if row.status == "missed"]) == 1


# --- daylight saving


@pytest.mark.parametrize(
    ("cron", "zone", "change"),
    [
        ("30 2 * * *", "America/New_York", datetime(2027, 3, 14, 7, tzinfo=UTC)),
        ("0 0 * * *", "America/Santiago", datetime(2027, 9, 5, 4, tzinfo=UTC)),
        ("*/30 * * * *", "Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC)),
        ("15 2 * * *", "Europe/Berlin", datetime(2026, 10, 25, 1, tzinfo=UTC)),
    ],
    ids=["gap", "midnight", "repeated", "twice"],
)
async def test_across_a_change_of_the_clocks(
    world: World, cron: str, zone: str, change: datetime
) -> None:
    start, end = change - 30 * HOUR, change + 30 * HOUR
    world.clock.set(start)
    stored = await world.add(cron=cron, timezone=zone, catch_up="none")
    world.clock.set(end + HOUR)

    await advance(world, stored, end)

    expected = oracle.due(cron, zone, start, end)
    (row,) = await world.rows()
    assert (row.due, row.due_to, row.count) == (expected[0], expected[-1], len(expected))


# --- what is not to be judged, and by what


async def test_what_has_its_row_keeps_it_and_parts_the_range(world: World) -> None:
    stored = await world.add(every="10m", catch_up="none")
    offers = [
        world.offer(stored, due=world.offer(stored).due + place * 10 * MINUTE) for place in range(5)
    ]
    await world.settled(offers[2], Status.SUCCEEDED)
    world.clock.set(offers[4].due + 2 * MINUTE)

    await advance(world, stored)

    assert [(row.status, row.due, row.count) for row in await world.rows()] == [
        ("missed", offers[0].due, 2),
        ("succeeded", offers[2].due, 1),
        ("missed", offers[3].due, 2),
    ]


async def test_each_by_the_revision_in_force_and_none_of_a_time_when_it_was_off(
    world: World,
) -> None:
    stored = await world.add(cron="0 * * * *", catch_up="none")
    world.clock.set(NOON + 2 * HOUR + 30 * MINUTE)
    await world.edit(stored.id, cron="15 * * * *")
    world.clock.set(NOON + 4 * HOUR + 15 * MINUTE)  # in force from its due time on
    await world.edit(stored.id, enabled=False)
    world.clock.set(NOON + 6 * HOUR)
    await world.edit(stored.id, enabled=True)
    world.clock.set(NOON + 8 * HOUR)

    await advance(world, stored)

    assert [(row.due - NOON, row.due_to and row.due_to - NOON) for row in await world.rows()] == [
        (HOUR, 2 * HOUR),
        (3 * HOUR + 15 * MINUTE, None),
        (6 * HOUR + 15 * MINUTE, 7 * HOUR + 15 * MINUTE),
    ]
    assert [row.revision for row in await world.rows()] == [1, 2, 4]


async def test_one_range_goes_on_in_the_next_pass_until_something_else_comes(world: World) -> None:
    stored = await world.add(cron="*/10 * * * *", catch_up="none")
    for minutes in (15, 25, 35, 36, 55):
        world.clock.set(NOON + minutes * MINUTE)
        await advance(world, stored)
    (row,) = await world.rows()
    assert (row.due, row.due_to, row.count) == (NOON + 10 * MINUTE, NOON + 50 * MINUTE, 5)
    job = await world.job_row(stored.id)
    assert (job.last_run_id, job.last_run_at, job.last_status) == (row.id, row.due_to, "missed")

    await world.settled(world.offer(stored), Status.SUCCEEDED)  # 13:00
    world.clock.set(NOON + 75 * MINUTE)
    await advance(world, stored)

    assert [row.count for row in await world.rows()] == [5, 1, 1]
    await world.edit(stored.id, prompt="Another")
    world.clock.set(NOON + 85 * MINUTE)
    await advance(world, stored)
    assert [row.count for row in await world.rows()] == [5, 1, 1, 1]


async def test_no_more_than_so_many_in_one_transaction(world: World) -> None:
    stored = await world.add(cron="* * * * *", catch_up="none")
    world.clock.set(NOON + 12 * MINUTE)

    said = [await audit.advance(world.ledger, stored.id, world.clock.now(), 4) for _ in range(4)]

    assert [each and (each.until - NOON, each.missed, each.more) for each in said] == [
        (4 * MINUTE, 4, True),
        (8 * MINUTE, 4, True),
        (11 * MINUTE, 2, False),
        (11 * MINUTE, 0, False),
    ]
    assert [told(row) for row in await world.rows()] == [
        ("missed", NOON + MINUTE, NOON + 10 * MINUTE, 10),
        ("waiting", NOON + 11 * MINUTE, None, 1),
    ]


async def test_nothing_is_judged_before_it_is_a_minute_late(world: World) -> None:
    stored = await world.add(cron="*/10 * * * *", catch_up="none")
    world.clock.set(NOON + 10 * MINUTE + 59 * SECOND)

    done = await advance(world, stored, world.clock.now() + HOUR)

    assert done.until == NOON + 10 * MINUTE - SECOND
    assert await world.rows() == []
    assert isinstance(await world.claim(world.offer(stored, due=NOON + 10 * MINUTE)), Granted)


@pytest.mark.parametrize(
    ("what", "status", "reason", "count"),
    [
        ("off", "skipped", "the job is off: disabled", 3),
        ("snoozed", "skipped", "snoozed until 2026-01-16 12:00:00 UTC", 3),
        ("skipped", "skipped", "skipped by hand", 1),
        ("spent", "skipped", "max runs: 1 are done or running", 2),
        ("removed", "skipped", "the job is off: removed", 3),
    ],
)
async def test_what_is_not_wanted_is_skipped(
    world: World, what: str, status: str, reason: str, count: int
) -> None:
    fields: dict[str, Any] = {"max_runs": 1} if what == "spent" else {}
    stored = await world.add(cron="0 * * * *", catch_up="none", **fields)
    if what == "spent":
        await world.begun(world.offer(stored))
    world.clock.set(NOON + 3 * HOUR + 30 * MINUTE)
    if what == "off":
        await world.edit(stored.id, enabled=False)
    elif what == "removed":
        await world.archive(stored.id)
    elif what != "spent":
        async with world.ledger.write() as session:
            row = (await store.find(session, stored.id)).row
            row.skips = [(NOON + HOUR).isoformat()] if what == "skipped" else []
            row.snoozed_until = NOON + 24 * HOUR if what == "snoozed" else None
            session.add(row)
    world.clock.move(2 * MINUTE)

    await advance(world, stored)

    rows = [row for row in await world.rows() if row.status == status]
    assert [(row.reason, row.count) for row in rows] == [(reason, count)]


STATES_OF_A_JOB: dict[str, dict[str, Any]] = {
    "off": {},
    "skipped": {"skips": [(NOON + HOUR).isoformat()]},
    "snoozed": {"snoozed_until": NOON + 24 * HOUR},
    "spent": {"run_count": 1},
}


async def _job_in(world: World, name: str, states: tuple[str, ...]) -> StoredJob:
    max_runs: dict[str, Any] = {"max_runs": 1} if "spent" in states else {}
    stored = await world.add(name, cron="0 13 * * *", catch_up="none", **max_runs)
    async with world.ledger.write() as session:
        row = (await store.find(session, stored.id)).row
        for state in states:
            row.sqlmodel_update(STATES_OF_A_JOB[state])
        session.add(row)
    return stored


@pytest.mark.parametrize("late", [MINUTE, HOUR], ids=["on time", "too late"])
async def test_the_audit_and_the_claim_decide_alike(world: World, late: timedelta) -> None:
    """Every combination of reasons: the same one of them decides in both."""
    combinations = [
        which
        for number in range(len(STATES_OF_A_JOB) + 1)
        for which in itertools.combinations(STATES_OF_A_JOB, number)
    ]
    pairs = [
        [await _job_in(world, f"{each}-{number}", states) for each in ("audited", "claimed")]
        for number, states in enumerate(combinations)
    ]
    world.clock.set(NOON + HOUR + late)
    for states, jobs in zip(combinations, pairs, strict=True):
        for stored in jobs:
            if "off" in states:
                await world.edit(stored.id, enabled=False)

    for states, (audited, claimed) in zip(combinations, pairs, strict=True):
        await advance(world, audited)
        (row,) = [each for each in await world.rows() if each.job_id == audited.id]
        answer = await world.claim(world.offer(claimed, due=NOON + HOUR))
        if isinstance(answer, Finished):
            decided = (answer.status, answer.reason.removeprefix("1 hour late, and "))
            assert (
                row.status,
                row.reason.removeprefix("no worker ran it in time, and "),
            ) == decided
        else:
            assert (type(answer), row.status, states) == (Granted, "waiting", ())


async def test_the_order_of_the_audit_is_the_order_of_the_claim(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await world.add(cron="0 13 * * *", catch_up="none")
    world.clock.set(NOON + 2 * HOUR)
    await world.edit(stored.id, enabled=False)
    monkeypatch.setattr(claim_rules, "RULES", claim_rules.RULES[::-1])
    await advance(world, stored)
    assert [row.status for row in await world.rows()] == ["missed"]


async def test_of_a_removed_job_nothing_after_its_removal(world: World) -> None:
    stored = await world.add(cron="0 * * * *")
    world.clock.set(NOON + 90 * MINUTE)
    await world.archive(stored.id)
    world.clock.set(NOON + 10 * HOUR)

    done = await keeper.audit(world.ledger, {})

    assert (done.jobs, done.skipped, done.missed) == (1, 1, 0)
    assert (await world.job_row(stored.id)).audited_until == NOON + 90 * MINUTE
    assert (await keeper.audit(world.ledger, {})).jobs == 0


async def test_a_one_time_job_has_a_day_and_then_is_missed_and_off(world: World) -> None:
    early = await world.add("early", at=(NOON + HOUR).isoformat())
    late = await world.add("late", at=(NOON + HOUR).isoformat())
    never = await world.add("never", on_demand=True)
    world.clock.set(NOON + 24 * HOUR)
    assert (await advance(world, early)).waiting == 1
    world.clock.set(NOON + 26 * HOUR)
    assert (await advance(world, late)).missed == 1
    assert (await advance(world, never)).following is None

    assert [row.status for row in await world.rows()] in (
        ["missed", "waiting"],
        ["waiting", "missed"],
    )
    assert (await world.job_row(late.id)).disabled_reason == "fired, missed"
    (waiting,) = [row for row in await world.rows() if row.status == "waiting"]
    await world.settled(world.offer_of(waiting), Status.SUCCEEDED)
    assert (await world.job_row(early.id)).disabled_reason == "fired, succeeded"


async def test_staggered_ones_count_from_when_they_would_begin(world: World) -> None:
    stored = await world.add(cron="0 * * * *", catch_up="none", stagger="30m")
    later = upcoming.stagger_offset(stored.id, timedelta(minutes=30))
    world.clock.set(NOON + HOUR + MINUTE)

    assert (await advance(world, stored)).waiting == 1

    (row,) = await world.rows()
    assert (row.until, row.trigger) == (max(world.clock.now(), row.due + later), "schedule")


async def test_a_last_run_is_the_last_due_time_not_the_last_that_was_judged(world: World) -> None:
    stored = await world.add(cron="*/10 * * * *", catch_up="none")
    world.clock.set(NOON + 15 * MINUTE)
    done = await world.settled(world.offer(stored), Status.SUCCEEDED)

    await advance(world, stored, world.clock.now() + HOUR)

    job = await world.job_row(stored.id)
    assert (job.last_run_id, job.last_status) == (done.run_id, "succeeded")


# --- the claim behind the watermark


async def test_behind_the_watermark_the_claim_makes_no_row(world: World) -> None:
    stored = await world.add(every="10m", catch_up="none")
    first = world.offer(stored)
    second = world.offer(stored, due=first.due + 10 * MINUTE)
    other = world.offer(stored, due=first.due + 5 * MINUTE, compared=True)
    world.clock.set(second.due + 2 * MINUTE)
    await advance(world, stored)

    answers = [await world.claim(each) for each in (first, second, other)]

    reasons = [(each.status, each.reason) for each in answers if isinstance(each, Finished)]
    missed = "no worker ran it in time, and the job catches up on none"
    assert reasons == [
        (Status.MISSED, missed),
        (Status.MISSED, missed),  # it is of the same range
        (Status.SKIPPED, "not due"),
    ]
    assert len(await world.rows()) == 1
    late = EndInPrefect("another", "CRASHED", "Crashed", "", replace(second, flow_run_id="another"))
    assert await prefect_ends.apply_end(world.ledger, late) is None
    assert len(await world.rows()) == 1


async def test_behind_the_watermark_the_waiting_row_is_taken(world: World) -> None:
    stored = await world.add(every="10m", catch_up="latest")
    offer = world.offer(stored)
    world.clock.set(offer.due + 2 * MINUTE)
    await advance(world, stored)

    answer = await world.claim(offer)

    assert isinstance(answer, Granted)
    assert (answer.trigger, answer.due) == ("catch_up", offer.due)


async def test_after_the_watermark_an_unknown_instant_is_compared_still(world: World) -> None:
    stored = await world.add(every="10m")
    world.clock.set(NOON + 15 * MINUTE)
    await advance(world, stored)

    answer = await world.claim(world.offer(stored, due=NOON + 14 * MINUTE + 30 * SECOND))

    assert answer == NeedsReconcile(stored.id)


async def test_an_edit_of_before_the_watermark_counts_from_there_on(world: World) -> None:
    stored = await world.add(cron="0 * * * *", catch_up="none")
    world.clock.set(NOON + 3 * HOUR + 10 * MINUTE)
    await advance(world, stored)
    mark = (await world.job_row(stored.id)).audited_until
    async with world.ledger.write() as session:
        found = await store.find(session, stored.id)
        job = found.job.model_copy(update={"enabled": False})
        now = world.clock.now()
        edited = await store.change(session, found, job, now, edited=NOON + HOUR, source="prefect")

    assert edited.revision.effective_from == mark
    before = [told(row) for row in await world.rows()]
    await advance(world, stored)
    assert [told(row) for row in await world.rows()] == before


async def test_a_watermark_that_a_clock_set_back_left_ahead_puts_no_edit_off(world: World) -> None:
    stored = await world.add(cron="0 * * * *", catch_up="none")
    world.clock.set(NOON + 24 * HOUR)
    await advance(world, stored)
    assert (await world.job_row(stored.id)).audited_until == NOON + 24 * HOUR - MINUTE
    world.clock.set(NOON + HOUR)

    edited = await world.edit(stored.id, prompt="The new")

    assert edited.revision.effective_from == NOON + HOUR


# --- the keeper's pass


async def test_only_what_was_observed_is_audited_and_up_to_then(world: World) -> None:
    seen = await world.add("seen", cron="*/10 * * * *", catch_up="none")
    unseen = await world.add("unseen", cron="*/10 * * * *", catch_up="none")
    world.clock.set(NOON + HOUR)

    done = await keeper.audit(world.ledger, {seen.id: NOON + 25 * MINUTE})

    assert (done.jobs, done.missed) == (1, 2)
    assert (await world.job_row(seen.id)).audited_until == NOON + 25 * MINUTE
    assert (await world.job_row(unseen.id)).audited_until == (
        await world.job_row(unseen.id)
    ).created_at


async def test_where_nothing_is_due_no_job_is_looked_at(world: World) -> None:
    stored = await world.add(cron="0 * * * *", catch_up="none")
    memory = keeper.AuditorState()

    async def passes(minutes: float) -> keeper.AuditReport:
        world.clock.set(NOON + minutes * MINUTE)
        observed = {stored.id: world.clock.now()}
        return await keeper.audit(world.ledger, observed, memory=memory)

    looked = [(await passes(minutes)).jobs for minutes in (2, 3, 59, 60.5)]
    assert looked == [1, 0, 0, 0]
    assert (await passes(62)).missed == 1
    assert (await passes(63)).jobs == 0
    await world.edit(stored.id, cron="*/5 * * * *")
    assert (await passes(67)).missed == 1
    assert [told(row) for row in await world.rows()] == [
        ("missed", NOON + 60 * MINUTE, None, 1),
        ("missed", NOON + 65 * MINUTE, None, 1),
    ]


async def test_a_pass_ends_when_its_time_is_up_and_the_next_goes_on(world: World) -> None:
    added = [await world.add(f"job {place}", cron="* * * * *", catch_up="none") for place in "abc"]
    world.clock.set(NOON + HOUR)
    observed = dict.fromkeys([each.id for each in added], world.clock.now())

    first = await keeper.audit(world.ledger, observed, most_seconds=0)
    rest = await keeper.audit(world.ledger, observed)

    assert (first.jobs, first.left) == (0, True)
    assert (rest.jobs, rest.missed, rest.left) == (3, 3 * 58, False)
