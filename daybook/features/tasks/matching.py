"""Matching of task sessions and runs, and the order of both: pure functions.

Wakes and claims use the same function, `refusal_reason`. It first checks the run, then whether the
session is free, then whether the session fits the run:

::

    paused task ─► owned by the user ─► expired ─► not idle ─► prompting ─► holds a run
        ─► workspace ─► channel ─► owner ─► capabilities ─► fits
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from daybook import owners
from daybook.features.tasks import model
from daybook.features.tasks.tables import TaskRow, TaskRunRow, TaskSessionRow
from daybook.short_text import first_names

IDLE = "idle"


@dataclass(frozen=True)
class RunRequirements:
    """Requirements and preferences of a run for its session, and its position in the queue."""

    run_id: str
    priority: int
    queued_at: datetime
    owner: str = model.ANY_SESSION
    workspace: str = ""
    channel: str = ""
    capabilities: Sequence[str] = ()
    preferred: Sequence[str] = ()
    paused: bool = False

    @classmethod
    def of(cls, task: TaskRow, run: TaskRunRow) -> Self:
        return cls(
            run.id,
            task.priority,
            run.queued_at,
            task.owner,
            task.workspace,
            task.channel,
            tuple(task.capabilities),
            tuple(task.preferred),
            task.paused,
        )

    @property
    def order(self) -> tuple[int, datetime, str]:
        """Return the sort key of claims: by priority, then by waiting time, longest first."""
        return (self.priority, self.queued_at, self.run_id)


@dataclass(frozen=True)
class Candidate:
    """A session that may get a run, with its state.

    ``holds`` is True if the session holds a run whose lease has not expired.
    """

    name: str
    expires_at: datetime
    idle_since: datetime
    agent: str = ""
    workspace: str = ""
    channel: str = ""
    capabilities: Sequence[str] = ()
    state: str = IDLE
    prompting: bool = False
    holds: bool = False

    @classmethod
    def of(cls, row: TaskSessionRow, holds: bool) -> Self:
        return cls(
            row.name,
            row.expires_at,
            row.idle_since,
            row.agent,
            row.workspace,
            row.channel,
            tuple(row.capabilities),
            row.state,
            row.prompting,
            holds,
        )


def refusal_reason(wanted: RunRequirements, session: Candidate, now: datetime) -> str:
    """Return the reason why the session may not have the run at ``now``; "" if the session fits."""
    return _blocked_reason(wanted) or busy_reason(session, now) or _unfit_reason(wanted, session)


def mismatch_reason(wanted: RunRequirements, session: Candidate) -> str:
    """Return why the session would not fit the run even if it were free; "" if it would."""
    return _blocked_reason(wanted) or _unfit_reason(wanted, session)


def busy_reason(session: Candidate, now: datetime) -> str:
    """Return the reason why the session may not have any run at ``now``; "" if it is free."""
    if session.expires_at <= now:
        return "the session expired"
    if session.state != IDLE:
        return f"the session is {session.state}"
    if session.prompting:
        return "the session waits for an answer to a prompt"
    if session.holds:
        return "the session holds a run"
    return ""


def preference(wanted: RunRequirements, session: Candidate) -> tuple[int, datetime, str]:
    """Return the sort key for wakes: more preferred capabilities, then a longer idle time."""
    preferred_count = len(set(wanted.preferred) & set(session.capabilities))
    return (-preferred_count, session.idle_since, session.name)


def why_waiting(wanted: RunRequirements, there: Sequence[Candidate], now: datetime) -> str:
    """Return the reason why no session has claimed a queued run.

    ``there`` are the live sessions.
    """
    if reason := _blocked_reason(wanted):
        return reason
    if free := [each.name for each in there if not refusal_reason(wanted, each, now)]:
        return f"{first_names(free, 3)} could claim it"
    fitting = [each for each in there if not mismatch_reason(wanted, each)]
    if fitting:
        return "; ".join(f"{each.name}: {busy_reason(each, now)}" for each in fitting[:3])
    if not there:
        return "there is no live session"
    lacking = set(wanted.capabilities)
    for each in there:
        lacking -= set(each.capabilities)
    if lacking:
        return f"no session has {', '.join(sorted(lacking))}"
    return "no session fits: " + "; ".join(
        f"{each.name}: {mismatch_reason(wanted, each)}" for each in there[:3]
    )


def _blocked_reason(wanted: RunRequirements) -> str:
    if wanted.paused:
        return "the task is paused"
    if wanted.owner == owners.USER:
        return "the task is for the user"
    return ""


def _unfit_reason(wanted: RunRequirements, session: Candidate) -> str:
    if wanted.workspace and wanted.workspace != session.workspace:
        return f'the task is for the workspace "{wanted.workspace}"'
    if wanted.channel and wanted.channel != session.channel:
        return f'the task is for the channel "{wanted.channel}"'
    if not _is_owner(wanted.owner, session):
        return f'the task is for "{wanted.owner}"'
    lacking = sorted(set(wanted.capabilities) - set(session.capabilities))
    if lacking:
        return f"the session lacks {', '.join(lacking)}"
    return ""


def _is_owner(owner: str, session: Candidate) -> bool:
    if owner == model.ANY_SESSION:
        return True
    if owner.startswith(model.SESSION_PREFIX):
        return owner == model.SESSION_PREFIX + session.name
    return bool(session.agent) and owner == owners.AGENT_PREFIX + session.agent
