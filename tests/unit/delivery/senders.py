"""Real processes that send pending outbox rows, and one that is killed at a commit."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

from sqlalchemy import event

from daybook.delivery import sending
from daybook.delivery.sending import DeliveryResult
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Delivery
from daybook.runs import claims
from daybook.testing import ManualClock
from tests import side_by_side
from tests.side_by_side import CONTEXT
from tests.unit.ledger.killed import When

VERBS = {"finish": claims.finish, "claim": sending.claim, "record": sending.record}

Sent = list[tuple[str, int]]
"""Id and fence of each row that a process had in hand."""


async def _send(address: str, clock: ManualClock, holder: str, barrier: Any) -> Sent:
    sent: Sent = []
    async with Ledger(address, clock) as ledger:
        barrier.wait(60)  # all processes start together
        while rows := await sending.claim(ledger, holder, most=7):
            assert {row.holder for row in rows} == {holder}
            sent += [(row.id, row.fence) for row in rows]
            done = [
                DeliveryResult(row.id, row.fence, Delivery.DELIVERED, None, 0.0) for row in rows
            ]
            await sending.record(ledger, done)
    return sent


def at_once(address: str, clock: ManualClock, count: int) -> list[Sent]:
    """Start ``count`` processes that send until no row is left; return the rows of each."""
    each = [(address, clock, f"sender {number}") for number in range(count)]
    return side_by_side.at_once(_send, each)


def _kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _write(
    address: str,
    clock: ManualClock,
    verb: str,
    given: tuple[tuple[Any, ...], dict[str, Any]],
    when: When,
) -> None:
    async def write() -> None:
        async with Ledger(address, clock) as ledger:
            if when == "before":
                event.listen(ledger._engine.sync_engine, "commit", _kill)
            positional, named = given
            await VERBS[verb](ledger, *positional, **named)  # type: ignore[operator]
            _kill()

    asyncio.run(write())


def killed(
    address: str, clock: ManualClock, verb: str, when: When, *given: Any, **named: Any
) -> int | None:
    """Run ``verb`` in a process that is killed at its commit; return the exit code."""
    child = CONTEXT.Process(target=_write, args=(address, clock, verb, (given, named), when))
    child.start()
    child.join(60)
    return child.exitcode
