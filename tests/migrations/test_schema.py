"""The schema migrates itself: once, completely, and never past the program's own version."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import shutil
import signal
import stat
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
from sqlalchemy import Connection, Engine, Table, create_engine, event, select, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlmodel import SQLModel

from daybook.errors import LedgerNewer, LedgerOlder, LedgerUnreachable
from daybook.home import Home
from daybook.ledger import feature_tables, migration_copies, schema, transfer
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import Fact
from daybook.operations import home_lock
from daybook.testing import ManualClock
from tests import databases
from tests.costs import one_in
from tests.databases import Database, id_of, server_of, version_of
from tests.side_by_side import CONTEXT
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

SPAWN = multiprocessing.get_context("spawn")

Call = Callable[[Connection], Any]


async def _on(database: Database, call: Call) -> Any:
    """Return the result of ``call`` with a connection to the database, and commit."""
    engine = create_async_engine(database.address)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(call)
    finally:
        await engine.dispose()


def _differences(connection: Connection) -> list[Any]:
    """Return the differences between the tables and the models.

    The tables with the versions of features' tables have no model.
    """
    options = {
        "include_name": lambda name, kind, _: (
            kind != "table" or not name.startswith(f"{schema.VERSION_TABLE}_")
        ),
        "compare_type": True,
        "compare_server_default": True,
        "version_table": schema.VERSION_TABLE,
    }
    context = MigrationContext.configure(connection, opts=options)
    return list(compare_metadata(context, SQLModel.metadata))


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(schema.MIGRATIONS))
    return config


async def test_migrating_an_empty_database_creates_the_schema_of_the_models(
    database: Database,
) -> None:
    await id_of(database.address)

    assert await _on(database, _differences) == []


@pytest.mark.parametrize("change", ["ADD COLUMN extra INTEGER", "DROP COLUMN suspected_at"])
async def test_the_comparison_detects_a_difference_from_the_models(
    database: Database, change: str
) -> None:
    await id_of(database.address)
    database.query(f"ALTER TABLE runs {change}")

    assert len(await _on(database, _differences)) == 1


async def test_migrated_defaults_and_index_conditions_equal_those_of_the_models(
    database: Database, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # Alembic compares only the name and the columns of an index.
    await id_of(database.address)
    migrated = _said(database)
    again = databases.of_kind(database.kind, tmp_path / "models.db", server_of(request))
    await _on(again, SQLModel.metadata.create_all)

    assert _said(again) == migrated
    assert sum(" WHERE " in each for each in migrated) == 14


def _said(database: Database) -> list[str]:
    """Return the indexes, and on PostgreSQL the columns; SQLite keeps columns in creation order."""
    definitions = [" ".join(map(str, row)) for row in database.tables() if row[-1] is not None]
    if database.kind == "sqlite":
        definitions = [each for each in definitions if "INDEX" in each]
    return sorted(
        " ".join(each.split()) for each in definitions if schema.VERSION_TABLE not in each
    )


def test_the_head_file_names_the_newest_migration() -> None:
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


async def test_a_ledger_of_a_newer_version_is_refused_and_not_changed(database: Database) -> None:
    await id_of(database.address)
    database.query(f"UPDATE {schema.VERSION_TABLE} SET version_num = '29991231_0001'")
    database.query(f"UPDATE facts SET value = '29991231_0001' WHERE key = '{schema.OLDEST_FACT}'")
    before = database.tables()

    with pytest.raises(LedgerNewer, match="29991231_0001") as refused:
        await id_of(database.address)

    assert refused.value.exit_code == 2
    assert schema.head() in str(refused.value)
    assert database.tables() == before
    assert version_of(database) == [("29991231_0001",)]


def _open(address: str, pipe: Pipe) -> None:
    pipe.send("here")
    pipe.recv()
    pipe.send(asyncio.run(id_of(address)))


@pytest.mark.slow
async def test_two_processes_that_start_at_once_create_one_ledger(database: Database) -> None:
    pipes = [SPAWN.Pipe() for _ in range(2)]
    children = [SPAWN.Process(target=_open, args=(database.address, theirs)) for _, theirs in pipes]
    for child in children:
        child.start()
    for connection, _ in pipes:
        assert connection.recv() == "here"
    for connection, _ in pipes:
        connection.send("go")
    ids = {connection.recv() for connection, _ in pipes}
    for child in children:
        child.join(30)

    assert [child.exitcode for child in children] == [0, 0]
    assert ids == {await id_of(database.address)}
    assert database.query("SELECT count(*) FROM facts WHERE key = 'id'") == [(1,)]


def _killed(address: str, after: str) -> None:
    """Migrate, and die by SIGKILL as soon as the table ``after`` is created."""

    def die(table: Table, connection: Connection, **options: object) -> None:
        if table.name == after:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Table, "after_create", die)
    schema.upgrade = databases.migrate  # else a new SQLite ledger is a copy
    asyncio.run(id_of(address))


@pytest.mark.parametrize("after", one_in(4, ["runs", "facts", "attempts", "messages"]))
async def test_a_killed_migration_is_rolled_back_and_the_next_start_succeeds(
    database: Database, after: str
) -> None:
    child = CONTEXT.Process(target=_killed, args=(database.address, after))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert database.tables() == []

    assert await id_of(database.address)
    assert version_of(database) == [(schema.head(),)]


NEXT = "29990101_0002"
NEXT_SCHEMA = f'''
import sqlalchemy as sa
from alembic import op

revision = "{NEXT}"
down_revision = "{schema.head()}"


def upgrade():
    op.create_table("notes", sa.Column("id", sa.String(), primary_key=True))
    op.add_column("runs", sa.Column("note", sa.String(), nullable=False, server_default="none"))
    op.execute("UPDATE runs SET note = status")
    op.drop_index("jobs_name", "jobs")
    op.create_index("jobs_name", "jobs", ["owner"])
'''


@pytest.fixture
def next_schema(tmp_path: Path) -> Path:
    """Return the migrations folder of a later program version, which has one more migration."""
    folder = tmp_path / "migrations"
    shutil.copytree(schema.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / f"{NEXT}_next.py").write_text(NEXT_SCHEMA)
    (folder / "HEAD").write_text(f"{NEXT}\n")
    return folder


@pytest.fixture
async def stored_rows(database: Database) -> dict[str, str]:
    """Create a ledger of this schema with jobs and runs; return the states of the runs by id."""
    clock = ManualClock()
    async with Ledger(database.address, clock) as ledger:
        world = World(ledger, clock)
        job = await world.jobs.add("brief")
        await world.runs.finished(job, Status.SUCCEEDED, output="All is well.")
        await world.runs.running(job)
        await world.runs.request(await world.jobs.add("other", on_demand=True))
        return {row.id: row.status for row in await world.runs.rows()}


async def test_a_start_with_a_later_schema_migrates_the_ledger_and_keeps_its_data(
    database: Database,
    stored_rows: dict[str, str],
    next_schema: Path,
    daybook_home: Home,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, rows_before = await id_of(database.address), await _rows(database.address)
    monkeypatch.setattr(schema, "MIGRATIONS", next_schema)

    assert await id_of(database.address) == before
    assert version_of(database) == [(NEXT,)]
    assert sorted(stored_rows.values()) == ["running", "succeeded", "waiting"]
    assert dict(database.query("SELECT id, note FROM runs")) == stored_rows
    assert database.query("SELECT count(*) FROM notes") == [(0,)]
    # The old program does not touch a schema that it does not know.
    monkeypatch.undo()
    with pytest.raises(LedgerNewer, match=NEXT):
        await id_of(database.address)
    # It can use the copy from before the migration, which only its owner can read.
    copy = _copy(daybook_home, before)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
    assert list(copy.parent.iterdir()) == [copy]
    assert await _rows(transfer.sqlite_address(copy)) == rows_before


async def test_an_older_program_goes_on_with_a_schema_that_declares_it_compatible(
    database: Database,
    stored_rows: dict[str, str],
    next_schema: Path,
    daybook_home: Home,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (next_schema / "HEAD").write_text(f"{NEXT} {schema.head()}\n")
    clock = ManualClock()
    async with Ledger(database.address, clock) as old:
        monkeypatch.setattr(schema, "MIGRATIONS", next_schema)
        await id_of(database.address)
        monkeypatch.undo()
        await World(old, clock).runs.request(await World(old, clock).jobs.get("brief"))
    async with Ledger(database.address, clock) as opened:
        world = World(opened, clock)
        await world.runs.request(await world.jobs.get("brief"))
        assert len(await world.runs.rows()) == len(stored_rows) + 2
        assert await opened.newer_schema() == NEXT
        copy = Ledger(transfer.sqlite_address(daybook_home.path / "copy.db"))
        async with opened.read() as source, copy, copy.write() as target:
            with pytest.raises(
                LedgerNewer, match=f"{NEXT}.*a backup"
            ):  # it would lose the new columns
                await transfer.copy_rows(source, target)
    assert version_of(database) == [(NEXT,)]
    # It needs no copy from before the migration.
    assert not (daybook_home.path / "backups").exists()


async def test_a_program_that_has_the_ledger_open_is_refused_after_an_incompatible_migration(
    database: Database, next_schema: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daybook.ledger.engine.VERIFY_INTERVAL_SECONDS", 0.0)
    async with Ledger(database.address) as old:
        with monkeypatch.context() as patched:
            patched.setattr(schema, "MIGRATIONS", next_schema)
            await id_of(database.address)
        monkeypatch.setattr("daybook.ledger.engine.VERIFY_INTERVAL_SECONDS", 3600.0)
        with pytest.raises(LedgerNewer, match=NEXT):  # at once, and so no run is claimed
            async with old.write() as session:
                await session.merge(Fact(key="late", value="yes"))
        assert NEXT in await old.why_unwritable()
        monkeypatch.setattr("daybook.ledger.engine.VERIFY_INTERVAL_SECONDS", 0.0)
        with pytest.raises(LedgerNewer, match=NEXT):
            await old.until_newer()
    assert database.query("SELECT value FROM facts WHERE key = 'late'") == []


async def test_an_error_that_is_not_translated_does_not_end_the_wait_for_a_newer_program(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daybook.ledger.engine.VERIFY_INTERVAL_SECONDS", 0.0)
    looks = list[bool]()

    async def newer_error(session: AsyncSession) -> LedgerNewer:
        looks.append(True)
        if len(looks) == 1:
            await session.execute(text("SELECT value FROM dropped"))
        return LedgerNewer(NEXT, schema.head())

    async with Ledger(database.address) as ledger:
        # A read verifies the schema, too; here only the wait does.
        monkeypatch.setattr("daybook.ledger.engine.VERIFY_INTERVAL_SECONDS", 0.01)
        monkeypatch.setattr(ledger, "_verified_at", float("inf"))
        monkeypatch.setattr(schema, "newer_error", newer_error)
        with pytest.raises(LedgerNewer, match=NEXT):
            await ledger.until_newer()
    assert len(looks) == 2


def _copy(home: Home, ledger_id: str) -> Path:
    """Return the file of the copy that a migration from this schema to the next one makes."""
    return home.path / "backups" / f"{ledger_id}-{schema.head()}.db"


async def _rows(address: str) -> dict[str, list[tuple[Any, ...]]]:
    """Return all rows of a ledger of this schema, by table."""
    async with Ledger(address) as ledger, ledger.read() as session:
        return {
            table.name: sorted(map(tuple, await session.execute(select(table))), key=repr)
            for table in feature_tables.all_tables()
        }


def test_a_process_keeps_its_schema_if_another_version_is_installed(
    next_schema: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MIGRATIONS", next_schema)
    assert schema.head() == NEXT
    (next_schema / "HEAD").write_text("29991231_0003\n")

    assert schema.head() == NEXT


async def test_without_a_copy_the_ledger_is_not_migrated(
    database: Database, daybook_home: Home, next_schema: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await id_of(database.address)
    before, old = database.tables(), schema.head()
    (daybook_home.path / "backups").touch()
    monkeypatch.setattr(schema, "MIGRATIONS", next_schema)

    with pytest.raises(LedgerUnreachable, match="copy before the migration cannot be written"):
        await id_of(database.address)

    assert (database.tables(), version_of(database)) == (before, [(old,)])


async def test_a_copy_that_does_not_fit_on_the_disk_leaves_nothing_there(
    database: Database, daybook_home: Home, next_schema: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On PostgreSQL, the rows are inserted, and the error must not repeat them."""
    await id_of(database.address)
    monkeypatch.setattr(schema, "MIGRATIONS", next_schema)

    def create_small(*arguments: Any, **options: Any) -> Engine:
        engine = create_engine(*arguments, **options)
        limit = "PRAGMA max_page_count = 2"
        event.listen(engine, "connect", lambda connection, _: connection.execute(limit))
        return engine

    def fail(file: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(migration_copies, "create_engine", create_small)
    monkeypatch.setattr(migration_copies, "_sync", fail)
    with pytest.raises(LedgerUnreachable, match="copy before the migration") as refused:
        await id_of(database.address)

    assert "parameters" not in str(refused.value)
    assert list((daybook_home.path / "backups").iterdir()) == []


async def test_only_up_itself_migrates_the_ledger_that_it_uses(
    database: Database, daybook_home: Home, next_schema: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with home_lock.hold(daybook_home) as record:
        async with Ledger(database.address) as ledger:
            record.set_ledger(ledger.identity())
            before = database.tables()
            monkeypatch.setattr(schema, "MIGRATIONS", next_schema)
            with pytest.raises(LedgerOlder, match="restarts within minutes") as refused:
                await id_of(database.address)
            assert refused.value.exit_code == 4
            assert database.tables() == before
    with home_lock.hold(daybook_home):  # the next `up`
        await id_of(database.address)
    assert version_of(database) == [(NEXT,)]


async def test_a_run_in_another_work_pool_migrates_no_ledger(
    database: Database, next_schema: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Ledger(database.address, migrates=False):  # a new ledger is made
        before = database.tables()
    monkeypatch.setattr(schema, "MIGRATIONS", next_schema)
    with pytest.raises(LedgerOlder, match="belongs to an older version of Daybook") as refused:
        async with Ledger(database.address, migrates=False):
            pass
    assert not refused.value.is_in_use
    assert database.tables() == before
    assert version_of(database) != [(NEXT,)]
    await id_of(database.address)
    assert version_of(database) == [(NEXT,)]


async def test_the_newest_copies_of_a_ledger_stay(
    tmp_path: Path, daybook_home: Home, next_schema: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = transfer.sqlite_address(tmp_path / "ledger.db")
    ledger_id, folder = await id_of(address), daybook_home.path / "backups"
    folder.mkdir()
    names = [f"{ledger_id}-20260101_000{number}.db" for number in (1, 2, 3)]
    for name in [*names, "another.db"]:
        (folder / name).touch()
    new = _copy(daybook_home, ledger_id).name
    monkeypatch.setattr(schema, "MIGRATIONS", next_schema)

    await id_of(address)

    assert {each.name for each in folder.iterdir()} == {*names[1:], new, "another.db"}


def _killed_at_the_index(address: str, folder: Path) -> None:
    """Migrate, and die by SIGKILL after the tables are changed and before the index is."""
    schema.MIGRATIONS = folder
    op.create_index = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    asyncio.run(id_of(address))


@pytest.mark.usefixtures("stored_rows")
async def test_a_killed_upgrade_is_rolled_back_and_the_next_start_succeeds(
    database: Database, next_schema: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = database.tables()
    child = CONTEXT.Process(target=_killed_at_the_index, args=(database.address, next_schema))
    child.start()
    child.join(30)
    assert child.exitcode == -signal.SIGKILL
    assert database.tables() == before

    monkeypatch.setattr(schema, "MIGRATIONS", next_schema)
    await id_of(database.address)
    assert version_of(database) == [(NEXT,)]


class _Steps:
    """Counts the steps of this process, and kills it at the step ``last``."""

    def __init__(self, last: int) -> None:
        self.count, self._last = 0, last

    def __call__(self, *_: object) -> None:
        if self.count == self._last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1

    def around(self, owner: object, name: str) -> None:
        """Make the beginning and the end of a function steps."""
        function = getattr(owner, name)

        def call(*given: Any, **options: Any) -> Any:
            self()
            result = function(*given, **options)
            self()
            return result

        setattr(owner, name, call)


def _killed_at(address: str, folder: Path, home: str, last: int, pipe: Pipe) -> None:
    """Migrate, and die by SIGKILL at a step; if the last one is passed, send their number."""
    os.environ["DAYBOOK_HOME"] = home
    schema.MIGRATIONS, schema.upgrade = folder, databases.migrate
    step = _Steps(last)
    event.listen(Engine, "before_cursor_execute", step)
    event.listen(Engine, "commit", step)
    for owner, name in [
        *((migration_copies, name) for name in ("vacuum_into", "_sync", "sync_folder")),
        (Path, "replace"),
        (Path, "unlink"),
    ]:
        step.around(owner, name)
    asyncio.run(id_of(address))
    step()
    pipe.send(step.count)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_an_upgrade_that_is_killed_at_any_step_leaves_the_old_ledger_or_the_new_one(
    tmp_path: Path, next_schema: Path, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = databases.Sqlite(tmp_path / "original.db")
    ledger_id = await id_of(original.address)
    rows, old = await _rows(original.address), schema.head()
    copy = _copy(daybook_home, ledger_id)
    folder = copy.parent
    ends = list[tuple[str, bool]]()
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        database = databases.Sqlite(tmp_path / f"ledger-{len(ends)}.db")
        shutil.copyfile(original.path, database.path)
        ours, theirs = CONTEXT.Pipe()
        given = (database.address, next_schema, str(daybook_home.path), len(ends), theirs)
        child = CONTEXT.Process(target=_killed_at, args=given)
        child.start()
        child.join(60)
        if child.exitcode == 0:
            assert ours.recv() == len(ends)
            break
        assert child.exitcode == -signal.SIGKILL
        ((version,),) = version_of(database)
        ends.append((version, copy.exists()))
        if version == old:
            assert database.tables() == original.tables()
        if copy.exists():
            assert await _rows(transfer.sqlite_address(copy)) == rows
        with monkeypatch.context() as patched:
            patched.setattr(schema, "MIGRATIONS", next_schema)
            assert await id_of(database.address) == ledger_id
        assert version_of(database) == [(NEXT,)]
        assert [each.name for each in folder.glob("*.db")] == [copy.name]
        assert await _rows(transfer.sqlite_address(copy)) == rows
    # The copy comes first, and the migration is one transaction.
    assert ends == sorted(ends, key=[(old, False), (old, True), (NEXT, True)].index)
    assert len(ends) > 20


def test_alembics_own_commands_fail_without_the_ledgers_connection() -> None:
    # There is one way to migrate, and it holds the lock.
    with pytest.raises(KeyError):
        command.upgrade(_config(), "head")


async def test_the_schema_equals_the_snapshot(
    database: Database, snapshot: Callable[[str, str], None]
) -> None:
    await id_of(database.address)
    rows = sorted(" ".join(map(str, row)) for row in database.tables() if row[-1] is not None)
    snapshot(f"ledger-{database.kind}.txt", "\n".join(rows))
