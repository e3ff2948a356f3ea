"""Limits of agents with a real worker: edits through Prefect's API are refused and logged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun

from daybook.agents import documents
from daybook.api import jobs, runs
from daybook.errors import InvalidInput, NotFound
from daybook.jobs.store import StoredJob
from daybook.ledger.tables import JobRow, RunRow
from daybook.owners import Actor, acting_as
from tests.at_prefect import basic
from tests.conftest import PrefectServer
from tests.providers import KEY, Answer, provider
from tests.receiver import serving
from tests.waiting import becomes_true
from tests.world.agents import WORKS, Agent
from tests.world.home import with_worker
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

SCOUT = Actor("agent:scout", via="mcp")
OTHER = Actor("agent:other", via="mcp")
LIMITS = {"agents": ["a-*"], "min_interval": "1m", "tools": ["shout"], "channels": ["inbox"]}


@dataclass
class Jobs:
    """Jobs of the scout's. A keeper that deploys a job undoes edits, so these are older than it."""

    asking: StoredJob
    calling: StoredJob
    webhook: StoredJob
    hourly: StoredJob
    agent: Agent
    """The agent of two of them."""


@pytest.fixture(scope="module")
def limits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAYBOOK_LIMITS", json.dumps(LIMITS))
        yield


_jobs = list[Jobs]()


