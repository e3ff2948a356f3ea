"""CPU time and memory of a process and its descendants, read from ``/proc`` (Linux).

CPU time is the time of each process in the tree plus that of the exited children it waited for, so
nothing counts twice. The time of a child without a waiting parent would be lost; therefore the
preloaded parent of the runs adopts orphans, and a measurement starts and ends while nothing runs.

Memory is the proportional set size (PSS): a shared page is divided between the processes that share
it.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
_PAUSE_RATIO = 20
"""Pause between two memory readings, as a multiple of the duration of the last one: reading the
memory of a process is costly, and must not slow down the measured processes.
"""


@dataclass(frozen=True)
class _Stat:
    parent: int
    seconds: float


def process_tree(pid: int) -> set[int]:
    """Return ``pid`` and its descendants, including exited ones that are not yet waited for."""
    return set(_tree(pid))


def cpu(pid: int) -> float:
    """Return the CPU seconds of ``pid``, its descendants, and the children they waited for."""
    return sum(each.seconds for each in _tree(pid).values())


def each_cpu(pid: int) -> dict[int, float]:
    """Return the CPU seconds of ``pid`` and of each descendant, by pid."""
    return {each: stat.seconds for each, stat in _tree(pid).items()}


def title(pid: int) -> str:
    """Return what a process runs, as process listings show it, without the interpreter."""
    words = (_PROC / str(pid) / "cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
    if "-m" in words:
        words = words[words.index("-m") + 1 :]
    return " ".join(words)


def machine_cpu() -> float:
    """Return the CPU seconds of the kernel and all processes since the machine started."""
    # user, nice, system, idle, iowait, irq, softirq, steal (after the word "cpu")
    ticks = [int(each) for each in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) * _TICK_SECONDS


def memory(pid: int) -> int:
    """Return the memory of ``pid`` and its descendants in bytes (PSS)."""
    return sum(own_memory(each) for each in process_tree(pid))


class Peak:
    """Context manager that records the peak memory and process count of ``pid``'s process tree."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.memory, self.processes = 0, 0

    async def __aenter__(self) -> Peak:
        self._sampler = asyncio.create_task(self._sample())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sampler.cancel()
        await asyncio.wait({self._sampler})
        self._sampler.result() if not self._sampler.cancelled() else None

    async def _sample(self) -> None:
        while True:
            start = time.perf_counter()
            self.processes = max(self.processes, len(process_tree(self._pid)))
            self.memory = max(self.memory, await asyncio.to_thread(memory, self._pid))
            await asyncio.sleep(max(0.1, _PAUSE_RATIO * (time.perf_counter() - start)))


def _tree(pid: int) -> dict[int, _Stat]:
    processes = _all_processes()
    tree, parents = {pid: processes[pid]}, [pid]
    while parents:
        parent = parents.pop()
        children = {child: stat for child, stat in processes.items() if stat.parent == parent}
        parents += children.keys() - tree.keys()
        tree |= children
    return tree


def _all_processes() -> dict[int, _Stat]:
    found = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError):  # it has exited meanwhile
                # After the name, which may contain anything: state, parent, …; utime is field 14.
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                ticks = sum(map(int, fields[11:15]))
                found[int(entry.name)] = _Stat(int(fields[1]), ticks * _TICK_SECONDS)
    return found


def own_memory(pid: int) -> int:
    """Return the memory of one process in bytes (PSS); 0 if it has exited."""
    with suppress(OSError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0  # it has exited
