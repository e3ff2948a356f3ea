"""Output of the benchmarks: Markdown tables, percentiles, the machine's description, progress."""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path


def p99(values: Sequence[float]) -> float:
    """Return the 99th percentile by nearest rank: the maximum of fewer than a hundred values."""
    return sorted(values)[math.ceil(0.99 * len(values)) - 1]


def p99_label(values: Sequence[float]) -> str:
    """Return the name of the statistic that `p99` yields for this number of values."""
    return "p99" if len(values) >= 100 else "max"


def short(value: float) -> str:
    """Return the value with three significant digits and at most two or three decimals."""
    if value == 0:
        return "0"
    return f"{value:.{2 if value >= 1 else 3}f}" if value < 10 else f"{value:.{int(value < 100)}f}"


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def header(*cells: str) -> str:
    return f"{row(*cells)}\n|{'---|' * len(cells)}"


def progress(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def machine() -> str:
    """Return one line about this machine: processor, cores, system, Python."""
    cores = os.cpu_count() or 1
    return (
        f"{_processor()}, {cores} {'core' if cores == 1 else 'cores'}, "
        f"{platform.system()} {platform.release()}, "
        f"{platform.python_implementation()} {platform.python_version()}"
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
