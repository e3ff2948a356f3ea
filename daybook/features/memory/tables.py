"""The tables of notebooks: notebooks, and the versions of their texts."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import UniqueConstraint, null
from sqlmodel import Field, col, select

from daybook.ledger.column_types import Instant
from daybook.ledger.references import Noun
from daybook.ledger.table_parts import Table
from daybook.ledger.tables import new_id


class NotebookRow(Table, table=True):
    """The notebook of a job, or a shared one, which has a name."""

    __tablename__ = "memory_notebooks"
    __table_args__ = (
        UniqueConstraint("name", name="memory_notebooks_name"),
        UniqueConstraint("job_id", name="memory_notebooks_job"),
    )

    id: str = Field(default_factory=new_id, primary_key=True)
    name: str | None = None
    # The owner whose jobs may use a shared notebook: `user`, for all jobs that no agent owns, or
    # `agent:<id>`. Empty for the notebook of a job, which only this job may use.
    owner: str = ""
    job_id: str | None = None
    created_at: datetime = Field(sa_type=Instant)
    # The number of the newest version; 0 if there is none yet.
    version: int = 0


class VersionRow(Table, table=True):
    """One version of a notebook's text. The newest one is the text of the notebook."""

    __tablename__ = "memory_versions"
    __table_args__ = (UniqueConstraint("run_id", "call_key", name="memory_versions_call"),)

    notebook_id: str = Field(foreign_key="memory_notebooks.id", primary_key=True)
    number: int = Field(primary_key=True)
    written_at: datetime = Field(sa_type=Instant)
    # The run that wrote it, and the key of the call (`builtin_tools.call_key`); or the person.
    run_id: str | None = None
    call_key: str | None = None
    person: str = ""
    # The length of the text in bytes, and its SHA-256 digest.
    size: int
    digest: str
    # Must stay last: SQLite is slow to read columns that follow a long one. NULL if the text of
    # this version is not kept any more.
    text: str | None = Field(default=None, repr=False)


NOTEBOOK = Noun(
    "notebook",
    col(NotebookRow.id),
    select(col(NotebookRow.id), col(NotebookRow.name), col(NotebookRow.owner), null()),
    lambda ref: col(NotebookRow.name) == ref,
)
NOUNS = (NOTEBOOK,)
