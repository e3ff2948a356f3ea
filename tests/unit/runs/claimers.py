"""Real processes that claim occurrences at the same time, and one that a test can kill midway.

They are forked from a server process that has imported the ledger once, so that fifty start within
a second or two. No process forks while it holds an open ledger or a running loop: each opens its
own.
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
class ProcessResult:
    """The answer to one process's claim, and the id of that process."""

    pid: int
    answer: ClaimResult


async def _carry(
    address: str, claim_request: ClaimRequest, clock: ManualClock, barrier: Any
) -> ProcessResult:
    async with Ledger(address, clock) as ledger:
        barrier.wait(60)  # start all claims at the same time
        answer = await claims.claim(ledger, claim_request)
        if isinstance(answer, Granted):
            await claims.begin(ledger, answer.run_id, answer.fence)
            await claims.finish(ledger, answer.run_id, answer.fence, Outcome(Status.SUCCEEDED))
        return ProcessResult(os.getpid(), answer)


def at_once(
    address: str, claim_requests: list[ClaimRequest], clock: ManualClock
) -> list[ProcessResult]:
    """Let one process per request, each with its own ledger, claim; return the answers."""
    return side_by_side.at_once(
        _carry, [(address, claim_request, clock) for claim_request in claim_requests]
    )


def _walker(
    address: str,
    claim_request: ClaimRequest,
    clock: ManualClock,
    stop: str,
    pipes: tuple[Connection, Connection],
) -> None:
    """Carry the run up to ``stop``, report that, and wait there forever."""
    reader, on = pipes

    async def walk() -> None:
        async with Ledger(address, clock) as ledger:
            answer = await claims.claim(ledger, claim_request)
            assert isinstance(answer, Granted)
            if stop == "running":
                await claims.begin(ledger, answer.run_id, answer.fence)
            reader.send(answer.run_id)
            if stop == "finishing":
                await claims.begin(ledger, answer.run_id, answer.fence)
                async with ledger.write() as session:
                    row = await session.get(RunRow, answer.run_id)
                    assert row is not None
                    row.status = Status.SUCCEEDED
                    session.add(row)
                    await session.flush()
                    reader.send("in the transaction")
                    on.recv()
            on.recv()

    asyncio.run(walk())


@contextmanager
def walked(
    address: str, claim_request: ClaimRequest, clock: ManualClock, stop: str
) -> Iterator[tuple[Any, str]]:
    """Start a process that stops at ``stop``; yield the process and the id of its run."""
    reader, telling = CONTEXT.Pipe(duplex=False)
    waiting, on = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(
        target=_walker, args=(address, claim_request, clock, stop, (telling, waiting))
    )
    child.start()
    telling.close()
    waiting.close()
    try:
        run_id = reader.recv()
        if stop == "finishing":
            assert reader.recv() == "in the transaction"
        yield child, run_id
    finally:
        child.kill()
        child.join(60)
        reader.close()
        on.close()
