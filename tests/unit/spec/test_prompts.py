"""The variables of a prompt (requirement 27)."""

from __future__ import annotations

import pytest

from daybook.spec import prompts

VALUES = {"due": "2027-01-15T09:00:00+01:00", "job": "brief", "last_output": "fine", "payload": ""}


@pytest.mark.parametrize(
    ("prompt", "rendered"),
    [
        ("It is {{due}}.", "It is 2027-01-15T09:00:00+01:00."),
        ("{{ job }}, {{job}}, {{\tjob\n}}", "brief, brief, brief"),
        ("Before: {{last_output}}{{payload}}", "Before: fine"),
        ("{{{job}}}", "{brief}"),
        # Left as they stand.
        ("{{x}} {{secret:name}} {job} {{Job}} {{jobs}} {{job", None),
        ("{{ }} {{}} }} {{ job.name }}", None),
        ("/reset", None),
        (" a\r\n", None),
    ],
)
def test_only_its_variables_are_filled_in(prompt: str, rendered: str | None) -> None:
    assert prompts.render(prompt, VALUES) == (prompt if rendered is None else rendered)


def test_a_value_is_never_expanded_again() -> None:
    values = {"last_output": "{{payload}} \\1 \\g<1>", "payload": "{{last_output}}"}
    assert prompts.render("{{last_output}}|{{payload}}", values) == (
        "{{payload}} \\1 \\g<1>|{{last_output}}"
    )
    assert prompts.render("{{{{job}}}}", {"job": "due"}) == "{{due}}"


def test_a_variable_without_a_value_is_empty() -> None:
    assert prompts.render("[{{payload}}]", {}) == "[]"


def test_whether_a_prompt_names_a_variable() -> None:
    assert prompts.names("Was: {{ last_output }}", "last_output")
    assert not prompts.names("Was: {last_output} {{due}}", "last_output")