@pytest.fixture(scope="module")
async def module_world(
    anyio_backend: str,
    prefect_server: PrefectServer,
    limits: None,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[PrefectWorld]:
    """Yield a home with these jobs, and then one worker."""

    async def deploy(world: PrefectWorld) -> None:
        agent = await world.agents.add(WORKS)
        many = {"overlap": "allow", "session": "new"}
        _jobs.append(
            Jobs(
                await owned(world, agent=agent.name),
                await owned(world, prompt=None, tool="shout", params={"text": "a"}),
                await owned(world, prompt=None, url="https://api.example.org/x"),
                await owned(world, agent=agent.name, every="1h", **many),
                agent,
            )
        )

    root = tmp_path_factory.mktemp("working")
    async with with_worker(root, prefect_server, before=deploy) as world:
        yield world


@pytest.fixture
def jobs_of_scout(working: PrefectWorld) -> Jobs:
    return _jobs[0]


async def owned(world: PrefectWorld, **fields: Any) -> StoredJob:
    """Deploy a job of the scout's without checking its limits."""
    stored = await world.deploy(**fields)
    async with world.ledger.write() as session:
        row = await session.get(JobRow, stored.id)
        assert row is not None
        row.owner = SCOUT.owner
    return stored


async def edited(world: PrefectWorld, stored: StoredJob, **parameters: Any) -> None:
    """Save other parameters in the deployment, as any client with the credential can."""
    merged = stored.job.parameters() | parameters
    path = f"/deployments/{stored.row.deployment_id}"
    await asked_of(world, "PATCH", path, {"parameters": merged})


async def asked_of(world: PrefectWorld, method: str, path: str, body: Any) -> None:
    """Send a request to Prefect's API past Daybook, as any client with the credential can."""
    async with httpx.AsyncClient(auth=basic()) as anybody:
        url = f"{world.workers.selected_prefect.api_url}{path}"
        (await anybody.request(method, url, json=body)).raise_for_status()


async def ended(world: PrefectWorld, flow_run: FlowRun) -> RunRow:
    """Wait until the row of that flow run has ended, and return it."""
    found: list[RunRow] = []

    async def it_has() -> bool:
        rows = await world.runs.rows()
        found[:] = [each for each in rows if each.flow_run_id == str(flow_run.id)]
        return bool(found) and found[0].finished_at is not None

    assert await becomes_true(it_has, 2 * SEEN), (await world.runs.rows(), world.workers.logs())
    return found[0]


def logged(world: PrefectWorld, why: str) -> bool:
    """Return whether a worker has written ``why`` to its log."""
    return any(why in each.child.log.read_text() for each in world.workers.all)


async def test_the_claim_refuses_parameters_beyond_the_owners_limits(
    working: PrefectWorld, jobs_of_scout: Jobs
) -> None:
    """`tests/unit/runs/test_limits_at_claim.py` has the other limits."""
    asking, calling, agent = jobs_of_scout.asking, jobs_of_scout.calling, jobs_of_scout.agent
    for stored, changes, expected in (
        (asking, {"model": "dear"}, 'limits: model: "dear" is not allowed'),
        (calling, {"tool": "wipe"}, 'limits: tool: "wipe" is not allowed'),
    ):
        await edited(working, stored, **changes)
        row = await ended(working, await working.prefect.custom_run(stored))
        assert (row.status, row.attempts) == ("skipped", 0), row
        assert row.reason.startswith(expected)
        await working.shows(row.flow_run_id, "CANCELLED", "Skipped", within=SEEN)
        assert logged(working, row.reason)
        await edited(working, stored)  # restore the parameters
        # The same for a custom run with these parameters.
        row = await ended(working, await working.prefect.custom_run(stored, **changes))
        assert row.reason.startswith(expected)
    assert agent.effect_count == 0
    # Within its limits the same deployment runs.
    agent.release()
    row = await ended(working, await working.prefect.custom_run(asking))
    assert (row.status, agent.effect_count) == ("succeeded", 1)


async def test_a_webhook_of_an_agents_job_does_not_reach_a_private_address(
    working: PrefectWorld, jobs_of_scout: Jobs
) -> None:
    async with serving() as web:
        stored, address = jobs_of_scout.webhook, f"{web.address}/hook"
        await edited(working, stored, url=address)
        row = await ended(working, await working.prefect.custom_run(stored))
        assert (row.status, web.requests) == ("failed", [])
        assert "agents' jobs may reach public addresses only" in str(row.error)
        lines: list[str] = []

        async def is_notified() -> bool:
            lines[:] = [each.message async for each in runs.logs(row.id)]
            return any("agents' jobs may reach public addresses only" in each for each in lines)

        assert await becomes_true(is_notified, SEEN), lines
        # The operator's own job reaches it.
        own = await working.deploy(prompt=None, url=address)
        run = await working.prefect.custom_run(own)
        assert (await ended(working, run)).status == "succeeded"
        assert [each.path for each in web.requests] == ["/hook"]


async def test_due_times_of_an_interval_below_the_limit_are_refused(
    working: PrefectWorld, jobs_of_scout: Jobs
) -> None:
    """The schedule itself is edited in Prefect, and each of its due times is refused."""
    stored, before = jobs_of_scout.hourly, jobs_of_scout.agent.effect_count
    deployment = await working.client.read_deployment(str(stored.row.deployment_id))
    path = f"/deployments/{deployment.id}"
    schedule = f"{path}/schedules/{deployment.schedules[0].id}"
    body = {"schedule": {"interval": 1.0, "anchor_date": "2026-01-01T00:00:00Z"}, "active": True}
    await asked_of(working, "PATCH", schedule, body)
    await asked_of(working, "POST", f"{path}/schedule", {})

    async def refused() -> bool:
        rows = await working.runs.rows(stored)
        return sum("limits: schedule: is due every 1s" in each.reason for each in rows) >= 3

    assert await becomes_true(refused, 2 * SEEN), (
        await working.runs.rows(stored),
        working.workers.logs(),
    )
    await asked_of(working, "PATCH", path, {"paused": True})
    assert jobs_of_scout.agent.effect_count == before
    assert logged(working, "limits: schedule: is due every 1s")


async def test_of_many_concurrent_custom_runs_of_an_agents_job_one_runs(
    working: PrefectWorld,
) -> None:
    agent = await working.agents.add(WORKS)
    stored = await owned(working, agent=agent.name, on_demand=True, overlap="allow", session="new")
    agent.release(9)
    asked = await asyncio.gather(*(working.prefect.custom_run(stored) for _ in range(4)))
    rows = [await ended(working, each) for each in asked]
    assert sorted(each.status for each in rows) == ["skipped", "skipped", "skipped", "succeeded"]
    reasons = [each.reason for each in rows if each.status == "skipped"]
    assert all("another run was queued or started less than 1m ago" in each for each in reasons)
    assert agent.effect_count == 1


async def test_an_agent_manages_its_own_job_and_cannot_see_others(working: PrefectWorld) -> None:
    """One agent adds, runs, edits and removes a job; another agent cannot see it."""
    agent = await working.agents.add(WORKS)
    agent.release(2)
    with acting_as(Actor(SCOUT.owner, user_id="ann", via="mcp")):
        fields = {"prompt": "Look", "agent": agent.name, "name": f"look-{uuid4().hex[:6]}"}
        added = await jobs.add({**fields, "every": "1h", "timezone": "UTC"})
        identity = (added.owner, added.user_id, added.created_by)
        assert identity == ("agent:scout", "ann", "mcp")
        run = await runs.run(added.id, wait=True)
        assert (run.status, run.trigger, agent.effect_count) == ("succeeded", "mcp", 1)
        assert [each.id for each in await runs.history(added.id)] == [run.id]

        async def has_logs() -> bool:  # Prefect stores them a moment after the run has ended
            return bool([each async for each in runs.logs(run.id)])

        assert await becomes_true(has_logs, SEEN)
        with pytest.raises(InvalidInput, match="public addresses only"):
            await jobs.add({"url": "http://10.0.0.1/x", "every": "1h"})
        with pytest.raises(InvalidInput, match="public addresses only"):
            await jobs.edit_job(added.id, {"on_fail": "http://127.0.0.1/x"})
    with acting_as(OTHER):
        assert await jobs.list_jobs() == []
        assert await runs.history() == []
        for verb in (jobs.show, jobs.pause, jobs.remove, runs.run, runs.cancel, runs.history):
            with pytest.raises(NotFound):
                await verb(added.id)
        with pytest.raises(NotFound):
            await runs.show(run.id)
    with acting_as(SCOUT):
        assert (await jobs.pause(added.id)).enabled is False
        assert (await jobs.resume(added.id)).enabled is True
        assert (await jobs.edit_job(added.id, {"every": "2h"})).words == "every 2 hours"
        assert (await jobs.remove(added.id)).id == added.id


async def test_a_run_is_skipped_if_the_tokens_of_the_day_are_used(working: PrefectWorld) -> None:
    with provider() as fake_provider:
        fake_provider.script = [Answer("One.", input_tokens=900, output_tokens=100)]
        name = f"a-{uuid4().hex[:8]}"
        model = {"model": "openai:gpt-4o-mini", "base_url": fake_provider.address, "api_key": KEY}
        await documents.add(working.client, name, "model", model)
        stored = await owned(working, agent=name, on_demand=True, tokens_per_day=1_000)
        try:
            with acting_as(SCOUT):
                first = await runs.run(stored.id, wait=True)
                second = await runs.run(stored.id, wait=True)
        finally:
            await documents.remove(working.client, name)
    assert (first.status, first.usage["output_tokens"]) == ("succeeded", 100)
    assert second.status == "skipped"
    assert second.reason.startswith("budget: 1,000 of 1,000 tokens per day are used; the day ends")
    assert len(fake_provider.requests) == 1
    assert logged(working, second.reason)
    log = await working.prefect.log(second.flow_run_id)
    assert log == [("INFO", f"skipped: {second.reason}")]
