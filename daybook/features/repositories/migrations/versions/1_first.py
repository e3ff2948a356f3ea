"""The first table of repositories: changes."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table and its indexes."""
    table = "repositories_changes"
    op.create_table(
        table,
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("repo", sa.String(), nullable=False),
        sa.Column("onto", sa.String(), nullable=False),
        sa.Column("branch", sa.String(), nullable=False),
        sa.Column("land", sa.String(), nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("base", sa.String(), nullable=False),
        sa.Column("start", sa.String(), nullable=False),
        sa.Column("continues", sa.String(), nullable=False),
        sa.Column("continued_by", sa.String(), nullable=False),
        sa.Column("notice", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("head", sa.String(), nullable=False),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("is_verified", sa.Boolean(), nullable=True),
        sa.Column("changed_files", sa.Integer(), nullable=False),
        sa.Column("insertions", sa.Integer(), nullable=False),
        sa.Column("deletions", sa.Integer(), nullable=False),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("candidate", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("problem", sa.String(), nullable=False),
        sa.Column("has_conflict", sa.Boolean(), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("decided_by", sa.String(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("summary", sa.String(), nullable=False),
        sa.Column("verification", sa.String(), nullable=False),
        sa.Column("patch", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("run_id"),
    )
    op.create_index("repositories_changes_status", table, ["status", "started_at"])
    op.create_index("repositories_changes_session", table, ["session_id", "started_at"])
    op.create_index("repositories_changes_continued", table, ["continued_by"])
