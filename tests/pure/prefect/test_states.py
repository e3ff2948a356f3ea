"""The message that Prefect shows with an outcome."""

from __future__ import annotations

import pytest

from daybook.ledger.states import Status
from daybook.prefect.states import MAX_MESSAGE_LENGTH, outcome_message


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("Three pull requests are open.", "Three pull requests are open."),
        ("\n# Morning brief\n\nIt rains.\n", "Morning brief"),
        ('{\n  "open": 3\n}', '{ "open": 3 }'),
        ("---\n天気\n", "--- 天気"),
        ("x" * MAX_MESSAGE_LENGTH, "x" * MAX_MESSAGE_LENGTH),
        ("x" * (MAX_MESSAGE_LENGTH + 1), "x" * MAX_MESSAGE_LENGTH + "…"),
        ("", "run 0123abcd succeeded"),
        (" \n", "run 0123abcd succeeded"),
        (None, "run 0123abcd succeeded"),
    ],
)
def test_the_message_of_a_success_is_the_first_line_of_the_answer(
    output: str | None, message: str
) -> None:
    assert outcome_message(Status.SUCCEEDED, "0123abcdef", None, "", output) == message


def test_the_message_of_another_outcome_is_its_error_or_its_reason() -> None:
    assert outcome_message(Status.FAILED, "r", "exit code 1", "why", "text") == "exit code 1"
    assert outcome_message(Status.SKIPPED, "r", None, "paused", None) == "paused"
    assert outcome_message(Status.UNKNOWN, "r", "error", "lost its lease") == "lost its lease"
