"""Workers of two versions on one ledger, across migrations, while jobs are due."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from daybook.errors import LedgerNewer
from daybook.ledger import schema
from daybook.ledger.states import TERMINAL
from tests import databases
from tests.conftest import REPOSITORY, PrefectServer
from tests.databases import version_of
from tests.timings import SHORT
from tests.waiting import becomes_true
from tests.world.home import at_prefect
from tests.world.prefect_world import PrefectWorld
from tests.world.worker import Worker
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

ADDS, CHANGES = "29990101_0002", "29990101_0003"
MIGRATION = """
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{earlier}"


def upgrade():
    op.create_table("notes_{revision}", sa.Column("id", sa.String(), primary_key=True))
    op.add_column("runs", sa.Column("note_{revision}", sa.String(), server_default="none"))
"""
TIMES = replace(SHORT, run_lease=timedelta(seconds=20), prefect_answer=timedelta(seconds=30))
JOBS, INTERVAL = 4, timedelta(seconds=12)
"""20 runs a minute."""
WORKS = 'had(); print("done")\n'


def version(folder: Path, *revisions: str, oldest: str) -> Path:
    """Return a copy of this program with further migrations."""
    for name in ("daybook", "flows", "blocks", "deployments"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / name, folder / name, ignore=ignored)
    migrations, earlier = folder / "daybook" / "ledger" / "migrations", schema.head()
    for each in revisions:
        text = MIGRATION.format(revision=each, earlier=earlier)
        (migrations / "versions" / f"{each}_next.py").write_text(text)
        earlier = each
    (migrations / "HEAD").write_text(f"{earlier} {oldest}\n")
    return folder


async def begin(world: PrefectWorld, name: str, program: Path) -> Worker:
    world.workers.variables["PYTHONPATH"] = str(program)
    return await world.workers.begin(name=name)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", databases.KINDS)
async def test_each_due_time_runs_once_while_workers_of_old_and_new_versions_run(
    kind: str, request: pytest.FixtureRequest, prefect_server: PrefectServer, tmp_path: Path
) -> None:
    file = tmp_path / "ledger.db"
    database = databases.of_kind(kind, file, databases.server_of(request))
    adding = version(tmp_path / "adding", ADDS, oldest=schema.head())
    changing = version(tmp_path / "changing", ADDS, CHANGES, oldest=CHANGES)

    def runs(of: str = "%", since: datetime | None = None) -> int:
        done = "SELECT count(*) FROM runs WHERE status = 'succeeded' AND holder LIKE '%:{}'"
        after = f" AND due > '{since:%Y-%m-%d %H:%M:%S}+00:00'" if since else ""
        ((count,),) = database.query(done.format(of) + after)
        return int(count)

    async def until(condition: Callable[[], bool], within: float = 240.0) -> None:
        async def holds() -> bool:
            return condition()

        assert await becomes_true(holds, within), world.workers.logs()

    async with at_prefect(tmp_path, prefect_server, database, timing=TIMES) as world:
        agent = await world.agents.add(WORKS)
        old = await begin(world, "old", REPOSITORY)
        for number in range(JOBS):
            seconds = ",".join(str(3 * number + 12 * each) for each in range(5))
            when, late = f"{seconds} * * * * *", {"overlap": "allow", "catch_up": "all"}
            await world.deploy(cron=when, agent=agent.name, session="new", **late)
        await until(lambda: runs("old") >= 2)

        # The new version migrates the ledger as it starts, and the old one goes on.
        new = await begin(world, "new", adding)
        assert version_of(database) == [(ADDS,)]
        migrated_at = world.clock.now()
        await until(lambda: runs("new", migrated_at) >= 2 and runs("old", migrated_at) >= 2)
        await world.workers._stop(old)
        old = await begin(world, "old-again", REPOSITORY)
        stopped_at = world.clock.now()
        await until(lambda: runs("old-again", stopped_at) >= 1)

        # Older versions cannot use the schema of the third one: they end.
        await begin(world, "third", changing)
        assert version_of(database) == [(CHANGES,)]
        for each in (old, new):
            assert await each.wait_for_exit(60.0) == LedgerNewer.exit_code
            assert f"the ledger has schema {CHANGES}" in each.child.tail()
        ended_at = world.clock.now()
        await until(lambda: runs("third", ended_at) >= JOBS)
        await world.workers._stop(world.workers.all[-1])

        # Let this process, which is old too, read the ledger.
        key = schema.OLDEST_FACT
        database.query(f"UPDATE facts SET value = '{schema.head()}' WHERE key = '{key}'")
        rows = [row for row in await world.runs.rows() if row.state in TERMINAL]
        assert {row.status for row in rows} == {"succeeded"}, world.workers.logs()
        assert len({row.occurrence for row in rows}) == len(rows) == agent.effect_count
        for job_id in {row.job_id for row in rows}:
            due = sorted(row.due for row in rows if row.job_id == job_id)
            gaps = {later - earlier for earlier, later in pairwise(due)}
            assert gaps == {INTERVAL}, due
            assert due[-1] > ended_at
