"""An agent that edits its own deployment through Prefect's API: refused, logged, and no effect."""

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
from tests.world import World, so
from tests.world.agents import WORKS
from tests.world.workers import PREFECT_LEAVES_A_SOCKET, SEEN

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]

SCOUT = Actor("agent:scout", via="mcp")
OTHER = Actor("agent:other", via="mcp")
LIMITS = {"agents": ["a-*"], "min_interval": "1m", "tools": ["shout"], "channels": ["inbox"]}


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAYBOOK_LIMITS", json.dumps(LIMITS))


@pytest.fixture
async def working(world: World) -> AsyncIterator[World]:
    """With one worker."""
    await world.workers.begin()
    yield world


async def owned(world: World, **fields: Any) -> StoredJob:
    """A job of the scout's, made without asking anybody."""
    stored = await world.deploy(**fields)
    async with world.ledger.write() as session:
        row = await session.get(JobRow, stored.id)
        assert row is not None
        row.owner = SCOUT.owner
    return stored


async def edited(world: World, stored: StoredJob, **parameters: Any) -> None:
    """Save other parameters in the deployment, as whoever has the credential can."""
    told = stored.job.parameters() | parameters
    path = f"/deployments/{stored.row.deployment_id}"
    await asked_of(world, "PATCH", path, {"parameters": told})


async def asked_of(world: World, method: str, path: str, body: Any) -> None:
    """A request to Prefect's API by somebody who has the credential, past Daybook."""
    async with httpx.AsyncClient(auth=basic()) as anybody:
        url = f"{world.workers.here.api_url}{path}"
        (await anybody.request(method, url, json=body)).raise_for_status()


async def ended(world: World, flow_run: FlowRun) -> RunRow:
    """The row of that flow run, when it has ended."""
    found: list[RunRow] = []

    async def it_has() -> bool:
        rows = await world.rows()
        found[:] = [each for each in rows if each.flow_run_id == str(flow_run.id)]
        return bool(found) and found[0].finished_at is not None

    assert await so(it_has, 2 * SEEN), (await world.rows(), world.workers.logs())
    return found[0]


def logged(world: World, why: str) -> bool:
    """Whether a worker wrote it into its log."""
    return any(why in each.child.log.read_text() for each in world.workers.all)


@contextmanager
def counting() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine; its address, and the requests that reached it."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/hook", seen
        finally:
            server.shutdown()
            thread.join()


async def test_what_is_edited_in_prefect_is_judged_at_the_claim(world: World) -> None:
    agent = await world.agents.add(WORKS)
    asking = await owned(world, agent=agent.name, on_demand=True)
    calling = await owned(world, prompt=None, tool="shout", params={"text": "a"}, on_demand=True)
    await (
        world.workers.begin()
    )  # not before: a keeper that brings the new job as well undoes the edit
    policy = asking.job.policy.model_dump(mode="json")
    cases: list[tuple[StoredJob, dict[str, Any], str]] = [
        (asking, {"model": "dear"}, 'limits: model: "dear" is not allowed'),
        (asking, {"agent": "default"}, 'limits: agent: "default" is not allowed'),
        (asking, {"session_key": "ops"}, 'limits: session_key: "ops" belongs to another owner'),
        (asking, {"notify": {"channel": "team"}}, 'limits: channel: "team" is not allowed'),
        (
            asking,
            {"notify": {"channel": "file"}},
            'limits: channel: "file" is reserved for the operator',
        ),
        (
            asking,
            {"policy": policy | {"check": {"command": ["touch", "x"]}}},
            "limits: check: only",
        ),
        (calling, {"tool": "wipe"}, 'limits: tool: "wipe" is not allowed'),
        (calling, {"params": {"text": "{{secret:ops}}"}}, 'limits: secret: "ops" is not allowed'),
    ]
    for stored, changes, told in cases:
        await edited(world, stored, **changes)
        row = await ended(world, await world.prefect.custom_run(stored))
        assert (row.status, row.attempts) == ("skipped", 0), row
        assert row.reason.startswith(told)
        await world.shows(row.flow_run_id, "CANCELLED", "Skipped", within=SEEN)
        assert logged(world, row.reason)
        await edited(world, stored)  # as it was
        # The same in a run with parameters of its own.
        row = await ended(world, await world.prefect.custom_run(stored, **changes))
        assert row.reason.startswith(told)
    assert agent.had == 0
    # Within its limits the very same deployment runs.
    agent.let_go()
    row = await ended(world, await world.prefect.custom_run(asking))
    assert (row.status, agent.had) == ("succeeded", 1)


async def test_a_private_address_is_not_reached(world: World) -> None:
    with counting() as (address, seen):
        stored = await owned(world, prompt=None, url="https://api.example.org/x", on_demand=True)
        await (
            world.workers.begin()
        )  # not before: a keeper that brings the new job as well undoes the edit
        await edited(world, stored, url=address)
        row = await ended(world, await world.prefect.custom_run(stored))
        assert (row.status, seen) == ("failed", [])
        assert "agents' jobs may reach public addresses only" in str(row.error)
        lines: list[str] = []

        async def told() -> bool:
            lines[:] = [each["message"] async for each in runs.logs(row.id)]
            return any("agents' jobs may reach public addresses only" in each for each in lines)

        assert await so(told, SEEN), lines
        # The operator's own job does reach it.
        own = await world.deploy(prompt=None, url=address, on_demand=True)
        assert (await ended(world, await world.prefect.custom_run(own))).status == "succeeded"
        assert seen == ["/hook"]


