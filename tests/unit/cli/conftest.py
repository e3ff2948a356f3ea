"""Fixtures that run the command line in this process, on ledgers that need no Prefect."""

from __future__ import annotations

import asyncio
import io
import os
import signal
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.runs import claims, outcomes

STRUCTURED = {"output_format": "structured", "output_schema": {"type": "object"}}
MADE = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)


class Terminal(io.StringIO):
    """Standard input of a terminal, at which a user has typed the given text."""

    def isatty(self) -> bool:
        return True


class InterruptedTerminal(Terminal):
    """A terminal whose user presses Ctrl-C at the first prompt."""

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]
        os.kill(os.getpid(), signal.SIGINT)
        return super().readline(size)


@pytest.fixture(scope="package")
def home_with_jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home whose ledger has three jobs, of which `weekly` has a waiting run."""
    home = tmp_path_factory.mktemp("home")
    asyncio.run(fill(home / "ledger.db"))
    return home


@pytest.fixture
def stored(home_with_jobs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Use the home with jobs in this test, in Berlin's time zone."""
    monkeypatch.setenv("DAYBOOK_HOME", str(home_with_jobs))
    monkeypatch.setenv("DAYBOOK_TIMEZONE", "Europe/Berlin")
    return home_with_jobs


async def fill(file: Path, removed: Collection[str] = ()) -> None:
    """Write the jobs directly into the ledger, without Prefect."""
    jobs: list[dict[str, Any]] = [
        {"name": "weekly", "cron": "0 9 * * 1", "timezone": "Europe/Berlin", "tags": ["team"]},
        {"name": "often", "every": "90m", "model": "small", "session_key": "team", **STRUCTURED},
        {"name": "by hand", "on_demand": True, "enabled": False},
    ]
    async with Ledger(f"sqlite+aiosqlite:///{file}") as ledger:
        async with ledger.write() as session:
            for fields in jobs:
                job = new_job(now=MADE, prompt="Say hello.", **fields)
                await store.add(session, job, job.name.replace(" ", "-"), MADE)
        async with ledger.read() as session:
            weekly = await store.find(session, "weekly")
        await claims.request(ledger, weekly, "first", "manual")
        async with ledger.write() as session:
            for name in removed:
                await outcomes.archive_job(session, await store.find(session, name), MADE)
