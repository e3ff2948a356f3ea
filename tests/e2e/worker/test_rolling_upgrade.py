"""Workers of two versions on one ledger, across migrations, while jobs are due."""

from __future__ import annotations

import shutil
import signal
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
TIMES = replace(
    SHORT,
    run_lease=timedelta(seconds=20),
    prefect_answer=timedelta(seconds=30),
    shutdown_wait=timedelta(seconds=60),
)
"""A run does not lose its lease on a loaded machine, and can end before its worker stops."""
LABELS, INTERVAL = ("first", "first", "second", "second"), timedelta(seconds=30)
"""The labels of the jobs: the workers of each version run some of them, at the same time."""
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


async def begin(world: PrefectWorld, name: str, program: Path, labels: str) -> Worker:
    world.workers.variables |= {"PYTHONPATH": str(program), "DAYBOOK_WORKER_LABELS": labels}
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
        after = f" AND due > '{since:%Y-%m-%d %H:%M:%S.%f}+00:00'" if since else ""
        ((count,),) = database.query(done.format(of) + after)
        return int(count)

    async def until(condition: Callable[[], bool], within: float = 240.0) -> None:
        async def holds() -> bool:
            return condition()

        assert await becomes_true(holds, within), world.workers.logs()

    async with at_prefect(tmp_path, prefect_server, database, timing=TIMES) as world:
        agent = await world.agents.add(WORKS)
        old = await begin(world, "old", REPOSITORY, "first")
        for number, label in enumerate(LABELS):
            when = f"{5 * number},{5 * number + 30} * * * * *"
            given = {"agent": agent.name, "session": "new", "worker_label": label}
            await world.deploy(cron=when, overlap="allow", catch_up="all", **given)
        await until(lambda: runs("old") >= 1)

        # The new version migrates the ledger as it starts, and the old one goes on.
        new = await begin(world, "new", adding, "second")
        assert version_of(database) == [(ADDS,)]
        migrated_at = world.clock.now()
        await until(lambda: runs("new", migrated_at) >= 1 and runs("old", migrated_at) >= 1)
        await old.send_signal(signal.SIGTERM)
        assert await old.wait_for_exit(90.0) == 0
        old = await begin(world, "old-again", REPOSITORY, "first")
        stopped_at = world.clock.now()
        await until(lambda: runs("old-again", stopped_at) >= 1)

        # Older versions cannot use the schema of the third one: they end.
        third = await begin(world, "third", changing, "first,second")
        assert version_of(database) == [(CHANGES,)]
        for each in (old, new):
            assert await each.wait_for_exit(60.0) == LedgerNewer.exit_code
            assert f"the ledger has schema {CHANGES}" in each.child.tail()
        ended_at = world.clock.now()
        await until(lambda: runs("third", ended_at) >= len(LABELS))
        await third.send_signal(signal.SIGTERM)
        assert await third.wait_for_exit(90.0) == 0

        # Let this process, which is old too, read the ledger.
        key = schema.OLDEST_FACT
        database.query(f"UPDATE facts SET value = '{schema.head()}' WHERE key = '{key}'")
        rows = await world.runs.rows()
        ended = [row for row in rows if row.state in TERMINAL]
        assert {row.status for row in ended} == {"succeeded"}, world.workers.logs()
        assert len(ended) == agent.effect_count
        assert {row.id for row in rows if row.due <= ended_at} <= {row.id for row in ended}
        for job_id in {row.job_id for row in rows}:
            due = sorted(row.due for row in rows if row.job_id == job_id)
            gaps = {later - earlier for earlier, later in pairwise(due)}
            assert gaps == {INTERVAL}, due
            assert due[-1] > ended_at
