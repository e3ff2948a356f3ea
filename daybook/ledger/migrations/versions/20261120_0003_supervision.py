"""What a worker and the keeper's passes need: what Prefect is to be told, what a run waits for.

Also an index by status in place of the one of live rows, whose condition SQLite never saw fit: the
statuses of a query are parameters, which it does not compare.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "20261120_0003"
down_revision = "20261120_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Rows that have ended by now are left as Prefect has them."""
    op.add_column(
        "runs", sa.Column("waits_for", sa.String(), nullable=False, server_default=sa.text("''"))
    )
    op.add_column(
        "runs", sa.Column("unmirrored", sa.Boolean(), nullable=False, server_default=sa.false())
    )
    op.drop_index("runs_live", "runs")
    op.create_index("runs_status", "runs", ["status", "job_id"], unique=False)
    op.create_index(
        "runs_unmirrored",
        "runs",
        ["finished_at"],
        unique=False,
        sqlite_where=sa.text("unmirrored IS 1"),
        postgresql_where=sa.text("unmirrored IS true"),
    )
