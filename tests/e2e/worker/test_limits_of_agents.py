"""Limits of agents with a real worker: edits through Prefect's API are refused and logged."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
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
from tests.providers import KEY, Answer, provider
from tests.waiting import becomes_true
from tests.world.agents import WORKS
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

SCOUT = Actor("agent:scout", via="mcp")
OTHER = Actor("agent:other", via="mcp")
LIMITS = {"agents": ["a-*"], "min_interval": "1m", "tools": ["shout"], "channels": ["inbox"]}


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_LIMITS", json.dumps(LIMITS))


@pytest.fixture
async def working(world: PrefectWorld) -> AsyncIterator[PrefectWorld]:
    """Yield the world with one worker."""
    await world.workers.begin()
    yield world


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


@contextmanager
def counting() -> Iterator[tuple[str, list[str]]]:
    """Start a server on this machine; yield its address, and the paths of received requests."""
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            requests.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", requests
        finally:
            server.shutdown()
            thread.join()


async def test_the_claim_refuses_parameters_edited_beyond_the_owners_limits(
    world: PrefectWorld,
) -> None:
    agent = await world.agents.add(WORKS)
    asking = await owned(world, agent=agent.name, on_demand=True)
    calling = await owned(world, prompt=None, tool="shout", params={"text": "a"}, on_demand=True)
    # Start the worker only now: a keeper that deploys the new job would undo the edits.
    await world.workers.begin()
    # Complete values: the keeper would complete others, perhaps after the next edit.
    given: dict[str, Any] = asking.job.parameters()
    policy, notify = given["policy"], given["notify"]
    check = policy["check"] | {"command": ["touch", "x"]}
    cases: list[tuple[StoredJob, dict[str, Any], str]] = [
        (asking, {"model": "dear"}, 'limits: model: "dear" is not allowed'),
        (asking, {"agent": "default"}, 'limits: agent: "default" is not allowed'),
        (asking, {"session_key": "ops"}, 'limits: session_key: "ops" belongs to another owner'),
        (asking, {"notify": notify | {"channel": "team"}}, 'limits: channel: "team" is not allow'),
        (asking, {"notify": notify | {"channel": "file"}}, 'limits: channel: "file" is reserved'),
        (asking, {"policy": policy | {"check": check}}, "limits: check: only"),
        (calling, {"tool": "wipe"}, 'limits: tool: "wipe" is not allowed'),
        (calling, {"params": {"text": "{{secret:ops}}"}}, 'limits: secret: "ops" is not allowed'),
    ]
    for stored, changes, expected in cases:
        await edited(world, stored, **changes)
        row = await ended(world, await world.prefect.custom_run(stored))
        assert (row.status, row.attempts) == ("skipped", 0), row
        assert row.reason.startswith(expected)
        await world.shows(row.flow_run_id, "CANCELLED", "Skipped", within=SEEN)
        assert logged(world, row.reason)
        await edited(world, stored)  # restore the parameters
        # The same for a custom run with these parameters.
        row = await ended(world, await world.prefect.custom_run(stored, **changes))
        assert row.reason.startswith(expected)
    assert agent.effect_count == 0
    # Within its limits the same deployment runs.
    agent.release()
    row = await ended(world, await world.prefect.custom_run(asking))
    assert (row.status, agent.effect_count) == ("succeeded", 1)


async def test_a_webhook_of_an_agents_job_does_not_reach_a_private_address(
    world: PrefectWorld,
) -> None:
    with counting() as (address, requests):
        stored = await owned(world, prompt=None, url="https://api.example.org/x", on_demand=True)
        # Start the worker only now: a keeper that deploys the new job would undo the edit.
        await world.workers.begin()
        await edited(world, stored, url=address)
        row = await ended(world, await world.prefect.custom_run(stored))
        assert (row.status, requests) == ("failed", [])
        assert "agents' jobs may reach public addresses only" in str(row.error)
        lines: list[str] = []

        async def is_notified() -> bool:
            lines[:] = [each.message async for each in runs.logs(row.id)]
            return any("agents' jobs may reach public addresses only" in each for each in lines)

        assert await becomes_true(is_notified, SEEN), lines
        # The operator's own job reaches it.
        own = await world.deploy(prompt=None, url=address, on_demand=True)
        assert (await ended(world, await world.prefect.custom_run(own))).status == "succeeded"
        assert requests == ["/hook"]


async def test_due_times_of_an_interval_below_the_limit_are_refused(world: PrefectWorld) -> None:
    """The schedule itself is edited in Prefect, and each of its due times is refused."""
    agent = await world.agents.add(WORKS)
    stored = await owned(world, agent=agent.name, every="1h", overlap="allow", session="new")
    agent.release(9)
    deployment = await world.client.read_deployment(str(stored.row.deployment_id))
    body = {"schedule": {"interval": 1.0, "anchor_date": "2026-01-01T00:00:00Z"}, "active": True}
    path = f"/deployments/{deployment.id}"
    await asked_of(world, "PATCH", f"{path}/schedules/{deployment.schedules[0].id}", body)
    await asked_of(world, "POST", f"{path}/schedule", {})
    # Start the worker only now: a keeper that deploys the new job would restore its schedule.
    await world.workers.begin()

    async def refused() -> bool:
        rows = await world.runs.rows()
        return sum("limits: schedule: is due every 1s" in each.reason for each in rows) >= 3

    assert await becomes_true(refused, 2 * SEEN), (await world.runs.rows(), world.workers.logs())
    assert agent.effect_count == 0
    assert logged(world, "limits: schedule: is due every 1s")


async def test_of_many_concurrent_custom_runs_of_an_agents_job_one_runs(
    working: PrefectWorld,
) -> None:
    world = working
    agent = await world.agents.add(WORKS)
    stored = await owned(world, agent=agent.name, on_demand=True, overlap="allow", session="new")
    agent.release(9)
    asked = await asyncio.gather(*(world.prefect.custom_run(stored) for _ in range(4)))
    rows = [await ended(world, each) for each in asked]
    assert sorted(each.status for each in rows) == ["skipped", "skipped", "skipped", "succeeded"]
    reasons = [each.reason for each in rows if each.status == "skipped"]
    assert all("another run was queued or started less than 1m ago" in each for each in reasons)
    assert agent.effect_count == 1


async def test_an_agent_manages_its_own_job_and_cannot_see_others(working: PrefectWorld) -> None:
    """One agent adds, runs, edits and removes a job; another agent cannot see it."""
    world = working
    agent = await world.agents.add(WORKS)
    agent.release(2)
    with acting_as(Actor(SCOUT.owner, user_id="ann", via="mcp")):
        fields = {"prompt": "Look", "agent": agent.name, "name": f"look-{uuid4().hex[:6]}"}
        added = await jobs.add({**fields, "every": "1h", "timezone": "UTC"})
        identity = (added.owner, added.user_id, added.created_by)
        assert identity == ("agent:scout", "ann", "mcp")
        run = await runs.run(added.id, wait=True)
        assert (run.status, run.trigger, agent.effect_count) == ("succeeded", "mcp", 1)
        assert [each.id for each in await runs.history()] == [run.id]

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
    world = working
    with provider() as fake_provider:
        fake_provider.script = [Answer("One.", input_tokens=900, output_tokens=100)]
        name = f"a-{uuid4().hex[:8]}"
        model = {"model": "openai:gpt-4o-mini", "base_url": fake_provider.address, "api_key": KEY}
        await documents.add(world.client, name, "model", model)
        stored = await owned(world, agent=name, on_demand=True, tokens_per_day=1_000)
        try:
            with acting_as(SCOUT):
                first = await runs.run(stored.id, wait=True)
                second = await runs.run(stored.id, wait=True)
        finally:
            await documents.remove(world.client, name)
    assert (first.status, first.usage["output_tokens"]) == ("succeeded", 100)
    assert second.status == "skipped"
    assert second.reason.startswith("tokens: 1,000 of 1,000 per day are used; the day ends at 20")
    assert len(fake_provider.requests) == 1
    assert logged(world, second.reason)
