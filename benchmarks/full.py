"""Duration of commands with 2,000 jobs and 50,000 runs, against an empty home.

Each home has its own `daybook up`, which answers the commands in its command server. The two homes
take turns, and so do the commands; the first turn only warms the caches. All jobs are in Prefect
and are due once a day, at hours in which the measurement does not run.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from statistics import median

from sqlmodel import select

from benchmarks import commands, pages
from benchmarks.report import header, progress, row
from daybook.clock import SYSTEM_CLOCK
from daybook.files.documents import to_yaml
from daybook.home import Home
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import JobRow

JOB_COUNT, RUN_COUNT = 2_000, 50_000
TURNS = 7
COMMANDS = {
    **{"list": 3.0, "status": 2.0, "doctor": 3.0},
    **dict.fromkeys(("runs", "today", "next first-light", "show first-light")),
}
"""Commands, each with the largest ratio of the full home to the empty one; None is no target."""


def measure(turns: int = TURNS) -> dict[str, tuple[list[float], list[float]]]:
    """Return the seconds of each command in the empty home and in the full one."""
    measured: dict[str, tuple[list[float], list[float]]] = {each: ([], []) for each in COMMANDS}
    with commands.started() as (_, empty), commands.started() as (home, full):
        _fill(home, full)
        for turn in range(turns + 1):
            progress(f"full home: turn {turn} of {turns}")
            for each, (of_empty, of_full) in measured.items():
                for seconds, run in ((of_empty, empty), (of_full, full)):
                    value = run("-m", "daybook", *each.split())
                    if turn > 0:
                        seconds.append(value)
    return measured


def _fill(home: Home, run: Callable[..., float]) -> None:
    progress(f"full home: {JOB_COUNT:,} jobs")
    hour = SYSTEM_CLOCK.now().hour + 2
    jobs = [
        {
            "name": f"applied-{number:04}",
            "prompt": "What is on today?",
            "schedule": f"{number % 60} {(hour + number % 20) % 24} * * *",
            "timezone": "UTC",
        }
        for number in range(JOB_COUNT)
    ]
    file = home.path / "jobs.yaml"
    file.write_text(to_yaml({"jobs": jobs}))
    run("-m", "daybook", "apply", "-f", str(file), "--wait")
    asyncio.run(_write_runs(home))


async def _write_runs(home: Home) -> None:
    async with Ledger(f"sqlite+aiosqlite:///{home.path / 'ledger.db'}") as ledger:
        async with ledger.read() as session:
            job_ids = list((await session.execute(select(JobRow.id))).scalars())
        if len(job_ids) < JOB_COUNT:
            raise RuntimeError(f"{len(job_ids)} of {JOB_COUNT} jobs were applied")
        await pages.write_runs(ledger, job_ids, RUN_COUNT)


def missed(measured: dict[str, tuple[list[float], list[float]]]) -> list[str]:
    """Return the missed targets."""
    return [
        f"daybook {each} of the full home: {_ratio(*measured[each]):.1f} ×, target ≤ {most:g} ×"
        for each, most in COMMANDS.items()
        if most is not None and _ratio(*measured[each]) > most
    ]


def _ratio(empty: list[float], full: list[float]) -> float:
    return median(full) / median(empty)


def table(measured: dict[str, tuple[list[float], list[float]]]) -> str:
    lines = [header("command", "empty home", "full home", "ratio", "target")]
    for each, (empty, full) in measured.items():
        most = COMMANDS[each]
        seconds = (f"{median(each):.2f} s" for each in (empty, full))
        target = "" if most is None else f"≤ {most:g} ×"
        lines.append(row(f"`daybook {each}`", *seconds, f"{_ratio(empty, full):.1f} ×", target))
    return "\n".join(lines)
