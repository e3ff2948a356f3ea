"""A process that imports a file and is killed at one statement of its transaction."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from sqlalchemy import event

from daybook.features.imports import writer
from daybook.features.imports.readers import READERS
from daybook.features.imports.source import System
from daybook.ledger.engine import Ledger
from daybook.testing import ManualClock
from tests.side_by_side import CONTEXT

COMMIT = "COMMIT"
"""The last moment at which the import can be killed, instead of the beginning of a statement."""


def _kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _import(address: str, clock: ManualClock, system: System, path: Path, at: str) -> None:
    async def imported() -> None:
        async with Ledger(address, clock) as ledger:
            source = READERS[system](path)
            engine = ledger._engine.sync_engine

            def watch(_: object, __: object, statement: str, *___: object) -> None:
                if statement.startswith(at):
                    _kill()

            event.listen(engine, "before_cursor_execute", watch)
            if at == COMMIT:
                event.listen(engine, "commit", _kill)
            async with ledger.write() as session:
                await writer.write(session, source, ledger.now(), default_timezone="UTC")

    asyncio.run(imported())


def killed(address: str, clock: ManualClock, system: System, path: Path, at: str) -> int | None:
    """Run such a process until it has exited, and return its exit code."""
    child = CONTEXT.Process(target=_import, args=(address, clock, system, path, at))
    child.start()
    child.join(60)
    return child.exitcode
