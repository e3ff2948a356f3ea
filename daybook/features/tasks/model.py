"""Rules for the fields of tasks and task sessions.

`daybook.features.tasks.matching` compares the fields of a task with a session.
"""

from __future__ import annotations

from datetime import timedelta

from daybook import owners
from daybook.errors import InvalidInput
from daybook.names import validate_line, validate_name
from daybook.schedules import durations

PRIORITIES = ("urgent", "high", "medium", "low")
"""Priorities, highest first. `priority` in the ledger is the index in this tuple."""
MEDIUM = "medium"
LOWEST = PRIORITIES[-1]

SCHEDULER = "scheduler"
"""Default actor of events that no user or agent requested."""

ANY_SESSION = ""
"""Owner of a task that any session may claim."""
SESSION_PREFIX = "session:"

SESSION_STATES = ("idle", "active")
"""States that a session can report."""

MAX_RUNS_PER_TASK = 10
"""Maximum number of runs of a task: the first one and its retries."""

DEFAULT_LEASE_DURATION, MIN_LEASE_DURATION, MAX_LEASE_DURATION = (
    timedelta(minutes=5),
    timedelta(seconds=1),
    timedelta(hours=24),
)

MAX_TEXT_LENGTH = 20_000
"""Maximum length of a task's instructions, and of a run's output or error, in characters."""
MAX_WORD_LENGTH = 100


def priority_index(word: str, field: str = "priority") -> int:
    """Return the index of a priority in `PRIORITIES`. Raise `InvalidInput`."""
    if word not in PRIORITIES:
        hint = f"use one of {', '.join(PRIORITIES)}"
        raise InvalidInput(field, f'"{word}" is not a priority', hint)
    return PRIORITIES.index(word)


def check_owner(owner: str) -> str:
    """Return the owner of a task, normalised. Raise `InvalidInput`.

    `""` means any session, `agent:<id>` the sessions of an agent, `session:<name>` one session, and
    `user` the user. A task of the user is listed, but no session is woken for it or can claim it.
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


def check_word(value: str, field: str) -> str:
    """Return a workspace, channel, type or reason, which may be empty, without outer spaces.

    Raise `InvalidInput` if it is not one line of at most `MAX_WORD_LENGTH` characters.
    """
    return validate_line(value, field, MAX_WORD_LENGTH)


def check_key(value: str) -> str:
    """Return an idempotency key. Raise `InvalidInput` if it is blank, too long or not printable."""
    key = validate_line(value, "idempotency_key", MAX_WORD_LENGTH)
    if not key:
        raise InvalidInput("idempotency_key", "is blank", "use a unique text, or leave it out")
    return key


def check_text(value: str, field: str) -> str:
    """Return the instructions, output or error. Raise `InvalidInput` if the text is too long."""
    if len(value) > MAX_TEXT_LENGTH:
        raise InvalidInput(
            field, f"has {len(value):,} characters", f"use at most {MAX_TEXT_LENGTH:,}"
        )
    return value


def check_state(value: str) -> str:
    """Return the state that a session reports. Raise `InvalidInput`."""
    if value not in SESSION_STATES:
        raise InvalidInput(
            "state", f'"{value}" is not a state', f"use {' or '.join(SESSION_STATES)}"
        )
    return value


def lease_duration(value: timedelta | str | None) -> timedelta:
    """Return the duration of a lease. None means the default. Raise `InvalidInput`."""
    if value is None:
        return DEFAULT_LEASE_DURATION
    duration = durations.parse(value, "lease") if isinstance(value, str) else value
    if not MIN_LEASE_DURATION <= duration <= MAX_LEASE_DURATION:
        shortest, longest = map(durations.to_text, (MIN_LEASE_DURATION, MAX_LEASE_DURATION))
        hint = f"use {shortest} to {longest}"
        raise InvalidInput("lease", f"{durations.to_text(duration)} is out of range", hint)
    return duration
