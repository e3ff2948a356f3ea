"""Scheduled Prefect runs of waiting rows: one per row.

This module implements promise 11 (each of the next ten waiting rows of a job has exactly one
scheduled Prefect run) and promise 12 (a free slot goes to the waiting row with the earliest due
time).

::

    its Prefect run is               then
    ───────────────────────────────  ──────────────────────────────────────────────────────────────
    scheduled at `until`             nothing
    scheduled at another time        moved; a run that waits for a slot may have been woken, so an
                                     earlier time is right too
    pending, running                 a process may have it, so it is moved only long after `until`;
                                     if the row's holder was lost, soon after `until`
    scheduled in no work queue,      deleted and created again, because Prefect offers it to no
    because its queue was deleted    worker
    cancelling                       nothing: `ended_runs` handles it
    paused                           nothing, until a user resumes or cancels it
    deleted, or none yet             created, with the key `<ledger>:<occurrence>:<n>`
    ended                            `runs.prefect_ends` decides; created if the row still waits
    of a disabled job recorded as    the row is skipped, a minute after the request: a request for a
    having no deployment             run of such a job creates a deployment
    refused by Prefect               created after a delay that doubles; after some refusals the row
                                     fails (`runs.prefect_ends.record_refusal`)

A leader reads a run that it has found on time again in its turn, at the latest after about a minute
(`OnTimeRows`).

With the same key, two processes, or a second attempt after a crash, get the same run. If that run
has ended, the pass uses the next number. Before the pass moves a run, it reads the row again. After
the move, it reads the replaced state, so a state that was set in between is not lost
(`flow_runs.change_state`). A run that was started meanwhile continues under a wrong state until it
ends: no other process gets the claim on its row.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError

from daybook import settings
from daybook.errors import UnreadableJob
from daybook.jobs import store
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.prefect import (
    conversations,
    deployment,
    ended_runs,
    flow_runs,
    links,
    projection,
    run_names,
    states,
)
from daybook.runs import claim_requests, claims, outcomes, prefect_ends, slots, waiting_runs
from daybook.timing import TIMING

log = logging.getLogger(__name__)

START_TOLERANCE = timedelta(seconds=1)
"""Maximum difference between the scheduled start of a Prefect run and the intended one."""
MAX_REFUSAL_LENGTH = 1000
"""Maximum length of a refusal of Prefect that the ledger records, in characters."""
REQUEST_GRACE = timedelta(seconds=5)
"""Time in which the process that requested a run has to create the Prefect run."""
WAKE_GRACE = timedelta(seconds=5)
"""Time in which a worker has to start a run that it woke; then the leader wakes the run again."""
LOST_GRACE = timedelta(seconds=5)
"""Time in which the process that found a holder lost has to move the holder's Prefect run."""
MAX_KEYS_PER_PASS = 5
"""Maximum number of keys that one pass tries for a row."""
MAX_WRITES_PER_PASS = 50
"""Maximum number of runs moved and created in one pass, earliest due first; they take about 2 s."""
READ_AGAIN = 50
MAX_TURN_PASSES = 12
"""One pass reads so many of the runs that earlier passes found on time, but never fewer than the
twelfth part, so that each of them is read about once a minute.
"""


@dataclass
class EnsureResult:
    """Ids of the flow runs that were moved and created, and the number of rows that were ``left``.

    ``left`` counts rows without a deployment, rows that Prefect refuses, rows whose job cannot be
    read, and rows that were changed since they were read; the next pass tries them again. It does
    not count rows beyond `MAX_WRITES_PER_PASS`.
    """

    moved: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    left: int = 0

    def __bool__(self) -> bool:
        return bool(self.moved or self.made)


