"""The worker of this machine, as `daybook up` runs it; its own work is `daybook.worker`'s.

`start` begins it as a child; `online` waits until Prefect has heard of it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

from daybook import home as homes
from daybook.errors import InvalidInput, PrefectUnreachable
from daybook.home import Home
from daybook.operations import home_lock
from daybook.operations.prefect_selection import PrefectHere
from daybook.operations.server import absolute_python_path
from daybook.prefect import parameter_schema
from daybook.processes import children

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

POOL = parameter_schema.POOL
POOL_TYPE = "daybook"
LOOK_AGAIN = 0.2
GRACE = home_lock.GRACES["worker"]
"""Seconds from SIGTERM to SIGKILL: what is at work may end by itself, is asked to, is ended, and
what became of it is written down."""
HEARTBEAT_SECONDS = 10
"""Prefect holds a worker for lost after three of these."""


def command(
    home: Home,
    *,
    pool: str = POOL,
    limit: int | None = None,
    name: str | None = None,
    once: bool = False,
) -> list[str]:
    """The command line of a worker; without ``name`` it gets one of its own, beside `up`'s."""
    # -P: not what is named daybook in the folder where it is begun, such as another checkout.
    words = [sys.executable, "-P", "-m", "daybook.worker", "--pool", pool]
    words += ["--name", name or f"{home.worker_name}-{os.getpid()}"]
    words += [] if limit is None else ["--limit", str(limit)]
    return words + (["--once"] if once else [])


def environment(home: Home, here: PrefectHere) -> dict[str, str]:
    """The variables for a worker of ``home`` at the Prefect that is ``here``.

    It reads the credential of a server of our own from the home.
    """
    preferred = {
        "PREFECT_WORKER_HEARTBEAT_SECONDS": str(HEARTBEAT_SECONDS),
        "PREFECT_LOGGING_COLORS": "false",
    }
    ours = {
        "DAYBOOK_HOME": str(home.path),
        "PREFECT_API_URL": here.api_url,
        "PYTHONUNBUFFERED": "1",
        **absolute_python_path(),
    }
    given = dict(os.environ)
    if here.child is not None:  # where the user's own profiles are not known
        given = homes.without_credentials(given)
        ours["PREFECT_HOME"] = str(home.prefect)
        for profile in ("PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
            given.pop(profile, None)
    return {**preferred, **given, **ours}


async def ensure_pool(client: PrefectClient) -> None:
    """Create the work pool if it is missing. Raises `InvalidInput` if it has another type."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.workers.base import BaseWorker

    try:
        pool = await client.read_work_pool(POOL)
    except ObjectNotFound:
        # By its entry point: the worker's room stands above this one.
        kind = BaseWorker.get_worker_class_from_type(POOL_TYPE)
        wanted = WorkPoolCreate(
            name=POOL,
            type=POOL_TYPE,
            description="Where Daybook's jobs run",
            base_job_template=kind.get_default_base_job_template() if kind else {},
        )
        try:
            pool = await client.create_work_pool(wanted)
        except ObjectAlreadyExists:  # somebody was quicker
            pool = await client.read_work_pool(POOL)
    if pool.type != POOL_TYPE:
        raise InvalidInput(
            "work pool",
            f'"{POOL}" is of type {pool.type}',
            f"legal: {POOL_TYPE}; `prefect work-pool delete {POOL}`, then `daybook sync`",
        )


async def start(home: Home, here: PrefectHere) -> children.Child:
    """Begin the worker; its log is `logs/worker.log`."""
    home.make()
    return await children.start(
        "worker",
        command(home, name=home.worker_name),
        environment=environment(home, here),
        log=home.logs / "worker.log",
        folder=home.path,
        grace=GRACE,
    )


async def last_heartbeat(client: PrefectClient, home: Home) -> datetime | None:
    """When this home's worker last showed itself online (UTC); None if it is not."""
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.exceptions import ObjectNotFound

    try:
        workers = await client.read_workers_for_work_pool(POOL)
    except ObjectNotFound:
        return None
    for worker in workers:
        if worker.name == home.worker_name and worker.status == WorkerStatus.ONLINE:
            return worker.last_heartbeat_time
    return None


async def online(
    client: PrefectClient,
    home: Home,
    child: children.Child,
    *,
    before: datetime | None = None,
    within: float = 60.0,
) -> datetime:
    """Wait for a heartbeat of ``child`` and return its time (UTC).

    ``before`` is what `last_heartbeat` said before ``child`` was started: a worker that ended a
    moment ago still counts as online. Raises `PrefectUnreachable`, with the end of the worker's
    log, when it ends or stays silent.
    """
    end = time.monotonic() + within
    while time.monotonic() < end and child.exit_code is None:
        beat = await last_heartbeat(client, home)
        if beat is not None and beat != before:
            return beat
        await asyncio.sleep(LOOK_AGAIN)
    became = "is silent" if child.exit_code is None else f"ended with code {child.exit_code}"
    raise PrefectUnreachable(str(client.api_url), f"the worker {became}\n{child.tail()}")
