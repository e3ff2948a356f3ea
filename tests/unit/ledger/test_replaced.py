"""A ledger that is deleted or replaced while it is in use (promise 7: no ledger, no effect)."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import text

from daybook.errors import LedgerReplaced
from daybook.home import Home
from daybook.ledger import engine
from daybook.ledger.engine import Ledger
from daybook.ledger.sqlite import Sqlite
from daybook.operations import home_lock
from tests.databases import Database

pytestmark = [pytest.mark.anyio, pytest.mark.dialect]

MARK = "INSERT INTO facts (key, value) VALUES ('mark', 'kept')"


def address(path: Path) -> str:
    return f"sqlite+aiosqlite:///{path}"


@pytest.fixture
def path(daybook_home: Home) -> Path:
    return daybook_home.path / "ledger.db"


@pytest.fixture
async def ledger(path: Path) -> AsyncIterator[Ledger]:
    async with Ledger(address(path)) as opened:
        async with opened.write() as session:
            await session.execute(text(MARK))
        yield opened


async def read(ledger: Ledger) -> str:
    async with ledger.read() as session:
        found = await session.execute(text("SELECT value FROM facts WHERE key = 'mark'"))
        return str(found.scalar_one())


async def write(ledger: Ledger) -> None:
    async with ledger.write() as session:
        await session.execute(text("UPDATE facts SET value = 'lost' WHERE key = 'mark'"))


def deleted(path: Path) -> None:
    for each in path.parent.glob("ledger.db*"):
        each.unlink()


def moved_away(path: Path) -> None:
    path.rename(path.with_name("away.db"))


def restored(path: Path) -> None:
    """Replace the ledger by a backup of itself."""
    backup = path.with_name("backup.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as target:
        source.backup(target)
    backup.replace(path)


def another(path: Path) -> None:
    template = path.with_name("other.db")
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(template)) as target:
        source.backup(target)
        target.execute("UPDATE facts SET value = 'other' WHERE key = 'id'")
        target.commit()
    template.replace(path)


def emptied(path: Path) -> None:
    path.with_name("empty").touch()
    path.with_name("empty").replace(path)


def without_wal(path: Path) -> None:
    path.with_name("ledger.db-wal").unlink()


def without_shm(path: Path) -> None:
    path.with_name("ledger.db-shm").unlink()


FATES = [
    (deleted, "was deleted or moved away"),
    (moved_away, "was deleted or moved away"),
    (restored, "was replaced by another file"),
    (another, "was replaced by another file"),
    (emptied, "was replaced by another file"),
    (without_wal, "lost its file ledger.db-wal or ledger.db-shm"),
    (without_shm, "lost its file ledger.db-wal or ledger.db-shm"),
]


@pytest.mark.parametrize(("happens", "expected"), FATES)
async def test_every_transaction_is_refused_once_the_ledgers_files_are_lost_or_replaced(
    ledger: Ledger, path: Path, happens: Callable[[Path], None], expected: str
) -> None:
    assert await read(ledger) == "kept"
    happens(path)
    there = sorted(each.name for each in path.parent.glob("ledger.db*"))
    for act in (read, write, read):
        with pytest.raises(LedgerReplaced, match=expected) as caught:
            await act(ledger)
        assert "`daybook up`" in str(caught.value)
    assert (
        sorted(each.name for each in path.parent.glob("ledger.db*")) == there
    )  # no file is created


@pytest.mark.parametrize(("happens", "expected"), FATES)
async def test_no_process_opens_or_creates_another_ledger_while_up_runs(
    ledger: Ledger, path: Path, daybook_home: Home, happens: Callable[[Path], None], expected: str
) -> None:
    with home_lock.hold(daybook_home) as written:
        written.set_ledger(ledger.identity())
        async with Ledger(address(path)) as beside:
            assert beside.id == ledger.id
        happens(path)
        there = sorted(each.name for each in path.parent.glob("ledger.db*"))
        if happens is not without_shm:  # SQLite creates it again for the next connection
            with pytest.raises(LedgerReplaced, match=expected):
                async with Ledger(address(path)):
                    pytest.fail("it was opened")
        assert sorted(each.name for each in path.parent.glob("ledger.db*")) == there


async def test_a_ledger_file_that_is_moved_back_is_used_again(ledger: Ledger, path: Path) -> None:
    moved = path.parent / "away"
    moved.mkdir()
    for each in path.parent.glob("ledger.db*"):
        each.rename(moved / each.name)
    with pytest.raises(LedgerReplaced):
        await read(ledger)
    for each in moved.iterdir():
        each.rename(path.parent / each.name)
    assert await read(ledger) == "kept"
    await write(ledger)
    assert await read(ledger) == "lost"


async def test_a_connection_that_was_opened_while_the_file_was_away_is_not_used(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would refuse each transaction, although the file is back."""
    own = Sqlite._inodes
    seen = list[int]()

    def inodes(database: Sqlite) -> tuple[int, ...]:
        seen.append(len(seen))
        return (0, 0, 0) if len(seen) == 1 else own(database)

    async with ledger.read() as session:
        await session.execute(text("SELECT 1"))
        monkeypatch.setattr(Sqlite, "_inodes", inodes)  # of the second connection, at first
        assert await read(ledger) == "kept"
    assert len(seen) > 1


