"""Random walk of edits in Daybook and in Prefect, on jobs reserved for it.

If Prefect or the ledger is unavailable and rejects a step, another step is drawn, so the requested
number of steps really happens.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient

from chaos.cluster import Cluster
from chaos.workload import Workload
from daybook.api import jobs
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import DaybookError
from daybook.jobs import store
from daybook.ledger.engine import Ledger
from daybook.prefect import deployment, projection

RECONCILE_TIMEOUT_SECONDS = 60.0
"""Time after the last edit in which ledger and Prefect have to agree."""
RETRY_DELAY_SECONDS = 0.5


class EditWalk:
    """``count`` steps drawn from ``draw``; ``steps`` counts the completed steps by kind."""

    def __init__(self, draw: random.Random, count: int) -> None:
        self._draw, self._count = draw, count
        self.steps: Counter[str] = Counter()
        self._edited: dict[str, str] = {}

    async def run(self, cluster: Cluster, workload: Workload, since: float, seconds: float) -> None:
        """Do all steps, spread over ``seconds`` from ``since`` (epoch seconds)."""
        self._edited = workload.edited
        for number in range(self._count):
            at = since + seconds * number / self._count
            await asyncio.sleep(max(0.0, at - SYSTEM_CLOCK.now().timestamp()))
            done = await self._step(cluster)
            while not done:
                await asyncio.sleep(RETRY_DELAY_SECONDS)
                done = await self._step(cluster)

    async def _step(self, cluster: Cluster) -> bool:
        """Draw a step and do it; return whether it was possible."""
        name = self._draw.choice(sorted(self._edited))
        in_daybook: dict[str, Callable[[str], Awaitable[object]]] = {
            "edit the schedule in Daybook": self._edit_schedule,
            "edit the job in Daybook": self._edit_job,
            "pause in Daybook": jobs.pause,
            "resume in Daybook": jobs.resume,
        }
        in_prefect: dict[str, Callable[[Any, httpx.AsyncClient], Awaitable[object]]] = {
            "edit the schedule in Prefect": self._edit_prefect_schedule,
            "switch the schedule in Prefect": self._switch_prefect_schedule,
            "pause or resume in Prefect": self._switch_deployment,
            "edit the parameters in Prefect": self._edit_parameters,
            "delete in Prefect": self._delete_deployment,
        }
        kind = self._draw.choice([*in_daybook, *in_daybook, *in_prefect])
        try:
            if kind in in_daybook:
                await in_daybook[kind](name)
            else:
                job = await jobs.show(name)
                credential = httpx.BasicAuth(*cluster.home.credential().split(":", 1))
                async with httpx.AsyncClient(
                    base_url=cluster.api_url, auth=credential, timeout=10.0
                ) as client:
                    path = f"/deployments/name/{job.deployment}"
                    found = (await client.get(path)).raise_for_status().json()
                    await in_prefect[kind](found, client)
        except (DaybookError, httpx.HTTPError, IndexError):
            return False  # unavailable, or the step does not apply to the job's current state
        self.steps[kind] += 1
        return True

    async def _edit_schedule(self, name: str) -> None:
        await jobs.edit_job(name, {"every": f"{self._draw.randint(3, 20)}s"})

    async def _edit_job(self, name: str) -> None:
        job = await jobs.show(name)
        description = f"edited {self._draw.randrange(10**6)}"
        if job.kind == "agent-prompt":
            await jobs.edit_job(name, {"retry_delay": f"{self._draw.randint(1, 5)}s"})
        else:
            await jobs.edit_job(name, {"description": description})

    async def _edit_prefect_schedule(self, found: Any, client: httpx.AsyncClient) -> None:
        schedule = found["schedules"][0]
        change = {
            "schedule": {"interval": self._draw.randint(3, 20), "timezone": "UTC"},
            "active": schedule["active"],
        }
        await self._patch(client, f"/deployments/{found['id']}/schedules/{schedule['id']}", change)

    async def _switch_prefect_schedule(self, found: Any, client: httpx.AsyncClient) -> None:
        schedule = found["schedules"][0]
        change = {"active": not schedule["active"]}
        await self._patch(client, f"/deployments/{found['id']}/schedules/{schedule['id']}", change)

    async def _switch_deployment(self, found: Any, client: httpx.AsyncClient) -> None:
        await self._patch(client, f"/deployments/{found['id']}", {"paused": not found["paused"]})

    async def _edit_parameters(self, found: Any, client: httpx.AsyncClient) -> None:
        policy = {**found["parameters"]["policy"], "timeout": f"{self._draw.randint(20, 60)}s"}
        change = {"parameters": {**found["parameters"], "policy": policy}}
        await self._patch(client, f"/deployments/{found['id']}", change)

    async def _delete_deployment(self, found: Any, client: httpx.AsyncClient) -> None:
        (await client.delete(f"/deployments/{found['id']}")).raise_for_status()

    async def _patch(self, client: httpx.AsyncClient, path: str, change: Any) -> None:
        (await client.patch(path, json=change)).raise_for_status()


async def differences(ledger: Ledger, client: PrefectClient) -> list[str]:
    """Wait until ledger and Prefect agree; return the remaining differences.

    A conflict that `daybook conflicts` shows is no difference.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + RECONCILE_TIMEOUT_SECONDS
    found = await _differences(ledger, client)
    while found and loop.time() < end:
        await asyncio.sleep(1.0)
        found = await _differences(ledger, client)
    return found


async def _differences(ledger: Ledger, client: PrefectClient) -> list[str]:
    async with ledger.read() as session:
        every_job = await store.all_jobs(session)
    different = list[str]()
    for each in every_job:
        row = each.row
        found = await deployment.read(client, row.deployment_id) if row.deployment_id else None
        if found is None:
            if each.job.enabled:
                different.append(f"{row.name} is enabled and has no deployment")
        elif not row.conflict:
            in_ledger = projection.of_job(each, ledger.id).as_dict()
            in_prefect = projection.of_deployment(found).as_dict()
            fields = [name for name in in_ledger if in_ledger[name] != in_prefect[name]]
            if fields:
                different.append(f"{row.name} differs in {', '.join(fields)}")
    return different
