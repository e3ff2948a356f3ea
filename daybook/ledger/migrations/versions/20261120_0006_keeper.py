"""What the keeper needs: how far a job was audited, ranges of missed due times, who leads.

Also what was lost in a conflict with Prefect, kept with its job.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261120_0006"
down_revision = "20261120_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Of due times before the newest that a job has a row of nothing more will be known."""
    op.add_column("jobs", sa.Column("conflict", sa.JSON(), nullable=True))
    # SQLite adds no column that must be filled without a default; each job gets its own below.
    op.add_column(
        "jobs",
        sa.Column(
            "audited_until",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.text("'1970-01-01 00:00:00+00:00'"),
        ),
    )
    # A row that was made before its due time (a future run that was cancelled) says nothing of
    # those before it.
    op.execute(
        "UPDATE jobs SET audited_until = coalesce("
        " (SELECT max(runs.due) FROM runs WHERE runs.job_id = jobs.id"
        " AND runs.occurrence LIKE 'due:%' AND runs.due > jobs.created_at"
        " AND runs.queued_at >= runs.due),"
        " jobs.created_at)"
    )
    op.add_column("runs", sa.Column("due_to", sa.DateTime(timezone=True), nullable=True))
    op.add_column(
        "runs", sa.Column("count", sa.Integer(), nullable=False, server_default=sa.text("1"))
    )
    op.create_table(
        "leads",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
