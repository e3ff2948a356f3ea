"""Strict reading of JSON, and the search for one JSON value within text."""

from __future__ import annotations

from typing import Any

import pytest

from daybook import json_text
from daybook.agents.base import AgentRequest
from daybook.agents.command import CommandAgent, CommandSettings
from daybook.errors import AgentFailed

DEEPEST = json_text.MAX_DEPTH


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
def test_valid_json_is_read(text: str, value: Any) -> None:
    read = json_text.read(text)
    assert read == value or (value is None and isinstance(read, list))


NOT_JSON = [
    ("", "Expecting value"),
    ("NaN", "NaN is not JSON"),
    ("[1, -Infinity]", "-Infinity is not JSON"),
    ('{"a": 1e999}', "1e999 is too large"),
    ("-" + "9" * 400 + ".5", "is too large"),
    ("[" * 100_000, "are nested more than 100 levels deep"),
    ('{"a":' * (DEEPEST + 1) + "1" + "}" * (DEEPEST + 1), "are nested more than 100 levels deep"),
    ("9" * 5_000, "digits"),
]


@pytest.mark.parametrize(("text", "words"), NOT_JSON)
async def test_text_that_is_not_json_is_refused_with_the_reason_by_every_reader(
    text: str, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        json_text.read(text)
    settings = CommandSettings(command=["cat"], output="json")
    with pytest.raises(AgentFailed, match=f"the answer is not JSON: .*{words}"):
        await CommandAgent("robot", settings).answer(AgentRequest(text, 20.0, "flow:1"))


# --- JSON within text


FENCED = '```json\n{"a": [1]}\n```'


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        (FENCED, {"a": [1]}),
        (f"Here you are:\n{FENCED}", {"a": [1]}),
        (f"Here you are:\r\n\r\n  {FENCED}\r\n\r\nAnything else?", {"a": [1]}),
        ("Here:\n~~~~\ntrue\n~~~~\n", True),
        ('Here:\n```\n{"a": "```"}\n```', {"a": "```"}),
        ("Here:\n```json\n[1]", [1]),
        ('It is ```{"a": 1}``` then.', {"a": 1}),
        ('The answer is {"a": {"b": []}}.', {"a": {"b": []}}),
        ('Sure: {"a": "}]\\"{"}, as asked for.', {"a": '}]"{'}),
        ("Sure: [1, 2]", [1, 2]),
        ('She said "yes": {"a": 1}', {"a": 1}),
    ],
)
def test_a_single_json_value_is_found_within_text(text: str, value: Any) -> None:
    assert json_text.find(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("No.", "Expecting value"),
        ("It is 3.", "Expecting value"),
        ('{"a": 1} {"a": 2}', "2 pieces that could be the JSON value"),
        (f'{FENCED}\nor {{"a": 2}}', "2 pieces"),
        (f"{FENCED}\nor\n{FENCED}", "2 pieces"),
        (f"```\nprint(1)\n```\n{FENCED}", "2 pieces"),
        ('As [she] said: {"a": 1}', "2 pieces"),
        ('{"a": 1} and {"b":', "2 pieces"),
        # A value within a broken one is a part of the answer, not the answer.
        ('Sure: {"a": {"b": 1}', "Expecting"),
        ('Sure: {"a": {"b": 1},}', "double quotes"),
        ('Sure: {"a": NaN}', "NaN is not JSON"),
        ('```json\nSure: {"a": 1}\n```', "Expecting value"),
        *NOT_JSON,
    ],
)
def test_several_json_values_or_a_broken_one_are_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        json_text.find(text)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("part", ['\\"', "```a\n", "[", '{"', "]", "```\n", '"['])
def test_no_text_takes_long_to_search(part: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_text.find("Sure: { " + part * 200_000)
