"""Lease that makes one of several processes the leader (promise 16: the keeper leads by a lease).

::

    no leader ──acquire──► leads(fence) ──renew, in time──► leads(fence)
         ▲                        │
         ├── release ─────────────┤
         └── not renewed for `Timing.leader_lease`: the next `acquire` raises the fencing token

A process whose `renew` is refused no longer leads and must write nothing. All times are times of
the ledger's clock. Unlike a run's lease, the leader's lease can be acquired as soon as it expires.
The change of the leader loses nothing, because each write of a leader has an idempotency key or is
recomputed from the ledger.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from daybook.ledger.engine import Ledger
from daybook.ledger.tables import Fact, LeadRow
from daybook.timing import TIMING

LEADERSHIP_NAME = "keeper"
"""Name of the leadership that keepers compete for."""


@dataclass(frozen=True)
class Leader:
    """Current or last leader; ``holder`` is empty if it released the leadership.

    ``since`` is the time since which some process has been the leader, without a gap of more than
    one lease duration; None if it is not recorded. ``note`` is the data that was stored with the
    last renewal, or {} if no data was stored. Right after a change of leaders, ``note`` is still
    the data of the previous leader.
    """

    holder: str
    until: datetime
    note: dict[str, Any]
    since: datetime | None = None

    def leads(self, now: datetime) -> bool:
        """Return whether the lease is valid at ``now`` (ledger time)."""
        return bool(self.holder) and self.until > now

    @property
    def is_of_this_machine(self) -> bool:
        """Return whether the holder runs on this machine, by the host name in its name."""
        return self.holder.startswith(f"{socket.gethostname()}:")


async def acquire(ledger: Ledger, name: str, holder: str) -> int | None:
    """Acquire the leadership ``name`` for one lease; return the fencing token.

    Return None if another process holds the leadership; in most cases this result needs no write
    lock. ``holder`` is unique to this process. If ``holder`` holds the leadership already, because
    the answer to an earlier commit was lost, acquire the leadership again with a new token.
    """
    async with ledger.read() as session:
        row = await session.get(LeadRow, name)
    if row is not None and _is_held(row, holder, ledger.now()):
        return None
    async with ledger.write() as session:
        row, now = await session.get(LeadRow, name), ledger.now()
        has_gap = row is None or row.until + TIMING.leader_lease < now
        if row is None:
            row = LeadRow(name=name, holder=holder, until=now + TIMING.leader_lease, fence=1)
        elif _is_held(row, holder, now):
            return None
        else:
            row.holder, row.until, row.fence = holder, now + TIMING.leader_lease, row.fence + 1
        session.add(row)
        if has_gap:
            await session.merge(Fact(key=_since(name), value=now.isoformat()))
        return row.fence


async def renew(
    ledger: Ledger, name: str, fence: int, note: Mapping[str, Any] | None = None
) -> bool:
    """Renew the lease, and store ``note`` unless it is None; return whether the lease was renewed.

    Return False if the leadership was released, or acquired again since ``fence`` was granted. An
    expired lease that no process has acquired is renewed.
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
    """Return whether ``fence`` is the current fencing token, and its lease has not expired."""
    async with ledger.read() as session:
        row = await session.get(LeadRow, name)
    return row is not None and bool(row.holder) and row.fence == fence and row.until > ledger.now()


async def release(ledger: Ledger, name: str, fence: int) -> None:
    """Release the leadership, so that another process need not wait for the end of the lease.

    Do nothing if ``fence`` is no longer the current fencing token.
    """
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
        since = await session.get(Fact, _since(name))
    if row is None:
        return None
    return Leader(
        row.holder,
        row.until,
        json.loads(fact.value) if fact else {},
        datetime.fromisoformat(since.value) if since else None,
    )


def _is_held(row: LeadRow, by_another_than: str, now: datetime) -> bool:
    # If a lease ends later than a lease that is acquired now, the clock was set back after its
    # acquisition. Then the lease does not show that its holder is alive. `leader_lease_renewal` is
    # a margin for differences between two processes.
    latest = now + TIMING.leader_lease + TIMING.leader_lease_renewal
    return now < row.until <= latest and row.holder != by_another_than


def _note(name: str) -> str:
    return f"lead:{name}"


def _since(name: str) -> str:
    return f"lead since:{name}"
