"""Workers of a ledger: what each of them records about itself, and which of them drain.

::

    no record ──starts──► online ◄──resume── drain──► draining
                            │ ▲                          │
                            └─┴── not seen for ──────────┴─► lost
                                  `Timing.run_lease`

A draining worker starts no run, and its active runs go on. A worker has a name of its own
(`daybook.worker.names`), so it still drains after a restart. The ledger's facts have the records
and the drains, so no table is needed. A worker that ends removes its record, unless it drains.

The claim decides with these facts (`refusal`): a worker that drains, or lacks the label of the run,
gets no run. While another worker may take a run, such a worker does not even claim it. If there is
none, the claim makes the run wait, with this reason.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Self

from pydantic import BaseModel
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.errors import NotFound
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact
from daybook.ledger.views import UtcTime
from daybook.policies.policy import Policy
from daybook.timing import TIMING

RETRY_INTERVAL = timedelta(seconds=15)
"""How long a run waits before it claims again if no worker may take it."""
HANDOVER_INTERVAL = timedelta(seconds=5)
"""How long a run waits before it claims again if another worker may take it."""
RETENTION_AGE = timedelta(days=1)
"""Age at which the record of a worker that is not seen any more is deleted."""

_RECORD, _DRAIN = "worker:", "drained worker:"


class WorkerRecord(BaseModel, frozen=True):
    """What a worker records about itself.

    ``holder`` is its name in leases. ``limit`` is its maximum number of runs, None for no limit.
    Without ``queues``, it serves all queues. ``memory_bytes`` is the memory of its own process,
    without its runs. ``clock_ahead_seconds`` is how far its clock is ahead of the ledger's.
    ``settings`` are its shared settings that differ from the default (`shared_settings`), None if
    its settings are not valid.
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

    def may_take(self, policy: Policy) -> bool:
        """Return whether it may start a run with this policy."""
        if self.is_lost or self.drain is not None:
            return False
        return has_label(policy, self.record.labels) and (
            bool(policy.worker_label)
            or not self.record.queues
            or policy.class_ in self.record.queues
        )


class Refusal(NamedTuple):
    """Why a worker may not take a run, and when the run should claim again."""

    why: str
    until: datetime


def has_label(policy: Policy, labels: Collection[str]) -> bool:
    """Return whether a worker with these labels may start a run with this policy."""
    return not policy.worker_label or policy.worker_label in labels


async def record(ledger: Ledger, own: WorkerRecord) -> None:
    """Store a worker's record, and delete the old records of others."""
    async with ledger.write() as session:
        now = ledger.now()
        drained = await drains(session)
        for each in await _records(session):
            if each.seen_at < now - RETENTION_AGE and each.name not in drained:
                await _delete(session, _RECORD + each.name)
        await session.merge(Fact(key=_RECORD + own.name, value=own.model_dump_json()))


async def forget(ledger: Ledger, name: str, holder: str) -> None:
    """Remove the record of a worker that ends, unless it drains, or a later process has it."""
    async with ledger.write() as session:
        stored = await session.get(Fact, _RECORD + name)
        is_own = (
            stored is not None and WorkerRecord.model_validate_json(stored.value).holder == holder
        )
        if is_own and await session.get(Fact, _DRAIN + name) is None:
            await _delete(session, _RECORD + name)


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
        if await session.get(Fact, _DRAIN + name) is None:
            drain = Drain(at=ledger.now(), by=by)
            session.add(Fact(key=_DRAIN + name, value=drain.model_dump_json()))


async def resume(ledger: Ledger, name: str) -> None:
    """Let a worker start runs again; do nothing if it does not drain. Raise `NotFound`."""
    async with ledger.write() as session:
        if await session.get(Fact, _RECORD + name) is None:
            raise NotFound("worker", name)
        await _delete(session, _DRAIN + name)


async def anyone_takes(
    session: AsyncSession, policy: Policy, now: datetime, *, besides: str
) -> bool:
    """Return whether another worker than ``besides`` may take a run with this policy."""
    others = await read_all(session, now)
    return any(each.may_take(policy) for each in others if each.record.name != besides)


async def refusal(
    session: AsyncSession, policy: Policy, now: datetime, *, worker: str, labels: Collection[str]
) -> Refusal | None:
    """Return why ``worker`` may not take a run with this policy; None if it may."""
    is_labelled = has_label(policy, labels)
    if is_labelled and await session.get(Fact, _DRAIN + worker) is None:
        return None
    known = await read_all(session, now)
    if any(each.may_take(policy) for each in known if each.record.name != worker):
        return Refusal("another worker takes it", now + HANDOVER_INTERVAL)
    return Refusal(nobody_takes(policy, known), now + RETRY_INTERVAL)


def nobody_takes(policy: Policy, known: Iterable[KnownWorker]) -> str:
    """Return why none of the known workers may take a run with this policy."""
    online = [each for each in known if not each.is_lost]
    with_label = [each for each in online if has_label(policy, each.record.labels)]
    draining = [each.record.name for each in with_label if each.drain is not None]
    label = f" with the label {policy.worker_label}" if policy.worker_label else ""
    if not with_label:
        return f"no worker{label} is online"
    if len(draining) == 1:
        return f"the worker {draining[0]} is draining"
    return f"every worker{label} is draining" if draining else f"no worker{label} serves its queue"


async def _records(session: AsyncSession) -> list[WorkerRecord]:
    return [WorkerRecord.model_validate_json(each) for _, each in await _facts(session, _RECORD)]


async def _facts(session: AsyncSession, prefix: str) -> list[tuple[str, str]]:
    """Return the rest of each key after ``prefix``, with its value."""
    query = select(Fact).where(col(Fact.key).startswith(prefix))
    facts = (await session.execute(query)).scalars()
    return [(fact.key.removeprefix(prefix), fact.value) for fact in facts]


async def _delete(session: AsyncSession, key: str) -> None:
    await session.execute(delete(Fact).where(col(Fact.key) == key))
