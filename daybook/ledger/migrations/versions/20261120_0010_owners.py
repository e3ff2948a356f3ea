"""Whose a job is and for whom, what a program keeps with it, and what lets MCP clients in; how many
tokens a run may take."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261120_0010"
down_revision = "20261120_0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """The jobs so far were made at the command line, or in Prefect, as their owner says."""
    op.add_column(
        "jobs", sa.Column("meta", sa.JSON(), nullable=False, server_default=sa.text("'{}'"))
    )
    op.add_column(
        "jobs", sa.Column("user_id", sa.String(), nullable=False, server_default=sa.text("''"))
    )
    op.add_column(
        "jobs",
        sa.Column("created_by", sa.String(), nullable=False, server_default=sa.text("'cli'")),
    )
    op.add_column(
        "revisions",
        sa.Column("written_by", sa.JSON(), nullable=False, server_default=sa.text("'{}'")),
    )
    op.add_column(
        "outbox",
        sa.Column("writer", sa.String(), nullable=False, server_default=sa.text("''")),
    )
    op.add_column("runs", sa.Column("tokens", sa.Integer(), nullable=True))
    op.execute(sa.text("UPDATE jobs SET created_by = 'prefect' WHERE owner = 'prefect'"))
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("used_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("name"),
        sa.UniqueConstraint("digest"),
    )
