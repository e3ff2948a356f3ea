"""Results of the operations on tasks, with the fields of `--json` in their order.

Instants are in UTC and durations in seconds. Only `ClaimedTaskRun` contains a token.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal, Self

from pydantic import BaseModel, Field

from daybook.features.tasks.counts import TaskCounts
from daybook.features.tasks.model import PRIORITIES
from daybook.features.tasks.pause import PauseState
from daybook.features.tasks.states import TaskRunStatus
from daybook.features.tasks.statistics import Statistics
from daybook.features.tasks.tables import TaskEventRow, TaskRow, TaskRunRow, TaskSessionRow


class _Head(BaseModel, frozen=True):
    id: str


class _HeadWithRun(_Head, frozen=True):
    run_id: str
    status: TaskRunStatus


class _TaskBody(BaseModel, frozen=True):
    title: str
    instructions: str
    priority: str
    owner: str
    workspace: str
    channel: str
    capabilities: list[str]
    preferred: list[str]
    paused: bool
    paused_reason: str
    created_by: str
    created_at: datetime


class TaskRun(BaseModel, frozen=True):
    """One run of a task.

    ``queued_seconds`` is None unless the run is queued. ``session`` is the name of the session that
    holds the run. If the lease of a run has expired, ``lease_over`` is true. Such a run stays
    claimed until a cycle, or the next claim of its session, queues it again or marks it
    `needs_attention`. ``steps`` are the escalation steps that were taken.
    """

    run_id: str
    task_id: str
    number: int
    status: TaskRunStatus
    created_at: datetime
    queued_at: datetime
    queued_seconds: float | None
    claimed_at: datetime | None
    session: str | None
    lease_until: datetime | None
    lease_over: bool
    finished_at: datetime | None
    done_by: str
    output: str | None
    error: str | None
    expiries: int
    starved_cycles: int
    steps: list[str]
    spawned_run_id: str | None
    attention: str

    @classmethod
    def of(cls, row: TaskRunRow, now: datetime, names: Mapping[str, str], **more: object) -> Self:
        """Return the run at ``now``. ``names`` are the names of sessions by their ids."""
        queued = row.status == TaskRunStatus.QUEUED
        return cls.model_validate(
            row.model_dump()
            | {
                "run_id": row.id,
                "queued_seconds": max(0.0, (now - row.queued_at).total_seconds())
                if queued
                else None,
                "session": names.get(row.session_id or ""),
                "lease_over": row.lease_until is not None and row.lease_until <= now,
                "steps": row.tiers,
            }
            | more
        )


class TitledTaskRun(TaskRun, frozen=True):
    """A run, with the title of its task."""

    title: str


# Pydantic orders the fields of base classes from the last one to the first.
class Task(_TaskBody, _Head, frozen=True):
    """A task: the work, and the sessions that may do it."""

    @classmethod
    def of(cls, row: TaskRow) -> Self:
        return cls.model_validate(row.model_dump() | {"priority": PRIORITIES[row.priority]})


class TaskWithRun(_TaskBody, _HeadWithRun, frozen=True):
    """A task with its newest run, or with the run that the caller named.

    ``run_id`` and ``status`` are those of this run.
    """

    run: TaskRun

    @classmethod
    def of(
        cls,
        task: TaskRow,
        newest: TaskRunRow,
        now: datetime,
        names: Mapping[str, str],
        **more: object,
    ) -> Self:
        """Return the task at ``now``. ``names`` are the names of sessions by their ids."""
        of_run = {"run_id": newest.id, "status": newest.status}
        run = TaskRun.of(newest, now, names)
        return cls.model_validate(dict(Task.of(task)) | of_run | {"run": run} | more)


class TaskEvent(BaseModel, frozen=True):
    """An event of a run: its actor, the session to which it belongs, and the reason."""

    at: datetime
    run_id: str
    event: str
    actor: str
    session: str | None
    reason: str

    @classmethod
    def of(cls, row: TaskEventRow) -> Self:
        return cls.model_validate(row.model_dump() | {"session": row.session or None})


class TaskDetails(TaskWithRun, frozen=True):
    """A task with all its runs, newest first, and their events, oldest first."""

    runs: list[TaskRun]
    history: list[TaskEvent]


class ClaimedTaskRun(BaseModel, frozen=True):
    """A run that a session has just claimed. Each later call for the run needs ``token``."""

    run_id: str
    token: str = Field(repr=False)
    lease_until: datetime
    task: Task


class TaskSession(BaseModel, frozen=True):
    """A live agent that claims tasks. ``run_id`` is the run that it holds, or None.

    If ``woken_by`` is None, the session cannot be woken and has to poll.
    """

    id: str
    name: str
    agent: str
    type: str
    workspace: str
    channel: str
    capabilities: list[str]
    state: str
    prompting: bool
    run_id: str | None
    owner: str
    idle_since: datetime
    registered_at: datetime
    expires_at: datetime
    expired: bool
    connected: bool
    woken_by: Literal["stream", "webhook"] | None

    @classmethod
    def of(cls, row: TaskSessionRow, now: datetime, held_run: str | None, *, webhook: bool) -> Self:
        """Return the session at ``now``.

        ``webhook`` is True if the webhook wakes sessions without a stream.
        """
        connected = row.connected_until is not None and row.connected_until > now
        return cls.model_validate(
            row.model_dump()
            | {
                "run_id": held_run,
                "expired": row.expires_at <= now,
                "connected": connected,
                "woken_by": "stream" if connected else "webhook" if webhook else None,
            }
        )


# --- the scheduler


class TaskTotals(BaseModel, frozen=True):
    """Counts of live runs and sessions.

    ``oldest_seconds`` is the time for which the longest waiting run has been in the queue; None if
    no run waits. `counts.TaskCounts` explains the other fields.
    """

    claimed: int
    needs_attention: int
    queued: int
    oldest_seconds: float | None
    starving: int
    attention: int
    free: int
    busy: int
    paused: bool

    @classmethod
    def of(cls, counts: TaskCounts, now: datetime) -> Self:
        return cls(
            claimed=counts.live[TaskRunStatus.CLAIMED],
            needs_attention=counts.live[TaskRunStatus.NEEDS_ATTENTION],
            queued=counts.live[TaskRunStatus.QUEUED],
            oldest_seconds=None if counts.oldest is None else seconds(now - counts.oldest),
            starving=counts.starving,
            attention=counts.attention,
            free=counts.free,
            busy=counts.busy,
            paused=counts.pause.paused,
        )


class SchedulerStatus(BaseModel, frozen=True):
    """The state of the task scheduler. ``runs`` is true if a keeper runs its cycles."""

    switch: PauseState
    runs: bool
    tasks: TaskTotals
    statistics: Statistics
    problems: list[str]


class HeldTaskRun(BaseModel, frozen=True):
    """A run that a session holds."""

    run_id: str
    title: str
    session: str | None
    lease_until: datetime | None


class DrainResult(BaseModel, frozen=True):
    """Result of a drain. ``left`` are the runs that sessions still hold."""

    drained: bool
    waited_seconds: float
    left: list[HeldTaskRun]


class QueuedTaskRun(BaseModel, frozen=True):
    """A queued run. ``why`` is the reason why no session has claimed it yet."""

    run_id: str
    task_id: str
    title: str
    priority: str
    queued_at: datetime
    queued_seconds: float
    starved_cycles: int
    steps: list[str]
    attention: str
    why: str


class Backlog(BaseModel, frozen=True):
    """Counts of all queued runs, the first ``runs`` in claim order, and the pause, if there is one.

    ``reason``, ``at`` (UTC) and ``actor`` describe the pause.
    """

    pending: int
    oldest_seconds: float | None
    by_priority: dict[str, int]
    starving: int
    paused: bool
    reason: str
    at: datetime | None
    actor: str
    runs: list[QueuedTaskRun]


def seconds(length: timedelta) -> float:
    """Return a duration in seconds, rounded to milliseconds; 0 if it is negative."""
    return round(max(0.0, length.total_seconds()), 3)
