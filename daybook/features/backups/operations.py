"""Creation of backups of this home. Only the command `daybook restore` can restore a backup."""

from __future__ import annotations

from pathlib import Path

from daybook.api import authorization
from daybook.features.backups import create as backups
from daybook.features.backups import settings
from daybook.features.backups.create import Backup
from daybook.ledger.engine import open_ledger


async def create(file: str | Path, *, passphrase: str = "", replace: bool = False) -> Backup:
    """Write an encrypted backup of this home to ``file``. Daybook's processes continue meanwhile.

    The default of ``passphrase`` is the setting `backup_passphrase`. Raise `InvalidInput` for an
    agent, a missing or short passphrase, and a ``file`` that cannot be written, or exists without
    ``replace``.
    """
    authorization.require_operator()
    passphrase = passphrase or settings.load().backup_passphrase.get_secret_value()
    async with open_ledger() as ledger:
        return await backups.create(ledger, file, passphrase, replace=replace)
