"""Actions of people, workers and flows on Prefect's runs, and their contents."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.client.schemas.objects import Artifact, FlowRun, State
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort, LogSort
from prefect.states import Cancelling

from daybook.jobs.store import StoredJob
from daybook.operations import worker
from tests.at_prefect import basic, prepare
from tests.world.traffic import Traffic

Run = FlowRun | UUID | str | None


@dataclass
class Prefect:
    """Prefect in a test: ``client`` belongs to the code under test, ``ui`` to everything else."""

    client: PrefectClient
    ui: PrefectClient
    traffic: Traffic
    """The requests of ``client``."""

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

    async def log(self, run: Run) -> list[tuple[str, str]]:
        """Return the level and the message of each line in the run's log, oldest first."""
        of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[_id(run)]))
        lines = await self.ui.read_logs(of_run, sort=LogSort.TIMESTAMP_ASC)
        return [(logging.getLevelName(line.level), line.message) for line in lines]

    async def artifact(self, run: Run) -> str:
        """Return the Markdown of that run's artifact."""
        (found,) = await self._artifacts(run)
        return str(found.data)

    async def has_artifact(self, run: Run) -> bool:
        return bool(await self._artifacts(run))

    async def _artifacts(self, run: Run) -> list[Artifact]:
        of_run = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[_id(run)]))
        return await self.ui.read_artifacts(artifact_filter=of_run)


def _id(run: Run) -> UUID:
    return run.id if isinstance(run, FlowRun) else UUID(str(run)) if run else UUID(int=0)


@asynccontextmanager
async def connected() -> AsyncIterator[Prefect]:
    """Yield the Prefect that this process uses."""
    async with get_client() as client, get_client() as ui:
        await prepare(ui)
        yield Prefect(client, ui, Traffic.of(client))


async def forget_workers(client: PrefectClient) -> None:
    """Delete ended workers, which Prefect shows as online for another half minute."""
    for stale in await client.read_workers_for_work_pool(worker.POOL):
        await client.request(
            "DELETE",
            "/work_pools/{work_pool_name}/workers/{name}",
            path_params={"work_pool_name": worker.POOL, "name": stale.name},
        )
