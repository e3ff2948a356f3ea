"""Parts of the tables' models that every command imports, so that they cost little time."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict
from sqlalchemy import Connection, Index, MetaData, TextClause, event
from sqlmodel import SQLModel


class Table(SQLModel):
    """Base class of tables. Rows are not validated, so pydantic builds no validators."""

    model_config = ConfigDict(defer_build=True)  # type: ignore[assignment]


def partial_index(
    name: str,
    *columns: str,
    where: TextClause,
    postgresql_where: TextClause | None = None,
    unique: bool = False,
) -> Index:
    """Return an index of the rows that match ``where``, on PostgreSQL ``postgresql_where``.

    With an option for PostgreSQL, SQLAlchemy imports that dialect and asyncpg's, which takes 30 ms.
    So `_add_option` sets it when the tables are created.
    """
    info = {"where": where if postgresql_where is None else postgresql_where}
    return Index(name, *columns, unique=unique, sqlite_where=where, info=info)


@event.listens_for(SQLModel.metadata, "before_create")
def _add_option(metadata: MetaData, connection: Connection, **_: Any) -> None:
    if connection.dialect.name == "postgresql":
        for index in (each for table in metadata.tables.values() for each in table.indexes):
            if "where" in index.info:
                index.dialect_options["postgresql"]["where"] = index.info["where"]
