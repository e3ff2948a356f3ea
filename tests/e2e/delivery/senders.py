"""Child processes that send due deliveries as a keeper does, until a test kills them.

The clock of their ledger is ahead by the number of seconds in a file, which the test changes.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
from datetime import datetime, timedelta
from pathlib import Path

from prefect.client.orchestration import get_client

from daybook.clock import SYSTEM_CLOCK
from daybook.keeper import deliveries, leadership
from daybook.ledger.engine import Ledger
from daybook.testing import ManualClock
from tests.world.clock import Ahead

CONTEXT = multiprocessing.get_context("forkserver")


class SharedClock(Ahead):
    """Clock that is ahead by the seconds in ``file``, in every process that uses it."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        file.write_text("0")

    def _ahead(self) -> float:
        return float(self._file.read_text())

    def now(self) -> datetime:
        return SYSTEM_CLOCK.now() + timedelta(seconds=self._ahead())

    def move(self, by: timedelta) -> datetime:
        draft = self._file.with_suffix(".new")
        draft.write_text(str(self._ahead() + by.total_seconds()))
        draft.rename(self._file)
        return self.now()


async def _send(address: str, clock: ManualClock) -> None:
    memory = deliveries.DeliveriesState()
    async with Ledger(address, clock) as ledger, get_client() as client:
        while True:
            await deliveries.send_due(ledger, client, leadership.new_holder(), memory)
            await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + timedelta(seconds=0.05))


def _sender(address: str, clock: ManualClock, home: str) -> None:
    os.environ["DAYBOOK_HOME"] = home
    asyncio.run(_send(address, clock))


def begin(address: str, clock: ManualClock, home: Path) -> multiprocessing.process.BaseProcess:
    """Start a sender process."""
    child = CONTEXT.Process(target=_sender, args=(address, clock, str(home)), daemon=True)
    child.start()
    return child
