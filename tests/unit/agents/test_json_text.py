"""What is JSON, and what only Python takes for it."""

from __future__ import annotations

from typing import Any

import pytest

from daybook.agents import json_text
from daybook.agents.base import AgentRequest
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.errors import AgentFailed

DEEPEST = json_text.DEEPEST


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": [1, 2.5, null, true]}', {"a": [1, 2.5, None, True]}),
        ('"NaN"', "NaN"),
        ("1e300", 1e300),
        ("1e-999", 0.0),
        ("[" * DEEPEST + "]" * DEEPEST, None),
    ],
)
def test_json_is_read(text: str, value: Any) -> None:
    read = json_text.read(text)
    assert read == value or (value is None and isinstance(read, list))


NOT_JSON = [
    ("", "Expecting value"),
    ("NaN", "NaN is not JSON"),
    ("[1, -Infinity]", "-Infinity is not JSON"),
    ('{"a": 1e999}', "1e999 is too large"),
    ("-" + "9" * 400 + ".5", "is too large"),
    ("[" * 100_000, "stand in each other"),
    ('{"a":' * (DEEPEST + 1) + "1" + "}" * (DEEPEST + 1), "stand in each other"),
    ("9" * 5_000, "digits"),
]


@pytest.mark.parametrize(("text", "words"), NOT_JSON)
async def test_what_is_none_is_refused_with_the_reason_by_every_reader(
    text: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        json_text.read(text)
    settings = CommandSettings(command=["cat"], output="json")
    with pytest.raises(AgentFailed, match=f"the answer is not JSON: .*{words}"):
        await CommandAgent("robot", settings).answer(AgentRequest(text, 20.0, "flow:1"))
