"""Prefect's own process worker, which runs the flows of this machine for now.

`start` begins it as a child; `online` waits until the server has heard of it. Its settings favour
acting soon over asking seldom: it asks every 2 s, and takes runs at most 2 s ahead, because a run
that it has taken ahead would survive a pause.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING

from daybook.errors import PrefectUnreachable, Refused
from daybook.home import Home
from daybook.host import children, flow_processes
from daybook.host.prefect_here import PrefectHere
from daybook.host.server import absolute_python_path
from daybook.sync import form

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

POOL = form.POOL
POOL_TYPE = "process"
LOOK_AGAIN = 0.2
QUERY_SECONDS = 2
PREFETCH_SECONDS = 2
HEARTBEAT_SECONDS = 10
"""Prefect holds a worker for lost after three of these."""


def name(home: Home) -> str:
    """The worker's name in the pool: the same at each start, another for each home."""
    mark = hashlib.sha256(str(home.path).encode()).hexdigest()[:6]
    return f"{socket.gethostname()}-{mark}"


def environment(home: Home, here: PrefectHere) -> dict[str, str]:
    """The variables for a worker of ``home`` at the Prefect that is ``here``."""
    preferred = {
        "PREFECT_WORKER_QUERY_SECONDS": str(QUERY_SECONDS),
        "PREFECT_WORKER_PREFETCH_SECONDS": str(PREFETCH_SECONDS),
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
        ours["PREFECT_HOME"] = str(home.prefect)
        for profile in ("PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
            given.pop(profile, None)
    return {**preferred, **given, **ours}


async def ensure_pool(client: PrefectClient) -> None:
    """Make the work pool if it is missing. Raises `Refused` if it is there with another type."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.workers.process import ProcessWorker

    try:
        pool = await client.read_work_pool(POOL)
    except ObjectNotFound:
        wanted = WorkPoolCreate(
            name=POOL,
            type=POOL_TYPE,
            description="Where Daybook's jobs run",
            base_job_template=ProcessWorker.get_default_base_job_template(),
        )
        try:
            pool = await client.create_work_pool(wanted)
        except ObjectAlreadyExists:  # somebody was quicker
            pool = await client.read_work_pool(POOL)
    if pool.type != POOL_TYPE:
        raise Refused("work pool", f'"{POOL}" is of type {pool.type}', f"legal: {POOL_TYPE}")


async def start(home: Home, here: PrefectHere) -> children.Child:
    """Begin the worker; its log, with that of the flows it runs, is `logs/worker.log`.

    When it is ended, its flow processes are ended before it, so that each can leave its word.
    """
    home.make()
    pool = ["--pool", POOL, "--type", POOL_TYPE, "--name", name(home)]
    return await children.start(
        flow_processes.WORKER,
        [sys.executable, "-m", "prefect", "worker", "start", *pool],
        environment=environment(home, here),
        log=home.logs / "worker.log",
        folder=home.path,
        first=flow_processes.end,
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
        if worker.name == name(home) and worker.status == WorkerStatus.ONLINE:
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
