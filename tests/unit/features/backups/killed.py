"""A process that makes a backup, restores one or moves a ledger, and is killed at one of its steps.

A step is whatever changes a file or commits a transaction; the process is killed right before it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from daybook.features.backups import archive, create, restore
from daybook.ledger.engine import Ledger
from daybook.operations import ledger_move
from daybook.testing import ManualClock
from tests.side_by_side import CONTEXT

_CHANGES = ("os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
ALL_DONE = 0


async def make_backup(address: str, clock: ManualClock, file: Path, words: str) -> None:
    async with Ledger(address, clock) as ledger:
        await create.create(ledger, file, words, replace=True)


async def make_nightly(address: str, clock: ManualClock) -> None:
    async with Ledger(address, clock) as ledger:
        await create.create_nightly(ledger)


async def restore_backup(file: Path, words: str, clock: ManualClock) -> None:
    await restore.restore(file, words, clock=clock)


async def move_ledger(url: str) -> None:
    await ledger_move.move(url)


Act = Callable[..., Coroutine[Any, Any, None]]


def _process(act: Act, given: tuple[Any, ...], variables: dict[str, str], step: int) -> None:
    steps = iter(range(1, step + 1))

    def count(*_: Any) -> None:
        if next(steps, step) == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(name: str, arguments: tuple[Any, ...]) -> None:
        if name in _CHANGES or (name == "open" and _writes(arguments)):
            count()

    for name in ("DAYBOOK_LEDGER_URL", "DAYBOOK_HOME"):
        os.environ.pop(name, None)
    os.environ.update(variables)
    archive.SCRYPT_COST = 2
    sys.addaudithook(audit)
    event.listen(Engine, "commit", count)
    asyncio.run(act(*given))


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    return bool(flags & (os.O_WRONLY | os.O_RDWR)) and mode != "rb"


def killed(act: Act, given: tuple[Any, ...], variables: dict[str, str], step: int) -> int | None:
    """Run ``act`` in a process that is killed at a step, from 1 on; return the exit code.

    It is `ALL_DONE` if there are fewer steps.
    """
    child = CONTEXT.Process(target=_process, args=(act, given, variables, step))
    child.start()
    child.join(60)
    return child.exitcode
