"""When what was edited in Prefect was edited."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

from daybook.prefect import import_edits

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


def test_where_prefects_clock_is_ahead_an_edit_is_of_now() -> None:
    edited = SimpleNamespace(updated=NOON + timedelta(hours=1), schedules=[], paused=False)

    assert import_edits._edits(cast(Any, edited), ["description"], NOON) == [
        (NOON, ["description"])
    ]
