"""Random walk of edits on both sides, on jobs reserved for it.

If Prefect or the ledger is unavailable and rejects a step, the step is drawn again, so the
requested number of steps really happens.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from prefect.client.orchestration import PrefectClient

from chaos.place import Place
from chaos.work import Work
from daybook.api import jobs
from daybook.clock import SYSTEM_CLOCK
from daybook.errors import DaybookError
from daybook.jobs import store as stored
from daybook.ledger.engine import Ledger
from daybook.prefect import deployment, projection

AGREED = 60.0
"""Seconds until both sides must agree after the last edit."""
AGAIN = 0.5


class Walk:
    """A number of steps drawn from ``draw``; ``steps`` counts the completed steps by kind."""

    def __init__(self, draw: random.Random, many: int) -> None:
        self._draw, self._many = draw, many
        self.steps: Counter[str] = Counter()
        self._edited: dict[str, str] = {}

    async def go(self, place: Place, work: Work, since: float, seconds: float) -> None:
        """Do all steps, spread over ``seconds`` from ``since`` (epoch seconds)."""
        self._edited = work.edited
        for number in range(self._many):
            at = since + seconds * number / self._many
            await asyncio.sleep(max(0.0, at - SYSTEM_CLOCK.now().timestamp()))
            had = await self._step(place)
            while not had:
                await asyncio.sleep(AGAIN)
                had = await self._step(place)

    async def _step(self, place: Place) -> bool:
        name = self._draw.choice(sorted(self._edited))
        kinds: dict[str, Callable[[str], Awaitable[object]]] = {
            "edit the schedule here": self._edit_schedule,
            "edit the prompt here": self._edit_prompt,
            "pause here": jobs.pause,
            "resume here": jobs.resume,
        }
        there: dict[str, Callable[[Any, httpx.AsyncClient], Awaitable[object]]] = {
            "edit the schedule there": self._schedule_there,
            "switch the schedule there": self._switch_schedule,
            "pause or resume there": self._switch_deployment,
            "edit the parameters there": self._parameters_there,
            "delete there": self._delete_there,
        }
        kind = self._draw.choice([*kinds, *kinds, *there])
        try:
            if kind in kinds:
                await kinds[kind](name)
            else:
                job = await jobs.show(name)
                basic = httpx.BasicAuth(*place.home.credential().split(":", 1))
                async with httpx.AsyncClient(
                    base_url=place.api_url, auth=basic, timeout=10.0
                ) as client:
                    path = f"/deployments/name/{job['deployment']}"
                    found = (await client.get(path)).raise_for_status().json()
                    await there[kind](found, client)
        except (DaybookError, httpx.HTTPError, IndexError):
            return False  # unavailable, or the step does not apply to the job's current state
        self.steps[kind] += 1
        return True

    async def _edit_schedule(self, name: str) -> None:
        await jobs.edit_job(name, {"every": f"{self._draw.randint(3, 20)}s"})

    async def _edit_prompt(self, name: str) -> None:
        job = await jobs.show(name)
        words = f"edited {self._draw.randrange(10**6)}"
        if job["kind"] == "agent-prompt":
            await jobs.edit_job(name, {"retry_delay": f"{self._draw.randint(1, 5)}s"})
        else:
            await jobs.edit_job(name, {"description": words})

    async def _schedule_there(self, found: Any, client: httpx.AsyncClient) -> None:
        held = found["schedules"][0]
        new = {
            "schedule": {"interval": self._draw.randint(3, 20), "timezone": "UTC"},
            "active": held["active"],
        }
        await self._patch(client, f"/deployments/{found['id']}/schedules/{held['id']}", new)

    async def _switch_schedule(self, found: Any, client: httpx.AsyncClient) -> None:
        held = found["schedules"][0]
        new = {"active": not held["active"]}
        await self._patch(client, f"/deployments/{found['id']}/schedules/{held['id']}", new)

    async def _switch_deployment(self, found: Any, client: httpx.AsyncClient) -> None:
        await self._patch(client, f"/deployments/{found['id']}", {"paused": not found["paused"]})

    async def _parameters_there(self, found: Any, client: httpx.AsyncClient) -> None:
        policy = {**found["parameters"]["policy"], "timeout": f"{self._draw.randint(20, 60)}s"}
        new = {"parameters": {**found["parameters"], "policy": policy}}
        await self._patch(client, f"/deployments/{found['id']}", new)

    async def _delete_there(self, found: Any, client: httpx.AsyncClient) -> None:
        (await client.delete(f"/deployments/{found['id']}")).raise_for_status()

    async def _patch(self, client: httpx.AsyncClient, path: str, new: Any) -> None:
        (await client.patch(path, json=new)).raise_for_status()

    async def disagree(self, ledger: Ledger, client: PrefectClient) -> list[str]:
        """Return where both sides differ without a visible conflict, after a wait."""
        loop = asyncio.get_running_loop()
        end = loop.time() + AGREED
        apart = await self._apart(ledger, client)
        while apart and loop.time() < end:
            await asyncio.sleep(1.0)
            apart = await self._apart(ledger, client)
        return apart

    async def _apart(self, ledger: Ledger, client: PrefectClient) -> list[str]:
        async with ledger.read() as session:
            every = await stored.all_jobs(session)
        apart = list[str]()
        for each in every:
            row = each.row
            found = await deployment.read(client, row.deployment_id) if row.deployment_id else None
            if found is None:
                if each.job.enabled:
                    apart.append(f"{row.name} is on and has no deployment")
            elif not row.conflict:
                ours = projection.of_job(each, ledger.id).as_dict()
                theirs = projection.of_deployment(found).as_dict()
                differing = [name for name in ours if ours[name] != theirs[name]]
                if differing:
                    apart.append(f"{row.name} differs in {', '.join(differing)}")
        return apart
