"""The ledger of this home, opened for a verb."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from daybook import settings
from daybook.ledger.engine import Ledger


@asynccontextmanager
async def ledger() -> AsyncIterator[Ledger]:
    """The ledger that the settings name; raises `InvalidInput` and `LedgerUnreachable`."""
    async with Ledger(settings.load().ledger_address) as opened:
        yield opened
