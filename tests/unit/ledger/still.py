"""A process that stands in the middle of a write, to be stopped or killed there."""

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


def _write(address: str, key: str, told: Connection) -> None:
    postgresql.IDLE_TRANSACTION_TIMEOUT = STANDS_STILL

    async def write() -> None:
        async with Ledger(address) as ledger:
            try:
                async with ledger.write() as session:
                    session.add(Fact(key=key, value="here"))
                    await session.flush()
                    told.send("in the transaction")
                    # It is stopped here: who goes on has been cut off meanwhile.
                    while not told.poll(0.05):
                        await session.get(Fact, "another", populate_existing=True)
            except LedgerUnreachable as error:
                told.send(type(error).__name__)
            else:
                told.send("committed")

    asyncio.run(write())


_pipes: dict[int, Connection] = {}


@contextmanager
def writer(address: str, key: str) -> Iterator[Any]:
    """That process, in its write; it is gone afterwards."""
    here, telling = CONTEXT.Pipe()
    child = CONTEXT.Process(target=_write, args=(address, key, telling))
    child.start()
    telling.close()
    try:
        assert here.recv() == "in the transaction"
        assert child.pid is not None
        _pipes[child.pid] = here
        yield child
    finally:
        child.kill()
        child.join(60)
        here.close()


def end_of(child: Any) -> str:
    """What became of its write."""
    told: str = _pipes.pop(child.pid).recv()
    return told
