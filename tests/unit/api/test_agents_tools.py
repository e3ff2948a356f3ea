"""Daybook's tools for the agents of a program: definitions without services, calls as an agent."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest
from pydantic_ai import Agent

import daybook
from daybook import owners
from daybook.agents.base import Tool
from daybook.errors import DaybookError, InvalidInput
from daybook.home import Home
from daybook.jobs.actions import AgentPrompt
from daybook.jobs.views import JobDetails
from daybook.toolbox import agent_tools
from daybook.toolbox import text as answers
from tests.unit.api.playing import plays
from tests.unit.conftest import view

pytestmark = pytest.mark.anyio

NAMES = [tool.name for tool in agent_tools()]


async def test_a_toolset_offers_all_tools_and_returns_their_answers(daybook_home: Home) -> None:
    model, read = plays(
        ("cron_next", {"schedule": "0 9 * * 1-5", "timezone": "Europe/Berlin", "count": 2}),
        ("cron_next", {"schedule": "soon"}),
        ("cron_list", {}),
    )
    agent = Agent(model, toolsets=[daybook.toolset(agent="researcher")])
    answer = await agent.run("When is nine on a weekday?")
    assert answer.output.split() == NAMES
    assert "09:00" in read[0]
    assert 'schedule: "soon" is not a schedule' in read[1]
    assert "no jobs" in read[2].lower()


async def test_a_toolset_can_be_limited_to_some_tools(daybook_home: Home) -> None:
    model, _ = plays()
    some = daybook.toolset(tools=["cron_list", "cron_next"])
    answer = await Agent(model, toolsets=[some]).run("x")
    assert answer.output.split() == ["cron_list", "cron_next"]
    with pytest.raises(InvalidInput, match='tools: unknown "cron_lst"'):
        daybook.toolset(tools=["cron_lst"])
    with pytest.raises(InvalidInput, match="agent: "):
        daybook.toolset(agent=" ")


@pytest.mark.parametrize(
    ("given", "around", "owner", "user"),
    [
        ({}, {}, "agent:program", ""),
        ({"agent": "a"}, {}, "agent:a", ""),
        ({}, {"agent": "b", "user": "u"}, "agent:b", "u"),
        ({"agent": "a", "user": "v"}, {"agent": "b", "user": "u"}, "agent:a", "v"),
    ],
)
async def test_tools_act_for_an_agent_and_never_for_the_operator(
    given: dict[str, str], around: dict[str, str], owner: str, user: str
) -> None:
    from daybook.toolbox import agents_tools

    with daybook.context(**around):
        found = agents_tools._actor(given.get("agent", ""), given.get("user", ""))
    assert (found.owner, found.user_id, found.via) == (owner, user, "api")
    assert owners.current_actor().owner == "user"


@pytest.mark.floor("B", "The skill is opened with Init and ended with Close")
@pytest.mark.floor("B", "The skill lists its tools with Tools")
async def test_a_skill_answers_calls_only_while_it_is_open(daybook_home: Home) -> None:
    skill = daybook.Skill(agent="researcher", tools=["cron_list", "cron_add"])
    assert [tool.name for tool in skill.tools()] == ["cron_add", "cron_list"]
    assert "is closed" in await skill.call("cron_list")
    await skill.init()
    [_, listing] = skill.tools()
    assert "no jobs" in (await listing.call({})).lower()
    assert "prompt: is missing" in await skill.call("cron_add", {"schedule": "@daily"})
    assert (
        await skill.call("cron_remove", {"job_id": "x"})
        == "there is no tool cron_remove (known: cron_add, cron_list)"
    )
    await skill.close()
    await skill.close()
    with pytest.raises(DaybookError, match="is closed"):
        await listing.call({})
    async with skill:
        assert "no jobs" in (await skill.call("cron_list")).lower()


@pytest.mark.floor("B", "Close waits for calls in progress")
async def test_closing_a_skill_waits_for_its_calls_in_progress(daybook_home: Home) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def slow(given: dict[str, Any]) -> str:
        started.set()
        await release.wait()
        return "done"

    skill = daybook.Skill()
    tool = skill._counted(Tool("slow", "", {}, slow))
    await skill.init()
    call = asyncio.ensure_future(tool.call({}))
    await started.wait()
    closing = asyncio.create_task(skill.close())
    assert not (await asyncio.wait({closing}, timeout=0.05))[0]
    with pytest.raises(DaybookError, match="is closed"):
        await tool.call({})
    release.set()
    await closing
    assert call.done() and call.result() == "done"


@pytest.mark.floor("A", "One tool with the actions add, list and remove")
@pytest.mark.floor("A", "The tool refuses an unknown action")
@pytest.mark.floor("A", "add without message or schedule names the missing field")
@pytest.mark.floor("A", "remove without an id names the missing field")
async def test_schedule_tool_names_the_missing_field_of_each_action(daybook_home: Home) -> None:
    tool = daybook.schedule_tool(agent="researcher")
    assert (tool.name, tool.schema["required"]) == ("schedule", ["action"])
    assert tool.schema["properties"]["action"]["enum"] == ["add", "list", "remove"]
    for each in tool.schema["properties"].values():
        assert each["description"] and each["type"] == "string"
    assert not {"$ref", "oneOf", "anyOf"} & set(json.dumps(tool.schema).split('"'))
    assert "no jobs" in (await tool.call({"action": "list"})).lower()
    for given, words in (
        ({}, "action: is missing"),
        ({"action": "run"}, 'action: "run" is not an allowed value'),
        ({"action": "add", "schedule": "@daily"}, "prompt: is missing"),
        ({"action": "add", "prompt": "x"}, "schedule: is missing"),
        ({"action": "remove"}, "job_id: is missing"),
        ({"action": "remove", "job_id": "x", "name": "y"}, "name: does not apply to remove"),
    ):
        with pytest.raises(DaybookError, match=words):
            await tool.call(given)


async def test_schedule_tool_refers_to_no_other_tool(daybook_home: Home) -> None:
    tool = daybook.schedule_tool(agent="researcher")
    texts = [tool.description, json.dumps(tool.schema)]
    texts.append(await tool.call({"action": "list"}))
    for given in (
        {"action": "remove", "job_id": "x"},
        {"action": "remove"},
        {"action": "add", "prompt": "x", "schedule": "at nine"},
        {"action": "add", "prompt": "x", "schedule": "30m"},
    ):
        with pytest.raises(DaybookError) as refused:
            await tool.call(given)
        texts.append(str(refused.value))
    assert not [each for each in texts if any(name in each for name in NAMES)]
    assert "There are no jobs. schedule with action add adds one." in texts
    assert any("; schedule with action list lists your jobs" in each for each in texts)


async def test_errors_of_a_skill_refer_only_to_its_own_tools(daybook_home: Home) -> None:
    async with daybook.Skill(agent="researcher", tools=["cron_remove"]) as skill:
        assert await skill.call("cron_remove", {"job_id": "x"}) == 'job "x" not found'


def test_the_description_of_a_job_refers_only_to_offered_tools() -> None:
    stored = view(
        JobDetails,
        name="a",
        id="1" * 32,
        enabled=True,
        disabled_reason="",
        words="on demand",
        next_due=[],
        action=AgentPrompt(prompt="x"),
        sync="synced",
        recipients={"failed": ["inbox"]},
    )
    with answers.offering({}):
        alone = [answers.job(stored.model_copy(update={"enabled": on})) for on in (True, False)]
    assert not any(name in each for each in alone for name in NAMES)
    assert "next due: never by itself; cron_trigger runs it" in answers.job(stored)


@pytest.mark.floor("A", "The definition of the tool needs no live service")
def test_tool_definitions_need_no_home_and_do_not_import_prefect() -> None:
    program = """
import sys, daybook
found = [daybook.schedule_tool(), *daybook.Skill().tools()]
print(len(found), {"prefect", "sqlalchemy", "pydantic_ai"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"DAYBOOK_HOME": "/nonexistent/home", "PATH": "/usr/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == (f"{1 + len(agent_tools())} set()\n", "")
