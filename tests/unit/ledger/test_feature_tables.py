"""Tables of features: made and migrated with the ledger, or their feature is left out."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from importlib import import_module
from itertools import count
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from sqlalchemy import event
from sqlmodel import SQLModel

from daybook import feature
from daybook.errors import InvalidInput, LedgerNewer, LedgerOlder, LedgerUnreachable
from daybook.feature import Feature
from daybook.home import Home
from daybook.ledger import feature_tables, transfer
from daybook.ledger.engine import Ledger
from daybook.ledger.feature_tables import all_tables
from daybook.ledger.sqlite import Sqlite
from daybook.operations import home_lock
from tests.databases import Database, id_of

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

_NUMBERS = count(1)

_FIRST = """
    import sqlalchemy as sa
    from alembic import op

    revision = "1"
    down_revision = None


    def upgrade():
        op.create_table("{table}", sa.Column("id", sa.String(), primary_key=True))
    """
_SECOND = """
    import sqlalchemy as sa
    from alembic import op

    revision = "2"
    down_revision = "1"


    def upgrade():
        op.add_column(
            "{table}", sa.Column("by", sa.String(), nullable=False, server_default="unknown")
        )
        {failure}
    """
_TABLES = """
    from sqlmodel import Field

    from daybook.ledger.table_parts import Table


    class Line{name}(Table, table=True):
        __tablename__ = "{table}"

        id: str = Field(primary_key=True)
    """


class Notes:
    """A feature of another distribution, with one table and its first migration."""

    def __init__(self, folder: Path) -> None:
        self.name = f"notes{next(_NUMBERS)}"
        self.table = f"{self.name}_lines"
        self.folder = folder / self.name
        (self.folder / "migrations" / "versions").mkdir(parents=True)
        (self.folder / "__init__.py").touch()
        (self.folder / "tables.py").write_text(self._text(_TABLES))
        self.migration("1", _FIRST)
        self.feature = Feature(package=self.name, tables="tables")
        self.failure = f"tables of {self.name}"

    def _text(self, text: str, **values: str) -> str:
        return dedent(text).format(table=self.table, name=self.name, **values)

    def migration(self, version: str, text: str, **values: str) -> None:
        folder = self.folder / "migrations"
        (folder / "versions" / f"{version}_next.py").write_text(self._text(text, **values))
        (folder / "HEAD").write_text(version)

    def is_used(self) -> bool:
        return self.feature in feature.features()

    def tables(self) -> list[str]:
        return [each.name for each in all_tables() if each.name == self.table]


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, daybook_home: Home) -> Iterator[Notes]:
    made = Notes(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    own = feature.features()
    monkeypatch.setattr(feature, "_installed", lambda: (*own, made.feature))
    monkeypatch.setattr(feature, "left_out", set())
    monkeypatch.setattr(feature, "failures", {})
    from daybook.ledger import schema

    monkeypatch.setattr(schema, "_read_head", schema._read_head.__wrapped__)
    yield made
    if (table := SQLModel.metadata.tables.get(made.table)) is not None:
        SQLModel.metadata.remove(table)


def rows_of(database: Database, notes: Notes) -> list[Any]:
    return database.query(f"SELECT * FROM {notes.table}")


async def test_opening_a_ledger_makes_the_tables_of_a_feature(
    database: Database, notes: Notes
) -> None:
    await id_of(database.address)
    assert rows_of(database, notes) == []

    before = database.tables()
    await id_of(database.address)
    assert (database.tables(), feature.failures) == (before, {})


async def test_a_ledger_with_current_tables_is_opened_with_one_query(database: Database) -> None:
    ledger_id = await id_of(database.address)
    statements = list[str]()

    def note(connection: Any, cursor: Any, statement: str, *given: Any) -> None:
        if "facts" in statement or "PRAGMA" in statement or "pg_catalog" in statement:
            statements.append(statement)

    ledger = Ledger(database.address)
    event.listen(ledger._engine.sync_engine, "before_cursor_execute", note)
    async with ledger:
        assert (ledger.id, len(statements)) == (ledger_id, 1)


async def test_a_ledger_that_cannot_be_reached_is_tried_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second try would double the wait for a server that does not answer."""
    tries = list[str]()

    def refuse(database: Sqlite) -> None:
        tries.append(database.place)
        raise LedgerUnreachable(database.place, "it does not answer")

    monkeypatch.setattr(Sqlite, "_refuse_missing", refuse)
    with pytest.raises(LedgerUnreachable, match="does not answer"):
        await id_of(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}")
    assert len(tries) == 1


