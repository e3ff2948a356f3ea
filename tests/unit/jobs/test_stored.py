"""Stored jobs with values that this version of Daybook cannot read."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text, update
from sqlmodel import col

from daybook.api import shared_folders
from daybook.jobs import scheduled, store, summaries
from daybook.jobs.model import Job
from daybook.jobs.stored import UnreadableJob
from daybook.jobs.views import ListedJob
from daybook.ledger.states import Status
from daybook.ledger.tables import JobRow, RevisionRow
from daybook.operations import findings
from daybook.runs import audit, overdue
from tests.rows import each
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

NOT_JSON = object()
"""Stands for a text in a JSON column that is no JSON; only SQLite can store it."""

INVALID: dict[str, tuple[str, Any]] = {
    "a policy that is a list": ("policy", ["x"]),
    "a policy that is no JSON": ("policy", NOT_JSON),
    "an unknown key of the policy": ("policy", {"future": 1}),
    "a text as a number": ("policy", {"retries": "many"}),
    "a text as a budget": ("policy", {"tokens_per_day": "many", "usd_per_day": "much"}),
    "a bound that is no time": ("policy", {"until": "someday"}),
    "a check that is a number": ("policy", {"check": 5}),
    "notifications that are a text": ("notify", "mail"),
    "notifications that are no JSON": ("notify", NOT_JSON),
    "an event that no longer exists": ("notify", {"events": ["exploded"]}),
    "a prompt of the wrong type": ("action", {"prompt": 5}),
    "an action without its prompt": ("action", {"agent": "x"}),
    "an action that is null": ("action", None),
    "an action that is no JSON": ("action", NOT_JSON),
    "a schedule that is a list": ("schedule", []),
    "a schedule that is no JSON": ("schedule", NOT_JSON),
    "a kind of schedule that no longer exists": ("schedule", {"kind": "lunar"}),
    "a cron expression that is none": (
        "schedule",
        {"kind": "cron", "expr": "0 99 * *", "timezone": "UTC"},
    ),
    "an unknown zone": (
        "schedule",
        {"kind": "cron", "expr": "0 9 * * *", "timezone": "Mars/Olympus"},
    ),
    "authors that are a list": ("written_by", ["x"]),
    "a kind of job that no longer exists": ("kind", "fortune"),
    "a name that no job may have": ("name", "a\nb"),
    "tags that are an object": ("tags", {"a": 1}),
    "tags that are numbers": ("tags", [1]),
    "tags that are no JSON": ("tags", NOT_JSON),
    "metadata that is a list": ("meta", [1]),
    "metadata that is no JSON": ("meta", NOT_JSON),
    "skips that are no times": ("skips", ["soon"]),
    "skips that are no JSON": ("skips", NOT_JSON),
    "a conflict without fields": ("conflict", {"at": "x"}),
    "a base that is a text": ("synced", "x"),
    "applied fields that are a list": ("applied", [1]),
}


async def spoil(world: World, stored: store.StoredJob, column: str, value: Any) -> None:
    """Store an invalid value in the newest revision of the job, or in its row."""
    is_versioned = column in RevisionRow.model_fields
    table: Any = RevisionRow if is_versioned else JobRow
    key = "job_id" if is_versioned else "id"
    async with world.ledger.write() as session:
        if value is NOT_JSON:
            query = f"UPDATE {table.__tablename__} SET {column} = '{{no' WHERE {key} = :id"
            await session.execute(text(query), {"id": stored.id})
            return
        if column in ("policy", "notify") and isinstance(value, dict):
            value = {**getattr(stored.revision, column), **value}
        change = update(table).where(col(getattr(table, key)) == stored.id)
        await session.execute(change.values({column: value}))


async def test_no_invalid_value_of_one_job_stops_the_others(world: World) -> None:
    other = await world.jobs.add("other")
    is_sqlite = "sqlite" in world.ledger.place
    rows = [each for each in INVALID.items() if is_sqlite or each[1][1] is not NOT_JSON]
    for (_, (column, value)), trying in each(rows):
        stored = await world.jobs.add("broken")
        with trying:
            await spoil(world, stored, column, value)
            async with world.ledger.read() as session:
                now = world.clock.now()
                jobs = {found.id: found for found in await store.all_jobs(session)}
                found = [each.id for each in await summaries.read(session)]
                assert sorted(found) == sorted((other.id, stored.id))
                assert (await scheduled.read(session)).keys() == jobs.keys()
                await overdue.find_all(session, overdue.DueTimeCache(), now)
                await store.used_outputs(session)
                await shared_folders.notes(session, {})
                [unreadable] = await store.unreadable_jobs(session)
            assert jobs.keys() == {other.id, stored.id}
            assert not jobs[other.id].problems
            assert unreadable.id == stored.id
            view = ListedJob.of(jobs[stored.id], now, running=False)
            assert view.next_due == []
            assert "not due: " in view.words
            assert view.model_dump_json()
            [finding] = findings.unreadable_jobs(jobs.values())
            assert "cannot be read: " in finding.message
            assert "daybook remove " in finding.fix
        archived = await world.jobs.archive(stored.id)
        assert archived.id == stored.id


@pytest.mark.parametrize("column", ["policy", "action", "schedule", "notify"])
async def test_a_change_of_another_part_keeps_an_invalid_value(world: World, column: str) -> None:
    stored = await world.jobs.add("broken")
    await spoil(world, stored, column, ["x"])
    async with world.ledger.write() as session:
        found = await store.find(session, "broken")
        disabled = found.job.model_copy(update={"enabled": False, "tags": ("a",)})
        await store.change(session, found, disabled, world.clock.now())
    newest = await world.jobs.get("broken")
    assert getattr(newest.revision, column) == ["x"]
    assert (newest.job.enabled, newest.job.tags) == (False, ("a",))
    assert [problem.part for problem in newest.problems] == [column]


async def test_an_edit_of_the_invalid_fields_repairs_a_job_and_no_other_edit(world: World) -> None:
    stored = await world.jobs.add("broken", cron="0 * * * *", timeout="7m")
    await spoil(world, stored, "policy", {"retries": "many"})

    async def change(given: dict[str, Any]) -> None:
        async with world.ledger.write() as session:
            found = await store.find(session, "broken")
            policy = found.job.policy.model_copy(update=given)
            job = found.job.model_copy(update={"policy": policy})
            await store.change(session, found, job, world.clock.now(), given=given)

    with pytest.raises(UnreadableJob, match=r"retries: .*daybook edit broken --retries …"):
        await change({"idempotent": True})
    default = Job.model_fields["policy"].default.retries
    await change({"retries": default})
    repaired = await world.jobs.get("broken")
    assert not repaired.problems
    assert (repaired.job.policy.retries, repaired.job.policy.timeout) == (
        default,
        timedelta(minutes=7),
    )


async def test_due_times_of_an_unreadable_job_wait_for_its_repair(world: World) -> None:
    stored = await world.jobs.add("broken", cron="0 * * * *")
    start = stored.row.audited_until
    await spoil(world, stored, "policy", {"retries": "many"})
    world.clock.move(timedelta(hours=3, minutes=10))
    with pytest.raises(UnreadableJob):
        await audit.advance(world.ledger, stored.id, world.clock.now())
    assert (await world.jobs.row(stored.id)).audited_until == start

    async with world.ledger.write() as session:
        found = await store.find(session, "broken")
        await store.change(session, found, found.job, world.clock.now(), given={"retries"})
    done = await audit.advance(world.ledger, stored.id, world.clock.now())
    assert done is not None
    assert done.missed + done.waiting + done.skipped == 3


async def test_a_run_of_an_unreadable_job_waits_for_its_repair(world: World) -> None:
    stored = await world.jobs.add("broken", cron="0 * * * *")
    waiting, due = await world.runs.request(stored), world.runs.claim_request(stored)
    await spoil(world, stored, "action", ["x"])
    world.clock.move(timedelta(hours=1))
    with pytest.raises(UnreadableJob):
        await world.runs.request(await world.jobs.get("broken"))
    with pytest.raises(UnreadableJob):
        await world.runs.claim(waiting)
    with pytest.raises(UnreadableJob):
        await world.runs.claim(due)
    assert (await world.runs.row(waiting)).state is Status.WAITING

    await world.jobs.archive("broken")
    assert (await world.runs.row(waiting)).state is Status.SKIPPED


async def test_an_unreadable_job_after_another_loses_no_run_and_no_outcome(world: World) -> None:
    first = await world.jobs.add("first")
    after = await world.jobs.add("after", after="first")
    await spoil(world, after, "action", {"prompt": 5})
    await world.runs.finished(await world.runs.request(first), Status.SUCCEEDED)
    [waiting] = await world.runs.rows(after)
    with pytest.raises(UnreadableJob):
        await world.runs.claim(waiting)

    async with world.ledger.write() as session:
        found = await store.find(session, "after")
        action = found.job.action.model_copy(update={"prompt": "What is new?"})
        job = found.job.model_copy(update={"action": action})
        await store.change(session, found, job, world.clock.now(), given={"prompt"})
    granted = await world.runs.claimed(waiting)
    assert granted.parameters["prompt"] == "What is new?"
