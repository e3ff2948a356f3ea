"""The table of changes: what runs have done to repositories."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from sqlalchemy import JSON, Index
from sqlmodel import Field

from daybook.json_text import JsonObject
from daybook.ledger.column_types import Instant
from daybook.ledger.table_parts import Table


class ChangeStatus(StrEnum):
    """Status of a change.

    ::

        working ──► unchanged
           ├──────► landing ──► landed, branched, proposed
           │          ▲  └────► waiting      (a conflict, or a failed verification)
           └─► waiting┴───────► discarded, replaced
    """

    WORKING = "working"
    """The run works, or has ended without an answer."""
    UNCHANGED = "unchanged"
    WAITING = "waiting"
    """A person decides."""
    LANDING = "landing"
    """It is decided that the change lands. The process that holds its lock lands it."""
    LANDED = "landed"
    BRANCHED = "branched"
    """The repository has the run's branch."""
    PROPOSED = "proposed"
    """The forge has a pull request."""
    DISCARDED = "discarded"
    REPLACED = "replaced"
    """A later run has continued the change, or has put its own into the same pull request."""


ENDED = frozenset(
    {
        ChangeStatus.UNCHANGED,
        ChangeStatus.LANDED,
        ChangeStatus.BRANCHED,
        ChangeStatus.PROPOSED,
        ChangeStatus.DISCARDED,
        ChangeStatus.REPLACED,
    }
)
"""The statuses after which the worktree of a run is not needed any more."""


class ChangeRow(Table, table=True):
    """The worktree of a run, and the change that the run has made there."""

    __tablename__ = "repositories_changes"
    __table_args__ = (
        Index("repositories_changes_status", "status", "started_at"),
        Index("repositories_changes_session", "session_id", "started_at"),
        Index("repositories_changes_continued", "continued_by"),
    )

    # Not a foreign key: `keeping.delete_old` deletes the row after its run.
    run_id: str = Field(primary_key=True)
    job_id: str | None = None
    session_id: str = ""
    # The machine whose home has the worktree.
    host: str
    # The repository as `Upstream.parse` returns it, its branch that gets the change, and the branch
    # of the run.
    repo: str
    onto: str
    branch: str
    # What the policy `land` of the run says, and its `repo_secret`.
    land: str
    secret: str = ""
    started_at: datetime = Field(sa_type=Instant)
    # The commit with which the change is compared, and the commit whose files the run got: that of
    # an earlier run whose change it continues, or the same. A text for the agent after the prompt.
    base: str
    start: str
    continues: str = ""
    # The occurrence of the run that a person has asked to continue the change.
    continued_by: str = ""
    notice: str = Field(default="", repr=False)

    status: str = ChangeStatus.WORKING
    agent: str = ""
    head: str = ""
    recorded_at: datetime | None = Field(default=None, sa_type=Instant)
    # Whether `verify` has succeeded for `head`; None without a verification.
    is_verified: bool | None = None
    changed_files: int = 0
    insertions: int = 0
    deletions: int = 0
    # The fields of `worktrees.ChangedFile`, for each file.
    files: list[JsonObject] = Field(default_factory=list, sa_type=JSON)
    # What is not part of the change.
    notes: list[str] = Field(default_factory=list, sa_type=JSON)
    # The commit that the branch gets, recorded before the branch changes.
    candidate: str = ""
    # The pull request.
    address: str = ""
    # Why it has not landed, and whether the branch has changed the same lines.
    problem: str = ""
    has_conflict: bool = False
    decided_at: datetime | None = Field(default=None, sa_type=Instant)
    decided_by: str = ""
    # What the person has written about it.
    note: str = ""
    # The agent's answer, and the output of the last verification.
    summary: str = Field(default="", repr=False)
    verification: str = Field(default="", repr=False)
    # Must stay last: SQLite is slow to read columns that follow a long one. A unified diff.
    patch: str = Field(default="", repr=False)
