"""The check of the nightly backups."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

from daybook import settings
from daybook.diagnosis.checks import ledger
from daybook.features.backups import archive
from daybook.features.backups import create as nightly
from daybook.features.backups import settings as backup_settings
from daybook.finding import Finding, passed, problem, warning
from daybook.home import current_home
from daybook.ledger.engine import open_ledger

MAX_BACKUP_AGE = timedelta(days=1)
"""Maximum age of the newest backup, counted from the last night. A higher age is a problem.

A backup may be older than a night, because the keepers may have been stopped.
"""
BACKUP_DURATION = timedelta(hours=1)
"""Maximum duration of a nightly backup. Only after this time, a missing backup is a problem."""


async def backups() -> list[Finding]:
    """If a backup folder is set, check that nightly backups have a passphrase and are recent."""
    loaded = backup_settings.load()
    if not loaded.backup_folder or not ledger.exists():
        return []
    if len(loaded.backup_passphrase.get_secret_value()) < archive.MIN_PASSPHRASE_LENGTH:
        fix = f"set backup_passphrase in {settings.config_file()}, at least 8 characters"
        return [problem("backups", "there are no nightly backups without a passphrase", fix)]
    folder = nightly.nightly_folder(loaded)
    async with open_ledger() as opened:
        found = nightly.nightly_files(folder, opened.id)
        now = opened.now()
    fix = f"read the log of the leading keeper, such as {current_home().logs / 'worker.log'}"
    if not found:
        last = nightly.last_night(now - BACKUP_DURATION)
        if last > nightly.last_night(_set_up_at() or now):
            message = f"there is no backup in {folder}, not even of the night of {last}"
            return [problem("backups", message, fix)]
        return [warning("backups", f"there is no backup in {folder} yet")]
    newest = max(found)
    if newest < nightly.last_night(now) - MAX_BACKUP_AGE:
        return [problem("backups", f"the newest backup in {folder} is of {newest}", fix)]
    return [passed("backups", f"{len(found)} in {folder}, the newest of {newest}")]


def _set_up_at() -> datetime | None:
    """Return when this home's ledger key or settings file last changed; None if neither exists.

    Neither exists before the first `up` if the settings are in variables.
    """
    times = []
    for file in (current_home().ledger_key, settings.config_file()):
        with suppress(FileNotFoundError):
            times.append(datetime.fromtimestamp(file.stat().st_mtime, UTC))
    return max(times, default=None)
