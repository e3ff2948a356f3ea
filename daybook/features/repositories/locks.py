"""Locks of files, which the kernel releases when their holder ends."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from daybook.errors import DaybookError

_POLL_SECONDS = 0.1


class StillLocked(DaybookError):
    """The error that another process holds a lock for longer than a caller waits."""

    code = "still_locked"


@asynccontextmanager
async def locked(path: Path, seconds: float) -> AsyncIterator[int]:
    """Hold the lock of the file ``path``, which is created if it is missing; yield its descriptor.

    A program that inherits the descriptor keeps the lock if this process is killed. Raise
    `StillLocked` if another process holds the lock for ``seconds``.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                while not _locks(descriptor):  # noqa: ASYNC110 - another process unlocks
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            if not limit.expired():
                raise
            raise StillLocked(f"another process uses {path} for {seconds:g} s") from None
        try:
            yield descriptor
        finally:
            # For all that have inherited it, such as a daemon of a credential helper.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
    finally:
        os.close(descriptor)


def _locks(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
