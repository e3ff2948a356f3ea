"""The tables. A migration's test compares them with what the migrations make.

Only what cannot be derived is stored: a job's next due time, for example, follows from its
schedule. Ids are 32 hexadecimal digits.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, Index, UniqueConstraint, text
from sqlmodel import Field, SQLModel

from daybook.ledger.columns import Instant
from daybook.ledger.states import Delivery, Status

NULLABLE_JSON: Any = JSON(none_as_null=True)
"""JSON where nothing is SQL's NULL, not the text `null`."""

_UNMIRRORED = text("unmirrored IS 1")  # as SQLAlchemy writes it: only so does SQLite see it fit
_UNMIRRORED_PG = text("unmirrored IS true")
_NOT_ARCHIVED = text("archived_at IS NULL")
_PENDING = text("status = 'pending'")
_ENDED = text("finished_at IS NOT NULL")
_LEASED = text("lease_until IS NOT NULL")
_FAILED = text("status = 'failed'")
_UNREAD = text("address = 'inbox' AND read_at IS NULL")


def new_id() -> str:
    """A fresh id: 32 hexadecimal digits, random."""
    return uuid.uuid4().hex


def new_message_id() -> str:
    """A fresh id of a message, as receivers see it."""
    return f"msg_{new_id()}"


class Fact(SQLModel, table=True):
    """What is true of the ledger as a whole: its `id`, made once (`promise.md` 15)."""

    __tablename__ = "facts"

    key: str = Field(primary_key=True)
    value: str


