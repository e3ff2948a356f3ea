"""Whoever is cancelled in the middle of a write lets go of the ledger: others do not wait."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlmodel import select

from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact

pytestmark = pytest.mark.anyio

SHORT = timedelta(seconds=5)


@pytest.fixture
def kept() -> Iterator[None]:
    """What refers to itself, such as a traceback's frames with the driver's cursor, stays."""
    gc.disable()
    yield
    gc.enable()


async def test_in_the_middle_of_a_statement(kept: None, tmp_path: Path) -> None:
    """SQLite's: a server ends what its client leaves."""
    address = f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}"
    async with Ledger(address) as ledger, Ledger(address, busy=SHORT) as other:
        loop = asyncio.get_running_loop()

        def begun(statement: str) -> None:
            """In the driver's thread: its answer comes after this."""
            if statement.startswith("SELECT"):
                loop.call_soon_threadsafe(task.cancel)

        async def writes() -> None:
            async with ledger.write() as session:
                await session.merge(Fact(key="begun", value="1"))
                await session.flush()
                raw = await (await session.connection()).get_raw_connection()
                assert raw.driver_connection is not None
                await raw.driver_connection.set_trace_callback(begun)
                await session.execute(select(Fact))

        task = asyncio.create_task(writes())
        (error,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(error, asyncio.CancelledError)
        async with other.write() as session:
            assert (await session.execute(select(Fact.key))).scalars().all() == ["id"]
        async with ledger.write() as session:
            await session.merge(Fact(key="again", value="1"))
