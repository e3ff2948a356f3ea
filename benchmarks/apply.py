"""`daybook apply` of a thousand jobs: first, again, with one change; and the way to Prefect.

The first application stores the jobs in the ledger. The keeper then reconciles them with Prefect,
or the application itself does that if it waits (`--wait`). Half of the jobs are applied and
reconciled by the keeper's function, and then all of them are applied in one step that waits.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from sqlmodel import func, select

from benchmarks import usage
from benchmarks.report import header, progress, row, short
from benchmarks.testbed import Testbed
from daybook.api import files
from daybook.files.documents import to_yaml
from daybook.files.jobs_file import FileText
from daybook.ledger.engine import open_ledger
from daybook.ledger.tables import RevisionRow
from daybook.prefect import reconcile

FIRST_SECONDS, AGAIN_SECONDS = 60.0, 5.0
"""Targets: the first application of all jobs, until Prefect has them; each later one."""
SET = "benchmark"


@dataclass(frozen=True)
class Step:
    """Duration, own CPU and the server's CPU of one step, in seconds."""

    seconds: float
    cpu: float
    server_cpu: float


@dataclass(frozen=True)
class Result:
    """``writes`` is the number of revisions that the repeated application wrote."""

    jobs: int
    stored: Step
    reconciled: Step
    first: Step
    again: Step
    one_change: Step
    writes: int


async def measure(bed: Testbed, jobs: int = 1000) -> Result:
    """Apply sets of ``jobs`` jobs, which are due daily."""
    await bed.prepare()
    progress(f"apply: {jobs} jobs, then the keeper")
    stored = await _measured(bed, lambda: _apply(_text(jobs)))
    async with open_ledger() as ledger:
        reconciled = await _measured(bed, lambda: reconcile.reconcile_all(ledger, bed.client))
    await _apply(_text(0), prune=True, wait=True)

    progress(f"apply: {jobs} jobs, waiting for Prefect")
    first = await _measured(bed, lambda: _apply(_text(jobs), wait=True))
    before = await _revisions()
    again = await _measured(bed, lambda: _apply(_text(jobs), wait=True))
    writes = await _revisions() - before
    one_change = await _measured(bed, lambda: _apply(_text(jobs, changed=jobs // 2), wait=True))
    return Result(jobs, stored, reconciled, first, again, one_change, writes)


def _text(count: int, changed: int = -1) -> str:
    jobs = [
        {
            "name": f"applied-{number:04}",
            "prompt": "And now?" if number == changed else "What is on today?",
            "schedule": {"cron": f"{number % 60} {number // 60 % 24} * * *", "timezone": "UTC"},
        }
        for number in range(count)
    ]
    return to_yaml({"jobs": jobs})


async def _apply(text: str, **options: Any) -> None:
    report = await files.apply([FileText("jobs.yaml", text)], set_name=SET, **options)
    if report.failed or (options.get("wait") and report.pending):
        raise RuntimeError(f"not in Prefect: {report.failed or report.pending}")


async def _measured(bed: Testbed, act: Callable[[], Awaitable[object]]) -> Step:
    server_cpu, start, cpu = usage.cpu(bed.server.pid), time.monotonic(), time.process_time()
    await act()
    seconds, cpu = time.monotonic() - start, time.process_time() - cpu
    return Step(seconds, cpu, usage.cpu(bed.server.pid) - server_cpu)


async def _revisions() -> int:
    async with open_ledger() as ledger, ledger.read() as session:
        found = await session.execute(select(func.count()).select_from(RevisionRow))
        return int(found.scalar_one())


def table(result: Result) -> str:
    jobs = f"{result.jobs:,} jobs"
    steps = [
        (f"{jobs} stored in the ledger", result.stored, ""),
        ("… reconciled with Prefect by the keeper's function", result.reconciled, ""),
        (f"first `apply --wait` of {jobs}", result.first, f"≤ {FIRST_SECONDS:g} s"),
        ("second one, no change", result.again, f"≤ {AGAIN_SECONDS:g} s"),
        ("one changed job", result.one_change, f"≤ {AGAIN_SECONDS:g} s"),
    ]
    lines = [header("what", "duration", "CPU", "CPU of the server", "target")]
    lines += [
        row(what, *(f"{short(each)} s" for each in (it.seconds, it.cpu, it.server_cpu)), target)
        for what, it, target in steps
    ]
    return "\n".join([*lines, row("writes of the second one", str(result.writes), "", "", "0")])


def missed(result: Result) -> list[str]:
    """Return the missed targets."""
    limits = [
        ("first application", result.first.seconds, FIRST_SECONDS),
        ("second application", result.again.seconds, AGAIN_SECONDS),
        ("one change", result.one_change.seconds, AGAIN_SECONDS),
        ("writes of the second application", result.writes, 0),
    ]
    return [
        f"{what}: {value:.3g}, target ≤ {limit:g}" for what, value, limit in limits if value > limit
    ]