class OnTimeRows:
    """The rows that the passes of one leader found scheduled on time.

    If hundreds of runs wait, reading all of them in each pass would take a fifth of a busy machine.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[object, ...]] = {}
        """`_version` by the id of the row; the row that was read longest ago is the first one."""

    def choose(self, rows: Sequence[RunRow]) -> list[RunRow]:
        """Return the rows to read, in the given order.

        These are the rows that were not found on time since their last change, and a part of the
        others, in turn.
        """
        known = {row.id for row in rows if self._found.get(row.id) == _version(row)}
        self._found = {each: found for each, found in self._found.items() if each in known}
        part = max(READ_AGAIN, math.ceil(len(self._found) / MAX_TURN_PASSES))
        again = set(islice(self._found, part))
        return [row for row in rows if row.id not in known or row.id in again]

    def update(self, read: Sequence[RunRow], on_time: Set[str]) -> None:
        """Record that a pass has read these rows and found the flow runs ``on_time``."""
        for row in read:
            self._found.pop(row.id, None)
            if row.flow_run_id in on_time:
                self._found[row.id] = _version(row)


def _version(row: RunRow) -> tuple[object, ...]:
    """Return the columns on which the Prefect run of a waiting row depends."""
    return row.fence, row.until, row.flow_run_id, row.waits_for


async def ensure_all(
    ledger: Ledger,
    client: PrefectClient,
    *,
    supervised: Collection[str] = (),
    on_time: OnTimeRows | None = None,
) -> EnsureResult:
    """Ensure that each of the next waiting rows of each job has its Prefect run.

    Leave out the flow runs in ``supervised``: the caller supervises their processes, and sets their
    states itself. Also leave out runs that were requested less than `REQUEST_GRACE` ago: the
    process that requested a run creates its Prefect run. With ``on_time``, leave out most of the
    rows that the caller's earlier passes found on time (`OnTimeRows`).
    """
    async with ledger.read() as session:
        rows = await waiting_runs.needing_prefect_run(session)
    rows = [row for row in rows if row.flow_run_id not in supervised]
    # The process that has just requested a run is about to create its Prefect run.
    since = ledger.now() - REQUEST_GRACE
    requested = {
        row.id
        for row in rows
        if row.flow_run_id is None
        and not row.prefect_runs
        and row.occurrence.startswith("request:")
        and row.queued_at > since
    }
    rows = [row for row in rows if row.id not in requested]
    if on_time is not None:
        rows = on_time.choose(rows)
    work = _EnsurePass(ledger, client)
    await work.do(rows)
    if on_time is not None:
        on_time.update(rows, set(work.due))
    return work.done


async def ensure_row(ledger: Ledger, client: PrefectClient, row: RunRow) -> EnsureResult:
    """Ensure that one row has its Prefect run now, provided that no process executes the row."""
    return await ensure_rows(ledger, client, [row], abandoned=True)


async def wake(
    ledger: Ledger,
    client: PrefectClient,
    most: int,
    *,
    at_hand: Callable[[RunRow], bool] = lambda row: False,
    known: Collection[str] = (),
    after: timedelta | None = None,
    choose: Callable[[list[RunRow]], list[RunRow]] = lambda rows: rows,
) -> list[str]:
    """Select the waiting runs that free slots can take, and schedule them for now.

    ``most`` is the maximum number of runs in progress. Return the ids of the flow runs that are
    scheduled for now, including runs that already were. Runs for which ``at_hand`` returns True
    need no change in Prefect, because the caller starts them. ``known`` is ``at_hand`` of
    `slots.wake_next`, which also defines ``after`` and ``choose``.
    """
    classes = settings.load().max_of_class
    async with ledger.read() as session:
        if not choose(await slots.next_up(session, ledger.now(), most, classes, known)):
            return []
    async with ledger.write() as session:
        rows = await slots.wake_next(
            session, ledger.now(), most, classes, at_hand=known, after=after, choose=choose
        )
    rows = [row for row in rows if not at_hand(row)]
    if not rows:
        return []
    work = _EnsurePass(ledger, client, at=ledger.now())
    await work.do(rows)
    return [*work.due, *work.done.moved, *work.done.made]


async def wake_for_idle_slots(ledger: Ledger, client: PrefectClient) -> list[str]:
    """Wake runs for free slots if no worker has done so; return their flow run ids."""
    return await wake(ledger, client, settings.load().max_concurrent, after=WAKE_GRACE)


async def ensure_rows(
    ledger: Ledger, client: PrefectClient, rows: Sequence[RunRow], *, abandoned: bool = False
) -> EnsureResult:
    """Ensure that waiting ``rows`` have their Prefect runs.

    ``abandoned`` is True if the caller has made sure that no process executes them.
    """
    work = _EnsurePass(ledger, client, abandoned=abandoned)
    await work.do(rows)
    return work.done


def _log_refusal(row: RunRow, error: PrefectHTTPStatusError) -> None:
    refused = {"action": "ensure_refused"}
    log.warning("Prefect refused run %s: %s", row.id[:8], error, extra=refused)


def _error_text(error: PrefectHTTPStatusError) -> str:
    """Return Prefect's message, without the address and the advice around it."""
    try:
        detail = error.response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = error.response.text
    return str(detail)[:MAX_REFUSAL_LENGTH] or f"HTTP {error.response.status_code}"


