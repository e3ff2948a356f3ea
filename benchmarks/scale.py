"""What 10,000 jobs and 1,000,000 runs cost on PostgreSQL, against 1,000 and 100 jobs.

Three databases of the machine's PostgreSQL server have 100 runs of each job, spread over 30 days. A
process for each (`benchmarks.scale_process`) measures what a keeper, a worker, the commands and the
pages do there, without Prefect. The three take turns, and the first turn only warms the caches.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from statistics import median

import asyncpg  # type: ignore[import-untyped]
import sqlalchemy

from benchmarks import pages
from benchmarks.report import header, progress, row
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import AttemptRow, RunRow

URL = os.environ.get("TEST_POSTGRESQL_URL", "postgresql://root@127.0.0.1:5432/test")
RUNS_OF_A_JOB = 100
TURNS = 5
DAY = timedelta(days=1)
LINEAR = 10.0
"""Ten times the jobs may take so many times as long, of what reads each job."""
FLAT = 2.0
"""Target: the ratio of the largest ledger to one with a tenth of its jobs, of everything else."""
NOTHING = 0.005
"""Seconds below which a time is noise, and its ratio says nothing."""


@dataclass
class Size:
    """A ledger with ``jobs`` jobs. ``seconds`` are the times by what was measured.

    ``memory`` is that of the measuring process after its last turn, in bytes (PSS).
    """

    jobs: int
    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: int = 0

    @property
    def runs(self) -> int:
        return self.jobs * RUNS_OF_A_JOB


async def measure(sizes: tuple[int, ...], turns: int = TURNS) -> list[Size]:
    """Fill a ledger for each number of jobs, and measure in turns."""
    found = [Size(each) for each in sizes]
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(_process(each.jobs)) for each in found]
        for turn in range(turns + 1):
            for size, process in zip(found, processes, strict=True):
                progress(f"scale: turn {turn} of {turns}, {size.jobs:,} jobs")
                times = await _turn(process)
                size.memory = int(times.pop("memory"))
                for label, seconds in times.items() if turn else ():
                    size.seconds.setdefault(label, []).append(seconds)
    return found


@asynccontextmanager
async def _process(jobs: int) -> AsyncIterator[Process]:
    name, server = f"daybook_scale_{os.getpid()}_{jobs}", URL.rpartition("/")[0]
    admin = await asyncpg.connect(URL)
    await admin.execute(f"CREATE DATABASE {name}")
    address = server.replace("postgresql://", "postgresql+asyncpg://") + f"/{name}"
    try:
        async with Ledger(address) as ledger:
            ids = await pages.add_jobs(ledger, jobs)
            await pages.write_runs(ledger, ids, jobs)
        database = await asyncpg.connect(f"{server}/{name}")
        await _copy_runs(database, 30 * DAY / (jobs * RUNS_OF_A_JOB))
        await database.execute("VACUUM ANALYZE")
        await database.close()
        with tempfile.TemporaryDirectory(prefix="daybook-bench-") as home:
            command = (sys.executable, "-m", "benchmarks.scale_process")
            variables = os.environ | {"DAYBOOK_HOME": home, "DAYBOOK_LEDGER_URL": address}
            process = await asyncio.create_subprocess_exec(
                *command, stdin=PIPE, stdout=PIPE, env=variables, cwd=Path(__file__).parents[1]
            )
            try:
                yield process
            finally:
                assert process.stdin is not None
                process.stdin.close()
                await process.wait()
    finally:
        await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await admin.close()


async def _copy_runs(database: asyncpg.Connection, apart: timedelta) -> None:
    """Copy the one run of each job until it has `RUNS_OF_A_JOB`, each ``apart`` from the next."""
    for table, key in ((RunRow, "id"), (AttemptRow, "run_id")):
        changed = {key: f"md5({key} || copy)", "occurrence": "occurrence || ':' || copy"}
        times = ("due", "queued_at", "started_at", "finished_at")
        changed |= {each: f"{each} - copy * $1::interval" for each in times}
        columns = [each.key for each in sqlalchemy.inspect(table).columns]
        values = ", ".join(changed.get(each, f'"{each}"') for each in columns)
        names = ", ".join(f'"{each}"' for each in columns)
        copies = f"FROM {table.__tablename__}, generate_series(1, {RUNS_OF_A_JOB - 1}) copy"
        progress(f"scale: copies of {table.__tablename__}")
        await database.execute(
            f"INSERT INTO {table.__tablename__} ({names}) SELECT {values} {copies}", apart
        )


async def _turn(process: Process) -> dict[str, float]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError("the measuring process has ended")
    found: dict[str, float] = json.loads(line)
    return found


def missed(sizes: list[Size]) -> list[str]:
    """Return the missed targets."""
    *_, small, large = sizes
    return [
        f"{label}: {ratio:.1f} × with {large.jobs:,} jobs, target ≤ {most:g} ×"
        for label in large.seconds
        if (ratio := _ratio(label, small, large)) > (most := _target(label))
    ]


def _target(label: str) -> float:
    return LINEAR if label.startswith("all jobs: ") else FLAT


def _ratio(label: str, small: Size, large: Size) -> float:
    return median(large.seconds[label]) / max(median(small.seconds[label]), NOTHING)


def table(sizes: list[Size]) -> str:
    *_, small, large = sizes
    columns = (f"{each.jobs:,} jobs, {each.runs:,} runs" for each in sizes)
    lines = [header("what", *columns, "ratio of the last two", "target")]
    for label in large.seconds:
        times = (f"{1_000 * median(each.seconds[label]):.0f} ms" for each in sizes)
        ratio = f"{_ratio(label, small, large):.1f} ×"
        lines.append(row(label, *times, ratio, f"≤ {_target(label):g} ×"))
    lines.append(row("memory", *(f"{each.memory / 1e6:.0f} MB" for each in sizes), "", ""))
    return "\n".join(lines)
