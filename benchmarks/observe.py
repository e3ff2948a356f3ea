"""Cost of one observation of all jobs, without an edit and with one.

Every ten seconds a keeper checks Prefect for edits, because an edit of a schedule causes no event
(`daybook.keeper.observer`). Its CPU is all that this process uses meanwhile, including the ledger's
driver; the server counts its requests.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks import counted, usage
from benchmarks.figures import head, row, short, worst, worst_is
from benchmarks.place import Place
from daybook import repository
from daybook.jobs import store as stored
from daybook.jobs.model import edit, new_job
from daybook.keeper.observer import Observation, observe
from daybook.ledger.engine import Ledger, open_ledger
from daybook.operations import worker as ours
from daybook.prefect import reconcile
from daybook.prefect.fingerprints import Fingerprints

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

MOST = 1.0
"""Seconds of CPU that one observation of this many jobs may take."""
MONTHLY = "0 9 1 * *"
"""Makes Prefect queue three runs of each job instead of a hundred."""


@dataclass(frozen=True)
class Plan:
    """Number of jobs, and of observations without an edit."""

    jobs: int = 1000
    looks: int = 15


@dataclass(frozen=True)
class Look:
    """One observation: its CPU and the server's, the requests, and the edits it found."""

    cpu: float
    server: float
    seconds: float
    requests: int
    of: Observation


@dataclass
class Measured:
    """``deployed`` is the number of seconds in which all jobs were deployed to Prefect."""

    jobs: int
    deployed: float
    unchanged: list[Look]
    there: Look
    here: Look
    found_there: bool
    found_here: bool


async def measure(place: Place, plan: Plan) -> Measured:
    """Deploy the jobs and observe them."""
    # Not the client of ``place``: its requests are not counted.
    from prefect.client.orchestration import get_client

    await repository.load_entry_point("blocks/__init__.py").register(place.client)
    await ours.ensure_pool(place.client)
    async with open_ledger() as ledger, get_client() as client:
        names = await _add(ledger, plan.jobs)
        _say(f"observe: {len(names)} jobs go to Prefect")
        began = time.monotonic()
        await reconcile.reconcile_all(ledger, place.client)
        deployed = time.monotonic() - began
        seen = Fingerprints()
        await observe(ledger, client, seen)  # the first observation only records the state
        unchanged = [await _look(place, ledger, client, seen) for _ in range(plan.looks)]
        for each in unchanged:
            _expect(each.of.report.unchanged == len(each.of.jobs) == len(names), each)

        edited = names[len(names) // 2]
        await _edit_there(place.client, ledger, edited)
        there = await _look(place, ledger, client, seen)
        await _edit_here(ledger, edited)
        here = await _look(place, ledger, client, seen)
        edits = [there.of.report.pulled == [edited], here.of.report.updated == [edited]]
        return Measured(len(names), deployed, unchanged, there, here, *edits)


async def _add(ledger: Ledger, many: int) -> list[str]:
    """Fill the ledger up to ``many`` jobs; return the names of the added ones."""
    async with ledger.write() as session:
        there = len(await stored.all_jobs(session))
        for number in range(many - there):
            name, now = f"observed-{number:04}", ledger.now()
            given = {"name": name, "prompt": "What is on today?", "cron": MONTHLY}
            job = new_job(now=now, timezone="UTC", **given)
            await stored.add(session, job, name, now)
        return [each.job.name for each in await stored.all_jobs(session)]


async def _look(place: Place, ledger: Ledger, client: PrefectClient, seen: Fingerprints) -> Look:
    asked, served = await _requests(place), usage.cpu(place.server.pid)
    began, used = time.monotonic(), time.process_time()
    found = await observe(ledger, client, seen)
    used, seconds = time.process_time() - used, time.monotonic() - began
    served = usage.cpu(place.server.pid) - served
    return Look(used, served, seconds, await _requests(place) - asked, found)


async def _requests(place: Place) -> int:
    async with httpx.AsyncClient(trust_env=False) as client:
        counts: dict[str, Any] = (await client.get(f"{place.here.ui_url}{counted.COUNTS}")).json()
    return int(counts["requests"])


async def _edit_there(client: PrefectClient, ledger: Ledger, name: str) -> None:
    """Change the schedule in Prefect, which causes no event."""
    from uuid import UUID

    from prefect.client.schemas.schedules import CronSchedule

    async with ledger.read() as session:
        job = await stored.find(session, name)
    deployment = await client.read_deployment(UUID(str(job.row.deployment_id)))
    (schedule,) = deployment.schedules
    await client.update_deployment_schedule(
        deployment.id, schedule.id, schedule=CronSchedule(cron="30 7 1 * *", timezone="UTC")
    )


async def _edit_here(ledger: Ledger, name: str) -> None:
    """Change the prompt in the ledger without applying it to Prefect."""
    async with ledger.write() as session:
        job, now = await stored.find(session, name), ledger.now()
        await stored.change(session, job, edit(job.job, {"prompt": "And now?"}, now=now), now)


def _expect(so: bool, look: Look) -> None:
    if not so:
        raise RuntimeError(f"the look found what nobody did: {look.of.report}")


def table(measured: Measured) -> str:
    """Return the figures as Markdown."""
    looks, many = measured.unchanged, f"{measured.jobs:,} jobs"
    cpu = [each.cpu for each in looks]
    lines = [
        head("what", "measured", "wanted"),
        row(f"{many} brought to Prefect", f"{measured.deployed:.0f} s", ""),
        row(
            f"a look at {many}, nothing changed: CPU, median of {len(cpu)}",
            f"{short(median(cpu))} s",
            f"≤ {MOST:g} s",
        ),
        row(f"… {worst_is(cpu)}", f"{short(worst(cpu))} s", ""),
        row("… CPU of the server, median", f"{short(median(e.server for e in looks))} s", ""),
        row("… until it ended, median", f"{short(median(e.seconds for e in looks))} s", ""),
        row("… requests", _requests_of(looks), ""),
    ]
    for what, look, found in (
        ("one schedule edited in Prefect", measured.there, measured.found_there),
        ("one prompt edited in the ledger", measured.here, measured.found_here),
    ):
        lines += [
            row(f"{what}: found by", "the next look" if found else "nobody", "the next look"),
            row("… its CPU", f"{short(look.cpu)} s", ""),
            row("… its requests", str(look.requests), ""),
        ]
    return "\n".join(lines)


def _requests_of(looks: list[Look]) -> str:
    least, most = (pick(each.requests for each in looks) for pick in (min, max))
    return str(most) if least == most else f"{least} – {most}"


def missed(measured: Measured) -> list[str]:
    """Return the missed targets."""
    cpu = median(each.cpu for each in measured.unchanged)
    found = [f"a look: {cpu:.3g} s of CPU, wanted ≤ {MOST:g} s"] * (cpu > MOST)
    found += ["an edit in Prefect was not found by the next look"] * (not measured.found_there)
    return found + ["an edit here was not found by the next look"] * (not measured.found_here)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
