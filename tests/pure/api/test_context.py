"""The agents and users that `daybook.context` accepts."""

from __future__ import annotations

import pytest

import daybook
from daybook import owners
from daybook.errors import InvalidInput


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"agent": "a:b"}, "agent: 'agent:a:b' is not valid (use an agent name without a colon)"),
        ({"user": "a\nb"}, "user_id: is not valid (use one line of at most 100 characters)"),
        ({"user": "x" * 101}, "user_id: is not valid (use one line of at most 100 characters)"),
    ],
)
def test_context_refuses_an_invalid_agent_or_user(given: dict[str, str], expected: str) -> None:
    with pytest.raises(InvalidInput) as refused, daybook.context(**given):
        pass
    assert str(refused.value) == expected
    assert owners.current_actor() == owners.Actor()
