"""`daybook restore`: restores a backup into this home, completely or not at all.

::

    .restoring/  exists             nothing opens the ledger (`Settings.ledger_address`)
      ├─ files of the backup        decrypted and verified here
      ├─ ledger.db                  uncertain outcomes are recorded here (`backups.uncertain`)
      └─ target                     the address of the database to which the ledger is copied,
                                    if the ledger does not stay in the home
    ledger, settings, keys          moved to their places
    .restoring/  is renamed         the restore is complete

If the process is killed before the end, `.restoring` remains, and the next restore starts over.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import tomllib
from contextlib import closing
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ValidationError

from daybook import plain_text, settings
from daybook.api import authorization
from daybook.clock import SYSTEM_CLOCK, Clock
from daybook.errors import InvalidInput, LedgerUnreachable
from daybook.features.backups import archive, uncertain
from daybook.features.backups.create import FILES, LEDGER, MANIFEST, Manifest
from daybook.home import Home, current_home, replace_private_file, sync_folder
from daybook.instants import UtcTime, utc_text
from daybook.ledger import transfer
from daybook.ledger.engine import Ledger
from daybook.ledger.sqlite import FILE_SUFFIXES, WAL_SUFFIX
from daybook.operations import home_lock, ledger_setting
from daybook.prefect import instances
from daybook.runs.restored import Restore

_TARGET = "target"
_IGNORED = {"up.lock", "up.json", "up.new", "backup.lock"}
"""Files that may exist in an empty home. They contain nothing about jobs."""


class RestoreResult(BaseModel, frozen=True, extra="allow"):
    """The restored home, its ledger, and the numbers of uncertain outcomes.

    ``missed`` counts due times, and ``unknown`` counts runs, that may have run since the backup.
    ``messages`` counts messages that Daybook may have sent since then. Further fields are the
    numbers of what features have paused, by the names of the features.
    """

    __pydantic_extra__: dict[str, int]

    home: str
    ledger: str
    backup_at: UtcTime
    restored_at: UtcTime
    missed: int
    unknown: int
    messages: int


async def restore(
    file: str | Path, passphrase: str, *, ledger_url: str = "", clock: Clock = SYSTEM_CLOCK
) -> RestoreResult:
    """Restore the backup ``file`` into this home, which must be empty.

    ``ledger_url`` is the address of the ledger's database, which must be empty as well. The default
    is the database in the variable `DAYBOOK_LEDGER_URL` or in the settings of the backup. If
    neither names a database, the default is `ledger.db` in the home.

    Raise `InvalidInput`, and restore nothing, if the home or the database is not empty or in use,
    if ``file`` is not a backup, if the passphrase is wrong, if the clock is behind the backup, or
    if an agent calls this function. Raise `LedgerUnreachable` if the database is unreachable.
    """
    authorization.require_operator()
    home, file = current_home(), archive.absolute(file)
    if home.path.exists() and not home.path.is_dir():
        raise InvalidInput("home", f"{home.path} is not a folder", "set another DAYBOOK_HOME")
    if home.running() is not None:
        raise home_lock.already_running(home)
    if home.path.exists() and not home.restoring.exists():
        _check_empty(home)  # check before taking the lock, because the lock creates files
    with home_lock.hold(home, command="restore") as record:
        record.check_leftovers()
        repeated = home.restoring.exists()
        if not repeated:
            _check_empty(home)
        staged = _prepare(home, repeated=repeated)
        try:
            names = (MANIFEST, LEDGER, *FILES)
            await asyncio.to_thread(archive.extract, file, staged, names, passphrase, large=LEDGER)
            target = _choose_target(home, staged, ledger_url)
            in_home = target == _home_address(home)
            result = await _record_and_copy(home, staged, file, target, clock)
            if in_home:
                await asyncio.to_thread(_empty_wal, staged / LEDGER)
        except BaseException:
            # An interrupted restore may have moved files, or copied rows into a database. So its
            # folder stays.
            if not repeated and not (staged / _TARGET).exists():
                shutil.rmtree(staged)
            raise
        _move_into_place(home, staged, in_home=in_home)
    return result


def _check_empty(home: Home) -> None:
    """Raise `InvalidInput` if the home contains files other than `_IGNORED`."""
    files = (each for each in home.path.iterdir() if not each.is_dir() or any(each.iterdir()))
    if found := sorted(each.name for each in files if each.name not in _IGNORED):
        problem = f"{home.path} is not empty: it contains {', '.join(found[:5])}"
        hint = "move the folder away, or set DAYBOOK_HOME to a new one"
        raise InvalidInput("home", problem, hint)


def _prepare(home: Home, *, repeated: bool) -> Path:
    """Create the folder `.restoring`.

    If the restore is ``repeated``, delete the files of the interrupted restore, except `target`.
    """
    staged = home.restoring
    staged.mkdir(mode=0o700, exist_ok=True)
    sync_folder(home.path)
    if repeated:
        for left in staged.iterdir():
            if left.name != _TARGET:
                left.unlink()
        for suffix in FILE_SUFFIXES:
            (home.path / f"{LEDGER}{suffix}").unlink(missing_ok=True)
    return staged


def _home_address(home: Home) -> str:
    return transfer.sqlite_address(home.path / LEDGER)


def _choose_target(home: Home, staged: Path, given: str) -> str:
    """Return the ledger's new address.

    If the caller has ``given`` an address, write it to the restored settings. Raise `InvalidInput`
    if the variable `DAYBOOK_LEDGER_URL` has another address.
    """
    config, variable = staged / "config.toml", os.environ.get("DAYBOOK_LEDGER_URL")
    if given:
        chosen = settings.load(ledger_url=given).ledger_url
        if variable and settings.load().ledger_url != chosen:
            hint = "unset the variable, or leave out the option"
            raise InvalidInput("ledger", "differs from the variable DAYBOOK_LEDGER_URL", hint)
        ledger_setting.set_ledger_url(config, "" if chosen == _home_address(home) else chosen)
        return chosen
    if variable:
        return settings.load().ledger_url
    try:
        stored = tomllib.loads(plain_text.read(config)).get("ledger_url", "")
    except FileNotFoundError:
        stored = ""
    return settings.load(ledger_url=stored).ledger_url or _home_address(home)


async def _record_and_copy(
    home: Home, staged: Path, file: Path, target: str, clock: Clock
) -> RestoreResult:
    """Record uncertain outcomes in the staged ledger, then copy it if ``target`` is elsewhere.

    If an earlier restore into this home was interrupted, ``target`` may contain the ledger of that
    restore. In this case, overwrite that ledger. Raise `InvalidInput` if the manifest cannot be
    read, if the database is not empty, or if the clock is behind the backup.
    """
    try:
        manifest = Manifest.model_validate_json((staged / MANIFEST).read_text())
    except (OSError, ValidationError) as error:
        problem = f"{file} is not a backup that this version of Daybook can read"
        raise InvalidInput("file", problem, "update Daybook, or use another backup") from error
    async with Ledger(transfer.sqlite_address(staged / LEDGER), clock) as ledger:
        if target == _home_address(home):
            return await _record(home, ledger, manifest, str(home.path / LEDGER), ledger.now())
        async with Ledger(target) as database:
            # Use the later of both clocks, because every run that was due by then may have
            # happened.
            now = max(ledger.now(), database.now())
            result = await _record(home, ledger, manifest, database.place, now)
            marker = staged / _TARGET
            async with ledger.read() as source, database.write() as writing:
                known = marker.exists() and marker.read_text() == database.place
                own = known and database.id == ledger.id
                if not own and not await transfer.is_empty(writing):
                    problem = f"{database.place} contains a ledger"
                    raise InvalidInput("ledger", problem, "use an empty database")
                replace_private_file(marker, database.place)
                await transfer.copy_rows(source, writing)
    return result


async def _record(
    home: Home, ledger: Ledger, manifest: Manifest, place: str, now: datetime
) -> RestoreResult:
    if now < manifest.at:
        problem = f"it is {utc_text(now)}, before the time of the backup, {utc_text(manifest.at)}"
        raise InvalidInput("clock", problem, "set the clock of this machine")
    async with ledger.write() as session:
        recorded = await uncertain.record(session, Restore(backup=manifest.at, at=now))
        # Otherwise the server of the backup would count as in use beside the one of this home.
        await instances.forget_all(session)
    counts = asdict(recorded)
    paused = counts.pop("paused")
    return RestoreResult.model_validate(
        {
            **paused,
            "home": str(home.path),
            "ledger": place,
            "backup_at": manifest.at,
            "restored_at": now,
            **counts,
        }
    )


def _empty_wal(ledger: Path) -> None:
    """Write all committed data to the file ``ledger``, because the caller moves only this file.

    Without this step, the data in the WAL might be lost. The end of the last connection has the
    same effect, but reports no failure. Raise `InvalidInput` if another process has the file open.
    Raise `LedgerUnreachable` if SQLite fails, for example because the disk is full.
    """
    try:
        with closing(sqlite3.connect(ledger, timeout=0)) as connection:
            (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        raise LedgerUnreachable(str(ledger), str(error)) from error
    if busy or ledger.with_name(f"{ledger.name}{WAL_SUFFIX}").exists():
        problem = f"another process has {ledger} open"
        raise InvalidInput("home", problem, "end it, then run the same `daybook restore` again")


def _move_into_place(home: Home, staged: Path, *, in_home: bool) -> None:
    """Move the files to their places in the home; the last step completes the restore."""
    for name in (*FILES, *((LEDGER,) if in_home else ())):
        if (staged / name).exists():
            (staged / name).replace(home.path / name)
    # These files are left if the ledger is in another database.
    for left in staged.glob(f"{LEDGER}*"):
        left.unlink()
    sync_folder(home.path)
    done = home.path / ".restored"
    shutil.rmtree(done, ignore_errors=True)
    staged.rename(done)
    sync_folder(home.path)
    shutil.rmtree(done)
