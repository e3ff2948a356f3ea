"""Flows that are not Daybook's, in its work pool."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun
from prefect.states import Scheduled

from daybook.operations import worker
from tests.waiting import becomes_true
from tests.world.workers import SEEN


class ForeignFlows:
    """The foreign flows of one world, in ``folder`` outside the repository."""

    def __init__(self, client: PrefectClient, folder: Path) -> None:
        self._client, self.folder = client, folder
        self._deployments = set[UUID]()

    async def deploy(self, program: str, **given: Any) -> UUID:
        """Create the deployment `foreign` in our pool, for a flow that is not ours."""
        (self.folder / "foreign.py").write_text(program)
        client, folder = self._client, str(self.folder)
        deployment = await client.create_deployment(
            await client.create_flow_from_name("foreign"),
            name=self.folder.parent.name,
            work_pool_name=worker.POOL,
            entrypoint="foreign.py:foreign",
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": folder}}],
            **given,
        )
        self._deployments.add(deployment)
        return deployment

    async def noted(self, name: str, within: float = SEEN) -> list[str]:
        """Wait for a line that such a flow wrote into the file ``name``; return all words."""
        path = self.folder / name

        async def there() -> bool:
            return path.exists() and path.read_text().endswith("\n")

        assert await becomes_true(there, within), f"no line in {path}"
        return path.read_text().split()

    async def run(self, deployment: UUID, **parameters: Any) -> FlowRun:
        return await self._client.create_flow_run_from_deployment(
            deployment, parameters=parameters, state=Scheduled()
        )

    async def close(self) -> None:
        for deployment in self._deployments:
            await self._client.delete_deployment(deployment)
