"""The schema brings itself up to date: once, whole, and never past what the program knows."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import pytest
from alembic import command, op
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine
from sqlmodel import SQLModel

from daybook.errors import LedgerNewer
from daybook.ledger import mirror, schema, task_tables  # noqa: F401 - tables to be compared
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import AttemptRow, JobRow, RunRow
from tests import databases
from tests.costs import one_in
from tests.databases import Database, id_of, server_of, version_of

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

SPAWN = multiprocessing.get_context("spawn")

Call = Callable[[Connection], Any]


async def _on(database: Database, call: Call) -> Any:
    """What ``call`` gives for a connection to the database, committed."""
    engine = create_async_engine(database.address)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(call)
    finally:
        await engine.dispose()


def _differences(connection: Connection) -> list[Any]:
    """Between the tables and the models."""
    options = {
        "compare_type": True,
        # PostgreSQL cannot compare JSON with what a migration says: see below.
        "compare_server_default": connection.dialect.name == "sqlite",
        "version_table": schema.VERSION_TABLE,
    }
    context = MigrationContext.configure(connection, opts=options)
    return list(compare_metadata(context, SQLModel.metadata))


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    return config


async def test_an_empty_database_becomes_what_the_models_say(database: Database) -> None:
    await id_of(database.address)

    assert await _on(database, _differences) == []


@pytest.mark.parametrize(
    "change",
    ["ADD COLUMN extra INTEGER", "ADD COLUMN evil TEXT DEFAULT 'x'", "DROP COLUMN suspected_at"],
)
async def test_the_comparison_would_see_a_difference(database: Database, change: str) -> None:
    await id_of(database.address)
    database.query(f"ALTER TABLE runs {change}")

    assert len(await _on(database, _differences)) == 1


async def test_defaults_and_conditions_of_indexes_are_those_of_the_models(
    database: Database, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # Of an index Alembic compares name and columns only.
    await id_of(database.address)
    migrated = _said(database)
    again = databases.of_kind(database.kind, tmp_path / "models.db", server_of(request))
    await _on(again, SQLModel.metadata.create_all)

    assert _said(again) == migrated
    assert sum(" WHERE " in each for each in migrated) == 9


def _said(database: Database) -> list[str]:
    """Indexes; of PostgreSQL columns too, which SQLite keeps in the order of their making."""
    said = [" ".join(map(str, row)) for row in database.tables() if row[-1] is not None]
    if database.kind == "sqlite":
        said = [each for each in said if "INDEX" in each]
    return sorted(" ".join(each.split()) for each in said if schema.VERSION_TABLE not in each)


def test_the_head_file_is_the_newest_script() -> None:
    scripts = ScriptDirectory.from_config(_config())

    assert scripts.get_heads() == [schema.head()]
    named = [path.stem for path in (schema.MIGRATIONS / "versions").glob("2*.py")]
    known = {each.revision for each in scripts.walk_revisions()}
    assert {"_".join(name.split("_")[:2]) for name in named} == known


async def test_a_second_start_changes_nothing(database: Database) -> None:
    first = await id_of(database.address)
    before = database.tables()

    assert await id_of(database.address) == first
    assert database.tables() == before
    assert version_of(database) == [(schema.head(),)]


async def test_a_newer_ledger_is_refused_and_left_alone(database: Database) -> None:
    await id_of(database.address)
    database.query(f"UPDATE {schema.VERSION_TABLE} SET version_num = '29991231_0001'")
    before = database.tables()

    with pytest.raises(LedgerNewer, match="29991231_0001") as refused:
        await id_of(database.address)

    assert refused.value.exit_code == 2
    assert schema.head() in str(refused.value)
    assert database.tables() == before
    assert version_of(database) == [("29991231_0001",)]


def _open(address: str, told: Pipe) -> None:
    told.send("here")
    told.recv()
    told.send(asyncio.run(id_of(address)))


@pytest.mark.slow
async def test_two_processes_at_once_make_one_ledger(database: Database) -> None:
    pipes = [SPAWN.Pipe() for _ in range(2)]
    children = [SPAWN.Process(target=_open, args=(database.address, theirs)) for _, theirs in pipes]
    for child in children:
        child.start()
    for ours, _ in pipes:
        assert ours.recv() == "here"
    for ours, _ in pipes:
        ours.send("go")
    ids = {ours.recv() for ours, _ in pipes}
    for child in children:
        child.join(30)

    assert [child.exitcode for child in children] == [0, 0]
    assert ids == {await id_of(database.address)}
    assert database.query("SELECT count(*) FROM facts") == [(1,)]


def _killed(address: str, after: str) -> None:
    """Migrate, and die by SIGKILL as soon as the table ``after`` is made."""
    made = op.create_table

    def create_table(name: str, *columns: object) -> None:
        made(name, *columns)  # type: ignore[arg-type]
        if name == after:
            os.kill(os.getpid(), signal.SIGKILL)

    op.create_table = create_table  # type: ignore[assignment]
    asyncio.run(id_of(address))


_ROW = (
    "INSERT INTO runs (id, occurrence, kind, trigger, due, status, reason, fence, holder,"
    " flow_starts, prefect_runs, parameters, attempts, queued_at, flow_run_id, finished_at,"
    " evidence) VALUES ('{id}', 'flow:{id}', 'agent-prompt', 'direct', {now}, '{status}', '', 0,"
    " '', 0, 0, '{{}}', 0, {now}, '{id}', {ended}, '[]')"
)


async def _up_to(database: Database, revision: str) -> None:
    def upgrade(connection: Connection) -> None:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    await _on(database, upgrade)


async def _of_revision(database: Database, revision: str) -> None:
    """A ledger as a program of that time left it, with an ended run and one that waits."""
    await _up_to(database, revision)
    database.query("INSERT INTO facts (key, value) VALUES ('id', 'kept')")
    now = "'2026-11-20 08:00:00.000000'"
    database.query(_ROW.format(id="w", status="waiting", now=now, ended="NULL"))
    database.query(_ROW.format(id="e", status="succeeded", now=now, ended=now))


def _killed_after_columns(address: str) -> None:
    """Migrate, and die by SIGKILL as soon as the first index is to be made."""
    op.create_index = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    asyncio.run(id_of(address))


async def test_killed_in_an_upgrade_it_is_as_before_and_the_next_start_succeeds(
    database: Database,
) -> None:
    await _of_revision(database, "20261120_0002")
    before = database.tables()
    child = SPAWN.Process(target=_killed_after_columns, args=(database.address,))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert database.tables() == before

    assert await id_of(database.address) == "kept"
    assert version_of(database) == [(schema.head(),)]


async def test_of_what_had_ended_before_the_upgrade_prefect_is_told_nothing(
    database: Database,
) -> None:
    await _of_revision(database, "20261120_0002")

    async with Ledger(database.address) as ledger, ledger.read() as session:
        assert await mirror.unmirrored(session, ledger.now()) == []
        rows = {name: await session.get(RunRow, name) for name in "we"}

    told = {row.id: (row.status, row.waits_for, row.unmirrored) for row in rows.values() if row}
    assert told == {"w": ("waiting", "", False), "e": ("succeeded", "", False)}


async def test_what_earlier_attempts_took_is_not_known_and_the_sum_of_their_run_is_kept(
    database: Database,
) -> None:
    await _of_revision(database, "20261120_0003")
    database.query("""UPDATE runs SET usage = '{"requests": 2}', attempts = 1 WHERE id = 'e'""")
    database.query(
        "INSERT INTO attempts (run_id, number, fence, status, started_at)"
        " VALUES ('e', 1, 1, 'succeeded', '2026-11-20 08:00:00.000000')",
    )

    async with Ledger(database.address) as ledger, ledger.read() as session:
        row = await session.get(RunRow, "e")
        attempt = await session.get(AttemptRow, ("e", 1))

    assert row is not None
    assert attempt is not None
    assert (row.usage, attempt.status, attempt.usage) == ({"requests": 2}, "succeeded", None)


_JOB = (
    "INSERT INTO jobs (id, name, slug, kind, description, tags, owner, revision, disabled_reason,"
    " created_at, updated_at, sync_pending, run_count, consecutive_failures, skips)"
    " VALUES ('{id}', '{id}', '{id}', 'agent-prompt', '', '[]', 'user', 1, '', {made}, {made},"
    " {no}, 0, 0, '[]')"
)
_DUE = (
    "INSERT INTO runs (id, occurrence, job_id, kind, trigger, due, status, reason, waits_for,"
    " fence, holder, flow_starts, prefect_runs, unmirrored, parameters, attempts, queued_at,"
    " evidence) VALUES ('{id}', '{key}:{id}', '{job}', 'agent-prompt', 'schedule', {due},"
    " 'cancelled', '', '', 0, '', 0, 0, {no}, '{{}}', 0, {queued}, '[]')"
)


async def test_a_job_is_audited_from_its_newest_due_time_on_that_is_known(
    database: Database,
) -> None:
    await _up_to(database, "20261120_0005")
    database.query("INSERT INTO facts (key, value) VALUES ('id', 'kept')")
    hours = [f"'2026-11-20 {hour:02}:00:00.000000+00:00'" for hour in range(12)]
    no = "0" if database.kind == "sqlite" else "false"
    for name in ("ran", "fresh"):
        database.query(_JOB.format(id=name, made=hours[6], no=no))
    for place, (key, due, queued) in enumerate(
        [
            ("due:ran", 8, 8),
            ("due:ran", 9, 9),
            ("due:ran", 11, 7),  # cancelled ahead of its time
            ("request:ran", 10, 10),
            ("due:fresh", 5, 7),  # before the job was made
        ]
    ):
        job = key.partition(":")[2]
        database.query(
            _DUE.format(id=place, key=key, job=job, due=hours[due], queued=hours[queued], no=no)
        )

    async with Ledger(database.address) as ledger, ledger.read() as session:
        found = {name: await session.get(JobRow, name) for name in ("ran", "fresh")}
        row = await session.get(RunRow, "0")

    known = {name: job.audited_until.hour for name, job in found.items() if job is not None}
    assert known == {"ran": 9, "fresh": 6}
    assert row is not None
    assert (row.due_to, row.count) == (None, 1)


@pytest.mark.parametrize("after", one_in(4, ["runs", "facts", "attempts", "messages"]))
async def test_killed_in_the_middle_it_is_as_before_and_the_next_start_succeeds(
    database: Database, after: str
) -> None:
    child = SPAWN.Process(target=_killed, args=(database.address, after))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert database.tables() == []

    assert await id_of(database.address)
    assert version_of(database) == [(schema.head(),)]


async def test_a_ledger_of_the_first_schema_is_brought_up_to_date_with_what_it_holds(
    database: Database,
) -> None:
    await _up_to(database, "20261120_0001")
    database.query("INSERT INTO facts (key, value) VALUES ('id', 'kept')")
    now = "'2026-11-20 08:00:00.000000'"
    database.query(
        "INSERT INTO runs (id, occurrence, kind, trigger, due, status, reason, fence, holder,"
        " flow_starts, prefect_runs, parameters, attempts, queued_at, session_id, evidence)"
        f" VALUES ('r', 'flow:f', 'agent-prompt', 'direct', {now}, 'waiting', 'asked for', 0, '',"
        f" 0, 0, '{{}}', 0, {now}, NULL, '[]')",
    )

    async with Ledger(database.address) as ledger:
        assert ledger.id == "kept"
        async with ledger.read() as session:
            row = await session.get(RunRow, "r")

    assert row is not None
    assert (row.status, row.suspected_at, row.session_id) == ("waiting", None, None)
    assert database.query("SELECT count(*) FROM messages") == [(0,)]
    assert version_of(database) == [(schema.head(),)]


def test_alembics_own_commands_need_our_connection() -> None:
    # There is one way to migrate, and it holds the lock.
    with pytest.raises(KeyError):
        command.upgrade(_config(), "head")


async def test_the_schema_is_that_of_the_snapshot(
    database: Database, snapshot: Callable[[str, str], None]
) -> None:
    await id_of(database.address)
    rows = sorted(" ".join(map(str, row)) for row in database.tables() if row[-1] is not None)
    snapshot(f"ledger-{database.kind}.txt", "\n".join(rows))
