"""Types of columns that return the same values from SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Dialect,
    Numeric,
    case,
    cast,
    func,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

MAX_INTEGER = 2**31 - 1
"""Largest value of an `Integer` column: it has 32 bits on PostgreSQL."""
MAX_BIG_INTEGER = 2**63 - 1
"""Largest value of a `BigInteger` column, and of an integer on SQLite."""
NULLABLE_JSON: Any = JSON(none_as_null=True)
"""JSON that stores None as SQL's NULL, not as the text `null`."""


class Instant(TypeDecorator[datetime]):
    """An instant in UTC, to the microsecond. Raises `ValueError` for a naive datetime."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(
                f"a naive datetime cannot be stored in the ledger: {value.isoformat()}"
            )
        return value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        # SQLite returns the time in UTC without a zone, PostgreSQL in the zone of the connection.
        instant: datetime = value
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


class valid_json(FunctionElement[Any]):
    """A JSON column for an expression such as ``valid_json(column)["name"].as_string()``.

    NULL if the text in the column is no JSON: SQLite would fail the whole query.
    """

    type = JSON()
    inherit_cache = True


@compiles(valid_json)
def _plain_json(element: valid_json, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(valid_json, "sqlite")
def _valid_json_in_sqlite(element: valid_json, compiler: SQLCompiler, **options: Any) -> str:
    column = compiler.process(element.clauses, **options)
    return f"(CASE WHEN json_valid({column}) THEN {column} END)"


class is_json_number(FunctionElement[bool]):
    """Whether a JSON element is a number: on PostgreSQL, a cast of a text fails the whole query."""

    type = Boolean()
    inherit_cache = True


@compiles(is_json_number)
def _is_number(element: is_json_number, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_typeof({compiler.process(element.clauses, **options)}) = 'number'"


@compiles(is_json_number, "sqlite")
def _is_number_in_sqlite(element: is_json_number, compiler: SQLCompiler, **options: Any) -> str:
    value = compiler.process(element.clauses, **options)
    # SQLite reads a number of more than 308 digits as infinity, which is not valid JSON.
    kind = f"CASE WHEN json_valid({value}) THEN json_type({value}) ELSE 'real' END"
    return f"{kind} IN ('integer', 'real')"


def json_number(element: Any) -> ColumnElement[Any]:
    """Return the number in a JSON ``element``, which may be of any size.

    SQLAlchemy's own `as_integer` has 32 bits on PostgreSQL: one larger number fails the query.
    """
    return cast(element.as_string(), Numeric(asdecimal=False))


def at_most(number: ColumnElement[Any], maximum: int) -> ColumnElement[int]:
    """Return ``number`` as an integer of at most ``maximum``."""
    return cast(case((number > maximum, maximum), else_=number), BigInteger)


def big_sum(column: Any) -> ColumnElement[int]:
    """Return the sum of a `BigInteger` column as an integer; on PostgreSQL, `sum` has decimals."""
    return cast(func.sum(column), BigInteger)
