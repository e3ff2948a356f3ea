"""Real processes that share one session, and one that a test can kill while it finishes its run.

Each waits on the machine's clock as a flow's process does, but claims again after a shorter time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.runs import claims, sessions
from daybook.runs.claim_requests import ClaimRequest, Granted, Waiting
from tests.side_by_side import CONTEXT

SOON = timedelta(milliseconds=50)


@dataclass(frozen=True)
class TurnReport:
    """The turn of one process: the history it received, and whether it was alone in the session."""

    run_id: str
    given: tuple[str, ...]
    alone: bool


async def _take_turn(
    address: str, claim_request: ClaimRequest, place: Path, connection: Connection
) -> TurnReport:
    async with Ledger(address) as ledger:
        answer = await claims.claim(ledger, claim_request)
        assert isinstance(answer, Waiting), answer
        connection.send(answer)
        while isinstance(answer, Waiting):
            await SYSTEM_CLOCK.wait_until(answer.until)
            answer = await claims.claim(ledger, claim_request)
        assert isinstance(answer, Granted), answer
        await claims.begin(ledger, answer.run_id, answer.fence)
        try:
            os.close(os.open(place, os.O_CREAT | os.O_EXCL))
            alone = True
        except FileExistsError:
            alone = False
        prompt = str(answer.parameters["prompt"])
        outcome = Outcome(Status.SUCCEEDED, output=f"answer to {prompt}", prompt=prompt)
        if alone:
            os.unlink(place)
        await claims.finish(ledger, answer.run_id, answer.fence, outcome)
    return TurnReport(answer.run_id, tuple(each.content for each in answer.history), alone)


def _talker(address: str, claim_request: ClaimRequest, place: Path, connection: Connection) -> None:
    sessions.RETRY_INTERVAL = SOON
    sessions.WAITER_GRACE = timedelta(minutes=2)  # the machine may be busy
    connection.send(asyncio.run(_take_turn(address, claim_request, place, connection)))


@contextmanager
def waiting(
    address: str, claim_requests: list[ClaimRequest], place: Path
) -> Iterator[list[Connection]]:
    """Start one process per request; when all wait, yield the pipes that send each `TurnReport`.

    ``place`` is a file that exists while a process has its turn.
    """
    pipes = [CONTEXT.Pipe(duplex=False) for _ in claim_requests]
    children = [
        CONTEXT.Process(target=_talker, args=(address, claim_request, place, sending))
        for claim_request, (_, sending) in zip(claim_requests, pipes, strict=True)
    ]
    for child in children:
        child.start()
    for _, sending in pipes:
        sending.close()
    try:
        for receiving, _ in pipes:
            assert isinstance(receiving.recv(), Waiting)
        yield [receiving for receiving, _ in pipes]
    finally:
        for child in children:
            child.join(60)
        for receiving, _ in pipes:
            receiving.close()


def _last_words(address: str, granted: Granted, connection: Connection, on: Connection) -> None:
    """Record the outcome, but stop when the messages are written and not yet committed."""
    append = sessions.append

    async def appended(session: AsyncSession, *given: Any, **named: Any) -> None:
        await append(session, *given, **named)
        await session.flush()
        connection.send("in the transaction")
        on.recv()

    sessions.append = appended

    async def finish() -> None:
        async with Ledger(address) as ledger:
            outcome = Outcome(Status.SUCCEEDED, output="lost", prompt="What is new?")
            await claims.finish(ledger, granted.run_id, granted.fence, outcome)

    asyncio.run(finish())


@contextmanager
def finishing(address: str, granted: Granted) -> Iterator[Any]:
    """Start a process that stops in the transaction that records the outcome; yield it."""
    reader, telling = CONTEXT.Pipe(duplex=False)
    waiting, on = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=_last_words, args=(address, granted, telling, waiting))
    child.start()
    telling.close()
    waiting.close()
    try:
        assert reader.recv() == "in the transaction"
        yield child
    finally:
        child.kill()
        child.join(60)
        reader.close()
        on.close()
