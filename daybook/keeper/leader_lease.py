"""Leader election: one leader among any number of processes (promise 16: the keeper leads by a
lease).

::

    no leader ──acquire──► leads(fence) ──renew, in time──► leads(fence)
         ▲                        │
         ├── release ─────────────┤
         └── not renewed for `Timing.leader_lease`: the next `acquire` raises the fencing token

``acquire`` and ``renew`` return whether they succeeded; a process that is refused no longer leads
and must write nothing. The time is the ledger's. Unlike a run's lease, the leadership passes on as
soon as its lease expires: nothing is lost with it, because each write of a leader is keyed or
derived from the ledger again.
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

LEADERSHIP_NAME = "keeper"
"""The name under which keepers elect their leader."""


@dataclass(frozen=True)
class Leader:
    """The current or last leader; ``holder`` is empty if it released the leadership.

    ``note`` is what the leader stored with its last renewal; {} if it stored nothing.
    """

    holder: str
    until: datetime
    note: dict[str, Any]

    def leads(self, now: datetime) -> bool:
        """Return whether its lease is valid at ``now`` (ledger time)."""
        return bool(self.holder) and self.until > now


async def acquire(ledger: Ledger, name: str, holder: str) -> int | None:
    """Acquire the leadership ``name`` for one lease; return the fencing token, None if it is held.

    ``holder`` names this process alone: a leadership of its own, from a commit whose answer was
    lost, is acquired again. While another process holds it, this only reads and needs no write
    lock.
    """
    async with ledger.read() as session:
        row = await session.get(LeadRow, name)
    if row is not None and _is_held(row, holder, ledger.now()):
        return None
    async with ledger.write() as session:
        row, now = await session.get(LeadRow, name), ledger.now()
        if row is None:
            row = LeadRow(name=name, holder=holder, until=now + TIMING.leader_lease, fence=1)
        elif _is_held(row, holder, now):
            return None
        else:
            row.holder, row.until, row.fence = holder, now + TIMING.leader_lease, row.fence + 1
        session.add(row)
        return row.fence


async def renew(
    ledger: Ledger, name: str, fence: int, note: Mapping[str, Any] | None = None
) -> bool:
    """Renew the lease and store ``note``; return False if another process has acquired it.

    An expired lease that no other process has acquired is renewed too.
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
    """Return whether ``fence`` still holds the leadership and its lease has not expired."""
    async with ledger.read() as session:
        row = await session.get(LeadRow, name)
    return row is not None and bool(row.holder) and row.fence == fence and row.until > ledger.now()


async def release(ledger: Ledger, name: str, fence: int) -> None:
    """Release the leadership, so that no other waits for its expiry; no-op if another holds it."""
    async with ledger.write() as session:
        row = await session.get(LeadRow, name)
        if row is not None and row.fence == fence:
            row.holder, row.until = "", ledger.now()
            session.add(row)


async def read(ledger: Ledger, name: str) -> Leader | None:
    """Return the current or last leader; None if there never was one."""
    async with ledger.read() as session:
        row = await session.get(LeadRow, name)
        fact = await session.get(Fact, _note(name))
    if row is None:
        return None
    return Leader(row.holder, row.until, json.loads(fact.value) if fact else {})


def _is_held(row: LeadRow, by_another_than: str, now: datetime) -> bool:
    return row.until > now and row.holder != by_another_than


def _note(name: str) -> str:
    return f"lead:{name}"
