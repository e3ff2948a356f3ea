"""Workers of a ledger: what each of them records about itself, and which of them drain.

::

    no record ──starts──► online ◄──resume── drain──► draining
                            │ ▲                          │
                            └─┴── not seen for ──────────┴─► lost
                                  `Timing.run_lease`

A draining worker starts no run, and its active runs go on. A worker has a name of its own
(`daybook.worker.names`), so it still drains after a restart. The ledger's facts have the records
and the drains, so no table is needed. A worker that ends removes its record, unless it drains.

The claim decides with these facts (`refusal`). A worker gets no run while it drains, if it lacks
the label of the run, or if it does not serve the run's queue::

    another worker may take the run   this worker does not claim it for `HANDOVER_INTERVAL` after
                                      its time, and then claims it, so that each run is claimed
    no other worker may take it       this worker claims it at once, and it waits with the reason

A run that waits for a worker claims again ever later. It claims at once when a worker that has its
label appears or is resumed (`_wake`), and so does a run that waits for room in a worker.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

from pydantic import BaseModel
from sqlalchemy import delete, func, or_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.errors import NotFound
from daybook.instants import UtcTime
from daybook.ledger import waits
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.ledger.tables import Fact, RunRow
from daybook.runs import slots
from daybook.timing import TIMING

MIN_RETRY_INTERVAL = timedelta(seconds=15)
MAX_RETRY_INTERVAL = timedelta(minutes=5)
"""How long a run waits before it claims again if no worker may take it: as long as it has waited
since it was due, but between these two.
"""
INTERVAL_PER_RUN = timedelta(seconds=1)
MAX_INTERVAL_OF_MANY = timedelta(minutes=15)
"""If many runs wait for a worker, a run waits longer: a second for each of the others, but at most
this long. A worker that starts, or is resumed, wakes those whose label it has (`_wake`).
"""
HANDOVER_INTERVAL = timedelta(seconds=15)
"""How long a worker that may not start a run leaves it to the workers that may."""
RETENTION_AGE = timedelta(days=1)
"""Age at which the record of a worker that is not seen any more is deleted."""
DRAINED_RETENTION_AGE = timedelta(days=30)
"""Age at which the record and the drain of a drained worker that is not seen any more are deleted.
"""

MAX_NAME_LENGTH = 100
"""Maximum number of characters of a worker's name in the ledger."""

_RECORD, _DRAIN = "worker:", "drained worker:"


class Rival(BaseModel, frozen=True):
    """Another process with the name of a worker, and when it was last seen."""

    host: str
    pid: int
    seen_at: UtcTime


class WorkerRecord(BaseModel, frozen=True):
    """What a worker records about itself.

    ``holder`` is its name in leases. ``limit`` is its maximum number of runs, None for no limit.
    Without ``queues``, it serves all queues. ``memory_bytes`` is the memory of its own process,
    without its runs. ``clock_ahead_seconds`` is how far its clock is ahead of the ledger's.
    ``settings`` are its shared settings that differ from the default (`shared_settings`), None if
    its settings are not valid.
    ``rival`` is another living process that records itself under the same name.
    """

    name: str
    host: str
    pid: int
    holder: str
    version: str
    prefect_version: str
    limit: int | None
    queues: list[str]
    labels: list[str]
    memory_bytes: int
    clock_ahead_seconds: float
    started_at: UtcTime
    seen_at: UtcTime
    settings: dict[str, Any] | None = None
    rival: Rival | None = None

    def replacing(self, before: Self | None) -> Self:
        """Return this record with its rival: a process that was seen since this one has started.

        ``before`` is the stored record. A rival stays one until it is not seen for a lease.
        """
        if before is None:
            return self
        rival = before.rival
        if before.holder != self.holder:
            seen = Rival(host=before.host, pid=before.pid, seen_at=before.seen_at)
            rival = seen if before.seen_at > self.started_at else None
        if rival is not None and rival.seen_at + TIMING.run_lease <= self.seen_at:
            rival = None
        return self.model_copy(update={"rival": rival})


class Drain(BaseModel, frozen=True):
    """When a person drained a worker, and who."""

    at: UtcTime
    by: str


