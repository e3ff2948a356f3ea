"""Server time of Daybook's pages with a thousand jobs and 200,000 runs in SQLite.

The pages answer in this process, behind their login, without a network: the time is that of the
server. Each page is requested once before it counts, so the totals of past days are known, as they
are in a server that has run for a minute.
"""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
import time
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import sqlalchemy

from benchmarks.report import header, progress, row
from daybook.errors import DaybookError
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import AttemptRow, RunRow
from daybook.operations.health import HealthReport

JOB_COUNT = 1_000
RUN_COUNT = 200_000
ROWS_PER_WRITE = 10_000
TURNS = 7
_CRONS = ("0 * * * *", "*/30 * * * *", "0 8 * * 1-5", "15 6 * * *", "0 */6 * * *")
_STATUSES = ("succeeded", "failed", "missed", "skipped", "timed_out")


@dataclass(frozen=True)
class Measured:
    """A page, its server times in seconds, and the target for their median."""

    label: str
    seconds: list[float]
    target: float


def measure(turns: int = TURNS) -> list[Measured]:
    """Fill a ledger and return the times of the pages."""
    with tempfile.TemporaryDirectory(prefix="daybook-bench-") as folder:
        before = dict(os.environ)
        os.environ |= {"DAYBOOK_HOME": folder, "DAYBOOK_TIMEZONE": "Europe/Berlin"}
        try:
            return asyncio.run(_measure(Path(folder), turns))
        finally:
            os.environ.clear()
            os.environ.update(before)


def missed(measured: list[Measured]) -> list[str]:
    """Return the missed targets."""
    return [
        f"{each.label}: {median(each.seconds):.2f} s, target ≤ {each.target:g} s"
        for each in measured
        if median(each.seconds) > each.target
    ]


def table(measured: list[Measured]) -> str:
    lines = [header("page", f"median of {len(measured[0].seconds)}", "max", "target")]
    lines += [
        row(
            each.label,
            f"{1_000 * median(each.seconds):.0f} ms",
            f"{1_000 * max(each.seconds):.0f} ms",
            f"≤ {1_000 * each.target:g} ms",
        )
        for each in measured
    ]
    return "\n".join(lines)


async def _measure(home: Path, turns: int) -> list[Measured]:
    # Not at the top: they read the home of the environment.
    from daybook.web import login, pages

    async with Ledger(f"sqlite+aiosqlite:///{home / 'ledger.db'}") as ledger:
        job_id, run_id = await _fill(ledger)
        application = pages.application(_no_health, ledger)
        server = login.protect(application, 4280)
        transport = httpx.ASGITransport(server, client=None)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as browser:
            await browser.get(server.new_link())
            found = [
                Measured(label, await _times(browser, path, turns), target)
                for label, path, target in (
                    ("Today", "/", 0.3),
                    ("Jobs", "/jobs", 0.5),
                    ("Jobs, filtered", "/jobs?q=9&tag=ops&state=enabled", 0.5),
                    ("a job", f"/jobs/{job_id}", 0.5),
                    ("Runs", "/runs", 0.5),
                    ("a run", f"/runs/{run_id}", 0.5),
                    ("Callbacks", "/callbacks", 0.5),
                    ("Agents", "/agents", 0.5),
                    ("Spend", "/spend", 0.5),
                )
            ]
        await application.state.site.close()
    return found


async def _no_health() -> HealthReport:
    raise DaybookError("not measured")


async def _times(browser: httpx.AsyncClient, path: str, turns: int) -> list[float]:
    seconds = list[float]()
    for turn in range(turns + 1):
        progress(f"pages: {path} {turn} of {turns}")
        start = time.perf_counter()
        answer = await browser.get(path)
        if turn > 0:
            seconds.append(time.perf_counter() - start)
        answer.raise_for_status()
    return seconds


async def _fill(ledger: Ledger) -> tuple[str, str]:
    """Write the jobs and runs; return the ids of one of each."""
    dice, now = random.Random(1), ledger.now()
    jobs = list[tuple[str, str]]()
    async with ledger.write() as session:
        for number in range(JOB_COUNT):
            job = new_job(
                now=now,
                default_timezone="Europe/Berlin",
                name=f"job-{number:04}",
                prompt=f"Say what is new in project {number}. " * 4,
                agent=("default", "coder", "research")[number % 3],
                tags=[("ops", "news", "code")[number % 3]],
                cron=_CRONS[number % len(_CRONS)],
            )
            begun = now - timedelta(days=40)
            stored = await store.add(session, job, job.name, begun, names_are_checked=True)
            jobs.append((stored.id, job.name))
    runs, attempts = list[dict[str, Any]](), list[dict[str, Any]]()
    for number in range(RUN_COUNT):
        run = _run(jobs[number % JOB_COUNT][0], now, number, dice)
        runs.append(run)
        if run["attempts"]:
            attempts.append(_attempt(run))
        if len(runs) == ROWS_PER_WRITE:
            progress(f"pages: {number + 1:,} of {RUN_COUNT:,} runs")
            async with ledger.write() as session:
                await session.execute(sqlalchemy.insert(RunRow), runs)
                await session.execute(sqlalchemy.insert(AttemptRow), attempts)
            last = run
            runs, attempts = [], []
    return jobs[0][0], str(last["id"])


def _run(job_id: str, now: datetime, number: int, dice: random.Random) -> dict[str, Any]:
    status = dice.choices(_STATUSES, (90, 4, 2, 3, 1))[0]
    ran = status not in ("missed", "skipped")
    due = now - timedelta(days=30) * (number / RUN_COUNT)
    row = RunRow(
        id=uuid.UUID(int=dice.getrandbits(128)).hex,
        occurrence=f"due:{job_id}:{number}",
        job_id=job_id,
        revision=1,
        kind="agent-prompt",
        trigger="schedule",
        due=due,
        status=status,
        parameters={"prompt": "Say what is new. " * 20, "agent": "default"},
        attempts=int(ran),
        queued_at=due,
        started_at=due + timedelta(seconds=1) if ran else None,
        finished_at=due + timedelta(seconds=dice.randint(3, 90)),
        output="An answer. " * 40 if status == "succeeded" else None,
        error="the provider returned status 500" if status == "failed" else None,
        agent="default" if ran else None,
        model="a-model" if ran else None,
        usage={"input_tokens": 900, "output_tokens": 90, "cost_usd": 0.004} if ran else None,
    )
    return row.model_dump()


def _attempt(run: dict[str, Any]) -> dict[str, Any]:
    shared = ("status", "started_at", "finished_at", "error", "usage")
    return {"run_id": run["id"], "number": 1, "fence": 1} | {name: run[name] for name in shared}
