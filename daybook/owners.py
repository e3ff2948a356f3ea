"""Whose a job is, and for whom something is done (requirement 9).

An owner is `user` (the operator), `plugin` (a program's own), `file`, `prefect` (made there), or
`agent:<id>`. What an agent owns stands under the operator's limits (`daybook.jobs.limits`) and the
stricter rule of addresses; everything else is the operator's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from daybook.errors import InvalidInput
from daybook.names import checked_line

USER = "user"
PLUGIN = "plugin"
FILE = "file"
PREFECT = "prefect"
BY_AGENT = "agent:"
BY_MODELS = frozenset({"mcp", "run"})
"""By what a model makes jobs: `Actor.via`, which a job keeps as `created_by`."""
LONGEST = 100


def is_agent(owner: str) -> bool:
    """Whether an agent owns it."""
    return owner.startswith(BY_AGENT)


def is_models(writer: str) -> bool:
    """Whether a model wrote what ``writer`` wrote: a job's `created_by`, or `Actor.writer`."""
    return is_agent(writer) or writer in BY_MODELS


def agent_id(owner: str) -> str:
    """The id of the agent that owns it; empty where none does."""
    return owner.removeprefix(BY_AGENT) if is_agent(owner) else ""


def check(owner: str, field: str = "owner") -> str:
    """``owner``, without blanks around, if it can own jobs. Raises `InvalidInput`."""
    owner = owner.strip()
    name = agent_id(owner)
    if ":" in name:  # an agent's conversations are `<its name>:…`: it would have another's
        raise InvalidInput(field, f"{owner!r} is not legal", "an agent's name has no colon")
    if owner in (USER, PLUGIN) or (name and name == name.strip() and name.isprintable()):
        if len(owner) <= LONGEST:
            return owner
        raise InvalidInput(field, "is too long", f"legal: at most {LONGEST} characters")
    raise InvalidInput(field, f"{owner!r} is not legal", "legal: user, plugin, or agent:<its name>")


def person(user_id: str) -> str:
    """``user_id``, without blanks around, if it can be kept with jobs. Raises `InvalidInput`."""
    return checked_line(user_id, "user_id", LONGEST)


@dataclass(frozen=True)
class Actor:
    """For whom something is done. ``via`` is by what: `cli`, `mcp`, `api`, or a run's tools, `run`.

    ``user_id`` is the person whom an agent or a program serves, as that names them; empty where it
    does not.
    """

    owner: str = USER
    user_id: str = ""
    via: str = "cli"

    @property
    def is_agent(self) -> bool:
        return is_agent(self.owner)

    @property
    def writer(self) -> str:
        """Who writes what it writes into a job: the agent, else by what."""
        return self.owner if self.is_agent else self.via


_CURRENT: ContextVar[Actor] = ContextVar("daybook_actor", default=Actor())  # noqa: B039 - frozen


def current() -> Actor:
    """For whom this task works; the operator at the command line where nobody said otherwise."""
    return _CURRENT.get()


@contextmanager
def acting_as(actor: Actor) -> Iterator[Actor]:
    """Work for ``actor`` inside, in this task and those it makes."""
    token = _CURRENT.set(actor)
    try:
        yield actor
    finally:
        _CURRENT.reset(token)
