"""Living processes, their descendants, and signals that do not reach another process by mistake.

A pid alone does not identify a process, because the kernel reuses it after the process has ended.
So this module identifies a process by its pid and its start time, and looks it up again before each
signal.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

log = logging.getLogger(__name__)

PROC = Path("/proc")
POLL_INTERVAL_SECONDS = 0.05
"""Interval between two checks whether processes have ended."""

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4


def deny_inspection() -> None:
    """Deny other processes of this user access to this process's memory and environment (Linux).

    They can then neither read `/proc/PID/environ` or `/proc/PID/mem` nor trace this process, and
    this process dumps no core. A forked child inherits this; an executed program does not.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def end_with_parent() -> None:
    """Kill this process as soon as the thread that forked it ends (Linux)."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def set_title(title: str) -> None:
    """Replace this process's command line in process listings by ``title`` (Linux).

    The title is cut to the length of the original command line. On other systems, do nothing.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError, ValueError, IndexError):
        fields = (PROC / "self" / "stat").read_text(errors="replace").rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end
        if 0 < start < end:
            text = title.encode()[: end - start - 1].ljust(end - start, b"\0")
            ctypes.memmove(start, text, end - start)


@dataclass(frozen=True)
class Process:
    """A process. ``started`` is opaque, and differs for a later process with the same pid."""

    pid: int
    started: str
    parent: int = field(default=0, compare=False)
    group: int = field(default=0, compare=False)


def living_processes() -> dict[int, Process]:
    """Return the processes of this machine, except zombies, mapped by pid."""
    if sys.platform != "linux":
        return _from_ps()
    boot = _boot_id()
    entries = (_read_stat(entry, boot) for entry in PROC.iterdir() if entry.name.isdigit())
    return {process.pid: process for process in entries if process is not None}


def child_pids(pid: int) -> set[int]:
    """Return the pids of a process's children, including zombies (Linux only)."""
    entries = (_read_stat(each, "", zombies=True) for each in PROC.iterdir() if each.name.isdigit())
    return {process.pid for process in entries if process is not None and process.parent == pid}


def find(pid: int, started: str | None = None) -> Process | None:
    """Return the living process with this pid (and ``started``, if it is given), or None.

    Raise OSError if `/proc` cannot be read, for example because no file descriptor is free.
    """
    if sys.platform == "linux":
        process = _read_stat(PROC / str(pid), _boot_id())
    else:
        process = _from_ps(pid).get(pid)
    if process is not None and started is not None and process.started != started:
        return None
    return process


def memory(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it has ended."""
    if sys.platform != "linux":
        command = ["ps", "-p", str(pid), "-o", "rss="]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        return int(answer.stdout.strip() or 0) * 1024
    try:
        pages = (PROC / str(pid) / "statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def process_tree(head: Process) -> list[Process]:
    """Return ``head``, its descendants and the group that it leads; [] if ``head`` has ended.

    ``head`` is first. The descendants may be in any group or session. A process that init adopted,
    because its parent has ended, is found only if it stayed in the group.
    """
    everyone = living_processes()
    if everyone.get(head.pid) != head:
        return []
    members = {head.pid: head}
    members |= {p.pid: p for p in everyone.values() if p.group == head.pid}
    heads = list(members)
    while heads:
        parent = heads.pop()
        children = [p for p in everyone.values() if p.parent == parent and p.pid not in members]
        members |= {p.pid: p for p in children}
        heads += [p.pid for p in children]
    return list(members.values())


def send_signal(processes: Iterable[Process], number: signal.Signals) -> None:
    """Send ``number`` to the processes that still exist and that this user may signal.

    A command with more privileges is a process of another user.
    """
    for process in processes:
        if find(process.pid, process.started) is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process.pid, number)


async def wait_gone(processes: Iterable[Process], within: float) -> list[Process]:
    """Wait at most ``within`` seconds until all have ended; return the processes still alive."""
    end = time.monotonic() + within
    while left := [p for p in processes if find(p.pid, p.started) is not None]:
        if time.monotonic() >= end:
            return left
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
    return []


async def end(head: Process, grace: float) -> None:
    """End ``head`` and its descendants: SIGTERM, then SIGKILL to the processes that are left.

    Only ``head`` gets SIGTERM, and ends its children in its own order. SIGKILL follows when it has
    ended, or after ``grace`` seconds.
    """
    members = process_tree(head)
    send_signal([head], signal.SIGTERM)
    await wait_gone([head], grace)
    await kill(members)


async def kill(members: Iterable[Process], within: float = 5.0) -> None:
    """Send SIGKILL to ``members`` and all their descendants until none is alive.

    Give up after ``within`` seconds, and log the processes that are still alive. If ``members`` is
    a set, add the descendants to it, so that a caller can repeat the call after an error.
    """
    known = members if isinstance(members, set) else set(members)
    stop_at = time.monotonic() + within
    while True:
        known |= {p for member in known for p in process_tree(member)}
        left = [p for p in known if find(p.pid, p.started) is not None]
        if not left:
            return
        if time.monotonic() >= stop_at:
            pids = sorted(each.pid for each in left)
            log.error("cannot kill the processes %s", pids, extra={"action": "kill_refused"})
            return
        send_signal(left, signal.SIGKILL)
        await wait_gone(left, min(1.0, within))


@cache
def _boot_id() -> str:
    """Return the boot's id; a process of another boot can have the same start ticks."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, PermissionError):
        return ""


def _read_stat(entry: Path, boot: str, *, zombies: bool = False) -> Process | None:
    try:
        text = (entry / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The second field, the name, is in brackets and may contain anything, so split after the last
    # bracket. Then come state, parent, group, …; the start in ticks is field 22 of the line.
    fields = text.rpartition(")")[2].split()
    if fields[0] == "X" or (fields[0] == "Z" and not zombies):
        return None
    return Process(int(entry.name), f"{boot}:{fields[19]}", int(fields[1]), int(fields[2]))


def _from_ps(only: int | None = None) -> dict[int, Process]:
    """Return the processes on systems without /proc; `ps` reports starts only in whole seconds."""
    which = ["-p", str(only)] if only is not None else ["-ax"]
    answer = subprocess.run(
        ["ps", *which, "-o", "pid=,ppid=,pgid=,stat=,lstart="],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},
    )
    processes: dict[int, Process] = {}
    for line in answer.stdout.splitlines():
        number, parent, group, state, *started = line.split()
        if not state.startswith("Z"):
            pid = int(number)
            processes[pid] = Process(pid, " ".join(started), int(parent), int(group))
    return processes
