"""Agent without a network or a model, for the first run and for tests.

Its answer contains the remark that no model wrote it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from daybook.agents.base import AgentReply, AgentRequest, Capabilities, refuse_model
from daybook.policies.compression import Compression

MAX_QUOTED_CHARACTERS = 500


class OfflineSettings(BaseModel):
    """Settings of an offline agent: its capabilities only."""

    model_config = ConfigDict(extra="forbid")

    capabilities: Capabilities = []


@dataclass(frozen=True)
class OfflineAgent:
    """Agent that gives the same answer to the same prompt.

    The answer contains the remark that the agent is offline.
    """

    name: str
    settings: OfflineSettings
    is_program: ClassVar[bool] = False

    @property
    def tools(self) -> list[str]:
        return []

    @property
    def compression(self) -> Compression:
        return Compression()

    def takes_pictures(self, model: str) -> bool:
        return False

    def check_model(self, model: str) -> None:
        refuse_model(self.name, "offline", model)

    async def answer(self, request: AgentRequest) -> AgentReply:
        self.check_model(request.model)
        await asyncio.sleep(0)  # this lets a cancellation take effect before the answer
        return AgentReply(text=_answer(request.prompt), agent=self.name)


def _answer(prompt: str) -> str:
    words = len(prompt.split())
    quoted = prompt.strip()
    if len(quoted) > MAX_QUOTED_CHARACTERS:
        quoted = quoted[:MAX_QUOTED_CHARACTERS].rstrip() + " …"
    # This text is readable both as Markdown and as plain text.
    quote = "\n".join(f"> {line}".rstrip() for line in quoted.splitlines())
    return (
        "Offline agent: no model is configured, so this is not a model's answer. "
        "To get real answers, add an agent with `daybook agents add`.\n\n"
        f"Your prompt was ({words} {'word' if words == 1 else 'words'}):\n\n{quote}"
    )
