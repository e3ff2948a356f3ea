"""Duration of a command as a whole process, from its start to its end.

Compared with `prefect version`, the least that Prefect's own command line does. The commands take
turns (A B C D, A B C D, …), so that other load on the machine affects all of them alike; the first
turn only warms the caches. The median of the others counts.
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

from daybook.clock import SYSTEM_CLOCK
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger

TURNS = 7
JOBS = 200


@dataclass
class Command:
    """One command: its label, its arguments, the target ratio, the measured seconds."""

    shown: str
    arguments: list[str]
    wanted: float | None = None
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
        Command(f"`daybook list` ({JOBS} jobs)", [*daybook, "list"], wanted=2),
        Command("`daybook next --cron '0 9 * * 1-5' --tz Europe/Berlin`", [*daybook, *schedule], 6),
        Command("`daybook --help`", [*daybook, "--help"]),
    ]


def measure(turns: int = TURNS) -> list[Command]:
    """Run each command ``turns`` times in a separate home; raise if one fails."""
    measured = commands()
    with tempfile.TemporaryDirectory(prefix="daybook-bench-") as folder:
        asyncio.run(_fill(Path(folder)))
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PREFECT_", "DAYBOOK_"))
        }
        environment |= {"DAYBOOK_HOME": folder, "PREFECT_HOME": f"{folder}/prefect"}
        for turn in range(turns + 1):
            print(f"start times: turn {turn} of {turns}", file=sys.stderr)
            for command in measured:
                seconds = _timed(command.arguments, environment)
                if turn > 0:
                    command.seconds.append(seconds)
    return measured


def missed(measured: list[Command]) -> list[str]:
    """Return the commands that are slower than their target."""
    yardstick = measured[0].median
    return [each.shown for each in measured if yardstick / each.median < (each.wanted or 0)]


def table(measured: list[Command]) -> str:
    """Return the measurement as Markdown."""
    yardstick = measured[0].median
    lines = [
        "| command | median of "
        f"{len(measured[0].seconds)} | fastest – slowest | against `prefect version` | wanted |",
        "|---|---|---|---|---|",
    ]
    for each in measured:
        spread = f"{min(each.seconds):.2f} – {max(each.seconds):.2f} s"
        ratio = f"{yardstick / each.median:.1f} × faster" if each is not measured[0] else "1"
        wanted = f"≥ {each.wanted:g} ×" if each.wanted else ""
        lines.append(f"| {each.shown} | {each.median:.2f} s | {spread} | {ratio} | {wanted} |")
    return "\n".join(lines)


async def _fill(home: Path) -> None:
    """Put jobs into the ledger without Prefect: listing them needs none."""
    now = SYSTEM_CLOCK.now()
    ledger = Ledger(f"sqlite+aiosqlite:///{home / 'ledger.db'}")
    async with ledger, ledger.write() as session:
        for number in range(JOBS):
            job = new_job(
                now=now,
                prompt=f"Say what is new in project {number}.",
                cron=f"{number % 60} {number % 24} * * *",
                timezone="Europe/Berlin",
            )
            await store.add(session, job, f"job-{number}", now)


def _timed(arguments: list[str], environment: dict[str, str]) -> float:
    begin = time.perf_counter()
    subprocess.run(arguments, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - begin
