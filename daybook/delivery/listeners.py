"""Listeners: who is told of every outcome, in Python (requirement 35).

::

    announce ─► the fact `listeners`: names, and when each was last there
                    │
    outcome ──► ask ┴─► an outbox row for each name, in the transaction of the outcome
     (outcomes.write)        │  one at a time for each name, oldest first
                             ▼
                          pending ──► delivered | failed      whoever has the listener: it may be
                             └──────► failed                  away for `UNSEEN`, then it is gone

Who settles a run need not know a listener: a worker on another machine, the command line, a flow
called in a script. So the names stand in the ledger. Whoever has listeners and calls them announces
them: the leader's keeper, and a program that listens. What a process has registered itself it asks
for as well. No row of a listener counts for its run's `delivery`.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import registry
from daybook.delivery import messages, outbox, sending
from daybook.delivery.outbox import LISTENER, lane_of_listener
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import Fact, OutboxRow, RunRow

if TYPE_CHECKING:
    from daybook.jobs.store import StoredJob

UNSEEN = timedelta(hours=24)
"""So long a listener may be away; then nothing more is asked for it, and what waits is given up."""

_FACT = "listeners"


async def ask(
    session: AsyncSession, row: RunRow, stored: StoredJob | None, now: datetime, *, late: bool
) -> None:
    """Write down that every listener is told of the outcome that ``row`` has just got.

    ``late`` says that it corrects an `unknown`.
    """
    corrects = "unknown" if late else None
    await _put(session, row, stored, now, await _asking(session, now), corrects=corrects)


async def extended(
    session: AsyncSession, row: RunRow, stored: StoredJob | None, now: datetime
) -> None:
    """``row`` stands for more due times than listeners were asked to be told of.

    What nobody has told yet says so. Whoever was told, or is being told, is told once more, of the
    whole range: the same run, with its new end and count.
    """
    unsent = select(OutboxRow).where(
        col(OutboxRow.run_id) == row.id, col(OutboxRow.purpose) == LISTENER, outbox.UNSENT
    )
    names = await _asking(session, now)
    for told in (await session.execute(unsent)).scalars().all():
        told.body = messages.whole(row, stored.row if stored else None, told.event, None)
        session.add(told)
        names.discard(told.address)
    until = row.due_to.isoformat() if row.due_to else None
    await _put(session, row, stored, now, names, until=until)


async def _asking(session: AsyncSession, now: datetime) -> set[str]:
    """Who is to be told of what happens now."""
    names = {name for name, at in (await _seen(session)).items() if now - at < UNSEEN}
    return names | set(registry.here(registry.LISTENERS))


async def _put(
    session: AsyncSession,
    row: RunRow,
    stored: StoredJob | None,
    now: datetime,
    names: set[str],
    *,
    corrects: str | None = None,
    until: str | None = None,
) -> None:
    """A row for each; what is told once more of the same run is another one by the last two."""
    if not names:
        return
    body = messages.whole(row, stored.row if stored else None, row.status, corrects)
    for name in sorted(names):
        lane = lane_of_listener(name)
        await outbox.put(
            session,
            OutboxRow(
                key=":".join(filter(None, ("run", row.id, lane, corrects, until))),
                purpose=LISTENER,
                event=row.status,
                run_id=row.id,
                job_id=row.job_id,
                lane=lane,
                address=name,
                body=body,
                next_at=now,
                created_at=now,
            ),
        )


async def announce(ledger: Ledger, names: Collection[str]) -> None:
    """Say that these are here, and forget those that nobody has said for `UNSEEN`.

    What waits for one that is forgotten is given up: it is failed, and says why.
    """
    async with ledger.write() as session:
        now, fact = ledger.now(), await session.get(Fact, _FACT)
        # One from the future was said before the clock was set back.
        seen = {name: min(at, now) for name, at in (await _seen(session)).items()}
        kept = {name: at for name, at in seen.items() if now - at < UNSEEN}
        kept |= dict.fromkeys(names, now)
        if kept or seen:
            fact = fact or Fact(key=_FACT, value="")
            fact.value = json.dumps({name: at.isoformat() for name, at in kept.items()})
            session.add(fact)
        gone = update(OutboxRow).where(
            outbox.PENDING,
            col(OutboxRow.purpose) == LISTENER,
            col(OutboxRow.address).not_in(kept),
            col(OutboxRow.created_at) <= now - UNSEEN,
            col(OutboxRow.lease_until).is_(None) | (col(OutboxRow.lease_until) <= now),
        )
        why = f"given up: no process has had this listener for {UNSEEN // timedelta(hours=1)} hours"
        values = {"status": Delivery.FAILED, "finished_at": now, "error": why, "lease_until": None}
        await session.execute(
            gone.values(**values), execution_options={"synchronize_session": False}
        )


async def due(ledger: Ledger, names: Iterable[str]) -> list[str]:
    """Which of these may be told something now: no pause, and nobody is at it. Reads only."""
    lanes = {lane_of_listener(name): name for name in names}
    times = await sending.due_of_lanes(ledger, lanes.__contains__) if lanes else {}
    now = ledger.now()
    return [name for lane, name in lanes.items() if lane in times and times[lane] <= now]


async def _seen(session: AsyncSession) -> dict[str, datetime]:
    fact = await session.get(Fact, _FACT)
    known = json.loads(fact.value) if fact else {}
    return {name: datetime.fromisoformat(at) for name, at in known.items()}
