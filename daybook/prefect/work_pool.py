"""The work pool: its creation, its workers, and the ledgers that have jobs in it.

Two homes may share one Prefect, and each worker runs only the jobs of its own ledger (promise 15).
So an online worker of another Daybook runs no jobs of this Daybook.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from daybook import home as homes
from daybook import settings
from daybook.errors import InvalidInput
from daybook.instants import UtcTime
from daybook.jobs.labels import RESERVED_TAG_PREFIX
from daybook.jobs.lateness import BUSY_AFTER
from daybook.prefect import work_queues
from daybook.prefect.parameter_schema import WORK_POOL
from daybook.prefect.projection import ledger_tag

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

POOL_TYPE = "daybook"
"""Type of the work pool: the type of Daybook's worker."""

MAX_DEPLOYMENTS_READ = 200
"""Maximum number of deployments that are read to find the tags of other ledgers."""


class OnlineWorker(BaseModel, frozen=True):
    """A worker that is online; ``ours`` is True if it runs the jobs of this ledger."""

    name: str
    last_heartbeat: UtcTime | None
    ours: bool


@dataclass(frozen=True)
class WorkPool:
    """State of the work pool, with the workers that are online.

    ``type`` is empty if there is no pool. ``has_ours`` is True if jobs of this ledger are in the
    pool; ``others`` has the ids of the other ledgers with jobs in it. ``paused`` names the pool if
    it is paused in Prefect, and its paused queues. ``unserved`` names the queues that no worker
    polls. ``unclaimed`` counts the runs of this ledger in the other queues that have been due for
    more than `BUSY_AFTER`, and that Prefect still shows as scheduled.
    """

    type: str
    workers: list[OnlineWorker]
    has_ours: bool
    others: list[str]
    paused: tuple[str, ...] = ()
    unserved: tuple[str, ...] = ()
    unclaimed: int = 0

    @property
    def names_of_others(self) -> str:
        """Return the names of the workers that run no jobs of this ledger."""
        return ", ".join(each.name for each in self.workers if not each.ours)

    @property
    def idle(self) -> str:
        """Return why no run of this ledger can start; empty if one of its workers is online."""
        if any(each.ours for each in self.workers):
            return ""
        if not self.workers:
            return "no worker is online, so nothing runs"
        belong = "belong" if len(self.workers) > 1 else "belongs"
        return (
            "no worker of this Daybook is online, so none of its jobs run: "
            f"{self.names_of_others} {belong} to another Daybook"
        )

    @property
    def foreign(self) -> str:
        """Return a message if only other ledgers have jobs in the pool; else an empty text."""
        if self.has_ours or not self.others:
            return ""
        ids = ", ".join(each[:8] for each in self.others)
        return (
            f"the pool {WORK_POOL} has jobs of another Daybook (ledger {ids}) and none of this one"
        )


async def read(client: PrefectClient, ledger_id: str, now: datetime | None = None) -> WorkPool:
    """Return the pool as it is now; ``ledger_id`` is empty for a home without a ledger.

    Without ``now``, the ledger's time, do not count the unclaimed runs.
    """
    from prefect.client.schemas.objects import WorkerStatus, WorkQueueStatus
    from prefect.exceptions import ObjectNotFound

    try:
        pool = await client.read_work_pool(WORK_POOL)
        registered = await client.read_workers_for_work_pool(WORK_POOL)
    except ObjectNotFound:
        return WorkPool("", [], has_ours=False, others=[])
    has_ours, others = await ledgers_in_pool(client, WORK_POOL, ledger_id)
    workers = [
        OnlineWorker(
            name=each.name,
            last_heartbeat=each.last_heartbeat_time,
            ours=is_own_worker(each.name, shared=bool(others)),
        )
        for each in registered
        if each.status == WorkerStatus.ONLINE
    ]
    paused = [f"the work pool {WORK_POOL}"] if pool.is_paused else []
    queues = await client.read_work_queues(work_pool_name=WORK_POOL)
    paused += [f"the work queue {each.name}" for each in queues if each.is_paused]
    unserved = tuple(each.name for each in queues if each.status == WorkQueueStatus.NOT_READY)
    served = [each.name for each in queues if each.name not in unserved]
    unclaimed = 0
    if has_ours and now is not None:
        unclaimed = await _count_unclaimed(client, ledger_id, served, now - BUSY_AFTER)
    return WorkPool(str(pool.type), workers, has_ours, others, tuple(paused), unserved, unclaimed)


