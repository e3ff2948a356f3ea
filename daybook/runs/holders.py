"""Locks of lease holders. They show which workers have ended with all processes of their runs.

A worker locks a file (`flock`) that is named after the worker as a holder. The parent process of
its runs and the processes of the runs inherit the lock. The kernel releases the lock when the last
of these processes has ended, for instance after `kill -9` of all of them, or a reboot. So if a
process can lock the file, no process is left that could begin a run of that holder or record the
run's outcome::

    locked       the worker, or a process of one of its runs, is running
    not locked   all have ended, so their leases need not expire (`leases.release_ended`)
    no file      unknown: another machine or home, a flow that claimed for itself, or a worker that
                 could not lock its file
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)


def lock(folder: Path, holder: str) -> int | None:
    """Lock the file of ``holder``; return its descriptor, which the runs' processes inherit.

    Return None if the file cannot be locked, for instance on a full disk. The lock lasts until all
    processes that have the descriptor have ended.
    """
    file = folder / holder
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        while (descriptor := _lock(file)) is None:
            pass
        return descriptor
    except OSError as error:
        log.warning("cannot lock %s: %s", file, error, extra={"action": "holder_not_locked"})
        return None


def _lock(file: Path) -> int | None:
    """Return the descriptor of the locked file; None if `find_ended` has deleted it."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                os.write(descriptor, _identity(descriptor))
                return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def find_ended(folder: Path, holders: Collection[str]) -> set[str]:
    """Return the ``holders`` on this machine that have ended.

    Also delete the unlocked files of other holders.
    """
    ended = set()
    for file in folder.glob("*"):
        with suppress(OSError):
            descriptor = os.open(file, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if file.name not in holders:
                    file.unlink()
                    continue
                is_own = os.read(descriptor, 64) == _identity(descriptor)
                if is_own and file.name.startswith(f"{socket.gethostname()}:"):
                    ended.add(file.name)
            finally:
                os.close(descriptor)
    return ended


def _identity(descriptor: int) -> bytes:
    """Return the device and inode. A holder's file contains its own identity; a copy does not."""
    status = os.fstat(descriptor)
    return f"{status.st_dev}:{status.st_ino}".encode()
