"""An agent that needs no network and no model, and says so: for the first run, and for tests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from daybook.agents.base import AgentReply, AgentRequest, refuse_model
from daybook.agents.capabilities import Capabilities

QUOTED_CHARACTERS = 500


class OfflineSettings(BaseModel):
    """The offline agent has nothing to set but what it is to be good for."""

    model_config = ConfigDict(extra="forbid")

    capabilities: Capabilities = []


@dataclass(frozen=True)
class OfflineAgent:
    """Answers the same prompt with the same words, and names itself in them."""

    name: str
    settings: OfflineSettings

    async def answer(self, request: AgentRequest) -> AgentReply:
        refuse_model(self.name, "offline", request.model)
        await asyncio.sleep(0)  # a cancelled request is not answered
        return AgentReply(text=_answer(request.prompt), agent=self.name)


def _answer(prompt: str) -> str:
    words = len(prompt.split())
    quoted = prompt.strip()
    if len(quoted) > QUOTED_CHARACTERS:
        quoted = quoted[:QUOTED_CHARACTERS].rstrip() + " …"
    # A quote in Markdown is also how one quotes in plain text.
    quote = "\n".join(f"> {line}".rstrip() for line in quoted.splitlines())
    return (
        "Offline agent: no model is configured, so this is not a model's answer. "
        "To get real ones, add an agent with `daybook agents add`.\n\n"
        f"Your prompt was ({words} {'word' if words == 1 else 'words'}):\n\n{quote}"
    )
