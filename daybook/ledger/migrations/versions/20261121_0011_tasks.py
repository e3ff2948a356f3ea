"""Tasks for idle sessions: tasks, their runs, the sessions that claim them, what happened."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261121_0011"
down_revision = "20261120_0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Four tables; of what was there an index tells the wakes of sessions from what failed."""
    at = sa.DateTime(timezone=True)
    op.create_table(
        "tasks",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("instructions", sa.String(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("workspace", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("capabilities", sa.JSON(), nullable=False),
        sa.Column("preferred", sa.JSON(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("paused_reason", sa.String(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", at, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "task_sessions",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("agent", sa.String(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("workspace", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("capabilities", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("prompting", sa.Boolean(), nullable=False),
        sa.Column("idle_since", at, nullable=False),
        sa.Column("registered_at", at, nullable=False),
        sa.Column("expires_at", at, nullable=False),
        sa.Column("connected_until", at, nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
    )
    op.create_table(
        "task_runs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("task_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("created_at", at, nullable=False),
        sa.Column("queued_at", at, nullable=False),
        sa.Column("claimed_at", at, nullable=True),
        sa.Column("finished_at", at, nullable=True),
        sa.Column("session_id", sa.String(), nullable=True),
        sa.Column("token_digest", sa.String(), nullable=True),
        sa.Column("lease_until", at, nullable=True),
        sa.Column("lease_seconds", sa.Integer(), nullable=True),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("expiries", sa.Integer(), nullable=False),
        sa.Column("starved_cycles", sa.Integer(), nullable=False),
        sa.Column("tiers", sa.JSON(), nullable=False),
        sa.Column("spawned_run_id", sa.String(), nullable=True),
        sa.Column("attention", sa.String(), nullable=False),
        sa.Column("done_by", sa.String(), nullable=False),
        sa.Column("output", sa.String(), nullable=True),
        sa.Column("error", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["task_id"], ["tasks.id"]),
        sa.ForeignKeyConstraint(["session_id"], ["task_sessions.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("task_id", "number", name="task_runs_number"),
    )
    live = sa.text("finished_at IS NULL")
    op.create_index("task_runs_session", "task_runs", ["session_id"], unique=True)
    op.create_index(
        "task_runs_live",
        "task_runs",
        ["status", "queued_at"],
        sqlite_where=live,
        postgresql_where=live,
    )
    op.create_index("task_runs_ended", "task_runs", ["finished_at"])
    op.create_table(
        "task_events",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("at", at, nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("session_id", sa.String(), nullable=True),
        sa.Column("session", sa.String(), nullable=False),
        sa.Column("outbox_id", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["task_runs.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("task_events_run", "task_events", ["run_id", "at"])
    op.create_index("task_events_outbox", "task_events", ["outbox_id"])
    op.drop_index("outbox_failed", "outbox")
    columns, failed = ["finished_at", "status", "purpose"], sa.text("status = 'failed'")
    op.create_index(
        "outbox_failed", "outbox", columns, sqlite_where=failed, postgresql_where=failed
    )
