"""Jobs that are stored with an invalid value: the ledger's readers go on, on both databases."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest
from prefect.client.orchestration import PrefectClient
from sqlalchemy import text, update
from sqlmodel import col

from daybook.api import shared_folders
from daybook.diagnosis import findings
from daybook.errors import UnreadableJob
from daybook.features.backups import uncertain
from daybook.jobs import scheduled, store, stored_columns, summaries
from daybook.jobs.store import StoredJob
from daybook.jobs.views import ListedJob
from daybook.ledger.states import Status
from daybook.ledger.tables import JobRow, RevisionRow
from daybook.prefect import deployment, scheduled_runs
from daybook.runs import audit, claims, outcomes, overdue, prefect_ends, retention
from daybook.runs.approvals import Question
from daybook.runs.prefect_ends import EndInPrefect
from daybook.runs.restored import Restore
from tests import rows
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

NOT_JSON = object()
"""Stands for a text that is not JSON in a JSON column; only SQLite can store it."""

INVALID: list[tuple[str, Any]] = [
    ("policy", ["x"]),
    ("policy", NOT_JSON),
    ("policy", {"future": 1}),
    ("policy", {"retries": "many"}),
    ("policy", {"tokens_per_day": "many", "usd_per_day": "much"}),
    ("policy", {"until": "someday"}),
    ("policy", {"check": 5}),
    ("notify", "mail"),
    ("notify", NOT_JSON),
    ("notify", {"events": ["exploded"]}),
    ("action", {"prompt": 5}),
    ("action", {"agent": "x"}),
    ("action", None),
    ("action", NOT_JSON),
    ("schedule", []),
    ("schedule", NOT_JSON),
    ("schedule", {"kind": "lunar"}),
    ("schedule", {"kind": "cron", "expr": "0 99 * *", "timezone": "UTC"}),
    ("schedule", {"kind": "at", "at": "9999-12-31T23:59:59-14:00", "timezone": "UTC"}),
    ("written_by", ["x"]),
    ("kind", "fortune"),
    ("name", "a\nb"),
    ("tags", {"a": 1}),
    ("tags", [1]),
    ("tags", NOT_JSON),
    ("meta", [1]),
    ("meta", NOT_JSON),
    ("skips", ["soon"]),
    ("skips", ["9999-12-31T23:59:59-14:00"]),
    ("skips", NOT_JSON),
    ("conflict", {"at": "x"}),
    ("conflict", {"at": "x", "fields": {}}),
    ("synced", "x"),
    ("synced", {"foreign": 5}),
    ("applied", [1]),
]


async def store_invalid(world: World, stored: StoredJob, column: str, value: Any) -> None:
    """Store an invalid value in the newest revision of the job, or in the job's row."""
    table: Any = RevisionRow if column in RevisionRow.model_fields else JobRow
    key = "job_id" if table is RevisionRow else "id"
    async with world.ledger.write() as session:
        if value is NOT_JSON:
            query = f"UPDATE {table.__tablename__} SET {column} = '{{no' WHERE {key} = :id"
            await session.execute(text(query), {"id": stored.id})
            return
        if column in ("policy", "notify") and isinstance(value, dict):
            value = {**getattr(stored.revision, column), **value}
        change = update(table).where(col(getattr(table, key)) == stored.id)
        await session.execute(change.values({column: value}))


