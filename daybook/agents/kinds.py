"""The kinds of agents, by the slug of the Prefect block type that stores their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import SecretStr

from daybook.agents.base import Agent, refuse_model
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.agents.model import ModelAgent
from daybook.agents.model_settings import ModelSettings
from daybook.agents.offline import OfflineAgent, OfflineSettings
from daybook.errors import AgentMisconfigured, InvalidInput
from daybook.resources.store import BlockStore


@dataclass(frozen=True, kw_only=True)
class AgentKind(BlockStore[Any]):
    """The documents of one kind of agent; ``word`` is its name on the command line."""

    word: str
    make: Callable[[str, Any], Agent]
    noun: str = "agent"


OFFLINE = AgentKind(
    word="offline",
    slug="daybook-offline-agent",
    title="Daybook offline agent",
    model=OfflineSettings,
    make=OfflineAgent,
)
COMMAND = AgentKind(
    word="command",
    slug="daybook-command-agent",
    title="Daybook command agent",
    model=CommandSettings,
    make=CommandAgent,
)
MODEL = AgentKind(
    word="model",
    slug="daybook-model-agent",
    title="Daybook model agent",
    model=ModelSettings,
    make=ModelAgent,
)
KINDS: dict[str, AgentKind] = {kind.slug: kind for kind in (OFFLINE, COMMAND, MODEL)}

SECRET_PLACEHOLDER = "********"
"""Shown in place of a secret."""


def find_kind(name: str) -> AgentKind:
    """Return the kind of that word or slug; raises `InvalidInput` with the valid words."""
    for kind in KINDS.values():
        if name in (kind.word, kind.slug):
            return kind
    raise InvalidInput(
        "kind",
        f'unknown "{name}"',
        "use one of: " + ", ".join(kind.word for kind in KINDS.values()),
    )


def displayed_settings(kind: AgentKind, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``data`` for display: set secrets are hidden, empty ones stay empty."""
    secret = {name for name, f in kind.model.model_fields.items() if f.annotation is SecretStr}
    return {
        name: (SECRET_PLACEHOLDER if value else "") if name in secret else value
        for name, value in data.items()
    }


def build(slug: str, name: str, data: Mapping[str, Any]) -> Agent:
    """Build the agent from stored settings; raises `AgentMisconfigured` if they are invalid.

    Prefect's server does not validate a block edited in its UI, so invalid settings are found here.
    """
    kind = KINDS[slug]
    settings, problem = kind.check(data)
    if settings is None:
        raise AgentMisconfigured(f'agent "{name}": {problem}')
    return kind.make(name, settings)


def check_model(agent: Agent, model: str) -> None:
    """Raise `AgentMisconfigured` for a model that this agent cannot use; empty means its own.

    `answer` raises the same error; this finds what can be found without a key. Imports pydantic-ai.
    """
    match agent:
        case ModelAgent():
            from daybook.agents import providers

            providers.check(agent.settings, model)
        case CommandAgent():
            refuse_model(agent.name, "a command", model)
        case OfflineAgent():
            refuse_model(agent.name, "offline", model)


def tools_of(agent: Agent) -> list[str]:
    """Return the tools that the agent may call while it answers, as its operator wrote them."""
    return list(agent.settings.tools) if isinstance(agent, ModelAgent | CommandAgent) else []
