"""Two live agents at the MCP server are woken, claim and complete; a worker does a third task.

The HTTP server's process, the keeper's cycles, Prefect, the worker and a model agent are real; the
test plays the model's provider.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from typing import Any

import anyio
import httpx2
import pytest
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import Subscription
from mcp.shared.subscriptions import ResourceUpdated
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from sqlmodel import select

from daybook.agents import documents
from daybook.features.tasks import operations, resources
from daybook.features.tasks.tables import TaskEventRow, TaskRunRow
from daybook.features.tasks.views import TaskWithRun
from daybook.ledger.tables import OutboxRow, RunRow
from tests.e2e.mcp.conftest import Place
from tests.providers import KEY, Answer, ModelRequest, Provider, provider
from tests.waiting import becomes_true

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(300)]

WOKEN = 60.0
"""Seconds until a matching session is woken: a cycle of 1 s, and a margin for a busy machine."""
WORKED = 150.0
"""Seconds until a requested worker has completed the task: two more cycles, and a run."""

LADDER = {
    "interval": "1s",
    "starve_after": "1s",
    "fan_out": 1,
    "request_worker": 2,
    "starved": 3,
    "needs_attention": 40,
}


@pytest.fixture(scope="module", autouse=True)
def thresholds() -> Iterator[None]:
    """Set the escalation policy for the processes that this module starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAYBOOK_TASKS", json.dumps(LADDER))
        yield


@pytest.fixture
def model() -> Iterator[Provider]:
    with provider() as fake_provider:
        yield fake_provider


@dataclass
class Live:
    """A live agent: its session's name, its client, and the stream of its wakes."""

    name: str
    client: Client
    stream: Subscription

    async def call(self, tool: str, /, **given: object) -> str:
        answer = await self.client.call_tool(tool, given)
        (content,) = answer.content
        assert not answer.is_error, content
        return str(content.text)  # type: ignore[union-attr]

    async def woken(self) -> None:
        """Wait until the session is woken."""
        with anyio.fail_after(WOKEN):
            assert await anext(self.stream) == ResourceUpdated(resources.session_uri(self.name))


@asynccontextmanager
async def live(place: Place, name: str, *capabilities: str) -> AsyncIterator[Live]:
    where = await place.over("http", f"agent:{name}")
    bearer = {"Authorization": f"Bearer {where.token}"}
    async with AsyncExitStack() as stack:
        wire = await stack.enter_async_context(
            httpx2.AsyncClient(headers=bearer, timeout=60.0, trust_env=False)
        )
        transport = streamable_http_client(where.url, http_client=wire)
        client = await stack.enter_async_context(Client(transport))
        given = {"name": name, "capabilities": ",".join(capabilities)}
        assert not (await client.call_tool("task_session_register", given)).is_error
        listening = client.listen(resource_subscriptions=[resources.session_uri(name)])
        yield Live(name, client, await stack.enter_async_context(listening))


def claim_of(answer: str) -> dict[str, str]:
    """Return run id and token, which further calls need, from an answer of `task_next`."""
    found = re.search(r"Run (\w{32}) .*\ntoken: (dbt_[\w-]{43}) ", answer)
    assert found is not None, answer
    return {"run_id": found[1], "token": found[2]}


async def run_of(place: Place, task: TaskWithRun) -> TaskRunRow:
    async with place.world.ledger.read() as session:
        return await session.get_one(TaskRunRow, task.run_id)


async def events_of(place: Place, task: TaskWithRun) -> list[TaskEventRow]:
    query = select(TaskEventRow).where(TaskEventRow.run_id == task.run_id)
    async with place.world.ledger.read() as session:
        found = list((await session.execute(query)).scalars())
    return sorted(found, key=lambda each: each.at)


@pytest.mark.floor("D", "Waker.Wake notifies one session")
@pytest.mark.floor("D", "The spawned session claims by itself")
async def test_sessions_are_woken_for_matching_tasks_and_a_worker_does_the_rest(
    place: Place, model: Provider
) -> None:
    tokens: list[str] = []
    async with live(place, "pia", "python") as pia, live(place, "dora", "design") as dora:
        fix = await operations.add("Fix the parser", capabilities=["python"])
        draw = await operations.add("Draw a plan", capabilities=["design"])
        for one, task in ((pia, fix), (dora, draw)):
            await one.woken()
            claim = claim_of(await one.call("task_next", session=one.name))
            assert claim["run_id"] == task.run_id
            tokens.append(claim["token"])
            await one.call("task_heartbeat", **claim)
            await one.call("task_complete", **claim, output=f"{one.name} did it.")
            row = await run_of(place, task)
            assert (row.status, row.done_by, row.output) == (
                "completed",
                one.name,
                f"{one.name} did it.",
            )
            happened = await events_of(place, task)
            steps = ["added", "woken", "claimed", "completed"]
            assert [each.event for each in happened if each.event in steps] == steps
            (wake,) = [each for each in happened if each.event == "woken"]
            assert wake.session == one.name

            async def delivered(wake: TaskEventRow = wake) -> bool:
                async with place.world.ledger.read() as session:
                    return (await session.get_one(OutboxRow, wake.outbox_id)).status == "delivered"

            assert await becomes_true(delivered, WOKEN)

        try:
            search = await worked(place, model, tokens)
        finally:
            await documents.remove(place.world.client, "scholar")
        for one in (pia, dora):
            assert "Nothing to claim now: " in await one.call("task_next", session=one.name)
    assert (await run_of(place, search)).spawned_run_id is None  # a claim clears it
    await nowhere(place, tokens)


