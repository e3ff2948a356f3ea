"""The tables of the ledger, except those of tokens and copies of blocks (`credential_tables`) and
of features (`feature_tables`).

A job's next due time is not stored, because it follows from the schedule. Ids made by `new_id` are
32 hexadecimal digits.

To add a column, add a field here, and a new migration in `ledger/migrations/versions` whose
revision id is also in `migrations/HEAD`. Released migrations never change. A test compares the
tables with the result of the migrations, and with `tests/snapshots/ledger-*.txt`; another one
upgrades a ledger of each released version (`tests/migrations/released`). To show the column in
`--json`, add a field of the same name to the view (`jobs.views`, `ledger.views`, `delivery.views`).
Code that inserts rows without these models has to set every column, because the database has no
defaults.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import JSON, BigInteger, Index, UniqueConstraint, text
from sqlmodel import Field, col

from daybook.json_text import JsonObject
from daybook.ledger import job_kinds, triggers, waits
from daybook.ledger.column_types import NULLABLE_JSON, Instant
from daybook.ledger.states import Delivery, Status, Usage
from daybook.ledger.table_parts import Table, partial_index
from daybook.ledger.triggers import Trigger
from daybook.ledger.waits import WaitReason
from daybook.policies.policy import Policy, policy_from_parameters

_UNMIRRORED = text("unmirrored IS 1")  # as SQLAlchemy writes it, else SQLite ignores the index
_UNMIRRORED_PG = text("unmirrored IS true")
_NOT_ARCHIVED = text("archived_at IS NULL")
_CHAINED = text("runs_after IS NOT NULL")
_PENDING = text("status = 'pending'")
_ENDED = text("finished_at IS NOT NULL")
_LEASED = text("lease_until IS NOT NULL")
_FAILED = text("status = 'failed'")
_UNREAD = text("address = 'inbox' AND read_at IS NULL")
_OPEN = text("finished_at IS NULL")
_WITH_TEXTS = text("input IS NOT NULL")


def new_id() -> str:
    """Return a new random id: 32 hexadecimal digits."""
    return uuid.uuid4().hex


def new_message_id() -> str:
    """Return a new message id, as receivers see it."""
    return f"msg_{new_id()}"


class Fact(Table, table=True):
    """A fact about the whole ledger, such as its `id`, which never changes."""

    __tablename__ = "facts"

    key: str = Field(primary_key=True)
    value: str


class JobRow(Table, table=True):
    """One job. Its revisions define its action and schedule; this row has the unrevised fields."""

    __tablename__ = "jobs"
    __table_args__ = (
        # Names and slugs are free again once a job is archived; its history stays. Each agent has
        # a namespace of its own, and all other owners share one namespace
        # (`jobs.store.taken_names`). A slug is the name of a deployment of the kind's flow, so jobs
        # of two kinds may have the same slug.
        partial_index(
            "jobs_name",
            "owner",
            "name",
            unique=True,
            where=_NOT_ARCHIVED,
        ),
        partial_index(
            "jobs_slug",
            "kind",
            "slug",
            unique=True,
            where=_NOT_ARCHIVED,
        ),
        partial_index("jobs_runs_after", "runs_after", where=_CHAINED),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    name: str
    slug: str
    kind: str
    description: str = ""
    tags: list[str] = Field(default_factory=list, sa_type=JSON)
    # A program's own metadata; SQLAlchemy reserves the name `metadata`.
    meta: JsonObject = Field(default_factory=dict, repr=False, sa_type=JSON)
    # The owner (`daybook.owners`), the user that the owner works for, and the creating interface.
    owner: str = "user"
    user_id: str = ""
    created_by: str = "cli"
    revision: int = 1
    disabled_reason: str = ""
    created_at: datetime = Field(sa_type=Instant)
    updated_at: datetime = Field(sa_type=Instant)
    archived_at: datetime | None = Field(default=None, sa_type=Instant)

    # Due times that the user skipped (ISO strings), and the instant until which all are snoozed.
    skips: list[str] = Field(default_factory=list, sa_type=JSON)
    snoozed_until: datetime | None = Field(default=None, sa_type=Instant)

    # The watermark: each due time up to this instant has a row (`docs/promise.md` 10). For a new
    # job, it is `created_at`.
    audited_until: datetime = Field(sa_type=Instant)

    # The link to Prefect: the last version that both sides had is the base of the three-way diff.
    deployment_id: str | None = None
    synced: JsonObject | None = Field(default=None, sa_type=NULLABLE_JSON)
    sync_pending: bool = True
    # The version from Prefect that lost a conflict: {"at": ISO time, "fields": {name: value}}.
    conflict: JsonObject | None = Field(default=None, sa_type=NULLABLE_JSON)

    # The last run and the counters of the job.
    last_run_id: str | None = None
    last_run_at: datetime | None = Field(default=None, sa_type=Instant)
    last_status: str | None = None
    last_error: str | None = None
    run_count: int = 0
    consecutive_failures: int = 0

    # The time of the last alert about the job's failures, which is in the future while the alert
    # waits, and whether the next success has to be reported: `daybook.delivery.alerts`.
    alerted_at: datetime | None = Field(default=None, sa_type=Instant)
    alert_open: bool = False

    # The name of the job after which this job runs (`daybook.schedules.schedule.After`).
    runs_after: str | None = None

    # The key of the request that added the job (`daybook.api.jobs.add`): a repeated request adds no
    # second job.
    request_key: str | None = None

    # For a job from a jobs file, the fields that were last applied
    # (`daybook.files.jobs_file.flat`), so that Daybook can show changes made elsewhere.
    applied: JsonObject | None = Field(default=None, repr=False, sa_type=NULLABLE_JSON)
    # The job's `updated_at` when the file was applied.
    applied_at: datetime | None = Field(default=None, sa_type=Instant)


class RevisionRow(Table, table=True):
    """A revision of a job: its schedule, action, policy and notifications.

    It is in force from `effective_from` until the `effective_from` of the next revision.
    """

    __tablename__ = "revisions"
    __table_args__ = (UniqueConstraint("job_id", "effective_from", name="revisions_job_from"),)

    job_id: str = Field(primary_key=True, foreign_key="jobs.id")
    number: int = Field(primary_key=True)
    effective_from: datetime = Field(sa_type=Instant)
    enabled: bool
    schedule: JsonObject = Field(sa_type=JSON)
    action: JsonObject = Field(sa_type=JSON)
    policy: JsonObject = Field(sa_type=JSON)
    notify: JsonObject = Field(default_factory=dict, repr=False, sa_type=JSON)
    # The author: the writer of `owners.Actor`, `prefect` for Prefect's UI, or `daybook`, which
    # disables jobs.
    source: str = "daybook"
    # The last writer of each target, if not the job's creator: `daybook.jobs.provenance`.
    written_by: dict[str, str] = Field(default_factory=dict, repr=False, sa_type=JSON)


NEWEST_REVISION = (col(RevisionRow.job_id) == col(JobRow.id)) & (
    col(RevisionRow.number) == col(JobRow.revision)
)
"""Condition that joins a job and its newest revision."""


class WatchRow(Table, table=True):
    """The content with which a job's watch compares its source (`daybook.runs.watched`).

    It is of the first check of the source, or of the last run that succeeded. ``source`` identifies
    the source: after an edit of the watch, the stored content does not count.
    """

    __tablename__ = "watches"

    job_id: str = Field(primary_key=True, foreign_key="jobs.id")
    source: str
    content: str = Field(repr=False)
    seen_at: datetime = Field(sa_type=Instant)


class RunRow(Table, table=True):
    """One occurrence and its outcome."""

    __tablename__ = "runs"
    __table_args__ = (
        Index("runs_job_due", "job_id", "due"),
        Index("runs_flow_run", "flow_run_id"),
        Index("runs_status", "status", "job_id"),
        partial_index(
            "runs_unmirrored",
            "finished_at",
            where=_UNMIRRORED,
            postgresql_where=_UNMIRRORED_PG,
        ),
        Index("runs_session", "session_id", "status"),
        partial_index(
            "runs_ended",
            "finished_at",
            "status",
            "count",
            where=_ENDED,
        ),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    occurrence: str = Field(unique=True)
    job_id: str | None = Field(default=None, foreign_key="jobs.id")
    revision: int | None = None
    kind: str
    trigger: str
    # Adjacent due times that were missed or skipped are one row: `due` is the first, `due_to` the
    # last, `count` their number. Any other row is one occurrence, and has no `due_to`.
    due: datetime = Field(sa_type=Instant)
    due_to: datetime | None = Field(default=None, sa_type=Instant)
    count: int = 1
    status: str
    reason: str = ""
    until: datetime | None = Field(default=None, sa_type=Instant)
    waits_for: str = ""

    # The claim: its fencing token, holder and lease.
    fence: int = 0
    holder: str = ""
    lease_until: datetime | None = Field(default=None, sa_type=Instant)
    suspected_at: datetime | None = Field(default=None, sa_type=Instant)

    # The Prefect run of this row. `flow_starts` is the Prefect run's own count of starts at the
    # last claim: a higher count means a later start, such as a Retry. `prefect_runs` counts the
    # Prefect runs that were created for this row.
    flow_run_id: str | None = None
    flow_starts: int = 0
    prefect_runs: int = 0
    # The run has ended, but Prefect does not show the outcome yet (`daybook.prefect.unmirrored`).
    unmirrored: bool = False
    retry_of: str | None = None

    parameters: JsonObject = Field(default_factory=dict, repr=False, sa_type=JSON)
    attempts: int = 0
    # The maximum number of tokens from the last claim on; None if unlimited.
    tokens: int | None = Field(default=None, sa_type=BigInteger)
    queued_at: datetime = Field(sa_type=Instant)
    started_at: datetime | None = Field(default=None, sa_type=Instant)
    finished_at: datetime | None = Field(default=None, sa_type=Instant)
    output: str | None = None
    result: Any = Field(default=None, sa_type=NULLABLE_JSON, nullable=True)
    error: str | None = None
    # Tool calls that failed in a run that succeeded: `daybook.execution.journal`.
    warnings: list[str] = Field(default_factory=list, sa_type=JSON)
    session_id: str | None = None
    agent: str | None = None
    model: str | None = None
    usage: Usage | None = Field(default=None, sa_type=NULLABLE_JSON)

    # The findings of the run's check, until the outcome is known: {"check": text, "change": text,
    # "source": the watched source, "at": time}; the last three only for a watch
    # (`daybook.runs.watched`). Also {"payload": JSON}, the payload of the request to a hook
    # (`daybook.features.hooks`), which stays after the outcome.
    found: JsonObject | None = Field(default=None, repr=False, sa_type=NULLABLE_JSON)

    # The real path of its program's folder, since its last claim: `daybook.runs.folders`.
    work_dir: str = ""
    # The last conversation of its program, by the program's own id, and what the last program that
    # answered in it has printed about it: the fields of `daybook.agents.journal.ProgramSession`.
    program_session: str = ""
    program_state: JsonObject | None = Field(
        default=None, repr=False, sa_type=NULLABLE_JSON, nullable=True
    )

    # The delivery status of its callbacks and messages: `daybook.delivery.outbox`.
    delivery: str = Delivery.NOT_REQUESTED.value

    # Refused outcomes, kept as evidence: their writers had lost the claim, or came too late.
    evidence: list[JsonObject] = Field(default_factory=list, sa_type=JSON)

    @property
    def state(self) -> Status:
        """Return ``status`` as the enumeration."""
        return Status(self.status)

    @property
    def policy(self) -> Policy:
        """Return the policy in ``parameters``; it is read once for each value of the column."""
        read: tuple[JsonObject, Policy] | None = self.__dict__.get("_policy")
        if read is None or read[0] is not self.parameters:
            read = self.parameters, policy_from_parameters(self.parameters)
            self.__dict__["_policy"] = read
        return read[1]

    @property
    def started_by(self) -> Trigger:
        """Return ``trigger`` with its answers."""
        return triggers.of(self.trigger)

    @property
    def asks_agent(self) -> bool:
        return job_kinds.asks_agent(self.kind)

    @property
    def wait_reason(self) -> WaitReason:
        """Return ``waits_for`` as the reason with its answers."""
        return waits.of(self.waits_for)


class AttemptRow(Table, table=True):
    """One attempt at the effect. Its status is `running` or one of the outcomes of an attempt.

    Attempt 0 is the check of a run that ended before its first attempt, if the check used a model.
    While a run waits for an approval, its attempt stays open.
    """

    __tablename__ = "attempts"
    __table_args__ = (
        # All columns that a day's budget sums, so that the sum reads only the index.
        Index("attempts_spent", "started_at", "job_id", "agent", "tokens", "usd", "unpriced"),
        partial_index("attempts_open", "run_id", where=_OPEN),
    )

    run_id: str = Field(primary_key=True, foreign_key="runs.id")
    number: int = Field(primary_key=True)
    fence: int
    status: str = Status.RUNNING.value
    started_at: datetime = Field(sa_type=Instant)
    finished_at: datetime | None = Field(default=None, sa_type=Instant)
    error: str | None = None
    usage: Usage | None = Field(default=None, sa_type=NULLABLE_JSON)
    # For budgets (`daybook.runs.budget`): the run's job, and the agent that the run asks first.
    job_id: str | None = None
    agent: str | None = None
    # The usage; until the attempt has ended, without its steps. `unpriced` is the number of
    # requests whose price is not known; `usd` does not include them.
    tokens: int = Field(default=0, sa_type=BigInteger)
    usd: float = 0.0
    unpriced: int = Field(default=0, sa_type=BigInteger)


class StepRow(Table, table=True):
    """One step of an agent's run: a request to a model, or a call of a tool (`daybook.runs.steps`).

    ``number`` rises by one within the run, in the order of the starts. ``position`` is the place of
    the step in the agent's work, the same in each attempt (`daybook.agents.journal.StepPosition`).
    The status is `running` until the step has ended: then succeeded, failed or unknown. If a later
    attempt does something else at a position, it replaces the steps from that position on.
    """

    __tablename__ = "steps"
    __table_args__ = (
        # The steps whose texts retention can remove, so that it reads no other steps.
        partial_index(
            "steps_with_texts",
            "started_at",
            where=_WITH_TEXTS,
        ),
    )

    run_id: str = Field(primary_key=True, foreign_key="runs.id")
    number: int = Field(primary_key=True)
    position: str
    attempt: int
    kind: str
    # The model's name, or the tool's name as the model uses it.
    name: str
    # SHA-256 of the facts of the request or call, in hexadecimal digits.
    digest: str
    # Whether the step may be repeated without a second effect.
    repeatable: bool
    status: str = Status.RUNNING.value
    # The usage for budgets, as in `AttemptRow`; an estimate until the usage is known.
    tokens: int = Field(default=0, sa_type=BigInteger)
    usd: float = 0.0
    unpriced: int = Field(default=0, sa_type=BigInteger)
    started_at: datetime = Field(sa_type=Instant)
    finished_at: datetime | None = Field(default=None, sa_type=Instant)
    # As in `AttemptRow`; None for a tool.
    usage: Usage | None = Field(default=None, sa_type=NULLABLE_JSON)
    error: str | None = None
    # The beginnings of the request or call and of its reply, for people. Retention removes both and
    # the error; then `input` is None. While a request runs, `output` is its reply so far.
    input: str | None = Field(default="", repr=False)
    output: str | None = Field(default=None, repr=False)
    # `diverged` is the reason why, from this step on, new steps replace the steps of an earlier
    # attempt; `replaced` marks a step that was replaced.
    diverged: str = ""
    replaced: bool = False

    # Must stay last: SQLite is slow to read columns that follow a long one. The data for a later
    # attempt: {"facts": the step's facts, "value": the complete reply}. Removed with the outcome,
    # except from the last request of a model, which keeps {"tools": the names of its tools}.
    reply: JsonObject | None = Field(default=None, repr=False, sa_type=NULLABLE_JSON)


class ApprovalRow(Table, table=True):
    """The question to a person about a tool call or answer of a run (`daybook.runs.approvals`).

    ``number`` counts the questions of the run, and ``after`` the steps that the run made before.
    """

    __tablename__ = "approvals"

    run_id: str = Field(primary_key=True, foreign_key="runs.id")
    number: int = Field(primary_key=True)
    position: str
    digest: str
    after: int
    tool: str
    input: str = Field(default="", repr=False)
    status: str
    asked_at: datetime = Field(sa_type=Instant)
    deadline: datetime = Field(sa_type=Instant)
    decided_at: datetime | None = Field(default=None, sa_type=Instant)
    decided_by: str = ""
    reason: str = ""
    # Must stay last: SQLite is slow to read columns that follow a long one. The outcome whose
    # answer is to be approved, as JSON, until the run has its outcome.
    outcome: JsonObject | None = Field(default=None, repr=False, sa_type=NULLABLE_JSON)


class OutboxRow(Table, table=True):
    """One callback, message, alert, listener call or wake: `daybook.delivery.outbox`.

    Its status is pending, delivered or failed, or suppressed if it was withdrawn before it was
    sent. ``key`` identifies event and recipient, so that no event has two rows for one recipient.
    ``run_id`` is not a foreign key: a message may concern a run without a row of its own, and a
    pending message outlives its run.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        # Each index except `outbox_leased` contains the columns of its condition; otherwise SQLite
        # has to read the row.
        partial_index(
            "outbox_pending",
            "queue",
            "next_at",
            "created_at",
            "status",
            where=_PENDING,
        ),
        partial_index("outbox_leased", "queue", where=_LEASED),
        partial_index(
            "outbox_failed",
            "finished_at",
            "status",
            "purpose",
            where=_FAILED,
        ),
        partial_index(
            "outbox_unread",
            "created_at",
            "status",
            "event",
            "address",
            "purpose",
            "read_at",
            where=_UNREAD,
        ),
        Index("outbox_run", "run_id"),
        Index("outbox_job", "job_id", "created_at"),
        Index("outbox_made", "created_at"),
    )

    # `msg_` and 32 hexadecimal digits; each attempt sends it as the same `webhook-id`.
    id: str = Field(default_factory=new_message_id, primary_key=True)
    key: str = Field(unique=True)
    # A `callback` and a `message` belong to the job, and determine its run's delivery status. An
    # `alert` is for the operator, a `listener` call for a function, a `wake` for a live agent.
    purpose: str
    event: str
    run_id: str | None = None
    job_id: str | None = Field(default=None, foreign_key="jobs.id")
    # The owner who chose the address, and its writer: both determine which addresses are allowed.
    owner: str = "user"
    writer: str = ""

    # The destination queue, which fails as a unit: an address without its query, or a channel.
    queue: str
    address: str = Field(repr=False)
    chat_id: str = Field(default="", repr=False)
    # Identifies an answer, to detect whether the next answer differs; empty for other messages.
    digest: str = ""

    status: str = Delivery.PENDING.value
    attempts: int = 0
    next_at: datetime = Field(sa_type=Instant)
    created_at: datetime = Field(sa_type=Instant)
    # When the operator requested a retry: attempts and their 24 hours count from this time on.
    retried_at: datetime | None = Field(default=None, sa_type=Instant)
    finished_at: datetime | None = Field(default=None, sa_type=Instant)
    read_at: datetime | None = Field(default=None, sa_type=Instant)

    # The process that is sending the row, and its fencing token.
    holder: str = ""
    fence: int = 0
    lease_until: datetime | None = Field(default=None, sa_type=Instant)

    error: str | None = None
    note: str = ""
    # The last attempts: {"at", "seconds", "status_code", "error"}, oldest first.
    tries: list[JsonObject] = Field(default_factory=list, sa_type=JSON)

    # Must stay last: SQLite is slow to read columns that follow a long one.
    subject: str = ""
    body: str = Field(repr=False)


