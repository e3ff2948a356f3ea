"""Memory and CPU of all processes of `daybook up` while nothing runs and nothing changes.

Memory is the proportional set size of each process (`usage.memory`): the processes are forks of one
image, so most of their pages are shared. Libraries that other processes of the machine use count
only in part, so nothing else of the same environment may run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks import usage
from benchmarks.report import header, progress, row
from daybook.home import Home

MAX_MEMORY_BYTES = 450e6
MAX_CPU_PERCENT = 3.0
SETTLE_SECONDS = 30.0
"""Time for the work of the start to end, before the measurement."""


@dataclass(frozen=True)
class Idle:
    """What one process used: memory in bytes (PSS), and CPU in percent of a core."""

    memory: int
    cpu: float


def measure(seconds: float) -> dict[str, Idle]:
    """Return what each process of `up` uses in ``seconds``, by its name."""
    with tempfile.TemporaryDirectory(prefix="daybook-bench-") as folder:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "DAYBOOK_"))
        } | {"DAYBOOK_HOME": folder}
        command = [sys.executable, "-m", "daybook"]
        subprocess.run(
            [*command, "up", "--detach", "--no-browser"],
            env=environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )
        try:
            head = int((Home(Path(folder)).running() or {})["pid"])
            progress(f"idle: {SETTLE_SECONDS + seconds:.0f} s")
            time.sleep(SETTLE_SECONDS)
            before = usage.each_cpu(head)
            time.sleep(seconds)
            after = usage.each_cpu(head)
            return {
                f"{usage.title(pid)} ({pid})": Idle(
                    usage.own_memory(pid), 100 * (used - before.get(pid, 0.0)) / seconds
                )
                for pid, used in sorted(after.items())
            }
        finally:
            subprocess.run(
                [*command, "down"], env=environment, stdout=subprocess.DEVNULL, check=False
            )


def _all(processes: dict[str, Idle]) -> Idle:
    each = processes.values()
    return Idle(sum(one.memory for one in each), sum(one.cpu for one in each))


def table(processes: dict[str, Idle]) -> str:
    lines = [header("process", "memory (PSS)", "CPU")]
    for name, one in processes.items():
        # The pid, which differs each time, only keeps two images apart.
        title = name.rpartition(" (")[0]
        lines.append(row(f"`{title}`", f"{one.memory / 1e6:.0f} MB", f"{one.cpu:.2f} %"))
    whole = _all(processes)
    lines.append(row("all", f"{whole.memory / 1e6:.0f} MB", f"{whole.cpu:.2f} %"))
    targets = f"≤ {MAX_MEMORY_BYTES / 1e6:.0f} MB", f"≤ {MAX_CPU_PERCENT:g} %"
    return "\n".join([*lines, row("target", *targets)])


def missed(processes: dict[str, Idle]) -> list[str]:
    """Return a line for each missed target."""
    whole, lines = _all(processes), list[str]()
    if whole.memory > MAX_MEMORY_BYTES:
        lines.append(f"`daybook up`, idle: {whole.memory / 1e6:.0f} MB")
    if whole.cpu > MAX_CPU_PERCENT:
        lines.append(f"`daybook up`, idle: {whole.cpu:.2f} % of a core")
    return lines