async def test_a_replaced_file_is_used_by_the_next_process_once_up_has_ended(
    path: Path, daybook_home: Home
) -> None:
    with home_lock.hold(daybook_home) as written:
        async with Ledger(address(path)) as ledger:
            written.set_ledger(ledger.identity())
            another(path)
            with pytest.raises(LedgerReplaced):
                await read(ledger)
        # No -wal file of the old ledger is left, which SQLite would read into the new one.
        assert not path.with_name("ledger.db-wal").exists()
    async with Ledger(address(path)) as next_one:
        assert next_one.id == "other"


async def test_a_file_moved_away_while_its_ledger_closes_keeps_its_last_changes(
    path: Path, daybook_home: Home
) -> None:
    async with Ledger(address(path)) as ledger:
        async with ledger.write() as session:
            await session.execute(text(MARK))
        moved_away(path)
    async with Ledger(address(path)) as empty:
        assert empty.id != ledger.id
        path.with_name("away.db").replace(path)
    async with Ledger(address(path)) as ledger:
        assert await read(ledger) == "kept"


async def test_a_copy_does_not_get_the_last_changes_of_the_file_that_it_replaces(
    path: Path, daybook_home: Home
) -> None:
    async with Ledger(address(path)) as ledger:
        shutil.copyfile(path, path.with_name("copy.db"))  # its rows are still in the -wal file
        async with ledger.write() as session:
            await session.execute(text(MARK))
        os.unlink(path)
    path.with_name("copy.db").replace(path)
    with closing(sqlite3.connect(path)) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert copy.execute("SELECT count(*) FROM sqlite_master").fetchall() == [(0,)]


async def test_a_backup_with_the_inode_of_the_old_file_does_not_get_its_last_changes(
    path: Path, daybook_home: Home
) -> None:
    """A file system reuses a free inode for the next file, and `cp -p` keeps a backup's times."""
    backup = path.with_name("backup.db")
    async with Ledger(address(path)):
        pass
    shutil.copy2(path, backup)
    async with Ledger(address(path)) as ledger:
        async with ledger.write() as session:
            await session.execute(text(MARK))
        with closing(sqlite3.connect(path)) as beside:
            beside.execute("PRAGMA wal_checkpoint")
        await write(ledger)
        inode = os.stat(path).st_ino
        os.unlink(path)
    shutil.copy2(backup, path)
    (aside,) = path.parent.glob("ledger.db-wal.of-*")
    aside.rename(str(aside).replace(f"of-{inode}-", f"of-{os.stat(path).st_ino}-"))
    async with Ledger(address(path)) as ledger, ledger.read() as session:
        assert (await session.execute(text("SELECT 1 FROM facts WHERE key = 'mark'"))).all() == []
    with closing(sqlite3.connect(path)) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_commit_into_a_file_that_was_deleted_meanwhile_raises_an_error(
    ledger: Ledger, path: Path
) -> None:
    with pytest.raises(LedgerReplaced):
        async with ledger.write() as session:
            await session.execute(text("UPDATE facts SET value = 'lost' WHERE key = 'mark'"))
            deleted(path)