async def worked(place: Place, model: Provider, tokens: list[str]) -> TaskWithRun:
    """Return a task that no live agent can do, completed by the worker requested for it."""
    world = place.world
    settings = {
        "model": "openai:gpt-6-luna",
        "base_url": model.address,
        "api_key": KEY,
        "tools": ["daybook.task_*"],
        "capabilities": ["research", "writing"],
    }
    await documents.add(world.client, "scholar", "model", settings)
    job = await world.deploy(
        name="helper", on_demand=True, prompt="Help out.", agent="scholar", tags=["task-worker"]
    )

    def completes(request: ModelRequest) -> Answer:
        claim = claim_of(request.prompt)
        tokens.append(claim["token"])
        return calls("task_complete", **claim, output="It was found.")

    def registers(request: ModelRequest) -> Answer:
        given = re.search(r"task_session_register with (\{.*\})$", request.prompt, re.MULTILINE)
        assert given is not None, request.prompt
        model.script[0] = calls("task_next", session=json.loads(given[1])["name"])
        return calls("task_session_register", **json.loads(given[1]))

    model.script = [
        registers,
        "replaced by what it registers",
        completes,
        lambda _: Answer(f"Done, with {tokens[-1]}."),
    ]
    search = await operations.add(
        "Find the paper", instructions="That on leases.", capabilities=["research"]
    )

    async def done() -> bool:
        return (await run_of(place, search)).status == "completed"

    assert await becomes_true(done, WORKED), (
        f"{await events_of(place, search)}\n{world.workers.logs()}"
    )
    row = await world.wait_for_end(job, "succeeded", WORKED)
    assert row.output == "Done, with dbt_…."
    run = await run_of(place, search)
    assert (run.done_by, run.output) == (f"worker-{run.id[:8]}-0", "It was found.")
    happened = {each.event: each for each in await events_of(place, search)}
    assert happened["worker_requested"].actor == "scheduler"
    assert row.id[:12] in happened["worker_requested"].reason
    assert happened["claimed"].actor == happened["completed"].actor == "agent:scholar"
    assert "woken" not in happened
    assert model.requests[0].tools == [
        "task_next",
        "task_heartbeat",
        "task_complete",
        "task_fail",
        "task_release",
        "task_session_register",
        "task_session_report",
    ]
    return search


def calls(tool: str, /, **arguments: Any) -> Answer:
    return Answer("", tool=tool, arguments=arguments, finish="tool_calls")


async def nowhere(place: Place, tokens: list[str]) -> None:
    """Assert that no token is stored in the ledger, logs, conversations or Prefect.

    A reply of a tool is in the ledger until its run has ended, and its bytes in the ledger's file
    until they are overwritten; the token ends with its claim (decision 0094).
    """
    assert len(set(tokens)) == 3
    world = place.world
    files = [each for each in place.world.workers.root.rglob("*") if each.is_file()]
    assert {"ledger.db", "worker-1.log"} <= {each.name for each in files}
    with closing(sqlite3.connect(world.home.path / "ledger.db")) as ledger:
        stored = "\n".join(ledger.iterdump()).encode()
    for each in files:
        if each.name.startswith("ledger.db"):
            continue
        with suppress(FileNotFoundError):  # the worker removes the files of ended runs
            stored += each.read_bytes()
    async with world.ledger.read() as session:
        (row,) = (await session.execute(select(RunRow))).scalars()
    of_run = LogFilterFlowRunId.model_validate({"any_": [row.flow_run_id]})
    logs = await world.client.read_logs(LogFilter(flow_run_id=of_run))
    text = "".join(each.message for each in logs) + await world.prefect.artifact(row.flow_run_id)
    assert "dbt_…" in text
    for token in tokens:
        assert token.encode() not in stored
        assert token not in text
