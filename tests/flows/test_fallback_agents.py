"""Runs whose agent is unavailable: a fallback agent answers, in the same attempt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId
from prefect.exceptions import FailedRun

from daybook.agents import documents
from daybook.api import agents, jobs
from daybook.errors import InvalidInput, UnknownName
from tests.calling import LOOKS, ModelAgent, calls
from tests.providers import Answer, Provider, Status, limited, provider
from tests.toolbox import served
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


@pytest.fixture
async def backup(world: PrefectWorld) -> AsyncIterator[ModelAgent]:
    with provider() as other_provider:
        yield await ModelAgent(world, other_provider).given()


def keys(fake_provider: Provider) -> list[str]:
    return [request.headers["idempotency-key"] for request in fake_provider.requests]


async def test_a_fallback_agent_answers_a_scheduled_run_in_the_same_attempt(
    model_agent: ModelAgent, backup: ModelAgent
) -> None:
    await model_agent.given()
    model_agent.fake_provider.script = [Status(401)]
    backup.fake_provider.script = [Answer("Nothing.", input_tokens=100, output_tokens=20)]
    world = model_agent.world
    run = await world.prefect.custom_run(
        await world.deploy(
            on_demand=True, agent=model_agent.name, fallback_agents=[backup.name], session="reuse"
        )
    )
    await world.executions.complete(run)

    row = await world.runs.row()
    assert (row.status, row.output, row.attempts) == ("succeeded", "Nothing.", 1)
    assert row.agent == backup.name
    assert row.session_id is not None
    assert row.session_id.startswith(f"{model_agent.name}:job:")  # the session is the job's own
    assert row.reason.startswith(f"agent {model_agent.name}: ")
    assert row.reason.endswith(f"; answered by the fallback agent {backup.name}")
    assert row.usage is not None
    assert (row.usage["input_tokens"], row.usage["output_tokens"]) == (100, 20)
    assert keys(model_agent.fake_provider) == [row.occurrence]
    assert keys(backup.fake_provider) == [f"{row.occurrence}~1"]
    of_run = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
    logged = [each.message for each in await world.client.read_logs(of_run)]
    (warning,) = [each for each in logged if f"the agent {model_agent.name} is unavailable" in each]
    assert "401" in warning
    assert f"agent {backup.name}" in await world.prefect.artifact(row.flow_run_id)


async def test_if_all_agents_are_unavailable_the_run_is_retried_with_all_of_them(
    model_agent: ModelAgent, backup: ModelAgent
) -> None:
    await model_agent.given()
    backup.fake_provider.script = [Status(401)]
    with pytest.raises(FailedRun, match="429"):
        await model_agent.run(limited(), fallback_agents=[backup.name], policy={"retries": 1})

    attempts = await model_agent.attempts()
    assert [each.status for each in attempts] == ["failed", "failed"]
    for each in attempts:
        assert f"agent {model_agent.name}: " in str(each.error)
        assert f"agent {backup.name}: " in str(each.error)
    occurrence = (await model_agent.world.runs.row()).occurrence
    assert keys(model_agent.fake_provider) == [occurrence] * 2
    assert keys(backup.fake_provider) == [f"{occurrence}~1"] * 2


async def test_after_a_tool_changed_something_no_fallback_agent_is_asked(
    model_agent: ModelAgent, backup: ModelAgent
) -> None:
    async with served(model_agent.world, LOOKS) as server:
        await model_agent.given(server.name)
        with pytest.raises(FailedRun, match="503"):
            await model_agent.run(
                calls(f"{server.name}_write", text="x"),
                Status(503),
                fallback_agents=[backup.name],
            )

    assert server.effect_count == 1
    assert len(await model_agent.attempts()) == 3  # each continues after the call
    assert backup.fake_provider.requests == []


async def test_the_agent_or_its_tools_were_removed_so_the_fallback_agent_answers(
    model_agent: ModelAgent, backup: ModelAgent
) -> None:
    await model_agent.given("nowhere.look")  # the server of this tool was removed
    for name in (model_agent.name, f"gone-{uuid4().hex[:8]}"):
        model_agent.name = name
        result = await model_agent.run("No.", fallback_agents=[backup.name])
        assert (result["status"], result["output"]) == ("succeeded", "Hello.")
    assert model_agent.fake_provider.requests == []

    await documents.remove(model_agent.world.client, backup.name)
    with pytest.raises(FailedRun, match=f'unknown "{backup.name}"'):
        await model_agent.run("No.", fallback_agents=[backup.name])
    assert (await model_agent.world.runs.rows())[-1].attempts == 0


async def test_a_missing_fallback_agent_is_refused_and_one_in_use_is_not_removed(
    backup: ModelAgent,
) -> None:
    given = {"prompt": "x", "on_demand": True}
    with pytest.raises(UnknownName) as refused:
        await jobs.add({**given, "fallback_agents": ["nobody"]})
    assert refused.value.field == "fallback_agents"

    made = await jobs.add({**given, "fallback_agents": [backup.name]})
    with pytest.raises(UnknownName):
        await jobs.edit_job(made.id, {"fallback_agents": ["nobody"]})
    assert (await agents.show(backup.name)).jobs == [made.name]
    with pytest.raises(InvalidInput, match=f"is used by {made.name}"):
        await agents.remove(backup.name)

    edited = await jobs.edit_job(made.id, {"fallback_agents": [""]})
    assert edited.action.model_dump()["fallback_agents"] == ()
    await jobs.remove(made.id)
    await agents.remove(backup.name)
