"""One leader among any number of processes (`docs/promise.md` 16).

::

    nobody leads ──acquire──► leads(fence) ──renew, in time──► leads(fence)
         ▲                        │
         ├── release ─────────────┤
         └── not renewed for `Timing.leader_lease`: whoever acquires next raises the fence

``acquire`` and ``renew`` answer yes or no; a no means: you lead no more, write nothing. The time is
the ledger's. Unlike a run's lease a lead is given to the next as soon as it has run out: nothing is
lost with it, because each act of a leader is keyed, or derived from the ledger again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact, LeadRow
from daybook.timing import TIMING


@dataclass(frozen=True)
class Leader:
    """Who leads, or led last: ``holder`` is empty when it gave the lead back.

    ``note`` is what it told of itself with its last renewal; {} when it told nothing.
    """

    holder: str
    until: datetime
    note: dict[str, Any]

    def leads(self, now: datetime) -> bool:
        """Whether its lease runs at ``now``, the ledger's time."""
        return bool(self.holder) and self.until > now


async def acquire(ledger: Ledger, name: str, holder: str) -> int | None:
    """Take the lead of that name for a lease; returns the fence, None while another has it.

    ``holder`` is of this process alone: its own lead, got by a commit whose answer was lost, it
    takes again. While another has it this reads only, and does not ask for the write lock.
    """
    async with ledger.read() as session:
        row = await session.get(LeadRow, name)
    if row is not None and _taken(row, holder, ledger.now()):
        return None
    async with ledger.write() as session:
        row, now = await session.get(LeadRow, name), ledger.now()
        if row is None:
            row = LeadRow(name=name, holder=holder, until=now + TIMING.leader_lease, fence=1)
        elif _taken(row, holder, now):
            return None
        else:
            row.holder, row.until, row.fence = holder, now + TIMING.leader_lease, row.fence + 1
        session.add(row)
        return row.fence


async def renew(
    ledger: Ledger, name: str, fence: int, note: Mapping[str, Any] | None = None
) -> bool:
    """Renew the lease of the lead, and keep ``note``; False when another has taken it.

    One that ran out and that nobody took meanwhile is extended too.
    """
    async with ledger.write() as session:
        row = await session.get(LeadRow, name)
        if row is None or row.fence != fence or not row.holder:
            return False
        row.until = ledger.now() + TIMING.leader_lease
        session.add(row)
        if note is not None:
            await session.merge(Fact(key=_note(name), value=json.dumps(note)))
        return True


async def check(ledger: Ledger, name: str, fence: int) -> bool:
    """Whether the lead is still that of ``fence`` and has not run out."""
    async with ledger.read() as session:
        row = await session.get(LeadRow, name)
    return row is not None and bool(row.holder) and row.fence == fence and row.until > ledger.now()


async def release(ledger: Ledger, name: str, fence: int) -> None:
    """Give the lead back, so that another need not wait for its end; nothing if it is another's."""
    async with ledger.write() as session:
        row = await session.get(LeadRow, name)
        if row is not None and row.fence == fence:
            row.holder, row.until = "", ledger.now()
            session.add(row)


async def read(ledger: Ledger, name: str) -> Leader | None:
    """Who leads, or led last; None when nobody ever did."""
    async with ledger.read() as session:
        row = await session.get(LeadRow, name)
        fact = await session.get(Fact, _note(name))
    if row is None:
        return None
    return Leader(row.holder, row.until, json.loads(fact.value) if fact else {})


def _taken(row: LeadRow, by_another_than: str, now: datetime) -> bool:
    return row.until > now and row.holder != by_another_than


def _note(name: str) -> str:
    return f"lead:{name}"