async def test_a_copy_of_the_ledger_has_the_rows_of_features(
    database: Database, notes: Notes, tmp_path: Path
) -> None:
    await id_of(database.address)
    database.query(f"INSERT INTO {notes.table} VALUES ('milk')")

    copy = tmp_path / "copy.db"
    async with Ledger(database.address) as ledger:
        await transfer.snapshot(ledger, copy)

    async with Ledger(transfer.sqlite_address(copy)) as ledger, ledger.read() as session:
        (table,) = [each for each in all_tables() if each.name == notes.table]
        assert list(map(tuple, await session.execute(table.select()))) == [("milk",)]


async def test_a_next_version_migrates_the_tables_and_copies_the_ledger_first(
    database: Database, notes: Notes, daybook_home: Home
) -> None:
    ledger_id = await id_of(database.address)
    database.query(f"INSERT INTO {notes.table} VALUES ('milk')")
    notes.migration("2", _SECOND, failure="")

    assert await id_of(database.address) == ledger_id

    assert rows_of(database, notes) == [("milk", "unknown")]
    (copy,) = (daybook_home.path / "backups").iterdir()
    notes.migration("1", _FIRST)
    (notes.folder / "migrations" / "versions" / "2_next.py").unlink()
    async with Ledger(transfer.sqlite_address(copy)) as ledger, ledger.read() as session:
        (table,) = [each for each in all_tables() if each.name == notes.table]
        assert list(map(tuple, await session.execute(table.select()))) == [("milk",)]


async def test_newer_tables_leave_out_the_feature_and_the_ledger_works(
    database: Database, notes: Notes
) -> None:
    notes.migration("2", _SECOND, failure="")
    ledger_id = await id_of(database.address)
    (notes.folder / "migrations" / "versions" / "2_next.py").unlink()
    notes.migration("1", _FIRST)

    assert await id_of(database.address) == ledger_id

    assert "version 2, newer than 1" in feature.failures[notes.failure]
    assert (notes.is_used(), notes.tables()) == (False, [])


@pytest.mark.parametrize("failure", ["1 / 0", "op.execute('SELECT nothing FROM nowhere')"])
@pytest.mark.parametrize("is_new", [True, False])
async def test_a_migration_that_fails_changes_nothing_and_leaves_out_the_feature(
    database: Database, notes: Notes, is_new: bool, failure: str
) -> None:
    if not is_new:
        await id_of(database.address)
        before = database.tables()
    notes.migration("2", _SECOND, failure=failure)

    ledger_id = await id_of(database.address)

    assert notes.failure in feature.failures
    assert (notes.is_used(), notes.tables()) == (False, [])
    if is_new:
        assert [each for each in database.tables() if notes.name in str(each)] == []
    else:
        assert database.tables() == before
    feature.left_out.clear()
    notes.migration("2", _SECOND, failure="")
    assert await id_of(database.address) == ledger_id
    assert notes.is_used()


async def test_a_lost_table_leaves_out_the_feature(database: Database, notes: Notes) -> None:
    await id_of(database.address)
    database.query(f"DROP TABLE {notes.table}")

    await id_of(database.address)

    assert feature.failures[notes.failure] == f"LookupError: the ledger lacks {notes.table}"
    assert not notes.is_used()


async def test_tables_that_up_uses_are_made_but_not_migrated(
    database: Database, notes: Notes, daybook_home: Home
) -> None:
    with home_lock.hold(daybook_home) as record:
        async with Ledger(database.address) as ledger:
            record.set_ledger(ledger.identity())
            assert rows_of(database, notes) == []
            notes.migration("2", _SECOND, failure="")

            await id_of(database.address)

            assert "restart it" in feature.failures[notes.failure]
            assert (notes.is_used(), rows_of(database, notes)) == (False, [])


async def test_tables_of_daybook_that_an_older_up_uses_are_left_to_it(
    database: Database, notes: Notes, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Feature, "is_own", True)
    with home_lock.hold(daybook_home) as record:
        async with Ledger(database.address) as ledger:
            record.set_ledger(ledger.identity())
            notes.migration("2", _SECOND, failure="")
            with pytest.raises(LedgerOlder, match="an older `daybook up`"):
                await id_of(database.address)


