"""Types of instants in the models that `daybook.api` and `--json` show."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, PlainSerializer


def utc_text(instant: datetime | None) -> str | None:
    """Return the instant such as `2027-01-15T13:30:00Z`, with a fraction only if not zero."""
    return None if instant is None else instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _in_utc(instant: datetime) -> datetime:
    return instant.astimezone(UTC)


UtcTime = Annotated[datetime, AfterValidator(_in_utc)]
"""A UTC instant; its JSON form is the text that `utc_text` returns."""

LocalTime = Annotated[datetime, PlainSerializer(datetime.isoformat, when_used="json")]
"""An instant that keeps its offset; its JSON form is RFC 3339, in which UTC is `+00:00`, not `Z`.
"""
