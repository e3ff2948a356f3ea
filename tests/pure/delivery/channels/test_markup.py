"""Markdown of answers in the own form of mail, Telegram and Slack."""

from __future__ import annotations

import email
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

import pytest
from apprise.plugins.email.base import NotifyEmail

from daybook.delivery.channels import markup
from daybook.delivery.channels.apprise_plugins import (
    MessageFormat,
    mail_subject,
    plain_part,
)
from daybook.delivery.channels.base import Message

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)
MAIL = MessageFormat("html", "mailto", limit=30_000, title=200)

TEXT = """\
# Two **mails**

- [Ann](https://example.org/a?b=1&c=2) asks <script>alert(1)</script>
- ![x](https://evil.example/pixel)

| a | b |
|---|---|
| 1 | 2 |

```
if x:
    y()
```
"""


def message(body: str = TEXT, **given: Any) -> Message:
    fields: dict[str, Any] = {"id": "m", "event": "completed", "subject": "brief: succeeded"}
    fields |= {"chat_id": "", "body": body, "at": NOON, "is_markdown": True}
    return Message(**fields | given)


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "br":
            assert self.open.pop() == tag


def test_a_mail_has_the_html_of_the_pages_and_the_text_unchanged() -> None:
    note = "Warnings:\n- web: refused\n\nhttps://daybook.example.org/runs/r1"
    sent = MAIL.render(message(note=note))
    assert sent.subject == "brief: Two mails"
    for part in (
        "<strong>mails</strong>",
        'href="https://example.org/a?b=1&amp;c=2"',
        "<td>1</td>",
        "&lt;script&gt;",
        "- web: refused",
        '<a href="https://daybook.example.org/runs/r1">https://daybook.example.org/runs/r1</a>',
    ):
        assert part in sent.body
    assert "<script" not in sent.body and "<img" not in sent.body
    assert sent.plain == f"{TEXT.strip()}\n\n{note}"
    with plain_part(sent):
        (mail,) = NotifyEmail.prepare_emails(
            subject=sent.subject,
            body=sent.body,
            notify_format=MAIL.format,
            from_addr=["", "here@example.org"],
            to=[("", "there@example.org")],
        )
    _, *parts = email.message_from_string(mail.body).walk()
    plain, page = (bytes(each.get_payload(decode=True)).decode() for each in parts)
    assert (plain, page) == (sent.plain, sent.body)


@pytest.mark.parametrize(
    ("given", "subject"),
    [
        ({}, "brief: Two mails"),
        ({"subject": "brief: succeeded (was unknown)"}, "brief: Two mails (was unknown)"),
        ({"body": "\n---\n"}, "brief: 2026-01-15"),
        ({"is_markdown": False, "body": '{"n": 1}'}, "brief: 2026-01-15"),
        ({"event": "failed", "subject": "brief: failed"}, "brief: failed"),
        ({"event": "failed", "subject": "x: succeeded"}, "x: succeeded"),
    ],
)
def test_the_subject_of_a_mail_has_the_headline_or_the_date(
    given: dict[str, Any], subject: str
) -> None:
    assert mail_subject(message(**given)) == subject


def test_a_failure_and_json_are_text_in_a_mail() -> None:
    for body in ("it *broke*\n  <b>here", '{"a": 1}'):
        sent = MAIL.render(message(body, event="failed", is_markdown=False))
        assert sent.plain == body
        assert "<em>" not in sent.body and "<b>" not in sent.body
    assert not markup.is_markdown(' {"a": 1}') and not markup.is_markdown("[1]")
    assert markup.is_markdown("[Ann](https://example.org) asks") and markup.is_markdown("{x")


def test_telegram_gets_only_its_own_tags_each_closed() -> None:
    known = {"b", "i", "code", "pre", "a", "blockquote", "br"}
    texts = (
        TEXT,
        "> a\n> > b\n> > > c\n",
        "1. a\n   - b\n     1. c\n2. d\n\n***\n\n**x *y* `z`**",
        "###### [`a` **b**](https://example.org)\n\n***",
        "<pre><table><img onerror=x>",
        "",
    )
    for text in texts:
        found = Tags(markup.telegram(text))
        assert found.tags <= known and found.open == []
    shown = markup.telegram(TEXT)
    assert "<b>Two <b>mails</b></b>" in shown
    assert "• <a href=" in shown and "1 · 2" in shown
    assert "if&nbsp;x:<br/>&nbsp;&nbsp;&nbsp;&nbsp;y()" in shown
    assert markup.telegram("> a\n>\n> > b").count("<blockquote>") == 1


def test_a_message_of_another_service_is_unchanged() -> None:
    for form in ("text", "markdown"):
        sent = MessageFormat(form, limit=30_000, title=200).render(message("**a**\n\n- b"))
        assert (sent.format, sent.body, sent.subject) == (form, "**a**\n\n- b", "brief: succeeded")
    slack = MessageFormat("markdown", "slack", limit=30_000, title=200).render(message("**a**"))
    assert (slack.format, slack.body) == ("html", "<p><strong>a</strong></p>\n")


SLACK_TEXT = """\
# Two **mails**

- [Ann](https://example.org/a?b=1&c=2) asks <!channel> & <@U1>
- *soon*, `a  *b*`

> quoted **here**
> and
>
> > deeper

| a | b |
|---|---|
| 1 | 2 |

```py
if x:
    y()  # <&>
```

[x](javascript:alert) @here
"""


def test_slack_gets_its_own_marks_and_no_mention() -> None:
    assert (
        markup.slack_mrkdwn(SLACK_TEXT)
        == """\
*Two mails*

• <https://example.org/a?b=1&amp;c=2|Ann> asks &lt;!channel&gt; &amp; &lt;@U1&gt;
• _soon_, `a  *b*`

> quoted *here*
> and
>
> > deeper

*a* · *b*
1 · 2

```
if x:
    y()  # &lt;&amp;&gt;
```

[x](javascript:alert) @here"""
    )


def test_a_line_break_beside_other_marks_stays() -> None:
    text = "one **two**\nthree\n**four**\n*five*  \nsix\n\n- a\n  - b\n- c"
    assert (
        markup.telegram_html(text)
        == """\
one <b>two</b>
three
<b>four</b>
<i>five</i>
six

• a
   • b
• c"""
    )
