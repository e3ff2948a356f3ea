"""Cost of one observation of all jobs, without an edit and with one.

Every ten seconds the keeper checks Prefect for edits, because an edit of a schedule causes no event
(`daybook.keeper.observer`). Its CPU is all that this process uses meanwhile, including the ledger's
driver; the server counts its requests.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks import usage
from benchmarks.report import header, p99, p99_label, progress, row, short
from benchmarks.testbed import Testbed
from daybook.jobs import store
from daybook.jobs.model import edit, new_job
from daybook.keeper.observer import Observation, observe
from daybook.ledger.engine import Ledger, open_ledger
from daybook.prefect import reconcile
from daybook.prefect.fingerprints import Fingerprints

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

TARGET_CPU_SECONDS = 1.0
"""CPU that one observation of a thousand jobs may take."""
MONTHLY = "0 9 1 * *"
"""Makes Prefect queue three runs of each job instead of a hundred."""


@dataclass(frozen=True)
class Plan:
    """Number of jobs, and of observations without an edit."""

    jobs: int = 1000
    observations: int = 15


@dataclass(frozen=True)
class Cost:
    """One observation: its CPU and the server's in seconds, its requests, the edits it found."""

    cpu: float
    server_cpu: float
    seconds: float
    requests: int
    observation: Observation


@dataclass
class Result:
    """``deploy_seconds`` is the time in which all jobs were deployed to Prefect."""

    jobs: int
    deploy_seconds: float
    unchanged: list[Cost]
    prefect_edit: Cost
    ledger_edit: Cost
    prefect_edit_found: bool
    ledger_edit_found: bool


async def measure(bed: Testbed, plan: Plan) -> Result:
    """Deploy the jobs and observe them."""
    # Not the testbed's client: its requests are not counted.
    from prefect.client.orchestration import get_client

    await bed.prepare()
    async with open_ledger() as ledger, get_client() as client:
        names = await _add_jobs(ledger, plan.jobs)
        progress(f"observe: deploying {len(names)} jobs")
        start = time.monotonic()
        await reconcile.reconcile_all(ledger, bed.client)
        deploy_seconds = time.monotonic() - start
        fingerprints = Fingerprints()
        await observe(ledger, client, fingerprints)  # the first observation only records the state
        unchanged = [
            await _measure(bed, ledger, client, fingerprints) for _ in range(plan.observations)
        ]
        for each in unchanged:
            report = each.observation.report
            if not report.unchanged == len(each.observation.jobs) == len(names):
                raise RuntimeError(f"an observation found a change that was not made: {report}")

        edited = names[len(names) // 2]
        await _edit_in_prefect(bed.client, ledger, edited)
        prefect_edit = await _measure(bed, ledger, client, fingerprints)
        await _edit_in_ledger(ledger, edited)
        ledger_edit = await _measure(bed, ledger, client, fingerprints)
    return Result(
        len(names),
        deploy_seconds,
        unchanged,
        prefect_edit,
        ledger_edit,
        prefect_edit.observation.report.pulled == [edited],
        ledger_edit.observation.report.updated == [edited],
    )


async def _add_jobs(ledger: Ledger, count: int) -> list[str]:
    """Fill the ledger up to ``count`` jobs; return the names of all jobs."""
    async with ledger.write() as session:
        existing = len(await store.all_jobs(session))
        for number in range(count - existing):
            name, now = f"observed-{number:04}", ledger.now()
            fields: dict[str, Any] = {"name": name, "prompt": "What is on today?", "cron": MONTHLY}
            await store.add(session, new_job(now=now, timezone="UTC", **fields), name, now)
        return [each.job.name for each in await store.all_jobs(session)]


async def _measure(
    bed: Testbed, ledger: Ledger, client: PrefectClient, fingerprints: Fingerprints
) -> Cost:
    requests, server_cpu = (await bed.counts())["requests"], usage.cpu(bed.server.pid)
    start, cpu = time.monotonic(), time.process_time()
    observation = await observe(ledger, client, fingerprints)
    cpu, seconds = time.process_time() - cpu, time.monotonic() - start
    server_cpu = usage.cpu(bed.server.pid) - server_cpu
    requests = (await bed.counts())["requests"] - requests
    return Cost(cpu, server_cpu, seconds, requests, observation)


async def _edit_in_prefect(client: PrefectClient, ledger: Ledger, name: str) -> None:
    """Change the schedule in Prefect, which causes no event."""
    from uuid import UUID

    from prefect.client.schemas.schedules import CronSchedule

    async with ledger.read() as session:
        job = await store.find(session, name)
    deployment = await client.read_deployment(UUID(str(job.row.deployment_id)))
    (schedule,) = deployment.schedules
    await client.update_deployment_schedule(
        deployment.id, schedule.id, schedule=CronSchedule(cron="30 7 1 * *", timezone="UTC")
    )


async def _edit_in_ledger(ledger: Ledger, name: str) -> None:
    """Change the prompt in the ledger without applying it to Prefect."""
    async with ledger.write() as session:
        job, now = await store.find(session, name), ledger.now()
        await store.change(session, job, edit(job.job, {"prompt": "And now?"}, now=now), now)


def table(result: Result) -> str:
    unchanged, jobs = result.unchanged, f"{result.jobs:,} jobs"
    cpu = [each.cpu for each in unchanged]
    lines = [
        header("what", "measured", "target"),
        row(f"{jobs} deployed to Prefect", f"{result.deploy_seconds:.0f} s", ""),
        row(
            f"observation of {jobs}, nothing changed: CPU, median of {len(cpu)}",
            f"{short(median(cpu))} s",
            f"≤ {TARGET_CPU_SECONDS:g} s",
        ),
        row(f"… CPU, {p99_label(cpu)}", f"{short(p99(cpu))} s", ""),
        row(
            "… CPU of the server, median",
            f"{short(median(each.server_cpu for each in unchanged))} s",
            "",
        ),
        row("… duration, median", f"{short(median(each.seconds for each in unchanged))} s", ""),
        row("… requests", _range([each.requests for each in unchanged]), ""),
    ]
    for what, cost, found in (
        ("one schedule edited in Prefect", result.prefect_edit, result.prefect_edit_found),
        ("one prompt edited in the ledger", result.ledger_edit, result.ledger_edit_found),
    ):
        lines += [
            row(f"{what}: found by the next observation", "yes" if found else "no", "yes"),
            row("… CPU", f"{short(cost.cpu)} s", ""),
            row("… requests", str(cost.requests), ""),
        ]
    return "\n".join(lines)


def _range(values: list[int]) -> str:
    low, high = min(values), max(values)
    return str(high) if low == high else f"{low} – {high}"


def missed(result: Result) -> list[str]:
    """Return the missed targets."""
    cpu, found = median(each.cpu for each in result.unchanged), list[str]()
    if cpu > TARGET_CPU_SECONDS:
        found.append(f"observation: {cpu:.3g} s of CPU, target ≤ {TARGET_CPU_SECONDS:g} s")
    if not result.prefect_edit_found:
        found.append("the next observation did not find an edit in Prefect")
    if not result.ledger_edit_found:
        found.append("the next observation did not find an edit in the ledger")
    return found
