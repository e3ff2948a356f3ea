"""JSON columns of a job's rows that are no fields of `Job`, and which values of them are valid.

A value may be invalid after a fault, an edit by hand, or a downgrade of Daybook.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, TypeAdapter, ValidationError

from daybook.schedules.zones import check_year


def _check_time(text: str) -> str:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError("a time needs an offset")
    check_year(instant)  # a later one may overflow in another zone
    return text


Time = Annotated[str, AfterValidator(_check_time)]
Skips = list[Time]


class _Synced(BaseModel):
    foreign: list[str] = []


class _Conflict(BaseModel):
    at: Time
    fields: dict[str, Any]
    invalid: dict[str, str] = {}


class _Columns(BaseModel):
    skips: Skips
    conflict: _Conflict | None
    synced: _Synced | None
    applied: dict[str, Any] | None
    written_by: dict[str, str]


EMPTY: Mapping[str, Callable[[], Any]] = {
    "skips": list,
    "conflict": lambda: None,
    "synced": lambda: None,
    "applied": lambda: None,
    "written_by": dict,
}
"""For each column, a function that returns the value without content."""

_SKIPS = TypeAdapter[Any](Skips)
_TAGS = TypeAdapter[Any](list[str])
_CONFLICT = TypeAdapter[Any](_Conflict | None)


def check(values: Mapping[str, Any]) -> None:
    """Raise `pydantic.ValidationError` if ``values`` has an invalid value of these columns."""
    _Columns.model_validate({name: values[name] for name in EMPTY})


def are_skips(value: Any) -> bool:
    """Return whether this is a valid list of skipped due times."""
    return _is_valid(_SKIPS, value)


def valid_tags(value: Any) -> list[str]:
    """Return the tags of a job; [] if they are not valid."""
    return value if _is_valid(_TAGS, value) else []


def valid_conflict(value: Any) -> dict[str, Any] | None:
    """Return the conflict of a job; None if there is none, or if it is not valid."""
    return value if _is_valid(_CONFLICT, value) else None


def _is_valid(adapter: TypeAdapter[Any], value: Any) -> bool:
    try:
        adapter.validate_python(value)
    except ValidationError:
        return False
    return True
