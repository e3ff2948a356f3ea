"""Adjacent due times that nobody was there for are one row, and shown as that."""

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
    """Nobody was there for five hours of the job that is due every hour and a half."""
    await fill(file)
    clock = ManualClock(MADE + timedelta(hours=5))
    async with Ledger(f"sqlite+aiosqlite:///{file}", clock) as ledger:
        async with ledger.read() as session:
            often = await store.find(session, "often")
        await audit.advance(ledger, often.id, clock.now())


def test_a_range_says_from_when_to_when_and_how_many(
    daybook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    asyncio.run(_away(tmp_path / "ledger.db"))

    waiting, missed = daybook("runs", "often", "--json").json

    assert (waiting["status"], waiting["count"], waiting["scheduled_to"]) == ("waiting", 1, None)
    due = [MADE + timedelta(minutes=90), MADE + timedelta(minutes=180)]
    told = [each.isoformat().replace("+00:00", "Z") for each in due]
    assert (missed["status"], missed["count"]) == ("missed", 2)
    assert [missed["scheduled_for"], missed["scheduled_to"]] == told
    assert ", 2 times" in daybook("runs", "often").out
    assert ", 2 times" in daybook("show", missed["id"]).out