async def test_old_tables_of_daybook_are_left_to_the_workers_by_a_run_in_another_pool(
    database: Database, notes: Notes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Feature, "is_own", True)
    await id_of(database.address)
    notes.migration("2", _SECOND, failure="")
    with pytest.raises(LedgerOlder, match="an older version of Daybook") as refused:
        async with Ledger(database.address, migrates=False):
            pass
    assert not refused.value.is_in_use


async def test_newer_tables_of_daybook_are_in_use_but_cannot_be_copied(
    database: Database, notes: Notes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Feature, "is_own", True)
    notes.migration("2", _SECOND, failure="")
    await id_of(database.address)
    (notes.folder / "migrations" / "versions" / "2_next.py").unlink()
    notes.migration("1", _FIRST)

    async with (
        Ledger(database.address) as ledger,
        ledger.read() as source,
        Ledger(transfer.sqlite_address(tmp_path / "copy.db")) as copy,
    ):
        connection = await source.connection()
        await connection.run_sync(feature_tables.leave_out_old, ValueError("locked"))
        why = f"schema {notes.name} 2, but this program only knows {notes.name} 1; a backup"
        with pytest.raises(LedgerNewer, match=why):
            async with copy.write() as target:
                await transfer.copy_rows(source, target)


async def test_the_name_of_a_table_begins_with_the_name_of_its_feature(
    database: Database, notes: Notes
) -> None:
    (notes.folder / "tables.py").write_text(
        (notes.folder / "tables.py").read_text().replace(notes.table, "jobs_of_notes")
    )
    import_module(f"{notes.name}.tables")
    try:
        await id_of(database.address)
    finally:
        SQLModel.metadata.remove(SQLModel.metadata.tables["jobs_of_notes"])

    assert "jobs_of_notes: the name of a table begins with" in feature.failures[notes.failure]
    assert not notes.is_used()


async def test_only_a_migration_that_works_makes_a_copy_which_has_the_last_rows(
    database: Database, notes: Notes, daybook_home: Home
) -> None:
    ledger_id = await id_of(database.address)
    notes.migration("2", _SECOND, failure="1 / 0")
    for _ in range(2):
        feature.left_out.clear()
        assert await id_of(database.address) == ledger_id
        assert not (daybook_home.path / "backups").exists()
    database.query(f"INSERT INTO {notes.table} VALUES ('milk')")
    notes.migration("2", _SECOND, failure="")

    feature.left_out.clear()
    assert await id_of(database.address) == ledger_id

    (copy,) = (daybook_home.path / "backups").iterdir()
    with closing(sqlite3.connect(copy)) as opened:
        assert opened.execute(f"SELECT * FROM {notes.table}").fetchall() == [("milk",)]
    assert rows_of(database, notes) == [("milk", "unknown")]


async def test_a_locked_ledger_opens_without_the_feature_whose_tables_are_old(
    database: Database, notes: Notes
) -> None:
    ledger_id = await id_of(database.address)
    async with Ledger(database.address) as other, other.write():
        notes.migration("2", _SECOND, failure="")
        async with Ledger(database.address, busy=timedelta(milliseconds=50)) as ledger:
            assert ledger.id == ledger_id
    assert "LedgerUnreachable" in feature.failures[notes.failure]
    assert not notes.is_used()


async def test_rows_of_a_feature_that_is_left_out_are_not_lost_by_a_copy(
    database: Database, notes: Notes, tmp_path: Path
) -> None:
    await id_of(database.address)
    feature.left_out.add(notes.name)

    async with (
        Ledger(database.address) as ledger,
        ledger.read() as source,
        Ledger(transfer.sqlite_address(tmp_path / "copy.db")) as copy,
    ):
        with pytest.raises(InvalidInput, match=f"daybook_version_{notes.name}"):
            async with copy.write() as target:
                await transfer.copy_rows(source, target)


async def test_a_table_that_refers_to_nothing_breaks_no_other_table(
    database: Database, notes: Notes
) -> None:
    text = (notes.folder / "tables.py").read_text()
    broken = text.replace("primary_key=True", 'primary_key=True, foreign_key="nothing.id"')
    (notes.folder / "tables.py").write_text(broken)
    notes.migration("1", "1 / 0", failure="")

    await id_of(database.address)

    assert (notes.is_used(), notes.tables()) == (False, [])
