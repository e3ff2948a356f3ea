"""The work pool: its workers, and the ledgers that have jobs in it.

Two homes may share one Prefect, and each worker takes the runs of its own ledger only (promise 15).
So an online worker of another Daybook does not help this one.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daybook import home as homes
from daybook import settings
from daybook.errors import InvalidInput
from daybook.jobs.model import TAG_OF_OURS
from daybook.ledger.run_json import utc
from daybook.prefect.parameter_schema import POOL
from daybook.prefect.projection import ledger_tag

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

LOOKED_AT = 200
"""Maximum number of deployments that are read for the tags of other ledgers."""


@dataclass(frozen=True)
class Pool:
    """State of the work pool. ``workers`` are those online: `{"name", "last_heartbeat", "ours"}`.

    ``type`` is empty if there is no pool. ``has_ours`` says whether jobs of this ledger are in it;
    ``others`` are the ids of the other ledgers with jobs in it. ``paused`` names the pool and those
    of its queues that are paused in Prefect.
    """

    type: str
    workers: list[dict[str, Any]]
    has_ours: bool
    others: list[str]
    paused: tuple[str, ...] = ()

    @property
    def names_of_others(self) -> str:
        """Names of the workers that run nothing of this ledger."""
        return ", ".join(each["name"] for each in self.workers if not each["ours"])

    @property
    def idle(self) -> str:
        """Why nothing of this ledger runs; empty if a worker of ours is online."""
        if any(each["ours"] for each in self.workers):
            return ""
        if not self.workers:
            return "no worker is online, so nothing runs"
        several = len(self.workers) > 1
        are = "are workers" if several else "is the worker"
        return (
            f"no worker of this Daybook is online, so nothing of it runs: {self.names_of_others} "
            f"{are} of another Daybook"
        )

    @property
    def foreign(self) -> str:
        """A message if other ledgers have jobs in the pool and this one has none; else empty."""
        if self.has_ours or not self.others:
            return ""
        ids = ", ".join(each[:8] for each in self.others)
        return f"the pool {POOL} has jobs of another Daybook (ledger {ids}) and none of this one's"


async def read(client: PrefectClient, ledger_id: str) -> Pool:
    """Return the pool as it is now; ``ledger_id`` is empty for a home without a ledger."""
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.exceptions import ObjectNotFound

    try:
        pool = await client.read_work_pool(POOL)
        registered = await client.read_workers_for_work_pool(POOL)
    except ObjectNotFound:
        return Pool("", [], has_ours=False, others=[])
    has_ours, others = await ledgers(client, POOL, ledger_id)
    workers = [
        {
            "name": each.name,
            "last_heartbeat": utc(each.last_heartbeat_time),
            "ours": is_ours(each.name, shared=bool(others)),
        }
        for each in registered
        if each.status == WorkerStatus.ONLINE
    ]
    paused = [f"the work pool {POOL}"] if pool.is_paused else []
    queues = await client.read_work_queues(work_pool_name=POOL)
    paused += [f"the work queue {each.name}" for each in queues if each.is_paused]
    return Pool(str(pool.type), workers, has_ours, others, tuple(paused))


async def ledgers(client: PrefectClient, pool: str, ledger_id: str) -> tuple[bool, list[str]]:
    """Return whether ``pool`` has jobs of this ledger, and the ids of the other ledgers."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterTags,
        WorkPoolFilter,
        WorkPoolFilterName,
    )

    of_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
    deployments = await client.read_deployments(work_pool_filter=of_pool, limit=LOOKED_AT)
    tags = {tag for each in deployments for tag in each.tags if tag.startswith(TAG_OF_OURS)}
    ours = ledger_tag(ledger_id)
    if ledger_id and ours not in tags and len(deployments) == LOOKED_AT:
        only_ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[ours]))
        tags |= {
            ours
            for _ in await client.read_deployments(
                deployment_filter=only_ours, work_pool_filter=of_pool, limit=1
            )
        }
    return ours in tags, sorted(tag.removeprefix(TAG_OF_OURS) for tag in tags - {ours})


async def check(client: PrefectClient, pool: str, ledger_id: str) -> None:
    """Raise `InvalidInput` if other ledgers have jobs in the pool and this one has none.

    A worker there would take no run and a keeper would maintain none, without a visible reason
    (promise 15: a worker takes the runs of its own ledger only).
    """
    has_ours, others = await ledgers(client, pool, ledger_id)
    if others and not has_ours:
        listed = ", ".join(each[:8] for each in others)
        raise InvalidInput(
            "work pool",
            f'"{pool}" has jobs of another ledger ({listed}) and none of this one\'s, '
            f"{ledger_id[:8]}",
            "check DAYBOOK_HOME and DAYBOOK_LEDGER_URL",
        )


def is_ours(name: str, *, shared: bool) -> bool:
    """Return whether a worker of this name works for this home.

    ``shared`` says whether other ledgers have jobs in the pool. Prefect does not know a worker's
    home. `Home.worker_name` is made from machine and home. A worker with another name, or on
    another machine, counts as ours while the pool has only our jobs.
    """
    own_name = re.escape(homes.here().worker_name)
    if re.fullmatch(rf"{own_name}(-\d+)?", name):
        return True
    of_this_machine = re.fullmatch(rf"{re.escape(socket.gethostname())}-[0-9a-f]{{6}}(-\d+)?", name)
    if (
        of_this_machine and not settings.load().ledger_url
    ):  # with it, several homes may share a ledger
        return False
    return not shared
