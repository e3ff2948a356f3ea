"""Rule 10: every due time up to the watermark has a row, and a claim creates none there."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, update

from daybook.jobs import store, upcoming
from daybook.jobs.store import StoredJob
from daybook.keeper import auditor as keeper
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RevisionRow, RunRow
from daybook.runs import audit, claim_rules, claims, prefect_ends
from daybook.runs.audit import AuditResult
from daybook.runs.claim_requests import Finished, Granted, NeedsReconcile, Waiting
from daybook.runs.prefect_ends import EndInPrefect
from tests.pure.schedules import oracle
from tests.world import World

pytestmark = pytest.mark.anyio

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


async def advance(world: World, stored: StoredJob, up_to: datetime | None = None) -> AuditResult:
    done = await audit.advance(world.ledger, stored.id, up_to or world.clock.now())
    assert done is not None
    return done


def range_of(row: RunRow) -> tuple[str, datetime, datetime | None, int]:
    return row.status, row.due, row.due_to, row.count


def outcomes(rows: list[RunRow], step: timedelta) -> Iterator[tuple[datetime, str]]:
    """Yield each due time with its status; ranges are expanded by the job's own step."""
    for row in rows:
        assert ((row.due_to or row.due) - row.due) // step == row.count - 1
        for place in range(row.count):
            yield row.due + place * step, row.status


# --- an hour without a worker


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("none", [("missed", 10, 60, 6), ("waiting", 70, None, 1)]),
        ("latest", [("missed", 10, 60, 6), ("waiting", 70, None, 1)]),
        ("all", [("waiting", minute, None, 1) for minute in range(10, 80, 10)]),
    ],
)
async def test_due_times_of_an_hour_without_a_worker_follow_the_catch_up_policy(
    world: World, catch_up: str, expected: list[tuple[str, int, int | None, int]]
) -> None:
    # Due from 12:10 on; at 13:11 the due time 13:10 is a minute late, which counts as on time.
    stored = await world.jobs.add(cron="*/10 * * * *", catch_up=catch_up)
    world.clock.set(NOON + 71 * MINUTE)

    done = await advance(world, stored)

    assert [range_of(row) for row in await world.runs.rows()] == [
        (status, NOON + first * MINUTE, NOON + last * MINUTE if last else None, count)
        for status, first, last, count in expected
    ]
    assert (done.until, done.more) == (NOON + 70 * MINUTE, False)
    assert done.following == NOON + 80 * MINUTE
    assert (await world.jobs.row(stored.id)).audited_until == NOON + 70 * MINUTE


async def test_due_times_more_than_a_minute_late_are_missed_without_catch_up(world: World) -> None:
    stored = await world.jobs.add(cron="*/10 * * * *", catch_up="none")
    world.clock.set(NOON + 72 * MINUTE)

    done = await advance(world, stored)

    (row,) = await world.runs.rows()
    assert range_of(row) == ("missed", NOON + 10 * MINUTE, NOON + 70 * MINUTE, 7)
    assert row.reason == "no worker ran it in time, and the job does not catch up"
    assert (done.missed, done.waiting, done.skipped) == (7, 0, 0)


async def test_catch_up_latest_runs_only_inside_its_window(world: World) -> None:
    # Half the gap of ten minutes: until 13:15.
    stored = await world.jobs.add(cron="*/10 * * * *", catch_up="latest")
    world.clock.set(NOON + 75 * MINUTE)
    later = await world.jobs.add("later", cron="*/10 * * * *", catch_up="latest")

    assert (await advance(world, stored)).waiting == 1
    rows = await world.runs.rows()
    assert [row.trigger for row in rows] == ["schedule", "catch_up"]
    assert rows[1].until == world.clock.now()

    world.clock.set(NOON + 85 * MINUTE + SECOND)
    assert (await advance(world, later)).waiting == 0
    assert range_of((await world.runs.rows())[-1]) == ("missed", NOON + 80 * MINUTE, None, 1)


async def test_a_waiting_catch_up_run_is_skipped_for_a_later_due_time(world: World) -> None:
    stored = await world.jobs.add(cron="*/10 * * * *", catch_up="latest")
    for minutes in (12, 22, 32):
        world.clock.set(NOON + minutes * MINUTE)
        await advance(world, stored)

    assert [row.status for row in await world.runs.rows()] == ["skipped", "skipped", "waiting"]


