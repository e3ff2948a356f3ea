"""The posts of a message: texts, then files; the reply first, the buttons last."""

from __future__ import annotations

from typing import Any

from daybook.delivery.attachments import Attachment
from daybook.delivery.channels.base import Message
from daybook.features.conversations.channel import WHOLE_TEXT, posts_of


def message(body: str, **given: Any) -> Message:
    base: dict[str, Any] = {
        "id": "m",
        "event": "completed",
        "subject": "brief: succeeded",
        "body": body,
        "chat_id": "1",
        "at": None,
        "is_markdown": True,
    }
    return Message(**(base | given))


def test_a_long_text_is_a_file_after_its_beginning() -> None:
    body = "\n\n".join(f"paragraph {n} " + "x" * 60 for n in range(9))
    report = Attachment("report.csv", "text/csv", b"1")
    text, whole, attached = posts_of(
        message(body, attachments=(report,), note="a link"), "1", 140, [("log", "Show log")], "55"
    )
    assert text.text.startswith("**brief**")
    assert (text.reply_to, text.note, list(text.buttons)) == ("55", "a link", [("log", "Show log")])
    assert [each.name for each in whole.files] == [WHOLE_TEXT]
    assert whole.files[0].content == body.encode()
    assert [each.name for each in attached.files] == ["report.csv"]


def test_only_the_first_part_replies_and_only_the_last_text_has_buttons() -> None:
    body = "\n\n".join(f"paragraph {n} " + "x" * 60 for n in range(3))
    posts = posts_of(message(body), "1", 140, [("log", "Show log")], "55")
    assert [each.reply_to for each in posts] == ["55", "", ""]
    assert [len(each.buttons) for each in posts] == [0, 0, 1]


def test_a_plain_text_shows_its_own_marks() -> None:
    [post] = posts_of(message("a *b* `c`\nd", is_markdown=False, event="failed"), "1", 4_000)
    assert post.text.endswith("a \\*b\\* \\`c\\`\\\nd")
