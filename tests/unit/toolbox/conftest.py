"""A home whose ledger has jobs and a run, for tests of tools without Prefect."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from daybook.home import Home
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.runs import claims

MADE = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)


@pytest.fixture
async def stored(daybook_home: Home, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Add three jobs of the operator, of which `weekly` has a waiting run, to the ledger."""
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "Europe/Berlin")
    jobs: list[dict[str, Any]] = [
        {"name": "weekly", "cron": "0 9 * * 1", "channel": "inbox", "prompt": "Sum up the week."},
        {"name": "export", "every": "90m", "url": "https://api.example.org/export"},
        {"name": "by hand", "on_demand": True, "enabled": False, "prompt": "Say hello."},
    ]
    file = daybook_home.path / "ledger.db"
    async with Ledger(f"sqlite+aiosqlite:///{file}") as ledger:
        async with ledger.write() as session:
            for fields in jobs:
                job = new_job(now=MADE, default_timezone="Europe/Berlin", **fields)
                await store.add(session, job, job.name.replace(" ", "-"), MADE)
        async with ledger.read() as session:
            weekly = await store.find(session, "weekly")
        await claims.request(ledger, weekly, "first", "manual")
    return file
