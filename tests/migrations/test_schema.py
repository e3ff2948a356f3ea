"""The schema brings itself up to date: once, whole, and never past what the program knows."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sqlite3
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from alembic import command, op
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from sqlmodel import SQLModel

from daybook.errors import LedgerNewer
from daybook.ledger import mirror, schema
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import AttemptRow, RunRow

pytestmark = pytest.mark.anyio

SPAWN = multiprocessing.get_context("spawn")


def _address(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


async def _id(path: Path) -> str:
    async with Ledger(_address(path)) as ledger:
        return ledger.id


def _query(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchall()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    return config


async def test_an_empty_file_becomes_what_the_models_say(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    await _id(path)

    engine = create_engine(f"sqlite:///{path}")
    try:
        with engine.connect() as connection:
            options = {
                "compare_type": True,
                "compare_server_default": True,
                "version_table": schema.VERSION_TABLE,
            }
            context = MigrationContext.configure(connection, opts=options)
            assert compare_metadata(context, SQLModel.metadata) == []
    finally:
        engine.dispose()


async def test_the_comparison_would_see_a_difference(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    await _id(path)
    _query(path, "ALTER TABLE runs ADD COLUMN extra INTEGER")

    engine = create_engine(f"sqlite:///{path}")
    try:
        with engine.connect() as connection:
            options = {"version_table": schema.VERSION_TABLE}
            context = MigrationContext.configure(connection, opts=options)
            assert len(compare_metadata(context, SQLModel.metadata)) == 1
    finally:
        engine.dispose()


def test_the_head_file_is_the_newest_script() -> None:
    scripts = ScriptDirectory.from_config(_config())

    assert scripts.get_heads() == [schema.head()]
    named = [path.stem for path in (schema.MIGRATIONS / "versions").glob("2*.py")]
    known = {each.revision for each in scripts.walk_revisions()}
    assert {"_".join(name.split("_")[:2]) for name in named} == known


async def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    first = await _id(path)
    before = _query(path, "SELECT sql FROM sqlite_master ORDER BY name")

    assert await _id(path) == first
    assert _query(path, "SELECT sql FROM sqlite_master ORDER BY name") == before
    assert _query(path, f"SELECT version_num FROM {schema.VERSION_TABLE}") == [(schema.head(),)]


async def test_a_newer_ledger_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    await _id(path)
    _query(path, f"UPDATE {schema.VERSION_TABLE} SET version_num = '29991231_0001'")
    before = _query(path, "SELECT sql FROM sqlite_master ORDER BY name")

    with pytest.raises(LedgerNewer, match="29991231_0001") as refused:
        await _id(path)

    assert refused.value.exit_code == 2
    assert schema.head() in str(refused.value)
    assert _query(path, "SELECT sql FROM sqlite_master ORDER BY name") == before
    assert _query(path, f"SELECT version_num FROM {schema.VERSION_TABLE}") == [("29991231_0001",)]


def _open(path: str, told: Connection) -> None:
    told.send("here")
    told.recv()
    told.send(asyncio.run(_id(Path(path))))


async def test_two_processes_at_once_make_one_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    pipes = [SPAWN.Pipe() for _ in range(2)]
    children = [SPAWN.Process(target=_open, args=(str(path), theirs)) for _, theirs in pipes]
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
    assert ids == {await _id(path)}
    assert _query(path, "SELECT count(*) FROM facts") == [(1,)]


def _killed(path: str, after: str) -> None:
    """Migrate, and die by SIGKILL as soon as the table ``after`` is made."""
    made = op.create_table

    def create_table(name: str, *columns: object) -> None:
        made(name, *columns)  # type: ignore[arg-type]
        if name == after:
            os.kill(os.getpid(), signal.SIGKILL)

    op.create_table = create_table  # type: ignore[assignment]
    asyncio.run(_id(Path(path)))


_ROW = (
    "INSERT INTO runs (id, occurrence, kind, trigger, due, status, reason, fence, holder,"
    " flow_starts, prefect_runs, parameters, attempts, queued_at, flow_run_id, finished_at,"
    " evidence) VALUES ('{id}', 'flow:{id}', 'agent-prompt', 'direct', {now}, '{status}', '', 0,"
    " '', 0, 0, '{{}}', 0, {now}, '{id}', {ended}, '[]')"
)


def _of_revision(path: Path, revision: str) -> None:
    """A ledger as a program of that time left it, with an ended run and one that waits."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
    engine.dispose()
    _query(path, "INSERT INTO facts (key, value) VALUES ('id', 'kept')")
    now = "'2026-11-20 08:00:00.000000'"
    _query(path, _ROW.format(id="w", status="waiting", now=now, ended="NULL"))
    _query(path, _ROW.format(id="e", status="succeeded", now=now, ended=now))


