"""Model agent with a test provider, for runs in which it calls tools."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from sqlmodel import select

from daybook.agents import documents
from daybook.ledger.tables import AttemptRow
from flows.agent_prompt import agent_prompt
from tests.providers import KEY, Answer, Provider, Step
from tests.world.prefect_world import PrefectWorld

LOOKS = """
@server.tool(annotations={"readOnlyHint": True})
def look(where: str) -> str:
    "Looks."
    tell(f"look {where}")
    return f"rain in {where}"

@server.tool
def write(text: str) -> str:
    "Writes."
    tell(f"write {text}")
    had()
    return "written"
"""


class ModelAgent:
    """Model agent at a test provider; the test selects its tools."""

    def __init__(self, world: PrefectWorld, fake_provider: Provider) -> None:
        self.world, self.fake_provider = world, fake_provider
        self.name = f"m-{uuid4().hex[:8]}"

    async def given(self, *tools: str) -> ModelAgent:
        settings = {
            "model": "openai:gpt-4o-mini",
            "base_url": self.fake_provider.address,
            "api_key": KEY,
        }
        await documents.add(self.world.client, self.name, "model", settings | {"tools": [*tools]})
        self.world.agents.models.append(self.name)
        return self

    async def run(self, *script: Step, **given: Any) -> dict[str, Any]:
        self.fake_provider.script = list(script)
        policy = {"timeout": "60s", "retries": 2, "retry_delay": "1s"} | given.pop("policy", {})
        result: dict[str, Any] = await agent_prompt(
            prompt="What is on?", agent=self.name, policy=policy, **given
        )
        return result

    async def attempts(self) -> list[AttemptRow]:
        async with self.world.ledger.read() as session:
            return list((await session.execute(select(AttemptRow))).scalars())


def calls(tool: str, **arguments: Any) -> Answer:
    return Answer("", tool=tool, arguments=arguments, input_tokens=100, output_tokens=20)