async def test_an_invalid_value_of_one_job_stops_no_reader_of_the_ledger(world: World) -> None:
    other = await world.jobs.add("other")
    is_sqlite = "sqlite" in world.ledger.place
    table = [each for each in INVALID if is_sqlite or each[1] is not NOT_JSON]
    for (column, value), row in rows.each(table):
        stored = await world.jobs.add("broken")
        with row:
            await store_invalid(world, stored, column, value)
            async with world.ledger.read() as session:
                now = world.clock.now()
                assert [each.id for each in await store.all_jobs(session)] == [other.id]
                listed = {each.id: each for each in await store.read_all(session)}
                found = [each.id for each in await summaries.read(session)]
                assert sorted(found) == sorted(listed) == sorted((other.id, stored.id))
                assert other.id in await scheduled.read(session)
                await overdue.find_all(session, overdue.DueTimeCache(), now)
                await store.used_outputs(session)
                await shared_folders.notes(session, {})
                errors = await stored_columns.unreadable(session)
            problem = listed[stored.id].problem
            assert problem is not None
            assert [str(each) for each in errors] == [str(problem)]
            view = ListedJob.of(listed[stored.id], now, running=False)
            assert (view.next_due, view.enabled) == ([], False)
            assert "is stored with an invalid value: " in view.disabled_reason
            assert view.model_dump_json()
            (finding,) = findings.unreadable_jobs(errors)
            assert "\n" not in finding.message
        async with world.ledger.write() as session:
            (broken,) = await store.read_all(session, [stored.id])
            await outcomes.archive_job(session, broken, now)


async def test_the_run_of_an_unreadable_job_after_another_is_missed(world: World) -> None:
    """Nothing else would record that the job was due."""
    first = await world.jobs.add("first")
    after = await world.jobs.add("after", after="first")
    await store_invalid(world, after, "action", {"prompt": 5})
    await world.runs.finished(await world.runs.request(first), Status.SUCCEEDED)

    (missed,) = await world.runs.rows(after)
    assert (missed.status, missed.due) == ("missed", world.clock.now())
    assert missed.reason.startswith("after first: prompt: after is stored with an invalid value: ")


async def test_an_unreadable_job_after_another_is_missed_only_if_it_was_due(world: World) -> None:
    first = await world.jobs.add("first")
    of_failures = await world.jobs.add("of failures", after="first", on="failed")
    paused = await world.jobs.add("paused", after="first", enabled=False)
    for each in (of_failures, paused):
        await store_invalid(world, each, "action", {"prompt": 5})
    await world.runs.finished(await world.runs.request(first), Status.SUCCEEDED)

    assert await world.runs.rows(of_failures) + await world.runs.rows(paused) == []


async def test_the_end_of_an_unreadable_job_starts_the_jobs_after_it(world: World) -> None:
    first = await world.jobs.add("first")
    after = await world.jobs.add("after", after="first")
    granted = await world.runs.running(first)
    await store_invalid(world, first, "notify", {"channel": 7})
    await world.runs.finish(granted, Status.SUCCEEDED)

    (row,) = await world.runs.rows(after)
    assert (row.status, row.reason) == ("waiting", "after first")


async def test_an_unreadable_job_is_not_claimed_or_requested(world: World) -> None:
    stored = await world.jobs.add("broken", cron="0 * * * *")
    waiting = await world.runs.request(stored)
    await store_invalid(world, stored, "action", ["x"])
    for refused in (world.runs.claim(waiting), world.jobs.get("broken")):
        with pytest.raises(UnreadableJob):
            await refused
    assert (await world.runs.row(waiting)).state is Status.WAITING