def _killed_after_columns(path: str) -> None:
    """Migrate, and die by SIGKILL as soon as the first index is to be made."""
    op.create_index = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    asyncio.run(_id(Path(path)))


async def test_killed_in_an_upgrade_it_is_as_before_and_the_next_start_succeeds(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    _of_revision(path, "20261120_0002")
    before = _query(path, "SELECT sql FROM sqlite_master ORDER BY name")
    child = SPAWN.Process(target=_killed_after_columns, args=(str(path),))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert _query(path, "SELECT sql FROM sqlite_master ORDER BY name") == before

    assert await _id(path) == "kept"
    assert _query(path, f"SELECT version_num FROM {schema.VERSION_TABLE}") == [(schema.head(),)]


async def test_of_what_had_ended_before_the_upgrade_prefect_is_told_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    _of_revision(path, "20261120_0002")

    async with Ledger(_address(path)) as ledger, ledger.read() as session:
        assert await mirror.unmirrored(session, ledger.now()) == []
        rows = {name: await session.get(RunRow, name) for name in "we"}

    told = {row.id: (row.status, row.waits_for, row.unmirrored) for row in rows.values() if row}
    assert told == {"w": ("waiting", "", False), "e": ("succeeded", "", False)}


async def test_what_earlier_attempts_took_is_not_known_and_the_sum_of_their_run_is_kept(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    _of_revision(path, "20261120_0003")
    _query(path, """UPDATE runs SET usage = '{"requests": 2}', attempts = 1 WHERE id = 'e'""")
    _query(
        path,
        "INSERT INTO attempts (run_id, number, fence, status, started_at)"
        " VALUES ('e', 1, 1, 'succeeded', '2026-11-20 08:00:00.000000')",
    )

    async with Ledger(_address(path)) as ledger, ledger.read() as session:
        row = await session.get(RunRow, "e")
        attempt = await session.get(AttemptRow, ("e", 1))

    assert row is not None
    assert attempt is not None
    assert (row.usage, attempt.status, attempt.usage) == ({"requests": 2}, "succeeded", None)


@pytest.mark.parametrize("after", ["facts", "runs", "attempts", "messages"])
async def test_killed_in_the_middle_it_is_as_before_and_the_next_start_succeeds(
    tmp_path: Path, after: str
) -> None:
    path = tmp_path / "ledger.db"
    child = SPAWN.Process(target=_killed, args=(str(path), after))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert _query(path, "SELECT name FROM sqlite_master") == []

    assert await _id(path)
    assert _query(path, f"SELECT version_num FROM {schema.VERSION_TABLE}") == [(schema.head(),)]


async def test_a_ledger_of_the_first_schema_is_brought_up_to_date_with_what_it_holds(
    tmp_path: Path,
) -> None:
    path = tmp_path / "ledger.db"
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "20261120_0001")
    engine.dispose()
    _query(path, "INSERT INTO facts (key, value) VALUES ('id', 'kept')")
    now = "'2026-11-20 08:00:00.000000'"
    _query(
        path,
        "INSERT INTO runs (id, occurrence, kind, trigger, due, status, reason, fence, holder,"
        " flow_starts, prefect_runs, parameters, attempts, queued_at, session_id, evidence)"
        f" VALUES ('r', 'flow:f', 'agent-prompt', 'direct', {now}, 'waiting', 'asked for', 0, '',"
        f" 0, 0, '{{}}', 0, {now}, NULL, '[]')",
    )

    async with Ledger(_address(path)) as ledger:
        assert ledger.id == "kept"
        async with ledger.read() as session:
            row = await session.get(RunRow, "r")

    assert row is not None
    assert (row.status, row.suspected_at, row.session_id) == ("waiting", None, None)
    assert _query(path, "SELECT count(*) FROM messages") == [(0,)]
    assert _query(path, f"SELECT version_num FROM {schema.VERSION_TABLE}") == [(schema.head(),)]


def test_alembics_own_commands_need_our_connection() -> None:
    # There is one way to migrate, and it holds the lock.
    with pytest.raises(KeyError):
        command.upgrade(_config(), "head")
