"""Duration of a command as a whole process, from its start to its exit.

The baseline is `prefect version`, the least that Prefect's own command line does. The commands take
turns (A B C D, A B C D, …), so that other load on the machine affects all of them alike; the first
turn only warms the caches. The result is the median of the other turns.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.report import header, progress, row
from daybook.clock import SYSTEM_CLOCK
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger

TURNS = 7
JOB_COUNT = 200


@dataclass
class Command:
    """A command; ``target`` is how many times faster than the baseline it has to be."""

    label: str
    arguments: list[str]
    target: float = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return median(self.seconds)


def commands() -> list[Command]:
    """Return the commands to compare; the first is the baseline."""
    prefect = [sys.executable, "-m", "prefect"]
    daybook = [sys.executable, "-m", "daybook"]
    schedule = ["next", "--cron", "0 9 * * 1-5", "--tz", "Europe/Berlin"]
    return [
        Command("`prefect version`", [*prefect, "version"]),
        Command(f"`daybook list` ({JOB_COUNT} jobs)", [*daybook, "list"], 2),
        Command("`daybook next --cron '0 9 * * 1-5' --tz Europe/Berlin`", [*daybook, *schedule], 6),
        Command("`daybook --help`", [*daybook, "--help"]),
    ]


def measure(turns: int = TURNS) -> list[Command]:
    """Run each command ``turns`` times in a separate home; raise if one fails."""
    measured = commands()
    with tempfile.TemporaryDirectory(prefix="daybook-bench-") as folder:
        asyncio.run(_add_jobs(Path(folder)))
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "DAYBOOK_"))
        }
        environment |= {"DAYBOOK_HOME": folder, "PREFECT_HOME": f"{folder}/prefect"}
        for turn in range(turns + 1):
            progress(f"start times: turn {turn} of {turns}")
            for command in measured:
                seconds = _run(command.arguments, environment)
                if turn > 0:
                    command.seconds.append(seconds)
    return measured


def missed(measured: list[Command]) -> list[str]:
    """Return the missed targets."""
    baseline = measured[0].median
    return [
        f"{each.label}: {baseline / each.median:.1f} × faster, target ≥ {each.target:g} ×"
        for each in measured
        if baseline / each.median < each.target
    ]


def table(measured: list[Command]) -> str:
    baseline = measured[0]
    turns = f"median of {len(baseline.seconds)}"
    lines = [header("command", turns, "fastest – slowest", "against `prefect version`", "target")]
    for each in measured:
        spread = f"{min(each.seconds):.2f} – {max(each.seconds):.2f} s"
        ratio = f"{baseline.median / each.median:.1f} × faster" if each is not baseline else "1"
        target = f"≥ {each.target:g} ×" if each.target else ""
        lines.append(row(each.label, f"{each.median:.2f} s", spread, ratio, target))
    return "\n".join(lines)


async def _add_jobs(home: Path) -> None:
    """Add the jobs to the ledger only: listing them needs no Prefect."""
    now = SYSTEM_CLOCK.now()
    ledger = Ledger(f"sqlite+aiosqlite:///{home / 'ledger.db'}")
    async with ledger, ledger.write() as session:
        for number in range(JOB_COUNT):
            job = new_job(
                now=now,
                prompt=f"Say what is new in project {number}.",
                cron=f"{number % 60} {number % 24} * * *",
                timezone="Europe/Berlin",
            )
            await store.add(session, job, f"job-{number}", now)


def _run(arguments: list[str], environment: dict[str, str]) -> float:
    """Run the command; return its duration in seconds."""
    start = time.perf_counter()
    subprocess.run(arguments, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start
