"""The time at which an edit made in Prefect takes effect."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

from daybook.prefect import import_edits

NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


def test_an_edit_dated_in_the_future_takes_effect_now() -> None:
    edited = SimpleNamespace(updated=NOON + timedelta(hours=1), schedules=[], paused=False)

    assert import_edits._edits(cast(Any, edited), ["description"], NOON) == [
        (NOON, ["description"])
    ]
