from __future__ import annotations

import pytest

from daybook.agents import template

VALUES = {"prompt": "say {job}", "job": "brief", "due": "2027-01-15T13:30:00Z", "occurrence": "k"}


@pytest.mark.parametrize(
    ("argument", "filled"),
    [
        ("plain", "plain"),
        ("--name={job}", "--name=brief"),
        ("{job}@{due}", "brief@2027-01-15T13:30:00Z"),
        ("{prompt}", "say {job}"),
        ("{{job}}", "{job}"),
        ("{print $1}", "{print $1}"),
        ('{"a": 1}', '{"a": 1}'),
        ("a{3}", "a{3}"),
        ("{}", "{}"),
    ],
)
def test_placeholders_in_an_argument_are_filled(argument: str, filled: str) -> None:
    assert template.fill(["program", argument], VALUES) == ["program", filled]


def test_a_value_never_becomes_an_option() -> None:
    values = VALUES | {"prompt": "--delete-all", "job": "-v"}
    filled = template.fill(["program", "{prompt}", "{job}", "--say={prompt}", "-{job}"], values)
    assert filled == ["program", " --delete-all", " -v", "--say=--delete-all", "--v"]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ([], "is empty"),
        (["  "], "is empty"),
        (["{prompt}"], "cannot be a placeholder"),
        (["program", "${HOME}"], "unknown placeholder {HOME}"),
        (["program", "{Prompt}"], "use {prompt}, {job}, {due}, {occurrence}"),
        (["program", "a\0b"], "zero byte"),
    ],
)
def test_a_bad_template_is_refused(command: list[str], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        template.check(command)
    assert words in str(caught.value)


def test_only_a_prompt_placeholder_replaces_standard_input() -> None:
    assert template.takes_prompt(["program", "-p", "{prompt}"])
    assert not template.takes_prompt(["program", "-p", "{{prompt}}", "{job}"])
