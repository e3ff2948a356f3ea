"""The kinds of agents, by the slug of the Prefect block type that stores their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError

from daybook.agents.base import Agent, refuse_model
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.agents.model import ModelAgent
from daybook.agents.model_settings import ModelSettings
from daybook.agents.offline import OfflineAgent, OfflineSettings
from daybook.errors import AgentMisconfigured, InvalidInput
from daybook.resources.documents import BlockType


@dataclass(frozen=True)
class AgentKind:
    """``word`` is its name on the command line; ``title`` and ``description`` are those in the
    UI.
    """

    word: str
    slug: str
    title: str
    description: str
    settings: type[BaseModel]
    make: Callable[[str, Any], Agent]

    @property
    def block_type(self) -> BlockType:
        return BlockType(self.slug, self.title, "agent")


OFFLINE = AgentKind(
    word="offline",
    slug="daybook-offline-agent",
    title="Daybook offline agent",
    description="Answers without a network and without a model, and says so in its answer.",
    settings=OfflineSettings,
    make=OfflineAgent,
)
COMMAND = AgentKind(
    word="command",
    slug="daybook-command-agent",
    title="Daybook command agent",
    description="Runs a program with the prompt as input; its output is the answer.",
    settings=CommandSettings,
    make=CommandAgent,
)
MODEL = AgentKind(
    word="model",
    slug="daybook-model-agent",
    title="Daybook model agent",
    description="Asks a model behind an API: any provider, or an OpenAI-compatible address.",
    settings=ModelSettings,
    make=ModelAgent,
)
KINDS: dict[str, AgentKind] = {kind.slug: kind for kind in (OFFLINE, COMMAND, MODEL)}
BLOCK_TYPES = tuple(kind.block_type for kind in KINDS.values())

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


def validate_settings(kind: AgentKind, data: Mapping[str, Any]) -> BaseModel:
    """Validate the settings in ``data``; raises `InvalidInput` that names the wrong field."""
    try:
        return kind.settings.model_validate(dict(data))
    except ValidationError as error:
        field, problem = first_problem(error)
        known = kind.settings.model_fields
        legal = f"fields of a {kind.word} agent: {', '.join(known) or 'none'}"
        raise InvalidInput(field, problem, "" if field in known else legal) from None


def block_data(settings: BaseModel) -> dict[str, Any]:
    """Return the settings as the block's data, with secrets in plain text: Prefect encrypts
    them.
    """
    data = settings.model_dump(mode="json")
    for name, value in settings:
        if isinstance(value, SecretStr):
            data[name] = value.get_secret_value()
    return data


def displayed_settings(kind: AgentKind, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``data`` for display: set secrets are hidden, empty ones stay empty."""
    secret = {name for name, f in kind.settings.model_fields.items() if f.annotation is SecretStr}
    return {
        name: (SECRET_PLACEHOLDER if value else "") if name in secret else value
        for name, value in data.items()
    }


def build(slug: str, name: str, data: Mapping[str, Any]) -> Agent:
    """Build the agent from stored settings; raises `AgentMisconfigured` if they are invalid.

    Prefect's server does not validate a block edited in its UI, so invalid settings are found here.
    """
    kind = KINDS[slug]
    try:
        settings = kind.settings.model_validate(dict(data))
    except ValidationError as error:
        raise AgentMisconfigured('agent "{}": {}: {}'.format(name, *first_problem(error))) from None
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


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Return field and problem. Not pydantic's own text: it repeats the input, which may be a
    secret.
    """
    first = error.errors(include_input=False, include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else "settings"
    return field, first["msg"].removeprefix("Value error, ")
