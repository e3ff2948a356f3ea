"""Alembic's entry point; `daybook.ledger.schema` opens and locks its connection."""

from __future__ import annotations

from alembic import context

from daybook.ledger.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
