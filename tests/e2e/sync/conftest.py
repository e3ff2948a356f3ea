"""A fresh ledger beside the session's Prefect server, and what its UI would send there."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from sqlmodel import select

from daybook.clock import SYSTEM
from daybook.host import worker
from daybook.ledger import deployments as records
from daybook.ledger import jobs
from daybook.ledger.engine import Ledger
from daybook.ledger.jobs import StoredJob
from daybook.ledger.tables import JobRow
from daybook.spec.job import edit, new_job
from daybook.sync import reconcile
from daybook.sync.reconcile import Report
from tests.at_prefect import basic
from tests.floor import deployments_of

READS = ("/filter", "/csrf-token")


@dataclass
class Both:
    """The ledger and Prefect; ``writes`` counts what changes something there, ids left out."""

    ledger: Ledger
    client: PrefectClient
    writes: Counter[str] = field(default_factory=Counter)

    # --- the ledger's side

    async def add(self, name: str, slug: str | None = None, **fields: Any) -> StoredJob:
        given = {"prompt": "Say so", "name": name, **fields}
        now = self.ledger.now()
        job = new_job(now=now, default_timezone="Europe/Berlin", **given)
        async with self.ledger.write() as session:
            return await jobs.add(session, job, slug or name, now)

    async def job(self, name: str) -> StoredJob:
        async with self.ledger.read() as session:
            return await jobs.find(session, name)

    async def edit(self, name: str, *, reason: str = "", **changes: Any) -> StoredJob:
        now = self.ledger.now()
        async with self.ledger.write() as session:
            stored = await jobs.find(session, name)
            job = edit(stored.job, changes, now=now)
            return await jobs.change(session, stored, job, now, disabled_reason=reason)

    async def archive(self, name: str) -> StoredJob:
        async with self.ledger.write() as session:
            stored = await jobs.find(session, name)
            await jobs.archive(session, stored, self.ledger.now())
            return stored

    async def sync(self) -> Report:
        self.writes.clear()
        return await reconcile.everything(self.ledger, self.client)

    async def job_rows(self) -> dict[str, str]:
        """The id of every job by its name, archived ones too."""
        async with self.ledger.read() as session:
            rows = (await session.execute(select(JobRow))).scalars()
            return {row.name: row.id for row in rows}

    async def wait_until(self, instant: datetime) -> None:
        await SYSTEM.wait_until(instant)

    async def forget(self, name: str) -> None:
        """As if the program had died before it wrote down what it made in Prefect."""
        async with self.ledger.write() as session:
            stored = await jobs.find(session, name)
            await records.agreed(session, stored.id, None, None, stored.row.created_at)
            stored.row.sync_pending = True

    # --- Prefect's side

    async def mine(self) -> dict[str, DeploymentResponse]:
        """All with this ledger's tag, by id."""
        return await deployments_of(self.client, self.ledger.id)

    async def deployment(self, name: str) -> DeploymentResponse:
        return await self.client.read_deployment_by_name(f"agent-prompt/{name}")

    async def runs(self, deployment: DeploymentResponse) -> list[FlowRun]:
        """Those that Prefect has queued, the earliest first."""
        wanted = FlowRunFilter.model_validate({"deployment_id": {"any_": [str(deployment.id)]}})
        return await self.client.read_flow_runs(
            flow_run_filter=wanted, sort=FlowRunSort.EXPECTED_START_TIME_ASC, limit=200
        )

    async def due(self, name: str) -> list[datetime]:
        """When the queued runs of the job are due, floored to the second."""
        expected = [run.expected_start_time for run in await self.runs(await self.deployment(name))]
        return [datetime.fromtimestamp(int(each.timestamp()), UTC) for each in expected if each]

    async def ui(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """A request as the UI's JavaScript makes it."""
        base = str(self.client.api_url)
        async with httpx.AsyncClient(
            base_url=base, auth=basic(), trust_env=False, timeout=30
        ) as browser:
            answer = await browser.request(method, path, json=body)
        answer.raise_for_status()
        return answer

    async def ui_deployment(self, name: str, **body: Any) -> None:
        """Save the deployment's edit form, or flip its switch (``paused``)."""
        await self.ui("PATCH", f"/deployments/{(await self.deployment(name)).id}", body)

    async def ui_schedule(self, name: str, **body: Any) -> datetime:
        """Save the dialog of the job's schedule, or flip its switch; returns the time of that."""
        found = await self.deployment(name)
        path = f"/deployments/{found.id}/schedules/{found.schedules[0].id}"
        before = found.schedules[0].updated
        await self.ui("PATCH", path, body)
        edited = (await self.deployment(name)).schedules[0].updated
        assert edited is not None
        assert before is not None
        assert edited > before
        return edited

    async def ui_add_schedule(self, name: str, schedule: dict[str, Any]) -> None:
        body = [{"active": True, "schedule": schedule}]
        await self.ui("POST", f"/deployments/{(await self.deployment(name)).id}/schedules", body)


@pytest.fixture
async def both(prefect_server: Any, tmp_path: Path) -> AsyncIterator[Both]:
    writes: Counter[str] = Counter()

    async def count(request: httpx.Request) -> None:
        if request.method != "GET" and not request.url.path.endswith(READS):
            parts = ["…" if len(part) == 36 else part for part in request.url.path.split("/")]
            writes[f"{request.method} {'/'.join(parts[2:])}"] += 1

    hooks = {"event_hooks": {"request": [count]}}
    async with (
        Ledger(f"sqlite+aiosqlite:///{tmp_path / 'ledger.db'}") as ledger,
        get_client(httpx_settings=hooks) as client,
    ):
        await worker.ensure_pool(client)
        yield Both(ledger, client, writes)
        for found in await client.read_deployments():  # also those that lost the ledger's tag
            await client.delete_deployment(found.id)


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ledger of `both` is that of the home."""
    monkeypatch.setenv("DAYBOOK_HOME", str(tmp_path))
    return tmp_path
