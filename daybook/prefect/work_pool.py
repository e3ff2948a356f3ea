"""Whose the work pool is: who is at work in it, and whose jobs it has (`docs/promise.md` 15).

Two homes may share one Prefect: each worker takes the runs of its own ledger only. So a worker that
is online is of no use to this Daybook when it is another one's.
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
"""So many deployments are read for the tags of other ledgers."""


@dataclass(frozen=True)
class Pool:
    """``workers`` are those online: `{"name", "last_heartbeat", "ours"}`.

    ``type`` is empty where there is no pool. ``has_ours`` is whether jobs of this ledger are in
    it; ``others`` are the ids of the other ledgers whose jobs are. ``paused`` are, in words, the
    pool and those of its queues that are paused in Prefect.
    """

    type: str
    workers: list[dict[str, Any]]
    has_ours: bool
    others: list[str]
    paused: tuple[str, ...] = ()

    @property
    def names_of_others(self) -> str:
        """The workers that run nothing of this ledger's."""
        return ", ".join(each["name"] for each in self.workers if not each["ours"])

    @property
    def idle(self) -> str:
        """Why nothing of this ledger's runs, in words; empty when a worker of ours is online."""
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
        """That the jobs of others are there and none of ours, in words; empty if it is not so."""
        if self.has_ours or not self.others:
            return ""
        ids = ", ".join(each[:8] for each in self.others)
        return f"the pool {POOL} has jobs of another Daybook (ledger {ids}) and none of this one's"


async def read(client: PrefectClient, ledger_id: str) -> Pool:
    """The pool as it is now; ``ledger_id`` is empty for a home that has no ledger yet."""
    from prefect.client.schemas.objects import WorkerStatus
    from prefect.exceptions import ObjectNotFound

    try:
        there = await client.read_work_pool(POOL)
        known = await client.read_workers_for_work_pool(POOL)
    except ObjectNotFound:
        return Pool("", [], has_ours=False, others=[])
    has_ours, others = await ledgers(client, POOL, ledger_id)
    workers = [
        {
            "name": each.name,
            "last_heartbeat": utc(each.last_heartbeat_time),
            "ours": is_ours(each.name, shared=bool(others)),
        }
        for each in known
        if each.status == WorkerStatus.ONLINE
    ]
    paused = [f"the work pool {POOL}"] if there.is_paused else []
    queues = await client.read_work_queues(work_pool_name=POOL)
    paused += [f"the work queue {each.name}" for each in queues if each.is_paused]
    return Pool(str(there.type), workers, has_ours, others, tuple(paused))


async def ledgers(client: PrefectClient, pool: str, ledger_id: str) -> tuple[bool, list[str]]:
    """Whether ``pool`` has jobs of this ledger, and the ids of the others whose jobs it has."""
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterTags,
        WorkPoolFilter,
        WorkPoolFilterName,
    )

    of_pool = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool]))
    found = await client.read_deployments(work_pool_filter=of_pool, limit=LOOKED_AT)
    tags = {tag for each in found for tag in each.tags if tag.startswith(TAG_OF_OURS)}
    ours = ledger_tag(ledger_id)
    if ledger_id and ours not in tags and len(found) == LOOKED_AT:
        only_ours = DeploymentFilter(tags=DeploymentFilterTags(all_=[ours]))
        tags |= {
            ours
            for _ in await client.read_deployments(
                deployment_filter=only_ours, work_pool_filter=of_pool, limit=1
            )
        }
    return ours in tags, sorted(tag.removeprefix(TAG_OF_OURS) for tag in tags - {ours})


async def check(client: PrefectClient, pool: str, ledger_id: str) -> None:
    """Raise `InvalidInput` when the pool's jobs are another ledger's and none is this one's.

    A worker there would take nothing, a keeper keep nothing, and nobody would see why
    (`docs/promise.md` 15).
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
    """Whether a worker of this name works for this home; ``shared`` is whether others have jobs in
    the pool.

    Prefect does not tell a worker's home. `host.worker` names it after machine and home; one with
    a name of its own, or on another machine, is taken for ours while the pool is ours alone.
    """
    own = re.escape(homes.here().worker_name)
    if re.fullmatch(rf"{own}(-\d+)?", name):
        return True
    of_this_machine = re.fullmatch(rf"{re.escape(socket.gethostname())}-[0-9a-f]{{6}}(-\d+)?", name)
    if of_this_machine and not settings.load().ledger_url:  # by which homes may share a ledger
        return False
    return not shared
