"""Ensure: a waiting row has exactly one scheduled Prefect run (`docs/promise.md` 11, 12).

::

    its Prefect run is               then
    ───────────────────────────────  ──────────────────────────────────────────────────────────────
    scheduled at `until`             nothing
    scheduled at another time        moved; one that waits for a slot may have been woken: earlier
                                     is right too
    pending, running                 somebody may be at it, so only long after `until` moved
    cancelling, paused               nothing: `ends` sees to it
    gone, or there is none           made, under the key `<ledger>:<occurrence>:<n>`
    ended                            `ends` decides; made when the row still waits then
    of a job that is off, without a  skipped, a minute after it was asked for: who asks for a run of
    deployment by agreement          such a job makes one
    refused by Prefect               made after a pause that doubles; after some refusals the row
                                     has failed (`ledger.ends.refused`)

The key makes two processes, or a second try after a crash, have the same run. It gives an ended run
too: then the next number is taken. Before a run is moved the row is read again, and afterwards what
was moved: a state that came in between is not lost (`prefect_runs.change`). A run that was started
in between goes on under a wrong state until it ends: nobody else is granted its row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import PrefectHTTPStatusError

from daybook import settings
from daybook.jobs import store
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import RunRow
from daybook.prefect import deployment, ended_runs, flow_runs, run_names, states
from daybook.prefect import links as records
from daybook.runs import claims, slots, waiting_runs
from daybook.runs import prefect_ends as book
from daybook.timing import TIMING

log = logging.getLogger(__name__)

NEAR = timedelta(seconds=1)
WORDS = 1000
"""How many characters of a refusal are kept."""
ASKING = timedelta(seconds=5)
"""How long who asks for a run has to make its Prefect run."""
CALLED = timedelta(seconds=5)
"""How long a worker that called a run up has to start it before the leader looks after it."""
MOST_KEYS = 5
"""How many numbers are tried in one pass for a row."""
MOST_WRITES = 50
"""How many runs are moved and made in one pass, the earliest due first: about two seconds."""


@dataclass
class Ensured:
    """The flow runs that were moved and made, by id, and how many rows were left without one.

    Left is a row without a deployment, one that Prefect refuses, and one that somebody changed
    meanwhile; the next pass looks again.
    """

    moved: list[str] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    left: int = 0

    def __bool__(self) -> bool:
        return bool(self.moved or self.made)


async def ensure(
    ledger: Ledger, client: PrefectClient, *, supervised: Collection[str] = ()
) -> Ensured:
    """One pass over the next waiting rows of each job.

    ``supervised`` are the flow runs whose processes the caller watches: their states are its own.
    """
    async with ledger.read() as session:
        rows = await waiting_runs.to_ensure(session, ledger.now())
    rows = [row for row in rows if row.flow_run_id not in supervised]
    rows = [row for row in rows if not _just_asked(row, ledger.now())]
    return await these(ledger, client, rows)


async def one(ledger: Ledger, client: PrefectClient, row: RunRow) -> Ensured:
    """The same for one row, at once: no process of it lives."""
    return await these(ledger, client, [row], abandoned=True)


async def wake(
    ledger: Ledger,
    client: PrefectClient,
    most: int,
    *,
    at_hand: Callable[[RunRow], bool] = lambda row: False,
    after: timedelta | None = None,
) -> list[str]:
    """Call up the runs that the free slots can take, of ``most`` in all, and schedule them for now.

    Returns the flow runs that are scheduled for now, including those that were so before. Runs that
    are ``at_hand`` need nothing in Prefect: the caller starts them. ``after`` is that of
    `slots.call_up`.
    """
    classes = settings.load().max_of_class
    async with ledger.read() as session:
        if not await slots.next_up(session, ledger.now(), most, classes):
            return []
    async with ledger.write() as session:
        rows = await slots.call_up(session, ledger.now(), most, classes, after=after)
    rows = [row for row in rows if not at_hand(row)]
    if not rows:
        return []
    work = _Pass(ledger, client, at=ledger.now())
    await work.do(rows)
    return [*work.due, *work.done.moved, *work.done.made]


async def idle_slots(ledger: Ledger, client: PrefectClient) -> list[str]:
    """The same, if no worker has done it: the leader's net under `wake`."""
    return await wake(ledger, client, settings.load().max_concurrent, after=CALLED)


async def these(
    ledger: Ledger, client: PrefectClient, rows: Sequence[RunRow], *, abandoned: bool = False
) -> Ensured:
    """The same for those of ``rows`` that wait; ``abandoned`` says that no process has them."""
    work = _Pass(ledger, client, abandoned=abandoned)
    await work.do(rows)
    return work.done


def _just_asked(row: RunRow, now: datetime) -> bool:
    """Whether somebody who asked for the run is about to make its Prefect run."""
    fresh = row.flow_run_id is None and not row.prefect_runs
    return fresh and row.occurrence.startswith("request:") and row.queued_at > now - ASKING


def _words(error: PrefectHTTPStatusError) -> str:
    """What Prefect said, without the address and the advice around it."""
    try:
        detail = error.response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = error.response.text
    return str(detail)[:WORDS] or f"HTTP {error.response.status_code}"


