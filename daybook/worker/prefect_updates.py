"""What a worker changes in Prefect about the runs that it does not start: waits, ends, names."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.exceptions import ObjectNotFound

from daybook.errors import DiskFull, Unreachable
from daybook.jobs import store
from daybook.ledger.engine import Ledger
from daybook.prefect import ended_runs, run_log, run_names, states, unmirrored
from daybook.runs import waiting_runs
from daybook.runs.claim_requests import Finished, Waiting

log = logging.getLogger(__name__)

PREFECT_TIMEOUT_SECONDS = 30.0
"""Timeout for rescheduling a run, ending it or naming it in Prefect.

Prefect's client retries for more than a minute. Meanwhile the run could not be dispatched again.
"""
MAX_CONCURRENT_RESCHEDULES = 4
"""Maximum number of runs that are rescheduled in Prefect at the same time.

More would delay the requests of active runs.
"""
MAX_CONCURRENT_ENDS = 4
"""Maximum number of runs that the worker ends in Prefect at the same time without starting them.

More would delay the polls and starts, if many due times are missed because too many runs are due.
"""
UNAVAILABLE_ERRORS = (Unreachable, DiskFull, httpx.HTTPError)
UPDATE_FAILED = {"action": "prefect_update_failed"}


class PrefectUpdates:
    """The changes of one worker. ``woken`` are the runs that are about to claim."""

    def __init__(self, ledger: Ledger, client: PrefectClient, woken: Collection[UUID]) -> None:
        self._ledger, self._client, self._woken = ledger, client, woken
        self._rescheduling = asyncio.Semaphore(MAX_CONCURRENT_RESCHEDULES)
        self._ending = asyncio.Semaphore(MAX_CONCURRENT_ENDS)

    async def show_wait(self, run: FlowRun, answer: Waiting, job_id: str | None = None) -> None:
        """Reschedule a run that has to wait, and name it if its job is known.

        Do nothing for a run that was woken meanwhile.
        """
        await self._in_time(run, self._show_wait(run, answer, job_id))

    async def show_end(self, run: FlowRun, end: Finished, job_id: str | None) -> None:
        """Set the Prefect run to the state of ``end``, and name it."""
        async with self._ending:
            await self._in_time(run, self._show_end(run, end))
            await self._in_time(run, self.name(run, job_id))

    async def name(self, run: FlowRun, job_id: str | None) -> None:
        """Name a run of a job that the keeper has not named yet; log an error, do not raise it."""
        if job_id is None or run_names.is_own_name(run.name):
            return
        try:
            async with self._ledger.read() as session:
                stored = await store.get_readable(session, job_id)
            name = stored and run_names.of_new(stored, run, self._ledger.id)
            if name:
                await run_names.rename_run(self._client, run, name)
        except UNAVAILABLE_ERRORS as error:
            log.warning("cannot rename %s: %s", run.name, error, extra={"action": "name_failed"})

    async def _show_wait(self, run: FlowRun, answer: Waiting, job_id: str | None) -> None:
        # Do not wait for `_ending`: behind the ends of many runs, the run could miss its turn.
        async with self._rescheduling:
            if run.id in self._woken:
                return
            await self._reschedule(run, answer)
            await self.name(run, job_id)

    async def _reschedule(self, run: FlowRun, answer: Waiting) -> None:
        """Reschedule the run in Prefect, unless it already waits there until the same time.

        Do nothing if the run's row no longer waits as in ``answer``. Log errors of Prefect instead
        of raising them.
        """
        at, state = run.next_scheduled_start_time, run.state
        is_waiting = state is not None and state.name == states.WAITING_NAME
        # Otherwise a worker whose clock is ahead of the ledger's would keep fetching the run until
        # the ledger's clock reaches that time.
        ahead = -self._ledger.skew()
        until = answer.until + (ahead if ahead > timedelta(seconds=1) else timedelta(0))
        if is_waiting and at is not None and abs(at.timestamp() - until.timestamp()) < 1:
            return
        if answer.run_id is None:
            await self._force_state(run, states.waiting_state(until, answer.why))
        elif await waiting_runs.still_waits(self._ledger, answer):
            try:
                await ended_runs.make_wait(self._ledger, self._client, run, until, answer.why)
            except httpx.HTTPError as error:
                # The run is still scheduled, so the next poll fetches it again.
                log.warning("cannot update Prefect: %r", error, extra=UPDATE_FAILED)

    @staticmethod
    async def _in_time(run: FlowRun, work: Awaitable[None]) -> None:
        """Await ``work`` about ``run`` for at most `PREFECT_TIMEOUT_SECONDS`; log a timeout.

        If the run is still scheduled afterwards, the next poll fetches it again.
        """
        try:
            async with asyncio.timeout(PREFECT_TIMEOUT_SECONDS):
                await work
        except TimeoutError:
            log.warning("cannot update %s in Prefect in time", run.name, extra=UPDATE_FAILED)

    async def _show_end(self, run: FlowRun, end: Finished) -> None:
        """Set the Prefect run to the state of ``end``."""
        message = states.outcome_message(end.status, end.run_id, end.error, end.reason)
        if not await self._force_state(run, states.terminal_state(end.status, message)):
            return
        await run_log.write_ends(self._client, [run_log.End(run.id, end.status, message)])
        if end.flow_run_id == str(run.id) and end.run_id:
            await unmirrored.clear_mark(self._ledger, end.run_id, end.status)

    async def _force_state(self, run: FlowRun, state: State[Any]) -> bool:
        try:
            await self._client.set_flow_run_state(run.id, state, force=True)
        except ObjectNotFound:
            return True  # deleted, so there is no state to set
        except httpx.HTTPError as error:
            # The run is still scheduled, so the next poll fetches it again.
            log.warning("cannot update Prefect: %r", error, extra=UPDATE_FAILED)
            return False
        return True