async def test_catch_up_all_runs_oldest_first_and_one_at_a_time(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *", catch_up="all", overlap="allow")
    world.clock.set(NOON + timedelta(hours=30, minutes=5))

    done = await advance(world, stored)

    # Due from 13:00 on, thirty times; those of the last 24 hours are from 19:00 the first day on.
    assert (done.missed, done.waiting) == (6, 24)
    rows = (await world.runs.rows())[1:]
    # Their Prefect runs may claim in any order: here the last one first.
    assert isinstance(await world.runs.claim(rows[-1]), Waiting)
    began = []
    while waiting := [row for row in await world.runs.rows() if row.status == "waiting"]:
        for row in {row.id: row for row in (waiting[-1], *waiting[1::-1])}.values():
            answer = await world.runs.claim(row)
            if isinstance(answer, Granted):
                began.append(answer.due)
                await claims.begin(world.ledger, answer.run_id, answer.fence)
                assert await world.runs.finish(answer, Status.SUCCEEDED) is Status.SUCCEEDED
    assert began == [row.due for row in rows]


# --- a weekend


@pytest.mark.parametrize("catch_up", ["none", "latest", "all"])
@pytest.mark.slow
async def test_the_audit_records_a_weekend_of_a_job_that_is_due_every_five_seconds(
    world: World, catch_up: str
) -> None:
    stored = await world.jobs.add(every="5s", catch_up=catch_up)
    anchor = stored.job.schedule.anchor  # type: ignore[union-attr]
    down = timedelta(hours=62)
    world.clock.set(anchor + down + 2 * SECOND)
    steps = 0
    while (await advance(world, stored)).more:
        steps += 1

    rows = await world.runs.rows()

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
async def test_the_audit_records_every_due_time_across_a_change_of_the_clocks(
    world: World, cron: str, zone: str, change: datetime
) -> None:
    start, end = change - 30 * HOUR, change + 30 * HOUR
    world.clock.set(start)
    stored = await world.jobs.add(cron=cron, timezone=zone, catch_up="none")
    world.clock.set(end + HOUR)

    await advance(world, stored, end)

    expected = oracle.due(cron, zone, start, end)
    (row,) = await world.runs.rows()
    assert (row.due, row.due_to, row.count) == (expected[0], expected[-1], len(expected))


# --- due times that the audit does not record as missed, and the revision that applies


async def test_a_due_time_with_a_row_keeps_it_and_splits_the_missed_range(world: World) -> None:
    stored = await world.jobs.add(every="10m", catch_up="none")
    claim_requests = [
        world.runs.claim_request(
            stored, due=world.runs.claim_request(stored).due + place * 10 * MINUTE
        )
        for place in range(5)
    ]
    await world.runs.finished(claim_requests[2], Status.SUCCEEDED)
    world.clock.set(claim_requests[4].due + 2 * MINUTE)

    await advance(world, stored)

    assert [(row.status, row.due, row.count) for row in await world.runs.rows()] == [
        ("missed", claim_requests[0].due, 2),
        ("succeeded", claim_requests[2].due, 1),
        ("missed", claim_requests[3].due, 2),
    ]


async def test_the_audit_uses_the_revision_in_force_and_ignores_disabled_periods(
    world: World,
) -> None:
    stored = await world.jobs.add(cron="0 * * * *", catch_up="none")
    world.clock.set(NOON + 2 * HOUR + 30 * MINUTE)
    await world.jobs.edit(stored.id, cron="15 * * * *")
    world.clock.set(NOON + 4 * HOUR + 15 * MINUTE)  # in force from its due time on
    await world.jobs.edit(stored.id, enabled=False)
    world.clock.set(NOON + 6 * HOUR)
    await world.jobs.edit(stored.id, enabled=True)
    world.clock.set(NOON + 8 * HOUR)

    await advance(world, stored)

    assert [
        (row.due - NOON, row.due_to and row.due_to - NOON) for row in await world.runs.rows()
    ] == [
        (HOUR, 2 * HOUR),
        (3 * HOUR + 15 * MINUTE, None),
        (6 * HOUR + 15 * MINUTE, 7 * HOUR + 15 * MINUTE),
    ]
    assert [row.revision for row in await world.runs.rows()] == [1, 2, 4]


async def test_a_missed_range_grows_until_another_outcome_or_revision(world: World) -> None:
    stored = await world.jobs.add(cron="*/10 * * * *", catch_up="none")
    for minutes in (15, 25, 35, 36, 55):
        world.clock.set(NOON + minutes * MINUTE)
        await advance(world, stored)
    (row,) = await world.runs.rows()
    assert (row.due, row.due_to, row.count) == (NOON + 10 * MINUTE, NOON + 50 * MINUTE, 5)
    job = await world.jobs.row(stored.id)
    assert (job.last_run_id, job.last_run_at, job.last_status) == (row.id, row.due_to, "missed")

    await world.runs.finished(stored, Status.SUCCEEDED)  # 13:00
    world.clock.set(NOON + 75 * MINUTE)
    await advance(world, stored)

    assert [row.count for row in await world.runs.rows()] == [5, 1, 1]
    await world.jobs.edit(stored.id, prompt="Another")
    world.clock.set(NOON + 85 * MINUTE)
    await advance(world, stored)
    assert [row.count for row in await world.runs.rows()] == [5, 1, 1, 1]


async def test_one_audit_transaction_records_a_limited_number_of_due_times(world: World) -> None:
    stored = await world.jobs.add(cron="* * * * *", catch_up="none")
    world.clock.set(NOON + 12 * MINUTE)

    results = [await audit.advance(world.ledger, stored.id, world.clock.now(), 4) for _ in range(4)]

    assert [each and (each.until - NOON, each.missed, each.more) for each in results] == [
        (4 * MINUTE, 4, True),
        (8 * MINUTE, 4, True),
        (11 * MINUTE, 2, False),
        (11 * MINUTE, 0, False),
    ]
    assert [range_of(row) for row in await world.runs.rows()] == [
        ("missed", NOON + MINUTE, NOON + 10 * MINUTE, 10),
        ("waiting", NOON + 11 * MINUTE, None, 1),
    ]


async def test_the_audit_records_no_due_time_before_it_is_a_minute_late(world: World) -> None:
    stored = await world.jobs.add(cron="*/10 * * * *", catch_up="none")
    world.clock.set(NOON + 10 * MINUTE + 59 * SECOND)

    done = await advance(world, stored, world.clock.now() + HOUR)

    assert done.until == NOON + 10 * MINUTE - SECOND
    assert await world.runs.rows() == []
    assert isinstance(
        await world.runs.claim(world.runs.claim_request(stored, due=NOON + 10 * MINUTE)), Granted
    )


@pytest.mark.parametrize(
    ("what", "status", "reason", "count"),
    [
        ("off", "skipped", "the job is disabled", 3),
        ("snoozed", "skipped", "snoozed until 2026-01-16 12:00:00 UTC", 3),
        ("skipped", "skipped", "skipped by hand", 1),
        ("spent", "skipped", "max runs: 1 are done or running", 2),
        ("removed", "skipped", "the job was removed", 3),
    ],
)
async def test_the_audit_skips_due_times_that_the_job_may_not_run(
    world: World, what: str, status: str, reason: str, count: int
) -> None:
    fields: dict[str, Any] = {"max_runs": 1} if what == "spent" else {}
    stored = await world.jobs.add(cron="0 * * * *", catch_up="none", **fields)
    if what == "spent":
        await world.runs.running(stored)
    world.clock.set(NOON + 3 * HOUR + 30 * MINUTE)
    if what == "off":
        await world.jobs.edit(stored.id, enabled=False)
    elif what == "removed":
        await world.jobs.archive(stored.id)
    elif what != "spent":
        async with world.ledger.write() as session:
            row = (await store.find(session, stored.id)).row
            row.skips = [(NOON + HOUR).isoformat()] if what == "skipped" else []
            row.snoozed_until = NOON + 24 * HOUR if what == "snoozed" else None
            session.add(row)
    world.clock.move(2 * MINUTE)

    await advance(world, stored)

    rows = [row for row in await world.runs.rows() if row.status == status]
    assert [(row.reason, row.count) for row in rows] == [(reason, count)]


STATES_OF_A_JOB: dict[str, dict[str, Any]] = {
    "off": {},
    "skipped": {"skips": [(NOON + HOUR).isoformat()]},
    "snoozed": {"snoozed_until": NOON + 24 * HOUR},
    "spent": {"run_count": 1},
}


async def _job_in(world: World, name: str, states: tuple[str, ...]) -> StoredJob:
    max_runs: dict[str, Any] = {"max_runs": 1} if "spent" in states else {}
    stored = await world.jobs.add(name, cron="0 13 * * *", catch_up="none", **max_runs)
    async with world.ledger.write() as session:
        row = (await store.find(session, stored.id)).row
        for state in states:
            row.sqlmodel_update(STATES_OF_A_JOB[state])
        session.add(row)
    return stored


@pytest.mark.parametrize("late", [MINUTE, HOUR], ids=["on time", "too late"])
async def test_the_audit_and_the_claim_decide_alike(world: World, late: timedelta) -> None:
    """Check every combination of reasons: the same one decides in both."""
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
                await world.jobs.edit(stored.id, enabled=False)

    for states, (audited, claimed) in zip(combinations, pairs, strict=True):
        await advance(world, audited)
        (row,) = [each for each in await world.runs.rows() if each.job_id == audited.id]
        answer = await world.runs.claim(world.runs.claim_request(claimed, due=NOON + HOUR))
        if isinstance(answer, Finished):
            decided = (answer.status, answer.reason.removeprefix("1 hour late, and "))
            assert (
                row.status,
                row.reason.removeprefix("no worker ran it in time, and "),
            ) == decided
        else:
            assert (type(answer), row.status, states) == (Granted, "waiting", ())


async def test_the_audit_evaluates_the_rules_in_the_order_of_the_claim(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = await world.jobs.add(cron="0 13 * * *", catch_up="none")
    world.clock.set(NOON + 2 * HOUR)
    await world.jobs.edit(stored.id, enabled=False)
    monkeypatch.setattr(claim_rules, "RULES", claim_rules.RULES[::-1])
    await advance(world, stored)
    assert [row.status for row in await world.runs.rows()] == ["missed"]


async def test_a_removed_job_is_audited_only_up_to_its_removal(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *")
    world.clock.set(NOON + 90 * MINUTE)
    await world.jobs.archive(stored.id)
    world.clock.set(NOON + 10 * HOUR)

    done = await keeper.audit(world.ledger, {})

    assert (done.jobs, done.skipped, done.missed) == (1, 1, 0)
    assert (await world.jobs.row(stored.id)).audited_until == NOON + 90 * MINUTE
    assert (await keeper.audit(world.ledger, {})).jobs == 0


@pytest.mark.floor("A", "A one-time job that was due during a downtime fires after it")
async def test_a_one_time_job_is_missed_and_disabled_if_it_is_more_than_a_day_late(
    world: World,
) -> None:
    early = await world.jobs.add("early", at=(NOON + HOUR).isoformat())
    late = await world.jobs.add("late", at=(NOON + HOUR).isoformat())
    never = await world.jobs.add("never", on_demand=True)
    world.clock.set(NOON + 24 * HOUR)
    assert (await advance(world, early)).waiting == 1
    world.clock.set(NOON + 26 * HOUR)
    assert (await advance(world, late)).missed == 1
    assert (await advance(world, never)).following is None

    assert [row.status for row in await world.runs.rows()] in (
        ["missed", "waiting"],
        ["waiting", "missed"],
    )
    assert (await world.jobs.row(late.id)).disabled_reason == "fired, missed"
    (waiting,) = [row for row in await world.runs.rows() if row.status == "waiting"]
    await world.runs.finished(waiting, Status.SUCCEEDED)
    assert (await world.jobs.row(early.id)).disabled_reason == "fired, succeeded"


async def test_lateness_of_a_staggered_due_time_counts_from_its_staggered_time(
    world: World,
) -> None:
    stored = await world.jobs.add(cron="0 * * * *", catch_up="none", stagger="30m")
    later = upcoming.stagger_offset(stored.id, timedelta(minutes=30))
    world.clock.set(NOON + HOUR + MINUTE)

    assert (await advance(world, stored)).waiting == 1

    (row,) = await world.runs.rows()
    assert (row.until, row.trigger) == (max(world.clock.now(), row.due + later), "schedule")


async def test_the_last_run_of_a_job_is_that_of_its_latest_due_time(world: World) -> None:
    stored = await world.jobs.add(cron="*/10 * * * *", catch_up="none")
    world.clock.set(NOON + 15 * MINUTE)
    done = await world.runs.finished(stored, Status.SUCCEEDED)

    await advance(world, stored, world.clock.now() + HOUR)

    job = await world.jobs.row(stored.id)
    assert (job.last_run_id, job.last_status) == (done.run_id, "succeeded")


# --- claims behind the watermark


async def test_a_claim_behind_the_watermark_creates_no_row(world: World) -> None:
    stored = await world.jobs.add(every="10m", catch_up="none")
    first = world.runs.claim_request(stored)
    second = world.runs.claim_request(stored, due=first.due + 10 * MINUTE)
    other = world.runs.claim_request(stored, due=first.due + 5 * MINUTE, compared=True)
    world.clock.set(second.due + 2 * MINUTE)
    await advance(world, stored)

    answers = [await world.runs.claim(each) for each in (first, second, other)]

    reasons = [(each.status, each.reason) for each in answers if isinstance(each, Finished)]
    missed = "no worker ran it in time, and the job does not catch up"
    assert reasons == [
        (Status.MISSED, missed),
        (Status.MISSED, missed),  # it belongs to the same range
        (Status.SKIPPED, "not due"),
    ]
    assert len(await world.runs.rows()) == 1
    late = EndInPrefect("another", "CRASHED", "Crashed", "", replace(second, flow_run_id="another"))
    assert await prefect_ends.apply_end(world.ledger, late) is None
    assert len(await world.runs.rows()) == 1


async def test_a_claim_behind_the_watermark_claims_the_waiting_row(world: World) -> None:
    stored = await world.jobs.add(every="10m", catch_up="latest")
    claim_request = world.runs.claim_request(stored)
    world.clock.set(claim_request.due + 2 * MINUTE)
    await advance(world, stored)

    answer = await world.runs.claim(claim_request)

    assert isinstance(answer, Granted)
    assert (answer.trigger, answer.due) == ("catch_up", claim_request.due)


async def test_an_instant_after_the_watermark_that_is_not_due_is_reconciled(world: World) -> None:
    stored = await world.jobs.add(every="10m")
    world.clock.set(NOON + 15 * MINUTE)
    await advance(world, stored)

    answer = await world.runs.claim(
        world.runs.claim_request(stored, due=NOON + 14 * MINUTE + 30 * SECOND)
    )

    assert answer == NeedsReconcile(stored.id)


async def test_an_edit_made_before_the_watermark_takes_effect_at_the_watermark(
    world: World,
) -> None:
    stored = await world.jobs.add(cron="0 * * * *", catch_up="none")
    world.clock.set(NOON + 3 * HOUR + 10 * MINUTE)
    await advance(world, stored)
    mark = (await world.jobs.row(stored.id)).audited_until
    async with world.ledger.write() as session:
        found = await store.find(session, stored.id)
        job = found.job.model_copy(update={"enabled": False})
        now = world.clock.now()
        edited = await store.change(session, found, job, now, edited=NOON + HOUR, source="prefect")

    assert edited.revision.effective_from == mark
    before = [range_of(row) for row in await world.runs.rows()]
    await advance(world, stored)
    assert [range_of(row) for row in await world.runs.rows()] == before


@pytest.mark.parametrize("how", ["running", "retried", "missed", "skipped"])
async def test_an_edit_known_late_takes_effect_after_a_due_time_whose_run_has_started(
    world: World, how: str
) -> None:
    """The run of a due time may start while Prefect stores the edit that removes this due time."""
    stored = await world.jobs.add(cron="0 * * * *", catch_up="none")
    request = world.runs.claim_request(stored)
    if how == "missed":
        world.clock.set(request.due + 2 * MINUTE)
        assert isinstance(await world.runs.claim(request), Finished)
    else:
        granted = await world.runs.claimed(request)
        if how == "skipped":
            await world.runs.finish(granted, Status.SKIPPED)
        else:
            await claims.begin(world.ledger, granted.run_id, granted.fence)
        if how == "retried":
            broke, until = Outcome(Status.FAILED, error="it broke"), request.due + HOUR / 2
            await claims.retry(world.ledger, granted.run_id, granted.fence, broke, until)
    world.clock.set(request.due + 3 * MINUTE)
    edited_at = request.due - timedelta(milliseconds=300)
    async with world.ledger.write() as session:
        found = await store.find(session, stored.id)
        job = found.job.model_copy(update={"enabled": False})
        now = world.clock.now()
        edited = await store.change(session, found, job, now, edited=edited_at, source="prefect")
        in_force = await store.in_force(session, stored.id, request.due)

    after = request.due + timedelta(microseconds=1)
    assert edited.revision.effective_from == (edited_at if how == "skipped" else after)
    assert in_force is not None
    assert in_force.job.enabled is (how != "skipped")


async def test_a_watermark_in_the_future_of_a_clock_set_back_does_not_delay_an_edit(
    world: World,
) -> None:
    stored = await world.jobs.add(cron="0 * * * *", catch_up="none")
    world.clock.set(NOON + 24 * HOUR)
    await advance(world, stored)
    assert (await world.jobs.row(stored.id)).audited_until == NOON + 24 * HOUR - MINUTE
    world.clock.set(NOON + HOUR)

    edited = await world.jobs.edit(stored.id, prompt="The new")

    assert edited.revision.effective_from == NOON + HOUR


# --- the keeper's auditor


async def test_only_observed_jobs_are_audited_up_to_their_observation(world: World) -> None:
    job = await world.jobs.add("seen", cron="*/10 * * * *", catch_up="none")
    unseen = await world.jobs.add("unseen", cron="*/10 * * * *", catch_up="none")
    world.clock.set(NOON + HOUR)

    done = await keeper.audit(world.ledger, {job.id: NOON + 25 * MINUTE})

    assert (done.jobs, done.missed) == (1, 2)
    assert (await world.jobs.row(job.id)).audited_until == NOON + 25 * MINUTE
    assert (await world.jobs.row(unseen.id)).audited_until == (
        await world.jobs.row(unseen.id)
    ).created_at


async def test_the_auditor_reads_no_job_until_a_due_time_has_passed(world: World) -> None:
    stored = await world.jobs.add(cron="0 * * * *", catch_up="none")
    memory = keeper.AuditorState()

    async def passes(minutes: float) -> keeper.AuditReport:
        world.clock.set(NOON + minutes * MINUTE)
        observed = {stored.id: world.clock.now()}
        return await keeper.audit(world.ledger, observed, memory=memory)

    looked = [(await passes(minutes)).jobs for minutes in (2, 3, 59, 60.5)]
    assert looked == [1, 0, 0, 0]
    assert (await passes(62)).missed == 1
    assert (await passes(63)).jobs == 0
    await world.jobs.edit(stored.id, cron="*/5 * * * *")
    assert (await passes(67)).missed == 1
    assert [range_of(row) for row in await world.runs.rows()] == [
        ("missed", NOON + 60 * MINUTE, None, 1),
        ("missed", NOON + 65 * MINUTE, None, 1),
    ]


async def test_due_times_before_an_edit_are_audited_after_an_audit_that_ended_before_it(
    world: World,
) -> None:
    stored = await world.jobs.add(cron="0 * * * *", catch_up="none")
    memory = keeper.AuditorState()

    async def observed_until(minutes: float) -> keeper.AuditReport:
        return await keeper.audit(world.ledger, {stored.id: NOON + minutes * MINUTE}, memory=memory)

    world.clock.set(NOON + 90 * MINUTE)
    await observed_until(30)
    await world.jobs.edit(stored.id, cron="0 8 * * *")
    assert (await observed_until(40)).missed == 0
    world.clock.set(NOON + 95 * MINUTE)
    assert (await observed_until(92)).missed == 1
    (row,) = await world.runs.rows()
    assert range_of(row) == ("missed", NOON + 60 * MINUTE, None, 1)
    assert (await observed_until(93)).jobs == 0


async def test_a_removed_job_is_audited_up_to_its_removal_although_nothing_is_due(
    world: World,
) -> None:
    stored = await world.jobs.add(cron="0 * * * *", catch_up="none")
    # So its removal makes no revision: the auditor already knows the newest one.
    await world.jobs.edit(stored.id, enabled=False)
    memory = keeper.AuditorState()
    world.clock.set(NOON + 2 * MINUTE)
    await keeper.audit(world.ledger, {stored.id: world.clock.now()}, memory=memory)
    world.clock.set(NOON + 10 * MINUTE)
    await world.jobs.archive(stored.id)
    world.clock.set(NOON + 12 * MINUTE)
    assert (await keeper.audit(world.ledger, {}, memory=memory)).jobs == 1
    assert (await world.jobs.row(stored.id)).audited_until == NOON + 10 * MINUTE
    assert (await keeper.audit(world.ledger, {}, memory=memory)).jobs == 0


async def test_an_audit_stops_at_its_time_limit_and_the_next_one_continues(world: World) -> None:
    added = [
        await world.jobs.add(f"job {place}", cron="* * * * *", catch_up="none") for place in "abc"
    ]
    world.clock.set(NOON + HOUR)
    observed = dict.fromkeys([each.id for each in added], world.clock.now())

    first = await keeper.audit(world.ledger, observed, most_seconds=0)
    rest = await keeper.audit(world.ledger, observed)

    assert (first.jobs, first.left) == (0, True)
    assert (rest.jobs, rest.missed, rest.left) == (3, 3 * 58, False)


async def test_the_time_limit_of_an_audit_leaves_out_the_read_of_all_jobs(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The keeper of ten thousand jobs reads them for a second, and still has to audit some."""
    added = [await world.jobs.add(f"job {place}", cron="* * * * *") for place in "ab"]
    world.clock.set(NOON + HOUR)
    seconds, watermarks = [0.0], audit.watermarks

    async def read_slowly(session: AsyncSession) -> list[audit.Watermark]:
        seconds[0] += 5.0
        return await watermarks(session)

    fake = SimpleNamespace(monotonic=lambda: seconds[0], process_time=time.process_time)
    monkeypatch.setattr(keeper, "time", fake)
    monkeypatch.setattr(audit, "watermarks", read_slowly)
    observed = dict.fromkeys([each.id for each in added], world.clock.now())
    assert (await keeper.audit(world.ledger, observed)).jobs == 2


async def test_due_times_that_waited_for_their_stagger_are_late_if_no_worker_claims_them(
    world: World,
) -> None:
    """The keeper lives, and records each due time a minute later; no worker claims it."""
    half_hourly: dict[str, Any] = {"cron": "*/30 * * * *", "catch_up": "latest", "stagger": "20m"}
    for number in itertools.count():
        stored = await world.jobs.add(f"job-{number}", **half_hourly)
        if upcoming.stagger_offset(stored.id, timedelta(minutes=20)) > 8 * MINUTE:
            break
    for half_hours in range(1, 7):
        world.clock.set(NOON + half_hours * 30 * MINUTE + 2 * MINUTE)
        assert (await advance(world, stored)).waiting == 1
    world.clock.set(NOON + 3 * HOUR + 21 * MINUTE)
    granted = list[datetime]()
    for row in await world.runs.rows():
        claim = await world.runs.claim(world.runs.claim_request(row))
        granted += [row.due] if isinstance(claim, Granted) else []
    assert granted == [NOON + 3 * HOUR]


async def test_a_broken_job_does_not_stop_the_audit_of_the_other_jobs(world: World) -> None:
    broken = await world.jobs.add("broken", cron="0 * * * *", catch_up="none")
    other = await world.jobs.add("other", cron="0 * * * *", catch_up="none")
    async with world.ledger.write() as session:
        change = update(RevisionRow).where(col(RevisionRow.job_id) == broken.id)
        await session.execute(change.values(schedule={"kind": "cron", "expr": "?", "timezone": ""}))
    world.clock.move(3 * HOUR)
    observed = dict.fromkeys((broken.id, other.id), world.clock.now())
    with pytest.raises(ExceptionGroup, match="cannot be audited") as raised:
        await keeper.audit(world.ledger, observed)
    assert raised.value.exceptions[0].__notes__ == [f"in the audit of job {broken.id}"]
    assert [row.job_id for row in await world.runs.rows()] == [other.id]
