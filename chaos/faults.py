"""Faults of the chaos test (kills, stops and cuts), drawn from a seed before it begins."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from chaos.place import Place, cut_ledger
from daybook.clock import SYSTEM_CLOCK
from daybook.processes import proc
from daybook.processes.proc import Process

KINDS = {
    "kill a run": 5,
    "kill the parent of the runs": 2,
    "kill a worker": 3,
    "kill a worker and all it began": 2,
    "kill a keeper": 2,
    "kill the server": 2,
    "stop a worker": 3,
    "stop a keeper": 2,
    "stop the server": 1,
    "cut the ledger": 3,
}
"""Kinds of faults, with the weight of each in the draw."""
EVERYTHING = "kill everything"
"""Not drawn: the only fault of a test with `--restart-after` (`chaos.restarts`)."""
KILLS_RUNS = frozenset(KINDS) - {"kill a keeper", "stop a keeper"} | {EVERYTHING}
"""Faults that may end a run in the middle of its effect, so that its outcome is unknown."""


@dataclass(frozen=True)
class Fault:
    """``at`` and ``lasts`` in seconds; ``which`` in [0, 1) selects one of the living targets."""

    at: float
    kind: str
    which: float
    lasts: float


@dataclass(frozen=True)
class Struck:
    """A fault that happened, from ``began`` to ``ended`` (epoch seconds), and its target."""

    fault: Fault
    began: float
    ended: float
    whom: str


def drawn(draw: random.Random, seconds: float, count: int, longest_stop: float) -> list[Fault]:
    """Draw ``count`` faults, each in its own part of ``seconds``, so that no part is left out."""
    part, faults = seconds / count, list[Fault]()
    kinds, weights = list(KINDS), list(KINDS.values())
    for number in range(count):
        (kind,) = draw.choices(kinds, weights)
        longest = {"stop the server": 10.0, "cut the ledger": 8.0}.get(kind, longest_stop)
        lasts = draw.uniform(1.0, longest) if kind.startswith(("stop", "cut")) else 0.0
        faults.append(Fault(part * (number + draw.random()), kind, draw.random(), lasts))
    return faults


async def strike(place: Place, faults: Sequence[Fault], since: float) -> list[Struck]:
    """Inject all faults, each at its time after ``since`` (epoch seconds)."""

    async def one(fault: Fault) -> Struck:
        await asyncio.sleep(max(0.0, since + fault.at - SYSTEM_CLOCK.now().timestamp()))
        began = SYSTEM_CLOCK.now().timestamp()
        whom = await _had(place, fault)
        return Struck(fault, began, SYSTEM_CLOCK.now().timestamp(), whom)

    return list(await asyncio.gather(*(one(each) for each in faults)))


async def _had(place: Place, fault: Fault) -> str:
    """Inject the fault and return its target; empty if there was none."""
    match fault.kind.split():
        case ["cut", *_]:
            await cut_ledger(place, fault.lasts)
            return "the ledger"
        case ["stop", *_, kind]:
            name, process = _member(place, kind, fault.which)
            if process is None:
                return ""
            return await _stopped(name, process, fault.lasts)
        case ["kill", "a", "run"]:
            process = _chosen(_runs(place), fault.which)
            return _killed([process] if process else [], f"run {process.pid}" if process else "")
        case ["kill", "the", "parent", *_]:
            process = _chosen(_parents(place), fault.which)
            return _killed([process] if process else [], "a parent")
        case ["kill", "a", "worker", "and", *_]:
            name, process = _member(place, "worker", fault.which)
            return _killed(proc.process_tree(process) if process else [], name)
        case ["kill", *_, kind]:
            name, process = _member(place, kind, fault.which)
            return _killed([process] if process else [], name)
    raise AssertionError(fault)


def _member(place: Place, kind: str, which: float) -> tuple[str, Process | None]:
    names = [name for name in place.of(kind) if place.alive(name)]
    if not names:
        return "", None
    name = names[int(which * len(names))]
    child = place.alive(name)
    return name, child.process if child else None


def _parents(place: Place) -> list[Process]:
    workers = {child.pid for name in place.of("worker") if (child := place.alive(name))}
    return [each for each in proc.living_processes().values() if each.parent in workers]


def _runs(place: Place) -> list[Process]:
    parents = {each.pid for each in _parents(place)}
    return [each for each in proc.living_processes().values() if each.parent in parents]


def _chosen(those: list[Process], which: float) -> Process | None:
    those = sorted(those, key=lambda each: each.pid)
    return those[int(which * len(those))] if those else None


def _killed(those: list[Process], whom: str) -> str:
    for each in those:
        with suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGKILL)
    return whom if those else ""


async def _stopped(name: str, process: Process, seconds: float) -> str:
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(process.pid, signal.SIGCONT)
    return name
