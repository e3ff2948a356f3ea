"""Skills of an agent that is a program, in a run at a real Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from daybook.agents import documents
from daybook.features.skills import operations
from daybook.ledger.tables import StepRow
from flows.agent_prompt import agent_prompt
from tests.world.prefect_world import PrefectWorld
from tests.world.workers import PREFECT_LEAVES_A_SOCKET

pytestmark = [pytest.mark.anyio, pytest.mark.e2e, *PREFECT_LEAVES_A_SOCKET]


async def test_a_program_finds_its_skill_and_a_step_has_the_digest(
    world: PrefectWorld, tmp_path: Path
) -> None:
    (tmp_path / "SKILL.md").write_text(
        "---\nname: notes\ndescription: Take notes.\n---\nBe brief.\n"
    )
    added = await operations.add(str(tmp_path))
    agent = await world.agents.add("")
    settings = {"command": ["tail", "-n", "1", ".agents/skills/notes/SKILL.md"]}
    settings["tools"] = ["skills.notes"]
    await documents.add(world.client, agent.name, "command", settings, replace=True)

    result: Any = await agent_prompt(prompt="Go", agent=agent.name)

    assert result["output"] == "Be brief."
    async with world.ledger.read() as session:
        (step,) = (await session.execute(select(StepRow))).scalars()
    assert (step.kind, step.status) == ("instructions", "succeeded")
    assert step.output == f"notes: SHA-256 {added.digest}"
