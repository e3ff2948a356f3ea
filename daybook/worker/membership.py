"""Membership of a worker in the fleet: its record in the ledger, and whether it drains."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache
from importlib import metadata
from typing import Any, NoReturn

from prefect.client.schemas.objects import FlowRun

from daybook import __version__, settings
from daybook.errors import InvalidInput, LedgerUnreachable
from daybook.ledger.engine import Ledger
from daybook.policies.policy import policy_from_parameters
from daybook.processes import proc
from daybook.runs import shared_settings, workers
from daybook.runs.workers import Wanted, WorkerRecord
from daybook.timing import TIMING

log = logging.getLogger(__name__)

FORGET_TIMEOUT_SECONDS = 5.0


def record_of(
    name: str,
    holder: str,
    *,
    limit: int | None,
    queues: Sequence[str],
    labels: Sequence[str],
    clock_ahead: timedelta,
    started_at: datetime,
    now: datetime,
) -> WorkerRecord:
    """Return the record of this process as a worker at ``now``."""
    return WorkerRecord(
        name=name,
        host=socket.gethostname(),
        pid=os.getpid(),
        holder=holder,
        version=__version__,
        prefect_version=_prefect_version(),
        limit=limit,
        queues=list(queues),
        labels=list(labels),
        memory_bytes=proc.memory(os.getpid()),
        clock_ahead_seconds=round(clock_ahead.total_seconds(), 3),
        started_at=started_at,
        seen_at=now,
        settings=_shared_settings(),
    )


def _shared_settings() -> dict[str, Any] | None:
    with suppress(InvalidInput):  # the claim logs it, and the run waits
        return shared_settings.changed(settings.load())
    return None


class Membership:
    """Keeps the record of the worker ``name``, which ``own_record`` returns.

    ``is_draining`` may be older than `Timing.worker_check`; the claim reads the ledger.
    """

    def __init__(
        self,
        ledger: Ledger,
        name: str,
        holder: str,
        *,
        labels: Collection[str],
        queues: Collection[str],
        own_record: Callable[[], WorkerRecord],
    ) -> None:
        self._ledger, self._name, self._holder = ledger, name, holder
        self._labels, self._queues = labels, queues
        self._own_record = own_record
        self._rival: tuple[str, int] | None = None
        self.is_draining = False

    async def keep(self) -> NoReturn:
        """Keep the record until cancelled, and remove it then, unless the worker drains."""
        recorded_at = float("-inf")
        try:
            while True:
                try:
                    if time.monotonic() - recorded_at >= TIMING.worker_record.total_seconds():
                        self._report(await workers.record(self._ledger, self._own_record()))
                        recorded_at = time.monotonic()
                    await self._read_drain()
                except LedgerUnreachable as error:
                    log.warning("cannot record this worker: %s", error)
                except Exception:
                    log.exception("cannot record this worker")
                await asyncio.sleep(TIMING.worker_check.total_seconds())
        finally:
            with suppress(TimeoutError, LedgerUnreachable):
                async with asyncio.timeout(FORGET_TIMEOUT_SECONDS):
                    await workers.forget(self._ledger, self._name, self._holder)

    def _report(self, own: WorkerRecord) -> None:
        """Log another process with the name of this worker, once."""
        rival = None if own.rival is None else (own.rival.host, own.rival.pid)
        if rival is not None and rival != self._rival:
            log.error("another worker has the name %s: pid %d on %s", own.name, *rival[::-1])
        self._rival = rival

    async def _read_drain(self) -> None:
        async with self._ledger.read() as session:
            drains = self._name in await workers.drains(session)
        if drains != self.is_draining:
            log.info("%s %s", self._name, "drains" if drains else "starts runs again")
        self.is_draining = drains

    def may_start(self, run: FlowRun) -> bool:
        """Return whether this worker may start ``run``, by what it knows without the ledger."""
        return not self.is_draining and self.fits(run)

    def fits(self, run: FlowRun) -> bool:
        """Return whether this worker may start ``run`` while it does not drain."""
        wanted = _wanted(run)
        return wanted.fits(self._labels, self._queues if wanted.queue else ())

    async def is_for_others(self, run: FlowRun) -> bool:
        """Return whether to leave ``run`` to another worker: this one may not start it.

        If no worker may start it, or none has claimed it in `workers.HANDOVER_INTERVAL`, this
        worker claims it, so that it waits with a reason.
        """
        due, now = run.next_scheduled_start_time or run.expected_start_time, self._ledger.now()
        if self.may_start(run) or due is None:
            return False
        if now.timestamp() - due.timestamp() >= workers.HANDOVER_INTERVAL.total_seconds():
            return False
        try:
            return await self.may_start_elsewhere(run)
        except LedgerUnreachable:
            return False  # the dispatcher reschedules the run

    async def may_start_elsewhere(self, run: FlowRun) -> bool:
        """Return whether another worker may start ``run``."""
        wanted, now = _wanted(run), self._ledger.now()
        async with self._ledger.read() as session:
            return await workers.anyone_takes(session, wanted, now, besides=self._name)


def _wanted(run: FlowRun) -> Wanted:
    policy = policy_from_parameters(run.parameters)
    return Wanted(policy.worker_label, run.work_queue_name or "")


@cache
def _prefect_version() -> str:
    return metadata.version("prefect")
