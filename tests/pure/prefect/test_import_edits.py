"""The time at which an edit made in Prefect takes effect."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daybook.prefect import import_edits
from daybook.prefect.diff import Difference
from daybook.prefect.links import SWITCHED_OFF_REASON
from daybook.prefect.parameter_schema import FLOW_DESCRIPTION

EDITS = Difference(("enabled", "description", "tags"), {})
NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


def test_an_edit_dated_in_the_future_takes_effect_now() -> None:
    edited = SimpleNamespace(updated=NOON + timedelta(hours=1), schedules=[], paused=False)

    assert import_edits._edits(cast(Any, edited), ["description"], NOON) == [
        (NOON, ["description"])
    ]


@pytest.mark.parametrize(
    ("created", "reason", "resumes"),
    [
        (timedelta(milliseconds=-20), "paused: holiday", False),
        (timedelta(milliseconds=20), "paused after 10 failures", False),
        (timedelta(milliseconds=20), SWITCHED_OFF_REASON, True),  # by `paused: true` in the file
        (timedelta(hours=-1), "paused: holiday", True),  # by a person in Prefect's UI
        (timedelta(milliseconds=20), "", True),  # not paused: `paused: true` in the file pauses it
    ],
)
def test_a_redeployment_does_not_end_a_pause(
    created: timedelta, reason: str, resumes: bool
) -> None:
    schedule = SimpleNamespace(created=NOON + created, slug=None)
    found = SimpleNamespace(description="Mine", updated=NOON, schedules=[schedule])
    row, job = SimpleNamespace(disabled_reason=reason), SimpleNamespace(enabled=not reason)
    stored = SimpleNamespace(row=row, job=job)

    kept = import_edits.without_defaults_of_deploy(EDITS, cast(Any, stored), cast(Any, found))

    assert ("enabled" in kept.pull) is resumes
    assert {"description", "tags"} <= set(kept.pull)


def test_the_description_of_a_flow_is_no_edit_of_the_job() -> None:
    found = SimpleNamespace(description=FLOW_DESCRIPTION, updated=NOON, schedules=[])
    row, job = SimpleNamespace(disabled_reason=""), SimpleNamespace(enabled=True)
    stored = SimpleNamespace(row=row, job=job)
    todo = Difference(("tags",), {"description": FLOW_DESCRIPTION})

    kept = import_edits.without_defaults_of_deploy(todo, cast(Any, stored), cast(Any, found))

    assert kept == Difference(("tags",), {})