async def test_a_smaller_interval_fires_nothing(world: World) -> None:
    """The schedule itself, as it is edited; each of its due times is refused."""
    agent = await world.agents.add(WORKS)
    stored = await owned(world, agent=agent.name, every="1h", overlap="allow", session="new")
    agent.let_go(9)
    deployment = await world.client.read_deployment(str(stored.row.deployment_id))
    body = {"schedule": {"interval": 1.0, "anchor_date": "2026-01-01T00:00:00Z"}, "active": True}
    path = f"/deployments/{deployment.id}"
    await asked_of(world, "PATCH", f"{path}/schedules/{deployment.schedules[0].id}", body)
    await asked_of(world, "POST", f"{path}/schedule", {})
    # Not before: a keeper that is bringing the new job as well makes its schedule anew.
    await world.workers.begin()

    async def refused() -> bool:
        rows = await world.rows()
        return sum("limits: schedule: is due every 1s" in each.reason for each in rows) >= 3

    assert await so(refused, 2 * SEEN), (await world.rows(), world.workers.logs())
    assert agent.had == 0
    assert logged(world, "limits: schedule: is due every 1s")


async def test_many_runs_asked_for_in_prefect_are_one(working: World) -> None:
    world = working
    agent = await world.agents.add(WORKS)
    stored = await owned(world, agent=agent.name, on_demand=True, overlap="allow", session="new")
    agent.let_go(9)
    asked = await asyncio.gather(*(world.prefect.custom_run(stored) for _ in range(4)))
    rows = [await ended(world, each) for each in asked]
    assert sorted(each.status for each in rows) == ["skipped", "skipped", "skipped", "succeeded"]
    told = [each.reason for each in rows if each.status == "skipped"]
    assert all("another run came less than 1m earlier" in each for each in told)
    assert agent.had == 1


async def test_the_verbs_of_an_agent(working: World) -> None:
    """Its own job from adding to removing; and of others' jobs, nothing."""
    world = working
    agent = await world.agents.add(WORKS)
    agent.let_go(2)
    with acting_as(Actor(SCOUT.owner, user_id="ann", via="mcp")):
        fields = {"prompt": "Look", "agent": agent.name, "name": f"look-{uuid4().hex[:6]}"}
        added = await jobs.add({**fields, "every": "1h", "timezone": "UTC"})
        told = (added["owner"], added["user_id"], added["created_by"])
        assert told == ("agent:scout", "ann", "mcp")
        run = await runs.run(added["id"], wait=True)
        assert (run["status"], run["trigger"], agent.had) == ("succeeded", "mcp", 1)
        assert [each["id"] for each in await runs.history()] == [run["id"]]

        async def has_logs() -> bool:  # Prefect has them a moment after its run has ended
            return bool([each async for each in runs.logs(run["id"])])

        assert await so(has_logs, SEEN)
        with pytest.raises(InvalidInput, match="public addresses only"):
            await jobs.add({"url": "http://10.0.0.1/x", "every": "1h"})
        with pytest.raises(InvalidInput, match="public addresses only"):
            await jobs.edit_job(added["id"], {"on_fail": "http://127.0.0.1/x"})
    with acting_as(OTHER):
        assert await jobs.list_jobs() == []
        assert await runs.history() == []
        for verb in (jobs.show, jobs.pause, jobs.remove, runs.run, runs.cancel, runs.history):
            with pytest.raises(NotFound):
                await verb(added["id"])
        with pytest.raises(NotFound):
            await runs.show(run["id"])
    with acting_as(SCOUT):
        assert (await jobs.pause(added["id"]))["enabled"] is False
        assert (await jobs.resume(added["id"]))["enabled"] is True
        assert (await jobs.edit_job(added["id"], {"every": "2h"}))["schedule"]["every"] == "2h"
        assert (await jobs.remove(added["id"]))["id"] == added["id"]


async def test_the_days_tokens_are_used(working: World) -> None:
    world = working
    with provider() as here:
        here.script = [Answer("One.", input_tokens=900, output_tokens=100)]
        name = f"a-{uuid4().hex[:8]}"
        model = {"model": "openai:gpt-4o-mini", "base_url": here.address, "api_key": KEY}
        await documents.add(world.client, name, "model", model)
        stored = await owned(world, agent=name, on_demand=True, tokens_per_day=1_000)
        try:
            with acting_as(SCOUT):
                first = await runs.run(stored.id, wait=True)
                second = await runs.run(stored.id, wait=True)
        finally:
            await documents.remove(world.client, name)
    assert (first["status"], first["usage"]["output_tokens"]) == ("succeeded", 100)
    assert second["status"] == "skipped"
    assert second["reason"].startswith("tokens: 1,000 of 1,000 per day are used, until 20")
    assert len(here.requests) == 1
    assert logged(world, second["reason"])
