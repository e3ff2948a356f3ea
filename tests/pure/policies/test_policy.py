"""Policy of a job: fields, defaults, refusals, and retry delays (requirement 11)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from daybook.errors import InvalidInput
from daybook.jobs.model import new_job
from daybook.policies import policy as policies
from daybook.policies.policy import Policy
from daybook.validation import raising_invalid_input
from tests.policies import DEFAULT


def build(**fields: object) -> Policy:
    with raising_invalid_input(Policy.model_fields):
        return Policy.model_validate(fields)


@pytest.mark.floor("C", "The timeout is 30 minutes by default")
@pytest.mark.floor("C", "retries is 3 by default")
def test_a_policy_has_defaults_and_round_trips_as_json() -> None:
    assert build() == Policy(timeout=timedelta(minutes=30), overlap="skip")
    assert build().model_dump(mode="json") == DEFAULT
    assert build(retry_delay="5m").retry_delay == timedelta(minutes=5)
    given = build(timeout="90m", deadline="120m", on_lost="rerun")
    assert Policy.model_validate_json(given.model_dump_json()) == given
    assert given == build(timeout="1h30m", deadline="2h", on_lost="rerun")
    assert given.deadline == timedelta(hours=2)


@pytest.mark.parametrize("nothing", ["", "  ", None])
def test_an_empty_deadline_means_no_deadline(nothing: str | None) -> None:
    assert build(deadline=nothing).deadline is None
    assert build(deadline=nothing) == build()


@pytest.mark.parametrize(
    ("fields", "reruns"),
    [
        ({}, 0),
        ({"retries": 5}, 0),
        ({"on_lost": "rerun"}, 3),
        ({"on_lost": "rerun", "retries": 0}, 1),
        ({"on_lost": "rerun", "retries": 1}, 1),
    ],
)
def test_a_lost_run_is_rerun_only_if_the_job_says_so(
    fields: dict[str, object], reruns: int
) -> None:
    assert build(**fields).reruns == reruns


def test_an_invalid_policy_in_a_runs_parameters_is_read_as_the_default() -> None:
    assert policies.policy_from_parameters({"prompt": "x"}) == Policy()
    assert policies.policy_from_parameters({"policy": {"deadline": "2h"}}) == build(deadline="2h")
    assert policies.policy_from_parameters({"policy": {"timeout": "soon"}}) == Policy()
    assert policies.policy_from_parameters({"policy": "short"}) == Policy()


@pytest.mark.floor("C", "An unknown type is refused")
@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"work_dir": "repo"},
            "work_dir: is relative "
            "(use an absolute path or one that begins with ~, or leave it empty)",
        ),
        ({"work_dir": "/a\nb"}, "work_dir: is not valid (use one line of at most 1000 characters)"),
        (
            {"overlap": "run"},
            "overlap: 'run' is not valid "
            "(use 'skip', 'queue_one', 'queue_all', 'cancel_running' or 'allow')",
        ),
        (
            {"timeout": "0s"},
            'timeout: "0s" is zero '
            "(use a whole number of seconds, at least 1s, such as 90s, 30m, 1h30m or 2d)",
        ),
        (
            {"timeout": 30},
            "timeout: 30 has no unit (write one of 30s, 30m, 30h, 30d)",
        ),
        (
            {"deadline": "0s"},
            'deadline: "0s" is zero '
            "(use a whole number of seconds, at least 1s, such as 90s, 30m, 1h30m or 2d)",
        ),
        (
            {"deadline": 0},
            "deadline: 0 is not a duration "
            "(use a whole number of seconds, at least 1s, such as 90s, 30m, 1h30m or 2d)",
        ),
        (
            {"retry_delay": "5m1s"},
            'retry_delay: "5m1s" is longer than 5m (use 1s to 5m)',
        ),
        ({"retry_delay": "2h"}, 'retry_delay: "2h" is longer than 5m (use 1s to 5m)'),
        (
            {"on_lost": "retry"},
            "on_lost: 'retry' is not valid (use 'unknown' or 'rerun')",
        ),
        (
            {"catch_up": "some"},
            "catch_up: 'some' is not valid (use 'none', 'latest' or 'all')",
        ),
        (
            {"class": "heavy"},
            "class: 'heavy' is not valid (use 'light', 'medium' or 'resource-intensive')",
        ),
        ({"timeuot": "5m"}, "timeuot: unknown field (did you mean timeout?)"),
    ],
)
def test_an_invalid_policy_is_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        build(**fields)
    assert str(caught.value) == text


def test_an_invalid_policy_raises_pydantics_error_for_prefect() -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({"timeout": "0s"})
    with pytest.raises(ValidationError):
        Policy.model_validate({"stagger": "some"})
    with pytest.raises(ValidationError):
        Policy.model_validate("skip")


@pytest.mark.floor("C", "type is light, medium or resource-intensive")
def test_the_schema_of_a_policy_makes_a_form() -> None:
    properties = Policy.model_json_schema()["properties"]
    assert {name: field["default"] for name, field in properties.items()} == DEFAULT
    assert properties["timeout"]["type"] == "string"
    # A form field for text or null would be clumsy.
    for name in ("deadline", "stagger", "start", "until", "active_hours"):
        assert properties[name]["type"] == "string"
        assert properties[name]["default"] == ""
    assert properties["exclude"]["type"] == "array"
    assert properties["exclude"]["items"]["type"] == "string"
    ways = ["skip", "queue_one", "queue_all", "cancel_running", "allow"]
    assert properties["overlap"]["enum"] == ways
    assert properties["class"]["enum"] == ["light", "medium", "resource-intensive"]
    assert properties["catch_up"]["enum"] == ["none", "latest", "all"]
    assert properties["on_lost"]["enum"] == ["unknown", "rerun"]
    assert all(field["title"] and field["description"] for field in properties.values())


@pytest.mark.floor("C", "retry_delay doubles with each attempt")
@pytest.mark.parametrize(
    ("attempt", "least"),
    [(1, 1), (2, 2), (3, 4), (10, 300)],  # the last one is capped
)
def test_a_retry_delay_doubles_up_to_its_cap(attempt: int, least: int) -> None:
    drawn = [build().delay(attempt) for _ in range(50)]
    assert min(drawn) >= timedelta(seconds=least)
    assert max(drawn) <= timedelta(seconds=least) * (1 + policies.JITTER_FRACTION)
    assert len(set(drawn)) > 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"retries": 99}, "retries: 99 is not valid (use 0 to 10)"),
        ({"retries": -1}, "retries: -1 is not valid (use 0 to 10)"),
        ({"policy": {"retries": 11}}, "retries: 11 is not valid (use 0 to 10)"),
        ({"max_runs": -2}, "max_runs: -2 is not valid (use 0 or more)"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(
    given: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        new_job(now=datetime(2026, 11, 20, tzinfo=UTC), prompt="x", on_demand=True, **given)
    assert str(refused.value) == expected
