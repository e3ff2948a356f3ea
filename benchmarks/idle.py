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
    """What a process with this title used: memory in bytes (PSS), and CPU in percent of a core."""

    title: str
    memory: int
    cpu: float


def measure(seconds: float) -> tuple[list[Idle], list[Idle]]:
    """Return what each process used in ``seconds``, after the first and after the second start.

    The first start of a home creates its databases; all later starts are like the second one. The
    processes are in the order of their start.
    """
    with tempfile.TemporaryDirectory(prefix="daybook-bench-") as folder:
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "DAYBOOK_"))
        } | {"DAYBOOK_HOME": folder}

        def start() -> list[Idle]:
            daybook("up", "--detach", "--no-browser")
            try:
                head = int((Home(Path(folder)).running() or {})["pid"])
                progress(f"idle: {SETTLE_SECONDS + seconds:.0f} s")
                time.sleep(SETTLE_SECONDS)
                before = usage.each_cpu(head)
                time.sleep(seconds)
                return [
                    Idle(
                        usage.title(pid),
                        usage.own_memory(pid),
                        100 * (used - before.get(pid, 0.0)) / seconds,
                    )
                    for pid, used in sorted(usage.each_cpu(head).items())
                ]
            finally:
                daybook("down")

        def daybook(*arguments: str) -> None:
            command = [sys.executable, "-m", "daybook", *arguments]
            subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)

        return start(), start()


def _all(processes: list[Idle]) -> Idle:
    return Idle("all", sum(one.memory for one in processes), sum(one.cpu for one in processes))


def table(first: list[Idle], later: list[Idle]) -> str:
    lines = [header("process", "memory (PSS), first start", "CPU", "later start", "CPU")]
    for pair in zip([*first, _all(first)], [*later, _all(later)], strict=True):
        used = [text for one in pair for text in (f"{one.memory / 1e6:.0f} MB", f"{one.cpu:.2f} %")]
        lines.append(row(f"`{pair[0].title}`" if pair[0].title != "all" else "all", *used))
    targets = f"≤ {MAX_MEMORY_BYTES / 1e6:.0f} MB", f"≤ {MAX_CPU_PERCENT:g} %"
    return "\n".join([*lines, row("target", *targets, *targets)])


def missed(first: list[Idle], later: list[Idle]) -> list[str]:
    """Return a line for each missed target."""
    lines = list[str]()
    for name, whole in (("first start", _all(first)), ("later start", _all(later))):
        if whole.memory > MAX_MEMORY_BYTES:
            lines.append(f"`daybook up`, idle after the {name}: {whole.memory / 1e6:.0f} MB")
        if whole.cpu > MAX_CPU_PERCENT:
            lines.append(f"`daybook up`, idle after the {name}: {whole.cpu:.2f} % of a core")
    return lines
