"""Actions of people, workers and flows in Prefect, and its contents."""

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
from prefect.client.schemas.objects import Artifact, FlowRun, State
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
"""Path endings of requests that are no GET but change nothing."""

Hook = Callable[[], Awaitable[object]]
Run = FlowRun | UUID | str | None


class Died(Exception):
    """Raised where a test lets the process die."""


async def dies() -> None:
    raise Died


class Ahead(ManualClock):
    """The machine's clock, which a test can advance."""

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
    """Prefect in a test: ``client`` belongs to the code under test, ``ui`` to everything else.

    ``before`` and ``after`` run test code between two requests of ``client``. They are keyed by the
    last word of the request's path, and each is called once.
    """

    world: World
    client: PrefectClient
    ui: PrefectClient
    requests: Counter[str] = field(default_factory=Counter)
    """Number of requests, by the last word of the path."""
    writes: Counter[str] = field(default_factory=Counter)
    """Number of writes, by method and path without ids."""
    before: dict[str, Hook] = field(default_factory=dict)
    after: dict[str, Hook] = field(default_factory=dict)
    deadly: bool = False
    """Whether the process dies at each new kind of write, after Prefect has done it."""
    deaths: set[str] = field(default_factory=set)

    # --- deployments

    async def deployments(self) -> dict[str, DeploymentResponse]:
        """Return the deployments with this ledger's tag by id, as Prefect's client reads them."""
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
        """Return the deployment of the agent prompt with this name."""
        return await self.ui.read_deployment_by_name(f"agent-prompt/{name}")

    async def edit_deployment(self, name: str, **body: Any) -> None:
        """Save the deployment's edit form, or flip its switch (``paused``)."""
        await self.request("PATCH", f"/deployments/{(await self.deployment(name)).id}", body)

    async def delete_deployment(self, name: str) -> None:
        await self.request("DELETE", f"/deployments/{(await self.deployment(name)).id}")

    async def edit_schedule(self, name: str, **body: Any) -> datetime:
        """Save the job's schedule dialog, or flip its switch; return the time of the change."""
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
        """Send a request as the UI's JavaScript does."""
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
        """Return all Prefect runs of the job, the earliest first."""
        deployment = which.row.deployment_id if isinstance(which, StoredJob) else which.id
        run_filter = FlowRunFilter.model_validate({"deployment_id": {"any_": [str(deployment)]}})
        return await self.ui.read_flow_runs(
            flow_run_filter=run_filter, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=200
        )

    async def scheduled(self, stored: StoredJob) -> FlowRun:
        """Return the first run that Prefect's scheduler has created for the job."""
        return (await self.runs(stored))[0]

    async def due(self, name: str) -> list[datetime]:
        """Return the due times of the job's queued runs, floored to the second."""
        expected = [run.expected_start_time for run in await self.runs(await self.deployment(name))]
        return [datetime.fromtimestamp(int(each.timestamp()), UTC) for each in expected if each]

    async def start(self, run: Run) -> datetime:
        """Return the time that the run is scheduled for."""
        at = (await self.run(run)).next_scheduled_start_time
        assert at is not None
        return at

    async def custom_run(self, stored: StoredJob, **given: Any) -> FlowRun:
        """Start a custom run in Prefect."""
        deployment = UUID(str(stored.row.deployment_id))
        return await self.ui.create_flow_run_from_deployment(deployment, parameters=given)

    async def keyed_run(self, stored: StoredJob, key: str, **given: Any) -> FlowRun:
        """Create a run in Prefect with one of our idempotency keys."""
        return await self.ui.create_flow_run_from_deployment(
            UUID(str(stored.row.deployment_id)),
            **{"parameters": stored.job.parameters(), "idempotency_key": key, **given},
        )

    async def carried(
        self, stored: StoredJob, *states: State[Any], until: datetime | None = None, **fields: Any
    ) -> tuple[RunRow, FlowRun]:
        """Create a waiting row with its Prefect run, in the last of these states.

        Without states the run is scheduled for `until`.
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
        """Cancel the run as Prefect's UI does."""
        await self.ui.set_flow_run_state(_id(run), Cancelling())

    async def state(self, run: Run) -> State[Any]:
        state = (await self.run(run)).state
        assert state is not None
        return state

    async def shown(self, run: Run) -> tuple[str, str]:
        """Return type and name of the state that Prefect shows."""
        state = await self.state(run)
        return state.type.value, str(state.name)

    async def states(self, run: Run) -> int:
        """Return how many states the run has had."""
        return len(await self.ui.read_flow_run_states(_id(run)))

    async def artifact(self, run: Run) -> str:
        """Return the Markdown of that run's artifact."""
        (found,) = await self._artifacts(run)
        return str(found.data)

    async def has_artifact(self, run: Run) -> bool:
        return bool(await self._artifacts(run))

    async def _artifacts(self, run: Run) -> list[Artifact]:
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[_id(run)]))
        return await self.ui.read_artifacts(artifact_filter=of_run)

    # --- requests

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
    """Yield the Prefect that this process uses; delete the ledger's deployments at the end."""
    async with get_client() as client, get_client() as ui:
        await prepare(ui)
        prefect = Prefect(world, client, ui)
        client._client.event_hooks = {"request": [prefect._asked], "response": [prefect._answered]}
        yield prefect
        # Otherwise a worker that another test starts at this Prefect would execute their runs.
        for each in await prefect.deployments():
            await ui.delete_deployment(UUID(each))


async def forget_workers(client: PrefectClient) -> None:
    """Delete ended workers, which Prefect shows as online for another half minute."""
    for stale in await client.read_workers_for_work_pool(worker.POOL):
        await client.request(
            "DELETE",
            "/work_pools/{work_pool_name}/workers/{name}",
            path_params={"work_pool_name": worker.POOL, "name": stale.name},
        )
