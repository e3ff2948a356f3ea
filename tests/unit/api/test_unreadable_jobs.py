"""Jobs whose stored fields are not valid: all other jobs work, and the job can be seen and removed.

Each row of `INVALID` makes one stored field invalid, as a fault or another version might.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update
from sqlmodel import col

from daybook import api
from daybook.diagnosis import status
from daybook.diagnosis.checks import ledger as checks
from daybook.errors import InvalidFiles, UnreadableJob
from daybook.files.documents import to_yaml
from daybook.files.jobs_file import FileText
from daybook.home import Home
from daybook.jobs import scheduled
from daybook.ledger.engine import Ledger, open_ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import JobRow, RevisionRow
from daybook.runs import audit, overdue
from tests import rows
from tests.world import World

INVALID: list[tuple[type[JobRow] | type[RevisionRow], str, Any]] = [
    (JobRow, "kind", "carrier-pigeon"),
    (JobRow, "tags", [7]),
    (RevisionRow, "schedule", {"kind": "sometimes"}),
    (RevisionRow, "schedule", []),
    (RevisionRow, "action", {"prompt": 7}),
    (RevisionRow, "action", {}),
    (RevisionRow, "policy", {"overlap": "perhaps"}),
    (RevisionRow, "policy", "skip"),
    (RevisionRow, "notify", {"channel": 7}),
]


async def _damage(
    ledger: Ledger, job_id: str, table: type[JobRow] | type[RevisionRow], field: str, value: Any
) -> None:
    key = JobRow.id if table is JobRow else RevisionRow.job_id
    async with ledger.write() as session:
        await session.execute(update(table).where(col(key) == job_id).values({field: value}))


@pytest.mark.anyio
async def test_a_job_with_an_invalid_field_stops_no_other_job_and_can_be_removed(
    daybook_home: Home,
) -> None:
    for (table, field, value), row in rows.each(INVALID):
        with row:
            good = await api.jobs.add({"name": "good", "prompt": "x", "cron": "0 9 * * *"})
            bad = await api.jobs.add({"name": "bad", "prompt": "x", "cron": "0 9 * * *"})
            async with open_ledger() as ledger:
                await _damage(ledger, bad.id, table, field, value)

            listed = {each.name: each for each in await api.jobs.list_jobs()}
            assert sorted(listed) == ["bad", "good"]
            assert (listed["good"].enabled, listed["bad"].enabled) == (True, False)
            reason = listed["bad"].disabled_reason
            assert "bad is stored with an invalid value: " in reason
            assert f"daybook remove {bad.id[:8]}" in reason
            page = await api.job_pages.list_page(api.job_pages.Choice())
            assert [each.name for each in page.jobs] == ["bad", "good"]
            assert len((await api.timeline.read(api.job_pages.Choice())).rows) == 2
            assert [each.job for each in (await status.status()).due_soon if each.job == "good"]
            (found,) = [each for each in await checks.jobs() if "bad" in each.message]
            assert found.fix == f"restore a backup, or remove the job: daybook remove {bad.id[:8]}"
            for refused in (api.jobs.show("bad"), api.jobs.edit_job("bad", {"prompt": "y"})):
                with pytest.raises(UnreadableJob, match="bad is stored with an invalid value"):
                    await refused

            removed = await api.jobs.remove("bad")
            assert (removed.id, removed.enabled) == (bad.id, False)
            assert [each.name for each in await api.jobs.list_jobs()] == ["good"]
            await api.jobs.remove(good.id)


@pytest.mark.anyio
async def test_the_due_times_of_a_job_that_cannot_be_read_are_audited_once_it_can(
    world: World,
) -> None:
    stored = await world.jobs.add(cron="* * * * *", catch_up="none")
    await _damage(world.ledger, stored.id, RevisionRow, "policy", {"overlap": "perhaps"})
    world.clock.move(timedelta(minutes=10))
    with pytest.raises(UnreadableJob):
        await audit.advance(world.ledger, stored.id, world.clock.now())
    async with world.ledger.read() as session:
        assert await overdue.find_all(session, overdue.DueTimeCache(), world.clock.now()) == []
        assert await scheduled.read(session) == {}
    await _damage(world.ledger, stored.id, RevisionRow, "policy", {"catch_up": "none"})
    await audit.advance(world.ledger, stored.id, world.clock.now())

    assert sum(row.count for row in await world.runs.rows()) == 9


@pytest.mark.anyio
async def test_the_outcome_of_a_run_is_recorded_although_its_job_cannot_be_read(
    world: World,
) -> None:
    stored = await world.jobs.add()
    granted = await world.runs.running(stored)
    await _damage(world.ledger, stored.id, RevisionRow, "notify", {"channel": 7})

    assert await world.runs.finish(granted, Status.SUCCEEDED, output="done") is Status.SUCCEEDED
    assert (await world.runs.row(granted.run_id)).output == "done"


@pytest.mark.anyio
async def test_a_jobs_file_adds_no_second_job_with_the_name_of_an_unreadable_one(
    daybook_home: Home,
) -> None:
    bad = await api.jobs.add({"name": "bad", "prompt": "x", "cron": "0 9 * * *"})
    async with open_ledger() as ledger:
        await _damage(ledger, bad.id, RevisionRow, "action", {"prompt": 7})
    same = {"name": "bad", "prompt": "y", "schedule": {"every": "1h"}}
    after = {"name": "next", "prompt": "z", "after": "bad"}
    for jobs in ([same], [same, after]):
        with pytest.raises(InvalidFiles, match="bad is stored with an invalid value"):
            await api.files.apply([FileText("x.yaml", to_yaml({"jobs": jobs}))], set_name="team")
    report = await api.files.apply(
        [FileText("x.yaml", to_yaml({"jobs": [after]}))], set_name="team", dry_run=True
    )
    assert [each.job for each in report.changes] == ["next"]
