"""Real processes that claim, or end one claim, at the same time, each with its own ledger."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from daybook.errors import DaybookError
from daybook.features.tasks import claims
from daybook.ledger.engine import Ledger
from daybook.testing import ManualClock
from tests import side_by_side

Act = tuple[str, ...]
"""`claim` and a session; `complete`, `fail` or `release`, a run and a token."""


@dataclass(frozen=True)
class ProcessResult:
    """The request of one process, and its result: a run id, or an error code and message."""

    pid: int
    act: Act
    run_id: str = ""
    code: str = ""
    why: str = ""


async def _acted(address: str, act: Act, clock: ManualClock, barrier: Any) -> ProcessResult:
    kind, *given = act
    async with Ledger(address, clock) as ledger:
        barrier.wait(60)  # all processes continue together
        try:
            if kind == "claim":
                run = (await claims.claim(ledger, *given)).run
            else:
                run = await getattr(claims, kind)(ledger, *given)
        except DaybookError as error:
            return ProcessResult(os.getpid(), act, code=error.code, why=str(error))
        return ProcessResult(os.getpid(), act, run_id=run.id)


def at_once(address: str, acts: Sequence[Act], clock: ManualClock) -> list[ProcessResult]:
    """Run each act in its own process, all at the same time, and return the results."""
    return side_by_side.at_once(_acted, [(address, act, clock) for act in acts])
