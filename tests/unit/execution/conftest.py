"""Fixture of a running run in a SQLite ledger that uses the machine's clock."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from daybook.clock import SYSTEM_CLOCK
from daybook.home import Home
from daybook.ledger import schema
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow
from daybook.runs import claim_requests, claims
from daybook.runs.claim_requests import ClaimRequest, Granted


@dataclass
class ActiveRun:
    """A running run; its ledger waits at most 20 ms for a lock."""

    path: Path
    ledger: Ledger
    granted: Granted

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            return connection.execute(statement).fetchall()

    @contextmanager
    def locked(self) -> Iterator[sqlite3.Connection]:
        """Lock the ledger for another writer until it rolls back."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            yield other

    def migrate_incompatibly(self) -> None:
        """Make the ledger unusable for this program, as a newer one does."""
        self.query(f"INSERT INTO facts VALUES ('{schema.OLDEST_FACT}', '29991231_0001')")

    def undo_migration(self) -> None:
        """Let this program play the newer one."""
        self.query(f"DELETE FROM facts WHERE key = '{schema.OLDEST_FACT}'")

    def take_over(self) -> None:
        """Raise the fencing token, as a rerun on another host does."""
        self.query("UPDATE runs SET fence = fence + 1, holder = 'there:2'")

    async def row(self) -> RunRow:
        async with self.ledger.read() as session:
            row = await session.get(RunRow, self.granted.run_id)
        assert row is not None
        return row


@pytest.fixture
async def active(tmp_path: Path, daybook_home: Home) -> AsyncIterator[ActiveRun]:
    path = tmp_path / "ledger.db"
    address = f"sqlite+aiosqlite:///{path}"
    async with Ledger(address, busy=timedelta(milliseconds=20)) as ledger:
        given = {"prompt": "Do it", "policy": {"retries": 3, "retry_delay": "1s"}}
        claim_request = ClaimRequest(
            claim_requests.flow_key("f"),
            "agent-prompt",
            "direct",
            SYSTEM_CLOCK.now(),
            "here:1",
            given,
        )
        granted = await claims.claim(ledger, claim_request)
        assert isinstance(granted, Granted)
        await claims.begin(ledger, granted.run_id, granted.fence)
        yield ActiveRun(path, ledger, granted)
