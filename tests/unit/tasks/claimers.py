"""Real processes that claim, or end one claim, at once; each with a ledger of its own.

Forked from a server that has imported the ledger once, as in `tests.unit.ledger.claimers`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from daybook.errors import DaybookError
from daybook.ledger.engine import Ledger
from daybook.tasks import claims
from daybook.testing import MovedClock

CONTEXT = multiprocessing.get_context("forkserver")

Act = tuple[str, ...]
"""`claim` and a session; `complete`, `fail` or `release`, a run and a token."""


@dataclass(frozen=True)
class Told:
    """What one process asked for, and what it was told: a run, or why not."""

    pid: int
    act: Act
    run_id: str = ""
    code: str = ""
    why: str = ""


async def _acted(address: str, act: Act, clock: MovedClock, barrier: Any) -> Told:
    kind, *given = act
    async with Ledger(address, clock) as ledger:
        barrier.wait(60)  # all at once
        try:
            if kind == "claim":
                run = (await claims.claim(ledger, *given)).run
            else:
                run = await getattr(claims, kind)(ledger, *given)
        except DaybookError as error:
            return Told(os.getpid(), act, code=error.code, why=str(error))
        return Told(os.getpid(), act, run_id=run.id)


def _process(address: str, act: Act, clock: MovedClock, barrier: Any, told: Connection) -> None:
    told.send(asyncio.run(_acted(address, act, clock, barrier)))


def at_once(address: str, acts: Sequence[Act], clock: MovedClock) -> list[Told]:
    """One process for each act; what each was told."""
    barrier = CONTEXT.Barrier(len(acts))
    pipes = [CONTEXT.Pipe(duplex=False) for _ in acts]
    children = [
        CONTEXT.Process(target=_process, args=(address, act, clock, barrier, sending))
        for act, (_, sending) in zip(acts, pipes, strict=True)
    ]
    for child in children:
        child.start()
    for _, sending in pipes:
        sending.close()
    try:
        told = [receiving.recv() for receiving, _ in pipes]
    finally:
        for child in children:
            child.join(60)
        for receiving, _ in pipes:
            receiving.close()
    assert [child.exitcode for child in children] == [0] * len(children)
    return told