class JobRow(SQLModel, table=True):
    """One job. What it does and when stands in its revisions; here is what outlives them."""

    __tablename__ = "jobs"
    __table_args__ = (
        # Names and slugs are free again once a job is archived; its history stays. Each agent has
        # names of its own. A slug is the deployment's name below its flow, so two kinds may have
        # the same.
        Index(
            "jobs_name",
            "owner",
            "name",
            unique=True,
            sqlite_where=_NOT_ARCHIVED,
            postgresql_where=_NOT_ARCHIVED,
        ),
        Index(
            "jobs_slug",
            "kind",
            "slug",
            unique=True,
            sqlite_where=_NOT_ARCHIVED,
            postgresql_where=_NOT_ARCHIVED,
        ),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    name: str
    slug: str
    kind: str
    description: str = ""
    tags: list[str] = Field(default_factory=list, sa_type=JSON)
    # What a program keeps with it; `metadata` is a word of SQLAlchemy's.
    meta: dict[str, Any] = Field(default_factory=dict, repr=False, sa_type=JSON)
    # Whose it is (`daybook.owners`), for whom that works, and by what it was made.
    owner: str = "user"
    user_id: str = ""
    created_by: str = "cli"
    revision: int = 1
    disabled_reason: str = ""
    created_at: datetime = Field(sa_type=Instant)
    updated_at: datetime = Field(sa_type=Instant)
    archived_at: datetime | None = Field(default=None, sa_type=Instant)

    # Due times that were put off by hand: as ISO texts, and all before an instant.
    skips: list[str] = Field(default_factory=list, sa_type=JSON)
    snoozed_until: datetime | None = Field(default=None, sa_type=Instant)

    # The watermark: each due time up to here has its row (`docs/promise.md` 10). A new job's is
    # its `created_at`.
    audited_until: datetime = Field(sa_type=Instant)

    # The Prefect side: what both sides last agreed on is the base of the three-way comparison.
    deployment_id: str | None = None
    synced: dict[str, Any] | None = Field(default=None, sa_type=NULLABLE_JSON)
    sync_pending: bool = True
    # What Prefect held and lost: {"at": ISO time, "fields": {name: its value}}.
    conflict: dict[str, Any] | None = Field(default=None, sa_type=NULLABLE_JSON)

    # Requirement 20.
    last_run_id: str | None = None
    last_run_at: datetime | None = Field(default=None, sa_type=Instant)
    last_status: str | None = None
    last_error: str | None = None
    run_count: int = 0
    consecutive_failures: int = 0

    # When its failures were last told of, and whether a success has still to be (requirement 34).
    alerted_at: datetime | None = Field(default=None, sa_type=Instant)
    alert_open: bool = False


class RevisionRow(SQLModel, table=True):
    """What a job was over [effective_from, the next one's): when it is due, what it does, how."""

    __tablename__ = "revisions"
    __table_args__ = (UniqueConstraint("job_id", "effective_from", name="revisions_job_from"),)

    job_id: str = Field(primary_key=True, foreign_key="jobs.id")
    number: int = Field(primary_key=True)
    effective_from: datetime = Field(sa_type=Instant)
    enabled: bool
    schedule: dict[str, Any] = Field(sa_type=JSON)
    action: dict[str, Any] = Field(sa_type=JSON)
    policy: dict[str, Any] = Field(sa_type=JSON)
    notify: dict[str, Any] = Field(default_factory=dict, repr=False, sa_type=JSON)
    source: str = "ledger"
    # Who wrote where it leads last, where not as the job was made: `daybook.jobs.provenance`.
    written_by: dict[str, str] = Field(default_factory=dict, repr=False, sa_type=JSON)


class RunRow(SQLModel, table=True):
    """One occurrence and what became of it (requirement 18)."""

    __tablename__ = "runs"
    __table_args__ = (
        Index("runs_job_due", "job_id", "due"),
        Index("runs_flow_run", "flow_run_id"),
        Index("runs_status", "status", "job_id"),
        Index(
            "runs_unmirrored",
            "finished_at",
            sqlite_where=_UNMIRRORED,
            postgresql_where=_UNMIRRORED_PG,
        ),
        Index("runs_session", "session_id", "status"),
        Index(
            "runs_ended",
            "finished_at",
            "status",
            "count",
            sqlite_where=_ENDED,
            postgresql_where=_ENDED,
        ),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    occurrence: str = Field(unique=True)
    job_id: str | None = Field(default=None, foreign_key="jobs.id")
    revision: int | None = None
    kind: str
    trigger: str
    # Adjacent due times that were missed are one row: `due` is the first, `due_to` the last, and
    # `count` how many they are. Any other row is one due time, and has no `due_to`.
    due: datetime = Field(sa_type=Instant)
    due_to: datetime | None = Field(default=None, sa_type=Instant)
    count: int = 1
    status: str
    reason: str = ""
    until: datetime | None = Field(default=None, sa_type=Instant)
    waits_for: str = ""

    # Who holds it, and by which fence.
    fence: int = 0
    holder: str = ""
    lease_until: datetime | None = Field(default=None, sa_type=Instant)
    suspected_at: datetime | None = Field(default=None, sa_type=Instant)

    # The Prefect run that carries it. `flow_starts` is that run's own count of starts at the last
    # claim: a higher one is a Retry. `prefect_runs` counts the runs that were made for this row.
    flow_run_id: str | None = None
    # `unmirrored`: it has ended, and Prefect has still to be told (`daybook.prefect.unmirrored`).
    flow_starts: int = 0
    prefect_runs: int = 0
    unmirrored: bool = False
    retry_of: str | None = None

    parameters: dict[str, Any] = Field(default_factory=dict, repr=False, sa_type=JSON)
    attempts: int = 0
    # How many tokens it may take from its last claim on; None: nothing limits it.
    tokens: int | None = None
    queued_at: datetime = Field(sa_type=Instant)
    started_at: datetime | None = Field(default=None, sa_type=Instant)
    finished_at: datetime | None = Field(default=None, sa_type=Instant)
    output: str | None = None
    result: Any = Field(default=None, sa_type=NULLABLE_JSON, nullable=True)
    error: str | None = None
    session_id: str | None = None
    agent: str | None = None
    model: str | None = None
    # Of all its attempts: see `AttemptRow`.
    usage: dict[str, Any] | None = Field(default=None, sa_type=NULLABLE_JSON)

    # What became of its callbacks and messages (requirement 32): `daybook.delivery.outbox`.
    delivery: str = Delivery.NOT_REQUESTED.value

    # What a writer that had lost its claim knew: refused as an outcome, kept to be read.
    evidence: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON)

    @property
    def state(self) -> Status:
        """``status`` as the enumeration."""
        return Status(self.status)


class AttemptRow(SQLModel, table=True):
    """One try at the effect. Its status is `running` or one of the outcomes of a try."""

    __tablename__ = "attempts"

    run_id: str = Field(primary_key=True, foreign_key="runs.id")
    number: int = Field(primary_key=True)
    fence: int
    status: str = Status.RUNNING.value
    started_at: datetime = Field(sa_type=Instant)
    finished_at: datetime | None = Field(default=None, sa_type=Instant)
    error: str | None = None
    usage: dict[str, Any] | None = Field(default=None, sa_type=NULLABLE_JSON)


class OutboxRow(SQLModel, table=True):
    """One callback or message that was asked for (requirements 30-34): `daybook.delivery.outbox`.

    It is pending, delivered or failed; suppressed where it was withdrawn before it was sent.
    ``key`` says what it tells whom of what, so that it is asked for once. ``run_id`` is no foreign
    key: a run without a row of its own may be told of, and what is pending outlives its run.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        # What they are limited to is among their columns: SQLite reads the row for it otherwise.
        Index(
            "outbox_pending",
            "lane",
            "next_at",
            "created_at",
            "status",
            sqlite_where=_PENDING,
            postgresql_where=_PENDING,
        ),
        Index("outbox_leased", "lane", sqlite_where=_LEASED, postgresql_where=_LEASED),
        Index(
            "outbox_failed",
            "finished_at",
            "status",
            "purpose",
            sqlite_where=_FAILED,
            postgresql_where=_FAILED,
        ),
        Index(
            "outbox_unread",
            "created_at",
            "status",
            "event",
            "address",
            "read_at",
            sqlite_where=_UNREAD,
            postgresql_where=_UNREAD,
        ),
        Index("outbox_run", "run_id"),
        Index("outbox_job", "job_id", "created_at"),
        Index("outbox_made", "created_at"),
    )

    # `msg_` and 32 hexadecimal digits: the same `webhook-id` on every try.
    id: str = Field(default_factory=new_message_id, primary_key=True)
    key: str = Field(unique=True)
    # A `callback` and a `message` are the job's own, and count for its run's delivery; an `alert`
    # is the operator's.
    purpose: str
    event: str
    run_id: str | None = None
    job_id: str | None = Field(default=None, foreign_key="jobs.id")
    # Whose choice the address was, and who wrote it: what it may reach follows from these
    # (requirement 38).
    owner: str = "user"
    writer: str = ""

    # What may be away as a whole: an address without its query, or a channel's name.
    lane: str
    address: str = Field(repr=False)
    chat_id: str = Field(default="", repr=False)
    # Of an answer, to tell whether the next one differs; else empty.
    digest: str = ""

    status: str = Delivery.PENDING.value
    attempts: int = 0
    next_at: datetime = Field(sa_type=Instant)
    created_at: datetime = Field(sa_type=Instant)
    # When the operator asked for it again: `attempts`, and the day for them, count from there.
    retried_at: datetime | None = Field(default=None, sa_type=Instant)
    finished_at: datetime | None = Field(default=None, sa_type=Instant)
    read_at: datetime | None = Field(default=None, sa_type=Instant)

    # Who is sending it, and by which fence.
    holder: str = ""
    fence: int = 0
    lease_until: datetime | None = Field(default=None, sa_type=Instant)

    error: str | None = None
    note: str = ""
    # The last tries: {"at", "seconds", "status_code", "error"}, oldest first.
    tries: list[dict[str, Any]] = Field(default_factory=list, sa_type=JSON)

    # The last column: what stands behind a long one is slow to read in SQLite.
    subject: str = ""
    body: str = Field(repr=False)


class LaneRow(SQLModel, table=True):
    """A destination that did not take what was sent to it; one that did has no row."""

    __tablename__ = "lanes"

    lane: str = Field(primary_key=True)
    failures: int = 0
    since: datetime = Field(sa_type=Instant)
    paused_until: datetime | None = Field(default=None, sa_type=Instant)
    error: str = ""


class LeadRow(SQLModel, table=True):
    """Who leads what, and until when unless it is renewed; ``fence`` rises with each new holder."""

    __tablename__ = "leads"

    name: str = Field(primary_key=True)
    holder: str
    until: datetime = Field(sa_type=Instant)
    fence: int = 0


class SessionRow(SQLModel, table=True):
    """A conversation with an agent. ``job_id`` is None where several jobs share it."""

    __tablename__ = "sessions"
    __table_args__ = (Index("sessions_used", "updated_at"),)

    id: str = Field(primary_key=True)
    agent: str
    job_id: str | None = Field(default=None, foreign_key="jobs.id")
    created_at: datetime = Field(sa_type=Instant)
    updated_at: datetime = Field(sa_type=Instant)


class MessageRow(SQLModel, table=True):
    """One message of a conversation, in full, and where it came from (requirement 27).

    ``number`` rises by one within the session. ``run_id`` is no foreign key: a conversation may
    outlive what is kept of its runs.
    """

    __tablename__ = "messages"

    session_id: str = Field(primary_key=True, foreign_key="sessions.id")
    number: int = Field(primary_key=True)
    role: str
    content: str
    source: dict[str, Any] = Field(sa_type=JSON)
    run_id: str
    at: datetime = Field(sa_type=Instant)


class TokenRow(SQLModel, table=True):
    """What lets an MCP client in over HTTP, and as whom. The token itself is nowhere."""

    __tablename__ = "tokens"

    id: str = Field(default_factory=new_id, primary_key=True)
    name: str = Field(unique=True)
    owner: str
    user_id: str = ""
    # SHA-256 of the token, 64 hexadecimal digits: it has 256 random bits, so no salt is needed.
    digest: str = Field(unique=True, repr=False)
    created_at: datetime = Field(sa_type=Instant)
    used_at: datetime | None = Field(default=None, sa_type=Instant)


class BlockCopyRow(SQLModel, table=True):
    """The copy of one Prefect block document: what Prefect needs to have it again.

    ``type_id`` is Prefect's id of the block type under which the document was last seen. A Prefect
    that lost its database gives the type another id (`daybook.resources.mirror`).
    """

    __tablename__ = "block_copies"

    slug: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    type_id: str
    # The document's data as JSON, encrypted: `daybook.resources.encryption`.
    sealed: str = Field(repr=False)
    updated_at: datetime = Field(sa_type=Instant)
