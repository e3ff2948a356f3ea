"""Renewal of a lease in its own thread (promise.md 5: a refused renewal stops the run).

The thread has its own event loop and its own connection to the ledger, so that a flow that blocks
its loop keeps its claim. A *refused* renewal cancels the run. An *unreachable* ledger cancels only
a run with `on_lost: rerun`, before its lease ends, so that it does not overlap its rerun.

A cancelled block may continue: a synchronous tool cannot be stopped, and a flow may block its loop.
So the thread renews the lease until the block has ended or a renewal is refused. A late renewal is
safe, because the ledger compares the fencing token. Such a block may overlap its rerun only after
an outage longer than the lease and the suspicion together.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from daybook.errors import DaybookError
from daybook.ledger.engine import Ledger
from daybook.runs import leases
from daybook.runs.claim_requests import Granted
from daybook.timing import TIMING

log = logging.getLogger(__name__)


class LeaseLost(DaybookError):
    """The claim was lost during the run: a renewal was refused."""

    code = "lease_lost"


class LeaseNotRenewed(LeaseLost):
    """A run with `on_lost: rerun` was stopped, because its lease could not be renewed in time."""


async def _renew_until(
    stopped: threading.Event,
    address: str,
    granted: Granted,
    lose: Callable[[LeaseLost], None],
    every: float,
) -> None:
    """Renew the lease until ``stopped``, or until a renewal is refused.

    Call ``lose`` if a renewal is refused, or the lease of a run that may be repeated was not
    renewed in time. In the second case, the renewals continue.
    """
    refused = LeaseLost(f"run {granted.run_id} was taken over while it was running")
    late = LeaseNotRenewed(f"run {granted.run_id} was stopped: its lease could not be renewed")
    reruns = granted.policy.on_lost == "rerun"
    limit = TIMING.rerun_stop.total_seconds() if reruns else math.inf
    renewed_at = time.monotonic()
    # Do not enter the ledger's context, which would check the schema's version: the claim has done
    # that, and an upgrade during the run must not end the lease.
    ledger = Ledger(address)
    try:
        while True:
            left = renewed_at + limit - time.monotonic()
            if await asyncio.to_thread(stopped.wait, max(0.0, min(every, left))):
                return
            started_at = time.monotonic()
            if limit < math.inf and started_at - renewed_at >= TIMING.run_lease.total_seconds():
                lose(late)  # this process was suspended, and the run may already have been repeated
                limit = math.inf
            timer = None
            if limit < math.inf:  # a renewal may hang
                left = max(renewed_at + limit - started_at, TIMING.lease_check.total_seconds())
                timer = asyncio.get_running_loop().call_later(left, lose, late)
            try:
                renewed = await leases.renew(ledger, granted.run_id, granted.fence)
            except Exception as error:
                log.warning(
                    "the lease could not be renewed: %s",
                    error,
                    extra={"action": "renew_unreachable"},
                )
                if time.monotonic() - renewed_at >= limit:
                    lose(late)
                    limit = math.inf
                continue
            finally:
                if timer is not None:
                    timer.cancel()
            if not renewed:
                lose(refused)
                return
            renewed_at = started_at
    finally:
        await ledger.close()


@asynccontextmanager
async def keep_lease(address: str, granted: Granted, every: float) -> AsyncIterator[None]:
    """Renew the lease every ``every`` seconds while the block runs.

    If a renewal is refused, cancel the block and raise `LeaseLost` in place of the cancellation,
    unless the task is also being cancelled for another reason. For a run with `on_lost: rerun`, do
    the same with `LeaseNotRenewed` if no renewal succeeds for `Timing.rerun_stop`, and continue to
    renew its lease until the block has ended.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    stopped, lost = threading.Event(), list[LeaseLost]()

    def cancel(why: LeaseLost) -> None:
        # This runs in the loop, so that it never cancels a block that has just ended.
        if not stopped.is_set() and not lost:
            lost.append(why)
            task.cancel()

    def renew_in_thread() -> None:
        def lose(why: LeaseLost) -> None:
            loop.call_soon_threadsafe(cancel, why)

        asyncio.run(_renew_until(stopped, address, granted, lose, every))

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
        if lost and task.uncancel() == 0:
            raise lost[0] from None
        raise
