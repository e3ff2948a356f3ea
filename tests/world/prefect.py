"""What people, workers and flows do in Prefect, and what stands there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    DeploymentFilter,
    DeploymentFilterTags,
    FlowRunFilter,
)
from prefect.client.schemas.objects import FlowRun, State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import DeploymentSort, FlowRunSort
from prefect.states import Cancelling

from daybook.clock import SYSTEM_CLOCK
from daybook.jobs.store import StoredJob
from daybook.ledger.tables import RunRow
from daybook.operations import worker
from daybook.prefect import projection, run_names
from daybook.prefect import states as prefect_states
from daybook.runs import claims
from daybook.testing import ManualClock
from tests.at_prefect import basic, prepare

if TYPE_CHECKING:
    from tests.world import World

READS = ("/filter", "/csrf-token")
"""How the paths of requests end that change nothing and are no GET."""

Hook = Callable[[], Awaitable[object]]
Run = FlowRun | UUID | str | None


class Died(Exception):
    """The process died here."""


async def dies() -> None:
    raise Died


class Ahead(ManualClock):
    """The machine's clock, which a test puts forward: as if so much time had passed."""

    def __init__(self) -> None:
        super().__init__()
        self._by = timedelta(0)

    def now(self) -> datetime:
        return SYSTEM_CLOCK.now() + self._by

    def set(self, instant: datetime) -> datetime:
        return self.move(instant - self.now())

    def move(self, by: timedelta) -> datetime:
        self._by += by
        return self.now()

    async def wait_until(self, instant: datetime) -> None:
        await SYSTEM_CLOCK.wait_until(SYSTEM_CLOCK.now() + (instant - self.now()))


