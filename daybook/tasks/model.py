"""Rules for the fields of tasks and task sessions, and the escalation policy.

Pure, except for `load_policy`. `daybook.tasks.matching` has the fields that a session must match.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from daybook import owners
from daybook.errors import InvalidInput
from daybook.names import validate_line, validate_name
from daybook.schedules import durations
from daybook.validation import as_pydantic, from_pydantic, raising_pydantic_error

if TYPE_CHECKING:
    from daybook.settings import Settings

PRIORITIES = ("urgent", "high", "medium", "low")
"""Priorities, highest first; `priority` in the ledger is the index in this tuple."""
MEDIUM = "medium"

ANY_SESSION = ""
"""Owner of a task that any session may claim."""
SESSION_PREFIX = "session:"

SESSION_STATES = ("idle", "active")
"""States that a session can report."""

MAX_RUNS_PER_TASK = 10
"""Maximum number of runs per task: the first one and its retries."""

DEFAULT_LEASE_DURATION, MIN_LEASE_DURATION, MAX_LEASE_DURATION = (
    timedelta(minutes=5),
    timedelta(seconds=1),
    timedelta(hours=24),
)

MAX_TEXT_LENGTH = 20_000
"""Maximum length of a task's instructions, and of a run's output or error, in characters."""
MAX_CAPABILITIES = 50
MAX_WORD_LENGTH = 100

TOKEN_PREFIX = "dbt_"
"""Prefix of a claim's token; the rest is the result of `token_urlsafe` for 32 bytes."""

_TOKEN = re.compile(rf"{TOKEN_PREFIX}(?=[a-z0-9_-]{{0,42}}[A-Z])[A-Za-z0-9_-]{{43}}")
_CAPABILITY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/+-]{0,63}\Z")


def priority_index(word: str) -> int:
    """Return the index of a priority in `PRIORITIES`. Raises `InvalidInput`."""
    if word not in PRIORITIES:
        hint = f"use one of {', '.join(PRIORITIES)}"
        raise InvalidInput("priority", f'"{word}" is not a priority', hint)
    return PRIORITIES.index(word)


def check_owner(owner: str) -> str:
    """Return the owner of a task, normalised. Raises `InvalidInput`.

    `""` is any session, `agent:<id>` the sessions of an agent, `session:<name>` one session, and
    `user` the user. The user's task is listed, but no session is woken for it or can claim it.
    """
    owner = owner.strip()
    if owner in (ANY_SESSION, owners.USER):
        return owner
    if owner.startswith(SESSION_PREFIX):
        try:
            return SESSION_PREFIX + validate_name(owner.removeprefix(SESSION_PREFIX))
        except InvalidInput as error:
            raise InvalidInput("owner", f"the session's name {error.problem}", error.hint) from None
    if owners.is_agent(owner):
        return owners.validate_owner(owner)
    hint = "use user, agent:NAME or session:NAME, or omit it for any session"
    raise InvalidInput("owner", f'"{owner}" is not an owner', hint)


def check_capabilities(given: Iterable[str], field: str = "capabilities") -> list[str]:
    """Return the capabilities sorted and without duplicates. Raises `InvalidInput`."""
    unique = sorted({each.strip() for each in given})
    for each in unique:
        if not _CAPABILITY.match(each):
            hint = "use up to 64 letters, digits and . _ : / + -, starting with a letter or digit"
            raise InvalidInput(field, f'"{each}" is not a capability', hint)
    if len(unique) > MAX_CAPABILITIES:
        raise InvalidInput(field, f"has {len(unique)} values", f"use at most {MAX_CAPABILITIES}")
    return unique


def check_word(value: str, field: str) -> str:
    """Return a workspace, channel, type or reason without leading or trailing spaces.

    It may be empty. Raises `InvalidInput` if it is not one line of at most `MAX_WORD_LENGTH`
    characters.
    """
    return validate_line(value, field, MAX_WORD_LENGTH)


def check_text(value: str, field: str) -> str:
    """Return the instructions, output or error. Raises `InvalidInput` if the text is too long."""
    if len(value) > MAX_TEXT_LENGTH:
        raise InvalidInput(
            field, f"has {len(value):,} characters", f"use at most {MAX_TEXT_LENGTH:,}"
        )
    return value


def redact_tokens(said: str) -> str:
    """Return the text with each claim token cut to its prefix: no token may be stored or logged."""
    return _TOKEN.sub(f"{TOKEN_PREFIX}…", said)


