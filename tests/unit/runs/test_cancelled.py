"""A task that is cancelled during a write releases the ledger, so that others do not wait."""

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
def no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection: cycles, such as a traceback with the driver's cursor, stay."""
    gc.disable()
    yield
    gc.enable()


async def test_a_write_cancelled_during_a_statement_releases_the_lock(
    no_garbage_collection: None, tmp_path: Path
) -> None:
    """Use SQLite only: a server ends the transaction of a client that leaves."""
    address = f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}"
    async with Ledger(address) as ledger, Ledger(address, busy=SHORT) as other:
        loop = asyncio.get_running_loop()

        def cancel(statement: str) -> None:
            """Cancel the task from the driver's thread, before the statement returns."""
            if statement.startswith("SELECT"):
                loop.call_soon_threadsafe(task.cancel)

        async def writes() -> None:
            async with ledger.write() as session:
                await session.merge(Fact(key="lost", value="1"))
                await session.flush()
                raw = await (await session.connection()).get_raw_connection()
                assert raw.driver_connection is not None
                await raw.driver_connection.set_trace_callback(cancel)
                await session.execute(select(Fact))

        task = asyncio.create_task(writes())
        (error,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(error, asyncio.CancelledError)
        async with other.write() as session:
            assert (await session.execute(select(Fact.key))).scalars().all() == ["id"]
        async with ledger.write() as session:
            await session.merge(Fact(key="again", value="1"))