@dataclass
class Prefect:
    """``client`` is what the code under test gets; ``ui`` is everybody else's.

    Between two requests of ``client`` a test does something by ``before`` and ``after``, which are
    kept by the last word of the request's path and called once.
    """

    world: World
    client: PrefectClient
    ui: PrefectClient
    requests: Counter[str] = field(default_factory=Counter)
    """How often it asked, by the last word of the path."""
    writes: Counter[str] = field(default_factory=Counter)
    """How often it changed something there, by method and path, ids left out."""
    before: dict[str, Hook] = field(default_factory=dict)
    after: dict[str, Hook] = field(default_factory=dict)
    deadly: bool = False
    """Whether the process dies at each new write in Prefect, when that has been done there."""
    deaths: set[str] = field(default_factory=set)

    # --- deployments

    async def deployments(self) -> dict[str, DeploymentResponse]:
        """All with this ledger's tag, by id, as Prefect's own client reads them."""
        tags = DeploymentFilterTags(all_=[projection.ledger_tag(self.world.ledger.id)])
        found: dict[str, DeploymentResponse] = {}
        while True:
            page = await self.ui.read_deployments(
                deployment_filter=DeploymentFilter(tags=tags),
                sort=DeploymentSort.NAME_ASC,
                limit=200,
                offset=len(found),
            )
            found |= {str(each.id): each for each in page}
            if len(page) < 200:
                return found

    async def deployment(self, name: str) -> DeploymentResponse:
        """That of the agent prompt with this name."""
        return await self.ui.read_deployment_by_name(f"agent-prompt/{name}")

    async def edit_deployment(self, name: str, **body: Any) -> None:
        """Save the deployment's edit form, or flip its switch (``paused``)."""
        await self.request("PATCH", f"/deployments/{(await self.deployment(name)).id}", body)

    async def delete_deployment(self, name: str) -> None:
        await self.request("DELETE", f"/deployments/{(await self.deployment(name)).id}")

    async def edit_schedule(self, name: str, **body: Any) -> datetime:
        """Save the dialog of the job's schedule, or flip its switch; returns the time of that."""
        found = await self.deployment(name)
        path = f"/deployments/{found.id}/schedules/{found.schedules[0].id}"
        before = found.schedules[0].updated
        await self.request("PATCH", path, body)
        edited = (await self.deployment(name)).schedules[0].updated
        assert edited is not None
        assert before is not None
        assert edited > before
        return edited

    async def add_schedule(self, name: str, schedule: dict[str, Any]) -> None:
        body = [{"active": True, "schedule": schedule}]
        path = f"/deployments/{(await self.deployment(name)).id}/schedules"
        await self.request("POST", path, body)

    async def request(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """A request as the UI's JavaScript makes it."""
        base = str(self.client.api_url)
        async with httpx.AsyncClient(
            base_url=base, auth=basic(), trust_env=False, timeout=30
        ) as browser:
            answer = await browser.request(method, path, json=body)
        answer.raise_for_status()
        return answer

    # --- runs

    async def run(self, run: Run) -> FlowRun:
        return await self.ui.read_flow_run(_id(run))

    async def runs(self, which: StoredJob | DeploymentResponse) -> list[FlowRun]:
        """All Prefect runs of the job, the earliest first."""
        deployment = which.row.deployment_id if isinstance(which, StoredJob) else which.id
        wanted = FlowRunFilter.model_validate({"deployment_id": {"any_": [str(deployment)]}})
        return await self.ui.read_flow_runs(
            flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=200
        )

    async def scheduled(self, stored: StoredJob) -> FlowRun:
        """The first run that Prefect's scheduler has made of the job."""
        return (await self.runs(stored))[0]

    async def due(self, name: str) -> list[datetime]:
        """When the queued runs of the job are due, floored to the second."""
        expected = [run.expected_start_time for run in await self.runs(await self.deployment(name))]
        return [datetime.fromtimestamp(int(each.timestamp()), UTC) for each in expected if each]

    async def start(self, run: Run) -> datetime:
        """When it is scheduled for."""
        at = (await self.run(run)).next_scheduled_start_time
        assert at is not None
        return at

    async def custom_run(self, stored: StoredJob, **given: Any) -> FlowRun:
        """A custom run, asked for in Prefect."""
        deployment = UUID(str(stored.row.deployment_id))
        return await self.ui.create_flow_run_from_deployment(deployment, parameters=given)

    async def keyed_run(self, stored: StoredJob, key: str, **given: Any) -> FlowRun:
        """A run that we ask Prefect for, with a key of ours."""
        return await self.ui.create_flow_run_from_deployment(
            UUID(str(stored.row.deployment_id)),
            **{"parameters": stored.job.parameters(), "idempotency_key": key, **given},
        )

    async def carried(
        self, stored: StoredJob, *states: State[Any], until: datetime | None = None, **fields: Any
    ) -> tuple[RunRow, FlowRun]:
        """A waiting row with its Prefect run, in the last of these states; without any, scheduled
        for `until`.
        """
        ledger, row = self.world.ledger, await self.world.request(stored, until, **fields)
        run = await self.keyed_run(
            stored,
            f"{ledger.id}:{row.occurrence}:1",
            parameters=row.parameters,
            name=run_names.of_row(stored, row),
        )
        await claims.link_prefect_run(ledger, row, str(run.id))
        assert row.until is not None
        await self.set(run, prefect_states.waiting_state(row.until, row.reason), *states)
        return await self.world.row(row.id), await self.run(run)

    # --- their states

    async def set(self, run: Run, *states: State[Any]) -> None:
        """Set these states, one after the other, as a worker or a person does."""
        for state in states:
            await self.ui.set_flow_run_state(_id(run), state, force=True)

    async def cancel(self, run: Run) -> None:
        """As Prefect's UI does."""
        await self.ui.set_flow_run_state(_id(run), Cancelling())

    async def state(self, run: Run) -> State[Any]:
        state = (await self.run(run)).state
        assert state is not None
        return state

    async def shown(self, run: Run) -> tuple[str, str]:
        """Type and name of the state that Prefect shows."""
        state = await self.state(run)
        return state.type.value, str(state.name)

    async def states(self, run: Run) -> int:
        """How many states it has had."""
        return len(await self.ui.read_flow_run_states(_id(run)))

    async def artifact(self, run: Run) -> str:
        """The Markdown of that run's artifact."""
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[_id(run)]))
        (found,) = await self.ui.read_artifacts(artifact_filter=of_run)
        return str(found.data)

    # --- what is asked

    async def _asked(self, request: httpx.Request) -> None:
        path = request.url.path
        name = path.rpartition("/")[2]
        self.requests[name] += 1
        if request.method != "GET" and not path.endswith(READS):
            parts = ["…" if len(part) == 36 else part for part in path.split("/")]
            self.writes[f"{request.method} {'/'.join(parts[2:])}"] += 1
        if name in self.before:
            await self.before.pop(name)()

    async def _answered(self, response: httpx.Response) -> None:
        name = response.request.url.path.rpartition("/")[2]
        if name in self.after:
            await self.after.pop(name)()
        if not self.deadly or name == "filter" or response.request.method == "GET":
            return
        keyed = json.loads(response.request.content or "{}").get("idempotency_key", "")
        write = f"{response.request.url.path} {keyed}"
        if response.is_success and write not in self.deaths:
            self.deaths.add(write)
            raise Died


def _id(run: Run) -> UUID:
    return run.id if isinstance(run, FlowRun) else UUID(str(run)) if run else UUID(int=0)


@asynccontextmanager
async def connected(world: World) -> AsyncIterator[Prefect]:
    """The Prefect that this process talks to; at the end the ledger's deployments are deleted."""
    async with get_client() as client, get_client() as ui:
        await prepare(ui)
        prefect = Prefect(world, client, ui)
        client._client.event_hooks = {"request": [prefect._asked], "response": [prefect._answered]}
        yield prefect
        # A worker that another test starts at this Prefect would take their runs.
        for each in await prefect.deployments():
            await ui.delete_deployment(UUID(each))


async def forget_workers(client: PrefectClient) -> None:
    """Prefect holds a worker that has ended for online for half a minute more."""
    for gone in await client.read_workers_for_work_pool(worker.POOL):
        await client.request(
            "DELETE",
            "/work_pools/{work_pool_name}/workers/{name}",
            path_params={"work_pool_name": worker.POOL, "name": gone.name},
        )
