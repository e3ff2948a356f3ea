"""Names of jobs are unique per owner: an agent cannot find out which names others use."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261121_0013"
down_revision = "20261121_0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the unique index anew, with the owner."""
    op.drop_index("jobs_name", "jobs")
    op.create_index(
        "jobs_name",
        "jobs",
        ["owner", "name"],
        unique=True,
        sqlite_where=sa.text("archived_at IS NULL"),
        postgresql_where=sa.text("archived_at IS NULL"),
    )
