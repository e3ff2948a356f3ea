"""Creation of backups of this home, and the nightly backups with their retention.

A backup contains the ledger, which has copies of Prefect's blocks, the `FILES` of the home, and a
`Manifest`. A backup does not contain Prefect's database, because Daybook can create Prefect's
deployments, runs and blocks again from the ledger.
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
from daybook.errors import DiskFull, InvalidInput
from daybook.features.backups import archive
from daybook.features.backups import settings as backup_settings
from daybook.features.backups.settings import BackupSettings
from daybook.home import Home, current_home
from daybook.instants import UtcTime
from daybook.ledger import transfer
from daybook.ledger.engine import Ledger
from daybook.resources import copies

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LEDGER = "ledger.db"
FILES = ("config.toml", "ledger-key", "webhook-secret")
"""The files of the home that a backup contains, if they exist."""

_DRAFT = "draft"
"""Name of a symbolic link in the working folder. The link points to the draft of the backup."""

NIGHTLY_HOUR = 3
"""Hour, in the time zone of the settings, from which the backup of the night is due."""


class Manifest(BaseModel, frozen=True):
    """Description of a backup: ledger id, time ``at``, and the version of Daybook that wrote it."""

    format: Literal[1] = 1
    ledger: str
    at: AwareDatetime
    program: str = __version__


class Backup(BaseModel, frozen=True):
    """A new backup: its file, its size in bytes, and the time of the ledger's state."""

    file: str
    bytes: int
    at: UtcTime


async def create(
    ledger: Ledger, file: str | Path, passphrase: str, *, replace: bool = False
) -> Backup:
    """Write a backup of this home and its ``ledger``. Other processes continue meanwhile.

    Write ``file`` completely or not at all. Raise:

    - `InvalidInput` if ``file`` exists and ``replace`` is false, if ``file`` is not a plain file or
      cannot be written, if the passphrase is too short or has a NUL character, or if another
      process is making a backup of this home;
    - `LedgerKeyMissing` if this home does not have the ledger's key;
    - `LedgerUnreachable`;
    - `DiskFull` if the disk of the home is full.
    """
    if len(passphrase) < archive.MIN_PASSPHRASE_LENGTH:
        problem = f"has fewer than {archive.MIN_PASSPHRASE_LENGTH} characters"
        raise InvalidInput("passphrase", problem, "use a longer one, and keep it elsewhere")
    archive.check_passphrase(passphrase)
    file = archive.new_file(file, replace=replace)
    home = current_home()
    with _disk_full_translated(home), _working_folder(home) as folder:
        manifest = Manifest(ledger=ledger.id, at=ledger.now())
        await transfer.snapshot(ledger, folder / LEDGER)
        async with ledger.read() as session:
            await copies.key(session, home)  # if the key is missing, this call raises an error
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
    """Raise `DiskFull` in place of an OSError about a full disk or an exceeded quota."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(str(home.path)) from error
        raise


@contextmanager
def _working_folder(home: Home) -> Iterator[Path]:
    """Yield a new working folder in the home. First remove the folders of killed processes.

    Each of these folders has a link `_DRAFT` to a draft; remove the draft as well. Raise
    `InvalidInput` if another process is making a backup of this home.
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
        finally:  # an error here would replace the error of the block, which may be a cancellation
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


async def create_nightly(ledger: Ledger) -> Backup | None:
    """Make the backup of the last night if it is missing, and delete backups beyond the retention.

    Return the new backup, or None if no backup was made. If the setting `backup_folder` is empty,
    do nothing. Raise the errors of `create`, and OSError if the folder cannot be created.
    """
    loaded = backup_settings.load()
    if not loaded.backup_folder:
        return None
    folder = nightly_folder(loaded)
    file = folder / f"{ledger.id}-{last_night(ledger.now())}.backup"
    created = None
    if not await asyncio.to_thread(file.exists):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        passphrase = loaded.backup_passphrase.get_secret_value()
        created = await create(ledger, file, passphrase)
        log.info("backup: %s (%d bytes)", created.file, created.bytes, extra={"action": "backup"})
    # Delete old backups even if the new one exists: if a cycle is cancelled, its thread completes
    # the backup, but does not delete old ones.
    await asyncio.to_thread(_delete_old, folder, ledger.id, loaded.keep_backups)
    return created


def nightly_folder(loaded: BackupSettings) -> Path:
    """Return the folder of the nightly backups."""
    return Path(loaded.backup_folder).expanduser()


def nightly_files(folder: Path, ledger_id: str) -> dict[date, Path]:
    """Return the files of a ledger's nightly backups by date, oldest first."""
    found = {}
    for file in folder.glob(f"{ledger_id}-*.backup"):
        with suppress(ValueError):  # the operator's own files have other names
            found[date.fromisoformat(file.stem.removeprefix(f"{ledger_id}-"))] = file
    return dict(sorted(found.items()))


def last_night(now: datetime) -> date:
    """Return the date, in the zone of the settings, of the last night whose backup is due."""
    local = now.astimezone(ZoneInfo(settings.load().timezone))
    return local.date() - timedelta(days=local.hour < NIGHTLY_HOUR)


def _delete_old(folder: Path, ledger_id: str, keep: int) -> None:
    """Delete all but the newest ``keep`` backups, and the drafts of killed processes."""
    for old in list(nightly_files(folder, ledger_id).values())[:-keep]:
        old.unlink(missing_ok=True)
    for draft in folder.glob(f".{ledger_id}-*{archive.DRAFT_SUFFIX}"):
        draft.unlink(missing_ok=True)
