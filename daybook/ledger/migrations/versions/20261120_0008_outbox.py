"""What is told to whom of a run: the outbox, the lanes it goes by, and what became of it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261120_0008"
down_revision = "20261120_0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Of the runs so far nothing was asked for."""
    op.add_column(
        "revisions",
        sa.Column("notify", sa.JSON(), nullable=False, server_default=sa.text("'{}'")),
    )
    op.add_column("jobs", sa.Column("alerted_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "jobs", sa.Column("alert_open", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.add_column(
        "runs",
        sa.Column(
            "delivery", sa.String(), nullable=False, server_default=sa.text("'not_requested'")
        ),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("job_id", sa.String(), nullable=True),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("lane", sa.String(), nullable=False),
        sa.Column("address", sa.String(), nullable=False),
        sa.Column("chat_id", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("retried_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("read_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("tries", sa.JSON(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("key"),
    )
    for name, columns, where in (
        ("outbox_pending", ["lane", "next_at", "created_at", "status"], "status = 'pending'"),
        ("outbox_leased", ["lane"], "lease_until IS NOT NULL"),
        ("outbox_failed", ["finished_at", "status"], "status = 'failed'"),
        (
            "outbox_unread",
            ["created_at", "status", "event", "address", "read_at"],
            "address = 'inbox' AND read_at IS NULL",
        ),
    ):
        only = sa.text(where)
        op.create_index(name, "outbox", columns, sqlite_where=only, postgresql_where=only)
    op.create_index("outbox_run", "outbox", ["run_id"])
    op.create_index("outbox_job", "outbox", ["job_id", "created_at"])
    op.create_index("outbox_made", "outbox", ["created_at"])
    op.create_table(
        "lanes",
        sa.Column("lane", sa.String(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("paused_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("lane"),
    )