class KnownWorker(BaseModel, frozen=True):
    """A worker with its drain, if any; ``is_lost`` is True if it was not seen for a lease."""

    record: WorkerRecord
    drain: Drain | None
    is_lost: bool

    @classmethod
    def of(cls, record: WorkerRecord, drain: Drain | None, now: datetime) -> Self:
        return cls(record=record, drain=drain, is_lost=record.seen_at + TIMING.run_lease <= now)

    def may_take(self, wanted: Wanted) -> bool:
        """Return whether it may start the run."""
        if self.is_lost or self.drain is not None:
            return False
        return wanted.fits(self.record.labels, self.record.queues)


class Wanted(NamedTuple):
    """What a run needs: a worker with ``label``, "" for any, that serves its work queue.

    ``queue`` is the queue in which the run is in Prefect, "" if it is unknown.
    """

    label: str
    queue: str

    def has_label(self, labels: Collection[str]) -> bool:
        return not self.label or self.label in labels

    def fits(self, labels: Collection[str], queues: Collection[str]) -> bool:
        """Return whether a worker with these labels and queues (none: all) may start the run."""
        return self.has_label(labels) and (not queues or self.queue in queues)


class Refusal(NamedTuple):
    """Why a worker may not take a run, and when the run should claim again."""

    why: str
    until: datetime


def drain_key(name: str) -> str:
    """Return the key of the fact that a worker drains."""
    return _DRAIN + name


def plain_name(name: str) -> str:
    """Return a worker's name as the ledger has it: in records and drains, and in holders.

    A holder is also the name of a file (`runs.holders`), so other characters become `_`.
    """
    return re.sub(r"[^\w.-]", "_", name)[:MAX_NAME_LENGTH]


async def record(ledger: Ledger, own: WorkerRecord) -> WorkerRecord:
    """Store a worker's record, with its rival, and delete the old records of others. Return it.

    If the worker has started or was lost, wake the runs that wait for such a worker (`_wake`).
    """
    async with ledger.write() as session:
        now = ledger.now()
        before = await _read(session, own.name)
        known = before is not None and before.holder == own.holder
        if before is None or not known or KnownWorker.of(before, None, now).is_lost:
            await _wake(session, own, now)
        drained = await drains(session)
        for each in await _records(session):
            age = DRAINED_RETENTION_AGE if each.name in drained else RETENTION_AGE
            if each.seen_at < now - age:
                await _delete(session, _RECORD + each.name)
                await _delete(session, drain_key(each.name))
        own = own.replacing(before)
        await session.merge(Fact(key=_RECORD + own.name, value=own.model_dump_json()))
        return own


async def forget(ledger: Ledger, name: str, holder: str) -> None:
    """Remove the record of a worker that ends, unless it drains, or a later process has it."""
    async with ledger.write() as session:
        stored = await _read(session, name)
        is_own = stored is not None and stored.holder == holder
        if is_own and await session.get(Fact, drain_key(name)) is None:
            await _delete(session, _RECORD + name)


async def has_name_alone(session: AsyncSession, name: str, now: datetime) -> bool:
    """Return whether surely no other living process has the name of a worker.

    A worker that was started less than a lease ago may not know its rival yet.
    """
    own = await _read(session, name)
    if own is None or own.rival is not None:
        return False
    return own.started_at + TIMING.run_lease <= now < own.seen_at + TIMING.run_lease


async def read_all(session: AsyncSession, now: datetime) -> list[KnownWorker]:
    """Return the workers, sorted by name."""
    drained = await drains(session)
    found = [KnownWorker.of(each, drained.get(each.name), now) for each in await _records(session)]
    return sorted(found, key=lambda each: each.record.name)


async def drains(session: AsyncSession) -> dict[str, Drain]:
    """Return the drains by the names of the workers."""
    facts = await _facts(session, _DRAIN)
    return {name: Drain.model_validate_json(value) for name, value in facts}


async def set_draining(ledger: Ledger, name: str, *, by: str) -> None:
    """Let a worker drain from now on; do nothing if it does. Raise `NotFound`."""
    async with ledger.write() as session:
        if await session.get(Fact, _RECORD + name) is None:
            raise NotFound("worker", name)
        if await session.get(Fact, drain_key(name)) is None:
            drain = Drain(at=ledger.now(), by=by)
            session.add(Fact(key=drain_key(name), value=drain.model_dump_json()))


async def resume(ledger: Ledger, name: str) -> None:
    """Let a worker start runs again; do nothing if it does not drain. Raise `NotFound`."""
    async with ledger.write() as session:
        resumed = await _read(session, name)
        if resumed is None:
            raise NotFound("worker", name)
        await _delete(session, drain_key(name))
        await _wake(session, resumed, ledger.now())


