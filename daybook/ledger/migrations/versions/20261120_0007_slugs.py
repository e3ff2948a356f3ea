"""A slug is free for each kind: Prefect's deployments are named below their flow.

Two deployments of one name, of two of our flows, become two jobs when they are taken over.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261120_0007"
down_revision = "20261120_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """What was unique over all kinds is unique in each."""
    live = sa.text("archived_at IS NULL")
    op.drop_index("jobs_slug", "jobs")
    op.create_index(
        "jobs_slug",
        "jobs",
        ["kind", "slug"],
        unique=True,
        sqlite_where=live,
        postgresql_where=live,
    )
