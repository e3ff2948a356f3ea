"""Conversations: sessions, their messages, whose turn it is; and leases suspected before lost."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261120_0002"
down_revision = "20261120_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the tables of conversations, and the mark of a lease that was found run out."""
    op.add_column("runs", sa.Column("suspected_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index("runs_session", "runs", ["session_id", "status"], unique=False)
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("sessions_used", "sessions", ["updated_at"], unique=False)
    op.create_table(
        "messages",
        sa.Column("session_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("content", sa.String(), nullable=False),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"]),
        sa.PrimaryKeyConstraint("session_id", "number"),
    )