async def anyone_takes(
    session: AsyncSession, wanted: Wanted, now: datetime, *, besides: str
) -> bool:
    """Return whether another worker than ``besides`` may take the run."""
    others = await read_all(session, now)
    return any(each.may_take(wanted) for each in others if each.record.name != besides)


async def refusal(
    session: AsyncSession,
    wanted: Wanted,
    now: datetime,
    *,
    worker: str,
    labels: Collection[str],
    queues: Collection[str],
    is_draining: Callable[[], Awaitable[bool]],
    since: datetime,
) -> Refusal | None:
    """Return why ``worker``, with these labels and queues, may not take a run; None if it may.

    The run waits ``since`` then; ``is_draining`` returns whether ``worker`` drains. A run in an
    unknown queue was given to this worker by Prefect, so only its label matters.
    """
    fits = wanted.fits(labels, queues if wanted.queue else ())
    if fits and not await is_draining():
        return None
    known = await read_all(session, now)
    if any(each.may_take(wanted) for each in known if each.record.name != worker):
        return Refusal("another worker takes it", now + HANDOVER_INTERVAL)
    pause = min(max(now - since, MIN_RETRY_INTERVAL), MAX_RETRY_INTERVAL)
    # The woken runs do not count, so that their next claims are spread.
    waiting = select(func.count()).select_from(RunRow).where(*_WAITS_FOR_WORKER)
    later = (await session.execute(waiting.where(col(RunRow.until) > now))).scalar_one()
    of_many = INTERVAL_PER_RUN * later
    pause = max(pause, min(of_many, MAX_INTERVAL_OF_MANY))
    return Refusal(nobody_takes(wanted, known), now + pause)


def nobody_takes(wanted: Wanted, known: Iterable[KnownWorker]) -> str:
    """Return why none of the known workers may take the run."""
    online = [each for each in known if not each.is_lost]
    with_label = [each for each in online if wanted.has_label(each.record.labels)]
    serving = [each for each in with_label if wanted.fits(each.record.labels, each.record.queues)]
    label = f" with the label {wanted.label}" if wanted.label else ""
    if not with_label:
        return f"no worker{label} is online"
    draining = [each.record.name for each in serving if each.drain is not None]
    if not draining:
        queue = f"the queue {wanted.queue}" if wanted.queue else "its queue"
        return f"no worker{label} serves {queue}"
    if len(draining) == 1:
        return f"the worker {draining[0]} is draining"
    return f"every worker{label} is draining"


_WAITS_FOR_WORKER = (
    col(RunRow.status) == Status.WAITING,
    col(RunRow.waits_for) == waits.NO_WORKER.name,
)
_WAITS_FOR_ANY_WORKER = (
    col(RunRow.status) == Status.WAITING,
    col(RunRow.waits_for).in_((waits.NO_WORKER.name, waits.WORKER.name)),
)


async def _wake(session: AsyncSession, worker: WorkerRecord, now: datetime) -> None:
    """Let the runs that wait for a worker, or for room in one, claim now.

    Leave out the runs whose label ``worker`` lacks. If an edit has changed the label of a due time
    since its last claim, its next claim finds out.
    """
    later = or_(col(RunRow.until).is_(None), col(RunRow.until) > now)
    fits = slots.has_label(worker.labels)
    woken = update(RunRow).where(*_WAITS_FOR_ANY_WORKER, later, fits).values(until=now)
    await session.execute(woken, execution_options={"synchronize_session": False})


async def _records(session: AsyncSession) -> list[WorkerRecord]:
    return [WorkerRecord.model_validate_json(each) for _, each in await _facts(session, _RECORD)]


async def _read(session: AsyncSession, name: str) -> WorkerRecord | None:
    stored = await session.get(Fact, _RECORD + name)
    return None if stored is None else WorkerRecord.model_validate_json(stored.value)


async def _facts(session: AsyncSession, prefix: str) -> list[tuple[str, str]]:
    """Return the rest of each key after ``prefix``, with its value."""
    query = select(Fact).where(col(Fact.key).startswith(prefix))
    facts = (await session.execute(query)).scalars()
    return [(fact.key.removeprefix(prefix), fact.value) for fact in facts]


async def _delete(session: AsyncSession, key: str) -> None:
    await session.execute(delete(Fact).where(col(Fact.key) == key))
