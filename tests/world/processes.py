"""Living processes, and signals to them.

The processes of a test are found by its folder, which is in the environment or the command line of
all child processes of its workers, and by their parents: a process that is ending has lost both
texts some time before it is a zombie. The product's own search for a process family is not used.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import Callable, Container
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from daybook.clock import SYSTEM_CLOCK


def living(root: Path, without: Container[int]) -> dict[int, str]:
    """Return the command line of every living process of the test with that folder, by pid.

    That of a process that is ending is empty.
    """
    mark, found = f"{root}/".encode(), dict[int, str]()
    ending = list[int]()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid() or int(entry.name) in without:
            continue
        line, environment = (_read_bytes(entry / name) for name in ("cmdline", "environ"))
        if mark in line or mark in environment:
            found[int(entry.name)] = line.replace(b"\0", b" ").decode(errors="replace")
        elif not environment:
            ending.append(int(entry.name))
    for pid in ending:
        parent = parent_of_living(pid)
        while parent in ending:
            parent = parent_of_living(parent)
        if parent in found:
            found[pid] = ""
    return found


def _read_bytes(file: Path) -> bytes:
    """Return the content of a file of `/proc`; empty if its process is ending."""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def parent_of_living(pid: int) -> int:
    """Return the pid of a process's parent; 0 if the process has ended or is a zombie."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):  # the second one: ended since it was opened
        return 0
    return 0 if state in "ZX" else int(parent)


def alive(pid: int) -> bool:
    """Return whether the process runs; a zombie does not."""
    return parent_of_living(pid) != 0


async def stand_still(pid: int, free: Callable[[], bool]) -> None:
    """Stop the process with SIGSTOP while it holds no ledger lock that others would wait for.

    ``free`` returns, in a thread, whether no process holds it (`sqlite_is_free`).
    """
    os.kill(pid, signal.SIGSTOP)
    while not await asyncio.to_thread(free):
        os.kill(pid, signal.SIGCONT)
        await SYSTEM_CLOCK.wait_until(
            SYSTEM_CLOCK.now() + timedelta(seconds=0.05)
        )  # time to release the lock
        os.kill(pid, signal.SIGSTOP)


def sqlite_is_free(address: str) -> bool:
    """Return whether no process holds the write lock of the SQLite ledger at this address."""
    path = urlsplit(address).path
    with closing(sqlite3.connect(path, timeout=0.2, isolation_level=None)) as ledger:
        try:
            ledger.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        ledger.execute("ROLLBACK")
    return True


def pending(pid: int) -> list[int]:
    """Return the masks of the signals that were sent to the process but are not delivered yet.

    An ended process has none.
    """
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd"))]
