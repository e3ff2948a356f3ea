"""An agent that needs no network and no model, and says so: for the first run and for tests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from daybook.agents.base import AgentReply, AgentRequest, refuse_model
from daybook.agents.capabilities import Capabilities

MAX_QUOTED_CHARACTERS = 500


class OfflineSettings(BaseModel):
    """The settings of an offline agent: its capabilities only."""

    model_config = ConfigDict(extra="forbid")

    capabilities: Capabilities = []


@dataclass(frozen=True)
class OfflineAgent:
    """Returns the same answer to the same prompt, and names itself in the answer."""

    name: str
    settings: OfflineSettings

    async def answer(self, request: AgentRequest) -> AgentReply:
        refuse_model(self.name, "offline", request.model)
        await asyncio.sleep(0)  # a cancelled request is not answered
        return AgentReply(text=_answer(request.prompt), agent=self.name)


def _answer(prompt: str) -> str:
    words = len(prompt.split())
    quoted = prompt.strip()
    if len(quoted) > MAX_QUOTED_CHARACTERS:
        quoted = quoted[:MAX_QUOTED_CHARACTERS].rstrip() + " …"
    # A quote in Markdown is also how one quotes in plain text.
    quote = "\n".join(f"> {line}".rstrip() for line in quoted.splitlines())
    return (
        "Offline agent: no model is configured, so this is not a model's answer. "
        "To get real answers, add an agent with `daybook agents add`.\n\n"
        f"Your prompt was ({words} {'word' if words == 1 else 'words'}):\n\n{quote}"
    )
