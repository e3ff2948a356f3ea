"""Creation of backups: one of this home, and the nightly ones with their retention.

A backup contains the ledger, in which the copies of Prefect's blocks are, and the files of
`FILES`. It does not contain Prefect's database, which Daybook fills again from the ledger.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import AwareDatetime, BaseModel

from daybook import __version__, settings
from daybook.backups import archive
from daybook.errors import DiskFull, InvalidInput
from daybook.home import Home, current_home
from daybook.ledger import transfer
from daybook.ledger.engine import Ledger
from daybook.ledger.views import UtcTime
from daybook.resources import copies
from daybook.settings import Settings

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LEDGER = "ledger.db"
FILES = ("config.toml", "ledger-key", "webhook-secret")
"""The files of the home that a backup contains, if they exist."""

_DRAFT = "draft"
"""A symbolic link in the working folder to the draft of the file that is being written."""

NIGHTLY_HOUR = 3
"""The hour, in the zone of the settings, from which on the backup of a day is due."""


class Manifest(BaseModel, frozen=True):
    """The description of a backup: its ledger's id, its time and the program that wrote it."""

    format: Literal[1] = 1
    ledger: str
    at: AwareDatetime
    program: str = __version__


class Backup(BaseModel, frozen=True):
    """A new backup: its file, its size in bytes, and the time of the state that it contains."""

    file: str
    bytes: int
    at: UtcTime


async def create(
    ledger: Ledger, file: str | Path, passphrase: str, *, replace: bool = False
) -> Backup:
    """Write a backup of this home and its ``ledger``, while other processes continue.

    The file is complete or not there at all. Raises `InvalidInput` if it exists, unless ``replace``
    is true, if it cannot be written, or for a passphrase that is too short, `LedgerKeyMissing` if
    this home lacks the ledger's key, `LedgerUnreachable`, and `DiskFull` for the home's disk.
    """
    if len(passphrase) < archive.MIN_PASSPHRASE_LENGTH:
        problem = f"has fewer than {archive.MIN_PASSPHRASE_LENGTH} characters"
        raise InvalidInput("passphrase", problem, "use a longer one, and keep it elsewhere")
    file = archive.new_file(file, replace=replace)
    home = current_home()
    with _disk_full_translated(home), _working_folder(home) as folder:
        manifest = Manifest(ledger=ledger.id, at=ledger.now())
        await transfer.snapshot(ledger, folder / LEDGER)
        async with ledger.read() as session:
            await copies.key(session, home)  # raises an error without the key
        (folder / MANIFEST).write_text(manifest.model_dump_json())
        present = [home.path / name for name in FILES if (home.path / name).is_file()]
        contents = [folder / MANIFEST, *present, folder / LEDGER]
        draft = archive.new_draft(file)
        (folder / _DRAFT).symlink_to(draft)
        try:
            size = await asyncio.to_thread(
                archive.write, file, contents, passphrase, replace=replace, draft=draft
            )
        except OSError as error:
            problem = f"{file} cannot be written: {error.strerror or error}"
            hint = "use a folder that exists and has space"
            raise InvalidInput("file", problem, hint) from error
    return Backup(file=str(file), bytes=size, at=manifest.at)


@contextmanager
def _disk_full_translated(home: Home) -> Iterator[None]:
    """Raise `DiskFull` instead of an OSError that says so."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(str(home.path)) from error
        raise


@contextmanager
def _working_folder(home: Home) -> Iterator[Path]:
    """Yield a new folder in the home, and remove those that killed processes left there.

    With such a folder, the draft that `_DRAFT` in it names is removed, wherever it is.
    Raises `InvalidInput` if another process makes a backup of this home.
    """
    home.make()
    descriptor = os.open(home.path / "backup.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            problem = "another process is making a backup of this home"
            raise InvalidInput("home", problem, "wait until it is done") from None
        for left in home.path.glob(".backup-*"):
            with suppress(OSError):
                (left / _DRAFT).readlink().unlink(missing_ok=True)
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=".backup-", dir=home.path))
        try:
            yield folder
        finally:  # an error here would replace that of the block, which may be a cancellation
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


async def create_nightly(ledger: Ledger) -> Backup | None:
    """Make the backup of the night if it is due and missing; delete those beyond the retention.

    Does nothing without the setting `backup_folder`. Raises the errors of `create`.
    """
    loaded = settings.load()
    if not loaded.backup_folder:
        return None
    folder = nightly_folder(loaded)
    file = folder / f"{ledger.id}-{last_night(ledger.now(), loaded)}.backup"
    created = None
    if not await asyncio.to_thread(file.exists):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        passphrase = loaded.backup_passphrase.get_secret_value()
        created = await create(ledger, file, passphrase)
        log.info("backup: %s (%d bytes)", created.file, created.bytes, extra={"action": "backup"})
    # Also if it exists: a thread writes it to the end, even if its cycle was cancelled.
    await asyncio.to_thread(_delete_old, folder, ledger.id, loaded.keep_backups)
    return created


def nightly_folder(loaded: Settings) -> Path:
    """Return the folder of the nightly backups."""
    return Path(loaded.backup_folder).expanduser()


def nightly_files(folder: Path, ledger_id: str) -> dict[date, Path]:
    """Return the nightly backups of a ledger by their dates, oldest first."""
    found = {}
    for file in folder.glob(f"{ledger_id}-*.backup"):
        with suppress(ValueError):  # a file of the operator
            found[date.fromisoformat(file.stem.removeprefix(f"{ledger_id}-"))] = file
    return dict(sorted(found.items()))


def last_night(now: datetime, loaded: Settings) -> date:
    """Return the date of the last night whose backup is due."""
    local = now.astimezone(ZoneInfo(loaded.timezone))
    return local.date() - timedelta(days=local.hour < NIGHTLY_HOUR)


def _delete_old(folder: Path, ledger_id: str, keep: int) -> None:
    """Delete all but the newest ``keep`` backups, and the drafts of killed processes."""
    for old in list(nightly_files(folder, ledger_id).values())[:-keep]:
        old.unlink(missing_ok=True)
    for draft in folder.glob(f".{ledger_id}-*{archive.DRAFT_SUFFIX}"):
        draft.unlink(missing_ok=True)
