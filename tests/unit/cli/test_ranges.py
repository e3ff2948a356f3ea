"""Adjacent missed due times are one row of the ledger, and are shown as one."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.jobs import store
from daybook.ledger.engine import Ledger
from daybook.runs import audit
from daybook.testing import ManualClock
from tests.unit.cli.conftest import MADE, fill


async def _away(file: Path) -> None:
    """Let the audit find five hours without a worker, for a job that is due every 90 minutes."""
    await fill(file)
    clock = ManualClock(MADE + timedelta(hours=5))
    async with Ledger(f"sqlite+aiosqlite:///{file}", clock) as ledger:
        async with ledger.read() as session:
            often = await store.find(session, "often")
        await audit.advance(ledger, often.id, clock.now())


def test_runs_shows_a_range_of_missed_due_times_as_one_row_with_a_count(
    daybook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    asyncio.run(_away(tmp_path / "ledger.db"))

    waiting, missed = daybook("runs", "often", "--json").json

    assert (waiting["status"], waiting["count"], waiting["scheduled_to"]) == ("waiting", 1, None)
    due = [MADE + timedelta(minutes=90), MADE + timedelta(minutes=180)]
    instants = [each.isoformat().replace("+00:00", "Z") for each in due]
    assert (missed["status"], missed["count"]) == ("missed", 2)
    assert [missed["scheduled_for"], missed["scheduled_to"]] == instants
    assert ", 2 times" in daybook("runs", "often").out
    assert ", 2 times" in daybook("show", missed["id"]).out
