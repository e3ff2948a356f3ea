"""The kinds of agents, each with the Prefect block type that stores its settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from daybook.agents.base import StoredAgent
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.agents.model import ModelAgent
from daybook.agents.model_settings import ModelSettings
from daybook.agents.offline import OfflineAgent, OfflineSettings
from daybook.errors import AgentMisconfigured, InvalidInput
from daybook.processes import locations
from daybook.resources.store import BlockStore


@dataclass(frozen=True, kw_only=True)
class AgentKind(BlockStore[Any]):
    """A kind of agent, and the store of its documents.

    ``word`` is the kind's name on the command line. ``make`` builds an agent from the agent's name
    and settings.
    """

    make: Callable[[str, Any], StoredAgent]
    noun: str = "agent"

    def problem(self, data: Mapping[str, Any]) -> str | None:
        """Return the invalid setting, or the program that cannot start here, or None."""
        settings, problem = self.check(data)
        if isinstance(settings, CommandSettings):
            problem = locations.program_problem(settings.command, settings.work_dir) or None
        return problem


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
"""All kinds, by slug. The docstring of `daybook.agents` lists the other changes for a new kind."""


def find_kind(name: str) -> AgentKind:
    """Return the kind with this word or slug. Raise `InvalidInput` with the valid words."""
    for kind in KINDS.values():
        if name in (kind.word, kind.slug):
            return kind
    raise InvalidInput(
        "kind",
        f'unknown "{name}"',
        "use one of: " + ", ".join(kind.word for kind in KINDS.values()),
    )


def build(slug: str, name: str, data: Mapping[str, Any]) -> StoredAgent:
    """Build the agent from stored settings. Raise `AgentMisconfigured` if they are invalid.

    Prefect's server does not validate a block that a person edits in its UI.
    """
    kind = KINDS[slug]
    settings, problem = kind.check(data)
    if settings is None:
        raise AgentMisconfigured(f'agent "{name}": {problem}')
    return kind.make(name, settings)
