"""Real processes that offer occurrences at once, and one that can be killed where it stands.

Forked from a server that has imported the ledger once, so that fifty start in a second or two. No
process forks while it holds an open ledger or a running loop: each opens its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.runs import claims
from daybook.runs.claim_requests import ClaimRequest, ClaimResult, Granted
from daybook.testing import ManualClock
from tests import side_by_side
from tests.side_by_side import CONTEXT


@dataclass(frozen=True)
class Told:
    """What one process was answered, and which it is."""

    pid: int
    answer: ClaimResult


async def _carry(address: str, offer: ClaimRequest, clock: ManualClock, barrier: Any) -> Told:
    async with Ledger(address, clock) as ledger:
        barrier.wait(60)  # all at once
        answer = await claims.claim(ledger, offer)
        if isinstance(answer, Granted):
            await claims.begin(ledger, answer.run_id, answer.fence)
            await claims.finish(ledger, answer.run_id, answer.fence, Outcome(Status.SUCCEEDED))
        return Told(os.getpid(), answer)


def at_once(address: str, offers: list[ClaimRequest], clock: ManualClock) -> list[Told]:
    """One process for each offer, each with a ledger of its own; what each was answered."""
    return side_by_side.at_once(_carry, [(address, offer, clock) for offer in offers])


def _walker(
    address: str,
    offer: ClaimRequest,
    clock: ManualClock,
    stop: str,
    pipes: tuple[Connection, Connection],
) -> None:
    """Carry the run up to ``stop``, say so, and stand there for good."""
    here, on = pipes

    async def walk() -> None:
        async with Ledger(address, clock) as ledger:
            answer = await claims.claim(ledger, offer)
            assert isinstance(answer, Granted)
            if stop == "running":
                await claims.begin(ledger, answer.run_id, answer.fence)
            here.send(answer.run_id)
            if stop == "settling":
                await claims.begin(ledger, answer.run_id, answer.fence)
                async with ledger.write() as session:
                    row = await session.get(RunRow, answer.run_id)
                    assert row is not None
                    row.status = Status.SUCCEEDED
                    session.add(row)
                    await session.flush()
                    here.send("in the transaction")
                    on.recv()
            on.recv()

    asyncio.run(walk())


@contextmanager
def walked(
    address: str, offer: ClaimRequest, clock: ManualClock, stop: str
) -> Iterator[tuple[Any, str]]:
    """A process that has come as far as ``stop``, and the id of its run."""
    here, telling = CONTEXT.Pipe(duplex=False)
    waiting, on = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=_walker, args=(address, offer, clock, stop, (telling, waiting)))
    child.start()
    telling.close()
    waiting.close()
    try:
        run_id = here.recv()
        if stop == "settling":
            assert here.recv() == "in the transaction"
        yield child, run_id
    finally:
        child.kill()
        child.join(60)
        here.close()
        on.close()
