"""Deployments of a ledger's jobs in Prefect, and what people do with them there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.client.schemas.sorting import DeploymentSort
from prefect.deployments.runner import RunnerDeployment

from daybook.ledger.engine import Ledger
from daybook.prefect import projection
from daybook.prefect.parameter_schema import FLOW_DESCRIPTION
from tests.world.prefect import Prefect


class Deployments:
    def __init__(self, prefect: Prefect, ledger: Ledger) -> None:
        self._prefect, self._ledger = prefect, ledger

    async def all(self) -> dict[str, DeploymentResponse]:
        """Return the deployments with this ledger's tag by id, as Prefect's client reads them."""
        tags = DeploymentFilterTags(all_=[projection.ledger_tag(self._ledger.id)])
        found: dict[str, DeploymentResponse] = {}
        while True:
            page = await self._prefect.ui.read_deployments(
                deployment_filter=DeploymentFilter(tags=tags),
                sort=DeploymentSort.NAME_ASC,
                limit=200,
                offset=len(found),
            )
            found |= {str(each.id): each for each in page}
            if len(page) < 200:
                return found

    async def get(self, name: str) -> DeploymentResponse:
        """Return the deployment of the agent prompt with this name."""
        return await self._prefect.ui.read_deployment_by_name(f"agent-prompt/{name}")

    async def edit(self, name: str, **body: Any) -> None:
        """Save the deployment's edit form, or flip its switch (``paused``)."""
        await self._prefect.request("PATCH", f"/deployments/{(await self.get(name)).id}", body)

    async def deploy(self, name: str, cron: str = "") -> None:
        """Deploy the agent prompt from a file, as `prefect deploy` does.

        The file contains no tags, and at most one schedule, which Prefect makes anew.
        """
        found = await self.get(name)
        schedules = [CronSchedule(cron=cron, timezone="UTC")] if cron else []
        new = RunnerDeployment(
            name=name,
            flow_name="agent-prompt",
            entrypoint=found.entrypoint,
            work_pool_name=found.work_pool_name,
            parameters=found.parameters,
            description=FLOW_DESCRIPTION,
            tags=[],  # as `prefect deploy` sends them for a file without tags
            schedules=[DeploymentScheduleCreate(schedule=each) for each in schedules],
        )
        await new.aapply()

    async def delete(self, name: str) -> None:
        await self._prefect.request("DELETE", f"/deployments/{(await self.get(name)).id}")

    async def edit_schedule(self, name: str, **body: Any) -> datetime:
        """Save the job's schedule dialog, or flip its switch; return the time of the change."""
        found = await self.get(name)
        path = f"/deployments/{found.id}/schedules/{found.schedules[0].id}"
        before = found.schedules[0].updated
        await self._prefect.request("PATCH", path, body)
        edited = (await self.get(name)).schedules[0].updated
        assert edited is not None
        assert before is not None
        assert edited > before
        return datetime.fromisoformat(edited.isoformat())  # the client returns its own type

    async def add_schedule(self, name: str, schedule: dict[str, Any]) -> None:
        body = [{"active": True, "schedule": schedule}]
        path = f"/deployments/{(await self.get(name)).id}/schedules"
        await self._prefect.request("POST", path, body)

    async def due(self, name: str) -> list[datetime]:
        """Return the due times of the job's queued runs, floored to the second."""
        expected = [
            run.expected_start_time for run in await self._prefect.runs(await self.get(name))
        ]
        return [datetime.fromtimestamp(int(each.timestamp()), UTC) for each in expected if each]

    async def close(self) -> None:
        """Delete the ledger's deployments.

        Otherwise a worker that another test starts at this Prefect would execute their runs.
        """
        for each in await self.all():
            await self._prefect.ui.delete_deployment(UUID(each))
