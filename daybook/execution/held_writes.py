"""Writes to the ledger of a process that has the claim of its run."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from daybook.clock import SYSTEM_CLOCK
from daybook.errors import LedgerNewer, LedgerUnreachable
from daybook.ledger.engine import Ledger, open_ledger
from daybook.processes.ending import wait_shielded
from daybook.runs import steps
from daybook.runs.claim_requests import Granted

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_DELAY = timedelta(seconds=1)
"""Delay before a write to an unreachable ledger is repeated."""


@contextmanager
def unrecorded() -> Iterator[None]:
    """Log `LedgerNewer` instead of raising it, because the step has happened already."""
    try:
        yield
    except LedgerNewer as error:
        log.warning("a step is not recorded: %s", error, extra={"action": "step_not_recorded"})


async def write(granted: Granted, work: Callable[[AsyncSession, Ledger], Awaitable[T]]) -> T:
    """Do ``work`` in a write transaction of the ledger, if the process has the claim.

    Repeat ``work`` while the ledger is unreachable, until the attempt's timeout cancels it. A
    commit may have lost only its response, so ``work`` must change nothing the second time. Raise
    `FenceRefused` if the claim was lost, and `LedgerNewer`.
    """

    async def once(ledger: Ledger) -> T:
        async with ledger.write() as session:
            await steps.check_held(session, granted.run_id, granted.fence)
            return await work(session, ledger)

    while True:
        try:
            async with open_ledger() as ledger:
                # A cancelled transaction would lose its connection.
                return await wait_shielded(asyncio.create_task(once(ledger)))
        except LedgerNewer:
            raise
        except LedgerUnreachable:
            await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + RETRY_DELAY)
