"""Whether a letter is from the person in its header `From`."""

from __future__ import annotations

import time

import pytest

from daybook.execution.mail_text import MailText
from daybook.features.conversations import senders

SERVER, ANNA = "mx.example.org", "anna@example.com"
GOOD = f"{SERVER}; dmarc=pass (p=REJECT) header.from=example.com"


def mail(*results: str, sender: str = ANNA) -> MailText:
    """Return a mail with these headers Authentication-Results, the last added one first."""
    fields = [("Received", "by mx"), *(("Authentication-results", each) for each in results)]
    return MailText({}, "", [], [*fields, ("From", sender)])


@pytest.mark.parametrize(
    "results",
    [
        GOOD,
        f"{SERVER} 1; dmarc=pass header.from=example.com",
        "MX.example.org; spf=fail smtp.mailfrom=x; dmarc = pass header.from = Example.com",
        f"{SERVER}; dkim=fail header.d=other.example; dkim=pass header.d=example.com",
        f"{SERVER}; dkim=pass (2048-bit; ok) header.i=@example.com header.s=x",
        f"{SERVER}; dmarc=none header.from=example.com; dkim=pass header.d=example.com",
    ],
)
def test_the_receiving_server_verifies_the_domain(results: str) -> None:
    assert senders.is_authentic(mail(results), ANNA, SERVER)
    assert not senders.is_authentic(mail(results), "eve@other.example", SERVER)
    assert not senders.is_authentic(mail(results), ANNA, "")
    assert not senders.is_authentic(mail(results), ANNA, "mx.other.example")


@pytest.mark.parametrize(
    "results",
    [
        ("mx.eve.example; dmarc=pass header.from=example.com",),
        (f"{SERVER}; none", GOOD),
        (f"{SERVER}; spf=pass smtp.mailfrom=example.com", GOOD),
        ("mx.eve.example; dmarc=fail", GOOD),
        (f"{SERVER}; dmarc=fail header.from=example.com; dkim=pass header.d=example.com",),
        (f"{SERVER}; dmarc=pass header.from=eve.example",),
        (f"{SERVER}; dkim=pass header.d=eve.example",),
        (f"{SERVER}; dkim=pass header.d=notexample.com",),
        (f"{SERVER}; dkim=pass header.d=com",),
        (f"{SERVER}; dkim=pass",),
        (f'{SERVER}; spf=pass smtp.mailfrom="x; dmarc=pass header.from=example.com"@eve.example',),
        (f"{SERVER}; spf=pass (x; dmarc=pass header.from=example.com)",),
        (f'{SERVER}; spf=pass (")" ; dmarc=pass header.from=example.com)',),
        (f"{SERVER}; spf=pass (; dmarc=pass",),
        (f'{SERVER}; spf=pass "x; dmarc=pass',),
        (f"{SERVER}; spf=pass ); dmarc=pass",),
        (f"{SERVER} 2; dmarc=pass header.from=example.com",),
        (f"x {GOOD}",),
        ("",),
        (),
    ],
)
def test_any_other_result_verifies_no_person(results: tuple[str, ...]) -> None:
    assert not senders.is_authentic(mail(*results), ANNA, SERVER)


@pytest.mark.parametrize(
    ("value", "address", "name"),
    [
        ("anna@Example.com", ANNA, ANNA),
        ("<anna@example.com>", ANNA, ANNA),
        ("Anna (Work) <anna@example.com>", ANNA, "Anna (Work)"),
        ('"Boss, <boss@example.com>" <anna@example.com>', ANNA, "Boss, <boss@example.com>"),
        ("=?utf-8?q?Anna_=C3=98?= <anna@example.com>", ANNA, "Anna Ø"),
    ],
)
def test_a_sender_is_one_address(value: str, address: str, name: str) -> None:
    found = senders.sender_of(mail(sender=value))
    assert found is not None
    assert (found.address, found.name) == (address, name)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Anna",
        "a@example.com, b@example.com",
        "a@example.com <anna@example.com>",
        "anna@example.com <eve@eve.example> x",
        "<eve@eve.example> <anna@example.com>",
        "group: anna@example.com;",
        "=?utf-8?q?anna=40example.com?=",
        "anna@exa\u200bmple.com",
        '"' + "\\" * 3_999,
        "<" * 4_000,
        " " * 4_000 + "x",
    ],
)
def test_an_ambiguous_sender_is_none(value: str) -> None:
    started = time.process_time()
    assert senders.sender_of(mail(sender=value)) is None
    assert time.process_time() - started < 1


def test_two_senders_are_none() -> None:
    both = MailText({}, "", [], [("From", ANNA), ("from", "eve@eve.example")])
    assert senders.sender_of(both) is None


def test_ids_of_a_header_are_read() -> None:
    assert senders.message_ids("<a@b> junk <c@d><e f> <> <ü@x>") == ["a@b", "c@d"]
    assert senders.code_in_id("1f.0.abc@example.org") == "abc"
    assert senders.code_in_id("@") == ""
