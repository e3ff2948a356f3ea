"""Default of a job's agent: the agent with the owner's name, if an agent adds the job."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

import pytest

import daybook
from daybook import toolbox
from daybook.jobs import store
from daybook.jobs.actions import AgentPrompt
from daybook.jobs.views import ChangedJob
from daybook.owners import Actor, acting_as
from tests.calling import ModelAgent, calls
from tests.providers import Answer
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, *PREFECT_LEAVES_A_SOCKET]

ADD = {"prompt": "Read the news", "schedule": "0 8 * * *", "name": "news"}

Makes = Callable[[str], Awaitable[object]]


async def in_a_context(owner: str) -> object:
    with daybook.context(agent=owner):
        return await daybook.Client().add("Read the news", schedule="0 8 * * *", name="news")


async def with_a_tool(owner: str) -> object:
    async with daybook.Skill(agent=owner, tools=["cron_add"]) as skill:
        return await skill.call("cron_add", ADD)


async def over_mcp(owner: str) -> object:
    with acting_as(Actor(f"agent:{owner}", via="mcp")):
        return (await toolbox.call("cron_add", ADD)).text


@pytest.fixture(params=[in_a_context, with_a_tool, over_mcp], ids=lambda made: made.__name__)
def makes(request: pytest.FixtureRequest) -> Makes:
    made: Makes = request.param
    return made


async def agent_of_added_job(world: PrefectWorld) -> str:
    async with world.ledger.read() as session:
        return (await store.find(session, "news")).job.agents()[0]


def agent_in(answer: object) -> str:
    """Return the agent that the answer names."""
    if isinstance(answer, ChangedJob):
        assert isinstance(answer.action, AgentPrompt)
        return answer.action.agent
    (line,) = [each for each in str(answer).splitlines() if each.startswith("agent: ")]
    return line.removeprefix("agent: ")


async def test_an_agents_job_uses_the_agent_of_its_owners_name(
    world: PrefectWorld, makes: Makes
) -> None:
    agent = await world.agents.add("print('here')")
    assert agent_in(await makes(agent.name)) == agent.name
    assert await agent_of_added_job(world) == agent.name


@pytest.mark.slow
async def test_without_an_agent_of_that_name_the_job_uses_the_default_agent(
    world: PrefectWorld, makes: Makes
) -> None:
    assert agent_in(await makes("nobody-of-that-name")) == "default"
    assert await agent_of_added_job(world) == "default"


@pytest.mark.slow
async def test_a_job_that_names_an_agent_uses_it(world: PrefectWorld) -> None:
    agent = await world.agents.add("print('here')")
    with daybook.context(agent=agent.name):
        made = await daybook.Client().add("Hi", schedule="0 8 * * *", agent="default")
    assert isinstance(made.action, AgentPrompt)
    assert made.action.agent == "default"


async def test_a_job_of_the_operators_program_uses_the_default_agent(world: PrefectWorld) -> None:
    with daybook.context(user="u-17"):
        made = await daybook.Client().add("Hi", schedule="0 8 * * *")
    assert isinstance(made.action, AgentPrompt)
    assert made.action.agent == "default"


async def test_limits_may_forbid_the_default_agent_but_not_the_owners_own(
    world: PrefectWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_LIMITS", json.dumps({"agents": []}))
    agent = await world.agents.add("print('here')")
    assert agent_in(await over_mcp(agent.name)) == agent.name
    refused = await over_mcp("nobody-of-that-name")
    assert str(refused).startswith('agent: "default" is not allowed for this agent')


async def test_a_job_added_during_a_run_uses_the_agent_of_that_run(model_agent: ModelAgent) -> None:
    await model_agent.given("daybook")
    await model_agent.run(calls("cron_add", **ADD), Answer("Done."))
    assert await agent_of_added_job(model_agent.world) == model_agent.name
