"""Due times that were put off by hand: single ones, and all before an instant."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261120_0005"
down_revision = "20261120_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Of the jobs that there are none was put off."""
    op.add_column(
        "jobs", sa.Column("skips", sa.JSON(), nullable=False, server_default=sa.text("'[]'"))
    )
    op.add_column("jobs", sa.Column("snoozed_until", sa.DateTime(timezone=True), nullable=True))
