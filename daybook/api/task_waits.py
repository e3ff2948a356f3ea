"""Waits until a task session may claim a run, without writing to the ledger."""

from __future__ import annotations

import asyncio

from daybook.ledger.engine import Ledger, open_ledger
from daybook.tasks import claims, sessions

POLL_INTERVAL_SECONDS = 1.0
"""Interval between two polls."""


async def is_claimable(name: str) -> bool:
    """Return whether the session of this name could claim a run now. Raise `NotFound`."""
    async with open_ledger() as ledger:
        return await _waits(ledger, name)


async def wait_until_claimable(name: str, seconds: float) -> bool:
    """Wait at most ``seconds`` until the session can claim a run; return whether it can.

    Another session may still claim the run first. Raise `NotFound`.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    async with open_ledger() as ledger:
        while not await _waits(ledger, name):
            left = deadline - loop.time()
            if left <= 0:
                return False
            await asyncio.sleep(min(POLL_INTERVAL_SECONDS, left))
        return True


async def _waits(ledger: Ledger, name: str) -> bool:
    async with ledger.read() as session:
        row = await sessions.find(session, name)
        return await claims.is_run_available(session, row, ledger.now())
