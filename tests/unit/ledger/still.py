"""A process that waits in the middle of a write, where a test can suspend or kill it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

from daybook.errors import LedgerUnreachable
from daybook.ledger import postgresql
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact
from tests.side_by_side import CONTEXT

STANDS_STILL = timedelta(seconds=1)


def _write(address: str, key: str, connection: Connection) -> None:
    postgresql.IDLE_TRANSACTION_TIMEOUT = STANDS_STILL

    async def write() -> None:
        async with Ledger(address) as ledger:
            try:
                async with ledger.write() as session:
                    session.add(Fact(key=key, value="here"))
                    await session.flush()
                    connection.send("in the transaction")
                    # The test suspends it here: when it continues, the server has cut it off.
                    while not connection.poll(0.05):
                        await session.get(Fact, "another", populate_existing=True)
            except LedgerUnreachable as error:
                connection.send(type(error).__name__)
            else:
                connection.send("committed")

    asyncio.run(write())


_pipes: dict[int, Connection] = {}


@contextmanager
def writer(address: str, key: str) -> Iterator[Any]:
    """Start that process and yield it in its write; kill it afterwards."""
    reader, telling = CONTEXT.Pipe()
    child = CONTEXT.Process(target=_write, args=(address, key, telling))
    child.start()
    telling.close()
    try:
        assert reader.recv() == "in the transaction"
        assert child.pid is not None
        _pipes[child.pid] = reader
        yield child
    finally:
        child.kill()
        child.join(60)
        reader.close()


def end_of(child: Any) -> str:
    """Return how the write of the process ended."""
    report: str = _pipes.pop(child.pid).recv()
    return report
