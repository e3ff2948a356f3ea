"""Owners of jobs, and the actor for which a request is made.

::

    user           the operator
    plugin         a program that embeds Daybook
    prefect        a person who created the job in Prefect
    file:<set>     the jobs files that `daybook apply` reads
    agent:<id>     an agent

An agent's jobs are subject to the operator's limits (`daybook.jobs.limits`) and to the stricter
address rule. The operator is responsible for all other jobs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from daybook.errors import InvalidInput
from daybook.names import hidden_character, validate_line

USER = "user"
PLUGIN = "plugin"
PREFECT = "prefect"
VIEWER = "viewer"
"""Owner of the tokens of shared links, which show the pages; it owns no job."""
AGENT_PREFIX = "agent:"
FILE_PREFIX = "file:"
MODEL_INTERFACES = frozenset({"mcp", "run"})
"""Interfaces through which a model creates jobs: values of `Actor.via`, stored as `created_by`."""
MAX_OWNER_LENGTH = 100
MAX_SET_LENGTH = 80
"""Maximum length, in characters, of the name of a set of jobs files."""
_SET_NAME = re.compile(r"\w[\w.-]*")


def is_agent(owner: str) -> bool:
    """Return whether ``owner`` is an agent: `agent:<id>`."""
    return owner.startswith(AGENT_PREFIX)


def is_file(owner: str) -> bool:
    """Return whether the owner is a set of jobs files."""
    return owner.startswith(FILE_PREFIX)


def of_file_set(name: str) -> str:
    """Return the owner of the jobs of the set ``name``, a word that needs no quotes in a shell.

    Raise `InvalidInput` for the field `set` otherwise.
    """
    is_word = _SET_NAME.fullmatch(name) is not None and not hidden_character(name)
    if not is_word or len(name) > MAX_SET_LENGTH:
        hint = f"use at most {MAX_SET_LENGTH} letters, digits, dots, dashes and underscores"
        raise InvalidInput("set", f"{name!r} is not a name of a set", hint)
    return f"{FILE_PREFIX}{name}"


def namespace(owner: str) -> str:
    """Return the namespace, an agent's own or "", in which live jobs have unique names."""
    return owner if is_agent(owner) else ""


def is_model(writer: str) -> bool:
    """Return whether ``writer``, from a job's `created_by` or `Actor.writer`, is a model."""
    return is_agent(writer) or writer in MODEL_INTERFACES


def agent_id(owner: str) -> str:
    """Return the id of the agent that is the owner; empty if the owner is not an agent."""
    return owner.removeprefix(AGENT_PREFIX) if is_agent(owner) else ""


def validate_owner(owner: str, field: str = "owner") -> str:
    """Return ``owner`` without surrounding whitespace.

    Raise `InvalidInput` if ``owner`` is not `user`, `plugin` or a valid `agent:<id>`, or is longer
    than `MAX_OWNER_LENGTH` characters.
    """
    owner = owner.strip()
    name = agent_id(owner)
    # An agent's session keys start with the agent's name and a colon. An agent with a colon in its
    # name could use another agent's sessions.
    if ":" in name:
        raise InvalidInput(field, f"{owner!r} is not valid", "use an agent name without a colon")
    is_name = name and name == name.strip() and name.isprintable() and not hidden_character(name)
    if owner in (USER, PLUGIN) or is_name:
        if len(owner) <= MAX_OWNER_LENGTH:
            return owner
        raise InvalidInput(field, "is too long", f"use at most {MAX_OWNER_LENGTH} characters")
    raise InvalidInput(field, f"{owner!r} is not valid", "use user, plugin or agent:<its name>")


def validate_user_id(user_id: str) -> str:
    """Return ``user_id`` without surrounding whitespace.

    Raise the errors of `validate_line`, and `InvalidInput` for a `hidden_character`.
    """
    if hidden := hidden_character(user_id):
        problem = f"contains an invisible or unknown character, U+{ord(hidden):04X}"
        raise InvalidInput("user_id", problem, "remove it")
    return validate_line(user_id, "user_id", MAX_OWNER_LENGTH)


@dataclass(frozen=True)
class Actor:
    """The owner that makes a request, and the interface that it uses.

    The interface, ``via``, is `cli`, `web`, `chat`, `mcp`, `api`, or `run` for the tools of a run.
    ``user_id`` is the id that an agent or a program has for its user, or "". ``approve`` and
    ``only_tools`` have the entries of these fields of the job whose run makes the request, and
    ``sandbox`` is the level of its sandbox; jobs that it adds or changes inherit them.
    """

    owner: str = USER
    user_id: str = ""
    via: str = "cli"
    approve: tuple[str, ...] = ()
    only_tools: tuple[str, ...] = ()
    sandbox: str = "off"

    @property
    def is_agent(self) -> bool:
        return is_agent(self.owner)

    @property
    def writer(self) -> str:
        """Return the writer that a job records for this actor: the agent, else the interface."""
        return self.owner if self.is_agent else self.via


_CURRENT: ContextVar[Actor] = ContextVar("daybook_actor", default=Actor())  # noqa: B039 - frozen


def current_actor() -> Actor:
    """Return the actor of this asyncio task; by default the operator at the command line."""
    return _CURRENT.get()


@contextmanager
def acting_as(actor: Actor) -> Iterator[Actor]:
    """Make ``actor`` current in this asyncio task, and in tasks created inside the context."""
    token = _CURRENT.set(actor)
    try:
        yield actor
    finally:
        _CURRENT.reset(token)
