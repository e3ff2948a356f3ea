"""For whom a program may say that it works."""

from __future__ import annotations

import pytest

import daybook
from daybook import owners
from daybook.errors import InvalidInput


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"agent": "a:b"}, "agent: 'agent:a:b' is not valid (use an agent name without a colon)"),
        ({"user": "a\nb"}, "user_id: is not valid (use one line of at most 100 characters)"),
        ({"user": "x" * 101}, "user_id: is not valid (use one line of at most 100 characters)"),
    ],
)
def test_what_names_nobody_is_refused(given: dict[str, str], told: str) -> None:
    with pytest.raises(InvalidInput) as refused, daybook.context(**given):
        pass
    assert str(refused.value) == told
    assert owners.current_actor() == owners.Actor()
