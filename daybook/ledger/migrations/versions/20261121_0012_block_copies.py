"""Encrypted copies of the Prefect block documents that hold agents, secrets and the like."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261121_0012"
down_revision = "20261121_0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add one table."""
    op.create_table(
        "block_copies",
        sa.Column("slug", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("type_id", sa.String(), nullable=False),
        sa.Column("sealed", sa.String(), nullable=False),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("slug", "name"),
    )
