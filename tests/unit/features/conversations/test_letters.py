"""Received mails as updates: who has written them, and which letter they answer."""

from __future__ import annotations

import pytest

from daybook.execution.mail_text import MailText
from daybook.features.conversations.letters import Letters
from daybook.features.conversations.platform import Post, Update
from daybook.features.conversations.settings import MailboxSettings
from tests.imap_server import PASSWORD, USER

pytestmark = pytest.mark.usefixtures("daybook_home")

ANNA = "anna@example.com"


def letters(channel: str = "mail", **given: object) -> Letters:
    hosts = {"imap_host": "i.example.org", "smtp_host": "s.example.org"}
    settings = {"address": USER, "password": PASSWORD, **hosts, **given}
    return Letters(channel, MailboxSettings.model_validate(settings))


def received(
    text: str = "hello", *, by: Letters | None = None, attached: str = "", **headers: str
) -> Update:
    fields = [("From", ANNA), ("Message-ID", "<1@client>")]
    fields += [(name.replace("_", "-"), value) for name, value in headers.items()]
    mail = MailText({}, text, [attached] if attached else [], fields)
    found = (by or letters()).update(mail, "7:1", 1)
    assert found is not None
    return found


def sent(to: str = ANNA, by: Letters | None = None) -> str:
    return (by or letters()).message_id(Post(to, key="0123abc.0"))


def test_a_reply_to_a_letter_is_from_the_person_who_got_it() -> None:
    own = sent()
    assert received(In_Reply_To=f"<{own}>").is_verified
    found = received(In_Reply_To="<other@client>", References=f"<{own}> <other@client>")
    assert (found.is_verified, found.reply_to) == (True, own)
    for wrong in (
        sent("eve@eve.example"),
        sent(by=letters("other")),
        own.replace(".0.", ".0.0"),
        "0123abc.0.@example.org",
        "other@client",
    ):
        found = received(In_Reply_To=f"<{wrong}>")
        assert not found.is_verified
        assert found.reply_to == wrong
    assert not received().is_verified


def test_an_address_with_the_code_counts_only_if_such_addresses_arrive() -> None:
    plus = letters(plus_addressing=True)
    to = str(plus.mail(Post(ANNA, "x"))["Reply-To"])
    assert letters().mail(Post(ANNA, "x"))["Reply-To"] is None
    assert received(by=plus, To=f"Bot <{to}>").is_verified
    assert not received(To=to).is_verified
    assert not received(by=plus, To=to.replace("@", "0@")).is_verified
    assert not received(
        by=plus, To=str(plus.mail(Post("eve@x.example", "x"))["Reply-To"])
    ).is_verified
    mail = MailText({}, "x", [], [("From", to)])
    assert plus.update(mail, "7:1", 1) is None  # it is a letter of its own


def test_a_letter_has_one_id_for_each_person_and_message() -> None:
    first = received()
    assert received().id == first.id
    assert received(In_Reply_To=f"<{sent()}>").id != first.id  # a forged copy hides no real letter
    without = MailText({}, "x", [], [("From", ANNA)])
    ids = {letters().update(without, place, 1).id for place in ("7:1", "7:2")}  # type: ignore[union-attr]
    assert len(ids) == 2


@pytest.mark.parametrize(
    ("subject", "text", "expected", "is_forwarded"),
    [
        ("Fwd: approve", "look\n> approve", "look\n> approve", True),
        ("WG: x", "look", "look", True),
        ("Re: Fwd: x", "yes\n> look", "yes", False),
        ("AW: Re[2]: x", "yes\n\n> look", "yes", False),
        ("What is due?", "", "What is due?", False),
        ("x", "a\n> b\n-- \nAnna", "a\n> b", False),
    ],
)
def test_the_subject_says_what_a_letter_is(
    subject: str, text: str, expected: str, is_forwarded: bool
) -> None:
    found = received(text, Subject=subject)
    assert (found.text, found.is_forwarded) == (expected, is_forwarded)
    assert not found.subject.lower().startswith(("re", "aw"))


def test_a_letter_that_contains_another_one_is_forwarded() -> None:
    mail = MailText({}, "approve", [], [("From", ANNA)], has_mail=True)
    found = letters().update(mail, "7:1", 1)
    assert found is not None
    assert found.is_forwarded


def test_attachments_are_unreadable_only_without_a_text() -> None:
    assert received("", attached="scan.pdf (application/pdf)").unreadable == "an attachment"
    assert received("see it", attached="scan.pdf (application/pdf)").unreadable == ""


def test_a_quote_is_kept_for_an_agent_and_a_subject_too() -> None:
    assert received("why?\n> rain", Subject="Re: x", In_Reply_To="<o@x>").quoted == "> rain"
    assert received("Rome?", Subject="Trip").quoted == "Subject: Trip"
