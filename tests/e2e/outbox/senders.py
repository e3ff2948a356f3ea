"""Processes that send what is due, as a keeper does, until they are killed.

Their ledger's clock goes ahead by the seconds that stand in a file: the test moves it.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from datetime import datetime, timedelta
from pathlib import Path

from prefect.client.orchestration import get_client

from daybook.clock import SYSTEM, SystemClock
from daybook.keeper import drain, lead
from daybook.ledger.engine import Ledger

CONTEXT = multiprocessing.get_context("forkserver")


class Ahead(SystemClock):
    """The machine's clock, put forward by what stands in ``file``."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def now(self) -> datetime:
        return super().now() + timedelta(seconds=float(self._file.read_text()))

    def move(self, **by: float) -> None:
        seconds = float(self._file.read_text()) + timedelta(**by).total_seconds()
        draft = self._file.with_suffix(".new")
        draft.write_text(str(seconds))
        draft.rename(self._file)


async def _send(address: str, clock: Ahead) -> None:
    memory = drain.Memory()
    async with Ledger(address, clock) as ledger, get_client() as client:
        while True:
            pause = await drain.drain(ledger, client, lead.new_holder(), memory)
            await SYSTEM.wait_until(SYSTEM.now() + timedelta(seconds=min(pause, 0.05)))


def _sender(address: str, clock: Ahead, home: str) -> None:
    os.environ["DAYBOOK_HOME"] = home
    asyncio.run(_send(address, clock))


def begin(address: str, clock: Ahead, home: Path) -> multiprocessing.process.BaseProcess:
    """Start one."""
    child = CONTEXT.Process(target=_sender, args=(address, clock, str(home)), daemon=True)
    child.start()
    return child