async def test_the_contents_of_a_deleted_wal_are_saved_when_the_ledger_is_closed(
    daybook_home: Home, path: Path
) -> None:
    async with Ledger(address(path)) as ledger:
        async with ledger.write() as session:
            await session.execute(text(MARK))
        without_wal(path)
        with pytest.raises(LedgerReplaced, match="`daybook down`, which saves its contents"):
            await read(ledger)
    async with Ledger(address(path)) as ledger:
        assert await read(ledger) == "kept"


async def test_a_ledger_is_created_while_up_starts_and_has_opened_none(
    daybook_home: Home, path: Path
) -> None:
    with home_lock.hold(daybook_home):  # `up` starts, and has not opened a ledger yet
        async with Ledger(address(path)) as ledger:
            assert ledger.id
    async with Ledger(address(path.with_name("second.db"))) as second:
        assert second.id != ledger.id


async def test_a_ledger_at_another_path_can_be_created_while_up_runs(
    ledger: Ledger, path: Path, daybook_home: Home
) -> None:
    with home_lock.hold(daybook_home) as written:
        written.set_ledger(ledger.identity())
        async with Ledger(address(path.with_name("second.db"))) as second:
            assert second.id != ledger.id


async def test_a_deleted_ledger_is_detected_through_a_symbolic_link(
    ledger: Ledger, path: Path, daybook_home: Home, tmp_path: Path
) -> None:
    link = tmp_path / "link"
    link.symlink_to(daybook_home.path)
    with home_lock.hold(daybook_home) as written:
        written.set_ledger(ledger.identity())
        deleted(path)
        with pytest.raises(LedgerReplaced):
            async with Ledger(address(link / "ledger.db")):
                pytest.fail("it was made anew")


async def test_a_changed_id_of_the_ledger_is_detected(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Ledger(database.address) as ledger:
        database.query("UPDATE facts SET value = 'other' WHERE key = 'id'")
        monkeypatch.setattr(engine, "VERIFY_INTERVAL_SECONDS", 0.0)
        with pytest.raises(LedgerReplaced, match=f"it was {ledger.id}, and is other"):
            async with ledger.write():
                pytest.fail("it was written")
        database.query(f"UPDATE facts SET value = '{ledger.id}' WHERE key = 'id'")
        async with ledger.write():
            pass


async def test_a_ledger_that_lost_its_tables_is_detected(
    database: Database, daybook_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "VERIFY_INTERVAL_SECONDS", 0.0)
    async with Ledger(database.address) as ledger:
        with home_lock.hold(daybook_home) as written:
            written.set_ledger(ledger.identity())
            database.query("DROP TABLE daybook_version")
            with pytest.raises(LedgerReplaced, match="was emptied while it was in use"):
                async with ledger.read():
                    pytest.fail("it was read")
            with pytest.raises(LedgerReplaced, match="was emptied while it was in use"):
                async with Ledger(database.address):
                    pytest.fail("it was made anew")


async def test_a_ledger_file_that_is_overwritten_in_place_is_detected(
    daybook_home: Home, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "VERIFY_INTERVAL_SECONDS", 0.0)
    async with Ledger(address(tmp_path / "other.db")):
        pass
    async with Ledger(address(path)) as ledger:
        inode = os.stat(path).st_ino
        with closing(sqlite3.connect(path)) as other:
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        shutil.copyfile(tmp_path / "other.db", path)  # the inode stays
        assert os.stat(path).st_ino == inode
        with pytest.raises(LedgerReplaced):
            async with ledger.read():
                pytest.fail("it was read")
