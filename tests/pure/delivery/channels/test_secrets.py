"""Redaction of a channel's secrets in error messages."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from daybook.delivery.channels.prefect_blocks import secret_texts
from daybook.redaction import redact

SECRET = "a1B2c3D4e5"


@pytest.mark.parametrize(
    "url",
    [
        f"https://hooks.example.org/services/{SECRET}",
        f"https://example.org/x?sig={SECRET}",
        f"mailto://me:{SECRET}@mail.example.org",
        f"tgram://{SECRET}/chat",
        f"tgram://123:{SECRET}/chat",
        f"ntfy://{SECRET}@ntfy.example.org/topic",
        f"pover://{SECRET}@ab12",
        f"http://[/{SECRET}",
        SECRET,
    ],
)
def test_each_part_of_a_url_that_may_be_secret_is_redacted(url: str) -> None:
    hidden = secret_texts({"url": url}, ["url"])
    text = redact(f"could not reach {url} by {SECRET}", hidden)
    assert SECRET not in text


@pytest.mark.parametrize(
    ("url", "meant"),
    [
        ("mailto://me:p%40ss@mail.example.org", "p@ss"),
        ("mailto://me:p@ss@mail.example.org", "p@ss"),
        ("https://hooks.example.org/x?sig=p%40ss%2Flong", "p@ss/long"),
        ("https://hooks.example.org/p%40ss%2Flong/say", "p@ss/long"),
        ("ntfy://p%40ss%2Flong@ntfy.example.org/topic", "p@ss/long"),
    ],
)
def test_a_secret_is_redacted_in_plain_and_percent_encoded_form(url: str, meant: str) -> None:
    hidden = secret_texts({"url": url}, ["url"])
    for written in (meant, quote(meant, safe="")):
        assert redact(f"refused: {written}!", hidden) == "refused: …!"


def test_a_short_user_name_is_not_redacted() -> None:
    hidden = secret_texts({"url": f"mailto://user:{SECRET}@mail.example.org"}, ["url"])
    assert redact("no such user", hidden) == "no such user"


def test_the_host_is_not_redacted() -> None:
    hidden = secret_texts({"url": f"https://hooks.example.org/{SECRET}"}, ["url"])
    assert redact("hooks.example.org hung up", hidden) == "hooks.example.org hung up"


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        ({"token": SECRET}, ["token"]),
        ({"secrets": {"key": SECRET}}, ["secrets.*"]),
        ({"secrets": {"deep": [{"key": SECRET}]}}, ["secrets.*"]),
    ],
)
def test_secret_fields_are_redacted_at_any_depth(data: dict[str, Any], fields: list[str]) -> None:
    assert redact(f"with {SECRET}", secret_texts(data, fields)) == "with …"


def test_public_fields_and_empty_secret_fields_give_no_secret_texts() -> None:
    assert secret_texts({"host": "chat.example.org", "token": None}, ["token"]) == {}
