"""The first schema: all tables of the models.

Until the first release, a change of the tables changes this migration (decision 0002). Then change
the revision id here, in the file's name and in `HEAD`, and update `TABLES`.
"""

from __future__ import annotations

from alembic import op
from sqlmodel import SQLModel

from daybook.ledger import tables, task_tables

revision = "20261128_0005"
down_revision = None
branch_labels = None
depends_on = None

TABLES = "2e1fdb8079fb"
"""Digest of the snapshots of the tables; a test fails if it does not match the tables."""

__all__ = ["tables", "task_tables"]  # imported for their models


def upgrade() -> None:
    """Create all tables and indexes."""
    SQLModel.metadata.create_all(op.get_bind(), checkfirst=False)
