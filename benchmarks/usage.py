"""CPU time and memory of a process and its descendants, read from ``/proc`` (Linux).

CPU time is the time of each living member plus the time of the children that it waited for; those
have ended, so nothing counts twice. A child whose parent ended without waiting for it would be
lost: our workers' parent adopts such orphans, and a measurement begins and ends when no run is at
work.

Memory is the proportional set size: a page that several processes share counts once, split.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_SHARE = 20
"""Pause between two memory readings, as a multiple of the duration of the last one: walking through
the pages is work, and it must not slow down the measured processes.
"""


@dataclass(frozen=True)
class _Stat:
    parent: int
    seconds: float


def family(pid: int) -> set[int]:
    """Return ``pid`` and its descendants: living ones, and ended ones not yet waited for."""
    return set(_family(pid))


def cpu(pid: int) -> float:
    """Return the CPU seconds of ``pid``, its family, and the children that they waited for."""
    return sum(each.seconds for each in _family(pid).values())


def machine() -> float:
    """Return the CPU seconds of all processes and the system since the machine started."""
    # user, nice, system, idle, iowait, irq, softirq, steal (after the word "cpu")
    ticks = [int(each) for each in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) * _TICK


def memory(pid: int) -> int:
    """Return the memory of ``pid`` and its family in bytes (PSS)."""
    return sum(_pss(each) for each in family(pid))


class Peak:
    """Context manager: the peak memory and process count of ``pid`` and its family."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.memory, self.processes = 0, 0

    async def __aenter__(self) -> Peak:
        self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._looking.cancel()
        await asyncio.wait({self._looking})
        self._looking.result() if not self._looking.cancelled() else None

    async def _look(self) -> None:
        while True:
            begin = time.perf_counter()
            self.processes = max(self.processes, len(family(self._pid)))
            self.memory = max(self.memory, await asyncio.to_thread(memory, self._pid))
            await asyncio.sleep(max(0.1, _SHARE * (time.perf_counter() - begin)))


def _family(pid: int) -> dict[int, _Stat]:
    everyone = _everyone()
    members, heads = {pid: everyone[pid]}, [pid]
    while heads:
        head = heads.pop()
        began = {p: stat for p, stat in everyone.items() if stat.parent == head}
        heads += began.keys() - members.keys()
        members |= began
    return members


def _everyone() -> dict[int, _Stat]:
    found = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has ended meanwhile
                # After the name, which may contain anything: state, parent, …; utime is field 14.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                ticks = sum(map(int, fields[11:15]))
                found[int(entry.name)] = _Stat(int(fields[1]), ticks * _TICK)
    return found


def _pss(pid: int) -> int:
    with suppress(OSError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0  # it has ended
