"""What each attempt took: an attempt that failed was paid for as well."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261120_0004"
down_revision = "20261120_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Of attempts that have ended by now only the run's own sum is known, as it was."""
    op.add_column("attempts", sa.Column("usage", sa.JSON(), nullable=True))