class _EnsurePass:
    """One pass. ``at`` is the start time for the runs; by default, it is each row's own `until`."""

    def __init__(
        self,
        ledger: Ledger,
        client: PrefectClient,
        *,
        at: datetime | None = None,
        abandoned: bool = False,
    ) -> None:
        self._ledger, self._client = ledger, client
        self._at, self._abandoned = at, abandoned
        self.done, self.due = EnsureResult(), list[str]()

    async def do(self, rows: Sequence[RunRow]) -> None:
        rows = [row for row in rows if row.state is Status.WAITING]
        rows = await self._skip_absent(rows) if rows else rows
        if not rows:
            return
        runs = await flow_runs.read(self._client, [row.flow_run_id for row in rows])
        for row in rows:
            if len(self.done.moved) + len(self.done.made) >= MAX_WRITES_PER_PASS:
                break
            try:
                await self._ensure(row, runs.get(str(row.flow_run_id)))
            except PrefectHTTPStatusError as error:
                if not flow_runs.is_run_error(error):
                    raise
                # This concerns one row only: its run could not be moved.
                self.done.left += 1
                _log_refusal(row, error)
            except UnreadableJob:  # no run of this job starts; the other jobs go on
                self.done.left += 1

    async def _skip_absent(self, rows: Sequence[RunRow]) -> list[RunRow]:
        """Skip the rows of disabled jobs that have no deployment; return the other rows."""
        async with self._ledger.read() as session:
            absent = await links.jobs_without_deployment(session)
        waiting = []
        for row in rows:
            if row.job_id in absent and row.queued_at < self._ledger.now() - links.REMOVAL_GRACE:
                async with self._ledger.write() as session:
                    if await links.skip_without_deployment(session, row.id, self._ledger.now()):
                        continue
            waiting.append(row)
        return waiting

    def _when(self, row: RunRow) -> datetime:
        return self._at or row.until or self._ledger.now()

    async def _ensure(self, row: RunRow, run: FlowRun | None) -> None:
        kind = run.state.type if run is not None and run.state is not None else None
        if prefect_ends.is_refused(row) and (row.until or row.queued_at) > self._ledger.now():
            self.done.left += 1
        elif run is None or run.state is None:
            await self._make(row, None)
        elif kind in flow_runs.ENDED_TYPES:
            # A user may have ended the run: record this end before another run is created.
            await ended_runs.record_found_end(self._ledger, self._client, run, run.state)
            newest = await self._read(row.id)
            if newest is not None and newest.state is Status.WAITING:
                await self._make(newest, run)
        elif kind is StateType.SCHEDULED and await self._is_in_no_queue(row, run):
            await self._replace(row, run)
        elif kind is StateType.SCHEDULED and self._is_on_time(row, run):
            self.due.append(str(run.id))
        elif kind is StateType.SCHEDULED or (
            kind in {StateType.PENDING, StateType.RUNNING} and self._is_abandoned(row, run)
        ):
            await self._move(row, run)

    def _is_abandoned(self, row: RunRow, run: FlowRun) -> bool:
        """Return whether no process can be expected to continue the row by itself."""
        if self._abandoned:
            return True
        until = row.until or row.queued_at
        if run.state is None or run.state.type is StateType.RUNNING:
            of_lost_start = run.run_count <= row.flow_starts  # else the run was started again
        else:  # a worker that starts the run again fetches it only some seconds before `until`
            of_lost_start = run.state.timestamp < until - TIMING.run_lease
        is_lost = row.wait_reason.holder_lost and of_lost_start
        return until < self._ledger.now() - (LOST_GRACE if is_lost else TIMING.own_wait_limit)

    def _is_on_time(self, row: RunRow, run: FlowRun) -> bool:
        at = run.next_scheduled_start_time
        if at is None:
            return False
        delay = timedelta(seconds=at.timestamp() - self._when(row).timestamp())
        # A run that waits for a slot may be held by its worker, and so be due in Prefect for long.
        # If another process wakes it, the worker notices the change in Prefect.
        is_held = row.wait_reason.for_slot and (self._at is None or delay >= -WAKE_GRACE)
        return delay <= START_TOLERANCE and (is_held or delay >= -START_TOLERANCE)

    async def _move(self, row: RunRow, run: FlowRun) -> None:
        if run.deployment_id is None or not await self._is_unchanged(row):
            self.done.left += (
                1  # a direct call, which no worker can run; or another process was faster
            )
            return
        await flow_runs.clear_process_id(self._client, run)
        change = await ended_runs.make_wait(
            self._ledger, self._client, run, self._when(row), row.reason
        )
        if change.accepted and not (change.surprise and change.over and change.over.is_final()):
            self.done.moved.append(str(run.id))
        else:
            self.done.left += 1

    async def _is_in_no_queue(self, row: RunRow, run: FlowRun) -> bool:
        """Return whether the run is in no work queue although its deployment is in one."""
        if run.work_queue_id is not None or run.deployment_id is None:
            return False
        if claim_requests.is_session_request(row.occurrence):  # no job's observer reconciles it
            await conversations.ensure_deployment(self._client, row.kind)
        # The observer has not reconciled the deployment yet if it is in no queue either.
        found = await deployment.read(self._client, str(run.deployment_id))
        return found is not None and found.work_pool_name is not None

    async def _replace(self, row: RunRow, run: FlowRun) -> None:
        """Delete the run, and create one in the queue of its deployment."""
        if not await self._is_unchanged(row):
            self.done.left += 1
            return
        with suppress(ObjectNotFound):
            await self._client.delete_flow_run(run.id)
        await self._make(row, run)

    async def _make(self, row: RunRow, old: FlowRun | None) -> None:
        target = await self._deployment(row, old)
        if target is None:
            self.done.left += 1
            return
        deployment_id, name = target
        state = states.waiting_state(self._when(row), row.reason)
        # The deployment of a job has this tag.
        tags = [projection.ledger_tag(self._ledger.id)] if row.job_id is None else []
        for _ in range(MAX_KEYS_PER_PASS):
            if not await self._is_unchanged(row):
                break
            key = f"{self._ledger.id}:{row.occurrence}:{row.prefect_runs + 1}"
            try:
                made = await deployment.create_run(
                    self._client,
                    deployment_id,
                    key,
                    row.parameters,
                    name=name,
                    state=state,
                    tags=tags,
                )
            except PrefectHTTPStatusError as error:
                if not flow_runs.is_run_error(error):
                    raise
                # For example parameters that the deployment no longer accepts.
                _log_refusal(row, error)
                await prefect_ends.record_refusal(self._ledger, row, _error_text(error))
                break
            if made is None:
                break
            if not await claims.link_prefect_run(self._ledger, row, str(made.id)):
                break  # another process has recorded the same run already, or a later one
            if made.state is None or not made.state.is_final():
                self.done.made.append(str(made.id))
                return
            row = await self._read(row.id) or row  # the run with that number has ended
        self.done.left += 1

    async def _deployment(self, row: RunRow, old: FlowRun | None) -> tuple[str, str] | None:
        """Return the deployment from which to create the run of ``row``, and the run's name.

        Return None if there is no deployment. If the job was removed, cancel the run in the ledger.
        """
        if row.job_id is None:
            if claim_requests.is_session_request(row.occurrence):
                deployment_id = await conversations.ensure_deployment(self._client, row.kind)
                name = run_names.of_call(row.kind, row.due, settings.load().timezone)
                return deployment_id, name
            has_one = old is not None and old.deployment_id is not None
            return (str(old.deployment_id), old.name) if old is not None and has_one else None
        async with self._ledger.read() as session:
            stored = await store.get(session, row.job_id)
        if stored is None or stored.row.archived_at is not None:
            # Without a Prefect run, no claim will refuse this run, so cancel it here.
            await claims.cancel(self._ledger, row.id, outcomes.REMOVED_REASON)
            return None
        if stored.row.deployment_id is None:
            return None
        return stored.row.deployment_id, run_names.of_row(stored, row)

    async def _read(self, run_id: str) -> RunRow | None:
        async with self._ledger.read() as session:
            return await session.get(RunRow, run_id)

    async def _is_unchanged(self, row: RunRow) -> bool:
        """Return whether the row is unchanged since it was read; if not, write nothing."""
        newest = await self._read(row.id)
        columns = ("status", "until", "flow_run_id", "prefect_runs")
        return newest is not None and all(
            getattr(newest, name) == getattr(row, name) for name in columns
        )
