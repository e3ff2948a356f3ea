"""The kinds of agents, by the slug of the Prefect block type that holds their settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, SecretStr, ValidationError

from daybook.agents.base import Agent, refuse_model
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.agents.model import ModelAgent, ModelSettings
from daybook.agents.offline import OfflineAgent, OfflineSettings
from daybook.errors import AgentMisconfigured, InvalidInput
from daybook.resources.documents import BlockType


@dataclass(frozen=True)
class Kind:
    """``word`` is how the command line calls it; ``title`` and ``description`` are the UI's."""

    word: str
    slug: str
    title: str
    description: str
    settings: type[BaseModel]
    make: Callable[[str, Any], Agent]

    @property
    def block_type(self) -> BlockType:
        return BlockType(self.slug, self.title, "agent")


OFFLINE = Kind(
    word="offline",
    slug="daybook-offline-agent",
    title="Daybook offline agent",
    description="Answers without a network and without a model, and says so in its answer.",
    settings=OfflineSettings,
    make=OfflineAgent,
)
COMMAND = Kind(
    word="command",
    slug="daybook-command-agent",
    title="Daybook command agent",
    description="Runs a program with the prompt as its input; what it prints is the answer.",
    settings=CommandSettings,
    make=CommandAgent,
)
MODEL = Kind(
    word="model",
    slug="daybook-model-agent",
    title="Daybook model agent",
    description="Asks a model behind an API: any provider, or an OpenAI-compatible address.",
    settings=ModelSettings,
    make=ModelAgent,
)
KINDS: dict[str, Kind] = {kind.slug: kind for kind in (OFFLINE, COMMAND, MODEL)}
TYPES = tuple(kind.block_type for kind in KINDS.values())

HIDDEN = "********"
"""Shown in place of a secret."""


def named(name: str) -> Kind:
    """The kind of that word or slug; raises `InvalidInput` with the legal words."""
    for kind in KINDS.values():
        if name in (kind.word, kind.slug):
            return kind
    raise InvalidInput(
        "kind", f'unknown "{name}"', "legal: " + ", ".join(kind.word for kind in KINDS.values())
    )


def checked(kind: Kind, data: Mapping[str, Any]) -> BaseModel:
    """The settings in ``data``; raises `InvalidInput` naming the field that is wrong."""
    try:
        return kind.settings.model_validate(dict(data))
    except ValidationError as error:
        field, problem = first_problem(error)
        known = kind.settings.model_fields
        legal = f"fields of a {kind.word} agent: {', '.join(known) or 'none'}"
        raise InvalidInput(field, problem, "" if field in known else legal) from None


def stored(settings: BaseModel) -> dict[str, Any]:
    """The settings as the block's data, with their secrets in plain: Prefect encrypts them."""
    data = settings.model_dump(mode="json")
    for name, value in settings:
        if isinstance(value, SecretStr):
            data[name] = value.get_secret_value()
    return data


def shown(kind: Kind, data: Mapping[str, Any]) -> dict[str, Any]:
    """``data`` for people: a secret is hidden where there is one, and empty where there is none."""
    secret = {name for name, f in kind.settings.model_fields.items() if f.annotation is SecretStr}
    return {
        name: (HIDDEN if value else "") if name in secret else value for name, value in data.items()
    }


def build(slug: str, name: str, data: Mapping[str, Any]) -> Agent:
    """The agent of stored settings; raises `AgentMisconfigured` when they are not legal.

    A block edited in the Prefect UI is not checked by the server, so this is where it shows.
    """
    kind = KINDS[slug]
    try:
        settings = kind.settings.model_validate(dict(data))
    except ValidationError as error:
        raise AgentMisconfigured('agent "{}": {}: {}'.format(name, *first_problem(error))) from None
    return kind.make(name, settings)


def check_model(agent: Agent, model: str) -> None:
    """Raise `AgentMisconfigured` for a model that this agent cannot be asked for; empty is its own.

    It is what `answer` raises, as far as it can be known without a key. Imports pydantic-ai.
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
    """What the agent may call while it answers, as its operator wrote it."""
    return list(agent.settings.tools) if isinstance(agent, ModelAgent | CommandAgent) else []


def first_problem(error: ValidationError) -> tuple[str, str]:
    """Field and problem. Not pydantic's own text: that repeats the input, which may be a secret."""
    first = error.errors(include_input=False, include_url=False)[0]
    field = str(first["loc"][0]) if first["loc"] else "settings"
    return field, first["msg"].removeprefix("Value error, ")
