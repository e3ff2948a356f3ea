"""Renewal of a lease in its own thread (promise.md 5: a refused renewal stops the run).

The thread has its own event loop and its own connection to the ledger, so that a flow that blocks
its loop keeps its claim. A *refused* renewal cancels the run; an *unreachable* ledger does not,
whatever the job's `on_lost` says.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from daybook.errors import DaybookError
from daybook.ledger.engine import Ledger
from daybook.runs import leases
from daybook.runs.claim_requests import Granted

log = logging.getLogger(__name__)


class LeaseLost(DaybookError):
    """The claim was lost during the run: a renewal was refused."""

    code = "lease_lost"


async def _renew_until(
    stopped: threading.Event,
    address: str,
    granted: Granted,
    refused: Callable[[], None],
    every: float,
) -> None:
    # Not entered, which would check the schema's version: the claim has done that, and an upgrade
    # during the run must not cost the lease.
    ledger = Ledger(address)
    try:
        while not await asyncio.to_thread(stopped.wait, every):
            try:
                renewed = await leases.renew(ledger, granted.run_id, granted.fence)
            except Exception as error:
                log.warning(
                    "the lease could not be renewed: %s",
                    error,
                    extra={"action": "renew_unreachable"},
                )
                continue
            if not renewed:
                refused()
                return
    finally:
        await ledger.close()


@asynccontextmanager
async def keep_lease(address: str, granted: Granted, every: float) -> AsyncIterator[None]:
    """Renew the lease every ``every`` seconds while the block runs.

    If a renewal is refused, the block is cancelled and `LeaseLost` is raised in place of the
    cancellation, unless the task is also being cancelled for another reason.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    stopped, lost = threading.Event(), threading.Event()

    def cancel() -> None:
        # This runs in the loop, so that it never cancels a block that has just ended.
        if not stopped.is_set():
            lost.set()
            task.cancel()

    def renew_in_thread() -> None:
        def refused() -> None:
            loop.call_soon_threadsafe(cancel)

        asyncio.run(_renew_until(stopped, address, granted, refused, every))

    thread = threading.Thread(
        target=renew_in_thread, name=f"lease-{granted.run_id[:8]}", daemon=True
    )
    thread.start()
    try:
        try:
            yield
        finally:
            stopped.set()
            # A renewal may be waiting for the ledger's lock, which must not block the loop.
            await asyncio.to_thread(thread.join)
    except asyncio.CancelledError:
        if lost.is_set() and task.uncancel() == 0:
            raise LeaseLost(f"run {granted.run_id} was taken over while it was running") from None
        raise
