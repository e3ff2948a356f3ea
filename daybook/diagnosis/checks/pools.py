"""Checks of the other work pools of Prefect that jobs choose (`--pool`).

Call the functions that take a client only if `prefect.server` found no problem.
"""

from __future__ import annotations

import itertools
import shlex
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from sqlalchemy import make_url

from daybook import __version__, repository, settings
from daybook import prefect as reconciliation
from daybook.diagnosis.checks import ledger
from daybook.errors import InvalidInput
from daybook.finding import Finding, passed, problem, warning
from daybook.http.addresses import is_loopback
from daybook.jobs.store import StoredJob
from daybook.ledger.database import hosts
from daybook.ledger.engine import open_ledger
from daybook.prefect.deployments import PAGE_SIZE
from daybook.prefect.parameter_schema import WORK_POOL
from daybook.prefect.projection import ledger_tag
from daybook.runs.prefect_ends import NEVER_BEGAN
from daybook.short_text import first_names

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient
    from prefect.client.schemas.objects import WorkPool

CHECK = "job pools"
PROCESS_TYPE = "process"
"""Type of the pools whose workers start the runs on their own machine."""


async def of_jobs(client: PrefectClient) -> list[Finding]:
    """Check that the other pools that jobs choose can start their runs."""
    found = list[Finding]()
    for name, jobs in sorted((await _jobs_by_pool()).items()):
        pool = await _read(client, name)
        needed = f"needed by {first_names([each.row.name for each in jobs])}"
        found += await _problems(client, name, pool, needed)
        if pool is not None:
            found += _misfits(pool, jobs)
    return found


async def of_pool(client: PrefectClient, *, name: str) -> list[Finding]:
    """Check one pool, and return what the environment of its runs needs, as passed checks."""
    pool, jobs = await _read(client, name), (await _jobs_by_pool()).get(name, [])
    if pool is None or name == WORK_POOL:
        needs_none = passed(CHECK, f"{name} is the pool of Daybook's own workers")
        return [needs_none] if pool else await _problems(client, name, pool)
    found = await _problems(client, name, pool)
    if not found:
        names = first_names([each.row.name for each in jobs]) or "none yet"
        found.append(passed(CHECK, f"{name} has the type {pool.type}; its jobs: {names}"))
    return [*found, *_misfits(pool, jobs), *_unbegun(jobs), *_requirements(client, pool)]


async def _jobs_by_pool() -> dict[str, list[StoredJob]]:
    """Return the enabled jobs that choose another pool than Daybook's, by its name."""
    needed = dict[str, list[StoredJob]]()
    for each in await ledger.stored_jobs():
        if each.job.enabled and each.job.policy.pool not in ("", WORK_POOL):
            needed.setdefault(each.job.policy.pool, []).append(each)
    return needed


async def _read(client: PrefectClient, name: str) -> WorkPool | None:
    from prefect.exceptions import ObjectNotFound

    try:
        return await client.read_work_pool(name)
    except ObjectNotFound:
        return None


async def _problems(
    client: PrefectClient, name: str, pool: WorkPool | None, why: str = ""
) -> list[Finding]:
    """Return why no worker of this pool starts runs, with the queues that have no worker."""
    from prefect.client.schemas.objects import WorkerStatus, WorkQueueStatus

    quoted = shlex.quote(name)
    if pool is None:
        fix = f"prefect work-pool create {quoted} --type docker, or another type"
        return [problem(CHECK, f"Prefect has no work pool {name}", fix, why=why)]
    if pool.is_paused:
        fix = f"prefect work-pool resume {quoted}"
        return [problem(CHECK, f"the work pool {name} is paused", fix, why=why)]
    if pool.is_push_pool or pool.is_managed_pool:  # Prefect itself starts its runs
        return []
    workers = await client.read_workers_for_work_pool(name)
    start = f"prefect worker start --pool {quoted}"
    if not any(each.status is WorkerStatus.ONLINE for each in workers):
        return [problem(CHECK, f"no worker of the work pool {name} is online", start, why=why)]
    used = await _queues_in_use(client, name)
    found = list[Finding]()
    for queue in await client.read_work_queues(work_pool_name=name):
        title = f"the work queue {queue.name} of the work pool {name}"
        if queue.name not in used:
            continue
        if queue.is_paused:
            fix = f"prefect work-queue resume {shlex.quote(queue.name)} --pool {quoted}"
            found.append(problem(CHECK, f"{title} is paused", fix))
        elif queue.status is WorkQueueStatus.NOT_READY:
            fix = f"{start} --work-queue {shlex.quote(queue.name)}"
            found.append(problem(CHECK, f"no worker serves {title}", fix))
    if None in used:
        title = f"a deployment in the work pool {name} is in no work queue, so nothing starts it"
        found.append(problem(CHECK, title, "choose a queue for it in Prefect"))
    return found


