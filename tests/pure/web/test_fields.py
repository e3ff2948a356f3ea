"""Fields of forms: the text of a value, and the value of a text."""

from __future__ import annotations

import pytest

from daybook.web.pages.fields import Field
from daybook.web.pages.forms import Form

COMMAND = Field("command", "Command", "", "list")


@pytest.mark.parametrize(
    ("items", "shown"),
    [
        (["echo", "two words"], "echo\ntwo words"),
        (["echo", "", "end"], 'echo\n""\nend'),
        (["sh", "-c", "first\nsecond"], 'sh\n-c\n"first\\nsecond"'),
        (["say", '"quoted"', '"open'], 'say\n"\\"quoted\\""\n"\\"open"'),
    ],
)
def test_each_item_of_a_list_survives_a_form(items: list[str], shown: str) -> None:
    text = COMMAND.show(items)
    assert text == shown
    assert COMMAND.value(COMMAND.read(Form({"command": [text]}))) == items


def test_a_line_that_is_no_json_string_is_taken_as_it_is() -> None:
    assert COMMAND.value('"open\n"a" and "b"') == ['"open', '"a" and "b"']
    assert COMMAND.value('"\\ud83d"') == ['"\\ud83d"']  # no text contains half of this pair
