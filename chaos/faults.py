"""Faults of the chaos test (kills, stops and cuts), drawn from a seed before the test starts."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from chaos.cluster import Cluster, cut_ledger
from daybook.clock import SYSTEM_CLOCK
from daybook.processes import proc
from daybook.processes.proc import Process

KINDS = {
    "kill a run": 5,
    "kill the parent of the runs": 2,
    "kill a worker": 3,
    "kill a worker and its processes": 2,
    "kill a keeper": 2,
    "kill the server": 2,
    "stop a worker": 3,
    "stop a keeper": 2,
    "stop the server": 1,
    "cut the ledger": 3,
}
"""Kinds of faults, with the weight of each in the draw."""
KINDS_WITH_REPLICAS = {kind: weight for kind, weight in KINDS.items() if "server" not in kind} | {
    "kill an api": 4,
    "stop an api": 2,
    "kill the services": 1,
    "stop the services": 1,
    "kill the redis": 1,
    "kill the balancer": 1,
}
"""As `KINDS`, if Prefect is several processes."""
FAIL_OVER = "fail over to the standby"
KINDS_ON_HOSTS = KINDS_WITH_REPLICAS | {
    "flush the redis": 2,
    "kill a postgres": 2,
    FAIL_OVER: 2,
    "partition two hosts": 5,
}
"""As `KINDS_WITH_REPLICAS`, if the processes are on several hosts."""
KILL_EVERYTHING = "kill everything"
"""The only fault of a test with `--restart-after` (`chaos.restarts`)."""
KILLS_RUNS = {*KINDS, *KINDS_ON_HOSTS} - {"kill a keeper", "stop a keeper"} | {KILL_EVERYTHING}
"""Faults that may end a run in the middle of its effect, so that its outcome is unknown."""


@dataclass(frozen=True)
class Fault:
    """A fault ``at`` seconds after the start; ``which`` in [0, 1) selects a living target."""

    at: float
    kind: str
    which: float
    duration_seconds: float


@dataclass(frozen=True)
class InjectedFault:
    """A fault that happened between two instants (epoch seconds); ``target`` is empty if none."""

    fault: Fault
    started: float
    ended: float
    target: str


def draw_faults(
    draw: random.Random,
    seconds: float,
    count: int,
    longest_stop: float,
    weights_by_kind: Mapping[str, int] = KINDS,
) -> list[Fault]:
    """Draw ``count`` faults, one in each of ``count`` equal parts of ``seconds``.

    ``weights_by_kind`` are the kinds with their weights.
    """
    part, faults = seconds / count, list[Fault]()
    kinds, weights = list(weights_by_kind), list(weights_by_kind.values())
    for number in range(count):
        (kind,) = draw.choices(kinds, weights)
        longest = {"stop the server": 10.0, "cut the ledger": 8.0}.get(kind, longest_stop)
        duration = draw.uniform(1.0, longest) if kind.startswith(("stop", "cut", "part")) else 0.0
        faults.append(Fault(part * (number + draw.random()), kind, draw.random(), duration))
    return faults


async def inject_all(
    cluster: Cluster, faults: Sequence[Fault], since: float
) -> list[InjectedFault]:
    """Inject all faults, each at its time after ``since`` (epoch seconds)."""

    async def inject(fault: Fault) -> InjectedFault:
        await asyncio.sleep(max(0.0, since + fault.at - SYSTEM_CLOCK.now().timestamp()))
        started = SYSTEM_CLOCK.now().timestamp()
        target = await _inject(cluster, fault)
        return InjectedFault(fault, started, SYSTEM_CLOCK.now().timestamp(), target)

    return list(await asyncio.gather(*(inject(each) for each in faults)))


async def _inject(cluster: Cluster, fault: Fault) -> str:
    """Inject the fault and return its target; empty if there was none."""
    match fault.kind.split():
        case ["cut", *_]:
            await cut_ledger(cluster, fault.duration_seconds)
            return "the ledger"
        case ["stop", *_, kind]:
            name, process = _member(cluster, kind, fault.which)
            if process is None:
                return ""
            return await _stop(name, process, fault.duration_seconds)
        case ["partition", *_]:
            assert cluster.network is not None
            return await cluster.network.partition(fault.which, fault.duration_seconds)
        case ["fail", *_]:
            return await cluster.fail_over()
        case ["flush", *_]:
            assert cluster.replicas is not None
            await cluster.replicas.flush()
            return "redis"
        case ["kill", "everything"]:
            await cluster.kill_all()
            await cluster.start_all()
            return "everything"
        case ["kill", "a", "run"]:
            process = _select(_runs(cluster), fault.which)
            return _kill([process] if process else [], f"run {process.pid}" if process else "")
        case ["kill", "the", "parent", *_]:
            process = _select(_parents(cluster), fault.which)
            return _kill([process] if process else [], "a parent")
        case ["kill", "a", "worker", "and", *_]:
            name, process = _member(cluster, "worker", fault.which)
            return _kill(proc.process_tree(process) if process else [], name)
        case ["kill", *_, kind]:
            name, process = _member(cluster, kind, fault.which)
            return _kill([process] if process else [], name)
    raise AssertionError(fault)


def _member(cluster: Cluster, kind: str, which: float) -> tuple[str, Process | None]:
    names = [name for name in cluster.names(kind) if cluster.living(name)]
    if not names:
        return "", None
    name = names[int(which * len(names))]
    child = cluster.living(name)
    return name, child.process if child else None


def _parents(cluster: Cluster) -> list[Process]:
    """Return the preloaded parents: the children of the workers."""
    workers = {child.pid for name in cluster.names("worker") if (child := cluster.living(name))}
    return [each for each in proc.living_processes().values() if each.parent in workers]


def _runs(cluster: Cluster) -> list[Process]:
    parents = {each.pid for each in _parents(cluster)}
    return [each for each in proc.living_processes().values() if each.parent in parents]


def _select(processes: list[Process], which: float) -> Process | None:
    processes = sorted(processes, key=lambda each: each.pid)
    return processes[int(which * len(processes))] if processes else None


def _kill(processes: list[Process], target: str) -> str:
    for each in processes:
        with suppress(ProcessLookupError):
            os.kill(each.pid, signal.SIGKILL)
    return target if processes else ""


async def _stop(name: str, process: Process, seconds: float) -> str:
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(process.pid, signal.SIGCONT)
    return name
