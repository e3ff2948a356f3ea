"""Python tools and Daybook's own tools in an agent's run, and the MCP file of a program."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from daybook.agents import documents
from daybook.api import jobs as service
from daybook.jobs import store
from daybook.ledger.tables import JobRow
from daybook.owners import Actor, acting_as
from flows.agent_prompt import agent_prompt
from tests.calling import LOOKS, ModelAgent, calls
from tests.providers import Answer, Status
from tests.toolbox import install, served
from tests.world.prefect_world import PrefectWorld
from tests.world.processes import alive
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, pytest.mark.slow, *PREFECT_LEAVES_A_SOCKET]


PYTHON = """
from pathlib import Path
from daybook.tools import occurrence

def note(text: str) -> str:
    "Notes it."
    with Path({notes!r}).open("a") as notes:
        notes.write(occurrence() + " " + text + "\\n")
    return "noted"
"""


async def test_each_call_of_a_python_tool_has_a_key_of_its_own_across_attempts(
    model_agent: ModelAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = tmp_path / "notes"
    install(tmp_path / "site", PYTHON.format(notes=str(notes)), "note")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    await model_agent.given("note")
    one, other = calls("note", text="one"), calls("note", text="other")
    policy = {"idempotent": True}
    await model_agent.run(one, Status(503), other, one, one, "Noted.", policy=policy)

    noted = [line.split(" ") for line in notes.read_text().splitlines()]
    assert [text for _, text in noted] == ["one", "other", "one", "one"]
    first, second, third, fourth = (key for key, _ in noted)
    occurrence = (await model_agent.world.runs.row()).occurrence
    # The second attempt replays the first call, which has used up its key.
    assert (third, fourth) == (f"{first}.2", f"{first}.3")
    assert second != first
    assert all(key.startswith(f"{occurrence}/") for key, _ in noted)


async def test_daybooks_own_tools_act_for_the_agent_of_the_run(model_agent: ModelAgent) -> None:
    await model_agent.given("daybook")
    result = await model_agent.run(
        calls("cron_add", prompt="Water the plants", schedule="0 9 * * *", name="plants"),
        calls("cron_list"),
        Answer("Done."),
    )

    assert result["output"] == "Done."
    async with model_agent.world.ledger.read() as session:
        (job,) = (await session.execute(select(JobRow))).scalars()
    assert (job.name, job.owner, job.created_by) == ("plants", f"agent:{model_agent.name}", "run")
    assert "plants" in model_agent.fake_provider.requests[2].prompt
    assert {"cron_add", "cron_list", "cron_remove"} <= {
        *model_agent.fake_provider.requests[0].tools
    }


CLIENT = """
import asyncio, json
from fastmcp import Client

async def main():
    config = json.load(open(sys.argv[2]))
    async with Client(config) as client:
        names = sorted(tool.name for tool in await client.list_tools())
        wanted = next(name for name in names if name.endswith("cron_add"))
        given = {"prompt": "Water the plants", "schedule": "0 9 * * *", "name": "plants"}
        await client.call_tool(wanted, given)
        look = next(name for name in names if name.endswith("look"))
        said = await client.call_tool(look, {"where": "Rome"})
        print(len({wanted, look}), said.content[0].text)

asyncio.run(main())
"""


async def test_a_program_gets_its_servers_and_daybook_in_an_mcp_file(world: PrefectWorld) -> None:
    async with served(world, LOOKS) as server:
        agent = await world.agents.add(CLIENT)
        program = [sys.executable, str(agent.base.with_suffix(".py")), str(agent.base)]
        settings = {"command": [*program, "{mcp_config}"], "tools": [server.name, "daybook"]}
        await documents.add(world.client, agent.name, "command", settings, replace=True)
        result: Any = await agent_prompt(prompt="Go", agent=agent.name)
        pid = await server.says("look Rome")

    assert result["output"] == "2 rain in Rome"
    assert not alive(pid)
    async with world.ledger.read() as session:
        (job,) = (await session.execute(select(JobRow))).scalars()
    assert (job.name, job.owner) == ("plants", f"agent:{agent.name}")


async def test_tools_in_a_run_of_an_agents_job_act_for_the_jobs_owner(
    model_agent: ModelAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYBOOK_LIMITS", json.dumps({"agents": ["*"]}))
    await model_agent.given("daybook.cron_add", "daybook.cron_list")
    model_agent.fake_provider.script = [
        calls("cron_add", prompt="And this", schedule="0 9 * * *", name="more"),
        Answer("Done."),
    ]
    with acting_as(Actor("agent:researcher", "ana", "mcp")):
        fields = {"name": "own", "prompt": "Look", "agent": model_agent.name, "on_demand": True}
        added = await service.add(fields)
    async with model_agent.world.ledger.read() as session:
        stored = await store.find(session, added.id)
    state = await model_agent.world.executions.complete(
        await model_agent.world.prefect.custom_run(stored)
    )
    assert state.is_completed(), state.message

    async with model_agent.world.ledger.read() as session:
        made = (await session.execute(select(JobRow).where(JobRow.name == "more"))).scalar_one()
    assert (made.owner, made.user_id, made.created_by) == ("agent:researcher", "ana", "run")
