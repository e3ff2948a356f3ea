"""A process that makes one write to the ledger and is killed right before or after its commit."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Literal

from sqlalchemy import event

from daybook.ledger.engine import Ledger
from daybook.prefect import unmirrored
from daybook.runs import claims, leases, prefect_ends
from daybook.testing import ManualClock
from tests.side_by_side import CONTEXT

VERBS: dict[str, Callable[..., Coroutine[Any, Any, object]]] = {
    "claim": claims.claim,
    "died": claims.holder_died,
    "cancel": claims.cancel,
    "take": prefect_ends.apply_end,
    "expire_all": leases.expire_all,
    "renew_all": leases.renew_all,
    "mirrored": unmirrored.clear_marks,
}

When = Literal["before", "after"]


def _kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _write(address: str, clock: ManualClock, verb: str, given: tuple[Any, ...], when: When) -> None:
    async def write() -> None:
        async with Ledger(address, clock) as ledger:
            if when == "before":
                event.listen(ledger._engine.sync_engine, "commit", _kill)
            await VERBS[verb](ledger, *given)
            _kill()

    asyncio.run(write())


def killed(
    address: str, clock: ManualClock, verb: str, given: tuple[Any, ...], when: When
) -> int | None:
    """Run the write in a process of its own, wait for its end, and return the exit code."""
    child = CONTEXT.Process(target=_write, args=(address, clock, verb, given, when))
    child.start()
    child.join(60)
    return child.exitcode
