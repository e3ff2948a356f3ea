"""Alembic's entry point; its connection is opened and locked by `daybook.ledger.schema`."""

from __future__ import annotations

from alembic import context

from daybook.ledger.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
context.run_migrations()
