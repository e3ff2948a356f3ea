"""Server time of Daybook's pages with 1,000 jobs, 200,000 runs and 50,000 messages in SQLite.

The pages answer in this process, behind their login, without a network: the time is that of the
server. Each page is requested once before it counts, so the totals of past days are known, as they
are in a server that has run for a minute.

Then a server in a process of its own has twenty viewers of Today, each with a session, a stream and
the requests that its browser sends after each event, while nothing changes but the minute.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
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

from benchmarks import hooks, usage
from benchmarks.report import header, progress, row, short
from daybook.diagnosis.health import HealthReport
from daybook.errors import DaybookError
from daybook.jobs import store
from daybook.jobs.model import new_job
from daybook.ledger.engine import Ledger
from daybook.ledger.tables import AttemptRow, JobRow, MessageRow, RunRow, SessionRow

JOB_COUNT = 1_000
RUN_COUNT = 200_000
MESSAGE_COUNT = 50_000
MESSAGES_PER_SESSION = 100
ROWS_PER_WRITE = 10_000
TURNS = 7
VIEWERS = 20
WATCHED_SECONDS = 60.0
MAX_SHARE_OF_VIEWERS = 0.05
"""Target: the share of a core that the viewers cost, without that of the server itself."""
_CRONS = ("0 * * * *", "*/30 * * * *", "0 8 * * 1-5", "15 6 * * *", "0 */6 * * *")
_STATUSES = ("succeeded", "failed", "missed", "skipped", "timed_out")


@dataclass(frozen=True)
class Measured:
    """A page, its server times and their CPU in seconds, and the target for the median time."""

    label: str
    seconds: list[float]
    cpu: list[float]
    target: float


@dataclass(frozen=True)
class Watched:
    """The share of a core that the server uses without viewers and with them.

    ``requests`` is the number of pages that the viewers requested meanwhile.
    """

    without: float
    with_viewers: float
    requests: int


def measure(turns: int = TURNS) -> tuple[list[Measured], Watched | None]:
    """Fill a ledger; return the times of the pages, and the cost of viewers (on Linux)."""
    with tempfile.TemporaryDirectory(prefix="daybook-bench-") as folder:
        before = dict(os.environ)
        os.environ |= {"DAYBOOK_HOME": folder, "DAYBOOK_TIMEZONE": "Europe/Berlin"}
        try:
            return asyncio.run(_measure(Path(folder), turns))
        finally:
            os.environ.clear()
            os.environ.update(before)


def missed(measured: list[Measured], watched: Watched | None) -> list[str]:
    """Return the missed targets."""
    found = [
        f"{each.label}: {median(each.seconds):.2f} s, target ≤ {each.target:g} s"
        for each in measured
        if median(each.seconds) > each.target
    ]
    if watched is not None and (share := _cost(watched)) > MAX_SHARE_OF_VIEWERS:
        found.append(
            f"{VIEWERS} viewers: {share:.1%} of a core, target ≤ {MAX_SHARE_OF_VIEWERS:.0%}"
        )
    return found


def _cost(watched: Watched) -> float:
    return watched.with_viewers - watched.without


def viewers_table(watched: Watched) -> str:
    names = ("without viewers", f"with {VIEWERS}", "cost", "target", "pages requested")
    cells = (f"{watched.without:.1%}", f"{watched.with_viewers:.1%}", f"{_cost(watched):.1%}")
    target = f"≤ {MAX_SHARE_OF_VIEWERS:.0%} of a core"
    seconds = f"{watched.requests} in {short(WATCHED_SECONDS)} s"
    return "\n".join([header(*names), row(*cells, target, seconds)])


def table(measured: list[Measured]) -> str:
    count = len(measured[0].seconds)
    lines = [header("page", f"median of {count}", "max", "CPU, median", "target")]
    lines += [
        row(
            each.label,
            f"{1_000 * median(each.seconds):.0f} ms",
            f"{1_000 * max(each.seconds):.0f} ms",
            f"{1_000 * median(each.cpu):.0f} ms",
            f"≤ {1_000 * each.target:g} ms",
        )
        for each in measured
    ]
    return "\n".join(lines)


async def _measure(home: Path, turns: int) -> tuple[list[Measured], Watched | None]:
    # Not at the top: they read the home of the environment.
    from daybook.web import login, pages

    async with Ledger(f"sqlite+aiosqlite:///{home / 'ledger.db'}") as ledger:
        job_id, run_id = await _fill(ledger)
        application = pages.application(no_health, ledger)
        server = login.protect(application, 4280)
        transport = httpx.ASGITransport(server, client=None)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as browser:
            await browser.get(server.new_link())
            found = [
                Measured(label, *await _times(browser, path, turns), target)
                for label, path, target in (
                    ("Today", "/", 0.3),
                    ("Jobs", "/jobs", 0.5),
                    ("Jobs, filtered", "/jobs?q=9&tag=ops&state=enabled", 0.5),
                    ("a job", f"/jobs/{job_id}", 0.5),
                    ("Runs", "/runs", 0.5),
                    ("a run", f"/runs/{run_id}", 0.5),
                    ("Search", "/search?q=is+new", 0.2),
                    ("Search, nothing found", "/search?q=no+such+text", 0.2),
                    ("Sessions", "/sessions", 0.5),
                    ("a session", "/sessions/default:bench-0", 0.5),
                    ("Callbacks", "/callbacks", 0.5),
                    ("Agents", "/agents", 0.5),
                    ("Spend", "/spend", 0.5),
                )
            ]
        await application.state.site.close()
    return found, await _watch(home) if sys.platform == "linux" else None


async def _watch(home: Path) -> Watched:
    from daybook.home import Home
    from daybook.operations.login import LINKS_PATH, LOGIN_PATH

    user, _, password = Home(home).credential().partition(":")
    async with hooks.served(home) as (port, pid):
        address = f"http://127.0.0.1:{port}"
        progress("pages: the server without viewers")
        without, _ = await _share(pid, [])
        viewers = [_Viewer(address) for _ in range(VIEWERS)]
        for each in viewers:
            made = await each.client.post(LINKS_PATH, auth=(user, password))
            token = made.raise_for_status().json()["token"]
            await each.client.get(LOGIN_PATH, params={"token": token})
        async with asyncio.TaskGroup() as group:  # a viewer that fails ends the measurement
            tasks = [group.create_task(each.follow()) for each in viewers]
            for each in viewers:
                await each.has_shown.wait()
            progress(f"pages: the server with {VIEWERS} viewers")
            with_viewers, requests = await _share(pid, viewers)
            for task in tasks:
                task.cancel()
        for each in viewers:
            await each.client.aclose()
    return Watched(without, with_viewers, requests)


async def _share(pid: int, viewers: list[_Viewer]) -> tuple[float, int]:
    """Return the share of a core that ``pid`` uses, and the number of requests meanwhile."""
    before, requests = usage.cpu(pid), sum(each.requests for each in viewers)
    start = time.monotonic()
    await asyncio.sleep(WATCHED_SECONDS)
    used = usage.cpu(pid) - before
    requests = sum(each.requests for each in viewers) - requests
    return used / (time.monotonic() - start), requests


class _Viewer:
    """What a browser does that shows Today: a stream, and the page after each event."""

    def __init__(self, address: str) -> None:
        self.client = httpx.AsyncClient(base_url=address, timeout=60.0, trust_env=False)
        self.requests, self.has_shown = 0, asyncio.Event()

    async def follow(self) -> None:
        from daybook.web import live

        async with self.client.stream("GET", live.PATH) as stream:
            stream.raise_for_status()
            async for line in stream.aiter_lines():
                if line.startswith("data: "):
                    page = await self.client.get("/", headers={live.HEADER: "1"})
                    page.raise_for_status()
                    self.requests += 1
                    self.has_shown.set()
        raise AssertionError("the stream ended")


async def no_health() -> HealthReport:
    """Raise `DaybookError`: no process of a home is measured."""
    raise DaybookError("not measured")


async def _times(
    browser: httpx.AsyncClient, path: str, turns: int
) -> tuple[list[float], list[float]]:
    """Return the durations of the requests, and the CPU of this process in each."""
    seconds, used = list[float](), list[float]()
    for turn in range(turns + 1):
        progress(f"pages: {path} {turn} of {turns}")
        start, cpu = time.perf_counter(), time.process_time()
        answer = await browser.get(path)
        if turn > 0:
            seconds.append(time.perf_counter() - start)
            used.append(time.process_time() - cpu)
        answer.raise_for_status()
    return seconds, used


async def _fill(ledger: Ledger) -> tuple[str, str]:
    """Write the jobs, runs and messages; return the ids of a job and a run."""
    job_ids = await add_jobs(ledger, JOB_COUNT)
    run_id = await write_runs(ledger, job_ids, RUN_COUNT)
    await _write_messages(ledger, run_id)
    return job_ids[0], run_id


async def add_jobs(ledger: Ledger, count: int) -> list[str]:
    """Write jobs that are 40 days old and audited up to now; return their ids."""
    now, job_ids = ledger.now(), list[str]()
    async with ledger.write() as session:
        for number in range(count):
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
            job_ids.append(stored.id)
        await session.execute(sqlalchemy.update(JobRow).values(audited_until=now))
    return job_ids


async def _write_messages(ledger: Ledger, run_id: str) -> None:
    now = ledger.now()
    shared = {"source": {}, "run_id": run_id, "at": now}
    async with ledger.write() as session:
        for number in range(MESSAGE_COUNT // MESSAGES_PER_SESSION):
            of = f"default:bench-{number}"
            row = SessionRow(
                id=of, agent="default", title=f"Talk {number}", created_at=now, updated_at=now
            )
            session.add(row)
            await session.flush()
            messages = [
                {
                    "session_id": of,
                    "number": each + 1,
                    "role": ("user", "assistant")[each % 2],
                    "content": "Say what is new in this project. " * 20,
                    **shared,
                }
                for each in range(MESSAGES_PER_SESSION)
            ]
            await session.execute(sqlalchemy.insert(MessageRow), messages)


async def write_runs(ledger: Ledger, job_ids: list[str], count: int) -> str:
    """Write ``count`` runs of the last 30 days, of the jobs in turn; return the oldest one's id."""
    dice, now, last = random.Random(1), ledger.now(), ""
    for first in range(0, count, ROWS_PER_WRITE):
        numbers = range(first, min(first + ROWS_PER_WRITE, count))
        runs = [
            _run(
                job_ids[each % len(job_ids)], now - timedelta(days=30) * (each / count), each, dice
            )
            for each in numbers
        ]
        progress(f"{numbers.stop:,} of {count:,} runs")
        async with ledger.write() as session:
            await session.execute(sqlalchemy.insert(RunRow), runs)
            attempts = [_attempt(run) for run in runs if run["attempts"]]
            await session.execute(sqlalchemy.insert(AttemptRow), attempts)
        last = str(runs[-1]["id"])
    return last


def _run(job_id: str, due: datetime, number: int, dice: random.Random) -> dict[str, Any]:
    status = dice.choices(_STATUSES, (90, 4, 2, 3, 1))[0]
    ran = status not in ("missed", "skipped")
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
