"""Owners of jobs, and the actor that a request is made for.

An owner is `user` (the operator), `plugin` (a program's own), `file`, `prefect` (made in Prefect),
or `agent:<id>`. An agent's jobs are subject to the operator's limits (`daybook.jobs.limits`) and
the stricter address rule; the operator is responsible for all others.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from daybook.errors import InvalidInput
from daybook.names import validate_line

USER = "user"
PLUGIN = "plugin"
FILE = "file"
PREFECT = "prefect"
AGENT_PREFIX = "agent:"
MODEL_INTERFACES = frozenset({"mcp", "run"})
"""Ways by which a model makes jobs: values of `Actor.via`, which a job keeps as `created_by`."""
MAX_OWNER_LENGTH = 100


def is_agent(owner: str) -> bool:
    """Return whether the owner is an agent."""
    return owner.startswith(AGENT_PREFIX)


def is_model(writer: str) -> bool:
    """Return whether the writer, a job's `created_by` or `Actor.writer`, is a model."""
    return is_agent(writer) or writer in MODEL_INTERFACES


def agent_id(owner: str) -> str:
    """Return the id of the agent that is the owner; empty if the owner is not an agent."""
    return owner.removeprefix(AGENT_PREFIX) if is_agent(owner) else ""


def validate_owner(owner: str, field: str = "owner") -> str:
    """Return ``owner`` stripped of spaces, if it can own jobs. Raise `InvalidInput`."""
    owner = owner.strip()
    name = agent_id(owner)
    # An agent's session keys start with `<its name>:`. With a colon in its name it would get
    # another agent's sessions.
    if ":" in name:
        raise InvalidInput(field, f"{owner!r} is not valid", "use an agent name without a colon")
    if owner in (USER, PLUGIN) or (name and name == name.strip() and name.isprintable()):
        if len(owner) <= MAX_OWNER_LENGTH:
            return owner
        raise InvalidInput(field, "is too long", f"use at most {MAX_OWNER_LENGTH} characters")
    raise InvalidInput(field, f"{owner!r} is not valid", "use user, plugin or agent:<its name>")


def validate_user_id(user_id: str) -> str:
    """Return ``user_id`` stripped of spaces, if it can be stored. Raise `InvalidInput`."""
    return validate_line(user_id, "user_id", MAX_OWNER_LENGTH)


@dataclass(frozen=True)
class Actor:
    """The party that a request is made for. ``via`` is the interface: `cli`, `mcp`, `api` or `run`.

    The interface `run` stands for the tools of a run. ``user_id`` is the person that an agent or a
    program represents, in its own naming; empty if it names none.
    """

    owner: str = USER
    user_id: str = ""
    via: str = "cli"

    @property
    def is_agent(self) -> bool:
        return is_agent(self.owner)

    @property
    def writer(self) -> str:
        """The writer that a job records for this actor: the agent, else the interface."""
        return self.owner if self.is_agent else self.via


_CURRENT: ContextVar[Actor] = ContextVar("daybook_actor", default=Actor())  # noqa: B039 - frozen


def current_actor() -> Actor:
    """Return the actor of this task; by default the operator at the command line."""
    return _CURRENT.get()


@contextmanager
def acting_as(actor: Actor) -> Iterator[Actor]:
    """Work for ``actor`` inside this context, in this task and the tasks that it creates."""
    token = _CURRENT.set(actor)
    try:
        yield actor
    finally:
        _CURRENT.reset(token)
