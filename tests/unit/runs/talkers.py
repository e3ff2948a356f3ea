"""Real processes that take part in one conversation, and one that can be killed as it settles.

Each waits by the machine's clock as a flow's process does, only that it looks again sooner.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from daybook.clock import SYSTEM_CLOCK
from daybook.ledger.engine import Ledger
from daybook.ledger.states import Outcome, Status
from daybook.ledger.tables import RunRow
from daybook.runs import claims, sessions
from daybook.runs.claim_requests import ClaimRequest, Granted, Waiting
from tests.side_by_side import CONTEXT

SOON = timedelta(milliseconds=50)


@dataclass(frozen=True)
class Took:
    """The turn that one process took: what it was given, and whether nobody else was in."""

    run_id: str
    given: tuple[str, ...]
    alone: bool


async def _take_turn(address: str, offer: ClaimRequest, place: Path, told: Connection) -> Took:
    async with Ledger(address) as ledger:
        answer = await claims.claim(ledger, offer)
        assert isinstance(answer, Waiting), answer
        told.send(answer)
        while isinstance(answer, Waiting):
            await SYSTEM_CLOCK.wait_until(answer.until)
            answer = await claims.claim(ledger, offer)
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
    return Took(answer.run_id, tuple(each.content for each in answer.history), alone)


def _talker(address: str, offer: ClaimRequest, place: Path, told: Connection) -> None:
    sessions.RETRY_INTERVAL = SOON
    sessions.WAITER_GRACE = timedelta(minutes=2)  # the machine may be busy
    told.send(asyncio.run(_take_turn(address, offer, place, told)))


@contextmanager
def waiting(address: str, offers: list[ClaimRequest], place: Path) -> Iterator[list[Connection]]:
    """One process for each offer, all of which wait; then each sends the turn that it `Took`.

    ``place`` is a file that is there while one is in.
    """
    pipes = [CONTEXT.Pipe(duplex=False) for _ in offers]
    children = [
        CONTEXT.Process(target=_talker, args=(address, offer, place, sending))
        for offer, (_, sending) in zip(offers, pipes, strict=True)
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


def _last_words(address: str, granted: Granted, told: Connection, on: Connection) -> None:
    """Settle, and stand still when the pair is written and not yet committed."""
    append = sessions.append

    async def appended(
        session: AsyncSession, row: RunRow, prompt: str, answer: str, now: datetime
    ) -> None:
        await append(session, row, prompt, answer, now)
        await session.flush()
        told.send("in the transaction")
        on.recv()

    sessions.append = appended

    async def settle() -> None:
        async with Ledger(address) as ledger:
            outcome = Outcome(Status.SUCCEEDED, output="lost", prompt="What is new?")
            await claims.finish(ledger, granted.run_id, granted.fence, outcome)

    asyncio.run(settle())


@contextmanager
def settling(address: str, granted: Granted) -> Iterator[Any]:
    """A process that is in the middle of the transaction that settles the run."""
    here, telling = CONTEXT.Pipe(duplex=False)
    waiting, on = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=_last_words, args=(address, granted, telling, waiting))
    child.start()
    telling.close()
    waiting.close()
    try:
        assert here.recv() == "in the transaction"
        yield child
    finally:
        child.kill()
        child.join(60)
        here.close()
        on.close()
