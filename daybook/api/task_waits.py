"""Waiting for something that a task session may claim, without writing anything meanwhile."""

from __future__ import annotations

import asyncio

from daybook.ledger.engine import Ledger, open_ledger
from daybook.tasks import claims, sessions

LOOK = 1.0
"""Seconds between two looks."""


async def waits(name: str) -> bool:
    """Whether a claim of the session of this name would get a run now. Raises `NotFound`."""
    async with open_ledger() as ledger:
        return await _waits(ledger, name)


async def until_claimable(name: str, seconds: float) -> bool:
    """Wait until something is claimable for the session, at most so long; whether anything is.

    Another session may be faster all the same. Raises `NotFound`.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + seconds
    async with open_ledger() as ledger:
        while not await _waits(ledger, name):
            left = ends - loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(LOOK, left))
        return True


async def _waits(ledger: Ledger, name: str) -> bool:
    async with ledger.read() as session:
        row = await sessions.find(session, name)
        return await claims.waits(session, row, ledger.now())
