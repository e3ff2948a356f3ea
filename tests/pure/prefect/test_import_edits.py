"""The time at which an edit made in Prefect takes effect."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from daybook.prefect import import_edits, links
from daybook.prefect.diff import Difference
from daybook.prefect.parameter_schema import FLOW_DESCRIPTION

EDITS = Difference(("enabled", "description", "tags"), {})
NOON = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


def test_an_edit_dated_in_the_future_takes_effect_now() -> None:
    edited = SimpleNamespace(updated=NOON + timedelta(hours=1), schedules=[], paused=False)

    assert import_edits._edits(cast(Any, edited), ["description"], NOON) == [
        (NOON, ["description"])
    ]


@pytest.mark.parametrize(
    ("tags", "reason", "resumes"),
    [
        ([], "paused: holiday", False),
        (["team"], "paused after 10 failures", False),
        ([], links.SWITCHED_OFF_REASON, True),  # by `paused: true` in the file
        ([], links.DELETED_REASON, True),  # the deployment was deleted, and deployed again
        ([], links.TAKEN_REASON, True),
        (["team", "daybook:ours"], "paused: holiday", True),  # by a person in Prefect's UI
        ([], "", True),  # not paused: `paused: true` in the file pauses it
    ],
)
def test_a_redeployment_does_not_end_a_pause(tags: list[str], reason: str, resumes: bool) -> None:
    found = SimpleNamespace(description="Mine", tags=tags)
    row, job = SimpleNamespace(disabled_reason=reason), SimpleNamespace(enabled=not reason)
    stored = SimpleNamespace(row=row, job=job)

    kept = import_edits.without_defaults_of_deploy(
        EDITS, cast(Any, stored), cast(Any, found), "ours"
    )

    assert ("enabled" in kept.pull) is resumes
    assert {"description", "tags"} <= set(kept.pull)


def test_the_description_of_a_flow_is_no_edit_of_the_job() -> None:
    found = SimpleNamespace(description=FLOW_DESCRIPTION, tags=[])
    row, job = SimpleNamespace(disabled_reason=""), SimpleNamespace(enabled=True)
    stored = SimpleNamespace(row=row, job=job)
    todo = Difference(("tags",), {"description": FLOW_DESCRIPTION})

    kept = import_edits.without_defaults_of_deploy(
        todo, cast(Any, stored), cast(Any, found), "ours"
    )

    assert kept == Difference(("tags",), {})
