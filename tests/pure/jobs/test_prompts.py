"""Variables of a prompt (requirement 27)."""

from __future__ import annotations

import pytest

from daybook.errors import InvalidInput
from daybook.jobs import prompts

VALUES = {"due": "2027-01-15T09:00:00+01:00", "job": "brief", "last_output": "fine"}


@pytest.mark.floor("C", "A prompt may use variables")
@pytest.mark.floor("E", "A prompt may use variables")
@pytest.mark.parametrize(
    ("prompt", "rendered"),
    [
        ("It is {{due}}.", "It is 2027-01-15T09:00:00+01:00."),
        ("{{ job }}, {{job}}, {{\tjob\n}}", "brief, brief, brief"),
        ("Before: {{last_output}}", "Before: fine"),
        ("{{{job}}}", "{brief}"),
        # Left unchanged.
        ("{{x}} {{secret:name}} {job} {{Job}} {{jobs}} {{job", None),
        ("{{ }} {{}} }} {{ job.name }}", None),
        ("/reset", None),
        (" a\r\n", None),
    ],
)
def test_only_known_variables_are_filled_in(prompt: str, rendered: str | None) -> None:
    assert prompts.render(prompt, VALUES) == (prompt if rendered is None else rendered)


LEGAL = "known: {{due}}, {{job}}, {{last_output}}, {{work_dir}}, {{check}}, {{change}}, {{payload}}"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("Dear {{nobody}}", f"unknown variable {{{{nobody}}}} ({LEGAL})"),
        (
            "{{job}} {{ Job }}",
            f"unknown variable {{{{ Job }}}} (did you mean {{{{job}}}}? {LEGAL})",
        ),
        (
            "{{last-output}}",
            f"unknown variable {{{{last-output}}}} (did you mean {{{{last_output}}}}? {LEGAL})",
        ),
        ("{{job.name}}", "unknown variable {{job.name}} ("),
        ("{{secret:key}}", "unknown variable {{secret:key}} ("),
        ("{{{x}}}", "unknown variable {{x}} ("),
        ("{{output: }}", "{{output: }} names no job (write {{output:<job>}})"),
    ],
)
def test_an_unknown_variable_is_refused_with_the_known_ones(prompt: str, expected: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        prompts.check(prompt)
    assert str(caught.value).startswith(f"prompt: {expected}")


@pytest.mark.parametrize(
    "prompt",
    [
        "{{due}} {{ job }} {{last_output}} {{{job}}}",
        "{nobody} {{}} {{ }} {{nobody} {nobody}} { {nobody} }",
        'Make it {"a": {"b": {}}}, or {{ two words }}.',
        "/reset",
    ],
)
def test_a_prompt_with_known_variables_or_other_braces_is_accepted(prompt: str) -> None:
    prompts.check(prompt)


def test_a_value_is_never_expanded_again() -> None:
    values = {"last_output": "{{job}} \\1 \\g<1>", "job": "{{last_output}}"}
    assert prompts.render("{{last_output}}|{{job}}", values) == "{{job}} \\1 \\g<1>|{{last_output}}"
    assert prompts.render("{{{{job}}}}", {"job": "due"}) == "{{due}}"


def test_a_variable_without_a_value_is_empty() -> None:
    assert prompts.render("[{{job}}]", {}) == "[]"


def test_uses_variable_finds_a_variable_in_a_prompt() -> None:
    assert prompts.uses_variable("Was: {{ last_output }}", "last_output")
    assert not prompts.uses_variable("Was: {last_output} {{due}}", "last_output")
