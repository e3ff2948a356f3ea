"""Limits of a whole sandbox, which the kernel does not set without control groups.

The kernel counts memory for each process only, and the files of a folder not at all. So Daybook
looks at a sandbox a few times a second, and ends all of it at once when it exceeds a limit. Between
two looks it can exceed a limit.
"""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from dataclasses import dataclass

INTERVAL_SECONDS = 0.2
"""Interval between two looks at a sandbox."""
_PROC = "/proc"
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class WatchedLimits:
    """Limits of all processes of a sandbox together; None is no limit.

    ``free_bytes`` is the free space that the disk of the work directory keeps.
    """

    memory_bytes: int | None
    free_bytes: int | None


async def enforce(program: int, folder: str, limits: WatchedLimits) -> str:
    """Watch the sandbox of the process ``program`` until it exceeds a limit; return the reason.

    All processes of the sandbox have then been sent SIGKILL. Return "" if the sandbox ends first.
    """
    if limits == WatchedLimits(None, None):
        return ""
    first = _parent(program)
    try:
        held = os.pidfd_open(first) if first else -1
    except OSError:
        held = -1
    if held < 0:
        return ""
    try:
        # If the program still has this parent, the descriptor stands for it, not for a later one.
        while _parent(program) == first:
            if reason := await asyncio.to_thread(_exceeded, first, folder, limits):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(held, signal.SIGKILL)
                return reason
            await asyncio.sleep(INTERVAL_SECONDS)
        return ""
    finally:
        os.close(held)


def _exceeded(first: int, folder: str, limits: WatchedLimits) -> str:
    """Return which limit the sandbox exceeds whose first process is ``first``; empty if none."""
    if limits.memory_bytes is not None:
        inside = f"{_PROC}/{first}/root/proc"
        with suppress(OSError):
            folders = [f"{inside}/{each}" for each in os.listdir(inside) if each.isdigit()]
            # The first number counts what forked processes share for each of them, but is fast.
            if all(sum(map(count, folders)) > limits.memory_bytes for count in (_most, _shares)):
                return f"it used more than {limits.memory_bytes // 2**20} MiB of memory"
    if limits.free_bytes is not None:
        with suppress(OSError):
            disk = os.statvfs(folder)
            if disk.f_bavail * disk.f_frsize < limits.free_bytes:
                least = limits.free_bytes // 2**20
                return f"the disk of its work directory had less than {least} MiB of free space"
    return ""


def _most(folder: str) -> int:
    """Return the resident memory in bytes of a process, without files."""
    try:
        with open(f"{folder}/statm", encoding="ascii") as file:
            _, resident, shared, *_ = file.read().split()
    except (OSError, ValueError):
        return 0
    return (int(resident) - int(shared)) * _PAGE_BYTES


def _shares(folder: str) -> int:
    """Return the share of a process, in bytes, of the resident memory of all processes."""
    with suppress(OSError), open(f"{folder}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) * 1024
    return 0


def _parent(pid: int) -> int:
    """Return the parent of a process; 0 if the process has ended."""
    try:
        with open(f"{_PROC}/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[1])
    except OSError:
        return 0