async def _count_unclaimed(
    client: PrefectClient, ledger_id: str, queues: list[str], due_before: datetime
) -> int:
    query = {
        "flow_runs": {
            "state": {"type": {"any_": ["SCHEDULED"]}},
            "next_scheduled_start_time": {"before_": due_before.isoformat()},
        },
        "deployments": {"tags": {"all_": [ledger_tag(ledger_id)]}},
        "work_pools": {"name": {"any_": [WORK_POOL]}},
        "work_pool_queues": {"name": {"any_": queues}},
    }
    answer = await client.request("POST", "/flow_runs/count", json=query)
    return int(answer.json())


async def ensure(client: PrefectClient) -> None:
    """Create the work pool and its queues if they are missing.

    Raise `InvalidInput` if the pool has another type.
    """
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
    from prefect.workers.base import BaseWorker

    try:
        pool = await client.read_work_pool(WORK_POOL)
    except ObjectNotFound:
        # Prefect finds the type by its entry point, because this package may not import
        # `daybook.worker`.
        worker_type = BaseWorker.get_worker_class_from_type(POOL_TYPE)
        new_pool = WorkPoolCreate(
            name=WORK_POOL,
            type=POOL_TYPE,
            description="Daybook's jobs run in this pool",
            base_job_template=worker_type.get_default_base_job_template() if worker_type else {},
        )
        try:
            pool = await client.create_work_pool(new_pool)
        except ObjectAlreadyExists:  # another process was faster
            pool = await client.read_work_pool(WORK_POOL)
    if pool.type != POOL_TYPE:
        raise InvalidInput(
            "work pool",
            f'"{WORK_POOL}" has the type {pool.type} instead of {POOL_TYPE}',
            f"run `prefect work-pool delete {WORK_POOL}`, then `daybook sync`",
        )
    await work_queues.ensure(client)


async def ledgers_in_pool(
    client: PrefectClient, pool: str, ledger_id: str
) -> tuple[bool, list[str]]:
    """Return whether ``pool`` has jobs of this ledger, and the ids of other ledgers with jobs.

    If the pool has other deployments than this ledger's, read the first `MAX_DEPLOYMENTS_READ`
    deployments to find the other ledgers.
    """
    in_pool: dict[str, Any] = {"work_pools": {"name": {"any_": [pool]}}}
    ours, own_count = ledger_tag(ledger_id), 0
    if ledger_id:
        filters = in_pool | {"deployments": {"tags": {"all_": [ours]}}}
        own_count = (await client.request("POST", "/deployments/count", json=filters)).json()
    if own_count == (await client.request("POST", "/deployments/count", json=in_pool)).json():
        return own_count > 0, []
    query = in_pool | {"limit": MAX_DEPLOYMENTS_READ}
    found = (await client.request("POST", "/deployments/filter", json=query)).json()
    tags = {tag for each in found for tag in each["tags"] if tag.startswith(RESERVED_TAG_PREFIX)}
    return own_count > 0, sorted(tag.removeprefix(RESERVED_TAG_PREFIX) for tag in tags - {ours})


async def check_ledger(client: PrefectClient, pool: str, ledger_id: str) -> None:
    """Raise `InvalidInput` if other ledgers have jobs in the pool and this ledger has none.

    In such a pool, a worker would run nothing, and a keeper would have no runs to maintain, without
    a visible reason. (Promise 15: a worker runs only the jobs of its own ledger.)
    """
    has_ours, others = await ledgers_in_pool(client, pool, ledger_id)
    if others and not has_ours:
        listed = ", ".join(each[:8] for each in others)
        raise InvalidInput(
            "work pool",
            f'"{pool}" has jobs of another ledger ({listed}) and none of this one '
            f"({ledger_id[:8]})",
            "check DAYBOOK_HOME and DAYBOOK_LEDGER_URL",
        )


def is_own_worker(name: str, *, shared: bool) -> bool:
    """Return whether a worker with this name works for this home.

    ``shared`` is True if other ledgers have jobs in the pool. Prefect does not store a worker's
    home, but `Home.worker_name` contains the machine's name and a digest of the home. So
    this function recognizes a worker of another home on this machine; it is not ours, unless
    `ledger_url` is set. Any other worker counts as ours if the pool has only our jobs.
    """
    own_name = re.escape(homes.current_home().worker_name)
    if re.fullmatch(rf"{own_name}(-\d+)?", name):
        return True
    of_this_machine = re.fullmatch(rf"{re.escape(socket.gethostname())}-[0-9a-f]{{6}}(-\d+)?", name)
    if (
        of_this_machine and not settings.load().ledger_url
    ):  # with it, several homes may share a ledger
        return False
    return not shared
