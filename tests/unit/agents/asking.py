"""Builders of model agents and requests for the local provider, in both protocols."""

from __future__ import annotations

from typing import Any

from daybook.agents.base import AgentReply, AgentRequest
from daybook.agents.model import ModelAgent
from daybook.agents.model_settings import ModelSettings
from tests.providers import KEY, Provider

PROTOCOLS = ("openai", "anthropic")
MODELS = {
    "openai": "gpt-6-luna",
    "anthropic": "claude-haiku-4-5",
    "google": "gemini-3.8-flash",
}


def agent(fake_provider: Provider, protocol: str = "openai", **settings: Any) -> ModelAgent:
    """Return a model agent named `brief` that uses the local provider."""
    given: dict[str, Any] = {
        "model": f"{protocol}:{MODELS[protocol]}",
        "base_url": fake_provider.address if protocol == "openai" else fake_provider.origin,
        "api_key": KEY,
    }
    return ModelAgent("brief", ModelSettings.model_validate(given | settings))


def request(prompt: str = "Hello", **given: Any) -> AgentRequest:
    return AgentRequest(prompt=prompt, **{"timeout": 30.0, "occurrence": "flow:1", **given})


async def ask(
    fake_provider: Provider, protocol: str = "openai", prompt: str = "Hello", **settings: Any
) -> AgentReply:
    return await agent(fake_provider, protocol, **settings).answer(request(prompt))
