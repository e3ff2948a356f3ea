"""Lease renewed by its own thread (promise.md 5: a refused renewal stops the run).

The thread has its own event loop and its own connection, so that a flow that blocks its loop keeps
its claim. A *refused* renewal cancels the run; an *unreachable* ledger does not.
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
    """Another holder took over the claim during the run."""

    code = "lease_lost"


async def _renew_until(
    stopped: threading.Event,
    address: str,
    granted: Granted,
    refused: Callable[[], None],
    every: float,
) -> None:
    # Not entered: the claim has checked the schema version, and an upgrade during the run must
    # not cost the lease.
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
        # Runs in the loop, so that a block that has just ended is never cancelled.
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
            # A running renewal may wait for the ledger's lock; the loop must not block on it.
            await asyncio.to_thread(thread.join)
    except asyncio.CancelledError:
        if lost.is_set() and task.uncancel() == 0:
            raise LeaseLost(f"run {granted.run_id} was taken over while it was running") from None
        raise
