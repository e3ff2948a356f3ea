"""Operations on the workers of the ledger. They work without Prefect."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Self

from pydantic import BaseModel
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook.api import authorization
from daybook.errors import NotFound
from daybook.instants import UtcTime
from daybook.ledger.engine import open_ledger
from daybook.ledger.states import HELD
from daybook.ledger.tables import RunRow
from daybook.runs import workers
from daybook.runs.workers import KnownWorker


class WorkerState(StrEnum):
    """Whether a worker starts runs. A lost worker has not recorded itself for a minute."""

    ONLINE = "online"
    DRAINING = "draining"
    LOST = "lost"


class ListedWorker(BaseModel, frozen=True):
    """A worker of the ledger.

    ``running`` is the number of its claimed and running runs, and ``limit`` the maximum, None for
    no limit of its own. Without ``queues``, it serves all work queues. ``memory_bytes`` is the
    memory of its own process, without its runs. ``clock_ahead_seconds`` is how far its machine's
    clock is ahead of the ledger's, 0 with SQLite. ``drained_at`` and ``drained_by`` say since when
    it drains and who requested it; a lost worker may drain too.
    """

    name: str
    state: WorkerState
    host: str
    pid: int
    version: str
    prefect_version: str
    running: int
    limit: int | None
    queues: list[str]
    labels: list[str]
    memory_bytes: int
    clock_ahead_seconds: float
    started_at: UtcTime
    seen_at: UtcTime
    drained_at: UtcTime | None
    drained_by: str

    @classmethod
    def of(cls, known: KnownWorker, running: int) -> Self:
        state = WorkerState.ONLINE if known.drain is None else WorkerState.DRAINING
        return cls(
            **known.record.model_dump(exclude={"holder", "settings"}),
            state=WorkerState.LOST if known.is_lost else state,
            running=running,
            drained_at=known.drain.at if known.drain else None,
            drained_by=known.drain.by if known.drain else "",
        )


async def list_workers() -> list[ListedWorker]:
    """Return the workers, sorted by name. A lost worker is in the list for a day, or 30 days
    while it drains. Raise `InvalidInput` if the actor is an agent.
    """
    authorization.require_operator()
    async with open_ledger() as ledger, ledger.read() as session:
        return await read(session, ledger.now())


async def read(session: AsyncSession, now: datetime) -> list[ListedWorker]:
    """Return the workers at ``now``, sorted by name."""
    known = await workers.read_all(session, now)
    held = select(RunRow.holder, func.count()).where(col(RunRow.status).in_(HELD))
    counted = (await session.execute(held.group_by(col(RunRow.holder)))).all()
    running = {holder: count for holder, count in counted}
    return [ListedWorker.of(each, running.get(each.record.holder, 0)) for each in known]


async def drain(name: str) -> ListedWorker:
    """Let a worker start no further run, also after its restart, until `resume`. Return it.

    Its active runs go on. If no other worker may start a run, the run waits. Do nothing if the
    worker drains already. Raise `NotFound`, and `InvalidInput` if the actor is an agent.
    """
    authorization.require_operator()
    async with open_ledger() as ledger:
        try:
            await workers.set_draining(ledger, name, by=authorization.person())
        except NotFound:
            raise await _not_found(name) from None
    return await _show(name)


async def resume(name: str) -> ListedWorker:
    """Let a draining worker start runs again, within seconds; do nothing if it does not drain.

    Raise `NotFound`, and `InvalidInput` if the actor is an agent.
    """
    authorization.require_operator()
    async with open_ledger() as ledger:
        try:
            await workers.resume(ledger, name)
        except NotFound:
            raise await _not_found(name) from None
    return await _show(name)


async def _show(name: str) -> ListedWorker:
    (found,) = [each for each in await list_workers() if each.name == name]
    return found


async def _not_found(name: str) -> NotFound:
    return NotFound("worker", name, known=[each.name for each in await list_workers()])
