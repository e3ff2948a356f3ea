"""Requirement 11: what acts now, and that all else is refused rather than forgotten."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pydantic import ValidationError

from daybook.errors import NotYet, Refused
from daybook.spec import policy as policies
from daybook.spec.policy import Policy
from daybook.spec.refusal import translated


def build(**fields: object) -> Policy:
    with translated(Policy.model_fields):
        return Policy.model_validate(fields)


def test_defaults_and_json() -> None:
    assert build() == Policy(timeout=timedelta(minutes=30), overlap="skip")
    assert build().model_dump(mode="json") == {
        "timeout": "30m",
        "retries": 3,
        "retry_delay": "1s",
        "overlap": "skip",
    }
    assert Policy.model_validate_json(build(timeout="90m").model_dump_json()) == build(
        timeout="1h30m"
    )


@pytest.mark.parametrize("field", sorted(policies.NOT_YET))
def test_later_fields_are_not_yet(field: str) -> None:
    with pytest.raises(NotYet) as caught:
        build(**{field: 3})
    assert str(caught.value) == (
        f"{field}: not yet (this version does not act on it, so it is not stored)"
    )


@pytest.mark.parametrize("overlap", policies.OVERLAPS_NOT_YET)
def test_later_overlaps_are_not_yet(overlap: str) -> None:
    with pytest.raises(NotYet) as caught:
        build(overlap=overlap)
    assert caught.value.field == "overlap"
    assert f'"{overlap}" not yet' in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"overlap": "run"}, "overlap: 'run' is not legal (legal: skip)"),
        (
            {"timeout": "0s"},
            'timeout: "0s" is zero (write whole seconds or more, such as 90s, 30m, 1h30m or 2d)',
        ),
        (
            {"timeout": 30},
            "timeout: 30 is no duration "
            "(write whole seconds or more, such as 90s, 30m, 1h30m or 2d)",
        ),
        ({"timeuot": "5m"}, "timeuot: unknown field (did you mean timeout?)"),
    ],
)
def test_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(Refused) as caught:
        build(**fields)
    assert str(caught.value) == text
    assert not isinstance(caught.value, NotYet)


def test_it_is_an_ordinary_model_for_prefect() -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate({"timeout": "0s"})
    with pytest.raises(ValidationError):
        Policy.model_validate({"deadline": "1h"})
    with pytest.raises(ValidationError):
        Policy.model_validate("skip")


def test_its_schema_makes_a_form() -> None:
    properties = Policy.model_json_schema()["properties"]
    assert set(properties) == {"timeout", "retries", "retry_delay", "overlap"}
    assert properties["timeout"]["type"] == "string"
    assert properties["timeout"]["default"] == "30m"
    assert properties["overlap"]["enum"] == ["skip"]
    assert all(field["title"] and field["description"] for field in properties.values())


@pytest.mark.parametrize(
    ("attempt", "asked", "least"),
    [
        (1, 0, 1),
        (2, 0, 2),
        (3, 0, 4),
        (10, 0, 300),  # capped
        (1, 90, 90),
        (1, 86_400, 3600),  # what is asked for is kept up to an hour
    ],
)
def test_a_delay_doubles_up_to_its_cap_and_is_never_shorter(
    attempt: int, asked: int, least: int
) -> None:
    drawn = [build().delay(attempt, timedelta(seconds=asked)) for _ in range(50)]
    assert min(drawn) >= timedelta(seconds=least)
    assert max(drawn) <= timedelta(seconds=least) * (1 + policies.JITTER)
    assert len(set(drawn)) > 1 or asked > least - 1
