"""Check of the nightly backups."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.features.backups import checks, create
from daybook.home import Home
from daybook.ledger.engine import open_ledger

pytestmark = pytest.mark.anyio


async def test_nightly_backups_are_checked_for_a_passphrase_and_their_age(
    daybook_home: Home, tmp_path: Path
) -> None:
    async with open_ledger() as opened:
        ledger_id = opened.id
    assert await checks.backups() == []
    config, folder = daybook_home.path / "config.toml", tmp_path / "backups"
    config.write_text(f'backup_folder = "{folder}"\n')
    (missing,) = await checks.backups()
    assert (missing.severity, "without a passphrase" in missing.message) == ("problem", True)

    config.write_text(f'backup_folder = "{folder}"\nbackup_passphrase = "correct horse"\n')
    (none,) = await checks.backups()
    assert (none.severity, none.message) == ("warning", f"there is no backup in {folder} yet")

    now = SYSTEM_CLOCK.now()
    os.utime(config, times=(0, (now - timedelta(days=2)).timestamp()))
    (overdue,) = await checks.backups()  # a night has passed since
    assert (overdue.severity, "no backup in" in overdue.message) == ("problem", True)
    assert "worker.log" in overdue.fix
    daybook_home.ledger_key.touch()  # the home is new, so no backup was due yet
    (fresh,) = await checks.backups()
    assert fresh.severity == "warning"
    daybook_home.ledger_key.unlink()

    folder.mkdir()
    night = create.last_night(SYSTEM_CLOCK.now())
    for days, severity in ((3, "problem"), (2, "problem"), (1, "ok"), (0, "ok")):
        (folder / f"{ledger_id}-{night - timedelta(days=days)}.backup").touch()
        (found,) = await checks.backups()
        assert found.severity == severity, days
