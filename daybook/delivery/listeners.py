"""Listeners: Python functions that Daybook calls for every outcome.

::

    announce ─► the fact `listeners`: names, and when each was last present
                        │
    outcome ──► enqueue ┴─► an outbox row for each name, in the transaction of the outcome
     (outcomes.record)       │  one at a time for each name, in order of `next_at`
                             ▼
                          pending ──► delivered | failed      sent by a process with the listener
                             └──────► failed                  no such process for `UNSEEN_TIMEOUT`

The process that records an outcome need not have the listener. It may be a worker on another
machine, the command line, or a flow called in a script. So the ledger stores the listeners' names.
The processes that call listeners announce the names: the leader's keeper, and each program that
listens. A process also enqueues rows for the listeners that it has registered itself. A listener's
row does not count for its run's `delivery`.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlmodel import col, select

from daybook import registry
from daybook.delivery import messages, outbox
from daybook.delivery.outbox import LISTENER, queue_of_listener
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.ledger.tables import Fact, OutboxRow, RunRow

if TYPE_CHECKING:
    from daybook.jobs.store import StoredJob

UNSEEN_TIMEOUT = timedelta(hours=24)
"""Time that a listener may be absent.

After it, the listener gets no rows, and its old rows fail.
"""

_FACT = "listeners"


async def enqueue(
    session: AsyncSession, row: RunRow, stored: StoredJob | None, now: datetime, *, late: bool
) -> None:
    """Enqueue a row for every listener about the new outcome of ``row``.

    ``late`` is true if the outcome corrects an `unknown`.
    """
    corrects = "unknown" if late else None
    await _put(session, row, stored, now, await _recipients(session, now), corrects=corrects)


async def update_range(
    session: AsyncSession, row: RunRow, stored: StoredJob | None, now: datetime
) -> None:
    """Update the listeners' rows after ``row`` was extended to more due times.

    If no process has claimed a listener's row, the row gets the new body. If the listener was
    called, or is being called, it gets another row about the whole range: the same run, with its
    new end and count.
    """
    unsent = select(OutboxRow).where(
        col(OutboxRow.run_id) == row.id, col(OutboxRow.purpose) == LISTENER, outbox.UNSENT
    )
    names = await _recipients(session, now)
    for unsent_row in (await session.execute(unsent)).scalars().all():
        unsent_row.body = messages.listener_body(
            row, stored.row if stored else None, unsent_row.event, None
        )
        session.add(unsent_row)
        names.discard(unsent_row.address)
    until = row.due_to.isoformat() if row.due_to else None
    await _put(session, row, stored, now, names, until=until)


async def _recipients(session: AsyncSession, now: datetime) -> set[str]:
    """Return the names of the listeners to call about an outcome now."""
    names = {name for name, at in (await present(session)).items() if now - at < UNSEEN_TIMEOUT}
    return names | set(registry.known_names(registry.LISTENERS))


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
    """Enqueue a row for each name.

    If there are several rows about one run, ``corrects`` and ``until`` make their keys different.
    """
    if not names:
        return
    body = messages.listener_body(row, stored.row if stored else None, row.status, corrects)
    for name in sorted(names):
        queue = queue_of_listener(name)
        await outbox.put(
            session,
            OutboxRow(
                key=":".join(filter(None, ("run", row.id, queue, corrects, until))),
                purpose=LISTENER,
                event=row.status,
                run_id=row.id,
                job_id=row.job_id,
                queue=queue,
                address=name,
                body=body,
                next_at=now,
                created_at=now,
            ),
        )


async def announce(ledger: Ledger, names: Collection[str]) -> None:
    """Record that these listeners are present. Remove listeners absent for `UNSEEN_TIMEOUT`.

    The rows of a removed listener fail, with the reason, when they are as old as `UNSEEN_TIMEOUT`.
    """
    async with ledger.write() as session:
        now, fact = ledger.now(), await session.get(Fact, _FACT)
        # A time in the future was recorded before the clock was set back.
        seen = {name: min(at, now) for name, at in (await present(session)).items()}
        kept = {name: at for name, at in seen.items() if now - at < UNSEEN_TIMEOUT}
        kept |= dict.fromkeys(names, now)
        if kept or seen:
            fact = fact or Fact(key=_FACT, value="")
            fact.value = json.dumps({name: at.isoformat() for name, at in kept.items()})
            session.add(fact)
        give_up = update(OutboxRow).where(
            outbox.PENDING,
            col(OutboxRow.purpose) == LISTENER,
            col(OutboxRow.address).not_in(kept),
            col(OutboxRow.created_at) <= now - UNSEEN_TIMEOUT,
            col(OutboxRow.lease_until).is_(None) | (col(OutboxRow.lease_until) <= now),
        )
        hours = UNSEEN_TIMEOUT // timedelta(hours=1)
        why = f"gave up: no process has had this listener for {hours} hours"
        values = {"status": Delivery.FAILED, "finished_at": now, "error": why, "lease_until": None}
        await session.execute(
            give_up.values(**values), execution_options={"synchronize_session": False}
        )


async def present(session: AsyncSession) -> dict[str, datetime]:
    """Return the announced listeners, each with the time at which it was last present."""
    fact = await session.get(Fact, _FACT)
    known = json.loads(fact.value) if fact else {}
    return {name: datetime.fromisoformat(at) for name, at in known.items()}
