"""Daybook's tools for agents of a program: what is defined needs no service, who calls is nobody's
operator.
"""

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
from daybook.toolbox import TOOLS
from daybook.toolbox import text as answers
from tests.unit.api.playing import plays

pytestmark = pytest.mark.anyio

NAMES = [tool.name for tool in TOOLS]


async def test_the_toolset_offers_all_tools_and_tells_what_they_say(daybook_home: Home) -> None:
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


async def test_a_toolset_of_some_tools_has_these(daybook_home: Home) -> None:
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
async def test_tools_work_for_an_agent_and_never_for_the_operator(
    given: dict[str, str], around: dict[str, str], owner: str, user: str
) -> None:
    from daybook.toolbox import agents_tools

    with daybook.context(**around):
        found = agents_tools._actor(given.get("agent", ""), given.get("user", ""))
    assert (found.owner, found.user_id, found.via) == (owner, user, "api")
    assert owners.current_actor().owner == "user"


async def test_a_skill_is_opened_used_and_closed(daybook_home: Home) -> None:
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


async def test_closing_waits_for_what_is_under_way(daybook_home: Home) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    async def slow(given: dict[str, Any]) -> str:
        begun.set()
        await release.wait()
        return "done"

    skill = daybook.Skill()
    tool = skill._counted(Tool("slow", "", {}, slow))
    await skill.init()
    call = asyncio.ensure_future(tool.call({}))
    await begun.wait()
    closing = asyncio.create_task(skill.close())
    assert not (await asyncio.wait({closing}, timeout=0.05))[0]
    with pytest.raises(DaybookError, match="is closed"):
        await tool.call({})
    release.set()
    await closing
    assert call.done() and call.result() == "done"


async def test_the_single_tool_says_what_each_action_needs(daybook_home: Home) -> None:
    tool = daybook.schedule_tool(agent="researcher")
    assert (tool.name, tool.schema["required"]) == ("schedule", ["action"])
    assert tool.schema["properties"]["action"]["enum"] == ["add", "list", "remove"]
    for each in tool.schema["properties"].values():
        assert each["description"] and each["type"] == "string"
    assert not {"$ref", "oneOf", "anyOf"} & set(json.dumps(tool.schema).split('"'))
    assert "no jobs" in (await tool.call({"action": "list"})).lower()
    for given, words in (
        ({}, "action: is missing"),
        ({"action": "run"}, 'action: "run" is not a choice'),
        ({"action": "add", "schedule": "@daily"}, "prompt: is missing"),
        ({"action": "add", "prompt": "x"}, "schedule: is missing"),
        ({"action": "remove"}, "job_id: is missing"),
        ({"action": "remove", "job_id": "x", "name": "y"}, "name: does not apply to remove"),
    ):
        with pytest.raises(DaybookError, match=words):
            await tool.call(given)


async def test_the_single_tool_names_no_tool_but_itself(daybook_home: Home) -> None:
    tool = daybook.schedule_tool(agent="researcher")
    said = [tool.description, json.dumps(tool.schema)]
    said.append(await tool.call({"action": "list"}))
    for given in (
        {"action": "remove", "job_id": "x"},
        {"action": "remove"},
        {"action": "add", "prompt": "x", "schedule": "at 9"},
        {"action": "add", "prompt": "x", "schedule": "30m"},
    ):
        with pytest.raises(DaybookError) as refused:
            await tool.call(given)
        said.append(str(refused.value))
    assert not [each for each in said if any(name in each for name in NAMES)]
    assert "There are no jobs. schedule with action add adds one." in said
    assert any("; schedule with action list lists your jobs" in each for each in said)


async def test_answers_name_only_the_tools_that_the_caller_has(daybook_home: Home) -> None:
    async with daybook.Skill(agent="researcher", tools=["cron_remove"]) as skill:
        assert await skill.call("cron_remove", {"job_id": "x"}) == 'job "x" not found'


def test_what_a_job_is_shown_with_names_only_the_tools_that_are_offered() -> None:
    stored = {
        **{"name": "a", "id": "1" * 32, "enabled": True, "words": "on demand", "next_due": []},
        **{"kind": "agent-prompt", "prompt": "x", "agent": "default", "sync": "synced"},
        "recipients": {"failed": ["inbox"]},
    }
    with answers.offering({}):
        alone = [
            answers.job({**stored, "enabled": on, "disabled_reason": ""}) for on in (True, False)
        ]
    assert not any(name in each for each in alone for name in NAMES)
    assert "next due: never by itself; cron_trigger runs it" in answers.job(stored)


def test_definitions_need_no_service_and_no_prefect() -> None:
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
    assert (done.stdout, done.stderr) == (f"{1 + len(TOOLS)} set()\n", "")
