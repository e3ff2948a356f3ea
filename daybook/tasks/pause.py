"""The scheduler's pause: nobody is woken and nothing is claimed; leases and the sweep go on.

It stands in the ledger as one fact, so that it outlives every process and all machines see it. One
that cannot be read counts as paused: who cannot tell whether work may begin begins none.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import owners
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact
from daybook.ledger.task_tables import TaskRunRow
from daybook.tasks import model, rows

FACT = "tasks.switch"
UNREADABLE = "the pause flag in the ledger cannot be read; resume or pause writes it anew"


@dataclass(frozen=True)
class Switch:
    """Whether the scheduler is paused, why, since when, and by whom.

    ``at`` is None, and ``actor`` empty, where it was never switched, or cannot be read.
    """

    paused: bool = False
    reason: str = ""
    at: datetime | None = None
    actor: str = ""

    def as_json(self) -> dict[str, Any]:
        return {
            "paused": self.paused,
            "reason": self.reason,
            "at": None if self.at is None else self.at.isoformat(),
            "actor": self.actor,
        }


class _Kept(BaseModel):
    """The fact, as it is to be: anything else counts as paused."""

    model_config = ConfigDict(strict=True, extra="forbid")

    paused: bool
    reason: str
    at: AwareDatetime
    actor: str


async def read(session: AsyncSession) -> Switch:
    """How it stands now; within a claim's transaction it cannot change before that is over."""
    fact = await session.get(Fact, FACT, populate_existing=True)
    if fact is None:
        return Switch()
    try:
        kept = _Kept.model_validate_json(fact.value)
    except ValidationError:
        return Switch(paused=True, reason=UNREADABLE)
    return Switch(kept.paused, kept.reason, kept.at, kept.actor)


async def pause(ledger: Ledger, reason: str = "") -> Switch:
    """Wake nobody and let nothing be claimed, until `resume`. Raises `InvalidInput` for the reason.

    One that is paused already keeps since when, and has the new reason.
    """
    return await _turn(ledger, paused=True, reason=model.word(reason, "reason"))


async def resume(ledger: Ledger) -> Switch:
    """Go on; one that goes on already is left at that."""
    return await _turn(ledger, paused=False, reason="")


async def _turn(ledger: Ledger, *, paused: bool, reason: str) -> Switch:
    async with ledger.write() as session:
        old = await read(session)
        same = old.at is not None and old.paused == paused
        at = old.at if same and old.at is not None else ledger.now()
        actor = old.actor if same and old.reason == reason else owners.current().owner
        new = Switch(paused, reason, at, actor)
        if new != old and (paused or old.paused):
            await session.merge(Fact(key=FACT, value=json.dumps(new.as_json())))
            return new
        return old


async def holding(session: AsyncSession, now: datetime) -> list[str]:
    """The ids of the runs that are at work: claimed, and their lease is not over."""
    held = select(TaskRunRow.id).where(rows.at_work(now))
    return list((await session.execute(held.order_by(col(TaskRunRow.claimed_at)))).scalars())


async def drained(session: AsyncSession, now: datetime) -> bool:
    """Whether no session is at work any more; while it is paused none begins anew."""
    return not await holding(session, now)