class _Pass:
    """One pass. ``at`` is when the runs are to start; without it each row's own `until`."""

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
        self.done, self.due = Ensured(), list[str]()

    async def do(self, rows: Sequence[RunRow]) -> None:
        rows = [row for row in rows if row.state is Status.WAITING]
        rows = await self._without_skipped(rows) if rows else rows
        if not rows:
            return
        runs = await flow_runs.read(self._client, [row.flow_run_id for row in rows])
        for row in rows:
            if len(self.done.moved) + len(self.done.made) >= MOST_WRITES:
                break
            try:
                await self._see_to(row, runs.get(str(row.flow_run_id)))
            except PrefectHTTPStatusError as error:
                if not flow_runs.is_of_one(error):
                    raise
                # This one row's trouble: its run may not be moved.
                self.done.left += 1
                log.warning("run %s: %s", row.id[:8], error, extra={"action": "ensure_refused"})

    async def _without_skipped(self, rows: Sequence[RunRow]) -> list[RunRow]:
        """Those of ``rows`` that still wait; of the others the job is off, and not in Prefect."""
        async with self._ledger.read() as session:
            absent = await records.absent(session)
        left = []
        for row in rows:
            if row.job_id in absent and row.queued_at < self._ledger.now() - records.FRESH:
                async with self._ledger.write() as session:
                    if await records.skip_of_absent(session, row.id, self._ledger.now()):
                        continue
            left.append(row)
        return left

    def _when(self, row: RunRow) -> datetime:
        return self._at or row.until or self._ledger.now()

    async def _see_to(self, row: RunRow, run: FlowRun | None) -> None:
        kind = run.state.type if run is not None and run.state is not None else None
        if row.waits_for == book.REFUSED and (row.until or row.queued_at) > self._ledger.now():
            self.done.left += 1
        elif run is None or run.state is None:
            await self._make(row, None)
        elif kind in flow_runs.ENDED:
            # Somebody's wish, perhaps: what it means is decided before another run is made.
            await ended_runs.met(self._ledger, self._client, run, run.state)
            newest = await self._read(row.id)
            if newest is not None and newest.state is Status.WAITING:
                await self._make(newest, run)
        elif kind is StateType.SCHEDULED and self._stands_right(row, run):
            self.due.append(str(run.id))
        elif kind is StateType.SCHEDULED or (
            kind in {StateType.PENDING, StateType.RUNNING} and self._left_alone(row)
        ):
            await self._move(row, run)

    def _stands_right(self, row: RunRow, run: FlowRun) -> bool:
        at = run.next_scheduled_start_time
        if at is None:
            return False
        late = timedelta(seconds=at.timestamp() - self._when(row).timestamp())
        return late <= NEAR and (row.waits_for in (slots.SLOT, slots.WORKER) or late >= -NEAR)

    def _left_alone(self, row: RunRow) -> bool:
        """Whether no process can be expected to come back to the row by itself."""
        until = row.until or row.queued_at
        return self._abandoned or until < self._ledger.now() - TIMING.own_wait_limit

    async def _move(self, row: RunRow, run: FlowRun) -> None:
        if run.deployment_id is None or not await self._unchanged(row):
            self.done.left += 1  # a direct call, which no worker can run; or somebody was quicker
            return
        await flow_runs.forget_process(self._client, run)
        change = await ended_runs.let_wait(
            self._ledger, self._client, run, self._when(row), row.reason
        )
        if change.accepted and not (change.surprise and change.over and change.over.is_final()):
            self.done.moved.append(str(run.id))
        else:
            self.done.left += 1

    async def _make(self, row: RunRow, old: FlowRun | None) -> None:
        found = await self._deployment(row, old)
        if found is None:
            self.done.left += 1
            return
        deployment_id, name = found
        state = states.waiting(self._when(row), row.reason)
        for _ in range(MOST_KEYS):
            if not await self._unchanged(row):
                break
            key = f"{self._ledger.id}:{row.occurrence}:{row.prefect_runs + 1}"
            try:
                made = await deployment.make_run(
                    self._client, deployment_id, key, row.parameters, name=name, state=state
                )
            except PrefectHTTPStatusError as error:
                if not flow_runs.is_of_one(error):
                    raise
                # Such as parameters that the deployment refuses now.
                log.warning("run %s: %s", row.id[:8], error, extra={"action": "ensure_refused"})
                await book.refused(self._ledger, row, _words(error))
                break
            if made is None:
                break
            if not await claims.carried_by(self._ledger, row, str(made.id)):
                break  # another process wrote down the same run already, or a later one
            if made.state is None or not made.state.is_final():
                self.done.made.append(str(made.id))
                return
            row = await self._read(row.id) or row  # that number was taken, and its run has ended
        self.done.left += 1

    async def _deployment(self, row: RunRow, old: FlowRun | None) -> tuple[str, str] | None:
        """Return the deployment of which a run is made for ``row``, and that run's name."""
        if row.job_id is None:
            has_one = old is not None and old.deployment_id is not None
            return (str(old.deployment_id), old.name) if old is not None and has_one else None
        async with self._ledger.read() as session:
            stored = await store.get(session, row.job_id)
        if stored is None or stored.row.archived_at is not None:
            # No claim will come to refuse it, so it ends here.
            await claims.cancel(self._ledger, row.id, "the job was removed")
            return None
        if stored.row.deployment_id is None:
            return None
        return stored.row.deployment_id, run_names.of_row(stored, row)

    async def _read(self, run_id: str) -> RunRow | None:
        async with self._ledger.read() as session:
            return await session.get(RunRow, run_id)

    async def _unchanged(self, row: RunRow) -> bool:
        """Whether the row still waits as it was read: what is written next rests on that."""
        newest = await self._read(row.id)
        same = ("status", "until", "flow_run_id", "prefect_runs")
        return newest is not None and all(
            getattr(newest, name) == getattr(row, name) for name in same
        )
