"""Times until another keeper leads after a fault, and until runs start after a failover."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple, NoReturn

from chaos.faults import FAIL_OVER, InjectedFault
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import LedgerUnreachable
from daybook.keeper import leader_lease
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import RunRow

POLL_INTERVAL_SECONDS = 0.25


class Change(NamedTuple):
    """A new leader, ``holder``, found at ``at`` (epoch seconds)."""

    at: float
    holder: str


async def record(ledger: Ledger, changes: list[Change]) -> NoReturn:
    """Add each change of the leader to ``changes`` until cancelled."""
    while True:
        with suppress(LedgerUnreachable):
            leader = await leader_lease.read(ledger, leader_lease.LEADERSHIP_NAME)
            if (
                leader
                and leader.holder
                and [each.holder for each in changes[-1:]] != [leader.holder]
            ):
                changes.append(Change(SYSTEM_CLOCK.now().timestamp(), leader.holder))
        await asyncio.sleep(POLL_INTERVAL_SECONDS)


def takeovers(changes: Sequence[Change], faults: Sequence[InjectedFault]) -> list[float]:
    """Return the seconds from each fault that cut the leader off to the next leader.

    A leader is cut off if it is killed, or if it is stopped or its host is partitioned from the
    ledger until another one leads. There is one keeper without a worker.
    """
    found = list[float]()
    for before, after in pairwise(changes):
        hits = [
            each.started
            for each in faults
            if before.at <= each.started <= after.at and _cuts_off(each, before.holder, after.at)
        ]
        found += [after.at - min(hits)] if hits else []
    return found


def _cuts_off(injected: InjectedFault, holder: str, until: float) -> bool:
    host, _, _, *worker = holder.split(":")
    match injected.fault.kind.split():
        case ["kill" | "stop" as what, "a", "worker" | "keeper", *_]:
            is_hit = injected.target in worker or (not worker and "keeper" in injected.target)
            return is_hit and (what == "kill" or injected.ended >= until)
        case ["partition", *_]:
            return injected.target == f"{host} and host-3" and injected.ended >= until
    return False


def restarts(rows: Sequence[RunRow], faults: Sequence[InjectedFault]) -> list[float]:
    """Return the seconds from each failover to the next start of a run."""
    starts = sorted(row.started_at.timestamp() for row in rows if row.started_at is not None)
    failovers = [each.started for each in faults if each.target and each.fault.kind == FAIL_OVER]
    after = [[start - at for start in starts if start > at] for at in failovers]
    return [each[0] for each in after if each]
