"""The table of the files that runs have written."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import LargeBinary
from sqlmodel import Field

from daybook.ledger.column_types import Instant
from daybook.ledger.table_parts import Table


class WrittenFileRow(Table, table=True):
    """A file after the last write of a run. ``path`` is relative to the run's work directory."""

    __tablename__ = "work_tools_files"

    # Not a foreign key: `kept_files.delete_old` deletes the row after its run.
    run_id: str = Field(primary_key=True)
    path: str = Field(primary_key=True)
    written_at: datetime = Field(sa_type=Instant)
    # The length of the content in bytes, and its SHA-256 digest.
    size: int
    digest: str
    # Why the content is not kept; empty if it is.
    not_kept: str = ""
    # Must stay last: SQLite is slow to read columns that follow a long one.
    content: bytes | None = Field(default=None, sa_type=LargeBinary, repr=False)
