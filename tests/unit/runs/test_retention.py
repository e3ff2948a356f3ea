"""Requirement 19: retention deletes rows by age and by count, but never unfinished ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.store import StoredJob
from daybook.keeper import retention
from daybook.ledger.states import Status
from daybook.ledger.tables import (
    AttemptRow,
    JobRow,
    MessageRow,
    RevisionRow,
    RunRow,
    SessionRow,
    StepRow,
    SummaryRow,
)
from daybook.policies.compression import KEPT_MESSAGES
from daybook.prefect import unmirrored as mirror
from daybook.runs import audit, claims, prefect_ends
from daybook.runs import retention as book_of
from daybook.runs.retention import RetentionLimits
from tests.world import World
from tests.world.runs import step_of

pytestmark = pytest.mark.anyio

DAY, HOUR, MINUTE = timedelta(days=1), timedelta(hours=1), timedelta(minutes=1)
NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
DAYS = RetentionLimits(timedelta(days=90), 1000)


async def ended(world: World, stored: StoredJob | None, count: int, **fields: Any) -> list[str]:
    """Add ``count`` ended runs, one a minute up to now, each with an attempt; return their ids."""
    now, ids = world.clock.now(), []
    async with world.ledger.write() as session:
        for place in range(count, 0, -1):
            due = (now - place * MINUTE).replace(microsecond=0)
            key = f"due:{stored.id}:{due.isoformat()}" if stored else f"flow:{place}"
            given = {
                "occurrence": key,
                "job_id": stored.id if stored else None,
                "kind": "agent-prompt",
                "trigger": "schedule",
                "due": due,
                "status": Status.SUCCEEDED.value,
                "queued_at": due,
                "finished_at": due,
                "attempts": 1,
            }
            row = RunRow(**{**given, **fields})
            ids.append(row.id)
            session.add(row)
            await session.flush()
            session.add(AttemptRow(run_id=row.id, number=1, fence=1, started_at=due))
            session.add(step_of(row.id, due))
        if stored:
            job = (await store.find(session, stored.id)).row
            job.audited_until = max(job.audited_until, now - MINUTE)
            session.add(job)
    return ids


async def left(world: World) -> list[str]:
    return [row.id for row in await world.runs.rows()]


async def count(world: World, table: Any) -> int:
    async with world.ledger.read() as session:
        return len((await session.execute(select(table))).all())


@pytest.mark.dialect
@pytest.mark.floor("C", "Retention by count keeps the newest runs of each job")
@pytest.mark.floor("C", "Retention leaves the runs of other jobs alone")
@pytest.mark.floor("E", "Runs beyond a count per job are deleted")
async def test_retention_by_count_keeps_the_newest_runs_of_each_job(world: World) -> None:
    many, few = await world.jobs.add("many"), await world.jobs.add("few")
    ids = await ended(world, many, 12)
    others = await ended(world, few, 5)
    direct = await ended(world, None, 7)

    done = await retention.prune(world.ledger, RetentionLimits(None, 5))

    assert done.runs == 7 + 2
    assert sorted(await left(world)) == sorted([*ids[-5:], *others, *direct[-5:]])
    assert await count(world, AttemptRow) == await count(world, StepRow) == 15
    assert not await retention.prune(world.ledger, RetentionLimits(None, 5))


@pytest.mark.floor("C", "Retention by age")
@pytest.mark.floor("E", "Old runs are deleted by age")
async def test_retention_by_age_deletes_runs_that_ended_before_the_limit(world: World) -> None:
    stored = await world.jobs.add()
    old = await ended(world, stored, 3)
    world.clock.move(90 * DAY - 2 * MINUTE - timedelta(seconds=1))
    new = await ended(world, stored, 2)

    done = await retention.prune(world.ledger, DAYS)

    # The first of them ended 90 days and a minute ago, the second a second less than 90 days.
    assert (done.runs, await left(world)) == (1, [*old[1:], *new])
    assert not await retention.prune(world.ledger, RetentionLimits(None, None))


@pytest.mark.dialect
async def test_only_jobs_with_too_many_or_too_old_runs_are_looked_at(world: World) -> None:
    old, many, few = [await world.jobs.add(name) for name in ("old", "many", "few")]
    await ended(world, old, 2)
    world.clock.move(100 * DAY)
    await ended(world, many, 6)
    await ended(world, few, 4)
    long_ago = world.clock.now() - 100 * DAY
    await ended(world, few, 1, due=long_ago, finished_at=None, status="running", occurrence="live")

    async def looked_at(age: timedelta | None, runs: int | None) -> set[str | None]:
        found = await book_of.jobs_to_prune(world.ledger, RetentionLimits(age, runs))
        assert len(found) == len(set(found))
        return set(found)

    assert await looked_at(90 * DAY, 6) == {old.id}
    assert await looked_at(None, 5) == {many.id}
    assert await looked_at(90 * DAY, 1) == {old.id, many.id, few.id}
    assert await looked_at(90 * DAY, None) == {old.id}
    assert await looked_at(None, None) == set()


@pytest.mark.dialect
async def test_a_backlog_is_deleted_in_batches_until_the_time_limit(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_of, "BATCH_SIZE", 4)
    stored = await world.jobs.add()
    ids = await ended(world, stored, 11)

    first = await retention.prune(world.ledger, RetentionLimits(None, 1), most_seconds=0)
    assert (first.runs, first.left, await left(world)) == (4, True, ids[4:])
    rest = await retention.prune(world.ledger, RetentionLimits(None, 1))
    assert (rest.runs, rest.left, await left(world)) == (6, False, ids[-1:])


@pytest.mark.dialect
async def test_retention_keeps_waiting_unmirrored_retried_and_recently_requested_runs(
    world: World,
) -> None:
    stored = await world.jobs.add()
    waiting = (await claims.request(world.ledger, stored, "1", "manual")).id
    unmirrored = await ended(world, stored, 1, unmirrored=True, flow_run_id="f", occurrence="u")
    tried = await ended(world, stored, 1, occurrence="flow:1")
    await ended(world, stored, 1, occurrence="flow:1:1", retry_of=tried[0], status="waiting")
    world.clock.move(91 * DAY)
    fresh = await ended(world, stored, 1, occurrence=f"request:{stored.id}:2")
    await ended(world, stored, 3)

    await retention.prune(world.ledger, RetentionLimits(DAY, 1))

    remaining = set(await left(world))
    assert {waiting, *unmirrored, *tried, *fresh} <= remaining
    assert len(remaining) == 4 + 1 + 1  # and the live retry, and the newest


async def test_the_run_of_a_request_is_kept_for_a_week(world: World) -> None:
    stored = await world.jobs.add()
    await ended(world, stored, 1, occurrence=f"request:{stored.id}:1")
    await ended(world, stored, 3)
    world.clock.move(6 * DAY)
    assert (await retention.prune(world.ledger, RetentionLimits(DAY, None))).runs == 3
    world.clock.move(DAY)
    assert (await retention.prune(world.ledger, RetentionLimits(DAY, None))).runs == 1


async def test_a_custom_run_is_kept_until_ends_are_read_two_days_past_it(world: World) -> None:
    stored = await world.jobs.add(on_demand=True)
    claim_request = world.runs.claim_request(
        stored, due=world.clock.now(), occurrence="flow:f", flow_run_id="f"
    )
    crashed = prefect_ends.EndInPrefect("f", "CRASHED", "Crashed", "lost", claim_request)
    await world.runs.finished(claim_request, Status.UNKNOWN)
    await mirror.clear_marks(world.ledger, await left(world))
    await ended(world, stored, 3)
    ended_at = world.clock.now()
    # Nothing reads the ends for months, then a leader does.
    for passed, read_to in (
        (100 * DAY, None),
        (DAY, ended_at),
        (DAY, ended_at + 2 * DAY - MINUTE),
    ):
        world.clock.move(passed)
        if read_to is not None:
            await prefect_ends.advance(world.ledger, read_to)
        await retention.prune(world.ledger, RetentionLimits(MINUTE, 1))
        # While the row exists, the same end, read again by another leader, changes nothing.
        assert await prefect_ends.apply_end(world.ledger, crashed) is None
    await prefect_ends.advance(world.ledger, ended_at + 2 * DAY)

    await retention.prune(world.ledger, RetentionLimits(MINUTE, 1))

    assert "flow:f" not in [row.occurrence for row in await world.runs.rows()]


@pytest.mark.dialect
async def test_runs_after_the_watermark_stay_and_deleted_ones_are_not_audited_again(
    world: World,
) -> None:
    stored = await world.jobs.add(every="1h", catch_up="none")
    for _ in range(3):
        await world.runs.finished(stored, Status.SUCCEEDED)
    world.clock.move(2 * MINUTE)
    await mirror.clear_marks(world.ledger, await left(world))
    assert not await retention.prune(world.ledger, RetentionLimits(timedelta(0), 1))

    await audit.advance(world.ledger, stored.id, world.clock.now())
    assert (await retention.prune(world.ledger, RetentionLimits(None, 1))).runs == 2
    done = await audit.advance(world.ledger, stored.id, world.clock.now())

    assert done is not None
    assert done.missed == done.waiting == 0
    assert len(await left(world)) == 1


# --- sessions


async def talk(world: World, session_id: str, turns: int, job_id: str | None = None) -> None:
    now = world.clock.now()
    async with world.ledger.write() as session:
        agent = session_id.partition(":")[0]
        if await session.get(SessionRow, session_id) is None:
            session.add(
                SessionRow(
                    id=session_id, agent=agent, job_id=job_id, created_at=now, updated_at=now
                )
            )
            await session.flush()
        row = await session.get(SessionRow, session_id)
        assert row is not None
        row.updated_at = now
        session.add(row)
        first = len(await _numbers(session, session_id))
        for place in range(first + 1, first + 2 * turns + 1):
            session.add(
                MessageRow(
                    session_id=session_id,
                    number=place,
                    role="user" if place % 2 else "assistant",
                    content="word",
                    source={},
                    run_id="r",
                    at=now,
                )
            )


async def _numbers(session: AsyncSession, session_id: str) -> Sequence[int]:
    of = select(MessageRow.number).where(col(MessageRow.session_id) == session_id)
    return (await session.execute(of.order_by(col(MessageRow.number)))).scalars().all()


async def numbers(world: World, session_id: str) -> Sequence[int]:
    async with world.ledger.read() as session:
        return await _numbers(session, session_id)


@pytest.mark.dialect
async def test_a_long_session_is_cut_but_keeps_the_messages_that_a_model_receives(
    world: World,
) -> None:
    stored = await world.jobs.add()
    await talk(world, "default:job:1", 40, stored.id)
    await talk(world, "default:key", 12)

    await retention.prune(world.ledger, RetentionLimits(None, 15))
    assert list(await numbers(world, "default:job:1")) == list(range(51, 81))
    assert len(await numbers(world, "default:key")) == 24

    # With a lower limit and after a long time, the messages that a model receives remain.
    world.clock.move(100 * DAY)
    await retention.prune(world.ledger, RetentionLimits(90 * DAY, 1))
    assert list(await numbers(world, "default:job:1")) == list(range(61, 81))
    assert len(await numbers(world, "default:job:1")) == KEPT_MESSAGES
    # This session has no job, and no run has used its key for that long.
    assert await numbers(world, "default:key") == []
    assert await count(world, SessionRow) == 1


async def test_old_messages_of_a_session_are_deleted(world: World) -> None:
    stored = await world.jobs.add()
    await talk(world, "default:job:1", 20, stored.id)
    world.clock.move(100 * DAY)
    await talk(world, "default:job:1", 15, stored.id)

    await retention.prune(world.ledger, DAYS)

    assert list(await numbers(world, "default:job:1")) == list(range(41, 71))


async def test_the_newest_summary_stays_as_long_as_its_session(world: World) -> None:
    await talk(world, "default:key", 40)
    async with world.ledger.write() as session:
        for through in (10, 30, 60):
            session.add(
                SummaryRow(
                    session_id="default:key",
                    through=through,
                    content="short",
                    agent="default",
                    run_id="r",
                    at=world.clock.now(),
                )
            )

    await retention.prune(world.ledger, RetentionLimits(None, 25))
    async with world.ledger.read() as session:
        kept = select(SummaryRow.through).order_by(col(SummaryRow.through))
        assert list((await session.execute(kept)).scalars()) == [60]
    assert list(await numbers(world, "default:key")) == list(range(31, 81))

    world.clock.move(100 * DAY)
    await retention.prune(world.ledger, DAYS)
    assert await count(world, SummaryRow) == await count(world, SessionRow) == 0


async def test_the_session_of_a_single_run_is_deleted_with_the_run(world: World) -> None:
    stored = await world.jobs.add()
    ids = await ended(world, stored, 3)
    async with world.ledger.write() as session:
        for row in (await session.execute(select(RunRow))).scalars():
            row.session_id = f"default:run:{row.id}"
            session.add(row)
    for each in ids:
        await talk(world, f"default:run:{each}", 1, stored.id)
    await talk(world, "default:a:run:b", 1)

    await retention.prune(world.ledger, RetentionLimits(None, 1))

    assert await numbers(world, f"default:run:{ids[2]}") == [1, 2]
    assert await numbers(world, "default:a:run:b") == [1, 2]
    assert await count(world, SessionRow) == 2


# --- jobs


@pytest.mark.dialect
async def test_an_archived_job_is_deleted_when_nothing_of_it_is_left(world: World) -> None:
    stored, other = await world.jobs.add("gone"), await world.jobs.add("there")
    await world.jobs.edit(stored.id, prompt="Another")
    await ended(world, stored, 2)
    await talk(world, "default:job:1", 1, stored.id)
    world.clock.move(HOUR)
    await world.jobs.archive(stored.id)
    world.clock.move(89 * DAY)
    assert not (await retention.prune(world.ledger, DAYS)).jobs
    world.clock.move(2 * DAY)
    assert not (await retention.prune(world.ledger, DAYS)).jobs  # not yet audited up to its removal
    await audit.advance(world.ledger, stored.id, world.clock.now())

    done = await retention.prune(world.ledger, DAYS)

    assert done.jobs == []  # the audit has just written a row
    world.clock.move(91 * DAY)
    done = await retention.prune(world.ledger, DAYS)
    assert (done.runs, done.jobs) == (1, ["gone"])
    assert await count(world, JobRow) == 1
    assert await count(world, RevisionRow) == 1
    assert (await world.jobs.row(other.id)).name == "there"


async def test_more_archived_jobs_than_a_batch_are_left_for_the_next_cycle(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_of, "BATCH_SIZE", 1)
    for name in ("one", "two"):
        await world.jobs.archive(await world.jobs.add(name, on_demand=True))
    world.clock.move(91 * DAY)
    cycles = [await retention.prune(world.ledger, DAYS) for _ in range(3)]
    assert [(len(each.jobs), each.left) for each in cycles] == [(1, True), (1, True), (0, False)]


async def test_an_archived_job_is_kept_while_it_has_a_deployment(world: World) -> None:
    stored = await world.jobs.add(on_demand=True)
    async with world.ledger.write() as session:
        row = (await store.find(session, stored.id)).row
        row.deployment_id = "d"
        session.add(row)
    await world.jobs.archive(stored.id)
    world.clock.move(91 * DAY)
    await audit.advance(world.ledger, stored.id, world.clock.now())

    assert not await retention.prune(world.ledger, DAYS)


@pytest.mark.floor("E", "cleanup_disabled removes jobs that were disabled for long")
async def test_jobs_that_were_disabled_and_unused_for_long_are_removed(world: World) -> None:
    long = RetentionLimits(None, None, 90 * DAY)
    names = ("chained", "edited", "lately", "off", "on", "read", "ran", "waits")
    jobs = {name: await world.jobs.add(name) for name in names}
    after = await world.jobs.add("after", after="chained")
    await world.jobs.add(
        "reader", on_demand=True, prompt="Sum up {{output:read}} and {{output:reader}}"
    )
    for name in set(names) - {"on", "lately"}:
        await world.jobs.edit(jobs[name].id, enabled=False)
    kept = await ended(world, jobs["off"], 2)
    world.clock.move(80 * DAY)
    await world.jobs.edit(jobs["lately"].id, enabled=False)
    await world.jobs.edit(jobs["edited"].id, prompt="Something else")
    await ended(world, jobs["waits"], 1, status=Status.WAITING.value, finished_at=None)
    async with world.ledger.write() as session:
        row = (await store.find(session, jobs["ran"].id)).row
        row.last_run_at = world.clock.now()
        session.add(row)
    world.clock.move(11 * DAY)

    assert not await retention.prune(world.ledger, RetentionLimits(None, None))
    done = await retention.prune(world.ledger, long)

    assert done.removed == ["off"]
    assert (await world.jobs.row(jobs["off"].id)).archived_at == world.clock.now()
    assert set(kept) <= set(await left(world))
    assert not await retention.prune(world.ledger, long)
    await world.jobs.archive(after.id)
    assert (await retention.prune(world.ledger, long)).removed == ["chained"]


async def test_a_disabled_job_that_was_edited_is_not_removed(world: World) -> None:
    stored = await world.jobs.add("a")
    await world.jobs.edit(stored.id, enabled=False)
    world.clock.move(40 * DAY)
    await world.jobs.edit(stored.id, name="b", description="needed in spring")
    world.clock.move(DAY)
    keep = RetentionLimits(None, None, 30 * DAY)
    assert await book_of.remove_disabled_jobs(world.ledger, keep) == []
    world.clock.move(30 * DAY)
    assert await book_of.remove_disabled_jobs(world.ledger, keep) == ["b"]


async def test_disabled_jobs_are_removed_in_batches(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_of, "JOBS_PER_BATCH", 2)
    for name in ("a", "b", "c"):
        await world.jobs.edit((await world.jobs.add(name)).id, enabled=False)
    world.clock.move(2 * DAY)
    assert await book_of.remove_disabled_jobs(world.ledger, RetentionLimits(None, None, DAY)) == [
        "a",
        "b",
    ]
    done = await retention.prune(world.ledger, RetentionLimits(None, None, DAY))
    assert done.removed == ["c"]


def test_the_limits_are_those_of_the_settings(
    daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert RetentionLimits.of_settings() == replace(DAYS, texts=30 * DAY)
    monkeypatch.setenv("DAYBOOK_KEEP_DISABLED_DAYS", "20")
    monkeypatch.setenv("DAYBOOK_KEEP_TRANSCRIPT_DAYS", "0")
    limits = RetentionLimits.of_settings()
    assert (limits.disabled, limits.texts) == (20 * DAY, None)
