"""Tasks for idle sessions: what a task and a session may say of themselves, and the ladder's steps.

Pure: what the fields mean, and which of them a session must fit, stands in `daybook.tasks`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from daybook import owners
from daybook.errors import InvalidInput
from daybook.names import checked_line, validate_name
from daybook.schedules import durations
from daybook.validation import as_pydantic, for_pydantic, from_details

PRIORITIES = ("urgent", "high", "medium", "low")
"""In their order; a task's `priority` in the ledger is the place in it."""
MEDIUM = "medium"

ANYONE = ""
"""The owner of a task that any session may do."""
BY_SESSION = "session:"

STATES = ("idle", "active")
"""What a session reports of itself."""

CHAIN = 10
"""The most runs of one task: the first and its retries (requirement 49)."""

DEFAULT_LEASE, SHORTEST_LEASE, LONGEST_LEASE = (
    timedelta(minutes=5),
    timedelta(seconds=1),
    timedelta(hours=24),
)

LONGEST_TEXT = 20_000
"""Characters of a task's instructions, and of what a session says of its end."""
MOST_CAPABILITIES = 50
LONGEST_WORD = 100

TOKEN = "dbt_"
"""How the token of a claim begins; `token_urlsafe` of 32 bytes follows."""

_TOKEN = re.compile(rf"{TOKEN}(?=[a-z0-9_-]{{0,42}}[A-Z])[A-Za-z0-9_-]{{43}}")
_CAPABILITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,63}\Z")


def priority(word: str) -> int:
    """The place of a priority in their order. Raises `InvalidInput`."""
    if word not in PRIORITIES:
        legal = f"legal: {', '.join(PRIORITIES)}"
        raise InvalidInput("priority", f'"{word}" is not legal', legal)
    return PRIORITIES.index(word)


def check_owner(owner: str) -> str:
    """Who may do a task: `""` any session, `agent:<id>`, `session:<name>`, or `user`, a person.

    What is a person's is listed, and no session is woken for it or gets it. Raises `InvalidInput`.
    """
    owner = owner.strip()
    if owner in (ANYONE, owners.USER):
        return owner
    if owner.startswith(BY_SESSION):
        try:
            return BY_SESSION + validate_name(owner.removeprefix(BY_SESSION))
        except InvalidInput as error:
            raise InvalidInput("owner", f"the session's name {error.problem}", error.hint) from None
    if owners.is_agent(owner):
        return owners.check(owner)
    legal = "legal: user, agent:<its name>, session:<its name>; without one any session may do it"
    raise InvalidInput("owner", f'"{owner}" is not legal', legal)


def capabilities(given: Iterable[str], field: str = "capabilities") -> list[str]:
    """Capabilities as they are kept: each once, in order. Raises `InvalidInput`."""
    found = sorted({each.strip() for each in given})
    for each in found:
        if not _CAPABILITY.match(each):
            legal = (
                "legal: up to 64 letters, digits and . _ : / + -, beginning with one of the former"
            )
            raise InvalidInput(field, f'"{each}" is not legal', legal)
    if len(found) > MOST_CAPABILITIES:
        raise InvalidInput(field, f"are {len(found)}", f"legal: at most {MOST_CAPABILITIES}")
    return found


def word(value: str, field: str) -> str:
    """A workspace, channel or type: one line, or nothing. Raises `InvalidInput`."""
    return checked_line(value, field, LONGEST_WORD)


def text(value: str, field: str) -> str:
    """Instructions, or what became of a run. Raises `InvalidInput` for one that is too long."""
    if len(value) > LONGEST_TEXT:
        raise InvalidInput(
            field, f"has {len(value):,} characters", f"legal: at most {LONGEST_TEXT:,}"
        )
    return value


def without_tokens(said: str) -> str:
    """What an agent said, without the token of a claim in it: that is kept nowhere."""
    return _TOKEN.sub(f"{TOKEN}…", said)


def state(value: str) -> str:
    """What a session reports. Raises `InvalidInput`."""
    if value not in STATES:
        raise InvalidInput("state", f'"{value}" is not legal', f"legal: {', '.join(STATES)}")
    return value


def lease(value: timedelta | str | None) -> timedelta:
    """Return the lease without a heartbeat; None is the default. Raises `InvalidInput`."""
    if value is None:
        return DEFAULT_LEASE
    found = durations.parse(value, "lease") if isinstance(value, str) else value
    if not SHORTEST_LEASE <= found <= LONGEST_LEASE:
        legal = f"legal: {durations.to_text(SHORTEST_LEASE)} to {durations.to_text(LONGEST_LEASE)}"
        raise InvalidInput("lease", f"{durations.to_text(found)} is not legal", legal)
    return found


def _duration(value: object) -> object:
    """As `durations.parse`, and 0 for never."""
    if value in (0, "0", "0s"):
        return timedelta(0)
    if isinstance(value, str):
        with for_pydantic():
            return durations.parse(value, "starve_after")
    return value


class Ladder(BaseModel):
    """What is done for a run that nobody claims, and after how many cycles of starving.

    A run starves once it has been queued for ``starve_after``; 0: never. Each step is taken once,
    and all of them begin anew after a claim. Read from `[tasks]` in `config.toml`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    starve_after: Annotated[timedelta, BeforeValidator(_duration)] = Field(
        default=timedelta(minutes=2),
        ge=timedelta(0),
        description="How long a run is queued before its cycles of starving count; 0: never.",
    )
    fan_out: int = Field(default=2, ge=1, description="All sessions that fit are woken.")
    request_worker: int = Field(
        default=4, ge=1, description="A run of a job is asked for that is to do it."
    )
    starved: int = Field(default=6, ge=1, description="Prefect gets an event, `task.starved`.")
    needs_attention: int = Field(default=10, ge=1, description="The operator is told.")
    wake_url: str = Field(
        default="",
        description="Where sessions are woken that no MCP server is connected to: the address "
        "gets one signed request for all that are to be woken in a cycle.",
    )

    @model_validator(mode="after")
    def _rise(self) -> Self:
        steps = [(name, getattr(self, name)) for name in STEPS]
        for (before, low), (after, high) in pairwise(steps):
            if high <= low:
                problem = f"{high} is not more than {before}, {low}"
                raise as_pydantic(InvalidInput(after, problem, f"legal: {' < '.join(STEPS)}"))
        return self

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Self:
        """Of the settings. Raises `InvalidInput`, naming the key."""
        try:
            return cls.model_validate(dict(table))
        except ValidationError as error:
            wrong = from_details(error.errors()[0], cls.model_fields)
            raise InvalidInput(f"tasks.{wrong.field}", wrong.problem, wrong.hint) from None


STEPS = ("fan_out", "request_worker", "starved", "needs_attention")
"""The ladder's steps, in their order."""


@dataclass(frozen=True)
class Owed:
    """What the ladder owes a run after this cycle."""

    cycles: int
    steps: tuple[str, ...]


def climb(ladder: Ladder, queued_for: timedelta, cycles: int, taken: Iterable[str]) -> Owed:
    """One cycle of a run that is queued: its count of starving cycles, and the steps it is owed.

    ``cycles`` is the count before, ``taken`` the steps that were taken. A step that failed is not
    taken, and is owed again in the next cycle.
    """
    if not ladder.starve_after or queued_for < ladder.starve_after:
        return Owed(cycles, ())
    done = set(taken)
    owed = (name for name in STEPS if cycles + 1 >= getattr(ladder, name) and name not in done)
    return Owed(cycles + 1, tuple(owed))
