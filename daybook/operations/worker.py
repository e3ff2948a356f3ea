"""The worker of this machine, as a child of `daybook up`.

`start` starts the worker, and `wait_until_online` waits for the worker's heartbeat in Prefect.
`daybook.worker` implements the worker.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from daybook import home as homes
from daybook.errors import PrefectUnreachable
from daybook.home import Home
from daybook.operations import home_lock
from daybook.operations.prefect_selection import SelectedPrefect
from daybook.operations.server import absolute_python_path
from daybook.prefect import parameter_schema
from daybook.processes import children, image
from daybook.timing import TIMING

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

POOL = parameter_schema.WORK_POOL
POLL_INTERVAL_SECONDS = 0.2
GRACE_SECONDS = home_lock.CHILD_GRACE_SECONDS["worker"]
"""Time from SIGTERM to SIGKILL of the worker.

At first, runs may end by themselves. Then the worker ends or kills the remaining runs, and records
their outcomes.
"""
HEARTBEAT_VARIABLE = "PREFECT_WORKER_HEARTBEAT_SECONDS"
HEARTBEAT_SECONDS = 10
"""Default interval between two heartbeats.

After three missed heartbeats, Prefect considers the worker lost.
"""


def command(
    home: Home,
    *,
    pool: str = POOL,
    queues: Iterable[str] = (),
    limit: int | None = None,
    name: str | None = None,
    once: bool = False,
) -> list[str]:
    """Return the command line of a worker.

    Without ``name``, it chooses its own (`daybook.worker.names`). Without ``queues``, it polls all
    queues; without ``limit``, it has no limit of its own.
    """
    arguments = [*image.PYTHON_MODULE, "daybook.worker", "--pool", pool]
    arguments += ["--name", name] if name else []
    arguments += [f"--queue={each}" for each in queues]
    arguments += [] if limit is None else ["--limit", str(limit)]
    return arguments + (["--once"] if once else [])


def environment(home: Home, here: SelectedPrefect) -> dict[str, str]:
    """Return the variables for a worker of ``home`` that uses the selected Prefect, ``here``.

    If ``here`` is Daybook's own server, the worker reads the credential from the home.
    """
    fixed = {
        "DAYBOOK_HOME": str(home.path),
        "PREFECT_API_URL": here.api_url,
        "PYTHONUNBUFFERED": "1",
        **absolute_python_path(),
    }
    inherited = dict(os.environ)
    if here.child is not None:
        # The user's profiles do not exist in the home of Daybook's own server.
        inherited = homes.without_credentials(inherited)
        fixed["PREFECT_HOME"] = str(home.prefect)
        for profile in ("PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
            inherited.pop(profile, None)
    return {**inherited, **fixed}


async def start(
    home: Home, here: SelectedPrefect, forked_from: image.Image | None = None
) -> children.Child:
    """Start the worker; its log is `logs/worker.log`."""
    home.make().make_worker_id()
    child, reader = await children.start_reporting(
        "worker",
        command(home, name=home.worker_name),
        "--pulse",
        environment=environment(home, here),
        log=home.logs / "worker.log",
        folder=home.path,
        grace=GRACE_SECONDS,
        forked_from=forked_from,
    )
    child.pulse = children.Pulse(reader)
    return child


async def last_heartbeat(client: PrefectClient, home: Home) -> datetime | None:
    """Return the time (UTC) of the last heartbeat of this home's worker.

    Return None if the worker is not online.
    """
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


async def wait_until_online(
    client: PrefectClient,
    home: Home,
    *,
    before: datetime | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> datetime:
    """Wait for a heartbeat of this home's worker, and return its time (UTC).

    ``before`` is the result of `last_heartbeat` before the worker was started. This function
    ignores that heartbeat, because a worker that ended a moment ago still counts as online. While
    it waits, it calls ``progress`` with a line of text. Raise `PrefectUnreachable`, with the end of
    the worker's log, if there is no heartbeat for `Timing.max_start`.
    """
    began = time.monotonic()
    while (waited := time.monotonic() - began) < TIMING.max_start.total_seconds():
        heartbeat = await last_heartbeat(client, home)
        if heartbeat is not None and heartbeat != before:
            return heartbeat
        if waited >= 1.0:
            progress(f"Waiting for the worker: {waited:.0f} s")
        await asyncio.sleep(POLL_INTERVAL_SECONDS)
    log = children.read_tail(home.logs / "worker.log", 0)
    problem = f"the worker is not sending heartbeats\n{log}"
    raise PrefectUnreachable(str(client.api_url), problem)
