"""Hints about jobs without recipients of their answers, and with agents without tools."""

from __future__ import annotations

from typing import Any

import pytest

from daybook import home
from daybook.agents import kinds
from daybook.api import advice
from daybook.resources import copies
from tests.world import World

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("shared_ledger")]
MODEL = {"model": "openai:gpt-6-luna"}
READ: dict[str, Any] = {"channel": "inbox"}


async def hints(world: World, agents: dict[str, dict[str, Any]], **fields: Any) -> list[str]:
    """Return the first words of the hints about a job; ``agents`` are the agents by kind."""
    async with world.ledger.write() as session:
        key = await copies.get_or_create_key(session, home.current_home())
        for word, data in agents.items():
            ref = (kinds.find_kind(word).slug, "default")
            await copies.put(session, ref, "t", data, key=key, now=world.ledger.now())
    job = await world.jobs.add("brief", **{"every": "1h"} | fields)
    return [each.partition(";")[0].partition(":")[0] for each in await advice.of_job(job.id)]


@pytest.mark.parametrize(
    ("agents", "found"),
    [
        ({}, []),
        ({"offline": {}}, ["the agent default is offline"]),
        ({"model": MODEL}, ["the agent default has no tools"]),
        ({"model": {**MODEL, "tools": ["search"]}}, []),
        ({"command": {"command": ["claude"]}}, []),
    ],
)
async def test_an_agent_without_tools_is_named(
    world: World, agents: dict[str, dict[str, Any]], found: list[str]
) -> None:
    assert await hints(world, agents, prompt="x", **READ) == found


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"prompt": "x"}, ["its answers are not sent anywhere"]),
        ({"prompt": "x", "on_complete": "https://ops.example.org/hook"}, []),
        ({"prompt": "x", "silent": True}, []),
        ({"prompt": "x", "events": ["failed"]}, []),
    ],
)
async def test_an_answer_that_reaches_nobody_is_named(
    world: World, fields: dict[str, Any], found: list[str]
) -> None:
    assert await hints(world, {}, **fields) == found


async def test_a_job_without_an_agent_has_no_hint(world: World) -> None:
    job = await world.jobs.add("hook", prompt=None, url="https://ops.example.org/hook", every="1h")
    async with world.ledger.read() as session:
        assert await advice.of_stored(session, job) == []


async def test_a_home_without_the_key_has_no_hint_about_agents(world: World) -> None:
    assert await hints(world, {"model": MODEL}, prompt="x", **READ) != []
    home.current_home().ledger_key.unlink()
    assert await advice.of_job((await world.jobs.ids())["brief"]) == []
    assert await advice.of_job(None) == await advice.of_job("0" * 32) == []
