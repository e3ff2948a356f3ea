"""Pause of the task scheduler: no wakes and no claims. Leases continue and still expire.

The pause state is one fact in the ledger, so that it outlives every process and all machines see
it. A state that cannot be read counts as paused, because no work may start while the state is
unknown.
"""

from __future__ import annotations

from datetime import datetime

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import owners
from daybook.features.tasks import model, rows
from daybook.features.tasks.tables import TaskRunRow
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact

FACT_KEY = "tasks.switch"
UNREADABLE = (
    "the pause flag in the ledger cannot be read; run `daybook task scheduler resume` or `pause`"
)


class PauseState(BaseModel, frozen=True):
    """The pause state of the scheduler, with the reason.

    ``at`` is the time of the last pause or resume (UTC). ``actor`` is the owner that last changed
    the state or the reason. If the scheduler was never paused, or if the state cannot be read,
    ``at`` is None and ``actor`` is empty.
    """

    paused: bool = False
    reason: str = ""
    at: datetime | None = None
    actor: str = ""


class _StoredPause(BaseModel):
    """The pause state, as the ledger stores it.

    A value that does not fit this model counts as paused.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    paused: bool
    reason: str
    at: AwareDatetime
    actor: str


async def read(session: AsyncSession) -> PauseState:
    """Return the pause state.

    If the transaction of a claim reads the state, the state cannot change before that transaction
    commits.
    """
    fact = await session.get(Fact, FACT_KEY, populate_existing=True)
    if fact is None:
        return PauseState()
    try:
        stored = _StoredPause.model_validate_json(fact.value)
    except ValidationError:
        return PauseState(paused=True, reason=UNREADABLE)
    return PauseState.model_validate(dict(stored))


async def pause(ledger: Ledger, reason: str = "") -> PauseState:
    """Stop wakes and claims until `resume`. Return the pause state.

    A second pause replaces only the reason. Raise `InvalidInput` for an invalid reason.
    """
    return await _set_paused(ledger, paused=True, reason=model.check_word(reason, "reason"))


async def resume(ledger: Ledger) -> PauseState:
    """Allow wakes and claims again, if the scheduler is paused. Return the pause state."""
    return await _set_paused(ledger, paused=False, reason="")


async def _set_paused(ledger: Ledger, *, paused: bool, reason: str) -> PauseState:
    async with ledger.write() as session:
        old = await read(session)
        same = old.at is not None and old.paused == paused
        at = old.at if same and old.at is not None else ledger.now()
        actor = old.actor if same and old.reason == reason else owners.current_actor().owner
        new = PauseState(paused=paused, reason=reason, at=at, actor=actor)
        if new != old and (paused or old.paused):
            await session.merge(Fact(key=FACT_KEY, value=new.model_dump_json()))
            return new
        return old


async def claimed_run_ids(session: AsyncSession, now: datetime) -> list[str]:
    """Return the ids of the claimed runs whose leases have not expired, oldest claim first."""
    held = select(TaskRunRow.id).where(rows.is_leased(now))
    return list((await session.execute(held.order_by(col(TaskRunRow.claimed_at)))).scalars())