async def _queues_in_use(client: PrefectClient, pool: str) -> set[str | None]:
    """Return the queues of this ledger's deployments in the pool; None for one in no queue."""
    async with open_ledger() as opened:
        tag = ledger_tag(opened.id)
    query = {
        "work_pools": {"name": {"any_": [pool]}},
        "deployments": {"tags": {"all_": [tag]}},
        "sort": "NAME_ASC",
        "limit": PAGE_SIZE,
    }
    used = set[str | None]()
    for offset in itertools.count(0, PAGE_SIZE):
        response = await client.request(
            "POST", "/deployments/filter", json=query | {"offset": offset}
        )
        page: list[dict[str, Any]] = response.json()
        used |= {each["work_queue_name"] for each in page}
        if len(page) < PAGE_SIZE:
            break
    return used


def _misfits(pool: WorkPool, jobs: list[StoredJob]) -> list[Finding]:
    """Report job variables that the pool does not know, or whose values it refuses."""
    found = list[Finding]()
    for each in jobs:
        try:
            reconciliation.job_variables.check(
                each.job.policy.job_variables, pool.base_job_template
            )
        except InvalidInput as error:
            title = f"the job variables of {each.row.name} do not fit the work pool {pool.name}"
            fix = f"daybook edit {shlex.quote(each.row.name)} --job-variable …"
            why = "; ".join(filter(None, (error.problem, error.hint)))
            found.append(problem(CHECK, title, fix, why=why))
    return found


def _unbegun(jobs: list[StoredJob]) -> list[Finding]:
    """Report jobs whose last run failed because no Prefect run of it reached the claim."""
    fix = "give its environment what a run needs; the log of its container or worker has more"
    return [
        problem(CHECK, f"the last run of {each.row.name} did not begin", fix, why=why)
        for each in jobs
        if NEVER_BEGAN in (why := (each.row.last_error or "").partition("; see daybook doctor")[0])
    ]


def _requirements(client: PrefectClient, pool: WorkPool) -> list[Finding]:
    """Say what the image, or the machine of the workers, needs for the runs of Daybook's jobs.

    Warn about addresses that only this machine reaches, if the runs are not processes of a machine.
    """
    found = [passed("image", f"it needs {repository.DISTRIBUTION}=={__version__}, with its flows")]
    is_elsewhere = pool.type != PROCESS_TYPE
    needs = "the runs need DAYBOOK_LEDGER_URL, and the file ledger-key in DAYBOOK_HOME"
    address = settings.load().ledger_address
    if is_elsewhere and address.startswith("sqlite"):
        title = "the ledger is a file on this machine, so runs on other machines cannot claim"
        fix = "daybook ledger move @FILE, with the address of a PostgreSQL database"
        found.append(warning("ledger address", title, fix))
    elif is_elsewhere and any(map(is_loopback, hosts(make_url(address)))):
        title = "the ledger's address is one of this machine only"
        fix = 'give the runs another one: --job-variable \'{"env": {"DAYBOOK_LEDGER_URL": "…"}}\''
        found.append(warning("ledger address", title, fix))
    else:
        found.append(passed("ledger address", needs))
    if is_elsewhere and is_loopback(urlsplit(str(client.api_url)).hostname or ""):
        title = "Prefect's address is one of this machine only"
        fix = "serve Prefect on an address that the runs reach, and start the pool's worker with it"
        found.append(warning("prefect address", title, fix))
    else:
        title = f"the runs use the PREFECT_API_URL of the pool's worker, such as {client.api_url}"
        found.append(passed("prefect address", title.rstrip("/")))
    return found
