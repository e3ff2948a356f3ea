"""The ledger's statements, each passed to the thread of its SQLite connection once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from sqlalchemy import text
from sqlalchemy.dialects.sqlite.aiosqlite import (
    AsyncAdapt_aiosqlite_connection,
    AsyncAdapt_aiosqlite_cursor,
)

from daybook.ledger import one_step
from daybook.ledger.engine import Ledger

pytestmark = pytest.mark.anyio


async def test_a_statement_of_the_ledger_is_passed_to_its_thread_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed = list[str]()
    own: Any = aiosqlite.Connection._execute

    async def counted(connection: Any, function: Any, *given: Any, **named: Any) -> Any:
        passed.append(function.__name__)
        return await own(connection, function, *given, **named)

    async with Ledger(f"sqlite+aiosqlite:///{tmp_path}/ledger.db") as ledger:
        monkeypatch.setattr(aiosqlite.Connection, "_execute", counted)
        async with ledger.read() as session:
            rows = (await session.execute(text("SELECT 1 UNION SELECT 2 ORDER BY 1"))).all()
        assert rows == [(1,), (2,)]
        assert passed == ["in_its_thread", "in_its_thread", "rollback"]  # BEGIN, SELECT, the end


def test_a_ledger_keeps_another_version_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(cursor: Any, statement: str) -> None: ...

    assert one_step.connection_class() is one_step.Connection
    monkeypatch.setattr(AsyncAdapt_aiosqlite_cursor, "execute", other)
    assert one_step.connection_class() is AsyncAdapt_aiosqlite_connection
