"""A ledger of each released version, with runs in progress, is upgraded and goes on."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlmodel import select

from daybook.ledger import schema
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import AttemptRow, MessageRow, OutboxRow, RevisionRow, StepRow
from daybook.runs import audit
from daybook.testing import ManualClock
from tests.databases import Database, Postgresql, Sqlite, version_of
from tests.migrations.released.content import ANSWER, USED
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

FOLDER = Path(__file__).parent / "released"
VERSIONS = sorted(path.name.removesuffix("-sqlite.sql") for path in FOLDER.glob("*-sqlite.sql"))


def load(version: str, database: Database) -> None:
    text = (FOLDER / f"{version}-{database.kind}.sql").read_text()
    if isinstance(database, Sqlite):
        with closing(sqlite3.connect(database.path)) as connection:
            connection.executescript(text)
    else:
        assert isinstance(database, Postgresql)
        database.run(text)


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_ledger_of_a_released_version_goes_on(version: str, database: Database) -> None:
    load(version, database)
    clock = ManualClock()
    async with Ledger(database.address, clock) as ledger:
        world = World(ledger, clock)
        assert version_of(database) == [(schema.head(),)]
        brief = await world.jobs.get("brief")
        assert brief.job.schedule.to_text() == "0 7 * * 1-5"
        assert (brief.job.policy.retries, brief.job.tags) == (2, ("morning",))
        statuses = {
            name: [row.status for row in await world.runs.rows(await world.jobs.get(name))]
            for name in ("brief", "watch", "report", "once")
        }
        assert statuses == {
            "brief": ["succeeded", "failed"],
            "watch": ["running"],
            "report": ["waiting", "waiting"],
            "once": ["waiting"],
        }
        (first, _) = await world.runs.rows(brief)
        assert first.output == ANSWER
        assert first.usage is not None
        assert first.usage.items() >= USED.items()
        async with ledger.read() as session:
            counts = [
                len((await session.execute(select(table))).all())
                for table in (RevisionRow, AttemptRow, StepRow, MessageRow, OutboxRow)
            ]
        assert all(counts), counts

        clock.set(max(row.queued_at for row in await world.runs.rows()))
        world.passes(hours=2)
        (waiting,) = await world.runs.rows(await world.jobs.get("once"))
        await world.runs.finished(waiting, Status.SUCCEEDED, output="sent")
        watch = await world.jobs.get("watch")
        await world.runs.lose()
        await audit.advance(ledger, watch.id, clock.now())
        await world.jobs.edit("brief", cron="0 8 * * *")
        await world.tasks.sweep()
