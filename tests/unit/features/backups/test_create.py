"""Backups of a home in use, and the nightly ones."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import signal
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from daybook.errors import DiskFull, InvalidInput, LedgerKeyMissing, LedgerUnreachable
from daybook.features.backups import archive, create
from daybook.home import Home
from daybook.ledger import feature_tables, transfer
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact
from daybook.resources import copies
from tests.unit.features.backups import killed
from tests.world import World

pytestmark = pytest.mark.anyio

WORDS = "correct horse battery"


def _read(file: Path, to: Path) -> Path:
    to.mkdir()
    archive.extract(file, to, [create.MANIFEST, create.LEDGER, *create.FILES], WORDS)
    return to


def _backups(folder: Path, pattern: str = "*.backup*") -> list[Path]:
    return list(folder.glob(pattern))


def _facts(ledger: Path) -> dict[str, str]:
    with closing(sqlite3.connect(ledger)) as file:
        return dict(file.execute("SELECT key, value FROM facts"))


@pytest.mark.dialect
async def test_a_backup_has_the_ledger_the_settings_and_the_keys(
    world: World, home: Home, tmp_path: Path
) -> None:
    (home.path / "config.toml").write_text("max_concurrent = 3\n")
    async with world.ledger.write() as session:
        key = await copies.get_or_create_key(session, home)
        await copies.put(session, ("secret", "ops"), "1", {"v": 1}, key=key, now=world.clock.now())
    await world.jobs.add("brief")

    made = await create.create(world.ledger, tmp_path / "a.backup", WORDS)

    assert made.bytes == (tmp_path / "a.backup").stat().st_size
    folder = _read(Path(made.file), tmp_path / "out")
    names = {each.name for each in folder.iterdir()}
    assert names == {"manifest.json", "ledger.db", "config.toml", "ledger-key"}
    assert (folder / "ledger-key").read_text() == home.ledger_key.read_text()
    manifest = create.Manifest.model_validate_json((folder / "manifest.json").read_text())
    assert (manifest.ledger, manifest.at) == (world.ledger.id, world.clock.now())
    assert _facts(folder / "ledger.db")["id"] == world.ledger.id
    async with (
        Ledger(transfer.sqlite_address(folder / "ledger.db")) as copy,
        copy.read() as session,
        world.ledger.read() as original,
    ):
        for table in feature_tables.all_tables():
            there = (await session.execute(select(table))).mappings().all()
            assert there == (await original.execute(select(table))).mappings().all()
    assert _backups(home.path, ".backup-*") == []


@pytest.mark.dialect
async def test_a_backup_made_during_writes_is_the_state_of_one_moment(
    world: World, tmp_path: Path
) -> None:
    stop, written = asyncio.Event(), asyncio.Event()

    async def write() -> None:
        """Count in two facts at once; no state has two different numbers."""
        number = 0
        while not stop.is_set():
            number += 1
            async with world.ledger.write() as session:
                for key in ("a", "z"):
                    await session.merge(Fact(key=key, value=str(number)))
            written.set()

    writing = asyncio.create_task(write())
    found = []
    for number in range(3):
        written.clear()
        await written.wait()
        made = await create.create(world.ledger, tmp_path / f"{number}.backup", WORDS)
        folder = _read(Path(made.file), tmp_path / f"out{number}")
        facts = _facts(folder / "ledger.db")
        found.append((facts.get("a"), facts.get("z")))
    stop.set()
    await writing
    assert all(a == z for a, z in found)
    assert len(set(found)) == 3


async def test_a_backup_that_nobody_could_restore_is_refused(
    world: World, home: Home, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="passphrase: has fewer than 8 characters"):
        await create.create(world.ledger, tmp_path / "a.backup", "short")
    with pytest.raises(InvalidInput, match="cannot be written: No such file"):
        await create.create(world.ledger, tmp_path / "none" / "a.backup", WORDS)
    async with world.ledger.write() as session:
        await copies.get_or_create_key(session, home)
    home.ledger_key.unlink()
    with pytest.raises(LedgerKeyMissing):
        await create.create(world.ledger, tmp_path / "a.backup", WORDS)
    assert _backups(tmp_path) == []
    assert _backups(home.path, ".backup-*") == []


def _no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def test_a_full_disk_of_the_home_and_one_of_the_file_are_different_errors(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(Path, "write_text", _no_space)
        with pytest.raises(DiskFull, match="home"):
            await create.create(world.ledger, tmp_path / "a.backup", WORDS)
    monkeypatch.setattr(archive, "write", _no_space)
    with pytest.raises(InvalidInput, match=r"a\.backup cannot be written: No space left"):
        await create.create(world.ledger, tmp_path / "a.backup", WORDS)


async def test_a_copy_that_sqlite_cannot_write_is_an_error_of_the_ledger(
    world: World, tmp_path: Path
) -> None:
    (tmp_path / "a.db").write_text("no database, and not empty")
    with pytest.raises(LedgerUnreachable):
        await transfer.snapshot(world.ledger, tmp_path / "a.db")


async def test_an_existing_file_is_not_overwritten(world: World, tmp_path: Path) -> None:
    file = tmp_path / "a.backup"
    file.write_text("mine")
    with pytest.raises(InvalidInput, match="exists"):
        await create.create(world.ledger, file, WORDS)
    assert file.read_text() == "mine"
    await create.create(world.ledger, file, WORDS, replace=True)
    assert file.read_bytes().startswith(archive.MAGIC)


async def test_two_backups_at_the_same_time_do_not_disturb_each_other(
    world: World, tmp_path: Path
) -> None:
    made = [create.create(world.ledger, tmp_path / f"{n}.backup", WORDS) for n in range(2)]
    results = await asyncio.gather(*made, return_exceptions=True)
    refused = [each for each in results if isinstance(each, InvalidInput)]
    assert [each.problem for each in refused] == ["another process is making a backup of this home"]
    assert len(_backups(tmp_path)) == 1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("stride", [pytest.param(1, marks=pytest.mark.slow), 7])
async def test_a_killed_backup_leaves_the_old_file_or_the_new_one(
    world: World, home: Home, tmp_path: Path, stride: int
) -> None:
    await world.jobs.add()
    file = tmp_path / "a.backup"
    await create.create(world.ledger, file, WORDS)
    given, code = (world.ledger.address, world.clock, file, WORDS), None
    for step in range(1, 100, stride):
        code = killed.killed(killed.make_backup, given, {"DAYBOOK_HOME": str(home.path)}, step)
        folder = _read(file, tmp_path / f"out {step}")  # it is complete
        assert "jobs" in _tables(folder / "ledger.db")
        if code == killed.ALL_DONE:
            break
        assert code == -signal.SIGKILL
    assert code == killed.ALL_DONE
    assert _backups(home.path, ".backup-*") == []  # of the killed ones
    assert _backups(tmp_path, f".*{archive.DRAFT_SUFFIX}") == []


def _tables(ledger: Path) -> set[str]:
    with closing(sqlite3.connect(ledger)) as file:
        return {name for (name,) in file.execute("SELECT name FROM sqlite_master")}


# --- nightly


def _nightly(home: Home, folder: Path, more: str = "") -> None:
    (home.path / "config.toml").write_text(
        f'backup_folder = "{folder}"\nbackup_passphrase = "{WORDS}"\n'
        f'timezone = "Europe/Berlin"\n{more}'
    )


def _names(folder: Path) -> list[str]:
    return [each.name.partition("-")[2] for each in sorted(folder.iterdir())]


async def test_a_night_has_one_backup_from_three_o_clock_on(
    world: World, home: Home, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    assert await create.create_nightly(world.ledger) is None
    _nightly(home, folder)
    # 2:59 in Berlin belongs to the night before, as nothing ran then; 3:00 is the next one.
    for minute, hour, created in ((59, 1, True), (59, 1, False), (0, 2, True), (30, 20, False)):
        world.clock.set(datetime(2026, 1, 20, hour, minute, tzinfo=UTC))
        assert (await create.create_nightly(world.ledger) is not None) is created
    assert _names(folder) == ["2026-01-19.backup", "2026-01-20.backup"]


async def test_old_nightly_backups_and_drafts_are_deleted_and_other_files_stay(
    world: World, home: Home, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    _nightly(home, folder, "keep_backups = 2\n")
    of = world.ledger.id
    kept = ["ffff-2026-01-01.backup", "mine.backup", f"{of}-2026-01-01.backup.old"]
    draft = f".{of}-2026-01-02.backup.7.ab.draft"
    for name in (*kept, draft, f"{of}-2026-01-01.backup", f"{of}-2026-01-02.backup"):
        (folder / name).write_text("x")
    assert await create.create_nightly(world.ledger) is not None
    expected = {*kept, f"{of}-2026-01-02.backup", f"{of}-2026-01-15.backup"}
    assert {each.name for each in folder.iterdir()} == expected
    # A cycle that was cut off may have written the backup without deleting old ones.
    (folder / f"{of}-2026-01-03.backup").write_text("x")
    assert await create.create_nightly(world.ledger) is None
    expected = {*kept, f"{of}-2026-01-03.backup", f"{of}-2026-01-15.backup"}
    assert {each.name for each in folder.iterdir()} == expected


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_killed_nightly_backup_leaves_as_many_complete_ones_as_are_kept(
    world: World, home: Home, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    _nightly(home, folder, "keep_backups = 2\n")
    for _ in range(2):
        await create.create_nightly(world.ledger)
        world.passes(hours=24)
    folder.rename(tmp_path / "before")
    (_, newer), code = _names(tmp_path / "before"), None
    for step in range(1, 100):
        shutil.copytree(tmp_path / "before", folder)
        given, variables = (world.ledger.address, world.clock), {"DAYBOOK_HOME": str(home.path)}
        code = killed.killed(killed.make_nightly, given, variables, step)
        complete = _backups(folder, "*.backup")
        assert len(complete) >= 2
        for file in complete:
            shutil.rmtree(_read(file, tmp_path / "out"))
        await create.create_nightly(world.ledger)
        assert _names(folder) == [newer, "2026-01-17.backup"]  # and no draft
        shutil.rmtree(folder)
        if code == killed.ALL_DONE:
            break
        assert code == -signal.SIGKILL
    assert code == killed.ALL_DONE


async def test_a_backup_that_is_cancelled_ends_with_the_cancellation(
    world: World, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancelled(ledger: Ledger, file: Path) -> None:
        file.parent.rmdir()  # its removal fails then
        raise asyncio.CancelledError

    monkeypatch.setattr(transfer, "snapshot", cancelled)
    with pytest.raises(asyncio.CancelledError):
        await create.create(world.ledger, tmp_path / "a.backup", WORDS)


async def test_a_nightly_backup_needs_a_passphrase(
    world: World, home: Home, tmp_path: Path
) -> None:
    (home.path / "config.toml").write_text(f'backup_folder = "{tmp_path}"\n')
    with pytest.raises(InvalidInput, match="passphrase"):
        await create.create_nightly(world.ledger)
