"""The fields of tasks and task sessions."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

from daybook.errors import InvalidInput
from daybook.features.tasks import model


@pytest.mark.floor("D", "The priorities are urgent, high, medium and low")
def test_priorities_are_ordered_from_urgent_to_low() -> None:
    assert [model.priority_index(word) for word in ("urgent", "high", "medium", "low")] == [
        0,
        1,
        2,
        3,
    ]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ""),
        (" user ", "user"),
        ("agent:scout", "agent:scout"),
        ("session: night shift ", "session:night shift"),
    ],
)
def test_an_owner_is_normalized(given: str, expected: str) -> None:
    assert model.check_owner(given) == expected


@pytest.mark.parametrize(
    ("lease", "expected"),
    [(None, 300), ("60s", 60), ("1s", 1), ("24h", 86_400), (timedelta(minutes=2), 120)],
)
def test_a_lease_is_a_duration_with_a_default_of_five_minutes(
    lease: timedelta | str | None, expected: int
) -> None:
    assert model.lease_duration(lease) == timedelta(seconds=expected)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda: model.priority_index("now"), "priority"),
        (lambda: model.check_owner("plugin"), "owner"),
        (lambda: model.check_owner("agent:"), "owner"),
        (lambda: model.check_owner("agent:a:b"), "owner"),
        (lambda: model.check_owner("session:"), "owner"),
        (lambda: model.check_state("busy"), "state"),
        (lambda: model.lease_duration("24h1s"), "lease"),
        (lambda: model.lease_duration(timedelta(milliseconds=999)), "lease"),
        (lambda: model.lease_duration("soon"), "lease"),
        (lambda: model.check_word("two\nlines", "workspace"), "workspace"),
        (lambda: model.check_text("x" * 20_001, "output"), "output"),
    ],
)
def test_an_invalid_value_is_refused_with_its_field(call: Callable[[], object], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        call()
    assert refused.value.field == field