async def test_the_waiting_run_of_an_unreadable_job_keeps_no_other_run_from_prefect(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[str]()

    async def create_run(client: PrefectClient, deployment_id: str, *_: Any, **__: Any) -> None:
        made.append(deployment_id)

    monkeypatch.setattr(deployment, "create_run", create_run)
    broken, other = await world.jobs.add("broken"), await world.jobs.add("other")
    async with world.ledger.write() as session:
        ids = {"deployment_id": col(JobRow.name)}
        await session.execute(update(JobRow).values(ids))
    for each in (broken, other):
        await world.runs.request(each)
    await store_invalid(world, broken, "action", {"prompt": 5})
    await scheduled_runs.ensure_all(world.ledger, cast(PrefectClient, None))

    assert made == ["other"]


async def test_a_run_of_an_unreadable_job_can_ask_for_an_approval(world: World) -> None:
    stored = await world.jobs.add(on_demand=True)
    granted = await world.runs.running(await world.runs.request(stored))
    await store_invalid(world, stored, "action", {"prompt": 5})
    question = Question("1.1", "d" * 64, 1, "mail_send", 'to="ann"', timedelta(hours=1))
    await claims.wait_for_approval(world.ledger, granted.run_id, granted.fence, question)

    assert (await world.runs.row(granted.run_id)).state is Status.WAITING


async def test_a_restore_repeats_no_due_time_of_an_unreadable_job(world: World) -> None:
    stored = await world.jobs.add(cron="* * * * *", catch_up="latest")
    await store_invalid(world, stored, "action", {"prompt": 5})
    backup = world.clock.now()
    restore = Restore(backup=backup, at=world.clock.move(timedelta(minutes=10)))
    async with world.ledger.write() as session:
        await uncertain.record(session, restore)
    assert await world.runs.rows() == []
    await store_invalid(world, stored, "action", stored.revision.action)
    world.clock.move(timedelta(minutes=1, seconds=30))
    await audit.advance(world.ledger, stored.id, world.clock.now())

    first, *_ = await world.runs.rows()
    assert (first.status, first.reason, first.count) == ("missed", restore.reason, 10)


@pytest.mark.parametrize(
    "reference", [{"after": "old"}, {"prompt": "{{output:old}}", "every": "1h"}]
)
async def test_a_job_that_an_unreadable_job_names_is_not_renamed_or_removed_as_unused(
    reference: dict[str, Any], world: World
) -> None:
    await world.jobs.add("old", every="1h", enabled=False)
    broken = await world.jobs.add("broken", **reference)
    await store_invalid(world, broken, "policy", {"overlap": "perhaps"})
    with pytest.raises(UnreadableJob, match="broken is stored with an invalid value"):
        await world.jobs.edit("old", name="new")
    async with world.ledger.read() as session:
        later = world.clock.now() + timedelta(days=90)
        assert await retention.disabled_since(session, later) == []


async def test_a_budget_of_any_length_is_a_large_one(world: World) -> None:
    stored = await world.jobs.add()
    await store_invalid(world, stored, "policy", {"tokens_per_day": 10**400})
    async with world.ledger.read() as session:
        assert await stored_columns.unreadable(session) == []
        (budget,) = await summaries.read_budgets(session)
    assert budget.tokens_per_day == summaries.MAX_TOKENS


async def test_an_unreadable_job_counts_its_run_and_failure(world: World) -> None:
    stored = await world.jobs.add("broken", cron="0 * * * *", max_runs=3)
    granted = await world.runs.running(stored)
    await store_invalid(world, stored, "notify", {"channel": 7})
    await world.runs.finish(granted, Status.FAILED, error="no answer")

    row = await world.jobs.row(stored.id)
    assert (row.run_count, row.consecutive_failures, row.last_error) == (1, 1, "no answer")
    assert (row.last_run_id, row.last_status) == (granted.run_id, "failed")


async def test_a_due_time_that_a_person_cancels_does_not_run_after_the_repair(world: World) -> None:
    stored = await world.jobs.add("broken", cron="0 * * * *", catch_up="all")
    request = world.runs.claim_request(stored, flow_run_id="there")
    await store_invalid(world, stored, "policy", ["x"])
    end = EndInPrefect("there", "CANCELLED", "Cancelled", "", request=request)
    assert await prefect_ends.apply_end(world.ledger, end) is Status.CANCELLED
    await store_invalid(world, stored, "policy", stored.revision.policy)
    world.clock.move(timedelta(minutes=70))
    await audit.advance(world.ledger, stored.id, world.clock.now())

    assert [row.status for row in await world.runs.rows(stored)] == ["cancelled"]


async def test_a_job_found_readable_is_read_again_after_a_change_or_after_a_while(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def problems() -> int:
        async with world.ledger.read() as session:
            return len(await stored_columns.unreadable(session))

    stored = await world.jobs.add("broken")
    assert await problems() == 0
    await world.jobs.edit("broken", prompt="Newer?")
    await store_invalid(world, stored, "notify", "mail")
    assert await problems() == 1
    await store_invalid(world, stored, "notify", stored.revision.notify)
    assert await problems() == 0
    await store_invalid(world, stored, "notify", "mail")
    monkeypatch.setattr(stored_columns, "_readable", stored_columns._Readable())  # as after a while
    assert await problems() == 1