class QueueRow(Table, table=True):
    """A destination queue with failures since its last success; a queue that works has no row."""

    __tablename__ = "destination_queues"

    queue: str = Field(primary_key=True)
    failures: int = 0
    since: datetime = Field(sa_type=Instant)
    paused_until: datetime | None = Field(default=None, sa_type=Instant)
    error: str = ""


class LeadRow(Table, table=True):
    """The leader of a service group, until its lease ends. Each new leader raises ``fence``."""

    __tablename__ = "leads"

    name: str = Field(primary_key=True)
    holder: str
    until: datetime = Field(sa_type=Instant)
    fence: int = 0


class SessionRow(Table, table=True):
    """A session: the stored history of an agent. ``job_id`` is None if it has not exactly one job.

    ``title`` is the first line of the session's first prompt, or a title that a model wrote.
    """

    __tablename__ = "sessions"
    __table_args__ = (Index("sessions_used", "updated_at"),)

    id: str = Field(primary_key=True)
    agent: str
    title: str = ""
    job_id: str | None = Field(default=None, foreign_key="jobs.id")
    created_at: datetime = Field(sa_type=Instant)
    updated_at: datetime = Field(sa_type=Instant)


class MessageRow(Table, table=True):
    """One message of a session, in full, with its origin; ``number`` rises by one.

    ``run_id`` is not a foreign key: a session may outlive its runs.
    """

    __tablename__ = "messages"

    session_id: str = Field(primary_key=True, foreign_key="sessions.id")
    number: int = Field(primary_key=True)
    role: str
    content: str
    source: JsonObject = Field(sa_type=JSON)
    run_id: str
    at: datetime = Field(sa_type=Instant)


class SummaryRow(Table, table=True):
    """A summary of a session's messages up to the number ``through``.

    It includes the summary before it. The messages themselves stay. ``run_id`` is the run after
    whose answer the summary was made; it is not a foreign key. ``usage`` is the usage for this
    summary alone.
    """

    __tablename__ = "summaries"

    session_id: str = Field(primary_key=True, foreign_key="sessions.id")
    through: int = Field(primary_key=True)
    content: str
    agent: str
    model: str | None = None
    usage: Usage | None = Field(default=None, sa_type=NULLABLE_JSON)
    run_id: str
    at: datetime = Field(sa_type=Instant)
