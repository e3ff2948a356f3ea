"""A process that runs one cycle and is killed directly before or after it requests a worker."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Literal

from sqlalchemy import event

from daybook.features.tasks.cycle import cycle
from daybook.features.tasks.notifier import StarvingRun
from daybook.features.tasks.policy import SchedulerPolicy
from daybook.ledger.engine import Ledger
from daybook.testing import ManualClock
from tests.side_by_side import CONTEXT

CAPABLE = {"default": frozenset({"python"})}

When = Literal["before", "after"]


def _kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _cycle(address: str, clock: ManualClock, policy: SchedulerPolicy, when: When) -> None:
    async def capable() -> dict[str, frozenset[str]]:
        return CAPABLE

    async def notifier(starving: StarvingRun) -> None:
        if when == "after":
            _kill()  # Prefect has the event, but the ledger does not record it

    async def one() -> None:
        async with Ledger(address, clock) as ledger:
            engine = ledger._engine.sync_engine

            def asks(_: object, __: object, statement: str, *___: object) -> None:
                if statement.startswith("INSERT INTO runs"):
                    event.listen(engine, "commit", _kill)

            if when == "before":
                event.listen(engine, "before_cursor_execute", asks)
            await cycle(ledger, policy=policy, notifier=notifier, capabilities_of=capable)

    asyncio.run(one())


def killed(address: str, clock: ManualClock, policy: SchedulerPolicy, when: When) -> int | None:
    """Run such a process until it has exited, and return its exit code."""
    child = CONTEXT.Process(target=_cycle, args=(address, clock, policy, when))
    child.start()
    child.join(60)
    return child.exitcode