def check_state(value: str) -> str:
    """Return the state that a session reports. Raises `InvalidInput`."""
    if value not in SESSION_STATES:
        raise InvalidInput(
            "state", f'"{value}" is not a state', f"use {' or '.join(SESSION_STATES)}"
        )
    return value


def lease_duration(value: timedelta | str | None) -> timedelta:
    """Return the duration of a lease; None gives the default. Raises `InvalidInput`."""
    if value is None:
        return DEFAULT_LEASE_DURATION
    duration = durations.parse(value, "lease") if isinstance(value, str) else value
    if not MIN_LEASE_DURATION <= duration <= MAX_LEASE_DURATION:
        shortest, longest = map(durations.to_text, (MIN_LEASE_DURATION, MAX_LEASE_DURATION))
        hint = f"use {shortest} to {longest}"
        raise InvalidInput("lease", f"{durations.to_text(duration)} is out of range", hint)
    return duration


def _duration(value: object) -> object:
    """Return the duration that a string holds; 0 means never. Pydantic checks all other values."""
    if value in (0, "0", "0s"):
        return timedelta(0)
    if isinstance(value, str):
        with raising_pydantic_error():
            return durations.parse(value, "starve_after")
    return value


class EscalationPolicy(BaseModel):
    """Steps for a run that no session claims, each with its number of starving cycles.

    A run starves once it has been queued for ``starve_after``; 0 means never. Each step is taken
    at most once until a session claims the run. Read from `[tasks]` in `config.toml`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    starve_after: Annotated[timedelta, BeforeValidator(_duration)] = Field(
        default=timedelta(minutes=2),
        ge=timedelta(0),
        description="Time in the queue after which a run starves; 0 for never.",
    )
    fan_out: int = Field(
        default=2, ge=1, description="Starving cycles until all fitting sessions are woken."
    )
    request_worker: int = Field(
        default=4, ge=1, description="Starving cycles until a worker is requested."
    )
    starved: int = Field(
        default=6, ge=1, description="Starving cycles until Prefect gets the event `task.starved`."
    )
    needs_attention: int = Field(
        default=10, ge=1, description="Starving cycles until the operator is notified."
    )
    wake_url: str = Field(
        default="",
        description="Webhook that wakes sessions without an MCP connection, with one signed "
        "request per cycle.",
    )

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        steps = [(name, getattr(self, name)) for name in ESCALATION_STEPS]
        for (before, low), (after, high) in pairwise(steps):
            if high <= low:
                problem = f"{high} is not greater than {before} ({low})"
                hint = f"use increasing values: {' < '.join(ESCALATION_STEPS)}"
                raise as_pydantic(InvalidInput(after, problem, hint))
        return self

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Self:
        """Return the policy in the settings table. Raises `InvalidInput` naming the key."""
        try:
            return cls.model_validate(dict(table))
        except ValidationError as error:
            problem = from_pydantic(error.errors()[0], cls.model_fields)
            raise InvalidInput(f"tasks.{problem.field}", problem.problem, problem.hint) from None


ESCALATION_STEPS = ("fan_out", "request_worker", "starved", "needs_attention")
"""The escalation steps, in their order."""


@dataclass(frozen=True)
class EscalationDue:
    """Starving cycles of a run after this cycle, and the steps that are due."""

    cycles: int
    steps: tuple[str, ...]


def escalate(
    policy: EscalationPolicy, queued_for: timedelta, cycles: int, taken: Iterable[str]
) -> EscalationDue:
    """Return a queued run's count of starving cycles after this cycle, and the steps that are due.

    ``cycles`` is the count before this cycle; it rises only if the run starves. ``taken`` are the
    steps already taken. A step that failed does not count as taken, and is due again in the next
    cycle.
    """
    if not policy.starve_after or queued_for < policy.starve_after:
        return EscalationDue(cycles, ())
    done = set(taken)
    due_steps = (
        name
        for name in ESCALATION_STEPS
        if cycles + 1 >= getattr(policy, name) and name not in done
    )
    return EscalationDue(cycles + 1, tuple(due_steps))


def load_policy(found: Settings | None = None) -> EscalationPolicy:
    """Return the policy in the settings; loads the settings unless ``found`` is given.

    Called for each cycle, because the file may have changed. Raises `InvalidInput` naming the
    variable, or the file and the key.
    """
    from daybook import settings  # slow to import

    found = found or settings.load()
    try:
        return EscalationPolicy.of(found.tasks)
    except InvalidInput as error:
        key = error.field.removeprefix("tasks.")
        raise settings.invalid_setting("tasks", f"{key}: {error.problem}", error.hint) from None
