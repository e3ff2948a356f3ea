"""The tables of tasks: tasks, their runs, task sessions, events.

`daybook.ledger.tables` explains how to add a column. The ledger's migrations contain these tables.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import JSON, Index, UniqueConstraint, null, text
from sqlmodel import Field, col, select

from daybook.ledger.column_types import Instant
from daybook.ledger.references import Noun
from daybook.ledger.table_parts import Table, partial_index
from daybook.ledger.tables import new_id

_LIVE = text("finished_at IS NULL")


class TaskRow(Table, table=True):
    """One task, and the sessions that may do it. The task's runs have its outcome."""

    __tablename__ = "tasks"

    id: str = Field(default_factory=new_id, primary_key=True)
    title: str
    instructions: str = Field(default="", repr=False)
    # 0 is urgent, 3 low: `daybook.features.tasks.model.PRIORITIES`.
    priority: int
    # The sessions that may do it: `daybook.features.tasks.model.check_owner`. Empty: any session.
    owner: str = ""
    workspace: str = ""
    channel: str = ""
    capabilities: list[str] = Field(default_factory=list, sa_type=JSON)
    preferred: list[str] = Field(default_factory=list, sa_type=JSON)
    paused: bool = False
    paused_reason: str = ""
    created_by: str
    created_at: datetime = Field(sa_type=Instant)


class TaskRunRow(Table, table=True):
    """One attempt at a task, from queue to end; a retry is another row with the next `number`."""

    __tablename__ = "task_runs"
    __table_args__ = (
        UniqueConstraint("task_id", "number", name="task_runs_number"),
        # At most one session holds a run, and a session at most one run.
        Index("task_runs_session", "session_id", unique=True),
        partial_index("task_runs_live", "status", "queued_at", where=_LIVE),
        Index("task_runs_ended", "finished_at"),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    task_id: str = Field(foreign_key="tasks.id")
    number: int = 1
    # `daybook.features.tasks.states`.
    status: str
    created_at: datetime = Field(sa_type=Instant)
    queued_at: datetime = Field(sa_type=Instant)
    claimed_at: datetime | None = Field(default=None, sa_type=Instant)
    finished_at: datetime | None = Field(default=None, sa_type=Instant)

    # The holder, only while the run is claimed. The claim's token itself is not stored.
    session_id: str | None = Field(default=None, foreign_key="task_sessions.id")
    token_digest: str | None = Field(default=None, repr=False)
    lease_until: datetime | None = Field(default=None, sa_type=Instant)
    lease_seconds: int | None = None
    # Rises with each claim, so that an event can refer to one claim.
    fence: int = 0

    # How often the run's lease expired; for how many cycles the run has starved, and the escalation
    # steps taken.
    expiries: int = 0
    starved_cycles: int = 0
    tiers: list[str] = Field(default_factory=list, sa_type=JSON)
    # The run (a row of `runs`) of the worker job that was requested for this task run.
    spawned_run_id: str | None = None
    # Why the task run needs attention; empty if it does not.
    attention: str = ""

    # The name of the session that completed or failed the run: the name outlives the session.
    done_by: str = ""
    output: str | None = Field(default=None, repr=False)
    error: str | None = None


class TaskSessionRow(Table, table=True):
    """A live agent that claims tasks by itself; not a session (`SessionRow`)."""

    __tablename__ = "task_sessions"

    id: str = Field(default_factory=new_id, primary_key=True)
    name: str = Field(unique=True)
    # The owner that registered it, and the user that the owner works for (`daybook.owners`).
    owner: str
    user_id: str = ""
    agent: str
    type: str = ""
    workspace: str = ""
    channel: str = ""
    capabilities: list[str] = Field(default_factory=list, sa_type=JSON)
    # The state last reported; `idle_since` is when the session became idle and not prompting.
    state: str
    prompting: bool = False
    idle_since: datetime = Field(sa_type=Instant)
    registered_at: datetime = Field(sa_type=Instant)
    # From this time on, the session counts as expired, unless it reports again.
    expires_at: datetime = Field(sa_type=Instant)
    # Until this time, an MCP server can notify the session; the server renews the time while the
    # client is connected.
    connected_until: datetime | None = Field(default=None, sa_type=Instant)


class TaskEventRow(Table, table=True):
    """An event of a task run, with its actor and reason.

    For a wake, `outbox_id` refers to the row with the wake's delivery status.
    """

    __tablename__ = "task_events"
    __table_args__ = (
        Index("task_events_run", "run_id", "at"),
        Index("task_events_outbox", "outbox_id"),
        UniqueConstraint("session_id", "claim_key", name="task_events_claim_key"),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    run_id: str = Field(foreign_key="task_runs.id")
    at: datetime = Field(sa_type=Instant)
    event: str
    actor: str
    reason: str = ""
    # The session concerned, if any. Not a foreign key, because the event outlives the session.
    session_id: str | None = None
    session: str = ""
    outbox_id: str | None = None
    # For a claim with an idempotency key: the key, and the run's fencing token after the claim.
    claim_key: str | None = None
    fence: int | None = None


TASK = Noun(
    "task",
    col(TaskRow.id),
    select(col(TaskRow.id), col(TaskRow.title), col(TaskRow.created_by), null()),
    lambda ref: col(TaskRow.title) == ref,
)
TASK_RUN = Noun(
    "task run",
    col(TaskRunRow.id),
    select(col(TaskRunRow.id), null(), null(), null()),
)
NOUNS = (TASK, TASK_RUN)
