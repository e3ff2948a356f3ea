"""Expire: leases that ran out and deadlines that passed (`docs/promise.md` 3, 5).

The ledger judges; what it decided is brought to Prefect at once. Whoever held such a run has not
been heard of for two periods, and its next write is refused: so the run is taken from it there too.
"""

from __future__ import annotations

from dataclasses import dataclass

from prefect.client.orchestration import PrefectClient

from daybook.ledger.engine import Ledger
from daybook.ledger.states import Status
from daybook.prefect import scheduled_runs, state_mirror
from daybook.runs import leases


@dataclass
class Expired:
    """How many runs wait again, and how many ended."""

    waiting: int = 0
    ended: int = 0

    def __bool__(self) -> bool:
        return bool(self.waiting or self.ended)


async def expire(ledger: Ledger, client: PrefectClient, limit: int = 200) -> Expired:
    """One pass over at most ``limit`` lost leases and as many passed deadlines.

    Where Prefect cannot be reached, `mirror` and `ensure` do the rest later.
    """
    rows = await leases.expire_all(ledger, limit)
    waiting = [row for row in rows if row.state is Status.WAITING]
    ended = [row for row in rows if row.state is not Status.WAITING]
    await state_mirror.these(ledger, client, ended)
    await scheduled_runs.these(ledger, client, waiting, abandoned=True)
    return Expired(len(waiting), len(ended))
